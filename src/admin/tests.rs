//! The admin side through its own door: real sockets, real HTTP.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::server::{Patience, serve_with};
use super::{Listener, bind};
use crate::config::{self, AdminAddress};
use crate::control::overview::{Overview, Reload};
use crate::metrics::{Class, Failure, Registry, Why};
use crate::policy::decision::{Reason, Side};
use crate::proxy::worker::Ending;
use crate::snapshot::{Latch, LatchSource, Snapshot};

const CONFIG: &str = r#"{
    "listen": "127.0.0.1:8080",
    "backends": {
        "ledger-v2": {"endpoints": ["http://127.0.0.1:9001", "http://127.0.0.1:9003"]},
        "ledger-v3": {"endpoints": ["http://127.0.0.1:9002"]}
    },
    "rollouts": {"ledger": {"old": "ledger-v2", "new": "ledger-v3", "percent": 25, "key": "header:x-user-id"}}
}"#;

/// An admin side under test, with a hand on what stands behind it.
struct Admin {
    address: String,
    overview: Arc<Overview>,
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

    fn start_at(address: &AdminAddress, patience: Patience) -> Self {
        Self::start_as(address, patience, &[])
    }

    fn start_as(address: &AdminAddress, patience: Patience, latches: &[Latch]) -> Self {
        let listener: Listener = bind(address).unwrap();
        let registry = Arc::new(Registry::new(1));
        let (leaving, leaving_seen) = watch::channel(false);
        let (ending, ending_seen) = watch::channel(Ending::Running);
        let snapshot = Arc::new(ArcSwap::from_pointee(snapshot(&registry, latches)));
        let path = PathBuf::from("/etc/tidegate.json");
        let state_dir = Some(PathBuf::from("/var/lib/tidegate"));
        let overview = Arc::new(Overview::new(snapshot, registry, ending_seen, leaving_seen, path, state_dir));
        let (shutdown, asked) = oneshot::channel();
        let address = listener.address();
        let asked = async {
            let _ = asked.await;
        };
        let served = tokio::spawn(serve_with(listener, Arc::clone(&overview), asked, patience));
        Self { address, overview, leaving, ending, shutdown, served }
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
fn any_port() -> AdminAddress {
    AdminAddress::Tcp("127.0.0.1:0".parse().unwrap())
}

fn snapshot(registry: &Registry, latches: &[Latch]) -> Snapshot {
    let config = config::parse(CONFIG.as_bytes(), Path::new("tidegate.json"), &|_| None).unwrap();
    Snapshot::build(&config, 7, SystemTime::UNIX_EPOCH + Duration::from_secs(86_400), registry, |_| latches.to_vec())
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
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
    let latch = |source| Latch { source, at };
    let admin = Admin::start_latched(&[latch(LatchSource::ConfigRollout), latch(LatchSource::FlagFile)]);
    let rollout = admin.get("/api/v1/rollouts/ledger").await.json();
    assert_eq!(rollout["percent"]["effective"], 0.0);
    assert_eq!(rollout["rollback"]["active"], true);
    assert_eq!(
        rollout["rollback"]["latches"][1],
        json!({
            "id": "ledger-flag-file",
            "source": "flag_file",
            "at": "1970-01-01T00:00:01Z",
            "by": "flag_file",
            "reason": "the file ROLLBACK in state_dir",
            "undo": "rm /var/lib/tidegate/ROLLBACK",
        })
    );
    let undo = rollout["rollback"]["latches"][0]["undo"].as_str().unwrap();
    assert_eq!(undo, "set `rollback: false` for rollout ledger in /etc/tidegate.json");
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
    let admin = Admin::start_at(&AdminAddress::Unix(path.clone()), Patience::default());
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
    for _ in 0..80 {
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
