//! Whether a message was taken, and if not, when it is sent again.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::RETRY_AFTER;
use http::{Response, StatusCode};
use jiff::fmt::rfc2822::DateTimeParser;

use crate::config::Url;
use crate::control::outbound::Failed;

/// How often a message is sent at most.
pub(super) const ATTEMPTS: u32 = 8;
/// The first wait; each is twice the one before.
const FIRST: Duration = Duration::from_secs(1);
/// The longest wait that is our own idea.
const LONGEST: Duration = Duration::from_secs(60);
/// The longest wait that a receiver can ask for.
const LONGEST_ASKED: Duration = Duration::from_secs(300);

/// Why a message was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    /// In a sentence.
    pub(super) why: String,
    /// Whether it is of no use to try again.
    pub(super) is_final: bool,
    /// When the receiver asks us to come back.
    pub(super) after: Option<Duration>,
}

/// What the `answer` of `url` at `now` means: taken if its status is 2xx.
pub(super) fn judge(answer: &Result<Response<Bytes>, Failed>, url: &Url, now: SystemTime) -> Result<(), Trouble> {
    let answer = match answer {
        Ok(answer) if answer.status().is_success() => return Ok(()),
        Ok(answer) => answer,
        Err(failed) => return Err(Trouble { why: failed.to_string(), is_final: false, after: None }),
    };
    let status = answer.status();
    let why = match status {
        _ if status.is_redirection() => {
            format!("{url} answers with {}, and redirects are not followed: give the URL they lead to", status.as_u16())
        }
        StatusCode::GONE => format!("{url} answers with 410: it does not want this any more"),
        _ => format!("{url} answers with {}", status.as_u16()),
    };
    Err(Trouble { why, is_final: status == StatusCode::GONE, after: asked_wait(answer, now) })
}

/// RFC 9110 §10.2.3: seconds, or a date.
fn asked_wait(answer: &Response<Bytes>, now: SystemTime) -> Option<Duration> {
    let text = answer.headers().get(RETRY_AFTER)?.to_str().ok()?;
    let wait = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let date = DateTimeParser::new().parse_timestamp(text).ok()?;
            SystemTime::from(date).duration_since(now).unwrap_or_default()
        }
    };
    Some(wait.min(LONGEST_ASKED))
}

/// How long to wait after the attempt number `attempt`, from 1. `chance`, from 0 to 1, takes up to half of our own wait away,
/// so that those who failed together do not come back together; what the receiver `asked` for is waited in full.
pub(super) fn wait(attempt: u32, asked: Option<Duration>, chance: f64) -> Duration {
    let doubled = FIRST.saturating_mul(1_u32.checked_shl(attempt.saturating_sub(1)).unwrap_or(u32::MAX));
    let own = doubled.min(LONGEST).mul_f64(1.0 - chance.clamp(0.0, 1.0) / 2.0);
    own.max(asked.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, retry_after: Option<&str>) -> Result<Response<Bytes>, Failed> {
        let mut answer = Response::builder().status(status);
        if let Some(value) = retry_after {
            answer = answer.header(RETRY_AFTER, value);
        }
        Ok(answer.body(Bytes::new()).unwrap())
    }

    fn judged(answer: &Result<Response<Bytes>, Failed>) -> Result<(), Trouble> {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777); // Sun, 06 Nov 1994 08:49:37 GMT
        judge(answer, &"https://hooks.example.com/secret".parse().unwrap(), now)
    }

    #[test]
    fn two_hundreds_are_taken_and_nothing_else_is() {
        for status in [200, 202, 204, 299] {
            assert_eq!(judged(&answer(status, None)), Ok(()));
        }
        for (status, is_final) in [(301, false), (308, false), (400, false), (404, false), (410, true), (500, false)] {
            let trouble = judged(&answer(status, None)).unwrap_err();
            assert_eq!(trouble.is_final, is_final, "{status}");
            assert!(
                trouble.why.starts_with(&format!("https://hooks.example.com answers with {status}")),
                "{}",
                trouble.why
            );
        }
        let timeout = Failed::Timeout { at: "https://hooks.example.com".to_owned(), within: Duration::from_secs(5) };
        assert_eq!(judged(&Err(timeout)).unwrap_err().why, "https://hooks.example.com has not answered within 5 s");
    }

    #[test]
    fn a_receiver_may_ask_for_time_but_not_for_ever() {
        for (value, seconds) in [
            ("7", Some(7)),
            ("0", Some(0)),
            ("86400", Some(300)),
            ("Sun, 06 Nov 1994 08:50:07 GMT", Some(30)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("Mon, 07 Nov 1994 08:00:00 GMT", Some(300)),
            ("soon", None),
            ("-1", None),
        ] {
            let trouble = judged(&answer(503, Some(value))).unwrap_err();
            assert_eq!(trouble.after, seconds.map(Duration::from_secs), "{value}");
        }
    }

    #[test]
    fn waits_double_up_to_a_minute_and_lose_at_most_half_by_chance() {
        let longest: Vec<u64> = (1..=ATTEMPTS).map(|attempt| wait(attempt, None, 0.0).as_secs()).collect();
        assert_eq!(longest, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(wait(3, None, 1.0), Duration::from_secs(2));
        assert_eq!(wait(1, Some(Duration::from_secs(90)), 0.5), Duration::from_secs(90));
        assert_eq!(wait(7, Some(Duration::from_secs(1)), 0.0), Duration::from_secs(60), "sooner is no favour");
        assert_eq!(wait(u32::MAX, None, 0.0), Duration::from_secs(60));
    }
}
