//! Times and numbers as the API writes them.

use std::time::{Duration, SystemTime};

use jiff::Timestamp;

/// As RFC 3339 in UTC, to the second.
pub(super) fn rfc3339(at: SystemTime) -> String {
    let second = Timestamp::try_from(at).map_or(0, Timestamp::as_second);
    Timestamp::from_second(second).unwrap_or_default().to_string()
}

/// A duration as the config writes it: a whole number of its largest unit that loses nothing, down to milliseconds.
#[must_use]
pub fn spelled(duration: Duration) -> String {
    let millis = duration.as_millis();
    [(3_600_000, "h"), (60_000, "m"), (1_000, "s")]
        .into_iter()
        .find(|(unit, _)| millis != 0 && millis.is_multiple_of(*unit))
        .map_or_else(|| format!("{millis}ms"), |(unit, name)| format!("{}{name}", millis / unit))
}

/// To the millisecond: more would be noise.
pub(super) fn seconds(duration: Duration) -> f64 {
    rounded(duration.as_secs_f64(), 3)
}

pub(super) fn rounded(number: f64, decimals: i32) -> f64 {
    let scale = 10_f64.powi(decimals);
    (number * scale).round() / scale
}

#[expect(clippy::cast_precision_loss, reason = "a minute's requests are far below 2^53")]
pub(super) fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_spelled_as_the_config_does() {
        for (millis, told) in [(0, "0ms"), (250, "250ms"), (90_000, "90s"), (1_800_000, "30m"), (7_200_000, "2h")] {
            assert_eq!(spelled(Duration::from_millis(millis)), told);
        }
    }
}
