//! TOML into the tree.

use toml::Spanned;
use toml::de::{DeInteger, DeString, DeTable, DeValue};

use super::document::{Entry, MAX_DEPTH, Node, SyntaxError, Value};
use super::error::Complaint;

pub(super) fn read(text: &str) -> Result<Node, SyntaxError> {
    let table = DeTable::parse(text).map_err(|error| explain(&error))?;
    Ok(Node::new(0, map(table.get_ref(), 1)?))
}

fn explain(error: &toml::de::Error) -> SyntaxError {
    let at = error.span().map_or(0, |span| span.start);
    match error.message() {
        "duplicate key" => SyntaxError::at(at, Complaint::new("this key is given twice").help("keep one of the two")),
        message => SyntaxError::at(at, Complaint::new(format!("this is not TOML: {message}"))),
    }
}

fn node(written: &Spanned<DeValue<'_>>, depth: usize) -> Result<Node, SyntaxError> {
    let at = written.span().start;
    if depth > MAX_DEPTH {
        return Err(SyntaxError::too_deep(at));
    }
    let value = match written.get_ref() {
        DeValue::Boolean(value) => Value::Bool(*value),
        DeValue::Integer(value) => Value::Integer(integer(value).ok_or_else(|| out_of_range(at))?),
        DeValue::Float(value) => Value::Float(value.as_str().parse().map_err(|_| out_of_range(at))?),
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Datetime(time) => Value::String(time.to_string()),
        DeValue::Array(items) => Value::List(items.iter().map(|item| node(item, depth + 1)).collect::<Result<_, _>>()?),
        DeValue::Table(table) => map(table, depth + 1)?,
    };
    Ok(Node::new(at, value))
}

fn map(table: &DeTable<'_>, depth: usize) -> Result<Value, SyntaxError> {
    let mut in_order: Vec<_> = table.iter().collect();
    in_order.sort_by_key(|(key, _)| key.span().start);
    in_order.into_iter().map(|(key, value)| entry(key, value, depth)).collect::<Result<_, _>>().map(Value::Map)
}

fn entry(key: &Spanned<DeString<'_>>, value: &Spanned<DeValue<'_>>, depth: usize) -> Result<Entry, SyntaxError> {
    let at = key.span().start;
    Ok(Entry { key: key.get_ref().to_string(), at, node: node(value, depth)? })
}

fn integer(written: &DeInteger<'_>) -> Option<i128> {
    i128::from_str_radix(written.as_str(), written.radix()).ok()
}

fn out_of_range(at: usize) -> SyntaxError {
    SyntaxError::at(at, Complaint::new("this number is too large"))
}
