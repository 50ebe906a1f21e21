//! Clients and backends that take their time. Each timeout ends one thing and frees what it held.

use std::io::Write as _;
use std::time::Duration;

use super::{assert_alive, assert_closed, misbehaving, read_to_reset};
use crate::support::backend::ok;
use crate::support::{Backend, Tidegate, eventually};

/// A config with short timeouts towards the client, and one backend with short ones towards it.
fn impatient(backend: &Backend, client_timeouts: &str, backend_timeouts: &str) -> String {
    format!(
        "timeouts: {{ {client_timeouts} }}\n\
         backends:\n  only: {{ endpoints: [\"{}\"], timeouts: {{ {backend_timeouts} }} }}\n\
         routes:\n  - match: {{}}\n    backend: only\n",
        backend.url()
    )
}

#[test]
fn a_head_that_does_not_end_is_a_408_and_the_end() {
    let backend = Backend::named("only");
    let tidegate = Tidegate::start(&impatient(&backend, "header: 200ms", ""));
    for part in
        ["G", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nhost: service\r\n", "POST / HTTP/1.1\r\nhost: service\r\nx-a"]
    {
        let mut client = tidegate.client();
        let answer = client.send(part).answer();
        assert_eq!(answer.status, 408, "{part:?}");
        assert_eq!(answer.header("connection"), Some("close"));
        assert!(client.is_closed(), "{part:?}");
        assert_alive(&tidegate, part);
    }
    assert!(!backend.text().contains("x-a"));
}

#[test]
fn a_head_that_trickles_in_has_no_more_time_than_one_that_stops() {
    let backend = Backend::named("only");
    let tidegate = Tidegate::start(&impatient(&backend, "header: 300ms", ""));
    let mut client = tidegate.client();
    client.send("GET / HTTP/1.1\r\nhost: service\r\nx-slow: ");
    let mut trickle = client.stream.try_clone().unwrap();
    let trickler = std::thread::spawn(move || {
        // Far below any idle timeout, and without end: only a deadline for the whole head stops it.
        while trickle.write_all(b"a").is_ok() {
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    assert_eq!(client.answer().status, 408);
    assert!(client.is_closed());
    trickler.join().unwrap();
    assert_alive(&tidegate, "slowloris");
}

#[test]
fn many_slow_heads_keep_nobody_from_being_served() {
    let backend = Backend::named("only");
    let tidegate = Tidegate::start(&impatient(&backend, "header: 500ms", ""));
    let mut slow: Vec<_> = (0..200).map(|_| tidegate.client()).collect();
    for client in &mut slow {
        client.send("GET / HTTP/1.1\r\nhost: ser");
    }
    assert_alive(&tidegate, "two hundred slow heads");
    for client in &mut slow {
        assert_eq!(client.answer().status, 408);
        assert!(client.is_closed());
    }
}

#[test]
fn the_second_head_on_a_connection_is_on_the_clock_as_well() {
    let backend = Backend::named("only");
    let tidegate = Tidegate::start(&impatient(&backend, "header: 200ms", ""));
    let mut client = tidegate.client();
    assert_eq!(client.get("/", &[]).status, 200);
    assert_eq!(client.send("GET / HT").answer().status, 408);
    assert!(client.is_closed());
}

#[test]
fn a_body_that_stops_is_a_408_and_the_end_of_both_connections() {
    for part in
        ["content-length: 10\r\n\r\nabc", "content-length: 10\r\n\r\n", "transfer-encoding: chunked\r\n\r\na\r\nabc"]
    {
        let backend = Backend::scripted(|connection| {
            while connection.read_request().is_some() {
                connection.write(&ok(&[], b"fine"));
            }
            connection.close();
        });
        let tidegate = Tidegate::start(&impatient(&backend, "body_idle: 200ms", ""));
        let mut client = tidegate.client();
        let answer = client.send(format!("POST /bad HTTP/1.1\r\nhost: service\r\n{part}")).answer();
        assert_eq!(answer.status, 408, "{part:?}");
        assert_eq!(answer.header("connection"), Some("close"));
        assert!(client.is_closed());
        assert!(backend.requests().is_empty(), "half a request is none");
        assert_alive(&tidegate, part);
    }
}

#[test]
fn a_body_that_moves_is_waited_for() {
    let backend = Backend::answering(|request| ok(&[], request.body.len().to_string().as_bytes()));
    let tidegate = Tidegate::start(&impatient(&backend, "body_idle: 2s", "response: 2s"));
    let mut client = tidegate.client();
    client.send("POST / HTTP/1.1\r\nhost: service\r\ncontent-length: 25\r\n\r\n");
    for _ in 0..25 {
        client.send("a");
        std::thread::sleep(Duration::from_millis(100)); // 2.5 s in all: longer than each of the timeouts
    }
    assert_eq!(client.answer().text(), "25");
}

#[test]
fn a_connection_without_a_request_is_closed_without_a_word() {
    let backend = Backend::named("only");
    let tidegate = Tidegate::start(&impatient(&backend, "header: 200ms, keep_alive: 200ms", ""));
    assert!(tidegate.client().is_closed(), "one that never asked");
    let mut client = tidegate.client();
    assert_eq!(client.get("/", &[]).status, 200);
    assert!(client.is_closed(), "one that asked once");
    assert_alive(&tidegate, "them");
}

#[test]
fn a_kept_connection_outlives_its_buffers() {
    let backend = Backend::named("only");
    let tidegate = Tidegate::start(&impatient(&backend, "keep_alive: 30s", ""));
    let mut client = tidegate.client();
    for _ in 0..2 {
        assert_eq!(client.get("/", &[]).status, 200);
        std::thread::sleep(Duration::from_millis(500)); // a connection dozes when it was quiet for 200 ms
    }
    assert_eq!(
        client.send("GET / HTTP/1.1\r\nhost: service\r\n\r\nGET / HTTP/1.1\r\nhost: service\r\n\r\n").answer().status,
        200
    );
    assert_eq!(client.answer().status, 200);
}

#[test]
fn a_client_that_does_not_read_is_left_and_its_backend_freed() {
    let (backend, closed) = misbehaving(|connection| {
        // More than all buffers on the way can hold.
        connection.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n");
        let piece = vec![b'a'; 1 << 20];
        for _ in 0..1024 {
            if connection.stream.write_all(&piece).is_err() {
                return;
            }
        }
    });
    let tidegate = Tidegate::start(&impatient(&backend, "write_stall: 300ms", ""));
    let mut client = tidegate.client();
    client.send("GET /bad HTTP/1.1\r\nhost: service\r\n\r\n");
    assert_closed(&closed, "a client that does not read");
    let (received, was_reset) = read_to_reset(&mut client);
    assert!(was_reset && received.len() < 1 << 30, "what comes is visibly not all: {}", received.len());
    assert_alive(&tidegate, "a client that does not read");
}

#[test]
fn a_backend_that_says_nothing_is_a_504_and_is_left() {
    let (backend, closed) = misbehaving(|_| {});
    let tidegate = Tidegate::start(&impatient(&backend, "", "response: 300ms"));
    let mut client = tidegate.client();
    let answer = client.get("/bad", &[]);
    assert_eq!(answer.status, 504);
    assert_eq!(answer.header("proxy-status"), Some("tidegate; error=http_response_timeout"));
    assert_closed(&closed, "a timeout");
    assert_eq!(client.get("/next", &[]).text(), "fine", "the client's connection goes on");
    assert_alive(&tidegate, "a timeout");
}

#[test]
fn a_backend_that_trickles_its_head_has_no_more_time() {
    let (backend, closed) = misbehaving(|connection| {
        connection.write(b"HTTP/1.1 200 OK\r\nx-slow: ");
        while connection.stream.write_all(b"a").is_ok() {
            std::thread::sleep(Duration::from_millis(10)); // far below the timeout, and without end
        }
    });
    let tidegate = Tidegate::start(&impatient(&backend, "", "response: 300ms"));
    assert_eq!(tidegate.client().get("/bad", &[]).status, 504);
    assert_closed(&closed, "a trickling head");
    assert_alive(&tidegate, "a trickling head");
}

#[test]
fn a_backend_that_stops_midway_is_left_and_the_answer_broken_off() {
    for framing in ["content-length: 10\r\n\r\nabc", "transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n"] {
        let (backend, closed) = misbehaving(move |connection| {
            connection.write(format!("HTTP/1.1 200 OK\r\n{framing}").as_bytes());
        });
        let tidegate = Tidegate::start(&impatient(&backend, "", "stream_idle: 300ms"));
        let mut client = tidegate.client();
        client.send("GET /bad HTTP/1.1\r\nhost: service\r\n\r\n");
        assert!(client.try_answer(false).is_none_or(|answer| !answer.complete), "{framing:?}");
        assert_closed(&closed, framing);
        assert_alive(&tidegate, framing);
    }
}

#[test]
fn a_backend_that_drips_is_heard_to_the_end() {
    let backend = Backend::scripted(|connection| {
        while connection.read_request().is_some() {
            connection.write(b"HTTP/1.1 200 OK\r\ncontent-length: 25\r\n\r\n");
            for _ in 0..25 {
                connection.write(b"a");
                std::thread::sleep(Duration::from_millis(100)); // 2.5 s in all: longer than each of the timeouts
            }
        }
    });
    let tidegate = Tidegate::start(&impatient(&backend, "", "response: 2s, stream_idle: 2s"));
    let answer = tidegate.client().get("/", &[]);
    assert_eq!((answer.text().as_str(), answer.complete), ("a".repeat(25).as_str(), true));
}

#[test]
fn an_unused_backend_connection_is_given_up() {
    let (backend, _closed) = misbehaving(|_| {});
    let tidegate = Tidegate::start(&impatient(&backend, "", "idle: 200ms"));
    let mut client = tidegate.client();
    assert_eq!(client.get("/one", &[]).status, 200);
    std::thread::sleep(Duration::from_millis(300)); // longer than it is kept
    assert_eq!(client.get("/two", &[]).status, 200);
    eventually("a second connection was made", || backend.connections() == 2);
}
