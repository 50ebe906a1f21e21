//! Tells what has changed, once it is durable: whoever asked for it gets an answer, whoever listens gets the entries, and so do
//! the webhooks.
//!
//! In the order of the changes, and without making the controller wait for a disk.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::journal::Commit;
use super::order::{Done, Refused};
use super::overview::Overview;

/// Where an answer to an operator goes.
pub type Answer = oneshot::Sender<Result<Done, Refused>>;

/// Announces one commit after the other.
#[derive(Debug)]
pub struct Announcer(mpsc::UnboundedSender<(Commit, Option<Answer>)>);

impl Announcer {
    /// Starts announcing to all who listen to [`Overview::changes`], and to [`Overview::webhooks`].
    #[must_use]
    pub fn start(overview: Arc<Overview>) -> Self {
        let (sender, mut commits) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some((commit, answer)) = commits.recv().await {
                announce(commit, answer, &overview).await;
            }
        });
        Self(sender)
    }

    /// Announces `commit` when it is durable, and answers whoever asked for it.
    pub fn announce(&self, commit: Commit, answer: Option<Answer>) {
        let _the_task_ends_with_the_runtime = self.0.send((commit, answer));
    }
}

async fn announce(commit: Commit, answer: Option<Answer>, overview: &Overview) {
    let entries = commit.entries.clone();
    let durability = commit.outcome().await; // a disk that hangs is waited for for 2 s; the change is in force all the while
    for entry in &entries {
        overview.webhooks.tell(entry);
        let _nobody_may_be_listening = overview.changes.send(Arc::clone(entry));
    }
    if let Some(answer) = answer {
        let _whoever_asked_may_have_left = answer.send(Ok(Done { entries, durability }));
    }
}
