//! Accepts admin clients: few at once, none for long but those who listen to events.
//!
//! `axum::serve` bounds neither, so connections are driven here. A client that dawdles or does not read costs one of a few
//! places and a little memory, never a thread or a worker's time.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::api;
use super::lease::Lease;
use super::origin::Door;
use crate::control::overview::Overview;
use crate::listen::{Listener, Socket};
use crate::telemetry::Complaints;

/// Connections at once, half of them for those who listen to events; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 256;
/// Bytes of a request head.
const MAX_HEAD: usize = 16 * 1024;

/// How long clients may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// For a request head, the wait for its first byte included.
    pub(super) head: Duration,
    /// For a whole connection, however many requests.
    pub(super) connection: Duration,
    /// For an answer that is under way when its connection has to end.
    pub(super) farewell: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { head: Duration::from_secs(5), connection: Duration::from_secs(60), farewell: Duration::from_secs(2) }
    }
}

/// Answers admin clients until `shutdown`, then lets running answers end.
///
/// # Errors
///
/// The runtime cannot take the listener over.
pub async fn serve(listener: Listener, overview: Arc<Overview>, shutdown: impl Future<Output = ()>) -> io::Result<()> {
    serve_with(listener, overview, shutdown, Patience::default()).await
}

pub(super) async fn serve_with(
    listener: Listener,
    overview: Arc<Overview>,
    shutdown: impl Future<Output = ()>,
    patience: Patience,
) -> io::Result<()> {
    // The socket file is removed when this is dropped: at the end, however it comes.
    let Listener { socket, file: _file, .. } = listener;
    let acceptor = Acceptor::of(socket)?;
    let (open, closing) = watch::channel(());
    let router = api::router(overview, closing.clone());
    let mut connections = JoinSet::new();
    let mut complaints = Complaints::default();
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => {}
            accepted = acceptor.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok(client) => {
                    connections.spawn(client.converse(router.clone(), closing.clone(), patience));
                }
                Err(error) => pause_after(&error, &mut complaints).await,
            }
        }
    }
    drop(acceptor);
    drop(open);
    while connections.join_next().await.is_some() {}
    Ok(())
}

/// Want of file descriptors does not pass by asking again at once.
async fn pause_after(error: &io::Error, complaints: &mut Complaints) {
    complaints.complain(|| {
        tracing::warn!(%error, "cannot accept admin connections; trying again (out of descriptors? raise ulimit -n)");
    });
    sleep(Duration::from_millis(100)).await;
}

enum Acceptor {
    Tcp(TcpListener, Door),
    Unix(UnixListener),
}

enum Client {
    Tcp(TcpStream, Door),
    Unix(UnixStream),
}

impl Acceptor {
    fn of(socket: Socket) -> io::Result<Self> {
        Ok(match socket {
            Socket::Tcp(listener) => {
                let is_loopback = listener.local_addr()?.ip().to_canonical().is_loopback();
                let door = if is_loopback { Door::Loopback } else { Door::Open };
                Self::Tcp(TcpListener::from_std(listener)?, door)
            }
            Socket::Unix(listener) => Self::Unix(UnixListener::from_std(listener)?),
        })
    }

    async fn accept(&self) -> io::Result<Client> {
        Ok(match self {
            Self::Tcp(listener, door) => Client::Tcp(listener.accept().await?.0, *door),
            Self::Unix(listener) => Client::Unix(listener.accept().await?.0),
        })
    }
}

impl Client {
    async fn converse(self, router: Router, closing: watch::Receiver<()>, patience: Patience) {
        match self {
            Self::Tcp(stream, door) => converse(stream, door, router, closing, patience).await,
            Self::Unix(stream) => {
                let door = Door::Unix { uid: stream.peer_cred().ok().map(|peer| peer.uid()) };
                converse(stream, door, router, closing, patience).await;
            }
        }
    }
}

/// Answers one client until it leaves, its time is up, or the process ends.
async fn converse<S>(stream: S, door: Door, router: Router, mut closing: watch::Receiver<()>, patience: Patience)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let lease = Arc::new(Lease::default());
    let (router, held) = (TowerToHyperService::new(router), Arc::clone(&lease));
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(door);
        request.extensions_mut().insert(Arc::clone(&held));
        router.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(patience.head)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let time_is_up = async {
        sleep(patience.connection).await;
        if lease.is_streaming() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        // How a client leaves is its own affair.
        _ = connection.as_mut() => return,
        () = lease.until_cut() => return,
        _ = closing.changed() => {}
        () = time_is_up => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(patience.farewell, connection).await;
}
