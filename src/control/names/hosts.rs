//! The hosts file: names that need no name server.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

/// A file of more is not looked at.
const LARGEST: u64 = 4 << 20;

/// The addresses that the file at `path` has for `host`; those of this machine for `localhost`, which always has some (RFC 6761
/// §6.3). The file is read each time, aside.
pub(super) async fn look_up(path: &Path, host: &str) -> Option<Vec<IpAddr>> {
    let (path, wanted) = (path.to_owned(), host.to_owned());
    let read = tokio::task::spawn_blocking(move || {
        let is_small = std::fs::metadata(&path).is_ok_and(|file| file.len() <= LARGEST);
        let text = if is_small { std::fs::read_to_string(&path).unwrap_or_default() } else { String::new() };
        find(&text, &wanted)
    });
    let found = read.await.unwrap_or_default();
    let is_local = host == "localhost" || host.ends_with(".localhost");
    match found.is_empty() && is_local {
        true => Some(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]),
        false => Some(found).filter(|found| !found.is_empty()),
    }
}

/// `text` has lines of an address and its names; `#` begins a comment.
fn find(text: &str, host: &str) -> Vec<IpAddr> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default());
    let of_line = |line: &str| {
        let mut words = line.split_whitespace();
        let address = words.next()?.parse().ok()?;
        words.any(|name| name.eq_ignore_ascii_case(host)).then_some(address)
    };
    lines.filter_map(of_line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_the_addresses_of_all_its_lines() {
        let text = "127.0.0.1\tlocalhost\n::1 localhost ip6-localhost\n# 9.9.9.9 ledger\n\
                    192.0.2.7 Ledger ledger.internal # the old one\nnonsense ledger\n192.0.2.8 ledger\n";
        let shown = |host: &str| find(text, host).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(shown("localhost"), ["127.0.0.1", "::1"]);
        assert_eq!(shown("ledger"), ["192.0.2.7", "192.0.2.8"]);
        assert_eq!(shown("ledger.internal"), ["192.0.2.7"]);
        assert!(shown("the").is_empty() && shown("9.9.9.9").is_empty());
    }

    #[tokio::test]
    async fn this_machine_has_an_address_even_if_no_file_says_so() {
        let nowhere = Path::new("/nonexistent/hosts");
        assert_eq!(look_up(nowhere, "localhost").await.map(|found| found.len()), Some(2));
        assert_eq!(look_up(nowhere, "ledger").await, None);
    }
}
