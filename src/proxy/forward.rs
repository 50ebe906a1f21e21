//! A request from top to bottom: inspect, route, decide, rewrite, send, rewrite the answer, stream it.

use std::convert::Infallible;
use std::rc::Rc;

use http::header::{CONNECTION, CONTENT_LENGTH, HOST, SET_COOKIE, TE};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, Version};
use hyper::body::Body as _;

use super::access_log::Entry;
use super::body::{RequestBody, ResponseBody};
use super::closed;
use super::exchange::{Client, Origin, Report};
use super::form::Form;
use super::headers::{self, Survey};
use super::inspect::inspect;
use super::notice::Notice;
use super::respond::Refusal;
use super::route;
use super::send::{Answer, Attempt, has_failed, send};
use super::shield::Shield;
use super::subject::{ANONYMOUS_COOKIE, Conflict, Head, RolloutSubject, StandIn};
use crate::metrics::{Class, Why};
use crate::policy::decision::{Decision, Fallback, Side, bucket_of, decide, fall_back};
use crate::snapshot::{Destination, KeySource, Rollout, Snapshot};
use crate::upstream::Incoming;

/// Answers one request, whatever happens.
pub(super) async fn handle(
    client: Rc<Client>,
    mut request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    let has_fragment = client.watch.request_begins();
    let is_http2 = request.version() == Version::HTTP_2;
    if is_http2 {
        headers::join_cookies(request.headers_mut());
    }
    let survey = headers::survey(request.headers());
    let view = client.worker.view();
    let mut report = Report::begin(client, view);
    Ok(match forward(request, survey, has_fragment, &mut report).await {
        Ok(Answer { response, link, .. }) => {
            let status = response.status().as_u16();
            report.answered(status);
            // A 304 may tell the length of what it does not send; hyper writes it only if it thinks that a body follows.
            let tells_length = status == 304 && !is_http2 && response.headers().contains_key(CONTENT_LENGTH);
            response.map(|incoming| {
                let body = ResponseBody::relayed(incoming, link, Class::of_status(status), report);
                if tells_length { body.with_unknown_length() } else { body }
            })
        }
        Err(Stopped::TurnedAway(notice)) => notice.answer(report),
        Err(Stopped::Refused(refusal)) => {
            // What follows a request to upgrade may be no request at all, whoever turns it down.
            let refusal = Refusal { close: refusal.close || survey.upgrade, ..refusal };
            refusal.answer(if survey.html { Form::Html } else { Form::Json }, report)
        }
    })
}

async fn forward(
    request: Request<Incoming>,
    survey: Survey,
    has_fragment: bool,
    report: &mut Report,
) -> Result<Answer, Stopped> {
    note_for_the_log(report, &request);
    let limits = &report.view.snapshot.limits;
    inspect(&request, survey, has_fragment, limits, |name| decides(&report.view.snapshot, name))?;
    let (mut parts, mut incoming) = request.into_parts();
    if !report.view.snapshot.is_open {
        // In a box: what a future may hold at some time it takes up at all times.
        Box::pin(closed::let_in(report, &parts, &mut incoming, survey)).await?;
    }
    let view = Rc::clone(&report.view);
    let snapshot = &*view.snapshot;
    let way = find_way(report, snapshot, &parts)?;
    let asked = Asked::in_head(&parts, survey);
    rewrite_request(&mut parts, survey, asked, &way, report);
    let (body, upload) = RequestBody::new(incoming, &report.client.watch, snapshot.limits.max_body, asked.is_grpc);
    headers::frame_request(&mut parts.headers, body.size_hint().exact(), survey.content_length, upload.is_some());
    let mut request = Request::from_parts(parts, body);
    let shield = way.decided.and_then(|decided| Shield::raise(report, decided, asked, &mut request, upload.as_ref()));
    let attempt = Attempt { view: &view, backend: way.backend, begun: report.started() };
    let mut tried = send(report, attempt, request, upload).await;
    if has_failed(&tried) {
        if let Some(shield) = shield {
            tried = Box::pin(shield.answer_instead(tried, report)).await;
        }
        report.tell_of_failure();
    }
    if let Ok(answer) = &mut tried {
        rewrite_response(answer, asked, way, report);
    }
    tried.map_err(|trouble| Stopped::Refused(trouble.into()))
}

/// Why tidegate answers itself.
#[derive(Debug)]
enum Stopped {
    /// Something is wrong with the request or its backend.
    Refused(Refusal),
    /// Something is closed.
    TurnedAway(Box<Notice>),
}

impl From<Refusal> for Stopped {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<Box<Notice>> for Stopped {
    fn from(notice: Box<Notice>) -> Self {
        Self::TurnedAway(notice)
    }
}

/// Whether the header `name` decides where a request goes, under any rollout.
fn decides(snapshot: &Snapshot, name: &str) -> bool {
    snapshot.rollouts.iter().flat_map(deciding_headers).any(|header| header == name)
}

fn deciding_headers(rollout: &Rollout) -> impl Iterator<Item = &str> {
    let keys = rollout.key.iter().filter_map(|source| match source {
        KeySource::Header(name) => Some(name.as_str()),
        _ => None,
    });
    keys.chain(rollout.force.header.as_deref())
}

fn note_for_the_log(report: &mut Report, request: &Request<Incoming>) {
    if report.client.worker.access_log().is_some() {
        let entry = Entry::new(report.client.origin.name(), request.method().as_str(), request.uri().path());
        report.log_as(Box::new(entry));
    }
}

/// What the client asked for that does not go on to the backend.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    /// It would have trailers.
    trailers: bool,
    /// It is a call of gRPC.
    is_grpc: bool,
    /// It would speak another protocol.
    pub(super) upgrade: bool,
    /// It named a host.
    pub(super) host: bool,
}

impl Asked {
    fn in_head(parts: &Parts, survey: Survey) -> Self {
        Self {
            trailers: survey.te && wants_trailers(&parts.headers),
            is_grpc: headers::is_grpc(&parts.headers),
            upgrade: survey.upgrade,
            host: survey.hosts > 0 || parts.uri.authority().is_some(),
        }
    }
}

fn wants_trailers(headers: &HeaderMap) -> bool {
    headers.get_all(TE).iter().any(|value| value.as_bytes().eq_ignore_ascii_case(b"trailers"))
}

// -- where it goes

/// Where a request goes, and what goes with it.
#[derive(Debug)]
struct Way {
    /// An index into the snapshot's backends.
    backend: usize,
    /// The rollout (an index) that decided, and what it decided.
    decided: Option<(usize, Decision)>,
    /// An anonymous user's new id.
    new_id: Option<String>,
}

fn find_way(report: &mut Report, snapshot: &Snapshot, parts: &Parts) -> Result<Way, Refusal> {
    let client = report.client.behind(snapshot, &parts.headers);
    let head = Head { method: &parts.method, uri: &parts.uri, headers: &parts.headers, client };
    let found = route::find(&snapshot.routes, head).map_err(|route::Ambiguous| {
        let detail = "The path can be read in two ways that lead to different routes.";
        Refusal::of_request(StatusCode::BAD_REQUEST, detail)
    })?;
    match found.map(|(_, destination)| destination) {
        None => {
            report.unsplit(Why::Unrouted);
            let detail = "No route covers this request.";
            Err(Refusal { close: false, ..Refusal::of_request(StatusCode::NOT_FOUND, detail) })
        }
        Some(Destination::Backend(backend)) => {
            report.unsplit(Why::Backend);
            Ok(Way { backend, decided: None, new_id: None })
        }
        Some(Destination::Rollout(at)) => through_rollout(report, snapshot, head, at),
    }
}

/// The way that the rollout `at` (an index) decides on.
fn through_rollout(report: &mut Report, snapshot: &Snapshot, head: Head<'_>, at: usize) -> Result<Way, Refusal> {
    let rollout = &snapshot.rollouts[at];
    let subject = RolloutSubject::new(&head, rollout).map_err(|Conflict| {
        let detail = "The header that says whose request this is has two values.";
        Refusal::of_request(StatusCode::BAD_REQUEST, detail)
    })?;
    let decision = or_fallback(snapshot, rollout, decide(&rollout.split, &subject));
    let bucket = if decision.side == Side::New { bucket_of(&rollout.split, &subject) } else { None };
    report.decided(at, decision, bucket);
    let new_id = match subject.into_stand_in() {
        StandIn::Anonymous { id, is_new: true } => Some(id),
        _ => None,
    };
    Ok(Way { backend: rollout.backend(decision.side), decided: Some((at, decision)), new_id })
}

/// The decision, or the one that stands in for it while no endpoint of its side is fit.
fn or_fallback(snapshot: &Snapshot, rollout: &Rollout, decision: Decision) -> Decision {
    let is_fit = |side| snapshot.backends[rollout.backend(side)].is_fit();
    if rollout.fallback == Fallback::None || is_fit(decision.side) {
        return decision;
    }
    fall_back(&rollout.split, decision).filter(|stand_in| is_fit(stand_in.side)).unwrap_or(decision)
}

// -- what the backend sees

/// Host, three `x-forwarded-*`, three `x-tidegate-*`, the id: room for all of them at once.
const ADDED_HEADERS: usize = 8;

fn rewrite_request(parts: &mut Parts, survey: Survey, asked: Asked, way: &Way, report: &Report) {
    let snapshot = &report.view.snapshot;
    let origin = &report.client.origin;
    let trusted = origin.peer.is_trusted(&snapshot.trusted_proxies);
    let rollout = way.decided.map(|(at, decision)| (&snapshot.rollouts[at], decision));
    parts.version = Version::HTTP_11;
    parts.headers.reserve(ADDED_HEADERS);
    set_target_and_host(parts, survey, || snapshot.backends[way.backend].host.clone());
    headers::strip_request(&mut parts.headers, survey, trusted);
    if let Some((rollout, _)) = rollout {
        deciding_headers(rollout).for_each(|name| headers::strip_aliases_of(&mut parts.headers, name));
    }
    let asked_host = if asked.host { parts.headers.get(HOST).cloned() } else { None };
    add_forwarded(&mut parts.headers, origin, asked_host, trusted);
    if let Some(shown) = &report.client.origin.certificate {
        parts.headers.insert(headers::CLIENT_SUBJECT, shown.subject.clone());
        if let Some(uri) = &shown.uri {
            parts.headers.insert(headers::CLIENT_URI, uri.clone());
        }
    }
    if !survey.request_id {
        let id = hex_id(fastrand::u128(..));
        parts.headers.insert(headers::REQUEST_ID, HeaderValue::try_from(id).expect("hexadecimal is visible ASCII"));
    }
    if asked.trailers && snapshot.backends[way.backend].may_speak_http2() {
        parts.headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    if let Some((rollout, decision)) = rollout {
        parts.headers.insert(headers::ROLLOUT, rollout.label.clone());
        parts.headers.insert(headers::SIDE, HeaderValue::from_static(decision.side.as_str()));
        parts.headers.insert(headers::REASON, HeaderValue::from_static(decision.reason.as_str()));
    }
}

/// Makes the target origin-form (RFC 9112 §3.2.1) and Host what it was asked for: the authority of an absolute target
/// wins (§3.2.2), and a request of HTTP/1.0 that has neither gets the backend's.
fn set_target_and_host(parts: &mut Parts, survey: Survey, backend_host: impl FnOnce() -> HeaderValue) {
    if let Some(authority) = parts.uri.authority() {
        let host = HeaderValue::from_str(authority.as_str()).expect("an authority is visible ASCII");
        parts.headers.insert(HOST, host);
        let target = parts.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        parts.uri = Uri::from(target);
    } else if survey.hosts == 0 {
        parts.headers.insert(HOST, backend_host());
    }
}

fn add_forwarded(headers: &mut HeaderMap, origin: &Origin, host: Option<HeaderValue>, trusted: bool) {
    let has_said = trusted && headers.contains_key(headers::FORWARDED_FOR);
    if has_said {
        // A proxy without an address has said all that there is to say.
        let own = origin.peer.ip().map(|_| &origin.forwarded_for);
        let hops = headers.get_all(headers::FORWARDED_FOR).iter().chain(own);
        let hops: Vec<&[u8]> = hops.map(HeaderValue::as_bytes).collect();
        let chain = HeaderValue::from_bytes(&hops.join(&b", "[..])).expect("header values joined by commas are one");
        headers.insert(headers::FORWARDED_FOR, chain);
    } else {
        headers.insert(headers::FORWARDED_FOR, origin.forwarded_for.clone());
    }
    headers.entry(headers::FORWARDED_PROTO).or_insert_with(|| origin.scheme.clone());
    if let Some(host) = host {
        headers.entry(headers::FORWARDED_HOST).or_insert(host);
    }
}

/// 32 hexadecimal digits.
fn hex_id(number: u128) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut id = String::with_capacity(32);
    for byte in number.to_be_bytes() {
        id.push(char::from(DIGITS[usize::from(byte >> 4)]));
        id.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    id
}

// -- what the client sees

fn rewrite_response(answer: &mut Answer, asked: Asked, way: Way, report: &Report) {
    let Answer { response, link, survey, .. } = answer;
    let headers = response.headers_mut();
    headers::strip_response(headers, *survey, asked.trailers);
    let is_early = !link.is_uploaded();
    if is_early {
        link.detach();
    }
    if asked.upgrade || is_early {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if let Some((at, _)) = way.decided
        && report.view.snapshot.rollouts[at].expose_side
        && let Some(side) = report.answering()
    {
        headers.insert(headers::SIDE, HeaderValue::from_static(side.as_str()));
    }
    if let Some(id) = way.new_id {
        headers.append(SET_COOKIE, anonymous_cookie(&id));
    }
    *response.version_mut() = Version::HTTP_11;
}

fn anonymous_cookie(id: &str) -> HeaderValue {
    let cookie = format!("{ANONYMOUS_COOKIE}={id}; Path=/; Max-Age=31536000; HttpOnly; SameSite=Lax");
    HeaderValue::from_str(&cookie).expect("hexadecimal and attributes are visible ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_32_hexadecimal_digits() {
        assert_eq!(hex_id(0xdead_beef), "000000000000000000000000deadbeef");
        assert_eq!(hex_id(u128::MAX), "f".repeat(32));
    }
}
