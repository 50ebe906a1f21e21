//! What the policy wants to know of a request, read from its head.

use std::borrow::Cow;
use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use http::{HeaderName, Method, Uri};
use subtle::ConstantTimeEq as _;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::headers;
use super::peer::Peer;
use crate::config::{Bypass, Force, Secret};
use crate::policy::bucket::Bucket;
use crate::policy::decision::{OnMissing, Side, Subject};
use crate::policy::network::{Network, Trusted};
use crate::policy::path::percent_decode;
use crate::policy::route::Target;
use crate::snapshot::{KeySource, Rollout};

/// The cookie that keeps an anonymous user on one side, under `on_missing: cookie`.
pub const ANONYMOUS_COOKIE: &str = "tidegate-id";

/// The head of a request, as far as rules read it.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// Its method.
    pub method: &'a Method,
    /// Its target.
    pub uri: &'a Uri,
    /// Its headers.
    pub headers: &'a HeaderMap,
    /// The client's address, behind trusted proxies; `None` if it has none.
    pub client: Option<IpAddr>,
}

/// A header that decides where a request goes has two values: the backend may go by the other one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conflict;

/// What makes `request` sticky: the first of `sources` that is present.
///
/// # Errors
/// [`Conflict`], if a header among them came with two values.
pub fn key<'a>(request: &Head<'a>, sources: &[KeySource]) -> Result<Option<Cow<'a, [u8]>>, Conflict> {
    let mut found = None;
    for source in sources {
        let value = match source {
            // Looked at even behind one that was found: the backend may read this one.
            KeySource::Header(name) => single_value(request.headers, name)?.map(Cow::Borrowed),
            _ if found.is_some() => None,
            KeySource::Cookie(name) => headers::cookie(request.headers, name).map(Cow::Borrowed),
            KeySource::Query(name) => request.uri.query().and_then(|asked| query(asked, name)),
            KeySource::Path(nth) => path_segment(request.uri, *nth),
            KeySource::Jwt(claim) => {
                request.headers.get(AUTHORIZATION).and_then(|value| jwt_claim(value.as_bytes(), claim))
            }
            KeySource::ClientIp => request.client.map(|client| Cow::Owned(client.to_string().into_bytes())),
        };
        found = found.or_else(|| value.and_then(trimmed));
    }
    Ok(found)
}

/// The value of a header that decides, which may come twice but not say two things.
fn single_value<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a [u8]>, Conflict> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    if values.any(|value| Some(value) != first) {
        return Err(Conflict);
    }
    Ok(first.map(HeaderValue::as_bytes))
}

/// A key without the white space around it, if anything is left.
fn trimmed(value: Cow<'_, [u8]>) -> Option<Cow<'_, [u8]>> {
    let key = match value {
        Cow::Borrowed(bytes) => Cow::Borrowed(bytes.trim_ascii()),
        Cow::Owned(bytes) => Cow::Owned(bytes.trim_ascii().to_vec()),
    };
    Some(key).filter(|key| !key.is_empty())
}

fn path_segment(uri: &Uri, nth: usize) -> Option<Cow<'_, [u8]>> {
    uri.path().trim_start_matches('/').split('/').nth(nth).map(|segment| decoded(segment.as_bytes()))
}

fn query<'a>(query: &'a str, name: &str) -> Option<Cow<'a, [u8]>> {
    let value = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
    Some(decoded(value.as_bytes()))
}

fn decoded(text: &[u8]) -> Cow<'_, [u8]> {
    if text.contains(&b'%') { Cow::Owned(percent_decode(text)) } else { Cow::Borrowed(text) }
}

/// A claim of a bearer token (RFC 7519 §3), as text. The signature is the service's business: a forged token gets no more
/// than a place on one side.
fn jwt_claim(authorization: &[u8], claim: &str) -> Option<Cow<'static, [u8]>> {
    let (scheme, token) = authorization.split_at_checked(7)?;
    if !scheme.eq_ignore_ascii_case(b"bearer ") {
        return None;
    }
    let payload = token.trim_ascii().split(|b| *b == b'.').nth(1)?;
    let claims: serde_json::Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
    match claims.get(claim)? {
        serde_json::Value::String(text) => Some(Cow::Owned(text.clone().into_bytes())),
        number @ serde_json::Value::Number(_) => Some(Cow::Owned(number.to_string().into_bytes())),
        _ => None,
    }
}

/// The first address from the right of `x-forwarded-for` that is no trusted proxy; the peer's own unless it is one.
#[must_use]
pub fn client_behind(trusted: &Trusted, peer: &Peer, headers: &HeaderMap) -> Option<IpAddr> {
    let mut client = peer.ip();
    if !peer.is_trusted(trusted) {
        return client;
    }
    let lines: Vec<&HeaderValue> = headers.get_all(headers::FORWARDED_FOR).iter().collect();
    let hops = lines.iter().rev().flat_map(|line| line.as_bytes().rsplit(|b| *b == b','));
    for hop in hops {
        let Some(ip) = parse_hop(hop) else { return client };
        client = Some(ip);
        if !trusted.covers(client) {
            return client;
        }
    }
    client
}

fn comes_from(networks: &[Network], client: Option<IpAddr>) -> bool {
    client.is_some_and(|client| networks.iter().any(|network| network.contains(client)))
}

/// An address as proxies write it: bare, with a port, in brackets.
fn parse_hop(hop: &[u8]) -> Option<IpAddr> {
    let hop = std::str::from_utf8(hop.trim_ascii()).ok()?;
    let bare = hop.strip_prefix('[').and_then(|rest| rest.split(']').next());
    let with_port = || hop.parse().map(|address: std::net::SocketAddr| address.ip()).ok();
    bare.unwrap_or(hop).parse().ok().or_else(with_port).map(|ip: IpAddr| ip.to_canonical())
}

/// A request under one rollout, for [`crate::policy::decision::decide`].
#[derive(Debug)]
pub struct RolloutSubject<'a> {
    rollout: &'a Rollout,
    key: Option<Cow<'a, [u8]>>,
    forced: Option<Side>,
    stand_in: StandIn,
}

/// What stands in for a missing key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StandIn {
    /// Nothing: there is a key, or nobody asks.
    Nothing,
    /// A bucket of the moment.
    Random(u64),
    /// The id of an anonymous user, and whether it was made just now.
    Anonymous {
        /// 32 hexadecimal digits.
        id: String,
        /// Whether the client has to be told.
        is_new: bool,
    },
}

impl<'a> RolloutSubject<'a> {
    /// Reads from `request` what `rollout` needs to decide.
    ///
    /// # Errors
    /// [`Conflict`], if it has two keys.
    pub fn new(request: &Head<'a>, rollout: &'a Rollout) -> Result<Self, Conflict> {
        let key = key(request, &rollout.key)?;
        let stand_in = if key.is_some() { StandIn::Nothing } else { stand_in(request, rollout) };
        Ok(Self { rollout, key, forced: forced(request, &rollout.force), stand_in })
    }

    /// What stands in for the key.
    #[must_use]
    pub fn into_stand_in(self) -> StandIn {
        self.stand_in
    }
}

impl Subject for RolloutSubject<'_> {
    fn forced(&self) -> Option<Side> {
        self.forced
    }

    fn key(&self) -> Option<&[u8]> {
        self.key.as_deref()
    }

    fn digest(&self, key: &[u8]) -> u64 {
        salted(&self.rollout.salt, key)
    }

    fn stand_in(&self) -> Bucket {
        Bucket::of_digest(match &self.stand_in {
            StandIn::Nothing => 0,
            StandIn::Random(digest) => *digest,
            StandIn::Anonymous { id, .. } => salted(&self.rollout.salt, id.as_bytes()),
        })
    }
}

/// `xxh3_64(salt || key)`; the salt brings its separator.
fn salted(salt: &[u8], key: &[u8]) -> u64 {
    let mut joined = [0; 192];
    match joined.get_mut(..salt.len() + key.len()) {
        Some(joined) => {
            joined[..salt.len()].copy_from_slice(salt);
            joined[salt.len()..].copy_from_slice(key);
            xxh3_64(joined)
        }
        None => {
            let mut hasher = Xxh3::new();
            hasher.update(salt);
            hasher.update(key);
            hasher.digest()
        }
    }
}

fn stand_in(request: &Head<'_>, rollout: &Rollout) -> StandIn {
    match rollout.split.on_missing {
        OnMissing::Old | OnMissing::New => StandIn::Nothing,
        OnMissing::Random => StandIn::Random(fastrand::u64(..)),
        OnMissing::Cookie => match headers::cookie(request.headers, ANONYMOUS_COOKIE).and_then(anonymous_id) {
            Some(id) => StandIn::Anonymous { id: id.to_owned(), is_new: false },
            None => StandIn::Anonymous { id: format!("{:032x}", fastrand::u128(..)), is_new: true },
        },
    }
}

/// An id that we could have made; anything else in the cookie is ignored.
fn anonymous_id(cookie: &[u8]) -> Option<&str> {
    let is_ours = cookie.len() == 32 && cookie.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    std::str::from_utf8(cookie).ok().filter(|_| is_ours)
}

/// The side that an allowed tester asked for.
fn forced(request: &Head<'_>, force: &Force) -> Option<Side> {
    let from_header = force.header.as_ref().and_then(|name| request.headers.get(name)).map(HeaderValue::as_bytes);
    let from_cookie = || force.cookie.as_ref().and_then(|name| headers::cookie(request.headers, name));
    let value = from_header.or_else(from_cookie)?;
    let (side, token) = match value.iter().position(|b| *b == b':') {
        Some(colon) => (&value[..colon], Some(&value[colon + 1..])),
        None => (value, None),
    };
    let side = match side {
        b"always" => Side::New,
        b"never" => Side::Old,
        _ => return None,
    };
    let by_network = || comes_from(&force.networks, request.client);
    let by_token = |secret: &Secret| token.is_some_and(|token| secret.expose().as_bytes().ct_eq(token).into());
    (force.token.as_ref().is_some_and(by_token) || by_network()).then_some(side)
}

/// Whether a maintenance lets `request` pass: whom the config names, and whoever may choose a side under its rollout.
#[must_use]
pub fn passes_maintenance(request: &Head<'_>, bypass: &Bypass, force: Option<&Force>) -> bool {
    let from_header = || bypass.header.as_ref().and_then(|name| request.headers.get(name)).map(HeaderValue::as_bytes);
    let from_cookie = || bypass.cookie.as_ref().and_then(|name| headers::cookie(request.headers, name));
    let is_token = |secret: &Secret, value: Option<&[u8]>| {
        value.is_some_and(|value| secret.expose().as_bytes().ct_eq(value).into())
    };
    let by_token = |secret| is_token(secret, from_header()) || is_token(secret, from_cookie());
    comes_from(&bypass.networks, request.client)
        || bypass.token.as_ref().is_some_and(by_token)
        || force.is_some_and(|force| forced(request, force).is_some())
}

/// A request for [`crate::policy::route::Routes::find`], read by one spelling of its path.
#[derive(Debug)]
pub struct RouteTarget<'a> {
    /// The rest of it.
    pub head: Head<'a>,
    /// The host in lower case, without its port.
    pub host: &'a str,
    /// The path by which it is judged.
    pub path: &'a str,
}

impl Target for RouteTarget<'_> {
    fn host(&self) -> &str {
        self.host
    }

    fn path(&self) -> &str {
        self.path
    }

    fn method(&self) -> &str {
        self.head.method.as_str()
    }

    fn header(&self, name: &str) -> Option<&[u8]> {
        self.head.headers.get(name).map(HeaderValue::as_bytes)
    }
}

/// `host` as routes compare it: lower case, without its port and a final dot.
#[must_use]
pub fn bare_host(host: &str) -> Cow<'_, str> {
    let end = match host.rfind(':') {
        Some(colon) if !host.ends_with(']') => colon,
        _ => host.len(),
    };
    let bare = host[..end].trim_end_matches('.');
    if bare.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(bare.to_ascii_lowercase())
    } else {
        Cow::Borrowed(bare)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::bucket::{Hash, Percent};

    const CLIENT: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7)));

    fn key_of(uri: &str, lines: &[(&'static str, &str)], sources: &[KeySource]) -> Option<String> {
        let headers: HeaderMap = lines
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()))
            .collect();
        let uri: Uri = uri.parse().unwrap();
        let head = Head { method: &Method::GET, uri: &uri, headers: &headers, client: CLIENT };
        key(&head, sources).unwrap().map(|key| String::from_utf8(key.into_owned()).unwrap())
    }

    #[test]
    fn keys_come_from_wherever_they_are_said_to_stand() {
        let header = || KeySource::Header(HeaderName::from_static("x-user-id"));
        let token = format!("Bearer e30.{}.sig", URL_SAFE_NO_PAD.encode(r#"{"sub":"u7","tenant":42}"#));
        for (uri, lines, source, key) in [
            ("/", &[("x-user-id", " 7 ")][..], header(), Some("7")),
            ("/", &[("x-user-id", "  ")], header(), None),
            ("/", &[], header(), None),
            ("/", &[("cookie", "a=1; uid=8")], KeySource::Cookie("uid".into()), Some("8")),
            ("/?user_id=9&x=1", &[], KeySource::Query("user_id".into()), Some("9")),
            ("/?xuser_id=9", &[], KeySource::Query("user_id".into()), None),
            ("/?id=a%20b", &[], KeySource::Query("id".into()), Some("a b")),
            ("/t/acme/pay", &[], KeySource::Path(1), Some("acme")),
            ("/t", &[], KeySource::Path(1), None),
            ("/", &[("authorization", &token)], KeySource::Jwt("sub".into()), Some("u7")),
            ("/", &[("authorization", &token)], KeySource::Jwt("tenant".into()), Some("42")),
            ("/", &[("authorization", "Bearer rubbish")], KeySource::Jwt("sub".into()), None),
            ("/", &[], KeySource::ClientIp, Some("192.0.2.7")),
        ] {
            assert_eq!(
                key_of(uri, lines, std::slice::from_ref(&source)).as_deref(),
                key,
                "{source:?} in {uri} {lines:?}"
            );
        }
    }

    #[test]
    fn the_first_source_that_is_present_wins() {
        let sources = [KeySource::Cookie("uid".into()), KeySource::Query("uid".into())];
        assert_eq!(key_of("/?uid=2", &[("cookie", "uid=1")], &sources).as_deref(), Some("1"));
        assert_eq!(key_of("/?uid=2", &[], &sources).as_deref(), Some("2"));
    }

    #[test]
    fn the_client_is_the_first_untrusted_hop_from_the_right() {
        let trusted = Trusted { networks: vec!["10.0.0.0/8".parse().unwrap()], unix: true };
        for (peer, forwarded, client) in [
            ("203.0.113.9", &["1.2.3.4"][..], "203.0.113.9"),
            ("10.0.0.1", &["1.2.3.4"], "1.2.3.4"),
            ("10.0.0.1", &["6.6.6.6, 1.2.3.4, 10.0.0.2"], "1.2.3.4"),
            ("10.0.0.1", &["6.6.6.6", "1.2.3.4"], "1.2.3.4"),
            ("10.0.0.1", &["1.2.3.4:5678"], "1.2.3.4"),
            ("10.0.0.1", &["[2001:db8::1]:443"], "2001:db8::1"),
            ("10.0.0.1", &["unknown"], "10.0.0.1"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("unix", &["1.2.3.4, 10.0.0.2"], "1.2.3.4"),
            ("unix", &[], ""),
            ("unix", &["unknown"], ""),
            ("somebody behind 10.0.0.1", &["1.2.3.4"], "10.0.0.1"),
        ] {
            let lines = forwarded.iter().map(|v| (headers::FORWARDED_FOR, HeaderValue::from_str(v).unwrap()));
            let mut map = HeaderMap::new();
            lines.for_each(|(name, value)| {
                map.append(name, value);
            });
            let at = |ip: &str| Peer::between((ip.parse::<IpAddr>().unwrap(), 1).into(), ([192, 0, 2, 1], 2).into());
            let from = match peer.strip_prefix("somebody behind ") {
                Some(proxy) => Peer { is_itself: false, ..at(proxy) },
                None if peer == "unix" => Peer::local(),
                None => at(peer),
            };
            assert_eq!(client_behind(&trusted, &from, &map), client.parse().ok(), "{peer} {forwarded:?}");
        }
    }

    #[test]
    fn testers_are_heard_only_with_a_token_or_from_their_network() {
        let force = Force {
            header: Some("x-canary".into()),
            cookie: Some("canary".into()),
            token: Some(Secret::new("s3cret\n")),
            networks: vec![],
        };
        let from_office = Force { token: None, networks: vec!["192.0.2.0/24".parse().unwrap()], ..force.clone() };
        for (force, name, value, side) in [
            (&force, "x-canary", "always:s3cret", Some(Side::New)),
            (&force, "x-canary", "never:s3cret", Some(Side::Old)),
            (&force, "cookie", "canary=always:s3cret", Some(Side::New)),
            (&force, "x-canary", "always", None),
            (&force, "x-canary", "always:guess", None),
            (&force, "x-canary", "sometimes:s3cret", None),
            (&from_office, "x-canary", "always", Some(Side::New)),
            (&from_office, "cookie", "canary=never", Some(Side::Old)),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
            let uri = Uri::from_static("/");
            let head = Head { method: &Method::GET, uri: &uri, headers: &headers, client: CLIENT };
            assert_eq!(forced(&head, force), side, "{name}: {value}");
        }
    }

    #[test]
    fn a_maintenance_lets_pass_whom_it_should() {
        let bypass = Bypass {
            header: Some("x-look".into()),
            cookie: Some("look".into()),
            token: Some(Secret::new("s3cret\n")),
            networks: vec![],
        };
        let by_network = Bypass { networks: vec!["192.0.2.0/24".parse().unwrap()], ..Bypass::default() };
        let elsewhere = Bypass { networks: vec!["198.51.100.0/24".parse().unwrap()], ..Bypass::default() };
        let force =
            Force { header: Some("x-canary".into()), networks: by_network.networks.clone(), ..Force::default() };
        for (bypass, force, name, value, passes) in [
            (&bypass, None, "x-look", "s3cret", true),
            (&bypass, None, "x-look", "s3cre", false),
            (&bypass, None, "x-look", "", false),
            (&bypass, None, "cookie", "look=s3cret", true),
            (&bypass, None, "cookie", "other=s3cret", false),
            (&by_network, None, "x-look", "", true),
            (&elsewhere, None, "x-look", "", false),
            (&elsewhere, Some(&force), "x-canary", "always", true),
            (&elsewhere, Some(&force), "x-canary", "rubbish", false),
            (&elsewhere, None, "x-canary", "always", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
            let uri = Uri::from_static("/");
            let head = Head { method: &Method::GET, uri: &uri, headers: &headers, client: CLIENT };
            assert_eq!(passes_maintenance(&head, bypass, force), passes, "{name}: {value}");
        }
    }

    #[test]
    fn buckets_are_those_of_the_published_vectors() {
        let vectors = include_str!("../../docs/bucket-vectors.csv").lines().skip(1);
        for vector in vectors {
            let [hash, salt, key, bucket] = vector.split(',').collect::<Vec<_>>().try_into().unwrap();
            let hash = if hash == "xxh3" { Hash::Xxh3 } else { Hash::Modulo };
            let salt = [salt.as_bytes(), b"\x1f"].concat();
            let found = Bucket::of_key(key.as_bytes(), hash, || salted(&salt, key.as_bytes()));
            assert_eq!(found.get().to_string(), bucket, "{vector}");
        }
    }

    #[test]
    fn ten_thousand_random_ids_split_as_the_percent_says() {
        let mut ids = fastrand::Rng::with_seed(7);
        for (hash, percent) in [(Hash::Modulo, 5.0), (Hash::Xxh3, 5.0), (Hash::Modulo, 50.0), (Hash::Xxh3, 50.0)] {
            let line = Percent::from_f64(percent).unwrap();
            let bucket = |id: String| Bucket::of_key(id.as_bytes(), hash, || salted(b"s\x1f", id.as_bytes()));
            let on_new = (0..10_000).filter(|_| line.covers(bucket(ids.u64(..).to_string()))).count();
            let expected = percent * 100.0;
            let sigma = (expected * (1.0 - percent / 100.0)).sqrt();
            let off = (f64::from(u32::try_from(on_new).unwrap()) - expected).abs();
            assert!(off < 5.0 * sigma, "{hash:?} at {percent} %: {on_new}");
        }
    }

    #[test]
    fn long_keys_hash_like_short_ones() {
        for length in [0, 1, 100, 191, 192, 193, 5000] {
            let key = vec![b'k'; length];
            assert_eq!(salted(b"s\x1f", &key), xxh3_64(&[b"s\x1f".as_slice(), &key].concat()), "{length}");
        }
    }

    #[test]
    fn hosts_are_compared_bare() {
        for (host, bare) in
            [("Pay.Example.COM:8080", "pay.example.com"), ("a.", "a"), ("[::1]:80", "[::1]"), ("[::1]", "[::1]")]
        {
            assert_eq!(bare_host(host), bare);
        }
    }
}
