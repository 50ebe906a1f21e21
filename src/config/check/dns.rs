//! How names are looked up.

use std::net::{IpAddr, SocketAddr};

use super::Checker;
use crate::config::document::Place;
use crate::config::error::Complaint;
use crate::config::value::{self, Checked};
use crate::config::{Dns, Family, raw};
use crate::policy::naming::Pace;

const USUAL_PORT: u16 = 53;

impl Checker<'_> {
    pub(super) fn dns(&mut self, raw: &raw::Dns) -> Option<Dns> {
        let place = Place::default().key("dns");
        let servers = self.faults.take_all(&place.key("servers"), &raw.servers, |text| server(text));
        let min_ttl = self.faults.take(&place.key("min_ttl"), value::timeout(&raw.min_ttl));
        let max_ttl = self.faults.take(&place.key("max_ttl"), value::timeout(&raw.max_ttl));
        let timeout = self.faults.take(&place.key("timeout"), value::timeout(&raw.timeout));
        let prefer = match raw.prefer {
            raw::Family::Ipv4 => Family::V4,
            raw::Family::Ipv6 => Family::V6,
        };
        let pace = Pace { min_ttl: min_ttl?, max_ttl: max_ttl? };
        if pace.min_ttl > pace.max_ttl {
            self.faults.add(place.key("min_ttl"), Complaint::new("this is longer than `max_ttl`"));
        }
        Some(Dns { servers, pace, timeout: timeout?, prefer })
    }
}

/// `IP` or `IP:PORT`.
fn server(text: &str) -> Checked<SocketAddr> {
    let complaint =
        || Complaint::new("this is not a name server's address").allowed("an IP address, or one and a port");
    let bare = text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, USUAL_PORT));
    bare.or_else(|_| text.parse()).map_err(|_| complaint())
}
