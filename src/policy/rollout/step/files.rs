//! What files ask of a rollout: the config, the flag file, and the state file that was lost.

use super::Machine;
use crate::policy::actor::{Actor, Source};
use crate::policy::latch::{Door, Latch};
use crate::policy::ramp::Position;
use crate::policy::rollout::{Colors, Strategy};

impl Machine<'_> {
    pub(super) fn configured(&mut self) {
        let by = Actor::new(Source::Config, "config");
        let is_first = self.state.version == 0;
        if is_first {
            self.begin(&by);
        } else {
            self.follow_the_file(&by);
        }
        self.acknowledge(&by);
        let top = ("rollback: true at the top of the config", self.plan.rollback_all);
        let own = ("rollback: true in the rollout's config", self.plan.rollback);
        for (door, (reason, asked)) in [(Door::Config, top), (Door::ConfigRollout, own)] {
            match asked {
                Some(true) => self.latch(door, &by, reason),
                Some(false) => self.lift(door, &by, "the config says rollback: false"),
                None => {} // a line that has vanished asks for nothing
            }
        }
    }

    pub(super) fn begin(&mut self, by: &Actor) {
        match &self.plan.strategy {
            Strategy::Percent(_) => {}
            Strategy::Steps(steps) => self.state.position = Position::at(steps, 0),
            Strategy::BlueGreen { active } => self.state.colors = Colors::begin(*active),
        }
        self.state.acknowledged.clone_from(&self.plan.acknowledge);
        self.state.position.percent = self.state.configured(self.plan);
        let after = self.in_words();
        self.note("config", "not known".to_owned(), after, by, "seen for the first time");
    }

    /// The later explicit act wins: what the file changed replaces what was put over it, what it left alone does not. What
    /// was done under one strategy means nothing under another, and is not there any more when the file comes back to it.
    pub(super) fn follow_the_file(&mut self, by: &Actor) {
        let before = (self.told_of(self.state.was_wanted()), self.state.position.percent); // the plan is the new one already
        match &self.plan.strategy {
            Strategy::Percent(_) => {
                self.state.position = Position::default();
                self.state.colors = Colors::default();
            }
            Strategy::Steps(steps) => {
                self.state.position = self.state.position.clone().found_again(steps);
                self.state.colors = Colors::default();
            }
            Strategy::BlueGreen { active } => {
                self.state.position = Position::default();
                self.state.overridden = None;
                let colors = self.state.colors;
                if colors.configured != *active {
                    self.state.colors.configured = *active;
                    self.turn_to(*active);
                }
            }
        }
        let configured = self.state.configured(self.plan);
        if self.state.overridden.as_ref().is_some_and(|over| over.over != configured) {
            self.state.overridden = None;
        }
        self.state.position.percent = configured;
        let after = self.in_words();
        if before != (after.clone(), configured) {
            self.note("config", before.0, after, by, "the config file changed");
        }
    }

    pub(super) fn acknowledge(&mut self, by: &Actor) {
        let fresh: Vec<String> =
            self.plan.acknowledge.iter().filter(|id| !self.state.acknowledged.contains(id)).cloned().collect();
        self.state.acknowledged.clone_from(&self.plan.acknowledge);
        for id in fresh {
            let liftable = |latch: &Latch| latch.id == id && !self.is_asked_by_a_file(latch.door);
            if self.state.latches.iter().any(liftable) {
                self.noting("resume", by, &format!("the config says acknowledge: {id}"), |machine| {
                    machine.state.latches.retain(|latch| latch.id != id);
                });
            }
        }
    }

    pub(super) fn flagged(&mut self, covered: bool) {
        self.state.flagged = covered;
        let by = Actor::new(Source::FlagFile, "ROLLBACK");
        match covered {
            true => self.latch(Door::FlagFile, &by, "the file ROLLBACK in state_dir"),
            false => self.lift(Door::FlagFile, &by, "the file ROLLBACK was removed from state_dir"),
        }
    }

    pub(super) fn state_lost(&mut self, why: &str) {
        self.latch(Door::State, &Actor::new(Source::Process, "tidegate"), why);
    }
}
