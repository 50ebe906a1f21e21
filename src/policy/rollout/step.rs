//! One event, one step: the only place where a rollout's state changes.

mod clock;
mod drain;
mod files;
mod guard;
mod latches;
mod percent;
mod standing;
mod switch;

use std::time::{Duration, SystemTime};

use super::{Command, Plan, Refusal, State, Verdict};
use crate::policy::actor::Actor;
use crate::policy::bucket::Percent;
use crate::policy::latch::Door;

/// What happens to a rollout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The config was read: for the first time, or anew.
    Configured,
    /// The flag file was looked at: whether it covers this rollout.
    Flagged(bool),
    /// The state file could not be believed, and why.
    StateLost(String),
    /// Time has passed.
    Tick {
        /// Since the last tick, on a clock that never jumps.
        elapsed: Duration,
        /// Requests that NEW answered since then.
        requests: u64,
        /// Requests on NEW since then that the guard has judged by.
        judged: u64,
        /// Whether the guard has found nothing.
        healthy: bool,
        /// Whether the wall clock has moved like the other one of late. If not, no deadline is acted on.
        steady: bool,
    },
    /// The guard has found that NEW hurts users.
    Judged(Verdict),
    /// Somebody asks for something.
    Asked {
        /// What.
        command: Command,
        /// Who.
        by: Actor,
        /// Why.
        reason: String,
    },
}

/// When an event happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The wall clock.
    pub now: SystemTime,
    /// Whether the schedule says that nothing may be raised now.
    pub frozen: bool,
}

/// A change, as the audit log tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The verb.
    pub what: &'static str,
    /// What was in force before, in words.
    pub before: String,
    /// What is in force after.
    pub after: String,
    /// Who.
    pub by: Actor,
    /// Why.
    pub reason: String,
    /// Whether something spoke against it and was overridden.
    pub forced: bool,
}

/// The next state, and what is different about it. Without changes it may still have moved on (a step was held for longer).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    /// The next state.
    pub state: State,
    /// What changed, in order.
    pub changes: Vec<Change>,
}

/// What `event` makes of `state`. `name` is the rollout's.
///
/// # Errors
/// When a command is refused: then nothing changes.
pub fn step(name: &str, plan: &Plan, state: &State, event: Event, moment: Moment) -> Result<Transition, Refusal> {
    let mut machine = Machine { name, plan, moment, state: state.clone(), changes: Vec::new() };
    match event {
        Event::Configured => machine.configured(),
        Event::Flagged(covered) => machine.flagged(covered),
        Event::StateLost(why) => machine.state_lost(&why),
        Event::Tick { elapsed, requests, judged, healthy, steady } => {
            machine.drained_for(elapsed);
            machine.climb(elapsed, requests, judged);
            machine.meet_the_deadline(steady, healthy);
        }
        Event::Judged(verdict) => machine.judged(&verdict),
        Event::Asked { command, by, reason } => machine.asked(command, &by, &reason)?,
    }
    let Machine { mut state, changes, .. } = machine;
    state.version += changes.len() as u64;
    Ok(Transition { state, changes })
}

struct Machine<'a> {
    name: &'a str,
    plan: &'a Plan,
    moment: Moment,
    state: State,
    changes: Vec<Change>,
}

impl Machine<'_> {
    fn asked(&mut self, command: Command, by: &Actor, reason: &str) -> Result<(), Refusal> {
        match command {
            Command::Set { percent, force } => self.set(percent, force, by, reason)?,
            Command::Unset => self.unset(by, reason)?,
            Command::Rollback => self.latch(Door::Operator, by, reason),
            Command::Resume { percent } => self.resume(percent, by, reason)?,
            Command::Promote { full, force } => self.promote(full, force, by, reason)?,
            Command::Pause => self.pause(true, by, reason)?,
            Command::Continue => self.pause(false, by, reason)?,
            Command::Switch { back, gate } => self.switch(back, gate, by, reason)?,
            Command::Maintenance(next) => self.maintenance(next, by, reason),
            Command::Hold(next) => self.hold(next, by, reason),
            Command::Drain { side: Some(side), cut_in } => self.drain(side, cut_in, by, reason)?,
            Command::Drain { side: None, .. } => self.end_drain(by, reason),
        }
        Ok(())
    }

    /// Does `act` and notes what it changed of the share on NEW.
    fn noting(&mut self, what: &'static str, by: &Actor, reason: &str, act: impl FnOnce(&mut Self)) {
        let before = self.in_words();
        act(self);
        let after = self.in_words();
        self.note(what, before, after, by, reason);
    }

    fn note(&mut self, what: &'static str, before: String, after: String, by: &Actor, reason: &str) {
        let (by, reason) = (by.clone(), reason.to_owned());
        self.changes.push(Change { what, before, after, by, reason, forced: false });
    }

    fn in_words(&self) -> String {
        self.told_of(self.state.wanted(self.plan))
    }

    /// What is in force where `wanted` is, in words.
    fn told_of(&self, wanted: Percent) -> String {
        let effective = self.state.effective_of(wanted);
        match self.state.latches.as_slice() {
            [] => format!("{effective} on new"),
            latches => {
                let ids: Vec<&str> = latches.iter().map(|latch| latch.id.as_str()).collect();
                format!("rolled back by {}, else {wanted} on new", ids.join(", "))
            }
        }
    }
}
