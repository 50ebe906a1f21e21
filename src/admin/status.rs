//! What `/api/v1/status` says, as types: the API writes them, the command line reads them.
//!
//! The percent stands there in its layers, side by side: what the config says, what somebody put on top, what is in force,
//! and what the traffic really did.

mod endpoint;
mod guard;
mod listener;
mod process;
mod rollout;
mod standing;
mod time;
mod tls;
mod webhook;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::endpoint::endpoint_change;
pub use self::guard::{guard_report, share};
pub use self::process::of;
pub use self::rollout::of_rollout;
pub(super) use self::rollout::undo;
pub use self::time::spelled;
use crate::control::overview::Overview;
use crate::proxy::worker::Ending;

/// tidegate's version.
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The whole process.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
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
    /// Where clients connect, in the order of the file as it was at the start.
    pub listeners: Vec<ListenerStatus>,
    /// Connections from clients that are open.
    pub client_connections: u64,
    /// Whether what is in force would survive a restart.
    pub state: StateStatus,
    /// Certificates that are in use, and files of TLS that are not as they should be.
    pub tls: TlsStatus,
    /// Who is told of changes, in the order of the file.
    pub webhooks: Vec<WebhookStatus>,
    /// How everybody is turned away; null if nobody is.
    pub maintenance: Option<MaintenanceStatus>,
    /// How everybody is made to wait; null if nobody is.
    pub hold: Option<HoldStatus>,
    /// The routes that have a name, in the order of the file.
    pub routes: Vec<RouteStatus>,
    /// The backends that no rollout has, by name.
    #[serde(default)]
    pub backends: Vec<BackendStatus>,
    /// The rollouts, by name.
    pub rollouts: Vec<RolloutStatus>,
}

/// How far the process is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
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
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
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

/// Where clients connect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ListenerStatus {
    /// `http://127.0.0.1:8080`, `https://127.0.0.1:8443` or `unix:/path`, with the port that was chosen for 0.
    pub url: String,
    /// Whether TLS is spoken there.
    pub tls: bool,
    /// Whether each connection begins with a PROXY header.
    pub proxy_protocol: bool,
}

/// Whether what is in force would survive a restart.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct StateStatus {
    /// Whether all of it would.
    pub durable: bool,
    /// Why not.
    pub why: Option<String>,
    /// Why what was remembered could not be believed at the start; null if it could.
    pub note: Option<String>,
}

/// What the files of TLS hold.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct TlsStatus {
    /// The certificates that are in use, by their files.
    pub certificates: Vec<CertificateStatus>,
    /// Files that are not as they should be; what was read from them before is in use.
    pub troubles: Vec<TroubleStatus>,
}

/// A certificate that is in use.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct CertificateStatus {
    /// Its file.
    pub file: String,
    /// Whose it is, as RFC 4514 writes it.
    pub subject: String,
    /// The names of hosts that it is for.
    pub names: Vec<String>,
    /// Until when it is valid, as RFC 3339.
    pub valid_until: String,
    /// Whole days until then; below zero once it has expired.
    pub days_left: i64,
    /// Whether somebody should see to it: less than 14 days are left, or none.
    pub expires_soon: bool,
}

/// A file of TLS that is not as it should be.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct TroubleStatus {
    /// The file.
    pub file: String,
    /// What is wrong with it.
    pub message: String,
}

/// Who is told of changes, and how that goes.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct WebhookStatus {
    /// Its name.
    pub name: String,
    /// The scheme, host and port of its URL; the rest may be a secret.
    pub url: String,
    /// What it is told of: `trip`, `rollback`, `resume`, `step`, `switch`.
    pub events: Vec<String>,
    /// Whether the last attempt failed.
    pub failing: bool,
    /// Messages that wait or are on their way.
    pub queued: u64,
    /// Messages that it took, since the process started.
    pub delivered: u64,
    /// Messages that were given up.
    pub failed: u64,
    /// Messages that were dropped for want of room, or with a change of its config.
    pub dropped: u64,
    /// When it last took one, as RFC 3339; null if it never did.
    pub last_success_at: Option<String>,
    /// When an attempt last failed, as RFC 3339; null if none did.
    pub last_error_at: Option<String>,
    /// Why.
    pub last_error: Option<String>,
}

/// A route that has a name.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct RouteStatus {
    /// Its name.
    pub name: String,
    /// How its requests are turned away; null if they are not.
    pub maintenance: Option<MaintenanceStatus>,
    /// How its requests are made to wait; null if they are not.
    pub hold: Option<HoldStatus>,
}

/// A rollout.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct RolloutStatus {
    /// Its name.
    pub name: String,
    /// How it moves people from OLD to NEW.
    pub strategy: StrategyName,
    /// Counts its changes.
    pub version: u64,
    /// What `If-Match` is compared with: the version and the config, as an entity tag with its quotes.
    pub etag: String,
    /// The share on NEW, in its layers.
    pub percent: PercentStatus,
    /// Who put `percent.override` there; null if nobody did, or a switch did.
    pub overridden_by: Option<Deed>,
    /// Whether what is in force is not what the config says.
    pub drift: bool,
    /// Whether everybody is on OLD, and why.
    pub rollback: RollbackStatus,
    /// Where on its ramp it stands; null if it has none.
    pub steps: Option<StepsStatus>,
    /// Which colour is which; null if it has none.
    pub blue_green: Option<BlueGreenStatus>,
    /// By when it has to be at 100 %, as RFC 3339; null if there is no such time.
    pub deadline: Option<String>,
    /// How its requests are turned away; null if they are not.
    pub maintenance: Option<MaintenanceStatus>,
    /// How its requests are made to wait; null if they are not.
    pub hold: Option<HoldStatus>,
    /// The side that is being emptied; null if none is.
    pub drain: Option<DrainStatus>,
    /// What the guard thinks of NEW.
    pub guard: GuardStatus,
    /// Its sides.
    pub sides: Sides<SideStatus>,
}

/// How a rollout moves people from OLD to NEW.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StrategyName {
    /// One percent, changed by hand.
    Percent,
    /// Step by step.
    Steps,
    /// All at once, between two colours.
    BlueGreen,
}

/// Who did something, when and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Deed {
    /// When, as RFC 3339.
    pub at: String,
    /// Who.
    pub by: String,
    /// Why; empty if nobody said.
    pub reason: String,
}

/// Where on its ramp a rollout stands.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct StepsStatus {
    /// Which step, from 1.
    pub step: usize,
    /// How many there are.
    pub of: usize,
    /// The step's share on NEW, 0 to 100.
    pub percent: f64,
    /// How long it has been held.
    pub held_seconds: f64,
    /// How long it has to be held; null if until somebody promotes it.
    pub hold_seconds: Option<f64>,
    /// Requests that NEW answered in it.
    pub requests: u64,
    /// How many it has to answer.
    pub min_requests: u64,
    /// Requests on NEW in it by which the guard could judge.
    pub judged: u64,
    /// How many there have to be, so that it could have seen trouble; 0 without a guard.
    pub min_judged: u64,
    /// Whether somebody paused the ramp.
    pub paused: bool,
    /// Whether the schedule says that nothing may be raised now.
    pub frozen: bool,
    /// The next step's share on NEW, 0 to 100; null if this is the last.
    pub next: Option<f64>,
    /// What the next step waits for, in a sentence; null if it comes at once, or there is none.
    pub waits_for: Option<String>,
    /// By when the rollout has to be at 100 %, as RFC 3339.
    pub deadline: Option<String>,
}

/// Which colour is which: `blue` or `green`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct BlueGreenStatus {
    /// The one that serves while nothing is rolled back.
    pub active: String,
    /// The one that is OLD: where a rollback leads.
    pub old: String,
    /// The one that the config asks for.
    pub configured: String,
}

/// How requests are turned away.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct MaintenanceStatus {
    /// What people are told; null if it is what the config says.
    pub message: Option<String>,
    /// Whether requests that only read are served all the same.
    pub read_only: bool,
    /// When clients should come back, such as `30m` or as RFC 3339; null if it is what the config says.
    pub retry_after: Option<String>,
    /// Since when, by whom, and why.
    #[serde(flatten)]
    pub deed: Deed,
}

/// How requests are made to wait.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct HoldStatus {
    /// How long each waits at most.
    pub max_wait_seconds: f64,
    /// How many wait now.
    pub waiting: u64,
    /// Whether the hold has ended and those who still wait go on, one after the other.
    pub releasing: bool,
    /// Since when, by whom, and why; null once it has ended.
    #[serde(flatten)]
    pub deed: Option<Deed>,
}

/// A side that is being emptied.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct DrainStatus {
    /// Which: `old` or `new`.
    pub side: String,
    /// Requests that still run there.
    pub inflight: u64,
    /// How long the oldest of them has run; null if none runs.
    pub oldest_seconds: Option<f64>,
    /// How much longer it takes if nothing takes longer than in the last minute; null if that is not known.
    pub estimated_seconds: Option<f64>,
    /// When what still runs is cut off; null if it is not.
    pub cut_in_seconds: Option<f64>,
    /// Whether nothing runs there any more.
    pub done: bool,
    /// Since when, by whom, and why.
    #[serde(flatten)]
    pub deed: Deed,
}

/// The share on NEW, 0 to 100, in its layers.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
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
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Observed {
    /// The share of requests that NEW answered, 0 to 100; null without requests.
    pub new: Option<f64>,
    /// Requests on both sides.
    pub requests: u64,
    /// In how many seconds: up to 60.
    pub over_seconds: f64,
}

/// Whether everybody is on OLD, and why.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct RollbackStatus {
    /// Whether everybody is on OLD.
    pub active: bool,
    /// What asked for it; each has to be lifted.
    pub latches: Vec<LatchStatus>,
}

/// One thing that asked for a rollback.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct LatchStatus {
    /// Tells it from the others of this rollout.
    pub id: String,
    /// Through which door it came: `config`, `flag_file`, `operator`, `guard`, `deadline` or `state`.
    pub source: String,
    /// Since when, as RFC 3339.
    pub at: String,
    /// Who asked.
    pub by: String,
    /// Why.
    pub reason: String,
    /// What lifts it.
    pub undo: String,
}

/// What the guard of a rollout knows, and whose guard it is.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct GuardReport {
    /// The rollout's name.
    pub rollout: String,
    /// The share on NEW that is in force, 0 to 100: what the guard has to look at.
    pub percent: f64,
    /// What stands in the rollout's status, too.
    #[serde(flatten)]
    pub guard: GuardStatus,
}

/// What the guard thinks of NEW.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct GuardStatus {
    /// Whether it watches: always, unless it is turned off. While nobody is on NEW there is nothing to see.
    pub armed: bool,
    /// What it has come to.
    pub verdict: GuardVerdict,
    /// What it does when NEW hurts users: `rollback`, `step_back`, `hold_step` or `notify`; null if it is off.
    pub action: Option<String>,
    /// By which of its senses it found something that stands: `failures`, `latency`, `users_hurt` or `query`; null if it has
    /// not, or if a restart has forgotten it.
    pub cause: Option<String>,
    /// What it found, with the numbers; null if nothing stands.
    pub reason: Option<String>,
    /// Since when, as RFC 3339; null if nothing stands.
    pub since: Option<String>,
    /// The command that lifts what it did; null if there is nothing to lift.
    pub undo: Option<String>,
    /// How many failures; null if it is off. While its rollback stands, these are the numbers that led to it.
    pub failures: Option<Sense>,
    /// How many slow requests; null unless the config asks for that.
    pub latency: Option<LatencySense>,
    /// Different buckets that saw a failure, about as many as users; null if it is off.
    pub users_hurt: Option<usize>,
    /// How many of them are too many; null if there is no limit.
    pub max_users_hurt: Option<usize>,
    /// What a Prometheus said of NEW, by query, in the order of the config.
    #[serde(default)]
    pub queries: Vec<QueryStatus>,
}

/// A query of a guard.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct QueryStatus {
    /// What it is called.
    pub name: String,
    /// When a value is bad: `> 0.5`.
    pub bad_if: String,
    /// Whether it is asked: not while nobody is on NEW.
    pub asked: bool,
    /// What it was answered last, in words: a value, or why there was none; null before the first answer.
    pub last: Option<String>,
    /// When that was, as RFC 3339.
    pub at: Option<String>,
    /// How often in a row it was bad, times without data aside.
    pub bad_in_a_row: usize,
    /// How often in a row is too often.
    pub failures: usize,
}

/// What a guard has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GuardVerdict {
    /// Nothing settled speaks against NEW.
    Healthy,
    /// NEW hurt users, and users were taken away from it: rolled back, or back a step.
    Tripped,
    /// NEW hurts users, and the action leaves them there: the ramp is held, or it is only told.
    WouldHaveTripped,
    /// Nobody watches.
    Off,
}

/// One of the senses of a guard: what was counted since NEW last looked as good as can be, and what that says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Sense {
    /// The share of bad requests that is tolerated, 0 to 100.
    pub tolerated: f64,
    /// What was counted on each side.
    pub counted: Sides<SideCount>,
    /// The evidence that more are bad on NEW than is tolerated.
    pub worse_than_tolerated: Evidence,
    /// The evidence that more are bad on NEW than on OLD at the same time; null, and not needed, if OLD has no traffic.
    pub worse_than_old: Option<Evidence>,
    /// From how many different buckets the bad requests came, about as many as users.
    pub users: usize,
    /// From how many they have to come.
    pub users_needed: usize,
    /// So many bad requests in a row, from enough users, would settle it now; null if that is not in sight.
    pub in_a_row: Option<u32>,
}

/// The sense for slow requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LatencySense {
    /// What is slow, in milliseconds to the head of the answer; null until OLD has shown it.
    pub slow_above_ms: Option<f64>,
    /// How many there are.
    #[serde(flatten)]
    pub sense: Sense,
}

/// What was counted on a side.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SideCount {
    /// Requests that say something about the side.
    pub requests: u64,
    /// How many of them were bad.
    pub bad: u64,
    /// Their share, 0 to 100; null without requests.
    pub share: Option<f64>,
}

/// Evidence as odds: how many times likelier what was counted is if NEW is that much worse than if it is not.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Evidence {
    /// The odds to 1, at most 10^15.
    pub odds: f64,
    /// The odds that are enough.
    pub enough: f64,
    /// How far the one has come on its way to the other, in orders of magnitude: 0 to 1.
    pub share: f64,
}

/// Something for each side.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Sides<T> {
    /// OLD's.
    pub old: T,
    /// NEW's.
    pub new: T,
}

/// One side of a rollout.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct SideStatus {
    /// The backend that serves it.
    pub backend: String,
    /// Its colour, `blue` or `green`; null unless the rollout has colours.
    pub color: Option<String>,
    /// Requests that are running.
    pub inflight: u64,
    /// Endpoints that get requests: neither their health checks nor failed requests speak against them.
    pub healthy: usize,
    /// Endpoints.
    pub endpoints: usize,
    /// Whether they are looked at (`health` in the config); if not, only failed requests can speak against them.
    #[serde(default)]
    pub checked: bool,
    /// Each of them.
    #[serde(default)]
    pub endpoint_list: Vec<EndpointStatus>,
    /// Names among them that have no address, each with why: `ledger.test: there is no such name`.
    #[serde(default)]
    pub nowhere: Vec<String>,
    /// Connections to all of them that are open.
    #[serde(default)]
    pub connections: usize,
    /// How many may be.
    #[serde(default)]
    pub max_connections: usize,
    /// Requests that wait for one.
    #[serde(default)]
    pub pending: usize,
    /// Requests that ended in the last minute.
    pub requests: u64,
    /// The same a second.
    pub requests_per_second: f64,
    /// How many of them ended with a 5xx, without an answer of the backend, or with what `guard.failures` calls a failure.
    pub failures: u64,
    /// The share of those, 0 to 100; null without requests.
    pub failure_share: Option<f64>,
    /// How long they took; null without requests.
    pub latency_ms: Option<Latency>,
}

/// A backend that no rollout has.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct BackendStatus {
    /// Its name.
    pub name: String,
    /// Endpoints that get requests: neither their health checks nor failed requests speak against them.
    pub healthy: usize,
    /// Endpoints.
    pub endpoints: usize,
    /// Whether they are looked at (`health` in the config); if not, only failed requests can speak against them.
    pub checked: bool,
    /// Each of them.
    pub endpoint_list: Vec<EndpointStatus>,
    /// Names among them that have no address, each with why: `ledger.test: there is no such name`.
    pub nowhere: Vec<String>,
    /// Connections to all of them that are open.
    pub connections: usize,
    /// How many may be.
    pub max_connections: usize,
    /// Requests that wait for one.
    pub pending: usize,
}

/// An endpoint of a backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EndpointStatus {
    /// Where it is.
    pub endpoint: String,
    /// Whether it gets requests.
    pub healthy: bool,
    /// Why it gets none; null if it gets some.
    pub why: Option<String>,
    /// Since when, as RFC 3339.
    pub since: String,
    /// What the last health check found; null if there was none.
    pub last_check: Option<String>,
    /// Requests that run there.
    pub inflight: u64,
    /// How often it was taken out because it failed requests.
    pub ejections: u64,
    /// Why requests fail there, as the log told last; null once it answers again.
    #[serde(default)]
    pub trouble: Option<String>,
    /// Since when, as RFC 3339; null if none do.
    #[serde(default)]
    pub failing_since: Option<String>,
}

/// An endpoint gets requests again, or gets none any more: the `health` of `/api/v1/events`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EndpointChange {
    /// When, as RFC 3339.
    pub at: String,
    /// Whose it is.
    pub backend: String,
    /// Where it is.
    pub endpoint: String,
    /// Whether it gets requests.
    pub healthy: bool,
    /// Why it gets none; null if it gets some.
    pub why: Option<String>,
}

/// Percentiles in milliseconds, at most one part in 16 too high.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
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
