//! Why a command changes nothing.

use std::fmt;

use crate::policy::decision::Side;
use crate::policy::latch::{Door, Latch};

/// Why a command changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is rolled back.
    RolledBack(Box<Latch>),
    /// It cannot be resumed while a file asks for the rollback.
    StillAsked(Box<Latch>),
    /// A side is being emptied that would get work.
    Drained(Side),
    /// It may not be raised now.
    Frozen,
    /// It is no rollout of the kind for which there is this verb.
    WrongStrategy {
        /// What there is the verb for.
        needs: &'static str,
        /// What could be done instead.
        instead: &'static str,
    },
    /// There is nothing to go on or back to.
    Nowhere(&'static str),
    /// The target of a switch is not fit to serve.
    Gate(String),
}

impl Refusal {
    /// The words for the rollout `name`: what stands in the way, and the verb that takes it away.
    #[must_use]
    pub fn explained(&self, name: &str) -> String {
        match self {
            Self::RolledBack(latch) => {
                let undo = undo(latch.door, name);
                format!("{name} is rolled back by latch {}{}. Lift it first: {undo}", latch.id, because(&latch.reason))
            }
            Self::StillAsked(latch) => {
                let undo = undo(latch.door, name);
                format!("Latch {} is still asked for{}. Lift it there: {undo}", latch.id, because(&latch.reason))
            }
            Self::Drained(side) => format!(
                "The {side} side of {name} is being drained, and this would send it work. End the drain first: \
                 tidegate drain {name} off",
                side = side.as_str()
            ),
            Self::Frozen => format!(
                "The schedule of {name} does not allow raising it now. Wait, or set, promote or switch it with --force: \
                 that is recorded"
            ),
            Self::WrongStrategy { needs, instead } => {
                format!("{name} is not a {needs} rollout. {instead}", instead = instead.replace("NAME", name))
            }
            Self::Nowhere(why) => format!("{name}: {}", why.replace("NAME", name)),
            Self::Gate(why) => format!(
                "{name} was not switched: {why}. Mend the target, or switch all the same with --force: that is recorded"
            ),
        }
    }
}

/// The reason in brackets, if there is one.
fn because(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(" ({reason})") }
}

/// What takes a file's request for a rollback away.
fn undo(door: Door, name: &str) -> String {
    match door {
        Door::Config => "write `rollback: false` at the top of the config".to_owned(),
        Door::ConfigRollout => format!("write `rollback: false` for {name} in the config"),
        Door::FlagFile => "remove the file ROLLBACK from the state directory".to_owned(),
        Door::Operator | Door::Guard | Door::Deadline | Door::State => format!("tidegate resume {name} --reason TEXT"),
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.explained("the rollout"))
    }
}
