//! Server-sent events (WHATWG HTML §9.2): every change as it happens, and a status once a second.
//!
//! One task makes each event once, for all who listen, and nothing while nobody does. It never waits for anybody: who does
//! not read fast enough is cut off, and comes back with the number of the last change it has seen.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use axum::body::Body;
use axum::extract::{Extension, Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use http_body::Frame;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, mpsc, watch};
use tokio::time::{MissedTickBehavior, interval};

use super::api::Sources;
use super::change::entries;
use super::lease::Lease;
use super::problem::Problem;
use super::status;
use crate::control::health::HealthChange;
use crate::control::journal::audit::Entry;
use crate::control::overview::Overview;

/// Listeners at once.
const MAX_LISTENERS: usize = 128;
/// Events that a listener may be behind.
const BEHIND: usize = 16;
/// Changes that are told again to one that comes back.
const REPLAYED: usize = 1000;
/// How often a status is told.
const PERIOD: Duration = Duration::from_secs(1);

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// The way to the task that tells.
#[derive(Debug)]
pub(super) struct Stage {
    seats: Arc<Semaphore>,
    joining: mpsc::Sender<Listener>,
}

impl Stage {
    /// Starts the task, which runs until `closing` does.
    pub(super) fn open(overview: Arc<Overview>, closing: watch::Receiver<()>) -> Self {
        let (joining, joined) = mpsc::channel(MAX_LISTENERS);
        let (changes, health) = (overview.changes.subscribe(), overview.health_changes.subscribe());
        tokio::spawn(Teller { overview, changes, health, listeners: Vec::new(), told: 0 }.run(joined, closing));
        Self { seats: Arc::new(Semaphore::new(MAX_LISTENERS)), joining }
    }
}

/// `GET /api/v1/events`
pub(super) async fn events(
    State(sources): State<Arc<Sources>>,
    Extension(lease): Extension<Arc<Lease>>,
    request: Request,
) -> Result<Response, Problem> {
    let stage = &sources.stage;
    let seat = Arc::clone(&stage.seats).try_acquire_owned().map_err(|_| full())?;
    let (events, heard) = mpsc::channel(BEHIND);
    let mut after = None;
    if let Some(since) = since(request.headers())? {
        let replay = replay(&sources, since).await?;
        after = Some(replay.last);
        let _there_is_room = (!replay.text.is_empty()).then(|| events.try_send(replay.text));
    }
    lease.stream();
    let _the_process_may_be_ending = stage.joining.send(Listener { events, lease, after }).await;
    let headers = [(CONTENT_TYPE, "text/event-stream"), (CONNECTION, "close")];
    Ok((headers, Body::new(Heard { heard, _seat: seat })).into_response())
}

fn full() -> Problem {
    let detail = format!("{MAX_LISTENERS} are listening already; look at /api/v1/status instead, or come back later.");
    // Its connection takes up a place that somebody with an order may wait for.
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
        .with_header(RETRY_AFTER, HeaderValue::from_static("5"))
        .with_header(CONNECTION, HeaderValue::from_static("close"))
}

/// The number of the last change that who comes back has seen.
fn since(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let Some(value) = headers.get(LAST_EVENT_ID) else { return Ok(None) };
    let number = value.to_str().ok().and_then(|text| text.parse().ok());
    number.map(Some).ok_or_else(|| Problem::senseless("Last-Event-ID has to be the number of a change."))
}

/// Changes that are told again.
struct Replay {
    text: Bytes,
    /// The number of the last one.
    last: u64,
}

/// Reads what has changed after `since`.
///
/// Who has missed more than is told again hears the latest; `/api/v1/audit` has the rest.
async fn replay(sources: &Arc<Sources>, since: u64) -> Result<Replay, Problem> {
    let newest = sources.overview.journal.head().seq;
    let since = since.clamp(newest.saturating_sub(REPLAYED as u64), newest);
    let entries = entries(sources, since, REPLAYED).await?;
    let mut text = Vec::new();
    entries.iter().for_each(|entry| write_change(&mut text, entry));
    Ok(Replay { text: text.into(), last: entries.last().map_or(since, |entry| entry.seq) })
}

fn write_change(text: &mut Vec<u8>, entry: &Entry) {
    text.extend_from_slice(format!("event: change\nid: {}\ndata: ", entry.seq).as_bytes());
    // JSON has no line breaks outside of strings, and none inside.
    serde_json::to_writer(&mut *text, entry).expect("an entry is made of texts and numbers");
    text.extend_from_slice(b"\n\n");
}

/// Who listens.
#[derive(Debug)]
struct Listener {
    events: mpsc::Sender<Bytes>,
    /// The connection.
    lease: Arc<Lease>,
    /// The last change it was told before it joined, if it came back.
    after: Option<u64>,
}

impl Listener {
    /// Tells it; `false` if it has left or is too far behind.
    fn hear(&self, text: &Bytes) -> bool {
        if text.is_empty() {
            return true;
        }
        match self.events.try_send(text.clone()) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Closed(_)) => false,
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.lease.cut();
                false
            }
        }
    }
}

/// The task that tells.
#[derive(Debug)]
struct Teller {
    overview: Arc<Overview>,
    changes: broadcast::Receiver<Arc<Entry>>,
    health: broadcast::Receiver<Arc<HealthChange>>,
    listeners: Vec<Listener>,
    /// The number of the last change that was told.
    told: u64,
}

impl Teller {
    async fn run(mut self, mut joined: mpsc::Receiver<Listener>, mut closing: watch::Receiver<()>) {
        let mut tick = interval(PERIOD);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = closing.changed() => return,
                changed = self.changes.recv() => match changed {
                    Ok(entry) => self.tell_changes(&entry),
                    Err(broadcast::error::RecvError::Lagged(_)) => self.lose_everybody(),
                    Err(broadcast::error::RecvError::Closed) => return,
                },
                // Who misses some of these sees in the next status how it stands.
                Ok(change) = self.health.recv() => self.tell_health(&change),
                Some(listener) = joined.recv() => self.welcome(listener),
                _ = tick.tick(), if !self.listeners.is_empty() => self.tell_status(),
            }
        }
    }

    /// One who comes back hears what was told between its replay and now.
    fn welcome(&mut self, listener: Listener) {
        let Some(after) = listener.after else { return self.listeners.push(listener) };
        let missed = self.overview.journal.entries(after, REPLAYED).unwrap_or_default();
        let mut text = Vec::new();
        missed.iter().filter(|entry| entry.seq <= self.told).for_each(|entry| write_change(&mut text, entry));
        if listener.hear(&text.into()) {
            self.listeners.push(listener);
        }
    }

    /// Tells `first` and all changes that have come with it, as one piece.
    fn tell_changes(&mut self, first: &Arc<Entry>) {
        let mut entries = vec![Arc::clone(first)];
        while let Ok(next) = self.changes.try_recv() {
            entries.push(next);
        }
        self.told = entries.last().map_or(self.told, |entry| entry.seq);
        let after = |after: Option<u64>| {
            let mut text = Vec::new();
            let news = entries.iter().filter(|entry| after.is_none_or(|after| entry.seq > after));
            news.for_each(|entry| write_change(&mut text, entry));
            Bytes::from(text)
        };
        let all = after(None);
        let is_new = |listener: &Listener| listener.after.is_none_or(|after| after < first.seq);
        self.listeners.retain(|listener| match is_new(listener) {
            true => listener.hear(&all),
            false => listener.hear(&after(listener.after)),
        });
    }

    fn tell_health(&mut self, change: &HealthChange) {
        let mut text = b"event: health\ndata: ".to_vec();
        serde_json::to_writer(&mut text, &status::endpoint_change(change)).expect("texts and a boolean are JSON");
        text.extend_from_slice(b"\n\n");
        let text = Bytes::from(text);
        self.listeners.retain(|listener| listener.hear(&text));
    }

    fn tell_status(&mut self) {
        self.listeners.retain(|listener| !listener.events.is_closed());
        if self.listeners.is_empty() {
            return;
        }
        let mut text = b"event: status\ndata: ".to_vec();
        let status = status::of(&self.overview, SystemTime::now());
        serde_json::to_writer(&mut text, &status).expect("a status is made of texts and numbers");
        text.extend_from_slice(b"\n\n");
        let text = Bytes::from(text);
        self.listeners.retain(|listener| listener.hear(&text));
    }

    /// More changes came at once than are kept. Those who listen come back, and are told again what they have missed.
    fn lose_everybody(&mut self) {
        self.listeners.drain(..).for_each(|listener| listener.lease.cut());
    }
}

/// A body that never ends by itself.
struct Heard {
    heard: mpsc::Receiver<Bytes>,
    _seat: OwnedSemaphorePermit,
}

impl http_body::Body for Heard {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.heard.poll_recv(context).map(|text| text.map(|text| Ok(Frame::data(text))))
    }
}
