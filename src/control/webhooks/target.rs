//! One webhook: what waits for it, how it is doing, and the task that tells it one thing after the other.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Request, Response};
use tokio::sync::watch;

use super::line::Line;
use super::message::{Message, event};
use super::retry::{self, ATTEMPTS, Trouble};
use super::signature::sign;
use crate::config;
use crate::control::journal::audit::Entry;
use crate::control::outbound::Failed;
use crate::metrics::{Delivery, WebhookMeters};

/// A webhook and all that is known of it.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) hook: config::Webhook,
    /// The host that tells.
    instance: Arc<str>,
    pub(super) meters: Arc<WebhookMeters>,
    state: watch::Sender<State>,
}

#[derive(Debug, Default)]
struct State {
    line: Line<Arc<Entry>>,
    /// Whether something has left the line and not yet arrived.
    is_sending: bool,
    health: Health,
}

/// How a webhook is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Whether the last attempt failed.
    pub is_failing: bool,
    /// When a message was last taken.
    pub succeeded_at: Option<SystemTime>,
    /// When an attempt last failed, and why, in a sentence.
    pub failed: Option<(SystemTime, String)>,
}

impl State {
    fn queued(&self) -> u64 {
        self.line.len() as u64 + u64::from(self.is_sending)
    }
}

impl Target {
    pub(super) fn new(hook: config::Webhook, instance: Arc<str>, meters: Arc<WebhookMeters>) -> Self {
        meters.set_queued(0);
        Self { hook, instance, meters, state: watch::Sender::default() }
    }

    /// Queues `entry`, if it is something that this webhook is told of. Never waits.
    pub(super) fn tell(&self, entry: &Arc<Entry>) {
        if event(entry).is_none_or(|event| !self.hook.events.contains(&event)) {
            return;
        }
        let gone = self.change(|state| state.line.push(Arc::clone(entry)));
        if gone.is_some() {
            self.meters.count(Delivery::Dropped, 1);
        }
    }

    /// How it is doing.
    pub(super) fn health(&self) -> Health {
        self.state.borrow().health.clone()
    }

    /// Counts what is left as dropped; to be called when nobody tells any more.
    pub(super) fn drop_all(&self) {
        self.meters.count(Delivery::Dropped, self.state.borrow().queued());
        self.meters.set_queued(0);
    }

    /// Waits until it was told everything, or does not take it.
    pub(super) async fn settled(&self) {
        let mut state = self.state.subscribe();
        drop(state.wait_for(|state| state.queued() == 0 || state.health.is_failing).await);
    }

    /// Tells by `post` what waits, one after the other, for ever.
    pub(super) async fn run<F, A>(self: Arc<Self>, post: F)
    where
        F: Fn(Request<Bytes>) -> A,
        A: Future<Output = Result<Response<Bytes>, Failed>>,
    {
        loop {
            let entry = self.next().await;
            let delivery = self.deliver(&entry, &post).await;
            self.meters.count(delivery, 1);
            self.change(|state| state.is_sending = false);
        }
    }

    async fn next(&self) -> Arc<Entry> {
        let mut state = self.state.subscribe();
        loop {
            drop(state.wait_for(|state| state.line.len() > 0).await); // it holds a lock on what is changed next
            let next = self.change(|state| {
                let next = state.line.pop();
                state.is_sending = next.is_some();
                next
            });
            if let Some(entry) = next {
                return entry;
            }
        }
    }

    /// Sends `entry` until it is taken, or it is of no use to go on.
    async fn deliver<F, A>(&self, entry: &Entry, post: &F) -> Delivery
    where
        F: Fn(Request<Bytes>) -> A,
        A: Future<Output = Result<Response<Bytes>, Failed>>,
    {
        let Some(event) = event(entry) else { return Delivery::Dropped };
        let message = Message::new(event, entry, &self.instance);
        let mut attempt = 1;
        loop {
            let answer = post(self.request(&message, SystemTime::now())).await;
            let Err(trouble) = retry::judge(&answer, &self.hook.url, SystemTime::now()) else {
                self.note_success();
                return Delivery::Delivered;
            };
            self.note_trouble(&trouble);
            if trouble.is_final || attempt == ATTEMPTS {
                let (webhook, id, why) = (&self.hook.name, &message.id, &trouble.why);
                tracing::warn!(webhook, id, attempt, "given up: this {} is not told of: {why}", event.as_str());
                return Delivery::Failed;
            }
            tokio::time::sleep(retry::wait(attempt, trouble.after, fastrand::f64())).await;
            attempt += 1;
        }
    }

    fn request(&self, message: &Message, now: SystemTime) -> Request<Bytes> {
        let timestamp = now.duration_since(UNIX_EPOCH).as_ref().map_or(0, Duration::as_secs);
        let mut request = Request::post(self.hook.url.uri())
            .header(CONTENT_TYPE, "application/json")
            .header("webhook-id", &message.id)
            .header("webhook-timestamp", timestamp);
        if let Some(key) = &self.hook.key {
            request = request.header("webhook-signature", sign(key.expose(), &message.id, timestamp, &message.body));
        }
        request.body(message.body.clone()).expect("ids, numbers and base64 are header values")
    }

    fn note_success(&self) {
        let was_failing = self.change(|state| {
            state.health.succeeded_at = Some(SystemTime::now());
            std::mem::replace(&mut state.health.is_failing, false)
        });
        if was_failing {
            tracing::info!(webhook = self.hook.name, "{} takes messages again", self.hook.url);
        }
    }

    fn note_trouble(&self, trouble: &Trouble) {
        let was_failing = self.change(|state| {
            state.health.failed = Some((SystemTime::now(), trouble.why.clone()));
            std::mem::replace(&mut state.health.is_failing, true)
        });
        if !was_failing {
            tracing::warn!(webhook = self.hook.name, "a message is not taken, and sent again: {}", trouble.why);
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut changed = None;
        self.state.send_modify(|state| {
            changed = Some(change(state));
            self.meters.set_queued(state.queued());
        });
        changed.expect("it has just been changed")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::time::Instant;

    use super::*;
    use crate::config::{Webhook, WebhookEvent};
    use crate::control::journal::audit::{Draft, Head, Who};

    /// What reaches the receiver: the id of each message, and how long after the start.
    type Seen = Arc<Mutex<Vec<(String, Duration)>>>;

    fn entry(what: &str, reason: &str) -> Arc<Entry> {
        let who = Who { kind: "operator".to_owned(), name: "anna".to_owned() };
        let (before, after) = Default::default();
        let (scope, what, reason) = ("ledger".to_owned(), what.to_owned(), reason.to_owned());
        let draft = Draft { at: UNIX_EPOCH, who, scope, what, before, after, reason, forced: false };
        Arc::new(Entry::seal(draft, &Head::default()))
    }

    fn target(events: &[WebhookEvent]) -> Arc<Target> {
        let url = "http://127.0.0.1/".parse().unwrap();
        let hook = Webhook { name: "chat".to_owned(), url, key: None, events: events.to_vec() };
        Arc::new(Target::new(hook, "pay-7".into(), Arc::default()))
    }

    /// Runs `target` before a receiver that answers its requests with `statuses`, one after the other, and the rest with 200.
    fn answering(target: &Arc<Target>, statuses: &[u16]) -> Seen {
        let (seen, start, statuses) = (Seen::default(), Instant::now(), statuses.to_vec());
        let record = Arc::clone(&seen);
        tokio::spawn(Arc::clone(target).run(move |request: Request<Bytes>| {
            let id = request.headers()["webhook-id"].to_str().unwrap().to_owned();
            let mut seen = record.lock().unwrap();
            let status = statuses.get(seen.len()).copied().unwrap_or(200);
            seen.push((id, start.elapsed()));
            std::future::ready(Ok(Response::builder().status(status).body(Bytes::new()).unwrap()))
        }));
        seen
    }

    async fn is_empty(target: &Target) {
        target.state.subscribe().wait_for(|state| state.queued() == 0).await.unwrap();
    }

    fn counts(target: &Target) -> [u64; 3] {
        Delivery::ALL.map(|delivery| target.meters.deliveries(delivery))
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_taken_is_sent_again_ever_later_and_nothing_overtakes_it() {
        let target = target(&WebhookEvent::ALL);
        let seen = answering(&target, &[500, 404, 302]);
        target.tell(&entry("rollback", "first"));
        target.tell(&entry("resume", "second"));
        is_empty(&target).await;
        let seen = seen.lock().unwrap().clone();
        let (ids, times): (Vec<String>, Vec<Duration>) = seen.into_iter().unzip();
        assert!(ids[..4].iter().all(|id| *id == ids[0]) && ids[4] != ids[0] && ids.len() == 5, "{ids:?}");
        for (at, longest) in [(1, 1.0), (2, 2.0), (3, 4.0)] {
            let waited = (times[at] - times[at - 1]).as_secs_f64();
            assert!(waited >= longest / 2.0 && waited < longest + 0.01, "{at}: {waited}");
        }
        assert_eq!((counts(&target), target.health().is_failing), ([2, 0, 0], false));
    }

    #[tokio::test(start_paused = true)]
    async fn after_eight_attempts_it_is_given_up_and_the_next_one_has_its_turn() {
        let target = target(&WebhookEvent::ALL);
        let seen = answering(&target, &[503; 8]);
        target.tell(&entry("rollback", "first"));
        target.tell(&entry("resume", "second"));
        is_empty(&target).await;
        assert_eq!((seen.lock().unwrap().len(), counts(&target)), (9, [1, 1, 0]));
        let failed = target.health().failed.unwrap().1;
        assert_eq!(failed, "http://127.0.0.1 answers with 503");
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_gone_is_not_asked_again() {
        let target = target(&WebhookEvent::ALL);
        let seen = answering(&target, &[410]);
        target.tell(&entry("rollback", ""));
        is_empty(&target).await;
        assert_eq!((seen.lock().unwrap().len(), counts(&target)), (1, [0, 1, 0]));
        assert!(target.health().is_failing);
    }

    #[tokio::test(start_paused = true)]
    async fn the_queue_has_an_end_and_what_falls_out_is_counted() {
        let target = target(&WebhookEvent::ALL);
        for n in 0..300 {
            target.tell(&entry("rollback", &n.to_string()));
        }
        assert_eq!((target.meters.queued(), counts(&target)), (256, [0, 0, 44]));
        target.drop_all();
        assert_eq!((target.meters.queued(), counts(&target)), (0, [0, 0, 300]));
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_is_wanted_is_queued_and_who_fails_is_not_waited_for() {
        let target = target(&[WebhookEvent::Resume]);
        target.tell(&entry("rollback", ""));
        target.tell(&entry("set", ""));
        assert_eq!(target.meters.queued(), 0);
        target.settled().await;
        let _seen = answering(&target, &[500; 8]);
        target.tell(&entry("resume", ""));
        target.settled().await;
        assert_eq!((target.meters.queued(), target.health().is_failing), (1, true));
    }
}
