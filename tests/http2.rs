//! HTTP/2 from clients, and what becomes of a request when the two sides speak different versions.

mod body;
mod drain;
mod upstream;

use std::time::Duration;

use h2::Reason;
use http::{Method, Request, Version};

use crate::support::backend::{Backend, ok};
use crate::support::foreign::{done, system};
use crate::support::frames::{END_STREAM, Frame, HEADERS, PREFACE, RST_STREAM, SETTINGS};
use crate::support::http2::{self, Client, Exchange, Frames, get, request, run};
use crate::support::proxy::single;
use crate::support::{self, Tidegate, eventually, eventually_here};

/// A config that sends everything to one backend that speaks HTTP/2.
fn before(backend: &http2::Backend) -> String {
    format!("backends:\n  only: {}\nroutes:\n  - match: {{}}\n    backend: only\n", backend.config())
}

#[test]
fn both_versions_are_spoken_on_the_same_port() {
    let backend = Backend::named("old");
    let tidegate = Tidegate::before(&backend);
    assert_eq!(tidegate.client().get("/", &[]).status, 200);
    run(async {
        let mut client = Client::connect(tidegate.address).await;
        for _ in 0..3 {
            let answer = client.get("/").await;
            assert_eq!((answer.status.as_u16(), answer.text()), (200, "old"));
            assert_eq!(answer.header("content-length"), Some("3"));
            assert!(answer.header("date").is_some());
            assert_eq!(answer.header("connection"), None);
        }
    });
    let seen = backend.requests();
    assert!(seen.iter().all(|request| request.header("host") == Some("service")), "{seen:?}");
}

#[test]
fn http2_is_recognized_however_slowly_it_begins() {
    let backend = Backend::named("old");
    let tidegate = Tidegate::before(&backend);
    let mut stream = tidegate.client().stream;
    let head = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "service")];
    let bytes = [PREFACE.to_vec(), Frame::settings(&[]).bytes(), Frame::headers(1, END_STREAM, &head).bytes()].concat();
    for byte in bytes {
        std::io::Write::write_all(&mut stream, &[byte]).unwrap();
        std::thread::sleep(Duration::from_micros(200)); // so that it is a packet of its own
    }
    assert_eq!(Frames(&mut stream).read().unwrap().kind, SETTINGS);
    assert_eq!(Frames(&mut stream).read_until(HEADERS).unwrap().payload[0], 0x88);
}

#[test]
fn what_only_begins_like_http2_is_a_bad_request() {
    let backend = Backend::named("old");
    let tidegate = Tidegate::before(&backend);
    for opening in ["PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", "PRI * HTTP/1.1\r\nhost: a\r\n\r\n", "PRIX / HTTP/1.0\r\n\r\n"]
    {
        let status = tidegate.tell(opening).status;
        assert!(matches!(status, 200 | 400 | 505), "{opening:?}: {status}");
    }
}

#[test]
fn crumbs_of_a_cookie_arrive_as_one() {
    let backend = Backend::named("old");
    let tidegate = Tidegate::before(&backend);
    run(async {
        let mut client = Client::connect(tidegate.address).await;
        let crumbs: Vec<(&str, &str)> = (0..40).map(|_| ("cookie", "a=1")).chain([("cookie", "uid=7")]).collect();
        client.ask(request(Method::GET, "/", &crumbs), b"").await.unwrap();
    });
    let cookie = backend.requests()[0].header("cookie").unwrap().to_owned();
    assert_eq!(cookie, format!("{}uid=7", "a=1; ".repeat(40)));
}

#[test]
fn a_request_that_can_be_read_in_two_ways_is_refused() {
    let backend = Backend::named("old");
    let tidegate = Tidegate::before(&backend);
    let ask = |fields: &[(&str, &str)]| {
        let mut stream = tidegate.client().stream;
        let mut frames = Frames(&mut stream);
        std::io::Write::write_all(frames.0, PREFACE).unwrap();
        frames.write(&Frame::settings(&[]));
        let head = [&[(":method", "GET"), (":scheme", "http"), (":path", "/")], fields].concat();
        frames.write(&Frame::headers(1, END_STREAM, &head));
        loop {
            match frames.read() {
                Some(frame) if frame.kind == HEADERS => return frame.payload[0] == 0x88,
                Some(frame) if frame.kind == RST_STREAM => return false,
                Some(_) => {}
                None => return false,
            }
        }
    };
    assert!(ask(&[(":authority", "service")]));
    assert!(ask(&[("host", "service")]), "host may stand in for the authority");
    assert!(ask(&[(":authority", "service"), ("host", "SERVICE")]));
    let sane = backend.requests().len();
    for fields in [
        &[(":authority", "service"), ("host", "other")][..],
        &[(":authority", "service"), ("host", "service:80")],
        &[(":authority", "service"), ("host", "service"), ("host", "service")],
        &[(":authority", "user@service")],
        &[(":authority", "user:secret@service:80")],
        &[],
        &[(":authority", "service"), ("x-a", "\tpadded")],
        &[(":authority", "service"), ("x-a", "padded ")],
        &[(":authority", "service"), ("connection", "close")],
        &[(":authority", "service"), ("keep-alive", "timeout=5")],
        &[(":authority", "service"), ("proxy-connection", "close")],
        &[(":authority", "service"), ("transfer-encoding", "chunked")],
        &[(":authority", "service"), ("upgrade", "websocket")],
        &[(":authority", "service"), ("te", "gzip")],
        &[(":authority", "service"), ("X-Upper", "case")],
        &[(":authority", "service"), ("x-tidegate-side", "a\nb")],
    ] {
        assert!(!ask(fields), "{fields:?}");
    }
    assert_eq!(backend.requests().len(), sane);
}

#[test]
fn te_trailers_goes_on_only_where_somebody_looks_at_it() {
    let (http1, http2) = (Backend::named("old"), http2::Backend::echoing());
    let config = format!(
        "backends:\n  one: {{ endpoints: [\"{}\"] }}\n  two: {}\nroutes:\n  - match: {{ path: /1 }}\n    \
         backend: one\n  - match: {{}}\n    backend: two\n",
        http1.url(),
        http2.config()
    );
    let tidegate = Tidegate::start(&config);
    run(async {
        let mut client = Client::connect(tidegate.address).await;
        client.ask(request(Method::GET, "/1", &[("te", "trailers")]), b"").await.unwrap();
        client.ask(request(Method::GET, "/2", &[("te", "trailers")]), b"").await.unwrap();
        client.ask(request(Method::GET, "/2", &[]), b"").await.unwrap();
    });
    let lines = "te: trailers\r\nconnection: te, x-private\r\nx-private: 1\r\n";
    let asked = format!("GET /2 HTTP/1.1\r\nhost: service\r\n{lines}\r\n");
    assert_eq!(tidegate.tell(asked).status, 200);
    assert_eq!(http1.requests()[0].header("te"), None);
    let heads = http2.heads();
    let te = |at: usize| heads[at].headers.get("te").map(|te| te.to_str().unwrap());
    assert_eq!([te(0), te(1), te(2)], [Some("trailers"), None, Some("trailers")]);
    assert!(!heads[2].headers.contains_key("x-private") && !heads[2].headers.contains_key("connection"));
}

#[test]
fn a_request_of_http1_arrives_as_one_of_http2() {
    let backend = http2::Backend::doing(|exchange: Exchange| exchange.answer("hello"));
    let tidegate = Tidegate::start(&before(&backend));
    let answer = tidegate.client().get("/a?b=c", &[("cookie", "a=1; b=2")]);
    assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
    let head = &backend.heads()[0];
    assert_eq!(head.version, Version::HTTP_2);
    assert_eq!(head.uri.to_string(), "http://service/a?b=c");
    assert!(!head.headers.contains_key("host") && !head.headers.contains_key("transfer-encoding"));
    assert_eq!(head.headers["x-forwarded-host"], "service");
    assert_eq!(head.headers["cookie"], "a=1; b=2");
}

#[test]
fn answers_without_a_body_have_none_in_any_pairing() {
    let script = |target: &str| match target {
        "/204" => b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
        "/304" => b"HTTP/1.1 304 Not Modified\r\netag: \"1\"\r\ncontent-length: 5\r\n\r\n".to_vec(),
        "/head" => b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n".to_vec(),
        _ => ok(&[], b""),
    };
    let http1 = Backend::answering(move |request| script(&request.target));
    let http2 = http2::Backend::doing(|mut exchange: Exchange| async move {
        let mut response = http::Response::new(());
        let (status, length) = match exchange.head.uri.path() {
            "/204" => (204, None),
            "/304" => (304, Some("5")),
            "/head" => (200, Some("5")),
            _ => (200, Some("0")),
        };
        *response.status_mut() = http::StatusCode::from_u16(status).unwrap();
        if let Some(length) = length {
            response.headers_mut().insert("content-length", length.parse().unwrap());
        }
        exchange.respond.send_response(response, true).unwrap();
    });
    for config in [single(&http1), before(&http2)] {
        let tidegate = Tidegate::start(&config);
        let asked = |method: &str, path: &str| {
            let mut client = tidegate.client();
            client.send(format!("{method} {path} HTTP/1.1\r\nhost: service\r\n\r\n"));
            let answer = if method == "HEAD" { client.answer_to_head() } else { client.answer() };
            (answer.status, answer.header("content-length").map(str::to_owned))
        };
        let five = || Some("5".to_owned());
        assert_eq!(asked("GET", "/204"), (204, None), "{config}");
        assert_eq!(asked("GET", "/304"), (304, five()), "{config}");
        assert_eq!(asked("HEAD", "/head"), (200, five()), "{config}");
        assert_eq!(asked("GET", "/empty"), (200, Some("0".to_owned())), "{config}");
        run(async {
            let mut client = Client::connect(tidegate.address).await;
            for (method, path, status, length) in [
                (Method::GET, "/204", 204, None),
                (Method::GET, "/304", 304, Some("5")),
                (Method::HEAD, "/head", 200, Some("5")),
                (Method::GET, "/empty", 200, Some("0")),
            ] {
                let answer = client.ask(request(method, path, &[]), b"").await.unwrap();
                assert_eq!(
                    (answer.status.as_u16(), answer.header("content-length")),
                    (status, length),
                    "{path} {config}"
                );
                assert!(answer.body.is_empty());
            }
        });
    }
}

#[test]
fn a_hundred_streams_run_at_once_and_no_more() {
    let backend = http2::Backend::doing(|exchange: Exchange| async move {
        let Exchange { mut respond, .. } = exchange;
        let _until_the_end = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
    });
    let tidegate = Tidegate::start(&before(&backend));
    run(async {
        let mut client = Client::connect(tidegate.address).await;
        let mut waiting = Vec::new();
        for _ in 0..100 {
            waiting.push(client.begin(get("/"), true).await);
        }
        eventually_here("all of them run", || backend.heads().len() == 100).await;
        assert_eq!(client.sender.current_max_send_streams(), 100);
    });
    eventually("all streams are taken back", || {
        tidegate.metric("tidegate_inflight_requests{rollout=\"\",side=\"\"}") == 0.0
    });
    assert_eq!(backend.heads().len(), 100);
}

#[test]
fn a_client_that_opens_more_streams_than_it_may_is_refused() {
    let backend = Backend::scripted(|connection| while connection.read_more().is_some() {});
    let tidegate = Tidegate::before(&backend);
    let mut stream = tidegate.client().stream;
    let mut frames = Frames(&mut stream);
    std::io::Write::write_all(frames.0, PREFACE).unwrap();
    frames.write(&Frame::settings(&[]));
    let head = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "service")];
    for n in 0..101 {
        frames.write(&Frame::headers(2 * n + 1, END_STREAM, &head));
    }
    let refused = frames.read_until(RST_STREAM).unwrap();
    assert_eq!(refused.stream, 201);
    assert_eq!(refused.payload, u32::from(Reason::REFUSED_STREAM).to_be_bytes());
    eventually("the others are on their way", || backend.connections() == 100);
}

#[test]
fn a_fragment_in_the_path_stays_behind() {
    let backend = Backend::named("old");
    let tidegate = Tidegate::before(&backend);
    let mut stream = tidegate.client().stream;
    let mut frames = Frames(&mut stream);
    std::io::Write::write_all(frames.0, PREFACE).unwrap();
    frames.write(&Frame::settings(&[]));
    let head = [(":method", "GET"), (":scheme", "http"), (":path", "/a#/../b"), (":authority", "service")];
    frames.write(&Frame::headers(1, END_STREAM, &head));
    frames.read_until(HEADERS).unwrap();
    assert_eq!(backend.requests()[0].target, "/a");
}

#[test]
fn refusals_of_ours_are_answers_of_http2_too() {
    let backend = Backend::named("old");
    let tidegate = Tidegate::start(&format!(
        "backends:\n  only: {{ endpoints: [\"{}\"] }}\nroutes:\n  - match: {{ path: /in }}\n    backend: only\n\
         limits: {{ max_body: 10 }}\n",
        backend.url()
    ));
    run(async {
        let mut client = Client::connect(tidegate.address).await;
        let answer = client.get("/out").await;
        assert_eq!((answer.status.as_u16(), answer.header("connection")), (404, None));
        assert!(answer.header("proxy-status").unwrap().starts_with("tidegate; error="));
        let answer = client.ask(request(Method::TRACE, "/in", &[]), b"").await.unwrap();
        assert_eq!(answer.status, 405);
        let answer =
            client.ask(request(Method::POST, "/in", &[("content-length", "11")]), b"hello world").await.unwrap();
        assert_eq!(answer.status, 413);
        assert_eq!(client.get("/in").await.status, 200, "the connection goes on");
    });
    assert_eq!(backend.requests().len(), 1);
}

#[test]
fn users_stay_on_their_side_whatever_they_speak() {
    let (old, new) = (Backend::named("old"), Backend::named("new"));
    let tidegate = Tidegate::splitting(&old, &new, 50);
    let by_http1: Vec<String> = (30..70).map(|user| tidegate.client().get_as(user).text()).collect();
    let by_http2 = run(async {
        let mut client = Client::connect(tidegate.address).await;
        let mut answers = Vec::new();
        for user in 30..70 {
            let user = user.to_string();
            let answer = client.ask(request(Method::GET, "/", &[("x-user-id", &user)]), b"").await.unwrap();
            answers.push(answer.text().to_owned());
        }
        answers
    });
    assert_eq!(by_http1, by_http2);
    assert!(by_http1.iter().any(|side| side == "old") && by_http1.iter().any(|side| side == "new"));
}

#[test]
fn curl_and_nghttp_are_served() {
    let backend = Backend::answering(|request| ok(&[("x-target", &request.target)], &request.body));
    let tidegate = Tidegate::before(&backend);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("body");
    let sent: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    std::fs::write(&file, &sent).unwrap();
    let url = format!("http://{}/a?b", tidegate.address);
    let body = dir.path().join("answer");
    let mut curl = system("curl");
    curl.args(["-sS", "--http2-prior-knowledge", "--fail", "-w", "%{http_version}", "--data-binary"]);
    curl.arg(format!("@{}", file.display())).arg("-o").arg(&body).arg(&url);
    assert_eq!(done(curl, support::PATIENCE), "2");
    assert!(std::fs::read(&body).unwrap() == sent);
    let mut nghttp = system("nghttp");
    nghttp.args(["-v", "--no-dep", "--expect-continue", "-d"]).arg(&file).arg(&url);
    let told = done(nghttp, support::PATIENCE);
    assert!(told.contains(":status: 100") && told.contains(":status: 200"), "{told}");
}

#[test]
fn a_client_that_says_nothing_is_let_go() {
    let backend = Backend::named("old");
    let tidegate = Tidegate::start(&format!("{}timeouts: {{ keep_alive: 300ms }}\n", single(&backend)));
    run(async {
        let mut client = Client::connect(tidegate.address).await;
        assert_eq!(client.get("/").await.status, 200);
        client.driver.await.unwrap().unwrap();
    });
}

#[test]
fn a_request_of_http1_may_stop_in_the_middle_of_its_body() {
    let backend = http2::Backend::doing(Exchange::echo);
    let config = format!("{}timeouts: {{ body_idle: 200ms }}\n", before(&backend));
    let tidegate = Tidegate::start(&config);
    let answer = tidegate.tell("POST / HTTP/1.1\r\nhost: service\r\ncontent-length: 10\r\n\r\nhell");
    assert_eq!(answer.status, 408);
    run(async {
        let mut client = Client::connect(tidegate.address).await;
        let (response, mut stream) = client.begin(request(Method::POST, "/", &[]), false).await;
        http2::send(&mut stream, "hell".into(), false).await.unwrap();
        assert_eq!(response.await.unwrap().status(), 408);
        assert_eq!(client.get("/").await.status, 200, "the connection goes on");
    });
}

#[test]
fn the_version_of_a_request_is_no_secret_of_its_path() {
    let backend = Backend::named("old");
    let tidegate = Tidegate::before(&backend);
    run(async {
        let mut client = Client::connect(tidegate.address).await;
        let asked = Request::builder().method(Method::OPTIONS).uri("http://service").body(()).unwrap();
        assert_eq!(client.ask(asked, b"").await.unwrap().status, 200);
    });
    assert!(["*", "/"].contains(&backend.requests()[0].target.as_str()));
}
