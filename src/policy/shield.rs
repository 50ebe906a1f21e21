//! The shield: whether a request that NEW failed may be sent again, to OLD, so that its user does not see the failure.
//!
//! What may have been executed is sent again only if doing it twice is doing it once. How often it is done at all is bounded by
//! a [`Budget`], since a NEW that fails everything would otherwise double the load of OLD at the worst moment.

use super::bucket::Percent;
use super::decision::{Decision, Reason, Side};

/// A request, as far as it matters for sending it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// Who answers, and why.
    pub decision: Decision,
    /// It asked for another protocol: what follows it may be no request.
    pub asks_for_upgrade: bool,
    /// Doing it twice is doing it once: see [`is_repeatable`].
    pub is_repeatable: bool,
    /// How far it got.
    pub reached: Reached,
}

/// How far a request got before it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// Not a byte of it was sent.
    Nobody,
    /// It may have been executed. `is_kept` says that all of it is still here.
    Backend {
        /// The head and the whole body can be sent once more.
        is_kept: bool,
    },
}

/// Whether OLD may be asked in place of NEW. A tester who chose NEW is to see NEW.
#[must_use]
pub fn may_replay(case: Case) -> bool {
    let is_shielded =
        case.decision.side == Side::New && case.decision.reason != Reason::Force && !case.asks_for_upgrade;
    is_shielded
        && match case.reached {
            Reached::Nobody => true,
            Reached::Backend { is_kept } => case.is_repeatable && is_kept,
        }
}

/// Whether doing a request twice is doing it once: by its method (idempotent, RFC 9110 §9.2.2), or because its client gave it
/// an `Idempotency-Key` by which the service finds out.
#[must_use]
pub fn is_repeatable(method: &str, has_key: bool) -> bool {
    has_key || matches!(method, "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE")
}

/// How many requests may be sent again: a token bucket. Each request puts in a share of a token, sending one again takes a whole
/// one. It holds 100 at most and is full at first.
///
/// Tokens are counted in ten-thousandths, so that a share in hundredths of a percent is a whole number of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    /// What is missing from a full one.
    missing: u32,
}

impl Budget {
    const TOKEN: u32 = 10_000;
    const FULL: u32 = 100 * Self::TOKEN;

    /// A budget from which `missing` ten-thousandths of a token are missing.
    #[must_use]
    pub fn missing(missing: u32) -> Self {
        Self { missing: missing.min(Self::FULL) }
    }

    /// Ten-thousandths of a token that are missing from a full one.
    #[must_use]
    pub fn is_missing(self) -> u32 {
        self.missing
    }

    /// After a request, which puts in `share` of a token.
    #[must_use]
    pub fn after_request(self, share: Percent) -> Self {
        Self { missing: self.missing.saturating_sub(u32::from(share.hundredths())) }
    }

    /// After a request was sent again; `None` if there is no whole token for it.
    #[must_use]
    pub fn after_replay(self) -> Option<Self> {
        let missing = self.missing + Self::TOKEN;
        (missing <= Self::FULL).then_some(Self { missing })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NEW: Decision = Decision { side: Side::New, reason: Reason::Bucket };
    const OLD: Decision = Decision { side: Side::Old, reason: Reason::Bucket };
    const FORCED: Decision = Decision { side: Side::New, reason: Reason::Force };
    const UNSENT: Reached = Reached::Nobody;
    const KEPT: Reached = Reached::Backend { is_kept: true };
    const GONE: Reached = Reached::Backend { is_kept: false };

    #[test]
    fn what_may_be_sent_again() {
        for (decision, asks_for_upgrade, is_repeatable, reached, expected) in [
            (NEW, false, true, UNSENT, true),
            (NEW, false, true, KEPT, true),
            (NEW, false, true, GONE, false),
            (NEW, false, false, UNSENT, true),
            (NEW, false, false, KEPT, false),
            (NEW, false, false, GONE, false),
            (NEW, true, true, UNSENT, false),
            (NEW, true, true, KEPT, false),
            (FORCED, false, true, UNSENT, false),
            (FORCED, false, true, KEPT, false),
            (OLD, false, true, UNSENT, false),
            (OLD, false, true, KEPT, false),
        ] {
            let case = Case { decision, asks_for_upgrade, is_repeatable, reached };
            assert_eq!(may_replay(case), expected, "{case:?}");
        }
        for reason in Reason::ALL {
            let case = Case {
                decision: Decision { side: Side::New, reason },
                asks_for_upgrade: false,
                is_repeatable: true,
                reached: KEPT,
            };
            assert_eq!(may_replay(case), reason != Reason::Force, "{reason:?}");
        }
    }

    #[test]
    fn what_is_done_twice_is_done_once() {
        for (method, by_itself) in [
            ("GET", true),
            ("HEAD", true),
            ("OPTIONS", true),
            ("TRACE", true),
            ("PUT", true),
            ("DELETE", true),
            ("POST", false),
            ("PATCH", false),
            ("CONNECT", false),
            ("get", false),
            ("PROPFIND", false),
        ] {
            assert_eq!(is_repeatable(method, false), by_itself, "{method}");
            assert!(is_repeatable(method, true), "{method}");
        }
    }

    fn share(percent: f64) -> Percent {
        Percent::from_f64(percent).unwrap()
    }

    /// How many may be sent again in a row.
    fn left(mut budget: Budget) -> usize {
        std::iter::from_fn(|| {
            budget = budget.after_replay()?;
            Some(())
        })
        .count()
    }

    #[test]
    fn a_hundred_at_first_and_then_a_share_of_the_requests() {
        assert_eq!(left(Budget::default()), 100);
        let spent = Budget::missing(u32::MAX);
        assert_eq!(left(spent), 0);
        for (percent, requests, replays) in [
            (20.0, 4, 0),
            (20.0, 5, 1),
            (20.0, 499, 99),
            (20.0, 10_000, 100),
            (0.01, 9_999, 0),
            (0.01, 10_000, 1),
            (100.0, 7, 7),
        ] {
            let budget = (0..requests).fold(spent, |budget, _| budget.after_request(share(percent)));
            assert_eq!(left(budget), replays, "{requests} requests at {percent} %");
        }
    }

    proptest! {
        #[test]
        fn over_any_time_no_more_than_a_hundred_and_the_share(
            percent in 1u16..=10_000,
            wants in proptest::collection::vec(any::<bool>(), 0..2_000),
        ) {
            let share = Percent::from_hundredths(percent).unwrap();
            let (mut budget, mut replays) = (Budget::default(), 0u64);
            for wants in &wants {
                budget = budget.after_request(share);
                if *wants && let Some(after) = budget.after_replay() {
                    (budget, replays) = (after, replays + 1);
                }
            }
            prop_assert!(replays * 10_000 <= 1_000_000 + wants.len() as u64 * u64::from(percent));
        }
    }
}
