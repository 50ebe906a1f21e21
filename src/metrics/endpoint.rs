//! What is known of an endpoint beyond any config: whether it gets requests, and how many run there.
//!
//! Whether it is fit is written by the control plane and read by each request; how many run is written by each worker in a
//! place of its own. Both outlive a reload.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use super::Failure;
use super::trouble::{Trouble, Troubles};

/// Beside the count of failures, so that one look tells both: people were told of trouble that may be over.
const TOLD: u32 = 1 << 31;

/// One endpoint of one backend.
#[derive(Debug)]
pub struct EndpointState {
    /// What speaks against it; 0 if nothing does.
    against: AtomicU8,
    /// When it became fit, in milliseconds since `epoch`.
    fit_since: AtomicU64,
    epoch: Instant,
    /// Requests in a row that it failed, and [`TOLD`].
    failures: AtomicU32,
    /// So many are too many; 0 if nobody wants to know.
    too_many: AtomicU32,
    /// Rung when there were too many.
    bell: Arc<Notify>,
    ejections: AtomicU64,
    standing: ArcSwap<Standing>,
    troubles: Troubles,
    /// By worker.
    running: Box<[Running]>,
}

/// Requests of one worker, on a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Running(AtomicU32);

/// What can speak against an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Against {
    /// Its health checks.
    Checks,
    /// It failed requests.
    Ejected,
}

impl Against {
    fn bit(self) -> u8 {
        match self {
            Self::Checks => 1,
            Self::Ejected => 2,
        }
    }
}

/// How it stands with an endpoint, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Why it gets no requests; `None` if it does.
    pub unfit: Option<String>,
    /// Since when.
    pub since: SystemTime,
    /// What the last health check found, if there was one.
    pub checked: Option<String>,
}

impl EndpointState {
    pub(super) fn new(workers: usize, epoch: Instant, bell: Arc<Notify>) -> Self {
        let this = Self {
            against: AtomicU8::new(0),
            fit_since: AtomicU64::new(0),
            epoch,
            failures: AtomicU32::new(0),
            too_many: AtomicU32::new(0),
            bell,
            ejections: AtomicU64::new(0),
            standing: ArcSwap::from_pointee(Standing { unfit: None, since: SystemTime::now(), checked: None }),
            troubles: Troubles::new(epoch),
            running: (0..workers).map(|_| Running::default()).collect(),
        };
        this.is_fit_since(Instant::now());
        this
    }

    // -- read by requests

    /// Whether it gets requests.
    #[must_use]
    pub fn is_fit(&self) -> bool {
        self.against.load(Relaxed) == 0
    }

    /// For how long it has been fit, if it is.
    #[must_use]
    pub fn served(&self, now: Instant) -> Duration {
        let since = self.epoch + Duration::from_millis(self.fit_since.load(Relaxed));
        now.saturating_duration_since(since)
    }

    /// Requests of `worker` that run on it.
    #[must_use]
    pub fn running_on(&self, worker: usize) -> u32 {
        self.running[worker].0.load(Relaxed)
    }

    // -- written by requests

    /// One more runs, or one less. Only `worker` itself may call it.
    pub fn count(&self, worker: usize, one_more: bool) {
        let running = &self.running[worker].0;
        let before = running.load(Relaxed);
        running.store(if one_more { before + 1 } else { before.saturating_sub(1) }, Relaxed);
    }

    /// It has failed a request.
    pub fn failed(&self) {
        let too_many = self.too_many.load(Relaxed);
        if too_many > 0 && (self.failures.fetch_add(1, Relaxed) & !TOLD) + 1 >= too_many {
            self.bell.notify_one();
        }
    }

    /// It has answered a request to the end. Gives the trouble that is over with that, if people were told of any.
    pub fn answered(&self) -> Option<Arc<Trouble>> {
        if self.failures.load(Relaxed) == 0 {
            return None;
        }
        let is_told = self.failures.fetch_and(TOLD, Relaxed) & TOLD != 0;
        let over = if is_told { self.troubles.end(Instant::now()) } else { None };
        if over.is_some() {
            self.failures.fetch_and(!TOLD, Relaxed);
        }
        over
    }

    /// A request failed like this, whatever that means for its fitness. Gives how many have since people were last told, if they
    /// are to be told now: then [`Self::is_in_trouble`].
    pub fn troubles(&self, failure: Failure) -> Option<u64> {
        self.troubles.add(failure, Instant::now())
    }

    /// People are told that requests fail, and why.
    pub fn is_in_trouble(&self, why: String) {
        self.troubles.is(why, SystemTime::now());
        self.failures.fetch_or(TOLD, Relaxed);
    }

    // -- the control plane's

    /// So many failed requests in a row are too many; `None` if they are not to be counted.
    pub fn watch(&self, too_many: Option<u32>) {
        self.too_many.store(too_many.unwrap_or(0), Relaxed);
    }

    /// Whether too many requests in a row have failed.
    #[must_use]
    pub fn fails(&self) -> bool {
        let too_many = self.too_many.load(Relaxed);
        too_many > 0 && self.failures() >= too_many
    }

    /// Failed requests in a row.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures.load(Relaxed) & !TOLD
    }

    /// Why requests fail, as people were told; `None` once it answers again.
    #[must_use]
    pub fn trouble(&self) -> Option<Arc<Trouble>> {
        self.troubles.now()
    }

    /// Whether this speaks against it.
    #[must_use]
    pub fn is_out_by(&self, what: Against) -> bool {
        self.against.load(Relaxed) & what.bit() != 0
    }

    /// From now on `what` speaks against it, or does not. Gives whether that makes it fit or unfit. One task may call it.
    pub fn set(&self, what: Against, speaks_against: bool) -> bool {
        let before = self.against.load(Relaxed);
        let after = if speaks_against { before | what.bit() } else { before & !what.bit() };
        if before != 0 && after == 0 {
            self.failures.fetch_and(TOLD, Relaxed);
            self.is_fit_since(Instant::now());
        }
        self.against.store(after, Relaxed);
        if what == Against::Ejected && after & !before != 0 {
            self.ejections.fetch_add(1, Relaxed);
        }
        (before == 0) != (after == 0)
    }

    fn is_fit_since(&self, now: Instant) {
        let since = now.saturating_duration_since(self.epoch).as_millis();
        self.fit_since.store(u64::try_from(since).unwrap_or(u64::MAX), Relaxed);
    }

    /// How often it was taken out because it failed requests.
    #[must_use]
    pub fn ejections(&self) -> u64 {
        self.ejections.load(Relaxed)
    }

    /// Requests of all workers that run on it.
    #[must_use]
    pub fn running(&self) -> u64 {
        self.running.iter().map(|running| u64::from(running.0.load(Relaxed))).sum()
    }

    /// How it stands.
    #[must_use]
    pub fn standing(&self) -> Arc<Standing> {
        self.standing.load_full()
    }

    /// People are told so from now on.
    pub fn stands(&self, standing: Standing) {
        self.standing.store(Arc::new(standing));
    }
}

/// The same only if it is one and the same.
impl PartialEq for EndpointState {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for EndpointState {}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> EndpointState {
        EndpointState::new(2, Instant::now(), Arc::new(Notify::new()))
    }

    #[test]
    fn anything_that_speaks_against_it_makes_it_unfit() {
        let state = state();
        assert!(state.is_fit());
        assert!(state.set(Against::Checks, true));
        assert!(!state.set(Against::Ejected, true), "it was unfit already");
        assert!(!state.set(Against::Checks, false));
        assert!(!state.is_fit() && state.is_out_by(Against::Ejected) && !state.is_out_by(Against::Checks));
        assert!(state.set(Against::Ejected, false));
        assert!(state.is_fit());
        assert_eq!(state.ejections(), 1);
    }

    #[test]
    fn failures_in_a_row_are_counted_while_somebody_wants_to_know() {
        let state = state();
        state.failed();
        assert_eq!(state.failures(), 0);
        state.watch(Some(2));
        state.failed();
        state.answered();
        state.failed();
        assert!(!state.fails());
        state.failed();
        assert!(state.fails());
    }

    #[test]
    fn what_people_were_told_is_no_failure() {
        let state = state();
        state.watch(Some(1));
        assert_eq!(state.troubles(Failure::Connect), Some(1));
        state.is_in_trouble("refused".to_owned());
        assert!(!state.fails() && state.failures() == 0);
        state.failed();
        assert!(state.fails());
        assert_eq!(state.answered(), None, "it failed just now");
        assert!(!state.fails());
        assert_eq!(state.trouble().unwrap().why, "refused");
    }

    #[test]
    fn who_comes_back_begins_anew() {
        let state = state();
        state.watch(Some(1));
        state.failed();
        let later = Instant::now() + Duration::from_secs(60);
        assert!(state.served(later) >= Duration::from_secs(59));
        state.set(Against::Ejected, true);
        state.set(Against::Ejected, false);
        assert!(!state.fails());
        assert!(state.served(Instant::now()) < Duration::from_secs(1));
    }

    #[test]
    fn each_worker_counts_by_itself() {
        let state = state();
        state.count(0, true);
        state.count(1, true);
        state.count(1, true);
        state.count(0, false);
        assert_eq!((state.running_on(0), state.running_on(1), state.running()), (0, 2, 2));
    }
}
