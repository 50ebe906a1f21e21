//! The durable memory of the control plane: what is in force, and who changed it, across restarts and power cuts.
//!
//! Two files in the state directory. The *state file* is replaced whole with each commit, and is the one point at which a
//! commit happens. The *audit log* is appended to, after that. The state file carries the entries that the log may not have
//! yet, so whatever happens between the two writes is made good at the next open: each entry is in the log exactly once.
//!
//! A commit never waits for a disk. It gets its numbers in memory and a handle that tells, later, whether it is durable; one
//! thread writes, the newest state with the entries of all commits that came meanwhile.
//!
//! What the state says is none of this module's business.

pub mod audit;
mod chain;
mod lines;
mod lock;
mod log;
mod state_file;
mod writer;

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, timeout_at};

pub use lock::takes_nothing;
pub use log::path as log_path;

use audit::{Draft, Entry, Head};
use chain::Chain;
use lock::Lock;
use log::Log;
use state_file::{Reading, StateFile, Stored};
use writer::{Desk, Writer};

/// A disk that has not answered for this long is said to hang, and is not waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether what was committed outlives the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Durability {
    /// The state file and the audit log have all of it.
    Durable,
    /// They could not be written, which is tried again every second, or the disk does not answer.
    NotDurable {
        /// Since when.
        since: SystemTime,
        /// In which file, and what the system said.
        why: String,
    },
    /// There is no `state_dir`: nothing outlives the process.
    NoStateDir,
}

/// What the state file said when the journal was opened.
#[derive(Debug, PartialEq, Eq)]
pub enum Found<T> {
    /// There is none: a first start.
    Nothing,
    /// The last state that was committed.
    State(T),
    /// Something that is not a whole state of this version. The caller falls back to what is safe, and says so.
    Corrupt {
        /// Where it lies now.
        aside: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// It is there and cannot be read, or is gone though there was one. What is in its place is left there, but the next
    /// commit replaces it.
    Unreadable {
        /// What the system said.
        why: String,
    },
}

/// Why a journal cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has the directory.
    #[error("state_dir {} is in use by {}\nhelp: stop that one, or give this one a state_dir of its own", .dir.display(), name(*.holder))]
    InUse {
        /// The directory.
        dir: PathBuf,
        /// The process that has it, if it could be read.
        holder: Option<u32>,
    },
    /// Something else lies where a file of ours has to be.
    #[error("{} is not a plain file\nhelp: tidegate keeps a file of its own there; move away what is in its place", .path.display())]
    NotAFile {
        /// Where.
        path: PathBuf,
    },
    /// The system said no.
    #[error("cannot use {}: {cause}", .path.display())]
    Io {
        /// What was to be used.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
}

fn name(holder: Option<u32>) -> String {
    holder.map_or("another process".to_owned(), |pid| format!("process {pid}"))
}

/// Fails if there is something at `path` that is not a plain file: a folder, a link that leads elsewhere, a pipe.
fn plain_file(path: &Path) -> Result<(), OpenError> {
    match path.symlink_metadata() {
        Ok(found) if !found.is_file() => Err(OpenError::NotAFile { path: path.to_owned() }),
        _ => Ok(()),
    }
}

/// A commit on its way to the disk.
#[derive(Debug)]
pub struct Commit {
    /// Its entries, as they are in the log or will be.
    pub entries: Vec<Arc<Entry>>,
    at: SystemTime,
    until: Instant,
    outcome: oneshot::Receiver<Durability>,
}

impl Commit {
    /// Waits for the first attempt to write it, until two seconds after the commit at most; needs a runtime with a clock. So
    /// who waits for one commit after the other on a disk that hangs does not wait longer for each. What was not durable then
    /// may become so later: see [`Journal::durability`].
    pub async fn outcome(self) -> Durability {
        let not_durable = |why: &str| Durability::NotDurable { since: self.at, why: why.to_owned() };
        match timeout_at(self.until, self.outcome).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => not_durable("the thread that writes has ended"),
            Err(_) => not_durable(HANGS),
        }
    }
}

/// Why something is not durable that has not failed either.
const HANGS: &str = "the disk of state_dir does not answer";

/// The memory of one state directory, or of this process only.
#[derive(Debug)]
pub struct Journal<T> {
    desk: Arc<Desk<T>>,
    outcomes: watch::Receiver<Durability>,
    /// The audit log and who writes it; none without a directory.
    on_disk: Option<(PathBuf, JoinHandle<()>)>,
}

impl<T> Journal<T> {
    /// A journal that forgets everything with the process, and keeps the last entries only.
    #[must_use]
    pub fn in_memory() -> Self {
        let desk = Arc::new(Desk::new(Chain::new(Head::default(), VecDeque::new(), 0)));
        Self { desk, outcomes: watch::channel(Durability::NoStateDir).1, on_disk: None }
    }

    /// Makes `state` the one to remember, and adds the drafts to the audit log, in order. Never waits: it comes back with
    /// the entries, and their numbers stand.
    ///
    /// While more than 10 000 entries (or 8 MiB of them) wait for a disk, further ones are not kept, and an entry says so;
    /// the state always is.
    pub fn commit(&self, state: T, drafts: Vec<Draft>) -> Commit {
        let (answer, outcome) = oneshot::channel();
        let mut inbox = self.desk.inbox();
        let entries = if self.on_disk.is_some() {
            inbox.put(state, drafts, answer)
        } else {
            let entries = inbox.chain.add(drafts);
            inbox.chain.logged(entries.len());
            let _ = answer.send(Durability::NoStateDir); // the receiver is below
            entries
        };
        drop(inbox);
        self.desk.ring();
        Commit { entries, at: SystemTime::now(), until: Instant::now() + PATIENCE, outcome }
    }

    /// How durable everything that was committed so far is.
    #[must_use]
    pub fn durability(&self) -> Durability {
        match self.desk.inbox().hangs(PATIENCE, SystemTime::now()) {
            Some(since) => Durability::NotDurable { since, why: HANGS.to_owned() },
            None => self.outcomes.borrow().clone(),
        }
    }

    /// The outcome of the last attempt to write. It changes when writing begins to fail, or succeeds again; a disk that
    /// does not answer has no outcome, so ask [`Self::durability`] for the truth of a moment.
    #[must_use]
    pub fn outcomes(&self) -> watch::Receiver<Durability> {
        self.outcomes.clone()
    }

    /// The end of the audit log's chain.
    #[must_use]
    pub fn head(&self) -> Head {
        self.desk.inbox().chain.head().clone()
    }

    /// The first `limit` entries with a number above `after`. The last 1 000 are in memory; for older ones this reads the
    /// file and blocks, without holding up commits.
    ///
    /// # Errors
    /// If the file has to be read and cannot be.
    pub fn entries(&self, after: u64, limit: usize) -> io::Result<Vec<Entry>> {
        let (recent, first_recent) = {
            let inbox = self.desk.inbox();
            (inbox.chain.after(after).take(limit).cloned().collect::<Vec<_>>(), inbox.chain.first_recent())
        };
        let mut entries = match &self.on_disk {
            Some((log, _)) if after.saturating_add(1) < first_recent => log::read(log, after, first_recent, limit)?,
            _ => Vec::new(),
        };
        let room = limit - entries.len();
        entries.extend(recent.iter().take(room).map(|entry| Entry::clone(entry)));
        Ok(entries)
    }
}

impl<T: Serialize + DeserializeOwned + Send + 'static> Journal<T> {
    /// Takes the directory for as long as the journal lives, reads what was committed last, and makes good what the audit
    /// log lacks of it. Blocks on the disk.
    ///
    /// # Errors
    /// [`OpenError`]: the directory is taken, is not usable, or has something else where a file has to be. A state that is
    /// corrupt or unreadable is no error but a [`Found`]; neither is a log that others have changed, which is only told.
    pub fn open(dir: &Path) -> Result<(Self, Found<T>), OpenError> {
        for name in [state_file::NAME, log::NAME] {
            plain_file(&dir.join(name))?;
        }
        let lock = Lock::take(dir)?;
        let (found, left) = match StateFile::new(dir).read() {
            Reading::Nothing => (nothing_or_gone(&Log::new(dir)), None),
            Reading::Stored(Stored { head, unlogged, state }) => (Found::State(state), Some((head, unlogged))),
            Reading::Corrupt { aside, why } => (Found::Corrupt { aside, why }, None),
            Reading::Unreadable { why } => (Found::Unreadable { why }, None),
        };
        let log = Log::new(dir);
        let desk = Arc::new(Desk::new(recover(&log, dir, left)));
        let (mut writer, outcomes) = Writer::new(dir, Arc::clone(&desk), log, lock);
        writer.attempt(); // what the log lacks
        let writer = thread::Builder::new().name("journal".to_owned()).spawn(move || writer.run());
        let writer = writer.map_err(|cause| OpenError::Io { path: dir.to_owned(), cause })?;
        Ok((Self { desk, outcomes, on_disk: Some((log::path(dir), writer)) }, found))
    }
}

/// No state file: a first start, unless the log tells of earlier ones. It is written after the state file, so a kill between
/// the two never leaves it alone.
fn nothing_or_gone<T>(log: &Log) -> Found<T> {
    match log.look().unwrap_or_default().entries.last() {
        None => Found::Nothing,
        Some(last) => {
            Found::Unreadable { why: format!("it is gone, although the audit log ends with entry {}", last.seq) }
        }
    }
}

/// The chain as the state file left it, or without one as the log did.
fn recover(log: &Log, dir: &Path, left: Option<(Head, Vec<Entry>)>) -> Chain {
    let path = log::path(dir);
    let tail = log.look().inspect_err(|error| tracing::error!("cannot read {}: {error}", path.display()));
    let Some((head, unlogged)) = left else {
        let entries = tail.unwrap_or_default().entries;
        return Chain::new(entries.last().map(Head::from).unwrap_or_default(), shared(entries), 0);
    };
    let unlogged: Vec<Arc<Entry>> = shared(unlogged);
    if let Ok(tail) = &tail {
        tail.warn_if_changed(Some(&head), &unlogged, &path);
    }
    let tail = tail.unwrap_or_default();
    let missing = &unlogged[tail.present(&unlogged)..];
    let mut recent: VecDeque<Arc<Entry>> = shared(tail.entries);
    recent.extend(missing.iter().cloned());
    Chain::new(head, recent, missing.len())
}

fn shared<C: FromIterator<Arc<Entry>>>(entries: Vec<Entry>) -> C {
    entries.into_iter().map(Arc::new).collect()
}

impl<T> Drop for Journal<T> {
    fn drop(&mut self) {
        let Some((_, writer)) = self.on_disk.take() else { return };
        if self.desk.close(PATIENCE) {
            let _ = writer.join(); // if it panicked, that was told
        }
    }
}

#[cfg(test)]
mod tests;
