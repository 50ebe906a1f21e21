//! Single values as they are written, each with its own schema.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

/// A number, a boolean or a text, before it is known what it means.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub(in crate::config) enum Scalar {
    Integer(i128),
    Float(f64),
    Text(String),
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarVisitor)
    }
}

struct ScalarVisitor;

impl Visitor<'_> for ScalarVisitor {
    type Value = Scalar;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number or a text")
    }

    fn visit_i128<E>(self, value: i128) -> Result<Scalar, E> {
        Ok(Scalar::Integer(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Scalar, E> {
        Ok(Scalar::Float(value))
    }

    fn visit_str<E>(self, text: &str) -> Result<Scalar, E> {
        Ok(Scalar::Text(text.to_owned()))
    }
}

/// Scalars that differ in meaning: each is a type of its own with a schema of its own.
macro_rules! scalars {
    ($($(#[doc = $doc:literal])+ $name:ident, $schema:tt;)+) => {$(
        $(#[doc = $doc])+
        #[derive(Clone, Debug, Deserialize, Serialize)]
        #[serde(transparent)]
        pub(in crate::config) struct $name(pub(in crate::config) Scalar);

        impl JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    )+};
}

scalars! {
    /// A whole number and its unit: `250ms`, `10s`, `30m` or `24h`.
    Duration, {
        "description": "A whole number and its unit, such as 250ms, 10s, 30m or 24h.",
        "type": "string",
        "pattern": "^[0-9]+(ms|s|m|h)$"
    };
    /// Bytes, or a whole number and its unit: `64KiB` (1024), `10MB` (1000).
    Size, {
        "description": "Bytes, or a whole number and its unit: 64KiB (times 1024) or 10MB (times 1000).",
        "anyOf": [
            {"type": "integer", "minimum": 0},
            {"type": "string", "pattern": "^[0-9]+ ?(B|[kK]B|KiB|MB|MiB|GB|GiB)?$"}
        ]
    };
    /// `5`, `12.5` or `5%`, from 0 to 100 with at most two decimals.
    Percent, {
        "description": "From 0 to 100 with at most two decimals: 5, 12.5 or \"5%\".",
        "anyOf": [
            {"type": "number", "minimum": 0, "maximum": 100},
            {"type": "string", "pattern": "^[0-9]{1,3}([.][0-9]{1,2})? ?%?$"}
        ]
    };
    /// A whole number above zero.
    Count, {"description": "A whole number above zero.", "type": "integer", "minimum": 1};
    /// A whole number, zero or above.
    Amount, {"description": "A whole number, zero or above.", "type": "integer", "minimum": 0};
    /// How long a step lasts at least, such as `10m`, or `manual`: until somebody promotes it.
    StepHold, {
        "description": "How long a step lasts at least, such as 10m, or manual: until somebody promotes it.",
        "anyOf": [{"type": "string", "pattern": "^[0-9]+(ms|s|m|h)$"}, {"const": "manual"}]
    };
    /// A whole number above zero, or `auto`.
    Workers, {
        "description": "A whole number above zero, or auto.",
        "anyOf": [{"type": "integer", "minimum": 1, "maximum": 1024}, {"const": "auto"}]
    };
    /// A number, such as `100000000` or `1e8`.
    Rate, {"description": "A number, such as 100000000 or 1e8.", "type": ["number", "string"], "minimum": 100};
    /// A duration, or `old_p99`.
    SlowerThan, {
        "description": "A whole number and its unit, such as 800ms, or old_p99.",
        "anyOf": [{"type": "string", "pattern": "^[0-9]+(ms|s|m|h)$"}, {"const": "old_p99"}]
    };
    /// A key as it arrives in a request: a text or a whole number.
    Key, {
        "description": "A key as it arrives in a request: a text or a whole number.",
        "type": ["string", "integer"]
    };
}

impl Duration {
    pub(super) fn new(text: &str) -> Self {
        Self(Scalar::Text(text.to_owned()))
    }
}

impl Size {
    pub(super) fn new(text: &str) -> Self {
        Self(Scalar::Text(text.to_owned()))
    }
}

impl Percent {
    pub(super) fn new(text: &str) -> Self {
        Self(Scalar::Text(text.to_owned()))
    }
}

impl Rate {
    pub(super) fn new(number: f64) -> Self {
        Self(Scalar::Float(number))
    }
}

impl Count {
    pub(super) fn new(number: u32) -> Self {
        Self(Scalar::Integer(number.into()))
    }
}

impl Amount {
    pub(super) fn new(number: u32) -> Self {
        Self(Scalar::Integer(number.into()))
    }
}

impl Default for Amount {
    fn default() -> Self {
        Self(Scalar::Integer(0))
    }
}

impl Default for StepHold {
    fn default() -> Self {
        Self(Scalar::Text("manual".to_owned()))
    }
}

impl Default for Workers {
    fn default() -> Self {
        Self(Scalar::Text("auto".to_owned()))
    }
}

/// One text, or a list of them.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(untagged)]
pub(in crate::config) enum OneOrMany {
    /// One.
    One(String),
    /// Several, in order.
    Many(Vec<String>),
}

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OneOrManyVisitor)
    }
}

struct OneOrManyVisitor;

impl<'de> Visitor<'de> for OneOrManyVisitor {
    type Value = OneOrMany;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text or a list of texts")
    }

    fn visit_str<E>(self, text: &str) -> Result<OneOrMany, E> {
        Ok(OneOrMany::One(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<OneOrMany, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(OneOrMany::Many(items))
    }
}

/// The value that a header must have, or null if the header must only be there.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(in crate::config) struct HeaderValue(pub(in crate::config) Option<String>);

impl JsonSchema for HeaderValue {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "HeaderValue".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "The value that the header must have, or null if it must only be there.",
            "type": ["string", "integer", "null"]
        })
    }
}

impl<'de> Deserialize<'de> for HeaderValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(HeaderValueVisitor)
    }
}

struct HeaderValueVisitor;

impl Visitor<'_> for HeaderValueVisitor {
    type Value = HeaderValue;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, or null if the header must only be there")
    }

    fn visit_unit<E>(self) -> Result<HeaderValue, E> {
        Ok(HeaderValue(None))
    }

    fn visit_i128<E>(self, value: i128) -> Result<HeaderValue, E> {
        Ok(HeaderValue(Some(value.to_string())))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<HeaderValue, E> {
        Ok(HeaderValue(Some(text.to_owned())))
    }
}
