//! Both directions of a stream of HTTP/2 as one stream of bytes, such as a tunnel needs (RFC 9113 §8.5).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use h2::{RecvStream, SendStream};
use hyper::body::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream that carries bytes and no messages. Dropped before its end, it is reset (RFC 8441 §5.3).
#[derive(Debug)]
pub struct Duplex<B: Buf = Bytes> {
    receiving: RecvStream,
    sending: SendStream<B>,
    /// What came and was not taken yet. The other side may send more only for what was taken.
    unread: Bytes,
    has_ended: bool,
}

impl<B: Buf + From<Bytes>> Duplex<B> {
    /// Of the two halves of a stream.
    #[must_use]
    pub fn new(receiving: RecvStream, sending: SendStream<B>) -> Self {
        Self { receiving, sending, unread: Bytes::new(), has_ended: false }
    }

    fn take(&mut self, buf: &mut ReadBuf<'_>) -> io::Result<()> {
        let taken = self.unread.split_to(buf.remaining().min(self.unread.len()));
        buf.put_slice(&taken);
        self.receiving.flow_control().release_capacity(taken.len()).map_err(broken)
    }
}

fn broken(error: h2::Error) -> io::Error {
    error.into_io().unwrap_or_else(|| io::ErrorKind::ConnectionReset.into())
}

impl<B: Buf + From<Bytes>> AsyncRead for Duplex<B> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.unread.is_empty() && !this.has_ended {
            match ready!(this.receiving.poll_data(cx)) {
                Some(Ok(bytes)) => this.unread = bytes,
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
                None => this.has_ended = true,
            }
        }
        Poll::Ready(this.take(buf))
    }
}

impl<B: Buf + From<Bytes>> AsyncWrite for Duplex<B> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.sending.reserve_capacity(buf.len());
        let mut room = this.sending.capacity();
        while room == 0 {
            match ready!(this.sending.poll_capacity(cx)) {
                Some(Ok(more)) => room = more,
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
        let size = room.min(buf.len());
        this.sending.send_data(Bytes::copy_from_slice(&buf[..size]).into(), false).map_err(broken)?;
        Poll::Ready(Ok(size))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(())) // the connection's task writes
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.get_mut().sending.send_data(Bytes::new().into(), true).map_err(broken))
    }
}
