//! The file as people may see it: as it is written, without what is nobody's business.
//!
//! Variables stay `${VAR}`, since they are where secrets come from. Files of secrets are named, never opened. What is left
//! are the user and password that a URL may hold.

use serde_json::{Map, Number, Value as Json};

use super::document::{Node, Value};

/// The value at `node` and all below it.
pub(super) fn shown(node: &Node) -> Json {
    match &node.value {
        Value::Null => Json::Null,
        Value::Bool(value) => Json::Bool(*value),
        Value::Integer(value) => i64::try_from(*value).map_or_else(|_| Json::String(value.to_string()), Json::from),
        Value::Float(value) => Number::from_f64(*value).map_or(Json::Null, Json::Number),
        Value::String(text) => Json::String(without_userinfo(text)),
        Value::Expanded(expanded) => Json::String(without_userinfo(&expanded.written)),
        Value::List(items) => items.iter().map(shown).collect(),
        Value::Map(entries) => {
            Json::Object(entries.iter().map(|entry| (entry.key.clone(), shown(&entry.node))).collect::<Map<_, _>>())
        }
    }
}

/// `https://user:password@host/path` with `***` for what stands before the `@`.
fn without_userinfo(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let authority = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match rest[..authority].rfind('@') {
        Some(at) => format!("{scheme}://***{}", &rest[at..]),
        None => text.to_owned(),
    }
}

/// `text`, such as an error with a piece of the file, with `***` for what stands before the `@` of each URL in it.
#[must_use]
pub fn masked(text: &str) -> String {
    let ends_a_url = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '`' | ',' | '{' | '}' | '[' | ']');
    text.split_inclusive(ends_a_url).map(without_userinfo).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_keeps_the_passwords_of_the_urls_that_it_quotes_to_itself() {
        let told = masked(
            "3 | { old: \"http://me:secret@a:1\", new: http://b, x: [http://c:d@e] }\n  = found: \"http://me:secret@a:1\"",
        );
        assert_eq!(
            told,
            "3 | { old: \"http://***@a:1\", new: http://b, x: [http://***@e] }\n  = found: \"http://***@a:1\""
        );
    }

    #[test]
    fn a_url_keeps_its_password_to_itself() {
        for (written, told) in [
            ("http://127.0.0.1:9001", "http://127.0.0.1:9001"),
            ("https://me:secret@hooks.example/a@b", "https://***@hooks.example/a@b"),
            ("https://hooks.example/a@b", "https://hooks.example/a@b"),
            ("https://a@b:c@hooks.example?x", "https://***@hooks.example?x"),
            ("header:x-user-id", "header:x-user-id"),
        ] {
            assert_eq!(without_userinfo(written), told);
        }
    }
}
