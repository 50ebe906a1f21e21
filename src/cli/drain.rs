//! `tidegate drain`: empties a side, and waits until it is.

use std::io::{self, IsTerminal as _};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use http::Method;
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::Usage;
use super::admin_client::{Ask, Client};
use super::answer::refused;
use super::change::{ChangeArgs, Wish, block_on};
use super::output::{Format, fitted, print};
use super::scope::Scope;
use super::status::progress;
use super::written::{self, Span};
use crate::admin::status::{DrainStatus, RolloutStatus};

/// How often it looks whether the side is empty.
const LOOK: Duration = Duration::from_millis(500);
/// How often a line is written where lines cannot be redrawn.
const TELL: Duration = Duration::from_secs(5);
/// How long it waits if nobody says so.
const DEADLINE: &str = "60s";
/// How long after the deadline of a server that cuts off everything ought to be gone.
const GRACE: Duration = Duration::from_secs(5);

/// Arguments of `tidegate drain`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example: tidegate drain ledger old --wait --deadline 5m")]
pub struct DrainArgs {
    /// The rollout
    #[arg(value_name = "NAME")]
    pub rollout: String,
    /// The side that gets no new requests; off lets both sides work again
    #[arg(value_name = "old|new|off", value_enum, hide_possible_values = true)]
    side: Drained,
    /// Wait until nothing runs there any more: exit 0, or 1 at the deadline
    #[arg(long)]
    pub wait: bool,
    /// How long to wait, or with --force, when to cut off [default: 60s]
    #[arg(long, value_name = "DURATION", value_parser = written::span)]
    pub deadline: Option<Span>,
    /// Cut off what still runs at the deadline
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub(super) change: ChangeArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Drained {
    Old,
    New,
    Off,
}

impl Drained {
    fn as_str(self) -> &'static str {
        match self {
            Self::Old => "old",
            Self::New => "new",
            Self::Off => "off",
        }
    }
}

/// Drains, and waits if that is asked for.
pub(super) fn run(args: &DrainArgs) -> anyhow::Result<ExitCode> {
    let wish = wish(args)?;
    let client = args.change.client.client()?;
    block_on(async {
        // Who only watches a drain does not begin it anew, in another name and for another reason.
        if args.wait && !args.force && drain_of(args, &client).await?.is_some_and(|drain| is_of(args.side, &drain)) {
            return wait(args, &client).await;
        }
        let done = args.change.make(&client, wish).await?;
        match args.wait && done == ExitCode::SUCCESS {
            true => wait(args, &client).await,
            false => Ok(done),
        }
    })
}

fn wish(args: &DrainArgs) -> anyhow::Result<Wish> {
    let scope = Scope::Rollout(args.rollout.clone());
    let (fields, next) = match args.side {
        Drained::Off if args.wait || args.force || args.deadline.is_some() => {
            return Err(Usage("--wait, --deadline and --force go with `old` or `new`".to_owned()).into());
        }
        Drained::Off => (json!({"side": Value::Null}), ("next", scope.status())),
        _ if args.deadline.is_some() && !args.wait && !args.force => {
            return Err(Usage("--deadline goes with --wait or --force".to_owned()).into());
        }
        side => {
            let deadline = args.force.then(|| deadline(args).map(|span| span.written)).transpose()?;
            let fields = json!({"side": side.as_str(), "deadline": deadline, "force": args.force});
            (fields, ("to end it", format!("tidegate drain {} off", scope.argument())))
        }
    };
    let mut body = args.change.body(fields);
    if args.side == Drained::Off {
        body["side"] = Value::Null; // said, not left out
    }
    let ask = Ask::change(Method::POST, scope.path("drain"), body);
    Ok(Wish { ask, scope, next })
}

fn deadline(args: &DrainArgs) -> anyhow::Result<Span> {
    args.deadline.clone().map_or_else(|| written::span(DEADLINE), Ok)
}

/// Looks until the side is empty: exit code 0, or 1 if it is not at the deadline.
async fn wait(args: &DrainArgs, client: &Client) -> anyhow::Result<ExitCode> {
    let begun = Instant::now();
    let patience = deadline(args)?.length + if args.force { GRACE } else { Duration::ZERO };
    let waiting = async {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut progress = Progress::new(args);
        loop {
            looks.tick().await;
            let seen = drain_of(args, client).await?;
            progress.show(seen.as_ref())?;
            match outcome(args.side, seen.as_ref(), begun.elapsed() >= patience) {
                Outcome::Waiting => {}
                outcome => return Ok::<_, anyhow::Error>((outcome, progress)),
            }
        }
    };
    tokio::select! {
        waited = waiting => {
            let (outcome, mut progress) = waited?;
            progress.end()?;
            told(args, &outcome, begun.elapsed())
        }
        interrupted = tokio::signal::ctrl_c() => {
            interrupted?;
            let off = command(args, "off", "");
            anyhow::bail!("not waiting any more; the drain goes on\n  to end it: {off}")
        }
    }
}

/// What came of waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// Nothing yet.
    Waiting,
    /// Nothing runs there any more.
    Empty,
    /// So many requests still run.
    Late(u64),
    /// Somebody or a rollback has ended the drain.
    Ended,
}

fn outcome(side: Drained, seen: Option<&DrainStatus>, is_late: bool) -> Outcome {
    match seen {
        Some(drain) if is_of(side, drain) && drain.done => Outcome::Empty,
        Some(drain) if is_of(side, drain) && is_late => Outcome::Late(drain.inflight),
        Some(drain) if is_of(side, drain) => Outcome::Waiting,
        Some(_) | None => Outcome::Ended,
    }
}

fn is_of(side: Drained, drain: &DrainStatus) -> bool {
    drain.side == side.as_str()
}

fn told(args: &DrainArgs, outcome: &Outcome, waited: Duration) -> anyhow::Result<ExitCode> {
    let (name, side, seconds) = (&args.rollout, args.side.as_str(), waited.as_secs());
    match outcome {
        Outcome::Waiting | Outcome::Empty => {
            if args.change.output == Format::Text {
                print(&format!(
                    "{name}: {side} is empty, after {seconds} s\nto end it: {}\n",
                    command(args, "off", "")
                ))?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Outcome::Ended => anyhow::bail!(
            "{name}: the drain of {side} was ended before it was empty\n  next: tidegate audit {name}{}",
            args.change.client.again()
        ),
        Outcome::Late(running) => {
            let requests =
                if *running == 1 { "1 request still runs" } else { &format!("{running} requests still run") };
            let wait = command(args, side, " --wait");
            let cut = command(args, side, " --wait --deadline 1s --force");
            let off = command(args, "off", "");
            anyhow::bail!(
                "{name}: {requests} on {side} after {seconds} s; the drain goes on\n  \
                 to wait on: {wait}\n  to cut them off: {cut}\n  to end it: {off}"
            )
        }
    }
}

fn command(args: &DrainArgs, side: &str, how: &str) -> String {
    format!("tidegate drain {} {side}{how}{}", args.rollout, args.change.client.again())
}

/// The drain as it is now; `None` if there is none any more.
async fn drain_of(args: &DrainArgs, client: &Client) -> anyhow::Result<Option<DrainStatus>> {
    let reply = client.get(Scope::Rollout(args.rollout.clone()).path("").trim_end_matches('/')).await?;
    if !reply.status.is_success() {
        return Err(refused(&reply, client));
    }
    let status: RolloutStatus = serde_json::from_slice(&reply.body)
        .with_context(|| format!("what listens at {} does not answer like tidegate", client.url()))?;
    Ok(status.drain)
}

/// One line that is redrawn in a terminal, a line now and then elsewhere, none for programs.
struct Progress<'a> {
    args: &'a DrainArgs,
    redraws: bool,
    told_at: Option<Instant>,
}

impl<'a> Progress<'a> {
    fn new(args: &'a DrainArgs) -> Self {
        Self { args, redraws: io::stdout().is_terminal(), told_at: None }
    }

    fn show(&mut self, drain: Option<&DrainStatus>) -> io::Result<()> {
        let Some(drain) = drain.filter(|drain| !drain.done && self.args.change.output == Format::Text) else {
            return Ok(());
        };
        let (facts, more) = progress(drain);
        let line = format!("{}: {}", self.args.rollout, [vec![facts], more].concat().join(", "));
        if self.redraws {
            self.told_at = Some(Instant::now());
            return print(&format!("\r\x1b[K{}", fitted(&line, 79)));
        }
        if self.told_at.is_none_or(|at| at.elapsed() >= TELL) {
            self.told_at = Some(Instant::now());
            print(&format!("{line}\n"))?;
        }
        Ok(())
    }

    /// Wipes the line that is redrawn.
    fn end(&mut self) -> io::Result<()> {
        if self.redraws && self.told_at.is_some() { print("\r\x1b[K") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Verb {
        #[command(flatten)]
        drain: DrainArgs,
    }

    fn args(words: &[&str]) -> DrainArgs {
        Verb::parse_from([&["drain", "ledger"], words].concat()).drain
    }

    fn drain(inflight: u64) -> DrainStatus {
        serde_json::from_value(
            json!({"side": "old", "inflight": inflight, "oldest_seconds": 3.0, "done": inflight == 0,
            "estimated_seconds": null, "cut_in_seconds": null, "at": "", "by": "alice", "reason": ""}),
        )
        .unwrap()
    }

    #[test]
    fn what_cannot_be_meant_is_wrong_usage() {
        for words in [&["off", "--wait"][..], &["off", "--force"], &["old", "--deadline", "5s"]] {
            assert!(wish(&args(words)).unwrap_err().is::<Usage>(), "{words:?}");
        }
        for words in [&["off"][..], &["old"], &["new", "--wait"], &["old", "--force"], &["old", "--wait", "--force"]] {
            assert!(wish(&args(words)).is_ok(), "{words:?}");
        }
    }

    #[test]
    fn waiting_ends_when_it_is_empty_or_late_or_over() {
        for (seen, is_late, came) in [
            (Some(drain(3)), false, Outcome::Waiting),
            (Some(drain(0)), false, Outcome::Empty),
            (Some(drain(0)), true, Outcome::Empty),
            (Some(drain(3)), true, Outcome::Late(3)),
            (None, false, Outcome::Ended),
        ] {
            assert_eq!(outcome(Drained::Old, seen.as_ref(), is_late), came);
        }
        assert_eq!(outcome(Drained::New, Some(&drain(0)), false), Outcome::Ended, "somebody drains the other side");
    }

    #[test]
    fn at_the_deadline_the_next_commands_are_told() {
        let late = told(&args(&["old", "--wait"]), &Outcome::Late(3), Duration::from_secs(60)).unwrap_err().to_string();
        let golden = "ledger: 3 requests still run on old after 60 s; the drain goes on\n  \
                      to wait on: tidegate drain ledger old --wait\n  \
                      to cut them off: tidegate drain ledger old --wait --deadline 1s --force\n  \
                      to end it: tidegate drain ledger off";
        assert_eq!(late, golden);
    }
}
