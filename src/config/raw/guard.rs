//! The guard as it is written.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::{Count, Key, Percent, Rate, Scalar, SlowerThan};

/// What takes NEW away by itself when it hurts users.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Guard {
    /// Whether anything does.
    pub(in crate::config) enabled: bool,
    /// The share of NEW's requests that may fail, above 0 and at most 20 %.
    pub(in crate::config) tolerance: Percent,
    /// Requests on a healthy NEW between two false alarms, on average; at least 100.
    pub(in crate::config) one_false_trip_in: Rate,
    /// From how many different buckets the failures have to come.
    pub(in crate::config) min_distinct: Count,
    /// How many different buckets may see a failure at all. Without it there is no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) max_users_hurt: Option<Count>,
    /// Which answers are failures. That there is no whole answer always is one.
    pub(in crate::config) failures: Failures,
    /// When requests are too slow. Without it they never are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) latency: Option<Latency>,
    /// What is done.
    pub(in crate::config) action: Action,
}

impl Default for Guard {
    fn default() -> Self {
        Self {
            enabled: true,
            tolerance: Percent::new("1%"),
            one_false_trip_in: Rate::new(1e8),
            min_distinct: Count::new(3),
            max_users_hurt: None,
            failures: Failures::default(),
            latency: None,
            action: Action::Rollback,
        }
    }
}

/// Which answers are failures.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Failures {
    /// Statuses and ranges of them: `503`, `500-599`.
    pub(in crate::config) statuses: Statuses,
    /// Values of `grpc-status`: `default` (UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE, DATA_LOSS), `none`, or a list
    /// of names or numbers.
    pub(in crate::config) grpc: Statuses,
    /// A response header by which the service tells of failures that its status does not show. Any value but `ok`, `success`,
    /// `0`, `false` and `none` is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) header: Option<String>,
}

impl Default for Failures {
    fn default() -> Self {
        Self { statuses: Statuses::one("500-599"), grpc: Statuses::one("default"), header: None }
    }
}

/// Statuses by number, range or name: one, or a list.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(in crate::config) enum Statuses {
    /// One.
    One(Key),
    /// Several.
    Many(Vec<Key>),
}

impl Statuses {
    fn one(text: &str) -> Self {
        Self::One(Key(Scalar::Text(text.to_owned())))
    }
}

impl<'de> Deserialize<'de> for Statuses {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StatusesVisitor)
    }
}

struct StatusesVisitor;

impl<'de> Visitor<'de> for StatusesVisitor {
    type Value = Statuses;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a status or a list of them")
    }

    fn visit_i128<E>(self, number: i128) -> Result<Statuses, E> {
        Ok(Statuses::One(Key(Scalar::Integer(number))))
    }

    fn visit_str<E>(self, text: &str) -> Result<Statuses, E> {
        Ok(Statuses::one(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Statuses, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Statuses::Many(items))
    }
}

impl JsonSchema for Statuses {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Statuses".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Statuses by number, range or name: one, or a list.",
            "anyOf": [
                {"type": ["string", "integer"]},
                {"type": "array", "items": {"type": ["string", "integer"]}}
            ]
        })
    }
}

/// When requests are too slow.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["slower_than"]))]
pub(in crate::config) struct Latency {
    /// What is slow, measured to the head of the answer: a duration, or `old_p99` for what is slower than 99 of 100 requests
    /// on OLD in the last minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) slower_than: Option<SlowerThan>,
    /// The share of NEW's requests that may be slow, above 0 and at most 20 %; with `old_p99` at least 2 %.
    pub(in crate::config) tolerance: Percent,
}

impl Default for Latency {
    fn default() -> Self {
        Self { slower_than: None, tolerance: Percent::new("5%") }
    }
}

/// What is done when NEW hurts users.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum Action {
    /// Everybody to OLD until somebody resumes.
    Rollback,
    /// Back to the step before, where the ramp then waits. Only with `steps`.
    StepBack,
    /// The ramp waits where it stands. Only with `steps`.
    HoldStep,
    /// Nothing: it is only told.
    Notify,
}
