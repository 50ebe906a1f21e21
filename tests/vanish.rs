//! Peers that vanish: no end comes from them, nor anything else, and nothing that is sent to them is confirmed.
//!
//! Nobody can know at once. Each story begins all its cases together, and waits for as long as the slowest of them takes.

use std::io::Read as _;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use tidegate::metrics::{Class, Why};
use tidegate::policy::decision::{Reason, Side};

use crate::support::backend::{Connection, ok};
use crate::support::fault::{Fault, Line, Way};
use crate::support::frames::{Frame, Framed, HEADERS, SETTINGS};
use crate::support::{Backend, Client, Plane, Tidegate, eventually, within};
use crate::websocket::{agreeable, asking, echo};

/// By then everybody knows.
const MINUTE: Duration = Duration::from_secs(60);

/// A short text in a frame, masked by nothing.
const FRAME: &[u8] = b"\x81\x85\0\0\0\0hello";

fn vanish(line: &Line) {
    line.at(Way::There, 0, Fault::Vanish).at(Way::Back, 0, Fault::Vanish);
}

// -- tunnels

/// A tunnel on NEW, over lines that are good for now.
struct Tunnel {
    plane: Plane,
    to_backend: Line,
    to_tidegate: Line,
    new: Backend,
    _old: Backend,
}

impl Tunnel {
    /// To a backend that speaks HTTP/1.1.
    fn to(new: Backend) -> Self {
        let to_backend = Line::to(new.address);
        Self::over(to_backend, new, "http1")
    }

    /// The same over a line that leads there, on which `protocol` is spoken.
    fn over(to_backend: Line, new: Backend, protocol: &str) -> Self {
        let old = Backend::named("old");
        let plane = Plane::start(
            &format!(
                "backends:\n  v1: {{ endpoints: [\"{}\"] }}\n  v2: {{ endpoints: [\"{}\"], protocol: {protocol} }}\n\
                 rollout: {{ old: v1, new: v2, key: header:x-user-id, percent: 100 }}\n",
                old.url(),
                to_backend.url()
            ),
            &[],
        );
        let to_tidegate = Line::to(plane.address);
        Self { plane, to_backend, to_tidegate, new, _old: old }
    }

    /// A client of it, once both sides have said something.
    fn client(&self) -> Client {
        let mut client = Client::connect(self.to_tidegate.address);
        client.stream.set_read_timeout(Some(MINUTE)).unwrap();
        assert_eq!(client.send(asking("")).answer().status, 101);
        assert_eq!(client.send(FRAME).bytes(FRAME.len()), FRAME);
        client
    }

    /// A client that has a stream of HTTP/2 for it.
    fn client_of_http2(&self) -> Framed {
        let mut client = Framed::connect(self.to_tidegate.address, &[]);
        client.until(|frame| frame.kind == SETTINGS).unwrap();
        let head = [
            (":method", "CONNECT"),
            (":protocol", "websocket"),
            (":scheme", "http"),
            (":path", "/chat"),
            (":authority", "service"),
            ("sec-websocket-version", "13"),
            ("x-user-id", "7"),
        ];
        client.send(&Frame::headers(1, 0, &head));
        client.until(|frame| frame.kind == HEADERS).unwrap();
        client
    }

    /// Waits until it has ended, and the backend has heard of that.
    #[track_caller]
    fn ends_for_want_of_a_client(&self) {
        self.ends_as(Class::Aborted);
        eventually("the backend is rid of it", || self.new.open_connections() == 0);
    }

    /// Waits until it has ended.
    #[track_caller]
    fn ends_as(&self, class: Class) {
        let meters = self.plane.meters();
        within(MINUTE, "nothing is in flight", || meters.side(Side::New).inflight() == 0);
        assert_eq!(meters.side(Side::New).requests(Why::Decided(Reason::Bucket), class), 1);
    }
}

#[test]
fn a_tunnel_ends_within_a_minute_when_its_client_or_its_backend_has_vanished() {
    thread::scope(|cases| {
        for case in [
            client_that_is_silent,
            client_that_is_spoken_to,
            client_with_a_stream,
            backend_that_is_silent,
            backend_that_is_spoken_to,
            backend_with_a_stream,
        ] {
            cases.spawn(case);
        }
    });
}

fn client_that_is_silent() {
    let tunnel = Tunnel::to(echo());
    let _client = tunnel.client();
    vanish(&tunnel.to_tidegate);
    tunnel.ends_for_want_of_a_client();
}

fn client_that_is_spoken_to() {
    let tunnel = Tunnel::to(agreeable(|connection: &mut Connection| {
        let first = connection.bytes(FRAME.len());
        connection.write(&first);
        connection.read_exactly(1); // the client's last word: it has gone now
        connection.write(FRAME);
        while connection.read_more().is_some() {}
    }));
    let mut client = tunnel.client();
    tunnel.to_tidegate.at(Way::There, (asking("").len() + FRAME.len()) as u64 + 1, Fault::Vanish);
    client.send("!");
    tunnel.ends_for_want_of_a_client();
}

fn client_with_a_stream() {
    let tunnel = Tunnel::to(echo());
    let _client = tunnel.client_of_http2();
    vanish(&tunnel.to_tidegate);
    tunnel.ends_for_want_of_a_client();
}

fn backend_that_is_silent() {
    let tunnel = Tunnel::to(echo());
    let mut client = tunnel.client();
    vanish(&tunnel.to_backend);
    assert_eq!(client.read_to_end(), b"", "the end of the connection tells it");
    tunnel.ends_as(Class::Error);
}

fn backend_that_is_spoken_to() {
    let tunnel = Tunnel::to(echo());
    let mut client = tunnel.client();
    vanish(&tunnel.to_backend);
    assert_eq!(client.send(FRAME).read_to_end(), b"", "what it said is lost");
    tunnel.ends_as(Class::Error);
}

fn backend_with_a_stream() {
    let echo = echo();
    let behind = before(&echo.address, "http1");
    let tunnel = Tunnel::over(Line::to(behind.address), echo, "h2");
    let mut client = tunnel.client();
    vanish(&tunnel.to_backend);
    assert_eq!(client.read_to_end(), b"", "the end of the connection tells it");
    tunnel.ends_as(Class::Error);
}

// -- requests over HTTP/2

/// Does not answer what is asked for `/hang`.
fn hanging() -> Backend {
    Backend::scripted(|connection: &mut Connection| {
        while let Some(request) = connection.read_request() {
            if request.target == "/hang" {
                while connection.read_more().is_some() {}
                return;
            }
            connection.write(&ok(&[], b"here"));
        }
    })
}

/// One worker, so that all requests share a connection, before a server that may take its time.
fn before(address: &SocketAddr, protocol: &str) -> Tidegate {
    Tidegate::start_whole(&format!(
        "listen: 127.0.0.1:0\nadmin: {{ address: 127.0.0.1:0 }}\nworkers: 1\n\
         shutdown: {{ readiness_delay: 0s, drain_timeout: 2s }}\nroutes: [{{ backend: only }}]\nbackends:\n  \
         only: {{ endpoints: ['http://{address}'], protocol: {protocol}, timeouts: {{ response: 5m, idle: 5m }} }}\n"
    ))
}

/// Whether a client that waits for no more than a second is answered in that.
fn is_answered(tidegate: &Tidegate) -> bool {
    let mut client = tidegate.client();
    client.stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    client.send("GET / HTTP/1.1\r\nhost: service\r\n\r\n");
    let mut status = [0; 12];
    client.stream.read_exact(&mut status).is_ok_and(|()| status == *b"HTTP/1.1 200")
}

#[test]
fn requests_over_http_2_end_within_a_minute_and_others_go_another_way_at_once() {
    thread::scope(|cases| {
        for case in [requests_of_a_client, requests_to_a_backend, requests_to_a_backend_after_a_rest] {
            cases.spawn(case);
        }
    });
}

fn requests_of_a_client() {
    let backend = hanging();
    let tidegate = before(&backend.address, "http1");
    let line = Line::to(tidegate.address);
    let mut client = Framed::connect(line.address, &[]);
    client.send(&Frame::get(1, "/hang"));
    eventually("it runs", || backend.requests().len() == 1);
    vanish(&line);
    within(MINUTE, "the backend is rid of it", || backend.open_connections() == 0);
    let aborted = "tidegate_requests_total{rollout=\"\",side=\"\",reason=\"backend\",code_class=\"aborted\"}";
    eventually("it was the client's doing", || tidegate.metric(aborted) == 1.0);
}

fn requests_to_a_backend() {
    let backend = hanging();
    let behind = before(&backend.address, "http1");
    let line = Line::to(behind.address);
    let tidegate = before(&line.address, "h2");
    let mut running = tidegate.client();
    running.stream.set_read_timeout(Some(MINUTE)).unwrap();
    running.send("GET /hang HTTP/1.1\r\nhost: service\r\n\r\n");
    eventually("it runs", || backend.requests().len() == 1);
    vanish(&line);
    others_go_another_way(&tidegate, &line);
    assert_eq!(running.answer().status, 502);
}

fn requests_to_a_backend_after_a_rest() {
    let backend = hanging();
    let behind = before(&backend.address, "http1");
    let line = Line::to(behind.address);
    let tidegate = before(&line.address, "h2");
    assert!(is_answered(&tidegate));
    vanish(&line);
    others_go_another_way(&tidegate, &line);
}

/// The only connection there is has just died, and there might be others.
#[track_caller]
fn others_go_another_way(tidegate: &Tidegate, line: &Line) {
    eventually("it is as dead as it can be", || !is_answered(tidegate));
    assert_eq!(line.connections(), 1);
    line.mend();
    let begun = Instant::now();
    eventually("somebody finds another one", || is_answered(tidegate));
    assert!(begun.elapsed() < Duration::from_secs(12), "{:?}", begun.elapsed());
    assert!((0..20).all(|_| is_answered(tidegate)), "and then all do");
    assert_eq!(line.connections(), 2);
}
