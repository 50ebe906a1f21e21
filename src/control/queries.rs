//! What a Prometheus says about NEW: each query of a guard is asked by a task of its own while anybody is on NEW.
//!
//! The tasks only ask; what the answers mean is decided here, on behalf of the controller, to which each answer comes as an
//! event. When what the answers are about changes (another backend, another query, a resume), a task under another number
//! takes over and the run begins anew: an answer to an older number says nothing any more. Nothing of this survives a restart.

mod prometheus;

use std::collections::BTreeMap;
use std::time::SystemTime;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Duration, Instant, MissedTickBehavior, interval_at};

use super::controller::Event;
use super::guards::{endpoints, is_held};
use super::in_force::InForce;
use super::outbound::Client;
use crate::config::{self, Config, Endpoint};
use crate::policy::bucket::Percent;
use crate::policy::query::{Answer, Condition, Run};
use crate::policy::rollout::{State, Verdict};

/// All queries, by the rollout and their name in it.
#[derive(Debug)]
pub struct Queries {
    client: Client,
    events: mpsc::Sender<Event>,
    asked: BTreeMap<(String, String), Asked>,
    next_number: u64,
}

/// An answer, and to which task it was given.
#[derive(Debug)]
pub struct Answered {
    number: u64,
    answer: Answer,
    at: SystemTime,
}

/// What a query said so far, for people.
#[derive(Clone, Debug, PartialEq)]
pub struct QueryKnown {
    /// What it is called.
    pub name: String,
    /// When a value is bad.
    pub bad_if: Condition,
    /// Whether it is asked: not while nobody is on NEW.
    pub is_asked: bool,
    /// The latest answer, if there has been one.
    pub last: Option<Answer>,
    /// When that came.
    pub at: Option<SystemTime>,
    /// How often in a row it was bad, times without data aside.
    pub bad_in_a_row: usize,
    /// How often in a row is too often.
    pub failures: usize,
    /// What was found and still stands.
    pub found: Option<Verdict>,
}

impl Queries {
    /// Nothing is asked yet. Answers are sent to `events`.
    #[must_use]
    pub fn new(events: mpsc::Sender<Event>) -> Self {
        Self { client: Client::new(), events, asked: BTreeMap::new(), next_number: 0 }
    }

    /// Asks what is to be asked by what is in force, and nothing else. What goes on as before is not disturbed.
    pub fn follow(&mut self, in_force: &InForce) {
        let mut before = std::mem::take(&mut self.asked);
        let (config, states) = (in_force.config(), in_force.states());
        for (name, rollout) in &config.rollouts {
            let (Some(guard), Some(state)) = (&rollout.guard, states.get(name)) else { continue };
            for query in &guard.queries {
                let place = (name.clone(), query.name.clone());
                let subject = Subject::of(config, rollout, query, state);
                let is_held = is_held(guard, state);
                let goes_on = |asked: &Asked| asked.subject == subject && (is_held || !asked.is_held);
                let asked = before.remove(&place).filter(goes_on);
                let asked = asked.unwrap_or_else(|| self.begin(subject, Duration::ZERO));
                self.asked.insert(place, Asked { is_held, ..asked });
            }
        }
    }

    /// Asks for the first time after `wait`.
    fn begin(&mut self, subject: Subject, wait: Duration) -> Asked {
        let number = self.next_number;
        self.next_number += 1;
        let query = &subject.query;
        let run = Run::new(&query.name, query.bad_if, query.failures);
        let ask = || tokio::spawn(ask(number, query.clone(), wait, self.client.clone(), self.events.clone()));
        let task = subject.is_armed.then(|| Task(ask()));
        Asked { number, run, at: None, task, subject, is_held: false }
    }

    /// Fewer users of the rollout `name` are on NEW: the answers begin anew, after an interval in which that can show.
    pub fn begin_anew(&mut self, name: &str) {
        let of_rollout: Vec<_> = self.asked.extract_if(.., |(rollout, _), _| rollout == name).collect();
        for (place, Asked { subject, is_held, .. }) in of_rollout {
            let wait = subject.query.interval;
            let asked = self.begin(subject, wait);
            self.asked.insert(place, Asked { is_held, ..asked });
        }
    }

    /// Takes an answer; gives the verdict that follows, and on which rollout.
    pub fn take(&mut self, answered: Answered) -> Option<(String, Verdict)> {
        let Answered { number, answer, at } = answered;
        let ((rollout, query), asked) = self.asked.iter_mut().find(|(_, asked)| asked.number == number)?;
        let had_data = asked.run.no_data().is_none();
        let verdict = asked.run.observe(answer);
        asked.at = Some(at);
        match (had_data, asked.run.no_data()) {
            (true, Some(why)) => tracing::warn!(rollout, query, why, "a query of the guard has no data"),
            (false, None) => tracing::info!(rollout, query, "a query of the guard has data again"),
            _ => {}
        }
        Some((rollout.clone(), verdict?))
    }

    /// Whether nothing that was found stands against NEW of the rollout `name`.
    #[must_use]
    pub fn is_healthy(&self, name: &str) -> bool {
        self.of(name).all(|asked| asked.run.found().is_none())
    }

    /// What the queries about the rollout `name` said so far.
    #[must_use]
    pub fn known(&self, name: &str) -> Vec<QueryKnown> {
        self.of(name).map(Asked::known).collect()
    }

    fn of(&self, name: &str) -> impl Iterator<Item = &Asked> {
        self.asked.iter().filter(move |((rollout, _), _)| rollout == name).map(|(_, asked)| asked)
    }
}

/// What the answers are about.
#[derive(Clone, Debug, PartialEq)]
struct Subject {
    query: config::Query,
    /// Those of OLD and of NEW.
    endpoints: [Vec<Endpoint>; 2],
    /// Whether anybody is on NEW.
    is_armed: bool,
}

impl Subject {
    fn of(config: &Config, rollout: &config::Rollout, query: &config::Query, state: &State) -> Self {
        let is_armed = state.effective(&rollout.plan(config.rollback)) > Percent::ZERO;
        Self { query: query.clone(), endpoints: endpoints(config, rollout, state), is_armed }
    }
}

#[derive(Debug)]
struct Asked {
    subject: Subject,
    is_held: bool,
    /// No two tasks have the same.
    number: u64,
    run: Run,
    /// When the latest answer came.
    at: Option<SystemTime>,
    task: Option<Task>,
}

impl Asked {
    fn known(&self) -> QueryKnown {
        QueryKnown {
            name: self.run.name().to_owned(),
            bad_if: self.run.bad_if(),
            is_asked: self.task.is_some(),
            last: self.run.last().cloned(),
            at: self.at,
            bad_in_a_row: self.run.bad_in_a_row(),
            failures: self.run.failures(),
            found: self.run.found().cloned(),
        }
    }
}

/// A task that ends with whoever holds this.
#[derive(Debug)]
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Asks after `wait`, and then again and again. An interval that was missed is not made up for.
async fn ask(number: u64, query: config::Query, wait: Duration, client: Client, events: mpsc::Sender<Event>) {
    let mut times = interval_at(Instant::now() + wait, query.interval);
    times.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        times.tick().await;
        let answer = prometheus::ask(&client, &query).await;
        let answered = Answered { number, answer, at: SystemTime::now() };
        if events.send(Event::Answered(answered)).await.is_err() {
            return;
        }
    }
}
