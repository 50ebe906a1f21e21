//! Who is turned away or waits, as status tells it.

use std::time::SystemTime;

use super::time::{rfc3339, seconds, spelled};
use super::{Deed, HoldStatus, MaintenanceStatus};
use crate::policy::actor::Actor;
use crate::policy::standing::{Hold, Maintenance, RetryAfter};
use crate::snapshot::Service;

/// Who did something, when and why.
pub(super) fn deed(at: SystemTime, by: &Actor, reason: &str) -> Deed {
    Deed { at: rfc3339(at), by: by.name.clone(), reason: reason.to_owned() }
}

pub(super) fn maintenance(service: &Service) -> Option<MaintenanceStatus> {
    let Maintenance { message, read_only, retry_after, at, by, reason } = service.maintenance.as_deref()?;
    let retry_after = retry_after.map(|retry_after| match retry_after {
        RetryAfter::In(duration) => spelled(duration),
        RetryAfter::At(at) => rfc3339(at),
    });
    Some(MaintenanceStatus {
        message: message.clone(),
        read_only: *read_only,
        retry_after,
        deed: deed(*at, by, reason),
    })
}

/// A queue without a hold is one whose hold has ended: those who still wait in it go on.
pub(super) fn hold(service: &Service, hold: Option<&Hold>) -> Option<HoldStatus> {
    let queue = service.hold.as_ref()?;
    Some(HoldStatus {
        max_wait_seconds: seconds(queue.max_wait()),
        waiting: queue.waiting(),
        releasing: hold.is_none(),
        deed: hold.map(|hold| deed(hold.at, &hold.by, &hold.reason)),
    })
}
