//! The real binary: signals, exit codes, streams that nobody reads, limits of the system.

use std::fs::{self, File, OpenOptions};
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;
use std::time::{Duration, Instant};

use http::Method;
use tokio::task::JoinSet;

use crate::support::backend::{Request, ok};
use crate::support::process::{Process, own_address, run_to_the_end, whole};
use crate::support::proxy::{single, split};
use crate::support::{Backend, Client, Gate, eventually, http2};

/// No delay at the end.
const SHUTDOWN: &str = "workers: 2\nshutdown: { readiness_delay: 0s, drain_timeout: 60s }\n";

fn config(old: &Backend, new: &Backend, percent: u32) -> String {
    format!("{SHUTDOWN}{}", split(old, new, &percent.to_string(), ""))
}

/// A backend that reads requests and never answers.
fn silent() -> Backend {
    Backend::scripted(|connection| while connection.read_request().is_some() {})
}

#[track_caller]
fn eventually_on_new(client: &mut Client, user: u32) {
    eventually("the new percent is in force", || client.get_as(user).header("x-backend") == Some("new"));
}

// -- what the log tells

#[test]
fn a_backend_that_fails_is_in_the_log_once_and_so_is_its_return() {
    let address = own_address();
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let config = format!(
        "{SHUTDOWN}backends: {{ only: {{ endpoints: [\"http://{address}\"] }} }}\n\
         routes: [{{ match: {{}}, backend: only }}]\n"
    );
    let tidegate = Process::start_as(&config, |command| {
        command.stdout(Stdio::null()).stderr(File::create(&log).unwrap());
    });
    let lines = |part: &str| fs::read_to_string(&log).unwrap().lines().filter(|line| line.contains(part)).count();
    let failing = "an endpoint fails requests: cannot connect: Connection refused";
    for _ in 0..5 {
        assert_eq!(tidegate.client().get("/", &[]).status, 502);
    }
    eventually("it is told", || lines(failing) == 1);
    let status: serde_json::Value = serde_json::from_str(&tidegate.done(&["status", "-o", "json"])).unwrap();
    let told = status["backends"][0]["endpoint_list"][0]["trouble"].as_str().unwrap();
    assert!(told.starts_with("cannot connect: Connection refused"), "{told}");
    assert!(tidegate.done(&["status"]).contains(&format!("{address}: {told}")), "status shows it");
    let answer = |_: &Request| ok(&[], b"back");
    let _backend = Backend::answering_at(address, answer).unwrap();
    eventually("it is told that it is back", || {
        assert_eq!(tidegate.client().get("/", &[]).text(), "back");
        lines("an endpoint answers again") == 1
    });
    assert_eq!(lines(failing), 1);
    assert!(!tidegate.done(&["status"]).contains("cannot connect"));
}

// -- signals

#[test]
fn term_and_int_drain_and_end_well() {
    for signal in ["TERM", "INT"] {
        let backend = Backend::named("only");
        let mut tidegate = Process::start(&format!("{SHUTDOWN}{}", single(&backend)));
        let mut client = tidegate.client();
        client.get("/", &[]);
        tidegate.signal(signal);
        assert_eq!(tidegate.wait().code(), Some(0), "{signal}");
        assert!(client.is_closed());
    }
}

#[test]
fn a_second_term_ends_at_once_and_well() {
    let backend = silent();
    let mut tidegate = Process::start(&format!("{SHUTDOWN}{}", single(&backend)));
    let mut client = tidegate.client();
    client.send("GET / HTTP/1.1\r\nhost: service\r\n\r\n");
    eventually("the request is running", || backend.requests().len() == 1);
    let begun = Instant::now();
    tidegate.signal("TERM");
    eventually("it drains", || TcpStream::connect(tidegate.address).is_err());
    tidegate.signal("TERM");
    assert_eq!(tidegate.wait().code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(30), "it waited for the deadline");
}

#[test]
fn hup_reloads() {
    let (old, new) = (Backend::named("old"), Backend::named("new"));
    let keys = tempfile::NamedTempFile::new().unwrap();
    fs::write(keys.path(), "1\n").unwrap();
    let rules = format!("  rules:\n    - {{ keys_file: {}, side: new }}\n", keys.path().display());
    let tidegate = Process::start(&format!("{SHUTDOWN}{}", split(&old, &new, "0", &rules)));
    let mut client = tidegate.client();
    assert_eq!(client.get_as(7).header("x-backend"), Some("old"));
    fs::write(keys.path(), "7\n").unwrap(); // not a file that is watched
    tidegate.signal("HUP");
    eventually_on_new(&mut client, 7);
}

#[test]
fn a_signal_in_the_first_moment_is_not_lost_and_not_deadly() {
    let backend = Backend::named("only");
    for _ in 0..5 {
        let mut tidegate = Process::start(&format!("{SHUTDOWN}{}", single(&backend)));
        tidegate.signal("HUP");
        tidegate.signal("TERM");
        assert_eq!(tidegate.wait().code(), Some(0));
    }
}

#[test]
fn a_storm_of_hups_changes_nothing() {
    let (old, new) = (Backend::named("old"), Backend::named("new"));
    let mut tidegate = Process::start(&config(&old, &new, 5));
    let mut client = tidegate.client();
    for _ in 0..200 {
        tidegate.signal("HUP");
    }
    assert_eq!(client.get_as(4).header("x-backend"), Some("new"));
    tidegate.edit(&config(&old, &new, 20));
    eventually_on_new(&mut client, 19);
    tidegate.signal("TERM");
    assert_eq!(tidegate.wait().code(), Some(0));
}

#[test]
fn after_a_kill_the_ports_are_free_at_once() {
    let backend = Backend::named("only");
    let mut tidegate = Process::start(&format!("{SHUTDOWN}{}", single(&backend)));
    for _ in 0..3 {
        let mut clients: Vec<Client> = (0..5).map(|_| tidegate.client()).collect();
        clients.iter_mut().for_each(|client| assert_eq!(client.get("/", &[]).status, 200));
        tidegate.signal("KILL");
        assert_eq!(tidegate.wait().code(), None);
        tidegate.restart();
    }
}

// -- what it does not start with

#[test]
fn a_wrong_config_is_told_and_nothing_is_bound() {
    let (address, admin) = (own_address(), own_address());
    let config = "rollout: { old: http://127.0.0.1:1, new: http://127.0.0.1:2, key: header:x-user-id, percent: 500 }\n";
    let ended = run_to_the_end(&whole(address, admin, config));
    assert_eq!(ended.status.code(), Some(1));
    for part in ["tidegate.yaml:3:", "rollout.percent", "500"] {
        assert!(ended.stderr.contains(part), "{part} is missing: {}", ended.stderr);
    }
    assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
}

#[test]
fn a_port_that_is_taken_is_told_with_its_address_and_its_key() {
    let backend = Backend::named("only");
    for taken_key in ["listen", "admin.address"] {
        let (free, taken) = (own_address(), own_address());
        let _taker = TcpListener::bind(taken).unwrap();
        let (address, admin) = if taken_key == "listen" { (taken, free) } else { (free, taken) };
        let ended = run_to_the_end(&whole(address, admin, &single(&backend)));
        assert_eq!(ended.status.code(), Some(1));
        for part in [taken_key, &taken.to_string(), "another process has it"] {
            assert!(ended.stderr.contains(part), "{part} is missing: {}", ended.stderr);
        }
    }
}

#[test]
fn the_listener_that_cannot_be_had_is_named_as_it_is_written() {
    let backend = Backend::named("only");
    let (free, taken) = (own_address(), own_address());
    let _taker = TcpListener::bind(taken).unwrap();
    let listeners = format!("listeners: [{{ address: \"{free}\" }}, {{ address: \"{taken}\" }}]\n");
    let ended =
        run_to_the_end(&format!("{listeners}admin: {{ address: \"{}\" }}\n{}", own_address(), single(&backend)));
    assert!(ended.stderr.contains("(config key listeners[1].address)"), "{}", ended.stderr);
}

#[test]
fn whoever_starts_it_is_told_how_to_reach_it() {
    let backend = Backend::named("only");
    let tidegate = Process::start_in_shell("exec 2>told", &format!("{SHUTDOWN}{}", single(&backend)));
    let how = format!("try `tidegate status --admin http://{}`", tidegate.admin);
    let log = tidegate.dir.path().join("told");
    eventually("it is told", || fs::read_to_string(&log).unwrap().contains(&how));
}

#[test]
fn a_state_directory_that_cannot_be_used_is_told() {
    let backend = Backend::named("only");
    let file = tempfile::NamedTempFile::new().unwrap();
    for state_dir in [file.path().to_owned(), file.path().join("below"), "/proc/tidegate".into()] {
        let config = format!("state_dir: {}\n{}", state_dir.display(), single(&backend));
        let ended = run_to_the_end(&whole(own_address(), own_address(), &config));
        assert_eq!(ended.status.code(), Some(1), "{}", state_dir.display());
        for part in ["state_dir", &state_dir.display().to_string()] {
            assert!(ended.stderr.contains(part), "{part} is missing: {}", ended.stderr);
        }
        assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
    }
}

// -- streams that nobody reads

/// Lets the process log much more than a pipe holds, then looks whether it still serves and reloads and ends.
#[track_caller]
fn goes_on(mut tidegate: Process, old: &Backend, new: &Backend, with: &str) {
    let mut client = tidegate.client();
    for n in 0..40 {
        // Each text is another one, refused with some hundred faults: each is logged at length.
        let faults: String = (0..400).map(|line| format!("unknown_key_number_{n}_{line}: 1\n")).collect();
        fs::write(tidegate.config_path(), faults).unwrap();
        tidegate.signal("HUP");
        assert_eq!(client.get_as(4).status, 200);
        std::thread::sleep(Duration::from_millis(30)); // longer than a burst of events: each is read
    }
    tidegate.edit(&format!("{with}{}", config(old, new, 20)));
    eventually_on_new(&mut client, 19);
    for _ in 0..3000 {
        assert_eq!(client.get("/a/path/that/makes/a/line/of/some/length/in/the/access/log", &[]).status, 200);
    }
    tidegate.signal("TERM");
    assert_eq!(tidegate.wait().code(), Some(0));
}

const LOGGING: &str = "access_log: stdout\n";

#[test]
fn an_access_log_that_cannot_be_opened_is_told_with_its_path() {
    let backend = Backend::named("only");
    let config = format!("access_log: /nowhere/access.log\n{}", single(&backend));
    let ended = run_to_the_end(&whole(own_address(), own_address(), &config));
    assert_eq!(ended.status.code(), Some(1));
    for part in ["access_log /nowhere/access.log", "No such file", "help: its folder has to be there"] {
        assert!(ended.stderr.contains(part), "{part} is missing: {}", ended.stderr);
    }
}

#[test]
#[cfg(target_os = "linux")]
fn an_access_log_on_a_full_disk_is_told_once_and_its_lines_are_counted() {
    let backend = Backend::named("only");
    let config = format!("access_log: /dev/full\n{SHUTDOWN}{}", single(&backend));
    let tidegate = Process::start_in_shell("exec 2>told", &config);
    let mut client = tidegate.client();
    (0..5).for_each(|_| assert_eq!(client.get("/", &[]).status, 200));
    eventually("they are counted", || {
        let mut admin = Client::connect(tidegate.admin);
        let told = admin.send("GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n").answer().text();
        told.contains("\ntidegate_access_log_dropped_total 5\n")
    });
    let told = fs::read_to_string(tidegate.dir.path().join("told")).unwrap();
    assert_eq!(told.matches("the access log cannot be written").count(), 1, "{told}");
}

#[test]
fn full_streams_do_not_stop_it() {
    let (old, new) = (Backend::named("old"), Backend::named("new"));
    let full = || OpenOptions::new().write(true).open("/dev/full").unwrap();
    let tidegate = Process::start_as(&format!("{LOGGING}{}", config(&old, &new, 5)), |command| {
        command.stdout(full()).stderr(full());
    });
    goes_on(tidegate, &old, &new, LOGGING);
}

#[test]
fn streams_whose_reader_has_gone_do_not_stop_it() {
    let (old, new) = (Backend::named("old"), Backend::named("new"));
    let mut tidegate = Process::start_as(&format!("{LOGGING}{}", config(&old, &new, 5)), |command| {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
    });
    drop((tidegate.child.stdout.take(), tidegate.child.stderr.take()));
    goes_on(tidegate, &old, &new, LOGGING);
}

#[test]
fn streams_that_nobody_reads_do_not_stop_it() {
    let (old, new) = (Backend::named("old"), Backend::named("new"));
    let mut tidegate = Process::start_as(&format!("{LOGGING}{}", config(&old, &new, 5)), |command| {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
    });
    let _held_open = (tidegate.child.stdout.take(), tidegate.child.stderr.take());
    goes_on(tidegate, &old, &new, LOGGING);
}

#[test]
fn closed_streams_do_not_stop_it() {
    let (old, new) = (Backend::named("old"), Backend::named("new"));
    let tidegate = Process::start_in_shell("exec >&- 2>&-", &format!("{LOGGING}{}", config(&old, &new, 5)));
    goes_on(tidegate, &old, &new, LOGGING);
}

// -- limits

/// What a single stream may take, with what the allocator keeps for later: a small part of its hundred megabytes.
const STREAM: u64 = 32_000_000;

#[test]
fn out_of_descriptors_it_serves_whom_it_has_and_recovers() {
    let backend = Backend::named("only");
    let tidegate = Process::start_in_shell("ulimit -n 64", &format!("{SHUTDOWN}{}", single(&backend)));
    let mut known = tidegate.client();
    assert_eq!(known.get("/", &[]).status, 200);
    let crowd: Vec<Client> = (0..100).map(|_| tidegate.client()).collect();
    for _ in 0..100 {
        assert_eq!(known.get("/", &[]).status, 200);
        std::thread::sleep(Duration::from_millis(5)); // accepting goes on failing meanwhile
    }
    drop(crowd);
    eventually("newcomers are served again", || {
        tidegate
            .client()
            .send("GET / HTTP/1.1\r\nhost: service\r\n\r\n")
            .try_answer(false)
            .is_some_and(|a| a.status == 200)
    });
    assert_eq!(known.get("/", &[]).status, 200);
}

fn remembering(old: &Backend, new: &Backend, percent: u32) -> String {
    format!("state_dir: state\n{}", config(old, new, percent))
}

#[test]
fn however_many_clients_come_the_operator_is_let_in() {
    let (old, new) = (Backend::named("old"), Backend::named("new"));
    let tidegate = Process::start_in_shell("exec 2>told; ulimit -n 100", &remembering(&old, &new, 100));
    let mut crowd: Vec<Client> = (0..200).map(|_| tidegate.client()).collect();
    assert_eq!(crowd[0].get_as(1).header("x-backend"), Some("new"));
    assert_eq!(crowd[199].answer().status, 503);
    assert!(tidegate.done(&["status"]).contains("100 %"));
    tidegate.done(&["rollback"]);
    for client in &mut crowd[..10] {
        assert_eq!(client.get_as(1).header("x-backend"), Some("old"), "there are descriptors for backends");
    }
    tidegate.edit(&format!("{}# read\n", remembering(&old, &new, 50)));
    eventually("the file is read", || tidegate.done(&["status", "-o", "json"]).contains("\"configured\": 50"));
    let told = fs::read_to_string(tidegate.dir.path().join("told")).unwrap();
    assert!(told.contains("limits.max_connections of 10000 needs 1"), "{told}");
    assert_eq!(told.matches("no descriptors for more clients").count(), 1, "{told}");
    assert!(!told.contains("cannot accept"), "{told}");
}

#[test]
fn the_limit_on_descriptors_is_raised_as_far_as_it_may_be() {
    let backend = Backend::named("only");
    let tidegate =
        Process::start_in_shell("ulimit -Sn 100; ulimit -Hn 512", &format!("{SHUTDOWN}{}", single(&backend)));
    let limits = fs::read_to_string(format!("/proc/{}/limits", tidegate.child.id())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert_eq!(line.split_whitespace().skip(3).take(2).collect::<Vec<_>>(), ["512", "512"]);
}

#[test]
fn out_of_descriptors_it_does_not_blame_the_backend() {
    let backend = Backend::named("only");
    let tidegate = Process::start_in_shell("ulimit -n 64", &format!("{SHUTDOWN}{}", single(&backend)));
    let answer = http2::run(async {
        let mut client = http2::Client::connect(tidegate.address).await;
        // Each of these takes a connection of its own for as long as it lasts, and there is only one client.
        let (mut answers, mut uploads) = (JoinSet::new(), Vec::new());
        for _ in 0..60 {
            let (answer, upload) = client.begin(http2::request(Method::POST, "/", &[]), false).await;
            answers.spawn_local(answer);
            uploads.push(upload);
        }
        let first = answers.join_next().await.unwrap().unwrap();
        http2::read(first.unwrap()).await.unwrap()
    });
    assert_eq!((answer.status.as_u16(), answer.header("retry-after")), (503, Some("1")));
    assert_eq!(answer.header("proxy-status"), Some("tidegate; error=connection_limit_reached"));
    let mut admin = Client::connect(tidegate.admin);
    let told = admin.send("GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n").answer().text();
    assert!(told.contains("tidegate_upstream_failures_total{rollout=\"\",side=\"\",cause=\"own_limit\"}"), "{told}");
    eventually("the next finds descriptors again", || tidegate.client().get("/", &[]).status == 200);
}

#[test]
fn a_stalled_upload_stays_with_its_client_and_not_in_memory() {
    let over = Gate::default();
    let until = over.clone();
    let backend = Backend::scripted(move |connection| {
        connection.read_head();
        until.pass(); // reads no further
    });
    let tidegate = Process::start(&format!("{SHUTDOWN}{}", single(&backend)));
    let before = tidegate.resident();
    let mut client = tidegate.client();
    client.stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    client.send("POST / HTTP/1.1\r\nhost: service\r\ncontent-length: 100000000\r\n\r\n");
    let piece = vec![b'x'; 1_000_000];
    let taken = (0..100).take_while(|_| std::io::Write::write_all(&mut client.stream, &piece).is_ok()).count();
    assert!(taken < 50, "{taken} MB went nowhere");
    let grown = tidegate.resident().saturating_sub(before);
    assert!(grown < STREAM, "{grown} bytes more");
    over.open();
}

#[test]
fn a_stalled_download_stays_with_its_backend_and_not_in_memory() {
    let backend = Backend::scripted(|connection| {
        connection.read_request();
        connection.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n");
        let piece = vec![b'x'; 1_000_000];
        (0..100).for_each(|_| connection.write(&piece));
    });
    let tidegate = Process::start(&format!("{SHUTDOWN}{}", single(&backend)));
    let before = tidegate.resident();
    let mut client = tidegate.client();
    client.send("GET / HTTP/1.1\r\nhost: service\r\n\r\n");
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(50)); // one second without reading
        let grown = tidegate.resident().saturating_sub(before);
        assert!(grown < STREAM, "{grown} bytes more");
    }
    assert_eq!(client.answer().body.len(), 100_000_000);
}

#[test]
fn thousands_of_reloads_leave_nothing_behind() {
    let (old, new) = (Backend::named("old"), Backend::named("new"));
    let tidegate = Process::start(&config(&old, &new, 5));
    let mut client = tidegate.client();
    let mut reload = |times: u32| {
        for n in 0..times {
            tidegate.edit(&config(&old, &new, n % 50));
            if n % 50 == 0 {
                assert_eq!(client.get_as(99).status, 200);
            }
            std::thread::sleep(Duration::from_micros(500)); // so that many of them are taken, one by one
        }
        tidegate.edit(&config(&old, &new, 60));
        eventually_on_new(&mut client, 59);
    };
    reload(1000);
    let before = tidegate.resident();
    reload(3000);
    let grown = tidegate.resident().saturating_sub(before);
    assert!(grown < 3_000_000, "{grown} bytes more");
    assert!(old.open_connections() + new.open_connections() <= 4);
}

#[test]
fn a_config_of_fifty_megabytes_is_not_read_into_memory() {
    let (old, new) = (Backend::named("old"), Backend::named("new"));
    let tidegate = Process::start(&config(&old, &new, 5));
    let before = tidegate.resident();
    let big = tidegate.dir.path().join("big");
    File::create(&big).unwrap().set_len(50_000_000).unwrap();
    fs::rename(big, tidegate.config_path()).unwrap();
    for _ in 0..10 {
        tidegate.signal("HUP");
        std::thread::sleep(Duration::from_millis(30)); // longer than a burst of events: each is read
    }
    let grown = tidegate.resident().saturating_sub(before);
    assert!(grown < 16_000_000, "{grown} bytes more");
    assert_eq!(tidegate.client().get_as(4).header("x-backend"), Some("new"));
}
