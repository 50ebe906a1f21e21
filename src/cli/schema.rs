//! `tidegate schema`: the JSON Schema of the config.

use std::process::ExitCode;

use super::output::print_json;
use crate::config;

/// Prints it.
pub(super) fn run() -> anyhow::Result<ExitCode> {
    print_json(&config::schema())?;
    Ok(ExitCode::SUCCESS)
}
