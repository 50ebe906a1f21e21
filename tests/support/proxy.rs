//! tidegate in this process, through the door that `main` uses.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread::JoinHandle;

use tempfile::TempDir;
use tidegate::app::{App, Signal, StartError};
use tidegate::config::ListenAddress;
use tokio::sync::mpsc;

use super::{Answer, Backend, Client};

/// A running tidegate with a config file of its own. It drains and ends when it is dropped.
pub struct Tidegate {
    /// Its first port.
    pub address: SocketAddr,
    /// All that it listens on.
    pub addresses: Vec<ListenAddress>,
    /// `http://127.0.0.1:PORT`
    pub admin: String,
    pub dir: TempDir,
    signals: mpsc::Sender<Signal>,
    thread: Option<JoinHandle<Result<(), StartError>>>,
}

/// The first lines of every story's config: ports that the system chooses, and an end without delay.
pub const PREAMBLE: &str = "listen: 127.0.0.1:0\nadmin: { address: 127.0.0.1:0 }\nworkers: 2\n\
     shutdown: { readiness_delay: 0s, drain_timeout: 2s }\n";

/// A config that splits between two backends by `x-user-id`, with more lines for the rollout (indented by two).
pub fn split(old: &Backend, new: &Backend, percent: &str, more: &str) -> String {
    format!(
        "rollout:\n  old: {}\n  new: {}\n  key: header:x-user-id\n  percent: {percent}\n{more}",
        old.url(),
        new.url()
    )
}

impl Tidegate {
    /// Starts with [`PREAMBLE`] and `config`.
    #[track_caller]
    pub fn start(config: &str) -> Self {
        Self::start_whole(&format!("{PREAMBLE}{config}"))
    }

    /// Starts with a split between `old` and `new` by `x-user-id`.
    #[track_caller]
    pub fn splitting(old: &Backend, new: &Backend, percent: u32) -> Self {
        Self::start(&split(old, new, &percent.to_string(), ""))
    }

    /// Starts in front of one backend.
    #[track_caller]
    pub fn before(backend: &Backend) -> Self {
        Self::start(&single(backend))
    }

    /// Starts with exactly `config`.
    #[track_caller]
    pub fn start_whole(config: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tidegate.yaml");
        std::fs::write(&path, config).unwrap();
        Self::start_at(dir, path).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Starts with the config at `path`, in `dir` or below.
    pub fn start_at(dir: TempDir, path: PathBuf) -> Result<Self, StartError> {
        let app = App::bind(&path)?;
        let addresses = app.addresses();
        let address = addresses.iter().find_map(ListenAddress::tcp).unwrap_or_else(super::dead_address);
        let admin = app.admin_address();
        let (signals, incoming) = mpsc::channel(8);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(app.run(incoming))
        });
        Ok(Self { address, addresses, admin, dir, signals, thread: Some(thread) })
    }

    pub fn config_path(&self) -> PathBuf {
        self.dir.path().join("tidegate.yaml")
    }

    /// Puts another config in place as editors do: written aside, renamed over.
    pub fn edit(&self, config: &str) {
        let aside = self.dir.path().join(".tidegate.yaml.new");
        std::fs::write(&aside, format!("{PREAMBLE}{config}")).unwrap();
        std::fs::rename(aside, self.config_path()).unwrap();
    }

    pub fn client(&self) -> Client {
        Client::connect(self.address)
    }

    /// Sends bytes over a new connection and reads the first answer.
    #[track_caller]
    pub fn tell(&self, bytes: impl AsRef<[u8]>) -> Answer {
        self.client().send(bytes).answer()
    }

    /// GETs a path of the admin side.
    pub fn admin(&self, path: &str) -> Answer {
        let address = self.admin.strip_prefix("http://").unwrap().parse().unwrap();
        Client::connect(address)
            .send(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"))
            .answer()
    }

    /// A sample of `/metrics`, by its exact name and labels; 0 if it is not there.
    pub fn metric(&self, series: &str) -> f64 {
        let text = self.admin("/metrics").text();
        let line = text.lines().find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')));
        line.map_or(0.0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
    }

    pub fn signal(&self, signal: Signal) {
        self.signals.blocking_send(signal).unwrap();
    }

    /// The same in a story that awaits.
    pub async fn signal_from_here(&self, signal: Signal) {
        self.signals.send(signal).await.unwrap();
    }

    /// Waits for the process to end after it was asked to.
    pub fn wait(&mut self) {
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap().unwrap();
        }
    }
}

impl Drop for Tidegate {
    fn drop(&mut self) {
        // Twice: what a story leaves running is not waited for.
        let _it_may_have_ended = self.signals.try_send(Signal::Leave);
        let _it_may_have_ended = self.signals.try_send(Signal::Leave);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(std::thread::panicking() || ended.is_ok_and(|result| result.is_ok()), "tidegate ended badly");
        }
    }
}

/// A config that sends everything to one backend.
pub fn single(backend: &Backend) -> String {
    format!(
        "backends:\n  only: {{ endpoints: [\"{}\"] }}\nroutes:\n  - match: {{}}\n    backend: only\n",
        backend.url()
    )
}
