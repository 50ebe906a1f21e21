//! The only writer: what happens becomes events, events become a snapshot, one store publishes it.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use tokio::sync::mpsc;
use tokio::time::{Duration, Instant, MissedTickBehavior, interval, sleep_until, timeout_at};

use super::flag::{self, Flag};
use super::overview::{Overview, Reload};
use super::settle::{NO_LATER_THAN, QUIET, TORN, probation};
use super::watcher::Watcher;
use crate::config::{self, Config};
use crate::metrics::{Registry, window};
use crate::snapshot::{Latch, LatchSource, Snapshot};

/// How often files are looked at without being told to.
const POLL_EVERY: Duration = Duration::from_millis(1500);

/// Everything that can change what is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Something happened in the folder of the config or of the flag file.
    FilesChanged,
    /// Somebody asked for the config to be read again (HUP).
    ReloadAsked,
}

/// Reads the environment for `${VAR}` in the config.
pub fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// The config that is in force, and the latches over it.
#[derive(Debug)]
pub struct InForce {
    path: PathBuf,
    text: Vec<u8>,
    config: Config,
    loaded_at: SystemTime,
    flag: Flag,
    /// Since when each latch stands.
    since: HashMap<(String, LatchSource), SystemTime>,
    revision: u64,
}

impl InForce {
    /// Takes the config at `path` for the first time, and the flag as it is.
    #[must_use]
    pub fn new(path: PathBuf, text: Vec<u8>, config: Config) -> Self {
        let flag = config.state_dir.as_deref().and_then(Flag::read).unwrap_or_default();
        let loaded_at = SystemTime::now();
        Self { path, text, config, loaded_at, flag, since: HashMap::new(), revision: 0 }
    }

    /// The config in force.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The file it came from.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is in force now, as one value; each call makes the next revision.
    pub fn snapshot(&mut self, registry: &Registry, now: SystemTime) -> Snapshot {
        self.revision += 1;
        let standing: Vec<(String, Vec<LatchSource>)> =
            self.config.rollouts.keys().map(|name| (name.clone(), sources(&self.config, &self.flag, name))).collect();
        let latches: BTreeMap<String, Vec<Latch>> = standing
            .into_iter()
            .map(|(name, sources)| {
                let latches = self.latches(&name, sources, now);
                (name, latches)
            })
            .collect();
        self.since.retain(|(name, source), _| {
            latches.get(name).is_some_and(|latches| latches.iter().any(|latch| latch.source == *source))
        });
        let latched = |name: &str| latches.get(name).cloned().unwrap_or_default();
        Snapshot::build(&self.config, self.revision, self.loaded_at, registry, latched)
    }

    fn latches(&mut self, name: &str, sources: Vec<LatchSource>, now: SystemTime) -> Vec<Latch> {
        let mut since = |source| *self.since.entry((name.to_owned(), source)).or_insert(now);
        sources.into_iter().map(|source| Latch { source, at: since(source) }).collect()
    }
}

/// The doors through which a rollback of the rollout `name` is asked for.
fn sources(config: &Config, flag: &Flag, name: &str) -> Vec<LatchSource> {
    let mut sources = Vec::new();
    if config.rollback == Some(true) {
        sources.push(LatchSource::Config);
    }
    if config.rollouts.get(name).is_some_and(|rollout| rollout.rollback == Some(true)) {
        sources.push(LatchSource::ConfigRollout);
    }
    if flag.covers(name, config.rollouts.keys().map(String::as_str)) {
        sources.push(LatchSource::FlagFile);
    }
    sources
}

/// The controller's task: owns what is in force.
#[derive(Debug)]
pub struct Controller {
    in_force: InForce,
    published: Arc<ArcSwap<Snapshot>>,
    overview: Arc<Overview>,
    /// What was read last and not taken, and why: one bad text is told once.
    refused: Option<(Vec<u8>, String)>,
    /// A text that may not be whole, and when it counts if it still stands.
    on_probation: Option<(Vec<u8>, Instant)>,
    state_dir_is_gone: bool,
}

impl Controller {
    /// A controller over what [`Overview`] shows.
    #[must_use]
    pub fn new(in_force: InForce, overview: Arc<Overview>) -> Self {
        let published = Arc::clone(&overview.snapshot);
        Self { in_force, published, overview, refused: None, on_probation: None, state_dir_is_gone: false }
    }

    /// Runs until the last sender of events has gone.
    pub async fn run(mut self, sender: mpsc::Sender<Event>, mut events: mpsc::Receiver<Event>) {
        let mut watcher = Watcher::new(self.folders(), self.names(), sender);
        let mut poll = interval(POLL_EVERY);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut reading = interval(window::INTERVAL);
        loop {
            let probation_ends = self.on_probation.as_ref().map(|(_, at)| *at);
            tokio::select! {
                event = events.recv() => {
                    let Some(event) = event else { return };
                    let asked = event == Event::ReloadAsked;
                    self.look_at_flag(); // a rollback does not wait for the end of a burst
                    self.look(gather(asked, &mut events).await).await;
                }
                _ = poll.tick() => {
                    watcher.renew();
                    self.look(false).await;
                }
                () = async { sleep_until(probation_ends.unwrap_or_else(Instant::now)).await },
                    if probation_ends.is_some() => self.look(false).await,
                _ = reading.tick() => self.overview.take_reading(),
            }
        }
    }

    fn names(&self) -> Vec<OsString> {
        let path = &self.in_force.path;
        let paths = [Some(path.clone()), path.canonicalize().ok()];
        let configs = paths.into_iter().flatten().filter_map(|path| path.file_name().map(OsString::from));
        configs.chain([OsString::from(flag::NAME)]).collect()
    }

    fn folders(&self) -> Vec<PathBuf> {
        let config = self.in_force.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let mut folders = vec![config.unwrap_or(Path::new(".")).to_owned()];
        folders.extend(self.in_force.config.state_dir.clone());
        folders
    }

    /// Looks at the flag and the config, and puts in force what has changed. `asked` reads the config even if its text is
    /// the same, since the files that it names may not be.
    async fn look(&mut self, asked: bool) {
        self.look_at_flag();
        let path = self.in_force.path.clone();
        let read = tokio::task::spawn_blocking(move || read(&path)).await;
        let Ok((text, checked)) = read else { return };
        if !asked && text == self.in_force.text {
            self.on_probation = None;
            self.refused = None;
            return self.note_unchanged();
        }
        let wait = match &checked {
            Err(_) if asked => Duration::ZERO,
            Err(_) => TORN,
            Ok(config) if asks_for_more_rollback(config, &self.in_force.config) => Duration::ZERO,
            Ok(_) => probation(&text, &self.in_force.text, self.is_json()),
        };
        if self.must_wait(&text, wait) {
            return;
        }
        match checked {
            Err(error) => self.refuse(text, &error, asked),
            Ok(config) => self.take(text, config),
        }
    }

    fn is_json(&self) -> bool {
        self.in_force.path.extension().is_some_and(|extension| extension == "json")
    }

    fn look_at_flag(&mut self) {
        let Some(state_dir) = self.in_force.config.state_dir.as_deref() else { return };
        let Some(flag) = Flag::read(state_dir) else {
            if !std::mem::replace(&mut self.state_dir_is_gone, true) {
                tracing::error!(path = %state_dir.display(), "state_dir is gone; what its ROLLBACK file asked for stays");
            }
            return;
        };
        self.state_dir_is_gone = false;
        if flag != self.in_force.flag {
            tracing::warn!("{} now asks for {flag}", Flag::path(state_dir).display());
            self.in_force.flag = flag;
            self.publish();
        }
    }

    /// Whether the text has not yet stood for as long as it has to.
    fn must_wait(&mut self, text: &[u8], wait: Duration) -> bool {
        if let Some((waiting, until)) = &self.on_probation
            && waiting == text
        {
            return Instant::now() < *until;
        }
        self.on_probation = (!wait.is_zero()).then(|| (text.to_owned(), Instant::now() + wait));
        self.on_probation.is_some()
    }

    fn take(&mut self, text: Vec<u8>, config: Config) {
        let needs_restart = needs_restart(&config, &self.in_force.config);
        let changes = changes(&self.in_force.config, &config);
        // What cannot change while running stays what it is, so that a later look finds the difference again.
        let config = Config {
            listeners: self.in_force.config.listeners.clone(),
            admin: self.in_force.config.admin.clone(),
            workers: self.in_force.config.workers,
            state_dir: self.in_force.config.state_dir.clone(),
            access_log: self.in_force.config.access_log.clone(),
            ..config
        };
        self.in_force.config = config;
        self.in_force.text = text;
        self.in_force.loaded_at = SystemTime::now();
        self.on_probation = None;
        self.refused = None;
        self.publish();
        tracing::info!(hash = self.in_force.config.hash, changes, "config reloaded");
        if !needs_restart.is_empty() {
            tracing::warn!(keys = ?needs_restart, "these keys change only with a restart");
        }
        self.note(|reload| Reload {
            successful: true,
            succeeded_at: SystemTime::now(),
            error: None,
            needs_restart,
            ..reload
        });
    }

    /// Keeps what is in force and says why, once for each text.
    fn refuse(&mut self, text: Vec<u8>, error: &config::ConfigError, asked: bool) {
        self.on_probation = None;
        let refused = Some((text, error.to_string()));
        if !asked && self.refused == refused {
            return;
        }
        tracing::error!("config refused; the old one stays in force\n{error}");
        self.refused = refused;
        let error = Some(error.to_string());
        self.note(|reload| Reload { successful: false, error, ..reload });
    }

    /// The file says again what is in force.
    fn note_unchanged(&mut self) {
        if !self.overview.reload.load().successful {
            tracing::info!("the config file says again what is in force");
            self.note(|reload| Reload { successful: true, succeeded_at: SystemTime::now(), error: None, ..reload });
        }
    }

    fn note(&self, change: impl FnOnce(Reload) -> Reload) {
        let before = Reload::clone(&self.overview.reload.load());
        let attempts = before.attempts + 1;
        self.overview.reload.store(Arc::new(Reload { attempts, ..change(before) }));
    }

    fn publish(&mut self) {
        let snapshot = self.in_force.snapshot(&self.overview.registry, SystemTime::now());
        self.published.store(Arc::new(snapshot));
    }
}

/// Waits until a burst of events is over, or has lasted long enough. Tells whether any of them asked for a reload.
async fn gather(mut asked: bool, events: &mut mpsc::Receiver<Event>) -> bool {
    let end = Instant::now() + NO_LATER_THAN;
    while let Ok(Some(event)) = timeout_at(end.min(Instant::now() + QUIET), events.recv()).await {
        asked |= event == Event::ReloadAsked;
    }
    asked
}

/// The file's text (empty if it cannot be read) and what it says.
fn read(path: &Path) -> (Vec<u8>, Result<Config, config::ConfigError>) {
    match config::read(path) {
        Ok(text) => {
            let checked = config::parse(&text, path, &environment);
            (text, checked)
        }
        Err(error) => (Vec::new(), Err(error)),
    }
}

fn asks_for_more_rollback(next: &Config, current: &Config) -> bool {
    let newly = |name: &String| {
        let asks = |config: &Config| {
            let own = config.rollouts.get(name).and_then(|rollout| rollout.rollback);
            config.rollback == Some(true) || own == Some(true)
        };
        asks(next) && !asks(current)
    };
    next.rollouts.keys().any(newly)
}

fn needs_restart(next: &Config, current: &Config) -> Vec<&'static str> {
    let changed = [
        ("listeners", next.listeners != current.listeners),
        ("admin", next.admin != current.admin),
        ("workers", next.workers != current.workers),
        ("state_dir", next.state_dir != current.state_dir),
        ("access_log", next.access_log != current.access_log),
    ];
    changed.into_iter().filter(|(_, changed)| *changed).map(|(key, _)| key).collect()
}

/// What changed for users, in one line.
fn changes(before: &Config, after: &Config) -> String {
    let rollback =
        |config: &Config, name: &str| config.rollback == Some(true) || config.rollouts[name].rollback == Some(true);
    let mut told = Vec::new();
    for (name, next) in &after.rollouts {
        let Some(last) = before.rollouts.get(name) else {
            told.push(format!("{name}: new at {}", next.configured()));
            continue;
        };
        if last.configured() != next.configured() {
            told.push(format!("{name}: {} -> {}", last.configured(), next.configured()));
        }
        match (rollback(before, name), rollback(after, name)) {
            (false, true) => told.push(format!("{name}: rolled back")),
            (true, false) => told.push(format!("{name}: rollback lifted")),
            _ => {}
        }
    }
    told.extend(
        before.rollouts.keys().filter(|name| !after.rollouts.contains_key(*name)).map(|n| format!("{n}: gone")),
    );
    if told.is_empty() { "no percent or rollback".to_owned() } else { told.join(", ") }
}
