//! `tidegate healthcheck`: the answer of `/readyz` or `/livez` as an exit code.

use std::process::ExitCode;

use clap::Args;
use serde_json::Value;

use super::admin_client::{AdminArgs, Client, Reply};
use super::change::block_on;
use super::output::{harmless, print};

/// Arguments of `tidegate healthcheck`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "In a Dockerfile: HEALTHCHECK CMD [\"tidegate\", \"healthcheck\"]")]
pub struct HealthcheckArgs {
    /// Ask whether the process lives, not whether it is ready for traffic
    #[arg(long)]
    pub live: bool,
    #[command(flatten)]
    pub(super) admin: AdminArgs,
}

/// Asks, and tells by the exit code.
pub(super) fn run(args: &HealthcheckArgs) -> anyhow::Result<ExitCode> {
    let path = if args.live { "/livez" } else { "/readyz" };
    let client = Client::nobody(&args.admin.admin);
    let reply = block_on(async { Ok(client.get(path).await?) })?;
    print(&format!("{}\n", in_words(&reply)))?;
    Ok(if reply.status.is_success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What the answer says: a problem's detail, or the text itself.
pub(super) fn in_words(reply: &Reply) -> String {
    let problem: Option<Value> = serde_json::from_slice(&reply.body).ok();
    let detail = problem.as_ref().and_then(|problem| problem.get("detail")?.as_str());
    match detail {
        Some(detail) => harmless(detail),
        None => harmless(String::from_utf8_lossy(&reply.body).trim()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::StatusCode;

    #[test]
    fn the_reason_is_told_in_words() {
        for (body, words) in [
            ("ready\n", "ready"),
            (r#"{"title":"Service Unavailable","status":503,"detail":"Draining."}"#, "Draining."),
            ("<html>", "<html>"),
        ] {
            let reply = Reply { status: StatusCode::OK, body: body.into() };
            assert_eq!(in_words(&reply), words);
        }
    }
}
