//! What happens to requests that are not served: what maintenance tells them, who passes, and how many may wait.

use std::time::Duration;

use bytes::Bytes;
use serde::de::IgnoredAny;

use super::Checker;
use crate::config::document::Place;
use crate::config::error::Complaint;
use crate::config::value::{self, Checked};
use crate::config::{Bypass, HoldLimits, MaintenanceDefaults, Pages, raw};

impl Checker<'_> {
    pub(super) fn maintenance(&mut self, raw: &raw::Maintenance) -> Option<MaintenanceDefaults> {
        let place = Place::default().key("maintenance");
        let message = raw.message.as_deref().map(message).transpose();
        let message = self.faults.take(&place.key("message"), message);
        let retry_after = self.faults.take(&place.key("retry_after"), retry_after(&raw.retry_after));
        let pages = self.pages(&place.key("pages"), &raw.pages);
        let paths = &place.key("health_paths");
        let health_paths = self.faults.take_all(paths, &raw.health_paths, |path| value::exact_path(path));
        let bypass = self.bypass(&place.key("bypass"), &raw.bypass);
        Some(MaintenanceDefaults { message: message?, retry_after: retry_after?, pages, health_paths, bypass: bypass? })
    }

    fn pages(&mut self, place: &Place, raw: &raw::Pages) -> Pages {
        let is_json = |text: &str| {
            let read = serde_json::from_str::<IgnoredAny>(text);
            read.map(|_| ()).map_err(|error| Complaint::new(format!("the file is not JSON: {error}")))
        };
        Pages {
            html: self.page(&place.key("html"), raw.html.as_deref(), |_| Ok(())),
            json: self.page(&place.key("json"), raw.json.as_deref(), is_json),
            text: self.page(&place.key("text"), raw.text.as_deref(), |_| Ok(())),
        }
    }

    /// An empty page is more likely half a deployment than what anybody wants to show.
    fn page(&mut self, place: &Place, file: Option<&str>, look: impl Fn(&str) -> Checked<()>) -> Option<Bytes> {
        const LARGEST: u64 = 256 << 10;
        let contents = self.file(place, file?, LARGEST)?;
        let looked_at = match std::str::from_utf8(&contents) {
            Err(_) => Err(Complaint::new("the file is not UTF-8 text").help("save it as UTF-8")),
            Ok(text) if text.trim().is_empty() => Err(Complaint::new("the file is empty")),
            Ok(text) => look(text),
        };
        self.faults.take(place, looked_at).map(|()| Bytes::from(contents))
    }

    fn bypass(&mut self, place: &Place, raw: &raw::Bypass) -> Option<Bypass> {
        let has_place = raw.header.is_some() || raw.cookie.is_some();
        if has_place && raw.token_file.is_none() {
            let complaint = Complaint::new("nothing says which token lets a client pass");
            self.faults.add(place.as_key(), complaint.help("add `token_file`"));
        } else if !has_place && raw.token_file.is_some() {
            let complaint = Complaint::new("nothing says where the token stands");
            self.faults.add(place.as_key(), complaint.help("add `header` or `cookie`"));
        }
        let header = raw.header.as_deref().map(value::header_name).transpose();
        let header = self.faults.take(&place.key("header"), header);
        let cookie = raw.cookie.as_deref().map(value::cookie_name).transpose();
        let cookie = self.faults.take(&place.key("cookie"), cookie);
        let networks = self.networks(&place.key("networks"), &raw.networks);
        let token = raw.token_file.as_deref().and_then(|file| self.token(&place.key("token_file"), file));
        Some(Bypass { header: header?, cookie: cookie?, token, networks })
    }

    pub(super) fn hold(&mut self, raw: &raw::Hold) -> Option<HoldLimits> {
        const MOST: u64 = 1_000_000;
        let place = Place::default().key("hold");
        let max_wait = self.faults.take(&place.key("max_wait"), value::timeout(&raw.max_wait));
        let max_requests = self.faults.take(&place.key("max_requests"), value::count(&raw.max_requests.0, 1..=MOST));
        let max_bytes = self.faults.take(&place.key("max_bytes"), value::size(&raw.max_bytes, 1..=u64::MAX));
        let release_rate = self.faults.take(&place.key("release_rate"), value::count(&raw.release_rate.0, 1..=MOST));
        Some(HoldLimits {
            max_wait: max_wait?,
            max_requests: max_requests?,
            max_bytes: max_bytes?,
            release_rate: u32::try_from(release_rate?).unwrap_or(u32::MAX),
        })
    }
}

fn message(text: &str) -> Checked<String> {
    const LONGEST: usize = 1000;
    let complaint = |message: &str| Complaint::new(message).allowed("plain text of at most 1000 characters");
    match text {
        _ if text.trim().is_empty() => Err(complaint("this message is empty").help("leave the key out")),
        _ if text.chars().count() > LONGEST => Err(complaint("this message is longer than 1000 characters")),
        _ if text.chars().any(|c| c.is_control() && c != '\n') => {
            Err(complaint("this message holds control characters"))
        }
        _ => Ok(text.trim().to_owned()),
    }
}

/// RFC 9110 §10.2.3: whole seconds, and zero would ask for a storm.
fn retry_after(written: &raw::Duration) -> Checked<Duration> {
    let duration = value::duration(written)?;
    match duration < Duration::from_secs(1) {
        true => Err(Complaint::new("this is below 1s").allowed("a second or more, such as 60s")),
        false => Ok(duration),
    }
}
