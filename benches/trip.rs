#![expect(clippy::print_stdout, reason = "the figures are what it is for")]
//! How long a NEW that fails goes on being asked, in the real binary: from the response that settled it (the last failure that
//! the guard's verdict counts) to the last request that reached NEW. `cargo bench --bench trip [-- ROUNDS]`.
//!
//! 1 000 requests a second from 20 clients, half of the users on NEW. NEW answers well for a while, then everything with 500.
//! Both times are taken in one process: NEW's, as it writes a response and as it reads a request.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// 20 clients, each every 20 ms.
const CLIENTS: u64 = 20;
const EVERY: Duration = Duration::from_millis(20);
const HEALTHY_FOR: Duration = Duration::from_millis(500);
const QUIET_FOR: Duration = Duration::from_millis(300);

/// What NEW saw since it was told to fail.
#[derive(Default)]
struct Failing {
    is_on: AtomicBool,
    asked_at: Mutex<Vec<Instant>>,
    answered_at: Mutex<Vec<Instant>>,
}

fn main() {
    let rounds = std::env::args().filter_map(|arg| arg.parse().ok()).next().unwrap_or(5);
    if std::env::args().any(|arg| arg == "--test") {
        return; // `cargo test --benches` only wants to know that it builds
    }
    let failing = Arc::new(Failing::default());
    let (old, new) = (backend(None), backend(Some(Arc::clone(&failing))));
    let proxy = Proxy::start(old, new);
    let is_over = Arc::new(AtomicBool::new(false));
    let asked = Arc::new(AtomicU64::new(0));
    let start = |client| {
        let (address, is_over, asked) = (proxy.address, Arc::clone(&is_over), Arc::clone(&asked));
        std::thread::spawn(move || ask(client, address, &is_over, &asked))
    };
    let clients: Vec<_> = (0..CLIENTS).map(start).collect();
    let began = Instant::now();
    let mut taken: Vec<(Duration, usize, usize)> = (0..rounds).map(|_| round(&proxy, &failing)).collect();
    let pace = rate(asked.load(SeqCst), began.elapsed());
    is_over.store(true, SeqCst);
    clients.into_iter().for_each(|client| client.join().expect("a client that was answered"));
    taken.sort();
    let at = |share: usize| taken[(taken.len() - 1) * share / 100].0;
    println!("{rounds} rounds at {pace:.0} requests/s, half of them on new:");
    println!(
        "  from the deciding response to the last request on new: median {:?}, p95 {:?}, most {:?}",
        at(50),
        at(95),
        at(100)
    );
    let failures: Vec<usize> = taken.iter().map(|(_, failures, _)| *failures).collect();
    let after: usize = taken.iter().map(|(_, _, after)| *after).sum();
    println!(
        "  failures that it took: {failures:?}; requests on new after the deciding response: {after} in all rounds"
    );
}

#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
fn rate(count: u64, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}

/// NEW is well, then fails until it is asked no more. Gives how long that took after the response that settled it, how many
/// failures it took, and how many requests came after that.
fn round(proxy: &Proxy, failing: &Failing) -> (Duration, usize, usize) {
    std::thread::sleep(HEALTHY_FOR);
    failing.asked_at.lock().expect("no panic").clear();
    failing.answered_at.lock().expect("no panic").clear();
    failing.is_on.store(true, SeqCst);
    let reason = proxy.wait_for_the_trip();
    std::thread::sleep(QUIET_FOR);
    failing.is_on.store(false, SeqCst);
    let counted: usize = reason.split(' ').find_map(|word| word.parse().ok()).expect("the verdict tells how many");
    let mut answered = failing.answered_at.lock().expect("no panic").clone();
    let asked = failing.asked_at.lock().expect("no panic").clone();
    answered.sort();
    let decided = answered[counted - 1];
    let after: Vec<Duration> = asked.iter().filter_map(|asked| asked.checked_duration_since(decided)).collect();
    proxy.admin("POST /api/v1/rollouts/default/resume", "{\"reason\":\"another round\"}");
    (after.iter().max().copied().unwrap_or_default(), counted, after.len())
}

/// A backend; the one that is told to may fail.
fn backend(failing: Option<Arc<Failing>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let failing = failing.clone();
            std::thread::spawn(move || serve(stream, failing.as_deref()));
        }
    });
    address
}

fn serve(mut stream: TcpStream, failing: Option<&Failing>) {
    stream.set_nodelay(true).expect("nodelay");
    let mut buffer = [0; 4096];
    while stream.read(&mut buffer).is_ok_and(|n| n > 0) {
        let fails = failing.filter(|failing| failing.is_on.load(SeqCst));
        if let Some(failing) = fails {
            failing.asked_at.lock().expect("no panic").push(Instant::now());
        }
        let status = if fails.is_some() { "500 Internal Server Error" } else { "200 OK" };
        if let Some(failing) = fails {
            failing.answered_at.lock().expect("no panic").push(Instant::now());
        }
        if write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").is_err() {
            return;
        }
    }
}

fn ask(client: u64, address: SocketAddr, is_over: &AtomicBool, asked: &AtomicU64) {
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.set_nodelay(true).expect("nodelay");
    let mut next = Instant::now() + EVERY * u32::try_from(client).expect("a few") / 20;
    let mut buffer = [0; 4096];
    let mut users = fastrand::Rng::with_seed(client);
    while !is_over.load(SeqCst) {
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        next += EVERY;
        let user = users.u16(..10_000);
        write!(stream, "GET / HTTP/1.1\r\nhost: bench\r\nx-user-id: {user}\r\n\r\n").expect("a write");
        assert!(stream.read(&mut buffer).expect("an answer") > 0, "the connection was closed");
        asked.fetch_add(1, SeqCst);
    }
}

/// The real binary, in front of the two backends.
struct Proxy {
    child: Child,
    address: SocketAddr,
    admin: SocketAddr,
    _dir: tempfile::TempDir,
}

impl Proxy {
    fn start(old: SocketAddr, new: SocketAddr) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let free = || TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
        let (address, admin) = (free(), free());
        let config = format!(
            "listen: {address}\nadmin: {{ address: \"{admin}\" }}\nworkers: 1\nstate_dir: state\n\
             rollout: {{ old: \"http://{old}\", new: \"http://{new}\", key: \"header:x-user-id\", percent: 50 }}\n"
        );
        std::fs::write(dir.path().join("tidegate.yaml"), config).expect("a write");
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.args(["run", "-c", "tidegate.yaml"]).current_dir(dir.path()).stdin(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("a process");
        while TcpStream::connect(address).is_err() {
            std::thread::sleep(Duration::from_millis(10));
        }
        Self { child, address, admin, _dir: dir }
    }

    /// The reason of the rollback, once there is one.
    fn wait_for_the_trip(&self) -> String {
        let began = Instant::now();
        loop {
            assert!(began.elapsed() < Duration::from_secs(30), "it was not rolled back");
            let status: serde_json::Value =
                serde_json::from_str(&self.admin("GET /api/v1/rollouts/default", "")).expect("JSON");
            if let Some(reason) = status["rollback"]["latches"][0]["reason"].as_str() {
                return reason.to_owned();
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The body of the answer.
    fn admin(&self, asked: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(self.admin).expect("a connection");
        let length = body.len();
        write!(
            stream,
            "{asked} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {length}\r\n\r\n{body}"
        )
        .expect("a write");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _it_may_have_ended = self.child.kill();
        let _it_may_have_ended = self.child.wait();
    }
}
