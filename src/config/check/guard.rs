//! What takes NEW away when it hurts users.

use std::ops::RangeInclusive;
use std::sync::Arc;

use super::Checker;
use crate::config::document::Place;
use crate::config::error::Complaint;
use crate::config::raw::{self, Scalar};
use crate::config::value::{self, Checked};
use crate::config::{Guard, Latency, SlowerThan};
use crate::policy::bucket::{BUCKETS, Percent};
use crate::policy::grpc::Status;
use crate::policy::guard::{Limits, requests_to_see};
use crate::policy::outcome::Failures;
use crate::policy::rollout::Action;

/// More failures than this nobody means to tolerate.
const MOST_TOLERATED: f64 = 20.0;
/// Of OLD's own requests 1 % is slower than its p99.
const LEAST_OVER_P99: f64 = 2.0;

impl Checker<'_> {
    /// The guard of the rollout `raw`, which looks for `failures`; inside, `None` if it wants none.
    #[expect(clippy::option_option, reason = "outside: whether it could be checked; inside: whether there is one")]
    pub(super) fn guard(
        &mut self,
        place: &Place,
        rollout: &raw::Rollout,
        failures: Option<Arc<Failures>>,
    ) -> Option<Option<Guard>> {
        let raw = &rollout.guard;
        let tolerance = self.tolerance(&place.key("tolerance"), &raw.tolerance, 0.0);
        let one_false_trip_in = self.faults.take(&place.key("one_false_trip_in"), rate(&raw.one_false_trip_in));
        let buckets = 1..=u64::from(BUCKETS);
        let min_distinct = value::count(&raw.min_distinct.0, 1..=64);
        let min_distinct = self.faults.take(&place.key("min_distinct"), min_distinct);
        let max_users_hurt = raw.max_users_hurt.as_ref().map(|count| value::count(&count.0, buckets)).transpose();
        let max_users_hurt = self.faults.take(&place.key("max_users_hurt"), max_users_hurt);
        let queries = self.queries(&place.key("queries"), &raw.queries);
        let action = self.action(&place.key("action"), rollout);
        let limits =
            Limits { tolerance: tolerance?, one_false_trip_in: one_false_trip_in?, min_distinct: min_distinct? };
        let latency = match &raw.latency {
            Some(latency) => Some(self.latency(&place.key("latency"), latency, &limits)?),
            None => None,
        };
        let (failures, max_users_hurt) = (failures?, max_users_hurt?);
        let evidence = requests_to_see(&limits, limits.tolerance * 2.0);
        let guard = Guard { limits, failures, latency, max_users_hurt, queries, action: action?, evidence };
        Some(raw.enabled.then_some(guard))
    }

    /// A share from 0 to 1.
    fn tolerance(&mut self, place: &Place, written: &raw::Percent, least: f64) -> Option<f64> {
        let percent = self.faults.take(place, value::percent(written)).map(Percent::as_f64)?;
        let is_allowed = percent > 0.0 && percent >= least && percent <= MOST_TOLERATED;
        let allowed = match least {
            0.0 => format!("above 0, at most {MOST_TOLERATED} %"),
            _ => format!("{least} % to {MOST_TOLERATED} %"),
        };
        let complaint = || Complaint::new("this share cannot be tolerated").allowed(allowed);
        self.faults.take(place, is_allowed.then_some(percent / 100.0).ok_or_else(complaint))
    }

    fn latency(&mut self, place: &Place, raw: &raw::Latency, of_failures: &Limits) -> Option<Latency> {
        let written = self.required(place, "slower_than", raw.slower_than.as_ref(), "a duration, or old_p99")?;
        let slower_than = self.faults.take(&place.key("slower_than"), slower_than(written))?;
        let least = if slower_than == SlowerThan::P99OfOld { LEAST_OVER_P99 } else { 0.0 };
        let tolerance = self.tolerance(&place.key("tolerance"), &raw.tolerance, least)?;
        Some(Latency { slower_than, limits: Limits { tolerance, ..of_failures.clone() } })
    }

    /// Which answers are failures: for the guard, and for the shield.
    pub(super) fn failures(&mut self, place: &Place, raw: &raw::Failures) -> Option<Arc<Failures>> {
        let statuses = self.statuses(&place.key("statuses"), &raw.statuses);
        let grpc = self.grpc(&place.key("grpc"), &raw.grpc);
        let header = raw.header.as_deref().map(value::header_name).transpose();
        let header = self.faults.take(&place.key("header"), header);
        Some(Arc::new(Failures { statuses, grpc, header: header? }))
    }

    fn statuses(&mut self, place: &Place, written: &raw::Statuses) -> Vec<RangeInclusive<u16>> {
        self.each(place, written, statuses)
    }

    fn grpc(&mut self, place: &Place, written: &raw::Statuses) -> Vec<u8> {
        match written {
            raw::Statuses::One(word) if text(word) == "default" => Failures::GRPC.to_vec(),
            raw::Statuses::One(word) if text(word) == "none" => Vec::new(),
            _ => self.each(place, written, grpc_status),
        }
    }

    /// What `read` makes of each of them.
    fn each<T>(&mut self, place: &Place, written: &raw::Statuses, read: impl Fn(&str) -> Checked<T>) -> Vec<T> {
        match written {
            raw::Statuses::One(one) => self.faults.take(place, read(&text(one))).into_iter().collect(),
            raw::Statuses::Many(many) => self.faults.take_all(place, many, |one| read(&text(one))),
        }
    }

    fn action(&mut self, place: &Place, rollout: &raw::Rollout) -> Option<Action> {
        let action = Action::from(rollout.guard.action);
        let needs_steps = matches!(action, Action::StepBack | Action::HoldStep);
        if needs_steps && rollout.steps.is_none() {
            let complaint = Complaint::new(format!("`{}` has no meaning without `steps`", action.as_str()));
            self.faults
                .add(place.clone(), complaint.allowed("rollback, notify; with `steps` also step_back, hold_step"));
            return None;
        }
        Some(action)
    }
}

fn rate(written: &raw::Rate) -> Checked<f64> {
    const RATES: RangeInclusive<f64> = 100.0..=1e15;
    let number = match &written.0 {
        #[expect(clippy::cast_precision_loss, reason = "nobody means the last digits of a number that large")]
        Scalar::Integer(number) => Some(*number as f64),
        Scalar::Float(number) => Some(*number),
        Scalar::Text(text) => text.parse().ok(), // YAML takes 1e8 for a text
    };
    let complaint = || Complaint::new("this is not a number of requests").allowed("100 to 1e15, such as 1e8");
    number.filter(|number| RATES.contains(number)).ok_or_else(complaint)
}

fn slower_than(written: &raw::SlowerThan) -> Checked<SlowerThan> {
    match &written.0 {
        Scalar::Text(text) if text == "old_p99" => Ok(SlowerThan::P99OfOld),
        scalar => match value::timeout(&raw::Duration(scalar.clone())) {
            Ok(bound) => Ok(SlowerThan::Fixed(bound)),
            Err(complaint) => Err(complaint.allowed("a duration such as 800ms, or old_p99")),
        },
    }
}

fn text(written: &raw::Key) -> String {
    match &written.0 {
        Scalar::Integer(number) => number.to_string(),
        Scalar::Float(number) => number.to_string(),
        Scalar::Text(text) => text.clone(),
    }
}

/// `503`, or `500-599`.
fn statuses(text: &str) -> Checked<RangeInclusive<u16>> {
    let number = |text: &str| text.trim().parse().ok().filter(|status| (100..=599).contains(status));
    let range = match text.split_once('-') {
        Some((first, last)) => number(first).zip(number(last)).map(|(first, last)| first..=last),
        None => number(text).map(|status| status..=status),
    };
    let complaint = || Complaint::new("this is not a status").allowed("a status or a range, such as 503 or 500-599");
    range.filter(|range| !range.is_empty()).ok_or_else(complaint)
}

/// A gRPC status other than OK, by name or number.
fn grpc_status(text: &str) -> Checked<u8> {
    let known = || Status::ALL.into_iter().filter(|status| !matches!(status, Status::Ok | Status::Other));
    let by_name = known().find(|status| status.as_str().eq_ignore_ascii_case(text)).map(Status::number);
    let number = by_name.or_else(|| text.parse().ok());
    let complaint = || {
        let complaint = Complaint::new("this is not a gRPC status that can be a failure");
        complaint
            .allowed("default, none, 1 to 16, or names such as UNAVAILABLE")
            .did_you_mean(text, known().map(Status::as_str))
    };
    number.filter(|number| (1..=16).contains(number)).ok_or_else(complaint)
}

impl From<raw::Action> for Action {
    fn from(written: raw::Action) -> Self {
        match written {
            raw::Action::Rollback => Self::Rollback,
            raw::Action::StepBack => Self::StepBack,
            raw::Action::HoldStep => Self::HoldStep,
            raw::Action::Notify => Self::Notify,
        }
    }
}
