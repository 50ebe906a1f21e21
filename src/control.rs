//! The control plane: the one writer of what is in force.
//!
//! [`controller`] is one task. Everything that can change what is in force reaches it as an event; it decides, publishes by
//! one store, and then tells. [`watcher`] turns what happens to files into events, [`flag`] reads the `ROLLBACK` file, and
//! [`settle`] knows when a file may still be half-written. [`journal`] remembers, across restarts, what was decided and by whom.

pub mod controller;
pub mod flag;
pub mod journal;
pub mod overview;
pub mod settle;
pub mod watcher;
