//! The connections of one worker to one endpoint.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::task::Context;

use hyper::body::{Body, Bytes};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::channel::Channel;
use super::connect::{ConnectError, Connected, connect};
use super::line::{Line, PassedOn};
use super::{http1, http2};
use crate::capacity::Slot;
use crate::policy::ejection;
use crate::policy::outcome::Failure;
use crate::proxy_header::Stated;
use crate::snapshot::Endpoint;
use crate::tls;

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
    failed: Cell<Option<Failed>>,
    /// Whether connections to this endpoint are shared, as far as is known.
    shares: Cell<bool>,
    streams_each: Cell<usize>,
    retired: Cell<bool>,
    /// The index of the worker whose it is.
    worker: usize,
    /// Who waits for a connection to this backend.
    line: Rc<Line<B>>,
    /// The backend's name.
    backend: String,
}

impl<B: Body + 'static> Pool<B> {
    /// Whether the endpoint gets requests.
    #[must_use]
    pub fn is_fit(&self) -> bool {
        self.endpoint.state.is_fit()
    }

    /// A stream has ended, and somebody waits: here for a stream, or elsewhere for a connection that nobody uses.
    fn give_up_stream(&self) {
        if self.line.is_empty() {
            self.close_oldest();
        } else {
            self.line.freed.notify_one();
        }
    }

    /// Closes the one that was unused for longest; false if there is none.
    pub(super) fn close_oldest(&self) -> bool {
        let alone = {
            let mut idle = self.idle.borrow_mut();
            (!idle.is_empty()).then(|| idle.remove(0))
        };
        if alone.is_some() {
            return true;
        }
        let mut shared = self.shared.borrow_mut();
        let unused = shared.iter().position(|connection| connection.idle_since().is_some());
        unused.map(|at| shared.remove(at)).is_some()
    }

    /// Requests of this worker that run on the endpoint.
    #[must_use]
    pub fn running(&self) -> u32 {
        self.endpoint.state.running_on(self.worker)
    }
}

impl<B> Pool<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// An empty pool for `endpoint`.
    pub(super) fn new(endpoint: Endpoint, worker: usize, line: Rc<Line<B>>, backend: String) -> Self {
        Self {
            shares: Cell::new(endpoint.protocol.is_certainly_http2()),
            endpoint,
            idle: RefCell::default(),
            shared: RefCell::default(),
            dialing: Cell::default(),
            waiting: Cell::default(),
            dialed: Notify::new(),
            failed: Cell::default(),
            streams_each: Cell::new(STREAMS_EACH),
            retired: Cell::default(),
            worker,
            line,
            backend,
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
        let stream = shared.iter().find_map(http2::Connection::claim);
        if stream.is_none() {
            shared.retain(http2::Connection::is_open);
        }
        stream
    }

    /// Whether its connections are shared by many requests, as far as is known.
    pub(super) fn is_shared(&self) -> bool {
        self.shares.get()
    }

    /// A stream of a shared connection that somebody else makes meanwhile, or the turn to make one: as many are made at once as
    /// there are requests to fill them. Where others wait for the right to open one, there is nothing to wait for.
    ///
    /// # Errors
    /// What others have failed with meanwhile, if that takes longer than the endpoint's connect timeout. As long as nobody has
    /// failed, who is about to make one is waited for, which ends in its time: it may have begun late.
    pub(super) async fn join(&self) -> Result<Joined<'_, B>, Failure> {
        let waiting = Counted::new(&self.waiting);
        let since = Instant::now();
        let deadline = since + self.endpoint.timeouts.connect;
        loop {
            let dialed = self.dialed.notified();
            if let Some(stream) = self.claim() {
                return Ok(Joined::Stream(stream));
            }
            let failed = self.failed.get().filter(|failed| failed.at >= since).map(|failed| failed.with);
            if let Some(failure) = failed
                && deadline <= Instant::now()
            {
                return Err(failure);
            }
            let are_enough = self.waiting.get() <= self.dialing.get() * self.streams_each.get();
            if !are_enough || self.line.slots.waiting() > 0 {
                let dialing = Counted::new(&self.dialing);
                return Ok(Joined::Dial(Dialing { _waiting: waiting, _dialing: dialing, pool: self }));
            }
            match failed {
                None => dialed.await,
                Some(_) => drop(timeout_at(deadline, dialed).await),
            }
        }
    }

    /// A new connection for `client`, within the endpoint's connect timeout, or a stream of one.
    ///
    /// # Errors
    /// When the endpoint does not take the connection in time.
    pub(super) async fn dial(&self, client: Stated, slot: Slot) -> Result<Channel<B>, ConnectError> {
        self.admit(connect(&self.endpoint, client, slot, None).await?)
    }

    /// A new connection of HTTP/1, whatever else the endpoint would rather speak. It is for one request.
    ///
    /// # Errors
    /// When the endpoint does not take the connection in time.
    pub(super) async fn dial_http1(&self, client: Stated, slot: Slot) -> Result<Channel<B>, ConnectError> {
        match connect(&self.endpoint, client, slot, Some(tls::HTTP_1)).await? {
            Connected::Http1(connection) => Ok(Channel::Http1(connection)),
            Connected::Http2(_) => Err(ConnectError::Closed), // it was not asked for that
        }
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
                    let mut shared = self.shared.borrow_mut();
                    shared.retain(|other| !other.is_useless()); // this one is in its place
                    shared.push(connection);
                }
                Ok(Channel::Http2(stream))
            }
        }
    }

    /// Keeps a connection whose last exchange is over on both sides, unless somebody waits for one. A stream's is kept anyway.
    pub fn put(self: &Rc<Self>, channel: Channel<B>, now: Instant) {
        let Channel::Http1(mut connection) = channel else { return };
        if self.retired.get() {
            return;
        }
        connection.rest(now);
        let kept = match self.line.slots.waiting() {
            0 => Some(connection),
            _ if self.endpoint.proxy_protocol.is_some() => None, // who waits is somebody else, and opens one in its place
            _ => self.line.pass_on(PassedOn { connection, pool: Rc::clone(self) }),
        };
        self.idle.borrow_mut().extend(kept);
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

    // -- what requests have found

    /// A request that the endpoint failed like this counts against it, unless it is not its fault.
    pub fn blame(&self, failure: Failure) {
        if ejection::counts(failure) {
            self.endpoint.state.failed();
        }
        if let Some(why) = in_words(failure) {
            self.tell_of_trouble(failure, &why);
        }
    }

    /// A connection failed like this, because of `why`: to be told before the request that wanted it is held against the endpoint.
    pub(super) fn has_no_connection(&self, failure: Failure, why: &ConnectError) {
        if ejection::counts(failure) {
            self.tell_of_trouble(failure, why);
        }
    }

    /// Tells that requests fail, if that is news.
    fn tell_of_trouble(&self, failure: Failure, why: &dyn fmt::Display) {
        let Some(requests) = self.endpoint.state.troubles(failure) else { return };
        let (backend, endpoint, cause) = (&self.backend, &self.endpoint.at, failure.as_str());
        tracing::warn!(backend, %endpoint, cause, requests, "an endpoint fails requests: {why}");
        self.endpoint.state.is_in_trouble(why.to_string());
    }

    /// The endpoint has answered a request to the end.
    pub fn praise(&self) {
        if let Some(trouble) = self.endpoint.state.answered() {
            let (backend, endpoint) = (&self.backend, &self.endpoint.at);
            tracing::info!(backend, %endpoint, "an endpoint answers again; it failed requests: {}", trouble.why);
        }
    }

    /// The endpoint answers with this status. One that says that nobody is there counts against it; tells whether it does.
    pub fn blame_status(&self, status: u16) -> bool {
        let counts = ejection::counts_status(status);
        if counts {
            self.endpoint.state.failed();
        }
        counts
    }

    fn is_fresh(&self, idle_since: Instant, now: Instant) -> bool {
        now.saturating_duration_since(idle_since) < self.endpoint.timeouts.idle
    }
}

/// What people are told of a failure of a connection that there is. Why there is none, whoever wanted it can tell better.
fn in_words(failure: Failure) -> Option<&'static str> {
    Some(match failure {
        Failure::ResponseTimeout => "it did not begin to answer in time (timeouts.response)",
        Failure::Reset => "it closed the connection before it answered",
        Failure::Refused => "it refuses to look at requests (REFUSED_STREAM)",
        Failure::Malformed => "its answer is not HTTP",
        Failure::OnlyHttp2 => "it speaks HTTP/2, which takes `protocol: h2` of the backend",
        Failure::Truncated => "its answer broke off",
        _ => return None,
    })
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

/// What a request gets that would share a connection.
pub(super) enum Joined<'a, B: Body + 'static> {
    /// A stream.
    Stream(Box<http2::Stream<B>>),
    /// The turn to make a connection.
    Dial(Dialing<'a, B>),
}

/// A connection is being made. However that ends, whoever waits for it looks again.
pub(super) struct Dialing<'a, B: Body + 'static> {
    _waiting: Counted<'a>,
    _dialing: Counted<'a>,
    pool: &'a Pool<B>,
}

impl<B: Body + 'static> Dialing<'_, B> {
    /// There will be none.
    pub(super) fn failed(self, with: Failure) {
        self.pool.failed.set(Some(Failed { at: Instant::now(), with }));
    }
}

impl<B: Body + 'static> Drop for Dialing<'_, B> {
    fn drop(&mut self) {
        self.pool.dialed.notify_waiters();
    }
}

/// The last connection that was to be shared and could not be made.
#[derive(Clone, Copy, Debug)]
struct Failed {
    at: Instant,
    with: Failure,
}

/// A request's place at an endpoint: while it lives, the request runs there.
#[derive(Debug)]
pub struct Lease<B: Body + 'static>(Rc<Pool<B>>);

impl<B: Body + 'static> Lease<B> {
    pub(super) fn of(pool: &Rc<Pool<B>>) -> Self {
        pool.endpoint.state.count(pool.worker, true);
        Self(Rc::clone(pool))
    }

    /// Where the request runs.
    #[must_use]
    pub fn pool(&self) -> &Rc<Pool<B>> {
        &self.0
    }
}

impl<B: Body + 'static> Drop for Lease<B> {
    fn drop(&mut self) {
        let pool = &self.0;
        pool.endpoint.state.count(pool.worker, false);
        if pool.shares.get() && pool.line.slots.waiting() > 0 {
            pool.give_up_stream(); // it has ended before this
        }
    }
}
