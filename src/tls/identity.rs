//! Who one is: a chain of certificates, and the key of the first of them.

use std::sync::Arc;
use std::time::SystemTime;

use rustls::InconsistentKeys;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::sign::CertifiedKey;

use super::certificate::{Certificate, chain, not_pem};
use super::{Fault, provider};

/// A chain of certificates and the key that belongs to its first one. That they belong together has been checked.
#[derive(Debug)]
pub struct Identity {
    /// What the first certificate says of itself.
    pub certificate: Certificate,
    pub(super) certified: Arc<CertifiedKey>,
}

impl Identity {
    /// Reads a pair, both in PEM, that is valid at `now`.
    ///
    /// # Errors
    /// When one of them is not what it should be, they do not belong together, or the certificate is not valid now.
    pub fn read(certificates: &[u8], key: &[u8], now: SystemTime) -> Result<Self, Fault> {
        let chain = chain(certificates)?;
        let certificate = Certificate::read(&chain[0])?;
        certificate.check_time(now)?;
        let pem = key;
        let key = PrivateKeyDer::from_pem_slice(pem).map_err(|error| match error {
            _ if is_encrypted(pem) => Fault::EncryptedKey,
            pem::Error::NoItemsFound => Fault::NoKey,
            error => not_pem(&error),
        })?;
        let key = provider().key_provider.load_private_key(key);
        let key =
            key.map_err(|error| if is_encrypted(pem) { Fault::EncryptedKey } else { Fault::Key(error.to_string()) });
        let certified = CertifiedKey::new(chain, key?);
        match certified.keys_match() {
            Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
            Err(rustls::Error::InconsistentKeys(_)) => return Err(Fault::NotAPair),
            Err(error) => return Err(Fault::Certificate(error.to_string())),
        }
        Ok(Self { certificate, certified: Arc::new(certified) })
    }
}

/// Whether a key in this PEM needs a password: as PKCS #8 has it (RFC 5958), or as OpenSSL had it before (RFC 1421).
fn is_encrypted(pem: &[u8]) -> bool {
    const MARKS: [&[u8]; 2] = [b"BEGIN ENCRYPTED PRIVATE KEY", b"Proc-Type: 4,ENCRYPTED"];
    MARKS.iter().any(|mark| memchr::memmem::find(pem, mark).is_some())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    fn pair(change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    fn read(certificate: &str, key: &str) -> Result<Identity, Fault> {
        Identity::read(certificate.as_bytes(), key.as_bytes(), SystemTime::now())
    }

    #[test]
    fn a_pair_is_one_only_if_it_is_one() {
        let (certificate, key) = pair(|_| {});
        let (other, other_key) = pair(|_| {});
        assert_eq!(read(&certificate, &key).unwrap().certificate.names, ["localhost"]);
        assert!(read(&format!("{certificate}{other}"), &key).is_ok(), "a chain");
        assert!(read(&format!("{key}{certificate}"), &format!("{certificate}{key}")).is_ok(), "both in one file");
        assert_eq!(read(&certificate, &other_key).unwrap_err(), Fault::NotAPair);
        assert_eq!(read(&key, &key).unwrap_err(), Fault::NoCertificate);
        assert_eq!(read(&certificate, &certificate).unwrap_err(), Fault::NoKey);
        assert_eq!(read("", &key).unwrap_err(), Fault::NoCertificate);
        for encrypted in [
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
            "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n",
        ] {
            assert_eq!(read(&certificate, encrypted).unwrap_err(), Fault::EncryptedKey);
        }
        assert!(matches!(read(&certificate, &key[..80]).unwrap_err(), Fault::Pem(_)));
        let no_key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        assert!(matches!(read(&certificate, no_key).unwrap_err(), Fault::Key(_)));
    }

    #[test]
    fn a_certificate_whose_time_is_over_is_none() {
        let (certificate, key) = pair(|params| params.not_after = date_time_ymd(2020, 1, 1));
        assert!(matches!(read(&certificate, &key).unwrap_err(), Fault::Expired(_)));
    }
}
