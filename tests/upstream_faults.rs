//! Bad lines between tidegate and its backends, and clients that vanish: whatever breaks breaks at every byte once, nobody
//! is told that half an answer is a whole one, and the guard blames NEW for what NEW has done and for nothing else.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::backend::{Connection, ok};
use crate::support::fault::{Fault, Line, Way};
use crate::support::process::Process;
use crate::support::proxy::split;
use crate::support::{Backend, Client, PATIENCE, Tidegate, dead_address, eventually};

const GET: &str = "GET / HTTP/1.1\r\nhost: service\r\n\r\n";
const WITH_LENGTH: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 12\r\nx-a: 1\r\n\r\nhello, world";
const CHUNKED: &[u8] = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\
    7\r\nhello, \r\n5;x=y\r\nworld\r\n0\r\nx-end: 1\r\n\r\n";

/// tidegate before what `line` leads to.
fn before(line: &Line, timeouts: &str) -> Tidegate {
    Tidegate::start(&format!(
        "backends: {{ only: {{ endpoints: [\"{}\"], timeouts: {{ {timeouts} }} }} }}\nroutes: [{{ backend: only }}]\n",
        line.url()
    ))
}

fn ended_as(tidegate: &Tidegate, class: &str) -> f64 {
    tidegate
        .metric(&format!("tidegate_requests_total{{rollout=\"\",side=\"\",reason=\"backend\",code_class=\"{class}\"}}"))
}

fn failures(tidegate: &Tidegate, side: &str, cause: &str) -> f64 {
    tidegate
        .metric(&format!("tidegate_upstream_failures_total{{rollout=\"default\",side=\"{side}\",cause=\"{cause}\"}}"))
}

fn length_of_head(answer: &[u8]) -> usize {
    answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4
}

// -- the line itself

/// Two ends of a line to a listener that does nothing by itself.
fn ends() -> (Line, TcpStream, TcpStream) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let line = Line::to(listener.local_addr().unwrap());
    let here = TcpStream::connect(line.address).unwrap();
    let there = listener.accept().unwrap().0;
    [&here, &there].iter().for_each(|end| end.set_read_timeout(Some(PATIENCE)).unwrap());
    (line, here, there)
}

/// What comes until the connection ends, and whether it was broken.
fn read_to_end(mut end: &TcpStream) -> (Vec<u8>, bool) {
    let mut bytes = Vec::new();
    let broken = end.read_to_end(&mut bytes).is_err_and(|error| {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "it ends within {PATIENCE:?}");
        true
    });
    (bytes, broken)
}

#[test]
fn a_line_is_as_good_as_none_until_it_is_made_bad() {
    let (line, mut here, mut there) = ends();
    here.write_all(b"question").unwrap();
    here.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&there), (b"question".to_vec(), false), "what one end says no more the other hears no more");
    there.write_all(b"the answer").unwrap();
    drop(there);
    assert_eq!(read_to_end(&here), (b"the answer".to_vec(), false));
    eventually("it is over", || line.open_connections() == 0);
    assert_eq!((line.connections(), line.passed(Way::There), line.passed(Way::Back)), (1, 8, 10));
}

#[test]
fn a_line_breaks_at_the_byte_that_it_is_told_to() {
    for (fault, there_too) in [(Fault::Reset, true), (Fault::Finish, false)] {
        let (line, here, mut there) = ends();
        line.at(Way::Back, 7, fault.clone());
        there.write_all(b"0123456789").unwrap();
        let is_reset = matches!(fault, Fault::Reset);
        assert_eq!(read_to_end(&here), (b"0123456".to_vec(), is_reset), "{fault:?}");
        assert_eq!(line.passed(Way::Back), 7);
        drop(here);
        assert_eq!(read_to_end(&there).1, there_too, "{fault:?}");
    }
}

#[test]
fn a_line_falls_silent_one_way_or_both() {
    let (line, mut here, mut there) = ends();
    line.at(Way::Back, 3, Fault::Stall);
    there.write_all(b"0123456789").unwrap();
    here.read_exact(&mut [0; 3]).unwrap();
    here.write_all(b"are you there").unwrap();
    there.read_exact(&mut [0; 13]).unwrap();
    line.at(Way::There, 0, Fault::Vanish);
    drop(there);
    eventually("it takes nothing any more", || {
        line.passed(Way::There) == 13 && here.write_all(&[0; 1024]).is_ok() && line.open_connections() == 1
    });
    here.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert!(here.read(&mut [0]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock), "nor says so");
    drop(line);
    here.set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(!here.read(&mut [0]).is_ok_and(|n| n > 0), "but it ends with its line");
}

#[test]
fn a_line_adds_noise_takes_its_time_and_can_be_mended() {
    let (line, here, mut there) = ends();
    line.at(Way::Back, 2, Fault::Noise(b"?!".to_vec())).rate(Way::Back, 100).delay(Way::Back, Duration::from_millis(5));
    let begun = Instant::now();
    there.write_all(b"0123456789").unwrap();
    let mut heard = [0; 12];
    (&here).read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"01?!23456789");
    assert!(begun.elapsed() >= Duration::from_millis(90), "{:?}", begun.elapsed());
    line.mend();
    there.write_all(&[b'x'; 100_000]).unwrap();
    drop(there);
    assert_eq!(read_to_end(&here).0.len(), 100_000);
}

// -- answers that break

/// What a client got of an answer to a GET: the status and the body if its head came, and whether it was all.
fn got(tidegate: &Tidegate) -> Option<(u16, String, bool)> {
    let answer = tidegate.client().send(GET).try_answer(false)?;
    Some((answer.status, answer.text(), answer.complete))
}

#[test]
fn an_answer_that_breaks_at_any_byte_never_looks_whole_and_is_asked_for_once() {
    for (answer, fault) in [WITH_LENGTH, CHUNKED].into_iter().flat_map(|a| [(a, Fault::Reset), (a, Fault::Finish)]) {
        let backend = Backend::saying(answer);
        let line = Line::to(backend.address);
        let tidegate = before(&line, "response: 10s");
        for byte in 0..answer.len() {
            line.at(Way::Back, byte as u64, fault.clone());
            let at = format!("{fault:?} after {:?}", String::from_utf8_lossy(&answer[..byte]));
            match got(&tidegate) {
                // Of a head that came whole and a break right behind it either may be seen first.
                Some((502, _, true)) if byte < length_of_head(answer) || matches!(fault, Fault::Reset) => {}
                Some((200, _, false)) if byte >= length_of_head(answer) => {}
                None if byte >= length_of_head(answer) => {}
                other => panic!("{at}: {other:?}"),
            }
            assert_eq!(line.connections(), byte + 1, "it is not asked for again: {at}");
            eventually("both know that it is over", || backend.open_connections() == 0 && line.open_connections() == 0);
        }
        line.mend();
        assert_eq!(got(&tidegate), Some((200, "hello, world".to_owned(), true)));
        eventually("it is counted", || ended_as(&tidegate, "2xx") > 0.0);
        assert_eq!(ended_as(&tidegate, "2xx"), 1.0, "nothing else was counted as good");
    }
}

#[test]
fn noise_at_any_byte_of_an_answer_reaches_nobody_as_a_whole_one() {
    // No byte of this can be part of a head, of a chunk's line or its end.
    let noise = b"\x00\n\x01";
    for answer in [WITH_LENGTH, CHUNKED] {
        let backend = Backend::saying(answer);
        let line = Line::to(backend.address);
        let tidegate = before(&line, "response: 500ms, stream_idle: 500ms");
        for byte in 0..=answer.len() {
            line.at(Way::Back, byte as u64, Fault::Noise(noise.to_vec()));
            let at = format!("noise after {:?}", String::from_utf8_lossy(&answer[..byte]));
            let passed = line.passed(Way::Back);
            let in_a_body_by_length = answer == WITH_LENGTH && byte >= length_of_head(answer);
            match got(&tidegate) {
                // 504 where the noise hides that the head has come to its end.
                Some((502 | 504, _, true)) if byte < length_of_head(answer) => {}
                // Within so many bytes nobody can tell noise from what was meant.
                Some((200, body, true)) if in_a_body_by_length => assert_eq!(body.len(), 12, "{at}"),
                Some((200, body, true)) if byte == answer.len() => assert_eq!(body, "hello, world"),
                Some((200, _, false)) | None if byte >= length_of_head(answer) => {}
                other => panic!("{at}: {other:?}"),
            }
            // What is too much may come late; from then on it is known that the connection is not in order.
            let all = passed + (answer.len() + noise.len()) as u64;
            eventually("all of it has come or cannot", || {
                line.passed(Way::Back) >= all || line.open_connections() == 0
            });
            line.mend();
            assert_eq!(got(&tidegate), Some((200, "hello, world".to_owned(), true)), "nothing is left of {at}");
            line.at(Way::Back, 0, Fault::Reset); // so that each byte has a connection of its own
            eventually("no connection is kept", || line.open_connections() == 0);
        }
    }
}

#[test]
fn a_request_that_breaks_at_any_byte_is_a_502_and_is_not_sent_again() {
    for fault in [Fault::Reset, Fault::Finish] {
        let backend = Backend::scripted(|connection| while connection.read_more().is_some() {});
        let line = Line::to(backend.address);
        let tidegate = before(&line, "response: 10s");
        // Up to well into the body: the head that tidegate sends is longer than the client's.
        for (nth, byte) in (0..500).step_by(7).enumerate() {
            line.at(Way::There, byte, fault.clone());
            let body = "x".repeat(400);
            let request = format!("POST / HTTP/1.1\r\nhost: service\r\ncontent-length: 400\r\n\r\n{body}");
            let answer = tidegate.tell(request);
            assert_eq!(answer.status, 502, "{fault:?} after {byte} bytes");
            assert_eq!(line.connections(), nth + 1, "it is not sent again");
        }
        assert_eq!(backend.requests(), [], "no part of it looks like a request");
    }
}

#[test]
fn a_line_that_goes_dead_at_any_byte_costs_the_client_no_more_than_the_timeout() {
    let backend = Backend::saying(CHUNKED);
    let line = Line::to(backend.address);
    let tidegate = before(&line, "response: 1s, stream_idle: 1s");
    let head = length_of_head(CHUNKED);
    for (nth, byte) in [0, 9, head - 1, head, head + 1, head + 8, CHUNKED.len() - 1].into_iter().enumerate() {
        let fault = if nth % 2 == 0 { Fault::Vanish } else { Fault::Stall };
        line.at(Way::Back, byte as u64, fault);
        let begun = Instant::now();
        match got(&tidegate) {
            Some((504, _, true)) if byte < head => {}
            Some((200, _, false)) | None if byte >= head => {}
            other => panic!("after {byte} bytes: {other:?}"),
        }
        assert!(begun.elapsed() < PATIENCE / 2, "{:?}", begun.elapsed());
        line.mend();
        assert_eq!(got(&tidegate), Some((200, "hello, world".to_owned(), true)), "the next one gets another line");
        line.at(Way::Back, 0, Fault::Reset);
        eventually("it is not kept", || line.open_connections() <= nth + 1);
    }
}

#[test]
fn answers_that_drip_get_through_and_take_no_room() {
    const CLIENTS: usize = 100;
    let backend = Backend::saying(CHUNKED);
    let line = Line::to(backend.address);
    line.rate(Way::Back, 50);
    let config = format!(
        "workers: 2\nbackends: {{ only: {{ endpoints: ['{}'], timeouts: {{ response: 10s, stream_idle: 1s }} }} }}\n\
         routes: [{{ backend: only }}]\n",
        line.url()
    );
    let process = Process::start(&config);
    let before = process.resident();
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| process.client()).collect();
    for client in &mut clients {
        client.send(GET);
    }
    eventually("all of them are dripping", || line.passed(Way::Back) > (CLIENTS * length_of_head(CHUNKED)) as u64);
    let grown = process.resident().saturating_sub(before);
    assert!(grown < CLIENTS as u64 * (256 << 10), "{grown} bytes for {CLIENTS} answers on their way");
    for client in &mut clients {
        let answer = client.answer();
        assert_eq!((answer.text().as_str(), answer.complete), ("hello, world", true));
    }
}

// -- clients that leave

/// How a client leaves a request that the backend will not end by itself.
#[derive(Clone, Copy, Debug)]
enum Leaving {
    BeforeTheAnswer,
    InTheAnswer,
    InTheRequest,
    InAChunk,
}

impl Leaving {
    fn request(self) -> &'static str {
        match self {
            Self::BeforeTheAnswer | Self::InTheAnswer => GET,
            Self::InTheRequest => "POST / HTTP/1.1\r\nhost: service\r\ncontent-length: 1000\r\n\r\nhalf",
            Self::InAChunk => "POST / HTTP/1.1\r\nhost: service\r\ntransfer-encoding: chunked\r\n\r\n100\r\nhalf",
        }
    }

    fn play(self, connection: &mut Connection) {
        if matches!(self, Self::InTheAnswer) {
            connection.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf");
        }
    }

    /// Whether the client has what it leaves in the middle of.
    fn is_reached(self, line: &Line, backend: &Backend) -> bool {
        match self {
            Self::BeforeTheAnswer => backend.text().ends_with("\r\n\r\n"),
            Self::InTheAnswer => line.passed(Way::Back) > 60,
            Self::InTheRequest | Self::InAChunk => backend.text().contains("half"),
        }
    }
}

/// How long the backend waited until it heard that the client had left.
fn left(how: Leaving, fault: &Fault) -> Duration {
    let (closed, is_closed) = mpsc::channel();
    let backend = Backend::scripted(move |connection| {
        if connection.read_head().is_some() {
            how.play(connection);
            let _the_story_may_be_over = closed.send(connection.is_closed_by_peer());
        }
    });
    let tidegate = Tidegate::start(&format!(
        "backends: {{ only: {{ endpoints: ['{}'], timeouts: {{ response: 60s, stream_idle: 60s }} }} }}\n\
         routes: [{{ backend: only }}]\ntimeouts: {{ body_idle: 60s }}\n",
        backend.url()
    ));
    let line = Line::to(tidegate.address);
    let mut client = Client::connect(line.address);
    client.send(how.request());
    eventually("it is in the middle", || how.is_reached(&line, &backend));
    let begun = Instant::now();
    line.at(Way::There, 0, fault.clone());
    // A client that only says that it will say nothing more has to be seen to leave; one that breaks off has left.
    drop(client);
    assert_eq!(is_closed.recv_timeout(PATIENCE), Ok(true), "{how:?} {fault:?}");
    let waited = begun.elapsed();
    eventually("it counts as the client's doing", || ended_as(&tidegate, "aborted") == 1.0);
    assert_eq!((ended_as(&tidegate, "error"), ended_as(&tidegate, "5xx")), (0.0, 0.0), "{how:?} {fault:?}");
    let text = tidegate.admin("/metrics").text();
    let blamed = text.lines().filter(|line| line.starts_with("tidegate_upstream_failures_total{"));
    assert!(blamed.clone().all(|line| line.ends_with(" 0")), "{how:?} {fault:?}: {:?}", blamed.collect::<Vec<_>>());
    waited
}

#[test]
fn whoever_leaves_in_the_middle_frees_the_backend_within_a_second_and_blames_nobody() {
    for how in [Leaving::BeforeTheAnswer, Leaving::InTheAnswer, Leaving::InTheRequest, Leaving::InAChunk] {
        for fault in [Fault::Reset, Fault::Finish] {
            // A machine that does ten other things may be late once, but not each time.
            let waited = (0..4).map(|_| left(how, &fault)).find(|waited| *waited <= Duration::from_secs(1));
            assert!(waited.is_some(), "{how:?} {fault:?}: the backend works for nobody");
        }
    }
}

// -- what the guard makes of it

fn rollback(tidegate: &Tidegate) -> Value {
    tidegate.admin("/api/v1/rollouts/default").json()["rollback"].clone()
}

fn is_rolled_back(tidegate: &Tidegate) -> bool {
    rollback(tidegate)["active"] == true
}

fn to_new(line: &Line, old: &Backend, timeouts: &str, percent: u32) -> Tidegate {
    Tidegate::start(&format!(
        "backends:\n  v1: {{ endpoints: ['{}'] }}\n  v2: {{ endpoints: ['{}'], timeouts: {{ {timeouts} }} }}\n\
         rollout: {{ old: v1, new: v2, key: header:x-user-id, percent: {percent} }}\n",
        old.url(),
        line.url()
    ))
}

#[test]
fn a_new_whose_line_goes_bad_is_taken_away_whatever_is_wrong_with_it() {
    for (fault, byte, cause) in [
        (Fault::Reset, 0, "reset"),
        (Fault::Finish, 10, "reset"),
        (Fault::Finish, 100, "truncated"),
        (Fault::Noise(b"\x00".to_vec()), 0, "malformed"),
        (Fault::Vanish, 0, "response_timeout"),
    ] {
        let (old, new) = (Backend::named("old"), Backend::saying(ok(&[("x-long", &"x".repeat(10))], &[b'n'; 1000])));
        let line = Line::to(new.address);
        let tidegate = to_new(&line, &old, "response: 100ms", 50);
        line.at(Way::Back, byte, fault);
        users_ask_until_it_is_rolled_back(&tidegate);
        assert!(failures(&tidegate, "new", cause) >= 3.0, "{cause}");
        assert_eq!(failures(&tidegate, "old", cause), 0.0);
        assert!((0..50).all(|user| tidegate.client().get_as(user * 199).text() == "old"), "everybody is on old");
    }
}

/// Users ask, each over a connection of its own, which may break.
#[track_caller]
fn users_ask_until_it_is_rolled_back(tidegate: &Tidegate) {
    let mut user = 0_u32;
    eventually("it is rolled back", || {
        for _ in 0..8 {
            user += 37;
            let asked = format!("GET / HTTP/1.1\r\nhost: service\r\nx-user-id: {}\r\n\r\n", user % 10_000);
            let _it_may_break = tidegate.client().send(asked).try_answer(false);
        }
        is_rolled_back(tidegate)
    });
}

#[test]
fn a_new_that_refuses_connections_is_taken_away() {
    let old = Backend::named("old");
    let tidegate = Tidegate::start(&format!(
        "rollout: {{ old: '{}', new: 'http://{}', key: header:x-user-id, percent: 50 }}\n",
        old.url(),
        dead_address()
    ));
    users_ask_until_it_is_rolled_back(&tidegate);
    assert!(failures(&tidegate, "new", "connect") >= 3.0);
    assert_eq!(failures(&tidegate, "old", "connect"), 0.0);
}

#[test]
fn when_old_fails_as_well_after_a_rollback_nobody_is_sent_back_to_new() {
    let [old, new] = ["old", "new"].map(Backend::named);
    let (to_old, to_its_new) = (Line::to(old.address), Line::to(new.address));
    let tidegate = Tidegate::start(&format!(
        "rollout: {{ old: '{}', new: '{}', key: header:x-user-id, percent: 50 }}\n",
        to_old.url(),
        to_its_new.url()
    ));
    to_its_new.at(Way::Back, 0, Fault::Reset);
    users_ask_until_it_is_rolled_back(&tidegate);
    to_old.at(Way::Back, 0, Fault::Reset);
    to_its_new.mend();
    let on_new = new.requests().len();
    let mut client = tidegate.client();
    (0..500).for_each(|user| assert_eq!(client.get_as(user * 19).status, 502));
    assert_eq!(new.requests().len(), on_new, "new is well again, and still nobody is sent there");
    let entries = tidegate.admin("/api/v1/audit").json()["entries"].as_array().unwrap().clone();
    let by_guard: Vec<_> = entries.iter().filter(|entry| entry["who"]["kind"] == "guard").collect();
    assert_eq!(by_guard.len(), 1, "{by_guard:?}");
    assert_eq!(tidegate.metric("tidegate_guard_trips_total{rollout=\"default\",cause=\"failures\"}"), 1.0);
    to_old.mend();
    assert_eq!(client.get_as(1).text(), "old");
}

#[test]
fn a_new_that_closes_rested_connections_under_requests_is_not_blamed() {
    const USERS: usize = 20;
    let waiting = Arc::new(AtomicUsize::new(0));
    let arrived = Arc::clone(&waiting);
    let new = Backend::scripted(move |connection| {
        if connection.read_request().is_none() {
            return;
        }
        // Everybody has a connection: nobody is answered before all have asked, each time anew.
        let round = arrived.fetch_add(1, SeqCst) / USERS + 1;
        eventually("all have asked", || arrived.load(SeqCst) >= round * USERS);
        connection.write(&ok(&[], b"new"));
        connection.read_request(); // and closes under it
    });
    let tidegate = Tidegate::start(&split(&Backend::named("old"), &new, "100", ""));
    let mut clients: Vec<Client> = (0..USERS).map(|_| tidegate.client()).collect();
    let ask = |client: &mut Client, method: &str, user: usize| {
        client.send(format!("{method} / HTTP/1.1\r\nhost: service\r\nx-user-id: {user}\r\ncontent-length: 0\r\n\r\n"));
    };
    for _ in 0..2 {
        clients.iter_mut().enumerate().for_each(|(user, client)| ask(client, "GET", user));
        clients.iter_mut().for_each(|client| assert_eq!(client.answer().text(), "new"));
        let rests = Instant::now();
        eventually("the connections have rested for a second", || rests.elapsed() > Duration::from_millis(1_100));
        for (user, client) in clients.iter_mut().enumerate() {
            ask(client, "POST", user); // one by one: a backend that has much to do takes longer than that to close
            assert_eq!(client.answer().status, 502);
        }
    }
    assert_eq!(failures(&tidegate, "new", "stale"), 2.0 * USERS as f64);
    assert!(!is_rolled_back(&tidegate), "{}", rollback(&tidegate));
}

#[test]
fn clients_that_break_off_make_no_verdict() {
    let new = Backend::scripted(|connection| {
        connection.read_head();
        connection.is_closed_by_peer();
    });
    let tidegate = Tidegate::start(&split(&Backend::named("old"), &new, "100", "  shield: {}\n"));
    let line = Line::to(tidegate.address);
    let asked = |user: u32| format!("GET / HTTP/1.1\r\nhost: service\r\nx-user-id: {user}\r\n\r\n");
    let upload =
        |user: u32| format!("POST / HTTP/1.1\r\nhost: service\r\nx-user-id: {user}\r\ncontent-length: 100\r\n\r\nhalf");
    let clients: Vec<Client> = (0..40)
        .map(|user| {
            let mut client = Client::connect(line.address);
            client.send(if user % 2 == 0 { asked(user) } else { upload(user) });
            client
        })
        .collect();
    eventually("all of them wait", || new.bytes().iter().filter(|bytes| !bytes.is_empty()).count() == 40);
    line.at(Way::There, 0, Fault::Reset);
    let aborted = "tidegate_requests_total{rollout=\"default\",side=\"new\",reason=\"bucket\",code_class=\"aborted\"}";
    eventually("all of them have gone", || tidegate.metric(aborted) == 40.0);
    assert!(!is_rolled_back(&tidegate), "{}", rollback(&tidegate));
    drop(clients);
}
