//! Bytes both ways, once a client and a backend have agreed to speak WebSocket.
//!
//! Nothing is kept while nothing moves: what one side sends is read into room that all tunnels of a worker share, and is copied
//! only if the other side does not take it at once; then nothing more is read until it has. Frames are looked at just enough to
//! know where one ends, so that at the deadline of a drain both sides can be told that this is the end.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, timeout};

use super::body::RequestBody;
use super::exchange::Report;
use super::frames::{Frames, GOING_AWAY, going_away_masked};
use super::watch::Wait;
use crate::metrics::{Class, Failure};
use crate::upstream::{Lease, Passage};

/// Reads in one direction before others have their turn.
const ROUNDS: usize = 16;
/// How long the last words may take, and the end of the frame that they have to wait for, and the other side to hear them.
const LINGER: Duration = Duration::from_secs(2);
/// The same if the process is about to end.
const FAREWELL: Duration = Duration::from_millis(400);

/// A tunnel that is agreed upon: what is on the backend's side of it. It is in flight while this lives.
#[derive(Debug)]
pub(super) struct Tunnel {
    backend: Passage,
    lease: Lease<RequestBody>,
    report: Report,
    /// What a client sends that has a stream.
    pub(super) stream: Option<h2::RecvStream>,
}

impl Tunnel {
    /// To a backend that has just agreed.
    pub(super) fn new(
        backend: Passage,
        lease: Lease<RequestBody>,
        report: Report,
        stream: Option<h2::RecvStream>,
    ) -> Self {
        report.switches(Instant::now());
        backend.mind_silence();
        Self { backend, lease, report, stream }
    }

    /// Carries bytes until it is over, and reports how it went.
    pub(super) async fn carry<C: AsyncRead + AsyncWrite + Unpin>(self, client: C) {
        let Self { backend, lease, mut report, stream: _ } = self;
        let watch = report.client.watch.clone();
        watch.becomes_tunnel();
        let patience = Patience {
            write_stall: watch.timeouts.write_stall,
            idle: watch.timeouts.tunnel_idle,
            half_open: lease.pool().endpoint().timeouts.stream_idle,
        };
        let mut ends = Ends { client, backend, up: Flow::default(), down: Flow::default(), first: None };
        let ending = ends.carry(&report, &patience).await;
        watch.stop_waiting();
        report.carried(ends.up.passed, ends.down.passed);
        match ends.verdict(ending) {
            Verdict::InOrder => report.complete(Class::Success, Instant::now()),
            Verdict::ClientGone => {}
            Verdict::BackendGone => {
                lease.pool().blame(Failure::Truncated);
                report.failed(Failure::Truncated);
                report.tell_of_failure(); // the last words may take a while
            }
            Verdict::Ended => report.will_end_as(Class::Success),
        }
        let patience = if watch.poll_last_call().is_ready() { FAREWELL } else { LINGER };
        let _whoever_takes_longer_is_left = timeout(patience, ends.finish(&report, ending)).await;
    }
}

/// How long is waited for what.
struct Patience {
    /// For a side to take what it is sent.
    write_stall: Duration,
    /// For either side to send something, if that has a limit.
    idle: Option<Duration>,
    /// For one side to send something, once the other has ended.
    half_open: Duration,
}

/// One side of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Party {
    Client,
    Backend,
}

/// Why a tunnel ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// Both sides have ended.
    Closed,
    /// One has gone, or takes nothing any more.
    Broken(Party),
    /// We have decided so, and tell both sides.
    Told,
}

/// What that says about the sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// A Close frame has said that it ends.
    InOrder,
    /// The client went without a word.
    ClientGone,
    /// The backend did.
    BackendGone,
    /// It was we.
    Ended,
}

/// Both sides, and what is on its way between them.
struct Ends<C> {
    client: C,
    backend: Passage,
    /// From the client to the backend.
    up: Flow,
    /// From the backend to the client.
    down: Flow,
    /// Who has ended first.
    first: Option<Party>,
}

impl<C: AsyncRead + AsyncWrite + Unpin> Ends<C> {
    /// Carries bytes until one side has enough, or we have. Tells why it is over.
    async fn carry(&mut self, report: &Report, patience: &Patience) -> Ending {
        let watch = &report.client.watch;
        let mut moved_at = Instant::now();
        poll_fn(|cx| {
            watch.belongs_to(cx.waker());
            let passed = self.passed();
            let over = report.client.worker.with_scratch(|scratch| self.poll(cx, scratch));
            if let Poll::Ready(ending) = over {
                return Poll::Ready(ending);
            }
            if watch.is_cut_off() || watch.poll_last_call().is_ready() {
                return Poll::Ready(Ending::Told);
            }
            if self.passed() != passed {
                moved_at = Instant::now();
            }
            match self.deadline(patience, moved_at) {
                Some(deadline) => watch.wait_until(Wait::Tunnel, deadline),
                None => watch.stop_waiting(),
            }
            watch.poll_deadline(cx).map(|_| self.overdue(patience))
        })
        .await
    }

    /// Carries what can be carried. Ready once that is over.
    fn poll(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> Poll<Ending> {
        let up = self.up.poll(&mut self.client, &mut self.backend, scratch, cx);
        if self.up.has_ended() || up == Err(Broken::Source) {
            self.first.get_or_insert(Party::Client); // of two that go at once it was the client
        }
        let down = self.down.poll(&mut self.backend, &mut self.client, scratch, cx);
        if self.down.has_ended() {
            self.first.get_or_insert(Party::Backend);
        }
        let broken = match (up, down) {
            (Err(Broken::Target), _) | (_, Err(Broken::Source)) => Some(Party::Backend),
            (Err(Broken::Source), _) | (_, Err(Broken::Target)) => Some(Party::Client),
            (Ok(()), Ok(())) => None,
        };
        match broken {
            Some(party) => {
                self.first.get_or_insert(party);
                Poll::Ready(Ending::Broken(party))
            }
            None if self.up.is_done() && self.down.is_done() => Poll::Ready(Ending::Closed),
            None => Poll::Pending,
        }
    }

    /// Bytes in both directions.
    fn passed(&self) -> u64 {
        self.up.passed + self.down.passed
    }

    /// Until when something has to move.
    fn deadline(&self, patience: &Patience, moved_at: Instant) -> Option<Instant> {
        let stalled = [&self.up, &self.down].into_iter().filter_map(|flow| flow.stalled_since);
        let idle = if self.first.is_some() { Some(patience.half_open) } else { patience.idle };
        stalled.map(|since| since + patience.write_stall).chain(idle.map(|idle| moved_at + idle)).min()
    }

    /// What it means that nothing has moved until then.
    fn overdue(&self, patience: &Patience) -> Ending {
        let now = Instant::now();
        let is_stuck = |flow: &Flow| flow.stalled_since.is_some_and(|since| since + patience.write_stall <= now);
        match (is_stuck(&self.up), is_stuck(&self.down)) {
            (_, true) => Ending::Broken(Party::Client),
            (true, _) => Ending::Broken(Party::Backend),
            (false, false) => Ending::Told,
        }
    }

    fn verdict(&self, ending: Ending) -> Verdict {
        let is_in_order = self.up.frames.has_closed() || self.down.frames.has_closed();
        match (ending, self.first) {
            _ if is_in_order => Verdict::InOrder,
            (Ending::Told, None) => Verdict::Ended,
            (_, Some(Party::Backend)) | (Ending::Broken(Party::Backend), None) => Verdict::BackendGone,
            (_, Some(Party::Client)) | (Ending::Broken(Party::Client) | Ending::Closed, None) => Verdict::ClientGone,
        }
    }

    /// Tells both sides that it is over, as far as they listen, and lets them close.
    async fn finish(&mut self, report: &Report, ending: Ending) {
        let mask = fastrand::u32(..).to_be_bytes();
        let (to_client, to_backend) = (GOING_AWAY, going_away_masked(mask));
        let is_told = ending == Ending::Told;
        match ending {
            Ending::Broken(Party::Client) => self.down.is_lost(),
            Ending::Broken(Party::Backend) => self.up.is_lost(),
            Ending::Closed | Ending::Told => {}
        }
        let (up, down) = (&mut self.up, &mut self.down);
        let (client, backend) = (&mut self.client, &mut self.backend);
        let (mut is_up_done, mut is_down_done) = (false, false);
        poll_fn(|cx| {
            report.client.worker.with_scratch(|scratch| {
                let words = is_told.then_some(&to_backend[..]);
                is_up_done = is_up_done || up.poll_finish(client, backend, words, scratch, cx).is_ready();
                let words = is_told.then_some(&to_client[..]);
                is_down_done = is_down_done || down.poll_finish(backend, client, words, scratch, cx).is_ready();
            });
            if is_up_done && is_down_done { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

/// Which side of a flow does not work any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    Source,
    Target,
}

/// One direction of a tunnel.
#[derive(Debug, Default)]
struct Flow {
    phase: Phase,
    frames: Frames,
    /// Bytes that were read.
    passed: u64,
    /// What was read and not taken yet.
    pending: Vec<u8>,
    /// How much of it was.
    taken: usize,
    /// Something was written since the target was last flushed.
    is_written: bool,
    /// Since when the target takes nothing.
    stalled_since: Option<Instant>,
    /// Nothing comes any more.
    is_dry: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Open,
    /// The source has ended; the target has still to hear that.
    Ending,
    Done,
}

impl Flow {
    fn has_ended(&self) -> bool {
        self.phase != Phase::Open
    }

    fn is_done(&self) -> bool {
        self.phase == Phase::Done
    }

    /// The target is not there any more.
    fn is_lost(&mut self) {
        (self.phase, self.pending) = (Phase::Done, Vec::new());
    }

    /// Carries what can be carried now.
    fn poll<S, T>(
        &mut self,
        source: &mut S,
        target: &mut T,
        scratch: &mut [u8],
        cx: &mut Context<'_>,
    ) -> Result<(), Broken>
    where
        S: AsyncRead + Unpin,
        T: AsyncWrite + Unpin,
    {
        for _ in 0..ROUNDS {
            match self.poll_out(target, cx) {
                Poll::Ready(sent) => sent?,
                Poll::Pending => {
                    self.stalled_since.get_or_insert_with(Instant::now);
                    return Ok(());
                }
            }
            match self.phase {
                Phase::Open => match self.poll_in(source, target, scratch, cx)? {
                    Poll::Ready(0) => self.phase = Phase::Ending,
                    Poll::Ready(_) => {}
                    Poll::Pending => return Ok(()),
                },
                Phase::Ending => match Pin::new(&mut *target).poll_shutdown(cx) {
                    Poll::Ready(Ok(())) => self.phase = Phase::Done,
                    Poll::Ready(Err(_)) => return Err(Broken::Target),
                    Poll::Pending => return Ok(()),
                },
                Phase::Done => return Ok(()),
            }
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    /// Has the target take what was read. Pending while it does not.
    fn poll_out<T: AsyncWrite + Unpin>(&mut self, target: &mut T, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        while self.taken < self.pending.len() {
            match ready!(Pin::new(&mut *target).poll_write(cx, &self.pending[self.taken..])) {
                Ok(size) if size > 0 => {
                    self.taken += size;
                    (self.is_written, self.stalled_since) = (true, None);
                }
                _ => return Poll::Ready(Err(Broken::Target)),
            }
        }
        if self.taken > 0 {
            (self.pending, self.taken) = (Vec::new(), 0);
        }
        if self.is_written {
            if ready!(Pin::new(target).poll_flush(cx)).is_err() {
                return Poll::Ready(Err(Broken::Target));
            }
            self.is_written = false;
        }
        self.stalled_since = None;
        Poll::Ready(Ok(()))
    }

    /// Reads once, and hands on what the target takes at once. Tells how much it was.
    fn poll_in<S, T>(
        &mut self,
        source: &mut S,
        target: &mut T,
        room: &mut [u8],
        cx: &mut Context<'_>,
    ) -> Result<Poll<usize>, Broken>
    where
        S: AsyncRead + Unpin,
        T: AsyncWrite + Unpin,
    {
        let mut buf = ReadBuf::new(room);
        match Pin::new(source).poll_read(cx, &mut buf) {
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(_)) => {
                self.is_dry = true;
                return Err(Broken::Source);
            }
        }
        let came = buf.filled();
        self.is_dry = came.is_empty();
        self.frames.pass(came);
        self.passed += came.len() as u64;
        let mut rest = came;
        while !rest.is_empty() {
            match Pin::new(&mut *target).poll_write(cx, rest) {
                Poll::Ready(Ok(size)) if size > 0 => {
                    rest = &rest[size..];
                    self.is_written = true;
                }
                Poll::Ready(_) => return Err(Broken::Target),
                Poll::Pending => break,
            }
        }
        self.pending = rest.to_vec();
        Ok(Poll::Ready(came.len()))
    }

    /// Comes to an end: what was read goes out, and the rest of its frame, and `words` where nothing has said already that this
    /// is the end. Then the target hears that no more comes, and what the source still sends is forgotten.
    fn poll_finish<S, T>(
        &mut self,
        source: &mut S,
        target: &mut T,
        words: Option<&[u8]>,
        scratch: &mut [u8],
        cx: &mut Context<'_>,
    ) -> Poll<()>
    where
        S: AsyncRead + Unpin,
        T: AsyncWrite + Unpin,
    {
        while !self.is_done() {
            if ready!(self.poll_out(target, cx)).is_err() {
                self.is_lost();
                break;
            }
            match (self.phase, words) {
                (Phase::Open, Some(_)) if self.frames.missing() > 0 => {
                    let missing = usize::try_from(self.frames.missing()).unwrap_or(usize::MAX).min(scratch.len());
                    match self.poll_in(source, target, &mut scratch[..missing], cx) {
                        Ok(Poll::Pending) => return Poll::Pending,
                        Ok(Poll::Ready(came)) if came > 0 => {}
                        _ => self.phase = Phase::Ending,
                    }
                }
                (Phase::Open, Some(words)) if !self.frames.has_closed() => {
                    self.pending = words.to_vec();
                    self.frames.pass(words);
                }
                (Phase::Open, _) => self.phase = Phase::Ending,
                (Phase::Ending, _) => {
                    let _it_may_be_gone = ready!(Pin::new(&mut *target).poll_shutdown(cx));
                    self.phase = Phase::Done;
                }
                (Phase::Done, _) => {}
            }
        }
        self.poll_forget(source, scratch, cx)
    }

    /// Reads and forgets until the source ends: closing on unread bytes makes the kernel send a reset, which may destroy the
    /// last words before they are read.
    fn poll_forget<S: AsyncRead + Unpin>(
        &mut self,
        source: &mut S,
        scratch: &mut [u8],
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        for _ in 0..ROUNDS {
            if self.is_dry {
                return Poll::Ready(());
            }
            let mut buf = ReadBuf::new(scratch);
            let read = ready!(Pin::new(&mut *source).poll_read(cx, &mut buf));
            self.is_dry = read.is_err() || buf.filled().is_empty();
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
