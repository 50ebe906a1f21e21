//! What operators ask for, on its way to the controller, and what comes back.

use std::fmt;

use tokio::sync::{mpsc, oneshot};

use super::controller::Event;
use super::journal::{Durability, Entry};
use crate::policy::actor::Actor;
use crate::policy::rollout::{Command, Refusal};

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

/// What an order is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Every rollout, or all requests.
    Everything,
    /// A rollout, by name.
    Rollout(String),
    /// A route, by name.
    Route(String),
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everything => f.write_str("*"),
            Self::Rollout(name) => f.write_str(name),
            Self::Route(name) => write!(f, "route:{name}"),
        }
    }
}

/// An order that was carried out: it is in force.
#[derive(Clone, Debug)]
pub struct Done {
    /// What it changed; empty if it was so already.
    pub entries: Vec<Entry>,
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

/// How an attempt to read the config ended.
pub type Reloaded = Result<String, String>;

/// The way to the controller.
#[derive(Clone, Debug)]
pub struct Desk(mpsc::Sender<Event>);

impl Desk {
    /// A desk whose orders go into `events`.
    #[must_use]
    pub fn new(events: mpsc::Sender<Event>) -> Self {
        Self(events)
    }

    /// Has `order` carried out. When this returns, it is in force, and durable as far as [`Done`] says.
    ///
    /// # Errors
    /// When it is refused: nothing has changed then.
    pub async fn ask(&self, order: Order) -> Result<Done, Refused> {
        let (answer, answered) = oneshot::channel();
        self.0.send(Event::Asked(Box::new(order), answer)).await.map_err(|_| Refused::Ending)?;
        answered.await.unwrap_or(Err(Refused::Ending))
    }

    /// Has the config read again. Gives the hash of what is in force then, or what is wrong with the file.
    ///
    /// # Errors
    /// When the process is ending.
    pub async fn reload(&self, by: Actor) -> Result<Reloaded, Refused> {
        let (answer, answered) = oneshot::channel();
        self.0.send(Event::ReloadAsked(Some((by, answer)))).await.map_err(|_| Refused::Ending)?;
        answered.await.map_err(|_| Refused::Ending)
    }
}
