//! Whether a file that has just changed may still be half-written.
//!
//! Most files that are cut short do not parse. Some do: `percent: 50` without its last byte is `percent: 5`. So a text that
//! looks cut short has to stand for a while before it counts. A rollback never waits.

use std::time::Duration;

/// After the last event, before the file is read: an editor's burst of events is one change.
pub const QUIET: Duration = Duration::from_millis(25);
/// However many events come, the file is read after this.
pub const NO_LATER_THAN: Duration = Duration::from_millis(100);

/// How long a text that does not parse has to stand before anybody is told: a poll may catch a writer in the act.
pub const TORN: Duration = Duration::from_millis(100);

/// How long a text that is probably cut short has to stand.
const PROBABLY: Duration = Duration::from_millis(1500);
/// How long a text that may be cut short has to stand.
const PERHAPS: Duration = Duration::from_millis(300);

/// How long `text` has to stand unchanged before it may replace `current`. `closes_itself` says that its format has an
/// end that a shortened text lacks (JSON).
#[must_use]
pub fn probation(text: &[u8], current: &[u8], closes_itself: bool) -> Duration {
    let lines = |text: &[u8]| memchr::memchr_iter(b'\n', text).count();
    let ends_its_line = |text: &[u8]| text.last() == Some(&b'\n');
    if closes_itself {
        Duration::ZERO
    } else if text.len() < current.len() && current.starts_with(text) {
        PROBABLY
    } else if !ends_its_line(text) {
        // Whoever wrote the last one without a newline may have done it again.
        if ends_its_line(current) { PROBABLY } else { PERHAPS }
    } else if lines(text) < lines(current) {
        PERHAPS
    } else {
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_cut_short_has_to_stand() {
        let current = b"a: 1\npercent: 50\n";
        for (text, wait) in [
            (&b"a: 1\npercent: 60\n"[..], Duration::ZERO),
            (b"a: 1\npercent: 5", PROBABLY),
            (b"a: 1\n", PROBABLY),
            (b"a: 2\n", PERHAPS),
            (b"a: 1\npercent: 5\n", Duration::ZERO),
            (b"a: 1\npercent: 6", PROBABLY),
            (b"a: 1\npercent: 50\nb: 2\n", Duration::ZERO),
            (b"a: 1\npercent: 50\nb: 2", PROBABLY),
            (b"", PROBABLY),
        ] {
            assert_eq!(probation(text, current, false), wait, "{}", text.escape_ascii());
        }
        assert_eq!(probation(b"a: 1\npercent: 60", b"a: 1\npercent: 50", false), PERHAPS);
        assert_eq!(probation(b"{", b"{}", true), Duration::ZERO);
    }
}
