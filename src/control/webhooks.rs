//! Tells others of changes, by a POST each ([Standard Webhooks](https://www.standardwebhooks.com)).
//!
//! What has been announced is put into the queue of each webhook that wants to know (`target`), which waits for nobody: a
//! webhook that is dead delays neither a change nor another webhook. A queue is bounded (`line`), in memory, and in the
//! order of the changes; what is lost is counted. `message` and `signature` make what is sent, `retry` says how it goes
//! on when it is not taken.

mod line;
mod message;
mod retry;
mod signature;
mod target;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::AbortHandle;

pub use self::target::Health;
use self::target::Target;
use super::journal::audit::Entry;
use super::outbound::Client;
use crate::config::{self, WebhookEvent};
use crate::metrics::{Delivery, Registry};

/// How long a webhook may take to take a message.
const PATIENCE: Duration = Duration::from_secs(5);

/// All that are told of changes.
#[derive(Debug)]
pub struct Webhooks {
    running: Mutex<Vec<Running>>,
    client: Client,
    registry: Arc<Registry>,
    instance: Arc<str>,
}

/// A webhook and its task, which ends when this is dropped.
#[derive(Debug)]
struct Running {
    target: Arc<Target>,
    task: AbortHandle,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A webhook, as status shows it.
#[derive(Clone, Debug)]
pub struct Shown {
    /// Its name.
    pub name: String,
    /// `scheme://host:port`, and no more of its URL.
    pub url: String,
    /// What it is told of.
    pub events: Vec<WebhookEvent>,
    /// Messages that wait or are on their way.
    pub queued: u64,
    /// Messages that ended, since the process started, by [`Delivery::ALL`].
    pub deliveries: [u64; 3],
    /// How it is doing.
    pub health: Health,
}

impl Webhooks {
    /// Nobody yet. What happens is counted in `registry`.
    #[must_use]
    pub fn new(registry: Arc<Registry>) -> Self {
        Self { running: Mutex::default(), client: Client::new(), registry, instance: hostname().into() }
    }

    /// From now on these are told. What waits for others is dropped; one that is `wanted` as it is keeps what waits for it.
    pub fn follow(&self, wanted: &[config::Webhook]) {
        let mut running = self.running();
        let mut before = std::mem::take(&mut *running);
        let stay = |hook: &config::Webhook, before: &mut Vec<Running>| {
            let at = before.iter().position(|running| running.target.hook == *hook)?;
            Some(before.swap_remove(at))
        };
        let stayed: Vec<Option<Running>> = wanted.iter().map(|hook| stay(hook, &mut before)).collect();
        before.iter().for_each(|gone| gone.target.drop_all());
        drop(before);
        *running = wanted.iter().zip(stayed).map(|(hook, stayed)| stayed.unwrap_or_else(|| self.start(hook))).collect();
    }

    fn start(&self, hook: &config::Webhook) -> Running {
        let meters = self.registry.webhook(&hook.name);
        let target = Arc::new(Target::new(hook.clone(), Arc::clone(&self.instance), meters));
        let client = self.client.clone();
        let post = move |request| {
            let client = client.clone();
            async move { client.send(request, PATIENCE).await }
        };
        let task = tokio::spawn(Arc::clone(&target).run(post)).abort_handle();
        Running { target, task }
    }

    /// Has everybody told of `entry` who wants to know. Never waits.
    pub fn tell(&self, entry: &Arc<Entry>) {
        self.running().iter().for_each(|running| running.target.tell(entry));
    }

    /// All of them, in the order of the config.
    #[must_use]
    pub fn shown(&self) -> Vec<Shown> {
        let shown = |Running { target, .. }: &Running| Shown {
            name: target.hook.name.clone(),
            url: target.hook.url.to_string(),
            events: target.hook.events.clone(),
            queued: target.meters.queued(),
            deliveries: Delivery::ALL.map(|delivery| target.meters.deliveries(delivery)),
            health: target.health(),
        };
        self.running().iter().map(shown).collect()
    }

    /// Gives those who take messages time `within` which to take what waits for them, and tells nobody any more.
    pub async fn finish(&self, within: Duration) {
        let targets: Vec<Arc<Target>> = self.running().iter().map(|running| Arc::clone(&running.target)).collect();
        let settled = async {
            for target in &targets {
                target.settled().await;
            }
        };
        let _what_waits_is_told_below = tokio::time::timeout(within, settled).await;
        self.running().clear();
        for target in targets.iter().filter(|target| target.meters.queued() > 0) {
            let (webhook, queued) = (&target.hook.name, target.meters.queued());
            tracing::warn!(webhook, queued, "the process ends, and what is queued is not told");
        }
    }

    fn running(&self) -> MutexGuard<'_, Vec<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The machine's name, or the container's; empty if the system does not tell.
fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}
