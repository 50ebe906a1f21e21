//! `tidegate promote`: the ramp's next step, or its end.

use std::process::ExitCode;

use clap::Args;
use http::Method;
use serde_json::json;

use super::admin_client::Ask;
use super::change::{ChangeArgs, Wish, block_on};
use super::scope::Scope;

/// Arguments of `tidegate promote`.
#[derive(Clone, Debug, Args)]
pub struct PromoteArgs {
    /// The rollout
    #[arg(value_name = "NAME")]
    pub rollout: String,
    /// To 100 % at once
    #[arg(long)]
    pub full: bool,
    /// Also if the schedule says no; that is recorded
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub(super) change: ChangeArgs,
}

/// Goes on to the next step.
pub(super) fn run(args: &PromoteArgs) -> anyhow::Result<ExitCode> {
    let client = args.change.client.client()?;
    let scope = Scope::Rollout(args.rollout.clone());
    let body = args.change.body(json!({"full": args.full, "force": args.force}));
    let ask = Ask::change(Method::POST, scope.path("promote"), body);
    block_on(args.change.make(&client, Wish { ask, next: ("next", scope.status()), scope }))
}
