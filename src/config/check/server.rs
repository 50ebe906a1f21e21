//! The server's own settings: where it listens, how it ends, how long and how much it lets clients.

use super::Checker;
use crate::config::document::Place;
use crate::config::error::Complaint;
use crate::config::value::{self, Checked};
use crate::config::{AccessLog, ClientTimeouts, Limits, ListenAddress, Listener, Shutdown, raw};
use crate::policy::network::Trusted;

const TRUSTED: &str = "an address or a network, such as 192.0.2.7, 10.0.0.0/8 or fd00::/8; unix for unix sockets";

impl Checker<'_> {
    pub(super) fn listeners(&mut self, raw: &raw::Raw, trusted: &Trusted) -> Vec<Listener> {
        let mut listeners: Vec<Listener> = Vec::new();
        for written in self.written_listeners(raw) {
            let Some(listener) = self.listener(&written, trusted) else { continue };
            if listeners.iter().any(|other| listener.address.collides_with(&other.address)) {
                self.faults.add(written.address_place(), Complaint::new("another listener has this address already"));
            }
            listeners.push(listener);
        }
        listeners
    }

    fn listener(&mut self, written: &Written<'_>, trusted: &Trusted) -> Option<Listener> {
        let wanted = "an address such as 0.0.0.0:8080";
        let address = self.required(&written.place, written.key, written.address, wanted)?;
        let address = self.faults.take(&written.address_place(), value::listen_address(address, self.folder))?;
        let proxy_protocol = written.listener.is_some_and(|listener| listener.proxy_protocol);
        let (is_anybody, help) = match address {
            ListenAddress::Tcp(_) => {
                (!trusted.networks.is_empty(), "name the networks of the proxies that stand in front in")
            }
            ListenAddress::Unix(_) => (trusted.unix, "add the word `unix` to"),
        };
        if proxy_protocol && !is_anybody {
            let complaint = Complaint::new("nobody here is trusted to say whom a connection is for");
            let complaint = complaint.help(format!("{help} `trusted_proxies`, at the top of the file"));
            self.faults.add(written.place.key("proxy_protocol"), complaint);
        }
        let tls = written.listener.and_then(|listener| listener.tls.as_ref());
        let tls = tls.map(|tls| self.listener_tls(&written.place.key("tls"), tls));
        Some(Listener { address, proxy_protocol, tls: tls.map_or(Some(None), |tls| tls.map(Some))? })
    }

    fn written_listeners<'r>(&mut self, raw: &'r raw::Raw) -> Vec<Written<'r>> {
        let (short, long) = (Place::default().key("listen"), Place::default().key("listeners"));
        let list = raw.listeners.as_deref().unwrap_or_default();
        if raw.listen.is_some() && raw.listeners.is_some() {
            self.faults.add(short.as_key(), two_forms("listen", "listeners"));
        } else if raw.listen.is_none() && list.is_empty() {
            let place = if raw.listeners.is_some() { long.as_key() } else { Place::default() };
            self.faults
                .add(place, Complaint::new("there is no listener").help("add, for example, listen: 127.0.0.1:8080"));
        }
        let of_short =
            |address| Written { place: Place::default(), key: "listen", address: Some(address), listener: None };
        let of_long = |(at, listener): (usize, &'r raw::Listener)| Written {
            place: long.item(at),
            key: "address",
            address: listener.address.as_ref(),
            listener: Some(listener),
        };
        raw.listen.iter().map(of_short).chain(list.iter().enumerate().map(of_long)).collect()
    }

    /// Networks, and the word `unix` for those who come through a socket of this machine.
    pub(super) fn trusted_proxies(&mut self, written: &[String]) -> Trusted {
        let place = Place::default().key("trusted_proxies");
        let is_unix = |text: &str| text == "unix";
        let networks = self.faults.take_all(&place, written, |text| match is_unix(text) {
            true => Ok(None),
            false => value::network(text).map(Some).map_err(|complaint| complaint.allowed(TRUSTED)),
        });
        Trusted { networks: networks.into_iter().flatten().collect(), unix: written.iter().any(|text| is_unix(text)) }
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

/// A listener as it is written, in either form.
struct Written<'r> {
    place: Place,
    /// The key in `place` that holds the address.
    key: &'static str,
    address: Option<&'r String>,
    /// What else is written of it; the short form has nothing.
    listener: Option<&'r raw::Listener>,
}

impl Written<'_> {
    fn address_place(&self) -> Place {
        self.place.key(self.key)
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
