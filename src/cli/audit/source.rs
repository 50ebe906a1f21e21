//! Where audit entries come from: a running tidegate, page by page, or its log.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use anyhow::Context as _;
use serde::Deserialize;
use serde_json::Value;

use crate::cli::admin_client::Client;
use crate::cli::answer::refused;

/// Entries that are asked for at once.
const PAGE: usize = 1000;

/// Entries of a running tidegate, oldest first.
#[derive(Debug)]
pub(super) struct Pages<'a> {
    client: &'a Client,
    after: u64,
    is_over: bool,
}

/// What the API answers.
#[derive(Debug, Deserialize)]
struct Page {
    entries: Vec<Value>,
}

impl<'a> Pages<'a> {
    /// All entries behind number `after`.
    pub(super) fn after(client: &'a Client, after: u64) -> Self {
        Self { client, after, is_over: false }
    }

    /// The next page; `None` behind the last one.
    pub(super) async fn next(&mut self) -> anyhow::Result<Option<Vec<Value>>> {
        if self.is_over {
            return Ok(None);
        }
        let path = format!("/api/v1/audit?after={}&limit={PAGE}", self.after);
        let reply = self.client.get(&path).await?;
        if !reply.status.is_success() {
            return Err(refused(&reply, self.client));
        }
        let page: Page = serde_json::from_slice(&reply.body)
            .with_context(|| format!("what listens at {} does not answer like tidegate", self.client.url()))?;
        let last = page.entries.last().and_then(|entry| entry["seq"].as_u64());
        self.is_over = page.entries.len() < PAGE || last.is_none_or(|last| last <= self.after);
        self.after = last.unwrap_or(self.after);
        Ok(Some(page.entries))
    }
}

/// Hands each entry of the audit log at `path` to `take`, oldest first.
pub(super) fn of_file(path: &Path, mut take: impl FnMut(Value)) -> anyhow::Result<()> {
    let told = || path.display().to_string();
    let lines = BufReader::new(File::open(path).with_context(told)?).lines();
    for (number, line) in (1..).zip(lines) {
        let line = line.with_context(told)?;
        let entry = serde_json::from_str(&line).with_context(|| format!("{}, line {number}", path.display()))?;
        take(entry);
    }
    Ok(())
}
