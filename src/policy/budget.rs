//! How many requests may be sent a second time: to OLD by a shield, or to another endpoint by a retry.
//!
//! Without a bound a backend that fails everything would double the load at the worst moment.

use super::bucket::Percent;

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
