//! What happens to a request while something is closed: everything, its route or its rollout.
//!
//! Nothing here runs while all is open. A request that waits holds no body, no side and no backend's connection; when its turn
//! comes it starts over under whatever is in force by then, so that what was switched behind the hold is what it finds.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::Method;
use http::request::Parts;
use http_body_util::BodyExt as _;
use hyper::body::Body as _;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::exchange::Report;
use super::form::Form;
use super::headers::Survey;
use super::notice::Notice;
use super::route;
use super::subject::{Head, passes_maintenance};
use super::watch::Watch;
use crate::config::MaintenanceDefaults;
use crate::hold::Queue;
use crate::metrics::Why;
use crate::policy::admission::{Admission, Door, Visitor, admit};
use crate::snapshot::{Destination, Service, Snapshot};
use crate::upstream::Incoming;

/// Bytes of a body that are read and forgotten, so that the connection can go on.
const SPARED: u64 = 64 * 1024;
/// How long a client may take to send them.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often it is looked whether a client that waits is still there. Its going may stand behind a body that nobody reads.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Bytes that hyper reads from a socket before anybody asks for a body.
const READ_AHEAD: u64 = 8 * 1024;

/// Lets a request in, now or after its wait; or tells why not. After this it goes by what `report` has as its view.
pub(super) async fn let_in(
    report: &mut Report,
    parts: &Parts,
    body: &mut Incoming,
    survey: Survey,
) -> Result<(), Box<Notice>> {
    let mut waited_in: Vec<Arc<Queue>> = Vec::new();
    loop {
        let view = report.client.worker.view();
        report.goes_by(Rc::clone(&view));
        let snapshot = &*view.snapshot;
        let head = head_of(report, snapshot, parts);
        let Ok(found) = route::find(&snapshot.routes, head) else { return Ok(()) }; // refused by whoever asks next
        let place = Place::new(snapshot, found);
        let form = || Form::wanted_by(&parts.headers);
        let (why, notice) = match admit(visitor(snapshot, head, &place), &place.doors(&waited_in)) {
            Admission::Served => return Ok(()),
            Admission::Healthy => (Why::Maintenance, Notice::healthy()),
            Admission::TurnedAway(at) => (Why::Maintenance, maintenance(snapshot, place.services[at], form())),
            Admission::Waits(at) => {
                let queue =
                    Arc::clone(place.services[at].hold.as_ref().expect("a request waits where there is a queue"));
                if has_its_turn(&queue, size(parts, body), &report.client.watch).await {
                    report.waited();
                    waited_in.push(queue);
                    continue;
                }
                (Why::Hold, Notice::held_in_vain(&snapshot.maintenance, form()))
            }
        };
        report.turned_away(place.rollout, why);
        let close = !is_read(body, survey).await;
        return Err(Box::new(notice.closing(close)));
    }
}

/// Whether a request that was let in would be let in now, and to the same rollout (an index into the snapshot's).
pub(super) fn would_serve(snapshot: &Snapshot, head: Head<'_>, rollout: usize) -> bool {
    if snapshot.is_open {
        return true;
    }
    let Ok(found) = route::find(&snapshot.routes, head) else { return false };
    let place = Place::new(snapshot, found);
    place.rollout == Some(rollout) && admit(visitor(snapshot, head, &place), &place.doors(&[])) == Admission::Served
}

fn head_of<'a>(report: &Report, snapshot: &Snapshot, parts: &'a Parts) -> Head<'a> {
    let client = report.client.behind(snapshot, &parts.headers);
    Head { method: &parts.method, uri: &parts.uri, headers: &parts.headers, client }
}

/// Where a request would go, and whether it is served there.
struct Place<'a> {
    /// Those of everything, of the route, of the rollout, as far as there is one.
    services: Vec<&'a Service>,
    /// An index into the snapshot's rollouts.
    rollout: Option<usize>,
}

impl<'a> Place<'a> {
    fn new(snapshot: &'a Snapshot, found: Option<(usize, Destination)>) -> Self {
        let rollout = match found {
            Some((_, Destination::Rollout(at))) => Some(at),
            Some((_, Destination::Backend(_))) | None => None,
        };
        let of_route = found.map(|(route, _)| &snapshot.by_route[route]);
        let of_rollout = rollout.map(|at| &snapshot.rollouts[at].service);
        Self { services: [Some(&snapshot.everything), of_route, of_rollout].into_iter().flatten().collect(), rollout }
    }

    /// As the policy sees them. A queue in which this request has had its turn is no hold for it any more.
    fn doors(&self, waited_in: &[Arc<Queue>]) -> Vec<Door> {
        let is_news = |queue: &Arc<Queue>| !waited_in.iter().any(|waited| Arc::ptr_eq(waited, queue));
        let door = |service: &&Service| Door {
            maintenance: service.maintenance.as_ref().map(|maintenance| maintenance.read_only),
            hold: service.hold.as_ref().is_some_and(is_news),
        };
        self.services.iter().map(door).collect()
    }
}

fn visitor(snapshot: &Snapshot, head: Head<'_>, place: &Place<'_>) -> Visitor {
    let MaintenanceDefaults { health_paths, bypass, .. } = &*snapshot.maintenance;
    let force = place.rollout.map(|at| &snapshot.rollouts[at].force);
    let reads = matches!(*head.method, Method::GET | Method::HEAD);
    Visitor {
        is_safe: reads || *head.method == Method::OPTIONS,
        asks_for_health: reads && health_paths.iter().any(|path| path == head.uri.path()),
        is_tester: passes_maintenance(&head, bypass, force),
    }
}

fn maintenance(snapshot: &Snapshot, service: &Service, form: Form) -> Notice {
    let maintenance = service.maintenance.as_ref().expect("a request is turned away where there is maintenance");
    Notice::maintenance(maintenance, &snapshot.maintenance, form, SystemTime::now())
}

/// Waits in line, and makes the connection look now and then whether its client is still there: if not, this is dropped. Tells
/// whether its turn has come. Before a process that ends cuts off what still runs, who has not been sent yet is told so.
async fn has_its_turn(queue: &Queue, bytes: u64, watch: &Watch) -> bool {
    watch.waits_in_line(true);
    let mut turn = pin!(queue.wait(bytes));
    let mut look = interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let has_come = loop {
        tokio::select! {
            biased;
            held = &mut turn => break held.is_ok(),
            () = poll_fn(|_| watch.poll_last_call()) => break false,
            _ = look.tick() => {}
        }
    };
    watch.waits_in_line(false);
    has_come
}

/// About how many bytes a request takes up while it waits: its head, and what hyper may have read of its body.
fn size(parts: &Parts, body: &Incoming) -> u64 {
    let fields = parts.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum::<usize>();
    let target = parts.uri.path_and_query().map_or(1, |target| target.as_str().len());
    let of_body = body.size_hint().exact().unwrap_or(READ_AHEAD).min(READ_AHEAD);
    (fields + target) as u64 + of_body
}

/// Reads a short body to its end, so that the connection can go on with the next request. Not that of a client that wants to
/// be asked for it first (RFC 9110 §10.1.1): it will not send it. What follows a request to upgrade may be no request at all.
async fn is_read(body: &mut Incoming, survey: Survey) -> bool {
    if survey.upgrade || body.is_end_stream() {
        return !survey.upgrade;
    }
    if survey.expect || body.size_hint().lower() > SPARED {
        return false;
    }
    let read_all = async {
        let mut left = SPARED;
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else { return false };
            match left.checked_sub(frame.data_ref().map_or(0, |data| data.len() as u64)) {
                Some(rest) => left = rest,
                None => return false,
            }
        }
        true
    };
    timeout(PATIENCE, read_all).await.unwrap_or(false)
}
