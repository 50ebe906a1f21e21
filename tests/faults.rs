//! Backends that fail and clients that leave: each gets what it deserves, nobody else notices.

use std::io::Write;
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

use tidegate::metrics::{Class, Failure, Why};
use tidegate::policy::decision::{Reason, Side};

use crate::support::backend::{Connection, ok};
use crate::support::proxy::split;
use crate::support::{Backend, Client, PATIENCE, Plane, Tidegate, dead_address, eventually, http2};

const GET: &str = "GET / HTTP/1.1\r\nhost: service\r\n\r\n";

/// tidegate before one backend with these endpoints and these timeouts.
fn before(urls: &[String], timeouts: &str) -> Tidegate {
    Tidegate::start(&format!(
        "backends:\n  only: {{ endpoints: {urls:?}, timeouts: {{ {timeouts} }} }}\n\
         routes:\n  - {{ backend: only }}\n"
    ))
}

fn failures(tidegate: &Tidegate, cause: &str) -> f64 {
    tidegate.metric(&format!("tidegate_upstream_failures_total{{rollout=\"\",side=\"\",cause=\"{cause}\"}}"))
}

fn ended_as(tidegate: &Tidegate, class: &str) -> f64 {
    tidegate
        .metric(&format!("tidegate_requests_total{{rollout=\"\",side=\"\",reason=\"backend\",code_class=\"{class}\"}}"))
}

/// A backend that has run once and does `script` on every connection after reading a request.
fn after_a_request(script: impl Fn(&mut Connection) + Send + Sync + 'static) -> Backend {
    Backend::scripted(move |connection| {
        if connection.read_request().is_some() {
            script(connection);
        }
    })
}

// -- no connection

#[test]
fn a_backend_that_refuses_is_a_502_at_once() {
    let tidegate = before(&[format!("http://{}", dead_address())], "connect: 10s");
    let begun = Instant::now();
    let answer = tidegate.tell(GET);
    assert_eq!(answer.status, 502);
    assert_eq!(answer.header("proxy-status"), Some("tidegate; error=connection_refused"));
    assert_eq!(answer.header("server"), Some("tidegate"));
    assert!(begun.elapsed() < PATIENCE / 4, "{:?}", begun.elapsed());
    assert_eq!(failures(&tidegate, "connect"), 1.0);
    assert_eq!(ended_as(&tidegate, "error"), 1.0);
}

#[test]
fn the_connection_of_a_client_survives_a_502() {
    let tidegate = before(&[format!("http://{}", dead_address())], "connect: 10s");
    let mut client = tidegate.client();
    for _ in 0..3 {
        assert_eq!(client.get("/", &[]).status, 502);
    }
}

/// A listener whose queue is full: the kernel drops what else would connect.
struct BlackHole {
    listener: socket2::Socket,
    _queued: Vec<std::net::TcpStream>,
}

impl BlackHole {
    fn new() -> Self {
        let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        listener.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let connect = |_| std::net::TcpStream::connect_timeout(&address, Duration::from_millis(300)).ok();
        let queued = (0..16).map_while(connect).collect();
        Self { listener, _queued: queued }
    }

    fn url(&self) -> String {
        format!("http://{}", self.listener.local_addr().unwrap().as_socket().unwrap())
    }
}

#[test]
fn a_backend_that_swallows_connections_is_a_504_at_the_connect_timeout() {
    let hole = BlackHole::new();
    let tidegate = before(&[hole.url()], "connect: 300ms");
    let begun = Instant::now();
    let answer = tidegate.tell(GET);
    assert_eq!(answer.status, 504);
    assert_eq!(answer.header("proxy-status"), Some("tidegate; error=connection_timeout"));
    assert!(begun.elapsed() >= Duration::from_millis(300) && begun.elapsed() < PATIENCE / 4, "{:?}", begun.elapsed());
    assert_eq!(failures(&tidegate, "connect_timeout"), 1.0);
}

#[test]
fn dead_endpoints_are_passed_over() {
    let backend = Backend::named("alive");
    let dead = || format!("http://{}", dead_address());
    let tidegate = Tidegate::start(&format!(
        "backends: {{ only: {{ endpoints: {:?}, retries: {{ attempts: 2 }} }} }}\nroutes: [{{ backend: only }}]\n",
        [dead(), backend.url(), dead()]
    ));
    let mut client = tidegate.client();
    for _ in 0..10 {
        assert_eq!(client.get("/", &[]).text(), "alive");
        let answer = client.send("POST / HTTP/1.1\r\nhost: service\r\ncontent-length: 5\r\n\r\nhello").answer();
        assert_eq!(answer.text(), "alive");
    }
    assert_eq!(backend.requests().len(), 20);
}

#[test]
fn living_endpoints_take_turns() {
    let (one, two) = (Backend::named("one"), Backend::named("two"));
    let tidegate = before(&[one.url(), two.url()], "connect: 5s");
    let mut client = tidegate.client();
    for _ in 0..10 {
        client.get("/", &[]);
    }
    assert_eq!((one.requests().len(), two.requests().len()), (5, 5));
}

// -- no answer

#[test]
fn a_backend_that_does_not_answer_is_a_504_and_its_connection_is_closed() {
    let (closed, is_closed) = mpsc::channel();
    let backend = after_a_request(move |connection| {
        let _the_story_may_be_over = closed.send(connection.is_closed_by_peer());
    });
    let tidegate = before(&[backend.url()], "response: 300ms");
    let begun = Instant::now();
    let mut client = tidegate.client();
    let answer = client.send(GET).answer();
    assert_eq!(answer.status, 504);
    assert_eq!(answer.header("proxy-status"), Some("tidegate; error=http_response_timeout"));
    assert!(begun.elapsed() >= Duration::from_millis(300) && begun.elapsed() < PATIENCE / 4, "{:?}", begun.elapsed());
    assert!(is_closed.recv_timeout(PATIENCE).unwrap());
    assert_eq!(failures(&tidegate, "response_timeout"), 1.0);
    assert_eq!(backend.requests().len(), 1, "it is not sent again");
}

#[test]
fn a_backend_that_closes_without_an_answer_is_a_502_and_is_not_asked_again() {
    for reset in [false, true] {
        let backend = after_a_request(move |connection| {
            if reset {
                connection.reset();
            }
        });
        let tidegate = before(&[backend.url()], "response: 10s");
        let answer = tidegate.tell("POST / HTTP/1.1\r\nhost: service\r\ncontent-length: 2\r\n\r\nhi");
        assert_eq!(answer.status, 502);
        assert_eq!(answer.header("proxy-status"), Some("tidegate; error=connection_terminated"));
        assert_eq!(failures(&tidegate, "reset"), 1.0);
        assert_eq!(backend.requests().len(), 1, "it is not sent again");
    }
}

#[test]
fn what_is_not_http_is_a_502_and_its_connection_is_not_used_again() {
    let huge = format!("HTTP/1.1 200 OK\r\nx-huge: {}\r\ncontent-length: 0\r\n\r\n", "x".repeat(500_000));
    let cases: [&[u8]; 5] = [
        b"\x16\x03\x01\x00\xa5 hello\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: two\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nok",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        huge.as_bytes(),
    ];
    for answer in cases {
        let backend = Backend::saying(answer);
        let tidegate = before(&[backend.url()], "response: 10s");
        let mut client = tidegate.client();
        for n in 1..=2 {
            assert_eq!(client.get("/", &[]).status, 502, "{:?}", String::from_utf8_lossy(&answer[..30]));
            assert_eq!(backend.connections(), n);
        }
    }
}

// -- half an answer

#[test]
fn an_answer_that_breaks_off_is_broken_for_the_client_too_and_is_not_asked_for_again() {
    for head in ["content-length: 1000", "transfer-encoding: chunked"] {
        for reset in [false, true] {
            let backend = after_a_request(move |connection| {
                connection.write(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n5\r\nhello\r\n").as_bytes());
                std::thread::sleep(Duration::from_millis(50)); // so that a reset does not overtake what was written
                if reset {
                    connection.reset();
                }
            });
            let tidegate = before(&[backend.url()], "response: 10s");
            let mut client = tidegate.client();
            let answer = client.send(GET).answer();
            assert_eq!(answer.status, 200);
            assert!(!answer.complete, "{head}, reset {reset}: {answer:?}");
            assert_eq!(backend.requests().len(), 1);
            eventually("it is counted", || failures(&tidegate, "truncated") == 1.0);
            assert_eq!(ended_as(&tidegate, "2xx"), 0.0);
        }
    }
}

#[test]
fn an_answer_that_stalls_is_cut_off_at_the_stream_timeout() {
    let backend = after_a_request(|connection| {
        connection.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello");
        connection.is_closed_by_peer();
    });
    let tidegate = before(&[backend.url()], "stream_idle: 300ms");
    assert!(!tidegate.client().send(GET).answer().complete);
    eventually("the backend's connection is closed", || backend.open_connections() == 0);
}

#[test]
fn an_answer_that_is_slow_but_moves_gets_through() {
    let backend = after_a_request(|connection| {
        connection.write(b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n");
        for _ in 0..8 {
            connection.write(b"x");
            std::thread::sleep(Duration::from_millis(100)); // in all longer than either timeout
        }
    });
    let tidegate = before(&[backend.url()], "response: 500ms, stream_idle: 500ms");
    assert_eq!(tidegate.tell(GET).text(), "xxxxxxxx");
}

#[test]
fn an_answer_without_a_length_ends_with_its_connection() {
    let backend = after_a_request(|connection| connection.write(b"HTTP/1.1 200 OK\r\n\r\nall of it"));
    let tidegate = before(&[backend.url()], "response: 10s");
    let mut client = tidegate.client();
    for _ in 0..2 {
        let answer = client.send(GET).answer();
        assert_eq!((answer.text().as_str(), answer.complete), ("all of it", true));
        assert_eq!(answer.header("transfer-encoding"), Some("chunked"));
    }
}

#[test]
fn a_backend_that_closes_its_idle_connections_loses_nobody() {
    let backend = after_a_request(|connection| connection.write(&ok(&[], b"fine"))); // then closes, and does not say so
    let tidegate = before(&[backend.url()], "response: 10s");
    let mut client = tidegate.client();
    for n in 1..=50 {
        assert_eq!(client.send(GET).answer().text(), "fine");
        eventually("the backend has closed", || backend.open_connections() == 0 && backend.connections() == n);
    }
}

// -- clients that leave

#[test]
fn a_client_that_leaves_takes_its_request_with_it() {
    let before_the_answer: fn(&mut Connection) = |_| {};
    let in_the_answer: fn(&mut Connection) =
        |connection| connection.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhello");
    for (script, with_reset) in [(before_the_answer, false), (before_the_answer, true), (in_the_answer, false)] {
        let (closed, is_closed) = mpsc::channel();
        let backend = after_a_request(move |connection| {
            script(connection);
            let _the_story_may_be_over = closed.send(connection.is_closed_by_peer());
        });
        let tidegate = before(&[backend.url()], "response: 60s, stream_idle: 60s");
        let mut client = tidegate.client();
        client.send(GET);
        eventually("the request is running", || backend.requests().len() == 1);
        if with_reset {
            socket2::SockRef::from(&client.stream).set_linger(Some(Duration::ZERO)).unwrap();
        }
        let left = Instant::now();
        drop(client);
        assert!(is_closed.recv_timeout(PATIENCE).unwrap());
        assert!(left.elapsed() < Duration::from_secs(5), "{:?}", left.elapsed());
        eventually("it counts as aborted", || ended_as(&tidegate, "aborted") == 1.0);
        assert_eq!(ended_as(&tidegate, "error"), 0.0);
    }
}

#[test]
fn a_client_that_leaves_in_the_middle_of_a_stream_ends_it() {
    let (closed, is_closed) = mpsc::channel();
    let backend = after_a_request(move |connection| {
        connection.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
        let piece = [b"10000\r\n".to_vec(), vec![b'x'; 0x10000], b"\r\n".to_vec()].concat();
        while connection.stream.write_all(&piece).is_ok() {}
        let _the_story_may_be_over = closed.send(());
    });
    let tidegate = before(&[backend.url()], "response: 60s");
    let mut client = tidegate.client();
    client.send(GET);
    std::io::Read::read_exact(&mut client.stream, &mut [0; 1_000_000]).unwrap();
    drop(client);
    is_closed.recv_timeout(PATIENCE).unwrap();
    eventually("it counts as aborted", || ended_as(&tidegate, "aborted") == 1.0);
}

#[test]
fn a_client_that_leaves_in_the_middle_of_its_upload_reaches_the_backend_as_a_broken_message() {
    let backend = Backend::scripted(|connection| {
        connection.read_head();
        connection.is_closed_by_peer();
    });
    let tidegate = before(&[backend.url()], "response: 60s");
    let mut client = tidegate.client();
    client.send("POST / HTTP/1.1\r\nhost: service\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n");
    eventually("the upload has begun", || backend.text().contains("hello"));
    drop(client);
    eventually("the backend's connection is closed", || backend.open_connections() == 0);
    assert!(!backend.text().ends_with("0\r\n\r\n"), "a broken upload does not end well");
}

// -- too many clients

#[test]
fn beyond_the_limit_newcomers_are_turned_away_and_the_others_go_on() {
    let backend = Backend::named("only");
    let tidegate = Tidegate::start(&format!(
        "limits: {{ max_connections: 4 }}\nbackends: {{ only: {{ endpoints: [\"{}\"] }} }}\n\
         routes: [{{ backend: only }}]\n",
        backend.url()
    ));
    let mut clients: Vec<Client> = (0..4).map(|_| tidegate.client()).collect();
    clients.iter_mut().for_each(|client| assert_eq!(client.get("/", &[]).status, 200));
    let mut newcomer = tidegate.client();
    let answer = newcomer.answer();
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
    assert!(newcomer.is_closed());
    clients.iter_mut().for_each(|client| assert_eq!(client.get("/", &[]).status, 200));
    clients.pop();
    eventually("there is room again", || {
        tidegate.client().send(GET).try_answer(false).is_some_and(|answer| answer.status == 200)
    });
}

// -- bodies are streamed

#[test]
fn an_answer_reaches_the_client_piece_by_piece() {
    for coding in ["content-length: 22", "transfer-encoding: chunked"] {
        let (go, may_go) = mpsc::channel::<()>();
        let may_go = Mutex::new(may_go);
        let backend = after_a_request(move |connection| {
            connection.write(format!("HTTP/1.1 200 OK\r\n{coding}\r\n\r\n6\r\nfirst,\r\n").as_bytes());
            let _dropped_if_the_story_fails = may_go.lock().unwrap().recv();
            connection.write(b"1\r\n.\r\n0\r\n\r\n");
        });
        let tidegate = before(&[backend.url()], "response: 10s");
        let mut client = tidegate.client();
        client.send(GET);
        let mut seen = Vec::new();
        eventually("the first piece comes", || {
            let mut buffer = [0; 1024];
            let n = std::io::Read::read(&mut client.stream, &mut buffer).unwrap();
            seen.extend_from_slice(&buffer[..n]);
            seen.windows(6).any(|window| window == b"first,")
        });
        go.send(()).unwrap();
        eventually("the rest comes", || {
            let mut buffer = [0; 1024];
            let n = std::io::Read::read(&mut client.stream, &mut buffer).unwrap();
            seen.extend_from_slice(&buffer[..n]);
            seen.ends_with(b"0\r\n\r\n")
        });
    }
}

#[test]
fn a_request_reaches_the_backend_piece_by_piece() {
    for (coding, first, second) in [
        ("content-length: 12", "first,second", ""),
        ("transfer-encoding: chunked", "6\r\nfirst,\r\n", "6\r\nsecond\r\n0\r\n\r\n"),
    ] {
        let (first, second) = if second.is_empty() { first.split_at(6) } else { (first, second) };
        let backend = Backend::answering(|request| ok(&[], &request.body));
        let tidegate = before(&[backend.url()], "response: 10s");
        let mut client = tidegate.client();
        client.send(format!("POST / HTTP/1.1\r\nhost: service\r\n{coding}\r\n\r\n{first}"));
        eventually("the first piece is there", || backend.text().contains("first,"));
        assert_eq!(client.send(second).answer().text(), "first,second");
        assert!(backend.text().contains(coding), "the framing is kept: {}", backend.text());
    }
}

// -- what HTTP/1 has in store

#[test]
fn an_answer_that_begins_before_the_request_has_ended_does_not_stop_it() {
    const SIZE: usize = 32 << 20; // more than the sockets on the way hold
    let backend = Backend::scripted(|connection| {
        connection.read_head().unwrap();
        let mut writer = connection.stream.try_clone().unwrap();
        let answer = std::thread::spawn(move || {
            writer.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {SIZE}\r\n\r\n").as_bytes()).unwrap();
            writer.write_all(&vec![b'a'; SIZE]).unwrap();
        });
        while connection.read_more().is_some() {}
        answer.join().unwrap();
    });
    let tidegate = Tidegate::before(&backend);
    let mut client = tidegate.client();
    client.send(format!("POST / HTTP/1.1\r\nhost: service\r\ncontent-length: {SIZE}\r\n\r\n"));
    client.send(vec![b'q'; SIZE]); // all of it before a byte of the answer is read
    let answer = client.answer();
    assert_eq!((answer.status, answer.complete, answer.body.len()), (200, true, SIZE));
}

#[test]
fn an_answer_to_head_has_a_length_and_no_body() {
    let backend = Backend::answering(|request| match request.method.as_str() {
        "HEAD" => b"HTTP/1.1 200 OK\r\ncontent-length: 1234\r\n\r\n".to_vec(),
        _ => ok(&[], b"get"),
    });
    let tidegate = Tidegate::before(&backend);
    let mut client = tidegate.client();
    let answer = client.send("HEAD / HTTP/1.1\r\nhost: service\r\n\r\n").answer_to_head();
    assert_eq!((answer.status, answer.header("content-length")), (200, Some("1234")));
    assert_eq!(client.get("/", &[]).text(), "get");
}

#[test]
fn answers_without_a_body_leave_the_connection_in_order() {
    let backend = Backend::answering(|request| match request.target.as_str() {
        "/304" => b"HTTP/1.1 304 Not Modified\r\netag: \"v1\"\r\n\r\n".to_vec(),
        "/204" => b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
        _ => ok(&[], b"body"),
    });
    let tidegate = Tidegate::before(&backend);
    let mut client = tidegate.client();
    for _ in 0..2 {
        let unmodified = client.get("/304", &[]);
        assert_eq!((unmodified.status, unmodified.header("etag")), (304, Some("\"v1\"")));
        let empty = client.get("/204", &[]);
        assert_eq!((empty.status, empty.header("content-length")), (204, None));
        assert_eq!(client.get("/", &[]).text(), "body");
    }
    assert_eq!(backend.connections(), 1);
}

#[test]
fn a_client_of_http_1_0_gets_an_answer_that_it_can_read() {
    let backend = Backend::saying("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
    let tidegate = Tidegate::before(&backend);
    let answer = tidegate.tell("GET / HTTP/1.0\r\n\r\n");
    assert_eq!((answer.status, answer.text().as_str(), answer.complete), (200, "hello", true));
    assert_eq!(answer.header("transfer-encoding"), None);
    assert!(backend.text().starts_with("GET / HTTP/1.1\r\n"), "{}", backend.text());
    assert_eq!(backend.requests()[0].header("host"), Some(backend.address.to_string().as_str()));
}

#[test]
fn a_client_of_http_1_0_may_keep_its_connection() {
    let backend = Backend::named("only");
    let tidegate = Tidegate::before(&backend);
    let mut client = tidegate.client();
    for _ in 0..2 {
        let answer = client.send("GET / HTTP/1.0\r\nhost: service\r\nconnection: keep-alive\r\n\r\n").answer();
        assert_eq!((answer.status, answer.text().as_str()), (200, "only"));
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let backend = Backend::answering(|request| ok(&[], request.target.as_bytes()));
    let tidegate = Tidegate::before(&backend);
    let mut client = tidegate.client();
    client.send(["/a", "/b", "/c"].map(|path| format!("GET {path} HTTP/1.1\r\nhost: service\r\n\r\n")).concat());
    for path in ["/a", "/b", "/c"] {
        assert_eq!(client.answer().text(), path);
    }
}

#[test]
fn trailers_reach_a_client_that_asked_for_them_and_no_other() {
    let backend = Backend::saying(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-checksum\r\n\r\n\
         5\r\nhello\r\n0\r\nx-checksum: 42\r\n\r\n",
    );
    let tidegate = Tidegate::before(&backend);
    for (asks, comes) in [("te: trailers\r\nconnection: te, close\r\n", true), ("connection: close\r\n", false)] {
        let mut client = tidegate.client();
        let bytes = client.send(format!("GET / HTTP/1.1\r\nhost: service\r\n{asks}\r\n")).read_to_end();
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.contains("hello"), "{text}");
        assert_eq!(text.contains("x-checksum: 42"), comes, "{text}");
    }
}

#[test]
fn an_answer_with_trailers_counts_as_a_whole_one() {
    let backend = Backend::saying(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx-checksum: 42\r\n\r\n",
    );
    let tidegate = Tidegate::before(&backend);
    let mut client = tidegate.client();
    (0..3).for_each(|_| assert_eq!(client.get("/", &[]).text(), "hello"));
    drop(client);
    eventually("they are counted", || ended_as(&tidegate, "2xx") == 3.0);
    assert_eq!((ended_as(&tidegate, "aborted"), backend.connections()), (0.0, 1), "its connection was kept");
}

// -- who goes where, by every kind of key

/// The side of each request head line in `requests`, under a rollout at 50 % with this key and these lines.
fn sides(key: &str, more: &str, requests: &[&str]) -> Vec<String> {
    let (old, new) = (Backend::named("old"), Backend::named("new"));
    let tidegate = Tidegate::start(&format!(
        "rollout:\n  old: {}\n  new: {}\n  key: {key}\n  percent: 50\n{more}",
        old.url(),
        new.url()
    ));
    let mut client = tidegate.client();
    let mut side = |request: &&str| client.send(format!("GET {request}\r\n\r\n")).answer().text();
    requests.iter().map(&mut side).collect()
}

#[test]
fn a_key_may_stand_in_a_cookie() {
    let told = sides(
        "cookie:uid",
        "",
        &[
            "/ HTTP/1.1\r\nhost: s\r\ncookie: a=1; uid=49; b=2",
            "/ HTTP/1.1\r\nhost: s\r\ncookie: a=1; uid=50; b=2",
            "/ HTTP/1.1\r\nhost: s\r\ncookie: xuid=1",
        ],
    );
    assert_eq!(told, ["new", "old", "old"]);
}

#[test]
fn a_key_may_stand_in_the_query() {
    let told = sides(
        "query:user_id",
        "",
        &[
            "/?user_id=49&x=1 HTTP/1.1\r\nhost: s",
            "/?x=1&user_id=50 HTTP/1.1\r\nhost: s",
            "/?user_id=%34%39 HTTP/1.1\r\nhost: s",
            "/?xuser_id=1 HTTP/1.1\r\nhost: s",
        ],
    );
    assert_eq!(told, ["new", "old", "new", "old"]);
}

#[test]
fn a_key_may_stand_in_the_path() {
    let told = sides(
        "path:2",
        "",
        &["/users/49/orders HTTP/1.1\r\nhost: s", "/users/50?x=49 HTTP/1.1\r\nhost: s", "/users HTTP/1.1\r\nhost: s"],
    );
    assert_eq!(told, ["new", "old", "old"]);
}

#[test]
fn a_key_may_stand_in_a_token() {
    use base64::Engine as _;
    let encode = |text: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text);
    let ask = |claims: &str| {
        let token = format!("{}.{}.sig", encode("{\"alg\":\"none\"}"), encode(claims));
        format!("/ HTTP/1.1\r\nhost: s\r\nauthorization: Bearer {token}")
    };
    let requests = ["{\"sub\":\"49\"}", "{\"sub\":50}", "{\"sub\":49}", "{}", "not json"].map(ask);
    let told = sides("jwt:sub", "", &requests.each_ref().map(String::as_str));
    assert_eq!(told, ["new", "old", "new", "old", "old"]);
}

#[test]
fn the_first_key_that_is_there_counts() {
    let told = sides(
        "[header:x-user-id, query:id]",
        "",
        &[
            "/?id=50 HTTP/1.1\r\nhost: s\r\nx-user-id: 49",
            "/?id=49 HTTP/1.1\r\nhost: s\r\nx-user-id: ",
            "/?id=50 HTTP/1.1\r\nhost: s",
        ],
    );
    assert_eq!(told, ["new", "new", "old"]);
}

#[test]
fn rules_come_before_the_percent_and_the_first_wins() {
    let rules = "  rules:\n    - { keys: [99, acme], side: new }\n    - { keys: [1, 99], side: old }\n";
    let told = sides(
        "header:x-user-id",
        rules,
        &[
            "/ HTTP/1.1\r\nhost: s\r\nx-user-id: 99",
            "/ HTTP/1.1\r\nhost: s\r\nx-user-id: acme",
            "/ HTTP/1.1\r\nhost: s\r\nx-user-id: 1",
            "/ HTTP/1.1\r\nhost: s\r\nx-user-id: 2",
        ],
    );
    assert_eq!(told, ["new", "new", "old", "new"]);
}

#[test]
fn without_a_key_the_config_says_who_answers() {
    let request = "/ HTTP/1.1\r\nhost: s";
    assert_eq!(sides("header:x-user-id", "", &[request]), ["old"]);
    assert_eq!(sides("header:x-user-id", "  on_missing: new\n", &[request]), ["new"]);
    let random = sides("header:x-user-id", "  on_missing: random\n", &[request; 400]);
    let on_new = random.iter().filter(|side| *side == "new").count();
    assert!((100..300).contains(&on_new), "{on_new} of 400");
}

#[test]
fn an_anonymous_user_gets_an_id_and_stays_where_it_leads() {
    let (old, new) = (Backend::named("old"), Backend::named("new"));
    let tidegate = Tidegate::start(&split(&old, &new, "50", "  on_missing: cookie\n"));
    let mut client = tidegate.client();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..40 {
        let first = client.get("/", &[]);
        let cookie = first.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
        for _ in 0..3 {
            let again = client.get("/", &[("cookie", &cookie)]);
            assert_eq!((again.text(), again.header("set-cookie")), (first.text(), None));
        }
        seen.insert(first.text());
    }
    assert_eq!(seen.len(), 2, "forty users at 50 % are on both sides");
    assert_eq!(client.get("/", &[("x-user-id", "1")]).header("set-cookie"), None);
}

// -- the access log

#[test]
fn every_request_is_one_line_of_json_whatever_its_path_is() {
    let backend = Backend::named("only");
    let log = tempfile::NamedTempFile::new().unwrap();
    let tidegate = Tidegate::start(&format!(
        "access_log: {}\nbackends: {{ only: {{ endpoints: [\"{}\"] }} }}\nroutes: [{{ backend: only }}]\n",
        log.path().display(),
        backend.url()
    ));
    let paths: [&[u8]; 6] = [
        b"/plain?secret=1",
        b"/quote\"}{\"x\":\"",
        b"/back\\slash",
        "/right\u{202e}to-left\u{9b}".as_bytes(),
        b"/bytes\xff\xfe\x80",
        b"/%1b[31m%0a",
    ];
    for path in paths {
        tidegate.tell([b"GET ", path, b" HTTP/1.1\r\nhost: service\r\nuser-agent: \"}{\r\n\r\n"].concat());
    }
    let forwarded = backend.requests().len();
    assert!(forwarded >= 2);
    let lines = || -> Vec<String> {
        let text = std::fs::read(log.path()).unwrap();
        assert!(text.iter().all(|b| (b' '..=b'~').contains(b) || *b == b'\n'), "{}", text.escape_ascii());
        String::from_utf8(text).unwrap().lines().map(str::to_owned).collect()
    };
    eventually("the lines are written", || {
        lines().iter().filter(|line| line.contains("\"status\":200")).count() == forwarded
    });
    for line in lines() {
        let entry: serde_json::Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(entry["path"].as_str().unwrap().starts_with('/'), "{line}");
        assert_eq!(entry["client"], "127.0.0.1");
        assert!(entry["time"].is_string() && entry["duration_ms"].is_number());
        assert!(!line.contains("secret"), "a query may hold secrets: {line}");
    }
}

// -- many at once

#[test]
fn a_thousand_clients_are_served_side_by_side() {
    let backend = Backend::named("only");
    let tidegate = before(&[backend.url()], "connect: 20s"); // a test's backend is slow to take them
    let mut clients: Vec<Client> = (0..1000).map(|_| tidegate.client()).collect();
    for client in &mut clients {
        client.send(GET);
    }
    for client in &mut clients {
        assert_eq!(client.answer().text(), "only");
    }
    assert_eq!(backend.requests().len(), 1000);
}

#[test]
fn two_keys_in_one_request_are_refused() {
    let backend = Backend::named("only");
    let tidegate = Tidegate::splitting(&backend, &backend, 50);
    let answer = tidegate.client().get("/", &[("x-user-id", "10"), ("x-user-id", "99")]);
    assert_eq!((answer.status, answer.header("connection")), (400, Some("close")));
    assert!(backend.requests().is_empty());
    assert_eq!(tidegate.client().get("/", &[("x-user-id", "10"), ("x-user-id", "10")]).status, 200);
}

#[test]
fn a_backend_that_fails_a_request_over_a_kept_connection_is_not_excused() {
    let backend = Backend::scripted(|connection| {
        connection.read_request().unwrap();
        connection.write(&ok(&[], b""));
        connection.read_request();
        std::thread::sleep(Duration::from_millis(200)); // it works on it, and dies
    });
    let tidegate = Tidegate::before(&backend);
    let mut client = tidegate.client();
    assert_eq!(client.get("/", &[]).status, 200);
    assert_eq!(client.get("/", &[]).status, 502);
    assert_eq!((failures(&tidegate, "reset"), failures(&tidegate, "stale")), (1.0, 0.0));
}

#[test]
fn a_backend_that_closes_a_rested_connection_as_it_is_used_has_failed_nobody() {
    let backend = Backend::scripted(|connection| {
        connection.read_request().unwrap();
        connection.write(&ok(&[], b""));
        connection.read_request(); // its keep-alive is over at this moment
    });
    let tidegate = Tidegate::before(&backend);
    let mut client = tidegate.client();
    assert_eq!(client.get("/", &[]).status, 200);
    let rests = Instant::now();
    eventually("the connection has rested for a second", || rests.elapsed() > Duration::from_millis(1_050));
    let answer = client.send("POST / HTTP/1.1\r\nhost: service\r\ncontent-length: 2\r\n\r\nhi").answer();
    assert_eq!(answer.status, 502);
    assert_eq!((failures(&tidegate, "reset"), failures(&tidegate, "stale")), (0.0, 1.0));
}

#[test]
fn a_client_that_breaks_its_upload_during_the_answer_is_not_the_backends_failure() {
    let backend = Backend::scripted(|connection| {
        connection.read_head().unwrap();
        connection.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nbegun");
        while connection.read_more().is_some() {}
    });
    let tidegate = Tidegate::before(&backend);
    let mut client = tidegate.client();
    client.send("POST / HTTP/1.1\r\nhost: service\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n");
    eventually("the answer begins", || client.stream.peek(&mut [0; 200]).is_ok_and(|n| n > 20));
    client.send("nonsense\r\n");
    assert!(!client.answer().complete);
    eventually("the request has ended", || ended_as(&tidegate, "4xx") == 1.0);
    assert_eq!(failures(&tidegate, "truncated"), 0.0);
}

// -- bugs of our own

#[test]
fn a_bug_of_ours_takes_one_request_with_it_and_is_told_as_ours() {
    let (old, new) = (Backend::named("old"), Backend::named("new"));
    let mut plane = Plane::start(&split(&old, &new, "100", ""), &[]);
    let mut other = plane.client();
    assert_eq!(other.get_as(7).text(), "new");
    // No config has a rollout without backends: whoever looks for them panics.
    plane.publish_wrong(|snapshot| snapshot.backends.clear());
    let mut unlucky = plane.client();
    unlucky.send("GET / HTTP/1.1\r\nhost: service\r\nx-user-id: 7\r\n\r\n");
    assert_eq!(unlucky.try_answer(false), None);
    assert!(unlucky.end().unwrap().contains("reset"), "this is not how an answer ends: {:?}", unlucky.end());
    http2::run(async {
        let mut client = http2::Client::connect(plane.address).await;
        let request = || http2::request(http::Method::GET, "/", &[("x-user-id", "7")]);
        assert!(client.ask(request(), b"").await.is_err());
        plane.publish(|_| {});
        assert_eq!(client.ask(request(), b"").await.unwrap().text(), "new", "the other streams go on");
    });
    assert_eq!(other.get_as(7).text(), "new", "and so do the other connections");
    let meters = plane.meters();
    let ended = |class| meters.side(Side::New).requests(Why::Decided(Reason::Bucket), class);
    eventually("those that ended well are counted", || ended(Class::Success) == 3);
    assert_eq!((ended(Class::Error), ended(Class::Aborted)), (2, 0), "nobody has gone away");
    assert_eq!(meters.side(Side::New).inflight(), 0);
    assert!(
        Failure::ALL.iter().all(|failure| meters.side(Side::New).failures(*failure) == 0),
        "and new has not failed"
    );
}
