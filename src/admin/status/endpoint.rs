//! The endpoints of a backend, as status tells them.

use super::time::rfc3339;
use super::{EndpointChange, EndpointStatus};
use crate::control::health::HealthChange;
use crate::snapshot::{Backend, Endpoint};

/// Each endpoint of `backend`.
pub(super) fn endpoints(backend: &Backend) -> Vec<EndpointStatus> {
    backend.endpoints.iter().map(endpoint).collect()
}

fn endpoint(endpoint: &Endpoint) -> EndpointStatus {
    let state = &endpoint.state;
    let standing = state.standing();
    EndpointStatus {
        endpoint: endpoint.at.to_string(),
        healthy: state.is_fit(),
        why: standing.unfit.clone(),
        since: rfc3339(standing.since),
        last_check: standing.checked.clone(),
        inflight: state.running(),
        ejections: state.ejections(),
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
