//! Backends that do not speak HTTP, or only half of it. Before the head is through the client is told 502, after it the
//! answer is broken off; never does it look complete, and never is that connection used again.

use std::io::Write as _;

use super::{assert_alive, assert_closed, misbehaving, read_to_reset};
use crate::support::backend::ok;
use crate::support::proxy::single;
use crate::support::{Backend, Tidegate, eventually};

const GET_BAD: &str = "GET /bad HTTP/1.1\r\nhost: service\r\n\r\n";

/// A backend that answers `/bad` with these bytes and waits for tidegate to close.
fn saying(bytes: &[u8]) -> (Backend, std::sync::mpsc::Receiver<bool>) {
    let bytes = bytes.to_vec();
    misbehaving(move |connection| connection.write(&bytes))
}

/// A backend that answers `/bad` with these bytes and ends the connection.
fn saying_and_closing(bytes: &[u8]) -> Backend {
    let bytes = bytes.to_vec();
    Backend::scripted(move |connection| {
        while let Some(request) = connection.read_request() {
            if request.target == "/bad" {
                connection.write(&bytes);
                return;
            }
            connection.write(&ok(&[], b"fine"));
        }
    })
}

/// The answer is a 502 of tidegate's own, and the backend's connection is closed.
#[track_caller]
fn is_a_bad_gateway(what: &str, bytes: &[u8]) {
    let (backend, closed) = saying(bytes);
    let tidegate = Tidegate::before(&backend);
    let mut client = tidegate.client();
    let answer = client.send(GET_BAD).answer();
    assert_eq!(answer.status, 502, "{what}");
    assert_eq!(answer.header("server"), Some("tidegate"), "{what}");
    assert_eq!(answer.header("proxy-status"), Some("tidegate; error=http_protocol_error"), "{what}");
    assert_closed(&closed, what);
    assert_alive(&tidegate, what);
}

#[test]
fn what_is_not_an_http_answer_is_a_bad_gateway() {
    let with = |line: &[u8]| [b"HTTP/1.1 200 OK\r\n", line, b"\r\ncontent-length: 3\r\n\r\nabc"].concat();
    for (what, bytes) in [
        ("a bare CR in a value", with(b"x-a: 1\r2")),
        ("NUL in a value", with(b"x-a: 1\x002")),
        ("NUL in a name", with(b"x\x00-a: 1")),
        ("a folded line", with(b"x-a: 1\r\n 2")),
        ("an empty name", with(b": 1")),
        ("no colon", with(b"x-a")),
        ("a space before the colon of a length", b"HTTP/1.1 200 OK\r\ncontent-length : 3\r\n\r\nabc".to_vec()),
        ("a space before the colon of a coding", with(b"transfer-encoding : chunked")),
        ("TLS", b"\x15\x03\x01\x00\x02\x02\x46".to_vec()),
        ("status 000", b"HTTP/1.1 000 No\r\ncontent-length: 0\r\n\r\n".to_vec()),
        ("status 99", b"HTTP/1.1 99 No\r\ncontent-length: 0\r\n\r\n".to_vec()),
        ("status 1000", b"HTTP/1.1 1000 No\r\ncontent-length: 0\r\n\r\n".to_vec()),
        ("a status of letters", b"HTTP/1.1 OK\r\ncontent-length: 0\r\n\r\n".to_vec()),
        ("HTTP/2", b"HTTP/2.0 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec()),
        ("HTTP/0.9", b"<html>hello</html>\r\n\r\n".to_vec()),
        ("two lengths", with(b"content-length: 5")),
        ("a list of lengths", b"HTTP/1.1 200 OK\r\ncontent-length: 3, 5\r\n\r\nabc".to_vec()),
        ("a signed length", b"HTTP/1.1 200 OK\r\ncontent-length: +3\r\n\r\nabc".to_vec()),
        ("a negative length", b"HTTP/1.1 200 OK\r\ncontent-length: -3\r\n\r\nabc".to_vec()),
    ] {
        is_a_bad_gateway(what, &bytes);
    }
}

#[test]
fn a_coding_that_would_be_relabelled_is_a_bad_gateway() {
    for coding in ["gzip", "gzip, chunked", "chunked, gzip", "identity", "chunked, chunked", "xchunked"] {
        let bytes = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: {coding}\r\n\r\n3\r\nabc\r\n0\r\n\r\n");
        is_a_bad_gateway(coding, bytes.as_bytes());
    }
}

#[test]
fn a_switch_of_protocols_that_nobody_asked_for_is_a_bad_gateway() {
    is_a_bad_gateway(
        "101",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\nrest",
    );
    is_a_bad_gateway("a bare 101", b"HTTP/1.1 101 Switching Protocols\r\n\r\n");
}

#[test]
fn a_head_without_end_is_a_bad_gateway() {
    let long = |value: String| format!("HTTP/1.1 200 OK\r\n{value}content-length: 0\r\n\r\n").into_bytes();
    is_a_bad_gateway("one header of 500 KB", &long(format!("x-a: {}\r\n", "a".repeat(500 << 10))));
    is_a_bad_gateway("headers of 500 KB", &long(format!("x-a: {}\r\n", "a".repeat(250)).repeat(2000)));
    is_a_bad_gateway("300 header fields", &long("x-a: 1\r\n".repeat(300)));
    is_a_bad_gateway("a status line of 500 KB", format!("HTTP/1.1 200 {}", "a".repeat(500 << 10)).as_bytes());
}

#[test]
fn interim_answers_come_to_an_end() {
    let flood = |status: &str| format!("HTTP/1.1 {status}\r\n\r\n").repeat(1000).into_bytes();
    for status in ["100 Continue", "102 Processing", "103 Early Hints\r\nlink: </a>"] {
        is_a_bad_gateway(status, &flood(status));
    }
    is_a_bad_gateway("interim answers of HTTP/1.0", &b"HTTP/1.0 100 Continue\r\n\r\n".repeat(1000));
}

#[test]
fn interim_answers_in_small_pieces_come_to_an_end_too() {
    let (backend, closed) = misbehaving(|connection| {
        connection.stream.set_nodelay(true).unwrap();
        let pieces: &[&[u8]] = &[b"HTTP/", b"1.1 ", b"1", b"00 Continue\r", b"\n\r\n"];
        // Every piece arrives by itself, and none of them tells the whole story.
        for piece in pieces.iter().cycle().take(100_000) {
            if connection.stream.write_all(piece).is_err() {
                return;
            }
            std::thread::yield_now();
        }
    });
    let tidegate = Tidegate::before(&backend);
    let answer = tidegate.tell(GET_BAD);
    assert_eq!(answer.status, 502);
    assert_closed(&closed, "a flood in small pieces");
    assert_alive(&tidegate, "a flood in small pieces");
}

#[test]
fn eight_interim_answers_are_patiently_heard() {
    let interim = b"HTTP/1.1 100 Continue\r\n\r\n".repeat(4);
    let hints = b"HTTP/1.1 103 Early Hints\r\nlink: </style.css>\r\n\r\n".repeat(4);
    let looks_like_more = "HTTP/1.1 100 Continue\r\n\r\n".repeat(20);
    let backend = Backend::saying([interim, hints, ok(&[], looks_like_more.as_bytes())].concat());
    let tidegate = Tidegate::before(&backend);
    for _ in 0..2 {
        let answer = tidegate.tell(GET_BAD);
        assert_eq!((answer.status, answer.text()), (200, looks_like_more.clone()), "what the body says does not count");
    }
}

#[test]
fn of_two_framings_of_an_answer_chunked_counts() {
    for length in ["2", "3", "5", "100000"] {
        let bytes = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\ntransfer-encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n"
        );
        let (backend, closed) = saying(bytes.as_bytes());
        let tidegate = Tidegate::before(&backend);
        let mut client = tidegate.client();
        let answer = client.send(GET_BAD).answer();
        assert_eq!((answer.status, answer.text().as_str()), (200, "abcde"), "length {length}");
        assert_eq!(answer.header("content-length"), None);
        assert!(answer.complete);
        assert_eq!(client.get("/next", &[]).text(), "fine", "the client's own connection goes on");
        assert_closed(&closed, "two framings");
        assert_alive(&tidegate, "two framings");
    }
}

#[test]
fn an_answer_of_http_1_0_becomes_one_of_http_1_1() {
    let backend = saying_and_closing(b"HTTP/1.0 200 OK\r\nx-a: 1\r\n\r\nuntil the end");
    let tidegate = Tidegate::before(&backend);
    let mut client = tidegate.client();
    let answer = client.send(GET_BAD).answer();
    assert_eq!((answer.status, answer.minor), (200, 1));
    assert_eq!(answer.text(), "until the end");
    assert!(answer.complete);
    assert_eq!(client.get("/next", &[]).text(), "fine", "the client's connection goes on");
}

#[test]
fn an_answer_of_http_1_0_with_keep_alive_keeps_only_its_own_side_alive() {
    let backend = Backend::saying(
        &b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\nkeep-alive: timeout=5\r\ncontent-length: 3\r\n\r\nabc"[..],
    );
    let tidegate = Tidegate::before(&backend);
    let mut client = tidegate.client();
    for _ in 0..3 {
        let answer = client.get("/", &[]);
        assert_eq!((answer.minor, answer.text().as_str()), (1, "abc"));
        assert_eq!((answer.header("connection"), answer.header("keep-alive")), (None, None));
    }
}

#[test]
fn what_belongs_to_the_backends_connection_stays_behind() {
    let headers = [
        ("connection", "close, X-Hop"),
        ("x-hop", "1"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("proxy-authenticate", "Basic"),
        ("upgrade", "h2c"),
        ("te", "trailers"),
        ("trailer", "x-end"),
        ("x-stays", "1"),
    ];
    let backend = Backend::saying(ok(&headers, b"abc"));
    let tidegate = Tidegate::before(&backend);
    let mut client = tidegate.client();
    let answer = client.get("/", &[]);
    for (name, _) in &headers[..headers.len() - 1] {
        assert_eq!(answer.header(name), None, "{name}");
    }
    assert_eq!(answer.header("x-stays"), Some("1"));
    assert_eq!(client.get("/", &[]).status, 200, "the backend's close closes the backend's connection only");
}

#[test]
fn bodyless_answers_have_no_body_and_their_connection_is_not_used_again() {
    let not_found = "HTTP/1.1 404 Evil\r\ncontent-length: 4\r\n\r\nevil";
    for (what, method, bytes) in [
        ("204", "GET", format!("HTTP/1.1 204 No Content\r\n\r\n{not_found}")),
        ("204 with a length", "GET", "HTTP/1.1 204 No Content\r\ncontent-length: 4\r\n\r\nevil".to_owned()),
        ("304", "GET", format!("HTTP/1.1 304 Not Modified\r\n\r\n{not_found}")),
        ("304 with a length", "GET", "HTTP/1.1 304 Not Modified\r\ncontent-length: 4\r\n\r\nevil".to_owned()),
        (
            "304 with chunks",
            "GET",
            "HTTP/1.1 304 Not Modified\r\ntransfer-encoding: chunked\r\n\r\n4\r\nevil\r\n0\r\n\r\n".to_owned(),
        ),
        ("HEAD", "HEAD", ok_text("evil")),
        (
            "HEAD with chunks",
            "HEAD",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nevil\r\n0\r\n\r\n".to_owned(),
        ),
    ] {
        let (backend, closed) = saying(bytes.as_bytes());
        let tidegate = Tidegate::before(&backend);
        let mut client = tidegate.client();
        client.send(format!("{method} /bad HTTP/1.1\r\nhost: service\r\n\r\n"));
        assert!(matches!(client.answer_to_head().status, 200 | 204 | 304), "{what}");
        assert_eq!(client.get("/next", &[]).text(), "fine", "the next answer is the next request's: {what}");
        assert_closed(&closed, what);
        assert_alive(&tidegate, what);
    }
}

fn ok_text(body: &str) -> String {
    String::from_utf8(ok(&[], body.as_bytes())).unwrap()
}

#[test]
fn answers_without_a_body_keep_the_length_that_they_speak_of() {
    for (method, head) in [("GET", "304 Not Modified"), ("HEAD", "200 OK")] {
        let backend = Backend::saying(format!("HTTP/1.1 {head}\r\ncontent-length: 1234\r\netag: \"a\"\r\n\r\n"));
        let tidegate = Tidegate::before(&backend);
        let mut client = tidegate.client();
        for _ in 0..2 {
            client.send(format!("{method} / HTTP/1.1\r\nhost: service\r\n\r\n"));
            let answer = client.answer_to_head();
            assert_eq!(answer.header("content-length"), Some("1234"), "{method} {head}");
        }
        assert_eq!(backend.connections(), 1, "such an answer is whole");
    }
}

#[test]
fn a_broken_answer_never_looks_whole() {
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    for (what, bytes) in [
        ("a length that is not met", "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc".to_owned()),
        ("a length of which nothing comes", "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n".to_owned()),
        ("no last chunk", format!("{chunked}3\r\nabc\r\n")),
        ("no chunk at all", chunked.to_owned()),
        ("half a chunk", format!("{chunked}a\r\nabc")),
        ("a last chunk without its end", format!("{chunked}3\r\nabc\r\n0\r\n")),
        ("a chunk size that is none", format!("{chunked}3\r\nabc\r\nxyz\r\nabc\r\n0\r\n\r\n")),
        ("a chunk size beyond all numbers", format!("{chunked}3\r\nabc\r\nfffffffffffffffff\r\nabc")),
        ("a chunk longer than it says", format!("{chunked}3\r\nabcdef\r\n0\r\n\r\n")),
        ("a bare LF in a chunk extension", format!("{chunked}3;a\nb\r\nabc\r\n0\r\n\r\n")),
    ] {
        let backend = saying_and_closing(bytes.as_bytes());
        let tidegate = Tidegate::before(&backend);
        let answer = tidegate.client().send(GET_BAD).try_answer(false);
        let is_refused = answer.as_ref().is_none_or(|answer| answer.status == 502 || !answer.complete);
        assert!(is_refused, "{what} is told as what it is: {answer:?}");
        assert_alive(&tidegate, what);

        // In HTTP/1.0 the end of the connection is the end of an answer without a length, so it has to end in a reset.
        let mut client = tidegate.client();
        client.send("GET /bad HTTP/1.0\r\nhost: service\r\n\r\n");
        let (received, was_reset) = read_to_reset(&mut client);
        let head = String::from_utf8_lossy(&received).to_ascii_lowercase();
        let tells = was_reset || head.contains("content-length: 10\r\n") || head.starts_with("http/1.1 502");
        assert!(tells, "{what} is told to HTTP/1.0, too: {head:?}");
        assert_alive(&tidegate, what);
    }
}

#[test]
fn an_answer_that_is_reset_midway_never_looks_whole() {
    for head in ["content-length: 100", "transfer-encoding: chunked"] {
        let (told, released) = std::sync::mpsc::channel::<()>();
        let released = std::sync::Mutex::new(released);
        let start = format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n3\r\nabc\r\n");
        let backend = Backend::scripted(move |connection| {
            while let Some(request) = connection.read_request() {
                if request.target == "/bad" {
                    connection.write(start.as_bytes());
                    let _the_story_may_be_over = released.lock().unwrap().recv();
                    return connection.reset();
                }
                connection.write(&ok(&[], b"fine"));
            }
        });
        let tidegate = Tidegate::before(&backend);
        let mut client = tidegate.client();
        client.send(GET_BAD);
        let mut first = [0; 1];
        std::io::Read::read_exact(&mut client.stream, &mut first).unwrap();
        told.send(()).unwrap();
        let rest = client.read_to_end();
        assert!(!rest.ends_with(b"0\r\n\r\n") && rest.len() < 200, "{}", rest.escape_ascii());
        assert_alive(&tidegate, "a reset");
    }
}

#[test]
fn a_backend_that_closes_without_a_word_is_a_bad_gateway() {
    for reset in [false, true] {
        let backend = Backend::scripted(move |connection| {
            while let Some(request) = connection.read_request() {
                if request.target == "/bad" {
                    if reset {
                        connection.reset();
                    }
                    return;
                }
                connection.write(&ok(&[], b"fine"));
            }
        });
        let tidegate = Tidegate::before(&backend);
        let answer = tidegate.tell(GET_BAD);
        assert_eq!(answer.status, 502);
        assert_eq!(answer.header("proxy-status"), Some("tidegate; error=connection_terminated"));
        assert_eq!(
            backend.requests().iter().filter(|request| request.target == "/bad").count(),
            1,
            "it is not retried"
        );
        assert_alive(&tidegate, "it");
    }
}

#[test]
fn half_a_head_is_a_bad_gateway() {
    for bytes in ["H", "HTTP/1.1 200", "HTTP/1.1 200 OK\r\ncontent-le"] {
        let backend = saying_and_closing(bytes.as_bytes());
        let tidegate = Tidegate::before(&backend);
        assert_eq!(tidegate.tell(GET_BAD).status, 502, "{bytes:?}");
        assert_alive(&tidegate, bytes);
    }
}

#[test]
fn an_unusual_status_is_passed_on() {
    for status in ["299", "418", "599", "999"] {
        let backend = Backend::saying(format!("HTTP/1.1 {status} What\r\ncontent-length: 3\r\n\r\nabc"));
        let tidegate = Tidegate::before(&backend);
        let answer = tidegate.client().get("/", &[]);
        assert_eq!((answer.status.to_string().as_str(), answer.text().as_str()), (status, "abc"));
    }
}

#[test]
fn a_client_that_leaves_frees_the_backends_connection() {
    let (backend, closed) = misbehaving(|_| {});
    let tidegate = Tidegate::start(&single(&backend));
    let mut client = tidegate.client();
    client.send(GET_BAD);
    eventually("the request arrives", || backend.text().contains("/bad"));
    drop(client);
    assert_closed(&closed, "the client has left");
    assert_alive(&tidegate, "it");
}
