//! The file `ROLLBACK` in the state directory: the door for `touch` over ssh, when nothing else answers.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// The file's name.
pub const NAME: &str = "ROLLBACK";
/// More than this is not read; such a file means everything.
const MAX_SIZE: u64 = 64 * 1024;

/// What the flag file asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Flag {
    /// There is none.
    #[default]
    Absent,
    /// Everything to OLD.
    All,
    /// These rollouts to OLD.
    Named(BTreeSet<String>),
}

impl Flag {
    /// What a file with this content asks for. Its lines name rollouts; blank lines and `#` comments do not count, and a
    /// file without names means everything.
    #[must_use]
    pub fn parse(content: &[u8]) -> Self {
        let Ok(text) = std::str::from_utf8(content) else { return Self::All };
        let names: BTreeSet<String> = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(str::to_owned)
            .collect();
        if names.is_empty() { Self::All } else { Self::Named(names) }
    }

    /// Reads the flag file in `state_dir`; `None` if the folder itself is gone, which says nothing about what anybody wants.
    /// A file that is there but cannot be read means everything: whoever put it there
    /// wanted out, and OLD is the side that is known to work.
    #[must_use]
    pub fn read(state_dir: &Path) -> Option<Self> {
        let path = Self::path(state_dir);
        match std::fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => state_dir.is_dir().then_some(Self::Absent),
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => None,
            Ok(found) if found.is_file() => {
                Some(Self::read_file(&path).map_or(Self::All, |content| Self::parse(&content)))
            }
            Ok(_) | Err(_) => Some(Self::All),
        }
    }

    fn read_file(path: &Path) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        std::fs::File::open(path)?.take(MAX_SIZE + 1).read_to_end(&mut content)?;
        if content.len() as u64 > MAX_SIZE {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(content)
    }

    /// Where it is looked for.
    #[must_use]
    pub fn path(state_dir: &Path) -> PathBuf {
        state_dir.join(NAME)
    }

    /// Whether it rolls back the rollout `name`, given all there are. A name that nobody knows is a typing error at four
    /// in the morning: it means everything.
    #[must_use]
    pub fn covers<'a>(&self, name: &str, mut known: impl Iterator<Item = &'a str>) -> bool {
        match self {
            Self::Absent => false,
            Self::All => true,
            Self::Named(names) => {
                names.contains(name) || {
                    let known: BTreeSet<&str> = known.by_ref().collect();
                    names.iter().any(|name| !known.contains(name.as_str()))
                }
            }
        }
    }
}

impl std::fmt::Display for Flag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Absent => f.write_str("nothing: there is no such file"),
            Self::All => f.write_str("everything to old"),
            Self::Named(names) => {
                write!(f, "to old: {}", names.iter().map(String::as_str).collect::<Vec<_>>().join(", "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covered(content: &str) -> Vec<&'static str> {
        let known = ["cards", "ledger"];
        let flag = Flag::parse(content.as_bytes());
        known.into_iter().filter(|name| flag.covers(name, known.into_iter())).collect()
    }

    #[test]
    fn a_flag_covers_what_it_names_and_everything_when_in_doubt() {
        for (content, rolled_back) in [
            ("", &["cards", "ledger"][..]),
            ("\n# why: INC-7\n", &["cards", "ledger"]),
            ("ledger\n", &["ledger"]),
            (" ledger \r\ncards", &["cards", "ledger"]),
            ("legder\n", &["cards", "ledger"]),
        ] {
            assert_eq!(covered(content), rolled_back, "{content:?}");
        }
        assert_eq!(Flag::parse(b"\xff\xfe"), Flag::All);
    }

    #[test]
    fn what_is_there_but_cannot_be_read_means_everything() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Flag::read(dir.path()), Some(Flag::Absent));
        assert_eq!(Flag::read(&dir.path().join("missing")), None, "a folder that is gone has no opinion");
        std::fs::create_dir(dir.path().join(NAME)).unwrap();
        assert_eq!(Flag::read(dir.path()), Some(Flag::All));
    }
}
