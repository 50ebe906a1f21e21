//! The data plane: workers that accept, decide, forward and report.
//!
//! A connection lives and dies on one worker, a current-thread runtime with its own upstream pools and its own counters,
//! so nothing on the request path is shared, locked or sent. Reading order: [`accept`] hands connections to workers,
//! `connection` drives one through hyper under the eye of `watch`, `forward` is a request from top to bottom.

pub mod accept;
pub mod access_log;
mod body;
mod closed;
mod connection;
mod exchange;
mod form;
mod forward;
mod frames;
mod grpc;
mod handshake;
pub mod headers;
mod http1;
mod http2;
mod inspect;
mod log_file;
mod notice;
mod outbox;
pub mod peer;
mod respond;
pub mod route;
mod send;
mod shield;
mod socket;
pub mod subject;
mod tunnel;
mod turns;
mod upgrade;
mod watch;
pub mod worker;
