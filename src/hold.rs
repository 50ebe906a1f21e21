//! Where requests wait: one queue over all workers, first come first served.
//!
//! A request takes a ticket and sleeps until the ticket's turn comes, its patience ends, or its client goes away. Whoever
//! lets requests go on says how many, never which: those that are next.
//!
//! The line stands under a lock. Only requests that are held touch it, a few instructions each, and nothing waits with it in
//! hand; in exchange a release wakes exactly those whose turn it is, and one who leaves takes the ticket along. Counters
//! alone would have to wake everybody for each of them, and step over the tickets of those who left.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use crate::config::HoldLimits;

/// Requests that wait.
#[derive(Debug)]
pub struct Queue {
    line: Mutex<Line>,
    max_wait: Duration,
    max_requests: usize,
    max_bytes: u64,
    release_rate: u32,
}

/// Why a request was not held until its turn came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotHeld {
    /// As many wait as may.
    Full,
    /// It waited for as long as anybody may.
    TooLong,
}

#[derive(Debug, Default)]
struct Line {
    /// Those who wait, by ticket.
    waiting: BTreeMap<u64, Waiting>,
    /// What they take up together, in bytes.
    bytes: u64,
    /// Tickets given so far; the next one's number.
    arrived: u64,
    released: u64,
    /// Nobody waits any more.
    is_open: bool,
}

#[derive(Debug)]
struct Waiting {
    since: Instant,
    bytes: u64,
    turn: oneshot::Sender<()>,
}

impl Queue {
    /// An empty queue. Each request waits for `max_wait` at most.
    #[must_use]
    pub fn new(limits: &HoldLimits, max_wait: Duration) -> Self {
        Self {
            line: Mutex::default(),
            max_wait,
            max_requests: limits.max_requests,
            max_bytes: limits.max_bytes,
            release_rate: limits.release_rate,
        }
    }

    /// Waits in line with a request of this many bytes. Whoever drops the future leaves the line at once.
    ///
    /// # Errors
    /// When there is no room in the line, or when its turn does not come in time.
    pub async fn wait(&self, bytes: u64) -> Result<(), NotHeld> {
        let Some((place, turn)) = self.line_up(bytes)? else { return Ok(()) };
        let waited = timeout(self.max_wait, turn).await;
        // The turn may have come in the moment in which the patience ended.
        if place.leave() && waited.is_err() { Err(NotHeld::TooLong) } else { Ok(()) }
    }

    /// A place in the line, and what tells that its turn has come; `None` if nobody has to wait.
    fn line_up(&self, bytes: u64) -> Result<Option<(Place<'_>, oneshot::Receiver<()>)>, NotHeld> {
        let mut line = self.line();
        if line.is_open {
            line.arrived += 1;
            line.released += 1;
            return Ok(None);
        }
        let all_bytes = line.bytes.saturating_add(bytes);
        if line.waiting.len() >= self.max_requests || all_bytes > self.max_bytes {
            return Err(NotHeld::Full);
        }
        let (turn, comes) = oneshot::channel();
        let ticket = line.arrived;
        line.arrived += 1;
        line.bytes = all_bytes;
        line.waiting.insert(ticket, Waiting { since: Instant::now(), bytes, turn });
        Ok(Some((Place { queue: self, ticket }, comes)))
    }

    /// Lets the next `n` go on, in the order in which they came. Of more than there are nothing is left over for those who
    /// come later.
    pub fn release(&self, n: u64) {
        for _ in 0..n {
            let Some(next) = self.line().next() else { return };
            // Who leaves at this moment has had the turn; the next one does not have to know.
            let _it_may_have_left = next.turn.send(());
        }
    }

    /// Lets everybody go on, also those who come later.
    pub fn open(&self) {
        let released = {
            let mut line = self.line();
            line.is_open = true;
            std::iter::from_fn(|| line.next()).collect::<Vec<_>>()
        };
        for waiting in released {
            let _it_may_have_left = waiting.turn.send(());
        }
    }

    /// How many wait.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.line().waiting.len() as u64
    }

    /// How many ever came in.
    #[must_use]
    pub fn arrived(&self) -> u64 {
        self.line().arrived
    }

    /// How many have been let go on.
    #[must_use]
    pub fn released(&self) -> u64 {
        self.line().released
    }

    /// How long the first in line has waited.
    #[must_use]
    pub fn oldest_wait(&self) -> Option<Duration> {
        self.line().waiting.first_key_value().map(|(_, waiting)| waiting.since.elapsed())
    }

    /// How many are to be let go on each second once the hold has ended.
    #[must_use]
    pub fn release_rate(&self) -> u32 {
        self.release_rate
    }

    /// How long each waits at most.
    #[must_use]
    pub fn max_wait(&self) -> Duration {
        self.max_wait
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    /// Takes out whose turn it is.
    fn next(&mut self) -> Option<Waiting> {
        let (_, next) = self.waiting.pop_first()?;
        self.bytes -= next.bytes;
        self.released += 1;
        Some(next)
    }
}

/// A place in the line, given up with this.
struct Place<'a> {
    queue: &'a Queue,
    ticket: u64,
}

impl Place<'_> {
    /// Gives the place up. Tells whether the turn had not come yet.
    fn leave(&self) -> bool {
        let mut line = self.queue.line();
        let left = line.waiting.remove(&self.ticket);
        line.bytes -= left.as_ref().map_or(0, |waiting| waiting.bytes);
        left.is_some()
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.leave();
    }
}

/// How many may go on after `elapsed` at `rate` a second, when `arrivals` have lined up behind them meanwhile; and the time
/// that was too short for one more, to be brought along to the next look.
///
/// Who arrives counts on top: at a rate below that of the arrivals the line would never end.
#[must_use]
pub fn pace(rate: u32, elapsed: Duration, carried: Duration, arrivals: u64) -> (u64, Duration) {
    const SECOND: u128 = 1_000_000_000;
    let rate = u128::from(rate.max(1));
    let due = (elapsed + carried).as_nanos() * rate;
    let rest = u64::try_from(due % SECOND / rate).unwrap_or_default();
    let paced = u64::try_from(due / SECOND).unwrap_or(u64::MAX);
    (paced.saturating_add(arrivals), Duration::from_nanos(rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

    use tokio::sync::mpsc;
    use tokio::task::{JoinHandle, yield_now};

    fn queue(max_requests: usize, max_bytes: u64) -> Arc<Queue> {
        let limits = HoldLimits { max_wait: Duration::from_secs(10), max_requests, max_bytes, release_rate: 200 };
        Arc::new(Queue::new(&limits, limits.max_wait))
    }

    fn join(queue: &Arc<Queue>, bytes: u64) -> JoinHandle<Result<(), NotHeld>> {
        let queue = Arc::clone(queue);
        tokio::spawn(async move { queue.wait(bytes).await })
    }

    /// Lets everybody who can run do so.
    async fn settle() {
        for _ in 0..20 {
            yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn they_go_on_in_the_order_in_which_they_came() {
        let queue = queue(100, 100);
        let (tell, mut told) = mpsc::unbounded_channel();
        for nth in 0..10 {
            let (queue, tell) = (Arc::clone(&queue), tell.clone());
            tokio::spawn(async move {
                queue.wait(1).await.unwrap();
                tell.send(nth).unwrap();
            });
            settle().await;
        }
        queue.release(3);
        settle().await;
        assert_eq!((queue.waiting(), queue.arrived(), queue.released()), (7, 10, 3));
        queue.open();
        drop(tell);
        let mut order = Vec::new();
        while let Some(nth) = told.recv().await {
            order.push(nth);
        }
        assert_eq!(order, (0..10).collect::<Vec<_>>());
        assert_eq!(queue.wait(1).await, Ok(()), "who comes later passes at once");
        assert_eq!((queue.waiting(), queue.arrived(), queue.released()), (0, 11, 11));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_longer_than_the_longest_wait() {
        let queue = queue(100, 100);
        let began = Instant::now();
        assert_eq!(queue.wait(1).await, Err(NotHeld::TooLong));
        assert_eq!(began.elapsed().as_secs(), 10);
        assert_eq!((queue.waiting(), queue.line().bytes), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_line_takes_nobody() {
        for (queue, fits) in [(queue(2, 100), 1), (queue(100, 20), 10)] {
            let first = join(&queue, fits);
            let _second = join(&queue, fits);
            settle().await;
            assert_eq!(queue.wait(fits).await, Err(NotHeld::Full));
            first.abort();
            settle().await;
            assert_eq!(queue.waiting(), 1, "who leaves frees the place at once");
            let third = join(&queue, fits);
            settle().await;
            queue.release(2);
            assert_eq!(third.await.unwrap(), Ok(()));
            assert_eq!(queue.line().bytes, 0);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_left_hold_nobody_up() {
        let queue = queue(1000, 1000);
        let waiters: Vec<_> = (0..100).map(|_| join(&queue, 1)).collect();
        settle().await;
        waiters[..99].iter().for_each(JoinHandle::abort);
        settle().await;
        queue.release(1);
        settle().await;
        assert!(waiters[99].is_finished());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_released_too_much_is_nobodys() {
        let queue = queue(10, 10);
        queue.release(5);
        let waiter = join(&queue, 1);
        settle().await;
        assert!(!waiter.is_finished());
        assert_eq!(queue.released(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_is_the_first_in_line() {
        let queue = queue(10, 10);
        assert_eq!(queue.oldest_wait(), None);
        let _first = join(&queue, 1);
        settle().await;
        tokio::time::advance(Duration::from_secs(3)).await;
        let _second = join(&queue, 1);
        settle().await;
        assert_eq!(queue.oldest_wait(), Some(Duration::from_secs(3)));
        queue.release(1);
        assert_eq!(queue.oldest_wait(), Some(Duration::ZERO));
    }

    #[test]
    fn many_threads_lose_nobody() {
        let queue = queue(10_000, 10_000);
        let done = Arc::new(AtomicU64::new(0));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let (queue, done) = (Arc::clone(&queue), Arc::clone(&done));
                std::thread::spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
                    runtime.block_on(async {
                        let waiters: Vec<_> = (0..500).map(|_| join(&queue, 1)).collect();
                        yield_now().await;
                        waiters.iter().step_by(5).for_each(JoinHandle::abort);
                        for waiter in waiters {
                            if waiter.await.is_ok_and(|held| held.is_ok()) {
                                done.fetch_add(1, SeqCst);
                            }
                        }
                    });
                })
            })
            .collect();
        while threads.iter().any(|thread| !thread.is_finished()) {
            queue.release(3);
            std::thread::yield_now();
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert!(done.load(SeqCst) >= 4 * 400, "only those who left may be missing: {done:?}");
        assert_eq!((queue.waiting(), queue.line().bytes), (0, 0));
    }

    #[test]
    fn the_pace_is_kept_over_short_looks() {
        for (rate, look) in [(200, 10), (200, 1), (7, 10), (3, 999), (1, 3), (100_000, 1)] {
            let (mut released, mut carried) = (0, Duration::ZERO);
            for _ in 0..(60_000 / look) {
                let (next, rest) = pace(rate, Duration::from_millis(look), carried, 0);
                (released, carried) = (released + next, rest);
            }
            let expected = u64::from(rate) * (60_000 / look * look) / 1000;
            assert!(released.abs_diff(expected) <= 1, "{rate} a second, looking every {look} ms: {released}");
        }
    }

    #[test]
    fn who_arrives_meanwhile_counts_on_top() {
        let (next, _) = pace(200, Duration::from_millis(10), Duration::ZERO, 5);
        assert_eq!(next, 2 + 5);
    }
}
