//! `tidegate maintenance`: turns the public away politely, or serves it again.

use std::process::ExitCode;

use clap::Args;
use http::Method;
use serde_json::{Value, json};

use super::Usage;
use super::admin_client::Ask;
use super::change::{ChangeArgs, Wish, block_on};
use super::standing::StandingArgs;
use super::written;

/// Arguments of `tidegate maintenance`.
#[derive(Clone, Debug, Args)]
#[command(allow_missing_positional = true)]
#[command(after_help = "Example: tidegate maintenance ledger on --message 'Back at seven' --retry-after 30m")]
pub struct MaintenanceArgs {
    #[command(flatten)]
    standing: StandingArgs,
    /// What people are told, instead of what the config says
    #[arg(long, value_name = "TEXT")]
    pub message: Option<String>,
    /// Still serve GET, HEAD and OPTIONS
    #[arg(long)]
    pub read_only: bool,
    /// When clients should come back: 30m, or 2026-11-21T07:00:00Z
    #[arg(long, value_name = "WHEN", value_parser = written::span_or_time)]
    pub retry_after: Option<String>,
    #[command(flatten)]
    pub(super) change: ChangeArgs,
}

/// Turns it on or off.
pub(super) fn run(args: &MaintenanceArgs) -> anyhow::Result<ExitCode> {
    let fields = fields(args)?;
    let client = args.change.client.client()?;
    block_on(async {
        let scope = args.standing.scope("maintenance", &client).await?;
        let ask = Ask::change(Method::POST, scope.path("maintenance"), args.change.body(fields));
        let next = args.standing.next("maintenance", &scope);
        args.change.make(&client, Wish { ask, scope, next }).await
    })
}

fn fields(args: &MaintenanceArgs) -> Result<Value, Usage> {
    if args.standing.is_on() {
        let MaintenanceArgs { message, read_only, retry_after, .. } = args;
        return Ok(json!({"on": true, "message": message, "read_only": read_only, "retry_after": retry_after}));
    }
    if args.message.is_some() || args.read_only || args.retry_after.is_some() {
        return Err(Usage("--message, --read-only and --retry-after go with `on`".to_owned()));
    }
    Ok(json!({"on": false}))
}
