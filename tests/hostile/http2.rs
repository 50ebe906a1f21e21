//! Clients that use HTTP/2 to make much of little: streams that are taken back, heads without end, windows that stay shut,
//! floods of frames that each cost an answer. One of them costs four megabytes at most, and the others notice nothing.

use std::io::Write;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use crate::support::backend::ok;
use crate::support::frames::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, Frame, Framed, GOAWAY, HEADERS, Outcome, PING, PREFACE, PRIORITY,
    PUSH_PROMISE, RST_STREAM, SETTINGS, WINDOW_UPDATE, block, literal, request,
};
use crate::support::process::Process;
use crate::support::proxy::single;
use crate::support::{Backend, Tidegate, eventually};

const PROTOCOL_ERROR: u32 = 1;
const CANCEL: u32 = 8;
const ENHANCE_YOUR_CALM: u32 = 11;
/// SETTINGS_INITIAL_WINDOW_SIZE
const INITIAL_WINDOW: u16 = 4;
/// What one client may cost.
const ONE_CLIENT: u64 = 4 << 20;

// -- what the stories need

/// tidegate as a process whose memory is its own, which has served somebody already. Its memory does not come in huge pages,
/// each of which would count two megabytes for its first byte.
fn process(backend: &Backend) -> Process {
    let config = format!("workers: 1\ntimeouts: {{ write_stall: 1s }}\n{}", single(backend));
    let process = Process::start_as(&config, |command| {
        command.env("MIMALLOC_ALLOW_THP", "0").stdout(Stdio::null()).stderr(Stdio::null());
    });
    for n in 0..3 {
        assert_eq!(
            Framed::connect(process.address, &[]).send(&Frame::get(1, "/warm")).outcome(1).status(),
            Some(200),
            "{n}"
        );
    }
    process
}

/// Somebody else is served, soon.
#[track_caller]
fn assert_serves_others(process: &Process, after: &str) {
    let begun = Instant::now();
    assert_eq!(process.client().get("/warm", &[]).status, 200, "after {after}");
    let outcome = Framed::connect(process.address, &[]).send(&Frame::get(1, "/warm")).outcome(1);
    assert_eq!(outcome.status(), Some(200), "after {after}");
    assert!(begun.elapsed() < Duration::from_secs(5), "after {after}: {:?}", begun.elapsed());
}

/// Sends `bytes` until there are no more or the other side takes no more of them. Whoever floods does not read.
fn flood(client: &mut Framed, bytes: impl Iterator<Item = Vec<u8>>) -> bool {
    client.stream.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
    let mut pieces = bytes.peekable();
    while pieces.peek().is_some() {
        let piece: Vec<u8> = pieces.by_ref().take(1000).flatten().collect();
        if !client.write(&piece) {
            return false;
        }
    }
    true
}

/// How much more memory it takes up than before, at most, over a while.
fn growth(process: &Process, before: u64, while_: Duration) -> u64 {
    let begun = Instant::now();
    let mut most = 0;
    while begun.elapsed() < while_ {
        most = most.max(process.resident().saturating_sub(before));
        std::thread::sleep(Duration::from_millis(20)); // it is watched, not waited for
    }
    most
}

fn odd(n: u32) -> u32 {
    2 * n + 1
}

impl Outcome {
    fn status(&self) -> Option<u16> {
        match self {
            Self::Answered(status, _) => Some(*status),
            _ => None,
        }
    }
}

/// A backend that answers `/warm` and keeps everybody else waiting; it knows how many at most waited at once.
fn keeping() -> (Backend, Arc<AtomicUsize>) {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let peak = Arc::clone(&most);
    let backend = Backend::scripted(move |connection| {
        while let Some(request) = connection.read_request() {
            if request.target != "/warm" {
                peak.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
                connection.is_closed_by_peer();
                now.fetch_sub(1, SeqCst);
                return;
            }
            connection.write(&ok(&[], b"warm"));
        }
    });
    (backend, most)
}

// -- streams that are taken back

#[test]
fn streams_that_are_taken_back_at_once_end_the_connection() {
    let (backend, most) = keeping();
    let process = process(&backend);
    let before = process.resident();
    let mut client = Framed::connect(process.address, &[]);
    let streams =
        (0..100_000).map(|n| [Frame::get(odd(n), "/kept").bytes(), Frame::reset(odd(n), CANCEL).bytes()].concat());
    assert!(!flood(&mut client, streams) || client.end().is_some(), "it is not taken for ever");
    assert!(growth(&process, before, Duration::from_millis(300)) < ONE_CLIENT);
    assert!(most.load(SeqCst) <= 100, "{} at once", most.load(SeqCst));
    eventually("the backend works for nobody", || backend.open_connections() <= 2);
    assert_serves_others(&process, "rapid resets");
}

#[test]
fn the_flood_of_taken_back_streams_is_answered_with_a_reason() {
    let (backend, _) = keeping();
    let process = process(&backend);
    let mut client = Framed::connect(process.address, &[]);
    for n in 0..200 {
        client.send(&Frame::get(odd(n), "/kept")).send(&Frame::reset(odd(n), CANCEL));
    }
    assert_eq!(client.end(), Some(ENHANCE_YOUR_CALM));
}

#[test]
fn streams_that_are_taken_back_one_by_one_free_the_backend_each_time() {
    let (backend, most) = keeping();
    let process = process(&backend);
    let mut client = Framed::connect(process.address, &[]);
    for n in 0..500 {
        client.send(&Frame::get(odd(n), "/kept"));
        assert!(client.is_alive(), "whoever is patient may do so");
        client.send(&Frame::reset(odd(n), CANCEL));
    }
    eventually("the backend works for nobody", || backend.open_connections() <= 2);
    assert!(most.load(SeqCst) <= 100, "{} at once", most.load(SeqCst));
    assert_serves_others(&process, "patient resets");
}

#[test]
fn who_takes_back_most_of_what_it_asks_for_is_sent_elsewhere_and_what_it_wants_is_answered() {
    const TAKEN_BACK: u32 = 499;
    let (backend, _) = keeping();
    let process = process(&backend);
    let mut client = Framed::connect(process.address, &[]);
    client.send(&Frame::headers(1, 0, &request("POST", "/warm")));
    for n in 1..=TAKEN_BACK {
        client.send(&Frame::get(odd(n), "/kept"));
        assert!(client.is_alive(), "it may do so for a while");
        client.send(&Frame::reset(odd(n), CANCEL));
    }
    client.send(&Frame::get(odd(TAKEN_BACK + 1), "/refused"));
    assert!(client.until(|frame| frame.kind == GOAWAY && frame.code() == 0).is_some(), "it is told to go elsewhere");
    client.send(&Frame::data(1, END_STREAM, ""));
    assert!(
        client.until(|frame| frame.stream == 1 && frame.flags & END_STREAM != 0).is_some(),
        "what runs is answered"
    );
    assert!(!backend.text().contains("/refused"), "and nothing else");
    client.end();
    eventually("the backend works for nobody", || backend.open_connections() <= 2);
    assert_serves_others(&process, "most were taken back");
}

#[test]
fn who_takes_back_some_of_what_it_asks_for_is_served() {
    let (backend, _) = keeping();
    let process = process(&backend);
    let mut client = Framed::connect(process.address, &[]);
    for n in (0..1_500).step_by(3) {
        client.send(&Frame::get(odd(n), "/kept"));
        assert_eq!(client.send(&Frame::get(odd(n + 1), "/warm")).outcome(odd(n + 1)).status(), Some(200));
        assert_eq!(client.send(&Frame::get(odd(n + 2), "/warm")).outcome(odd(n + 2)).status(), Some(200));
        client.send(&Frame::reset(odd(n), CANCEL));
    }
    assert!(client.is_alive());
}

#[test]
fn streams_that_we_are_made_to_reset_end_the_connection() {
    type Misdeed = fn(u32) -> Vec<u8>;
    let misdeeds: [(&str, Misdeed); 4] = [
        ("a window that grows by nothing", |id| Frame::window(id, 0).bytes()),
        ("a window that grows too far", |id| Frame::window(id, 0x7fff_ffff).bytes()),
        ("data after the end", |id| Frame::data(id, 0, "x").bytes()),
        ("a length that is wrong", |id| Frame::data(id, END_STREAM, "too long").bytes()),
    ];
    for (what, misdeed) in misdeeds {
        let (backend, most) = keeping();
        let process = process(&backend);
        let before = process.resident();
        let mut client = Framed::connect(process.address, &[]);
        let begun = |id: u32| match what {
            "a length that is wrong" => {
                let fields = [&request("POST", "/kept")[..], &[("content-length", "3")]].concat();
                Frame::headers(id, 0, &fields).bytes()
            }
            _ => Frame::get(id, "/kept").bytes(),
        };
        let streams = (0..20_000).map(|n| [begun(odd(n)), misdeed(odd(n))].concat());
        assert!(!flood(&mut client, streams) || client.end().is_some(), "{what}: it is not taken for ever");
        assert!(growth(&process, before, Duration::from_millis(200)) < ONE_CLIENT, "{what}");
        assert!(most.load(SeqCst) <= 100, "{what}: {} at once", most.load(SeqCst));
        eventually("the backend works for nobody", || backend.open_connections() <= 2);
        assert_serves_others(&process, what);
    }
}

#[test]
fn no_more_than_a_hundred_streams_run_at_once() {
    let (backend, most) = keeping();
    let process = process(&backend);
    let mut client = Framed::connect(process.address, &[]);
    for n in 0..101 {
        client.send(&Frame::get(odd(n), "/kept"));
    }
    assert!(matches!(client.outcome(201), Outcome::Reset(7)), "the one too many is refused, unprocessed");
    eventually("the others are with the backend", || most.load(SeqCst) == 100);
    drop(client);
    eventually("and go with their client", || backend.open_connections() <= 2);
}

// -- heads

#[test]
fn a_head_without_end_ends_the_connection() {
    let backend = Backend::named("only");
    for what in ["long", "empty"] {
        let process = process(&backend);
        let before = process.resident();
        let mut client = Framed::connect(process.address, &[]);
        client.send(&Frame::new(HEADERS, 0, 1, block(&request("GET", "/"))));
        let piece = if what == "long" { literal(0, b"x-long", &[b'x'; 16_000]) } else { Vec::new() };
        let rest = (0..if what == "long" { 2000 } else { 100_000 })
            .map(|_| Frame::new(CONTINUATION, 0, 1, piece.clone()).bytes());
        let all_were_taken = flood(&mut client, rest);
        assert!(growth(&process, before, Duration::from_millis(200)) < ONE_CLIENT, "{what}");
        assert!(!all_were_taken || client.end().is_some(), "{what}: it is not taken for ever");
        assert_serves_others(&process, what);
    }
}

#[test]
fn a_bomb_of_small_fields_costs_no_more_than_a_client_may() {
    let backend = Backend::named("only");
    for name in ["a", "cookie", "x-long-name-that-costs-more-than-its-index"] {
        let process = process(&backend);
        let before = process.resident();
        let mut client = Framed::connect(process.address, &[(INITIAL_WINDOW, 0)]);
        // Said once, and from then on a byte a field: the first entry of the table.
        let field = literal(0x40, name.as_bytes(), b"");
        let streams = (0..20).map(|n| {
            let said_once = if n == 0 { field.clone() } else { Vec::new() };
            let head = [said_once, block(&request("GET", "/")), vec![0xbe; 4000]].concat();
            Frame::new(HEADERS, END_STREAM | END_HEADERS, odd(n), head).bytes()
        });
        flood(&mut client, streams);
        let grown = growth(&process, before, Duration::from_millis(300));
        assert!(grown < ONE_CLIENT.min(20 * client.sent), "{name}: {grown} bytes for {}", client.sent);
        assert_serves_others(&process, "a bomb");
    }
    assert!(backend.requests().iter().all(|request| request.target == "/warm"), "none of them reaches the backend");
}

#[test]
fn too_many_fields_are_refused_and_the_next_request_is_served() {
    let backend = Backend::named("only");
    let tidegate = Tidegate::before(&backend);
    for count in [101, 400, 1_000] {
        let names: Vec<String> = (0..count).map(|n| format!("x-{n}")).collect();
        let mut fields = request("GET", "/bad").to_vec();
        fields.extend(names.iter().map(|name| (name.as_str(), "")));
        let mut client = Framed::connect(tidegate.address, &[]);
        let outcome = client.send(&Frame::headers(1, END_STREAM, &fields)).outcome(1);
        assert!(matches!(outcome, Outcome::Answered(431, _) | Outcome::Reset(_)), "{count} fields: {outcome:?}");
        assert_eq!(client.send(&Frame::get(3, "/good")).outcome(3).status(), Some(200), "{count}");
    }
    let outcome = Framed::connect(tidegate.address, &[]).send(&Frame::headers(1, END_STREAM, &many(90))).outcome(1);
    assert_eq!(outcome.status(), Some(200), "as many as HTTP/1 may have");
    assert!(backend.requests().iter().all(|request| request.target != "/bad"));
}

fn many(count: usize) -> Vec<(&'static str, &'static str)> {
    let mut fields = request("GET", "/many").to_vec();
    fields.extend(std::iter::repeat_n(("x-a", "1"), count));
    fields
}

#[test]
fn twenty_five_thousand_names_harm_nobody() {
    let backend = Backend::named("only");
    let process = process(&backend);
    let before = process.resident();
    let mut client = Framed::connect(process.address, &[]);
    let head: Vec<u8> = (0..25_000).flat_map(|n| literal(0x40, format!("x-{n}").as_bytes(), b"")).collect();
    let head = [block(&request("GET", "/")), head].concat();
    let mut pieces = head.chunks(16_000);
    client.send(&Frame::new(HEADERS, END_STREAM, 1, pieces.next().unwrap()));
    for piece in pieces {
        client.send(&Frame::new(CONTINUATION, 0, 1, piece));
    }
    client.send(&Frame::new(CONTINUATION, END_HEADERS, 1, []));
    assert!(client.outcome(1).is_refusal());
    assert!(growth(&process, before, Duration::from_millis(100)) < ONE_CLIENT);
    assert_serves_others(&process, "25 000 names");
}

// -- floods of what costs an answer

#[test]
fn floods_of_small_frames_cost_no_memory_and_harm_nobody() {
    let (backend, _) = keeping();
    let ping = Frame::new(PING, 0, 0, *b"12345678").bytes();
    let settings = Frame::settings(&[(3, 100)]).bytes();
    let empty_settings = Frame::settings(&[]).bytes();
    let priority = Frame::new(PRIORITY, 0, 3, [0, 0, 0, 0, 16]).bytes();
    let unknown = Frame::new(0xee, 0, 0, [0; 8]).bytes();
    let empty_data = Frame::data(1, 0, []).bytes();
    let small_data = Frame::data(1, 0, "x").bytes();
    let padded = Frame::new(DATA, 8, 1, [&[255][..], &[0; 255]].concat()).bytes();
    let updates = Frame::window(0, 1).bytes();
    for (what, frame) in [
        ("PING", ping),
        ("SETTINGS", settings),
        ("empty SETTINGS", empty_settings),
        ("PRIORITY", priority),
        ("unknown frames", unknown),
        ("empty DATA", empty_data),
        ("DATA of a byte", small_data),
        ("DATA of padding", padded),
        ("WINDOW_UPDATE", updates),
    ] {
        let process = process(&backend);
        let before = process.resident();
        let mut client = Framed::connect(process.address, &[]);
        client.send(&Frame::headers(1, 0, &request("POST", "/kept")));
        flood(&mut client, std::iter::repeat_n(frame, 100_000));
        let grown = growth(&process, before, Duration::from_millis(200));
        assert!(grown < ONE_CLIENT, "{what}: {grown} bytes more");
        assert_serves_others(&process, what);
        drop(client);
        eventually("the backend works for nobody", || backend.open_connections() <= 3);
    }
}

// -- windows that stay shut

#[test]
fn answers_that_are_not_taken_stay_with_the_backend_and_are_given_up() {
    let backend = Backend::answering(|request| match request.target.as_str() {
        "/warm" => ok(&[], b"warm"),
        _ => ok(&[], &vec![b'x'; 10 << 20]),
    });
    let process = process(&backend);
    let before = process.resident();
    let mut client = Framed::connect(process.address, &[(INITIAL_WINDOW, 0)]);
    for n in 0..100 {
        client.send(&Frame::get(odd(n), "/large"));
    }
    eventually("all are answered", || backend.connections() >= 100);
    let grown = growth(&process, before, Duration::from_millis(500));
    assert!(grown < ONE_CLIENT, "{grown} bytes for 100 answers of 10 MB");
    let mut resets = 0;
    while resets < 100 {
        match client.until(|frame| matches!(frame.kind, RST_STREAM | GOAWAY)) {
            Some(frame) if frame.kind == RST_STREAM => resets += 1,
            _ => break,
        }
    }
    assert_eq!(resets, 100, "each stream is given up by itself");
    eventually("the backend has nobody waiting", || backend.open_connections() <= 2);
    assert_serves_others(&process, "shut windows");
}

#[test]
fn a_client_that_reads_nothing_at_all_is_left() {
    let backend = Backend::answering(|request| match request.target.as_str() {
        "/warm" => ok(&[], b"warm"),
        _ => ok(&[], &vec![b'x'; 10 << 20]),
    });
    let process = process(&backend);
    let before = process.resident();
    let mut client = Framed::connect(process.address, &[(INITIAL_WINDOW, 0x7fff_ffff)]);
    client.send(&Frame::window(0, 0x7fff_0000));
    for n in 0..100 {
        client.send(&Frame::get(odd(n), "/large"));
    }
    let grown = growth(&process, before, Duration::from_millis(800));
    // Less than one client's 4 MB on a quiet machine; a hundred connections to the backend have their buffers at the same time.
    assert!(grown < 2 * ONE_CLIENT, "{grown} bytes for 100 answers of 10 MB");
    eventually("the backend has nobody waiting", || backend.open_connections() <= 2);
    assert_serves_others(&process, "a client that does not read");
}

// -- requests that are none

#[test]
fn what_is_no_request_of_http_2_reaches_no_backend() {
    let backend = Backend::named("only");
    let tidegate = Tidegate::before(&backend);
    let [method, scheme, authority, path] = request("GET", "/bad");
    let with = |name, value| vec![method, scheme, authority, path, (name, value)];
    for (what, fields) in [
        ("upper case", with("X-A", "1")),
        ("an empty name", with("", "1")),
        ("a space in a name", with("x a", "1")),
        ("a colon in a name", with("x:a", "1")),
        ("CR LF in a name", with("x\r\na", "1")),
        ("NUL in a value", with("x-a", "1\x002")),
        ("CR in a value", with("x-a", "1\r2")),
        ("LF in a value", with("x-a", "1\n2")),
        ("CR LF and another request", with("x-a", "1\r\n\r\nGET /evil HTTP/1.1\r\nhost: service")),
        ("connection", with("connection", "close")),
        ("keep-alive", with("keep-alive", "1")),
        ("proxy-connection", with("proxy-connection", "keep-alive")),
        ("transfer-encoding", with("transfer-encoding", "chunked")),
        ("upgrade", with("upgrade", "h2c")),
        ("te", with("te", "gzip")),
        ("te and trailers", with("te", "trailers, gzip")),
        ("an unknown pseudo-header", with(":evil", "1")),
        ("a pseudo-header of answers", with(":status", "200")),
        ("two paths", with(":path", "/evil")),
        ("two methods", with(":method", "POST")),
        ("two authorities", with(":authority", "evil")),
        ("another host", with("host", "evil")),
        ("a length without a body", with("content-length", "5")),
        ("two lengths", [with("content-length", "0"), vec![("content-length", "5")]].concat()),
        ("a length that is none", with("content-length", "+0")),
        ("no method", vec![scheme, authority, path]),
        ("no scheme", vec![method, authority, path]),
        ("no path", vec![method, scheme, authority]),
        ("an empty path", vec![method, scheme, authority, (":path", "")]),
        ("a path that is none", vec![method, scheme, authority, (":path", "bad")]),
        ("a space in the path", vec![method, scheme, authority, (":path", "/a b")]),
        ("CR LF in the path", vec![method, scheme, authority, (":path", "/ HTTP/1.1\r\nx-evil: 1\r\n\r\n")]),
        ("nobody to ask", vec![method, scheme, path]),
        ("an empty authority", vec![method, scheme, (":authority", ""), path]),
        ("a user in the authority", vec![method, scheme, (":authority", "me@service"), path]),
        ("a path in the authority", vec![method, scheme, (":authority", "service/evil"), path]),
        ("a pseudo-header after the others", vec![method, scheme, authority, ("x-a", "1"), path]),
        ("a method that is none", vec![(":method", "GET /evil HTTP/1.1"), scheme, authority, path]),
        ("an empty method", vec![(":method", ""), scheme, authority, path]),
        ("CONNECT", vec![(":method", "CONNECT"), authority]),
        ("CONNECT with a path", vec![(":method", "CONNECT"), scheme, authority, path]),
        ("TRACE", vec![(":method", "TRACE"), scheme, authority, path]),
    ] {
        let mut client = Framed::connect(tidegate.address, &[]);
        let outcome = client.send(&Frame::headers(1, END_STREAM, &fields)).outcome(1);
        assert!(outcome.is_refusal(), "{what}: {outcome:?}");
        assert_eq!(backend.text(), "", "{what} reaches the backend");
    }
}

#[test]
fn what_comes_differently_over_http_1_is_made_so() {
    let backend = Backend::answering(|request| ok(&[], &request.body));
    let tidegate = Tidegate::before(&backend);
    let mut client = Framed::connect(tidegate.address, &[]);
    let [method, scheme, authority, path] = request("GET", "/");
    let crumbs = [("cookie", "a=1"), ("x-a", "1"), ("cookie", "b=2"), ("cookie", "c=3")];
    let fields = [&[method, scheme, authority, path][..], &crumbs, &[("host", "service"), ("te", "trailers")]].concat();
    assert_eq!(client.send(&Frame::headers(1, END_STREAM, &fields)).outcome(1).status(), Some(200));
    let sent = backend.requests().remove(0);
    assert_eq!(sent.header("cookie"), Some("a=1; b=2; c=3"));
    assert_eq!((sent.header("host"), sent.header("x-a")), (Some("service"), Some("1")));
    assert_eq!(
        (sent.header("te"), sent.header("transfer-encoding"), sent.header("content-length")),
        (None, None, None)
    );

    // A GET with a body of which nobody has said how long it is.
    client.send(&Frame::headers(3, 0, &request("GET", "/"))).send(&Frame::data(3, 0, "a bo"));
    client.send(&Frame::data(3, END_STREAM, "dy"));
    assert_eq!(client.outcome(3), Outcome::Answered(200, "a body".to_owned()));
    // Trailers of a request stay behind.
    client.send(&Frame::headers(5, 0, &request("POST", "/"))).send(&Frame::data(5, 0, "body"));
    client.send(&Frame::headers(5, END_STREAM, &[("x-auth", "admin"), ("content-length", "3")]));
    assert!(matches!(client.outcome(5), Outcome::Answered(200, body) if body == "body"));
    assert!(!backend.text().contains("x-auth"));
}

#[test]
fn a_body_that_is_not_as_long_as_it_was_said_to_be_is_a_broken_one() {
    let backend = Backend::answering(|request| ok(&[], &request.body));
    for (what, body, ends) in [("shorter", "ab", true), ("longer", "abcdef", true), ("taken back", "ab", false)] {
        let tidegate = Tidegate::before(&backend);
        let mut client = Framed::connect(tidegate.address, &[]);
        let fields = [&request("POST", "/bad")[..], &[("content-length", "4")]].concat();
        client.send(&Frame::headers(1, 0, &fields));
        client.send(&Frame::data(1, if ends { END_STREAM } else { 0 }, body));
        if !ends {
            client.send(&Frame::reset(1, CANCEL)).send(&Frame::get(3, "/good"));
            assert_eq!(client.outcome(3).status(), Some(200));
        } else {
            assert!(client.outcome(1).is_refusal(), "{what}");
        }
        eventually("no connection waits for the rest", || {
            backend.bytes().iter().all(|bytes| !bytes.starts_with(b"POST")) || backend.open_connections() <= 1
        });
    }
    assert!(backend.requests().iter().all(|request| request.target == "/good"), "{:?}", backend.requests());
}

// -- frames that are none

#[test]
fn what_is_no_http_2_ends_the_connection_and_nothing_else() {
    let backend = Backend::named("only");
    let tidegate = Tidegate::before(&backend);
    let get = || Frame::get(1, "/bad");
    for (what, frames) in [
        ("DATA on no stream", vec![Frame::data(0, 0, "x")]),
        ("DATA on a stream that nobody has begun", vec![Frame::data(1, END_STREAM, "x")]),
        ("HEADERS on no stream", vec![Frame::get(0, "/bad")]),
        ("HEADERS on a server's stream", vec![Frame::get(2, "/bad")]),
        ("a stream that goes back", vec![Frame::get(5, "/good"), Frame::get(3, "/bad")]),
        ("PUSH_PROMISE", vec![Frame::new(PUSH_PROMISE, END_HEADERS, 1, [&[0, 0, 0, 2][..], &get().payload].concat())]),
        ("CONTINUATION of nothing", vec![Frame::new(CONTINUATION, END_HEADERS, 1, get().payload)]),
        (
            "something within a head",
            vec![Frame::new(HEADERS, END_STREAM, 1, get().payload), Frame::new(PING, 0, 0, [0; 8])],
        ),
        (
            "another stream within a head",
            vec![Frame::new(HEADERS, END_STREAM, 1, []), Frame::new(CONTINUATION, END_HEADERS, 3, get().payload)],
        ),
        ("SETTINGS on a stream", vec![Frame::new(SETTINGS, 0, 1, [])]),
        ("SETTINGS of five bytes", vec![Frame::new(SETTINGS, 0, 0, [0; 5])]),
        ("an answer to SETTINGS with words", vec![Frame::new(SETTINGS, ACK, 0, [0; 6])]),
        ("a window larger than there are", vec![Frame::settings(&[(INITIAL_WINDOW, 0x8000_0000)])]),
        ("frames larger than there are", vec![Frame::settings(&[(5, 0x0100_0000)])]),
        ("frames smaller than there are", vec![Frame::settings(&[(5, 1)])]),
        ("ENABLE_PUSH of 2", vec![Frame::settings(&[(2, 2)])]),
        ("PING of seven bytes", vec![Frame::new(PING, 0, 0, [0; 7])]),
        ("PING on a stream", vec![Frame::new(PING, 0, 1, [0; 8])]),
        ("a window of the connection that grows by nothing", vec![Frame::window(0, 0)]),
        ("a window of the connection that grows too far", vec![Frame::window(0, 0x7fff_ffff)]),
        ("WINDOW_UPDATE of three bytes", vec![Frame::new(WINDOW_UPDATE, 0, 0, [0; 3])]),
        ("RST_STREAM on no stream", vec![Frame::reset(0, CANCEL)]),
        ("RST_STREAM of a stream that nobody has begun", vec![Frame::reset(1, CANCEL)]),
        ("RST_STREAM of three bytes", vec![Frame::new(RST_STREAM, 0, 1, [0; 3])]),
        (
            "a frame that is too large",
            vec![Frame::headers(1, 0, &request("POST", "/bad")), Frame::data(1, 0, [0; 16_385])],
        ),
        ("padding longer than the frame", vec![Frame::new(HEADERS, 8 | END_HEADERS | END_STREAM, 1, [255, 0, 0])]),
        ("a field that is in no table", vec![Frame::new(HEADERS, END_HEADERS | END_STREAM, 1, [0xfe])]),
        ("a field that breaks off", vec![Frame::new(HEADERS, END_HEADERS | END_STREAM, 1, [0x40, 0x7f])]),
        ("a number without end", vec![Frame::new(HEADERS, END_HEADERS | END_STREAM, 1, [0xff; 64])]),
        (
            "Huffman's end of string",
            vec![Frame::new(HEADERS, END_HEADERS | END_STREAM, 1, [0, 0x84, 255, 255, 255, 255, 0])],
        ),
        (
            "a table larger than allowed",
            vec![Frame::new(HEADERS, END_HEADERS | END_STREAM, 1, [0x3f, 0xff, 0xff, 0x7f])],
        ),
    ] {
        let mut client = Framed::connect(tidegate.address, &[]);
        for frame in &frames {
            client.send(frame);
        }
        let end = client.end();
        assert_ne!(end, Some(0), "{what} is no orderly end");
        assert!(backend.requests().iter().all(|request| request.target != "/bad"), "{what} reaches the backend");
        assert_eq!(tidegate.client().get("/alive", &[]).status, 200, "{what}");
    }
}

#[test]
fn what_only_begins_like_http_2_is_no_http_1_either() {
    let backend = Backend::named("only");
    let tidegate = Tidegate::before(&backend);
    for (what, bytes) in [
        ("half a preface", PREFACE[..20].to_vec()),
        ("a preface with other words", b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n".to_vec()),
        ("a preface in HTTP/1.1", b"PRI * HTTP/1.1\r\nhost: service\r\n\r\n".to_vec()),
        ("no SETTINGS after it", [PREFACE, &Frame::get(1, "/bad").bytes()].concat()),
        ("a request of HTTP/1.1 after it", [PREFACE, b"GET /bad HTTP/1.1\r\nhost: service\r\n\r\n"].concat()),
    ] {
        let mut client = Framed::silent(tidegate.address);
        client.stream.write_all(&bytes).unwrap();
        let _it_may_be_reset_by_now = client.stream.shutdown(std::net::Shutdown::Write);
        let mut came = Vec::new();
        let _it_may_be_reset = std::io::Read::read_to_end(&mut client.stream, &mut came);
        assert!(!came.windows(4).any(|bytes| bytes == b" 200"), "{what}: {}", came.escape_ascii());
        assert_eq!(backend.text(), "", "{what}");
    }
    assert_eq!(tidegate.client().get("/alive", &[]).status, 200);
}

#[test]
fn a_connection_that_says_only_half_a_preface_is_left() {
    let backend = Backend::named("only");
    let tidegate = Tidegate::start(&format!("timeouts: {{ header: 300ms }}\n{}", single(&backend)));
    for bytes in [&PREFACE[..10], PREFACE, &[PREFACE, &Frame::settings(&[]).bytes()[..5]].concat()] {
        let mut client = Framed::silent(tidegate.address);
        client.stream.write_all(bytes).unwrap();
        let begun = Instant::now();
        let mut came = Vec::new();
        let _it_may_be_reset = std::io::Read::read_to_end(&mut client.stream, &mut came);
        assert!(begun.elapsed() < Duration::from_secs(5), "{}: {:?}", bytes.escape_ascii(), begun.elapsed());
    }
}

#[test]
fn a_broken_stream_is_broken_by_itself() {
    let backend = Backend::named("only");
    let tidegate = Tidegate::before(&backend);
    let mut client = Framed::connect(tidegate.address, &[]);
    let bad = [&request("GET", "/bad")[..], &[("connection", "close")]].concat();
    let outcome = client.send(&Frame::headers(1, END_STREAM, &bad)).outcome(1);
    assert!(matches!(outcome, Outcome::Reset(PROTOCOL_ERROR) | Outcome::Answered(400, _)), "{outcome:?}");
    assert_eq!(client.send(&Frame::get(3, "/good")).outcome(3), Outcome::Answered(200, "only".to_owned()));
}
