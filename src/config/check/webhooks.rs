//! Webhooks: who is told of changes, of which ones, and how they know that it was tidegate.

use std::collections::BTreeSet;

use super::Checker;
use crate::config::document::Place;
use crate::config::error::Complaint;
use crate::config::value::{self, Checked};
use crate::config::webhook::{SigningKey, Url, Webhook, WebhookEvent};
use crate::config::{raw, webhook};

/// Each has a queue, a task and three series of its own.
const MOST: usize = 64;

impl Checker<'_> {
    pub(super) fn webhooks(&mut self, written: &[raw::Webhook]) -> Vec<Webhook> {
        let place = Place::default().key("webhooks");
        if written.len() > MOST {
            self.faults.add(place, Complaint::new(format!("these are more than {MOST} webhooks")));
            return Vec::new();
        }
        let mut names = BTreeSet::new();
        let mut checked = Vec::new();
        for (at, raw) in written.iter().enumerate() {
            let place = place.item(at);
            let name = raw.name.clone().unwrap_or_else(|| format!("webhook-{}", at + 1));
            self.faults.take(&place.key("name"), value::name(&name));
            if !names.insert(name.clone()) {
                let complaint = Complaint::new(format!("another webhook is called `{name}` already"));
                let complaint =
                    complaint.help("give each a name of its own; without one it is webhook-1, webhook-2, ...");
                let place = if raw.name.is_some() { place.key("name") } else { place.clone() };
                self.faults.add(place, complaint);
            }
            checked.extend(self.webhook(&place, name, raw));
        }
        checked
    }

    fn webhook(&mut self, place: &Place, name: String, raw: &raw::Webhook) -> Option<Webhook> {
        let key = raw.secret_file.as_deref().map(|file| self.signing_key(&place.key("secret_file"), file));
        let events = self.faults.take(&place.key("events"), events(&raw.events));
        let url = self.required(place, "url", raw.url.as_ref(), URLS)?;
        let url = self.faults.take(&place.key("url"), url_of(url));
        Some(Webhook { name, url: url?, key: key.map_or(Some(None), |key| key.map(Some))?, events: events? })
    }

    fn signing_key(&mut self, place: &Place, file: &str) -> Option<SigningKey> {
        const LARGEST: u64 = 4 << 10;
        let contents = self.file(place, file, LARGEST)?;
        let key = match std::str::from_utf8(&contents) {
            Err(_) => Err(Complaint::new("the file is not UTF-8 text")),
            Ok(text) => SigningKey::read(text).map_err(|error| Complaint::new(error.to_string()).allowed(KEYS)),
        };
        self.faults.take(place, key)
    }
}

const URLS: &str = "an http or https URL such as https://hooks.example.com/tidegate";
const KEYS: &str = "16 characters or more, or whsec_ and base64, such as of openssl rand -base64 32";

/// What is wrong with it is told without repeating any of it.
fn url_of(text: &str) -> Checked<Url> {
    let complaint = |message: &str| Complaint::new(message).allowed(URLS);
    if text.contains('#') {
        return Err(complaint("a webhook's URL holds no #").help("what follows it is never sent"));
    }
    let url: Url = text.parse().map_err(|error: webhook::NotUrl| complaint(&error.to_string()))?;
    let host = url.uri().host().unwrap_or_default();
    let is_v6 = || host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).is_some_and(is_v6);
    if !value::is_host(host) && !is_v6() {
        return Err(complaint("this URL has no valid host"));
    }
    // A port that is no number, or too large a one, is none to the parser.
    let authority = url.uri().authority().map(http::uri::Authority::as_str).unwrap_or_default();
    let bare = authority.rsplit_once('@').map_or(authority, |(_, place)| place);
    match (bare == host, url.uri().port_u16()) {
        (true, None) | (false, Some(1..)) => Ok(url),
        _ => Err(complaint("this URL has no valid port")),
    }
}

fn is_v6(host: &str) -> bool {
    host.parse::<std::net::Ipv6Addr>().is_ok()
}

fn events(written: &[raw::WebhookEvent]) -> Checked<Vec<WebhookEvent>> {
    let events: BTreeSet<WebhookEvent> = written.iter().map(|event| (*event).into()).collect();
    match events.is_empty() {
        true => Err(Complaint::new("this webhook would be told of nothing").help("leave the key out for all events")),
        false => Ok(events.into_iter().collect()),
    }
}

impl From<raw::WebhookEvent> for WebhookEvent {
    fn from(written: raw::WebhookEvent) -> Self {
        match written {
            raw::WebhookEvent::Trip => Self::Trip,
            raw::WebhookEvent::Rollback => Self::Rollback,
            raw::WebhookEvent::Resume => Self::Resume,
            raw::WebhookEvent::Step => Self::Step,
            raw::WebhookEvent::Switch => Self::Switch,
        }
    }
}
