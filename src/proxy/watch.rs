//! What a client's connection is waiting for, and until when.
//!
//! A connection waits for one thing at a time, so one timer serves all timeouts. It is armed lazily: moving a deadline
//! later, as every request does, writes a cell; the timer finds out when it fires. A busy connection touches the runtime's
//! timer wheel a few times a second.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use slab::Slab;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::config::ClientTimeouts;
use crate::metrics::Seat;

/// How long a kept-alive connection keeps its buffers after a response.
const DOZE_AFTER: Duration = Duration::from_millis(200);

/// Bytes of an answer that one run of a connection's task passes on before others have their turn.
const ALLOWANCE: usize = 1 << 20;

/// A stream that its client takes back within this time was hardly meant.
const HASTE: Duration = Duration::from_secs(1);
/// So many streams may be of that kind, whatever the others are like.
const JUDGED_FROM: u32 = 500;

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// The end of a TLS handshake.
    Handshake,
    /// The moment at which the streams of a connection are looked over.
    Look,
    /// The next request's first byte.
    Request,
    /// The rest of a request head.
    Head,
    /// The next piece of a request body.
    Upload,
    /// A backend's response head.
    Response,
    /// The next piece of a backend's response body.
    Stream,
    /// The client to read.
    Reader,
    /// Something to move in a tunnel.
    Tunnel,
}

/// Where in a request the connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Between requests.
    Idle,
    /// A request head has begun.
    Head,
    /// A request is being answered.
    Busy,
    /// A request waits in line: nobody reads its body, so nobody would see its client go.
    Held,
    /// The answer is complete but not yet written.
    Flushing,
    /// What is spoken is not HTTP any more.
    Tunnel,
}

/// A request that a side answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Running {
    /// Whose request it is: the address of the rollout's meters.
    pub(super) meters: usize,
    pub(super) seat: Seat,
    pub(super) since: Instant,
}

/// The state of one client connection, or of one stream of a connection, that its parts share.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) timeouts: ClientTimeouts,
    stage: Cell<Stage>,
    wait: Cell<Option<(Wait, Instant)>>,
    expired: Cell<Option<Wait>>,
    idle_since: Cell<Instant>,
    request_line: Cell<RequestLine>,
    /// Bytes of a later request came while an earlier one was answered: its line is not whole in what comes next.
    ahead: Cell<bool>,
    /// Bytes of answers that this run of the task may still pass on.
    allowance: Cell<usize>,
    /// How long the request's body has been waited for, and since when it is now.
    late: Cell<Duration>,
    late_since: Cell<Option<Instant>>,
    client_left: Cell<bool>,
    /// Somebody wants to have the request's body.
    body_is_wanted: Cell<bool>,
    draining: Cell<bool>,
    running: Cell<Option<Running>>,
    cut_off: Cell<bool>,
    last_call: Cell<bool>,
    timer: RefCell<Option<Timer>>,
    waker: RefCell<Option<Waker>>,
    /// The streams of a connection that carries many requests at once.
    streams: RefCell<Slab<Rc<Watch>>>,
    /// How many requests the connection had when this one began, with itself.
    requests_then: Cell<usize>,
    /// Streams that ever were, and those of them that were taken back in [`HASTE`].
    begun: Cell<u32>,
    taken_back: Cell<u32>,
    /// What a stream waits for is overdue.
    overdue: Cell<bool>,
}

#[derive(Debug)]
struct Timer {
    sleep: Pin<Box<Sleep>>,
    armed_for: Instant,
}

/// What has been seen of a request line. `http::Uri` drops a fragment before anyone can refuse it (RFC 9112 §3.2 allows
/// none), so it is looked for in the bytes. Of pipelined requests only the first of a burst is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RequestLine {
    Unread,
    Begun,
    HasFragment,
    Read,
}

impl Watch {
    pub(super) fn new(timeouts: ClientTimeouts, now: Instant) -> Self {
        Self {
            timeouts,
            stage: Cell::new(Stage::Idle),
            wait: Cell::new(None),
            expired: Cell::new(None),
            idle_since: Cell::new(now),
            request_line: Cell::new(RequestLine::Unread),
            ahead: Cell::new(false),
            allowance: Cell::new(0),
            late: Cell::new(Duration::ZERO),
            late_since: Cell::new(None),
            client_left: Cell::new(false),
            body_is_wanted: Cell::new(false),
            draining: Cell::new(false),
            running: Cell::new(None),
            cut_off: Cell::new(false),
            last_call: Cell::new(false),
            timer: RefCell::new(None),
            waker: RefCell::new(None),
            streams: RefCell::default(),
            requests_then: Cell::new(1),
            begun: Cell::new(0),
            taken_back: Cell::new(0),
            overdue: Cell::new(false),
        }
    }

    pub(super) fn stage(&self) -> Stage {
        self.stage.get()
    }

    // -- what happens on the connection, in the order in which it does

    /// Bytes came from the client.
    pub(super) fn received(&self, bytes: &[u8]) {
        if bytes.is_empty() {
            return self.left();
        }
        match self.stage.get() {
            Stage::Idle => {
                self.stage.set(Stage::Head);
                self.wait.set(None);
                self.request_line.set(if self.ahead.take() { RequestLine::Read } else { RequestLine::Unread });
            }
            Stage::Head => {}
            Stage::Busy | Stage::Held | Stage::Flushing | Stage::Tunnel => self.ahead.set(true),
        }
        if self.stage.get() == Stage::Head {
            self.read_request_line(bytes);
        }
    }

    fn read_request_line(&self, bytes: &[u8]) {
        let line = match self.request_line.get() {
            RequestLine::Unread => bytes.trim_ascii_start(),
            RequestLine::Begun => bytes,
            RequestLine::HasFragment | RequestLine::Read => return,
        };
        let end = memchr::memchr(b'\n', line);
        let has_fragment = memchr::memchr(b'#', &line[..end.unwrap_or(line.len())]).is_some();
        self.request_line.set(match (has_fragment, end) {
            (true, _) => RequestLine::HasFragment,
            (false, Some(_)) => RequestLine::Read,
            (false, None) if line.is_empty() => RequestLine::Unread,
            (false, None) => RequestLine::Begun,
        });
    }

    /// A request head is complete. Tells whether its target had a fragment.
    pub(super) fn request_begins(&self) -> bool {
        self.stage.set(Stage::Busy);
        self.wait.set(None);
        self.late.set(Duration::ZERO);
        self.late_since.set(None);
        self.request_line.replace(RequestLine::Read) == RequestLine::HasFragment
    }

    /// The request waits in line, or has ceased to.
    pub(super) fn waits_in_line(&self, it_does: bool) {
        self.stage.set(if it_does { Stage::Held } else { Stage::Busy });
    }

    /// Client and backend speak something else from now on.
    pub(super) fn becomes_tunnel(&self) {
        self.stage.set(Stage::Tunnel);
        self.wait.set(None);
    }

    /// A side answers the request.
    pub(super) fn runs(&self, running: Running) {
        self.running.set(Some(running));
    }

    /// The request that a side answers at this moment.
    pub(super) fn running(&self) -> Option<Running> {
        self.running.get()
    }

    /// The last byte of the answer has been handed to hyper.
    pub(super) fn response_ends(&self, now: Instant) {
        self.stage.set(Stage::Flushing);
        self.running.set(None);
        self.wait.set(None);
        self.expired.set(None);
        self.idle_since.set(now);
    }

    /// All that was written has been taken by the socket.
    pub(super) fn flushed(&self) {
        if self.stage.get() == Stage::Flushing {
            self.stage.set(Stage::Idle);
            self.wait_until(Wait::Request, self.idle_since.get() + DOZE_AFTER.min(self.timeouts.keep_alive));
        }
    }

    /// The client took bytes, or could not.
    pub(super) fn wrote(&self, taken: bool) {
        match (taken, self.waits_for(Wait::Reader)) {
            (true, true) => self.wait.set(None),
            (false, false) => self.wait_until(Wait::Reader, Instant::now() + self.timeouts.write_stall),
            _ => {}
        }
    }

    /// The client has closed its side, or the connection is broken.
    pub(super) fn left(&self) {
        self.client_left.set(true);
    }

    /// Hyper begins with a connection: what it is given is looked at from its first byte.
    pub(super) fn begins(&self) {
        self.ahead.set(false);
    }

    /// A run of the connection's task begins: it may pass on so much, then others have their turn. Nothing else bounds a
    /// run while a fast backend and a fast client keep up with each other.
    pub(super) fn turn_begins(&self) {
        self.allowance.set(ALLOWANCE);
    }

    /// Whether this run has passed on enough.
    pub(super) fn turn_is_over(&self) -> bool {
        self.allowance.get() == 0
    }

    /// Bytes of an answer were passed on.
    pub(super) fn passed_on(&self, bytes: usize) {
        self.allowance.set(self.allowance.get().saturating_sub(bytes));
    }

    /// From `now` on the next piece of the request's body is waited for, unless it is already.
    pub(super) fn upload_is_late(&self, now: Instant) {
        self.late_since.set(self.late_since.get().or(Some(now)));
    }

    /// Somebody wants to have the request's body.
    pub(super) fn body_is_wanted(&self) {
        self.body_is_wanted.set(true);
    }

    /// Whether that has become so since this was last asked.
    pub(super) fn take_body_is_wanted(&self) -> bool {
        self.body_is_wanted.take()
    }

    /// A piece of the request's body is here, or its end.
    pub(super) fn upload_goes_on(&self) {
        if let Some(since) = self.late_since.take() {
            self.late.set(self.late.get() + since.elapsed());
        }
    }

    /// How long the client of the current request has let others wait for its body, by `now`.
    pub(super) fn lateness(&self, now: Instant) -> Duration {
        self.late.get() + self.late_since.get().map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// Whether the client has closed its side.
    pub(super) fn client_left(&self) -> bool {
        self.client_left.get()
    }

    // -- waiting

    /// Waits for `wait` until `deadline`, and for nothing else any more.
    pub(super) fn wait_until(&self, wait: Wait, deadline: Instant) {
        self.wait.set(Some((wait, deadline)));
    }

    /// Stops waiting for `wait`, if that is what is waited for.
    pub(super) fn stop_waiting_for(&self, wait: Wait) {
        if self.waits_for(wait) {
            self.wait.set(None);
        }
    }

    /// Waits for nothing any more.
    pub(super) fn stop_waiting(&self) {
        self.wait.set(None);
    }

    pub(super) fn waits_for(&self, wait: Wait) -> bool {
        self.wait.get().is_some_and(|(current, _)| current == wait)
    }

    pub(super) fn waits(&self) -> bool {
        self.wait.get().is_some()
    }

    /// To be called when the connection has done all it can for now: from here on an unfinished head is on the clock.
    pub(super) fn settle(&self) {
        if self.stage.get() == Stage::Head && !self.waits() {
            self.wait_until(Wait::Head, Instant::now() + self.timeouts.header);
        }
    }

    /// Marks what has been waited for in vain, for the request that waits to find.
    pub(super) fn expire(&self, wait: Wait) {
        self.wait.set(None);
        self.expired.set(Some(wait));
    }

    /// What was waited for in vain is asked for once more.
    pub(super) fn waits_anew(&self) {
        self.wait.set(None);
        self.expired.set(None);
    }

    /// Whether `wait` was in vain.
    pub(super) fn has_expired(&self, wait: Wait) -> bool {
        self.expired.get() == Some(wait)
    }

    /// When a connection that waits for its next request is closed.
    pub(super) fn idle_deadline(&self) -> Instant {
        self.idle_since.get() + self.timeouts.keep_alive
    }

    /// Ready with what was waited for in vain, once its deadline has passed.
    pub(super) fn poll_deadline(&self, cx: &mut Context<'_>) -> Poll<Wait> {
        let Some((wait, deadline)) = self.wait.get() else { return Poll::Pending };
        let mut slot = self.timer.borrow_mut();
        let timer = slot.get_or_insert_with(|| Timer::new(deadline));
        match timer.poll(cx, deadline) {
            Poll::Ready(()) => Poll::Ready(wait),
            Poll::Pending => Poll::Pending,
        }
    }

    // -- streams

    /// Another stream of this connection, until what is returned is dropped.
    pub(super) fn open(self: &Rc<Self>, stream: Rc<Self>) -> Opened {
        self.begun.set(self.begun.get().saturating_add(1));
        let mut streams = self.streams.borrow_mut();
        stream.requests_then.set(streams.len() + 1);
        Opened { connection: Rc::clone(self), at: streams.insert(stream) }
    }

    /// Whether the client has taken back most of what it has asked for, right away: each of those may have cost a backend a
    /// connection. As much as Envoy bears, and no less is usual.
    pub(super) fn is_toyed_with(&self) -> bool {
        let (begun, taken_back) = (self.begun.get(), self.taken_back.get());
        taken_back > begun / 2 && begun >= JUDGED_FROM
    }

    /// How many requests the connection had when this one began, with itself: 1 for a connection that has one at a time.
    pub(super) fn requests_then(&self) -> usize {
        self.requests_then.get()
    }

    /// Whether streams are open.
    pub(super) fn has_streams(&self) -> bool {
        !self.streams.borrow().is_empty()
    }

    /// This, and the streams that are open.
    pub(super) fn for_each(&self, mut act: impl FnMut(&Self)) {
        act(self);
        self.streams.borrow().iter().for_each(|(_, stream)| act(stream));
    }

    /// Has the streams find what is overdue by `now`: one timer serves all streams of a connection.
    pub(super) fn look_over_streams(&self, now: Instant) {
        for (_, stream) in self.streams.borrow().iter() {
            if stream.wait.get().is_some_and(|(_, deadline)| deadline <= now) {
                stream.overdue.set(true);
                stream.wake();
            }
        }
    }

    /// What a stream has waited for in vain, if somebody has just looked.
    pub(super) fn take_overdue(&self) -> Option<Wait> {
        let overdue = self.overdue.take();
        self.wait.get().filter(|(_, deadline)| overdue && *deadline <= Instant::now()).map(|(wait, _)| wait)
    }

    // -- drain

    /// Remembers whom to wake when the process drains, or a side.
    pub(super) fn belongs_to(&self, waker: &Waker) {
        let mut known = self.waker.borrow_mut();
        if !known.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *known = Some(waker.clone());
        }
    }

    /// Whether `waker` wakes the task to which this belongs.
    pub(super) fn is_task(&self, waker: &Waker) -> bool {
        self.waker.borrow().as_ref().is_some_and(|task| task.will_wake(waker))
    }

    /// Wakes the task to which this belongs, as far as that is known.
    pub(super) fn task(&self) -> Waker {
        self.waker.borrow().clone().unwrap_or_else(|| Waker::noop().clone())
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }

    /// No further request on this connection.
    pub(super) fn drain(&self) {
        self.draining.set(true);
        self.wake();
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// Ends the connection in the middle of what it does.
    pub(super) fn cut_off(&self) {
        self.cut_off.set(true);
        self.wake();
    }

    pub(super) fn is_cut_off(&self) -> bool {
        self.cut_off.get()
    }

    /// Has the request that waits in line be told that its turn will not come, and both ends of a tunnel that it is over; cuts
    /// off a request that is being answered. Tells whether there is anybody to be told.
    pub(super) fn call_last(&self) -> bool {
        match self.stage.get() {
            Stage::Held | Stage::Tunnel => self.last_call.set(true),
            Stage::Busy => self.cut_off.set(true),
            Stage::Idle | Stage::Head | Stage::Flushing => return false,
        }
        self.wake();
        true
    }

    /// Ready once nobody's turn will come any more, and tunnels have to end. Whoever calls that wakes the connection.
    pub(super) fn poll_last_call(&self) -> Poll<()> {
        if self.last_call.get() { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// A stream's place at its connection.
#[derive(Debug)]
pub(super) struct Opened {
    connection: Rc<Watch>,
    at: usize,
}

impl Drop for Opened {
    fn drop(&mut self) {
        let stream = self.connection.streams.borrow_mut().remove(self.at);
        if stream.client_left() && stream.idle_since.get().elapsed() < HASTE {
            self.connection.taken_back.set(self.connection.taken_back.get().saturating_add(1));
        }
    }
}

impl Timer {
    fn new(deadline: Instant) -> Self {
        // Armed for a moment that has passed, so that the first poll registers the task.
        Self { sleep: Box::pin(sleep_until(deadline)), armed_for: deadline + Duration::from_nanos(1) }
    }

    fn poll(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        if self.armed_for <= deadline && !self.sleep.is_elapsed() {
            return Poll::Pending; // it will fire early enough, and wake this task
        }
        if self.sleep.is_elapsed() && deadline <= Instant::now() {
            return Poll::Ready(());
        }
        self.armed_for = deadline;
        self.sleep.as_mut().reset(deadline);
        self.sleep.as_mut().poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch() -> Watch {
        let timeouts = ClientTimeouts {
            handshake: Duration::from_secs(5),
            header: Duration::from_secs(10),
            body_idle: Duration::from_secs(30),
            keep_alive: Duration::from_secs(60),
            write_stall: Duration::from_secs(30),
            tunnel_idle: None,
        };
        Watch::new(timeouts, Instant::now())
    }

    async fn expiry(watch: &Watch) -> Wait {
        std::future::poll_fn(|cx| watch.poll_deadline(cx)).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_has_ten_seconds_from_its_first_byte() {
        let watch = watch();
        watch.received(b"GET / HT");
        watch.settle();
        let begun = Instant::now();
        assert_eq!(expiry(&watch).await, Wait::Head);
        assert_eq!(begun.elapsed().as_secs(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_that_trickle_in_do_not_move_the_head_deadline() {
        let watch = watch();
        let begun = Instant::now();
        watch.received(b"GET / HT");
        watch.settle();
        tokio::time::advance(Duration::from_secs(9)).await;
        watch.received(b"T");
        watch.settle();
        assert_eq!(expiry(&watch).await, Wait::Head);
        assert_eq!(begun.elapsed().as_secs(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_moves_later_or_earlier_is_the_one_that_counts() {
        for (first, second) in [(5, 20), (20, 5)] {
            let watch = watch();
            let begun = Instant::now();
            watch.wait_until(Wait::Response, begun + Duration::from_secs(first));
            std::future::poll_fn(|cx| {
                assert!(watch.poll_deadline(cx).is_pending());
                Poll::Ready(())
            })
            .await;
            watch.wait_until(Wait::Stream, begun + Duration::from_secs(second));
            assert_eq!(expiry(&watch).await, Wait::Stream);
            assert_eq!(begun.elapsed().as_secs(), second);
        }
    }

    #[test]
    fn a_fragment_is_found_only_in_the_request_line() {
        for (pieces, found) in [
            (&["GET /a#b HTTP/1.1\r\n\r\n"][..], true),
            (&["\r\n", "GET /a", "#b HTTP/1.1\r\n"], true),
            (&["GET /a HTTP/1.1\r\nreferer: /x#y\r\n\r\n"], false),
            (&["POST /a HTTP/1.1\r\n", "host: x\r\n\r\nGET /a#b HTTP/1.1\r\n"], false),
        ] {
            let watch = watch();
            pieces.iter().for_each(|piece| watch.received(piece.as_bytes()));
            assert_eq!(watch.request_begins(), found, "{pieces:?}");
        }
    }

    #[test]
    fn the_middle_of_a_pipelined_head_is_not_taken_for_a_request_line() {
        let watch = watch();
        watch.received(b"GET /1 HTTP/1.1\r\n\r\n");
        watch.request_begins();
        watch.received(b"GET /2 HTTP/1.1\r\n");
        watch.response_ends(Instant::now());
        watch.flushed();
        watch.received(b"referer: /x#y\r\n\r\n");
        assert!(!watch.request_begins());
    }

    #[test]
    fn the_connection_is_idle_only_after_the_answer_is_flushed() {
        let watch = watch();
        watch.received(b"GET / HTTP/1.1\r\n\r\n");
        watch.request_begins();
        watch.flushed();
        assert_eq!(watch.stage(), Stage::Busy, "a flush in the middle of an answer is no end");
        watch.response_ends(Instant::now());
        assert_eq!(watch.stage(), Stage::Flushing);
        watch.flushed();
        assert_eq!(watch.stage(), Stage::Idle);
    }
}
