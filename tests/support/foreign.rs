//! Clients, servers and suites that are not ours: Python's in `target/suites`, and programs of the system. What is missing
//! fails the story, with the command that mends it.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::PATIENCE;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const HOW_TO_INSTALL: &str = "run tests/suites/install, which brings it";

/// `tests/suites/SCRIPT` with these arguments, by the Python that has the packages of `tests/suites/requirements.txt`.
#[track_caller]
pub fn python(script: &str, arguments: &[&str]) -> Command {
    let mut command = packaged("python");
    command.arg(Path::new(ROOT).join("tests/suites").join(script)).args(arguments);
    command
}

/// A command that one of those packages brought: `sslyze`, `kosoku`, `httpx`.
#[track_caller]
pub fn packaged(name: &str) -> Command {
    let path = Path::new(ROOT).join("target/suites/bin").join(name);
    assert!(path.exists(), "{} is missing: {HOW_TO_INSTALL}", path.display());
    let mut command = Command::new(path);
    command.env("PYTHONDONTWRITEBYTECODE", "1").env("PYTHONUNBUFFERED", "1");
    command
}

/// A command of the system: `curl`, `nghttp`, `h2load`.
#[track_caller]
pub fn system(name: &str) -> Command {
    let found: Option<PathBuf> = std::env::var_os("PATH")
        .and_then(|path| std::env::split_paths(&path).map(|dir| dir.join(name)).find(|path| path.exists()));
    Command::new(found.unwrap_or_else(|| panic!("{name} is missing: {HOW_TO_INSTALL}")))
}

/// How a command ended that was run to its end.
#[derive(Debug)]
pub struct Ended {
    pub succeeded: bool,
    pub stdout: String,
    pub stderr: String,
}

/// Runs a command to its end, which has to come within `limit`.
#[track_caller]
pub fn run(mut command: Command, limit: Duration) -> Ended {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let stdout = collect(child.stdout.take().unwrap());
    let stderr = collect(child.stderr.take().unwrap());
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break Some(status);
        }
        if begun.elapsed() > limit {
            child.kill().unwrap();
            child.wait().unwrap();
            break None;
        }
        thread::sleep(Duration::from_millis(5));
    };
    let (stdout, stderr) = (stdout.join().unwrap(), stderr.join().unwrap());
    let status = status.unwrap_or_else(|| panic!("{command:?} did not end within {limit:?}:\n{stdout}\n{stderr}"));
    Ended { succeeded: status.success(), stdout, stderr }
}

/// Runs a command that has to end well within `limit`, and gives what it said.
#[track_caller]
pub fn done(command: Command, limit: Duration) -> String {
    let shown = format!("{command:?}");
    let ended = run(command, limit);
    assert!(ended.succeeded, "{shown} failed:\n{}\n{}", ended.stdout, ended.stderr);
    ended.stdout
}

fn collect(mut from: impl Read + Send + 'static) -> JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _it_may_be_killed = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// A server that is not ours. It is killed when it is dropped, and should end by itself when its stdin does.
pub struct Server {
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
    /// It ends when this does, even if whoever started it is killed.
    stdin: ChildStdin,
    /// What it says, line by line.
    said: Receiver<String>,
}

impl Server {
    /// Starts `tests/suites/SCRIPT`, which listens on a port of its own choice and says it in its first line.
    #[track_caller]
    pub fn start(script: &str, arguments: &[&str]) -> Self {
        let mut command = python(script, arguments);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let stdin = child.stdin.take().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (told, said) = channel();
        thread::spawn(move || {
            // Read to the end: nobody has to wait for a reader in order to say something.
            for line in stdout.lines().map_while(Result::ok) {
                let _nobody_may_want_it = told.send(line);
            }
        });
        let port = match said.recv_timeout(PATIENCE) {
            Ok(line) => line.parse().unwrap_or_else(|_| panic!("{script} says {line}, which is no port")),
            Err(RecvTimeoutError::Timeout) => panic!("{script} does not say its port"),
            Err(RecvTimeoutError::Disconnected) => panic!("{script} ended without a word (see above)"),
        };
        Self { child, address: SocketAddr::from(([127, 0, 0, 1], port)), stdin, said }
    }

    /// Tells it something, a line, and gives the line that it answers with.
    #[track_caller]
    pub fn ask(&mut self, order: &str) -> String {
        writeln!(self.stdin, "{order}").unwrap();
        self.said.recv_timeout(PATIENCE).unwrap_or_else(|error| panic!("no answer to {order}: {error}"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _it_may_have_ended = self.child.kill();
        let _it_may_have_ended = self.child.wait();
    }
}
