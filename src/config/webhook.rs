//! Who is told of changes: an address that keeps its secrets to itself, and a key to sign with.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Uri;
use http::uri::Scheme;

/// Somebody who is told of changes by a POST.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook {
    /// What it is called in metrics, status and logs; no two have the same name.
    pub name: String,
    /// Where it is.
    pub url: Url,
    /// What the messages are signed with; `None`: they are not.
    pub key: Option<SigningKey>,
    /// What it is told of; at least one, none twice.
    pub events: Vec<WebhookEvent>,
}

/// What a webhook can be told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WebhookEvent {
    /// The guard did something.
    Trip,
    /// Everybody went to OLD, through whichever door.
    Rollback,
    /// A rollback was lifted.
    Resume,
    /// A ramp went on by a step, by itself or by hand.
    Step,
    /// The colours were switched.
    Switch,
}

impl WebhookEvent {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Trip, Self::Rollback, Self::Resume, Self::Step, Self::Switch];

    /// The name in the config and in messages.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trip => "trip",
            Self::Rollback => "rollback",
            Self::Resume => "resume",
            Self::Step => "step",
            Self::Switch => "switch",
        }
    }
}

/// An `http` or `https` URL with a host. Shown, it is its scheme, host and port: its path may be a secret, and what stands
/// before an `@` is one.
#[derive(Clone, PartialEq, Eq)]
pub struct Url {
    uri: Uri,
    shown: String,
}

/// It is not such a URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is not an http or https URL with a host")]
pub struct NotUrl;

impl Url {
    /// The whole of it.
    #[must_use]
    pub fn uri(&self) -> &Uri {
        &self.uri
    }
}

impl FromStr for Url {
    type Err = NotUrl;

    fn from_str(text: &str) -> Result<Self, NotUrl> {
        let uri: Uri = text.parse().map_err(|_| NotUrl)?;
        let shown = origin(&uri).ok_or(NotUrl)?;
        Ok(Self { uri, shown })
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Url({self})")
    }
}

/// `scheme://host:port` of `uri`, the port only if it is written, and nothing else. `None` unless the scheme is http or https
/// and there is a host.
#[must_use]
pub fn origin(uri: &Uri) -> Option<String> {
    let scheme = uri.scheme().filter(|scheme| **scheme == Scheme::HTTP || **scheme == Scheme::HTTPS)?;
    let host = uri.host().filter(|host| !host.is_empty())?;
    let port = uri.port_u16().map(|port| format!(":{port}")).unwrap_or_default();
    Some(format!("{scheme}://{host}{port}"))
}

/// A key for HMAC-SHA256 that no log, error or debug output shows.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningKey(Vec<u8>);

/// Why a text is no signing key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotKey {
    /// A key that can be guessed is none.
    #[error("this secret is shorter than 16 characters")]
    TooShort,
    /// It begins like a key in base64.
    #[error("what follows `whsec_` is not base64")]
    NotBase64,
}

impl SigningKey {
    const SHORTEST: usize = 16;
    /// What Standard Webhooks puts before a key in base64.
    const PREFIX: &str = "whsec_";

    /// The key that `text` means, without the white space around it: the bytes in base64 behind `whsec_`, as Standard Webhooks
    /// writes them, and otherwise those of the text itself.
    ///
    /// # Errors
    /// When it is shorter than 16 bytes, or not base64 though it begins so.
    pub fn read(text: &str) -> Result<Self, NotKey> {
        let text = text.trim();
        let bytes = match text.strip_prefix(Self::PREFIX) {
            Some(encoded) => STANDARD.decode(encoded).map_err(|_| NotKey::NotBase64)?,
            None => text.as_bytes().to_owned(),
        };
        if bytes.len() < Self::SHORTEST { Err(NotKey::TooShort) } else { Ok(Self(bytes)) }
    }

    /// The key itself, for signing.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_shows_where_it_leads_and_nothing_else() {
        for (written, shown) in [
            ("https://me:secret@hooks.example.com:8443/services/T0/B1?k=v", "https://hooks.example.com:8443"),
            ("http://[::1]/secret", "http://[::1]"),
            ("https://hooks.example.com", "https://hooks.example.com"),
        ] {
            let url: Url = written.parse().unwrap();
            assert_eq!((url.to_string(), format!("{url:?}")), (shown.to_owned(), format!("Url({shown})")));
        }
        for written in
            ["hooks.example.com", "/path", "ftp://a/b", "https://", "https:///path", "https://a b/", "http://a/\r\nb"]
        {
            assert_eq!(written.parse::<Url>(), Err(NotUrl), "{written}");
        }
    }

    #[test]
    fn a_key_is_written_as_it_is_or_in_base64() {
        assert_eq!(SigningKey::read(" 0123456789abcdef\n").unwrap().expose(), b"0123456789abcdef");
        assert_eq!(SigningKey::read("whsec_MDEyMzQ1Njc4OWFiY2RlZg==").unwrap().expose(), b"0123456789abcdef");
        assert_eq!(SigningKey::read("0123456789abcde"), Err(NotKey::TooShort));
        assert_eq!(SigningKey::read("whsec_MDEyMw=="), Err(NotKey::TooShort));
        assert_eq!(SigningKey::read("whsec_0123456789abcdef!"), Err(NotKey::NotBase64));
        assert_eq!(format!("{:?}", SigningKey::read("0123456789abcdef").unwrap()), "SigningKey(redacted)");
    }
}
