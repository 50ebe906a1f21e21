//! Blue and green change places.

use super::Machine;
use crate::policy::actor::Actor;
use crate::policy::bucket::Percent;
use crate::policy::rollout::{Color, Colors, Gate, Refusal, Strategy};

impl Machine<'_> {
    pub(super) fn switch(&mut self, back: bool, gate: Gate, by: &Actor, reason: &str) -> Result<(), Refusal> {
        let forced = self.may_switch(back, gate)?;
        let colors = self.state.colors;
        let before = self.serving();
        if back {
            self.state.colors.active = colors.old;
        } else {
            self.turn_to(colors.active.other());
        }
        let after = self.serving();
        self.note("switch", before, after, by, reason);
        self.mark(forced);
        Ok(())
    }

    /// Whether it may be switched; true if only because of `--force`.
    fn may_switch(&self, back: bool, gate: Gate) -> Result<bool, Refusal> {
        let Strategy::BlueGreen { .. } = self.plan.strategy else {
            let instead = "Use: tidegate set NAME --percent N";
            return Err(Refusal::WrongStrategy { needs: "blue/green", instead });
        };
        if let Some(latch) = self.state.latches.first() {
            return Err(Refusal::RolledBack(Box::new(latch.clone())));
        }
        if let Some(side) = self.state.drained() {
            return Err(Refusal::Drained(side));
        }
        if back && self.state.colors.active == self.state.colors.old {
            return Err(Refusal::Nowhere("nothing was switched, so there is nothing to go back to"));
        }
        match gate {
            Gate::Passed if self.moment.frozen && !back => Err(Refusal::Frozen),
            Gate::Passed => Ok(false),
            Gate::Failed(why) => Err(Refusal::Gate(why)),
            Gate::Forced => Ok(true),
        }
    }

    fn serving(&self) -> String {
        let Strategy::BlueGreen { .. } = self.plan.strategy else { return String::new() };
        format!("{} serves", self.state.colors.active.as_str())
    }

    /// `target` serves from here on, and what serves now is where a rollback leads. A drain stays with the colour that it
    /// empties: that one gets no work, whatever else is asked for.
    pub(super) fn turn_to(&mut self, target: Color) {
        let colors = self.state.colors;
        let serves_old = self.state.effective(self.plan) == Percent::ZERO;
        let serving = if serves_old { colors.old } else { colors.old.other() };
        self.state.colors =
            if serving == target { Colors { active: target, ..colors } } else { colors.switched(serving, target) };
        if let Some(drain) = &mut self.state.drain
            && colors.old != self.state.colors.old
        {
            drain.side = drain.side.other();
        }
    }
}
