//! The end of the audit log's chain, in memory: entries get their number here, before any disk has heard of them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::SystemTime;

use super::audit::{Draft, Entry, Head, Who};

/// How many entries are kept in memory to be read.
pub(super) const RECENT: usize = 1_000;
/// How many entries may wait for the disk.
const MAX_UNLOGGED: usize = 10_000;
/// How many bytes of them may wait.
pub(super) const MAX_UNLOGGED_SIZE: usize = 8 * 1024 * 1024;

/// The last entries of the chain.
#[derive(Debug)]
pub(super) struct Chain {
    head: Head,
    recent: VecDeque<Arc<Entry>>,
    /// How many of the last of `recent` may not be in the log yet.
    unlogged: usize,
    /// The bytes of those.
    size: usize,
    /// How many entries found no place since the last one that did.
    not_kept: u64,
}

impl Chain {
    /// A chain that ends with `head`; `recent` are its last entries, of which the last `unlogged` may not be in the log.
    pub(super) fn new(head: Head, recent: VecDeque<Arc<Entry>>, unlogged: usize) -> Self {
        let mut chain = Self { head, recent, unlogged, size: 0, not_kept: 0 };
        chain.logged(0);
        chain
    }

    pub(super) fn head(&self) -> &Head {
        &self.head
    }

    /// Seals the drafts, in order. While too many wait for the disk, they are only counted, and the chain itself says so:
    /// once when it begins, once with their number when it is over.
    pub(super) fn add(&mut self, drafts: Vec<Draft>) -> Vec<Arc<Entry>> {
        let before = self.head.seq;
        for draft in drafts {
            let is_full = self.unlogged >= MAX_UNLOGGED || self.size >= MAX_UNLOGGED_SIZE;
            match (is_full, self.not_kept) {
                (false, 0) => self.seal(draft),
                (false, lost) => {
                    self.not_kept = 0;
                    self.seal(note("entries_lost", format!("{lost} entries before this one were not kept")));
                    self.seal(draft);
                }
                (true, lost) => {
                    if lost == 0 {
                        let why = format!("{} entries wait for the disk: no more are kept", self.unlogged);
                        tracing::error!("audit log: {why}");
                        self.seal(note("entries_refused", why));
                    }
                    self.not_kept += 1;
                }
            }
        }
        self.after(before).cloned().collect()
    }

    fn seal(&mut self, draft: Draft) {
        let entry = Arc::new(Entry::seal(draft, &self.head));
        self.head = Head::from(&*entry);
        self.size += entry.line().len();
        self.unlogged += 1;
        self.recent.push_back(entry);
        self.forget_old();
    }

    /// The entries that may not be in the log yet, oldest first.
    pub(super) fn unlogged(&self) -> Vec<Arc<Entry>> {
        self.last_unlogged().cloned().collect()
    }

    fn last_unlogged(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.recent.range(self.recent.len() - self.unlogged..)
    }

    /// The first `count` of [`Self::unlogged`] are in the log now.
    pub(super) fn logged(&mut self, count: usize) {
        self.unlogged -= count;
        self.size = self.last_unlogged().map(|entry| entry.line().len()).sum();
        self.forget_old();
    }

    fn forget_old(&mut self) {
        let keep = self.unlogged.max(RECENT);
        self.recent.drain(..self.recent.len().saturating_sub(keep));
    }

    /// Those in memory with a number above `after`.
    pub(super) fn after(&self, after: u64) -> impl Iterator<Item = &Arc<Entry>> {
        self.recent.iter().filter(move |entry| entry.seq > after)
    }

    /// The number of the first entry that is in memory, or that would be.
    pub(super) fn first_recent(&self) -> u64 {
        self.recent.front().map_or(self.head.seq + 1, |entry| entry.seq)
    }
}

/// An entry about the log itself.
fn note(what: &str, reason: String) -> Draft {
    Draft {
        at: SystemTime::now(),
        who: Who { kind: "process".to_owned(), name: "audit log".to_owned() },
        scope: "*".to_owned(),
        what: what.to_owned(),
        before: String::new(),
        after: String::new(),
        reason,
        forced: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::journal::audit::verify;

    fn drafts(count: usize) -> Vec<Draft> {
        vec![note("act", "why".to_owned()); count]
    }

    #[test]
    fn when_too_many_wait_the_chain_itself_says_what_was_not_kept() {
        let mut chain = Chain::new(Head::default(), VecDeque::new(), 0);
        chain.add(drafts(MAX_UNLOGGED));
        let told = chain.add(drafts(3));
        assert_eq!((told.len(), told[0].what.as_str()), (1, "entries_refused"));
        assert!(chain.add(drafts(2)).is_empty());
        let all = chain.unlogged();
        assert_eq!(all.len(), MAX_UNLOGGED + 1, "waiting entries are never forgotten");
        verify(all.iter().map(|entry| &**entry)).unwrap();

        chain.logged(MAX_UNLOGGED + 1);
        assert_eq!((chain.unlogged().len(), chain.size), (0, 0));
        let told = chain.add(drafts(1));
        assert_eq!(told[0].what, "entries_lost");
        assert!(told[0].reason.starts_with("5 entries"), "{}", told[0].reason);
        assert_eq!(told[1].what, "act");
        assert_eq!(chain.recent.len(), RECENT);
    }

    #[test]
    fn large_entries_are_bounded_by_their_size() {
        let mut chain = Chain::new(Head::default(), VecDeque::new(), 0);
        let large = Draft { reason: "\u{1}".repeat(100_000), ..note("act", String::new()) };
        let kept = (0..).find(|_| chain.add(vec![large.clone()])[0].what == "entries_refused").unwrap();
        assert!((160..200).contains(&kept), "{kept}: 8 MiB of some 49 KB each");
    }
}
