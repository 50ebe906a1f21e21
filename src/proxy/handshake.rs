//! From a socket to TLS: the handshake with a client.
//!
//! Nothing is read or made for a request before it is over. It has a time, and only so many go on at once; until a client has
//! said its first words, it takes up no more than its socket. What goes wrong is counted by its cause and otherwise nobody's
//! business: anybody can connect and talk nonsense.

use std::fmt;
use std::io::{self, ErrorKind};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use rustls::HandshakeKind;
use rustls::server::{Acceptor, ServerConnection};
use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::time::{Instant, timeout};
use tokio_rustls::LazyConfigAcceptor;

use super::http1::linger;
use super::respond;
use super::socket::{Socket, Wire};
use super::watch::{Wait, Watch};
use super::worker::Worker;
use crate::metrics::tls::Cause;
use crate::tls::{Certificate, HTTP_2};

/// What the first byte of a TLS connection is: the type of the record that carries the handshake (RFC 8446 §5.1).
const HANDSHAKE: u8 = 22;
/// How long a drain waits for the first request of a connection that has just been secured: it is on its way.
const FIRST_REQUEST: Duration = Duration::from_secs(1);

/// A client with whom TLS is spoken.
#[derive(Debug)]
pub(super) struct Secured {
    pub(super) wire: Wire,
    /// What its certificate says, if it has shown one, which has been checked then.
    pub(super) certificate: Option<Shown>,
    /// HTTP/2 has been agreed on.
    pub(super) is_http2: bool,
}

/// What a client's certificate says of it, as headers have it.
#[derive(Clone, Debug)]
pub(super) struct Shown {
    /// Its subject, as RFC 4514 writes it.
    pub(super) subject: HeaderValue,
    /// The first URI that it is for: its identity, where SPIFFE is used.
    pub(super) uri: Option<HeaderValue>,
}

/// Why there is no TLS with a client.
#[derive(Debug)]
struct Failed {
    cause: Cause,
    error: Option<io::Error>,
}

impl From<Cause> for Failed {
    fn from(cause: Cause) -> Self {
        Self { cause, error: None }
    }
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self { cause: cause_of(&error), error: Some(error) }
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.error {
            Some(error) => write!(f, "{}: {error}", self.cause.as_str()),
            None => f.write_str(self.cause.as_str()),
        }
    }
}

/// Speaks TLS with whoever has connected to `listener`, an index into the snapshot's, with the certificates of that moment. Ends when the first request begins; `None` if none will.
pub(super) async fn secure(wire: Wire, listener: usize, watch: &Rc<Watch>, worker: &Rc<Worker>) -> Option<Secured> {
    let deadline = Instant::now() + watch.timeouts.handshake;
    match shake_hands(wire, listener, watch, worker, deadline).await {
        Ok(mut secured) => {
            let begins = await_request(&mut secured.wire, watch).await;
            if !begins {
                secured.wire.socket.say_goodbye().await;
            }
            begins.then_some(secured)
        }
        Err(None) => None, // it never said a word, as those who look whether a port is open do
        Err(Some(failed)) => {
            worker.tls_meters().failed(failed.cause);
            tracing::debug!("no TLS with a client: {failed}");
            None
        }
    }
}

async fn shake_hands(
    mut wire: Wire,
    listener: usize,
    watch: &Rc<Watch>,
    worker: &Rc<Worker>,
    deadline: Instant,
) -> Result<Secured, Option<Failed>> {
    let in_time = InTime { watch, deadline };
    if wire.unread.is_empty() {
        wire.unread = in_time.before_it_drains(first_words(&mut wire.socket)).await.map_err(Some)??;
    }
    if wire.unread.first() != Some(&HANDSHAKE) {
        return Err(Some(turn_away(wire, watch).await.into()));
    }
    let mut acceptor = pin!(LazyConfigAcceptor::new(Acceptor::default(), wire));
    let hello = in_time.before_it_drains(acceptor.as_mut()).await.map_err(Some)?.map_err(Failed::from).map_err(Some)?;
    let turn = in_time.run(worker.turn_to_shake_hands()).await.map_err(Some)?;
    // It may have been taken from the config since the client connected.
    let tls = worker.view().snapshot.tls[listener].clone().ok_or_else(|| Some(Cause::Ended.into()))?;
    let stream = in_time.run(hello.into_stream(Arc::clone(&tls.config))).await.map_err(Some)?;
    drop(turn);
    let stream = stream.map_err(Failed::from).map_err(Some)?;
    let session = stream.get_ref().1;
    worker.tls_meters().done(session.handshake_kind() == Some(HandshakeKind::Resumed));
    let (certificate, is_http2) = (shown_by(session), session.alpn_protocol() == Some(HTTP_2));
    Ok(Secured { wire: Wire::new(Socket::Tls(Box::new(stream))), certificate, is_http2 })
}

/// The first bytes that a client sends; `None` in the error if it leaves without any.
async fn first_words(socket: &mut Socket) -> Result<Bytes, Option<Failed>> {
    std::future::poll_fn(|cx| {
        let mut bytes = [0; 2048]; // most clients say hello in less
        let mut buf = ReadBuf::new(&mut bytes);
        std::task::ready!(Pin::new(&mut *socket).poll_read(cx, &mut buf)).map_err(|_| None)?;
        Poll::Ready(if buf.filled().is_empty() { Err(None) } else { Ok(Bytes::copy_from_slice(buf.filled())) })
    })
    .await
}

/// Tells whoever speaks HTTP in clear text what is spoken here.
async fn turn_away(mut wire: Wire, watch: &Watch) -> Cause {
    if !wire.unread.first().is_some_and(u8::is_ascii_uppercase) {
        return Cause::NotTls;
    }
    let answer = respond::raw_plain(StatusCode::BAD_REQUEST);
    let written = tokio::io::AsyncWriteExt::write_all(&mut wire.socket, &answer);
    if timeout(watch.timeouts.write_stall, written).await.is_ok_and(|written| written.is_ok()) {
        linger(wire.socket).await;
    }
    Cause::PlainHttp
}

/// Waits for the first byte inside; false if there will not be one.
async fn await_request(wire: &mut Wire, watch: &Watch) -> bool {
    watch.wait_until(Wait::Request, Instant::now() + watch.timeouts.header);
    let mut drains = false;
    std::future::poll_fn(|cx| {
        if let Poll::Ready(readable) = wire.poll_readable(cx) {
            return Poll::Ready(readable.is_ok());
        }
        if watch.is_draining() && !std::mem::replace(&mut drains, true) {
            watch.wait_until(Wait::Request, Instant::now() + FIRST_REQUEST);
        }
        if watch.is_cut_off() { Poll::Ready(false) } else { watch.poll_deadline(cx).map(|_| false) }
    })
    .await
}

/// What bounds a handshake.
#[derive(Clone, Copy)]
struct InTime<'a> {
    watch: &'a Watch,
    deadline: Instant,
}

impl InTime<'_> {
    /// Runs `future`, which says how far a client has got that a drain does not wait for.
    async fn before_it_drains<T>(self, future: impl Future<Output = T>) -> Result<T, Failed> {
        self.bounded(future, true).await
    }

    /// Runs `future` to its end, or to that of the time.
    async fn run<T>(self, future: impl Future<Output = T>) -> Result<T, Failed> {
        self.bounded(future, false).await
    }

    async fn bounded<T>(self, future: impl Future<Output = T>, gives_way: bool) -> Result<T, Failed> {
        let Self { watch, deadline } = self;
        let mut future = pin!(future);
        watch.wait_until(Wait::Handshake, deadline);
        let ended = std::future::poll_fn(|cx: &mut Context<'_>| {
            if let Poll::Ready(done) = future.as_mut().poll(cx) {
                return Poll::Ready(Ok(done));
            }
            if watch.is_cut_off() || gives_way && watch.is_draining() {
                return Poll::Ready(Err(Cause::Ended.into()));
            }
            watch.poll_deadline(cx).map(|_| Err(Cause::Timeout.into()))
        })
        .await;
        watch.stop_waiting();
        ended
    }
}

/// What the certificate says that a client has shown.
fn shown_by(session: &ServerConnection) -> Option<Shown> {
    let certificate = Certificate::read(session.peer_certificates()?.first()?);
    // Without its subject it is nobody to the backend, which is what it should be.
    let certificate = certificate.inspect_err(|error| tracing::debug!("a client's certificate: {error}")).ok()?;
    let header = |text: &String| HeaderValue::from_str(text).ok();
    Some(Shown { subject: header(&certificate.subject)?, uri: certificate.uris.first().and_then(header) })
}

/// Which cause `error` is.
fn cause_of(error: &io::Error) -> Cause {
    use rustls::Error;
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(Error::NoCertificatesPresented | Error::InvalidCertificate(_)) => Cause::ClientCertificate,
        Some(Error::PeerIncompatible(_) | Error::NoApplicationProtocol) => Cause::Incompatible,
        Some(Error::AlertReceived(_)) => Cause::Alert,
        Some(_) => Cause::NotTls,
        None => match error.kind() {
            ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Cause::Closed,
            _ => Cause::Other,
        },
    }
}
