//! YAML into the tree.
//!
//! Two habits of older YAML are left out because they surprise: `no`, `off` and their like are words (only `true` and
//! `false` are booleans), and a number with a leading zero is not octal.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::budget::BudgetBreach;
use serde_saphyr::options::NonFiniteFloatPolicy;
use serde_saphyr::{Error, Location, Options, Spanned};

use super::document::{Entry, MAX_DEPTH, Node, SyntaxError, Value};
use super::error::Complaint;

pub(super) fn read(text: &str) -> Result<Node, SyntaxError> {
    match serde_saphyr::from_str_with_options::<Spanned<Written>>(text, options()) {
        Ok(root) => Ok(Reader { text }.node(root)),
        Err(error) => Err(explain(text, error.without_snippet())),
    }
}

/// The caps keep an alias bomb (a few lines that stand for billions) from being unfolded, and refuse in good time.
fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH,
            flow_nesting_limit: MAX_DEPTH,
            max_aliases: 1_000,
            max_anchors: 1_000,
            max_documents: 1,
            max_nodes: 50_000,
            max_events: 150_000,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: 20_000 },
        strict_booleans: true,
        non_finite_float_policy: NonFiniteFloatPolicy::PassThrough,
        with_snippet: false,
    }
}

fn explain(text: &str, error: &Error) -> SyntaxError {
    let at = error.location().map_or(0, |location| offset_of_line(text, location));
    match error {
        Error::DuplicateMappingKey { key: Some(key), .. } => SyntaxError::duplicate(at, key),
        Error::Budget { breach: BudgetBreach::Depth { .. }, .. } => SyntaxError::too_deep(at),
        Error::MultipleDocuments { .. } | Error::Budget { breach: BudgetBreach::Documents { .. }, .. } => {
            SyntaxError::at(at, Complaint::new("a second YAML document begins here").help("a config is one document"))
        }
        Error::Budget { .. } | Error::AliasReplayLimitExceeded { .. } => {
            let complaint = Complaint::new("the file holds more values than a config needs");
            SyntaxError::at(at, complaint.help("put long lists of keys into a `keys_file`; use fewer aliases"))
        }
        Error::NullIntoString { .. } => SyntaxError::at(at, Complaint::new("a key is a text").help("put it in quotes")),
        _ if error.to_string().contains("recursion limit exceeded") => SyntaxError::too_deep(at),
        _ => SyntaxError::at(at, Complaint::new(format!("this is not YAML: {}", reason(&error.to_string())))),
    }
}

/// The parser's words without the place, which stands beside them anyway.
fn reason(message: &str) -> &str {
    message.split(" at line ").next().unwrap_or(message).trim_end_matches([':', ',', ' '])
}

/// Where an error stands: unlike nodes, errors have only their line and column.
fn offset_of_line(text: &str, location: Location) -> usize {
    let before = |from_one: u64| usize::try_from(from_one.saturating_sub(1)).unwrap_or(usize::MAX);
    let start: usize = text.split_inclusive('\n').take(before(location.line())).map(str::len).sum();
    start + text[start..].chars().take(before(location.column())).map(char::len_utf8).sum::<usize>()
}

/// Where a node stands. A text that is read as a whole has a byte offset for every node.
fn offset(location: Location) -> usize {
    location.span().byte_offset().and_then(|offset| usize::try_from(offset).ok()).unwrap_or_default()
}

/// A YAML value before its place is known.
enum Written {
    Scalar(Value),
    List(Vec<Spanned<Self>>),
    Map(Vec<(Spanned<String>, Spanned<Self>)>),
}

struct Reader<'a> {
    text: &'a str,
}

impl Reader<'_> {
    fn node(&self, written: Spanned<Written>) -> Node {
        let value = match written.value {
            Written::Scalar(value @ (Value::Integer(_) | Value::Float(_))) => self.number(value, written.defined),
            Written::Scalar(value) => value,
            Written::List(items) => Value::List(items.into_iter().map(|item| self.node(item)).collect()),
            Written::Map(entries) => Value::Map(entries.into_iter().map(|entry| self.entry(entry)).collect()),
        };
        Node::new(offset(written.referenced), value)
    }

    fn entry(&self, (key, value): (Spanned<String>, Spanned<Written>)) -> Entry {
        Entry { at: offset(key.referenced), key: key.value, node: self.node(value) }
    }

    /// A number only if it stands there as its decimal digits, or with a fraction or an exponent. `0x1F`, `1_000`, `007`
    /// and what has more digits than a number holds are words, because as ids they are not 31, 1000, 7 and thereabouts.
    fn number(&self, value: Value, defined: Location) -> Value {
        let length = defined.span().byte_len().and_then(|length| usize::try_from(length).ok());
        let written = length.and_then(|length| self.text.get(offset(defined)..)?.get(..length)).unwrap_or_default();
        let meant = match value {
            Value::Integer(number) => number.to_string() == written,
            _ => written.contains(['.', 'e', 'E']),
        };
        if meant { value } else { Value::String(written.to_owned()) }
    }
}

impl<'de> Deserialize<'de> for Written {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Anything)
    }
}

struct Anything;

impl<'de> Visitor<'de> for Anything {
    type Value = Written;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Written, E> {
        Ok(Written::Scalar(Value::Null))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Written, E> {
        Ok(Written::Scalar(Value::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Written, E> {
        Ok(Written::Scalar(Value::Integer(value.into())))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Written, E> {
        Ok(Written::Scalar(Value::Integer(value.into())))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Written, E> {
        Ok(Written::Scalar(Value::Float(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Written, E> {
        Ok(Written::Scalar(Value::String(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Written, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Written::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Written, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Written::Map(entries))
    }
}
