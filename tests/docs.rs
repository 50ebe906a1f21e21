//! The pages that tell how a task is done are done: their config is run, and each command as it is written.

use std::fs;
use std::net::TcpStream;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::process::Command;

use tidegate::config::ListenAddress;

use crate::support::process::{BINARY, Process, own_address};
use crate::support::{Backend, Client, Tidegate, eventually, relay};

/// The fenced blocks of `page` in this language.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let opening = format!("```{language}\n");
    page.split(&opening).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

fn page(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name)).unwrap()
}

/// Runs all that stands in `page` from top to bottom. A block that begins with a comment on another config is skipped
/// unless `config` makes it so. Gives the process, which may still have something to tell.
fn follow(name: &str, config: impl Fn(&str) -> String, wanted: impl Fn(&str) -> bool) -> Process {
    let (old, new) = (Backend::named("old"), Backend::named("new"));
    let text = page(name);
    let written = blocks(&text, "yaml")[0].replace("listen: 127.0.0.1:8080\n", "");
    let written = written.replace("127.0.0.1:9001", &old.address.to_string());
    let written = written.replace("127.0.0.1:9002", &new.address.to_string());
    let process = Process::start(&config(&written));
    let path = format!("{}:{}", Path::new(BINARY).parent().unwrap().display(), std::env::var("PATH").unwrap());
    let commands: Vec<String> = blocks(&text, "sh").into_iter().filter(|block| wanted(block)).collect();
    assert!(!commands.is_empty(), "{name} has commands");
    for block in commands {
        let done = Command::new("sh")
            .args(["-euc", &block])
            .current_dir(process.dir.path())
            .env("PATH", &path)
            .env("TIDEGATE_ADMIN", format!("http://{}", process.admin))
            .output()
            .unwrap();
        let [out, err] = [done.stdout, done.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        assert!(done.status.success(), "{name}:\n{block}\nsaid:\n{out}\n{err}");
    }
    process
}

fn as_written(config: &str) -> String {
    config.to_owned()
}

fn is_for_steps(block: &str) -> bool {
    block.starts_with("# with the steps")
}

#[test]
fn rolling_out() {
    follow("roll-out.md", as_written, |block| !is_for_steps(block));
}

#[test]
fn rolling_out_step_by_step() {
    let steps = blocks(&page("roll-out.md"), "yaml")[1].clone();
    // The schedule may say no at the hour at which this runs.
    let steps = steps.split("    schedule:").next().unwrap().to_owned();
    follow("roll-out.md", |config| config.replace("    percent: 5\n", &steps), is_for_steps);
}

#[test]
fn rolling_back() {
    follow("rollback.md", as_written, |_| true);
}

#[test]
fn switching() {
    follow("switch.md", as_written, |_| true);
}

#[test]
fn guarding() {
    follow("guard.md", as_written, |_| true);
}

#[test]
fn shielding() {
    follow("shield.md", as_written, |_| true);
}

#[test]
fn having_many_endpoints() {
    let third = Backend::named("third");
    let address = third.address.to_string();
    follow("backends.md", |config| config.replace("127.0.0.1:9003", &address), |_| true);
}

#[test]
fn a_migration_night() {
    follow("maintenance.md", as_written, |_| true);
}

#[test]
fn telling_others() {
    let hook = Backend::named("hook");
    let address = hook.address.to_string();
    let _process = follow("webhooks.md", |config| config.replace("127.0.0.1:9004", &address), |_| true);
    eventually("it is told three times", || hook.requests().len() >= 3);
    let requests = hook.requests();
    let signed: Vec<bool> = requests.iter().map(|request| request.header("webhook-signature").is_some()).collect();
    assert_eq!(signed, [false, false, true]);
}

#[test]
fn asking_prometheus() {
    follow("queries.md", as_written, |_| true);
}

#[test]
fn speaking_tls() {
    let text = page("tls.md");
    let (address, admin) = (own_address(), own_address());
    let (old, new) = (Backend::named("old"), Backend::named("new"));
    let here = |text: &str| {
        text.replace("127.0.0.1:8443", &address.to_string()).replace("IP:127.0.0.1", &format!("IP:{}", address.ip()))
    };
    let config = here(&blocks(&text, "yaml")[0]);
    let config =
        config.replace("127.0.0.1:9001", &old.address.to_string()).replace("127.0.0.1:9002", &new.address.to_string());
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("tidegate.yaml"), format!("admin: {{ address: {admin} }}\n{config}")).unwrap();
    let path = format!("{}:{}", Path::new(BINARY).parent().unwrap().display(), std::env::var("PATH").unwrap());
    let run = |block: &str| {
        let mut shell = Command::new("sh");
        shell.args(["-euc", &here(block)]).current_dir(dir.path()).env("PATH", &path);
        let done = shell.env("TIDEGATE_ADMIN", format!("http://{admin}")).output().unwrap();
        let [out, err] = [done.stdout, done.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        assert!(done.status.success(), "{block}\nsaid:\n{out}\n{err}");
    };
    let (later, first): (Vec<_>, Vec<_>) =
        blocks(&text, "sh").into_iter().partition(|block| block.starts_with("# while it runs"));
    first.iter().for_each(|block| run(block));
    let mut tidegate =
        Command::new(BINARY).args(["run", "-c", "tidegate.yaml"]).current_dir(dir.path()).spawn().unwrap();
    eventually("it takes connections", || TcpStream::connect(address).is_ok() && TcpStream::connect(admin).is_ok());
    let done = catch_unwind(AssertUnwindSafe(|| later.iter().for_each(|block| run(block))));
    tidegate.kill().unwrap();
    tidegate.wait().unwrap();
    done.unwrap_or_else(|panic| resume_unwind(panic));
}

#[test]
fn listening() {
    let (old, new) = (Backend::named("old"), Backend::named("new"));
    let written = blocks(&page("listeners.md"), "yaml")[0].replace("unix:/run/tidegate/", "unix:");
    let written = written.replace("127.0.0.1:8080", "127.0.0.1:0").replace("127.0.0.1:8081", "127.0.0.1:0");
    let written = written.replace("127.0.0.1:9001", &old.address.to_string());
    let written = written.replace("127.0.0.1:9002", &new.address.to_string());
    let tidegate = Tidegate::start_whole(&(written + "admin: { address: 127.0.0.1:0 }\n"));
    let ports: Vec<_> = tidegate.addresses.iter().filter_map(ListenAddress::tcp).collect();
    assert_eq!(Client::connect(ports[0]).get("/", &[]).status, 200);
    assert_eq!(Client::connect(ports[1]).send("PROXY TCP4 192.0.2.7 192.0.2.1 56324 80\r\n").get("/", &[]).status, 200);
    let relayed = relay::to_unix(&tidegate.dir.path().join("traffic.sock"));
    assert_eq!(Client::connect(relayed).get("/", &[]).status, 200);
}

#[test]
fn naming_backends() {
    let backend = Backend::named("old");
    let written = blocks(&page("names.md"), "yaml")[0].replace("listen: 127.0.0.1:8080\n", "");
    let tidegate = Tidegate::start(&written.replace("9001", &backend.address.port().to_string()));
    assert_eq!(tidegate.client().get("/", &[]).text(), "old");
}

#[test]
fn who_changed_what() {
    follow("audit.md", as_written, |_| true);
}
