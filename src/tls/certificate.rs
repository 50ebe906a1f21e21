//! What a certificate says of itself.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject as _};
use x509_cert::der::Decode as _;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use super::Fault;

/// Days that are left of a certificate when people are told of it.
const SOON: i64 = 14;

/// What a certificate says of itself; whether it is true is another question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// From when on it is valid.
    pub not_before: SystemTime,
    /// Until when it is.
    pub not_after: SystemTime,
    /// Whose it is, as RFC 4514 writes it (`CN=ledger,O=Example`), in visible ASCII: all else is escaped.
    pub subject: String,
    /// The names of hosts that it is for, lower case; one may begin with `*.`.
    pub names: Vec<String>,
    /// The URIs that it is for.
    pub uris: Vec<String>,
    /// Whether it is for any host at all, by a name or an address.
    pub has_names: bool,
}

impl Certificate {
    /// Reads a certificate.
    ///
    /// # Errors
    /// When it is none.
    pub fn read(der: &CertificateDer<'_>) -> Result<Self, Fault> {
        let unreadable = |error: x509_cert::der::Error| Fault::Certificate(error.to_string());
        let read = x509_cert::Certificate::from_der(der).map_err(unreadable)?;
        let told = read.tbs_certificate();
        let alternatives = told.get_extension::<SubjectAltName>().map_err(unreadable)?;
        let alternatives = alternatives.map(|(_, names)| names.0).unwrap_or_default();
        let (mut names, mut uris, mut has_names) = (Vec::new(), Vec::new(), false);
        for name in &alternatives {
            match name {
                GeneralName::DnsName(name) => {
                    has_names = true;
                    names.push(name.as_str().to_ascii_lowercase());
                }
                GeneralName::IpAddress(_) => has_names = true,
                GeneralName::UniformResourceIdentifier(uri) => uris.push(uri.as_str().to_owned()),
                _ => {}
            }
        }
        Ok(Self {
            not_before: told.validity().not_before.to_system_time(),
            not_after: told.validity().not_after.to_system_time(),
            subject: visible(&told.subject().to_string()),
            names,
            uris,
            has_names,
        })
    }

    /// Whole days from `now` until it is not valid any more; below zero once it is not.
    #[must_use]
    pub fn days_left(&self, now: SystemTime) -> i64 {
        const DAY: f64 = 24.0 * 3600.0;
        let seconds = match self.not_after.duration_since(now) {
            Ok(left) => left.as_secs_f64(),
            Err(over) => -over.duration().as_secs_f64(),
        };
        #[expect(clippy::cast_possible_truncation, reason = "no certificate lasts for so many days")]
        let days = (seconds / DAY).floor() as i64;
        days
    }

    /// Whether somebody should see to it that it is replaced: less than 14 days are left.
    #[must_use]
    pub fn expires_soon(&self, now: SystemTime) -> bool {
        self.days_left(now) < SOON
    }

    /// Until when it is valid, as RFC 3339.
    #[must_use]
    pub fn valid_until(&self) -> String {
        shown(self.not_after)
    }

    /// Whether it is valid at `now`.
    ///
    /// # Errors
    /// When its time is over, or has not come.
    pub fn check_time(&self, now: SystemTime) -> Result<(), Fault> {
        if now > self.not_after {
            Err(Fault::Expired(shown(self.not_after)))
        } else if now < self.not_before {
            Err(Fault::NotYetValid(shown(self.not_before)))
        } else {
            Ok(())
        }
    }
}

/// The certificates in a PEM file, in their order; at least one.
pub(super) fn chain(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let found: Vec<_> =
        CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|error| not_pem(&error))?;
    if found.is_empty() { Err(Fault::NoCertificate) } else { Ok(found) }
}

/// What is wrong with PEM, without repeating any of it: it may be a key.
pub(super) fn not_pem(error: &pem::Error) -> Fault {
    Fault::Pem(match error {
        pem::Error::MissingSectionEnd { .. } => "a section has no END line".to_owned(),
        pem::Error::IllegalSectionStart { .. } => "a BEGIN line is wrong".to_owned(),
        pem::Error::Base64Decode(_) => "a section is not base64".to_owned(),
        _ => "it cannot be read".to_owned(),
    })
}

/// A time as RFC 3339, to the second.
fn shown(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let seconds = Duration::from_secs(since.as_secs());
    let at = Timestamp::UNIX_EPOCH.checked_add(seconds);
    at.map_or_else(|_| format!("{} s after 1970", seconds.as_secs()), |at| at.to_string())
}

/// `text` with every byte that is not visible ASCII or a space written as RFC 4514 writes it: a backslash and two digits.
fn visible(text: &str) -> String {
    let mut visible = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' => visible.push(char::from(byte)),
            byte => write!(visible, "\\{byte:02X}").expect("a string takes all that is written"),
        }
    }
    visible
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType, date_time_ymd};

    use super::*;

    fn made(change: impl FnOnce(&mut CertificateParams)) -> Certificate {
        let mut params = CertificateParams::new(["Pay.Example.com".to_owned(), "*.example.org".to_owned()]).unwrap();
        change(&mut params);
        let made = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        Certificate::read(made.der()).unwrap()
    }

    #[test]
    fn it_tells_its_names_its_subject_and_its_time() {
        let told = made(|params| {
            params.distinguished_name.remove(DnType::CommonName);
            params.distinguished_name.push(DnType::OrganizationName, "Müller, Söhne");
            params.distinguished_name.push(DnType::CommonName, "ledger\r\nx-admin: 1");
            params.subject_alt_names.push(SanType::URI("spiffe://example.org/ledger".try_into().unwrap()));
            params.not_before = date_time_ymd(2026, 1, 1);
            params.not_after = date_time_ymd(2026, 1, 31);
        });
        assert_eq!(told.names, ["pay.example.com", "*.example.org"]);
        assert!(told.has_names && !made(|params| params.subject_alt_names.clear()).has_names);
        assert_eq!(told.uris, ["spiffe://example.org/ledger"]);
        assert_eq!(told.subject, r"CN=ledger\0d\0ax-admin: 1,O=M\C3\BCller\, S\C3\B6hne");
        let at = |days: u64| told.not_before + Duration::from_secs(days * 24 * 3600);
        assert_eq!((told.days_left(at(0)), told.days_left(at(29)), told.days_left(at(30))), (30, 1, 0));
        assert_eq!(told.days_left(at(31)), -1);
        assert_eq!(told.check_time(at(30)), Ok(()));
        assert_eq!(told.check_time(at(31)), Err(Fault::Expired("2026-01-31T00:00:00Z".to_owned())));
        let before = at(0) - Duration::from_secs(1);
        assert_eq!(told.check_time(before), Err(Fault::NotYetValid("2026-01-01T00:00:00Z".to_owned())));
    }

    #[test]
    fn what_is_no_certificate_is_told_apart() {
        let pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(matches!(Certificate::read(&chain(pem.as_bytes()).unwrap()[0]), Err(Fault::Certificate(_))));
        assert_eq!(chain(b""), Err(Fault::NoCertificate));
        assert_eq!(chain(b"hello"), Err(Fault::NoCertificate));
        assert!(matches!(chain(&pem.as_bytes()[..40]), Err(Fault::Pem(_))));
        assert!(matches!(chain(pem.replace("AAAA", "A!").as_bytes()), Err(Fault::Pem(_))));
    }
}
