//! What tidegate says itself, when no backend does.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, RETRY_AFTER, SERVER};
use http::{HeaderValue, Response, StatusCode};

use super::body::ResponseBody;
use super::exchange::Report;
use super::form::Form;
use crate::metrics::Class;

/// An answer of our own: a status, what a person needs to know, and the error type of RFC 9209 §2.3 for machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    /// One sentence for the client. It never repeats what the client sent.
    pub(super) detail: &'static str,
    /// For `proxy-status`.
    pub(super) error: &'static str,
    /// Whether the connection can go on after it. Not after anything that may be an attack or whose body is unread.
    pub(super) close: bool,
}

impl Refusal {
    /// The client's fault: the connection closes, since where its next request begins is not certain.
    pub(super) const fn of_request(status: StatusCode, detail: &'static str) -> Self {
        Self { status, detail, error: "http_request_error", close: true }
    }

    /// The backend's fault.
    pub(super) const fn of_backend(status: StatusCode, error: &'static str, detail: &'static str) -> Self {
        Self { status, detail, error, close: false }
    }

    /// How it counts: without an answer from the backend a 502 or 504 is an `error`, not one of its 5xx.
    pub(super) fn class(&self) -> Class {
        if self.status.is_server_error() { Class::Error } else { Class::of_status(self.status.as_u16()) }
    }

    /// The answer, in the form that the client's `accept` asks for.
    pub(super) fn answer(self, accept: Form, mut report: Report) -> Response<ResponseBody> {
        // A client that has left gets no answer, whatever its going looked like.
        if !report.client.watch.client_left() {
            report.answered(self.status.as_u16());
            report.will_end_as(self.class());
        }
        let draining = report.client.watch.is_draining();
        let (content_type, body) = self.body(accept);
        let mut response = Response::new(ResponseBody::own(body, report));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(SERVER, HeaderValue::from_static("tidegate"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert("proxy-status", self.proxy_status());
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            headers
                .insert(http::header::ALLOW, HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"));
        }
        if self.close || draining {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    fn proxy_status(self) -> HeaderValue {
        HeaderValue::from_str(&format!("tidegate; error={}", self.error)).expect("error types are visible ASCII")
    }

    fn body(self, form: Form) -> (&'static str, Bytes) {
        let (code, title, detail) = (self.status.as_u16(), self.title(), self.detail);
        let body = match form {
            Form::Json => format!("{{\"status\":{code},\"title\":\"{title}\",\"detail\":\"{detail}\"}}\n"),
            Form::Html => format!(
                "<!doctype html><html lang=\"en\"><title>{code} {title}</title><h1>{title}</h1><p>{detail}</p></html>\n"
            ),
            Form::Text => format!("{detail}\n"),
        };
        (form.content_type(), body.into())
    }

    fn title(self) -> &'static str {
        self.status.canonical_reason().unwrap_or("Error")
    }
}

/// The whole answer to a request that never became one, as bytes.
pub(super) fn raw(status: StatusCode) -> Vec<u8> {
    let detail = match status {
        StatusCode::REQUEST_TIMEOUT => "The request head took too long.",
        StatusCode::URI_TOO_LONG => "The request target is too long.",
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => "The request head is too large.",
        StatusCode::SERVICE_UNAVAILABLE => "Too many connections.",
        _ => "The request is malformed.",
    };
    raw_with(status, detail)
}

/// The whole answer to a request in clear text where TLS is spoken.
pub(super) fn raw_plain(status: StatusCode) -> Vec<u8> {
    raw_with(status, "This port speaks https: write https:// in place of http://.")
}

fn raw_with(status: StatusCode, detail: &'static str) -> Vec<u8> {
    let refusal = Refusal::of_request(status, detail);
    let (content_type, body) = refusal.body(Form::Json);
    let retry = if status == StatusCode::SERVICE_UNAVAILABLE { "retry-after: 1\r\n" } else { "" };
    let head = format!(
        "HTTP/1.1 {} {}\r\nserver: tidegate\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n\
         proxy-status: tidegate; error={}\r\n{retry}connection: close\r\n\r\n",
        status.as_u16(),
        refusal.title(),
        body.len(),
        refusal.error,
    );
    [head.as_bytes(), &body].concat()
}
