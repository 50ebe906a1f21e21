//! `tidegate step`: stops a ramp where it stands, and lets it go on.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use http::Method;
use serde_json::json;

use super::admin_client::Ask;
use super::change::{ChangeArgs, Wish, block_on};
use super::scope::Scope;

/// Arguments of `tidegate step`.
#[derive(Clone, Debug, Args)]
pub struct StepArgs {
    #[command(subcommand)]
    act: Act,
}

#[derive(Clone, Debug, Subcommand)]
enum Act {
    /// Stay at the step where it stands
    Pause(RampArgs),
    /// Go on climbing
    Continue(RampArgs),
}

/// Arguments of both.
#[derive(Clone, Debug, Args)]
struct RampArgs {
    /// The rollout
    #[arg(value_name = "NAME")]
    rollout: String,
    #[command(flatten)]
    change: ChangeArgs,
}

/// Pauses or continues.
pub(super) fn run(args: &StepArgs) -> anyhow::Result<ExitCode> {
    let (verb, args) = match &args.act {
        Act::Pause(args) => ("pause", args),
        Act::Continue(args) => ("continue", args),
    };
    let client = args.change.client.client()?;
    let scope = Scope::Rollout(args.rollout.clone());
    let next = match verb {
        "pause" => ("to go on", format!("tidegate step continue {}", scope.argument())),
        _ => ("next", scope.status()),
    };
    let ask = Ask::change(Method::POST, scope.path(verb), args.change.body(json!({})));
    block_on(args.change.make(&client, Wish { ask, scope, next }))
}
