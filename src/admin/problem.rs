//! What the admin side says when it cannot do what was asked: problem details (RFC 9457).

use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use schemars::JsonSchema;
use serde::Serialize;

/// A refusal. Behind a pointer, since nearly everything that returns one returns something smaller.
#[derive(Clone, Debug, Serialize)]
#[serde(transparent)]
pub(super) struct Problem(Box<Details>);

/// A refusal in words. Its `type` is the default, `about:blank`, so `title` is the status code's own phrase.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(rename = "Problem")]
pub(super) struct Details {
    /// The status code's own phrase.
    title: &'static str,
    /// The status code.
    status: u16,
    /// What is wrong, and what would be right.
    detail: String,
    /// Which names would have been right.
    #[serde(skip_serializing_if = "Option::is_none")]
    known: Option<Vec<String>>,
    /// The id of the latch that stands in the way.
    #[serde(skip_serializing_if = "Option::is_none")]
    latch: Option<String>,
    /// What takes away what stands in the way.
    #[serde(skip_serializing_if = "Option::is_none")]
    undo: Option<String>,
    /// The entity tag now, if the one that was sent is an older one.
    #[serde(skip_serializing_if = "Option::is_none")]
    current: Option<String>,
    #[serde(skip)]
    code: StatusCode,
    #[serde(skip)]
    headers: HeaderMap,
}

impl Problem {
    pub(super) fn new(code: StatusCode, detail: impl Into<String>) -> Self {
        Self(Box::new(Details {
            title: code.canonical_reason().unwrap_or("Error"),
            status: code.as_u16(),
            detail: detail.into(),
            known: None,
            latch: None,
            undo: None,
            current: None,
            code,
            headers: HeaderMap::new(),
        }))
    }

    /// What was sent can be read, and makes no sense.
    pub(super) fn senseless(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
    }

    pub(super) fn unknown_rollout(name: &str, known: &[&str]) -> Self {
        Self::new(StatusCode::NOT_FOUND, unknown_rollout(name, known)).knowing(known)
    }

    pub(super) fn unknown_route(name: &str, known: &[&str]) -> Self {
        let none = "no route in the config has a name";
        Self::new(StatusCode::NOT_FOUND, unknown("route", name, known, none)).knowing(known)
    }

    pub(super) fn knowing(mut self, known: &[&str]) -> Self {
        self.0.known = Some(known.iter().map(|name| (*name).to_owned()).collect());
        self
    }

    pub(super) fn with_latch(mut self, id: &str) -> Self {
        self.0.latch = Some(id.to_owned());
        self
    }

    pub(super) fn with_undo(mut self, undo: String) -> Self {
        self.0.undo = Some(undo);
        self
    }

    pub(super) fn with_current(mut self, tag: String) -> Self {
        self.0.current = Some(tag);
        self
    }

    pub(super) fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.headers.insert(name, value);
        self
    }
}

impl IntoResponse for Problem {
    fn into_response(mut self) -> Response {
        let headers = std::mem::take(&mut self.0.headers);
        let mut response = (self.0.code, headers, axum::Json(self)).into_response();
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        response
    }
}

/// Says that there is no rollout `name`, and which one was probably meant.
#[must_use]
pub fn unknown_rollout(name: &str, known: &[&str]) -> String {
    unknown("rollout", name, known, "the config has none")
}

/// Says that there is no `kind` of this name, and which one was probably meant. `none` is for when there are none at all.
pub(super) fn unknown(kind: &str, name: &str, known: &[&str], none: &str) -> String {
    let told = shortened(name);
    if known.is_empty() {
        return format!("There is no {kind} `{told}`: {none}.");
    }
    match nearest(name, known) {
        Some(nearest) => format!("There is no {kind} `{told}`. Did you mean `{nearest}`?"),
        None => format!("There is no {kind} `{told}`. There is: {}.", known.join(", ")),
    }
}

/// As much of a name as a message can bear.
pub(super) fn shortened(name: &str) -> String {
    const LONGEST: usize = 64;
    let cut: String = name.chars().take(LONGEST).collect();
    if cut.len() < name.len() { format!("{cut}...") } else { cut }
}

/// Which of `known` was probably meant by `name`.
pub(super) fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let name = shortened(name).to_lowercase();
    let distance = |known: &str| strsim::damerau_levenshtein(&name, &known.to_lowercase());
    let (distance, nearest) = known.iter().map(|known| (distance(known), *known)).min()?;
    (distance <= 1 + nearest.len() / 4).then_some(nearest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_name_is_answered_with_the_one_that_was_meant() {
        for (name, known, says) in [
            ("legder", &["ledger", "search"][..], "There is no rollout `legder`. Did you mean `ledger`?"),
            ("Ledger", &["ledger"], "There is no rollout `Ledger`. Did you mean `ledger`?"),
            ("x", &["ledger", "search"], "There is no rollout `x`. There is: ledger, search."),
            ("x", &[], "There is no rollout `x`: the config has none."),
        ] {
            assert_eq!(unknown_rollout(name, known), says);
        }
        assert!(unknown_rollout(&"x".repeat(10_000), &["ledger"]).len() < 200);
    }
}
