//! What the admin side says when it cannot do what was asked: problem details (RFC 9457).

use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use serde::Serialize;

/// A refusal in words. Its `type` is the default, `about:blank`, so `title` is the status code's own phrase.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Problem {
    #[serde(skip)]
    code: StatusCode,
    title: &'static str,
    status: u16,
    detail: String,
    /// Which names would have been right.
    #[serde(skip_serializing_if = "Option::is_none")]
    known: Option<Vec<String>>,
}

impl Problem {
    pub(super) fn new(code: StatusCode, detail: impl Into<String>) -> Self {
        let title = code.canonical_reason().unwrap_or("Error");
        Self { code, title, status: code.as_u16(), detail: detail.into(), known: None }
    }

    pub(super) fn unknown_rollout(name: &str, known: &[&str]) -> Self {
        let problem = Self::new(StatusCode::NOT_FOUND, unknown_rollout(name, known));
        Self { known: Some(known.iter().map(|name| (*name).to_owned()).collect()), ..problem }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.code, axum::Json(self)).into_response();
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        response
    }
}

/// Says that there is no rollout `name`, and which one was probably meant.
#[must_use]
pub fn unknown_rollout(name: &str, known: &[&str]) -> String {
    let told = shortened(name);
    if known.is_empty() {
        return format!("There is no rollout `{told}`: the config has none.");
    }
    match nearest(name, known) {
        Some(nearest) => format!("There is no rollout `{told}`. Did you mean `{nearest}`?"),
        None => format!("There is no rollout `{told}`. There is: {}.", known.join(", ")),
    }
}

/// As much of a name as a message can bear.
fn shortened(name: &str) -> String {
    const LONGEST: usize = 64;
    let cut: String = name.chars().take(LONGEST).collect();
    if cut.len() < name.len() { format!("{cut}...") } else { cut }
}

fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
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
