//! What all verbs that change something have in common: they ask, tell what is different, and what comes next.

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use http::HeaderValue;
use http::header::InvalidHeaderValue;
use serde_json::{Map, Value};

use super::admin_client::{Ask, Client, ClientArgs, Reply};
use super::answer::{Answer, refused};
use super::output::{Format, harmless, print};
use super::scope::Scope;

/// Arguments of every verb that changes something.
#[derive(Clone, Debug, Args)]
pub(super) struct ChangeArgs {
    /// Why; it stands in the audit log
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// Only if nothing has changed since the API told this ETag
    #[arg(long, value_name = "TAG", value_parser = tag)]
    pub if_match: Option<HeaderValue>,
    /// How the answer is written; json is the API's own
    #[arg(short, long, value_enum, default_value_t)]
    pub(super) output: Format,
    #[command(flatten)]
    pub(super) client: ClientArgs,
}

/// An ETag, also one whose quotes the shell has taken for its own.
fn tag(text: &str) -> Result<HeaderValue, InvalidHeaderValue> {
    let is_bare = text != "*" && !text.contains(['"', ',']);
    if is_bare { HeaderValue::from_str(&format!("\"{text}\"")) } else { HeaderValue::from_str(text) }
}

/// What is to be done, and what to tell of it.
#[derive(Debug)]
pub(super) struct Wish {
    /// What is asked of the API.
    pub(super) ask: Ask,
    /// To what it applies.
    pub(super) scope: Scope,
    /// The likeliest next command, and before it what it is for.
    pub(super) next: (&'static str, String),
}

impl ChangeArgs {
    /// A body for the API: `fields` and the reason.
    pub(super) fn body(&self, fields: Value) -> Value {
        let mut body: Map<String, Value> = match fields {
            Value::Object(fields) => fields.into_iter().filter(|(_, value)| !value.is_null()).collect(),
            _ => Map::new(),
        };
        body.extend(self.reason.clone().map(|reason| ("reason".to_owned(), reason.into())));
        body.into()
    }

    /// Asks for the change, and tells what came of it: exit code 0, or 1 if it was refused.
    pub(super) async fn make(&self, client: &Client, wish: Wish) -> anyhow::Result<ExitCode> {
        let reply = client.ask(wish.ask.only_if(self.if_match.clone())).await?;
        if self.output == Format::Json {
            print(&as_json(&reply))?;
            return Ok(if reply.status.is_success() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        if !reply.status.is_success() {
            return Err(refused(&reply, client));
        }
        let answer: Answer = serde_json::from_slice(&reply.body)
            .with_context(|| format!("what listens at {} does not answer like tidegate", client.url()))?;
        print(&told(&answer, &wish.scope, &wish.next, &self.client.again()))?;
        if let Some(warning) = doubt(&answer) {
            writeln!(io::stderr(), "{warning}")?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// What the next command is for after a rollback.
pub(super) const TO_LIFT: &str = "to lift it";

/// Runs a verb to its end.
pub(super) fn block_on<T>(verb: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(verb)
}

/// The API's own answer; what is not JSON, as it is.
pub(super) fn as_json(reply: &Reply) -> String {
    match serde_json::from_slice::<Value>(&reply.body) {
        Ok(value) => format!("{value:#}\n"),
        Err(_) => harmless(&String::from_utf8_lossy(&reply.body)),
    }
}

fn told(answer: &Answer, scope: &Scope, (what_for, command): &(&str, String), again: &str) -> String {
    let changes: String = match answer.changes.as_slice() {
        [] => format!("{}: nothing to change, it is so already\n", scope.in_words()),
        changes => changes.iter().map(super::answer::Change::in_a_line).collect(),
    };
    match answer.asked_by_a_file() {
        Some(undo) if *what_for == TO_LIFT => format!("{changes}{what_for}: {undo}, then {command}{again}\n"),
        _ => format!("{changes}{what_for}: {command}{again}\n"),
    }
}

/// What the operator has to know: above all, that the change would not outlive the process.
fn doubt(answer: &Answer) -> Option<String> {
    match (&answer.warning, answer.durable) {
        (None, true) => None,
        (Some(why), true) => Some(format!("warning: {}", harmless(why))),
        (None, false) => Some("warning: in force, but a restart forgets it".to_owned()),
        (Some(why), false) => Some(format!("warning: in force, but a restart forgets it: {}", harmless(why))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;
    use serde_json::json;

    #[derive(clap::Parser)]
    struct Verb {
        #[command(flatten)]
        change: ChangeArgs,
    }

    #[test]
    fn a_body_holds_what_was_said_and_nothing_else() {
        let args = |args: &[&str]| Verb::parse_from([&["verb"], args].concat()).change;
        let fields = json!({"percent": 25.0, "message": null});
        assert_eq!(args(&[]).body(fields.clone()), json!({"percent": 25.0}));
        assert_eq!(args(&["--reason", "INC-7"]).body(fields), json!({"percent": 25.0, "reason": "INC-7"}));
    }

    fn answer(changes: &Value, durable: bool, warning: Option<&str>) -> Answer {
        serde_json::from_value(json!({"changes": changes, "durable": durable, "warning": warning, "new": 1})).unwrap()
    }

    #[test]
    fn what_changed_is_told_with_what_comes_next() {
        let entry = json!({"seq": 17, "at": "2026-11-21T04:02:06Z", "who": {"kind": "operator", "name": "alice"},
            "scope": "ledger", "what": "set", "before": "5 % on new", "after": "25 % on new", "reason": "",
            "prev": "", "hash": "", "unheard_of": true});
        let scope = Scope::Rollout("ledger".into());
        let next = ("next", "tidegate status ledger".to_owned());
        let golden = "ledger: 5 % -> 25 % on new  (audit 17)\nnext: tidegate status ledger --admin unix:/x\n";
        assert_eq!(told(&answer(&json!([entry]), true, None), &scope, &next, " --admin unix:/x"), golden);
        let golden = "ledger: nothing to change, it is so already\nnext: tidegate status ledger\n";
        assert_eq!(told(&answer(&json!([]), true, None), &scope, &next, ""), golden);
    }

    #[test]
    fn what_a_file_asks_for_is_lifted_there_first() {
        let latches = json!([{"undo": "tidegate resume ledger --reason TEXT"}, {"undo": "rm /s/ROLLBACK"}]);
        let body = json!({"durable": true, "rollout": {"rollback": {"latches": latches}}});
        let answer: Answer = serde_json::from_value(body).unwrap();
        let (scope, next) = (Scope::Rollout("ledger".into()), (TO_LIFT, "tidegate resume ledger".to_owned()));
        let told = told(&answer, &scope, &next, "");
        assert!(told.ends_with("to lift it: rm /s/ROLLBACK, then tidegate resume ledger\n"), "{told}");
    }

    #[test]
    fn a_tag_is_taken_as_the_shell_leaves_it() {
        for (typed, sent) in [("3-798614ab", "\"3-798614ab\""), ("\"3-798614ab\"", "\"3-798614ab\""), ("*", "*")] {
            assert_eq!(tag(typed).unwrap(), sent);
        }
    }

    #[test]
    fn what_a_restart_would_forget_is_told() {
        assert_eq!(doubt(&answer(&json!([]), true, None)), None);
        let full = "state_dir /s: No space left on device";
        let told = format!("warning: in force, but a restart forgets it: {full}");
        assert_eq!(doubt(&answer(&json!([]), false, Some(full))).unwrap(), told);
        assert!(doubt(&answer(&json!([]), false, None)).unwrap().contains("restart"));
    }
}
