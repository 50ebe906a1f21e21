//! Whether requests are served at all: open, turned away politely (maintenance), or asked to wait (hold).
//!
//! A standing belongs to a rollout, a route or everything. Maintenance wins over hold: who is to be turned away is not made
//! to wait first.

use std::time::{Duration, SystemTime};

use super::actor::Actor;

/// The public is turned away, politely.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Maintenance {
    /// What people are told; `None` is what the config says.
    pub message: Option<String>,
    /// Safe methods (GET, HEAD, OPTIONS: RFC 9110 §9.2.1) are served all the same.
    pub read_only: bool,
    /// When clients should come back; `None` is what the config says.
    pub retry_after: Option<RetryAfter>,
    /// Since when.
    pub at: SystemTime,
    /// Who turned it on.
    pub by: Actor,
    /// Why.
    pub reason: String,
}

/// When a client should come back (RFC 9110 §10.2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryAfter {
    /// After this long, counted from each answer.
    In(Duration),
    /// At this time.
    At(SystemTime),
}

/// Requests wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// How long each waits at most, then it is turned away; `None` is what the config says.
    pub max_wait: Option<Duration>,
    /// Since when.
    pub at: SystemTime,
    /// Who asked for it.
    pub by: Actor,
    /// Why.
    pub reason: String,
}

/// Whether requests are served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Turned away.
    pub maintenance: Option<Maintenance>,
    /// Made to wait.
    pub hold: Option<Hold>,
}

impl Standing {
    /// Neither turned away nor made to wait.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.maintenance.is_none() && self.hold.is_none()
    }

    /// Turns maintenance on, over, or off. Gives what was and what is, in words, if that differs.
    #[must_use]
    pub fn change_maintenance(&mut self, next: Option<Maintenance>) -> Option<(String, String)> {
        let before = std::mem::replace(&mut self.maintenance, next);
        (before != self.maintenance).then(|| (maintained(before.as_ref()), maintained(self.maintenance.as_ref())))
    }

    /// Turns a hold on, over, or off. Gives what was and what is, in words, if that differs.
    #[must_use]
    pub fn change_hold(&mut self, next: Option<Hold>) -> Option<(String, String)> {
        let before = std::mem::replace(&mut self.hold, next);
        (before != self.hold).then(|| (held(before.as_ref()), held(self.hold.as_ref())))
    }
}

fn maintained(maintenance: Option<&Maintenance>) -> String {
    match maintenance {
        None => "served",
        Some(Maintenance { read_only: true, .. }) => "read-only",
        Some(Maintenance { read_only: false, .. }) => "in maintenance",
    }
    .to_owned()
}

fn held(hold: Option<&Hold>) -> String {
    match hold {
        None => "served".to_owned(),
        Some(Hold { max_wait: None, .. }) => "held".to_owned(),
        Some(Hold { max_wait: Some(wait), .. }) => format!("held for at most {} s", wait.as_secs_f64()),
    }
}
