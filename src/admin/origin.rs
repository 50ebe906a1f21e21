//! Turns away web pages that reach the admin side through somebody's browser.
//!
//! A page can make a browser send requests to loopback: directly, which shows as a foreign `Origin`, or through a name of
//! its own that suddenly resolves to 127.0.0.1 (DNS rebinding), which shows as a foreign `Host`. Nothing else that speaks
//! to a loopback port has a reason to name another host.

use std::net::IpAddr;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http::header::{CACHE_CONTROL, HOST, ORIGIN, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};

use super::problem::Problem;
use crate::proxy::subject::bare_host;

/// Through which kind of socket a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Door {
    /// A loopback port, which browsers can reach.
    Tcp,
    /// A unix socket, which they cannot; `Host` means nothing there.
    Unix,
}

/// The middleware around every answer.
pub(super) async fn screen(State(door): State<Door>, request: Request, next: Next) -> Response {
    let mut response = match objection(door, request.uri(), request.headers()) {
        Some(objection) => Problem::new(StatusCode::FORBIDDEN, objection).into_response(),
        None => next.run(request).await,
    };
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// What is wrong with where a request comes from.
fn objection(door: Door, uri: &Uri, headers: &HeaderMap) -> Option<&'static str> {
    let host = match single(headers, &HOST) {
        Ok(host) => host,
        Err(()) => return Some("More than one Host, or one that is not text."),
    };
    let hosts = [host, uri.authority().map(http::uri::Authority::as_str)];
    if door == Door::Tcp && !hosts.into_iter().flatten().all(is_local) {
        return Some("Host has to be localhost or a loopback address.");
    }
    match single(headers, &ORIGIN) {
        Ok(None) => None,
        Ok(Some(origin)) if host.is_some_and(|host| is_same(origin, host)) => None,
        _ => Some("Web pages of another origin may not use the admin API."),
    }
}

/// The value of a header that may be given once.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, ()> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(Some).map_err(|_| ()),
        _ => Err(()),
    }
}

fn is_local(host: &str) -> bool {
    let bare = bare_host(host);
    let unbracketed = bare.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(&bare);
    bare == "localhost" || unbracketed.parse().is_ok_and(|ip: IpAddr| ip.to_canonical().is_loopback())
}

/// Whether `origin` is the page that this very address would serve.
fn is_same(origin: &str, host: &str) -> bool {
    origin.strip_prefix("http://").is_some_and(|authority| authority.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_welcome(door: Door, lines: &[(HeaderName, &'static str)]) -> bool {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name, HeaderValue::from_static(value));
        }
        objection(door, &Uri::from_static("/livez"), &headers).is_none()
    }

    #[test]
    fn only_local_names_are_answered_on_a_port() {
        for (host, welcome) in [
            ("localhost", true),
            ("LOCALHOST:9901", true),
            ("127.0.0.1:9901", true),
            ("127.8.8.8", true),
            ("[::1]:9901", true),
            ("[::ffff:127.0.0.1]:9901", true),
            ("evil.example:9901", false),
            ("localhost.evil.example", false),
            ("127.0.0.1.evil.example", false),
            ("evil@localhost", false),
            ("10.0.0.1:9901", false),
            ("0.0.0.0:9901", false),
            ("", false),
        ] {
            assert_eq!(is_welcome(Door::Tcp, &[(HOST, host)]), welcome, "{host}");
            assert!(is_welcome(Door::Unix, &[(HOST, host)]), "{host}");
        }
        assert!(is_welcome(Door::Tcp, &[]), "HTTP/1.0 has no Host");
        assert!(!is_welcome(Door::Tcp, &[(HOST, "localhost"), (HOST, "evil.example")]));
    }

    #[test]
    fn a_target_that_names_a_host_is_held_to_it() {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_static("localhost"));
        let foreign = Uri::from_static("http://evil.example/livez");
        assert!(objection(Door::Tcp, &foreign, &headers).is_some());
    }

    #[test]
    fn pages_of_other_origins_are_turned_away() {
        for (origin, welcome) in [
            ("http://127.0.0.1:9901", true),
            ("http://127.0.0.1:3000", false),
            ("https://evil.example", false),
            ("null", false),
        ] {
            for door in [Door::Tcp, Door::Unix] {
                assert_eq!(is_welcome(door, &[(HOST, "127.0.0.1:9901"), (ORIGIN, origin)]), welcome, "{origin}");
            }
        }
    }
}
