//! JSON into the tree.
//!
//! serde_json judges the syntax, strictly; only then are the places looked up, by a reader that may take for granted
//! that brackets match and strings end.

use std::collections::HashSet;

use serde::de::DeserializeOwned;

use super::document::{Entry, MAX_DEPTH, Node, SyntaxError, Value};
use super::error::Complaint;

pub(super) fn read(text: &str) -> Result<Node, SyntaxError> {
    serde_json::from_str::<serde_json::Value>(text).map_err(|error| explain(text, &error))?;
    Reader { text, at: 0 }.node(1)
}

fn explain(text: &str, error: &serde_json::Error) -> SyntaxError {
    let message = error.to_string();
    let reason = message.split(" at line ").next().unwrap_or_default();
    let line = text.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum::<usize>();
    let at = text.floor_char_boundary(line + error.column().saturating_sub(1));
    match reason {
        "recursion limit exceeded" => SyntaxError::too_deep(at),
        _ => SyntaxError::at(at, Complaint::new(format!("this is not JSON: {reason}"))),
    }
}

/// Walks a text that is known to be JSON.
struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn node(&mut self, depth: usize) -> Result<Node, SyntaxError> {
        let first = self.peek();
        let at = self.at;
        if depth > MAX_DEPTH {
            return Err(SyntaxError::too_deep(at));
        }
        let value = match first {
            b'{' => Value::Map(self.map(depth)?),
            b'[' => Value::List(self.list(depth)?),
            b'"' => Value::String(self.string()?),
            _ => self.word()?,
        };
        Ok(Node::new(at, value))
    }

    fn map(&mut self, depth: usize) -> Result<Vec<Entry>, SyntaxError> {
        let (mut entries, mut seen) = (Vec::new(), HashSet::new());
        self.at += 1;
        while self.peek() != b'}' {
            let at = self.at;
            let key = self.string()?;
            if !seen.insert(key.clone()) {
                return Err(SyntaxError::duplicate(at, &key));
            }
            self.skip(b':');
            entries.push(Entry { key, at, node: self.node(depth + 1)? });
            self.skip(b',');
        }
        self.at += 1;
        Ok(entries)
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Node>, SyntaxError> {
        let mut items = Vec::new();
        self.at += 1;
        while self.peek() != b']' {
            items.push(self.node(depth + 1)?);
            self.skip(b',');
        }
        self.at += 1;
        Ok(items)
    }

    fn string(&mut self) -> Result<String, SyntaxError> {
        let bytes = &self.text.as_bytes()[self.at..];
        let mut end = 1;
        while bytes.get(end).is_some_and(|byte| *byte != b'"') {
            end += if bytes[end] == b'\\' { 2 } else { 1 };
        }
        self.take(end + 1)
    }

    fn word(&mut self) -> Result<Value, SyntaxError> {
        let rest = &self.text[self.at..];
        let length = rest.find([',', ']', '}', ' ', '\t', '\r', '\n']).unwrap_or(rest.len());
        match &rest[..length] {
            "null" => self.take::<()>(length).map(|()| Value::Null),
            "true" | "false" => self.take(length).map(Value::Bool),
            digits if digits.contains(['.', 'e', 'E']) => self.take(length).map(Value::Float),
            _ => self.take(length).map(Value::Integer),
        }
    }

    fn take<T: DeserializeOwned>(&mut self, length: usize) -> Result<T, SyntaxError> {
        let at = self.at;
        let token = self.text.get(self.at..self.at + length).unwrap_or_default();
        self.at += length;
        let refused = |_| SyntaxError::at(at, Complaint::new("this is not JSON: the value cannot be represented"));
        serde_json::from_str(token).map_err(refused)
    }

    /// The next byte that is not white space; a closing bracket at the end, so that every loop ends.
    fn peek(&mut self) -> u8 {
        let bytes = self.text.as_bytes();
        while bytes.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
        bytes.get(self.at).copied().unwrap_or(b'}')
    }

    fn skip(&mut self, byte: u8) {
        if self.peek() == byte {
            self.at += 1;
        }
    }
}
