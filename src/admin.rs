//! The admin side: who may look at the process from outside, and what they see.
//!
//! It has a listener of its own, on loopback or a unix socket, and runs on the control plane's runtime; it reads what the
//! data plane counted and takes nothing from it. Reading order: `listener` binds, `server` accepts, `origin` turns strange
//! pages away, `api` answers, [`status`] is what it says.

pub mod answer;
mod api;
mod listener;
mod origin;
mod problem;
mod server;
pub mod status;

#[cfg(any())]
mod tests;

pub use listener::{Listener, bind};
pub use problem::unknown_rollout;
pub use server::serve;
