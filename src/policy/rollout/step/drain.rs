//! A side is emptied, and works again.

use std::time::Duration;

use super::Machine;
use crate::policy::actor::Actor;
use crate::policy::bucket::Percent;
use crate::policy::decision::Side;
use crate::policy::drain::Drain;
use crate::policy::rollout::Refusal;

impl Machine<'_> {
    pub(super) fn drained_for(&mut self, elapsed: Duration) {
        let Some(drain) = self.state.drain.clone() else { return };
        let (before, did_cut, by, reason) = (self.draining(), drain.cuts(), drain.by.clone(), drain.reason.clone());
        let drain = drain.waited(elapsed);
        let cuts = drain.cuts();
        self.state.drain = Some(drain);
        if cuts && !did_cut {
            let after = self.draining();
            self.note("drain", before, after, &by, &reason);
        }
    }

    pub(super) fn drain(
        &mut self,
        side: Side,
        cut_in: Option<Duration>,
        by: &Actor,
        reason: &str,
    ) -> Result<(), Refusal> {
        match (side, self.state.latches.first(), self.state.drained()) {
            (Side::Old, Some(latch), _) => return Err(Refusal::RolledBack(Box::new(latch.clone()))),
            (_, _, Some(drained)) if drained != side => return Err(Refusal::Drained(drained)),
            _ => {}
        }
        // Emptying OLD raises NEW to 100 %.
        if side == Side::Old && self.moment.frozen && self.state.effective(self.plan) != Percent::FULL {
            return Err(Refusal::Frozen);
        }
        let before = self.draining();
        let (at, by_whom, why) = (self.moment.now, by.clone(), reason.to_owned());
        self.state.drain = Some(Drain { side, cut_in, at, by: by_whom, reason: why });
        let after = self.draining();
        self.note("drain", before, after, by, reason);
        Ok(())
    }

    pub(super) fn end_drain(&mut self, by: &Actor, reason: &str) {
        if self.state.drain.is_some() {
            let before = self.draining();
            self.state.drain = None;
            let after = self.draining();
            self.note("drain", before, after, by, reason);
        }
    }

    pub(super) fn draining(&self) -> String {
        match &self.state.drain {
            None => "no drain".to_owned(),
            Some(Drain { side, cut_in: None, .. }) => format!("{} is drained", side.as_str()),
            Some(drain) if drain.cuts() => format!("{} is drained, what still runs is cut off", drain.side.as_str()),
            Some(Drain { side, cut_in: Some(left), .. }) => {
                format!("{} is drained, cut off in {} s", side.as_str(), left.as_secs())
            }
        }
    }
}
