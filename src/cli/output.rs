//! How commands write: plainly, in colour on a terminal that wants it, and never with what could control one.

use std::fmt::{Display, Write as _};
use std::io::{self, IsTerminal as _, Write as _};

use clap::ValueEnum;
use serde::Serialize;
use serde_json::Value;

/// For whom an answer is written: people or programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    #[default]
    Text,
    Json,
}

/// Writes `text` to standard output.
pub(super) fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// Writes `value` to standard output as JSON.
pub(super) fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    Ok(print(&text)?)
}

/// How much can be seen at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Screen {
    /// Columns.
    pub(super) width: usize,
    /// Lines, less the one of the prompt.
    pub(super) height: usize,
}

impl Screen {
    /// The smallest terminal. On one that is smaller still, lines are broken by the terminal.
    pub(super) const SMALLEST: Self = Self { width: 80, height: 23 };
    /// A file or a program: it has room for everything.
    pub(super) const ENDLESS: Self = Self { width: usize::MAX, height: usize::MAX };

    /// The terminal that standard output is, if it is one.
    pub(super) fn detect() -> Self {
        if !io::stdout().is_terminal() {
            return Self::ENDLESS;
        }
        // Some terminals do not know their size, and say 0.
        let (width, height) =
            rustix::termios::tcgetwinsize(io::stdout()).map_or((0, 0), |size| (size.ws_col, size.ws_row));
        let Self { width: least, height: lowest } = Self::SMALLEST;
        Self { width: usize::from(width).max(least), height: usize::from(height).saturating_sub(1).max(lowest) }
    }
}

/// Colours, or their absence.
#[derive(Clone, Copy, Debug)]
pub(super) struct Paint {
    is_on: bool,
}

impl Paint {
    /// No colours.
    pub(super) const NONE: Self = Self { is_on: false };

    /// Colours if standard output is a terminal and nobody objects (<https://no-color.org>).
    pub(super) fn detect() -> Self {
        let objected = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        if io::stdout().is_terminal() && !objected && !is_dumb { Self { is_on: true } } else { Self::NONE }
    }

    pub(super) fn bold(self, text: impl Display) -> String {
        self.with("1", text)
    }

    pub(super) fn dim(self, text: impl Display) -> String {
        self.with("2", text)
    }

    pub(super) fn good(self, text: impl Display) -> String {
        self.with("32", text)
    }

    pub(super) fn alarm(self, text: impl Display) -> String {
        self.with("1;31", text)
    }

    fn with(self, code: &str, text: impl Display) -> String {
        if self.is_on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }
}

/// `text` without characters that control a terminal or reorder what it shows.
pub(super) fn harmless(text: &str) -> String {
    let reorders = |c| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let shown = |c: char| if c != '\n' && (c.is_control() || reorders(c)) { char::REPLACEMENT_CHARACTER } else { c };
    text.chars().map(shown).collect()
}

/// `value` with every string fit for a terminal.
pub(super) fn cleaned(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(harmless(&text)),
        Value::Array(items) => items.into_iter().map(cleaned).collect(),
        Value::Object(entries) => entries.into_iter().map(|(key, value)| (key, cleaned(value))).collect(),
        other => other,
    }
}

/// `text` with every line moved to the right.
pub(super) fn indented(text: &str, by: usize) -> String {
    let mut out = String::new();
    for line in text.trim_end().lines() {
        let line = format!("{:by$}{line}", "");
        let _ = writeln!(out, "{}", line.trim_end());
    }
    out
}

/// `text` in at most `width` characters.
pub(super) fn fitted(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_reaches_the_terminal_that_controls_it() {
        assert_eq!(harmless("a\x1b[2Jb\u{202e}c\nd\x07é"), "a\u{fffd}[2Jb\u{fffd}c\nd\u{fffd}é");
    }

    #[test]
    fn strings_are_cleaned_wherever_they_stand() {
        assert_eq!(cleaned(serde_json::json!({"a": ["\u{1b}[2J"]})), serde_json::json!({"a": ["\u{fffd}[2J"]}));
    }

    #[test]
    fn long_names_are_cut_visibly() {
        assert_eq!(fitted("ledger", 6), "ledger");
        assert_eq!(fitted("ledgers", 6), "ledge…");
    }
}
