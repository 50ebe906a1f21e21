//! Backends of another make that speak HTTP/2, keep to the protocol and are a burden all the same: they go away, refuse,
//! take one request at a time, break off, stall. What they have not looked at is asked for again, and nothing else is.

use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::fault::{Fault, Line, Way};
use crate::support::foreign::{self, Server};
use crate::support::frames::{END_STREAM, Frame, Framed, Outcome, request};
use crate::support::{Answer, Backend, Client, PATIENCE, Tidegate, eventually};

/// A backend as it is told (see `tests/suites/h2_server.py`), and tidegate before it.
struct Scene {
    server: Server,
    tidegate: Tidegate,
}

impl Scene {
    fn with(manner: &[&str]) -> Self {
        Self::patient(manner, "response: 10s")
    }

    fn patient(manner: &[&str], timeouts: &str) -> Self {
        let server = Server::start("h2_server.py", manner);
        let tidegate = before(&server.address.to_string(), timeouts);
        Self { server, tidegate }
    }

    fn get(&self, path: &str) -> Answer {
        self.tidegate.client().get(path, &[])
    }

    fn stats(&mut self, what: &str) -> u64 {
        let stats: Value = serde_json::from_str(&self.server.ask("stats")).unwrap();
        stats[what].as_u64().unwrap()
    }
}

/// One worker, so that connections are shared by all who ask.
fn before(endpoint: &str, timeouts: &str) -> Tidegate {
    Tidegate::start_whole(&format!(
        "listen: 127.0.0.1:0\nadmin: {{ address: 127.0.0.1:0 }}\nworkers: 1\n\
         shutdown: {{ readiness_delay: 0s, drain_timeout: 2s }}\n\
         backends:\n  only: {{ endpoints: ['http://{endpoint}'], protocol: h2, timeouts: {{ {timeouts} }} }}\n\
         routes: [{{ backend: only }}]\n"
    ))
}

fn failures(tidegate: &Tidegate, cause: &str) -> f64 {
    tidegate.metric(&format!("tidegate_upstream_failures_total{{rollout=\"\",side=\"\",cause=\"{cause}\"}}"))
}

/// `count` clients ask at once, and all get their answer.
fn all_ask(tidegate: &Tidegate, count: usize, path: &'static str) -> Vec<Answer> {
    let address = tidegate.address;
    let asking: Vec<_> = (0..count).map(|_| thread::spawn(move || Client::connect(address).get(path, &[]))).collect();
    asking.into_iter().map(|asking| asking.join().unwrap()).collect()
}

// -- what goes through

#[test]
fn a_request_reaches_a_backend_of_http_2_as_one_of_its_own() {
    let scene = Scene::with(&[]);
    let mut client = scene.tidegate.client();
    let came = client
        .send(
            "POST /a?b=c HTTP/1.1\r\nhost: service\r\ncookie: a=1; b=2\r\nte: trailers\r\nconnection: te\r\n\
               transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n3\r\nyou\r\n0\r\n\r\n",
        )
        .answer()
        .json();
    let header = |name: &str| {
        let headers = came["headers"].as_array().unwrap().iter();
        headers.filter(|pair| pair[0] == name).map(|pair| pair[1].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(header(":method"), ["POST"]);
    assert_eq!(header(":path"), ["/a?b=c"]);
    assert_eq!(header(":authority"), ["service"]);
    assert_eq!(header("cookie").join("; "), "a=1; b=2");
    for gone in ["host", "connection", "transfer-encoding", "keep-alive"] {
        assert_eq!(header(gone), Vec::<String>::new(), "{gone}");
    }
    assert_eq!(came["body"], 8);
}

#[test]
fn a_host_that_cannot_be_said_in_http_2_is_not_the_backends_failure() {
    let scene = Scene::with(&[]);
    for host in ["ser%76ice", "[1:2:3:4:5:6:7:8:9:a]", "[[::1]"] {
        let asked = format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n");
        assert_eq!(scene.tidegate.client().send(&asked).answer().status, 400, "{host}");
    }
    assert_eq!(failures(&scene.tidegate, "reset"), 0.0);
}

#[test]
fn answers_of_every_size_and_kind_come_through() {
    let scene = Scene::with(&[]);
    assert_eq!(scene.get("/large?n=5000000").body.len(), 5_000_000);
    assert_eq!(scene.get("/large?n=0").body.len(), 0);
    assert_eq!(scene.get("/drip?n=5&ms=20").text(), "xxxxx");
    assert_eq!(scene.get("/interim?n=3").status, 200);
    let text = {
        let asked = "GET /trailers HTTP/1.1\r\nhost: service\r\nte: trailers\r\nconnection: te, close\r\n\r\n";
        String::from_utf8(scene.tidegate.client().send(asked).read_to_end()).unwrap()
    };
    assert!(text.contains("hello") && text.contains("x-end: 1"), "{text}");
    let answer = scene.get("/only-trailers");
    assert_eq!((answer.status, answer.header("grpc-status")), (200, Some("5")));
    let mut client = scene.tidegate.client();
    let body = "x".repeat(3_000_000);
    let upload = format!("POST / HTTP/1.1\r\nhost: service\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    assert_eq!(client.send(upload).answer().json()["body"], body.len());
}

#[test]
fn a_window_of_a_hundred_bytes_lets_everything_through() {
    let scene = Scene::with(&["window=100"]);
    let body = "x".repeat(20_000);
    let upload = format!("POST / HTTP/1.1\r\nhost: service\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    assert_eq!(scene.tidegate.client().send(upload).answer().json()["body"], body.len());
}

#[test]
fn a_load_generator_of_another_make_finds_nothing_lost() {
    let mut scene = Scene::with(&[]);
    let mut load = foreign::system("h2load");
    load.args(["-n", "2000", "-c", "8", "-m", "20", &format!("http://{}/", scene.tidegate.address)]);
    let said = foreign::done(load, Duration::from_secs(120));
    assert!(said.contains("2000 succeeded, 0 failed, 0 errored, 0 timeout"), "{said}");
    assert!(said.contains("2000 2xx"), "{said}");
    assert_eq!((scene.stats("requests"), scene.stats("refused")), (2000, 0));
}

// -- who goes away, refuses, or takes one at a time

#[test]
fn a_backend_that_goes_away_again_and_again_loses_nobody() {
    let mut scene = Scene::with(&["goaway_after=5"]);
    let mut client = scene.tidegate.client();
    for _ in 0..23 {
        assert_eq!(client.get("/", &[]).status, 200);
    }
    assert_eq!(scene.stats("requests"), 23, "none is sent twice");
    assert!(scene.stats("connections") >= 5);
    for answer in all_ask(&scene.tidegate, 12, "/slow?ms=20") {
        assert_eq!(answer.status, 200);
    }
}

#[test]
fn what_crosses_the_news_that_a_backend_goes_away_is_asked_for_again() {
    let mut scene = Scene::with(&["drop_after=3"]);
    for answer in all_ask(&scene.tidegate, 9, "/slow?ms=30") {
        assert_eq!(answer.status, 200);
    }
    let mut client = scene.tidegate.client();
    for _ in 0..8 {
        let asked = "POST / HTTP/1.1\r\nhost: service\r\ncontent-length: 5\r\n\r\nhello";
        assert_eq!(
            client.send(asked).answer().json()["body"],
            5,
            "a request that nobody has looked at harms nobody twice"
        );
    }
    assert!(scene.stats("connections") > 4);
    assert_eq!(failures(&scene.tidegate, "reset"), 0.0, "it is nobody's fault");
}

#[test]
fn what_a_backend_that_goes_away_has_looked_at_is_not_asked_for_again() {
    for code in [0, 2, 11] {
        let mut scene = Scene::with(&[]);
        assert_eq!(scene.get(&format!("/leave?code={code}")).status, 502, "code {code}");
        assert_eq!(scene.stats("requests"), 1, "code {code}");
        assert_eq!(scene.get("/").status, 200);
    }
}

#[test]
fn what_a_backend_refuses_to_look_at_is_asked_for_again() {
    let mut scene = Scene::with(&["refuse_every=3"]);
    let mut client = scene.tidegate.client();
    for _ in 0..20 {
        assert_eq!(client.get("/", &[]).status, 200);
        let asked = "POST / HTTP/1.1\r\nhost: service\r\ncontent-length: 5\r\n\r\nhello";
        assert_eq!(client.send(asked).answer().json()["body"], 5);
    }
    assert!(scene.stats("refused") >= 13);
    assert_eq!(failures(&scene.tidegate, "reset"), 0.0, "it is nobody's fault");
}

#[test]
fn a_backend_that_refuses_everything_is_not_asked_for_ever() {
    let mut scene = Scene::with(&["refuse_every=1"]);
    assert_eq!(scene.get("/").status, 502);
    assert!(scene.stats("requests") <= 3);
}

#[test]
fn a_backend_that_takes_one_request_at_a_time_holds_up_nobody() {
    let mut scene = Scene::with(&["max_streams=1"]);
    let begun = Instant::now();
    for answer in all_ask(&scene.tidegate, 20, "/slow?ms=300") {
        assert_eq!(answer.status, 200);
    }
    // One after the other would be six seconds.
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    assert_eq!(scene.stats("refused"), 0, "it is given no more than it takes");
}

#[test]
fn a_slow_answer_holds_up_no_other_on_its_connection() {
    let mut scene = Scene::with(&[]);
    let mut slow = scene.tidegate.client();
    slow.send("GET /drip?n=20&ms=100 HTTP/1.1\r\nhost: service\r\n\r\n");
    eventually("it runs", || scene.stats("running") == 1);
    // This one is not read, and takes what there is of windows and buffers.
    let mut unread = scene.tidegate.client();
    unread.send("GET /large?n=50000000 HTTP/1.1\r\nhost: service\r\n\r\n");
    eventually("it runs as well", || scene.stats("running") == 2);
    let begun = Instant::now();
    (0..20).for_each(|_| assert_eq!(scene.get("/").status, 200));
    assert!(begun.elapsed() < Duration::from_millis(1500), "{:?}", begun.elapsed());
    assert_eq!(scene.stats("connections"), 1, "all of them share one");
    assert_eq!(slow.answer().text(), "x".repeat(20));
}

// -- who breaks off

#[test]
fn a_stream_that_breaks_is_a_502_or_a_broken_answer_and_is_not_asked_for_again() {
    // NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, CANCEL, ENHANCE_YOUR_CALM, HTTP_1_1_REQUIRED
    for code in [0, 1, 2, 8, 11, 13] {
        let mut scene = Scene::with(&[]);
        assert_eq!(scene.get(&format!("/reset?code={code}")).status, 502, "code {code}");
        let asked = format!("GET /reset?code={code}&after=10 HTTP/1.1\r\nhost: service\r\n\r\n");
        let answer = scene.tidegate.client().send(asked).try_answer(false);
        assert!(answer.is_none_or(|answer| !answer.complete), "code {code}");
        assert_eq!(scene.stats("requests"), 2, "code {code}");
        assert_eq!(scene.get("/").status, 200);
        assert_eq!(scene.stats("connections"), 1, "a stream breaks by itself");
    }
}

#[test]
fn a_client_of_http_2_sees_that_a_stream_broke() {
    let scene = Scene::with(&[]);
    let mut client = Framed::connect(scene.tidegate.address, &[]);
    client.send(&Frame::get(1, "/reset?code=2&after=10"));
    assert!(matches!(client.outcome(1), Outcome::Reset(_)));
    assert!(matches!(client.send(&Frame::get(3, "/")).outcome(3), Outcome::Answered(200, _)), "alone");
}

#[test]
fn an_answer_before_the_end_of_the_upload_is_passed_on() {
    let mut scene = Scene::with(&[]);
    let mut client = scene.tidegate.client();
    client.send("POST /early HTTP/1.1\r\nhost: service\r\ncontent-length: 100000000\r\n\r\nhello");
    assert_eq!(client.answer().status, 413);
    assert!(client.is_closed(), "what else it sends is nobody's request");
    let mut client = Framed::connect(scene.tidegate.address, &[]);
    client.send(&Frame::headers(1, 0, &request("POST", "/early"))).send(&Frame::data(1, 0, "hello"));
    assert!(matches!(client.outcome(1), Outcome::Answered(413, _)));
    assert!(matches!(client.send(&Frame::get(3, "/")).outcome(3), Outcome::Answered(200, _)), "its connection goes on");
    assert_eq!(scene.stats("connections"), 1);
}

#[test]
fn whoever_leaves_takes_the_stream_back_within_a_second() {
    let mut scene = Scene::patient(&[], "response: 60s, stream_idle: 60s");
    for (nth, path) in ["/hang", "/drip?n=10000&ms=10", "/large?n=100000000"].into_iter().enumerate() {
        let mut client = scene.tidegate.client();
        client.send(format!("GET {path} HTTP/1.1\r\nhost: service\r\n\r\n"));
        eventually("it runs", || scene.stats("running") == 1);
        let begun = Instant::now();
        drop(client);
        eventually("it is taken back", || scene.stats("running") == 0);
        assert!(begun.elapsed() < Duration::from_secs(3), "{path}: {:?}", begun.elapsed());
        assert_eq!(scene.stats("cancelled"), nth as u64 + 1, "{path}");
    }
    let mut client = Framed::connect(scene.tidegate.address, &[]);
    client.send(&Frame::get(1, "/hang"));
    eventually("it runs", || scene.stats("running") == 1);
    client.send(&Frame::reset(1, 8));
    eventually("it is taken back", || scene.stats("cancelled") == 4);
    assert_eq!(scene.stats("connections"), 1, "and nothing else is");
    let aborted = "tidegate_requests_total{rollout=\"\",side=\"\",reason=\"backend\",code_class=\"aborted\"}";
    eventually("it was the clients' doing", || scene.tidegate.metric(aborted) == 4.0);
}

#[test]
fn a_backend_that_takes_no_more_of_an_upload_is_left_in_time() {
    let mut scene = Scene::patient(&["window=1000", "stall"], "response: 500ms, stream_idle: 500ms");
    let mut client = scene.tidegate.client();
    client.stream.set_write_timeout(Some(PATIENCE)).unwrap();
    let begun = Instant::now();
    let body = "x".repeat(200_000);
    client.send(format!("POST / HTTP/1.1\r\nhost: service\r\ncontent-length: {}\r\n\r\n{body}", body.len()));
    let answer = client.try_answer(false);
    assert!(answer.is_none_or(|answer| matches!(answer.status, 502 | 504)));
    assert!(begun.elapsed() < PATIENCE / 2, "{:?}", begun.elapsed());
    eventually("the backend works for nobody", || scene.stats("running") == 0);
}

#[test]
fn a_flood_of_interim_answers_is_a_502() {
    let scene = Scene::with(&[]);
    assert_eq!(scene.get("/interim?n=1000").status, 502);
    assert_eq!(scene.get("/").status, 200);
}

// -- bad lines

#[test]
fn a_line_that_breaks_at_any_byte_loses_only_what_was_on_it() {
    let server = Server::start("h2_server.py", &[]);
    for fault in [Fault::Reset, Fault::Finish, Fault::Noise(vec![0xff; 30])] {
        let line = Line::to(server.address);
        let tidegate = before(&line.address.to_string(), "connect: 2s, response: 500ms, stream_idle: 500ms");
        for byte in (0..160).step_by(7) {
            line.at(Way::Back, byte, fault.clone());
            let answer = tidegate.client().send("GET /large?n=100 HTTP/1.1\r\nhost: service\r\n\r\n").try_answer(false);
            let ended_well = answer.is_some_and(|answer| answer.status == 200 && answer.complete);
            // 27 bytes of SETTINGS and their answer, a head, 109 bytes of DATA: later than that nothing is missing.
            assert!(!ended_well || byte > 150, "{fault:?} after {byte} bytes");
            line.mend();
            line.at(Way::Back, 0, Fault::Reset);
            eventually("no connection is left", || line.open_connections() == 0);
            line.mend();
            assert_eq!(tidegate.client().get("/large?n=100", &[]).body.len(), 100, "{fault:?} after {byte} bytes");
            line.at(Way::Back, 0, Fault::Reset);
            eventually("no connection is left", || line.open_connections() == 0);
        }
    }
}

#[test]
fn a_line_that_goes_dead_costs_no_more_than_the_timeout_and_the_next_one_gets_another() {
    let server = Server::start("h2_server.py", &[]);
    let line = Line::to(server.address);
    let tidegate = before(&line.address.to_string(), "connect: 500ms, response: 500ms, stream_idle: 500ms");
    line.at(Way::Back, 0, Fault::Vanish);
    assert_eq!(tidegate.client().get("/", &[]).status, 504, "it says not even how many streams it takes");
    line.mend();
    assert_eq!(tidegate.client().get("/", &[]).status, 200);
}

#[test]
fn what_does_not_speak_http_2_is_a_502() {
    for says in ["HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n", "\x16\x03\x01", "", "SSH-2.0-OpenSSH_9.2\r\n"]
    {
        let backend = Backend::scripted(move |connection| {
            connection.read_more();
            connection.write(says.as_bytes());
        });
        let tidegate = before(&backend.address.to_string(), "connect: 2s, response: 2s");
        let begun = Instant::now();
        assert!(matches!(tidegate.client().get("/", &[]).status, 502 | 504), "{says:?}");
        assert!(begun.elapsed() < PATIENCE / 2);
        assert!(TcpStream::connect(tidegate.address).is_ok());
    }
}

#[test]
fn a_flood_of_one_stream_leaves_room_for_the_others() {
    let scene = Scene::with(&[]);
    let mut client = Framed::connect(scene.tidegate.address, &[(4, 10_000)]);
    // Nobody makes room on this one: its window is full, and the connection's is not.
    client.send(&Frame::get(1, "/large?n=10000000"));
    for stream in (3..40).step_by(2) {
        client.send(&Frame::headers(stream, END_STREAM, &request("GET", "/")));
        assert!(matches!(client.outcome(stream), Outcome::Answered(200, _)));
    }
}

#[test]
fn a_backend_that_speaks_no_http2_is_not_said_to_be_down() {
    let backend = Backend::scripted(|connection| {
        connection.read_head();
        connection.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    });
    let tidegate = before(&backend.address.to_string(), "response: 10s");
    let answer = tidegate.client().get("/", &[]);
    assert_eq!(answer.status, 502);
    assert!(answer.header("proxy-status").unwrap().contains("http_protocol_error"));
    assert!(answer.text().contains("does not speak HTTP/2 (protocol: h2)"), "{}", answer.text());
    assert_eq!(failures(&tidegate, "no_http2"), 1.0);
}

#[test]
fn a_backend_that_speaks_only_http2_is_told_with_what_is_missing() {
    let server = Server::start("h2_server.py", &[]);
    let tidegate = Tidegate::start(&format!(
        "backends:\n  only: {{ endpoints: ['http://{}'] }}\nroutes: [{{ backend: only }}]\n",
        server.address
    ));
    let answer = tidegate.client().get("/", &[]);
    assert_eq!(answer.status, 502);
    assert!(answer.text().contains("The backend speaks HTTP/2 (it lacks protocol: h2)."), "{}", answer.text());
    assert_eq!(failures(&tidegate, "only_http2"), 1.0);
}
