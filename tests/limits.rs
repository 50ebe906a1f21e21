//! A backend that gets no more at once than it is said to stand, from all workers together.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::support::backend::ok;
use crate::support::http2::{self, Exchange};
use crate::support::{Answer, Backend, Client, Tidegate, eventually};

const GET: &str = "GET / HTTP/1.1\r\nhost: service\r\n\r\n";

fn before(backend: &Backend, limits: &str) -> Tidegate {
    Tidegate::start(&format!(
        "backends:\n  only: {{ endpoints: [\"{}\"], timeouts: {{ idle: 60s }}, limits: {{ {limits} }} }}\n\
         routes:\n  - {{ backend: only }}\n",
        backend.url()
    ))
}

fn connections(tidegate: &Tidegate) -> f64 {
    tidegate.metric("tidegate_backend_connections{backend=\"only\"}")
}

fn pending(tidegate: &Tidegate) -> f64 {
    tidegate.metric("tidegate_backend_pending_requests{backend=\"only\"}")
}

/// A backend that answers nobody until it is told to.
struct Hesitant {
    backend: Backend,
    goes_on: Arc<AtomicBool>,
}

impl Hesitant {
    fn new() -> Self {
        let goes_on = Arc::new(AtomicBool::new(false));
        let may_go_on = Arc::clone(&goes_on);
        let backend = Backend::answering(move |_| {
            eventually("it is told to go on", || may_go_on.load(SeqCst));
            ok(&[], b"at last")
        });
        Self { backend, goes_on }
    }

    fn go_on(&self) {
        self.goes_on.store(true, SeqCst);
    }
}

#[track_caller]
fn assert_turned_away(answer: &Answer) {
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")), "{answer:?}");
    assert_eq!(answer.header("proxy-status"), Some("tidegate; error=connection_limit_reached"));
}

#[test]
fn no_more_connections_than_that_however_many_ask() {
    const CLIENTS: usize = 64;
    const LIMIT: usize = 3;
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (counted, at_most) = (Arc::clone(&now), Arc::clone(&most));
    let backend = Backend::answering(move |_| {
        at_most.fetch_max(counted.fetch_add(1, SeqCst) + 1, SeqCst);
        thread::sleep(Duration::from_millis(1)); // what an answer takes
        counted.fetch_sub(1, SeqCst);
        ok(&[], b"fine")
    });
    let tidegate = before(&backend, &format!("max_connections: {LIMIT}, max_wait: 20s"));
    let address = tidegate.address;
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            thread::spawn(move || {
                let mut client = Client::connect(address);
                (0..5).all(|_| client.get("/", &[]).status == 200)
            })
        })
        .collect();
    assert!(clients.into_iter().all(|client| client.join().unwrap()), "everybody is served");
    assert_eq!(most.load(SeqCst), LIMIT);
    assert!(connections(&tidegate) <= LIMIT as f64);
    assert_eq!(pending(&tidegate), 0.0);
    assert_eq!(tidegate.metric("tidegate_backend_max_connections{backend=\"only\"}"), LIMIT as f64);
}

#[test]
fn who_waits_is_served_when_a_connection_is_free() {
    let scene = Hesitant::new();
    let tidegate = before(&scene.backend, "max_connections: 1, max_wait: 20s");
    let mut clients: Vec<Client> = (0..4).map(|_| tidegate.client()).collect();
    clients[0].send(GET);
    eventually("the first one runs", || scene.backend.requests().len() == 1);
    for client in &mut clients[1..] {
        client.send(GET);
    }
    eventually("the others wait", || pending(&tidegate) == 3.0);
    assert_eq!(connections(&tidegate), 1.0);
    scene.go_on();
    clients.iter_mut().for_each(|client| assert_eq!(client.answer().text(), "at last"));
    assert_eq!((connections(&tidegate), pending(&tidegate)), (1.0, 0.0));
}

#[test]
fn who_leaves_waits_no_more() {
    let scene = Hesitant::new();
    let tidegate = before(&scene.backend, "max_connections: 1, max_wait: 2s");
    let mut first = tidegate.client();
    first.send(GET);
    eventually("the first one runs", || scene.backend.requests().len() == 1);
    let mut second = tidegate.client();
    second.send(GET);
    eventually("another one waits", || pending(&tidegate) == 1.0);
    drop(second);
    eventually("it is gone", || pending(&tidegate) == 0.0);
    scene.go_on();
    assert_eq!(first.answer().text(), "at last");
    assert_eq!(tidegate.client().send(GET).answer().status, 200);
}

#[test]
fn who_finds_no_room_to_wait_is_turned_away_at_once() {
    let scene = Hesitant::new();
    let tidegate = before(&scene.backend, "max_connections: 1, max_pending: 1, max_wait: 20s");
    let mut clients: Vec<Client> = (0..2).map(|_| tidegate.client()).collect();
    clients[0].send(GET);
    eventually("the first one runs", || scene.backend.requests().len() == 1);
    clients[1].send(GET);
    eventually("the second one waits", || pending(&tidegate) == 1.0);
    assert_turned_away(&tidegate.client().send(GET).answer());
    scene.go_on();
    clients.iter_mut().for_each(|client| assert_eq!(client.answer().status, 200));
    let failures = "tidegate_upstream_failures_total{rollout=\"\",side=\"\",cause=\"backend_limit\"}";
    assert_eq!(tidegate.metric(failures), 1.0);
}

#[test]
fn who_has_waited_for_long_enough_is_turned_away() {
    let scene = Hesitant::new();
    let tidegate = before(&scene.backend, "max_connections: 1, max_wait: 200ms");
    let mut first = tidegate.client();
    first.send(GET);
    eventually("the first one runs", || scene.backend.requests().len() == 1);
    let begun = Instant::now();
    assert_turned_away(&tidegate.client().send(GET).answer());
    assert!(begun.elapsed() >= Duration::from_millis(200));
    scene.go_on();
    assert_eq!(first.answer().status, 200);
}

#[test]
fn a_worker_gives_up_what_it_does_not_use_for_one_that_needs_it() {
    let backend = Backend::named("only");
    let tidegate = before(&backend, "max_connections: 1, max_wait: 20s");
    // Clients are spread evenly: each is served by a worker of its own.
    let mut clients: Vec<Client> = (0..2).map(|_| tidegate.client()).collect();
    let begun = Instant::now();
    for _ in 0..5 {
        clients.iter_mut().for_each(|client| assert_eq!(client.get("/", &[]).text(), "only"));
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_eq!(backend.connections(), 10, "the only connection went to and fro");
    assert_eq!(connections(&tidegate), 1.0);
}

/// Two workers, one connection, and one of the workers is asked without a pause: what it is done with goes to whoever has
/// waited for longest.
#[test]
fn a_busy_worker_starves_no_other() {
    let backend = Backend::named("only");
    let tidegate = before(&backend, "max_connections: 1, max_wait: 2s");
    // Clients are spread evenly, in the order in which they come: every other one asks now and then.
    let clients: Vec<_> = (0..8)
        .map(|nth| {
            let mut client = tidegate.client();
            let asks = if nth % 2 == 0 { 400 } else { 40 };
            thread::spawn(move || (0..asks).all(|_| client.get("/", &[]).status == 200))
        })
        .collect();
    assert!(clients.into_iter().all(|client| client.join().unwrap()), "nobody is turned away");
    assert_eq!(connections(&tidegate), 1.0);
}

#[test]
fn a_reload_changes_the_limit_for_those_who_wait() {
    let scene = Hesitant::new();
    let config = |limit: usize| {
        format!(
            "backends:\n  only: {{ endpoints: [\"{}\"], limits: {{ max_connections: {limit}, max_wait: 20s }} }}\n\
             routes:\n  - {{ backend: only }}\n",
            scene.backend.url()
        )
    };
    let tidegate = Tidegate::start(&config(1));
    let mut clients: Vec<Client> = (0..4).map(|_| tidegate.client()).collect();
    for client in &mut clients {
        client.send(GET);
    }
    eventually("three wait", || pending(&tidegate) == 3.0 && scene.backend.requests().len() == 1);
    tidegate.edit(&config(3));
    eventually("one waits", || pending(&tidegate) == 1.0 && scene.backend.requests().len() == 3);
    scene.go_on();
    clients.iter_mut().for_each(|client| assert_eq!(client.answer().status, 200));
}

#[test]
fn what_tidegate_does_not_let_through_is_no_failure_of_new() {
    let old = Backend::named("old");
    let new = Hesitant::new();
    let tidegate = Tidegate::start(&format!(
        "backends:\n  v1: {{ endpoints: [\"{}\"] }}\n  v2: {{ endpoints: [\"{}\"], limits: {{ max_connections: 1, max_pending: 0 }} }}\n\
         rollout: {{ old: v1, new: v2, key: header:x-user-id, percent: 100 }}\n",
        old.url(),
        new.backend.url()
    ));
    let mut stuck = tidegate.client();
    stuck.send("GET / HTTP/1.1\r\nhost: service\r\nx-user-id: 1\r\n\r\n");
    eventually("it runs", || new.backend.requests().len() == 1);
    let mut client = tidegate.client();
    for user in 0..300 {
        assert_turned_away(&client.get_as(user));
    }
    let failures = "tidegate_upstream_failures_total{rollout=\"default\",side=\"new\",cause=\"backend_limit\"}";
    assert_eq!(tidegate.metric(failures), 300.0);
    let status = tidegate.admin("/api/v1/rollouts/default").json();
    assert_eq!(status["guard"]["verdict"], "healthy", "{status}");
    assert_eq!(status["rollback"]["active"], false);
    assert_eq!(status["sides"]["new"]["connections"], 1);
    assert_eq!(status["sides"]["new"]["max_connections"], 1);
    new.go_on();
    assert_eq!(stuck.answer().status, 200);
}

// -- connections that many requests share

/// A backend of HTTP/2 with room for so many streams on a connection. It takes a moment for each answer.
fn over_http2(streams: u32) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    let serve = async move {
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        while let Ok((stream, _)) = listener.accept().await {
            counted.fetch_add(1, SeqCst);
            tokio::spawn(async move {
                let handshake =
                    h2::server::Builder::new().max_concurrent_streams(streams).handshake::<_, Bytes>(stream);
                let Ok(mut connection) = handshake.await else { return };
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    tokio::spawn(async move {
                        tokio::time::sleep(Duration::from_millis(2)).await; // what an answer takes
                        let _it_may_be_gone = respond.send_response(http::Response::new(()), true);
                    });
                }
            });
        }
    };
    thread::spawn(|| tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(serve));
    (address, connections)
}

#[test]
fn what_is_shared_counts_once_and_who_finds_no_stream_waits_for_one() {
    let (address, connections) = over_http2(4);
    let tidegate = Tidegate::start(&format!(
        "backends:\n  only: {{ endpoints: [\"http://{address}\"], protocol: h2, health: {{ path: /healthz }}, \
         timeouts: {{ connect: 20s }}, limits: {{ max_connections: 2, max_wait: 20s }} }}\n\
         routes:\n  - {{ backend: only }}\n",
    ));
    let healthy = format!("tidegate_endpoint_healthy{{backend=\"only\",endpoint=\"{address}\"}}");
    eventually("it is asked whether it is well", || connections.load(SeqCst) > 0);
    let front = tidegate.address;
    let clients: Vec<_> = (0..32)
        .map(|_| {
            thread::spawn(move || {
                let mut client = Client::connect(front);
                (0..5).all(|_| client.get("/", &[]).status == 200)
            })
        })
        .collect();
    let is_served: Vec<bool> = clients.into_iter().map(|client| client.join().unwrap()).collect();
    assert!(is_served.iter().all(|served| *served), "{is_served:?}");
    assert!(self::connections(&tidegate) <= 2.0);
    assert_eq!(tidegate.metric(&healthy), 1.0);
}

/// What a worker's streams share cannot go to another one while they run.
#[test]
fn with_fewer_shared_connections_than_workers_one_waits_for_the_streams_of_the_other() {
    let backend = http2::Backend::doing(|exchange: Exchange| async move {
        if exchange.head.uri.path() == "/long" {
            std::future::pending::<()>().await;
        }
        exchange.answer("only").await;
    });
    let tidegate = Tidegate::start(&format!(
        "backends:\n  only: {{ endpoints: [\"http://{}\"], protocol: h2, limits: {{ max_connections: 1, max_wait: 300ms }} }}\n\
         routes:\n  - {{ backend: only }}\n",
        backend.address
    ));
    // Spread evenly: two on each worker.
    let mut clients: Vec<Client> = (0..4).map(|_| tidegate.client()).collect();
    clients[0].send("GET /long HTTP/1.1\r\nhost: service\r\n\r\n");
    eventually("it runs", || backend.heads().len() == 1);
    let answers: Vec<Answer> = clients[1..].iter_mut().map(|client| client.send(GET).answer()).collect();
    let (served, turned_away): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status == 200);
    assert_eq!(served.len(), 1, "on the worker whose connection it is");
    turned_away.iter().for_each(assert_turned_away);
    drop(clients.remove(0));
    for client in &mut clients {
        eventually("each has its turn", || client.send(GET).answer().status == 200);
    }
}
