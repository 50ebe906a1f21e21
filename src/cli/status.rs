//! `tidegate status`: what is in force and what the traffic does.

mod text;

use std::io::{self, IsTerminal as _};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use jiff::Timestamp;
use serde_json::Value;

pub(super) use self::text::progress;
use super::admin_client::{Client, ClientArgs};
use super::answer::refused;
use super::change::block_on;
use super::output::{Format, Paint, harmless, print};
use crate::admin::status::Status;
use crate::admin::unknown_rollout;

/// How often `--watch` looks.
const PERIOD: Duration = Duration::from_secs(1);

/// Arguments of `tidegate status`.
#[derive(Clone, Debug, Args)]
pub struct StatusArgs {
    /// Only this rollout
    #[arg(value_name = "NAME")]
    pub rollout: Option<String>,
    /// Look again every second, until Ctrl-C
    #[arg(short, long)]
    pub watch: bool,
    /// How it is written
    #[arg(short, long, value_enum, default_value_t)]
    pub(super) output: Format,
    #[command(flatten)]
    pub(super) client: ClientArgs,
}

/// Shows it once, or until Ctrl-C.
pub(super) fn run(args: &StatusArgs) -> anyhow::Result<ExitCode> {
    let client = args.client.client()?;
    block_on(async {
        if args.watch {
            watch(args, &client).await?;
        } else {
            print(&look(args, &client).await?)?;
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// Redraws what there is to see. An instance that cannot be reached may come back, so that is no reason to stop.
async fn watch(args: &StatusArgs, client: &Client) -> anyhow::Result<()> {
    let in_place = io::stdout().is_terminal() && args.output == Format::Text;
    let looking = async {
        let mut ticks = tokio::time::interval(PERIOD);
        loop {
            ticks.tick().await;
            let seen = look(args, client).await.unwrap_or_else(|error| format!("{error:#}\n"));
            print(&if in_place { redrawn(&seen) } else { seen })?;
        }
    };
    tokio::select! {
        ended = looking => ended,
        interrupted = tokio::signal::ctrl_c() => Ok(interrupted?),
    }
}

/// `text` written over what stood there before: line by line, so that nothing flickers.
fn redrawn(text: &str) -> String {
    format!("\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n"))
}

async fn look(args: &StatusArgs, client: &Client) -> anyhow::Result<String> {
    let mut status = fetch(client).await?;
    if let Some(name) = &args.rollout {
        keep_only(&mut status, name)?;
    }
    match args.output {
        Format::Json => Ok(format!("{:#}\n", json_of(status, args.rollout.is_some()))),
        Format::Text => {
            let status: Status = serde_json::from_value(cleaned(status))
                .context("this tidegate speaks another version than the one it asks")?;
            {
                let again = args.client.again();
                Ok(text::render(&status, &client.url().to_string(), &again, Timestamp::now(), Paint::detect()))
            }
        }
    }
}

async fn fetch(client: &Client) -> anyhow::Result<Value> {
    let reply = client.get("/api/v1/status").await?;
    if !reply.status.is_success() {
        return Err(refused(&reply, client));
    }
    serde_json::from_slice(&reply.body)
        .with_context(|| format!("what listens at {} does not answer like tidegate", client.url()))
}

/// Drops all rollouts but `name`.
fn keep_only(status: &mut Value, name: &str) -> anyhow::Result<()> {
    let rollouts = status.get_mut("rollouts").and_then(Value::as_array_mut).ok_or_else(|| anyhow!("no rollouts"))?;
    let known: Vec<String> = rollouts.iter().filter_map(|r| r["name"].as_str().map(harmless)).collect();
    rollouts.retain(|rollout| rollout["name"] == name);
    if rollouts.is_empty() {
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        bail!("{}", unknown_rollout(name, &known));
    }
    Ok(())
}

/// What programs get: all of it, or the one rollout they asked for.
fn json_of(mut status: Value, one: bool) -> Value {
    if one { status["rollouts"][0].take() } else { status }
}

/// `value` with every string fit for a terminal.
fn cleaned(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(harmless(&text)),
        Value::Array(items) => items.into_iter().map(cleaned).collect(),
        Value::Object(entries) => entries.into_iter().map(|(key, value)| (key, cleaned(value))).collect(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn one_rollout_is_all_that_is_told_of() {
        let both = json!({"version": "1", "rollouts": [{"name": "a"}, {"name": "ledger"}]});
        let mut status = both.clone();
        keep_only(&mut status, "ledger").unwrap();
        assert_eq!(json_of(status, true), json!({"name": "ledger"}));
        let error = keep_only(&mut both.clone(), "legder").unwrap_err();
        assert_eq!(error.to_string(), "There is no rollout `legder`. Did you mean `ledger`?");
    }

    #[test]
    fn strings_are_cleaned_wherever_they_stand() {
        assert_eq!(cleaned(json!({"a": ["\u{1b}[2J"]})), json!({"a": ["\u{fffd}[2J"]}));
    }

    #[test]
    fn a_redrawn_screen_keeps_nothing_of_the_last() {
        assert_eq!(redrawn("a\nb\n"), "\x1b[Ha\x1b[K\nb\x1b[K\n\x1b[J");
    }
}
