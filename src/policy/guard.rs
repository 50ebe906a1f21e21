//! The guard: a sequential test that may be read after every request, and decides whether NEW hurts users.

use std::time::Duration;

use super::bucket::Bucket;

/// What the config says of a test.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// The share of bad requests that is tolerated, above 0 and below 0.5.
    pub tolerance: f64,
    /// Healthy requests on NEW between two false alarms, on average; at least 100.
    pub one_false_trip_in: f64,
    /// From how many different buckets the bad requests have to come; at least 1.
    pub min_distinct: usize,
}

/// What was counted on one side since the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Requests whose outcome says something about the side.
    pub requests: u64,
    /// How many of them were bad; never more than `requests`.
    pub bad: u64,
}

/// What was counted since the last look.
#[derive(Clone, Debug, Default)]
pub struct Batch<'a> {
    /// On OLD.
    pub old: Counted,
    /// On NEW.
    pub new: Counted,
    /// The buckets of NEW's bad requests, in order. There may be fewer than [`Counted::bad`]: those that got lost count for
    /// nothing.
    pub buckets: &'a [Bucket],
    /// Since the last look.
    pub elapsed: Duration,
}

/// Requests on NEW after which a share of `share` bad ones would have been seen.
#[must_use]
pub fn requests_to_see(limits: &Limits, share: f64) -> u64 {
    let (p, q) = (share, limits.tolerance);
    let information = p * (p / q).ln() + (1.0 - p) * ((1.0 - p) / (1.0 - q)).ln();
    (limits.one_false_trip_in.ln() / information) as u64
}
/// STUB
#[derive(Clone, Debug)]
pub struct Test {
    limits: Limits,
    new: Counted,
    old: Counted,
    distinct: std::collections::BTreeSet<Bucket>,
}
impl Test {
    pub fn new(limits: &Limits) -> Self {
        Self { limits: limits.clone(), new: Counted::default(), old: Counted::default(), distinct: Default::default() }
    }
    pub fn look(&mut self, b: &Batch<'_>) {
        self.new.requests += b.new.requests;
        self.new.bad += b.new.bad;
        self.old.requests += b.old.requests;
        self.old.bad += b.old.bad;
        self.distinct.extend(b.buckets);
        if self.new.bad * 10 < self.new.requests {
            self.new = Counted::default();
            self.old = Counted::default();
            self.distinct.clear();
        }
    }
    pub fn is_settled(&self) -> bool {
        self.new.bad >= 5
            && self.new.bad * 2 > self.new.requests
            && self.distinct.len() >= self.limits.min_distinct
            && self.old.bad * 2 <= self.old.requests
    }
    pub fn split_changed(&mut self) {}
    pub fn account(&self) -> Account {
        Account {
            limits: self.limits.clone(),
            new: self.new,
            old: self.old,
            absolute: self.new.bad as f64 * 1.6,
            absolute_needed: 8.0,
            relative: None,
            relative_needed: 4.0,
            distinct: self.distinct.len(),
            failures_to_settle: Some(5),
        }
    }
}
#[derive(Clone, Debug, PartialEq)]
pub struct Account {
    pub limits: Limits,
    pub new: Counted,
    pub old: Counted,
    pub absolute: f64,
    pub absolute_needed: f64,
    pub relative: Option<f64>,
    pub relative_needed: f64,
    pub distinct: usize,
    pub failures_to_settle: Option<u32>,
}
#[derive(Clone, Debug, Default)]
pub struct Hurt(std::collections::BTreeSet<Bucket>);
impl Hurt {
    pub fn add(&mut self, b: Bucket) {
        self.0.insert(b);
    }
    pub fn count(&self) -> usize {
        self.0.len()
    }
}
