//! What takes NEW away by itself, as it is written.

use std::sync::Arc;
use std::time::Duration;

use super::{MINIMAL, complaints, minimal, read, yaml};
use crate::config::{Config, Guard, Latency, SlowerThan, schema};
use crate::policy::guard::{Limits, requests_to_see};
use crate::policy::outcome::Failures;
use crate::policy::rollout::Action;

fn guard_of(config: &Config) -> Option<Guard> {
    config.rollouts["default"].guard.clone()
}

/// The guard of the smallest config with `guard` in it.
fn guard(guard: &str) -> Option<Guard> {
    guard_of(&yaml(&format!("{MINIMAL}  guard: {guard}\n")).unwrap())
}

fn limits() -> Limits {
    Limits { tolerance: 0.01, one_false_trip_in: 1e8, min_distinct: 3 }
}

#[test]
fn it_is_there_without_being_asked_for() {
    let expected = Guard {
        limits: limits(),
        failures: Arc::new(Failures { statuses: vec![500..=599], grpc: vec![2, 4, 13, 14, 15], header: None }),
        latency: None,
        max_users_hurt: None,
        queries: Vec::new(),
        action: Action::Rollback,
        evidence: requests_to_see(&limits(), 0.02),
    };
    assert_eq!(guard_of(&yaml(MINIMAL).unwrap()), Some(expected.clone()));
    assert_eq!(guard("{}"), Some(expected));
    assert_eq!(guard("{enabled: false}"), None);
}

const YAML: &str = "  guard:
    tolerance: 0.5%
    one_false_trip_in: 1e6
    min_distinct: 1
    max_users_hurt: 50
    failures: { statuses: [429, 500-502], grpc: [unavailable, 13], header: X-Outcome }
    latency: { slower_than: 800ms, tolerance: 10 }
    action: notify
";

const TOML: &str = r#"
listen = "127.0.0.1:8080"
[rollout]
old = "http://127.0.0.1:9001"
new = "http://127.0.0.1:9002"
key = "header:x-user-id"
percent = 5
[rollout.guard]
tolerance = 0.5
one_false_trip_in = 1e6
min_distinct = 1
max_users_hurt = 50
failures = { statuses = [429, "500-502"], grpc = ["UNAVAILABLE", 13], header = "x-outcome" }
latency = { slower_than = "800ms", tolerance = "10%" }
action = "notify"
"#;

const JSON: &str = r#"{"listen": "127.0.0.1:8080", "rollout": {
    "old": "http://127.0.0.1:9001", "new": "http://127.0.0.1:9002", "key": "header:x-user-id", "percent": 5,
    "guard": {
        "tolerance": 0.5, "one_false_trip_in": 1000000, "min_distinct": 1, "max_users_hurt": 50,
        "failures": {"statuses": ["429", "500-502"], "grpc": [14, 13], "header": "x-outcome"},
        "latency": {"slower_than": "800ms", "tolerance": 10},
        "action": "notify"
    }
}}"#;

#[test]
fn it_means_the_same_in_every_format() {
    let limits = Limits { tolerance: 0.005, one_false_trip_in: 1e6, min_distinct: 1 };
    let header = Some("x-outcome".to_owned());
    let expected = Guard {
        evidence: requests_to_see(&limits, 0.01),
        failures: Arc::new(Failures { statuses: vec![429..=429, 500..=502], grpc: vec![14, 13], header }),
        latency: Some(Latency {
            slower_than: SlowerThan::Fixed(Duration::from_millis(800)),
            limits: Limits { tolerance: 0.1, ..limits.clone() },
        }),
        limits,
        max_users_hurt: Some(50),
        queries: Vec::new(),
        action: Action::Notify,
    };
    for (file, text) in
        [("a.yaml", &format!("{MINIMAL}{YAML}")), ("a.toml", &TOML.to_owned()), ("a.json", &JSON.to_owned())]
    {
        assert_eq!(guard_of(&read(file, text).unwrap()), Some(expected.clone()), "{file}");
    }
}

#[test]
fn values_have_several_spellings() {
    for rate in ["100000000", "1e8", "1.0e8", "'1e8'", "1e+8", "'${NO_SUCH_VARIABLE:-1e8}'"] {
        assert_eq!(guard(&format!("{{one_false_trip_in: {rate}}}")).unwrap().limits, limits(), "{rate}");
    }
    for (statuses, expected) in [
        ("503", vec![503..=503]),
        ("500-599", vec![500..=599]),
        ("[500 - 502, 100-100]", vec![500..=502, 100..=100]),
        ("[]", vec![]),
    ] {
        let found = guard(&format!("{{failures: {{statuses: {statuses}}}}}")).unwrap();
        assert_eq!(found.failures.statuses, expected, "{statuses}");
    }
    for (grpc, expected) in [
        ("default", Failures::GRPC.to_vec()),
        ("none", vec![]),
        ("[]", vec![]),
        ("14", vec![14]),
        ("[not_found, 1]", vec![5, 1]),
    ] {
        let found = guard(&format!("{{failures: {{grpc: {grpc}}}}}")).unwrap();
        assert_eq!(found.failures.grpc, expected, "{grpc}");
    }
    let slow = guard("{latency: {slower_than: old_p99}}").unwrap().latency.unwrap();
    assert_eq!((slow.slower_than, slow.limits.tolerance), (SlowerThan::P99OfOld, 0.05));
}

#[test]
fn a_ramp_can_also_be_stopped_or_taken_back_a_step() {
    for (action, meant) in [("step_back", Action::StepBack), ("hold_step", Action::HoldStep)] {
        let steps = minimal("percent: 5", &format!("steps: [{{percent: 5}}]\n  guard: {{action: {action}}}"));
        assert_eq!(guard_of(&yaml(&steps).unwrap()).unwrap().action, meant);
        let error = yaml(&format!("{MINIMAL}  guard: {{action: {action}}}\n")).unwrap_err();
        let fault = &error.faults()[0];
        assert_eq!(fault.message, format!("`{action}` has no meaning without `steps`"));
        assert_eq!(fault.allowed.as_deref(), Some("rollback, notify; with `steps` also step_back, hold_step"));
        assert_eq!((fault.path.as_str(), fault.line), ("rollout.guard.action", Some(7)));
    }
}

#[test]
fn every_mistake_in_it_has_its_place_and_its_sentence() {
    for (written, complaint) in [
        ("{enabled: on}", "enabled: this is the wrong kind of value"),
        ("{tolerence: 1}", "tolerence: unknown key `tolerence`"),
        ("{tolerance: 0}", "tolerance: this share cannot be tolerated"),
        ("{tolerance: 20.01}", "tolerance: this share cannot be tolerated"),
        ("{tolerance: 0.001}", "tolerance: percent has more than two decimals"),
        ("{one_false_trip_in: 99}", "one_false_trip_in: this is not a number of requests"),
        ("{one_false_trip_in: 1e16}", "one_false_trip_in: this is not a number of requests"),
        ("{one_false_trip_in: often}", "one_false_trip_in: this is not a number of requests"),
        ("{one_false_trip_in: nan}", "one_false_trip_in: this is not a number of requests"),
        ("{min_distinct: 0}", "min_distinct: this is below 1"),
        ("{min_distinct: 65}", "min_distinct: this is above 64"),
        ("{max_users_hurt: 0}", "max_users_hurt: this is below 1"),
        ("{max_users_hurt: 10001}", "max_users_hurt: this is above 10000"),
        ("{failures: {statuses: 5xx}}", "failures.statuses: this is not a status"),
        ("{failures: {statuses: [500, 600]}}", "failures.statuses[1]: this is not a status"),
        ("{failures: {statuses: [99]}}", "failures.statuses[0]: this is not a status"),
        ("{failures: {statuses: 599-500}}", "failures.statuses: this is not a status"),
        ("{failures: {grpc: 0}}", "failures.grpc: this is not a gRPC status that can be a failure"),
        ("{failures: {grpc: [default, 17]}}", "failures.grpc[0]: this is not a gRPC status that can be a failure"),
        ("{failures: {header: 'x:'}}", "failures.header: this is not a header's name"),
        ("{latency: {}}", "latency: `slower_than` is missing"),
        ("{latency: {slower_than: 0s}}", "latency.slower_than: this must be longer than zero"),
        ("{latency: {slower_than: new_p99}}", "latency.slower_than: this is not a duration"),
        ("{latency: {slower_than: 1s, tolerance: 0}}", "latency.tolerance: this share cannot be tolerated"),
        ("{latency: {slower_than: old_p99, tolerance: 1.99}}", "latency.tolerance: this share cannot be tolerated"),
        ("{action: roll_back}", "action: this is not one of the allowed words"),
    ] {
        let first = complaints(&format!("{MINIMAL}  guard: {written}\n")).swap_remove(0);
        assert_eq!(first, format!("rollout.guard.{complaint}"), "{written}");
    }
}

#[test]
fn a_mistake_says_what_was_meant() {
    for (written, help) in [
        ("{tolerence: 1}", Some("did you mean `tolerance`?")),
        ("{failures: {grpc: [UNAVAILIBLE]}}", Some("did you mean `UNAVAILABLE`?")),
        ("{failures: {grpc: OK}}", None), // it is spelt right, and no failure
        ("{action: roll_back}", Some("did you mean `rollback`?")),
    ] {
        let error = yaml(&format!("{MINIMAL}  guard: {written}\n")).unwrap_err();
        assert_eq!(error.faults()[0].help.as_deref(), help, "{written}");
    }
}

#[test]
fn the_schema_shows_what_it_does_unless_told() {
    let schema = schema();
    let guard = &schema["$defs"]["Guard"]["properties"];
    let defaults =
        ["enabled", "tolerance", "one_false_trip_in", "min_distinct", "action"].map(|key| &guard[key]["default"]);
    assert_eq!(defaults.map(ToString::to_string), ["true", "\"1%\"", "100000000.0", "3", "\"rollback\""]);
    let failures = &schema["$defs"]["Failures"]["properties"];
    assert_eq!(
        (&failures["statuses"]["default"], &failures["grpc"]["default"]),
        (&"500-599".into(), &"default".into())
    );
    assert_eq!(schema["$defs"]["Latency"]["required"], serde_json::json!(["slower_than"]));
    assert_eq!(schema["$defs"]["Latency"]["properties"]["tolerance"]["default"], "5%");
}
