//! Rollbacks come on and are lifted.

use super::Machine;
use crate::policy::actor::Actor;
use crate::policy::decision::Side;
use crate::policy::latch::{Door, Latch};

impl Machine<'_> {
    /// Latches, unless the same door has already. Emergencies win: a drain of OLD ends.
    pub(super) fn latch(&mut self, door: Door, by: &Actor, reason: &str) {
        if self.state.latches.iter().any(|latch| latch.door == door) {
            return;
        }
        self.noting("rollback", by, reason, |machine| {
            let state = &mut machine.state;
            state.last_latch += 1;
            let id = format!("{}-{}", machine.name, state.last_latch);
            let (at, by, reason) = (machine.moment.now, by.clone(), reason.to_owned());
            state.latches.push(Latch { id, door, at, by, reason });
        });
        if self.state.drained() == Some(Side::Old) {
            self.end_drain(by, "a rollback needs the old side");
        }
    }

    pub(super) fn lift(&mut self, door: Door, by: &Actor, reason: &str) {
        if self.state.latches.iter().any(|latch| latch.door == door) {
            self.noting("resume", by, reason, |machine| machine.state.latches.retain(|latch| latch.door != door));
        }
    }

    pub(super) fn is_asked_by_a_file(&self, door: Door) -> bool {
        match door {
            Door::Config => self.plan.rollback_all == Some(true),
            Door::ConfigRollout => self.plan.rollback == Some(true),
            Door::FlagFile => self.state.flagged,
            Door::Operator | Door::Guard | Door::Deadline | Door::State => false,
        }
    }
}
