//! A page of lines that fits a terminal: what is said first is what is left out last.

use jiff::Timestamp;

use crate::cli::output::{Paint, fitted};

/// Columns under which what is told of the process as a whole stands.
const MARGIN: usize = 9;
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
    /// How wide a line may be.
    pub(super) width: usize,
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

    /// What has to be known: on as many lines as there is room for.
    pub(super) fn alarm(&mut self, told: &str) {
        let most = match self.room {
            Room::Enough => usize::MAX,
            Room::Little => 2,
            Room::Least => 1,
        };
        for line in wrapped(told, self.width, most) {
            self.line(self.paint.alarm(line));
        }
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
        if length(&whole) + length(&in_one) <= self.room_for_an_item() {
            self.labelled(item.label, &format!("{whole}{in_one}"));
        } else if self.room < Room::Enough || end.is_empty() {
            let room = self.room_for_an_item().saturating_sub(length(&in_one));
            self.labelled(item.label, &format!("{}{in_one}", item.told(room)));
        } else {
            self.labelled(item.label, &item.told(self.room_for_an_item()));
            self.labelled("", &end);
        }
    }

    fn room_for_an_item(&self) -> usize {
        self.width - LABEL - 2
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

/// `text` on at most `most` lines of `width`, all but the first one indented; broken between words if they are no longer than a line,
/// and cut at the end.
fn wrapped(text: &str, width: usize, most: usize) -> Vec<String> {
    let (mut lines, mut rest) = (Vec::new(), text.to_owned());
    while length(&rest) > width && lines.len() + 1 < most {
        let end = rest.char_indices().nth(width).map_or(rest.len(), |(end, _)| end);
        let is_a_words_end = rest[end..].starts_with(' ');
        let at_a_word = if is_a_words_end { Some(end) } else { rest[..end].rfind(' ').filter(|at| *at > MARGIN) };
        let next = rest.split_off(at_a_word.unwrap_or(end));
        lines.push(std::mem::replace(&mut rest, format!("{:MARGIN$}{}", "", next.trim_start())));
    }
    lines.push(fitted(&rest, width));
    lines
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
    fn an_alarm_goes_on_where_its_label_ends() {
        let told = "state    NOT DURABLE: no space left";
        assert_eq!(wrapped(told, 80, 9), [told]);
        assert_eq!(wrapped(told, usize::MAX, 9), [told]);
        assert_eq!(wrapped(told, 21, 9), ["state    NOT DURABLE:", "         no space", "         left"]);
        assert_eq!(wrapped(told, 21, 2), ["state    NOT DURABLE:", "         no space le…"]);
        assert_eq!(wrapped(told, 21, 1), ["state    NOT DURABLE…"]);
        assert_eq!(
            wrapped("tls      /a/long/pâth: bad", 16, 9),
            ["tls      /a/long", "         /pâth:", "         bad"]
        );
    }

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
