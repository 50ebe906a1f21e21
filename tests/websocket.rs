//! WebSocket: a handshake that both sides agree to makes a tunnel, nothing else does, and a tunnel ends as it should.

mod tls;

use std::io::{ErrorKind, Write as _};
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use sha1::{Digest as _, Sha1};
use tidegate::app::Signal;
use tidegate::metrics::{Class, Seat, Why};
use tidegate::policy::decision::{Reason, Side};

use crate::support::backend::{Connection, ok};
use crate::support::fault::{Fault, Line, Way};
use crate::support::foreign::{self, Server};
use crate::support::proxy::{PREAMBLE, single, split};
use crate::support::{Backend, Client, Plane, Tidegate, eventually};

const LIMIT: Duration = Duration::from_secs(120);

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A request to speak WebSocket, with more header lines.
pub(crate) fn asking(lines: &str) -> String {
    format!(
        "GET /chat HTTP/1.1\r\nhost: service\r\nconnection: keep-alive, Upgrade\r\nupgrade: WebSocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: {KEY}\r\nx-user-id: 7\r\n{lines}\r\n"
    )
}

/// A backend's agreement, with more header lines.
fn agreeing(lines: &str) -> String {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-accept: {ACCEPT}\r\n{lines}\r\n"
    )
}

/// The answer to a key.
fn accept(key: &str) -> String {
    let hashed = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    BASE64_STANDARD.encode(Sha1::digest(hashed))
}

/// A backend that agrees, and then does `script`.
pub(crate) fn agreeable(script: impl Fn(&mut Connection) + Send + Sync + 'static) -> Backend {
    Backend::scripted(move |connection| {
        if agrees(connection) {
            script(connection);
        }
    })
}

/// Answers requests until one asks for WebSocket, and agrees to that. False if none does.
fn agrees(connection: &mut Connection) -> bool {
    while let Some(request) = connection.read_request() {
        if request.header("upgrade").is_none() {
            connection.write(&ok(&[], b"plain"));
            continue;
        }
        let accept = accept(request.header("sec-websocket-key").unwrap());
        connection.write(agreeing("").replace(ACCEPT, &accept).as_bytes());
        return true;
    }
    false
}

/// A backend that sends back whatever it is sent.
pub(crate) fn echo() -> Backend {
    agreeable(send_back)
}

fn send_back(connection: &mut Connection) {
    loop {
        let waiting = connection.peek().len();
        let bytes = connection.bytes(waiting.max(1));
        if bytes.is_empty() {
            return;
        }
        connection.write(&bytes);
    }
}

/// A client whose tunnel is open.
#[track_caller]
fn tunnelled(mut client: Client) -> Client {
    let answer = client.send(asking("")).answer();
    assert_eq!((answer.status, answer.header("upgrade")), (101, Some("websocket")));
    client
}

/// A masked frame that holds `payload`, which is short; the mask changes nothing.
fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    [&[0x80 | opcode, 0x80 | payload.len() as u8, 0, 0, 0, 0], payload].concat()
}

/// What a server says last when it goes away.
const GOING_AWAY: [u8; 4] = [0x88, 2, 0x03, 0xe9];

// -- the handshake

#[test]
fn both_sides_see_a_handshake_and_then_each_others_bytes() {
    let backend = Backend::scripted(|connection| {
        connection.read_request();
        let lines = "sec-websocket-protocol: chat\r\nx-own: 1\r\ncontent-length: 0\r\n";
        connection.write(agreeing(lines).as_bytes());
        assert_eq!(connection.bytes(5), b"hello");
        connection.write(b"world");
        connection.is_closed_by_peer();
    });
    let tidegate = Tidegate::before(&backend);
    let mut client = tidegate.client();
    let lines = "sec-websocket-protocol: chat, other\r\nsec-websocket-extensions: permessage-deflate\r\n\
                 http2-settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n";
    let answer = client.send(asking(lines)).answer();
    assert_eq!(answer.status, 101);
    for (name, value) in [
        ("connection", Some("Upgrade")),
        ("upgrade", Some("websocket")),
        ("sec-websocket-accept", Some(ACCEPT)),
        ("sec-websocket-protocol", Some("chat")),
        ("x-own", Some("1")),
        ("content-length", None),
    ] {
        assert_eq!(answer.header(name), value, "{name}");
    }
    assert_eq!(client.send("hello").bytes(5), b"world");
    let asked = &backend.requests()[0];
    for (name, value) in [
        ("connection", Some("Upgrade")),
        ("upgrade", Some("websocket")),
        ("sec-websocket-key", Some(KEY)),
        ("sec-websocket-version", Some("13")),
        ("sec-websocket-protocol", Some("chat, other")),
        ("sec-websocket-extensions", Some("permessage-deflate")),
        ("http2-settings", None),
        ("x-forwarded-for", Some("127.0.0.1")),
    ] {
        assert_eq!(asked.header(name), value, "{name}");
    }
}

#[test]
fn no_byte_of_the_client_leaves_before_the_backend_agrees() {
    let (go, may_go) = channel::<()>();
    let may_go = Mutex::new(may_go);
    let backend = Backend::scripted(move |connection| {
        connection.read_request();
        assert!(connection.peek().is_empty());
        may_go.lock().unwrap().recv().unwrap();
        connection.stream.set_nonblocking(true).unwrap();
        assert!(connection.read_more().is_none(), "something came early");
        connection.stream.set_nonblocking(false).unwrap();
        connection.write(format!("{}first", agreeing("")).as_bytes());
        assert_eq!(connection.bytes(5), b"early");
        connection.write(b"done");
    });
    let tidegate = Tidegate::before(&backend);
    let mut client = tidegate.client();
    client.send(format!("{}early", asking("")));
    eventually("the handshake is there", || backend.text().contains("chat"));
    go.send(()).unwrap();
    assert_eq!(client.answer().status, 101);
    assert_eq!(client.bytes(9), b"firstdone", "what came right behind the agreement is not lost");
    assert!(client.is_closed());
}

#[test]
fn what_is_no_agreement_to_websocket_is_a_failure() {
    for wrong in [
        "",
        "upgrade: websocket\r\n",
        "connection: upgrade\r\n",
        "connection: upgrade\r\nupgrade: h2c\r\n",
        "connection: upgrade\r\nupgrade: websocket\r\nupgrade: h2c\r\n",
        "connection: close\r\nupgrade: websocket\r\n",
    ] {
        let backend = Backend::scripted(move |connection| {
            connection.read_request();
            connection.write(format!("HTTP/1.1 101 Switching Protocols\r\n{wrong}\r\nsecret").as_bytes());
            connection.is_closed_by_peer();
        });
        let tidegate = Tidegate::before(&backend);
        let mut client = tidegate.client();
        let answer = client.send(asking("")).answer();
        assert_eq!(answer.status, 502, "{wrong:?}");
        assert!(!answer.text().contains("secret"));
        client.send("GET /evil HTTP/1.1\r\nhost: service\r\n\r\n");
        assert!(client.is_closed(), "{wrong:?}");
        eventually("the backend is rid of it", || backend.open_connections() == 0);
        assert!(!backend.text().contains("evil"), "{wrong:?}");
    }
}

#[test]
fn whoever_does_not_ask_in_order_asks_for_an_ordinary_answer() {
    let backend = echo();
    let tidegate = Tidegate::before(&backend);
    let good = asking("");
    for (what, request) in [
        ("no key", good.replace("sec-websocket-key", "x-key")),
        ("two keys", asking(&format!("sec-websocket-key: {KEY}\r\n"))),
        ("another method", good.replace("GET", "PUT")),
        ("an old version", good.replace("HTTP/1.1", "HTTP/1.0")),
        ("another protocol", good.replace("WebSocket", "h2c")),
        ("a longer name", good.replace("WebSocket", "websocket2")),
        ("nothing of the connection", good.replace("keep-alive, Upgrade", "keep-alive")),
        ("a body", asking("content-length: 3\r\n") + "abc"),
    ] {
        let mut client = tidegate.client();
        let answer = client.send(request).answer();
        assert_eq!((answer.status, answer.text().as_str()), (200, "plain"), "{what}");
        assert!(client.is_closed(), "{what}");
    }
    assert!(!backend.text().to_ascii_lowercase().contains("upgrade"));
}

#[test]
fn whose_wish_is_declined_is_closed_on_both_sides() {
    let backend = Backend::answering(|_| ok(&[("upgrade", "websocket"), ("connection", "upgrade")], b"no"));
    let tidegate = Tidegate::before(&backend);
    let mut client = tidegate.client();
    let answer = client.send(format!("{}GET /evil HTTP/1.1\r\nhost: service\r\n\r\n", asking(""))).answer();
    assert_eq!((answer.status, answer.text().as_str()), (200, "no"));
    assert_eq!((answer.header("upgrade"), answer.header("connection")), (None, Some("close")));
    assert!(client.is_closed());
    eventually("so is the backend's connection", || backend.open_connections() == 0);
    assert!(!backend.text().contains("evil"));
}

#[test]
fn a_tunnel_takes_no_connection_that_is_kept_for_others() {
    let backend = echo();
    let tidegate =
        Tidegate::start_whole(&format!("{}{}", PREAMBLE.replace("workers: 2", "workers: 1"), single(&backend)));
    let mut other = tidegate.client();
    assert_eq!(other.get("/", &[]).text(), "plain");
    let mut client = tunnelled(tidegate.client());
    assert_eq!(client.send("abc").bytes(3), b"abc");
    for _ in 0..3 {
        assert_eq!(other.get("/", &[]).text(), "plain");
    }
    assert_eq!(backend.connections(), 2);
}

// -- the tunnel

#[test]
fn much_goes_both_ways_at_once_and_comes_out_as_it_went_in() {
    const MUCH: usize = 24 << 20;
    let backend = echo();
    let tidegate = Tidegate::before(&backend);
    let mut client = tunnelled(tidegate.client());
    let bytes: Vec<u8> = (0..MUCH).map(|at| (at % 251) as u8).collect();
    let mut writing = client.stream.try_clone().unwrap();
    let sent = bytes.clone();
    let writer = thread::spawn(move || writing.write_all(&sent).unwrap());
    assert!(client.bytes(MUCH) == bytes);
    writer.join().unwrap();
}

#[test]
fn who_is_not_read_from_cannot_send() {
    let (_keep, until) = channel::<()>();
    let until = Mutex::new(until);
    let backend = agreeable(move |_| {
        let _until_the_story_ends = until.lock().unwrap().recv();
    });
    let tidegate = Tidegate::before(&backend);
    let mut client = tunnelled(tidegate.client());
    client.stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let piece = vec![0; 1 << 16];
    let mut sent = 0;
    let stopped = loop {
        match client.stream.write(&piece) {
            Ok(size) => sent += size,
            Err(error) => break error,
        }
        assert!(sent < 64 << 20, "somebody keeps all of it");
    };
    assert_eq!(stopped.kind(), ErrorKind::WouldBlock);
}

#[test]
fn one_side_may_end_before_the_other() {
    let backend = agreeable(|connection| {
        while connection.read_more().is_some() {}
        let all = connection.peek().len();
        connection.write(format!("{all} bytes").as_bytes());
    });
    let tidegate = Tidegate::before(&backend);
    let mut client = tunnelled(tidegate.client());
    client.send("12345").finish();
    assert_eq!(client.read_to_end(), b"5 bytes");
}

#[test]
fn a_tunnel_outlives_the_config_that_made_it() {
    let (backend, other) = (echo(), Backend::named("other"));
    let tidegate = Tidegate::before(&backend);
    let mut client = tunnelled(tidegate.client());
    tidegate.edit(&single(&other));
    eventually("the other backend serves", || tidegate.client().get("/", &[]).text() == "other");
    assert_eq!(client.send("still here").bytes(10), b"still here");
}

#[test]
fn a_tunnel_that_carries_nothing_is_closed_where_that_is_configured() {
    let backend = agreeable(|connection| {
        connection.is_closed_by_peer();
    });
    let tidegate = Tidegate::start(&format!("timeouts: {{ tunnel_idle: 200ms }}\n{}", single(&backend)));
    let mut client = tunnelled(tidegate.client());
    assert_eq!(client.read_to_end(), GOING_AWAY);
}

#[test]
fn whoever_takes_nothing_for_too_long_is_left() {
    let backend = agreeable(|connection| {
        let piece = vec![0; 1 << 16];
        while connection.stream.write_all(&piece).is_ok() {}
    });
    let tidegate = Tidegate::start(&format!("timeouts: {{ write_stall: 300ms }}\n{}", single(&backend)));
    let _client = tunnelled(tidegate.client());
    eventually("the backend is rid of it", || backend.open_connections() == 0);
}

// -- how it counts

#[test]
fn it_is_in_flight_for_as_long_as_it_lives_and_quick_if_its_handshake_was() {
    let (old, new) = (Backend::named("old"), echo());
    let plane = Plane::start(&split(&old, &new, "100", ""), &[]);
    let meters = plane.meters();
    let mut client = tunnelled(plane.client());
    assert_eq!(client.send(frame(1, b"hello")).bytes(11), frame(1, b"hello"));
    assert_eq!(meters.side(Side::New).inflight(), 1);
    let opened = Instant::now();
    eventually("it has been open for a while", || opened.elapsed() > Duration::from_millis(300));
    client.send(frame(8, &[3, 0xe8])).bytes(8);
    drop(client);
    eventually("it is over", || meters.side(Side::New).inflight() == 0);
    assert_eq!(meters.side(Side::New).requests(Why::Decided(Reason::Bucket), Class::Success), 1);
    eventually("it is logged", || !plane.log().is_empty());
    let line = &plane.log()[0];
    assert_eq!((&line["status"], &line["class"]), (&101.into(), &"2xx".into()));
    assert_eq!((&line["bytes_received"], &line["bytes_sent"]), (&19.into(), &19.into()));
    assert!(line["open_ms"].as_f64().unwrap() >= 300.0, "{line}");
    assert!(line["duration_ms"].as_f64().unwrap() < 300.0, "{line}");
}

/// A tunnel on NEW whose backend does `script` when it is told to.
fn open_on_new(script: impl Fn(&mut Connection) + Send + Sync + 'static) -> (Plane, Client, Sender<()>, [Backend; 2]) {
    let (go, may_go) = channel::<()>();
    let may_go: Arc<Mutex<Receiver<()>>> = Arc::new(Mutex::new(may_go));
    let new = agreeable(move |connection| {
        let _dropped_if_the_story_fails = may_go.lock().unwrap().recv();
        script(connection);
    });
    let old = Backend::named("old");
    let plane = Plane::start(&split(&old, &new, "100", ""), &[]);
    let client = tunnelled(plane.client());
    (plane, client, go, [old, new])
}

/// How the one request on NEW has ended, once it has.
fn class_of_the_end(plane: &Plane) -> Class {
    let meters = plane.meters();
    let ended = |class: &Class| meters.side(Side::New).requests(Why::Decided(Reason::Bucket), *class) == 1;
    eventually("it is over", || Class::ALL.iter().any(ended));
    *Class::ALL.iter().find(|class| ended(class)).unwrap()
}

#[test]
fn a_backend_that_goes_without_a_word_has_failed() {
    for is_reset in [false, true] {
        let (plane, mut client, go, _backends) = open_on_new(move |connection| {
            connection.write(b"\x82\x03abc");
            if is_reset {
                connection.reset();
            }
        });
        go.send(()).unwrap();
        let last = client.read_to_end();
        assert!(is_reset || last == b"\x82\x03abc", "what it said before is not lost: {last:?}");
        drop(client);
        assert_eq!(class_of_the_end(&plane), Class::Error, "{is_reset}");
    }
}

#[test]
fn a_backend_that_says_goodbye_has_not() {
    let (plane, mut client, go, _backends) = open_on_new(|connection| connection.write(&GOING_AWAY));
    go.send(()).unwrap();
    assert_eq!(client.read_to_end(), GOING_AWAY);
    drop(client);
    assert_eq!(class_of_the_end(&plane), Class::Success);
}

#[test]
fn a_client_that_goes_says_nothing_of_the_backend() {
    for is_reset in [false, true] {
        let (plane, client, go, _backends) = open_on_new(|_| {});
        if is_reset {
            socket2::SockRef::from(&client.stream).set_linger(Some(Duration::ZERO)).unwrap();
        }
        drop(client);
        drop(go); // only now the backend looks
        assert_eq!(class_of_the_end(&plane), Class::Aborted, "{is_reset}");
    }
}

// -- the end of a drain

#[test]
fn at_the_deadline_of_a_drain_both_sides_are_told_and_what_they_said_is_not_lost() {
    let (said, says) = channel::<Vec<u8>>();
    let backend = agreeable(move |connection| {
        connection.write(b"\x82\x03abc");
        while connection.read_more().is_some() {}
        said.send(connection.peek().to_vec()).unwrap();
    });
    let preamble = PREAMBLE.replace("drain_timeout: 2s", "drain_timeout: 300ms");
    let mut tidegate = Tidegate::start_whole(&format!("{preamble}{}", single(&backend)));
    let mut client = tunnelled(tidegate.client());
    assert_eq!(client.bytes(5), b"\x82\x03abc");
    client.send(frame(1, b"hi"));
    eventually("it is through", || backend.text().ends_with("hi"));
    tidegate.signal(Signal::Leave);
    assert_eq!(client.read_to_end(), GOING_AWAY);
    drop(client);
    let heard = says.recv().unwrap();
    let (first, last) = heard.split_at(8);
    assert_eq!(first, frame(1, b"hi"));
    let [0x88, 0x82, m0, m1, _, _, high, low] = *last else { panic!("{last:?}") };
    assert_eq!([high ^ m0, low ^ m1], [0x03, 0xe9], "a client's frame is masked");
    tidegate.wait();
}

#[test]
fn the_last_word_waits_for_the_end_of_a_frame_and_not_for_ever() {
    for comes_to_an_end in [true, false] {
        let backend = agreeable(move |connection| {
            connection.write(b"\x82\x06abc");
            while !connection.peek().windows(2).any(|bytes| bytes == [0x88, 0x82]) {
                if connection.read_more().is_none() {
                    return;
                }
            }
            if comes_to_an_end {
                connection.write(b"def\x81\x02never shown");
            }
            connection.is_closed_by_peer();
        });
        let preamble = PREAMBLE.replace("drain_timeout: 2s", "drain_timeout: 0s");
        let mut tidegate = Tidegate::start_whole(&format!("{preamble}{}", single(&backend)));
        let mut client = tunnelled(tidegate.client());
        assert_eq!(client.bytes(5), b"\x82\x06abc");
        tidegate.signal(Signal::Leave);
        let rest = client.read_to_end();
        let expected = if comes_to_an_end { [&b"def"[..], &GOING_AWAY].concat() } else { Vec::new() };
        assert_eq!(rest, expected, "{comes_to_an_end}");
        drop(client);
        tidegate.wait();
    }
}

#[test]
fn a_side_that_is_emptied_counts_its_tunnels_and_ends_them_in_time() {
    let (mut plane, mut client, _go, [_old, new]) = open_on_new(|_| {});
    drain(&mut plane, None);
    let meters = plane.meters();
    let age = || meters.oldest(Seat::of(Side::New, false));
    eventually("its age is known", || age().is_some_and(|age| age > Duration::from_millis(50)));
    assert_eq!(plane.client().get_as(7).text(), "old");
    assert_eq!(meters.side(Side::New).inflight(), 1);
    drain(&mut plane, Some(Duration::ZERO));
    assert_eq!(client.read_to_end(), GOING_AWAY);
    drop((client, _go));
    eventually("nothing runs", || age().is_none() && meters.side(Side::New).inflight() == 0);
    eventually("the backend is rid of it", || new.open_connections() == 0);
    assert_eq!(class_of_the_end(&plane), Class::Success);
}

fn drain(plane: &mut Plane, cut_in: Option<Duration>) {
    use tidegate::policy::drain::Drain;
    let name = plane.snapshot().rollouts[0].name.clone();
    plane.publish(|overlay| {
        let (at, by) = (std::time::SystemTime::now(), crate::support::plane::somebody());
        overlay.rollouts.entry(name).or_default().drain =
            Some(Drain { side: Side::New, cut_in, at, by, reason: String::new() });
    });
}

// -- bad lines

#[test]
fn a_line_that_breaks_at_any_byte_breaks_one_tunnel_and_nothing_else() {
    let backend = echo();
    let line = Line::to(backend.address);
    let tidegate = Tidegate::start(&single(&backend).replace(&backend.url(), &line.url()));
    let agreed = agreeing("").len() as u64;
    for byte in [0, 1, 12, agreed - 1, agreed, agreed + 3] {
        for fault in [Fault::Reset, Fault::Finish] {
            line.at(Way::Back, byte, fault.clone());
            let mut client = tidegate.client();
            client.send(asking("")).send("hello");
            let status = client.answer().status;
            assert_eq!(status, if byte < agreed { 502 } else { 101 }, "{byte} {fault:?}");
            let rest = client.read_to_end();
            assert!(b"hello".starts_with(&rest[..]) && (rest.len() as u64) <= byte.saturating_sub(agreed));
        }
    }
    line.mend();
    let mut client = tunnelled(tidegate.client());
    assert_eq!(client.send("hello").bytes(5), b"hello");
}

// -- HTTP/2

/// tidegate before the server at `address`, to which it speaks `protocol`.
fn over(address: SocketAddr, protocol: &str) -> Tidegate {
    let backend = format!("{{ endpoints: [\"http://{address}\"], protocol: {protocol} }}");
    Tidegate::start(&format!("backends:\n  only: {backend}\nroutes:\n  - match: {{}}\n    backend: only\n"))
}

#[test]
fn a_stream_of_http_2_becomes_a_tunnel_to_either_kind_of_backend() {
    let backend = echo();
    let behind = Tidegate::before(&backend);
    let chain = over(behind.address, "h2");
    for tidegate in [&behind, &chain] {
        let said = foreign::done(foreign::python("websocket_h2.py", &[&tidegate.address.to_string(), "echo"]), LIMIT);
        assert_eq!(said.trim(), "200 hello");
    }
    let asked = backend.text();
    assert!(asked.starts_with("GET /chat HTTP/1.1\r\n"), "{asked}");
    for line in
        ["connection: Upgrade", "upgrade: websocket", "sec-websocket-version: 13", "sec-websocket-protocol: chat"]
    {
        assert!(asked.contains(&format!("\r\n{line}\r\n")), "{line}: {asked}");
    }
}

#[test]
fn a_connection_becomes_a_tunnel_over_a_stream() {
    let backend = echo();
    let behind = Tidegate::before(&backend);
    let tidegate = over(behind.address, "h2");
    let mut client = tidegate.client();
    let answer = client.send(asking("")).answer();
    assert_eq!((answer.status, answer.header("sec-websocket-accept")), (101, Some(ACCEPT)));
    assert_eq!(client.send("hello").bytes(5), b"hello");
    client.finish();
    assert!(client.is_closed());
    eventually("the backend is rid of it", || backend.open_connections() == 0);
}

#[test]
fn what_a_stream_carries_early_waits_and_what_is_declined_is_lost() {
    let backend = Backend::scripted(|connection| {
        connection.read_request();
        assert!(connection.peek().is_empty());
        connection.write(&ok(&[], b"no"));
        assert!(connection.is_closed_by_peer());
        assert!(connection.peek().is_empty());
    });
    let tidegate = Tidegate::before(&backend);
    let early = || foreign::python("websocket_h2.py", &[&tidegate.address.to_string(), "early"]);
    // The backend's 200 is no agreement, and on a stream it would look like one.
    assert_eq!(foreign::done(early(), LIMIT).trim().split(' ').next(), Some("502"));
    assert!(!backend.text().contains("hello"));
}

#[test]
fn a_refusal_reaches_whoever_asked_as_it_is() {
    for (status, told) in [
        ("204 No Content", ""),
        ("302 Found", "elsewhere"),
        ("401 Unauthorized", "who are you?"),
        ("403 Forbidden", "not you"),
        ("404 Not Found", "not here"),
        ("426 Upgrade Required", "another version"),
        ("503 Service Unavailable", "later"),
    ] {
        let length = if told.is_empty() { String::new() } else { format!("content-length: {}\r\n", told.len()) };
        let backend = Backend::saying(format!("HTTP/1.1 {status}\r\nx-own: 1\r\n{length}\r\n{told}"));
        let behind = Tidegate::before(&backend);
        let chain = over(behind.address, "h2");
        let is_success = status.starts_with('2');
        for (tidegate, expected) in [(&behind, &status[..3]), (&chain, if is_success { "502" } else { &status[..3] })] {
            let answer = tidegate.tell(asking(""));
            assert_eq!(answer.status.to_string(), expected, "{status}");
            assert!(
                is_success || (answer.text(), answer.header("x-own")) == (told.to_owned(), Some("1")),
                "{answer:?}"
            );
        }
        for tidegate in [&behind, &chain] {
            let asking = foreign::python("websocket_h2.py", &[&tidegate.address.to_string(), "echo"]);
            let said = foreign::done(asking, LIMIT);
            match is_success {
                // On a stream every success is an agreement (RFC 8441 §5.1, RFC 9110 §9.3.6), and this is none.
                true => assert!(said.starts_with("502 "), "{status}: {said}"),
                false => assert_eq!(said.trim_end(), format!("{} {told}", &status[..3])),
            }
        }
    }
}

#[test]
fn no_other_protocol_is_spoken_over_a_stream() {
    let backend = echo();
    let tidegate = Tidegate::before(&backend);
    for (mode, status) in [("other", "501"), ("none", "405")] {
        let said = foreign::done(foreign::python("websocket_h2.py", &[&tidegate.address.to_string(), mode]), LIMIT);
        assert_eq!(said.trim().split(' ').next(), Some(status), "{mode}: {said}");
    }
    assert_eq!(backend.connections(), 0);
}

#[test]
fn a_backend_with_http_2_that_takes_no_tunnels_is_said_to() {
    let server = Server::start("h2_plain.py", &[]);
    let tidegate = over(server.address, "h2");
    assert_eq!(tidegate.client().get("/", &[]).text(), "plain");
    let answer = tidegate.tell(asking(""));
    assert_eq!((answer.status, answer.header("proxy-status")), (502, Some("tidegate; error=http_upgrade_failed")));
}

#[test]
fn at_the_deadline_of_a_drain_a_stream_is_told_too() {
    let backend = agreeable(|connection| {
        connection.is_closed_by_peer();
    });
    let mut tidegate = Tidegate::before(&backend);
    let address = tidegate.address.to_string();
    let client = thread::spawn(move || foreign::done(foreign::python("websocket_h2.py", &[&address, "wait"]), LIMIT));
    eventually("the client knows that it has begun", || backend.text().contains("hello"));
    tidegate.signal(Signal::Leave);
    assert_eq!(client.join().unwrap().trim(), "200 closed 1001");
    tidegate.wait();
}

// -- others' clients and servers

/// Runs these cases of the Autobahn suite against the server at `address`.
#[track_caller]
fn run_cases(address: SocketAddr, cases: &[&str]) {
    let reports = tempfile::tempdir().unwrap();
    let mut suite = foreign::packaged("kosoku");
    for case in cases {
        suite.args(["-i", case]);
    }
    suite.arg("-o").arg(reports.path()).arg(address.to_string());
    let said = foreign::done(suite, LIMIT);
    assert!(said.contains("cases passed"), "{said}");
}

#[test]
fn the_autobahn_cases_pass_through_a_connection() {
    let server = Server::start("websocket_echo.py", &[]);
    let tidegate = over(server.address, "http1");
    run_cases(tidegate.address, &["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "10.*"]);
}

#[test]
fn the_autobahn_cases_pass_through_a_stream() {
    let server = Server::start("websocket_echo.py", &[]);
    let behind = over(server.address, "http1");
    let tidegate = over(behind.address, "h2");
    run_cases(tidegate.address, &["1.*", "2.*", "5.*", "6.*", "7.*"]);
}

// -- events, which are plain HTTP

#[test]
fn each_event_arrives_before_the_next_one_is_sent() {
    let (go, may_go) = channel::<()>();
    let may_go = Mutex::new(may_go);
    let backend = Backend::scripted(move |connection| {
        while connection.read_request().is_some() {
            connection
                .write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n");
            while may_go.lock().unwrap().recv().is_ok() {
                connection.write(b"d\r\ndata: event\n\n\r\n");
            }
        }
    });
    let tidegate = Tidegate::before(&backend);
    let mut client = tidegate.client();
    client.send("GET /events HTTP/1.1\r\nhost: service\r\naccept: text/event-stream\r\n\r\n");
    eventually("the head is here", || client.stream.peek(&mut [0; 400]).is_ok_and(|n| n > 100));
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.extend(client.bytes(1));
    }
    for _ in 0..5 {
        go.send(()).unwrap();
        assert_eq!(client.bytes(18), b"D\r\ndata: event\n\n\r\n");
    }
    drop((client, go));
    eventually("the backend is rid of it", || backend.open_connections() == 0);
}

#[test]
fn each_event_arrives_over_http_2_too() {
    use std::io::{BufRead as _, BufReader};
    let (go, may_go) = channel::<()>();
    let may_go = Mutex::new(may_go);
    let backend = Backend::scripted(move |connection| {
        connection.read_request();
        connection.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n");
        while may_go.lock().unwrap().recv().is_ok() {
            connection.write(b"d\r\ndata: event\n\n\r\n");
        }
        connection.write(b"0\r\n\r\n");
        connection.is_closed_by_peer();
    });
    let tidegate = Tidegate::before(&backend);
    let mut curl = foreign::system("curl");
    curl.args(["--no-buffer", "--silent", "--http2-prior-knowledge"])
        .arg(format!("http://{}/events", tidegate.address));
    let mut curl = curl.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(curl.stdout.take().unwrap()).lines();
    for _ in 0..5 {
        go.send(()).unwrap();
        assert_eq!(lines.next().unwrap().unwrap(), "data: event");
        assert_eq!(lines.next().unwrap().unwrap(), "");
    }
    drop(go);
    assert!(lines.next().is_none());
    assert!(curl.wait().unwrap().success());
}
