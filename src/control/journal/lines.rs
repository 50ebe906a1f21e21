//! The lines of a file that others may have edited: none of them is trusted to end.

use std::io::{self, BufRead, Read};

/// No line of ours is longer, in bytes: seven texts, each byte of which may become six in JSON, and some change.
pub(super) const MAX_LINE: u64 = 7 * 6 * super::audit::MAX_TEXT as u64 + 1024;

/// The lines of a reader, each with its newline if it has one. What is longer than any line of ours comes in pieces.
pub(super) struct Lines<R>(R);

impl<R: BufRead> Lines<R> {
    pub(super) fn new(reader: R) -> Self {
        Self(reader)
    }
}

impl<R: BufRead> Iterator for Lines<R> {
    type Item = io::Result<Vec<u8>>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut line = Vec::new();
        match self.0.by_ref().take(MAX_LINE).read_until(b'\n', &mut line) {
            Ok(0) => None,
            Ok(_) => Some(Ok(line)),
            Err(error) => Some(Err(error)),
        }
    }
}
