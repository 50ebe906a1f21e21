//! The file as a tree in which every value and every key knows where it stands, whatever the format.
//!
//! The formats differ only up to here: YAML, TOML and JSON become the same tree, so that a key, a default or an error
//! means the same in all three. The readers refuse duplicate keys, and stop early at files that are too deep.

use std::fmt;
use std::path::Path;

use super::error::{Complaint, Fault};
use super::shown::veiled;
use super::{json, toml, yaml};

/// How deep lists and maps may nest. The deepest thing a config says lies six levels down.
pub(super) const MAX_DEPTH: usize = 32;

/// How the text is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Yaml,
    Toml,
    Json,
}

impl Format {
    pub(super) fn of(path: &Path) -> Result<Self, Complaint> {
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        match extension.to_ascii_lowercase().as_str() {
            "yaml" | "yml" => Ok(Self::Yaml),
            "toml" => Ok(Self::Toml),
            "json" => Ok(Self::Json),
            _ => {
                Err(Complaint::new("the file's name does not say how it is written")
                    .allowed(".yaml, .yml, .toml, .json"))
            }
        }
    }
}

/// Line and column, in characters, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) line: usize,
    pub(super) column: usize,
}

impl Position {
    /// Where the byte at `offset` stands.
    pub(super) fn of(offset: usize, text: &str) -> Self {
        let before = text.get(..offset).unwrap_or(text);
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        Self { line, column: before[start..].chars().count() + 1 }
    }
}

/// A value, and the byte at which it stands.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) at: usize,
    pub(super) value: Value,
    /// Whether it was complained about already: reading passes over it to find what else is wrong.
    pub(super) refused: bool,
}

/// A key of a map, where it stands, and its value.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) at: usize,
    pub(super) node: Node,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    String(String),
    /// A string that held `${VAR}`.
    Expanded(Expanded),
    List(Vec<Node>),
    /// In the order of the file; no key twice.
    Map(Vec<Entry>),
}

/// A string after its variables were filled in.
#[derive(Clone, Debug)]
pub(super) struct Expanded {
    pub(super) text: String,
    /// As it stands in the file: the only form that is ever shown, because variables hold secrets.
    pub(super) written: String,
    /// Whether it was one variable and nothing else, so that `${PERCENT}` may stand for a number.
    pub(super) whole: bool,
}

impl Node {
    pub(super) fn new(at: usize, value: Value) -> Self {
        Self { at, value, refused: false }
    }

    /// What an error says was found: enough to recognise it, never what a variable held.
    fn describe(&self) -> String {
        match &self.value {
            Value::Null => "nothing".to_owned(),
            Value::Bool(value) => value.to_string(),
            Value::Integer(value) => value.to_string(),
            Value::Float(value) => value.to_string(),
            Value::String(text) => quote(&veiled(text)),
            Value::Expanded(expanded) => quote(&veiled(&expanded.written)),
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a map of keys".to_owned(),
        }
    }

    fn child(&self, step: &Step) -> Option<(usize, &Self)> {
        match (&self.value, step) {
            (Value::Map(entries), Step::Key(key)) => {
                entries.iter().find(|entry| entry.key == *key).map(|entry| (entry.at, &entry.node))
            }
            (Value::List(items), Step::Index(index)) => items.get(*index).map(|item| (item.at, item)),
            _ => None,
        }
    }

    fn child_mut(&mut self, step: &Step) -> Option<&mut Self> {
        match (&mut self.value, step) {
            (Value::Map(entries), Step::Key(key)) => {
                entries.iter_mut().find(|entry| entry.key == *key).map(|entry| &mut entry.node)
            }
            (Value::List(items), Step::Index(index)) => items.get_mut(*index),
            _ => None,
        }
    }
}

fn quote(text: &str) -> String {
    const SHOWN: usize = 60;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("\"{}...\"", &text[..end]),
        None => format!("\"{text}\""),
    }
}

/// One step down the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

/// The way from the root to a value: `rollouts.ledger.percent`, `routes[0].match`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    steps: Vec<Step>,
    /// Whether the key is meant rather than its value.
    key: bool,
}

impl Place {
    pub(super) fn new(steps: Vec<Step>) -> Self {
        Self { steps, key: false }
    }

    /// The value under `key`.
    pub(super) fn key(&self, key: &str) -> Self {
        self.then(Step::Key(key.to_owned()))
    }

    /// The item at `index`, counted from 0.
    pub(super) fn item(&self, index: usize) -> Self {
        self.then(Step::Index(index))
    }

    /// The same place, but its key rather than its value: for a key that is wrong or lacks something below it.
    pub(super) fn as_key(&self) -> Self {
        Self { key: true, ..self.clone() }
    }

    fn then(&self, step: Step) -> Self {
        let mut steps = self.steps.clone();
        steps.push(step);
        Self::new(steps)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, step) in self.steps.iter().enumerate() {
            match step {
                Step::Key(key) if at == 0 => f.write_str(key)?,
                Step::Key(key) => write!(f, ".{key}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// Text and tree of one file.
#[derive(Debug)]
pub(super) struct Document {
    text: String,
    root: Node,
}

impl Document {
    /// Reads `bytes`, or says what and where the first thing is that is not `format`.
    pub(super) fn read(bytes: &[u8], format: Format) -> Result<Self, Box<Fault>> {
        let text = decode(bytes)?;
        let root = match format {
            Format::Yaml => yaml::read(text),
            Format::Toml => toml::read(text),
            Format::Json => json::read(text),
        };
        let root = match root {
            _ if is_empty(text, format) => Err(SyntaxError::at(0, empty())),
            Ok(root) if !matches!(root.value, Value::Map(_)) => Err(SyntaxError::at(root.at, not_a_map())),
            root => root,
        };
        let root = root.map_err(|error| Box::new(error.complaint.located(error.at, text)))?;
        Ok(Self { text: text.to_owned(), root })
    }

    pub(super) fn root(&self) -> &Node {
        &self.root
    }

    pub(super) fn root_mut(&mut self) -> &mut Node {
        &mut self.root
    }

    /// Makes reading pass over what stands at `place`.
    pub(super) fn refuse(&mut self, place: &Place) {
        let mut node = &mut self.root;
        for step in &place.steps {
            match node.child_mut(step) {
                Some(child) => node = child,
                None => return,
            }
        }
        node.refused = true;
    }

    /// Turns a complaint about `place` into a fault with line, column and what was found. A place that is not in the
    /// file (something is missing) is found as far as it goes.
    pub(super) fn fault(&self, place: &Place, complaint: Complaint) -> Fault {
        let (mut key_at, mut node, mut missing) = (self.root.at, &self.root, false);
        for step in &place.steps {
            let Some((at, child)) = node.child(step) else {
                missing = true;
                break;
            };
            (key_at, node) = (at, child);
        }
        let about_key = missing || place.key;
        let found = (!about_key).then(|| node.describe());
        let at = if about_key { key_at } else { node.at };
        complaint.located(at, &self.text).with_path(place.to_string(), found)
    }
}

/// What is wrong with the text itself.
pub(super) struct SyntaxError {
    at: usize,
    complaint: Complaint,
}

impl SyntaxError {
    pub(super) fn at(at: usize, complaint: Complaint) -> Self {
        Self { at, complaint }
    }

    pub(super) fn too_deep(at: usize) -> Self {
        Self::at(at, Complaint::new(format!("lists and maps nest more than {MAX_DEPTH} deep")))
    }

    pub(super) fn duplicate(at: usize, key: &str) -> Self {
        Self::at(at, Complaint::new(format!("the key `{key}` is given twice")).help("keep one of the two"))
    }
}

fn decode(bytes: &[u8]) -> Result<&str, Box<Fault>> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    std::str::from_utf8(bytes).map_err(|error| {
        let readable = std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default();
        Box::new(
            Complaint::new("the file is not UTF-8 text").help("save it as UTF-8").located(readable.len(), readable),
        )
    })
}

fn is_empty(text: &str, format: Format) -> bool {
    let comments = !matches!(format, Format::Json);
    text.lines().map(str::trim).all(|line| line.is_empty() || comments && line.starts_with('#'))
}

fn empty() -> Complaint {
    Complaint::new("the file is empty").help(
        "the smallest config is:\n\
         listen: 127.0.0.1:8080\n\
         rollout:\n  old: http://127.0.0.1:9001\n  new: http://127.0.0.1:9002\n  key: header:x-user-id\n  percent: 5",
    )
}

fn not_a_map() -> Complaint {
    Complaint::new("the file is not a map of keys").allowed("keys such as `listen` and `rollout`, each with its value")
}
