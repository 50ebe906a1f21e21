//! Complaints on their way: gathered with their places, so that one run tells everything that is wrong.

use super::document::Place;
use super::error::{Complaint, SHOWN_FAULTS};

/// What has been complained about so far. It keeps as many as are shown and counts the rest, so that a file of nothing
/// but errors costs no more than another.
#[derive(Debug, Default)]
pub(super) struct Faults {
    kept: Vec<(Place, Complaint)>,
    omitted: usize,
}

impl Faults {
    pub(super) fn add(&mut self, place: Place, complaint: Complaint) {
        if self.kept.len() < SHOWN_FAULTS {
            self.kept.push((place, complaint));
        } else {
            self.omitted += 1;
        }
    }

    /// The value, or `None` after noting what is wrong at `place`.
    pub(super) fn take<T>(&mut self, place: &Place, result: Result<T, Complaint>) -> Option<T> {
        result.map_err(|complaint| self.add(place.clone(), complaint)).ok()
    }

    /// The values that are right, after noting what is wrong with the others.
    pub(super) fn take_all<'a, S: 'a, T>(
        &mut self,
        place: &Place,
        written: impl IntoIterator<Item = &'a S>,
        read: impl Fn(&S) -> Result<T, Complaint>,
    ) -> Vec<T> {
        let take = |(at, item)| match read(item) {
            Ok(value) => Some(value),
            Err(complaint) => {
                self.add(place.item(at), complaint);
                None
            }
        };
        written.into_iter().enumerate().filter_map(take).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    pub(super) fn into_parts(self) -> (Vec<(Place, Complaint)>, usize) {
        (self.kept, self.omitted)
    }
}
