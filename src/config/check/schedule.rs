//! When a rollout may be raised: windows such as `Mon-Thu 09:00-16:00 Asia/Shanghai`, and a deadline.

use std::time::SystemTime;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::{self, TimeZone};

use super::Checker;
use crate::config::document::Place;
use crate::config::error::Complaint;
use crate::config::raw;
use crate::config::value::Checked;
use crate::policy::schedule::{Schedule, Window};

const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
const MIDNIGHT: u16 = 24 * 60;

const WINDOWS: &str =
    "days, times and a time zone, such as Mon-Thu 09:00-16:00 Asia/Shanghai; days or times may be left out";
const DEADLINES: &str = "2026-11-22T07:00:00+08:00, or 2026-11-22 07:00 Asia/Shanghai";

impl Checker<'_> {
    /// `has_deadline` is whether a deadline means anything to the rollout's strategy.
    pub(super) fn schedule(&mut self, place: &Place, raw: &raw::Schedule, has_deadline: bool) -> Option<Schedule> {
        let allow = self.faults.take_all(&place.key("allow"), &raw.allow, |text| window(text));
        let freeze = self.faults.take_all(&place.key("freeze"), &raw.freeze, |text| window(text));
        if raw.deadline.is_some() && !has_deadline {
            let complaint = Complaint::new("`deadline` has no meaning with `strategy: blue_green`");
            self.faults.add(place.key("deadline").as_key(), complaint.help("remove it: a switch is done at once"));
        }
        let deadline = self.faults.take(&place.key("deadline"), raw.deadline.as_deref().map(deadline).transpose());
        Some(Schedule { allow, freeze, deadline: deadline? })
    }
}

/// `[DAYS] [HH:MM-HH:MM] ZONE`
fn window(text: &str) -> Checked<Window> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let Some((zone_name, words)) = words.split_last() else { return Err(malformed()) };
    if zone_name.contains(':') || days(zone_name).is_ok() {
        return Err(Complaint::new("this window names no time zone").allowed(WINDOWS));
    }
    let (written_days, written_times) = match words {
        [] => (None, None),
        [times] if times.contains(':') => (None, Some(*times)),
        [days] => (Some(*days), None),
        [days, times] => (Some(*days), Some(*times)),
        _ => return Err(malformed()),
    };
    let days = written_days.map_or(Ok([true; 7]), days)?;
    let (from, to) = written_times.map_or(Ok((0, MIDNIGHT)), times)?;
    let zone = zone(zone_name)?;
    Ok(Window { days, from, to, zone: zone.iana_name().unwrap_or(zone_name).to_owned() })
}

fn malformed() -> Complaint {
    Complaint::new("this is not a window of the week").allowed(WINDOWS)
}

/// `Mon-Thu,Sat`: a range may pass the end of the week.
fn days(text: &str) -> Checked<[bool; 7]> {
    let mut days = [false; 7];
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (day(first)?, day(last)?);
        let length = (last + 7 - first) % 7;
        (first..=first + length).for_each(|at| days[at % 7] = true);
    }
    Ok(days)
}

fn day(text: &str) -> Checked<usize> {
    let unknown = || {
        Complaint::new("this window's days cannot be read")
            .allowed("Mon, Tue, Wed, Thu, Fri, Sat, Sun, ranges such as Mon-Thu, and several with commas")
            .did_you_mean(text, DAYS)
    };
    DAYS.iter().position(|day| day.eq_ignore_ascii_case(text)).ok_or_else(unknown)
}

/// The minutes since midnight from and before which a window lasts; midnight at its end is 24:00.
fn times(text: &str) -> Checked<(u16, u16)> {
    let complaint = |message: &str| Complaint::new(message).allowed("HH:MM-HH:MM, from 00:00 up to 24:00");
    let read = || {
        let (from, to) = text.split_once('-')?;
        Some((clock(from).filter(|from| *from < MIDNIGHT)?, clock(to)?))
    };
    match read() {
        None => Err(complaint("this window's times cannot be read")),
        Some((from, to)) if from == to => {
            Err(complaint("this window ends where it begins").help("leave the times out for the whole day"))
        }
        Some((from, 0)) => Ok((from, MIDNIGHT)),
        Some(times) => Ok(times),
    }
}

/// `HH:MM` in minutes, up to 24:00.
fn clock(text: &str) -> Option<u16> {
    let two_digits = |text: &str| (text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse());
    let (hours, minutes) = text.split_once(':')?;
    let (hours, minutes): (u16, u16) = (two_digits(hours)?.ok()?, two_digits(minutes)?.ok()?);
    (minutes < 60).then_some(hours * 60 + minutes).filter(|clock| *clock <= MIDNIGHT)
}

/// A time zone of the IANA database. Abbreviations such as CST are none, since they stand for several.
fn zone(name: &str) -> Checked<TimeZone> {
    tz::db().get(name).map_err(|_| {
        let known: Vec<String> = tz::db().available().map(|name| name.to_string()).collect();
        let places = known.iter().map(String::as_str).filter(|name| name.contains('/') && !name.starts_with("Etc/"));
        let of_city = |known: &&str| known.rsplit('/').next().is_some_and(|city| city.eq_ignore_ascii_case(name));
        let complaint = Complaint::new("there is no time zone of this name");
        let complaint = complaint.allowed("a name of the IANA database, such as Asia/Shanghai, or UTC");
        match places.clone().find(of_city) {
            Some(place) => complaint.help(format!("did you mean `{place}`?")),
            None => complaint.did_you_mean(name, places),
        }
    })
}

/// RFC 3339, or a date, a time and a time zone.
fn deadline(text: &str) -> Checked<SystemTime> {
    let complaint = |message: &str| Complaint::new(message).allowed(DEADLINES);
    let words: Vec<&str> = text.split_whitespace().collect();
    match words.as_slice() {
        [date, time, zone_name] => {
            let date: Option<Date> = date.parse().ok();
            let time = clock(time).filter(|time| *time < MIDNIGHT);
            let (date, time) = date.zip(time).ok_or_else(|| complaint("this is not a date and a time"))?;
            moment(date, time, &zone(zone_name)?)
        }
        // An annotation in brackets could say something else than the offset.
        [moment] if !moment.contains('[') => {
            let moment: Result<Timestamp, _> = moment.parse();
            moment.map(SystemTime::from).map_err(|_| complaint("this is not a date and a time with its offset"))
        }
        [_, _] => Err(complaint("this deadline names no time zone")),
        _ => Err(complaint("this is not a date and a time")),
    }
}

/// When the clocks of `zone` show `minute` of `date`, if they do so once.
fn moment(date: Date, minute: u16, zone: &TimeZone) -> Checked<SystemTime> {
    let [hour, minute] = [minute / 60, minute % 60].map(|part| i8::try_from(part).unwrap_or_default());
    let moment = zone.to_ambiguous_timestamp(date.at(hour, minute, 0, 0)).unambiguous();
    moment.map(SystemTime::from).map_err(|_| {
        Complaint::new("the clocks of that time zone are changed then: they show this time twice, or not at all")
            .help("write it with its offset, such as 2026-11-22T07:00:00+08:00")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(window: &Window) -> String {
        let days: String = window.days.iter().map(|day| if *day { 'x' } else { '.' }).collect();
        format!("{days} {}-{} {}", window.from, window.to, window.zone)
    }

    #[test]
    fn windows_are_read_in_all_their_forms() {
        for (text, expected) in [
            ("Mon-Thu 09:00-16:00 Asia/Shanghai", "xxxx... 540-960 Asia/Shanghai"),
            ("Sat-Sun Asia/Shanghai", ".....xx 0-1440 Asia/Shanghai"),
            ("Sat-Mon,wed 22:00-06:00 UTC", "x.x..xx 1320-360 UTC"),
            ("  Fri\t20:00-24:00  europe/berlin ", "....x.. 1200-1440 Europe/Berlin"),
            ("20:00-00:00 UTC", "xxxxxxx 1200-1440 UTC"),
            ("UTC", "xxxxxxx 0-1440 UTC"),
        ] {
            assert_eq!(told(&window(text).unwrap()), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_window_is_refused() {
        for text in [
            "",
            "Mon",
            "Mon-Thu 09:00-16:00",
            "Mon- UTC",
            "Mon,,Tue UTC",
            "Mon 9:00-16:00 UTC",
            "Mon 09:00-16:60 UTC",
            "Mon 24:00-06:00 UTC",
            "Mon 09:00-24:01 UTC",
            "Mon 09:00-09:00 UTC",
            "Mon 09:00 UTC",
            "09:00-16:00 Mon UTC",
            "Mon Tue 09:00-16:00 UTC",
            "Mon CST",
            "Mon +08:00",
            "Mon ../../etc/passwd",
        ] {
            assert!(window(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_deadline_is_one_moment() {
        let at = |text: &str| deadline(text).map(|at| Timestamp::try_from(at).unwrap().to_string());
        let expected = Ok("2026-11-21T23:00:00Z".to_owned());
        for text in ["2026-11-22T07:00:00+08:00", "2026-11-21T23:00:00Z", "2026-11-22 07:00 Asia/Shanghai"] {
            assert_eq!(at(text), expected, "{text}");
        }
        for text in [
            "",
            "tomorrow",
            "2026-11-22",
            "2026-11-22 07:00",
            "2026-11-22T07:00:00",
            "2026-11-22T07:00:00+08:00[UTC]",
            "2026-11-31 07:00 UTC",
            "2026-11-22 24:00 UTC",
            "2026-10-25 02:30 Europe/Berlin",
            "2026-03-29 02:30 Europe/Berlin",
        ] {
            assert!(at(text).is_err(), "{text}");
        }
    }
}
