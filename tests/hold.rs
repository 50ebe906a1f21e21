//! Requests wait instead of being turned away, and lose nothing by it but time.

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use tidegate::metrics::{Class, Why};
use tidegate::policy::bucket::Percent;
use tidegate::policy::decision::Side;
use tidegate::policy::rollout::Override;
use tidegate::snapshot::Scope;

use crate::support::backend::ok;
use crate::support::plane::{maintenance, somebody};
use crate::support::proxy::{PREAMBLE, split};
use crate::support::{Backend, Client, Plane, Tidegate, eventually};

fn plane(old: &Backend, new: &Backend, more: &str) -> Plane {
    Plane::start(&format!("{}{more}", split(old, new, "0", "")), &[])
}

/// A client that has asked and waits.
fn asking(plane: &Plane, request: &str) -> Client {
    let mut client = plane.client();
    client.send(request);
    client
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: service\r\nx-user-id: 7\r\n\r\n")
}

#[test]
fn a_second_under_traffic_loses_nobody() {
    let backend = Backend::named("any");
    let mut plane = plane(&backend, &backend, "");
    let address = plane.address;
    let stop = Arc::new(Mutex::new(false));
    let clients: Vec<_> = (0..8)
        .map(|user| {
            let stop = Arc::clone(&stop);
            thread::spawn(move || {
                let mut client = Client::connect(address);
                let mut served = 0;
                while !*stop.lock().unwrap() {
                    assert_eq!(client.get_as(user).status, 200);
                    served += 1;
                }
                served
            })
        })
        .collect();
    let queue = plane.hold();
    eventually("all of them wait", || queue.waiting() == 8);
    thread::sleep(Duration::from_secs(1)); // the second of the story
    assert_eq!(queue.waiting(), 8, "nobody gets impatient");
    let before = backend.requests().len();
    queue.open();
    plane.publish(|overlay| overlay.queues.clear());
    eventually("all of them go on", || queue.released() >= 8);
    eventually("traffic goes on", || backend.requests().len() > before + 8);
    *stop.lock().unwrap() = true;
    let served: usize = clients.into_iter().map(|client| client.join().unwrap()).sum();
    assert_eq!(served, backend.requests().len());
}

#[test]
fn they_go_on_in_the_order_in_which_they_came() {
    let order = Arc::new(Mutex::new(Vec::new()));
    let backend = Backend::answering({
        let order = Arc::clone(&order);
        move |request| {
            order.lock().unwrap().push(request.target.clone());
            ok(&[], b"")
        }
    });
    let mut plane = plane(&backend, &backend, "");
    let queue = plane.hold();
    let mut clients: Vec<Client> = (0..20)
        .map(|nth| {
            let client = asking(&plane, &get(&format!("/{nth}")));
            eventually("it waits", || queue.waiting() == nth + 1);
            client
        })
        .collect();
    for (nth, client) in clients.iter_mut().enumerate() {
        assert_eq!(order.lock().unwrap().len(), nth);
        queue.release(1);
        assert_eq!(client.answer().status, 200);
    }
    assert_eq!(*order.lock().unwrap(), (0..20).map(|nth| format!("/{nth}")).collect::<Vec<_>>());
}

#[test]
fn what_was_switched_behind_the_hold_is_what_they_find() {
    let (old, new) = (Backend::named("old"), Backend::named("new"));
    let mut plane = plane(&old, &new, "");
    let queue = plane.hold();
    let mut client = asking(&plane, &get("/"));
    eventually("it waits", || queue.waiting() == 1);
    plane.publish(|overlay| {
        let state = overlay.rollouts.entry("default".to_owned()).or_default();
        state.overridden = Some(Override {
            percent: Percent::FULL,
            over: Percent::ZERO,
            at: std::time::SystemTime::now(),
            by: somebody(),
            reason: String::new(),
        });
    });
    assert_eq!(plane.snapshot().rollouts[0].effective(), Percent::FULL, "{}", plane.snapshot().rollouts[0].name);
    queue.release(1);
    assert_eq!(client.answer().text(), "new");
    assert_eq!(old.connections(), 0);
    assert_eq!(plane.meters().side(Side::Old).total(), 0);
    eventually("it is in the log with its wait", || plane.log().iter().any(|line| line["held_ms"].is_number()));
}

#[test]
fn maintenance_behind_the_hold_is_found_too() {
    let backend = Backend::named("any");
    let mut plane = plane(&backend, &backend, "");
    let queue = plane.hold();
    let mut client = asking(&plane, &get("/"));
    eventually("it waits", || queue.waiting() == 1);
    plane.maintain(maintenance());
    assert_eq!(plane.client().get("/", &[]).status, 503, "maintenance wins");
    queue.open();
    assert_eq!(client.answer().status, 503);
    assert_eq!(backend.connections(), 0);
}

#[test]
fn two_queues_are_waited_in_one_after_the_other() {
    let backend = Backend::named("any");
    let mut plane = plane(&backend, &backend, "");
    let outer = plane.hold();
    let name = plane.snapshot().rollouts[0].name.clone();
    let inner = {
        let limits = tidegate::config::HoldLimits {
            max_wait: Duration::from_secs(20),
            max_requests: 9,
            max_bytes: 1 << 20,
            release_rate: 1,
        };
        Arc::new(tidegate::hold::Queue::new(&limits, limits.max_wait))
    };
    plane.publish(|overlay| drop(overlay.queues.insert(Scope::Rollout(name), Arc::clone(&inner))));
    let mut client = asking(&plane, &get("/"));
    eventually("it waits outside", || outer.waiting() == 1);
    outer.release(1);
    eventually("it waits inside", || inner.waiting() == 1);
    assert_eq!(outer.waiting(), 0);
    inner.release(1);
    assert_eq!(client.answer().status, 200);
}

#[test]
fn whom_there_is_no_room_for_hears_it_at_once() {
    let backend = Backend::named("any");
    let mut plane = plane(&backend, &backend, "hold: { max_requests: 2 }\n");
    let queue = plane.hold();
    let mut waiting: Vec<Client> = (0..2).map(|_| asking(&plane, &get("/"))).collect();
    eventually("both wait", || queue.waiting() == 2);
    let asked = Instant::now();
    let answer = plane.client().get_as(7);
    assert!(asked.elapsed() < Duration::from_secs(2));
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("60")));
    assert_eq!(answer.header("proxy-status"), Some("tidegate; error=destination_unavailable"));
    eventually("it is counted", || plane.meters().turned_away().requests(Why::Hold, Class::ServerError) == 1);
    queue.open();
    waiting.iter_mut().for_each(|client| assert_eq!(client.answer().status, 200));
}

#[test]
fn nobody_waits_longer_than_the_longest_wait() {
    let backend = Backend::named("any");
    let mut plane = plane(&backend, &backend, "hold: { max_wait: 1s }\n");
    let queue = plane.hold();
    let asked = Instant::now();
    let mut client = plane.client();
    assert_eq!(client.get_as(7).status, 503);
    assert!(asked.elapsed() >= Duration::from_millis(990));
    assert_eq!(queue.waiting(), 0);
    queue.open();
    assert_eq!(client.get_as(7).status, 200, "the connection goes on");
}

#[test]
fn a_client_that_leaves_frees_its_place() {
    let backend = Backend::named("any");
    let mut plane = plane(&backend, &backend, "hold: { max_wait: 60s }\n");
    let queue = plane.hold();
    let head = "host: service\r\nx-user-id: 7\r\n";
    let unread = format!("POST / HTTP/1.1\r\n{head}content-length: 10000000\r\n\r\n{}", "x".repeat(100_000));
    for (what, request) in [
        ("a request without a body", get("/")),
        ("a body that has not come", format!("POST / HTTP/1.1\r\n{head}content-length: 100\r\n\r\n")),
        ("a body that is all there", format!("POST / HTTP/1.1\r\n{head}content-length: 5\r\n\r\nhello")),
        ("a body that nobody reads", unread),
        ("a request with another behind it", format!("{}{}", get("/1"), get("/2"))),
    ] {
        for resets in [false, true] {
            let client = asking(&plane, &request);
            eventually("it waits", || queue.waiting() == 1);
            if resets {
                socket2::SockRef::from(&client.stream).set_linger(Some(Duration::ZERO)).unwrap();
            }
            drop(client);
            let left = Instant::now();
            eventually("its place is free", || queue.waiting() == 0);
            assert!(left.elapsed() < Duration::from_secs(2), "{what}: {:?}", left.elapsed());
        }
    }
    let aborted =
        || plane.meters().side(Side::Old).total() + plane.registry.unsplit().requests(Why::Refused, Class::Aborted);
    eventually("all of them are counted as gone", || aborted() == 10);
    assert_eq!(backend.connections(), 0);
}

#[test]
fn a_body_waits_with_its_request_and_arrives_whole() {
    let backend = Backend::answering(|request| ok(&[], request.body.len().to_string().as_bytes()));
    let mut plane = plane(&backend, &backend, "");
    let queue = plane.hold();
    let mut client = plane.client();
    let length = 300_000;
    client.send(format!("POST / HTTP/1.1\r\nhost: service\r\nx-user-id: 7\r\ncontent-length: {length}\r\n\r\n"));
    let mut sender = client.stream.try_clone().unwrap();
    let sending = thread::spawn(move || std::io::Write::write_all(&mut sender, &vec![b'x'; length]).unwrap());
    eventually("it waits", || queue.waiting() == 1);
    thread::sleep(Duration::from_millis(1200)); // twice a second it is seen whether a client that waits has left
    queue.release(1);
    assert_eq!(client.answer().text(), length.to_string());
    sending.join().unwrap();
}

#[test]
fn the_backends_time_begins_when_the_wait_is_over() {
    let backend = Backend::named("any");
    let config = format!(
        "backends: {{ only: {{ endpoints: ['{}'], timeouts: {{ response: 500ms }} }} }}\n\
         routes: [ {{ match: {{}}, backend: only }} ]\n",
        backend.url()
    );
    let mut plane = Plane::start(&config, &[]);
    let queue = plane.hold();
    let mut client = asking(&plane, &get("/"));
    eventually("it waits", || queue.waiting() == 1);
    thread::sleep(Duration::from_millis(800)); // longer than the backend has
    queue.release(1);
    assert_eq!(client.answer().status, 200);
}

#[test]
fn a_process_that_leaves_waits_for_those_who_wait() {
    let backend = Backend::named("any");
    let mut plane = plane(&backend, &backend, "");
    let queue = plane.hold();
    let mut client = asking(&plane, &get("/"));
    eventually("it waits", || queue.waiting() == 1);
    let mut others = [plane.client(), plane.client()];
    plane.leave();
    assert!(others.iter_mut().all(Client::is_closed), "who has not asked is not waited for, by any worker");
    assert_eq!(queue.waiting(), 1);
    queue.open();
    let answer = client.answer();
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
}

#[test]
fn the_balancer_does_not_wait() {
    let backend = Backend::named("any");
    let mut plane = plane(&backend, &backend, "maintenance: { health_paths: [/healthz] }\n");
    let _queue = plane.hold();
    assert_eq!(plane.client().get("/healthz", &[]).status, 200);
    assert_eq!(backend.connections(), 0);
}

/// Turns the hold of everything on or off, as an operator does.
#[track_caller]
fn hold_everything(tidegate: &Tidegate, on: bool) {
    let admin = tidegate.admin.strip_prefix("http://").unwrap().parse().unwrap();
    let wish = serde_json::json!({ "on": on, "reason": "a story" });
    let answer = Client::connect(admin).order("POST", "/api/v1/hold", &wish);
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[test]
fn when_an_operator_ends_it_they_go_on_at_the_pace_of_the_config() {
    const RATE: usize = 40;
    let order_of_arrival = Arc::new(Mutex::new(Vec::new()));
    let backend = Backend::answering({
        let order_of_arrival = Arc::clone(&order_of_arrival);
        move |request| {
            order_of_arrival.lock().unwrap().push(request.target.clone());
            ok(&[], b"")
        }
    });
    // One worker, of two one may be held up with all whose turn has come; and one connection, since of two one may overtake.
    let config = format!(
        "backends:\n  only: {{ endpoints: [\"{}\"], limits: {{ max_connections: 1, max_wait: 20s }} }}\n\
         routes: [{{ backend: only }}]\nhold: {{ release_rate: {RATE} }}\n",
        backend.url()
    );
    let tidegate = Tidegate::start_whole(&format!("{}{config}", PREAMBLE.replace("workers: 2", "workers: 1")));
    hold_everything(&tidegate, true);
    let mut clients: Vec<Client> = (0..RATE)
        .map(|nth| {
            let mut client = tidegate.client();
            client.send(get(&format!("/{nth}")));
            eventually("it waits", || tidegate.admin("/api/v1/status").json()["hold"]["waiting"] == nth + 1);
            client
        })
        .collect();
    assert_eq!(backend.connections(), 0);
    let ended = Instant::now();
    hold_everything(&tidegate, false);
    clients.iter_mut().for_each(|client| assert_eq!(client.answer().status, 200));
    let took = ended.elapsed();
    assert!(took > Duration::from_millis(800), "at {RATE} a second {RATE} take a second: {took:?}");
    let in_order: Vec<String> = (0..RATE).map(|nth| format!("/{nth}")).collect();
    assert_eq!(*order_of_arrival.lock().unwrap(), in_order);
    let answered = Instant::now();
    assert_eq!(tidegate.client().get_as(7).status, 200);
    assert!(answered.elapsed() < Duration::from_secs(1), "nobody waits any more");
}
