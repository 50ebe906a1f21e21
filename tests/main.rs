//! Stories on real sockets: backends are started, tidegate is started through the door that `main` uses, one thing is done,
//! one thing is claimed. One binary, so that it links once.

mod allocation;
mod architecture;
mod drain;
mod faults;
mod hostile;
mod process;
mod reload;
mod rollback;
mod routing;
mod support;
