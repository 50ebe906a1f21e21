//! Stories on real sockets: backends are started, tidegate is started through the door that `main` uses, one thing is done,
//! one thing is claimed. One binary, so that it links once.

#![allow(unreachable_pub, reason = "the support modules have no outside")]
#![allow(clippy::unwrap_used, reason = "a story that cannot go on has failed")]

mod architecture;
mod drain;
mod faults;
mod hostile;
mod process;
mod reload;
mod rollback;
mod routing;
mod support;
