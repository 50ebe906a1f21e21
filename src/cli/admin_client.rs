//! Asks a running tidegate: HTTP/1.1 over its admin port or socket.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http::header::HOST;
use http::uri::Authority;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

/// How long an answer may take: it is made from memory, on the same machine.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of an answer; a status is a few kilobytes.
const LARGEST: usize = 16 << 20;

/// Which instance is asked.
#[derive(Clone, Debug, Args)]
pub struct AdminArgs {
    /// Which instance: http://HOST:PORT or unix:/PATH
    #[arg(
        long,
        env = "TIDEGATE_ADMIN",
        hide_env_values = true,
        value_name = "URL",
        default_value = "http://127.0.0.1:9901"
    )]
    pub admin: AdminUrl,
}

/// Where an admin side listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminUrl {
    /// `http://HOST[:PORT]`
    Tcp(Authority),
    /// `unix:/PATH`
    Unix(PathBuf),
}

/// Not the address of an admin side.
#[derive(Debug, thiserror::Error)]
#[error("expected http://HOST:PORT or unix:/PATH")]
pub struct InvalidAdminUrl;

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
pub enum ClientError {
    /// Nobody listens, or nobody may be asked.
    #[error(
        "cannot reach tidegate at {url}: {why}; is it running? Name another instance with --admin URL or TIDEGATE_ADMIN"
    )]
    Unreachable {
        /// Who was asked.
        url: AdminUrl,
        /// What the system says.
        why: String,
    },
    /// Somebody listens and says nothing.
    #[error("tidegate at {url} did not answer within {} s", PATIENCE.as_secs())]
    Silent {
        /// Who was asked.
        url: AdminUrl,
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

/// An answer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Its status code.
    pub status: StatusCode,
    /// Its body.
    pub body: Bytes,
}

/// Asks for `path`.
///
/// # Errors
///
/// There is no answer. An answer that refuses is one.
pub async fn get(url: &AdminUrl, path: &str) -> Result<Reply, ClientError> {
    timeout(PATIENCE, ask(url, path)).await.unwrap_or_else(|_| Err(ClientError::Silent { url: url.clone() }))
}

async fn ask(url: &AdminUrl, path: &str) -> Result<Reply, ClientError> {
    let unreachable = |error: io::Error| ClientError::Unreachable { url: url.clone(), why: in_words(&error) };
    let answer = match url {
        AdminUrl::Tcp(authority) => {
            let address = (authority.host().trim_matches(['[', ']']), authority.port_u16().unwrap_or(80));
            converse(TcpStream::connect(address).await.map_err(unreachable)?, authority.as_str(), path).await
        }
        AdminUrl::Unix(socket) => {
            converse(UnixStream::connect(socket).await.map_err(unreachable)?, "localhost", path).await
        }
    };
    answer.map_err(|error| ClientError::Strange { url: url.clone(), why: error.to_string() })
}

/// What went wrong, without the number of the error if the system knows a word for it.
fn in_words(error: &io::Error) -> String {
    match error.kind() {
        kind @ (io::ErrorKind::ConnectionRefused | io::ErrorKind::PermissionDenied) => kind.to_string(),
        io::ErrorKind::NotFound => "there is no such socket".to_owned(),
        _ => error.to_string(),
    }
}

async fn converse<S>(stream: S, host: &str, path: &str) -> Result<Reply, Box<dyn std::error::Error + Send + Sync>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(path).header(HOST, host).body(Empty::<Bytes>::new())?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), LARGEST).collect().await?.to_bytes();
        Ok(Reply { status, body })
    };
    tokio::pin!(exchange);
    tokio::select! {
        answered = &mut exchange => answered,
        // A connection that ends has delivered all it ever will.
        _ = connection => exchange.await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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

    /// Answers one client with `answer`, whatever it asks.
    async fn somebody(answer: &'static str) -> AdminUrl {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 1024]).await;
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        url
    }

    #[tokio::test]
    async fn answers_are_handed_back_with_their_status() {
        let url = somebody("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\nno").await;
        let reply = get(&url, "/readyz").await.unwrap();
        assert_eq!((reply.status.as_u16(), &reply.body[..]), (503, &b"no"[..]));
    }

    #[tokio::test]
    async fn an_answer_may_end_with_its_connection() {
        let url = somebody("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nok").await;
        assert_eq!(&get(&url, "/livez").await.unwrap().body[..], b"ok");
    }

    #[tokio::test]
    async fn errors_say_what_to_do() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let url: AdminUrl = format!("http://{address}").parse().unwrap();
        let error = get(&url, "/livez").await.unwrap_err().to_string();
        assert_eq!(
            error,
            format!(
                "cannot reach tidegate at http://{address}: connection refused; is it running? \
                 Name another instance with --admin URL or TIDEGATE_ADMIN"
            )
        );
        let error = get(&"unix:/no/such.sock".parse().unwrap(), "/livez").await.unwrap_err().to_string();
        assert!(error.contains("there is no such socket"), "{error}");
        let stranger = somebody("220 mail.example ESMTP\r\n").await;
        let error = get(&stranger, "/livez").await.unwrap_err().to_string();
        assert!(error.contains("does not answer like tidegate"), "{error}");
    }
}
