//! Looks after the names of backends: each is looked up before it is used, and again whenever its addresses have served their
//! time. No request waits for a name server.
//!
//! What changed is told to the controller as an event; what follows from an answer is [`Name::hear`]'s to say.

mod hosts;
mod resolver;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use self::resolver::Resolver;
use super::controller::Event;
use crate::config::{Address, Config, Dns, Endpoint};
use crate::metrics::Registry;
use crate::policy::naming::{Answer, Heard, Name};

/// Addresses by name.
pub type Addresses = BTreeMap<String, Arc<[IpAddr]>>;

/// The names that `config` has to have looked up.
#[must_use]
pub fn names_in(config: &Config) -> BTreeSet<String> {
    let endpoints = config.backends.values().flat_map(|backend| &backend.endpoints);
    endpoints.filter_map(name_of).map(str::to_owned).collect()
}

/// The host of an endpoint if it is a name, and no address.
fn name_of(endpoint: &Endpoint) -> Option<&str> {
    match &endpoint.address {
        Address::Tcp { host, .. } if host.parse::<IpAddr>().is_err() => Some(host),
        Address::Tcp { .. } | Address::Unix(_) => None,
    }
}

/// The way to those who look after names.
#[derive(Clone, Debug)]
pub struct Names(mpsc::Sender<Wish>);

#[derive(Debug)]
struct Wish {
    dns: Dns,
    names: BTreeSet<String>,
    /// Told when each of the names has been looked up once.
    known: oneshot::Sender<()>,
}

impl Names {
    /// From now on the names of `config` are looked after, as it says. Comes back when those that are new were looked up and
    /// told, or could not be in time.
    pub async fn follow(&self, config: &Config) {
        let (known, are_known) = oneshot::channel();
        let wish = Wish { dns: config.dns.clone(), names: names_in(config), known };
        if self.0.send(wish).await.is_ok() {
            let _those_that_are_late_follow = are_known.await;
        }
    }
}

/// Knows what names stand for.
#[derive(Debug)]
pub struct Lookout {
    dns: Dns,
    resolver: Arc<Resolver>,
    names: BTreeMap<String, Watched>,
    /// Those who wait until these names were looked up.
    waiting: Vec<(BTreeSet<String>, oneshot::Sender<()>)>,
    lookups: JoinSet<(String, Answer)>,
    failures: u64,
}

#[derive(Debug)]
struct Watched {
    name: Name,
    /// When it is to be looked up again; `None` while it is.
    due: Option<Instant>,
}

impl Lookout {
    /// Looks up the names of `config` for the first time, within the time that it gives.
    pub async fn begin(config: &Config) -> Self {
        let mut this = Self {
            dns: config.dns.clone(),
            resolver: Arc::new(Resolver::new(&config.dns)),
            names: BTreeMap::new(),
            waiting: Vec::new(),
            lookups: JoinSet::new(),
            failures: 0,
        };
        this.watch(names_in(config));
        let all = async {
            while let Some(answered) = this.lookups.join_next().await {
                if let Ok((name, answer)) = answered {
                    this.hear(&name, answer);
                }
            }
        };
        let _those_that_are_late_follow = timeout(config.dns.timeout, all).await;
        this
    }

    /// What is known so far.
    #[must_use]
    pub fn addresses(&self) -> Addresses {
        let known = |(name, watched): (&String, &Watched)| (name.clone(), watched.name.addresses().into());
        self.names.iter().map(known).collect()
    }

    /// The way to it, and the task that looks after the names until nobody has a way to it, or the controller has gone.
    pub fn start(self, registry: Arc<Registry>, events: mpsc::Sender<Event>) -> (Names, impl Future<Output = ()>) {
        let (wishes, incoming) = mpsc::channel(8);
        (Names(wishes), self.run(incoming, registry, events))
    }

    async fn run(mut self, mut wishes: mpsc::Receiver<Wish>, registry: Arc<Registry>, events: mpsc::Sender<Event>) {
        loop {
            registry.dns_failures.store(self.failures, Relaxed);
            registry.nowhere.store(Arc::new(self.nowhere()));
            let due = self.names.values().filter_map(|watched| watched.due).min();
            tokio::select! {
                wish = wishes.recv() => match wish {
                    Some(wish) => self.follow(wish),
                    None => return,
                },
                Some(answered) = self.lookups.join_next() => {
                    if let Ok((name, answer)) = answered
                        && let Some(addresses) = self.hear(&name, answer)
                        && events.send(Event::Resolved(name, addresses)).await.is_err()
                    {
                        return;
                    }
                    self.tell_who_waits();
                }
                () = async { sleep_until(due.unwrap_or_else(Instant::now)).await }, if due.is_some() => {
                    self.look_up_what_is_due(Instant::now());
                }
            }
        }
    }

    /// The names that have no address, and why.
    fn nowhere(&self) -> BTreeMap<String, String> {
        let nowhere = self.names.iter().filter(|(_, watched)| watched.name.addresses().is_empty());
        let why =
            |watched: &Watched| watched.name.trouble().map_or("not looked up yet".to_owned(), |it| it.to_string());
        nowhere.map(|(name, watched)| (name.clone(), why(watched))).collect()
    }

    fn follow(&mut self, wish: Wish) {
        let Wish { dns, names, known } = wish;
        let resolver = Resolver::new(&dns);
        if *self.resolver != resolver {
            // Others may know better: the names are asked for again, and keep their addresses meanwhile.
            self.resolver = Arc::new(resolver);
            self.names
                .values_mut()
                .filter(|watched| watched.due.is_some())
                .for_each(|watched| watched.due = Some(Instant::now()));
        }
        self.dns = dns;
        self.names.retain(|name, _| names.contains(name));
        self.watch(names.clone());
        self.waiting.push((names, known));
        self.tell_who_waits();
    }

    fn watch(&mut self, names: BTreeSet<String>) {
        for name in names {
            if !self.names.contains_key(&name) {
                self.look_up(name.clone());
                self.names.insert(name, Watched { name: Name::default(), due: None });
            }
        }
    }

    fn look_up(&mut self, name: String) {
        let resolver = Arc::clone(&self.resolver);
        self.lookups.spawn(async move {
            let answer = resolver.look_up(&name).await;
            (name, answer)
        });
    }

    fn look_up_what_is_due(&mut self, now: Instant) {
        let is_due = |watched: &Watched| watched.due.is_some_and(|due| due <= now);
        let due: Vec<String> =
            self.names.iter().filter(|(_, watched)| is_due(watched)).map(|(name, _)| name.clone()).collect();
        for name in due {
            if let Some(watched) = self.names.get_mut(&name) {
                watched.due = None;
            }
            self.look_up(name);
        }
    }

    /// Takes an answer. Gives the addresses if they are others than before.
    fn hear(&mut self, name: &str, answer: Answer) -> Option<Arc<[IpAddr]>> {
        self.failures += u64::from(matches!(answer, Answer::Failed(_)));
        let watched = self.names.get_mut(name)?; // the config may name it no more
        let Heard { is_elsewhere, is_news, again_in } = watched.name.hear(answer, self.dns.pace, fastrand::f64());
        watched.due = Some(Instant::now() + again_in);
        let addresses = watched.name.addresses();
        match watched.name.trouble() {
            Some(trouble) if is_news && addresses.is_empty() => {
                tracing::warn!(name, "a backend's name cannot be looked up: {trouble}");
            }
            Some(trouble) if is_news => {
                tracing::warn!(name, "a backend's name cannot be looked up; its addresses stay: {trouble}");
            }
            None if is_elsewhere || is_news => tracing::info!(name, ?addresses, "a backend's name was looked up"),
            _ => {}
        }
        is_elsewhere.then(|| addresses.into())
    }

    fn tell_who_waits(&mut self) {
        let names = &self.names;
        let is_asked = |name: &String| names.get(name).is_none_or(|watched| watched.name.is_asked());
        let (done, waiting) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|(of, _): &(BTreeSet<_>, _)| of.iter().all(is_asked));
        self.waiting = waiting;
        let done: Vec<(BTreeSet<String>, oneshot::Sender<()>)> = done;
        for (_, known) in done {
            let _whoever_waited_may_have_left = known.send(());
        }
    }
}
