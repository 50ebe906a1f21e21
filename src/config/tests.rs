//! The config from outside: a text goes in, a checked config or a told error comes out.

mod backends;
mod errors;
mod forms;
mod guard;
mod guests;
mod hostile;
mod moves;
mod queries;
mod webhooks;

use std::path::Path;

use super::{Config, ConfigError, parse};

const MINIMAL: &str = include_str!("../../config/minimal.yaml");
const EXAMPLE: &str = include_str!("../../config/example.yaml");

fn read(file: &str, text: &str) -> Result<Config, ConfigError> {
    parse(text.as_bytes(), Path::new(file), &|_| None)
}

fn yaml(text: &str) -> Result<Config, ConfigError> {
    read("tidegate.yaml", text)
}

/// The smallest config with some of its text replaced.
fn minimal(replaced: &str, by: &str) -> String {
    assert!(MINIMAL.contains(replaced), "{replaced}");
    MINIMAL.replace(replaced, by)
}

/// The messages for a config, each with its path.
fn complaints(text: &str) -> Vec<String> {
    let error = yaml(text).expect_err(text);
    error.faults().iter().map(|fault| format!("{}: {}", fault.path, fault.message)).collect()
}
