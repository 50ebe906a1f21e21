//! Routes: which requests go where.

use std::collections::BTreeSet;

use super::Checker;
use super::rollouts::WrittenRollout;
use crate::config::document::Place;
use crate::config::error::Complaint;
use crate::config::value::{self, Checked};
use crate::config::{Destination, Route, raw};
use crate::policy::path::normalise;
use crate::policy::route::{Host, Match};

/// Each route is held against all before it, so their number is bounded.
const MOST_ROUTES: usize = 4096;

impl Checker<'_> {
    pub(super) fn routes(
        &mut self,
        raw: &raw::Raw,
        rollouts: &[WrittenRollout<'_>],
        backends: &BTreeSet<String>,
    ) -> Vec<Route> {
        let Some(written) = &raw.routes else { return self.only_rollout(rollouts).into_iter().collect() };
        let place = Place::default().key("routes");
        if written.is_empty() {
            self.faults.add(place.clone(), Complaint::new("no request would be answered: the list of routes is empty"));
        }
        if written.len() > MOST_ROUTES {
            self.faults.add(place, Complaint::new(format!("these are more than {MOST_ROUTES} routes")));
            return Vec::new();
        }
        self.names_are_apart(&place, written);
        let rollouts = rollouts.iter().map(|rollout| rollout.name.to_owned()).collect();
        let places = written.iter().enumerate().map(|(at, route)| (place.item(at), route));
        let routes: Vec<_> = places.map(|(place, raw)| self.route(&place, raw, &rollouts, backends)).collect();
        self.unreachable(&place, &routes);
        routes.into_iter().flatten().collect()
    }

    fn names_are_apart(&mut self, place: &Place, routes: &[raw::Route]) {
        let mut seen = BTreeSet::new();
        for (at, name) in routes.iter().enumerate().filter_map(|(at, route)| Some((at, route.name.as_ref()?))) {
            if !seen.insert(name) {
                self.faults.add(place.item(at).key("name"), Complaint::new("another route has this name already"));
            }
        }
    }

    /// Without routes everything goes to the only rollout.
    fn only_rollout(&mut self, rollouts: &[WrittenRollout<'_>]) -> Option<Route> {
        let complaint = match rollouts {
            [only] => {
                let to = Destination::Rollout(only.name.to_owned());
                return Some(Route { name: None, wanted: Match::default(), to });
            }
            [] => Complaint::new("there is nothing to route to").help("add a `rollout`, or `backends` and `routes`"),
            several => {
                Complaint::new(format!("there are {} rollouts, but no routes to choose between them", several.len()))
                    .help("add `routes`")
            }
        };
        let place = if rollouts.is_empty() { Place::default() } else { Place::default().key("rollouts").as_key() };
        self.faults.add(place, complaint);
        None
    }

    fn route(
        &mut self,
        place: &Place,
        raw: &raw::Route,
        rollouts: &BTreeSet<String>,
        backends: &BTreeSet<String>,
    ) -> Option<Route> {
        if let Some(name) = &raw.name {
            self.faults.take(&place.key("name"), value::name(name));
        }
        let wanted = self.wanted(&place.key("match"), &raw.wanted);
        let to = match (&raw.rollout, &raw.backend) {
            (Some(name), None) => {
                self.known(&place.key("rollout"), "rollout", name, rollouts);
                Destination::Rollout(name.clone())
            }
            (None, Some(name)) => {
                self.known(&place.key("backend"), "backend", name, backends);
                Destination::Backend(name.clone())
            }
            (both, _) => {
                let amount = if both.is_some() { "two destinations" } else { "no destination" };
                let complaint = Complaint::new(format!("this route has {amount}"));
                self.faults.add(place.as_key(), complaint.allowed("either `rollout` or `backend`"));
                return None;
            }
        };
        Some(Route { name: raw.name.clone(), wanted: wanted?, to })
    }

    fn wanted(&mut self, place: &Place, raw: &raw::Match) -> Option<Match> {
        let host = self.faults.take(&place.key("host"), raw.host.as_deref().map(host).transpose());
        let path = self.faults.take(&place.key("path"), raw.path.as_deref().map(path).transpose());
        let methods = raw.method.as_ref().map_or_else(Vec::new, |raw| self.methods(&place.key("method"), raw));
        let headers = self.headers(&place.key("headers"), raw);
        Some(Match { host: host?, path: path?, methods, headers })
    }

    fn methods(&mut self, place: &Place, written: &raw::OneOrMany) -> Vec<String> {
        match written {
            raw::OneOrMany::One(text) => self.faults.take(place, method(text)).into_iter().collect(),
            raw::OneOrMany::Many(list) if list.is_empty() => {
                self.faults
                    .add(place.clone(), Complaint::new("no method would match").help("leave the key out for all"));
                Vec::new()
            }
            raw::OneOrMany::Many(list) => self.faults.take_all(place, list, |text| method(text)),
        }
    }

    fn headers(&mut self, place: &Place, raw: &raw::Match) -> Vec<(String, Option<String>)> {
        let mut headers = Vec::new();
        for (name, raw::HeaderValue(wanted)) in &raw.headers {
            let name_read = self.faults.take(&place.key(name).as_key(), value::header_name(name));
            let value = self.faults.take(&place.key(name), wanted.as_deref().map(header_value).transpose());
            headers.extend(name_read.zip(value));
        }
        headers
    }

    fn unreachable(&mut self, place: &Place, routes: &[Option<Route>]) {
        for (at, route) in routes.iter().enumerate() {
            let Some(route) = route else { continue };
            let shadow = routes[..at]
                .iter()
                .position(|earlier| earlier.as_ref().is_some_and(|earlier| covers(&earlier.wanted, &route.wanted)));
            if let Some(earlier) = shadow {
                let complaint = Complaint::new(format!(
                    "routes[{at}] can never be reached: routes[{earlier}] comes first and matches all that it matches"
                ));
                self.faults.add(place.item(at), complaint.help("put the narrower route first"));
            }
        }
    }
}

/// Whether every request that `narrow` matches is matched by `wide` too.
fn covers(wide: &Match, narrow: &Match) -> bool {
    let host = match (&wide.host, &narrow.host) {
        (None, _) => true,
        (Some(Host::Below(domain)), Some(Host::Exact(host))) => host.len() > domain.len() && host.ends_with(domain),
        (Some(Host::Below(wide)), Some(Host::Below(narrow))) => narrow.ends_with(wide),
        (wide, narrow) => wide == narrow,
    };
    let path = match (&wide.path, &narrow.path) {
        (None, _) => true,
        (Some(wide), Some(narrow)) => narrow
            .strip_prefix(wide)
            .is_some_and(|rest| rest.is_empty() || wide.ends_with('/') || rest.starts_with('/')),
        (Some(_), None) => false,
    };
    let methods = wide.methods.is_empty()
        || !narrow.methods.is_empty() && narrow.methods.iter().all(|method| wide.methods.contains(method));
    let header = |(name, value): &(String, Option<String>)| {
        narrow.headers.iter().any(|(other, wanted)| other == name && (value.is_none() || value == wanted))
    };
    host && path && methods && wide.headers.iter().all(header)
}

fn host(text: &str) -> Checked<Host> {
    let lower = text.to_ascii_lowercase();
    let (below, name) = match lower.strip_prefix("*.") {
        Some(domain) => (true, domain),
        None => (false, lower.as_str()),
    };
    if !value::is_host(name) {
        return Err(Complaint::new("this is not a host's name")
            .allowed("a name such as pay.example.com, or *.example.com, without a port"));
    }
    Ok(if below { Host::Below(format!(".{name}")) } else { Host::Exact(lower) })
}

/// Requests whose path reads differently once decoded are refused, so a path in such a spelling would match none.
fn path(text: &str) -> Checked<String> {
    let complaint = |message: &str| Complaint::new(message).allowed("the beginning of a path, such as /pay");
    let visible = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#');
    match text {
        _ if !text.starts_with('/') => Err(complaint("a path begins with /")),
        _ if !text.bytes().all(visible) => Err(complaint("a path holds no spaces, query or special characters")),
        _ if normalise(text) != text => {
            Err(complaint("this path could never match").help("write it plainly, without %XX, //, /., /.., ; or \\"))
        }
        _ => Ok(text.to_owned()),
    }
}

fn method(text: &str) -> Checked<String> {
    let upper = text.to_ascii_uppercase();
    match value::is_token(text) {
        true if upper == text => Ok(upper),
        true => Err(Complaint::new("methods are written in capitals").help(format!("write {upper}"))),
        false => Err(Complaint::new("this is not a method").allowed("a method such as GET or POST")),
    }
}

fn header_value(text: &str) -> Checked<String> {
    match text.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t') || text.trim() != text {
        true => {
            Err(Complaint::new("no header has such a value").allowed("text without control characters or outer spaces"))
        }
        false => Ok(text.to_owned()),
    }
}
