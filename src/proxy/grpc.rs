//! A call of gRPC (gRPC, `doc/PROTOCOL-HTTP2.md`): how it ended, until when, and how it is told of an end that is ours.
//!
//! gRPC tells how a call went in a header of its own, after everything else, whatever the status of HTTP is. So that its
//! clients understand us, our own answers do the same.

use std::cell::Cell;
use std::time::Duration;

use h2::Reason;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Version};
use tokio::time::Instant;

use super::headers::GRPC_STATUS;
use crate::policy::grpc::{self, Status};

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// What is known of a call.
#[derive(Debug)]
pub(super) struct Call {
    begun: Instant,
    /// How long its client waits for all of it, from its beginning.
    patience: Option<Duration>,
    /// Trailers reach the client.
    has_trailers: bool,
    /// The status of HTTP of a backend's answer, once its head is here.
    answered: Cell<Option<u16>>,
    status: Cell<Option<Status>>,
}

impl Call {
    pub(super) fn new(version: Version, headers: &HeaderMap, begun: Instant) -> Self {
        let patience = headers.get(GRPC_TIMEOUT).and_then(|value| grpc::timeout(value.as_bytes()));
        let has_trailers = version == Version::HTTP_2;
        Self { begun, patience, has_trailers, answered: Cell::default(), status: Cell::default() }
    }

    /// Whether an answer that has begun can be ended with words.
    pub(super) fn has_trailers(&self) -> bool {
        self.has_trailers
    }

    /// When its client stops waiting. A deadline beyond what a clock can tell is none.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.begun.checked_add(self.patience?)
    }

    /// Whether its deadline has come by `now`.
    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        self.deadline().is_some_and(|deadline| deadline <= now)
    }

    /// Whether a client that leaves at `now` has waited until its deadline for an answer to begin. Its clock runs a little
    /// before ours, so a tenth of the time may be left.
    pub(super) fn was_waited_for(&self, now: Instant) -> bool {
        let waited = now.saturating_duration_since(self.begun);
        self.answered.get().is_none() && self.patience.is_some_and(|patience| waited >= patience - patience / 10)
    }

    /// The head of a backend's answer is here.
    pub(super) fn is_answered(&self, status: u16, headers: &HeaderMap) {
        self.answered.set(Some(status));
        self.status.set(read(headers));
    }

    /// The end of the answer is here.
    pub(super) fn hears(&self, trailers: &HeaderMap) {
        self.status.set(read(trailers).or(self.status.get()));
    }

    /// It has ended like this.
    pub(super) fn ends_as(&self, status: Status) {
        self.status.set(Some(status));
    }

    /// How it has ended, if anybody has said.
    pub(super) fn status(&self) -> Option<Status> {
        self.status.get()
    }

    /// It was cut off by us. If it can be told so, that is how it has ended, unless it had before.
    pub(super) fn is_cut_off(&self) {
        if self.has_trailers && self.status.get().is_none() {
            self.status.set(Some(Status::Unavailable));
        }
    }

    /// All of the answer is here: how it has ended, also if nobody has said.
    pub(super) fn ends(&self) -> Status {
        let silent = || Status::of_silent(self.answered.get().unwrap_or_default());
        let status = self.status.get().unwrap_or_else(silent);
        self.status.set(Some(status));
        status
    }
}

fn read(headers: &HeaderMap) -> Option<Status> {
    headers.get(GRPC_STATUS).map(|value| Status::read(value.as_bytes()))
}

/// How a call ends whose backend has ended the stream in the middle (gRPC, `doc/PROTOCOL-HTTP2.md`, "Errors"), or has just
/// gone.
pub(super) fn status_of_reset(reason: Option<Reason>) -> Status {
    match reason {
        None | Some(Reason::REFUSED_STREAM) => Status::Unavailable,
        Some(Reason::CANCEL) => Status::Cancelled,
        Some(Reason::ENHANCE_YOUR_CALM) => Status::ResourceExhausted,
        Some(Reason::INADEQUATE_SECURITY) => Status::PermissionDenied,
        Some(_) => Status::Internal,
    }
}

/// What ends a call that has begun to be answered.
pub(super) fn trailers(status: Status, message: &str) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(2);
    tell(&mut trailers, status, message);
    trailers
}

/// Makes `response`, which has no body, one that is only trailers: the whole answer to a call.
pub(super) fn make_trailers_only<B>(response: &mut Response<B>, status: Status, message: &str) {
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, GRPC);
    headers.remove(CONTENT_LENGTH);
    tell(headers, status, message);
}

fn tell(headers: &mut HeaderMap, status: Status, message: &str) {
    headers.insert(GRPC_STATUS, HeaderValue::from(u16::from(status.number())));
    let message = HeaderValue::try_from(grpc::message(message)).expect("a message is made of printable ASCII");
    headers.insert(GRPC_MESSAGE, message);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(timeout: Option<&'static str>) -> Call {
        let mut headers = HeaderMap::new();
        if let Some(timeout) = timeout {
            headers.insert(GRPC_TIMEOUT, HeaderValue::from_static(timeout));
        }
        Call::new(Version::HTTP_2, &headers, Instant::now())
    }

    #[test]
    fn who_leaves_at_the_deadline_has_not_lost_patience() {
        let at = |call: &Call, millis| call.begun + Duration::from_millis(millis);
        let timed = call(Some("1000m"));
        for (millis, waited, overdue) in
            [(0, false, false), (899, false, false), (900, true, false), (1000, true, true)]
        {
            let now = at(&timed, millis);
            assert_eq!((timed.was_waited_for(now), timed.is_overdue(now)), (waited, overdue), "{millis}");
        }
        timed.is_answered(200, &HeaderMap::new());
        assert!(!timed.was_waited_for(at(&timed, 1000)), "the head came");
        for untimed in [call(None), call(Some("soon")), call(Some("99999999H"))] {
            let now = at(&untimed, 1_000_000);
            assert!(!untimed.was_waited_for(now) && !untimed.is_overdue(now));
        }
    }

    #[test]
    fn a_call_that_nobody_speaks_of_ended_as_its_status_of_http_suggests() {
        for (status, told, ends) in [
            (200, None, Status::Unknown),
            (503, None, Status::Unavailable),
            (404, None, Status::Unimplemented),
            (200, Some("0"), Status::Ok),
            (503, Some("8"), Status::ResourceExhausted),
        ] {
            let call = call(None);
            call.is_answered(status, &HeaderMap::new());
            if let Some(told) = told {
                call.hears(&HeaderMap::from_iter([(GRPC_STATUS, HeaderValue::from_static(told))]));
            }
            assert_eq!(call.ends(), ends, "{status} {told:?}");
        }
    }
}
