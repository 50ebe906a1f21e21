//! The front door: takes connections and spreads them evenly over the workers, however few they are.
//!
//! One thread for all listeners: it costs a hand-over a connection, never one a request, and in exchange eight long-lived
//! connections on two workers are four and four (`SO_REUSEPORT` would hash them).

use std::io::{self, Write as _};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::StatusCode;
use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::Builder;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::respond;
use super::worker::{Accepted, Arrival, Ending, Errand};
use crate::descriptors::{self, Supply};
use crate::listen::{self, BACKLOG, Listener, SocketFile};
use crate::metrics::{ConnectionMeters, Registry};
use crate::snapshot::Snapshot;
use crate::telemetry::Complaints;

/// How long to leave the kernel alone after it refused to give us a connection (out of file descriptors, say).
const BACK_OFF: Duration = Duration::from_millis(20);

/// What the front door needs.
#[derive(Debug)]
pub struct Door {
    /// Bound listeners, in the order of [`Snapshot::listeners`].
    pub listeners: Vec<Listener>,
    /// The workers, by index.
    pub workers: Vec<mpsc::UnboundedSender<Errand>>,
    /// For the limit of the moment.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// Where connections are counted.
    pub registry: Arc<Registry>,
    /// How many descriptors there are.
    pub supply: Supply,
    /// When to stop.
    pub ending: watch::Receiver<Ending>,
}

/// Accepts on a thread of its own until the process drains; then the listeners are closed.
///
/// # Errors
/// When the thread or its runtime cannot be made.
pub fn open(door: Door) -> io::Result<JoinHandle<()>> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("accept".to_owned()).spawn(move || {
        runtime.block_on(door.accept_all());
    })
}

impl Door {
    async fn accept_all(self) {
        let spread = Arc::new(Spread {
            workers: self.workers,
            snapshot: self.snapshot,
            registry: self.registry,
            supply: self.supply,
            complaints: Mutex::default(),
        });
        let mut tasks = JoinSet::new();
        for (at, listener) in self.listeners.into_iter().enumerate() {
            let address = listener.address.clone();
            match Entrance::of(listener, at) {
                Ok(entrance) => drop(tasks.spawn(accept(entrance, Arc::clone(&spread), self.ending.clone()))),
                Err(error) => tracing::error!(%address, %error, "cannot accept on a listener"),
            }
        }
        while tasks.join_next().await.is_some() {}
    }
}

/// A listener that is accepted from.
struct Entrance {
    socket: Waiting,
    /// Which listener it is.
    at: usize,
    /// Removed when nobody new is let in any more.
    file: Option<SocketFile>,
}

enum Waiting {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Entrance {
    fn of(listener: Listener, at: usize) -> io::Result<Self> {
        let socket = match listener.socket {
            listen::Socket::Tcp(socket) => Waiting::Tcp(TcpListener::from_std(socket)?),
            listen::Socket::Unix(socket) => Waiting::Unix(UnixListener::from_std(socket)?),
        };
        Ok(Self { socket, at, file: listener.file })
    }

    async fn accept(&self) -> io::Result<Arrival> {
        let stream = match &self.socket {
            Waiting::Tcp(socket) => {
                let (stream, peer) = socket.accept().await?;
                Accepted::Tcp(stream.into_std()?, peer)
            }
            Waiting::Unix(socket) => Accepted::Unix(socket.accept().await?.0.into_std()?),
        };
        Ok(Arrival { stream, listener: self.at })
    }

    /// What the kernel already holds; nobody new comes after.
    fn close(self) -> Vec<Arrival> {
        drop(self.file);
        let at = self.at;
        let waiting: Vec<Accepted> = match self.socket {
            Waiting::Tcp(socket) => {
                let Ok(socket) = socket.into_std() else { return Vec::new() };
                let accept = || {
                    socket
                        .accept()
                        .and_then(|(stream, peer)| stream.set_nonblocking(true).map(|()| Accepted::Tcp(stream, peer)))
                };
                (0..BACKLOG).map_while(|_| accept().ok()).collect()
            }
            Waiting::Unix(socket) => {
                let Ok(socket) = socket.into_std() else { return Vec::new() };
                let accept = || {
                    socket
                        .accept()
                        .and_then(|(stream, _)| stream.set_nonblocking(true).map(|()| Accepted::Unix(stream)))
                };
                (0..BACKLOG).map_while(|_| accept().ok()).collect()
            }
        };
        waiting.into_iter().map(|stream| Arrival { stream, listener: at }).collect()
    }
}

/// Accepts until the process drains, then what the kernel already holds: closing the listener would reset it.
async fn accept(entrance: Entrance, spread: Arc<Spread>, mut ending: watch::Receiver<Ending>) {
    let mut complaints = Complaints::default();
    loop {
        let accepted = tokio::select! {
            accepted = entrance.accept() => accepted,
            _ = ending.wait_for(|ending| *ending >= Ending::Draining) => break,
        };
        match accepted {
            Ok(arrival) => spread.hand_over(arrival),
            Err(error) => {
                spread.registry.accept_errors.fetch_add(1, Relaxed);
                if !is_about_one_connection(&error) {
                    complaints.complain(|| {
                        tracing::warn!(%error, "cannot accept connections; trying again (out of descriptors? raise ulimit -n)");
                    });
                    tokio::time::sleep(BACK_OFF).await;
                }
            }
        }
    }
    entrance.close().into_iter().for_each(|arrival| spread.hand_over(arrival));
}

/// Whether the error is about a connection that has already gone, and the next one may be fine.
fn is_about_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

struct Spread {
    workers: Vec<mpsc::UnboundedSender<Errand>>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    registry: Arc<Registry>,
    supply: Supply,
    /// About clients for whom there are no descriptors.
    complaints: Mutex<Complaints>,
}

impl Spread {
    /// Whether one more than these `open` connections is too many.
    fn is_full(&self, open: u64, arrival: &Arrival) -> bool {
        let snapshot = self.snapshot.load();
        if open >= snapshot.limits.max_connections as u64 {
            return true;
        }
        let room = self.supply.clients(snapshot.connections_to_backends);
        let is_short = open >= room as u64 || descriptors::is_spare(&arrival.stream);
        if is_short {
            self.complaints.lock().unwrap_or_else(PoisonError::into_inner).complain(|| {
                tracing::warn!(open, room, "no descriptors for more clients, who get 503; raise ulimit -n");
            });
        }
        is_short
    }

    /// Says why, if it can be said in clear text and the socket takes it at once.
    fn turn_away(&self, arrival: Arrival) {
        if self.snapshot.load().tls[arrival.listener].is_some() {
            return;
        }
        let answer = respond::raw(StatusCode::SERVICE_UNAVAILABLE);
        let _it_may_not_listen = match arrival.stream {
            Accepted::Tcp(mut stream, _) => stream.write(&answer),
            Accepted::Unix(mut stream) => stream.write(&answer),
        };
    }

    /// Gives the connection to the worker with the fewest that still takes it.
    fn hand_over(&self, arrival: Arrival) {
        let open: Vec<u64> = self.registry.connections.iter().map(ConnectionMeters::open).collect();
        if self.is_full(open.iter().sum(), &arrival) {
            self.registry.connections_refused.fetch_add(1, Relaxed);
            return self.turn_away(arrival);
        }
        let mut workers: Vec<usize> = (0..self.workers.len()).collect();
        workers.sort_by_key(|worker| open[*worker]);
        let mut homeless = Some(Errand::Serve(arrival));
        for worker in workers {
            let Some(errand) = homeless.take() else { return };
            let opened = &self.registry.connections[worker].opened;
            opened.increment();
            if let Err(refused) = self.workers[worker].send(errand) {
                opened.add(u64::MAX); // this worker has ended, and never had it
                homeless = Some(refused.0);
            }
        }
    }
}
