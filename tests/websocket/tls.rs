//! The same over TLS, on either side.

use std::sync::Arc;
use std::sync::mpsc::channel;

use rustls::{ServerConnection, Stream};
use serde_json::{Value, json};
use tidegate::app::Signal;

use super::{GOING_AWAY, agrees, frame, send_back, tunnelled};
use crate::support::backend::Connection;
use crate::support::foreign::Server;
use crate::support::tls::{Authority, Caller, connect, server};
use crate::support::{Backend, Client, Tidegate};

/// TLS on both sides of tidegate, and a backend that agrees to WebSocket and then does what it does.
struct Scene {
    authority: Authority,
    tidegate: Tidegate,
    _backend: Backend,
}

impl Scene {
    fn with(drain_timeout: &str, script: impl Fn(&mut Connection) + Send + Sync + 'static) -> Self {
        let authority = Authority::new("test");
        let issued = authority.issue(&["localhost"]);
        let tls = server(&issued, None);
        let backend = Backend::scripted(move |connection| {
            connection.tls = Some(Box::new(ServerConnection::new(Arc::clone(&tls)).unwrap()));
            if agrees(connection) {
                script(connection);
            }
        });
        let dir = tempfile::tempdir().unwrap();
        issued.put(dir.path(), "a");
        std::fs::write(dir.path().join("ca.pem"), authority.pem()).unwrap();
        let path = dir.path().join("tidegate.yaml");
        let config = format!(
            "listeners: [{{ address: 127.0.0.1:0, tls: {{ certificate: a.crt, key: a.key }} }}]\n\
             admin: {{ address: 127.0.0.1:0 }}\nworkers: 1\n\
             shutdown: {{ readiness_delay: 0s, drain_timeout: {drain_timeout} }}\n{}",
            before(backend.address.port(), "http1")
        );
        std::fs::write(&path, config).unwrap();
        let tidegate = Tidegate::start_at(dir, path).unwrap_or_else(|error| panic!("{error}"));
        Self { authority, tidegate, _backend: backend }
    }

    /// A client whose tunnel is open.
    fn tunnel(&self) -> Client {
        let caller = Caller::trusting(&self.authority).ready();
        tunnelled(connect(self.tidegate.address, &caller, "localhost"))
    }
}

/// A config that sends everything to this port over TLS.
fn before(port: u16, protocol: &str) -> String {
    format!(
        "backends:\n  only: {{ endpoints: [\"https://localhost:{port}\"], protocol: {protocol}, tls: {{ ca: ca.pem }} }}\n\
         routes: [{{ backend: only }}]\n"
    )
}

#[test]
fn a_tunnel_carries_as_much_over_tls() {
    let scene = Scene::with("2s", send_back);
    let mut client = scene.tunnel();
    for round in 0..64_usize {
        let bytes: Vec<u8> = (0..100_000).map(|at| ((at + round) % 251) as u8).collect();
        assert!(client.send(&bytes).bytes(bytes.len()) == bytes, "{round}");
    }
}

#[test]
fn one_side_may_end_before_the_other_over_tls() {
    let scene = Scene::with("2s", |connection| {
        while connection.read_more().is_some() {}
        assert!(has_ended_in_order(connection));
        let all = connection.peek().len();
        connection.write(format!("{all} bytes").as_bytes());
        goodbye(connection);
    });
    let mut client = scene.tunnel();
    client.send("12345");
    let tls = client.tls.as_mut().unwrap();
    tls.send_close_notify();
    tls.write_tls(&mut client.stream).unwrap();
    assert_eq!(client.read_to_end(), b"5 bytes");
    assert!(client.end().unwrap().starts_with("closed"), "by close_notify: {:?}", client.end());
}

#[test]
fn at_the_deadline_of_a_drain_both_sides_are_told_over_tls() {
    let (said, says) = channel();
    let mut scene = Scene::with("300ms", move |connection| {
        while connection.read_more().is_some() {}
        said.send((connection.peek().to_vec(), has_ended_in_order(connection))).unwrap();
    });
    let mut client = scene.tunnel();
    client.send(frame(1, b"hi"));
    scene.tidegate.signal(Signal::Leave);
    assert_eq!(client.read_to_end(), GOING_AWAY);
    assert!(client.end().unwrap().starts_with("closed"), "by close_notify: {:?}", client.end());
    drop(client);
    let (heard, in_order) = says.recv().unwrap();
    let (first, last) = heard.split_at(8);
    assert_eq!(first, frame(1, b"hi"));
    let [0x88, 0x82, m0, m1, _, _, high, low] = *last else { panic!("{last:?}") };
    assert_eq!([high ^ m0, low ^ m1], [0x03, 0xe9], "a client's frame is masked");
    assert!(in_order, "by close_notify");
    scene.tidegate.wait();
}

/// Whether nothing more comes because the other side has said so, by close_notify.
fn has_ended_in_order(connection: &mut Connection) -> bool {
    let tls = connection.tls.as_mut().unwrap();
    std::io::Read::read(&mut Stream::new(&mut **tls, &mut connection.stream), &mut [0]).is_ok_and(|size| size == 0)
}

fn goodbye(connection: &mut Connection) {
    let tls = connection.tls.as_mut().unwrap();
    tls.send_close_notify();
    tls.write_tls(&mut connection.stream).unwrap();
}

// -- what is spoken inside

/// tidegate before a server that speaks what TLS agrees on: HTTP/2 without tunnels, or HTTP/1.1 with them.
fn before_either() -> (Server, Tidegate) {
    let authority = Authority::new("test");
    let dir = tempfile::tempdir().unwrap();
    authority.issue(&["localhost"]).put(dir.path(), "a");
    std::fs::write(dir.path().join("ca.pem"), authority.pem()).unwrap();
    let file = |name: &str| dir.path().join(name).display().to_string();
    let server = Server::start("either.py", &[&file("a.crt"), &file("a.key")]);
    let config = format!(
        "listen: 127.0.0.1:0\nadmin: {{ address: 127.0.0.1:0 }}\nworkers: 1\n\
         shutdown: {{ readiness_delay: 0s, drain_timeout: 2s }}\n{}",
        before(server.address.port(), "auto")
    );
    let path = dir.path().join("tidegate.yaml");
    std::fs::write(&path, config).unwrap();
    (server, Tidegate::start_at(dir, path).unwrap_or_else(|error| panic!("{error}")))
}

#[test]
fn for_a_tunnel_http_1_is_agreed_on_where_http_2_takes_none() {
    for is_known_before in [true, false] {
        let (mut server, tidegate) = before_either();
        let mut agreed = |http2: u32, http1: u32| {
            let said: Value = serde_json::from_str(&server.ask("agreed")).unwrap();
            assert_eq!(said, json!({"h2": http2, "http/1.1": http1}), "{is_known_before}");
        };
        let mut plain = tidegate.client();
        if is_known_before {
            assert_eq!(plain.get("/", &[]).text(), "plain");
            agreed(1, 0);
        }
        let mut tunnels = [(); 2].map(|()| tunnelled(tidegate.client()));
        agreed(1, 2);
        for _ in 0..3 {
            assert_eq!(plain.get("/", &[]).text(), "plain", "what is no tunnel goes on over the streams");
        }
        for tunnel in &mut tunnels {
            assert_eq!(tunnel.send(frame(1, b"hello")).bytes(7), b"\x81\x05hello");
        }
        agreed(1, 2);
    }
}
