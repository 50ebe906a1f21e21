//! URLs of those whom tidegate asks or tells by itself. They keep their secrets to themselves.

use std::fmt;
use std::str::FromStr;

use http::Uri;
use http::uri::Scheme;

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
}
