//! `tidegate reload`: reads the config again, now.

use std::process::ExitCode;

use clap::Args;
use http::Method;
use serde_json::json;

use super::admin_client::Ask;
use super::change::{ChangeArgs, Wish, block_on};
use super::scope::Scope;

/// Arguments of `tidegate reload`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Changes of the file are seen without it; this also reads the files that the config names.")]
pub struct ReloadArgs {
    #[command(flatten)]
    pub(super) change: ChangeArgs,
}

/// Has it read.
pub(super) fn run(args: &ReloadArgs) -> anyhow::Result<ExitCode> {
    let client = args.change.client.client()?;
    let scope = Scope::Everything;
    let ask = Ask::change(Method::POST, scope.path("reload"), args.change.body(json!({})));
    block_on(args.change.make(&client, Wish { ask, next: ("next", scope.status()), scope }))
}
