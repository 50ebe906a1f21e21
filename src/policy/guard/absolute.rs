//! Is a side's share of bad requests above what is tolerated?
//!
//! Each component bets on one share p_k > p0, p0 being the tolerance: a bad request multiplies it by p_k/p0, a good one by
//! (1-p_k)/(1-p0). As long as the true share is at most p0, whatever it does below, each factor has an expectation of at most 1
//! given the past. A component that has lost starts again from 1 (CUSUM; Page 1954, "Continuous inspection schemes").
//! It never exceeds the sum of the products from every possible start, the Shiryaev-Roberts e-detector, and nor does a
//! weighted mean of such: so a mean of at least c comes, in the long run of a healthy side, not more often than once in c
//! requests (Shin, Ramdas & Rinaldo 2024, "E-detectors: a nonparametric framework for sequential change detection").

use super::{Counted, Limits, float, log_mean_exp};

/// How many shares are bet on. They weigh the same.
pub(super) const COMPONENTS: usize = 7;

/// The highest share that is bet on. Not 1: one good request would end the bet.
const HIGHEST: f64 = 0.95;

/// A component may exceed what is needed by this factor, and no further: a side that gets well has to be believed again.
const SPARE: f64 = 100.0;

/// Below this (e-value) nothing is going on.
const LOW: f64 = 100.0;

/// The evidence against one side.
#[derive(Clone, Debug)]
pub(super) struct Absolute {
    /// ln(p_k/p0), above 0.
    bad: [f64; COMPONENTS],
    /// ln((1-p_k)/(1-p0)), below 0.
    good: [f64; COMPONENTS],
    /// The components' logarithms. Below 0 one is at its floor: the next batch starts from 0.
    logs: [f64; COMPONENTS],
    /// No component gets above it.
    most: f64,
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
            logs: [0.0; COMPONENTS],
            most: needed + SPARE.ln() + mixing(),
            needed,
        }
    }

    /// Takes a batch. Its end is a moment that does not depend on what comes next, so a component may start again there.
    pub(super) fn look(&mut self, counted: Counted) {
        let (bad, good) = (float(counted.bad), float(counted.good()));
        for (k, log) in self.logs.iter_mut().enumerate() {
            *log = (log.max(0.0) + bad * self.bad[k] + good * self.good[k]).min(self.most);
        }
    }

    /// The logarithm of the e-value, finite (or far below 0).
    pub(super) fn evidence(&self) -> f64 {
        log_mean_exp(&self.logs)
    }

    /// Whether every component has lost: a run is over.
    pub(super) fn is_at_floor(&self) -> bool {
        self.logs.iter().all(|log| *log <= 0.0)
    }

    /// Whether there is next to no evidence.
    pub(super) fn is_low(&self) -> bool {
        self.evidence() < LOW.ln()
    }

    /// See [`super::requests_to_see`]: what is needed by what a request adds (Wald's identity), for the best component.
    pub(super) fn requests_to_see(&self, share: f64) -> u64 {
        let gain = |k: usize| share * self.bad[k] + (1.0 - share) * self.good[k];
        let best = (0..COMPONENTS).map(gain).fold(0.0, f64::max);
        let requests = ((self.needed + mixing()) / best).ceil();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive; `as` saturates")]
        let requests = requests as u64;
        requests
    }
}

/// What a mixture loses to the component that is right: the logarithm of its weight.
fn mixing() -> f64 {
    float(COMPONENTS as u64).ln()
}

/// The shares that are bet on: equally spaced in the logarithm from twice the tolerance (or half-way to 1) to nearly 1.
fn shares(tolerance: f64) -> [f64; COMPONENTS] {
    let lowest = (2.0 * tolerance).min(f64::midpoint(tolerance, 1.0));
    let highest = HIGHEST.max(f64::midpoint(lowest, 1.0));
    geometric(lowest, highest)
}

/// Equally spaced in the logarithm, both ends included.
pub(super) fn geometric(lowest: f64, highest: f64) -> [f64; COMPONENTS] {
    let ratio = highest / lowest;
    std::array::from_fn(|k| lowest * ratio.powf(float(k as u64) / float(COMPONENTS as u64 - 1)))
}
