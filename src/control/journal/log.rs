//! The file of the audit log: appended to, and read from its end. Others may read it, rotate it, or edit it.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::audit::{Entry, Head};
use super::chain::{MAX_UNLOGGED_SIZE, RECENT};
use super::lines::{Lines, MAX_LINE};
use super::plain_file;
use super::state_file::sync_dir;

/// The file's name.
pub(super) const NAME: &str = "audit.jsonl";
/// How much of the end is looked at, in bytes: what one append may leave behind torn, and the line before it.
const TAIL: u64 = MAX_UNLOGGED_SIZE as u64 + 2 * MAX_LINE;

/// The audit log of one directory, as its one writer sees it.
#[derive(Debug)]
pub(super) struct Log {
    dir: PathBuf,
    /// How long the file was after the last append that succeeded.
    end: Option<u64>,
    /// Whether an append has failed since: what is behind `end` is ours, and not whole.
    torn: bool,
}

/// The last entries of the file, after a torn line has been cut off.
#[derive(Debug, Default)]
pub(super) struct Tail {
    pub(super) entries: Vec<Entry>,
    end: u64,
}

impl Log {
    pub(super) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), end: None, torn: false }
    }

    /// Looks at the end of the file; there may be none.
    pub(super) fn look(&self) -> io::Result<Tail> {
        match self.open(OpenOptions::new().read(true).append(true)) {
            Ok(file) => Tail::read(&file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Tail::default()),
            Err(error) => Err(error),
        }
    }

    /// Appends those of `unlogged` that the file lacks, in order, and waits until they are on the disk. After an error the
    /// next call with the same entries (and perhaps more) leaves each of them there once.
    pub(super) fn append(&mut self, unlogged: &[Arc<Entry>]) -> io::Result<()> {
        if unlogged.is_empty() {
            return Ok(());
        }
        let mut file = self.open(OpenOptions::new().read(true).append(true).create(true).mode(0o640))?;
        let (end, present) = self.find_end(&file, unlogged)?;
        // Until all is done, only an end before all of these entries is one to come back to.
        (self.end, self.torn) = ((present == 0).then_some(end), true);
        let mut text = String::new();
        for entry in &unlogged[present..] {
            text.push_str(&entry.line());
            text.push('\n');
        }
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        if end == 0 {
            sync_dir(&self.dir)?;
        }
        (self.end, self.torn) = (Some(end + text.len() as u64), false);
        Ok(())
    }

    /// Opens it anew each time: it may have been moved away since.
    fn open(&self, options: &OpenOptions) -> io::Result<File> {
        let path = path(&self.dir);
        plain_file(&path).map_err(|_| io::Error::other("it is not a plain file"))?;
        options.open(path)
    }

    /// Where to append, and how many of the entries are already there.
    fn find_end(&self, file: &File, unlogged: &[Arc<Entry>]) -> io::Result<(u64, usize)> {
        let len = file.metadata()?.len();
        match self.end {
            Some(end) if len == end => Ok((end, 0)),
            Some(end) if self.torn && len > end => {
                file.set_len(end)?;
                Ok((end, 0))
            }
            _ => {
                let tail = Tail::read(file)?;
                tail.warn_if_changed(None, unlogged, &path(&self.dir));
                Ok((tail.end, tail.present(unlogged)))
            }
        }
    }
}

impl Tail {
    /// Reads the end of the file and cuts off a torn last line: what it was to say is in the state file.
    fn read(mut file: &File) -> io::Result<Self> {
        let len = file.metadata()?.len();
        let from = file.seek(SeekFrom::Start(len.saturating_sub(TAIL)))?;
        let mut text = Vec::new();
        file.take(TAIL).read_to_end(&mut text)?;
        let first_line = if from == 0 { Some(0) } else { memchr::memchr(b'\n', &text).map(|at| at + 1) };
        let Some(first_line) = first_line else {
            return Err(io::Error::other(format!("the last {TAIL} bytes of {NAME} are not lines")));
        };
        let whole = first_line + whole_lines(&text[first_line..]);
        let end = from + whole as u64;
        if end < len {
            tracing::warn!(bytes = len - end, "the last line of {NAME} was not whole and is cut off");
            file.set_len(end)?;
        }
        file.sync_all()?; // what is seen here counts as written from now on
        let lines: Vec<&[u8]> = text[first_line..whole].split_inclusive(|byte| *byte == b'\n').collect();
        let last = &lines[lines.len().saturating_sub(RECENT)..];
        Ok(Self { entries: last.iter().filter_map(|line| serde_json::from_slice(line).ok()).collect(), end })
    }

    /// How many of `unlogged` the file has: they are written in order, so the last one that is there tells.
    pub(super) fn present(&self, unlogged: &[Arc<Entry>]) -> usize {
        let is_here = |wanted: &Arc<Entry>| self.entries.iter().rev().any(|entry| entry.hash == wanted.hash);
        unlogged.iter().rposition(is_here).map_or(0, |at| at + 1)
    }

    /// Says so if the file does not end where this process or the one before it may have left it: at `head`, or before or
    /// after any of `unlogged`.
    pub(super) fn warn_if_changed(&self, head: Option<&Head>, unlogged: &[Arc<Entry>], path: &Path) {
        let Head { seq, hash } = self.entries.last().map(Head::from).unwrap_or_default();
        let ours = head.is_some_and(|head| head.hash == hash)
            || unlogged.iter().any(|entry| entry.prev == hash || entry.hash == hash);
        if !ours {
            let path = path.display();
            tracing::warn!("{path} was changed by others: it ends with entry {seq}, which is not where it was left");
        }
    }
}

/// How much of the text is whole lines: without a last one that has no newline, or else one that is not JSON.
fn whole_lines(text: &[u8]) -> usize {
    let end = memchr::memrchr(b'\n', text).map_or(0, |at| at + 1);
    if end < text.len() || end == 0 {
        return end;
    }
    let start = memchr::memrchr(b'\n', &text[..end - 1]).map_or(0, |at| at + 1);
    let is_json = serde_json::from_slice::<serde::de::IgnoredAny>(&text[start..end]).is_ok();
    if is_json { end } else { start }
}

/// Where the audit log of a state directory is.
#[must_use]
pub fn path(dir: &Path) -> PathBuf {
    dir.join(NAME)
}

/// The first `limit` entries with a number above `after` and below `before`; blocking. Lines that are not entries are
/// passed over.
pub(super) fn read(path: &Path, after: u64, before: u64, limit: usize) -> io::Result<Vec<Entry>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let wanted = |seq: u64| seq > after && seq < before;
    let mut found = Vec::new();
    for line in Lines::new(BufReader::new(file)) {
        let line = line?;
        if found.len() == limit {
            break;
        }
        if seq(&line).is_some_and(|seq| !wanted(seq)) {
            continue; // most of a long file; not worth parsing
        }
        found.extend(serde_json::from_slice(&line).ok().filter(|entry: &Entry| wanted(entry.seq)));
    }
    Ok(found)
}

/// The number of an entry whose line is as this process writes it.
fn seq(line: &[u8]) -> Option<u64> {
    let rest = line.strip_prefix(b"{\"seq\":")?;
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()
}
