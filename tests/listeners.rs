//! Where tidegate listens, and where it finds its backends.

use crate::support::{Backend, Tidegate, relay};

/// A config that sends everything to the endpoint at `url`.
fn before(url: &str) -> String {
    format!("backends:\n  only: {{ endpoints: [\"{url}\"] }}\nroutes:\n  - match: {{}}\n    backend: only\n")
}

#[test]
fn a_backend_may_be_a_unix_socket() {
    let backend = Backend::named("old");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("backend.sock");
    relay::from_unix(&path, backend.address);
    let tidegate = Tidegate::start(&before(&format!("unix:{}", path.display())));
    let mut client = tidegate.client();
    for _ in 0..3 {
        assert_eq!(client.get("/", &[]).text(), "old");
    }
    assert_eq!(backend.connections(), 1, "it is kept");
    assert_eq!(backend.requests()[0].header("host"), Some("service"));
}

#[test]
fn a_unix_socket_that_is_not_there_is_a_backend_without_a_connection() {
    let tidegate = Tidegate::start(&before("unix:nobody.sock"));
    assert_eq!(tidegate.client().get("/", &[]).status, 502);
}

#[test]
fn what_is_meant_for_tls_never_goes_out_in_clear_text() {
    let backend = Backend::named("old");
    let tidegate = Tidegate::start(&before(&format!("https://{}", backend.address)));
    assert_eq!(tidegate.client().get("/", &[("authorization", "secret")]).status, 502);
    assert!(!backend.text().contains("secret"));
}
