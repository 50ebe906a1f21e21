//! A request from top to bottom: inspect, route, decide, rewrite, send, rewrite the answer, stream it.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use http::header::{CONNECTION, CONTENT_LENGTH, HOST, SET_COOKIE, TE};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, Version};
use hyper::body::{Body as _, Incoming};
use tokio::time::Instant;

use super::access_log::Entry;
use super::body::{Progress, RequestBody, ResponseBody, Upload};
use super::closed;
use super::exchange::{Client, Link, Report};
use super::form::Form;
use super::headers::{self, Coding, Survey};
use super::inspect::inspect;
use super::notice::Notice;
use super::respond::Refusal;
use super::route;
use super::subject::{ANONYMOUS_COOKIE, Conflict, Head, RolloutSubject, StandIn};
use super::watch::Wait;
use super::worker::{Pool, View};
use crate::metrics::{Class, Failure, Why};
use crate::policy::decision::{Decision, Side, bucket_of, decide};
use crate::snapshot::{Destination, KeySource, Rollout, Snapshot};
use crate::upstream::{ConnectError, Connection, connect};

/// Answers one request, whatever happens.
pub(super) async fn handle(
    client: Rc<Client>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    let has_fragment = client.watch.request_begins();
    let survey = headers::survey(request.headers());
    let view = client.worker.view();
    let mut report = Report::begin(client, view);
    Ok(match forward(request, survey, has_fragment, &mut report).await {
        Ok((answer, link)) => {
            let status = answer.status().as_u16();
            report.answered(status);
            // A 304 may tell the length of what it does not send; hyper writes it only if it thinks that a body follows.
            let tells_length = status == 304 && answer.headers().contains_key(CONTENT_LENGTH);
            answer.map(|incoming| {
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
) -> Result<(Response<Incoming>, Link), Stopped> {
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
    let asked = Asked { trailers: survey.te && wants_trailers(&parts.headers), upgrade: survey.upgrade };
    rewrite_request(&mut parts, survey, &way, report);
    let (body, upload) = RequestBody::new(incoming, &report.client.watch, snapshot.limits.max_body);
    headers::frame_request(&mut parts.headers, body.size_hint().exact(), survey.content_length, upload.is_some());
    let request = Request::from_parts(parts, body);
    let (response, link) = send(report, &view, way.backend, request, upload).await?;
    look_at_head(report, &response);
    Ok(rewrite_response(response, link, asked, way, report)?)
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
        let entry = Entry::new(report.client.ip, request.method().as_str(), request.uri().path());
        report.log_as(Box::new(entry));
    }
}

/// What the client's own side of the connection asked for, and what therefore holds for the answer.
#[derive(Clone, Copy, Debug)]
struct Asked {
    trailers: bool,
    upgrade: bool,
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
    let decision = decide(&rollout.split, &subject);
    let bucket = if decision.side == Side::New { bucket_of(&rollout.split, &subject) } else { None };
    report.decided(at, decision, bucket);
    let new_id = match subject.into_stand_in() {
        StandIn::Anonymous { id, is_new: true } => Some(id),
        _ => None,
    };
    Ok(Way { backend: rollout.backend(decision.side), decided: Some((at, decision)), new_id })
}

// -- what the backend sees

const HTTP: HeaderValue = HeaderValue::from_static("http");
/// Host, three `x-forwarded-*`, three `x-tidegate-*`, the id: room for all of them at once.
const ADDED_HEADERS: usize = 8;

fn rewrite_request(parts: &mut Parts, survey: Survey, way: &Way, report: &Report) {
    let snapshot = &report.view.snapshot;
    let peer = report.client.ip;
    let trusted = snapshot.trusted_proxies.iter().any(|network| network.contains(peer));
    let rollout = way.decided.map(|(at, decision)| (&snapshot.rollouts[at], decision));
    parts.version = Version::HTTP_11;
    parts.headers.reserve(ADDED_HEADERS);
    let names_a_host = survey.hosts > 0 || parts.uri.authority().is_some();
    set_target_and_host(parts, survey, || host_of(snapshot, way.backend));
    headers::strip_request(&mut parts.headers, survey, trusted);
    if let Some((rollout, _)) = rollout {
        deciding_headers(rollout).for_each(|name| headers::strip_aliases_of(&mut parts.headers, name));
    }
    let asked_host = if names_a_host { parts.headers.get(HOST).cloned() } else { None };
    add_forwarded(&mut parts.headers, &report.client.forwarded_for, asked_host, trusted);
    if !survey.request_id {
        let id = hex_id(fastrand::u128(..));
        parts.headers.insert(headers::REQUEST_ID, HeaderValue::try_from(id).expect("hexadecimal is visible ASCII"));
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

fn host_of(snapshot: &Snapshot, backend: usize) -> HeaderValue {
    let address = &snapshot.backends[backend].endpoints[0].address;
    let host = format!("{}:{}", address.host, address.port);
    HeaderValue::from_str(&host).expect("a checked endpoint has a host of visible ASCII")
}

fn add_forwarded(headers: &mut HeaderMap, client: &HeaderValue, host: Option<HeaderValue>, trusted: bool) {
    if trusted {
        let hops = headers.get_all(headers::FORWARDED_FOR).iter().chain([client]);
        let hops: Vec<&[u8]> = hops.map(HeaderValue::as_bytes).collect();
        let chain = HeaderValue::from_bytes(&hops.join(&b", "[..])).expect("header values joined by commas are one");
        headers.insert(headers::FORWARDED_FOR, chain);
    } else {
        headers.insert(headers::FORWARDED_FOR, client.clone());
    }
    headers.entry(headers::FORWARDED_PROTO).or_insert(HTTP);
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

// -- there and back

/// What went wrong with a request on its way.
#[derive(Debug)]
enum Trouble {
    /// Not a byte of it was sent: it may go over another connection.
    Unsent(Box<Request<RequestBody>>),
    /// The client's body broke.
    Client(Progress),
    /// The backend's fault, or nobody's.
    Backend(Failure),
}

/// Sends the request over a kept connection or a new one. It goes over another only if nothing of it was sent.
async fn send(
    report: &Report,
    view: &View,
    backend: usize,
    mut request: Request<RequestBody>,
    upload: Option<Rc<Upload>>,
) -> Result<(Response<Incoming>, Link), Refusal> {
    loop {
        let (connection, pool) = obtain(report, view, backend).await?;
        let reused = connection.is_reused();
        let mut link = Link::new(connection, pool, upload.clone());
        request = match await_head(report, &mut link, request).await {
            Ok(response) => return Ok((response, link)),
            Err(Trouble::Unsent(request)) if reused => *request,
            Err(Trouble::Unsent(_)) => return Err(blame(report, Failure::Reset)),
            Err(Trouble::Client(progress)) => return Err(blame_client(progress)),
            Err(Trouble::Backend(failure)) => return Err(blame(report, failure)),
        };
    }
}

/// A connection to the backend: a kept one, or a new one to the first endpoint that takes it.
async fn obtain(
    report: &Report,
    view: &View,
    backend: usize,
) -> Result<(Box<Connection<RequestBody>>, Rc<Pool>), Refusal> {
    let mut failure = Failure::Connect;
    for pool in view.pools(backend) {
        if let Some(kept) = poll_fn(|cx| Poll::Ready(pool.take(cx, report.started()))).await {
            return Ok((kept, Rc::clone(pool)));
        }
        match connect(pool.endpoint()).await {
            Ok(connection) => return Ok((connection, Rc::clone(pool))),
            Err(ConnectError::Timeout) => failure = Failure::ConnectTimeout,
            Err(ConnectError::Io(_) | ConnectError::Setup(_)) => failure = Failure::Connect,
        }
    }
    Err(blame(report, failure))
}

/// Sends the request and waits for the head of the answer, driving the connection meanwhile.
async fn await_head(
    report: &Report,
    link: &mut Link,
    request: Request<RequestBody>,
) -> Result<Response<Incoming>, Trouble> {
    let watch = &report.client.watch;
    let patience = link.pool().endpoint().timeouts.response;
    let mut sent = pin!(link.connection.send(request));
    let response = poll_fn(|cx| {
        if watch.has_expired(Wait::Response) {
            return Poll::Ready(None);
        }
        if let Poll::Ready(response) = link.connection.poll_sent(sent.as_mut(), cx) {
            return Poll::Ready(Some(response));
        }
        if !watch.waits() {
            let from = if link.has_upload() { Instant::now() } else { report.started() };
            watch.wait_until(Wait::Response, from + patience);
        }
        Poll::Pending
    })
    .await;
    watch.stop_waiting_for(Wait::Response);
    match response {
        None => Err(Trouble::Backend(Failure::ResponseTimeout)),
        Some(Ok(response)) => Ok(response),
        Some(Err(mut error)) => match error.take_message() {
            Some(unsent) => Err(Trouble::Unsent(Box::new(unsent))),
            None => Err(diagnose(report, link, &error.into_error())),
        },
    }
}

/// A backend that closes a kept connection as a request arrives does so within a round trip. One that takes longer had the
/// request, and failed it.
const RACE: Duration = Duration::from_millis(50);

fn diagnose(report: &Report, link: &Link, error: &hyper::Error) -> Trouble {
    match link.upload_progress() {
        broken @ (Progress::Malformed | Progress::TooLarge | Progress::Stalled) => Trouble::Client(broken),
        _ if error.is_parse() || link.connection.is_flooded() => Trouble::Backend(Failure::Malformed),
        _ if link.connection.is_reused() && !link.connection.has_answered() && report.started().elapsed() < RACE => {
            Trouble::Backend(Failure::Stale)
        }
        _ => Trouble::Backend(Failure::Reset),
    }
}

fn blame_client(progress: Progress) -> Refusal {
    match progress {
        Progress::TooLarge => Refusal::of_request(StatusCode::PAYLOAD_TOO_LARGE, "The request body is too large."),
        Progress::Stalled => Refusal::of_request(StatusCode::REQUEST_TIMEOUT, "The request body took too long."),
        _ => Refusal::of_request(StatusCode::BAD_REQUEST, "The request body is malformed."),
    }
}

fn blame(report: &Report, failure: Failure) -> Refusal {
    report.failed(failure);
    let (status, error, detail) = match failure {
        Failure::Connect => (StatusCode::BAD_GATEWAY, "connection_refused", "The backend takes no connection."),
        Failure::ConnectTimeout => {
            (StatusCode::GATEWAY_TIMEOUT, "connection_timeout", "The backend took no connection in time.")
        }
        Failure::ResponseTimeout => {
            (StatusCode::GATEWAY_TIMEOUT, "http_response_timeout", "The backend did not answer in time.")
        }
        Failure::Malformed | Failure::Status | Failure::Grpc | Failure::Reported => {
            (StatusCode::BAD_GATEWAY, "http_protocol_error", "The backend's answer is not HTTP.")
        }
        Failure::Truncated => {
            (StatusCode::BAD_GATEWAY, "http_response_incomplete", "The backend's answer is incomplete.")
        }
        Failure::Reset | Failure::Stale => {
            (StatusCode::BAD_GATEWAY, "connection_terminated", "The backend closed the connection.")
        }
    };
    Refusal::of_backend(status, error, detail)
}

/// Whether the answer is a failure shows in its head, if the service knows by then.
fn look_at_head(report: &Report, response: &Response<Incoming>) {
    let Some(guard) = report.guard() else { return };
    report.head_came();
    let header = |name: &str| response.headers().get(name).map(HeaderValue::as_bytes);
    if let Some(failure) = guard.failures.find(response.status().as_u16(), header) {
        report.found_bad(failure);
    }
}

// -- what the client sees

fn rewrite_response(
    mut response: Response<Incoming>,
    mut link: Link,
    asked: Asked,
    way: Way,
    report: &Report,
) -> Result<(Response<Incoming>, Link), Refusal> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err(blame(report, Failure::Malformed)); // nobody asked for it
    }
    let headers = response.headers_mut();
    let survey = headers::survey_response(headers);
    match if survey.transfer_encoding { headers::coding(headers) } else { None } {
        None => {}
        // Hyper has read it as chunked; a length beside it would be believed by the next reader.
        Some(Coding::Chunked) if headers.remove(CONTENT_LENGTH).is_some() => link.spoil(),
        Some(Coding::Chunked) => {}
        Some(Coding::Repeated | Coding::Other) => return Err(blame(report, Failure::Malformed)),
    }
    headers::strip_response(headers, survey, asked.trailers);
    let is_early = !link.is_uploaded();
    if is_early {
        link.detach();
    }
    if asked.upgrade || is_early {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if let Some((at, decision)) = way.decided
        && report.view.snapshot.rollouts[at].expose_side
    {
        headers.insert(headers::SIDE, HeaderValue::from_static(decision.side.as_str()));
    }
    if let Some(id) = way.new_id {
        headers.append(SET_COOKIE, anonymous_cookie(&id));
    }
    *response.version_mut() = Version::HTTP_11;
    Ok((response, link))
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
