//! When a rollout may be raised: windows of the week in named time zones, and the hour by which it has to be done.
//!
//! A window reads the wall clock of its own zone. Which minute of the week that is now is an argument, since the rules of
//! time zones are no business of a pure function.

use std::time::SystemTime;

/// A minute of the week, as somebody in some time zone reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalMinute {
    /// 0 is Monday, 6 is Sunday.
    pub weekday: u8,
    /// Minutes since midnight, 0 to 1439.
    pub minute: u16,
}

/// A part of each week, such as `Mon-Thu 09:00-16:00 Asia/Shanghai`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// On which days it begins; Monday first.
    pub days: [bool; 7],
    /// Minutes since midnight at which it begins, 0 to 1439.
    pub from: u16,
    /// Minutes since midnight before which it ends, 1 to 1440. Up to `from`: on the next day.
    pub to: u16,
    /// The name of the time zone in the IANA database.
    pub zone: String,
}

impl Window {
    /// Whether `now`, read in this window's zone, is inside.
    #[must_use]
    pub fn covers(&self, now: LocalMinute) -> bool {
        let today = usize::from(now.weekday % 7);
        let yesterday = (today + 6) % 7;
        if self.from < self.to {
            return self.days[today] && (self.from..self.to).contains(&now.minute);
        }
        (self.days[today] && now.minute >= self.from) || (self.days[yesterday] && now.minute < self.to)
    }
}

/// When a rollout may be raised, and by when it has to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schedule {
    /// If there are any, a rollout is raised only inside one of these.
    pub allow: Vec<Window>,
    /// A rollout is not raised inside any of these.
    pub freeze: Vec<Window>,
    /// Not at 100 % by then: rolled back.
    pub deadline: Option<SystemTime>,
}

impl Schedule {
    /// Whether nothing may be raised now. `local` reads the time in a zone, by its name.
    #[must_use]
    pub fn is_frozen(&self, local: impl Fn(&str) -> LocalMinute) -> bool {
        let covered = |windows: &[Window]| windows.iter().any(|window| window.covers(local(&window.zone)));
        covered(&self.freeze) || (!self.allow.is_empty() && !covered(&self.allow))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MON: u8 = 0;
    const THU: u8 = 3;
    const FRI: u8 = 4;

    fn window(days: &[u8], from: u16, to: u16) -> Window {
        let mut on = [false; 7];
        days.iter().for_each(|day| on[usize::from(*day)] = true);
        Window { days: on, from: from * 60, to: to * 60, zone: "UTC".into() }
    }

    fn at(weekday: u8, hour: u16) -> LocalMinute {
        LocalMinute { weekday, minute: hour * 60 }
    }

    #[test]
    fn a_window_ends_before_its_last_minute_and_may_pass_midnight() {
        let office = window(&[MON, THU], 9, 16);
        let night = window(&[THU], 22, 6);
        for (window, now, inside) in [
            (&office, at(MON, 9), true),
            (&office, at(MON, 16), false),
            (&office, at(FRI, 10), false),
            (&night, at(THU, 23), true),
            (&night, at(FRI, 5), true),
            (&night, at(FRI, 6), false),
            (&night, at(THU, 5), false),
            (&window(&[THU], 0, 24), at(THU, 0), true),
        ] {
            assert_eq!(window.covers(now), inside, "{window:?} {now:?}");
        }
    }

    #[test]
    fn what_is_not_allowed_is_frozen_and_a_freeze_wins() {
        let allow = Schedule { allow: vec![window(&[MON], 9, 16)], ..Schedule::default() };
        let both = Schedule { freeze: vec![window(&[MON], 12, 13)], ..allow.clone() };
        for (schedule, now, frozen) in [
            (&Schedule::default(), at(MON, 3), false),
            (&allow, at(MON, 10), false),
            (&allow, at(MON, 8), true),
            (&both, at(MON, 12), true),
            (&both, at(MON, 13), false),
        ] {
            assert_eq!(schedule.is_frozen(|_| now), frozen, "{now:?}");
        }
    }
}
