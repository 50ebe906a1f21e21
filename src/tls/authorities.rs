//! Whom to trust.

use std::sync::Arc;

use rustls::RootCertStore;

use super::Fault;
use super::certificate::chain;

/// Certificates by which others are trusted; at least one.
#[derive(Clone, Debug)]
pub struct Authorities {
    pub(super) roots: Arc<RootCertStore>,
}

impl Authorities {
    /// Reads certificates in PEM.
    ///
    /// # Errors
    /// When there is none, or one of them cannot be trusted by.
    pub fn read(pem: &[u8]) -> Result<Self, Fault> {
        let mut roots = RootCertStore::empty();
        let none_is_there = |fault| if fault == Fault::NoCertificate { Fault::NoAuthority } else { fault };
        for certificate in chain(pem).map_err(none_is_there)? {
            roots.add(certificate).map_err(|error| Fault::Authority(error.to_string()))?;
        }
        Ok(Self { roots: Arc::new(roots) })
    }

    /// Whom the system trusts, or `SSL_CERT_FILE` and `SSL_CERT_DIR` say. What cannot be read is left out, and logged.
    ///
    /// # Errors
    /// When nothing is left.
    pub fn of_system() -> Result<Self, Fault> {
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "some root certificates cannot be read");
        }
        let mut roots = RootCertStore::empty();
        let (_, _left_out) = roots.add_parsable_certificates(found.certs);
        match roots.is_empty() {
            true => Err(Fault::NoAuthority),
            false => Ok(Self { roots: Arc::new(roots) }),
        }
    }
}
