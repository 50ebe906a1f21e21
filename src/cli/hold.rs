//! `tidegate hold`: makes requests wait, or lets them go on.

use std::process::ExitCode;

use clap::Args;
use http::Method;
use serde_json::{Value, json};

use super::Usage;
use super::admin_client::Ask;
use super::change::{ChangeArgs, Wish, block_on};
use super::standing::StandingArgs;
use super::written::{self, Span};

/// Arguments of `tidegate hold`.
#[derive(Clone, Debug, Args)]
#[command(allow_missing_positional = true)]
#[command(after_help = "Example: tidegate hold ledger on --max-wait 5s --reason 'the index is swapped'")]
pub struct HoldArgs {
    #[command(flatten)]
    standing: StandingArgs,
    /// How long a request waits before it is turned away, instead of what the config says
    #[arg(long, value_name = "DURATION", value_parser = written::span)]
    pub max_wait: Option<Span>,
    #[command(flatten)]
    pub(super) change: ChangeArgs,
}

/// Holds or lets go.
pub(super) fn run(args: &HoldArgs) -> anyhow::Result<ExitCode> {
    let fields = fields(args)?;
    let client = args.change.client.client()?;
    block_on(async {
        let scope = args.standing.scope("hold", &client).await?;
        let ask = Ask::change(Method::POST, scope.path("hold"), args.change.body(fields));
        let next = args.standing.next("hold", &scope);
        args.change.make(&client, Wish { ask, scope, next }).await
    })
}

fn fields(args: &HoldArgs) -> Result<Value, Usage> {
    let max_wait = args.max_wait.as_ref().map(|span| &span.written);
    match (args.standing.is_on(), max_wait) {
        (true, max_wait) => Ok(json!({"on": true, "max_wait": max_wait})),
        (false, None) => Ok(json!({"on": false})),
        (false, Some(_)) => Err(Usage("--max-wait goes with `on`".to_owned())),
    }
}
