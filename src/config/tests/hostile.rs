//! Texts that nobody writes by intention: half files, bombs, noise. They are refused quickly and never panic.

use std::path::Path;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::{EXAMPLE, MINIMAL, read, yaml};
use crate::config::{load, parse};

const FILES: [&str; 3] = ["a.yaml", "a.toml", "a.json"];

fn minimal_json() -> String {
    r#"{"listen": "127.0.0.1:8080", "rollout": {"old": "http://a", "new": "http://b", "key": "client_ip", "percent": 5}}"#
        .to_owned()
}

/// Whatever the text, reading ends, and an error can be told.
fn survives(file: &str, bytes: &[u8]) {
    if let Err(error) = parse(bytes, Path::new(file), &|_| None) {
        assert!(!error.faults().is_empty());
        assert!(error.to_string().starts_with("error: "));
        assert!(error.to_json().is_array());
    }
}

#[test]
fn a_config_cut_anywhere_is_read_or_refused() {
    for end in 0..=EXAMPLE.len() {
        if end % 7 == 0 || end < 600 {
            survives("a.yaml", &EXAMPLE.as_bytes()[..end]);
        }
    }
    let json = minimal_json();
    for end in 0..json.len() {
        assert!(read("a.json", &json[..end]).is_err(), "{}", &json[..end]);
    }
    assert!(read("a.json", &json).is_ok());
}

#[test]
fn bombs_are_refused_within_their_time() {
    let wide = |count: usize| (0..count).map(|at| format!("k{at}: 1\n")).collect::<String>();
    let aliases: String =
        (1..20).map(|at| format!("a{at}: &a{at} [{}]\n", vec![format!("*a{}", at - 1); 10].join(","))).collect();
    let bombs = [
        ("deep.yaml", format!("a: {}", "[".repeat(100_000))),
        ("deep-block.yaml", (0..1000).map(|at| format!("{}a:\n", " ".repeat(at))).collect()),
        ("deep.json", format!("{{\"a\": {}{}}}", "[".repeat(100_000), "]".repeat(100_000))),
        ("deep.toml", format!("a = {}{}", "[".repeat(100_000), "]".repeat(100_000))),
        ("deep-table.toml", format!("{}a = 1", "a.".repeat(100_000))),
        ("deep-header.toml", format!("[{}a]", "a.".repeat(100_000))),
        ("aliases.yaml", format!("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n{aliases}")),
        ("large.yaml", " ".repeat(50 << 20)),
        ("wide.yaml", wide(50_000)),
        ("long-key.yaml", format!("? {}\n: 1", "k".repeat(900_000))),
        ("long-string.yaml", format!("listen: {}", "k".repeat(900_000))),
        ("networks.json", format!("{{\"trusted_proxies\": [{}\"x\"]}}", "\"x\",".repeat(100_000))),
    ];
    // Unoptimised parsers are more than ten times slower.
    let bound = Duration::from_millis(if cfg!(debug_assertions) { 5_000 } else { 100 });
    for (file, text) in bombs {
        let started = Instant::now();
        let error = read(file, &text).expect_err(file);
        let took = started.elapsed();
        assert!(error.to_string().len() < 20_000, "{file}: a long error");
        assert!(took < bound, "{file} took {took:?}");
    }
}

#[test]
fn only_regular_files_of_a_config_s_size_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let message = |path: &Path| load(path, &|_| None).unwrap_err().faults()[0].message.clone();
    assert_eq!(message(&folder.path().join("a.yaml")), "the file cannot be read: there is no such file");
    assert_eq!(message(folder.path()), "this is a folder, not a file");
    assert_eq!(message(Path::new("/dev/zero")), "this is not a regular file");
    let large = folder.path().join("large.yaml");
    std::fs::File::create(&large).unwrap().set_len(2 << 20).unwrap();
    assert_eq!(message(&large), "the file is larger than 1024 KiB");
    let fifo = folder.path().join("fifo.yaml");
    if std::process::Command::new("mkfifo").arg(&fifo).status().is_ok_and(|status| status.success()) {
        assert_eq!(message(&fifo), "this is not a regular file");
    }
}

#[test]
fn what_is_not_text_is_told_apart() {
    let message = |file: &str, bytes: &[u8]| {
        let error = parse(bytes, Path::new(file), &|_| None).unwrap_err();
        error.faults()[0].message.clone()
    };
    assert_eq!(message("a.yaml", b"listen: \xff"), "the file is not UTF-8 text");
    assert_eq!(message("a.conf", b""), "the file's name does not say how it is written");
    for file in FILES {
        assert_eq!(message(file, b"\xef\xbb\xbf \n\t\n"), "the file is empty", "{file}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn noise_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), file in 0usize..3) {
        survives(FILES[file], &bytes);
    }

    #[test]
    fn structured_noise_never_panics(text in "[-a-c:{}\\[\\],\"'#&*!|>%@`\n \t.=0-9$\\\\é]{0,80}", file in 0usize..3) {
        survives(FILES[file], text.as_bytes());
    }

    #[test]
    fn damaged_configs_never_panic(
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        json in any::<bool>(),
    ) {
        let (file, text) = if json { ("a.json", minimal_json()) } else { ("a.yaml", MINIMAL.to_owned()) };
        let mut bytes = text.into_bytes();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        survives(file, &bytes);
    }

    #[test]
    fn values_of_any_kind_never_panic(value in "(-?[0-9.]{1,40}(e[0-9]{1,3})?(ms|s|h|%|KiB|GiB)?|\\.nan|\\.inf|~|\\[\\]|\\{\\}|[a-z:/]{0,20})") {
        for key in ["percent", "old", "key", "salt", "rules", "force", "hash", "steps", "strategy", "schedule", "acknowledge"] {
            survives("a.yaml", MINIMAL.replace("percent: 5", &format!("{key}: {value}")).as_bytes());
        }
        for key in ["percent", "hold", "min_requests"] {
            survives("a.yaml", MINIMAL.replace("percent: 5", &format!("steps: [{{{key}: {value}}}]")).as_bytes());
        }
        for key in ["allow: [", "freeze: [Mon "] {
            survives("a.yaml", MINIMAL.replace("percent: 5", &format!("schedule: {{{key}{value}]}}")).as_bytes());
        }
        for key in ["workers", "limits", "timeouts", "listeners", "routes", "backends", "trusted_proxies", "access_log", "rollback", "hold", "maintenance", "admin"] {
            survives("a.yaml", format!("{MINIMAL}{key}: {value}\n").as_bytes());
        }
        for key in ["timeouts: {header", "limits: {max_body", "limits: {max_connections", "shutdown: {drain_timeout", "hold: {max_bytes", "maintenance: {health_paths"] {
            survives("a.yaml", format!("{MINIMAL}{key}: {value}}}\n").as_bytes());
        }
    }
}

#[test]
fn a_config_of_nothing_but_errors_tells_fifty() {
    let keys: String = (0..200).map(|at| format!("  - \"x{at}\"\n")).collect();
    let error = yaml(&format!("{MINIMAL}trusted_proxies:\n{keys}")).unwrap_err();
    assert_eq!(error.faults().len(), 50);
    assert!(error.to_string().ends_with("... and 150 more\n"));
}
