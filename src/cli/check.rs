//! `tidegate check`: whether a config is right, and if not, what is wrong where.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use clap::Args;
use serde_json::json;

use super::output::{Format, print, print_json};
use crate::config::{self, Config, ConfigError};
use crate::tls::Certificate;

/// Arguments of `tidegate check`.
#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// The config: YAML, TOML or JSON by its extension
    #[arg(short, long, value_name = "FILE")]
    pub config: PathBuf,
    /// How the findings are written
    #[arg(short = 'o', long, visible_alias = "output", value_enum, default_value_t)]
    pub(super) format: Format,
}

/// Checks, and tells by the exit code.
pub(super) fn run(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let loaded = load(&args.config);
    match args.format {
        Format::Json => print_json(&findings(&args.config, &loaded))?,
        Format::Text => match &loaded {
            Ok(config) => {
                print(&format!("{} is fine: {}\n", args.config.display(), contents(config)))?;
                for warning in warnings(config, SystemTime::now()) {
                    writeln!(io::stderr(), "warning: {warning}")?;
                }
            }
            Err(error) => write!(io::stderr(), "{error}")?,
        },
    }
    Ok(if loaded.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Reads the config at `path` with the process's own environment.
pub(super) fn load(path: &Path) -> Result<Config, ConfigError> {
    config::load(path, &|name| std::env::var(name).ok())
}

fn findings(path: &Path, loaded: &Result<Config, ConfigError>) -> serde_json::Value {
    match loaded {
        Ok(config) => json!({"file": path.display().to_string(), "valid": true, "hash": config.hash, "errors": [],
            "warnings": warnings(config, SystemTime::now())}),
        Err(error) => json!({"file": path.display().to_string(), "valid": false, "errors": error.to_json()}),
    }
}

/// What is right now and will not be for long.
fn warnings(config: &Config, now: SystemTime) -> Vec<String> {
    let soon = config.keyring.certificates().filter(|(_, certificate)| certificate.expires_soon(now));
    let told = |(path, certificate): (&Path, &Certificate)| {
        let days = counted(usize::try_from(certificate.days_left(now)).unwrap_or(0), "day");
        format!("the certificate {} expires in {days}, on {}", path.display(), certificate.valid_until())
    };
    soon.map(told).collect()
}

/// What a config holds, in one line.
fn contents(config: &Config) -> String {
    let rollouts = config.rollouts.iter().map(|(name, rollout)| {
        let flag = if [rollout.rollback, config.rollback].contains(&Some(true)) { ", rolled back" } else { "" };
        let guard = if rollout.guard.is_none() { ", guard off" } else { "" };
        format!("{name} at {}{flag}{guard}", rollout.configured())
    });
    let rollouts: Vec<String> = rollouts.collect();
    let named = if rollouts.is_empty() { String::new() } else { format!(" ({})", rollouts.join("; ")) };
    format!(
        "{}, {}{named}, {}, {}",
        counted(config.listeners.len(), "listener"),
        counted(config.rollouts.len(), "rollout"),
        counted(config.backends.len(), "backend"),
        counted(config.routes.len(), "route"),
    )
}

fn counted(count: usize, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Config, ConfigError> {
        config::parse(text.as_bytes(), Path::new("tidegate.yaml"), &|_| None)
    }

    const LEDGER: &str = "
listen: 127.0.0.1:8080
rollback: true
backends: {v2: {endpoints: [\"http://127.0.0.1:9001\"]}, v3: {endpoints: [\"http://127.0.0.1:9002\"]}}
rollouts: {ledger: {old: v2, new: v3, key: client_ip, percent: 12.5}}
";

    #[test]
    fn a_good_config_is_summed_up() {
        let config = parsed(LEDGER).unwrap();
        assert_eq!(contents(&config), "1 listener, 1 rollout (ledger at 12.5 %, rolled back), 2 backends, 1 route");
        let unguarded = parsed(&LEDGER.replace("12.5", "12.5, guard: {enabled: false}")).unwrap();
        assert!(
            contents(&unguarded).contains("(ledger at 12.5 %, rolled back, guard off)"),
            "{}",
            contents(&unguarded)
        );
        let findings = findings(Path::new("tidegate.yaml"), &Ok(config));
        assert_eq!((&findings["valid"], &findings["errors"]), (&json!(true), &json!([])));
    }

    #[test]
    fn a_bad_config_is_told_to_programs() {
        let findings = findings(Path::new("tidegate.yaml"), &parsed(&LEDGER.replace("12.5", "120")));
        assert_eq!(findings["valid"], false);
        assert_eq!(findings["errors"][0]["path"], "rollouts.ledger.percent");
    }
}
