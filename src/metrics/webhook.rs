//! What became of the messages to a webhook.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What became of a message. Each that was queued ends as one of these, unless the process ends first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// It was taken.
    Delivered,
    /// It was given up.
    Failed,
    /// There were newer ones and no room, or the webhook was taken out of the config.
    Dropped,
}

impl Delivery {
    /// All of them, in the order of the counters.
    pub const ALL: [Self; 3] = [Self::Delivered, Self::Failed, Self::Dropped];

    /// The label's value.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Failed => "failed",
            Self::Dropped => "dropped",
        }
    }
}

/// The meters of a webhook. They are written a few times an hour, by whoever has something to count.
#[derive(Debug, Default)]
pub struct WebhookMeters {
    deliveries: [AtomicU64; 3],
    queued: AtomicU64,
}

impl WebhookMeters {
    /// Adds `n` messages that ended so.
    pub fn count(&self, delivery: Delivery, n: u64) {
        self.deliveries[delivery as usize].fetch_add(n, Relaxed);
    }

    /// How many ended so.
    #[must_use]
    pub fn deliveries(&self, delivery: Delivery) -> u64 {
        self.deliveries[delivery as usize].load(Relaxed)
    }

    /// Notes how many wait or are on their way.
    pub fn set_queued(&self, queued: u64) {
        self.queued.store(queued, Relaxed);
    }

    /// How many wait or are on their way.
    #[must_use]
    pub fn queued(&self) -> u64 {
        self.queued.load(Relaxed)
    }
}
