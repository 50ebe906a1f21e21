//! The endpoints of a backend, as status tells them.

use super::time::rfc3339;
use super::{BackendStatus, EndpointChange, EndpointStatus};
use crate::control::health::HealthChange;
use crate::control::overview::Overview;
use crate::policy::decision::Side;
use crate::snapshot::{Backend, Endpoint, Snapshot};

/// The backends of `snapshot` that no rollout has.
pub(super) fn backends(overview: &Overview, snapshot: &Snapshot) -> Vec<BackendStatus> {
    let is_side = |at: usize| {
        let mut sides = snapshot.rollouts.iter().flat_map(|rollout| Side::ALL.map(|side| rollout.backend(side)));
        sides.any(|backend| backend == at)
    };
    let others = snapshot.backends.iter().enumerate().filter(|(at, _)| !is_side(*at));
    others.map(|(_, backend)| of_backend(overview, backend)).collect()
}

/// How a backend is, whoever it answers for.
pub(super) fn of_backend(overview: &Overview, backend: &Backend) -> BackendStatus {
    BackendStatus {
        name: backend.name.clone(),
        healthy: backend.endpoints.iter().filter(|endpoint| endpoint.state.is_fit()).count(),
        endpoints: backend.endpoints.len(),
        checked: backend.health.is_some(),
        endpoint_list: endpoints(backend),
        nowhere: nowhere(overview, backend),
        connections: backend.state.slots.open(),
        max_connections: backend.state.slots.max_connections(),
        pending: backend.state.slots.waiting(),
    }
}

/// The names of `backend` that have no address, each with why.
fn nowhere(overview: &Overview, backend: &Backend) -> Vec<String> {
    let troubles = overview.registry.nowhere.load();
    let told = |name: &String| match troubles.get(name) {
        Some(why) => format!("{name}: {why}"),
        None => format!("{name}: it has no address"),
    };
    backend.nowhere.iter().map(told).collect()
}

/// Each endpoint of `backend`.
fn endpoints(backend: &Backend) -> Vec<EndpointStatus> {
    backend.endpoints.iter().map(endpoint).collect()
}

fn endpoint(endpoint: &Endpoint) -> EndpointStatus {
    let state = &endpoint.state;
    let (standing, trouble) = (state.standing(), state.trouble());
    EndpointStatus {
        endpoint: endpoint.at.to_string(),
        healthy: state.is_fit(),
        why: standing.unfit.clone(),
        since: rfc3339(standing.since),
        last_check: standing.checked.clone(),
        inflight: state.running(),
        ejections: state.ejections(),
        failing_since: trouble.as_ref().map(|trouble| rfc3339(trouble.since)),
        trouble: trouble.map(|trouble| trouble.why.clone()),
    }
}

/// A change, as events tell it.
#[must_use]
pub fn endpoint_change(change: &HealthChange) -> EndpointChange {
    let HealthChange { at, backend, endpoint, unfit } = change;
    EndpointChange {
        at: rfc3339(*at),
        backend: backend.clone(),
        endpoint: endpoint.clone(),
        healthy: unfit.is_none(),
        why: unfit.clone(),
    }
}
