//! What the admin API answers to those who change something, as types: the API writes them, the command line reads them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::status::RolloutStatus;
use crate::control::journal::Durability;
use crate::control::journal::audit::Entry;

/// Something was changed, or was so already.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Changed {
    /// What changed, in order, as the audit log has it; empty if it was so already.
    pub changes: Vec<Entry>,
    /// Whether it would survive a restart.
    pub durable: bool,
    /// What else has to be known: above all, why it would not.
    pub warning: Option<String>,
    /// The rollout after the change, if the change was one rollout's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutStatus>,
}

/// The config was read again and is in force.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Reloaded {
    /// What the config changed; empty if it says again what was in force.
    pub changes: Vec<Entry>,
    /// Whether it would survive a restart.
    pub durable: bool,
    /// Why it would not, and which keys change only with a restart.
    pub warning: Option<String>,
    /// The hash of the config in force.
    pub hash: String,
    /// Keys whose change waits for a restart.
    pub needs_restart: Vec<String>,
}

/// The config in force.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ShownConfig {
    /// The file.
    pub path: String,
    /// xxh3 of its bytes, 16 hex digits.
    pub hash: String,
    /// What it says, as it is written: `${VAR}` is not filled in, files are named and not read, and passwords in URLs are
    /// masked, as is what follows the host of a webhook's.
    pub config: serde_json::Value,
}

/// The name and version of the program.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Version {
    /// `tidegate`
    pub name: String,
    /// Its version.
    pub version: String,
}

/// A part of the audit log.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct AuditPage {
    /// Entries, oldest first.
    pub entries: Vec<Entry>,
    /// What to ask for `after` to read on.
    pub next: u64,
}

/// Whether what is in force would survive a restart, and if not, why: in words for people.
#[must_use]
pub fn durability(durability: &Durability) -> (bool, Option<String>) {
    match durability {
        Durability::Durable => (true, None),
        Durability::NotDurable { why, .. } => (false, Some(why.clone())),
        Durability::NoStateDir => (false, Some("there is no state_dir in the config".to_owned())),
    }
}
