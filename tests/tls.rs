//! TLS: with clients by the name that they ask for, with backends by what they show; files that change while traffic runs.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, HandshakeKind};
use tempfile::TempDir;
use tidegate::app::{Signal, StartError};

use crate::support::backend::ok;
use crate::support::process::BINARY;
use crate::support::proxy::single;
use crate::support::tls::{Authority, Caller, Issued, connect, replace, server, session};
use crate::support::{Backend, Client, Gate, PATIENCE, Tidegate, eventually, foreign};

/// What every story's config begins with, but for its listener.
const PREAMBLE: &str =
    "admin: { address: 127.0.0.1:0 }\nworkers: 2\nshutdown: { readiness_delay: 0s, drain_timeout: 2s }\n";

/// The usual listener.
const PAIR: &str = "certificate: a.crt, key: a.key";

/// A tidegate that speaks TLS, with certificates by an authority of its own.
struct Scene {
    authority: Authority,
    backend: Backend,
    tidegate: Tidegate,
}

impl Scene {
    /// TLS as `tls` says it, over files of `pairs` and others; with more lines of config.
    fn with(tls: &str, pairs: &[(&str, &Issued)], files: &[(&str, &str)], authority: Authority, more: &str) -> Self {
        let backend = Backend::named("only");
        let dir = tempfile::tempdir().unwrap();
        pairs.iter().for_each(|(name, issued)| issued.put(dir.path(), name));
        files.iter().for_each(|(name, text)| std::fs::write(dir.path().join(name), text).unwrap());
        let tidegate = start(dir, &format!("{}{more}", listening(tls, &single(&backend))));
        Self { authority, backend, tidegate }
    }

    /// One certificate for `localhost`, in front of `backend`; the config is as `change` makes it.
    fn before(backend: Backend, change: impl FnOnce(String) -> String) -> Self {
        let authority = Authority::new("test");
        let dir = tempfile::tempdir().unwrap();
        authority.issue(&["localhost"]).put(dir.path(), "a");
        let tidegate = start(dir, &change(listening(PAIR, &single(&backend))));
        Self { authority, backend, tidegate }
    }

    /// One certificate for `localhost`.
    fn usual() -> Self {
        Self::configured("")
    }

    fn configured(more: &str) -> Self {
        let authority = Authority::new("test");
        let pair = authority.issue(&["localhost"]);
        Self::with(PAIR, &[("a", &pair)], &[], authority, more)
    }

    fn caller(&self) -> Arc<ClientConfig> {
        Caller::trusting(&self.authority).ready()
    }

    /// A new connection in want of `localhost`.
    fn call(&self, config: &Arc<ClientConfig>) -> Client {
        connect(self.tidegate.address, config, "localhost")
    }

    fn failures(&self, cause: &str) -> f64 {
        self.tidegate.metric(&format!("tidegate_tls_handshake_failures_total{{cause=\"{cause}\"}}"))
    }

    #[track_caller]
    fn eventually_failed(&self, cause: &str, times: f64) {
        eventually(&format!("{times} times {cause}"), || self.failures(cause) == times);
    }
}

/// A config with one listener, whose TLS is `tls`.
fn listening(tls: &str, more: &str) -> String {
    format!("{PREAMBLE}listeners:\n  - address: 127.0.0.1:0\n    tls: {{ {tls} }}\n{more}")
}

fn start(dir: TempDir, config: &str) -> Tidegate {
    let path = dir.path().join("tidegate.yaml");
    std::fs::write(&path, config).unwrap();
    Tidegate::start_at(dir, path).unwrap_or_else(|error| panic!("{error}"))
}

// -- with clients

#[test]
fn a_client_is_served_over_tls() {
    let scene = Scene::usual();
    let mut client = scene.call(&scene.caller());
    for _ in 0..3 {
        assert_eq!(client.get("/", &[("x-forwarded-proto", "http")]).text(), "only");
    }
    assert_eq!(
        client.send("GET /1 HTTP/1.1\r\nhost: a\r\n\r\nGET /2 HTTP/1.1\r\nhost: a\r\n\r\n").answer().status,
        200
    );
    assert_eq!(client.answer().status, 200);
    let requests = scene.backend.requests();
    assert!(requests.iter().all(|request| request.header("x-forwarded-proto") == Some("https")), "{requests:?}");
    assert_eq!(scene.tidegate.metric("tidegate_tls_handshakes_total{resumed=\"false\"}"), 1.0);
}

#[test]
fn a_name_gets_its_certificate_and_others_the_first() {
    let authority = Authority::new("test");
    let [first, second, wild] =
        [&["first.test"][..], &["second.test"], &["*.wild.test"]].map(|names| authority.issue(names));
    let list = ["a", "b", "c"].map(|name| format!("{{ certificate: {name}.crt, key: {name}.key }}")).join(", ");
    let pairs = [("a", &first), ("b", &second), ("c", &wild)];
    let scene = Scene::with(&format!("certificates: [{list}]"), &pairs, &[], authority, "");
    let config = scene.caller();
    for name in ["first.test", "second.test", "x.wild.test"] {
        assert_eq!(connect(scene.tidegate.address, &config, name).get("/", &[]).status, 200, "{name}");
    }
    let mut stranger = connect(scene.tidegate.address, &config, "stranger.test");
    let refused = stranger.shake_hands().unwrap_err().to_string();
    assert!(refused.contains("first.test"), "it was shown the first: {refused}");
    scene.eventually_failed("alert", 1.0);
}

#[test]
fn sessions_go_on_also_over_a_reload_and_new_certificates() {
    let scene = Scene::usual();
    for versions in [&[&TLS13][..], &[&TLS12]] {
        let config = Caller::made(&scene.authority, None, versions).ready();
        let kind = || {
            let mut client = scene.call(&config);
            assert_eq!(client.get("/", &[]).status, 200);
            client.tls().handshake_kind().unwrap()
        };
        assert_ne!(kind(), HandshakeKind::Resumed);
        assert_eq!(kind(), HandshakeKind::Resumed);
        scene.tidegate.signal(Signal::Reload);
        eventually("reloaded", || scene.tidegate.metric("tidegate_config_reloads_total") >= 2.0);
        assert_eq!(kind(), HandshakeKind::Resumed);
        let next = scene.authority.issue(&["localhost"]);
        next.put(scene.tidegate.dir.path(), "a");
        eventually_shown(&scene, &next);
        assert_eq!(kind(), HandshakeKind::Resumed, "{versions:?}");
    }
    assert!(scene.tidegate.metric("tidegate_tls_handshakes_total{resumed=\"true\"}") >= 6.0);
}

#[test]
fn the_protocol_inside_is_agreed_on() {
    let scene = Scene::usual();
    let config = Caller::trusting(&scene.authority).offering(&["spdy/1", "http/1.1"]).ready();
    let mut client = scene.call(&config);
    assert_eq!(client.get("/", &[]).status, 200);
    assert_eq!(client.tls().alpn_protocol(), Some(&b"http/1.1"[..]));
    let config = Caller::trusting(&scene.authority).offering(&["spdy/1"]).ready();
    assert!(scene.call(&config).shake_hands().is_err());
    scene.eventually_failed("incompatible", 1.0);
}

#[test]
fn http2_is_spoken_with_those_who_can() {
    let scene = Scene::usual();
    let config = Caller::trusting(&scene.authority).offering(&["h2", "http/1.1"]).ready();
    let mut client = scene.call(&config);
    client.shake_hands().unwrap();
    assert_eq!(client.tls().alpn_protocol(), Some(&b"h2"[..]));
    let ca = scene.tidegate.dir.path().join("ca.pem");
    std::fs::write(&ca, scene.authority.pem()).unwrap();
    let port = scene.tidegate.address.port();
    for (how, version) in [("--http2", "2"), ("--http1.1", "1.1")] {
        let mut curl = foreign::system("curl");
        curl.args(["--silent", "--show-error", "--fail", how, "--write-out", " %{http_version}", "--cacert"]);
        curl.arg(&ca).args([
            "--resolve",
            &format!("localhost:{port}:127.0.0.1"),
            &format!("https://localhost:{port}/"),
        ]);
        assert_eq!(foreign::done(curl, PATIENCE), format!("only {version}"));
    }
    let schemes: Vec<_> =
        scene.backend.requests().iter().map(|request| request.header("x-forwarded-proto").map(str::to_owned)).collect();
    assert_eq!(schemes, [Some("https".to_owned()), Some("https".to_owned())]);
}

#[test]
fn http2_need_not_be_offered() {
    let authority = Authority::new("test");
    let pair = authority.issue(&["localhost"]);
    let scene = Scene::with(&format!("{PAIR}, http2: false"), &[("a", &pair)], &[], authority, "");
    let config = Caller::trusting(&scene.authority).offering(&["h2", "http/1.1"]).ready();
    let mut client = scene.call(&config);
    assert_eq!(client.get("/", &[]).status, 200);
    assert_eq!(client.tls().alpn_protocol(), Some(&b"http/1.1"[..]));
}

#[test]
fn a_certificate_is_known_to_the_backend_over_http2_too() {
    let (scene, clients) = with_clients("");
    let dir = scene.tidegate.dir.path();
    clients.issue(&["ledger"]).put(dir, "ledger");
    std::fs::write(dir.join("ca.pem"), scene.authority.pem()).unwrap();
    let port = scene.tidegate.address.port();
    let mut curl = foreign::system("curl");
    curl.current_dir(dir).args([
        "--silent",
        "--show-error",
        "--fail",
        "--http2",
        "--cacert",
        "ca.pem",
        "--cert",
        "ledger.crt",
    ]);
    curl.args(["--key", "ledger.key", "--header", "X-Client-Cert-Subject: CN=admin"]);
    curl.args(["--resolve", &format!("localhost:{port}:127.0.0.1"), &format!("https://localhost:{port}/")]);
    assert_eq!(foreign::done(curl, PATIENCE), "only");
    assert_eq!(told_of_client(&scene), [("x-client-cert-subject".to_owned(), "CN=ledger".to_owned())]);
}

#[test]
fn an_older_version_than_the_least_is_not_spoken() {
    let authority = Authority::new("test");
    let pair = authority.issue(&["localhost"]);
    let scene = Scene::with(&format!("{PAIR}, min_version: \"1.3\""), &[("a", &pair)], &[], authority, "");
    let old = Caller::made(&scene.authority, None, &[&TLS12]).ready();
    assert!(scene.call(&old).shake_hands().is_err());
    assert_eq!(scene.call(&scene.caller()).get("/", &[]).status, 200);
    scene.eventually_failed("incompatible", 1.0);
}

// -- certificates of clients

/// A scene that asks clients for certificates by an authority, and certificates of clients.
fn with_clients(auth: &str) -> (Scene, Authority) {
    let (authority, clients) = (Authority::new("test"), Authority::new("clients"));
    let pair = authority.issue(&["localhost"]);
    let tls = format!("{PAIR}, client_ca: clients.pem{auth}");
    let files = [("clients.pem", clients.pem())];
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    (Scene::with(&tls, &[("a", &pair)], &files, authority, ""), clients)
}

const FORGED: &[(&str, &str)] = &[
    ("x-client-cert-subject", "CN=admin"),
    ("x_client_cert_subject", "CN=admin"),
    ("x.client.cert.subject", "CN=admin"),
    ("x-client-cert-uri", "spiffe://admin"),
    ("x_client-cert_uri", "spiffe://admin"),
];

fn told_of_client(scene: &Scene) -> Vec<(String, String)> {
    let request = scene.backend.requests().pop().unwrap();
    request.headers.into_iter().filter(|(name, _)| name.contains("client")).collect()
}

#[test]
fn a_client_with_a_certificate_is_known_to_the_backend() {
    let (scene, clients) = with_clients("");
    let issued = clients.issue_with(&["ledger"], |params| {
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "Caf\u{e9}, Inc");
        let uri = "spiffe://example.org/ledger".try_into().unwrap();
        params.subject_alt_names.push(rcgen::SanType::URI(uri));
    });
    let config = Caller::being(&issued, &scene.authority).ready();
    let told = [
        ("x-client-cert-subject".to_owned(), r"O=Caf\C3\A9\, Inc,CN=ledger".to_owned()),
        ("x-client-cert-uri".to_owned(), "spiffe://example.org/ledger".to_owned()),
    ];
    for _ in 0..2 {
        let mut client = scene.call(&config); // the second time with the session of the first
        assert_eq!(client.get("/", FORGED).status, 200);
        assert_eq!(told_of_client(&scene), told);
    }
}

#[test]
fn a_client_without_a_good_certificate_is_not_served() {
    let (scene, clients) = with_clients("");
    let refused = |config: &Arc<ClientConfig>| {
        let mut client = scene.call(config);
        assert_eq!(client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").try_answer(false), None);
    };
    refused(&scene.caller());
    scene.eventually_failed("client_certificate", 1.0);
    refused(&Caller::being(&Authority::new("clients").issue(&["ledger"]), &scene.authority).ready());
    scene.eventually_failed("client_certificate", 2.0);
    let expired = clients.issue_with(&["ledger"], |params| params.not_after = rcgen::date_time_ymd(2020, 1, 1));
    refused(&Caller::being(&expired, &scene.authority).ready());
    scene.eventually_failed("client_certificate", 3.0);
    assert_eq!(scene.backend.connections(), 0);
}

#[test]
fn a_certificate_may_be_optional_and_is_not_to_be_forged() {
    let (scene, clients) = with_clients(", client_auth: optional");
    assert_eq!(scene.call(&scene.caller()).get("/", FORGED).status, 200);
    assert_eq!(told_of_client(&scene), []);
    let config = Caller::being(&clients.issue(&["ledger"]), &scene.authority).ready();
    assert_eq!(scene.call(&config).get("/", FORGED).status, 200);
    assert_eq!(told_of_client(&scene), [("x-client-cert-subject".to_owned(), "CN=ledger".to_owned())]);
    let stranger = Caller::being(&Authority::new("clients").issue(&["ledger"]), &scene.authority).ready();
    assert_eq!(scene.call(&stranger).send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").try_answer(false), None);
}

#[test]
fn in_clear_text_nobody_has_shown_a_certificate() {
    let backend = Backend::named("only");
    let tidegate = Tidegate::before(&backend);
    assert_eq!(tidegate.client().get("/", FORGED).status, 200);
    assert!(!backend.text().contains("admin"), "{}", backend.text());
}

#[test]
fn a_session_does_not_outlive_the_authority_that_let_it_in() {
    let (scene, clients) = with_clients("");
    let config = Caller::being(&clients.issue(&["ledger"]), &scene.authority).ready();
    assert_eq!(scene.call(&config).get("/", &[]).status, 200);
    replace(&scene.tidegate.dir.path().join("clients.pem"), &Authority::new("others").pem());
    eventually("it is not let in any more", || {
        scene.call(&config).send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").try_answer(false).is_none()
    });
}

// -- handshakes that go wrong

/// The first words of a client of TLS.
fn hello(scene: &Scene) -> Vec<u8> {
    let mut bytes = Vec::new();
    session(&scene.caller(), "localhost").write_tls(&mut bytes).unwrap();
    bytes
}

#[test]
fn a_handshake_has_its_time() {
    let scene = Scene::configured("timeouts: { handshake: 300ms }\n");
    let hello = hello(&scene);
    for words in [&[][..], &hello[..1], &hello[..hello.len() - 1], &hello] {
        let begun = Instant::now();
        let mut client = Client::connect(scene.tidegate.address);
        client.send(words).read_to_end();
        assert!(begun.elapsed() >= Duration::from_millis(300), "after {} bytes", words.len());
    }
    scene.eventually_failed("timeout", 4.0);
}

#[test]
fn who_only_connects_has_not_failed() {
    let scene = Scene::usual();
    drop(TcpStream::connect(scene.tidegate.address).unwrap());
    let mut half = TcpStream::connect(scene.tidegate.address).unwrap();
    half.write_all(&hello(&scene)[..9]).unwrap();
    drop(half);
    scene.eventually_failed("closed", 1.0);
    eventually("nobody is connected", || scene.tidegate.admin("/api/v1/status").json()["client_connections"] == 0);
}

#[test]
fn a_hello_may_come_byte_by_byte() {
    let scene = Scene::usual();
    let mut tls = session(&scene.caller(), "localhost");
    let mut stream = TcpStream::connect(scene.tidegate.address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut hello = Vec::new();
    tls.write_tls(&mut hello).unwrap();
    hello.chunks(1).for_each(|byte| stream.write_all(byte).unwrap());
    assert_eq!(Client::over(stream).in_secret(tls).get("/", &[]).status, 200);
}

#[test]
fn nonsense_is_none_of_our_business() {
    let scene = Scene::usual();
    for nonsense in [&b"\x16\x03\x01\x00\x05hello"[..], b"\x16\x03\x01\xff\xff", b"\0\0\0\0", &[0x80, 0x2e, 1, 0, 2]] {
        let mut client = Client::connect(scene.tidegate.address);
        client.send(nonsense).finish().read_to_end();
    }
    eventually("all of them are counted", || scene.failures("not_tls") + scene.failures("closed") == 4.0);
    assert_eq!(scene.call(&scene.caller()).get("/", &[]).status, 200);
}

#[test]
fn clear_text_is_told_what_is_spoken_here() {
    let scene = Scene::usual();
    let answer = scene.tidegate.tell("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!((answer.status, answer.header("connection")), (400, Some("close")));
    assert!(answer.text().contains("https"), "{}", answer.text());
    scene.eventually_failed("plain_http", 1.0);
}

#[test]
fn only_so_many_shake_hands_at_once() {
    let scene = Scene::configured("limits: { max_handshakes: 2 }\ntimeouts: { handshake: 3s }\n");
    let hello = hello(&scene);
    // One a worker is two: these keep both turns, since they never go on.
    let held: Vec<Client> = (0..2)
        .map(|_| {
            let mut client = Client::connect(scene.tidegate.address);
            client.send(&hello);
            client.stream.read_exact(&mut [0; 5]).unwrap(); // it has its turn
            client
        })
        .collect();
    let served = Arc::new(AtomicUsize::new(0));
    let waiting: Vec<_> = (0..4)
        .map(|_| {
            let (mut client, served) = (scene.call(&scene.caller()), Arc::clone(&served));
            std::thread::spawn(move || {
                assert_eq!(client.get("/", &[]).status, 200);
                served.fetch_add(1, SeqCst);
            })
        })
        .collect();
    eventually("all are there", || scene.tidegate.admin("/api/v1/status").json()["client_connections"] == 6);
    assert_eq!(served.load(SeqCst), 0, "nobody has had a turn");
    drop(held);
    waiting.into_iter().for_each(|thread| thread.join().unwrap());
}

// -- the end of a connection

#[test]
fn a_quiet_connection_is_only_a_socket_and_is_told_its_end() {
    let scene = Scene::configured("timeouts: { keep_alive: 1s }\n");
    let mut client = scene.call(&scene.caller());
    for pause in [0, 300] {
        std::thread::sleep(Duration::from_millis(pause)); // it dozes off after 200 ms
        assert_eq!(client.get("/", &[]).text(), "only");
    }
    assert!(client.is_closed());
    assert!(client.end().unwrap().starts_with("closed"), "by close_notify: {:?}", client.end());
}

#[test]
fn an_answer_that_is_cut_does_not_end_like_one() {
    let backend = Backend::scripted(|connection| {
        connection.read_request();
        connection.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nhalf of ");
        connection.reset();
    });
    let scene = Scene::before(backend, |config| config);
    let mut client = scene.call(&scene.caller());
    client.send("GET / HTTP/1.0\r\nhost: a\r\n\r\n");
    client.read_to_end();
    assert!(!client.end().unwrap().starts_with("closed"), "no close_notify: {:?}", client.end());
}

#[test]
fn a_large_answer_gets_through_to_a_slow_reader() {
    let body = vec![b'x'; 8 << 20];
    let backend = Backend::saying(ok(&[], &body));
    let scene = Scene::before(backend, |config| config);
    let mut client = scene.call(&scene.caller());
    client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    eventually("it waits for its reader", || client.stream.peek(&mut [0; 4096]).is_ok_and(|n| n == 4096));
    assert!(client.answer().body == body);
}

#[test]
fn who_does_not_read_is_cut_off() {
    let body = vec![b'x'; 32 << 20];
    let backend = Backend::saying(ok(&[], &body));
    let scene = Scene::before(backend, |config| config + "timeouts: { write_stall: 500ms }\n");
    let mut client = scene.call(&scene.caller());
    client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    eventually("nobody is connected", || scene.tidegate.admin("/api/v1/status").json()["client_connections"] == 0);
}

#[test]
fn a_drain_waits_for_answers_and_for_nobody_who_says_nothing() {
    let gate = Gate::default();
    let may_answer = gate.clone();
    let backend = Backend::answering(move |_| {
        may_answer.pass();
        ok(&[], b"late")
    });
    let mut scene = Scene::before(backend, |config| config.replace("drain_timeout: 2s", "drain_timeout: 20s"));
    let caller = scene.caller();
    let mut busy = scene.call(&caller);
    busy.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    eventually("it is asked", || scene.backend.connections() == 1);
    let mut silent = Client::connect(scene.tidegate.address);
    let mut idle = scene.call(&caller);
    idle.shake_hands().unwrap();
    eventually("all are there", || scene.tidegate.admin("/api/v1/status").json()["client_connections"] == 3);
    scene.tidegate.signal(Signal::Leave);
    assert!(silent.is_closed());
    assert!(idle.is_closed());
    gate.open();
    let answer = busy.answer();
    assert_eq!((answer.text().as_str(), answer.header("connection")), ("late", Some("close")));
    assert!(busy.is_closed());
    assert!(busy.end().unwrap().starts_with("closed"), "{:?}", busy.end());
    scene.tidegate.wait();
}

#[test]
fn a_drain_waits_for_who_has_begun_to_say_what_it_speaks_as_for_any_other_head() {
    let backend = Backend::named("only");
    let authority = Authority::new("test");
    let dir = tempfile::tempdir().unwrap();
    authority.issue(&["localhost"]).put(dir.path(), "a");
    let more = format!("{}timeouts: {{ header: 2s }}\n", single(&backend));
    let mut tidegate = start(dir, &listening(PAIR, &more).replace("drain_timeout: 2s", "drain_timeout: 1m"));
    let caller = Caller::trusting(&authority).offering(&["h2"]).ready();
    let mut client = connect(tidegate.address, &caller, "localhost");
    client.send("PRI * HTTP/2.0\r\n");
    eventually("it is there", || tidegate.admin("/api/v1/status").json()["client_connections"] == 1);
    let begun = Instant::now();
    tidegate.signal(Signal::Leave);
    client.read_to_end();
    tidegate.wait();
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
}

// -- files that change

/// The certificate that a new client is shown.
fn shown(scene: &Scene, config: &Arc<ClientConfig>) -> Vec<u8> {
    let mut client = scene.call(config);
    client.shake_hands().unwrap();
    client.tls().peer_certificates().unwrap()[0].to_vec()
}

fn eventually_shown(scene: &Scene, issued: &Issued) -> Duration {
    let begun = Instant::now();
    eventually("the new certificate is shown", || shown(scene, &scene.caller()) == issued.der().to_vec());
    begun.elapsed()
}

#[test]
fn certificates_change_a_hundred_times_and_nobody_fails() {
    let scene = Scene::usual();
    let (stop, handshakes, slowest) = (AtomicBool::new(false), AtomicUsize::new(0), Mutex::new(Duration::ZERO));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(SeqCst) {
                    let mut client = scene.call(&scene.caller());
                    assert_eq!(client.get("/", &[]).status, 200);
                    handshakes.fetch_add(1, SeqCst);
                }
            });
        }
        let mut kept = scene.call(&scene.caller());
        for _ in 0..100 {
            let next = scene.authority.issue(&["localhost"]);
            next.put(scene.tidegate.dir.path(), "a");
            let took = eventually_shown(&scene, &next);
            let mut slowest = slowest.lock().unwrap();
            *slowest = took.max(*slowest);
            assert_eq!(kept.get("/", &[]).status, 200, "who is connected stays so");
        }
        stop.store(true, SeqCst);
    });
    let slowest = slowest.into_inner().unwrap();
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    assert!(handshakes.load(SeqCst) > 100);
    for cause in ["timeout", "closed", "not_tls", "incompatible", "alert", "other"] {
        assert_eq!(scene.failures(cause), 0.0, "{cause}");
    }
    assert_eq!(scene.tidegate.metric("tidegate_tls_reload_successful"), 1.0);
}

#[test]
fn what_is_no_pair_leaves_the_one_that_was() {
    let scene = Scene::usual();
    let first = shown(&scene, &scene.caller());
    let dir = scene.tidegate.dir.path();
    let next = scene.authority.issue(&["localhost"]);
    let expired =
        scene.authority.issue_with(&["localhost"], |params| params.not_after = rcgen::date_time_ymd(2020, 1, 1));
    for (certificate, key, why) in [
        (&*next.certificate, None, "not the one of the certificate"),
        (&next.certificate[..300], Some(&*next.key), "not whole PEM"),
        ("", Some(&*next.key), "no certificate"),
        (&*expired.certificate, Some(&*expired.key), "expired on 2020-01-01"),
        (&*next.certificate, Some(""), "no private key"),
    ] {
        replace(&dir.join("a.crt"), certificate);
        key.inspect(|key| replace(&dir.join("a.key"), key));
        eventually(why, || told(&scene.tidegate).iter().any(|told| told.contains(why)));
        assert_eq!(scene.tidegate.metric("tidegate_tls_reload_successful"), 0.0);
        assert_eq!(shown(&scene, &scene.caller()), first);
        let reload = Command::new(BINARY).args(["reload", "--admin", &scene.tidegate.admin]).output().unwrap();
        let warned = String::from_utf8(reload.stderr).unwrap();
        let says = warned.starts_with("warning: ") && warned.contains("/a.") && warned.contains(why);
        assert!(reload.status.success() && says, "{warned}");
    }
    assert_eq!(scene.tidegate.metric("tidegate_config_last_reload_successful"), 1.0, "it is not the config's fault");
    std::fs::remove_file(dir.join("a.key")).unwrap();
    eventually("it is missed", || told(&scene.tidegate).iter().any(|told| told.contains("no such file")));
    assert_eq!(shown(&scene, &scene.caller()), first);
    next.put(dir, "a");
    eventually_shown(&scene, &next);
    eventually("all is well", || scene.tidegate.metric("tidegate_tls_reload_successful") == 1.0);
    assert!(told(&scene.tidegate).is_empty());
}

/// What status says is wrong with files of TLS.
fn told(tidegate: &Tidegate) -> Vec<String> {
    let status = tidegate.admin("/api/v1/status").json();
    status["tls"]["troubles"].as_array().unwrap().iter().map(|trouble| trouble["message"].to_string()).collect()
}

#[test]
fn a_broken_certificate_holds_up_no_rollback() {
    let (old, new) = (Backend::named("old"), Backend::named("new"));
    let authority = Authority::new("test");
    let dir = tempfile::tempdir().unwrap();
    authority.issue(&["localhost"]).put(dir.path(), "a");
    let split = crate::support::proxy::split(&old, &new, "100", "");
    let text = listening(PAIR, &split);
    let tidegate = start(dir, &text);
    let caller = Caller::trusting(&authority).ready();
    let mut client = connect(tidegate.address, &caller, "localhost");
    assert_eq!(client.get_as(7).text(), "new");
    replace(&tidegate.dir.path().join("a.crt"), "");
    replace(&tidegate.config_path(), &format!("{text}rollback: true\n"));
    eventually("it is rolled back", || client.get_as(7).text() == "old");
    eventually("and that is told", || tidegate.metric("tidegate_tls_reload_successful") == 0.0);
}

#[test]
fn a_config_may_name_other_files() {
    let scene = Scene::usual();
    let next = scene.authority.issue(&["localhost"]);
    next.put(scene.tidegate.dir.path(), "b");
    let text = std::fs::read_to_string(scene.tidegate.config_path()).unwrap();
    replace(&scene.tidegate.config_path(), &text.replace("a.crt", "b.crt").replace("a.key", "b.key"));
    eventually_shown(&scene, &next);
    let last = scene.authority.issue(&["localhost"]);
    last.put(scene.tidegate.dir.path(), "b");
    eventually_shown(&scene, &last);
}

#[test]
fn links_that_are_turned_over_are_followed() {
    // As Kubernetes does it: a.crt -> ..data/a.crt, and ..data -> a folder that is replaced.
    let authority = Authority::new("test");
    let dir = tempfile::tempdir().unwrap();
    let publish = |folder: &Path, name: &str, issued: &Issued| {
        std::fs::create_dir(folder.join(name)).unwrap();
        issued.put(&folder.join(name), "a");
        std::os::unix::fs::symlink(name, folder.join("..next")).unwrap();
        std::fs::rename(folder.join("..next"), folder.join("..data")).unwrap();
    };
    publish(dir.path(), "..1", &authority.issue(&["localhost"]));
    for file in ["a.crt", "a.key"] {
        std::os::unix::fs::symlink(format!("..data/{file}"), dir.path().join(file)).unwrap();
    }
    let backend = Backend::named("only");
    let tidegate = start(dir, &listening(PAIR, &single(&backend)));
    let scene = Scene { authority, backend, tidegate };
    let next = scene.authority.issue(&["localhost"]);
    publish(scene.tidegate.dir.path(), "..2", &next);
    let took = eventually_shown(&scene, &next);
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[test]
fn a_bad_pair_at_the_start_is_told_with_its_place() {
    let authority = Authority::new("test");
    let dir = tempfile::tempdir().unwrap();
    let expired = authority.issue_with(&["localhost"], |params| params.not_after = rcgen::date_time_ymd(2020, 1, 1));
    expired.put(dir.path(), "a");
    let path = dir.path().join("tidegate.yaml");
    std::fs::write(&path, listening(PAIR, &single(&Backend::named("only")))).unwrap();
    let Err(StartError::Config(error)) = Tidegate::start_at(dir, path).map(drop) else { panic!("it starts") };
    let told = error.to_string();
    assert!(told.contains("the certificate expired on 2020-01-01"), "{told}");
    assert!(told.contains("listeners[0].tls.certificate"), "{told}");
}

#[test]
fn the_days_that_are_left_are_told() {
    let authority = Authority::new("test");
    let days = |days: u64| (SystemTime::now() + Duration::from_secs(days * 24 * 3600 + 3600)).into();
    let soon = authority.issue_with(&["localhost"], |params| params.not_after = days(3));
    let scene = Scene::with(PAIR, &[("a", &soon)], &[], authority, "");
    let file = scene.tidegate.dir.path().join("a.crt").display().to_string();
    let series =
        |name: &str| scene.tidegate.metric(&format!("tidegate_tls_certificate_{name}{{certificate=\"{file}\"}}"));
    assert_eq!(series("days_left"), 3.0);
    assert!(series("expiry_timestamp_seconds") > 1.7e9);
    let status = scene.tidegate.admin("/api/v1/status").json();
    let certificate = &status["tls"]["certificates"][0];
    assert_eq!((&certificate["days_left"], &certificate["expires_soon"]), (&3.into(), &true.into()));
    assert_eq!((&certificate["names"][0], &certificate["file"]), (&"localhost".into(), &file.as_str().into()));
    let later = scene.authority.issue_with(&["localhost"], |params| params.not_after = days(90));
    later.put(scene.tidegate.dir.path(), "a");
    eventually("it has been replaced", || series("days_left") == 90.0);
}

// -- with backends

/// A tidegate before `endpoint`, a URL, with TLS as `tls` says it, over `files`.
fn before(endpoint: &str, tls: &str, files: &[(&str, &str)]) -> Tidegate {
    let dir = tempfile::tempdir().unwrap();
    files.iter().for_each(|(name, text)| std::fs::write(dir.path().join(name), text).unwrap());
    let config = format!(
        "{PREAMBLE}listen: 127.0.0.1:0\nbackends:\n  only:\n    endpoints: [\"{endpoint}\"]\n    tls: {{ {tls} }}\n\
         routes:\n  - match: {{}}\n    backend: only\n"
    );
    start(dir, &config)
}

fn https(backend: &Backend, host: &str) -> String {
    format!("https://{host}:{}", backend.address.port())
}

fn secured(identity: &Issued, clients: Option<&Authority>) -> Backend {
    Backend::secured(server(identity, clients), |request| ok(&[], &request.body))
}

#[test]
fn a_backend_is_asked_over_tls() {
    let authority = Authority::new("backends");
    let backend = secured(&authority.issue(&["localhost", "127.0.0.1"]), None);
    for host in ["localhost", "127.0.0.1"] {
        let tidegate = before(&https(&backend, host), "ca: ca.pem", &[("ca.pem", &authority.pem())]);
        let body = "x".repeat(300_000);
        let mut client = tidegate.client();
        for _ in 0..3 {
            client.send(format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{body}", body.len()));
            assert_eq!(client.answer().text(), body);
        }
    }
    assert_eq!(backend.connections(), 2, "they are kept");
}

#[test]
fn a_backend_may_speak_http2() {
    let front = Scene::usual();
    let url = format!("https://localhost:{}", front.tidegate.address.port());
    for protocol in ["h2", "auto", "http1"] {
        let tls = format!("ca: ca.pem }}\n    protocol: {protocol}\n    timeouts: {{ idle: 4s");
        let tidegate = before(&url, &tls, &[("ca.pem", &front.authority.pem())]);
        let body = "x".repeat(10_000);
        let mut client = tidegate.client();
        for _ in 0..3 {
            client.send(format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{body}", body.len()));
            assert_eq!(client.answer().text(), "only", "{protocol}");
        }
    }
    let expected = "x".repeat(10_000).into_bytes();
    assert!(front.backend.requests().iter().all(|request| request.body == expected));
    assert_eq!(front.tidegate.metric("tidegate_tls_handshakes_total{resumed=\"false\"}"), 3.0);
}

#[test]
fn a_backend_that_cannot_be_trusted_is_not_asked() {
    let authority = Authority::new("backends");
    let good = authority.issue(&["localhost"]);
    let expired = authority.issue_with(&["localhost"], |params| params.not_after = rcgen::date_time_ymd(2020, 1, 1));
    let of_another = authority.issue(&["other.test"]);
    let by_another = Authority::new("backends").issue(&["localhost"]);
    let ca = [("ca.pem", &*authority.pem())].map(|(name, text)| (name, text.to_owned()));
    let ca: Vec<(&str, &str)> = ca.iter().map(|(name, text)| (*name, text.as_str())).collect();
    for (why, identity, tls, words) in [
        ("expired", &expired, "ca: ca.pem", "expired"),
        ("of another name", &of_another, "ca: ca.pem", "\"localhost\""),
        ("by another authority", &by_another, "ca: ca.pem", "another key has signed it"),
        ("not by the system's", &good, "", "no authority that tidegate trusts there has issued it"),
        ("not the name that is wanted", &good, "ca: ca.pem, server_name: other.test", "\"other.test\""),
    ] {
        let backend = secured(identity, None);
        let tidegate = before(&https(&backend, "localhost"), tls, &ca);
        let answer = tidegate.tell("GET / HTTP/1.1\r\nhost: a\r\nx-secret: 1\r\n\r\n");
        assert_eq!(answer.status, 502, "{why}");
        let told = answer.header("proxy-status").unwrap();
        assert!(told.contains("tls_certificate_error"), "{why}: {told}");
        assert_eq!(backend.text(), "", "{why}");
        let status = tidegate.admin("/api/v1/status").json();
        let trouble = status["backends"][0]["endpoint_list"][0]["trouble"].as_str().unwrap();
        assert!(trouble.starts_with("its certificate is not trusted: ") && trouble.contains(words), "{why}: {trouble}");
        let failed = "tidegate_upstream_failures_total{rollout=\"\",side=\"\",cause=\"tls_certificate\"}";
        assert_eq!(tidegate.metric(failed), 1.0, "{why}");
    }
}

#[test]
fn a_certificate_may_be_for_another_name_than_the_url_s() {
    let authority = Authority::new("backends");
    let backend = secured(&authority.issue(&["ledger.test"]), None);
    let tls = "ca: ca.pem, server_name: ledger.test";
    let tidegate = before(&https(&backend, "127.0.0.1"), tls, &[("ca.pem", &authority.pem())]);
    assert_eq!(tidegate.client().get("/", &[]).status, 200);
}

#[test]
fn a_backend_that_speaks_no_tls_is_not_asked_in_clear_text() {
    let backend = Backend::scripted(|connection| {
        let _the_first_words = connection.read_more();
        connection.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n");
    });
    let authority = Authority::new("backends");
    let tidegate = before(&https(&backend, "localhost"), "ca: ca.pem", &[("ca.pem", &authority.pem())]);
    let answer = tidegate.tell("GET / HTTP/1.1\r\nhost: a\r\nx-secret: 1\r\n\r\n");
    assert_eq!(answer.status, 502);
    assert!(answer.header("proxy-status").unwrap().contains("tls_protocol_error"));
    assert!(!backend.text().contains("secret"));
}

#[test]
fn a_backend_that_does_not_shake_hands_in_time_has_failed() {
    let backend = Backend::scripted(|connection| while connection.read_more().is_some() {});
    let authority = Authority::new("backends");
    let tidegate = before(&https(&backend, "localhost"), "ca: ca.pem", &[("ca.pem", &authority.pem())]);
    let answer = tidegate.tell("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!((answer.status, answer.header("proxy-status").unwrap().contains("connection_timeout")), (504, true));
}

#[test]
fn a_backend_may_want_to_know_who_asks() {
    let (authority, clients) = (Authority::new("backends"), Authority::new("clients"));
    let backend = secured(&authority.issue(&["localhost"]), Some(&clients));
    let us = clients.issue(&["tidegate"]);
    let files = [("ca.pem", authority.pem()), ("us.crt", us.certificate), ("us.key", us.key)];
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let url = https(&backend, "localhost");
    let known = before(&url, "ca: ca.pem, certificate: us.crt, key: us.key", &files);
    assert_eq!(known.client().get("/", &[]).status, 200);
    let unknown = before(&url, "ca: ca.pem", &files);
    assert_eq!(unknown.client().get("/", &[]).status, 502);
}

#[test]
fn a_backend_s_authority_may_change() {
    let authority = Authority::new("backends");
    let backend = secured(&authority.issue(&["localhost"]), None);
    let tidegate = before(&https(&backend, "localhost"), "ca: ca.pem", &[("ca.pem", &Authority::new("others").pem())]);
    assert_eq!(tidegate.client().get("/", &[]).status, 502);
    replace(&tidegate.dir.path().join("ca.pem"), &authority.pem());
    eventually("it is trusted", || tidegate.client().get("/", &[]).status == 200);
}

#[test]
fn an_answer_over_tls_that_is_cut_is_not_a_whole_one() {
    let authority = Authority::new("backends");
    let tls = server(&authority.issue(&["localhost"]), None);
    let backend = Backend::scripted(move |connection| {
        connection.tls = Some(Box::new(rustls::ServerConnection::new(Arc::clone(&tls)).unwrap()));
        connection.read_request();
        connection.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nhalf of "); // no close_notify follows
    });
    let tidegate = before(&https(&backend, "localhost"), "ca: ca.pem", &[("ca.pem", &authority.pem())]);
    let mut client = tidegate.client();
    let answer = client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").try_answer(false); // a reset may destroy its beginning
    assert!(answer.as_ref().is_none_or(|answer| !answer.complete), "{answer:?}");
}

// -- how others see it

/// What Mozilla's profile `profile` finds wrong with a scene that speaks `tls`.
fn judged(profile: &str, tls: &str) {
    let authority = Authority::new("test");
    // Mozilla's modern profile wants certificates that do not last for long.
    let soon = (SystemTime::now() + Duration::from_secs(60 * 24 * 3600)).into();
    let pair = authority.issue_with(&["localhost"], |params| {
        params.not_before = (SystemTime::now() - Duration::from_secs(3600)).into();
        params.not_after = soon;
    });
    let scene = Scene::with(&format!("{PAIR}{tls}"), &[("a", &pair)], &[], authority, "");
    let mut sslyze = foreign::packaged("sslyze");
    sslyze.args([&format!("--mozilla_config={profile}"), &scene.tidegate.address.to_string()]);
    let said = foreign::run(sslyze, Duration::from_secs(120)).stdout;
    let verdict = said.split("COMPLIANCE AGAINST").nth(1).unwrap_or_else(|| panic!("no verdict: {said}"));
    let faults: Vec<&str> = verdict
        .lines()
        .filter(|line| line.trim_start().starts_with('*'))
        .filter(|line| !line.contains("certificate_path_validation"))
        .collect();
    assert!(faults.is_empty(), "{profile}:\n{said}");
    assert_eq!(scene.call(&scene.caller()).get("/", &[]).status, 200, "and it serves as before");
}

#[test]
fn it_is_what_mozilla_calls_modern() {
    judged("modern", ", min_version: \"1.3\"");
}

#[test]
fn it_is_what_mozilla_calls_intermediate() {
    judged("intermediate", "");
}
