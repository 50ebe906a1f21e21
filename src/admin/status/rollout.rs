//! The status of one rollout.

use std::path::Path;
use std::time::{Duration, SystemTime};

use super::endpoint::of_backend;
use super::guard::guard_status;
use super::process::uptime;
use super::standing::{self, deed};
use super::time::{float, rfc3339, rounded, seconds, spelled};
use super::{
    BlueGreenStatus, DrainStatus, LatchStatus, Latency, Observed, PercentStatus, RollbackStatus, RolloutStatus,
    SideStatus, Sides, StepsStatus, StrategyName,
};
use crate::control::order::tag;
use crate::control::overview::Overview;
use crate::metrics::window::Recent;
use crate::policy::bucket::Percent;
use crate::policy::decision::Side;
use crate::policy::drain::Drain;
use crate::policy::latch::{Door, Latch};
use crate::policy::ramp::{Step, StepHold, Waiting};
use crate::policy::rollout::{Color, Colors, Plan, State, Strategy};
use crate::snapshot::{Rollout, Snapshot};

/// How far back the last minute goes, in seconds.
const MINUTE: f64 = 60.0;

/// The status of `rollout`, which stands in `snapshot`, at `now`.
#[must_use]
pub fn of_rollout(overview: &Overview, snapshot: &Snapshot, rollout: &Rollout, now: SystemTime) -> RolloutStatus {
    let over_seconds = uptime(overview, now).as_secs_f64().clamp(1.0, MINUTE);
    let recent = Side::ALL.map(|side| overview.recent(&rollout.name, side));
    let of = |side: Side| side_status(overview, (snapshot, rollout), side, &recent[side.index()], over_seconds);
    let (plan, state) = (&rollout.plan, &rollout.state);
    let (state_now, frozen) = progress(overview, rollout);
    let overridden = state.overridden.as_ref().filter(|_| !matches!(plan.strategy, Strategy::BlueGreen { .. }));
    let deadline = plan.schedule.deadline.map(rfc3339);
    RolloutStatus {
        name: rollout.name.clone(),
        strategy: strategy(&plan.strategy),
        version: state.version,
        etag: tag(state.version, &snapshot.config_hash),
        percent: PercentStatus {
            configured: rollout.configured().as_f64(),
            overridden: state.overridden(plan).map(Percent::as_f64),
            effective: rollout.effective().as_f64(),
            observed: observed(&recent, over_seconds),
        },
        overridden_by: overridden.map(|over| deed(over.at, &over.by, &over.reason)),
        drift: rollout.configured() != rollout.effective(),
        rollback: RollbackStatus {
            active: state.is_rolled_back(),
            latches: state.latches.iter().map(|latch| latch_status(overview, &rollout.name, latch)).collect(),
        },
        steps: steps(plan, &state_now, frozen, deadline.as_deref()),
        blue_green: blue_green(&plan.strategy, state.colors),
        deadline,
        maintenance: standing::maintenance(&rollout.service),
        hold: standing::hold(&rollout.service, state.standing.hold.as_ref()),
        guard: guard_status(overview, rollout),
        drain: state_now.drain.as_ref().map(|drain| drain_status(rollout, drain, &recent, now)),
        sides: Sides { old: of(Side::Old), new: of(Side::New) },
    }
}

/// The state with the time that has passed since it was published, and whether the schedule says no.
fn progress(overview: &Overview, rollout: &Rollout) -> (State, bool) {
    let progress = overview.progress.load();
    let moved_on = progress.rollouts.get(&rollout.name).filter(|state| state.version == rollout.state.version);
    let frozen = progress.frozen.get(&rollout.name).copied().unwrap_or_default();
    (moved_on.unwrap_or(&rollout.state).clone(), frozen)
}

fn strategy(strategy: &Strategy) -> StrategyName {
    match strategy {
        Strategy::Percent(_) => StrategyName::Percent,
        Strategy::Steps(_) => StrategyName::Steps,
        Strategy::BlueGreen { .. } => StrategyName::BlueGreen,
    }
}

fn blue_green(strategy: &Strategy, colors: Colors) -> Option<BlueGreenStatus> {
    let Strategy::BlueGreen { active } = strategy else { return None };
    let name = |color: Color| color.as_str().to_owned();
    Some(BlueGreenStatus { active: name(colors.active), old: name(colors.old), configured: name(*active) })
}

// -- the ramp

fn steps(plan: &Plan, state: &State, frozen: bool, deadline: Option<&str>) -> Option<StepsStatus> {
    let Strategy::Steps(steps) = &plan.strategy else { return None };
    let evidence = plan.evidence();
    let position = &state.position;
    let step = steps.get(position.step)?;
    let hold = match step.hold {
        StepHold::For(hold) => Some(seconds(hold)),
        StepHold::Manual => None,
    };
    Some(StepsStatus {
        step: position.step + 1,
        of: steps.len(),
        percent: step.percent.as_f64(),
        held_seconds: seconds(position.held),
        hold_seconds: hold,
        requests: position.requests,
        min_requests: step.min_requests,
        judged: position.judged,
        min_judged: evidence,
        paused: position.paused,
        frozen,
        next: steps.get(position.step + 1).map(|next| next.percent.as_f64()),
        waits_for: waits_for(state, steps, evidence, frozen),
        deadline: deadline.map(str::to_owned),
    })
}

/// What speaks against the next step, the weightiest first: the same that stops the state machine.
fn waits_for(state: &State, steps: &[Step], evidence: u64, frozen: bool) -> Option<String> {
    let position = &state.position;
    if !position.has_next(steps) {
        return None;
    }
    let words = match position.waits_for(steps, evidence) {
        _ if state.is_rolled_back() => "the rollback to be lifted".to_owned(),
        _ if state.overridden.is_some() => {
            "the percent that was set by hand to be taken away, or a promotion".to_owned()
        }
        _ if state.drain.is_some() => "the end of the drain".to_owned(),
        _ if state.standing.maintenance.is_some() => "the end of the maintenance".to_owned(),
        _ if position.paused => "somebody to let the paused steps go on".to_owned(),
        Some(Waiting::Promotion) => "somebody to promote it".to_owned(),
        Some(Waiting::Experience { time, requests, evidence }) => experience(time, requests, evidence),
        None if frozen => "the schedule to allow it".to_owned(),
        None => return None,
    };
    Some(words)
}

/// What a step waits for by itself. Both amounts are of requests on NEW; the larger one covers the other.
fn experience(time: Duration, requests: u64, evidence: u64) -> String {
    let time = Duration::from_secs(time.as_secs() + u64::from(time.subsec_nanos() > 0));
    let more = requests.max(evidence);
    let plural = if more == 1 { "request" } else { "requests" };
    let purpose = if evidence > requests { ", so that the guard could have seen trouble" } else { "" };
    let requests_on_new = format!("{more} more {plural} on new{purpose}");
    match (time.is_zero(), more) {
        (false, 0) => format!("{} more", spelled(time)),
        (true, _) => requests_on_new,
        (false, _) => format!("{} more, and {requests_on_new}", spelled(time)),
    }
}

// -- the sides

fn observed(recent: &[Recent; 2], over_seconds: f64) -> Observed {
    let requests = recent.iter().map(|recent| recent.requests).sum();
    let new = recent[Side::New.index()].requests;
    Observed { new: share(new, requests), requests, over_seconds: rounded(over_seconds, 1) }
}

/// `part` of `whole`, 0 to 100; `None` of nothing.
fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| rounded(float(part) * 100.0 / float(whole), 2))
}

fn side_status(
    overview: &Overview,
    (snapshot, rollout): (&Snapshot, &Rollout),
    side: Side,
    recent: &Recent,
    over_seconds: f64,
) -> SideStatus {
    let backend = of_backend(overview, &snapshot.backends[rollout.backend(side)]);
    SideStatus {
        backend: backend.name,
        color: color(rollout, side).map(|color| color.as_str().to_owned()),
        inflight: rollout.running(side),
        healthy: backend.healthy,
        endpoints: backend.endpoints,
        checked: backend.checked,
        endpoint_list: backend.endpoint_list,
        nowhere: backend.nowhere,
        connections: backend.connections,
        max_connections: backend.max_connections,
        pending: backend.pending,
        requests: recent.requests,
        requests_per_second: rounded(float(recent.requests) / over_seconds, 2),
        failures: recent.failures,
        failure_share: share(recent.failures, recent.requests),
        latency_ms: latency(recent),
    }
}

fn color(rollout: &Rollout, side: Side) -> Option<Color> {
    let Strategy::BlueGreen { .. } = rollout.plan.strategy else { return None };
    let old = rollout.state.colors.old;
    Some(if side == Side::Old { old } else { old.other() })
}

fn latency(recent: &Recent) -> Option<Latency> {
    let millis = |quantile| {
        let duration = recent.durations.quantile(quantile)?;
        Some(rounded(duration.as_secs_f64() * 1e3, 3))
    };
    Some(Latency { p50: millis(0.5)?, p90: millis(0.9)?, p99: millis(0.99)?, p999: millis(0.999)? })
}

// -- the drain

fn drain_status(rollout: &Rollout, drain: &Drain, recent: &[Recent; 2], now: SystemTime) -> DrainStatus {
    let inflight = rollout.running(drain.side);
    let since = now.duration_since(drain.at).unwrap_or_default();
    DrainStatus {
        side: drain.side.as_str().to_owned(),
        inflight,
        oldest_seconds: rollout.meters.oldest(rollout.seat(drain.side)).map(seconds),
        estimated_seconds: estimated(inflight, since, &recent[drain.side.index()]).map(seconds),
        cut_in_seconds: drain.cut_in.map(seconds),
        done: inflight == 0,
        deed: deed(drain.at, &drain.by, &drain.reason),
    }
}

/// The last request of a drained side began just before the drain; nearly all of the last minute's took up to p99.9. What
/// has taken longer than that already may take for ever.
fn estimated(inflight: u64, since: Duration, recent: &Recent) -> Option<Duration> {
    match inflight {
        0 => Some(Duration::ZERO),
        _ => recent.durations.quantile(0.999)?.checked_sub(since),
    }
}

// -- rollbacks

fn latch_status(overview: &Overview, rollout: &str, latch: &Latch) -> LatchStatus {
    LatchStatus {
        id: latch.id.clone(),
        source: latch.door.source().to_owned(),
        at: rfc3339(latch.at),
        by: latch.by.name.clone(),
        reason: latch.reason.clone(),
        undo: undo(latch.door, rollout, overview),
    }
}

/// What a person has to do to lift a latch that came by `door`.
#[must_use]
pub(in crate::admin) fn undo(door: Door, rollout: &str, overview: &Overview) -> String {
    let snapshot = overview.snapshot.load();
    let plan = snapshot.rollouts.iter().find(|known| known.name == rollout).map(|known| &known.plan);
    let is_written = match door {
        Door::Config => plan.is_some_and(|plan| plan.rollback_all == Some(true)),
        Door::ConfigRollout => plan.is_some_and(|plan| plan.rollback == Some(true)),
        _ => true,
    };
    if !is_written {
        return format!("tidegate resume {rollout} --reason TEXT"); // the line has vanished, which lifts nothing
    }
    let config = overview.config_path.display();
    let state_dir = overview.state_dir.as_deref().unwrap_or(Path::new(""));
    match door {
        Door::Config => format!("set `rollback: false` at the top of {config}"),
        Door::ConfigRollout => format!("set `rollback: false` for rollout {rollout} in {config}"),
        Door::FlagFile => format!("rm {}", state_dir.join("ROLLBACK").display()),
        Door::Operator | Door::Guard | Door::Deadline | Door::State => {
            format!("tidegate resume {rollout} --reason TEXT")
        }
    }
}
