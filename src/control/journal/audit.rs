//! The entries of the audit log: who changed what, chained so that a later edit shows.
//!
//! Each entry carries the hash of the one before it. The hash of an entry is the SHA-256 of its JSON without the field
//! `hash`: the line of the log without its last field, so that any script can check it.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::Path;
use std::time::SystemTime;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::lines::Lines;

/// No text of an entry is longer (in bytes); what is cut ends with `…`. It bounds a line of the log.
pub const MAX_TEXT: usize = 8 * 1024;

/// Who did something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Who {
    /// `operator`, `config`, `flag_file`, `guard`, `schedule` or `process`.
    pub kind: String,
    /// Which one of that kind.
    pub name: String,
}

/// What is to be told about one act, before it has its place in the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// When it was done, by the wall clock.
    pub at: SystemTime,
    /// Who did it.
    pub who: Who,
    /// To what: a rollout's name, `route:NAME`, or `*`.
    pub scope: String,
    /// What was done: a verb.
    pub what: String,
    /// How it was before.
    pub before: String,
    /// How it is now.
    pub after: String,
    /// Why, in the words of who did it.
    pub reason: String,
    /// Whether a check said no and was overruled.
    pub forced: bool,
}

/// One line of the audit log. The order of the fields is part of the format.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Its number, from 1, without gaps.
    pub seq: u64,
    /// When: RFC 3339, UTC, with milliseconds.
    pub at: String,
    /// Who did it.
    pub who: Who,
    /// To what: a rollout's name, `route:NAME`, or `*`.
    pub scope: String,
    /// What was done: a verb.
    pub what: String,
    /// How it was before.
    pub before: String,
    /// How it is from then on.
    pub after: String,
    /// Why.
    pub reason: String,
    /// Whether a check said no and was overruled.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub forced: bool,
    /// The hash of the entry before; 64 zeros for the first.
    pub prev: String,
    /// The SHA-256 of all of the above, in hex.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hash: String,
}

/// The end of a chain: what the next entry is chained to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// The number of the last entry; 0 if there is none.
    pub seq: u64,
    /// Its hash; 64 zeros if there is none.
    pub hash: String,
}

impl Default for Head {
    fn default() -> Self {
        Self { seq: 0, hash: "0".repeat(64) }
    }
}

impl Head {
    /// What `entry` says came before it: a page of a log is checked from there.
    #[must_use]
    pub fn before(entry: &Entry) -> Self {
        Self { seq: entry.seq.saturating_sub(1), hash: entry.prev.clone() }
    }
}

impl From<&Entry> for Head {
    fn from(entry: &Entry) -> Self {
        Self { seq: entry.seq, hash: entry.hash.clone() }
    }
}

impl Entry {
    /// Gives the draft its place behind `prev`.
    #[must_use]
    pub fn seal(draft: Draft, prev: &Head) -> Self {
        let at = Timestamp::try_from(draft.at).unwrap_or_default();
        let mut entry = Self {
            seq: prev.seq + 1,
            at: format!("{at:.3}"),
            who: Who { kind: clip(draft.who.kind), name: clip(draft.who.name) },
            scope: clip(draft.scope),
            what: clip(draft.what),
            before: clip(draft.before),
            after: clip(draft.after),
            reason: clip(draft.reason),
            forced: draft.forced,
            prev: prev.hash.clone(),
            hash: String::new(),
        };
        entry.hash = hex_sha256(entry.line().as_bytes());
        entry
    }

    /// Its line in the log, without the newline.
    #[must_use]
    pub fn line(&self) -> String {
        serde_json::to_string(self).expect("texts and numbers always serialise")
    }

    /// Whether its hash is the hash of what it says.
    #[must_use]
    pub fn is_genuine(&self) -> bool {
        let unhashed = Self { hash: String::new(), ..self.clone() };
        self.hash == hex_sha256(unhashed.line().as_bytes())
    }
}

fn clip(mut text: String) -> String {
    const MARK: &str = "…";
    if text.len() > MAX_TEXT {
        text.truncate(text.floor_char_boundary(MAX_TEXT - MARK.len()));
        text.push_str(MARK);
    }
    text
}

/// SHA-256 in lower-case hex.
pub(super) fn hex_sha256(bytes: &[u8]) -> String {
    use std::fmt::Write;
    Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}"); // writing to a String cannot fail
        hex
    })
}

/// Where a chain is broken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("entry {seq}: {why}")]
pub struct Broken {
    /// The number that the entry in this place has to have.
    pub seq: u64,
    /// What is wrong with it.
    pub why: String,
}

/// Checks a chain from its first entry. The [`Head`] that it gives is where it ends: entries cut off the end show only when
/// it is compared with the head that the process knows.
///
/// # Errors
/// [`Broken`] at the first entry that was changed, removed, moved or inserted.
pub fn verify<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Result<Head, Broken> {
    verify_after(Head::default(), entries)
}

/// Checks the part of a chain that follows `head`.
///
/// # Errors
/// As [`verify`].
pub fn verify_after<'a>(head: Head, entries: impl IntoIterator<Item = &'a Entry>) -> Result<Head, Broken> {
    entries.into_iter().try_fold(head, |head, entry| follow(&head, entry))
}

/// The head of the chain after `entry`, if it may follow `head`.
fn follow(head: &Head, entry: &Entry) -> Result<Head, Broken> {
    let seq = head.seq + 1;
    let broken = |why: String| Err(Broken { seq, why });
    if !entry.is_genuine() {
        return broken("it was changed: its hash is not the hash of what it says".to_owned());
    }
    if entry.seq != seq {
        return broken(format!("it is not here; in its place is entry {}", entry.seq));
    }
    if entry.prev != head.hash {
        return broken("it does not follow the entry before it: one of the two was replaced".to_owned());
    }
    Ok(Head::from(entry))
}

/// Why an audit log was not found whole.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// It could not be read.
    #[error(transparent)]
    Read(#[from] io::Error),
    /// It was read, and it is broken.
    #[error(transparent)]
    Broken(#[from] Broken),
}

/// Checks a whole audit log, line by line; blocking.
///
/// # Errors
/// As [`verify`], and when the file cannot be read. A line that is not an entry is a broken one.
pub fn verify_file(path: &Path) -> Result<Head, VerifyError> {
    let mut head = Head::default();
    for (number, line) in (1_u64..).zip(Lines::new(BufReader::new(File::open(path)?))) {
        let entry: Entry = serde_json::from_slice(&line?)
            .map_err(|error| Broken { seq: head.seq + 1, why: format!("line {number} is not an entry: {error}") })?;
        head = follow(&head, &entry)?;
    }
    Ok(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(length: u64) -> Vec<Entry> {
        let mut head = Head::default();
        let who = Who { kind: "operator".to_owned(), name: "ada".to_owned() };
        (1..=length)
            .map(|n| {
                let draft = Draft {
                    at: SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(n),
                    who: who.clone(),
                    scope: "cards".to_owned(),
                    what: "set_percent".to_owned(),
                    before: (n - 1).to_string(),
                    after: n.to_string(),
                    reason: String::new(),
                    forced: n == 2,
                };
                let entry = Entry::seal(draft, &head);
                head = Head::from(&entry);
                entry
            })
            .collect()
    }

    #[test]
    fn the_hash_is_that_of_the_line_without_its_last_field() {
        let entry = &chain(2)[1];
        let line = entry.line();
        assert!(line.starts_with(r#"{"seq":2,"at":"1970-01-01T00:00:00.002Z","who":{"kind":"operator","#), "{line}");
        let unhashed = line.replace(&format!(r#","hash":"{}""#, entry.hash), "");
        assert_eq!(hex_sha256(unhashed.as_bytes()), entry.hash);
        assert_eq!(hex_sha256(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn a_broken_chain_is_found_where_it_breaks() {
        let whole = chain(5);
        let broken = |change: fn(&mut Vec<Entry>)| {
            let mut entries = whole.clone();
            change(&mut entries);
            verify(&entries).unwrap_err().seq
        };
        assert_eq!(verify(&whole), Ok(Head::from(&whole[4])));
        assert_eq!(broken(|e| e[2].reason.push('!')), 3, "changed");
        assert_eq!(broken(|e| drop(e.remove(0))), 1, "the first removed");
        assert_eq!(broken(|e| drop(e.remove(3))), 4, "removed");
        assert_eq!(broken(|e| e.swap(1, 2)), 2, "swapped");
        assert_eq!(broken(|e| e.insert(1, e[0].clone())), 2, "inserted");
        let resealed = |e: &mut Vec<Entry>| {
            e[1].after = "100".to_owned();
            e[1].hash = String::new();
            e[1].hash = hex_sha256(e[1].line().as_bytes());
        };
        assert_eq!(broken(resealed), 3, "changed, with a new hash: the next one tells");
    }

    #[test]
    fn a_page_is_checked_from_what_its_first_entry_follows() {
        let page = &chain(5)[2..];
        assert_eq!(verify(page).unwrap_err().seq, 1);
        assert_eq!(verify_after(Head::before(&page[0]), page), Ok(Head::from(&page[2])));
    }

    #[test]
    fn a_file_is_checked_line_by_line() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let check = |text: &str| {
            std::fs::write(file.path(), text).unwrap();
            verify_file(file.path()).map_err(|error| error.to_string())
        };
        let lines: String = chain(3).iter().map(|entry| entry.line() + "\n").collect();
        assert_eq!(check(&lines), Ok(Head::from(&chain(3)[2])));
        assert_eq!(check(""), Ok(Head::default()));
        let error = check(&lines.replacen('\n', "\n\n", 1)).unwrap_err();
        assert!(error.starts_with("entry 2: line 2 is not an entry"), "{error}");
        let extended = lines.replacen(r#""scope":"#, r#""note":"","scope":"#, 1);
        assert!(check(&extended).unwrap_err().starts_with("entry 1: "), "what is added to a line shows");
    }

    #[test]
    fn long_texts_are_cut_where_a_character_ends() {
        for length in MAX_TEXT - 2..MAX_TEXT + 3 {
            let clipped = clip(format!("{}{}", "x".repeat(length % 3), "ä".repeat(length)));
            assert!(clipped.len() <= MAX_TEXT && clipped.ends_with('…'));
        }
        assert_eq!(clip("short".to_owned()), "short");
    }
}
