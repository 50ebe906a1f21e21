//! Values as they are written on the command line: the same as in the config.

use std::time::Duration;

use anyhow::{Context as _, bail};
use jiff::Timestamp;

use crate::policy::bucket::Percent;

/// A duration, with the words that the API takes for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// How long it is.
    pub length: Duration,
    /// As it was written.
    pub written: String,
}

/// `25`, `12.5`, `5%`
pub(super) fn percent(written: &str) -> anyhow::Result<Percent> {
    let number = written.trim_end_matches('%').trim_end().parse().ok();
    number.and_then(Percent::from_f64).context("expected 0 to 100 with at most two decimals")
}

/// `250ms`, `10s`, `30m`, `24h`
pub(super) fn span(written: &str) -> anyhow::Result<Span> {
    const EXPECTED: &str = "expected a duration such as 250ms, 10s, 30m or 24h";
    let unit = written.trim_start_matches(|c: char| c.is_ascii_digit());
    let number: u64 = written[..written.len() - unit.len()].parse().context(EXPECTED)?;
    let milliseconds: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => bail!(EXPECTED),
    };
    let length = Duration::from_millis(number.checked_mul(milliseconds).context(EXPECTED)?);
    Ok(Span { length, written: written.to_owned() })
}

/// When to come back: a duration, or a time in RFC 3339. As it was written.
pub(super) fn span_or_time(written: &str) -> anyhow::Result<String> {
    let is_time = written.parse::<Timestamp>().is_ok();
    if !is_time && span(written).is_err() {
        bail!("expected a duration such as 30m, or a time such as 2026-11-21T07:00:00Z");
    }
    Ok(written.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percents_are_taken_with_and_without_their_sign() {
        assert_eq!(percent("20").unwrap(), percent("20 %").unwrap());
        for wrong in ["", "101", "1.005", "twenty", "-1"] {
            assert!(percent(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn durations_are_those_of_the_config() {
        for (written, millis) in [("250ms", 250), ("5s", 5_000), ("30m", 1_800_000), ("24h", 86_400_000)] {
            assert_eq!(span(written).unwrap().length.as_millis(), millis, "{written}");
        }
        for wrong in ["", "5", "s", "5 s", "1.5s", "-5s", "5d", "99999999999999999999s", "18446744073709551615h", "é"]
        {
            assert!(span(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn coming_back_may_be_a_time() {
        for right in ["30m", "2026-11-21T07:00:00Z", "2026-11-21T08:00:00+01:00"] {
            assert!(span_or_time(right).is_ok(), "{right}");
        }
        assert!(span_or_time("07:00").is_err());
    }
}
