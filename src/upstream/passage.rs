//! What a way to a backend becomes when the backend agrees to speak something else than HTTP.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::body::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::http2::Claim;
use super::{Duplex, Socket};
use crate::capacity::Slot;

/// Bytes to a backend and back, in order and without a meaning to us.
#[derive(Debug)]
pub struct Passage {
    way: Way,
    /// What came right behind the backend's agreement.
    unread: Bytes,
}

#[derive(Debug)]
enum Way {
    /// A connection of its own, and what it takes up.
    Socket(Socket, #[expect(dead_code, reason = "it is taken up while it lives")] Option<Slot>),
    /// A stream among others, and its place among them.
    Stream(Duplex, #[expect(dead_code, reason = "it counts while it lives")] Claim),
}

impl Passage {
    /// Over a connection of which `unread` was read already; `slot` is taken up until it is closed.
    pub(super) fn over_connection(socket: Socket, unread: Bytes, slot: Option<Slot>) -> Self {
        Self { way: Way::Socket(socket, slot), unread }
    }

    /// Over a stream, which takes up its place for as long.
    pub(super) fn over_stream(stream: Duplex, claim: Claim) -> Self {
        Self { way: Way::Stream(stream, claim), unread: Bytes::new() }
    }

    /// Has the system find out whether the backend is still there when nothing comes from it. A connection with streams does
    /// that for all of them.
    pub fn mind_silence(&self) {
        if let Way::Socket(socket, _) = &self.way {
            socket.mind_silence();
        }
    }
}

impl AsyncRead for Passage {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.unread.is_empty() {
            let first = this.unread.split_to(buf.remaining().min(this.unread.len()));
            buf.put_slice(&first);
            return Poll::Ready(Ok(()));
        }
        match &mut this.way {
            Way::Socket(socket, _) => Pin::new(socket).poll_read(cx, buf),
            Way::Stream(stream, _) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Passage {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().way {
            Way::Socket(socket, _) => Pin::new(socket).poll_write(cx, buf),
            Way::Stream(stream, _) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().way {
            Way::Socket(socket, _) => Pin::new(socket).poll_flush(cx),
            Way::Stream(stream, _) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().way {
            Way::Socket(socket, _) => Pin::new(socket).poll_shutdown(cx),
            Way::Stream(stream, _) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
