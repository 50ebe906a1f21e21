//! What operators ask for, on its way to the controller, and what comes back.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::controller::Event;
use super::files::{Nudge, Reloaded};
use super::journal::Durability;
use super::journal::audit::Entry;
use crate::policy::actor::Actor;
use crate::policy::rollout::{Command, Refusal};
pub use crate::snapshot::Scope;

/// Something that an operator wants.
#[derive(Clone, Debug)]
pub struct Order {
    /// Of what.
    pub scope: Scope,
    /// What.
    pub command: Command,
    /// Who wants it.
    pub by: Actor,
    /// Why.
    pub reason: String,
    /// Only if the scope's tag is still one of these.
    pub if_match: Option<Vec<String>>,
}

/// An order that was carried out: it is in force.
#[derive(Clone, Debug)]
pub struct Done {
    /// What it changed; empty if it was so already.
    pub entries: Vec<Arc<Entry>>,
    /// Whether it would survive a restart.
    pub durability: Durability,
}

/// Why an order changed nothing.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Refused {
    /// There is no rollout of this name.
    #[error("there is no rollout `{0}`")]
    NoSuchRollout(String),
    /// There is no route of this name.
    #[error("there is no route named `{0}`")]
    NoSuchRoute(String),
    /// Somebody was faster.
    #[error("it has changed since you looked: its tag is now {current}")]
    Stale {
        /// The tag now.
        current: String,
    },
    /// The rollout's state does not allow it.
    #[error("{}", .refusal.explained(.rollout))]
    Contradicts {
        /// Which rollout.
        rollout: String,
        /// What stands in the way.
        refusal: Refusal,
    },
    /// The verb means nothing for routes or everything.
    #[error("`{0}` is for one rollout")]
    OnlyForRollouts(&'static str),
    /// The process is ending.
    #[error("tidegate is ending")]
    Ending,
}

/// Tells whether a rollout is still what somebody looked at: its version, and the config.
#[must_use]
pub fn tag(version: u64, config_hash: &str) -> String {
    let config = config_hash.get(..8).unwrap_or(config_hash);
    format!("\"{version}-{config}\"")
}

/// The way to the controller, and to those who read files for it.
#[derive(Clone, Debug)]
pub struct Desk {
    events: mpsc::Sender<Event>,
    nudges: mpsc::Sender<Nudge>,
}

impl Desk {
    /// A desk whose orders go into `events`, and whose reloads go into `nudges`.
    #[must_use]
    pub fn new(events: mpsc::Sender<Event>, nudges: mpsc::Sender<Nudge>) -> Self {
        Self { events, nudges }
    }

    /// Has `order` carried out. When this returns, it is in force, and durable as far as [`Done`] says.
    ///
    /// # Errors
    /// When it is refused: nothing has changed then.
    pub async fn ask(&self, order: Order) -> Result<Done, Refused> {
        let (answer, answered) = oneshot::channel();
        self.events.send(Event::Asked(Box::new(order), answer)).await.map_err(|_| Refused::Ending)?;
        answered.await.unwrap_or(Err(Refused::Ending))
    }

    /// Has the config read again. Gives the hash of what is in force then, or what is wrong with the file.
    ///
    /// # Errors
    /// When the process is ending.
    pub async fn reload(&self) -> Result<Reloaded, Refused> {
        let (answer, answered) = oneshot::channel();
        self.nudges.send(Nudge::Reload(Some(answer))).await.map_err(|_| Refused::Ending)?;
        answered.await.map_err(|_| Refused::Ending)
    }
}
