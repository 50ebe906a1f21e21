//! The shield: whether a request that NEW failed may be sent again, to OLD, so that its user does not see the failure.
//!
//! What may have been executed is sent again only if doing it twice is doing it once. How often it is done at all is bounded by
//! a [`Budget`](super::budget::Budget), since a NEW that fails everything would otherwise double the load of OLD at the worst moment.

use super::decision::{Decision, Reason, Side};

/// A request, as far as it matters for sending it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// Who answers, and why.
    pub decision: Decision,
    /// It asked for another protocol: what follows it may be no request.
    pub asks_for_upgrade: bool,
    /// Doing it twice is doing it once: see [`is_repeatable`].
    pub is_repeatable: bool,
    /// How far it got.
    pub reached: Reached,
}

/// How far a request got before it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// Not a byte of it was sent.
    Nobody,
    /// It may have been executed. `is_kept` says that all of it is still here.
    Backend {
        /// The head and the whole body can be sent once more.
        is_kept: bool,
    },
}

/// Whether OLD may be asked in place of NEW. A tester who chose NEW is to see NEW, and where NEW stands in for OLD, OLD has
/// nobody who could answer.
#[must_use]
pub fn may_replay(case: Case) -> bool {
    let is_by_itself = !matches!(case.decision.reason, Reason::Force | Reason::Fallback);
    let is_shielded = case.decision.side == Side::New && is_by_itself && !case.asks_for_upgrade;
    is_shielded
        && match case.reached {
            Reached::Nobody => true,
            Reached::Backend { is_kept } => case.is_repeatable && is_kept,
        }
}

/// Whether doing a request twice is doing it once: by its method (idempotent, RFC 9110 §9.2.2), or because its client gave it
/// an `Idempotency-Key` by which the service finds out.
#[must_use]
pub fn is_repeatable(method: &str, has_key: bool) -> bool {
    has_key || matches!(method, "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: Decision = Decision { side: Side::New, reason: Reason::Bucket };
    const OLD: Decision = Decision { side: Side::Old, reason: Reason::Bucket };
    const FORCED: Decision = Decision { side: Side::New, reason: Reason::Force };
    const UNSENT: Reached = Reached::Nobody;
    const KEPT: Reached = Reached::Backend { is_kept: true };
    const GONE: Reached = Reached::Backend { is_kept: false };

    #[test]
    fn what_may_be_sent_again() {
        for (decision, asks_for_upgrade, is_repeatable, reached, expected) in [
            (NEW, false, true, UNSENT, true),
            (NEW, false, true, KEPT, true),
            (NEW, false, true, GONE, false),
            (NEW, false, false, UNSENT, true),
            (NEW, false, false, KEPT, false),
            (NEW, false, false, GONE, false),
            (NEW, true, true, UNSENT, false),
            (NEW, true, true, KEPT, false),
            (FORCED, false, true, UNSENT, false),
            (FORCED, false, true, KEPT, false),
            (OLD, false, true, UNSENT, false),
            (OLD, false, true, KEPT, false),
        ] {
            let case = Case { decision, asks_for_upgrade, is_repeatable, reached };
            assert_eq!(may_replay(case), expected, "{case:?}");
        }
        for reason in Reason::ALL {
            let case = Case {
                decision: Decision { side: Side::New, reason },
                asks_for_upgrade: false,
                is_repeatable: true,
                reached: KEPT,
            };
            assert_eq!(may_replay(case), !matches!(reason, Reason::Force | Reason::Fallback), "{reason:?}");
        }
    }

    #[test]
    fn what_is_done_twice_is_done_once() {
        for (method, by_itself) in [
            ("GET", true),
            ("HEAD", true),
            ("OPTIONS", true),
            ("TRACE", true),
            ("PUT", true),
            ("DELETE", true),
            ("POST", false),
            ("PATCH", false),
            ("CONNECT", false),
            ("get", false),
            ("PROPFIND", false),
        ] {
            assert_eq!(is_repeatable(method, false), by_itself, "{method}");
            assert!(is_repeatable(method, true), "{method}");
        }
    }
}
