//! How a rollout moves people: by a percent, by steps, or between two colours. Each strategy has its own keys.

use super::Checker;
use crate::config::document::Place;
use crate::config::error::Complaint;
use crate::config::raw;
use crate::config::value;
use crate::policy::bucket::Percent;
use crate::policy::decision::Side;
use crate::policy::ramp::Step;
use crate::policy::rollout::{Color, Strategy};

/// A ramp of more would be one that nobody reads.
const MOST_STEPS: usize = 100;

impl raw::Rollout {
    pub(super) fn is_blue_green(&self) -> bool {
        self.strategy == raw::Strategy::BlueGreen
    }

    /// The key that names the backend on `side`, and what is written there.
    pub(super) fn side(&self, side: Side) -> (&'static str, Option<&str>) {
        match (side, self.is_blue_green()) {
            (Side::Old, false) => ("old", self.old.as_deref()),
            (Side::New, false) => ("new", self.new.as_deref()),
            (Side::Old, true) => ("blue", self.blue.as_deref()),
            (Side::New, true) => ("green", self.green.as_deref()),
        }
    }

    /// The keys of the other strategy that are given all the same.
    fn strange_keys(&self) -> Vec<&'static str> {
        let given = match self.is_blue_green() {
            true => vec![
                ("old", self.old.is_some()),
                ("new", self.new.is_some()),
                ("percent", self.percent.is_some()),
                ("steps", self.steps.is_some()),
            ],
            false => {
                vec![("blue", self.blue.is_some()), ("green", self.green.is_some()), ("active", self.active.is_some())]
            }
        };
        given.into_iter().filter(|(_, is_given)| *is_given).map(|(key, _)| key).collect()
    }
}

impl Checker<'_> {
    /// Whether all keys are of one strategy; complains if not.
    pub(super) fn strategies_are_apart(&mut self, place: &Place, raw: &raw::Rollout) -> bool {
        let strange = raw.strange_keys();
        for key in &strange {
            let (word, help) = match (*key, raw.is_blue_green()) {
                (_, false) => ("without", "add strategy: blue_green, or use `old`, `new` and `percent`"),
                ("old" | "new", true) => ("with", "name the backends in `blue` and `green`"),
                (_, true) => ("with", "`active` says which colour serves"),
            };
            let complaint = Complaint::new(format!("`{key}` has no meaning {word} `strategy: blue_green`"));
            self.faults.add(place.key(key).as_key(), complaint.help(help));
        }
        strange.is_empty()
    }

    pub(super) fn strategy(&mut self, place: &Place, raw: &raw::Rollout) -> Option<Strategy> {
        match (raw.is_blue_green(), &raw.percent, &raw.steps) {
            (true, ..) => {
                let active = self.required(place, "active", raw.active.as_ref(), "blue or green")?;
                Some(Strategy::BlueGreen { active: (*active).into() })
            }
            (false, Some(_), Some(_)) => {
                let complaint = Complaint::new("`percent` and `steps` are given together; only one of them may be");
                self.faults.add(place.key("steps").as_key(), complaint.help("keep `percent` or `steps`"));
                None
            }
            (false, Some(percent), None) => {
                self.faults.take(&place.key("percent"), value::percent(percent)).map(Strategy::Percent)
            }
            (false, None, Some(steps)) => self.steps(&place.key("steps"), steps).map(Strategy::Steps),
            (false, None, None) => Some(Strategy::Percent(Percent::ZERO)),
        }
    }

    fn steps(&mut self, place: &Place, written: &[raw::Step]) -> Option<Vec<Step>> {
        if !(1..=MOST_STEPS).contains(&written.len()) {
            let amount =
                if written.is_empty() { "a ramp needs at least one step" } else { "this ramp has too many steps" };
            self.faults.add(place.clone(), Complaint::new(amount).allowed(format!("1 to {MOST_STEPS} steps")));
            return None;
        }
        let mut steps: Vec<Step> = Vec::new();
        for (at, raw) in written.iter().enumerate() {
            let step = self.step(&place.item(at), raw, steps.last().map_or(Percent::ZERO, |step| step.percent))?;
            steps.push(step);
        }
        Some(steps)
    }

    /// One step, which has to be above `before`.
    fn step(&mut self, place: &Place, raw: &raw::Step, before: Percent) -> Option<Step> {
        let hold = self.faults.take(&place.key("hold"), value::step_hold(&raw.hold));
        let requests = value::amount(&raw.min_requests);
        let min_requests = self.faults.take(&place.key("min_requests"), requests);
        let percent = self.required(place, "percent", raw.percent.as_ref(), "the share of keys on new, above 0")?;
        let place = place.key("percent");
        let percent = self.faults.take(&place, value::percent(percent))?;
        if percent <= before {
            let complaint = match before {
                Percent::ZERO => Complaint::new("a step is above 0"),
                _ => Complaint::new("each step is above the one before"),
            };
            self.faults.add(place, complaint.allowed(format!("above {before}")));
        }
        Some(Step { percent, hold: hold?, min_requests: min_requests? })
    }
}

impl From<raw::Color> for Color {
    fn from(written: raw::Color) -> Self {
        match written {
            raw::Color::Blue => Self::Blue,
            raw::Color::Green => Self::Green,
        }
    }
}
