//! The guard: a sequential test that may be read after every request, and decides whether NEW hurts users.
//!
//! NEW is judged when two kinds of evidence are strong enough at the same time: that its share of bad requests is above
//! what is tolerated (`absolute`), and that it is worse than OLD's at that moment (`relative`). Both are e-processes:
//! bets that win nothing on average as long as NEW is fine, so that looking after every request costs nothing (Ville's
//! inequality). Each starts again from its floor whenever the bets have lost, so that a long healthy past is no shield.
//! A third thing has to hold: the bad requests come from several buckets (`spread`). `docs/guard.md` tells it without
//! formulas.

mod absolute;
mod account;
mod hurt;
mod mixture;
mod relative;
mod share;
mod spread;
#[cfg(test)]
mod tests;

use std::time::Duration;

use self::absolute::Absolute;
pub use self::account::Account;
pub use self::hurt::Hurt;
use self::relative::{Relative, Seen};
use self::share::Share;
use self::spread::Spread;
use super::bucket::Bucket;

/// Evidence that NEW is worse than OLD has to be this strong (e-value) while OLD is healthy.
const RELATIVE_NEEDED: f64 = 1e4;

/// By this factor it has to be stronger than the evidence that OLD itself is above the tolerance, which is never all of it.
const DOUBT: f64 = 100.0;

/// What the config says of a test.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// The share of bad requests that is tolerated, above 0 and below 0.5.
    pub tolerance: f64,
    /// Healthy requests on NEW between two false alarms, on average; at least 100.
    pub one_false_trip_in: f64,
    /// From how many different buckets the bad requests have to come; at least 1. Above 64 it is taken for 64.
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

impl Counted {
    /// Those that were not bad.
    fn good(self) -> u64 {
        self.requests.saturating_sub(self.bad)
    }

    fn and(self, more: Self) -> Self {
        Self { requests: self.requests.saturating_add(more.requests), bad: self.bad.saturating_add(more.bad) }
    }
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

/// One sequential test: there is one for failures and another for slow requests. Its size is fixed, about 1 KB.
#[derive(Clone, Debug)]
pub struct Test {
    limits: Limits,
    absolute: Absolute,
    relative: Relative,
    /// The same evidence against OLD: while there is any, NEW has to be that much worse.
    old_absolute: Absolute,
    /// The most of it in the current run, as a logarithm.
    old_worst: f64,
    share: Share,
    spread: Spread,
    /// Counted in the current run.
    new: Counted,
    old: Counted,
}

impl Test {
    /// A test that has seen nothing.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        Self {
            limits: limits.clone(),
            absolute: Absolute::new(limits),
            relative: Relative::new(limits),
            old_absolute: Absolute::new(limits),
            old_worst: 0.0,
            share: Share::default(),
            spread: Spread::new(limits.min_distinct),
            new: Counted::default(),
            old: Counted::default(),
        }
    }

    /// Takes what was counted since the last look. The order within the batch is not known, so good requests weigh against
    /// the bad ones beside them whichever came first: short batches see more, and a batch that ends just before a bad
    /// request is the best there is.
    pub fn look(&mut self, batch: &Batch<'_>) {
        let new = self.admitted(batch);
        let share = self.share.look(batch);
        self.absolute.look(new);
        self.old_absolute.look(batch.old);
        self.old_worst = self.old_worst.max(self.old_absolute.evidence());
        self.relative.look(&Seen { new, old: batch.old, share });
        self.new = self.new.and(new);
        self.old = self.old.and(batch.old);
        if self.absolute.is_at_floor() {
            self.new = Counted::default();
            self.old = Counted::default();
            self.old_worst = 0.0;
            self.spread.clear();
        }
    }

    /// What of NEW's counts. A bad request that is not admitted is no request either: its factor becomes 1 and would have
    /// been above, so what evidence there is only gets weaker and all that is promised of it still holds.
    fn admitted(&mut self, batch: &Batch<'_>) -> Counted {
        let most = usize::try_from(batch.new.bad).unwrap_or(usize::MAX);
        let admitted = batch.buckets.iter().take(most).filter(|bucket| self.spread.admits(**bucket)).count();
        let bad = u64::try_from(admitted).unwrap_or(u64::MAX);
        Counted { requests: batch.new.good().saturating_add(bad), bad }
    }

    /// Whether all of it is settled: NEW is worse than tolerated, it is worse than OLD (or OLD has no traffic), and the bad
    /// requests come from enough buckets. It can become false again when requests get better.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.absolute.evidence() >= self.limits.one_false_trip_in.ln()
            && (self.share.old_is_silent() || self.relative.evidence() >= self.relative_needed())
            && self.spread.is_enough()
    }

    /// Whether there is no evidence at all.
    #[must_use]
    pub fn is_calm(&self) -> bool {
        self.absolute.is_at_floor()
    }

    /// The split has changed: what share of the requests is NEW's has to be learnt anew; the evidence goes on.
    pub fn split_changed(&mut self) {
        self.share.forget(self.absolute.is_low());
    }

    /// OLD has a share of the traffic, so for three seconds it does not count as silent, though nothing was heard of it yet.
    /// For after a start, and after [`Test::split_changed`], where not everybody is sent to NEW: a process that was
    /// restarted in an outage of both would else see NEW fail first, and judge by that alone.
    pub fn expect_old(&mut self) {
        self.share.expect_old();
    }

    /// How strong (natural logarithm) the evidence has to be that NEW is worse than OLD: 1e4, or a hundred times as strong
    /// as the evidence was in the current run that OLD itself is above the tolerance, but never more than `one_false_trip_in`. While OLD is
    /// healthy, a NEW that is no worse is healthy too, and the absolute part sees to it that false alarms are rare. While
    /// both are bad, the absolute part is settled and this is all that stands between an outage of both and a rollback; also
    /// when OLD, with more requests, is believed to be well again before NEW is.
    fn relative_needed(&self) -> f64 {
        let most = self.limits.one_false_trip_in.ln();
        RELATIVE_NEEDED.ln().max(self.old_worst + DOUBT.ln()).min(most)
    }
}

/// Requests on NEW after which a share of `share` bad ones would have been seen, as a rule (expected, with OLD silent):
/// used to let a ramp advance only with enough evidence. [`u64::MAX`] if the share is too close to what is tolerated to be
/// ever seen: below about 1.5 times the tolerance.
#[must_use]
pub fn requests_to_see(limits: &Limits, share: f64) -> u64 {
    Absolute::new(limits).requests_to_see(share)
}

/// A count as a number to reckon with.
#[expect(clippy::cast_precision_loss, reason = "above 2^53 a count is off by less than one in 10^15")]
fn float(count: u64) -> f64 {
    count as f64
}
