//! The paths of the admin side and what they answer.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router, middleware};
use http::header::CONTENT_TYPE;
use http::{Method, StatusCode, Uri};
use serde::Serialize;

use super::origin::{Door, screen};
use super::problem::Problem;
use super::status::{self, Phase, RolloutStatus, Status, VERSION};
use crate::control::overview::Overview;
use crate::metrics::{self, ConfigGauges, RolloutGauges, Scrape, process};

/// What the answers are made of.
#[derive(Debug)]
struct Sources {
    overview: Arc<Overview>,
    process: process::Reader,
}

type Shared = State<Arc<Sources>>;

/// Everything that can be asked for through `door`.
pub(super) fn router(overview: Arc<Overview>, door: Door) -> Router {
    let sources = Sources { overview, process: process::Reader::default() };
    Router::new()
        .route("/livez", get(live))
        .route("/readyz", get(ready))
        .route("/version", get(version))
        .route("/metrics", get(scrape))
        .route("/api/v1/status", get(whole_status))
        .route("/api/v1/rollouts/{name}", get(rollout_status))
        .method_not_allowed_fallback(wrong_method)
        .fallback(unknown_path)
        .layer(middleware::from_fn_with_state(door, screen))
        .with_state(Arc::new(sources))
}

/// The process answers, so it lives.
async fn live() -> &'static str {
    "ok\n"
}

async fn ready(State(sources): Shared) -> Response {
    match Phase::of(&sources.overview) {
        Phase::Running => "ready\n".into_response(),
        phase => Problem::new(StatusCode::SERVICE_UNAVAILABLE, phase.explanation()).into_response(),
    }
}

#[derive(Serialize)]
struct Version {
    name: &'static str,
    version: &'static str,
}

async fn version() -> Json<Version> {
    Json(Version { name: "tidegate", version: VERSION })
}

async fn scrape(State(sources): Shared) -> impl IntoResponse {
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
    metrics::render(&Scrape {
        registry: &overview.registry,
        rollouts: rollouts.collect(),
        config: ConfigGauges {
            hash: &snapshot.config_hash,
            reloads: reload.attempts,
            successful: reload.successful,
            succeeded_at: reload.succeeded_at,
        },
        process: sources.process.process(Instant::now()),
        version: VERSION,
    })
}

async fn whole_status(State(sources): Shared) -> Json<Status> {
    Json(status::of(&sources.overview, SystemTime::now()))
}

async fn rollout_status(State(sources): Shared, Path(name): Path<String>) -> Result<Json<RolloutStatus>, Problem> {
    let snapshot = sources.overview.snapshot.load();
    match snapshot.rollout(&name) {
        Some(rollout) => Ok(Json(status::of_rollout(&sources.overview, &snapshot, rollout, SystemTime::now()))),
        None => {
            let known: Vec<&str> = snapshot.rollouts.iter().map(|rollout| rollout.name.as_str()).collect();
            Err(Problem::unknown_rollout(&name, &known))
        }
    }
}

async fn unknown_path(uri: Uri) -> Problem {
    let path: String = uri.path().chars().take(100).collect();
    Problem::new(StatusCode::NOT_FOUND, format!("There is nothing at `{path}`."))
}

async fn wrong_method(method: Method) -> Problem {
    let method: String = method.as_str().chars().take(20).collect();
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("`{method}` cannot be used here: this can only be read, by GET."),
    )
}
