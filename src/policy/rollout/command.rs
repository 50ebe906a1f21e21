//! What an operator can ask of a rollout.

use std::time::Duration;

use crate::policy::bucket::Percent;
use crate::policy::decision::Side;
use crate::policy::standing::{Hold, Maintenance};

/// What an operator can ask of a rollout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Put a percent over the configured one.
    Set {
        /// The share on NEW.
        percent: Percent,
        /// Also if that raises it while the schedule says no.
        force: bool,
    },
    /// Take the operator's percent away again: the config counts.
    Unset,
    /// Everybody to OLD until somebody resumes.
    Rollback,
    /// Lift the rollback.
    Resume {
        /// Come back at this percent instead of the one before.
        percent: Option<Percent>,
    },
    /// The ramp's next step.
    Promote {
        /// To 100 % at once.
        full: bool,
        /// Also while the schedule says no.
        force: bool,
    },
    /// Stop the ramp where it stands.
    Pause,
    /// Let it go on.
    Continue,
    /// The other colour.
    Switch {
        /// To the one that served before.
        back: bool,
        /// What the look at the target found.
        gate: Gate,
    },
    /// Turn the public away, or not any more.
    Maintenance(Option<Maintenance>),
    /// Make requests wait, or not any more.
    Hold(Option<Hold>),
    /// Empty a side, or let it work again.
    Drain {
        /// The side; `None` ends a drain.
        side: Option<Side>,
        /// After how long what still runs is cut off.
        cut_in: Option<Duration>,
    },
}

/// What the look at the target of a switch found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gate {
    /// Every endpoint answers.
    Passed,
    /// Something is wrong with it.
    Failed(String),
    /// Something is wrong with it, and somebody said to switch all the same; or nobody looked.
    Forced,
}

impl Command {
    /// The verb, as in the audit log.
    #[must_use]
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Set { .. } => "set",
            Self::Unset => "unset",
            Self::Rollback => "rollback",
            Self::Resume { .. } => "resume",
            Self::Promote { .. } => "promote",
            Self::Pause => "pause",
            Self::Continue => "continue",
            Self::Switch { .. } => "switch",
            Self::Maintenance(_) => "maintenance",
            Self::Hold(_) => "hold",
            Self::Drain { .. } => "drain",
        }
    }
}
