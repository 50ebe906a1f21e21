//! The last look at a backend before a switch sends everybody there: is each of its endpoints fit, and does every worker have
//! connections to it?

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HOST, USER_AGENT};
use http::{Request, StatusCode};
use http_body_util::Empty;
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::config::{Health, Scheme};
use crate::proxy::worker::{Errand, Errands, Warming};
use crate::proxy_header::Stated;
use crate::snapshot::{Backend, Endpoint};
use crate::tls;
use crate::upstream::{ConnectError, Room, Socket, reach};

/// Connections that each worker opens to each endpoint, if that is not more than [`AT_MOST`] together.
const EACH: usize = 2;
/// Connections that a worker opens ahead, at most.
const AT_MOST: usize = 64;
/// How much longer than one connection may take all of a worker's may take.
const WARMING: Duration = Duration::from_secs(2);

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Warmed {
    /// Endpoints, all of them fit.
    pub endpoints: usize,
    /// Connections that were to be opened, over all workers.
    pub wanted: usize,
    /// Connections that are open.
    pub opened: usize,
}

impl fmt::Display for Warmed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { endpoints, wanted, opened } = self;
        write!(f, "{endpoints} endpoint(s) are fit; {opened} of {wanted} connections are open ahead")
    }
}

/// Asks every endpoint of `backend` whether it is fit, all at once; then has the `workers` open connections to them.
///
/// # Errors
/// Which endpoints are not fit, and what they said, in a sentence. That connections could not be opened ahead is no error.
pub async fn look(backend: &Backend, workers: &[Errands]) -> Result<Warmed, String> {
    if backend.endpoints.is_empty() {
        return Err(format!("backend {} is not fit to serve: none of its names has an address", backend.name));
    }
    let mut looks = JoinSet::new();
    for endpoint in backend.endpoints.iter().cloned() {
        let health = backend.health.clone();
        looks.spawn(async move {
            let found = ask(&endpoint, health.as_ref()).await;
            found.map_err(|said| format!("{} {said}", endpoint.at))
        });
    }
    let found = looks.join_all().await;
    let mut unfit: Vec<String> = found.into_iter().filter_map(Result::err).collect();
    if unfit.is_empty() {
        return Ok(warm(backend, workers).await);
    }
    unfit.sort(); // they come in the order in which they answer, which tells nothing
    Err(format!("backend {} is not fit to serve: {}", backend.name, unfit.join("; ")))
}

/// Whether `endpoint` is fit: it answers its health path with 2xx, or, without one, takes a connection.
pub(super) async fn ask(endpoint: &Endpoint, health: Option<&Health>) -> Result<(), String> {
    let connect = endpoint.timeouts.connect;
    let Some(health) = health else {
        let reached =
            timeout(connect, reach(endpoint, Stated::Local, Some(spoken_to(endpoint)), Room::OfTheProcess)).await;
        let reached = reached.map_err(|_| format!("took no connection within {}", seconds(connect)))?;
        return reached.map(drop).map_err(|error| unreached(&error));
    };
    let answered = timeout(health.timeout, get(endpoint, &health.path)).await;
    let status =
        answered.map_err(|_| format!("did not answer GET {} within {}", health.path, seconds(health.timeout)))??;
    match status.is_success() {
        true => Ok(()),
        false => Err(format!("answered GET {} with {}", health.path, status.as_u16())),
    }
}

fn unreached(error: &ConnectError) -> String {
    match error {
        ConnectError::Io(error) | ConnectError::OwnLimit(error) => format!("takes no connection: {error}"),
        ConnectError::Certificate(error) => format!("cannot be trusted: {error}"),
        ConnectError::Tls(error) => format!("speaks no TLS with us: {error}"),
        error => error.to_string(),
    }
}

fn seconds(time: Duration) -> String {
    format!("{} s", time.as_secs_f64())
}

/// What is spoken inside TLS: HTTP/1.1, which is enough for one question, unless only HTTP/2 is understood.
fn spoken_to(endpoint: &Endpoint) -> &'static [u8] {
    if endpoint.protocol.is_certainly_http2() { tls::HTTP_2 } else { tls::HTTP_1 }
}

/// The status that `endpoint` answers a GET with.
async fn get(endpoint: &Endpoint, path: &str) -> Result<StatusCode, String> {
    let stream = reach(endpoint, Stated::Local, Some(spoken_to(endpoint)), Room::OfTheProcess)
        .await
        .map_err(|error| unreached(&error))?;
    if endpoint.protocol.is_certainly_http2() {
        return get_over_http2(endpoint, stream, path).await;
    }
    let no_http = |error: hyper::Error| format!("does not answer GET {path}: {error}");
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await.map_err(no_http)?;
    let request = Request::get(path)
        .header(HOST, endpoint.address.authority())
        .header(USER_AGENT, concat!("tidegate/", env!("CARGO_PKG_VERSION")))
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| format!("cannot be asked for {path}: {error}"))?;
    tokio::select! {
        answer = sender.send_request(request) => answer.map(|answer| answer.status()).map_err(no_http),
        // It ends when the sender has gone, which it has not; or broken, which the sender tells better.
        () = async { drop(connection.await); std::future::pending().await } => unreachable!("it never ends"),
    }
}

async fn get_over_http2(endpoint: &Endpoint, stream: Socket, path: &str) -> Result<StatusCode, String> {
    let no_http = |error: h2::Error| format!("does not answer GET {path}: {error}");
    let (sender, connection) = h2::client::handshake(stream).await.map_err(no_http)?;
    let scheme = if endpoint.address.scheme == Scheme::Https { "https" } else { "http" };
    let request = Request::get(format!("{scheme}://{}{path}", endpoint.address.authority()))
        .header(USER_AGENT, concat!("tidegate/", env!("CARGO_PKG_VERSION")))
        .body(())
        .map_err(|error| format!("cannot be asked for {path}: {error}"))?;
    let answered = async {
        let (answer, _) = sender.ready().await?.send_request(request, true)?;
        answer.await.map(|answer| answer.status())
    };
    tokio::select! {
        status = answered => status.map_err(no_http),
        () = async { drop(connection.await); std::future::pending().await } => unreachable!("it never ends"),
    }
}

/// Has every worker open a few connections to each endpoint, so that the first requests find them.
async fn warm(backend: &Backend, workers: &[Errands]) -> Warmed {
    let endpoints: Arc<[Endpoint]> = backend.endpoints.clone().into();
    let each = EACH.min(AT_MOST / endpoints.len().max(1)).max(1);
    let slowest = endpoints.iter().map(|endpoint| endpoint.timeouts.connect).max().unwrap_or_default();
    let mut replies = Vec::new();
    for worker in workers.iter().filter_map(Errands::upgrade) {
        let (opened, reply) = oneshot::channel();
        if worker.send(Errand::Warm(Warming { endpoints: Arc::clone(&endpoints), each, opened })).is_ok() {
            replies.push(reply);
        }
    }
    let wanted = workers.len() * each * endpoints.len();
    let mut opened = 0;
    let all = async {
        for reply in replies {
            opened += reply.await.unwrap_or_default();
        }
    };
    let _what_is_open_by_then_counts = timeout(slowest + WARMING, all).await;
    let warmed = Warmed { endpoints: endpoints.len(), wanted, opened };
    tracing::info!(backend = backend.name, "{warmed}");
    warmed
}
