//! Emptying a side: no new work goes there, and what runs ends.

use std::time::{Duration, SystemTime};

use super::actor::Actor;
use super::decision::Side;
use super::ramp::LONGEST_TICK;

/// A side that gets no new work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drain {
    /// Which side.
    pub side: Side,
    /// How much longer running requests may take before they are cut off; `None` is for as long as they like. Counted in
    /// ticks that this process saw.
    pub cut_in: Option<Duration>,
    /// Since when.
    pub at: SystemTime,
    /// Who asked.
    pub by: Actor,
    /// Why.
    pub reason: String,
}

impl Drain {
    /// Whether what still runs is to be cut off.
    #[must_use]
    pub fn cuts(&self) -> bool {
        self.cut_in.is_some_and(|left| left.is_zero())
    }

    /// After `elapsed`. A longer silence than [`LONGEST_TICK`] was a pause of the process, in which nothing could end.
    #[must_use]
    pub fn waited(self, elapsed: Duration) -> Self {
        let elapsed = elapsed.min(LONGEST_TICK);
        Self { cut_in: self.cut_in.map(|left| left.saturating_sub(elapsed)), ..self }
    }
}
