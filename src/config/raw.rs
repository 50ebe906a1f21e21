//! The configuration as it is written. These types read the file and make the schema, so their comments are what users
//! read; what a value means, and whether it makes sense, is for `check` to say.

use std::collections::BTreeMap;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

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
    /// Networks of proxies whose `x-forwarded-*` headers are believed, such as `10.0.0.0/8`.
    pub(super) trusted_proxies: Vec<String>,
    /// The one flag: `true` sends every rollout to OLD, `false` lifts what `true` did. Without it nothing is said: a line
    /// that has vanished lifts nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rollback: Option<bool>,
    /// How the process ends after TERM or INT.
    pub(super) shutdown: Shutdown,
    /// How long a client may take.
    pub(super) timeouts: ClientTimeouts,
    /// How much a client may send.
    pub(super) limits: Limits,
    /// Where access log lines go: `stdout` or a file. Without it none are written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) access_log: Option<String>,
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
    /// An IP address and a port, such as `0.0.0.0:8080`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) address: Option<String>,
}

/// Where status, metrics and the admin API are served.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Admin {
    /// A loopback address, or `unix:` and the path of a socket.
    pub(super) address: String,
}

impl Default for Admin {
    fn default() -> Self {
        Self { address: "127.0.0.1:9901".to_owned() }
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
            max_connections: Count(Scalar::Integer(10_000)),
            max_header_size: Size::new("32KiB"),
            max_header_fields: Count(Scalar::Integer(100)),
            max_target: Size::new("8KiB"),
            max_body: None,
        }
    }
}

/// The addresses that serve one version.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["endpoints"]))]
pub(super) struct Backend {
    /// At least one URL of the form `http://HOST[:PORT]`; the port is 80 unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) endpoints: Option<Vec<String>>,
    /// How long the backend may take.
    pub(super) timeouts: BackendTimeouts,
}

/// How long a backend may take.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct BackendTimeouts {
    /// To accept a connection.
    pub(super) connect: Duration,
    /// From the whole request sent to the response head.
    pub(super) response: Duration,
    /// How long an unused connection is kept; keep it below the backend's own keep-alive.
    pub(super) idle: Duration,
    /// Between two pieces of a response body.
    pub(super) stream_idle: Duration,
}

impl Default for BackendTimeouts {
    fn default() -> Self {
        Self {
            connect: Duration::new("1s"),
            response: Duration::new("30s"),
            idle: Duration::new("4s"),
            stream_idle: Duration::new("5m"),
        }
    }
}

/// A pair of backends and how requests are split between them.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["old", "new", "key"]))]
pub(super) struct Rollout {
    /// The version that is known to work: a backend's name or a URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) old: Option<String>,
    /// The version that is being rolled out: a backend's name or a URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) new: Option<String>,
    /// The share of keys that NEW serves.
    pub(super) percent: Percent,
    /// What makes a request sticky: `header:NAME`, `cookie:NAME`, `query:NAME`, `path:N` (the Nth segment), `jwt:CLAIM`
    /// or `client_ip`. Of several, the first that is present counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) key: Option<OneOrMany>,
    /// How a key becomes a bucket.
    pub(super) hash: Hash,
    /// What makes the xxh3 buckets of this rollout differ from another's; the rollout's name unless set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) salt: Option<String>,
    /// What happens to requests without a key.
    pub(super) on_missing: OnMissing,
    /// This rollout's own flag: `true` sends it to OLD, `false` lifts what `true` did. Without it nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rollback: Option<bool>,
    /// Keys that always go to one side; the first match wins.
    pub(super) rules: Vec<Rule>,
    /// How testers choose a side.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) force: Option<Force>,
    /// Whether clients are told their side in the response header `x-tidegate-side`.
    pub(super) expose_side: bool,
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

/// A number, a boolean or a text, before it is known what it means.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Scalar {
    Integer(i128),
    Float(f64),
    Text(String),
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarVisitor)
    }
}

struct ScalarVisitor;

impl Visitor<'_> for ScalarVisitor {
    type Value = Scalar;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number or a text")
    }

    fn visit_i128<E>(self, value: i128) -> Result<Scalar, E> {
        Ok(Scalar::Integer(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Scalar, E> {
        Ok(Scalar::Float(value))
    }

    fn visit_str<E>(self, text: &str) -> Result<Scalar, E> {
        Ok(Scalar::Text(text.to_owned()))
    }
}

/// Scalars that differ in meaning: each is a type of its own with a schema of its own.
macro_rules! scalars {
    ($($(#[doc = $doc:literal])+ $name:ident, $schema:tt;)+) => {$(
        $(#[doc = $doc])+
        #[derive(Clone, Debug, Deserialize, Serialize)]
        #[serde(transparent)]
        pub(super) struct $name(pub(super) Scalar);

        impl JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    )+};
}

scalars! {
    /// A whole number and its unit: `250ms`, `10s`, `30m` or `24h`.
    Duration, {
        "description": "A whole number and its unit, such as 250ms, 10s, 30m or 24h.",
        "type": "string",
        "pattern": "^[0-9]+(ms|s|m|h)$"
    };
    /// Bytes, or a whole number and its unit: `64KiB` (1024), `10MB` (1000).
    Size, {
        "description": "Bytes, or a whole number and its unit: 64KiB (times 1024) or 10MB (times 1000).",
        "anyOf": [
            {"type": "integer", "minimum": 0},
            {"type": "string", "pattern": "^[0-9]+ ?(B|[kK]B|KiB|MB|MiB|GB|GiB)?$"}
        ]
    };
    /// `5`, `12.5` or `5%`, from 0 to 100 with at most two decimals.
    Percent, {
        "description": "From 0 to 100 with at most two decimals: 5, 12.5 or \"5%\".",
        "anyOf": [
            {"type": "number", "minimum": 0, "maximum": 100},
            {"type": "string", "pattern": "^[0-9]{1,3}([.][0-9]{1,2})? ?%?$"}
        ]
    };
    /// A whole number above zero.
    Count, {"description": "A whole number above zero.", "type": "integer", "minimum": 1};
    /// A whole number above zero, or `auto`.
    Workers, {
        "description": "A whole number above zero, or auto.",
        "anyOf": [{"type": "integer", "minimum": 1, "maximum": 1024}, {"const": "auto"}]
    };
    /// A key as it arrives in a request: a text or a whole number.
    Key, {
        "description": "A key as it arrives in a request: a text or a whole number.",
        "type": ["string", "integer"]
    };
}

impl Duration {
    fn new(text: &str) -> Self {
        Self(Scalar::Text(text.to_owned()))
    }
}

impl Size {
    fn new(text: &str) -> Self {
        Self(Scalar::Text(text.to_owned()))
    }
}

impl Default for Percent {
    fn default() -> Self {
        Self(Scalar::Integer(0))
    }
}

impl Default for Workers {
    fn default() -> Self {
        Self(Scalar::Text("auto".to_owned()))
    }
}

/// One text, or a list of them.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum OneOrMany {
    /// One.
    One(String),
    /// Several, in order.
    Many(Vec<String>),
}

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OneOrManyVisitor)
    }
}

struct OneOrManyVisitor;

impl<'de> Visitor<'de> for OneOrManyVisitor {
    type Value = OneOrMany;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text or a list of texts")
    }

    fn visit_str<E>(self, text: &str) -> Result<OneOrMany, E> {
        Ok(OneOrMany::One(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<OneOrMany, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(OneOrMany::Many(items))
    }
}

/// The value that a header must have, or null if the header must only be there.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(super) struct HeaderValue(pub(super) Option<String>);

impl JsonSchema for HeaderValue {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "HeaderValue".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "The value that the header must have, or null if it must only be there.",
            "type": ["string", "integer", "null"]
        })
    }
}

impl<'de> Deserialize<'de> for HeaderValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(HeaderValueVisitor)
    }
}

struct HeaderValueVisitor;

impl Visitor<'_> for HeaderValueVisitor {
    type Value = HeaderValue;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, or null if the header must only be there")
    }

    fn visit_unit<E>(self) -> Result<HeaderValue, E> {
        Ok(HeaderValue(None))
    }

    fn visit_i128<E>(self, value: i128) -> Result<HeaderValue, E> {
        Ok(HeaderValue(Some(value.to_string())))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<HeaderValue, E> {
        Ok(HeaderValue(Some(text.to_owned())))
    }
}
