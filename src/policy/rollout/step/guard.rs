//! What follows from a verdict of the guard.

use super::Machine;
use crate::policy::actor::{Actor, Source};
use crate::policy::latch::Door;
use crate::policy::ramp::Position;
use crate::policy::rollout::{Action, Strategy, Verdict};

impl Machine<'_> {
    pub(super) fn judged(&mut self, verdict: &Verdict) {
        let Some(guard) = self.plan.guard else { return };
        let by = Actor::new(Source::Guard, "guard");
        match guard.action {
            Action::Rollback => self.latch(Door::Guard, &by, &verdict.reason),
            Action::StepBack => self.step_back(&by, &verdict.reason),
            Action::HoldStep => self.hold_step(&by, &verdict.reason),
            Action::Notify => {
                let after = "would have rolled back".to_owned();
                self.note("guard", "trusted new".to_owned(), after, &by, &verdict.reason);
            }
        }
    }

    /// To the last step below what is in force, where the ramp waits; below the first one there is only a rollback.
    fn step_back(&mut self, by: &Actor, reason: &str) {
        let wanted = self.state.wanted(self.plan);
        let steps = match &self.plan.strategy {
            Strategy::Steps(steps) if self.state.drain.is_none() => steps.as_slice(),
            _ => &[], // while OLD is emptied, no step takes anybody away from NEW
        };
        let Some(below) = steps.iter().rposition(|step| step.percent < wanted) else {
            return self.latch(Door::Guard, by, reason);
        };
        self.noting("step_back", by, reason, |machine| {
            machine.state.overridden = None;
            machine.state.position = Position { paused: true, ..Position::at(steps, below) };
        });
    }

    fn hold_step(&mut self, by: &Actor, reason: &str) {
        if !self.state.position.paused {
            self.state.position.paused = true;
            self.note("pause", "going on".to_owned(), "paused".to_owned(), by, reason);
        }
    }
}
