//! Backends with names: where requests go while name servers change their minds, fail, or say nothing.

use std::net::IpAddr;
use std::time::Instant;

use crate::support::dns::{NameServer, Say};
use crate::support::{Backend, PATIENCE, Tidegate, eventually};

const FAILURES: &str = "tidegate_dns_failures_total";

fn loopback(last: u8) -> IpAddr {
    IpAddr::from([127, 0, 0, last])
}

fn at(last: &[u8]) -> Vec<IpAddr> {
    last.iter().copied().map(loopback).collect()
}

/// A config that sends everything to `http://ledger.test:PORT`, with `servers` to ask and an answer good for a tenth of a second.
fn named(port: u16, servers: &[&NameServer]) -> String {
    let servers: Vec<String> = servers.iter().map(|server| format!("\"{}\"", server.address)).collect();
    format!(
        "dns: {{ servers: [{}], min_ttl: 100ms, max_ttl: 100ms, timeout: 500ms }}\n\
         backends: {{ only: {{ endpoints: [\"http://ledger.test:{port}\"] }} }}\n\
         routes: [{{ match: {{}}, backend: only }}]\n",
        servers.join(", ")
    )
}

/// Backends on one port of as many addresses of the loopback, from 127.0.0.1 on; each tells its name.
fn neighbours(names: [&'static str; 2]) -> [Backend; 2] {
    for _ in 0..100 {
        let first = Backend::named(names[0]);
        let answer = move |_: &crate::support::backend::Request| {
            crate::support::backend::ok(&[("x-backend", names[1])], names[1].as_bytes())
        };
        if let Some(second) = Backend::answering_at((loopback(2), first.address.port()).into(), answer) {
            return [first, second];
        }
    }
    panic!("no port is free on both addresses");
}

fn asks(tidegate: &Tidegate) -> String {
    tidegate.client().get("/", &[]).text()
}

#[test]
fn requests_go_to_the_address_that_a_name_has_and_no_request_asks_for_it() {
    let backend = Backend::named("old");
    let server = NameServer::saying("ledger.test", Say::Addresses(at(&[1]), 60));
    let long = named(backend.address.port(), &[&server]).replace("max_ttl: 100ms", "max_ttl: 5m");
    let tidegate = Tidegate::start(&long);
    for _ in 0..20 {
        assert_eq!(asks(&tidegate), "old");
    }
    assert_eq!(server.asked_for("ledger.test"), 1);
    assert!(tidegate.metric(FAILURES).abs() < 0.5);
}

#[test]
fn every_address_of_a_name_gets_its_share() {
    let [first, second] = neighbours(["first", "second"]);
    let server = NameServer::saying("ledger.test", Say::Addresses(at(&[2, 1]), 60));
    let tidegate = Tidegate::start(&named(first.address.port(), &[&server]));
    eventually("both are asked", || {
        asks(&tidegate);
        !first.requests().is_empty() && !second.requests().is_empty()
    });
}

#[test]
fn a_new_address_is_followed_and_requests_at_the_old_one_end_there() {
    let [first, second] = neighbours(["first", "second"]);
    let server = NameServer::saying("ledger.test", Say::Addresses(at(&[1]), 0));
    let tidegate = Tidegate::start(&named(first.address.port(), &[&server]));
    let mut kept = tidegate.client();
    assert_eq!(kept.get("/", &[]).text(), "first");
    server.say("ledger.test", Say::Addresses(at(&[2]), 0));
    eventually("a kept connection of a client goes to the new address", || kept.get("/", &[]).text() == "second");
    for _ in 0..10 {
        assert_eq!(asks(&tidegate), "second");
    }
    eventually("nobody holds on to the old address", || first.open_connections() == 0);
    assert!(second.connections() > 0);
}

#[test]
fn a_request_that_runs_ends_where_it_began() {
    let (arrived, is_there) = std::sync::mpsc::channel();
    let (let_go, may_end) = std::sync::mpsc::channel::<()>();
    let may_end = std::sync::Mutex::new(may_end);
    let slow = Backend::scripted(move |connection| {
        while let Some(request) = connection.read_request() {
            if request.target == "/slow" {
                arrived.send(()).unwrap();
                let _the_story_may_be_over = may_end.lock().unwrap().recv();
            }
            connection.write(&crate::support::backend::ok(&[], b"slow"));
        }
    });
    let server = NameServer::saying("ledger.test", Say::Addresses(at(&[1]), 0));
    let tidegate = Tidegate::start(&named(slow.address.port(), &[&server]));
    let mut client = tidegate.client();
    client.send("GET /slow HTTP/1.1\r\nhost: a\r\n\r\n");
    is_there.recv_timeout(PATIENCE).unwrap();
    server.say("ledger.test", Say::Addresses(at(&[9]), 0));
    eventually("nobody new goes there", || tidegate.client().get("/", &[]).status == 502);
    let_go.send(()).unwrap();
    assert_eq!(client.answer().text(), "slow");
}

#[test]
fn the_last_good_addresses_stay_through_every_failure() {
    let backend = Backend::named("old");
    let server = NameServer::saying("ledger.test", Say::Addresses(at(&[1]), 0));
    let tidegate = Tidegate::start(&named(backend.address.port(), &[&server]));
    assert_eq!(asks(&tidegate), "old");
    for trouble in [Say::NoSuchName, Say::ServerFailure, Say::Nothing, Say::Silence, Say::Garbage] {
        let failures = tidegate.metric(FAILURES);
        server.say("ledger.test", trouble.clone());
        eventually(&format!("{trouble:?} is counted"), || tidegate.metric(FAILURES) > failures);
        assert_eq!(asks(&tidegate), "old", "{trouble:?}");
        server.say("ledger.test", Say::Addresses(at(&[1]), 0));
        let asked = server.asked_for("ledger.test");
        eventually("it is asked again", || server.asked_for("ledger.test") > asked + 1);
        assert_eq!(asks(&tidegate), "old", "after {trouble:?}");
    }
}

#[test]
fn a_name_that_means_nothing_at_the_start_holds_up_nothing_and_is_tried_again() {
    let backend = Backend::named("old");
    let server = NameServer::saying("ledger.test", Say::Silence);
    let begun = Instant::now();
    let tidegate = Tidegate::start(&named(backend.address.port(), &[&server]));
    let answer = tidegate.client().get("/", &[]);
    assert!(matches!(answer.status, 502 | 503), "{answer:?}");
    assert!(begun.elapsed() < PATIENCE / 2);
    server.say("ledger.test", Say::Addresses(at(&[1]), 60));
    eventually("it is found", || asks(&tidegate) == "old");
}

#[test]
fn a_ttl_of_zero_is_no_reason_to_ask_without_end() {
    let backend = Backend::named("old");
    let server = NameServer::saying("ledger.test", Say::Addresses(at(&[1]), 0));
    let tidegate = Tidegate::start(&named(backend.address.port(), &[&server]).replace("ttl: 100ms", "ttl: 5m"));
    for _ in 0..50 {
        assert_eq!(asks(&tidegate), "old");
    }
    assert_eq!(server.asked_for("ledger.test"), 1);
}

#[test]
fn aliases_are_followed_and_long_answers_are_asked_for_over_tcp() {
    let backend = Backend::named("old");
    for say in [Say::Alias("real.ledger.test", at(&[1]), 60), Say::OnlyOverTcp(at(&[1]))] {
        let server = NameServer::saying("ledger.test", say.clone());
        let tidegate = Tidegate::start(&named(backend.address.port(), &[&server]));
        assert_eq!(asks(&tidegate), "old", "{say:?}");
    }
}

#[test]
fn the_next_server_is_asked_when_one_cannot_tell() {
    let backend = Backend::named("old");
    let good = NameServer::saying("ledger.test", Say::Addresses(at(&[1]), 60));
    for trouble in [Say::ServerFailure, Say::Silence] {
        let bad = NameServer::saying("ledger.test", trouble.clone());
        let tidegate = Tidegate::start(&named(backend.address.port(), &[&bad, &good]));
        assert_eq!(asks(&tidegate), "old", "{trouble:?}");
        assert!(bad.asked_for("ledger.test") > 0);
    }
}

#[test]
fn localhost_needs_no_name_server() {
    let backend = Backend::named("old");
    let port = backend.address.port();
    let nobody = crate::support::dead_address();
    let tidegate = Tidegate::start(&format!(
        "dns: {{ servers: [\"{nobody}\"] }}\nbackends: {{ only: {{ endpoints: [\"http://localhost:{port}\"] }} }}\n\
         routes: [{{ match: {{}}, backend: only }}]\n"
    ));
    for _ in 0..4 {
        assert_eq!(asks(&tidegate), "old");
    }
    assert!(tidegate.metric(FAILURES).abs() < 0.5);
}

#[test]
fn a_name_that_a_reload_brings_is_known_before_it_is_in_force() {
    let backend = Backend::named("old");
    let port = backend.address.port();
    let server = NameServer::saying("ledger.test", Say::Addresses(at(&[1]), 60));
    server.say("other.test", Say::Addresses(at(&[1]), 60));
    let config = named(port, &[&server]);
    let tidegate = Tidegate::start(&config);
    tidegate.edit(&config.replace("http://ledger.test", "http://other.test"));
    eventually("the new name is looked up", || {
        assert_eq!(asks(&tidegate), "old", "at no moment is there nobody");
        server.asked_for("other.test") > 0
    });
    assert_eq!(asks(&tidegate), "old");
}

#[test]
fn a_switch_does_not_lead_to_a_name_without_an_address() {
    let backend = Backend::named("blue");
    let server = NameServer::saying("green.test", Say::NoSuchName);
    let tidegate = Tidegate::start(&format!(
        "dns: {{ servers: [\"{}\"], timeout: 500ms }}\nrollout:\n  strategy: blue_green\n  blue: {}\n  \
         green: http://green.test\n  active: blue\n",
        server.address,
        backend.url()
    ));
    let admin = tidegate.admin.strip_prefix("http://").unwrap().parse().unwrap();
    let refused = crate::support::Client::connect(admin).order(
        "POST",
        "/api/v1/rollouts/default/switch",
        &serde_json::json!({"reason": "new release"}),
    );
    assert_eq!(refused.status, 409, "{}", refused.text());
    assert!(refused.text().contains("none of its names has an address"), "{}", refused.text());
}

#[test]
fn a_backend_that_is_nowhere_is_told_everywhere() {
    let nobody = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap(); // and gone again
    let tidegate = Tidegate::start(&format!(
        "dns: {{ servers: [\"{nobody}\"], timeout: 500ms }}\n\
         backends: {{ only: {{ endpoints: [\"http://ledger.test:80\"] }} }}\n\
         routes: [{{ match: {{}}, backend: only }}]\n"
    ));
    let told = || tidegate.admin("/api/v1/status").json()["backends"][0]["nowhere"][0].clone();
    let why = format!("ledger.test: the name server {nobody} cannot be reached");
    eventually("it is told why", || told() == why.as_str());
    for count in ["endpoints", "healthy_endpoints"] {
        let series = format!("tidegate_backend_{count}{{backend=\"only\"}}");
        let text = tidegate.admin("/metrics").text();
        assert!(text.lines().any(|line| line == format!("{series} 0")), "{count}: {text}");
    }
    assert_eq!(tidegate.client().get("/", &[]).status, 503);
}
