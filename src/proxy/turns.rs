//! So many at once, and the others one after the other in the order in which they came.

use std::cell::Cell;

use tokio::sync::{Semaphore, SemaphorePermit};

/// Turns to do something of which a worker does only so much at once. How much may change at any time.
#[derive(Debug)]
pub(super) struct Turns {
    free: Semaphore,
    /// How many there are, the taken ones included.
    all: Cell<usize>,
}

impl Default for Turns {
    fn default() -> Self {
        Self { free: Semaphore::const_new(0), all: Cell::new(0) }
    }
}

impl Turns {
    /// Ready when there are less than `most` turns that live.
    pub(super) async fn next(&self, most: usize) -> SemaphorePermit<'_> {
        let all = self.all.get();
        if most > all {
            self.free.add_permits(most - all);
            self.all.set(most);
        } else if most < all {
            // Those that are taken are too many for a while.
            self.all.set(all - self.free.forget_permits(all - most));
        }
        self.free.acquire().await.expect("nobody closes it")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn so_many_have_their_turn_and_the_others_theirs_after_that() {
        let turns = Turns::default();
        let (first, second) = (turns.next(2).await, turns.next(2).await);
        let mut third = Box::pin(turns.next(2));
        let mut fourth = Box::pin(turns.next(2));
        let is_ready = |turn: &mut std::pin::Pin<Box<_>>| futures_ready(turn);
        assert!(is_ready(&mut third).is_none());
        assert!(is_ready(&mut fourth).is_none());
        drop(first);
        assert!(is_ready(&mut fourth).is_none(), "the third came first");
        let third = is_ready(&mut third).unwrap();
        drop((second, third));
        assert!(is_ready(&mut fourth).is_some());
    }

    #[tokio::test]
    async fn how_many_there_are_may_change() {
        let turns = Turns::default();
        let (first, second) = (turns.next(2).await, turns.next(2).await);
        let mut third = Box::pin(turns.next(1));
        assert!(futures_ready(&mut third).is_none());
        drop((first, second, third));
        let kept = turns.next(1).await;
        assert!(futures_ready(&mut Box::pin(turns.next(1))).is_none());
        assert!(futures_ready(&mut Box::pin(turns.next(2))).is_some());
        drop(kept);
    }

    /// What `future` gives without waiting.
    fn futures_ready<T>(future: &mut std::pin::Pin<Box<impl Future<Output = T>>>) -> Option<T> {
        match future.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
            std::task::Poll::Ready(ready) => Some(ready),
            std::task::Poll::Pending => None,
        }
    }
}
