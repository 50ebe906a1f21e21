//! The one value that a request reads: everything in force, made aside and published in one store.
//!
//! It is built from a checked [`Config`] and the latches of the moment, and never changed. Names have become indices, and
//! header values are made once, so that a request formats nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{HeaderName, HeaderValue};

use crate::config::{self, Address, BackendTimeouts, Config, Force, Keyring, MaintenanceDefaults, Scheme};
use crate::hold::Queue;
use crate::metrics::backend::BackendState;
use crate::metrics::endpoint::EndpointState;
use crate::metrics::{Registry, RolloutMeters, Seat, Series};
use crate::policy::balance::Balance;
use crate::policy::bucket::Percent;
use crate::policy::decision::{Fallback, OnMissing, Side, Split};
use crate::policy::ejection;
use crate::policy::network::Trusted;
use crate::policy::outcome::Failures;
use crate::policy::rollout::{Plan, State, Strategy};
use crate::policy::route::Routes;
use crate::policy::standing::{self, Standing};
use crate::proxy_header::Version;
use crate::tls;

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
    /// Whether all requests everywhere are served; if so, no request looks at any [`Service`].
    pub is_open: bool,
    /// What those are told who are turned away, and who is not.
    pub maintenance: Arc<MaintenanceDefaults>,
    /// Whether requests are served at all.
    pub everything: Service,
    /// Whether the requests of each route are served, by the route's place in the order.
    pub by_route: Vec<Service>,
    /// The hold of everything that is asked for; none while those who waited go on.
    pub hold: Option<standing::Hold>,
    /// The routes that have a name, in the order of the file.
    pub named_routes: Vec<NamedRoute>,
    /// Whom the admin side obeys.
    pub admin: config::Admin,
    /// Who is told of changes.
    pub webhooks: Arc<[config::Webhook]>,
    /// The config as it is written: see [`Config::written`].
    pub written: Arc<serde_json::Value>,
    /// The rollouts, by name.
    pub rollouts: Vec<Rollout>,
    /// The backends, by name.
    pub backends: Vec<Backend>,
    /// Where clients connect, in the order of the file as it was at the start.
    pub listeners: Vec<config::Listener>,
    /// TLS with the clients of each of them; `None`: they speak in clear text.
    pub tls: Vec<Option<Arc<tls::Server>>>,
    /// What the files of TLS hold.
    pub keyring: Keyring,
    /// Proxies that are believed when they say whom they stand for.
    pub trusted_proxies: Trusted,
    /// How long a client may take.
    pub timeouts: config::ClientTimeouts,
    /// How much a client may send.
    pub limits: config::Limits,
    /// Connections to backends that there may be at once, to all of them.
    pub connections_to_backends: usize,
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

/// A route that people can speak of.
#[derive(Clone, Debug)]
pub struct NamedRoute {
    /// Its name.
    pub name: String,
    /// An index into [`Snapshot::by_route`].
    pub at: usize,
    /// The hold that is asked for; none while those who waited go on.
    pub hold: Option<standing::Hold>,
}

/// Whether requests are served, as a request finds it.
#[derive(Clone, Debug, Default)]
pub struct Service {
    /// The public is turned away.
    pub maintenance: Option<Arc<standing::Maintenance>>,
    /// Requests wait here.
    pub hold: Option<Arc<Queue>>,
}

impl Service {
    /// Neither turned away nor made to wait.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.maintenance.is_none() && self.hold.is_none()
    }
}

/// What something is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Every rollout, or all requests.
    Everything,
    /// A rollout, by name.
    Rollout(String),
    /// A route, by name.
    Route(String),
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everything => f.write_str("*"),
            Self::Rollout(name) => f.write_str(name),
            Self::Route(name) => write!(f, "route:{name}"),
        }
    }
}

/// What is put over the config: what people, files and the clock did to its rollouts, and who is turned away.
#[derive(Clone, Debug, Default)]
pub struct Overlay {
    /// The states of rollouts, by name.
    pub rollouts: BTreeMap<String, State>,
    /// Whether requests are served at all.
    pub everything: Standing,
    /// Whether the requests of a route are served, by the route's name.
    pub routes: BTreeMap<String, Standing>,
    /// Where requests wait, while they are held and until the last of them has gone on.
    pub queues: BTreeMap<Scope, Arc<Queue>>,
    /// Which requests of a rollout its guard counts: see [`Guarded::epoch`].
    pub epochs: BTreeMap<String, u64>,
    /// What the names of endpoints stand for.
    pub addresses: BTreeMap<String, Arc<[IpAddr]>>,
}

/// A rollout as it is in force.
#[derive(Debug)]
pub struct Rollout {
    /// Its name.
    pub name: String,
    /// What the config says of it.
    pub plan: Plan,
    /// What happened to it.
    pub state: State,
    /// What decides; made of the two.
    pub split: Split,
    /// Whether its requests are served.
    pub service: Service,
    /// The side on which running requests are cut off.
    pub cut: Option<Side>,
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
    /// What its guard counts; `None` if there is none.
    pub guard: Option<Guarded>,
    /// What answers in place of a NEW that fails; `None` if nothing does.
    pub shield: Option<config::Shield>,
    /// What happens to requests whose side has no endpoint that is fit.
    pub fallback: Fallback,
    /// Its meters.
    pub meters: Arc<RolloutMeters>,
}

/// What a guard counts.
#[derive(Clone, Debug)]
pub struct Guarded {
    /// A request counts while this is the epoch that is being [watched](crate::metrics::tally::Tallies::watch).
    pub epoch: u64,
    /// Which answers are failures.
    pub failures: Arc<Failures>,
    /// Whether it counts slow requests.
    pub is_timed: bool,
}

impl Rollout {
    /// What the config says the share on NEW should be.
    #[must_use]
    pub fn configured(&self) -> Percent {
        self.state.configured(&self.plan)
    }

    /// The share on NEW that is in force.
    #[must_use]
    pub fn effective(&self) -> Percent {
        self.state.effective(&self.plan)
    }

    /// Whether `side` gets no new work because it is being drained. A rollback needs OLD, drained or not.
    #[must_use]
    pub fn empties(&self, side: Side) -> bool {
        self.split.drained == Some(side) && !(self.split.rollback && side == Side::Old)
    }

    /// Where `side` stands in the config.
    #[must_use]
    pub fn seat(&self, side: Side) -> Seat {
        Seat::of(side, self.state.have_changed_places(&self.plan))
    }

    /// Requests that run on what is `side` now, whatever it was when they began.
    #[must_use]
    pub fn running(&self, side: Side) -> u64 {
        self.meters.running(self.seat(side))
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

/// A backend as it is in force.
#[derive(Debug)]
pub struct Backend {
    /// Its name.
    pub name: String,
    /// Its endpoints, one for each address of each name; none while no name has any.
    pub endpoints: Vec<Endpoint>,
    /// The names among its endpoints that have no address.
    pub nowhere: Vec<String>,
    /// Its host, for a request that names none.
    pub host: HeaderValue,
    /// How requests are spread over its endpoints.
    pub balance: Balance,
    /// For how long an endpoint that is new or fit again gets less than its share.
    pub slow_start: Duration,
    /// How its endpoints are asked whether they are fit to serve.
    pub health: Option<config::Health>,
    /// How endpoints that fail requests are taken out.
    pub ejection: Option<ejection::Rules>,
    /// How long a request waits for a connection.
    pub max_wait: Duration,
    /// How often a request is sent once more.
    pub retries: config::Retries,
    /// What is known of it beyond this snapshot.
    pub state: Arc<BackendState>,
}

impl Backend {
    /// Whether it has an endpoint that gets requests.
    #[must_use]
    pub fn is_fit(&self) -> bool {
        self.endpoints.iter().any(|endpoint| endpoint.state.is_fit())
    }

    /// Whether both have the same addresses.
    #[must_use]
    pub fn is_where(&self, other: &Self) -> bool {
        self.endpoints.iter().map(|endpoint| &endpoint.at).eq(other.endpoints.iter().map(|endpoint| &endpoint.at))
    }

    /// Whether HTTP/2 may be spoken to it.
    #[must_use]
    pub fn may_speak_http2(&self) -> bool {
        self.endpoints.iter().any(Endpoint::may_speak_http2)
    }
}

/// What makes connections exchangeable: workers keep one pool for each of these, over reloads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where it is, as it is written.
    pub address: config::Endpoint,
    /// Where connections to it lead.
    pub at: At,
    /// What is spoken to it.
    pub protocol: config::Protocol,
    /// With which PROXY header connections to it begin; each is then one client's.
    pub proxy_protocol: Option<Version>,
    /// TLS with it; without it we speak in clear text.
    pub tls: Option<Arc<tls::Client>>,
    /// How long it may take.
    pub timeouts: BackendTimeouts,
    /// Bytes of a response head.
    pub max_header_size: usize,
    /// What is known of it beyond this snapshot, as an endpoint of its backend.
    pub state: Arc<EndpointState>,
}

impl Endpoint {
    /// Whether HTTP/2 may be spoken to it, as far as is known before it is asked.
    #[must_use]
    pub fn may_speak_http2(&self) -> bool {
        match self.protocol {
            config::Protocol::Http1 => false,
            config::Protocol::Http2 => true,
            config::Protocol::Auto => self.address.scheme == Scheme::Https,
        }
    }
}

/// Where connections lead: nothing there has to be looked up.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum At {
    /// An address and a port.
    Tcp(SocketAddr),
    /// The path of a socket of this machine.
    Unix(PathBuf),
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The endpoint with the address that it has, in the form in which it is written: `http://10.0.0.7:8080`, `unix:/path`.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.at, self.address.scheme) {
            (At::Unix(_), _) => write!(f, "{}", self.at),
            (At::Tcp(_), Scheme::Http) => write!(f, "http://{}", self.at),
            (At::Tcp(_), Scheme::Https) => write!(f, "https://{}", self.at),
        }
    }
}

/// Where connections to `written` lead, by what names stand for.
fn places(written: &config::Endpoint, addresses: &BTreeMap<String, Arc<[IpAddr]>>) -> Vec<At> {
    match &written.address {
        Address::Unix(path) => vec![At::Unix(path.clone())],
        Address::Tcp { host, port } => match (host.parse::<IpAddr>(), addresses.get(host)) {
            (Ok(ip), _) => vec![At::Tcp((ip, *port).into())],
            (Err(_), Some(found)) => found.iter().map(|ip| At::Tcp((*ip, *port).into())).collect(),
            (Err(_), None) => Vec::new(),
        },
    }
}

impl Snapshot {
    /// Puts `config` in force with `overlay` over it.
    #[must_use]
    pub fn build(
        config: &Config,
        revision: u64,
        loaded_at: SystemTime,
        registry: &Registry,
        overlay: &Overlay,
    ) -> Self {
        let places = Places::of(config);
        let routes = config.routes.iter().map(|route| (route.wanted.clone(), places.destination(&route.to)));
        let everything = service(&Scope::Everything, Some(&overlay.everything), overlay);
        let by_route: Vec<Service> = config.routes.iter().map(|route| route_service(route, overlay)).collect();
        let rollouts = rollouts(config, &places, registry, overlay);
        let put_up = |(name, written): (&String, &config::Backend)| {
            backend(name, written, config, &overlay.addresses, registry.backend(name))
        };
        Self {
            revision,
            config_hash: config.hash.clone(),
            loaded_at,
            routes: Routes::new(routes.collect()),
            is_open: everything.is_open()
                && by_route.iter().all(Service::is_open)
                && rollouts.iter().all(|rollout| rollout.service.is_open()),
            maintenance: Arc::new(config.maintenance.clone()),
            everything,
            by_route,
            hold: overlay.everything.hold.clone(),
            named_routes: named_routes(config, overlay),
            admin: config.admin.clone(),
            webhooks: config.webhooks.clone().into(),
            written: Arc::clone(&config.written),
            rollouts,
            backends: config.backends.iter().map(put_up).collect(),
            listeners: config.listeners.clone(),
            tls: config.listeners.iter().map(|listener| server(listener, &config.keyring)).collect(),
            keyring: config.keyring.clone(),
            trusted_proxies: config.trusted_proxies.clone(),
            timeouts: config.timeouts.clone(),
            limits: config.limits.clone(),
            connections_to_backends: config.connections_to_backends(),
            unsplit: registry.unsplit(),
        }
    }

    /// The rollout called `name`.
    #[must_use]
    pub fn rollout(&self, name: &str) -> Option<&Rollout> {
        self.rollouts.iter().find(|rollout| rollout.name == name)
    }

    /// The backends that only sides use which are being emptied: nobody new is sent there.
    #[must_use]
    pub fn emptied_backends(&self) -> Vec<usize> {
        let sides = || self.rollouts.iter().flat_map(|rollout| Side::ALL.map(|side| (rollout, side)));
        let (emptied, used): (Vec<_>, Vec<_>) = sides().partition(|(rollout, side)| rollout.empties(*side));
        let direct = self.routes.destinations().filter_map(|to| match to {
            Destination::Backend(backend) => Some(*backend),
            Destination::Rollout(_) => None,
        });
        let used: Vec<usize> = used.into_iter().map(|(rollout, side)| rollout.backend(side)).chain(direct).collect();
        let emptied = emptied.into_iter().map(|(rollout, side)| rollout.backend(side));
        emptied.filter(|backend| !used.contains(backend)).collect()
    }

    /// How long the longest-lived unused backend connection is kept.
    #[must_use]
    pub fn longest_idle(&self) -> Duration {
        let endpoints = self.backends.iter().flat_map(|backend| &backend.endpoints);
        endpoints.map(|endpoint| endpoint.timeouts.idle).max().unwrap_or_default()
    }
}

/// The rollouts of `config`, in its order, as they are in force.
fn rollouts(config: &Config, places: &Places<'_>, registry: &Registry, overlay: &Overlay) -> Vec<Rollout> {
    let put_in_force = |(name, written): (&String, &config::Rollout)| {
        let state = overlay.rollouts.get(name).cloned().unwrap_or_default();
        let service = service(&Scope::Rollout(name.clone()), Some(&state.standing), overlay);
        let plan = written.plan(config.rollback);
        let backends = [places.backend(&written.old), places.backend(&written.new)];
        let epoch = overlay.epochs.get(name).copied().unwrap_or_default();
        rollout(name, written, backends, InForce { plan, state, service, epoch }, registry.rollout(name))
    };
    config.rollouts.iter().map(put_in_force).collect()
}

/// Where the things that a config names stand in a snapshot.
struct Places<'a> {
    rollouts: Vec<&'a String>,
    backends: Vec<&'a String>,
}

impl<'a> Places<'a> {
    fn of(config: &'a Config) -> Self {
        Self { rollouts: config.rollouts.keys().collect(), backends: config.backends.keys().collect() }
    }

    fn backend(&self, name: &String) -> usize {
        Self::find(&self.backends, name)
    }

    fn destination(&self, written: &config::Destination) -> Destination {
        match written {
            config::Destination::Rollout(name) => Destination::Rollout(Self::find(&self.rollouts, name)),
            config::Destination::Backend(name) => Destination::Backend(self.backend(name)),
        }
    }

    fn find(names: &[&String], name: &String) -> usize {
        names.binary_search(&name).expect("a checked config names only what exists")
    }
}

fn named_routes(config: &Config, overlay: &Overlay) -> Vec<NamedRoute> {
    let named = config.routes.iter().enumerate().filter_map(|(at, route)| Some((at, route.name.clone()?)));
    let hold = |name: &str| overlay.routes.get(name).and_then(|standing| standing.hold.clone());
    named.map(|(at, name)| NamedRoute { at, hold: hold(&name), name }).collect()
}

fn route_service(route: &config::Route, overlay: &Overlay) -> Service {
    let Some(name) = &route.name else { return Service::default() };
    service(&Scope::Route(name.clone()), overlay.routes.get(name), overlay)
}

fn service(scope: &Scope, standing: Option<&Standing>, overlay: &Overlay) -> Service {
    let maintenance = standing.and_then(|standing| standing.maintenance.clone()).map(Arc::new);
    Service { maintenance, hold: overlay.queues.get(scope).cloned() }
}

/// What is in force of a rollout.
struct InForce {
    plan: Plan,
    state: State,
    service: Service,
    epoch: u64,
}

/// `backends` are those of `old` and `new` as written; whichever of blue and green is OLD now comes first.
fn rollout(
    name: &str,
    written: &config::Rollout,
    backends: [usize; 2],
    in_force: InForce,
    meters: Arc<RolloutMeters>,
) -> Rollout {
    let InForce { plan, state, service, epoch } = in_force;
    let [first, second] = backends;
    let green_is_old = state.have_changed_places(&plan);
    Rollout {
        name: name.to_owned(),
        split: Split {
            rollback: state.is_rolled_back(),
            drained: state.drained(),
            percent: state.wanted(&plan),
            hash: written.hash,
            rules: written.rules.clone(),
            on_missing: match (&plan.strategy, state.effective(&plan)) {
                // All at once means everybody, also those without a key.
                (Strategy::BlueGreen { .. }, Percent::FULL) => OnMissing::New,
                (Strategy::BlueGreen { .. }, _) => OnMissing::Old,
                _ => written.on_missing,
            },
        },
        service,
        cut: state.drain.as_ref().filter(|drain| drain.cuts()).map(|drain| drain.side),
        plan,
        state,
        key: written.key.iter().map(key_source).collect(),
        salt: [written.salt.as_bytes(), b"\x1f"].concat().into_boxed_slice(),
        sides: if green_is_old { [second, first] } else { [first, second] },
        force: written.force.clone(),
        expose_side: written.expose_side,
        label: HeaderValue::from_str(name).expect("a checked name is letters, digits, '-' and '_'"),
        guard: written.guard.as_ref().map(|guard| guarded(guard, epoch)),
        shield: written.shield.clone(),
        fallback: written.fallback,
        meters,
    }
}

fn guarded(written: &config::Guard, epoch: u64) -> Guarded {
    Guarded { epoch, failures: Arc::clone(&written.failures), is_timed: written.latency.is_some() }
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

fn server(listener: &config::Listener, keyring: &Keyring) -> Option<Arc<tls::Server>> {
    let files = listener.tls.as_ref()?;
    Some(Arc::clone(keyring.server(files).expect("the keyring has what the listeners in force need")))
}

fn backend(
    name: &str,
    written: &config::Backend,
    config: &Config,
    addresses: &BTreeMap<String, Arc<[IpAddr]>>,
    state: Arc<BackendState>,
) -> Backend {
    state.slots.limit(&written.limits);
    let known = &state;
    let endpoint = |address: &config::Endpoint, at: At| Endpoint {
        state: known.endpoint(&at.to_string()),
        address: address.clone(),
        at,
        protocol: written.protocol,
        proxy_protocol: written.proxy_protocol,
        tls: config.keyring.client(name, address).cloned(),
        timeouts: written.timeouts.clone(),
        max_header_size: config.limits.max_header_size,
    };
    let endpoints = |address| places(address, addresses).into_iter().map(move |at| endpoint(address, at));
    let endpoints: Vec<Endpoint> = written.endpoints.iter().flat_map(endpoints).collect();
    let lost = written.endpoints.iter().filter(|endpoint| places(endpoint, addresses).is_empty());
    let nowhere = lost.filter_map(|endpoint| match &endpoint.address {
        Address::Tcp { host, .. } => Some(host.clone()),
        Address::Unix(_) => None,
    });
    let nowhere = nowhere.collect();
    // A single one is never taken out for what it fails.
    let ejection = written.ejection.filter(|_| endpoints.len() > 1);
    endpoints.iter().for_each(|endpoint| endpoint.state.watch(ejection.map(|rules| rules.consecutive_failures)));
    Backend {
        name: name.to_owned(),
        endpoints,
        nowhere,
        host: HeaderValue::from_str(&written.endpoints[0].authority())
            .expect("a checked endpoint has a host of visible ASCII"),
        balance: written.balance,
        slow_start: written.slow_start,
        health: written.health.clone(),
        ejection,
        max_wait: written.limits.max_wait,
        retries: written.retries,
        state,
    }
}
