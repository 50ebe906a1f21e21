//! One HTTP/1.1 connection to a backend, driven by whoever uses it.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use hyper::body::{Body, Incoming};
use hyper::client::conn::{TrySendError, http1};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use memchr::memmem;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// Interim (1xx) responses that a backend may send before the real one. More are an attack or a bug.
const MAX_INTERIM: usize = 8;

/// A connection to a backend.
#[derive(Debug)]
pub struct Connection<B: Body + 'static> {
    sender: http1::SendRequest<B>,
    driver: http1::Connection<TokioIo<Guarded>, B>,
    awaited: Rc<Awaited>,
    ended: bool,
    reused: bool,
    idle_since: Instant,
}

/// What became of a request that was handed to a connection.
pub type Sent<B> = Result<Response<Incoming>, TrySendError<Request<B>>>;

impl<B> Connection<B>
where
    B: Body + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Prepares a connected socket for requests. `max_header_size` bounds a response head, in bytes.
    ///
    /// # Errors
    /// hyper's, if the connection cannot be set up.
    pub async fn open(stream: TcpStream, max_header_size: usize) -> Result<Self, hyper::Error> {
        let awaited = Rc::new(Awaited::default());
        let io = TokioIo::new(Guarded { stream, awaited: Rc::clone(&awaited) });
        let (sender, driver) =
            http1::Builder::new().max_header_size(max_header_size).max_headers(256).handshake(io).await?;
        Ok(Self { sender, driver, awaited, ended: false, reused: false, idle_since: Instant::now() })
    }

    /// Whether an earlier request went over this connection: if it closes now, that may be the backend's idle timeout.
    pub fn is_reused(&self) -> bool {
        self.reused
    }

    /// Hands over a request. The answer comes from the returned future, which has to be polled beside [`Self::drive`].
    pub fn send(&mut self, request: Request<B>) -> impl Future<Output = Sent<B>> + use<B> {
        self.awaited.begin();
        self.sender.try_send_request(request)
    }

    /// Lets the connection read and write. Ready once it has ended, for whatever reason; the reason reaches whoever
    /// waits for a response or a body.
    pub fn drive(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.ended {
            let _reported_to_the_waiting_side = ready!(Pin::new(&mut self.driver).poll(cx));
            self.ended = true;
        }
        Poll::Ready(())
    }

    /// The response head is here: what follows is its body.
    pub fn head_received(&self) {
        self.awaited.end();
    }

    /// Drives the connection once more and tells whether it can take another request: the last exchange is over on both
    /// sides, nothing came after it, and the backend has not closed.
    pub fn is_reusable(&mut self, cx: &mut Context<'_>) -> bool {
        self.drive(cx).is_pending() && self.sender.is_ready()
    }

    /// Whether anything came back since the last request was handed over.
    pub fn has_answered(&self) -> bool {
        self.awaited.answered.get()
    }

    pub(super) fn rest(&mut self, now: Instant) {
        self.reused = true;
        self.idle_since = now;
    }

    pub(super) fn idle_since(&self) -> Instant {
        self.idle_since
    }
}

/// What came while a response head is awaited. Hyper swallows interim responses without end.
#[derive(Debug, Default)]
struct Awaited {
    awaiting: Cell<bool>,
    answered: Cell<bool>,
    interim: Cell<usize>,
}

impl Awaited {
    fn begin(&self) {
        self.awaiting.set(true);
        self.answered.set(false);
        self.interim.set(0);
    }

    fn end(&self) {
        self.awaiting.set(false);
    }

    /// Looks at bytes that just arrived. The usual first piece, a final status line, is told by one byte.
    fn check(&self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.answered.set(true);
        if !self.awaiting.get() || (self.interim.get() == 0 && bytes.get(9) != Some(&b'1')) {
            return Ok(());
        }
        let count = memmem::find_iter(bytes, b"HTTP/1.1 1").count();
        self.interim.set(self.interim.get() + count);
        if self.interim.get() > MAX_INTERIM {
            return Err(io::Error::other("too many interim responses"));
        }
        Ok(())
    }
}

/// The socket, with an eye on what arrives before a response head.
#[derive(Debug)]
struct Guarded {
    stream: TcpStream,
    awaited: Rc<Awaited>,
}

impl AsyncRead for Guarded {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        Poll::Ready(self.awaited.check(&buf.filled()[before..]))
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
