//! Is NEW worse than OLD at the same time?
//!
//! A test of two proportions, request by request (Turner, Ly & Grünwald 2024, "Generic E-variables for exact sequential
//! k-sample tests that allow for optional stopping"). The next counted request is NEW's with probability π, its share of
//! the requests of that moment. A component bets that bad requests have the share n on NEW and o on OLD, against
//! m = π n + (1-π) o on both: a bad request of NEW multiplies it by n/m, a bad one of OLD by o/m; a good one by
//! (1-n)/(1-m) or (1-o)/(1-m). If both sides fail alike, with whatever common share θ and however it moves, the expectation
//! of the factor is θ (π n + (1-π) o)/m + (1-θ) (π (1-n) + (1-π) (1-o))/(1-m) = 1; if NEW is better, it is less. So an
//! outage of both sides says nothing, however bad it is, and looking after every request costs nothing.
//!
//! π is only estimated. Between two bounds of it the higher one is put into the factors of bad requests and the lower one
//! into those of good requests: each is then at most what it would be with the true π.

use super::mixture::{COMPONENTS, Mixture, geometric};
use super::share::Bounds;
use super::{Counted, Limits, float};

/// For how many requests on OLD its past counts, as the constant of an exponential. In requests, not in time: what is known
/// of a rare failure is as precise with little traffic as with much.
const MEMORY: f64 = 10_000.0;

/// OLD is taken to have had this many requests before, with half of the tolerated share bad.
const PRIOR: f64 = 20.0;

/// The highest share bad on OLD that is reckoned with: times [`RATIO`] it is still below 1.
const OLD_MOST: f64 = 0.65;

/// NEW is at least this many times as bad as OLD in every bet, so that a small error in π is no evidence.
const RATIO: f64 = 1.5;

/// The highest excess that is bet on. Close to 1, because where NEW has nearly all requests a good one of OLD tells at most
/// 1/(1 - n).
const HIGHEST: f64 = 0.998;

/// What part of the stake is on each bet. More than a third is on the highest: where NEW has nearly all requests, there are few
/// of OLD to compare with, and each has to tell much.
const PARTS: [f64; COMPONENTS] = [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 4.0];

/// The evidence may exceed what can be needed by this factor, and no further.
const SPARE: f64 = 100.0;

/// What is looked at.
pub(super) struct Seen {
    /// Of NEW, what was admitted.
    pub(super) new: Counted,
    /// Of OLD, everything. It is not capped by bucket as NEW's is: that would hide what one heavy user suffers on OLD, and
    /// an outage of both sides would look like NEW's fault.
    pub(super) old: Counted,
    /// Of NEW in the requests.
    pub(super) share: Bounds,
}

/// The evidence that NEW is worse than OLD.
#[derive(Clone, Debug)]
pub(super) struct Relative {
    /// By how much NEW's share bad exceeds OLD's, as a part of what is left to 1.
    excess: [f64; COMPONENTS],
    bets: Mixture,
    /// Requests on OLD before the current batch, and the bad ones among them.
    old: f64,
    old_bad: f64,
    tolerance: f64,
}

impl Relative {
    pub(super) fn new(limits: &Limits) -> Self {
        let tolerance = limits.tolerance;
        let highest = HIGHEST.max(f64::midpoint(tolerance, 1.0));
        let most = limits.one_false_trip_in.max(super::RELATIVE_NEEDED) * SPARE;
        Self {
            excess: geometric(tolerance, highest),
            bets: Mixture::new(PARTS, most.ln()),
            old: 0.0,
            old_bad: 0.0,
            tolerance,
        }
    }

    pub(super) fn look(&mut self, seen: &Seen) {
        let old = self.old_share();
        self.bets.grow(|k| Bet::against(old, self.excess[k]).gain(seen));
        self.remember(seen.old);
    }

    /// The logarithm of the e-value.
    pub(super) fn evidence(&self) -> f64 {
        self.bets.evidence()
    }

    /// OLD's share bad as far as it is known before the current batch: what is put into a bet must not know its outcome.
    fn old_share(&self) -> f64 {
        let share = (self.old_bad + PRIOR * self.tolerance / 2.0) / (self.old + PRIOR);
        share.clamp(self.tolerance / 100.0, OLD_MOST)
    }

    fn remember(&mut self, old: Counted) {
        let kept = (-float(old.requests) / MEMORY).exp();
        self.old = self.old * kept + float(old.requests);
        self.old_bad = self.old_bad * kept + float(old.bad);
    }
}

/// One component's bet: a share bad on each side.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bet {
    pub(super) new: f64,
    pub(super) old: f64,
}

impl Bet {
    /// That NEW exceeds `old`, at most [`OLD_MOST`], by `excess` of what is left to 1.
    pub(super) fn against(old: f64, excess: f64) -> Self {
        Self { new: (old + (1.0 - old) * excess).max(RATIO * old), old }
    }

    /// The logarithm of what a batch multiplies it by.
    pub(super) fn gain(self, seen: &Seen) -> f64 {
        let both = |share: f64| share * self.new + (1.0 - share) * self.old;
        let bad = both(seen.share.high);
        let good = 1.0 - both(seen.share.low);
        float(seen.new.bad) * (self.new / bad).ln()
            + float(seen.new.good()) * ((1.0 - self.new) / good).ln()
            + float(seen.old.bad) * (self.old / bad).ln()
            + float(seen.old.good()) * ((1.0 - self.old) / good).ln()
    }
}
