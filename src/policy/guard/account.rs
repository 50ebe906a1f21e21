//! What a person wants to know of a test.

use std::f64::consts::LN_10;
use std::time::Duration;

use super::{Batch, Counted, Limits, Test};
use crate::policy::bucket::{BUCKETS, Bucket};

/// How far ahead is looked.
const FAR: u32 = 1_000;

/// Everything a person wants to know of a test. Evidence is the decimal logarithm of an e-value: 8 stands for "this would
/// come once in 10^8 if nothing were wrong". It is at least 0.
#[derive(Clone, Debug, PartialEq)]
pub struct Account {
    /// What the config says.
    pub limits: Limits,
    /// Counted on NEW in the current run: since the evidence that NEW is above the tolerance was last at its floor. Bad
    /// requests that were not admitted (too many from one bucket) are in neither number.
    pub new: Counted,
    /// Counted on OLD in that time.
    pub old: Counted,
    /// Evidence that NEW is above the tolerance.
    pub absolute: f64,
    /// How much of it is needed.
    pub absolute_needed: f64,
    /// Evidence that NEW is worse than OLD at the same time. `None`: OLD has no traffic, so the absolute part stands alone.
    pub relative: Option<f64>,
    /// How much of it is needed: 4, and more while OLD itself seems to be above the tolerance.
    pub relative_needed: f64,
    /// From how many buckets the run's bad requests come; counted up to 64.
    pub distinct: usize,
    /// How many bad requests of NEW in a row, each from a bucket of its own, would settle it now, with OLD healthy meanwhile
    /// at its usual share of the traffic; 0 if it is settled. `None` if more than 1 000.
    pub failures_to_settle: Option<u32>,
}

impl Test {
    /// How things stand. It looks ahead, which may take a millisecond: meant for people, not for every request.
    #[must_use]
    pub fn account(&self) -> Account {
        Account {
            limits: self.limits.clone(),
            new: self.new,
            old: self.old,
            absolute: self.absolute.evidence().max(0.0) / LN_10,
            absolute_needed: self.limits.one_false_trip_in.log10(),
            relative: (!self.share.old_is_silent()).then(|| self.relative.evidence().max(0.0) / LN_10),
            relative_needed: self.relative_needed() / LN_10,
            distinct: self.spread.distinct(),
            failures_to_settle: self.failures_to_settle(),
        }
    }

    fn failures_to_settle(&self) -> Option<u32> {
        if self.is_settled() {
            return Some(0);
        }
        let mut ahead = self.clone();
        let mut old = Healthy { per_failure: self.share.old_per_new(), owed: 0.5 };
        let unhurt = (0..BUCKETS).filter_map(Bucket::from_number).filter(|bucket| !self.spread.has(*bucket));
        (1..=FAR).zip(unhurt.cycle()).find_map(|(count, bucket)| {
            let new = Counted { requests: 1, bad: 1 };
            ahead.look(&Batch { old: old.next(), new, buckets: &[bucket], elapsed: Duration::ZERO });
            ahead.is_settled().then_some(count)
        })
    }
}

/// OLD's requests beside each failure of NEW, in whole ones.
struct Healthy {
    per_failure: f64,
    owed: f64,
}

impl Healthy {
    fn next(&mut self) -> Counted {
        self.owed += self.per_failure;
        let whole = self.owed.floor();
        self.owed -= whole;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative; `as` saturates")]
        let requests = whole as u64;
        Counted { requests, bad: 0 }
    }
}
