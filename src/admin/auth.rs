//! Whom the admin side obeys: who may only look, who may change, and under whose name that is written down.
//!
//! With tokens in the config a change needs one, unless it comes by the unix socket, which only its owner can open.
//! Without, there are only listeners that nobody outside the machine can reach. A token that is wrong is refused even
//! where none is needed: whoever sends it believes to be somebody.

use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use subtle::ConstantTimeEq as _;

use super::origin::Door;
use super::problem::Problem;
use crate::config::Token;
use crate::policy::actor::{Actor, Source};

const UNKNOWN_TOKEN: &str =
    "This token is not one that tidegate knows. A line that was added to admin.token_file counts after a reload.";

/// Who asks for a change.
#[derive(Clone, Debug)]
pub(super) struct Caller(pub(super) Actor);

/// What is known of who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known<'a> {
    /// Whose token it is.
    Named(&'a str),
    /// Somebody who came by the unix socket, with this user id.
    User(Option<u32>),
    /// Somebody on this machine.
    Local,
    /// Somebody who only looks.
    Nobody,
}

/// Who sends a request with `headers` through `door`, as far as it has to be known for `method`.
///
/// # Errors
/// 401: a wrong token, or none where one is needed.
pub(super) fn recognise<'a>(
    door: Door,
    method: &Method,
    headers: &HeaderMap,
    tokens: &'a [Token],
) -> Result<Known<'a>, Problem> {
    let mut sent = headers.get_all(AUTHORIZATION).iter();
    match (sent.next(), sent.next()) {
        (Some(only), None) => {
            let name = bearer(only).and_then(|token| named(token, tokens));
            name.map(Known::Named).ok_or_else(|| unauthorized(UNKNOWN_TOKEN))
        }
        (Some(_), Some(_)) => Err(unauthorized("More than one authorization.")),
        (None, _) if matches!(*method, Method::GET | Method::HEAD) => Ok(Known::Nobody),
        (None, _) => match door {
            Door::Unix { uid } => Ok(Known::User(uid)),
            Door::Loopback if tokens.is_empty() => Ok(Known::Local),
            Door::Loopback | Door::Open => Err(unauthorized(
                "A change needs a token: send `authorization: Bearer TOKEN`, with one from token_file.",
            )),
        },
    }
}

fn unauthorized(detail: &str) -> Problem {
    let scheme = HeaderValue::from_static("Bearer realm=\"tidegate\"");
    Problem::new(StatusCode::UNAUTHORIZED, detail).with_header(WWW_AUTHENTICATE, scheme)
}

/// The token in `Bearer TOKEN` (RFC 6750 §2.1; the scheme's case means nothing: RFC 9110 §11.1).
fn bearer(value: &HeaderValue) -> Option<&[u8]> {
    let (scheme, token) = value.as_bytes().split_at_checked(b"Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

/// Whose `token` it is. All are compared, each to its end, so that how long it takes tells nothing of them.
fn named<'a>(token: &[u8], tokens: &'a [Token]) -> Option<&'a str> {
    tokens.iter().fold(None, |found, known| {
        let is_it: bool = known.secret.expose().as_bytes().ct_eq(token).into();
        if is_it { Some(known.name.as_str()) } else { found }
    })
}

/// The one who asks, by name. May read a file.
pub(super) async fn caller(known: Known<'_>) -> Option<Caller> {
    let name = match known {
        Known::Nobody => return None,
        Known::Named(name) => name.to_owned(),
        Known::Local => "loopback".to_owned(),
        Known::User(None) => "unix socket".to_owned(),
        Known::User(Some(uid)) => {
            let name = tokio::task::spawn_blocking(move || user_name(uid)).await;
            name.ok().flatten().unwrap_or_else(|| format!("uid {uid}"))
        }
    };
    Some(Caller(Actor::new(Source::Operator, name)))
}

fn user_name(uid: u32) -> Option<String> {
    in_passwd(&std::fs::read_to_string("/etc/passwd").ok()?, uid)
}

/// The name of a user in a file of lines `name:password:uid:...` (passwd(5)).
fn in_passwd(passwd: &str, uid: u32) -> Option<String> {
    let name = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then_some(name)
    })?;
    let is_harmless = !name.is_empty() && !name.chars().any(char::is_control);
    is_harmless.then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    fn tokens() -> Vec<Token> {
        let token = |name: &str, secret| Token { name: name.into(), secret: Secret::new(secret) };
        vec![token("alice", "alice-0123456789abcdef"), token("ci", "ci-0123456789abcdef")]
    }

    fn asked<'a>(door: Door, method: &Method, sent: &[&str], tokens: &'a [Token]) -> Option<Known<'a>> {
        let mut headers = HeaderMap::new();
        for value in sent {
            headers.append(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        }
        recognise(door, method, &headers, tokens).ok()
    }

    #[test]
    fn a_change_needs_a_token_where_there_are_tokens() {
        let tokens = tokens();
        let unix = Door::Unix { uid: Some(0) };
        for (door, sent, who) in [
            (Door::Loopback, &[][..], None),
            (Door::Open, &[], None),
            (unix, &[], Some(Known::User(Some(0)))),
            (Door::Open, &["Bearer alice-0123456789abcdef"], Some(Known::Named("alice"))),
            (Door::Loopback, &["bearer ci-0123456789abcdef"], Some(Known::Named("ci"))),
            (unix, &["Bearer ci-0123456789abcdef"], Some(Known::Named("ci"))),
            (unix, &["Bearer ci-0123456789abcdeX"], None),
            (Door::Open, &["Bearer "], None),
            (Door::Open, &["Basic YWxpY2U6eA=="], None),
            (Door::Open, &["Bearer alice-0123456789abcde"], None),
            (Door::Open, &["Bearer alice-0123456789abcdef", "Bearer x"], None),
        ] {
            assert_eq!(asked(door, &Method::POST, sent, &tokens), who, "{door:?} {sent:?}");
        }
    }

    #[test]
    fn looking_needs_none_but_a_wrong_one_is_refused() {
        let tokens = tokens();
        for tokens in [&tokens[..], &[]] {
            assert_eq!(asked(Door::Loopback, &Method::GET, &[], tokens), Some(Known::Nobody));
            assert_eq!(asked(Door::Loopback, &Method::GET, &["Bearer nobody-has-this-one"], tokens), None);
            assert_eq!(asked(Door::Loopback, &Method::POST, &["Bearer nobody-has-this-one"], tokens), None);
        }
        assert_eq!(asked(Door::Loopback, &Method::POST, &[], &[]), Some(Known::Local));
        assert_eq!(asked(Door::Open, &Method::POST, &[], &[]), None);
    }

    #[test]
    fn users_have_names() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbroken\nalice:x:1000:1000::/home/alice:/bin/sh\n:x:7:7::/:/\n";
        for (uid, name) in [(0, Some("root")), (1000, Some("alice")), (1001, None), (7, None)] {
            assert_eq!(in_passwd(passwd, uid).as_deref(), name);
        }
    }
}
