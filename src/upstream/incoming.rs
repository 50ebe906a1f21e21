//! A body as it arrives, from a backend or from a client, whichever version of HTTP brings it.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use h2::{Reason, RecvStream};
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use hyper::body::{self, Body, Bytes, Frame, SizeHint};

/// It ended early, or was not what its framing said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, thiserror::Error)]
#[error("the body broke off")]
pub struct BrokenOff {
    /// By which the other side has ended the stream, if it has, and did not just go.
    pub reason: Option<Reason>,
}

impl From<h2::Error> for BrokenOff {
    fn from(error: h2::Error) -> Self {
        Self { reason: if error.is_reset() && error.is_remote() { error.reason() } else { None } }
    }
}

/// What follows a head.
#[derive(Debug)]
pub enum Incoming {
    /// Over a connection of HTTP/1.
    Http1(body::Incoming),
    /// Over a stream of HTTP/2. In a box, so that what comes over HTTP/1 is moved about with less.
    Http2(Box<Received>),
}

/// What follows a head on a stream. Whoever sends it may go on as far as it is read.
#[derive(Debug)]
pub struct Received {
    stream: RecvStream,
    /// What is still to come, in bytes, if the head has told; h2 sees to it that this is so.
    left: Option<u64>,
    /// All data is here; trailers may follow.
    is_read: bool,
}

impl From<body::Incoming> for Incoming {
    fn from(body: body::Incoming) -> Self {
        Self::Http1(body)
    }
}

impl Incoming {
    /// What follows a head with `headers`, which are well-formed.
    #[must_use]
    pub fn of_stream(stream: RecvStream, headers: &HeaderMap) -> Self {
        let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        let left = if stream.is_end_stream() { Some(0) } else { length };
        Self::Http2(Box::new(Received { stream, left, is_read: false }))
    }

    /// The stream by which it comes, if it comes by one.
    #[must_use]
    pub fn into_stream(self) -> Option<RecvStream> {
        match self {
            Self::Http1(_) => None,
            Self::Http2(received) => Some(received.into_stream()),
        }
    }
}

impl Received {
    /// The stream itself, for what is no body.
    pub(super) fn into_stream(self) -> RecvStream {
        self.stream
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        if !self.is_read {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => return Poll::Ready(Some(self.take(data))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None => self.is_read = true,
            }
        }
        Poll::Ready(match ready!(self.stream.poll_trailers(cx)) {
            Ok(trailers) => trailers.map(|trailers| Ok(Frame::trailers(trailers))),
            Err(error) => Some(Err(error.into())),
        })
    }

    fn take(&mut self, data: Bytes) -> Result<Frame<Bytes>, BrokenOff> {
        self.stream.flow_control().release_capacity(data.len())?;
        self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
        Ok(Frame::data(data))
    }
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        match self.get_mut() {
            Self::Http1(body) => Pin::new(body).poll_frame(cx).map_err(|_| BrokenOff::default()),
            Self::Http2(received) => received.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(received) => received.stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(body) => body.size_hint(),
            Self::Http2(received) => received.left.map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}
