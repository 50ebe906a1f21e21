//! The file as people may see it: as it is written, without what is nobody's business.
//!
//! Variables stay `${VAR}`, since they are where secrets come from. Files of secrets are named, never opened. What is left
//! are the user and password that a URL may hold, and the path of a webhook's, which is often all that its owner asks for.

use serde_json::{Map, Number, Value as Json};

use super::document::{Entry, Node, Value};

/// The whole file, from its `root` on.
pub(super) fn shown(root: &Node) -> Json {
    value(root, &|entry| match entry.key.as_str() {
        "webhooks" => value(&entry.node, &|entry| value_of_webhook(entry)),
        _ => value_of(entry),
    })
}

fn value_of(entry: &Entry) -> Json {
    value(&entry.node, &value_of)
}

fn value_of_webhook(entry: &Entry) -> Json {
    match (entry.key.as_str(), &entry.node.value) {
        ("url", Value::String(text)) => Json::String(origin_only(text)),
        ("url", Value::Expanded(expanded)) => Json::String(origin_only(&expanded.written)),
        _ => value_of(entry),
    }
}

/// The value at `node`; `of_entry` gives those of a map.
fn value(node: &Node, of_entry: &dyn Fn(&Entry) -> Json) -> Json {
    match &node.value {
        Value::Null => Json::Null,
        Value::Bool(value) => Json::Bool(*value),
        Value::Integer(value) => i64::try_from(*value).map_or_else(|_| Json::String(value.to_string()), Json::from),
        Value::Float(value) => Number::from_f64(*value).map_or(Json::Null, Json::Number),
        Value::String(text) => Json::String(without_userinfo(text)),
        Value::Expanded(expanded) => Json::String(without_userinfo(&expanded.written)),
        Value::List(items) => items.iter().map(|item| value(item, of_entry)).collect(),
        Value::Map(entries) => {
            Json::Object(entries.iter().map(|entry| (entry.key.clone(), of_entry(entry))).collect::<Map<_, _>>())
        }
    }
}

/// `https://user:password@host/path` with `***` for what stands before the `@`.
fn without_userinfo(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    match rest[..authority(rest)].rfind('@') {
        Some(at) => format!("{scheme}://***{}", &rest[at..]),
        None => text.to_owned(),
    }
}

/// The same, with `***` also for all that follows the host and its port.
fn origin_only(text: &str) -> String {
    let text = without_userinfo(text);
    let Some((scheme, rest)) = text.split_once("://") else { return text };
    match rest.split_at(authority(rest)) {
        (_, "" | "/") => text,
        (authority, _) => format!("{scheme}://{authority}/***"),
    }
}

/// How much of what follows `://` is the authority.
fn authority(rest: &str) -> usize {
    rest.find(['/', '?', '#']).unwrap_or(rest.len())
}

/// `text`, such as a line of the file in an error, with an asterisk for each character in a URL that stands before its `@` or
/// behind its host. Nothing moves, so that what is under the line still points at its place.
pub(super) fn veiled(text: &str) -> String {
    let mut veiled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((start, marker)) = ["://", r":\/\/"].iter().filter_map(|mark| Some((rest.find(mark)?, mark))).min() {
        let (before, url) = rest.split_at(start + marker.len());
        let end = url.find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '`')).unwrap_or(url.len());
        let (url, after) = url.split_at(end);
        let private = authority(url).min(url.find('\\').unwrap_or(url.len()));
        let (place, path) = url.split_at(private);
        let (user, host) = place.split_at(place.rfind('@').unwrap_or_default());
        let path_end = path.trim_end_matches([',', ']', '}', '/']).len();
        let (path, tail) = path.split_at(path_end);
        let (slash, path) = path.split_at(path.len().min(1));
        veiled.extend([before, &asterisks(user), host, slash, &asterisks(path), tail]);
        rest = after;
    }
    veiled + rest
}

fn asterisks(text: &str) -> String {
    "*".repeat(text.chars().count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_keeps_to_itself_what_is_private_in_the_urls_that_it_quotes() {
        for (line, told) in [
            (
                r#"{ old: "http://me:secret@a:1", new: http://b, x: [http://c:d@e] }"#,
                r#"{ old: "http://*********@a:1", new: http://b, x: [http://***@e] }"#,
            ),
            ("url: https://hooks.example/T0/B1?k=v # chat", "url: https://hooks.example/********* # chat"),
            ("[http://[::1]:80/secret, http://a/]", "[http://[::1]:80/******, http://a/]"),
            (r#"{"url": "https:\/\/me:x@hooks.example\/T0"}"#, r#"{"url": "https:\/\/****@hooks.example\***"}"#),
            ("https://hooks.example?token", "https://hooks.example?*****"),
            ("percent: 5 # see http://", "percent: 5 # see http://"),
        ] {
            assert_eq!(veiled(line), told);
            assert_eq!(line.chars().count(), told.chars().count());
        }
    }

    #[test]
    fn a_url_keeps_its_password_to_itself() {
        for (written, told, of_a_webhook) in [
            ("http://127.0.0.1:9001", "http://127.0.0.1:9001", "http://127.0.0.1:9001"),
            ("https://me:secret@hooks.example/a@b", "https://***@hooks.example/a@b", "https://***@hooks.example/***"),
            ("https://hooks.example/a@b", "https://hooks.example/a@b", "https://hooks.example/***"),
            ("https://a@b:c@hooks.example?x", "https://***@hooks.example?x", "https://***@hooks.example/***"),
            ("https://hooks.example/", "https://hooks.example/", "https://hooks.example/"),
            ("header:x-user-id", "header:x-user-id", "header:x-user-id"),
        ] {
            assert_eq!((without_userinfo(written), origin_only(written)), (told.to_owned(), of_a_webhook.to_owned()));
        }
    }
}
