//! What the guard is told: each worker counts for itself, the controller reads all of them.
//!
//! Only requests that were decided in the *epoch* that is being watched count. A request carries its epoch in the snapshot
//! by which it was decided; whatever makes earlier outcomes meaningless (another backend, another split, a pause of the
//! process) begins another epoch, and those that are still running then count for nothing.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::Counter;
use crate::policy::bucket::Bucket;
use crate::policy::decision::Side;
use crate::policy::guard::Counted;

/// How many of the latest bad requests are remembered with their buckets, a worker. The controller reads within a
/// millisecond of each.
const REMEMBERED: usize = 128;
/// Beside a bucket: see [`Mark::is_shielded`].
const SHIELDED: u64 = 1 << 16;
/// Above both: the good requests since the bad one before.
const GOOD: u32 = 32;
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

/// Good requests, bad ones, and whose those were. Each request is in one of the two counts and not in both, so that a reader
/// between two stores can never see a bad one without its request.
#[derive(Debug)]
pub struct Marks {
    good: Counter,
    bad: AtomicU64,
    /// Good requests when the latest bad one came.
    marked: Counter,
    marks: [AtomicU64; REMEMBERED],
}

/// How far a reader of one worker's marks has come.
#[derive(Clone, Copy, Debug, Default)]
pub struct Position {
    read: Counted,
    /// Good requests that were read since the latest bad one.
    trailing: u64,
}

impl Default for Marks {
    fn default() -> Self {
        let marks = std::array::from_fn(|_| AtomicU64::new(0));
        Self { good: Counter::default(), bad: AtomicU64::new(0), marked: Counter::default(), marks }
    }
}

/// Whose a bad request was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The user's bucket.
    pub bucket: Bucket,
    /// Whether OLD was asked instead.
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
        self.good.increment();
    }

    /// A bad request. Only the worker that owns this may call it.
    pub fn bad(&self, mark: Mark) {
        let good = self.good.get() - self.marked.get();
        self.marked.add(good);
        let bad = self.bad.load(Ordering::Relaxed);
        let shielded = if mark.is_shielded { SHIELDED } else { 0 };
        let packed = u64::from(mark.bucket.get()) | shielded | good.min(u64::from(u32::MAX)) << GOOD;
        self.marks[place(bad)].store(packed, Ordering::Relaxed);
        self.bad.store(bad.wrapping_add(1), Ordering::Release);
    }

    /// What was counted since `position`, which moves on. Gives also how many of the requests came before the first bad one,
    /// as far as that is known. The marks of the bad ones are added to `marks`, as far as they are still remembered.
    pub fn read(&self, position: &mut Position, marks: &mut Vec<Mark>) -> (Counted, u64) {
        let bad = self.bad.load(Ordering::Acquire); // first: the good ones before it are counted then
        let requests = self.good.get().wrapping_add(bad);
        let read = position.read;
        let counted = Counted { requests: requests.wrapping_sub(read.requests), bad: bad.wrapping_sub(read.bad) };
        let remembered = counted.bad.min(REMEMBERED as u64);
        let (mut first, mut before_bad) = (None, 0);
        for (mark, good) in (bad.wrapping_sub(remembered)..bad).filter_map(|at| self.mark(at)) {
            first = first.or(Some(good));
            before_bad += good;
            marks.push(mark);
        }
        let all_good = (counted.requests - counted.bad) + position.trailing;
        let leading = match first {
            None => counted.requests,
            Some(good) if remembered == counted.bad => good.saturating_sub(position.trailing),
            Some(_) => 0, // the first one is forgotten
        };
        let trailing = if first.is_none() { all_good } else { all_good.saturating_sub(before_bad) };
        *position = Position { read: Counted { requests, bad }, trailing };
        (counted, leading.min(counted.requests - counted.bad))
    }

    /// A bad request, and how many good ones came between it and the one before.
    fn mark(&self, at: u64) -> Option<(Mark, u64)> {
        let packed = self.marks[place(at)].load(Ordering::Relaxed);
        let bucket = u16::try_from(packed & (SHIELDED - 1)).ok().and_then(Bucket::from_number)?;
        Some((Mark { bucket, is_shielded: packed & SHIELDED != 0 }, packed >> GOOD))
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
        let (mut position, mut found) = (Position::default(), Vec::new());
        let mut read = || marks.read(&mut position, &mut found);
        marks.good();
        marks.bad(mark(7));
        marks.good();
        assert_eq!(read(), (Counted { requests: 3, bad: 1 }, 1));
        marks.good();
        marks.bad(mark(9_998));
        marks.good();
        assert_eq!(read(), (Counted { requests: 3, bad: 1 }, 1), "one came before the bad one since the last look");
        marks.good();
        assert_eq!(read(), (Counted { requests: 1, bad: 0 }, 1));
        marks.bad(mark(1));
        assert_eq!(read(), (Counted { requests: 1, bad: 1 }, 0));
        assert_eq!(read(), (Counted::default(), 0));
        assert_eq!(found, [mark(7), mark(9_998), mark(1)]);
    }

    #[test]
    fn of_a_flood_the_latest_are_remembered_and_all_are_counted() {
        let marks = Marks::default();
        marks.good();
        (0..1_000).for_each(|bucket| marks.bad(mark(bucket)));
        let mut found = Vec::new();
        let read = marks.read(&mut Position::default(), &mut found);
        assert_eq!(read, (Counted { requests: 1_001, bad: 1_000 }, 0), "what came before is forgotten");
        assert_eq!(found, (1_000 - 128..1_000).map(mark).collect::<Vec<_>>());
    }

    #[test]
    fn a_bad_request_is_never_read_without_its_request() {
        const FLOOD: u64 = 300_000;
        let marks = Marks::default();
        std::thread::scope(|scope| {
            scope.spawn(|| (0..FLOOD).for_each(|_| marks.bad(mark(7))));
            let (mut position, mut sum) = (Position::default(), Counted::default());
            while sum.bad < FLOOD {
                let (counted, leading) = marks.read(&mut position, &mut Vec::new());
                assert_eq!((counted.requests, leading), (counted.bad, 0), "all of them are bad");
                sum.requests += counted.requests;
                sum.bad += counted.bad;
            }
            assert_eq!(sum.requests, FLOOD);
        });
    }
}
