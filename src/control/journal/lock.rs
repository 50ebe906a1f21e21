//! The lock on a state directory: two processes that write one memory would each forget what the other decided.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::{OpenError, plain_file};

/// The file's name. It stays when the process ends; what counts is the lock on it, which the kernel lets go of.
pub(super) const NAME: &str = "lock";

/// Holds the directory for as long as it lives.
#[derive(Debug)]
pub(super) struct Lock {
    /// None where there is no such file and none can be made: on a disk that is full or read-only nobody else can write
    /// either, and a process that cannot remember is better than one that does not serve.
    file: Option<File>,
}

impl Lock {
    /// Takes the directory, or says who has it.
    pub(super) fn take(dir: &Path) -> Result<Self, OpenError> {
        let path = dir.join(NAME);
        plain_file(&path)?;
        let failed = |cause| OpenError::Io { path: path.clone(), cause };
        let Some(file) = open(&path).map_err(failed)? else { return Ok(Self { file: None }) };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(OpenError::InUse { dir: dir.to_owned(), holder: holder(&file) });
            }
            Err(TryLockError::Error(cause)) => return Err(failed(cause)),
        }
        let _ = sign(&file); // only for the words of the error above; on a full disk the lock holds all the same
        Ok(Self { file: Some(file) })
    }

    /// Whether there was no file to lock, so that it has to be tried again before anything is written.
    pub(super) fn is_provisional(&self) -> bool {
        self.file.is_none()
    }
}

/// The file, made if it can be made; `None` if it is not there and the disk takes nothing.
fn open(path: &Path) -> io::Result<Option<File>> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    match options.open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if takes_nothing(&error) => match File::open(path) {
            Ok(file) => Ok(Some(file)), // a lock needs no right to write
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        },
        Err(error) => Err(error),
    }
}

/// Whether the disk is full or read-only: nothing that the config could do better, and it may pass.
#[must_use]
pub fn takes_nothing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ReadOnlyFilesystem | ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing is not enough: a child that is just being started has a copy of the file until it runs its program.
        let _ = self.file.as_ref().map(File::unlock);
    }
}

fn sign(mut file: &File) -> io::Result<()> {
    file.set_len(0)?;
    writeln!(file, "{}", std::process::id())
}

/// The process that has signed the file.
fn holder(file: &File) -> Option<u32> {
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::journal::tests::folder;

    #[test]
    fn a_directory_has_one_holder_and_the_second_is_told_who() {
        let dir = folder();
        let first = Lock::take(dir.path()).unwrap();
        let error = Lock::take(dir.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("by process {}", std::process::id())), "{error}");
        assert!(error.contains("help: "), "{error}");
        drop(first);
        Lock::take(dir.path()).expect("free again");
    }

    #[test]
    fn what_an_earlier_holder_wrote_does_not_matter() {
        let dir = folder();
        std::fs::write(dir.path().join(NAME), "4000000000 and more").unwrap();
        let _held = Lock::take(dir.path()).unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join(NAME)).unwrap(), format!("{}\n", std::process::id()));
    }
}
