//! The whole way through a real process: one client's latency, and how long a flag in the file and an operator's order take
//! to reach the next request. `cargo bench --bench proxy`. For throughput beside other proxies see `benches/compare`.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use tidegate::app::{App, Signal};
use tokio::sync::mpsc;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n";

/// A backend that answers each read with its name: requests come one at a time.
fn backend(name: &'static [u8; 3]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                stream.set_nodelay(true).expect("nodelay");
                let answer = [ANSWER, name].concat();
                let mut buffer = [0; 4096];
                while stream.read(&mut buffer).is_ok_and(|n| n > 0) && stream.write_all(&answer).is_ok() {}
            });
        }
    });
    address
}

struct Proxy {
    address: SocketAddr,
    admin: SocketAddr,
    dir: tempfile::TempDir,
    old: SocketAddr,
    new: SocketAddr,
    signals: mpsc::Sender<Signal>,
}

impl Proxy {
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let (old, new) = (backend(b"old"), backend(b"new"));
        let (signals, incoming) = mpsc::channel(2);
        let mut proxy = Self { address: old, admin: old, dir, old, new, signals };
        proxy.write(false);
        let app = App::bind(&proxy.dir.path().join("tidegate.yaml")).expect("a config that is right");
        proxy.address = app.addresses()[0].tcp().expect("a port");
        let admin = app.admin_address();
        proxy.admin = admin.trim_start_matches("http://").parse().expect("a loopback address");
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(app.run(incoming)).expect("a run");
        });
        proxy
    }

    fn write(&self, rollback: bool) {
        let Self { old, new, .. } = self;
        let text = format!(
            "listen: 127.0.0.1:0\nadmin: {{ address: 127.0.0.1:0 }}\nworkers: 1\nstate_dir: state\nshutdown: {{ readiness_delay: 0s }}\n\
             rollout:\n  old: http://{old}\n  new: http://{new}\n  key: header:x-user-id\n  percent: 100\n  rollback: {rollback}\n"
        );
        let aside = self.dir.path().join("aside");
        std::fs::write(&aside, text).expect("a write");
        std::fs::rename(aside, self.dir.path().join("tidegate.yaml")).expect("a rename");
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _it_ends_with_the_bench = self.signals.try_send(Signal::Leave);
    }
}

struct Client(TcpStream);

impl Client {
    fn new(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("a connection");
        stream.set_nodelay(true).expect("nodelay");
        Self(stream)
    }

    /// One request; tells which side answered.
    fn ask(&mut self) -> [u8; 3] {
        self.0.write_all(b"GET / HTTP/1.1\r\nhost: bench\r\nx-user-id: 7\r\n\r\n").expect("a write");
        let mut buffer = [0; 4096];
        let n = self.0.read(&mut buffer).expect("an answer");
        buffer[n - 3..n].try_into().expect("three bytes")
    }
}

fn latency(c: &mut Criterion) {
    let proxy = Proxy::start();
    let mut group = c.benchmark_group("latency");
    let mut through = Client::new(proxy.address);
    group.bench_function("one kept-alive client through tidegate", |b| b.iter(|| through.ask()));
    let mut straight = Client::new(proxy.new);
    group.bench_function("the same client straight to the backend", |b| b.iter(|| straight.ask()));
    group.finish();
}

fn rollback(c: &mut Criterion) {
    let proxy = Proxy::start();
    let mut client = Client::new(proxy.address);
    let mut flip = |to: &[u8; 3]| {
        let start = Instant::now();
        proxy.write(to == b"old");
        while client.ask() != *to {}
        start.elapsed()
    };
    let mut group = c.benchmark_group("rollback");
    group.sample_size(20).measurement_time(Duration::from_secs(8));
    group.bench_function("flag in the file to the first request on old", |b| {
        b.iter_custom(|n| {
            (0..n)
                .map(|_| {
                    let taken = flip(b"old");
                    flip(b"new");
                    taken
                })
                .sum()
        });
    });
    group.finish();
}

/// Orders alternate between 0 and 100 %. The clock starts before the first byte of the order is sent and stops with the
/// first answer from the other side; the order's own answer, which waits for the disk, is read after that.
fn order(c: &mut Criterion) {
    let proxy = Proxy::start();
    let mut client = Client::new(proxy.address);
    let mut operator = Client::new(proxy.admin);
    let mut flip = |to: &[u8; 3], percent: u8| {
        let body = format!("{{\"percent\":{percent}}}");
        let order = format!(
            "PUT /api/v1/rollouts/default/percent HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        let start = Instant::now();
        operator.0.write_all(order.as_bytes()).expect("an order");
        while client.ask() != *to {}
        let taken = start.elapsed();
        let mut answer = [0; 16384];
        let n = operator.0.read(&mut answer).expect("an answer");
        assert!(answer[..n].starts_with(b"HTTP/1.1 200"), "{}", answer[..n].escape_ascii());
        taken
    };
    let mut group = c.benchmark_group("order");
    group.sample_size(20).measurement_time(Duration::from_secs(8));
    group.bench_function("an operator's order to the first request on the other side", |b| {
        b.iter_custom(|n| (0..n).map(|_| flip(b"old", 0) + flip(b"new", 100)).sum::<Duration>() / 2);
    });
    group.finish();
}

criterion_group!(benches, latency, rollback, order);
criterion_main!(benches);
