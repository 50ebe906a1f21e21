//! What is known of a backend beyond any config.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{Notify, watch};

use super::Failure;
use super::endpoint::EndpointState;
use crate::capacity::Slots;

/// One backend. It lives as long as the process, its endpoints as long as anybody knows them.
#[derive(Debug)]
pub struct BackendState {
    /// Its connections.
    pub slots: Arc<Slots>,
    endpoints: Mutex<BTreeMap<String, Arc<EndpointState>>>,
    /// Requests that were sent once more, by what had come in between.
    retries: [AtomicU64; Failure::ALL.len()],
    new_endpoint: NewEndpoint,
}

/// What a new endpoint is made of.
#[derive(Clone, Debug)]
pub(super) struct NewEndpoint {
    pub(super) workers: usize,
    pub(super) epoch: Instant,
    pub(super) bell: Arc<Notify>,
}

impl BackendState {
    pub(super) fn new(wanted: watch::Sender<()>, new_endpoint: NewEndpoint) -> Self {
        Self {
            slots: Arc::new(Slots::new(wanted)),
            endpoints: Mutex::default(),
            retries: Default::default(),
            new_endpoint,
        }
    }

    /// What is known of the endpoint at `address`, made at its first mention. Control plane only.
    #[must_use]
    pub fn endpoint(&self, address: &str) -> Arc<EndpointState> {
        let NewEndpoint { workers, epoch, bell } = &self.new_endpoint;
        let new = || Arc::new(EndpointState::new(*workers, *epoch, Arc::clone(bell)));
        Arc::clone(self.known().entry(address.to_owned()).or_insert_with(new))
    }

    /// Those that somebody knows, by address: endpoints of the config, and of requests that began under an earlier one.
    #[must_use]
    pub fn endpoints(&self) -> Vec<(String, Arc<EndpointState>)> {
        let mut known = self.known();
        known.retain(|_, state| Arc::strong_count(state) > 1);
        known.iter().map(|(address, state)| (address.clone(), Arc::clone(state))).collect()
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<String, Arc<EndpointState>>> {
        self.endpoints.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request is sent once more after `failure`.
    pub fn retried(&self, failure: Failure) {
        self.retries[failure as usize].fetch_add(1, Relaxed);
    }

    /// Requests so far that were sent once more after `failure`.
    #[must_use]
    pub fn retries(&self, failure: Failure) -> u64 {
        self.retries[failure as usize].load(Relaxed)
    }
}
