//! Certificates that are right and such that are not, and TLS with whoever shows or wants them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::client::WebPkiServerVerifier;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, SupportedProtocolVersion};

use super::Client;

/// Somebody who issues certificates.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, in PEM.
#[derive(Clone, Debug)]
pub struct Issued {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for `names`, otherwise as `change` has it.
    pub fn issue_with(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Issued {
        let mut params = CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
        params.distinguished_name.push(DnType::CommonName, names.first().copied().unwrap_or("nobody"));
        params.not_after = rcgen::date_time_ymd(2035, 1, 1);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        Issued { certificate: params.signed_by(&key, &self.0).unwrap().pem(), key: key.serialize_pem() }
    }

    /// A certificate for `names`.
    pub fn issue(&self, names: &[&str]) -> Issued {
        self.issue_with(names, |_| {})
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        Arc::new(roots)
    }
}

impl Issued {
    /// Puts the pair into `folder` as `NAME.crt` and `NAME.key`, each in place of what was there.
    pub fn put(&self, folder: &Path, name: &str) {
        replace(&folder.join(format!("{name}.crt")), &self.certificate);
        replace(&folder.join(format!("{name}.key")), &self.key);
    }

    pub fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.certificate.as_bytes()).unwrap()
    }

    fn key_der(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap()
    }
}

/// Writes aside and renames over.
pub fn replace(path: &Path, text: &str) {
    let aside: PathBuf = path.with_extension("new");
    std::fs::write(&aside, text).unwrap();
    std::fs::rename(aside, path).unwrap();
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// A client's side of TLS.
pub struct Caller {
    pub config: ClientConfig,
}

impl Caller {
    /// Trusts `authority`.
    pub fn trusting(authority: &Authority) -> Self {
        Self::made(authority, None, rustls::ALL_VERSIONS)
    }

    /// Trusts `authority`, and is `identity`.
    pub fn being(identity: &Issued, authority: &Authority) -> Self {
        Self::made(authority, Some(identity), rustls::ALL_VERSIONS)
    }

    pub fn made(
        authority: &Authority,
        identity: Option<&Issued>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Self {
        let verifier = WebPkiServerVerifier::builder_with_provider(authority.roots(), provider()).build().unwrap();
        let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(versions).unwrap();
        let builder = builder.with_webpki_verifier(verifier);
        let config = match identity {
            None => builder.with_no_client_auth(),
            Some(issued) => builder.with_client_auth_cert(vec![issued.der()], issued.key_der()).unwrap(),
        };
        Self { config }
    }

    pub fn offering(mut self, protocols: &[&str]) -> Self {
        self.config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        self
    }

    /// Ready to call again and again: sessions go on from one call to the next.
    pub fn ready(self) -> Arc<ClientConfig> {
        Arc::new(self.config)
    }
}

/// A side of TLS that has not said anything yet, in want of the certificate of `name`.
pub fn session(config: &Arc<ClientConfig>, name: &str) -> ClientConnection {
    ClientConnection::new(Arc::clone(config), ServerName::try_from(name.to_owned()).unwrap()).unwrap()
}

/// A connection to `address` in want of the certificate of `name`. Whether there is TLS shows when something is sent.
pub fn connect(address: SocketAddr, config: &Arc<ClientConfig>, name: &str) -> Client {
    Client::connect(address).in_secret(session(config, name))
}

/// A server's side of TLS with `identity`, which wants a certificate by `clients` if there is such an authority.
pub fn server(identity: &Issued, clients: Option<&Authority>) -> Arc<ServerConfig> {
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(authority.roots(), provider()).build();
            builder.with_client_cert_verifier(verifier.unwrap())
        }
    };
    Arc::new(builder.with_single_cert(vec![identity.der()], identity.key_der()).unwrap())
}
