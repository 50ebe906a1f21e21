//! There and back: a request goes to a backend over a kept connection or a new one, and the head of the answer comes back.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use http::header::{CONTENT_LENGTH, TE};
use http::{HeaderValue, Request, Response, StatusCode};
use tokio::time::Instant;

use super::body::{Progress, RequestBody, Upload};
use super::exchange::{Link, Report};
use super::grpc::Call;
use super::headers::{self, Coding, ResponseSurvey};
use super::respond::Refusal;
use super::upgrade::{Verdict, Wish};
use super::watch::Wait;
use super::worker::{Group, Pool, View};
use crate::metrics::Failure;
use crate::policy::grpc::Status;
use crate::policy::shield::is_repeatable;
use crate::upstream::{Channel, Fault, Incoming, Obtained, SendError};

/// One try at one backend.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attempt<'a> {
    pub(super) view: &'a View,
    /// An index into the backends of the view's snapshot.
    pub(super) backend: usize,
    /// From here on the backend's time runs.
    pub(super) begun: Instant,
    /// What the client would speak in place of HTTP.
    pub(super) wish: Option<&'a Wish>,
}

/// The head of an answer that can be passed on, and the connection over which the rest of it comes.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) response: Response<Incoming>,
    pub(super) link: Link,
    pub(super) survey: ResponseSurvey,
    /// It tells of a failure.
    pub(super) is_failure: bool,
    /// The backend agrees to what the client wishes: what follows is not HTTP.
    pub(super) is_agreement: bool,
}

/// What came of a try.
pub(super) type Tried = Result<Answer, Trouble>;

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Trouble {
    /// Not a byte of the request was sent, or nobody has looked at it: it may go over another connection.
    Unsent(Failure, Box<Request<RequestBody>>),
    /// The client's body broke.
    Client(Progress),
    /// The backend's fault, or nobody's.
    Backend(Failure),
    /// The backend speaks HTTP/2, and nothing else over it.
    NoTunnel,
}

/// Whether the backend failed the request, with an answer or without one.
pub(super) fn has_failed(tried: &Tried) -> bool {
    match tried {
        Ok(answer) => answer.is_failure,
        Err(Trouble::Unsent(..) | Trouble::Backend(_) | Trouble::NoTunnel) => true,
        Err(Trouble::Client(_)) => false,
    }
}

/// Sends the request over a kept connection or a new one. It goes over another only if nothing of it was sent, or if the
/// connection was found closed as it was sent and the request does no harm twice. What the backend does wrong is reported.
pub(super) async fn send(
    report: &Report,
    mut attempt: Attempt<'_>,
    mut request: Request<RequestBody>,
    upload: Option<Rc<Upload>>,
) -> Tried {
    let group = attempt.view.group(attempt.backend);
    group.request_comes();
    let client = report.client.origin.peer.stated();
    let mut again = Again::default();
    loop {
        let obtained = match attempt.wish {
            Some(_) => Box::pin(group.obtain_passage(client, attempt.begun)).await,
            None => group.obtain(client, attempt.begun, again.stale > 0).await,
        };
        let Obtained { channel, pool, at } = match obtained {
            Ok(obtained) => obtained,
            Err(failure) => return Err(unsent(report, failure, Box::new(request))),
        };
        attempt.begun = at;
        prepare(report, attempt, &mut request, &channel, pool.pool())?;
        let was_kept = channel.is_reused();
        let race = channel.unused_since().filter(|since| has_rested(attempt, *since)).map(|_| attempt.begun + RACE);
        let spare = if race.is_some() { spare(&request, upload.as_ref()) } else { None };
        let mut link = Link::new(channel, pool, upload.clone());
        let trouble = match await_head(report, attempt, &mut link, request, race).await {
            Ok(response) => {
                link.answered(response.status().as_u16());
                return receive(report, attempt, response, link);
            }
            Err(trouble) => trouble,
        };
        if let Trouble::Backend(failure) = trouble {
            link.pool().blame(failure);
        }
        request = match again.after(trouble, group, was_kept, spare) {
            Ok(request) => *request,
            Err(Trouble::Backend(failure)) => return Err(failed(report, failure)),
            Err(Trouble::Unsent(failure, request)) => {
                link.pool().blame(failure);
                return Err(unsent(report, failure, request));
            }
            Err(trouble) => return Err(trouble),
        };
    }
}

/// How often a request was sent once more, and why.
#[derive(Clone, Copy, Debug, Default)]
struct Again {
    refusals: usize,
    stale: usize,
}

impl Again {
    /// The request as it is sent once more, or the trouble if it is not. `spare` is a copy, if it may be sent twice.
    fn after(
        &mut self,
        trouble: Trouble,
        group: &Group,
        was_kept: bool,
        spare: Option<Box<Request<RequestBody>>>,
    ) -> Result<Box<Request<RequestBody>>, Trouble> {
        match (trouble, spare) {
            (Trouble::Unsent(Failure::Refused, request), _) if group.may_ask_again(self.refusals, self.stale) => {
                self.refusals += 1;
                Ok(request)
            }
            (Trouble::Unsent(_, request), _) if was_kept => Ok(request),
            (Trouble::Backend(Failure::Stale), Some(spare))
                if group.may_retry(Failure::Stale, self.stale + self.refusals.saturating_sub(1)) =>
            {
                self.stale += 1;
                Ok(spare)
            }
            (trouble, _) => Err(trouble),
        }
    }
}

/// A copy of a request that may be sent once more if the backend is closing this connection at this moment. Nothing is kept of a
/// body.
fn spare(request: &Request<RequestBody>, upload: Option<&Rc<Upload>>) -> Option<Box<Request<RequestBody>>> {
    if upload.is_some() || !is_repeatable(request.method().as_str(), false) {
        return None;
    }
    let mut copy = Request::new(RequestBody::Empty);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    copy.headers_mut().clone_from(request.headers());
    Some(Box::new(copy))
}

/// Bytes of a request body that are kept while a backend may still refuse to look at it.
const KEPT_FOR_ANOTHER_TRY: usize = 16 << 10;

/// Bytes of an answer that are read at once for a client's only request, and for each of many.
const READ_FOR_ONE: usize = 256 << 10;
const READ_FOR_ONE_OF_MANY: usize = 16 << 10;

/// Bytes of an answer that are read at once. A client that does not read holds as many for each of its `requests`, so the later
/// ones get less. It is a byte less than a power of two, at which hyper would make room for twice as many.
fn room_for_one_of(requests: usize) -> u64 {
    let share = READ_FOR_ONE / requests.next_power_of_two();
    share.max(READ_FOR_ONE_OF_MANY) as u64 - 1
}

/// What differs by what the request goes over: a stream may be refused after it has begun, only there anybody looks at `te`
/// (RFC 9113 §8.2.2), and another protocol is asked for in another way.
fn prepare(
    report: &Report,
    attempt: Attempt<'_>,
    request: &mut Request<RequestBody>,
    channel: &Channel<RequestBody>,
    pool: &Pool,
) -> Result<(), Trouble> {
    channel.read_at_once(room_for_one_of(report.client.watch.requests_then()));
    match channel {
        Channel::Http2(_) => drop(request.body_mut().keep(KEPT_FOR_ANOTHER_TRY)),
        Channel::Http1(_) if pool.endpoint().may_speak_http2() => drop(request.headers_mut().remove(TE)),
        Channel::Http1(_) => {}
    }
    let Some(wish) = attempt.wish else { return Ok(()) };
    if !channel.may_become_passage() {
        report.failed(Failure::Malformed);
        return Err(Trouble::NoTunnel);
    }
    wish.ask(request, matches!(channel, Channel::Http2(_)));
    Ok(())
}

fn unsent(report: &Report, failure: Failure, request: Box<Request<RequestBody>>) -> Trouble {
    report.failed(failure);
    Trouble::Unsent(failure, request)
}

fn failed(report: &Report, failure: Failure) -> Trouble {
    match failure {
        Failure::Grpc => report.missed_deadline(),
        failure => report.failed(failure),
    }
    Trouble::Backend(failure)
}

/// Sends the request and waits for the head of the answer, driving the connection meanwhile. `race` is there if the backend may be
/// closing the connection at this moment: a connection that is open after it was not being closed.
async fn await_head(
    report: &Report,
    attempt: Attempt<'_>,
    link: &mut Link,
    request: Request<RequestBody>,
    mut race: Option<Instant>,
) -> Result<Response<Incoming>, Trouble> {
    let watch = &report.client.watch;
    let patience = patience(report, link.pool());
    let mut looks_again = true;
    let mut sending = pin!(link.channel.send(request));
    let response = poll_fn(|cx| {
        let is_race_over = race.is_some_and(|until| until <= Instant::now());
        if is_race_over && !watch.waits_for(Wait::Upload) {
            watch.waits_anew(); // it was only to look
        }
        if watch.has_expired(Wait::Response) {
            return Poll::Ready(None);
        }
        if let Poll::Ready(response) = link.channel.poll_answer(sending.as_mut(), cx) {
            return Poll::Ready(Some(response));
        }
        if is_race_over {
            // Looked at, since the clock alone may tell that we are late; and twice, since a process that stood still does what
            // is due before it hears of what came meanwhile.
            race = std::mem::take(&mut looks_again).then(|| Instant::now() + LOOK_AGAIN);
        }
        if !watch.waits() {
            let from = if link.has_upload() { Instant::now() } else { attempt.begun };
            let deadline = by_the_deadline(report, from + patience);
            watch.wait_until(Wait::Response, race.map_or(deadline, |race| race.min(deadline)));
        }
        Poll::Pending
    })
    .await;
    watch.stop_waiting_for(Wait::Response);
    match response {
        None => Err(Trouble::Backend(if is_overdue(report) { Failure::Grpc } else { Failure::ResponseTimeout })),
        Some(Ok(response)) => Ok(response),
        Some(Err(SendError { fault, unsent })) => match unsent.and_then(from_the_beginning) {
            Some(request) if fault == Fault::Refused => Err(Trouble::Unsent(Failure::Refused, request)),
            Some(request) => Err(Trouble::Unsent(Failure::Reset, request)),
            None => Err(diagnose(link, fault, race.is_some())),
        },
    }
}

/// How long a backend may take to begin its answer. A service of gRPC begins with its first message, and a stream may have
/// none for as long as there may be none between two; who wants to hear sooner sets a deadline.
fn patience(report: &Report, pool: &Pool) -> Duration {
    let timeouts = &pool.endpoint().timeouts;
    if report.call().is_some() { timeouts.stream_idle } else { timeouts.response }
}

/// `moment`, or the call's deadline if that comes first.
fn by_the_deadline(report: &Report, moment: Instant) -> Instant {
    report.call().and_then(Call::deadline).map_or(moment, |deadline| deadline.min(moment))
}

fn is_overdue(report: &Report) -> bool {
    report.call().is_some_and(|call| call.is_overdue(Instant::now()))
}

/// The request, if its body can be sent from its beginning.
fn from_the_beginning(mut request: Box<Request<RequestBody>>) -> Option<Box<Request<RequestBody>>> {
    request.body_mut().rewind().then_some(request)
}

/// A backend that closes a kept connection as a request arrives has done so before it has heard of the request, and we know within
/// a round trip. This is longer than one to anywhere, than a lost packet takes to be sent again, and than a container stands
/// still that has used up its share of the processor. One that takes longer had the request, and failed it.
const RACE: Duration = Duration::from_millis(250);
/// When it is looked at once more after that.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// For how long a connection has to have rested before a backend may have closed it for that: shorter than any usual
/// keep-alive. A backend that hangs up on a busy connection has failed what it was asked.
const REST: Duration = Duration::from_secs(1);

/// What a request has met that got no answer. `may_be_closing` says that the backend may have closed the connection because
/// nobody used it, at the moment at which it was used again.
fn diagnose(link: &Link, fault: Fault, may_be_closing: bool) -> Trouble {
    match link.upload_progress() {
        broken @ (Progress::Malformed | Progress::TooLarge | Progress::Stalled) => Trouble::Client(broken),
        _ if fault == Fault::OnlyHttp2 => Trouble::Backend(Failure::OnlyHttp2),
        _ if fault == Fault::Malformed => Trouble::Backend(Failure::Malformed),
        _ if fault == Fault::Refused => Trouble::Backend(Failure::Refused),
        _ if may_be_closing && !link.channel.has_answered() => Trouble::Backend(Failure::Stale),
        _ => Trouble::Backend(Failure::Reset),
    }
}

fn has_rested(attempt: Attempt<'_>, unused_since: Instant) -> bool {
    attempt.begun.saturating_duration_since(unused_since) >= REST
}

/// Takes an answer in, if it can be passed on.
fn receive(report: &Report, attempt: Attempt<'_>, mut response: Response<Incoming>, mut link: Link) -> Tried {
    let survey = headers::survey_response(response.headers());
    let is_switch = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    let is_agreement = match attempt.wish.map(|wish| wish.judge(&response, link.is_stream())) {
        Some(Verdict::Agreed) => true,
        Some(Verdict::Wrong) => return Err(failed(report, Failure::Malformed)),
        None if is_switch => return Err(failed(report, Failure::Malformed)), // nobody asked for it
        Some(Verdict::Declined) | None => false,
    };
    if attempt.wish.is_some() {
        link.spoil();
    }
    let headers = response.headers_mut();
    match if survey.transfer_encoding { headers::coding(headers) } else { None } {
        None => {}
        // Hyper has read it as chunked; a length beside it would be believed by the next reader.
        Some(Coding::Chunked) if headers.remove(CONTENT_LENGTH).is_some() => link.spoil(),
        Some(Coding::Chunked) => {}
        Some(Coding::Repeated | Coding::Other) => return Err(failed(report, Failure::Malformed)),
    }
    let is_failure = look_at_head(report, &response, survey);
    Ok(Answer { response, link, survey, is_failure, is_agreement })
}

/// Whether the answer is a failure shows in its head, if the service knows by then.
fn look_at_head(report: &Report, response: &Response<Incoming>, survey: ResponseSurvey) -> bool {
    if let Some(call) = report.call() {
        call.is_answered(response.status().as_u16(), response.headers());
    }
    let Some(failures) = report.failures() else { return false };
    report.head_came();
    let header = |name: &str| response.headers().get(name).map(HeaderValue::as_bytes);
    let grpc_status = if survey.grpc_status { header(headers::GRPC_STATUS.as_str()) } else { None };
    let found = failures.find(response.status().as_u16(), grpc_status, header);
    match found {
        None => return false,
        // How a call has ended is counted when it has.
        Some(failure @ (Failure::Status | Failure::Reported)) if !response.status().is_server_error() => {
            report.found_bad_in_disguise(failure);
        }
        Some(failure) => report.found_bad(failure),
    }
    true
}

/// What the client is told in place of an answer.
impl From<Trouble> for Refusal {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Client(progress) => of_client(progress),
            Trouble::Unsent(failure, _) | Trouble::Backend(failure) => of_backend(failure),
            Trouble::NoTunnel => {
                let detail = "The backend speaks HTTP/2, and no WebSocket over it.";
                Refusal::of_backend(StatusCode::BAD_GATEWAY, "http_upgrade_failed", detail)
            }
        }
    }
}

fn of_client(progress: Progress) -> Refusal {
    match progress {
        Progress::TooLarge => Refusal::of_request(StatusCode::PAYLOAD_TOO_LARGE, "The request body is too large."),
        Progress::Stalled => Refusal::of_request(StatusCode::REQUEST_TIMEOUT, "The request body took too long."),
        _ => Refusal::of_request(StatusCode::BAD_REQUEST, "The request body is malformed."),
    }
}

fn of_backend(failure: Failure) -> Refusal {
    let (status, error, detail) = match failure {
        Failure::Connect => (StatusCode::BAD_GATEWAY, "connection_refused", "The backend takes no connection."),
        Failure::ConnectTimeout => {
            (StatusCode::GATEWAY_TIMEOUT, "connection_timeout", "The backend took no connection in time.")
        }
        Failure::Certificate => {
            (StatusCode::BAD_GATEWAY, "tls_certificate_error", "The backend's certificate is not trusted.")
        }
        Failure::Tls => (StatusCode::BAD_GATEWAY, "tls_protocol_error", "The backend speaks no TLS with us."),
        Failure::ResponseTimeout => {
            (StatusCode::GATEWAY_TIMEOUT, "http_response_timeout", "The backend did not answer in time.")
        }
        Failure::Grpc => return missed_deadline(),
        Failure::NoHttp2 => {
            (StatusCode::BAD_GATEWAY, "http_protocol_error", "The backend does not speak HTTP/2 (protocol: h2).")
        }
        Failure::OnlyHttp2 => {
            (StatusCode::BAD_GATEWAY, "http_protocol_error", "The backend speaks HTTP/2 (it lacks protocol: h2).")
        }
        Failure::Malformed | Failure::Status | Failure::Reported => {
            (StatusCode::BAD_GATEWAY, "http_protocol_error", "The backend's answer is not HTTP.")
        }
        Failure::Truncated => {
            (StatusCode::BAD_GATEWAY, "http_response_incomplete", "The backend's answer is incomplete.")
        }
        Failure::Reset | Failure::Stale => {
            (StatusCode::BAD_GATEWAY, "connection_terminated", "The backend closed the connection.")
        }
        Failure::Refused => {
            (StatusCode::BAD_GATEWAY, "connection_terminated", "The backend would not look at the request.")
        }
        Failure::OwnLimit => {
            (StatusCode::SERVICE_UNAVAILABLE, "connection_limit_reached", "No more connections can be opened.")
        }
        Failure::BackendLimit => {
            (StatusCode::SERVICE_UNAVAILABLE, "connection_limit_reached", "The backend is given no more at once.")
        }
        Failure::Unhealthy => {
            (StatusCode::SERVICE_UNAVAILABLE, "destination_unavailable", "No endpoint of the backend is fit to answer.")
        }
    };
    Refusal::of_backend(status, error, detail)
}

/// The call's own deadline, which its client may not have noticed yet.
fn missed_deadline() -> Refusal {
    let (status, detail) = (StatusCode::GATEWAY_TIMEOUT, "The call's deadline has passed.");
    Refusal { grpc: Status::DeadlineExceeded, ..Refusal::of_backend(status, "http_response_timeout", detail) }
}
