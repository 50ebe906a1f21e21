//! Talks to a running tidegate: HTTP/1.1 over its admin port or socket.

mod events;

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use clap::Args;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, IF_MATCH};
use http::uri::Authority;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

pub(super) use self::events::Events;

/// How long an answer to a question may take: it is made from memory, on the same machine.
const READ: Duration = Duration::from_secs(5);
/// How long a change may take: it waits for a disk.
const CHANGE: Duration = Duration::from_secs(10);
/// How long a switch may take: it looks at every endpoint of its target first.
const SWITCH: Duration = Duration::from_secs(60);
/// Bytes of an answer; a status is a few kilobytes.
const LARGEST: usize = 16 << 20;
/// Bytes of a token file.
const LARGEST_TOKEN: u64 = 4096;
/// The variable that names the instance.
const INSTANCE: &str = "TIDEGATE_ADMIN";
/// The variable with the token. Not an argument: every user of a machine can read those.
const TOKEN: &str = "TIDEGATE_ADMIN_TOKEN";
/// The instance if nobody names one.
pub(super) const DEFAULT_URL: &str = "http://127.0.0.1:9901";

/// What stands behind a command for it to reach the instance at `url`, for somebody who has set no variable.
pub(super) fn named(url: &str) -> String {
    if url == DEFAULT_URL { String::new() } else { format!(" --admin {url}") }
}

/// Which instance is asked.
#[derive(Clone, Debug, Args)]
pub(super) struct AdminArgs {
    /// Which instance: http://HOST:PORT or unix:/PATH
    #[arg(long, env = INSTANCE, hide_env_values = true, value_name = "URL", default_value = DEFAULT_URL)]
    pub admin: AdminUrl,
}

/// Which instance is asked, and as whom.
#[derive(Clone, Debug, Args)]
pub(super) struct ClientArgs {
    #[command(flatten)]
    pub(super) admin: AdminArgs,
    /// A file with the admin token, if one is needed [or the variable TIDEGATE_ADMIN_TOKEN]
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
}

impl ClientArgs {
    /// Who asks. Reads the token.
    pub(super) fn client(&self) -> anyhow::Result<Client> {
        let token = match &self.token_file {
            Some(path) => Some(read_token(path)?),
            None => std::env::var(TOKEN).ok().map(|token| bearer(&token).with_context(|| TOKEN)).transpose()?,
        };
        Ok(Client { url: self.admin.admin.clone(), token })
    }

    /// What has to stand behind the next command for it to reach the same instance: nothing if the environment says it.
    pub(super) fn again(&self) -> String {
        let url = self.admin.admin.to_string();
        let known = std::env::var(INSTANCE).unwrap_or_else(|_| DEFAULT_URL.to_owned());
        let mut again = String::new();
        if known.parse().ok() != Some(self.admin.admin.clone()) {
            again += &format!(" --admin {url}");
        }
        if let Some(path) = &self.token_file {
            again += &format!(" --token-file {}", path.display());
        }
        again
    }
}

fn read_token(path: &Path) -> anyhow::Result<HeaderValue> {
    let told = || format!("the token file {}", path.display());
    if fs::metadata(path).with_context(told)?.len() > LARGEST_TOKEN {
        bail!("{} is too large to hold a token", path.display());
    }
    bearer(&fs::read_to_string(path).with_context(told)?).with_context(told)
}

/// The header in which `token` travels.
fn bearer(token: &str) -> anyhow::Result<HeaderValue> {
    let token = token.trim();
    if token.is_empty() {
        bail!("there is no token in it");
    }
    let sendable = !token.contains(char::is_whitespace);
    let header = sendable.then(|| HeaderValue::from_str(&format!("Bearer {token}")).ok()).flatten();
    let mut header =
        header.context("what stands in it is not one token alone: no `NAME:` before it, and no other line")?;
    header.set_sensitive(true);
    Ok(header)
}

/// Where an admin side listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum AdminUrl {
    /// `http://HOST[:PORT]`
    Tcp(Authority),
    /// `unix:/PATH`
    Unix(PathBuf),
}

/// Not the address of an admin side.
#[derive(Debug, thiserror::Error)]
#[error("expected http://HOST:PORT or unix:/PATH")]
pub(super) struct InvalidAdminUrl;

impl FromStr for AdminUrl {
    type Err = InvalidAdminUrl;

    fn from_str(text: &str) -> Result<Self, InvalidAdminUrl> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.is_empty() { Err(InvalidAdminUrl) } else { Ok(Self::Unix(path.into())) };
        }
        let authority = text.strip_prefix("http://").ok_or(InvalidAdminUrl)?;
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        let authority: Authority = authority.parse().map_err(|_| InvalidAdminUrl)?;
        if authority.host().is_empty() || authority.as_str().contains('@') {
            return Err(InvalidAdminUrl);
        }
        Ok(Self::Tcp(authority))
    }
}

impl fmt::Display for AdminUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(authority) => write!(f, "http://{authority}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    /// Nobody listens, or nobody may be asked.
    #[error("cannot reach tidegate at {url}: {why}; {hint} Name another instance with --admin URL or TIDEGATE_ADMIN")]
    Unreachable {
        /// Who was asked.
        url: AdminUrl,
        /// What the system says.
        why: String,
        /// What may help.
        hint: String,
    },
    /// Somebody listens and says nothing.
    #[error("tidegate at {url} did not answer within {} s{}", .within.as_secs(), unknown(*.changes))]
    Silent {
        /// Who was asked.
        url: AdminUrl,
        /// For how long.
        within: Duration,
        /// Whether it was asked to change something.
        changes: bool,
    },
    /// Somebody listens, but it is not tidegate that speaks.
    #[error("what listens at {url} does not answer like tidegate: {why}")]
    Strange {
        /// Who was asked.
        url: AdminUrl,
        /// What is strange.
        why: String,
    },
}

/// Whoever may not open a socket knows that there is one.
fn hint(url: &AdminUrl, error: &io::Error) -> String {
    match url {
        AdminUrl::Unix(socket) if error.kind() == io::ErrorKind::PermissionDenied => match fs::metadata(socket) {
            Ok(found) => format!("the socket belongs to uid {}: be that user, or root.", found.uid()),
            Err(_) => "ask as the user who runs it, or as root.".to_owned(),
        },
        _ => "is it running?".to_owned(),
    }
}

fn unknown(changes: bool) -> &'static str {
    if changes { "; whether it did what was asked is not known: look with tidegate status" } else { "" }
}

/// An answer.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    /// Its status code.
    pub status: StatusCode,
    /// Its body.
    pub body: Bytes,
}

/// What is asked.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    method: Method,
    path: String,
    body: Option<Value>,
    if_match: Option<HeaderValue>,
    patience: Duration,
}

impl Ask {
    /// To look at `path`.
    pub(super) fn get(path: impl Into<String>) -> Self {
        Self { method: Method::GET, path: path.into(), body: None, if_match: None, patience: READ }
    }

    /// To change something.
    pub(super) fn change(method: Method, path: impl Into<String>, body: Value) -> Self {
        Self { method, path: path.into(), body: Some(body), if_match: None, patience: CHANGE }
    }

    /// The same, with the time that a switch takes.
    pub(super) fn patiently(self) -> Self {
        Self { patience: SWITCH, ..self }
    }

    /// The same, but only if what is changed is still the one with this tag.
    pub(super) fn only_if(self, tag: Option<HeaderValue>) -> Self {
        Self { if_match: tag, ..self }
    }
}

/// Who asks.
#[derive(Clone, Debug)]
pub(super) struct Client {
    url: AdminUrl,
    token: Option<HeaderValue>,
}

/// Any error of the exchange itself.
type Fault = Box<dyn std::error::Error + Send + Sync>;

impl Client {
    /// One without a token, for what everybody may ask.
    pub(super) fn nobody(url: &AdminUrl) -> Self {
        Self { url: url.clone(), token: None }
    }

    /// Who is asked.
    pub(super) fn url(&self) -> &AdminUrl {
        &self.url
    }

    /// Whether it says who it is.
    pub(super) fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// Asks for `path`.
    ///
    /// # Errors
    ///
    /// There is no answer. An answer that refuses is one.
    pub(super) async fn get(&self, path: &str) -> Result<Reply, ClientError> {
        self.ask(Ask::get(path)).await
    }

    /// Asks, and waits for the whole answer.
    ///
    /// # Errors
    ///
    /// There is no answer. An answer that refuses is one.
    pub(super) async fn ask(&self, ask: Ask) -> Result<Reply, ClientError> {
        let (within, changes) = (ask.patience, ask.method != Method::GET);
        let answered = async {
            let response = self.send(ask).await?;
            let status = response.status();
            let whole = Limited::new(response.into_body(), LARGEST).collect().await;
            Ok(Reply { status, body: whole.map_err(|fault| self.strange(&fault))?.to_bytes() })
        };
        let silent = || ClientError::Silent { url: self.url.clone(), within, changes };
        timeout(within, answered).await.unwrap_or_else(|_| Err(silent()))
    }

    /// Asks for a stream of events.
    ///
    /// # Errors
    ///
    /// There is no answer. A refusal is one, and given as it is.
    pub(super) async fn events(&self, path: &str) -> Result<Result<Events, Reply>, ClientError> {
        let ask = Ask { patience: READ, ..Ask::get(path) };
        let silent = || ClientError::Silent { url: self.url.clone(), within: READ, changes: false };
        let response = timeout(READ, self.send(ask)).await.unwrap_or_else(|_| Err(silent()))?;
        if response.status().is_success() {
            return Ok(Ok(Events::new(response.into_body())));
        }
        let status = response.status();
        let whole = Limited::new(response.into_body(), LARGEST).collect().await;
        Ok(Err(Reply { status, body: whole.map_err(|fault| self.strange(&fault))?.to_bytes() }))
    }

    /// Asks, and waits for the head of the answer.
    async fn send(&self, ask: Ask) -> Result<Response<Incoming>, ClientError> {
        let unreachable = |error: io::Error| {
            let hint = hint(&self.url, &error);
            ClientError::Unreachable { url: self.url.clone(), why: in_words(&error), hint }
        };
        let answer = match &self.url {
            AdminUrl::Tcp(authority) => {
                let address = (authority.host().trim_matches(['[', ']']), authority.port_u16().unwrap_or(80));
                let stream = TcpStream::connect(address).await.map_err(unreachable)?;
                converse(stream, self.request(ask, authority.as_str())).await
            }
            AdminUrl::Unix(socket) => {
                let stream = UnixStream::connect(socket).await.map_err(unreachable)?;
                converse(stream, self.request(ask, "localhost")).await
            }
        };
        answer.map_err(|fault| self.strange(&fault))
    }

    fn request(&self, ask: Ask, host: &str) -> http::Result<Request<Full<Bytes>>> {
        let mut request = Request::builder().method(ask.method).uri(ask.path).header(HOST, host);
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, token);
        }
        if let Some(tag) = ask.if_match {
            request = request.header(IF_MATCH, tag);
        }
        match ask.body {
            None => request.body(Full::default()),
            Some(body) => request.header(CONTENT_TYPE, "application/json").body(Full::from(body.to_string())),
        }
    }

    fn strange(&self, fault: &Fault) -> ClientError {
        ClientError::Strange { url: self.url.clone(), why: fault.to_string() }
    }
}

/// A path under the API, with what stands in the place of names made fit for one.
pub(super) fn in_path(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    let encoded = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    name.bytes().map(encoded).collect()
}

/// What went wrong, without the number of the error if the system knows a word for it.
fn in_words(error: &io::Error) -> String {
    match error.kind() {
        kind @ (io::ErrorKind::ConnectionRefused | io::ErrorKind::PermissionDenied) => kind.to_string(),
        io::ErrorKind::NotFound => "there is no such socket".to_owned(),
        _ => error.to_string(),
    }
}

async fn converse<S>(stream: S, request: http::Result<Request<Full<Bytes>>>) -> Result<Response<Incoming>, Fault>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection); // ends with the last of the answer, or with whoever reads it
    Ok(sender.send_request(request?).await?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    #[test]
    fn addresses_are_read_as_they_are_told() {
        for (text, told) in [
            ("http://127.0.0.1:9901", Some("http://127.0.0.1:9901")),
            ("http://localhost:9901/", Some("http://localhost:9901")),
            ("http://[::1]:9901", Some("http://[::1]:9901")),
            ("unix:/run/tidegate/admin.sock", Some("unix:/run/tidegate/admin.sock")),
            ("unix:///run/admin.sock", Some("unix:/run/admin.sock")),
            ("127.0.0.1:9901", None),
            ("https://127.0.0.1:9901", None),
            ("http://127.0.0.1:9901/metrics", None),
            ("http://user@127.0.0.1", None),
            ("unix:", None),
            ("", None),
        ] {
            assert_eq!(text.parse::<AdminUrl>().ok().map(|url| url.to_string()).as_deref(), told, "{text}");
        }
    }

    /// Answers one client with `answer`, whatever it asks, and tells what that was.
    async fn somebody(answer: &'static str) -> (Client, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let asked = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 1024];
            let read = stream.read(&mut head).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&head[..read]).into_owned()
        });
        (Client::nobody(&url), asked)
    }

    #[tokio::test]
    async fn answers_are_handed_back_with_their_status() {
        let (client, _) = somebody("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\nno").await;
        let reply = client.get("/readyz").await.unwrap();
        assert_eq!((reply.status.as_u16(), &reply.body[..]), (503, &b"no"[..]));
    }

    #[tokio::test]
    async fn an_answer_may_end_with_its_connection() {
        let (client, _) = somebody("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nok").await;
        assert_eq!(&client.get("/livez").await.unwrap().body[..], b"ok");
    }

    #[tokio::test]
    async fn a_change_says_what_and_who_and_on_which_condition() {
        let (client, asked) = somebody("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").await;
        let client = Client { token: Some(bearer("s3cret\n").unwrap()), ..client };
        let ask = Ask::change(Method::PUT, "/x", json!({"percent": 25.0}));
        client.ask(ask.only_if(Some(HeaderValue::from_static("\"7\"")))).await.unwrap();
        let asked = asked.await.unwrap().to_lowercase();
        for line in ["put /x http/1.1", "authorization: bearer s3cret", "if-match: \"7\"", "{\"percent\":25.0}"] {
            assert!(asked.contains(line), "{line} in {asked}");
        }
    }

    #[tokio::test]
    async fn errors_say_what_to_do() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let url: AdminUrl = format!("http://{address}").parse().unwrap();
        let error = Client::nobody(&url).get("/livez").await.unwrap_err().to_string();
        assert_eq!(
            error,
            format!(
                "cannot reach tidegate at http://{address}: connection refused; is it running? \
                 Name another instance with --admin URL or TIDEGATE_ADMIN"
            )
        );
        let socket = "unix:/no/such.sock".parse().unwrap();
        let error = Client::nobody(&socket).get("/livez").await.unwrap_err().to_string();
        assert!(error.contains("there is no such socket"), "{error}");
        let (stranger, _) = somebody("220 mail.example ESMTP\r\n").await;
        let error = stranger.get("/livez").await.unwrap_err().to_string();
        assert!(error.contains("does not answer like tidegate"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_without_an_answer_may_have_happened() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = Client::nobody(&format!("http://{}", listener.local_addr().unwrap()).parse().unwrap());
        let error = client.ask(Ask::change(Method::POST, "/x", json!({}))).await.unwrap_err().to_string();
        assert!(error.contains("within 10 s; whether it did what was asked is not known"), "{error}");
        let error = client.get("/x").await.unwrap_err().to_string();
        assert!(error.ends_with("within 5 s"), "{error}");
    }

    #[test]
    fn a_token_is_one_word_and_never_told() {
        assert!(bearer(" 0123456789abcdef\n").unwrap().is_sensitive());
        for wrong in ["", " \n", "two words", "a\nb", "\u{1}"] {
            let error = format!("{:#}", bearer(wrong).unwrap_err());
            assert!(wrong.trim().is_empty() || !error.contains(wrong.trim()), "{error}");
        }
    }

    #[test]
    fn names_are_made_fit_for_a_path() {
        assert_eq!(in_path("ledger-2_b"), "ledger-2_b");
        assert_eq!(in_path("a/../b c?é"), "a%2F..%2Fb%20c%3F%C3%A9");
    }
}
