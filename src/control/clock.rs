//! The wall clock, as far as it can be trusted, and what it says elsewhere.
//!
//! Time that passes is measured on the monotonic clock. The wall clock is needed for two things only: windows of the week
//! and deadlines. A clock that was set wrong, or right, moves unlike the other one; until it has been steady again for a
//! minute, no deadline is acted on.

use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::policy::schedule::{LocalMinute, Schedule};

/// How far the clocks may move apart between two looks before that is a jump.
const TOLERANCE: Duration = Duration::from_secs(5);
/// How long after a jump the wall clock is not acted on.
const DOUBT: Duration = Duration::from_secs(60);

/// Both clocks at once.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// The wall clock.
    pub wall: SystemTime,
    /// The clock that never jumps.
    pub steady: Instant,
}

impl Reading {
    /// Both clocks, now.
    #[must_use]
    pub fn now() -> Self {
        Self { wall: SystemTime::now(), steady: Instant::now() }
    }
}

/// Notices when the wall clock jumps.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    last: Reading,
    doubted_until: Option<Instant>,
}

/// What a look at the clocks found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passed {
    /// Since the last look.
    pub elapsed: Duration,
    /// By how many seconds the wall clock has jumped since, if it has.
    pub jumped: Option<i64>,
    /// Whether the wall clock can be acted on.
    pub is_steady: bool,
}

impl Clock {
    /// A clock that is trusted so far.
    #[must_use]
    pub fn new(now: Reading) -> Self {
        Self { last: now, doubted_until: None }
    }

    /// Looks at the clocks, which read `now`.
    pub fn look(&mut self, now: Reading) -> Passed {
        let elapsed = now.steady.saturating_duration_since(self.last.steady);
        let jump = jump(self.last.wall + elapsed, now.wall);
        if jump.is_some() {
            self.doubted_until = Some(now.steady + DOUBT);
        }
        self.last = now;
        Passed { elapsed, jumped: jump, is_steady: self.doubted_until.is_none_or(|until| now.steady >= until) }
    }
}

/// By how many seconds `found` is beside `expected`, if by more than is tolerated.
fn jump(expected: SystemTime, found: SystemTime) -> Option<i64> {
    let (sign, by) = match found.duration_since(expected) {
        Ok(ahead) => (1, ahead),
        Err(behind) => (-1, behind.duration()),
    };
    (by > TOLERANCE).then(|| sign * i64::try_from(by.as_secs()).unwrap_or(i64::MAX))
}

/// Whether `schedule` says that nothing may be raised at `now`. A zone that the system does not know (the config was
/// checked, so its files have gone since) counts as UTC.
#[must_use]
pub fn is_frozen(schedule: &Schedule, now: SystemTime) -> bool {
    let now = Timestamp::try_from(now).unwrap_or_default();
    schedule.is_frozen(|zone| {
        let local = now.to_zoned(TimeZone::get(zone).unwrap_or(TimeZone::UTC));
        let weekday = u8::try_from(local.weekday().to_monday_zero_offset()).unwrap_or_default();
        let minute = u16::from(local.hour().unsigned_abs()) * 60 + u16::from(local.minute().unsigned_abs());
        LocalMinute { weekday, minute }
    })
}

/// From when on `schedule` lets something be raised, to the minute; `None` if it does so now, or not within eight days.
#[must_use]
pub fn opening(schedule: &Schedule, now: SystemTime) -> Option<Timestamp> {
    const MINUTE: i64 = 60;
    let seconds = Timestamp::try_from(now).ok()?.as_second();
    let minutes = (1..=8 * 24 * 60).map(|minute| seconds - seconds.rem_euclid(MINUTE) + minute * MINUTE);
    let mut moments = minutes.filter_map(|second| Timestamp::from_second(second).ok());
    if !is_frozen(schedule, now) {
        return None;
    }
    moments.find(|moment| !is_frozen(schedule, SystemTime::from(*moment)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::schedule::Window;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_schedule_that_says_no_says_until_when() {
        let days = [true, true, true, true, false, false, false];
        let allow = vec![Window { days, from: 9 * 60, to: 16 * 60, zone: "Asia/Shanghai".into() }];
        let never = Window { days: [true; 7], from: 0, to: 1440, zone: "UTC".into() };
        let office = Schedule { allow, ..Schedule::default() };
        let shut = Schedule { freeze: vec![never], ..office.clone() };
        for (schedule, now, opens) in [
            (&office, "2026-11-21T04:05:06Z", Some("2026-11-23T01:00:00Z")), // a Saturday
            (&office, "2026-11-23T00:59:59Z", Some("2026-11-23T01:00:00Z")),
            (&office, "2026-11-23T01:00:00Z", None), // it is open
            (&shut, "2026-11-21T04:05:06Z", None),
        ] {
            let now = SystemTime::from(now.parse::<Timestamp>().unwrap());
            assert_eq!(opening(schedule, now).map(|at| at.to_string()).as_deref(), opens);
        }
    }

    #[test]
    fn a_jump_is_noticed_and_doubted_for_a_minute() {
        let start = Reading::now();
        let mut clock = Clock::new(start);
        let after = |seconds: u32, ahead: Duration| Reading {
            wall: start.wall + seconds * SECOND + ahead,
            steady: start.steady + seconds * SECOND,
        };
        let day = Duration::from_secs(86_400);
        let steady = Passed { elapsed: SECOND, jumped: None, is_steady: true };
        assert_eq!(clock.look(after(1, Duration::ZERO)), steady);
        assert_eq!(clock.look(after(2, day)), Passed { jumped: Some(86_400), is_steady: false, ..steady });
        for second in 3..62 {
            assert!(!clock.look(after(second, day)).is_steady, "{second}");
        }
        assert_eq!(clock.look(after(62, day)), steady);
        assert_eq!(clock.look(after(63, Duration::ZERO)).jumped, Some(-86_400));
    }

    #[test]
    fn windows_are_read_in_their_own_zone() {
        let window = |zone: &str| Window { days: [true; 7], from: 9 * 60, to: 16 * 60, zone: zone.into() };
        let schedule = |zone| Schedule { freeze: vec![window(zone)], ..Schedule::default() };
        let at: SystemTime = "2026-11-20T02:00:00Z".parse::<Timestamp>().unwrap().into();
        assert!(is_frozen(&schedule("Asia/Shanghai"), at), "10:00 there");
        assert!(!is_frozen(&schedule("UTC"), at));
        assert!(is_frozen(&schedule("No/Such"), at + 8 * 3600 * SECOND), "as UTC");
    }
}
