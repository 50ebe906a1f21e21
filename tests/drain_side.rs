//! A side is emptied: nobody new goes there, what runs is watched, and what runs too long is cut off.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, SystemTime};

use tidegate::control::gate;
use tidegate::metrics::{Class, Why};
use tidegate::policy::decision::{Reason, Side};
use tidegate::policy::drain::Drain;

use crate::support::backend::ok;
use crate::support::plane::somebody;
use crate::support::proxy::split;
use crate::support::{Backend, Client, Plane, dead_address, eventually};

fn drain(plane: &mut Plane, side: Side, cut_in: Option<Duration>) {
    let name = plane.snapshot().rollouts[0].name.clone();
    plane.publish(|overlay| {
        overlay.rollouts.entry(name).or_default().drain =
            Some(Drain { side, cut_in, at: SystemTime::now(), by: somebody(), reason: String::new() });
    });
}

/// A backend that answers `/slow` when it is told to.
fn patient() -> (Backend, mpsc::Sender<()>) {
    let (go, may_go) = mpsc::channel::<()>();
    let may_go = Mutex::new(may_go);
    let backend = Backend::answering(move |request| {
        if request.target == "/slow" {
            let _dropped_if_the_story_fails = may_go.lock().unwrap().recv();
        }
        ok(&[], b"new")
    });
    (backend, go)
}

/// A client whose request runs on NEW.
fn running(plane: &Plane, new: &Backend) -> Client {
    let mut client = plane.client();
    client.send("GET /slow HTTP/1.1\r\nhost: service\r\nx-user-id: 7\r\n\r\n");
    eventually("the request is running", || new.requests().iter().any(|request| request.target == "/slow"));
    client
}

#[test]
fn new_work_goes_to_the_other_side_and_running_work_ends() {
    let old = Backend::named("old");
    let (new, go) = patient();
    let mut plane = Plane::start(&split(&old, &new, "100", ""), &[]);
    let mut slow = running(&plane, &new);
    let address = plane.address;
    let stop = Arc::new(AtomicBool::new(false));
    let traffic = thread::spawn({
        let stop = Arc::clone(&stop);
        move || {
            let mut client = Client::connect(address);
            while !stop.load(SeqCst) {
                assert_eq!(client.get_as(8).status, 200);
            }
        }
    });
    drain(&mut plane, Side::New, None);
    assert_eq!(plane.client().get_as(7).text(), "old");
    let meters = plane.meters();
    eventually("its age is known", || {
        meters.oldest(tidegate::metrics::Seat::of(Side::New, false)).is_some_and(|age| age > Duration::from_millis(100))
    });
    assert_eq!(meters.oldest(tidegate::metrics::Seat::of(Side::Old, false)), None, "nobody asked for that");
    assert_eq!(meters.side(Side::New).inflight(), 1);
    go.send(()).unwrap();
    assert_eq!(slow.answer().status, 200);
    eventually("nothing runs", || {
        meters.oldest(tidegate::metrics::Seat::of(Side::New, false)).is_none() && meters.side(Side::New).inflight() == 0
    });
    stop.store(true, SeqCst);
    traffic.join().unwrap();
    assert!(meters.side(Side::Old).requests(Why::Decided(Reason::Drain), Class::Success) > 0);
    eventually("its unused connections are closed", || new.open_connections() == 0);
    assert!(old.open_connections() > 0, "those of the side that works are not");
}

#[test]
fn what_runs_too_long_is_cut_off() {
    let old = Backend::named("old");
    let (new, _go) = patient();
    let mut plane = Plane::start(&split(&old, &new, "100", ""), &[]);
    let mut slow = running(&plane, &new);
    drain(&mut plane, Side::New, Some(Duration::from_secs(60)));
    let mut other = plane.client();
    assert_eq!(other.get_as(7).text(), "old");
    drain(&mut plane, Side::New, Some(Duration::ZERO));
    assert_eq!(slow.try_answer(false), None, "its connection is gone");
    let meters = plane.meters();
    let cut = || meters.side(Side::New).requests(Why::Decided(Reason::Bucket), Class::Error);
    eventually("it counts as without an answer", || cut() == 1);
    assert_eq!(meters.side(Side::New).inflight(), 0);
    assert_eq!(other.get_as(7).text(), "old", "nobody else is hurt");
}

#[test]
fn an_answer_is_cut_off_in_the_middle() {
    let old = Backend::named("old");
    let new = Backend::scripted(|connection| {
        connection.read_request();
        connection.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n");
        connection.is_closed_by_peer();
    });
    let mut plane = Plane::start(&split(&old, &new, "100", ""), &[]);
    let mut client = plane.client();
    client.send("GET / HTTP/1.1\r\nhost: service\r\nx-user-id: 7\r\n\r\n");
    eventually("the answer has begun", || client.stream.peek(&mut [0; 400]).is_ok_and(|n| n > 50));
    drain(&mut plane, Side::New, Some(Duration::ZERO));
    let answer = client.answer();
    assert_eq!((answer.status, answer.complete), (200, false));
    eventually("the backend is rid of it", || new.open_connections() == 0);
}

fn look(plane: &Plane, backend: &str) -> Result<gate::Warmed, String> {
    let snapshot = plane.snapshot();
    let backend = snapshot.backends.iter().find(|found| found.name == backend).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(gate::look(backend, &plane.errands))
}

/// A plane whose backend `new` has these endpoints and is asked for its health.
fn gated(old: &Backend, endpoints: &[String], health: &str) -> Plane {
    let config = format!(
        "backends:\n  old: {{ endpoints: ['{}'] }}\n  new: {{ endpoints: {endpoints:?}{health} }}\n\
         rollouts: {{ r: {{ old: old, new: new, percent: 0, key: header:x-user-id }} }}\n\
         routes: [ {{ match: {{}}, rollout: r }} ]\n",
        old.url(),
    );
    Plane::start(&config, &[])
}

#[test]
fn a_backend_that_is_fit_is_warmed() {
    let (old, new) = (Backend::named("old"), Backend::named("new"));
    let plane = gated(&old, &[new.url()], ", health: { path: /healthz, timeout: 5s }");
    let warmed = look(&plane, "new").unwrap();
    assert_eq!((warmed.endpoints, warmed.wanted, warmed.opened), (1, 4, 4), "{warmed}");
    assert_eq!(new.requests().iter().filter(|request| request.target == "/healthz").count(), 1);
    eventually("they are open", || new.open_connections() >= 4);
}

#[test]
fn a_backend_that_is_not_fit_says_so() {
    let old = Backend::named("old");
    let ill = Backend::saying("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n");
    let well = Backend::named("new");
    let silent = Backend::scripted(|connection| {
        connection.is_closed_by_peer();
    });
    let dead = format!("http://{}", dead_address());
    let health = ", health: { path: /healthz, timeout: 300ms }";
    for (endpoint, health, said) in [
        (ill.url(), health, "answered GET /healthz with 503"),
        (silent.url(), health, "did not answer GET /healthz within 0.3 s"),
        (dead.clone(), health, "takes no connection: "),
        (dead, "", "takes no connection: "),
    ] {
        let plane = gated(&old, &[well.url(), endpoint.clone()], health);
        let error = look(&plane, "new").unwrap_err();
        let address = endpoint.trim_start_matches("http://");
        let expected = format!("backend new is not fit to serve: {address} {said}");
        assert!(error.starts_with(&expected), "{error}\nis not\n{expected}");
    }
}
