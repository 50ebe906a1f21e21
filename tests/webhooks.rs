//! Those who want to know are told, and whether they listen is no matter to anybody else.

use std::net::TcpListener;
use std::process::Stdio;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::backend::{Request, ok};
use crate::support::process::Process;
use crate::support::{Answer, Backend, Client, dead_address, eventually};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// A process in front of two backends, with webhooks.
struct Scene {
    old: Backend,
    new: Backend,
    process: Process,
}

impl Scene {
    /// With this list of webhooks.
    fn with(webhooks: &str) -> Self {
        let (old, new) = (Backend::named("old"), Backend::named("new"));
        let process = Process::start(&config(&old, &new, webhooks));
        Self { old, new, process }
    }

    fn edit(&self, webhooks: &str) {
        self.process.edit(&config(&self.old, &self.new, webhooks));
    }

    fn admin(&self, path: &str) -> Answer {
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        Client::connect(self.process.admin).send(request).answer()
    }

    #[track_caller]
    fn done(&self, verb: &str, reason: &str) -> Value {
        let path = format!("/api/v1/rollouts/default/{verb}");
        let answer = Client::connect(self.process.admin).order("POST", &path, &json!({"reason": reason}));
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }

    /// What status says of the webhook in this place.
    fn webhook(&self, at: usize) -> Value {
        self.admin("/api/v1/status").json()["webhooks"][at].clone()
    }

    fn side(&self) -> String {
        self.process.client().get_as(1).header("x-backend").unwrap_or("nobody").to_owned()
    }

    fn metric(&self, series: &str) -> f64 {
        let text = self.admin("/metrics").text();
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{series} is not in\n{text}")).parse().unwrap()
    }
}

fn config(old: &Backend, new: &Backend, webhooks: &str) -> String {
    format!(
        "workers: 1\nshutdown: {{ readiness_delay: 0s, drain_timeout: 1s }}\nwebhooks: {webhooks}\n\
         rollout: {{ old: {}, new: {}, key: header:x-user-id, percent: 100 }}\n",
        old.url(),
        new.url()
    )
}

/// A receiver that answers with these statuses, one after the other, and then with 200.
fn receiver(statuses: &'static [u16]) -> Backend {
    let left = Mutex::new(statuses.iter());
    Backend::answering(move |_| match left.lock().unwrap().next() {
        Some(status) => format!("HTTP/1.1 {status} Said\r\ncontent-length: 0\r\n\r\n").into_bytes(),
        None => ok(&[], b""),
    })
}

#[track_caller]
fn told(receiver: &Backend, messages: usize) -> Vec<Request> {
    eventually("the receiver is told", || receiver.requests().len() >= messages);
    receiver.requests()
}

fn kind(request: &Request) -> String {
    let body: Value = serde_json::from_slice(&request.body).unwrap();
    body["type"].as_str().unwrap().to_owned()
}

/// The function that docs/webhooks.md gives to receivers, run on what came.
fn is_genuine(request: &Request, secret: &str) -> bool {
    let page = include_str!("../docs/webhooks.md");
    let function = page.split("```python\n").nth(1).unwrap().split("```").next().unwrap();
    let run = "import sys\nsys.exit(0 if is_genuine(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4], \
               sys.stdin.buffer.read()) else 1)";
    let header = |name| request.header(name).unwrap();
    let mut python = std::process::Command::new("python3")
        .args(["-c", &format!("{function}\n{run}"), secret])
        .args([header("webhook-id"), header("webhook-timestamp"), header("webhook-signature")])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut python.stdin.take().unwrap(), &request.body).unwrap();
    python.wait().unwrap().success()
}

// -- what is told

#[test]
fn a_rollback_arrives_signed_and_says_who_did_what_and_why() {
    let hook = receiver(&[]);
    let scene = Scene::with("[]");
    std::fs::write(scene.process.dir.path().join("hook-secret"), SECRET).unwrap();
    scene.edit(&format!("[{{ name: chat, url: \"{}/tidegate\", secret_file: hook-secret }}]", hook.url()));
    eventually("the webhook is there", || scene.webhook(0)["name"] == "chat");
    let done = scene.done("rollback", "INC-7");
    let request = told(&hook, 1).remove(0);
    assert_eq!((request.method.as_str(), request.target.as_str()), ("POST", "/tidegate"));
    assert_eq!(request.header("content-type"), Some("application/json"));
    assert_eq!(request.header("user-agent"), Some(concat!("tidegate/", env!("CARGO_PKG_VERSION"))));
    assert!(is_genuine(&request, SECRET));
    assert!(!is_genuine(&Request { body: b"{}".to_vec(), ..request.clone() }, SECRET));
    let body: Value = serde_json::from_slice(&request.body).unwrap();
    let change = &done["changes"][0];
    assert_eq!((&body["type"], &body["timestamp"]), (&json!("tidegate.rollback"), &change["at"]));
    let data = &body["data"];
    assert_eq!(data["id"].as_str(), request.header("webhook-id"));
    for field in ["seq", "what", "before", "after", "reason"] {
        assert_eq!(data[field], change[field], "{field}");
    }
    assert_eq!(
        (&data["rollout"], &data["source"], &data["by"]),
        (&json!("default"), &json!("operator"), &json!("loopback"))
    );
    let delivered = "tidegate_webhook_deliveries_total{webhook=\"chat\",result=\"delivered\"}";
    eventually("it is counted", || scene.metric(delivered) == 1.0);
}

#[test]
fn each_is_told_what_it_wants_to_know_in_the_order_in_which_it_happened() {
    let (all, resumes) = (receiver(&[]), receiver(&[]));
    let scene =
        Scene::with(&format!("[{{ url: \"{}\" }}, {{ url: \"{}\", events: [resume] }}]", all.url(), resumes.url()));
    for verb in ["rollback", "resume", "rollback", "resume"] {
        scene.done(verb, "");
    }
    let kinds: Vec<String> = told(&all, 4).iter().map(kind).collect();
    let (back, on) = ("tidegate.rollback", "tidegate.resume");
    assert_eq!(kinds, [back, on, back, on]);
    assert_eq!(told(&resumes, 2).iter().map(kind).collect::<Vec<_>>(), [on, on]);
    eventually("both have taken all", || scene.webhook(0)["delivered"] == 4 && scene.webhook(1)["delivered"] == 2);
}

#[test]
fn a_rollback_by_the_file_is_told_too() {
    let hook = receiver(&[]);
    let webhooks = format!("[{{ url: \"{}\" }}]", hook.url());
    let scene = Scene::with(&webhooks);
    scene.process.edit(&format!("rollback: true\n{}", config(&scene.old, &scene.new, &webhooks)));
    let body: Value = serde_json::from_slice(&told(&hook, 1)[0].body).unwrap();
    assert_eq!((&body["type"], &body["data"]["source"]), (&json!("tidegate.rollback"), &json!("config")));
}

// -- who does not listen

#[test]
fn a_message_that_is_not_taken_comes_again_with_the_same_id() {
    let hook = receiver(&[500]);
    let scene = Scene::with(&format!("[{{ url: \"{}\" }}]", hook.url()));
    scene.done("rollback", "");
    let requests = told(&hook, 2);
    assert_eq!(requests[0].header("webhook-id"), requests[1].header("webhook-id"));
    assert_eq!(requests[0].body, requests[1].body);
    eventually("it is well again", || scene.webhook(0)["delivered"] == 1);
    let webhook = scene.webhook(0);
    assert_eq!((&webhook["failing"], &webhook["queued"], &webhook["failed"]), (&json!(false), &json!(0), &json!(0)));
    assert_eq!(webhook["last_error"], format!("{} answers with 500", hook.url()));
    assert!(webhook["last_success_at"].is_string() && webhook["last_error_at"].is_string(), "{webhook}");
}

/// A rollback and its answer take as long as without webhooks: far less than any of these receivers has time for.
fn is_not_delayed_by(url: &str) -> Scene {
    let well = receiver(&[]);
    let scene = Scene::with(&format!("[{{ name: bad, url: \"{url}\" }}, {{ url: \"{}\" }}]", well.url()));
    assert_eq!(scene.side(), "new");
    let begun = Instant::now();
    scene.done("rollback", "");
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert_eq!(scene.side(), "old");
    told(&well, 1);
    assert!(begun.elapsed() < Duration::from_secs(4), "the other one was kept waiting: {:?}", begun.elapsed());
    scene
}

#[test]
fn a_closed_port_delays_nobody() {
    let scene = is_not_delayed_by(&format!("http://{}/", dead_address()));
    eventually("it is told", || scene.webhook(0)["failing"] == true);
    let why = scene.webhook(0)["last_error"].as_str().unwrap().to_owned();
    assert!(why.contains("takes no connection") && why.contains("refused"), "{why}");
    assert_eq!(scene.metric("tidegate_webhook_queued{webhook=\"bad\"}"), 1.0);
}

#[test]
fn a_receiver_that_hangs_delays_nobody() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let scene = is_not_delayed_by(&format!("http://{}/", silent.local_addr().unwrap()));
    eventually("it is told", || scene.webhook(0)["failing"] == true);
    let why = scene.webhook(0)["last_error"].as_str().unwrap().to_owned();
    assert!(why.ends_with("has not answered within 5 s"), "{why}");
}

#[test]
fn a_redirect_is_not_followed() {
    let elsewhere = receiver(&[]);
    let moved =
        format!("HTTP/1.1 307 Moved\r\nlocation: {}/latest/meta-data\r\ncontent-length: 0\r\n\r\n", elsewhere.url());
    let hook = Backend::saying(moved);
    let scene = is_not_delayed_by(&hook.url());
    told(&hook, 2);
    let why = scene.webhook(0)["last_error"].as_str().unwrap().to_owned();
    assert!(why.contains("answers with 307") && !why.contains("meta-data"), "{why}");
    assert_eq!(elsewhere.connections(), 0);
}

#[test]
fn what_cannot_be_told_is_dropped_oldest_first_and_counted() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let scene = Scene::with(&format!("[{{ name: slow, url: \"http://{}/\" }}]", silent.local_addr().unwrap()));
    let _connection = thread::spawn(move || silent.accept());
    scene.done("rollback", "");
    eventually("the first is on its way", || scene.webhook(0)["queued"] == 1);
    let mut admin = Client::connect(scene.process.admin);
    for at in 0..260 {
        let verb = if at % 2 == 0 { "resume" } else { "rollback" };
        let answer = admin.order("POST", &format!("/api/v1/rollouts/default/{verb}"), &json!({}));
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let dropped = scene.metric("tidegate_webhook_deliveries_total{webhook=\"slow\",result=\"dropped\"}");
    let queued = scene.metric("tidegate_webhook_queued{webhook=\"slow\"}");
    // One is on its way, 256 wait.
    assert_eq!((queued, dropped), (257.0, 4.0));
}

// -- who comes and goes

#[test]
fn a_reload_brings_webhooks_and_takes_them_away() {
    let (first, second) = (receiver(&[]), receiver(&[]));
    let scene = Scene::with(&format!("[{{ name: first, url: \"{}\" }}]", first.url()));
    scene.done("rollback", "");
    told(&first, 1);
    scene.edit(&format!("[{{ name: second, url: \"{}\" }}]", second.url()));
    eventually("the other one is there", || scene.webhook(0)["name"] == "second");
    scene.done("resume", "");
    assert_eq!(kind(&told(&second, 1)[0]), "tidegate.resume");
    assert_eq!(first.requests().len(), 1);
    scene.edit("[]");
    eventually("nobody is left", || scene.admin("/api/v1/status").json()["webhooks"] == json!([]));
}

#[test]
fn what_waits_for_a_webhook_that_is_taken_out_is_dropped_and_counted() {
    let scene = Scene::with(&format!("[{{ name: gone, url: \"http://{}/\" }}]", dead_address()));
    scene.done("rollback", "");
    eventually("it is told in vain", || scene.webhook(0)["failing"] == true);
    scene.edit("[]");
    let series = |result: &str| format!("tidegate_webhook_deliveries_total{{webhook=\"gone\",result=\"{result}\"}}");
    eventually("it is counted", || scene.metric(&series("dropped")) == 1.0);
    assert_eq!(
        (scene.metric(&series("failed")), scene.metric("tidegate_webhook_queued{webhook=\"gone\"}")),
        (0.0, 0.0)
    );
}

#[test]
fn what_was_announced_just_before_the_end_is_told_before_it() {
    let hook = receiver(&[]);
    let mut scene = Scene::with(&format!("[{{ url: \"{}\" }}]", hook.url()));
    scene.done("rollback", "");
    scene.process.signal("TERM");
    assert!(scene.process.wait().success());
    assert_eq!(hook.requests().len(), 1);
}

#[test]
fn the_end_waits_for_no_webhook_that_is_dead() {
    let mut scene = Scene::with(&format!("[{{ url: \"http://{}/\" }}]", dead_address()));
    scene.done("rollback", "");
    eventually("it is told in vain", || scene.webhook(0)["failing"] == true);
    scene.process.signal("TERM");
    assert!(scene.process.wait().success());
}

// -- what nobody is told

#[test]
fn neither_status_nor_config_nor_log_says_what_is_private_in_a_url() {
    let url = format!("http://me:hunter2@{}/services/T0B1?key=k3y", dead_address());
    let (old, new) = (Backend::named("old"), Backend::named("new"));
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let file = std::fs::File::create(&log).unwrap();
    let text = config(&old, &new, &format!("[{{ name: chat, url: \"{url}\" }}]"));
    let process = Process::start_as(&text, |command| {
        command.env("RUST_LOG", "trace").stdout(Stdio::null()).stderr(file);
    });
    let scene = Scene { old, new, process };
    scene.done("rollback", "");
    eventually("it is told in vain", || scene.webhook(0)["failing"] == true);
    let status = scene.admin("/api/v1/status").text();
    scene.edit(&format!("[{{ name: chat, url: \"{url}#x\" }}]"));
    eventually("it is refused", || scene.admin("/api/v1/status").json()["reload"]["successful"] == false);
    let refused = scene.admin("/api/v1/status").text();
    let shown = scene.admin("/api/v1/config").text();
    let log = || std::fs::read_to_string(&log).unwrap();
    eventually("it is in the log", || log().contains("chat") && log().contains("config refused"));
    for told in [status, refused, shown, scene.admin("/metrics").text(), log()] {
        for private in ["hunter2", "T0B1", "k3y"] {
            assert!(!told.contains(private), "{private} in\n{told}");
        }
    }
}

// -- https

/// A receiver that speaks TLS. Its certificate, for 127.0.0.1, is from the authority in `ca.pem`; both are for tests only.
struct Tls(std::process::Child);

impl Drop for Tls {
    fn drop(&mut self) {
        let _it_may_have_ended = self.0.kill();
        let _it_may_have_ended = self.0.wait();
    }
}

fn tls(file: &str) -> String {
    format!("{}/tests/support/tls/{file}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn https_is_spoken_with_those_whom_the_system_trusts() {
    let mut command = std::process::Command::new("python3");
    let mut receiver = Tls(command.args([tls("server.py"), tls("server.pem")]).stdout(Stdio::piped()).spawn().unwrap());
    let mut port = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(receiver.0.stdout.take().unwrap()), &mut port).unwrap();
    let trusting = |roots: &str| {
        let (old, new) = (Backend::named("old"), Backend::named("new"));
        let text = config(&old, &new, &format!("[{{ url: \"https://127.0.0.1:{}/\" }}]", port.trim()));
        let process = Process::start_as(&text, |command| {
            command.env("SSL_CERT_FILE", roots).env_remove("SSL_CERT_DIR").stdout(Stdio::null()).stderr(Stdio::null());
        });
        let scene = Scene { old, new, process };
        scene.done("rollback", "");
        eventually("it is told, or not", || scene.webhook(0)["delivered"] == 1 || scene.webhook(0)["failing"] == true);
        scene.webhook(0)["last_error"].as_str().unwrap_or_default().to_owned()
    };
    assert_eq!(trusting(&tls("ca.pem")), "");
    let unknown = trusting(&tls("server.pem"));
    assert!(unknown.contains("no TLS that can be trusted") && unknown.contains("UnknownIssuer"), "{unknown}");
    let none = trusting("/dev/null");
    assert!(none.contains("no root certificates") && none.contains("SSL_CERT_FILE"), "{none}");
}
