//! HTTP/2 to a backend: connections that many requests share, and the stream that each of them has.
//!
//! A connection has a task of its own, since none of its users may be the one without whom the others stand still. A stream
//! is driven by whoever uses it, in both directions, so a request costs no task.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::header::{HOST, TRANSFER_ENCODING};
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{Method, Request, Response, Version};
use hyper::body::{Body, Bytes, Frame};
use tokio::task::{spawn_local, unconstrained};
use tokio::time::{Instant, sleep};

use super::http1::AbortOnDrop;
use super::incoming::{BrokenOff, Incoming};
use super::passage::Passage;
use super::vigil::{Demand, Heard, Patience, Presence, Vigil};
use super::{Answered, Duplex, Fault, SendError, Socket};
use crate::capacity::Slot;
use crate::gather::Gathered;

/// Streams that we open on one connection, if the backend does not want fewer.
const MAX_STREAMS: u32 = 100;
/// Bytes that a backend may send ahead on a stream that nobody reads.
const STREAM_WINDOW: u32 = 32 << 10;
/// The same for a connection: as much as all streams together, so that one that nobody reads holds up no other.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * MAX_STREAMS;
/// Bytes of a request body that wait to be written, for each stream.
const SEND_BUFFER: usize = 64 << 10;
/// Interim (1xx) responses that a backend may send before the real one. More are an attack or a bug.
const MAX_INTERIM: usize = 8;
/// How often it is looked whether the backend is still there.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A connection to a backend that requests share.
#[derive(Debug)]
pub(super) struct Connection {
    sender: SendRequest<Bytes>,
    scheme: Scheme,
    state: Rc<State>,
}

/// What a connection, its task and its streams know of each other.
#[derive(Debug)]
struct State {
    /// Streams in use.
    streams: Cell<usize>,
    /// One has begun since it was last looked whether the backend is there.
    has_begun: Cell<bool>,
    /// It takes no more requests: it is over, or the backend does not say that it is still there.
    closed: Cell<bool>,
    /// When the last stream ended, or when it was made.
    idle_since: Cell<Instant>,
}

impl Connection {
    /// Makes a connected socket one for requests, once the backend has said how many it takes. `max_header_size` bounds a
    /// response head, in bytes; `slot` is taken up until it is closed.
    ///
    /// # Errors
    /// h2's, if the other side does not begin as RFC 9113 §3.4 says.
    pub(super) async fn open(
        socket: Socket,
        scheme: Scheme,
        max_header_size: usize,
        slot: Slot,
    ) -> Result<Self, h2::Error> {
        socket.mind_silence();
        let socket = Heard::new(socket);
        let signs = socket.signs();
        let socket = Gathered::new(socket);
        let (sender, mut connection) = h2::client::Builder::new()
            .enable_push(false)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .initial_max_send_streams(0) // until we are told
            .max_send_buffer_size(SEND_BUFFER)
            .max_header_list_size(u32::try_from(max_header_size).unwrap_or(u32::MAX))
            .handshake(socket.clone())
            .await?;
        poll_fn(|cx| match poll_connection(&mut connection, &socket, cx) {
            Poll::Ready(ended) => Poll::Ready(ended.and(Err(Reason::PROTOCOL_ERROR.into()))),
            Poll::Pending if sender.current_max_send_streams() > 0 => Poll::Ready(Ok(())),
            Poll::Pending => Poll::Pending,
        })
        .await?;
        let now = Instant::now();
        let (streams, has_begun, closed) = (Cell::new(0), Cell::new(false), Cell::new(false));
        let state = Rc::new(State { streams, has_begun, closed, idle_since: Cell::new(now) });
        let pings = connection.ping_pong().expect("nobody has asked for it before");
        let vigil = Vigil::new(pings, signs, Patience::WITH_BACKEND, now);
        spawn_local(unconstrained(drive(connection, socket, vigil, Rc::clone(&state), slot)));
        Ok(Self { sender, scheme, state })
    }

    /// How many streams it may have at once.
    pub(super) fn max_streams(&self) -> usize {
        self.sender.current_max_send_streams().min(MAX_STREAMS as usize)
    }

    /// A stream for one request, unless there are as many as there may be, or will be no more.
    pub(super) fn claim<B>(&self) -> Option<Box<Stream<B>>> {
        if self.state.streams.get() >= self.max_streams() {
            return None;
        }
        let sender = self.open_sender()?;
        self.state.streams.set(self.state.streams.get() + 1);
        self.state.has_begun.set(true);
        Some(Box::new(Stream {
            sender,
            scheme: self.scheme.clone(),
            claim: Claim(Rc::clone(&self.state)),
            reply: None,
            failed: None,
            upload: None,
            spare: None,
            interim: 0,
            detached: None,
        }))
    }

    /// Whether it takes more requests: it lives, as far as is known, and the backend has not said that it is going away.
    pub(super) fn is_open(&self) -> bool {
        self.open_sender().is_some()
    }

    fn open_sender(&self) -> Option<SendRequest<Bytes>> {
        let mut sender = self.sender.clone();
        let ready = sender.poll_ready(&mut Context::from_waker(Waker::noop()));
        (!self.state.closed.get() && !matches!(ready, Poll::Ready(Err(_)))).then_some(sender)
    }

    /// Whether nobody uses it and nobody may: the backend takes no streams on it at this moment (RFC 9113 §6.5.2).
    pub(super) fn is_useless(&self) -> bool {
        self.state.streams.get() == 0 && self.max_streams() == 0
    }

    /// Since when nobody has used it; `None` while somebody does.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        (self.state.streams.get() == 0).then(|| self.state.idle_since.get())
    }
}

/// The socket as h2 has it.
type Wire = Gathered<Heard<Socket>>;
type Http2 = h2::client::Connection<Wire, Bytes>;

/// Reads and writes for all streams; ready once the connection has ended.
fn poll_connection(connection: &mut Http2, socket: &Wire, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
    let ended = Pin::new(connection).poll(cx);
    match socket.poll_send(cx) {
        Poll::Ready(Err(_)) => Poll::Ready(Err(Reason::INTERNAL_ERROR.into())),
        Poll::Ready(Ok(())) | Poll::Pending => ended,
    }
}

/// Reads and writes for all streams until the connection ends: by itself, once nobody can use it any more.
async fn drive(mut connection: Http2, socket: Wire, vigil: Vigil, state: Rc<State>, slot: Slot) {
    let mut gone = pin!(gone(vigil, &state));
    poll_fn(|cx| match poll_connection(&mut connection, &socket, cx) {
        Poll::Pending => gone.as_mut().poll(cx),
        Poll::Ready(_whoever_waits_is_told) => Poll::Ready(()),
    })
    .await;
    state.closed.set(true);
    drop((connection, socket)); // first: whoever gets the slot may open another one at once
    drop(slot);
}

/// Ends when the other side is not there any more. As soon as that is in doubt, requests that have not begun go elsewhere: those
/// that have may still be answered.
async fn gone(mut vigil: Vigil, state: &State) {
    loop {
        sleep(LOOK_EVERY).await;
        let demand = match (state.has_begun.take(), state.streams.get()) {
            (true, _) => Demand::More, // be it that it has not been waited for
            (false, 0) => Demand::Nothing,
            (false, _) => Demand::Running,
        };
        match poll_fn(|cx| Poll::Ready(vigil.look(cx, Instant::now(), demand))).await {
            Presence::Likely => {}
            Presence::Doubtful => state.closed.set(true),
            Presence::Gone => return,
        }
    }
}

/// A stream in use.
#[derive(Debug)]
pub(super) struct Claim(Rc<State>);

impl Drop for Claim {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get() - 1);
        if self.0.streams.get() == 0 {
            self.0.idle_since.set(Instant::now());
        }
    }
}

/// One request and its answer. Dropped before the end, it tells the backend that nobody wants the rest.
#[derive(Debug)]
pub struct Stream<B> {
    sender: SendRequest<Bytes>,
    scheme: Scheme,
    claim: Claim,
    reply: Option<ResponseFuture>,
    /// What was not even sent.
    failed: Option<SendError<B>>,
    upload: Option<Upload<B>>,
    /// The head, until it is answered: the backend may refuse to look at it.
    spare: Option<Request<()>>,
    interim: usize,
    /// The task that sends the rest of the request, if that is not done beside reading the answer.
    detached: Option<AbortOnDrop>,
}

/// A request's body on its way.
#[derive(Debug)]
struct Upload<B> {
    body: B,
    stream: SendStream<Bytes>,
    /// What there is no room for yet.
    piece: Bytes,
    is_done: bool,
}

impl<B: Body<Data = Bytes> + Unpin> Stream<B> {
    /// Hands over a request. What becomes of it is for [`Self::poll_answer`] to say.
    pub(super) fn send(&mut self, request: Request<B>) {
        let (parts, body) = request.into_parts();
        let head = Request::from_parts(parts, ());
        let is_done = body.is_end_stream();
        let is_last = is_done && head.method() != Method::CONNECT; // what goes through a tunnel is no body
        match self.sender.send_request(absolute(head.clone(), self.scheme.clone()), is_last) {
            Ok((reply, stream)) => {
                self.reply = Some(reply);
                self.spare = Some(head);
                self.upload = Some(Upload { body, stream, piece: Bytes::new(), is_done });
            }
            Err(_) => self.failed = Some(SendError::unsent(Fault::Refused, head.map(|()| body))),
        }
    }

    /// Whether the backend has said that it takes extended CONNECT (RFC 8441 §3).
    pub(super) fn takes_extended_connect(&self) -> bool {
        self.sender.is_extended_connect_protocol_enabled()
    }

    /// Both directions, for what is no HTTP; `None` if it was never sent.
    pub(super) fn into_passage(self, receiving: RecvStream) -> Option<Passage> {
        let sending = self.upload?.stream;
        Some(Passage::over_stream(Duplex::new(receiving, sending), self.claim))
    }

    /// Sends what can be sent, and tells whether the answer has begun.
    pub(super) fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Answered<B>> {
        let broken = self.poll_upload(cx).is_err();
        let Some(reply) = self.reply.as_mut().filter(|_| !broken) else {
            return Poll::Ready(Err(self.failed.take().unwrap_or(Fault::Ended.into())));
        };
        while let Poll::Ready(Some(Ok(_))) = reply.poll_informational(cx) {
            self.interim += 1;
            if self.interim > MAX_INTERIM {
                return Poll::Ready(Err(Fault::Malformed.into()));
            }
        }
        let answered = ready!(Pin::new(reply).poll(cx));
        self.reply = None;
        Poll::Ready(match answered {
            Ok(response) => {
                self.spare = None;
                let (parts, stream) = response.into_parts();
                let body = Incoming::of_stream(stream, &parts.headers);
                Ok(Response::from_parts(parts, body))
            }
            Err(error) => Err(self.failure(&error)),
        })
    }

    /// Sends what can be sent meanwhile.
    ///
    /// # Errors
    /// When the body has broken off, which ends the stream.
    pub(super) fn poll_upload(&mut self, cx: &mut Context<'_>) -> Result<(), BrokenOff> {
        let Some(upload) = self.upload.as_mut().filter(|upload| !upload.is_done) else { return Ok(()) };
        match upload.poll(cx) {
            Poll::Ready(broken) => broken,
            Poll::Pending => Ok(()),
        }
    }

    /// Gives the request's body a task of its own. This is for an answer that begins before its request has been sent to the
    /// end: see [`super::http1::Connection::detach`].
    pub(super) fn detach(&mut self)
    where
        B: 'static,
    {
        if let Some(mut upload) = self.upload.take().filter(|upload| !upload.is_done) {
            let sending = async move {
                let _the_answer_breaks_off_too = poll_fn(|cx| upload.poll(cx)).await;
            };
            self.detached = Some(AbortOnDrop(spawn_local(unconstrained(sending))));
        }
    }

    /// What it means that there is no answer. What the backend has not looked at may be sent elsewhere: a stream that it
    /// refuses (RFC 9113 §8.7), and those above the last one that it names when it goes away (§6.8). Those that it did look at
    /// hear of the end of the connection in other words.
    fn failure(&mut self, error: &h2::Error) -> SendError<B> {
        let is_refused = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
        let is_left_out = error.is_go_away();
        let fault = if error.is_library() { Fault::Malformed } else { Fault::Ended };
        match (self.spare.take(), self.upload.take()) {
            (Some(head), Some(upload)) if error.is_remote() && (is_refused || is_left_out) => {
                SendError::unsent(Fault::Refused, head.map(|()| upload.body))
            }
            _ => fault.into(),
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Upload<B> {
    /// Sends to the end, or until nobody wants the rest: why that is so, the answer tells.
    ///
    /// # Errors
    /// When the body has broken off, which ends the stream.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BrokenOff>> {
        while !self.is_done {
            if !self.piece.is_empty() {
                self.is_done |= !ready!(self.poll_piece(cx));
                continue;
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => self.take(frame),
                Some(Err(_)) => {
                    self.is_done = true;
                    self.stream.send_reset(Reason::CANCEL);
                    return Poll::Ready(Err(BrokenOff::default()));
                }
                None => self.end(),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn take(&mut self, frame: Frame<Bytes>) {
        match frame.into_data() {
            // What has no bytes would not be told from what has been sent.
            Ok(piece) if piece.is_empty() && self.body.is_end_stream() => self.end(),
            Ok(piece) => self.piece = piece,
            Err(frame) => {
                self.is_done = true;
                let _it_may_be_closed = self.stream.send_trailers(frame.into_trailers().unwrap_or_default());
            }
        }
    }

    /// Sends as much of the piece as there is room for; false if the backend has closed the stream.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        self.stream.reserve_capacity(self.piece.len());
        let mut room = self.stream.capacity();
        while room == 0 {
            match ready!(self.stream.poll_capacity(cx)) {
                Some(Ok(more)) => room = more,
                Some(Err(_)) | None => return Poll::Ready(false),
            }
        }
        let piece = self.piece.split_to(room.min(self.piece.len()));
        let is_last = self.piece.is_empty() && self.body.is_end_stream();
        self.is_done = is_last;
        Poll::Ready(self.stream.send_data(piece, is_last).is_ok())
    }

    fn end(&mut self) {
        self.is_done = true;
        let _it_may_be_closed = self.stream.send_data(Bytes::new(), true);
    }
}

/// The head as HTTP/2 has it: the authority stands in the target (RFC 9113 §8.3.1), and frames tell where the body ends.
fn absolute(mut head: Request<()>, scheme: Scheme) -> Request<()> {
    let host = head.headers().get(HOST).and_then(|host| Authority::try_from(host.as_bytes()).ok());
    if let Some(authority) = host {
        let target = head.uri().path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
        let uri = Uri::builder().scheme(scheme).authority(authority).path_and_query(target).build();
        *head.uri_mut() = uri.expect("a scheme, an authority and a path are a whole");
        head.headers_mut().remove(HOST);
    }
    head.headers_mut().remove(TRANSFER_ENCODING);
    *head.version_mut() = Version::HTTP_2;
    head
}
