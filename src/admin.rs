//! The admin side: who may look at the process from outside, and what they see.
//!
//! It has a listener of its own and runs on the control plane's runtime; it reads what the data plane counted and takes
//! nothing from it, and has the controller do what somebody asks for. Reading order: `server` accepts
//! (for as long as the `lease` lasts), `origin` turns strange pages away, `auth` knows who asks, `operations` is all that
//! can be asked, `api` looks, `change` changes (what is a `wish`, read from a `body`), `events` goes on telling; [`status`]
//! and [`answer`] are what they say.

pub mod answer;
mod api;
mod auth;
mod body;
mod change;
mod events;
mod lease;
mod operations;
mod origin;
mod problem;
mod server;
pub mod status;
mod wish;

#[cfg(test)]
mod openapi;
#[cfg(test)]
mod tests;

pub use problem::unknown_rollout;
pub use server::serve;
