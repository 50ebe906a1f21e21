//! Several bets side by side, because nobody knows how bad it will be.

use super::float;

/// How many bets there are.
pub(super) const COMPONENTS: usize = 7;

/// The bets' values, as natural logarithms, and what part of the stake is on each.
///
/// A bet that has lost starts again from 1 at the next batch (CUSUM; Page 1954, "Continuous inspection schemes"): the end of a
/// batch is a moment that does not depend on what comes next. It never exceeds the sum of the products from every possible
/// start (the Shiryaev-Roberts e-detector), and nor does a weighted mean of such. If each batch has an expectation of at most
/// 1, a mean of at least c comes, in the long run, not more often than once in c requests (Shin, Ramdas & Rinaldo 2024,
/// "E-detectors: a nonparametric framework for sequential change detection").
#[derive(Clone, Debug)]
pub(super) struct Mixture {
    /// Below 0 a bet is at its floor.
    logs: [f64; COMPONENTS],
    /// ln of the parts of the stake; the parts add up to 1.
    weights: [f64; COMPONENTS],
    /// The evidence that one bet alone can bring about. Without a limit a side that gets well would not be believed for ages.
    most: f64,
}

impl Mixture {
    /// Bets with these parts of the stake (in any unit), that bring the evidence to `most` (a logarithm) each, and no further.
    pub(super) fn new(parts: [f64; COMPONENTS], most: f64) -> Self {
        let whole: f64 = parts.iter().sum();
        Self { logs: [0.0; COMPONENTS], weights: parts.map(|part| (part / whole).ln()), most }
    }

    /// Multiplies each bet by what a batch brought it: `gain` is the logarithm for the bet with that number.
    pub(super) fn grow(&mut self, gain: impl Fn(usize) -> f64) {
        for (k, log) in self.logs.iter_mut().enumerate() {
            *log = (log.max(0.0) + gain(k)).min(self.most - self.weights[k]);
        }
    }

    /// The logarithm of the e-value: of the weighted mean.
    pub(super) fn evidence(&self) -> f64 {
        let weighted = || self.logs.iter().zip(self.weights).map(|(log, weight)| log + weight);
        let top = weighted().fold(f64::NEG_INFINITY, f64::max);
        top + weighted().map(|log| (log - top).exp()).sum::<f64>().ln()
    }

    /// Whether every bet is at its floor.
    pub(super) fn is_at_floor(&self) -> bool {
        self.logs.iter().all(|log| *log <= 0.0)
    }

    /// What has to be won for `needed` to be reached by one bet alone, as a logarithm.
    pub(super) fn alone(&self, k: usize, needed: f64) -> f64 {
        needed - self.weights[k]
    }
}

/// Equally spaced in the logarithm, both ends included.
pub(super) fn geometric(lowest: f64, highest: f64) -> [f64; COMPONENTS] {
    let ratio = highest / lowest;
    std::array::from_fn(|k| lowest * ratio.powf(float(k as u64) / float(COMPONENTS as u64 - 1)))
}
