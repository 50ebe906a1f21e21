//! Which headers go through, which stay behind, and which are ours.
//!
//! What a client sends is stripped first and ours is added after, so that nothing that a client names can take away what
//! we say (CVE-2024-45410 and its kin).

use std::net::Ipv6Addr;

use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, HeaderMap, HeaderName, HeaderValue, TRAILER, TRANSFER_ENCODING,
};

/// The rollout's name, to the backend.
pub const ROLLOUT: HeaderName = HeaderName::from_static("x-tidegate-rollout");
/// `old` or `new`, to the backend, and to the client where `expose_side` is set.
pub const SIDE: HeaderName = HeaderName::from_static("x-tidegate-side");
/// Why, to the backend.
pub const REASON: HeaderName = HeaderName::from_static("x-tidegate-reason");
/// The request's id, kept if it is a sane one, else made.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The addresses that a request came through.
pub const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// The scheme that the client used.
pub const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// The host that the client asked for.
pub const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Whose certificate a client has shown: its subject, as RFC 4514 writes it.
pub const CLIENT_SUBJECT: HeaderName = HeaderName::from_static("x-client-cert-subject");
/// The first URI that this certificate is for.
pub const CLIENT_URI: HeaderName = HeaderName::from_static("x-client-cert-uri");

/// What a header name means to a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Passed on as it is.
    EndToEnd,
    /// Meant for us alone (RFC 9110 §7.6.1), or an offer that we do not make.
    HopByHop,
    /// Ours to say.
    Own,
    /// `x-forwarded-*` and `forwarded`: believed from trusted proxies only.
    Forwarded,
    /// Another spelling of a name above, for servers that read `_` or `.` as `-`.
    Alias,
}

fn kind(name: &str) -> Kind {
    match name {
        _ if is_hop_by_hop(name) => Kind::HopByHop,
        "x-forwarded-for" | "x-forwarded-proto" | "x-forwarded-host" | "x-forwarded-port" | "forwarded" => {
            Kind::Forwarded
        }
        "x-client-cert-subject" | "x-client-cert-uri" => Kind::Own,
        _ if name.starts_with("x-tidegate-") => Kind::Own,
        _ if name.bytes().any(|b| matches!(b, b'_' | b'.')) => alias(name),
        _ => Kind::EndToEnd,
    }
}

fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "http2-settings"
            | "expect"
    )
}

/// Names with `_` or `.` are aliases of every name that means something to us or to the one behind us.
#[cold]
fn alias(name: &str) -> Kind {
    let spelt = name.replace(['_', '.'], "-");
    let is_ours = spelt == REQUEST_ID.as_str() || is_protected(&spelt) || kind(&spelt) != Kind::EndToEnd;
    if is_ours { Kind::Alias } else { Kind::EndToEnd }
}

/// End-to-end names that a client must not declare hop-by-hop: without them the backend would see a different request.
fn is_protected(name: &str) -> bool {
    matches!(
        name,
        "host" | "cookie" | "authorization" | "content-length" | "content-type" | "transfer-encoding" | "x-request-id"
    ) || name.starts_with("x-forwarded-")
        || name.starts_with("x-tidegate-")
        || name == "forwarded"
}

/// What one look over a message's headers found, so that they are not searched again and again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// How many `host` lines there are.
    pub hosts: usize,
    /// `content-length` is there.
    pub content_length: bool,
    /// `connection` is there.
    pub connection: bool,
    /// `transfer-encoding` is there.
    pub transfer_encoding: bool,
    /// `expect` is there.
    pub expect: bool,
    /// `upgrade` is there.
    pub upgrade: bool,
    /// `te` is there.
    pub te: bool,
    /// `x-request-id` is there, and sane.
    pub request_id: bool,
    /// `accept` names HTML.
    pub html: bool,
    /// It is a call of gRPC.
    pub grpc: bool,
    strip: bool,
    forwarded: bool,
}

/// Looks over the headers once.
#[must_use]
pub fn survey(headers: &HeaderMap) -> Survey {
    let mut found = Survey::default();
    for (name, value) in headers {
        match name.as_str() {
            "host" => found.hosts += 1,
            "content-length" => found.content_length = true,
            "x-request-id" => found.request_id = is_sane_id(value),
            "content-type" => found.grpc |= is_grpc_kind(value),
            "accept" => found.html = memchr::memmem::find(value.as_bytes(), b"text/html").is_some(),
            name => found.note(name),
        }
    }
    found
}

impl Survey {
    fn note(&mut self, name: &str) {
        match kind(name) {
            Kind::EndToEnd => return,
            Kind::Forwarded => self.forwarded = true,
            Kind::HopByHop | Kind::Own | Kind::Alias => self.strip = true,
        }
        match name {
            "connection" => self.connection = true,
            "transfer-encoding" => self.transfer_encoding = true,
            "expect" => self.expect = true,
            "upgrade" => self.upgrade = true,
            "te" => self.te = true,
            _ => {}
        }
    }
}

/// Whether `connection` names a header that a client must not take away. `keys` are those that decide.
#[must_use]
pub fn nominates_protected(headers: &HeaderMap, mut is_key: impl FnMut(&str) -> bool) -> bool {
    nominated(headers).any(|name| is_protected(&name) || is_key(&name))
}

/// The names in `connection`, in lower case.
fn nominated(headers: &HeaderMap) -> impl Iterator<Item = String> + '_ {
    headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|b| *b == b','))
        .map(|name| String::from_utf8_lossy(name.trim_ascii()).to_ascii_lowercase())
        .filter(|name| !name.is_empty())
}

/// Takes out of a request what is not for the backend: hop-by-hop headers, those that `connection` names, what is ours to
/// say, and, unless the peer is trusted, what others claim about the way the request came.
pub fn strip_request(headers: &mut HeaderMap, survey: Survey, trusted: bool) {
    if survey.connection {
        strip_nominated(headers);
    }
    if survey.strip {
        strip_kinds(headers, |kind| matches!(kind, Kind::HopByHop | Kind::Own | Kind::Alias));
    }
    if survey.forwarded && !trusted {
        strip_kinds(headers, |kind| kind == Kind::Forwarded);
    }
}

/// By which gRPC tells how a call went, here or in a trailer.
pub const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// Whether this is a call of gRPC.
#[must_use]
pub fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(is_grpc_kind)
}

/// Whether this is gRPC's `content-type`: `application/grpc`, with a suffix such as `+proto`; not gRPC-Web.
fn is_grpc_kind(kind: &HeaderValue) -> bool {
    matches!(kind.as_bytes().strip_prefix(b"application/grpc"), Some([] | [b'+' | b';', ..]))
}

/// What one look over a response's headers found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResponseSurvey {
    /// `transfer-encoding` is there.
    pub transfer_encoding: bool,
    /// `grpc-status` is there.
    pub grpc_status: bool,
    connection: bool,
    hop_by_hop: bool,
}

/// Looks over the headers once.
#[must_use]
pub fn survey_response(headers: &HeaderMap) -> ResponseSurvey {
    let mut found = ResponseSurvey::default();
    for name in headers.keys().map(HeaderName::as_str) {
        if is_not_for_the_client(name) {
            found.hop_by_hop = true;
            found.connection |= name == "connection";
            found.transfer_encoding |= name == "transfer-encoding";
        } else {
            found.grpc_status |= name == GRPC_STATUS.as_str();
        }
    }
    found
}

/// Hop-by-hop headers, and what only tidegate may say.
fn is_not_for_the_client(name: &str) -> bool {
    is_hop_by_hop(name) || name.starts_with("x-tidegate-")
}

/// Takes out of a response what is not for the client. `trailers` keeps `trailer`, which announces those that follow.
pub fn strip_response(headers: &mut HeaderMap, survey: ResponseSurvey, trailers: bool) {
    if !survey.hop_by_hop {
        return;
    }
    if survey.connection {
        strip_nominated(headers);
    }
    let announced = if trailers { headers.get(TRAILER).cloned() } else { None };
    strip_all(headers, is_not_for_the_client);
    if let Some(announced) = announced {
        headers.insert(TRAILER, announced);
    }
}

/// Takes out of trailers what has no place there (RFC 9110 §6.5.1): whoever adds them to a head would be told another one.
pub fn strip_trailers(trailers: &mut HeaderMap) {
    let is_out_of_place = |name: &str| is_protected(name) || kind(name) != Kind::EndToEnd || name == "content-encoding";
    strip_all(trailers, is_out_of_place);
}

/// Makes one `cookie` of its crumbs (RFC 9113 §8.2.3).
pub fn join_cookies(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes);
    if let (Some(first), Some(second)) = (crumbs.next(), crumbs.next()) {
        let all: Vec<&[u8]> = [first, second].into_iter().chain(crumbs).collect();
        let cookie = HeaderValue::from_bytes(&all.join(&b"; "[..])).expect("header values joined by blanks are one");
        headers.insert(COOKIE, cookie);
    }
}

/// Whether a value begins or ends with a blank, which HTTP/2 does not allow (RFC 9113 §8.2.1) and others would take away.
#[must_use]
pub fn is_padded(value: &HeaderValue) -> bool {
    let is_blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    is_blank(value.as_bytes().first()) || is_blank(value.as_bytes().last())
}

fn strip_nominated(headers: &mut HeaderMap) {
    let is_usual = |value: &HeaderValue| matches!(value.as_bytes(), b"close" | b"keep-alive");
    if headers.get_all(CONNECTION).iter().all(is_usual) {
        return; // names nothing
    }
    let names: Vec<String> = nominated(headers).filter(|name| !is_protected(name)).collect();
    for name in names {
        headers.remove(name.as_str());
    }
}

fn strip_kinds(headers: &mut HeaderMap, unwanted: impl Fn(Kind) -> bool) {
    strip_all(headers, |name| unwanted(kind(name)));
}

fn strip_all(headers: &mut HeaderMap, unwanted: impl Fn(&str) -> bool) {
    while let Some(name) = headers.keys().find(|name| unwanted(name.as_str())).cloned() {
        headers.remove(name);
    }
}

/// Takes out other spellings of a header that decides where requests go.
pub fn strip_aliases_of(headers: &mut HeaderMap, key: &str) {
    let aliases: Vec<HeaderName> = headers.keys().filter(|name| is_alias_of(name.as_str(), key)).cloned().collect();
    for alias in aliases {
        headers.remove(alias);
    }
}

fn is_alias_of(name: &str, key: &str) -> bool {
    let fold = |b: u8| if matches!(b, b'_' | b'.') { b'-' } else { b };
    name.len() == key.len() && name != key && name.bytes().map(fold).eq(key.bytes().map(fold))
}

/// Whether `host` is `uri-host [":" port]` (RFC 9110 §7.2), and one that every version of HTTP can say: no `%`, which no service
/// has in its name, and which is read in more than one way.
#[must_use]
pub fn is_valid_host(host: &[u8]) -> bool {
    let (name, port) = match (host.first(), host.iter().rposition(|b| *b == b':')) {
        (Some(b'['), colon) => match (host.iter().position(|b| *b == b']'), colon) {
            (Some(end), Some(colon)) if colon == end + 1 => (&host[..=end], &host[colon + 1..]),
            (Some(end), _) if end + 1 == host.len() => (host, &[][..]),
            _ => return false,
        },
        (_, Some(colon)) => (&host[..colon], &host[colon + 1..]),
        _ => (host, &[][..]),
    };
    let is_name = match name {
        [b'[', address @ .., b']'] => {
            std::str::from_utf8(address).is_ok_and(|address| address.parse::<Ipv6Addr>().is_ok())
        }
        name => !name.is_empty() && name.iter().all(|b| IN_NAME[usize::from(*b)]),
    };
    is_name && port.len() <= 5 && port.iter().all(u8::is_ascii_digit)
}

/// The bytes of a registered name (RFC 3986 §3.2.2), but for `%`.
const IN_NAME: [bool; 256] = table(b"-._~!$&'()*+,;=abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789");

const fn table(members: &[u8]) -> [bool; 256] {
    let mut table = [false; 256];
    let mut at = 0;
    while at < members.len() {
        table[members[at] as usize] = true;
        at += 1;
    }
    table
}

/// What `transfer-encoding` says, beyond the framing that hyper has already read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// `chunked`, once: framing only.
    Chunked,
    /// `chunked` more than once.
    Repeated,
    /// Something that we would have to take off or relabel.
    Other,
}

/// Reads `transfer-encoding`.
#[must_use]
pub fn coding(headers: &HeaderMap) -> Option<Coding> {
    let mut codings = headers
        .get_all(TRANSFER_ENCODING)
        .iter()
        .flat_map(|value| value.as_bytes().split(|b| *b == b','))
        .map(<[u8]>::trim_ascii);
    let first = codings.next()?;
    let is_chunked = |coding: &[u8]| coding.eq_ignore_ascii_case(b"chunked");
    let (mut all_chunked, mut count) = (is_chunked(first), 1);
    for coding in codings {
        all_chunked &= is_chunked(coding);
        count += 1;
    }
    Some(match (all_chunked, count) {
        (true, 1) => Coding::Chunked,
        (true, _) => Coding::Repeated,
        (false, _) => Coding::Other,
    })
}

/// Makes the framing headers of a request say what its body is, and nothing else: one canonical length, or chunked.
/// `has_length` says that the client sent a length.
pub fn frame_request(headers: &mut HeaderMap, length: Option<u64>, has_length: bool, has_body: bool) {
    match length {
        Some(length) if has_length || length > 0 => set_length(headers, length),
        Some(_) => {}
        None if has_body => {
            headers.remove(CONTENT_LENGTH);
            // Without this hyper's client drops the body of a GET, HEAD or OPTIONS whose length is not known.
            headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        None => {}
    }
}

fn set_length(headers: &mut HeaderMap, length: u64) {
    let mut written = headers.get_all(CONTENT_LENGTH).iter();
    let is_canonical = match (written.next(), written.next()) {
        (Some(only), None) => {
            matches!(only.as_bytes(), [b'1'..=b'9', rest @ ..] if rest.iter().all(u8::is_ascii_digit))
        }
        _ => false,
    };
    if !is_canonical {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
}

/// The value of the cookie `name`, if the client sent one.
#[must_use]
pub fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    headers
        .get_all(COOKIE)
        .iter()
        .flat_map(|value| value.as_bytes().split(|b| *b == b';'))
        .filter_map(|pair| pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"="))
        .map(|value| value.strip_prefix(b"\"").and_then(|v| v.strip_suffix(b"\"")).unwrap_or(value))
        .next()
}

/// Whether an id from outside may be passed on and logged: 1 to 128 visible ASCII characters.
#[must_use]
pub fn is_sane_id(id: &HeaderValue) -> bool {
    (1..=128).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        let parse = |(name, value): &(&str, &str)| {
            (HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap())
        };
        lines.iter().map(parse).collect()
    }

    #[test]
    fn a_host_is_one_in_http_2_too() {
        for host in ["a", "a.b:80", "a:", "[::1]", "[::1]:8080", "192.0.2.1", "a_b", "a~!$&'()*+,;=b"] {
            assert!(is_valid_host(host.as_bytes()), "{host}");
            assert!(host.parse::<http::uri::Authority>().is_ok(), "{host}");
        }
        for host in ["a%41b", "%", "[", "[]", "[[::1]", "[1:2:3:4:5:6:7:8:9:a]", "[::1", "[.]", "[::1%25lo]", "a@b", ""]
        {
            assert!(!is_valid_host(host.as_bytes()), "{host}");
        }
    }

    #[test]
    fn trailers_say_nothing_that_is_ours_to_say() {
        let mut trailers = headers(&[
            ("x-client-cert-subject", "CN=other"),
            ("x_client_cert_subject", "CN=other"),
            ("x-tidegate-side", "new"),
            ("x_tidegate_side", "new"),
            ("grpc-status", "0"),
        ]);
        strip_trailers(&mut trailers);
        assert_eq!(trailers.keys().collect::<Vec<_>>(), ["grpc-status"]);
    }

    #[test]
    fn a_length_that_says_nothing_is_said_anew() {
        for written in ["", "00"] {
            let mut map = headers(&[("content-length", written)]);
            frame_request(&mut map, Some(0), true, false);
            assert_eq!(map["content-length"], "0", "{written:?}");
        }
    }

    fn stripped(lines: &[(&str, &str)], trusted: bool) -> Vec<String> {
        let mut map = headers(lines);
        let found = survey(&map);
        strip_request(&mut map, found, trusted);
        strip_aliases_of(&mut map, "x-user-id");
        map.keys().map(ToString::to_string).collect()
    }

    #[test]
    fn only_what_is_for_the_backend_reaches_it() {
        for (line, stays) in [
            (("accept", "*/*"), true),
            (("x-user-id", "7"), true),
            (("x_other", "7"), true),
            (("x_user_id", "7"), false),
            (("x.user.id", "7"), false),
            (("x_forwarded_for", "1.2.3.4"), false),
            (("x.forwarded.for", "1.2.3.4"), false),
            (("x_tidegate_side", "new"), false),
            (("x_request_id", "1"), false),
            (("transfer_encoding", "chunked"), false),
            (("x-tidegate-side", "new"), false),
            (("x-client-cert-subject", "CN=admin"), false),
            (("x_client_cert_subject", "CN=admin"), false),
            (("x.client-cert.uri", "spiffe://a/b"), false),
            (("keep-alive", "5"), false),
            (("te", "trailers"), false),
            (("upgrade", "h2c"), false),
            (("http2-settings", "AAA"), false),
            (("proxy-authorization", "basic"), false),
            (("expect", "100-continue"), false),
            (("x-forwarded-for", "1.2.3.4"), false),
            (("forwarded", "for=1.2.3.4"), false),
        ] {
            assert_eq!(!stripped(&[line], false).is_empty(), stays, "{line:?}");
        }
    }

    #[test]
    fn a_trusted_proxy_is_believed() {
        assert_eq!(stripped(&[("x-forwarded-for", "1.2.3.4")], true), ["x-forwarded-for"]);
        assert!(stripped(&[("x_forwarded_for", "1.2.3.4")], true).is_empty(), "but not in another spelling");
    }

    #[test]
    fn nominated_headers_go_and_protected_ones_may_not_be_nominated() {
        assert_eq!(stripped(&[("connection", "close, X-Hop"), ("x-hop", "1"), ("x-end", "2")], false), ["x-end"]);
        for name in ["Host", "cookie", "AUTHORIZATION", "X-Forwarded-For", "x-tidegate-side", "x-key", "content-length"]
        {
            let map = headers(&[("connection", &format!("close, {name}"))]);
            assert!(nominates_protected(&map, |name| name == "x-key"), "{name}");
        }
        assert!(!nominates_protected(&headers(&[("connection", "keep-alive, x-hop")]), |_| false));
    }

    #[test]
    fn hosts_are_a_name_or_address_and_a_port() {
        for (host, valid) in [
            ("pay.example.com", true),
            ("pay.example.com:8080", true),
            ("[::1]", true),
            ("[::1]:80", true),
            ("127.0.0.1", true),
            ("", false),
            ("a/b@c", false),
            ("a b", false),
            ("user@host", false),
            ("host:port", false),
            ("[::1", false),
            ("[::1]x", false),
            ("a:1:2", false),
            ("host:123456", false),
        ] {
            assert_eq!(is_valid_host(host.as_bytes()), valid, "{host}");
        }
    }

    #[test]
    fn codings_are_told_apart() {
        for (lines, told) in [
            (&[][..], None),
            (&[("transfer-encoding", "chunked")], Some(Coding::Chunked)),
            (&[("transfer-encoding", " Chunked ")], Some(Coding::Chunked)),
            (&[("transfer-encoding", "chunked, chunked")], Some(Coding::Repeated)),
            (&[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")], Some(Coding::Repeated)),
            (&[("transfer-encoding", "gzip, chunked")], Some(Coding::Other)),
            (&[("transfer-encoding", "cow"), ("transfer-encoding", "chunked")], Some(Coding::Other)),
            (&[("transfer-encoding", ",chunked")], Some(Coding::Other)),
            (&[("transfer-encoding", "identity, chunked")], Some(Coding::Other)),
        ] {
            assert_eq!(coding(&headers(lines)), told, "{lines:?}");
        }
    }

    #[test]
    fn framing_is_canonical() {
        for (before, length, has_body, after) in [
            (&[("content-length", "02")][..], Some(2), true, "content-length: 2"),
            (&[("content-length", "2"), ("content-length", "2")], Some(2), true, "content-length: 2"),
            (&[("content-length", "0")], Some(0), false, "content-length: 0"),
            (&[], None, true, "transfer-encoding: chunked"),
            (&[], Some(0), false, ""),
        ] {
            let mut map = headers(before);
            frame_request(&mut map, length, !before.is_empty(), has_body);
            let written: Vec<String> =
                map.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
            assert_eq!(written.join("\n"), after, "{before:?}");
        }
    }

    #[test]
    fn cookies_are_found_by_their_whole_name() {
        let map = headers(&[("cookie", "xuid=1; uid=2; b=\"3\""), ("cookie", "c=4")]);
        for (name, value) in [("uid", Some("2")), ("b", Some("3")), ("c", Some("4")), ("ui", None), ("x", None)] {
            assert_eq!(cookie(&map, name), value.map(str::as_bytes), "{name}");
        }
    }
}
