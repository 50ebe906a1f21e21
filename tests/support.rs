//! What every story needs: backends that record what reaches them, tidegate itself, and clients that say exactly what they
//! are told to.

pub mod backend;
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

/// An address on which nobody listens.
pub fn dead_address() -> std::net::SocketAddr {
    // The port stays ours for as long as the listener lives, so nobody else is given it at this moment.
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}
