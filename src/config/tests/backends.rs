//! Backends: how requests are spread over endpoints, which endpoints get any, and how much a backend gets.

use std::time::Duration;

use super::{MINIMAL, complaints, minimal, yaml};
use crate::config::{Backend, BackendLimits, Health, Retries};
use crate::policy::balance::Balance;
use crate::policy::bucket::Percent;
use crate::policy::decision::Fallback;
use crate::policy::ejection::Rules;
use crate::policy::health::Thresholds;

const SECOND: Duration = Duration::from_secs(1);

/// What becomes of these lines in a backend.
fn backend(lines: &str) -> Backend {
    yaml(&text(lines)).unwrap().backends["v2"].clone()
}

fn text(lines: &str) -> String {
    format!("{MINIMAL}backends: {{v2: {{endpoints: [http://a], {lines}}}}}\n")
}

fn percent(percent: f64) -> Percent {
    Percent::from_f64(percent).unwrap()
}

#[test]
fn what_is_not_said_has_a_default() {
    let written = backend("");
    let inline = yaml(MINIMAL).unwrap().backends["default-old"].clone();
    for backend in [written, inline] {
        assert_eq!(
            (backend.balance, backend.slow_start, backend.health),
            (Balance::LeastRequests, Duration::ZERO, None)
        );
        let rules = Rules { consecutive_failures: 5, base: 30 * SECOND, max_ejected: percent(50.0) };
        assert_eq!(backend.ejection, Some(rules));
        let limits = BackendLimits { max_connections: 1024, max_pending: 1024, max_wait: SECOND };
        assert_eq!(backend.limits, limits);
        assert_eq!(backend.retries, Retries { attempts: 1, budget: percent(20.0) });
    }
    assert_eq!(yaml(MINIMAL).unwrap().rollouts["default"].fallback, Fallback::None);
}

#[test]
fn a_backend_says_how_it_is_looked_at() {
    let health = |path: &str, interval, timeout, unhealthy_after, healthy_after| {
        let [interval, timeout] = [interval, timeout].map(Duration::from_millis);
        let thresholds = Thresholds { unhealthy_after, healthy_after };
        Some(Health { path: path.to_owned(), interval, timeout, thresholds })
    };
    assert_eq!(backend("health: {path: /healthz}").health, health("/healthz", 5000, 1000, 3, 2));
    let all = "health: {path: '/ready?full=1', interval: 10ms, timeout: 250ms, unhealthy_after: 1, healthy_after: 4}";
    assert_eq!(backend(all).health, health("/ready?full=1", 10, 250, 1, 4));
}

#[test]
fn all_that_can_be_said() {
    assert_eq!(backend("balance: round_robin").balance, Balance::RoundRobin);
    assert_eq!(backend("slow_start: 30s").slow_start, 30 * SECOND);
    assert_eq!(backend("ejection: {enabled: false}").ejection, None);
    let rules = Rules { consecutive_failures: 2, base: SECOND, max_ejected: Percent::FULL };
    assert_eq!(backend("ejection: {consecutive_failures: 2, base: 1s, max_ejected: 100}").ejection, Some(rules));
    let limits = BackendLimits { max_connections: 1, max_pending: 0, max_wait: 3 * SECOND };
    assert_eq!(backend("limits: {max_connections: 1, max_pending: 0, max_wait: 3s}").limits, limits);
    assert_eq!(backend("retries: {attempts: 0, budget: 5%}").retries, Retries { attempts: 0, budget: percent(5.0) });
    let fallback = minimal("  percent: 5", "  percent: 5\n  fallback: other_side");
    assert_eq!(yaml(&fallback).unwrap().rollouts["default"].fallback, Fallback::OtherSide);
}

#[test]
fn every_mistake_about_backends_has_its_sentence() {
    let too_small = "with this budget no request could be sent once more before long";
    for (lines, complaint) in [
        ("balance: random", "backends.v2.balance: this is not one of the allowed words"),
        ("slow_start: -1s", "backends.v2.slow_start: this is not a duration"),
        ("health: {}", "backends.v2.health: `path` is missing"),
        ("health: {path: healthz}", "backends.v2.health.path: a path begins with /"),
        ("health: {path: /, interval: 9ms}", "backends.v2.health.interval: this is too often"),
        ("health: {path: /, interval: 0s}", "backends.v2.health.interval: this must be longer than zero"),
        ("health: {path: /, unhealthy_after: 0}", "backends.v2.health.unhealthy_after: this is below 1"),
        ("health: {path: /, healthy_after: 1001}", "backends.v2.health.healthy_after: this is above 1000"),
        ("ejection: {consecutive_failures: 0}", "backends.v2.ejection.consecutive_failures: this is below 1"),
        ("ejection: {base: 0s}", "backends.v2.ejection.base: this must be longer than zero"),
        ("ejection: {max_ejected: 101}", "backends.v2.ejection.max_ejected: percent is above 100"),
        ("limits: {max_connections: 0}", "backends.v2.limits.max_connections: this is below 1"),
        ("limits: {max_wait: 0s}", "backends.v2.limits.max_wait: this must be longer than zero"),
        ("retries: {attempts: 11}", "backends.v2.retries.attempts: this is above 10"),
        ("retries: {budget: 0}", &format!("backends.v2.retries.budget: {too_small}")),
    ] {
        let found = complaints(&text(lines));
        assert!(found.len() == 1 && found[0].starts_with(complaint), "{lines}: {found:?}");
    }
}

#[test]
fn what_others_call_http2_is_known_to_be_h2() {
    for (written, meant) in
        [("http2", "h2"), ("HTTP/2", "h2"), ("h2c", "h2"), ("grpc", "h2"), ("http/1.1", "http1"), ("htp1", "http1")]
    {
        let error = yaml(&text(&format!("protocol: {written}"))).unwrap_err();
        assert_eq!(error.faults()[0].help, Some(format!("did you mean `{meant}`?")), "{written}");
    }
}
