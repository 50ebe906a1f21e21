//! What tidegate does with those who mean harm or know no better: malformed, ambiguous, slow or lying clients and backends.
//! After each of them the next one, who means well, is served.

mod count;
mod desync;
mod headers;
mod http2;
mod requests;
mod responses;
mod slow;

use std::io::{ErrorKind, Read};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};

use crate::support::backend::{Connection, ok};
use crate::support::{Backend, Client, PATIENCE, Tidegate};

/// After whatever happened, somebody new gets an ordinary answer.
#[track_caller]
fn assert_alive(tidegate: &Tidegate, after: &str) {
    let answer = tidegate.client().get("/alive", &[]);
    assert_eq!(answer.status, 200, "tidegate serves others after {after}");
    assert!(answer.complete, "tidegate serves others whole answers after {after}");
}

/// The targets of the requests that reached a backend, in any order; what [`assert_alive`] asked is left out. Fails if
/// anything reached it that is no whole request.
#[track_caller]
fn reached(backend: &Backend) -> Vec<String> {
    whole(backend).into_iter().map(|request| request.target).filter(|target| target != "/alive").collect()
}

/// The requests that reached a backend, if that is all that did.
#[track_caller]
fn whole(backend: &Backend) -> Vec<crate::support::backend::Request> {
    let requests = backend.requests();
    for bytes in backend.bytes() {
        let heads = memchr::memmem::find_iter(&bytes, b"\r\nx-request-id: ").count();
        let parsed = crate::support::backend::parse_all(&bytes).len();
        assert_eq!(parsed, heads, "nothing is left over at the backend: {}", bytes.escape_ascii());
    }
    requests
}

/// A backend that answers 200, and does `misdeed` when it is asked for `/bad`. The receiver hears of each misdeed whether
/// tidegate closed that connection after it.
fn misbehaving(misdeed: impl Fn(&mut Connection) + Send + Sync + 'static) -> (Backend, Receiver<bool>) {
    let (told, closed) = channel();
    let told = Mutex::new(told);
    let backend = Backend::scripted(move |connection| {
        while let Some(request) = connection.read_request() {
            if request.target.starts_with("/bad") {
                misdeed(connection);
                let was_closed = connection.is_closed_by_peer();
                let _the_story_may_be_over = told.lock().unwrap().send(was_closed);
                return;
            }
            connection.write(&ok(&[], b"fine"));
        }
    });
    (backend, closed)
}

/// A connection on which something went wrong is closed, so that nobody else is given it.
#[track_caller]
fn assert_closed(closed: &Receiver<bool>, after: &str) {
    assert_eq!(closed.recv_timeout(PATIENCE), Ok(true), "the backend's connection is closed after {after}");
}

/// How a connection ended, and what came before.
fn read_to_reset(client: &mut Client) -> (Vec<u8>, bool) {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        match client.stream.read(&mut buffer) {
            Ok(0) => return (bytes, false),
            Ok(n) => bytes.extend_from_slice(&buffer[..n]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("nothing came for {PATIENCE:?}; so far: {}", bytes.escape_ascii())
            }
            Err(_) => return (bytes, true),
        }
    }
}
