//! Where tidegate listens, and the sockets of this machine on both sides.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::json;
use tidegate::app::Signal;
use tidegate::config::ListenAddress;

use crate::support::process::{BINARY, own_address};
use crate::support::tls::Authority;
use crate::support::{Backend, Client, Tidegate, eventually, proxy::single, relay};

/// The first lines of a config with these `listeners`, as the lines of a list, and ports of its own.
fn listening(listeners: &str) -> String {
    format!(
        "listeners:\n{listeners}admin: {{ address: 127.0.0.1:0 }}\nworkers: 2\n\
         shutdown: {{ readiness_delay: 0s, drain_timeout: 2s }}\n"
    )
}

/// A config that sends everything to the endpoint at `url`.
fn before(url: &str) -> String {
    format!("backends:\n  only: {{ endpoints: [\"{url}\"] }}\nroutes:\n  - match: {{}}\n    backend: only\n")
}

/// A client of the socket file at `path`.
fn client_at(path: &Path) -> Client {
    Client::connect(relay::to_unix(path))
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
    assert_eq!(backend.requests()[0].header("x-forwarded-for"), Some("127.0.0.1"));
}

#[test]
fn a_unix_socket_that_is_not_there_is_a_backend_without_a_connection() {
    let tidegate = Tidegate::start(&before("unix:nobody.sock"));
    assert_eq!(tidegate.client().get("/", &[]).status, 502);
}

#[test]
fn what_is_meant_for_tls_never_goes_out_in_clear_text() {
    let backend = Backend::scripted(|connection| {
        let _its_first_words = connection.read_more();
    });
    let tidegate = Tidegate::start(&before(&format!("https://{}", backend.address)));
    assert_eq!(tidegate.client().get("/", &[("authorization", "secret")]).status, 502);
    assert!(!backend.text().contains("secret"));
}

#[test]
fn several_listeners_of_both_kinds_serve_the_same() {
    let backend = Backend::named("old");
    let config = listening("  - address: 127.0.0.1:0\n  - address: unix:traffic.sock\n  - address: '[::1]:0'\n");
    let tidegate = Tidegate::start_whole(&(config + &single(&backend)));
    let path = tidegate.dir.path().join("traffic.sock");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o666, "as open as a port");
    let ports: Vec<_> = tidegate.addresses.iter().filter_map(ListenAddress::tcp).collect();
    assert_eq!((tidegate.addresses.len(), ports.len()), (3, 2));
    for address in ports {
        assert_eq!(Client::connect(address).get("/", &[]).text(), "old", "{address}");
    }
    assert_eq!(client_at(&path).get("/", &[]).text(), "old");
}

#[test]
fn a_socket_file_goes_with_the_process_and_those_inside_are_answered() {
    let backend = Backend::named("old");
    let mut tidegate = Tidegate::start_whole(&(listening("  - address: unix:traffic.sock\n") + &single(&backend)));
    let path = tidegate.dir.path().join("traffic.sock");
    let mut client = client_at(&path);
    assert_eq!(client.get("/", &[]).text(), "old");
    tidegate.signal(Signal::Leave);
    eventually("the socket file is gone", || !path.exists());
    tidegate.wait();
    assert!(client.is_closed());
}

#[test]
fn a_socket_file_that_a_killed_process_left_is_replaced_and_a_live_one_is_not() {
    let backend = Backend::named("old");
    let config = listening("  - address: unix:traffic.sock\n") + &single(&backend);
    let dir = tempfile::tempdir().unwrap();
    let (path, socket) = (dir.path().join("tidegate.yaml"), dir.path().join("traffic.sock"));
    std::fs::write(&path, &config).unwrap();
    drop(UnixListener::bind(&socket).unwrap());
    let tidegate = Tidegate::start_at(dir, path.clone()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(client_at(&socket).get("/", &[]).text(), "old");

    let elsewhere = tempfile::tempdir().unwrap();
    let again = elsewhere.path().join("tidegate.yaml");
    std::fs::write(&again, config.replace("unix:traffic.sock", &format!("unix:{}", socket.display()))).unwrap();
    let error = Tidegate::start_at(elsewhere, again).err().expect("the path is taken").to_string();
    assert!(error.contains("another process answers there") && error.contains("ss -lxp"), "{error}");
    assert!(UnixStream::connect(&socket).is_ok(), "the live one is left alone");
    drop(tidegate);
}

#[test]
fn a_client_of_a_unix_socket_has_no_address_and_is_not_believed() {
    let backend = Backend::named("old");
    let tidegate = Tidegate::start_whole(
        &(listening("  - address: unix:traffic.sock\n") + "trusted_proxies: [0.0.0.0/0]\n" + &single(&backend)),
    );
    client_at(&tidegate.dir.path().join("traffic.sock")).get("/", &[("x-forwarded-for", "192.0.2.7")]);
    assert_eq!(backend.requests()[0].header("x-forwarded-for"), Some("unknown"));
}

#[test]
fn a_proxy_on_a_unix_socket_is_believed_if_the_config_says_so() {
    let backend = Backend::named("old");
    let tidegate = Tidegate::start_whole(
        &(listening("  - address: unix:traffic.sock\n") + "trusted_proxies: [unix]\n" + &single(&backend)),
    );
    let mut client = client_at(&tidegate.dir.path().join("traffic.sock"));
    client.get("/", &[("x-forwarded-for", "192.0.2.7"), ("x-forwarded-proto", "https")]);
    client.get("/", &[]);
    let requests = backend.requests();
    assert_eq!(requests[0].header("x-forwarded-for"), Some("192.0.2.7"), "a proxy without an address adds none");
    assert_eq!(requests[0].header("x-forwarded-proto"), Some("https"));
    assert_eq!(requests[1].header("x-forwarded-for"), Some("unknown"));
}

#[test]
fn settings_of_a_listener_change_with_a_reload_and_its_address_does_not() {
    let backend = Backend::named("old");
    let whole = |more: &str, address: &str| {
        listening(&format!("  - address: 127.0.0.1:0\n{more}  - address: {address}\n"))
            + "trusted_proxies: [127.0.0.0/8]\n"
            + &single(&backend)
    };
    let tidegate = Tidegate::start_whole(&whole("", "unix:a.sock"));
    assert_eq!(tidegate.client().get("/", &[]).text(), "old");
    std::fs::write(tidegate.config_path(), whole("    proxy_protocol: true\n", "unix:b.sock")).unwrap();
    eventually("a connection without a header is closed", || {
        tidegate.client().send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").try_answer(false).is_none()
    });
    let answer = tidegate.client().send("PROXY TCP4 192.0.2.7 192.0.2.1 1 2\r\n").get("/", &[]);
    assert_eq!(answer.text(), "old");
    let status = tidegate.admin("/api/v1/status").json();
    assert_eq!(status["reload"]["needs_restart"], json!(["listeners"]), "the other address is another matter");
    let socket = tidegate.dir.path().join("a.sock");
    let told = json!([
        {"url": format!("http://{}", tidegate.address), "tls": false, "proxy_protocol": true},
        {"url": format!("unix:{}", socket.display()), "tls": false, "proxy_protocol": false},
    ]);
    assert_eq!(status["listeners"], told);
    assert_eq!(client_at(&socket).get("/", &[]).text(), "old");
}

#[test]
fn the_log_names_listeners_as_their_clients_do() {
    let dir = tempfile::tempdir().unwrap();
    Authority::new("test").issue(&["localhost"]).put(dir.path(), "a");
    let tls = "tls: { certificate: a.crt, key: a.key }";
    let (plain, secret, told) = (own_address(), own_address(), own_address());
    let config = listening(&format!(
        "  - address: {plain}\n  - address: {secret}\n    {tls}\n  - address: {told}\n    proxy_protocol: true\n    \
         {tls}\n  - address: unix:traffic.sock\n    {tls}\n"
    ));
    let config = config + "trusted_proxies: [127.0.0.0/8]\n" + &single(&Backend::named("old"));
    std::fs::write(dir.path().join("tidegate.yaml"), config).unwrap();
    let mut process = Command::new(BINARY);
    process.args(["run", "-c", "tidegate.yaml"]).current_dir(dir.path()).stderr(Stdio::piped());
    let mut process = process.spawn().unwrap();
    let log = BufReader::new(process.stderr.take().unwrap()).lines().map(Result::unwrap);
    let log: Vec<String> = log.take_while(|line| !line.contains("admin on")).collect();
    process.kill().unwrap();
    process.wait().unwrap();
    let named: Vec<&str> = log.iter().filter_map(|line| line.split_once("clients on ")).map(|(_, at)| at).collect();
    let file = format!("unix:{} (TLS)", dir.path().join("traffic.sock").display());
    let urls = [format!("http://{plain}"), format!("https://{secret}"), format!("https://{told} (PROXY)"), file];
    assert_eq!(named, urls, "{log:?}");
}
