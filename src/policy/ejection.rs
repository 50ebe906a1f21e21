//! Taking out an endpoint that fails requests one after the other, without asking it anything ("outlier detection").
//!
//! It stays out for a while, each time for longer, and comes back by itself. Never so many are out that those who are left
//! would be overrun, and never the last one: a bad endpoint is better than none.

use std::time::Duration;

use super::bucket::Percent;
use super::outcome::Failure;

/// The longest time that an endpoint is out at once, unless the shortest is longer.
pub const LONGEST: Duration = Duration::from_mins(5);

/// When endpoints are taken out, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// So many failed requests in a row are too many; at least 1.
    pub consecutive_failures: u32,
    /// How long it is out for the first time; the nth time n times as long, at most [`LONGEST`].
    pub base: Duration,
    /// The share of the endpoints that may be out.
    pub max_ejected: Percent,
}

impl Rules {
    /// Whether one more of `all` endpoints may be taken out, while `ejected` of them are and `fit` of them serve.
    #[must_use]
    pub fn allow_one_more(&self, all: usize, ejected: usize, fit: usize) -> bool {
        let most = all as u128 * u128::from(self.max_ejected.hundredths()) / 10_000;
        fit > 1 && (ejected as u128) < most
    }
}

/// Whether what came of a request counts against the endpoint that had it. What the service itself made of the request is for
/// the guard to judge, but for the statuses by which a gateway or an overloaded server says that nobody is there.
#[must_use]
pub fn counts(failure: Failure) -> bool {
    matches!(
        failure,
        Failure::Connect
            | Failure::ConnectTimeout
            | Failure::Tls
            | Failure::NoHttp2
            | Failure::OnlyHttp2
            | Failure::Certificate
            | Failure::ResponseTimeout
            | Failure::Reset
            | Failure::Refused
            | Failure::Malformed
            | Failure::Truncated
    )
}

/// Whether an answer with this status counts against the endpoint: 502, 503 and 504.
#[must_use]
pub fn counts_status(status: u16) -> bool {
    matches!(status, 502..=504)
}

/// An endpoint's past. Times are on one clock that never goes back, such as the time since the process started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// How often it was taken out, forgiven times aside.
    times: u32,
    until: Option<Duration>,
    returned: Duration,
}

impl Record {
    /// Until when it is out, if it is.
    #[must_use]
    pub fn until(&self) -> Option<Duration> {
        self.until
    }

    /// Taken out at `now`. For each `base` that it has served since the last time, one time is forgiven.
    #[must_use]
    pub fn taken_out(self, now: Duration, rules: &Rules) -> Self {
        let served = now.saturating_sub(self.returned);
        let forgiven = served.as_nanos().checked_div(rules.base.as_nanos()).unwrap_or(u128::MAX);
        let times = self.times.saturating_sub(u32::try_from(forgiven).unwrap_or(u32::MAX)).saturating_add(1);
        let out = rules.base.saturating_mul(times).min(LONGEST.max(rules.base));
        Self { times, until: Some(now.saturating_add(out)), ..self }
    }

    /// Serves again from `now` on.
    #[must_use]
    pub fn brought_back(self, now: Duration) -> Self {
        Self { until: None, returned: now, ..self }
    }

    /// Whether its time is over at `now`.
    #[must_use]
    pub fn is_due(&self, now: Duration) -> bool {
        self.until.is_some_and(|until| until <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn rules(percent: f64) -> Rules {
        Rules { consecutive_failures: 5, base: 30 * SECOND, max_ejected: Percent::from_f64(percent).unwrap() }
    }

    #[test]
    fn so_many_may_be_out() {
        for (percent, all, ejected, fit, expected) in [
            (50.0, 1, 0, 1, false), // never the last one
            (50.0, 2, 0, 2, true),
            (50.0, 2, 1, 1, false),
            (50.0, 3, 0, 3, true),
            (50.0, 3, 1, 2, false),
            (50.0, 4, 1, 3, true),
            (50.0, 4, 1, 1, false), // checks have taken out two others
            (100.0, 2, 1, 1, false),
            (100.0, 3, 1, 2, true),
            (10.0, 9, 0, 9, false),
            (10.0, 10, 0, 10, true),
            (0.0, 10, 0, 10, false),
        ] {
            let allowed = rules(percent).allow_one_more(all, ejected, fit);
            assert_eq!(allowed, expected, "{ejected} of {all} out, {fit} fit, at most {percent} %");
        }
    }

    #[test]
    fn each_time_for_longer_and_no_longer_than_five_minutes() {
        let rules = rules(50.0);
        let (mut record, mut now) = (Record::default(), Duration::ZERO);
        for expected in [30, 60, 90, 120, 150, 180, 210, 240, 270, 300, 300] {
            record = record.taken_out(now, &rules);
            assert_eq!(record.until(), Some(now + expected * SECOND));
            now += expected * SECOND;
            assert!(record.is_due(now));
            record = record.brought_back(now);
            assert_eq!(record.until(), None);
        }
    }

    #[test]
    fn a_base_longer_than_five_minutes_stands() {
        let rules = Rules { base: 600 * SECOND, ..rules(50.0) };
        assert_eq!(Record::default().taken_out(SECOND, &rules).until(), Some(601 * SECOND));
    }

    #[test]
    fn good_service_is_remembered() {
        let rules = rules(50.0);
        let at = |seconds: u32| seconds * SECOND;
        let twice = Record::default().taken_out(at(0), &rules).brought_back(at(30)).taken_out(at(30), &rules);
        let back = twice.brought_back(at(90));
        assert_eq!(back.taken_out(at(91), &rules).until(), Some(at(91 + 90)));
        assert_eq!(back.taken_out(at(120), &rules).until(), Some(at(120 + 60)), "one is forgiven");
        assert_eq!(back.taken_out(at(9000), &rules).until(), Some(at(9000 + 30)), "all are");
    }

    #[test]
    fn what_counts_against_an_endpoint() {
        for status in [200, 404, 499, 500, 501, 505] {
            assert!(!counts_status(status), "{status}");
        }
        for status in [502, 503, 504] {
            assert!(counts_status(status), "{status}");
        }
        assert!(counts(Failure::Connect) && counts(Failure::Truncated));
        assert!(!counts(Failure::Stale) && !counts(Failure::OwnLimit) && !counts(Failure::Status));
    }

    proptest! {
        #[test]
        fn somebody_is_always_left(all in 1usize..50, percent in 0u16..=10_000, unwell in 0usize..50) {
            let rules = Rules { max_ejected: Percent::from_hundredths(percent).unwrap(), ..rules(0.0) };
            let fit_at_first = all.saturating_sub(unwell);
            let (mut fit, mut ejected) = (fit_at_first, 0);
            while rules.allow_one_more(all, ejected, fit) {
                (fit, ejected) = (fit - 1, ejected + 1);
            }
            prop_assert!(fit >= 1 || fit_at_first == 0);
            prop_assert!(ejected as u64 * 10_000 <= all as u64 * u64::from(percent));
        }

        #[test]
        fn nobody_is_out_for_less_than_the_base_or_more_than_the_cap(
            served in proptest::collection::vec(0u64..2_000, 1..30),
        ) {
            let rules = rules(50.0);
            let (mut record, mut now) = (Record::default(), Duration::ZERO);
            for served in served {
                now += Duration::from_secs(served);
                record = record.taken_out(now, &rules);
                let out = record.until().unwrap() - now;
                prop_assert!(out >= rules.base && out <= LONGEST);
                now += out;
                record = record.brought_back(now);
            }
        }
    }
}
