//! A latch: a rollback that stays until it is lifted.
//!
//! There are many doors and one latch behind each. What a file asked for is lifted by the opposite in the same file: by
//! `rollback: false` where `true` stood, by removing the flag file. That a line has vanished lifts nothing: a pipeline that
//! applies an older file has not asked for it. Every latch can be lifted by `resume`, once no file asks for it any more.

use std::time::SystemTime;

use super::actor::Actor;

/// A rollback that stays until it is lifted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Latch {
    /// `ROLLOUT-NUMBER`, never used twice while the state directory lasts.
    pub id: String,
    /// Through which door it came.
    pub door: Door,
    /// Since when.
    pub at: SystemTime,
    /// Who asked.
    pub by: Actor,
    /// Why.
    pub reason: String,
}

/// The doors of a rollback.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Door {
    /// `rollback: true` of the whole file.
    Config,
    /// `rollback: true` of this rollout.
    ConfigRollout,
    /// The file `ROLLBACK` in the state directory.
    FlagFile,
    /// Somebody, over the admin API.
    Operator,
    /// The guard.
    Guard,
    /// A deadline.
    Deadline,
    /// The state file could not be believed: what was in force is not known, and OLD is known to work.
    State,
}

impl Door {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Config, Self::ConfigRollout, Self::FlagFile, Self::Operator, Self::Guard, Self::Deadline, Self::State];

    /// The name in the state file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::ConfigRollout => "config_rollout",
            Self::FlagFile => "flag_file",
            Self::Operator => "operator",
            Self::Guard => "guard",
            Self::Deadline => "deadline",
            Self::State => "state",
        }
    }

    /// The name in status: both doors of the config are one there.
    #[must_use]
    pub fn source(self) -> &'static str {
        match self {
            Self::ConfigRollout => Self::Config.as_str(),
            other => other.as_str(),
        }
    }
}
