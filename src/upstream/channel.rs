//! What one request goes over: a connection of HTTP/1 that is its own for the time, or a stream of HTTP/2.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{Request, Response};
use hyper::body::{Body, Bytes, Frame};
use pin_project_lite::pin_project;
use tokio::time::Instant;

use super::incoming::{BrokenOff, Incoming};
use super::passage::Passage;
use super::{http1, http2};

/// A way to a backend and back, for one request.
#[derive(Debug)]
pub enum Channel<B: Body + 'static> {
    /// A connection; another request may use it after this one.
    Http1(Box<http1::Connection<B>>),
    /// A stream; other requests have theirs beside it.
    Http2(Box<http2::Stream<B>>),
}

/// What became of a request.
pub type Answered<B> = Result<Response<Incoming>, SendError<B>>;

/// Why there is no answer.
#[derive(Debug)]
pub struct SendError<B> {
    /// What went wrong.
    pub fault: Fault,
    /// The request, if the backend has certainly not looked at it. Its body may have been read from.
    pub unsent: Option<Box<Request<B>>>,
}

/// What went wrong on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// What the backend sent is not HTTP.
    Malformed,
    /// What the backend sent is HTTP/2, where HTTP/1.1 was spoken to it.
    OnlyHttp2,
    /// The connection or the stream ended.
    Ended,
    /// The backend would not look at the stream.
    Refused,
}

impl<B> SendError<B> {
    pub(super) fn unsent(fault: Fault, request: Request<B>) -> Self {
        Self { fault, unsent: Some(Box::new(request)) }
    }
}

impl<B> From<Fault> for SendError<B> {
    fn from(fault: Fault) -> Self {
        Self { fault, unsent: None }
    }
}

pin_project! {
    /// A request that has been handed over.
    pub struct Sending<F> {
        // Hyper tells here what becomes of it; a stream tells itself.
        #[pin]
        over_http1: Option<F>,
    }
}

impl<B> Channel<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Hands over a request. [`Self::poll_answer`] brings what becomes of it.
    pub fn send(&mut self, request: Request<B>) -> Sending<impl Future<Output = http1::Sent<B>> + use<B>> {
        match self {
            Self::Http1(connection) => Sending { over_http1: Some(connection.send(request)) },
            Self::Http2(stream) => {
                stream.send(request);
                Sending { over_http1: None }
            }
        }
    }

    /// Reads no more than `bytes` of the answer at once. A stream's windows see to that anyway.
    pub fn read_at_once(&self, bytes: u64) {
        if let Self::Http1(connection) = self {
            connection.read_at_once(bytes);
        }
    }

    /// Drives both directions, and tells whether the answer to what was [sent](Self::send) has begun.
    pub fn poll_answer(
        &mut self,
        sending: Pin<&mut Sending<impl Future<Output = http1::Sent<B>>>>,
        cx: &mut Context<'_>,
    ) -> Poll<Answered<B>> {
        match (self, sending.project().over_http1.as_pin_mut()) {
            (Self::Http1(connection), Some(sent)) => connection.poll_answer(sent, cx),
            (Self::Http2(stream), _) => stream.poll_answer(cx),
            (Self::Http1(_), None) => unreachable!("what was sent over a connection is polled there"),
        }
    }

    /// The next frame of the answer's body, driving both directions where that has to be.
    pub fn poll_body(
        &mut self,
        body: &mut Incoming,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        match (self, body) {
            (Self::Http1(connection), Incoming::Http1(body)) => connection.poll_body(body, cx),
            (Self::Http2(stream), body) => {
                let _the_answer_breaks_off_too = stream.poll_upload(cx);
                Pin::new(body).poll_frame(cx)
            }
            (Self::Http1(_), body) => Pin::new(body).poll_frame(cx),
        }
    }

    /// Whether something else than HTTP may be spoken over it once the backend agrees.
    pub fn may_become_passage(&self) -> bool {
        match self {
            Self::Http1(_) => true,
            Self::Http2(stream) => stream.takes_extended_connect(),
        }
    }

    /// What it becomes after an answer that has switched protocols, of which `body` is what follows; `None` if it broke instead.
    pub async fn into_passage(self, body: Incoming) -> Option<Passage> {
        match (self, body) {
            (Self::Http1(mut connection), _) => {
                let (socket, unread) = std::future::poll_fn(|cx| connection.poll_switched(cx)).await?;
                Some(Passage::over_connection(socket, unread, connection.take_slot()))
            }
            (Self::Http2(stream), Incoming::Http2(received)) => stream.into_passage(received.into_stream()),
            (Self::Http2(_), Incoming::Http1(_)) => None,
        }
    }

    /// Lets an answer go on that has begun before its request was sent to the end. A connection then serves nobody after it.
    pub fn detach(&mut self) {
        match self {
            Self::Http1(connection) => connection.detach(),
            Self::Http2(stream) => stream.detach(),
        }
    }

    /// Whether anything has come back since a request was handed over, as far as that can be told.
    pub fn has_answered(&self) -> bool {
        match self {
            Self::Http1(connection) => connection.has_answered(),
            Self::Http2(_) => true,
        }
    }

    /// Since when a connection over which an earlier request went had been unused, before another one goes over it.
    pub fn unused_since(&self) -> Option<Instant> {
        match self {
            Self::Http1(connection) => connection.is_reused().then(|| connection.idle_since()),
            Self::Http2(_) => None,
        }
    }

    /// Whether it is a connection over which an earlier request went: if it takes no more, another may.
    pub fn is_reused(&self) -> bool {
        match self {
            Self::Http1(connection) => connection.is_reused(),
            Self::Http2(_) => false,
        }
    }
}
