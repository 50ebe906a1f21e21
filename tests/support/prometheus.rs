//! A real Prometheus, which scrapes a toy.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use tempfile::TempDir;

use super::backend::ok;
use super::process::own_address;
use super::{Backend, Client, eventually};

/// What is scraped: samples that a story sets.
pub struct Samples {
    backend: Backend,
    now: Arc<Mutex<BTreeMap<String, f64>>>,
}

impl Samples {
    pub fn none() -> Self {
        let now: Arc<Mutex<BTreeMap<String, f64>>> = Arc::default();
        let shown = Arc::clone(&now);
        let backend = Backend::answering(move |_| {
            let mut text = String::new();
            for (name, value) in shown.lock().unwrap().iter() {
                writeln!(text, "{name} {value}").unwrap();
            }
            ok(&[("content-type", "text/plain; version=0.0.4")], text.as_bytes())
        });
        Self { backend, now }
    }

    pub fn set(&self, name: &str, value: f64) {
        self.now.lock().unwrap().insert(name.to_owned(), value);
    }
}

/// A Prometheus with a folder and an address of its own. It is killed when it is dropped.
pub struct Prometheus {
    child: Child,
    pub address: SocketAddr,
    dir: TempDir,
}

impl Prometheus {
    /// Starts the binary, which scrapes `samples` five times a second, and waits until it answers.
    #[track_caller]
    pub fn scraping(samples: &Samples) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = format!(
            "global: {{ scrape_interval: 200ms, scrape_timeout: 200ms }}\n\
             scrape_configs: [{{ job_name: toy, static_configs: [{{ targets: [\"{}\"] }}] }}]\n",
            samples.backend.address
        );
        fs::write(dir.path().join("prometheus.yml"), config).unwrap();
        let address = own_address();
        let mut this = Self { child: start(&dir, address), address, dir };
        this.eventually_ready();
        this
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Ends it at once; what it has stored stays.
    pub fn stop(&mut self) {
        let _it_may_have_ended = self.child.kill();
        let _it_may_have_ended = self.child.wait();
    }

    /// Starts it again where it was.
    #[track_caller]
    pub fn start(&mut self) {
        self.child = start(&self.dir, self.address);
        self.eventually_ready();
    }

    /// How many queries it has answered since it was started.
    pub fn answered(&self) -> u64 {
        let metrics = self.get("/metrics").unwrap_or_default();
        let series = "prometheus_http_requests_total{code=\"200\",handler=\"/api/v1/query\"} ";
        let line = metrics.lines().find_map(|line| line.strip_prefix(series));
        line.map_or(0, |number| number.parse::<f64>().unwrap() as u64)
    }

    fn get(&self, path: &str) -> Option<String> {
        let stream = TcpStream::connect(self.address).ok()?;
        let asked = format!("GET {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", self.address);
        let answer = Client::over(stream).send(asked).answer();
        (answer.status == 200).then(|| answer.text())
    }

    #[track_caller]
    fn eventually_ready(&mut self) {
        eventually("Prometheus is ready", || {
            assert_eq!(self.child.try_wait().unwrap(), None, "it ended instead");
            self.get("/-/ready").is_some()
        });
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        self.stop();
    }
}

fn start(dir: &TempDir, address: SocketAddr) -> Child {
    let started = Command::new("prometheus")
        .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data", "--log.level=error"])
        .arg(format!("--web.listen-address={address}"))
        .current_dir(dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    started.unwrap_or_else(|error| panic!("prometheus (Debian: apt-get install prometheus): {error}"))
}
