//! The server's own settings: where it listens, how it ends, how long and how much it lets clients.

use std::net::SocketAddr;

use super::Checker;
use crate::config::document::Place;
use crate::config::error::Complaint;
use crate::config::value::{self, Checked};
use crate::config::{AccessLog, ClientTimeouts, Limits, Shutdown, raw};

impl Checker<'_> {
    pub(super) fn listeners(&mut self, raw: &raw::Raw) -> Vec<SocketAddr> {
        let places = self.written_addresses(raw);
        let mut listeners = Vec::new();
        for (place, text) in places {
            let Some(address) = self.faults.take(&place, value::address(text)) else { continue };
            if address.port() != 0 && listeners.contains(&address) {
                self.faults.add(place, Complaint::new("another listener has this address already"));
            }
            listeners.push(address);
        }
        self.listeners_tls(raw);
        listeners
    }

    fn listeners_tls(&mut self, raw: &raw::Raw) {
        let place = Place::default().key("listeners");
        for (at, listener) in raw.listeners.iter().flatten().enumerate() {
            if let Some(tls) = &listener.tls {
                self.listener_tls(&place.item(at).key("tls"), at, tls);
            }
        }
    }

    fn written_addresses<'r>(&mut self, raw: &'r raw::Raw) -> Vec<(Place, &'r String)> {
        let (short, long) = (Place::default().key("listen"), Place::default().key("listeners"));
        let list = raw.listeners.as_deref().unwrap_or_default();
        if raw.listen.is_some() && raw.listeners.is_some() {
            self.faults.add(short.as_key(), two_forms("listen", "listeners"));
        } else if raw.listen.is_none() && list.is_empty() {
            let place = if raw.listeners.is_some() { long.as_key() } else { Place::default() };
            self.faults
                .add(place, Complaint::new("there is no listener").help("add, for example, listen: 127.0.0.1:8080"));
        }
        let mut places: Vec<_> = raw.listen.iter().map(|text| (short.clone(), text)).collect();
        for (at, listener) in list.iter().enumerate() {
            let place = long.item(at);
            let address =
                self.required(&place, "address", listener.address.as_ref(), "an address such as 0.0.0.0:8080");
            places.extend(address.map(|text| (place.key("address"), text)));
        }
        places
    }

    pub(super) fn shutdown(&mut self, raw: &raw::Shutdown) -> Option<Shutdown> {
        let place = Place::default().key("shutdown");
        let readiness_delay = self.faults.take(&place.key("readiness_delay"), value::duration(&raw.readiness_delay));
        let drain_timeout = self.faults.take(&place.key("drain_timeout"), value::duration(&raw.drain_timeout));
        Some(Shutdown { readiness_delay: readiness_delay?, drain_timeout: drain_timeout? })
    }

    pub(super) fn client_timeouts(&mut self, raw: &raw::ClientTimeouts) -> Option<ClientTimeouts> {
        let place = Place::default().key("timeouts");
        let handshake = self.faults.take(&place.key("handshake"), value::timeout(&raw.handshake));
        let header = self.faults.take(&place.key("header"), value::timeout(&raw.header));
        let body_idle = self.faults.take(&place.key("body_idle"), value::timeout(&raw.body_idle));
        let keep_alive = self.faults.take(&place.key("keep_alive"), value::timeout(&raw.keep_alive));
        let write_stall = self.faults.take(&place.key("write_stall"), value::timeout(&raw.write_stall));
        Some(ClientTimeouts {
            handshake: handshake?,
            header: header?,
            body_idle: body_idle?,
            keep_alive: keep_alive?,
            write_stall: write_stall?,
        })
    }

    pub(super) fn limits(&mut self, raw: &raw::Limits) -> Option<Limits> {
        const KIB: u64 = 1 << 10;
        const MIB: u64 = 1 << 20;
        let place = Place::default().key("limits");
        let connections = value::count(&raw.max_connections.0, 1..=1_000_000);
        let max_connections = self.faults.take(&place.key("max_connections"), connections);
        let handshakes = value::count(&raw.max_handshakes.0, 1..=1_000_000);
        let max_handshakes = self.faults.take(&place.key("max_handshakes"), handshakes);
        let header_size = value::memory(&raw.max_header_size, 8 * KIB..=MIB);
        let max_header_size = self.faults.take(&place.key("max_header_size"), header_size);
        let header_fields = value::count(&raw.max_header_fields.0, 16..=1024);
        let max_header_fields = self.faults.take(&place.key("max_header_fields"), header_fields);
        let target = value::memory(&raw.max_target, 256..=MIB);
        let max_target = self.faults.take(&place.key("max_target"), target);
        if max_target.zip(max_header_size).is_some_and(|(target, head)| target > head) {
            let complaint = Complaint::new("a target cannot be larger than `max_header_size`, which it is a part of");
            self.faults.add(place.key("max_target"), complaint);
        }
        let max_body = self.faults.take(&place.key("max_body"), max_body(raw.max_body.as_ref()));
        Some(Limits {
            max_connections: max_connections?,
            max_handshakes: max_handshakes?,
            max_header_size: max_header_size?,
            max_header_fields: max_header_fields?,
            max_target: max_target?,
            max_body: max_body?,
        })
    }

    pub(super) fn access_log(&mut self, written: Option<&str>) -> Option<AccessLog> {
        match written? {
            "stdout" => Some(AccessLog::Stdout),
            path => self.path(&Place::default().key("access_log"), path).map(AccessLog::File),
        }
    }
}

/// Zero would mean 'none at all' to one reader and 'no limit' to another.
fn max_body(written: Option<&raw::Size>) -> Checked<Option<u64>> {
    let Some(written) = written else { return Ok(None) };
    value::size(written, 1..=u64::MAX).map(Some).map_err(|complaint| complaint.help("leave the key out for no limit"))
}

/// What to say when a short form stands beside the long one.
pub(super) fn two_forms(short: &str, long: &str) -> Complaint {
    Complaint::new(format!("`{short}` is the short form of `{long}`; only one of them may be given"))
        .help(format!("keep `{short}` or `{long}`"))
}
