//! One request and its answer, from the head to the last byte, and the one outcome that it reports.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue};
use tokio::time::Instant;

use super::access_log::{Carried, Entry};
use super::body::{Progress, RequestBody, Upload};
use super::grpc::Call;
use super::handshake::Shown;
use super::headers;
use super::peer::Peer;
use super::subject::client_behind;
use super::tunnel::Tunnel;
use super::watch::{Running, Watch};
use super::worker::{Pool, View, Worker};
use crate::metrics::tally::Mark;
use crate::metrics::{Class, Failure, RolloutMeters, Seat, Shard, Why};
use crate::policy::bucket::Bucket;
use crate::policy::decision::{Decision, Reason, Side};
use crate::policy::grpc::Status;
use crate::policy::outcome::{Failures, Outcome};
use crate::snapshot::{Guarded, Rollout, Snapshot};
use crate::upstream::{Channel, Incoming, Lease, Passage};

/// In `x-forwarded-for`, who has no address (RFC 7239 §6.3). To leave it out would make the backend take us for the client.
const UNKNOWN: HeaderValue = HeaderValue::from_static("unknown");

/// Who a connection comes from, and how.
#[derive(Debug)]
pub(super) struct Origin {
    pub(super) peer: Peer,
    /// The address as `x-forwarded-for` has it.
    pub(super) forwarded_for: HeaderValue,
    /// `http` or `https`, as `x-forwarded-proto` has it.
    pub(super) scheme: HeaderValue,
    /// What the certificate says that it has shown, if it has.
    pub(super) certificate: Option<Shown>,
}

impl Origin {
    pub(super) fn of(peer: Peer) -> Self {
        let forwarded_for = match peer.ip() {
            Some(ip) => HeaderValue::from_str(&ip.to_string()).expect("an address is visible ASCII"),
            None => UNKNOWN,
        };
        Self { peer, forwarded_for, scheme: HeaderValue::from_static("http"), certificate: None }
    }

    /// The same in secret, from whoever has shown `certificate`.
    pub(super) fn over_tls(self, certificate: Option<Shown>) -> Self {
        Self { scheme: HeaderValue::from_static("https"), certificate, ..self }
    }

    /// The address as logs have it.
    pub(super) fn name(&self) -> String {
        self.peer.ip().map_or_else(|| "unknown".to_owned(), |ip| ip.to_string())
    }
}

/// Whoever asks: a connection that carries one request at a time, or one of the streams of a connection.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) worker: Rc<Worker>,
    pub(super) watch: Rc<Watch>,
    pub(super) origin: Rc<Origin>,
    /// What its connection or stream becomes once the answer's head is written. Whoever writes it takes this out.
    pub(super) tunnel: RefCell<Option<Box<Tunnel>>>,
}

impl Client {
    pub(super) fn new(worker: Rc<Worker>, watch: Rc<Watch>, origin: Rc<Origin>) -> Self {
        Self { worker, watch, origin, tunnel: RefCell::default() }
    }

    /// The address of whoever asks, behind the proxies that `snapshot` trusts.
    pub(super) fn behind(&self, snapshot: &Snapshot, headers: &HeaderMap) -> Option<IpAddr> {
        match snapshot.trusted_proxies.is_empty() {
            true => self.origin.peer.ip(),
            false => client_behind(&snapshot.trusted_proxies, &self.origin.peer, headers),
        }
    }
}

/// Where a request is counted.
#[derive(Clone, Copy, Debug)]
enum Meter {
    Unsplit,
    /// The rollout and the side that were decided, and the seat on which the request runs.
    Rollout(usize, Side, Seat),
    /// The rollout that would have decided.
    TurnedAway(usize),
}

/// The outcome of one request. It is told exactly once: when this is dropped, however the request ended, and to the guard as
/// soon as it is known to be a failure.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) client: Rc<Client>,
    pub(super) view: Rc<View>,
    started: Instant,
    meter: Meter,
    why: Why,
    class: Cell<Class>,
    ended: Cell<Option<Instant>>,
    /// When it became a tunnel. How long that stays open says nothing about how quick anybody is.
    switched: Cell<Option<Instant>>,
    /// What the guard is told, if a rollout decided.
    bucket: Option<Bucket>,
    failure: Cell<Option<Failure>>,
    /// When the head came; see [`Report::without_lateness`].
    head_at: Cell<Option<Instant>>,
    /// NEW has failed, and OLD is asked in its place.
    falls_back: bool,
    /// The guard has heard of it.
    is_told: Cell<bool>,
    /// If it is one of gRPC.
    call: Option<Box<Call>>,
    entry: Option<Box<Entry>>,
}

impl Report {
    /// A request begins. Until somebody knows better it is one that was refused and whose client went away.
    pub(super) fn begin(client: Rc<Client>, view: Rc<View>) -> Self {
        Self {
            client,
            view,
            started: Instant::now(),
            meter: Meter::Unsplit,
            why: Why::Refused,
            class: Cell::new(Class::Aborted),
            ended: Cell::new(None),
            switched: Cell::new(None),
            bucket: None,
            failure: Cell::new(None),
            head_at: Cell::new(None),
            falls_back: false,
            is_told: Cell::new(false),
            call: None,
            entry: None,
        }
    }

    /// A request whose head could not be read.
    pub(super) fn refused(client: Rc<Client>) -> Self {
        let view = client.worker.view();
        Self::begin(client, view)
    }

    pub(super) fn started(&self) -> Instant {
        self.started
    }

    /// It is a call of gRPC, of which this is known.
    pub(super) fn begins_call(&mut self, call: Call) {
        self.call = Some(Box::new(call));
    }

    /// What is known of it as a call of gRPC, if it is one.
    pub(super) fn call(&self) -> Option<&Call> {
        self.call.as_deref()
    }

    /// If it is a call, it ends like this.
    pub(super) fn call_ends_as(&self, status: Status) {
        if let Some(call) = self.call() {
            call.ends_as(status);
        }
    }

    pub(super) fn log_as(&mut self, entry: Box<Entry>) {
        self.entry = Some(entry);
    }

    /// From here on the request goes by `view`. To be called before anything is decided.
    pub(super) fn goes_by(&mut self, view: Rc<View>) {
        self.view = view;
    }

    /// The request has waited in line: what it takes from here on is what the backend takes.
    pub(super) fn waited(&mut self) {
        let now = Instant::now();
        if let Some(entry) = &mut self.entry {
            entry.held += now - self.started;
        }
        self.started = now;
    }

    /// Neither side will see this request, which `rollout` (an index into the snapshot's) would have decided.
    pub(super) fn turned_away(&mut self, rollout: Option<usize>, why: Why) {
        self.meter = rollout.map_or(Meter::Unsplit, Meter::TurnedAway);
        self.why = why;
        self.shard().begin();
        if let (Some(entry), Some(rollout)) = (&mut self.entry, rollout) {
            entry.of_rollout(&self.view.snapshot.rollouts[rollout].name);
        }
    }

    /// No rollout decides this request.
    pub(super) fn unsplit(&mut self, why: Why) {
        self.why = why;
        self.shard().begin();
    }

    /// A rollout (an index into the snapshot's) has decided: from here on the request counts there. `bucket` is the user's, if
    /// anything tells this user from others.
    pub(super) fn decided(&mut self, rollout: usize, decision: Decision, bucket: Option<Bucket>) {
        let at = rollout;
        let rollout = &self.view.snapshot.rollouts[at];
        let (seat, worker) = (rollout.seat(decision.side), self.client.worker.index());
        self.bucket = bucket;
        self.meter = Meter::Rollout(at, decision.side, seat);
        self.why = Why::Decided(decision.reason);
        self.shard().begin();
        rollout.meters.seat(seat, worker).sit();
        self.client.watch.runs(Running { meters: address_of(&rollout.meters), seat, since: self.started });
        if let Some(shield) = &rollout.shield {
            rollout.meters.shield(worker).request(shield.budget);
        }
        if let Some(entry) = &mut self.entry {
            entry.of_rollout(&rollout.name);
            entry.side = decision.side.as_str();
        }
    }

    /// NEW has failed the request, and OLD is asked in its place. It stays NEW's request, which ended as `class`, whatever
    /// comes of that; but it runs on `seat` now.
    pub(super) fn falls_back(&mut self, class: Class, seat: Seat, now: Instant) {
        let Meter::Rollout(at, side, before) = self.meter else { return };
        let (meters, worker) = (&self.view.snapshot.rollouts[at].meters, self.client.worker.index());
        meters.seat(before, worker).rise();
        meters.seat(seat, worker).sit();
        self.client.watch.runs(Running { meters: address_of(meters), seat, since: now });
        self.meter = Meter::Rollout(at, side, seat);
        self.class.set(class);
        self.head_at.set(self.head_at.get().or_else(|| Some(self.without_lateness(now))));
        self.falls_back = true;
        self.tell_of_failure();
    }

    /// OLD, asked in place of NEW, has begun to answer well, or has not.
    pub(super) fn fell_back(&mut self, is_answered: bool) {
        if let Some(rollout) = self.rollout().filter(|_| is_answered) {
            rollout.meters.shield(self.client.worker.index()).shielded();
        }
        if let Some(entry) = &mut self.entry {
            entry.is_shielded = is_answered;
        }
    }

    /// The side that answers, if a rollout decided.
    pub(super) fn answering(&self) -> Option<Side> {
        match self.meter {
            Meter::Rollout(..) if self.falls_back => Some(Side::Old),
            Meter::Rollout(_, side, _) => Some(side),
            Meter::Unsplit | Meter::TurnedAway(_) => None,
        }
    }

    /// The answer has begun with this status.
    pub(super) fn answered(&mut self, status: u16) {
        if let Some(entry) = &mut self.entry {
            entry.status = status;
        }
    }

    /// The backend failed this request.
    pub(super) fn failed(&self, failure: Failure) {
        self.found_bad(failure);
        self.will_end_as(Class::Error);
    }

    /// The backend did not begin to answer before the call's deadline: what it would have to say by now itself.
    pub(super) fn missed_deadline(&self) {
        self.will_end_as(Class::Error);
        self.call_ended(Status::DeadlineExceeded);
    }

    /// There is an answer, and it is a failure.
    pub(super) fn found_bad(&self, failure: Failure) {
        match self.rollout() {
            // What OLD does in place of NEW is no news about NEW.
            Some(rollout) if self.falls_back => {
                rollout.meters.side(Side::Old).shard(self.client.worker.index()).fail(failure);
            }
            _ => {
                self.shard().fail(failure);
                self.failure.set(Some(failure));
            }
        }
    }

    /// There is an answer, and it is a failure, although its status does not say so.
    pub(super) fn found_bad_in_disguise(&self, failure: Failure) {
        self.found_bad(failure);
        if !self.falls_back {
            self.shard().hide_failure();
        }
    }

    /// If the request has failed, that is told to the guard now: its end may be a long time away.
    pub(super) fn tell_of_failure(&self) {
        if self.failure.get().is_some()
            && let Meter::Rollout(at, side, _) = self.meter
        {
            self.tell_the_guard(&self.view.snapshot.rollouts[at], side, Instant::now());
        }
    }

    /// The rollout that decided, if one did.
    fn rollout(&self) -> Option<&Rollout> {
        match self.meter {
            Meter::Rollout(rollout, ..) => Some(&self.view.snapshot.rollouts[rollout]),
            Meter::Unsplit | Meter::TurnedAway(_) => None,
        }
    }

    fn guard(&self) -> Option<&Guarded> {
        self.rollout()?.guard.as_ref()
    }

    /// Which answers are failures, if anybody wants to know.
    pub(super) fn failures(&self) -> Option<&Failures> {
        let rollout = self.rollout()?;
        let of_shield = || rollout.shield.as_ref().map(|shield| &*shield.failures);
        rollout.guard.as_ref().map(|guard| &*guard.failures).or_else(of_shield)
    }

    /// The end of the answer is here. gRPC says there how it went.
    pub(super) fn look_at_trailers(&self, trailers: &HeaderMap) {
        if let Some(call) = self.call() {
            return call.hears(trailers); // judged at the very end
        }
        if let Some(status) = trailers.get(headers::GRPC_STATUS) {
            self.judge(Status::read(status.as_bytes()));
        }
    }

    /// A call has ended like this.
    fn call_ended(&self, status: Status) {
        self.call_ends_as(status);
        self.judge(status);
    }

    /// Whether it is a failure to end like this is for the guard to know.
    fn judge(&self, status: Status) {
        let is_failure = self.guard().is_some_and(|guard| guard.failures.is_grpc_failure(status));
        if is_failure && self.failure.get().is_none() {
            self.found_bad(Failure::Grpc);
        }
    }

    /// The head of the answer is here.
    pub(super) fn head_came(&self) {
        if !self.falls_back && self.guard().is_some_and(|guard| guard.is_timed) {
            self.head_at.set(Some(self.without_lateness(Instant::now())));
        }
    }

    /// When it would have been `now` if the client had sent its body at once: nobody is slow because of a slow client.
    fn without_lateness(&self, now: Instant) -> Instant {
        now.checked_sub(self.client.watch.lateness(now)).unwrap_or(now)
    }

    /// Unless something else happens, the request will have ended like this. What NEW has failed has ended already.
    pub(super) fn will_end_as(&self, class: Class) {
        if !self.falls_back {
            self.class.set(class);
        }
    }

    /// Client and backend have agreed to speak something else, now. The request goes on for as long as they do.
    pub(super) fn switches(&self, now: Instant) {
        self.switched.set(Some(now));
    }

    /// So many bytes came from the client through a tunnel, and so many from the backend.
    pub(super) fn carried(&mut self, received: u64, sent: u64) {
        if let (Some(entry), Some(switched)) = (&mut self.entry, self.switched.get()) {
            entry.tunnel = Some(Carried { open: switched.elapsed(), received, sent });
        }
    }

    /// All of the answer is here, now.
    pub(super) fn complete(&self, class: Class, now: Instant) {
        self.will_end_as(class);
        if let Some(call) = self.call() {
            self.judge(call.ends());
        }
        self.ended.set(Some(now));
    }

    fn shard(&self) -> &Shard {
        let snapshot = &self.view.snapshot;
        let series = match self.meter {
            Meter::Unsplit => &*snapshot.unsplit,
            Meter::Rollout(rollout, side, _) => snapshot.rollouts[rollout].meters.side(side),
            Meter::TurnedAway(rollout) => snapshot.rollouts[rollout].meters.turned_away(),
        };
        series.shard(self.client.worker.index())
    }

    fn tell(&mut self, now: Instant) {
        let elapsed = self.switched.get().unwrap_or(now).saturating_duration_since(self.started);
        if self.why == Why::Refused {
            self.shard().begin(); // it never got as far as running
        }
        if self.is_given_up_at_its_deadline(now) {
            self.missed_deadline();
        }
        if let Some(call) = self.call().filter(|_| self.client.watch.is_cut_off()) {
            call.is_cut_off();
        }
        if let Meter::Rollout(rollout, side, seat) = self.meter {
            let rollout = &self.view.snapshot.rollouts[rollout];
            rollout.meters.seat(seat, self.client.worker.index()).rise();
            self.tell_the_guard(rollout, side, now);
        }
        let class = self.class();
        self.shard().end(self.why, class, elapsed);
        if let Some(status) = self.call().and_then(Call::status) {
            self.shard().call(status);
            if self.failure.get() == Some(Failure::Grpc) && !matches!(class, Class::ServerError | Class::Error) {
                self.shard().hide_failure();
            }
            if let Some(entry) = &mut self.entry {
                entry.grpc_status = Some(status.number());
            }
        }
        if let (Some(entry), Some(log)) = (self.entry.take(), self.client.worker.access_log()) {
            log.write(&entry, self.why, class, elapsed);
        }
    }

    /// Whether the client of a call has gone because its deadline has come and no answer had begun. Its clock ends the wait a
    /// moment before ours does, so without this a backend that hangs would look like clients that go away.
    fn is_given_up_at_its_deadline(&self, now: Instant) -> bool {
        self.call().is_some_and(|call| call.was_waited_for(now))
            && self.why != Why::Refused
            && self.class.get() == Class::Aborted
            && self.failure.get().is_none()
            && self.ended.get().is_none()
            && !self.client.watch.is_cut_off()
    }

    /// Testers chose their side themselves, one side that stands in for the other has not been chosen for its own sake, and what
    /// began in another epoch says nothing any more: none of these counts.
    fn tell_the_guard(&self, rollout: &Rollout, side: Side, now: Instant) {
        let Some(guard) = rollout.guard.as_ref().filter(|_| !self.is_told.replace(true)) else { return };
        let tallies = rollout.meters.tallies();
        if guard.epoch != tallies.epoch() || matches!(self.why, Why::Decided(Reason::Force | Reason::Fallback)) {
            return;
        }
        let tally = tallies.of(self.client.worker.index(), side);
        let outcome = self.outcome();
        let head_at = self.head_at.get().unwrap_or_else(|| self.without_lateness(now));
        let took = head_at.saturating_duration_since(self.started);
        let slow = tallies.slow_above().filter(|_| guard.is_timed).map(|bound| took > bound);
        let is_slow = slow == Some(true);
        match outcome {
            Outcome::Success => tally.failures().good(),
            Outcome::Failure(_) => tally.failures().bad(self.mark()),
            Outcome::ClientGone | Outcome::Ours => {}
        }
        match (outcome, slow) {
            (Outcome::Ours, _) | (_, None) => {}
            (_, Some(true)) => tally.slow().bad(self.mark()), // also who lost patience after that time
            (Outcome::ClientGone, Some(false)) => {}
            (_, Some(false)) => tally.slow().good(),
        }
        if side == Side::New && (is_slow || matches!(outcome, Outcome::Failure(_))) {
            self.client.worker.alarm();
        }
    }

    /// What the request says about its side.
    fn outcome(&self) -> Outcome {
        match self.failure.get() {
            Some(failure) => failure.outcome(),
            None if self.ended.get().is_some() => Outcome::Success, // all of a backend's answer came, and got through
            None if self.is_ended_by_us() => Outcome::Ours,
            None => Outcome::ClientGone,
        }
    }

    /// Whose request it was. Of those whom nothing tells apart each counts as somebody else.
    fn mark(&self) -> Mark {
        let bucket = self.bucket.unwrap_or_else(|| Bucket::of_digest(fastrand::u64(..)));
        Mark { bucket, is_shielded: self.falls_back }
    }

    /// Whether it ends before its time because of us: it is cut off, or a bug of ours takes it down.
    fn is_ended_by_us(&self) -> bool {
        self.client.watch.is_cut_off() || std::thread::panicking()
    }

    /// How the request is counted. Whose request ends because of us has not gone away.
    fn class(&self) -> Class {
        match self.class.get() {
            Class::Aborted if self.is_ended_by_us() => Class::Error,
            class => class,
        }
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        let now = self.ended.get().unwrap_or_else(Instant::now);
        self.tell(now);
        self.client.watch.response_ends(now);
    }
}

/// What tells a rollout's meters from all others, in every snapshot: they live as long as the process.
pub(super) fn address_of(meters: &Arc<RolloutMeters>) -> usize {
    Arc::as_ptr(meters).addr()
}

/// A way to a backend in use by one request, and what has to be true for another to use it.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) channel: Channel<RequestBody>,
    lease: Lease<RequestBody>,
    upload: Option<Rc<Upload>>,
    spoiled: bool,
    /// The answer counts against the endpoint.
    blamed: bool,
}

impl Link {
    pub(super) fn new(channel: Channel<RequestBody>, lease: Lease<RequestBody>, upload: Option<Rc<Upload>>) -> Self {
        Self { channel, lease, upload, spoiled: false, blamed: false }
    }

    pub(super) fn pool(&self) -> &Pool {
        self.lease.pool()
    }

    /// The answer has begun with this status.
    pub(super) fn answered(&mut self, status: u16) {
        self.blamed = self.pool().blame_status(status);
    }

    /// Whether it is a stream of HTTP/2.
    pub(super) fn is_stream(&self) -> bool {
        matches!(self.channel, Channel::Http2(_))
    }

    /// Never again: something on it cannot be trusted.
    pub(super) fn spoil(&mut self) {
        self.spoiled = true;
    }

    /// Lets both directions move by themselves, and the connection end with this exchange.
    pub(super) fn detach(&mut self) {
        self.spoil();
        self.channel.detach();
    }

    /// What it becomes once the backend has agreed to speak something else, with `body` behind its head; `None` if it broke
    /// instead.
    pub(super) async fn into_passage(self, body: Incoming) -> Option<(Passage, Lease<RequestBody>)> {
        let passage = self.channel.into_passage(body).await?;
        if !self.blamed {
            self.lease.pool().praise();
        }
        Some((passage, self.lease))
    }

    /// Whether the whole request is on its way to the backend.
    pub(super) fn is_uploaded(&self) -> bool {
        self.upload.as_ref().is_none_or(|upload| upload.is_done())
    }

    /// Whether the request has a body that is (or was) streamed.
    pub(super) fn has_upload(&self) -> bool {
        self.upload.is_some()
    }

    /// How far the request's body has got.
    pub(super) fn upload_progress(&self) -> Progress {
        self.upload.as_ref().map_or(Progress::Done, |upload| upload.progress())
    }

    /// The whole answer is here: others may use the connection, unless something speaks against it.
    pub(super) fn release(self, now: Instant) {
        if !self.blamed {
            self.pool().praise();
        }
        if self.is_uploaded() && !self.spoiled {
            self.lease.pool().put(self.channel, now);
        }
    }
}
