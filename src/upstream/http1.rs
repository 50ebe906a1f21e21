//! One HTTP/1.1 connection to a backend, driven by whoever uses it.
//!
//! Hyper was made for a connection with a task of its own: requests, answers and bodies go through channels that wake the
//! other side. Here both sides are one task, which polls one after the other anyway, so those wake-ups would only make it
//! run again for nothing, twice a request. Hyper is therefore polled with a [`Nudge`] in place of
//! the task's waker, and only the socket wakes the task.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, Wake, Waker, ready};

use hyper::body::{self, Body, Bytes, Frame};
use hyper::client::conn::{TrySendError, http1};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf, Take};
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::Instant;

use super::incoming::BrokenOff;
use super::{Answered, Fault, SendError, Socket};
use crate::capacity::Slot;
use crate::proxy_header::Stated;

/// Interim (1xx) responses that a backend may send before the real one. More are an attack or a bug.
const MAX_INTERIM: usize = 8;

/// Bytes that are read at once, at most, unless somebody wants fewer.
const READ_AT_ONCE: u64 = 64 << 10;

/// A connection to a backend.
#[derive(Debug)]
pub struct Connection<B: Body + 'static> {
    sender: http1::SendRequest<B>,
    /// Gone once the connection has ended: what it still holds, an unsent request above all, comes back by its drop.
    driver: Option<http1::Connection<TokioIo<Io>, B>>,
    seen: Rc<Seen>,
    nudge: Arc<Nudge>,
    nudge_waker: Waker,
    /// The task that drives it once it is [detached](Connection::detach); it ends with the connection.
    task: Option<AbortOnDrop>,
    /// What is left of a connection on which something else than HTTP is spoken from now on.
    switched: Option<Rest>,
    reused: bool,
    idle_since: Instant,
    /// For whom it was opened.
    client: Stated,
    /// Given back when the connection is closed, and not before: it comes after what holds the socket.
    slot: Option<Slot>,
}

/// A connection that hyper is done with: its socket, and what was read from it and not looked at.
pub(super) type Rest = (Socket, Bytes);

/// What hyper says of a request that was handed to a connection.
pub(super) type Sent<B> = Result<Response<body::Incoming>, TrySendError<Request<B>>>;

impl<B> Connection<B>
where
    B: Body + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Prepares a connected socket, opened for `client`, for requests. `max_header_size` bounds a response head, in bytes; its fields are at
    /// most 100, hyper's default. `slot` is taken up until it is closed.
    ///
    /// # Errors
    /// hyper's, if the connection cannot be set up.
    pub(super) async fn open(
        socket: Socket,
        client: Stated,
        max_header_size: usize,
        slot: Slot,
    ) -> Result<Self, hyper::Error> {
        let seen = Rc::new(Seen::default());
        seen.read_at_once.set(READ_AT_ONCE);
        let io = TokioIo::new(Io { socket: socket.take(0), seen: Rc::clone(&seen) });
        let (sender, driver) =
            http1::Builder::new().writev(false).max_header_size(max_header_size).handshake(io).await?;
        let nudge = Arc::new(Nudge::default());
        let nudge_waker = Waker::from(Arc::clone(&nudge));
        let idle_since = Instant::now();
        Ok(Self {
            sender,
            driver: Some(driver),
            seen,
            nudge,
            nudge_waker,
            task: None,
            switched: None,
            reused: false,
            idle_since,
            client,
            slot: Some(slot),
        })
    }

    /// For whom it was opened.
    pub(super) fn client(&self) -> Stated {
        self.client
    }

    /// Reads no more than `bytes` of the next answer at once: whoever does not read it holds as many.
    pub(super) fn read_at_once(&self, bytes: u64) {
        self.seen.read_at_once.set(bytes);
    }

    /// Whether an earlier request went over this connection: if it closes now, that may be the backend's idle timeout.
    pub(super) fn is_reused(&self) -> bool {
        self.reused
    }

    /// Hands over a request. The answer comes from the returned future, which [`Self::poll_sent`] polls.
    pub(super) fn send(&mut self, request: Request<B>) -> impl Future<Output = Sent<B>> + use<B> {
        self.seen.begin();
        self.sender.try_send_request(request)
    }

    /// Drives the connection and tells whether the answer to what was [sent](Self::send) has begun.
    pub(super) fn poll_answer(
        &mut self,
        sent: Pin<&mut impl Future<Output = Sent<B>>>,
        cx: &mut Context<'_>,
    ) -> Poll<Answered<B>> {
        // Whether the connection goes on or has ended shows in the answer, and only driving it brings one.
        let ended = self.drive(cx);
        let answer = ready!(sent.poll(&mut Context::from_waker(Waker::noop())));
        self.seen.end();
        Poll::Ready(match answer {
            Ok(response) => {
                if let (StatusCode::SWITCHING_PROTOCOLS, Poll::Ready(rest)) = (response.status(), ended) {
                    self.switched = rest;
                }
                Ok(response.map(body::Incoming::into))
            }
            Err(error) => Err(self.failure(error)),
        })
    }

    fn failure(&self, mut error: TrySendError<Request<B>>) -> SendError<B> {
        if self.seen.is_http2.get() {
            return Fault::OnlyHttp2.into();
        }
        if let Some(request) = error.take_message() {
            return SendError::unsent(Fault::Ended, request);
        }
        let is_malformed = error.into_error().is_parse() || self.seen.is_flooded();
        if is_malformed { Fault::Malformed.into() } else { Fault::Ended.into() }
    }

    /// The next frame of the answer's body, driving the connection where it has to.
    pub(super) fn poll_body(
        &mut self,
        body: &mut body::Incoming,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        if self.task.is_some() {
            return Pin::new(body).poll_frame(cx).map_err(|_| BrokenOff::default());
        }
        let quiet = &mut Context::from_waker(Waker::noop());
        if let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(quiet) {
            return Poll::Ready(frame.map(|frame| frame.map_err(|_| BrokenOff::default())));
        }
        let _ = self.drive(cx);
        Pin::new(body).poll_frame(quiet).map_err(|_| BrokenOff::default())
    }

    /// Gives the connection a task of its own. This is for an answer that begins before its request has been sent to the
    /// end: then both directions have to move by themselves, or a client that sends all before it reads and a backend that
    /// answers while it reads wait for each other. Such a connection is not used again.
    pub(super) fn detach(&mut self) {
        if let Some(driver) = self.driver.take() {
            let task = spawn_local(Detached { driver, seen: Rc::clone(&self.seen), _slot: self.slot.take() });
            self.task = Some(AbortOnDrop(task));
        }
    }

    /// What the connection takes up, for whatever becomes of it.
    pub(super) fn take_slot(&mut self) -> Option<Slot> {
        self.slot.take()
    }

    /// What is left of it after an answer that switches protocols; `None` if it broke instead.
    pub(super) fn poll_switched(&mut self, cx: &mut Context<'_>) -> Poll<Option<Rest>> {
        match self.switched.take() {
            Some(rest) => Poll::Ready(Some(rest)),
            None => self.drive(cx),
        }
    }

    /// Lets the connection read and write. Ready once it has ended, for whatever reason, with what is left of it; the reason
    /// reaches whoever waits for an answer or a body.
    fn drive(&mut self, cx: &mut Context<'_>) -> Poll<Option<Rest>> {
        let Some(driver) = &mut self.driver else { return Poll::Ready(None) };
        self.seen.task_is(cx.waker());
        self.nudge.take();
        let polled = Pin::new(driver).poll(&mut Context::from_waker(&self.nudge_waker));
        if let Poll::Ready(_reported_elsewhere) = polled {
            let parts = self.driver.take().map(http1::Connection::into_parts);
            return Poll::Ready(parts.map(|parts| (parts.io.into_inner().socket.into_inner(), parts.read_buf)));
        }
        if self.nudge.take() {
            cx.waker().wake_by_ref(); // it has more to do and wants others to have their turn first
        }
        Poll::Pending
    }

    /// Whether anything came back since the last request was handed over.
    pub(super) fn has_answered(&self) -> bool {
        self.seen.answered.get()
    }

    /// Whether it can take another request: the last exchange is over on both sides. If the backend has closed it since,
    /// or has sent what nobody asked for, the next request comes back unsent.
    pub(super) fn is_reusable(&mut self, cx: &mut Context<'_>) -> bool {
        self.sender.is_ready() || (self.drive(cx).is_pending() && self.sender.is_ready())
    }

    /// Whether an unused connection is still good, which means looking at the socket.
    pub(super) fn is_alive(&mut self, cx: &mut Context<'_>) -> bool {
        self.drive(cx).is_pending() && self.sender.is_ready()
    }

    pub(super) fn rest(&mut self, now: Instant) {
        self.reused = true;
        self.idle_since = now;
    }

    /// When it was last put away; for one that never was, when it was made.
    pub(super) fn idle_since(&self) -> Instant {
        self.idle_since
    }
}

/// A connection that is driven by a task of its own.
struct Detached<B: Body + 'static> {
    driver: http1::Connection<TokioIo<Io>, B>,
    seen: Rc<Seen>,
    _slot: Option<Slot>,
}

impl<B> Future for Detached<B>
where
    B: Body + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.seen.task_is(cx.waker());
        Pin::new(&mut self.driver).poll(cx).map(drop)
    }
}

/// Ends a task with whoever started it.
#[derive(Debug)]
pub(super) struct AbortOnDrop(pub(super) JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The waker that hyper gets. What wakes it while hyper is polled is hyper itself, yielding; what wakes it at other times
/// is our own side of a channel, and we poll the other side next.
#[derive(Debug, Default)]
struct Nudge(AtomicBool);

impl Nudge {
    fn take(&self) -> bool {
        // One thread only: no need for a locked exchange.
        let was_set = self.0.load(Relaxed);
        if was_set {
            self.0.store(false, Relaxed);
        }
        was_set
    }
}

impl Wake for Nudge {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Relaxed);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.store(true, Relaxed);
    }
}

/// What the socket and its user know of each other.
#[derive(Debug, Default)]
struct Seen {
    /// Something came since the request was handed over.
    answered: Cell<bool>,
    /// Interim responses since then. Hyper swallows them without end.
    interim: Cell<usize>,
    /// What came is how a server of HTTP/2 begins.
    is_http2: Cell<bool>,
    /// Where in the answer the next byte belongs.
    reading: Cell<Reading>,
    /// The task that the socket wakes.
    task: RefCell<Option<Waker>>,
    /// Bytes that are read at once, at most.
    read_at_once: Cell<u64>,
}

impl Seen {
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

    fn task_is(&self, waker: &Waker) {
        let mut task = self.task.borrow_mut();
        if !task.as_ref().is_some_and(|task| task.will_wake(waker)) {
            *task = Some(waker.clone());
        }
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
            Reading::StatusLine(0) if is_settings(bytes) => {
                self.is_http2.set(true);
                return Err(io::ErrorKind::InvalidData.into());
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
            (Reading::StatusLine(STATUS_AT), b'1') => Reading::Informational(1),
            (Reading::StatusLine(STATUS_AT), _) => Reading::Final,
            (Reading::Informational(1), b'0') => Reading::Informational(2),
            (Reading::Informational(2), b'1') => Reading::Final, // 101: what follows is no HTTP
            (Reading::Informational(_), _) => {
                self.interim.set(self.interim.get() + 1);
                Reading::Interim { at_line_start: false }
            }
            (Reading::StatusLine(at), _) => Reading::StatusLine(at + 1),
            (Reading::Interim { at_line_start: true }, b'\n') => Reading::StatusLine(0),
            (Reading::Interim { .. }, b'\n') => Reading::Interim { at_line_start: true },
            (Reading::Interim { .. }, b'\r') => reading,
            (Reading::Interim { .. }, _) => Reading::Interim { at_line_start: false },
        }
    }
}

/// Whether a frame of SETTINGS begins here: a length of two bytes, the type, no flags, no stream (RFC 9113 §4.1, §6.5).
fn is_settings(bytes: &[u8]) -> bool {
    matches!(bytes, [0, _, _, 4, 0, 0, 0, 0, 0, ..])
}

/// How far the bytes of an answer have been looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Reading {
    /// This many bytes of a status line.
    StatusLine(usize),
    /// This many digits of a status that begins with 1.
    Informational(usize),
    /// An interim head, up to its empty line.
    Interim { at_line_start: bool },
    /// A final head, what belongs to it, or nothing.
    #[default]
    Final,
}

/// Where the status stands in a status line.
const STATUS_AT: usize = "HTTP/1.1 ".len();

/// The socket as hyper sees it: it wakes the task itself, and keeps an eye on what arrives before a response head.
#[derive(Debug)]
struct Io {
    socket: Take<Socket>,
    seen: Rc<Seen>,
}

impl Io {
    /// Does `poll` on the socket with the task's own waker.
    fn with_task<T>(&mut self, poll: impl FnOnce(Pin<&mut Socket>, &mut Context<'_>) -> Poll<T>) -> Poll<T> {
        let task = self.seen.task.borrow();
        let waker = task.as_ref().unwrap_or(Waker::noop());
        poll(Pin::new(self.socket.get_mut()), &mut Context::from_waker(waker))
    }
}

impl Io {
    /// Reads no more at once than is wanted of it: what comes is kept until the client takes it.
    fn poll_some(&mut self, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.socket.set_limit(self.seen.read_at_once.get());
        let task = self.seen.task.borrow();
        let waker = task.as_ref().unwrap_or(Waker::noop());
        Pin::new(&mut self.socket).poll_read(&mut Context::from_waker(waker), buf)
    }
}

impl AsyncRead for Io {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(self.poll_some(buf))?;
        Poll::Ready(self.seen.check(&buf.filled()[before..]))
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.with_task(|socket, cx| socket.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.with_task(|socket, cx| socket.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.get_ref().is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with_task(AsyncWrite::poll_flush)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with_task(AsyncWrite::poll_shutdown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERIM: &str = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n";

    /// Whether an answer is let through, however it is cut.
    fn passes(answer: &str) -> bool {
        let told = |size| {
            let seen = Seen::default();
            seen.begin();
            answer.as_bytes().chunks(size).all(|piece| seen.check(piece).is_ok())
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
    fn a_server_of_http2_is_known_by_its_first_frame() {
        let seen = Seen::default();
        seen.begin();
        assert!(seen.check(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03").is_err());
        assert!(seen.is_http2.get());
    }

    #[test]
    fn what_a_body_says_is_no_interim_response() {
        assert!(passes(&format!("HTTP/1.1 200 OK\r\n\r\n{}", INTERIM.repeat(9))));
        assert!(passes(&format!("{INTERIM}HTTP/1.1 200 OK\r\n\r\n{}", INTERIM.repeat(9))));
    }
}
