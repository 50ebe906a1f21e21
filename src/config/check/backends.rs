//! Backends: those with a name of their own, and those that a rollout writes as a URL.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use super::Checker;
use super::rollouts::WrittenRollout;
use crate::config::document::Place;
use crate::config::endpoint::{self, is_endpoint};
use crate::config::error::Complaint;
use crate::config::value::{self, Checked};
use crate::config::{Address, Backend, BackendTimeouts, Endpoint, Health, ListenAddress, Listener, Protocol, raw};
use crate::policy::decision::Side;
use crate::proxy_header::Version;

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
            checked.extend(self.backend(&place, backend, listeners).map(|backend| (name.clone(), backend)));
        }
        for (place, name, url) in rollouts.iter().flat_map(WrittenRollout::inline_backends) {
            let endpoint = self.faults.take(&place, endpoint(url, self.folder, listeners));
            if !names.insert(name.clone()) {
                let taken = Complaint::new(format!("this URL would become the backend `{name}`, which exists already"));
                self.faults.add(place, taken.help("give the backend another name"));
            }
            checked.extend(endpoint.map(|endpoint| (name, self.inline_backend(endpoint))));
        }
        Backends { checked, names }
    }

    fn backend(&mut self, place: &Place, raw: &raw::Backend, listeners: &[Listener]) -> Option<Backend> {
        let timeouts = self.backend_timeouts(&place.key("timeouts"), &raw.timeouts);
        let health = raw.health.as_ref().map(|raw| self.health(&place.key("health"), raw));
        let protocol = self.protocol(place, raw);
        let wanted = "a list of URLs such as [http://127.0.0.1:9001]";
        let written = self.required(place, "endpoints", raw.endpoints.as_ref(), wanted)?;
        let place = place.key("endpoints");
        if written.is_empty() {
            self.faults.add(place.clone(), Complaint::new("a backend needs at least one endpoint").allowed(wanted));
        }
        let folder = self.folder;
        let endpoints = self.faults.take_all(&place, written, |url| endpoint(url, folder, listeners));
        Some(Backend {
            endpoints,
            timeouts: timeouts?,
            health: health.map_or(Some(None), |health| health.map(Some))?,
            protocol: protocol?,
            proxy_protocol: raw.proxy_protocol.map(Version::from),
        })
    }

    /// A connection that is one client's has no use for streams.
    fn protocol(&mut self, place: &Place, raw: &raw::Backend) -> Option<Protocol> {
        match (raw.protocol, raw.proxy_protocol) {
            (raw::Protocol::H2, Some(_)) => {
                let complaint = Complaint::new(
                    "a connection of HTTP/2 carries the requests of many clients, a PROXY header names one",
                );
                let complaint = complaint.help(
                    "leave out `proxy_protocol` or `protocol: h2`; x-forwarded-for names the client of each request",
                );
                self.faults.add(place.key("proxy_protocol"), complaint);
                None
            }
            (raw::Protocol::H2, None) => Some(Protocol::Http2),
            (raw::Protocol::Http1, _) | (raw::Protocol::Auto, Some(_)) => Some(Protocol::Http1),
            (raw::Protocol::Auto, None) => Some(Protocol::Auto),
        }
    }

    fn health(&mut self, place: &Place, raw: &raw::Health) -> Option<Health> {
        let timeout = self.faults.take(&place.key("timeout"), value::timeout(&raw.timeout));
        let path = self.required(place, "path", raw.path.as_ref(), "a path such as /healthz")?;
        let path = self.faults.take(&place.key("path"), value::target(path));
        Some(Health { path: path?, timeout: timeout? })
    }

    fn inline_backend(&mut self, endpoint: Endpoint) -> Backend {
        let defaults = raw::BackendTimeouts::default();
        let timeouts = self.backend_timeouts(&Place::default(), &defaults);
        let timeouts = timeouts.expect("the default timeouts are valid");
        Backend {
            endpoints: vec![endpoint],
            timeouts,
            health: None,
            protocol: Protocol::default(),
            proxy_protocol: None,
        }
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

/// A listener on all addresses has that of the loopback too.
fn reaches(address: IpAddr, listener: IpAddr) -> bool {
    let on_all = listener.is_unspecified() && listener.is_ipv4() == address.is_ipv4() && address.is_loopback();
    address == listener || on_all
}
