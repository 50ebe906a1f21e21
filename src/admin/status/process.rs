//! The status of the whole process.

use std::time::{Duration, SystemTime};

use super::endpoint::backends;
use super::time::{rfc3339, rounded};
use super::webhook::of_webhook;
use super::{
    ConfigStatus, ListenerStatus, Phase, ReloadStatus, RouteStatus, StateStatus, Status, VERSION, of_rollout, standing,
};
use crate::admin::answer::durability;
use crate::control::in_force::FORGOTTEN;
use crate::control::overview::{Overview, Reload};
use crate::snapshot::{NamedRoute, Snapshot};

/// The status of the process at `now`.
#[must_use]
pub fn of(overview: &Overview, now: SystemTime) -> Status {
    let snapshot = overview.snapshot.load();
    let phase = Phase::of(overview);
    Status {
        version: VERSION.to_owned(),
        started_at: rfc3339(overview.started_at),
        uptime_seconds: rounded(uptime(overview, now).as_secs_f64(), 1),
        ready: phase == Phase::Running,
        phase,
        config: ConfigStatus {
            path: overview.config_path.display().to_string(),
            hash: snapshot.config_hash.clone(),
            revision: snapshot.revision,
            loaded_at: rfc3339(snapshot.loaded_at),
        },
        reload: reload(&overview.reload.load()),
        state_dir: overview.state_dir.as_ref().map(|path| path.display().to_string()),
        listeners: listeners(overview, &snapshot),
        client_connections: overview.registry.open_connections(),
        state: state(overview),
        tls: super::tls::of_keyring(&snapshot.keyring, now),
        webhooks: overview.webhooks.shown().into_iter().map(of_webhook).collect(),
        maintenance: standing::maintenance(&snapshot.everything),
        hold: standing::hold(&snapshot.everything, snapshot.hold.as_ref()),
        routes: routes(&snapshot),
        backends: backends(overview, &snapshot),
        rollouts: snapshot.rollouts.iter().map(|rollout| of_rollout(overview, &snapshot, rollout, now)).collect(),
    }
}

fn listeners(overview: &Overview, snapshot: &Snapshot) -> Vec<ListenerStatus> {
    let bound = snapshot.listeners.iter().zip(&overview.addresses);
    bound.map(|(listener, address)| ListenerStatus::of(listener, address)).collect()
}

fn reload(reload: &Reload) -> ReloadStatus {
    ReloadStatus {
        attempts: reload.attempts,
        successful: reload.successful,
        succeeded_at: rfc3339(reload.succeeded_at),
        error: reload.error.clone(),
        needs_restart: reload.needs_restart.iter().map(|key| (*key).to_owned()).collect(),
    }
}

fn state(overview: &Overview) -> StateStatus {
    let (durable, why) = durability(&overview.journal.durability());
    StateStatus { durable, why, note: overview.lost().map(|why| format!("{why}; {FORGOTTEN}")) }
}

fn routes(snapshot: &Snapshot) -> Vec<RouteStatus> {
    let status = |route: &NamedRoute| {
        let service = &snapshot.by_route[route.at];
        RouteStatus {
            name: route.name.clone(),
            maintenance: standing::maintenance(service),
            hold: standing::hold(service, route.hold.as_ref()),
        }
    };
    snapshot.named_routes.iter().map(status).collect()
}

/// How long the process has run.
pub(super) fn uptime(overview: &Overview, now: SystemTime) -> Duration {
    now.duration_since(overview.started_at).unwrap_or_default()
}
