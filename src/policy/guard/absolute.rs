//! Is a side's share of bad requests above what is tolerated?
//!
//! Each component bets on one share p > p0, p0 being the tolerance: a bad request multiplies it by p/p0, a good one by
//! (1-p)/(1-p0). As long as the true share is at most p0, whatever it does below, the expectation of the factor is at most 1
//! given the past. (Wald 1945, "Sequential tests of statistical hypotheses"; how the bets are mixed: [`super::mixture`].)

use super::mixture::{COMPONENTS, Mixture, geometric};
use super::{Counted, Limits, float};

/// The highest share that is bet on. Not 1: one good request would end the bet.
const HIGHEST: f64 = 0.95;

/// The evidence may exceed what is needed by this factor, and no further.
const SPARE: f64 = 100.0;

/// Below this (e-value) nothing is going on.
const LOW: f64 = 100.0;

/// The evidence against one side.
#[derive(Clone, Debug)]
pub(super) struct Absolute {
    /// ln(p/p0), above 0.
    bad: [f64; COMPONENTS],
    /// ln((1-p)/(1-p0)), below 0.
    good: [f64; COMPONENTS],
    bets: Mixture,
    /// ln(one_false_trip_in).
    needed: f64,
}

impl Absolute {
    pub(super) fn new(limits: &Limits) -> Self {
        let p0 = limits.tolerance;
        let shares = shares(p0);
        let needed = limits.one_false_trip_in.ln();
        Self {
            bad: shares.map(|p| (p / p0).ln()),
            good: shares.map(|p| ((1.0 - p) / (1.0 - p0)).ln()),
            bets: Mixture::new([1.0; COMPONENTS], needed + SPARE.ln()),
            needed,
        }
    }

    /// Takes a batch.
    pub(super) fn look(&mut self, counted: Counted) {
        let (bad, good) = (float(counted.bad), float(counted.good()));
        self.bets.grow(|k| bad * self.bad[k] + good * self.good[k]);
    }

    /// The logarithm of the e-value, finite.
    pub(super) fn evidence(&self) -> f64 {
        self.bets.evidence()
    }

    /// Whether every component has lost: a run is over.
    pub(super) fn is_at_floor(&self) -> bool {
        self.bets.is_at_floor()
    }

    /// Whether there is next to no evidence.
    pub(super) fn is_low(&self) -> bool {
        self.evidence() < LOW.ln()
    }

    /// See [`super::requests_to_see`]: what is needed by what a request adds (Wald's identity), for the best component.
    pub(super) fn requests_to_see(&self, share: f64) -> u64 {
        let gain = |k: usize| (share * self.bad[k] + (1.0 - share) * self.good[k]).max(0.0);
        let requests = |k: usize| (self.bets.alone(k, self.needed) / gain(k)).ceil();
        let fewest = (0..COMPONENTS).map(requests).fold(f64::INFINITY, f64::min);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive; `as` saturates")]
        let fewest = fewest as u64;
        fewest
    }
}

/// The shares that are bet on: from twice the tolerance (or half-way to 1, if that is less) to nearly 1.
fn shares(tolerance: f64) -> [f64; COMPONENTS] {
    let lowest = (2.0 * tolerance).min(f64::midpoint(tolerance, 1.0));
    geometric(lowest, HIGHEST.max(f64::midpoint(lowest, 1.0)))
}
