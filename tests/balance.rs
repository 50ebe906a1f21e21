//! A backend with several endpoints: who gets the next request, and what a user notices of one that is gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::backend::ok;
use crate::support::process::Process;
use crate::support::proxy::PREAMBLE;
use crate::support::{Backend, Client, Tidegate, dead_address, eventually};

const POST: &str = "POST / HTTP/1.1\r\nhost: service\r\ncontent-length: 2\r\n\r\nhi";

/// A config with one backend, `only`, with these endpoints and lines.
fn config(urls: &[String], lines: &str) -> String {
    format!("backends:\n  only: {{ endpoints: {urls:?}, {lines} }}\nroutes:\n  - {{ backend: only }}\n")
}

fn before(urls: &[String], lines: &str) -> Tidegate {
    Tidegate::start(&config(urls, lines))
}

/// With a single worker, so that all turns are one row.
fn before_with_one_worker(urls: &[String], lines: &str) -> Tidegate {
    let preamble = PREAMBLE.replace("workers: 2", "workers: 1");
    Tidegate::start_whole(&format!("{preamble}{}", config(urls, lines)))
}

fn dead() -> String {
    format!("http://{}", dead_address())
}

fn retries(tidegate: &Tidegate, cause: &str) -> f64 {
    tidegate.metric(&format!("tidegate_retries_total{{backend=\"only\",cause=\"{cause}\"}}"))
}

fn failures(tidegate: &Tidegate, cause: &str) -> f64 {
    tidegate.metric(&format!("tidegate_upstream_failures_total{{rollout=\"\",side=\"\",cause=\"{cause}\"}}"))
}

fn answered(backend: &Backend) -> usize {
    backend.requests().len()
}

// -- spread

#[test]
fn requests_are_spread_evenly() {
    for balance in ["least_requests", "round_robin"] {
        let backends = ["a", "b", "c", "d"].map(Backend::named);
        let urls: Vec<String> = backends.iter().map(Backend::url).collect();
        let tidegate = before(&urls, &format!("balance: {balance}"));
        let mut clients: Vec<Client> = (0..4).map(|_| tidegate.client()).collect();
        for _ in 0..100 {
            clients.iter_mut().for_each(|client| assert_eq!(client.get("/", &[]).status, 200));
        }
        let shares = backends.each_ref().map(answered);
        assert!(shares.iter().all(|share| (95..=105).contains(share)), "{balance}: {shares:?}");
    }
}

/// A backend that answers nobody until it is told to.
fn that_hesitates() -> (Backend, Arc<AtomicBool>) {
    let goes_on = Arc::new(AtomicBool::new(false));
    let may_go_on = Arc::clone(&goes_on);
    let backend = Backend::answering(move |_| {
        eventually("it is told to go on", || may_go_on.load(SeqCst));
        ok(&[], b"slow")
    });
    (backend, goes_on)
}

#[test]
fn who_is_busy_gets_nothing_while_another_one_is_idle() {
    let (slow, goes_on) = that_hesitates();
    let quick = Backend::named("quick");
    let tidegate = before_with_one_worker(&[slow.url(), quick.url()], "");
    let mut stuck: Vec<Client> = (0..2).map(|_| tidegate.client()).collect();
    for client in &mut stuck {
        client.send("GET / HTTP/1.1\r\nhost: service\r\n\r\n");
    }
    eventually("one of them is stuck", || answered(&slow) == 1 && answered(&quick) == 1);
    let mut client = tidegate.client();
    for _ in 0..50 {
        assert_eq!(client.get("/", &[]).text(), "quick");
    }
    assert_eq!(answered(&slow), 1);
    goes_on.store(true, SeqCst);
    let mut answers: Vec<String> = stuck.iter_mut().map(|client| client.answer().text()).collect();
    answers.sort();
    assert_eq!(answers, ["quick", "slow"]);
    assert_eq!(
        tidegate
            .metric(&format!("tidegate_endpoint_inflight_requests{{backend=\"only\",endpoint=\"{}\"}}", slow.address)),
        0.0
    );
}

#[test]
fn who_is_new_starts_slowly() {
    let (known, new) = (Backend::named("known"), Backend::named("new"));
    let lines = "slow_start: 3s";
    let tidegate = before(&[known.url()], lines);
    let started = Instant::now();
    eventually("the known one is at full speed", || started.elapsed() > Duration::from_millis(3_200));
    tidegate.edit(&config(&[known.url(), new.url()], lines));
    let mut client = tidegate.client();
    let is_there = format!("tidegate_endpoint_healthy{{backend=\"only\",endpoint=\"{}\"}}", new.address);
    eventually("the new one is there", || tidegate.metric(&is_there) == 1.0);
    let of_new = |client: &mut Client| (0..100).filter(|_| client.get("/", &[]).text() == "new").count();
    let at_first = of_new(&mut client);
    assert!(at_first < 40, "{at_first} of 100");
    let added = Instant::now();
    eventually("it is at full speed", || added.elapsed() > Duration::from_millis(3_200));
    let then = of_new(&mut client);
    assert!((45..=55).contains(&then), "{then} of 100");
}

// -- sent once more

#[test]
fn nobody_notices_an_endpoint_that_refuses() {
    let backend = Backend::named("alive");
    let tidegate = before(&[dead(), backend.url()], "");
    let mut client = tidegate.client();
    for _ in 0..20 {
        assert_eq!(client.get("/", &[]).text(), "alive");
        assert_eq!(client.send(POST).answer().text(), "alive");
    }
    assert_eq!(answered(&backend), 40);
    assert!(retries(&tidegate, "connect") >= 1.0);
    assert_eq!(failures(&tidegate, "connect"), 0.0);
}

#[test]
fn without_attempts_nothing_is_sent_once_more() {
    let backend = Backend::named("alive");
    let tidegate =
        before_with_one_worker(&[dead(), backend.url()], "retries: { attempts: 0 }, ejection: { enabled: false }");
    let mut client = tidegate.client();
    let statuses: Vec<u16> = (0..10).map(|_| client.get("/", &[]).status).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 502).count(), 5, "{statuses:?}");
    assert_eq!(retries(&tidegate, "connect"), 0.0);
    assert_eq!(failures(&tidegate, "connect"), 5.0);
}

#[test]
fn at_most_so_many_endpoints_are_tried() {
    let backend = Backend::named("alive");
    let urls = [dead(), dead(), dead(), backend.url()];
    let lines = "ejection: { enabled: false }, retries: { attempts: 3 }";
    let tidegate = before(&urls, lines);
    let mut client = tidegate.client();
    for _ in 0..12 {
        assert_eq!(client.get("/", &[]).text(), "alive");
    }
    let tidegate = before(&urls, &lines.replace('3', "1"));
    let mut client = tidegate.client();
    let failed = (0..40).filter(|_| client.get("/", &[]).status == 502).count();
    assert!((1..40).contains(&failed), "{failed}");
}

#[test]
fn what_is_sent_once_more_is_bounded() {
    let backend = Backend::named("alive");
    let lines = "ejection: { enabled: false }, retries: { budget: 1% }";
    let tidegate = before_with_one_worker(&[dead(), backend.url()], lines);
    let mut client = tidegate.client();
    let failed = (0..400).filter(|_| client.get("/", &[]).status == 502).count();
    assert!((90..=105).contains(&failed), "200 found nobody, about 100 of them may be sent once more: {failed}");
    let retried = retries(&tidegate, "connect");
    assert!((100.0..=105.0).contains(&retried), "{retried}");
}

/// A backend that closes each connection as a second request comes over it.
fn that_closes_after_one() -> Backend {
    Backend::scripted(|connection| {
        connection.read_request();
        connection.write(&ok(&[], b""));
        connection.read_request();
    })
}

fn after_a_rest() {
    let rests = Instant::now();
    eventually("the connection has rested for a second", || rests.elapsed() > Duration::from_millis(1_050));
}

#[test]
fn a_request_that_meets_a_closing_connection_is_sent_once_more_if_that_does_no_harm() {
    let backend = that_closes_after_one();
    let tidegate = Tidegate::before(&backend);
    let mut client = tidegate.client();
    for (n, request) in ["GET", "HEAD", "DELETE", "OPTIONS"].into_iter().enumerate() {
        assert_eq!(client.get("/", &[]).status, 200);
        after_a_rest();
        client.send(format!("{request} / HTTP/1.1\r\nhost: service\r\n\r\n"));
        let answer = if request == "HEAD" { client.answer_to_head() } else { client.answer() };
        assert_eq!(answer.status, 200, "{request}");
        assert_eq!(retries(&tidegate, "stale"), (n + 1) as f64, "{request}");
        after_a_rest(); // the connection of the second one is closing as well
        assert_eq!(client.send(POST).answer().status, 502);
        assert_eq!(failures(&tidegate, "stale"), (n + 1) as f64);
    }
    assert_eq!(failures(&tidegate, "reset"), 0.0);
    assert_eq!(retries(&tidegate, "stale"), 4.0, "no POST was");
}

#[test]
fn without_attempts_a_request_that_meets_a_closing_connection_is_not_sent_once_more() {
    let backend = that_closes_after_one();
    let tidegate = before(&[backend.url()], "retries: { attempts: 0 }");
    let mut client = tidegate.client();
    assert_eq!(client.get("/", &[]).status, 200);
    after_a_rest();
    assert_eq!(client.get("/", &[]).status, 502);
    assert_eq!((failures(&tidegate, "stale"), retries(&tidegate, "stale")), (1.0, 0.0));
}

#[test]
fn a_request_with_a_body_is_not_sent_once_more() {
    let backend = that_closes_after_one();
    let tidegate = Tidegate::before(&backend);
    let mut client = tidegate.client();
    assert_eq!(client.get("/", &[]).status, 200);
    after_a_rest();
    assert_eq!(client.send(POST.replace("POST", "PUT")).answer().status, 502);
    assert_eq!((failures(&tidegate, "stale"), retries(&tidegate, "stale")), (1.0, 0.0));
}

/// A backend that answers the first request of a connection, and has the second one for so long before it hangs up.
fn that_works_on_the_second_for(time: Duration) -> Backend {
    Backend::scripted(move |connection| {
        connection.read_request();
        connection.write(&ok(&[], b""));
        connection.read_request();
        thread::sleep(time); // what it does takes so long
    })
}

#[test]
fn a_backend_that_has_had_a_request_for_long_has_failed_it_however_long_the_connection_had_rested() {
    for body in ["", "hi"] {
        let backend = that_works_on_the_second_for(Duration::from_secs(1));
        let tidegate = Tidegate::before(&backend);
        let mut client = tidegate.client();
        assert_eq!(client.get("/", &[]).status, 200);
        after_a_rest();
        client.send(format!("PUT / HTTP/1.1\r\nhost: service\r\ncontent-length: {}\r\n\r\n{body}", body.len()));
        assert_eq!(client.answer().status, 502);
        assert_eq!((failures(&tidegate, "reset"), failures(&tidegate, "stale")), (1.0, 0.0));
        assert_eq!(retries(&tidegate, "stale"), 0.0);
        assert_eq!(backend.requests().len(), 2);
    }
}

#[test]
fn an_answer_over_a_rested_connection_may_take_as_long_as_any_other() {
    let backend = Backend::answering(|request| {
        if request.target == "/slow" {
            thread::sleep(Duration::from_millis(600));
        }
        ok(&[], b"at last")
    });
    // Longer than a race, and shorter.
    for (response, status) in [("5s", 200), ("400ms", 504), ("100ms", 504)] {
        let tidegate = before(&[backend.url()], &format!("timeouts: {{ response: {response} }}"));
        let mut client = tidegate.client();
        assert_eq!(client.get("/", &[]).status, 200);
        after_a_rest();
        assert_eq!(client.get("/slow", &[]).status, status, "{response}");
        assert_eq!(failures(&tidegate, "response_timeout"), f64::from(u8::from(status == 504)), "{response}");
    }
}

/// The clock alone says nothing: who looks too late cannot know when the connection was closed.
#[test]
fn a_process_that_stood_still_does_not_take_a_closing_connection_for_a_failure() {
    let (reached, go_on) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let backend = {
        let (reached, go_on) = (Arc::clone(&reached), Arc::clone(&go_on));
        Backend::scripted(move |connection| {
            connection.read_request();
            connection.write(&ok(&[], b""));
            if connection.read_request().is_some() {
                reached.fetch_add(1, SeqCst);
                eventually("it may close", || go_on.load(SeqCst));
            }
        })
    };
    let process = Process::start(&format!("workers: 1\n{}", config(&[backend.url()], "")));
    let mut client = process.client();
    assert_eq!(client.get("/", &[]).status, 200);
    after_a_rest();
    client.send("GET / HTTP/1.1\r\nhost: service\r\n\r\n");
    eventually("it is there", || reached.load(SeqCst) == 1);
    process.signal("STOP");
    go_on.store(true, SeqCst);
    let stopped = Instant::now();
    eventually("longer than a race takes", || stopped.elapsed() > Duration::from_secs(1));
    process.signal("CONT");
    assert_eq!(client.answer().status, 200);
    assert_eq!(answered(&backend), 3, "it was sent once more");
}
