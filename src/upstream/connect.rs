//! A new connection to an endpoint.

use std::io::{self, ErrorKind};

use http::uri;
use hyper::body::Body;
use tokio::time::timeout;

use super::{Socket, http1, http2};
use crate::capacity::Slot;
use crate::config::Scheme;
use crate::snapshot::Endpoint;

/// Why there is no connection. The backend's fault, but for [`ConnectError::OwnLimit`].
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    /// Refused, unreachable, unknown name.
    #[error("cannot connect: {0}")]
    Io(io::Error),
    /// This process or this machine is out of file descriptors, memory or ports.
    #[error("out of means to connect: {0}")]
    OwnLimit(io::Error),
    /// No answer within `timeouts.connect`.
    #[error("no connection in time")]
    Timeout,
    /// The socket was connected but could not be used.
    #[error("cannot use the connection: {0}")]
    Setup(#[from] hyper::Error),
    /// The backend does not speak HTTP/2, or not to us.
    #[error("cannot speak HTTP/2: {0}")]
    Http2(#[from] h2::Error),
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

/// Whether the error says something about us and nothing about the other side.
fn is_own_limit(error: &io::Error) -> bool {
    // No kind of error stands for these: too many files in the system or the process, no room for buffers.
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    const ENOBUFS: i32 = if cfg!(any(target_os = "linux", target_os = "android")) { 105 } else { 55 };
    matches!(error.kind(), ErrorKind::OutOfMemory | ErrorKind::AddrNotAvailable)
        || matches!(error.raw_os_error(), Some(ENFILE | EMFILE | ENOBUFS))
}

/// Connects to `endpoint` within its connect timeout; `slot` is taken up until the connection is closed.
///
/// # Errors
/// When the endpoint does not take the connection in time.
pub(super) async fn connect<B>(endpoint: &Endpoint, slot: Slot) -> Result<Connected<B>, ConnectError>
where
    B: Body + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    timeout(endpoint.timeouts.connect, set_up(endpoint, slot)).await.map_err(|_| ConnectError::Timeout)?
}

async fn set_up<B>(endpoint: &Endpoint, slot: Slot) -> Result<Connected<B>, ConnectError>
where
    B: Body + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    if endpoint.address.scheme == Scheme::Https {
        return Err(ConnectError::Io(io::Error::other("TLS to backends is not built in"))); // never in clear text instead
    }
    let socket = Socket::connect(&endpoint.at).await?;
    if endpoint.protocol.is_certainly_http2() {
        let connection = http2::Connection::open(socket, uri::Scheme::HTTP, endpoint.max_header_size, slot).await?;
        return Ok(Connected::Http2(connection));
    }
    Ok(Connected::Http1(Box::new(http1::Connection::open(socket, endpoint.max_header_size, slot).await?)))
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
