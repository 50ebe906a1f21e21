//! Opens connections to a server: as many as it can, or so many a second.
//!
//! ```sh
//! cargo build --release --example connections
//! target/release/examples/connections 127.0.0.1:8443 --tls                # handshakes, full ones
//! target/release/examples/connections 127.0.0.1:8443 --tls --resume       # with the session of the one before
//! target/release/examples/connections 127.0.0.1:8080 --rate 5000          # one request on each
//! ```
//!
//! Without `--rate`, `--parallel` connections are under way at any time. With `--tls` a connection is a handshake and an
//! orderly close, which waits for the server's tickets; without, it is one request and its answer. The client spares itself
//! what only costs its own core: it trusts every certificate and every signature. So a server on another core is busy
//! before it is. The one line of JSON is for `benches/compare/run`.

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, Resumption};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, HandshakeKind, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::LocalSet;
use tokio_rustls::TlsConnector;

type Failure = Box<dyn std::error::Error>;

/// The source addresses, 127.0.0.2 and up: one alone has too few ports for what waits to be forgotten by the kernel.
const SOURCES: u8 = 24;

/// With `--rate`, connections beyond these under way are not opened but counted as errors.
const MOST_UNDER_WAY: usize = 4096;

/// How long a connection may take before it counts as an error.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often `--rate` opens what is due.
const TICK: Duration = Duration::from_millis(1);

#[derive(Clone, Copy, clap::Parser)]
struct Options {
    /// The server.
    server: SocketAddr,
    /// How long, in seconds.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Connections under way at a time.
    #[arg(long, default_value_t = 64)]
    parallel: usize,
    /// Connections a second instead, whether the others are answered or not.
    #[arg(long)]
    rate: Option<u64>,
    /// TLS 1.3 handshakes instead of requests.
    #[arg(long)]
    tls: bool,
    /// Handshakes that resume the session of the one before.
    #[arg(long, requires = "tls", conflicts_with = "rate")]
    resume: bool,
}

/// What came out.
#[derive(Default)]
struct Tally {
    /// Microseconds that each good connection took.
    took: Vec<u64>,
    resumed: usize,
    errors: usize,
    under_way: usize,
    opened: usize,
}

type Shared = Rc<RefCell<Tally>>;

fn main() -> Result<(), Failure> {
    let options = <Options as clap::Parser>::parse();
    let tally = Shared::default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let started = Instant::now();
    let until = started + Duration::from_secs(options.seconds);
    runtime.block_on(LocalSet::new().run_until(async {
        match options.rate {
            Some(rate) => at_a_rate(options, rate, until, &tally).await,
            None => in_parallel(options, until, &tally).await,
        }
    }));
    print(&tally.borrow_mut(), started.elapsed());
    Ok(())
}

/// `--parallel` clients, each of which opens its next connection when the last one is closed.
async fn in_parallel(options: Options, until: Instant, tally: &Shared) {
    let clients: Vec<_> = (0..options.parallel)
        .map(|_| {
            let tally = tally.clone();
            tokio::task::spawn_local(async move {
                // A session store of its own: tickets are for one use, and each client gets its next one in time.
                let connector = options.tls.then(|| connector(options.resume));
                while Instant::now() < until {
                    one(options, connector.as_ref(), &tally).await;
                }
            })
        })
        .collect();
    for client in clients {
        client.await.expect("a client does not panic");
    }
}

/// `rate` connections a second, however long the ones before take.
async fn at_a_rate(options: Options, rate: u64, until: Instant, tally: &Shared) {
    let connector = options.tls.then(|| connector(false));
    let started = Instant::now();
    let mut opened = 0;
    let mut ticks = tokio::time::interval(TICK);
    while Instant::now() < until {
        ticks.tick().await;
        let due = started.elapsed().as_micros() * u128::from(rate) / 1_000_000;
        while opened < due {
            opened += 1;
            if tally.borrow().under_way >= MOST_UNDER_WAY {
                tally.borrow_mut().errors += 1;
                continue;
            }
            let (tally, connector) = (tally.clone(), connector.clone());
            tokio::task::spawn_local(async move { one(options, connector.as_ref(), &tally).await });
        }
    }
    while tally.borrow().under_way > 0 {
        ticks.tick().await;
    }
}

/// One connection from its SYN to its end, entered into the tally.
async fn one(options: Options, connector: Option<&TlsConnector>, tally: &Shared) {
    let source = {
        let mut tally = tally.borrow_mut();
        tally.under_way += 1;
        tally.opened += 1;
        Ipv4Addr::new(127, 0, 0, 2 + u8::try_from(tally.opened % usize::from(SOURCES)).expect("below SOURCES"))
    };
    let started = Instant::now();
    let done = tokio::time::timeout(PATIENCE, async {
        let stream = connect(source, options.server).await?;
        match connector {
            Some(connector) => handshake(connector, stream).await,
            None => request(stream).await.map(|()| false),
        }
    })
    .await
    .unwrap_or_else(|late| Err(late.into()));
    let mut tally = tally.borrow_mut();
    tally.under_way -= 1;
    match done {
        Ok(resumed) => {
            tally.took.push(u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX));
            tally.resumed += usize::from(resumed);
        }
        Err(failure) => {
            if tally.errors == 0 {
                eprintln!("the first error: {failure}");
            }
            tally.errors += 1;
        }
    }
}

async fn connect(source: Ipv4Addr, server: SocketAddr) -> Result<TcpStream, Failure> {
    let socket = TcpSocket::new_v4()?;
    socket.set_nodelay(true)?;
    socket.bind((source, 0).into())?;
    Ok(socket.connect(server).await?)
}

/// A handshake and the close of both sides; whether it resumed a session.
async fn handshake(connector: &TlsConnector, stream: TcpStream) -> Result<bool, Failure> {
    let name = ServerName::try_from("localhost").expect("a name");
    let mut stream = connector.connect(name, stream).await?;
    let resumed = stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
    stream.shutdown().await?;
    // The tickets come before the end. Some servers leave out the close_notify, which is no failure here.
    let mut rest = [0; 512];
    while matches!(stream.read(&mut rest).await, Ok(1..)) {}
    Ok(resumed)
}

/// One request and its whole answer; the client closes.
async fn request(mut stream: TcpStream) -> Result<(), Failure> {
    stream.write_all(b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\nx-user-id: 1025\r\n\r\n").await?;
    let mut answer = Vec::with_capacity(2048);
    loop {
        if stream.read_buf(&mut answer).await? == 0 {
            return Err("closed before the answer was whole".into());
        }
        if whole(&answer)? {
            return Ok(());
        }
    }
}

/// Whether an answer with a Content-Length is complete; another status than 200 is an error.
fn whole(answer: &[u8]) -> Result<bool, Failure> {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Response::new(&mut fields);
    let httparse::Status::Complete(length) = head.parse(answer)? else {
        return Ok(false);
    };
    if head.code != Some(200) {
        return Err(format!("status {:?}", head.code).into());
    }
    let body = head.headers.iter().find(|field| field.name.eq_ignore_ascii_case("content-length"));
    let body: usize = str::from_utf8(body.ok_or("no Content-Length")?.value)?.parse()?;
    Ok(answer.len() >= length + body)
}

/// TLS 1.3 with AES-128-GCM and X25519 only, so that every server picks the same.
fn connector(resume: bool) -> TlsConnector {
    let provider = CryptoProvider {
        cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256],
        kx_groups: vec![aws_lc_rs::kx_group::X25519],
        ..aws_lc_rs::default_provider()
    };
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3 has this cipher and this group")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone))
        .with_no_client_auth();
    config.resumption = if resume { Resumption::in_memory_sessions(4) } else { Resumption::disabled() };
    TlsConnector::from(Arc::new(config))
}

/// Believes every server.
#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not offered".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

#[expect(clippy::print_stdout, reason = "its only output")]
fn print(tally: &Tally, elapsed: Duration) {
    let mut took = tally.took.clone();
    took.sort_unstable();
    let percentile = |percent: usize| took.get(took.len() * percent / 100).copied().unwrap_or(0);
    println!(
        r#"RESULT {{"requests": {}, "micros": {}, "p50_us": {}, "p99_us": {}, "resumed": {}, "errors": {}}}"#,
        took.len(),
        elapsed.as_micros(),
        percentile(50),
        percentile(99),
        tally.resumed,
        tally.errors,
    );
}
