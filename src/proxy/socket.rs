//! A client's connection, whatever carries it.

use std::future::Future as _;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;

use crate::upstream::mind_silence;

/// A connection that a client has opened.
#[derive(Debug)]
pub(super) enum Socket {
    /// From anywhere.
    Tcp(TcpStream),
    /// From this machine.
    Unix(UnixStream),
    /// Over one of the others, in secret.
    Tls(Box<TlsStream<Wire>>),
}

/// Does `$poll` on whatever `$socket` is.
macro_rules! on {
    ($socket:expr, $stream:ident => $poll:expr) => {
        match $socket {
            Socket::Tcp($stream) => $poll,
            Socket::Unix($stream) => $poll,
            Socket::Tls($stream) => $poll,
        }
    };
}

impl Socket {
    /// Makes small writes leave at once.
    ///
    /// # Errors
    /// The system's, if the client has already gone.
    pub(super) fn set_nodelay(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_nodelay(true),
            Self::Unix(_) => Ok(()),
            Self::Tls(stream) => stream.get_ref().0.socket.set_nodelay(),
        }
    }

    /// Whether the client has closed its side, even behind bytes that nobody has read.
    pub(super) fn is_read_closed(&self, cx: &mut Context<'_>) -> bool {
        let ready = match self {
            Self::Tcp(stream) => pin!(stream.ready(Interest::READABLE)).poll(cx),
            Self::Unix(stream) => pin!(stream.ready(Interest::READABLE)).poll(cx),
            Self::Tls(stream) => return stream.get_ref().0.socket.is_read_closed(cx),
        };
        matches!(ready, Poll::Ready(Ok(ready)) if ready.is_read_closed())
    }

    /// Has the system find out whether the client is still there while nothing comes from it.
    pub(super) fn mind_silence(&self) {
        match self {
            Self::Tcp(stream) => mind_silence(stream),
            Self::Unix(_) => {}
            Self::Tls(stream) => stream.get_ref().0.socket.mind_silence(),
        }
    }

    /// Makes the end of the connection one that nobody takes for the end of an answer.
    pub(super) fn reset(&self) {
        match self {
            Self::Tcp(stream) => {
                let _already_gone = SockRef::from(stream).set_linger(Some(Duration::ZERO));
            }
            Self::Unix(_) => {}
            Self::Tls(stream) => stream.get_ref().0.socket.reset(),
        }
    }

    /// Tells the client that the connection ends here, if it takes that at once: in TLS, a connection that merely ends may have
    /// been cut by anybody.
    pub(super) async fn say_goodbye(&mut self) {
        if matches!(self, Self::Tls(_)) {
            std::future::poll_fn(|cx| {
                let _it_may_not_listen = Pin::new(&mut *self).poll_shutdown(cx);
                Poll::Ready(())
            })
            .await;
        }
    }
}

/// A bug of ours that takes a connection down must not look like the end of an answer without a length.
impl Drop for Socket {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.reset();
        }
    }
}

impl AsyncRead for Socket {
    #[inline]
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        on!(self.get_mut(), stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        on!(self.get_mut(), stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        on!(self.get_mut(), stream => Pin::new(stream).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        on!(self, stream => stream.is_write_vectored())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on!(self.get_mut(), stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on!(self.get_mut(), stream => Pin::new(stream).poll_shutdown(cx))
    }
}

/// A connection, and what was read from it and is still to be looked at.
#[derive(Debug)]
pub(super) struct Wire {
    pub(super) socket: Socket,
    pub(super) unread: Bytes,
}

impl Wire {
    pub(super) fn new(socket: Socket) -> Self {
        Self { socket, unread: Bytes::new() }
    }

    /// Ready once there is something to read, if it is only the end.
    pub(super) fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.unread.is_empty() {
            return Poll::Ready(Ok(()));
        }
        match &mut self.socket {
            Socket::Tcp(stream) => stream.poll_read_ready(cx),
            Socket::Unix(stream) => stream.poll_read_ready(cx),
            Socket::Tls(stream) => {
                // That bytes have come does not tell whether any are for us: they are taken out of their records to see.
                let mut bytes = [0; 1024];
                let mut buf = ReadBuf::new(&mut bytes);
                ready!(Pin::new(stream).poll_read(cx, &mut buf))?;
                self.unread = Bytes::copy_from_slice(buf.filled());
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl AsyncRead for Wire {
    #[inline]
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.unread.is_empty() {
            return Pin::new(&mut self.socket).poll_read(cx, buf);
        }
        let n = buf.remaining().min(self.unread.len());
        buf.put_slice(&self.unread[..n]);
        self.unread.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
