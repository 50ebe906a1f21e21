//! What answers in place of a NEW that fails.

use std::sync::Arc;

use super::Checker;
use crate::config::document::Place;
use crate::config::error::Complaint;
use crate::config::value::{self, Checked};
use crate::config::{Shield, raw};
use crate::policy::bucket::Percent;
use crate::policy::outcome::Failures;

/// Each request may hold as much.
const LARGEST_BODY: u64 = 16 << 20;

impl Checker<'_> {
    /// The shield as it is written; inside, `None` if it is turned off. `failures` are those of the guard.
    #[expect(clippy::option_option, reason = "outside: whether it could be checked; inside: whether there is one")]
    pub(super) fn shield(
        &mut self,
        place: &Place,
        raw: Option<&raw::Shield>,
        failures: Option<Arc<Failures>>,
    ) -> Option<Option<Shield>> {
        let Some(raw) = raw else { return Some(None) };
        let max_body = self.faults.take(&place.key("max_body"), value::memory(&raw.max_body, 0..=LARGEST_BODY));
        let budget = self.faults.take(&place.key("budget"), budget(&raw.budget));
        let shield = Shield { max_body: max_body?, budget: budget?, failures: failures? };
        Some(raw.enabled.then_some(shield))
    }
}

fn budget(written: &raw::Percent) -> Checked<Percent> {
    let complaint = || Complaint::new("with this budget the shield would soon be spent for good");
    match value::percent(written)? {
        Percent::ZERO => Err(complaint().allowed("above 0, at most 100").help("to turn it off, say enabled: false")),
        percent => Ok(percent),
    }
}
