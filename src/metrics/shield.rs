//! What a shield did, and what it may still do: each worker has its own share of a rollout's, and is alone in writing it.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::Counter;
use crate::policy::bucket::Percent;
use crate::policy::budget::Budget;

/// One worker's share of a rollout's shield. Like all meters it outlives a change of the config, and so does what is left of the
/// budget.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct ShieldMeter {
    /// See [`Budget::is_missing`].
    missing: AtomicU32,
    shielded: Counter,
}

impl ShieldMeter {
    /// A request came: it puts `share` of a token into the budget. Only the worker that owns this may call it.
    pub fn request(&self, share: Percent) {
        let budget = self.budget();
        if budget != Budget::default() {
            self.set(budget.after_request(share));
        }
    }

    /// Takes a token out of the budget; false if there is none. Only the worker that owns this may call it.
    #[must_use]
    pub fn take(&self) -> bool {
        let budget = self.budget().after_replay();
        budget.is_some_and(|budget| {
            self.set(budget);
            true
        })
    }

    /// OLD has answered a request that NEW failed. Only the worker that owns this may call it.
    pub fn shielded(&self) {
        self.shielded.increment();
    }

    pub(super) fn count(&self) -> u64 {
        self.shielded.get()
    }

    fn budget(&self) -> Budget {
        Budget::missing(self.missing.load(Relaxed))
    }

    fn set(&self, budget: Budget) {
        self.missing.store(budget.is_missing(), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_comes_back_with_requests() {
        let meter = ShieldMeter::default();
        meter.request(Percent::FULL);
        assert_eq!((0..200).filter(|_| meter.take()).count(), 100, "full at first, and no fuller by requests");
        meter.request(Percent::from_f64(50.0).unwrap());
        assert!(!meter.take());
        meter.request(Percent::from_f64(50.0).unwrap());
        assert!(meter.take());
        assert!(!meter.take());
    }
}
