//! A key's place among 10 000 buckets, and the percent that draws the line between OLD and NEW.

use std::fmt;

/// How many buckets there are: hundredths of a percent.
pub const BUCKETS: u16 = 10_000;

/// A key's place in `0..10_000` (hundredths of a percent). It never changes for a key, a hash and a salt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bucket(u16);

impl Bucket {
    /// The bucket of a uniform 64-bit digest: `digest * 10_000 / 2^64` (multiply-shift, Lemire 2019, "Fast random
    /// integer generation in an interval"), which keeps the order of digests and needs no division.
    #[must_use]
    pub fn of_digest(digest: u64) -> Self {
        let scaled = (u128::from(digest) * u128::from(BUCKETS)) >> 64;
        Self(u16::try_from(scaled).expect("a digest below 2^64 scales to below 10 000"))
    }

    /// The bucket of a key of ASCII decimal digits with value n: `(n % 100) * 100 + (n / 100) % 100`, so that
    /// `bucket < percent * 100` is `n % 100 < percent` for every whole percent. `None` for any other key, also an empty
    /// one. Only the last four digits matter, so a key of any length works.
    #[must_use]
    pub fn of_decimal(key: &[u8]) -> Option<Self> {
        if key.is_empty() || !key.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let digit =
            |from_the_right: usize| key.len().checked_sub(from_the_right + 1).map_or(0, |at| u16::from(key[at] - b'0'));
        let ones_and_tens = digit(1) * 10 + digit(0);
        let hundreds_and_thousands = digit(3) * 10 + digit(2);
        Some(Self(ones_and_tens * 100 + hundreds_and_thousands))
    }

    /// The bucket of `key` under `hash`. `digest` gives the key's salted 64-bit hash and is called only if it is needed.
    #[must_use]
    pub fn of_key(key: &[u8], hash: Hash, digest: impl FnOnce() -> u64) -> Self {
        match hash {
            Hash::Modulo => Self::of_decimal(key).unwrap_or_else(|| Self::of_digest(digest())),
            Hash::Xxh3 => Self::of_digest(digest()),
        }
    }

    /// The bucket with this number; `None` if there is none.
    #[must_use]
    pub fn from_number(number: u16) -> Option<Self> {
        (number < BUCKETS).then_some(Self(number))
    }

    /// The number itself, `0..10_000`.
    #[must_use]
    pub fn get(self) -> u16 {
        self.0
    }
}

/// How a key becomes a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Hash {
    /// Decimal keys by `n % 100`, which support staff and SQL can compute; all others as [`Hash::Xxh3`].
    #[default]
    Modulo,
    /// All keys by their salted xxh3 digest.
    Xxh3,
}

impl Hash {
    /// The name in the config: `modulo` or `xxh3`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Modulo => "modulo",
            Self::Xxh3 => "xxh3",
        }
    }
}

/// The share of buckets that NEW serves, in hundredths of a percent, `0..=10_000`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Percent(u16);

impl Percent {
    /// Nobody is on NEW.
    pub const ZERO: Self = Self(0);
    /// Everybody is on NEW.
    pub const FULL: Self = Self(BUCKETS);

    /// From hundredths of a percent; `None` above 10 000.
    #[must_use]
    pub fn from_hundredths(hundredths: u16) -> Option<Self> {
        (hundredths <= BUCKETS).then_some(Self(hundredths))
    }

    /// From a percentage as people write it, `0.0..=100.0` with at most two decimals; `None` otherwise.
    #[must_use]
    pub fn from_f64(percent: f64) -> Option<Self> {
        let hundredths = (percent * 100.0).round();
        let exact = (percent * 100.0 - hundredths).abs() < 1e-6;
        if !exact || !(0.0..=f64::from(BUCKETS)).contains(&hundredths) {
            return None;
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be in 0..=10 000")]
        Some(Self(hundredths as u16))
    }

    /// In hundredths of a percent, `0..=10_000`.
    #[must_use]
    pub fn hundredths(self) -> u16 {
        self.0
    }

    /// As people write it, `0.0..=100.0`.
    #[must_use]
    pub fn as_f64(self) -> f64 {
        f64::from(self.0) / 100.0
    }

    /// Whether `bucket` is on NEW. Monotone: raising the percent only ever moves buckets from OLD to NEW.
    #[must_use]
    pub fn covers(self, bucket: Bucket) -> bool {
        bucket.0 < self.0
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} %", self.as_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn modulo(key: &str) -> u16 {
        Bucket::of_decimal(key.as_bytes()).unwrap().get()
    }

    #[test]
    fn decimal_keys_follow_the_published_formula() {
        for (key, bucket) in [
            ("0", 0),
            ("7", 700),
            ("42", 4200),
            ("100", 1),
            ("1007", 710),
            ("0000001007", 710),
            ("9999", 9999),
            ("123456789012345678901234567890", 9078),
        ] {
            assert_eq!(modulo(key), bucket, "key {key}");
        }
    }

    #[test]
    fn other_keys_are_not_decimal() {
        for key in ["", " 1", "-1", "+1", "1.0", "0x10", "alice", "１"] {
            assert_eq!(Bucket::of_decimal(key.as_bytes()), None, "key {key:?}");
        }
    }

    #[test]
    fn digests_spread_over_all_buckets_in_order() {
        assert_eq!(Bucket::of_digest(0).get(), 0);
        assert_eq!(Bucket::of_digest(u64::MAX).get(), 9999);
        assert_eq!(Bucket::of_digest(u64::MAX / 2).get(), 4999);
    }

    #[test]
    fn percents_take_two_decimals_and_no_more() {
        for (written, hundredths) in [(0.0, 0), (5.0, 500), (12.34, 1234), (0.07, 7), (99.99, 9999), (100.0, 10_000)] {
            assert_eq!(Percent::from_f64(written).map(Percent::hundredths), Some(hundredths), "{written}");
        }
        for refused in [-0.01, 100.01, 0.001, f64::NAN, f64::INFINITY, 1e308] {
            assert_eq!(Percent::from_f64(refused), None, "{refused}");
        }
    }

    proptest! {
        #[test]
        fn whole_percents_are_exactly_n_modulo_100(n in any::<u128>(), zeros in 0usize..5, percent in 0u16..=100) {
            let key = format!("{}{n}", "0".repeat(zeros));
            let bucket = Bucket::of_decimal(key.as_bytes()).unwrap();
            let on_new = Percent::from_hundredths(percent * 100).unwrap().covers(bucket);
            prop_assert_eq!(on_new, n % 100 < u128::from(percent));
        }

        #[test]
        fn raising_the_percent_never_moves_anyone_back(digest in any::<u64>(), low in 0u16..=10_000, high in 0u16..=10_000) {
            let (low, high) = (low.min(high), low.max(high));
            let bucket = Bucket::of_digest(digest);
            let covers = |hundredths| Percent::from_hundredths(hundredths).unwrap().covers(bucket);
            prop_assert!(!covers(low) || covers(high));
        }

        #[test]
        fn ten_thousand_sequential_ids_split_exactly(start in 0u64..1_000_000_000, hundredths in 0u16..=10_000) {
            let percent = Percent::from_hundredths(hundredths).unwrap();
            let on_new = (start..start + 10_000)
                .filter(|id| percent.covers(Bucket::of_decimal(id.to_string().as_bytes()).unwrap()))
                .count();
            prop_assert_eq!(on_new, usize::from(hundredths));
        }
    }
}
