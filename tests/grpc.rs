//! gRPC through tidegate, with the client and the server that Google makes: every kind of call, and how calls end.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, HeaderName, Method, Response};
use serde_json::json;
use tidegate::app::Signal;
use tidegate::policy::decision::Side;
use tidegate::policy::drain::Drain;
use tidegate::policy::standing::Maintenance;
use tokio::time::sleep;

use crate::support::foreign::{Server, done, python};
use crate::support::http2::{self, Client, Exchange, read, request, run, send};
use crate::support::plane::{maintenance, somebody};
use crate::support::tls::Authority;
use crate::support::{PATIENCE, Plane, Tidegate, dead_address, eventually, eventually_here};

fn service(arguments: &[&str]) -> Server {
    Server::start("grpc_service.py", arguments)
}

/// A config that sends everything to one service, with more keys for its backend.
fn before(address: std::net::SocketAddr, more: &str) -> String {
    format!(
        "backends:\n  only: {{ endpoints: [\"http://{address}\"], protocol: h2{more} }}\n\
         routes:\n  - match: {{}}\n    backend: only\n"
    )
}

/// Does a story of `grpc_client.py` and gives what it said.
#[track_caller]
fn does(tidegate: &Tidegate, story: &str, arguments: &[&str]) -> String {
    does_at(tidegate.address, story, arguments)
}

#[track_caller]
fn does_at(address: std::net::SocketAddr, story: &str, arguments: &[&str]) -> String {
    let address = address.to_string();
    done(python("grpc_client.py", &[&[address.as_str(), story], arguments].concat()), 2 * PATIENCE)
}

#[test]
fn every_kind_of_call_passes() {
    let service = service(&[]);
    let tidegate = Tidegate::start(&before(service.address, ""));
    for story in ["kinds", "interleaved", "large", "many", "metadata", "errors"] {
        does(&tidegate, story, &[]);
    }
    let told = |status: &str| {
        tidegate.metric(&format!("tidegate_grpc_responses_total{{rollout=\"\",side=\"\",grpc_status=\"{status}\"}}"))
    };
    eventually("all good calls are counted", || told("OK") >= 300.0);
    for status in ["CANCELLED", "NOT_FOUND", "UNAUTHENTICATED", "UNAVAILABLE"] {
        eventually("those that failed are counted", || told(status) == 2.0);
    }
}

#[test]
fn every_kind_of_call_passes_through_tls() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new("test");
    authority.issue(&["localhost"]).put(dir.path(), "a");
    std::fs::write(dir.path().join("ca.pem"), authority.pem()).unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let service = service(&["", &path("a.crt"), &path("a.key")]);
    let tidegate = Tidegate::start_whole(&format!(
        "admin: {{ address: 127.0.0.1:0 }}\nworkers: 2\nshutdown: {{ readiness_delay: 0s, drain_timeout: 2s }}\n\
         listeners:\n  - address: 127.0.0.1:0\n    tls: {{ certificate: {}, key: {} }}\n\
         backends:\n  only:\n    endpoints: [\"https://localhost:{}\"]\n    tls: {{ ca: {} }}\n\
         routes:\n  - match: {{}}\n    backend: only\n",
        path("a.crt"),
        path("a.key"),
        service.address.port(),
        path("ca.pem")
    ));
    let address = format!("localhost:{}", tidegate.address.port());
    for story in ["kinds", "interleaved", "large", "metadata", "errors"] {
        let mut client = python("grpc_client.py", &[&address, story]);
        client.env("CA", path("ca.pem"));
        done(client, 2 * PATIENCE);
    }
}

#[test]
fn deadlines_and_cancels_reach_the_service() {
    let service = service(&[]);
    let tidegate = Tidegate::start(&before(service.address, ""));
    does(&tidegate, "deadlines", &[]);
    let service = self::service(&[]);
    let tidegate = Tidegate::start(&before(service.address, ""));
    does(&tidegate, "cancels", &[]);
}

#[test]
fn a_stream_may_be_silent_for_longer_than_an_answer_may_take() {
    let service = service(&[]);
    let config = before(service.address, ", timeouts: { response: 300ms }");
    let tidegate = Tidegate::start(&format!("{config}timeouts: {{ body_idle: 300ms }}\n"));
    does(&tidegate, "silent", &["1"]);
}

#[test]
fn a_stream_that_is_silent_for_too_long_is_told_so_and_nobody_is_blamed() {
    let service = service(&[]);
    let tidegate = Tidegate::start(&before(service.address, ", timeouts: { stream_idle: 300ms }"));
    assert_eq!(does(&tidegate, "calls", &["1", "sleep 2"]).trim(), "[('UNAVAILABLE', 1)]");
    run(async {
        let backend = http2::Backend::doing(|mut exchange: Exchange| async move {
            let mut answer = exchange.respond.send_response(Response::new(()), false).unwrap();
            send(&mut answer, "begun".into(), false).await.unwrap();
            let _until_the_end = std::future::poll_fn(|cx| answer.poll_reset(cx)).await;
        });
        let tidegate = Tidegate::start(&before(backend.address, ", timeouts: { stream_idle: 300ms }"));
        let mut client = Client::connect(tidegate.address).await;
        let answer = client.ask(call("/story.Service/Bidi", &[]), b"").await.unwrap();
        assert_eq!(answer.text(), "begun");
        let trailers = answer.trailers.unwrap();
        assert_eq!(trailers["grpc-status"], "14");
        assert_eq!(trailers["grpc-message"], "There was no message for too long.");
        assert!(!tidegate.admin("/metrics").text().contains("cause=\"truncated\""));
    });
}

/// A call of gRPC.
fn call(method: &str, more: &[(&str, &str)]) -> http::Request<()> {
    request(Method::POST, method, &[&[("content-type", "application/grpc"), ("te", "trailers")], more].concat())
}

// -- what tidegate says itself

#[test]
fn a_call_is_told_in_its_own_words_what_we_have_to_say() {
    let dead = Tidegate::start(&before(dead_address(), ""));
    does(&dead, "told", &["UNAVAILABLE", "The backend takes no connection."]);
    let service = service(&[]);
    let elsewhere = Tidegate::start(&format!(
        "backends:\n  only: {{ endpoints: [\"http://{}\"], protocol: h2 }}\n\
         routes:\n  - match: {{ path: /elsewhere }}\n    backend: only\n",
        service.address
    ));
    does(&elsewhere, "told", &["UNIMPLEMENTED", "No route covers this request."]);
}

#[test]
fn a_call_is_told_of_maintenance() {
    let service = service(&[]);
    let mut plane = Plane::start(&before(service.address, ""), &[]);
    plane.maintain(Maintenance { message: Some("back at 5, 100% sure \u{e4}".to_owned()), ..maintenance() });
    does_at(plane.address, "told", &["UNAVAILABLE", "back at 5, 100% sure \u{e4}", "60"]);
    eventually("all are in the log", || plane.log().len() == 4);
    for line in plane.log() {
        let shown = [&line["status"], &line["grpc_status"], &line["class"], &line["reason"]];
        assert_eq!(shown, [&json!(503), &json!(14), &json!("5xx"), &json!("maintenance")]);
    }
}

#[test]
fn an_answer_of_ours_to_a_call_is_only_trailers() {
    let tidegate = Tidegate::start(&format!("{}limits: {{ max_body: 10 }}\n", before(dead_address(), "")));
    run(async {
        let mut client = Client::connect(tidegate.address).await;
        for (more, status, message) in [
            (&[][..], "14", "The backend takes no connection."),
            (&[("content-length", "11")], "8", "The request body is too large."),
            (&[("expect", "200-ok")], "12", "Only 100-continue can be expected."),
            (&[("host", "other")], "13", "Host is not the authority of the request target."),
        ] {
            let (response, _) = client.begin(call("/story.Service/Unary", more), more.is_empty()).await;
            let response = response.await.unwrap();
            assert!(response.body().is_end_stream(), "{more:?}");
            let answer = read(response).await.unwrap();
            assert_eq!((answer.status.as_u16(), answer.header("content-type")), (200, Some("application/grpc")));
            assert_eq!((answer.header("grpc-status"), answer.header("grpc-message")), (Some(status), Some(message)));
            assert!(answer.header("proxy-status").unwrap().starts_with("tidegate; error="));
            assert_eq!((answer.header("content-length"), &answer.trailers), (None, &None));
        }
        let answer = client.ask(request(Method::POST, "/", &[("content-type", "application/grpc-web")]), b"").await;
        assert_eq!(answer.unwrap().status, 502, "that is another protocol");
    });
    let counted = "tidegate_requests_total{rollout=\"\",side=\"\",reason=\"backend\",code_class=\"error\"}";
    assert_eq!(tidegate.metric(counted), 2.0, "it is no success for that");
    let told = "tidegate_grpc_responses_total{rollout=\"\",side=\"\",grpc_status=\"UNAVAILABLE\"}";
    assert_eq!(tidegate.metric(told), 1.0);
}

#[test]
fn a_call_ends_at_its_deadline_whoever_forgets_it() {
    let backend = http2::Backend::doing(|mut exchange: Exchange| async move {
        let _until_the_end = std::future::poll_fn(|cx| exchange.respond.poll_reset(cx)).await;
    });
    let tidegate = Tidegate::start(&before(backend.address, ""));
    run(async {
        let mut client = Client::connect(tidegate.address).await;
        let since = Instant::now();
        let answer = client.ask(call("/story.Service/Unary", &[("grpc-timeout", "300m")]), b"message").await.unwrap();
        assert_eq!(answer.header("grpc-status"), Some("4"));
        assert!(since.elapsed() >= Duration::from_millis(300) && since.elapsed() < Duration::from_secs(2));
        assert_eq!(backend.heads()[0].headers["grpc-timeout"], "300m");
    });
    let told = "tidegate_grpc_responses_total{rollout=\"\",side=\"\",grpc_status=\"DEADLINE_EXCEEDED\"}";
    eventually("it is counted", || tidegate.metric(told) == 1.0);
}

// -- how calls end that have begun

fn trailers(lines: &[(&'static str, &str)]) -> HeaderMap {
    lines.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
}

#[test]
fn a_call_whose_service_breaks_off_is_told_why() {
    for (reason, status) in [
        (Reason::CANCEL, "1"),
        (Reason::INTERNAL_ERROR, "13"),
        (Reason::ENHANCE_YOUR_CALM, "8"),
        (Reason::REFUSED_STREAM, "14"),
    ] {
        let backend = http2::Backend::doing(move |mut exchange: Exchange| async move {
            let mut answer = exchange.respond.send_response(Response::new(()), false).unwrap();
            send(&mut answer, "begun".into(), false).await.unwrap();
            sleep(Duration::from_millis(50)).await; // so that it is on its way
            answer.send_reset(reason);
        });
        let tidegate = Tidegate::start(&before(backend.address, ""));
        run(async {
            let mut client = Client::connect(tidegate.address).await;
            let answer = client.ask(call("/story.Service/Bidi", &[]), b"").await.unwrap();
            let told = trailers(&[("grpc-status", status), ("grpc-message", "The backend's answer broke off.")]);
            assert_eq!((answer.text(), &answer.trailers), ("begun", &Some(told)), "{reason:?}");
        });
        let failures = "tidegate_upstream_failures_total{rollout=\"\",side=\"\",cause=\"truncated\"}";
        eventually("it is counted", || tidegate.metric(failures) == 1.0);
    }
}

/// A backend whose answers do not end: that to `/begun` has begun, others have not.
fn endless() -> http2::Backend {
    http2::Backend::doing(|mut exchange: Exchange| async move {
        if exchange.head.uri.path() == "/begun" {
            let mut answer = exchange.respond.send_response(Response::new(()), false).unwrap();
            send(&mut answer, "begun".into(), false).await.unwrap();
            let _until_the_end = std::future::poll_fn(|cx| answer.poll_reset(cx)).await;
        } else {
            let _until_the_end = std::future::poll_fn(|cx| exchange.respond.poll_reset(cx)).await;
        }
    })
}

#[test]
fn a_call_that_is_cut_off_is_told_to_go_elsewhere() {
    let backend = endless();
    let old = http2::Backend::echoing();
    let mut plane = Plane::start(
        &format!(
            "backends:\n  stable: {}\n  canary: {}\n\
             rollout: {{ old: stable, new: canary, key: \"header:x-user-id\", percent: 100 }}\n",
            old.config(),
            backend.config()
        ),
        &[],
    );
    run(async {
        let mut client = Client::connect(plane.address).await;
        let begun = client.begin(call("/begun", &[("x-user-id", "1")]), true).await.0.await.unwrap();
        let waiting = client.begin(call("/waiting", &[("x-user-id", "1")]), true).await.0;
        eventually_here("both run", || backend.heads().len() == 2).await;
        let name = plane.snapshot().rollouts[0].name.clone();
        let (side, cut_in) = (Side::New, Some(Duration::ZERO));
        let drain = Drain { side, cut_in, at: SystemTime::now(), by: somebody(), reason: String::new() };
        plane.publish(|overlay| overlay.rollouts.entry(name).or_default().drain = Some(drain));
        let told = read(begun).await.unwrap();
        assert_eq!(told.text(), "begun");
        assert_eq!(told.trailers.unwrap()["grpc-status"], "14");
        assert_eq!(waiting.await.unwrap().headers()["grpc-status"], "14");
    });
}

/// What tidegate, alone before a service at `address`, ends calls with that run for longer than its drain may take.
fn leaves_at_once(address: std::net::SocketAddr) -> Tidegate {
    Tidegate::start_whole(&format!(
        "listen: 127.0.0.1:0\nadmin: {{ address: 127.0.0.1:0 }}\nworkers: 1\naccess_log: access.log\n\
         shutdown: {{ readiness_delay: 0s, drain_timeout: 200ms }}\n{}",
        before(address, "")
    ))
}

#[test]
fn a_call_that_outlasts_the_drain_is_told_and_its_line_is_in_the_log() {
    let service = service(&[]);
    let mut tidegate = leaves_at_once(service.address);
    let address = tidegate.address.to_string();
    let mut client = python("grpc_client.py", &[&address, "broken", "UNAVAILABLE", "The call was cut off."]);
    let mut client = client.stdout(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(client.stdout.take().unwrap()).lines();
    assert_eq!(said.next().unwrap().unwrap(), "begun");
    tidegate.signal(Signal::Leave);
    assert!(client.wait().unwrap().success());
    tidegate.wait();
    assert_eq!(logged(&tidegate), [[json!(200), json!(14), json!("error")]]);
}

#[test]
fn calls_that_outlast_the_drain_are_all_told_on_their_connection() {
    let backend = endless();
    let mut tidegate = leaves_at_once(backend.address);
    run(async {
        let mut client = Client::connect(tidegate.address).await;
        let mut begun = Vec::new();
        for _ in 0..20 {
            begun.push(client.begin(call("/begun", &[]), false).await.0.await.unwrap());
        }
        let waiting = client.begin(call("/waiting", &[]), true).await.0;
        eventually_here("all run", || backend.heads().len() == 21).await;
        tidegate.signal_from_here(Signal::Leave).await;
        for begun in begun {
            let told = read(begun).await.unwrap();
            assert_eq!(told.trailers.unwrap()["grpc-status"], "14");
        }
        assert_eq!(waiting.await.unwrap().headers()["grpc-status"], "14");
        client.driver.await.unwrap().unwrap();
    });
    tidegate.wait();
    let lines = logged(&tidegate);
    assert_eq!(lines.len(), 21);
    assert!(lines.iter().all(|[_, status, class]| (status, class) == (&json!(14), &json!("error"))), "{lines:?}");
}

/// Of each line of the access log the status, that of gRPC, and the class.
fn logged(tidegate: &Tidegate) -> Vec<[serde_json::Value; 3]> {
    let text = std::fs::read_to_string(tidegate.dir.path().join("access.log")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    lines.map(|line| ["status", "grpc_status", "class"].map(|key| line[key].clone())).collect()
}

#[test]
fn a_call_that_ends_without_a_status_has_not_ended_well() {
    let backend = http2::Backend::doing(|exchange: Exchange| exchange.answer("an answer"));
    let tidegate = Tidegate::start(&before(backend.address, ""));
    run(async {
        let mut client = Client::connect(tidegate.address).await;
        client.ask(call("/story.Service/Unary", &[]), b"").await.unwrap();
    });
    let told = "tidegate_grpc_responses_total{rollout=\"\",side=\"\",grpc_status=\"UNKNOWN\"}";
    eventually("it is counted", || tidegate.metric(told) == 1.0);
}

#[test]
fn a_service_that_vanishes_in_the_middle_is_unavailable() {
    let service = service(&[]);
    let tidegate = Tidegate::start(&before(service.address, ""));
    let mut client = python("grpc_client.py", &[&tidegate.address.to_string(), "broken", "UNAVAILABLE"]);
    let mut client = client.stdout(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(client.stdout.take().unwrap()).lines();
    assert_eq!(said.next().unwrap().unwrap(), "begun");
    drop(service);
    assert!(client.wait().unwrap().success());
}

#[test]
fn a_process_that_leaves_lets_calls_finish() {
    let service = service(&[]);
    let mut tidegate = Tidegate::start(&before(service.address, ""));
    let address = tidegate.address;
    let client = std::thread::spawn(move || does_at(address, "calls", &["3", "sleep 1"]));
    eventually("they run", || tidegate.metric("tidegate_inflight_requests{rollout=\"\",side=\"\"}") == 3.0);
    tidegate.signal(Signal::Leave);
    assert_eq!(client.join().unwrap().trim(), "[('OK', 3)]");
    tidegate.wait();
}

// -- what the guard makes of it

/// tidegate between a service that is well and one that does `always` the same.
fn split(always: &str) -> (Server, Server, Tidegate) {
    let (old, new) = (service(&[]), service(&[always]));
    let tidegate = Tidegate::start(&format!(
        "backends:\n  stable: {{ endpoints: [\"http://{}\"], protocol: h2 }}\n  \
         canary: {{ endpoints: [\"http://{}\"], protocol: h2 }}\n\
         rollout: {{ old: stable, new: canary, key: \"header:x-user-id\", percent: 20 }}\n",
        old.address, new.address
    ));
    (old, new, tidegate)
}

fn verdict(tidegate: &Tidegate) -> String {
    let guard = tidegate.admin("/api/v1/rollouts/default/guard").json();
    guard["verdict"].as_str().unwrap().to_owned()
}

#[test]
fn a_new_whose_calls_fail_is_taken_away() {
    for (always, timeout, status) in [
        ("fail 13 broken", "15", "INTERNAL"),
        ("fail 14 broken", "15", "UNAVAILABLE"),
        ("sleep 20", "0.4", "DEADLINE_EXCEEDED"),
    ] {
        let (_old, _new, tidegate) = split(always);
        eventually("the guard has seen enough", || {
            does(&tidegate, "calls", &["200", "hello", timeout]);
            verdict(&tidegate) == "tripped"
        });
        let told =
            format!("tidegate_grpc_responses_total{{rollout=\"default\",side=\"new\",grpc_status=\"{status}\"}}");
        assert!(tidegate.metric(&told) >= 3.0, "{always}");
        let all = does(&tidegate, "calls", &["100", "hello"]);
        assert_eq!(all.trim(), "[('OK', 100)]", "{always}");
    }
}

#[test]
fn calls_that_fail_are_failures_in_status_too() {
    let (_old, _new, tidegate) = split("fail 13 broken");
    eventually("some are on new", || {
        does(&tidegate, "calls", &["20", "hello"]);
        let sides = tidegate.admin("/api/v1/status").json()["rollouts"][0]["sides"].clone();
        let (new, failed) = (sides["new"]["requests"].as_u64(), sides["new"]["failures"].as_u64());
        assert_eq!(new, failed);
        assert_eq!(sides["old"]["failures"], 0);
        new > Some(0)
    });
}

#[test]
fn what_a_caller_has_done_wrong_is_not_the_services_failure() {
    for always in ["fail 3 bad argument", "fail 5 not found", "fail 16 who are you"] {
        let (_old, _new, tidegate) = split(always);
        for _ in 0..3 {
            does(&tidegate, "calls", &["200", "hello"]);
        }
        assert_eq!(verdict(&tidegate), "healthy", "{always}");
    }
}

#[test]
fn a_service_that_forgets_its_trailers_is_taken_away() {
    let old = http2::Backend::doing(|mut exchange: Exchange| async move {
        let mut answer = exchange.respond.send_response(Response::new(()), false).unwrap();
        answer.send_data(Bytes::from("message"), false).unwrap();
        answer.send_trailers(trailers(&[("grpc-status", "0")])).unwrap();
    });
    let new = http2::Backend::doing(|exchange: Exchange| exchange.answer("message"));
    let tidegate = Tidegate::start(&format!(
        "backends:\n  stable: {}\n  canary: {}\n\
         rollout: {{ old: stable, new: canary, key: \"header:x-user-id\", percent: 20 }}\n",
        old.config(),
        new.config()
    ));
    run(async {
        let mut client = Client::connect(tidegate.address).await;
        for user in 0.. {
            if user % 100 == 0 && verdict(&tidegate) == "tripped" {
                break;
            }
            let user = user.to_string();
            client.ask(call("/story.Service/Unary", &[("x-user-id", &user)]), b"").await.unwrap();
        }
    });
}
