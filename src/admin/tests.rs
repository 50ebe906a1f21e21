//! The admin side through its own door: real sockets, real HTTP.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::server::{Patience, serve_with};
use crate::config::{self, Config, ListenAddress, Secret, Token};
use crate::control::controller::Event;
use crate::control::files::Nudge;
use crate::control::journal::audit::{Draft, Who};
use crate::control::journal::{Durability, Journal};
use crate::control::memory::Memory;
use crate::control::order::{Desk, Done, Order, Refused, Scope};
use crate::control::overview::{Overview, Reload, Sources};
use crate::listen::{self, Access};
use crate::metrics::{Class, Failure, Registry, Seat, Why};
use crate::policy::actor::{Actor, Source};
use crate::policy::bucket::Percent;
use crate::policy::decision::{Reason, Side};
use crate::policy::latch::{Door, Latch};
use crate::policy::rollout::{Command, Refusal, State};
use crate::proxy::worker::Ending;
use crate::snapshot::{Overlay, Snapshot};

const CONFIG: &str = r#"{
    "listen": "127.0.0.1:8080",
    "backends": {
        "ledger-v2": {"endpoints": ["http://127.0.0.1:9001", "http://127.0.0.1:9003"]},
        "ledger-v3": {"endpoints": ["http://127.0.0.1:9002"]}
    },
    "routes": [{"name": "pay", "match": {"path": "/pay"}, "rollout": "ledger"}, {"match": {}, "backend": "ledger-v2"}],
    "rollouts": {"ledger": {"old": "ledger-v2", "new": "ledger-v3", "percent": 25, "key": "header:x-user-id"}}
}"#;

/// An admin side under test, with a hand on what stands behind it.
struct Admin {
    address: String,
    overview: Arc<Overview>,
    /// What reaches the controller.
    events: mpsc::Receiver<Event>,
    /// What reaches the reader of files.
    nudges: mpsc::Receiver<Nudge>,
    leaving: watch::Sender<bool>,
    ending: watch::Sender<Ending>,
    shutdown: oneshot::Sender<()>,
    served: JoinHandle<std::io::Result<()>>,
}

impl Admin {
    fn start() -> Self {
        Self::start_latched(&[])
    }

    fn start_latched(latches: &[Latch]) -> Self {
        Self::start_as(&any_port(), Patience::default(), latches)
    }

    fn start_at(address: &ListenAddress, patience: Patience) -> Self {
        Self::start_as(address, patience, &[])
    }

    fn start_as(address: &ListenAddress, patience: Patience, latches: &[Latch]) -> Self {
        Self::start_over(address, patience, latches, &config())
    }

    fn start_with_tokens(address: &ListenAddress) -> Self {
        let mut config = config();
        let token = |name: &str, secret| Token { name: name.into(), secret: Secret::new(secret) };
        config.admin.tokens = vec![token("alice", "alice-0123456789abcdef"), token("ci", "ci-0123456789abcdef")];
        Self::start_over(address, Patience::default(), &[], &config)
    }

    fn start_over(address: &ListenAddress, patience: Patience, latches: &[Latch], config: &Config) -> Self {
        let listener = listen::bind(address, Access::Owner).unwrap();
        let registry = Arc::new(Registry::new(1));
        let (leaving, leaving_seen) = watch::channel(false);
        let (ending, ending_seen) = watch::channel(Ending::Running);
        let (orders, events) = mpsc::channel(8);
        let (asked, nudges) = mpsc::channel(8);
        let overview = Arc::new(Overview::new(Sources {
            snapshot: Arc::new(ArcSwap::from_pointee(snapshot(config, &registry, latches))),
            registry,
            journal: Journal::in_memory(),
            desk: Desk::new(orders, asked),
            lost: None,
            ending: ending_seen,
            leaving: leaving_seen,
            addresses: config.listeners.iter().map(|listener| listener.address.clone()).collect(),
            config_path: PathBuf::from("/etc/tidegate.json"),
            state_dir: Some(PathBuf::from("/var/lib/tidegate")),
        }));
        let (shutdown, asked) = oneshot::channel();
        let address = listener.address.url();
        let asked = async {
            let _ = asked.await;
        };
        let served = tokio::spawn(serve_with(listener, Arc::clone(&overview), asked, patience));
        Self { address, overview, events, nudges, leaving, ending, shutdown, served }
    }

    /// Sends a change with a JSON body.
    async fn send(&self, method: &str, path: &str, body: &str) -> Answer {
        self.send_with(method, path, "Content-Type: application/json\r\n", body).await
    }

    async fn send_with(&self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        self.ask(&change(method, path, headers, body)).await
    }

    /// Sends a change, and answers it in the controller's place. Gives the order, too.
    async fn obeyed(&mut self, method: &str, path: &str, body: &str) -> (Order, Answer) {
        let request = change(method, path, "Content-Type: application/json\r\n", body);
        let asked = ask(self.connect().await, &request);
        let done = Done { entries: Vec::new(), durability: Durability::Durable };
        let (order, answer) = tokio::join!(obey(&mut self.events, Ok(done)), asked);
        (order, answer)
    }

    async fn refused(&mut self, refused: Refused) -> Answer {
        let request = change("POST", "/api/v1/rollouts/ledger/rollback", "", "");
        let asked = ask(self.connect().await, &request);
        tokio::join!(obey(&mut self.events, Err(refused)), asked).1
    }

    /// Puts a change into the journal and announces it, as the controller does.
    fn happens(&self, what: &str) {
        let who = Who { kind: "operator".into(), name: "alice".into() };
        let (scope, what) = ("ledger".to_owned(), what.to_owned());
        let (before, after, reason) = Default::default();
        let draft = Draft { at: SystemTime::now(), who, scope, what, before, after, reason, forced: false };
        let commit = self.overview.journal.commit(Memory::of(&Overlay::default()), vec![draft]);
        for entry in &commit.entries {
            let _nobody_may_listen = self.overview.changes.send(Arc::clone(entry));
        }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address.strip_prefix("http://").unwrap()).await.unwrap()
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")).await
    }

    async fn ask(&self, request: &str) -> Answer {
        ask(self.connect().await, request).await
    }
}

/// A loopback port that the system chooses.
fn any_port() -> ListenAddress {
    ListenAddress::Tcp("127.0.0.1:0".parse().unwrap())
}

fn config() -> Config {
    config::parse(CONFIG.as_bytes(), Path::new("tidegate.json"), &|_| None).unwrap()
}

fn snapshot(config: &Config, registry: &Registry, latches: &[Latch]) -> Snapshot {
    let state = State { version: 3, latches: latches.to_vec(), ..State::default() };
    let overlay = Overlay { rollouts: [("ledger".to_owned(), state)].into(), ..Overlay::default() };
    Snapshot::build(config, 7, SystemTime::UNIX_EPOCH + Duration::from_secs(86_400), registry, &overlay)
}

fn change(method: &str, path: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

/// Takes an order in the controller's place, and answers it.
async fn obey(events: &mut mpsc::Receiver<Event>, done: Result<Done, Refused>) -> Order {
    let event = timeout(Duration::from_secs(5), events.recv()).await.expect("an order comes").unwrap();
    let Event::Asked(order, answer) = event else { panic!("{event:?}") };
    answer.send(done).unwrap();
    *order
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {}", self.body))
    }
}

async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> Answer {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    timeout(Duration::from_secs(5), stream.read_to_string(&mut text)).await.unwrap().unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
}

#[tokio::test]
async fn a_running_process_is_alive_and_ready() {
    let admin = Admin::start();
    let live = admin.get("/livez").await;
    assert_eq!((live.status, live.body.as_str()), (200, "ok\n"));
    assert_eq!(admin.get("/readyz").await.status, 200);
    assert_eq!(admin.get("/version").await.json()["version"], env!("CARGO_PKG_VERSION"));
}

#[tokio::test]
async fn a_process_that_is_about_to_drain_is_alive_but_not_ready() {
    let admin = Admin::start();
    admin.leaving.send(true).unwrap();
    let ready = admin.get("/readyz").await;
    assert_eq!(ready.status, 503);
    assert!(ready.head.contains("content-type: application/problem+json"), "{}", ready.head);
    assert!(ready.json()["detail"].as_str().unwrap().starts_with("About to drain"), "{}", ready.body);
    admin.ending.send(Ending::Draining).unwrap();
    let status = admin.get("/api/v1/status").await.json();
    assert_eq!((&status["ready"], &status["phase"]), (&json!(false), &json!("draining")));
    assert_eq!(admin.get("/livez").await.status, 200);
}

#[tokio::test]
async fn status_shows_the_layers_side_by_side() {
    let admin = Admin::start();
    admin.overview.take_reading();
    let meters = admin.overview.registry.rollout("ledger");
    for side in [Side::Old, Side::Old, Side::Old, Side::New] {
        let shard = meters.side(side).shard(0);
        shard.begin();
        shard.end(Why::Decided(Reason::Bucket), Class::Success, Duration::from_millis(10));
    }
    meters.side(Side::Old).shard(0).begin();
    meters.seat(Seat::of(Side::Old, false), 0).sit();
    let rollout = admin.get("/api/v1/rollouts/ledger").await.json();
    assert_eq!(rollout["name"], "ledger");
    assert_eq!(rollout["percent"]["configured"], 25.0);
    assert_eq!(rollout["percent"]["override"], Value::Null);
    assert_eq!(rollout["percent"]["effective"], 25.0);
    assert_eq!(rollout["percent"]["observed"]["new"], 25.0);
    assert_eq!(rollout["percent"]["observed"]["requests"], 4);
    assert_eq!(rollout["rollback"], json!({"active": false, "latches": []}));
    let old = &rollout["sides"]["old"];
    assert_eq!((&old["backend"], &old["endpoints"], &old["healthy"]), (&json!("ledger-v2"), &json!(2), &json!(2)));
    assert_eq!((&old["inflight"], &old["requests"]), (&json!(1), &json!(3)));
    let p99 = old["latency_ms"]["p99"].as_f64().unwrap();
    assert!((10.0..11.0).contains(&p99), "{p99}");
    assert_eq!(admin.get("/api/v1/status").await.json()["rollouts"][0]["name"], "ledger");
}

#[tokio::test]
async fn a_rollback_tells_its_doors_and_how_to_undo_each() {
    let latches = [latch(1, Door::ConfigRollout), latch(2, Door::FlagFile), latch(3, Door::Operator)];
    let mut config = config();
    config.rollouts.get_mut("ledger").unwrap().rollback = Some(true);
    let admin = Admin::start_over(&any_port(), Patience::default(), &latches, &config);
    let rollout = admin.get("/api/v1/rollouts/ledger").await.json();
    assert_eq!(rollout["percent"]["effective"], 0.0);
    assert_eq!(rollout["rollback"]["active"], true);
    assert_eq!(
        rollout["rollback"]["latches"][1],
        json!({
            "id": "ledger-2",
            "source": "flag_file",
            "at": "1970-01-01T00:00:01Z",
            "by": "somebody",
            "reason": "INC-7",
            "undo": "rm /var/lib/tidegate/ROLLBACK",
        })
    );
    let undo = rollout["rollback"]["latches"][0]["undo"].as_str().unwrap();
    assert_eq!(undo, "set `rollback: false` for rollout ledger in /etc/tidegate.json");
    let undo = rollout["rollback"]["latches"][2]["undo"].as_str().unwrap();
    assert_eq!(undo, "tidegate resume ledger --reason TEXT");
}

#[tokio::test]
async fn a_line_that_has_vanished_from_the_config_is_not_where_its_rollback_is_lifted() {
    let admin = Admin::start_latched(&[latch(1, Door::ConfigRollout), latch(2, Door::Config)]);
    let rollout = admin.get("/api/v1/rollouts/ledger").await.json();
    for latch in rollout["rollback"]["latches"].as_array().unwrap() {
        assert_eq!(latch["undo"], "tidegate resume ledger --reason TEXT");
    }
}

fn latch(number: u64, door: Door) -> Latch {
    let (by, at) = (Actor::new(Source::FlagFile, "somebody"), SystemTime::UNIX_EPOCH + Duration::from_secs(1));
    Latch { id: format!("ledger-{number}"), door, at, by, reason: "INC-7".into() }
}

#[tokio::test]
async fn status_tells_a_refused_config_in_full() {
    let admin = Admin::start();
    admin.overview.reload.store(Arc::new(Reload {
        attempts: 2,
        successful: false,
        succeeded_at: SystemTime::UNIX_EPOCH,
        error: Some("error: percent is above 100\n --> tidegate.yaml:7:12".into()),
        needs_restart: vec!["workers"],
    }));
    let status = admin.get("/api/v1/status").await.json();
    assert_eq!(status["config"]["revision"], 7);
    assert_eq!(status["config"]["loaded_at"], "1970-01-02T00:00:00Z");
    assert_eq!(
        status["reload"],
        json!({
            "attempts": 2,
            "successful": false,
            "succeeded_at": "1970-01-01T00:00:00Z",
            "error": "error: percent is above 100\n --> tidegate.yaml:7:12",
            "needs_restart": ["workers"],
        })
    );
}

#[tokio::test]
async fn what_is_not_there_is_a_problem_in_words() {
    let admin = Admin::start();
    let unknown = admin.get("/api/v1/rollouts/legder").await;
    assert_eq!(unknown.status, 404);
    assert!(unknown.head.contains("content-type: application/problem+json"), "{}", unknown.head);
    assert_eq!(
        unknown.json(),
        json!({
            "title": "Not Found",
            "status": 404,
            "detail": "There is no rollout `legder`. Did you mean `ledger`?",
            "known": ["ledger"],
        })
    );
    let nowhere = admin.get("/api/v2/status").await;
    assert_eq!((nowhere.status, &nowhere.json()["title"]), (404, &json!("Not Found")));
    let posted = admin.ask("POST /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
    assert_eq!((posted.status, &posted.json()["status"]), (405, &json!(405)));
    assert!(posted.head.contains("allow: get,head"), "{}", posted.head);
}

#[tokio::test]
async fn metrics_are_read_as_prometheus_expects() {
    let admin = Admin::start();
    admin.overview.registry.rollout("ledger").side(Side::New).shard(0).fail(Failure::Reset);
    let metrics = admin.get("/metrics").await;
    assert_eq!(metrics.status, 200);
    assert!(metrics.head.contains("content-type: text/plain; version=0.0.4"), "{}", metrics.head);
    for line in [
        "tidegate_rollout_percent{rollout=\"ledger\",kind=\"effective\"} 25",
        "tidegate_upstream_failures_total{rollout=\"ledger\",side=\"new\",cause=\"reset\"} 1",
        "tidegate_config_last_reload_successful 1",
    ] {
        assert!(metrics.body.lines().any(|told| told == line), "{line} in\n{}", metrics.body);
    }
}

#[tokio::test]
async fn no_request_makes_a_series() {
    let admin = Admin::start();
    let series = async || admin.get("/metrics").await.body.lines().filter(|line| line.contains("tidegate_")).count();
    let before = series().await;
    for path in ["/x", "/api/v1/rollouts/x", "/api/v1/rollouts/%22%0a"] {
        assert_eq!(admin.get(path).await.status, 404, "{path}");
    }
    assert_eq!(series().await, before);
}

#[tokio::test]
async fn a_rebound_name_is_turned_away() {
    let admin = Admin::start();
    for request in [
        "GET /metrics HTTP/1.1\r\nHost: evil.example:9901\r\nConnection: close\r\n\r\n",
        "GET /metrics HTTP/1.1\r\nHost: localhost\r\nOrigin: https://evil.example\r\nConnection: close\r\n\r\n",
        "GET /nowhere HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
    ] {
        let refused = admin.ask(request).await;
        assert_eq!((refused.status, &refused.json()["status"]), (403, &json!(403)), "{request}");
    }
    assert_eq!(admin.ask("GET /livez HTTP/1.0\r\n\r\n").await.status, 200);
}

#[tokio::test]
async fn a_unix_socket_answers_and_is_gone_afterwards() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    let admin = Admin::start_at(&ListenAddress::Unix(path.clone()), Patience::default());
    let stream = UnixStream::connect(&path).await.unwrap();
    let request = "GET /livez HTTP/1.1\r\nHost: whatever\r\nConnection: close\r\n\r\n";
    assert_eq!(ask(stream, request).await.status, 200);
    admin.shutdown.send(()).unwrap();
    admin.served.await.unwrap().unwrap();
    assert!(!path.exists());
}

fn in_a_hurry() -> Patience {
    let short = Duration::from_millis(100);
    Patience { head: short, connection: Duration::from_secs(60), farewell: short }
}

/// Waits for the other side to hang up.
async fn hung_up(mut stream: TcpStream) {
    let mut rest = Vec::new();
    // A reset is a way of hanging up, too.
    let _ = timeout(Duration::from_secs(5), stream.read_to_end(&mut rest)).await.expect("the connection ends");
}

#[tokio::test]
async fn dawdlers_are_shown_out() {
    let admin = Admin::start_at(&any_port(), in_a_hurry());
    hung_up(admin.connect().await).await;
    let mut slow = admin.connect().await;
    slow.write_all(b"GET /livez HT").await.unwrap();
    hung_up(slow).await;
    let mut idle = admin.connect().await;
    idle.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    hung_up(idle).await;
}

#[tokio::test]
async fn no_connection_lasts_for_ever() {
    let patience = Patience { connection: Duration::from_millis(100), ..Patience::default() };
    let admin = Admin::start_at(&any_port(), patience);
    hung_up(admin.connect().await).await;
}

#[tokio::test]
async fn a_full_house_makes_others_wait_not_fail() {
    let admin = Admin::start_at(&any_port(), in_a_hurry());
    let mut crowd = Vec::new();
    for _ in 0..300 {
        crowd.push(admin.connect().await);
    }
    assert_eq!(admin.get("/livez").await.status, 200);
}

#[tokio::test]
async fn the_end_does_not_wait_for_clients_that_stay() {
    let admin = Admin::start_at(&any_port(), Patience::default());
    let mut kept = admin.connect().await;
    kept.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut some = [0; 16];
    kept.read_exact(&mut some).await.unwrap();
    admin.shutdown.send(()).unwrap();
    timeout(Duration::from_secs(5), admin.served).await.unwrap().unwrap().unwrap();
}

// -- changes

#[tokio::test]
async fn each_verb_becomes_the_order_that_it_names() {
    let mut admin = Admin::start();
    let ledger = || Scope::Rollout("ledger".into());
    let quarter = Percent::from_hundredths(2500).unwrap();
    for (method, path, body, scope, command) in [
        (
            "PUT",
            "rollouts/ledger/percent",
            r#"{"percent": 25}"#,
            ledger(),
            Command::Set { percent: quarter, force: false },
        ),
        ("DELETE", "rollouts/ledger/percent", "", ledger(), Command::Unset),
        ("POST", "rollouts/ledger/rollback", "", ledger(), Command::Rollback),
        ("POST", "rollouts/ledger/resume", r#"{"percent": 25}"#, ledger(), Command::Resume { percent: Some(quarter) }),
        (
            "POST",
            "rollouts/ledger/promote",
            r#"{"full": true}"#,
            ledger(),
            Command::Promote { full: true, force: false },
        ),
        ("POST", "rollouts/ledger/pause", "", ledger(), Command::Pause),
        ("POST", "rollouts/ledger/continue", "", ledger(), Command::Continue),
        ("POST", "rollouts/ledger/maintenance", r#"{"on": false}"#, ledger(), Command::Maintenance(None)),
        ("POST", "rollouts/ledger/hold", r#"{"on": false}"#, ledger(), Command::Hold(None)),
        (
            "POST",
            "rollouts/ledger/drain",
            r#"{"side": "new"}"#,
            ledger(),
            Command::Drain { side: Some(Side::New), cut_in: None },
        ),
        ("POST", "routes/pay/hold", r#"{"on": false}"#, Scope::Route("pay".into()), Command::Hold(None)),
        ("POST", "routes/pay/maintenance", r#"{"on": false}"#, Scope::Route("pay".into()), Command::Maintenance(None)),
        ("POST", "rollback", "", Scope::Everything, Command::Rollback),
        ("POST", "resume", "", Scope::Everything, Command::Resume { percent: None }),
        ("POST", "maintenance", r#"{"on": false}"#, Scope::Everything, Command::Maintenance(None)),
        ("POST", "hold", r#"{"on": false}"#, Scope::Everything, Command::Hold(None)),
    ] {
        let (order, answer) = admin.obeyed(method, &format!("/api/v1/{path}"), body).await;
        assert_eq!((order.scope, order.command), (scope, command), "{path}");
        assert_eq!(order.by, Actor::new(Source::Operator, "loopback"));
        let told = answer.json();
        assert_eq!((answer.status, &told["changes"], &told["durable"]), (200, &json!([]), &json!(true)), "{path}");
        assert_eq!(told.get("rollout").is_some(), path.starts_with("rollouts"), "{path}");
    }
}

#[tokio::test]
async fn a_change_answers_with_the_rollout_and_its_tag() {
    let mut admin = Admin::start();
    let tag = admin.get("/api/v1/rollouts/ledger").await.json()["etag"].as_str().unwrap().to_owned();
    let (order, answer) = admin.obeyed("POST", "/api/v1/rollouts/ledger/rollback", r#"{"reason": "INC-7"}"#).await;
    assert_eq!((order.reason.as_str(), order.if_match), ("INC-7", None));
    assert!(answer.head.contains(&format!("etag: {tag}")), "{tag} in {}", answer.head);
    assert_eq!(answer.json()["rollout"]["etag"], json!(tag));
    assert!(tag.starts_with("\"3-"), "{tag}");
}

#[tokio::test]
async fn what_is_wrong_with_a_change_is_told_and_nothing_is_ordered() {
    let mut admin = Admin::start();
    let json = "Content-Type: application/json\r\n";
    let large = format!(r#"{{"reason": "{}"}}"#, "x".repeat(70_000));
    let long = format!(r#"{{"percent": 1, "reason": "{}"}}"#, "x".repeat(1001));
    for (method, path, headers, body, status, says) in [
        ("PUT", "rollouts/ledger/percent", json, r#"{"percent": 101}"#, 422, "0 to 100"),
        ("PUT", "rollouts/ledger/percent", json, r#"{"percent": 1.234}"#, 422, "two decimals"),
        ("PUT", "rollouts/ledger/percent", json, "{}", 422, "`percent` is missing"),
        ("PUT", "rollouts/ledger/percent", json, r#"{"percnt": 1}"#, 422, "Did you mean `percent`?"),
        ("PUT", "rollouts/ledger/percent", json, r#"{"percent": 1, "reason": "a\u0007"}"#, 422, "control characters"),
        ("PUT", "rollouts/ledger/percent", json, &long, 422, "1000 characters"),
        ("PUT", "rollouts/ledger/percent", json, "percent=1", 400, "not JSON"),
        ("PUT", "rollouts/ledger/percent", "", r#"{"percent": 1}"#, 415, "application/json"),
        (
            "PUT",
            "rollouts/ledger/percent",
            "Content-Type: text/plain\r\n",
            r#"{"percent": 1}"#,
            415,
            "application/json",
        ),
        ("PUT", "rollouts/ledger/percent", json, &large, 413, "64 KiB"),
        ("PUT", "rollouts/legder/percent", json, r#"{"percent": 1}"#, 404, "Did you mean `ledger`?"),
        ("POST", "routes/pya/hold", json, "{}", 404, "Did you mean `pay`?"),
        ("POST", "rollouts/ledger/rolback", json, "{}", 404, "Did you mean `rollback`?"),
        ("POST", "relaod", json, "{}", 404, "Did you mean `/api/v1/reload`?"),
        ("PATCH", "rollouts/ledger/percent", json, "{}", 405, "allow"),
        ("POST", "rollback", "If-Match: *\r\n", "", 400, "If-Match"),
    ] {
        let answer = admin.send_with(method, &format!("/api/v1/{path}"), headers, body).await;
        assert_eq!(answer.status, status, "{method} {path} {}: {}", &body[..body.len().min(80)], answer.body);
        assert!(answer.head.contains("application/problem+json"), "{}", answer.head);
        assert!(answer.json()["detail"].as_str().unwrap().contains(says), "{says} in {}", answer.body);
    }
    let wrong = admin.send("PATCH", "/api/v1/rollouts/ledger/percent", "{}").await;
    assert!(wrong.head.contains("allow: put,delete"), "{}", wrong.head);
    assert!(admin.events.try_recv().is_err(), "nothing is ordered");
}

#[tokio::test]
async fn a_refusal_names_what_stands_in_the_way_and_what_lifts_it() {
    let mut admin = Admin::start();
    let latched = Refusal::RolledBack(Box::new(latch(4, Door::Operator)));
    let answer = admin.refused(Refused::Contradicts { rollout: "ledger".into(), refusal: latched }).await;
    let told = answer.json();
    assert_eq!((answer.status, &told["latch"]), (409, &json!("ledger-4")));
    assert_eq!(told["undo"], "tidegate resume ledger --reason TEXT");
    let drained = Refusal::Drained(Side::Old);
    let answer = admin.refused(Refused::Contradicts { rollout: "ledger".into(), refusal: drained }).await;
    assert_eq!((answer.status, &answer.json()["undo"]), (409, &json!("tidegate drain ledger off")));
    let answer = admin.refused(Refused::Stale { current: "\"4-1c0ffee0\"".into() }).await;
    assert_eq!((answer.status, &answer.json()["current"]), (412, &json!("\"4-1c0ffee0\"")));
    assert!(answer.head.contains("etag: \"4-1c0ffee0\""), "{}", answer.head);
    assert_eq!(admin.refused(Refused::Ending).await.status, 503);
}

#[tokio::test]
async fn a_change_needs_a_token_if_there_are_tokens() {
    let mut admin = Admin::start_with_tokens(&any_port());
    let none = admin.send("POST", "/api/v1/rollback", "").await;
    assert_eq!(none.status, 401);
    assert!(none.head.contains("www-authenticate: bearer"), "{}", none.head);
    assert_eq!(admin.get("/api/v1/status").await.status, 200);
    let wrong = "Authorization: Bearer nobody-0123456789abcdef\r\n";
    assert_eq!(admin.send_with("POST", "/api/v1/rollback", wrong, "").await.status, 401);
    assert_eq!(admin.send_with("GET", "/livez", wrong, "").await.status, 401);
    assert!(admin.events.try_recv().is_err(), "nothing is ordered");
    let request = change("POST", "/api/v1/rollback", "Authorization: Bearer ci-0123456789abcdef\r\n", "");
    let done = Done { entries: Vec::new(), durability: Durability::NoStateDir };
    let asked = ask(admin.connect().await, &request);
    let (order, answer) = tokio::join!(obey(&mut admin.events, Ok(done)), asked);
    assert_eq!(order.by.name, "ci");
    assert_eq!(answer.json()["durable"], false);
    assert!(answer.json()["warning"].as_str().unwrap().contains("no state_dir"), "{}", answer.body);
}

#[tokio::test]
async fn who_comes_by_the_unix_socket_is_known_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    let mut admin = Admin::start_with_tokens(&ListenAddress::Unix(path.clone()));
    let request = change("POST", "/api/v1/rollback", "", "");
    let asked = ask(UnixStream::connect(&path).await.unwrap(), &request);
    let done = Done { entries: Vec::new(), durability: Durability::Durable };
    let (order, answer) = tokio::join!(obey(&mut admin.events, Ok(done)), asked);
    assert_eq!(answer.status, 200);
    let id = std::process::Command::new("id").arg("-un").output().unwrap();
    assert_eq!(order.by.name, String::from_utf8(id.stdout).unwrap().trim());
}

#[tokio::test]
async fn a_reload_says_what_became_of_it() {
    let mut admin = Admin::start();
    for (outcome, status, says) in [
        (Ok("1c0ffee01c0ffee0".to_owned()), 200, "1c0ffee01c0ffee0"),
        (Err("error: percent is above 100".to_owned()), 422, "percent is above 100"),
    ] {
        let request = change("POST", "/api/v1/reload", "", "");
        let asked = ask(admin.connect().await, &request);
        let read = async {
            let Some(Nudge::Reload(Some(answer))) = admin.nudges.recv().await else { panic!("no reload") };
            answer.send(outcome).unwrap();
        };
        let ((), answer) = tokio::join!(read, asked);
        assert_eq!(answer.status, status);
        assert!(answer.body.contains(says), "{}", answer.body);
    }
}

// -- what there is to see

#[tokio::test]
async fn the_config_is_shown_as_it_is_written() {
    let text =
        CONFIG.replace("127.0.0.1:8080", "${LISTEN:-127.0.0.1:8080}").replace("header:x-user-id", "header:${KEY}");
    let environment = |name: &str| (name == "KEY").then(|| "x-secret".to_owned());
    let config = config::parse(text.as_bytes(), Path::new("tidegate.json"), &environment).unwrap();
    let admin = Admin::start_over(&any_port(), Patience::default(), &[], &config);
    let told = admin.get("/api/v1/config").await;
    assert_eq!(told.json()["path"], "/etc/tidegate.json");
    assert_eq!(told.json()["config"]["listen"], "${LISTEN:-127.0.0.1:8080}");
    assert_eq!(told.json()["config"]["rollouts"]["ledger"]["key"], "header:${KEY}");
    assert!(!told.body.contains("x-secret"), "{}", told.body);
}

#[tokio::test]
async fn the_audit_log_is_read_page_by_page() {
    let admin = Admin::start();
    (0..150).for_each(|_| admin.happens("set"));
    let seqs = |answer: &Answer| {
        let entries = answer.json()["entries"].as_array().unwrap().clone();
        (entries.first().map(|first| first["seq"].clone()), entries.len(), answer.json()["next"].clone())
    };
    for (query, first, count, next) in [
        ("", Some(json!(51)), 100, json!(150)),
        ("?limit=2", Some(json!(149)), 2, json!(150)),
        ("?after=10&limit=5", Some(json!(11)), 5, json!(15)),
        ("?after=150", None, 0, json!(150)),
    ] {
        let page = admin.get(&format!("/api/v1/audit{query}")).await;
        assert_eq!(seqs(&page), (first, count, next), "{query}");
    }
    assert_eq!(admin.get("/api/v1/audit?limit=1001").await.status, 422);
}

#[tokio::test]
async fn the_openapi_document_is_served() {
    let document = Admin::start().get("/api/v1/openapi.json").await;
    assert_eq!(document.json()["openapi"], "3.1.0");
}

// -- events

/// Somebody who listens to events.
struct Ear {
    stream: TcpStream,
    heard: String,
}

impl Ear {
    async fn open(admin: &Admin, headers: &str) -> Self {
        let mut stream = admin.connect().await;
        let request = format!("GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        Self { stream, heard: String::new() }
    }

    async fn hears(&mut self, text: &str) {
        let listening = async {
            while !self.heard.contains(text) {
                let mut piece = [0; 4096];
                let read = self.stream.read(&mut piece).await.unwrap();
                assert!(read > 0, "it ended after {}", self.heard);
                self.heard.push_str(&String::from_utf8_lossy(&piece[..read]));
            }
        };
        let heard = timeout(Duration::from_secs(5), listening).await;
        assert!(heard.is_ok(), "no {text:?} in {}", self.heard);
    }
}

#[tokio::test]
async fn who_listens_hears_changes_and_a_status() {
    let admin = Admin::start();
    let mut ear = Ear::open(&admin, "").await;
    ear.hears("content-type: text/event-stream").await;
    ear.hears("event: status\ndata: {\"version\":").await;
    admin.happens("rollback");
    ear.hears("event: change\nid: 1\ndata: {\"seq\":1,").await;
    ear.hears("\"what\":\"rollback\"").await;
}

#[tokio::test]
async fn who_comes_back_hears_what_it_has_missed_once() {
    let admin = Admin::start();
    (0..5).for_each(|_| admin.happens("set"));
    let mut ear = Ear::open(&admin, "Last-Event-ID: 3\r\n").await;
    ear.hears("id: 5\n").await;
    admin.happens("set");
    ear.hears("id: 6\n").await;
    assert!(!ear.heard.contains("id: 3\n"), "{}", ear.heard);
    for seen in ["id: 4\n", "id: 5\n", "id: 6\n"] {
        assert_eq!(ear.heard.matches(seen).count(), 1, "{seen} in {}", ear.heard);
    }
    let mut ahead = Ear::open(&admin, "Last-Event-ID: 999\r\n").await;
    ahead.hears("event: status").await;
    admin.happens("set");
    ahead.hears("id: 7\n").await;
}

#[tokio::test]
async fn listeners_are_counted_and_outlast_the_others() {
    let patience = Patience { connection: Duration::from_millis(100), ..Patience::default() };
    let admin = Admin::start_at(&any_port(), patience);
    let mut ears = Vec::new();
    for _ in 0..128 {
        let mut ear = Ear::open(&admin, "").await;
        ear.hears("text/event-stream").await;
        ears.push(ear);
    }
    let one_more = admin.get("/api/v1/events").await;
    assert_eq!(one_more.status, 503);
    assert!(one_more.head.contains("retry-after: "), "{}", one_more.head);
    ears.truncate(64);
    for ear in &mut ears {
        ear.hears("event: status").await;
    }
    let free = async {
        loop {
            let mut stream = admin.connect().await;
            stream.write_all(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
            let mut head = [0; 12];
            stream.read_exact(&mut head).await.unwrap();
            if &head == b"HTTP/1.1 200" {
                return;
            }
        }
    };
    timeout(Duration::from_secs(5), free).await.expect("places become free");
}

#[tokio::test]
async fn who_does_not_read_is_cut_off() {
    let admin = Admin::start();
    let mut deaf = Ear::open(&admin, "").await;
    deaf.hears("text/event-stream").await;
    let long = "x".repeat(8000);
    let cut = async {
        loop {
            for _ in 0..100 {
                admin.happens(&long);
                tokio::task::yield_now().await;
            }
            let listening = admin.overview.changes.receiver_count();
            assert_eq!(listening, 1, "only the task that tells");
            tokio::time::sleep(Duration::from_millis(1)).await; // it is told as fast as the sockets take it
            if is_closed(&deaf.stream) {
                return;
            }
        }
    };
    timeout(Duration::from_secs(10), cut).await.expect("it is cut off");
    assert_eq!(admin.get("/livez").await.status, 200);
}

/// Whether the other side has hung up, without reading what it sent.
fn is_closed(stream: &TcpStream) -> bool {
    let socket = socket2::SockRef::from(stream);
    socket.take_error().is_ok_and(|error| error.is_some()) || socket.send(b"x").is_err()
}

#[tokio::test]
async fn the_end_does_not_wait_for_those_who_listen() {
    let admin = Admin::start();
    let mut ear = Ear::open(&admin, "").await;
    ear.hears("text/event-stream").await;
    admin.shutdown.send(()).unwrap();
    timeout(Duration::from_secs(1), admin.served).await.expect("at once").unwrap().unwrap();
}

#[tokio::test]
async fn a_body_that_does_not_come_gives_its_place_back() {
    let admin = Admin::start_at(&any_port(), Patience::default());
    let mut slow = admin.connect().await;
    let head =
        "POST /api/v1/rollback HTTP/1.1\r\nHost: localhost\r\ncontent-type: application/json\r\ncontent-length: 20";
    slow.write_all(format!("{head}\r\n\r\n{{").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    timeout(Duration::from_secs(10), slow.read_to_end(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 408 "), "{}", answer.escape_ascii());
}
