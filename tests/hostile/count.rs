//! The count: what a backend received, read by two parsers that share nothing with tidegate, is exactly what tidegate says
//! that it passed on, body for body, whatever a client sends. Every way of smuggling a request breaks this one claim.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, TestRunner};
use serde_json::Value;
use tidegate::app::Signal;

use crate::support::backend::ok;
use crate::support::{Backend, Client, Tidegate, eventually, foreign};

/// Conversations with one tidegate at a time, so that they share workers, pools and backend connections.
const AT_ONCE: usize = 8;
/// How often; `AT_ONCE` times as many conversations in all.
const ROUNDS: u32 = 32;

// -- what is sent

/// What one client says on one connection.
#[derive(Clone, Debug)]
struct Conversation {
    requests: Vec<Sent>,
    /// Where it breaks off, if it does.
    cut: Option<Index>,
    /// How much it writes at a time, in turn.
    writes: Vec<usize>,
}

/// One request as it is sent.
#[derive(Clone, Debug)]
struct Sent {
    method: &'static str,
    payload: Payload,
    framing: Framing,
    quirks: Vec<Quirk>,
}

/// What is meant to be the body.
#[derive(Clone, Debug)]
enum Payload {
    Nothing,
    Bytes(Vec<u8>),
    /// So many bytes that they do not come at once.
    Large(usize),
    /// Another request, with an id of its own, that must never be taken for one.
    Request,
    /// The same behind what ends a chunked body.
    EndAndRequest,
}

/// How the body is framed.
#[derive(Clone, Debug)]
enum Framing {
    /// Not at all: what follows is the next request.
    Absent,
    Length,
    /// A length that is not that of the payload, by this much.
    Wrong(isize),
    /// Header lines with `N` for the length. They mean that length or are refused.
    Spelt(&'static str),
    /// In chunks of these sizes, each size line spelt like this.
    Chunked(Vec<usize>, &'static str),
    /// Chunked, and said so like this: it means chunked or is refused.
    Coded(&'static str),
    /// Chunked, but the last line is this.
    Ended(&'static str),
}

/// What else is odd about a head. Each is refused or changes nothing about the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Quirk {
    BareLf,
    EmptyLinesFirst,
    Version10,
    Absolute,
    NoHost,
    /// A further header line.
    Line(&'static str),
}

const LINES: &[&str] = &[
    "x-odd:\t a \t",
    "x-odd:",
    "x-odd : 1",
    "x-odd: 1\r\n 2",
    "x-odd: 1\r2",
    "x-odd: 1\u{0}2",
    "x-odd: caf\u{e9}",
    "x odd: 1",
    "X-Odd",
    ": 1",
    "host: other",
    "connection: close",
    "connection: keep-alive, x-odd",
    "connection: content-length",
    "connection: transfer-encoding",
    "expect: 100-continue",
    "upgrade: h2c\r\nconnection: upgrade",
    "content_length: 0",
    "transfer_encoding: chunked",
    "transfer.encoding: chunked",
    "trailer: x-id",
    "te: trailers",
    "x-odd: GET /x HTTP/1.1",
];

const SPELT: &[&str] = &[
    "content-length: N\r\ncontent-length: N",
    "content-length: N\r\ncontent-length: 1N",
    "content-length: N, N",
    "content-length: 00N",
    "content-length: +N",
    "content-length: 0xN",
    "content-length: -N",
    "content-length: N ",
    "content-length:N",
    "Content-Length:\tN",
    "content-length : N",
    "content-length: \x0bN",
    "content-length:\r\n N",
    "content-length: N\r\ncontent-length:",
    "content-length: 1844674407370955161N",
];

const CODED: &[&str] = &[
    "Transfer-Encoding: CHUNKED",
    "transfer-encoding: chunked\r\ncontent-length: 1",
    "content-length: 3\r\ntransfer-encoding: chunked",
    "content-length: 0\r\ntransfer-encoding: chunked",
    "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
    "transfer-encoding: gzip, chunked",
    "transfer-encoding: chunked, identity",
    "transfer-encoding: identity\r\ntransfer-encoding: chunked",
    "transfer-encoding: ,chunked",
    "transfer-encoding: chunked,",
    "transfer-encoding: xchunked",
    "transfer-encoding: \x0bchunked",
    "transfer-encoding : chunked",
    "transfer-encoding:\r\n chunked",
    "transfer-encoding: \"chunked\"",
    "transfer-encoding:chunked\t",
];

/// `N` is the size in hexadecimal.
const SIZES: &[&str] = &[
    "N",
    "N",
    "N",
    "0N",
    "N;a=b",
    "N ;a",
    "N;",
    " N",
    "+N",
    "0xN",
    "N_",
    "-N",
    "N\n",
    "N;a\n",
    "N\r",
    "fffffffffffffffffN",
];

const ENDS: &[&str] =
    &["0\r\n", "0\n\n", "0\r\n\r", "00000\r\n\r\n", "0;x\r\n\r\n", "0\r\nx-id: 9\r\n\r\n", "0\r\n: \r\n\r\n", "0\r\nx"];

fn payload() -> impl Strategy<Value = Payload> {
    prop_oneof![
        2 => Just(Payload::Nothing),
        2 => prop::collection::vec(any::<u8>(), 1..200).prop_map(Payload::Bytes),
        1 => prop::collection::vec(select(&b"\r\n0;: GETx"[..]), 1..40).prop_map(Payload::Bytes),
        1 => (20_000..40_000_usize).prop_map(Payload::Large),
        3 => Just(Payload::Request),
        3 => Just(Payload::EndAndRequest),
    ]
}

fn framing() -> impl Strategy<Value = Framing> {
    let sizes = || prop::collection::vec(1..64_usize, 1..4);
    prop_oneof![
        2 => Just(Framing::Absent),
        6 => Just(Framing::Length),
        6 => sizes().prop_map(|sizes| Framing::Chunked(sizes, "N")),
        2 => (sizes(), select(SIZES)).prop_map(|(sizes, spelt)| Framing::Chunked(sizes, spelt)),
        2 => (-20..60_isize).prop_map(Framing::Wrong),
        2 => select(SPELT).prop_map(Framing::Spelt),
        2 => select(CODED).prop_map(Framing::Coded),
        1 => select(ENDS).prop_map(Framing::Ended),
    ]
}

fn quirk() -> impl Strategy<Value = Quirk> {
    prop_oneof![
        2 => Just(Quirk::BareLf),
        1 => Just(Quirk::EmptyLinesFirst),
        1 => Just(Quirk::Version10),
        1 => Just(Quirk::Absolute),
        1 => Just(Quirk::NoHost),
        10 => select(LINES).prop_map(Quirk::Line),
    ]
}

fn sent() -> impl Strategy<Value = Sent> {
    let method = select(&["GET", "POST", "POST", "PUT", "HEAD", "OPTIONS", "DELETE"][..]);
    let quirks = prop_oneof![3 => Just(Vec::new()), 1 => prop::collection::vec(quirk(), 1..3)];
    (method, payload(), framing(), quirks).prop_map(|(method, payload, framing, quirks)| Sent {
        method,
        payload,
        framing,
        quirks,
    })
}

fn conversation() -> impl Strategy<Value = Conversation> {
    let cut = prop_oneof![4 => Just(None), 1 => any::<Index>().prop_map(Some)];
    let writes = prop_oneof![2 => Just(vec![usize::MAX]), 1 => prop::collection::vec(1..200_usize, 1..5)];
    (prop::collection::vec(sent(), 1..=4), cut, writes).prop_map(|(requests, cut, writes)| Conversation {
        requests,
        cut,
        writes,
    })
}

// -- what it means

/// What is known about the request with an id.
#[derive(Debug)]
struct Meant {
    /// Its body, if it is a request at all.
    body: Vec<u8>,
    /// Whether it stands where only a body is, so that nobody may take it for a request.
    hidden: bool,
    /// Whether nothing speaks against passing it on.
    plain: bool,
}

/// All that is sent in one round, and what it means.
#[derive(Debug, Default)]
struct Round {
    streams: Vec<(Vec<u8>, Vec<usize>)>,
    meant: BTreeMap<String, Meant>,
}

impl Round {
    fn of(conversations: &[Conversation]) -> Self {
        let mut round = Self::default();
        for conversation in conversations {
            round.add(conversation);
        }
        round
    }

    fn next_id(&self) -> String {
        format!("r{}", self.meant.len())
    }

    fn add(&mut self, conversation: &Conversation) {
        let mut stream = Vec::new();
        let mut wrong = Vec::new();
        // Behind a wrong length nobody can say where a request begins: what is hidden elsewhere may come to light.
        let mut is_clear = true;
        let mut is_plain = conversation.cut.is_none();
        for sent in &conversation.requests {
            let leaks = matches!(sent.framing, Framing::Wrong(_) | Framing::Absent);
            is_clear &= !leaks;
            let id = self.next_id();
            self.meant.insert(id.clone(), Meant { body: Vec::new(), hidden: false, plain: false });
            let payload = self.payload(&sent.payload, is_clear);
            let framed = matches!(&sent.framing, Framing::Length) || matches!(&sent.framing, Framing::Chunked(_, "N"));
            is_plain &= sent.quirks.is_empty() && framed;
            stream.extend(head(sent, &id, payload.len()));
            let body_at = stream.len();
            stream.extend(body(&sent.framing, &payload));
            let meant = self.meant.get_mut(&id).expect("it was just put there");
            meant.plain = is_plain;
            match sent.framing {
                Framing::Absent => {}
                Framing::Wrong(by) => wrong.push((id, body_at, wrong_length(payload.len(), by))),
                _ => meant.body = payload,
            }
        }
        if let Some(cut) = conversation.cut {
            stream.truncate(cut.index(stream.len()));
        }
        for (id, at, length) in wrong {
            let told = stream.get(at..at + length).unwrap_or_default();
            self.meant.get_mut(&id).expect("every request is known").body = told.to_vec();
        }
        self.streams.push((stream, conversation.writes.clone()));
    }

    fn payload(&mut self, payload: &Payload, hidden: bool) -> Vec<u8> {
        let before = match payload {
            Payload::Nothing => return Vec::new(),
            Payload::Bytes(bytes) => return bytes.clone(),
            Payload::Large(length) => {
                return b"GET / HTTP/1.1\r\n\r\n0\r\n".iter().copied().cycle().take(*length).collect();
            }
            Payload::Request => "",
            Payload::EndAndRequest => "\r\n0\r\n\r\n",
        };
        let id = self.next_id();
        self.meant.insert(id.clone(), Meant { body: Vec::new(), hidden, plain: false });
        format!("{before}GET /{id} HTTP/1.1\r\nhost: evil\r\nx-id: {id}\r\n\r\n").into_bytes()
    }
}

fn wrong_length(length: usize, by: isize) -> usize {
    length.saturating_add_signed(by)
}

fn head(sent: &Sent, id: &str, length: usize) -> Vec<u8> {
    let has = |quirk| sent.quirks.contains(&quirk);
    let empty_lines = if has(Quirk::EmptyLinesFirst) { "\r\n\r\n" } else { "" };
    let host = if has(Quirk::Absolute) { "http://other" } else { "" };
    let version = if has(Quirk::Version10) { "1.0" } else { "1.1" };
    let mut text = format!("{empty_lines}{} {host}/{id} HTTP/{version}\r\nx-id: {id}\r\n", sent.method);
    if !has(Quirk::NoHost) {
        text += "host: service\r\n";
    }
    for quirk in &sent.quirks {
        if let Quirk::Line(line) = quirk {
            text += line;
            text += "\r\n";
        }
    }
    match &sent.framing {
        Framing::Absent => {}
        Framing::Length => text += &format!("content-length: {length}\r\n"),
        Framing::Wrong(by) => text += &format!("content-length: {}\r\n", wrong_length(length, *by)),
        Framing::Spelt(lines) => text += &format!("{}\r\n", lines.replace('N', &length.to_string())),
        Framing::Coded(lines) => text += &format!("{lines}\r\n"),
        Framing::Chunked(..) | Framing::Ended(_) => text += "transfer-encoding: chunked\r\n",
    }
    text += "\r\n";
    if has(Quirk::BareLf) { text.replace("\r\n", "\n").into_bytes() } else { text.into_bytes() }
}

fn body(framing: &Framing, payload: &[u8]) -> Vec<u8> {
    match framing {
        Framing::Absent | Framing::Length | Framing::Wrong(_) | Framing::Spelt(_) => payload.to_vec(),
        Framing::Chunked(sizes, spelt) => chunks(payload, sizes, spelt, "0\r\n\r\n"),
        Framing::Coded(_) => chunks(payload, &[usize::MAX], "N", "0\r\n\r\n"),
        Framing::Ended(end) => chunks(payload, &[usize::MAX], "N", end),
    }
}

fn chunks(mut payload: &[u8], sizes: &[usize], spelt: &str, end: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for size in sizes.iter().cycle() {
        if payload.is_empty() {
            break;
        }
        // Large bodies in small chunks would only take long.
        let (chunk, rest) = payload.split_at((*size).max(payload.len() / 50).min(payload.len()));
        payload = rest;
        out.extend(spelt.replace('N', &format!("{:x}", chunk.len())).bytes());
        out.extend(b"\r\n");
        out.extend(chunk);
        out.extend(b"\r\n");
    }
    out.extend(end.bytes());
    out
}

// -- the parsers

/// The two parsers, in a process of their own.
struct Parsers {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

/// What one parser made of one backend connection.
#[derive(Debug, PartialEq, Eq)]
struct Reading {
    requests: Vec<Seen>,
    unfinished: bool,
    error: Option<String>,
}

/// A request as a parser read it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    method: String,
    target: String,
    ids: Vec<String>,
    body: String,
}

impl Parsers {
    fn start() -> Self {
        let mut child =
            foreign::python("parsers.py", &[]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let input = child.stdin.take().expect("it is piped");
        let mut output = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut versions = String::new();
        output.read_line(&mut versions).unwrap();
        assert!(versions.contains("httptools"), "the parsers are there");
        Self { child, input, output }
    }

    /// What each parser makes of each stream.
    fn read(&mut self, streams: &[Vec<u8>]) -> Vec<[Reading; 2]> {
        let hex = |bytes: &Vec<u8>| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let line = serde_json::to_string(&streams.iter().map(hex).collect::<Vec<_>>()).unwrap();
        writeln!(self.input, "{line}").unwrap();
        let mut answer = String::new();
        self.output.read_line(&mut answer).unwrap();
        let answer: Value = serde_json::from_str(&answer).expect("the parsers answer");
        let both = |pair: &Value| [reading(&pair[0]), reading(&pair[1])];
        answer.as_array().unwrap().iter().map(both).collect()
    }
}

impl Drop for Parsers {
    fn drop(&mut self) {
        let _it_may_have_ended = self.child.kill();
        let _it_may_have_ended = self.child.wait();
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

fn reading(value: &Value) -> Reading {
    let seen = |value: &Value| Seen {
        method: text(&value["method"]),
        target: text(&value["target"]),
        ids: value["ids"].as_array().unwrap().iter().map(text).collect(),
        body: text(&value["body"]),
    };
    Reading {
        requests: value["requests"].as_array().unwrap().iter().map(seen).collect(),
        unfinished: value["unfinished"].as_bool().unwrap(),
        error: value["error"].as_str().map(str::to_owned),
    }
}

// -- the claim

/// What came of one round.
struct Outcome {
    /// What reached each backend connection.
    recorded: Vec<Vec<u8>>,
    /// The paths of the requests that tidegate says the backend answered.
    answered: BTreeSet<String>,
}

/// Sends a round through a tidegate of its own, which passes on the methods that every parser knows (behind a wrong length
/// a request may well begin in the middle of one), and waits until nothing moves any more.
fn play(round: &Round) -> Outcome {
    let ended = Arc::new(AtomicUsize::new(0));
    let backend = Backend::scripted({
        let ended = Arc::clone(&ended);
        move |connection| {
            let _counted_even_if_it_panics = Ends(Arc::clone(&ended));
            while connection.read_request().is_some() {
                connection.write(&ok(&[], b"fine"));
            }
        }
    });
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("access.log");
    let mut tidegate = Tidegate::start(&format!(
        "access_log: {}\ntimeouts: {{ header: 200ms, body_idle: 200ms, keep_alive: 200ms }}\n\
         backends:\n  only: {{ endpoints: [\"{}\"] }}\n\
         routes:\n  - match: {{ method: [GET, POST, PUT, HEAD, OPTIONS, DELETE] }}\n    backend: only\n",
        log.display(),
        backend.url()
    ));
    std::thread::scope(|scope| {
        for (stream, writes) in &round.streams {
            let client = tidegate.client();
            scope.spawn(move || talk(client, stream, writes));
        }
    });
    // All clients have seen the end of their connections, so what is on the way now is on its way to the backend.
    assert_eq!(tidegate.client().get("/last", &[("connection", "close"), ("x-id", "last")]).status, 200, "alive");
    tidegate.signal(Signal::Leave);
    tidegate.wait();
    eventually("the backend has read all there is", || ended.load(SeqCst) == backend.connections());
    let lines = std::fs::read_to_string(&log).unwrap();
    let mut answered = BTreeSet::new();
    for line in lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()) {
        if line["status"] == 200 {
            assert_eq!(line["reason"], "backend");
            assert!(answered.insert(text(&line["path"])), "answered twice: {line}");
        }
    }
    Outcome { recorded: backend.bytes(), answered }
}

struct Ends(Arc<AtomicUsize>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.fetch_add(1, SeqCst);
    }
}

fn talk(mut client: Client, stream: &[u8], writes: &[usize]) {
    let mut rest = stream;
    for size in writes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, after) = rest.split_at((*size).min(rest.len()));
        client.send(piece);
        rest = after;
    }
    client.read_to_end();
}

/// What the backend saw, if both parsers say the same and nothing else was there.
fn agreed(readings: Vec<[Reading; 2]>) -> Result<Vec<Seen>, TestCaseError> {
    let mut seen = Vec::new();
    for [one, other] in readings {
        prop_assert_eq!(&one.error, &None, "h11 reads it all");
        prop_assert_eq!(&other.error, &None, "httptools reads it all");
        prop_assert_eq!(&one, &other, "both read the same");
        seen.extend(one.requests);
    }
    Ok(seen)
}

fn check(round: &Round, outcome: &Outcome, seen: &[Seen]) -> Result<(), TestCaseError> {
    let mut counted = BTreeSet::new();
    for request in seen.iter().filter(|request| request.target != "/last") {
        let [id] = &request.ids[..] else { return Err(TestCaseError::fail(format!("not one id: {request:?}"))) };
        prop_assert_eq!(&request.target, &format!("/{id}"), "a head is one head");
        let meant = &round.meant[id];
        prop_assert!(!meant.hidden, "{} was part of a body", id);
        let body: String = meant.body.iter().map(|byte| format!("{byte:02x}")).collect();
        prop_assert_eq!(&request.body, &body, "{} has the body that was meant", id);
        prop_assert!(counted.insert(request.target.clone()), "{} came once", id);
    }
    counted.insert("/last".to_owned());
    prop_assert_eq!(&counted, &outcome.answered, "what the backend saw is what tidegate says it passed on");
    Ok(())
}

#[test]
fn what_a_backend_sees_is_what_tidegate_passed_on() {
    let parsers = RefCell::new(Parsers::start());
    let (plain, plain_seen) = (Cell::new(0), Cell::new(0));
    let config = Config { cases: ROUNDS, failure_persistence: None, max_shrink_iters: 100, ..Config::default() };
    let played = TestRunner::new(config).run(&prop::collection::vec(conversation(), AT_ONCE), |conversations| {
        let round = Round::of(&conversations);
        let outcome = play(&round);
        let seen = agreed(parsers.borrow_mut().read(&outcome.recorded))?;
        check(&round, &outcome, &seen)?;
        plain.set(plain.get() + round.meant.values().filter(|meant| meant.plain).count());
        let is_plain =
            |request: &&Seen| request.ids.iter().any(|id| round.meant.get(id).is_some_and(|meant| meant.plain));
        plain_seen.set(plain_seen.get() + seen.iter().filter(is_plain).count());
        Ok(())
    });
    if let Err(error) = played {
        panic!("{error}");
    }
    // Refusing everything would be no proof: what is in order has to get through.
    assert!(
        plain.get() > 50 && plain_seen.get() * 2 > plain.get(),
        "{} of {} got through",
        plain_seen.get(),
        plain.get()
    );
}

#[test]
fn the_parsers_tell_what_is_wrong() {
    let mut parsers = Parsers::start();
    let streams: [&[u8]; 4] = [
        b"POST /a HTTP/1.1\r\nhost: x\r\nx-id: 1\r\ncontent-length: 3\r\n\r\nabcGET /b HTTP/1.1\r\nhost: x\r\nx-id: 2\r\n\r\n",
        b"GET /a HTTP/1.1\r\nhost: x\r\n\r\nrubbish\r\n\r\n",
        b"POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nabc",
        b"",
    ];
    let found = parsers.read(&streams.map(<[u8]>::to_vec));
    for reading in &found[0] {
        let told: Vec<_> = reading.requests.iter().map(|seen| (&*seen.target, &*seen.body)).collect();
        assert_eq!((told, reading.unfinished), (vec![("/a", "616263"), ("/b", "")], false));
    }
    assert!(found[1].iter().all(|reading| reading.error.is_some()), "{:?}", found[1]);
    assert!(found[2].iter().all(|reading| reading.unfinished && reading.requests.is_empty()), "{:?}", found[2]);
    assert!(found[3].iter().all(|reading| !reading.unfinished && reading.requests.is_empty()), "{:?}", found[3]);
}
