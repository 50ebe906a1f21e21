//! What they are told who come while the service is closed: politely, in the form they ask for, with a time to come back.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, RETRY_AFTER, SERVER};
use http::{HeaderValue, Response, StatusCode};
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;

use super::body::ResponseBody;
use super::exchange::Report;
use super::form::Form;
use super::grpc;
use crate::config::MaintenanceDefaults;
use crate::metrics::Class;
use crate::policy::grpc::Status;
use crate::policy::standing;

/// What somebody is told, and why.
#[derive(Debug)]
pub(super) struct Notice {
    status: StatusCode,
    form: Form,
    content_type: &'static str,
    /// For a call of gRPC, which has none, what it is told.
    body: Bytes,
    /// When to come back, as `retry-after` has it.
    retry_after: Option<String>,
    /// For `proxy-status`: the error type of RFC 9209 §2.3.
    error: Option<&'static str>,
    close: bool,
}

impl Notice {
    /// The public is turned away.
    pub(super) fn maintenance(
        asked: &standing::Maintenance,
        defaults: &MaintenanceDefaults,
        form: Form,
        now: SystemTime,
    ) -> Self {
        let usual = match asked.read_only {
            true => "The service is read-only for maintenance: nothing can be changed for now.",
            false => "The service is closed for maintenance. Please come back later.",
        };
        let message = asked.message.as_deref().or(defaults.message.as_deref()).unwrap_or(usual);
        let page = own_page(defaults, form).unwrap_or_else(|| page(message, form));
        let retry_after = Some(retry_after(asked.retry_after, defaults.retry_after, now));
        Self::away(form, page, retry_after, "http_request_denied")
    }

    /// A request was not held until its turn came.
    pub(super) fn held_in_vain(defaults: &MaintenanceDefaults, form: Form) -> Self {
        let page = page("The service is paused for a moment. Please try again.", form);
        let retry_after = Some(seconds(defaults.retry_after));
        Self::away(form, page, retry_after, "destination_unavailable")
    }

    /// A balancer is told that this process is well, whatever it is doing.
    pub(super) fn healthy() -> Self {
        Self {
            status: StatusCode::OK,
            form: Form::Text,
            content_type: Form::Text.content_type(),
            body: Bytes::from_static(b"ok\n"),
            retry_after: None,
            error: None,
            close: false,
        }
    }

    fn away(
        form: Form,
        (content_type, body): (&'static str, Bytes),
        retry_after: Option<String>,
        error: &'static str,
    ) -> Self {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Self { status, form, content_type, body, retry_after, error: Some(error), close: false }
    }

    /// The same, and whether the connection closes after it.
    pub(super) fn closing(self, close: bool) -> Self {
        Self { close, ..self }
    }

    /// The answer.
    pub(super) fn answer(self, mut report: Report) -> Response<ResponseBody> {
        if !report.client.watch.client_left() {
            report.answered(self.status.as_u16());
            report.will_end_as(Class::of_status(self.status.as_u16()));
            report.call_ends_as(Status::of_own(self.status.as_u16()));
        }
        let (body, message) = match self.form {
            Form::Grpc => (Bytes::new(), Some(self.body)),
            Form::Json | Form::Html | Form::Text => (self.body, None),
        };
        let close = self.close || report.client.watch.is_draining();
        let mut response = Response::new(ResponseBody::own(body, report));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(SERVER, HeaderValue::from_static("tidegate"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(error) = self.error {
            let status = format!("tidegate; error={error}");
            headers.insert("proxy-status", HeaderValue::try_from(status).expect("error types are visible ASCII"));
        }
        if let Some(when) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::try_from(when).expect("numbers and dates are visible ASCII"));
        }
        if close {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if let Some(message) = message {
            let status = Status::of_own(self.status.as_u16());
            grpc::make_trailers_only(&mut response, status, &String::from_utf8_lossy(&message));
        }
        response
    }
}

/// `retry-after` (RFC 9110 §10.2.3): seconds, or a date. A date that has passed tells nobody when to come back.
fn retry_after(asked: Option<standing::RetryAfter>, usual: Duration, now: SystemTime) -> String {
    match asked {
        Some(standing::RetryAfter::In(wait)) => seconds(wait),
        Some(standing::RetryAfter::At(at)) if at > now => date(at).unwrap_or_else(|| seconds(usual)),
        Some(standing::RetryAfter::At(_)) | None => seconds(usual),
    }
}

/// Whole seconds, rather one too many: who comes too early comes in vain.
fn seconds(wait: Duration) -> String {
    wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0)).to_string()
}

/// An IMF-fixdate (RFC 9110 §5.6.7).
pub(super) fn date(at: SystemTime) -> Option<String> {
    DateTimePrinter::new().timestamp_to_rfc9110_string(&Timestamp::try_from(at).ok()?).ok()
}

/// The user's own page, if there is one in this form.
fn own_page(defaults: &MaintenanceDefaults, form: Form) -> Option<(&'static str, Bytes)> {
    let (content_type, page) = match form {
        Form::Html => (form.content_type(), &defaults.pages.html),
        Form::Json => ("application/json", &defaults.pages.json),
        Form::Text => (form.content_type(), &defaults.pages.text),
        Form::Grpc => return None,
    };
    page.clone().map(|page| (content_type, page))
}

/// A page that says `message`, which is text and nothing else, whatever it looks like.
fn page(message: &str, form: Form) -> (&'static str, Bytes) {
    let page = match form {
        Form::Json => {
            let detail = serde_json::Value::from(message);
            format!("{{\"status\":503,\"title\":\"Service Unavailable\",\"detail\":{detail}}}\n")
        }
        Form::Html => format!(
            "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width\">\
             <title>Service Unavailable</title><h1>Service Unavailable</h1><p>{}</p></html>\n",
            escape(message)
        ),
        Form::Text => format!("{message}\n"),
        Form::Grpc => message.to_owned(),
    };
    (form.content_type(), page.into())
}

/// `text` inside an HTML element.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' | '<' | '>' | '"' | '\'' => {
                let _a_string_takes_everything = write!(out, "&#{};", u32::from(character));
            }
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Bypass, Pages};
    use crate::policy::actor::{Actor, Source};
    use standing::RetryAfter;

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    fn defaults(pages: Pages) -> MaintenanceDefaults {
        MaintenanceDefaults {
            message: None,
            retry_after: Duration::from_secs(60),
            pages,
            health_paths: Vec::new(),
            bypass: Bypass::default(),
        }
    }

    fn asked(message: Option<&str>, read_only: bool) -> standing::Maintenance {
        standing::Maintenance {
            message: message.map(str::to_owned),
            read_only,
            retry_after: None,
            at: NOW,
            by: Actor { source: Source::Operator, name: "anna".to_owned() },
            reason: String::new(),
        }
    }

    fn body(message: Option<&str>, defaults: &MaintenanceDefaults, form: Form) -> String {
        let notice = Notice::maintenance(&asked(message, false), defaults, form, NOW);
        assert_eq!(notice.status, 503);
        String::from_utf8(notice.body.to_vec()).unwrap()
    }

    #[test]
    fn a_message_is_text_in_every_form() {
        let hostile = "</p><script>alert(\"1\")</script> & 'so'\n\u{e4}";
        let html = body(Some(hostile), &defaults(Pages::default()), Form::Html);
        assert!(!html.contains("<script>"), "{html}");
        assert!(
            html.contains("&#60;script&#62;alert(&#34;1&#34;)&#60;/script&#62; &#38; &#39;so&#39;\n\u{e4}"),
            "{html}"
        );
        let json = body(Some(hostile), &defaults(Pages::default()), Form::Json);
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["detail"], hostile);
        assert_eq!(json["status"], 503);
        assert_eq!(body(Some(hostile), &defaults(Pages::default()), Form::Text), format!("{hostile}\n"));
    }

    #[test]
    fn who_asked_says_it_before_the_config_and_the_config_before_us() {
        let configured = MaintenanceDefaults { message: Some("configured".into()), ..defaults(Pages::default()) };
        assert_eq!(body(Some("asked"), &configured, Form::Text), "asked\n");
        assert_eq!(body(None, &configured, Form::Text), "configured\n");
        assert!(body(None, &defaults(Pages::default()), Form::Text).contains("closed for maintenance"));
        let read_only = Notice::maintenance(&asked(None, true), &defaults(Pages::default()), Form::Text, NOW);
        assert!(read_only.body.starts_with(b"The service is read-only"));
    }

    #[test]
    fn an_own_page_is_shown_as_it_is_in_its_form_only() {
        let pages = Pages { html: Some(Bytes::from_static(b"<b>back soon</b>")), ..Pages::default() };
        assert_eq!(body(Some("asked"), &defaults(pages.clone()), Form::Html), "<b>back soon</b>");
        assert_eq!(body(Some("asked"), &defaults(pages), Form::Text), "asked\n");
    }

    #[test]
    fn when_to_come_back_is_told_in_seconds_or_as_a_date() {
        let at = |seconds| Some(RetryAfter::At(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)));
        for (asked, told) in [
            (None, "60"),
            (Some(RetryAfter::In(Duration::from_millis(1500))), "2"),
            (Some(RetryAfter::In(Duration::ZERO)), "0"),
            (at(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT"),
            (at(0), "60"),
        ] {
            assert_eq!(retry_after(asked, Duration::from_secs(60), NOW), told, "{asked:?}");
        }
    }
}
