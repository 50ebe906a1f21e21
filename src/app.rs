//! The whole process as a value: bind everything, tell the addresses, run until shutdown.
//!
//! Tests and the demo use the same door as `main`: [`App::bind`], then [`App::run`].

use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};
use tokio::task::{self, JoinSet};
use tracing_appender::non_blocking::WorkerGuard;

use crate::admin;
use crate::config::{self, Config, ConfigError, ListenAddress};
use crate::control::controller::{Controller, Memories};
use crate::control::files::{Files, Nudge, environment};
use crate::control::in_force::{FORGOTTEN, InForce, Told};
use crate::control::journal::{Found, Journal, OpenError, takes_nothing};
use crate::control::names::Lookout;
use crate::control::order::Desk;
use crate::control::overview::{Overview, Sources};
use crate::descriptors::Supply;
use crate::listen::{self, Access, Listener};
use crate::metrics::Registry;
use crate::proxy::accept::{self, Door};
use crate::proxy::access_log::AccessLog;
use crate::proxy::worker::{self, Ending, Shared};
use crate::snapshot::Snapshot;

/// How long the end of the process waits for webhooks to take what is queued for them.
const LAST_MESSAGES: Duration = Duration::from_secs(2);
/// How long it waits for workers to say their last words and to write the log of what they have cut off: they take half a second
/// at most, on a machine that is not too busy.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Why the process cannot start, or could not go on.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The config is wrong.
    #[error(transparent)]
    Config(#[from] Box<ConfigError>),
    /// An address cannot be had.
    #[error("cannot listen on {address} (config key {key}): {cause}{}", hint(.address, .cause))]
    Bind {
        /// The address.
        address: ListenAddress,
        /// Where it comes from.
        key: String,
        /// Why not.
        cause: io::Error,
    },
    /// The state directory cannot be used.
    #[error("cannot use state_dir {}: {cause}\nhelp: it has to be a folder that the user who runs tidegate may write to", .path.display())]
    StateDir {
        /// The directory.
        path: PathBuf,
        /// Why not.
        cause: io::Error,
    },
    /// The state directory is another process's, or what lies in it is no file of ours.
    #[error(transparent)]
    Journal(#[from] OpenError),
    /// The access log cannot be written.
    #[error("cannot open access_log {}: {cause}\nhelp: its folder has to be there, and the user who runs tidegate has to be allowed to write to it", .path.display())]
    AccessLog {
        /// The file.
        path: PathBuf,
        /// Why not.
        cause: io::Error,
    },
    /// A worker ended while it should have served. Its clients lost their connections; the others were drained.
    #[error("worker {0} ended by itself")]
    Worker(usize),
    /// The machine has no threads left.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
}

fn hint(address: &ListenAddress, error: &io::Error) -> &'static str {
    match (address, error.kind()) {
        (ListenAddress::Tcp(_), io::ErrorKind::AddrInUse) => {
            "\nhelp: another process has it; find it with `ss -ltnp`, or choose another port"
        }
        (ListenAddress::Tcp(_), io::ErrorKind::PermissionDenied) => {
            "\nhelp: ports below 1024 need CAP_NET_BIND_SERVICE"
        }
        (ListenAddress::Tcp(_), io::ErrorKind::AddrNotAvailable) => {
            "\nhelp: no interface of this machine has that address"
        }
        (ListenAddress::Unix(_), io::ErrorKind::AddrInUse) => "\nhelp: find it with `ss -lxp`, or choose another path",
        (ListenAddress::Unix(_), io::ErrorKind::PermissionDenied | io::ErrorKind::NotFound) => {
            "\nhelp: its folder has to be there, and the user who runs tidegate has to be allowed to write to it"
        }
        (ListenAddress::Unix(_), io::ErrorKind::InvalidInput) => {
            "\nhelp: the path is too long, with a folder beside it in which the socket is made; choose a shorter one"
        }
        _ => "",
    }
}

/// A process that has everything it needs and serves nobody yet. Connections that arrive wait in the kernel.
#[derive(Debug)]
pub struct App {
    text: Vec<u8>,
    in_force: InForce,
    /// What the start has changed.
    told: Vec<Told>,
    journal: Memories,
    listeners: Vec<Listener>,
    admin: Listener,
    access_log: Option<(AccessLog, WorkerGuard)>,
}

impl App {
    /// Reads the config and binds all it names.
    ///
    /// # Errors
    /// When the config is wrong or something in it cannot be had; then nothing stays bound.
    pub fn bind(path: &Path) -> Result<Self, StartError> {
        let text = config::read(path).map_err(Box::new)?;
        let config = config::parse(&text, path, &environment).map_err(Box::new)?;
        if let Some(state_dir) = &config.state_dir {
            prepare(state_dir).map_err(|cause| StartError::StateDir { path: state_dir.clone(), cause })?;
        }
        let key = |at| match config.written.get("listeners") {
            Some(_) => format!("listeners[{at}].address"),
            None => "listen".to_owned(),
        };
        let listeners = config.listeners.iter().enumerate();
        let listeners = listeners.map(|(at, listener)| bind(&listener.address, Access::Everyone, key(at)));
        let listeners = listeners.collect::<Result<_, _>>()?;
        let admin = bind(&config.admin.address, Access::Owner, "admin.address".to_owned())?;
        let access_log = config.access_log.as_ref().map(open_log).transpose()?;
        let (journal, found) = match &config.state_dir {
            Some(state_dir) => Journal::open(state_dir)?,
            None => (Journal::in_memory(), Found::Nothing),
        };
        let (in_force, told) = InForce::new(path.to_owned(), config, found, SystemTime::now());
        if let Some(why) = in_force.lost() {
            tracing::error!("{why}; every rollout is on old until it is resumed; {FORGOTTEN}");
        }
        Ok(Self { text, in_force, told, journal, listeners, admin, access_log })
    }

    /// Where clients connect, with the ports that were chosen for `:0`.
    #[must_use]
    pub fn addresses(&self) -> Vec<ListenAddress> {
        self.listeners.iter().map(|listener| listener.address.clone()).collect()
    }

    /// The same with what is said of each listener.
    #[must_use]
    pub fn listeners(&self) -> Vec<config::Listener> {
        let bound = self.addresses().into_iter().zip(&self.in_force.config().listeners);
        bound.map(|(address, listener)| config::Listener { address, ..listener.clone() }).collect()
    }

    /// Where the admin side listens: `http://127.0.0.1:9901` or `unix:/path`.
    #[must_use]
    pub fn admin_address(&self) -> String {
        self.admin.address.url()
    }

    /// The config in force at the start.
    #[must_use]
    pub fn config(&self) -> &Config {
        self.in_force.config()
    }

    /// Serves until `signals` says otherwise, then drains. To be called on the control plane's own current-thread runtime.
    ///
    /// # Errors
    /// When threads cannot be started.
    pub async fn run(mut self, mut signals: mpsc::Receiver<Signal>) -> Result<(), StartError> {
        let (ending, is_ending) = watch::channel(Ending::Running);
        let (leaving, is_leaving) = watch::channel(false);
        let shutdown = self.in_force.config().shutdown.clone();
        let lookout = Lookout::begin(self.in_force.config()).await;
        self.in_force.set_addresses(lookout.addresses());
        let addresses = self.addresses();
        let data = DataPlane::start(&mut self.in_force, self.listeners, self.access_log.as_ref(), &is_ending)?;
        let mut watched = watch_workers(&data.workers);
        let Self { text, in_force, told, journal, .. } = self;
        let start = Start { text, in_force, told, journal, lookout, addresses };
        let control = ControlPlane::start(start, &data, self.admin, is_ending, is_leaving);
        let died = tokio::select! {
            () = until_asked_to_leave(&mut signals, &control.nudges) => None,
            index = watched.join_next() => index.and_then(Result::ok),
        };
        watched.shutdown().await; // workers drain until nobody can hand them a connection any more
        if let Some(index) = died {
            tracing::error!(
                "worker {index} has ended by itself, which is a bug in tidegate; draining, to be started anew"
            );
        }
        let last = leave(&shutdown, &leaving, &ending, data.into_threads(), &mut signals).await;
        control.end(last).await;
        died.map_or(Ok(()), |index| Err(StartError::Worker(index)))
    }
}

/// Those who answer requests, and what they share.
struct DataPlane {
    snapshot: Arc<ArcSwap<Snapshot>>,
    registry: Arc<Registry>,
    workers: Vec<worker::Handle>,
    /// The thread that accepts.
    door: JoinHandle<()>,
}

impl DataPlane {
    /// Puts the first snapshot in force and serves by it.
    fn start(
        in_force: &mut InForce,
        listeners: Vec<Listener>,
        access_log: Option<&(AccessLog, WorkerGuard)>,
        ending: &watch::Receiver<Ending>,
    ) -> Result<Self, StartError> {
        let workers = count_workers(in_force.config().workers);
        let dropped = access_log.map(|(log, _)| log.dropped());
        let supply = shared_out(in_force.config(), workers);
        let registry = Arc::new(Registry::new(workers.get()).with_access_log(dropped));
        let snapshot = Arc::new(ArcSwap::from_pointee(in_force.snapshot(&registry)));
        let shared = Shared {
            snapshot: Arc::clone(&snapshot),
            registry: Arc::clone(&registry),
            access_log: access_log.map(|(log, _)| log.clone()),
            ending: ending.clone(),
        };
        let workers: Vec<worker::Handle> = (0..workers.get())
            .map(|index| worker::start(index, shared.clone()))
            .collect::<Result<_, _>>()
            .map_err(StartError::Thread)?;
        let door = Door {
            listeners,
            workers: workers.iter().map(|worker| worker.errands.clone()).collect(),
            snapshot: Arc::clone(&snapshot),
            registry: Arc::clone(&registry),
            supply,
            ending: ending.clone(),
        };
        let door = accept::open(door).map_err(StartError::Thread)?;
        Ok(Self { snapshot, registry, workers, door })
    }

    fn into_threads(self) -> Vec<JoinHandle<()>> {
        self.workers.into_iter().map(|worker| worker.thread).chain([self.door]).collect()
    }
}

/// What the control plane begins with.
struct Start {
    text: Vec<u8>,
    in_force: InForce,
    told: Vec<Told>,
    journal: Memories,
    lookout: Lookout,
    /// Where clients connect.
    addresses: Vec<ListenAddress>,
}

/// Those who decide what is in force, and those who tell of it: tasks on the runtime that runs the process.
struct ControlPlane {
    overview: Arc<Overview>,
    nudges: mpsc::Sender<Nudge>,
    files: task::JoinHandle<()>,
    lookout: task::JoinHandle<()>,
    controller: task::JoinHandle<()>,
    admin: task::JoinHandle<io::Result<()>>,
}

impl ControlPlane {
    fn start(
        start: Start,
        data: &DataPlane,
        admin: Listener,
        mut ending: watch::Receiver<Ending>,
        leaving: watch::Receiver<bool>,
    ) -> Self {
        let Start { text, in_force, told, journal, lookout, addresses } = start;
        let (events, queue) = mpsc::channel(64);
        let (nudges, reasons) = mpsc::channel(64);
        let config = in_force.config();
        let overview = Arc::new(Overview::new(Sources {
            snapshot: Arc::clone(&data.snapshot),
            registry: Arc::clone(&data.registry),
            journal,
            desk: Desk::new(events.clone(), nudges.clone()),
            lost: in_force.lost().map(str::to_owned),
            ending: ending.clone(),
            leaving,
            addresses,
            config_path: in_force.path().to_owned(),
            state_dir: config.state_dir.clone(),
        }));
        let flag = in_force.flag().clone();
        let (names, lookout) = lookout.start(Arc::clone(&data.registry), events.clone());
        let lookout = tokio::spawn(lookout);
        let files = Files::new(in_force.path().to_owned(), text, config, flag, names, events.clone());
        let files = tokio::spawn(files.run(nudges.clone(), reasons));
        let errands = data.workers.iter().map(|worker| worker.errands.downgrade()).collect();
        let controller = Controller::new(in_force, told, Arc::clone(&overview), errands, events);
        let controller = tokio::spawn(controller.run(queue));
        let gone = async move {
            let _the_process = ending.wait_for(|ending| *ending == Ending::Now).await;
        };
        let admin = tokio::spawn(admin::serve(admin, Arc::clone(&overview), gone));
        Self { overview, nudges, files, lookout, controller, admin }
    }

    /// Ends after the admin side, which removes its socket file, and after the webhooks were told what waits for them, if that
    /// takes no longer than `patience`.
    async fn end(self, patience: Duration) {
        self.files.abort();
        self.lookout.abort();
        self.controller.abort();
        let _it_is_not_cancelled = self.admin.await;
        self.overview.webhooks.finish(patience).await;
    }
}

/// Tasks that end with the index of a worker that does not take connections any more.
fn watch_workers(workers: &[worker::Handle]) -> JoinSet<usize> {
    let mut watched = JoinSet::new();
    for (index, worker) in workers.iter().enumerate() {
        let errands = worker.errands.clone();
        watched.spawn(async move {
            errands.closed().await;
            index
        });
    }
    watched
}

/// What a person or a supervisor can ask of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// HUP: read the config again.
    Reload,
    /// TERM or INT: drain and end. A second one ends at once.
    Leave,
}

async fn until_asked_to_leave(signals: &mut mpsc::Receiver<Signal>, nudges: &mpsc::Sender<Nudge>) {
    let mut passed_on: Option<task::JoinHandle<_>> = None;
    while let Some(Signal::Reload) = signals.recv().await {
        if passed_on.as_ref().is_none_or(task::JoinHandle::is_finished) {
            let nudges = nudges.clone();
            // Aside: whoever reads files may be held up by one, and the next signal may be TERM.
            passed_on = Some(task::spawn(async move { nudges.send(Nudge::Reload(None)).await }));
        }
    }
}

/// Not ready, a delay for the balancer to notice, no more connections, then what runs may finish until the deadline. Gives how
/// much longer the end may take.
async fn leave(
    shutdown: &config::Shutdown,
    leaving: &watch::Sender<bool>,
    ending: &watch::Sender<Ending>,
    threads: Vec<JoinHandle<()>>,
    signals: &mut mpsc::Receiver<Signal>,
) -> Duration {
    leaving.send_replace(true);
    tracing::info!(delay = ?shutdown.readiness_delay, "not ready any more; waiting for the balancer to notice");
    let impatient = async {
        while let Some(signal) = signals.recv().await {
            if signal == Signal::Leave {
                return;
            }
        }
        std::future::pending::<()>().await; // nobody is left who could ask
    };
    let mut threads = task::spawn(joined(threads));
    let drained = async {
        tokio::time::sleep(shutdown.readiness_delay).await;
        ending.send_replace(Ending::Draining);
        tracing::info!(deadline = ?shutdown.drain_timeout, "draining");
        match tokio::time::timeout(shutdown.drain_timeout, &mut threads).await {
            Ok(_) => tracing::info!("drained"),
            Err(_) => tracing::warn!("the drain's deadline has passed; cutting off what still runs"),
        }
    };
    let last = tokio::select! {
        () = drained => LAST_MESSAGES,
        () = impatient => {
            tracing::warn!("asked again; ending at once");
            Duration::ZERO
        }
    };
    ending.send_replace(Ending::Now);
    if !threads.is_finished() {
        let _some_may_be_stuck = tokio::time::timeout(LAST_WORDS, threads).await;
    }
    last
}

async fn joined(threads: Vec<JoinHandle<()>>) {
    let _it_is_not_cancelled = task::spawn_blocking(|| {
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a worker ended by panic");
            }
        }
    })
    .await;
}

fn count_workers(configured: Option<NonZeroUsize>) -> NonZeroUsize {
    configured.unwrap_or_else(|| std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN))
}

fn open_log(target: &config::AccessLog) -> Result<(AccessLog, WorkerGuard), StartError> {
    AccessLog::open(target).map_err(|cause| {
        let path = match target {
            config::AccessLog::Stdout => PathBuf::from("stdout"),
            config::AccessLog::File(path) => path.clone(),
        };
        StartError::AccessLog { path, cause }
    })
}

/// What descriptors there are, with a word if they are too few for the clients that the config lets in.
fn shared_out(config: &Config, workers: NonZeroUsize) -> Supply {
    let supply = Supply::shared_out(workers.get());
    let (clients, to_backends) = (config.limits.max_connections, config.connections_to_backends());
    if let (Some(limit), Some(wanted)) = (supply.limit, supply.wanted(clients, to_backends)) {
        tracing::warn!(
            "there are {limit} descriptors (ulimit -n), which is enough for {} clients; limits.max_connections of {clients} needs {wanted}",
            supply.clients(to_backends)
        );
    }
    supply
}

/// `key` is the one in the config that names the address.
fn bind(address: &ListenAddress, access: Access, key: String) -> Result<Listener, StartError> {
    listen::bind(address, access).map_err(|cause| StartError::Bind { address: address.clone(), key, cause })
}

/// Makes the directory if it is missing, and makes sure that the flag file could be seen in it.
fn prepare(state_dir: &Path) -> io::Result<()> {
    if !state_dir.exists() {
        tracing::warn!(path = %state_dir.display(), "state_dir was not there and is made now: is it the right one?");
        std::fs::create_dir_all(state_dir)?;
    }
    std::fs::read_dir(state_dir)?;
    match tempfile_in(state_dir) {
        // It routes, and remembers when the disk lets it: a restart in such an hour must not be an outage.
        Err(error) if takes_nothing(&error) => {
            tracing::error!(path = %state_dir.display(), %error, "what changes from now on would not survive a restart");
            Ok(())
        }
        written => written,
    }
}

/// The directory has to be writable: what it is for is remembering.
fn tempfile_in(state_dir: &Path) -> io::Result<()> {
    let probe = state_dir.join(format!(".probe-{}", std::process::id()));
    std::fs::write(&probe, b"")?;
    std::fs::remove_file(&probe)
}
