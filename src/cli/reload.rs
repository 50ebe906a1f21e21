//! `tidegate reload`: reads the config again, now.

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use http::Method;
use serde_json::{Value, json};

use super::admin_client::{Ask, Client};
use super::answer::refused;
use super::change::{ChangeArgs, as_json, block_on};
use super::output::{Format, cleaned, harmless, print};
use super::scope::Scope;
use crate::admin::answer::Reloaded;

/// Arguments of `tidegate reload`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Changes of the file are seen without it; this also reads the files that the config names.")]
pub struct ReloadArgs {
    #[command(flatten)]
    pub(super) change: ChangeArgs,
}

/// Has it read.
pub(super) fn run(args: &ReloadArgs) -> anyhow::Result<ExitCode> {
    let ReloadArgs { change } = args;
    let client = change.client.client()?;
    let scope = Scope::Everything;
    let ask = Ask::change(Method::POST, scope.path("reload"), change.body(json!({})));
    let reply = block_on(async { Ok(client.ask(ask).await?) })?;
    if change.output == Format::Json {
        print(&as_json(&reply))?;
        return Ok(if reply.status.is_success() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    if !reply.status.is_success() {
        return Err(refused(&reply, &client));
    }
    let reloaded: Reloaded = serde_json::from_slice(&reply.body)
        .with_context(|| format!("what listens at {} does not answer like tidegate", client.url()))?;
    print(&told(&reloaded, &format!("{}{}", scope.status(), change.client.again())))?;
    for trouble in block_on(stale(&client))? {
        writeln!(io::stderr(), "warning: {trouble}")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Files of TLS that could not be read again.
async fn stale(client: &Client) -> anyhow::Result<Vec<String>> {
    let status: Value = serde_json::from_slice(&client.get("/api/v1/status").await?.body)?;
    let troubles = cleaned(status)["tls"]["troubles"].as_array().cloned().unwrap_or_default();
    let told = |trouble: &Value| {
        let (file, message) = (trouble["file"].as_str()?, trouble["message"].as_str()?);
        Some(format!("{file}: what was read before stays in use: {message}"))
    };
    Ok(troubles.iter().filter_map(told).collect())
}

fn told(reloaded: &Reloaded, next: &str) -> String {
    let restart = match reloaded.needs_restart.as_slice() {
        [] => String::new(),
        keys => format!("a restart is needed for what changed in: {}\n", harmless(&keys.join(", "))),
    };
    format!("the config was read and is in force, hash {}\n{restart}next: {next}\n", harmless(&reloaded.hash))
}
