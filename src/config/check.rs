//! From what was written to what is true. Each section has its own conversion; each notes all that is wrong with it and
//! gives nothing then, so that one run tells everything and a config with any fault is never used.

mod admin;
mod backends;
mod dns;
mod guard;
mod maintenance;
mod queries;
mod rollouts;
mod routes;
mod rules;
mod schedule;
mod server;
mod shield;
mod strategy;
mod tls;
mod webhooks;

use std::path::Path;

use super::document::Place;
use super::error::Complaint;
use super::fault::Faults;
use super::{Config, Keyring, raw, value};

/// What is known while a config is checked, and the complaints so far.
struct Checker<'a> {
    /// Where relative paths start.
    folder: &'a Path,
    faults: &'a mut Faults,
    /// What the files of TLS hold.
    keyring: Keyring,
    /// What they held before.
    before: &'a Keyring,
}

/// Checks everything. `None` after at least one complaint.
pub(super) fn check(
    raw: &raw::Raw,
    folder: &Path,
    hash: String,
    before: &Keyring,
    faults: &mut Faults,
) -> Option<Config> {
    let mut checker = Checker { folder, faults, keyring: Keyring::default(), before };
    let config = checker.config(raw, hash);
    config.filter(|_| checker.faults.is_empty())
}

impl Checker<'_> {
    fn config(&mut self, raw: &raw::Raw, hash: String) -> Option<Config> {
        let root = Place::default();
        let trusted_proxies = self.trusted_proxies(&raw.trusted_proxies);
        let listeners = self.listeners(raw, &trusted_proxies);
        let admin = self.admin(&raw.admin, &listeners);
        let workers = self.faults.take(&root.key("workers"), value::workers(&raw.workers));
        let state_dir = self.optional_path(&root.key("state_dir"), raw.state_dir.as_deref());
        let dns = self.dns(&raw.dns);
        let maintenance = self.maintenance(&raw.maintenance);
        let hold = self.hold(&raw.hold);
        let shutdown = self.shutdown(&raw.shutdown);
        let timeouts = self.client_timeouts(&raw.timeouts);
        let limits = self.limits(&raw.limits);
        let access_log = self.access_log(raw.access_log.as_deref());
        let webhooks = self.webhooks(&raw.webhooks);
        let written = self.written_rollouts(raw);
        let backends = self.backends(&raw.backends, &written, &listeners);
        let rollouts = self.rollouts(&written, &backends.names);
        let routes = self.routes(raw, &written, &backends.names);
        Some(Config {
            listeners,
            admin: admin?,
            workers: workers?,
            state_dir,
            trusted_proxies,
            dns: dns?,
            rollback: raw.rollback,
            maintenance: maintenance?,
            hold: hold?,
            shutdown: shutdown?,
            timeouts: timeouts?,
            limits: limits?,
            access_log,
            webhooks,
            backends: backends.checked,
            rollouts,
            routes,
            keyring: std::mem::take(&mut self.keyring),
            written: std::sync::Arc::default(),
            hash,
        })
    }

    /// The value at `place`, or `None` after saying that it is missing.
    fn required<'r, T>(&mut self, place: &Place, key: &str, written: Option<&'r T>, allowed: &str) -> Option<&'r T> {
        if written.is_none() {
            let complaint = Complaint::new(format!("`{key}` is missing")).allowed(allowed);
            self.faults.add(place.as_key(), complaint);
        }
        written
    }

    fn networks(&mut self, place: &Place, written: &[String]) -> Vec<crate::policy::network::Network> {
        self.faults.take_all(place, written, |text| value::network(text))
    }

    fn optional_path(&mut self, place: &Place, written: Option<&str>) -> Option<std::path::PathBuf> {
        self.path(place, written?)
    }

    /// A path, relative to the config's folder.
    fn path(&mut self, place: &Place, written: &str) -> Option<std::path::PathBuf> {
        let valid = !written.is_empty() && !written.contains('\0');
        let complaint = || Complaint::new("this is not a path");
        self.faults.take(place, valid.then(|| self.folder.join(written)).ok_or_else(complaint))
    }

    /// The contents of a file that the config names.
    fn file(&mut self, place: &Place, written: &str, most: u64) -> Option<Vec<u8>> {
        let path = self.path(place, written)?;
        let help = || format!("relative paths start at {}", shown(self.folder));
        let contents = super::file::read(&path, most);
        let contents =
            contents.map_err(|error| if Path::new(written).is_relative() { error.help(help()) } else { error });
        self.faults.take(place, contents)
    }
}

fn shown(folder: &Path) -> String {
    match folder.as_os_str().is_empty() {
        true => "the current folder".to_owned(),
        false => folder.display().to_string(),
    }
}
