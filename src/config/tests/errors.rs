//! What people read when a config is wrong.

use std::path::Path;

use super::{MINIMAL, complaints, minimal, read, yaml};
use crate::config::parse;

fn told(file: &str, text: &str) -> String {
    read(file, text).expect_err(text).to_string()
}
