//! Backends that speak HTTP/2: connections that are shared, and streams that a backend does not want.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use h2::Reason;
use http::{Method, Response};
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
    let backend = Backend::named("old");
    let tidegate = Tidegate::start_whole(&before(&Backend::saying("HTTP/1.1 400 Bad Request\r\n\r\n").url(), ""));
    let since = Instant::now();
    assert_eq!(tidegate.client().get("/", &[]).status, 502);
    assert!(since.elapsed() < Duration::from_secs(1));
    drop(backend);
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
