//! Reads `src/` and fails on an import that runs upward.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Modules from the bottom to the top: each may use those on its own line's left and on earlier lines.
const LAYERS: &[&[&str]] = &[
    &["descriptors", "gather", "policy", "proxy_header", "telemetry", "tls"],
    &["config", "capacity", "metrics"],
    &["hold", "listen", "snapshot", "upstream"],
    &["proxy"],
    &["control"],
    &["admin"],
    &["app"],
    &["cli"],
    &["main"],
];

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => sources(&entry.path(), found),
            false => found.push(entry.path()),
        }
    }
}

/// Each source file with its top-level module and its text, without its tests.
fn files() -> Vec<(PathBuf, String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    sources(&root, &mut found);
    found
        .into_iter()
        .filter(|path| path.file_name().is_none_or(|name| name != "tests.rs"))
        .map(|path| {
            let below = path.strip_prefix(&root).unwrap().to_owned();
            let module = below.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs").to_owned();
            let text = std::fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap().to_owned();
            (below, module, code)
        })
        .collect()
}

/// The names behind `prefix` in `code`, comments aside: `crate::proxy::x` gives `proxy`.
fn mentioned(code: &str, prefix: &str) -> Vec<String> {
    code.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .flat_map(|line| line.match_indices(prefix).map(|(at, _)| &line[at + prefix.len()..]).collect::<Vec<_>>())
        .flat_map(|rest| match rest.strip_prefix('{') {
            Some(group) => group.split([',', '}']).map(|name| name.trim().to_owned()).collect(),
            None => vec![rest.to_owned()],
        })
        .map(|rest| rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>())
        .filter(|name| !name.is_empty())
        .collect()
}

#[test]
fn imports_run_one_way() {
    let layer: BTreeMap<&str, usize> =
        LAYERS.iter().enumerate().flat_map(|(at, modules)| modules.iter().map(move |module| (*module, at))).collect();
    for (path, module, code) in files().iter().filter(|(_, module, _)| module != "lib") {
        let from = layer.get(module.as_str()).unwrap_or_else(|| panic!("{path:?} has no layer"));
        let used = mentioned(code, "crate::").into_iter().chain(mentioned(code, "tidegate::"));
        for name in used.filter(|name| name != module) {
            let to = layer.get(name.as_str()).unwrap_or_else(|| panic!("{path:?} uses {name}, which has no layer"));
            assert!(to <= from && (to < from || same_layer_before(module, &name)), "{path:?} uses {name} above it");
        }
    }
}

/// Within a layer a module may use those on its left.
fn same_layer_before(module: &str, used: &str) -> bool {
    LAYERS.iter().any(|layer| {
        let place = |name| layer.iter().position(|found| *found == name);
        matches!((place(module), place(used)), (Some(from), Some(to)) if to < from)
    })
}

#[test]
fn policy_uses_std_only() {
    for (path, _, code) in files().iter().filter(|(_, module, _)| module == "policy") {
        for line in code.lines().filter(|line| line.trim_start().starts_with("use ")) {
            let source = line.trim_start().trim_start_matches("use ").split("::").next().unwrap();
            assert!(matches!(source, "std" | "super" | "crate" | "self"), "{path:?}: {line}");
        }
        for forbidden in ["async ", "tracing", "Instant::now", "SystemTime::now", "serde", "fastrand", "extern crate"] {
            let code: Vec<&str> = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
            assert!(!code.join("\n").contains(forbidden), "{path:?} mentions {forbidden}");
        }
    }
}

#[test]
fn only_the_controller_publishes() {
    for (path, _, code) in files() {
        let stores = code.contains("published.store(") || code.contains("snapshot.store(");
        assert!(!stores || path == Path::new("control/controller.rs"), "{path:?} stores a snapshot");
    }
}
