//! A new connection to an endpoint.

use std::io;

use hyper::body::Body;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Connection;
use crate::snapshot::Endpoint;

/// Why there is no connection. The backend's fault in every case.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Refused, unreachable, unknown name.
    #[error("cannot connect: {0}")]
    Io(#[from] io::Error),
    /// No answer within `timeouts.connect`.
    #[error("no connection in time")]
    Timeout,
    /// The socket was connected but could not be used.
    #[error("cannot use the connection: {0}")]
    Setup(#[from] hyper::Error),
}

/// Connects to `endpoint` within its connect timeout. Names are resolved anew each time, off the worker's thread.
///
/// # Errors
/// When the endpoint does not take the connection in time.
pub async fn connect<B>(endpoint: &Endpoint) -> Result<Box<Connection<B>>, ConnectError>
where
    B: Body + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let address = (endpoint.address.host.as_str(), endpoint.address.port);
    let stream =
        timeout(endpoint.timeouts.connect, TcpStream::connect(address)).await.map_err(|_| ConnectError::Timeout)??;
    stream.set_nodelay(true)?;
    Ok(Box::new(Connection::open(stream, endpoint.max_header_size).await?))
}
