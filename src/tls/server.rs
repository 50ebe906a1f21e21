//! How TLS is spoken with clients.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::{
    ClientHello, ProducesTickets, ResolvesServerCert, ServerConfig, ServerSessionMemoryCache, StoresServerSessions,
    WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};

use super::{Authorities, Fault, Identity, provider};

/// Sessions that are remembered for clients that take no tickets, at most.
const SESSIONS: usize = 1024;

/// The oldest version that is spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// TLS 1.2, with the cipher suites that are safe.
    #[default]
    Tls12,
    /// TLS 1.3.
    Tls13,
}

/// Whether clients have to show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ClientAuth {
    /// Who shows none is not served.
    Required,
    /// Who shows one has to show a good one.
    Optional,
}

/// What TLS with clients is to be like.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Who we are; at least one. The first is shown to those who ask for none of the others by name.
    pub identities: Vec<Arc<Identity>>,
    /// By whom clients are trusted, and whether they all have to be.
    pub clients: Option<(Arc<Authorities>, ClientAuth)>,
    /// The oldest version that is spoken.
    pub min_version: Version,
    /// What may be spoken inside, the best first, as ALPN names it.
    pub protocols: Vec<Vec<u8>>,
}

/// What is needed to go on with sessions of before: it stays the same when certificates are replaced.
#[derive(Clone)]
pub struct Resumption {
    ticketer: Arc<dyn ProducesTickets>,
    sessions: Arc<dyn StoresServerSessions>,
}

impl Resumption {
    /// Knows no session; its keys are random, and change every six hours.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn new() -> Result<Self, Fault> {
        Ok(Self { ticketer: Ticketer::new()?, sessions: ServerSessionMemoryCache::new(SESSIONS) })
    }
}

impl fmt::Debug for Resumption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Resumption(redacted)")
    }
}

/// TLS with clients, ready to be spoken.
#[derive(Clone, Debug)]
pub struct Server {
    /// For rustls.
    pub config: Arc<ServerConfig>,
    terms: Terms,
    resumption: Resumption,
}

impl Server {
    /// TLS on these terms. Sessions of `before` go on, unless clients are judged in another way since: whoever was let in then
    /// might not be now.
    ///
    /// # Errors
    /// What rustls does not like about the terms.
    pub fn new(terms: Terms, before: Option<&Self>) -> Result<Self, Fault> {
        let kept = before.filter(|before| are_same_judges(&terms, &before.terms));
        let resumption = kept.map_or_else(Resumption::new, |before| Ok(before.resumption.clone()))?;
        let versions = match terms.min_version {
            Version::Tls12 => &[&TLS13, &TLS12][..],
            Version::Tls13 => &[&TLS13][..],
        };
        let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(versions)?;
        let builder = match &terms.clients {
            None => builder.with_no_client_auth(),
            Some((authorities, auth)) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&authorities.roots), provider());
                let verifier = match auth {
                    ClientAuth::Required => verifier,
                    ClientAuth::Optional => verifier.allow_unauthenticated(),
                };
                builder.with_client_cert_verifier(verifier.build().map_err(|error| Fault::Setup(error.to_string()))?)
            }
        };
        let mut config = builder.with_cert_resolver(Arc::new(ByName::of(&terms.identities)));
        config.alpn_protocols.clone_from(&terms.protocols);
        config.ticketer = Arc::clone(&resumption.ticketer);
        config.session_storage = Arc::clone(&resumption.sessions);
        Ok(Self { config: Arc::new(config), terms, resumption })
    }

    /// Whether it is on these very terms.
    #[must_use]
    pub fn is_on(&self, terms: &Terms) -> bool {
        let (ours, theirs) = (&self.terms.identities, &terms.identities);
        ours.len() == theirs.len()
            && ours.iter().zip(theirs).all(|(ours, theirs)| Arc::ptr_eq(ours, theirs))
            && are_same_judges(&self.terms, terms)
            && (self.terms.min_version, &self.terms.protocols) == (terms.min_version, &terms.protocols)
    }
}

/// Whether both let in the same clients.
fn are_same_judges(one: &Terms, other: &Terms) -> bool {
    match (&one.clients, &other.clients) {
        (None, None) => true,
        (Some((one, auth)), Some((other, other_auth))) => Arc::ptr_eq(one, other) && auth == other_auth,
        _ => false,
    }
}

/// Identities by the names in their certificates.
struct ByName {
    exact: HashMap<String, Vec<Arc<CertifiedKey>>>,
    /// Without the `*` but with its dot: it stands for one label.
    wildcard: HashMap<String, Vec<Arc<CertifiedKey>>>,
    all: Vec<Arc<CertifiedKey>>,
}

impl ByName {
    fn of(identities: &[Arc<Identity>]) -> Self {
        let (mut exact, mut wildcard) = (HashMap::<_, Vec<_>>::new(), HashMap::<_, Vec<_>>::new());
        for identity in identities {
            for name in &identity.certificate.names {
                let key = Arc::clone(&identity.certified);
                match name.strip_prefix('*') {
                    Some(rest) => wildcard.entry(rest.to_owned()).or_default().push(key),
                    None => exact.entry(name.clone()).or_default().push(key),
                }
            }
        }
        Self { exact, wildcard, all: identities.iter().map(|identity| Arc::clone(&identity.certified)).collect() }
    }

    fn named(&self, name: &str) -> Option<&Vec<Arc<CertifiedKey>>> {
        let name = name.to_ascii_lowercase();
        let rest = name.find('.').map(|dot| &name[dot..]);
        self.exact.get(&name).or_else(|| self.wildcard.get(rest?))
    }
}

impl ResolvesServerCert for ByName {
    /// Of several that have the name, the first whose key the client knows what to do with.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let fit = hello.server_name().and_then(|name| self.named(name)).unwrap_or(&self.all);
        let usable = fit.iter().find(|key| key.key.choose_scheme(hello.signature_schemes()).is_some());
        usable.or_else(|| fit.first()).cloned()
    }
}

impl fmt::Debug for ByName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.exact.keys()).entries(self.wildcard.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn identity(names: &[&str]) -> Arc<Identity> {
        let params = CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Arc::new(Identity::read(pem.as_bytes(), key.serialize_pem().as_bytes(), SystemTime::now()).unwrap())
    }

    #[test]
    fn a_name_finds_its_certificate() {
        let identities =
            [identity(&["a.example.com"]), identity(&["*.example.com"]), identity(&["b.example.com", "c.test"])];
        let by_name = ByName::of(&identities);
        for (name, found) in [
            ("a.example.com", Some(0)),
            ("A.Example.COM", Some(0)),
            ("x.example.com", Some(1)),
            ("b.example.com", Some(2)),
            ("c.test", Some(2)),
            ("example.com", None),
            ("x.y.example.com", None),
            ("localhost", None),
        ] {
            let expected = found.map(|at: usize| &identities[at].certified);
            let found = by_name.named(name).map(|keys| &keys[0]);
            assert_eq!(found.map(Arc::as_ptr), expected.map(Arc::as_ptr), "{name}");
        }
    }

    #[test]
    fn sessions_go_on_over_new_certificates_but_not_over_other_judges() {
        let authorities = |names: &[&str]| {
            let params = CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
            let pem = params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem();
            Arc::new(Authorities::read(pem.as_bytes()).unwrap())
        };
        let (one, other) = (authorities(&["one"]), authorities(&["other"]));
        let terms = |clients| Terms {
            identities: vec![identity(&["localhost"])],
            clients,
            min_version: Version::Tls12,
            protocols: vec![b"http/1.1".to_vec()],
        };
        let first = Server::new(terms(Some((Arc::clone(&one), ClientAuth::Required))), None).unwrap();
        let goes_on = |clients| {
            let next = Server::new(terms(clients), Some(&first)).unwrap();
            Arc::ptr_eq(&next.resumption.ticketer, &first.resumption.ticketer)
        };
        assert!(goes_on(Some((Arc::clone(&one), ClientAuth::Required))));
        assert!(!goes_on(Some((Arc::clone(&one), ClientAuth::Optional))));
        assert!(!goes_on(Some((other, ClientAuth::Required))));
        assert!(!goes_on(None));
        assert!(first.is_on(&first.terms.clone()));
        assert!(!first.is_on(&terms(Some((one, ClientAuth::Required)))), "another certificate");
    }
}
