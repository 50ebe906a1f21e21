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

/// What is allowed and hardly meant, and what will not be right for long.
fn warnings(config: &Config, now: SystemTime) -> Vec<String> {
    let mut warnings = same_on_both_sides(config);
    warnings.extend(expiring(config, now));
    warnings.extend(nameless(config));
    warnings.extend(places(config));
    warnings
}

/// Rollouts whose rollback would change nothing.
pub(super) fn same_on_both_sides(config: &Config) -> Vec<String> {
    let addresses = |backend: &String| {
        let mut addresses: Vec<&config::Address> =
            config.backends[backend].endpoints.iter().map(|endpoint| &endpoint.address).collect();
        addresses.sort();
        addresses
    };
    let same = config.rollouts.iter().filter(|(_, rollout)| addresses(&rollout.old) == addresses(&rollout.new));
    let told = |(name, _): (&String, _)| {
        format!(
            "old and new of the rollout {name} are the same endpoints: to go from one to the other, or back, changes nothing"
        )
    };
    same.map(told).collect()
}

/// Certificates of listeners that no client takes for any host: browsers and libraries look at nothing but these names.
fn nameless(config: &Config) -> Vec<String> {
    let pairs = config.listeners.iter().filter_map(|listener| listener.tls.as_ref()).flat_map(|tls| &tls.pairs);
    let files: Vec<&Path> = pairs.map(|pair| pair.certificate.as_path()).collect();
    let has_none = |(path, certificate): &(&Path, &Certificate)| files.contains(path) && !certificate.has_names;
    let told = |(path, _): (&Path, _)| {
        format!("the certificate {} is for no name (it has no subjectAltName): no client will take it", path.display())
    };
    config.keyring.certificates().filter(has_none).map(told).collect()
}

/// Folders and files without which a start fails.
fn places(config: &Config) -> Vec<String> {
    let mut warnings = Vec::new();
    let sockets = config.listeners.iter().map(|listener| &listener.address).chain([&config.admin.address]);
    for path in sockets.filter_map(socket) {
        let folder = path.parent().unwrap_or(Path::new("/"));
        if !folder.is_dir() {
            warnings.push(format!("there is no folder {} for the socket {}", folder.display(), path.display()));
        }
    }
    if let Some(path) = config.state_dir.as_ref().filter(|path| path.exists() && !path.is_dir()) {
        warnings.push(format!("state_dir {} is not a folder", path.display()));
    }
    if let Some(config::AccessLog::File(path)) = &config.access_log {
        let folder = path.parent().unwrap_or(Path::new("/"));
        if path.is_dir() || !folder.is_dir() {
            warnings.push(format!("access_log {} cannot be opened: its folder has to exist", path.display()));
        }
    }
    warnings
}

fn socket(address: &config::ListenAddress) -> Option<&Path> {
    match address {
        config::ListenAddress::Unix(path) => Some(path),
        config::ListenAddress::Tcp(_) => None,
    }
}

fn expiring(config: &Config, now: SystemTime) -> Vec<String> {
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
    fn two_sides_that_are_one_are_warned_about() {
        let warned = |text: &str| warnings(&parsed(text).unwrap(), SystemTime::now());
        assert_eq!(warned(LEDGER), [""; 0]);
        for same in [LEDGER.replace("9002", "9001"), LEDGER.replace("new: v3", "new: v2")] {
            let warned = warned(&same);
            assert_eq!(warned.len(), 1, "{same}");
            assert!(warned[0].starts_with("old and new of the rollout ledger are the same endpoints"), "{warned:?}");
        }
    }

    #[test]
    fn places_that_are_not_there_are_warned_about() {
        let nowhere =
            "access_log: /nowhere/access.log\nstate_dir: /etc/hosts\nadmin: {address: \"unix:/nowhere/adm.sock\"}\n";
        let warned = warnings(&parsed(&format!("{LEDGER}{nowhere}")).unwrap(), SystemTime::now());
        let expected = [
            "there is no folder /nowhere for the socket /nowhere/adm.sock",
            "state_dir /etc/hosts is not a folder",
            "access_log /nowhere/access.log cannot be opened: its folder has to exist",
        ];
        assert_eq!(warned, expected);
    }

    #[test]
    fn a_bad_config_is_told_to_programs() {
        let findings = findings(Path::new("tidegate.yaml"), &parsed(&LEDGER.replace("12.5", "120")));
        assert_eq!(findings["valid"], false);
        assert_eq!(findings["errors"][0]["path"], "rollouts.ledger.percent");
    }
}
