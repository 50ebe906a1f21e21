//! All that can be asked of the admin side, in one table: the router is made of it, and so is the OpenAPI document.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::routing::{MethodFilter, MethodRouter, on};
use http::Method;
use schemars::{Schema, SchemaGenerator};

use super::answer::{AuditPage, Changed, Reloaded, ShownConfig, Version};
use super::api::{self, Sources};
use super::change::{everything, reload, rollout, route};
use super::events::events;
use super::status::{GuardReport, RolloutStatus, Status};
use super::wish::{
    Continue, Drain, DrainBody, Hold, HoldBody, Maintenance, MaintenanceBody, Pause, PercentBody, Promote, PromoteBody,
    ReasonBody, Resume, ResumeAll, ResumeBody, Rollback, Set, Switch, SwitchBody, Unset,
};

/// Something that can be asked.
#[derive(Debug)]
pub(super) struct Operation {
    pub(super) method: Method,
    /// As in OpenAPI and in the router: `{name}` stands for a name.
    pub(super) path: &'static str,
    #[cfg_attr(not(test), expect(dead_code, reason = "read where the OpenAPI document is held to it"))]
    pub(super) told: Told,
    route: fn(MethodFilter) -> MethodRouter<Arc<Sources>, Infallible>,
}

/// What the OpenAPI document says of an operation.
#[derive(Debug)]
#[cfg_attr(not(test), expect(dead_code, reason = "read where the OpenAPI document is held to it"))]
pub(super) struct Told {
    /// Its name in clients made from the document.
    pub(super) id: &'static str,
    /// What it does, in a sentence.
    pub(super) about: &'static str,
    /// The body that it takes.
    pub(super) takes: Option<Shape>,
    /// What it answers when all is well.
    pub(super) gives: Gives,
}

/// A type, for the OpenAPI document.
pub(super) type Shape = fn(&mut SchemaGenerator) -> Schema;

/// What an operation answers when all is well.
#[derive(Debug)]
#[cfg_attr(not(test), expect(dead_code, reason = "read where the OpenAPI document is held to it"))]
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
    ($method:ident $path:literal $handler:expr, $id:literal, $about:literal, $($takes:ident)? => $gives:expr) => {
        Operation {
            method: Method::$method,
            path: $path,
            told: Told { id: $id, about: $about, takes: operation!(@takes $($takes)?), gives: $gives },
            route: |method| on(method, $handler),
        }
    };
    (@takes) => { None };
    (@takes $takes:ident) => { Some(|generator| generator.subschema_for::<$takes>()) };
}

/// Answers of the type `$type`.
macro_rules! json {
    ($type:ident) => {
        Gives::Json(|generator| generator.subschema_for::<$type>())
    };
}

const CHANGED: Gives = json!(Changed);
const TEXT: Gives = Gives::Other("text/plain");

/// The table.
pub(super) const OPERATIONS: &[Operation] = &[
    operation!(GET "/livez" api::live, "live",
        "Whether the process answers", => TEXT),
    operation!(GET "/readyz" api::ready, "ready",
        "Whether new clients should come", => TEXT),
    operation!(GET "/version" api::version, "version",
        "The program's name and version", => json!(Version)),
    operation!(GET "/metrics" api::scrape, "metrics",
        "What happened, for Prometheus", => TEXT),
    operation!(GET "/api/v1/status" api::whole_status, "status",
        "The whole process", => json!(Status)),
    operation!(GET "/api/v1/config" api::config, "config",
        "The config in force, without secrets", => json!(ShownConfig)),
    operation!(GET "/api/v1/audit" api::audit, "audit",
        "Who changed what, when and why", => json!(AuditPage)),
    operation!(GET "/api/v1/events" events, "events",
        "Changes as they happen, and a status once a second", => Gives::Other("text/event-stream")),
    operation!(GET "/api/v1/openapi.json" api::openapi, "openapi",
        "This document", => Gives::AnyJson),
    operation!(GET "/api/v1/rollouts/{name}" api::rollout_status, "rollout",
        "One rollout", => json!(RolloutStatus)),
    operation!(GET "/api/v1/rollouts/{name}/guard" api::guard, "guard",
        "What the guard of a rollout knows of NEW, and what it would take to trip it", => json!(GuardReport)),
    operation!(PUT "/api/v1/rollouts/{name}/percent" rollout::<Set>, "setPercent",
        "Puts a percent over the configured one", PercentBody => CHANGED),
    operation!(DELETE "/api/v1/rollouts/{name}/percent" rollout::<Unset>, "unsetPercent",
        "Takes it away again", ReasonBody => CHANGED),
    operation!(POST "/api/v1/rollouts/{name}/rollback" rollout::<Rollback>, "rollback",
        "Everybody to old until somebody resumes", ReasonBody => CHANGED),
    operation!(POST "/api/v1/rollouts/{name}/resume" rollout::<Resume>, "resume",
        "Lifts the rollback", ResumeBody => CHANGED),
    operation!(POST "/api/v1/rollouts/{name}/promote" rollout::<Promote>, "promote",
        "Raises to the next step, or to 100 %", PromoteBody => CHANGED),
    operation!(POST "/api/v1/rollouts/{name}/pause" rollout::<Pause>, "pause",
        "Stops the steps where they stand", ReasonBody => CHANGED),
    operation!(POST "/api/v1/rollouts/{name}/continue" rollout::<Continue>, "continue",
        "Lets the steps go on", ReasonBody => CHANGED),
    operation!(POST "/api/v1/rollouts/{name}/switch" rollout::<Switch>, "switch",
        "Turns to the other colour", SwitchBody => CHANGED),
    operation!(POST "/api/v1/rollouts/{name}/maintenance" rollout::<Maintenance>, "maintainRollout",
        "Turns a rollout's public away, or not any more", MaintenanceBody => CHANGED),
    operation!(POST "/api/v1/rollouts/{name}/hold" rollout::<Hold>, "holdRollout",
        "Makes a rollout's requests wait, or not any more", HoldBody => CHANGED),
    operation!(POST "/api/v1/rollouts/{name}/drain" rollout::<Drain>, "drain",
        "Empties a side, or lets it work again", DrainBody => CHANGED),
    operation!(POST "/api/v1/routes/{name}/maintenance" route::<Maintenance>, "maintainRoute",
        "Turns a route's public away, or not any more", MaintenanceBody => CHANGED),
    operation!(POST "/api/v1/routes/{name}/hold" route::<Hold>, "holdRoute",
        "Makes a route's requests wait, or not any more", HoldBody => CHANGED),
    operation!(POST "/api/v1/rollback" everything::<Rollback>, "rollbackAll",
        "Every rollout to old until somebody resumes", ReasonBody => CHANGED),
    operation!(POST "/api/v1/resume" everything::<ResumeAll>, "resumeAll",
        "Lifts the rollbacks of all rollouts", ReasonBody => CHANGED),
    operation!(POST "/api/v1/maintenance" everything::<Maintenance>, "maintainAll",
        "Turns everybody away, or not any more", MaintenanceBody => CHANGED),
    operation!(POST "/api/v1/hold" everything::<Hold>, "holdAll",
        "Makes all requests wait, or not any more", HoldBody => CHANGED),
    operation!(POST "/api/v1/reload" reload, "reload",
        "Reads the config and the files that it names again", ReasonBody => json!(Reloaded)),
];

/// A router over the table.
pub(super) fn routes() -> Router<Arc<Sources>> {
    OPERATIONS.iter().fold(Router::new(), |router, operation| {
        let method = MethodFilter::try_from(operation.method.clone()).expect("a method of RFC 9110");
        router.route(operation.path, (operation.route)(method))
    })
}

/// The paths, each once, in the order of the table.
pub(super) fn paths() -> Vec<&'static str> {
    let mut paths: Vec<&str> = OPERATIONS.iter().map(|operation| operation.path).collect();
    paths.dedup();
    paths
}
