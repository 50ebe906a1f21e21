//! TLS as it is written.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// TLS on a listener: certificates in PEM with their keys, and which clients are let in. The files are read again when they
/// change; what is wrong then is told, and what was good stays.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct ListenerTls {
    /// The file of the certificate, followed by those that lead from it to an authority.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) certificate: Option<String>,
    /// The file of its private key, which is not encrypted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) key: Option<String>,
    /// Several pairs, in place of `certificate` and `key`. Which one a client is shown goes by the name that it asks for, exact
    /// or `*.`; the first pair is for those who ask for none of the names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) certificates: Option<Vec<Pair>>,
    /// The file of the authorities by which clients' certificates are trusted. Without it clients are asked for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) client_ca: Option<String>,
    /// Whether every client has to show a certificate, where there is a `client_ca`.
    pub(in crate::config) client_auth: ClientAuth,
    /// The oldest version that is spoken.
    pub(in crate::config) min_version: TlsVersion,
    /// Whether HTTP/2 is offered, beside HTTP/1.1.
    pub(in crate::config) http2: bool,
}

impl Default for ListenerTls {
    fn default() -> Self {
        Self {
            certificate: None,
            key: None,
            certificates: None,
            client_ca: None,
            client_auth: ClientAuth::Required,
            min_version: TlsVersion::Tls12,
            http2: true,
        }
    }
}

/// A certificate and its key.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["certificate", "key"]))]
pub(in crate::config) struct Pair {
    /// The file of the certificate, followed by those that lead from it to an authority.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) certificate: Option<String>,
    /// The file of its private key, which is not encrypted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) key: Option<String>,
}

/// Whether clients have to show a certificate.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum ClientAuth {
    /// Who shows none is not served.
    Required,
    /// Who shows one has to show a good one.
    Optional,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
pub(in crate::config) enum TlsVersion {
    /// TLS 1.2, with forward secrecy and authenticated encryption only.
    #[serde(rename = "1.2")]
    Tls12,
    /// TLS 1.3.
    #[serde(rename = "1.3")]
    Tls13,
}

/// TLS with the `https` endpoints of a backend. Their certificates are always checked.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct BackendTls {
    /// The file of the authorities by which the backend is trusted, in place of those of the system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) ca: Option<String>,
    /// The name that its certificate has to be for, where that is not the host of the URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) server_name: Option<String>,
    /// The file of the certificate that tidegate shows if the backend asks for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) certificate: Option<String>,
    /// The file of its private key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) key: Option<String>,
}
