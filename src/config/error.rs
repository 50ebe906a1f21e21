//! What is wrong with a config, told so that a tired person finds the place and knows what to write instead.

use std::fmt::{self, Write as _};

use serde_json::json;

use super::document::Position;
use super::shown::veiled;

/// How many faults are told at once; more help nobody.
pub(super) const SHOWN_FAULTS: usize = 50;

/// Why a config was refused: everything that is wrong with it. Nothing of such a config is ever applied.
///
/// [`Display`](fmt::Display) tells it to people, [`ConfigError::to_json`] to editors and pipelines. Neither shows what
/// an environment variable held, or what is private in a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    file: String,
    faults: Vec<Fault>,
    omitted: usize,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The line, counted from 1; `None` when the file itself is the trouble.
    pub line: Option<usize>,
    /// The column in characters, counted from 1.
    pub column: Option<usize>,
    /// The way to the key, such as `rollouts.ledger.percent`; empty for the file as a whole.
    pub path: String,
    /// What is wrong, in one sentence without a full stop.
    pub message: String,
    /// What stands there.
    pub found: Option<String>,
    /// What may stand there.
    pub allowed: Option<String>,
    /// What to do about it.
    pub help: Option<String>,
    source: Option<SourceLine>,
}

/// A complaint before its place is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Complaint {
    message: String,
    /// What was found, where it is not the value at the complaint's place.
    found: Option<String>,
    allowed: Option<String>,
    help: Option<String>,
}

impl Complaint {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), found: None, allowed: None, help: None }
    }

    pub(super) fn found(self, found: impl Into<String>) -> Self {
        Self { found: Some(found.into()), ..self }
    }

    pub(super) fn allowed(self, allowed: impl Into<String>) -> Self {
        Self { allowed: Some(allowed.into()), ..self }
    }

    pub(super) fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }

    /// Adds `did you mean` when one of `known` is near enough to what was written.
    pub(super) fn did_you_mean<'a>(self, written: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        match nearest(written, known) {
            Some(known) => self.help(format!("did you mean `{known}`?")),
            None => self,
        }
    }

    /// What is wrong and what to do about it, for a log.
    pub(super) fn in_one_line(&self) -> String {
        match &self.help {
            Some(help) => format!("{}; {help}", self.message),
            None => self.message.clone(),
        }
    }

    /// A fault of the file as a whole.
    pub(super) fn unlocated(self) -> Fault {
        let Self { message, found, allowed, help } = self;
        let (message, found, allowed, help) =
            (told(&message), found.as_deref().map(told), allowed.map(brief), help.map(brief));
        Fault { line: None, column: None, path: String::new(), message, found, allowed, help, source: None }
    }

    /// A fault at the byte `offset` of `text`.
    pub(super) fn located(self, offset: usize, text: &str) -> Fault {
        let at = Position::of(offset, text);
        let source = Some(SourceLine::cut(text, at));
        Fault { line: Some(at.line), column: Some(at.column), source, ..self.unlocated() }
    }
}

impl Fault {
    pub(super) fn with_path(self, path: String, found: Option<String>) -> Self {
        Self { path: brief(path), found: self.found.or(found), ..self }
    }
}

/// What may quote the file.
fn told(text: &str) -> String {
    brief(veiled(text))
}

/// Names in a file may be as long as the file.
fn brief(mut text: String) -> String {
    const LONGEST: usize = 500;
    if let Some((end, _)) = text.char_indices().nth(LONGEST) {
        text.truncate(end);
        text.push_str("...");
    }
    text
}

/// Words that are spelled like one thing and mean another, as everybody else calls it.
const SYNONYMS: [(&str, &str); 6] =
    [("http2", "h2"), ("http/2", "h2"), ("http2.0", "h2"), ("h2c", "h2"), ("grpc", "h2"), ("http/1.1", "http1")];

fn nearest<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    const LONGEST_NAME: usize = 64;
    if written.len() > LONGEST_NAME {
        return None;
    }
    let written = written.to_ascii_lowercase().replace('-', "_");
    let known: Vec<&str> = known.into_iter().collect();
    let is_meant = |name: &&&str| SYNONYMS.contains(&(&written, **name));
    if let Some(meant) = known.iter().find(is_meant) {
        return Some(meant);
    }
    let distance = |known: &str| strsim::damerau_levenshtein(&written, &known.to_ascii_lowercase().replace('-', "_"));
    let (distance, nearest) = known.into_iter().map(|known| (distance(known), known)).min()?;
    (distance <= 1 + nearest.len() / 4).then_some(nearest)
}

/// The part of a line that is shown: every character takes one column and none controls the terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
struct SourceLine {
    shown: String,
    /// How many characters stand before the place that is meant, and how many it takes.
    indent: usize,
    width: usize,
}

impl SourceLine {
    fn cut(text: &str, at: Position) -> Self {
        const BEFORE: usize = 80;
        const LONGEST: usize = 110;
        let line = text.split('\n').nth(at.line - 1).unwrap_or_default().trim_end_matches('\r');
        let line = veiled(line);
        let skipped = (at.column - 1).saturating_sub(BEFORE);
        let shown: String = line.chars().skip(skipped).take(LONGEST).map(visible).collect();
        let indent = at.column - 1 - skipped;
        let width = token_width(shown.chars().skip(indent));
        Self { shown: shown.trim_end().to_owned(), indent, width }
    }
}

fn visible(character: char) -> char {
    match character {
        '\t' => ' ',
        character if is_deceptive(character) => char::REPLACEMENT_CHARACTER,
        character => character,
    }
}

/// Characters that control a terminal, or that reorder or hide text: what is shown must be what is there.
fn is_deceptive(character: char) -> bool {
    let hides = ['\u{ad}'..='\u{ad}', '\u{200b}'..='\u{200f}', '\u{2028}'..='\u{202e}', '\u{2060}'..='\u{206f}'];
    character.is_control() || character == '\u{feff}' || hides.iter().any(|range| range.contains(&character))
}

/// How much the caret underlines: a quoted string, or up to what ends a word.
fn token_width(mut rest: impl Iterator<Item = char>) -> usize {
    match rest.next() {
        Some(quote @ ('"' | '\'')) => rest.position(|c| c == quote).map_or(1, |end| end + 2),
        Some('[' | '{') | None => 1,
        Some(_) => {
            let word: String = rest.take_while(|c| !c.is_whitespace() && !matches!(c, ',' | ']' | '}' | '=')).collect();
            1 + word.trim_end_matches(':').chars().count()
        }
    }
}

impl ConfigError {
    pub(super) fn new(file: &str, mut faults: Vec<Fault>, omitted: usize) -> Self {
        faults.sort_by_key(|fault| (fault.line, fault.column));
        Self { file: file.to_owned(), faults, omitted }
    }

    /// What is wrong, in the order of the file; at least one, at most fifty.
    #[must_use]
    pub fn faults(&self) -> &[Fault] {
        &self.faults
    }

    /// The faults as a list of objects: `file`, `line`, `column`, `path`, `message`, `found`, `allowed`, `help`. What
    /// does not apply is null.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let object = |fault: &Fault| {
            json!({
                "file": self.file,
                "line": fault.line,
                "column": fault.column,
                "path": fault.path,
                "message": fault.message,
                "found": fault.found,
                "allowed": fault.allowed,
                "help": fault.help,
            })
        };
        self.faults.iter().map(object).collect()
    }
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, fault) in self.faults.iter().enumerate() {
            let gap = if at == 0 { "" } else { "\n" };
            write!(f, "{gap}{}", Told { file: &self.file, fault })?;
        }
        match self.omitted {
            0 => Ok(()),
            omitted => writeln!(f, "\n... and {omitted} more"),
        }
    }
}

/// A fault in the manner of rustc.
struct Told<'a> {
    file: &'a str,
    fault: &'a Fault,
}

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fault = self.fault;
        let number = fault.line.map(|line| line.to_string()).unwrap_or_default();
        let margin = " ".repeat(number.len());
        writeln!(f, "error: {}", Harmless(&fault.message))?;
        writeln!(f, "{margin}--> {}{}", Harmless(self.file), Harmless(&self.position()))?;
        if let Some(SourceLine { shown, indent, width }) = &fault.source {
            writeln!(f, "{margin} |\n{number} | {shown}")?;
            writeln!(f, "{margin} | {}{}", " ".repeat(*indent), "^".repeat(*width))?;
        }
        let notes = [("found", &fault.found), ("allowed", &fault.allowed), ("help", &fault.help)];
        for (name, note) in notes.into_iter().filter_map(|(name, note)| Some((name, note.as_ref()?))) {
            let note = note.replace('\n', &format!("\n{margin}     "));
            writeln!(f, "{margin} = {name}: {}", Harmless(&note))?;
        }
        Ok(())
    }
}

impl Told<'_> {
    fn position(&self) -> String {
        let mut text = String::new();
        for number in [self.fault.line, self.fault.column].into_iter().flatten() {
            let _ = write!(text, ":{number}");
        }
        if !self.fault.path.is_empty() {
            let _ = write!(text, " ({})", self.fault.path);
        }
        text
    }
}

/// Text from a config file on its way to a terminal.
struct Harmless<'a>(&'a str);

impl fmt::Display for Harmless<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |c: char| if is_deceptive(c) && c != '\n' { char::REPLACEMENT_CHARACTER } else { c };
        self.0.chars().try_for_each(|c| f.write_char(shown(c)))
    }
}
