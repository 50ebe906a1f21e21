//! Why an endpoint fails requests, for the log and for people: to be told when it begins, now and then while it lasts, and when
//! it is over. A request that is answered while there is none touches nothing of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwapOption;

use super::Failure;

/// That an endpoint fails for one and the same cause is told at most so often.
const AT_MOST_EVERY: Duration = Duration::from_secs(10);
/// While it goes on it is told again so often.
const AGAIN_EVERY: Duration = Duration::from_mins(1);
/// It is over when an answer comes and none was missed for so long.
const QUIET: Duration = Duration::from_secs(1);

/// Why an endpoint fails requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// In the words of the system or of the library that found it.
    pub why: String,
    /// Since when there has been trouble.
    pub since: SystemTime,
}

/// The troubles of one endpoint. Moments are milliseconds since `epoch`, from 1.
#[derive(Debug)]
pub(super) struct Troubles {
    epoch: Instant,
    /// When each cause was told last; 0 if it never was.
    told: [AtomicU64; Failure::ALL.len()],
    failed_at: AtomicU64,
    /// Requests that it has failed since somebody was told.
    failed: AtomicU64,
    now: ArcSwapOption<Trouble>,
}

impl Troubles {
    pub(super) fn new(epoch: Instant) -> Self {
        Self {
            epoch,
            told: Default::default(),
            failed_at: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            now: ArcSwapOption::empty(),
        }
    }

    /// A request failed like this at `now`. Gives how many have since the last time that this was to be told, if it is now.
    pub(super) fn add(&self, failure: Failure, now: Instant) -> Option<u64> {
        let now = self.moment(now);
        self.failed_at.store(now, Relaxed);
        self.failed.fetch_add(1, Relaxed);
        let told = &self.told[failure as usize];
        let last = told.load(Relaxed);
        let pause = if self.now().is_some() { AGAIN_EVERY } else { AT_MOST_EVERY };
        if last != 0 && Duration::from_millis(now.saturating_sub(last)) < pause {
            return None;
        }
        let is_mine = told.compare_exchange(last, now, Relaxed, Relaxed).is_ok(); // one worker tells
        is_mine.then(|| self.failed.swap(0, Relaxed))
    }

    /// This is it from now on.
    pub(super) fn is(&self, why: String, at: SystemTime) {
        let since = self.now().map_or(at, |before| before.since);
        self.now.store(Some(Arc::new(Trouble { why, since })));
    }

    pub(super) fn now(&self) -> Option<Arc<Trouble>> {
        self.now.load_full()
    }

    /// An answer came at `now`. Gives the trouble that is over with that.
    pub(super) fn end(&self, now: Instant) -> Option<Arc<Trouble>> {
        let quiet = self.moment(now).saturating_sub(self.failed_at.load(Relaxed));
        if Duration::from_millis(quiet) < QUIET {
            return None;
        }
        self.failed.store(0, Relaxed);
        self.now.swap(None)
    }

    fn moment(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.epoch).as_millis();
        u64::try_from(since).unwrap_or(u64::MAX).saturating_add(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_told_at_once_and_then_now_and_then() {
        let epoch = Instant::now();
        let troubles = Troubles::new(epoch);
        let at = |seconds| epoch + Duration::from_secs(seconds);
        assert_eq!(troubles.add(Failure::Connect, at(100)), Some(1));
        troubles.is("refused".to_owned(), SystemTime::UNIX_EPOCH);
        assert_eq!(troubles.add(Failure::Connect, at(101)), None);
        assert_eq!(troubles.add(Failure::Reset, at(102)), Some(2), "that is another one");
        assert_eq!(troubles.add(Failure::Connect, at(159)), None);
        assert_eq!(troubles.add(Failure::Connect, at(160)), Some(2));
        assert_eq!(troubles.now().unwrap().why, "refused");
    }

    #[test]
    fn it_is_over_with_an_answer_when_nothing_has_failed_for_a_moment() {
        let epoch = Instant::now();
        let troubles = Troubles::new(epoch);
        let at = |seconds| epoch + Duration::from_secs(seconds);
        assert_eq!(troubles.end(at(1)), None, "there was none");
        troubles.add(Failure::Connect, at(100));
        troubles.is("refused".to_owned(), SystemTime::UNIX_EPOCH);
        assert_eq!(troubles.end(at(100)), None);
        assert_eq!(troubles.end(at(101)).unwrap().why, "refused");
        assert_eq!(troubles.now(), None);
        assert_eq!(troubles.add(Failure::Connect, at(102)), None, "who goes back and forth does not fill the log");
        assert_eq!(troubles.add(Failure::Connect, at(110)), Some(2));
    }
}
