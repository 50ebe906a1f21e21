//! Lets those go on who waited for a hold that has ended: in their order, at a pace.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::hold::{Queue, pace};
use crate::snapshot::Scope;

/// The queues whose hold has ended and in which somebody still waits.
#[derive(Debug, Default)]
pub struct Pacer(Vec<Ended>);

#[derive(Debug)]
struct Ended {
    scope: Scope,
    queue: Arc<Queue>,
    last: Instant,
    /// The time before the last look that was too short for one more request.
    carried: Duration,
    arrived: u64,
}

impl Pacer {
    /// How often it looks.
    pub const EVERY: Duration = Duration::from_millis(10);

    /// Looks after `ended` from now on, and after no other queue.
    pub fn follow(&mut self, ended: Vec<(Scope, Arc<Queue>)>) {
        let mut before = std::mem::take(&mut self.0);
        let follow = |(scope, queue): (Scope, Arc<Queue>)| {
            let known = before.iter().position(|ended| Arc::ptr_eq(&ended.queue, &queue));
            known.map_or_else(|| Ended::new(scope, queue), |at| before.swap_remove(at))
        };
        self.0 = ended.into_iter().map(follow).collect();
    }

    /// Whether there is anything to do.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        !self.0.is_empty()
    }

    /// Lets those go whose turn it is. Gives the scopes in which nobody waits any more.
    #[must_use]
    pub fn release(&mut self) -> Vec<Scope> {
        let now = Instant::now();
        self.0.iter_mut().for_each(|ended| ended.release(now));
        self.0.extract_if(.., |ended| ended.queue.waiting() == 0).map(|ended| ended.scope).collect()
    }
}

impl Ended {
    fn new(scope: Scope, queue: Arc<Queue>) -> Self {
        let arrived = queue.arrived();
        Self { scope, queue, last: Instant::now(), carried: Duration::ZERO, arrived }
    }

    fn release(&mut self, now: Instant) {
        let arrived = self.queue.arrived();
        let elapsed = now.duration_since(self.last);
        let (next, carried) = pace(self.queue.release_rate(), elapsed, self.carried, arrived - self.arrived);
        (self.last, self.carried, self.arrived) = (now, carried, arrived);
        self.queue.release(next);
    }
}
