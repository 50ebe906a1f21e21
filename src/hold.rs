//! Where requests wait: one queue, first come first served.

use std::time::Duration;

use crate::config::HoldLimits;

/// Requests that wait.
#[derive(Debug)]
pub struct Queue {
    max_wait: Duration,
}

impl Queue {
    /// x
    pub fn new(_: &HoldLimits, max_wait: Duration) -> Self {
        Self { max_wait }
    }
    /// x
    pub fn release(&self, _: u64) {}
    /// x
    pub fn open(&self) {}
    /// x
    pub fn waiting(&self) -> u64 {
        0
    }
    /// x
    pub fn arrived(&self) -> u64 {
        0
    }
    /// x
    pub fn release_rate(&self) -> u32 {
        1
    }
    /// x
    pub fn max_wait(&self) -> Duration {
        self.max_wait
    }
}

/// x
pub fn pace(_: u32, _: Duration, _: f64, _: u64) -> (u64, f64) {
    (0, 0.0)
}
