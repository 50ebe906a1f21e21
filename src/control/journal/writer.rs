//! The one thread that writes: a disk that hangs holds up nobody else.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use serde::Serialize;
use tokio::sync::{oneshot, watch};

use super::Durability;
use super::audit::{Draft, Entry, Head};
use super::chain::Chain;
use super::lock::Lock;
use super::log::Log;
use super::state_file::{StateFile, Stored};

/// What failed is tried again after this.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What the callers and the writer share. The lock is never held during file work.
#[derive(Debug)]
pub(super) struct Desk<T> {
    inbox: Mutex<Inbox<T>>,
    changed: Condvar,
}

/// What waits for the writer.
#[derive(Debug)]
pub(super) struct Inbox<T> {
    pub(super) chain: Chain,
    /// The newest state that the writer has not seen; it replaces those before it.
    state: Option<T>,
    /// Who waits for the next attempt's outcome.
    waiting: Vec<oneshot::Sender<Durability>>,
    /// Since when the writer is at work, while it is.
    busy_since: Option<SystemTime>,
    is_closing: bool,
    has_ended: bool,
}

/// What one attempt is about: everything that waited when it began.
struct Batch<T> {
    state: Option<T>,
    head: Head,
    unlogged: Vec<Arc<Entry>>,
    waiting: Vec<oneshot::Sender<Durability>>,
}

impl<T> Inbox<T> {
    /// Puts a commit on the pile; gives its entries as they will be written.
    pub(super) fn put(&mut self, state: T, drafts: Vec<Draft>, answer: oneshot::Sender<Durability>) -> Vec<Arc<Entry>> {
        if !self.has_ended {
            self.state = Some(state);
            self.waiting.push(answer);
        }
        self.chain.add(drafts)
    }

    /// Since when the disk has not answered, if that is for longer than `patience`.
    pub(super) fn hangs(&self, patience: Duration, now: SystemTime) -> Option<SystemTime> {
        self.busy_since.filter(|since| now.duration_since(*since).is_ok_and(|busy| busy > patience))
    }

    /// An attempt is over, and this many more entries are in the log.
    fn finish(&mut self, logged: usize) {
        self.busy_since = None;
        self.chain.logged(logged);
    }

    fn take(&mut self) -> Batch<T> {
        self.busy_since = Some(SystemTime::now());
        Batch {
            state: self.state.take(),
            head: self.chain.head().clone(),
            unlogged: self.chain.unlogged(),
            waiting: std::mem::take(&mut self.waiting),
        }
    }
}

impl<T> Desk<T> {
    pub(super) fn new(chain: Chain) -> Self {
        let inbox =
            Inbox { chain, state: None, waiting: Vec::new(), busy_since: None, is_closing: false, has_ended: false };
        Self { inbox: Mutex::new(inbox), changed: Condvar::new() }
    }

    pub(super) fn inbox(&self) -> MutexGuard<'_, Inbox<T>> {
        // Nothing under this lock can leave it half-changed.
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn ring(&self) {
        self.changed.notify_all();
    }

    /// Asks the writer to write what it can and end; tells whether it has, within `patience`.
    pub(super) fn close(&self, patience: Duration) -> bool {
        let mut inbox = self.inbox();
        inbox.is_closing = true;
        self.changed.notify_all();
        let waited = self.changed.wait_timeout_while(inbox, patience, |inbox| !inbox.has_ended);
        waited.unwrap_or_else(PoisonError::into_inner).0.has_ended
    }

    /// Waits for something to do, `at_most` this long; tells whether it is the last time.
    fn wait(&self, at_most: Option<Duration>) -> bool {
        let inbox = self.inbox();
        let is_idle = |inbox: &mut Inbox<T>| inbox.state.is_none() && !inbox.is_closing;
        let inbox = match at_most {
            None => self.changed.wait_while(inbox, is_idle).unwrap_or_else(PoisonError::into_inner),
            Some(time) => {
                self.changed.wait_timeout_while(inbox, time, is_idle).unwrap_or_else(PoisonError::into_inner).0
            }
        };
        inbox.is_closing
    }
}

/// The writer: owns the files of one directory.
#[derive(Debug)]
pub(super) struct Writer<T> {
    desk: Arc<Desk<T>>,
    prefix: String,
    state_file: StateFile,
    log: Log,
    /// The newest state that is not on the disk.
    unwritten: Option<T>,
    durability: watch::Sender<Durability>,
    /// Here and not with the callers: while this thread can still write, nobody else may.
    lock: Lock,
    dir: PathBuf,
}

impl<T: Serialize> Writer<T> {
    pub(super) fn new(dir: &Path, desk: Arc<Desk<T>>, log: Log, lock: Lock) -> (Self, watch::Receiver<Durability>) {
        let (durability, receiver) = watch::channel(Durability::Durable);
        let prefix = format!("state_dir {}", dir.display());
        let state_file = StateFile::new(dir);
        let dir = dir.to_owned();
        (Self { desk, prefix, state_file, log, unwritten: None, durability, lock, dir }, receiver)
    }

    /// Writes what comes, until the desk closes.
    pub(super) fn run(mut self) {
        loop {
            let has_failed = *self.durability.borrow() != Durability::Durable;
            let is_last = self.desk.wait(has_failed.then_some(RETRY_AFTER));
            self.attempt();
            if is_last {
                return;
            }
        }
    }

    /// Writes all that waits, tells the outcome to all who wait.
    pub(super) fn attempt(&mut self) {
        let Batch { state, head, unlogged, waiting } = self.desk.inbox().take();
        self.unwritten = state.or(self.unwritten.take());
        let written = self.write(head, &unlogged);
        let is_written = written.is_ok();
        self.tell(written.err());
        self.desk.inbox().finish(if is_written { unlogged.len() } else { 0 });
        let outcome = self.durability.borrow().clone();
        for answer in waiting {
            let _ = answer.send(outcome.clone()); // who asked may not wait for it
        }
    }

    /// First the state file, which has the entries too: from then on they cannot be lost. Then the log.
    fn write(&mut self, head: Head, unlogged: &[Arc<Entry>]) -> Result<(), String> {
        if self.lock.is_provisional() {
            self.lock = Lock::take(&self.dir).map_err(|error| error.to_string())?;
            if self.lock.is_provisional() {
                return Err(format!("{} is full or read-only", self.prefix));
            }
        }
        let told = |file: &str, error: std::io::Error| format!("{}: {file}: {error}", self.prefix);
        if let Some(state) = &self.unwritten {
            let entries: Vec<&Entry> = unlogged.iter().map(|entry| &**entry).collect();
            let stored = Stored { head, unlogged: entries, state };
            self.state_file.write(&stored).map_err(|error| told(super::state_file::NAME, error))?;
            self.unwritten = None;
        }
        self.log.append(unlogged).map_err(|error| told(super::log::NAME, error))
    }

    /// Publishes how it is now, if that is different; what has failed for a while keeps its beginning.
    fn tell(&self, failed: Option<String>) {
        self.durability.send_if_modified(|durability| {
            let next = match (failed, &*durability) {
                (None, _) => Durability::Durable,
                (Some(why), Durability::NotDurable { since, .. }) => Durability::NotDurable { since: *since, why },
                (Some(why), _) => Durability::NotDurable { since: SystemTime::now(), why },
            };
            if *durability == next {
                return false;
            }
            match &next {
                Durability::NotDurable { why, .. } => tracing::error!("not durable: {why}; tried again every second"),
                _ => tracing::info!("durable again"),
            }
            *durability = next;
            true
        });
    }
}

impl<T> Drop for Writer<T> {
    fn drop(&mut self) {
        let mut inbox = self.desk.inbox();
        inbox.has_ended = true;
        inbox.waiting.clear(); // who waits is told by the closed channel
        if std::thread::panicking() {
            let why = format!("{}: the thread that writes has ended", self.prefix);
            self.durability.send_replace(Durability::NotDurable { since: SystemTime::now(), why });
        }
        drop(inbox);
        self.desk.ring();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use crate::control::journal::audit::Who;
    use crate::control::journal::tests::folder;

    fn draft(reason: &str) -> Draft {
        let who = Who { kind: "operator".to_owned(), name: "ada".to_owned() };
        let (scope, what) = ("*".to_owned(), "act".to_owned());
        let (before, after, reason) = (String::new(), String::new(), reason.to_owned());
        Draft { at: SystemTime::UNIX_EPOCH, who, scope, what, before, after, reason, forced: false }
    }

    #[test]
    fn commits_that_wait_are_written_as_one() {
        let dir = folder();
        let desk = Arc::new(Desk::new(Chain::new(Head::default(), VecDeque::new(), 0)));
        let lock = Lock::take(dir.path()).unwrap();
        let (mut writer, _) = Writer::new(dir.path(), Arc::clone(&desk), Log::new(dir.path()), lock);
        let mut outcomes: Vec<_> = (1..=3)
            .map(|n| {
                let (answer, outcome) = oneshot::channel();
                desk.inbox().put(n, vec![draft("one"), draft("two")], answer);
                outcome
            })
            .collect();
        writer.attempt();
        for outcome in &mut outcomes {
            assert_eq!(outcome.try_recv(), Ok(Durability::Durable));
        }
        let text = std::fs::read_to_string(dir.path().join(crate::control::journal::state_file::NAME)).unwrap();
        let stored: Stored<u64> = serde_json::from_str(text.lines().nth(1).unwrap()).unwrap();
        assert_eq!((stored.state, stored.head.seq), (3, 6));
        assert_eq!(stored.unlogged.iter().map(|entry| entry.seq).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
        assert!(desk.inbox().chain.unlogged().is_empty());
    }

    #[test]
    fn a_disk_that_does_not_answer_is_told_after_a_while() {
        let mut inbox = Desk::<u64>::new(Chain::new(Head::default(), VecDeque::new(), 0)).inbox.into_inner().unwrap();
        let (patience, second) = (Duration::from_secs(2), Duration::from_secs(1));
        assert_eq!(inbox.hangs(patience, SystemTime::now() + 9 * second), None);
        inbox.take();
        let began = inbox.busy_since.unwrap();
        assert_eq!(inbox.hangs(patience, began + 2 * second), None);
        assert_eq!(inbox.hangs(patience, began + 3 * second), Some(began));
    }

    #[test]
    fn a_writer_that_ends_badly_leaves_nobody_waiting() {
        struct Bad;
        impl Serialize for Bad {
            fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
                panic!("a state that cannot be written down")
            }
        }
        let dir = folder();
        let desk = Arc::new(Desk::new(Chain::new(Head::default(), VecDeque::new(), 0)));
        let lock = Lock::take(dir.path()).unwrap();
        let (writer, durability) = Writer::new(dir.path(), Arc::clone(&desk), Log::new(dir.path()), lock);
        let (answer, mut first) = oneshot::channel();
        desk.inbox().put(Bad, vec![draft("one")], answer);
        std::thread::spawn(move || writer.run()).join().unwrap_err();
        assert_eq!(first.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        assert!(matches!(&*durability.borrow(), Durability::NotDurable { why, .. } if why.ends_with("has ended")));
        let (answer, mut second) = oneshot::channel();
        assert_eq!(desk.inbox().put(Bad, vec![draft("two")], answer)[0].seq, 2);
        assert_eq!(second.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        assert!(desk.close(Duration::ZERO));
    }
}
