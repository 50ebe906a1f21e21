//! Who may come in: tokens of the admin side, and what those are told who are turned away or have to wait.

use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;

use super::{MINIMAL, complaints, minimal, yaml};
use crate::config::{Config, ConfigError, ListenAddress, Protocol, load};

const LONG: &str = "0123456789abcdef";

/// A folder with the smallest config, to which `lines` are added, and with `files`.
fn folder(lines: &str, files: &[(&str, &str)]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tidegate.yaml");
    std::fs::write(&path, format!("{MINIMAL}{lines}\n")).unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    (folder, path)
}

fn read(lines: &str, files: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let (_folder, path) = folder(lines, files);
    load(&path, &|_| None)
}

/// The only complaint about the file `name` that `lines` name.
fn complaint(lines: &str, name: &str, text: &str) -> String {
    let error = read(lines, &[(name, text)]).expect_err(lines);
    let faults: Vec<_> = error.faults().iter().map(|fault| format!("{}: {}", fault.path, fault.message)).collect();
    assert!(!error.to_string().contains(LONG), "a secret is shown: {error}");
    assert_eq!(faults.len(), 1, "{faults:?}");
    faults[0].clone()
}

#[test]
fn others_reach_the_admin_side_with_a_token() {
    let lines = "admin: {address: '0.0.0.0:9901', token_file: tokens, allowed_hosts: [Tidegate.internal, 'fd00::7']}";
    let tokens = format!("# who\n\nalice: {LONG}=:1\r\n  bob:{LONG}2\n{LONG}3\n");
    let admin = read(lines, &[("tokens", &tokens)]).unwrap().admin;
    let told: Vec<_> = admin.tokens.iter().map(|token| (token.name.as_str(), token.secret.expose())).collect();
    let secrets = ["=:1", "2", "3"].map(|end| format!("{LONG}{end}"));
    assert_eq!(told, [("alice", &*secrets[0]), ("bob", &*secrets[1]), ("token", &*secrets[2])]);
    assert_eq!(admin.allowed_hosts, ["tidegate.internal", "[fd00::7]"]);
    assert_eq!(admin.address, ListenAddress::Tcp("0.0.0.0:9901".parse().unwrap()));
    assert!(!format!("{admin:?}").contains(LONG));
    assert!(yaml(MINIMAL).unwrap().admin.tokens.is_empty());
}

#[test]
fn every_mistake_in_a_token_file_has_its_sentence() {
    let lines = "admin: {address: '0.0.0.0:9901', token_file: tokens}";
    for (text, expected) in [
        (String::new(), "the file holds no token"),
        ("# none\n".into(), "the file holds no token"),
        ("\nalice: short\n".into(), "line 2: this token is shorter than 16 characters"),
        ("0123456789abcde".into(), "line 1: this token is shorter than 16 characters"),
        (format!("a b: {LONG}"), "line 1: what stands before the colon is not a name"),
        (format!("a: {LONG} {LONG}"), "line 1: no client can send this token"),
        (format!("a: {LONG}\na: {LONG}2"), "line 2: another line has this name already"),
        (format!("a: {LONG}\nb: {LONG}"), "line 2: another line has this token already"),
    ] {
        assert_eq!(complaint(lines, "tokens", &text), format!("admin.token_file: {expected}"), "{text}");
    }
    let host = format!("{MINIMAL}admin: {{allowed_hosts: ['a:80']}}\n");
    assert_eq!(complaints(&host), ["admin.allowed_hosts[0]: this is not a host's name"]);
}

#[test]
fn maintenance_says_what_it_is_told_to() {
    let defaults = yaml(MINIMAL).unwrap().maintenance;
    assert_eq!((defaults.message, defaults.retry_after), (None, Duration::from_secs(60)));
    assert!(defaults.pages.html.is_none() && defaults.bypass.networks.is_empty() && defaults.health_paths.is_empty());

    let lines = "\
maintenance:
  message: Back at seven.
  retry_after: 5m
  pages: {html: a.html, json: a.json, text: a.txt}
  health_paths: [/healthz, /]
  bypass: {header: X-Tester, cookie: tester, token_file: token, networks: [10.0.0.0/8]}
";
    let files = [("a.html", "<p>é</p>"), ("a.json", "{\"a\": 1}\n"), ("a.txt", "x"), ("token", "s3cret\n")];
    let maintenance = read(lines, &files).unwrap().maintenance;
    assert_eq!(maintenance.message.as_deref(), Some("Back at seven."));
    assert_eq!(maintenance.retry_after, Duration::from_secs(300));
    assert_eq!(maintenance.pages.html.unwrap(), "<p>é</p>");
    assert_eq!(maintenance.pages.json.unwrap(), "{\"a\": 1}\n");
    assert_eq!(maintenance.pages.text.unwrap(), "x");
    assert_eq!(maintenance.health_paths, ["/healthz", "/"]);
    assert_eq!(maintenance.bypass.header.as_deref(), Some("x-tester"));
    assert_eq!(maintenance.bypass.token.unwrap().expose(), "s3cret");
    assert_eq!(maintenance.bypass.networks.len(), 1);
}

#[test]
fn every_mistake_in_a_page_has_its_sentence() {
    let large = "x".repeat((256 << 10) + 1);
    let page = |key: &str| (format!("maintenance: {{pages: {{{key}: page}}}}"), format!("maintenance.pages.{key}"));
    for (key, text, expected) in [
        ("html", large.as_str(), "the file is larger than 256 KiB"),
        ("text", " \n", "the file is empty"),
        ("json", "{a: 1}", "the file is not JSON: key must be a string at line 1 column 2"),
    ] {
        let (lines, place) = page(key);
        assert_eq!(complaint(&lines, "page", text), format!("{place}: {expected}"));
    }
    let (folder, path) = folder(&page("html").0, &[]);
    std::fs::write(folder.path().join("page"), b"\xff").unwrap();
    assert_eq!(load(&path, &|_| None).unwrap_err().faults()[0].message, "the file is not UTF-8 text");
}

#[test]
fn a_hold_has_its_limits() {
    let hold = yaml(MINIMAL).unwrap().hold;
    assert_eq!((hold.max_wait, hold.max_requests), (Duration::from_secs(10), 1000));
    assert_eq!((hold.max_bytes, hold.release_rate), (64 << 20, 200));
    let lines = "hold: {max_wait: 1m, max_requests: 7, max_bytes: 1KiB, release_rate: 5}\n";
    let hold = yaml(&format!("{MINIMAL}{lines}")).unwrap().hold;
    assert_eq!((hold.max_wait, hold.max_requests), (Duration::from_secs(60), 7));
    assert_eq!((hold.max_bytes, hold.release_rate), (1 << 10, 5));
}

#[test]
fn a_backend_that_is_a_listener() {
    let circles = "this is a listener of tidegate itself: a request would go round in circles";
    for (listen, backend, is_refused) in [
        ("127.0.0.1:8080", "http://127.0.0.1:8080", true),
        ("127.0.0.1:8080", "http://localhost:8080", true),
        ("0.0.0.0:8080", "http://127.0.0.1:8080", true),
        ("'[::1]:80'", "'http://[::1]'", true),
        ("127.0.0.1:443", "https://127.0.0.1", true),
        ("127.0.0.1:8080", "http://127.0.0.1:8081", false),
        ("127.0.0.1:8080", "http://127.0.0.2:8080", false),
        ("0.0.0.0:8080", "http://127.8.9.10:8080", true),
        ("0.0.0.0:8080", "http://0.0.0.0:8080", true),
        ("127.0.0.1:8080", "http://0.0.0.0:8080", true),
        ("127.0.0.2:8080", "http://0.0.0.0:8080", false),
        ("'[::1]:8080'", "'http://[::]:8080'", true),
        ("'[::]:8080'", "http://127.0.0.1:8080", true),
        ("'[::]:8080'", "http://localhost:8080", true),
        ("'[::]:8080'", "'http://[::1]:8080'", true),
        ("'[::]:8080'", "http://192.0.2.7:8080", false),
        ("127.0.0.1:8080", "'http://[::ffff:127.0.0.1]:8080'", true),
        ("'[::ffff:127.0.0.1]:8080'", "http://127.0.0.1:8080", true),
        ("0.0.0.0:8080", "'http://[::1]:8080'", false),
        ("127.0.0.1:8080", "http://a.internal:8080", false),
    ] {
        let text = minimal("listen: 127.0.0.1:8080", &format!("listen: {listen}"));
        let text = text.replace("http://127.0.0.1:9001", backend);
        match is_refused {
            true => assert_eq!(complaints(&text), [format!("rollout.old: {circles}")], "{listen} {backend}"),
            false => assert!(yaml(&text).is_ok(), "{listen} {backend}"),
        }
    }
}

#[test]
fn every_mistake_about_listeners_has_its_sentence() {
    let long = format!("unix:/{}", "a".repeat(120));
    let nobody = "nobody here is trusted to say whom a connection is for";
    for (lines, complaint) in [
        (
            "[{address: 'unix:a'}, {address: 'unix:a'}]",
            "listeners[1].address: another listener has this address already",
        ),
        ("[{address: 'unix:'}]", "listeners[0].address: this is not the path of a socket"),
        (
            &format!("[{{address: '{long}'}}]"),
            "listeners[0].address: this path is too long for a socket, or holds a NUL",
        ),
        ("[{address: '127.0.0.1:0', proxy_protocol: true}]", &format!("listeners[0].proxy_protocol: {nobody}")),
        (
            "[{address: '127.0.0.1:0', proxy_protocol: true}]\ntrusted_proxies: [unix]",
            &format!("listeners[0].proxy_protocol: {nobody}"),
        ),
        (
            "[{address: 'unix:a', proxy_protocol: true}]\ntrusted_proxies: [10.0.0.0/8]",
            &format!("listeners[0].proxy_protocol: {nobody}"),
        ),
        ("[{address: 'unix:a'}]\nadmin: {address: 'unix:a'}", "admin.address: this is a listener's address"),
        ("[{address: 'unix:a'}]\ntrusted_proxies: [unic]", "trusted_proxies[0]: this is not a network"),
    ] {
        let text = minimal("listen: 127.0.0.1:8080", &format!("listeners: {lines}"));
        assert_eq!(complaints(&text), [complaint], "{lines}");
    }
    let backend = |more: &str| format!("{MINIMAL}backends: {{a: {{endpoints: [https://a], {more}}}}}\n");
    assert_eq!(complaints(&backend("proxy_protocol: v2, protocol: h2")).len(), 1, "streams are of many clients");
    assert_eq!(yaml(&backend("proxy_protocol: v2")).unwrap().backends["a"].protocol, Protocol::Http1);
    let text = minimal("listen: 127.0.0.1:8080", "listen: unix:a.sock").replace("http://127.0.0.1:9001", "unix:a.sock");
    assert_eq!(complaints(&text).len(), 1, "a request would go round in circles");
}

#[test]
fn every_mistake_about_names_has_its_sentence() {
    for (line, complaint) in [
        ("dns: {servers: [ns1.example.com]}", "dns.servers[0]: this is not a name server's address"),
        ("dns: {min_ttl: 0s}", "dns.min_ttl: this must be longer than zero"),
        ("dns: {min_ttl: 10m}", "dns.min_ttl: this is longer than `max_ttl`"),
        ("dns: {timeout: 2}", "dns.timeout: a duration needs a unit"),
        ("dns: {prefer: ipv5}", "dns.prefer: this is not one of the allowed words"),
    ] {
        assert_eq!(complaints(&format!("{MINIMAL}{line}\n")), [complaint], "{line}");
    }
    let servers =
        yaml(&format!("{MINIMAL}dns: {{servers: [10.0.0.2, '::1', '127.0.0.1:5353']}}\n")).unwrap().dns.servers;
    assert_eq!(servers, ["10.0.0.2:53", "[::1]:53", "127.0.0.1:5353"].map(|address| address.parse().unwrap()));
}

#[test]
fn every_mistake_about_guests_has_its_sentence() {
    for (line, complaint) in [
        ("maintenance: {message: ' '}", "maintenance.message: this message is empty"),
        ("maintenance: {message: \"a\\tb\"}", "maintenance.message: this message holds control characters"),
        ("maintenance: {retry_after: 500ms}", "maintenance.retry_after: this is below 1s"),
        (
            "maintenance: {pages: {html: nowhere}}",
            "maintenance.pages.html: the file cannot be read: there is no such file",
        ),
        ("maintenance: {health_paths: [healthz]}", "maintenance.health_paths[0]: a path begins with /"),
        ("maintenance: {health_paths: ['/a?b']}", "maintenance.health_paths[0]: a path holds no query"),
        ("maintenance: {bypass: {header: x}}", "maintenance.bypass: nothing says which token lets a client pass"),
        ("maintenance: {bypass: {networks: [x]}}", "maintenance.bypass.networks[0]: this is not a network"),
        ("hold: {max_wait: 0s}", "hold.max_wait: this must be longer than zero"),
        ("hold: {max_requests: 0}", "hold.max_requests: this is below 1"),
        ("hold: {max_bytes: 0}", "hold.max_bytes: this is below 1B"),
        ("hold: {release_rate: 0}", "hold.release_rate: this is below 1"),
        ("backends: {a: {endpoints: [http://a], health: {}}}", "backends.a.health: `path` is missing"),
        ("backends: {a: {endpoints: [http://a], health: {path: x}}}", "backends.a.health.path: a path begins with /"),
        ("routes: [{name: a b, rollout: default}]", "routes[0].name: this name cannot be used"),
        (
            "routes: [{name: a, match: {path: /a}, rollout: default}, {name: a, rollout: default}]",
            "routes[1].name: another route has this name already",
        ),
    ] {
        assert_eq!(complaints(&format!("{MINIMAL}{line}\n")), [complaint], "{line}");
    }
    let token = complaint("maintenance: {bypass: {token_file: token}}", "token", "s3cret");
    assert_eq!(token, "maintenance.bypass: nothing says where the token stands");
}
