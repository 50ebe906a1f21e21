//! Turns away web pages that reach the admin side through somebody's browser.
//!
//! A page can make a browser send requests to loopback: directly, which shows as a foreign `Origin`, or through a name of
//! its own that suddenly resolves to 127.0.0.1 (DNS rebinding), which shows as a foreign `Host`. Nothing else that speaks
//! to a loopback port has a reason to name another host.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http::header::{CACHE_CONTROL, HOST, ORIGIN, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};

use super::api::Sources;
use super::auth::{caller, recognise};
use super::problem::Problem;
use crate::proxy::subject::bare_host;

/// What browsers say of the page that makes a request (W3C Fetch Metadata). Nothing else sends it.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Through which kind of socket a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Door {
    /// A loopback port, which browsers can reach.
    Loopback,
    /// A port that others can reach.
    Open,
    /// A unix socket, which they cannot; `Host` means nothing there.
    Unix {
        /// The user on the other side, if the system knows.
        uid: Option<u32>,
    },
}

/// The middleware around every answer: turns strangers away and names those who stay.
pub(super) async fn screen(State(sources): State<Arc<Sources>>, mut request: Request, next: Next) -> Response {
    let door = request.extensions().get::<Door>().copied().unwrap_or(Door::Open);
    let snapshot = sources.overview.snapshot.load_full();
    let admin = &snapshot.admin;
    let known = match objection(door, request.uri(), request.headers(), &admin.allowed_hosts) {
        Some(objection) => Err(Problem::new(StatusCode::FORBIDDEN, objection)),
        None => recognise(door, request.method(), request.headers(), &admin.tokens),
    };
    let mut response = match known {
        Err(problem) => problem.into_response(),
        Ok(known) => {
            if let Some(caller) = caller(known).await {
                request.extensions_mut().insert(caller);
            }
            next.run(request).await
        }
    };
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// What is wrong with where a request comes from.
fn objection(door: Door, uri: &Uri, headers: &HeaderMap, allowed: &[String]) -> Option<&'static str> {
    let host = match single(headers, &HOST) {
        Ok(host) => host,
        Err(()) => return Some("More than one Host, or one that is not text."),
    };
    let hosts = [host, uri.authority().map(http::uri::Authority::as_str)];
    if !hosts.into_iter().flatten().all(|host| is_ours(door, host, allowed)) {
        return Some(match door {
            Door::Open => "Host has to be an address, or one of the config's admin.allowed_hosts.",
            _ => "Host has to be localhost, a loopback address, or one of the config's admin.allowed_hosts.",
        });
    }
    match single(headers, &SEC_FETCH_SITE) {
        Ok(None | Some("none" | "same-origin")) => {}
        _ => return Some("Pages of other sites may not use the admin API."),
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

/// Whether `host` is a name under which this listener may be asked: one that no stranger can point at it.
fn is_ours(door: Door, host: &str, allowed: &[String]) -> bool {
    if let Door::Unix { .. } = door {
        return true;
    }
    let bare = bare_host(host);
    if bare == "localhost" || allowed.iter().any(|allowed| *allowed == bare) {
        return true;
    }
    let unbracketed = bare.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(&bare);
    unbracketed.parse().is_ok_and(|ip: IpAddr| door == Door::Open || ip.to_canonical().is_loopback())
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
        objection(door, &Uri::from_static("/livez"), &headers, &["tidegate.internal".to_owned()]).is_none()
    }

    const UNIX: Door = Door::Unix { uid: None };

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
            ("tidegate.internal:9901", true),
            ("", false),
        ] {
            assert_eq!(is_welcome(Door::Loopback, &[(HOST, host)]), welcome, "{host}");
            assert!(is_welcome(UNIX, &[(HOST, host)]), "{host}");
        }
        assert!(is_welcome(Door::Loopback, &[]), "HTTP/1.0 has no Host");
        assert!(!is_welcome(Door::Loopback, &[(HOST, "localhost"), (HOST, "evil.example")]));
    }

    #[test]
    fn an_open_port_is_asked_by_its_address_or_a_configured_name() {
        for (host, welcome) in [
            ("10.0.0.1:9901", true),
            ("[fd00::1]:9901", true),
            ("localhost", true),
            ("Tidegate.Internal:9901", true),
            ("evil.example:9901", false),
            ("10.0.0.1.evil.example", false),
        ] {
            assert_eq!(is_welcome(Door::Open, &[(HOST, host)]), welcome, "{host}");
        }
    }

    #[test]
    fn a_browser_tells_of_pages_of_other_sites() {
        for (site, welcome) in [("none", true), ("same-origin", true), ("same-site", false), ("cross-site", false)] {
            for door in [Door::Loopback, Door::Open, UNIX] {
                assert_eq!(is_welcome(door, &[(HOST, "127.0.0.1"), (SEC_FETCH_SITE, site)]), welcome, "{site}");
            }
        }
    }

    #[test]
    fn a_target_that_names_a_host_is_held_to_it() {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_static("localhost"));
        let foreign = Uri::from_static("http://evil.example/livez");
        assert!(objection(Door::Loopback, &foreign, &headers, &[]).is_some());
    }

    #[test]
    fn pages_of_other_origins_are_turned_away() {
        for (origin, welcome) in [
            ("http://127.0.0.1:9901", true),
            ("http://127.0.0.1:3000", false),
            ("https://evil.example", false),
            ("null", false),
        ] {
            for door in [Door::Loopback, Door::Open, UNIX] {
                assert_eq!(is_welcome(door, &[(HOST, "127.0.0.1:9901"), (ORIGIN, origin)]), welcome, "{origin}");
            }
        }
    }
}
