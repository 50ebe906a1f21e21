//! One question to the HTTP API of a Prometheus: `POST /api/v1/query`
//! (<https://prometheus.io/docs/prometheus/latest/querying/api/#instant-queries>).

use std::fmt::Write as _;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use tokio::time::Instant;

use crate::config::Query;
use crate::control::outbound::Client;
use crate::policy::query::Answer;

/// Characters of somebody else's words that are repeated.
const REPEATED: usize = 200;

/// What the query says now. It is asked about the Prometheus's own present, so that clocks need not agree.
pub(super) async fn ask(client: &Client, query: &Query) -> Answer {
    let asked_at = Instant::now();
    let answer = client.send(request(query), query.timeout).await;
    let found = match answer {
        // It lay here unread while the process stood still.
        Ok(_) if asked_at.elapsed() > query.timeout => Err(format!("the answer of {} was read too late", query.url)),
        Ok(answer) => samples(&answer).map_err(|why| format!("{} {why}", query.url)),
        Err(failed) => Err(failed.to_string()),
    };
    found.map_or_else(Answer::NoData, |samples| query.bad_if.judge(&samples))
}

/// A form, since a query may be longer than a URL.
fn request(query: &Query) -> Request<Bytes> {
    let form = format!("query={}&timeout={}ms", encoded(&query.promql), query.timeout.as_millis());
    let mut request = Request::new(Bytes::from(form));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = query.url.uri().clone();
    request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
    request
}

/// All but what never needs it in `%XX` (RFC 3986 §2.3).
fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len() * 2);
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(byte.into()),
            _ => write!(encoded, "%{byte:02X}").expect("a String takes everything"),
        }
    }
    encoded
}

/// What is read of an answer; there may be more in it.
#[derive(Deserialize)]
struct Reply {
    status: String,
    data: Option<Data>,
    #[serde(rename = "errorType")]
    kind: Option<String>,
    error: Option<String>,
}

#[derive(Deserialize)]
struct Data {
    #[serde(rename = "resultType")]
    kind: String,
    result: Value,
}

/// A native histogram has no value.
#[derive(Deserialize)]
struct Sample {
    value: Option<Point>,
}

/// A time, and a value as a text: `"0.8"`, `"1e+06"`, `"NaN"`, `"+Inf"`.
type Point = (IgnoredAny, String);

/// The values in an answer, or what is wrong with it, to be read behind the name of whoever gave it.
fn samples(answer: &Response<Bytes>) -> Result<Vec<f64>, String> {
    let status = answer.status().as_u16();
    let reply: Option<Reply> = serde_json::from_slice(answer.body()).ok();
    match reply {
        Some(Reply { status, data: Some(data), .. }) if answer.status().is_success() && status == "success" => {
            values(data)
        }
        Some(Reply { kind: Some(kind), error: Some(error), .. }) => {
            Err(format!("answers {status}: {}: {}", repeated(&kind), repeated(&error)))
        }
        _ if answer.status().is_redirection() => Err(format!("answers {status}, a redirect, which is not followed")),
        _ if !answer.status().is_success() => Err(format!("answers {status}")),
        _ => Err("does not answer like a Prometheus".to_owned()),
    }
}

fn values(data: Data) -> Result<Vec<f64>, String> {
    let points: Option<Vec<Point>> = match data.kind.as_str() {
        "scalar" => serde_json::from_value(data.result).ok().map(|point| vec![point]),
        "vector" => {
            let samples: Option<Vec<Sample>> = serde_json::from_value(data.result).ok();
            samples.map(|samples| samples.into_iter().filter_map(|sample| sample.value).collect())
        }
        other => {
            return Err(format!("gives a {} where a vector or a scalar is needed", repeated(other)));
        }
    };
    let values = points.and_then(|points| points.iter().map(|(_, value)| value.parse().ok()).collect());
    values.ok_or_else(|| "does not answer like a Prometheus".to_owned())
}

/// Somebody else's words on their way to a log.
fn repeated(text: &str) -> String {
    let shown = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().take(REPEATED).map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(status: u16, body: &str) -> Result<Vec<f64>, String> {
        samples(&Response::builder().status(status).body(Bytes::from(body.to_owned())).unwrap())
    }

    fn data(kind: &str, result: &str) -> String {
        format!(
            r#"{{"status":"success","data":{{"resultType":"{kind}","result":{result},"stats":{{}}}},"warnings":["w"]}}"#
        )
    }

    #[test]
    fn vectors_and_scalars_have_values() {
        let two = r#"[{"metric":{"job":"a"},"value":[1435781451.781,"1e+06"]},{"metric":{},"value":[1,"-Inf"]}]"#;
        assert_eq!(told(200, &data("vector", two)), Ok(vec![1e6, f64::NEG_INFINITY]));
        assert_eq!(told(200, &data("scalar", r#"[1435781451.781,"0.8"]"#)), Ok(vec![0.8]));
        assert!(told(200, &data("scalar", r#"[1,"NaN"]"#)).unwrap()[0].is_nan());
        assert_eq!(told(200, &data("vector", "[]")), Ok(vec![]));
        let histogram = r#"[{"metric":{},"histogram":[1,{"count":"1"}]}]"#;
        assert_eq!(told(200, &data("vector", histogram)), Ok(vec![]));
    }

    #[test]
    fn all_else_is_told_and_is_no_value() {
        let no_prometheus = "does not answer like a Prometheus";
        let error = r#"{"status":"error","errorType":"bad_data","error":"parse error:\u001b[31m unexpected \"}\""}"#;
        for (status, body, why) in [
            (200, data("matrix", "[]").as_str(), "gives a matrix where a vector or a scalar is needed"),
            (200, &data("string", r#"[1,"a"]"#), "gives a string where a vector or a scalar is needed"),
            (200, &data("scalar", r#"[1,"many"]"#), no_prometheus),
            (200, &data("vector", r#"[{"metric":{},"value":[1,0.8]}]"#), no_prometheus),
            (200, "<html>", no_prometheus),
            (200, "{}", no_prometheus),
            (200, r#"{"status":"success"}"#, no_prometheus),
            (400, error, "answers 400: bad_data: parse error: [31m unexpected \"}\""),
            (200, error, "answers 200: bad_data: parse error: [31m unexpected \"}\""),
            (500, &data("scalar", r#"[1,"0.8"]"#), "answers 500"),
            (302, "", "answers 302, a redirect, which is not followed"),
            (503, "busy", "answers 503"),
        ] {
            assert_eq!(told(status, body), Err(why.to_owned()), "{body}");
        }
    }

    #[test]
    fn a_query_is_a_form() {
        assert_eq!(encoded("sum(x{a=\"ü\"}[1m]) > 0"), "sum%28x%7Ba%3D%22%C3%BC%22%7D%5B1m%5D%29%20%3E%200");
    }
}
