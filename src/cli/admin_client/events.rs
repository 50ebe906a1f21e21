//! Server-sent events (WHATWG HTML §9.2.6), as much of them as tidegate sends.

use std::collections::VecDeque;
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::time::timeout;

/// How long a stream may be silent before it counts as broken: a status comes every second.
const SILENCE: Duration = Duration::from_secs(10);
/// Bytes of one event; a status is a few kilobytes.
const LARGEST: usize = 4 << 20;

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::cli) struct Event {
    /// `change` or `status`.
    pub(in crate::cli) name: String,
    /// JSON.
    pub(in crate::cli) data: String,
}

/// Events as they arrive.
#[derive(Debug)]
pub(in crate::cli) struct Events {
    body: Incoming,
    lines: Lines,
}

impl Events {
    pub(super) fn new(body: Incoming) -> Self {
        Self { body, lines: Lines::default() }
    }

    /// The next one; `None` when the stream has ended, broken off, or fallen silent.
    pub(in crate::cli) async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.lines.whole.pop_front() {
                return Some(event);
            }
            let frame = timeout(SILENCE, self.body.frame()).await.ok()??.ok()?;
            if let Some(bytes) = frame.data_ref() {
                self.lines.take(bytes)?;
            }
        }
    }
}

/// Makes events of bytes, wherever those are cut.
#[derive(Debug, Default)]
struct Lines {
    line: Vec<u8>,
    event: Event,
    whole: VecDeque<Event>,
}

impl Lines {
    /// Reads on. `None` if something is far too long.
    fn take(&mut self, bytes: &[u8]) -> Option<()> {
        for byte in bytes {
            match byte {
                b'\n' => self.end_of_line(),
                byte => self.line.push(*byte),
            }
        }
        (self.line.len() + self.event.data.len() <= LARGEST).then_some(())
    }

    fn end_of_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        let line = String::from_utf8_lossy(&line);
        let line = line.strip_suffix('\r').unwrap_or(&line);
        if line.is_empty() {
            let event = std::mem::take(&mut self.event);
            if !event.data.is_empty() {
                self.whole.push_back(event);
            }
            return;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.event.name),
            "data" if self.event.data.is_empty() => value.clone_into(&mut self.event.data),
            "data" => self.event.data += &format!("\n{value}"),
            _ => {} // a comment that keeps the connection alive, an id
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_whole_however_their_bytes_arrive() {
        let text = ": hello\n\nevent: change\r\nid: 7\ndata: {\"seq\":\ndata: 7}\r\n\r\nevent: status\ndata:{}\n\nevent: x\n\n";
        let event = |name: &str, data: &str| Event { name: name.into(), data: data.into() };
        for size in [1, 2, 3, 1000] {
            let mut lines = Lines::default();
            text.as_bytes().chunks(size).for_each(|bytes| lines.take(bytes).unwrap());
            assert_eq!(lines.whole, [event("change", "{\"seq\":\n7}"), event("status", "{}")], "{size}");
        }
    }

    #[test]
    fn an_event_without_an_end_is_given_up() {
        let mut lines = Lines::default();
        let endless = std::iter::repeat_n([b'x'; 4096], LARGEST / 4096 + 1);
        assert!(endless.map(|bytes| lines.take(&bytes)).any(|taken| taken.is_none()));
    }
}
