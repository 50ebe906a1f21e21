//! A backend that does what a story says, connection by connection, and records every byte that reaches it.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;

use rustls::{ServerConfig, ServerConnection};

use super::PATIENCE;
use super::claims::Claims;

/// What came over one connection so far.
type Record = Arc<Mutex<Vec<u8>>>;

/// A listening backend. It lives until the test ends, which fails if something that its script claims was not so.
pub struct Backend {
    pub address: SocketAddr,
    recorded: Arc<Mutex<Vec<Record>>>,
    open: Arc<AtomicUsize>,
    claims: Claims,
}

impl Backend {
    /// Answers every request with 200, `x-backend: NAME` and the name as the body, and keeps connections alive.
    pub fn named(name: &'static str) -> Self {
        Self::answering(move |_| ok(&[("x-backend", name)], name.as_bytes()))
    }

    /// Answers every request with what `answer` makes of it, and keeps connections alive.
    pub fn answering(answer: impl Fn(&Request) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self::scripted(move |connection| {
            while let Some(request) = connection.read_request() {
                connection.write(&answer(&request));
            }
        })
    }

    /// Answers every request with what `answer` makes of it, over TLS, and keeps connections alive.
    pub fn secured(tls: Arc<ServerConfig>, answer: impl Fn(&Request) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self::scripted(move |connection| {
            connection.tls = Some(Box::new(ServerConnection::new(Arc::clone(&tls)).unwrap()));
            while let Some(request) = connection.read_request() {
                connection.write(&answer(&request));
            }
        })
    }

    /// Answers with these bytes, once per request, whatever they are.
    pub fn saying(answer: impl Into<Vec<u8>>) -> Self {
        let answer = answer.into();
        Self::answering(move |_| answer.clone())
    }

    /// The same at an address that somebody else may have; then there is none.
    pub fn answering_at(
        address: SocketAddr,
        answer: impl Fn(&Request) -> Vec<u8> + Send + Sync + 'static,
    ) -> Option<Self> {
        let script = move |connection: &mut Connection| {
            while let Some(request) = connection.read_request() {
                connection.write(&answer(&request));
            }
        };
        TcpListener::bind(address).ok().map(|listener| Self::listening(listener, script))
    }

    /// Does `script` on each connection, on a thread of its own; the connection closes when it returns.
    pub fn scripted(script: impl Fn(&mut Connection) + Send + Sync + 'static) -> Self {
        Self::listening(TcpListener::bind("127.0.0.1:0").unwrap(), script)
    }

    fn listening(listener: TcpListener, script: impl Fn(&mut Connection) + Send + Sync + 'static) -> Self {
        let address = listener.local_addr().unwrap();
        let recorded: Arc<Mutex<Vec<_>>> = Arc::default();
        let open = Arc::new(AtomicUsize::new(0));
        let claims = Claims::default();
        let (script, records, opened) = (Arc::new(script), Arc::clone(&recorded), Arc::clone(&open));
        let of_scripts = claims.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let bytes = Arc::new(Mutex::new(Vec::new()));
                records.lock().unwrap().push(Arc::clone(&bytes));
                let (script, opened) = (Arc::clone(&script), Arc::clone(&opened));
                let claims = of_scripts.clone();
                opened.fetch_add(1, SeqCst);
                thread::spawn(move || {
                    let mut connection = Connection { stream, tls: None, bytes, unread: Vec::new() };
                    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| script(&mut connection))) {
                        claims.refuted_by(&*panic);
                    }
                    drop(connection); // first: who waits for the count goes by what is closed
                    opened.fetch_sub(1, SeqCst);
                });
            }
        });
        Self { address, recorded, open, claims }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Connections so far.
    pub fn connections(&self) -> usize {
        self.recorded.lock().unwrap().len()
    }

    /// Connections whose script has not ended.
    pub fn open_connections(&self) -> usize {
        self.open.load(SeqCst)
    }

    /// What came over each connection.
    pub fn bytes(&self) -> Vec<Vec<u8>> {
        self.recorded.lock().unwrap().iter().map(|bytes| bytes.lock().unwrap().clone()).collect()
    }

    /// All that ever came, as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes().concat()).into_owned()
    }

    /// The requests that came, in order within a connection.
    pub fn requests(&self) -> Vec<Request> {
        self.bytes().iter().flat_map(|bytes| parse_all(bytes)).collect()
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.claims.hold();
    }
}

/// One connection to a backend.
pub struct Connection {
    pub stream: TcpStream,
    pub tls: Option<Box<ServerConnection>>,
    bytes: Arc<Mutex<Vec<u8>>>,
    unread: Vec<u8>,
}

impl Connection {
    /// The next whole request; `None` when the other side has closed or broken off.
    pub fn read_request(&mut self) -> Option<Request> {
        loop {
            if let Some((request, length)) = parse(&self.unread) {
                self.unread.drain(..length);
                return Some(request);
            }
            self.read_more()?;
        }
    }

    /// Reads until the head of a request is there, and leaves its body.
    pub fn read_head(&mut self) -> Option<()> {
        while !self.unread.windows(4).any(|window| window == b"\r\n\r\n") {
            self.read_more()?;
        }
        Some(())
    }

    /// The next `length` bytes, whatever they are; `None` if they do not come.
    pub fn read_exactly(&mut self, length: usize) -> Option<Vec<u8>> {
        while self.unread.len() < length {
            self.read_more()?;
        }
        Some(self.unread.drain(..length).collect())
    }

    /// What has been read and not yet taken.
    pub fn peek(&self) -> &[u8] {
        &self.unread
    }

    /// Reads what there is, at least a byte; `None` at the end.
    pub fn read_more(&mut self) -> Option<()> {
        let mut buffer = [0; 65536];
        let read = match &mut self.tls {
            None => self.stream.read(&mut buffer),
            Some(tls) => rustls::Stream::new(&mut **tls, &mut self.stream).read(&mut buffer),
        };
        let n = read.ok().filter(|n| *n > 0)?;
        self.bytes.lock().unwrap().extend_from_slice(&buffer[..n]);
        self.unread.extend_from_slice(&buffer[..n]);
        Some(())
    }

    /// The next `length` bytes, whatever they are; fewer if the connection ends before.
    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        while self.unread.len() < length && self.read_more().is_some() {}
        self.unread.drain(..length.min(self.unread.len())).collect()
    }

    /// Waits until the other side has closed; false if it does not.
    pub fn is_closed_by_peer(&mut self) -> bool {
        self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        while self.read_more().is_some() {}
        match self.stream.read(&mut [0]) {
            Ok(n) => n == 0,
            Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
        }
    }

    pub fn write(&mut self, bytes: &[u8]) {
        let _the_other_side_may_be_gone = match &mut self.tls {
            None => self.stream.write_all(bytes),
            Some(tls) => {
                let mut stream = rustls::Stream::new(&mut **tls, &mut self.stream);
                stream.write_all(bytes).and_then(|()| stream.flush())
            }
        };
    }

    /// Closes with a reset instead of an orderly end.
    pub fn reset(&mut self) {
        socket2::SockRef::from(&self.stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    }

    pub fn close(&mut self) {
        let _the_other_side_may_be_gone = self.stream.shutdown(Shutdown::Both);
    }
}

/// A 200 with these headers and body.
pub fn ok(headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    [format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n{lines}\r\n", body.len()).as_bytes(), body].concat()
}

/// A request as a backend read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub method: String,
    pub target: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    /// The header's only value; panics if there are several.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(found, _)| found == name).map(|(_, value)| value.as_str());
        let first = values.next();
        assert_eq!(values.next(), None, "{name} came more than once");
        first
    }
}

pub fn parse_all(mut bytes: &[u8]) -> Vec<Request> {
    std::iter::from_fn(|| {
        let (request, length) = parse(bytes)?;
        bytes = &bytes[length..];
        Some(request)
    })
    .collect()
}

/// The first request in `bytes` and its length, if all of it is there.
fn parse(bytes: &[u8]) -> Option<(Request, usize)> {
    let mut headers = [httparse::EMPTY_HEADER; 300];
    let mut head = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(start) = head.parse(bytes).expect("what reaches a backend is HTTP") else {
        return None;
    };
    let headers: Vec<(String, String)> = head
        .headers
        .iter()
        .map(|h| (h.name.to_ascii_lowercase(), String::from_utf8_lossy(h.value).into_owned()))
        .collect();
    let value = |name: &str| headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str());
    let (body, length) = match (value("transfer-encoding"), value("content-length")) {
        (Some(_), Some(_)) => panic!("both framings reached a backend"),
        (Some(coding), None) => {
            assert_eq!(coding, "chunked");
            dechunk(&bytes[start..])?
        }
        (None, Some(length)) => {
            let length = length.parse().expect("a canonical length");
            (bytes.get(start..start + length)?.to_vec(), length)
        }
        (None, None) => (Vec::new(), 0),
    };
    let (method, target) = (head.method.unwrap().to_owned(), head.path.unwrap().to_owned());
    Some((Request { method, target, headers, body }, start + length))
}

/// The body that `bytes` begin with, and how many bytes its chunks take.
pub fn dechunk(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let mut body = Vec::new();
    let mut at = 0;
    loop {
        let httparse::Status::Complete((line, size)) = httparse::parse_chunk_size(&bytes[at..]).expect("a chunk size")
        else {
            return None;
        };
        let size = usize::try_from(size).unwrap();
        at += line;
        let chunk = bytes.get(at..at + size)?;
        body.extend_from_slice(chunk);
        assert_eq!(
            bytes.get(at + size..at + size + 2)?,
            b"\r\n",
            "a chunk ends its line (no trailers reach a backend)"
        );
        at += size + 2;
        if size == 0 {
            return Some((body, at));
        }
    }
}
