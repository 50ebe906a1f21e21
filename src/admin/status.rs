//! What `/api/v1/status` says, as types: the API writes them, the command line reads them.
//!
//! The percent stands there in its layers, side by side: what the config says, what somebody put on top, what is in force,
//! and what the traffic really did.

use std::path::Path;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::control::overview::{Overview, Reload};
use crate::metrics::window::Recent;
use crate::policy::decision::Side;
use crate::proxy::worker::Ending;
use crate::snapshot::{Latch, LatchSource, Rollout, Snapshot};

/// tidegate's version.
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// How far back the last minute goes, in seconds.
const MINUTE: f64 = 60.0;

/// The whole process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// tidegate's version.
    pub version: String,
    /// When the process started, as RFC 3339.
    pub started_at: String,
    /// Seconds since then.
    pub uptime_seconds: f64,
    /// Whether new clients should come.
    pub ready: bool,
    /// How far the process is on its way out.
    pub phase: Phase,
    /// The config in force.
    pub config: ConfigStatus,
    /// How the last attempt to read the config went.
    pub reload: ReloadStatus,
    /// Where the `ROLLBACK` file is looked for.
    pub state_dir: Option<String>,
    /// Connections from clients that are open.
    pub client_connections: u64,
    /// The rollouts, by name.
    pub rollouts: Vec<RolloutStatus>,
}

/// How far the process is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Not at all.
    Running,
    /// It still accepts, but balancers should send nobody any more.
    Leaving,
    /// Connections end after the request that is running on them.
    Draining,
    /// What still runs is cut off.
    Ending,
}

/// The config in force.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ConfigStatus {
    /// The file.
    pub path: String,
    /// xxh3 of its bytes, 16 hex digits.
    pub hash: String,
    /// Counts what this process published, from 1.
    pub revision: u64,
    /// When the file was read, as RFC 3339.
    pub loaded_at: String,
}

/// How the last attempt to read the config went.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReloadStatus {
    /// Attempts since the start, the first included.
    pub attempts: u64,
    /// Whether what is in force is what the file says.
    pub successful: bool,
    /// When an attempt last succeeded, as RFC 3339.
    pub succeeded_at: String,
    /// Why the file was not taken, in the words of `tidegate check`.
    pub error: Option<String>,
    /// Keys whose change waits for a restart.
    pub needs_restart: Vec<String>,
}

/// A rollout.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RolloutStatus {
    /// Its name.
    pub name: String,
    /// The share on NEW, in its layers.
    pub percent: PercentStatus,
    /// Whether everybody is on OLD, and why.
    pub rollback: RollbackStatus,
    /// Its sides.
    pub sides: Sides<SideStatus>,
}

/// The share on NEW, 0 to 100, in its layers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PercentStatus {
    /// What the config says.
    pub configured: f64,
    /// What was put on top of it; null if nothing was.
    #[serde(rename = "override")]
    pub overridden: Option<f64>,
    /// What is in force.
    pub effective: f64,
    /// What the traffic really did.
    pub observed: Observed,
}

/// What the traffic really did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Observed {
    /// The share of requests that NEW answered, 0 to 100; null without requests.
    pub new: Option<f64>,
    /// Requests on both sides.
    pub requests: u64,
    /// In how many seconds: up to 60.
    pub over_seconds: f64,
}

/// Whether everybody is on OLD, and why.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RollbackStatus {
    /// Whether everybody is on OLD.
    pub active: bool,
    /// What asked for it; each has to be lifted.
    pub latches: Vec<LatchStatus>,
}

/// One thing that asked for a rollback.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LatchStatus {
    /// Tells it from the others of this rollout.
    pub id: String,
    /// Through which door it came: `config` or `flag_file`.
    pub source: String,
    /// Since when, as far as this process knows, as RFC 3339.
    pub at: String,
    /// Who asked.
    pub by: String,
    /// Why.
    pub reason: String,
    /// What lifts it.
    pub undo: String,
}

/// Something for each side.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sides<T> {
    /// OLD's.
    pub old: T,
    /// NEW's.
    pub new: T,
}

/// One side of a rollout.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SideStatus {
    /// The backend that serves it.
    pub backend: String,
    /// Requests that are running.
    pub inflight: u64,
    /// Endpoints that get requests. Without health checks: all.
    pub healthy: usize,
    /// Endpoints.
    pub endpoints: usize,
    /// Requests that ended in the last minute.
    pub requests: u64,
    /// The same a second.
    pub requests_per_second: f64,
    /// How long they took; null without requests.
    pub latency_ms: Option<Latency>,
}

/// Percentiles in milliseconds, at most one part in 16 too high.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Half of the requests were faster.
    pub p50: f64,
    /// 90 % were.
    pub p90: f64,
    /// 99 % were.
    pub p99: f64,
    /// 99.9 % were.
    pub p999: f64,
}

impl Phase {
    /// The phase of the process behind `overview`.
    #[must_use]
    pub fn of(overview: &Overview) -> Self {
        match *overview.ending.borrow() {
            Ending::Now => Self::Ending,
            Ending::Draining => Self::Draining,
            Ending::Running if *overview.leaving.borrow() => Self::Leaving,
            Ending::Running => Self::Running,
        }
    }

    /// What it means for those who would send requests.
    #[must_use]
    pub fn explanation(self) -> &'static str {
        match self {
            Self::Running => "Running.",
            Self::Leaving => "About to drain: requests are answered, but send new ones elsewhere.",
            Self::Draining => "Draining: running requests end, new connections are not accepted.",
            Self::Ending => "Ending: what still runs is cut off.",
        }
    }
}

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
        client_connections: overview.registry.open_connections(),
        rollouts: snapshot.rollouts.iter().map(|rollout| of_rollout(overview, &snapshot, rollout, now)).collect(),
    }
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

/// The status of `rollout`, which stands in `snapshot`, at `now`.
#[must_use]
pub fn of_rollout(overview: &Overview, snapshot: &Snapshot, rollout: &Rollout, now: SystemTime) -> RolloutStatus {
    let over_seconds = uptime(overview, now).as_secs_f64().clamp(1.0, MINUTE);
    let recent = Side::ALL.map(|side| overview.recent(&rollout.name, side));
    let of = |side: Side| side_status(snapshot, rollout, side, &recent[side.index()], over_seconds);
    RolloutStatus {
        name: rollout.name.clone(),
        percent: PercentStatus {
            configured: rollout.configured.as_f64(),
            overridden: None,
            effective: rollout.effective().as_f64(),
            observed: observed(&recent, over_seconds),
        },
        rollback: RollbackStatus {
            active: rollout.split.rollback,
            latches: rollout.latches.iter().map(|latch| latch_status(overview, &rollout.name, latch)).collect(),
        },
        sides: Sides { old: of(Side::Old), new: of(Side::New) },
    }
}

fn observed(recent: &[Recent; 2], over_seconds: f64) -> Observed {
    let requests = recent.iter().map(|recent| recent.requests).sum();
    let new = recent[Side::New.index()].requests;
    let share = (requests > 0).then(|| rounded(float(new) * 100.0 / float(requests), 2));
    Observed { new: share, requests, over_seconds: rounded(over_seconds, 1) }
}

fn side_status(snapshot: &Snapshot, rollout: &Rollout, side: Side, recent: &Recent, over_seconds: f64) -> SideStatus {
    let backend = &snapshot.backends[rollout.backend(side)];
    SideStatus {
        backend: backend.name.clone(),
        inflight: rollout.meters.side(side).inflight(),
        healthy: backend.endpoints.len(),
        endpoints: backend.endpoints.len(),
        requests: recent.requests,
        requests_per_second: rounded(float(recent.requests) / over_seconds, 2),
        latency_ms: latency(recent),
    }
}

fn latency(recent: &Recent) -> Option<Latency> {
    let millis = |quantile| {
        let duration = recent.durations.quantile(quantile)?;
        Some(rounded(duration.as_secs_f64() * 1e3, 3))
    };
    Some(Latency { p50: millis(0.5)?, p90: millis(0.9)?, p99: millis(0.99)?, p999: millis(0.999)? })
}

fn latch_status(overview: &Overview, rollout: &str, latch: &Latch) -> LatchStatus {
    let source = latch.source.as_str().to_owned();
    let door = match latch.source {
        LatchSource::Config => "config",
        LatchSource::ConfigRollout => "config-rollout",
        LatchSource::FlagFile => "flag-file",
    };
    LatchStatus {
        id: format!("{rollout}-{door}"),
        by: source.clone(),
        source,
        at: rfc3339(latch.at),
        reason: latch.source.reason().to_owned(),
        undo: undo(latch.source, rollout, &overview.config_path, overview.state_dir.as_deref()),
    }
}

/// What a person has to do to lift a latch.
fn undo(source: LatchSource, rollout: &str, config: &Path, state_dir: Option<&Path>) -> String {
    let config = config.display();
    match source {
        LatchSource::Config => format!("set `rollback: false` at the top of {config}"),
        LatchSource::ConfigRollout => format!("set `rollback: false` for rollout {rollout} in {config}"),
        LatchSource::FlagFile => format!("rm {}", state_dir.unwrap_or(Path::new("")).join("ROLLBACK").display()),
    }
}

fn uptime(overview: &Overview, now: SystemTime) -> Duration {
    now.duration_since(overview.started_at).unwrap_or_default()
}

/// As RFC 3339 in UTC, to the second.
fn rfc3339(at: SystemTime) -> String {
    let second = Timestamp::try_from(at).map_or(0, Timestamp::as_second);
    Timestamp::from_second(second).unwrap_or_default().to_string()
}

fn rounded(number: f64, decimals: i32) -> f64 {
    let scale = 10_f64.powi(decimals);
    (number * scale).round() / scale
}

#[expect(clippy::cast_precision_loss, reason = "a minute's requests are far below 2^53")]
fn float(count: u64) -> f64 {
    count as f64
}
