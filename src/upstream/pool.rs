//! The connections of one worker to one endpoint.

use std::cell::{Cell, RefCell};
use std::task::Context;

use hyper::body::{Body, Bytes};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use super::channel::Channel;
use super::connect::{ConnectError, Connected, connect};
use super::{http1, http2};
use crate::proxy_header::Stated;
use crate::snapshot::Endpoint;

/// How many streams a connection has room for, before any has told.
const STREAMS_EACH: usize = 100;

/// Unused connections of HTTP/1, as a stack: the one used last is used next, so that those that are not needed grow old and
/// go. And connections of HTTP/2, used or not, the oldest first for the same reason.
#[derive(Debug)]
pub struct Pool<B: Body + 'static> {
    endpoint: Endpoint,
    // Boxed, so that taking one out and putting it back moves a pointer, not a kilobyte.
    #[expect(clippy::vec_box, reason = "requests hold the box itself")]
    idle: RefCell<Vec<Box<http1::Connection<B>>>>,
    shared: RefCell<Vec<http2::Connection>>,
    /// Connections that are being made and will be shared, and the requests that wait for one of them.
    dialing: Cell<usize>,
    waiting: Cell<usize>,
    dialed: Notify,
    /// Whether connections to this endpoint are shared, as far as is known.
    shares: Cell<bool>,
    streams_each: Cell<usize>,
    retired: Cell<bool>,
}

impl<B> Pool<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// An empty pool for `endpoint`.
    #[must_use]
    pub fn new(endpoint: Endpoint) -> Self {
        Self {
            shares: Cell::new(endpoint.protocol.is_certainly_http2()),
            endpoint,
            idle: RefCell::default(),
            shared: RefCell::default(),
            dialing: Cell::default(),
            waiting: Cell::default(),
            dialed: Notify::new(),
            streams_each: Cell::new(STREAMS_EACH),
            retired: Cell::default(),
        }
    }

    /// Where its connections lead.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// A stream of a connection that has room for one, or the connection used last that is still good, and `client`'s if each is
    /// somebody's. `now` is on the
    /// worker's clock; what was unused for longer than the endpoint's idle timeout is closed, since the backend may be
    /// closing it at this moment.
    pub fn take(&self, client: Stated, cx: &mut Context<'_>, now: Instant) -> Option<Channel<B>> {
        if self.shares.get()
            && let Some(stream) = self.claim()
        {
            return Some(Channel::Http2(stream));
        }
        loop {
            let mut connection = self.pop(client)?;
            if self.is_fresh(connection.idle_since(), now) && connection.is_reusable(cx) {
                return Some(Channel::Http1(connection));
            }
        }
    }

    fn pop(&self, client: Stated) -> Option<Box<http1::Connection<B>>> {
        let mut idle = self.idle.borrow_mut();
        match self.endpoint.proxy_protocol {
            None => idle.pop(),
            Some(_) => {
                let at = idle.iter().rposition(|connection| connection.client() == client)?;
                Some(idle.remove(at))
            }
        }
    }

    fn claim(&self) -> Option<Box<http2::Stream<B>>> {
        let mut shared = self.shared.borrow_mut();
        shared.retain(http2::Connection::is_open);
        shared.iter().find_map(http2::Connection::claim)
    }

    /// A new connection for `client`, within the endpoint's connect timeout; or a stream of one that somebody else makes meanwhile.
    ///
    /// # Errors
    /// When the endpoint does not take the connection in time.
    pub async fn connect(&self, client: Stated) -> Result<Channel<B>, ConnectError> {
        if !self.shares.get() {
            return self.admit(connect(&self.endpoint, client).await?);
        }
        timeout(self.endpoint.timeouts.connect, self.share(client)).await.map_err(|_| ConnectError::Timeout)?
    }

    /// As many connections are made at once as there are requests to fill them.
    async fn share(&self, client: Stated) -> Result<Channel<B>, ConnectError> {
        let _waiting = Counted::new(&self.waiting);
        loop {
            let dialed = self.dialed.notified();
            if let Some(stream) = self.claim() {
                return Ok(Channel::Http2(stream));
            }
            if self.waiting.get() > self.dialing.get() * self.streams_each.get() {
                break;
            }
            dialed.await;
        }
        let _dialing = Dialing { _counted: Counted::new(&self.dialing), dialed: &self.dialed };
        self.admit(connect(&self.endpoint, client).await?)
    }

    fn admit(&self, connected: Connected<B>) -> Result<Channel<B>, ConnectError> {
        match connected {
            Connected::Http1(connection) => {
                self.shares.set(false);
                Ok(Channel::Http1(connection))
            }
            Connected::Http2(connection) => {
                self.shares.set(true);
                self.streams_each.set(connection.max_streams());
                let stream = connection.claim().ok_or(ConnectError::Closed)?;
                if !self.retired.get() {
                    self.shared.borrow_mut().push(connection);
                }
                Ok(Channel::Http2(stream))
            }
        }
    }

    /// Opens up to `connections` that nobody needs yet, one after the other, so that whoever is served meanwhile hardly
    /// notices. Of those that are shared one is enough. Tells how many there are.
    pub async fn warm(&self, connections: usize) -> usize {
        if self.endpoint.proxy_protocol.is_some() {
            return 0; // for nobody knows whom
        }
        for opened in 0..connections {
            match self.connect(Stated::Local).await {
                Ok(Channel::Http2(_)) => return connections,
                Ok(channel) => self.put(channel, Instant::now()),
                Err(_) => return opened,
            }
        }
        connections
    }

    /// Keeps a connection whose last exchange is over on both sides. A stream's is kept anyway.
    pub fn put(&self, channel: Channel<B>, now: Instant) {
        if let Channel::Http1(mut connection) = channel
            && !self.retired.get()
        {
            connection.rest(now);
            self.idle.borrow_mut().push(connection);
        }
    }

    /// Closes what is unused.
    pub fn close_idle(&self) {
        self.idle.borrow_mut().clear();
        self.shared.borrow_mut().retain(|connection| connection.idle_since().is_none());
    }

    /// Closes what is unused, and keeps nothing from now on: the config names this endpoint no more, but requests that
    /// began before may hold the pool for hours.
    pub fn retire(&self) {
        self.retired.set(true);
        self.idle.borrow_mut().clear();
        self.shared.borrow_mut().clear(); // each lives as long as its streams
    }

    /// Closes what was unused for too long or was closed by the backend.
    pub fn sweep(&self, cx: &mut Context<'_>, now: Instant) {
        let is_good = |connection: &mut Box<http1::Connection<B>>| {
            self.is_fresh(connection.idle_since(), now) && connection.is_alive(cx)
        };
        self.idle.borrow_mut().retain_mut(is_good);
        let is_good = |connection: &http2::Connection| {
            connection.is_open() && connection.idle_since().is_none_or(|since| self.is_fresh(since, now))
        };
        self.shared.borrow_mut().retain(is_good);
    }

    fn is_fresh(&self, idle_since: Instant, now: Instant) -> bool {
        now.saturating_duration_since(idle_since) < self.endpoint.timeouts.idle
    }
}

/// One more of something, until it is dropped.
struct Counted<'a>(&'a Cell<usize>);

impl<'a> Counted<'a> {
    fn new(count: &'a Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// A connection is being made. However that ends, whoever waits for it looks again.
struct Dialing<'a> {
    _counted: Counted<'a>,
    dialed: &'a Notify,
}

impl Drop for Dialing<'_> {
    fn drop(&mut self) {
        self.dialed.notify_waiters();
    }
}
