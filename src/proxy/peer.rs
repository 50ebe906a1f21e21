//! Who is at the other end of a client's connection: as the socket has it, or as a PROXY header says.

use std::net::{IpAddr, SocketAddr};

use tokio::io::AsyncReadExt as _;
use tokio::time::Instant;

use super::socket::Socket;
use super::watch::{Wait, Watch};
use crate::policy::network::Trusted;
use crate::proxy_header::{self, Malformed, Progress, Stated};

/// The two ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ends {
    /// The client's.
    pub source: SocketAddr,
    /// Where it connected to.
    pub destination: SocketAddr,
}

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its addresses; `None` for who comes through a unix socket, or is not named by the proxy in front.
    pub ends: Option<Ends>,
    /// Whether it is the one who spoke to us, and may be trusted to speak for others; not so if the proxy in front could not
    /// say whom it stands for.
    pub is_itself: bool,
}

impl Peer {
    /// Who is connected between these addresses.
    #[must_use]
    pub fn between(source: SocketAddr, destination: SocketAddr) -> Self {
        Self { ends: Some(Ends { source, destination }), is_itself: true }
    }

    /// Who is connected through a unix socket.
    #[must_use]
    pub fn local() -> Self {
        Self { ends: None, is_itself: true }
    }

    /// Its address, without the clothes of the other family.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        self.ends.map(|ends| ends.source.ip().to_canonical())
    }

    /// What a PROXY header says of it.
    #[must_use]
    pub fn stated(&self) -> Stated {
        let client = |Ends { source, destination }| Stated::Client { source, destination };
        self.ends.map_or(Stated::Unknown, client)
    }

    /// Whether it is believed when it says whom it stands for.
    #[must_use]
    pub fn is_trusted(&self, trusted: &Trusted) -> bool {
        self.is_itself && trusted.covers(self.ip())
    }

    fn as_stated(self, stated: Stated) -> Self {
        match stated {
            Stated::Local => self,
            // The address stays, as the protocol wants it; but what follows comes from somebody else.
            Stated::Unknown => Self { is_itself: false, ..self },
            Stated::Client { source, destination } => Self::between(source, destination),
        }
    }
}

/// Why nobody is served on a connection that should have begun with a PROXY header.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotIntroduced {
    #[error("the peer is none of trusted_proxies")]
    Untrusted,
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("the PROXY header did not come in time")]
    TooSlow,
    #[error("the connection ended in its PROXY header")]
    Ended,
}

/// Reads the PROXY header, and not a byte more, for as long as a request's head may take. Gives whom the connection is for.
pub(super) async fn introduced(
    peer: Peer,
    socket: &mut Socket,
    trusted: &Trusted,
    watch: &Watch,
) -> Result<Peer, NotIntroduced> {
    if !peer.is_trusted(trusted) {
        return Err(NotIntroduced::Untrusted);
    }
    watch.wait_until(Wait::Head, Instant::now() + watch.timeouts.header);
    let mut header = Vec::with_capacity(proxy_header::USUAL);
    loop {
        let missing = match proxy_header::read(&header)? {
            Progress::Whole(stated) => return Ok(peer.as_stated(stated)),
            Progress::Needs(missing) => missing,
        };
        let mut rest = (&mut *socket).take(missing as u64);
        tokio::select! {
            read = rest.read_buf(&mut header) => match read {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Err(NotIntroduced::Ended),
            },
            () = gives_up(watch) => return Err(NotIntroduced::TooSlow),
        }
    }
}

/// Ready when the time is up or the process ends: whoever has not asked for anything is not waited for.
async fn gives_up(watch: &Watch) {
    std::future::poll_fn(|cx| {
        if watch.is_draining() { std::task::Poll::Ready(()) } else { watch.poll_deadline(cx).map(drop) }
    })
    .await;
}
