//! The control plane: the one writer of what is in force.
//!
//! [`controller`] is one task. Everything that can change what is in force reaches it as an event; it applies it to
//! [`in_force`], publishes by one store, remembers by the [`journal`], and then announces. [`files`] looks at the config and
//! the `ROLLBACK` file ([`flag`]) when [`watcher`] or a person says so, and knows by [`settle`] when a file may still be
//! half-written; [`order`] is how people ask for something; [`gate`] looks at the target of a switch, [`health`] at endpoints all the
//! time, [`pacer`] ends a hold gently, [`clock`] doubts the wall clock, [`names`] are looked up for those who connect, [`guards`]
//! doubt NEW, [`queries`] ask a Prometheus about it, and [`findings`] are
//! what was found. [`webhooks`] tell others what has changed; both go by way of [`outbound`].

pub mod announce;
pub mod clock;
pub mod controller;
pub mod expiry;
pub mod files;
pub mod findings;
pub mod flag;
pub mod gate;
pub mod guards;
pub mod health;
pub mod in_force;
pub mod journal;
pub mod memory;
pub mod names;
pub mod order;
pub mod outbound;
pub mod overview;
pub mod pacer;
pub mod queries;
pub mod settle;
pub mod watcher;
pub mod webhooks;
