//! What a webhook is told of a change.

use bytes::Bytes;
use serde::Serialize;

use crate::config::WebhookEvent;
use crate::control::journal::audit::Entry;
use crate::policy::actor::Source;

/// One message, the same at every attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    /// The same for the same change, also after a restart: receivers tell by it what they know already.
    pub(super) id: String,
    /// JSON.
    pub(super) body: Bytes,
}

/// Which event `entry` is, if it is one that webhooks are told of. Whatever the guard does is a trip; all else goes by what
/// was done, through whichever door.
pub(super) fn event(entry: &Entry) -> Option<WebhookEvent> {
    if entry.who.kind == Source::Guard.as_str() {
        return Some(WebhookEvent::Trip);
    }
    match entry.what.as_str() {
        "rollback" => Some(WebhookEvent::Rollback),
        "resume" => Some(WebhookEvent::Resume),
        "step" | "promote" => Some(WebhookEvent::Step),
        "switch" => Some(WebhookEvent::Switch),
        _ => None,
    }
}

/// The body. The order of the fields is that in which people read it.
#[derive(Serialize)]
struct Body<'a> {
    #[serde(rename = "type")]
    kind: String,
    timestamp: &'a str,
    data: Data<'a>,
}

#[derive(Serialize)]
struct Data<'a> {
    id: &'a str,
    seq: u64,
    rollout: &'a str,
    what: &'a str,
    before: &'a str,
    after: &'a str,
    source: &'a str,
    by: &'a str,
    reason: &'a str,
    forced: bool,
    instance: &'a str,
}

impl Message {
    /// What is told of `entry`, which is an `event`, by the tidegate on the host `instance`.
    pub(super) fn new(event: WebhookEvent, entry: &Entry, instance: &str) -> Self {
        let id = id(entry);
        let data = Data {
            id: &id,
            seq: entry.seq,
            rollout: &entry.scope,
            what: &entry.what,
            before: &entry.before,
            after: &entry.after,
            source: &entry.who.kind,
            by: &entry.who.name,
            reason: &entry.reason,
            forced: entry.forced,
            instance,
        };
        let body = Body { kind: format!("tidegate.{}", event.as_str()), timestamp: &entry.at, data };
        let body = serde_json::to_vec(&body).expect("texts and numbers always serialise");
        Self { id, body: body.into() }
    }
}

/// Made of the entry's hash, which no other entry of any chain has.
fn id(entry: &Entry) -> String {
    const SHOWN: usize = 32;
    format!("msg_{}", entry.hash.get(..SHOWN).unwrap_or(&entry.hash))
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use serde_json::{Value, json};

    use super::*;
    use crate::control::journal::audit::{Draft, Head, Who};

    fn entry(kind: Source, what: &str) -> Entry {
        let draft = Draft {
            at: SystemTime::UNIX_EPOCH,
            who: Who { kind: kind.as_str().to_owned(), name: "anna".to_owned() },
            scope: "ledger".to_owned(),
            what: what.to_owned(),
            before: "5 %".to_owned(),
            after: "0 %".to_owned(),
            reason: "INC-7".to_owned(),
            forced: false,
        };
        Entry::seal(draft, &Head::default())
    }

    #[test]
    fn the_guard_trips_and_all_else_goes_by_what_was_done() {
        for (source, what, told) in [
            (Source::Guard, "rollback", Some(WebhookEvent::Trip)),
            (Source::Guard, "pause", Some(WebhookEvent::Trip)),
            (Source::Operator, "rollback", Some(WebhookEvent::Rollback)),
            (Source::Config, "rollback", Some(WebhookEvent::Rollback)),
            (Source::FlagFile, "rollback", Some(WebhookEvent::Rollback)),
            (Source::Schedule, "rollback", Some(WebhookEvent::Rollback)),
            (Source::Config, "resume", Some(WebhookEvent::Resume)),
            (Source::Schedule, "step", Some(WebhookEvent::Step)),
            (Source::Operator, "promote", Some(WebhookEvent::Step)),
            (Source::Operator, "switch", Some(WebhookEvent::Switch)),
            (Source::Operator, "set", None),
            (Source::Operator, "pause", None),
            (Source::Config, "config", None),
            (Source::Process, "start", None),
        ] {
            assert_eq!(event(&entry(source, what)), told, "{source:?} {what}");
        }
    }

    #[test]
    fn a_message_says_who_did_what_to_which_rollout_and_why() {
        let entry = entry(Source::Operator, "rollback");
        let message = Message::new(WebhookEvent::Rollback, &entry, "pay-7");
        let body: Value = serde_json::from_slice(&message.body).unwrap();
        assert_eq!(message.id, format!("msg_{}", &entry.hash[..32]));
        assert_eq!(
            body,
            json!({
                "type": "tidegate.rollback",
                "timestamp": "1970-01-01T00:00:00.000Z",
                "data": {
                    "id": message.id, "seq": 1, "rollout": "ledger", "what": "rollback", "before": "5 %", "after": "0 %",
                    "source": "operator", "by": "anna", "reason": "INC-7", "forced": false, "instance": "pay-7",
                },
            })
        );
        assert_eq!(Message::new(WebhookEvent::Rollback, &entry, "pay-7"), message, "the same at every attempt");
    }
}
