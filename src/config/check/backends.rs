//! Backends: those with a name of their own, and those that a rollout writes as a URL.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::time::Duration;

use super::Checker;
use super::rollouts::WrittenRollout;
use crate::config::document::Place;
use crate::config::endpoint::{self, is_endpoint};
use crate::config::error::Complaint;
use crate::config::value::{self, Checked};
use crate::config::{
    Address, Backend, BackendLimits, BackendTimeouts, Endpoint, Health, ListenAddress, Listener, Protocol, Retries, raw,
};
use crate::policy::balance::Balance;
use crate::policy::bucket::Percent;
use crate::policy::decision::Side;
use crate::policy::ejection::Rules;
use crate::policy::health::Thresholds;
use crate::proxy_header::Version;

const ENDPOINTS: &str = "a list of URLs such as [http://127.0.0.1:9001]";

/// Backends, and what they are called: a backend that is wrong in itself is still one that others may name.
pub(super) struct Backends {
    pub(super) checked: BTreeMap<String, Backend>,
    pub(super) names: BTreeSet<String>,
}

impl Checker<'_> {
    pub(super) fn backends(
        &mut self,
        raw: &BTreeMap<String, raw::Backend>,
        rollouts: &[WrittenRollout<'_>],
        listeners: &[Listener],
    ) -> Backends {
        let mut checked = BTreeMap::new();
        let mut names: BTreeSet<String> = raw.keys().cloned().collect();
        for (name, backend) in raw {
            let place = Place::default().key("backends").key(name);
            self.faults.take(&place.as_key(), value::name(name));
            checked.extend(self.backend(&place, name, backend, listeners).map(|backend| (name.clone(), backend)));
        }
        for (place, name, url) in rollouts.iter().flat_map(WrittenRollout::inline_backends) {
            let endpoint = self.faults.take(&place, endpoint(url, self.folder, listeners));
            if !names.insert(name.clone()) {
                let taken = Complaint::new(format!("this URL would become the backend `{name}`, which exists already"));
                self.faults.add(place.clone(), taken.help("give the backend another name"));
            }
            let Some(endpoint) = endpoint else { continue };
            self.backend_tls(&place, &name, None, Protocol::default(), std::slice::from_ref(&endpoint));
            checked.insert(name, self.inline_backend(endpoint));
        }
        Backends { checked, names }
    }

    fn backend(&mut self, place: &Place, name: &str, raw: &raw::Backend, listeners: &[Listener]) -> Option<Backend> {
        let written = self.required(place, "endpoints", raw.endpoints.as_ref(), ENDPOINTS);
        let endpoints = written.map(|written| self.endpoints(&place.key("endpoints"), written, listeners));
        self.backend_tls(place, name, raw.tls.as_ref(), protocol(raw), endpoints.as_deref().unwrap_or_default());
        let settings = self.backend_settings(place, raw);
        Some(Backend { endpoints: endpoints?, ..settings? })
    }

    fn endpoints(&mut self, place: &Place, written: &[String], listeners: &[Listener]) -> Vec<Endpoint> {
        if written.is_empty() {
            self.faults.add(place.clone(), Complaint::new("a backend needs at least one endpoint").allowed(ENDPOINTS));
        }
        let folder = self.folder;
        self.faults.take_all(place, written, |url| endpoint(url, folder, listeners))
    }

    /// All but the endpoints.
    fn backend_settings(&mut self, place: &Place, raw: &raw::Backend) -> Option<Backend> {
        let timeouts = self.backend_timeouts(&place.key("timeouts"), &raw.timeouts);
        let health = raw.health.as_ref().map(|raw| self.health(&place.key("health"), raw));
        let ejection = self.ejection(&place.key("ejection"), &raw.ejection);
        let slow_start = self.faults.take(&place.key("slow_start"), value::duration(&raw.slow_start));
        let limits = self.backend_limits(&place.key("limits"), &raw.limits);
        let retries = self.retries(&place.key("retries"), &raw.retries);
        self.complain_of_streams(place, raw);
        Some(Backend {
            endpoints: Vec::new(),
            balance: raw.balance.into(),
            timeouts: timeouts?,
            health: health.map_or(Some(None), |health| health.map(Some))?,
            ejection: Some(ejection?).filter(|_| raw.ejection.enabled),
            slow_start: slow_start?,
            limits: limits?,
            retries: retries?,
            protocol: protocol(raw),
            proxy_protocol: raw.proxy_protocol.map(Version::from),
        })
    }

    /// A connection that is one client's cannot be one of many.
    fn complain_of_streams(&mut self, place: &Place, raw: &raw::Backend) {
        if let (raw::Protocol::H2, Some(_)) = (raw.protocol, raw.proxy_protocol) {
            let complaint = Complaint::new("a connection of HTTP/2 is for many clients, and a PROXY header names one");
            let help =
                "leave out `proxy_protocol` or `protocol: h2`; x-forwarded-for names the client of each request anyway";
            self.faults.add(place.key("proxy_protocol"), complaint.help(help));
        }
    }

    fn health(&mut self, place: &Place, raw: &raw::Health) -> Option<Health> {
        let interval = self.faults.take(&place.key("interval"), interval(&raw.interval));
        let timeout = self.faults.take(&place.key("timeout"), value::timeout(&raw.timeout));
        let unhealthy_after = self.in_a_row(&place.key("unhealthy_after"), &raw.unhealthy_after);
        let healthy_after = self.in_a_row(&place.key("healthy_after"), &raw.healthy_after);
        let path = self.required(place, "path", raw.path.as_ref(), "a path such as /healthz")?;
        let path = self.faults.take(&place.key("path"), value::target(path));
        let thresholds = Thresholds { unhealthy_after: unhealthy_after?, healthy_after: healthy_after? };
        Some(Health { path: path?, interval: interval?, timeout: timeout?, thresholds })
    }

    /// The rules, whether they are to be followed or not.
    fn ejection(&mut self, place: &Place, raw: &raw::Ejection) -> Option<Rules> {
        let consecutive_failures = self.in_a_row(&place.key("consecutive_failures"), &raw.consecutive_failures);
        let base = self.faults.take(&place.key("base"), value::timeout(&raw.base));
        let max_ejected = self.faults.take(&place.key("max_ejected"), value::percent(&raw.max_ejected));
        Some(Rules { consecutive_failures: consecutive_failures?, base: base?, max_ejected: max_ejected? })
    }

    fn in_a_row(&mut self, place: &Place, written: &raw::Count) -> Option<u32> {
        let count = value::count(&written.0, 1..=1000);
        self.faults.take(place, count).map(|count| u32::try_from(count).expect("at most a thousand"))
    }

    fn backend_limits(&mut self, place: &Place, raw: &raw::BackendLimits) -> Option<BackendLimits> {
        let connections = value::count(&raw.max_connections.0, 1..=1_000_000);
        let max_connections = self.faults.take(&place.key("max_connections"), connections);
        let max_pending = self.faults.take(&place.key("max_pending"), value::count(&raw.max_pending.0, 0..=1_000_000));
        let max_wait = self.faults.take(&place.key("max_wait"), value::timeout(&raw.max_wait));
        Some(BackendLimits { max_connections: max_connections?, max_pending: max_pending?, max_wait: max_wait? })
    }

    fn retries(&mut self, place: &Place, raw: &raw::Retries) -> Option<Retries> {
        let attempts = self.faults.take(&place.key("attempts"), value::count(&raw.attempts.0, 0..=10));
        let budget = self.faults.take(&place.key("budget"), budget(&raw.budget));
        Some(Retries { attempts: attempts?, budget: budget? })
    }

    fn inline_backend(&mut self, endpoint: Endpoint) -> Backend {
        let settings = self.backend_settings(&Place::default(), &raw::Backend::default());
        Backend { endpoints: vec![endpoint], ..settings.expect("the default settings are valid") }
    }

    fn backend_timeouts(&mut self, place: &Place, raw: &raw::BackendTimeouts) -> Option<BackendTimeouts> {
        let connect = self.faults.take(&place.key("connect"), value::timeout(&raw.connect));
        let response = self.faults.take(&place.key("response"), value::timeout(&raw.response));
        let idle = self.faults.take(&place.key("idle"), value::timeout(&raw.idle));
        let stream_idle = self.faults.take(&place.key("stream_idle"), value::timeout(&raw.stream_idle));
        Some(BackendTimeouts { connect: connect?, response: response?, idle: idle?, stream_idle: stream_idle? })
    }
}

impl<'a> WrittenRollout<'a> {
    /// The sides that are written as URLs: where, the name they get, and the URL.
    fn inline_backends(&self) -> impl Iterator<Item = (Place, String, &'a str)> {
        Side::ALL.into_iter().filter_map(|side| {
            let (key, written) = self.raw.side(side);
            let url = written.filter(|written| is_endpoint(written))?;
            Some((self.place.key(key), self.inline_name(key), url))
        })
    }

    /// `key` is the one that the URL stands under.
    fn inline_name(&self, key: &str) -> String {
        format!("{}-{key}", self.name)
    }

    /// The name of the backend on `side`, whether it was written as a name or as a URL.
    pub(super) fn backend_name(&self, side: Side) -> Option<String> {
        let (key, written) = self.raw.side(side);
        let written = written?;
        Some(if is_endpoint(written) { self.inline_name(key) } else { written.to_owned() })
    }
}

/// HTTP/2 is not spoken where each connection is one client's.
fn protocol(raw: &raw::Backend) -> Protocol {
    match (raw.protocol, raw.proxy_protocol) {
        (raw::Protocol::Http1, _) | (_, Some(_)) => Protocol::Http1,
        (raw::Protocol::Auto, None) => Protocol::Auto,
        (raw::Protocol::H2, None) => Protocol::Http2,
    }
}

impl From<raw::ProxyVersion> for Version {
    fn from(written: raw::ProxyVersion) -> Self {
        match written {
            raw::ProxyVersion::V1 => Self::V1,
            raw::ProxyVersion::V2 => Self::V2,
        }
    }
}

/// An endpoint that is none of tidegate's own `listeners`.
fn endpoint(url: &str, folder: &Path, listeners: &[Listener]) -> Checked<Endpoint> {
    let endpoint = endpoint::endpoint(url, folder)?;
    match listeners.iter().any(|listener| leads_to(&endpoint.address, &listener.address)) {
        true => Err(Complaint::new("this is a listener of tidegate itself: a request would go round in circles")
            .help("give the address on which the backend listens")),
        false => Ok(endpoint),
    }
}

/// Whether a connection to `endpoint` is one to `listener`, as far as can be told without asking the network.
fn leads_to(endpoint: &Address, listener: &ListenAddress) -> bool {
    match (endpoint, listener) {
        (Address::Unix(path), ListenAddress::Unix(own)) => path == own,
        (Address::Tcp { host, port }, ListenAddress::Tcp(listener)) if *port == listener.port() => {
            let address = match host.as_str() {
                "localhost" => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
                host => host.parse().ok(),
            };
            address.is_some_and(|address| reaches(address, listener.ip()))
        }
        _ => false,
    }
}

/// A listener on all addresses has that of the loopback too, and one on all of IPv6 has those of IPv4.
fn reaches(address: IpAddr, listener: IpAddr) -> bool {
    let (address, listener) = (connected(address.to_canonical()), listener.to_canonical());
    let is_on_all = listener.is_unspecified() && (listener.is_ipv6() || address.is_ipv4());
    address == listener || is_on_all && address.is_loopback()
}

/// Whoever connects to no address in particular connects to this machine.
fn connected(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        address => address,
    }
}

/// Checks that come faster would be a load by themselves.
fn interval(written: &raw::Duration) -> Checked<Duration> {
    const SHORTEST: Duration = Duration::from_millis(10);
    match value::timeout(written)? {
        interval if interval < SHORTEST => Err(Complaint::new("this is too often").allowed("at least 10ms")),
        interval => Ok(interval),
    }
}

fn budget(written: &raw::Percent) -> Checked<Percent> {
    let complaint = || Complaint::new("with this budget no request could be sent once more before long");
    match value::percent(written)? {
        Percent::ZERO => Err(complaint().allowed("above 0, at most 100").help("to turn it off, say attempts: 0")),
        percent => Ok(percent),
    }
}

impl From<raw::Balance> for Balance {
    fn from(written: raw::Balance) -> Self {
        match written {
            raw::Balance::LeastRequests => Self::LeastRequests,
            raw::Balance::RoundRobin => Self::RoundRobin,
        }
    }
}
