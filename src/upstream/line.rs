//! The requests of one worker that wait for a connection to a backend.
//!
//! They stand in the line of all workers too ([`crate::capacity`]), for the right to open one. A connection that another
//! request of this worker is done with goes to them without that.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use hyper::body::Body;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::Pool;
use super::http1::Connection;
use crate::capacity::{PATIENCE, Slots};

/// Who waits, first come first served.
#[derive(Debug)]
pub(super) struct Line<B: Body + 'static> {
    pub(super) slots: Arc<Slots>,
    /// Told when a stream of a shared connection has ended while somebody waits.
    pub(super) freed: Notify,
    waiting: RefCell<VecDeque<Waiting<B>>>,
}

#[derive(Debug)]
struct Waiting<B: Body + 'static> {
    since: Instant,
    turn: oneshot::Sender<PassedOn<B>>,
}

/// A connection that goes from one request to the next.
#[derive(Debug)]
pub(super) struct PassedOn<B: Body + 'static> {
    pub(super) connection: Box<Connection<B>>,
    pub(super) pool: Rc<Pool<B>>,
}

impl<B: Body + 'static> Line<B> {
    pub(super) fn new(slots: Arc<Slots>) -> Self {
        Self { slots, freed: Notify::new(), waiting: RefCell::default() }
    }

    /// Whether nobody waits here.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.borrow().iter().all(|waiting| waiting.turn.is_closed())
    }

    /// Waits from now on, for as long as what is returned lives.
    pub(super) fn join(&self, since: Instant) -> oneshot::Receiver<PassedOn<B>> {
        let (turn, comes) = oneshot::channel();
        let mut waiting = self.waiting.borrow_mut();
        // Those who have left: where nothing is ever passed on, nobody else would take them out.
        while waiting.pop_front_if(|first| first.turn.is_closed()).is_some() {}
        waiting.push_back(Waiting { since, turn });
        comes
    }

    /// Gives a connection that is free now to who has waited for longest, if that one waits here; closes it if that one
    /// waits elsewhere. It comes back if nobody waits.
    pub(super) fn pass_on(&self, mut passed: PassedOn<B>) -> Option<Box<Connection<B>>> {
        while self.slots.waiting() > 0 {
            let first = self.next()?;
            let has_waited_for_longest = || self.slots.oldest().is_none_or(|oldest| first.since <= oldest + PATIENCE);
            if !passed.pool.is_fit() || !has_waited_for_longest() {
                self.waiting.borrow_mut().push_front(first);
                return None;
            }
            match first.turn.send(passed) {
                Ok(()) => return None,
                Err(back) => passed = back,
            }
        }
        Some(passed.connection)
    }

    /// The first who still waits.
    fn next(&self) -> Option<Waiting<B>> {
        let mut waiting = self.waiting.borrow_mut();
        std::iter::from_fn(|| waiting.pop_front()).find(|first| !first.turn.is_closed())
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;

    use super::*;

    #[test]
    fn who_has_left_leaves_nothing_behind() {
        let line = Line::<hyper::body::Incoming>::new(Arc::new(Slots::new(watch::channel(()).0)));
        let now = Instant::now();
        for _ in 0..1_000 {
            drop(line.join(now)); // nobody passes anything on: connections of HTTP/2 are shared
        }
        let _one_who_waits = line.join(now);
        assert_eq!(line.waiting.borrow().len(), 1);
    }
}
