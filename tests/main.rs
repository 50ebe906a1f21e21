//! Stories on real sockets: backends are started, tidegate is started through the door that `main` uses, one thing is done,
//! one thing is claimed. One binary, so that it links once.

#![allow(unreachable_pub, missing_docs, reason = "a test binary has no outside")]
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "in a story, what cannot be is a failed test")]
#![allow(clippy::needless_pass_by_value, reason = "stories read better without ampersands")]

mod admin;
mod allocation;
mod architecture;
mod balance;
mod commands;
mod control;
mod docs;
mod drain;
mod drain_side;
mod faults;
mod foreign;
mod grpc;
mod guard;
mod health;
mod hold;
mod hostile;
mod http2;
mod kill;
mod limits;
mod listeners;
mod maintenance;
mod names;
mod process;
mod proxy_protocol;
mod queries;
mod reload;
mod rollback;
mod routing;
mod shield;
mod support;
mod tls;
mod upstream_faults;
mod upstream_http2;
mod vanish;
mod verdicts;
mod webhooks;
mod websocket;
