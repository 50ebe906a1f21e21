//! Which buckets were hurt.

use crate::policy::bucket::{BUCKETS, Bucket};

const WORDS: usize = (BUCKETS as usize).div_ceil(64);

/// Distinct buckets: a bit for each of the 10 000, and how many are set. 1.25 KB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hurt {
    bits: [u64; WORDS],
    count: usize,
}

impl Default for Hurt {
    fn default() -> Self {
        Self { bits: [0; WORDS], count: 0 }
    }
}

impl Hurt {
    /// Adds a bucket; again changes nothing.
    pub fn add(&mut self, bucket: Bucket) {
        let number = usize::from(bucket.get());
        let (word, bit) = (&mut self.bits[number / 64], 1 << (number % 64));
        if *word & bit == 0 {
            *word |= bit;
            self.count += 1;
        }
    }

    /// How many different ones there are, `0..=10_000`.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }
}
