//! serde over the tree: fills the written types and, where that fails, knows the place.
//!
//! serde stops at the first error. To tell all of them, [`read`] crosses out what was complained about and reads again;
//! every key of the written types may be absent, so what is left can always be read.

use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeOwned, DeserializeSeed, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;

use super::document::{Document, Entry, Node, Place, Step, Value};
use super::error::Complaint;
use super::fault::Faults;

/// How often the file is read again to find further errors.
const ROUNDS: usize = 16;

/// Fills a `T`, or notes every key that is unknown and every value of the wrong kind.
pub(super) fn read<T: DeserializeOwned>(document: &mut Document, faults: &mut Faults) -> Option<T> {
    for _ in 0..ROUNDS {
        match T::deserialize(Reader(document.root())) {
            Ok(value) => return faults.is_empty().then_some(value),
            Err(error) => {
                let place = error.place();
                document.refuse(&place);
                let place = if error.key { place.as_key() } else { place };
                faults.add(place, *error.complaint);
            }
        }
    }
    None
}

/// A complaint, and the way to it from the innermost step out.
#[derive(Debug)]
pub(super) struct Error {
    complaint: Box<Complaint>,
    outward: Vec<Step>,
    key: bool,
}

impl Error {
    fn new(complaint: Complaint) -> Self {
        Self { complaint: Box::new(complaint), outward: Vec::new(), key: false }
    }

    fn within(mut self, step: Step) -> Self {
        self.outward.push(step);
        self
    }

    fn about_key(self, key: &str) -> Self {
        Self { key: true, ..self }.within(Step::Key(key.to_owned()))
    }

    fn place(&self) -> Place {
        Place::new(self.outward.iter().rev().cloned().collect())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.complaint)
    }
}

impl std::error::Error for Error {}

impl de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(Complaint::new(message.to_string()))
    }

    fn invalid_type(found: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        match found {
            de::Unexpected::Unit => no_value(),
            _ => wrong_kind(expected.to_string()),
        }
    }

    fn unknown_field(field: &str, known: &'static [&'static str]) -> Self {
        let complaint = Complaint::new(format!("unknown key `{field}`")).found(field).allowed(known.join(", "));
        Self::new(complaint.did_you_mean(field, known.iter().copied()))
    }

    fn unknown_variant(variant: &str, known: &'static [&'static str]) -> Self {
        let complaint = Complaint::new("this is not one of the allowed words").allowed(known.join(", "));
        Self::new(complaint.did_you_mean(variant, known.iter().copied()))
    }
}

fn wrong_kind(allowed: impl Into<String>) -> Error {
    Error::new(Complaint::new("this is the wrong kind of value").allowed(allowed))
}

fn no_value() -> Error {
    Error::new(Complaint::new("this key has no value").help("give it one, or remove the key"))
}

/// One value on its way into a written type.
struct Reader<'a>(&'a Node);

impl<'a> Reader<'a> {
    /// The value; `${VAR}` alone as the number or boolean that it looks like.
    fn value(&self) -> Result<Value, Error> {
        match &self.0.value {
            Value::Null => Err(no_value()),
            Value::Expanded(expanded) => Ok(expanded.reread().unwrap_or_else(|| Value::String(expanded.text.clone()))),
            value => Ok(value.clone()),
        }
    }

    fn text(&self) -> Result<&'a str, Error> {
        match &self.0.value {
            Value::Null => Err(no_value()),
            Value::String(text) => Ok(text),
            Value::Expanded(expanded) => Ok(&expanded.text),
            Value::Bool(_) | Value::Integer(_) | Value::Float(_) => Err(unquoted()),
            _ => Err(wrong_kind("a text")),
        }
    }

    fn entries(&self, allowed: impl FnOnce() -> String) -> Result<Entries<'a>, Error> {
        match &self.0.value {
            Value::Null => Err(no_value()),
            Value::Map(entries) => Ok(Entries { rest: entries.iter(), current: None }),
            _ => Err(wrong_kind(allowed())),
        }
    }

    fn items(&self) -> Result<Items<'a>, Error> {
        match &self.0.value {
            Value::Null => Err(no_value()),
            Value::List(items) => Ok(Items { rest: items.iter().enumerate() }),
            _ => Err(Error::new(
                Complaint::new("this is not a list").allowed("a list").help("put it in brackets: [...]"),
            )),
        }
    }
}

fn unquoted() -> Error {
    Error::new(Complaint::new("this is not a text").allowed("a text").help("put it in quotes"))
}

/// Other languages have more words for it; which of the two is meant is plain then.
fn not_a_flag(value: &Value) -> Complaint {
    let complaint = Complaint::new("this is the wrong kind of value").allowed("true or false");
    let word = match value {
        Value::String(text) => text.to_ascii_lowercase(),
        Value::Integer(number) => number.to_string(),
        _ => return complaint,
    };
    match word.as_str() {
        "yes" | "y" | "on" | "1" | "true" => complaint.help("write `true`"),
        "no" | "n" | "off" | "0" | "false" => complaint.help("write `false`"),
        _ => complaint,
    }
}

impl<'de> de::Deserializer<'de> for Reader<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.0.value {
            Value::Null => return visitor.visit_unit(),
            Value::List(_) => return visitor.visit_seq(self.items()?),
            Value::Map(_) => return visitor.visit_map(self.entries(String::new)?),
            _ => {}
        }
        match self.value()? {
            Value::Bool(value) => visitor.visit_bool(value),
            Value::Integer(value) => visitor.visit_i128(value),
            Value::Float(value) => visitor.visit_f64(value),
            Value::String(text) => visitor.visit_string(text),
            _ => Err(no_value()),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value()? {
            Value::Bool(value) => visitor.visit_bool(value),
            value => Err(Error::new(not_a_flag(&value))),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_str(self.text()?)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_str(self.text()?)
    }

    /// A key without a value is not an absent key: it is more likely half a file.
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_seq(self.items()?)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_map(self.entries(|| "a map of names".to_owned())?)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_map(self.entries(|| format!("a map of the keys {}", fields.join(", ")))?)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let word = self.text().map_err(|_| wrong_kind(variants.join(", ")))?;
        visitor.visit_enum(IntoDeserializer::<Error>::into_deserializer(word))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct tuple tuple_struct
        identifier ignored_any
    }
}

struct Entries<'a> {
    rest: std::slice::Iter<'a, Entry>,
    current: Option<&'a Entry>,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        self.current = self.rest.find(|entry| !entry.node.refused);
        let Some(Entry { key, .. }) = self.current else { return Ok(None) };
        let key_reader: StrDeserializer<'_, Error> = key.as_str().into_deserializer();
        seed.deserialize(key_reader).map(Some).map_err(|error| error.about_key(key))
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        match self.current {
            Some(Entry { key, node, .. }) => {
                seed.deserialize(Reader(node)).map_err(|error| error.within(Step::Key(key.clone())))
            }
            None => Err(de::Error::custom("a value was asked for before its key")),
        }
    }
}

struct Items<'a> {
    rest: std::iter::Enumerate<std::slice::Iter<'a, Node>>,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        match self.rest.find(|(_, node)| !node.refused) {
            Some((at, node)) => seed.deserialize(Reader(node)).map(Some).map_err(|error| error.within(Step::Index(at))),
            None => Ok(None),
        }
    }
}
