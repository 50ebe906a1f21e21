//! The status of a webhook.

use super::WebhookStatus;
use super::time::rfc3339;
use crate::control::webhooks::{Health, Shown};

/// What `webhook` has come to.
pub(super) fn of_webhook(webhook: Shown) -> WebhookStatus {
    let Shown { name, url, events, queued, deliveries: [delivered, failed, dropped], health } = webhook;
    let Health { is_failing, succeeded_at, failed: trouble } = health;
    let (last_error_at, last_error) = trouble.map(|(at, why)| (rfc3339(at), why)).unzip();
    WebhookStatus {
        name,
        url,
        events: events.iter().map(|event| event.as_str().to_owned()).collect(),
        failing: is_failing,
        queued,
        delivered,
        failed,
        dropped,
        last_success_at: succeeded_at.map(rfc3339),
        last_error_at,
        last_error,
    }
}
