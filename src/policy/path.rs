//! What a path means to a backend that decodes it, beside what it literally says.

use std::borrow::Cow;

/// The path after percent-decoding, with `\` read as `/`, path parameters (`;x=1`) and empty segments dropped and dot
/// segments resolved (RFC 3986 §5.2.4 and §6.2.2, and the looser habits of common servers). Rules are matched on both
/// readings, and a request that they judge differently is refused, so that `/public/..%2fadmin` cannot choose its side.
#[must_use]
pub fn normalise(path: &str) -> Cow<'_, str> {
    if is_plain(path.as_bytes()) {
        return Cow::Borrowed(path);
    }
    let decoded = percent_decode(path.as_bytes());
    let mut segments: Vec<&[u8]> = Vec::new();
    for segment in decoded.split(|b| matches!(b, b'/' | b'\\')) {
        let name = segment.split(|b| *b == b';').next().unwrap_or_default();
        match name {
            b"" | b"." => {}
            b".." => {
                segments.pop();
            }
            name => segments.push(name),
        }
    }
    let mut out = String::with_capacity(path.len());
    for segment in &segments {
        out.push('/');
        out.push_str(&String::from_utf8_lossy(segment));
    }
    if segments.is_empty() || decoded.ends_with(b"/") {
        out.push('/');
    }
    Cow::Owned(out)
}

/// Whether normalising would change nothing: the common case, told in one pass.
fn is_plain(path: &[u8]) -> bool {
    let suspicious = |pair: &[u8]| matches!(pair, b"//" | b"/.");
    !path.iter().any(|b| matches!(b, b'%' | b'\\' | b';')) && !path.windows(2).any(suspicious)
}

/// The bytes that `text` stands for (RFC 3986 §2.1); a `%` without two hex digits behind it stands for itself.
#[must_use]
pub fn percent_decode(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, tail)) = rest.split_first() {
        let escaped = match (first, tail) {
            (b'%', [high, low, ..]) => hex(*high).zip(hex(*low)).map(|(high, low)| high * 16 + low),
            _ => None,
        };
        out.push(escaped.unwrap_or(first));
        rest = if escaped.is_some() { &tail[2..] } else { tail };
    }
    out
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_paths_are_left_alone() {
        for path in ["/", "/pay", "/pay/", "/a/b.c/d"] {
            assert!(matches!(normalise(path), Cow::Borrowed(same) if same == path), "{path}");
        }
    }

    #[test]
    fn other_spellings_mean_the_same() {
        for (written, meant) in [
            ("/%61", "/a"),
            ("//a", "/a"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/public/..%2fadmin", "/admin"),
            ("/..%2f", "/"),
            ("/a\\b", "/a/b"),
            ("/a;x=1/b", "/a/b"),
            ("/a/", "/a/"),
            ("/a//", "/a/"),
            ("/../../etc", "/etc"),
            ("/%2e%2e/x", "/x"),
            ("/%zz", "/%zz"),
            ("/a%", "/a%"),
            ("/%00", "/\0"),
        ] {
            assert_eq!(normalise(written), meant, "{written}");
        }
    }
}
