//! TLS: certificates with their keys, whom is trusted, and what rustls makes of them for clients and for backends.
//!
//! All of it is made of bytes that somebody else has read, so nothing here knows of files or of the config. The provider of
//! the cryptography is named wherever rustls needs one: with two of them compiled in, its default would be a panic.

mod authorities;
mod certificate;
mod client;
mod identity;
mod server;

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};

pub use self::authorities::Authorities;
pub use self::certificate::Certificate;
pub use self::client::{Client, Terms as ClientTerms};
pub use self::identity::Identity;
pub use self::server::{ClientAuth, Resumption, Server, Terms as ServerTerms, Version};

/// HTTP/1.1, as ALPN names it.
pub const HTTP_1: &[u8] = b"http/1.1";
/// HTTP/2, as ALPN names it.
pub const HTTP_2: &[u8] = b"h2";

/// Why bytes are not what they are said to be, or cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The text is cut short, or not what PEM looks like.
    #[error("this is not whole PEM: {0}")]
    Pem(String),
    /// Whole PEM, perhaps, but of something else.
    #[error("there is no certificate in it")]
    NoCertificate,
    /// The same where the authorities should stand by whom somebody is known.
    #[error("there is no certificate of an authority in it")]
    NoAuthority,
    /// A certificate that cannot be read.
    #[error("the certificate cannot be read: {0}")]
    Certificate(String),
    /// Its time is over.
    #[error("the certificate expired on {0}")]
    Expired(String),
    /// Its time has not come.
    #[error("the certificate is not valid before {0}")]
    NotYetValid(String),
    /// Whole PEM, perhaps, but of something else.
    #[error("there is no private key in it")]
    NoKey,
    /// The key is there, and only who knows a password can read it.
    #[error("the private key is encrypted, and nobody can be asked for its password")]
    EncryptedKey,
    /// A private key of a kind that nobody can use.
    #[error("the private key cannot be used: {0}")]
    Key(String),
    /// They are not a pair.
    #[error("the key is not the one of the certificate")]
    NotAPair,
    /// A certificate that nobody can be trusted by.
    #[error("a certificate in it cannot be an authority: {0}")]
    Authority(String),
    /// What rustls does not like about all of it together.
    #[error("TLS cannot be set up: {0}")]
    Setup(String),
}

impl Fault {
    /// What to do about it, where that is not obvious.
    #[must_use]
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Self::Pem(_) => Some("the file has to hold all of its BEGIN and END lines"),
            Self::NoCertificate => Some("it has to hold BEGIN CERTIFICATE, the server's own certificate first"),
            Self::NoAuthority => Some("it has to hold BEGIN CERTIFICATE of each authority that is to be trusted"),
            Self::Expired(_) => Some("put the renewed certificate in its place, with its chain"),
            Self::NoKey => Some("it has to hold BEGIN PRIVATE KEY"),
            Self::EncryptedKey => Some("write it without one: openssl pkey -in KEY -out NEW_KEY"),
            Self::NotYetValid(_) => Some("is the clock of this machine right?"),
            Self::NotAPair => Some("the first certificate of the file has to be the one that was issued for this key"),
            _ => None,
        }
    }

    /// Whether the key is to blame rather than the certificate.
    #[must_use]
    pub fn is_of_key(&self) -> bool {
        matches!(self, Self::NoKey | Self::EncryptedKey | Self::Key(_) | Self::NotAPair)
    }
}

impl From<rustls::Error> for Fault {
    fn from(error: rustls::Error) -> Self {
        Self::Setup(error.to_string())
    }
}

/// The cryptography of everything here.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}
