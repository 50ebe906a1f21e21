//! What people read when a config is wrong.

use std::path::Path;

use super::{MINIMAL, complaints, minimal, read, yaml};
use crate::config::parse;

fn told(file: &str, text: &str) -> String {
    read(file, text).expect_err(text).to_string()
}

#[test]
fn a_percent_out_of_range() {
    let expected = "\
error: percent is above 100
 --> tidegate.yaml:6:12 (rollout.percent)
  |
6 |   percent: 150
  |            ^^^
  = found: 150
  = allowed: 0 to 100, at most two decimals, such as 5, 12.5 or 5%
";
    assert_eq!(told("tidegate.yaml", &minimal("percent: 5", "percent: 150")), expected);
}

#[test]
fn misspelt_keys_and_words_are_told_together() {
    let expected = "\
error: unknown key `percnt`
 --> tidegate.yaml:6:3 (rollout.percnt)
  |
6 |   percnt: 5
  |   ^^^^^^
  = found: percnt
  = allowed: old, new, percent, steps, strategy, blue, green, active, key, hash, salt, on_missing, schedule, rollback, acknowledge, rules, force, expose_side, guard, shield, fallback
  = help: did you mean `percent`?

error: this is not one of the allowed words
 --> tidegate.yaml:7:9 (rollout.hash)
  |
7 |   hash: modul
  |         ^^^^^
  = found: \"modul\"
  = allowed: modulo, xxh3
  = help: did you mean `modulo`?
";
    assert_eq!(told("tidegate.yaml", &minimal("percent: 5", "percnt: 5\n  hash: modul")), expected);
}

#[test]
fn a_key_given_twice() {
    let expected = "\
error: the key `percent` is given twice
 --> tidegate.yaml:7:3
  |
7 |   percent: 6
  |   ^^^^^^^
  = help: keep one of the two
";
    assert_eq!(told("tidegate.yaml", &minimal("percent: 5", "percent: 5\n  percent: 6")), expected);
    let json = "{\n  \"listen\": \"a\",\n  \"listen\": \"b\"\n}";
    assert!(told("a.json", json).starts_with("error: the key `listen` is given twice\n --> a.json:3:3\n"));
    let toml = "listen = \"a\"\nlisten = \"b\"\n";
    assert!(told("a.toml", toml).starts_with("error: this key is given twice\n --> a.toml:2:1\n"));
}

#[test]
fn a_backend_that_does_not_exist() {
    let text =
        minimal("old: http://127.0.0.1:9001", "old: ledgr-v2") + "backends: {ledger-v2: {endpoints: [http://a]}}\n";
    let expected = "\
error: there is no backend of this name
 --> tidegate.yaml:3:8 (rollout.old)
  |
3 |   old: ledgr-v2
  |        ^^^^^^^^
  = found: \"ledgr-v2\"
  = allowed: default-new, ledger-v2
  = help: did you mean `ledger-v2`?
";
    assert_eq!(told("tidegate.yaml", &text), expected);
}

#[test]
fn a_rollout_without_a_key() {
    let expected = "\
error: `key` is missing: nothing says what makes a request sticky
 --> tidegate.yaml:2:1 (rollout)
  |
2 | rollout:
  | ^^^^^^^
  = help: add, for example, key: header:x-user-id
";
    assert_eq!(told("tidegate.yaml", &minimal("  key: header:x-user-id\n", "")), expected);
}

#[test]
fn a_backend_of_another_kind() {
    let expected = "\
error: this URL does not begin with http://, https:// or unix:
 --> tidegate.yaml:4:8 (rollout.new)
  |
4 |   new: grpc://127.0.0.1:9002
  |        ^^^^^^^^^^^^^^^^^^^^^
  = found: \"grpc://127.0.0.1:9002\"
  = allowed: http://HOST[:PORT], https://HOST[:PORT] or unix:/PATH
";
    assert_eq!(told("tidegate.yaml", &minimal("http://127.0.0.1:9002", "grpc://127.0.0.1:9002")), expected);
}

#[test]
fn an_admin_address_that_others_can_reach() {
    let expected = "\
error: others could reach this address, and nothing says whom the admin side obeys
 --> tidegate.yaml:7:18 (admin.address)
  |
7 | admin: {address: \"0.0.0.0:9901\"}
  |                  ^^^^^^^^^^^^^^
  = found: \"0.0.0.0:9901\"
  = allowed: a loopback address such as 127.0.0.1:9901, or unix:/path/to/admin.sock; any other with `token_file`
  = help: add `token_file`, a file with lines of the form NAME: TOKEN
";
    assert_eq!(told("tidegate.yaml", &format!("{MINIMAL}admin: {{address: \"0.0.0.0:9901\"}}\n")), expected);
}

#[test]
fn a_route_that_can_never_be_reached() {
    let routes = "routes:\n  - rollout: default\n  - match: { path: /pay }\n    rollout: default\n";
    let expected = "\
error: routes[1] can never be reached: routes[0] comes first and matches all that it matches
 --> tidegate.yaml:9:5 (routes[1])
  |
9 |   - match: { path: /pay }
  |     ^^^^^
  = found: a map of keys
  = help: put the narrower route first
";
    assert_eq!(told("tidegate.yaml", &format!("{MINIMAL}{routes}")), expected);
}

#[test]
fn an_empty_file() {
    let expected = "\
error: the file is empty
 --> tidegate.yaml:1:1
  |
1 |\x20
  | ^
  = help: the smallest config is:
      listen: 127.0.0.1:8080
      rollout:
        old: http://127.0.0.1:9001
        new: http://127.0.0.1:9002
        key: header:x-user-id
        percent: 5
";
    assert_eq!(told("tidegate.yaml", "# nothing yet\n").replace("# nothing yet", ""), expected);
}

#[test]
fn broken_syntax() {
    for (file, text, headline) in [
        ("a.json", "{\"listen\": \"x\",}", "error: this is not JSON: trailing comma\n --> a.json:1:16\n"),
        ("a.json", "{\"listen\": 'x'}", "error: this is not JSON: expected value\n --> a.json:1:12\n"),
        (
            "a.toml",
            "listen = \n",
            "error: this is not TOML: string values must be quoted, expected literal string\n --> a.toml:1:10\n",
        ),
        ("a.yaml", "a: *b\n", "error: this is not YAML: alias references unknown anchor\n --> a.yaml:1:4\n"),
        ("a.yaml", "a: 1\n---\nb: 2\n", "error: a second YAML document begins here\n --> a.yaml:2:1\n"),
        ("a.yaml", "- a\n", "error: the file is not a map of keys\n --> a.yaml:1:1\n"),
    ] {
        let told = told(file, text);
        assert!(told.starts_with(headline), "{told}");
    }
}

#[test]
fn what_a_variable_holds_is_never_shown() {
    let text =
        minimal("http://127.0.0.1:9001", "\"${OLD_URL}\"").replace("percent: 5", "percent: ${HASH}\n  hash: ${HASH}");
    let error = parse(text.as_bytes(), Path::new("a.yaml"), &|_| Some("http://u:s3cret@h".to_owned())).unwrap_err();
    let told = error.to_string() + &error.to_json().to_string() + &format!("{error:?}");
    assert!(!told.contains("s3cret"), "{told}");
    let unset = complaints(&text);
    assert!(unset.contains(&"rollout.old: the environment variable `OLD_URL` is not set".to_owned()), "{unset:?}");
}

#[test]
fn nothing_in_a_file_controls_the_terminal() {
    let told = told("a.json", "{\"listen\": \"\\u001b[2J\", \"\\u001b]0;x\\u0007\": 1, \"a\u{202e}b\": 2}");
    assert!(!told.contains(|c: char| c.is_control() && c != '\n' || c == '\u{202e}'), "{told:?}");
}

#[test]
fn long_lines_are_cut_around_the_place() {
    let text = format!("{{\"trusted_proxies\": [{}\"x\"]}}", "\"10.0.0.0/8\", ".repeat(1000));
    let error = read("a.json", &format!("{{\"listen\": \"127.0.0.1:1\", {}", &text[1..])).unwrap_err().to_string();
    assert!(error.lines().all(|line| line.len() < 130), "{error}");
    assert!(error.contains("\"10.0.0.0/8\", \"x\"]}\n"), "{error}");
}

#[test]
fn json_for_editors() {
    let error = yaml(&minimal("percent: 5", "percnt: 5")).unwrap_err();
    let expected = serde_json::json!([{
        "file": "tidegate.yaml",
        "line": 6,
        "column": 3,
        "path": "rollout.percnt",
        "message": "unknown key `percnt`",
        "found": "percnt",
        "allowed": "old, new, percent, steps, strategy, blue, green, active, key, hash, salt, on_missing, schedule, \
                    rollback, acknowledge, rules, force, expose_side, guard, shield, fallback",
        "help": "did you mean `percent`?",
    }]);
    assert_eq!(error.to_json(), expected);
}

/// One line of a rollout in place of its percent, and what is said about it.
#[test]
fn every_mistake_in_a_rollout_has_its_sentence() {
    for (line, complaint) in [
        ("percent: -1", "rollout.percent: percent is below 0"),
        ("percent: 5.125", "rollout.percent: percent has more than two decimals"),
        ("percent: .nan", "rollout.percent: percent is not a number"),
        ("percent: 1e308", "rollout.percent: percent is above 100"),
        ("percent: five", "rollout.percent: percent is not a number"),
        ("percent:", "rollout.percent: this key has no value"),
        ("salt:", "rollout.salt: this key has no value"),
        ("rollback: on", "rollout.rollback: this is the wrong kind of value"),
        ("salt: 5", "rollout.salt: this is not a text"),
        ("gaurd: {}", "rollout.gaurd: unknown key `gaurd`"),
        ("pins: {}", "rollout.pins: unknown key `pins`"),
        ("shield:", "rollout.shield: this key has no value"),
        ("shield: {budgt: 5}", "rollout.shield.budgt: unknown key `budgt`"),
        ("shield: {budget: 0%}", "rollout.shield.budget: with this budget the shield would soon be spent for good"),
        ("shield: {max_body: 17MiB}", "rollout.shield.max_body: this is above 16MiB"),
        ("on_missing: newer", "rollout.on_missing: this is not one of the allowed words"),
        ("rules: [{side: old}]", "rollout.rules[0]: this rule names no keys"),
        ("rules: [{keys: [1]}]", "rollout.rules[0]: `side` is missing"),
        ("rules: [{keys: [1.5], side: old}]", "rollout.rules[0].keys[0]: this number cannot be a key as it stands"),
        ("rules: [{keys: [' '], side: old}]", "rollout.rules[0].keys[0]: a key is not empty"),
        (
            "rules: [{keys_file: a, side: old}]",
            "rollout.rules[0].keys_file: the file cannot be read: there is no such file",
        ),
        ("force: {networks: [::1]}", "rollout.force: nothing says where a force value stands"),
        ("force: {header: x}", "rollout.force: nobody would be allowed to force a side"),
        ("force: {header: 'x:', networks: [::1]}", "rollout.force.header: this is not a header's name"),
        ("force: {header: x, token_file: /dev/null}", "rollout.force.token_file: this is not a regular file"),
        ("salt: ${A", "rollout.salt: `${` is not closed"),
        ("salt: ${A-B}", "rollout.salt: this is not a variable's name"),
    ] {
        assert_eq!(complaints(&minimal("percent: 5", line)), [complaint], "{line}");
    }
}

#[test]
fn every_malformed_key_source_is_refused() {
    for source in
        ["heder:x", "header", "header:", "header:a b", "path:0", "path:x", "jwt:", "client_ip:4", "x-user-id", "''"]
    {
        assert_eq!(complaints(&minimal("header:x-user-id", source)).len(), 1, "{source}");
    }
    assert_eq!(complaints(&minimal("key: header:x-user-id", "key: []")).len(), 1);
}

#[test]
fn every_malformed_url_is_refused() {
    for url in [
        "http://",
        "http://h:0",
        "http://h:65536",
        "http://h:",
        "http://h/x",
        "http://h?x",
        "http://u@h",
        "http://h h",
        "ftp://h",
        "http://[::1",
        "http://[::1]9",
        "http://::1",
        "http://a..b",
        "http://h#x",
        "http://é",
    ] {
        assert_eq!(complaints(&minimal("http://127.0.0.1:9001", url)).len(), 1, "{url}");
    }
}

/// Lines beside the smallest config.
#[test]
fn every_mistake_beside_a_rollout_has_its_sentence() {
    for (line, complaint) in [
        (
            "listeners: [{address: 127.0.0.1:1}]",
            "listen: `listen` is the short form of `listeners`; only one of them may be given",
        ),
        ("rollouts: {}", "rollout: `rollout` is the short form of `rollouts`; only one of them may be given"),
        ("admin: {address: 127.0.0.1:8080}", "admin.address: this is a listener's address"),
        ("workers: 0", "workers: this is below 1"),
        ("workers: many", "workers: this is not a number of workers"),
        ("timeouts: {header: 0s}", "timeouts.header: this must be longer than zero"),
        ("timeouts: {header: 5}", "timeouts.header: a duration needs a unit"),
        ("timeouts: {header: 9999999h}", "timeouts.header: this is longer than a year"),
        ("timeouts: {header: 5 days}", "timeouts.header: this is not a duration"),
        ("limits: {max_header_size: 4KiB}", "limits.max_header_size: this is below 8KiB"),
        (
            "limits: {max_target: 64KiB}",
            "limits.max_target: a target cannot be larger than `max_header_size`, which it is a part of",
        ),
        ("limits: {max_body: 0}", "limits.max_body: this is below 1B"),
        ("limits: {max_body: 5 apples}", "limits.max_body: this is not a size"),
        ("limits: {max_connections: -1}", "limits.max_connections: this is below 1"),
        ("limits: {max_connections: 1.5}", "limits.max_connections: this is not a whole number"),
        ("trusted_proxies: 10.0.0.0/8", "trusted_proxies: this is not a list"),
        ("trusted_proxies: [10.0.0.0/33]", "trusted_proxies[0]: this is not a network"),
        ("backends: {a b: {endpoints: [http://a]}}", "backends.a b: this name cannot be used"),
        ("backends: {a: {}}", "backends.a: `endpoints` is missing"),
        ("backends: {a: {endpoints: []}}", "backends.a.endpoints: a backend needs at least one endpoint"),
        ("access_log: ''", "access_log: this is not a path"),
        ("tls: {}", "tls: unknown key `tls`"),
        ("routes: []", "routes: no request would be answered: the list of routes is empty"),
        ("routes: [{}]", "routes[0]: this route has no destination"),
        ("routes: [{rollout: a, backend: b}]", "routes[0]: this route has two destinations"),
        ("routes: [{rollout: defualt}]", "routes[0].rollout: there is no rollout of this name"),
        ("routes: [{match: {host: 'a:80'}, rollout: default}]", "routes[0].match.host: this is not a host's name"),
        ("routes: [{match: {path: pay}, rollout: default}]", "routes[0].match.path: a path begins with /"),
        ("routes: [{match: {path: /a%20}, rollout: default}]", "routes[0].match.path: this path could never match"),
        (
            "routes: [{match: {method: get}, rollout: default}]",
            "routes[0].match.method: methods are written in capitals",
        ),
        (
            "routes: [{match: {headers: {'a b': x}}, rollout: default}]",
            "routes[0].match.headers.a b: this is not a header's name",
        ),
    ] {
        assert_eq!(complaints(&format!("{MINIMAL}{line}\n")), [complaint], "{line}");
    }
}

#[test]
fn what_is_missing_altogether() {
    assert_eq!(complaints("listen: 127.0.0.1:1\n"), [": there is nothing to route to"]);
    assert_eq!(complaints(&minimal("listen: 127.0.0.1:8080", "")), [": there is no listener"]);
    let two = MINIMAL.replace("rollout:", "rollouts:\n a:").replace("  ", "   ")
        + " b: {old: a-old, new: a-new, key: client_ip}\n";
    assert_eq!(complaints(&two), ["rollouts: there are 2 rollouts, but no routes to choose between them"]);
}

#[test]
fn a_listener_twice() {
    let text = minimal("listen: 127.0.0.1:8080", "listeners: [{address: 127.0.0.1:1}, {address: 127.0.0.1:1}, {}]");
    let expected =
        ["listeners[1].address: another listener has this address already", "listeners[2]: `address` is missing"];
    assert_eq!(complaints(&text), expected);
}
