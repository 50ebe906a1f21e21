//! Connections to backends: made, used by requests, kept while they are good.
//!
//! All of it belongs to one worker. A connection of HTTP/1 has no task of its own: whoever uses it drives it, so that a request
//! costs no wake-up between tasks and a connection ends with the request that dropped it. One of HTTP/2 has one, since its
//! users come and go; but each drives its own stream.

mod channel;
mod connect;
mod duplex;
mod group;
mod http1;
mod http2;
mod incoming;
mod line;
mod passage;
mod pool;
mod silence;
mod socket;
mod vigil;

pub use channel::{Answered, Channel, Fault, SendError, Sending};
pub use connect::{ConnectError, reach};
pub use duplex::Duplex;
pub use group::{Group, Obtained};
pub use incoming::{BrokenOff, Incoming};
pub use passage::Passage;
pub use pool::{Lease, Pool};
pub use silence::mind_silence;
pub use socket::Socket;
pub use vigil::{Demand, Heard, Patience, Presence, Vigil};
