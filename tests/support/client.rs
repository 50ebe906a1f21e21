//! A client that says exactly what it is told to, byte for byte, and reads what comes back.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use rustls::ClientConnection;
use serde_json::Value;

use super::PATIENCE;
use super::backend::dechunk;

/// One connection to tidegate.
pub struct Client {
    pub stream: TcpStream,
    pub tls: Option<Box<ClientConnection>>,
    unread: Vec<u8>,
    /// How the connection ended, once it has.
    end: Option<String>,
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// The version of the status line, 0 or 1.
    pub minor: u8,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Whether the body came to the end that its framing announced.
    pub complete: bool,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Client {
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self::over(stream)
    }

    /// Over a connection that somebody else has made.
    pub fn over(stream: TcpStream) -> Self {
        Self { stream, tls: None, unread: Vec::new(), end: None }
    }

    /// The same over TLS.
    pub fn in_secret(self, tls: ClientConnection) -> Self {
        Self { tls: Some(Box::new(tls)), ..self }
    }

    /// What TLS has agreed on by now.
    pub fn tls(&self) -> &ClientConnection {
        self.tls.as_ref().expect("this client speaks TLS")
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        let _tidegate_may_have_closed_already = self.write(bytes.as_ref());
        self
    }

    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match &mut self.tls {
            None => self.stream.write_all(bytes),
            Some(tls) => {
                let mut stream = rustls::Stream::new(&mut **tls, &mut self.stream);
                stream.write_all(bytes)?;
                stream.flush()
            }
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match &mut self.tls {
            None => self.stream.read(buffer),
            Some(tls) => rustls::Stream::new(&mut **tls, &mut self.stream).read(buffer),
        }
    }

    /// Shakes hands; fails as TLS does.
    pub fn shake_hands(&mut self) -> std::io::Result<()> {
        let tls = self.tls.as_mut().expect("this client speaks TLS");
        while tls.is_handshaking() {
            tls.complete_io(&mut self.stream)?;
        }
        Ok(())
    }

    /// How the connection ended, once it has.
    pub fn end(&self) -> Option<&str> {
        self.end.as_deref()
    }

    /// An order to the admin side with a JSON body, and its answer.
    pub fn order(&mut self, method: &str, path: &str, body: &Value) -> Answer {
        let body = body.to_string();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        self.send(head).send(body).answer()
    }

    /// A GET with these header lines, and its answer.
    pub fn get(&mut self, path: &str, headers: &[(&str, &str)]) -> Answer {
        let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        self.send(format!("GET {path} HTTP/1.1\r\nhost: service\r\n{lines}\r\n")).answer()
    }

    /// A GET by this user, and its answer.
    pub fn get_as(&mut self, user: impl ToString) -> Answer {
        self.get("/", &[("x-user-id", &user.to_string())])
    }

    /// The next answer; the test fails if there is none.
    #[track_caller]
    pub fn answer(&mut self) -> Answer {
        self.try_answer(false).unwrap_or_else(|| panic!("no answer: {:?}", self.end))
    }

    /// The next answer to a HEAD: whatever its length says, it has no body.
    #[track_caller]
    pub fn answer_to_head(&mut self) -> Answer {
        self.try_answer(true).unwrap_or_else(|| panic!("no answer: {:?}", self.end))
    }

    /// The next answer, or `None` if the connection ends without one.
    pub fn try_answer(&mut self, to_head: bool) -> Option<Answer> {
        let (mut answer, start) = loop {
            match parse_head(&self.unread) {
                Some(head) => break head,
                None => self.read_more().then_some(())?,
            }
        };
        self.unread.drain(..start);
        let bodyless = to_head || matches!(answer.status, 100..=199 | 204 | 304);
        if !bodyless {
            self.read_body(&mut answer);
        }
        Some(answer)
    }

    fn read_body(&mut self, answer: &mut Answer) {
        let chunked = answer.header("transfer-encoding").is_some();
        let length = answer.header("content-length").map(|length| length.parse::<usize>().unwrap());
        loop {
            let end = match (chunked, length) {
                (true, _) => dechunk(&self.unread),
                (false, Some(length)) => self.unread.get(..length).map(|body| (body.to_vec(), length)),
                (false, None) => None,
            };
            if let Some((body, taken)) = end {
                self.unread.drain(..taken);
                answer.body = body;
                return;
            }
            if !self.read_more() {
                answer.body = std::mem::take(&mut self.unread);
                answer.complete = !chunked && length.is_none();
                return;
            }
        }
    }

    /// Reads something; false at the end of the connection. The test fails if nothing happens.
    fn read_more(&mut self) -> bool {
        let mut buffer = [0; 65536];
        match self.read(&mut buffer) {
            Ok(n) => {
                self.unread.extend_from_slice(&buffer[..n]);
                if n == 0 {
                    self.end = Some(format!("closed after {}", self.unread.escape_ascii()));
                }
                n > 0
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("nothing came for {PATIENCE:?}; so far: {}", self.unread.escape_ascii())
            }
            Err(error) => {
                self.end = Some(error.to_string());
                false
            }
        }
    }

    /// Everything until the connection ends.
    pub fn read_to_end(&mut self) -> Vec<u8> {
        while self.read_more() {}
        std::mem::take(&mut self.unread)
    }

    /// Whether the connection ends without another byte.
    pub fn is_closed(&mut self) -> bool {
        self.read_to_end().is_empty()
    }

    /// Says that nothing more will be sent.
    pub fn finish(&mut self) -> &mut Self {
        self.stream.shutdown(Shutdown::Write).unwrap();
        self
    }
}

fn parse_head(bytes: &[u8]) -> Option<(Answer, usize)> {
    let mut headers = [httparse::EMPTY_HEADER; 300];
    let mut head = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(start) = head.parse(bytes).expect("what reaches a client is HTTP") else {
        return None;
    };
    let headers = head
        .headers
        .iter()
        .map(|h| (h.name.to_ascii_lowercase(), String::from_utf8_lossy(h.value).into_owned()))
        .collect();
    let (status, minor) = (head.code.unwrap(), head.version.unwrap());
    Some((Answer { status, minor, headers, body: Vec::new(), complete: true }, start))
}
