//! A data plane by itself: nobody decides what is in force but the story.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tempfile::TempDir;
use tidegate::config::{self, Config};
use tidegate::hold::Queue;
use tidegate::listen::{self, Access};
use tidegate::metrics::{Registry, RolloutMeters};
use tidegate::policy::actor::{Actor, Source};
use tidegate::policy::standing::{Maintenance, Standing};
use tidegate::proxy::accept::{self, Door};
use tidegate::proxy::access_log::AccessLog;
use tidegate::proxy::worker::{self, Ending, Errands, Shared};
use tidegate::snapshot::{Overlay, Scope, Snapshot};
use tokio::sync::watch;

use super::Client;
use super::proxy::PREAMBLE;

const WORKERS: usize = 2;

/// Workers and their front door, serving what was published last.
pub struct Plane {
    pub address: SocketAddr,
    pub registry: Arc<Registry>,
    pub errands: Vec<Errands>,
    pub dir: TempDir,
    config: Config,
    overlay: Overlay,
    published: Arc<ArcSwap<Snapshot>>,
    ending: watch::Sender<Ending>,
    threads: Vec<JoinHandle<()>>,
    _log: Option<tracing_appender::non_blocking::WorkerGuard>,
}

impl Plane {
    /// Starts with `config` and files beside it; its access log is `access.log` in the same folder.
    #[track_caller]
    pub fn start(config: &str, files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        files.iter().for_each(|(name, text)| std::fs::write(dir.path().join(name), text).unwrap());
        let text = format!("{PREAMBLE}access_log: {}\n{config}", dir.path().join("access.log").display());
        let config = config::parse(text.as_bytes(), &dir.path().join("tidegate.yaml"), &|_| None);
        let config = config.unwrap_or_else(|error| panic!("{error}"));
        let (log, guard) = config.access_log.as_ref().map(|log| AccessLog::open(log).unwrap()).unzip();
        let registry = Arc::new(Registry::new(WORKERS));
        let overlay = Overlay::default();
        let snapshot = Snapshot::build(&config, 1, SystemTime::now(), &registry, &overlay);
        let published = Arc::new(ArcSwap::from_pointee(snapshot));
        let (ending, is_ending) = watch::channel(Ending::Running);
        let shared = Shared {
            snapshot: Arc::clone(&published),
            registry: Arc::clone(&registry),
            access_log: log,
            ending: is_ending.clone(),
        };
        let workers: Vec<_> = (0..WORKERS).map(|index| worker::start(index, shared.clone()).unwrap()).collect();
        let listener = listen::bind(&config.listeners[0].address, Access::Everyone).unwrap();
        let address = listener.address.tcp().unwrap();
        let door = accept::open(Door {
            listeners: vec![listener],
            workers: workers.iter().map(|worker| worker.errands.clone()).collect(),
            snapshot: Arc::clone(&published),
            registry: Arc::clone(&registry),
            ending: is_ending,
        });
        let errands = workers.iter().map(|worker| worker.errands.downgrade()).collect();
        let threads = workers.into_iter().map(|worker| worker.thread).chain([door.unwrap()]).collect();
        Self { address, registry, errands, dir, config, overlay, published, ending, threads, _log: guard }
    }

    /// Puts something else in force.
    pub fn publish(&mut self, change: impl FnOnce(&mut Overlay)) -> Arc<Snapshot> {
        change(&mut self.overlay);
        let revision = self.published.load().revision + 1;
        let snapshot = Snapshot::build(&self.config, revision, SystemTime::now(), &self.registry, &self.overlay);
        self.published.store(Arc::new(snapshot));
        self.published.load_full()
    }

    /// Puts something in force that nothing in tidegate would make.
    pub fn publish_wrong(&mut self, change: impl FnOnce(&mut Snapshot)) {
        let revision = self.published.load().revision + 1;
        let mut snapshot = Snapshot::build(&self.config, revision, SystemTime::now(), &self.registry, &self.overlay);
        change(&mut snapshot);
        self.published.store(Arc::new(snapshot));
    }

    /// What is in force.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.published.load_full()
    }

    /// Everything waits, as long as the config lets it, until the queue says otherwise.
    pub fn hold(&mut self) -> Arc<Queue> {
        let queue = Arc::new(Queue::new(&self.config.hold, self.config.hold.max_wait));
        self.publish(|overlay| {
            overlay.queues.insert(Scope::Everything, Arc::clone(&queue));
        });
        queue
    }

    /// The public is turned away everywhere.
    pub fn maintain(&mut self, maintenance: Maintenance) {
        self.publish(|overlay| overlay.everything = Standing { maintenance: Some(maintenance), hold: None });
    }

    pub fn client(&self) -> Client {
        Client::connect(self.address)
    }

    /// The meters of the only rollout.
    pub fn meters(&self) -> Arc<RolloutMeters> {
        Arc::clone(&self.published.load().rollouts[0].meters)
    }

    /// All lines of the access log so far.
    pub fn log(&self) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(self.dir.path().join("access.log")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Asks the workers to leave, and does not wait.
    pub fn leave(&self) {
        self.ending.send_replace(Ending::Draining);
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        self.ending.send_replace(Ending::Now);
        for thread in self.threads.drain(..) {
            assert!(thread.join().is_ok() || std::thread::panicking(), "a thread panicked");
        }
    }
}

/// Whoever a story's orders come from.
pub fn somebody() -> Actor {
    Actor { source: Source::Operator, name: "anna".to_owned() }
}

/// A maintenance that says nothing in particular.
pub fn maintenance() -> Maintenance {
    Maintenance {
        message: None,
        read_only: false,
        retry_after: None,
        at: SystemTime::UNIX_EPOCH + Duration::from_secs(1),
        by: somebody(),
        reason: "a story".to_owned(),
    }
}
