//! HTTP/2 as stories speak it where it matters what is said: a client and a backend made of the `h2` crate. And backends that say
//! frame by frame what they are told to.

use std::future::Future;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use h2::client::SendRequest;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use tokio::runtime::Builder;
use tokio::task::{JoinError, JoinHandle, LocalSet, spawn_local};
use tokio::time::timeout;

use super::PATIENCE;
use super::claims::Claims;
use super::frames::{ACK, END_HEADERS, END_STREAM, Frame, GOAWAY, HEADERS, PREFACE, RST_STREAM, SETTINGS};

/// Runs a story that awaits. The test fails if it does not come to its end.
#[track_caller]
pub fn run<T>(story: impl Future<Output = T>) -> T {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async { timeout(PATIENCE, story).await.expect("the story came to a halt") })
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: Option<HeaderMap>,
}

impl Answer {
    /// The header's only value.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.get_all(name).iter().map(|value| value.to_str().unwrap());
        let first = values.next();
        assert_eq!(values.next(), None, "{name} came more than once");
        first
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

/// A client with one connection.
pub struct Client {
    pub sender: SendRequest<Bytes>,
    /// Ends when the connection does.
    pub driver: JoinHandle<Result<(), h2::Error>>,
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Self {
        Self::with(h2::client::Builder::new(), address).await
    }

    pub async fn with(builder: h2::client::Builder, address: SocketAddr) -> Self {
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (sender, connection) = builder.handshake(stream).await.unwrap();
        Self { sender, driver: spawn_local(connection) }
    }

    /// Begins a request; its body is still to be sent, unless `is_whole`.
    pub async fn begin(
        &mut self,
        request: Request<()>,
        is_whole: bool,
    ) -> (h2::client::ResponseFuture, SendStream<Bytes>) {
        self.sender = self.sender.clone().ready().await.unwrap();
        self.sender.send_request(request, is_whole).unwrap()
    }

    /// Sends a request with this body (none if empty) and reads the answer to its end.
    pub async fn ask(&mut self, request: Request<()>, body: &[u8]) -> Result<Answer, h2::Error> {
        let (response, mut stream) = self.begin(request, body.is_empty()).await;
        if !body.is_empty() {
            let body = Bytes::copy_from_slice(body);
            spawn_local(async move { send(&mut stream, body, true).await });
        }
        read(response.await?).await
    }

    pub async fn get(&mut self, path: &str) -> Answer {
        self.ask(get(path), b"").await.unwrap()
    }
}

/// A GET of `http://service{path}`.
pub fn get(path: &str) -> Request<()> {
    request(Method::GET, path, &[])
}

pub fn request(method: Method, path: &str, headers: &[(&str, &str)]) -> Request<()> {
    let builder = Request::builder().method(method).uri(format!("http://service{path}"));
    headers.iter().fold(builder, |builder, (name, value)| builder.header(*name, *value)).body(()).unwrap()
}

/// Sends all of `data`, as fast as the other side takes it.
pub async fn send(stream: &mut SendStream<Bytes>, mut data: Bytes, is_last: bool) -> Result<(), h2::Error> {
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        let room = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await.transpose()?.unwrap_or(0);
        let piece = data.split_to(room.min(data.len()));
        let ends = is_last && data.is_empty();
        stream.send_data(piece, ends)?;
    }
    Ok(())
}

/// Reads to the end.
pub async fn read(response: Response<RecvStream>) -> Result<Answer, h2::Error> {
    let (head, mut stream) = response.into_parts();
    let body = read_all(&mut stream).await?;
    let trailers = stream.trailers().await?;
    Ok(Answer { status: head.status, headers: head.headers, body, trailers })
}

/// Reads all data.
pub async fn read_all(stream: &mut RecvStream) -> Result<Bytes, h2::Error> {
    let mut body = Vec::new();
    while let Some(data) = stream.data().await {
        let data = data?;
        stream.flow_control().release_capacity(data.len())?;
        body.extend_from_slice(&data);
    }
    Ok(body.into())
}

/// A stream as a backend has it.
pub struct Exchange {
    pub head: Parts,
    pub body: RecvStream,
    pub respond: SendResponse<Bytes>,
}

impl Exchange {
    /// Answers with 200, and `body` after it.
    pub async fn answer(mut self, body: impl Into<Bytes>) {
        let body = body.into();
        let sent = self.respond.send_response(Response::new(()), body.is_empty());
        if let (Ok(mut stream), false) = (sent, body.is_empty()) {
            let _it_may_be_taken_back = send(&mut stream, body, true).await;
        }
    }

    /// The same after the whole request is there, which is returned.
    pub async fn echo(mut self) {
        let Ok(body) = read_all(&mut self.body).await else { return };
        self.answer(body).await;
    }
}

type Script = dyn Fn(Exchange) -> Pin<Box<dyn Future<Output = ()>>> + Send + Sync;

/// A backend that speaks HTTP/2 and does what a story says, stream by stream. It lives until the test ends, which fails if
/// something that its script claims was not so.
pub struct Backend {
    pub address: SocketAddr,
    heads: Arc<Mutex<Vec<Parts>>>,
    connections: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
    claims: Claims,
}

impl Backend {
    /// Does `script` with each stream.
    pub fn doing<F: Future<Output = ()> + 'static>(script: impl Fn(Exchange) -> F + Send + Sync + 'static) -> Self {
        Self::with(h2::server::Builder::new(), script)
    }

    /// Answers every request with its body.
    pub fn echoing() -> Self {
        Self::doing(Exchange::echo)
    }

    pub fn with<F: Future<Output = ()> + 'static>(
        builder: h2::server::Builder,
        script: impl Fn(Exchange) -> F + Send + Sync + 'static,
    ) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let backend = Self {
            address,
            heads: Arc::default(),
            connections: Arc::default(),
            open: Arc::default(),
            claims: Claims::default(),
        };
        let (heads, connections, open) =
            (Arc::clone(&backend.heads), Arc::clone(&backend.connections), Arc::clone(&backend.open));
        let claims = backend.claims.clone();
        let script: Arc<Script> = Arc::new(move |exchange| Box::pin(script(exchange)));
        std::thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            LocalSet::new().block_on(&runtime, async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                let builder = Rc::new(builder);
                while let Ok((stream, _)) = listener.accept().await {
                    connections.fetch_add(1, SeqCst);
                    open.fetch_add(1, SeqCst);
                    let (builder, script, heads, open) =
                        (Rc::clone(&builder), Arc::clone(&script), Arc::clone(&heads), Arc::clone(&open));
                    let claims = claims.clone();
                    spawn_local(async move {
                        serve(&builder, stream, (&*script, &claims), &heads).await;
                        open.fetch_sub(1, SeqCst);
                    });
                }
            });
        });
        backend
    }

    /// As `protocol: h2` has it in a config, on one line.
    pub fn config(&self) -> String {
        format!("{{ endpoints: [\"http://{}\"], protocol: h2 }}", self.address)
    }

    /// The heads that came, in order.
    pub fn heads(&self) -> Vec<Parts> {
        self.heads.lock().unwrap().clone()
    }

    /// Connections so far.
    pub fn connections(&self) -> usize {
        self.connections.load(SeqCst)
    }

    /// Connections that have not ended.
    pub fn open_connections(&self) -> usize {
        self.open.load(SeqCst)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.claims.hold();
    }
}

async fn serve(
    builder: &h2::server::Builder,
    stream: tokio::net::TcpStream,
    (script, claims): (&Script, &Claims),
    heads: &Mutex<Vec<Parts>>,
) {
    let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        let (head, body) = request.into_parts();
        heads.lock().unwrap().push(head.clone());
        let (script, claims) = (spawn_local(script(Exchange { head, body, respond })), claims.clone());
        spawn_local(async move {
            if let Err(Ok(panic)) = script.await.map_err(JoinError::try_into_panic) {
                claims.refuted_by(&*panic);
            }
        });
    }
}

// -- frames

/// Frames over a socket.
pub struct Frames<'a>(pub &'a mut TcpStream);

impl Frames<'_> {
    pub fn write(&mut self, frame: &Frame) {
        let _the_other_side_may_be_gone = self.0.write_all(&frame.bytes());
    }

    /// The next frame; `None` at the end of the connection.
    pub fn read(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        self.0.read_exact(&mut payload).ok()?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & (u32::MAX >> 1);
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// The next frame of this kind.
    pub fn read_until(&mut self, kind: u8) -> Option<Frame> {
        loop {
            let frame = self.read()?;
            if frame.kind == kind {
                return Some(frame);
            }
        }
    }

    /// Begins as a backend does, with these settings.
    pub fn welcome(&mut self, settings: &[(u16, u32)]) -> Option<()> {
        let mut preface = [0; PREFACE.len()];
        self.0.read_exact(&mut preface).ok()?;
        assert_eq!(preface, PREFACE);
        self.write(&Frame::settings(settings));
        self.write(&Frame::new(SETTINGS, ACK, 0, []));
        Some(())
    }

    /// 200 without a body.
    pub fn answer(&mut self, stream: u32) {
        self.write(&Frame::new(HEADERS, END_HEADERS | END_STREAM, stream, [0x88]));
    }

    pub fn reset(&mut self, stream: u32, reason: h2::Reason) {
        self.write(&Frame::new(RST_STREAM, 0, stream, u32::from(reason).to_be_bytes()));
    }

    pub fn go_away(&mut self, last: u32, reason: h2::Reason) {
        self.write(&Frame::new(GOAWAY, 0, 0, [last.to_be_bytes(), u32::from(reason).to_be_bytes()].concat()));
    }
}
