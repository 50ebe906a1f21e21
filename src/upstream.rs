//! Connections to backends: made, used by one request at a time, kept while they are good.
//!
//! All of it belongs to one worker. A connection has no task of its own: whoever uses it drives it, so that a request
//! costs no wake-up between tasks and a connection ends with the request that dropped it.

mod connect;
mod group;
mod http1;
mod line;
mod pool;
mod socket;

pub use connect::{ConnectError, connect};
pub use group::{Group, Obtained};
pub use http1::{Connection, Sent};
pub use pool::{Lease, Pool};
pub use socket::Socket;
