//! Changes: a request becomes an order, the controller's answer becomes a response.

use std::sync::Arc;
use std::time::SystemTime;

use axum::Json;
use axum::extract::{Extension, Request, State};
use axum::response::{IntoResponse, Response};
use http::header::{ETAG, IF_MATCH};
use http::{HeaderMap, HeaderValue, StatusCode};
use jiff::Timestamp;

use super::answer::{Changed, Reloaded, durability};
use super::api::{Name, Sources};
use super::auth::Caller;
use super::body;
use super::problem::Problem;
use super::status;
use super::wish::{Body as _, Deed, ReasonBody, Wish, text};
use crate::control::clock;
use crate::control::journal::audit::Entry;
use crate::control::order::{Done, Order, Refused, Scope};
use crate::control::overview::Overview;
use crate::policy::latch::Latch;
use crate::policy::rollout::Refusal;

type Answer = Result<Response, Problem>;

/// Does `W` to one rollout.
pub(super) async fn rollout<W: Wish>(
    State(sources): State<Arc<Sources>>,
    Name(name): Name,
    Extension(Caller(by)): Extension<Caller>,
    request: Request,
) -> Answer {
    let overview = &sources.overview;
    if overview.snapshot.load().rollout(&name).is_none() {
        return Err(no_such_rollout(overview, &name));
    }
    let if_match = if_match(request.headers());
    let order = order::<W>(Scope::Rollout(name.clone()), Caller(by), if_match, request).await?;
    let done = overview.desk.ask(order).await.map_err(|refused| in_words(overview, refused))?;
    let snapshot = overview.snapshot.load();
    let rollout =
        snapshot.rollout(&name).map(|found| status::of_rollout(overview, &snapshot, found, SystemTime::now()));
    Ok(answer(&done, rollout))
}

/// Does `W` to everything.
pub(super) async fn everything<W: Wish>(
    State(sources): State<Arc<Sources>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Answer {
    whole::<W>(&sources.overview, Scope::Everything, caller, request).await
}

/// Does `W` to one route.
pub(super) async fn route<W: Wish>(
    State(sources): State<Arc<Sources>>,
    Name(name): Name,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Answer {
    if !sources.overview.snapshot.load().named_routes.iter().any(|route| route.name == name) {
        return Err(no_such_route(&sources.overview, &name));
    }
    whole::<W>(&sources.overview, Scope::Route(name), caller, request).await
}

/// Does `W` to what has no version.
async fn whole<W: Wish>(overview: &Overview, scope: Scope, caller: Caller, request: Request) -> Answer {
    if request.headers().contains_key(IF_MATCH) {
        let detail = "If-Match is for changes of one rollout: nothing else has an entity tag.";
        return Err(Problem::new(StatusCode::BAD_REQUEST, detail));
    }
    let order = order::<W>(scope, caller, None, request).await?;
    let done = overview.desk.ask(order).await.map_err(|refused| in_words(overview, refused))?;
    Ok(answer(&done, None))
}

async fn order<W: Wish>(
    scope: Scope,
    Caller(by): Caller,
    if_match: Option<Vec<String>>,
    request: Request,
) -> Result<Order, Problem> {
    let body: W::Body = body::read(request).await?;
    let reason = text("reason", body.reason().unwrap_or_default())?;
    let deed = Deed { at: SystemTime::now(), by, reason };
    let command = W::command(body, &deed)?;
    let Deed { by, reason, .. } = deed;
    Ok(Order { scope, command, by, reason, if_match })
}

/// The strong entity tags in `If-Match` (RFC 9110 §13.1.1), `*` among them; `None` without that header. A weak tag never
/// matches, so it is left out.
fn if_match(headers: &HeaderMap) -> Option<Vec<String>> {
    let mut lines = headers.get_all(IF_MATCH).iter().peekable();
    lines.peek()?;
    let tags = lines.flat_map(|line| line.to_str().unwrap_or_default().split(','));
    let is_strong = |tag: &&str| *tag == "*" || (tag.len() >= 2 && tag.starts_with('"') && tag.ends_with('"'));
    Some(tags.map(str::trim).filter(is_strong).map(str::to_owned).collect())
}

fn answer(done: &Done, rollout: Option<status::RolloutStatus>) -> Response {
    let (durable, warning) = durability(&done.durability);
    let etag = rollout.as_ref().map(|rollout| with_etag(&rollout.etag)).unwrap_or_default();
    let changes = done.entries.iter().map(|entry| Entry::clone(entry)).collect();
    (etag, Json(Changed { changes, durable, warning, rollout })).into_response()
}

/// The header that goes with a rollout's status.
pub(super) fn with_etag(tag: &str) -> HeaderMap {
    HeaderValue::from_str(tag).map(|tag| HeaderMap::from_iter([(ETAG, tag)])).unwrap_or_default()
}

// -- the config

/// `POST /api/v1/reload`
pub(super) async fn reload(
    State(sources): State<Arc<Sources>>,
    Extension(Caller(by)): Extension<Caller>,
    request: Request,
) -> Answer {
    let body: ReasonBody = body::read(request).await?;
    let reason = text("reason", body.reason().unwrap_or_default())?;
    let overview = &sources.overview;
    tracing::info!(by = by.name, reason, "asked to read the config again");
    let before = overview.journal.head().seq;
    let reloaded = overview.desk.reload().await.map_err(|refused| in_words(overview, refused))?;
    let hash = reloaded.map_err(|error| Problem::senseless(format!("What was in force stays in force.\n{error}")))?;
    let mut changes = entries(&sources, before, PAGE).await?;
    changes.retain(|entry| entry.who.kind == "config");
    let needs_restart: Vec<String> = overview.reload.load().needs_restart.iter().map(|key| (*key).to_owned()).collect();
    let (durable, forgotten) = durability(&overview.journal.durability());
    let restart =
        (!needs_restart.is_empty()).then(|| format!("these change only with a restart: {}", needs_restart.join(", ")));
    let snapshot = overview.snapshot.load();
    let troubles = snapshot.keyring.troubles().iter();
    let stale = troubles.map(|it| format!("{}: what was read before stays in use: {}", it.path.display(), it.message));
    let warnings: Vec<String> = forgotten.into_iter().chain(restart).chain(stale).collect();
    let warning = (!warnings.is_empty()).then(|| warnings.join("; "));
    Ok(Json(Reloaded { changes, durable, warning, hash, needs_restart }).into_response())
}

/// Entries of the audit log that are read at once.
pub(super) const PAGE: usize = 1000;

/// The first `limit` entries after number `after`; blocks elsewhere.
pub(super) async fn entries(sources: &Arc<Sources>, after: u64, limit: usize) -> Result<Vec<Entry>, Problem> {
    let sources = Arc::clone(sources);
    let read = tokio::task::spawn_blocking(move || sources.overview.journal.entries(after, limit)).await;
    read.map_err(std::io::Error::other).flatten().map_err(|error| {
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, format!("The audit log cannot be read: {error}."))
    })
}

// -- refusals

pub(super) fn no_such_rollout(overview: &Overview, name: &str) -> Problem {
    let snapshot = overview.snapshot.load();
    let known: Vec<&str> = snapshot.rollouts.iter().map(|rollout| rollout.name.as_str()).collect();
    Problem::unknown_rollout(name, &known)
}

fn no_such_route(overview: &Overview, name: &str) -> Problem {
    let snapshot = overview.snapshot.load();
    let known: Vec<&str> = snapshot.named_routes.iter().map(|route| route.name.as_str()).collect();
    Problem::unknown_route(name, &known)
}

/// Why an order changed nothing, and what would help.
fn in_words(overview: &Overview, refused: Refused) -> Problem {
    match refused {
        Refused::NoSuchRollout(name) => no_such_rollout(overview, &name),
        Refused::NoSuchRoute(name) => no_such_route(overview, &name),
        Refused::Stale { current } => {
            let detail = "It has changed since you looked. Look again, and send the new ETag.";
            let problem = Problem::new(StatusCode::PRECONDITION_FAILED, detail);
            let tag = HeaderValue::from_str(&current);
            let problem = problem.with_current(current);
            tag.map(|tag| problem.clone().with_header(ETAG, tag)).unwrap_or(problem)
        }
        Refused::Contradicts { rollout, refusal } => contradicts(overview, &rollout, &refusal),
        Refused::OnlyForRollouts(_) => Problem::senseless(format!("{refused}.")),
        Refused::Ending => Problem::new(StatusCode::SERVICE_UNAVAILABLE, "tidegate is ending."),
    }
}

fn contradicts(overview: &Overview, rollout: &str, refusal: &Refusal) -> Problem {
    let mut detail = refusal.explained(rollout);
    if *refusal == Refusal::Frozen {
        detail.push('.');
        detail.extend(opening(overview, rollout).map(|at| format!(" It opens at {at:.0}.")));
    }
    let problem = Problem::new(StatusCode::CONFLICT, detail);
    let by_latch = |latch: &Latch| problem.clone().with_latch(&latch.id);
    match refusal {
        Refusal::RolledBack(latch) | Refusal::StillAsked(latch) => {
            by_latch(latch).with_undo(status::undo(latch.door, rollout, overview))
        }
        Refusal::Drained(_) => problem.with_undo(format!("tidegate drain {rollout} off")),
        Refusal::Frozen | Refusal::WrongStrategy { .. } | Refusal::Nowhere(_) | Refusal::Gate(_) => problem,
    }
}

/// When the schedule of `rollout` allows raising it again.
fn opening(overview: &Overview, rollout: &str) -> Option<Timestamp> {
    let snapshot = overview.snapshot.load();
    let rollout = snapshot.rollouts.iter().find(|known| known.name == rollout)?;
    clock::opening(&rollout.plan.schedule, SystemTime::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_read_as_the_rfc_has_them() {
        let read = |lines: &[&str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(IF_MATCH, HeaderValue::from_str(line).unwrap());
            }
            if_match(&headers)
        };
        let tags = |tags: &[&str]| Some(tags.iter().map(|tag| (*tag).to_owned()).collect::<Vec<_>>());
        for (lines, meant) in [
            (&[][..], None),
            (&["\"3-1c0ffee0\""], tags(&["\"3-1c0ffee0\""])),
            (&["*"], tags(&["*"])),
            (&["\"1-a\", \"2-b\"", "\"3-c\""], tags(&["\"1-a\"", "\"2-b\"", "\"3-c\""])),
            (&["W/\"3-1c0ffee0\""], tags(&[])),
            (&["3-1c0ffee0"], tags(&[])),
            (&["\""], tags(&[])),
            (&[""], tags(&[])),
        ] {
            assert_eq!(read(lines), meant, "{lines:?}");
        }
    }
}
