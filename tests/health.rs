//! Endpoints that are not well get no requests, and when none is left that is said.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering::SeqCst};

use serde_json::Value;

use crate::support::backend::ok;
use crate::support::proxy::PREAMBLE;
use crate::support::{Answer, Backend, Client, Tidegate, dead_address, eventually};

/// A backend whose health and whose answers are as a story says.
struct Patient {
    backend: Backend,
    /// The status of `/healthz`.
    health: Arc<AtomicU16>,
    /// The status of everything else.
    answers: Arc<AtomicU16>,
}

impl Patient {
    fn named(name: &'static str) -> Self {
        let (health, answers) = (Arc::new(AtomicU16::new(200)), Arc::new(AtomicU16::new(200)));
        let (healthy, answering) = (Arc::clone(&health), Arc::clone(&answers));
        let backend = Backend::answering(move |request| {
            let status = if request.target == "/healthz" { &healthy } else { &answering }.load(SeqCst);
            match status {
                200 => ok(&[("x-backend", name)], name.as_bytes()),
                status => format!("HTTP/1.1 {status} As Asked\r\ncontent-length: 0\r\n\r\n").into_bytes(),
            }
        });
        Self { backend, health, answers }
    }

    fn is_well(&self, it_is: bool) {
        self.health.store(if it_is { 200 } else { 503 }, SeqCst);
    }

    fn answers(&self, status: u16) {
        self.answers.store(status, SeqCst);
    }

    /// Requests that were no checks.
    fn requests(&self) -> usize {
        self.backend.requests().iter().filter(|request| request.target != "/healthz").count()
    }

    fn checks(&self) -> usize {
        self.backend.requests().iter().filter(|request| request.target == "/healthz").count()
    }
}

const QUICK: &str = "health: { path: /healthz, interval: 20ms, unhealthy_after: 2, healthy_after: 2 }";
/// Only the first check counts.
const ONCE: &str = "health: { path: /healthz, interval: 1h }";

fn config(endpoints: &[&Patient], lines: &str) -> String {
    let urls: Vec<String> = endpoints.iter().map(|endpoint| endpoint.backend.url()).collect();
    format!("backends:\n  only: {{ endpoints: {urls:?}, {lines} }}\nroutes:\n  - {{ backend: only }}\n")
}

fn before(endpoints: &[&Patient], lines: &str) -> Tidegate {
    Tidegate::start(&config(endpoints, lines))
}

fn is_healthy(tidegate: &Tidegate, backend: &str, patient: &Patient) -> bool {
    let series = format!("tidegate_endpoint_healthy{{backend=\"{backend}\",endpoint=\"{}\"}}", patient.backend.address);
    tidegate.metric(&series) == 1.0
}

fn ejections(tidegate: &Tidegate, patient: &Patient) -> f64 {
    let labels = format!("{{backend=\"only\",endpoint=\"{}\"}}", patient.backend.address);
    tidegate.metric(&format!("tidegate_endpoint_ejections_total{labels}"))
}

#[track_caller]
fn assert_nobody_is_fit(answer: &Answer) {
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")), "{answer:?}");
    assert_eq!(answer.header("proxy-status"), Some("tidegate; error=destination_unavailable"));
    assert_eq!(answer.header("server"), Some("tidegate"));
}

// -- checks

#[test]
fn who_is_not_well_gets_no_requests_until_it_is() {
    let (sick, well) = (Patient::named("sick"), Patient::named("well"));
    let tidegate = before(&[&sick, &well], QUICK);
    let mut client = tidegate.client();
    eventually("both are asked", || sick.checks() > 0 && well.checks() > 0);
    sick.is_well(false);
    eventually("one is out", || !is_healthy(&tidegate, "only", &sick));
    let had = sick.requests();
    for _ in 0..20 {
        assert_eq!(client.get("/", &[]).text(), "well");
    }
    assert_eq!(sick.requests(), had);
    sick.is_well(true);
    eventually("it is back", || is_healthy(&tidegate, "only", &sick));
    (0..20).for_each(|_| assert_eq!(client.get("/", &[]).status, 200));
    assert!(sick.requests() >= had + 8, "{} after {had}", sick.requests());
}

#[test]
fn who_takes_no_connection_is_not_well() {
    let well = Patient::named("well");
    let dead = dead_address();
    let urls = [format!("http://{dead}"), well.backend.url()];
    let lines = "retries: { attempts: 0 }, health: { path: /healthz, interval: 20ms }";
    let tidegate = Tidegate::start(&format!(
        "backends:\n  only: {{ endpoints: {urls:?}, {lines} }}\nroutes:\n  - {{ backend: only }}\n"
    ));
    let series = format!("tidegate_endpoint_healthy{{backend=\"only\",endpoint=\"{dead}\"}}");
    eventually("the first check has failed", || tidegate.metric(&series) == 0.0);
    let mut client = tidegate.client();
    (0..10).for_each(|_| assert_eq!(client.get("/", &[]).text(), "well"));
}

#[test]
fn when_nobody_is_well_that_is_said_and_when_it_is_over() {
    let (one, two) = (Patient::named("one"), Patient::named("two"));
    one.is_well(false);
    two.is_well(false);
    let tidegate = before(&[&one, &two], QUICK);
    eventually("both are out", || !is_healthy(&tidegate, "only", &one) && !is_healthy(&tidegate, "only", &two));
    let mut client = tidegate.client();
    (0..3).for_each(|_| assert_nobody_is_fit(&client.get("/", &[])));
    assert_eq!(one.requests() + two.requests(), 0);
    let failures = "tidegate_upstream_failures_total{rollout=\"\",side=\"\",cause=\"unhealthy\"}";
    assert_eq!(tidegate.metric(failures), 3.0);
    two.is_well(true);
    eventually("one is back", || is_healthy(&tidegate, "only", &two));
    assert_eq!(client.get("/", &[]).text(), "two");
}

#[test]
fn a_reload_keeps_what_is_known_and_asks_newcomers_at_once() {
    let (sick, well, newcomer) = (Patient::named("sick"), Patient::named("well"), Patient::named("newcomer"));
    sick.is_well(false);
    newcomer.is_well(false);
    let tidegate = before(&[&sick, &well], ONCE);
    eventually("one is out", || !is_healthy(&tidegate, "only", &sick));
    tidegate.edit(&config(&[&sick, &well, &newcomer], &format!("{ONCE}, balance: round_robin")));
    eventually("the newcomer is out", || newcomer.checks() == 1 && !is_healthy(&tidegate, "only", &newcomer));
    assert!(!is_healthy(&tidegate, "only", &sick));
    let mut client = tidegate.client();
    (0..10).for_each(|_| assert_eq!(client.get("/", &[]).text(), "well"));
    assert_eq!((sick.checks(), well.checks()), (1, 1), "nobody was asked again");
    tidegate.edit(&config(&[&sick, &well], "balance: round_robin"));
    eventually("without checks nothing speaks against it", || is_healthy(&tidegate, "only", &sick));
}

// -- who is told

/// A split between two backends that are looked after by `lines`, with `rollout` in the rollout.
fn split(old: &Patient, new: &Patient, lines: &str, rollout: &str) -> String {
    format!(
        "backends:\n  v1: {{ endpoints: [\"{}\"], {lines} }}\n  v2: {{ endpoints: [\"{}\"], {lines} }}\n\
         rollout:\n  old: v1\n  new: v2\n  key: header:x-user-id\n{rollout}",
        old.backend.url(),
        new.backend.url()
    )
}

fn status(tidegate: &Tidegate) -> Value {
    tidegate.admin("/api/v1/rollouts/default").json()
}

#[test]
fn status_and_events_say_who_is_out_and_why() {
    let (old, new) = (Patient::named("old"), Patient::named("new"));
    let tidegate = Tidegate::start(&split(&old, &new, QUICK, "  percent: 50\n"));
    let address = tidegate.admin.strip_prefix("http://").unwrap().parse().unwrap();
    let mut ear = Client::connect(address);
    ear.send("GET /api/v1/events HTTP/1.1\r\nhost: localhost\r\n\r\n");
    eventually("it is heard", || ear.stream.peek(&mut [0; 200]).is_ok_and(|n| n > 100));
    eventually("it is well", || status(&tidegate)["sides"]["new"]["endpoint_list"][0]["last_check"] == "is well");
    new.is_well(false);
    eventually("new is out", || status(&tidegate)["sides"]["new"]["healthy"] == 0);
    let side = status(&tidegate)["sides"]["new"].clone();
    assert_eq!((&side["endpoints"], &side["checked"]), (&1.into(), &true.into()));
    let endpoint = &side["endpoint_list"][0];
    assert_eq!(endpoint["endpoint"], new.backend.address.to_string());
    assert_eq!(endpoint["healthy"], false);
    assert_eq!(endpoint["why"], "2 checks in a row failed: it answered GET /healthz with 503");
    let told = "event: health\ndata: {\"at\":";
    let mut heard = String::new();
    eventually("it is told", || {
        let mut buffer = [0; 65536];
        let n = std::io::Read::read(&mut ear.stream, &mut buffer).unwrap();
        heard.push_str(&String::from_utf8_lossy(&buffer[..n]));
        heard.contains(told) && heard.contains("\"healthy\":false,\"why\":\"2 checks in a row failed")
    });
}

// -- failed requests

const EJECTING: &str = "ejection: { consecutive_failures: 3, base: 60s }";

#[test]
fn who_fails_requests_is_taken_out_for_a_while() {
    let patients = ["bad", "good", "best"].map(Patient::named);
    let [bad, good, best] = &patients;
    let tidegate = before(&[bad, good, best], "ejection: { consecutive_failures: 3, base: 2s }");
    let mut client = tidegate.client();
    bad.answers(503);
    eventually("one is out", || {
        client.get("/", &[]);
        !is_healthy(&tidegate, "only", bad)
    });
    assert_eq!(ejections(&tidegate, bad), 1.0);
    let had = bad.requests();
    (0..20).for_each(|_| assert_eq!(client.get("/", &[]).status, 200));
    assert_eq!(bad.requests(), had);
    bad.answers(200);
    eventually("it is back by itself", || is_healthy(&tidegate, "only", bad));
    (0..30).for_each(|_| assert_eq!(client.get("/", &[]).status, 200));
    assert!(bad.requests() > had);
    assert_eq!(ejections(&tidegate, bad), 1.0);
}

#[test]
fn who_answers_in_between_is_not_taken_out() {
    let (moody, good) = (Patient::named("moody"), Patient::named("good"));
    let tidegate = before(&[&moody, &good], EJECTING);
    let mut client = tidegate.client();
    for n in 0..40 {
        moody.answers(if n % 4 < 2 { 502 } else { 200 }); // it has every second request
        client.get("/", &[]);
    }
    moody.answers(500); // a failure of the service is for the guard
    (0..20).for_each(|_| drop(client.get("/", &[])));
    assert!(is_healthy(&tidegate, "only", &moody));
    assert_eq!(ejections(&tidegate, &moody), 0.0);
}

#[test]
fn half_of_them_stay_however_bad_they_are() {
    let patients = ["a", "b", "c", "d"].map(Patient::named);
    patients.iter().for_each(|patient| patient.answers(503));
    let tidegate = before(&patients.each_ref(), EJECTING);
    let mut client = tidegate.client();
    let out = || patients.iter().filter(|patient| !is_healthy(&tidegate, "only", patient)).count();
    eventually("two are out", || {
        client.get("/", &[]);
        out() == 2
    });
    (0..40).for_each(|_| assert_eq!(client.get("/", &[]).header("server"), None, "somebody answers"));
    assert_eq!(out(), 2);
}

#[test]
fn the_last_one_is_never_taken_out_and_one_comes_back_when_the_others_are_not_well() {
    let (failing, other) = (Patient::named("failing"), Patient::named("other"));
    let tidegate = before(&[&failing, &other], &format!("{QUICK}, ejection: {{ consecutive_failures: 3, base: 1h }}"));
    let mut client = tidegate.client();
    failing.answers(502);
    eventually("one is out", || {
        client.get("/", &[]);
        !is_healthy(&tidegate, "only", &failing)
    });
    failing.answers(200);
    other.is_well(false);
    eventually("the other one is out, and it is back", || {
        !is_healthy(&tidegate, "only", &other) && is_healthy(&tidegate, "only", &failing)
    });
    assert_eq!(client.get("/", &[]).text(), "failing");
    failing.answers(503);
    (0..10).for_each(|_| assert_eq!(client.get("/", &[]).header("server"), None));
    assert!(is_healthy(&tidegate, "only", &failing));
}

// -- sides that are down

const STANDS_IN: &str = "  percent: 50\n  fallback: other_side\n";

/// A split whose sides are down as it says. Users 0 and 99 are on NEW and OLD.
struct Sides {
    old: Patient,
    new: Patient,
    tidegate: Tidegate,
    client: Client,
}

impl Sides {
    fn down(old: bool, new: bool, rollout: &str) -> Self {
        Self::with(old, new, ONCE, rollout)
    }

    fn with(old_is_down: bool, new_is_down: bool, lines: &str, rollout: &str) -> Self {
        let (old, new) = (Patient::named("old"), Patient::named("new"));
        old.is_well(!old_is_down);
        new.is_well(!new_is_down);
        let tidegate = Tidegate::start(&split(&old, &new, lines, rollout));
        eventually("they are looked at", || {
            let is_out = |backend, patient| !is_healthy(&tidegate, backend, patient);
            let asked = old.checks() > 0 && new.checks() > 0;
            asked && is_out("v1", &old) == old_is_down && is_out("v2", &new) == new_is_down
        });
        let client = tidegate.client();
        Self { old, new, tidegate, client }
    }

    fn asks(&mut self, user: u32) -> Answer {
        self.client.get_as(user)
    }

    fn ended(&self, side: &str, reason: &str, class: &str) -> f64 {
        let labels = format!("rollout=\"default\",side=\"{side}\",reason=\"{reason}\",code_class=\"{class}\"");
        self.tidegate.metric(&format!("tidegate_requests_total{{{labels}}}"))
    }
}

#[test]
fn without_a_fallback_a_side_that_is_down_is_down_for_its_users_only() {
    let mut sides = Sides::down(false, true, "  percent: 50\n  guard: { enabled: false }\n");
    assert_nobody_is_fit(&sides.asks(0));
    assert_eq!(sides.asks(99).text(), "old");
    assert_eq!(sides.ended("new", "bucket", "error"), 1.0);
}

#[test]
fn the_other_side_answers_if_it_may() {
    for (old_is_down, user, side, other) in [(false, 0, "new", "old"), (true, 99, "old", "new")] {
        let mut sides = Sides::down(old_is_down, !old_is_down, STANDS_IN);
        assert_eq!(sides.asks(user).text(), other, "{side} is down");
        let asked = [&sides.old, &sides.new].into_iter().find(|patient| patient.requests() == 1).unwrap();
        let request = asked.backend.requests().into_iter().find(|request| request.target == "/").unwrap();
        assert_eq!(request.header("x-tidegate-side"), Some(other));
        assert_eq!(request.header("x-tidegate-reason"), Some("fallback"));
        eventually("it is counted", || sides.ended(other, "fallback", "2xx") == 1.0);
        assert_eq!(sides.ended(side, "bucket", "2xx"), 0.0);
    }
}

#[test]
fn where_both_are_down_nobody_answers() {
    let mut sides = Sides::down(true, true, STANDS_IN);
    for user in [0, 99] {
        assert_nobody_is_fit(&sides.asks(user));
    }
    assert_eq!(sides.ended("old", "bucket", "error") + sides.ended("new", "bucket", "error"), 2.0);
}

#[test]
fn nobody_falls_back_to_a_new_that_nobody_is_to_see() {
    let rolled_back = format!("{STANDS_IN}  rollback: true\n");
    let at_zero = STANDS_IN.replace("50", "0");
    let blue_green = "  fallback: other_side\n  strategy: blue_green\n  blue: v1\n  green: v2\n  active: blue\n";
    for rollout in [rolled_back.as_str(), &at_zero] {
        let mut sides = Sides::down(true, false, rollout);
        (0..20).for_each(|user| assert_nobody_is_fit(&sides.asks(user)));
        assert_eq!(sides.new.requests(), 0, "{rollout}");
    }
    let (old, new) = (Patient::named("old"), Patient::named("new"));
    old.is_well(false);
    let config = split(&old, &new, ONCE, blue_green).replace("  old: v1\n  new: v2\n  key: header:x-user-id\n", "");
    let tidegate = Tidegate::start(&config);
    eventually("blue is out", || !is_healthy(&tidegate, "v1", &old));
    assert_nobody_is_fit(&tidegate.client().get_as(1));
    assert_eq!(new.requests(), 0);
}

#[test]
fn nobody_falls_back_to_a_side_that_is_drained() {
    // Without a guard: it would take NEW away, and OLD has to answer then, drained or not.
    let mut sides = Sides::down(false, true, &format!("{STANDS_IN}  guard: {{ enabled: false }}\n"));
    let admin = sides.tidegate.admin.strip_prefix("http://").unwrap().parse().unwrap();
    let body = serde_json::json!({ "side": "old", "reason": "a story" });
    let drained = Client::connect(admin).order("POST", "/api/v1/rollouts/default/drain", &body);
    assert_eq!(drained.status, 200, "{}", drained.text());
    (0..10).for_each(|user| assert_nobody_is_fit(&sides.asks(user)));
    assert_eq!(sides.old.requests(), 0);
}

#[test]
fn a_tester_sees_the_side_that_was_asked_for() {
    let mut sides =
        Sides::down(false, true, &format!("{STANDS_IN}  force: {{ header: x-canary, networks: [127.0.0.0/8] }}\n"));
    assert_nobody_is_fit(&sides.client.get("/", &[("x-user-id", "0"), ("x-canary", "always")]));
    assert_eq!(sides.asks(0).text(), "old");
}

#[test]
fn one_failure_is_no_reason_to_fall_back() {
    let mut sides = Sides::down(false, false, &format!("{STANDS_IN}  guard: {{ enabled: false }}\n"));
    sides.new.answers(503);
    (0..20).for_each(|_| assert_eq!(sides.asks(0).status, 503));
    assert_eq!(sides.new.requests(), 20);
    assert_eq!(sides.old.requests(), 0);
}

#[test]
fn the_guard_takes_a_new_away_that_is_down_and_counts_no_fallback_for_it() {
    let mut sides = Sides::down(false, true, "  percent: 50\n");
    let mut user = 0;
    eventually("the guard has rolled back", || {
        user += 1;
        sides.asks(user * 97);
        status(&sides.tidegate)["rollback"]["active"] == true
    });
    let mut sides = Sides::down(false, true, STANDS_IN);
    (0..200).for_each(|user| assert_eq!(sides.asks(user * 97).text(), "old"));
    let status = status(&sides.tidegate);
    assert_eq!(status["rollback"]["active"], false);
    assert_eq!(status["guard"]["failures"]["counted"]["new"]["requests"], 0, "{status}");
}

#[test]
fn a_shield_stands_in_too() {
    let mut sides = Sides::down(false, true, "  percent: 50\n  shield: {}\n  guard: { enabled: false }\n");
    assert_eq!(sides.asks(0).text(), "old");
    assert_eq!(sides.tidegate.metric("tidegate_shielded_requests_total{rollout=\"default\"}"), 1.0);
}

#[test]
fn all_workers_know_it() {
    let (sick, well) = (Patient::named("sick"), Patient::named("well"));
    sick.is_well(false);
    let preamble = PREAMBLE.replace("workers: 2", "workers: 4");
    let tidegate = Tidegate::start_whole(&format!("{preamble}{}", config(&[&sick, &well], ONCE)));
    eventually("one is out", || !is_healthy(&tidegate, "only", &sick));
    let mut clients: Vec<Client> = (0..8).map(|_| tidegate.client()).collect();
    clients.iter_mut().for_each(|client| assert_eq!(client.get("/", &[]).text(), "well"));
}
