//! Which route a request takes, by both readings of its path.

use std::borrow::Cow;

use http::header::HOST;
use http::uri::Authority;

use super::subject::{Head, RouteTarget, bare_host};
use crate::policy::path::normalise;
use crate::policy::route::Routes;
use crate::snapshot::Destination;

/// The path as it is written and the path as a backend may read it lead to different routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ambiguous;

/// The first route that covers the request, by its place in the order, and where it leads.
///
/// # Errors
/// [`Ambiguous`], if the two readings of the path disagree: then whoever wrote it could choose the side.
pub fn find(routes: &Routes<Destination>, head: Head<'_>) -> Result<Option<(usize, Destination)>, Ambiguous> {
    let host = if routes.reads_hosts() { asked_host(&head) } else { Cow::Borrowed("") };
    let first = |path| routes.find(&RouteTarget { head, host: &host, path }).map(|(at, to)| (at, *to));
    let written = head.uri.path();
    let found = first(written);
    if routes.reads_paths() {
        let meant = normalise(written);
        if meant != written && first(&meant).map(|(at, _)| at) != found.map(|(at, _)| at) {
            return Err(Ambiguous);
        }
    }
    Ok(found)
}

fn asked_host<'a>(head: &Head<'a>) -> Cow<'a, str> {
    let from_header = || head.headers.get(HOST).and_then(|host| host.to_str().ok());
    bare_host(head.uri.authority().map(Authority::as_str).or_else(from_header).unwrap_or_default())
}
