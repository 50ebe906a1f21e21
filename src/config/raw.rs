//! The configuration as it is written. These types read the file and make the schema, so their comments are what users
//! read; what a value means, and whether it makes sense, is for `check` to say.

mod backend;
mod guard;
mod scalar;
mod shield;
mod tls;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub(super) use self::backend::{
    Backend, BackendLimits, BackendTimeouts, Balance, Ejection, Health, Protocol, ProxyVersion, Retries,
};
pub(super) use self::guard::{Action, Failures, Guard, Latency, Query, Statuses};
pub(super) use self::scalar::{
    Amount, Count, Duration, HeaderValue, Key, OneOrMany, Percent, Rate, Scalar, Size, SlowerThan, StepHold, Workers,
};
pub(super) use self::shield::Shield;
pub(super) use self::tls::{BackendTls, ClientAuth, ListenerTls, Pair, TlsVersion};

/// The configuration of tidegate, a progressive traffic router.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "tidegate")]
pub(super) struct Raw {
    /// Where clients connect, such as `127.0.0.1:8080`: the short form of `listeners` for a single address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) listen: Option<String>,
    /// Where clients connect; at least one address, here or in `listen`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) listeners: Option<Vec<Listener>>,
    /// Where status, metrics and the admin API are served.
    pub(super) admin: Admin,
    /// How many worker threads serve traffic: a number, or `auto` for one per core that the process may use.
    pub(super) workers: Workers,
    /// The folder in which the `ROLLBACK` flag file is looked for. Without it there is no flag file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) state_dir: Option<String>,
    /// Networks of proxies whose `x-forwarded-*` and PROXY headers are believed, such as `10.0.0.0/8`; the word `unix` stands
    /// for whoever comes through a unix socket.
    pub(super) trusted_proxies: Vec<String>,
    /// How the names of backends are looked up.
    pub(super) dns: Dns,
    /// The one flag: `true` sends every rollout to OLD, `false` lifts what `true` did. Without it nothing is said: a line
    /// that has vanished lifts nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rollback: Option<bool>,
    /// What those are told whom maintenance turns away, and who passes all the same.
    pub(super) maintenance: Maintenance,
    /// How much may wait while a hold lasts.
    pub(super) hold: Hold,
    /// How the process ends after TERM or INT.
    pub(super) shutdown: Shutdown,
    /// How long a client may take.
    pub(super) timeouts: ClientTimeouts,
    /// How much a client may send.
    pub(super) limits: Limits,
    /// Where access log lines go: `stdout` or a file. Without it none are written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) access_log: Option<String>,
    /// Who is told of changes, by a POST each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) webhooks: Vec<Webhook>,
    /// Backends by name: the addresses that serve one version.
    pub(super) backends: BTreeMap<String, Backend>,
    /// A single rollout: the short form of `rollouts` for one that is named `default`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rollout: Option<Rollout>,
    /// Rollouts by name: pairs of backends and how requests are split between them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rollouts: Option<BTreeMap<String, Rollout>>,
    /// Which requests go where; the first match wins. Without routes everything goes to the only rollout.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) routes: Option<Vec<Route>>,
}

/// An address on which clients connect.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["address"]))]
pub(super) struct Listener {
    /// An IP address and a port, such as `0.0.0.0:8080`, or `unix:` and the path of a socket to be made there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) address: Option<String>,
    /// Whether each connection begins with a PROXY header, version 1 or 2, that says whom it is for. Connections without it,
    /// and from others than `trusted_proxies`, are closed.
    pub(super) proxy_protocol: bool,
    /// Has clients speak TLS. Without it they speak in clear text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tls: Option<ListenerTls>,
}

/// How the names of backends are looked up: again and again, beside the requests. What was found last stays in use while no
/// server answers.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Dns {
    /// Name servers that are asked, in this order, such as `10.0.0.2` or `127.0.0.1:5353`. Without them those of
    /// `/etc/resolv.conf`, with its search list.
    pub(super) servers: Vec<String>,
    /// Addresses are used for at least this long, even if the answer says less.
    pub(super) min_ttl: Duration,
    /// Addresses are used for at most this long, even if the answer says more.
    pub(super) max_ttl: Duration,
    /// How long the servers have together to answer about one name.
    pub(super) timeout: Duration,
    /// Whose addresses are used if a name has both: `ipv4` or `ipv6`.
    pub(super) prefer: Family,
}

impl Default for Dns {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            min_ttl: Duration::new("5s"),
            max_ttl: Duration::new("5m"),
            timeout: Duration::new("2s"),
            prefer: Family::Ipv4,
        }
    }
}

/// A family of addresses.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Family {
    /// The addresses of IPv4 if there are any.
    Ipv4,
    /// The addresses of IPv6 if there are any.
    Ipv6,
}

/// Where status, metrics and the admin API are served.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Admin {
    /// An address, or `unix:` and the path of a socket. What is no loopback address needs a `token_file`.
    pub(super) address: String,
    /// A file with the tokens of those who may use the admin side, one a line: `NAME: TOKEN`, or a TOKEN alone, which is
    /// then named `token`. Blank lines and lines that begin with # are skipped. A token has at least 16 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) token_file: Option<String>,
    /// Names of hosts, without a port, under which the admin side may be asked besides those of the loopback.
    pub(super) allowed_hosts: Vec<String>,
}

impl Default for Admin {
    fn default() -> Self {
        Self { address: "127.0.0.1:9901".to_owned(), token_file: None, allowed_hosts: Vec::new() }
    }
}

/// What those are told whom maintenance turns away, and who passes all the same. It is turned on over the admin API, where
/// the message and the time can be given too.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Maintenance {
    /// What people read: plain text. Without it they read that the service is in maintenance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) message: Option<String>,
    /// When clients should come back, in the header `retry-after`; at least `1s`.
    pub(super) retry_after: Duration,
    /// Answers of your own.
    pub(super) pages: Pages,
    /// Exact paths that a balancer asks for: tidegate answers them with 200 itself meanwhile, so that it stays in service.
    pub(super) health_paths: Vec<String>,
    /// Who is served all the same.
    pub(super) bypass: Bypass,
}

impl Default for Maintenance {
    fn default() -> Self {
        Self {
            message: None,
            retry_after: Duration::new("60s"),
            pages: Pages::default(),
            health_paths: Vec::new(),
            bypass: Bypass::default(),
        }
    }
}

/// Files with answers of your own, at most 256 KiB of UTF-8 each. Which one is sent depends on what the client accepts.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Pages {
    /// For browsers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) html: Option<String>,
    /// For programs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) json: Option<String>,
    /// For all others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) text: Option<String>,
}

/// Who is served during maintenance: clients from some networks, and those who send a token in a header or a cookie.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Bypass {
    /// The name of the header in which the token stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) header: Option<String>,
    /// The name of the cookie in which the token stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cookie: Option<String>,
    /// A file with the token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) token_file: Option<String>,
    /// Networks whose clients need no token.
    pub(super) networks: Vec<String>,
}

/// How much may wait while a hold lasts. What does not fit is turned away.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Hold {
    /// How long each request waits at most.
    pub(super) max_wait: Duration,
    /// How many requests wait at once.
    pub(super) max_requests: Count,
    /// The size of all that they sent so far.
    pub(super) max_bytes: Size,
    /// How many of them go on in each second once the hold is over.
    pub(super) release_rate: Count,
}

impl Default for Hold {
    fn default() -> Self {
        Self {
            max_wait: Duration::new("10s"),
            max_requests: Count::new(1000),
            max_bytes: Size::new("64MiB"),
            release_rate: Count::new(200),
        }
    }
}

/// How the process ends after TERM or INT.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Shutdown {
    /// How long `/readyz` says no while connections are still accepted, so that a balancer can notice. May be `0s`.
    pub(super) readiness_delay: Duration,
    /// How long running requests may take after that. May be `0s`.
    pub(super) drain_timeout: Duration,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { readiness_delay: Duration::new("5s"), drain_timeout: Duration::new("30s") }
    }
}

/// How long a client may take.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ClientTimeouts {
    /// From a connection to the end of its TLS handshake.
    pub(super) handshake: Duration,
    /// From a request head's first byte to its last.
    pub(super) header: Duration,
    /// Between two pieces of a request body.
    pub(super) body_idle: Duration,
    /// From one request to the next on a connection.
    pub(super) keep_alive: Duration,
    /// How long a client may refuse to read.
    pub(super) write_stall: Duration,
}

impl Default for ClientTimeouts {
    fn default() -> Self {
        Self {
            handshake: Duration::new("5s"),
            header: Duration::new("10s"),
            body_idle: Duration::new("30s"),
            keep_alive: Duration::new("60s"),
            write_stall: Duration::new("30s"),
        }
    }
}

/// How much a client may send.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Limits {
    /// Connections at once, over all listeners.
    pub(super) max_connections: Count,
    /// TLS handshakes at once, divided among the workers. Those beyond wait for their turn, first come, first served.
    pub(super) max_handshakes: Count,
    /// The size of a request head, and of a backend's response head; at least `8KiB`.
    pub(super) max_header_size: Size,
    /// Header fields in a request.
    pub(super) max_header_fields: Count,
    /// The size of a request target (path and query).
    pub(super) max_target: Size,
    /// The size of a request body. Without it there is no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) max_body: Option<Size>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: Count::new(10_000),
            max_handshakes: Count::new(256),
            max_header_size: Size::new("32KiB"),
            max_header_fields: Count::new(100),
            max_target: Size::new("8KiB"),
            max_body: None,
        }
    }
}

/// Somebody who is told of changes by a POST in JSON, signed as Standard Webhooks says.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["url"]))]
pub(super) struct Webhook {
    /// What it is called in metrics, status and logs; no two have the same name. `webhook-1` for the first in the list, and
    /// so on, unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<String>,
    /// Where it is: an http or https URL. Only its scheme, host and port are ever shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) url: Option<String>,
    /// A file with the secret that messages are signed with: 16 characters or more, or `whsec_` and base64. Without it they
    /// are not signed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) secret_file: Option<String>,
    /// What it is told of.
    pub(super) events: Vec<WebhookEvent>,
}

impl Default for Webhook {
    fn default() -> Self {
        Self { name: None, url: None, secret_file: None, events: WebhookEvent::ALL.to_vec() }
    }
}

/// What a webhook can be told of.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum WebhookEvent {
    /// The guard did something.
    Trip,
    /// Everybody went to OLD: by an operator, a file, the deadline.
    Rollback,
    /// A rollback was lifted.
    Resume,
    /// A ramp went on by a step, by itself or by hand.
    Step,
    /// The colours were switched.
    Switch,
}

impl WebhookEvent {
    const ALL: [Self; 5] = [Self::Trip, Self::Rollback, Self::Resume, Self::Step, Self::Switch];
}

/// A pair of backends and how requests are split between them.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("anyOf" = [
    {"required": ["old", "new", "key"]},
    {"required": ["strategy", "blue", "green", "active"]}
]))]
pub(super) struct Rollout {
    /// The version that is known to work: a backend's name or a URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) old: Option<String>,
    /// The version that is being rolled out: a backend's name or a URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) new: Option<String>,
    /// The share of keys that NEW serves; 0 if neither this nor `steps` is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) percent: Option<Percent>,
    /// A ramp, in place of `percent`: at most 100 steps, each above the one before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) steps: Option<Vec<Step>>,
    /// How people are moved.
    pub(super) strategy: Strategy,
    /// With `blue_green`, the backend of one colour: its name or a URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) blue: Option<String>,
    /// With `blue_green`, the backend of the other colour: its name or a URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) green: Option<String>,
    /// With `blue_green`, the colour that serves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) active: Option<Color>,
    /// What makes a request sticky: `header:NAME`, `cookie:NAME`, `query:NAME`, `path:N` (the Nth segment), `jwt:CLAIM`
    /// or `client_ip`. Of several, the first that is present counts. Not needed with `blue_green`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) key: Option<OneOrMany>,
    /// How a key becomes a bucket.
    pub(super) hash: Hash,
    /// What makes the xxh3 buckets of this rollout differ from another's; the rollout's name unless set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) salt: Option<String>,
    /// What happens to requests without a key.
    pub(super) on_missing: OnMissing,
    /// When the rollout may be raised, and by when it has to be done.
    pub(super) schedule: Schedule,
    /// This rollout's own flag: `true` sends it to OLD, `false` lifts what `true` did. Without it nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rollback: Option<bool>,
    /// Ids of rollbacks that the file lifts, as status shows them: one, or several. Each lifts once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) acknowledge: Option<OneOrMany>,
    /// Keys that always go to one side; the first match wins.
    pub(super) rules: Vec<Rule>,
    /// How testers choose a side.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) force: Option<Force>,
    /// Whether clients are told their side in the response header `x-tidegate-side`.
    pub(super) expose_side: bool,
    /// What takes NEW away by itself when it hurts users. It is there unless it says `enabled: false`.
    pub(super) guard: Guard,
    /// Lets OLD answer requests that NEW failed, if they may be sent again. It is not there unless it is written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) shield: Option<Shield>,
    /// What happens to requests whose side has no endpoint that is fit.
    pub(super) fallback: Fallback,
}

/// What happens to requests whose side has no endpoint that is fit.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Fallback {
    /// They are answered with 503.
    #[default]
    None,
    /// The other side answers them: never NEW while it is rolled back, drained or at 0 %, and never for testers.
    OtherSide,
}

/// How people are moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Strategy {
    /// A share at a time, by `percent` or by `steps`.
    #[default]
    Percent,
    /// All at once, between two colours.
    BlueGreen,
}

/// One of the two backends of a blue/green rollout.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Color {
    /// The one that stands in `blue`.
    Blue,
    /// The one that stands in `green`.
    Green,
}

/// One step of a ramp.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["percent"]))]
pub(super) struct Step {
    /// The share of keys that NEW serves meanwhile; above 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) percent: Option<Percent>,
    /// How long it lasts at least. May be `0s`.
    pub(super) hold: StepHold,
    /// How many requests NEW has to have answered in it before it is over.
    pub(super) min_requests: Amount,
}

/// When a rollout may be raised, and by when it has to be done. A window is written `Mon-Thu 09:00-16:00 Asia/Shanghai`:
/// days (every day without them), times (the whole day without them; they may pass midnight) and a time zone.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Schedule {
    /// Windows in which it may be raised. Without any: always.
    pub(super) allow: Vec<String>,
    /// Windows in which it is not raised, even if `allow` covers them.
    pub(super) freeze: Vec<String>,
    /// Rolled back if it is not at 100 % by then: `2026-11-22T07:00:00+08:00` or `2026-11-22 07:00 Asia/Shanghai`. Not with
    /// `blue_green`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) deadline: Option<String>,
}

/// How a key becomes a bucket.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Hash {
    /// Decimal keys by `n % 100`, which support staff and SQL can compute; all others as `xxh3`.
    #[default]
    Modulo,
    /// All keys by their salted xxh3 digest.
    Xxh3,
}

/// What happens to requests without a key.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum OnMissing {
    /// OLD answers them.
    #[default]
    Old,
    /// NEW answers them.
    New,
    /// A fresh random bucket for each request: the share is right, but nothing is sticky.
    Random,
    /// An anonymous id, kept in a cookie that is set when it is missing.
    Cookie,
}

/// Keys that always go to one side, whatever the percent.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["side"]))]
pub(super) struct Rule {
    /// The keys.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) keys: Vec<Key>,
    /// A file of keys, one a line; blank lines and lines that begin with # are skipped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) keys_file: Option<String>,
    /// Where they go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) side: Option<Side>,
}

/// One of the two versions.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Side {
    /// The version that is known to work.
    Old,
    /// The version that is being rolled out.
    New,
}

/// How testers choose a side: `always` (NEW) or `never` (OLD), in a header or a cookie, from those who may.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Force {
    /// The header's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) header: Option<String>,
    /// The cookie's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cookie: Option<String>,
    /// A file with a secret; `always:SECRET` and `never:SECRET` then count from anywhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) token_file: Option<String>,
    /// Client networks from which a bare `always` or `never` counts.
    pub(super) networks: Vec<String>,
}

/// Which requests go where: to a rollout or straight to a backend.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Route {
    /// What the route is called in status, and where it is put into maintenance; no two have the same name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<String>,
    /// What a request must look like; without it every request matches.
    #[serde(rename = "match")]
    pub(super) wanted: Match,
    /// The rollout it goes to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rollout: Option<String>,
    /// The backend it goes to, if there is nothing to split.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) backend: Option<String>,
}

/// What a request must look like. What is not given matches everything.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Match {
    /// The host without its port: `pay.example.com`, or `*.example.com` for all hosts below a domain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) host: Option<String>,
    /// The path's beginning, in whole segments: `/pay` covers `/pay` and `/pay/7`, not `/payments`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) path: Option<String>,
    /// One method, or several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) method: Option<OneOrMany>,
    /// Headers by name, each with the value it must have, or null if it must only be there.
    pub(super) headers: BTreeMap<String, HeaderValue>,
}
