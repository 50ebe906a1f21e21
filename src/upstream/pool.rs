//! The unused connections of one worker to one endpoint.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::Context;

use hyper::body::Body;
use tokio::time::Instant;

use super::Connection;
use super::line::{Line, PassedOn};
use crate::policy::ejection;
use crate::policy::outcome::Failure;
use crate::snapshot::Endpoint;

/// A stack of unused connections: the one used last is used next, so that those that are not needed grow old and go.
#[derive(Debug)]
pub struct Pool<B: Body + 'static> {
    endpoint: Endpoint,
    // Boxed, so that taking one out and putting it back moves a pointer, not a kilobyte.
    #[expect(clippy::vec_box, reason = "requests hold the box itself")]
    idle: RefCell<Vec<Box<Connection<B>>>>,
    retired: Cell<bool>,
    /// The index of the worker whose it is.
    worker: usize,
    /// Who waits for a connection to this backend.
    line: Rc<Line<B>>,
}

impl<B: Body + 'static> Pool<B> {
    /// Whether the endpoint gets requests.
    #[must_use]
    pub fn is_fit(&self) -> bool {
        self.endpoint.state.is_fit()
    }

    /// Requests of this worker that run on the endpoint.
    #[must_use]
    pub fn running(&self) -> u32 {
        self.endpoint.state.running_on(self.worker)
    }
}

impl<B> Pool<B>
where
    B: Body + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// An empty pool for `endpoint`.
    pub(super) fn new(endpoint: Endpoint, worker: usize, line: Rc<Line<B>>) -> Self {
        Self { endpoint, idle: RefCell::default(), retired: Cell::default(), worker, line }
    }

    /// Where its connections lead.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The connection used last that is still good. `now` is on the worker's clock; what was unused for longer than the
    /// endpoint's idle timeout is closed, since the backend may be closing it at this moment.
    pub fn take(&self, cx: &mut Context<'_>, now: Instant) -> Option<Box<Connection<B>>> {
        loop {
            let mut connection = self.idle.borrow_mut().pop()?;
            if self.is_fresh(&connection, now) && connection.is_reusable(cx) {
                return Some(connection);
            }
        }
    }

    /// Keeps a connection whose last exchange is over on both sides, unless somebody waits for one.
    pub fn put(self: &Rc<Self>, mut connection: Box<Connection<B>>, now: Instant) {
        if self.retired.get() {
            return;
        }
        connection.rest(now);
        let kept = match self.line.slots.waiting() {
            0 => Some(connection),
            _ => self.line.pass_on(PassedOn { connection, pool: Rc::clone(self) }),
        };
        self.idle.borrow_mut().extend(kept);
    }

    /// Closes the one that was unused for longest; false if there is none.
    pub fn close_oldest(&self) -> bool {
        let oldest = {
            let mut idle = self.idle.borrow_mut();
            (!idle.is_empty()).then(|| idle.remove(0))
        };
        oldest.is_some()
    }

    /// Closes what is unused.
    pub fn close_idle(&self) {
        self.idle.borrow_mut().clear();
    }

    /// Closes what is unused, and keeps nothing from now on: the config names this endpoint no more, but requests that
    /// began before may hold the pool for hours.
    pub fn retire(&self) {
        self.retired.set(true);
        self.close_idle();
    }

    /// Closes what was unused for too long or was closed by the backend.
    pub fn sweep(&self, cx: &mut Context<'_>, now: Instant) {
        self.idle.borrow_mut().retain_mut(|connection| self.is_fresh(connection, now) && connection.is_alive(cx));
    }

    // -- what requests and the control plane have found

    /// A request that the endpoint failed like this counts against it, unless it is not its fault.
    pub fn blame(&self, failure: Failure) {
        if ejection::counts(failure) {
            self.endpoint.state.failed();
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

    fn is_fresh(&self, connection: &Connection<B>, now: Instant) -> bool {
        now.saturating_duration_since(connection.idle_since()) < self.endpoint.timeouts.idle
    }
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
        self.0.endpoint.state.count(self.0.worker, false);
    }
}
