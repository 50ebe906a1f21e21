//! What the admin side answers to those who only look, and the router over all that it answers.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use axum::extract::{FromRequestParts, Path, State};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router, middleware};
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{Method, StatusCode, Uri};
use tokio::sync::watch;

use super::answer::{AuditPage, ShownConfig, Version};
use super::change::{PAGE, entries, no_such_rollout, with_etag};
use super::events::Stage;
use super::operations::{paths, routes};
use super::origin::screen;
use super::problem::{Problem, nearest, shortened, unknown};
use super::status::{self, GuardReport, Phase, Status, VERSION};
use crate::config::Keyring;
use crate::control::guards::Known;
use crate::control::journal::Durability;
use crate::control::overview::Overview;
use crate::metrics::{self, ConfigGauges, GuardGauges, RolloutGauges, Scrape, StateGauges, TlsGauges, process};
use crate::policy::guard::Test;

/// What the answers are made of.
#[derive(Debug)]
pub(super) struct Sources {
    pub(super) overview: Arc<Overview>,
    process: process::Reader,
    pub(super) stage: Stage,
}

type Shared = State<Arc<Sources>>;

/// Everything that can be asked for. Those who listen to events are let go at `closing`.
pub(super) fn router(overview: Arc<Overview>, closing: watch::Receiver<()>) -> Router {
    let stage = Stage::open(Arc::clone(&overview), closing);
    let sources = Arc::new(Sources { overview, process: process::Reader::default(), stage });
    routes()
        .method_not_allowed_fallback(wrong_method)
        .fallback(unknown_path)
        .layer(middleware::from_fn_with_state(Arc::clone(&sources), screen))
        .with_state(sources)
}

/// The `{name}` in a path.
#[derive(Debug)]
pub(super) struct Name(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let name = Path::<String>::from_request_parts(parts, state).await;
        name.map(|Path(name)| Self(name))
            .map_err(|_| Problem::new(StatusCode::NOT_FOUND, "The name in the path is not UTF-8."))
    }
}

/// The process answers, so it lives.
pub(super) async fn live() -> &'static str {
    "ok\n"
}

pub(super) async fn ready(State(sources): Shared) -> Response {
    match (Phase::of(&sources.overview), sources.overview.lost()) {
        (Phase::Running, None) => "ready\n".into_response(),
        (Phase::Running, Some(why)) => {
            format!("ready; {why}: every rollout that was there is on old until it is resumed\n").into_response()
        }
        (phase, _) => Problem::new(StatusCode::SERVICE_UNAVAILABLE, phase.explanation()).into_response(),
    }
}

pub(super) async fn version() -> Json<Version> {
    Json(Version { name: "tidegate".to_owned(), version: VERSION.to_owned() })
}

pub(super) async fn scrape(State(sources): Shared) -> impl IntoResponse {
    ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], exposition(&sources))
}

fn exposition(sources: &Sources) -> String {
    let overview = &sources.overview;
    let snapshot = overview.snapshot.load();
    let reload = overview.reload.load();
    let rollouts = snapshot.rollouts.iter().map(|rollout| RolloutGauges {
        name: &rollout.name,
        configured: rollout.configured(),
        effective: rollout.effective(),
        rolled_back: rollout.split.rollback,
    });
    let known = overview.guards.load();
    metrics::render(&Scrape {
        registry: &overview.registry,
        rollouts: rollouts.collect(),
        guards: known.iter().map(|(rollout, known)| GuardGauges { rollout, evidence: evidence(known) }).collect(),
        config: ConfigGauges {
            hash: &snapshot.config_hash,
            reloads: reload.attempts,
            successful: reload.successful,
            succeeded_at: reload.succeeded_at,
        },
        tls: tls(&snapshot.keyring, SystemTime::now()),
        state: StateGauges {
            durable: overview.journal.durability() == Durability::Durable,
            lost: overview.lost().is_some(),
        },
        process: sources.process.process(Instant::now()),
        version: VERSION,
    })
}

fn tls(keyring: &Keyring, now: SystemTime) -> TlsGauges {
    let certificates = keyring
        .certificates()
        .map(|(path, certificate)| (path.display().to_string(), certificate.not_after, certificate.days_left(now)));
    TlsGauges {
        successful: (!keyring.is_empty()).then_some(keyring.troubles().is_empty()),
        certificates: certificates.collect(),
    }
}

/// How far the evidence of each sense has come, by what it has to be worse than.
fn evidence(known: &Known) -> Vec<(&'static str, &'static str, f64)> {
    let latency = known.latency.as_ref().map(Test::account);
    let senses = [("failures", Some(known.failures.account())), ("latency", latency)];
    let parts =
        senses.into_iter().filter_map(|(sense, account)| Some((sense, account?))).flat_map(|(sense, account)| {
            let tolerated = status::share(account.absolute, account.absolute_needed);
            let old = account.relative.map(|relative| (sense, "old", status::share(relative, account.relative_needed)));
            [Some((sense, "tolerated", tolerated)), old].into_iter().flatten()
        });
    parts.collect()
}

pub(super) async fn whole_status(State(sources): Shared) -> Json<Status> {
    Json(status::of(&sources.overview, SystemTime::now()))
}

pub(super) async fn rollout_status(State(sources): Shared, Name(name): Name) -> Result<Response, Problem> {
    let snapshot = sources.overview.snapshot.load();
    let rollout = snapshot.rollout(&name).ok_or_else(|| no_such_rollout(&sources.overview, &name))?;
    let status = status::of_rollout(&sources.overview, &snapshot, rollout, SystemTime::now());
    Ok((with_etag(&status.etag), Json(status)).into_response())
}

pub(super) async fn guard(State(sources): Shared, Name(name): Name) -> Result<Json<GuardReport>, Problem> {
    let snapshot = sources.overview.snapshot.load();
    let rollout = snapshot.rollout(&name).ok_or_else(|| no_such_rollout(&sources.overview, &name))?;
    Ok(Json(status::guard_report(&sources.overview, rollout)))
}

pub(super) async fn config(State(sources): Shared) -> Json<ShownConfig> {
    let snapshot = sources.overview.snapshot.load();
    Json(ShownConfig {
        path: sources.overview.config_path.display().to_string(),
        hash: snapshot.config_hash.clone(),
        config: serde_json::Value::clone(&snapshot.written),
    })
}

pub(super) async fn openapi() -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], include_str!("openapi.json"))
}

// -- the audit log

/// Entries that are told unless somebody says how many.
const LATEST: usize = 100;

pub(super) async fn audit(State(sources): Shared, uri: Uri) -> Result<Json<AuditPage>, Problem> {
    let (after, limit) = page(uri.query().unwrap_or_default())?;
    let newest = sources.overview.journal.head().seq;
    let limit = limit.unwrap_or(LATEST);
    let after = after.unwrap_or_else(|| newest.saturating_sub(limit as u64));
    let entries = entries(&sources, after, limit).await?;
    let next = entries.last().map_or(after, |entry| entry.seq);
    Ok(Json(AuditPage { entries, next }))
}

/// `after` and `limit`, as far as they are given.
fn page(query: &str) -> Result<(Option<u64>, Option<usize>), Problem> {
    let (mut after, mut limit) = (None, None);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=').unwrap_or((pair, "")) {
            ("after", number) => {
                let wrong = |_| Problem::senseless("`after` has to be the number of an entry, 0 or more.");
                after = Some(number.parse().map_err(wrong)?);
            }
            ("limit", number) => {
                let fits = |limit: &usize| (1..=PAGE).contains(limit);
                let wrong = || Problem::senseless(format!("`limit` has to be 1 to {PAGE}."));
                limit = Some(number.parse().ok().filter(fits).ok_or_else(wrong)?);
            }
            (other, _) => {
                let detail = format!("There is no parameter `{}`. There is: after, limit.", shortened(other));
                return Err(Problem::senseless(detail).knowing(&["after", "limit"]));
            }
        }
    }
    Ok((after, limit))
}

// -- what is not there

async fn unknown_path(uri: Uri) -> Problem {
    let paths = paths();
    for (kind, prefix) in [("rollout", "/api/v1/rollouts/"), ("route", "/api/v1/routes/")] {
        if let Some((_, verb)) = uri.path().strip_prefix(prefix).and_then(|rest| rest.split_once('/')) {
            let verbs: Vec<&str> =
                paths.iter().filter_map(|path| path.strip_prefix(prefix)?.strip_prefix("{name}/")).collect();
            let detail = unknown(&format!("verb for a {kind} called"), verb, &verbs, "there are none");
            return Problem::new(StatusCode::NOT_FOUND, detail).knowing(&verbs);
        }
    }
    let told = shortened(uri.path());
    Problem::new(
        StatusCode::NOT_FOUND,
        match nearest(uri.path(), &paths) {
            Some(nearest) => format!("There is nothing at `{told}`. Did you mean `{nearest}`?"),
            None => format!("There is nothing at `{told}`. What there is stands in /api/v1/openapi.json."),
        },
    )
}

async fn wrong_method(method: Method) -> Problem {
    let method = shortened(method.as_str());
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("`{method}` cannot be used here; what can stands in the header `allow`."),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_asked_for_by_number() {
        for (query, meant) in [
            ("", Some((None, None))),
            ("after=17", Some((Some(17), None))),
            ("limit=1000&after=0", Some((Some(0), Some(1000)))),
            ("limit=1001", None),
            ("limit=0", None),
            ("after=-1", None),
            ("after=", None),
            ("since=1", None),
        ] {
            assert_eq!(page(query).ok(), meant, "{query}");
        }
    }
}
