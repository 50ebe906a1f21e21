//! What happened: counters that each worker writes alone and a scrape adds up.
//!
//! A worker owns one [`Shard`] of every rollout's meters. Only that worker writes it, so counting is a load and a store
//! without a lock or a locked instruction; readers may be a count behind, never wrong for long.

pub mod backend;
pub mod endpoint;
mod exposition;
mod histogram;
pub mod process;
pub mod shield;
pub mod tally;
pub mod tls;
mod trouble;
mod webhook;
pub mod window;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub use exposition::{CONTENT_TYPE, ConfigGauges, GuardGauges, RolloutGauges, Scrape, StateGauges, TlsGauges, render};
pub use histogram::{Distribution, Histogram};
pub use trouble::Trouble;
pub use webhook::{Delivery, WebhookMeters};

use arc_swap::ArcSwap;
use tokio::sync::{Notify, watch};
use tracing_appender::non_blocking::ErrorCounter;

use self::backend::{BackendState, NewEndpoint};
use self::shield::ShieldMeter;
use self::tally::Tallies;
use self::tls::TlsMeters;
use crate::policy::decision::{Reason, Side};
use crate::policy::grpc::Status;
pub use crate::policy::outcome::Failure;
use crate::policy::rollout::Cause;

/// A number with one writer and any number of readers.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one. Only the thread that owns this counter may call it.
    pub fn increment(&self) {
        self.add(1);
    }

    /// Adds `n`. Only the thread that owns this counter may call it.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// The count so far.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// How a request ended, as `code_class` tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// 200 to 299, and 101: a tunnel that was agreed upon.
    Success,
    /// 300 to 399.
    Redirect,
    /// 400 to 499.
    ClientError,
    /// 500 to 599.
    ServerError,
    /// No whole answer from the backend, or one that is not HTTP.
    Error,
    /// The client went away before the end.
    Aborted,
}

impl Class {
    /// All classes, in the order of the counters.
    pub const ALL: [Self; 6] =
        [Self::Success, Self::Redirect, Self::ClientError, Self::ServerError, Self::Error, Self::Aborted];

    /// The class of a status code; other codes than 101 and 200 to 599 are no answer.
    #[must_use]
    pub fn of_status(status: u16) -> Self {
        match status {
            101 | 200..=299 => Self::Success,
            300..=399 => Self::Redirect,
            400..=499 => Self::ClientError,
            500..=599 => Self::ServerError,
            _ => Self::Error,
        }
    }

    /// The label's value.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "2xx",
            Self::Redirect => "3xx",
            Self::ClientError => "4xx",
            Self::ServerError => "5xx",
            Self::Error => "error",
            Self::Aborted => "aborted",
        }
    }

    fn index(self) -> usize {
        self as usize
    }
}

/// Why a request went where it went: the policy's reasons, and those of requests that no rollout decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// A rollout decided.
    Decided(Reason),
    /// A route leads straight to a backend.
    Backend,
    /// No route covers it.
    Unrouted,
    /// Refused before routing: malformed, too large, too slow.
    Refused,
    /// Turned away, or told that all is well, because of maintenance.
    Maintenance,
    /// Held, but not until its turn came.
    Hold,
}

impl Why {
    const COUNT: usize = Reason::ALL.len() + 5;
    const ALL: [Self; Self::COUNT] = [
        Self::Decided(Reason::Rollback),
        Self::Decided(Reason::Drain),
        Self::Decided(Reason::Force),
        Self::Decided(Reason::Rule),
        Self::Decided(Reason::Bucket),
        Self::Decided(Reason::MissingKey),
        Self::Decided(Reason::Fallback),
        Self::Backend,
        Self::Unrouted,
        Self::Refused,
        Self::Maintenance,
        Self::Hold,
    ];

    /// The label's value.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Decided(reason) => reason.as_str(),
            Self::Backend => "backend",
            Self::Unrouted => "unrouted",
            Self::Refused => "refused",
            Self::Maintenance => "maintenance",
            Self::Hold => "hold",
        }
    }

    fn index(self) -> usize {
        match self {
            Self::Decided(reason) => reason.index(),
            Self::Backend => Reason::ALL.len(),
            Self::Unrouted => Reason::ALL.len() + 1,
            Self::Refused => Reason::ALL.len() + 2,
            Self::Maintenance => Reason::ALL.len() + 3,
            Self::Hold => Reason::ALL.len() + 4,
        }
    }
}

/// What one worker counted for one side of one rollout. On cache lines of its own, so that workers do not slow each
/// other down.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Shard {
    requests: [[Counter; Class::ALL.len()]; Why::COUNT],
    failures: [Counter; Failure::ALL.len()],
    /// By [`Status::number`].
    calls: [Counter; Status::ALL.len()],
    /// Requests that failed by what the config calls a failure, and not by their status.
    hidden: Counter,
    started: Counter,
    ended: Counter,
    duration: Histogram,
    // What follows is of the seat that has this place in the rollout, not of the side: those who run stay where they run
    // when the sides change places.
    seated: Counter,
    unseated: Counter,
    /// Milliseconds for which the oldest running request has run, plus one; 0 if none runs, or nobody wants to know.
    oldest: AtomicU64,
}

impl Shard {
    /// A request begins.
    pub fn begin(&self) {
        self.started.increment();
    }

    /// A request that began ends after `elapsed`.
    pub fn end(&self, why: Why, class: Class, elapsed: Duration) {
        self.ended.increment();
        self.requests[why.index()][class.index()].increment();
        self.duration.record(elapsed);
    }

    /// A request begins on this seat.
    pub fn sit(&self) {
        self.seated.increment();
    }

    /// A request that began on this seat ends.
    pub fn rise(&self) {
        self.unseated.increment();
    }

    /// The backend failed a request, or did not take it.
    pub fn fail(&self, failure: Failure) {
        self.failures[failure as usize].increment();
    }

    /// A request that ends well by its status has failed all the same.
    pub fn hide_failure(&self) {
        self.hidden.increment();
    }

    /// A call of gRPC has ended like this.
    pub fn call(&self, status: Status) {
        self.calls[usize::from(status.number())].increment();
    }

    /// Remembers for how long the oldest running request has run. Only the thread that owns this shard may call it.
    pub fn oldest_is(&self, age: Option<Duration>) {
        let millis = age.map_or(0, |age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX).saturating_add(1));
        self.oldest.store(millis, Relaxed);
    }

    fn running(&self) -> u64 {
        let unseated = self.unseated.get(); // first, as in `inflight`
        self.seated.get().saturating_sub(unseated)
    }

    fn inflight(&self) -> u64 {
        // Read in this order a request that ends in between is counted as running, never as minus one.
        let ended = self.ended.get();
        self.started.get().saturating_sub(ended)
    }
}

/// One shard a worker.
#[derive(Debug)]
pub struct Series(Box<[Shard]>);

impl Series {
    fn new(workers: usize) -> Self {
        Self((0..workers).map(|_| Shard::default()).collect())
    }

    /// The shard that `worker` writes.
    #[must_use]
    pub fn shard(&self, worker: usize) -> &Shard {
        &self.0[worker]
    }

    /// Requests so far with this reason and class.
    #[must_use]
    pub fn requests(&self, why: Why, class: Class) -> u64 {
        self.0.iter().map(|shard| shard.requests[why.index()][class.index()].get()).sum()
    }

    /// Requests that ended so far.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().map(|shard| shard.ended.get()).sum()
    }

    /// Requests so far that ended with a 5xx, without an answer, or with what the config calls a failure.
    #[must_use]
    pub fn failed(&self) -> u64 {
        let failed = [Class::ServerError, Class::Error];
        let shown: u64 = Why::ALL.iter().flat_map(|why| failed.map(|class| self.requests(*why, class))).sum();
        shown + self.0.iter().map(|shard| shard.hidden.get()).sum::<u64>()
    }

    /// Requests so far that the backend has answered, whatever it said.
    #[must_use]
    pub fn answered(&self) -> u64 {
        let answers = [Class::Success, Class::Redirect, Class::ClientError, Class::ServerError];
        let count = |shard: &Shard| -> u64 {
            shard
                .requests
                .iter()
                .map(|by_class| answers.map(|class| by_class[class.index()].get()).iter().sum::<u64>())
                .sum()
        };
        self.0.iter().map(count).sum()
    }

    /// Failures so far with this cause.
    #[must_use]
    pub fn failures(&self, failure: Failure) -> u64 {
        self.0.iter().map(|shard| shard.failures[failure as usize].get()).sum()
    }

    /// Calls of gRPC so far that ended like this.
    #[must_use]
    pub fn calls(&self, status: Status) -> u64 {
        self.0.iter().map(|shard| shard.calls[usize::from(status.number())].get()).sum()
    }

    /// Requests that are running.
    #[must_use]
    pub fn inflight(&self) -> u64 {
        self.0.iter().map(Shard::inflight).sum()
    }

    /// For how long the oldest running request has run, as the workers saw it when they last looked.
    #[must_use]
    pub fn oldest(&self) -> Option<Duration> {
        let oldest = self.0.iter().map(|shard| shard.oldest.load(Relaxed)).max()?;
        oldest.checked_sub(1).map(Duration::from_millis)
    }

    /// How long requests took so far.
    #[must_use]
    pub fn durations(&self) -> Distribution {
        let mut sum = Distribution::default();
        for shard in &self.0 {
            shard.duration.add_to(&mut sum);
        }
        sum
    }
}

/// A backend's place in its rollout, as the config has it: `old` or `blue`, `new` or `green`. Which side that is changes when
/// blue and green change places, and who runs there then goes on running there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat(usize);

impl Seat {
    /// The seat of `side`, or of the other one if the two have changed places.
    #[must_use]
    pub fn of(side: Side, have_changed_places: bool) -> Self {
        Self(if have_changed_places { side.other().index() } else { side.index() })
    }
}

/// A rollout's series.
#[derive(Debug)]
pub struct RolloutMeters {
    /// By [`Side::index`].
    sides: [Series; 2],
    turned_away: Series,
    tallies: Tallies,
    /// By worker.
    shields: Box<[ShieldMeter]>,
    /// By [`Cause`].
    trips: [AtomicU64; Cause::ALL.len()],
}

impl RolloutMeters {
    fn new(workers: usize) -> Self {
        Self {
            sides: [Series::new(workers), Series::new(workers)],
            turned_away: Series::new(workers),
            tallies: Tallies::new(workers),
            shields: (0..workers).map(|_| ShieldMeter::default()).collect(),
            trips: Default::default(),
        }
    }

    /// The series of `side`.
    #[must_use]
    pub fn side(&self, side: Side) -> &Series {
        &self.sides[side.index()]
    }

    /// What one worker counts of the requests that run on `seat`.
    #[must_use]
    pub fn seat(&self, seat: Seat, worker: usize) -> &Shard {
        self.sides[seat.0].shard(worker)
    }

    /// Requests that run on `seat`.
    #[must_use]
    pub fn running(&self, seat: Seat) -> u64 {
        self.sides[seat.0].0.iter().map(Shard::running).sum()
    }

    /// The guard has come to a verdict. Control plane only.
    pub fn trip(&self, cause: Cause) {
        self.trips[cause as usize].fetch_add(1, Relaxed);
    }

    /// Verdicts of the guard so far with this cause.
    #[must_use]
    pub fn trips(&self, cause: Cause) -> u64 {
        self.trips[cause as usize].load(Relaxed)
    }

    /// What is counted for the guard.
    #[must_use]
    pub fn tallies(&self) -> &Tallies {
        &self.tallies
    }

    /// What `worker` does for the rollout's shield.
    #[must_use]
    pub fn shield(&self, worker: usize) -> &ShieldMeter {
        &self.shields[worker]
    }

    /// Requests so far that NEW failed and OLD answered.
    #[must_use]
    pub fn shielded(&self) -> u64 {
        self.shields.iter().map(ShieldMeter::count).sum()
    }

    /// The series of requests that no side saw, because of maintenance or a hold.
    #[must_use]
    pub fn turned_away(&self) -> &Series {
        &self.turned_away
    }

    /// For how long the oldest request that runs on `seat` has run; known, to the second, while that one is drained.
    #[must_use]
    pub fn oldest(&self, seat: Seat) -> Option<Duration> {
        self.sides[seat.0].oldest()
    }
}

/// All meters of the process. Those of a rollout live as long as the process, so that a reload that takes a rollout out
/// and puts it back does not reset its counters.
#[derive(Debug)]
pub struct Registry {
    workers: usize,
    unsplit: Arc<Series>,
    rollouts: Mutex<BTreeMap<String, Arc<RolloutMeters>>>,
    backends: Mutex<BTreeMap<String, Arc<BackendState>>>,
    epoch: Instant,
    /// Rung when an endpoint has failed too many requests in a row.
    pub suspicion: Arc<Notify>,
    /// Told when a request waits for a connection to a backend: who keeps one that nobody uses is to give it up.
    pub wanted: watch::Sender<()>,
    /// Told of each bad request on NEW, so that a verdict waits for no tick.
    pub alarm: Notify,
    webhooks: Mutex<BTreeMap<String, Arc<WebhookMeters>>>,
    /// Connections from clients, a counter pair a worker.
    pub connections: Box<[ConnectionMeters]>,
    /// TLS with clients, by worker.
    pub tls: Box<[TlsMeters]>,
    log_dropped: Option<DroppedLines>,
    /// Failed `accept` calls.
    pub accept_errors: AtomicU64,
    /// Connections that were turned away because there were too many.
    pub connections_refused: AtomicU64,
    /// Connections that were closed because they did not begin with the PROXY header that was expected of them.
    pub proxy_protocol_errors: AtomicU64,
    /// Second since `epoch`, from 1, in which people were last told of one of them; 0 if they never were.
    proxy_protocol_told: AtomicU64,
    /// Names of backends that could not be looked up when they should have been.
    pub dns_failures: AtomicU64,
    /// Names of backends that have no address, and why.
    pub nowhere: ArcSwap<BTreeMap<String, String>>,
}

/// Lines of the access log that are not in it.
#[derive(Clone, Debug)]
pub struct DroppedLines {
    /// There was no room for them in the queue.
    pub queue: ErrorCounter,
    /// They could not be written.
    pub writer: Arc<AtomicU64>,
}

impl DroppedLines {
    fn count(&self) -> u64 {
        self.queue.dropped_lines() as u64 + self.writer.load(Relaxed)
    }
}

/// What one worker knows of its clients' connections.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct ConnectionMeters {
    /// Connections taken over.
    pub opened: Counter,
    /// Connections that ended.
    pub closed: Counter,
}

impl ConnectionMeters {
    /// Connections that are open.
    #[must_use]
    pub fn open(&self) -> u64 {
        let closed = self.closed.get();
        self.opened.get().saturating_sub(closed)
    }
}

impl Registry {
    /// Meters for `workers` workers.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self {
            workers,
            unsplit: Arc::new(Series::new(workers)),
            rollouts: Mutex::default(),
            backends: Mutex::default(),
            epoch: Instant::now(),
            suspicion: Arc::default(),
            wanted: watch::channel(()).0,
            alarm: Notify::new(),
            webhooks: Mutex::default(),
            connections: (0..workers).map(|_| ConnectionMeters::default()).collect(),
            tls: (0..workers).map(|_| TlsMeters::default()).collect(),
            log_dropped: None,
            accept_errors: AtomicU64::new(0),
            connections_refused: AtomicU64::new(0),
            proxy_protocol_errors: AtomicU64::new(0),
            proxy_protocol_told: AtomicU64::new(0),
            dns_failures: AtomicU64::new(0),
            nowhere: ArcSwap::default(),
        }
    }

    /// A connection did not begin with the PROXY header that was expected of it. Tells whether people are to hear of this one: of
    /// one a minute.
    pub fn count_not_introduced(&self, now: Instant) -> bool {
        self.proxy_protocol_errors.fetch_add(1, Relaxed);
        let second = now.saturating_duration_since(self.epoch).as_secs() + 1;
        let told = self.proxy_protocol_told.load(Relaxed);
        let is_due = told == 0 || second >= told + 60;
        is_due && self.proxy_protocol_told.compare_exchange(told, second, Relaxed, Relaxed).is_ok()
    }

    /// With an access log that counts in `dropped` the lines that are not in it.
    #[must_use]
    pub fn with_access_log(self, dropped: Option<DroppedLines>) -> Self {
        Self { log_dropped: dropped, ..self }
    }

    /// Access log lines that were dropped because the writer was behind, or could not be written.
    #[must_use]
    pub fn log_dropped(&self) -> u64 {
        self.log_dropped.as_ref().map_or(0, DroppedLines::count)
    }

    /// The series of requests that no rollout decides.
    #[must_use]
    pub fn unsplit(&self) -> Arc<Series> {
        Arc::clone(&self.unsplit)
    }

    /// The meters of the rollout `name`, made at its first mention. Control plane only.
    #[must_use]
    pub fn rollout(&self, name: &str) -> Arc<RolloutMeters> {
        let mut rollouts = self.rollouts.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(rollouts.entry(name.to_owned()).or_insert_with(|| Arc::new(RolloutMeters::new(self.workers))))
    }

    /// Every rollout that ever was, by name.
    #[must_use]
    pub fn rollouts(&self) -> Vec<(String, Arc<RolloutMeters>)> {
        let rollouts = self.rollouts.lock().unwrap_or_else(PoisonError::into_inner);
        rollouts.iter().map(|(name, meters)| (name.clone(), Arc::clone(meters))).collect()
    }

    /// What is known of the backend `name`, made at its first mention. Control plane only.
    #[must_use]
    pub fn backend(&self, name: &str) -> Arc<BackendState> {
        let new = || {
            let new_endpoint =
                NewEndpoint { workers: self.workers, epoch: self.epoch, bell: Arc::clone(&self.suspicion) };
            Arc::new(BackendState::new(self.wanted.clone(), new_endpoint))
        };
        let mut backends = self.backends.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(backends.entry(name.to_owned()).or_insert_with(new))
    }

    /// Every backend that ever was, by name.
    #[must_use]
    pub fn backends(&self) -> Vec<(String, Arc<BackendState>)> {
        let backends = self.backends.lock().unwrap_or_else(PoisonError::into_inner);
        backends.iter().map(|(name, state)| (name.clone(), Arc::clone(state))).collect()
    }

    /// The meters of the webhook `name`, made at its first mention.
    #[must_use]
    pub fn webhook(&self, name: &str) -> Arc<WebhookMeters> {
        let mut webhooks = self.webhooks.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(webhooks.entry(name.to_owned()).or_default())
    }

    /// Every webhook that ever was, by name.
    #[must_use]
    pub fn webhooks(&self) -> Vec<(String, Arc<WebhookMeters>)> {
        let webhooks = self.webhooks.lock().unwrap_or_else(PoisonError::into_inner);
        webhooks.iter().map(|(name, meters)| (name.clone(), Arc::clone(meters))).collect()
    }

    /// Connections from clients that are open.
    #[must_use]
    pub fn open_connections(&self) -> u64 {
        self.connections.iter().map(ConnectionMeters::open).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_and_class_has_a_place_of_its_own() {
        for (at, why) in Why::ALL.into_iter().enumerate() {
            assert_eq!(why.index(), at, "{why:?}");
        }
        for (at, class) in Class::ALL.into_iter().enumerate() {
            assert_eq!(class.index(), at, "{class:?}");
        }
    }

    #[test]
    fn a_scrape_adds_up_what_the_workers_counted() {
        let registry = Registry::new(2);
        let meters = registry.rollout("ledger");
        let why = Why::Decided(Reason::Bucket);
        for worker in [0, 1, 1] {
            let shard = meters.side(Side::New).shard(worker);
            shard.begin();
            shard.end(why, Class::Success, Duration::from_millis(1));
        }
        meters.side(Side::New).shard(0).begin();
        let again = registry.rollout("ledger");
        assert_eq!(again.side(Side::New).requests(why, Class::Success), 3);
        assert_eq!(again.side(Side::New).inflight(), 1);
        assert_eq!(again.side(Side::Old).total(), 0);
    }

    #[test]
    fn the_oldest_is_the_oldest_of_all_workers() {
        let registry = Registry::new(3);
        let meters = registry.rollout("ledger");
        assert_eq!(meters.oldest(Seat::of(Side::Old, false)), None);
        let series = meters.side(Side::Old);
        series.shard(0).oldest_is(Some(Duration::ZERO));
        assert_eq!(meters.oldest(Seat::of(Side::Old, false)), Some(Duration::ZERO));
        series.shard(2).oldest_is(Some(Duration::from_secs(7)));
        assert_eq!(meters.oldest(Seat::of(Side::Old, false)), Some(Duration::from_secs(7)));
        series.shard(2).oldest_is(None);
        series.shard(0).oldest_is(None);
        assert_eq!(meters.oldest(Seat::of(Side::Old, false)), None);
    }
}
