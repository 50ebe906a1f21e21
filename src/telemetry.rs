//! The process's own log: what happened to it, on standard error, for people or for machines.
//!
//! Lines go over a bounded queue to a thread of their own. A reader that stalls or has gone costs lines, never time.

use std::io::{self, IsTerminal as _};
use std::time::{Duration, Instant};

use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// What is logged: `error`, `warn`, `info` (the default), `debug`, or a filter per module.
pub const LEVEL_VARIABLE: &str = "TIDEGATE_LOG";
/// `json` for machines; anything else is text.
pub const FORMAT_VARIABLE: &str = "TIDEGATE_LOG_FORMAT";

/// How often to tell of what may last.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

/// Starts logging, at `level` unless [`LEVEL_VARIABLE`] says otherwise. The guard writes what is left when it is dropped.
#[must_use = "the last lines are written when the guard is dropped"]
pub fn start(level: &str) -> WorkerGuard {
    let (writer, guard) = NonBlockingBuilder::default().lossy(true).thread_name("log").finish(io::stderr());
    let filter = filter(std::env::var(LEVEL_VARIABLE).ok().as_deref(), level);
    if std::env::var(FORMAT_VARIABLE).is_ok_and(|format| format == "json") {
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).json().flatten_event(true).init();
    } else {
        text(filter, writer);
    }
    guard
}

/// What `asked` says, if it is a level or a list of `module=level`; a word that is neither would silence everything.
fn filter(asked: Option<&str>, level: &str) -> EnvFilter {
    let is_known = |part: &str| part.contains('=') || part.trim().parse::<LevelFilter>().is_ok();
    match asked.filter(|asked| !asked.is_empty() && asked.split(',').all(is_known)) {
        Some(asked) => EnvFilter::try_new(asked).unwrap_or_else(|_| EnvFilter::new(level)),
        None => EnvFilter::new(level),
    }
}

fn text(filter: EnvFilter, writer: NonBlocking) {
    let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_ansi(colour).with_target(false).init();
}

/// Tells of a trouble that may last, without filling the log with it.
#[derive(Debug, Default)]
pub struct Complaints {
    told_at: Option<Instant>,
}

impl Complaints {
    /// Has `tell` say it, unless it was said in the last ten seconds.
    pub fn complain(&mut self, tell: impl FnOnce()) {
        if self.told_at.is_none_or(|at| at.elapsed() >= COMPLAIN_EVERY) {
            self.told_at = Some(Instant::now());
            tell();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_is_no_level_does_not_silence_the_log() {
        for (asked, told) in [
            (None, "info"),
            (Some(""), "info"),
            (Some("banana"), "info"),
            (Some("debug"), "debug"),
            (Some("off"), "off"),
        ] {
            assert_eq!(filter(asked, "info").to_string(), told, "{asked:?}");
        }
    }
}
