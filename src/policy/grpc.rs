//! gRPC's words for how a call ended, and for how long it may take (gRPC, `doc/PROTOCOL-HTTP2.md`).

use std::fmt::Write as _;
use std::time::Duration;

/// How a call ended, as `grpc-status` tells it (gRPC, `doc/statuscodes.md`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "gRPC's page says what each of them means")]
pub enum Status {
    Ok,
    Cancelled,
    Unknown,
    InvalidArgument,
    DeadlineExceeded,
    NotFound,
    AlreadyExists,
    PermissionDenied,
    ResourceExhausted,
    FailedPrecondition,
    Aborted,
    OutOfRange,
    Unimplemented,
    Internal,
    Unavailable,
    DataLoss,
    Unauthenticated,
    /// None of gRPC's.
    Other,
}

impl Status {
    /// All of them: gRPC's by their numbers, 0 to 16, and what is none of gRPC's.
    pub const ALL: [Self; 18] = [
        Self::Ok,
        Self::Cancelled,
        Self::Unknown,
        Self::InvalidArgument,
        Self::DeadlineExceeded,
        Self::NotFound,
        Self::AlreadyExists,
        Self::PermissionDenied,
        Self::ResourceExhausted,
        Self::FailedPrecondition,
        Self::Aborted,
        Self::OutOfRange,
        Self::Unimplemented,
        Self::Internal,
        Self::Unavailable,
        Self::DataLoss,
        Self::Unauthenticated,
        Self::Other,
    ];

    /// The name that gRPC's page has, or `OTHER`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Cancelled => "CANCELLED",
            Self::Unknown => "UNKNOWN",
            Self::InvalidArgument => "INVALID_ARGUMENT",
            Self::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Self::NotFound => "NOT_FOUND",
            Self::AlreadyExists => "ALREADY_EXISTS",
            Self::PermissionDenied => "PERMISSION_DENIED",
            Self::ResourceExhausted => "RESOURCE_EXHAUSTED",
            Self::FailedPrecondition => "FAILED_PRECONDITION",
            Self::Aborted => "ABORTED",
            Self::OutOfRange => "OUT_OF_RANGE",
            Self::Unimplemented => "UNIMPLEMENTED",
            Self::Internal => "INTERNAL",
            Self::Unavailable => "UNAVAILABLE",
            Self::DataLoss => "DATA_LOSS",
            Self::Unauthenticated => "UNAUTHENTICATED",
            Self::Other => "OTHER",
        }
    }

    /// The number by which gRPC knows it, 0 to 16; 17 for what it does not know.
    #[must_use]
    pub fn number(self) -> u8 {
        self as u8
    }

    /// What a header or trailer says.
    #[must_use]
    pub fn read(value: &[u8]) -> Self {
        let number: Option<usize> = std::str::from_utf8(value).ok().and_then(|text| text.trim().parse().ok());
        number.and_then(|number| Self::ALL.get(number).copied()).unwrap_or(Self::Other)
    }

    /// What a client takes an answer for that has this status of HTTP and tells nothing else (gRPC,
    /// `doc/http-grpc-status-mapping.md`).
    #[must_use]
    pub const fn of_silent(status: u16) -> Self {
        match status {
            400 => Self::Internal,
            401 => Self::Unauthenticated,
            403 => Self::PermissionDenied,
            404 => Self::Unimplemented,
            429 | 502..=504 => Self::Unavailable,
            _ => Self::Unknown,
        }
    }

    /// What says the same as an answer of our own with this status of HTTP. As [`Self::of_silent`], where that tells
    /// anything. A backend that is late is `UNAVAILABLE` too: the client's own deadline has not come.
    #[must_use]
    pub const fn of_own(status: u16) -> Self {
        match status {
            405 | 417 | 501 => Self::Unimplemented,
            408 => Self::DeadlineExceeded,
            413 | 414 | 431 => Self::ResourceExhausted,
            status => Self::of_silent(status),
        }
    }
}

/// How long a call may take: the value of `grpc-timeout`, at most eight digits and a unit. `None` if it is not that.
#[must_use]
pub fn timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    let is_number = (1..=8).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    let number: u64 = std::str::from_utf8(digits).ok().filter(|_| is_number)?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(number * 3600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

/// `message` as `grpc-message` has it: UTF-8 whose bytes stand behind `%` unless they are printable ASCII other than `%`.
#[must_use]
pub fn message(message: &str) -> String {
    let mut out = String::with_capacity(message.len());
    for byte in message.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => out.push(char::from(byte)),
            _ => {
                let _a_string_takes_everything = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_stands_at_its_number() {
        for (at, status) in Status::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(status.number()), at, "{status:?}");
            assert_eq!(Status::read(at.to_string().as_bytes()), status);
        }
        for other in [&b"18"[..], b"-1", b"", b"nonsense", b"99999999999999999999", b"\xff"] {
            assert_eq!(Status::read(other), Status::Other, "{}", other.escape_ascii());
        }
        assert_eq!(Status::read(b" 14 "), Status::Unavailable);
    }

    #[test]
    fn what_we_say_is_what_a_client_would_make_of_it_where_that_is_anything() {
        for status in 100..600 {
            let (own, silent) = (Status::of_own(status), Status::of_silent(status));
            assert!(own == silent || silent == Status::Unknown, "{status}");
        }
        for (status, own) in [
            (400, Status::Internal),
            (404, Status::Unimplemented),
            (405, Status::Unimplemented),
            (413, Status::ResourceExhausted),
            (431, Status::ResourceExhausted),
            (502, Status::Unavailable),
            (503, Status::Unavailable),
            (504, Status::Unavailable),
            (500, Status::Unknown),
        ] {
            assert_eq!(Status::of_own(status), own, "{status}");
        }
    }

    #[test]
    fn a_timeout_has_up_to_eight_digits_and_a_unit() {
        for (value, read) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("15S", Some(Duration::from_secs(15))),
            ("100m", Some(Duration::from_millis(100))),
            ("99999999u", Some(Duration::from_micros(99_999_999))),
            ("0n", Some(Duration::ZERO)),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("123456789S", None),
            ("S", None),
            ("", None),
            ("1", None),
            ("1s", None),
            ("-1S", None),
            ("+1S", None),
            ("1.5S", None),
            (" 1S", None),
        ] {
            assert_eq!(timeout(value.as_bytes()), read, "{value:?}");
        }
    }

    #[test]
    fn a_message_is_printable_and_can_be_read_back() {
        assert_eq!(message("back at 5 o'clock: 100% \u{e4}\r\n~"), "back at 5 o'clock: 100%25 %C3%A4%0D%0A~");
    }
}
