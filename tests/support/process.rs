//! tidegate as a process of its own: the real binary, its signals, its streams and its end.

use std::fs;
use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::time::Instant;

use tempfile::TempDir;

use super::{Client, PATIENCE, eventually};

pub const BINARY: &str = env!("CARGO_BIN_EXE_tidegate");

/// A process that runs the binary. It is killed when it is dropped.
pub struct Process {
    pub child: Child,
    pub address: SocketAddr,
    pub admin: SocketAddr,
    pub dir: TempDir,
}

/// An address that is only ours: the loopback network is wide enough for every test process to have its own, so that
/// nobody takes a port between two starts.
pub fn own_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(10_000);
    let [_, a, b, c] = (std::process::id() % 0xff_fffe + 2).to_be_bytes();
    SocketAddr::from(([127, a, b, c], NEXT.fetch_add(1, Relaxed)))
}

/// How a process that was expected to end ended.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub stderr: String,
}

impl Process {
    /// Starts the binary with `config` (without `listen` and `admin`) and waits until it takes connections.
    #[track_caller]
    pub fn start(config: &str) -> Self {
        Self::start_as(config, quiet)
    }

    /// The same, with a command that was prepared further.
    #[track_caller]
    pub fn start_as(config: &str, prepare: impl FnOnce(&mut Command)) -> Self {
        let mut command = Command::new(BINARY);
        command.args(["run", "-c", "tidegate.yaml"]);
        Self::start_command(command, config, prepare)
    }

    /// Starts after the shell commands `before`.
    #[track_caller]
    pub fn start_in_shell(before: &str, config: &str) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{before}; exec {BINARY} run -c tidegate.yaml")]);
        Self::start_command(command, config, quiet)
    }

    fn start_command(mut command: Command, config: &str, prepare: impl FnOnce(&mut Command)) -> Self {
        let (address, admin) = (own_address(), own_address());
        let dir = tempfile::tempdir().unwrap();
        let process_config = whole(address, admin, config);
        fs::write(dir.path().join("tidegate.yaml"), process_config).unwrap();
        command.current_dir(dir.path()).stdin(Stdio::null());
        prepare(&mut command);
        let child = command.spawn().unwrap();
        let mut process = Self { child, address, admin, dir };
        process.eventually_up();
        process
    }

    /// Starts the binary again with the same config.
    #[track_caller]
    pub fn restart(&mut self) {
        self.child = Command::new(BINARY)
            .args(["run", "-c", "tidegate.yaml"])
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.eventually_up();
    }

    #[track_caller]
    fn eventually_up(&mut self) {
        eventually("the process takes connections", || {
            assert_eq!(self.child.try_wait().unwrap(), None, "it ended instead");
            TcpStream::connect(self.address).is_ok() && TcpStream::connect(self.admin).is_ok()
        });
    }

    pub fn config_path(&self) -> PathBuf {
        self.dir.path().join("tidegate.yaml")
    }

    /// Puts another config in place, in one step.
    pub fn edit(&self, config: &str) {
        let aside = self.dir.path().join("aside");
        fs::write(&aside, whole(self.address, self.admin, config)).unwrap();
        fs::rename(aside, self.config_path()).unwrap();
    }

    pub fn client(&self) -> Client {
        Client::connect(self.address)
    }

    /// Runs a verb against it, and gives how it exits and what it says.
    pub fn run(&self, words: &[&str]) -> (i32, String, String) {
        let Output { status, stdout, stderr } = Command::new(BINARY)
            .args(words)
            .env("TIDEGATE_ADMIN", format!("http://{}", self.admin))
            .env_remove("TIDEGATE_ADMIN_TOKEN")
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (status.code().unwrap(), text(stdout), text(stderr))
    }

    /// Runs what has to work, and gives what it says.
    #[track_caller]
    pub fn done(&self, words: &[&str]) -> String {
        let (code, stdout, stderr) = self.run(words);
        assert_eq!((code, stderr.as_str()), (0, ""), "{words:?} says {stdout}");
        stdout
    }

    /// Sends a signal by its name.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        wait(&mut self.child)
    }

    /// Bytes of memory that it holds now.
    pub fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        1024 * line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _it_may_have_ended = self.child.kill();
        let _it_may_have_ended = self.child.wait();
    }
}

/// Nobody reads what it says.
fn quiet(command: &mut Command) {
    command.stdout(Stdio::null()).stderr(Stdio::null());
}

/// `config` with its addresses.
pub fn whole(address: SocketAddr, admin: SocketAddr, config: &str) -> String {
    format!("listen: {address}\nadmin: {{ address: \"{admin}\" }}\n{config}")
}

/// Runs the binary with exactly `config`, expecting it to end by itself.
#[track_caller]
pub fn run_to_the_end(config: &str) -> Ended {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("tidegate.yaml"), config).unwrap();
    let mut child = Command::new(BINARY)
        .args(["run", "-c", "tidegate.yaml"])
        .current_dir(dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let status = wait(&mut child);
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    Ended { status, stderr }
}

#[track_caller]
fn wait(child: &mut Child) -> ExitStatus {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if begun.elapsed() > PATIENCE {
            let _it_may_have_ended = child.kill();
            panic!("the process does not end");
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}
