//! What single values mean: durations, sizes, percents, addresses, names. Each function says what is wrong and what is
//! allowed; none repeats the value, which may have come from a variable that holds a secret.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use super::endpoint::{socket_path, split_port};
use super::error::Complaint;
use super::raw::{self, Scalar};
use super::{KeySource, ListenAddress, NotUrl, Url};
use crate::policy::bucket::Percent;
use crate::policy::network::Network;
use crate::policy::ramp::StepHold;

pub(super) type Checked<T> = Result<T, Complaint>;

const DURATIONS: &str = "a whole number and its unit, such as 250ms, 10s, 30m or 24h";
const SIZES: &str = "bytes, or a whole number and its unit, such as 64KiB or 10MB";
const PERCENTS: &str = "0 to 100, at most two decimals, such as 5, 12.5 or 5%";
const ADDRESSES: &str = "an IP address and a port, such as 127.0.0.1:8080, or unix:/PATH";
const KEY_SOURCES: &str = "header:NAME, cookie:NAME, query:NAME, path:N, jwt:CLAIM, client_ip";

/// A duration that may be zero. A year is the most, so that adding it to a clock never overflows.
pub(super) fn duration(written: &raw::Duration) -> Checked<Duration> {
    const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);
    let malformed = || Complaint::new("this is not a duration").allowed(DURATIONS);
    let Scalar::Text(text) = &written.0 else {
        return Err(Complaint::new("a duration needs a unit").allowed(DURATIONS));
    };
    let (number, unit) = split_unit(text).ok_or_else(malformed)?;
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "" => return Err(Complaint::new("a duration needs a unit").allowed(DURATIONS)),
        _ => return Err(malformed()),
    };
    let duration = number.checked_mul(milliseconds).map(Duration::from_millis);
    duration.filter(|duration| *duration <= LONGEST).ok_or_else(|| Complaint::new("this is longer than a year"))
}

/// A duration during which something may happen: zero would never let it.
pub(super) fn timeout(written: &raw::Duration) -> Checked<Duration> {
    match duration(written)? {
        Duration::ZERO => Err(Complaint::new("this must be longer than zero").allowed(DURATIONS)),
        duration => Ok(duration),
    }
}

/// How long a step of a ramp lasts at least.
pub(super) fn step_hold(written: &raw::StepHold) -> Checked<StepHold> {
    match &written.0 {
        Scalar::Text(text) if text == "manual" => Ok(StepHold::Manual),
        scalar => {
            let duration = duration(&raw::Duration(scalar.clone())).map(StepHold::For);
            duration.map_err(|complaint| complaint.allowed(format!("{DURATIONS}; or manual")))
        }
    }
}

/// A size in bytes, within `range`.
pub(super) fn size(written: &raw::Size, range: RangeInclusive<u64>) -> Checked<u64> {
    let malformed = || Complaint::new("this is not a size").allowed(SIZES);
    let bytes = match &written.0 {
        Scalar::Integer(bytes) => u64::try_from(*bytes).map_err(|_| malformed())?,
        Scalar::Float(_) => return Err(malformed()),
        Scalar::Text(text) => {
            let (number, unit) = split_unit(text).ok_or_else(malformed)?;
            number.saturating_mul(bytes_of(unit).ok_or_else(malformed)?)
        }
    };
    within(bytes.into(), range, show_size)
}

fn bytes_of(unit: &str) -> Option<u64> {
    Some(match unit {
        "" | "B" => 1,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    })
}

fn show_size(bytes: u64) -> String {
    [(30, "GiB"), (20, "MiB"), (10, "KiB")]
        .into_iter()
        .find(|(bits, _)| bytes != 0 && bytes.is_multiple_of(1 << bits))
        .map_or_else(|| format!("{bytes}B"), |(bits, unit)| format!("{}{unit}", bytes >> bits))
}

fn split_unit(text: &str) -> Option<(u64, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit.strip_prefix(' ').unwrap_or(unit)))
}

fn within(value: i128, range: RangeInclusive<u64>, show: impl Fn(u64) -> String) -> Checked<u64> {
    let (least, most) = (*range.start(), *range.end());
    let allowed = match most {
        u64::MAX => format!("at least {}", show(least)),
        _ => format!("{} to {}", show(least), show(most)),
    };
    match u64::try_from(value) {
        Ok(value) if range.contains(&value) => Ok(value),
        _ if value < least.into() => Err(Complaint::new(format!("this is below {}", show(least))).allowed(allowed)),
        _ => Err(Complaint::new(format!("this is above {}", show(most))).allowed(allowed)),
    }
}

/// A size that is kept in memory.
pub(super) fn memory(written: &raw::Size, range: RangeInclusive<u64>) -> Checked<usize> {
    size(written, range).and_then(fitting)
}

/// A number of things, within `range`.
pub(super) fn count(written: &Scalar, range: RangeInclusive<u64>) -> Checked<usize> {
    number(written, range).and_then(fitting)
}

/// A number of things that may be none.
pub(super) fn amount(written: &raw::Amount) -> Checked<u64> {
    number(&written.0, 0..=u64::MAX)
}

fn number(written: &Scalar, range: RangeInclusive<u64>) -> Checked<u64> {
    match written {
        Scalar::Integer(number) => within(*number, range, |number| number.to_string()),
        Scalar::Float(_) | Scalar::Text(_) => {
            Err(Complaint::new("this is not a whole number").allowed("a whole number"))
        }
    }
}

fn fitting(number: u64) -> Checked<usize> {
    usize::try_from(number).map_err(|_| Complaint::new("this is more than the machine can count"))
}

/// `auto` is `None`.
pub(super) fn workers(written: &raw::Workers) -> Checked<Option<NonZeroUsize>> {
    match &written.0 {
        Scalar::Text(text) if text == "auto" => Ok(None),
        Scalar::Integer(_) => count(&written.0, 1..=1024).map(NonZeroUsize::new),
        _ => Err(Complaint::new("this is not a number of workers").allowed("auto, or 1 to 1024")),
    }
}

/// A percent, exact to two decimals.
pub(super) fn percent(written: &raw::Percent) -> Checked<Percent> {
    let complaint = |message: &str| Complaint::new(message).allowed(PERCENTS);
    let number = match &written.0 {
        #[expect(clippy::cast_precision_loss, reason = "numbers that lose precision are far above 100")]
        Scalar::Integer(number) => *number as f64,
        Scalar::Float(number) => *number,
        Scalar::Text(text) => {
            let digits = text.strip_suffix('%').unwrap_or(text).trim_end();
            digits.parse().map_err(|_| complaint("percent is not a number"))?
        }
    };
    match number {
        _ if number.is_nan() => Err(complaint("percent is not a number")),
        _ if number > 100.0 => Err(complaint("percent is above 100")),
        _ if number < 0.0 => Err(complaint("percent is below 0")),
        _ => Percent::from_f64(number).ok_or_else(|| complaint("percent has more than two decimals")),
    }
}

/// A name of a backend, a rollout or a route: it becomes a label of metrics and a part of URLs.
pub(super) fn name(name: &str) -> Checked<()> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    match name.len() {
        1..=63 if name.bytes().all(allowed) => Ok(()),
        _ => Err(Complaint::new("this name cannot be used")
            .found(name)
            .allowed("1 to 63 of the characters A-Z a-z 0-9 _ -")),
    }
}

/// The id of a rollback, as status shows it.
pub(super) fn latch_id(id: &str) -> Checked<String> {
    const LONGEST: usize = 100;
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    match (1..=LONGEST).contains(&id.len()) && id.bytes().all(allowed) {
        true => Ok(id.to_owned()),
        false => {
            Err(Complaint::new("this is not the id of a rollback")
                .allowed("an id as status shows it, such as ledger-1"))
        }
    }
}

/// What a request asks for: a path, and perhaps a query.
pub(super) fn target(text: &str) -> Checked<String> {
    let complaint = |message: &str| Complaint::new(message).allowed("a path such as /healthz");
    match text {
        _ if !text.starts_with('/') => Err(complaint("a path begins with /")),
        _ if !text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') => {
            Err(complaint("a path holds no spaces or special characters"))
        }
        _ => Ok(text.to_owned()),
    }
}

/// A path that requests are held against, to the letter.
pub(super) fn exact_path(text: &str) -> Checked<String> {
    target(text).and_then(|path| match path.contains('?') {
        true => Err(Complaint::new("a path holds no query").allowed("a path such as /healthz")),
        false => Ok(path),
    })
}

/// A place for a listener. The relative path of a socket starts at `folder`.
pub(super) fn listen_address(text: &str, folder: &Path) -> Checked<ListenAddress> {
    match text.strip_prefix("unix:") {
        Some(path) => socket_path(path, folder).map(ListenAddress::Unix),
        None => address(text).map(ListenAddress::Tcp),
    }
}

fn address(text: &str) -> Checked<SocketAddr> {
    let complaint = |message: &str| Complaint::new(message).allowed(ADDRESSES);
    text.parse().map_err(|_| {
        let port = text.strip_prefix(':').or(text.strip_prefix("localhost:")).or(text.strip_prefix("*:"));
        match port.and_then(|port| port.parse::<u16>().ok()) {
            Some(port) if text.starts_with('l') => {
                complaint("this has no IP address").help(format!("write 127.0.0.1:{port}"))
            }
            Some(port) => complaint("this has no IP address").help(format!("write 0.0.0.0:{port} for all addresses")),
            None => complaint("this is not an address to listen on"),
        }
    })
}

/// A network of client addresses.
pub(super) fn network(text: &str) -> Checked<Network> {
    text.parse().map_err(|_| {
        Complaint::new("this is not a network")
            .allowed("an address or a network, such as 192.0.2.7, 10.0.0.0/8 or fd00::/8")
    })
}

/// The URL of something that is asked or told over http or https, which may have a path, and a user and a password.
pub(super) fn url(text: &str, allowed: &str) -> Checked<Url> {
    let complaint = |message: &str| Complaint::new(message).allowed(allowed);
    let url: Url = text.parse().map_err(|error: NotUrl| complaint(&error.to_string()))?;
    let authority = url.uri().authority().map(http::uri::Authority::as_str).unwrap_or_default();
    let place = authority.rsplit_once('@').map_or(authority, |(_, place)| place);
    // A port that is no number, or too large a one, is none to the parser of URLs.
    let (_, port) = split_port(place).ok_or_else(|| complaint("this URL has no valid host"))?;
    match port.map(str::parse::<u16>) {
        None | Some(Ok(1..)) => Ok(url),
        Some(_) => Err(complaint("this URL has no valid port")),
    }
}

/// A DNS name or an IPv4 address.
pub(super) fn is_host(host: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    host.len() <= 253 && host.split('.').all(label)
}

/// One place where a key may stand.
pub(super) fn key_source(text: &str) -> Checked<KeySource> {
    let unknown = || Complaint::new("this is not a source of keys").allowed(KEY_SOURCES);
    let (kind, name) = text.split_once(':').unwrap_or((text, ""));
    let schemes = ["header", "cookie", "query", "path", "jwt", "client_ip"];
    match (kind, name) {
        ("client_ip", "") => Ok(KeySource::ClientIp),
        ("client_ip", _) | (_, "") if schemes.contains(&kind) => Err(unknown()),
        ("header", name) => header_name(name).map(KeySource::Header),
        ("cookie", name) => cookie_name(name).map(KeySource::Cookie),
        ("query", name) => Ok(KeySource::Query(name.to_owned())),
        ("path", number) => number.parse().map(KeySource::Path).map_err(|_| {
            Complaint::new("this is not a path segment")
                .allowed("path:1 for the first segment, path:2 for the second, ...")
        }),
        ("jwt", claim) => Ok(KeySource::Jwt(claim.to_owned())),
        _ => Err(unknown().did_you_mean(kind, schemes)),
    }
}

/// A header's name, in lower case.
pub(super) fn header_name(name: &str) -> Checked<String> {
    match is_token(name) {
        true => Ok(name.to_ascii_lowercase()),
        false => Err(Complaint::new("this is not a header's name").allowed("letters, digits and - such as x-user-id")),
    }
}

/// A cookie's name, as it is.
pub(super) fn cookie_name(name: &str) -> Checked<String> {
    match is_token(name) {
        true => Ok(name.to_owned()),
        false => Err(Complaint::new("this is not a cookie's name").allowed("letters, digits, - and _")),
    }
}

/// RFC 9110 §5.6.2.
pub(super) fn is_token(text: &str) -> bool {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(token)
}
