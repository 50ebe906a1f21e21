//! Who is told of changes, and a key to sign with.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::Url;

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
    fn a_key_is_written_as_it_is_or_in_base64() {
        assert_eq!(SigningKey::read(" 0123456789abcdef\n").unwrap().expose(), b"0123456789abcdef");
        assert_eq!(SigningKey::read("whsec_MDEyMzQ1Njc4OWFiY2RlZg==").unwrap().expose(), b"0123456789abcdef");
        assert_eq!(SigningKey::read("0123456789abcde"), Err(NotKey::TooShort));
        assert_eq!(SigningKey::read("whsec_MDEyMw=="), Err(NotKey::TooShort));
        assert_eq!(SigningKey::read("whsec_0123456789abcdef!"), Err(NotKey::NotBase64));
        assert_eq!(format!("{:?}", SigningKey::read("0123456789abcdef").unwrap()), "SigningKey(redacted)");
    }
}
