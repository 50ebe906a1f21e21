//! The one value that a request reads: everything in force, made aside and published in one store.
//!
//! It is built from a checked [`Config`] and the latches of the moment, and never changed. Names have become indices, and
//! header values are made once, so that a request formats nothing.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{HeaderName, HeaderValue};

use crate::config::{self, BackendTimeouts, Config, Force};
use crate::metrics::{Registry, RolloutMeters, Series};
use crate::policy::bucket::Percent;
use crate::policy::decision::{Side, Split};
use crate::policy::network::Network;
use crate::policy::route::Routes;

/// Everything in force for a request.
#[derive(Debug)]
pub struct Snapshot {
    /// Counts publications of this process, from 1.
    pub revision: u64,
    /// Which file this came from: see [`Config::hash`].
    pub config_hash: String,
    /// When the config was read.
    pub loaded_at: SystemTime,
    /// Where requests go.
    pub routes: Routes<Destination>,
    /// The rollouts, by name.
    pub rollouts: Vec<Rollout>,
    /// The backends, by name.
    pub backends: Vec<Backend>,
    /// Proxies whose `x-forwarded-*` headers are believed.
    pub trusted_proxies: Vec<Network>,
    /// How long a client may take.
    pub timeouts: config::ClientTimeouts,
    /// How much a client may send.
    pub limits: config::Limits,
    /// The meters of requests that no rollout decides.
    pub unsplit: Arc<Series>,
}

/// Where a route leads.
#[derive(Clone, Copy, Debug)]
pub enum Destination {
    /// An index into [`Snapshot::rollouts`].
    Rollout(usize),
    /// An index into [`Snapshot::backends`].
    Backend(usize),
}

/// A rollout as it is in force.
#[derive(Debug)]
pub struct Rollout {
    /// Its name.
    pub name: String,
    /// What the config says.
    pub configured: Percent,
    /// Why it is rolled back; empty if it is not.
    pub latches: Vec<Latch>,
    /// What decides.
    pub split: Split,
    /// Where the key comes from, first present wins.
    pub key: Vec<KeySource>,
    /// What is hashed in front of a key: the salt and a unit separator.
    pub salt: Box<[u8]>,
    /// Indices into [`Snapshot::backends`], by [`Side::index`].
    pub sides: [usize; 2],
    /// How testers choose a side.
    pub force: Force,
    /// Whether clients are told their side.
    pub expose_side: bool,
    /// The name as a header value.
    pub label: HeaderValue,
    /// Its meters.
    pub meters: Arc<RolloutMeters>,
}

impl Rollout {
    /// The percent in force: nothing while it is rolled back.
    #[must_use]
    pub fn effective(&self) -> Percent {
        if self.split.rollback { Percent::ZERO } else { self.split.percent }
    }

    /// The backend of `side`, as an index into [`Snapshot::backends`].
    #[must_use]
    pub fn backend(&self, side: Side) -> usize {
        self.sides[side.index()]
    }
}

/// Where a key may stand, ready to be looked up.
#[derive(Clone, Debug)]
pub enum KeySource {
    /// A header.
    Header(HeaderName),
    /// A cookie.
    Cookie(String),
    /// A query parameter.
    Query(String),
    /// A path segment, counted from 0.
    Path(usize),
    /// A claim of a bearer JWT.
    Jwt(String),
    /// The client's address.
    ClientIp,
}

/// One door through which a rollback was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Latch {
    /// Which door.
    pub source: LatchSource,
    /// Since when, as far as this process knows.
    pub at: SystemTime,
}

/// The doors of an emergency rollback.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LatchSource {
    /// `rollback: true` of the whole file.
    Config,
    /// `rollback: true` of this rollout.
    ConfigRollout,
    /// The file `ROLLBACK` in the state directory.
    FlagFile,
}

impl LatchSource {
    /// The name in status.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Config | Self::ConfigRollout => "config",
            Self::FlagFile => "flag_file",
        }
    }

    /// What a person would have to undo.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Config => "rollback: true at the top of the config",
            Self::ConfigRollout => "rollback: true in the rollout's config",
            Self::FlagFile => "the file ROLLBACK in state_dir",
        }
    }
}

/// A backend as it is in force.
#[derive(Debug)]
pub struct Backend {
    /// Its name.
    pub name: String,
    /// Its endpoints; at least one.
    pub endpoints: Vec<Endpoint>,
}

/// What makes connections exchangeable: workers keep one pool for each of these, over reloads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where it is.
    pub address: config::Endpoint,
    /// How long it may take.
    pub timeouts: BackendTimeouts,
    /// Bytes of a response head.
    pub max_header_size: usize,
}

impl Snapshot {
    /// Puts `config` in force under the latches that `latched` finds for each rollout (by name).
    #[must_use]
    pub fn build(
        config: &Config,
        revision: u64,
        loaded_at: SystemTime,
        registry: &Registry,
        latched: impl Fn(&str) -> Vec<Latch>,
    ) -> Self {
        let rollout_names: Vec<&String> = config.rollouts.keys().collect();
        let backend_names: Vec<&String> = config.backends.keys().collect();
        let place = |names: &[&String], name: &String| {
            names.binary_search(&name).expect("a checked config names only what exists")
        };
        let backend_at = |name: &String| place(&backend_names, name);
        let routes = config.routes.iter().map(|route| {
            let destination = match &route.to {
                config::Destination::Rollout(name) => Destination::Rollout(place(&rollout_names, name)),
                config::Destination::Backend(name) => Destination::Backend(backend_at(name)),
            };
            (route.wanted.clone(), destination)
        });
        Self {
            revision,
            config_hash: config.hash.clone(),
            loaded_at,
            routes: Routes::new(routes.collect()),
            rollouts: config
                .rollouts
                .iter()
                .map(|(name, written)| {
                    let sides = [backend_at(&written.old), backend_at(&written.new)];
                    rollout(name, written, sides, registry.rollout(name), latched(name))
                })
                .collect(),
            backends: config
                .backends
                .iter()
                .map(|(name, written)| backend(name, written, config.limits.max_header_size))
                .collect(),
            trusted_proxies: config.trusted_proxies.clone(),
            timeouts: config.timeouts.clone(),
            limits: config.limits.clone(),
            unsplit: registry.unsplit(),
        }
    }

    /// The rollout called `name`.
    #[must_use]
    pub fn rollout(&self, name: &str) -> Option<&Rollout> {
        self.rollouts.iter().find(|rollout| rollout.name == name)
    }

    /// How long the longest-lived unused backend connection is kept.
    #[must_use]
    pub fn longest_idle(&self) -> Duration {
        let endpoints = self.backends.iter().flat_map(|backend| &backend.endpoints);
        endpoints.map(|endpoint| endpoint.timeouts.idle).max().unwrap_or_default()
    }
}

fn rollout(
    name: &str,
    written: &config::Rollout,
    sides: [usize; 2],
    meters: Arc<RolloutMeters>,
    latches: Vec<Latch>,
) -> Rollout {
    Rollout {
        name: name.to_owned(),
        configured: written.configured(),
        split: Split {
            rollback: !latches.is_empty(),
            percent: written.configured(),
            hash: written.hash,
            rules: written.rules.clone(),
            on_missing: written.on_missing,
        },
        latches,
        key: written.key.iter().map(key_source).collect(),
        salt: [written.salt.as_bytes(), b"\x1f"].concat().into_boxed_slice(),
        sides,
        force: written.force.clone(),
        expose_side: written.expose_side,
        label: HeaderValue::from_str(name).expect("a checked name is letters, digits, '-' and '_'"),
        meters,
    }
}

fn key_source(written: &config::KeySource) -> KeySource {
    match written {
        config::KeySource::Header(name) => {
            KeySource::Header(HeaderName::from_bytes(name.as_bytes()).expect("a checked header name is a token"))
        }
        config::KeySource::Cookie(name) => KeySource::Cookie(name.clone()),
        config::KeySource::Query(name) => KeySource::Query(name.clone()),
        config::KeySource::Path(nth) => KeySource::Path(nth.get() - 1),
        config::KeySource::Jwt(claim) => KeySource::Jwt(claim.clone()),
        config::KeySource::ClientIp => KeySource::ClientIp,
    }
}

fn backend(name: &str, written: &config::Backend, max_header_size: usize) -> Backend {
    let endpoint = |address: &config::Endpoint| Endpoint {
        address: address.clone(),
        timeouts: written.timeouts.clone(),
        max_header_size,
    };
    Backend { name: name.to_owned(), endpoints: written.endpoints.iter().map(endpoint).collect() }
}
