//! What the guards have found last, for as long as that stands.
//!
//! A guard forgets: after a rollback its evidence is about nothing any more. Whoever looks afterwards wants to know what it
//! was, with the numbers of that moment.

use std::collections::BTreeMap;
use std::time::SystemTime;

use super::guards::Known;
use crate::policy::latch::Door;
use crate::policy::rollout::{Action, State, Verdict};

/// What a guard has found, and when.
#[derive(Clone, Debug)]
pub struct Finding {
    /// When.
    pub at: SystemTime,
    /// What.
    pub verdict: Verdict,
    /// What was to be done about it.
    pub action: Action,
    /// The numbers that had settled it.
    pub numbers: Known,
}

/// The latest findings that stand, by rollout.
pub type Findings = BTreeMap<String, Finding>;

impl Finding {
    /// Whether it still stands on a rollout in `state`, of which the guard knows `known` now.
    #[must_use]
    pub fn stands(&self, state: &State, known: &Known) -> bool {
        let is_latched = state.latches.iter().any(|latch| latch.door == Door::Guard);
        let is_found = known.found.is_some();
        is_latched
            || match self.action {
                Action::Rollback => false,
                Action::StepBack => state.position.paused,
                Action::HoldStep => state.position.paused || is_found,
                Action::Notify => is_found,
            }
    }
}

/// Drops what does not stand any more.
pub fn keep_what_stands(findings: &mut Findings, states: &BTreeMap<String, State>, known: &BTreeMap<String, Known>) {
    findings.retain(|name, finding| match (states.get(name), known.get(name)) {
        (Some(state), Some(known)) => finding.stands(state, known),
        _ => false,
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::actor::{Actor, Source};
    use crate::policy::guard::{Limits, Test};
    use crate::policy::latch::Latch;
    use crate::policy::rollout::Cause;

    fn known(found: bool) -> Known {
        let limits = Limits { tolerance: 0.01, one_false_trip_in: 1e8, min_distinct: 3 };
        let verdict = Verdict { cause: Cause::Failures, reason: String::new() };
        Known {
            failures: Test::new(&limits),
            latency: None,
            slow_above: None,
            users_hurt: 0,
            max_users_hurt: None,
            action: Action::Rollback,
            found: found.then_some(verdict),
            queries: Vec::new(),
        }
    }

    fn state(latched: bool, paused: bool) -> State {
        let (at, by) = (SystemTime::UNIX_EPOCH, Actor::new(Source::Guard, "guard"));
        let latch = Latch { id: "a-1".into(), door: Door::Guard, at, by, reason: String::new() };
        let mut state = State { latches: if latched { vec![latch] } else { vec![] }, ..State::default() };
        state.position.paused = paused;
        state
    }

    #[test]
    fn a_finding_stands_for_as_long_as_what_it_did() {
        for (action, latched, paused, found, stands) in [
            (Action::Rollback, true, false, false, true),
            (Action::Rollback, false, false, true, false),
            (Action::StepBack, false, true, false, true),
            (Action::StepBack, true, false, false, true),
            (Action::StepBack, false, false, true, false),
            (Action::HoldStep, false, true, false, true),
            (Action::HoldStep, false, false, true, true),
            (Action::HoldStep, false, false, false, false),
            (Action::Notify, false, true, true, true),
            (Action::Notify, false, true, false, false),
        ] {
            let verdict = Verdict { cause: Cause::Failures, reason: String::new() };
            let finding = Finding { at: SystemTime::UNIX_EPOCH, verdict, action, numbers: known(false) };
            let found = known(found);
            assert_eq!(
                finding.stands(&state(latched, paused), &found),
                stands,
                "{action:?} {latched} {paused} {found:?}"
            );
        }
    }

    #[test]
    fn what_is_gone_from_the_config_stands_no_more() {
        let verdict = Verdict { cause: Cause::Failures, reason: String::new() };
        let finding = Finding { at: SystemTime::UNIX_EPOCH, verdict, action: Action::Rollback, numbers: known(false) };
        let mut findings = BTreeMap::from(["here", "gone"].map(|name| (name.to_owned(), finding.clone())));
        let states = BTreeMap::from(["here", "gone"].map(|name| (name.to_owned(), state(true, false))));
        keep_what_stands(&mut findings, &states, &BTreeMap::from([("here".to_owned(), known(false))]));
        assert_eq!(findings.into_keys().collect::<Vec<_>>(), ["here"]);
    }
}
