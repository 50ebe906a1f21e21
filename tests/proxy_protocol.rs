//! The PROXY header in front of a client's connection: who is believed, what it changes, and what is closed. And the one that
//! tidegate sends to backends.

use std::fs::File;
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use rustls::ClientConfig;

use crate::support::backend::{Connection, ok};
use crate::support::process::{BINARY, own_address};
use crate::support::tls::{Authority, Caller, session};
use crate::support::{Backend, Client, Tidegate, eventually, proxy::single, relay};

const COUNTED: &str = "tidegate_proxy_protocol_errors_total";

/// tidegate before `backend`, behind a proxy that sends PROXY headers and is one of `trusted`.
fn behind_a_proxy(backend: &Backend, trusted: &str, more: &str) -> Tidegate {
    Tidegate::start_whole(&format!(
        "listeners: [{{ address: 127.0.0.1:0, proxy_protocol: true }}]\nadmin: {{ address: 127.0.0.1:0 }}\nworkers: 1\n\
         shutdown: {{ readiness_delay: 0s, drain_timeout: 2s }}\ntrusted_proxies: {trusted}\n{more}{}",
        single(backend)
    ))
}

/// A version 2 header with this command and family, and these bytes after its length.
fn binary(command: u8, family: u8, said: &[u8]) -> Vec<u8> {
    let length = u16::try_from(said.len()).unwrap().to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n", &[command, family][..], &length, said].concat()
}

const FOUR: [u8; 12] = [192, 0, 2, 7, 192, 0, 2, 1, 0xdc, 0x04, 0x01, 0xbb];

/// The extension with the checksum of a header that holds [`FOUR`] and this, and nothing else.
const CHECKSUM: [u8; 7] = [0x03, 0, 4, 0xa2, 0xaa, 0x7a, 0xe9];

#[test]
fn the_backend_hears_of_the_client_that_the_header_names() {
    let backend = Backend::named("old");
    let tidegate = behind_a_proxy(&backend, "[127.0.0.0/8]", "");
    let six: Vec<u8> = [[0xfd; 16], [0xfe; 16]].concat().into_iter().chain([0, 1, 0, 2]).collect();
    for (header, client) in [
        (b"PROXY TCP4 192.0.2.7 192.0.2.1 56324 443\r\n".to_vec(), "192.0.2.7"),
        (b"PROXY TCP6 2001:db8::7 2001:db8::1 56324 443\r\n".to_vec(), "2001:db8::7"),
        (b"PROXY TCP6 ::ffff:c000:207 ::1 56324 443\r\n".to_vec(), "192.0.2.7"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        (binary(0x21, 0x11, &FOUR), "192.0.2.7"),
        (binary(0x21, 0x11, &[&FOUR[..], &[0xea, 0, 3, b'a', b'b', b'c']].concat()), "192.0.2.7"),
        (binary(0x21, 0x11, &[&FOUR[..], &CHECKSUM].concat()), "192.0.2.7"),
        (binary(0x21, 0x21, &six), "fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd"),
        (binary(0x21, 0x31, &[0; 216]), "127.0.0.1"),
        (binary(0x20, 0x00, &[]), "127.0.0.1"),
    ] {
        let mut connection = tidegate.client();
        connection.send(&header);
        assert_eq!(connection.get("/", &[("x-forwarded-for", "6.6.6.6")]).text(), "old", "{}", header.escape_ascii());
        assert_eq!(connection.get("/", &[]).text(), "old", "the header stands before the first request only");
        let requests = backend.requests();
        let said = requests.iter().rev().nth(1).unwrap().header("x-forwarded-for");
        // The proxy itself (LOCAL) may speak for others; those whom it cannot name may not.
        let expected = if header == binary(0x20, 0x00, &[]) { format!("6.6.6.6, {client}") } else { client.to_owned() };
        assert_eq!(said, Some(expected.as_str()), "{}", header.escape_ascii());
    }
    assert!(tidegate.metric(COUNTED).abs() < 0.5);
}

#[test]
fn a_header_and_a_request_may_come_byte_by_byte_or_in_one_piece() {
    let backend = Backend::named("old");
    let tidegate = behind_a_proxy(&backend, "[127.0.0.1]", "");
    for header in [b"PROXY TCP4 192.0.2.7 192.0.2.1 56324 443\r\n".to_vec(), binary(0x21, 0x11, &FOUR)] {
        let whole = [&header[..], b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"].concat();
        let mut slow = tidegate.client();
        for byte in &whole {
            slow.send([*byte]);
        }
        assert_eq!(slow.answer().text(), "old");
        assert_eq!(tidegate.tell(&whole).text(), "old");
    }
}

#[test]
fn the_client_that_is_named_decides_where_it_goes() {
    let (old, new) = (Backend::named("old"), Backend::named("new"));
    let config = format!(
        "listeners: [{{ address: 127.0.0.1:0, proxy_protocol: true }}]\nadmin: {{ address: 127.0.0.1:0 }}\n\
         shutdown: {{ readiness_delay: 0s, drain_timeout: 2s }}\ntrusted_proxies: [127.0.0.1, 10.0.0.0/8]\n\
         rollout:\n  old: {}\n  new: {}\n  key: client_ip\n  percent: 0\n  force: {{ header: x-canary, networks: [192.0.2.0/24] }}\n",
        old.url(),
        new.url()
    );
    let tidegate = Tidegate::start_whole(&config);
    let sent = |source: &str, headers: &[(&str, &str)]| {
        let headers = [&[("x-canary", "always")], headers].concat();
        tidegate.client().send(format!("PROXY TCP4 {source} 192.0.2.1 1 2\r\n")).get("/", &headers).text()
    };
    assert_eq!(sent("192.0.2.7", &[]), "new");
    assert_eq!(sent("198.51.100.7", &[]), "old");
    assert_eq!(sent("198.51.100.7", &[("x-forwarded-for", "192.0.2.7")]), "old", "it is not trusted itself");
    assert_eq!(sent("10.0.0.7", &[("x-forwarded-for", "192.0.2.7")]), "new", "a trusted proxy behind the proxy");
}

#[test]
fn a_header_that_is_none_closes_the_connection() {
    let backend = Backend::named("old");
    let tidegate = behind_a_proxy(&backend, "[127.0.0.1]", "");
    let request = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    let endless = format!("PROXY TCP6 {}", "1".repeat(200)).into_bytes();
    let long = [b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff".to_vec(), vec![0; 200]].concat();
    let mut closed = 0.0;
    for header in [
        b"".to_vec(),
        b"PROXY TCP4 192.0.2.7 192.0.2.1 1 2\n".to_vec(),
        b"PROXY TCP4 192.0.2.07 192.0.2.1 1 2\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.7 192.0.2.1 1 65536\r\n".to_vec(),
        endless,
        long,
        binary(0x31, 0x11, &FOUR),
        binary(0x21, 0x12, &FOUR),
        binary(0x21, 0x11, &FOUR[..8]),
        binary(0x21, 0x11, &[&FOUR[..], &[0xea, 0, 3, b'a', b'b']].concat()),
        binary(0x21, 0x11, &[&FOUR[..], &CHECKSUM[..6], &[CHECKSUM[6] ^ 1]].concat()),
        b"\x16\x03\x01\x02\x00".to_vec(),
    ] {
        let mut client = tidegate.client();
        client.send(&header).send(request);
        assert_eq!(client.read_to_end(), b"", "{}", header.escape_ascii());
        closed += 1.0;
        assert!((tidegate.metric(COUNTED) - closed).abs() < 0.5, "{}", header.escape_ascii());
    }
    assert!(backend.bytes().is_empty());
}

#[test]
fn a_stranger_is_closed_whatever_the_header_says() {
    let backend = Backend::named("old");
    let tidegate = behind_a_proxy(&backend, "[10.0.0.0/8, unix]", "");
    let mut client = tidegate.client();
    client.send("PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(client.read_to_end(), b"");
    assert!((tidegate.metric(COUNTED) - 1.0).abs() < 0.5);
    assert!(backend.bytes().is_empty());
}

#[test]
fn a_header_that_does_not_come_in_time_closes_the_connection() {
    let backend = Backend::named("old");
    let tidegate = behind_a_proxy(&backend, "[127.0.0.1]", "timeouts: { header: 100ms }\n");
    let mut silent = tidegate.client();
    let mut half = tidegate.client();
    half.send("PROXY TCP4 192.0.2.7");
    assert!(silent.is_closed() && half.is_closed());
    eventually("both are counted", || (tidegate.metric(COUNTED) - 2.0).abs() < 0.5);
}

#[test]
fn who_hangs_up_within_the_header_costs_nothing() {
    let backend = Backend::named("old");
    let tidegate = behind_a_proxy(&backend, "[127.0.0.1]", "");
    drop(TcpStream::connect(tidegate.address).unwrap());
    Client::connect(tidegate.address).send("PROXY TCP4").finish();
    eventually("both are counted and gone", || {
        (tidegate.metric(COUNTED) - 2.0).abs() < 0.5
            && tidegate.metric("tidegate_client_connections{worker=\"0\"}").abs() < 0.5
    });
}

// -- before TLS

/// tidegate with TLS before `backend`, behind a proxy that sends PROXY headers.
fn in_secret_behind_a_proxy(backend: &Backend) -> (Tidegate, Arc<ClientConfig>) {
    let authority = Authority::new("test");
    let dir = tempfile::tempdir().unwrap();
    authority.issue(&["localhost"]).put(dir.path(), "a");
    let path = dir.path().join("tidegate.yaml");
    let config = format!(
        "listeners: [{{ address: 127.0.0.1:0, proxy_protocol: true, tls: {{ certificate: a.crt, key: a.key }} }}]\n\
         admin: {{ address: 127.0.0.1:0 }}\nworkers: 1\nshutdown: {{ readiness_delay: 0s, drain_timeout: 2s }}\n\
         trusted_proxies: [127.0.0.0/8]\n{}",
        single(backend)
    );
    std::fs::write(&path, config).unwrap();
    let tidegate = Tidegate::start_at(dir, path).unwrap_or_else(|error| panic!("{error}"));
    (tidegate, Caller::trusting(&authority).ready())
}

/// What a proxy says before the first words of TLS, in either version.
fn headers() -> [Vec<u8>; 2] {
    [b"PROXY TCP4 192.0.2.7 192.0.2.1 56324 443\r\n".to_vec(), binary(0x21, 0x11, &FOUR)]
}

#[test]
fn a_header_stands_before_tls() {
    let backend = Backend::named("old");
    let (tidegate, config) = in_secret_behind_a_proxy(&backend);
    for (header, in_one_piece) in headers().into_iter().flat_map(|header| [(header.clone(), true), (header, false)]) {
        let mut tls = session(&config, "localhost");
        let mut first = header;
        if in_one_piece {
            tls.write_tls(&mut first).unwrap();
        }
        let mut client = tidegate.client();
        client.send(&first);
        let mut client = client.in_secret(tls);
        assert_eq!(client.get("/", &[("x-forwarded-for", "6.6.6.6")]).text(), "old", "{}", first.escape_ascii());
        let request = backend.requests().pop().unwrap();
        assert_eq!(request.header("x-forwarded-for"), Some("192.0.2.7"));
        assert_eq!(request.header("x-forwarded-proto"), Some("https"));
    }
    assert!(tidegate.metric(COUNTED).abs() < 0.5);
}

#[test]
fn a_header_never_stands_within_tls() {
    let backend = Backend::named("old");
    let (tidegate, config) = in_secret_behind_a_proxy(&backend);
    let request = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    for (times, header) in (1..).zip(headers()) {
        // TLS first: the first words of it are no header, and the connection is closed before anything is answered.
        let mut first = tidegate.client().in_secret(session(&config, "localhost"));
        assert!(first.shake_hands().is_err());
        assert!((tidegate.metric(COUNTED) - f64::from(times)).abs() < 0.5, "{}", header.escape_ascii());
        // A second one within is no request.
        let mut client = tidegate.client();
        client.send(&header);
        let mut second = client.in_secret(session(&config, "localhost"));
        let answer = second.send(&header).send(request).answer();
        assert_eq!((answer.status, answer.header("connection")), (400, Some("close")), "{}", header.escape_ascii());
        // Clear text behind it is not what is spoken here.
        let mut clear = tidegate.client();
        let answer = clear.send(&header).send(request).answer();
        assert_eq!((answer.status, answer.text().contains("https")), (400, true), "{}", header.escape_ascii());
    }
    assert!(backend.bytes().is_empty());
}

// -- to backends

/// A backend whose connections begin with a PROXY header; it answers each request with the header of its connection, one of
/// version 2 in the words of version 1.
fn wanting_headers() -> Backend {
    Backend::scripted(|connection| {
        let Some(header) = read_header(connection) else { return };
        while connection.read_request().is_some() {
            connection.write(&ok(&[], header.as_bytes()));
        }
    })
}

fn read_header(connection: &mut Connection) -> Option<String> {
    let mut header = connection.read_exactly(13)?;
    if header.starts_with(b"PROXY") {
        while !header.ends_with(b"\r\n") {
            header.extend(connection.read_exactly(1)?);
        }
        return Some(String::from_utf8(header).unwrap().trim_end().to_owned());
    }
    assert_eq!(&header[..12], b"\r\n\r\n\0\r\nQUIT\n");
    let [family, high, low] = connection.read_exactly(3)?.try_into().unwrap();
    let said = connection.read_exactly(usize::from(u16::from_be_bytes([high, low])))?;
    let dotted = |octets: &[u8]| octets.iter().map(u8::to_string).collect::<Vec<_>>().join(".");
    let port = |at: usize| u16::from_be_bytes([said[at], said[at + 1]]);
    Some(match (header[12], family) {
        (0x20, 0) => "LOCAL".to_owned(),
        (0x21, 0) => "PROXY UNKNOWN".to_owned(),
        (0x21, 0x11) => format!("PROXY TCP4 {} {} {} {}", dotted(&said[..4]), dotted(&said[4..8]), port(8), port(10)),
        other => format!("{other:?} {}", said.escape_ascii()),
    })
}

/// A config that sends everything to `backend`, with PROXY headers of this version.
fn introducing(backend: &Backend, version: &str) -> String {
    let url = backend.url();
    format!(
        "backends: {{ only: {{ endpoints: [\"{url}\"], proxy_protocol: {version} }} }}\n\
         routes: [{{ match: {{}}, backend: only }}]\n"
    )
}

/// What a header says of `client`.
fn header_of(client: &Client, tidegate: &Tidegate) -> String {
    let own = client.stream.local_addr().unwrap();
    format!("PROXY TCP4 {} {} {} {}", own.ip(), tidegate.address.ip(), own.port(), tidegate.address.port())
}

#[test]
fn each_connection_to_a_backend_is_for_one_client_and_says_so() {
    for version in ["v1", "v2"] {
        let backend = wanting_headers();
        let tidegate = Tidegate::start(&introducing(&backend, version));
        let mut clients = [tidegate.client(), tidegate.client(), tidegate.client()];
        for _ in 0..3 {
            for client in &mut clients {
                assert_eq!(client.get("/", &[]).text(), header_of(client, &tidegate), "{version}");
            }
        }
        assert_eq!(backend.connections(), 3, "each client goes on with its own");
    }
}

#[test]
fn whom_a_proxy_in_front_names_is_named_to_the_backend() {
    let backend = wanting_headers();
    let text = introducing(&backend, "v2");
    let tidegate = Tidegate::start_whole(&format!(
        "listeners: [{{ address: 127.0.0.1:0, proxy_protocol: true }}]\nadmin: {{ address: 127.0.0.1:0 }}\n\
         shutdown: {{ readiness_delay: 0s, drain_timeout: 2s }}\ntrusted_proxies: [127.0.0.1]\n{text}"
    ));
    for said in ["PROXY TCP4 192.0.2.7 192.0.2.1 56324 443", "PROXY TCP4 192.0.2.7 192.0.2.1 56325 443"] {
        assert_eq!(tidegate.client().send(format!("{said}\r\n")).get("/", &[]).text(), said);
    }
}

#[test]
fn a_client_without_an_address_is_unknown_to_the_backend() {
    let backend = wanting_headers();
    let text = introducing(&backend, "v1");
    let tidegate = Tidegate::start_whole(&format!(
        "listen: unix:traffic.sock\nadmin: {{ address: 127.0.0.1:0 }}\n\
         shutdown: {{ readiness_delay: 0s, drain_timeout: 2s }}\n{text}"
    ));
    let address = relay::to_unix(&tidegate.dir.path().join("traffic.sock"));
    assert_eq!(Client::connect(address).get("/", &[]).text(), "PROXY UNKNOWN");
}

#[test]
fn a_look_at_a_backend_is_for_nobody() {
    let looks = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&looks);
    let green = Backend::scripted(move |connection| {
        let Some(header) = read_header(connection) else { return };
        while connection.read_request().is_some() {
            seen.lock().unwrap().push(header.clone());
            connection.write(&ok(&[], b"green"));
        }
    });
    let blue = Backend::named("blue");
    let (blue, url) = (blue.url(), green.url());
    let tidegate = Tidegate::start(&format!(
        "backends:\n  blue: {{ endpoints: [\"{blue}\"] }}\n  \
         green: {{ endpoints: [\"{url}\"], proxy_protocol: v2, health: {{ path: /healthz }} }}\n\
         rollout: {{ strategy: blue_green, blue: blue, green: green, active: blue }}\n"
    ));
    let admin = tidegate.admin.strip_prefix("http://").unwrap().parse().unwrap();
    let reason = serde_json::json!({"reason": "new release"});
    let switched = Client::connect(admin).order("POST", "/api/v1/rollouts/default/switch", &reason);
    assert_eq!(switched.status, 200, "{}", switched.text());
    assert_eq!(looks.lock().unwrap()[0], "LOCAL");
    let mut client = tidegate.client();
    assert_eq!(client.get("/", &[]).text(), "green");
    let header = header_of(&client, &tidegate);
    assert_eq!(looks.lock().unwrap().last(), Some(&header));
}

#[test]
fn a_balancer_that_the_config_forgets_is_in_the_log_once() {
    let backend = Backend::named("old");
    let dir = tempfile::tempdir().unwrap();
    let (address, log) = (own_address(), dir.path().join("log"));
    let config = format!(
        "listeners: [{{ address: \"{address}\", proxy_protocol: true }}]\nadmin: {{ address: \"{}\" }}\n\
         trusted_proxies: [10.0.0.0/8]\n{}",
        own_address(),
        single(&backend)
    );
    std::fs::write(dir.path().join("tidegate.yaml"), config).unwrap();
    let mut tidegate = Command::new(BINARY)
        .args(["run", "-c", "tidegate.yaml"])
        .current_dir(dir.path())
        .stdin(Stdio::null())
        .stderr(File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let told = || std::fs::read_to_string(&log).unwrap().matches("a connection was closed at its PROXY header").count();
    eventually("it is told", || {
        let _until_it_listens = TcpStream::connect(address);
        told() > 0
    });
    for _ in 0..5 {
        assert!(Client::connect(address).is_closed());
    }
    let text = std::fs::read_to_string(&log).unwrap();
    tidegate.kill().unwrap();
    tidegate.wait().unwrap();
    assert!(text.contains("peer=\"127.0.0.1\"") && text.contains("trusted_proxies"), "{text}");
    assert_eq!(told(), 1, "{text}");
}
