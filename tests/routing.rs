//! Who goes where, on the wire.

use crate::support::{Backend, Client, Tidegate, proxy::split};

#[test]
fn users_go_where_the_formula_says() {
    let (old, new) = (Backend::named("old"), Backend::named("new"));
    let tidegate = Tidegate::splitting(&old, &new, 5);
    let mut client = tidegate.client();
    for user in 0..200 {
        let expected = if user % 100 < 5 { "new" } else { "old" };
        assert_eq!(client.get_as(user).header("x-backend"), Some(expected), "user {user}");
    }
}

#[test]
fn the_backend_is_told_rollout_side_and_reason() {
    let (old, new) = (Backend::named("old"), Backend::named("new"));
    let tidegate = Tidegate::splitting(&old, &new, 5);
    tidegate.client().get("/pay?x=1", &[("x-user-id", "1004"), ("x-tidegate-side", "old")]);
    let request = &new.requests()[0];
    assert_eq!(request.target, "/pay?x=1");
    assert_eq!(request.header("x-tidegate-rollout"), Some("default"));
    assert_eq!(request.header("x-tidegate-side"), Some("new"));
    assert_eq!(request.header("x-tidegate-reason"), Some("bucket"));
    assert_eq!(request.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(request.header("x-forwarded-proto"), Some("http"));
    assert_eq!(request.header("x-forwarded-host"), Some("service"));
    assert_eq!(request.header("host"), Some("service"));
    assert_eq!(request.header("x-request-id").map(str::len), Some(32));
}

#[test]
fn the_client_is_told_its_side_only_if_the_config_says_so() {
    let (old, new) = (Backend::named("old"), Backend::named("new"));
    let quiet = Tidegate::splitting(&old, &new, 5);
    assert_eq!(quiet.client().get_as(4).header("x-tidegate-side"), None);
    let open = Tidegate::start(&split(&old, &new, "5", "  expose_side: true\n"));
    assert_eq!(open.client().get_as(4).header("x-tidegate-side"), Some("new"));
}

#[test]
fn eight_connections_on_two_workers_are_four_and_four() {
    let backend = Backend::answering(|request| {
        crate::support::backend::ok(&[("x-thread", request.header("x-request-id").unwrap_or_default())], b"")
    });
    let tidegate = Tidegate::before(&backend);
    let mut clients: Vec<Client> = (0..8).map(|_| tidegate.client()).collect();
    for client in &mut clients {
        client.get("/", &[]);
    }
    // Each worker opens one upstream connection at a time, so what tells is how many clients each has.
    let text = tidegate.admin("/metrics").text();
    let counts: Vec<&str> =
        text.lines().filter(|line| line.starts_with("tidegate_client_connections{worker=")).collect();
    assert_eq!(counts.len(), 2, "{text}");
    assert!(counts.iter().all(|line| line.ends_with(" 4")), "{counts:?}");
}
