//! What a Prometheus says about new: a real one, and toys that stand for one on a bad day.

use std::fs::{self, File};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::backend::{Connection, Request, ok};
use crate::support::process::Process;
use crate::support::prometheus::{Prometheus, Samples};
use crate::support::{Backend, Client, eventually};

/// tidegate with everybody on new, and its log.
struct Scene {
    process: Process,
    backends: [Backend; 2],
}

impl Scene {
    /// With these queries, each of which asks `url` every second unless it says otherwise.
    fn asking(url: &str, queries: &[&str]) -> Self {
        Self::with(|backends| format!("rollout: {}\n", rollout(backends, 100, url, queries)))
    }

    fn with(config: impl FnOnce(&[Backend; 2]) -> String) -> Self {
        let backends = ["old", "new"].map(Backend::named);
        let process = Process::start_as(&config(&backends), |command| {
            let folder = command.get_current_dir().unwrap().to_owned();
            command.stdout(Stdio::null()).stderr(File::create(folder.join("log")).unwrap());
        });
        Self { process, backends }
    }

    fn is_on_new(&self) -> bool {
        self.process.client().get_as(1).text() == "new"
    }

    fn latch(&self) -> Value {
        let rollout = admin(&self.process, "/api/v1/rollouts/default");
        rollout["rollback"]["latches"][0].clone()
    }

    /// Waits until everybody is on old; tells why.
    #[track_caller]
    fn is_rolled_back(&self) -> String {
        eventually("everybody is on old", || !self.is_on_new());
        self.latch()["reason"].as_str().unwrap().to_owned()
    }

    fn resumes(&self) {
        let done = Client::connect(self.process.admin).order("POST", "/api/v1/rollouts/default/resume", &json!({}));
        assert_eq!(done.status, 200, "{}", done.text());
    }

    /// How many lines of its log say this.
    fn logged(&self, what: &str) -> usize {
        let log = fs::read_to_string(self.process.dir.path().join("log")).unwrap();
        log.lines().filter(|line| line.contains(what)).count()
    }
}

fn rollout([old, new]: &[Backend; 2], percent: u32, url: &str, queries: &[&str]) -> String {
    let queries: Vec<String> =
        queries.iter().map(|query| format!("{{ prometheus: \"{url}\", interval: 1s, {query} }}")).collect();
    let guard = format!("{{ queries: [{}] }}", queries.join(", "));
    let backends = format!("old: \"{}\", new: \"{}\"", old.url(), new.url());
    format!("{{ {backends}, key: header:x-user-id, percent: {percent}, guard: {guard} }}")
}

fn admin(process: &Process, path: &str) -> Value {
    let asked = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    Client::connect(process.admin).send(asked).answer().json()
}

const NO_DATA: &str = "has no data";
const DATA_AGAIN: &str = "has data again";

// -- a real Prometheus

#[test]
fn a_business_metric_that_turns_bad_rolls_everybody_back() {
    let samples = Samples::none();
    samples.set("ledger_mismatches{shard=\"a\"}", 0.1);
    samples.set("ledger_mismatches{shard=\"b\"}", 0.2);
    let prometheus = Prometheus::scraping(&samples);
    let query = "name: ledger-mismatches, query: 'max by (shard) (ledger_mismatches)', bad_if: '> 0.5', failures: 2";
    let scene = Scene::asking(&prometheus.url(), &[query]);
    eventually("it was asked twice", || prometheus.answered() >= 2);
    assert!(scene.is_on_new());
    samples.set("ledger_mismatches{shard=\"b\"}", 0.8);
    let reason = "query ledger-mismatches gave 0.8 (bad if > 0.5) 2 times in a row";
    assert_eq!(scene.is_rolled_back(), reason);
    assert_eq!((&scene.latch()["source"], &scene.latch()["by"]), (&json!("guard"), &json!("guard")));
    let audit = admin(&scene.process, "/api/v1/audit");
    assert!(audit["entries"].as_array().unwrap().iter().any(|entry| entry["reason"] == reason), "{audit}");
}

#[test]
fn a_metric_that_is_not_there_and_a_prometheus_that_is_not_there_say_nothing() {
    let samples = Samples::none();
    let mut prometheus = Prometheus::scraping(&samples);
    let query = "name: mismatches, query: 'sum(rate(mismatches_total[2s]))', bad_if: '>= 0', failures: 1";
    let scene = Scene::asking(&prometheus.url(), &[query]);
    eventually("it was asked twice", || prometheus.answered() >= 2);
    eventually("that is told", || scene.logged("the query gives no sample") == 1);
    assert!(scene.is_on_new());
    prometheus.stop();
    let query = query.replace("name: mismatches", "name: others");
    scene.process.edit(&format!("rollout: {}\n", rollout(&scene.backends, 100, &prometheus.url(), &[&query])));
    eventually("it was asked in vain", || scene.logged("takes no connection") == 1);
    assert!(scene.is_on_new());
    samples.set("mismatches_total", 7.0);
    prometheus.start();
    assert!(scene.is_rolled_back().starts_with("query others gave 0 (bad if >= 0)"));
}

#[test]
fn a_query_that_prometheus_cannot_read_is_told_in_its_words() {
    let prometheus = Prometheus::scraping(&Samples::none());
    let queries = [
        "name: broken, query: 'sum(', bad_if: '> 0', failures: 1",
        "name: matrix, query: 'up[1m]', bad_if: '> 0', failures: 1",
        "name: scalar, query: 'scalar(vector(0))', bad_if: '> 0', failures: 1",
    ];
    let scene = Scene::asking(&prometheus.url(), &queries);
    eventually("it has complained", || {
        scene.logged("answers 400: bad_data") == 1 && scene.logged("gives a matrix") == 1
    });
    assert_eq!((scene.logged(NO_DATA), scene.is_on_new()), (2, true));
}

// -- something that stands for one

fn vector(value: &str) -> Vec<u8> {
    let body = format!(
        r#"{{"status":"success","data":{{"resultType":"vector","result":[{{"metric":{{}},"value":[1,"{value}"]}}]}}}}"#
    );
    ok(&[("content-type", "application/json")], body.as_bytes())
}

fn form(request: &Request) -> String {
    String::from_utf8(request.body.clone()).unwrap()
}

/// Answers one request after the other so, and the last answer again and again.
fn answering(answers: &'static [fn() -> Vec<u8>]) -> (Backend, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let toy = Backend::answering(move |_| answers[count.fetch_add(1, SeqCst).min(answers.len() - 1)]());
    (toy, asked)
}

const GOOD: fn() -> Vec<u8> = || vector("0.5");
const BAD: fn() -> Vec<u8> = || vector("0.8");
const DOWN: fn() -> Vec<u8> = || b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n".to_vec();
const QUERY: &str = "name: mismatches, query: 'sum(x) > bool 1', bad_if: '> 0.5'";

#[test]
fn no_data_between_bad_answers_neither_counts_nor_starts_over() {
    let (toy, asked) = answering(&[BAD, DOWN, DOWN, BAD, GOOD]);
    let scene = Scene::asking(&toy.url(), &[&format!("{QUERY}, failures: 2")]);
    assert_eq!(scene.is_rolled_back(), "query mismatches gave 0.8 (bad if > 0.5) 2 times in a row");
    assert_eq!(asked.load(SeqCst), 4);
    assert_eq!((scene.logged(NO_DATA), scene.logged(DATA_AGAIN)), (1, 1));
}

#[test]
fn a_good_answer_starts_over_and_so_does_a_resume() {
    let (toy, asked) = answering(&[BAD, GOOD, BAD, BAD]);
    let scene = Scene::asking(&toy.url(), &[&format!("{QUERY}, failures: 2")]);
    scene.is_rolled_back();
    assert_eq!(asked.load(SeqCst), 4);
    scene.resumes();
    scene.is_rolled_back();
    assert_eq!(asked.load(SeqCst), 6, "one bad answer is not two");
}

#[test]
fn after_a_step_back_a_query_has_an_interval_to_see_what_that_changed() {
    let (is_bad, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
    let (told, times) = (Arc::clone(&is_bad), Arc::clone(&asked));
    let toy = Backend::answering(move |_| {
        times.lock().unwrap().push(Instant::now());
        if told.load(SeqCst) { BAD() } else { GOOD() }
    });
    let steps = "steps: [{ percent: 5, hold: 1h }, { percent: 20, hold: 1h }, { percent: 100, hold: manual }]";
    let scene = Scene::with(|backends| {
        let rollout = rollout(backends, 100, &toy.url(), &[&format!("{QUERY}, failures: 1")]);
        let rollout = rollout.replace("percent: 100", steps).replace("guard: {", "guard: { action: step_back,");
        format!("rollout: {rollout}\n")
    });
    let promote = || Client::connect(scene.process.admin).order("POST", "/api/v1/rollouts/default/promote", &json!({}));
    assert_eq!([promote(), promote()].map(|answer| answer.status), [200, 200]);
    is_bad.store(true, SeqCst);
    scene.is_rolled_back();
    eventually("it went back step by step", || scene.latch()["source"] == "guard");
    let asked = asked.lock().unwrap();
    let waits: Vec<Duration> = asked.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(waits.iter().all(|wait| *wait > Duration::from_millis(500)), "{waits:?}");
}

#[test]
fn nobody_is_asked_while_nobody_is_on_new() {
    let ((toy, asked), (other, others)) = (answering(&[BAD]), answering(&[GOOD]));
    let scene = Scene::with(|backends| {
        let resting = rollout(backends, 0, &toy.url(), &[QUERY]);
        let moving = rollout(backends, 100, &other.url(), &[QUERY]);
        format!("rollouts: {{ resting: {resting}, default: {moving} }}\nroutes: [{{ rollout: default }}]\n")
    });
    eventually("the one with users was asked twice", || others.load(SeqCst) >= 2);
    assert!(asked.load(SeqCst) == 0 && scene.is_on_new());
}

#[test]
fn a_query_is_sent_as_a_form_with_its_credentials_in_a_header() {
    let (toy, asked) = answering(&[GOOD]);
    let url = format!("http://me:s3cret@{}/prometheus/", toy.address);
    let scene = Scene::asking(&url, &[QUERY]);
    eventually("it is asked", || asked.load(SeqCst) >= 1);
    let request = &toy.requests()[0];
    assert_eq!((request.method.as_str(), request.target.as_str()), ("POST", "/prometheus/api/v1/query"));
    assert_eq!(form(request), "query=sum%28x%29%20%3E%20bool%201&timeout=5000ms");
    assert_eq!(request.header("content-type"), Some("application/x-www-form-urlencoded"));
    assert_eq!(request.header("authorization"), Some("Basic bWU6czNjcmV0"));
    let shown = ["/api/v1/config", "/api/v1/status"].map(|path| admin(&scene.process, path).to_string()).concat();
    assert!(!shown.contains("s3cret") && scene.logged("s3cret") == 0, "{shown}");
}

#[test]
fn what_was_read_too_late_because_the_process_stood_still_is_no_data() {
    let process = Arc::new(AtomicU32::new(0));
    let (stopped, asked) = (Arc::clone(&process), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&asked);
    let toy = Backend::scripted(move |connection| {
        let Some(_) = connection.read_request() else { return };
        count.fetch_add(1, SeqCst);
        let process = stopped.swap(0, SeqCst);
        if process == 0 {
            return connection.write(&GOOD());
        }
        signal(process, "STOP");
        connection.write(&BAD());
        let answered = Instant::now();
        eventually("its time is over", || answered.elapsed() > Duration::from_millis(600));
        signal(process, "CONT");
    });
    let scene = Scene::asking(&toy.url(), &[&format!("{QUERY}, failures: 1, timeout: 500ms")]);
    process.store(scene.process.child.id(), SeqCst);
    eventually("it has stood still", || process.load(SeqCst) == 0);
    let before = asked.load(SeqCst);
    eventually("it is asked again", || asked.load(SeqCst) > before);
    assert!(scene.is_on_new() && scene.logged(NO_DATA) >= 1);
}

fn signal(process: u32, name: &str) {
    assert!(Command::new("kill").args([format!("-{name}"), process.to_string()]).status().unwrap().success());
}

/// What a Prometheus is not supposed to say. Each query is asked under a path of its own.
const ODD: [(&str, &[u8]); 5] = [
    ("oops", b"HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n"),
    ("html", b"HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\n<html></html>"),
    ("elsewhere", b"HTTP/1.1 307 Moved\r\nlocation: /well/api/v1/query\r\ncontent-length: 0\r\n\r\n"),
    ("torn", b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{"),
    ("mail", b"220 mail.example.com ESMTP\r\n"),
];

#[test]
fn odd_answers_are_no_data() {
    let is_bad = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&is_bad);
    let toy = Backend::scripted(move |connection| odd(connection, told.load(SeqCst)));
    let odd = || ODD.iter().map(|(name, _)| *name).chain(["silent", "nan"]);
    let scene = Scene::with(|backends| {
        let queries = odd().chain(["fine"]).map(|name| {
            let url = format!("{}/{name}", toy.url());
            let timeout = if name == "silent" { "500ms" } else { "5s" };
            format!("{{ name: {name}, prometheus: \"{url}\", interval: 1s, timeout: {timeout}, failures: 1, query: x, bad_if: '> 0.5' }}")
        });
        let queries = queries.collect::<Vec<_>>().join(", ");
        let plain = rollout(backends, 100, "", &[]);
        format!("rollout: {}\n", plain.replace("queries: []", &format!("queries: [{queries}]")))
    });
    let asked = |name: &str| {
        let path = format!("/{name}/");
        toy.requests().iter().filter(|request| request.target.starts_with(&path)).count()
    };
    eventually("all were asked twice", || odd().all(|name| asked(name) >= 2));
    assert!(scene.is_on_new() && asked("well") == 0, "a redirect is not followed");
    eventually("each is told once", || scene.logged(NO_DATA) == odd().count());
    is_bad.store(true, SeqCst);
    assert_eq!(scene.is_rolled_back(), "query fine gave 0.8 (bad if > 0.5)");
}

fn odd(connection: &mut Connection, is_bad: bool) {
    let Some(request) = connection.read_request() else { return };
    match request.target.split('/').nth(1).unwrap() {
        "nan" => connection.write(&vector("NaN")),
        "silent" => assert!(connection.is_closed_by_peer()),
        "fine" if !is_bad => connection.write(&GOOD()),
        name => match ODD.iter().find(|(odd, _)| *odd == name) {
            Some((_, answer)) => connection.write(answer),
            None => connection.write(&BAD()),
        },
    }
}
