//! Where a backend is: a scheme and an address, and how they are written.

use std::fmt;
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};

use super::error::Complaint;
use super::value::{Checked, is_host};

const ALLOWED: &str = "http://HOST[:PORT], https://HOST[:PORT] or unix:/PATH";

/// One place of a backend, from `http://HOST[:PORT]`, `https://HOST[:PORT]` or `unix:/path`. Shown, it is what was written
/// with its port filled in.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    /// What is spoken there; `Http` over a unix socket.
    pub scheme: Scheme,
    /// Where it is.
    pub address: Address,
}

/// What is spoken at an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scheme {
    /// HTTP in clear text.
    Http,
    /// HTTP over TLS.
    Https,
}

/// Where an endpoint is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// A port.
    Tcp {
        /// A name or an address, in lower case; an IPv6 address without its brackets.
        host: String,
        /// The port; 80 with http and 443 with https unless given.
        port: u16,
    },
    /// A socket of this machine, by its path, which is short enough to be one.
    Unix(PathBuf),
}

impl Endpoint {
    /// What stands in the header `host` of a request that names no host: as nginx has it, `localhost` for a unix socket.
    #[must_use]
    pub fn authority(&self) -> String {
        match (&self.address, self.scheme) {
            (Address::Unix(_), _) => "localhost".to_owned(),
            (address @ Address::Tcp { .. }, _) => address.to_string(),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.address, self.scheme) {
            (Address::Unix(_), _) => write!(f, "{}", self.address),
            (Address::Tcp { .. }, Scheme::Http) => write!(f, "http://{}", self.address),
            (Address::Tcp { .. }, Scheme::Https) => write!(f, "https://{}", self.address),
        }
    }
}

/// `HOST:PORT`, an IPv6 address in brackets, or `unix:/path`.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Whether `written` is meant to be an endpoint, and not the name of a backend.
pub(super) fn is_endpoint(written: &str) -> bool {
    written.contains("://") || written.starts_with("unix:")
}

/// An endpoint from its URL. The relative path of a socket starts at `folder`.
pub(super) fn endpoint(url: &str, folder: &Path) -> Checked<Endpoint> {
    let complaint = |message: &str| Complaint::new(message).allowed(ALLOWED);
    if let Some(path) = url.strip_prefix("unix:") {
        let path = socket_path(path, folder).map_err(|complaint| complaint.allowed(ALLOWED))?;
        return Ok(Endpoint { scheme: Scheme::Http, address: Address::Unix(path) });
    }
    let (scheme, rest, usual_port) = match (url.strip_prefix("http://"), url.strip_prefix("https://")) {
        (Some(rest), _) => (Scheme::Http, rest, 80),
        (_, Some(rest)) => (Scheme::Https, rest, 443),
        (None, None) => return Err(complaint("this URL does not begin with http://, https:// or unix:")),
    };
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.contains('@') {
        return Err(complaint("a backend's URL holds no user or password"));
    }
    if authority.contains(['/', '?', '#', '\\']) {
        return Err(complaint("a backend's URL holds no path or query").help("the request's own path is passed on"));
    }
    let (host, port) = split_port(authority).ok_or_else(|| complaint("this URL has no valid host"))?;
    let port = match port {
        None => usual_port,
        Some(port) => {
            port.parse().ok().filter(|port| *port != 0).ok_or_else(|| complaint("this URL has no valid port"))?
        }
    };
    Ok(Endpoint { scheme, address: Address::Tcp { host: host.to_ascii_lowercase(), port } })
}

/// The path of a unix socket, without its `unix:`; a relative one starts at `folder`.
pub(super) fn socket_path(written: &str, folder: &Path) -> Checked<PathBuf> {
    if written.is_empty() || written.ends_with('/') {
        return Err(Complaint::new("this is not the path of a socket").allowed("unix:/PATH"));
    }
    // unix:///run/a.sock is the same socket as unix:/run/a.sock: the way clients write it that want a URL.
    let written = written.strip_prefix("//").filter(|path| path.starts_with('/')).unwrap_or(written);
    let path = folder.join(written);
    match std::os::unix::net::SocketAddr::from_pathname(&path) {
        Ok(_) => Ok(path),
        Err(_) => Err(Complaint::new("this path is too long for a socket, or holds a NUL")
            .help("the system takes about 100 bytes, the folder of the config counted in if the path is relative")),
    }
}

/// Host and port of `HOST`, `HOST:PORT` or `[ADDRESS]:PORT`.
pub(super) fn split_port(authority: &str) -> Option<(&str, Option<&str>)> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, after) = rest.split_once(']')?;
        host.parse::<Ipv6Addr>().ok()?;
        return if after.is_empty() { Some((host, None)) } else { Some((host, Some(after.strip_prefix(':')?))) };
    }
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    };
    is_host(host).then_some((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> Checked<Endpoint> {
        endpoint(url, Path::new("/etc/tidegate"))
    }

    #[test]
    fn an_endpoint_is_shown_with_its_port() {
        for (written, shown, authority) in [
            ("http://Ledger.internal", "http://ledger.internal:80", "ledger.internal:80"),
            ("http://127.0.0.1:9001/", "http://127.0.0.1:9001", "127.0.0.1:9001"),
            ("https://ledger.internal", "https://ledger.internal:443", "ledger.internal:443"),
            ("https://[::1]:8443", "https://[::1]:8443", "[::1]:8443"),
            ("unix:/run/ledger.sock", "unix:/run/ledger.sock", "localhost"),
            ("unix:///run/ledger.sock", "unix:/run/ledger.sock", "localhost"),
            ("unix:run/ledger.sock", "unix:/etc/tidegate/run/ledger.sock", "localhost"),
        ] {
            let endpoint = read(written).unwrap();
            assert_eq!(endpoint.to_string(), shown, "{written}");
            assert_eq!(endpoint.authority(), authority, "{written}");
        }
    }

    #[test]
    fn what_is_no_endpoint_is_refused() {
        let long = format!("unix:/{}", "a".repeat(108));
        for written in
            ["ledger", "ftp://a", "http://", "https://a:0", "http://a:x", "unix:", "unix:/run/", &long, "unix:/a\0b"]
        {
            assert!(read(written).is_err(), "{written:?}");
        }
    }
}
