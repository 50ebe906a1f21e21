//! The last minute: readings of counters that only grow, kept so that the latest can be compared with an older one.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::{Distribution, Registry};
use crate::policy::decision::Side;

/// How often a reading is taken.
pub const INTERVAL: Duration = Duration::from_secs(5);
/// Readings kept: together they span the last minute.
const KEPT: usize = 12;

/// What happened on one side of a rollout in the last minute.
#[derive(Clone, Debug, Default)]
pub struct Recent {
    /// Requests that ended.
    pub requests: u64,
    /// How long they took.
    pub durations: Distribution,
}

type Reading = BTreeMap<String, [Distribution; 2]>;

/// Readings of the last minute, oldest first.
#[derive(Debug, Default)]
pub struct Window {
    readings: VecDeque<Reading>,
}

impl Window {
    /// Takes a reading; to be called every [`INTERVAL`].
    pub fn take(&mut self, registry: &Registry) {
        if self.readings.len() == KEPT {
            self.readings.pop_front();
        }
        let read = |side| move |meters: &super::RolloutMeters| meters.side(side).durations();
        let reading = registry
            .rollouts()
            .into_iter()
            .map(|(name, meters)| (name, Side::ALL.map(|side| read(side)(&meters))))
            .collect();
        self.readings.push_back(reading);
    }

    /// What happened on `side` of the rollout `name` since the oldest reading that is kept, or since the start.
    #[must_use]
    pub fn recent(&self, registry: &Registry, name: &str, side: Side) -> Recent {
        let now = registry.rollout(name).side(side).durations();
        let durations = match self.readings.front().and_then(|reading| reading.get(name)) {
            Some(then) => now.since(&then[side.index()]),
            None => now,
        };
        Recent { requests: durations.count(), durations }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Class, Why};

    #[test]
    fn what_is_older_than_a_minute_is_forgotten() {
        let registry = Registry::new(1);
        let mut window = Window::default();
        let ends = |n: usize| {
            let meters = registry.rollout("r");
            let shard = meters.side(Side::Old).shard(0);
            (0..n).for_each(|_| {
                shard.begin();
                shard.end(Why::Backend, Class::Success, Duration::from_millis(1));
            });
        };
        ends(7);
        window.take(&registry);
        ends(3);
        assert_eq!(window.recent(&registry, "r", Side::Old).requests, 3);
        for _ in 0..KEPT {
            window.take(&registry);
        }
        assert_eq!(window.recent(&registry, "r", Side::Old).requests, 0);
    }
}
