//! `tidegate set`: puts a percent over the configured one, or takes it away again.

use std::process::ExitCode;

use clap::{ArgGroup, Args};
use http::Method;
use serde_json::json;

use super::admin_client::Ask;
use super::change::{ChangeArgs, Wish, block_on};
use super::scope::Scope;
use super::written;
use crate::policy::bucket::Percent;

/// Arguments of `tidegate set`.
#[derive(Clone, Debug, Args)]
#[command(group(ArgGroup::new("what").required(true).args(["percent", "clear"])))]
#[command(after_help = "Example: tidegate set ledger --percent 25 --reason INC-7")]
pub struct SetArgs {
    /// The rollout
    #[arg(value_name = "NAME")]
    pub rollout: String,
    /// The share on NEW, 0 to 100; it counts until the file changes its own or somebody clears it
    #[arg(long, value_name = "PERCENT", value_parser = written::percent, allow_negative_numbers = true)]
    pub percent: Option<Percent>,
    /// Back to what the config says
    #[arg(long, conflicts_with = "force")]
    pub clear: bool,
    /// Also if the schedule says no; that is recorded
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub(super) change: ChangeArgs,
}

/// Sets or clears it.
pub(super) fn run(args: &SetArgs) -> anyhow::Result<ExitCode> {
    let client = args.change.client.client()?;
    block_on(args.change.make(&client, wish(args)))
}

fn wish(args: &SetArgs) -> Wish {
    let scope = Scope::Rollout(args.rollout.clone());
    let (method, fields) = match args.percent {
        Some(percent) => (Method::PUT, json!({"percent": percent.as_f64(), "force": args.force})),
        None => (Method::DELETE, json!({})),
    };
    let ask = Ask::change(method, scope.path("percent"), args.change.body(fields));
    Wish { ask, next: ("next", scope.status()), scope }
}
