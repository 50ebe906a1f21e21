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
