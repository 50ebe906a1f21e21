//! All that can be asked of the admin side, in one table: the router is made of it, and so is the OpenAPI document.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::routing::{MethodRouter, delete, get, post, put};
use schemars::{Schema, SchemaGenerator};

use super::answer::{AuditPage, Changed, Reloaded, ShownConfig, Version};
use super::api::{self, Sources};
use super::change::{everything, reload, rollout, route};
use super::events::events;
use super::status::{RolloutStatus, Status};
use super::wish::{
    Continue, Drain, DrainBody, Hold, HoldBody, Maintenance, MaintenanceBody, Pause, PercentBody, Promote, PromoteBody,
    ReasonBody, Resume, ResumeAll, ResumeBody, Rollback, Set, Switch, SwitchBody, Unset,
};

/// Something that can be asked.
#[derive(Debug)]
pub(super) struct Operation {
    pub(super) method: &'static str,
    /// As in OpenAPI and in the router: `{name}` stands for a name.
    pub(super) path: &'static str,
    /// Its name in clients made from the OpenAPI document.
    pub(super) id: &'static str,
    /// What it does, in a sentence.
    pub(super) about: &'static str,
    /// The body that it takes.
    #[cfg_attr(not(test), expect(dead_code, reason = "read where the OpenAPI document is compared with it"))]
    pub(super) takes: Option<Shape>,
    /// What it answers when all is well.
    #[cfg_attr(not(test), expect(dead_code, reason = "read where the OpenAPI document is compared with it"))]
    pub(super) gives: Gives,
    route: fn() -> MethodRouter<Arc<Sources>, Infallible>,
}

/// A type, for the OpenAPI document.
pub(super) type Shape = fn(&mut SchemaGenerator) -> Schema;

/// What an operation answers when all is well.
#[derive(Debug)]
pub(super) enum Gives {
    /// JSON of this type.
    Json(Shape),
    /// JSON that has no type of ours.
    AnyJson,
    /// Something else, of this content type.
    Other(&'static str),
}

/// A row of the table.
macro_rules! operation {
    ($method:literal $path:literal $id:literal, $about:literal, $($takes:ident)? => $gives:expr, $route:expr) => {
        Operation {
            method: $method,
            path: $path,
            id: $id,
            about: $about,
            takes: operation!(@takes $($takes)?),
            gives: $gives,
            route: || $route,
        }
    };
    (@takes) => { None };
    (@takes $takes:ident) => { Some(|generator| generator.subschema_for::<$takes>()) };
}

const CHANGED: Gives = Gives::Json(|generator| generator.subschema_for::<Changed>());
const TEXT: Gives = Gives::Other("text/plain");

/// The table.
pub(super) const OPERATIONS: &[Operation] = &[
    operation!("GET" "/livez" "live", "Whether the process answers", => TEXT, get(api::live)),
    operation!("GET" "/readyz" "ready", "Whether new clients should come", => TEXT, get(api::ready)),
    operation!("GET" "/version" "version", "The program's name and version",
        => Gives::Json(|generator| generator.subschema_for::<Version>()), get(api::version)),
    operation!("GET" "/metrics" "metrics", "What happened, for Prometheus", => TEXT, get(api::scrape)),
    operation!("GET" "/api/v1/status" "status", "The whole process",
        => Gives::Json(|generator| generator.subschema_for::<Status>()), get(api::whole_status)),
    operation!("GET" "/api/v1/config" "config", "The config in force, without secrets",
        => Gives::Json(|generator| generator.subschema_for::<ShownConfig>()), get(api::config)),
    operation!("GET" "/api/v1/audit" "audit", "Who changed what, when and why",
        => Gives::Json(|generator| generator.subschema_for::<AuditPage>()), get(api::audit)),
    operation!("GET" "/api/v1/events" "events", "Changes as they happen, and a status once a second",
        => Gives::Other("text/event-stream"), get(events)),
    operation!("GET" "/api/v1/openapi.json" "openapi", "This document", => Gives::AnyJson, get(api::openapi)),
    operation!("GET" "/api/v1/rollouts/{name}" "rollout", "One rollout",
        => Gives::Json(|generator| generator.subschema_for::<RolloutStatus>()), get(api::rollout_status)),
    operation!("PUT" "/api/v1/rollouts/{name}/percent" "setPercent", "Puts a percent over the configured one",
        PercentBody => CHANGED, put(rollout::<Set>)),
    operation!("DELETE" "/api/v1/rollouts/{name}/percent" "unsetPercent", "Takes it away again",
        ReasonBody => CHANGED, delete(rollout::<Unset>)),
    operation!("POST" "/api/v1/rollouts/{name}/rollback" "rollback", "Everybody to old until somebody resumes",
        ReasonBody => CHANGED, post(rollout::<Rollback>)),
    operation!("POST" "/api/v1/rollouts/{name}/resume" "resume", "Lifts the rollback",
        ResumeBody => CHANGED, post(rollout::<Resume>)),
    operation!("POST" "/api/v1/rollouts/{name}/promote" "promote", "Raises to the next step, or to 100 %",
        PromoteBody => CHANGED, post(rollout::<Promote>)),
    operation!("POST" "/api/v1/rollouts/{name}/pause" "pause", "Stops the steps where they stand",
        ReasonBody => CHANGED, post(rollout::<Pause>)),
    operation!("POST" "/api/v1/rollouts/{name}/continue" "continue", "Lets the steps go on",
        ReasonBody => CHANGED, post(rollout::<Continue>)),
    operation!("POST" "/api/v1/rollouts/{name}/switch" "switch", "Turns to the other colour",
        SwitchBody => CHANGED, post(rollout::<Switch>)),
    operation!("POST" "/api/v1/rollouts/{name}/maintenance" "maintainRollout", "Turns a rollout's public away, or not any more",
        MaintenanceBody => CHANGED, post(rollout::<Maintenance>)),
    operation!("POST" "/api/v1/rollouts/{name}/hold" "holdRollout", "Makes a rollout's requests wait, or not any more",
        HoldBody => CHANGED, post(rollout::<Hold>)),
    operation!("POST" "/api/v1/rollouts/{name}/drain" "drain", "Empties a side, or lets it work again",
        DrainBody => CHANGED, post(rollout::<Drain>)),
    operation!("POST" "/api/v1/routes/{name}/maintenance" "maintainRoute", "Turns a route's public away, or not any more",
        MaintenanceBody => CHANGED, post(route::<Maintenance>)),
    operation!("POST" "/api/v1/routes/{name}/hold" "holdRoute", "Makes a route's requests wait, or not any more",
        HoldBody => CHANGED, post(route::<Hold>)),
    operation!("POST" "/api/v1/rollback" "rollbackAll", "Every rollout to old until somebody resumes",
        ReasonBody => CHANGED, post(everything::<Rollback>)),
    operation!("POST" "/api/v1/resume" "resumeAll", "Lifts the rollbacks of all rollouts",
        ReasonBody => CHANGED, post(everything::<ResumeAll>)),
    operation!("POST" "/api/v1/maintenance" "maintainAll", "Turns everybody away, or not any more",
        MaintenanceBody => CHANGED, post(everything::<Maintenance>)),
    operation!("POST" "/api/v1/hold" "holdAll", "Makes all requests wait, or not any more",
        HoldBody => CHANGED, post(everything::<Hold>)),
    operation!("POST" "/api/v1/reload" "reload", "Reads the config and the files that it names again",
        ReasonBody => Gives::Json(|generator| generator.subschema_for::<Reloaded>()), post(reload)),
];

/// A router over the table.
pub(super) fn routes() -> Router<Arc<Sources>> {
    OPERATIONS.iter().fold(Router::new(), |router, operation| router.route(operation.path, (operation.route)()))
}

/// The paths, each once, in the order of the table.
pub(super) fn paths() -> Vec<&'static str> {
    let mut paths: Vec<&str> = OPERATIONS.iter().map(|operation| operation.path).collect();
    paths.dedup();
    paths
}
