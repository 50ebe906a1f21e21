//! The access log: a JSON line a request, for whoever wants it.
//!
//! Lines go to a thread of their own over a bounded queue. When it or the disk is full they are dropped and counted: logging never
//! makes a request wait. Whatever a client sent is escaped down to printable ASCII and capped.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use jiff::Timestamp;
use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};

use super::log_file::LogFile;
use crate::config;
use crate::metrics::{Class, DroppedLines, Why};

/// Lines that may wait for the writer.
const QUEUE: usize = 16 * 1024;
/// Bytes of a field that a client chose.
const MAX_FIELD: usize = 1024;

/// Where lines go.
#[derive(Clone, Debug)]
pub struct AccessLog {
    lines: NonBlocking,
    /// Lines that the writer could not write.
    lost: Arc<AtomicU64>,
}

impl AccessLog {
    /// Opens the log. The guard writes what is left when it is dropped.
    ///
    /// # Errors
    /// When the file cannot be opened for appending.
    pub fn open(target: &config::AccessLog) -> io::Result<(Self, WorkerGuard)> {
        let writer: Box<dyn Write + Send> = match target {
            config::AccessLog::Stdout => Box::new(io::stdout()),
            config::AccessLog::File(path) => Box::new(OpenOptions::new().create(true).append(true).open(path)?),
        };
        let builder = NonBlockingBuilder::default().buffered_lines_limit(QUEUE).lossy(true).thread_name("access-log");
        let lost = Arc::default();
        let (lines, guard) = builder.finish(LogFile::new(writer, Arc::clone(&lost)));
        Ok((Self { lines, lost }, guard))
    }

    /// Counts the lines that are not in it.
    #[must_use]
    pub fn dropped(&self) -> DroppedLines {
        DroppedLines { queue: self.lines.error_counter(), writer: Arc::clone(&self.lost) }
    }

    pub(super) fn write(&self, entry: &Entry, why: Why, class: Class, elapsed: Duration) {
        let line = entry.line(Timestamp::now(), why, class, elapsed);
        // The queue's writer never fails: what does not fit is dropped and counted.
        let _counted = self.lines.clone().write(line.as_bytes());
    }
}

/// What is known of a request for its line.
#[derive(Debug)]
pub(super) struct Entry {
    client: String,
    method: String,
    path: String,
    pub(super) status: u16,
    /// Empty if no rollout is concerned.
    rollout: String,
    /// Empty if no side saw it.
    pub(super) side: &'static str,
    /// How long it waited in line.
    pub(super) held: Duration,
    /// Whether OLD answered it in place of its side.
    pub(super) is_shielded: bool,
    /// How a call of gRPC ended, 0 to 16, or 17 for a status that gRPC does not know.
    pub(super) grpc_status: Option<u8>,
    /// What went through it, if it became a tunnel.
    pub(super) tunnel: Option<Carried>,
}

/// What a tunnel has carried.
#[derive(Clone, Copy, Debug)]
pub(super) struct Carried {
    /// How long it was open.
    pub(super) open: Duration,
    /// Bytes from the client.
    pub(super) received: u64,
    /// Bytes from the backend.
    pub(super) sent: u64,
}

impl Entry {
    /// The query stays out: it may hold secrets.
    pub(super) fn new(client: String, method: &str, path: &str) -> Self {
        let (method, path) = (escape(method), escape(path));
        Self {
            client,
            method,
            path,
            status: 0,
            rollout: String::new(),
            side: "",
            held: Duration::ZERO,
            is_shielded: false,
            grpc_status: None,
            tunnel: None,
        }
    }

    /// The request is this rollout's business.
    pub(super) fn of_rollout(&mut self, rollout: &str) {
        rollout.clone_into(&mut self.rollout);
    }

    fn line(&self, at: Timestamp, why: Why, class: Class, elapsed: Duration) -> String {
        let held = match self.held {
            Duration::ZERO => String::new(),
            held => format!(",\"held_ms\":{:.3}", held.as_secs_f64() * 1e3),
        };
        let grpc_status = self.grpc_status.map_or_else(String::new, |status| format!(",\"grpc_status\":{status}"));
        let shielded = if self.is_shielded { ",\"shielded\":true" } else { "" };
        let tunnel = self.tunnel.map_or_else(String::new, |Carried { open, received, sent }| {
            let open = open.as_secs_f64() * 1e3;
            format!(",\"open_ms\":{open:.3},\"bytes_received\":{received},\"bytes_sent\":{sent}")
        });
        format!(
            "{{\"time\":\"{at:.3}\",\"client\":\"{}\",\"method\":\"{}\",\"path\":\"{}\",\"status\":{},\
             \"rollout\":\"{}\",\"side\":\"{}\",\"reason\":\"{}\",\"class\":\"{}\",\"duration_ms\":{:.3}{grpc_status}{held}{shielded}{tunnel}}}\n",
            self.client,
            self.method,
            self.path,
            self.status,
            self.rollout,
            self.side,
            why.as_str(),
            class.as_str(),
            elapsed.as_secs_f64() * 1e3,
        )
    }
}

/// `text` inside JSON quotes, as printable ASCII: no control or escape sequence, no bidirectional trick, no second line
/// gets into a terminal or a log viewer.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        if out.len() >= MAX_FIELD {
            out.push_str("...");
            break;
        }
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            ' '..='~' => out.push(character),
            other => {
                for unit in other.encode_utf16(&mut [0; 2]) {
                    let _a_string_takes_everything = write!(out, "\\u{unit:04x}");
                }
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hostile_text_is_escaped() {
        for (text, escaped) in [
            ("/plain", "/plain"),
            ("\"}\n{", "\\\"}\\u000a{"),
            ("\x1b[31m", "\\u001b[31m"),
            ("\u{202e}", "\\u202e"),
            ("\u{9b}", "\\u009b"),
            ("😀", "\\ud83d\\ude00"),
        ] {
            assert_eq!(escape(text), escaped, "{text:?}");
        }
        assert!(escape(&"a".repeat(30_000)).len() < MAX_FIELD + 16);
    }

    proptest! {
        #[test]
        fn every_line_is_one_json_object(method in ".{0,20}", path in ".{0,2000}") {
            let entry = Entry::new("192.0.2.7".to_owned(), &method, &path);
            let line = entry.line(Timestamp::UNIX_EPOCH, Why::Refused, Class::ClientError, Duration::from_micros(1500));
            prop_assert_eq!(line.matches('\n').count(), 1);
            prop_assert!(line.trim_end().bytes().all(|b| (b' '..=b'~').contains(&b)));
            let parsed: serde_json::Value = serde_json::from_str(&line).unwrap();
            prop_assert_eq!(&parsed["duration_ms"], &serde_json::json!(1.5));
        }
    }
}
