//! What a rollout's guard knows and does, as status tells it.

use std::time::Duration;

use super::rollout::undo;
use super::time::{float, rfc3339, rounded};
use super::{Evidence, GuardReport, GuardStatus, GuardVerdict, LatencySense, QueryStatus, Sense, SideCount, Sides};
use crate::control::findings::Finding;
use crate::control::guards::Known;
use crate::control::overview::Overview;
use crate::control::queries::QueryKnown;
use crate::policy::guard::{Account, Counted};
use crate::policy::latch::{Door, Latch};
use crate::policy::rollout::{Action, Plan, State};
use crate::snapshot::Rollout;

/// Odds beyond this say nothing more; it is as many as a config may ask for.
const CERTAIN: f64 = 15.0;

/// What the guard of `rollout` knows, with the rollout's name.
#[must_use]
pub fn guard_report(overview: &Overview, rollout: &Rollout) -> GuardReport {
    GuardReport {
        rollout: rollout.name.clone(),
        percent: rollout.effective().as_f64(),
        guard: guard_status(overview, rollout),
    }
}

/// What the guard of `rollout` knows.
pub(super) fn guard_status(overview: &Overview, rollout: &Rollout) -> GuardStatus {
    let (plan, state) = (&rollout.plan, &rollout.state);
    let findings = overview.findings.load();
    let finding = findings.get(&rollout.name);
    let guards = overview.guards.load();
    let latch = state.latches.iter().find(|latch| latch.door == Door::Guard);
    // Once everybody is on OLD there is nothing to know; what matters is what was known when it was settled.
    let settled = finding.filter(|_| latch.is_some()).map(|finding| &finding.numbers);
    let known = settled.or_else(|| guards.get(&rollout.name)).filter(|_| plan.guard.is_some());
    let told = Told { verdict: verdict(plan, latch, finding), latch, finding };
    GuardStatus {
        armed: plan.guard.is_some(),
        verdict: told.verdict,
        action: plan.guard.map(|guard| guard.action.as_str().to_owned()),
        cause: told.cause(),
        reason: told.reason(),
        since: told.since(),
        undo: told.undo(overview, &rollout.name, state),
        failures: known.map(|known| sense(&known.failures.account())),
        latency: known.and_then(latency),
        users_hurt: known.map(|known| known.users_hurt),
        max_users_hurt: known.and_then(|known| known.max_users_hurt),
        queries: known.map(|known| known.queries.iter().map(query).collect()).unwrap_or_default(),
    }
}

/// What has to be told of a verdict, and where it stands.
struct Told<'a> {
    verdict: GuardVerdict,
    latch: Option<&'a Latch>,
    finding: Option<&'a Finding>,
}

fn verdict(plan: &Plan, latch: Option<&Latch>, finding: Option<&Finding>) -> GuardVerdict {
    match (latch, plan.guard, finding.map(|finding| finding.action)) {
        (Some(_), _, _) => GuardVerdict::Tripped,
        (None, None, _) => GuardVerdict::Off,
        (None, Some(_), Some(Action::StepBack)) => GuardVerdict::Tripped,
        (None, Some(_), Some(Action::HoldStep | Action::Notify)) => GuardVerdict::WouldHaveTripped,
        (None, Some(_), Some(Action::Rollback) | None) => GuardVerdict::Healthy,
    }
}

impl Told<'_> {
    /// What was found, unless there is a latch that is older than it.
    fn found(&self) -> Option<&Finding> {
        let stands = matches!(self.verdict, GuardVerdict::Tripped | GuardVerdict::WouldHaveTripped);
        let is_of_it = |finding: &&Finding| self.latch.is_none_or(|latch| latch.reason == finding.verdict.reason);
        self.finding.filter(|_| stands).filter(is_of_it)
    }

    fn cause(&self) -> Option<String> {
        self.found().map(|finding| finding.verdict.cause.as_str().to_owned())
    }

    fn reason(&self) -> Option<String> {
        let latched = self.latch.map(|latch| &latch.reason);
        latched.or_else(|| self.found().map(|finding| &finding.verdict.reason)).cloned()
    }

    fn since(&self) -> Option<String> {
        let latched = self.latch.map(|latch| latch.at);
        latched.or_else(|| self.found().map(|finding| finding.at)).map(rfc3339)
    }

    fn undo(&self, overview: &Overview, rollout: &str, state: &State) -> Option<String> {
        if let Some(latch) = self.latch {
            return Some(undo(latch.door, rollout, overview));
        }
        let is_held = self.found().is_some() && state.position.paused;
        is_held.then(|| format!("tidegate step continue {rollout} --reason TEXT"))
    }
}

// -- the numbers

fn latency(known: &Known) -> Option<LatencySense> {
    let slow_above_ms = known.slow_above.map(|bound: Duration| rounded(bound.as_secs_f64() * 1e3, 3));
    known.latency.as_ref().map(|slow| LatencySense { slow_above_ms, sense: sense(&slow.account()) })
}

fn query(known: &QueryKnown) -> QueryStatus {
    QueryStatus {
        name: known.name.clone(),
        bad_if: known.bad_if.to_string(),
        asked: known.is_asked,
        last: known.last.as_ref().map(ToString::to_string),
        at: known.at.map(rfc3339),
        bad_in_a_row: known.bad_in_a_row,
        failures: known.failures,
    }
}

fn sense(account: &Account) -> Sense {
    Sense {
        tolerated: rounded(account.limits.tolerance * 100.0, 2),
        counted: Sides { old: count(account.old), new: count(account.new) },
        worse_than_tolerated: evidence(account.absolute, account.absolute_needed),
        worse_than_old: account.relative.map(|relative| evidence(relative, account.relative_needed)),
        users: account.distinct,
        users_needed: account.limits.min_distinct,
        in_a_row: account.failures_to_settle,
    }
}

fn count(counted: Counted) -> SideCount {
    let share = (counted.requests > 0).then(|| rounded(float(counted.bad) * 100.0 / float(counted.requests), 2));
    SideCount { requests: counted.requests, bad: counted.bad, share }
}

/// Both are base 10 logarithms of odds.
fn evidence(found: f64, needed: f64) -> Evidence {
    Evidence { odds: odds(found), enough: odds(needed), share: share(found, needed) }
}

/// How far evidence has come, 0 to 1, to three decimals. It is 1 only when it is enough.
#[must_use]
pub fn share(found: f64, needed: f64) -> f64 {
    if found >= needed { 1.0 } else { rounded((found / needed).clamp(0.0, 0.999), 3) }
}

/// The odds of a base 10 logarithm, 0 to 10^15.
fn odds(logarithm: f64) -> f64 {
    let odds = 10_f64.powf(logarithm.min(CERTAIN));
    rounded(odds, if odds < 10.0 { 1 } else { 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evidence_is_told_as_odds_and_as_a_share_of_the_way() {
        for (found, needed, odds, enough, share) in [
            (0.0, 8.0, 1.0, 1e8, 0.0),
            (-0.3, 4.0, 0.5, 1e4, 0.0),
            (1.08, 8.0, 12.0, 1e8, 0.135),
            (9.0, 8.0, 1e9, 1e8, 1.0),
            (400.0, 8.0, 1e15, 1e8, 1.0),
        ] {
            assert_eq!(evidence(found, needed), Evidence { odds, enough, share }, "{found} of {needed}");
        }
    }

    #[test]
    fn a_side_without_requests_has_no_share() {
        assert_eq!(count(Counted::default()).share, None);
        assert_eq!(count(Counted { requests: 5_210, bad: 3 }).share, Some(0.06));
    }
}
