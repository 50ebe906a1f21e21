//! A backend as one worker sees it: a pool for each endpoint, whose turn it is, and what may be sent once more.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Bytes};
use tokio::time::{Instant, timeout};

use super::connect::ConnectError;
use super::line::{Line, PassedOn};
use super::pool::{Joined, Lease};
use super::{Channel, Pool};
use crate::capacity::{Full, Slot};
use crate::config::Retries;
use crate::metrics::backend::BackendState;
use crate::policy::balance::{self, Balance, Candidate, Weight};
use crate::policy::budget::Budget;
use crate::policy::outcome::Failure;
use crate::proxy_header::Stated;
use crate::snapshot::{Backend, Endpoint};

/// The endpoints of one backend.
#[derive(Debug)]
pub struct Group<B: Body + 'static> {
    pools: Vec<Rc<Pool<B>>>,
    balance: Balance,
    slow_start: Duration,
    max_wait: Duration,
    retries: Retries,
    state: Arc<BackendState>,
    line: Rc<Line<B>>,
    turn: Cell<usize>,
    budget: Cell<Budget>,
}

/// What one request goes over.
#[derive(Debug)]
pub struct Obtained<B: Body + 'static> {
    /// It takes a request.
    pub channel: Channel<B>,
    /// Where it comes from, and may go back to.
    pub pool: Lease<B>,
    /// When it was obtained; for one that was there, when it was asked for.
    pub at: Instant,
}

/// What the first in line got.
enum Turn<B: Body + 'static> {
    /// What another request is done with.
    Free(Channel<B>, Rc<Pool<B>>),
    /// The right to open one.
    Slot(Slot),
}

impl<B> Group<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// `backend` for the worker with this index. It goes on with what is still the same in one of `before`.
    #[must_use]
    pub fn new(backend: &Backend, worker: usize, before: &[Self]) -> Self {
        let before = before.iter().find(|before| Arc::ptr_eq(&before.state, &backend.state));
        let new_line = || Rc::new(Line::new(Arc::clone(&backend.state.slots)));
        let line = before.map_or_else(new_line, |before| Rc::clone(&before.line));
        let pool_for = |endpoint: &Endpoint| {
            let known = before.into_iter().flat_map(|before| &before.pools).find(|pool| pool.endpoint() == endpoint);
            known
                .cloned()
                .unwrap_or_else(|| Rc::new(Pool::new(endpoint.clone(), worker, Rc::clone(&line), backend.name.clone())))
        };
        Self {
            pools: backend.endpoints.iter().map(pool_for).collect(),
            balance: backend.balance,
            slow_start: backend.slow_start,
            max_wait: backend.max_wait,
            retries: backend.retries,
            state: Arc::clone(&backend.state),
            line,
            turn: Cell::new(before.map_or(worker, |before| before.turn.get())), // workers begin apart from each other
            budget: Cell::new(before.map_or_else(Budget::default, |before| before.budget.get())),
        }
    }

    /// A pool for each endpoint.
    #[must_use]
    pub fn pools(&self) -> &[Rc<Pool<B>>] {
        &self.pools
    }

    // -- what may be sent once more

    /// A request came, which puts its share into the budget.
    pub fn request_comes(&self) {
        let budget = self.budget.get();
        if budget != Budget::default() {
            self.budget.set(budget.after_request(self.retries.budget));
        }
    }

    /// Whether a request that failed like this may be sent once more, after it was sent so many times more. If so, that is
    /// counted.
    pub fn may_retry(&self, failure: Failure, retries: usize) -> bool {
        if retries >= self.retries.attempts {
            return false;
        }
        let Some(budget) = self.budget.get().after_replay() else { return false };
        self.budget.set(budget);
        self.state.retried(failure);
        true
    }

    /// Whether a request that a backend would not look at may be sent once more, after that was so `refusals` times before and it
    /// was sent so many times more for other reasons. If so, that is counted. The first time costs nothing: a backend that goes
    /// away crosses what is sent to it (what gRPC calls a transparent retry, A6). From then on it is a retry as any other, or a
    /// backend that has too much to do would get twice as much.
    pub fn may_ask_again(&self, refusals: usize, retries: usize) -> bool {
        if refusals == 0 {
            self.state.retried(Failure::Refused);
            return true;
        }
        self.may_retry(Failure::Refused, refusals - 1 + retries)
    }

    // -- a connection for a request

    /// A connection for `client` to the endpoint that is to have the next request: a kept one unless it is to be `new`, or one that is opened.
    /// If that endpoint takes none, others are asked, as far as they may be. `now` is on the worker's clock.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn obtain(&self, client: Stated, now: Instant, new: bool) -> Result<Obtained<B>, Failure> {
        let chosen = self.choose(&[], now).ok_or(Failure::Unhealthy)?;
        if !new && let Some(kept) = poll_fn(|cx| Poll::Ready(self.kept(chosen, client, cx, now))).await {
            return Ok(kept);
        }
        // In a box: what a future may hold at some time it takes up at all times.
        Box::pin(self.open_one_of(chosen, client, now, new)).await
    }

    /// What can become a tunnel: a new connection, or a stream if the backend takes tunnels over streams. Where HTTP/2 was agreed
    /// on and is not all that is spoken, and takes none, HTTP/1 is agreed on instead.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn obtain_passage(&self, client: Stated, now: Instant) -> Result<Obtained<B>, Failure> {
        let Obtained { channel, pool, at } = self.obtain(client, now, true).await?;
        if channel.may_become_passage() || pool.pool().endpoint().protocol.is_certainly_http2() {
            return Ok(Obtained { channel, pool, at });
        }
        drop(channel);
        let slot = self.state.slots.take().ok_or(Failure::BackendLimit)?;
        let dialed = pool.pool().dial_http1(client, slot).await;
        let channel =
            dialed.map_err(|error| found(pool.pool(), &error)).inspect_err(|failure| pool.pool().blame(*failure))?;
        Ok(Obtained { channel, pool, at: Instant::now() })
    }

    /// Opens up to `connections` to `pool` that nobody needs yet, as far as there may be more, one after the other, so that whoever
    /// is served meanwhile hardly notices. Of those that are shared one is enough. Tells how many there are.
    pub async fn warm(&self, pool: &Rc<Pool<B>>, connections: usize) -> usize {
        if pool.endpoint().proxy_protocol.is_some() {
            return 0; // nobody knows whom they would be for
        }
        if pool.is_shared() && poll_fn(|cx| Poll::Ready(pool.take(Stated::Local, cx, Instant::now()))).await.is_some() {
            return connections;
        }
        for opened in 0..connections {
            let Some(slot) = self.state.slots.take() else { return opened };
            match pool.dial(Stated::Local, slot).await {
                Ok(Channel::Http2(_)) => return connections,
                Ok(channel) => pool.put(channel, Instant::now()),
                Err(_) => return opened,
            }
        }
        connections
    }

    /// Closes connections that nobody uses, one for each request that waits, on whatever worker.
    pub fn give_up_idle(&self) {
        for _ in 0..self.state.slots.waiting() {
            let is_still_wanted = self.state.slots.waiting() > 0;
            if !is_still_wanted || !self.pools.iter().any(|pool| pool.close_oldest()) {
                return;
            }
        }
    }

    /// The place of the endpoint that is to have the next request, without those that were `tried`; `None` if nobody is fit.
    fn choose(&self, tried: &[usize], now: Instant) -> Option<usize> {
        if let [only] = &*self.pools {
            return (tried.is_empty() && only.is_fit()).then_some(0);
        }
        let turn = self.turn.get();
        if tried.is_empty() {
            self.turn.set(turn.wrapping_add(1));
        }
        balance::choose(self.balance, self.pools.len(), turn, fastrand::u64(..), |at| {
            let pool = &self.pools[at];
            let may_be_chosen = pool.is_fit() && !tried.contains(&at);
            may_be_chosen.then(|| Candidate { running: pool.running(), weight: self.weight(pool, now) })
        })
    }

    fn weight(&self, pool: &Pool<B>, now: Instant) -> Weight {
        match self.slow_start {
            Duration::ZERO => Weight::FULL,
            slow_start => Weight::after(pool.endpoint().state.served(now.into_std()), slow_start),
        }
    }

    /// A kept connection to the endpoint at `at`.
    fn kept(&self, at: usize, client: Stated, cx: &mut Context<'_>, now: Instant) -> Option<Obtained<B>> {
        let pool = &self.pools[at];
        let channel = pool.take(client, cx, now)?;
        Some(Obtained { channel, pool: Lease::of(pool), at: now })
    }

    /// Opens one to the endpoint at `at`, or to another one.
    async fn open_one_of(
        &self,
        mut at: usize,
        client: Stated,
        now: Instant,
        new: bool,
    ) -> Result<Obtained<B>, Failure> {
        let (mut tried, mut is_ours) = (Vec::new(), false);
        loop {
            let failure = match self.open(&self.pools[at], client, now, new).await {
                Ok(obtained) => return Ok(obtained),
                Err(Failure::BackendLimit) => return Err(Failure::BackendLimit), // it is one for all of them
                Err(failure) => failure,
            };
            self.pools[at].blame(failure);
            is_ours |= failure == Failure::OwnLimit;
            tried.push(at);
            match self.choose(&tried, now).filter(|_| self.may_retry(failure, tried.len() - 1)) {
                Some(next) => at = next,
                // That one endpoint could not be tried for want of our own means is not the backend's fault.
                None => return Err(if is_ours { Failure::OwnLimit } else { failure }),
            }
            if !new && let Some(kept) = poll_fn(|cx| Poll::Ready(self.kept(at, client, cx, now))).await {
                return Ok(kept);
            }
        }
    }

    async fn open(&self, pool: &Rc<Pool<B>>, client: Stated, now: Instant, new: bool) -> Result<Obtained<B>, Failure> {
        let lease = Lease::of(pool);
        if !pool.is_shared() {
            return self.open_another(lease, client, now, new).await;
        }
        match pool.join().await? {
            Joined::Stream(stream) => Ok(Obtained { channel: Channel::Http2(stream), pool: lease, at: Instant::now() }),
            Joined::Dial(dialing) => {
                let opened = self.open_another(lease, client, now, new).await;
                if let Err(failure) = &opened {
                    dialing.failed(*failure);
                }
                opened
            }
        }
    }

    /// Opens one, or takes what becomes free before that may be.
    async fn open_another(
        &self,
        lease: Lease<B>,
        client: Stated,
        now: Instant,
        new: bool,
    ) -> Result<Obtained<B>, Failure> {
        let slot = match self.state.slots.take() {
            Some(slot) => slot,
            None => match self.wait(client, now, new).await? {
                Turn::Free(channel, pool) => {
                    return Ok(Obtained { channel, pool: Lease::of(&pool), at: Instant::now() });
                }
                Turn::Slot(slot) => slot,
            },
        };
        let channel = lease.pool().dial(client, slot).await.map_err(|error| found(lease.pool(), &error))?;
        Ok(Obtained { channel, pool: lease, at: Instant::now() })
    }

    /// Waits until a connection is free, or may be opened. One that is kept to another endpoint is as good.
    async fn wait(&self, client: Stated, now: Instant, new: bool) -> Result<Turn<B>, Failure> {
        if !new && let Some(turn) = self.free(client, now).await {
            return Ok(turn);
        }
        let mut place = self.state.slots.line_up().map_err(|Full| Failure::BackendLimit)?;
        let since = Instant::now();
        let turn = async {
            let mut comes = self.line.join(since); // once: who joins again stands behind those who came later
            loop {
                tokio::select! {
                    biased;
                    Ok(PassedOn { mut connection, pool }) = &mut comes => {
                        if poll_fn(|cx| Poll::Ready(connection.is_reusable(cx))).await {
                            return Turn::Free(Channel::Http1(connection), pool);
                        }
                        comes = self.line.join(since);
                    }
                    () = self.line.freed.notified() => {
                        if let Some(turn) = self.free(client, Instant::now()).await {
                            return turn;
                        }
                    }
                    slot = place.turn() => return Turn::Slot(slot),
                }
            }
        };
        timeout(self.max_wait, turn).await.map_err(|_| Failure::BackendLimit)
    }

    /// What is free at any endpoint.
    async fn free(&self, client: Stated, now: Instant) -> Option<Turn<B>> {
        for pool in self.pools.iter().filter(|pool| pool.is_fit()) {
            if let Some(channel) = poll_fn(|cx| Poll::Ready(pool.take(client, cx, now))).await {
                return Some(Turn::Free(channel, Rc::clone(pool)));
            }
        }
        None
    }
}

/// Why `pool` gave no connection, which people hear of.
fn found<B>(pool: &Pool<B>, error: &ConnectError) -> Failure
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let failure = failure_of(error);
    pool.has_no_connection(failure, error);
    failure
}

fn failure_of(error: &ConnectError) -> Failure {
    match error {
        ConnectError::Timeout => Failure::ConnectTimeout,
        ConnectError::NoHttp2(_) => Failure::NoHttp2,
        ConnectError::Certificate(_) => Failure::Certificate,
        ConnectError::Tls(_) => Failure::Tls,
        ConnectError::OwnLimit(_) => Failure::OwnLimit,
        ConnectError::Io(_) | ConnectError::Setup(_) | ConnectError::Http2(_) | ConnectError::Closed => {
            Failure::Connect
        }
    }
}
