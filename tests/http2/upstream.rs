//! Backends that speak HTTP/2: connections that are shared, and streams that a backend does not want.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::Reason;
use h2::server::SendResponse;
use http::{HeaderMap, Method, Response};
use tokio::sync::{Barrier, Notify};
use tokio::task::spawn_local;

use crate::support::backend::{Backend, Connection};
use crate::support::frames::{DATA, END_HEADERS, END_STREAM, Frame, HEADERS};
use crate::support::http2::{self, Client, Exchange, Frames, get, request, run};
use crate::support::{Tidegate, eventually, eventually_here};

/// A config that sends everything to one backend that speaks HTTP/2, with more keys for it, over one worker.
fn before(url: &str, more: &str) -> String {
    format!(
        "listen: 127.0.0.1:0\nadmin: {{ address: 127.0.0.1:0 }}\nworkers: 1\n\
         shutdown: {{ readiness_delay: 0s, drain_timeout: 2s }}\n\
         backends:\n  only: {{ endpoints: [\"{url}\"], protocol: h2{more} }}\nroutes:\n  - match: {{}}\n    backend: only\n"
    )
}

/// A backend of frames: it has `script` for each connection, after both sides have begun.
fn frames(settings: &'static [(u16, u32)], script: impl Fn(&mut Frames<'_>) + Send + Sync + 'static) -> Backend {
    Backend::scripted(move |Connection { stream, .. }| {
        let mut frames = Frames(stream);
        if frames.welcome(settings).is_some() {
            script(&mut frames);
        }
    })
}

const MAX_CONCURRENT_STREAMS: u16 = 3;
const INITIAL_WINDOW_SIZE: u16 = 4;

#[test]
fn fifty_requests_at_once_share_a_connection() {
    let all = Arc::new(Barrier::new(50));
    let backend = http2::Backend::doing(move |exchange: Exchange| {
        let all = Arc::clone(&all);
        async move {
            all.wait().await;
            exchange.answer("hello").await;
        }
    });
    let tidegate = Tidegate::start_whole(&before(&format!("http://{}", backend.address), ""));
    run(async {
        let asks =
            (0..50).map(|_| spawn_local(async move { Client::connect(tidegate.address).await.get("/").await.status }));
        for ask in asks.collect::<Vec<_>>() {
            assert_eq!(ask.await.unwrap(), 200);
        }
    });
    assert_eq!(backend.connections(), 1);
    assert_eq!(backend.heads().len(), 50);
}

#[test]
fn a_backend_that_takes_one_stream_at_a_time_gets_more_connections() {
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(1);
    let go = Arc::new(Notify::new());
    let may_go = Arc::clone(&go);
    let backend = http2::Backend::with(builder, move |exchange: Exchange| {
        let may_go = Arc::clone(&may_go);
        async move {
            if exchange.head.uri.path() == "/slow" {
                may_go.notified().await;
            }
            exchange.answer("hello").await;
        }
    });
    let tidegate = Tidegate::start_whole(&before(&format!("http://{}", backend.address), ""));
    run(async {
        let mut client = Client::connect(tidegate.address).await;
        let (slow, _) = client.begin(get("/slow"), true).await;
        eventually_here("the slow one runs", || backend.heads().len() == 1).await;
        for _ in 0..5 {
            assert_eq!(client.get("/").await.status, 200, "nobody waits for the slow one");
        }
        go.notify_one();
        assert_eq!(slow.await.unwrap().status(), 200);
    });
    assert_eq!(backend.connections(), 2, "the second one is used again and again");
}

#[test]
fn a_backend_that_lowers_what_it_takes_is_heeded() {
    let (connections, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (count, seen) = (Arc::clone(&connections), Arc::clone(&most));
    let backend = frames(&[(MAX_CONCURRENT_STREAMS, 100)], move |frames| {
        let is_first = count.fetch_add(1, SeqCst) == 0;
        if is_first {
            frames.write(&Frame::settings(&[(MAX_CONCURRENT_STREAMS, 1)]));
            frames.0.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        }
        let mut open = Vec::new();
        loop {
            match frames.read() {
                Some(frame) if frame.kind == HEADERS => open.push(frame.stream),
                Some(_) => continue,
                None if !is_first => return,
                None => {}
            }
            if is_first {
                seen.fetch_max(open.len(), SeqCst);
                while let Some(frame) = frames.read() {
                    open.extend((frame.kind == HEADERS).then_some(frame.stream));
                }
                seen.fetch_max(open.len(), SeqCst);
            }
            open.drain(..).for_each(|stream| frames.answer(stream));
        }
    });
    let tidegate = Tidegate::start_whole(&before(&backend.url(), ""));
    run(async {
        let mut client = Client::connect(tidegate.address).await;
        assert_eq!(client.get("/").await.status, 200);
        let mut waiting = Vec::new();
        for _ in 0..8 {
            waiting.push(client.begin(get("/"), true).await.0);
        }
        for answer in waiting {
            assert_eq!(answer.await.unwrap().status(), 200);
        }
    });
    assert_eq!(most.load(SeqCst), 1);
    assert!(connections.load(SeqCst) > 1);
}

#[test]
fn a_backend_that_takes_no_more_on_a_connection_gets_another_in_its_place() {
    let backend = frames(&[(MAX_CONCURRENT_STREAMS, 100)], |frames| {
        while let Some(head) = frames.read_until(HEADERS) {
            frames.write(&Frame::settings(&[(MAX_CONCURRENT_STREAMS, 0)]));
            frames.answer(head.stream);
        }
    });
    let tidegate = Tidegate::start_whole(&before(&backend.url(), ", timeouts: { idle: 60s }"));
    let mut client = tidegate.client();
    for nth in 1..=20 {
        assert_eq!(client.get("/", &[]).status, 200);
        assert_eq!(backend.connections(), nth);
    }
    eventually("but the last one they are closed", || backend.open_connections() == 1);
    assert_eq!(tidegate.metric("tidegate_backend_connections{backend=\"only\"}"), 1.0);
}

#[test]
fn while_a_backend_takes_nothing_everybody_waits_for_one_connection() {
    let goes_on = Arc::new(AtomicBool::new(false));
    let may_go_on = Arc::clone(&goes_on);
    let backend = frames(&[(MAX_CONCURRENT_STREAMS, 0)], move |frames| {
        eventually("it may go on", || may_go_on.load(SeqCst));
        frames.write(&Frame::settings(&[(MAX_CONCURRENT_STREAMS, 100)]));
        while let Some(head) = frames.read_until(HEADERS) {
            frames.answer(head.stream);
        }
    });
    let tidegate = Tidegate::start_whole(&before(&backend.url(), ", timeouts: { connect: 20s }"));
    run(async {
        let mut client = Client::connect(tidegate.address).await;
        let mut waiting = Vec::new();
        for _ in 0..20 {
            waiting.push(client.begin(get("/"), true).await.0);
        }
        let running = || tidegate.metric("tidegate_inflight_requests{rollout=\"\",side=\"\"}");
        eventually_here("all of them run", || running() == 20.0).await;
        goes_on.store(true, SeqCst);
        for answer in waiting {
            assert_eq!(answer.await.unwrap().status(), 200);
        }
    });
    assert_eq!(backend.connections(), 1);
}

#[test]
fn who_waits_for_a_connection_that_another_has_begun_late_has_not_waited_in_vain() {
    let goes_on = Arc::new(AtomicBool::new(false));
    let (may_go_on, connections) = (Arc::clone(&goes_on), Arc::new(AtomicUsize::new(0)));
    let backend = Backend::scripted(move |connection| {
        if connections.fetch_add(1, SeqCst) == 0 {
            connection.is_closed_by_peer(); // not a word
            return;
        }
        eventually("it may go on", || may_go_on.load(SeqCst));
        let mut frames = Frames(&mut connection.stream);
        frames.welcome(&[]).unwrap();
        while let Some(head) = frames.read_until(HEADERS) {
            frames.answer(head.stream);
        }
    });
    let tidegate = Tidegate::start_whole(&before(&backend.url(), ", timeouts: { connect: 2s }"));
    run(async {
        let mut client = Client::connect(tidegate.address).await;
        let (_leaves, mut first) = client.begin(get("/first"), true).await;
        let (second, _) = client.begin(get("/second"), true).await;
        let (third, _) = client.begin(get("/third"), true).await;
        let begun = Instant::now();
        let has_passed = |millis| begun.elapsed() >= Duration::from_millis(millis);
        eventually_here("the first waits", || has_passed(1_000) && backend.connections() == 1).await;
        first.send_reset(Reason::CANCEL); // and with it goes the connection that the others wait for
        eventually_here("another is begun", || has_passed(2_200) && backend.connections() == 2).await;
        goes_on.store(true, SeqCst);
        assert_eq!(second.await.unwrap().status(), 200);
        assert_eq!(third.await.unwrap().status(), 200);
    });
    assert_eq!(backend.connections(), 2);
    let failures = "tidegate_upstream_failures_total{rollout=\"\",side=\"\",cause=\"connect_timeout\"}";
    assert_eq!(tidegate.metric(failures), 0.0);
}

/// A backend that refuses the first `refusals` streams, whichever connection they come on, once their body has begun if they
/// have one; and how many it has seen.
fn refusing(refusals: usize, reason: Reason) -> (Backend, Arc<AtomicUsize>) {
    let streams = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&streams);
    let backend = frames(&[], move |frames| {
        while let Some(frame) = frames.read_until(HEADERS) {
            let has_body = frame.flags & END_STREAM == 0;
            let mut is_whole = !has_body;
            if has_body {
                is_whole = frames.read_until(DATA).is_some_and(|data| data.flags & END_STREAM != 0);
            }
            if seen.fetch_add(1, SeqCst) < refusals {
                frames.reset(frame.stream, reason);
                continue;
            }
            while !is_whole {
                is_whole = frames.read_until(DATA).is_none_or(|data| data.flags & END_STREAM != 0);
            }
            frames.answer(frame.stream);
        }
    });
    (backend, streams)
}

#[test]
fn a_refused_stream_is_tried_again_twice() {
    for (refusals, status, tries) in [(1, 200, 2), (2, 200, 3), (3, 502, 3)] {
        let (backend, streams) = refusing(refusals, Reason::REFUSED_STREAM);
        let tidegate = Tidegate::start_whole(&before(&backend.url(), ""));
        assert_eq!(tidegate.client().get("/", &[]).status, status, "{refusals} refusals");
        assert_eq!(streams.load(SeqCst), tries);
    }
}

fn retries(tidegate: &Tidegate) -> f64 {
    tidegate.metric("tidegate_retries_total{backend=\"only\",cause=\"refused\"}")
}

fn refused(tidegate: &Tidegate) -> f64 {
    tidegate.metric("tidegate_upstream_failures_total{rollout=\"\",side=\"\",cause=\"refused\"}")
}

#[test]
fn a_refused_stream_is_tried_again_once_without_a_word_and_then_as_any_retry() {
    for (attempts, tries) in [(0, 2), (1, 3), (3, 5)] {
        let (backend, streams) = refusing(usize::MAX, Reason::REFUSED_STREAM);
        let more = format!(", retries: {{ attempts: {attempts} }}");
        let tidegate = Tidegate::start_whole(&before(&backend.url(), &more));
        assert_eq!(tidegate.client().get("/", &[]).status, 502);
        assert_eq!(streams.load(SeqCst), tries, "{attempts} attempts");
        assert_eq!((retries(&tidegate), refused(&tidegate)), (tries as f64 - 1.0, 1.0));
    }
}

#[test]
fn how_often_refused_streams_are_tried_again_is_bounded() {
    const REQUESTS: usize = 400;
    let (backend, streams) = refusing(usize::MAX, Reason::REFUSED_STREAM);
    let more = ", retries: { budget: 1% }, ejection: { enabled: false }";
    let tidegate = Tidegate::start_whole(&before(&backend.url(), more));
    let mut client = tidegate.client();
    (0..REQUESTS).for_each(|_| assert_eq!(client.get("/", &[]).status, 502));
    // Each a second time, a hundred of them a third time, and then one in a hundred.
    let streams = streams.load(SeqCst);
    assert!((2 * REQUESTS + 100..=2 * REQUESTS + 105).contains(&streams), "{streams}");
    assert_eq!(retries(&tidegate), (streams - REQUESTS) as f64);
}

#[test]
fn a_stream_that_ends_for_another_reason_is_not_tried_again() {
    for reason in [Reason::CANCEL, Reason::INTERNAL_ERROR, Reason::NO_ERROR, Reason::ENHANCE_YOUR_CALM] {
        let (backend, streams) = refusing(1, reason);
        let tidegate = Tidegate::start_whole(&before(&backend.url(), ""));
        assert_eq!(tidegate.client().get("/", &[]).status, 502, "{reason:?}");
        assert_eq!(streams.load(SeqCst), 1);
    }
}

#[test]
fn a_refused_body_is_sent_again_as_long_as_all_of_it_is_here() {
    for (length, version) in [(16 << 10, 1), (16 << 10, 2)] {
        let (backend, streams) = refusing(1, Reason::REFUSED_STREAM);
        let tidegate = Tidegate::start_whole(&before(&backend.url(), ""));
        let body = vec![b'a'; length];
        let status = if version == 1 {
            let head = format!("POST / HTTP/1.1\r\nhost: service\r\ncontent-length: {length}\r\n\r\n");
            tidegate.client().send(head).send(&body).answer().status
        } else {
            run(async {
                let mut client = Client::connect(tidegate.address).await;
                client.ask(request(Method::POST, "/", &[]), &body).await.unwrap().status.as_u16()
            })
        };
        assert_eq!((status, streams.load(SeqCst)), (200, 2), "{length} bytes over HTTP/{version}");
    }
    let (backend, streams) = refusing(1, Reason::REFUSED_STREAM);
    let tidegate = Tidegate::start_whole(&before(&backend.url(), ""));
    let length = 60 << 10;
    let head = format!("POST / HTTP/1.1\r\nhost: service\r\ncontent-length: {length}\r\n\r\n");
    let answer = tidegate.client().send(head).send(vec![b'a'; length]).answer();
    assert!(matches!((answer.status, streams.load(SeqCst)), (502, 1) | (200, 2)), "{answer:?}");
}

/// A backend that reads requests to their end, ends the first `failures` of them like this, and answers the others with all that
/// came.
fn that_reads_all(
    failures: usize,
    fail: impl Fn(&mut SendResponse<Bytes>) + Copy + Send + Sync + 'static,
) -> http2::Backend {
    let streams = Arc::new(AtomicUsize::new(0));
    http2::Backend::doing(move |mut exchange: Exchange| {
        let fails = streams.fetch_add(1, SeqCst) < failures;
        async move {
            let body = http2::read_all(&mut exchange.body).await.unwrap();
            let trailers = exchange.body.trailers().await.unwrap().unwrap_or_default();
            if fails {
                return fail(&mut exchange.respond);
            }
            exchange.answer(format!("{}{trailers:?}", String::from_utf8_lossy(&body))).await;
        }
    })
}

/// What is answered to a call with this body and trailers, the second time that it is sent.
fn ask_with_trailers(tidegate: &Tidegate, body: &'static str) -> http2::Answer {
    run(async {
        let mut client = Client::connect(tidegate.address).await;
        let lines = [("content-type", "application/grpc"), ("te", "trailers"), ("idempotency-key", "42")];
        let (response, mut upload) = client.begin(request(Method::POST, "/", &lines), false).await;
        http2::send(&mut upload, body.into(), false).await.unwrap();
        upload.send_trailers(HeaderMap::from_iter([("x-sum".parse().unwrap(), "1".parse().unwrap())])).unwrap();
        http2::read(response.await.unwrap()).await.unwrap()
    })
}

#[test]
fn what_is_refused_after_its_end_is_sent_again_with_its_trailers() {
    for body in ["", "hello"] {
        let backend = that_reads_all(1, |respond| respond.send_reset(Reason::REFUSED_STREAM));
        let tidegate = Tidegate::start_whole(&before(&format!("http://{}", backend.address), ""));
        assert_eq!(ask_with_trailers(&tidegate, body).text(), format!("{body}{{\"x-sum\": \"1\"}}"));
        assert_eq!(backend.heads().len(), 2);
    }
}

#[test]
fn what_old_is_asked_by_a_shield_has_its_trailers() {
    for body in ["", "hello"] {
        let fails = |respond: &mut SendResponse<Bytes>| {
            let _it_may_be_gone = respond.send_response(Response::builder().status(500).body(()).unwrap(), true);
        };
        let (old, new) = (that_reads_all(0, fails), that_reads_all(1, fails));
        let side = |backend: &http2::Backend| format!("{{ endpoints: ['http://{}'], protocol: h2 }}", backend.address);
        let tidegate = Tidegate::start(&format!(
            "backends: {{ v1: {}, v2: {} }}\n\
             rollout: {{ old: v1, new: v2, key: header:x-user-id, percent: 100, on_missing: new, shield: {{}} }}\n",
            side(&old),
            side(&new)
        ));
        assert_eq!(ask_with_trailers(&tidegate, body).text(), format!("{body}{{\"x-sum\": \"1\"}}"));
        assert_eq!((new.heads().len(), old.heads().len()), (1, 1));
    }
}

#[test]
fn a_refused_body_that_went_on_for_too_long_is_not_sent_again() {
    let backend = frames(&[], |frames| {
        while let Some(head) = frames.read_until(HEADERS) {
            let mut came = 0;
            while came < 40_000 {
                came += frames.read_until(DATA).map_or(usize::MAX, |data| data.payload.len());
            }
            frames.reset(head.stream, Reason::REFUSED_STREAM);
        }
    });
    let tidegate = Tidegate::start_whole(&before(&backend.url(), ""));
    let head = "POST / HTTP/1.1\r\nhost: service\r\ncontent-length: 60000\r\n\r\n";
    assert_eq!(tidegate.client().send(head).send(vec![b'a'; 60_000]).answer().status, 502);
}

#[test]
fn what_a_backend_leaves_out_when_it_goes_away_goes_elsewhere_and_the_rest_is_answered() {
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    let backend = frames(&[], move |frames| {
        if count.fetch_add(1, SeqCst) > 0 {
            while let Some(head) = frames.read_until(HEADERS) {
                frames.answer(head.stream);
            }
            return;
        }
        let streams: Vec<u32> = (0..3).map(|_| frames.read_until(HEADERS).unwrap().stream).collect();
        frames.go_away(streams[0], Reason::NO_ERROR);
        eventually("the others go elsewhere", || count.load(SeqCst) > 1);
        frames.answer(streams[0]);
        while frames.read().is_some() {}
    });
    let tidegate = Tidegate::start_whole(&before(&backend.url(), ""));
    run(async {
        let mut client = Client::connect(tidegate.address).await;
        let mut waiting = Vec::new();
        for _ in 0..3 {
            waiting.push(client.begin(request(Method::POST, "/", &[]), true).await.0);
        }
        for answer in waiting {
            assert_eq!(answer.await.unwrap().status(), 200);
        }
    });
    assert_eq!(connections.load(SeqCst), 2);
    assert_eq!((retries(&tidegate), refused(&tidegate)), (2.0, 0.0));
}

#[test]
fn what_a_backend_has_looked_at_is_not_sent_twice_however_it_goes_away() {
    for orderly in [true, false] {
        let requests = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&requests);
        let backend = frames(&[], move |frames| {
            let first = frames.read_until(HEADERS).unwrap().stream;
            count.fetch_add(1, SeqCst);
            if orderly {
                frames.go_away(first, Reason::NO_ERROR);
            } else {
                frames.go_away(first, Reason::INTERNAL_ERROR);
            }
            // and closes
        });
        let tidegate = Tidegate::start_whole(&before(&backend.url(), ""));
        assert_eq!(tidegate.client().get("/", &[]).status, 502);
        assert_eq!(requests.load(SeqCst), 1);
    }
}

#[test]
fn what_a_backend_leaves_out_goes_elsewhere_even_if_it_closes_at_once() {
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    let backend = frames(&[], move |frames| {
        let first = frames.read_until(HEADERS).unwrap().stream;
        if count.fetch_add(1, SeqCst) > 0 {
            frames.answer(first);
            while frames.read().is_some() {}
        } else {
            frames.go_away(0, Reason::NO_ERROR);
        }
    });
    let tidegate = Tidegate::start_whole(&before(&backend.url(), ""));
    assert_eq!(tidegate.client().get("/", &[]).status, 200);
    assert_eq!(connections.load(SeqCst), 2);
}

#[test]
fn a_backend_that_speaks_another_version_is_found_out_at_once() {
    let backend = Backend::scripted(|connection| {
        connection.write(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        connection.is_closed_by_peer();
    });
    let tidegate = Tidegate::start_whole(&before(&backend.url(), ", timeouts: { connect: 20s }"));
    assert_eq!(tidegate.client().get("/", &[]).status, 502);
}

#[test]
fn a_backend_that_never_begins_is_given_up() {
    let backend = Backend::scripted(|connection| while connection.read_more().is_some() {});
    let tidegate = Tidegate::start_whole(&before(&backend.url(), ", timeouts: { connect: 300ms }"));
    assert_eq!(tidegate.client().get("/", &[]).status, 504);
}

#[test]
fn a_flood_of_interim_answers_ends_the_stream() {
    for (interim, status) in [(8, 200), (9, 502)] {
        let backend = frames(&[], move |frames| {
            while let Some(head) = frames.read_until(HEADERS) {
                for _ in 0..interim {
                    frames.write(&Frame::headers(head.stream, 0, &[(":status", "103"), ("link", "</a>")]));
                }
                frames.answer(head.stream);
            }
        });
        let tidegate = Tidegate::start_whole(&before(&backend.url(), ""));
        assert_eq!(tidegate.client().get("/", &[]).status, status, "{interim}");
    }
}

#[test]
fn an_unused_connection_is_closed_after_its_time() {
    let backend = http2::Backend::echoing();
    let url = format!("http://{}", backend.address);
    let tidegate = Tidegate::start_whole(&before(&url, ", timeouts: { idle: 500ms }"));
    assert_eq!(tidegate.client().get("/", &[]).status, 200);
    assert_eq!(backend.open_connections(), 1);
    eventually("the connection is closed", || backend.open_connections() == 0);
    assert_eq!(tidegate.client().get("/", &[]).status, 200);
    assert_eq!(backend.connections(), 2);
}

#[test]
fn an_answer_that_is_not_http_is_the_backends_fault() {
    for fields in [
        &[(":status", "200"), ("connection", "close")][..],
        &[(":status", "200"), ("transfer-encoding", "chunked")],
        &[(":status", "200"), ("X-Upper", "1")],
        &[(":status", "000")],
        &[(":status", "101")],
        &[("no-status", "1")],
    ] {
        let streams = AtomicUsize::new(0);
        let backend = frames(&[], move |frames| {
            while let Some(head) = frames.read_until(HEADERS) {
                if streams.fetch_add(1, SeqCst) == 0 {
                    frames.write(&Frame::headers(head.stream, END_STREAM, fields));
                } else {
                    frames.answer(head.stream);
                }
            }
        });
        let tidegate = Tidegate::start_whole(&before(&backend.url(), ""));
        assert_eq!(tidegate.client().get("/", &[]).status, 502, "{fields:?}");
        assert_eq!(tidegate.client().get("/", &[]).status, 200, "{fields:?}");
    }
}

#[test]
fn an_answer_of_another_length_than_it_says_is_not_a_whole_one() {
    let backend = frames(&[], |frames| {
        while let Some(head) = frames.read_until(HEADERS) {
            frames.write(&Frame::headers(head.stream, 0, &[(":status", "200"), ("content-length", "10")]));
            frames.write(&Frame::new(DATA, END_STREAM, head.stream, *b"short"));
        }
    });
    let tidegate = Tidegate::start_whole(&before(&backend.url(), ""));
    // Whether its head is on the way by then or not.
    let mut client = tidegate.client();
    let answer = client.send("GET / HTTP/1.1\r\nhost: service\r\n\r\n").try_answer(false);
    assert!(answer.as_ref().is_none_or(|answer| answer.status == 502 || !answer.complete), "{answer:?}");
    run(async {
        let mut client = Client::connect(tidegate.address).await;
        let answer = client.ask(get("/"), b"").await;
        assert!(answer.is_err() || answer.is_ok_and(|answer| answer.status == 502));
    });
}

#[test]
fn a_backend_without_room_is_late_not_broken() {
    let backend = frames(&[(INITIAL_WINDOW_SIZE, 0)], |frames| while frames.read().is_some() {});
    let tidegate = Tidegate::start_whole(&before(&backend.url(), ", timeouts: { response: 300ms }"));
    let asked = "POST / HTTP/1.1\r\nhost: service\r\ncontent-length: 5\r\n\r\nhello";
    assert_eq!(tidegate.tell(asked).status, 504);
    let series = "tidegate_upstream_failures_total{rollout=\"\",side=\"\",cause=\"response_timeout\"}";
    assert_eq!(tidegate.metric(series), 1.0);
}

#[test]
fn a_backend_may_answer_and_then_say_that_it_wants_no_more() {
    let backend = frames(&[], |frames| {
        while let Some(head) = frames.read_until(HEADERS) {
            frames.write(&Frame::new(HEADERS, END_HEADERS, head.stream, [0x88]));
            frames.write(&Frame::new(DATA, END_STREAM, head.stream, *b"enough"));
            frames.reset(head.stream, Reason::NO_ERROR);
        }
    });
    let tidegate = Tidegate::start_whole(&before(&backend.url(), ""));
    let asked = "POST / HTTP/1.1\r\nhost: service\r\ncontent-length: 1000000\r\n\r\nbegun";
    let answer = tidegate.tell(asked);
    assert_eq!((answer.status, answer.text().as_str(), answer.complete), (200, "enough", true));
    run(async {
        let mut client = Client::connect(tidegate.address).await;
        let (response, mut upload) = client.begin(request(Method::POST, "/", &[]), false).await;
        http2::send(&mut upload, "begun".into(), false).await.unwrap();
        assert_eq!(http2::read(response.await.unwrap()).await.unwrap().text(), "enough");
    });
}

#[test]
fn sides_of_different_versions_are_split_as_any_others() {
    let old = Backend::named("old");
    let new = http2::Backend::doing(|mut exchange: Exchange| async move {
        let answer = Response::builder().header("x-seen", exchange.head.headers["x-tidegate-side"].clone());
        let mut stream = exchange.respond.send_response(answer.body(()).unwrap(), false).unwrap();
        http2::send(&mut stream, "new".into(), true).await.unwrap();
    });
    let tidegate = Tidegate::start(&format!(
        "backends:\n  stable: {{ endpoints: [\"{}\"] }}\n  canary: {}\n\
         rollout: {{ old: stable, new: canary, key: \"header:x-user-id\", percent: 50 }}\n",
        old.url(),
        new.config()
    ));
    let answers: Vec<String> = (30..70).map(|user| tidegate.client().get_as(user).text()).collect();
    assert!(answers.iter().any(|side| side == "old") && answers.iter().any(|side| side == "new"));
}
