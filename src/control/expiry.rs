//! Warns of certificates before they expire, once a day each.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::SystemTime;

use crate::config::Keyring;

/// How many days were left of each certificate when it was last warned of.
#[derive(Debug, Default)]
pub struct Expiry {
    told: BTreeMap<PathBuf, i64>,
}

impl Expiry {
    /// Warns of what expires soon, unless that has been told today.
    pub fn look(&mut self, keyring: &Keyring, now: SystemTime) {
        for (path, certificate) in keyring.certificates() {
            let days = certificate.days_left(now);
            if !certificate.expires_soon(now) {
                self.told.remove(path);
            } else if self.told.insert(path.to_owned(), days) != Some(days) {
                let path = path.display();
                match days {
                    ..0 => tracing::error!(%path, "this certificate has expired: clients refuse it"),
                    _ => tracing::warn!(%path, days, "this certificate expires soon"),
                }
            }
        }
    }
}
