//! What clients claim about themselves, about others and about tidegate.

use super::{assert_alive, reached, whole};
use crate::support::backend::Request;
use crate::support::proxy::{single, split};
use crate::support::{Answer, Backend, Tidegate};

/// What the backend saw of a GET with these headers, sent from a loopback address under `config`.
#[track_caller]
fn seen_under(config: &str, headers: &[(&str, &str)]) -> Request {
    let backend = Backend::named("only");
    let tidegate = Tidegate::start(&format!("{config}{}", single(&backend)));
    assert_eq!(tidegate.client().get("/", headers).status, 200);
    let requests = whole(&backend);
    assert_eq!(requests.len(), 1);
    requests.into_iter().next().unwrap()
}

#[track_caller]
fn seen(headers: &[(&str, &str)]) -> Request {
    seen_under("", headers)
}

const TRUSTING: &str = "trusted_proxies: [127.0.0.0/8, 10.0.0.0/8]\n";

#[test]
fn connection_cannot_name_what_the_backend_relies_on() {
    let (old, new) = (Backend::named("old"), Backend::named("new"));
    let tidegate =
        Tidegate::start(&split(&old, &new, "100", "  force: { header: x-canary, networks: [10.0.0.0/8] }\n"));
    for name in [
        "host",
        "cookie",
        "authorization",
        "X-Forwarded-For",
        "x-forwarded-host",
        "x-forwarded-proto",
        "forwarded",
        "content-length",
        "content-type",
        "transfer-encoding",
        "x-user-id",
        "X-User-Id",
        "x-canary",
        "x-tidegate-side",
        "x-tidegate-rollout",
        "x-request-id",
    ] {
        for value in [name.to_owned(), format!("close, {name}"), format!("{name},close"), format!("close,\t{name} ,x")]
        {
            let mut client = tidegate.client();
            let answer = client.get("/bad", &[("x-user-id", "1"), ("cookie", "a=1"), ("connection", &value)]);
            assert_eq!(answer.status, 400, "{value:?}");
            assert!(client.is_closed(), "{value:?}");
        }
        assert_alive(&tidegate, name);
    }
    assert!(reached(&old).is_empty() && reached(&new).is_empty());
}

#[test]
fn what_connection_may_name_stays_behind() {
    let request = seen(&[
        ("connection", "keep-alive, X-Real-Hop,x-other"),
        ("x-real-hop", "1"),
        ("x-other", "2"),
        ("x-end", "3"),
    ]);
    for name in ["connection", "x-real-hop", "x-other"] {
        assert_eq!(request.header(name), None, "{name}");
    }
    assert_eq!(request.header("x-end"), Some("3"));
    assert_eq!(request.header("x-forwarded-for"), Some("127.0.0.1"), "what we add stays");
}

#[test]
fn what_belongs_to_the_clients_connection_stays_behind() {
    let hop_by_hop = [
        ("connection", "keep-alive"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("proxy-authenticate", "Basic"),
        ("proxy-authorization", "Basic YTpi"),
        ("te", "trailers, deflate"),
        ("trailer", "x-end"),
        ("upgrade", "h2c"),
        ("http2-settings", "AAMAAABkAAQCAAAAAAIAAAAA"),
    ];
    let request = seen(&hop_by_hop);
    for (name, _) in hop_by_hop {
        assert_eq!(request.header(name), None, "{name}");
    }
}

#[test]
fn a_stranger_is_not_believed_about_where_he_comes_from() {
    let claims = [
        ("x-forwarded-for", "1.2.3.4"),
        ("X-Forwarded-For", "5.6.7.8, 10.0.0.1"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "admin.internal"),
        ("x-forwarded-port", "443"),
        ("forwarded", "for=1.2.3.4;proto=https"),
    ];
    for config in ["", "trusted_proxies: [10.0.0.0/8]\n"] {
        let request = seen_under(config, &claims);
        assert_eq!(request.header("x-forwarded-for"), Some("127.0.0.1"));
        assert_eq!(request.header("x-forwarded-proto"), Some("http"));
        assert_eq!(request.header("x-forwarded-host"), Some("service"));
        assert_eq!(request.header("x-forwarded-port"), None);
        assert_eq!(request.header("forwarded"), None);
    }
}

#[test]
fn a_trusted_proxy_is_believed_and_added_to() {
    let claims = [
        ("x-forwarded-for", "1.2.3.4"),
        ("x-forwarded-for", "5.6.7.8, 10.0.0.1"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "pay.example.com"),
    ];
    let request = seen_under(TRUSTING, &claims);
    assert_eq!(request.header("x-forwarded-for"), Some("1.2.3.4, 5.6.7.8, 10.0.0.1, 127.0.0.1"));
    assert_eq!(request.header("x-forwarded-proto"), Some("https"));
    assert_eq!(request.header("x-forwarded-host"), Some("pay.example.com"));
}

#[test]
fn two_hundred_hops_are_one_line() {
    let hops = vec!["10.1.2.3"; 200].join(", ");
    let request = seen_under(TRUSTING, &[("x-forwarded-for", &hops)]);
    assert_eq!(request.header("x-forwarded-for").map(|value| value.split(", ").count()), Some(201));
    assert_eq!(seen(&[("x-forwarded-for", &hops)]).header("x-forwarded-for"), Some("127.0.0.1"));
}

#[test]
fn the_client_behind_trusted_proxies_is_the_first_stranger_from_the_right() {
    let (old, new) = (Backend::named("old"), Backend::named("new"));
    // Whoever comes from 203.0.113.0/24 may force a side: so what is believed shows in where the request goes.
    let force = "  force: { header: x-canary, networks: [203.0.113.0/24, \"2001:db8::/32\"] }\n";
    let tidegate = Tidegate::start(&format!("{TRUSTING}{}", split(&old, &new, "0", force)));
    for (hops, side) in [
        (&["203.0.113.7"][..], "new"),
        (&["203.0.113.7, 10.0.0.1"], "new"),
        (&["203.0.113.7", "10.0.0.1"], "new"),
        (&["203.0.113.7:1234"], "new"),
        (&["[2001:db8::7]:1234"], "new"),
        (&["2001:db8::7"], "new"),
        (&["203.0.113.7, 192.0.2.1"], "old"),
        (&["203.0.113.7", "192.0.2.1, 10.0.0.1"], "old"),
        (&["203.0.113.7, unknown"], "old"),
        (&["203.0.113.7%eth0"], "old"),
        (&["fe80::1%eth0"], "old"),
        (&["203.0.113.7, "], "old"),
        (&[""], "old"),
    ] {
        let lines: Vec<(&str, &str)> =
            hops.iter().map(|hop| ("x-forwarded-for", *hop)).chain([("x-canary", "always")]).collect();
        let answer = tidegate.client().get("/", &lines);
        assert_eq!(answer.header("x-backend"), Some(side), "{hops:?}");
    }
}

#[test]
fn a_stranger_who_claims_to_be_a_tester_is_none() {
    let (old, new) = (Backend::named("old"), Backend::named("new"));
    let force = "  force: { header: x-canary, cookie: canary, networks: [203.0.113.0/24] }\n";
    let tidegate = Tidegate::start(&split(&old, &new, "0", force));
    for headers in [
        &[("x-canary", "always")][..],
        &[("cookie", "canary=always")],
        &[("x-canary", "always"), ("x-forwarded-for", "203.0.113.7")],
        &[("x-canary", "always"), ("forwarded", "for=203.0.113.7")],
        &[("x-canary", "always:")],
        &[("x-canary", "always:guess")],
        &[("x_canary", "always")],
    ] {
        let answer = tidegate.client().get("/", headers);
        assert_eq!(answer.header("x-backend"), Some("old"), "{headers:?}");
    }
}

#[test]
fn a_tester_needs_the_whole_token() {
    let (old, new) = (Backend::named("old"), Backend::named("new"));
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, "s3cret-s3cret-s3cret\n").unwrap();
    let force = format!("  force: {{ header: x-canary, cookie: canary, token_file: {} }}\n", token.display());
    let tidegate = Tidegate::start(&split(&old, &new, "0", &force));
    let side = |headers: &[(&str, &str)]| tidegate.client().get("/", headers).header("x-backend").unwrap().to_owned();
    assert_eq!(side(&[("x-canary", "always:s3cret-s3cret-s3cret")]), "new");
    assert_eq!(side(&[("cookie", "canary=always:s3cret-s3cret-s3cret")]), "new");
    for value in
        ["always", "always:", "always:s3cret", "always:s3cret-s3cret-s3cretX", "ALWAYS:s3cret-s3cret-s3cret", "new"]
    {
        assert_eq!(side(&[("x-canary", value)]), "old", "{value}");
    }
}

#[test]
fn nobody_but_tidegate_says_what_tidegate_decided() {
    let (old, new) = (Backend::named("old"), Backend::named("new"));
    let tidegate = Tidegate::splitting(&old, &new, 0);
    let lies = [
        ("x-tidegate-side", "new"),
        ("X-Tidegate-Side", "new"),
        ("x-tidegate-rollout", "other"),
        ("x-tidegate-reason", "force"),
        ("x-tidegate-anything", "1"),
        ("x_tidegate_side", "new"),
        ("x.tidegate.side", "new"),
        ("x-tidegate_side", "new"),
    ];
    let answer = tidegate.client().get("/", &[&[("x-user-id", "7")], &lies[..]].concat());
    assert_eq!(answer.header("x-backend"), Some("old"));
    let request = &old.requests()[0];
    assert_eq!(request.header("x-tidegate-side"), Some("old"));
    assert_eq!(request.header("x-tidegate-rollout"), Some("default"));
    assert_eq!(request.header("x-tidegate-reason"), Some("bucket"));
    let claims = request.headers.iter().filter(|(name, _)| name.replace(['_', '.'], "-").starts_with("x-tidegate-"));
    assert_eq!(claims.count(), 3, "only our three are left: {:?}", request.headers);
}

#[test]
fn other_spellings_of_our_names_stay_behind() {
    let (old, new) = (Backend::named("old"), Backend::named("new"));
    let tidegate = Tidegate::splitting(&old, &new, 50);
    for name in [
        "x_forwarded_for",
        "X_Forwarded_For",
        "x.forwarded.for",
        "X-Forwarded_For",
        "x_forwarded_proto",
        "x.forwarded.host",
        "x_user_id",
        "X.User.Id",
        "x-user_id",
        "x_request_id",
        "transfer_encoding",
        "content_length",
        "content.length",
        "x_tidegate_side",
    ] {
        let path = format!("/{name}");
        tidegate.client().get(&path, &[("x-user-id", "99"), (name, "7")]);
        let request = old.requests().into_iter().find(|request| request.target == path).unwrap();
        let aliases: Vec<&String> =
            request.headers.iter().map(|(name, _)| name).filter(|name| name.contains(['_', '.'])).collect();
        assert!(aliases.is_empty(), "{name}: {aliases:?}");
    }
    tidegate.client().get("/other", &[("x-user-id", "99"), ("x_other", "1")]);
    let other = old.requests().into_iter().find(|request| request.target == "/other").unwrap();
    assert_eq!(other.header("x_other"), Some("1"), "names that mean nothing to us pass");
    assert!(new.requests().is_empty());
}

#[test]
fn a_key_that_is_said_twice_decides_once() {
    let (old, new) = (Backend::named("old"), Backend::named("new"));
    let tidegate = Tidegate::splitting(&old, &new, 50);
    let answers: Vec<Answer> =
        (0..5).map(|_| tidegate.client().get("/", &[("x-user-id", "7"), ("x-user-id", "99")])).collect();
    assert!(answers.iter().all(|answer| answer.header("x-backend") == answers[0].header("x-backend")));
}

/// Two routes: `/admin` to one backend, everything else to another.
fn two_routes(public: &Backend, admin: &Backend) -> String {
    format!(
        "backends:\n  public: {{ endpoints: [\"{}\"] }}\n  admin: {{ endpoints: [\"{}\"] }}\n\
         routes:\n  - match: {{ path: /admin }}\n    backend: admin\n  - match: {{}}\n    backend: public\n",
        public.url(),
        admin.url(),
    )
}

#[test]
fn a_path_that_two_routes_could_claim_is_refused() {
    let (public, admin) = (Backend::named("public"), Backend::named("admin"));
    let tidegate = Tidegate::start(&two_routes(&public, &admin));
    for path in [
        "/public/..%2fadmin",
        "/public/../admin",
        "/%61dmin",
        "/%61%64%6d%69%6e/x",
        "//admin",
        "/./admin",
        "/x/%2e%2e/admin",
        "/\\admin",
        "/x/..\\admin",
        "/admin;x=1",
        "/;x=1/admin",
        "/admin%2fx",
        "/admin/../public",
        "/admin/..%2fpublic",
        "/admin/%2e%2e/public",
        "/x%5c..%5cadmin",
    ] {
        let mut client = tidegate.client();
        let answer = client.get(path, &[]);
        assert_eq!(answer.status, 400, "{path}");
        assert!(client.is_closed(), "{path}");
        assert!(reached(&public).is_empty() && reached(&admin).is_empty(), "{path}");
        assert_alive(&tidegate, path);
    }
}

#[test]
fn an_odd_path_that_leads_to_one_route_is_passed_on_as_it_is() {
    let (public, admin) = (Backend::named("public"), Backend::named("admin"));
    let tidegate = Tidegate::start(&two_routes(&public, &admin));
    for (path, backend) in [
        ("/admin/%61", "admin"),
        ("/admin//x", "admin"),
        ("/admin/./x", "admin"),
        ("/admin/a;x=1/b", "admin"),
        ("/a//b", "public"),
        ("/a/%2e/b", "public"),
        ("/..%2f", "public"),
        ("/%00", "public"),
        ("/administrator", "public"),
        ("/a?x=/../admin", "public"),
    ] {
        let answer = tidegate.client().get(path, &[]);
        assert_eq!(answer.header("x-backend"), Some(backend), "{path}");
        let targets = reached(if backend == "admin" { &admin } else { &public });
        assert!(targets.iter().any(|target| target == path), "{path} is not among {targets:?}");
    }
}

#[test]
fn an_anonymous_id_that_we_could_not_have_made_is_replaced_and_never_repeated() {
    let (old, new) = (Backend::named("old"), Backend::named("new"));
    let tidegate = Tidegate::start(&split(&old, &new, "50", "  on_missing: cookie\n"));
    for forged in [
        "",
        "1",
        "0123456789ABCDEF0123456789ABCDEF",
        "0123456789abcdef0123456789abcdeg",
        "0123456789abcdef0123456789abcdef0",
        "<script>alert(1)</script>",
        "\u{e9}",
    ] {
        let answer = tidegate.client().get("/", &[("cookie", &format!("tidegate-id={forged}"))]);
        let cookie = answer.header("set-cookie").expect("a new id").to_owned();
        let id = cookie.strip_prefix("tidegate-id=").unwrap().split(';').next().unwrap();
        assert!(id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{cookie}");
        assert!(cookie.contains("; HttpOnly") && cookie.contains("; SameSite=Lax"), "{cookie}");
        assert!(forged.is_empty() || !id.contains(forged) || forged.len() == 1, "{cookie}");
        let again = tidegate.client().get("/", &[("cookie", &format!("tidegate-id={id}"))]);
        assert_eq!(again.header("set-cookie"), None, "an id of ours is kept");
        assert_eq!(again.header("x-backend"), answer.header("x-backend"), "and leads to the same side");
    }
}

#[test]
fn a_request_id_that_would_spoil_a_log_is_replaced() {
    for (id, kept) in [
        ("abc-123", true),
        ("", false),
        ("two words", false),
        ("\"quoted\"", true),
        ("caf\u{e9}", false),
        (&*"a".repeat(128), true),
        (&*"a".repeat(129), false),
    ] {
        let request = seen(&[("x-request-id", id)]);
        let found = request.header("x-request-id").unwrap();
        assert_eq!(found == id, kept, "{id:?}");
        assert!(kept || found.len() == 32, "{id:?}");
    }
}

#[test]
fn a_host_that_names_us_leads_to_a_backend_all_the_same() {
    let backend = Backend::named("only");
    let tidegate = Tidegate::before(&backend);
    let admin = tidegate.admin.trim_start_matches("http://").to_owned();
    for host in [admin.as_str(), "127.0.0.1:1", "localhost", "[::1]:9901", "0.0.0.0"] {
        let answer = tidegate.tell(format!("GET /metrics HTTP/1.1\r\nhost: {host}\r\n\r\n"));
        assert_eq!(answer.text(), "only", "{host}");
        let answer = tidegate.tell(format!("GET http://{host}/metrics HTTP/1.1\r\nhost: x\r\n\r\n"));
        assert_eq!(answer.text(), "only", "{host}");
    }
}

#[test]
fn our_own_words_never_repeat_the_clients() {
    let backend = Backend::named("only");
    let tidegate = Tidegate::start(&two_routes(&backend, &backend));
    for request in [
        "GET /..%2fadmin?<img> HTTP/1.1\r\nhost: service\r\naccept: text/html\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: <img>\r\naccept: text/html\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: service\r\naccept: text/html\r\nexpect: <img>\r\n\r\n",
        "<img> / HTTP/1.1\r\nhost: service\r\naccept: text/html\r\n\r\n",
    ] {
        let answer = tidegate.tell(request);
        assert!((400..500).contains(&answer.status), "{request:?}");
        assert!(!answer.text().contains("<img>"), "{request:?}");
    }
}
