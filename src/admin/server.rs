//! Accepts admin clients: few at once, none for long.
//!
//! `axum::serve` bounds neither, so connections are driven here. A client that dawdles or does not read costs one of a few
//! places and a little memory, never a thread or a worker's time.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::api;
use super::listener::{Listener, Socket};
use super::origin::Door;
use crate::control::overview::Overview;

/// Connections at once; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 64;
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
    let (acceptor, door) = Acceptor::of(socket)?;
    let router = api::router(overview, door);
    let (open, closing) = watch::channel(());
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => {}
            accepted = acceptor.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok(client) => {
                    connections.spawn(client.converse(router.clone(), closing.clone(), patience));
                }
                Err(error) => pause_after(&error).await,
            }
        }
    }
    drop(acceptor);
    drop(open);
    while connections.join_next().await.is_some() {}
    Ok(())
}

/// Want of file descriptors does not pass by asking again at once.
async fn pause_after(error: &io::Error) {
    tracing::warn!(%error, "an admin connection could not be accepted");
    sleep(Duration::from_millis(100)).await;
}

enum Acceptor {
    Tcp(TcpListener),
    Unix(UnixListener),
}

enum Client {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Acceptor {
    fn of(socket: Socket) -> io::Result<(Self, Door)> {
        Ok(match socket {
            Socket::Tcp(listener) => (Self::Tcp(TcpListener::from_std(listener)?), Door::Tcp),
            Socket::Unix(listener) => (Self::Unix(UnixListener::from_std(listener)?), Door::Unix),
        })
    }

    async fn accept(&self) -> io::Result<Client> {
        Ok(match self {
            Self::Tcp(listener) => Client::Tcp(listener.accept().await?.0),
            Self::Unix(listener) => Client::Unix(listener.accept().await?.0),
        })
    }
}

impl Client {
    async fn converse(self, router: Router, closing: watch::Receiver<()>, patience: Patience) {
        match self {
            Self::Tcp(stream) => converse(stream, router, closing, patience).await,
            Self::Unix(stream) => converse(stream, router, closing, patience).await,
        }
    }
}

/// Answers one client until it leaves, its time is up, or the process ends.
async fn converse<S>(stream: S, router: Router, mut closing: watch::Receiver<()>, patience: Patience)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(patience.head)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = pin!(connection);
    tokio::select! {
        // How a client leaves is its own affair.
        _ = connection.as_mut() => return,
        _ = closing.changed() => {}
        () = sleep(patience.connection) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(patience.farewell, connection).await;
}
