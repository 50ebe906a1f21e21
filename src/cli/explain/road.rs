//! The road of one request, as a value.

use std::path::PathBuf;
use std::time::SystemTime;

use http::HeaderValue;
use http::header::HOST;
use serde::Serialize;

use super::Request;
use crate::cli::output::harmless;
use crate::config::Config;
use crate::metrics::Registry;
use crate::policy::bucket::{Bucket, Hash, Percent};
use crate::policy::decision::{Decision, Fallback, OnMissing, Reason, Side, Subject as _, decide, fall_back, road};
use crate::policy::path::normalise;
use crate::policy::rollout::{Event, Moment, Plan, State, Strategy, step};
use crate::policy::route::{Host, Match};
use crate::proxy::peer::Peer;
use crate::proxy::route;
use crate::proxy::subject::{self, Head, RolloutSubject, StandIn, bare_host, client_behind};
use crate::snapshot::{Destination, KeySource, Overlay, Rollout, Snapshot};

/// Where a request would go, and every step of the way.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Explanation {
    /// `GET /pay`
    pub(super) request: String,
    /// The host by which it is routed.
    pub(super) host: String,
    /// The client's address, behind trusted proxies.
    pub(super) client: String,
    /// The route that covers it.
    pub(super) route: Option<RouteStep>,
    /// What a rollout made of it; null without a rollout.
    pub(super) rollout: Option<RolloutSteps>,
    /// Who answers; null if the request would be refused.
    pub(super) backend: Option<BackendStep>,
    /// What else takes part.
    pub(super) notes: Vec<String>,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct RouteStep {
    /// Its place in `routes`, from 0.
    pub(super) index: usize,
    /// What it asks for.
    pub(super) wanted: String,
    /// `rollout ledger` or `backend ledger-v2`
    pub(super) to: String,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct RolloutSteps {
    pub(super) name: String,
    pub(super) percent: f64,
    pub(super) key: Option<KeyStep>,
    pub(super) bucket: Option<BucketStep>,
    pub(super) gates: Vec<GateStep>,
    pub(super) side: &'static str,
    pub(super) reason: &'static str,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct KeyStep {
    pub(super) value: String,
    /// Where it was found.
    pub(super) source: String,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct BucketStep {
    /// 0 to 9999.
    pub(super) number: u16,
    /// How it was computed.
    pub(super) how: String,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct GateStep {
    pub(super) gate: &'static str,
    /// The side it would choose; null if it does not answer.
    pub(super) says: Option<&'static str>,
    /// Why.
    pub(super) because: String,
    /// Whether it is the first that answers.
    pub(super) decides: bool,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct BackendStep {
    pub(super) name: String,
    pub(super) endpoints: Vec<String>,
}

/// Explains `request` under `config`, with every rollout at `percent` if one is given.
pub(super) fn explain(mut config: Config, request: &Request, percent: Option<Percent>) -> Explanation {
    if let Some(percent) = percent {
        config.rollouts.values_mut().for_each(|rollout| rollout.strategy = Strategy::Percent(percent));
    }
    let snapshot = Snapshot::build(&config, 1, SystemTime::now(), &Registry::new(1), &as_first_seen(&config));
    let peer = Peer::between((request.peer, 0).into(), (request.peer, 0).into());
    let client = client_behind(&snapshot.trusted_proxies, &peer, &request.headers);
    let head = Head { method: &request.method, uri: &request.uri, headers: &request.headers, client };
    let host = request.headers.get(HOST).map(HeaderValue::as_bytes).map(String::from_utf8_lossy).unwrap_or_default();
    let mut explanation = Explanation {
        request: format!("{} {}", request.method, request.uri),
        host: harmless(&bare_host(&host)),
        client: client.map(|client| client.to_string()).unwrap_or_default(),
        route: None,
        rollout: None,
        backend: None,
        notes: Vec::new(),
    };
    match find_route(&snapshot, head) {
        Err(refusal) => explanation.notes.push(refusal),
        Ok((at, destination)) => {
            explanation.route = Some(route_step(&config, &snapshot, at, destination));
            follow(&mut explanation, &config, &snapshot, &head, destination);
        }
    }
    explanation
}

/// What the config alone puts in force: its rollouts as they are when they are seen for the first time.
fn as_first_seen(config: &Config) -> Overlay {
    let moment = Moment { now: SystemTime::now(), frozen: false };
    let first = |name: &str, plan: &Plan| {
        let seen = step(name, plan, &State::default(), Event::Configured, moment);
        seen.map(|transition| transition.state).unwrap_or_default() // a config is never refused
    };
    let rollouts = config.rollouts.iter();
    let states = rollouts.map(|(name, rollout)| (name.clone(), first(name, &rollout.plan(config.rollback))));
    Overlay { rollouts: states.collect(), ..Overlay::default() }
}

/// The route, as the proxy finds it, or why there is none.
fn find_route(snapshot: &Snapshot, head: Head<'_>) -> Result<(usize, Destination), String> {
    match route::find(&snapshot.routes, head) {
        Ok(Some(found)) => Ok(found),
        Ok(None) => Err("refused with 404: no route covers this request".to_owned()),
        Err(route::Ambiguous) => {
            let meant = normalise(head.uri.path());
            Err(format!("refused with 400: to a backend the path may mean {meant}, which another route covers"))
        }
    }
}

fn route_step(config: &Config, snapshot: &Snapshot, at: usize, destination: Destination) -> RouteStep {
    let to = match destination {
        Destination::Rollout(at) => format!("rollout {}", snapshot.rollouts[at].name),
        Destination::Backend(at) => format!("backend {}", snapshot.backends[at].name),
    };
    RouteStep { index: at, wanted: in_words(&config.routes[at].wanted), to }
}

/// What a route asks for.
fn in_words(wanted: &Match) -> String {
    let mut parts = Vec::new();
    match &wanted.host {
        Some(Host::Exact(host)) => parts.push(format!("host {host}")),
        Some(Host::Below(suffix)) => parts.push(format!("host *{suffix}")),
        None => {}
    }
    parts.extend(wanted.path.as_ref().map(|path| format!("path {path}")));
    if !wanted.methods.is_empty() {
        parts.push(format!("method {}", wanted.methods.join(" or ")));
    }
    parts.extend(wanted.headers.iter().map(|(name, value)| match value {
        Some(value) => format!("header {name}: {value}"),
        None => format!("header {name}"),
    }));
    if parts.is_empty() { "everything".to_owned() } else { parts.join(", ") }
}

fn follow(
    explanation: &mut Explanation,
    config: &Config,
    snapshot: &Snapshot,
    head: &Head<'_>,
    destination: Destination,
) {
    let backend = match destination {
        Destination::Backend(at) => at,
        Destination::Rollout(at) => {
            let rollout = &snapshot.rollouts[at];
            let subject = match RolloutSubject::new(head, rollout) {
                Ok(subject) => subject,
                Err(subject::Conflict) => {
                    explanation.notes.push("refused with 400: the header that holds the key has two values".to_owned());
                    return;
                }
            };
            let decision = decide(&rollout.split, &subject);
            explanation.rollout = Some(rollout_steps(rollout, head, &subject));
            explanation.notes.extend(flag_file_note(config));
            explanation.notes.extend(guard_note(rollout, decision.side));
            explanation.notes.extend(fallback_note(rollout, decision));
            explanation.notes.extend(stand_in_note(decision.reason, &subject.into_stand_in()));
            rollout.backend(decision.side)
        }
    };
    explanation.backend = Some(backend_step(config, &snapshot.backends[backend].name));
}

fn backend_step(config: &Config, name: &str) -> BackendStep {
    let endpoints = config.backends[name].endpoints.iter().map(ToString::to_string);
    BackendStep { name: name.to_owned(), endpoints: endpoints.collect() }
}

fn rollout_steps(rollout: &Rollout, head: &Head<'_>, subject: &RolloutSubject<'_>) -> RolloutSteps {
    let decision = decide(&rollout.split, subject);
    let bucket = subject.key().map(|key| Bucket::of_key(key, rollout.split.hash, || subject.digest(key)));
    RolloutSteps {
        name: rollout.name.clone(),
        percent: rollout.split.percent.as_f64(),
        key: key_step(rollout, head),
        bucket: subject.key().zip(bucket).map(|(key, bucket)| bucket_step(rollout, key, bucket)),
        gates: gates(rollout, subject, bucket, decision.reason),
        side: decision.side.as_str(),
        reason: decision.reason.as_str(),
    }
}

fn key_step(rollout: &Rollout, head: &Head<'_>) -> Option<KeyStep> {
    rollout.key.iter().find_map(|source| {
        let key = subject::key(head, std::slice::from_ref(source)).ok().flatten()?;
        Some(KeyStep { value: harmless(&String::from_utf8_lossy(&key)), source: place(source) })
    })
}

/// Where a key stands, in words.
fn place(source: &KeySource) -> String {
    match source {
        KeySource::Header(name) => format!("header {name}"),
        KeySource::Cookie(name) => format!("cookie {name}"),
        KeySource::Query(name) => format!("query parameter {name}"),
        KeySource::Path(at) => format!("path segment {}", at + 1),
        KeySource::Jwt(claim) => format!("claim {claim} of the bearer token"),
        KeySource::ClientIp => "the client's address".to_owned(),
    }
}

fn bucket_step(rollout: &Rollout, key: &[u8], bucket: Bucket) -> BucketStep {
    let number = bucket.get();
    let is_decimal = rollout.split.hash == Hash::Modulo && Bucket::of_decimal(key).is_some();
    let how = if is_decimal {
        format!("modulo: last two digits {:02}, the two before {:02}", number / 100, number % 100)
    } else {
        let salt = String::from_utf8_lossy(&rollout.salt);
        let why = if rollout.split.hash == Hash::Modulo { " (no decimal number)" } else { "" };
        format!("xxh3 of the key{why}, salted with `{}`", harmless(salt.trim_end_matches('\x1f')))
    };
    BucketStep { number, how }
}

fn gates(rollout: &Rollout, subject: &RolloutSubject<'_>, bucket: Option<Bucket>, decider: Reason) -> Vec<GateStep> {
    let has_key = bucket.is_some();
    let step = |(reason, says): (Reason, Option<Side>)| {
        // Without a missing key the last gate is not asked; what it would say means nothing.
        let says = says.filter(|_| reason != Reason::MissingKey || !has_key);
        let because = because(rollout, reason, says, bucket);
        GateStep { gate: reason.as_str(), says: says.map(Side::as_str), because, decides: reason == decider }
    };
    road(&rollout.split, subject).into_iter().map(step).collect()
}

fn because(rollout: &Rollout, gate: Reason, says: Option<Side>, bucket: Option<Bucket>) -> String {
    match (gate, says) {
        (Reason::Rollback, Some(_)) => {
            let reasons: Vec<&str> = rollout.state.latches.iter().map(|latch| latch.reason.as_str()).collect();
            reasons.join(", and ")
        }
        (Reason::Rollback, None) => "not rolled back".to_owned(),
        (Reason::Drain, Some(_)) => "the other side is being drained".to_owned(),
        (Reason::Drain, None) => "no side is being drained".to_owned(),
        (Reason::Force, Some(_)) => "a tester who is allowed to asks for it".to_owned(),
        (Reason::Force, None) => "no force value from a tester who is allowed to".to_owned(),
        (Reason::Rule, Some(_)) => "a rule names this key".to_owned(),
        (Reason::Rule, None) => "no rule names this key".to_owned(),
        (Reason::Bucket, _) => against_the_line(rollout, bucket),
        (Reason::MissingKey, Some(_)) => format!("on_missing: {}", rollout.split.on_missing.as_str()),
        (Reason::MissingKey, None) => "there is a key".to_owned(),
        (Reason::Fallback, _) => String::new(), // no gate of the road
    }
}

/// The bucket against the effective percent.
fn against_the_line(rollout: &Rollout, bucket: Option<Bucket>) -> String {
    let percent = rollout.split.percent;
    match bucket {
        None => "there is no key".to_owned(),
        Some(bucket) => {
            let sign = if percent.covers(bucket) { "below" } else { "not below" };
            format!("{} is {sign} {} ({percent})", bucket.get(), percent.hundredths())
        }
    }
}

// -- what else takes part

/// The explanation reads the config only; the flag file acts on a running process.
fn flag_file_note(config: &Config) -> Option<String> {
    let file: PathBuf = config.state_dir.as_ref()?.join("ROLLBACK");
    Some(match file.exists() {
        true => format!("{} is there: a running tidegate reads it too, and may be rolled back by it", file.display()),
        false => format!("a file {} would roll back, too; there is none now", file.display()),
    })
}

/// The guard, too, acts on a running process only.
fn guard_note(rollout: &Rollout, side: Side) -> Option<String> {
    let is_watched = rollout.plan.guard.is_some() && side == Side::New;
    is_watched.then(|| format!("a running guard may have taken new away: tidegate guard {}", rollout.name))
}

/// Which endpoints are fit is known to a running process only.
fn fallback_note(rollout: &Rollout, decision: Decision) -> Option<String> {
    let stands_in = fall_back(&rollout.split, decision).filter(|_| rollout.fallback == Fallback::OtherSide)?;
    Some(format!(
        "while no endpoint of {} is fit, {} answers: fallback",
        decision.side.as_str(),
        stands_in.side.as_str()
    ))
}

fn stand_in_note(reason: Reason, stand_in: &StandIn) -> Option<String> {
    match stand_in {
        _ if reason != Reason::MissingKey => None,
        StandIn::Nothing => None,
        StandIn::Random(_) => Some(format!(
            "on_missing: {} draws a new bucket for each request, so the next one may go elsewhere",
            OnMissing::Random.as_str()
        )),
        StandIn::Anonymous { is_new: true, .. } => Some(format!(
            "a new anonymous id was drawn for this answer; a client keeps its own in the cookie {}",
            subject::ANONYMOUS_COOKIE
        )),
        StandIn::Anonymous { .. } => Some(format!("the bucket is that of the cookie {}", subject::ANONYMOUS_COOKIE)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use http::{HeaderMap, HeaderName, Method};
    use std::path::Path;

    const CONFIG: &str = "
listen: 127.0.0.1:8080
backends: {v2: {endpoints: [\"http://127.0.0.1:9001\"]}, v3: {endpoints: [\"http://[::1]:9002\"]}}
rollouts: {ledger: {old: v2, new: v3, key: [header:x-user-id, cookie:uid], percent: 5}}
routes:
  - {match: {host: pay.example.com, path: /pay/}, rollout: ledger}
  - {match: {path: /static}, backend: v2}
";

    fn explained(
        config: &str,
        path: &str,
        lines: &[(&'static str, &'static str)],
        percent: Option<f64>,
    ) -> Explanation {
        let config = config::parse(config.as_bytes(), Path::new("tidegate.yaml"), &|_| None).unwrap();
        let header = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        let headers: HeaderMap = lines.iter().map(header).collect();
        let peer = "192.0.2.7".parse().unwrap();
        let request = Request { method: Method::GET, uri: path.parse().unwrap(), headers, peer };
        explain(config, &request, percent.and_then(Percent::from_f64))
    }

    const PAY: (&str, &str) = ("host", "pay.example.com");

    #[test]
    fn the_whole_road_is_told() {
        let told = explained(CONFIG, "/pay/7", &[PAY, ("x-user-id", "1007")], Some(20.0));
        let route = told.route.unwrap();
        assert_eq!((route.index, route.wanted.as_str()), (0, "host pay.example.com, path /pay/"));
        let rollout = told.rollout.unwrap();
        assert_eq!(rollout.key.unwrap().source, "header x-user-id");
        let bucket = rollout.bucket.unwrap();
        assert_eq!((bucket.number, bucket.how.as_str()), (710, "modulo: last two digits 07, the two before 10"));
        assert_eq!((rollout.side, rollout.reason), ("new", "bucket"));
        let decider = rollout.gates.iter().find(|gate| gate.decides).unwrap();
        assert_eq!((decider.gate, decider.because.as_str()), ("bucket", "710 is below 2000 (20 %)"));
        assert_eq!(told.backend.unwrap().endpoints, ["http://[::1]:9002"]);
        assert_eq!(told.notes, ["a running guard may have taken new away: tidegate guard ledger"]);
    }

    #[test]
    fn the_configs_own_percent_and_flags_count() {
        let told = explained(CONFIG, "/pay/7", &[PAY, ("x-user-id", "1007")], None).rollout.unwrap();
        assert_eq!((told.side, told.reason), ("old", "bucket"));
        let flagged = format!("{CONFIG}rollback: true\nstate_dir: /nonexistent\n");
        let told = explained(&flagged, "/pay/7", &[PAY, ("x-user-id", "1")], None);
        assert_eq!(told.notes, ["a file /nonexistent/ROLLBACK would roll back, too; there is none now"]);
        let rollout = told.rollout.unwrap();
        assert_eq!((rollout.side, rollout.reason), ("old", "rollback"));
        let [rollback, .., bucket, _] = rollout.gates.as_slice() else { panic!("{:?}", rollout.gates) };
        assert_eq!(rollback.because, "rollback: true at the top of the config");
        assert_eq!((bucket.says, bucket.decides), (Some("new"), false), "what it would say otherwise");
    }

    #[test]
    fn who_would_stand_in_is_told() {
        let stands_in = CONFIG.replace("percent: 5", "percent: 5, fallback: other_side, guard: {enabled: false}");
        for (config, user, note) in [
            (stands_in.clone(), "1000", Some("while no endpoint of new is fit, old answers: fallback")),
            (stands_in.clone(), "1099", Some("while no endpoint of old is fit, new answers: fallback")),
            (stands_in + "rollback: true\n", "1099", None),
            (CONFIG.to_owned(), "1099", None),
        ] {
            let told = explained(&config, "/pay/7", &[PAY, ("x-user-id", user)], None);
            assert_eq!(told.notes.first().map(String::as_str), note, "{user}");
        }
    }

    #[test]
    fn a_missing_key_is_told() {
        let rollout = explained(CONFIG, "/pay/7", &[PAY], None).rollout.unwrap();
        assert!(rollout.key.is_none() && rollout.bucket.is_none());
        assert_eq!((rollout.side, rollout.reason), ("old", "missing_key"));
    }

    #[test]
    fn what_no_rollout_decides_is_told_too() {
        let direct = explained(CONFIG, "/static/x", &[], None);
        assert_eq!((direct.route.unwrap().to.as_str(), direct.backend.unwrap().name.as_str()), ("backend v2", "v2"));
        assert!(direct.rollout.is_none());
        let nowhere = explained(CONFIG, "/elsewhere", &[], None);
        assert!(nowhere.backend.is_none());
        assert_eq!(nowhere.notes, ["refused with 404: no route covers this request"]);
        let ambiguous = explained(CONFIG, "/static/..%2fx", &[], None);
        assert_eq!(
            ambiguous.notes,
            ["refused with 400: to a backend the path may mean /x, which another route covers"]
        );
    }
}
