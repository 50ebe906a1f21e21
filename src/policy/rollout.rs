//! The state machine of a rollout: what files, people and the clock ask for becomes what is in force.
//!
//! [`step`] is the only way in. It takes the state, what the config says ([`Plan`]) and one event, and gives the next state
//! with the list of what changed, or refuses and changes nothing. What is in force is never stored: [`State::effective`] and
//! its neighbours derive it, so what is shown cannot differ from what is done.

mod color;
mod command;
mod refusal;
mod step;
mod verdict;

#[cfg(test)]
mod tests;

use std::time::SystemTime;

pub use self::color::{Color, Colors};
pub use self::command::{Command, Gate};
pub use self::refusal::Refusal;
pub use self::step::{Change, Event, Moment, Transition, step};
pub use self::verdict::{Action, Cause, Guard, Verdict};
use super::actor::Actor;
use super::bucket::Percent;
use super::decision::Side;
use super::drain::Drain;
use super::latch::Latch;
use super::ramp::{Position, Step};
use super::schedule::Schedule;
use super::standing::Standing;

/// How a rollout moves people from OLD to NEW.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// One percent, changed by hand.
    Percent(Percent),
    /// Step by step; at least one.
    Steps(Vec<Step>),
    /// All at once, between two colours.
    BlueGreen {
        /// The colour that the config wants to serve.
        active: Color,
    },
}

/// What the config says of a rollout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// How it moves.
    pub strategy: Strategy,
    /// `rollback` of the whole file: `None` if it is not written.
    pub rollback_all: Option<bool>,
    /// `rollback` of the rollout: `None` if it is not written.
    pub rollback: Option<bool>,
    /// Ids of latches that the file lifts.
    pub acknowledge: Vec<String>,
    /// When it may be raised, and by when it has to be done.
    pub schedule: Schedule,
    /// What the guard does; `None` if there is none.
    pub guard: Option<Guard>,
}

impl Plan {
    /// Requests on NEW that the guard has to have seen in a step before the next one; 0 without a guard.
    #[must_use]
    pub fn evidence(&self) -> u64 {
        self.guard.map_or(0, |guard| guard.evidence)
    }
}

/// A percent that somebody put over the configured one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// The percent.
    pub percent: Percent,
    /// The configured percent at that time: when the file changes it, the file is the later explicit act.
    pub over: Percent,
    /// Since when.
    pub at: SystemTime,
    /// Who.
    pub by: Actor,
    /// Why.
    pub reason: String,
}

/// All that happened to a rollout and still matters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Counts changes, from 0 for a rollout that was never configured.
    pub version: u64,
    /// Why it is rolled back; empty if it is not.
    pub latches: Vec<Latch>,
    /// The number of the latest latch.
    pub last_latch: u64,
    /// What somebody put over the configured percent.
    pub overridden: Option<Override>,
    /// Where on its ramp it stands.
    pub position: Position,
    /// Which colour is which side.
    pub colors: Colors,
    /// The side that is being emptied.
    pub drain: Option<Drain>,
    /// Whether its requests are served at all.
    pub standing: Standing,
    /// The ids in `acknowledge` that were seen: each lifts once.
    pub acknowledged: Vec<String>,
    /// The deadline that has been met or has rolled back: each acts once.
    pub settled_deadline: Option<SystemTime>,
    /// Whether the flag file covers it now. Looked at anew after a start.
    pub flagged: bool,
}

impl State {
    /// What the config says the share on NEW should be.
    #[must_use]
    pub fn configured(&self, plan: &Plan) -> Percent {
        match &plan.strategy {
            Strategy::Percent(percent) => *percent,
            Strategy::Steps(steps) => steps.get(self.position.step).map_or(Percent::ZERO, |step| step.percent),
            Strategy::BlueGreen { active } => self.colors.percent_of(*active),
        }
    }

    /// What somebody put over it, if anybody did.
    #[must_use]
    pub fn overridden(&self, plan: &Plan) -> Option<Percent> {
        match &plan.strategy {
            Strategy::BlueGreen { active } => (*active != self.colors.active).then(|| self.colors.percent()),
            Strategy::Percent(_) | Strategy::Steps(_) => self.overridden.as_ref().map(|over| over.percent),
        }
    }

    /// The share on NEW that is wanted, were there no rollback and no drain.
    #[must_use]
    pub fn wanted(&self, plan: &Plan) -> Percent {
        self.overridden(plan).unwrap_or_else(|| self.configured(plan))
    }

    /// The share of buckets on NEW that is in force.
    #[must_use]
    pub fn effective(&self, plan: &Plan) -> Percent {
        self.effective_of(self.wanted(plan))
    }

    /// The share that is in force where `wanted` is.
    fn effective_of(&self, wanted: Percent) -> Percent {
        match self.drained() {
            _ if self.is_rolled_back() => Percent::ZERO,
            Some(Side::Old) => Percent::FULL,
            Some(Side::New) => Percent::ZERO,
            None => wanted,
        }
    }

    /// The share that was wanted under the plan before: that one is gone, but what it came to was remembered.
    fn was_wanted(&self) -> Percent {
        match self.colors == Colors::default() {
            true => self.overridden.as_ref().map_or(self.position.percent, |over| over.percent),
            false => self.colors.percent(),
        }
    }

    /// Whether the backend that the config names second is OLD.
    #[must_use]
    pub fn have_changed_places(&self, plan: &Plan) -> bool {
        matches!(plan.strategy, Strategy::BlueGreen { .. }) && self.colors.old == Color::Green
    }

    /// Whether everybody is on OLD until somebody lifts it.
    #[must_use]
    pub fn is_rolled_back(&self) -> bool {
        !self.latches.is_empty()
    }

    /// The side that gets no new work.
    #[must_use]
    pub fn drained(&self) -> Option<Side> {
        self.drain.as_ref().map(|drain| drain.side)
    }
}
