//! Which endpoints get requests: those with a health check are asked again and again, and those that fail requests one after the
//! other are taken out for a while.
//!
//! One task decides, so that never too many are out; what it decides is one relaxed store, which the next request reads. Workers
//! only count failures and ring when there were too many. What a check or a failure means is for `policy::health` and
//! `policy::ejection` to say. An endpoint that stays over a reload keeps what is known of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Duration, Instant, sleep, sleep_until};

use super::gate::ask;
use crate::config;
use crate::metrics::Registry;
use crate::metrics::endpoint::{Against, Standing};
use crate::policy::ejection::{Record, Rules};
use crate::policy::health::Health;
use crate::snapshot::{Backend, Endpoint, Snapshot};

/// How long after a look at failures the next one may come: in an outage every request rings.
const BREATH: Duration = Duration::from_millis(1);
/// When nobody is out: far away.
const NEVER: Duration = Duration::from_secs(24 * 3600);
/// Answers that may wait to be heard.
const UNHEARD: usize = 64;

/// An endpoint gets requests again, or gets none any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthChange {
    /// When.
    pub at: SystemTime,
    /// Whose it is.
    pub backend: String,
    /// Where it is.
    pub endpoint: String,
    /// Why it gets none; `None` if it gets requests.
    pub unfit: Option<String>,
}

/// The way to the task that decides, which ends with this.
#[derive(Debug)]
pub struct Keeper {
    snapshots: watch::Sender<Arc<Snapshot>>,
    _task: Task,
}

/// A task that ends with whoever started it.
#[derive(Debug)]
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Keeper {
    /// Looks after the endpoints of what is `published`. Changes are told to `changes`.
    #[must_use]
    pub fn start(
        published: &ArcSwap<Snapshot>,
        registry: Arc<Registry>,
        changes: broadcast::Sender<Arc<HealthChange>>,
    ) -> Self {
        let (snapshots, mut latest) = watch::channel(published.load_full());
        latest.mark_changed();
        let task = tokio::spawn(Infirmary::new(registry, changes).run(latest));
        Self { snapshots, _task: Task(task) }
    }

    /// From now on looks after the endpoints of `snapshot`.
    pub fn follow(&self, snapshot: &Arc<Snapshot>) {
        self.snapshots.send_replace(Arc::clone(snapshot));
    }
}

/// A backend's name and the address at which an endpoint is.
type Key = (String, String);

/// What a check found.
#[derive(Debug)]
struct Found {
    key: Key,
    /// Of the task that asked.
    number: u64,
    found: Result<(), String>,
}

/// The task.
#[derive(Debug)]
struct Infirmary {
    registry: Arc<Registry>,
    changes: broadcast::Sender<Arc<HealthChange>>,
    patients: BTreeMap<Key, Patient>,
    found: mpsc::Sender<Found>,
    /// Taken by [`Self::run`].
    reports: Option<mpsc::Receiver<Found>>,
    started: Instant,
    next_number: u64,
}

/// An endpoint, as far as it is looked after.
#[derive(Debug)]
struct Patient {
    endpoint: Endpoint,
    check: Option<Check>,
    health: Health,
    /// What the last bad check found, while that speaks against it.
    unwell: Option<String>,
    rules: Option<Rules>,
    record: Record,
    /// What it failed, while that speaks against it.
    ejected: Option<String>,
}

/// A check that goes on.
#[derive(Debug)]
struct Check {
    config: config::Health,
    number: u64,
    _task: Task,
}

impl Infirmary {
    fn new(registry: Arc<Registry>, changes: broadcast::Sender<Arc<HealthChange>>) -> Self {
        let (found, reports) = mpsc::channel(UNHEARD);
        let (patients, started) = (BTreeMap::new(), Instant::now());
        Self { registry, changes, patients, found, reports: Some(reports), started, next_number: 0 }
    }

    async fn run(mut self, mut snapshots: watch::Receiver<Arc<Snapshot>>) {
        let Some(mut reports) = self.reports.take() else { return };
        let registry = Arc::clone(&self.registry);
        let mut looked_at = Instant::now();
        loop {
            let suspicion = async {
                sleep_until(looked_at + BREATH).await;
                registry.suspicion.notified().await;
            };
            tokio::select! {
                changed = snapshots.changed() => match changed {
                    Ok(()) => {
                        let snapshot = Arc::clone(&snapshots.borrow_and_update());
                        self.follow(&snapshot);
                    }
                    Err(_) => return,
                },
                Some(found) = reports.recv() => self.hear(found),
                () = suspicion => {
                    looked_at = Instant::now();
                    self.take_out_who_fails();
                }
                () = sleep_until(self.next_return()) => self.bring_back(|patient, now| patient.record.is_due(now)),
            }
        }
    }

    // -- who is looked after

    fn follow(&mut self, snapshot: &Snapshot) {
        let mut before = std::mem::take(&mut self.patients);
        for backend in &snapshot.backends {
            for endpoint in &backend.endpoints {
                let key = (backend.name.clone(), endpoint.at.to_string());
                if self.patients.contains_key(&key) {
                    continue; // two names may lead to one address
                }
                let known = before.remove(&key).filter(|patient| Arc::ptr_eq(&patient.endpoint.state, &endpoint.state));
                let patient = known.unwrap_or_else(|| Patient::new(endpoint));
                let patient = self.admit(&key, patient, backend, endpoint);
                self.patients.insert(key, patient);
            }
        }
        for (_, gone) in before {
            gone.endpoint.state.set(Against::Checks, false);
            gone.endpoint.state.set(Against::Ejected, false);
        }
        // What has just been turned off speaks against nobody any more.
        self.bring_back(|patient, _| patient.rules.is_none());
        self.settle_checks(|patient| patient.check.is_none());
        self.leave_nobody_out_in_vain();
    }

    /// Looks after an endpoint by what the config says now.
    fn admit(&mut self, key: &Key, mut patient: Patient, backend: &Backend, endpoint: &Endpoint) -> Patient {
        patient.rules = backend.ejection;
        let goes_on = |check: &Check| Some(&check.config) == backend.health.as_ref() && patient.endpoint == *endpoint;
        if !patient.check.as_ref().is_some_and(goes_on) {
            let check = backend.health.as_ref().map(|health| self.begin(key, endpoint, health));
            patient.check = check;
        }
        patient.endpoint = endpoint.clone();
        patient
    }

    /// Asks from now on.
    fn begin(&mut self, key: &Key, endpoint: &Endpoint, health: &config::Health) -> Check {
        let number = self.next_number;
        self.next_number += 1;
        let asks = keep_asking(endpoint.clone(), health.clone(), key.clone(), number, self.found.clone());
        Check { config: health.clone(), number, _task: Task(tokio::spawn(asks)) }
    }

    // -- checks

    fn hear(&mut self, found: Found) {
        let Found { key, number, found } = found;
        let Some(patient) = self.patients.get_mut(&key) else { return };
        let Some(check) = patient.check.as_ref().filter(|check| check.number == number) else { return };
        let (was_fit, before) = (patient.health.is_fit(), patient.health);
        patient.health = before.after(found.is_ok(), check.config.thresholds);
        let is_fit = patient.health.is_fit();
        match &found {
            // Why it went out stays said; what the last check found stands beside it.
            Err(said) if was_fit && !is_fit => {
                let rows = if before == Health::Unknown { 1 } else { check.config.thresholds.unhealthy_after };
                let checks = if rows == 1 { "a check".to_owned() } else { format!("{rows} checks in a row") };
                patient.unwell = Some(format!("{checks} failed: it {said}"));
            }
            Ok(()) if is_fit => patient.unwell = None,
            Ok(()) | Err(_) => {}
        }
        let checked = found.map_or_else(|said| said, |()| "is well".to_owned());
        let has_changed = patient.endpoint.state.set(Against::Checks, !is_fit);
        let change = patient.stands(Some(checked), has_changed);
        self.tell(&key, change);
        self.leave_nobody_out_in_vain();
    }

    /// No check speaks any more against those of whom this is true.
    fn settle_checks(&mut self, of: impl Fn(&Patient) -> bool) {
        let mut changes = Vec::new();
        for (key, patient) in self.patients.iter_mut().filter(|(_, patient)| of(patient)) {
            (patient.health, patient.unwell) = (Health::Unknown, None);
            let has_changed = patient.endpoint.state.set(Against::Checks, false);
            changes.push((key.clone(), patient.stands(None, has_changed)));
        }
        changes.into_iter().for_each(|(key, change)| self.tell(&key, change));
    }

    // -- failures

    /// Takes out those who have failed too many requests in a row, as far as others are left.
    fn take_out_who_fails(&mut self) {
        let failing = |patient: &Patient| patient.endpoint.state.fails() && patient.endpoint.state.is_fit();
        let keys: Vec<Key> =
            self.patients.iter().filter(|(_, patient)| failing(patient)).map(|(key, _)| key.clone()).collect();
        for key in keys {
            let of_backend = || self.patients.iter().filter(|((backend, _), _)| *backend == key.0);
            let is_out = |patient: &Patient| patient.endpoint.state.is_out_by(Against::Ejected);
            let ejected = of_backend().filter(|(_, patient)| is_out(patient)).count();
            let fit = of_backend().filter(|(_, patient)| patient.endpoint.state.is_fit()).count();
            let all = of_backend().count();
            let now = self.started.elapsed();
            let Some(patient) = self.patients.get_mut(&key) else { continue };
            let Some(rules) = patient.rules.filter(|rules| rules.allow_one_more(all, ejected, fit)) else { continue };
            let failures = patient.endpoint.state.failures();
            patient.record = patient.record.taken_out(now, &rules);
            let time = patient.record.until().unwrap_or_default().saturating_sub(now);
            patient.ejected = Some(format!("out for {} s: {failures} requests in a row failed", time.as_secs_f64()));
            let has_changed = patient.endpoint.state.set(Against::Ejected, true);
            let change = patient.stands(None, has_changed);
            self.tell(&key, change);
        }
    }

    /// Those of whom this is true are not out for what they failed any more.
    fn bring_back(&mut self, of: impl Fn(&Patient, Duration) -> bool) {
        let now = self.started.elapsed();
        let mut changes = Vec::new();
        for (key, patient) in &mut self.patients {
            if patient.ejected.is_some() && of(patient, now) {
                patient.record = patient.record.brought_back(now);
                patient.ejected = None;
                let has_changed = patient.endpoint.state.set(Against::Ejected, false);
                changes.push((key.clone(), patient.stands(None, has_changed)));
            }
        }
        changes.into_iter().for_each(|(key, change)| self.tell(&key, change));
    }

    /// Checks may have taken out those who were left. Then one that only failed requests is better than none.
    fn leave_nobody_out_in_vain(&mut self) {
        let mut fit: BTreeMap<String, bool> = BTreeMap::new();
        for ((backend, _), patient) in &self.patients {
            *fit.entry(backend.clone()).or_default() |= patient.endpoint.state.is_fit();
        }
        let without: Vec<String> = fit.into_iter().filter(|(_, is_fit)| !is_fit).map(|(backend, _)| backend).collect();
        for backend in without {
            let keys: Vec<Key> = self.patients.keys().filter(|(name, _)| *name == backend).cloned().collect();
            let only_failed = |key: &&Key| self.patients.get(*key).is_some_and(|patient| patient.health.is_fit());
            let states: Vec<_> =
                keys.iter().filter(only_failed).map(|key| Arc::clone(&self.patients[key].endpoint.state)).collect();
            self.bring_back(|patient, _| states.iter().any(|state| Arc::ptr_eq(state, &patient.endpoint.state)));
        }
    }

    /// When the next one comes back.
    fn next_return(&self) -> Instant {
        let returns = self.patients.values().filter_map(|patient| patient.record.until());
        returns.min().map_or_else(|| Instant::now() + NEVER, |until| self.started + until)
    }

    // -- who is told

    fn tell(&self, (backend, endpoint): &Key, change: Option<Standing>) {
        let Some(Standing { unfit, since, .. }) = change else { return };
        match &unfit {
            Some(why) => tracing::warn!(backend, endpoint, why, "an endpoint gets no requests any more"),
            None => tracing::info!(backend, endpoint, "an endpoint gets requests again"),
        }
        let change = HealthChange { at: since, backend: backend.clone(), endpoint: endpoint.clone(), unfit };
        let _nobody_may_listen = self.changes.send(Arc::new(change));
    }
}

impl Patient {
    fn new(endpoint: &Endpoint) -> Self {
        let this = Self {
            endpoint: endpoint.clone(),
            check: None,
            health: Health::Unknown,
            unwell: None,
            rules: None,
            record: Record::default(),
            ejected: None,
        };
        this.stands(None, false); // it may have been there before
        this
    }

    /// Shows how it stands; gives that if it has become fit or unfit.
    fn stands(&self, checked: Option<String>, has_changed: bool) -> Option<Standing> {
        let before = self.endpoint.state.standing();
        let reasons: Vec<&str> = [&self.unwell, &self.ejected].into_iter().flatten().map(String::as_str).collect();
        let standing = Standing {
            unfit: (!reasons.is_empty()).then(|| reasons.join("; ")),
            since: if has_changed { SystemTime::now() } else { before.since },
            checked: self.check.as_ref().and_then(|_| checked.or_else(|| before.checked.clone())),
        };
        if standing != *before {
            self.endpoint.state.stands(standing.clone());
        }
        has_changed.then_some(standing)
    }
}

/// Asks at once, and then again and again. No two endpoints are asked in step for long.
async fn keep_asking(endpoint: Endpoint, health: config::Health, key: Key, number: u64, heard: mpsc::Sender<Found>) {
    loop {
        let found = ask(&endpoint, Some(&health)).await;
        if heard.send(Found { key: key.clone(), number, found }).await.is_err() {
            return;
        }
        sleep(health.interval.mul_f64(0.9 + 0.2 * fastrand::f64())).await;
    }
}
