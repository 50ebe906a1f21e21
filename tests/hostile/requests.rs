//! Requests that can be read in more than one way, or in none.

use super::{assert_alive, reached, whole};
use crate::support::backend::Request;
use crate::support::proxy::single;
use crate::support::{Backend, Tidegate};

/// `head` lines after a request line and a Host, then `body`.
fn post(lines: &str, body: &str) -> Vec<u8> {
    format!("POST /bad HTTP/1.1\r\nhost: service\r\n{lines}\r\n{body}").into_bytes()
}

/// Each input is refused with `status`, its connection closed, and nothing of it reaches the backend.
#[track_caller]
fn all_refused(status: u16, inputs: impl IntoIterator<Item = (&'static str, Vec<u8>)>) {
    let backend = Backend::named("only");
    let tidegate = Tidegate::before(&backend);
    for (what, bytes) in inputs {
        let mut client = tidegate.client();
        let answer = client.send(bytes).answer();
        assert_eq!(answer.status, status, "{what}");
        assert_eq!(answer.header("connection"), Some("close"), "{what}");
        assert_eq!(answer.header("server"), Some("tidegate"), "{what}");
        assert!(client.is_closed(), "nothing follows the refusal of {what}");
        assert_alive(&tidegate, what);
        assert!(reached(&backend).is_empty(), "nothing of it reached the backend: {what}");
    }
}

/// The input is served, and this is what the backend saw of it.
#[track_caller]
fn served(bytes: impl AsRef<[u8]>) -> Request {
    let backend = Backend::named("only");
    let tidegate = Tidegate::before(&backend);
    let answer = tidegate.tell(bytes);
    assert_eq!((answer.status, answer.text().as_str()), (200, "only"));
    let requests = whole(&backend);
    assert_eq!(requests.len(), 1, "exactly one request reached the backend");
    assert_alive(&tidegate, "it");
    requests.into_iter().next().unwrap()
}

#[test]
fn of_two_framings_chunked_counts_and_the_connection_closes() {
    let lengths =
        ["content-length: 4\r\ntransfer-encoding: chunked\r\n", "transfer-encoding: chunked\r\ncontent-length: 4\r\n"];
    for lines in lengths {
        let backend = Backend::named("only");
        let tidegate = Tidegate::before(&backend);
        let mut client = tidegate.client();
        let smuggled = "3\r\nabc\r\n0\r\n\r\nGET /evil HTTP/1.1\r\nhost: service\r\n\r\n";
        let answer = client.send(post(lines, smuggled)).answer();
        assert_eq!(answer.status, 200);
        assert!(client.is_closed(), "what follows an ambiguous request is not read");
        let requests = whole(&backend);
        assert_eq!(requests.len(), 1, "only one request reached the backend");
        assert_eq!(requests[0].body, b"abc");
        assert_eq!(requests[0].header("content-length"), None);
        assert_alive(&tidegate, "two framings");
    }
}

#[test]
fn codings_other_than_chunked_are_not_implemented() {
    let body = "3\r\nabc\r\n0\r\n\r\n";
    all_refused(
        501,
        [
            ("gzip, chunked", post("transfer-encoding: gzip, chunked\r\n", body)),
            ("cow and chunked on two lines", post("transfer-encoding: cow\r\ntransfer-encoding: chunked\r\n", body)),
            ("an empty coding", post("transfer-encoding: ,chunked\r\n", body)),
            ("identity, chunked", post("transfer-encoding: identity, chunked\r\n", body)),
        ],
    );
}

#[test]
fn chunked_is_said_once() {
    let body = "3\r\nabc\r\n0\r\n\r\n";
    all_refused(
        400,
        [
            ("chunked on two lines", post("transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n", body)),
            ("chunked, chunked", post("transfer-encoding: chunked, chunked\r\n", body)),
            ("Chunked and chunked", post("transfer-encoding: Chunked\r\nTransfer-Encoding: chunked\r\n", body)),
        ],
    );
}

#[test]
fn a_coding_that_does_not_end_in_chunked_is_malformed() {
    let body = "3\r\nabc\r\n0\r\n\r\n";
    all_refused(
        400,
        [
            ("chunked, identity", post("transfer-encoding: chunked, identity\r\n", body)),
            ("xchunked", post("transfer-encoding: xchunked\r\n", body)),
            ("chunkedx", post("transfer-encoding: chunkedx\r\n", body)),
            ("a vertical tab", post("transfer-encoding: \x0bchunked\r\n", body)),
            ("a space before the colon", post("transfer-encoding : chunked\r\n", body)),
            ("a tab before the colon", post("transfer-encoding\t: chunked\r\n", body)),
            ("quotes", post("transfer-encoding: \"chunked\"\r\n", body)),
            ("a parameter", post("transfer-encoding: chunked;q=1\r\n", body)),
            ("nothing", post("transfer-encoding:\r\n", body)),
        ],
    );
}

#[test]
fn header_lines_are_a_name_a_colon_and_a_value() {
    let get = |line: &[u8]| [b"GET /bad HTTP/1.1\r\nhost: service\r\n", line, b"\r\n\r\n"].concat();
    all_refused(
        400,
        [
            ("a folded line", get(b"x-a: 1\r\n 2")),
            ("a folded line with a tab", get(b"x-a: 1\r\n\t2")),
            ("a folded first line", b"GET /bad HTTP/1.1\r\n host: service\r\n\r\n".to_vec()),
            ("a bare CR in a value", get(b"x-a: 1\r2")),
            ("a bare CR before a name", get(b"x-a: 1\rx-b: 2")),
            ("NUL in a value", get(b"x-a: 1\x002")),
            ("NUL in a name", get(b"x\x00a: 1")),
            ("0x85 in a name", get(b"x\x85a: 1")),
            ("a space in a name", get(b"x a: 1")),
            ("an empty name", get(b": 1")),
            ("no colon", get(b"x-a")),
            ("DEL in a value", get(b"x-a: \x7f")),
        ],
    );
}

#[test]
fn request_lines_are_a_method_a_target_and_a_version() {
    let line = |line: &str| format!("{line}\r\nhost: service\r\n\r\n").into_bytes();
    all_refused(
        400,
        [
            ("a fragment", line("GET /a#b HTTP/1.1")),
            ("a fragment alone", line("GET /# HTTP/1.1")),
            ("version 1.32", line("GET /bad HTTP/1.32")),
            ("version 2.0", line("GET /bad HTTP/2.0")),
            ("version 0.9", b"GET /bad\r\n\r\n".to_vec()),
            ("a lower-case protocol", line("GET /bad http/1.1")),
            ("a space in the target", line("GET /bad /evil HTTP/1.1")),
            ("a tab for a space", line("GET\t/bad\tHTTP/1.1")),
            ("a relative target", line("GET bad/../x HTTP/1.1")),
            ("NUL in the target", line("GET /b\0ad HTTP/1.1")),
            ("a scheme of its own", line("GET ftp://service/bad HTTP/1.1")),
            ("credentials in the target", line("GET http://user@service/bad HTTP/1.1")),
            ("no preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nMS\r\n\r\n".to_vec()),
            ("a TLS greeting", b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03rest\r\n\r\n".to_vec()),
            ("rubbish", b"\r\n\r\n\x01\x02\x03\r\n\r\n".to_vec()),
        ],
    );
}

#[test]
fn bare_line_feeds_are_read_and_not_passed_on() {
    let request = served("POST /lf HTTP/1.1\nhost: service\ncontent-length: 3\nx-a: 1\n\nabc");
    assert_eq!((request.target.as_str(), request.header("x-a")), ("/lf", Some("1")));
    assert_eq!(request.body, b"abc");
}

#[test]
fn no_bare_line_feed_reaches_a_backend() {
    let backend = Backend::named("only");
    let tidegate = Tidegate::before(&backend);
    tidegate.tell("GET /lf HTTP/1.1\nhost: service\nx-a: 1\n\n");
    let text = backend.text();
    assert_eq!(text.matches('\n').count(), text.matches("\r\n").count(), "{text:?}");
}

#[test]
fn http_1_0_has_no_transfer_coding() {
    let bytes = b"POST /bad HTTP/1.0\r\nhost: service\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    all_refused(400, [("chunked in HTTP/1.0", bytes.to_vec())]);
}

#[test]
fn an_http_1_0_post_without_a_length_has_no_body_and_no_successor() {
    let backend = Backend::named("only");
    let tidegate = Tidegate::before(&backend);
    let mut client = tidegate.client();
    let answer = client.send("POST /one HTTP/1.0\r\nhost: service\r\n\r\nGET /evil HTTP/1.0\r\n\r\n").answer();
    assert_eq!(answer.status, 200);
    assert!(client.is_closed());
    assert_eq!(reached(&backend), ["/one"]);
    assert!(backend.text().starts_with("POST /one HTTP/1.1\r\n"), "the backend is always spoken to in HTTP/1.1");
    assert!(whole(&backend)[0].body.is_empty());
    assert_alive(&tidegate, "it");
}

#[test]
fn lengths_are_decimal_and_agree() {
    all_refused(
        400,
        [
            ("two lengths", post("content-length: 2\r\ncontent-length: 3\r\n", "abc")),
            ("a list", post("content-length: 2, 2\r\n", "ab")),
            ("a list of different lengths", post("content-length: 2, 3\r\n", "abc")),
            ("a sign", post("content-length: +2\r\n", "ab")),
            ("a negative length", post("content-length: -2\r\n", "ab")),
            ("hexadecimal", post("content-length: 0x2\r\n", "ab")),
            ("nothing", post("content-length:\r\n", "ab")),
            ("a fraction", post("content-length: 2.0\r\n", "ab")),
            ("a space inside", post("content-length: 1 2\r\n", "ab")),
            ("2^64", post("content-length: 18446744073709551616\r\n", "ab")),
            ("2^64 - 1", post("content-length: 18446744073709551615\r\n", "ab")),
            ("a space before the colon", post("content-length : 2\r\n", "ab")),
        ],
    );
}

#[test]
fn a_length_said_twice_or_with_zeroes_is_passed_on_once_and_plain() {
    for lines in ["content-length: 2\r\ncontent-length: 2\r\n", "content-length: 02\r\n", "content-length: 00002\r\n"] {
        let request = served(post(lines, "ab"));
        assert_eq!(request.header("content-length"), Some("2"), "{lines:?}");
        assert_eq!(request.body, b"ab");
    }
}

#[test]
fn a_body_over_the_limit_is_too_large_by_its_word_and_by_its_deed() {
    let backend = Backend::named("only");
    let tidegate = Tidegate::start(&format!("limits: {{ max_body: 4B }}\n{}", single(&backend)));
    for (what, bytes) in [
        ("a length over the limit", post("content-length: 5\r\n", "abcde")),
        ("a length far over the limit", post("content-length: 9223372036854775807\r\n", "abcde")),
        ("chunks over the limit", post("transfer-encoding: chunked\r\n", "5\r\nabcde\r\n0\r\n\r\n")),
    ] {
        let mut client = tidegate.client();
        let answer = client.send(bytes).answer();
        assert_eq!(answer.status, 413, "{what}");
        assert_eq!(answer.header("connection"), Some("close"), "{what}");
        assert!(client.is_closed(), "{what}");
        assert_alive(&tidegate, what);
    }
    assert!(backend.requests().iter().all(|request| request.target == "/alive"), "none of them arrived whole");
    assert_eq!(tidegate.tell(post("content-length: 4\r\n", "abcd")).status, 200, "the limit itself is fine");
}

#[test]
fn a_length_that_few_can_count_to_is_too_large() {
    all_refused(
        413,
        [
            ("2^63", post("content-length: 9223372036854775808\r\n", "ab")),
            ("almost 2^64", post("content-length: 18446744073709551610\r\n", "ab")),
        ],
    );
}

#[test]
fn chunks_that_are_none_end_the_request_on_both_sides() {
    let backend = Backend::named("only");
    let tidegate = Tidegate::before(&backend);
    let long_extension = format!("3;{}\r\nabc\r\n0\r\n\r\n", "x".repeat(17 << 10));
    for (what, body) in [
        ("an underscore", "0_2e\r\nabc\r\n0\r\n\r\n"),
        ("a negative size", "-1\r\nabc\r\n0\r\n\r\n"),
        ("a prefix", "0x3\r\nabc\r\n0\r\n\r\n"),
        ("a sign", "+3\r\nabc\r\n0\r\n\r\n"),
        ("a leading space", " 3\r\nabc\r\n0\r\n\r\n"),
        ("an overflow", "10000000000000003\r\nabc\r\n0\r\n\r\n"),
        ("no size", "\r\nabc\r\n0\r\n\r\n"),
        ("no line end after a chunk", "3\r\nabcX\r\n0\r\n\r\n"),
        ("a bare LF after a chunk", "3\r\nabc\n0\r\n\r\n"),
        ("a bare LF after a size", "3\nabc\r\n0\r\n\r\n"),
        ("a bare CR after a size", "3\rXabc\r\n0\r\n\r\n"),
        ("a bare LF in an extension", "3;a\nx\r\nabc\r\n0\r\n\r\n"),
        ("an endless extension", &long_extension),
        ("rubbish after the last chunk", "3\r\nabc\r\n0\r\n: :\r\n\r\n"),
    ] {
        let mut client = tidegate.client();
        let answer = client.send(post("transfer-encoding: chunked\r\n", body)).answer();
        assert_eq!(answer.status, 400, "{what}");
        assert_eq!(answer.header("connection"), Some("close"), "{what}");
        assert!(client.is_closed(), "{what}");
        assert_alive(&tidegate, what);
    }
    assert!(backend.requests().iter().all(|request| request.target == "/alive"), "none of them arrived whole");
}

#[test]
fn a_chunk_extension_is_read_and_not_passed_on() {
    let request = served(post("transfer-encoding: chunked\r\n", "3;a=b\r\nabc\r\n0\r\n\r\n"));
    assert_eq!(request.body, b"abc");
}

#[test]
fn exactly_one_host_is_asked_for() {
    let line = |lines: &str| format!("GET /bad HTTP/1.1\r\n{lines}\r\n").into_bytes();
    all_refused(
        400,
        [
            ("no Host", line("")),
            ("two Hosts", line("host: a\r\nhost: b\r\n")),
            ("the same Host twice", line("host: a\r\nHost: a\r\n")),
            ("a path and a user in Host", line("host: a/b@c\r\n")),
            ("an empty Host", line("host:\r\n")),
            ("a list", line("host: a, b\r\n")),
            ("a space", line("host: a b\r\n")),
            ("a port that is none", line("host: a:b\r\n")),
            ("a URL", line("host: http://a\r\n")),
            ("a fragment", line("host: a#b\r\n")),
            ("two Hosts and an absolute target", b"GET http://a/ HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n".to_vec()),
            ("an absolute target without Host", b"GET http://a/ HTTP/1.1\r\n\r\n".to_vec()),
        ],
    );
}

#[test]
fn the_host_of_an_absolute_target_is_the_host() {
    let request = served("GET http://wanted:8080/x?y=1 HTTP/1.1\r\nhost: other\r\n\r\n");
    assert_eq!(request.target, "/x?y=1");
    assert_eq!(request.header("host"), Some("wanted:8080"));
    assert_eq!(request.header("x-forwarded-host"), Some("wanted:8080"));
}

#[test]
fn trailers_of_a_request_stay_behind() {
    let trailers = "3\r\nabc\r\n0\r\ncontent-length: 7\r\nx-auth: admin\r\nhost: evil\r\n\r\n";
    let lines = "transfer-encoding: chunked\r\ntrailer: x-auth, content-length\r\n";
    let request = served(post(lines, trailers));
    assert_eq!(request.body, b"abc");
    assert_eq!(request.header("trailer"), None);
    assert_eq!(request.header("x-auth"), None);
    assert_eq!(request.header("content-length"), None);
    assert_eq!(request.header("host"), Some("service"));
}

#[test]
fn tunnels_and_echoes_are_not_passed_on() {
    all_refused(
        405,
        [
            (
                "CONNECT to a port",
                b"CONNECT service:443 HTTP/1.1\r\nhost: service:443\r\n\r\nGET /evil HTTP/1.1\r\n".to_vec(),
            ),
            (
                "CONNECT with a length",
                b"CONNECT service:443 HTTP/1.1\r\nhost: service\r\ncontent-length: 3\r\n\r\nabc".to_vec(),
            ),
            ("TRACE", b"TRACE /bad HTTP/1.1\r\nhost: service\r\n\r\n".to_vec()),
        ],
    );
}

#[test]
fn a_client_cannot_take_away_what_the_backend_relies_on() {
    all_refused(
        400,
        [(
            "headers nominated by Connection",
            b"GET /bad HTTP/1.1\r\nhost: service\r\ncookie: a=1\r\nconnection: close, X-Forwarded-For, Cookie\r\n\r\n"
                .to_vec(),
        )],
    );
}

#[test]
fn heads_have_a_size() {
    let get = |lines: &str| format!("GET /bad HTTP/1.1\r\nhost: service\r\n{lines}\r\n").into_bytes();
    let fields = |count: usize| get(&(1..count).map(|nth| format!("x-{nth}: 1\r\n")).collect::<String>());
    all_refused(
        431,
        [
            ("a header of 64 KB", get(&format!("x-a: {}\r\n", "a".repeat(64 << 10)))),
            ("many headers of 64 KB together", get(&format!("x-a: {}\r\n", "a".repeat(700)).repeat(92))),
            ("a header name of 64 KB", get(&format!("{}: 1\r\n", "a".repeat(64 << 10)))),
            ("101 fields", fields(101)),
            ("1000 fields", fields(1000)),
        ],
    );
    assert_eq!(served(fields(100)).target, "/bad", "a hundred fields are fine");
}

#[test]
fn targets_have_a_size() {
    all_refused(
        414,
        [
            ("a path of 9 KB", format!("GET /{} HTTP/1.1\r\nhost: service\r\n\r\n", "a".repeat(9 << 10)).into_bytes()),
            (
                "a query of 9 KB",
                format!("GET /?{} HTTP/1.1\r\nhost: service\r\n\r\n", "a".repeat(9 << 10)).into_bytes(),
            ),
        ],
    );
}

#[test]
fn any_method_may_have_a_body_and_the_backend_gets_all_of_it() {
    for method in ["GET", "HEAD", "DELETE", "OPTIONS", "PATCH", "PROPFIND"] {
        for (lines, body) in [
            ("transfer-encoding: chunked\r\n", "1d\r\nGET /evil HTTP/1.1\r\nhost: x\r\n\r\n0\r\n\r\n"),
            ("content-length: 29\r\n", "GET /evil HTTP/1.1\r\nhost: x\r\n"),
        ] {
            let backend = Backend::named("only");
            let tidegate = Tidegate::before(&backend);
            let mut client = tidegate.client();
            client.send(format!("{method} /one HTTP/1.1\r\nhost: service\r\n{lines}\r\n{body}"));
            let answer = if method == "HEAD" { client.answer_to_head() } else { client.answer() };
            assert_eq!(answer.status, 200, "{method}");
            let requests = whole(&backend);
            assert_eq!(requests.len(), 1, "{method}");
            assert_eq!(requests[0].method, method);
            assert!(requests[0].body.starts_with(b"GET /evil HTTP/1.1\r\nhost: x\r\n"), "{method}");
            assert_alive(&tidegate, method);
        }
    }
}

#[test]
fn empty_lines_before_a_request_are_skipped() {
    assert_eq!(served("\r\n\r\nGET /one HTTP/1.1\r\nhost: service\r\n\r\n").target, "/one");
}
