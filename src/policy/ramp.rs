//! The ramp: a rollout that is raised step by step.
//!
//! A step is over when it has been held for long enough, with enough requests, and nothing speaks against going on. Time
//! held is time that this process saw pass: it is added up tick by tick, so neither a jump of the wall clock nor an hour
//! during which the process was stopped counts as experience with NEW.

use std::time::Duration;

use super::bucket::Percent;

/// The longest time that counts between two ticks. They come every second; a longer silence was a pause of the process.
pub const LONGEST_TICK: Duration = Duration::from_secs(5);

/// One step of a ramp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The share on NEW while it lasts. Each step's is above the one before.
    pub percent: Percent,
    /// How long it lasts at least.
    pub hold: StepHold,
    /// Requests that NEW has to have answered in it.
    pub min_requests: u64,
}

/// How long a step lasts at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepHold {
    /// This long.
    For(Duration),
    /// Until somebody promotes it.
    Manual,
}

/// Where on the ramp a rollout stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Which step, from 0.
    pub step: usize,
    /// That step's percent, by which it is found again when the steps are edited.
    pub percent: Percent,
    /// How long it has been held so far.
    pub held: Duration,
    /// Requests that NEW answered in it so far.
    pub requests: u64,
    /// Requests on NEW in it by which the guard could judge.
    pub judged: u64,
    /// Somebody paused the ramp.
    pub paused: bool,
}

impl Position {
    /// The beginning of step `at` (clipped to the last one).
    #[must_use]
    pub fn at(steps: &[Step], at: usize) -> Self {
        let step = at.min(steps.len().saturating_sub(1));
        let percent = steps.get(step).map_or(Percent::ZERO, |step| step.percent);
        Self { step, percent, ..Self::default() }
    }

    /// The same place on `steps`, which may have been edited: the step with the same percent goes on, else it is the last
    /// one that is not above it, from its beginning. An edit raises nobody who was not named: only when all that is left is above, the first one counts.
    #[must_use]
    pub fn found_again(self, steps: &[Step]) -> Self {
        if let Some(step) = steps.iter().position(|step| step.percent == self.percent) {
            return Self { step, ..self };
        }
        let below = steps.iter().rposition(|step| step.percent < self.percent).unwrap_or(0);
        Self { paused: self.paused, ..Self::at(steps, below) }
    }

    /// Adds what happened since the last tick.
    #[must_use]
    pub fn held_for(self, elapsed: Duration, requests: u64, judged: u64) -> Self {
        let seen = if elapsed > LONGEST_TICK { Duration::ZERO } else { elapsed };
        let held = self.held.saturating_add(seen);
        let (requests, judged) = (self.requests.saturating_add(requests), self.judged.saturating_add(judged));
        Self { held, requests, judged, ..self }
    }

    /// What this step still waits for; `None` if it is over. `evidence` is how many requests the guard has to have seen.
    #[must_use]
    pub fn waits_for(&self, steps: &[Step], evidence: u64) -> Option<Waiting> {
        let step = steps.get(self.step)?;
        let StepHold::For(hold) = step.hold else { return Some(Waiting::Promotion) };
        let time = hold.saturating_sub(self.held);
        let requests = step.min_requests.saturating_sub(self.requests);
        let evidence = evidence.saturating_sub(self.judged);
        (!time.is_zero() || requests > 0 || evidence > 0).then_some(Waiting::Experience { time, requests, evidence })
    }

    /// Whether there is a step after this one.
    #[must_use]
    pub fn has_next(&self, steps: &[Step]) -> bool {
        self.step + 1 < steps.len()
    }
}

/// What a step waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// Somebody to promote it.
    Promotion,
    /// More time, and more requests on NEW.
    Experience {
        /// How much longer.
        time: Duration,
        /// How many more.
        requests: u64,
        /// How many more of which the guard can judge.
        evidence: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(percents: &[u16]) -> Vec<Step> {
        let percent = |p: &u16| Percent::from_hundredths(p * 100).unwrap();
        let hold = StepHold::For(Duration::from_secs(600));
        percents.iter().map(|p| Step { percent: percent(p), hold, min_requests: 500 }).collect()
    }

    #[test]
    fn a_step_waits_for_time_and_for_requests() {
        let steps = steps(&[1, 5]);
        let mut position = Position::at(&steps, 0);
        for _ in 0..599 {
            position = position.held_for(Duration::from_secs(1), 0, 0);
        }
        let waiting =
            |time, requests| Some(Waiting::Experience { time: Duration::from_secs(time), requests, evidence: 0 });
        assert_eq!(position.waits_for(&steps, 0), waiting(1, 500));
        position = position.held_for(Duration::from_secs(1), 499, 0);
        assert_eq!(position.waits_for(&steps, 0), waiting(0, 1));
        assert_eq!(position.held_for(Duration::ZERO, 1, 0).waits_for(&steps, 0), None);
    }

    #[test]
    fn a_step_waits_until_the_guard_could_have_seen_something() {
        let steps = steps(&[1, 5]);
        let position = Position::at(&steps, 0).held_for(Duration::from_secs(1), 900, 700);
        let position = Position { held: Duration::from_secs(600), ..position };
        let waiting = Waiting::Experience { time: Duration::ZERO, requests: 0, evidence: 300 };
        assert_eq!(position.waits_for(&steps, 1_000), Some(waiting));
        assert_eq!(position.waits_for(&steps, 700), None);
    }

    #[test]
    fn a_pause_of_the_process_is_no_experience() {
        let position = Position::at(&steps(&[1]), 0).held_for(Duration::from_secs(86_400), 0, 0);
        assert_eq!(position.held, Duration::ZERO);
    }

    #[test]
    fn an_edit_of_the_steps_never_raises() {
        let standing = Position { held: Duration::from_secs(7), ..Position::at(&steps(&[1, 5, 20]), 1) };
        for (edited, step, percent, held) in
            [(&[1, 2, 5][..], 2, 500, 7), (&[1, 3, 20], 1, 300, 0), (&[10, 20], 0, 1000, 0), (&[5], 0, 500, 7)]
        {
            let found = standing.clone().found_again(&steps(edited));
            assert_eq!((found.step, found.percent.hundredths()), (step, percent), "{edited:?}");
            assert_eq!(found.held.as_secs(), held, "{edited:?}");
        }
    }
}
