//! What every story needs: backends that record what reaches them, tidegate itself, and clients that say exactly what they
//! are told to.

pub mod backend;
pub mod claims;
pub mod client;
pub mod dns;
pub mod fault;
pub mod foreign;
pub mod frames;
pub mod http2;
pub mod plane;
pub mod process;
pub mod prometheus;
pub mod proxy;
pub mod relay;
pub mod tls;

use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

pub use backend::Backend;
pub use client::{Answer, Client};
pub use plane::Plane;
pub use proxy::Tidegate;

/// Longer than anything that is waited for takes, even on a machine that does ten other things.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until `condition` holds.
#[track_caller]
pub fn eventually(what: &str, condition: impl FnMut() -> bool) {
    within(PATIENCE, what, condition);
}

/// Waits until `condition` holds, which may take so long and no longer.
#[track_caller]
pub fn within(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < limit, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The same in a story that awaits, whose own connections go on meanwhile.
pub async fn eventually_here(what: &str, mut condition: impl FnMut() -> bool) {
    let waits = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE / 2, waits).await.unwrap_or_else(|_| panic!("never happened: {what}"));
}

/// What keeps a backend waiting until the story opens it; it is open for good then.
#[derive(Clone, Debug, Default)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    /// Waits until it is open, or the story has failed long ago.
    pub fn pass(&self) {
        let closed = self.0.0.lock().unwrap();
        drop(self.0.1.wait_timeout_while(closed, 2 * PATIENCE, |is_open| !*is_open).unwrap());
    }
}

/// An address on which nobody listens.
pub fn dead_address() -> std::net::SocketAddr {
    // The port stays ours for as long as the listener lives, so nobody else is given it at this moment.
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}
