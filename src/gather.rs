//! Small writes gathered into large ones.
//!
//! HTTP/2 writes frame by frame, and flushes after each: a system call for 16 KiB, or for the kilobyte that an answer has.
//! Here frames wait in one buffer until they are many or until the connection's task has nothing more to say for now.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that are written at once, and that may wait for a peer that does not read: four frames of HTTP/2's usual size, with their
/// heads and a few small ones.
const MOST: usize = 66 << 10;
/// Bytes for which room is kept when nothing waits.
const KEPT: usize = 4 << 10;

/// A stream of bytes that keeps back what is written to it until [`Self::poll_send`], 66 KiB, or the end. A flush
/// alone sends nothing.
#[derive(Debug)]
pub struct Gathered<T>(Rc<RefCell<Inner<T>>>);

#[derive(Debug)]
struct Inner<T> {
    stream: T,
    /// What waits, behind `sent` bytes that do not any more.
    waiting: Vec<u8>,
    sent: usize,
}

impl<T> Clone for Gathered<T> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<T: AsyncWrite + Unpin> Gathered<T> {
    /// Gathers what is written to `stream`.
    pub fn new(stream: T) -> Self {
        Self(Rc::new(RefCell::new(Inner { stream, waiting: Vec::new(), sent: 0 })))
    }

    /// Sends what waits; ready once nothing does.
    ///
    /// # Errors
    /// The stream's.
    pub fn poll_send(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().poll_send(cx)
    }
}

impl<T: AsyncWrite + Unpin> Inner<T> {
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.waiting.len() {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &self.waiting[self.sent..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.sent += written,
            }
        }
        self.sent = 0;
        self.waiting.clear();
        if self.waiting.capacity() > KEPT {
            self.waiting = Vec::new();
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn gather(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(MOST - self.waiting.len());
        if self.waiting.len() + taken > KEPT {
            self.waiting.reserve_exact(MOST - self.waiting.len()); // there will be more
        }
        self.waiting.extend_from_slice(&bytes[..taken]);
        taken
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Gathered<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.borrow_mut().stream).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Gathered<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut inner = self.0.borrow_mut();
        if inner.waiting.len() == MOST {
            ready!(inner.poll_send(cx))?;
        }
        Poll::Ready(Ok(inner.gather(bytes)))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.0.borrow_mut();
        ready!(inner.poll_send(cx))?;
        Pin::new(&mut inner.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use proptest::prelude::*;

    use super::*;

    /// A stream that takes so much at once, and waits in between.
    #[derive(Debug)]
    struct Peer {
        came: Vec<u8>,
        writes: usize,
        at_once: usize,
        waits: bool,
    }

    impl AsyncWrite for Peer {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.waits = !self.waits;
            if self.waits && self.at_once < MOST {
                return Poll::Pending;
            }
            let taken = bytes.len().min(self.at_once);
            self.came.extend_from_slice(&bytes[..taken]);
            self.writes += 1;
            Poll::Ready(Ok(taken))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn to_peer(at_once: usize) -> Gathered<Peer> {
        Gathered::new(Peer { came: Vec::new(), writes: 0, at_once, waits: false })
    }

    /// Polls as long as it takes.
    fn insist<T>(mut poll: impl FnMut(&mut Context<'_>) -> Poll<io::Result<T>>) -> T {
        let mut cx = Context::from_waker(Waker::noop());
        loop {
            if let Poll::Ready(done) = poll(&mut cx) {
                return done.expect("the peer does not break");
            }
        }
    }

    fn write(gathered: &mut Gathered<Peer>, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let written = insist(|cx| Pin::new(&mut *gathered).poll_write(cx, bytes));
            bytes = &bytes[written..];
        }
        insist(|cx| Pin::new(&mut *gathered).poll_flush(cx));
    }

    #[test]
    fn what_is_small_waits_until_it_is_sent_and_leaves_at_once() {
        let mut gathered = to_peer(usize::MAX);
        write(&mut gathered, b"one ");
        write(&mut gathered, b"two");
        assert_eq!(gathered.0.borrow().stream.writes, 0);
        insist(|cx| gathered.poll_send(cx));
        assert_eq!(gathered.0.borrow().stream.came, b"one two");
        assert_eq!(gathered.0.borrow().stream.writes, 1);
    }

    #[test]
    fn no_more_waits_than_is_written_at_once_and_nothing_is_kept_of_it() {
        let mut gathered = to_peer(usize::MAX);
        write(&mut gathered, &[7; 3 * MOST - 1]);
        assert_eq!(gathered.0.borrow().stream.came.len(), 2 * MOST);
        assert_eq!(gathered.0.borrow().waiting.capacity(), MOST);
        insist(|cx| gathered.poll_send(cx));
        assert_eq!(gathered.0.borrow().stream.writes, 3);
        assert_eq!(gathered.0.borrow().waiting.capacity(), 0);
    }

    proptest! {
        #[test]
        fn it_comes_out_as_it_went_in(
            pieces in proptest::collection::vec((0..40_000_usize, any::<bool>()), 0..12),
            at_once in 1_000..100_000_usize,
        ) {
            let mut gathered = to_peer(at_once);
            let mut sent = Vec::new();
            for (at, (length, is_last)) in pieces.into_iter().enumerate() {
                let piece: Vec<u8> = (0..=u8::MAX).cycle().skip(at).take(length).collect();
                write(&mut gathered, &piece);
                sent.extend(piece);
                if is_last {
                    insist(|cx| gathered.poll_send(cx));
                    prop_assert_eq!(&gathered.0.borrow().stream.came, &sent);
                }
            }
            insist(|cx| Pin::new(&mut gathered).poll_shutdown(cx));
            prop_assert_eq!(&gathered.0.borrow().stream.came, &sent);
        }
    }
}
