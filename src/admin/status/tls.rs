//! The status of certificates.

use std::time::SystemTime;

use super::{CertificateStatus, TlsStatus, TroubleStatus};
use crate::config::Keyring;

/// What `keyring` holds at `now`.
pub(super) fn of_keyring(keyring: &Keyring, now: SystemTime) -> TlsStatus {
    let certificates = keyring.certificates().map(|(path, certificate)| CertificateStatus {
        file: path.display().to_string(),
        subject: certificate.subject.clone(),
        names: certificate.names.clone(),
        valid_until: certificate.valid_until(),
        days_left: certificate.days_left(now),
        expires_soon: certificate.expires_soon(now),
    });
    let troubles = keyring
        .troubles()
        .iter()
        .map(|trouble| TroubleStatus { file: trouble.path.display().to_string(), message: trouble.message.clone() });
    TlsStatus { certificates: certificates.collect(), troubles: troubles.collect() }
}
