//! The only writer: what happens becomes events, events become a snapshot, one store publishes it.
//!
//! Each event is applied to [`InForce`]. If that changed anything, three things follow, in this order: it is published to
//! the workers, it is made durable, it is announced. A rollback never waits for a disk, and nobody is told that something is
//! so before it is.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Duration, Instant, MissedTickBehavior, interval, sleep_until};

use super::announce::{Announcer, Answer};
use super::clock::{Clock, Reading as Clocks};
use super::expiry::Expiry;
use super::files::{Reading, Reloaded};
use super::findings::{Finding, Findings, keep_what_stands};
use super::flag::Flag;
use super::gate;
use super::guards::{Guards, Known};
use super::health::Keeper;
use super::in_force::{InForce, Seen, Told};
use super::journal::Journal;
use super::journal::audit::{Draft, Who};
use super::memory::Memory;
use super::order::{Order, Scope};
use super::overview::{Overview, Progress, Reload};
use super::pacer::Pacer;
use super::queries::{Answered, Queries};
use crate::config::{Config, ConfigError, Keyring};
use crate::metrics::{Registry, window};
use crate::policy::actor::{Actor, Source};
use crate::policy::decision::Side;
use crate::policy::rollout::{Action, Change, Command, Gate, Verdict};
use crate::proxy::worker::Errands;
use crate::snapshot::{Endpoint, Snapshot};

/// How often the clock is looked at: steps, drains and deadlines are as exact as this.
const TICK: Duration = Duration::from_secs(1);
/// How long after a look of the guards the next one may come, at the earliest.
const BREATH: Duration = Duration::from_micros(500);
/// How often the progress of a ramp is remembered while nothing else changes: a kill -9 costs a step so much of its time.
const REMEMBER_EVERY: Duration = Duration::from_secs(10);

/// Everything that can change what is in force.
#[derive(Debug)]
pub enum Event {
    /// The config file was read; those who asked for it want to know how that went.
    Read(Reading, Vec<oneshot::Sender<Reloaded>>),
    /// The files of TLS hold something else than before, or are not as they should be any more.
    Renewed(Keyring),
    /// The flag file asks for something else than before.
    Flagged(Flag),
    /// An operator wants something.
    Asked(Box<Order>, Answer),
    /// These endpoints, the target of a switch, were looked at.
    Looked(Box<Order>, Answer, Vec<Endpoint>, Result<(), String>),
    /// A query of a guard was answered, or not.
    Answered(Answered),
    /// The name of an endpoint stands for these addresses now.
    Resolved(String, Arc<[IpAddr]>),
}

/// The controller's task: owns what is in force.
#[derive(Debug)]
pub struct Controller {
    in_force: InForce,
    published: Arc<ArcSwap<Snapshot>>,
    overview: Arc<Overview>,
    announcer: Announcer,
    errands: Vec<Errands>,
    events: mpsc::Sender<Event>,
    clock: Clock,
    expiry: Expiry,
    pacer: Pacer,
    /// Looks after the endpoints.
    keeper: Keeper,
    guards: Guards,
    /// What they have found and still stands.
    findings: Findings,
    queries: Queries,
    /// What NEW of each rollout had answered at the last tick.
    answered: HashMap<String, u64>,
    remembered_at: Instant,
}

impl Controller {
    /// A controller over what [`Overview`] shows. `told` is what the start has changed.
    #[must_use]
    pub fn new(
        in_force: InForce,
        told: Vec<Told>,
        overview: Arc<Overview>,
        errands: Vec<Errands>,
        events: mpsc::Sender<Event>,
    ) -> Self {
        let announcer = Announcer::start(Arc::clone(&overview));
        overview.webhooks.follow(&overview.snapshot.load().webhooks);
        let keeper = Keeper::start(&overview.snapshot, Arc::clone(&overview.registry), overview.health_changes.clone());
        let mut this = Self {
            in_force,
            keeper,
            published: Arc::clone(&overview.snapshot),
            overview,
            announcer,
            errands,
            queries: Queries::new(events.clone()),
            events,
            clock: Clock::new(Clocks::now()),
            expiry: Expiry::default(),
            pacer: Pacer::default(),
            guards: Guards::new(Instant::now()),
            findings: Findings::new(),
            answered: HashMap::new(),
            remembered_at: Instant::now(),
        };
        this.guards.follow(&this.in_force); // the first snapshot, which is published already, has their epoch
        this.guards.begin(&this.overview.registry);
        this.queries.follow(&this.in_force);
        this.show_guards();
        this.remember([started()].into_iter().chain(told).collect(), None);
        this
    }

    /// Runs until the last sender of events has gone.
    pub async fn run(mut self, mut events: mpsc::Receiver<Event>) {
        let registry = Arc::clone(&self.overview.registry);
        let mut tick = steady(TICK);
        let mut reading = steady(window::INTERVAL);
        let mut pace = steady(Pacer::EVERY);
        loop {
            tokio::select! {
                biased;
                event = events.recv() => match event {
                    Some(event) => self.handle(event),
                    None => return,
                },
                () = alarmed(&registry, self.guards.looked_at()) => self.look_at_new(),
                _ = pace.tick(), if self.pacer.is_busy() => self.let_go(),
                _ = tick.tick() => self.tick(),
                _ = reading.tick() => self.take_reading(),
            }
        }
    }

    fn handle(&mut self, event: Event) {
        let now = SystemTime::now();
        match event {
            Event::Read(reading, answers) => self.read(reading, answers, now),
            Event::Renewed(keyring) => self.renew(keyring),
            Event::Flagged(flag) => {
                let told = self.in_force.flagged(&flag, now);
                self.put_in_force(told, None);
            }
            Event::Asked(order, answer) => match self.target_of(&order) {
                Some(target) => self.look_at(target, order, answer),
                None => self.obey(&order, answer, now),
            },
            Event::Looked(order, answer, endpoints, found) => match self.target_of(&order) {
                // Somebody has switched or changed the config meanwhile: what would serve is not what was looked at.
                Some(target) if self.published.load().backends[target].endpoints != endpoints => {
                    self.look_at(target, order, answer);
                }
                _ => self.obey(&looked(*order, found), answer, now),
            },
            Event::Answered(answered) => self.hear(answered),
            Event::Resolved(name, addresses) => {
                if self.in_force.resolved(name, addresses) {
                    self.publish();
                }
            }
        }
    }

    // -- in force, durable, announced

    /// Publishes, makes durable, announces; whoever waits for it is answered then.
    fn put_in_force(&mut self, told: Vec<Told>, answer: Option<Answer>) {
        if !told.is_empty() {
            self.publish();
        }
        self.remember(told, answer);
    }

    fn publish(&mut self) {
        let epochs = self.guards.follow(&self.in_force);
        self.in_force.set_epochs(epochs);
        let snapshot = Arc::new(self.in_force.snapshot(&self.overview.registry));
        self.published.store(Arc::clone(&snapshot));
        self.keeper.follow(&snapshot);
        self.guards.begin(&self.overview.registry);
        self.queries.follow(&self.in_force);
        self.overview.webhooks.follow(&snapshot.webhooks);
        self.show_guards();
        self.show_progress(SystemTime::now());
    }

    fn remember(&mut self, told: Vec<Told>, answer: Option<Answer>) {
        let drafts = told.into_iter().map(draft).collect();
        let commit = self.overview.journal.commit(self.in_force.memory(), drafts);
        self.remembered_at = Instant::now();
        self.announcer.announce(commit, answer);
    }

    fn show_progress(&self, now: SystemTime) {
        let rollouts = self.in_force.states().clone();
        let frozen = rollouts.keys().map(|name| (name.clone(), self.in_force.is_frozen(name, now))).collect();
        self.overview.progress.store(Arc::new(Progress { rollouts, frozen }));
    }

    // -- people

    fn obey(&mut self, order: &Order, answer: Answer, now: SystemTime) {
        match self.in_force.obey(order, now) {
            Ok(told) => {
                self.put_in_force(told, Some(answer));
                self.in_force.take_replaced_queues().iter().for_each(|queue| queue.open());
                self.pacer.follow(self.in_force.ended_holds());
            }
            Err(refused) => {
                tracing::info!(scope = %order.scope, what = order.command.verb(), by = order.by.name, "refused: {refused}");
                let _whoever_asked_may_have_left = answer.send(Err(refused));
            }
        }
    }

    /// The backend that a switch would turn to and that has to be looked at first; `None` for all other orders, and for
    /// switches that would be refused anyway.
    fn target_of(&self, order: &Order) -> Option<usize> {
        let Command::Switch { back, gate: Gate::Passed } = order.command else { return None };
        let Scope::Rollout(name) = &order.scope else { return None };
        self.in_force.would_obey(order, SystemTime::now()).ok()?;
        let snapshot = self.published.load();
        let rollout = snapshot.rollout(name)?;
        let colors = rollout.state.colors;
        let side = if back || colors.active != colors.old { Side::Old } else { Side::New };
        Some(rollout.backend(side))
    }

    /// Looks at the target aside; what was found comes back as an event.
    fn look_at(&self, target: usize, order: Box<Order>, answer: Answer) {
        let (snapshot, errands, events) = (self.published.load_full(), self.errands.clone(), self.events.clone());
        tokio::spawn(async move {
            let backend = &snapshot.backends[target];
            let found = gate::look(backend, &errands).await;
            let found =
                found.map(|warmed| tracing::info!(backend = backend.name, "looked at before a switch: {warmed}"));
            let looked = Event::Looked(order, answer, backend.endpoints.clone(), found);
            let _the_process_may_be_ending = events.send(looked).await;
        });
    }

    // -- files

    fn read(&mut self, reading: Reading, answers: Vec<oneshot::Sender<Reloaded>>, now: SystemTime) {
        let reloaded = match reading {
            Reading::Good(config) => self.take(*config, now),
            Reading::Bad(error) => self.refuse(&error),
            Reading::Same => self.note_unchanged(),
            Reading::MoreRollback(config) => {
                let told = self.in_force.roll_back_like(&config, now);
                self.put_in_force(told, None);
                Ok(self.in_force.config().hash.clone())
            }
        };
        for answer in answers {
            let _whoever_asked_may_have_left = answer.send(reloaded.clone());
        }
    }

    fn take(&mut self, config: Config, now: SystemTime) -> Reloaded {
        let (told, needs_restart) = self.in_force.take(config, now);
        self.publish();
        self.remember(told, None);
        let hash = self.in_force.config().hash.clone();
        tracing::info!(hash, "config reloaded");
        if !needs_restart.is_empty() {
            tracing::warn!(keys = ?needs_restart, "these keys change only with a restart");
        }
        self.note(|reload| Reload { successful: true, succeeded_at: now, error: None, needs_restart, ..reload });
        Ok(hash)
    }

    fn refuse(&self, error: &ConfigError) -> Reloaded {
        let error = error.to_string();
        tracing::error!("config refused; the old one stays in force\n{error}");
        self.note(|reload| Reload { successful: false, error: Some(error.clone()), ..reload });
        Err(error)
    }

    /// The file says again what is in force.
    fn note_unchanged(&self) -> Reloaded {
        tracing::info!("the config file says again what is in force");
        self.note(|reload| Reload { successful: true, succeeded_at: SystemTime::now(), error: None, ..reload });
        Ok(self.in_force.config().hash.clone())
    }

    /// Takes what the files of TLS hold now. Connections that are open go on as they are.
    fn renew(&mut self, keyring: Keyring) {
        let before = self.published.load_full();
        for trouble in keyring.troubles().iter().filter(|trouble| !before.keyring.troubles().contains(trouble)) {
            let path = trouble.path.display();
            tracing::error!(%path, "TLS goes on with what was read before: {}", trouble.message);
        }
        if !keyring.holds_the_same_as(&before.keyring) {
            tracing::info!("the files of TLS were read anew");
        } else if keyring.troubles().is_empty() {
            tracing::info!("the files of TLS are as they should be again");
        }
        self.in_force.renew(keyring);
        self.publish();
    }

    fn note(&self, change: impl FnOnce(Reload) -> Reload) {
        let before = Reload::clone(&self.overview.reload.load());
        let attempts = before.attempts + 1;
        self.overview.reload.store(Arc::new(Reload { attempts, ..change(before) }));
    }

    // -- the guards

    /// Looks whether NEW hurts users, and acts if it does.
    fn look_at_new(&mut self) {
        let now = Instant::now();
        if self.guards.has_stood_still(now) {
            return self.trust_no_count("the process has stood still");
        }
        let verdicts = self.guards.look(now, &self.overview.registry);
        for (name, verdict) in verdicts {
            self.judge(&name, verdict);
        }
    }

    /// A query was answered.
    fn hear(&mut self, answered: Answered) {
        match self.queries.take(answered) {
            Some((name, verdict)) => self.judge(&name, verdict),
            None => self.show_guards(),
        }
    }

    fn judge(&mut self, name: &str, verdict: Verdict) {
        let now = SystemTime::now();
        self.overview.registry.rollout(name).trip(verdict.cause);
        self.note_finding(name, verdict.clone(), now);
        let told = self.in_force.judged(name, verdict, now);
        if self.in_force.guard_action(name) == Some(Action::StepBack) {
            self.guards.forget_one(name); // the step below is judged by what happens there
            self.queries.begin_anew(name);
        }
        match told.is_empty() {
            true => self.show_guards(),
            false => self.put_in_force(told, None),
        }
    }

    /// Before anything follows from it: the numbers are those of this moment.
    fn note_finding(&mut self, name: &str, verdict: Verdict, at: SystemTime) {
        let numbers = self.known().remove(name);
        if let (Some(action), Some(numbers)) = (self.in_force.guard_action(name), numbers) {
            self.findings.insert(name.to_owned(), Finding { at, verdict, action, numbers });
        }
    }

    /// What was counted so far says nothing any more.
    fn trust_no_count(&mut self, why: &str) {
        tracing::warn!("{why}: the guards begin anew, and requests from before count for nothing");
        self.guards.forget(Instant::now());
        self.publish();
    }

    /// What the guards know, with what their queries were answered.
    fn known(&self) -> BTreeMap<String, Known> {
        let mut guards = self.guards.known(&self.overview.registry);
        for (name, known) in &mut guards {
            known.queries = self.queries.known(name);
            known.found = known.found.take().or_else(|| known.queries.iter().find_map(|query| query.found.clone()));
        }
        guards
    }

    fn show_guards(&mut self) {
        let known = self.known();
        keep_what_stands(&mut self.findings, self.in_force.states(), &known);
        self.overview.findings.store(Arc::new(self.findings.clone()));
        self.overview.guards.store(Arc::new(known));
    }

    fn take_reading(&self) {
        self.overview.take_reading();
        self.guards.time(&self.overview.registry, |name| self.overview.recent(name, Side::Old));
    }

    // -- the clock

    fn tick(&mut self) {
        self.look_at_new();
        self.show_guards();
        let now = Clocks::now();
        self.expiry.look(&self.in_force.config().keyring, now.wall);
        let passed = self.clock.look(now);
        if let Some(seconds) = passed.jumped {
            tracing::warn!(seconds, "the wall clock jumped; deadlines wait until it has been steady for a minute");
            self.trust_no_count("the wall clock jumped");
        }
        let seen = self.see();
        // Only a ramp or a drain that goes on, which each tick moves, is remembered here.
        let is_due = self.remembered_at.elapsed() >= REMEMBER_EVERY;
        let before = is_due.then(|| self.in_force.memory());
        let nothing = Seen { requests: 0, judged: 0, healthy: true };
        let told = self.in_force.tick(passed, |name| seen.get(name).copied().unwrap_or(nothing), now.wall);
        if !told.is_empty() {
            return self.put_in_force(told, None);
        }
        self.show_progress(now.wall);
        if before.is_some_and(|before| self.in_force.memory() != before) {
            self.remember(Vec::new(), None);
        }
    }

    /// What was seen of each rollout since the last call.
    fn see(&mut self) -> HashMap<String, Seen> {
        let names: Vec<String> = self.in_force.config().rollouts.keys().cloned().collect();
        let see = |name: String| {
            let total = self.overview.registry.rollout(&name).side(Side::New).answered();
            let before = self.answered.insert(name.clone(), total).unwrap_or(0);
            let (judged, healthy) = (self.guards.take_judged(&name), self.is_healthy(&name));
            (name, Seen { requests: total - before, judged, healthy })
        };
        names.into_iter().map(see).collect()
    }

    /// Whether nothing stands against NEW of the rollout `name` but what is only to be told.
    fn is_healthy(&self, name: &str) -> bool {
        let is_only_told = self.in_force.guard_action(name) == Some(Action::Notify);
        self.guards.is_healthy(name) && (is_only_told || self.queries.is_healthy(name))
    }

    // -- where requests wait

    /// Lets the next ones of those go that waited for a hold that has ended.
    fn let_go(&mut self) {
        let emptied = self.pacer.release();
        if !emptied.is_empty() {
            emptied.iter().for_each(|scope| self.in_force.forget_queue(scope));
            self.publish();
        }
    }
}

/// Ready when something was bad on NEW, but not at once after the last look: an outage of both sides, which settles nothing,
/// may bring any number of alarms.
async fn alarmed(registry: &Registry, looked_at: Instant) {
    sleep_until(looked_at + BREATH).await;
    registry.alarm.notified().await;
}

fn steady(period: Duration) -> tokio::time::Interval {
    let mut interval = interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// `order` with what the look at its target found.
fn looked(order: Order, found: Result<(), String>) -> Order {
    let gate = found.map_or_else(Gate::Failed, |()| Gate::Passed);
    let command = match order.command {
        Command::Switch { back, .. } => Command::Switch { back, gate },
        other => other,
    };
    Order { command, ..order }
}

fn started() -> Told {
    let change = Change {
        what: "start",
        before: String::new(),
        after: format!("tidegate {}", env!("CARGO_PKG_VERSION")),
        by: Actor::new(Source::Process, "tidegate"),
        reason: String::new(),
        forced: false,
    };
    Told { scope: Scope::Everything.to_string(), change }
}

fn draft(told: Told) -> Draft {
    let Told { scope, change } = told;
    let Change { what, before, after, by, reason, forced } = change;
    match by.source {
        Source::Guard => tracing::warn!(scope, by = by.name, reason, "{what}: {before} -> {after}"),
        source => tracing::info!(scope, by = by.name, source = source.as_str(), reason, "{what}: {before} -> {after}"),
    }
    let who = Who { kind: by.source.as_str().to_owned(), name: by.name };
    Draft { at: SystemTime::now(), who, scope, what: what.to_owned(), before, after, reason, forced }
}

/// What the controller remembers by.
pub type Memories = Journal<Memory>;
