//! A page of lines that fits a terminal: what is said first is what is left out last.

use jiff::Timestamp;

use crate::cli::output::{Paint, fitted};

/// Columns of the smallest terminal.
pub(super) const WIDTH: usize = 80;
/// Lines of the smallest terminal, less the one of the prompt.
pub(super) const HEIGHT: usize = 23;
/// Columns of a label and the space around it.
const LABEL: usize = 12;
/// A reason with fewer columns says nothing.
const SHORTEST: usize = 8;

/// How much room there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Room {
    /// Hardly any: what can be found out otherwise is left out.
    Least,
    /// A line for each thing.
    Little,
    /// For empty lines and whole sentences, too.
    Enough,
}

/// A page that is being written.
#[derive(Debug)]
pub(super) struct Page<'a> {
    pub(super) lines: Vec<String>,
    pub(super) room: Room,
    pub(super) now: Timestamp,
    pub(super) paint: Paint,
    /// What stands behind each command for it to reach the same instance.
    pub(super) again: &'a str,
}

/// Something that somebody did and that still holds.
#[derive(Clone, Debug, Default)]
pub(super) struct Item {
    /// What kind of thing it is.
    pub(super) label: &'static str,
    /// What has to be known.
    pub(super) facts: String,
    /// What else would be good to know, the weightiest first.
    pub(super) more: Vec<String>,
    /// Why: cut if there is not enough room.
    pub(super) why: String,
    /// The command that ends it, and before it what it does.
    pub(super) end: Option<(&'static str, String)>,
}

impl Page<'_> {
    pub(super) fn line(&mut self, line: impl Into<String>) {
        self.lines.push(line.into());
    }

    /// An empty line, if there is room for it.
    pub(super) fn gap(&mut self) {
        if self.room == Room::Enough {
            self.lines.push(String::new());
        }
    }

    /// `command` as it reaches this instance.
    pub(super) fn command(&self, command: &str) -> String {
        match command.strip_suffix(" --reason TEXT").unwrap_or(command) {
            command if command.starts_with("tidegate ") => format!("{command}{}", self.again),
            other => other.to_owned(),
        }
    }

    /// One line if it fits; else two, or one that says less.
    pub(super) fn item(&mut self, item: &Item) {
        let end = item.end.as_ref().map(|(what, command)| format!("{what}: {}", self.command(command)));
        let end = end.unwrap_or_default();
        let in_one = if end.is_empty() { String::new() } else { format!("; {end}") };
        let whole = item.told(usize::MAX);
        if length(&whole) + length(&in_one) <= WIDTH - LABEL - 2 {
            self.labelled(item.label, &format!("{whole}{in_one}"));
        } else if self.room < Room::Enough || end.is_empty() {
            let room = (WIDTH - LABEL - 2).saturating_sub(length(&in_one));
            self.labelled(item.label, &format!("{}{in_one}", item.told(room)));
        } else {
            self.labelled(item.label, &item.told(WIDTH - LABEL - 2));
            self.labelled("", &end);
        }
    }

    fn labelled(&mut self, label: &str, text: &str) {
        let label = format!("{label:<LABEL$}");
        let line = format!("  {}{text}", self.paint.dim(label));
        self.lines.push(line);
    }
}

impl Item {
    /// As much as fits `room`: the reason is cut first and then left out, like what else there is.
    fn told(&self, room: usize) -> String {
        let mut told = fitted(&self.facts, room.max(1));
        for part in self.more.iter().filter(|part| !part.is_empty()) {
            if length(&told) + 2 + length(part) <= room {
                told += &format!(", {part}");
            }
        }
        let (why, left) = (one_line(&self.why), room.saturating_sub(length(&told) + 2));
        if !why.is_empty() && left >= SHORTEST.min(length(&why)) {
            told += &format!(": {}", fitted(&why, left));
        }
        told
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn length(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_matters_least_is_left_out_first() {
        let item = Item {
            facts: "old, 12 running".into(),
            more: vec!["by alice".into(), String::new()],
            why: "a long story\nin two lines".into(),
            ..Item::default()
        };
        for (room, told) in [
            (usize::MAX, "old, 12 running, by alice: a long story in two lines"),
            (36, "old, 12 running, by alice: a long s…"),
            (30, "old, 12 running, by alice"),
            (20, "old, 12 running"),
            (10, "old, 12 r…"),
        ] {
            assert_eq!(item.told(room), told);
        }
    }
}
