//! What is in force: the config, and what people, files and the clock put over it.
//!
//! This is the controller's whole state as a value. It decides nothing by itself: every change of a rollout is a
//! [`rollout::step`], applied here to one rollout or to all of them, and told as a list of [`Told`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::clock::{self, Passed};
use super::flag::Flag;
use super::journal::Found;
use super::memory::Memory;
use super::names::{Addresses, names_in};
use super::order::{Order, Refused, tag};
use crate::config::{Admin, Config, Keyring, ListenAddress, Listener, changed_keys};
use crate::hold::Queue;
use crate::metrics::Registry;
use crate::policy::actor::{Actor, Source};
use crate::policy::rollout::{self, Action, Change, Command, Event, Moment, Refusal, State, Verdict};
use crate::policy::standing::Standing;
use crate::snapshot::{Overlay, Scope, Snapshot};

/// A change, and of what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// A rollout's name, `route:NAME`, or `*`.
    pub scope: String,
    /// What changed.
    pub change: Change,
}

/// What was seen of a rollout since the last tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Requests that NEW answered.
    pub requests: u64,
    /// Requests on NEW by which the guard could judge.
    pub judged: u64,
    /// Whether the guard has found nothing.
    pub healthy: bool,
}

/// The config in force, and what is over it.
#[derive(Debug)]
pub struct InForce {
    path: PathBuf,
    config: Config,
    loaded_at: SystemTime,
    overlay: Overlay,
    /// The flag file as it was looked at last.
    flag: Flag,
    /// Queues in whose place others are: to be opened once those are published.
    replaced: Vec<Arc<Queue>>,
    revision: u64,
    /// Why what was remembered could not be believed at the start.
    lost: Option<String>,
}

impl InForce {
    /// Takes the config at `path` for the first time, over what was remembered, with the flag as it is. What that changes is
    /// told.
    #[must_use]
    pub fn new(path: PathBuf, config: Config, found: Found<Memory>, now: SystemTime) -> (Self, Vec<Told>) {
        let (overlay, lost) = recalled(found);
        let (flag, replaced) = (Flag::Absent, Vec::new());
        let mut this = Self { path, config, loaded_at: now, overlay, flag, replaced, revision: 0, lost };
        let mut told = this.everywhere(|_| Event::Configured, now);
        if let Some(why) = this.lost.clone() {
            told.extend(this.everywhere(|_| Event::StateLost(why.clone()), now));
        }
        let flag = this.config.state_dir.as_deref().and_then(Flag::read).unwrap_or_default();
        told.extend(this.flagged(&flag, now));
        this.renew_queues();
        (this, told)
    }

    /// The config in force.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The file it came from.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Why what was remembered could not be believed at the start, if it could not.
    #[must_use]
    pub fn lost(&self) -> Option<&str> {
        self.lost.as_deref()
    }

    /// The states of all rollouts that ever were, by name.
    #[must_use]
    pub fn states(&self) -> &BTreeMap<String, State> {
        &self.overlay.rollouts
    }

    /// The flag file as it was looked at last.
    #[must_use]
    pub fn flag(&self) -> &Flag {
        &self.flag
    }

    /// What has to be remembered.
    #[must_use]
    pub fn memory(&self) -> Memory {
        Memory::of(&self.overlay)
    }

    /// What is in force now, as one value; each call makes the next revision.
    pub fn snapshot(&mut self, registry: &Registry) -> Snapshot {
        self.revision += 1;
        Snapshot::build(&self.config, self.revision, self.loaded_at, registry, &self.overlay)
    }

    /// From the next snapshot on requests belong to these epochs, by rollout.
    pub fn set_epochs(&mut self, epochs: BTreeMap<String, u64>) {
        self.overlay.epochs = epochs;
    }

    // -- names

    /// What the names of endpoints stand for, all of them.
    pub fn set_addresses(&mut self, addresses: Addresses) {
        self.overlay.addresses = addresses;
    }

    /// What the name `host` stands for from now on. Tells whether a backend is written with it.
    pub fn resolved(&mut self, host: String, addresses: Arc<[IpAddr]>) -> bool {
        let is_used = names_in(&self.config).contains(&host);
        self.overlay.addresses.insert(host, addresses);
        is_used
    }

    // -- files

    /// Takes another config. Tells what that changed, and which keys change only with a restart: those stay what they are,
    /// so that a later look finds the difference again.
    pub fn take(&mut self, config: Config, now: SystemTime) -> (Vec<Told>, Vec<&'static str>) {
        let needs_restart = needs_restart(&config, &self.config);
        let config = Config {
            listeners: listeners_after(&self.config.listeners, config.listeners),
            admin: Admin { address: self.config.admin.address.clone(), ..config.admin },
            workers: self.config.workers,
            state_dir: self.config.state_dir.clone(),
            access_log: self.config.access_log.clone(),
            shutdown: self.config.shutdown.clone(),
            ..config
        };
        let before = std::mem::replace(&mut self.config, config);
        let names = names_in(&self.config);
        self.overlay.addresses.retain(|name, _| names.contains(name));
        self.loaded_at = now;
        let mut told = self.everywhere(|_| Event::Configured, now);
        told.extend(self.flag_again(now));
        if before.hash != self.config.hash {
            let change = Change {
                what: "config",
                reason: match changed_keys(&before.written, &self.config.written) {
                    Some(keys) => format!("the config file changed: {keys}"),
                    None => "the config file changed".to_owned(),
                },
                before: before.hash,
                after: self.config.hash.clone(),
                by: Actor::new(Source::Config, "config"),
                forced: false,
            };
            told.insert(0, Told { scope: Scope::Everything.to_string(), change });
        }
        (told, needs_restart)
    }

    /// Takes what the files of TLS hold now.
    pub fn renew(&mut self, keyring: Keyring) {
        self.config.keyring = keyring;
    }

    /// Rolls back what `next` rolls back and the config in force does not, and takes nothing else of it.
    pub fn roll_back_like(&mut self, next: &Config, now: SystemTime) -> Vec<Told> {
        if next.rollback == Some(true) {
            self.config.rollback = Some(true);
        }
        for (name, rollout) in &mut self.config.rollouts {
            if next.rollouts.get(name).is_some_and(|next| next.rollback == Some(true)) {
                rollout.rollback = Some(true);
            }
        }
        self.everywhere(|_| Event::Configured, now)
    }

    /// The flag file was looked at.
    pub fn flagged(&mut self, flag: &Flag, now: SystemTime) -> Vec<Told> {
        self.flag = flag.clone();
        let covered = self.covered();
        self.everywhere(|name| Event::Flagged(covered.contains(name)), now)
    }

    /// The rollouts may be others than when the flag file was looked at: it covers those that have come, and one that comes
    /// back may have been away when the file went. While the file is there, no other name in the config lifts anything.
    fn flag_again(&mut self, now: SystemTime) -> Vec<Told> {
        let mut covered = self.covered();
        if self.flag != Flag::Absent {
            let still = self.overlay.rollouts.iter().filter(|(_, state)| state.flagged);
            covered.extend(still.map(|(name, _)| name.clone()));
        }
        self.everywhere(|name| Event::Flagged(covered.contains(name)), now)
    }

    /// The rollouts that the flag file covers.
    fn covered(&self) -> BTreeSet<String> {
        let names = || self.config.rollouts.keys().map(String::as_str);
        names().filter(|name| self.flag.covers(name, names())).map(str::to_owned).collect()
    }

    // -- the clock

    /// Time has passed. `seen` gives what was seen of a rollout since the last tick.
    pub fn tick(&mut self, passed: Passed, seen: impl Fn(&str) -> Seen, now: SystemTime) -> Vec<Told> {
        let Passed { elapsed, is_steady: steady, .. } = passed;
        let tick = |name: &str| {
            let Seen { requests, judged, healthy } = seen(name);
            Event::Tick { elapsed, requests, judged, healthy, steady }
        };
        self.everywhere(tick, now)
    }

    /// What the guard of the rollout `name` does.
    #[must_use]
    pub fn guard_action(&self, name: &str) -> Option<Action> {
        self.config.rollouts.get(name).and_then(|rollout| rollout.guard.as_ref()).map(|guard| guard.action)
    }

    /// The guard of the rollout `name` has come to a verdict.
    pub fn judged(&mut self, name: &str, verdict: Verdict, now: SystemTime) -> Vec<Told> {
        if !self.config.rollouts.contains_key(name) {
            return Vec::new();
        }
        let (state, told) = self.step(name, Event::Judged(verdict), now).expect("only commands are refused");
        self.overlay.rollouts.insert(name.to_owned(), state);
        told
    }

    /// Whether the schedule of the rollout `name` says that nothing may be raised at `now`.
    #[must_use]
    pub fn is_frozen(&self, name: &str, now: SystemTime) -> bool {
        self.config.rollouts.get(name).is_some_and(|rollout| clock::is_frozen(&rollout.schedule, now))
    }

    // -- people

    /// Does what `order` asks for.
    ///
    /// # Errors
    /// When it is refused: nothing has changed then.
    pub fn obey(&mut self, order: &Order, now: SystemTime) -> Result<Vec<Told>, Refused> {
        let told = match &order.scope {
            Scope::Rollout(name) => self.obey_on_rollout(name, order, now)?,
            Scope::Route(name) => self.obey_on_route(name, order)?,
            Scope::Everything => self.obey_everywhere(order, now)?,
        };
        self.renew_queues();
        Ok(told)
    }

    /// Whether an order for a rollout would be carried out.
    ///
    /// # Errors
    /// When it would be refused.
    pub fn would_obey(&self, order: &Order, now: SystemTime) -> Result<(), Refused> {
        let Scope::Rollout(name) = &order.scope else { return Ok(()) };
        self.check_tag(name, order)?;
        self.step(name, asked(order), now).map(|_| ()).map_err(|refusal| contradicts(name, refusal))
    }

    fn obey_on_rollout(&mut self, name: &str, order: &Order, now: SystemTime) -> Result<Vec<Told>, Refused> {
        self.check_tag(name, order)?;
        let (state, told) = self.step(name, asked(order), now).map_err(|refusal| contradicts(name, refusal))?;
        self.overlay.rollouts.insert(name.to_owned(), state);
        Ok(told)
    }

    /// Whether what the operator looked at is still so.
    fn check_tag(&self, name: &str, order: &Order) -> Result<(), Refused> {
        if !self.config.rollouts.contains_key(name) {
            return Err(Refused::NoSuchRollout(name.to_owned()));
        }
        let current = tag(self.overlay.rollouts.get(name).map_or(0, |state| state.version), &self.config.hash);
        match &order.if_match {
            Some(tags) if !tags.iter().any(|tag| *tag == current || tag == "*") => Err(Refused::Stale { current }),
            _ => Ok(()),
        }
    }

    fn obey_on_route(&mut self, name: &str, order: &Order) -> Result<Vec<Told>, Refused> {
        if !self.config.routes.iter().any(|route| route.name.as_deref() == Some(name)) {
            return Err(Refused::NoSuchRoute(name.to_owned()));
        }
        change_standing(self.overlay.routes.entry(name.to_owned()).or_default(), order)
    }

    /// All of them or none.
    fn obey_everywhere(&mut self, order: &Order, now: SystemTime) -> Result<Vec<Told>, Refused> {
        if !matches!(order.command, Command::Rollback | Command::Resume { percent: None }) {
            return change_standing(&mut self.overlay.everything, order);
        }
        let mut all = Vec::new();
        let mut states = Vec::new();
        for name in self.config.rollouts.keys() {
            let (state, told) = self.step(name, asked(order), now).map_err(|refusal| contradicts(name, refusal))?;
            states.push((name.clone(), state));
            all.extend(told);
        }
        self.overlay.rollouts.extend(states);
        Ok(all)
    }

    // -- one step

    fn step(&self, name: &str, event: Event, now: SystemTime) -> Result<(State, Vec<Told>), Refusal> {
        let written = &self.config.rollouts[name];
        let fresh = State::default();
        let state = self.overlay.rollouts.get(name).unwrap_or(&fresh);
        let moment = Moment { now, frozen: clock::is_frozen(&written.schedule, now) };
        let next = rollout::step(name, &written.plan(self.config.rollback), state, event, moment)?;
        let told = next.changes.into_iter().map(|change| Told { scope: name.to_owned(), change });
        Ok((next.state, told.collect()))
    }

    fn everywhere(&mut self, event: impl Fn(&str) -> Event, now: SystemTime) -> Vec<Told> {
        let mut all = Vec::new();
        for name in self.config.rollouts.keys().cloned().collect::<Vec<_>>() {
            let (state, told) = self.step(&name, event(&name), now).expect("only commands are refused");
            self.overlay.rollouts.insert(name, state);
            all.extend(told);
        }
        all
    }

    // -- where requests wait

    /// Makes a queue for every hold that has none. A queue whose hold has ended stays until nobody waits in it any more.
    fn renew_queues(&mut self) {
        let limits = &self.config.hold;
        let Overlay { rollouts, everything, routes, queues, .. } = &mut self.overlay;
        let holds = |scope: Scope, standing: &Standing| standing.hold.clone().map(|hold| (scope, hold));
        let wanted = holds(Scope::Everything, everything)
            .into_iter()
            .chain(routes.iter().filter_map(|(name, standing)| holds(Scope::Route(name.clone()), standing)))
            .chain(rollouts.iter().filter_map(|(name, state)| holds(Scope::Rollout(name.clone()), &state.standing)));
        for (scope, hold) in wanted {
            let max_wait = hold.max_wait.unwrap_or(limits.max_wait);
            if queues.get(&scope).is_none_or(|queue| queue.max_wait() != max_wait) {
                self.replaced.extend(queues.insert(scope, Arc::new(Queue::new(limits, max_wait))));
            }
        }
    }

    /// The queues that are in no snapshot any more once the next one is published. Those who wait there are to be let go then,
    /// and not before: they start over, and have to find the new queue.
    #[must_use]
    pub fn take_replaced_queues(&mut self) -> Vec<Arc<Queue>> {
        std::mem::take(&mut self.replaced)
    }

    /// The queues whose hold has ended, and of what they were.
    #[must_use]
    pub fn ended_holds(&self) -> Vec<(Scope, Arc<Queue>)> {
        let has_ended = |scope: &Scope| self.standing(scope).is_none_or(|standing| standing.hold.is_none());
        let queues = self.overlay.queues.iter().filter(|(scope, _)| has_ended(scope));
        queues.map(|(scope, queue)| (scope.clone(), Arc::clone(queue))).collect()
    }

    /// Nobody waits any more: requests pass `scope` without a look at its queue.
    pub fn forget_queue(&mut self, scope: &Scope) {
        let queue = self.overlay.queues.remove(scope);
        queue.inspect(|queue| queue.open());
    }

    fn standing(&self, scope: &Scope) -> Option<&Standing> {
        match scope {
            Scope::Everything => Some(&self.overlay.everything),
            Scope::Rollout(name) => self.overlay.rollouts.get(name).map(|state| &state.standing),
            Scope::Route(name) => self.overlay.routes.get(name),
        }
    }
}

fn needs_restart(next: &Config, current: &Config) -> Vec<&'static str> {
    let changed = [
        ("listeners", addresses(&next.listeners) != addresses(&current.listeners)),
        ("admin.address", next.admin.address != current.admin.address),
        ("workers", next.workers != current.workers),
        ("state_dir", next.state_dir != current.state_dir),
        ("access_log", next.access_log != current.access_log),
        ("shutdown", next.shutdown != current.shutdown),
    ];
    changed.into_iter().filter(|(_, changed)| *changed).map(|(key, _)| key).collect()
}

fn addresses(listeners: &[Listener]) -> Vec<&ListenAddress> {
    listeners.iter().map(|listener| &listener.address).collect()
}

/// The listeners that are `bound`, in their order, with the settings that `next` has for their addresses.
fn listeners_after(bound: &[Listener], mut next: Vec<Listener>) -> Vec<Listener> {
    let after = |bound: &Listener| match next.iter().position(|next| next.address == bound.address) {
        Some(at) => next.remove(at),
        None => bound.clone(),
    };
    bound.iter().map(after).collect()
}

fn recalled(found: Found<Memory>) -> (Overlay, Option<String>) {
    match found {
        Found::Nothing => (Overlay::default(), None),
        Found::State(memory) => match memory.recall() {
            Ok(overlay) => (overlay, None),
            Err(unknown) => (Overlay::default(), Some(unknown.to_string())),
        },
        Found::Corrupt { aside, why } => {
            let why = format!("the state file could not be believed ({why}); it was put aside as {}", aside.display());
            (Overlay::default(), Some(why))
        }
        Found::Unreadable { why } => (Overlay::default(), Some(format!("the state file could not be read: {why}"))),
    }
}

fn asked(order: &Order) -> Event {
    Event::Asked { command: order.command.clone(), by: order.by.clone(), reason: order.reason.clone() }
}

fn contradicts(name: &str, refusal: Refusal) -> Refused {
    Refused::Contradicts { rollout: name.to_owned(), refusal }
}

/// What is forgotten with a state that is lost, besides where rollouts were.
pub const FORGOTTEN: &str = "maintenance and holds are forgotten, and whom they kept out is served";

/// Maintenance and hold are all that routes and everything have of their own.
fn change_standing(standing: &mut Standing, order: &Order) -> Result<Vec<Told>, Refused> {
    let change = match order.command.clone() {
        Command::Maintenance(next) => standing.change_maintenance(next),
        Command::Hold(next) => standing.change_hold(next),
        other => return Err(Refused::OnlyForRollouts(other.verb())),
    };
    let told = change.map(|(before, after)| Told {
        scope: order.scope.to_string(),
        change: Change {
            what: order.command.verb(),
            before,
            after,
            by: order.by.clone(),
            reason: order.reason.clone(),
            forced: false,
        },
    });
    Ok(told.into_iter().collect())
}
