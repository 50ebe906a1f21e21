//! How a request ended for the side that it was sent to, as far as that says anything about the side.
//!
//! A client that went away says nothing, and neither does what tidegate itself could not do. Everything else is a success or
//! a failure, and a failure has a cause.

use std::ops::RangeInclusive;

use super::grpc::Status;

/// What one request says about its side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The side answered, and nothing was wrong with that.
    Success,
    /// The side failed.
    Failure(Failure),
    /// The client went away before the end.
    ClientGone,
    /// Nobody's fault but ours, or nobody's at all.
    Ours,
}

/// What went wrong between tidegate and a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No connection.
    Connect,
    /// No connection in time.
    ConnectTimeout,
    /// A connection, but to somebody who does not speak HTTP/2 and should.
    NoHttp2,
    /// A connection, but to somebody who speaks HTTP/2 where HTTP/1.1 is expected.
    OnlyHttp2,
    /// A connection, but to somebody whose certificate is not trusted.
    Certificate,
    /// A connection, but no TLS on it.
    Tls,
    /// No response head in time.
    ResponseTimeout,
    /// The connection ended before a response head.
    Reset,
    /// A stream that the backend would not look at, or left out when it went away.
    Refused,
    /// A kept connection was closed by the backend as it was used again: nobody's fault, and never the guard's business.
    Stale,
    /// Not an HTTP/1.1 response that could be passed on.
    Malformed,
    /// The response ended or stalled in the middle.
    Truncated,
    /// A status that counts as a failure.
    Status,
    /// A `grpc-status` that counts as a failure.
    Grpc,
    /// The service said so in a header of its own.
    Reported,
    /// tidegate itself could open no connection: it was out of file descriptors, memory or ports.
    OwnLimit,
    /// As many connections to the backend are open as may be, and none became free in time.
    BackendLimit,
    /// None of the backend's endpoints is fit.
    Unhealthy,
}

impl Failure {
    /// All failures, in the order of the counters.
    pub const ALL: [Self; 18] = [
        Self::Connect,
        Self::ConnectTimeout,
        Self::NoHttp2,
        Self::OnlyHttp2,
        Self::Certificate,
        Self::Tls,
        Self::ResponseTimeout,
        Self::Reset,
        Self::Refused,
        Self::Stale,
        Self::Malformed,
        Self::Truncated,
        Self::Status,
        Self::Grpc,
        Self::Reported,
        Self::OwnLimit,
        Self::BackendLimit,
        Self::Unhealthy,
    ];

    /// The label's value.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::ConnectTimeout => "connect_timeout",
            Self::NoHttp2 => "no_http2",
            Self::OnlyHttp2 => "only_http2",
            Self::Certificate => "tls_certificate",
            Self::Tls => "tls",
            Self::ResponseTimeout => "response_timeout",
            Self::Reset => "reset",
            Self::Refused => "refused",
            Self::Stale => "stale",
            Self::Malformed => "malformed",
            Self::Truncated => "truncated",
            Self::Status => "status",
            Self::Grpc => "grpc_status",
            Self::Reported => "reported",
            Self::OwnLimit => "own_limit",
            Self::BackendLimit => "backend_limit",
            Self::Unhealthy => "unhealthy",
        }
    }

    /// What it says about the side.
    #[must_use]
    pub fn outcome(self) -> Outcome {
        match self {
            Self::Stale | Self::OwnLimit | Self::BackendLimit => Outcome::Ours,
            failure => Outcome::Failure(failure),
        }
    }
}

/// Which answers are failures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failures {
    /// Statuses, 100 to 599.
    pub statuses: Vec<RangeInclusive<u16>>,
    /// Values of `grpc-status`; empty if it is not looked at.
    pub grpc: Vec<u8>,
    /// The name, in lower case, of a header by which the service tells of failures that its status does not show.
    pub header: Option<String>,
}

impl Failures {
    /// The gRPC statuses that say that the service failed, not its caller: UNKNOWN, `DEADLINE_EXCEEDED`, INTERNAL,
    /// UNAVAILABLE, `DATA_LOSS` (gRPC, `doc/statuscodes.md`).
    pub const GRPC: [u8; 5] = [2, 4, 13, 14, 15];

    /// The failure in an answer with this `status` and `grpc-status`, if it is one. `header` looks up another header by its name.
    #[must_use]
    pub fn find<'a>(
        &self,
        status: u16,
        grpc_status: Option<&[u8]>,
        header: impl Fn(&str) -> Option<&'a [u8]>,
    ) -> Option<Failure> {
        if self.statuses.iter().any(|range| range.contains(&status)) {
            return Some(Failure::Status);
        }
        if grpc_status.is_some_and(|value| self.is_grpc_failure(Status::read(value))) {
            return Some(Failure::Grpc);
        }
        let reported = self.header.as_deref().and_then(header).is_some_and(is_bad);
        reported.then_some(Failure::Reported)
    }

    /// Whether a call that ended like this is a failure.
    #[must_use]
    pub fn is_grpc_failure(&self, status: Status) -> bool {
        self.grpc.contains(&status.number())
    }
}

/// Whether what a service says of its own outcome is bad: anything but a word for good.
fn is_bad(value: &[u8]) -> bool {
    const GOOD: [&[u8]; 6] = [b"", b"ok", b"success", b"0", b"false", b"none"];
    !GOOD.iter().any(|good| good.eq_ignore_ascii_case(value.trim_ascii()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(status: u16, headers: &[(&str, &'static str)]) -> Option<Failure> {
        let failures = Failures {
            statuses: vec![500..=502, 504..=599],
            grpc: Failures::GRPC.to_vec(),
            header: Some("x-outcome".to_owned()),
        };
        let header = |name: &str| headers.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_bytes());
        failures.find(status, header("grpc-status"), header)
    }

    #[test]
    fn a_status_a_grpc_status_or_the_services_own_word_is_a_failure() {
        for (status, headers, failure) in [
            (200, &[][..], None),
            (404, &[], None),
            (503, &[], None),
            (500, &[], Some(Failure::Status)),
            (599, &[], Some(Failure::Status)),
            (200, &[("grpc-status", "0")], None),
            (200, &[("grpc-status", "5")], None),
            (200, &[("grpc-status", "14")], Some(Failure::Grpc)),
            (200, &[("grpc-status", "nonsense")], None),
            (200, &[("x-outcome", "OK")], None),
            (200, &[("x-outcome", " failure ")], Some(Failure::Reported)),
            (200, &[("x-outcome", "")], None),
        ] {
            assert_eq!(found(status, headers), failure, "{status} {headers:?}");
        }
    }

    #[test]
    fn a_stale_connection_and_our_own_limits_are_not_the_sides_fault() {
        for failure in Failure::ALL {
            let is_ours = failure.outcome() == Outcome::Ours;
            assert_eq!(
                is_ours,
                matches!(failure, Failure::Stale | Failure::OwnLimit | Failure::BackendLimit),
                "{failure:?}"
            );
        }
    }
}
