//! Why a guard leaves a NEW alone that fails more than is tolerated.

use crate::admin::status::Sense;
use crate::cli::words::{grouped, share};

/// What keeps the guard from tripping, in a few words; `None` if NEW fails no more than is tolerated.
pub(in crate::cli) fn doubt(failures: &Sense) -> Option<String> {
    let (new, old) = (&failures.counted.new, &failures.counted.old);
    if new.share.is_none_or(|share| share <= failures.tolerated) {
        return None;
    }
    let is_enough = |share: f64| share >= 1.0;
    let is_as_bad = failures.worse_than_old.as_ref().is_some_and(|evidence| !is_enough(evidence.share)) && old.bad > 0;
    Some(match is_as_bad {
        true => format!("old failed {} of {} ({})", grouped(old.bad), grouped(old.requests), share(old.share)),
        false if !is_enough(failures.worse_than_tolerated.share) => "not yet enough evidence".to_owned(),
        false if failures.users < failures.users_needed => {
            format!("seen by {} of {} users that it takes", failures.users, failures.users_needed)
        }
        false => "not yet enough evidence that old would do better".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::status::{Evidence, SideCount, Sides};

    /// A NEW that failed all of 12 requests, with so much of the evidence that it takes.
    fn failures(old: SideCount, evidence: f64, than_old: Option<f64>, users: usize) -> Sense {
        let of = |share| Evidence { odds: 1.0, enough: 2.0, share };
        Sense {
            tolerated: 1.0,
            counted: Sides { old, new: SideCount { requests: 12, bad: 12, share: Some(100.0) } },
            worse_than_tolerated: of(evidence),
            worse_than_old: than_old.map(of),
            users,
            users_needed: 3,
            in_a_row: None,
        }
    }

    #[test]
    fn what_holds_it_back_is_told() {
        let none = || SideCount { requests: 0, bad: 0, share: None };
        let bad = || SideCount { requests: 5, bad: 5, share: Some(100.0) };
        let well = || SideCount { requests: 5, bad: 0, share: Some(0.0) };
        for (failures, told) in [
            (failures(bad(), 1.0, Some(0.0), 3), "old failed 5 of 5 (100 %)"),
            (failures(none(), 0.5, None, 3), "not yet enough evidence"),
            (failures(none(), 1.0, None, 1), "seen by 1 of 3 users that it takes"),
            (failures(well(), 1.0, Some(0.5), 3), "not yet enough evidence that old would do better"),
        ] {
            assert_eq!(doubt(&failures).as_deref(), Some(told));
        }
        let mut calm = failures(well(), 0.0, Some(0.0), 1);
        calm.counted.new = SideCount { requests: 1_000, bad: 10, share: Some(1.0) };
        assert_eq!(doubt(&calm), None);
    }
}
