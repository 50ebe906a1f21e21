//! A client's connection that speaks HTTP/2 (RFC 9113): its streams, each of which carries a request.
//!
//! The connection's task reads and writes for all; each stream has a task of its own, which does for its request what a whole
//! connection of HTTP/1 does. One timer looks after all streams of a connection.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use h2::server::{Builder, Connection, SendResponse};
use h2::{Reason, RecvStream, SendStream};
use http::header::{CONNECTION, CONTENT_LENGTH, DATE, EXPECT};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::{Body as _, Frame};
use tokio::task::{spawn_local, unconstrained};
use tokio::time::{Instant, timeout};

use super::body::ResponseBody;
use super::exchange::Client;
use super::forward::handle;
use super::grpc;
use super::headers;
use super::http1::linger;
use super::notice;
use super::outbox::{Outbox, Piece};
use super::socket::Wire;
use super::tunnel::Tunnel;
use super::watch::{Opened, Wait, Watch};
use crate::config::Limits;
use crate::gather::Gathered;
use crate::policy::grpc::Status;
use crate::upstream::{Demand, Duplex, Heard, Incoming, Patience, Presence, Vigil};

/// How a client begins that speaks HTTP/2 without having asked (RFC 9113 §3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Requests at once on a connection.
const MAX_STREAMS: u32 = 100;
/// Bytes that a client may send ahead on a stream, and on the connection.
const STREAM_WINDOW: u32 = 64 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;
/// Bytes of an answer that wait to be written, for each stream. All of them together have the room of an [`Outbox`].
const SEND_BUFFER: usize = 64 << 10;
/// Bytes of a head, as RFC 9113 §6.5.2 counts them: with 32 for each field, so that small fields are not cheap.
const MAX_HEADER_LIST: usize = 16 << 10;
/// Streams that a client may take back before anybody has looked at them (CVE-2023-44487).
const MAX_TAKEN_BACK: usize = 20;
/// Streams that we may have to reset for what a client does wrong on them (CVE-2025-8671).
const MAX_RESETS: usize = 100;

/// What a call of gRPC is told that has to end before its time.
const CUT_OFF: &str = "The call was cut off.";

/// How often the streams are looked over for what is overdue.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Serves requests until either side has enough.
pub(super) async fn serve(wire: Wire, client: &Rc<Client>) {
    let watch = &client.watch;
    let wire = Heard::new(wire);
    let signs = wire.signs();
    let wire = Gathered::new(wire);
    let begun = builder(&client.worker.view().snapshot.limits).handshake(wire.clone());
    let Ok(Ok(mut connection)) = timeout(watch.timeouts.header, begun).await else { return };
    let pings = connection.ping_pong().expect("nobody has asked for it before");
    let vigil = Vigil::new(pings, signs, Patience::WITH_CLIENT, Instant::now());
    let mut serving = Serving { connection, wire, client, is_leaving: false, vigil, outbox: Rc::default() };
    poll_fn(|cx| serving.poll(cx)).await;
    let Serving { connection, wire, .. } = serving;
    drop(connection);
    // In a box: what a future may hold at some time it takes up at all times.
    Box::pin(linger(wire)).await;
}

fn builder(limits: &Limits) -> Builder {
    let header_list = limits.max_header_size.min(MAX_HEADER_LIST);
    let mut builder = Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(header_list).unwrap_or(u32::MAX))
        .max_send_buffer_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(MAX_TAKEN_BACK)
        .max_local_error_reset_streams(Some(MAX_RESETS))
        .enable_connect_protocol();
    builder
}

/// A connection that is being served.
struct Serving<'a> {
    connection: Connection<Gathered<Heard<Wire>>, Piece>,
    wire: Gathered<Heard<Wire>>,
    client: &'a Rc<Client>,
    /// It has been told that there will be no more requests.
    is_leaving: bool,
    vigil: Vigil,
    outbox: Rc<Outbox>,
}

impl Serving<'_> {
    /// Ready once the connection has ended, or has to.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let served = self.poll_streams(cx);
        match self.wire.poll_send(cx) {
            Poll::Ready(Err(_)) => Poll::Ready(()),
            Poll::Ready(Ok(())) | Poll::Pending => served,
        }
    }

    fn poll_streams(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let watch = &self.client.watch;
        loop {
            match self.connection.poll_accept(cx) {
                Poll::Ready(Some(Ok((_, respond)))) if watch.is_toyed_with() => {
                    self.refuse(respond);
                    continue;
                }
                Poll::Ready(Some(Ok((request, respond)))) => {
                    begin(self.client, request, respond, Rc::clone(&self.outbox));
                    continue;
                }
                Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(()),
                Poll::Pending => {}
            }
            if watch.is_draining() && !self.is_leaving {
                self.leave();
                continue;
            }
            self.set_deadline();
            match watch.poll_deadline(cx) {
                Poll::Ready(Wait::Look) => {
                    let now = Instant::now();
                    watch.stop_waiting();
                    watch.look_over_streams(now);
                    if self.vigil.look(cx, now, Demand::Running) == Presence::Gone {
                        return Poll::Ready(());
                    }
                }
                Poll::Ready(_) if self.is_leaving => return Poll::Ready(()), // it has had its time
                Poll::Ready(_) => self.leave(),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Has the client go elsewhere with this and all that follows.
    fn refuse(&mut self, mut respond: SendResponse<Piece>) {
        respond.send_reset(Reason::REFUSED_STREAM);
        if !self.is_leaving {
            self.leave();
        }
    }

    fn leave(&mut self) {
        self.is_leaving = true;
        self.client.watch.stop_waiting();
        self.connection.graceful_shutdown();
    }

    fn set_deadline(&self) {
        let watch = &self.client.watch;
        let (wait, after) = match (watch.has_streams(), self.is_leaving) {
            (true, _) => (Wait::Look, LOOK_EVERY),
            (false, false) => (Wait::Request, watch.timeouts.keep_alive),
            (false, true) => (Wait::Request, watch.timeouts.header),
        };
        if !watch.waits_for(wait) {
            watch.wait_until(wait, Instant::now() + after);
        }
    }
}

/// A stream begins: a request of its own, which waits for its own things.
fn begin(connection: &Rc<Client>, request: Request<RecvStream>, respond: SendResponse<Piece>, outbox: Rc<Outbox>) {
    let watch = Rc::new(Watch::new(connection.watch.timeouts.clone(), Instant::now()));
    let opened = connection.watch.open(Rc::clone(&watch));
    let client = Rc::new(Client::new(Rc::clone(&connection.worker), watch, Rc::clone(&connection.origin)));
    let request = {
        let (parts, stream) = request.into_parts();
        let body = Incoming::of_stream(stream, &parts.headers);
        Request::from_parts(parts, body)
    };
    // Without tokio's budget, as connections are: see `Worker::take_over`. In a box, since tokio moves a task several times.
    spawn_local(unconstrained(Box::pin(answer(client, request, respond, (opened, outbox)))));
}

async fn answer(
    client: Rc<Client>,
    request: Request<Incoming>,
    mut respond: SendResponse<Piece>,
    (_opened, outbox): (Opened, Rc<Outbox>),
) {
    let watch = Rc::clone(&client.watch);
    let is_head = request.method() == Method::HEAD;
    let is_call = headers::is_grpc(request.headers());
    let expects = request.headers().contains_key(EXPECT);
    let answered = {
        // In a box of its own, which goes once the head is here: a client that takes nothing of a body holds the stream, not this.
        let mut handled = Box::pin(handle(Rc::clone(&client), request));
        await_answer(&watch, &mut respond, expects, handled.as_mut()).await
    };
    let response = match answered {
        Ok(response) => response,
        Err(reason) => {
            drop(client.tunnel.take());
            return if is_call && watch.is_cut_off() { tell_cut_off(respond) } else { respond.send_reset(reason) };
        }
    };
    if let Some(tunnel) = client.tunnel.take() {
        return Box::pin(carry(*tunnel, response, respond)).await;
    }
    drop(client);
    let (head, body) = tidy(response, is_head).into_parts();
    let is_whole = is_head || body.is_end_stream();
    if let Ok(stream) = respond.send_response(Response::from_parts(head, ()), is_whole)
        && !is_whole
    {
        let mut sending = Sending { stream, body, piece: Bytes::new(), outbox };
        poll_fn(|cx| sending.poll(&watch, cx)).await;
    }
}

/// Makes the stream the client's end of a tunnel.
async fn carry(mut tunnel: Tunnel, response: Response<ResponseBody>, mut respond: SendResponse<Piece>) {
    let mut head = response.map(drop);
    head.headers_mut().remove(CONNECTION);
    let sending = respond.send_response(head, false);
    if let (Ok(sending), Some(receiving)) = (sending, tunnel.stream.take()) {
        tunnel.carry(Duplex::new(receiving, sending)).await;
    }
}

/// The answer; or why there is none: the client does not want it any more, or is not to have it.
async fn await_answer(
    watch: &Watch,
    respond: &mut SendResponse<Piece>,
    expects: bool,
    mut handled: Pin<&mut impl Future<Output = Result<Response<ResponseBody>, Infallible>>>,
) -> Result<Response<ResponseBody>, Reason> {
    poll_fn(|cx| {
        watch.belongs_to(cx.waker());
        watch.turn_begins();
        loop {
            if respond.poll_reset(cx).is_ready() {
                watch.left();
                return Poll::Ready(Err(Reason::CANCEL));
            }
            if let Poll::Ready(Ok(response)) = handled.as_mut().poll(cx) {
                return Poll::Ready(Ok(response));
            }
            if watch.take_body_is_wanted() && expects {
                ask_for_body(respond);
            }
            if watch.is_cut_off() {
                return Poll::Ready(Err(Reason::INTERNAL_ERROR));
            }
            match watch.take_overdue() {
                Some(wait) => watch.expire(wait),
                None => return Poll::Pending,
            }
        }
    })
    .await
}

/// The client waits to be asked for its body (RFC 9110 §10.1.1).
fn ask_for_body(respond: &mut SendResponse<Piece>) {
    let mut interim = Response::new(());
    *interim.status_mut() = StatusCode::CONTINUE;
    let _it_may_have_left = respond.send_informational(interim);
}

/// Ends a call whose answer has not begun.
fn tell_cut_off(mut respond: SendResponse<Piece>) {
    let mut response = Response::new(());
    grpc::make_trailers_only(&mut response, Status::Unavailable, CUT_OFF);
    let _it_may_have_left = respond.send_response(response, true);
}

/// Makes a head one of HTTP/2: a connection has no say in it (RFC 9113 §8.2.2), and hyper adds nothing to it.
fn tidy(mut response: Response<ResponseBody>, is_head: bool) -> Response<ResponseBody> {
    let has_body = !is_head && !matches!(response.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let length = response.body().size_hint().exact().filter(|length| has_body || *length > 0);
    let fields = response.headers_mut();
    let length = length.filter(|length| *length > 0 || !fields.contains_key(headers::GRPC_STATUS)); // those are trailers
    fields.remove(CONNECTION);
    if let Some(length) = length.filter(|_| !fields.contains_key(CONTENT_LENGTH)) {
        fields.insert(CONTENT_LENGTH, length.into());
    }
    if !fields.contains_key(DATE)
        && let Some(now) = notice::date(SystemTime::now())
    {
        fields.insert(DATE, HeaderValue::try_from(now).expect("a date is visible ASCII"));
    }
    response
}

/// An answer's body on its way.
struct Sending {
    stream: SendStream<Piece>,
    body: ResponseBody,
    /// What there is no room for yet.
    piece: Bytes,
    /// What waits on the whole connection.
    outbox: Rc<Outbox>,
}

impl Sending {
    /// Ready once all is sent, or nobody wants more of it.
    fn poll(&mut self, watch: &Watch, cx: &mut Context<'_>) -> Poll<()> {
        watch.belongs_to(cx.waker());
        watch.turn_begins();
        loop {
            if self.stream.poll_reset(cx).is_ready() {
                watch.left();
                return Poll::Ready(());
            }
            match self.poll_step(watch, cx) {
                Poll::Ready(Step::Next) => continue,
                Poll::Ready(Step::Last) => return Poll::Ready(()),
                Poll::Ready(Step::Broken) => return self.reset(Reason::INTERNAL_ERROR),
                Poll::Pending => {}
            }
            if watch.is_cut_off() {
                return self.cut_off();
            }
            match watch.take_overdue() {
                Some(Wait::Reader) => return self.reset(Reason::CANCEL),
                Some(wait) => watch.expire(wait),
                None => return Poll::Pending,
            }
        }
    }

    fn cut_off(&mut self) -> Poll<()> {
        match self.body.last_words(Status::Unavailable, CUT_OFF) {
            Some(trailers) => {
                let _it_may_have_left = self.stream.send_trailers(trailers);
                Poll::Ready(())
            }
            None => self.reset(Reason::INTERNAL_ERROR),
        }
    }

    fn reset(&mut self, reason: Reason) -> Poll<()> {
        self.stream.send_reset(reason);
        Poll::Ready(())
    }

    fn poll_step(&mut self, watch: &Watch, cx: &mut Context<'_>) -> Poll<Step> {
        if !self.piece.is_empty() {
            return self.poll_piece(watch, cx);
        }
        Pin::new(&mut self.body).poll_frame(cx).map(|frame| match frame {
            Some(Ok(frame)) => self.take(frame),
            Some(Err(_)) => Step::Broken,
            None => Step::of(self.stream.send_data(Bytes::new().into(), true), true),
        })
    }

    fn take(&mut self, frame: Frame<Bytes>) -> Step {
        match frame.into_data() {
            Ok(piece) => {
                self.piece = piece;
                if self.piece.is_empty() && self.body.is_end_stream() {
                    return Step::of(self.stream.send_data(Bytes::new().into(), true), true);
                }
                Step::Next
            }
            Err(frame) => {
                let mut trailers = frame.into_trailers().unwrap_or_default();
                headers::strip_trailers(&mut trailers);
                Step::of(self.stream.send_trailers(trailers), true)
            }
        }
    }

    /// Sends as much of the piece as the client has room for.
    fn poll_piece(&mut self, watch: &Watch, cx: &mut Context<'_>) -> Poll<Step> {
        if self.outbox.poll_room(cx).is_pending() {
            watch.wrote(false);
            return Poll::Pending;
        }
        self.stream.reserve_capacity(self.piece.len());
        let mut room = self.stream.capacity();
        while room == 0 {
            match self.stream.poll_capacity(cx) {
                Poll::Ready(Some(Ok(more))) => room = more,
                Poll::Ready(Some(Err(_)) | None) => {
                    watch.left();
                    return Poll::Ready(Step::Last);
                }
                Poll::Pending => {
                    watch.wrote(false);
                    return Poll::Pending;
                }
            }
        }
        watch.wrote(true);
        let piece = self.piece.split_to(room.min(self.piece.len()));
        let is_last = self.piece.is_empty() && self.body.is_end_stream();
        Poll::Ready(Step::of(self.stream.send_data(self.outbox.put(piece), is_last), is_last))
    }
}

/// What one step of sending came to.
enum Step {
    Next,
    Last,
    Broken,
}

impl Step {
    fn of(sent: Result<(), h2::Error>, is_last: bool) -> Self {
        sent.map_or(Self::Broken, |()| if is_last { Self::Last } else { Self::Next })
    }
}
