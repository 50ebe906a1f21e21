//! What outlives a restart, as it stands in the state file.
//!
//! The policy's own types know nothing of files, so they are written as these and read back from these. What cannot be read
//! back (a word that this version does not know) makes the whole file unbelievable: half a state is worse than none.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::policy::actor::{Actor, Source};
use crate::policy::bucket::Percent;
use crate::policy::decision::Side;
use crate::policy::drain::Drain;
use crate::policy::latch::{Door, Latch};
use crate::policy::ramp::Position;
use crate::policy::rollout::{Color, Colors, Override, State};
use crate::policy::standing::{Hold, Maintenance, RetryAfter, Standing};
use crate::snapshot::Overlay;

/// Everything that people, files and the clock did to the rollouts and that still matters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    #[serde(default)]
    everything: StandingMemory,
    #[serde(default)]
    routes: BTreeMap<String, StandingMemory>,
    rollouts: BTreeMap<String, RolloutMemory>,
}

/// Something in a state file that this version does not know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the state says `{0}`, which this version of tidegate does not know")]
pub struct Unknown(String);

impl Memory {
    /// What has to be remembered of `overlay`.
    #[must_use]
    pub fn of(overlay: &Overlay) -> Self {
        let named = |(name, standing): (&String, &Standing)| (name.clone(), StandingMemory::of(standing));
        Self {
            everything: StandingMemory::of(&overlay.everything),
            routes: overlay.routes.iter().map(named).collect(),
            rollouts: overlay.rollouts.iter().map(|(name, state)| (name.clone(), RolloutMemory::of(state))).collect(),
        }
    }

    /// What was remembered.
    ///
    /// # Errors
    /// [`Unknown`], if another version wrote it.
    pub fn recall(self) -> Result<Overlay, Unknown> {
        let routes = self.routes.into_iter().map(|(name, standing)| Ok((name, standing.recall()?)));
        let rollouts = self.rollouts.into_iter().map(|(name, state)| Ok((name, state.recall()?)));
        Ok(Overlay {
            everything: self.everything.recall()?,
            routes: routes.collect::<Result<_, _>>()?,
            rollouts: rollouts.collect::<Result<_, _>>()?,
            ..Overlay::default()
        })
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RolloutMemory {
    version: u64,
    last_latch: u64,
    latches: Vec<LatchMemory>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    overridden: Option<OverrideMemory>,
    position: PositionMemory,
    colors: ColorsMemory,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    drain: Option<DrainMemory>,
    #[serde(default)]
    standing: StandingMemory,
    #[serde(default)]
    acknowledged: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    settled_deadline: Option<Millis>,
}

impl RolloutMemory {
    fn of(state: &State) -> Self {
        Self {
            version: state.version,
            last_latch: state.last_latch,
            latches: state.latches.iter().map(LatchMemory::of).collect(),
            overridden: state.overridden.as_ref().map(OverrideMemory::of),
            position: PositionMemory::of(&state.position),
            colors: ColorsMemory::of(state.colors),
            drain: state.drain.as_ref().map(DrainMemory::of),
            standing: StandingMemory::of(&state.standing),
            acknowledged: state.acknowledged.clone(),
            settled_deadline: state.settled_deadline.map(millis),
        }
    }

    fn recall(self) -> Result<State, Unknown> {
        Ok(State {
            version: self.version,
            last_latch: self.last_latch,
            latches: self.latches.into_iter().map(LatchMemory::recall).collect::<Result<_, _>>()?,
            overridden: self.overridden.map(OverrideMemory::recall).transpose()?,
            position: self.position.recall()?,
            colors: self.colors.recall()?,
            drain: self.drain.map(DrainMemory::recall).transpose()?,
            standing: self.standing.recall()?,
            acknowledged: self.acknowledged,
            settled_deadline: self.settled_deadline.map(time),
            flagged: false, // looked at anew
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct LatchMemory {
    id: String,
    door: String,
    #[serde(flatten)]
    act: ActMemory,
}

impl LatchMemory {
    fn of(latch: &Latch) -> Self {
        let act = ActMemory::of(latch.at, &latch.by, &latch.reason);
        Self { id: latch.id.clone(), door: latch.door.as_str().to_owned(), act }
    }

    fn recall(self) -> Result<Latch, Unknown> {
        let door = known(Door::ALL, Door::as_str, self.door)?;
        let (at, by, reason) = self.act.recall()?;
        Ok(Latch { id: self.id, door, at, by, reason })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct OverrideMemory {
    percent: u16,
    over: u16,
    #[serde(flatten)]
    act: ActMemory,
}

impl OverrideMemory {
    fn of(over: &Override) -> Self {
        let act = ActMemory::of(over.at, &over.by, &over.reason);
        Self { percent: over.percent.hundredths(), over: over.over.hundredths(), act }
    }

    fn recall(self) -> Result<Override, Unknown> {
        let (at, by, reason) = self.act.recall()?;
        Ok(Override { percent: percent(self.percent)?, over: percent(self.over)?, at, by, reason })
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PositionMemory {
    step: usize,
    percent: u16,
    held_ms: Millis,
    requests: u64,
    #[serde(default)]
    judged: u64,
    paused: bool,
}

impl PositionMemory {
    fn of(position: &Position) -> Self {
        Self {
            step: position.step,
            percent: position.percent.hundredths(),
            held_ms: whole(position.held),
            requests: position.requests,
            judged: position.judged,
            paused: position.paused,
        }
    }

    fn recall(self) -> Result<Position, Unknown> {
        let held = Duration::from_millis(self.held_ms);
        let percent = percent(self.percent)?;
        let Self { step, requests, judged, paused, .. } = self;
        Ok(Position { step, percent, held, requests, judged, paused })
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ColorsMemory {
    old: String,
    active: String,
    configured: String,
}

impl ColorsMemory {
    fn of(colors: Colors) -> Self {
        let [old, active, configured] =
            [colors.old, colors.active, colors.configured].map(|color| color.as_str().to_owned());
        Self { old, active, configured }
    }

    fn recall(self) -> Result<Colors, Unknown> {
        let color = |name: String| Color::named(&name).ok_or(Unknown(name));
        Ok(Colors { old: color(self.old)?, active: color(self.active)?, configured: color(self.configured)? })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct DrainMemory {
    side: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cut_in_ms: Option<Millis>,
    #[serde(flatten)]
    act: ActMemory,
}

impl DrainMemory {
    fn of(drain: &Drain) -> Self {
        Self {
            side: drain.side.as_str().to_owned(),
            cut_in_ms: drain.cut_in.map(whole),
            act: ActMemory::of(drain.at, &drain.by, &drain.reason),
        }
    }

    fn recall(self) -> Result<Drain, Unknown> {
        let side = known(Side::ALL, Side::as_str, self.side)?;
        let (at, by, reason) = self.act.recall()?;
        Ok(Drain { side, cut_in: self.cut_in_ms.map(Duration::from_millis), at, by, reason })
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StandingMemory {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    maintenance: Option<MaintenanceMemory>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hold: Option<HoldMemory>,
}

impl StandingMemory {
    fn of(standing: &Standing) -> Self {
        Self {
            maintenance: standing.maintenance.as_ref().map(MaintenanceMemory::of),
            hold: standing.hold.as_ref().map(HoldMemory::of),
        }
    }

    fn recall(self) -> Result<Standing, Unknown> {
        Ok(Standing {
            maintenance: self.maintenance.map(MaintenanceMemory::recall).transpose()?,
            hold: self.hold.map(HoldMemory::recall).transpose()?,
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct MaintenanceMemory {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    read_only: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retry_after: Option<RetryMemory>,
    #[serde(flatten)]
    act: ActMemory,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RetryMemory {
    InMs(Millis),
    AtMs(Millis),
}

impl MaintenanceMemory {
    fn of(maintenance: &Maintenance) -> Self {
        let retry = |retry| match retry {
            RetryAfter::In(wait) => RetryMemory::InMs(whole(wait)),
            RetryAfter::At(at) => RetryMemory::AtMs(millis(at)),
        };
        Self {
            message: maintenance.message.clone(),
            read_only: maintenance.read_only,
            retry_after: maintenance.retry_after.map(retry),
            act: ActMemory::of(maintenance.at, &maintenance.by, &maintenance.reason),
        }
    }

    fn recall(self) -> Result<Maintenance, Unknown> {
        let retry = |retry| match retry {
            RetryMemory::InMs(wait) => RetryAfter::In(Duration::from_millis(wait)),
            RetryMemory::AtMs(at) => RetryAfter::At(time(at)),
        };
        let (at, by, reason) = self.act.recall()?;
        let retry_after = self.retry_after.map(retry);
        Ok(Maintenance { message: self.message, read_only: self.read_only, retry_after, at, by, reason })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct HoldMemory {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_wait_ms: Option<Millis>,
    #[serde(flatten)]
    act: ActMemory,
}

impl HoldMemory {
    fn of(hold: &Hold) -> Self {
        Self { max_wait_ms: hold.max_wait.map(whole), act: ActMemory::of(hold.at, &hold.by, &hold.reason) }
    }

    fn recall(self) -> Result<Hold, Unknown> {
        let (at, by, reason) = self.act.recall()?;
        Ok(Hold { max_wait: self.max_wait_ms.map(Duration::from_millis), at, by, reason })
    }
}

/// Who did something, when and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct ActMemory {
    at_ms: Millis,
    source: String,
    by: String,
    reason: String,
}

impl ActMemory {
    fn of(at: SystemTime, by: &Actor, reason: &str) -> Self {
        let source = by.source.as_str().to_owned();
        Self { at_ms: millis(at), source, by: by.name.clone(), reason: reason.to_owned() }
    }

    fn recall(self) -> Result<(SystemTime, Actor, String), Unknown> {
        let source = known(Source::ALL, Source::as_str, self.source)?;
        Ok((time(self.at_ms), Actor { source, name: self.by }, self.reason))
    }
}

/// Milliseconds, of a duration or since 1970.
type Millis = u64;

fn millis(at: SystemTime) -> Millis {
    whole(at.duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn whole(duration: Duration) -> Millis {
    Millis::try_from(duration.as_millis()).unwrap_or(Millis::MAX)
}

/// A time that no clock can tell is the beginning of time: it is shown, and nothing is decided by it.
fn time(millis: Millis) -> SystemTime {
    UNIX_EPOCH.checked_add(Duration::from_millis(millis)).unwrap_or(UNIX_EPOCH)
}

fn percent(hundredths: u16) -> Result<Percent, Unknown> {
    Percent::from_hundredths(hundredths).ok_or_else(|| Unknown(hundredths.to_string()))
}

/// The one of `all` that is called `name`.
fn known<T: Copy, const N: usize>(all: [T; N], as_str: impl Fn(T) -> &'static str, name: String) -> Result<T, Unknown> {
    all.into_iter().find(|one| as_str(*one) == name).ok_or(Unknown(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn busy() -> State {
        let by = Actor::new(Source::Operator, "alice");
        let percent = |p| Percent::from_hundredths(p).unwrap();
        let reason = "INC-7".to_owned();
        let maintenance = Maintenance {
            message: Some("Back soon".into()),
            read_only: true,
            retry_after: Some(RetryAfter::At(at(90))),
            at: at(3),
            by: by.clone(),
            reason: reason.clone(),
        };
        let hold =
            Hold { max_wait: Some(Duration::from_millis(1500)), at: at(4), by: by.clone(), reason: reason.clone() };
        State {
            version: 7,
            latches: vec![Latch {
                id: "ledger-3".into(),
                door: Door::Deadline,
                at: at(1),
                by: by.clone(),
                reason: reason.clone(),
            }],
            last_latch: 3,
            overridden: Some(Override {
                percent: percent(1250),
                over: percent(500),
                at: at(2),
                by: by.clone(),
                reason: reason.clone(),
            }),
            position: Position {
                step: 2,
                percent: percent(500),
                held: Duration::from_millis(61_500),
                requests: 9,
                judged: 8,
                paused: true,
            },
            colors: Colors { old: Color::Green, active: Color::Blue, configured: Color::Green },
            drain: Some(Drain { side: Side::New, cut_in: Some(Duration::from_secs(5)), at: at(5), by, reason }),
            standing: Standing { maintenance: Some(maintenance), hold: Some(hold) },
            acknowledged: vec!["ledger-2".into()],
            settled_deadline: Some(at(6)),
            flagged: false,
        }
    }

    fn overlay() -> Overlay {
        let standing = busy().standing;
        Overlay {
            rollouts: [("ledger".to_owned(), busy()), ("cards".to_owned(), State::default())].into(),
            everything: standing.clone(),
            routes: [("reports".to_owned(), standing)].into(),
            ..Overlay::default()
        }
    }

    #[test]
    fn what_is_remembered_is_recalled() {
        let written = serde_json::to_string(&Memory::of(&overlay())).unwrap();
        let recalled = serde_json::from_str::<Memory>(&written).unwrap().recall().unwrap();
        assert_eq!(recalled.rollouts, overlay().rollouts);
        assert_eq!((recalled.everything, recalled.routes), (overlay().everything, overlay().routes));
    }

    #[test]
    fn a_word_that_is_not_known_makes_the_whole_unbelievable() {
        let written = serde_json::to_string(&Memory::of(&overlay())).unwrap();
        for (word, other) in [("\"deadline\"", "\"oracle\""), ("\"green\"", "\"red\""), ("1250", "12500")] {
            let changed = written.replacen(word, other, 1);
            assert_ne!(changed, written);
            let memory: Memory = serde_json::from_str(&changed).unwrap();
            assert_eq!(memory.recall().unwrap_err().0, other.trim_matches('"'));
        }
        let with_more = written.replacen("\"version\"", "\"mood\":1,\"version\"", 1);
        assert!(serde_json::from_str::<Memory>(&with_more).is_err());
    }
}
