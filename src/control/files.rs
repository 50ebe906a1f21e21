//! Looks at the config and at the flag file, and tells the controller what they ask for.
//!
//! A task of its own: a file system that hangs holds up nobody who wants something by another door. It knows what the
//! controller was told last, since a config that has been checked is always taken.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::SystemTime;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Duration, Instant, MissedTickBehavior, interval, sleep_until, timeout, timeout_at};

use super::controller::Event;
use super::flag::{self, Flag};
use super::names::{Names, names_in};
use super::settle::{NO_LATER_THAN, QUIET, TORN, probation};
use super::watcher::{Identity, Watcher, identity};
use crate::config::{self, Config, ConfigError, Keyring, ListenAddress, Trouble};

/// How often files are looked at without being told to.
const POLL_EVERY: Duration = Duration::from_millis(1500);

/// How long files of TLS have to be wrong until somebody is told.
const LASTING: Duration = Duration::from_secs(1);
/// How often the flag file is looked at while names are looked up.
const FLAG_EVERY: Duration = Duration::from_millis(100);

/// A reason to look.
#[derive(Debug)]
pub enum Nudge {
    /// Something happened in the folder of the config or of the flag file.
    Changed,
    /// Somebody asked for the config to be read again, and may want to know how that went.
    Reload(Option<oneshot::Sender<Reloaded>>),
}

/// How an attempt to read the config ended: with the hash of what is in force, or with what is wrong.
pub type Reloaded = Result<String, String>;

/// What the config file says, for the controller.
#[derive(Debug)]
pub enum Reading {
    /// A config that can be put in force.
    Good(Box<Config>),
    /// Something else.
    Bad(ConfigError),
    /// What is in force already.
    Same,
    /// A config that rolls back more than the one in force, but may not be whole yet: only that counts for now.
    MoreRollback(Box<Config>),
}

/// Reads the environment for `${VAR}` in the config.
pub fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// The task that looks.
#[derive(Debug)]
pub struct Files {
    path: PathBuf,
    state_dir: Option<PathBuf>,
    events: mpsc::Sender<Event>,
    names: Names,
    /// What the controller was told last.
    text: Vec<u8>,
    rollbacks: Rollbacks,
    /// It was told of a rollback in a text that has not been taken since.
    is_ahead_of_text: bool,
    flag: Flag,
    /// The folder in which the flag file was seen last: that it is not in another one says nothing.
    flag_folder: Option<Identity>,
    /// What was read last and not taken, and why: one bad text is told once.
    refused: Option<(Vec<u8>, String)>,
    /// What the files of TLS held, as the controller was told.
    keyring: Keyring,
    /// What is wrong with them now, and since when.
    troubled: Option<(Vec<Trouble>, Instant)>,
    /// The addresses of the start: those that are gone from the config are still listened to.
    listeners: Vec<ListenAddress>,
    /// A text that may not be whole, and when it counts if it still stands.
    on_probation: Option<(Vec<u8>, Instant)>,
    state_dir_is_gone: bool,
}

impl Files {
    /// Looks after the config at `path`, which was read as `text` and checked as `config`, and after the flag file, which
    /// was `flag` when the controller began with it.
    #[must_use]
    pub fn new(
        path: PathBuf,
        text: Vec<u8>,
        config: &Config,
        flag: Flag,
        names: Names,
        events: mpsc::Sender<Event>,
    ) -> Self {
        let flag_folder = config.state_dir.as_deref().and_then(identity);
        Self {
            path,
            flag_folder,
            state_dir: config.state_dir.clone(),
            events,
            names,
            text,
            rollbacks: Rollbacks::of(config),
            is_ahead_of_text: false,
            flag,
            refused: None,
            keyring: config.keyring.clone(),
            troubled: None,
            listeners: addresses(config),
            on_probation: None,
            state_dir_is_gone: false,
        }
    }

    /// Looks whenever there is a reason, until the controller or the last sender of nudges has gone.
    pub async fn run(mut self, sender: mpsc::Sender<Nudge>, mut nudges: mpsc::Receiver<Nudge>) {
        let mut watcher = Watcher::new(self.folders(), self.names(), sender);
        let mut poll = interval(POLL_EVERY);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.events.is_closed() {
            let probation_ends = self.on_probation.as_ref().map(|(_, at)| *at);
            tokio::select! {
                nudge = nudges.recv() => {
                    let Some(nudge) = nudge else { return };
                    self.look_at_flag().await; // a rollback does not wait for the end of a burst
                    self.look(gather(nudge, &mut nudges).await).await;
                }
                _ = poll.tick() => {
                    // Aside, like all that touches a file system here: one that hangs would stop the whole control plane.
                    let (folders, names) = (self.folders(), self.names());
                    let renewed = tokio::task::spawn_blocking(move || {
                        watcher.follow(folders, names);
                        watcher.renew();
                        watcher
                    });
                    let Ok(renewed) = renewed.await else { return };
                    watcher = renewed;
                    self.look(Asked::default()).await;
                }
                () = async { sleep_until(probation_ends.unwrap_or_else(Instant::now)).await },
                    if probation_ends.is_some() => self.look(Asked::default()).await,
            }
        }
    }

    fn names(&self) -> Vec<OsString> {
        let paths = [self.path.clone()].into_iter().chain(self.keyring.files());
        let ends = paths.flat_map(|path| [path.canonicalize().ok(), Some(path)]).flatten(); // of links, too
        let names = ends.filter_map(|path| path.file_name().map(OsString::from));
        names.chain([OsString::from(flag::NAME)]).collect()
    }

    fn folders(&self) -> Vec<PathBuf> {
        let config = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let mut folders = vec![config.unwrap_or(Path::new(".")).to_owned()];
        folders.extend(self.state_dir.clone());
        folders.extend(self.keyring.files().iter().filter_map(|path| path.parent()).map(Path::to_owned));
        folders.sort();
        folders.dedup();
        folders
    }

    async fn look_at_flag(&mut self) {
        let Some(state_dir) = self.state_dir.clone() else { return };
        let read = tokio::task::spawn_blocking(move || (Flag::read(&state_dir), identity(&state_dir)));
        let Ok((flag, folder)) = read.await else { return };
        // An empty mount point in place of the folder is not somebody who has removed the file.
        let is_elsewhere = flag == Some(Flag::Absent) && self.flag != Flag::Absent && folder != self.flag_folder;
        let Some(flag) = flag.filter(|_| !is_elsewhere) else {
            if !std::mem::replace(&mut self.state_dir_is_gone, true) {
                tracing::error!("state_dir is gone; what its ROLLBACK file asked for stays");
            }
            return;
        };
        self.state_dir_is_gone = false;
        self.flag_folder = folder;
        if flag != self.flag {
            tracing::warn!("the file ROLLBACK in state_dir now asks for {flag}");
            self.flag = flag.clone();
            let _the_controller_may_have_ended = self.events.send(Event::Flagged(flag)).await;
        }
    }

    /// Looks at the flag and the config. `asked` reads the config even if its text is the same, since the files that it
    /// names may not be.
    async fn look(&mut self, asked: Asked) {
        self.look_at_flag().await;
        let (path, keyring) = (self.path.clone(), self.keyring.clone());
        let read = tokio::task::spawn_blocking(move || {
            let keyring = keyring.renewed(SystemTime::now());
            let (text, checked) = read(&path, &keyring);
            (keyring, text, checked)
        });
        let Ok((keyring, text, checked)) = read.await else { return };
        self.renew(keyring).await; // whatever the config's text is worth
        if !asked.is_asked && !self.is_ahead_of_text && text == self.text {
            self.on_probation = None;
            if self.refused.take().is_some() {
                self.tell(Reading::Same, asked).await;
            }
            return;
        }
        let is_json = self.path.extension().is_some_and(|extension| extension == "json");
        let wait = match &checked {
            Err(_) => TORN,
            Ok(_) => probation(&text, &self.text, is_json),
        };
        if !asked.is_asked && self.must_wait(&text, wait) {
            if let Ok(config) = checked {
                self.tell_rollbacks(&config).await;
            }
            return;
        }
        self.on_probation = None;
        match checked {
            Err(error) => self.refuse(text, error, asked).await,
            Ok(mut config) => {
                self.look_up_names(&config).await;
                if addresses(&config) != self.listeners {
                    config.keyring.keep_servers_of(&self.keyring);
                }
                self.keyring = config.keyring.clone();
                self.text = text;
                self.refused = None;
                self.rollbacks = Rollbacks::of(&config);
                self.is_ahead_of_text = false;
                self.tell(Reading::Good(Box::new(config)), asked).await;
            }
        }
    }

    /// Tells what the files of TLS hold now, if that is something else. What is wrong with them is told once it has lasted:
    /// whoever replaces a certificate and its key does so one after the other.
    async fn renew(&mut self, keyring: Keyring) {
        let troubles = keyring.troubles().to_vec();
        let since = match &self.troubled {
            Some((known, since)) if *known == troubles => *since,
            _ => Instant::now(),
        };
        self.troubled = (!troubles.is_empty()).then(|| (troubles.clone(), since));
        let told =
            if troubles.is_empty() || since.elapsed() >= LASTING { troubles } else { self.keyring.troubles().to_vec() };
        let next = keyring.with_troubles(told);
        if !next.holds_the_same_as(&self.keyring) || next.troubles() != self.keyring.troubles() {
            self.keyring = next.clone();
            let _the_controller_may_have_ended = self.events.send(Event::Renewed(next)).await;
        }
    }

    /// What is new in the config can be reached as soon as it is in force. Nobody who wants to roll back waits for that.
    async fn look_up_names(&mut self, config: &Config) {
        if !names_in(config).is_empty() {
            self.tell_rollbacks(config).await;
        }
        let names = self.names.clone();
        let mut looked_up = pin!(names.follow(config));
        while timeout(FLAG_EVERY, &mut looked_up).await.is_err() {
            self.look_at_flag().await;
        }
    }

    /// Whether the text has not yet stood for as long as it has to.
    fn must_wait(&mut self, text: &[u8], wait: Duration) -> bool {
        if !wait.is_zero()
            && let Some((waiting, until)) = &self.on_probation
            && waiting == text
        {
            return Instant::now() < *until;
        }
        self.on_probation = (!wait.is_zero()).then(|| (text.to_owned(), Instant::now() + wait));
        self.on_probation.is_some()
    }

    /// A rollback does not wait until a text has proved to be whole.
    async fn tell_rollbacks(&mut self, config: &Config) {
        if self.rollbacks.take_more_of(config) {
            self.is_ahead_of_text = true;
            self.tell(Reading::MoreRollback(Box::new(config.clone())), Asked::default()).await;
        }
    }

    /// Says why what is in force stays, once for each text.
    async fn refuse(&mut self, text: Vec<u8>, error: ConfigError, asked: Asked) {
        let refused = Some((text, error.to_string()));
        if !asked.is_asked && self.refused == refused {
            return;
        }
        self.refused = refused;
        self.tell(Reading::Bad(error), asked).await;
    }

    async fn tell(&self, reading: Reading, asked: Asked) {
        let _the_controller_may_have_ended = self.events.send(Event::Read(reading, asked.answers)).await;
    }
}

fn addresses(config: &Config) -> Vec<ListenAddress> {
    config.listeners.iter().map(|listener| listener.address.clone()).collect()
}

/// Which rollbacks the file asks for, as the controller was told.
#[derive(Clone, Debug, Default)]
struct Rollbacks {
    all: bool,
    named: std::collections::BTreeSet<String>,
}

impl Rollbacks {
    fn of(config: &Config) -> Self {
        let named = config.rollouts.iter().filter(|(_, rollout)| rollout.rollback == Some(true));
        Self { all: config.rollback == Some(true), named: named.map(|(name, _)| name.clone()).collect() }
    }

    /// Takes what `config` asks for beyond this; tells whether that was anything.
    fn take_more_of(&mut self, config: &Config) -> bool {
        let next = Self::of(config);
        let more = next.all && !self.all || !next.named.is_subset(&self.named);
        self.all |= next.all;
        self.named.extend(next.named);
        more
    }
}

/// Whether somebody asked for a reload, and who wants to know how it went.
#[derive(Debug, Default)]
struct Asked {
    is_asked: bool,
    answers: Vec<oneshot::Sender<Reloaded>>,
}

impl Asked {
    fn note(&mut self, nudge: Nudge) {
        if let Nudge::Reload(answer) = nudge {
            self.is_asked = true;
            self.answers.extend(answer);
        }
    }
}

/// Waits until a burst of nudges is over, or has lasted long enough.
async fn gather(first: Nudge, nudges: &mut mpsc::Receiver<Nudge>) -> Asked {
    let end = Instant::now() + NO_LATER_THAN;
    let mut asked = Asked::default();
    asked.note(first);
    while let Ok(Some(nudge)) = timeout_at(end.min(Instant::now() + QUIET), nudges.recv()).await {
        asked.note(nudge);
    }
    asked
}

/// The file's text (empty if it cannot be read) and what it says.
fn read(path: &Path, before: &Keyring) -> (Vec<u8>, Result<Config, ConfigError>) {
    match config::read(path) {
        Ok(text) => {
            let checked = config::parse_over(before, &text, path, &environment);
            (text, checked)
        }
        Err(error) => (Vec::new(), Err(error)),
    }
}
