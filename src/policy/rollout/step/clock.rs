//! What time does to a rollout: steps, drains and deadlines.

use std::time::Duration;

use super::Machine;
use crate::policy::actor::{Actor, Source};
use crate::policy::bucket::Percent;
use crate::policy::latch::Door;
use crate::policy::ramp::Position;
use crate::policy::rollout::Strategy;

impl Machine<'_> {
    /// At 100 % and healthy by the deadline, or everybody goes back to OLD.
    pub(super) fn meet_the_deadline(&mut self, steady: bool, healthy: bool) {
        let Some(deadline) = self.plan.schedule.deadline else { return };
        let is_due = steady && self.moment.now >= deadline && self.state.settled_deadline != Some(deadline);
        if !is_due {
            return;
        }
        self.state.settled_deadline = Some(deadline);
        let by = Actor::new(Source::Schedule, "deadline");
        if self.state.effective(self.plan) != Percent::FULL {
            self.latch(Door::Deadline, &by, "not at 100 % by the deadline");
        } else if !healthy {
            self.latch(Door::Deadline, &by, "at 100 % by the deadline, but the guard says that new hurts users");
        }
    }

    /// A step counts time only while it is in force, and ends only when the schedule allows the next one.
    pub(super) fn climb(&mut self, elapsed: Duration, requests: u64, judged: u64) {
        let Strategy::Steps(steps) = &self.plan.strategy else { return };
        let state = &mut self.state;
        let in_force = !state.is_rolled_back() && state.overridden.is_none() && state.drain.is_none();
        if !in_force || state.position.paused || state.standing.maintenance.is_some() {
            return;
        }
        state.position = std::mem::take(&mut state.position).held_for(elapsed, requests, judged);
        let position = &state.position;
        let evidence = self.plan.evidence();
        if position.waits_for(steps, evidence).is_none() && position.has_next(steps) && !self.moment.frozen {
            let reason = format!("held for {} s with {} requests on new", position.held.as_secs(), position.requests);
            let next = position.step + 1;
            self.noting("step", &Actor::new(Source::Schedule, "steps"), &reason, |machine| machine.go_to(next));
        }
    }

    /// The beginning of the step `at`.
    pub(super) fn go_to(&mut self, at: usize) {
        if let Strategy::Steps(steps) = &self.plan.strategy {
            self.state.position = Position::at(steps, at);
        }
    }
}
