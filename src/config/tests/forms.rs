//! The ways to write a config, and what is true then.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::{EXAMPLE, MINIMAL, minimal, read, yaml};
use crate::config::{AccessLog, Config, Destination, KeySource, ListenAddress, Listener, load, parse, schema};
use crate::policy::bucket::Hash;
use crate::policy::decision::{OnMissing, Side};

#[test]
fn the_smallest_config_is_enough() {
    let config = yaml(MINIMAL).unwrap();
    let rollout = &config.rollouts["default"];
    let address = ListenAddress::Tcp("127.0.0.1:8080".parse().unwrap());
    assert_eq!(config.listeners, [Listener { address, proxy_protocol: false, tls: None }]);
    assert_eq!(config.admin.address, ListenAddress::Tcp("127.0.0.1:9901".parse().unwrap()));
    assert_eq!((rollout.old.as_str(), rollout.new.as_str()), ("default-old", "default-new"));
    assert_eq!(config.backends["default-new"].endpoints[0].to_string(), "http://127.0.0.1:9002");
    assert_eq!(rollout.configured().hundredths(), 500);
    assert_eq!(rollout.key, [KeySource::Header("x-user-id".into())]);
    assert_eq!((rollout.hash, rollout.on_missing, rollout.salt.as_str()), (Hash::Modulo, OnMissing::Old, "default"));
    assert_eq!(config.routes[0].to, Destination::Rollout("default".into()));
    assert_eq!(config.shutdown.drain_timeout, Duration::from_secs(30));
    assert_eq!(config.limits.max_header_size, 32 << 10);
    assert_eq!(config.hash.len(), 16);
}

#[test]
fn the_example_says_what_it_shows() {
    let config = yaml(EXAMPLE).unwrap();
    let ledger = &config.rollouts["ledger"];
    assert_eq!(config.listeners.len(), 2);
    assert_eq!(config.state_dir, Some(PathBuf::from("/var/lib/tidegate")));
    assert_eq!(config.access_log, Some(AccessLog::Stdout));
    assert_eq!(config.backends["ledger-v3"].endpoints[0].to_string(), "http://ledger-v3.internal:8080");
    assert_eq!(config.backends["ledger-v2"].timeouts, config.backends["ledger-v3"].timeouts, "the defaults are shown");
    assert_eq!(ledger.key.len(), 3);
    assert_eq!(ledger.rules[0].side, Side::New);
    assert!(["1007", "acme", "0042"].iter().all(|key| ledger.rules[0].keys.contains(key.as_bytes())));
    assert_eq!(
        config.routes[0].wanted.headers,
        [("x-request-id".into(), None), ("x-tenant".into(), Some("acme".into()))]
    );
    assert_eq!(config.routes[1].to, Destination::Backend("ledger-v2".into()));
}

#[test]
fn the_example_shows_every_key() {
    let mut keys = BTreeSet::new();
    collect_keys(&schema(), &mut keys);
    assert!(keys.len() > 40, "{keys:?}");
    let shown = |key: &&String| EXAMPLE.lines().any(|line| line.contains(&format!("{key}:")));
    let hidden: Vec<_> = keys.iter().filter(|key| !shown(key)).collect();
    assert!(hidden.is_empty(), "not in the example: {hidden:?}");
}

#[test]
fn the_reference_page_names_every_key() {
    let page = include_str!("../../../docs/configuration.md");
    let mut keys = BTreeSet::new();
    collect_keys(&schema(), &mut keys);
    let missing: Vec<_> = keys.iter().filter(|key| !page.contains(key.as_str())).collect();
    assert!(missing.is_empty(), "not in the page: {missing:?}");
}

fn collect_keys(schema: &serde_json::Value, keys: &mut BTreeSet<String>) {
    if let Some(properties) = schema.get("properties").and_then(|properties| properties.as_object()) {
        keys.extend(properties.keys().cloned());
    }
    let children = schema.as_object().into_iter().flat_map(|map| map.values());
    children.chain(schema.as_array().into_iter().flatten()).for_each(|child| collect_keys(child, keys));
}

#[test]
fn the_schema_shows_defaults_and_descriptions() {
    let schema = schema();
    let timeouts = &schema["$defs"]["ClientTimeouts"]["properties"];
    assert_eq!(timeouts["header"]["default"], "10s");
    assert_eq!(schema["$defs"]["Rollout"]["properties"]["on_missing"]["default"], "old");
    assert_eq!(schema["additionalProperties"], false);
    let required = &schema["$defs"]["Rollout"]["anyOf"];
    assert_eq!(required[0]["required"], serde_json::json!(["old", "new", "key"]));
    assert_eq!(required[1]["required"], serde_json::json!(["strategy", "blue", "green", "active"]));
    assert_eq!(schema["$defs"]["Step"]["properties"]["hold"]["default"], "manual");
    assert_eq!(schema["$defs"]["Hold"]["properties"]["max_bytes"]["default"], "64MiB");
}

/// What a config says, without what the text looked like.
fn told(config: &Config) -> String {
    format!("{:#?}", Config { hash: String::new(), written: Arc::default(), ..config.clone() })
}

const TOML: &str = r#"
listeners = [{ address = "127.0.0.1:8080" }]

[shutdown]
drain_timeout = "1m"

[backends.v2]
endpoints = ["http://[::1]:9001"]

[rollouts.ledger]
old = "v2"
new = "http://127.0.0.1:9002"
key = ["cookie:uid", "path:2"]
percent = 12.5

[[rollouts.ledger.rules]]
keys = [7, "acme"]
side = "old"

[[routes]]
match = { headers = { x-tenant = "a" } }
rollout = "ledger"

[[routes]]
backend = "v2"
"#;

const YAML: &str = r#"
listen: 127.0.0.1:8080
shutdown: {drain_timeout: 60s}
backends: {v2: {endpoints: ["http://[::1]:9001"]}}
rollouts:
  ledger:
    old: v2
    new: http://127.0.0.1:9002
    key: [cookie:uid, path:2]
    percent: 12.5%
    rules: [{keys: [7], side: old}]
routes:
  - match: {headers: {x-tenant: a}}
    rollout: ledger
  - backend: v2
"#;

const JSON: &str = r#"{
	"listen": "127.0.0.1:8080",
	"shutdown": {"drain_timeout": "60000ms"},
	"backends": {"v2": {"endpoints": ["http:\/\/[::1]:9001"]}},
	"rollouts": {"ledger": {
		"old": "v2", "new": "http://127.0.0.1:9002", "key": ["cookie:uid", "path:2"], "percent": "12.50",
		"rules": [{"keys": [7], "side": "old"}]
	}},
	"routes": [{"match": {"headers": {"x-tenant": "\u0061"}}, "rollout": "ledger"}, {"backend": "v2"}]
}"#;

#[test]
fn yaml_toml_and_json_mean_the_same() {
    // One key only: the order of a set of several is not told the same way twice.
    let toml = TOML.replace("[7, \"acme\"]", "[7]");
    let expected = told(&yaml(YAML).unwrap());
    assert_eq!(told(&read("a.toml", &toml).unwrap()), expected);
    assert_eq!(told(&read("a.json", JSON).unwrap()), expected);
}

#[test]
fn a_byte_order_mark_and_a_yml_or_capital_extension_are_fine() {
    assert!(read("a.YML", &format!("\u{feff}{MINIMAL}")).is_ok());
}

#[test]
fn the_hash_tells_texts_apart() {
    let hash = |text: &str| yaml(text).unwrap().hash;
    assert_eq!(hash(MINIMAL), hash(MINIMAL));
    assert_ne!(hash(MINIMAL), hash(&minimal("percent: 5", "percent: 6")));
}

#[test]
fn variables_fill_values_and_nothing_else() {
    let environment = |name: &str| match name {
        "PERCENT" => Some("25".to_owned()),
        "FLAG" => Some("true".to_owned()),
        "HOST" => Some("10.0.0.7".to_owned()),
        "SALT" => Some("007".to_owned()),
        "EVIL" => Some("a\nrollback: true".to_owned()),
        "EMPTY" => Some(String::new()),
        _ => None,
    };
    let text = minimal("percent: 5", "percent: ${PERCENT}\n  rollback: ${FLAG}\n  salt: ${SALT}")
        .replace("http://127.0.0.1:9001", "http://${HOST}:${PORT:-99}")
        .replace("header:x-user-id", "query:$${a}$x");
    let config = parse(text.as_bytes(), Path::new("a.yaml"), &environment).unwrap();
    let rollout = &config.rollouts["default"];
    assert_eq!((rollout.configured().hundredths(), rollout.rollback, rollout.salt.as_str()), (2500, Some(true), "007"));
    assert_eq!(rollout.key, [KeySource::Query("${a}$x".into())]);
    let old = &config.backends["default-old"].endpoints[0];
    assert_eq!(old.to_string(), "http://10.0.0.7:99");

    for (value, salt) in
        [("${EVIL}", "a\nrollback: true"), ("${EMPTY:-x}", "x"), ("${EMPTY}", ""), ("\"1${EMPTY}\"", "1")]
    {
        let text = minimal("percent: 5", &format!("salt: {value}"));
        let config = parse(text.as_bytes(), Path::new("a.yaml"), &environment).unwrap();
        assert_eq!(config.rollouts["default"].salt, salt);
        assert!(config.rollback.is_none());
    }
}

#[test]
fn files_are_found_beside_the_config() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("token", "s3cret\n");
    write("vip", "\u{feff}# the big ones\n1007\r\n\n  acme \n");
    write(
        "tidegate.yaml",
        &(minimal(
            "percent: 5",
            "force: {header: X-Canary, token_file: token}\n  rules: [{keys_file: vip, side: new}]",
        ) + "state_dir: state\naccess_log: log/access\nadmin: {address: 'unix:admin.sock'}\n"),
    );
    let config = load(&folder.path().join("tidegate.yaml"), &|_| None).unwrap();
    let rollout = &config.rollouts["default"];
    assert_eq!(rollout.force.header.as_deref(), Some("x-canary"));
    assert_eq!(rollout.force.token.as_ref().unwrap().expose(), "s3cret");
    assert_eq!(rollout.rules[0].keys, ["1007", "acme"].map(|key| Box::from(key.as_bytes())).into());
    assert_eq!(config.state_dir, Some(folder.path().join("state")));
    assert_eq!(config.access_log, Some(AccessLog::File(folder.path().join("log/access"))));
    assert_eq!(config.admin.address, ListenAddress::Unix(folder.path().join("admin.sock")));
}

#[test]
fn aliases_stand_where_they_are_used() {
    let text = "listen: &here nonsense\nadmin: {address: *here}\nrollout: {é: *here}\n";
    let faults = |text: &str| {
        let error = yaml(text).unwrap_err();
        error.faults().iter().map(|fault| (fault.line, fault.column)).collect::<Vec<_>>()
    };
    assert_eq!(faults(text), [(Some(3), Some(11))]);
    let places = faults(&text.replace("rollout: {é: *here}", "backends: {é: {endpoints: [*here]}}"));
    assert_eq!(places.len(), 5, "{places:?}");
    assert!(places.contains(&(Some(2), Some(18))) && places.contains(&(Some(3), Some(28))), "{places:?}");
}

#[test]
fn numbers_in_other_spellings_stay_what_was_written() {
    let text = minimal("percent: 5", "rules: [{keys: [0x10, 1_000, 0042, +5, 7, 12345678901234567890123], side: new}]");
    let config = yaml(&text).unwrap();
    let keys = &config.rollouts["default"].rules[0].keys;
    assert!(
        ["0x10", "1_000", "0042", "+5", "7", "12345678901234567890123"].iter().all(|key| keys.contains(key.as_bytes())),
        "{keys:?}"
    );
}
