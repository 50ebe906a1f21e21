//! The public is turned away, politely; those who have to come in do.

use std::time::{Duration, SystemTime};

use tidegate::metrics::{Class, Why};
use tidegate::policy::decision::Side;
use tidegate::policy::standing::{Maintenance, RetryAfter, Standing};

use crate::support::plane::maintenance;
use crate::support::proxy::{single, split};
use crate::support::{Backend, Plane, eventually};

/// Two backends and a plane that splits between them, with these further lines.
fn closed(more: &str, files: &[(&str, &str)], maintenance: Maintenance) -> (Backend, Plane) {
    let backend = Backend::named("any");
    let mut plane = Plane::start(&format!("{}{more}", split(&backend, &backend, "50", "")), files);
    plane.maintain(maintenance);
    (backend, plane)
}

#[test]
fn the_public_is_turned_away_and_told_when_to_come_back() {
    let (backend, plane) = closed("", &[], maintenance());
    let mut client = plane.client();
    for _ in 0..2 {
        let answer = client.get_as(7);
        assert_eq!(answer.status, 503);
        assert_eq!(answer.header("retry-after"), Some("60"));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert_eq!(answer.header("server"), Some("tidegate"));
        assert_eq!(answer.header("proxy-status"), Some("tidegate; error=http_request_denied"));
        assert_eq!(answer.header("connection"), None, "the connection goes on");
    }
    client.send("HEAD / HTTP/1.1\r\nhost: service\r\n\r\n");
    let head = client.answer_to_head();
    assert_eq!((head.status, head.body.len()), (503, 0));
    assert_eq!(client.get_as(8).status, 503, "nothing of the page was left on the connection");
    assert_eq!(backend.connections(), 0);
    let turned_away = || plane.meters().turned_away().requests(Why::Maintenance, Class::ServerError);
    eventually("all four are counted", || turned_away() == 4);
    assert_eq!(plane.meters().side(Side::Old).total() + plane.meters().side(Side::New).total(), 0);
    assert_eq!(plane.meters().turned_away().inflight(), 0);
    eventually("all four are in the log", || plane.log().len() == 4);
    for line in plane.log() {
        assert_eq!((&line["reason"], &line["side"]), (&"maintenance".into(), &"".into()), "{line}");
        assert!(!line["rollout"].as_str().unwrap().is_empty(), "{line}");
    }
}

#[test]
fn it_ends_with_the_next_request() {
    let (_backend, mut plane) = closed("", &[], maintenance());
    let mut client = plane.client();
    assert_eq!(client.get_as(7).status, 503);
    plane.publish(|overlay| overlay.everything = Standing::default());
    assert_eq!(client.get_as(7).status, 200);
}

#[test]
fn a_body_that_is_turned_away_does_not_become_the_next_request() {
    let (_backend, plane) = closed("", &[], maintenance());
    let mut client = plane.client();
    for framing in ["content-length: 5\r\n\r\nhello", "transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"] {
        client.send(format!("POST / HTTP/1.1\r\nhost: service\r\n{framing}"));
        let answer = client.answer();
        assert_eq!((answer.status, answer.header("connection")), (503, None), "{framing}");
    }
    client.send("POST / HTTP/1.1\r\nhost: service\r\ncontent-length: 1000000\r\n\r\nGET / HTTP/1.1\r\n\r\n");
    let answer = client.answer();
    assert_eq!((answer.status, answer.header("connection")), (503, Some("close")));
    assert!(client.is_closed());
}

#[test]
fn a_client_that_wants_to_be_asked_for_its_body_is_not_asked() {
    let (_backend, plane) = closed("", &[], maintenance());
    let mut client = plane.client();
    client.send("POST / HTTP/1.1\r\nhost: service\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n");
    let answer = client.answer();
    assert_eq!((answer.status, answer.header("connection")), (503, Some("close")));
    assert!(client.is_closed());
}

#[test]
fn what_follows_a_request_to_upgrade_is_not_read() {
    let (_backend, plane) = closed("", &[], maintenance());
    let mut client = plane.client();
    client.send("GET / HTTP/1.1\r\nhost: service\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n");
    let answer = client.answer();
    assert_eq!((answer.status, answer.header("connection")), (503, Some("close")));
    assert!(client.is_closed());
}

#[test]
fn read_only_lets_those_pass_who_change_nothing() {
    let (backend, plane) = closed("", &[], Maintenance { read_only: true, ..maintenance() });
    let mut client = plane.client();
    for (method, status) in
        [("GET", 200), ("OPTIONS", 200), ("POST", 503), ("PUT", 503), ("PATCH", 503), ("DELETE", 503), ("PURGE", 503)]
    {
        client.send(format!("{method} / HTTP/1.1\r\nhost: service\r\nx-user-id: 7\r\n\r\n"));
        assert_eq!(client.answer().status, status, "{method}");
    }
    assert_eq!(backend.requests().len(), 2);
}

#[test]
fn the_balancer_hears_that_all_is_well() {
    let (backend, plane) = closed("maintenance: { health_paths: [/healthz] }\n", &[], maintenance());
    let mut client = plane.client();
    assert_eq!(client.get("/healthz", &[]).status, 200);
    client.send("HEAD /healthz HTTP/1.1\r\nhost: service\r\n\r\n");
    assert_eq!(client.answer_to_head().status, 200);
    assert_eq!(client.get("/healthz/", &[]).status, 503);
    client.send("POST /healthz HTTP/1.1\r\nhost: service\r\n\r\n");
    assert_eq!(client.answer().status, 503);
    assert_eq!(backend.connections(), 0);
}

#[test]
fn testers_come_in_by_token() {
    let bypass = "maintenance: { bypass: { header: x-look, cookie: look, token_file: token } }\n";
    let (_backend, plane) = closed(bypass, &[("token", "a-long-secret-token\n")], maintenance());
    let mut client = plane.client();
    for (name, value, status) in [
        ("x-look", "a-long-secret-token", 200),
        ("cookie", "look=a-long-secret-token", 200),
        ("x-look", "a-long-secret-tokem", 503),
        ("cookie", "look=a-long-secret", 503),
    ] {
        assert_eq!(client.get("/", &[("x-user-id", "7"), (name, value)]).status, status, "{name}: {value}");
    }
}

#[test]
fn testers_come_in_by_network_even_behind_a_proxy() {
    let bypass = "maintenance: { bypass: { networks: [192.0.2.0/24] } }\ntrusted_proxies: [127.0.0.0/8]\n";
    let (_backend, plane) = closed(bypass, &[], maintenance());
    let mut client = plane.client();
    assert_eq!(client.get("/", &[("x-forwarded-for", "192.0.2.7")]).status, 200);
    assert_eq!(client.get("/", &[("x-forwarded-for", "198.51.100.7")]).status, 503);
    assert_eq!(client.get("/", &[]).status, 503);
}

#[test]
fn whoever_may_choose_a_side_may_come_in() {
    let backend = Backend::named("any");
    let force = "  force: { header: x-canary, networks: [127.0.0.0/8] }\n";
    let mut plane = Plane::start(&split(&backend, &backend, "0", force), &[]);
    plane.maintain(maintenance());
    let mut client = plane.client();
    assert_eq!(client.get("/", &[("x-canary", "always")]).status, 200);
    assert_eq!(client.get("/", &[("x-canary", "perhaps")]).status, 503);
}

#[test]
fn everybody_gets_the_page_that_fits() {
    let pages = "maintenance: { message: 'Back <soon>', pages: { html: page.html } }\n";
    let (_backend, plane) = closed(pages, &[("page.html", "<h1>Ours</h1>")], maintenance());
    let mut client = plane.client();
    for (accept, content_type, body) in [
        ("text/html,*/*;q=0.8", "text/html; charset=utf-8", "<h1>Ours</h1>"),
        ("text/plain", "text/plain; charset=utf-8", "Back <soon>\n"),
        ("*/*", "application/problem+json", "\"detail\":\"Back <soon>\""),
    ] {
        let answer = client.get("/", &[("accept", accept)]);
        assert_eq!(answer.header("content-type"), Some(content_type), "{accept}");
        assert!(answer.text().contains(body), "{accept}: {}", answer.text());
    }
}

#[test]
fn a_time_to_come_back_may_be_a_date() {
    let at = SystemTime::now() + Duration::from_secs(3600);
    let (_backend, plane) = closed("", &[], Maintenance { retry_after: Some(RetryAfter::At(at)), ..maintenance() });
    let answer = plane.client().get_as(7);
    let told = answer.header("retry-after").unwrap();
    assert!(told.ends_with(" GMT") && told.len() == 29, "{told}");
}

#[test]
fn a_route_to_a_backend_is_closed_with_everything() {
    let backend = Backend::named("only");
    let mut plane = Plane::start(&single(&backend), &[]);
    plane.maintain(maintenance());
    assert_eq!(plane.client().get("/", &[]).status, 503);
    let unsplit = plane.registry.unsplit();
    eventually("it is counted", || unsplit.requests(Why::Maintenance, Class::ServerError) == 1);
}

#[test]
fn one_route_or_one_rollout_can_be_closed_alone() {
    let (ledger, docs) = (Backend::named("ledger"), Backend::named("docs"));
    let config = format!(
        "backends: {{ a: {{ endpoints: ['{}'] }}, b: {{ endpoints: ['{}'] }} }}\n\
         rollouts: {{ ledger: {{ old: a, new: a, percent: 0, key: header:x-user-id }} }}\n\
         routes:\n  - {{ name: pay, match: {{ path: /pay }}, rollout: ledger }}\n  - {{ name: docs, match: {{}}, backend: b }}\n",
        ledger.url(),
        docs.url()
    );
    let mut plane = Plane::start(&config, &[]);
    let mut client = plane.client();
    let standing = || Standing { maintenance: Some(maintenance()), hold: None };
    plane.publish(|overlay| drop(overlay.routes.insert("docs".to_owned(), standing())));
    assert_eq!([client.get("/pay", &[]).status, client.get("/docs", &[]).status], [200, 503]);
    plane.publish(|overlay| {
        overlay.routes.clear();
        overlay.rollouts.entry("ledger".to_owned()).or_default().standing = standing();
    });
    assert_eq!([client.get("/pay", &[]).status, client.get("/docs", &[]).status], [503, 200]);
}
