//! A worker: one thread, one runtime, its own connections, pools and counters.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use arc_swap::cache::Cache;
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{spawn_local, unconstrained, yield_now};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::access_log::AccessLog;
use super::body::RequestBody;
use super::connection::{self, Guest};
use super::exchange::address_of;
use super::peer::Peer;
use super::socket::Socket;
use super::turns::Turns;
use super::watch::Watch;
use crate::metrics::tls::TlsMeters;
use crate::metrics::{ConnectionMeters, Registry};
use crate::policy::decision::Side;
use crate::snapshot::{Endpoint, Rollout, Snapshot};
use crate::upstream;

/// The upstream pools of a worker carry the proxy's request bodies.
pub(super) type Pool = upstream::Pool<RequestBody>;
/// A backend as the worker sees it.
pub(super) type Group = upstream::Group<RequestBody>;

/// How often unused upstream connections and the drains of sides are looked at.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// Bytes that a tunnel hands on at once.
const SCRATCH: usize = 32 << 10;
/// How long those who wait in line have at the very end to hear that their turn will not come, the ends of tunnels that these
/// are over, and calls of gRPC how they have ended.
const FAREWELL: Duration = Duration::from_millis(500);

/// What every worker needs from the rest of the process.
#[derive(Clone, Debug)]
pub struct Shared {
    /// What is in force.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// Where workers count.
    pub registry: Arc<Registry>,
    /// Where access log lines go, if anywhere.
    pub access_log: Option<AccessLog>,
    /// How the process is ending.
    pub ending: watch::Receiver<Ending>,
}

/// How far the process is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
pub enum Ending {
    /// Not at all.
    Running,
    /// Connections close after the request that is running on them.
    Draining,
    /// What still runs is cut off.
    Now,
}

/// A client's connection on its way to a worker.
#[derive(Debug)]
pub struct Arrival {
    /// The accepted socket.
    pub stream: Accepted,
    /// An index into [`Snapshot::listeners`].
    pub listener: usize,
}

/// A socket that does not block, on no runtime yet.
#[derive(Debug)]
pub enum Accepted {
    /// Of a port, and the client's address.
    Tcp(std::net::TcpStream, SocketAddr),
    /// Of a socket file.
    Unix(std::os::unix::net::UnixStream),
}

impl AsRawFd for Accepted {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Self::Tcp(stream, _) => stream.as_raw_fd(),
            Self::Unix(stream) => stream.as_raw_fd(),
        }
    }
}

impl Accepted {
    /// Brings the socket to the runtime of this thread.
    fn settle(self) -> io::Result<(Socket, Peer)> {
        Ok(match self {
            Self::Tcp(stream, source) => {
                let peer = Peer::between(source, stream.local_addr()?);
                (Socket::Tcp(TcpStream::from_std(stream)?), peer)
            }
            Self::Unix(stream) => (Socket::Unix(UnixStream::from_std(stream)?), Peer::local()),
        })
    }
}

/// What a worker can be sent to do.
#[derive(Debug)]
pub enum Errand {
    /// To serve a client.
    Serve(Arrival),
    /// To open connections before anybody needs them.
    Warm(Warming),
}

/// Connections to be opened before anybody needs them.
#[derive(Debug)]
pub struct Warming {
    /// Where to; endpoints that the worker has no pool for are left out.
    pub endpoints: Arc<[Endpoint]>,
    /// How many to each.
    pub each: usize,
    /// Told how many there are, once all have been tried.
    pub opened: oneshot::Sender<usize>,
}

/// The way to a worker for those who must not keep it alive: it drains until nobody else can hand it a connection.
pub type Errands = mpsc::WeakUnboundedSender<Errand>;

/// The outside of a worker: hand it connections, then wait for it.
#[derive(Debug)]
pub struct Handle {
    /// Takes connections over; the worker drains once the process does.
    pub errands: mpsc::UnboundedSender<Errand>,
    /// Ends when the last connection has ended, or when the process says so.
    pub thread: JoinHandle<()>,
}

/// Starts worker `index` (counted from 0) on a thread of its own.
///
/// # Errors
/// When the thread or its runtime cannot be made.
pub fn start(index: usize, shared: Shared) -> io::Result<Handle> {
    let (errands, incoming) = mpsc::unbounded_channel();
    let (made, is_made) = std::sync::mpsc::channel();
    let thread = std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
        let runtime = match Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
            Ok(runtime) => runtime,
            Err(error) => return drop(made.send(Err(error))),
        };
        let _nobody_waits_longer_than_this = made.send(Ok(()));
        runtime.block_on(run(index, shared, incoming));
    })?;
    is_made.recv().map_err(|_| io::Error::other("the worker's thread ended at once"))??;
    Ok(Handle { errands, thread })
}

async fn run(index: usize, shared: Shared, mut errands: mpsc::UnboundedReceiver<Errand>) {
    let mut ending = shared.ending.clone();
    let mut wanted = shared.registry.wanted.subscribe();
    let worker = Rc::new(Worker::new(index, shared));
    let mut sweep = interval(SWEEP_EVERY);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            Ok(()) = ending.changed() => {
                let now = *ending.borrow_and_update();
                if now >= Ending::Draining {
                    break;
                }
            }
            Some(errand) = errands.recv() => worker.go(errand),
            Ok(()) = wanted.changed() => worker.give_up_idle(),
            _ = sweep.tick() => unconstrained(worker.sweep()).await, // all of them, not as many as the budget allows
        }
    }
    let emptied = async {
        // What the door still has comes first; then it closes and this ends.
        while let Some(errand) = errands.recv().await {
            worker.go(errand);
        }
        // The runtime looks at its sockets before it comes back: requests that are there by now are answered.
        yield_now().await;
        worker.drain();
        worker.emptied().await;
    };
    let given_up = async {
        while wanted.changed().await.is_ok() {
            worker.give_up_idle();
        }
        std::future::pending::<()>().await; // nobody will want any more
    };
    tokio::select! {
        () = emptied => {}
        () = given_up => {}
        _ = ending.wait_for(|ending| *ending == Ending::Now) => worker.call_last().await,
    }
}

/// The inside of a worker.
#[derive(Debug)]
pub(super) struct Worker {
    index: usize,
    shared: Shared,
    latest: RefCell<Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>>,
    view: RefCell<Rc<View>>,
    connections: RefCell<HashMap<u64, Rc<Watch>>>,
    next_connection: Cell<u64>,
    /// Room for what is read and handed on at once, for as long as nobody waits.
    scratch: RefCell<Vec<u8>>,
    handshakes: Turns,
    emptied: tokio::sync::Notify,
}

/// A snapshot with this worker's pools beside it. Requests hold it by a count that no other worker touches.
#[derive(Debug)]
pub(super) struct View {
    pub(super) snapshot: Arc<Snapshot>,
    /// For each backend of the snapshot, a pool for each endpoint.
    groups: Vec<Group>,
    /// The pools that no side uses any more but those that are being drained.
    emptied: Vec<Rc<Pool>>,
}

impl View {
    /// A view of `snapshot` for `worker`, which goes on with the pools of `before`, where the endpoints are the same.
    fn new(snapshot: Arc<Snapshot>, worker: usize, before: Option<&Self>) -> Self {
        let before = before.map(|view| &*view.groups).unwrap_or_default();
        let groups: Vec<Group> = snapshot.backends.iter().map(|backend| Group::new(backend, worker, before)).collect();
        let emptied = snapshot.emptied_backends().into_iter().flat_map(|at| groups[at].pools().iter().cloned());
        let emptied = emptied.collect();
        Self { snapshot, groups, emptied }
    }

    /// Lets go of the pools that `next` does not go on with.
    fn retire(&self, next: &Self) {
        for pool in self.pools() {
            if !next.pools().any(|kept| Rc::ptr_eq(kept, pool)) {
                pool.retire();
            }
        }
    }

    fn pools(&self) -> impl Iterator<Item = &Rc<Pool>> {
        self.groups.iter().flat_map(Group::pools)
    }

    /// The backend at this place (an index) of the snapshot.
    pub(super) fn group(&self, backend: usize) -> &Group {
        &self.groups[backend]
    }

    /// Opens up to `connections` to `endpoint`, if a backend has it. Tells how many there are.
    async fn warm(&self, endpoint: &Endpoint, connections: usize) -> usize {
        let mut pools = self.groups.iter().flat_map(|group| group.pools().iter().map(move |pool| (group, pool)));
        match pools.find(|(_, pool)| pool.endpoint() == endpoint) {
            Some((group, pool)) => group.warm(pool, connections).await,
            None => 0,
        }
    }
}

/// Opens connections one after the other, so that whoever is served meanwhile hardly notices.
async fn warm(view: Rc<View>, warming: Warming) {
    let mut opened = 0;
    for endpoint in warming.endpoints.iter() {
        opened += view.warm(endpoint, warming.each).await;
    }
    let _nobody_may_want_to_know = warming.opened.send(opened);
}

impl Worker {
    fn new(index: usize, shared: Shared) -> Self {
        let latest = Cache::new(Arc::clone(&shared.snapshot));
        let view = View::new(shared.snapshot.load_full(), index, None);
        Self {
            index,
            shared,
            latest: RefCell::new(latest),
            view: RefCell::new(Rc::new(view)),
            connections: RefCell::default(),
            next_connection: Cell::default(),
            scratch: RefCell::default(),
            handshakes: Turns::default(),
            emptied: tokio::sync::Notify::new(),
        }
    }

    /// Does `act` with room for bytes that nobody else has meanwhile.
    pub(super) fn with_scratch<T>(&self, act: impl FnOnce(&mut [u8]) -> T) -> T {
        let mut scratch = self.scratch.borrow_mut();
        scratch.resize(SCRATCH, 0);
        act(&mut scratch)
    }

    pub(super) fn index(&self) -> usize {
        self.index
    }

    /// A connection did not begin with the PROXY header that it should have begun with. Tells whether people are to hear of it.
    pub(super) fn count_not_introduced(&self) -> bool {
        self.shared.registry.count_not_introduced(Instant::now().into_std())
    }

    pub(super) fn access_log(&self) -> Option<&AccessLog> {
        self.shared.access_log.as_ref()
    }

    /// Wakes the guards: something was bad on NEW.
    pub(super) fn alarm(&self) {
        self.shared.registry.alarm.notify_one();
    }

    /// What is in force now.
    pub(super) fn view(&self) -> Rc<View> {
        let mut latest = self.latest.borrow_mut();
        let snapshot = latest.load();
        let current = self.view.borrow();
        if Arc::ptr_eq(snapshot, &current.snapshot) {
            return Rc::clone(&current);
        }
        let next = Rc::new(View::new(Arc::clone(snapshot), self.index, Some(&current)));
        current.retire(&next);
        drop(current);
        self.view.replace(Rc::clone(&next));
        next
    }

    fn meters(&self) -> &ConnectionMeters {
        &self.shared.registry.connections[self.index]
    }

    pub(super) fn tls_meters(&self) -> &TlsMeters {
        &self.shared.registry.tls[self.index]
    }

    /// Ready when there are not too many handshakes at once, for as long as what it gives lives.
    pub(super) async fn turn_to_shake_hands(&self) -> impl Drop {
        let most = self.view().snapshot.limits.max_handshakes;
        let most = most.div_ceil(self.shared.registry.connections.len());
        self.handshakes.next(most).await
    }

    fn go(self: &Rc<Self>, errand: Errand) {
        match errand {
            Errand::Serve(arrival) => self.take_over(arrival),
            Errand::Warm(warming) => drop(spawn_local(warm(self.view(), warming))),
        }
    }

    fn take_over(self: &Rc<Self>, arrival: Arrival) {
        let Ok((socket, peer)) = arrival.stream.settle() else { return self.meters().closed.increment() };
        let watch = Rc::new(Watch::new(self.view().snapshot.timeouts.clone(), Instant::now()));
        let id = self.next_connection.replace(self.next_connection.get() + 1);
        self.connections.borrow_mut().insert(id, Rc::clone(&watch));
        let place = Place { worker: Rc::clone(self), id };
        let guest = Guest { socket, peer, listener: arrival.listener };
        // Without tokio's budget: the connection yields by itself after 16 rounds of reading and writing, and what it
        // polls with other wakers than its own must not be told to wait for a wake-up. In a box, since tokio moves a task
        // several times.
        spawn_local(unconstrained(Box::pin(connection::serve(guest, watch, place))));
    }

    async fn sweep(&self) {
        let view = self.view();
        let now = Instant::now();
        std::future::poll_fn(|cx| {
            view.pools().for_each(|pool| pool.sweep(cx, now));
            Poll::Ready(())
        })
        .await;
        view.emptied.iter().for_each(|pool| pool.close_idle());
        view.groups.iter().for_each(Group::give_up_idle);
        view.snapshot.rollouts.iter().for_each(|rollout| self.look_after_drain(rollout, now));
    }

    /// Requests wait for connections to a backend, here or on another worker: those that nobody uses are closed.
    fn give_up_idle(&self) {
        self.view().groups.iter().for_each(Group::give_up_idle);
    }

    /// Tells how long the oldest request has run on a side that is being drained, and cuts off what has run too long.
    fn look_after_drain(&self, rollout: &Rollout, now: Instant) {
        for side in Side::ALL {
            let is_emptied = rollout.empties(side);
            let since = if is_emptied { self.running_on(rollout, side, |_| {}) } else { None };
            let age = since.map(|since| now.saturating_duration_since(since));
            rollout.meters.seat(rollout.seat(side), self.index).oldest_is(age);
            if is_emptied && rollout.cut == Some(side) {
                self.running_on(rollout, side, Watch::cut_off);
            }
        }
    }

    /// Does `act` on the connections whose request `side` answers. Gives when the oldest of these requests began.
    fn running_on(&self, rollout: &Rollout, side: Side, act: impl Fn(&Watch)) -> Option<Instant> {
        let (meters, seat) = (address_of(&rollout.meters), rollout.seat(side));
        let mut oldest: Option<Instant> = None;
        let mut look = |watch: &Watch| {
            if let Some(running) = watch.running().filter(|running| running.meters == meters && running.seat == seat) {
                act(watch);
                oldest = Some(oldest.map_or(running.since, |oldest| oldest.min(running.since)));
            }
        };
        self.connections.borrow().values().for_each(|connection| connection.for_each(&mut look));
        oldest
    }

    fn drain(&self) {
        self.connections.borrow().values().for_each(|watch| watch.drain());
    }

    /// What still runs is cut off, in words where there are any: a call of gRPC has them in its trailers. Who still waits in line
    /// has not been sent anywhere and may be sent again: that is told. So is to both ends of a tunnel that it is over.
    async fn call_last(&self) {
        self.drain(); // whoever has been told has nothing to wait for
        let waits = |(id, connection): (&u64, &Rc<Watch>)| {
            let mut waits = false;
            connection.for_each(|watch| waits |= watch.call_last());
            waits.then_some(*id)
        };
        let called: Vec<u64> = self.connections.borrow().iter().filter_map(waits).collect();
        let told = async {
            while called.iter().any(|id| self.connections.borrow().contains_key(id)) {
                self.emptied.notified().await;
            }
        };
        let _who_does_not_read_is_cut_off = timeout(FAREWELL, told).await;
    }

    async fn emptied(&self) {
        while !self.connections.borrow().is_empty() {
            self.emptied.notified().await;
        }
    }
}

/// A connection's place at its worker, given up when it ends.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) worker: Rc<Worker>,
    id: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.worker.connections.borrow_mut().remove(&self.id);
        self.worker.meters().closed.increment();
        self.worker.emptied.notify_one();
    }
}
