//! Reads the body of a change: small, JSON, with no key that means nothing here.
//!
//! A key that is overlooked is a change that somebody did not mean: `"forse": true` is refused, not ignored.

use std::time::Duration;

use axum::extract::Request;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use schemars::{JsonSchema, schema_for};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tokio::time::timeout;

use super::problem::{Problem, nearest, shortened};

/// Bytes of a body.
const LARGEST: usize = 64 << 10;
/// How long one may take: whoever dawdles has one of a few places, and `/livez` needs one too.
const PATIENCE: Duration = Duration::from_secs(5);

/// Reads a `T`. Without a body, one in which nothing is said.
///
/// # Errors
/// 408, 413, 415, 400 if it is not JSON, 422 if it is not a `T`.
pub(super) async fn read<T: DeserializeOwned + JsonSchema>(request: Request) -> Result<T, Problem> {
    let (head, body) = request.into_parts();
    let read = timeout(PATIENCE, Limited::new(body, LARGEST).collect()).await;
    let too_slow = |_| Problem::new(StatusCode::REQUEST_TIMEOUT, "The body did not come to an end within 5 s.");
    let body = read.map_err(too_slow)?.map_err(|error| match error.is::<http_body_util::LengthLimitError>() {
        true => Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "A body may have 64 KiB."),
        false => Problem::new(StatusCode::BAD_REQUEST, "The body broke off."),
    })?;
    let text = body.to_bytes();
    if text.is_empty() {
        return understood(b"{}");
    }
    if !is_json(&head.headers) {
        let detail = "The body has to be JSON, and its content-type has to say so: application/json.";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
    }
    understood(&text)
}

fn is_json(headers: &HeaderMap) -> bool {
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let (Some(only), None) = (types.next(), types.next()) else { return false };
    let kind = only.to_str().unwrap_or_default().split(';').next().unwrap_or_default();
    kind.trim().eq_ignore_ascii_case("application/json")
}

fn understood<T: DeserializeOwned + JsonSchema>(text: &[u8]) -> Result<T, Problem> {
    if !text.trim_ascii_start().starts_with(b"{") {
        // Checked by hand: serde would take a list for the fields in their order.
        return Err(match serde_json::from_slice::<Value>(text) {
            Ok(_) => Problem::senseless("The body has to be a JSON object, such as {\"reason\": \"INC-7\"}."),
            Err(error) => not_json(&error),
        });
    }
    serde_json::from_slice(text).map_err(|error| explained::<T>(text, &error))
}

fn not_json(error: &serde_json::Error) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, format!("The body is not JSON: {error}."))
}

/// What is wrong with `text`, which is no `T`.
fn explained<T: DeserializeOwned + JsonSchema>(text: &[u8], error: &serde_json::Error) -> Problem {
    let Ok(fields) = serde_json::from_slice::<Map<String, Value>>(text) else { return not_json(error) };
    let known = known::<T>();
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    if let Some(unknown) = fields.keys().find(|key| !known.contains(&key.as_str())) {
        return unknown_field(unknown, &known);
    }
    let wrong = fields.iter().find_map(|(key, value)| wrong::<T>(key, value));
    wrong.unwrap_or_else(|| Problem::senseless(format!("The body makes no sense: {error}.")))
}

fn unknown_field(field: &str, known: &[&str]) -> Problem {
    let told = shortened(field);
    let detail = match nearest(field, known) {
        Some(nearest) => format!("There is no field `{told}` here. Did you mean `{nearest}`?"),
        None => format!("There is no field `{told}` here. There is: {}.", known.join(", ")),
    };
    Problem::senseless(detail).knowing(known)
}

/// What is wrong with one field. No field is needed to read the others, so it can be tried alone.
fn wrong<T: DeserializeOwned>(key: &str, value: &Value) -> Option<Problem> {
    let alone = Value::Object(Map::from_iter([(key.to_owned(), value.clone())]));
    let error = serde_json::from_value::<T>(alone).err()?;
    Some(Problem::senseless(format!("`{key}` cannot be this: {error}.")))
}

/// The fields that a `T` has.
fn known<T: JsonSchema>() -> Vec<String> {
    let schema = schema_for!(T);
    let properties = schema.get("properties").and_then(Value::as_object);
    properties.map(|properties| properties.keys().cloned().collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::wish::{DrainBody, HoldBody, MaintenanceBody, PercentBody};

    fn told<T: DeserializeOwned + JsonSchema>(text: &str) -> (u64, String) {
        let Err(problem) = understood::<T>(text.as_bytes()) else { return (200, String::new()) };
        let told = serde_json::to_value(problem).unwrap();
        (told["status"].as_u64().unwrap(), told["detail"].as_str().unwrap().to_owned())
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, status, names) in [
            (r#"{"percent": 25}"#, 200, ""),
            (r#"{"percent": 25, "reason": "INC-7", "force": true}"#, 200, ""),
            (r#"{"percent": 25"#, 400, "not JSON"),
            ("percent=25", 400, "not JSON"),
            (r#" {"percent": 25} "#, 200, ""),
            ("[25]", 422, "JSON object"),
            ("25", 422, "JSON object"),
            (r#"{"percent": 25, "forse": true}"#, 422, "`forse` here. Did you mean `force`"),
            (r#"{"percent": 25, "xyzzyxyzzy": 1}"#, 422, "There is: force, percent, reason"),
            (r#"{"percent": "25"}"#, 422, "`percent` cannot be this"),
            (r#"{"percent": 25, "force": "yes"}"#, 422, "`force` cannot be this"),
            (r#"{"percent": 25, "percent": 99}"#, 422, "duplicate field"),
        ] {
            let (found, detail) = told::<PercentBody>(text);
            assert_eq!(found, status, "{text}: {detail}");
            assert!(detail.contains(names), "{text}: {detail}");
        }
        assert_eq!(told::<HoldBody>(r#"{"on": 1}"#).0, 422);
        assert_eq!(told::<DrainBody>(r#"{"side": "left"}"#).0, 422);
        assert_eq!(told::<DrainBody>(r#"{"side": null}"#).0, 200);
        assert_eq!(told::<MaintenanceBody>(r#"{"retry_after": 30}"#).0, 200);
        assert_eq!(told::<MaintenanceBody>(r#"{"retry_after": [30]}"#).0, 422);
    }
}
