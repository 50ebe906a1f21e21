//! A new connection to an endpoint.

use std::io::{self, ErrorKind};

use http::uri;
use hyper::body::Body;
use rustls::CertificateError;
use tokio::time::timeout;

use super::{Room, Socket, http1, http2};
use crate::capacity::Slot;
use crate::config::Scheme;
use crate::proxy_header::Stated;
use crate::snapshot::Endpoint;
use crate::tls;

/// Why there is no connection. The backend's fault, but for [`ConnectError::OwnLimit`].
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Refused, unreachable, unknown name.
    #[error("cannot connect: {0}")]
    Io(io::Error),
    /// This process or this machine is out of file descriptors, memory or ports.
    #[error("out of means to connect: {0}")]
    OwnLimit(io::Error),
    /// Its certificate is not one that we trust for it.
    #[error("its certificate is not trusted: {}", distrust(.0))]
    Certificate(io::Error),
    /// No TLS: it speaks none, or none that we speak, or wants a certificate of ours.
    #[error("no TLS: {0}")]
    Tls(io::Error),
    /// No answer within `timeouts.connect`.
    #[error("no connection in time")]
    Timeout,
    /// The socket was connected but could not be used.
    #[error("cannot use the connection: {0}")]
    Setup(#[from] hyper::Error),
    /// HTTP/2 could not be begun.
    #[error("cannot speak HTTP/2: {0}")]
    Http2(h2::Error),
    /// What it says is not HTTP/2.
    #[error("it does not speak HTTP/2, as `protocol: h2` of the backend says: {0}")]
    NoHttp2(h2::Error),
    /// It was closed at once.
    #[error("the connection was closed at once")]
    Closed,
}

/// A new connection, by what is spoken on it.
#[derive(Debug)]
pub(super) enum Connected<B: Body + 'static> {
    /// For one request at a time.
    Http1(Box<http1::Connection<B>>),
    /// For many.
    Http2(http2::Connection),
}

impl From<io::Error> for ConnectError {
    fn from(error: io::Error) -> Self {
        if is_own_limit(&error) { Self::OwnLimit(error) } else { Self::Io(error) }
    }
}

impl From<h2::Error> for ConnectError {
    fn from(error: h2::Error) -> Self {
        // What the library itself finds wrong is wrong from the first frame.
        if error.is_library() { Self::NoHttp2(error) } else { Self::Http2(error) }
    }
}

/// Whether the error says something about us and nothing about the other side.
fn is_own_limit(error: &io::Error) -> bool {
    // No kind of error stands for these: too many files in the system or the process, no room for buffers.
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    const ENOBUFS: i32 = if cfg!(any(target_os = "linux", target_os = "android")) { 105 } else { 55 };
    matches!(error.kind(), ErrorKind::OutOfMemory | ErrorKind::AddrNotAvailable)
        || matches!(error.raw_os_error(), Some(ENFILE | EMFILE | ENOBUFS))
}

/// Connects to `endpoint` for `client` within its connect timeout; `slot` is taken up until the connection is closed. Inside
/// of TLS, `only` this is spoken, if given.
///
/// # Errors
/// When the endpoint does not take the connection in time.
pub(super) async fn connect<B>(
    endpoint: &Endpoint,
    client: Stated,
    slot: Slot,
    only: Option<&[u8]>,
) -> Result<Connected<B>, ConnectError>
where
    B: Body + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let set_up = async {
        let socket = reach(endpoint, client, only, Room::OfClients).await?;
        let (scheme, is_http2) = match &socket {
            Socket::Tls(stream) => (uri::Scheme::HTTPS, stream.get_ref().1.alpn_protocol() == Some(tls::HTTP_2)),
            Socket::Tcp(_) | Socket::Unix(_) => (uri::Scheme::HTTP, endpoint.protocol.is_certainly_http2()),
        };
        Ok(if is_http2 {
            Connected::Http2(http2::Connection::open(socket, scheme, endpoint.max_header_size, slot).await?)
        } else {
            Connected::Http1(Box::new(http1::Connection::open(socket, client, endpoint.max_header_size, slot).await?))
        })
    };
    timeout(endpoint.timeouts.connect, set_up).await.map_err(|_| ConnectError::Timeout)?
}

/// A socket on which HTTP can be spoken with `endpoint` for `client`: in secret if its URL says so, and never in clear text
/// instead. What is spoken inside is agreed on there, unless it has to be `only` that. It takes a descriptor of `room`. How long
/// all of it may take is the caller's to say.
///
/// # Errors
/// When the endpoint does not take the connection, or cannot be trusted.
pub async fn reach(
    endpoint: &Endpoint,
    client: Stated,
    only: Option<&[u8]>,
    room: Room,
) -> Result<Socket, ConnectError> {
    let socket = Socket::connect(endpoint, client, room).await?;
    match (endpoint.address.scheme, &endpoint.tls) {
        (Scheme::Http, _) => Ok(socket),
        (Scheme::Https, Some(tls)) => Ok(Box::pin(socket.secured(tls, only)).await.map_err(untrusted)?),
        (Scheme::Https, None) => Err(ConnectError::Io(io::Error::other("nothing says whom to trust there"))),
    }
}

/// Why a certificate is not trusted: rustls says which names and dates it has, and of an unknown issuer only that.
fn distrust(error: &io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let Some(rustls::Error::InvalidCertificate(found)) = inner else { return error.to_string() };
    match found {
        CertificateError::UnknownIssuer => {
            format!("{found}: no authority that tidegate trusts there has issued it (tls.ca of the backend)")
        }
        CertificateError::BadSignature => {
            format!(
                "{found}: an authority of that name is trusted (tls.ca of the backend), and another key has signed it"
            )
        }
        _ => found.to_string(),
    }
}

/// Why there is no TLS.
fn untrusted(error: io::Error) -> ConnectError {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(_)) => ConnectError::Certificate(error),
        Some(_) => ConnectError::Tls(error),
        None => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn what_we_are_out_of_is_not_the_backends_fault() {
        for (number, is_ours) in [
            (23, true),   // ENFILE
            (24, true),   // EMFILE
            (12, true),   // ENOMEM
            (99, true),   // EADDRNOTAVAIL
            (105, true),  // ENOBUFS
            (111, false), // ECONNREFUSED
            (104, false), // ECONNRESET
            (113, false), // EHOSTUNREACH
            (101, false), // ENETUNREACH
        ] {
            assert_eq!(is_own_limit(&io::Error::from_raw_os_error(number)), is_ours, "{number}");
        }
        assert!(!is_own_limit(&io::Error::other("unknown name")));
    }
}
