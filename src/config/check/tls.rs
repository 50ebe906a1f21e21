//! TLS: which files it is made of, read and checked.

use std::time::SystemTime;

use rustls::pki_types::ServerName;

use super::Checker;
use crate::config::document::Place;
use crate::config::error::Complaint;
use crate::config::keyring::{self, Refused, name_of};
use crate::config::{BackendTls, Endpoint, ListenerTls, Pair, Protocol, Scheme, raw};
use crate::tls::{ClientAuth, Version};

const PEM: &str = "a file in PEM such as tls.crt";

impl Checker<'_> {
    /// TLS of a listener.
    pub(super) fn listener_tls(&mut self, place: &Place, raw: &raw::ListenerTls) -> Option<ListenerTls> {
        let pairs = self.pairs(place, raw);
        let clients = raw.client_ca.as_deref().map(|path| self.authorities(&place.key("client_ca"), path));
        let auth = match raw.client_auth {
            raw::ClientAuth::Required => ClientAuth::Required,
            raw::ClientAuth::Optional => ClientAuth::Optional,
        };
        if raw.client_ca.is_none() && auth == ClientAuth::Optional {
            let complaint = Complaint::new("without `client_ca` no client is asked for a certificate");
            self.faults.add(place.key("client_auth"), complaint.help("add client_ca, the file of their authorities"));
        }
        let min_version = match raw.min_version {
            raw::TlsVersion::Tls12 => Version::Tls12,
            raw::TlsVersion::Tls13 => Version::Tls13,
        };
        let clients = clients.map_or(Some(None), |path| path.map(|path| Some((path, auth))))?;
        let files = ListenerTls { pairs: pairs?, clients, min_version, http2: raw.http2 };
        let added = self.keyring.add_server(&files, self.before);
        self.faults.take(place, added.map_err(|fault| keyring::complaint(&fault)))?;
        Some(files)
    }

    /// All the pairs of a listener; `None` if something is wrong with one.
    fn pairs(&mut self, place: &Place, raw: &raw::ListenerTls) -> Option<Vec<Pair>> {
        let Some(list) = &raw.certificates else {
            let pair = self.pair(place, raw.certificate.as_deref(), raw.key.as_deref());
            return pair.map(|pair| vec![pair]);
        };
        if raw.certificate.is_some() || raw.key.is_some() {
            let complaint = Complaint::new("`certificate` and `key` are the short form of `certificates` for one pair");
            self.faults.add(place.key("certificates"), complaint.help("move them into the list, in the first place"));
        }
        let place = place.key("certificates");
        if list.is_empty() {
            self.faults.add(place.clone(), Complaint::new("there is no certificate in the list"));
        }
        let pair =
            |(at, raw): (usize, &raw::Pair)| self.pair(&place.item(at), raw.certificate.as_deref(), raw.key.as_deref());
        let pairs: Vec<Option<Pair>> = list.iter().enumerate().map(pair).collect();
        pairs.into_iter().collect::<Option<Vec<Pair>>>().filter(|pairs| !pairs.is_empty())
    }

    /// A pair that has been read.
    fn pair(&mut self, place: &Place, certificate: Option<&str>, key: Option<&str>) -> Option<Pair> {
        let written = self.required(place, "certificate", certificate.as_ref(), PEM);
        let certificate = written.and_then(|path| self.path(&place.key("certificate"), path));
        let written = self.required(place, "key", key.as_ref(), PEM);
        let key = written.and_then(|path| self.path(&place.key("key"), path));
        let pair = Pair { certificate: certificate?, key: key? };
        let added = self.keyring.add_pair(&pair, self.before, SystemTime::now());
        let blamed = |refused: &Refused| place.key(if refused.is_key { "key" } else { "certificate" });
        match added {
            Ok(()) => Some(pair),
            Err(refused) => {
                self.refuse(&blamed(&refused), *refused);
                None
            }
        }
    }

    /// The file of authorities that have been read.
    fn authorities(&mut self, place: &Place, written: &str) -> Option<std::path::PathBuf> {
        let path = self.path(place, written)?;
        match self.keyring.add_authorities(&path, self.before) {
            Ok(()) => Some(path),
            Err(refused) => {
                self.refuse(place, *refused);
                None
            }
        }
    }

    /// TLS with the `https` endpoints of the backend `name`.
    pub(super) fn backend_tls(
        &mut self,
        place: &Place,
        name: &str,
        raw: Option<&raw::BackendTls>,
        protocol: Protocol,
        endpoints: &[Endpoint],
    ) -> Option<()> {
        let mut secure = endpoints.iter().filter(|endpoint| endpoint.scheme == Scheme::Https).peekable();
        let tls = place.key("tls");
        if secure.peek().is_none() {
            if raw.is_some() && !endpoints.is_empty() {
                let complaint =
                    Complaint::new("no endpoint of this backend is https, so that nothing would be encrypted");
                self.faults.add(tls.as_key(), complaint.help("write https:// in its endpoints"));
            }
            return Some(());
        }
        let nothing = raw::BackendTls::default();
        let files = BackendTls { protocol, ..self.backend_files(&tls, raw.unwrap_or(&nothing))? };
        for endpoint in secure {
            if files.server_name.is_none() && name_of(endpoint).is_none() {
                let complaint = Complaint::new("the host of this URL is no name that a certificate can be for");
                self.faults.add(place.clone(), complaint.help("say which one in tls.server_name"));
                continue;
            }
            if files.ca.is_none() {
                let known = self.keyring.add_system(self.before);
                self.faults.take(place, known)?;
            }
            let added = self.keyring.add_client(name, endpoint, files.clone(), self.before);
            self.faults.take(place, added.map_err(|fault| keyring::complaint(&fault)))?;
        }
        Some(())
    }

    fn backend_files(&mut self, place: &Place, raw: &raw::BackendTls) -> Option<BackendTls> {
        let ca = raw.ca.as_deref().map(|path| self.authorities(&place.key("ca"), path));
        let name = raw.server_name.as_ref().map(|name| {
            let complaint = || Complaint::new("this is neither the name of a host nor an address");
            let name = ServerName::try_from(name.clone()).map_err(|_| complaint());
            self.faults.take(&place.key("server_name"), name)
        });
        let pair = (raw.certificate.is_some() || raw.key.is_some())
            .then(|| self.pair(place, raw.certificate.as_deref(), raw.key.as_deref()));
        Some(BackendTls {
            ca: ca.map_or(Some(None), |ca| ca.map(Some))?,
            server_name: name.map_or(Some(None), |name| name.map(Some))?,
            pair: pair.map_or(Some(None), |pair| pair.map(Some))?,
            protocol: Protocol::default(),
        })
    }

    fn refuse(&mut self, place: &Place, refused: Refused) {
        let complaint = match refused.is_unread {
            true => refused.complaint.help(format!("relative paths start at {}", super::shown(self.folder))),
            false => refused.complaint,
        };
        self.faults.add(place.clone(), complaint);
    }
}
