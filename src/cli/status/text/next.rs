//! The most likely command for a situation.

use crate::admin::status::{GuardVerdict, RolloutStatus, Status, StrategyName};

/// A command, and what it is for where it does not say so itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Next {
    pub(super) command: String,
    pub(super) why: &'static str,
}

impl Next {
    fn new(command: impl Into<String>, why: &'static str) -> Option<Self> {
        Some(Self { command: command.into(), why })
    }
}

/// For the whole process; `None` if nothing about it asks for one.
pub(super) fn of_process(status: &Status) -> Option<Next> {
    if !status.reload.successful {
        return Next::new(format!("tidegate check -c {}", status.config.path), "then correct the file");
    }
    if status.maintenance.is_some() {
        return Next::new("tidegate maintenance --all off", "everybody is turned away");
    }
    if status.hold.as_ref().is_some_and(|hold| hold.deed.is_some()) {
        return Next::new("tidegate hold --all off", "everybody waits");
    }
    None
}

/// For one rollout.
pub(super) fn of_rollout(rollout: &RolloutStatus) -> Option<Next> {
    let name = &rollout.name;
    lift(rollout)
        .or_else(|| ends(rollout))
        .or_else(|| doubted(rollout))
        .or_else(|| match rollout.strategy {
            StrategyName::BlueGreen => switch(rollout),
            StrategyName::Steps => climb(rollout),
            StrategyName::Percent if rollout.percent.effective <= 0.0 => {
                Next::new(format!("tidegate set {name} --percent 1"), "the first users on new")
            }
            StrategyName::Percent => None,
        })
        .or_else(|| if rollout.sides.old.healthy == 0 { elsewhere(rollout) } else { None })
        .or_else(|| Next::new(format!("tidegate rollback {name}"), "if it goes wrong: everybody back on old"))
}

/// OLD answers nobody: to send everybody there would help nobody.
fn elsewhere(rollout: &RolloutStatus) -> Option<Next> {
    Next::new(format!("tidegate status {} -o json", rollout.name), "why old has no endpoint that is well")
}

/// For several rollouts: a closer look at the one that deserves it most.
pub(super) fn of_several(rollouts: &[RolloutStatus]) -> Option<Next> {
    let weight = |rollout: &RolloutStatus| match rollout.rollback.active {
        true => 2,
        false if ends(rollout).or_else(|| doubted(rollout)).is_some() => 1,
        false => 0,
    };
    let worst = rollouts.iter().rev().max_by_key(|rollout| weight(rollout))?;
    Next::new(format!("tidegate status {}", worst.name), "shows one in full")
}

/// What lifts a rollback. A resume is refused while a file asks for it, so the files come first.
fn lift(rollout: &RolloutStatus) -> Option<Next> {
    let latches = &rollout.rollback.latches;
    let by_file = latches.iter().find(|latch| !latch.undo.starts_with("tidegate "));
    let latch = by_file.or(latches.first())?;
    let why = match latches.len() {
        1 if latch.source == "guard" => "once new is mended",
        1 => "lifts the rollback",
        _ => "then the others",
    };
    Next::new(&latch.undo, why)
}

/// What ends what somebody began.
fn ends(rollout: &RolloutStatus) -> Option<Next> {
    let name = &rollout.name;
    match rollout.drain.as_ref() {
        Some(drain) if drain.done => return Next::new(format!("tidegate drain {name} off"), "when you are done"),
        Some(drain) => return Next::new(format!("tidegate drain {name} {} --wait", drain.side), ""),
        None => {}
    }
    if rollout.maintenance.is_some() {
        return Next::new(format!("tidegate maintenance {name} off"), "");
    }
    if rollout.hold.as_ref().is_some_and(|hold| hold.deed.is_some()) {
        return Next::new(format!("tidegate hold {name} off"), "");
    }
    None
}

/// What the guard has found and left to people.
fn doubted(rollout: &RolloutStatus) -> Option<Next> {
    let name = &rollout.name;
    let guard = &rollout.guard;
    match (guard.verdict, &guard.undo) {
        (GuardVerdict::Tripped | GuardVerdict::WouldHaveTripped, Some(_)) => {
            Next::new(format!("tidegate guard {name}"), "why the ramp waits")
        }
        (GuardVerdict::WouldHaveTripped, None) => {
            let is_held = guard.action.as_deref() == Some("hold_step");
            let why = if is_held { "new is not well yet" } else { "the guard would have" };
            Next::new(format!("tidegate rollback {name}"), why)
        }
        _ => None,
    }
}

fn switch(rollout: &RolloutStatus) -> Option<Next> {
    let colors = rollout.blue_green.as_ref()?;
    match colors.active == colors.old {
        true => Next::new(format!("tidegate switch {}", rollout.name), "looks at the other colour first"),
        false => Next::new(format!("tidegate switch {} --back", rollout.name), "if it goes wrong"),
    }
}

/// What a ramp needs from a person, if it needs anything.
fn climb(rollout: &RolloutStatus) -> Option<Next> {
    let steps = rollout.steps.as_ref()?;
    let name = &rollout.name;
    if rollout.percent.overridden.is_some() {
        return Next::new(format!("tidegate set {name} --clear"), "lets the ramp go on");
    }
    if steps.paused {
        return Next::new(format!("tidegate step continue {name}"), "");
    }
    if steps.next.is_some() && steps.hold_seconds.is_none() {
        return Next::new(format!("tidegate promote {name}"), "");
    }
    None
}
