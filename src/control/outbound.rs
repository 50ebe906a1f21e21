//! Requests that tidegate makes by itself: to webhooks, and to whoever is asked for figures.
//!
//! A small client for a few requests a minute. Each has a connection of its own, since one that is kept may be closed just
//! when it is needed, and a name may lead elsewhere by then. No redirect is followed: where a request goes is for the config
//! to say, and not for whoever answers (else a webhook's answer could point tidegate at a cloud's metadata service). Neither
//! are the proxies of the environment used. Roots are those of the system, or of `SSL_CERT_FILE` and `SSL_CERT_DIR`; where
//! there are none, such as in an image `FROM scratch`, http works and https fails with [`Failed::NoRoots`].

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONNECTION, USER_AGENT};
use http::uri::{Authority, Scheme};
use http::{HeaderValue, Request, Response, Uri};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{self, Client as Pool};
use hyper_util::rt::TokioExecutor;
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::OnceCell;
use tokio::time::timeout;

use crate::config::origin;
use crate::policy::path::percent_decode;

/// Bytes of an answer's body that are read; with one more the answer is refused.
const LARGEST_ANSWER: usize = 1 << 20;
/// Who asks, unless the request says so itself.
const AGENT: &str = concat!("tidegate/", env!("CARGO_PKG_VERSION"));

/// Why there is no answer, in a sentence. None shows more of the URL than its scheme, host and port.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failed {
    /// The URL has no host, or a scheme that is neither http nor https.
    #[error("only a URL of the form http://HOST/... or https://HOST/... can be asked")]
    Url,
    /// The name cannot be resolved.
    #[error("{at}: this host's name cannot be resolved: {cause}")]
    Name {
        /// `scheme://host:port`
        at: String,
        /// The resolver's words.
        cause: String,
    },
    /// No connection.
    #[error("{at} takes no connection: {cause}")]
    Connect {
        /// `scheme://host:port`
        at: String,
        /// The system's words.
        cause: String,
    },
    /// A connection, but no TLS that can be trusted.
    #[error("{at}: no TLS that can be trusted: {cause}")]
    Tls {
        /// `scheme://host:port`
        at: String,
        /// The TLS library's words.
        cause: String,
    },
    /// Nothing to trust.
    #[error(
        "{at}: this machine has no root certificates, so that nothing can be trusted; install ca-certificates, or set \
         SSL_CERT_FILE to a file with them"
    )]
    NoRoots {
        /// `scheme://host:port`
        at: String,
    },
    /// An answer that is none, or only a part of one.
    #[error("{at} gives no whole HTTP answer: {cause}")]
    NotHttp {
        /// `scheme://host:port`
        at: String,
        /// What was wrong with it.
        cause: String,
    },
    /// The answer's body is larger than 1 MiB.
    #[error("{at} answers with more than 1 MiB")]
    TooLarge {
        /// `scheme://host:port`
        at: String,
    },
    /// The time is over.
    #[error("{at} has not answered within {} s", .within.as_secs_f64())]
    Timeout {
        /// `scheme://host:port`
        at: String,
        /// How long it had.
        within: Duration,
    },
}

type Plain = Pool<HttpConnector, Full<Bytes>>;
type Secure = Pool<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// Makes requests. A clone is the same client.
#[derive(Clone, Debug)]
pub struct Client {
    plain: Plain,
    /// Made at the first https request, since that reads the system's roots; again at the next one, if there were none.
    secure: Arc<OnceCell<Secure>>,
}

impl Default for Client {
    fn default() -> Self {
        Self::new()
    }
}

impl Client {
    /// A client that has not asked anybody yet.
    #[must_use]
    pub fn new() -> Self {
        Self { plain: pool().build_http(), secure: Arc::default() }
    }

    /// Sends `request`, whose URI is a whole `http` or `https` URL, and reads the whole answer: name, connection, TLS, head
    /// and at most 1 MiB of body, all within `timeout`. An answer of any status is an answer, a redirect too. A user and a
    /// password in the URL become an `authorization`, unless the request has one. Needs a tokio runtime.
    ///
    /// # Errors
    /// When there is no whole answer.
    pub async fn send(&self, request: Request<Bytes>, timeout_after: Duration) -> Result<Response<Bytes>, Failed> {
        let (request, at) = prepared(request)?;
        match timeout(timeout_after, self.exchange(request, &at)).await {
            Ok(answer) => answer,
            Err(_) => Err(Failed::Timeout { at, within: timeout_after }),
        }
    }

    async fn exchange(&self, request: Request<Full<Bytes>>, at: &str) -> Result<Response<Bytes>, Failed> {
        let answer = match request.uri().scheme() == Some(&Scheme::HTTPS) {
            true => self.secure(at).await?.request(request).await,
            false => self.plain.request(request).await,
        };
        let answer = answer.map_err(|error| unanswered(&error, at))?;
        read(answer, at).await
    }

    async fn secure(&self, at: &str) -> Result<&Secure, Failed> {
        let made = self.secure.get_or_try_init(|| async {
            let roots = tokio::task::spawn_blocking(roots).await; // aside: a disk may hang
            let roots = roots.unwrap_or_else(|_| RootCertStore::empty());
            if roots.is_empty() {
                return Err(Failed::NoRoots { at: at.to_owned() });
            }
            secure(roots).map_err(|error| Failed::Tls { at: at.to_owned(), cause: error.to_string() })
        });
        made.await
    }
}

fn pool() -> legacy::Builder {
    let mut builder = Pool::builder(TokioExecutor::new());
    builder.pool_max_idle_per_host(0).retry_canceled_requests(false);
    builder
}

/// Whom the system trusts. A certificate in its store that cannot be read is left out.
fn roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "some root certificates cannot be read");
    }
    roots.add_parsable_certificates(found.certs);
    roots
}

fn secure(roots: RootCertStore) -> Result<Secure, rustls::Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let connector = HttpsConnectorBuilder::new().with_tls_config(config).https_only().enable_http1().build();
    Ok(pool().build(connector))
}

/// `request` as it is sent, and where it goes as people may see it.
fn prepared(request: Request<Bytes>) -> Result<(Request<Full<Bytes>>, String), Failed> {
    let (mut head, body) = request.into_parts();
    let (uri, credentials) = without_credentials(head.uri)?;
    let at = origin(&uri).ok_or(Failed::Url)?;
    head.uri = uri;
    if let Some(credentials) = credentials {
        head.headers.entry(AUTHORIZATION).or_insert(credentials);
    }
    head.headers.entry(USER_AGENT).or_insert(HeaderValue::from_static(AGENT));
    head.headers.insert(CONNECTION, HeaderValue::from_static("close"));
    Ok((Request::from_parts(head, Full::new(body)), at))
}

/// `uri` without its user and password, and the `authorization` that they mean (RFC 7617).
fn without_credentials(uri: Uri) -> Result<(Uri, Option<HeaderValue>), Failed> {
    let Some((credentials, place)) = uri.authority().and_then(|authority| authority.as_str().rsplit_once('@')) else {
        return Ok((uri, None));
    };
    let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
    let mut plain = percent_decode(user.as_bytes());
    plain.push(b':');
    plain.extend(percent_decode(password.as_bytes()));
    let header = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(plain)));
    let mut header = header.map_err(|_| Failed::Url)?;
    header.set_sensitive(true);
    let place: Authority = place.parse().map_err(|_| Failed::Url)?;
    let mut parts = uri.into_parts();
    parts.authority = Some(place);
    Ok((Uri::from_parts(parts).map_err(|_| Failed::Url)?, Some(header)))
}

async fn read(answer: Response<Incoming>, at: &str) -> Result<Response<Bytes>, Failed> {
    let (head, body) = answer.into_parts();
    let body = Limited::new(body, LARGEST_ANSWER).collect().await.map_err(|error| {
        let at = at.to_owned();
        match error.is::<LengthLimitError>() {
            true => Failed::TooLarge { at },
            false => Failed::NotHttp { at, cause: innermost(error.as_ref()).to_string() },
        }
    })?;
    Ok(Response::from_parts(head, body.to_bytes()))
}

/// Which failure `error` is. The client tells what broke only by what lies inside its errors.
fn unanswered(error: &legacy::Error, at: &str) -> Failed {
    let (at, cause) = (at.to_owned(), innermost(error).to_string());
    if !error.is_connect() {
        return Failed::NotHttp { at, cause };
    }
    if chain(error).any(<dyn Error>::is::<rustls::Error>) {
        return Failed::Tls { at, cause };
    }
    if chain(error).any(|error| error.to_string() == "dns error") {
        return Failed::Name { at, cause };
    }
    Failed::Connect { at, cause }
}

/// `error` and what caused it, from the outside in. An `io::Error` that merely wraps another error does not name it as its
/// source, but shows it when asked.
fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| {
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        wrapped.map(|inner| inner as &(dyn Error + 'static)).or_else(|| error.source())
    })
}

fn innermost<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    chain(error).last().unwrap_or(error)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use http::StatusCode;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::task::JoinHandle;

    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    /// Takes one connection, reads a head, answers `answer`; gives what it read.
    async fn server(answer: Vec<u8>) -> (SocketAddr, JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let served = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut read = Vec::new();
            while !read.ends_with(b"\r\n\r\n") {
                match stream.read_u8().await {
                    Ok(byte) => read.push(byte),
                    Err(_) => break,
                }
            }
            let _the_client_may_have_had_enough = stream.write_all(&answer).await;
            String::from_utf8_lossy(&read).into_owned()
        });
        (address, served)
    }

    async fn get(url: &str) -> Result<Response<Bytes>, Failed> {
        Client::new().send(Request::get(url).body(Bytes::new()).unwrap(), SOON).await
    }

    #[tokio::test]
    async fn a_url_s_user_and_password_go_into_a_header_and_nowhere_else() {
        let (address, served) = server(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi".to_vec()).await;
        let answer = get(&format!("http://me:s%40cret@{address}/a/b?c=d")).await.unwrap();
        assert_eq!((answer.status(), answer.body().as_ref()), (StatusCode::OK, b"hi".as_ref()));
        let read = served.await.unwrap();
        assert!(read.starts_with("GET /a/b?c=d HTTP/1.1\r\n"), "{read}");
        assert!(read.contains(&format!("\r\nhost: {address}\r\n")), "{read}");
        assert!(read.contains(&format!("\r\nauthorization: Basic {}\r\n", STANDARD.encode("me:s@cret"))), "{read}");
        assert!(read.contains(&format!("\r\nuser-agent: {AGENT}\r\n")), "{read}");
    }

    #[tokio::test]
    async fn a_redirect_is_an_answer() {
        let (elsewhere, asked) = server(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec()).await;
        let moved = format!("HTTP/1.1 307 Moved\r\nlocation: http://{elsewhere}/\r\ncontent-length: 0\r\n\r\n");
        let (address, _) = server(moved.into_bytes()).await;
        let answer = get(&format!("http://{address}/")).await.unwrap();
        assert_eq!(answer.status(), StatusCode::TEMPORARY_REDIRECT);
        assert!(!asked.is_finished());
    }

    #[tokio::test]
    async fn an_answer_has_a_size_and_an_end() {
        for (answer, failed) in [
            (format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(LARGEST_ANSWER + 1)), "answers with more than 1 MiB"),
            ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhi".to_owned(), "gives no whole HTTP answer"),
            ("220 mail.example.com ESMTP\r\n".to_owned(), "gives no whole HTTP answer"),
            (String::new(), "gives no whole HTTP answer"),
        ] {
            let (address, _) = server(answer.into_bytes()).await;
            let told = get(&format!("http://me:secret@{address}/token")).await.unwrap_err().to_string();
            assert!(told.contains(failed) && told.contains(&format!("http://{address}")), "{told}");
            assert!(!told.contains("secret") && !told.contains("token"), "{told}");
        }
    }

    #[tokio::test]
    async fn who_does_not_answer_is_told_by_what_is_missing() {
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let told = get(&format!("http://{closed}/")).await.unwrap_err();
        assert!(matches!(&told, Failed::Connect { cause, .. } if cause.contains("refused")), "{told}");
        assert_eq!(get("ftp://127.0.0.1/").await.unwrap_err(), Failed::Url);
        assert_eq!(get("/nowhere").await.unwrap_err(), Failed::Url);
        // No label of a name is so long, so that no resolver has to be asked.
        let told = get(&format!("http://{}.invalid/", "x".repeat(64))).await.unwrap_err();
        assert!(matches!(told, Failed::Name { .. }), "{told}");
    }

    #[tokio::test]
    async fn what_speaks_no_tls_is_told_so() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(
            async move { listener.accept().await.unwrap().0.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await },
        );
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let client = Client { secure: Arc::new(OnceCell::from(secure(roots).unwrap())), ..Client::new() };
        let request = Request::get(format!("https://{address}/")).body(Bytes::new()).unwrap();
        let told = client.send(request, SOON).await.unwrap_err();
        assert!(matches!(told, Failed::Tls { .. }), "{told}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_too_long_is_not_waited_for() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", silent.local_addr().unwrap());
        let told = get(&url).await.unwrap_err();
        assert_eq!(told.to_string(), format!("{} has not answered within 10 s", url.trim_end_matches('/')));
    }
}
