//! Durations in log-linear buckets (the HdrHistogram layout): 16 a power of two, so that any percentile is off by at most
//! one part in 16, from a microsecond to two minutes, in 3 KiB.

use std::time::Duration;

use super::Counter;

/// Powers of two of a microsecond that are told apart: 2^27 us is 134 s; what is slower counts as that.
const OCTAVES: usize = 27;
const SUB: usize = 16;
const SUB_BITS: usize = 4;
const BUCKETS: usize = (OCTAVES - SUB_BITS + 1) * SUB;

/// A histogram with one writer.
#[derive(Debug)]
pub struct Histogram {
    counts: [Counter; BUCKETS],
    /// Sum in microseconds.
    sum: Counter,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: std::array::from_fn(|_| Counter::default()), sum: Counter::default() }
    }
}

impl Histogram {
    /// Counts one duration.
    pub fn record(&self, elapsed: Duration) {
        let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        self.counts[bucket_of(micros)].increment();
        self.sum.add(micros);
    }

    /// Adds what was counted so far to `sum`.
    pub fn add_to(&self, sum: &mut Distribution) {
        for (into, from) in sum.counts.iter_mut().zip(&self.counts) {
            *into += from.get();
        }
        sum.sum += self.sum.get();
    }
}

fn bucket_of(micros: u64) -> usize {
    let capped = usize::try_from(micros).unwrap_or(usize::MAX).min((1 << OCTAVES) - 1);
    if capped < SUB {
        return capped;
    }
    let octave = capped.ilog2() as usize;
    (octave - SUB_BITS) * SUB + (capped >> (octave - SUB_BITS))
}

/// The upper edge of a bucket in microseconds: every duration in it is below.
fn edge_of(bucket: usize) -> u64 {
    if bucket < SUB {
        return bucket as u64 + 1;
    }
    let octave = bucket / SUB + SUB_BITS - 1;
    ((bucket % SUB + SUB + 1) as u64) << (octave - SUB_BITS)
}

/// Counts of durations, added up over workers or taken from one another over time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Distribution {
    counts: Box<[u64; BUCKETS]>,
    sum: u64,
}

impl Default for Distribution {
    fn default() -> Self {
        Self { counts: Box::new([0; BUCKETS]), sum: 0 }
    }
}

impl Distribution {
    /// How many durations were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Their sum in seconds.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "exact up to 285 years of microseconds")]
    pub fn sum_seconds(&self) -> f64 {
        self.sum as f64 / 1e6
    }

    /// How many were below 2^`octave` microseconds.
    #[must_use]
    pub fn count_below_octave(&self, octave: usize) -> u64 {
        let end = if octave <= SUB_BITS { 1 << octave } else { (octave - SUB_BITS + 1) * SUB };
        self.counts[..end.min(BUCKETS)].iter().sum()
    }

    /// The duration that a share of `quantile` (0 to 1) of all were below; `None` if nothing was counted.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rank needs no more than 52 bits"
    )]
    pub fn quantile(&self, quantile: f64) -> Option<Duration> {
        let count = self.count();
        let rank = ((count as f64 * quantile).ceil() as u64).clamp(1, count.max(1));
        let mut seen = 0;
        let bucket = self.counts.iter().position(|n| {
            seen += n;
            seen >= rank
        })?;
        Some(Duration::from_micros(edge_of(bucket)))
    }

    /// What was counted since `earlier`, a reading of the same histogram.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let counts = Box::new(std::array::from_fn(|at| self.counts[at].saturating_sub(earlier.counts[at])));
        Self { counts, sum: self.sum.saturating_sub(earlier.sum) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn recorded(micros: impl IntoIterator<Item = u64>) -> Distribution {
        let histogram = Histogram::default();
        micros.into_iter().for_each(|n| histogram.record(Duration::from_micros(n)));
        let mut sum = Distribution::default();
        histogram.add_to(&mut sum);
        sum
    }

    #[test]
    fn quantiles_are_close_from_above() {
        let distribution = recorded(1..=1000);
        for (quantile, exact) in [(0.5, 500.0), (0.9, 900.0), (0.99, 990.0), (0.999, 999.0)] {
            let told = distribution.quantile(quantile).unwrap().as_secs_f64() * 1e6;
            assert!((exact..=exact * 17.0 / 16.0 + 1.0).contains(&told), "{quantile}: {told} us");
        }
    }

    #[test]
    fn an_empty_distribution_has_no_quantiles() {
        assert_eq!(Distribution::default().quantile(0.5), None);
    }

    #[test]
    fn very_slow_requests_land_in_the_last_bucket() {
        assert_eq!(recorded([u64::MAX]).count(), 1);
        assert!(recorded([200_000_000]).quantile(1.0).unwrap() >= Duration::from_secs(134));
    }

    #[test]
    fn a_difference_holds_what_came_since() {
        let earlier = recorded([10, 20]);
        let later = recorded([10, 20, 30]);
        assert_eq!(later.since(&earlier), recorded([30]));
    }

    proptest! {
        #[test]
        fn a_duration_lies_below_its_edge_and_above_the_one_before(micros in 0u64..(1 << OCTAVES)) {
            let bucket = bucket_of(micros);
            prop_assert!(micros < edge_of(bucket));
            prop_assert!(bucket == 0 || micros >= edge_of(bucket - 1));
        }

        #[test]
        fn octave_counts_are_exact(micros in proptest::collection::vec(0u64..100_000, 0..50), octave in 0usize..=27) {
            let below = micros.iter().filter(|n| **n < 1 << octave).count() as u64;
            prop_assert_eq!(recorded(micros).count_below_octave(octave), below);
        }
    }
}
