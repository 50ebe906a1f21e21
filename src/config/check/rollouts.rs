//! Rollouts: a pair of backends and the policy that splits requests between them.

use std::collections::{BTreeMap, BTreeSet};

use super::Checker;
use super::server::two_forms;
use crate::config::document::Place;
use crate::config::error::Complaint;
use crate::config::value;
use crate::config::{Force, KeySource, Rollout, Secret, raw};
use crate::policy::bucket::Hash;
use crate::policy::decision::{Fallback, OnMissing, Side};
use crate::policy::rollout::Strategy;

/// A rollout in its short or long form.
pub(super) struct WrittenRollout<'a> {
    pub(super) name: &'a str,
    pub(super) place: Place,
    pub(super) raw: &'a raw::Rollout,
}

impl Checker<'_> {
    /// All rollouts; `rollout:` is one that is named `default`.
    pub(super) fn written_rollouts<'r>(&mut self, raw: &'r raw::Raw) -> Vec<WrittenRollout<'r>> {
        let (short, long) = (Place::default().key("rollout"), Place::default().key("rollouts"));
        if raw.rollout.is_some() && raw.rollouts.is_some() {
            self.faults.add(short.as_key(), two_forms("rollout", "rollouts"));
        }
        let mut written = Vec::new();
        written.extend(raw.rollout.iter().map(|raw| WrittenRollout { name: "default", place: short.clone(), raw }));
        for (name, raw) in raw.rollouts.iter().flatten() {
            let place = long.key(name);
            self.faults.take(&place.as_key(), value::name(name));
            written.push(WrittenRollout { name, place, raw });
        }
        written
    }

    pub(super) fn rollouts(
        &mut self,
        written: &[WrittenRollout<'_>],
        backends: &BTreeSet<String>,
    ) -> BTreeMap<String, Rollout> {
        let checked = |written: &WrittenRollout<'_>| Some((written.name.to_owned(), self.rollout(written, backends)?));
        written.iter().filter_map(checked).collect()
    }

    fn rollout(&mut self, written: &WrittenRollout<'_>, backends: &BTreeSet<String>) -> Option<Rollout> {
        let WrittenRollout { name, place, raw } = written;
        let policy = self.policy(written, backends);
        let schedule = self.schedule(&place.key("schedule"), &raw.schedule, !raw.is_blue_green());
        let acknowledge = self.acknowledge(&place.key("acknowledge"), raw.acknowledge.as_ref());
        let key = match raw.key.is_none() && raw.is_blue_green() {
            true => Some(Vec::new()),
            false => self.key(place, raw.key.as_ref()),
        };
        let rules = self.rules(&place.key("rules"), &raw.rules);
        let force = self.force(&place.key("force"), raw.force.as_ref());
        let failures = self.failures(&place.key("guard").key("failures"), &raw.guard.failures);
        let guard = self.guard(&place.key("guard"), raw, failures.clone());
        let shield = self.shield(&place.key("shield"), raw.shield.as_ref(), failures);
        let (old, new, strategy) = policy?;
        let guard = guard?;
        Some(Rollout {
            old,
            new,
            strategy,
            schedule: schedule?,
            acknowledge,
            key: key?,
            hash: raw.hash.into(),
            salt: raw.salt.as_deref().unwrap_or(name).to_owned(),
            on_missing: raw.on_missing.into(),
            rollback: raw.rollback,
            rules: rules.into(),
            force: force?,
            expose_side: raw.expose_side,
            guard,
            shield: shield?,
            fallback: raw.fallback.into(),
        })
    }

    /// The backends on both sides, and how people move from one to the other.
    fn policy(
        &mut self,
        written: &WrittenRollout<'_>,
        backends: &BTreeSet<String>,
    ) -> Option<(String, String, Strategy)> {
        if !self.strategies_are_apart(&written.place, written.raw) {
            return None; // what is missing depends on which of the two is meant
        }
        let old = self.side(written, Side::Old, backends);
        let new = self.side(written, Side::New, backends);
        let strategy = self.strategy(&written.place, written.raw);
        Some((old?, new?, strategy?))
    }

    /// The name of the backend on `side`.
    fn side(&mut self, written: &WrittenRollout<'_>, side: Side, backends: &BTreeSet<String>) -> Option<String> {
        let name = written.backend_name(side);
        let wanted = "a backend's name, or a URL such as http://127.0.0.1:9001";
        let (key, _) = written.raw.side(side);
        let name = self.required(&written.place, key, name.as_ref(), wanted)?;
        let known = self.known(&written.place.key(key), "backend", name, backends);
        known.then(|| name.clone())
    }

    /// Whether `name` is one of `names`; complains if not.
    pub(super) fn known(&mut self, place: &Place, what: &str, name: &str, names: &BTreeSet<String>) -> bool {
        let known = names.contains(name);
        if !known {
            let list: Vec<&str> = names.iter().map(String::as_str).collect();
            let complaint = Complaint::new(format!("there is no {what} of this name"));
            let complaint = if list.is_empty() { complaint } else { complaint.allowed(some_of(&list)) };
            self.faults.add(place.clone(), complaint.did_you_mean(name, list));
        }
        known
    }

    fn key(&mut self, rollout: &Place, written: Option<&raw::OneOrMany>) -> Option<Vec<KeySource>> {
        let Some(written) = written else {
            let complaint = Complaint::new("`key` is missing: nothing says what makes a request sticky");
            self.faults.add(rollout.as_key(), complaint.help("add, for example, key: header:x-user-id"));
            return None;
        };
        let place = rollout.key("key");
        match written {
            raw::OneOrMany::One(text) => self.faults.take(&place, value::key_source(text)).map(|source| vec![source]),
            raw::OneOrMany::Many(list) if list.is_empty() => {
                self.faults.add(place, Complaint::new("a rollout needs at least one source of keys"));
                None
            }
            raw::OneOrMany::Many(list) => Some(self.faults.take_all(&place, list, |text| value::key_source(text))),
        }
    }

    fn acknowledge(&mut self, place: &Place, written: Option<&raw::OneOrMany>) -> Vec<String> {
        match written {
            None => Vec::new(),
            Some(raw::OneOrMany::One(id)) => self.faults.take(place, value::latch_id(id)).into_iter().collect(),
            Some(raw::OneOrMany::Many(ids)) => self.faults.take_all(place, ids, |id| value::latch_id(id)),
        }
    }

    fn force(&mut self, place: &Place, written: Option<&raw::Force>) -> Option<Force> {
        let Some(raw) = written else { return Some(Force::default()) };
        if raw.header.is_none() && raw.cookie.is_none() {
            let complaint = Complaint::new("nothing says where a force value stands");
            self.faults.add(place.as_key(), complaint.help("add `header` or `cookie`"));
        }
        if raw.token_file.is_none() && raw.networks.is_empty() {
            let complaint = Complaint::new("nobody would be allowed to force a side");
            self.faults.add(place.as_key(), complaint.help("add `token_file` or `networks`"));
        }
        let header = raw.header.as_deref().map(value::header_name).transpose();
        let header = self.faults.take(&place.key("header"), header);
        let cookie = raw.cookie.as_deref().map(value::cookie_name).transpose();
        let cookie = self.faults.take(&place.key("cookie"), cookie);
        let networks = self.networks(&place.key("networks"), &raw.networks);
        let token = raw.token_file.as_deref().and_then(|file| self.token(&place.key("token_file"), file));
        Some(Force { header: header?, cookie: cookie?, token, networks })
    }

    pub(super) fn token(&mut self, place: &Place, file: &str) -> Option<Secret> {
        const LONGEST: u64 = 4 << 10;
        let contents = self.file(place, file, LONGEST)?;
        let secret = std::str::from_utf8(&contents).ok().map(Secret::new).filter(|secret| is_sendable(secret.expose()));
        let wanted = "one line of visible ASCII characters, without spaces";
        self.faults.take(place, secret.ok_or_else(|| Complaint::new("the file holds no token").allowed(wanted)))
    }
}

/// Whether a tester can send it in a header and in a cookie.
fn is_sendable(token: &str) -> bool {
    !token.is_empty()
        && token.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b';' | b',' | b'"' | b'\\'))
}

fn some_of(names: &[&str]) -> String {
    const SHOWN: usize = 10;
    let more = if names.len() > SHOWN { ", ..." } else { "" };
    names.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", ") + more
}

impl From<raw::Hash> for Hash {
    fn from(written: raw::Hash) -> Self {
        match written {
            raw::Hash::Modulo => Self::Modulo,
            raw::Hash::Xxh3 => Self::Xxh3,
        }
    }
}

impl From<raw::OnMissing> for OnMissing {
    fn from(written: raw::OnMissing) -> Self {
        match written {
            raw::OnMissing::Old => Self::Old,
            raw::OnMissing::New => Self::New,
            raw::OnMissing::Random => Self::Random,
            raw::OnMissing::Cookie => Self::Cookie,
        }
    }
}

impl From<raw::Fallback> for Fallback {
    fn from(written: raw::Fallback) -> Self {
        match written {
            raw::Fallback::None => Self::None,
            raw::Fallback::OtherSide => Self::OtherSide,
        }
    }
}

impl From<raw::Side> for Side {
    fn from(written: raw::Side) -> Self {
        match written {
            raw::Side::Old => Self::Old,
            raw::Side::New => Self::New,
        }
    }
}
