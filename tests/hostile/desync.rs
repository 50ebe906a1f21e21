//! Two ends that disagree on where a request begins: what is left over on a connection is never somebody's next request,
//! and never somebody's answer.

use std::io::{Read as _, Write as _};
use std::sync::mpsc::channel;
use std::sync::{Arc, Barrier, Mutex};

use super::{assert_alive, assert_closed, misbehaving, reached, whole};
use crate::support::backend::{Connection, ok};
use crate::support::{Backend, PATIENCE, Tidegate, dead_address, eventually};

const EVIL: &str = "GET /evil HTTP/1.1\r\nhost: x\r\n\r\n";

/// `/down` leads to a backend that takes no connection, everything else to `alive`.
fn half_down(alive: &Backend) -> String {
    format!(
        "backends:\n  alive: {{ endpoints: [\"{}\"] }}\n  dead: {{ endpoints: [\"http://{}\"] }}\n\
         routes:\n  - match: {{ path: /down }}\n    backend: dead\n  - match: {{}}\n    backend: alive\n",
        alive.url(),
        dead_address(),
    )
}

/// The lines of the access log, once tidegate has ended.
fn log_of(mut tidegate: Tidegate, log: &std::path::Path) -> Vec<serde_json::Value> {
    tidegate.signal(tidegate::app::Signal::Leave);
    tidegate.wait();
    let text = std::fs::read_to_string(log).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn the_body_of_a_request_that_we_answer_ourselves_is_not_the_next_request() {
    let alive = Backend::named("alive");
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("access.log");
    let tidegate = Tidegate::start(&format!("access_log: {}\n{}", log.display(), half_down(&alive)));
    let length = EVIL.len();
    for framed in [
        format!("content-length: {length}\r\n\r\n{EVIL}"),
        format!("transfer-encoding: chunked\r\n\r\n{length:x}\r\n{EVIL}\r\n0\r\n\r\n"),
    ] {
        let mut client = tidegate.client();
        client.send(format!(
            "POST /down HTTP/1.1\r\nhost: service\r\n{framed}GET /next HTTP/1.1\r\nhost: service\r\n\r\n"
        ));
        assert_eq!(client.answer().status, 502);
        let next = client.finish().try_answer(false);
        assert!(next.is_none_or(|answer| answer.text() == "alive"), "the next request is served or not read");
        assert_alive(&tidegate, "it");
    }
    assert!(reached(&alive).iter().all(|target| target == "/next"));
    let paths: Vec<String> = log_of(tidegate, &log).iter().map(|line| line["path"].to_string()).collect();
    assert_eq!(paths.iter().filter(|path| path.contains("down")).count(), 2);
    assert!(!paths.iter().any(|path| path.contains("evil")), "{paths:?}");
}

#[test]
fn the_body_of_a_refused_request_is_not_the_next_request() {
    let backend = Backend::named("only");
    let tidegate = Tidegate::before(&backend);
    let length = EVIL.len();
    for lines in ["expect: miracles\r\n", "connection: cookie\r\n", "host: again\r\n"] {
        let mut client = tidegate.client();
        client.send(format!("POST / HTTP/1.1\r\nhost: service\r\n{lines}content-length: {length}\r\n\r\n{EVIL}{EVIL}"));
        assert!(matches!(client.answer().status, 400 | 417));
        assert!(client.is_closed());
        assert_alive(&tidegate, lines);
    }
    assert!(reached(&backend).is_empty());
}

#[test]
fn an_answer_before_the_end_of_the_upload_ends_both_connections() {
    let (backend, closed) = early(b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 3\r\n\r\nbig");
    let tidegate = Tidegate::before(&backend);
    let mut client = tidegate.client();
    let mut uploader = client.stream.try_clone().unwrap();
    let upload = std::thread::spawn(move || {
        let _it_is_cut_short = uploader
            .write_all(b"POST /bad HTTP/1.1\r\nhost: service\r\ncontent-length: 10485760\r\n\r\n")
            .and_then(|()| uploader.write_all(&vec![b'a'; 10 << 20]));
    });
    let answer = client.answer();
    assert_eq!((answer.status, answer.text().as_str()), (413, "big"));
    assert_eq!(answer.header("connection"), Some("close"));
    assert_closed(&closed, "an early answer");
    upload.join().unwrap();
    assert_alive(&tidegate, "an early answer");
}

/// A backend that answers `/bad` with these bytes when it has seen only the head, and then waits to be closed.
fn early(answer: &'static [u8]) -> (Backend, std::sync::mpsc::Receiver<bool>) {
    let (told, closed) = channel();
    let told = Mutex::new(told);
    let backend = Backend::scripted(move |connection: &mut Connection| {
        while connection.read_head().is_some() {
            if !connection.peek().starts_with(b"POST /bad") {
                connection.read_request();
                connection.write(&ok(&[], b"fine"));
                continue;
            }
            connection.write(answer);
            let _the_story_may_be_over = told.lock().unwrap().send(connection.is_closed_by_peer());
            return;
        }
    });
    (backend, closed)
}

#[test]
fn a_body_is_read_by_its_own_framing_whatever_the_method() {
    let length = EVIL.len();
    for (method, lines) in [("GET", ""), ("DELETE", ""), ("OPTIONS", ""), ("GET", "expect: 100-continue\r\n")] {
        for framed in [
            format!("content-length: {length}\r\n\r\n{EVIL}"),
            format!("transfer-encoding: chunked\r\n\r\n{length:x}\r\n{EVIL}\r\n0\r\n\r\n"),
        ] {
            let backend = Backend::named("only");
            let tidegate = Tidegate::before(&backend);
            let mut client = tidegate.client();
            client.send(format!("{method} /one HTTP/1.1\r\nhost: service\r\n{lines}{framed}"));
            client.send("GET /two HTTP/1.1\r\nhost: service\r\n\r\n");
            let mut statuses: Vec<u16> = std::iter::from_fn(|| Some(client.answer().status)).take(2).collect();
            if statuses.contains(&100) {
                statuses.push(client.answer().status);
                statuses.retain(|status| *status != 100);
            }
            assert_eq!(statuses, [200, 200], "{method} {lines:?} {framed:?}");
            let requests = whole(&backend);
            assert_eq!(requests.iter().map(|request| &*request.target).collect::<Vec<_>>(), ["/one", "/two"]);
            assert_eq!(requests[0].body, EVIL.as_bytes());
            assert_alive(&tidegate, method);
        }
    }
}

#[test]
fn a_client_that_waits_is_told_to_continue_by_us_and_the_backend_hears_nothing_of_it() {
    let backend = Backend::named("only");
    let tidegate = Tidegate::before(&backend);
    let mut client = tidegate.client();
    client.send("POST /one HTTP/1.1\r\nhost: service\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n");
    assert_eq!(client.answer().status, 100);
    let answer = client.send("abc").answer();
    assert_eq!((answer.status, answer.text().as_str()), (200, "only"));
    let requests = whole(&backend);
    assert_eq!((requests[0].header("expect"), requests[0].body.as_slice()), (None, &b"abc"[..]));
    assert_eq!(client.get("/two", &[]).status, 200, "the connection goes on");
}

#[test]
fn a_final_answer_to_one_who_waits_ends_both_connections() {
    for (status, answer) in [
        (200, &b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc"[..]),
        (417, b"HTTP/1.1 417 Expectation Failed\r\ncontent-length: 3\r\n\r\nabc"),
    ] {
        let (backend, closed) = early(answer);
        let tidegate = Tidegate::before(&backend);
        let mut client = tidegate.client();
        client.send("POST /bad HTTP/1.1\r\nhost: service\r\nexpect: 100-continue\r\ncontent-length: 31\r\n\r\n");
        let mut found = client.answer();
        if found.status == 100 {
            found = client.answer();
        }
        assert_eq!((found.status, found.text().as_str()), (status, "abc"));
        assert_eq!(found.header("connection"), Some("close"));
        client.send(EVIL).send(EVIL);
        assert!(client.is_closed(), "what was to be a body is no request");
        assert_closed(&closed, "an early answer");
        assert_alive(&tidegate, "an early answer");
        assert!(!backend.text().contains("\r\n\r\nGET /evil"), "what was to be a body is no request");
    }
}

#[test]
fn nothing_but_100_continue_can_be_expected() {
    let backend = Backend::named("only");
    let tidegate = Tidegate::before(&backend);
    for expect in ["y 100-continue", "200-ok", "100-continue, 100-continue", "", "100-continue\r\nexpect: more"] {
        let mut client = tidegate.client();
        let request =
            format!("POST /bad HTTP/1.1\r\nhost: service\r\nexpect: {expect}\r\ncontent-length: 3\r\n\r\nabc");
        assert_eq!(client.send(request).answer().status, 417, "{expect:?}");
        assert!(client.is_closed());
        assert_alive(&tidegate, expect);
    }
    assert!(reached(&backend).is_empty());
}

#[test]
fn nothing_follows_an_upgrade_that_did_not_happen() {
    for upgrade in ["x", "h2c", "websocket", "TLS/1.0"] {
        let backend = Backend::named("only");
        let tidegate = Tidegate::before(&backend);
        let mut client = tidegate.client();
        client.send(format!(
            "GET /one HTTP/1.1\r\nhost: service\r\nconnection: upgrade\r\nupgrade: {upgrade}\r\n\r\n{EVIL}\0\u{7f}hello"
        ));
        let answer = client.answer();
        assert_eq!((answer.status, answer.text().as_str()), (200, "only"), "{upgrade}");
        assert_eq!(answer.header("connection"), Some("close"), "{upgrade}");
        assert!(client.is_closed(), "{upgrade}");
        assert_eq!(reached(&backend), ["/one"], "{upgrade}");
        assert_alive(&tidegate, upgrade);
    }
}

#[test]
fn nothing_follows_an_upgrade_that_was_refused_or_failed() {
    let (backend, closed) = misbehaving(|connection| {
        connection.write(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n");
    });
    let tidegate = Tidegate::start(&half_down(&backend));
    for target in ["/bad", "/down"] {
        let mut client = tidegate.client();
        client
            .send(format!("GET {target} HTTP/1.1\r\nhost: service\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n{EVIL}"));
        let answer = client.answer();
        assert_eq!(answer.status, 502, "{target}");
        assert_eq!(answer.header("connection"), Some("close"), "{target}");
        assert!(client.is_closed(), "{target}");
        assert_alive(&tidegate, target);
    }
    assert_closed(&closed, "a 101 that nobody asked for");
    assert!(!backend.text().contains("evil"));
}

#[test]
fn a_websocket_that_the_backend_turns_down_is_over() {
    for status in ["426 Upgrade Required", "400 Bad Request", "403 Forbidden"] {
        let backend = Backend::saying(format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\nno"));
        let tidegate = Tidegate::before(&backend);
        let mut client = tidegate.client();
        client.send(
            "GET /one HTTP/1.1\r\nhost: service\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        );
        assert_eq!(client.answer().text(), "no");
        client.send("\u{81}\u{85}frame").send(EVIL);
        assert!(client.is_closed());
        assert!(!backend.text().contains("evil") && !backend.text().contains("frame"));
    }
}

#[test]
fn an_ordinary_answer_with_upgrade_stays_http() {
    let backend = Backend::saying(ok(&[("upgrade", "websocket"), ("connection", "upgrade")], b"abc"));
    let tidegate = Tidegate::before(&backend);
    let mut client = tidegate.client();
    for _ in 0..2 {
        let answer = client.get("/", &[]);
        assert_eq!((answer.status, answer.text().as_str()), (200, "abc"));
        assert_eq!((answer.header("upgrade"), answer.header("connection")), (None, None));
    }
}

#[test]
fn no_backend_is_offered_http_2() {
    let backend = Backend::named("only");
    let tidegate = Tidegate::before(&backend);
    let answer = tidegate.tell(
        "GET /one HTTP/1.1\r\nhost: service\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\n\
         http2-settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n\r\n",
    );
    assert_eq!(answer.status, 200);
    let request = &whole(&backend)[0];
    for name in ["connection", "upgrade", "http2-settings"] {
        assert_eq!(request.header(name), None, "{name}");
    }
}

#[test]
fn a_tunnel_cannot_be_laid_to_a_backend() {
    let backend = Backend::named("only");
    let tidegate = Tidegate::before(&backend);
    assert_alive(&tidegate, "nothing: there is a kept connection now");
    let mut client = tidegate.client();
    let answer = client.send(format!("CONNECT {} HTTP/1.1\r\nhost: service\r\n\r\n{EVIL}", backend.address)).answer();
    assert_eq!(answer.status, 405);
    assert!(client.is_closed());
    assert!(reached(&backend).is_empty());
    assert_alive(&tidegate, "it");
}

#[test]
fn an_answer_that_nobody_asked_for_is_nobodys_answer() {
    let fake = ok(&[("x-fake", "1")], b"poison");
    let poisoned = [&ok(&[], b"abc")[..], &fake].concat();
    let (backend, closed) = misbehaving(move |connection| connection.write(&poisoned));
    let tidegate = Tidegate::before(&backend);
    let mut first = tidegate.client();
    assert_eq!(first.get("/bad", &[]).text(), "abc");
    for _ in 0..4 {
        assert_eq!(first.get("/same", &[]).text(), "fine", "the same user gets no fake answer");
        assert_eq!(tidegate.client().get("/other", &[]).text(), "fine", "nor does any other");
    }
    assert_closed(&closed, "more bytes than an answer has");
}

#[test]
fn an_answer_that_comes_while_nobody_waits_is_nobodys_answer() {
    let later = Arc::new(Barrier::new(2));
    let backend = Backend::scripted({
        let later = Arc::clone(&later);
        move |connection| {
            while let Some(request) = connection.read_request() {
                connection.write(&ok(&[], b"fine"));
                if request.target == "/bad" {
                    later.wait();
                    connection.write(&ok(&[], b"poison"));
                    later.wait();
                }
            }
        }
    });
    let tidegate = Tidegate::before(&backend);
    let mut client = tidegate.client();
    assert_eq!(client.get("/bad", &[]).text(), "fine");
    later.wait();
    later.wait();
    for _ in 0..4 {
        assert_eq!(client.get("/same", &[]).text(), "fine");
        assert_eq!(tidegate.client().get("/other", &[]).text(), "fine");
    }
}

#[test]
fn a_kept_connection_that_the_backend_has_closed_costs_nobody_an_answer() {
    let (told, closed) = channel();
    let told = Mutex::new(told);
    let backend = Backend::scripted(move |connection| {
        if connection.read_request().is_some() {
            connection.write(&ok(&[], b"fine"));
            connection.close();
            told.lock().unwrap().send(()).unwrap();
        }
    });
    let tidegate = Tidegate::before(&backend);
    let mut client = tidegate.client();
    for round in 0..20 {
        let answer = client.send("POST / HTTP/1.1\r\nhost: service\r\ncontent-length: 3\r\n\r\nabc").answer();
        assert_eq!(answer.status, 200, "round {round}");
        closed.recv_timeout(PATIENCE).unwrap();
    }
    assert_eq!(backend.requests().len(), 20, "each request was sent once");
}

#[test]
fn a_kept_connection_that_closes_under_a_request_is_a_502_and_no_second_try() {
    let backend = Backend::scripted(|connection| {
        if connection.read_request().is_some() {
            connection.write(&ok(&[], b"fine"));
            connection.read_request();
        }
    });
    let tidegate = Tidegate::before(&backend);
    let mut client = tidegate.client();
    assert_eq!(client.get("/first", &[]).status, 200);
    let answer = client.get("/second", &[]);
    assert_eq!(answer.status, 502);
    assert_eq!(answer.header("proxy-status"), Some("tidegate; error=connection_terminated"));
    assert_eq!(client.get("/third", &[]).status, 200, "the client's connection goes on");
    let targets: Vec<String> = backend.requests().into_iter().map(|request| request.target).collect();
    assert_eq!(targets, ["/first", "/second", "/third"], "nothing is sent twice");
}

#[test]
fn when_backends_close_as_they_please_no_request_is_sent_twice() {
    let backend = Backend::scripted(|connection| {
        for _ in 0..3 {
            if connection.read_request().is_none() {
                return;
            }
            connection.write(&ok(&[], b"fine"));
        }
    });
    let tidegate = Tidegate::before(&backend);
    let mut client = tidegate.client();
    let (mut fine, rounds) = (0, 300);
    for round in 0..rounds {
        let answer = client.get(&format!("/{round}"), &[]);
        assert!(matches!(answer.status, 200 | 502), "{}", answer.status);
        fine += usize::from(answer.status == 200);
    }
    let mut targets = reached(&backend);
    targets.sort();
    let sent = targets.len();
    targets.dedup();
    assert_eq!(targets.len(), sent, "no request arrived twice");
    assert_eq!(sent, fine, "a request that arrived was answered, and the others never arrived");
}

#[test]
fn a_client_that_breaks_off_its_upload_leaves_nothing_for_the_next() {
    for part in
        ["content-length: 100\r\n\r\nabc", "transfer-encoding: chunked\r\n\r\n64\r\nabc", "content-length: 9\r\n\r\n"]
    {
        let backend = Backend::named("only");
        let tidegate = Tidegate::before(&backend);
        let mut client = tidegate.client();
        client.send(format!("POST /bad HTTP/1.1\r\nhost: service\r\n{part}"));
        eventually("the head arrives", || backend.text().contains("POST /bad"));
        drop(client);
        assert_alive(&tidegate, part);
        assert!(backend.requests().iter().all(|request| request.target == "/alive"), "half a request is none");
    }
}

#[test]
fn no_byte_of_one_user_reaches_another() {
    let backend = Backend::answering(|request| ok(&[], request.target.as_bytes()));
    let tidegate = Tidegate::before(&backend);
    let users: Vec<_> = (0..8)
        .map(|user| {
            let mut client = tidegate.client();
            std::thread::spawn(move || {
                for nth in 0..50 {
                    let target = format!("/{user}/{nth}");
                    assert_eq!(client.get(&target, &[]).text(), target);
                }
            })
        })
        .collect();
    // Meanwhile others do what they can to get their bytes in between.
    for nth in 0..50 {
        let mut villain = tidegate.client();
        villain.send(format!("POST /villain HTTP/1.1\r\nhost: service\r\ncontent-length: {nth}\r\n\r\n{EVIL}{EVIL}"));
        let mut byte = [0];
        let _whatever_comes = villain.stream.read(&mut byte);
    }
    for user in users {
        user.join().unwrap();
    }
}
