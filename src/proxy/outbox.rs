//! What waits to be written on a connection that carries many answers at once. Each stream has room of its own, so that one may be
//! fast; all of them together have no more than this, so that a client which does not read costs no more.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};

/// Bytes that wait, at most; one piece may go beyond.
const ROOM: usize = 256 << 10;

/// What waits on one connection.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    bytes: Cell<usize>,
    /// Streams that wait until there is room.
    waiting: RefCell<Vec<Waker>>,
}

impl Outbox {
    /// Ready once there is room for another piece.
    pub(super) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.bytes.get() < ROOM {
            return Poll::Ready(());
        }
        let mut waiting = self.waiting.borrow_mut();
        if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            waiting.push(cx.waker().clone());
        }
        Poll::Pending
    }

    /// A piece, which takes up room until it is written or given up.
    pub(super) fn put(self: &Rc<Self>, bytes: Bytes) -> Piece {
        self.bytes.set(self.bytes.get() + bytes.len());
        Piece { counted: bytes.len(), bytes, outbox: Some(Rc::clone(self)) }
    }

    fn written(&self, bytes: usize) {
        self.bytes.set(self.bytes.get() - bytes);
        if self.bytes.get() < ROOM {
            self.waiting.take().into_iter().for_each(Waker::wake);
        }
    }
}

/// A piece of an answer on its way.
#[derive(Debug)]
pub(super) struct Piece {
    bytes: Bytes,
    counted: usize,
    outbox: Option<Rc<Outbox>>,
}

/// A piece that takes up no room of its connection.
impl From<Bytes> for Piece {
    fn from(bytes: Bytes) -> Self {
        Self { bytes, counted: 0, outbox: None }
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        if let Some(outbox) = &self.outbox {
            outbox.written(self.counted);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_until_it_is_taken_and_again_when_it_is_given_back() {
        let outbox = Rc::new(Outbox::default());
        let mut cx = Context::from_waker(Waker::noop());
        let mut pieces: Vec<Piece> = (0..8).map(|_| outbox.put(Bytes::from(vec![0; ROOM / 8]))).collect();
        assert!(outbox.poll_room(&mut cx).is_pending());
        pieces[0].advance(ROOM / 8);
        assert!(outbox.poll_room(&mut cx).is_pending(), "what is half written is not written");
        drop(pieces.pop());
        assert!(outbox.poll_room(&mut cx).is_ready());
        assert!(outbox.waiting.borrow().is_empty(), "who waited was woken");
        drop(pieces);
        assert_eq!(outbox.bytes.get(), 0);
    }
}
