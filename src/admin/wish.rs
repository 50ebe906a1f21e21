//! What people may ask for: the bodies of changes, and the commands that they become.

use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::de::{Deserialize, DeserializeOwned, Deserializer};

use super::problem::Problem;
use crate::config;
use crate::policy::actor::Actor;
use crate::policy::bucket::Percent;
use crate::policy::decision::Side;
use crate::policy::rollout::{Command, Gate};
use crate::policy::standing;

/// Who asks, when, and why.
#[derive(Clone, Debug)]
pub(super) struct Deed {
    pub(super) at: SystemTime,
    pub(super) by: Actor,
    pub(super) reason: String,
}

/// A verb of the API.
pub(super) trait Wish: 'static {
    /// What is sent with it.
    type Body: Body;
    /// What it asks of the controller, or what is wrong with it.
    fn command(body: Self::Body, deed: &Deed) -> Result<Command, Problem>;
}

/// What is sent with a verb.
pub(super) trait Body: DeserializeOwned + JsonSchema + Send {
    /// Why it is asked for, if that was said.
    fn reason(&self) -> Option<&str>;
}

/// The wished-for bodies differ; that all of them have a reason does not.
macro_rules! bodies {
    ($($(#[doc = $doc:literal])+ $name:ident ($title:literal) { $($(#[$meta:meta])+ $field:ident: $type:ty,)* })+) => {$(
        $(#[doc = $doc])+
        #[derive(Clone, Debug, serde::Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        #[schemars(rename = $title)]
        pub(super) struct $name {
            $($(#[$meta])+ pub(super) $field: $type,)*
            /// Why; it stands in the audit log. At most 1000 characters.
            #[serde(default)]
            pub(super) reason: Option<String>,
        }

        impl Body for $name {
            fn reason(&self) -> Option<&str> {
                self.reason.as_deref()
            }
        }
    )+};
}

bodies! {
    /// What is sent with verbs that need nothing but a reason.
    ReasonBody("Reason") {}
    /// Puts a percent over the configured one.
    PercentBody("SetPercent") {
        /// The share on NEW: 0 to 100, at most two decimals.
        #[serde(default)]
        #[schemars(required, range(min = 0, max = 100))]
        percent: Option<f64>,
        /// Also if that raises it while the schedule says no.
        #[serde(default)]
        force: bool,
    }
    /// Lifts a rollback.
    ResumeBody("Resume") {
        /// Comes back at this percent instead of the one before.
        #[serde(default)]
        #[schemars(range(min = 0, max = 100))]
        percent: Option<f64>,
    }
    /// Raises to the next step.
    PromoteBody("Promote") {
        /// To 100 % at once.
        #[serde(default)]
        full: bool,
        /// Also while the schedule says no.
        #[serde(default)]
        force: bool,
    }
    /// Turns to the other colour.
    SwitchBody("Switch") {
        /// To the one that served before.
        #[serde(default)]
        back: bool,
        /// Without a look at whether the target is fit to serve, and also while the schedule says no.
        #[serde(default)]
        force: bool,
    }
    /// Turns the public away, or not any more.
    MaintenanceBody("Maintenance") {
        /// Whether it is on from now on.
        #[serde(default = "yes")]
        on: bool,
        /// What people are told, instead of what the config says. Plain text, at most 1000 characters.
        #[serde(default)]
        message: Option<String>,
        /// Serves requests that only read (GET, HEAD, OPTIONS) all the same.
        #[serde(default)]
        read_only: bool,
        /// When clients should come back: a duration such as `30m`, a number of seconds, or an RFC 3339 time.
        #[serde(default)]
        retry_after: Option<RetryAfter>,
    }
    /// Makes requests wait, or not any more.
    HoldBody("Hold") {
        /// Whether it is on from now on.
        #[serde(default = "yes")]
        on: bool,
        /// How long each waits at most, such as `5s`, instead of what the config says.
        #[serde(default)]
        max_wait: Option<String>,
    }
    /// Empties a side, or lets it work again.
    DrainBody("Drain") {
        /// Which: `old` or `new`; null lets it work again.
        #[serde(default, deserialize_with = "told")]
        #[schemars(required, with = "Option<SideName>")]
        side: Option<Option<SideName>>,
        /// With `force`: after how long what still runs is cut off, such as `60s`.
        #[serde(default)]
        deadline: Option<String>,
        /// Cut off what still runs at the deadline. Without it a deadline is one for those who watch.
        #[serde(default)]
        force: bool,
    }
}

fn yes() -> bool {
    true
}

/// Tells a null that was sent from nothing.
fn told<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<SideName>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// When clients should come back.
#[derive(Clone, Debug, serde::Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum RetryAfter {
    /// In so many seconds.
    Seconds(u32),
    /// A duration such as `30m`, or an RFC 3339 time.
    Text(String),
}

/// A side of a rollout.
#[derive(Clone, Copy, Debug, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "Side")]
pub(super) enum SideName {
    /// OLD.
    Old,
    /// NEW.
    New,
}

// -- verbs

/// PUT percent
pub(super) enum Set {}
/// DELETE percent
pub(super) enum Unset {}
/// POST rollback
pub(super) enum Rollback {}
/// POST resume
pub(super) enum Resume {}
/// POST resume of everything, which has no percent
pub(super) enum ResumeAll {}
/// POST promote
pub(super) enum Promote {}
/// POST pause
pub(super) enum Pause {}
/// POST continue
pub(super) enum Continue {}
/// POST switch
pub(super) enum Switch {}
/// POST maintenance
pub(super) enum Maintenance {}
/// POST hold
pub(super) enum Hold {}
/// POST drain
pub(super) enum Drain {}

/// Verbs that say everything by themselves.
macro_rules! plain {
    ($($verb:ident => $command:expr;)+) => {$(
        impl Wish for $verb {
            type Body = ReasonBody;
            fn command(_: ReasonBody, _: &Deed) -> Result<Command, Problem> {
                Ok($command)
            }
        }
    )+};
}

plain! {
    Unset => Command::Unset;
    Rollback => Command::Rollback;
    ResumeAll => Command::Resume { percent: None };
    Pause => Command::Pause;
    Continue => Command::Continue;
}

impl Wish for Set {
    type Body = PercentBody;
    fn command(body: PercentBody, _: &Deed) -> Result<Command, Problem> {
        let missing = || Problem::senseless(format!("`percent` is missing. Allowed: {PERCENTS}."));
        let percent = percent(body.percent.ok_or_else(missing)?)?;
        Ok(Command::Set { percent, force: body.force })
    }
}

impl Wish for Resume {
    type Body = ResumeBody;
    fn command(body: ResumeBody, _: &Deed) -> Result<Command, Problem> {
        Ok(Command::Resume { percent: body.percent.map(percent).transpose()? })
    }
}

impl Wish for Promote {
    type Body = PromoteBody;
    fn command(body: PromoteBody, _: &Deed) -> Result<Command, Problem> {
        Ok(Command::Promote { full: body.full, force: body.force })
    }
}

impl Wish for Switch {
    type Body = SwitchBody;
    fn command(body: SwitchBody, _: &Deed) -> Result<Command, Problem> {
        // The controller looks at the target before it believes that it has passed.
        let gate = if body.force { Gate::Forced } else { Gate::Passed };
        Ok(Command::Switch { back: body.back, gate })
    }
}

impl Wish for Maintenance {
    type Body = MaintenanceBody;
    fn command(body: MaintenanceBody, deed: &Deed) -> Result<Command, Problem> {
        let says_more = body.message.is_some() || body.read_only || body.retry_after.is_some();
        if !body.on && says_more {
            return Err(Problem::senseless("With `on: false` there is nothing else to say but a `reason`."));
        }
        let message = body.message.map(|message| text("message", &message)).transpose()?;
        let retry_after = body.retry_after.as_ref().map(retry_after).transpose()?;
        let Deed { at, by, reason } = deed.clone();
        let wanted = standing::Maintenance { message, read_only: body.read_only, retry_after, at, by, reason };
        Ok(Command::Maintenance(body.on.then_some(wanted)))
    }
}

impl Wish for Hold {
    type Body = HoldBody;
    fn command(body: HoldBody, deed: &Deed) -> Result<Command, Problem> {
        if !body.on && body.max_wait.is_some() {
            return Err(Problem::senseless("With `on: false` there is nothing else to say but a `reason`."));
        }
        let max_wait = body.max_wait.map(|text| duration("max_wait", &text)).transpose()?;
        if max_wait == Some(Duration::ZERO) {
            return Err(Problem::senseless("`max_wait` has to be longer than zero."));
        }
        let Deed { at, by, reason } = deed.clone();
        Ok(Command::Hold(body.on.then_some(standing::Hold { max_wait, at, by, reason })))
    }
}

impl Wish for Drain {
    type Body = DrainBody;
    fn command(body: DrainBody, _: &Deed) -> Result<Command, Problem> {
        let missing = || Problem::senseless("`side` is missing. Allowed: \"old\", \"new\", or null to end a drain.");
        let side = body.side.ok_or_else(missing)?;
        let deadline = body.deadline.map(|text| duration("deadline", &text)).transpose()?;
        if side.is_none() && (deadline.is_some() || body.force) {
            return Err(Problem::senseless("Without a `side` there is nothing else to say but a `reason`."));
        }
        if body.force && deadline.is_none() {
            return Err(Problem::senseless(
                "`force` needs a `deadline`: when to cut off what still runs, such as 60s.",
            ));
        }
        let side = side.map(|side| match side {
            SideName::Old => Side::Old,
            SideName::New => Side::New,
        });
        Ok(Command::Drain { side, cut_in: deadline.filter(|_| body.force) })
    }
}

// -- values

const PERCENTS: &str = "0 to 100, at most two decimals, such as 5 or 12.5";
/// Characters of a text that people wrote.
const LONGEST_TEXT: usize = 1000;

fn percent(number: f64) -> Result<Percent, Problem> {
    let wrong = match number {
        _ if number > 100.0 => "is above 100",
        _ if number < 0.0 => "is below 0",
        _ => "has more than two decimals",
    };
    Percent::from_f64(number)
        .ok_or_else(|| Problem::senseless(format!("`percent` {wrong}: {number:?}. Allowed: {PERCENTS}.")))
}

/// A text that is shown to people: in terminals, logs and pages.
pub(super) fn text(field: &str, written: &str) -> Result<String, Problem> {
    if written.chars().count() > LONGEST_TEXT {
        return Err(Problem::senseless(format!("`{field}` is longer than {LONGEST_TEXT} characters.")));
    }
    let is_line = field != "message";
    // Marks that reorder text (Unicode UAX #9) would have an audit log say something else than it does.
    let reorders = |c| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    match written.chars().any(|c| reorders(c) || (c.is_control() && (is_line || c != '\n'))) {
        true => Err(Problem::senseless(format!("`{field}` holds control characters."))),
        false => Ok(written.to_owned()),
    }
}

fn duration(field: &str, written: &str) -> Result<Duration, Problem> {
    config::duration(written).ok_or_else(|| {
        Problem::senseless(format!(
            "`{field}` is not a duration. Allowed: a whole number and its unit, such as 250ms, 10s, 30m or 24h."
        ))
    })
}

fn retry_after(written: &RetryAfter) -> Result<standing::RetryAfter, Problem> {
    let text = match written {
        RetryAfter::Seconds(seconds) => return Ok(standing::RetryAfter::In(Duration::from_secs(u64::from(*seconds)))),
        RetryAfter::Text(text) => text,
    };
    let time = || Some(standing::RetryAfter::At(SystemTime::from(text.parse::<Timestamp>().ok()?)));
    config::duration(text).map(standing::RetryAfter::In).or_else(time).ok_or_else(|| {
        Problem::senseless("`retry_after` is no time. Allowed: 30m, a number of seconds, or 2026-11-21T04:05:06Z.")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::actor::Source;
    use serde_json::{Value, json};

    fn asked<W: Wish>(body: Value) -> Result<Command, String> {
        let deed =
            Deed { at: SystemTime::UNIX_EPOCH, by: Actor::new(Source::Operator, "alice"), reason: "INC-7".into() };
        let body: W::Body = serde_json::from_value(body).map_err(|error| error.to_string())?;
        W::command(body, &deed).map_err(|problem| serde_json::to_value(problem).unwrap()["detail"].to_string())
    }

    #[test]
    fn a_percent_is_exact_or_refused() {
        for (number, hundredths) in [(json!(0), 0), (json!(25), 2500), (json!(12.5), 1250), (json!(0.01), 1)] {
            let percent = Percent::from_hundredths(hundredths).unwrap();
            assert_eq!(asked::<Set>(json!({"percent": number})), Ok(Command::Set { percent, force: false }));
        }
        for (body, says) in [
            (json!({}), "`percent` is missing"),
            (json!({"percent": 100.01}), "above 100: 100.01. Allowed: 0 to 100"),
            (json!({"percent": -1}), "below 0"),
            (json!({"percent": 12.345}), "more than two decimals"),
            (json!({"percent": 1e300}), "above 100"),
        ] {
            let told = asked::<Set>(body.clone()).unwrap_err();
            assert!(told.contains(says), "{body}: {told}");
        }
    }

    #[test]
    fn maintenance_says_when_to_come_back_in_three_ways() {
        use standing::RetryAfter::{At, In};
        for (written, meant) in [
            (json!("30m"), In(Duration::from_secs(1800))),
            (json!(90), In(Duration::from_secs(90))),
            (json!("1970-01-02T00:00:00Z"), At(SystemTime::UNIX_EPOCH + Duration::from_secs(86_400))),
        ] {
            let Ok(Command::Maintenance(Some(asked))) = asked::<Maintenance>(json!({"retry_after": written})) else {
                panic!("{written}")
            };
            assert_eq!((asked.retry_after, asked.reason.as_str()), (Some(meant), "INC-7"));
        }
        assert_eq!(asked::<Maintenance>(json!({"on": false})), Ok(Command::Maintenance(None)));
        for (body, says) in [
            (json!({"retry_after": "soon"}), "is no time"),
            (json!({"message": "\u{1b}[2J"}), "control characters"),
            (json!({"message": "x".repeat(1001)}), "longer than 1000"),
            (json!({"on": false, "read_only": true}), "nothing else to say"),
        ] {
            let told = asked::<Maintenance>(body.clone()).unwrap_err();
            assert!(told.contains(says), "{body}: {told}");
        }
    }

    #[test]
    fn a_drain_cuts_off_only_what_it_was_told_to() {
        let cut_in = Some(Duration::from_secs(60));
        for (body, command) in [
            (json!({"side": "new"}), Command::Drain { side: Some(Side::New), cut_in: None }),
            (json!({"side": "old", "deadline": "60s"}), Command::Drain { side: Some(Side::Old), cut_in: None }),
            (
                json!({"side": "old", "deadline": "60s", "force": true}),
                Command::Drain { side: Some(Side::Old), cut_in },
            ),
            (json!({"side": null}), Command::Drain { side: None, cut_in: None }),
        ] {
            assert_eq!(asked::<Drain>(body.clone()), Ok(command), "{body}");
        }
        for body in [json!({}), json!({"side": "new", "force": true}), json!({"side": null, "force": true})] {
            assert!(asked::<Drain>(body.clone()).is_err(), "{body}");
        }
        for body in [json!({"max_wait": "5"}), json!({"max_wait": "0s"}), json!({"on": false, "max_wait": "5s"})] {
            assert!(asked::<Hold>(body.clone()).is_err(), "{body}");
        }
    }
}
