//! The guards: what the workers count becomes evidence, and evidence becomes a verdict.
//!
//! Evidence is about something: a backend under a config. When that changes it begins anew, and when only the split changes
//! (or anything else that is written) it goes on, but requests from before count no more. After a pause of the process
//! nothing that was counted meanwhile can be trusted, so all of it begins anew. Nothing of this survives a restart.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::in_force::InForce;
use super::queries::QueryKnown;
use crate::config::{self, Config, Endpoint, SlowerThan};
use crate::metrics::tally::{Mark, Marks, Position, Tallies, Tally};
use crate::metrics::window::Recent;
use crate::metrics::{Registry, RolloutMeters};
use crate::policy::bucket::{Bucket, Percent};
use crate::policy::decision::Side;
use crate::policy::guard::{Account, Batch, Counted, Hurt, Limits, Test};
use crate::policy::rollout::{Action, Cause, State, Verdict};

/// The longest time between two looks; they come every second. A longer silence was a pause of the process.
const LONGEST_SILENCE: Duration = Duration::from_secs(3);
/// Requests on OLD in the last minute below which its p99 says nothing.
const ENOUGH_FOR_P99: u64 = 1_000;

/// All guards.
#[derive(Debug)]
pub struct Guards {
    watched: BTreeMap<String, Watched>,
    looked_at: Instant,
    /// The epoch that the next change begins. The first snapshot of the process is of epoch 0.
    next_epoch: u64,
}

/// What a guard knows, for people.
#[derive(Clone, Debug)]
pub struct Known {
    /// How many failures. What follows from it is worked out by those who want to know ([`Test::account`]).
    pub failures: Test,
    /// How many slow requests, if that is asked for.
    pub latency: Option<Test>,
    /// Above which time a request is slow, if that is known.
    pub slow_above: Option<Duration>,
    /// Different buckets that saw a failure since the guard began to look at this backend.
    pub users_hurt: usize,
    /// How many of them are too many.
    pub max_users_hurt: Option<usize>,
    /// What its queries said.
    pub queries: Vec<QueryKnown>,
    /// What is done.
    pub action: Action,
    /// What was found and still stands.
    pub found: Option<Verdict>,
}

impl Guards {
    /// Nobody is watched yet.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { watched: BTreeMap::new(), looked_at: now, next_epoch: 0 }
    }

    /// Watches what is in force. Gives the epochs that the next snapshot is to carry; after its publication comes
    /// [`Guards::begin`].
    pub fn follow(&mut self, in_force: &InForce) -> BTreeMap<String, u64> {
        let mut before = std::mem::take(&mut self.watched);
        let (config, states) = (in_force.config(), in_force.states());
        for (name, rollout) in &config.rollouts {
            let (Some(guard), Some(state)) = (&rollout.guard, states.get(name)) else { continue };
            let subject = Subject::of(config, rollout, guard, state);
            let split = Split::of(config, rollout, state);
            let is_held = is_held(guard, state);
            let goes_on = |watched: &Watched| watched.subject == subject && (is_held || !watched.is_held);
            let watched = match before.remove(name).filter(goes_on) {
                Some(watched) => watched.under(split, self.next_epoch),
                None => Watched::new(subject, split, self.next_epoch),
            };
            self.watched.insert(name.clone(), Watched { is_held, ..watched });
        }
        self.next_epoch += 1;
        self.watched.iter().map(|(name, watched)| (name.clone(), watched.epoch)).collect()
    }

    /// From here on requests of the current epochs count, and no others.
    pub fn begin(&mut self, registry: &Registry) {
        for (name, watched) in self.watched.iter_mut().filter(|(_, watched)| !watched.has_begun) {
            watched.begin(registry.rollout(name).tallies());
        }
    }

    /// When they looked last.
    #[must_use]
    pub fn looked_at(&self) -> Instant {
        self.looked_at
    }

    /// Whether the process has stood still since the last look.
    #[must_use]
    pub fn has_stood_still(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.looked_at) > LONGEST_SILENCE
    }

    /// All evidence begins anew, with what follows.
    pub fn forget(&mut self, now: Instant) {
        self.looked_at = now;
        self.watched.clear();
    }

    /// The evidence about the rollout `name` begins anew, with what follows.
    pub fn forget_one(&mut self, name: &str) {
        self.watched.remove(name);
    }

    /// Looks at what was counted since the last look. Each verdict is given once, until the evidence for it has gone.
    pub fn look(&mut self, now: Instant, registry: &Registry) -> Vec<(String, Verdict)> {
        let elapsed = now.saturating_duration_since(self.looked_at);
        self.looked_at = now;
        let look = |(name, watched): (&String, &mut Watched)| {
            let verdict = watched.look(registry.rollout(name).tallies(), elapsed)?;
            Some((name.clone(), verdict))
        };
        self.watched.iter_mut().filter_map(look).collect()
    }

    /// Lets OLD's p99 of the last minute say what is slow, where that is asked for.
    pub fn time(&self, registry: &Registry, recent: impl Fn(&str) -> Recent) {
        for (name, watched) in &self.watched {
            if watched.subject.guard.latency.as_ref().is_some_and(|latency| latency.slower_than == SlowerThan::P99OfOld)
            {
                registry.rollout(name).tallies().call_slow(p99(&recent(name)));
            }
        }
    }

    /// Requests on NEW of the rollout `name` by which its guard could judge since this was asked last.
    pub fn take_judged(&mut self, name: &str) -> u64 {
        self.watched.get_mut(name).map_or(0, |watched| std::mem::take(&mut watched.judged))
    }

    /// Whether nothing stands against NEW of the rollout `name` but what is only to be told.
    #[must_use]
    pub fn is_healthy(&self, name: &str) -> bool {
        self.watched
            .get(name)
            .is_none_or(|watched| watched.found.is_none() || watched.subject.guard.action == Action::Notify)
    }

    /// What the guards know.
    #[must_use]
    pub fn known(&self, registry: &Registry) -> BTreeMap<String, Known> {
        let known = |(name, watched): (&String, &Watched)| (name.clone(), watched.known(&registry.rollout(name)));
        self.watched.iter().map(known).collect()
    }
}

fn p99(recent: &Recent) -> Option<Duration> {
    (recent.requests >= ENOUGH_FOR_P99).then(|| recent.durations.quantile(0.99)).flatten()
}

/// What the evidence is about.
#[derive(Clone, Debug, PartialEq)]
struct Subject {
    guard: config::Guard,
    /// Those of OLD and of NEW.
    endpoints: [Vec<Endpoint>; 2],
    is_rolled_back: bool,
}

impl Subject {
    fn of(config: &Config, rollout: &config::Rollout, guard: &config::Guard, state: &State) -> Self {
        let guard = config::Guard { queries: Vec::new(), ..guard.clone() }; // they have evidence of their own
        Self { guard, endpoints: endpoints(config, rollout, state), is_rolled_back: state.is_rolled_back() }
    }
}

/// Whether the ramp stands still, where that is all that the guard does. When somebody lets it go on, what was found has had
/// its effect: the evidence begins anew, or nothing would ever hold the ramp again.
pub(super) fn is_held(guard: &config::Guard, state: &State) -> bool {
    guard.action == Action::HoldStep && state.position.paused
}

/// The endpoints of OLD and of NEW.
pub(super) fn endpoints(config: &Config, rollout: &config::Rollout, state: &State) -> [Vec<Endpoint>; 2] {
    let mut names = [&rollout.old, &rollout.new];
    if state.have_changed_places(&rollout.plan(config.rollback)) {
        names.reverse();
    }
    names.map(|name| config.backends[name].endpoints.clone())
}

/// By what requests are split: a look at the shares of the sides is good for as long as this is the same.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Split {
    effective: Percent,
    drained: Option<Side>,
    config: String,
}

impl Split {
    fn of(config: &Config, rollout: &config::Rollout, state: &State) -> Self {
        let plan = rollout.plan(config.rollback);
        Self { effective: state.effective(&plan), drained: state.drained(), config: config.hash.clone() }
    }
}

#[derive(Debug)]
struct Watched {
    subject: Subject,
    split: Split,
    epoch: u64,
    has_begun: bool,
    is_held: bool,
    failures: Sense,
    latency: Option<Sense>,
    hurt: Hurt,
    /// Requests on NEW since they were asked for.
    judged: u64,
    found: Option<Verdict>,
}

impl Watched {
    fn new(subject: Subject, split: Split, epoch: u64) -> Self {
        let guard = &subject.guard;
        Self {
            failures: Sense::new(&guard.limits, Tally::failures),
            latency: guard.latency.as_ref().map(|latency| Sense::new(&latency.limits, Tally::slow)),
            hurt: Hurt::default(),
            judged: 0,
            found: None,
            has_begun: false,
            is_held: false,
            subject,
            split,
            epoch,
        }
    }

    /// The same evidence under a split that may be another, which begins `epoch`.
    fn under(mut self, split: Split, epoch: u64) -> Self {
        if split != self.split {
            self.senses().for_each(|sense| sense.test.split_changed());
            self = Self { split, epoch, has_begun: false, ..self };
        }
        self
    }

    fn senses(&mut self) -> impl Iterator<Item = &mut Sense> {
        [Some(&mut self.failures), self.latency.as_mut()].into_iter().flatten()
    }

    fn begin(&mut self, tallies: &Tallies) {
        tallies.watch(self.epoch);
        match self.subject.guard.latency.as_ref().map(|latency| latency.slower_than) {
            Some(SlowerThan::Fixed(bound)) => tallies.call_slow(Some(bound)),
            Some(SlowerThan::P99OfOld) => {} // known a little later, or still
            None => tallies.call_slow(None),
        }
        let shares_with_old = self.split.effective < Percent::FULL;
        for sense in self.senses() {
            sense.skip(tallies);
            if shares_with_old {
                sense.test.expect_old();
            }
        }
        self.has_begun = true;
    }

    fn look(&mut self, tallies: &Tallies, elapsed: Duration) -> Option<Verdict> {
        let marks = self.failures.look(tallies, elapsed, &mut self.judged);
        marks.iter().filter(|mark| !mark.is_shielded).for_each(|mark| self.hurt.add(mark.bucket));
        if let Some(latency) = &mut self.latency {
            latency.look(tallies, elapsed, &mut 0);
        }
        let standing = self.settled(tallies.slow_above());
        match (&self.found, standing) {
            (found, Some(verdict)) if found.as_ref().is_none_or(|found| self.is_news_after(found, &verdict)) => {
                self.found = Some(verdict.clone());
                Some(verdict)
            }
            (Some(_), None) if self.is_calm() => {
                self.found = None;
                None
            }
            _ => None,
        }
    }

    /// Whether `verdict` has to be told though `found` is told already. That too many users were hurt never goes away again: it
    /// must not hide what NEW does now, and is what is left once NEW is well.
    fn is_news_after(&self, found: &Verdict, verdict: &Verdict) -> bool {
        verdict.cause != found.cause && (found.cause == Cause::UsersHurt || self.is_calm())
    }

    fn settled(&self, slow_above: Option<Duration>) -> Option<Verdict> {
        if self.failures.test.is_settled() {
            let reason = in_words(&self.failures.test.account(), "failed");
            return Some(Verdict { cause: Cause::Failures, reason });
        }
        if let Some(latency) = self.latency.as_ref().filter(|latency| latency.test.is_settled()) {
            let what =
                slow_above.map_or("was slow in".to_owned(), |bound| format!("took more than {} in", millis(bound)));
            return Some(Verdict { cause: Cause::Latency, reason: in_words(&latency.test.account(), &what) });
        }
        let (hurt, most) = (self.hurt.count(), self.subject.guard.max_users_hurt?);
        let reason = || format!("{hurt} different users saw a failure on new; {most} are too many");
        (hurt >= most).then(|| Verdict { cause: Cause::UsersHurt, reason: reason() })
    }

    /// Whether all evidence is back where it began.
    fn is_calm(&self) -> bool {
        self.failures.test.is_calm() && self.latency.as_ref().is_none_or(|latency| latency.test.is_calm())
    }

    fn known(&self, meters: &Arc<RolloutMeters>) -> Known {
        Known {
            failures: self.failures.test.clone(),
            latency: self.latency.as_ref().map(|latency| latency.test.clone()),
            slow_above: meters.tallies().slow_above(),
            users_hurt: self.hurt.count(),
            max_users_hurt: self.subject.guard.max_users_hurt,
            queries: Vec::new(),
            action: self.subject.guard.action,
            found: self.found.clone(),
        }
    }
}

/// A test, and how far the counters that it lives on have been read.
#[derive(Debug)]
struct Sense {
    test: Test,
    of: fn(&Tally) -> &Marks,
    /// By side, then by worker.
    positions: [Vec<Position>; 2],
}

/// What all workers counted on one side since the last look.
#[derive(Debug, Default)]
struct Reading {
    counted: Counted,
    /// The requests that came before the first bad one.
    leading: u64,
    /// The bad ones.
    marks: Vec<Mark>,
}

impl Sense {
    fn new(limits: &Limits, of: fn(&Tally) -> &Marks) -> Self {
        Self { test: Test::new(limits), of, positions: Default::default() }
    }

    /// What was counted so far counts for nothing.
    fn skip(&mut self, tallies: &Tallies) {
        for side in Side::ALL {
            self.read(tallies, side);
        }
    }

    fn read(&mut self, tallies: &Tallies, side: Side) -> Reading {
        let positions = &mut self.positions[side.index()];
        let mut sum = Reading::default();
        for (worker, tally) in tallies.all(side).enumerate() {
            if worker == positions.len() {
                positions.push(Position::default());
            }
            let (counted, leading) = (self.of)(tally).read(&mut positions[worker], &mut sum.marks);
            sum.counted.requests += counted.requests;
            sum.counted.bad += counted.bad;
            sum.leading += leading;
        }
        sum
    }

    /// Gives NEW's bad requests, and adds its requests to `judged`.
    fn look(&mut self, tallies: &Tallies, elapsed: Duration, judged: &mut u64) -> Vec<Mark> {
        let old = self.read(tallies, Side::Old).counted;
        let Reading { counted, leading, marks } = self.read(tallies, Side::New);
        let buckets: Vec<Bucket> = marks.iter().map(|mark| mark.bucket).collect();
        // A bad request is looked at within a millisecond, so what else was counted came before it; of its own worker's
        // requests it is known. Cut there, the test forgets the good ones before it begins to doubt.
        let before = Counted { requests: leading, bad: 0 };
        let rest = Counted { requests: counted.requests - leading, bad: counted.bad };
        self.test.look(&Batch { old, new: before, buckets: &[], elapsed });
        if rest.requests > 0 {
            let old = Counted::default();
            self.test.look(&Batch { old, new: rest, buckets: &buckets, elapsed: Duration::ZERO });
        }
        *judged += counted.requests;
        marks
    }
}

/// The numbers that have settled it, for whoever is woken by them.
fn in_words(account: &Account, what: &str) -> String {
    let Account { new, old, distinct, limits, .. } = account;
    let old = match old.requests {
        0 => "old had none".to_owned(),
        _ => format!("old {} of {} ({})", old.bad, old.requests, share(*old)),
    };
    format!(
        "new {what} {} of {} requests ({}) from {distinct} different users, {old}; {} is tolerated",
        new.bad,
        new.requests,
        share(*new),
        percent(limits.tolerance)
    )
}

/// As it is written in the config, or with one decimal where it was measured.
fn millis(bound: Duration) -> String {
    let written = format!("{:.1}", bound.as_secs_f64() * 1e3);
    format!("{} ms", written.trim_end_matches(".0"))
}

#[expect(clippy::cast_precision_loss, reason = "a share needs no more than 52 bits")]
fn share(counted: Counted) -> String {
    percent(counted.bad as f64 / counted.requests.max(1) as f64)
}

/// At most two decimals, and none that say nothing.
fn percent(share: f64) -> String {
    let written = format!("{:.2}", share * 100.0);
    let short = written.trim_end_matches('0').trim_end_matches('.');
    format!("{short} %")
}
