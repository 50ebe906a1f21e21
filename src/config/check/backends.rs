//! Backends: those with a name of their own, and those that a rollout writes as a URL.

use std::collections::{BTreeMap, BTreeSet};

use super::Checker;
use super::rollouts::WrittenRollout;
use crate::config::document::Place;
use crate::config::error::Complaint;
use crate::config::value;
use crate::config::{Backend, BackendTimeouts, Endpoint, raw};
use crate::policy::decision::Side;

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
    ) -> Backends {
        let mut checked = BTreeMap::new();
        let mut names: BTreeSet<String> = raw.keys().cloned().collect();
        for (name, backend) in raw {
            let place = Place::default().key("backends").key(name);
            self.faults.take(&place.as_key(), value::name(name));
            checked.extend(self.backend(&place, backend).map(|backend| (name.clone(), backend)));
        }
        for (place, name, url) in rollouts.iter().flat_map(WrittenRollout::inline_backends) {
            let endpoint = self.faults.take(&place, value::endpoint(url));
            if !names.insert(name.clone()) {
                let taken = Complaint::new(format!("this URL would become the backend `{name}`, which exists already"));
                self.faults.add(place, taken.help("give the backend another name"));
            }
            checked.extend(endpoint.map(|endpoint| (name, self.inline_backend(endpoint))));
        }
        Backends { checked, names }
    }

    fn backend(&mut self, place: &Place, raw: &raw::Backend) -> Option<Backend> {
        let timeouts = self.backend_timeouts(&place.key("timeouts"), &raw.timeouts);
        let wanted = "a list of URLs such as [http://127.0.0.1:9001]";
        let written = self.required(place, "endpoints", raw.endpoints.as_ref(), wanted)?;
        let place = place.key("endpoints");
        if written.is_empty() {
            self.faults.add(place.clone(), Complaint::new("a backend needs at least one endpoint").allowed(wanted));
        }
        let endpoints = self.faults.take_all(&place, written, |url| value::endpoint(url));
        Some(Backend { endpoints, timeouts: timeouts?, health: None })
    }

    fn inline_backend(&mut self, endpoint: Endpoint) -> Backend {
        let defaults = raw::BackendTimeouts::default();
        let timeouts = self.backend_timeouts(&Place::default(), &defaults);
        let timeouts = timeouts.expect("the default timeouts are valid");
        Backend { endpoints: vec![endpoint], timeouts, health: None }
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
            let written = self.side(side).filter(|written| is_url(written))?;
            Some((self.place.key(side.as_str()), self.inline_name(side), written))
        })
    }

    fn inline_name(&self, side: Side) -> String {
        format!("{}-{}", self.name, side.as_str())
    }

    /// The name of the backend on `side`, whether it was written as a name or as a URL.
    pub(super) fn backend_name(&self, side: Side) -> Option<String> {
        let written = self.side(side)?;
        Some(if is_url(written) { self.inline_name(side) } else { written.to_owned() })
    }

    fn side(&self, side: Side) -> Option<&'a str> {
        match side {
            Side::Old => self.raw.old.as_deref(),
            Side::New => self.raw.new.as_deref(),
        }
    }
}

fn is_url(written: &str) -> bool {
    written.contains("://")
}
