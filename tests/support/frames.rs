//! A client that speaks HTTP/2 frame by frame and says whatever it is told to, right or wrong.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::PATIENCE;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

/// The flag of SETTINGS and PING that they are answers.
pub const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// A frame, as it comes and as it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    pub fn new(kind: u8, flags: u8, stream: u32, payload: impl Into<Vec<u8>>) -> Self {
        Self { kind, flags, stream, payload: payload.into() }
    }

    /// A whole head in one frame.
    pub fn headers(stream: u32, flags: u8, fields: &[(&str, &str)]) -> Self {
        Self::new(HEADERS, flags | END_HEADERS, stream, block(fields))
    }

    /// A GET without a body.
    pub fn get(stream: u32, path: &str) -> Self {
        Self::headers(stream, END_STREAM, &request("GET", path))
    }

    pub fn data(stream: u32, flags: u8, payload: impl Into<Vec<u8>>) -> Self {
        Self::new(DATA, flags, stream, payload)
    }

    pub fn reset(stream: u32, code: u32) -> Self {
        Self::new(RST_STREAM, 0, stream, code.to_be_bytes())
    }

    pub fn window(stream: u32, more: u32) -> Self {
        Self::new(WINDOW_UPDATE, 0, stream, more.to_be_bytes())
    }

    pub fn settings(settings: &[(u16, u32)]) -> Self {
        let payload: Vec<u8> =
            settings.iter().flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()).collect();
        Self::new(SETTINGS, 0, 0, payload)
    }

    /// The bytes on the wire.
    pub fn bytes(&self) -> Vec<u8> {
        let length = u32::try_from(self.payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[self.kind, self.flags], &self.stream.to_be_bytes(), &self.payload].concat()
    }

    /// The error code of an RST_STREAM or a GOAWAY.
    pub fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

/// The fields of an ordinary request.
pub fn request<'a>(method: &'a str, path: &'a str) -> [(&'a str, &'a str); 4] {
    [(":method", method), (":scheme", "http"), (":authority", "service"), (":path", path)]
}

/// A header block of literals: nothing is checked, indexed or compressed.
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    fields.iter().flat_map(|(name, value)| literal(0x00, name.as_bytes(), value.as_bytes())).collect()
}

/// A literal field of this kind: 0x00 is not kept in the table, 0x40 is.
pub fn literal(kind: u8, name: &[u8], value: &[u8]) -> Vec<u8> {
    [&[kind][..], &string(name), &string(value)].concat()
}

fn string(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    match text.len() {
        short if short < 127 => bytes.push(short as u8),
        long => {
            bytes.push(127);
            let mut rest = long - 127;
            while rest >= 128 {
                bytes.push((rest % 128) as u8 | 128);
                rest /= 128;
            }
            bytes.push(rest as u8);
        }
    }
    bytes.extend_from_slice(text);
    bytes
}

/// One connection that speaks frames.
pub struct Framed {
    pub stream: TcpStream,
    unread: Vec<u8>,
    /// Bytes that were sent.
    pub sent: u64,
}

impl Framed {
    /// Connects and says what a client says first, with these settings. A table of nothing keeps what comes readable.
    pub fn connect(address: SocketAddr, settings: &[(u16, u32)]) -> Self {
        let mut this = Self::silent(address);
        this.write(PREFACE);
        let settings: Vec<_> = [(1, 0)].into_iter().chain(settings.iter().copied()).collect();
        this.send(&Frame::settings(&settings));
        this
    }

    /// Connects and says nothing.
    pub fn silent(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { stream, unread: Vec::new(), sent: 0 }
    }

    pub fn send(&mut self, frame: &Frame) -> &mut Self {
        self.write(&frame.bytes());
        self
    }

    /// False once the other side takes nothing more.
    pub fn write(&mut self, bytes: &[u8]) -> bool {
        self.sent += bytes.len() as u64;
        self.stream.write_all(bytes).is_ok()
    }

    /// The next frame; `None` at the end of the connection. The test fails if nothing happens.
    #[track_caller]
    pub fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.take() {
                return Some(frame);
            }
            let mut buffer = [0; 65536];
            match self.stream.read(&mut buffer) {
                Ok(0) => return None,
                Ok(n) => self.unread.extend_from_slice(&buffer[..n]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    panic!("nothing came for {PATIENCE:?}; so far: {}", self.unread.escape_ascii())
                }
                Err(_) => return None,
            }
        }
    }

    fn take(&mut self) -> Option<Frame> {
        let &[a, b, c, kind, flags, ..] = self.unread.get(..9)? else { return None };
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        let stream = u32::from_be_bytes(self.unread[5..9].try_into().unwrap());
        let payload = self.unread.get(9..9 + length)?.to_vec();
        self.unread.drain(..9 + length);
        Some(Frame { kind, flags, stream, payload })
    }

    /// The next frame that the story waits for; what comes before is passed over, and SETTINGS are acknowledged.
    #[track_caller]
    pub fn until(&mut self, wanted: impl Fn(&Frame) -> bool) -> Option<Frame> {
        while let Some(frame) = self.next() {
            if frame.kind == SETTINGS && frame.flags & ACK == 0 {
                self.send(&Frame::new(SETTINGS, ACK, 0, []));
            }
            if wanted(&frame) {
                return Some(frame);
            }
        }
        None
    }

    /// How `stream` ends.
    #[track_caller]
    pub fn outcome(&mut self, stream: u32) -> Outcome {
        let (mut status, mut body) = (None, Vec::new());
        while let Some(frame) = self.until(|frame| frame.kind == GOAWAY || frame.stream == stream) {
            match frame.kind {
                GOAWAY => return Outcome::GoneAway(frame.code()),
                RST_STREAM => return Outcome::Reset(frame.code()),
                HEADERS if status.is_none() => status = Some(status_of(&frame.payload)),
                DATA => body.extend_from_slice(&frame.payload),
                _ => {}
            }
            if matches!(frame.kind, DATA | HEADERS) && frame.flags & END_STREAM != 0 {
                return Outcome::Answered(status.unwrap(), String::from_utf8_lossy(&body).into_owned());
            }
        }
        Outcome::Closed
    }

    /// Whether the connection still works: a PING is answered.
    #[track_caller]
    pub fn is_alive(&mut self) -> bool {
        self.send(&Frame::new(PING, 0, 0, *b"are you?"));
        self.until(|frame| frame.kind == PING && frame.flags & ACK != 0).is_some()
    }

    /// The last GOAWAY's code before the end of the connection, if there was one.
    #[track_caller]
    pub fn end(&mut self) -> Option<u32> {
        let mut code = None;
        while let Some(frame) = self.next() {
            if frame.kind == GOAWAY {
                code = Some(frame.code());
            }
        }
        code
    }
}

/// How a stream ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A whole answer: its status and its body.
    Answered(u16, String),
    /// RST_STREAM with this code.
    Reset(u32),
    /// GOAWAY with this code, before the stream ended.
    GoneAway(u32),
    /// The connection ended without a word.
    Closed,
}

impl Outcome {
    /// Whether it is a refusal, of the stream or of everything.
    pub fn is_refusal(&self) -> bool {
        !matches!(self, Self::Answered(200..=399, _))
    }
}

/// The status in a header block that begins with it, as it has to, and uses no table.
fn status_of(block: &[u8]) -> u16 {
    match *block {
        [0x20, ..] => status_of(&block[1..]), // the table is as small as it was asked to be
        [0x88, ..] => 200,
        [0x89, ..] => 204,
        [0x8a, ..] => 206,
        [0x8b, ..] => 304,
        [0x8c, ..] => 400,
        [0x8d, ..] => 404,
        [0x8e, ..] => 500,
        // The name from the static table, the value as it is or in Huffman's code.
        [0x08 | 0x18 | 0x48, 0x03, a, b, c, ..] => String::from_utf8(vec![a, b, c]).unwrap().parse().unwrap(),
        [0x08 | 0x18 | 0x48, length, ..] if length & 128 != 0 => digits(&block[2..2 + usize::from(length & 127)]),
        _ => panic!("no status in {}", block.escape_ascii()),
    }
}

/// Three digits in HPACK's Huffman code (RFC 7541, appendix B): 0 to 2 are 00000 to 00010, 3 to 9 are 011001 to 011111.
fn digits(bytes: &[u8]) -> u16 {
    let bits = bytes.iter().fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte)) << (64 - 8 * bytes.len());
    let (mut number, mut at) = (0, 0);
    for _ in 0..3 {
        let five = (bits << at >> 59) as u16;
        let six = (bits << at >> 58) as u16;
        let (digit, length) = if five <= 2 { (five, 5) } else { (six - 0b01_1001 + 3, 6) };
        number = number * 10 + digit;
        at += length;
    }
    number
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read_however_it_is_written() {
        // From RFC 7541, C.6.1: 302 in Huffman's code.
        assert_eq!(status_of(&[0x48, 0x82, 0x64, 0x02]), 302);
        assert_eq!(status_of(b"\x48\x03431"), 431);
        assert_eq!(status_of(&[0x88]), 200);
    }
}
