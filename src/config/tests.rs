use std::path::Path;

use super::{Config, ConfigError, parse};

fn yaml(text: &str) -> Result<Config, ConfigError> {
    parse(text.as_bytes(), Path::new("tidegate.yaml"), &|_| None)
}

#[test]
fn look() {
    let base = include_str!("../../config/minimal.yaml");
    println!("{:#?}", yaml(base).unwrap());
    for text in [
        base.replace("percent: 5", "percent: 150"),
        base.replace("percent: 5", "percnt: 5\n  hash: modul"),
        base.replace("percent: 5", "percent: 5.123\n  percent: 6"),
        base.replace("percent: 5", "percent: \"${PCT}\"\n  rollback: on\n  salt: 3"),
        base.replace("http://127.0.0.1:9001", "https://a/b"),
        base.replace("  key: header:x-user-id\n", ""),
        base.replace("listen", "listeners"),
        base.replace("  old: http://127.0.0.1:9001", "  old: ledgr-v2\n") + "backends: {ledger-v2: {endpoints: [http://a, 'http://b:x']}}",
        base.replace("rollout:", "rollout: ["),
        base.replace("rollout:", "\trollout:"),
        String::new(),
        "a: &a [x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e,*e,*e,*e,*e]\n".into(),
        format!("a: {}{}", "[".repeat(1000), "]".repeat(1000)),
        "a: 1\n---\nb: 2\n".into(), "- a\n".into(), "just text".into(), "a: *b\n".into(), "1: 2\nnull: 3\n[a]: 4\n".into(),
        "listen: {a: 1}\nrollout: 5\nrollouts: []\nworkers: null\n".into(),
    ] {
        println!("{}\n----", yaml(&text).unwrap_err());
    }
}
