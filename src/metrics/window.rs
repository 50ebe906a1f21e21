//! The last minute: readings of counters that only grow, kept so that the latest can be compared with an older one.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::{Distribution, Registry, Series};
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
    /// How many of them failed: see [`Series::failed`].
    pub failures: u64,
    /// How long they took.
    pub durations: Distribution,
}

/// What was counted on one side so far.
#[derive(Clone, Debug, Default)]
struct Count {
    durations: Distribution,
    failures: u64,
}

impl Count {
    fn of(series: &Series) -> Self {
        Self { durations: series.durations(), failures: series.failed() }
    }

    fn since(self, earlier: Option<&Self>) -> Recent {
        let (durations, failures) = match earlier {
            Some(then) => (self.durations.since(&then.durations), self.failures.saturating_sub(then.failures)),
            None => (self.durations, self.failures),
        };
        // A failure that was counted when it was seen may end in one that shows.
        let requests = durations.count();
        Recent { requests, failures: failures.min(requests), durations }
    }
}

type Reading = BTreeMap<String, [Count; 2]>;

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
        let reading = registry
            .rollouts()
            .into_iter()
            .map(|(name, meters)| (name, Side::ALL.map(|side| Count::of(meters.side(side)))))
            .collect();
        self.readings.push_back(reading);
    }

    /// What happened on `side` of the rollout `name` since the oldest reading that is kept, or since the start.
    #[must_use]
    pub fn recent(&self, registry: &Registry, name: &str, side: Side) -> Recent {
        let then = self.readings.front().and_then(|reading| reading.get(name));
        Count::of(registry.rollout(name).side(side)).since(then.map(|sides| &sides[side.index()]))
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
        registry.rollout("r").side(Side::Old).shard(0).end(Why::Backend, Class::ServerError, Duration::ZERO);
        let recent = window.recent(&registry, "r", Side::Old);
        assert_eq!((recent.requests, recent.failures), (4, 1));
        for _ in 0..KEPT {
            window.take(&registry);
        }
        let recent = window.recent(&registry, "r", Side::Old);
        assert_eq!((recent.requests, recent.failures), (0, 0));
    }
}
