//! NEW's share of the requests of the moment, between two bounds.
//!
//! It is not the percent in the config: keys are not equally busy, pins and testers go elsewhere, and a new percent takes
//! a while to reach those that are counted when they end. So it is counted, over a short and a long window that forget
//! exponentially. The short one follows quickly, the long one is precise where requests are few.

use std::time::Duration;

use super::{Batch, Counted, float};

/// The windows' time constants in seconds.
const SHORT: f64 = 2.0;
const LONG: f64 = 30.0;

/// How long OLD is waited for after a start or a change of the split, in seconds.
const GRACE: f64 = 3.0;

/// NEW's share, `0.0..=1.0`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Bounds {
    pub(super) low: f64,
    pub(super) high: f64,
}

/// What is known of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Share {
    short: Window,
    long: Window,
    /// Requests on OLD over the long time constant; a change of the split does not empty it at once.
    old: f64,
}

impl Share {
    /// Takes a batch, and says between what bounds the share was during it. The batch itself may well end because of a bad
    /// request of NEW: that may raise the upper bound, not the lower one.
    pub(super) fn look(&mut self, batch: &Batch<'_>) -> Bounds {
        self.old = self.old * kept(batch.elapsed, LONG) + float(batch.old.requests);
        self.short.forget(batch.elapsed, SHORT);
        self.long.forget(batch.elapsed, LONG);
        let before = self.short.low().min(self.long.low());
        self.short.add(batch.old, batch.new);
        self.long.add(batch.old, batch.new);
        let low = before.min(self.short.low()).min(self.long.low());
        Bounds { low, high: self.short.high().max(self.long.high()) }
    }

    /// Whether OLD has had less than one request in the long window: nothing can be compared.
    pub(super) fn old_is_silent(&self) -> bool {
        self.old < 1.0
    }

    /// Forgets what was before a change of the split. If NEW is `healthy`, OLD counts as silent until it is heard of: after
    /// a switch of everybody to NEW nothing will be. If not, an outage of both may be under way, and OLD gets some time to
    /// show it.
    pub(super) fn forget(&mut self, healthy: bool) {
        let most = if healthy { 0.0 } else { grace() };
        *self = Self { old: self.old.min(most), ..Self::default() };
    }

    /// Waits for OLD.
    pub(super) fn expect_old(&mut self) {
        self.old = self.old.max(grace());
    }

    /// Requests on OLD for each one on NEW, as usual; 0 if OLD is silent.
    pub(super) fn old_per_new(&self) -> f64 {
        if self.old_is_silent() { 0.0 } else { self.long.old / self.long.new.max(1.0) }
    }
}

/// Requests by side, the older the less.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    old: f64,
    new: f64,
}

impl Window {
    fn forget(&mut self, elapsed: Duration, constant: f64) {
        let kept = kept(elapsed, constant);
        self.old *= kept;
        self.new *= kept;
    }

    fn add(&mut self, old: Counted, new: Counted) {
        self.old += float(old.requests);
        self.new += float(new.requests);
    }

    /// One request more than was seen is taken to be NEW's, so that few requests never make the share look small.
    fn high(self) -> f64 {
        (self.new + 1.0) / (self.old + self.new + 1.0)
    }

    /// One request more than was seen is taken to be OLD's.
    fn low(self) -> f64 {
        self.new / (self.old + self.new + 1.0)
    }
}

/// A count of which one is left after [`GRACE`].
fn grace() -> f64 {
    (GRACE / LONG).exp()
}

/// What is left of a count after `elapsed`.
fn kept(elapsed: Duration, constant: f64) -> f64 {
    (-elapsed.as_secs_f64() / constant).exp()
}
