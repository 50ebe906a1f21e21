//! Bodies over HTTP/2: how they flow, who waits for whom, and how they end early.

use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, Method, Response};
use tokio::task::spawn_local;
use tokio::time::sleep;

use super::before;
use crate::support::backend::{Backend, ok};
use crate::support::http2::{self, Client, Exchange, get, read, read_all, request, run, send};
use crate::support::proxy::single;
use crate::support::{Tidegate, eventually, eventually_here};

const LARGE: usize = 8 << 20;

fn noise(bytes: usize) -> Bytes {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..bytes).map(|_| next()).collect::<Vec<u8>>().into()
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

#[test]
fn large_bodies_arrive_whole_in_any_pairing() {
    let http1 = Backend::answering(|request| ok(&[], &request.body));
    let http2 = http2::Backend::echoing();
    let sent = noise(LARGE);
    for config in [single(&http1), before(&http2)] {
        let tidegate = Tidegate::start(&config);
        let head = format!("POST / HTTP/1.1\r\nhost: service\r\ncontent-length: {LARGE}\r\n\r\n");
        let answer = tidegate.client().send(head).send(&sent).answer();
        assert_eq!((answer.body.len(), hash(&answer.body)), (LARGE, hash(&sent)), "{config}");
        run(async {
            let mut client = Client::connect(tidegate.address).await;
            let answer = client.ask(request(Method::POST, "/", &[]), &sent).await.unwrap();
            assert_eq!((answer.body.len(), hash(&answer.body)), (LARGE, hash(&sent)), "{config}");
        });
    }
}

#[test]
fn a_get_may_have_a_body_of_unknown_length() {
    let http1 = Backend::answering(|request| ok(&[], &request.body));
    let http2 = http2::Backend::echoing();
    for config in [single(&http1), before(&http2)] {
        let tidegate = Tidegate::start(&config);
        let asked = "GET / HTTP/1.1\r\nhost: service\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n";
        assert_eq!(tidegate.tell(asked).text(), "body", "{config}");
        run(async {
            let mut client = Client::connect(tidegate.address).await;
            assert_eq!(client.ask(get("/"), b"body").await.unwrap().text(), "body", "{config}");
        });
    }
}

#[test]
fn pieces_arrive_as_they_are_sent() {
    let backend = http2::Backend::doing(|mut exchange: Exchange| async move {
        let mut answer = exchange.respond.send_response(Response::new(()), false).unwrap();
        while let Some(Ok(piece)) = exchange.body.data().await {
            exchange.body.flow_control().release_capacity(piece.len()).unwrap();
            send(&mut answer, piece, false).await.unwrap();
        }
        answer.send_data(Bytes::new(), true).unwrap();
    });
    let tidegate = Tidegate::start(&before(&backend));
    run(async {
        let mut client = Client::connect(tidegate.address).await;
        let (response, mut upload) = client.begin(request(Method::POST, "/", &[]), false).await;
        let mut answer = response.await.unwrap().into_body();
        for piece in ["one", "two", "three"] {
            send(&mut upload, piece.into(), false).await.unwrap();
            let heard = answer.data().await.unwrap().unwrap();
            answer.flow_control().release_capacity(heard.len()).unwrap();
            assert_eq!(heard, piece);
        }
        upload.send_data(Bytes::new(), true).unwrap();
        assert!(read_all(&mut answer).await.unwrap().is_empty());
    });
}

#[test]
fn who_sends_all_before_reading_and_who_answers_while_reading_do_not_wait_for_each_other() {
    let backend = http2::Backend::doing(|mut exchange: Exchange| async move {
        let mut answer = exchange.respond.send_response(Response::new(()), false).unwrap();
        let writing = spawn_local(async move { send(&mut answer, noise(LARGE), true).await });
        read_all(&mut exchange.body).await.unwrap();
        writing.await.unwrap().unwrap();
    });
    let tidegate = Tidegate::start(&before(&backend));
    run(async {
        let mut client = Client::connect(tidegate.address).await;
        let (response, mut upload) = client.begin(request(Method::POST, "/", &[]), false).await;
        let response = response.await.unwrap();
        send(&mut upload, noise(LARGE), true).await.unwrap(); // before anything is read
        assert_eq!(read(response).await.unwrap().body.len(), LARGE);
    });
}

#[test]
fn a_client_that_expects_to_be_asked_is_asked_once_somebody_wants_its_body() {
    let http1 = Backend::answering(|request| ok(&[], &request.body));
    let http2 = http2::Backend::echoing();
    for config in [single(&http1), before(&http2)] {
        let tidegate = Tidegate::start(&format!("{config}limits: {{ max_body: 100 }}\n"));
        run(async {
            let mut client = Client::connect(tidegate.address).await;
            let expecting =
                |length| request(Method::POST, "/", &[("expect", "100-continue"), ("content-length", length)]);
            let (mut response, mut upload) = client.begin(expecting("4"), false).await;
            let interim = std::future::poll_fn(|cx| response.poll_informational(cx)).await.unwrap().unwrap();
            assert_eq!(interim.status(), 100, "{config}");
            send(&mut upload, "body".into(), true).await.unwrap();
            assert_eq!(read(response.await.unwrap()).await.unwrap().text(), "body");

            let (mut response, _upload) = client.begin(expecting("1000"), false).await;
            assert!(std::future::poll_fn(|cx| response.poll_informational(cx)).await.is_none(), "not asked in vain");
            assert_eq!(response.await.unwrap().status(), 413);
        });
    }
}

#[test]
fn who_does_not_read_one_answer_holds_up_no_other() {
    let http1 = Backend::answering(|request| ok(&[], &noise(if request.target == "/large" { LARGE } else { 1000 })));
    let http2 = http2::Backend::doing(|exchange: Exchange| async move {
        let large = exchange.head.uri.path() == "/large";
        exchange.answer(noise(if large { LARGE } else { 1000 })).await;
    });
    for config in [single(&http1), before(&http2)] {
        let tidegate = Tidegate::start(&config);
        run(async {
            let mut roomy = h2::client::Builder::new();
            roomy.initial_connection_window_size(1 << 20); // one answer does not fill it
            let mut slow = Client::with(roomy, tidegate.address).await;
            let (response, _) = slow.begin(get("/large"), true).await;
            let stalled = response.await.unwrap();
            for _ in 0..50 {
                assert_eq!(slow.get("/").await.body.len(), 1000, "on the same connection");
            }
            let mut other = Client::connect(tidegate.address).await;
            for _ in 0..50 {
                assert_eq!(other.get("/").await.body.len(), 1000, "on another connection");
            }
            assert_eq!(read(stalled).await.unwrap().body.len(), LARGE);
        });
    }
}

#[test]
fn an_upload_that_nobody_reads_holds_up_no_other() {
    let mut roomy = h2::server::Builder::new();
    roomy.initial_connection_window_size(1 << 20); // one upload does not fill it
    let backend = http2::Backend::with(roomy, |exchange: Exchange| async move {
        if exchange.head.uri.path() == "/stalled" {
            std::future::pending::<()>().await;
        }
        exchange.echo().await;
    });
    let tidegate = Tidegate::start(&before(&backend));
    run(async {
        let mut client = Client::connect(tidegate.address).await;
        let (_response, mut upload) = client.begin(request(Method::POST, "/stalled", &[]), false).await;
        let stalled = spawn_local(async move { send(&mut upload, noise(LARGE), true).await });
        let sent = noise(300_000);
        for _ in 0..20 {
            assert_eq!(client.ask(request(Method::POST, "/", &[]), &sent).await.unwrap().body.len(), sent.len());
        }
        assert!(!stalled.is_finished());
    });
}

/// How long a backend may take to hear that its client has gone.
const SOON: Duration = Duration::from_secs(1);

#[test]
fn a_stream_that_a_client_takes_back_is_taken_back_from_the_backend() {
    let http1 = Backend::scripted(|connection| {
        if connection.read_head().is_some() {
            if connection.peek().starts_with(b"POST /begun") {
                connection.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n");
            }
            while connection.read_more().is_some() {}
        }
    });
    let http2 = http2::Backend::doing(|mut exchange: Exchange| async move {
        if exchange.head.uri.path() == "/begun" {
            let mut answer = exchange.respond.send_response(Response::new(()), false).unwrap();
            send(&mut answer, "hello".into(), false).await.unwrap();
            let reason = std::future::poll_fn(|cx| answer.poll_reset(cx)).await;
            assert_eq!(reason.unwrap(), Reason::CANCEL);
        } else {
            let reason = std::future::poll_fn(|cx| exchange.respond.poll_reset(cx)).await;
            assert_eq!(reason.unwrap(), Reason::CANCEL);
        }
    });
    for config in [single(&http1), before(&http2)] {
        for path in ["/begun", "/waiting"] {
            for uploading in [false, true] {
                let tidegate = Tidegate::start(&config);
                let running = || tidegate.metric("tidegate_inflight_requests{rollout=\"\",side=\"\"}");
                let arrived = || http1.connections() + http2.heads().len();
                let before = arrived();
                run(async {
                    let mut client = Client::connect(tidegate.address).await;
                    let (response, mut upload) = client.begin(request(Method::POST, path, &[]), !uploading).await;
                    if path == "/begun" {
                        let mut answer = response.await.unwrap().into_body();
                        assert_eq!(answer.data().await.unwrap().unwrap(), "hello");
                    } else {
                        eventually_here(&format!("the backend has {path}, uploading {uploading}, {config}"), || {
                            arrived() > before && running() == 1.0
                        })
                        .await;
                    }
                    upload.send_reset(Reason::CANCEL);
                    let since = Instant::now();
                    eventually_here(&format!("{path} has ended, uploading {uploading}, {config}"), || running() == 0.0)
                        .await;
                    if config.contains("h2") {
                        assert_eq!(http2.open_connections(), 1, "the others' connection goes on");
                    } else {
                        eventually_here("the backend hears of it", || http1.open_connections() == 0).await;
                    }
                    assert!(since.elapsed() < SOON, "{:?}", since.elapsed());
                });
            }
        }
    }
}

#[test]
fn a_client_that_vanishes_takes_all_its_streams_back() {
    let backend = http2::Backend::doing(|mut exchange: Exchange| async move {
        let _until_the_end = std::future::poll_fn(|cx| exchange.respond.poll_reset(cx)).await;
    });
    let tidegate = Tidegate::start(&before(&backend));
    run(async {
        let mut client = Client::connect(tidegate.address).await;
        let mut waiting = Vec::new();
        for _ in 0..10 {
            waiting.push(client.begin(get("/"), true).await);
        }
        eventually_here("all of them run", || backend.heads().len() == 10).await;
        client.driver.abort();
    });
    let since = Instant::now();
    eventually("all have ended", || tidegate.metric("tidegate_inflight_requests{rollout=\"\",side=\"\"}") == 0.0);
    assert!(since.elapsed() < SOON);
    assert_eq!(
        tidegate.metric("tidegate_requests_total{rollout=\"\",side=\"\",reason=\"backend\",code_class=\"aborted\"}"),
        10.0
    );
}

#[test]
fn an_answer_before_the_request_has_been_sent_reaches_the_client_whole() {
    let http1 = Backend::scripted(|connection| {
        if connection.read_head().is_some() {
            connection.write(&ok(&[], &vec![b'a'; 100_000]));
            while connection.read_more().is_some() {}
        }
    });
    let http2 = http2::Backend::doing(|exchange: Exchange| async move {
        let Exchange { body, respond, head } = exchange;
        let keep = (head, body);
        Exchange { head: keep.0, body: keep.1, respond }.answer(vec![b'a'; 100_000]).await;
    });
    for config in [single(&http1), before(&http2)] {
        let tidegate = Tidegate::start(&config);
        let head = format!("POST / HTTP/1.1\r\nhost: service\r\ncontent-length: {LARGE}\r\n\r\nbegun");
        let answer = tidegate.client().send(head).answer();
        assert_eq!((answer.status, answer.body.len(), answer.complete), (200, 100_000, true), "{config}");
        run(async {
            let mut client = Client::connect(tidegate.address).await;
            let (response, mut upload) = client.begin(request(Method::POST, "/", &[]), false).await;
            let sending = spawn_local(async move { send(&mut upload, noise(LARGE), true).await });
            let answer = read(response.await.unwrap()).await.unwrap();
            assert_eq!(answer.body.len(), 100_000, "{config}");
            assert!(sending.await.unwrap().is_err(), "nobody wants the rest");
            assert_eq!(client.get("/").await.status, 200, "the connection goes on");
        });
    }
}

#[test]
fn an_answer_that_breaks_off_is_never_a_whole_one() {
    let http1 = Backend::scripted(|connection| {
        if connection.read_head().is_some() {
            connection.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n");
        }
    });
    let http2 = http2::Backend::doing(|mut exchange: Exchange| async move {
        let mut answer = exchange.respond.send_response(Response::new(()), false).unwrap();
        send(&mut answer, "hello".into(), false).await.unwrap();
        sleep(Duration::from_millis(100)).await; // what still waits to be sent is forgotten with a reset
        answer.send_reset(Reason::INTERNAL_ERROR);
    });
    for config in [single(&http1), before(&http2)] {
        let tidegate = Tidegate::start(&config);
        let mut client = tidegate.client();
        client.send("GET / HTTP/1.1\r\nhost: service\r\n\r\n");
        assert!(client.try_answer(false).is_none_or(|answer| !answer.complete), "{config}");
        run(async {
            let mut client = Client::connect(tidegate.address).await;
            let failed = client.ask(get("/"), b"").await.unwrap_err();
            assert_eq!(failed.reason(), Some(Reason::INTERNAL_ERROR), "{config}");
        });
        let failures = "tidegate_upstream_failures_total{rollout=\"\",side=\"\",cause=\"truncated\"}";
        assert_eq!(tidegate.metric(failures), 2.0);
    }
}

fn trailers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
    lines.iter().map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap())).collect()
}

#[test]
fn trailers_of_answers_pass_and_those_of_requests_only_for_grpc() {
    let backend = http2::Backend::doing(|mut exchange: Exchange| async move {
        read_all(&mut exchange.body).await.unwrap();
        let came = exchange.body.trailers().await.unwrap().unwrap_or_default();
        let mut answer = exchange.respond.send_response(Response::new(()), false).unwrap();
        let names = came.keys().map(|name| name.as_str().to_owned()).collect::<Vec<_>>().join(",");
        send(&mut answer, format!("[{names}]").into(), false).await.unwrap();
        answer.send_trailers(trailers(&[("x-sum", "1"), ("content-length", "9"), ("x-tidegate-side", "new")])).unwrap();
    });
    let tidegate = Tidegate::start(&before(&backend));
    run(async {
        let mut client = Client::connect(tidegate.address).await;
        for (kind, came) in [("application/grpc", "[x-sum]"), ("text/plain", "[]")] {
            let asked = request(Method::POST, "/", &[("content-type", kind), ("te", "trailers")]);
            let (response, mut upload) = client.begin(asked, false).await;
            send(&mut upload, "body".into(), false).await.unwrap();
            upload.send_trailers(trailers(&[("x-sum", "1"), ("x-forwarded-for", "6.6.6.6")])).unwrap();
            let answer = read(response.await.unwrap()).await.unwrap();
            assert_eq!(answer.text(), came);
            assert_eq!(answer.trailers.unwrap(), trailers(&[("x-sum", "1")]));
        }
    });
    let asked = "POST / HTTP/1.1\r\nhost: service\r\nte: trailers\r\nconnection: te\r\ncontent-length: 0\r\n\r\n";
    let answer = tidegate.tell(asked);
    assert_eq!((answer.text().as_str(), answer.complete), ("[]", true));
}
