//! Whether a file that has just changed may still be half-written.
//!
//! Most files that are cut short do not parse. Some do: `percent: 50` without its last byte is `percent: 5`. So a text that
//! looks cut short has to stand for a while before it counts. A rollback never waits.

use std::time::Duration;

/// After the last event, before the file is read: an editor's burst of events is one change.
pub const QUIET: Duration = Duration::from_millis(25);
/// However many events come, the file is read after this.
pub const NO_LATER_THAN: Duration = Duration::from_millis(100);

/// How long a text that ends in the middle of a line has to stand.
const UNFINISHED_LINE: Duration = Duration::from_millis(300);
/// How long a text that is the beginning of the one in force has to stand.
const BEGINNING: Duration = Duration::from_millis(1500);

/// How long `text` has to stand unchanged before it may replace `current`. `closes_itself` says that its format has an
/// end that a shortened text lacks (JSON).
#[must_use]
pub fn probation(text: &[u8], current: &[u8], closes_itself: bool) -> Duration {
    if closes_itself {
        return Duration::ZERO;
    }
    if text.len() < current.len() && current.starts_with(text) {
        return BEGINNING;
    }
    if text.last() == Some(&b'\n') { Duration::ZERO } else { UNFINISHED_LINE }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_cut_short_has_to_stand() {
        let current = b"a: 1\npercent: 50\n";
        for (text, wait) in [
            (&b"a: 1\npercent: 60\n"[..], Duration::ZERO),
            (b"a: 1\npercent: 5", BEGINNING),
            (b"a: 1\n", BEGINNING),
            (b"a: 1\npercent: 6", UNFINISHED_LINE),
            (b"a: 1\npercent: 50\nb: 2\n", Duration::ZERO),
            (b"", BEGINNING),
        ] {
            assert_eq!(probation(text, current, false), wait, "{}", text.escape_ascii());
        }
        assert_eq!(probation(b"{", b"{}", true), Duration::ZERO);
    }
}
