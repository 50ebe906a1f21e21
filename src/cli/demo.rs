//! `tidegate demo`: two toy backends, the proxy, users and the admin API in one process, for whoever wants to see it move.

use std::convert::Infallible;
use std::io::{self, IsTerminal as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::server::conn::http1 as server;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::time::{MissedTickBehavior, interval};

use super::DemoArgs;
use super::run::listen_to_signals;
use crate::admin::status::{GuardVerdict, RolloutStatus};
use crate::app::App;
use crate::cli::admin_client::{AdminUrl, Client, named};
use crate::control::controller::Memories;
use crate::control::journal::OpenError;
use crate::telemetry;

/// The file's name, and how its first line begins: what does not begin like this is not ours to replace.
const FILE: &str = "tidegate-demo.yaml";
const SIGNATURE: &str = "# Written by `tidegate demo`";
/// What happened is remembered in here, also for the next demo in the same folder.
const STATE: &str = "tidegate-demo-state";
/// Between two users' requests.
const PACE: Duration = Duration::from_millis(10);
/// Between two looks at the split.
const LOOK: Duration = Duration::from_millis(500);
/// What stands behind the line while everybody is on OLD.
const ROLLED_BACK: &str = "  BACK ON OLD";
/// Where a toy backend is told to fail, and to be well again.
const BREAK: &str = "/break";
const MEND: &str = "/mend";
/// Cells of the bar.
const BAR: usize = 20;

/// Runs until Ctrl-C.
///
/// # Errors
/// When the config file cannot be written or the proxy cannot start.
pub(super) fn run(args: &DemoArgs) -> anyhow::Result<ExitCode> {
    let _written_at_the_end = telemetry::start("error");
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let signals = listen_to_signals()?;
        let folder = folder(args)?;
        make_sure_it_is_the_only_one(&folder)?;
        let old = toy_backend("old")?;
        let new = toy_backend("new")?;
        let toy = format!("http://{new}");
        let path = write_config(args, &folder, old, new)?;
        let app = App::bind(&path)?;
        let proxy = app.addresses()[0].tcp().context("the demo listens on a port")?;
        let admin: AdminUrl = app.admin_address().parse()?;
        let typed = Typed::reaching(&admin);
        writeln!(io::stdout(), "{}", welcome(&path, proxy, &typed, &toy))?;
        let tally = Arc::new(Tally::default());
        tokio::spawn(users(proxy, Arc::clone(&tally)));
        tokio::spawn(show(Client::nobody(&admin), tally, typed, toy));
        app.run(signals).await?;
        writeln!(io::stdout(), "\nThe demo is over. Its config is still in {}.", path.display())?;
        anyhow::Ok(ExitCode::SUCCESS)
    })
}

/// How commands for the demo are typed.
struct Typed {
    /// The program, as a shell finds it.
    program: String,
    /// What stands behind the verb for it to reach the demo.
    admin: String,
}

impl Typed {
    fn reaching(admin: &AdminUrl) -> Self {
        Self { program: program(), admin: named(&admin.to_string()) }
    }
}

/// `tidegate`, if a shell would find this very program by that name; else where it is.
fn program() -> String {
    let Ok(this) = std::env::current_exe() else { return "tidegate".to_owned() };
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&paths).map(|folder| folder.join("tidegate")).find(|path| path.is_file());
    if found.is_some_and(|found| found.canonicalize().ok() == this.canonicalize().ok()) {
        return "tidegate".to_owned();
    }
    let path = this.display().to_string();
    let is_plain = path.chars().all(|c| c.is_alphanumeric() || "/._-".contains(c));
    if is_plain { path } else { format!("'{}'", path.replace('\'', "'\\''")) }
}

fn welcome(path: &Path, proxy: SocketAddr, Typed { program, admin }: &Typed, toy: &str) -> String {
    format!(
        "Users are on their way through tidegate to two toy backends, OLD and NEW.\n\n\
         \x20 be one of them   curl -H 'x-user-id: 1007' http://{proxy}/\n\n\
         In another terminal, while you watch the line below:\n\n\
         \x20 more on NEW      {program} set default --percent 25{admin}\n\
         \x20 all back on OLD  {program} rollback{admin}\n\
         \x20 and again        {program} resume{admin}\n\
         \x20 break NEW        curl -X POST {toy}{BREAK}   (and see it taken away)\n\
         \x20 see it all       {program} status -w{admin}\n\
         \x20 who did what     {program} audit{admin}\n\n\
         Or edit `percent` in {}.\n\
         Ctrl-C ends the demo.\n",
        path.display()
    )
}

// -- the config

fn folder(args: &DemoArgs) -> anyhow::Result<PathBuf> {
    let folder = args.dir.as_deref().unwrap_or(Path::new("."));
    std::path::absolute(folder).context("cannot tell the current folder")
}

/// Before the config is replaced: another demo may live by it.
fn make_sure_it_is_the_only_one(folder: &Path) -> anyhow::Result<()> {
    let state = folder.join(STATE);
    if !state.exists() {
        return Ok(());
    }
    match Memories::open(&state) {
        Err(OpenError::InUse { holder, .. }) => {
            let holder = holder.map(|pid| format!(" (process {pid})")).unwrap_or_default();
            bail!(
                "a demo runs in {} already{holder}. Look at it: {program} status -w\n  \
                 or start another one beside it: {program} demo --dir FOLDER",
                folder.display(),
                program = program()
            )
        }
        // Whatever else is wrong with it is told at the start.
        Ok(_) | Err(_) => Ok(()),
    }
}

fn write_config(args: &DemoArgs, folder: &Path, old: SocketAddr, new: SocketAddr) -> anyhow::Result<PathBuf> {
    let path = folder.join(FILE);
    if std::fs::read_to_string(&path).is_ok_and(|text| !text.starts_with(SIGNATURE)) {
        bail!("{} is not the demo's own file; move it away, or use --dir FOLDER", path.display());
    }
    let state = folder.join(STATE);
    let text = config(free(args.listen), free((Ipv4Addr::LOCALHOST, 9901).into()), old, new, &state)?;
    let failed = || format!("cannot write {}; use --dir FOLDER", path.display());
    std::fs::create_dir_all(&state).with_context(failed)?;
    std::fs::write(&path, text).with_context(failed)?;
    Ok(path)
}

fn config(
    listen: SocketAddr,
    admin: SocketAddr,
    old: SocketAddr,
    new: SocketAddr,
    state: &Path,
) -> anyhow::Result<String> {
    let state = serde_json::to_string(state)?; // a JSON string is a YAML string, whatever is in the path
    Ok(format!(
        "{SIGNATURE}, and replaced when it starts again.\n\
         listen: {listen}\n\
         admin: {{ address: {admin} }}\n\
         state_dir: {state}\n\
         shutdown: {{ readiness_delay: 0s, drain_timeout: 1s }}\n\n\
         rollout:\n\
         \x20 old: http://{old}\n\
         \x20 new: http://{new}\n\
         \x20 key: header:x-user-id\n\
         \x20 percent: 10        # the share of users on NEW: edit me, 0 to 100\n"
    ))
}

/// `address`, or a free port beside it if somebody has it.
fn free(address: SocketAddr) -> SocketAddr {
    let bound = TcpListener::bind(address).or_else(|_| TcpListener::bind((address.ip(), 0)));
    bound.and_then(|listener| listener.local_addr()).unwrap_or(address)
}

// -- the backends

/// Starts a backend that answers with its name and the user's id, until somebody breaks it.
fn toy_backend(name: &'static str) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let is_broken = Arc::new(AtomicBool::new(false));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let is_broken = Arc::clone(&is_broken);
            let service = service_fn(move |request| {
                let answer = toy_answer(name, &request, &is_broken);
                async move { Ok::<_, Infallible>(answer) }
            });
            tokio::spawn(server::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    Ok(address)
}

fn toy_answer(name: &'static str, request: &Request<Incoming>, is_broken: &AtomicBool) -> Response<Full<Bytes>> {
    let wish = (request.method(), request.uri().path());
    match wish {
        (&Method::POST, BREAK) => is_broken.store(true, Relaxed),
        (&Method::POST, MEND) => is_broken.store(false, Relaxed),
        _ => {}
    }
    let is_broken = is_broken.load(Relaxed);
    let text = match (wish, is_broken) {
        ((&Method::POST, BREAK), _) => format!("{name} is broken: each request to it fails\n"),
        ((&Method::POST, MEND), _) => format!("{name} is mended\n"),
        (_, true) => format!("{name} is broken\n"),
        (_, false) => {
            let user = request.headers().get("x-user-id").and_then(|user| user.to_str().ok()).unwrap_or("nobody");
            format!("{name} answers user {user}\n")
        }
    };
    let mut response = Response::new(Full::from(text));
    if is_broken && request.method() != Method::POST {
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    }
    response.headers_mut().insert("x-backend", http::HeaderValue::from_static(name));
    response
}

// -- the users

/// Answers since the last look.
#[derive(Debug, Default)]
struct Tally {
    old: AtomicU64,
    new: AtomicU64,
    failed: AtomicU64,
}

/// Sends a request every [`PACE`], each by another user.
async fn users(proxy: SocketAddr, tally: Arc<Tally>) {
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut connection = None;
    loop {
        pace.tick().await;
        let counted = match ask(&mut connection, proxy).await {
            Ok(Got::New) => &tally.new,
            Ok(Got::Old) => &tally.old,
            Ok(Got::Failure) => &tally.failed,
            Err(_) => {
                connection = None;
                &tally.failed
            }
        };
        counted.fetch_add(1, Relaxed);
    }
}

/// What a user got.
#[derive(Clone, Copy, Debug)]
enum Got {
    Old,
    New,
    Failure,
}

/// Asks as a random user.
async fn ask(connection: &mut Option<SendRequest<Empty<Bytes>>>, proxy: SocketAddr) -> anyhow::Result<Got> {
    let sender = match connection {
        Some(sender) => sender,
        none => {
            let (sender, driver) = handshake(TokioIo::new(TcpStream::connect(proxy).await?)).await?;
            tokio::spawn(driver);
            none.insert(sender)
        }
    };
    sender.ready().await?;
    let user = fastrand::u32(..1_000_000);
    let request = Request::get("/").header("host", "demo").header("x-user-id", user).body(Empty::new())?;
    let response = sender.send_request(request).await?;
    let got = match response.headers().get("x-backend") {
        _ if response.status().is_server_error() => Got::Failure,
        Some(name) if name == "new" => Got::New,
        _ => Got::Old,
    };
    response.into_body().collect().await?;
    Ok(got)
}

// -- the line

/// Shows every [`LOOK`] what is in force and what the users saw: one line that moves in a terminal, lines elsewhere.
async fn show(admin: Client, tally: Arc<Tally>, typed: Typed, toy: String) {
    let mut look = interval(LOOK);
    look.tick().await;
    let mut was_tripped = false;
    let moves = io::stdout().is_terminal();
    loop {
        look.tick().await;
        let [old, new, failed] = [&tally.old, &tally.new, &tally.failed].map(|count| count.swap(0, Relaxed));
        let in_force = admin.get("/api/v1/rollouts/default").await;
        let status = in_force.ok().and_then(|reply| serde_json::from_slice::<RolloutStatus>(&reply.body).ok());
        let line = line(status.as_ref(), old, new, failed);
        let is_tripped = status.as_ref().is_some_and(|status| status.guard.verdict == GuardVerdict::Tripped);
        if let Some(status) = status.filter(|_| is_tripped && !was_tripped) {
            let told = tripped(&status, &typed, &toy);
            let _nobody_may_be_watching = writeln!(io::stdout(), "{}{told}", if moves { "\r\x1b[K" } else { "" });
        }
        was_tripped = is_tripped;
        let shown = if moves { write!(io::stdout(), "\r\x1b[K{line}") } else { writeln!(io::stdout(), "{line}") };
        if shown.and_then(|()| io::stdout().flush()).is_err() {
            return; // nobody is watching
        }
    }
}

/// What the guard has done, and what comes next.
fn tripped(status: &RolloutStatus, Typed { program, admin }: &Typed, toy: &str) -> String {
    format!(
        "\nThe guard took NEW away: {}.\n\n\
         \x20 why              {program} guard{admin}\n\
         \x20 mend NEW         curl -X POST {toy}{MEND}\n\
         \x20 and again        {program} resume{admin}\n",
        status.guard.reason.as_deref().unwrap_or("it failed")
    )
}

fn line(status: Option<&RolloutStatus>, old: u64, new: u64, failed: u64) -> String {
    let (configured, effective) = status.map_or((0.0, 0.0), |s| (s.percent.configured, s.percent.effective));
    let total = (old + new).max(1);
    let cells = usize::try_from(new).unwrap_or(0) * BAR / usize::try_from(total).unwrap_or(1);
    let bar = "#".repeat(cells) + &".".repeat(BAR - cells);
    let rollback = if status.is_some_and(|status| status.rollback.active) { ROLLED_BACK } else { "" };
    let failed = if failed > 0 { format!("  {failed} failed") } else { String::new() };
    format!(
        "config {configured:>3} %  in force {effective:>3} %  NEW [{bar}] {new:>3} of {}{rollback}{failed}",
        old + new
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_config_is_one_that_tidegate_takes() {
        let address = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let odd = Path::new("/tmp/a \"quoted\": folder");
        let text = config(address(8080), address(9901), address(1), address(2), odd).unwrap();
        let config = crate::config::parse(text.as_bytes(), Path::new("demo.yaml"), &|_| None).unwrap();
        assert_eq!(config.rollouts["default"].configured().as_f64(), 10.0);
        assert_eq!(config.state_dir.as_deref(), Some(odd));
    }

    #[test]
    fn a_second_demo_leaves_the_first_one_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        make_sure_it_is_the_only_one(folder.path()).unwrap();
        let state = folder.path().join(STATE);
        std::fs::create_dir(&state).unwrap();
        let (_first, _) = Memories::open(&state).unwrap();
        let error = make_sure_it_is_the_only_one(folder.path()).unwrap_err().to_string();
        assert!(error.contains("a demo runs in") && error.ends_with(" demo --dir FOLDER"), "{error}");
    }

    #[test]
    fn what_is_to_be_typed_works_as_it_is_typed() {
        // The tests are no program that a shell finds by the name of `tidegate`.
        let path = std::env::current_exe().unwrap().display().to_string();
        let typed = Typed::reaching(&"http://127.0.0.1:9902".parse().unwrap());
        let told =
            welcome(Path::new("d.yaml"), SocketAddr::from((Ipv4Addr::LOCALHOST, 1)), &typed, "http://127.0.0.1:2");
        for verb in ["set default --percent 25", "rollback", "resume", "status -w", "audit"] {
            let command = format!("{path} {verb} --admin http://127.0.0.1:9902\n");
            assert!(told.contains(&command), "{command} is missing in {told}");
        }
    }

    #[test]
    fn the_line_fits_a_terminal() {
        let line = line(None, 45, 5, 50);
        assert_eq!(line, "config   0 %  in force   0 %  NEW [##..................]   5 of 50  50 failed");
        assert!(line.len() + ROLLED_BACK.len() - "  50 failed".len() < 80);
    }
}
