//! Tells the controller when something happened in the folders of the config and of the flag file.
//!
//! It watches folders, not files: editors and Kubernetes replace a file by renaming another over it, and a watch on the
//! file would stay with the one that is gone. It says only *that* something happened; what, the controller reads for
//! itself. Behind it stands a slow poll, since events get lost (inotify's queue is bounded) and folders can be replaced.

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;

use super::files::Nudge;

/// Watches folders for as long as it lives.
#[derive(Debug)]
pub struct Watcher {
    notify: Option<RecommendedWatcher>,
    /// What was watched, by path: a folder that was replaced has another identity.
    watched: HashMap<PathBuf, Option<Identity>>,
    /// What happens to files of other names is nobody's business here.
    names: Arc<ArcSwap<Vec<OsString>>>,
}

impl Watcher {
    /// Watches `folders` for what happens to files of these `names`, or to links and folders, and sends [`Nudge::Changed`]. Where the system has no events left, the poll has to do.
    #[must_use]
    pub fn new(folders: Vec<PathBuf>, names: Vec<OsString>, events: mpsc::Sender<Nudge>) -> Self {
        let names = Arc::new(ArcSwap::from_pointee(names));
        let concerning = Arc::clone(&names);
        let handler = move |event: notify::Result<notify::Event>| {
            if event.map_or(true, |event| may_be_a_change(event.kind) && concerns(&event, &concerning.load())) {
                // A full queue holds one already that will make the controller look.
                let _one_is_waiting = events.try_send(Nudge::Changed);
            }
        };
        let notify = notify::recommended_watcher(handler)
            .inspect_err(|error| tracing::warn!(%error, "no file events; files are polled instead"))
            .ok();
        let watched = folders.into_iter().map(|folder| (folder, None)).collect();
        let mut watcher = Self { notify, watched, names };
        watcher.renew();
        watcher
    }

    /// From now on it is about these folders and names.
    pub fn follow(&mut self, folders: Vec<PathBuf>, names: Vec<OsString>) {
        if **self.names.load() != names {
            self.names.store(Arc::new(names));
        }
        let gone: Vec<PathBuf> = self.watched.keys().filter(|folder| !folders.contains(folder)).cloned().collect();
        for folder in gone {
            self.watched.remove(&folder);
            if let Some(notify) = &mut self.notify {
                let _it_may_be_gone_already = notify.unwatch(&folder);
            }
        }
        for folder in folders {
            self.watched.entry(folder).or_default();
        }
    }

    /// Watches again what has been replaced or has come back since the last call.
    pub fn renew(&mut self) {
        let Some(notify) = &mut self.notify else { return };
        for (folder, watched) in &mut self.watched {
            let found = identity(folder);
            if found == *watched {
                continue;
            }
            let _it_may_be_gone_already = notify.unwatch(folder);
            *watched = found.filter(|_| watch(notify, folder));
        }
    }
}

/// Tells a folder from another one at the same path: its device and inode.
pub(super) type Identity = (u64, u64);

/// The identity of what is at `path`, if there is anything.
pub(super) fn identity(path: &Path) -> Option<Identity> {
    std::fs::metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

fn watch(notify: &mut RecommendedWatcher, folder: &Path) -> bool {
    match notify.watch(folder, RecursiveMode::NonRecursive) {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(folder = %folder.display(), %error, "cannot watch the folder; it is polled instead");
            false
        }
    }
}

/// Whether the event is about one of `names` or may be behind one: Kubernetes changes `..data`, which our file leads
/// through. A log that is written beside the config is nobody's business here.
fn concerns(event: &notify::Event, names: &[OsString]) -> bool {
    let is_ours = |path: &PathBuf| {
        path.file_name().is_none_or(|name| {
            names.iter().any(|ours| ours == name) || name.as_encoded_bytes().starts_with(b"..") || path.is_dir()
        })
    };
    event.paths.is_empty() || event.paths.iter().any(is_ours) || event.need_rescan()
}

/// Reading a file is an event too, and we read it ourselves.
fn may_be_a_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(access) => access == AccessKind::Close(AccessMode::Write),
        _ => true,
    }
}
