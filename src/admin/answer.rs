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
    /// The hash of the config in force.
    pub hash: String,
    /// Keys whose change waits for a restart.
    pub needs_restart: Vec<String>,
}

/// A part of the audit log.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct AuditPage {
    /// Entries, oldest first.
    pub entries: Vec<Entry>,
    /// What to ask for `after` to read on.
    pub next: u64,
}

/// Whether something durable is so, and if not, why: in words for people.
#[must_use]
pub fn durability(durability: &Durability) -> (bool, Option<String>) {
    match durability {
        Durability::Durable => (true, None),
        Durability::NotDurable { why, .. } => (
            false,
            Some(format!("It is in force, but could not be written down and would not survive a restart: {why}")),
        ),
        Durability::NoStateDir => {
            (false, Some("It is in force, but there is no state_dir, so it would not survive a restart".to_owned()))
        }
    }
}
