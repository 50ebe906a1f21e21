//! A connection to an endpoint, before anything is spoken on it.

use std::io;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpSocket, TcpStream, UnixSocket, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::mind_silence;
use crate::descriptors;
use crate::proxy_header::{self, Stated};
use crate::snapshot::{At, Endpoint};
use crate::tls;

/// A connected stream of bytes.
#[derive(Debug)]
pub enum Socket {
    /// To a port.
    Tcp(TcpStream),
    /// To a socket of this machine.
    Unix(UnixStream),
    /// Over one of the others, in secret.
    Tls(Box<TlsStream<Self>>),
}

/// Out of which descriptors a socket is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// Of those that clients and their requests may use up.
    OfClients,
    /// Of all: the process wants to know something itself.
    OfTheProcess,
}

impl Room {
    /// # Errors
    /// The same as if there were no descriptor left at all.
    fn admits(self, socket: &impl AsRawFd) -> io::Result<()> {
        const EMFILE: i32 = 24;
        match self {
            Self::OfClients if descriptors::is_spare(socket) => Err(io::Error::from_raw_os_error(EMFILE)),
            Self::OfClients | Self::OfTheProcess => Ok(()),
        }
    }
}

impl Socket {
    /// Connects to `endpoint`, and says whom that is for if it wants to know. How long that may take is the caller's to say.
    ///
    /// # Errors
    /// The system's.
    pub async fn connect(endpoint: &Endpoint, client: Stated, room: Room) -> io::Result<Self> {
        let mut socket = match &endpoint.at {
            At::Tcp(address) => {
                let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
                room.admits(&socket)?;
                let stream = socket.connect(*address).await?;
                stream.set_nodelay(true)?;
                Self::Tcp(stream)
            }
            At::Unix(path) => {
                let socket = UnixSocket::new_stream()?;
                room.admits(&socket)?;
                Self::Unix(socket.connect(path).await?)
            }
        };
        if let Some(version) = endpoint.proxy_protocol {
            socket.write_all(&proxy_header::write(version, client)).await?;
        }
        Ok(socket)
    }

    /// Has the system find out whether the backend is still there while nothing comes from it.
    pub(super) fn mind_silence(&self) {
        match self {
            Self::Tcp(stream) => mind_silence(stream),
            Self::Unix(_) => {}
            Self::Tls(stream) => stream.get_ref().0.mind_silence(),
        }
    }

    /// The same in secret, with whoever `tls` says it has to be. What is spoken inside is `only` that, if given, and else what
    /// `tls` offers. How long that may take is the caller's to say.
    ///
    /// # Errors
    /// The system's, or that of rustls inside.
    pub async fn secured(self, tls: &tls::Client, only: Option<&[u8]>) -> io::Result<Self> {
        let connector = TlsConnector::from(Arc::clone(&tls.config));
        let protocols = only.map_or_else(|| tls.config.alpn_protocols.clone(), |only| vec![only.to_owned()]);
        let secured = connector.with_alpn(protocols).connect(tls.name(), self).await?;
        Ok(Self::Tls(Box::new(secured)))
    }
}

impl AsyncRead for Socket {
    #[inline]
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Unix(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
