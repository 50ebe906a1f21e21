//! Whether a request is one that can be passed on without two readings of it: the checks that hyper leaves to us.

use h2::ext::Protocol;
use http::header::{EXPECT, HOST};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Version};
use hyper::body::Body as _;

use super::headers::{self, Coding, Survey};
use super::respond::Refusal;
use crate::config::Limits;
use crate::upstream::Incoming;

/// Refuses what is malformed, ambiguous or too large.
pub(super) fn inspect(
    request: &Request<Incoming>,
    survey: Survey,
    has_fragment: bool,
    limits: &Limits,
    is_key: impl FnMut(&str) -> bool,
) -> Result<(), Refusal> {
    if request.version() == Version::HTTP_2 {
        stream(request, limits)?;
    }
    method(request)?;
    target(request, has_fragment, limits)?;
    host(request, survey.hosts)?;
    if survey.transfer_encoding {
        coding(request.headers())?;
    }
    if survey.connection && headers::nominates_protected(request.headers(), is_key) {
        return Err(bad("Connection names a header that must reach the backend."));
    }
    if survey.expect {
        expect(request.headers())?;
    }
    length(request.body(), limits)
}

/// What h2 leaves to us: no more fields than on a connection of HTTP/1, none of them padded, and an authority that is the
/// host (RFC 9113 §8.3.1).
fn stream(request: &Request<Incoming>, limits: &Limits) -> Result<(), Refusal> {
    let headers = request.headers();
    if headers.len() > limits.max_header_fields {
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        return Err(Refusal::of_request(status, "The request head has too many fields."));
    }
    if headers.values().any(headers::is_padded) {
        return Err(bad("A header field begins or ends with a blank."));
    }
    match (request.uri().authority(), headers.get(HOST)) {
        (Some(authority), Some(host)) if !host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()) => {
            Err(bad("Host is not the authority of the request target."))
        }
        _ => Ok(()),
    }
}

const fn bad(detail: &'static str) -> Refusal {
    Refusal::of_request(StatusCode::BAD_REQUEST, detail)
}

fn method(request: &Request<Incoming>) -> Result<(), Refusal> {
    match *request.method() {
        Method::CONNECT if request.extensions().get::<Protocol>().is_some() => {
            Err(Refusal::of_request(StatusCode::NOT_IMPLEMENTED, "No other protocol than websocket is passed on."))
        }
        Method::CONNECT | Method::TRACE => {
            Err(Refusal::of_request(StatusCode::METHOD_NOT_ALLOWED, "This method is not passed on."))
        }
        _ => Ok(()),
    }
}

fn target(request: &Request<Incoming>, has_fragment: bool, limits: &Limits) -> Result<(), Refusal> {
    if has_fragment {
        return Err(bad("The request target has a fragment."));
    }
    let uri = request.uri();
    if uri.path() == "*" && *request.method() != Method::OPTIONS {
        return Err(bad("Only OPTIONS asks for everything.")); // RFC 9112 §3.2.4
    }
    let authority = uri.authority().map_or(0, |authority| authority.as_str().len());
    if authority + uri.path_and_query().map_or(0, |target| target.as_str().len()) > limits.max_target {
        return Err(Refusal::of_request(StatusCode::URI_TOO_LONG, "The request target is too long."));
    }
    if uri.scheme_str().is_some_and(|scheme| !matches!(scheme, "http" | "https")) {
        return Err(bad("The scheme of the request target is not http."));
    }
    Ok(())
}

/// RFC 9112 §3.2: exactly one valid Host, but for HTTP/1.0, which may have none.
fn host(request: &Request<Incoming>, hosts: usize) -> Result<(), Refusal> {
    if hosts > 1 {
        return Err(bad("The request has more than one Host."));
    }
    if let Some(authority) = request.uri().authority()
        && !headers::is_valid_host(authority.as_str().as_bytes())
    {
        return Err(bad("The authority of the request target is not a host."));
    }
    match request.headers().get(HOST) {
        Some(host) if !headers::is_valid_host(host.as_bytes()) => Err(bad("Host is not a host.")),
        None if request.version() == Version::HTTP_2 && request.uri().authority().is_some() => Ok(()),
        None if request.version() != Version::HTTP_10 => Err(bad("The request has no Host.")),
        _ => Ok(()),
    }
}

fn coding(headers: &HeaderMap) -> Result<(), Refusal> {
    match headers::coding(headers) {
        None | Some(Coding::Chunked) => Ok(()),
        Some(Coding::Repeated) => Err(bad("Transfer-Encoding repeats chunked.")),
        Some(Coding::Other) => {
            Err(Refusal::of_request(StatusCode::NOT_IMPLEMENTED, "Only chunked transfer coding is supported."))
        }
    }
}

fn expect(headers: &HeaderMap) -> Result<(), Refusal> {
    let is_continue = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"100-continue");
    if headers.get_all(EXPECT).iter().all(is_continue) {
        return Ok(());
    }
    Err(Refusal::of_request(StatusCode::EXPECTATION_FAILED, "Only 100-continue can be expected."))
}

/// Without a limit of our own it is the largest that those behind us can count to: many read a length into 63 bits.
fn length(body: &Incoming, limits: &Limits) -> Result<(), Refusal> {
    let max = limits.max_body.unwrap_or(i64::MAX.cast_unsigned());
    match body.size_hint().exact() {
        Some(length) if length > max => {
            Err(Refusal::of_request(StatusCode::PAYLOAD_TOO_LARGE, "The request body is too large."))
        }
        _ => Ok(()),
    }
}
