//! `tidegate status`: what is in force and what the traffic does.

mod text;

use std::process::ExitCode;

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use jiff::Timestamp;
use serde_json::Value;

pub(super) use self::text::progress;
use super::admin_client::{Client, ClientArgs};
use super::answer::refused;
use super::change::block_on;
use super::output::{Format, Paint, Screen, cleaned, harmless};
use super::watch::show;
use crate::admin::status::Status;
use crate::admin::unknown_rollout;

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
        show(args.watch, args.output, async || look(args, &client).await).await?;
        Ok(ExitCode::SUCCESS)
    })
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
            let again = args.client.again();
            let look = (Screen::detect(), Paint::detect());
            Ok(text::render(&status, &client.url().to_string(), &again, Timestamp::now(), look))
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
}
