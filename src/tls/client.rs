//! How TLS is spoken with backends. There is no way not to look at their certificates.

use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::pki_types::ServerName;
use rustls::sign::SingleCertAndKey;

use super::{Authorities, Fault, Identity, provider};

/// Sessions that are remembered for one endpoint, at most.
const SESSIONS: usize = 64;

/// What TLS with a backend is to be like.
#[derive(Clone, Debug)]
pub struct Terms {
    /// By whom it has to be trusted.
    pub authorities: Arc<Authorities>,
    /// Who we are, should it ask.
    pub identity: Option<Arc<Identity>>,
    /// Whom its certificate has to be for.
    pub name: ServerName<'static>,
    /// What may be spoken inside, the best first, as ALPN names it.
    pub protocols: Vec<Vec<u8>>,
}

impl Terms {
    fn are(&self, other: &Self) -> bool {
        let identity = |terms: &Self| terms.identity.as_ref().map(Arc::as_ptr);
        Arc::ptr_eq(&self.authorities, &other.authorities)
            && identity(self) == identity(other)
            && (&self.name, &self.protocols) == (&other.name, &other.protocols)
    }
}

/// TLS with one endpoint, ready to be spoken; sessions go on for as long as it is the same.
#[derive(Clone, Debug)]
pub struct Client {
    /// For rustls.
    pub config: Arc<ClientConfig>,
    terms: Terms,
}

impl Client {
    /// TLS on these terms.
    ///
    /// # Errors
    /// What rustls does not like about the terms.
    pub fn new(terms: Terms) -> Result<Self, Fault> {
        let roots = Arc::clone(&terms.authorities.roots);
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider()).build();
        let verifier = verifier.map_err(|error| Fault::Setup(error.to_string()))?;
        let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
        let builder = builder.with_webpki_verifier(verifier);
        let mut config = match &terms.identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&identity.certified))))
            }
        };
        config.alpn_protocols.clone_from(&terms.protocols);
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        Ok(Self { config: Arc::new(config), terms })
    }

    /// Whether it is on these very terms.
    #[must_use]
    pub fn is_on(&self, terms: &Terms) -> bool {
        self.terms.are(terms)
    }

    /// Whom the endpoint's certificate has to be for.
    #[must_use]
    pub fn name(&self) -> ServerName<'static> {
        self.terms.name.clone()
    }
}

/// Two are the same if connections of the one are as good as connections of the other.
impl PartialEq for Client {
    fn eq(&self, other: &Self) -> bool {
        self.terms.are(&other.terms)
    }
}

impl Eq for Client {}
