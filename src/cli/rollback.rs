//! `tidegate rollback`: everybody to OLD, until somebody resumes.

use std::process::ExitCode;

use anyhow::anyhow;
use clap::Args;
use http::Method;
use serde_json::json;

use super::admin_client::{Ask, ClientError};
use super::change::{ChangeArgs, TO_LIFT, Wish, block_on};
use super::scope::Scope;

/// What rolls back when the admin side does not answer.
const ANOTHER_DOOR: &str = "touch STATE_DIR/ROLLBACK on its machine; state_dir stands in its config";

/// Arguments of `tidegate rollback`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "If nothing answers: touch STATE_DIR/ROLLBACK")]
pub struct RollbackArgs {
    /// The rollout; not needed if there is only one
    #[arg(value_name = "NAME", conflicts_with = "all")]
    pub rollout: Option<String>,
    /// Every rollout
    #[arg(long)]
    pub all: bool,
    #[command(flatten)]
    pub(super) change: ChangeArgs,
}

/// Rolls back.
pub(super) fn run(args: &RollbackArgs) -> anyhow::Result<ExitCode> {
    let client = args.change.client.client()?;
    let done = block_on(async {
        let scope = match args.all {
            true => Scope::Everything,
            false => Scope::rollout_or_only(args.rollout.as_deref(), "rollback", &client).await?,
        };
        let ask = Ask::change(Method::POST, scope.path("rollback"), args.change.body(json!({})));
        let next = (TO_LIFT, format!("tidegate resume {}", scope.argument()));
        args.change.make(&client, Wish { ask, scope, next }).await
    });
    done.map_err(|error| match error.is::<ClientError>() {
        true => anyhow!("{error}\n  next: {ANOTHER_DOOR}"),
        false => error,
    })
}
