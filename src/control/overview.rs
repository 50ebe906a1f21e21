//! What the admin side may read: what is in force, what happened, and how the last reload went.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use tokio::sync::{broadcast, watch};

use super::controller::Memories;
use super::findings::Findings;
use super::guards::Known;
use super::health::HealthChange;
use super::journal::audit::Entry;
use super::order::Desk;
use super::webhooks::Webhooks;
use crate::config::ListenAddress;
use crate::metrics::Registry;
use crate::metrics::window::{Recent, Window};
use crate::policy::decision::Side;
use crate::policy::latch::Door;
use crate::policy::rollout::State;
use crate::proxy::worker::Ending;
use crate::snapshot::Snapshot;

/// A view over the whole process, for those who only look.
#[derive(Debug)]
pub struct Overview {
    /// What is in force.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// What happened.
    pub registry: Arc<Registry>,
    /// How the last attempt to read the config went.
    pub reload: ArcSwap<Reload>,
    /// How far steps and drains have got, second by second.
    pub progress: ArcSwap<Progress>,
    /// What the guards know, by rollout; second by second, and at each verdict.
    pub guards: ArcSwap<BTreeMap<String, Known>>,
    /// What the guards have found and still stands.
    pub findings: ArcSwap<Findings>,
    /// What is remembered, and who changed what.
    pub journal: Memories,
    /// Where every change is announced.
    pub changes: broadcast::Sender<Arc<Entry>>,
    /// Where it is announced that an endpoint became fit or unfit.
    pub health_changes: broadcast::Sender<Arc<HealthChange>>,
    /// Who else is told of it.
    pub webhooks: Webhooks,
    /// Where orders are taken.
    pub desk: Desk,
    /// Why what was remembered could not be believed at the start, if it could not.
    lost: Option<String>,
    /// How far the process is on its way out.
    pub ending: watch::Receiver<Ending>,
    /// Whether `/readyz` says no because the process is about to drain.
    pub leaving: watch::Receiver<bool>,
    /// Where clients connect, with the ports that were chosen for `:0`, in the order of [`Snapshot::listeners`].
    pub addresses: Vec<ListenAddress>,
    /// When the process started.
    pub started_at: SystemTime,
    /// The config file.
    pub config_path: PathBuf,
    /// Where the `ROLLBACK` file is looked for.
    pub state_dir: Option<PathBuf>,
    /// The last minute.
    window: Mutex<Window>,
}

/// What moves on without being a change: how long steps were held, how long drains have.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// The states of rollouts, by name.
    pub rollouts: BTreeMap<String, State>,
    /// Whether their schedules say that nothing may be raised now.
    pub frozen: BTreeMap<String, bool>,
}

/// What the overview is made of, beside what it finds out by itself.
#[derive(Debug)]
pub struct Sources {
    /// What is in force.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// What happened.
    pub registry: Arc<Registry>,
    /// What is remembered.
    pub journal: Memories,
    /// Where orders are taken.
    pub desk: Desk,
    /// Why what was remembered could not be believed at the start, if it could not.
    pub lost: Option<String>,
    /// How far the process is on its way out.
    pub ending: watch::Receiver<Ending>,
    /// Whether `/readyz` says no because the process is about to drain.
    pub leaving: watch::Receiver<bool>,
    /// Where clients connect, with the ports that were chosen for `:0`, in the order of [`Snapshot::listeners`].
    pub addresses: Vec<ListenAddress>,
    /// The config file.
    pub config_path: PathBuf,
    /// Where the `ROLLBACK` file is looked for.
    pub state_dir: Option<PathBuf>,
}

/// How many changes a listener may be behind before it loses some.
const CHANGES_KEPT: usize = 256;

/// How the last attempt to read the config went.
#[derive(Clone, Debug)]
pub struct Reload {
    /// Attempts since the start, the first included.
    pub attempts: u64,
    /// Whether what is in force is what the file says.
    pub successful: bool,
    /// When a config was last taken.
    pub succeeded_at: SystemTime,
    /// Why the file was not taken, in the words of `tidegate check`.
    pub error: Option<String>,
    /// Keys whose change waits for a restart.
    pub needs_restart: Vec<&'static str>,
}

impl Overview {
    /// A view over `sources`, just after the first config was taken.
    #[must_use]
    pub fn new(sources: Sources) -> Self {
        let now = SystemTime::now();
        let reload =
            Reload { attempts: 1, successful: true, succeeded_at: now, error: None, needs_restart: Vec::new() };
        let Sources { snapshot, registry, journal, desk, lost, ending, leaving, addresses, config_path, state_dir } =
            sources;
        Self {
            snapshot,
            webhooks: Webhooks::new(Arc::clone(&registry)),
            registry,
            reload: ArcSwap::from_pointee(reload),
            progress: ArcSwap::default(),
            guards: ArcSwap::default(),
            findings: ArcSwap::default(),
            journal,
            changes: broadcast::channel(CHANGES_KEPT).0,
            health_changes: broadcast::channel(CHANGES_KEPT).0,
            desk,
            lost,
            ending,
            leaving,
            addresses,
            started_at: now,
            config_path,
            state_dir,
            window: Mutex::default(),
        }
    }

    /// Whether new clients should come: the process is neither draining nor about to.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        !*self.leaving.borrow() && *self.ending.borrow() == Ending::Running
    }

    /// Why what was remembered could not be believed at the start, for as long as a rollout is on OLD because of it.
    #[must_use]
    pub fn lost(&self) -> Option<&str> {
        let snapshot = self.snapshot.load();
        let mut latches = snapshot.rollouts.iter().flat_map(|rollout| &rollout.state.latches);
        latches.any(|latch| latch.door == Door::State).then_some(self.lost.as_deref()?)
    }

    /// What happened on `side` of the rollout `name` in the last minute.
    #[must_use]
    pub fn recent(&self, name: &str, side: Side) -> Recent {
        self.window.lock().unwrap_or_else(PoisonError::into_inner).recent(&self.registry, name, side)
    }

    /// Takes a reading of the counters; to be called every [`crate::metrics::window::INTERVAL`].
    pub fn take_reading(&self) {
        self.window.lock().unwrap_or_else(PoisonError::into_inner).take(&self.registry);
    }
}
