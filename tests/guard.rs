//! NEW hurts users, and the guard takes it away by itself; whoever looks is told why, with the numbers.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use tidegate::control::journal::log_path;

use crate::support::backend::{Request, ok};
use crate::support::process::Process;
use crate::support::proxy::split;
use crate::support::{Answer, Backend, Client, Tidegate, eventually};

// -- what the stories need

/// A NEW that does as the path says.
fn obedient_backend() -> Backend {
    Backend::scripted(|connection| {
        while let Some(request) = connection.read_request() {
            if request.target == "/never" {
                connection.is_closed_by_peer();
                return;
            }
            connection.write(&obedient(&request));
        }
    })
}

/// An answer as the path says: `/503` with that status, `/grpc` with a status of that kind, and so on.
fn obedient(request: &Request) -> Vec<u8> {
    let status = |status: &str| format!("HTTP/1.1 {status} As Asked\r\ncontent-length: 0\r\n\r\n").into_bytes();
    match request.target.trim_start_matches('/') {
        "reported" => ok(&[("x-outcome", "failure")], b""),
        "fine" => ok(&[("x-outcome", "ok"), ("grpc-status", "0")], b""),
        "grpc" => ok(&[("grpc-status", "14")], b""),
        "trailer" => {
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\ngrpc-status: 13\r\n\r\n".to_vec()
        }
        "slow" => {
            thread::sleep(Duration::from_millis(20)); // this is what it is slow by
            ok(&[("x-backend", "new")], b"new")
        }
        asked if asked.parse::<u16>().is_ok() => status(asked),
        _ => ok(&[("x-backend", "new")], b"new"),
    }
}

/// tidegate between an OLD that is well and a NEW that does as it is told.
struct Scene {
    old: Backend,
    new: Backend,
    tidegate: Tidegate,
    client: Client,
    next_user: u32,
}

impl Scene {
    /// Every tenth user is on NEW, and `more` stands in the rollout.
    fn with(more: &str) -> Self {
        Self::at("percent: 10", more)
    }

    fn at(percent: &str, more: &str) -> Self {
        Self::before(obedient_backend(), percent, more)
    }

    fn before(new: Backend, percent: &str, more: &str) -> Self {
        let old = Backend::named("old");
        let tidegate = Tidegate::start(&Self::config(&old, &new, percent, more));
        let client = tidegate.client();
        Self { old, new, tidegate, client, next_user: 0 }
    }

    fn config(old: &Backend, new: &Backend, percent: &str, more: &str) -> String {
        split(old, new, "0", more).replace("percent: 0", percent)
    }

    fn edit(&self, percent: &str, more: &str) {
        let reloads = self.tidegate.metric("tidegate_config_reloads_total");
        self.tidegate.edit(&Self::config(&self.old, &self.new, percent, more));
        eventually("it is read", || self.tidegate.metric("tidegate_config_reloads_total") > reloads);
    }

    fn status(&self) -> Value {
        self.tidegate.admin("/api/v1/rollouts/default").json()
    }

    fn guard(&self) -> Value {
        self.tidegate.admin("/api/v1/rollouts/default/guard").json()
    }

    fn last_entry(&self) -> Value {
        self.tidegate.admin("/api/v1/audit").json()["entries"].as_array().unwrap().last().unwrap().clone()
    }

    #[track_caller]
    fn order(&self, verb: &str, body: Value) {
        let admin: SocketAddr = self.tidegate.admin.strip_prefix("http://").unwrap().parse().unwrap();
        let answer = Client::connect(admin).order("POST", &format!("/api/v1/rollouts/default/{verb}"), &body);
        assert_eq!(answer.status, 200, "{}", answer.text());
    }

    fn ask(&mut self, user: u32, path: &str) -> Answer {
        self.client.get(path, &[("x-user-id", &user.to_string())])
    }

    fn is_on_new(&mut self, user: u32) -> bool {
        self.ask(user, "/").header("x-backend") == Some("new")
    }

    /// A hundred users ask for `path`, one of each bucket by two digits, each time others.
    fn everybody_asks_for(&mut self, path: &str) {
        for _ in 0..100 {
            // 97 and 100 have no divisor in common, so that OLD and NEW take turns.
            self.ask(self.next_user * 97, path);
            self.next_user += 1;
        }
    }

    /// Users ask for `path` until the guard has come to `verdict`.
    #[track_caller]
    fn everybody_asks_until(&mut self, path: &str, verdict: &str) -> Value {
        eventually(verdict, || {
            self.everybody_asks_for(path);
            self.guard()["verdict"] == verdict
        });
        self.guard()
    }

    /// NEW's requests that could be judged in the step so far.
    fn judged(&self) -> u64 {
        self.status()["steps"]["judged"].as_u64().unwrap()
    }
}

// -- what it does

#[test]
fn a_new_that_fails_is_taken_away_and_whoever_looks_is_told_why() {
    let mut scene = Scene::with("");
    let guard = scene.guard();
    assert_eq!(
        (&guard["armed"], &guard["verdict"], &guard["action"]),
        (&json!(true), &json!("healthy"), &json!("rollback"))
    );
    assert_eq!(scene.tidegate.metric("tidegate_guard_trips_total{rollout=\"default\",cause=\"failures\"}"), 0.0);
    let guard = scene.everybody_asks_until("/500", "tripped");

    assert!((0..200).all(|user| !scene.is_on_new(user)), "everybody is on old");
    let status = scene.status();
    let latch = &status["rollback"]["latches"][0];
    assert_eq!((&latch["source"], &latch["by"]), (&json!("guard"), &json!("guard")));
    assert_eq!(latch["undo"], "tidegate resume default --reason TEXT");
    assert_eq!((&status["guard"]["reason"], &status["guard"]["since"]), (&latch["reason"], &latch["at"]));
    let reason = latch["reason"].as_str().unwrap();
    assert!(reason.starts_with("new failed ") && reason.contains("1 % is tolerated"), "{reason}");

    // The numbers stay those that led to it, although there is nothing to see any more.
    let failures = &guard["failures"];
    assert_eq!(guard["cause"], "failures");
    assert_eq!(failures["counted"]["new"]["share"], 100.0);
    assert!(failures["counted"]["new"]["bad"].as_u64().unwrap() >= 3 && failures["users"].as_u64().unwrap() >= 3);
    assert_eq!(failures["worse_than_tolerated"]["share"], 1.0);
    assert_eq!(scene.tidegate.metric("tidegate_guard_trips_total{rollout=\"default\",cause=\"failures\"}"), 1.0);
    assert_eq!(scene.tidegate.metric("tidegate_rollback_active{rollout=\"default\"}"), 1.0);
    let entry = scene.last_entry();
    assert_eq!(
        (&entry["who"]["kind"], &entry["what"], &entry["reason"]),
        (&json!("guard"), &json!("rollback"), &latch["reason"])
    );
}

#[test]
fn told_only_to_notify_it_says_what_it_would_have_done_and_sends_nobody_away() {
    let mut scene = Scene::with("  guard: { action: notify }\n");
    let guard = scene.everybody_asks_until("/500", "would_have_tripped");
    assert!(guard["since"].is_string() && guard["reason"].as_str().unwrap().starts_with("new failed "), "{guard}");
    assert_eq!((&guard["action"], &guard["undo"]), (&json!("notify"), &Value::Null));
    assert_eq!((&guard["percent"], &scene.status()["rollback"]["active"]), (&json!(10.0), &json!(false)));
    assert!(scene.is_on_new(3));
    let entry = scene.last_entry();
    assert_eq!((&entry["what"], &entry["after"]), (&json!("guard"), &json!("would have rolled back")));
    assert_eq!(scene.tidegate.metric("tidegate_guard_trips_total{rollout=\"default\",cause=\"failures\"}"), 1.0);
}

const STEPS: &str = "steps: [{ percent: 5, hold: 1h }, { percent: 20, hold: 1h }, { percent: 100, hold: manual }]";

#[test]
fn told_to_hold_the_step_it_stops_the_ramp_and_sends_nobody_away() {
    let mut scene = Scene::at(STEPS, "  guard: { action: hold_step }\n");
    let guard = scene.everybody_asks_until("/500", "would_have_tripped");
    assert_eq!(guard["undo"], "tidegate step continue default --reason TEXT");
    let status = scene.status();
    assert_eq!((&status["steps"]["paused"], &status["percent"]["effective"]), (&json!(true), &json!(5.0)));
    assert!(scene.is_on_new(3));
    let entry = scene.last_entry();
    assert_eq!(
        (&entry["who"]["kind"], &entry["what"], &entry["after"]),
        (&json!("guard"), &json!("pause"), &json!("paused"))
    );
}

#[test]
fn whoever_lets_a_held_ramp_go_on_too_early_finds_it_held_again() {
    let mut scene = Scene::at(STEPS, "  guard: { action: hold_step }\n");
    scene.everybody_asks_until("/500", "would_have_tripped");
    for _ in 0..2 {
        scene.order("continue", json!({}));
        eventually("it is held again", || {
            scene.everybody_asks_for("/500");
            scene.status()["steps"]["paused"] == true
        });
        assert_eq!(
            (&scene.last_entry()["who"]["kind"], &scene.last_entry()["what"]),
            (&json!("guard"), &json!("pause"))
        );
    }
}

#[test]
fn told_to_step_back_it_goes_back_one_and_waits_there() {
    let mut scene = Scene::at(STEPS, "  guard: { action: step_back }\n");
    scene.order("promote", json!({}));
    assert!(scene.is_on_new(15));
    let guard = scene.everybody_asks_until("/500", "tripped");
    let status = scene.status();
    assert_eq!((&status["steps"]["step"], &status["steps"]["paused"]), (&json!(1), &json!(true)));
    assert_eq!((&status["rollback"]["active"], &guard["cause"]), (&json!(false), &json!("failures")));
    assert!(scene.is_on_new(3) && !scene.is_on_new(15));
    assert_eq!(scene.last_entry()["what"], "step_back");
    scene.order("continue", json!({}));
    assert_eq!(scene.guard()["verdict"], "healthy");
}

#[test]
fn turned_off_it_does_nothing_and_says_so() {
    let mut scene = Scene::with("  guard: { enabled: false }\n");
    for _ in 0..5 {
        scene.everybody_asks_for("/500");
    }
    let guard = scene.guard();
    assert_eq!((&guard["armed"], &guard["verdict"], &guard["failures"]), (&json!(false), &json!("off"), &Value::Null));
    assert!(scene.is_on_new(3));
    assert!(!scene.tidegate.admin("/metrics").text().contains("tidegate_guard"));
}

#[test]
fn too_many_users_hurt_are_enough_whatever_the_share() {
    let mut scene = Scene::with("  guard: { max_users_hurt: 3 }\n");
    for user in [1, 102, 203] {
        scene.everybody_asks_for("/");
        scene.ask(user, "/503");
    }
    let guard = scene.everybody_asks_until("/", "tripped");
    assert_eq!(
        (&guard["cause"], &guard["users_hurt"], &guard["max_users_hurt"]),
        (&json!("users_hurt"), &json!(3), &json!(3))
    );
}

#[test]
fn that_too_many_users_were_hurt_once_does_not_hide_that_new_fails_now() {
    let mut scene = Scene::with("  guard: { action: notify, max_users_hurt: 3 }\n");
    for user in [1, 102, 203] {
        scene.everybody_asks_for("/");
        scene.ask(user, "/503");
    }
    assert_eq!(scene.everybody_asks_until("/", "would_have_tripped")["cause"], "users_hurt");
    for outage in [1.0, 2.0] {
        eventually("it is told that new fails", || {
            scene.everybody_asks_for("/500");
            scene.tidegate.metric("tidegate_guard_trips_total{rollout=\"default\",cause=\"failures\"}") == outage
        });
        assert_eq!(scene.guard()["cause"], "failures");
        eventually("only that users were hurt is left", || {
            scene.everybody_asks_for("/");
            scene.guard()["cause"] == "users_hurt"
        });
    }
    let told = scene.tidegate.metric("tidegate_guard_trips_total{rollout=\"default\",cause=\"users_hurt\"}");
    assert_eq!(told, 3.0, "at first, and each time that it is what is left");
}

#[test]
fn a_new_that_is_slow_is_taken_away_like_one_that_fails() {
    let mut scene = Scene::with("  guard: { latency: { slower_than: 10ms } }\n");
    let guard = scene.everybody_asks_until("/slow", "tripped");
    assert_eq!((&guard["cause"], &guard["latency"]["slow_above_ms"]), (&json!("latency"), &json!(10.0)));
    assert!(guard["reason"].as_str().unwrap().starts_with("new took more than 10 ms in "), "{guard}");
}

// -- what counts

#[test]
fn testers_refusals_and_clients_that_go_away_count_for_nothing() {
    let force = "  force: { header: x-canary, networks: [127.0.0.1] }\n";
    let mut scene = Scene::at(STEPS, force);
    for tester in 0..20 {
        let headers = [("x-user-id", tester.to_string()), ("x-canary", "always".to_owned())];
        let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
        assert_eq!(scene.client.get("/500", &headers).status, 500);
    }
    let mut impatient: Vec<Client> = (0..5).map(|_| scene.tidegate.client()).collect();
    for (user, client) in impatient.iter_mut().enumerate() {
        client.send(format!("GET /never HTTP/1.1\r\nhost: service\r\nx-user-id: {user}\r\n\r\n"));
    }
    let waits = |request: &Request| request.target == "/never";
    eventually("they wait", || scene.new.requests().into_iter().filter(waits).count() == 5);
    drop(impatient);
    let aborted = "tidegate_requests_total{rollout=\"default\",side=\"new\",reason=\"bucket\",code_class=\"aborted\"}";
    eventually("the clients have gone", || scene.tidegate.metric(aborted) == 5.0);
    for user in 0..5 {
        assert_eq!(scene.ask(user, "/404").status, 404);
    }
    eventually("what counts is counted", || scene.judged() == 5);
    scene.everybody_asks_for("/");
    eventually("and nothing else", || scene.judged() == 10);
    let guard = scene.guard();
    assert_eq!((&guard["verdict"], &guard["users_hurt"]), (&json!("healthy"), &json!(0)));
}

#[test]
fn a_client_that_is_slow_to_send_does_not_make_new_slow() {
    let mut scene = Scene::at(STEPS, "  guard: { latency: { slower_than: 50ms } }\n");
    (0..3).for_each(|_| scene.everybody_asks_for("/"));
    let half_sent = |from: u32| -> Vec<Client> {
        let send = |user: u32| {
            let mut client = scene.tidegate.client();
            let head = "POST / HTTP/1.1\r\nhost: service\r\ncontent-length: 2";
            client.send(format!("{head}\r\nx-user-id: {}\r\n\r\na", user % 5 + user / 5 * 100));
            client
        };
        (from..from + 20).map(send).collect()
    };
    let (mut slow, gone) = (half_sent(0), half_sent(20));
    thread::sleep(Duration::from_millis(70)); // this is what they are slow by
    drop(gone);
    for client in &mut slow {
        assert_eq!(client.send("b").answer().status, 200);
    }
    let aborted = "tidegate_requests_total{rollout=\"default\",side=\"new\",reason=\"bucket\",code_class=\"aborted\"}";
    eventually("the others have gone", || scene.tidegate.metric(aborted) == 20.0);
    scene.everybody_asks_for("/");
    eventually("what counts is counted", || scene.judged() == 40);
    assert_eq!(scene.guard()["verdict"], "healthy");
}

#[test]
fn a_service_may_say_so_in_a_header_and_grpc_in_a_status_or_a_trailer() {
    let mut scene = Scene::with("  guard: { action: notify, failures: { header: X-Outcome } }\n");
    for (user, path) in [(1, "/fine"), (2, "/reported"), (3, "/grpc"), (4, "/trailer")] {
        assert_eq!(scene.ask(user, path).status, 200);
    }
    eventually("three of them failed", || scene.guard()["users_hurt"] == 3);
}

#[test]
fn other_statuses_can_be_failures() {
    let mut scene = Scene::with("  guard: { action: notify, failures: { statuses: [404, 500-502], grpc: none } }\n");
    for (user, path) in [(1, "/404"), (2, "/502"), (3, "/503"), (4, "/grpc"), (5, "/trailer")] {
        scene.ask(user, path);
    }
    eventually("two of them failed", || scene.guard()["users_hurt"] == 2);
}

// -- how it ends

#[test]
fn a_pipeline_that_applies_its_file_again_changes_nothing_until_somebody_resumes() {
    let mut scene = Scene::with("");
    scene.everybody_asks_until("/500", "tripped");
    scene.edit("percent: 50", "");
    assert!(!scene.is_on_new(3));
    assert_eq!(scene.guard()["verdict"], "tripped");
    scene.order("resume", json!({"reason": "INC-7 is mended"}));
    assert!(scene.is_on_new(3));
    let guard = scene.guard();
    assert_eq!((&guard["verdict"], &guard["reason"], &guard["since"]), (&json!("healthy"), &Value::Null, &Value::Null));
}

#[test]
fn the_file_can_acknowledge_a_trip() {
    let mut scene = Scene::with("");
    scene.everybody_asks_until("/500", "tripped");
    let id = scene.status()["rollback"]["latches"][0]["id"].as_str().unwrap().to_owned();
    scene.edit("percent: 10", &format!("  acknowledge: {id}\n"));
    assert!(scene.is_on_new(3));
    assert_eq!(scene.guard()["verdict"], "healthy");
}

#[test]
fn after_it_was_mended_the_same_guard_trips_again() {
    let is_broken = Arc::new(AtomicBool::new(true));
    let broken = Arc::clone(&is_broken);
    let new = Backend::answering(move |request| match broken.load(SeqCst) {
        true => b"HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n".to_vec(),
        false => obedient(request),
    });
    let mut scene = Scene::before(new, "percent: 10", "");
    scene.everybody_asks_until("/", "tripped");
    is_broken.store(false, SeqCst);
    scene.order("resume", json!({}));
    scene.everybody_asks_for("/");
    assert_eq!(scene.guard()["verdict"], "healthy");
    is_broken.store(true, SeqCst);
    scene.everybody_asks_until("/", "tripped");
    assert_eq!(scene.status()["rollback"]["latches"][0]["id"], "default-2");
}

// -- steps

#[test]
fn a_step_waits_until_the_guard_could_have_seen_trouble() {
    let steps = "steps: [{ percent: 50, hold: 0s }, { percent: 100, hold: manual }]";
    let mut scene = Scene::at(steps, "  guard: { tolerance: 20%, one_false_trip_in: 100 }\n");
    for user in 0..20 {
        scene.ask(user, "/");
    }
    eventually("they are seen", || scene.judged() == 20);
    let steps = scene.status()["steps"].clone();
    let needed = steps["min_judged"].as_u64().unwrap();
    assert!(steps["step"] == 1 && needed > 20, "{steps}");
    let missing = format!("{} more requests on new, so that the guard could have seen trouble", needed - 20);
    assert_eq!(steps["waits_for"], missing);
    for _ in 20..needed {
        scene.ask(7, "/");
    }
    eventually("the step is over", || scene.status()["steps"]["step"] == 2);
}

// -- on the command line, and over a kill

/// A process that remembers, with every tenth user on a NEW that does as it is told.
struct Rig {
    process: Process,
    _backends: [Backend; 2],
}

impl Rig {
    fn start(more: &str) -> Self {
        let (old, new) = (Backend::named("old"), obedient_backend());
        let config = format!("workers: 1\nstate_dir: state\n{}", split(&old, &new, "10", more));
        Self { process: Process::start(&config), _backends: [old, new] }
    }

    fn status(&self) -> Value {
        let get = "GET /api/v1/rollouts/default HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        Client::connect(self.process.admin).send(get).answer().json()
    }

    fn new_fails_until(&self, condition: impl Fn() -> bool) {
        let mut client = self.process.client();
        let mut users = (0..).map(|user| user * 97);
        eventually("the guard finds out", || {
            for user in users.by_ref().take(20) {
                client.get("/500", &[("x-user-id", &u32::to_string(&user))]);
            }
            condition()
        });
    }
}

#[test]
fn the_commands_tell_what_it_knows_and_what_to_do() {
    let rig = Rig::start("");
    let told = rig.process.done(&["guard"]);
    assert!(told.starts_with("default: guard armed, action rollback; new looks healthy\n"), "{told}");
    assert!(told.contains("failures    new none, old none\n") && told.contains("would trip it now"), "{told}");
    assert!(
        rig.process.done(&["status"]).contains("  guard       healthy: nothing speaks against new, tolerated 1 %\n")
    );

    rig.new_fails_until(|| rig.status()["rollback"]["active"] == true);
    let told = rig.process.done(&["guard", "default"]);
    assert!(told.starts_with("default: guard TRIPPED ") && told.contains("ago: everybody is on old\n"), "{told}");
    assert!(told.contains("\nbecause     new failed "), "{told}");
    assert!(
        told.contains("[##########]") && told.ends_with("next: tidegate resume default  (once new is mended)\n"),
        "{told}"
    );
    let json: Value = serde_json::from_str(&rig.process.done(&["guard", "-o", "json"])).unwrap();
    assert_eq!(
        (&json["rollout"], &json["verdict"], &json["cause"]),
        (&json!("default"), &json!("tripped"), &json!("failures"))
    );
    let status = rig.process.done(&["status"]);
    assert!(
        status.contains("  rollback    default-1, by guard, ") && status.contains("  guard       tripped; "),
        "{status}"
    );
    assert!(status.ends_with("next: tidegate resume default  (once new is mended)\n"), "{status}");
    let audit = rig.process.done(&["audit", "-n", "1"]);
    assert!(audit.contains("  guard              default            rollback\n"), "{audit}");
    assert!(audit.contains("10 % -> rolled back by default-1, else 10 % on new\n       new failed "), "{audit}");

    let (code, _, stderr) = rig.process.run(&["guard", "defualt"]);
    assert!(code == 1 && stderr.contains("Did you mean `default`?"), "{stderr}");
}

#[test]
fn a_kill_right_after_it_tripped_lifts_nothing() {
    let mut rig = Rig::start("");
    let log = log_path(&rig.process.dir.path().join("state"));
    let is_on_record = |log: String| log.contains("\"what\":\"rollback\"");
    rig.new_fails_until(|| fs::read_to_string(&log).is_ok_and(is_on_record));
    rig.process.child.kill().unwrap();
    rig.process.wait();
    rig.process.restart();
    let mut client = rig.process.client();
    assert!((0..100).all(|user| client.get_as(user).header("x-backend") == Some("old")));
    let status = rig.status();
    assert_eq!((&status["guard"]["verdict"], &status["guard"]["cause"]), (&json!("tripped"), &Value::Null));
    assert_eq!(status["rollback"]["latches"][0]["source"], "guard");
    let told = rig.process.done(&["guard"]);
    assert!(told.contains("because     new failed ") && !told.contains("failures    new"), "{told}");
}
