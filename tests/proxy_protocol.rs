//! The PROXY header in front of a client's connection: who is believed, what it changes, and what is closed.

use std::net::TcpStream;

use crate::support::{Backend, Client, Tidegate, eventually, proxy::single};

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
