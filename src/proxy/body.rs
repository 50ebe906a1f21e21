//! Bodies on their way through: streamed piece by piece, each piece asked for by whoever can take it.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;
use http::HeaderMap;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use super::exchange::{Link, Report};
use super::grpc;
use super::headers;
use super::watch::{Wait, Watch};
use crate::metrics::{Class, Failure};
use crate::policy::grpc::Status;
use crate::upstream::{BrokenOff, Incoming};

/// Why a body ended early. The other side sees a broken message; the cause is kept where it is reported.
#[derive(Debug, thiserror::Error)]
#[error("the body ended early")]
pub(super) struct Broken;

/// How far a request body has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// The client is still sending.
    Running,
    /// All of it has been handed on.
    Done,
    /// It was not what its framing said.
    Malformed,
    /// It was longer than `limits.max_body`.
    TooLarge,
    /// The client stopped sending.
    Stalled,
}

/// The state of a request body, for those who wait for the answer.
#[derive(Debug)]
pub(super) struct Upload(Cell<Progress>);

impl Upload {
    pub(super) fn progress(&self) -> Progress {
        self.0.get()
    }

    pub(super) fn is_done(&self) -> bool {
        self.0.get() == Progress::Done
    }
}

/// A copy of a request body, made as it passes by. It takes up what the body has in bytes, however small the pieces were.
#[derive(Debug)]
pub(super) struct Kept {
    /// `None` once there was more than `most`.
    bytes: RefCell<Option<Vec<u8>>>,
    most: usize,
    trailers: RefCell<Option<Box<HeaderMap>>>,
}

impl Kept {
    fn new(most: usize) -> Self {
        Self { bytes: RefCell::new(Some(Vec::new())), most, trailers: RefCell::default() }
    }

    fn add(&self, data: &[u8]) {
        let mut bytes = self.bytes.borrow_mut();
        match &mut *bytes {
            Some(bytes) if bytes.len() + data.len() <= self.most => bytes.extend_from_slice(data),
            too_large => *too_large = None,
        }
    }

    /// Whether all that passed by is here.
    pub(super) fn is_whole(&self) -> bool {
        self.bytes.borrow().is_some()
    }

    fn end(&self, trailers: &HeaderMap) {
        *self.trailers.borrow_mut() = Some(Box::new(trailers.clone()));
    }

    /// A copy of what passed by, if all of it is here.
    fn copy(&self) -> Option<Passed> {
        let bytes = self.bytes.borrow().as_deref().map(Bytes::copy_from_slice)?;
        Some(Passed { bytes, trailers: self.trailers.borrow().clone() })
    }

    /// What passed by, once.
    pub(super) fn take(&self) -> Passed {
        Passed { bytes: self.bytes.take().unwrap_or_default().into(), trailers: self.trailers.take() }
    }
}

/// What has passed by, and goes the same way again.
#[derive(Clone, Debug, Default)]
pub(super) struct Passed {
    bytes: Bytes,
    /// In a box, since hardly any request has them.
    trailers: Option<Box<HeaderMap>>,
}

impl Passed {
    fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.trailers.is_none()
    }

    /// Takes the next frame.
    fn next(&mut self) -> Option<Frame<Bytes>> {
        if self.bytes.is_empty() {
            return self.trailers.take().map(|trailers| Frame::trailers(*trailers));
        }
        Some(Frame::data(std::mem::take(&mut self.bytes)))
    }
}

/// A client's request body on its way to a backend. Trailers stay behind, but for gRPC, which knows them: they are a way to
/// smuggle headers past whoever reads only the head.
///
/// In boxes: most requests have none, and each is moved a dozen times before it is on its way.
#[derive(Debug)]
pub(super) enum RequestBody {
    /// There is none.
    Empty,
    /// As it comes from the client.
    Streamed(Box<Streamed>),
    /// A second time.
    Again(Box<Again>),
}

#[derive(Debug)]
pub(super) struct Streamed {
    incoming: Incoming,
    upload: Rc<Upload>,
    watch: Rc<Watch>,
    left: u64,
    kept: Option<Rc<Kept>>,
    /// Something of it has been taken.
    has_begun: bool,
    /// What has to be sent again before it goes on.
    again: Passed,
    /// It is one of gRPC, which knows trailers, and whose clients may have nothing to say for as long as they like.
    is_call: bool,
    both: Option<Both>,
}

/// A waker for whoever polls a body and for the task whose request it is.
#[derive(Debug)]
struct Both {
    polling: Waker,
    waker: Waker,
}

impl Both {
    fn new(polling: Waker, task: Waker) -> Self {
        let waker = Waker::from(Arc::new(Pair([polling.clone(), task])));
        Self { polling, waker }
    }

    fn is_of(&self, polling: &Waker) -> bool {
        self.polling.will_wake(polling)
    }
}

struct Pair([Waker; 2]);

impl Wake for Pair {
    fn wake(self: Arc<Self>) {
        self.0.iter().for_each(Waker::wake_by_ref);
    }
}

#[derive(Debug)]
pub(super) struct Again {
    whole: Passed,
    left: Passed,
    upload: Rc<Upload>,
}

impl RequestBody {
    /// The body as it comes from the client, at most `max` bytes of it.
    pub(super) fn new(
        incoming: Incoming,
        watch: &Rc<Watch>,
        max: Option<u64>,
        is_call: bool,
    ) -> (Self, Option<Rc<Upload>>) {
        if incoming.is_end_stream() {
            return (Self::Empty, None);
        }
        let upload = Rc::new(Upload(Cell::new(Progress::Running)));
        let streamed = Streamed {
            incoming,
            upload: Rc::clone(&upload),
            watch: Rc::clone(watch),
            left: max.unwrap_or(u64::MAX),
            kept: None,
            has_begun: false,
            again: Passed::default(),
            is_call,
            both: None,
        };
        (Self::Streamed(Box::new(streamed)), Some(upload))
    }

    /// A body that has been kept.
    pub(super) fn again(whole: Passed) -> (Self, Option<Rc<Upload>>) {
        if whole.is_empty() {
            return (Self::Empty, None);
        }
        let upload = Rc::new(Upload(Cell::new(Progress::Running)));
        let again = Again { left: whole.clone(), whole, upload: Rc::clone(&upload) };
        (Self::Again(Box::new(again)), Some(upload))
    }

    /// A copy of what passes by, for as long as that is no more than `most` bytes; or the copy that is being made already, with
    /// the size that it was given. `None` if there is nothing to be copied, or if some of it has passed by.
    pub(super) fn keep(&mut self, most: usize) -> Option<Rc<Kept>> {
        let Self::Streamed(streamed) = self else { return None };
        if streamed.kept.is_none() && !streamed.has_begun {
            streamed.kept = Some(Rc::new(Kept::new(most)));
        }
        streamed.kept.clone()
    }

    /// Begins it again, for another connection; false if what was taken of it is not here any more.
    pub(super) fn rewind(&mut self) -> bool {
        match self {
            Self::Empty => true,
            Self::Streamed(streamed) => streamed.rewind(),
            Self::Again(again) => {
                again.left = again.whole.clone();
                true
            }
        }
    }
}

impl Streamed {
    fn rewind(&mut self) -> bool {
        if !self.has_begun {
            return true;
        }
        let Some(taken) = self.kept.as_ref().and_then(|kept| kept.copy()) else { return false };
        if self.upload.is_done() && !taken.is_empty() {
            self.upload.0.set(Progress::Running);
        }
        self.again = taken;
        true
    }

    fn end(&self, progress: Progress) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        self.upload.0.set(progress);
        self.watch.stop_waiting_for(Wait::Upload);
        Poll::Ready((progress != Progress::Done).then_some(Err(Broken)))
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if !std::mem::replace(&mut self.has_begun, true) {
            self.watch.body_is_wanted();
        }
        if !self.again.is_empty() {
            return self.poll_again();
        }
        if self.watch.has_expired(Wait::Upload) {
            return self.end(Progress::Stalled);
        }
        let polled = self.poll_incoming(cx);
        if polled.is_ready() {
            self.watch.upload_goes_on();
        }
        match polled {
            Poll::Pending => {
                self.is_late();
                Poll::Pending
            }
            Poll::Ready(None) => self.end(Progress::Done),
            Poll::Ready(Some(Err(_))) => self.end(Progress::Malformed),
            Poll::Ready(Some(Ok(frame))) => self.pass_on(frame),
        }
    }

    /// The next of what comes from the client. Over HTTP/2 it is another task that brings it, while `cx` may be of somebody who
    /// wakes nobody, since what comes over HTTP/1 is brought by whoever polls here (see `upstream::http1`).
    fn poll_incoming(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let incoming = Pin::new(&mut self.incoming);
        if matches!(*incoming, Incoming::Http1(_)) || self.watch.is_task(cx.waker()) {
            return incoming.poll_frame(cx);
        }
        let both = match &self.both {
            Some(both) if both.is_of(cx.waker()) => both,
            _ => self.both.insert(Both::new(cx.waker().clone(), self.watch.task())),
        };
        incoming.poll_frame(&mut Context::from_waker(&both.waker))
    }

    /// The client is waited for. That of a call has no time of its own: it may be listening.
    fn is_late(&self) {
        if self.watch.waits_for(Wait::Upload) {
            return;
        }
        let now = Instant::now();
        if !self.is_call {
            self.watch.wait_until(Wait::Upload, now + self.watch.timeouts.body_idle);
        }
        self.watch.upload_is_late(now);
    }

    fn poll_again(&mut self) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let frame = self.again.next();
        if self.again.is_empty() && self.incoming.is_end_stream() {
            self.upload.0.set(Progress::Done);
        }
        Poll::Ready(frame.map(Ok))
    }

    fn pass_on(&mut self, frame: Frame<Bytes>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let data = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => return self.pass_trailers(frame),
        };
        self.watch.stop_waiting(); // it moves: neither the client nor the backend is late
        match self.left.checked_sub(data.len() as u64) {
            None => return self.end(Progress::TooLarge),
            Some(left) => self.left = left,
        }
        if let Some(kept) = &self.kept {
            kept.add(&data);
        }
        if self.incoming.is_end_stream() {
            self.upload.0.set(Progress::Done);
        }
        Poll::Ready(Some(Ok(Frame::data(data))))
    }
}

impl Streamed {
    /// They are the end of the body, whether they go on or not.
    fn pass_trailers(&mut self, frame: Frame<Bytes>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let Some(mut trailers) = frame.into_trailers().ok().filter(|_| self.is_call) else {
            return self.end(Progress::Done);
        };
        headers::strip_trailers(&mut trailers);
        if let Some(kept) = &self.kept {
            kept.end(&trailers);
        }
        self.upload.0.set(Progress::Done);
        self.watch.stop_waiting_for(Wait::Upload);
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }
}

impl Again {
    fn poll(&mut self) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let frame = self.left.next();
        if self.left.is_empty() {
            self.upload.0.set(Progress::Done);
        }
        Poll::Ready(frame.map(Ok))
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Streamed(streamed) => streamed.poll(cx),
            Self::Again(again) => again.poll(),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Streamed(streamed) => streamed.again.is_empty() && streamed.incoming.is_end_stream(),
            Self::Again(again) => again.left.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Streamed(streamed) => streamed.incoming.size_hint(),
            Self::Again(again) => SizeHint::with_exact(again.left.bytes.len() as u64),
        }
    }
}

/// An answer's body on its way to the client, together with the report that is made when it ends.
#[derive(Debug)]
pub(super) struct ResponseBody {
    source: Source,
    /// `None` if somebody else reports.
    report: Option<Report>,
    hides_length: bool,
}

#[derive(Debug)]
enum Source {
    /// Our own words, or nothing.
    Own(Option<Bytes>),
    /// A backend's, over its connection.
    Relayed { incoming: Incoming, link: Option<Link>, class: Class },
}

impl ResponseBody {
    /// Our own answer. `report` ends as it stands.
    pub(super) fn own(body: Bytes, report: Report) -> Self {
        let source = Source::Own((!body.is_empty()).then_some(body));
        Self { source, report: Some(report), hides_length: false }
    }

    /// None: what follows the head is no body.
    pub(super) fn none() -> Self {
        Self { source: Source::Own(None), report: None, hides_length: false }
    }

    /// A backend's answer, which counts as `class` if all of it gets through.
    pub(super) fn relayed(incoming: Incoming, link: Link, class: Class, report: Report) -> Self {
        let source = Source::Relayed { incoming, link: Some(link), class };
        let mut body = Self { source, report: Some(report), hides_length: false };
        if body.is_end_stream() {
            body.complete();
        }
        body
    }

    /// The same body, but whoever writes it has to look to find its end.
    pub(super) fn with_unknown_length(self) -> Self {
        Self { hides_length: true, ..self }
    }

    fn complete(&mut self) {
        if let (Source::Relayed { link, class, .. }, Some(report)) = (&mut self.source, &self.report) {
            let now = Instant::now();
            report.complete(*class, now);
            if let Some(link) = link.take() {
                link.release(now);
            }
        }
    }

    /// The last words of a call that cannot go on; `None` if it has had its last words, or cannot be told.
    pub(super) fn last_words(&mut self, status: Status, message: &str) -> Option<HeaderMap> {
        let report = self.report.as_ref().filter(|_| matches!(self.source, Source::Relayed { .. }))?;
        if !report.call()?.has_trailers() {
            return None;
        }
        report.call_ends_as(status);
        self.source = Source::Own(None);
        Some(grpc::trailers(status, message))
    }

    /// Nothing came for too long.
    fn fall_silent(&mut self) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let Some(report) = self.report.as_ref().filter(|report| report.call().is_some()) else {
            return self.break_off(BrokenOff::default());
        };
        // Nobody's fault: between two messages of a stream there may be any time.
        report.will_end_as(Class::Error);
        let message = "There was no message for too long.";
        Poll::Ready(Some(self.last_words(Status::Unavailable, message).map(Frame::trailers).ok_or(Broken)))
    }

    fn break_off(&mut self, BrokenOff { reason }: BrokenOff) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let Some(report) = &self.report else { return Poll::Ready(None) };
        let mut is_clients_fault = report.client.watch.has_expired(Wait::Upload);
        if let Source::Relayed { link, .. } = &mut self.source {
            let link = link.take();
            let upload = link.as_ref().map(Link::upload_progress);
            is_clients_fault |= upload.is_some_and(|upload| !matches!(upload, Progress::Running | Progress::Done));
            if let Some(link) = link.filter(|_| !is_clients_fault) {
                link.pool().blame(Failure::Truncated);
            }
        }
        if is_clients_fault {
            report.will_end_as(Class::ClientError);
            return Poll::Ready(Some(Err(Broken)));
        }
        report.failed(Failure::Truncated);
        let words = self.last_words(grpc::status_of_reset(reason), "The backend's answer broke off.");
        Poll::Ready(Some(words.map(Frame::trailers).ok_or(Broken)))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let this = &mut *self;
        let (incoming, link) = match &mut this.source {
            Source::Own(body) => return Poll::Ready(body.take().map(|bytes| Ok(Frame::data(bytes)))),
            Source::Relayed { incoming, link, .. } => (incoming, link.as_mut()),
        };
        let Some(report) = &this.report else { return Poll::Ready(None) };
        let watch = &report.client.watch;
        if watch.has_expired(Wait::Stream) {
            return this.fall_silent();
        }
        if watch.has_expired(Wait::Upload) {
            return this.break_off(BrokenOff::default());
        }
        if watch.turn_is_over() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let Some(link) = link else { return Poll::Ready(None) };
        match link.channel.poll_body(incoming, cx) {
            Poll::Pending => {
                if !watch.waits() {
                    let stream_idle = link.pool().endpoint().timeouts.stream_idle;
                    watch.wait_until(Wait::Stream, Instant::now() + stream_idle);
                }
                Poll::Pending
            }
            Poll::Ready(Some(Ok(frame))) => {
                watch.stop_waiting_for(Wait::Stream);
                watch.passed_on(frame.data_ref().map_or(0, Bytes::len));
                if let Some(trailers) = frame.trailers_ref() {
                    report.look_at_trailers(trailers);
                }
                // Nothing follows trailers, and hyper does not ask whether anything does.
                if frame.is_trailers() || incoming.is_end_stream() {
                    this.complete();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(broken))) => this.break_off(broken),
            Poll::Ready(None) => {
                this.complete();
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            _ if self.hides_length => false,
            Source::Own(body) => body.is_none(),
            Source::Relayed { incoming, .. } => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            _ if self.hides_length => SizeHint::default(),
            Source::Own(body) => SizeHint::with_exact(body.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Source::Relayed { incoming, .. } => incoming.size_hint(),
        }
    }
}
