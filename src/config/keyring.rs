//! The files of TLS as they were read last, and what was made of them.
//!
//! They are read with the config, and again and again after it. What is good replaces what was there before; what is not is
//! told as a [`Trouble`], and what was there before stays. So a key that comes a moment after its certificate is no outage, and
//! neither is a file that was emptied.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustls::pki_types::ServerName;
use sha2::{Digest as _, Sha256};

use super::error::Complaint;
use super::file;
use super::{Endpoint, Protocol};
use crate::tls::{
    Authorities, Certificate, Client, ClientAuth, ClientTerms, Fault, HTTP_1, HTTP_2, Identity, Server, ServerTerms,
    Version,
};

/// No file of certificates that anybody uses is as large.
const LARGEST: u64 = 1 << 20;

/// The files of a certificate and of its key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pair {
    /// The certificate and those that lead from it to an authority.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// TLS on a listener, by its files.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListenerTls {
    /// At least one. The first is for clients that ask for none of the others by name.
    pub pairs: Vec<Pair>,
    /// By whom clients are trusted, and whether they all have to be; `None`: they are not asked.
    pub clients: Option<(PathBuf, ClientAuth)>,
    /// The oldest version that is spoken.
    pub min_version: Version,
    /// Whether HTTP/2 is offered, beside HTTP/1.1.
    pub http2: bool,
}

/// TLS with a backend, by its files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackendTls {
    /// By whom it is trusted; `None`: by the system.
    pub ca: Option<PathBuf>,
    /// Whom its certificate has to be for; `None`: the host of its URL.
    pub server_name: Option<ServerName<'static>>,
    /// Who we are, should it ask.
    pub pair: Option<Pair>,
    /// What is spoken inside.
    pub protocol: Protocol,
}

/// A file that is not as it should be; what was read from it before stays in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it, and what to do about it.
    pub message: String,
}

/// What was made of a file, and of which bytes.
#[derive(Debug)]
struct Held<T> {
    digest: [u8; 32],
    value: Arc<T>,
}

/// Why nothing was made of files, and which of them is to blame.
#[derive(Debug)]
pub(super) struct Refused {
    path: PathBuf,
    /// Of a pair, it is the key and not the certificate.
    pub(super) is_key: bool,
    /// It is not what the file holds: the file cannot be read.
    pub(super) is_unread: bool,
    pub(super) complaint: Complaint,
}

/// What the files of TLS hold. A clone is cheap.
#[derive(Clone, Debug, Default)]
pub struct Keyring {
    pairs: BTreeMap<Pair, Held<Identity>>,
    authorities: BTreeMap<PathBuf, Held<Authorities>>,
    system: Option<Arc<Authorities>>,
    servers: BTreeMap<ListenerTls, Arc<Server>>,
    /// By the backend's name and the endpoint.
    clients: BTreeMap<(String, Endpoint), (BackendTls, Arc<Client>)>,
    troubles: Vec<Trouble>,
}

impl Keyring {
    // -- while a config is checked

    /// Reads a pair, or keeps what `before` made of it.
    pub(super) fn add_pair(&mut self, pair: &Pair, before: &Self, now: SystemTime) -> Result<(), Box<Refused>> {
        if self.pairs.contains_key(pair) {
            return Ok(());
        }
        let held = self.kept_or(before.pairs.get(pair), |held| read_pair(pair, held, now))?;
        self.pairs.insert(pair.clone(), held);
        Ok(())
    }

    /// Reads authorities, or keeps what `before` made of them.
    pub(super) fn add_authorities(&mut self, path: &Path, before: &Self) -> Result<(), Box<Refused>> {
        if self.authorities.contains_key(path) {
            return Ok(());
        }
        let held = self.kept_or(before.authorities.get(path), |held| read_authorities(path, held))?;
        self.authorities.insert(path.to_owned(), held);
        Ok(())
    }

    /// Asks the system whom it trusts, unless `before` has.
    pub(super) fn add_system(&mut self, before: &Self) -> Result<(), Complaint> {
        if self.system.is_none() {
            let known = before.system.clone();
            let known = known.map_or_else(|| Authorities::of_system().map(Arc::new), Ok);
            self.system = Some(known.map_err(|_| {
                let complaint =
                    Complaint::new("this machine has no root certificates, so that no https can be trusted");
                complaint.help("install ca-certificates, or give the backend's authority in tls.ca")
            })?);
        }
        Ok(())
    }

    /// What `read` gives, or else what was held before: then it is told why.
    fn kept_or<T>(
        &mut self,
        before: Option<&Held<T>>,
        read: impl FnOnce(Option<&Held<T>>) -> Result<Held<T>, Box<Refused>>,
    ) -> Result<Held<T>, Box<Refused>> {
        match (read(before), before) {
            (Ok(held), _) => Ok(held),
            (Err(refused), Some(before)) => {
                self.troubles.push(Trouble { path: refused.path, message: refused.complaint.in_one_line() });
                Ok(before.clone())
            }
            (Err(refused), None) => Err(refused),
        }
    }

    /// Makes TLS of the files for a listener. They have been added.
    pub(super) fn add_server(&mut self, files: &ListenerTls, before: &Self) -> Result<(), Fault> {
        let server = self.server_of(files, before.predecessor(files))?;
        self.servers.insert(files.clone(), server);
        Ok(())
    }

    /// TLS of these files as it was, or of others that begin with the same pair: its sessions may go on.
    fn predecessor(&self, files: &ListenerTls) -> Option<&Arc<Server>> {
        let similar =
            || self.servers.iter().find(|(others, _)| others.pairs[0] == files.pairs[0]).map(|(_, server)| server);
        self.servers.get(files).or_else(similar)
    }

    /// Makes TLS of the files for an endpoint of the backend `name`. They have been added.
    pub(super) fn add_client(
        &mut self,
        name: &str,
        endpoint: &Endpoint,
        files: BackendTls,
        before: &Self,
    ) -> Result<(), Fault> {
        let place = (name.to_owned(), endpoint.clone());
        let before = before.clients.get(&place).map(|(_, client)| client);
        let client = self.client_of(&files, endpoint, before)?;
        self.clients.insert(place, (files, client));
        Ok(())
    }

    fn server_of(&self, files: &ListenerTls, before: Option<&Arc<Server>>) -> Result<Arc<Server>, Fault> {
        let identity = |pair| Arc::clone(&self.pairs[pair].value);
        let terms = ServerTerms {
            identities: files.pairs.iter().map(identity).collect(),
            clients: files.clients.as_ref().map(|(path, auth)| (Arc::clone(&self.authorities[path].value), *auth)),
            min_version: files.min_version,
            protocols: protocols(if files.http2 { Protocol::Auto } else { Protocol::Http1 }),
        };
        match before {
            Some(before) if before.is_on(&terms) => Ok(Arc::clone(before)),
            before => Server::new(terms, before.map(|before| &**before)).map(Arc::new),
        }
    }

    fn client_of(
        &self,
        files: &BackendTls,
        endpoint: &Endpoint,
        before: Option<&Arc<Client>>,
    ) -> Result<Arc<Client>, Fault> {
        let authorities = match &files.ca {
            Some(path) => Some(&self.authorities[path].value),
            None => self.system.as_ref(),
        };
        let terms = ClientTerms {
            authorities: authorities.cloned().ok_or(Fault::NoCertificate)?,
            identity: files.pair.as_ref().map(|pair| Arc::clone(&self.pairs[pair].value)),
            name: match &files.server_name {
                Some(name) => name.clone(),
                None => {
                    name_of(endpoint).ok_or_else(|| Fault::Setup("this host can have no certificate".to_owned()))?
                }
            },
            protocols: protocols(files.protocol),
        };
        match before {
            Some(before) if before.is_on(&terms) => Ok(Arc::clone(before)),
            _ => Client::new(terms).map(Arc::new),
        }
    }

    // -- afterwards

    /// Reads all the files again: what is good replaces what was there, and what is not leaves it.
    #[must_use]
    pub fn renewed(&self, now: SystemTime) -> Self {
        let mut next = Self { system: self.system.clone(), ..Self::default() };
        for pair in self.pairs.keys() {
            next.add_pair(pair, self, now).expect("what was held is kept");
        }
        for path in self.authorities.keys() {
            next.add_authorities(path, self).expect("what was held is kept");
        }
        for (files, server) in &self.servers {
            let renewed = next.server_of(files, Some(server)).unwrap_or_else(|fault| {
                next.troubles.push(Trouble { path: files.pairs[0].certificate.clone(), message: fault.to_string() });
                Arc::clone(server)
            });
            next.servers.insert(files.clone(), renewed);
        }
        for (place, (files, client)) in &self.clients {
            let renewed = next.client_of(files, &place.1, Some(client)).unwrap_or_else(|_| Arc::clone(client));
            next.clients.insert(place.clone(), (files.clone(), renewed));
        }
        next
    }

    /// Whether both were made of the same contents of the same files.
    #[must_use]
    pub fn holds_the_same_as(&self, other: &Self) -> bool {
        let pairs = |keyring: &Self| keyring.pairs.iter().map(|(pair, held)| (pair.clone(), held.digest)).collect();
        let authorities =
            |keyring: &Self| keyring.authorities.iter().map(|(path, held)| (path.clone(), held.digest)).collect();
        let (ours, theirs): (Vec<_>, Vec<_>) = (pairs(self), pairs(other));
        let (our_authorities, their_authorities): (Vec<_>, Vec<_>) = (authorities(self), authorities(other));
        ours == theirs && our_authorities == their_authorities
    }

    /// What listeners of `other` need, should they stay, is kept.
    pub fn keep_servers_of(&mut self, other: &Self) {
        for (files, server) in &other.servers {
            self.servers.entry(files.clone()).or_insert_with(|| Arc::clone(server));
            for pair in &files.pairs {
                self.pairs.entry(pair.clone()).or_insert_with(|| other.pairs[pair].clone());
            }
            if let Some((path, _)) = &files.clients {
                self.authorities.entry(path.clone()).or_insert_with(|| other.authorities[path].clone());
            }
        }
    }

    /// With these troubles in place of its own.
    #[must_use]
    pub fn with_troubles(self, troubles: Vec<Trouble>) -> Self {
        Self { troubles, ..self }
    }

    /// TLS of a listener with these files.
    #[must_use]
    pub fn server(&self, files: &ListenerTls) -> Option<&Arc<Server>> {
        self.servers.get(files)
    }

    /// TLS with an endpoint of the backend `name`; `None`: it is not spoken there.
    #[must_use]
    pub fn client(&self, name: &str, endpoint: &Endpoint) -> Option<&Arc<Client>> {
        self.clients.get(&(name.to_owned(), endpoint.clone())).map(|(_, client)| client)
    }

    /// Files that were not as they should be when they were read last.
    #[must_use]
    pub fn troubles(&self) -> &[Trouble] {
        &self.troubles
    }

    /// The certificates that are in use, by their files.
    pub fn certificates(&self) -> impl Iterator<Item = (&Path, &Certificate)> {
        self.pairs.iter().map(|(pair, held)| (pair.certificate.as_path(), &held.value.certificate))
    }

    /// Whether no file of TLS is named.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty() && self.authorities.is_empty()
    }

    /// All the files.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        let pairs = self.pairs.keys().flat_map(|pair| [&pair.certificate, &pair.key]);
        pairs.chain(self.authorities.keys()).cloned().collect()
    }
}

impl<T> Clone for Held<T> {
    fn clone(&self) -> Self {
        Self { digest: self.digest, value: Arc::clone(&self.value) }
    }
}

/// Whom the certificate of `endpoint` has to be for.
pub(super) fn name_of(endpoint: &Endpoint) -> Option<ServerName<'static>> {
    let super::Address::Tcp { host, .. } = &endpoint.address else { return None };
    ServerName::try_from(host.clone()).ok()
}

fn read_pair(pair: &Pair, before: Option<&Held<Identity>>, now: SystemTime) -> Result<Held<Identity>, Box<Refused>> {
    let refused = |is_key: bool, is_unread: bool, complaint: Complaint| {
        let path = if is_key { &pair.key } else { &pair.certificate };
        Box::new(Refused { path: path.clone(), is_key, is_unread, complaint })
    };
    let unread = |is_key: bool| move |complaint| refused(is_key, true, complaint);
    let certificate = file::read(&pair.certificate, LARGEST).map_err(unread(false))?;
    let key = file::read(&pair.key, LARGEST).map_err(unread(true))?;
    let digest = digest(&[&certificate, &key]);
    match before {
        Some(before) if before.digest == digest => Ok(before.clone()),
        _ => match Identity::read(&certificate, &key, now) {
            Ok(identity) => Ok(Held { digest, value: Arc::new(identity) }),
            Err(fault) => Err(refused(fault.is_of_key(), false, complaint(&fault))),
        },
    }
}

fn read_authorities(path: &Path, before: Option<&Held<Authorities>>) -> Result<Held<Authorities>, Box<Refused>> {
    let refused =
        |is_unread, complaint| Box::new(Refused { path: path.to_owned(), is_key: false, is_unread, complaint });
    let pem = file::read(path, LARGEST).map_err(|complaint| refused(true, complaint))?;
    let digest = digest(&[&pem]);
    match before {
        Some(before) if before.digest == digest => Ok(before.clone()),
        _ => match Authorities::read(&pem) {
            Ok(authorities) => Ok(Held { digest, value: Arc::new(authorities) }),
            Err(fault) => Err(refused(false, complaint(&fault))),
        },
    }
}

/// What is offered, the best first.
fn protocols(protocol: Protocol) -> Vec<Vec<u8>> {
    let names = match protocol {
        Protocol::Auto => &[HTTP_2, HTTP_1][..],
        Protocol::Http1 => &[HTTP_1],
        Protocol::Http2 => &[HTTP_2],
    };
    names.iter().map(|name| name.to_vec()).collect()
}

/// A digest of `parts`, whose borders count.
fn digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

pub(super) fn complaint(fault: &Fault) -> Complaint {
    let complaint = Complaint::new(fault.to_string());
    match fault.help() {
        Some(help) => complaint.help(help),
        None => complaint,
    }
}
