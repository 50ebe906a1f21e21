//! What the API answers to a change: what is different now, or why nothing is.

use anyhow::anyhow;
use http::StatusCode;
use serde::Deserialize;
use serde_json::Value;

use super::admin_client::{Client, Reply};
use super::output::harmless;
use super::scope::Scope;

/// What an act changed. Reads what it knows and ignores the rest, so that it understands a newer tidegate.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Answer {
    /// The entries of the audit log; none if it was so already.
    #[serde(default)]
    pub(super) changes: Vec<Change>,
    /// Whether it outlives the process.
    pub(super) durable: bool,
    /// If not, why.
    #[serde(default)]
    pub(super) warning: Option<String>,
    /// The rollout after it, if it was one rollout's.
    #[serde(default)]
    pub(super) rollout: Option<Value>,
}

impl Answer {
    /// What takes a rollback away that a file asks for: it cannot be resumed before.
    pub(super) fn asked_by_a_file(&self) -> Option<String> {
        let latches = self.rollout.as_ref()?["rollback"]["latches"].as_array()?;
        let mut undo = latches.iter().filter_map(|latch| latch["undo"].as_str());
        undo.find(|undo| !undo.starts_with("tidegate ")).map(harmless)
    }
}

/// One entry of the audit log.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Change {
    pub(super) seq: u64,
    pub(super) at: String,
    pub(super) who: Who,
    pub(super) scope: String,
    pub(super) what: String,
    pub(super) before: String,
    pub(super) after: String,
    #[serde(default)]
    pub(super) reason: String,
    #[serde(default)]
    pub(super) forced: bool,
}

/// Who did something.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Who {
    pub(super) kind: String,
    pub(super) name: String,
}

impl Change {
    /// `5 % -> 25 % on new`
    pub(super) fn difference(&self) -> String {
        let (before, after) = (harmless(&self.before), harmless(&self.after));
        if before.is_empty() {
            return after;
        }
        let before = match before.strip_suffix(ON_NEW) {
            Some(short) if after.ends_with(ON_NEW) && !short.contains(',') => short,
            _ => &before,
        };
        format!("{before} -> {after}")
    }

    /// `ledger: 5 % -> 25 % on new  (audit 17)`
    pub(super) fn in_a_line(&self) -> String {
        let forced = if self.forced { ", FORCED" } else { "" };
        let scope = Scope::of_entry(&self.scope).in_words();
        format!("{scope}: {}  (audit {}{forced})\n", self.difference(), self.seq)
    }
}

/// What both ends of most changes have in common, and a reader needs once.
const ON_NEW: &str = " on new";

/// A refusal, in the words of the API.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Problem {
    detail: String,
    undo: Option<String>,
    /// The ETag of what was to be changed, if it was not the one that was asked for.
    current: Option<String>,
}

/// What the refusal `reply` says, and what to do about it.
pub(super) fn refused(reply: &Reply, client: &Client) -> anyhow::Error {
    let problem: Problem = serde_json::from_slice(&reply.body).unwrap_or_default();
    let detail = match problem.detail.as_str() {
        "" => format!("tidegate at {} refuses: {}", client.url(), reply.status),
        detail => harmless(detail),
    };
    let undo = problem.undo.map(|undo| harmless(&undo)).filter(|undo| !detail.contains(undo.as_str()));
    let undo = undo.map(|undo| format!("\n  to lift it: {undo}")).unwrap_or_default();
    let token = match reply.status {
        StatusCode::UNAUTHORIZED if !client.has_token() => {
            "\n  next: set TIDEGATE_ADMIN_TOKEN, or name the file with --token-file FILE"
        }
        _ => "",
    };
    let current = problem.current.map(|tag| format!("\n  its ETag is {}", harmless(&tag))).unwrap_or_default();
    anyhow!("{detail}{undo}{current}{token}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(before: &str, after: &str) -> Change {
        let who = Who { kind: "operator".into(), name: "alice".into() };
        let (before, after) = (before.into(), after.into());
        let (at, scope, what) = ("2026-11-21T04:02:06.123Z".into(), "ledger".into(), "set".into());
        Change { seq: 17, at, who, scope, what, before, after, reason: "INC-7".into(), forced: false }
    }

    #[test]
    fn a_change_is_told_in_a_line() {
        for (before, after, told) in [
            ("5 % on new", "25 % on new", "ledger: 5 % -> 25 % on new  (audit 17)\n"),
            (
                "25 % on new",
                "rolled back by ledger-1, else 25 % on new",
                "ledger: 25 % -> rolled back by ledger-1, else 25 % on new  (audit 17)\n",
            ),
            (
                "rolled back by ledger-1, else 25 % on new",
                "25 % on new",
                "ledger: rolled back by ledger-1, else 25 % on new -> 25 % on new  (audit 17)\n",
            ),
            ("", "tidegate 0.1.0", "ledger: tidegate 0.1.0  (audit 17)\n"),
            ("served", "in maintenance", "ledger: served -> in maintenance  (audit 17)\n"),
        ] {
            assert_eq!(change(before, after).in_a_line(), told);
        }
        let forced = Change { forced: true, scope: "*".into(), ..change("served", "held") };
        assert_eq!(forced.in_a_line(), "everything: served -> held  (audit 17, FORCED)\n");
    }

    #[test]
    fn a_refusal_says_what_stands_in_the_way_and_what_takes_it_away() {
        let client = Client::nobody(&"http://127.0.0.1:9901".parse().unwrap());
        for (status, body, told) in [
            (
                409,
                r#"{"detail":"It is rolled back.","undo":"rm /s/ROLLBACK"}"#,
                "It is rolled back.\n  to lift it: rm /s/ROLLBACK",
            ),
            (
                409,
                r#"{"detail":"End it: tidegate drain x off","undo":"tidegate drain x off"}"#,
                "End it: tidegate drain x off",
            ),
            (
                401,
                r#"{"detail":"Who are you?"}"#,
                "Who are you?\n  next: set TIDEGATE_ADMIN_TOKEN, or name the file with --token-file FILE",
            ),
            (412, r#"{"detail":"It has changed.","current":"\"3-7\""}"#, "It has changed.\n  its ETag is \"3-7\""),
            (500, "<html>", "tidegate at http://127.0.0.1:9901 refuses: 500 Internal Server Error"),
        ] {
            let reply = Reply { status: StatusCode::from_u16(status).unwrap(), body: body.into() };
            assert_eq!(refused(&reply, &client).to_string(), told);
        }
    }
}
