//! Stories on real sockets: backends are started, tidegate is started through the door that `main` uses, one thing is done,
//! one thing is claimed. One binary, so that it links once.

#![allow(clippy::unwrap_used, reason = "a story that cannot go on has failed")]

mod architecture;
mod hostile;
mod routing;
mod support;
