//! `tidegate switch`: the other colour of a blue/green rollout.

use std::process::ExitCode;

use clap::Args;
use http::Method;
use serde_json::json;

use super::admin_client::Ask;
use super::change::{ChangeArgs, Wish, block_on};
use super::scope::Scope;

/// Arguments of `tidegate switch`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "It looks at every endpoint of the target first, and changes nothing if one is not well.")]
pub struct SwitchArgs {
    /// The rollout
    #[arg(value_name = "NAME")]
    pub rollout: String,
    /// To the colour that served before
    #[arg(long)]
    pub back: bool,
    /// Also if the target is not well or the schedule says no; that is recorded
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub(super) change: ChangeArgs,
}

/// Switches.
pub(super) fn run(args: &SwitchArgs) -> anyhow::Result<ExitCode> {
    let client = args.change.client.client()?;
    let scope = Scope::Rollout(args.rollout.clone());
    let next = match args.back {
        true => ("next", scope.status()),
        false => ("to go back", format!("tidegate switch {} --back", scope.argument())),
    };
    let body = args.change.body(json!({"back": args.back, "force": args.force}));
    let ask = Ask::change(Method::POST, scope.path("switch"), body).patiently();
    block_on(args.change.make(&client, Wish { ask, scope, next }))
}
