//! What a Prometheus is asked, as it is written.

use std::time::Duration;

use super::{MINIMAL, complaints, yaml};
use crate::config::Query;

const QUERY: &str = "{name: mismatches, prometheus: http://127.0.0.1:9090, query: sum(x), bad_if: '> 0.5'}";

fn with(queries: &str) -> String {
    format!("{MINIMAL}  guard: {{queries: [{queries}]}}\n")
}

fn queries(written: &str) -> Vec<Query> {
    yaml(&with(written)).unwrap().rollouts["default"].guard.clone().unwrap().queries
}

#[test]
fn what_is_not_written_has_a_default() {
    let expected = Query {
        name: "mismatches".into(),
        url: "http://127.0.0.1:9090/api/v1/query".parse().unwrap(),
        promql: "sum(x)".into(),
        bad_if: "> 0.5".parse().unwrap(),
        interval: Duration::from_secs(30),
        failures: 3,
        timeout: Duration::from_secs(5),
    };
    assert_eq!(queries(QUERY), [expected]);
    let written =
        "{name: a, prometheus: http://h, query: x, bad_if: '<= 1e3', interval: 1s, failures: 1, timeout: 500ms}";
    let second = &queries(&format!("{QUERY}, {written}"))[1];
    assert_eq!((second.interval, second.failures, second.timeout.as_millis()), (Duration::from_secs(1), 1, 500));
    assert_eq!(second.bad_if.to_string(), "<= 1000");
    assert!(yaml(MINIMAL).unwrap().rollouts["default"].guard.as_ref().unwrap().queries.is_empty());
}

#[test]
fn a_prometheus_may_have_a_path_and_a_password() {
    for (written, asked) in [
        ("http://prometheus", "http://prometheus/api/v1/query"),
        ("http://prometheus:9090/", "http://prometheus:9090/api/v1/query"),
        (
            "https://me:secret@mimir.example.com/prometheus/",
            "https://me:secret@mimir.example.com/prometheus/api/v1/query",
        ),
        ("http://[::1]:9090", "http://[::1]:9090/api/v1/query"),
    ] {
        let query = &queries(&QUERY.replace("http://127.0.0.1:9090", &format!("'{written}'")))[0];
        assert_eq!(query.url.uri().to_string(), asked);
        assert!(!format!("{query:?}").contains("secret"));
    }
}

#[test]
fn what_cannot_be_asked_is_refused_with_its_place() {
    for (replaced, by, complaint) in [
        ("name: mismatches, ", "", ": `name` is missing"),
        ("name: mismatches", "name: 'led ger'", ".name: this name cannot be used"),
        ("prometheus: http://127.0.0.1:9090, ", "", ": `prometheus` is missing"),
        ("http://127.0.0.1:9090", "127.0.0.1:9090", ".prometheus: this is not an http or https URL with a host"),
        ("http://127.0.0.1:9090", "ftp://127.0.0.1", ".prometheus: this is not an http or https URL with a host"),
        ("http://127.0.0.1:9090", "http://127.0.0.1:0", ".prometheus: this URL has no valid port"),
        ("http://127.0.0.1:9090", "http://127.0.0.1:99999", ".prometheus: this URL has no valid port"),
        ("http://127.0.0.1:9090", "http://a..b", ".prometheus: this URL has no valid host"),
        ("http://127.0.0.1:9090", "'http://a/?x=y'", ".prometheus: this URL holds more than a path"),
        ("query: sum(x), ", "", ": `query` is missing"),
        ("sum(x)", "' '", ".query: this query is empty"),
        (", bad_if: '> 0.5'", "", ": `bad_if` is missing"),
        ("> 0.5", "0.5", ".bad_if: this is not a condition"),
        ("> 0.5", "> inf", ".bad_if: this is not a condition"),
        ("sum(x)", "x, interval: 999ms", ".interval: this is below 1s"),
        ("sum(x)", "x, failures: 0", ".failures: this is below 1"),
        ("sum(x)", "x, timeout: 0s", ".timeout: this must be longer than zero"),
        ("sum(x)", "x, sever: a", ".sever: unknown key `sever`"),
    ] {
        assert!(QUERY.contains(replaced), "{replaced}");
        let expected = format!("rollout.guard.queries[0]{complaint}");
        assert_eq!(complaints(&with(&QUERY.replace(replaced, by))), [expected], "{by}");
    }
    let twice = complaints(&with(&format!("{QUERY}, {QUERY}")));
    assert_eq!(twice, ["rollout.guard.queries[1].name: another query of this rollout has the same name"]);
    let too_many = complaints(&with(&vec![QUERY; 65].join(", ")));
    assert_eq!(too_many, ["rollout.guard.queries: these are more than 64 queries"]);
}
