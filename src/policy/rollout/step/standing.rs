//! Requests are turned away or made to wait, or not any more.

use super::{Change, Machine};
use crate::policy::actor::Actor;
use crate::policy::standing::{Hold, Maintenance};

impl Machine<'_> {
    pub(super) fn maintenance(&mut self, next: Option<Maintenance>, by: &Actor, reason: &str) {
        let changes = self.state.standing.change_maintenance(next);
        self.changes.extend(changes.map(|(before, after)| told("maintenance", before, after, by, reason)));
    }

    pub(super) fn hold(&mut self, next: Option<Hold>, by: &Actor, reason: &str) {
        let changes = self.state.standing.change_hold(next);
        self.changes.extend(changes.map(|(before, after)| told("hold", before, after, by, reason)));
    }
}

/// A change of a standing.
fn told(what: &'static str, before: String, after: String, by: &Actor, reason: &str) -> Change {
    Change { what, before, after, by: by.clone(), reason: reason.to_owned(), forced: false }
}
