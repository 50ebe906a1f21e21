//! How many connections to a backend are open over all workers, and which requests wait for one.
//!
//! The count stands under a lock, which is touched when a connection is opened or closed and when a request has to wait, never
//! by a request that finds a kept connection. In exchange it is exact, and a connection that becomes free goes to the request
//! that has waited for longest, on whatever worker that is.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use crate::config::BackendLimits;

/// The connections that may be open to one backend.
#[derive(Debug)]
pub struct Slots {
    ledger: Mutex<Ledger>,
    /// The length of the line, for those who only want to know whether there is one.
    waiting: AtomicUsize,
    /// Told when a request begins to wait: whoever keeps a connection that nobody uses is to give it up.
    wanted: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Ledger {
    max_connections: usize,
    max_pending: usize,
    open: usize,
    /// Those who wait, by ticket: the oldest first.
    line: BTreeMap<u64, Waiting>,
    next_ticket: u64,
}

#[derive(Debug)]
struct Waiting {
    since: Instant,
    turn: oneshot::Sender<Slot>,
}

/// As many wait as may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl Slots {
    /// None may be open until a [limit](Self::limit) says so. `wanted` is told when a request begins to wait.
    #[must_use]
    pub fn new(wanted: watch::Sender<()>) -> Self {
        Self { ledger: Mutex::default(), waiting: AtomicUsize::new(0), wanted }
    }

    /// From now on so many may be open, and so many may wait. What is open beyond that stays open until it is closed.
    pub fn limit(self: &Arc<Self>, limits: &BackendLimits) {
        let mut ledger = self.ledger();
        ledger.max_connections = limits.max_connections;
        ledger.max_pending = limits.max_pending;
        let unclaimed = self.give_what_is_free(&mut ledger);
        drop(ledger);
        drop(unclaimed); // not before: this takes the lock
    }

    /// Gives what is free to those who wait. What nobody wants any more comes back.
    fn give_what_is_free(self: &Arc<Self>, ledger: &mut Ledger) -> Vec<Slot> {
        let mut unclaimed = Vec::new();
        while ledger.open < ledger.max_connections && !ledger.line.is_empty() {
            ledger.open += 1;
            unclaimed.extend(self.give(ledger, self.slot()));
        }
        unclaimed
    }

    /// A free one; none if as many are open as may be, or if others have waited for it.
    #[must_use]
    pub fn take(self: &Arc<Self>) -> Option<Slot> {
        let mut ledger = self.ledger();
        let is_free = ledger.open < ledger.max_connections && ledger.line.is_empty();
        is_free.then(|| {
            ledger.open += 1;
            self.slot()
        })
    }

    /// A place in the line for the next one that becomes free, or that has become free since it was last looked.
    ///
    /// # Errors
    /// When as many wait as may.
    pub fn line_up(self: &Arc<Self>) -> Result<Place, Full> {
        let (turn, granted) = oneshot::channel();
        let mut ledger = self.ledger();
        let is_free = ledger.open < ledger.max_connections;
        if ledger.line.len() >= ledger.max_pending && !is_free {
            return Err(Full);
        }
        let ticket = ledger.next_ticket;
        ledger.next_ticket += 1;
        ledger.line.insert(ticket, Waiting { since: Instant::now(), turn });
        self.note_waiting(&ledger);
        let unclaimed = self.give_what_is_free(&mut ledger);
        let must_wait = ledger.line.contains_key(&ticket);
        drop(ledger);
        drop(unclaimed); // not before: this takes the lock
        if must_wait {
            self.wanted.send_replace(());
        }
        Ok(Place { slots: Arc::clone(self), ticket, granted })
    }

    /// How many wait. A look that costs a request next to nothing.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.load(Relaxed)
    }

    /// How many are open, or about to be.
    #[must_use]
    pub fn open(&self) -> usize {
        self.ledger().open
    }

    /// How many may be open.
    #[must_use]
    pub fn max_connections(&self) -> usize {
        self.ledger().max_connections
    }

    /// Since when the one has waited who has waited for longest.
    #[must_use]
    pub fn oldest(&self) -> Option<Instant> {
        self.ledger().line.first_key_value().map(|(_, waiting)| waiting.since)
    }

    fn slot(self: &Arc<Self>) -> Slot {
        Slot(Some(Arc::clone(self)))
    }

    /// Gives `slot` to the first who still wants it; back if nobody does.
    fn give(&self, ledger: &mut Ledger, mut slot: Slot) -> Option<Slot> {
        while let Some((_, first)) = ledger.line.pop_first() {
            match first.turn.send(slot) {
                Ok(()) => {
                    self.note_waiting(ledger);
                    return None;
                }
                Err(back) => slot = back,
            }
        }
        self.note_waiting(ledger);
        Some(slot)
    }

    /// A connection was closed: another one may be opened in its place.
    fn free(self: Arc<Self>) {
        let mut ledger = self.ledger();
        if ledger.open > ledger.max_connections || ledger.line.is_empty() {
            ledger.open -= 1;
            return;
        }
        if let Some(mut unclaimed) = self.give(&mut ledger, self.slot()) {
            unclaimed.0 = None; // counted here
            ledger.open -= 1;
        }
    }

    fn leave(&self, ticket: u64) {
        let mut ledger = self.ledger();
        ledger.line.remove(&ticket);
        self.note_waiting(&ledger);
    }

    fn note_waiting(&self, ledger: &Ledger) {
        self.waiting.store(ledger.line.len(), Relaxed);
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of the connections that may be open, for as long as this lives.
#[derive(Debug)]
pub struct Slot(Option<Arc<Slots>>);

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(slots) = self.0.take() {
            slots.free();
        }
    }
}

/// A place in the line, given up when it is dropped.
#[derive(Debug)]
pub struct Place {
    slots: Arc<Slots>,
    ticket: u64,
    granted: oneshot::Receiver<Slot>,
}

impl Place {
    /// Waits for its turn, however long that takes.
    pub async fn turn(&mut self) -> Slot {
        match (&mut self.granted).await {
            Ok(slot) => slot,
            Err(_) => std::future::pending().await, // the other end is in the line until it is our turn
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.slots.leave(self.ticket);
    }
}

/// How long somebody on another worker may wait for longer than somebody here before a connection is closed for their sake:
/// to pass it on here costs nothing, to open another one there does.
pub const PATIENCE: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    fn slots(max_connections: usize, max_pending: usize) -> Arc<Slots> {
        let slots = Arc::new(Slots::new(watch::channel(()).0));
        slots.limit(&limits(max_connections, max_pending));
        slots
    }

    fn limits(max_connections: usize, max_pending: usize) -> BackendLimits {
        BackendLimits { max_connections, max_pending, max_wait: Duration::from_secs(1) }
    }

    /// What `place` was given by now.
    fn given(place: &mut Place) -> Option<Slot> {
        place.granted.try_recv().ok()
    }

    #[test]
    fn so_many_and_no_more() {
        let slots = slots(2, 0);
        let (first, second) = (slots.take().unwrap(), slots.take().unwrap());
        assert!(slots.take().is_none());
        assert_eq!(slots.line_up().map(drop), Err(Full));
        drop(first);
        assert_eq!(slots.open(), 1);
        let _third = slots.take().unwrap();
        assert!(slots.take().is_none());
        drop(second);
        assert_eq!(slots.open(), 1);
    }

    #[test]
    fn first_come_first_served() {
        let slots = slots(1, 3);
        let open = slots.take().unwrap();
        let mut places = [(); 3].map(|()| slots.line_up().unwrap());
        assert_eq!((slots.waiting(), slots.line_up().map(drop)), (3, Err(Full)));
        drop(open);
        let slot = given(&mut places[0]).unwrap();
        assert!(given(&mut places[1]).is_none());
        assert_eq!((slots.open(), slots.waiting()), (1, 2));
        drop(slot);
        assert!(given(&mut places[1]).is_some());
    }

    #[test]
    fn who_leaves_is_passed_over_and_what_they_were_given_comes_back() {
        let slots = slots(1, 3);
        let open = slots.take().unwrap();
        let [first, second, mut third] = [(); 3].map(|()| slots.line_up().unwrap());
        drop(first);
        assert_eq!(slots.waiting(), 2);
        drop(open); // to the second, who does not look
        drop(second);
        let slot = given(&mut third).unwrap();
        drop(third);
        assert_eq!((slots.open(), slots.waiting()), (1, 0));
        drop(slot);
        assert_eq!(slots.open(), 0);
    }

    #[test]
    fn what_became_free_a_moment_ago_is_not_waited_for() {
        let slots = slots(1, 0);
        let mut place = slots.line_up().unwrap();
        let slot = given(&mut place);
        assert_eq!((slot.is_some(), slots.open(), slots.waiting()), (true, 1, 0));
        assert_eq!(slots.line_up().map(drop), Err(Full));
    }

    #[test]
    fn nobody_overtakes_those_who_wait() {
        let slots = slots(1, 3);
        let open = slots.take().unwrap();
        let mut place = slots.line_up().unwrap();
        drop(open);
        assert!(slots.take().is_none(), "it is promised");
        assert!(given(&mut place).is_some());
    }

    #[test]
    fn another_limit_counts_at_once() {
        let slots = slots(1, 8);
        let first = slots.take().unwrap();
        let mut places = [(); 3].map(|()| slots.line_up().unwrap());
        slots.limit(&limits(3, 8));
        let [second, third, fourth] = places.each_mut().map(given);
        assert!(second.is_some() && third.is_some() && fourth.is_none());
        slots.limit(&limits(1, 8));
        drop((first, second));
        assert_eq!((slots.open(), slots.waiting()), (1, 1), "fewer are open before anybody else has one");
        drop(third);
        let fourth = given(&mut places[2]);
        assert_eq!((fourth.is_some(), slots.open()), (true, 1));
    }

    #[test]
    fn the_count_is_exact_over_threads() {
        let slots = slots(3, 0);
        let most = AtomicUsize::new(0);
        let open = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..5_000 {
                        let Some(slot) = slots.take() else { continue };
                        most.fetch_max(open.fetch_add(1, Relaxed) + 1, Relaxed);
                        open.fetch_sub(1, Relaxed);
                        drop(slot);
                    }
                });
            }
        });
        assert!(most.load(Relaxed) <= 3);
        assert_eq!(slots.open(), 0);
    }
}
