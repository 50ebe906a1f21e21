//! Backends as they are written.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Amount, BackendTls, Count, Duration, Percent};

/// The addresses that serve one version.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["endpoints"]))]
pub(in crate::config) struct Backend {
    /// At least one of `http://HOST[:PORT]` (port 80 unless given), `https://HOST[:PORT]` (443) or `unix:/PATH`, the socket of
    /// a server of this machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) endpoints: Option<Vec<String>>,
    /// Whom its `https` endpoints are trusted by and what they are shown. Without it they are trusted by the authorities of
    /// the system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) tls: Option<BackendTls>,
    /// What is spoken to the backend.
    pub(in crate::config) protocol: Protocol,
    /// Whether each connection begins with a PROXY header that says whom it is for, and which version of it. Such a
    /// connection carries only that client's requests, over HTTP/1.1. Without it there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) proxy_protocol: Option<ProxyVersion>,
    /// How requests are spread over the endpoints.
    pub(in crate::config) balance: Balance,
    /// How long the backend may take.
    pub(in crate::config) timeouts: BackendTimeouts,
    /// How each endpoint is asked whether it is well, again and again, and once more before a switch leads to it. Without it
    /// none is asked, and before a switch it only has to accept connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) health: Option<Health>,
    /// How an endpoint that fails requests is taken out for a while, without being asked.
    pub(in crate::config) ejection: Ejection,
    /// For how long an endpoint that is new, or fit again, gets less than its share: it begins with a tenth. `0s` is not at
    /// all.
    pub(in crate::config) slow_start: Duration,
    /// How much the backend gets at once.
    pub(in crate::config) limits: BackendLimits,
    /// How often a request that has done nothing yet is sent once more.
    pub(in crate::config) retries: Retries,
}

impl Default for Backend {
    fn default() -> Self {
        Self {
            endpoints: None,
            tls: None,
            protocol: Protocol::default(),
            proxy_protocol: None,
            balance: Balance::default(),
            timeouts: BackendTimeouts::default(),
            health: None,
            ejection: Ejection::default(),
            slow_start: Duration::new("0s"),
            limits: BackendLimits::default(),
            retries: Retries::default(),
        }
    }
}

/// A version of the PROXY protocol.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum ProxyVersion {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// What is spoken to a backend.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum Protocol {
    /// What both sides agree on over TLS, and HTTP/1.1 without it.
    #[default]
    Auto,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2; without TLS by prior knowledge, as gRPC servers have it.
    H2,
}

/// How requests are spread over endpoints.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum Balance {
    /// In turn, but the one whose turn it is steps back for another one, drawn at random, that has less to do.
    #[default]
    LeastRequests,
    /// In turn.
    RoundRobin,
}

/// How an endpoint is asked whether it is well: it has to answer a GET with 2xx.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["path"]))]
pub(in crate::config) struct Health {
    /// The path to ask for, such as `/healthz`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) path: Option<String>,
    /// How long after an answer it is asked again, up to a tenth more or less; at least `10ms`.
    pub(in crate::config) interval: Duration,
    /// How long the answer may take.
    pub(in crate::config) timeout: Duration,
    /// So many bad answers in a row, or none, and it gets no more requests. The very first answer counts by itself.
    pub(in crate::config) unhealthy_after: Count,
    /// So many good answers in a row, and it gets requests again.
    pub(in crate::config) healthy_after: Count,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            path: None,
            interval: Duration::new("5s"),
            timeout: Duration::new("1s"),
            unhealthy_after: Count::new(3),
            healthy_after: Count::new(2),
        }
    }
}

/// How an endpoint that fails requests is taken out for a while: one that takes no connection, resets it, does not answer in
/// time, answers with what is not HTTP or breaks off, or answers with 502, 503 or 504. The last one that is fit always stays.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Ejection {
    /// Whether it is.
    pub(in crate::config) enabled: bool,
    /// So many failed requests in a row are too many.
    pub(in crate::config) consecutive_failures: Count,
    /// For how long it is out: the first time so long, the second time twice as long, and so on, at most 5 minutes.
    pub(in crate::config) base: Duration,
    /// The share of a backend's endpoints that may be out in this way.
    pub(in crate::config) max_ejected: Percent,
}

impl Default for Ejection {
    fn default() -> Self {
        Self {
            enabled: true,
            consecutive_failures: Count::new(5),
            base: Duration::new("30s"),
            max_ejected: Percent::new("50%"),
        }
    }
}

/// How much a backend gets at once, from all workers together.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct BackendLimits {
    /// Connections to all of its endpoints, those that are kept for later included.
    pub(in crate::config) max_connections: Count,
    /// Requests that wait for one of them. What does not fit is answered with 503. `0` lets none wait.
    pub(in crate::config) max_pending: Amount,
    /// How long a request waits; then it is answered with 503.
    pub(in crate::config) max_wait: Duration,
}

impl Default for BackendLimits {
    fn default() -> Self {
        Self { max_connections: Count::new(1024), max_pending: Amount::new(1024), max_wait: Duration::new("1s") }
    }
}

/// How often a request that has done nothing yet is sent once more: to another endpoint if one takes no connection, or over a
/// new connection if a kept one was closed by the backend at that moment and the request may be repeated (RFC 9110 section
/// 9.2.2) and has no body. A stream that the backend would not look at is sent once more without being counted, and from the
/// second time on like these.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Retries {
    /// How often more than once a request is sent at most, 0 to 10. `0` turns it off.
    pub(in crate::config) attempts: Amount,
    /// How many are, as a share of all requests to the backend; above 0. 100 a worker are free.
    pub(in crate::config) budget: Percent,
}

impl Default for Retries {
    fn default() -> Self {
        Self { attempts: Amount::new(1), budget: Percent::new("20%") }
    }
}

/// How long a backend may take.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct BackendTimeouts {
    /// To accept a connection, its TLS handshake included.
    pub(in crate::config) connect: Duration,
    /// From the whole request sent to the response head.
    pub(in crate::config) response: Duration,
    /// How long an unused connection is kept; keep it below the backend's own keep-alive.
    pub(in crate::config) idle: Duration,
    /// Between two pieces of a response body.
    pub(in crate::config) stream_idle: Duration,
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
