//! Do the bad requests come from several users? One broken client must not roll everybody back.
//!
//! In a run, a bucket's bad request is admitted as long as enough others have been hurt as often: `min_distinct - 1` other
//! buckets have to have at least as many admitted as it has. If everybody is hurt nobody is held back; if one user alone is,
//! it counts once, and on top of a sprinkling of others' failures it counts about as often as each of them.
//!
//! (A cap on a bucket's part of all bad requests, 1/`min_distinct`, would not do: with three buckets, a hammering client
//! could add half as much again to a base rate just below the tolerance, and lift it above.)

use crate::policy::bucket::Bucket;

/// How many buckets are remembered.
pub(super) const MOST: usize = 64;

/// Admitted bad requests of a run, by bucket. Where there are more buckets than places, the least of them makes room and
/// hands on its count (Space-Saving; Metwally, Agrawal & El Abbadi 2005, "Efficient computation of frequent and top-k
/// elements in data streams"): no bucket with more than a 64th of all is forgotten, and one that is can only be admitted
/// about that much more.
#[derive(Clone, Debug)]
pub(super) struct Spread {
    places: [Place; MOST],
    taken: usize,
    min_distinct: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Place {
    bucket: u16,
    count: u16,
}

impl Spread {
    pub(super) fn new(min_distinct: usize) -> Self {
        Self { places: [Place::default(); MOST], taken: 0, min_distinct: min_distinct.clamp(1, MOST) }
    }

    pub(super) fn clear(&mut self) {
        self.taken = 0;
    }

    /// How many different buckets there were, up to [`MOST`].
    pub(super) fn distinct(&self) -> usize {
        self.taken
    }

    pub(super) fn is_enough(&self) -> bool {
        self.taken >= self.min_distinct
    }

    pub(super) fn has(&self, bucket: Bucket) -> bool {
        self.taken().iter().any(|place| place.bucket == bucket.get())
    }

    /// Whether one more bad request of `bucket` counts; if so, it is counted.
    pub(super) fn admits(&mut self, bucket: Bucket) -> bool {
        let known = self.taken().iter().position(|place| place.bucket == bucket.get());
        if known.is_some_and(|at| !self.are_others_hurt_as_often(at)) {
            return false;
        }
        let at = known.unwrap_or_else(|| self.place_for(bucket));
        self.places[at].count = self.places[at].count.saturating_add(1);
        true
    }

    fn taken(&self) -> &[Place] {
        &self.places[..self.taken]
    }

    fn are_others_hurt_as_often(&self, at: usize) -> bool {
        let as_often = self.taken().iter().filter(|place| place.count >= self.places[at].count).count();
        as_often >= self.min_distinct // itself is among them
    }

    /// A place for a bucket that has none.
    fn place_for(&mut self, bucket: Bucket) -> usize {
        let (at, count) = if self.taken < MOST {
            self.taken += 1;
            (self.taken - 1, 0)
        } else {
            let least = (0..MOST).min_by_key(|at| self.places[*at].count).unwrap_or(0);
            (least, self.places[least].count)
        };
        self.places[at] = Place { bucket: bucket.get(), count };
        at
    }
}
