//! What operators do to the share on NEW: set it, resume it, move it along the ramp.

use std::time::Duration;

use super::Machine;
use crate::policy::actor::Actor;
use crate::policy::bucket::Percent;
use crate::policy::decision::Side;
use crate::policy::rollout::{Override, Refusal, Strategy};

impl Machine<'_> {
    pub(super) fn set(&mut self, percent: Percent, force: bool, by: &Actor, reason: &str) -> Result<(), Refusal> {
        if let Strategy::BlueGreen { .. } = self.plan.strategy {
            return Err(Refusal::WrongStrategy { needs: "percent", instead: "Use: tidegate switch NAME" });
        }
        let forced = self.may_raise_to(percent, force)?;
        self.noting("set", by, reason, |machine| machine.put_over(percent, by, reason));
        self.mark(forced);
        Ok(())
    }

    pub(super) fn put_over(&mut self, percent: Percent, by: &Actor, reason: &str) {
        let over = self.state.configured(self.plan);
        let (at, by, reason) = (self.moment.now, by.clone(), reason.to_owned());
        self.state.overridden = Some(Override { percent, over, at, by, reason });
    }

    /// Whether `percent` may be asked for; true if only because of `force`.
    pub(super) fn may_raise_to(&self, percent: Percent, force: bool) -> Result<bool, Refusal> {
        if let Some(latch) = self.state.latches.first()
            && percent > Percent::ZERO
        {
            return Err(Refusal::RolledBack(Box::new(latch.clone())));
        }
        match self.state.drained() {
            Some(Side::New) if percent > Percent::ZERO => return Err(Refusal::Drained(Side::New)),
            Some(Side::Old) if percent < Percent::FULL => return Err(Refusal::Drained(Side::Old)),
            _ => {}
        }
        let is_frozen = self.moment.frozen && percent > self.state.wanted(self.plan);
        if is_frozen && !force { Err(Refusal::Frozen) } else { Ok(is_frozen) }
    }

    /// The last change happened although something spoke against it.
    pub(super) fn mark(&mut self, forced: bool) {
        if let Some(change) = self.changes.last_mut() {
            change.forced = forced;
        }
    }

    pub(super) fn unset(&mut self, by: &Actor, reason: &str) -> Result<(), Refusal> {
        if self.state.overridden.is_some() {
            self.may_raise_to(self.state.configured(self.plan), false)?;
            self.noting("unset", by, reason, |machine| machine.state.overridden = None);
        }
        Ok(())
    }

    pub(super) fn resume(&mut self, percent: Option<Percent>, by: &Actor, reason: &str) -> Result<(), Refusal> {
        self.may_resume(percent)?;
        if !self.state.is_rolled_back() {
            return Ok(());
        }
        self.noting("resume", by, reason, |machine| {
            machine.state.latches.clear();
            machine.state.position.held = Duration::ZERO; // what NEW did before it was taken away is no experience
            machine.state.position.requests = 0;
            machine.state.position.judged = 0;
            if let Some(percent) = percent {
                machine.put_over(percent, by, reason);
            }
        });
        Ok(())
    }

    /// Whether it may be resumed at `percent`, or at the one before.
    fn may_resume(&self, percent: Option<Percent>) -> Result<(), Refusal> {
        if let Some(latch) = self.state.latches.iter().find(|latch| self.is_asked_by_a_file(latch.door)) {
            return Err(Refusal::StillAsked(Box::new(latch.clone())));
        }
        let Some(percent) = percent else { return Ok(()) };
        if let Strategy::BlueGreen { .. } = self.plan.strategy {
            return Err(Refusal::WrongStrategy { needs: "percent", instead: "Resume it without a percent" });
        }
        let wanted = self.state.wanted(self.plan);
        if !self.state.is_rolled_back() && percent != wanted {
            return Err(Refusal::Nowhere(
                "it is not rolled back; to change the percent: tidegate set NAME --percent N",
            ));
        }
        if self.moment.frozen && percent > wanted {
            return Err(Refusal::Frozen);
        }
        Ok(())
    }

    pub(super) fn promote(&mut self, full: bool, force: bool, by: &Actor, reason: &str) -> Result<(), Refusal> {
        let steps = match &self.plan.strategy {
            Strategy::Steps(steps) => steps.as_slice(),
            Strategy::Percent(_) if full => &[],
            Strategy::Percent(_) => {
                let instead = "Use: tidegate set NAME --percent N, or promote --full for 100 %";
                return Err(Refusal::WrongStrategy { needs: "stepped", instead });
            }
            Strategy::BlueGreen { .. } => {
                return Err(Refusal::WrongStrategy { needs: "stepped", instead: "Use: tidegate switch NAME" });
            }
        };
        let wanted = self.state.wanted(self.plan);
        let next = match full {
            true => steps.len().saturating_sub(1),
            false => steps.iter().position(|step| step.percent > wanted).ok_or(Refusal::Nowhere(match wanted {
                Percent::FULL => "it is at 100 %, and there is no further step",
                _ => "this is the last step; for 100 %: tidegate promote NAME --full",
            }))?,
        };
        let percent = if full { Percent::FULL } else { steps[next].percent };
        let forced = self.may_raise_to(percent, force)?;
        self.noting("promote", by, reason, |machine| {
            machine.state.overridden = None;
            machine.go_to(next);
            if machine.state.configured(machine.plan) != percent {
                machine.put_over(percent, by, reason); // the last step is below 100 %
            }
        });
        self.mark(forced);
        Ok(())
    }

    pub(super) fn pause(&mut self, pause: bool, by: &Actor, reason: &str) -> Result<(), Refusal> {
        let Strategy::Steps(_) = &self.plan.strategy else {
            let instead = "It has no steps that could be paused";
            return Err(Refusal::WrongStrategy { needs: "stepped", instead });
        };
        if self.state.position.paused != pause {
            self.state.position.paused = pause;
            let words = |paused| if paused { "paused" } else { "going on" }.to_owned();
            let what = if pause { "pause" } else { "continue" };
            self.note(what, words(!pause), words(pause), by, reason);
        }
        Ok(())
    }
}
