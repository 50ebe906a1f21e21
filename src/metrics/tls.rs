//! What one worker counts of TLS with clients.

use super::Counter;

/// Why there was no TLS with a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It took too long, or its turn did not come in time.
    Timeout,
    /// It went away in the middle.
    Closed,
    /// It spoke HTTP in clear text, and was told.
    PlainHttp,
    /// It spoke no TLS, or broke its rules.
    NotTls,
    /// Neither side has a version, a cipher or a protocol that the other one takes.
    Incompatible,
    /// It showed no certificate, or none that is trusted.
    ClientCertificate,
    /// It refused, by an alert: it may not trust our certificate.
    Alert,
    /// The process drained.
    Ended,
    /// The network.
    Other,
}

impl Cause {
    /// All of them, in the order of the counters.
    pub const ALL: [Self; 9] = [
        Self::Timeout,
        Self::Closed,
        Self::PlainHttp,
        Self::NotTls,
        Self::Incompatible,
        Self::ClientCertificate,
        Self::Alert,
        Self::Ended,
        Self::Other,
    ];

    /// The label's value.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Closed => "closed",
            Self::PlainHttp => "plain_http",
            Self::NotTls => "not_tls",
            Self::Incompatible => "incompatible",
            Self::ClientCertificate => "client_certificate",
            Self::Alert => "alert",
            Self::Ended => "ended",
            Self::Other => "other",
        }
    }
}

/// What one worker counts of handshakes with clients.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct TlsMeters {
    full: Counter,
    resumed: Counter,
    failures: [Counter; Cause::ALL.len()],
}

impl TlsMeters {
    /// A handshake is done; with `resumed` it went on with a session of before.
    pub fn done(&self, resumed: bool) {
        if resumed { &self.resumed } else { &self.full }.increment();
    }

    /// There was none.
    pub fn failed(&self, cause: Cause) {
        self.failures[cause as usize].increment();
    }

    /// Handshakes so far, those that went on with a session of before or the others.
    #[must_use]
    pub fn count(&self, resumed: bool) -> u64 {
        if resumed { &self.resumed } else { &self.full }.get()
    }

    /// Failures so far with this cause.
    #[must_use]
    pub fn failures(&self, cause: Cause) -> u64 {
        self.failures[cause as usize].get()
    }
}
