//! A client's connection that speaks HTTP/1.
//!
//! While nothing is to be read it is only a socket and a timer (*dormant*); hyper and its buffers come with the first byte
//! and go when the client has been quiet for a moment. So ten thousand idle connections cost what their sockets cost.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Instant, timeout};

use super::exchange::{Client, Report};
use super::forward::handle;
use super::http2;
use super::respond;
use super::socket::{Socket, Wire};
use super::tunnel::Tunnel;
use super::watch::{Stage, Wait, Watch};
use crate::config::Limits;
use crate::metrics::Class;
use crate::upstream::Incoming;

/// How long a connection that we close stays open for the client to read our last answer (nginx: lingering close).
const LINGER: Duration = Duration::from_secs(2);

/// hyper's own limit on header fields. Told the same number, it would make room for them anew for each request.
const HYPER_MAX_FIELDS: usize = 100;

/// Serves requests until either side has enough. Gives the connection back if it begins as one of HTTP/2 does.
pub(super) async fn serve(mut wire: Wire, client: &Rc<Client>) -> Option<Wire> {
    let watch = &client.watch;
    let (mut patience, mut is_new) = (watch.timeouts.header, true);
    loop {
        if !wait_for_request(&mut wire, watch, patience).await {
            wire.socket.say_goodbye().await;
            return None;
        }
        wire = match exchange(wire, client, is_new).await {
            Next::Dormant(wire) => wire,
            Next::Http2(wire) => return Some(wire),
            Next::Tunnel(wire, tunnel) => {
                wire.socket.mind_silence();
                Box::pin(tunnel.carry(wire)).await;
                return None;
            }
            Next::End(socket, finish) => {
                finish_off(socket, client, finish).await;
                return None;
            }
        };
        (patience, is_new) = (watch.idle_deadline().saturating_duration_since(Instant::now()), false);
    }
}

/// Waits for the first byte of a request; false if there will not be one.
async fn wait_for_request(wire: &mut Wire, watch: &Watch, patience: Duration) -> bool {
    if !wire.unread.is_empty() {
        return true;
    }
    watch.wait_until(Wait::Request, Instant::now() + patience);
    std::future::poll_fn(|cx| {
        if let Poll::Ready(readable) = wire.poll_readable(cx) {
            return Poll::Ready(readable.is_ok()); // also while draining: who has asked is answered
        }
        if watch.is_draining() {
            return Poll::Ready(false);
        }
        watch.poll_deadline(cx).map(|_| false)
    })
    .await
}

enum Next {
    Dormant(Wire),
    Http2(Wire),
    Tunnel(Wire, Box<Tunnel>),
    End(Socket, Finish),
}

/// How hyper's part of a connection ended.
enum Finish {
    /// In order: closed by one side after a whole number of messages.
    Closed,
    /// What came was no request that hyper would read.
    Unreadable(StatusCode),
    /// A request head did not come to an end in time.
    TooSlow,
    /// In the middle of an answer.
    Broken,
}

/// Why hyper serves no more.
enum Ended {
    /// One side has closed the connection.
    Closed,
    /// Nothing has come for a moment.
    Asleep,
    Failed(hyper::Error),
    /// A request head did not come to an end in time.
    TooSlow,
    /// The client does not read.
    Stalled,
    /// Its time is over.
    CutOff,
}

/// Lets hyper serve requests until the connection ends or falls asleep.
async fn exchange(wire: Wire, client: &Rc<Client>, is_new: bool) -> Next {
    let watch = &client.watch;
    let service = service_fn({
        let client = Rc::clone(client);
        move |request: Request<hyper::body::Incoming>| handle(Rc::clone(&client), request.map(Incoming::Http1))
    });
    let io = TokioIo::new(ClientIo::new(wire, Rc::clone(watch), is_new));
    // In a box: what a future may hold at some time it takes up at all times.
    let mut hyper = Box::new(server(&client.worker.view().snapshot.limits).serve_connection(io, service));
    watch.begins();
    let mut is_leaving = false;
    let ended = std::future::poll_fn(|cx| {
        watch.turn_begins();
        loop {
            if let Poll::Ready(result) = Pin::new(&mut *hyper).poll(cx) {
                return Poll::Ready(result.map_or_else(Ended::Failed, |()| Ended::Closed));
            }
            watch.settle();
            if watch.is_cut_off() {
                return Poll::Ready(Ended::CutOff);
            }
            if watch.is_draining() && !std::mem::replace(&mut is_leaving, true) {
                Pin::new(&mut *hyper).graceful_shutdown();
                continue;
            }
            match ready!(watch.poll_deadline(cx)) {
                Wait::Request => return Poll::Ready(Ended::Asleep),
                Wait::Head => return Poll::Ready(Ended::TooSlow),
                Wait::Reader => return Poll::Ready(Ended::Stalled),
                wait => watch.expire(wait),
            }
        }
    })
    .await;
    let is_broken = matches!(watch.stage(), Stage::Busy | Stage::Held | Stage::Flushing);
    let parts = hyper.into_parts();
    let mut io = parts.io.into_inner();
    io.wire.unread = join(parts.read_buf, io.wire.unread);
    io.into_next(client, ended, is_broken)
}

fn server(limits: &Limits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .writev(false) // one copy of a small body costs less than a vectored write, and a large one hardly more
        .max_header_size(limits.max_header_size)
        .max_buf_size(limits.max_header_size.max(64 * 1024) + limits.max_target);
    if limits.max_header_fields != HYPER_MAX_FIELDS {
        builder.max_headers(limits.max_header_fields);
    }
    builder
}

fn join(first: Bytes, second: Bytes) -> Bytes {
    match (first.is_empty(), second.is_empty()) {
        (true, _) => second,
        (_, true) => first,
        _ => [first, second].concat().into(),
    }
}

/// Whether these may be the first bytes of HTTP/2's preface, and more have to come before that is certain.
fn may_become_preface(came: &[u8]) -> bool {
    came.len() < http2::PREFACE.len() && http2::PREFACE.starts_with(came)
}

/// The status for a head that hyper refused. Its 431 also stands for a Content-Length beyond 64 bits, which is simply
/// wrong: then neither the size nor the number of fields is over a limit.
fn judge(verdict: Option<StatusCode>, head: &[u8], client: &Client) -> StatusCode {
    let verdict = verdict.unwrap_or(StatusCode::BAD_REQUEST);
    if verdict != StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE {
        return verdict;
    }
    let limits = &client.worker.view().snapshot.limits;
    let end = memchr::memmem::find(head, b"\r\n\r\n").unwrap_or(head.len());
    let fields = memchr::memchr_iter(b'\n', &head[..end]).count();
    let too_large = end >= limits.max_header_size || fields > limits.max_header_fields;
    if too_large { verdict } else { StatusCode::BAD_REQUEST }
}

/// Says the last word, if there is one, and closes so that the client can hear it.
async fn finish_off(mut socket: Socket, client: &Rc<Client>, finish: Finish) {
    let status = match finish {
        Finish::Closed => None,
        Finish::Unreadable(status) => Some(status),
        Finish::TooSlow => Some(StatusCode::REQUEST_TIMEOUT),
        // A plain close would look like the end of an answer without a length.
        Finish::Broken => return socket.reset(),
    };
    if let Some(status) = status {
        let report = Report::refused(Rc::clone(client));
        report.will_end_as(Class::of_status(status.as_u16()));
        drop(report);
        let answer = respond::raw(status);
        if timeout(client.watch.timeouts.write_stall, socket.write_all(&answer)).await.is_err() {
            return;
        }
    }
    match client.watch.client_left() {
        true => socket.say_goodbye().await,
        false => linger(socket).await,
    }
}

/// Closes our side, then reads and forgets what the client still sends: closing on unread bytes makes the kernel send a
/// reset, which may destroy the answer before the client has read it.
pub(super) async fn linger(mut socket: impl AsyncRead + AsyncWrite + Unpin) {
    let mut sink = vec![0; 4096]; // on the heap: what a future may hold at some time it takes up at all times
    let drained = async {
        // In TLS this waits until the client takes the last record.
        if socket.shutdown().await.is_ok() {
            while matches!(socket.read(&mut sink).await, Ok(n) if n > 0) {}
        }
    };
    let _the_client_goes_on_sending = timeout(LINGER, drained).await;
}

/// The client's socket as hyper sees it: everything that happens on it is told to the [`Watch`], and hyper's own answer to
/// a head it cannot read is held back, so that we can give ours.
struct ClientIo {
    wire: Wire,
    watch: Rc<Watch>,
    verdict: Option<StatusCode>,
    /// Of a new connection: what it begins with.
    opening: Option<Opening>,
    /// The client has not taken what was written last: hyper still has some of it.
    is_stuck: bool,
}

/// What a connection begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opening {
    /// It may still be either.
    Unknown,
    /// HTTP/2's preface: nothing of it was given to hyper.
    Http2,
}

impl ClientIo {
    fn new(wire: Wire, watch: Rc<Watch>, is_new: bool) -> Self {
        Self { wire, watch, verdict: None, opening: is_new.then_some(Opening::Unknown), is_stuck: false }
    }

    /// What comes after hyper's part, which has ended, in the middle of an answer if `is_broken`.
    fn into_next(self, client: &Client, ended: Ended, is_broken: bool) -> Next {
        let Self { wire, verdict, opening, is_stuck, .. } = self;
        let is_in_order = matches!(ended, Ended::Closed | Ended::Asleep);
        if let Some(tunnel) = client.tunnel.take().filter(|_| is_in_order && !is_stuck) {
            return Next::Tunnel(wire, tunnel);
        }
        if opening == Some(Opening::Http2) {
            return Next::Http2(wire);
        }
        let finish = match ended {
            Ended::Asleep => return Next::Dormant(wire),
            Ended::Closed => Finish::Closed,
            Ended::TooSlow => Finish::TooSlow,
            _ if is_broken => Finish::Broken,
            Ended::Failed(error) if error.is_parse() => Finish::Unreadable(judge(verdict, &wire.unread, client)),
            Ended::Failed(_) | Ended::Stalled | Ended::CutOff => Finish::Closed,
        };
        Next::End(wire.socket, finish)
    }

    /// Whether what is being written is hyper's own error answer: nothing else is written between requests.
    fn is_verdict(&self) -> bool {
        matches!(self.watch.stage(), Stage::Idle | Stage::Head)
    }

    /// Reads the first bytes of a connection. What may be the beginning of HTTP/2's preface is kept back until that is
    /// certain; if it is, hyper is told that there is nothing to read.
    fn poll_opening(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        buf.put_slice(&std::mem::take(&mut self.wire.unread));
        while may_become_preface(&buf.filled()[before..]) {
            let came = buf.filled().len();
            match Pin::new(&mut self.wire.socket).poll_read(cx, buf) {
                Poll::Ready(Ok(())) if buf.filled().len() > came => {}
                Poll::Ready(Ok(())) => break, // there will not be more
                Poll::Ready(Err(error)) => {
                    self.watch.left();
                    return Poll::Ready(Err(error));
                }
                Poll::Pending => {
                    self.keep_back(buf, before);
                    if !self.wire.unread.is_empty() {
                        self.watch.received(&self.wire.unread); // a head has begun, whatever it will be
                    }
                    return Poll::Pending;
                }
            }
        }
        if buf.filled()[before..].starts_with(http2::PREFACE) {
            self.keep_back(buf, before);
            self.opening = Some(Opening::Http2);
            return Poll::Ready(Err(io::ErrorKind::Unsupported.into()));
        }
        self.opening = None;
        Poll::Ready(Ok(()))
    }

    fn keep_back(&mut self, buf: &mut ReadBuf<'_>, from: usize) {
        self.wire.unread = Bytes::copy_from_slice(&buf.filled()[from..]);
        buf.set_filled(from);
    }

    fn keep_verdict(&mut self, bytes: &[u8]) {
        if self.verdict.is_none() {
            self.verdict = bytes.get(9..12).and_then(|code| StatusCode::from_bytes(code).ok());
        }
    }
}

impl AsyncRead for ClientIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        match this.opening {
            Some(_) => ready!(this.poll_opening(cx, buf))?,
            None => ready!(Pin::new(&mut this.wire).poll_read(cx, buf)).inspect_err(|_| this.watch.left())?,
        }
        this.watch.received(&buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ClientIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.is_verdict() {
            self.keep_verdict(buf);
            return Poll::Ready(Ok(buf.len()));
        }
        let written = Pin::new(&mut self.wire.socket).poll_write(cx, buf);
        self.is_stuck = written.is_pending();
        self.watch.wrote(written.is_ready());
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.is_verdict() {
            bufs.iter().for_each(|buf| self.keep_verdict(buf));
            return Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()));
        }
        let written = Pin::new(&mut self.wire.socket).poll_write_vectored(cx, bufs);
        self.is_stuck = written.is_pending();
        self.watch.wrote(written.is_ready());
        written
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Hyper flushes whenever it runs. It reads only when somebody wants to have a body, which a request that waits does
        // not: this is where its client's going is seen.
        if self.watch.stage() == Stage::Held && self.wire.socket.is_read_closed(cx) {
            self.watch.left();
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        // TLS has a buffer of its own, which the client may not take.
        let flushed = Pin::new(&mut self.wire.socket).poll_flush(cx);
        self.watch.wrote(flushed.is_ready());
        ready!(flushed)?;
        self.watch.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(())) // `finish_off` closes, once it has said the last word
    }
}
