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

    /// Whether the backend sent more interim responses than anybody needs.
    pub fn is_flooded(&self) -> bool {
        self.awaited.is_flooded()
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
    answered: Cell<bool>,
    interim: Cell<usize>,
    reading: Cell<Reading>,
}

/// How far the bytes of an answer have been looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Reading {
    /// This many bytes of a status line.
    StatusLine(usize),
    /// An interim head, up to its empty line.
    Interim { at_line_start: bool },
    /// A final head, what belongs to it, or nothing.
    #[default]
    Final,
}

/// Where the status stands in a status line.
const STATUS_AT: usize = "HTTP/1.1 ".len();

impl Awaited {
    fn begin(&self) {
        self.answered.set(false);
        self.interim.set(0);
        self.reading.set(Reading::StatusLine(0));
    }

    fn end(&self) {
        self.reading.set(Reading::Final);
    }

    fn is_flooded(&self) -> bool {
        self.interim.get() > MAX_INTERIM
    }

    /// Looks at bytes that just arrived. The usual first piece, a final status line, is told by two bytes.
    fn check(&self, bytes: &[u8]) -> io::Result<()> {
        let Some(&first) = bytes.first() else { return Ok(()) };
        self.answered.set(true);
        let reading = match self.reading.get() {
            Reading::Final => return Ok(()),
            Reading::StatusLine(0) if first == b'H' && bytes.get(STATUS_AT).is_some_and(|b| *b != b'1') => {
                Reading::Final
            }
            reading => bytes.iter().fold(reading, |reading, byte| self.read(reading, *byte)),
        };
        self.reading.set(reading);
        if self.is_flooded() { Err(io::Error::other("too many interim responses")) } else { Ok(()) }
    }

    fn read(&self, reading: Reading, byte: u8) -> Reading {
        match (reading, byte) {
            (Reading::Final, _) => Reading::Final,
            (Reading::StatusLine(0), b'\r' | b'\n') => reading,
            (Reading::StatusLine(STATUS_AT), b'1') => {
                self.interim.set(self.interim.get() + 1);
                Reading::Interim { at_line_start: false }
            }
            (Reading::StatusLine(STATUS_AT), _) => Reading::Final,
            (Reading::StatusLine(at), _) => Reading::StatusLine(at + 1),
            (Reading::Interim { at_line_start: true }, b'\n') => Reading::StatusLine(0),
            (Reading::Interim { .. }, b'\n') => Reading::Interim { at_line_start: true },
            (Reading::Interim { .. }, b'\r') => reading,
            (Reading::Interim { .. }, _) => Reading::Interim { at_line_start: false },
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    const INTERIM: &str = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n";

    /// Whether an answer is let through, however it is cut.
    fn passes(answer: &str) -> bool {
        let told = |size| {
            let awaited = Awaited::default();
            awaited.begin();
            answer.as_bytes().chunks(size).all(|piece| awaited.check(piece).is_ok())
        };
        let all = told(answer.len());
        assert!([1, 2, 7, 10].into_iter().all(|size| told(size) == all), "it depends on the cut: {answer:?}");
        all
    }

    #[test]
    fn a_few_interim_responses_pass_and_a_flood_does_not() {
        let ok = "HTTP/1.1 200 OK\r\n\r\n";
        assert!(passes(ok));
        assert!(passes(&format!("{}{ok}", INTERIM.repeat(8))));
        assert!(!passes(&INTERIM.repeat(9)));
        assert!(!passes(&INTERIM.replace("/1.1", "/1.0").repeat(9)));
        assert!(!passes(&INTERIM.replace("\r\n", "\n").repeat(9)));
    }

    #[test]
    fn what_a_body_says_is_no_interim_response() {
        assert!(passes(&format!("HTTP/1.1 200 OK\r\n\r\n{}", INTERIM.repeat(9))));
        assert!(passes(&format!("{INTERIM}HTTP/1.1 200 OK\r\n\r\n{}", INTERIM.repeat(9))));
    }
}
