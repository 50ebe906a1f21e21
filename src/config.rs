//! The configuration: what was written (`raw`), checked into what is true ([`Config`]).
//!
//! Nothing outside this module sees a config that has not been checked, and everything that can be wrong is found here,
//! with its place in the file. Checking reads the files that the config names (secrets, lists, pages) and nothing else.

mod check;
mod de;
mod document;
mod endpoint;
mod error;
mod fault;
mod file;
mod json;
mod keyring;
mod raw;
mod shown;
mod toml;
mod url;
mod value;
mod variables;
mod webhook;
mod yaml;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use self::document::{Document, Format, Place};
pub use self::endpoint::{Address, Endpoint, Scheme};
pub use self::error::{ConfigError, Fault};
use self::fault::Faults;
pub use self::keyring::{BackendTls, Keyring, ListenerTls, Pair, Trouble};
pub use self::url::{NotUrl, Url, origin};
pub use self::variables::Environment;
pub use self::webhook::{SigningKey, Webhook, WebhookEvent};
use bytes::Bytes;

use crate::policy::balance::Balance;
use crate::policy::bucket::{Hash, Percent};
use crate::policy::decision::{Fallback, OnMissing, Rule};
use crate::policy::guard;
use crate::policy::naming::Pace;
use crate::policy::network::{Network, Trusted};
use crate::policy::outcome::Failures;
use crate::policy::query::Condition;
use crate::policy::rollout::{self, Action, Plan, State, Strategy};
use crate::policy::route::Match;
use crate::policy::schedule::Schedule;
use crate::policy::{ejection, health};
use crate::proxy_header::Version;

/// The largest config that is read.
const LARGEST: u64 = 1 << 20;

/// Reads and checks the config at `path`. Relative paths in it start at its own folder.
///
/// # Errors
///
/// Everything that is wrong with it. Nothing of a config with an error is to be applied.
pub fn load(path: &Path, environment: Environment<'_>) -> Result<Config, ConfigError> {
    parse(&read(path)?, path, environment)
}

/// Reads the text of the config at `path`, without looking into it.
///
/// # Errors
///
/// When it is no regular file, too large, or cannot be read.
pub fn read(path: &Path) -> Result<Vec<u8>, ConfigError> {
    file::read(path, LARGEST).map_err(|complaint| whole_file(path, vec![complaint.unlocated()]))
}

/// Checks `text` as if it stood in a file at `path`, which need not exist: its extension says how the text is written, and
/// relative paths start at its folder.
///
/// # Errors
///
/// Everything that is wrong with it.
pub fn parse(text: &[u8], path: &Path, environment: Environment<'_>) -> Result<Config, ConfigError> {
    parse_over(&Keyring::default(), text, path, environment)
}

/// Checks `text` like [`parse`], where `before` is what the files of TLS held: one that is not as it should be now is a
/// [`Trouble`], and no error.
///
/// # Errors
///
/// Everything that is wrong with it.
pub fn parse_over(
    before: &Keyring,
    text: &[u8],
    path: &Path,
    environment: Environment<'_>,
) -> Result<Config, ConfigError> {
    let refused = |fault| whole_file(path, vec![fault]);
    let format = Format::of(path).map_err(|complaint| refused(complaint.unlocated()))?;
    if text.len() as u64 > LARGEST {
        return Err(refused(file::too_large(LARGEST).unlocated()));
    }
    let mut document = Document::read(text, format).map_err(|fault| refused(*fault))?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let hash = format!("{:016x}", xxhash_rust::xxh3::xxh3_64(text));
    let mut faults = Faults::default();
    check(&mut document, folder, hash, environment, before, &mut faults).ok_or_else(|| {
        let (faults, omitted) = faults.into_parts();
        let faults = faults.into_iter().map(|(place, complaint)| document.fault(&place, complaint)).collect();
        ConfigError::new(&path.display().to_string(), faults, omitted)
    })
}

/// Variables first, then every key and value by itself, then what they mean together: each step only where the one
/// before it found nothing wrong, so that one mistake is not told twice.
fn check(
    document: &mut Document,
    folder: &Path,
    hash: String,
    environment: Environment<'_>,
    before: &Keyring,
    faults: &mut Faults,
) -> Option<Config> {
    variables::expand(document.root_mut(), &Place::default(), environment, faults);
    let raw = de::read(document, faults)?;
    check::check(&raw, folder, hash, before, faults)
        .map(|config| Config { written: Arc::new(shown::shown(document.root())), ..config })
}

fn whole_file(path: &Path, faults: Vec<Fault>) -> ConfigError {
    ConfigError::new(&path.display().to_string(), faults, 0)
}

/// A duration as the config writes it, such as `250ms`, `10s`, `30m` or `24h`.
#[must_use]
pub fn duration(written: &str) -> Option<Duration> {
    value::duration(&raw::Duration(raw::Scalar::Text(written.to_owned()))).ok()
}

/// The JSON Schema of the written form, with every default.
#[must_use]
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(raw::Raw).to_value()
}

/// A checked configuration. Names in it refer to things that exist.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where clients connect; at least one.
    pub listeners: Vec<Listener>,
    /// The admin side.
    pub admin: Admin,
    /// How many workers serve; `None` is one per core that the process may use.
    pub workers: Option<NonZeroUsize>,
    /// Where the `ROLLBACK` flag file is looked for.
    pub state_dir: Option<PathBuf>,
    /// Proxies that are believed when they say whom they stand for.
    pub trusted_proxies: Trusted,
    /// How the names of backends are looked up.
    pub dns: Dns,
    /// The one flag: every rollout to OLD. `None` if it is not written, which lifts nothing.
    pub rollback: Option<bool>,
    /// What those are told whom maintenance turns away, and who passes.
    pub maintenance: MaintenanceDefaults,
    /// How much may wait while a hold lasts.
    pub hold: HoldLimits,
    /// How the process ends.
    pub shutdown: Shutdown,
    /// How long a client may take.
    pub timeouts: ClientTimeouts,
    /// How much a client may send.
    pub limits: Limits,
    /// Where access log lines go; `None` is nowhere.
    pub access_log: Option<AccessLog>,
    /// Who is told of changes.
    pub webhooks: Vec<Webhook>,
    /// Backends by name.
    pub backends: BTreeMap<String, Backend>,
    /// Rollouts by name.
    pub rollouts: BTreeMap<String, Rollout>,
    /// Routes in order; never empty (without routes in the file: one that covers everything).
    pub routes: Vec<Route>,
    /// What the files of TLS hold: what each listener and endpoint speaks it by.
    pub keyring: Keyring,
    /// The file as it is written, for people to look at: without what variables hold, and without passwords in URLs.
    pub written: Arc<serde_json::Value>,
    /// xxh3 of the file's bytes, 16 hex digits: tells configurations apart in logs and metrics.
    pub hash: String,
}

/// A place where clients connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Where it is.
    pub address: ListenAddress,
    /// Whether each connection begins with a PROXY header that says whom it is for. Only with trusted proxies.
    pub proxy_protocol: bool,
    /// TLS with its clients, by its files; `None`: they speak in clear text.
    pub tls: Option<ListenerTls>,
}

/// Where somebody is listened to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// An IP address and a port; 0 is any that is free.
    Tcp(SocketAddr),
    /// `unix:/path`
    Unix(PathBuf),
}

impl ListenAddress {
    /// How clients name it in clear text: `http://127.0.0.1:8080` or `unix:/path`.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_with("http")
    }

    /// How clients name it who speak `scheme`. A socket file has none.
    #[must_use]
    pub fn url_with(&self, scheme: &str) -> String {
        match self {
            Self::Tcp(address) => format!("{scheme}://{address}"),
            Self::Unix(_) => self.to_string(),
        }
    }

    /// The port's address, if it is one.
    #[must_use]
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }

    /// Whether two listeners cannot both have it.
    fn collides_with(&self, other: &Self) -> bool {
        self == other && !matches!(self, Self::Tcp(address) if address.port() == 0)
    }
}

impl std::fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The admin side: where it listens and whom it obeys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Where it listens; if that is no loopback address, [`Admin::tokens`] is not empty.
    pub address: ListenAddress,
    /// Who may ask; never empty if others than those on this machine can reach it.
    pub tokens: Vec<Token>,
    /// Names under which it may be asked besides those of the loopback; lower case, without a port.
    pub allowed_hosts: Vec<String>,
}

/// A named secret of the admin side. Its name stands in the audit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Whose it is.
    pub name: String,
    /// What its bearer sends; at least 16 characters.
    pub secret: Secret,
}

/// How the names of backends are looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    /// Who is asked, in this order; those of the system if it is empty.
    pub servers: Vec<SocketAddr>,
    /// For how long an answer counts. Default 5 s to 5 min.
    pub pace: Pace,
    /// How long the servers have together to answer about one name. Default 2 s.
    pub timeout: Duration,
    /// Whose addresses are used if a name has both. Default IPv4.
    pub prefer: Family,
}

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// A records.
    V4,
    /// AAAA records.
    V6,
}

/// How the process ends after TERM or INT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shutdown {
    /// How long `/readyz` says no while connections are still accepted, so that the balancer can notice. Default 5 s.
    pub readiness_delay: Duration,
    /// How long running requests may take after that. Default 30 s.
    pub drain_timeout: Duration,
}

/// How long a client may take.
#[derive(Clone, Debug)]
pub struct ClientTimeouts {
    /// From a connection to the end of its TLS handshake. Default 5 s.
    pub handshake: Duration,
    /// From a request head's first byte to its last. Default 10 s.
    pub header: Duration,
    /// Between two pieces of a request body. Default 30 s.
    pub body_idle: Duration,
    /// From one request to the next on a connection. Default 60 s.
    pub keep_alive: Duration,
    /// How long a client may refuse to read. Default 30 s.
    pub write_stall: Duration,
    /// How long a tunnel may carry nothing; `None` is no limit (the default).
    pub tunnel_idle: Option<Duration>,
}

/// How much a client may send.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at once, over all listeners. Default 10 000.
    pub max_connections: usize,
    /// TLS handshakes at once, over all workers. Default 256.
    pub max_handshakes: usize,
    /// Bytes of a request head (and of a backend's response head). Default 32 KiB.
    pub max_header_size: usize,
    /// Header fields in a request. Default 100.
    pub max_header_fields: usize,
    /// Bytes of a request target. Default 8 KiB.
    pub max_target: usize,
    /// Bytes of a request body; `None` is no limit (the default).
    pub max_body: Option<u64>,
}

/// What maintenance says and whom it lets pass, where whoever turns it on does not say otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MaintenanceDefaults {
    /// Plain text shown to people.
    pub message: Option<String>,
    /// When clients should come back. Default 60 s.
    pub retry_after: Duration,
    /// Pages of the user's own.
    pub pages: Pages,
    /// Exact paths that a balancer asks for, and that tidegate answers with 200 itself meanwhile.
    pub health_paths: Vec<String>,
    /// Who is served all the same.
    pub bypass: Bypass,
}

/// Bodies of the answer during maintenance, read from files when the config is checked: UTF-8, at most 256 KiB each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pages {
    /// For browsers.
    pub html: Option<Bytes>,
    /// For programs; valid JSON.
    pub json: Option<Bytes>,
    /// For all others.
    pub text: Option<Bytes>,
}

/// Who is served during maintenance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bypass {
    /// The name of the header in which the token may stand, lower case.
    pub header: Option<String>,
    /// The name of the cookie in which the token may stand.
    pub cookie: Option<String>,
    /// The token; there if and only if there is a header or a cookie for it.
    pub token: Option<Secret>,
    /// Clients that need no token.
    pub networks: Vec<Network>,
}

/// How much may wait while a hold lasts. What does not fit is turned away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HoldLimits {
    /// How long each request waits at most. Default 10 s.
    pub max_wait: Duration,
    /// How many requests wait at once. Default 1000.
    pub max_requests: usize,
    /// Bytes of their bodies. Default 64 MiB.
    pub max_bytes: u64,
    /// How many go on in each second when the hold ends; above zero. Default 200.
    pub release_rate: u32,
}

/// Where access log lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLog {
    /// Standard output.
    Stdout,
    /// A file, appended to.
    File(PathBuf),
}

/// A named set of endpoints that serve one version.
#[derive(Clone, Debug)]
pub struct Backend {
    /// At least one.
    pub endpoints: Vec<Endpoint>,
    /// How requests are spread over them.
    pub balance: Balance,
    /// How long the backend may take.
    pub timeouts: BackendTimeouts,
    /// How its endpoints are asked whether they are well; `None`: they are not, and before a switch whether they accept
    /// connections.
    pub health: Option<Health>,
    /// How endpoints that fail requests are taken out; `None` if they are not.
    pub ejection: Option<ejection::Rules>,
    /// For how long an endpoint that is new, or fit again, gets less than its share. Default 0 s, which is not at all.
    pub slow_start: Duration,
    /// How much it gets at once.
    pub limits: BackendLimits,
    /// How often a request is sent once more.
    pub retries: Retries,
    /// What is spoken to it; HTTP/1.1 if its connections begin with a PROXY header.
    pub protocol: Protocol,
    /// With which PROXY header its connections begin.
    pub proxy_protocol: Option<Version>,
}

/// What is spoken to a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// What the two sides agree on over TLS (ALPN, RFC 7301), and HTTP/1.1 without it.
    #[default]
    Auto,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2; without TLS by prior knowledge (RFC 9113 §3.3).
    Http2,
}

impl Protocol {
    /// Whether nothing else is spoken, before anybody has asked the other side.
    #[must_use]
    pub fn is_certainly_http2(self) -> bool {
        self == Self::Http2
    }
}

/// How an endpoint is asked whether it is well: again and again, and before a switch leads to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// The path that is asked for; begins with `/`.
    pub path: String,
    /// How long after an answer it is asked again; at least 10 ms. Default 5 s.
    pub interval: Duration,
    /// How long the answer may take. Default 1 s.
    pub timeout: Duration,
    /// How many bad or good answers in a row change something. Default 3 and 2.
    pub thresholds: health::Thresholds,
}

/// How much a backend gets at once, from all workers together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendLimits {
    /// Connections that are open, to all of its endpoints; at least 1. Default 1024.
    pub max_connections: usize,
    /// Requests that wait for one; may be none. Default 1024.
    pub max_pending: usize,
    /// How long each of them waits at most. Default 1 s.
    pub max_wait: Duration,
}

/// How often a request that has done nothing yet is sent once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retries {
    /// How often more than once, 0 to 10. Default 1.
    pub attempts: usize,
    /// What each request puts into the [budget](crate::policy::budget::Budget); above 0. Default 20 %.
    pub budget: Percent,
}

/// How long a backend may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendTimeouts {
    /// To accept a connection, its TLS handshake included. Default 1 s.
    pub connect: Duration,
    /// From the whole request sent to the response head. Default 30 s.
    pub response: Duration,
    /// How long an unused connection is kept; below the backend's own keep-alive. Default 4 s.
    pub idle: Duration,
    /// Between two pieces of a response body. Default 5 min.
    pub stream_idle: Duration,
}

/// A named pair of backends and the policy that splits requests between them.
#[derive(Clone, Debug)]
pub struct Rollout {
    /// The name of the OLD backend; with blue/green the name of the blue one.
    pub old: String,
    /// The name of the NEW backend; with blue/green the name of the green one.
    pub new: String,
    /// How it moves people from OLD to NEW.
    pub strategy: Strategy,
    /// When it may be raised, and by when it has to be done.
    pub schedule: Schedule,
    /// Ids of latches that the file lifts.
    pub acknowledge: Vec<String>,
    /// Where the key comes from; the first source that is present wins. At least one, except with blue/green.
    pub key: Vec<KeySource>,
    /// How a key becomes a bucket.
    pub hash: Hash,
    /// What makes this rollout's xxh3 buckets differ from another's; the rollout's name unless set.
    pub salt: String,
    /// What happens to requests without a key.
    pub on_missing: OnMissing,
    /// This rollout's own flag: to OLD. `None` if it is not written, which lifts nothing.
    pub rollback: Option<bool>,
    /// Keys that always go to one side, first match wins.
    pub rules: Arc<[Rule]>,
    /// How testers choose a side.
    pub force: Force,
    /// Whether clients are told their side in `x-tidegate-side`.
    pub expose_side: bool,
    /// What takes NEW away when it hurts users; `None` if nothing does.
    pub guard: Option<Guard>,
    /// What answers in place of a NEW that fails; `None` if nothing does.
    pub shield: Option<Shield>,
    /// What happens to requests whose side has no endpoint that is fit.
    pub fallback: Fallback,
}

/// What takes NEW away when it hurts users.
#[derive(Clone, Debug, PartialEq)]
pub struct Guard {
    /// How many failures are too many.
    pub limits: guard::Limits,
    /// Which answers are failures.
    pub failures: Arc<Failures>,
    /// When requests are too slow; `None` if they never are.
    pub latency: Option<Latency>,
    /// How many different users (buckets, 1 to 10 000) may see a failure; `None` is no limit.
    pub max_users_hurt: Option<usize>,
    /// What else says that NEW is bad; no two have the same name.
    pub queries: Vec<Query>,
    /// What is done then.
    pub action: Action,
    /// Requests on NEW in a step of a ramp before the next one: so many show a share of twice the tolerance.
    pub evidence: u64,
}

impl Guard {
    /// As the state machine sees it.
    fn plan(&self) -> rollout::Guard {
        rollout::Guard { action: self.action, evidence: self.evidence }
    }
}

/// Lets OLD answer requests that NEW failed, if they may be sent again.
#[derive(Clone, Debug, PartialEq)]
pub struct Shield {
    /// Bytes of a request body that are kept at most, 0 to 16 MiB. Default 64 KiB.
    pub max_body: usize,
    /// What each request puts into the [budget](crate::policy::budget::Budget); above 0. Default 20 %.
    pub budget: Percent,
    /// Which answers are failures: the guard's, whether there is a guard or not.
    pub failures: Arc<Failures>,
}

/// A question to a Prometheus whose answers say that NEW is bad.
#[derive(Clone, Debug, PartialEq)]
pub struct Query {
    /// What it is called.
    pub name: String,
    /// Where it is asked: the API's own URL.
    pub url: Url,
    /// The question, in PromQL.
    pub promql: String,
    /// When the answer is bad.
    pub bad_if: Condition,
    /// How often it is asked; at least 1 s. Default 30 s.
    pub interval: Duration,
    /// How often in a row it has to be bad; at least 1. Default 3.
    pub failures: usize,
    /// How long the answer may take. Default 5 s.
    pub timeout: Duration,
}

/// When requests are too slow.
#[derive(Clone, Debug, PartialEq)]
pub struct Latency {
    /// What is slow, measured to the head of the answer.
    pub slower_than: SlowerThan,
    /// How many slow ones are too many.
    pub limits: guard::Limits,
}

/// What is slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlowerThan {
    /// More than this.
    Fixed(Duration),
    /// More than 99 of 100 requests on OLD took in the last minute.
    P99OfOld,
}

impl Rollout {
    /// What the file says of it, for the state machine. `rollback_all` is [`Config::rollback`].
    #[must_use]
    pub fn plan(&self, rollback_all: Option<bool>) -> Plan {
        Plan {
            strategy: self.strategy.clone(),
            rollback_all,
            rollback: self.rollback,
            acknowledge: self.acknowledge.clone(),
            schedule: self.schedule.clone(),
            guard: self.guard.as_ref().map(Guard::plan),
        }
    }

    /// The share on [`Rollout::new`] that the file asks for, were nothing known but the file.
    #[must_use]
    pub fn configured(&self) -> Percent {
        State::default().configured(&self.plan(None))
    }
}

/// One place where a key may stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// `header:NAME`, kept in lower case.
    Header(String),
    /// `cookie:NAME`
    Cookie(String),
    /// `query:NAME`, percent-decoded.
    Query(String),
    /// `path:N`: the Nth segment, counted from 1.
    Path(NonZeroUsize),
    /// `jwt:CLAIM` of the bearer token in `authorization`. Read, not verified: that is the service's work.
    Jwt(String),
    /// `client_ip`
    ClientIp,
}

/// How testers choose a side: `always` is NEW and `never` is OLD, in a header or a cookie, from those who may.
#[derive(Clone, Debug, Default)]
pub struct Force {
    /// The header's name, lower case.
    pub header: Option<String>,
    /// The cookie's name.
    pub cookie: Option<String>,
    /// A secret that makes a force value count: it is written `always:TOKEN` or `never:TOKEN`. From `token_file`.
    pub token: Option<Secret>,
    /// Clients whose bare `always` and `never` count.
    pub networks: Vec<Network>,
}

/// A secret that no log, error or debug output shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret, without the white space around it.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.trim().to_owned())
    }

    /// The secret itself, for comparing in constant time.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

/// What a request must look like, and where it goes.
#[derive(Clone, Debug)]
pub struct Route {
    /// What it is called, if it is; no two routes have the same name.
    pub name: Option<String>,
    /// What it must look like.
    pub wanted: Match,
    /// Where it goes.
    pub to: Destination,
}

/// Where a route leads, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Through a rollout's split.
    Rollout(String),
    /// Straight to a backend.
    Backend(String),
}
