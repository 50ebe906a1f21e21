//! `tidegate audit`: who did what, when and why, and whether anybody has changed the record of it.

mod source;
mod text;

use std::collections::VecDeque;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::anyhow;
use clap::Args;
use serde_json::{Value, json};
use tokio::time::sleep;

use self::source::Pages;
use super::admin_client::{Client, ClientArgs};
use super::answer::{Change, refused};
use super::change::block_on;
use super::output::{Format, Paint, print, print_json};
use crate::control::journal::audit::{Broken, Entry, Head, VerifyError, verify_after, verify_file};

/// Before a stream that broke off is asked for again.
const PAUSE: Duration = Duration::from_secs(1);

/// Arguments of `tidegate audit`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Offline: tidegate audit --verify --file STATE_DIR/audit.jsonl")]
pub struct AuditArgs {
    /// Only this rollout's, and what was done to everything
    #[arg(value_name = "NAME")]
    pub rollout: Option<String>,
    /// How many, the newest
    #[arg(short = 'n', value_name = "N", default_value_t = 20)]
    pub newest: usize,
    /// Go on with each change as it happens, until Ctrl-C
    #[arg(short, long)]
    pub follow: bool,
    /// Check from the first entry to the last that none was changed or taken out; exit 1 if one was
    #[arg(long, conflicts_with_all = ["rollout", "follow", "newest"])]
    pub verify: bool,
    /// Read this audit log instead of asking a running tidegate
    #[arg(long, value_name = "PATH", conflicts_with = "follow")]
    pub file: Option<PathBuf>,
    /// How it is written; json is one entry a line
    #[arg(short, long, value_enum, default_value_t)]
    pub(super) output: Format,
    #[command(flatten)]
    pub(super) client: ClientArgs,
}

/// Shows, follows or checks it.
pub(super) fn run(args: &AuditArgs) -> anyhow::Result<ExitCode> {
    match &args.file {
        Some(path) if args.verify => told(args.output, &outcome(verify_file(path), path)?, true),
        Some(path) => {
            let mut newest = Newest::of(args);
            source::of_file(path, |entry| newest.take(entry))?;
            newest.print()?;
            Ok(ExitCode::SUCCESS)
        }
        None => {
            let client = args.client.client()?;
            block_on(async {
                match (args.verify, args.follow) {
                    (true, _) => told(args.output, &verified(&client).await?, false),
                    (false, true) => follow(args, &client).await,
                    (false, false) => show(args, &client).await.map(|_| ExitCode::SUCCESS),
                }
            })
        }
    }
}

// -- showing

/// The newest entries that somebody wants to see.
struct Newest<'a> {
    args: &'a AuditArgs,
    entries: VecDeque<Value>,
    /// The number of the last one, wanted or not.
    last: u64,
}

impl<'a> Newest<'a> {
    fn of(args: &'a AuditArgs) -> Self {
        Self { args, entries: VecDeque::new(), last: 0 }
    }

    fn take(&mut self, entry: Value) {
        self.last = entry["seq"].as_u64().unwrap_or(self.last);
        if is_wanted(self.args, &entry) {
            self.entries.push_back(entry);
            if self.entries.len() > self.args.newest {
                self.entries.pop_front();
            }
        }
    }

    fn print(&self) -> anyhow::Result<()> {
        if self.args.output == Format::Text {
            print(&text::head(Paint::detect()))?;
        }
        self.entries.iter().try_for_each(|entry| print_entry(self.args, entry))
    }
}

fn is_wanted(args: &AuditArgs, entry: &Value) -> bool {
    let Some(name) = &args.rollout else { return true };
    entry["scope"] == *name || entry["scope"] == "*"
}

fn print_entry(args: &AuditArgs, entry: &Value) -> anyhow::Result<()> {
    let line = match args.output {
        Format::Json => format!("{}\n", line(entry)),
        Format::Text => text::entry(&serde_json::from_value::<Change>(entry.clone())?, Paint::detect()),
    };
    Ok(print(&line)?)
}

/// The entry as it stands in the log: a hash can be checked only in that order of its fields.
fn line(entry: &Value) -> String {
    serde_json::from_value::<Entry>(entry.clone()).map_or_else(|_| entry.to_string(), |entry| entry.line())
}

/// Shows the newest entries, and gives the number of the last one.
async fn show(args: &AuditArgs, client: &Client) -> anyhow::Result<u64> {
    let mut newest = Newest::of(args);
    let mut pages = match args.rollout {
        None => Pages::newest(client, args.newest),
        Some(_) => Pages::after(client, 0), // nobody knows how far back its last ones are
    };
    while let Some(page) = pages.next().await? {
        page.into_iter().for_each(|entry| newest.take(entry));
    }
    newest.print()?;
    Ok(newest.last)
}

/// Shows what there is and then each change. A stream that breaks off is taken up again where it was.
async fn follow(args: &AuditArgs, client: &Client) -> anyhow::Result<ExitCode> {
    let mut last = show(args, client).await?;
    let following = async {
        loop {
            if let Err(error) = listen(args, client, &mut last).await {
                if error.is::<io::Error>() {
                    return Err(error); // nobody reads what we write
                }
                writeln!(io::stderr(), "tidegate: {error:#}")?;
            }
            sleep(PAUSE).await;
        }
    };
    tokio::select! {
        ended = following => ended,
        interrupted = tokio::signal::ctrl_c() => Ok(interrupted.map(|()| ExitCode::SUCCESS)?),
    }
}

/// Listens first and asks for what it has missed then, so that nothing falls between the two.
async fn listen(args: &AuditArgs, client: &Client, last: &mut u64) -> anyhow::Result<()> {
    let mut events = client.events("/api/v1/events").await?.map_err(|reply| refused(&reply, client))?;
    let mut pages = Pages::after(client, *last);
    while let Some(page) = pages.next().await? {
        page.iter().try_for_each(|entry| show_once(args, entry, last))?;
    }
    while let Some(event) = events.next().await {
        if event.name == "change" {
            show_once(args, &serde_json::from_str(&event.data)?, last)?;
        }
    }
    Ok(())
}

fn show_once(args: &AuditArgs, entry: &Value, last: &mut u64) -> anyhow::Result<()> {
    let seq = entry["seq"].as_u64().unwrap_or_default();
    if seq <= *last {
        return Ok(());
    }
    *last = seq;
    if is_wanted(args, entry) { print_entry(args, entry) } else { Ok(()) }
}

// -- checking

/// The end of a chain that is whole, or where it is not.
type Outcome = Result<Head, Broken>;

/// Checks everything that a running tidegate has on record.
async fn verified(client: &Client) -> anyhow::Result<Outcome> {
    let mut head = Head::default();
    let mut pages = Pages::after(client, 0);
    while let Some(page) = pages.next().await? {
        for entry in page {
            let read = serde_json::from_value(entry)
                .map_err(|error| Broken { seq: head.seq + 1, why: format!("it is not an entry: {error}") });
            match read.and_then(|entry| verify_after(head.clone(), [&entry])) {
                Ok(next) => head = next,
                Err(broken) => return Ok(Err(broken)),
            }
        }
    }
    Ok(Ok(head))
}

fn outcome(verified: Result<Head, VerifyError>, path: &Path) -> anyhow::Result<Outcome> {
    match verified {
        Ok(head) => Ok(Ok(head)),
        Err(VerifyError::Broken(broken)) => Ok(Err(broken)),
        Err(VerifyError::Read(error)) => Err(anyhow!("{}: {error}", path.display())),
    }
}

/// Tells what came of a check: exit code 0 if the chain is whole, else 1.
fn told(format: Format, outcome: &Outcome, offline: bool) -> anyhow::Result<ExitCode> {
    match (format, outcome) {
        (Format::Json, Ok(head)) => print_json(&json!({"intact": true, "entries": head.seq, "head": head.hash}))?,
        (Format::Json, Err(broken)) => {
            print_json(&json!({"intact": false, "broken_at": broken.seq, "why": broken.why}))?;
        }
        (Format::Text, Ok(head)) => print(&text::intact(head, offline))?,
        (Format::Text, Err(broken)) => writeln!(io::stderr(), "tidegate: {}", text::broken(broken))?,
    }
    Ok(if outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
