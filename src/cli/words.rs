//! Numbers and times for people.

use jiff::Timestamp;

/// A share of 0 to 100.
pub(super) fn share(percent: Option<f64>) -> String {
    percent.map_or_else(|| "-".to_owned(), |percent| format!("{percent} %"))
}

/// A latency in three digits or so.
pub(super) fn time(millis: f64) -> String {
    match millis {
        ..1.0 => format!("{:.0} us", millis * 1e3),
        ..10.0 => format!("{millis:.1} ms"),
        ..1e3 => format!("{millis:.0} ms"),
        ..1e4 => format!("{:.1} s", millis / 1e3),
        _ => format!("{:.0} s", millis / 1e3),
    }
}

/// How long ago a time in RFC 3339 was.
pub(super) fn ago(at: &str, now: Timestamp) -> String {
    match seconds_until(at, now) {
        Some(seconds) => format!("{} ago", spell(-seconds)),
        None => at.to_owned(),
    }
}

/// How far off a time in RFC 3339 is; negative if it has passed.
pub(super) fn seconds_until(at: &str, now: Timestamp) -> Option<f64> {
    Some(at.parse::<Timestamp>().ok()?.duration_since(now).as_secs_f64())
}

/// A duration in its two largest units.
pub(super) fn spell(seconds: f64) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a float saturates to 0 or u64::MAX")]
    let seconds = seconds as u64;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{minutes} min"),
        3600..86_400 => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

/// A number with its thousands apart: `12 408`.
pub(super) fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut told = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            told.push(' ');
        }
        told.push(digit);
    }
    told
}

/// `3 requests`
pub(super) fn counted(count: u64, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_stand_apart() {
        for (count, told) in [(0, "0"), (999, "999"), (1_000, "1 000"), (100_000_000, "100 000 000")] {
            assert_eq!(grouped(count), told);
        }
    }

    #[test]
    fn times_are_told_in_few_digits() {
        for (millis, told) in [
            (0.064, "64 us"),
            (0.9999, "1000 us"),
            (1.25, "1.2 ms"),
            (99.6, "100 ms"),
            (1500.0, "1.5 s"),
            (134_217.7, "134 s"),
        ] {
            assert_eq!(time(millis), told);
        }
        for (seconds, told) in [(0.4, "0 s"), (59.9, "59 s"), (3599.0, "59 min"), (90_000.0, "1 d 1 h"), (-5.0, "0 s")]
        {
            assert_eq!(spell(seconds), told);
        }
    }
}
