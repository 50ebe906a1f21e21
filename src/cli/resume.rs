//! `tidegate resume`: lifts a rollback.

use std::process::ExitCode;

use clap::Args;
use http::Method;
use serde_json::json;

use super::admin_client::Ask;
use super::change::{ChangeArgs, Wish, block_on};
use super::scope::Scope;
use super::written;
use crate::policy::bucket::Percent;

/// Arguments of `tidegate resume`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example: tidegate resume ledger --percent 1 --reason 'INC-7 is mended'")]
pub struct ResumeArgs {
    /// The rollout; not needed if there is only one
    #[arg(value_name = "NAME", conflicts_with = "all")]
    pub rollout: Option<String>,
    /// Every rollout
    #[arg(long)]
    pub all: bool,
    /// Come back at this share on NEW instead of the one before
    #[arg(long, value_name = "PERCENT", value_parser = written::percent, allow_negative_numbers = true, conflicts_with = "all")]
    pub percent: Option<Percent>,
    #[command(flatten)]
    pub(super) change: ChangeArgs,
}

/// Lifts it.
pub(super) fn run(args: &ResumeArgs) -> anyhow::Result<ExitCode> {
    let client = args.change.client.client()?;
    block_on(async {
        let scope = match args.all {
            true => Scope::Everything,
            false => Scope::rollout_or_only(args.rollout.as_deref(), "resume", &client).await?,
        };
        let body = args.change.body(json!({"percent": args.percent.map(Percent::as_f64)}));
        let ask = Ask::change(Method::POST, scope.path("resume"), body);
        args.change.make(&client, Wish { ask, next: ("next", scope.status()), scope }).await
    })
}
