//! The unused connections of one worker to one endpoint.

use std::cell::{Cell, RefCell};
use std::task::Context;

use hyper::body::Body;
use tokio::time::Instant;

use super::Connection;
use crate::snapshot::Endpoint;

/// A stack of unused connections: the one used last is used next, so that those that are not needed grow old and go.
#[derive(Debug)]
pub struct Pool<B: Body + 'static> {
    endpoint: Endpoint,
    // Boxed, so that taking one out and putting it back moves a pointer, not a kilobyte.
    #[expect(clippy::vec_box, reason = "requests hold the box itself")]
    idle: RefCell<Vec<Box<Connection<B>>>>,
    retired: Cell<bool>,
}

impl<B> Pool<B>
where
    B: Body + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// An empty pool for `endpoint`.
    #[must_use]
    pub fn new(endpoint: Endpoint) -> Self {
        Self { endpoint, idle: RefCell::default(), retired: Cell::default() }
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

    /// Keeps a connection whose last exchange is over on both sides.
    pub fn put(&self, mut connection: Box<Connection<B>>, now: Instant) {
        if self.retired.get() {
            return;
        }
        connection.rest(now);
        self.idle.borrow_mut().push(connection);
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

    fn is_fresh(&self, connection: &Connection<B>, now: Instant) -> bool {
        now.saturating_duration_since(connection.idle_since()) < self.endpoint.timeouts.idle
    }
}
