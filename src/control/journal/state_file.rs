//! The state file: one header line that says what follows and its checksum, then JSON. It is replaced whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::audit::{Entry, Head, hex_sha256};

/// The file's name.
pub(super) const NAME: &str = "state.json";
/// Where the next one is written until it is whole.
const TEMPORARY: &str = ".state.json.tmp";
/// A larger file is not ours, in bytes.
const MAX_SIZE: u64 = 16 * 1024 * 1024;
/// The first word of the header.
const FORMAT: &str = "tidegate-state";
/// The version that is written, and the only one that is read.
const VERSION: &str = "1";
/// How many corrupt files are kept.
const KEPT: usize = 4;

/// What the file holds: the state, and what the audit log may not have yet.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Stored<T, E = Entry> {
    /// The end of the audit log's chain.
    pub(super) head: Head,
    /// The last entries of it, in order; those of them that the log lacks are to be appended.
    pub(super) unlogged: Vec<E>,
    /// The state itself.
    pub(super) state: T,
}

/// What a look at the file gave.
#[derive(Debug)]
pub(super) enum Reading<T> {
    Nothing,
    Stored(Stored<T>),
    Corrupt { aside: PathBuf, why: String },
    Unreadable { why: String },
}

/// The state file of one directory.
#[derive(Debug)]
pub(super) struct StateFile {
    dir: PathBuf,
}

impl StateFile {
    pub(super) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    fn path(&self) -> PathBuf {
        self.dir.join(NAME)
    }

    /// Reads it. What is there and is not a whole state is moved aside, so that nobody mistakes it for one later.
    pub(super) fn read<T: DeserializeOwned>(&self) -> Reading<T> {
        let text = match read_bounded(&self.path()) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Reading::Nothing,
            Err(error) => return Reading::Unreadable { why: error.to_string() },
        };
        let why = match parse(&text) {
            Ok(stored) => return Reading::Stored(stored),
            Err(why) => why,
        };
        match self.move_aside() {
            Ok(aside) => Reading::Corrupt { aside, why },
            Err(error) => {
                Reading::Corrupt { aside: self.path(), why: format!("{why}; it cannot be moved aside either: {error}") }
            }
        }
    }

    /// Replaces the file. When this fails, the old one is as it was, or (if only the last step failed) the new one is
    /// there and may not outlive a power cut.
    pub(super) fn write<T: Serialize>(&self, stored: &Stored<&T, impl Serialize>) -> io::Result<()> {
        let text = compose(stored)?;
        let temporary = self.dir.join(TEMPORARY);
        let replaced = write_new(&temporary, &text).and_then(|()| fs::rename(&temporary, self.path()));
        if replaced.is_err() {
            let _ = fs::remove_file(&temporary); // it takes room on a disk that may be full; a leftover does no harm
        }
        replaced?;
        sync_dir(&self.dir)
    }

    /// Renames the file to the first free name of a few. When there is none, the oldest is given up.
    fn move_aside(&self) -> io::Result<PathBuf> {
        let names: Vec<PathBuf> = (0..KEPT).map(|n| self.aside(n)).collect();
        let aside = match names.iter().find(|path| path.symlink_metadata().is_err()) {
            Some(free) => free,
            None => {
                for pair in names.windows(2) {
                    fs::rename(&pair[1], &pair[0])?;
                }
                &names[KEPT - 1]
            }
        };
        fs::rename(self.path(), aside)?;
        sync_dir(&self.dir)?;
        Ok(aside.clone())
    }

    fn aside(&self, n: usize) -> PathBuf {
        self.dir.join(if n == 0 { format!("{NAME}.corrupt") } else { format!("{NAME}.corrupt.{n}") })
    }
}

/// Makes sure that what was renamed or created in the directory stays so.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn write_new(path: &Path, text: &[u8]) -> io::Result<()> {
    // Removed, not overwritten: a link there would lead the write elsewhere.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text)?;
    file.sync_all()
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(path)?.take(MAX_SIZE + 1).read_to_end(&mut text)?;
    Ok(text)
}

fn compose<T: Serialize>(stored: &Stored<&T, impl Serialize>) -> io::Result<Vec<u8>> {
    let mut body = serde_json::to_vec(stored)?;
    body.push(b'\n');
    let mut text = format!("{FORMAT} {VERSION} {}\n", hex_sha256(&body)).into_bytes();
    text.append(&mut body);
    if text.len() as u64 > MAX_SIZE {
        return Err(io::Error::other(format!("the state has {} bytes; no more than {MAX_SIZE} are kept", text.len())));
    }
    Ok(text)
}

/// What the text says, or why it cannot be taken.
fn parse<T: DeserializeOwned>(text: &[u8]) -> Result<Stored<T>, String> {
    if text.is_empty() {
        return Err("it is empty".to_owned());
    }
    if text.len() as u64 > MAX_SIZE {
        return Err(format!("it is larger than {MAX_SIZE} bytes"));
    }
    let end = memchr::memchr(b'\n', text).ok_or("it has no header line")?;
    let header = std::str::from_utf8(&text[..end]).map_err(|_| "its header is not text")?;
    let body = &text[end + 1..];
    let words: Vec<&str> = header.split(' ').collect();
    let &[FORMAT, version, checksum] = words.as_slice() else {
        return Err("its header is not that of a state file".to_owned());
    };
    if version != VERSION {
        return Err(format!("it is of version {version:?}, and this tidegate reads version {VERSION}"));
    }
    if checksum != hex_sha256(body) {
        return Err("its checksum is not the one in its header: it was cut short or changed".to_owned());
    }
    serde_json::from_slice(body).map_err(|error| format!("it does not say what a state says: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::journal::tests::folder;

    fn stored(state: &u64) -> Stored<&u64> {
        Stored { head: Head::default(), unlogged: Vec::new(), state }
    }

    fn written() -> (tempfile::TempDir, StateFile, Vec<u8>) {
        let dir = folder();
        let file = StateFile::new(dir.path());
        file.write(&stored(&7)).unwrap();
        let text = fs::read(file.path()).unwrap();
        (dir, file, text)
    }

    /// Why a file with this text is not taken; it has to be aside then, as it was.
    fn why_corrupt(file: &StateFile, text: &[u8]) -> String {
        fs::write(file.path(), text).unwrap();
        let Reading::Corrupt { aside, why } = file.read::<u64>() else { panic!("taken: {}", text.escape_ascii()) };
        assert_eq!(fs::read(&aside).unwrap(), text);
        assert!(matches!(file.read::<u64>(), Reading::Nothing));
        fs::remove_file(aside).unwrap();
        why
    }

    #[test]
    fn what_is_written_is_read() {
        let (dir, file, text) = written();
        assert!(matches!(file.read::<u64>(), Reading::Stored(Stored { state: 7, .. })));
        assert!(text.starts_with(b"tidegate-state 1 "), "{}", text.escape_ascii());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let mode = std::os::unix::fs::PermissionsExt::mode(&file.path().metadata().unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_leftover_of_a_write_is_overwritten_and_a_link_in_its_place_not_followed() {
        let (dir, file, _) = written();
        fs::write(dir.path().join(TEMPORARY), "left over by kill -9, and longer than ".repeat(100)).unwrap();
        file.write(&stored(&8)).unwrap();
        let elsewhere = dir.path().join("elsewhere");
        fs::write(&elsewhere, "precious").unwrap();
        std::os::unix::fs::symlink(&elsewhere, dir.path().join(TEMPORARY)).unwrap();
        file.write(&stored(&9)).unwrap();
        assert!(matches!(file.read::<u64>(), Reading::Stored(Stored { state: 9, .. })));
        assert_eq!(fs::read_to_string(elsewhere).unwrap(), "precious");
    }

    #[test]
    fn a_file_cut_at_any_length_is_corrupt() {
        let (_dir, file, text) = written();
        for length in 0..text.len() {
            why_corrupt(&file, &text[..length]);
        }
    }

    #[test]
    fn a_file_with_any_byte_changed_is_corrupt() {
        let (_dir, file, text) = written();
        for at in 0..text.len() {
            let mut changed = text.clone();
            for byte in (0..=255).filter(|byte| *byte != text[at]) {
                changed[at] = byte;
                assert!(parse::<u64>(&changed).is_err(), "taken: {}", changed.escape_ascii());
            }
            why_corrupt(&file, &changed);
        }
    }

    #[test]
    fn it_is_told_what_is_wrong() {
        let (_dir, file, text) = written();
        let with_body = |body: &str| format!("{FORMAT} 1 {}\n{body}", hex_sha256(body.as_bytes())).into_bytes();
        let future = String::from_utf8(text.clone()).unwrap().replacen(" 1 ", " 2 ", 1).into_bytes();
        let large = vec![b' '; usize::try_from(MAX_SIZE).unwrap() + 1];
        for (text, words) in [
            (Vec::new(), "it is empty"),
            (future, "it is of version \"2\", and this tidegate reads version 1"),
            (with_body("{}"), "it does not say what a state says: missing field"),
            (with_body("no json"), "it does not say what a state says: expected"),
            ([&text[..], b" "].concat(), "its checksum"),
            (b"{}\n".to_vec(), "its header is not that of a state file"),
            (large, "it is larger than"),
        ] {
            let why = why_corrupt(&file, &text);
            assert!(why.starts_with(words), "{why}");
        }
    }

    #[test]
    fn a_few_corrupt_files_are_kept_and_the_newest_always() {
        let (dir, file, _) = written();
        for n in 0..7 {
            fs::write(file.path(), format!("corrupt {n}")).unwrap();
            assert!(matches!(file.read::<u64>(), Reading::Corrupt { .. }));
        }
        let kept: Vec<String> = (0..KEPT).map(|n| fs::read_to_string(file.aside(n)).unwrap()).collect();
        assert_eq!(kept, ["corrupt 3", "corrupt 4", "corrupt 5", "corrupt 6"]);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), KEPT);
    }

    #[test]
    fn a_state_that_could_not_be_read_again_is_not_written() {
        let (_dir, file, text) = written();
        let large = "x".repeat(usize::try_from(MAX_SIZE).unwrap());
        let stored: Stored<&String> = Stored { head: Head::default(), unlogged: Vec::new(), state: &large };
        assert!(file.write(&stored).unwrap_err().to_string().starts_with("the state has 16777"));
        assert_eq!(fs::read(file.path()).unwrap(), text);
    }

    #[test]
    fn what_cannot_be_read_stays_where_it_is() {
        let dir = folder();
        let file = StateFile::new(dir.path());
        fs::create_dir(file.path()).unwrap(); // reading it fails, for root too
        assert!(matches!(file.read::<u64>(), Reading::Unreadable { .. }));
        assert!(file.path().is_dir());
    }
}
