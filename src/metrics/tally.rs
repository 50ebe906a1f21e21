//! What the guard is told: each worker counts for itself, the controller reads all of them.
//!
//! Only requests that were decided in the *epoch* that is being watched count. A request carries its epoch in the snapshot
//! by which it was decided; whatever makes earlier outcomes meaningless (another backend, another split, a pause of the
//! process) begins another epoch, and those that are still running then count for nothing.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use super::Counter;
use crate::policy::bucket::Bucket;
use crate::policy::decision::Side;
use crate::policy::guard::Counted;

/// How many of the latest bad requests are remembered with their buckets, a worker. The controller reads within a
/// millisecond of each.
const REMEMBERED: usize = 128;
/// Beside a bucket: the user did not see the failure.
const SHIELDED: u32 = 1 << 16;
/// Nothing is too slow.
const NO_BOUND: u64 = u64::MAX;

/// What is counted for the guard of one rollout.
#[derive(Debug)]
pub struct Tallies {
    epoch: AtomicU64,
    /// Microseconds above which a request is slow.
    slow_above: AtomicU64,
    workers: Box<[[Tally; 2]]>,
}

/// What one worker counts on one side.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Tally {
    failures: Marks,
    slow: Marks,
}

/// Requests, the bad ones among them, and whose they were.
#[derive(Debug)]
pub struct Marks {
    requests: Counter,
    bad: AtomicU64,
    buckets: [AtomicU32; REMEMBERED],
}

impl Default for Marks {
    fn default() -> Self {
        let buckets = std::array::from_fn(|_| AtomicU32::new(0));
        Self { requests: Counter::default(), bad: AtomicU64::new(0), buckets }
    }
}

/// Whose a bad request was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The user's bucket.
    pub bucket: Bucket,
    /// Whether the user got OLD's answer instead.
    pub is_shielded: bool,
}

impl Tallies {
    pub(super) fn new(workers: usize) -> Self {
        let workers = (0..workers).map(|_| Default::default()).collect();
        Self { epoch: AtomicU64::new(0), slow_above: AtomicU64::new(NO_BOUND), workers }
    }

    /// The epoch whose requests count.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Relaxed)
    }

    /// From now on only requests of `epoch` count. Control plane only.
    pub fn watch(&self, epoch: u64) {
        self.epoch.store(epoch, Ordering::Relaxed);
    }

    /// Above which time a request is slow; `None` if nothing is.
    #[must_use]
    pub fn slow_above(&self) -> Option<Duration> {
        let micros = self.slow_above.load(Ordering::Relaxed);
        (micros != NO_BOUND).then(|| Duration::from_micros(micros))
    }

    /// Calls requests slow that take longer than `bound`. Control plane only.
    pub fn call_slow(&self, bound: Option<Duration>) {
        let micros = bound.map_or(NO_BOUND, |bound| u64::try_from(bound.as_micros()).unwrap_or(NO_BOUND));
        self.slow_above.store(micros, Ordering::Relaxed);
    }

    /// What `worker` counts on `side`.
    #[must_use]
    pub fn of(&self, worker: usize, side: Side) -> &Tally {
        &self.workers[worker][side.index()]
    }

    /// What all workers count on `side`.
    pub fn all(&self, side: Side) -> impl Iterator<Item = &Tally> {
        self.workers.iter().map(move |sides| &sides[side.index()])
    }
}

impl Tally {
    /// Failures, and the requests among which they are.
    #[must_use]
    pub fn failures(&self) -> &Marks {
        &self.failures
    }

    /// Slow requests, and those among which they are.
    #[must_use]
    pub fn slow(&self) -> &Marks {
        &self.slow
    }
}

impl Marks {
    /// A request that was not bad. Only the worker that owns this may call it.
    pub fn good(&self) {
        self.requests.increment();
    }

    /// A bad request. Only the worker that owns this may call it.
    pub fn bad(&self, mark: Mark) {
        self.requests.increment();
        let bad = self.bad.load(Ordering::Relaxed);
        let packed = u32::from(mark.bucket.get()) | if mark.is_shielded { SHIELDED } else { 0 };
        self.buckets[place(bad)].store(packed, Ordering::Relaxed);
        self.bad.store(bad.wrapping_add(1), Ordering::Release);
    }

    /// What was counted since `position`, which moves on. The marks of the bad ones are added to `marks`, as far as they are
    /// still remembered.
    pub fn read(&self, position: &mut Counted, marks: &mut Vec<Mark>) -> Counted {
        let bad = self.bad.load(Ordering::Acquire); // first: a request is counted before it is found bad
        let requests = self.requests.get();
        let counted =
            Counted { requests: requests.wrapping_sub(position.requests), bad: bad.wrapping_sub(position.bad) };
        let remembered = counted.bad.min(REMEMBERED as u64);
        marks.extend((bad.wrapping_sub(remembered)..bad).filter_map(|at| self.mark(at)));
        *position = Counted { requests, bad };
        counted
    }

    fn mark(&self, at: u64) -> Option<Mark> {
        let packed = self.buckets[place(at)].load(Ordering::Relaxed);
        let bucket = u16::try_from(packed & (SHIELDED - 1)).ok().and_then(Bucket::from_number)?;
        Some(Mark { bucket, is_shielded: packed & SHIELDED != 0 })
    }
}

fn place(at: u64) -> usize {
    usize::try_from(at % REMEMBERED as u64).expect("a remainder is small")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(bucket: u16) -> Mark {
        Mark { bucket: Bucket::from_number(bucket).unwrap(), is_shielded: bucket.is_multiple_of(2) }
    }

    #[test]
    fn a_reader_finds_what_came_since_it_read_last() {
        let marks = Marks::default();
        let (mut position, mut found) = (Counted::default(), Vec::new());
        marks.good();
        marks.bad(mark(7));
        assert_eq!(marks.read(&mut position, &mut found), Counted { requests: 2, bad: 1 });
        marks.bad(mark(9_998));
        marks.good();
        assert_eq!(marks.read(&mut position, &mut found), Counted { requests: 2, bad: 1 });
        assert_eq!(marks.read(&mut position, &mut found), Counted::default());
        assert_eq!(found, [mark(7), mark(9_998)]);
    }

    #[test]
    fn of_a_flood_the_latest_are_remembered_and_all_are_counted() {
        let marks = Marks::default();
        (0..1_000).for_each(|bucket| marks.bad(mark(bucket)));
        let mut found = Vec::new();
        assert_eq!(marks.read(&mut Counted::default(), &mut found).bad, 1_000);
        assert_eq!(found, (1_000 - 128..1_000).map(mark).collect::<Vec<_>>());
    }
}
