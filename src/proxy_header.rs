//! The PROXY protocol (HAProxy's proxy-protocol.txt, versions 1 and 2): a header in front of a connection that says whom it
//! is for. Pure: bytes in, bytes out.

mod checksum;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// How a header is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// Whom a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stated {
    /// The proxy itself, such as its health check.
    Local,
    /// Somebody of whom the proxy does not say more, or whom it knows by no address of the internet.
    Unknown,
    /// A client.
    Client {
        /// The client's address.
        source: SocketAddr,
        /// Where the client connected to; of the same family.
        destination: SocketAddr,
    },
}

/// What is there is no PROXY header, or one that nobody should send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(&'static str);

/// Room for all but long headers.
pub const USUAL: usize = V1_LONGEST;

/// The longest line of version 1, with its end.
const V1_LONGEST: usize = 107;
const V1_BEGIN: &[u8] = b"PROXY ";
const V2_BEGIN: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Up to the end of the length.
const V2_START: usize = 16;
/// The type of the extension that holds a checksum of the header (PP2_TYPE_CRC32C).
const CHECKSUM: u8 = 0x03;
/// Paths at both ends and 4 KiB of extensions. The protocol allows 64 KiB, which nobody sends and which would have to be
/// waited for.
const V2_MOST: usize = 4096 + 216;

/// How far a header has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// To its last byte.
    Whole(Stated),
    /// At least this many bytes are still to come. Who reads no more than these never reads beyond the header.
    Needs(usize),
}

/// Reads a header of which `bytes` have come so far.
///
/// # Errors
/// When no header can come of `bytes`, whatever follows; also if something follows it in them.
pub fn read(bytes: &[u8]) -> Result<Progress, Malformed> {
    if begins(bytes, V1_BEGIN) {
        read_v1(bytes)
    } else if begins(bytes, V2_BEGIN) {
        read_v2(bytes)
    } else {
        Err(Malformed("no PROXY header"))
    }
}

/// Whether `bytes` are the beginning of `wanted`, or go on after it.
fn begins(bytes: &[u8], wanted: &[u8]) -> bool {
    let length = bytes.len().min(wanted.len());
    bytes[..length] == wanted[..length]
}

fn read_v1(bytes: &[u8]) -> Result<Progress, Malformed> {
    if bytes.len() > V1_LONGEST {
        return Err(Malformed("a line that does not end"));
    }
    let Some((b'\n', line)) = bytes.split_last() else {
        return match bytes.contains(&b'\n') {
            true => Err(Malformed("something stands behind the header")),
            false => missing_of_v1(bytes),
        };
    };
    let line = line.strip_suffix(b"\r").ok_or(Malformed("a line that ends without a CR"))?;
    let line = std::str::from_utf8(line).map_err(|_| Malformed("a line that is not text"))?;
    let said = line.strip_prefix("PROXY ").ok_or(Malformed("no PROXY header"))?;
    read_words(said).map(Progress::Whole)
}

/// How much of a line, whose end has not come, is missing at least.
fn missing_of_v1(bytes: &[u8]) -> Result<Progress, Malformed> {
    const SHORTEST: usize = "PROXY UNKNOWN\r\n".len();
    const SPACES: usize = 5;
    let end = if bytes.last() == Some(&b'\r') { 1 } else { 2 };
    let least = match bytes.len() {
        length if length < SHORTEST => SHORTEST - length,
        _ if bytes.starts_with(b"PROXY UNKNOWN") => end,
        // A space and a character for each word that has not begun.
        _ => end + 2 * SPACES.saturating_sub(bytes.iter().filter(|byte| **byte == b' ').count()),
    };
    match bytes.len() + least <= V1_LONGEST {
        true => Ok(Progress::Needs(least)),
        false => Err(Malformed("a line that does not end")),
    }
}

fn read_words(said: &str) -> Result<Stated, Malformed> {
    let (family, rest) = said.split_once(' ').unwrap_or((said, ""));
    let mut words = rest.split(' ');
    let addresses = match family {
        "UNKNOWN" => return Ok(Stated::Unknown), // whatever follows has to be passed over
        "TCP4" => addresses::<Ipv4Addr>(&mut words),
        "TCP6" => addresses::<Ipv6Addr>(&mut words),
        _ => return Err(Malformed("an unknown family of addresses")),
    };
    let ports = words.next().zip(words.next()).and_then(|(a, b)| port(a).zip(port(b)));
    match (addresses, ports, words.next()) {
        (Some((source, destination)), Some((from, to)), None) => {
            Ok(Stated::Client { source: SocketAddr::new(source, from), destination: SocketAddr::new(destination, to) })
        }
        _ => Err(Malformed("addresses or ports that are none")),
    }
}

fn addresses<'a, A>(words: &mut impl Iterator<Item = &'a str>) -> Option<(IpAddr, IpAddr)>
where
    A: std::str::FromStr + Into<IpAddr>,
{
    let mut address = || words.next()?.parse::<A>().ok().map(Into::into);
    Some((address()?, address()?))
}

/// As the protocol writes them: without a sign, without leading zeros.
fn port(word: &str) -> Option<u16> {
    let is_canonical = word.bytes().all(|byte| byte.is_ascii_digit()) && (word == "0" || !word.starts_with('0'));
    is_canonical.then(|| word.parse().ok())?
}

fn read_v2(bytes: &[u8]) -> Result<Progress, Malformed> {
    let Some((start, said)) = bytes.split_first_chunk::<V2_START>() else {
        return Ok(Progress::Needs(V2_START - bytes.len()));
    };
    let [.., version_and_command, family, high, low] = *start;
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > V2_MOST {
        return Err(Malformed("a header of more than 4 KiB"));
    }
    let needed = match (version_and_command, family) {
        (0x20, _) | (0x21, 0x00) => 0,
        (0x21, 0x11) => 12,
        (0x21, 0x21) => 36,
        (0x21, 0x31) => 216,
        (0x21, _) => return Err(Malformed("a family of addresses that no stream has")),
        _ => return Err(Malformed("an unknown version or command")),
    };
    if length < needed {
        return Err(Malformed("a header that is shorter than its addresses"));
    }
    match said.len() {
        so_far if so_far < length => return Ok(Progress::Needs(length - so_far)),
        so_far if so_far > length => return Err(Malformed("something stands behind the header")),
        _ => {}
    }
    if needed > 0 {
        check_extensions(bytes, V2_START + needed)?;
    }
    let stated = match (version_and_command, family) {
        (0x20, _) => Stated::Local,
        (_, 0x11) => client::<4>(said, |octets| Ipv4Addr::from(octets).into()),
        (_, 0x21) => client::<16>(said, |octets| Ipv6Addr::from(octets).into()),
        _ => Stated::Unknown, // no address, or the path of a socket
    };
    Ok(Progress::Whole(stated))
}

/// Passes over the extensions of `header`, which begin at `at`, but for a checksum: if there is one, it has to be right.
fn check_extensions(header: &[u8], mut at: usize) -> Result<(), Malformed> {
    while at < header.len() {
        let Some([kind, high, low]) = header[at..].first_chunk() else {
            return Err(Malformed("an extension without a length"));
        };
        let value = at + 3;
        let end = value + usize::from(u16::from_be_bytes([*high, *low]));
        let said = header.get(value..end).ok_or(Malformed("an extension that goes on behind the header"))?;
        if *kind == CHECKSUM {
            let made = checksum::crc32c(&[&header[..value], &[0; 4], &header[end..]]);
            if said != made.to_be_bytes() {
                return Err(Malformed("a checksum that is not the header's"));
            }
        }
        at = end;
    }
    Ok(())
}

/// Source, destination, and their ports, as they stand in the `N` bytes of each address and two of each port.
fn client<const N: usize>(said: &[u8], address: impl Fn([u8; N]) -> IpAddr) -> Stated {
    let octets = |at: usize| said[at..at + N].try_into().expect("there are as many bytes as the addresses need");
    let port = |at: usize| u16::from_be_bytes([said[at], said[at + 1]]);
    Stated::Client {
        source: SocketAddr::new(address(octets(0)), port(2 * N)),
        destination: SocketAddr::new(address(octets(N)), port(2 * N + 2)),
    }
}

/// The header that says `stated`. Addresses of two families are written as those of IPv6.
#[must_use]
pub fn write(version: Version, stated: Stated) -> Vec<u8> {
    match version {
        Version::V1 => write_v1(stated),
        Version::V2 => write_v2(stated),
    }
}

fn write_v1(stated: Stated) -> Vec<u8> {
    let Stated::Client { source, destination } = stated else { return b"PROXY UNKNOWN\r\n".to_vec() };
    let (family, from, to) = match of_one_family(source.ip(), destination.ip()) {
        Pair::V4(from, to) => ("TCP4", from.to_string(), to.to_string()),
        Pair::V6(from, to) => ("TCP6", written(from), written(to)),
    };
    format!("PROXY {family} {from} {to} {} {}\r\n", source.port(), destination.port()).into_bytes()
}

/// Without the dots that Rust writes into mapped addresses, which not everybody reads.
fn written(address: Ipv6Addr) -> String {
    match address.to_ipv4_mapped() {
        None => address.to_string(),
        Some(_) => {
            let [.., high, low] = address.segments();
            format!("::ffff:{high:x}:{low:x}")
        }
    }
}

fn write_v2(stated: Stated) -> Vec<u8> {
    let (command, family, said) = match stated {
        Stated::Local => (0x20, 0x00, Vec::new()),
        Stated::Unknown => (0x21, 0x00, Vec::new()),
        Stated::Client { source, destination } => {
            let (family, addresses) = match of_one_family(source.ip(), destination.ip()) {
                Pair::V4(from, to) => (0x11, [from.octets(), to.octets()].concat()),
                Pair::V6(from, to) => (0x21, [from.octets(), to.octets()].concat()),
            };
            let ports = [source.port().to_be_bytes(), destination.port().to_be_bytes()].concat();
            (0x21, family, [addresses, ports].concat())
        }
    };
    let length = u16::try_from(said.len()).expect("two addresses are a few bytes");
    [V2_BEGIN, &[command, family], &length.to_be_bytes(), &said].concat()
}

enum Pair {
    V4(Ipv4Addr, Ipv4Addr),
    V6(Ipv6Addr, Ipv6Addr),
}

fn of_one_family(source: IpAddr, destination: IpAddr) -> Pair {
    let wide = |ip| match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    match (source.to_canonical(), destination.to_canonical()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => Pair::V4(source, destination),
        (source, destination) => Pair::V6(wide(source), wide(destination)),
    }
}

#[cfg(test)]
mod tests;
