//! The process is asked to leave: nobody who has asked for something is left without an answer.

use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use tidegate::app::Signal;

use crate::support::backend::ok;
use crate::support::proxy::{PREAMBLE, single};
use crate::support::{Backend, Client, Tidegate, eventually};

/// A backend that answers `/slow` when it is told to, and everything else at once.
fn patient() -> (Backend, mpsc::Sender<()>) {
    let (go, may_go) = mpsc::channel::<()>();
    let may_go = Mutex::new(may_go);
    let backend = Backend::answering(move |request| {
        if request.target == "/slow" {
            let _dropped_if_the_story_fails = may_go.lock().unwrap().recv();
        }
        ok(&[], request.target.as_bytes())
    });
    (backend, go)
}

/// tidegate in front of `backend`, with these times.
fn leaving_after(backend: &Backend, readiness_delay: &str, drain_timeout: &str) -> Tidegate {
    let preamble = PREAMBLE
        .replace("readiness_delay: 0s", &format!("readiness_delay: {readiness_delay}"))
        .replace("drain_timeout: 2s", &format!("drain_timeout: {drain_timeout}"));
    // 200 connections at once may have to wait at a backend's door on a busy machine.
    let config = single(backend).replace("] }", "], timeouts: { connect: 20s } }");
    assert!(config.contains("connect: 20s"));
    Tidegate::start_whole(&format!("{preamble}{config}"))
}

/// A client whose request for `/slow` has reached the backend.
fn running(tidegate: &Tidegate, backend: &Backend) -> Client {
    let mut client = tidegate.client();
    client.send("GET /slow HTTP/1.1\r\nhost: service\r\n\r\n");
    eventually("the request is running", || backend.requests().iter().any(|request| request.target == "/slow"));
    client
}

fn eventually_closed_to_newcomers(tidegate: &Tidegate) {
    eventually("no more connections are taken", || TcpStream::connect(tidegate.address).is_err());
}

#[test]
fn until_the_balancer_has_noticed_everybody_is_served() {
    let backend = Backend::named("only");
    let tidegate = leaving_after(&backend, "60s", "60s");
    let mut known = tidegate.client();
    known.get("/", &[]);
    tidegate.signal(Signal::Leave);
    eventually("it is not ready", || tidegate.admin("/readyz").status == 503);
    assert_eq!(tidegate.admin("/livez").status, 200);
    for client in [&mut known, &mut tidegate.client()] {
        for _ in 0..2 {
            let answer = client.get("/", &[]);
            assert_eq!((answer.status, answer.header("connection")), (200, None));
        }
    }
}

#[test]
fn after_that_newcomers_are_refused_and_idle_connections_closed() {
    let (backend, go) = patient();
    let mut tidegate = leaving_after(&backend, "0s", "60s");
    let mut idle = tidegate.client();
    idle.get("/", &[]);
    let mut silent = tidegate.client();
    let mut running = running(&tidegate, &backend);
    tidegate.signal(Signal::Leave);
    eventually_closed_to_newcomers(&tidegate);
    assert!(idle.is_closed());
    assert!(silent.is_closed());
    go.send(()).unwrap();
    assert_eq!(running.answer().status, 200);
    tidegate.wait();
}

#[test]
fn a_running_request_gets_its_answer_and_is_told_that_it_was_the_last() {
    let (backend, go) = patient();
    let preamble = PREAMBLE.replace("workers: 2", "workers: 1").replace("drain_timeout: 2s", "drain_timeout: 60s");
    let mut tidegate = Tidegate::start_whole(&format!("{preamble}{}", single(&backend)));
    let mut idle = tidegate.client();
    let mut client = running(&tidegate, &backend);
    tidegate.signal(Signal::Leave);
    assert!(idle.is_closed(), "the worker drains");
    go.send(()).unwrap();
    let answer = client.answer();
    assert_eq!((answer.status, answer.text().as_str()), (200, "/slow"));
    assert_eq!(answer.header("connection"), Some("close"));
    assert!(client.is_closed());
    tidegate.wait();
}

#[test]
fn a_running_upload_goes_through() {
    let backend = Backend::answering(|request| ok(&[("x-length", &request.body.len().to_string())], b""));
    let mut tidegate = leaving_after(&backend, "0s", "60s");
    let mut client = tidegate.client();
    client.send("POST / HTTP/1.1\r\nhost: service\r\ncontent-length: 10\r\n\r\nhello");
    eventually("the request is running", || backend.connections() == 1);
    tidegate.signal(Signal::Leave);
    eventually_closed_to_newcomers(&tidegate);
    let answer = client.send("world").answer();
    assert_eq!(answer.header("x-length"), Some("10"));
    tidegate.wait();
}

#[test]
fn who_has_asked_before_the_drain_is_answered() {
    let backend = Backend::named("only");
    let mut tidegate = leaving_after(&backend, "0s", "60s");
    let mut known: Vec<Client> = (0..100).map(|_| tidegate.client()).collect();
    known.iter_mut().for_each(|client| drop(client.get("/", &[])));
    let mut clients: Vec<Client> = (0..100).map(|_| tidegate.client()).collect();
    clients.append(&mut known);
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nhost: service\r\n\r\n");
    }
    tidegate.signal(Signal::Leave);
    let answers: Vec<_> =
        clients.iter_mut().map(|client| client.try_answer(false).map(|answer| answer.status)).collect();
    assert_eq!(answers, vec![Some(200); 200]);
    tidegate.wait();
}

#[test]
fn who_has_fallen_asleep_and_asks_before_the_drain_is_answered() {
    let backend = Backend::named("only");
    let mut tidegate = leaving_after(&backend, "0s", "60s");
    let mut clients: Vec<Client> = (0..50).map(|_| tidegate.client()).collect();
    clients.iter_mut().for_each(|client| drop(client.get("/", &[])));
    std::thread::sleep(Duration::from_millis(500)); // a connection gives up its buffers when it was quiet for 200 ms
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nhost: service\r\n\r\n");
    }
    tidegate.signal(Signal::Leave);
    let answered = clients.iter_mut().filter_map(|client| client.try_answer(false)).filter(|a| a.status == 200);
    assert_eq!(answered.count(), 50);
    tidegate.wait();
}

#[test]
fn the_deadline_cuts_off_what_still_runs() {
    let (backend, _never) = patient();
    let mut tidegate = leaving_after(&backend, "0s", "300ms");
    let mut client = running(&tidegate, &backend);
    tidegate.signal(Signal::Leave);
    tidegate.wait();
    assert!(client.is_closed());
}

#[test]
fn an_answer_that_is_cut_off_looks_broken_to_the_client() {
    let backend = Backend::scripted(|connection| {
        connection.read_request();
        connection.write(b"HTTP/1.1 200 OK\r\n\r\nsome of it"); // its end is the connection's end
        connection.is_closed_by_peer();
    });
    let mut tidegate = leaving_after(&backend, "0s", "300ms");
    let mut client = tidegate.client();
    client.send("GET / HTTP/1.1\r\nhost: service\r\n\r\n");
    eventually("the answer has begun", || !backend.bytes().is_empty() && client.stream.peek(&mut [0]).is_ok());
    tidegate.signal(Signal::Leave);
    tidegate.wait();
    assert!(!client.answer().complete);
}

#[test]
fn asked_twice_it_ends_at_once() {
    for readiness_delay in ["60s", "0s"] {
        let (backend, _never) = patient();
        let mut tidegate = leaving_after(&backend, readiness_delay, "60s");
        let mut client = running(&tidegate, &backend);
        let begun = Instant::now();
        tidegate.signal(Signal::Leave);
        tidegate.signal(Signal::Leave);
        tidegate.wait();
        assert!(begun.elapsed() < Duration::from_secs(20));
        assert!(client.is_closed());
    }
}

#[test]
fn a_reload_while_leaving_is_not_a_second_leave() {
    let (backend, go) = patient();
    let mut tidegate = leaving_after(&backend, "0s", "60s");
    let mut client = running(&tidegate, &backend);
    tidegate.signal(Signal::Leave);
    tidegate.signal(Signal::Reload);
    eventually_closed_to_newcomers(&tidegate);
    go.send(()).unwrap();
    assert_eq!(client.answer().status, 200);
    tidegate.wait();
}
