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
    /// `None`: the newest page only.
    after: Option<u64>,
    limit: usize,
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
        Self { client, after: Some(after), limit: PAGE, is_over: false }
    }

    /// The newest `count` entries; all of them if that is more than a page.
    pub(super) fn newest(client: &'a Client, count: usize) -> Self {
        match count {
            1..=PAGE => Self { client, after: None, limit: count, is_over: false },
            _ => Self::after(client, 0),
        }
    }

    /// The next page; `None` behind the last one.
    pub(super) async fn next(&mut self) -> anyhow::Result<Option<Vec<Value>>> {
        if self.is_over {
            return Ok(None);
        }
        let after = self.after.map(|after| format!("after={after}&")).unwrap_or_default();
        let path = format!("/api/v1/audit?{after}limit={}", self.limit);
        let reply = self.client.get(&path).await?;
        if !reply.status.is_success() {
            return Err(refused(&reply, self.client));
        }
        let page: Page = serde_json::from_slice(&reply.body)
            .with_context(|| format!("what listens at {} does not answer like tidegate", self.client.url()))?;
        let last = page.entries.last().and_then(|entry| entry["seq"].as_u64());
        let goes_on = page.entries.len() == self.limit && last > self.after;
        self.is_over = self.after.is_none() || !goes_on;
        self.after = last;
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
