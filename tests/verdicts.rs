//! What the guard decides under traffic: who is taken away, after how many requests, and who is not.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::backend::{Request, ok};
use crate::support::process::Process;
use crate::support::proxy::split;
use crate::support::{Backend, Client, Tidegate, eventually};

const FAILED: &[u8] = b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 6\r\n\r\nfailed";

/// A backend that fails as it is told.
struct Moody {
    backend: Backend,
    /// One of so many requests fails; none at 0.
    one_in: Arc<AtomicU64>,
}

impl Moody {
    fn failing_one_in(n: u64) -> Self {
        let one_in = Arc::new(AtomicU64::new(n));
        let (told, asked) = (Arc::clone(&one_in), AtomicU64::new(0));
        let backend = Backend::answering(move |_| match told.load(SeqCst) {
            0 => ok(&[], b"fine"),
            n if asked.fetch_add(1, SeqCst) % n == n - 1 => FAILED.to_vec(),
            _ => ok(&[], b"fine"),
        });
        Self { backend, one_in }
    }

    fn fails_one_in(&self, n: u64) {
        self.one_in.store(n, SeqCst);
    }
}

fn latches(admin: &str) -> Vec<Value> {
    let address = admin.trim_start_matches("http://").parse().unwrap();
    let asked = "GET /api/v1/rollouts/default HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let status = Client::connect(address).send(asked).answer().json();
    status["rollback"]["latches"].as_array().unwrap().clone()
}

/// Users one after the other ask until `is_enough`, or so many times. Gives how often they did.
fn users_ask(client: &mut Client, most: u64, mut is_enough: impl FnMut() -> bool) -> u64 {
    for asked in 0..most {
        if asked % 16 == 0 && is_enough() {
            return asked;
        }
        client.get_as(asked * 37 % 10_000);
    }
    most
}

#[test]
fn five_percent_against_half_a_percent_is_taken_away() {
    let (old, new) = (Moody::failing_one_in(200), Moody::failing_one_in(20));
    let tidegate = Tidegate::start(&split(&old.backend, &new.backend, "50", ""));
    let asked = users_ask(&mut tidegate.client(), 20_000, || !latches(&tidegate.admin).is_empty());
    let latches = latches(&tidegate.admin);
    let reason = latches[0]["reason"].as_str().unwrap();
    assert!(reason.starts_with("new failed "), "{reason}");
    assert!(reason.contains("1 % is tolerated"), "{reason}");
    assert!(asked < 5_000, "it took {asked} requests, half of them on new: {reason}");
    assert_eq!((&latches[0]["source"], &latches[0]["by"]), (&json!("guard"), &json!("guard")));
}

#[test]
fn an_outage_on_both_sides_blames_nobody() {
    let (old, new) = (Moody::failing_one_in(3), Moody::failing_one_in(3));
    let tidegate = Tidegate::start(&split(&old.backend, &new.backend, "10", ""));
    let mut client = tidegate.client();
    users_ask(&mut client, 5_000, || false);
    assert_eq!(latches(&tidegate.admin), Vec::<Value>::new());
    old.fails_one_in(0);
    users_ask(&mut client, 20_000, || !latches(&tidegate.admin).is_empty());
    assert_eq!(latches(&tidegate.admin).len(), 1, "the guard was awake: once old is well, new is to blame");
}

#[test]
fn one_user_who_hammers_a_broken_call_rolls_nobody_back() {
    let is_broken = |request: &Request| request.header("x-user-id") == Some("4200");
    let new = Backend::answering(move |request| if is_broken(request) { FAILED.to_vec() } else { ok(&[], b"fine") });
    let tidegate = Tidegate::start(&split(&Backend::named("old"), &new, "50", ""));
    let mut client = tidegate.client();
    for asked in 0..3_000 {
        client.get_as(if asked % 2 == 0 { 4_200 } else { asked * 37 % 10_000 });
    }
    assert_eq!(
        tidegate
            .metric("tidegate_requests_total{rollout=\"default\",side=\"new\",reason=\"bucket\",code_class=\"5xx\"}"),
        1_500.0
    );
    assert_eq!(latches(&tidegate.admin), Vec::<Value>::new());
}

#[test]
fn users_whom_nothing_tells_apart_are_different_users() {
    let blue = Backend::named("blue");
    let green = Backend::saying(FAILED);
    let tidegate = Tidegate::start(&format!(
        "rollout: {{ strategy: blue_green, blue: '{}', green: '{}', active: blue }}\n",
        blue.url(),
        green.url()
    ));
    let address = tidegate.admin.trim_start_matches("http://").parse().unwrap();
    let switched = Client::connect(address).order("POST", "/api/v1/rollouts/default/switch", &json!({}));
    assert_eq!(switched.status, 200, "{}", switched.text());
    let mut client = tidegate.client();
    for _ in 0..4 {
        assert_eq!(client.get("/", &[]).status, 500);
    }
    eventually("everybody is back on blue", || client.get("/", &[]).text() == "blue");
}

#[test]
fn what_began_on_another_backend_does_not_count() {
    let is_asked = Arc::new(AtomicUsize::new(0));
    let asked = Arc::clone(&is_asked);
    // It takes requests and breaks all connections together, once twelve wait.
    let broken = Backend::scripted(move |connection| {
        connection.read_request();
        asked.fetch_add(1, SeqCst);
        eventually("everybody waits", || asked.load(SeqCst) >= 100);
    });
    let (old, mended) = (Backend::named("old"), Backend::named("new"));
    let config = |new: &Backend| split(&old, new, "100", "");
    let tidegate = Tidegate::start(&config(&broken));
    let address = tidegate.address;
    let waiting: Vec<_> =
        (0..12).map(|user| thread::spawn(move || Client::connect(address).get_as(user).status)).collect();
    eventually("all are at the broken backend", || is_asked.load(SeqCst) == 12);
    let reloads = || tidegate.metric("tidegate_config_reloads_total");
    let before = reloads();
    tidegate.edit(&config(&mended));
    eventually("new is another backend", || reloads() > before);
    is_asked.store(100, SeqCst);
    assert!(waiting.into_iter().all(|answer| answer.join().unwrap() == 502));
    assert_eq!(tidegate.client().get_as(50).text(), "new");
    assert_eq!(latches(&tidegate.admin), Vec::<Value>::new());
}

/// At 100 % nobody answers on OLD who could speak for NEW.
#[test]
fn a_process_that_stood_still_blames_nobody_for_what_ran_out_of_time_meanwhile() {
    let answers = Arc::new(AtomicUsize::new(0));
    let told = Arc::clone(&answers);
    let new = Backend::answering(move |_| {
        eventually("it may answer", || told.load(SeqCst) > 0);
        ok(&[], b"new")
    });
    let old = Backend::named("old");
    let process = Process::start(&format!(
        "workers: 2\nstate_dir: state\nbackends:\n  v1: {{ endpoints: ['{}'] }}\n  \
         v2: {{ endpoints: ['{}'], timeouts: {{ response: 2s }} }}\n\
         rollout: {{ old: v1, new: v2, key: header:x-user-id, percent: 100 }}\n",
        old.url(),
        new.url()
    ));
    let address = process.address;
    let waiting: Vec<_> =
        (0..20).map(|user| thread::spawn(move || Client::connect(address).get_as(user).status)).collect();
    eventually("all wait for new", || new.requests().len() == 20);
    process.signal("STOP");
    let stopped = Instant::now();
    eventually("longer than it takes to run out of time", || stopped.elapsed() > Duration::from_secs(5));
    process.signal("CONT");
    assert!(waiting.into_iter().all(|answer| answer.join().unwrap() == 504));
    answers.store(1, SeqCst);
    assert_eq!(process.client().get_as(1).text(), "new");
    assert_eq!(latches(&process.admin.to_string()), Vec::<Value>::new());
}

#[test]
fn what_was_counted_before_a_restart_is_no_evidence_after_it() {
    let new = Moody::failing_one_in(1);
    let old = Backend::named("old");
    let mut process =
        Process::start(&format!("workers: 1\nstate_dir: state\n{}", split(&old, &new.backend, "100", "")));
    for round in 0..5 {
        let mut client = process.client();
        (0..3).for_each(|user| assert_eq!(client.get_as(round * 10 + user).status, 500));
        process.child.kill().unwrap();
        process.wait();
        process.restart();
    }
    assert_eq!(latches(&process.admin.to_string()), Vec::<Value>::new());
    let mut client = process.client();
    eventually("but all at once they are", || client.get_as(fastrand::u32(..10_000)).text() == "old");
}

/// The whole promise at once: ten clients at some hundreds of requests a second, a tenth of the users on NEW, half of what they
/// ask for not to be sent twice; then NEW fails everything.
#[test]
fn a_new_that_breaks_is_gone_and_only_what_must_not_be_sent_twice_has_failed() {
    const CLIENTS: u64 = 10;
    let (old, new, hook) = (Moody::failing_one_in(0), Moody::failing_one_in(0), Backend::named("hook"));
    let mut config = split(&old.backend, &new.backend, "10", "  shield: {}\n");
    config.push_str(&format!("state_dir: state\nwebhooks: [{{ url: '{}/told' }}]\n", hook.url()));
    let tidegate = Tidegate::start(&config);
    let is_over = Arc::new(AtomicBool::new(false));
    let address = tidegate.address;
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let is_over = Arc::clone(&is_over);
            thread::spawn(move || ask_until(address, client, &is_over))
        })
        .collect();
    eventually("both are asked", || new.backend.requests().len() > 50 && old.backend.requests().len() > 200);
    new.fails_one_in(1);
    eventually("it is rolled back", || !latches(&tidegate.admin).is_empty());
    let asked_by_then = new.backend.requests().len();
    let on_old = old.backend.requests().len();
    eventually("they go on", || old.backend.requests().len() > on_old + 300);
    is_over.store(true, SeqCst);
    let failed: Vec<String> = clients.into_iter().flat_map(|client| client.join().unwrap()).collect();

    assert!(new.backend.requests().len() <= asked_by_then + CLIENTS as usize, "only what was on its way went to new");
    assert!(failed.iter().all(|asked| asked.starts_with("POST")), "no GET failed: {failed:?}");
    let posted = |backend: &Backend| -> HashSet<String> {
        let posts = backend.requests().into_iter().filter(|request| request.method == "POST");
        posts.map(|request| request.target).collect()
    };
    let twice: Vec<_> = posted(&new.backend).intersection(&posted(&old.backend)).cloned().collect();
    assert_eq!(twice, Vec::<String>::new(), "no POST reached both");
    let lost: HashSet<&str> = failed.iter().filter_map(|asked| asked.strip_prefix("POST ")).collect();
    assert!(lost.iter().all(|target| posted(&new.backend).contains(*target)), "what failed had reached new");

    let latch = latches(&tidegate.admin).remove(0);
    let reason = latch["reason"].as_str().unwrap();
    assert!(reason.starts_with("new failed ") && reason.contains("different users"), "{reason}");
    assert_eq!(tidegate.metric("tidegate_guard_trips_total{rollout=\"default\",cause=\"failures\"}"), 1.0);
    assert_eq!(tidegate.metric("tidegate_rollback_active{rollout=\"default\"}"), 1.0);
    assert!(tidegate.metric("tidegate_shielded_requests_total{rollout=\"default\"}") > 0.0);
    let admin = tidegate.admin.trim_start_matches("http://").parse().unwrap();
    let asked = "GET /api/v1/audit HTTP/1.1\r\nhost: localhost\r\n\r\n";
    assert!(Client::connect(admin).send(asked).answer().text().contains(reason), "the audit tells it");
    eventually("the webhook tells it", || hook.requests().iter().any(|told| is_trip(&told.body, reason)));
}

/// Asks for something else each time, every other time with a POST. Gives what failed.
fn ask_until(address: SocketAddr, client: u64, is_over: &AtomicBool) -> Vec<String> {
    let mut connection = Client::connect(address);
    let mut failed = Vec::new();
    for nth in 0.. {
        if is_over.load(SeqCst) {
            break;
        }
        let asked = format!("{} /{client}/{nth}", if nth % 2 == 0 { "GET" } else { "POST" });
        let user = (client * 1_009 + nth * 37) % 10_000;
        let request = format!("{asked} HTTP/1.1\r\nhost: service\r\nx-user-id: {user}\r\ncontent-length: 0\r\n\r\n");
        if connection.send(request).answer().status != 200 {
            failed.push(asked);
        }
    }
    failed
}

fn is_trip(body: &[u8], reason: &str) -> bool {
    let told: Value = serde_json::from_slice(body).unwrap();
    told["type"] == "tidegate.trip" && told["data"]["reason"] == reason
}

/// A 500 whose body comes later: it was a failure when its head came.
#[test]
fn a_failure_counts_when_it_is_known_and_not_when_it_ends() {
    let new = Backend::scripted(|connection| {
        connection.read_request();
        connection.write(b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 6\r\n\r\nfa");
        connection.is_closed_by_peer();
    });
    let tidegate = Tidegate::start(&split(&Backend::named("old"), &new, "100", ""));
    let mut clients = Vec::new();
    eventually("it is rolled back while all of them still wait", || {
        if clients.len() < 100 {
            let mut client = tidegate.client();
            client.send(format!("GET / HTTP/1.1\r\nhost: service\r\nx-user-id: {}\r\n\r\n", clients.len()));
            clients.push(client);
        }
        !latches(&tidegate.admin).is_empty()
    });
}

/// A process that dies of what it is asked hangs up, and looks like one that closes idle connections; but these were busy.
#[test]
fn a_new_that_hangs_up_on_busy_connections_is_taken_away() {
    let new = Backend::scripted(|connection| {
        connection.read_request();
        connection.write(&ok(&[], b"new"));
        connection.read_request(); // and dies
    });
    let tidegate = Tidegate::start(&split(&Backend::named("old"), &new, "100", ""));
    let mut client = tidegate.client();
    let asked = users_ask(&mut client, 2_000, || !latches(&tidegate.admin).is_empty());
    assert!(asked < 2_000, "half of all requests failed, and it was not found");
}

/// Who is turned away at the limit says nothing of NEW, but those who get through do, as soon as their time is over.
#[test]
fn a_new_that_hangs_behind_a_small_limit_is_taken_away_by_those_who_get_through() {
    let old = Backend::named("old");
    let new = Backend::scripted(|connection| while connection.read_request().is_some() {}); // and never answers
    let tidegate = Tidegate::start(&format!(
        "backends:\n  v1: {{ endpoints: ['{}'] }}\n  v2: {{ endpoints: ['{}'], timeouts: {{ response: 400ms }}, \
         limits: {{ max_connections: 2, max_wait: 50ms }} }}\n\
         rollout: {{ old: v1, new: v2, key: header:x-user-id, percent: 100 }}\n",
        old.url(),
        new.url()
    ));
    let (address, is_over) = (tidegate.address, Arc::new(AtomicBool::new(false)));
    let clients: Vec<_> = (0..12)
        .map(|client| {
            let is_over = Arc::clone(&is_over);
            thread::spawn(move || ask_until(address, client, &is_over))
        })
        .collect();
    eventually("new is taken away", || !latches(&tidegate.admin).is_empty());
    is_over.store(true, SeqCst);
    clients.into_iter().for_each(|client| drop(client.join().unwrap()));
    let failures = |cause: &str| {
        let labels = format!("rollout=\"default\",side=\"new\",cause=\"{cause}\"");
        tidegate.metric(&format!("tidegate_upstream_failures_total{{{labels}}}"))
    };
    let (hung, turned_away) = (failures("response_timeout"), failures("backend_limit"));
    assert!((5.0..10.0).contains(&hung), "{hung} of those who got through were enough");
    assert!(turned_away > hung, "{turned_away} were turned away");
}
