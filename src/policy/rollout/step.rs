//! One event, one step: the only place where a rollout's state changes.

use std::time::{Duration, SystemTime};

use super::{Command, Gate, Override, Plan, Refusal, State, Strategy};
use crate::policy::actor::{Actor, Source};
use crate::policy::bucket::Percent;
use crate::policy::decision::Side;
use crate::policy::drain::Drain;
use crate::policy::latch::{Door, Latch};
use crate::policy::ramp::Position;

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
        /// Whether the wall clock has moved like the other one of late. If not, no deadline is acted on.
        steady: bool,
    },
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
        Event::StateLost(why) => machine.state_lost(why),
        Event::Tick { elapsed, requests, steady } => machine.ticked(elapsed, requests, steady),
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
    // -- what is told of a change

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
        let effective = self.state.effective(self.plan);
        let wanted = self.state.wanted(self.plan);
        match self.state.latches.as_slice() {
            [] => format!("{effective} on new"),
            latches => {
                let ids: Vec<&str> = latches.iter().map(|latch| latch.id.as_str()).collect();
                format!("rolled back by {}, else {wanted} on new", ids.join(", "))
            }
        }
    }

    // -- files

    fn configured(&mut self) {
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

    fn begin(&mut self, by: &Actor) {
        match &self.plan.strategy {
            Strategy::Percent(_) => {}
            Strategy::Steps(steps) => self.state.position = Position::at(steps, 0),
            Strategy::BlueGreen { active } => self.state.colors = super::Colors::begin(*active),
        }
        self.state.acknowledged.clone_from(&self.plan.acknowledge);
        self.state.position.percent = self.state.configured(self.plan);
        let after = self.in_words();
        self.note("config", "not known".to_owned(), after, by, "seen for the first time");
    }

    /// The later explicit act wins: what the file changed replaces what was put over it, what it left alone does not.
    fn follow_the_file(&mut self, by: &Actor) {
        let before = (self.in_words(), self.state.position.percent);
        match &self.plan.strategy {
            Strategy::Percent(_) => {}
            Strategy::Steps(steps) => self.state.position = self.state.position.clone().found_again(steps),
            Strategy::BlueGreen { active } => {
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

    fn acknowledge(&mut self, by: &Actor) {
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

    fn flagged(&mut self, covered: bool) {
        self.state.flagged = covered;
        let by = Actor::new(Source::FlagFile, "ROLLBACK");
        match covered {
            true => self.latch(Door::FlagFile, &by, "the file ROLLBACK in state_dir"),
            false => self.lift(Door::FlagFile, &by, "the file ROLLBACK was removed from state_dir"),
        }
    }

    fn state_lost(&mut self, why: String) {
        self.latch(Door::State, &Actor::new(Source::Process, "tidegate"), &why);
    }

    // -- latches

    /// Latches, unless the same door has already. Emergencies win: a drain of OLD ends.
    fn latch(&mut self, door: Door, by: &Actor, reason: &str) {
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

    fn lift(&mut self, door: Door, by: &Actor, reason: &str) {
        if self.state.latches.iter().any(|latch| latch.door == door) {
            self.noting("resume", by, reason, |machine| machine.state.latches.retain(|latch| latch.door != door));
        }
    }

    fn is_asked_by_a_file(&self, door: Door) -> bool {
        match door {
            Door::Config => self.plan.rollback_all == Some(true),
            Door::ConfigRollout => self.plan.rollback == Some(true),
            Door::FlagFile => self.state.flagged,
            Door::Operator | Door::Guard | Door::Deadline | Door::State => false,
        }
    }

    // -- the clock

    fn ticked(&mut self, elapsed: Duration, requests: u64, steady: bool) {
        self.drained_for(elapsed);
        if let Strategy::Steps(_) = &self.plan.strategy {
            self.climb(elapsed, requests);
        }
        if let Some(deadline) = self.plan.schedule.deadline
            && steady
            && self.moment.now >= deadline
            && self.state.settled_deadline != Some(deadline)
        {
            self.state.settled_deadline = Some(deadline);
            if self.state.effective(self.plan) != Percent::FULL {
                let by = Actor::new(Source::Schedule, "deadline");
                self.latch(Door::Deadline, &by, "not at 100 % by the deadline");
            }
        }
    }

    fn drained_for(&mut self, elapsed: Duration) {
        let Some(drain) = self.state.drain.clone() else { return };
        let (before, did_cut, by, reason) = (self.draining(), drain.cuts(), drain.by.clone(), drain.reason.clone());
        let drain = drain.waited(elapsed);
        let cuts = drain.cuts();
        self.state.drain = Some(drain);
        if cuts && !did_cut {
            let after = self.draining();
            self.note("drain", before, after, &by, &reason);
        }
    }

    /// A step counts time only while it is in force, and ends only when the schedule allows the next one.
    fn climb(&mut self, elapsed: Duration, requests: u64) {
        let Strategy::Steps(steps) = &self.plan.strategy else { return };
        let state = &mut self.state;
        let in_force = !state.is_rolled_back() && state.overridden.is_none() && state.drain.is_none();
        if !in_force || state.position.paused || state.standing.maintenance.is_some() {
            return;
        }
        state.position = std::mem::take(&mut state.position).held_for(elapsed, requests);
        let position = &state.position;
        if position.waits_for(steps).is_none() && position.has_next(steps) && !self.moment.frozen {
            let reason = format!("held for {} s with {} requests on new", position.held.as_secs(), position.requests);
            let next = position.step + 1;
            self.noting("step", &Actor::new(Source::Schedule, "steps"), &reason, |machine| machine.go_to(next));
        }
    }

    /// The beginning of the step `at`.
    fn go_to(&mut self, at: usize) {
        if let Strategy::Steps(steps) = &self.plan.strategy {
            self.state.position = Position::at(steps, at);
        }
    }

    // -- people

    fn asked(&mut self, command: Command, by: &Actor, reason: &str) -> Result<(), Refusal> {
        match command {
            Command::Set { percent, force } => self.set(percent, force, by, reason),
            Command::Unset => self.unset(by, reason),
            Command::Rollback => Ok(self.latch(Door::Operator, by, reason)),
            Command::Resume { percent } => self.resume(percent, by, reason),
            Command::Promote { full, force } => self.promote(full, force, by, reason),
            Command::Pause => self.pause(true, by, reason),
            Command::Continue => self.pause(false, by, reason),
            Command::Switch { back, gate } => self.switch(back, gate, by, reason),
            Command::Maintenance(next) => Ok(self.maintenance(next, by, reason)),
            Command::Hold(next) => Ok(self.hold(next, by, reason)),
            Command::Drain { side: Some(side), cut_in } => self.drain(side, cut_in, by, reason),
            Command::Drain { side: None, .. } => Ok(self.end_drain(by, reason)),
        }
    }

    fn set(&mut self, percent: Percent, force: bool, by: &Actor, reason: &str) -> Result<(), Refusal> {
        if let Strategy::BlueGreen { .. } = self.plan.strategy {
            return Err(Refusal::WrongStrategy { needs: "percent", instead: "Use: tidegate switch NAME" });
        }
        let forced = self.may_raise_to(percent, force)?;
        self.noting("set", by, reason, |machine| machine.put_over(percent, by, reason));
        self.mark(forced);
        Ok(())
    }

    fn put_over(&mut self, percent: Percent, by: &Actor, reason: &str) {
        let over = self.state.configured(self.plan);
        let (at, by, reason) = (self.moment.now, by.clone(), reason.to_owned());
        self.state.overridden = Some(Override { percent, over, at, by, reason });
    }

    /// Whether `percent` may be asked for; true if only because of `force`.
    fn may_raise_to(&self, percent: Percent, force: bool) -> Result<bool, Refusal> {
        if let Some(latch) = self.state.latches.first()
            && percent > Percent::ZERO
        {
            return Err(Refusal::RolledBack(latch.clone()));
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
    fn mark(&mut self, forced: bool) {
        if let Some(change) = self.changes.last_mut() {
            change.forced = forced;
        }
    }

    fn unset(&mut self, by: &Actor, reason: &str) -> Result<(), Refusal> {
        if self.state.overridden.is_some() {
            self.may_raise_to(self.state.configured(self.plan), true)?;
            self.noting("unset", by, reason, |machine| machine.state.overridden = None);
        }
        Ok(())
    }

    fn resume(&mut self, percent: Option<Percent>, by: &Actor, reason: &str) -> Result<(), Refusal> {
        if let Some(latch) = self.state.latches.iter().find(|latch| self.is_asked_by_a_file(latch.door)) {
            return Err(Refusal::StillAsked(latch.clone()));
        }
        if percent.is_some() && matches!(self.plan.strategy, Strategy::BlueGreen { .. }) {
            return Err(Refusal::WrongStrategy { needs: "percent", instead: "Resume it without a percent" });
        }
        if !self.state.is_rolled_back() {
            return Ok(());
        }
        self.noting("resume", by, reason, |machine| {
            machine.state.latches.clear();
            machine.state.position.held = Duration::ZERO; // what NEW did before it was taken away is no experience
            machine.state.position.requests = 0;
            if let Some(percent) = percent {
                machine.put_over(percent, by, reason);
            }
        });
        Ok(())
    }

    fn promote(&mut self, full: bool, force: bool, by: &Actor, reason: &str) -> Result<(), Refusal> {
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
            false => steps
                .iter()
                .position(|step| step.percent > wanted)
                .ok_or(Refusal::Nowhere("this is the last step; for 100 %: tidegate promote NAME --full"))?,
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

    fn pause(&mut self, pause: bool, by: &Actor, reason: &str) -> Result<(), Refusal> {
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

    fn switch(&mut self, back: bool, gate: Gate, by: &Actor, reason: &str) -> Result<(), Refusal> {
        let Strategy::BlueGreen { .. } = self.plan.strategy else {
            let instead = "Use: tidegate set NAME --percent N";
            return Err(Refusal::WrongStrategy { needs: "blue/green", instead });
        };
        if let Some(latch) = self.state.latches.first() {
            return Err(Refusal::RolledBack(latch.clone()));
        }
        let colors = self.state.colors;
        if back && colors.active == colors.old {
            return Err(Refusal::Nowhere("nothing was switched, so there is nothing to go back to"));
        }
        if let Some(side) = self.state.drained() {
            return Err(Refusal::Drained(side));
        }
        let to_old = colors.active != colors.old && back;
        let frozen = self.moment.frozen && !to_old;
        let forced = match gate {
            Gate::Passed if frozen => return Err(Refusal::Frozen),
            Gate::Passed => false,
            Gate::Failed(why) => return Err(Refusal::Gate(why)),
            Gate::Forced => true,
        };
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

    fn serving(&self) -> String {
        let Strategy::BlueGreen { .. } = self.plan.strategy else { return String::new() };
        format!("{} serves", self.state.colors.active.as_str())
    }

    /// `target` serves from here on, and what serves now is where a rollback leads.
    fn turn_to(&mut self, target: super::Color) {
        let colors = self.state.colors;
        let serving = if self.state.is_rolled_back() { colors.old } else { colors.active };
        self.state.colors = if serving == target {
            super::Colors { active: target, ..colors }
        } else {
            colors.switched(serving, target)
        };
    }

    fn maintenance(&mut self, next: Option<crate::policy::standing::Maintenance>, by: &Actor, reason: &str) {
        let changes = self.state.standing.change_maintenance(next);
        self.changes.extend(changes.map(|(before, after)| told("maintenance", before, after, by, reason)));
    }

    fn hold(&mut self, next: Option<crate::policy::standing::Hold>, by: &Actor, reason: &str) {
        let changes = self.state.standing.change_hold(next);
        self.changes.extend(changes.map(|(before, after)| told("hold", before, after, by, reason)));
    }

    fn drain(&mut self, side: Side, cut_in: Option<Duration>, by: &Actor, reason: &str) -> Result<(), Refusal> {
        match (side, self.state.latches.first(), self.state.drained()) {
            (Side::Old, Some(latch), _) => return Err(Refusal::RolledBack(latch.clone())),
            (_, _, Some(drained)) if drained != side => return Err(Refusal::Drained(drained)),
            _ => {}
        }
        let before = self.draining();
        let (at, by_whom, why) = (self.moment.now, by.clone(), reason.to_owned());
        self.state.drain = Some(Drain { side, cut_in, at, by: by_whom, reason: why });
        let after = self.draining();
        self.note("drain", before, after, by, reason);
        Ok(())
    }

    fn end_drain(&mut self, by: &Actor, reason: &str) {
        if self.state.drain.is_some() {
            let before = self.draining();
            self.state.drain = None;
            let after = self.draining();
            self.note("drain", before, after, by, reason);
        }
    }

    fn draining(&self) -> String {
        match &self.state.drain {
            None => "no drain".to_owned(),
            Some(Drain { side, cut_in: None, .. }) => format!("{} is drained", side.as_str()),
            Some(drain) if drain.cuts() => format!("{} is drained, what still runs is cut off", drain.side.as_str()),
            Some(Drain { side, cut_in: Some(left), .. }) => {
                format!("{} is drained, cut off in {} s", side.as_str(), left.as_secs())
            }
        }
    }
}

/// A change of a standing.
fn told(what: &'static str, before: String, after: String, by: &Actor, reason: &str) -> Change {
    Change { what, before, after, by: by.clone(), reason: reason.to_owned(), forced: false }
}
