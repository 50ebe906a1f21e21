//! `tidegate guard`: what the guard knows of NEW, and what it would take to trip it.

mod doubt;
mod text;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use jiff::Timestamp;
use serde_json::Value;

pub(super) use self::doubt::doubt;
use super::admin_client::{Client, ClientArgs};
use super::answer::refused;
use super::change::block_on;
use super::output::{Format, Paint, cleaned};
use super::scope::Scope;
use super::watch::show;

/// What stands below the arguments in `tidegate guard --help`.
const ABOUT_ODDS: &str = "\
Odds of 12: what was counted is 12 times likelier from a new that is that much
worse than from one that is not. It trips when all bars of a kind are full.";

/// Arguments of `tidegate guard`.
#[derive(Clone, Debug, Args)]
#[command(after_help = ABOUT_ODDS)]
pub struct GuardArgs {
    /// The rollout; not needed if there is only one
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
pub(super) fn run(args: &GuardArgs) -> anyhow::Result<ExitCode> {
    let client = args.client.client()?;
    block_on(async {
        let scope = Scope::named_or_only(args.rollout.as_deref(), "guard", &[], &client).await?;
        show(args.watch, args.output, async || look(args, &scope, &client).await).await?;
        Ok(ExitCode::SUCCESS)
    })
}

async fn look(args: &GuardArgs, scope: &Scope, client: &Client) -> anyhow::Result<String> {
    let reply = client.get(&scope.path("guard")).await?;
    if !reply.status.is_success() {
        return Err(refused(&reply, client));
    }
    let told: Value = serde_json::from_slice(&reply.body)
        .with_context(|| format!("what listens at {} does not answer like tidegate", client.url()))?;
    match args.output {
        Format::Json => Ok(format!("{told:#}\n")),
        Format::Text => {
            let report = serde_json::from_value(cleaned(told))
                .context("this tidegate speaks another version than the one it asks")?;
            Ok(text::render(&report, &args.client.again(), Timestamp::now(), Paint::detect()))
        }
    }
}
