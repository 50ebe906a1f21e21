//! Operators, files and the clock steer a real process, and it remembers what they did.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tidegate::control::journal::{audit, log_path};

use crate::support::backend::Connection;
use crate::support::process::{Process, run_to_the_end, whole};
use crate::support::{Answer, Backend, Client, Gate, eventually};

/// A process with a state directory, in front of two backends.
struct Scene {
    old: Backend,
    new: Backend,
    process: Process,
    client: Client,
}

impl Scene {
    fn at(percent: u32) -> Self {
        Self::with(&format!("percent: {percent}"), "")
    }

    /// With `rollout` in the rollout and `top` at the top.
    fn with(rollout: &str, top: &str) -> Self {
        let (old, new) = (Backend::named("old"), Backend::named("new"));
        let process = Process::start(&Self::config(&old, &new, rollout, top));
        let client = process.client();
        Self { old, new, process, client }
    }

    fn config(old: &Backend, new: &Backend, rollout: &str, top: &str) -> String {
        format!(
            "state_dir: state\nworkers: 1\n{top}\nrollout: {{ old: {}, new: {}, key: header:x-user-id, {rollout} }}\n",
            old.url(),
            new.url()
        )
    }

    fn edit(&self, rollout: &str) {
        self.process.edit(&Self::config(&self.old, &self.new, rollout, ""));
    }

    fn order(&self, method: &str, verb: &str, body: Value) -> Answer {
        let path = format!("/api/v1/rollouts/default/{verb}");
        Client::connect(self.process.admin).order(method, &path, &body)
    }

    #[track_caller]
    fn done(&self, method: &str, verb: &str, body: Value) -> Value {
        let answer = self.order(method, verb, body);
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }

    fn status(&self) -> Value {
        admin(&self.process, "/api/v1/rollouts/default").json()
    }

    fn side_of(&mut self, user: u32) -> String {
        self.client.get_as(user).header("x-backend").unwrap_or("nobody").to_owned()
    }

    fn state(&self) -> PathBuf {
        self.process.dir.path().join("state")
    }

    /// Waits until all that it has announced is on the disk: what nobody asked for is not waited for by anybody.
    fn is_durable(&self) {
        eventually("it is durable", || {
            let told = admin(&self.process, "/api/v1/audit").json()["entries"].as_array().unwrap().len() as u64;
            audit::verify_file(&log_path(&self.state())).is_ok_and(|head| head.seq == told)
        });
    }

    /// Killed in the middle, and started again.
    fn is_killed(&mut self) {
        self.process.child.kill().unwrap();
        self.process.wait();
        self.starts_again();
    }

    fn starts_again(&mut self) {
        self.process.restart();
        self.client = self.process.client();
    }
}

fn admin(process: &Process, path: &str) -> Answer {
    Client::connect(process.admin)
        .send(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"))
        .answer()
}

// -- who wins

#[test]
fn an_order_counts_for_the_next_request_and_outlives_a_kill() {
    let mut scene = Scene::at(0);
    assert_eq!(scene.side_of(7), "old");
    let done = scene.done("PUT", "percent", json!({"percent": 10, "reason": "INC-7"}));
    assert_eq!(scene.side_of(7), "new");
    assert_eq!((&done["durable"], &done["changes"][0]["reason"]), (&json!(true), &json!("INC-7")));
    scene.is_killed();
    assert_eq!(scene.side_of(7), "new");
    assert_eq!(scene.status()["overridden_by"]["reason"], "INC-7");
}

#[test]
fn the_later_explicit_act_wins_also_if_it_happened_while_nobody_was_there() {
    let mut scene = Scene::at(0);
    scene.done("PUT", "percent", json!({"percent": 10}));
    scene.process.child.kill().unwrap();
    scene.process.wait();
    scene.edit("percent: 5");
    scene.starts_again();
    assert_eq!((scene.side_of(4).as_str(), scene.side_of(5).as_str()), ("new", "old"));
    assert_eq!(scene.status()["percent"]["override"], Value::Null);
}

#[test]
fn a_pipeline_that_applies_its_file_again_lifts_no_latch_until_it_names_it() {
    let mut scene = Scene::at(100);
    scene.done("POST", "rollback", json!({"reason": "it double-books"}));
    let id = scene.status()["rollback"]["latches"][0]["id"].as_str().unwrap().to_owned();
    scene.edit("percent: 50");
    eventually("the file is read", || scene.status()["percent"]["configured"] == 50.0);
    scene.is_killed();
    assert_eq!(scene.side_of(1), "old");
    scene.edit(&format!("percent: 50, acknowledge: {id}"));
    eventually("the latch is lifted", || scene.side_of(1) == "new");
}

#[test]
fn what_a_file_latched_stays_latched_when_the_line_is_gone_and_the_process_too() {
    let mut scene = Scene::with("percent: 100, rollback: true", "");
    assert_eq!(scene.side_of(1), "old");
    scene.is_durable();
    scene.edit("percent: 100");
    scene.is_killed();
    assert_eq!(scene.side_of(1), "old");
    scene.done("POST", "resume", json!({}));
    assert_eq!(scene.side_of(1), "new");
}

// -- what is remembered

#[test]
fn a_state_with_one_wrong_bit_means_old_and_everybody_is_told() {
    let mut scene = Scene::at(100);
    scene.done("PUT", "percent", json!({"percent": 60}));
    scene.process.child.kill().unwrap();
    scene.process.wait();
    let path = scene.state().join("state.json");
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    fs::write(&path, bytes).unwrap();
    scene.starts_again();
    assert_eq!(scene.side_of(1), "old");
    assert!(scene.state().join("state.json.corrupt").exists());
    let ready = admin(&scene.process, "/readyz");
    assert!(ready.status == 200 && ready.text().contains("state.json.corrupt"), "{}", ready.text());
    assert!(admin(&scene.process, "/metrics").text().contains("\ntidegate_state_lost 1\n"));
    assert_eq!(scene.status()["rollback"]["latches"][0]["source"], "state");
    scene.done("POST", "resume", json!({"percent": 1}));
    assert_eq!((scene.side_of(0).as_str(), scene.side_of(1).as_str()), ("new", "old"));
    assert_eq!(admin(&scene.process, "/readyz").text(), "ready\n", "somebody has looked");
}

#[test]
fn a_disk_that_cannot_be_written_stops_no_order_and_is_told_until_it_can() {
    let mut scene = Scene::at(0);
    let in_the_way = scene.state().join(".state.json.tmp");
    // What is remembered every second may just be written there.
    eventually("it is in the way", || fs::create_dir_all(in_the_way.join("x")).is_ok());
    let done = scene.done("PUT", "percent", json!({"percent": 100}));
    assert_eq!(scene.side_of(1), "new");
    assert_eq!(done["durable"], false);
    assert!(done["warning"].as_str().unwrap().contains("state"), "{done}");
    assert!(admin(&scene.process, "/metrics").text().contains("\ntidegate_state_durable 0\n"));
    fs::remove_dir_all(in_the_way).unwrap();
    eventually("it is durable after all", || {
        admin(&scene.process, "/api/v1/status").json()["state"]["durable"] == true
    });
    scene.is_killed();
    assert_eq!(scene.side_of(1), "new");
}

#[test]
fn a_second_process_does_not_get_the_state_of_the_first() {
    let scene = Scene::at(0);
    let (address, admin) = (crate::support::process::own_address(), crate::support::process::own_address());
    let config = format!(
        "state_dir: {}\nrollout: {{ old: {old}, new: {old}, key: client_ip }}\n",
        scene.state().display(),
        old = scene.old.url()
    );
    let ended = run_to_the_end(&whole(address, admin, &config));
    assert_eq!(ended.status.code(), Some(1));
    let pid = scene.process.child.id().to_string();
    assert!(ended.stderr.contains("in use") && ended.stderr.contains(&pid), "{}", ended.stderr);
}

#[test]
fn every_change_is_on_record_with_who_when_and_why() {
    let mut scene = Scene::at(0);
    scene.done("PUT", "percent", json!({"percent": 10, "reason": "INC-7"}));
    scene.edit("percent: 20");
    eventually("the file is read", || scene.side_of(15) == "new");
    fs::write(scene.state().join("ROLLBACK"), "").unwrap();
    eventually("it is rolled back", || scene.side_of(15) == "old");
    let changes = admin(&scene.process, "/api/v1/audit").json();
    let told: Vec<String> = changes["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| format!("{} {} {}", entry["who"]["kind"], entry["what"], entry["scope"]).replace('"', ""))
        .collect();
    assert_eq!(
        told,
        [
            "process start *",
            "config config default",
            "operator set default",
            "config config *",
            "config config default",
            "flag_file rollback default"
        ]
    );
    eventually("the log has it all", || audit::verify_file(&log_path(&scene.state())).is_ok_and(|head| head.seq == 6));
}

// -- steps

#[test]
fn a_ramp_goes_up_by_itself_and_goes_on_after_a_kill_where_it_stood() {
    // By itself alone: with a guard the steps would also wait for what it has to see.
    let steps = "steps: [{ percent: 10, hold: 1s, min_requests: 3 }, { percent: 50, hold: manual }, \
                 { percent: 100, hold: 0s }], guard: { enabled: false }";
    let mut scene = Scene::with(steps, "");
    assert_eq!((scene.side_of(5).as_str(), scene.side_of(20).as_str()), ("new", "old"));
    for _ in 0..3 {
        scene.side_of(5);
    }
    eventually("the first step is over", || scene.side_of(20) == "new");
    scene.is_durable();
    scene.is_killed();
    assert_eq!((scene.side_of(20).as_str(), scene.side_of(70).as_str()), ("new", "old"));
    assert_eq!(scene.status()["steps"]["step"], 2);
    scene.done("POST", "promote", json!({}));
    assert_eq!(scene.side_of(70), "new");
}

#[test]
fn a_deadline_that_has_passed_rolls_back_what_is_not_done() {
    let mut scene = Scene::with("percent: 50, schedule: { deadline: '2020-01-01T00:00:00Z' }", "");
    eventually("it is rolled back", || scene.side_of(1) == "old");
    assert_eq!(scene.status()["rollback"]["latches"][0]["source"], "deadline");
}

#[test]
fn a_frozen_rollout_is_raised_only_by_force() {
    let always = "percent: 10, schedule: { freeze: ['00:00-12:00 UTC', '12:00-24:00 UTC'] }";
    let mut scene = Scene::with(always, "");
    let refused = scene.order("PUT", "percent", json!({"percent": 50}));
    assert_eq!(refused.status, 409, "{}", refused.text());
    assert_eq!(scene.side_of(20), "old");
    let done = scene.done("PUT", "percent", json!({"percent": 50, "force": true}));
    assert_eq!((scene.side_of(20).as_str(), &done["changes"][0]["forced"]), ("new", &json!(true)));
}

// -- blue and green

#[test]
fn a_switch_looks_first_flips_at_once_and_goes_back() {
    let healthy = Backend::named("green");
    let blue = Backend::named("blue");
    let process = Process::start(&format!(
        "state_dir: state\nworkers: 2\nbackends:\n  b: {{ endpoints: ['{}'], health: {{ path: /healthz }} }}\n  \
         g: {{ endpoints: ['{}'], health: {{ path: /healthz }} }}\n\
         rollout: {{ strategy: blue_green, blue: b, green: g, active: blue }}\n",
        blue.url(),
        healthy.url()
    ));
    let switch = |body| Client::connect(process.admin).order("POST", "/api/v1/rollouts/default/switch", &body);
    let mut client = process.client();
    let mut serving = || client.get("/", &[]).header("x-backend").unwrap().to_owned();
    assert_eq!(serving(), "blue");
    let answer = switch(json!({}));
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(healthy.requests().iter().any(|request| request.target == "/healthz"), "it was looked at");
    assert!(healthy.connections() >= 3, "and every worker has connections to it");
    assert_eq!(serving(), "green");
    assert_eq!(switch(json!({"back": true})).status, 200);
    assert_eq!(serving(), "blue");
}

#[test]
fn a_switch_to_what_does_not_answer_is_refused_and_can_be_forced() {
    let blue = Backend::named("blue");
    let process = Process::start(&format!(
        "state_dir: state\nworkers: 1\n\
         rollout: {{ strategy: blue_green, blue: {}, green: 'http://{}', active: blue }}\n",
        blue.url(),
        crate::support::dead_address()
    ));
    let switch = |body| Client::connect(process.admin).order("POST", "/api/v1/rollouts/default/switch", &body);
    let refused = switch(json!({}));
    assert_eq!(refused.status, 409);
    assert!(refused.text().contains("--force"), "{}", refused.text());
    assert_eq!(process.client().get("/", &[]).header("x-backend"), Some("blue"));
    let forced = switch(json!({"force": true}));
    assert_eq!((forced.status, &forced.json()["changes"][0]["forced"]), (200, &json!(true)));
    assert_eq!(process.client().get("/", &[]).status, 502);
}

// -- hold

#[test]
fn a_database_is_switched_behind_a_hold_of_five_seconds_and_no_request_is_lost() {
    let mut scene = Scene::with("percent: 0", "hold: { max_wait: 20s, max_requests: 2000, release_rate: 2000 }");
    let address = scene.process.address;
    let start = Instant::now();
    // 200 requests a second for 7 s: 20 clients, each with a request every 100 ms, sent when it is due, answered or not.
    let clients: Vec<_> = (0..20_u32)
        .map(|user| {
            thread::spawn(move || {
                let mut answers = Vec::new();
                for n in 0..70 {
                    let due = Duration::from_millis(100 * n + 5 * u64::from(user));
                    thread::sleep(due.saturating_sub(start.elapsed()));
                    answers.push(thread::spawn(move || {
                        let sent = start.elapsed();
                        let mut client = Client::connect(address);
                        let answer = client.get_as(user);
                        (sent, answer.status, answer.header("x-backend").unwrap_or("nobody").to_owned())
                    }));
                }
                answers.into_iter().map(|answer| answer.join().unwrap()).collect::<Vec<_>>()
            })
        })
        .collect();
    thread::sleep(Duration::from_secs(1).saturating_sub(start.elapsed())); // traffic before the hold
    scene.done("POST", "hold", json!({"on": true, "reason": "the database is switched"}));
    let held = start.elapsed();
    eventually("all that run have ended", || scene.status()["sides"]["old"]["inflight"] == 0);
    scene.done("PUT", "percent", json!({"percent": 100}));
    thread::sleep((held + Duration::from_secs(5)).saturating_sub(start.elapsed())); // the five seconds of the story
    let until = start.elapsed();
    scene.done("POST", "hold", json!({"on": false}));
    let answers: Vec<_> = clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
    assert_eq!(answers.len(), 1400);
    let lost: Vec<_> = answers.iter().filter(|(_, status, _)| *status != 200).collect();
    assert!(lost.is_empty(), "{lost:?}");
    let strayed = answers.iter().filter(|(sent, _, side)| *sent > held && side == "old");
    assert_eq!(strayed.count(), 0, "nobody came to the old database after the hold had begun");
    assert!(answers.iter().any(|(sent, ..)| (held..until).contains(sent)), "somebody waited");
    eventually("nobody waits any more", || scene.status()["hold"].is_null());
    assert_eq!(scene.side_of(1), "new");
}

// -- what races with what

/// A config with these rollouts, each from `old` to `new`.
fn of_many(scene: &Scene, rollouts: &[(&str, &str)]) -> String {
    let (old, new) = (scene.old.url(), scene.new.url());
    let mut text = format!(
        "state_dir: state\nworkers: 1\nbackends: {{ a: {{ endpoints: [\"{old}\"] }}, b: {{ endpoints: [\"{new}\"] }} }}\nrollouts:\n"
    );
    for (name, more) in rollouts {
        text += &format!("  {name}: {{ old: a, new: b, key: header:x-user-id, {more} }}\n");
    }
    text += "routes:\n";
    for (name, _) in rollouts {
        text += &format!("  - {{ match: {{ path: /{name}/ }}, rollout: {name} }}\n");
    }
    text
}

fn knows(scene: &Scene, name: &str) -> bool {
    admin(&scene.process, &format!("/api/v1/rollouts/{name}")).status == 200
}

fn is_on(scene: &mut Scene, name: &str) -> String {
    let answer = scene.client.get(&format!("/{name}/"), &[("x-user-id", "1")]);
    answer.header("x-backend").unwrap_or("nobody").to_owned()
}

#[test]
fn a_rollout_that_is_added_while_the_flag_file_is_there_is_rolled_back_too() {
    let mut scene = Scene::at(100);
    scene.process.edit(&of_many(&scene, &[("cards", "percent: 100")]));
    eventually("the file is read", || knows(&scene, "cards"));
    fs::write(scene.state().join("ROLLBACK"), "").unwrap();
    eventually("cards is on old", || is_on(&mut scene, "cards") == "old");
    scene.process.edit(&of_many(&scene, &[("cards", "percent: 100"), ("ledger", "percent: 100")]));
    eventually("the file is read", || knows(&scene, "ledger"));
    assert_eq!(is_on(&mut scene, "ledger"), "old");
}

#[test]
fn a_rollout_that_comes_back_after_the_flag_file_has_gone_can_be_resumed() {
    let mut scene = Scene::at(100);
    let (both, one) = ([("cards", "percent: 100"), ("ledger", "percent: 100")], [("cards", "percent: 100")]);
    scene.process.edit(&of_many(&scene, &both));
    eventually("the file is read", || knows(&scene, "ledger"));
    fs::write(scene.state().join("ROLLBACK"), "").unwrap();
    eventually("ledger is on old", || is_on(&mut scene, "ledger") == "old");
    scene.process.edit(&of_many(&scene, &one));
    eventually("the file is read", || !knows(&scene, "ledger"));
    fs::remove_file(scene.state().join("ROLLBACK")).unwrap();
    eventually("cards is on new", || is_on(&mut scene, "cards") == "new");
    scene.process.edit(&of_many(&scene, &both));
    eventually("the file is read", || knows(&scene, "ledger"));
    let resumed = Client::connect(scene.process.admin).order("POST", "/api/v1/rollouts/ledger/resume", &json!({}));
    assert_eq!(resumed.status, 200, "{}", resumed.text());
    assert_eq!(is_on(&mut scene, "ledger"), "new");
}

#[test]
fn who_asks_for_a_reload_while_a_text_is_on_probation_gets_it() {
    let scene = Scene::at(5);
    let whole = fs::read_to_string(scene.process.config_path()).unwrap();
    fs::write(scene.process.config_path(), whole.replace("percent: 5", "percent: 50").trim_end()).unwrap();
    thread::sleep(Duration::from_millis(300)); // it was seen, and may be half-written
    assert_eq!(scene.status()["percent"]["configured"], 5.0);
    let reloaded = Client::connect(scene.process.admin).order("POST", "/api/v1/reload", &json!({}));
    assert_eq!(reloaded.status, 200, "{}", reloaded.text());
    assert_eq!(scene.status()["percent"]["configured"], 50.0);
}

#[test]
fn a_rollback_in_a_text_that_was_taken_back_is_no_request_any_more() {
    let mut scene = Scene::at(100);
    let whole = fs::read_to_string(scene.process.config_path()).unwrap();
    fs::write(scene.process.config_path(), format!("{whole}rollback: true")).unwrap();
    eventually("it is rolled back", || scene.side_of(1) == "old");
    fs::write(scene.process.config_path(), &whole).unwrap();
    eventually("it can be resumed", || scene.order("POST", "resume", json!({})).status == 200);
    assert_eq!(scene.side_of(1), "new");
    fs::write(scene.process.config_path(), format!("{whole}rollback: true")).unwrap();
    eventually("it is rolled back again", || scene.side_of(1) == "old");
}

#[test]
fn those_who_wait_go_on_waiting_when_a_hold_is_made_longer() {
    let scene = Scene::at(0);
    scene.done("POST", "hold", json!({"max_wait": "20s"}));
    let clients: Vec<Client> = (0..50)
        .map(|user| {
            let mut client = scene.process.client();
            client.send(format!("GET / HTTP/1.1\r\nhost: service\r\nx-user-id: {user}\r\n\r\n"));
            client
        })
        .collect();
    eventually("all of them wait", || scene.status()["hold"]["waiting"] == 50);
    for seconds in 21..41 {
        scene.done("POST", "hold", json!({"max_wait": format!("{seconds}s")}));
        assert_eq!(scene.old.requests().len(), 0, "nobody may pass a hold");
    }
    eventually("all of them wait again", || scene.status()["hold"]["waiting"] == 50);
    assert_eq!(scene.old.requests().len(), 0, "nobody may pass a hold");
    scene.done("POST", "hold", json!({"on": false}));
    for mut client in clients {
        assert_eq!(client.answer().status, 200);
    }
}

#[test]
fn a_switch_that_was_overtaken_looks_at_what_would_serve_now() {
    let blue = Backend::scripted(Connection::reset);
    let green = Backend::answering(|request| {
        if request.target == "/healthz" {
            thread::sleep(Duration::from_millis(500)); // the other order comes while it is looked at
        }
        crate::support::backend::ok(&[], b"green")
    });
    let backend = |backend: &Backend| {
        format!("{{ endpoints: [\"{}\"], health: {{ path: /healthz, timeout: 2s }} }}", backend.url())
    };
    let process = Process::start(&format!(
        "state_dir: state\nworkers: 1\nbackends: {{ a: {}, b: {} }}\nrollouts:\n  default: {{ strategy: blue_green, blue: a, green: b, active: blue }}\n",
        backend(&blue),
        backend(&green),
    ));
    let admin = process.admin;
    let switch = move || Client::connect(admin).order("POST", "/api/v1/rollouts/default/switch", &json!({})).status;
    let both = [thread::spawn(switch), thread::spawn(switch)].map(|switch| switch.join().unwrap());
    assert_eq!(both.iter().filter(|status| **status == 200).count(), 1, "blue does not answer: {both:?}");
    assert_eq!(process.client().get("/", &[]).text(), "green");
}

#[test]
fn another_shutdown_waits_for_a_restart_and_is_told() {
    let scene = Scene::at(5);
    let config = Scene::config(&scene.old, &scene.new, "percent: 6", "shutdown: { drain_timeout: 7s }");
    scene.process.edit(&config);
    let reloaded = Client::connect(scene.process.admin).order("POST", "/api/v1/reload", &json!({})).json();
    assert_eq!(reloaded["needs_restart"], json!(["shutdown"]));
}

#[test]
fn who_still_waits_when_the_process_ends_is_told_to_come_back() {
    let mut scene = Scene::with("percent: 0", "shutdown: { readiness_delay: 0s, drain_timeout: 1s }");
    scene.done("POST", "hold", json!({"max_wait": "60s"}));
    let mut clients: Vec<Client> = (0..100).map(|_| scene.process.client()).collect();
    clients.iter_mut().for_each(|client| {
        client.send("POST / HTTP/1.1\r\nhost: service\r\nx-user-id: 7\r\ncontent-length: 2\r\n\r\n{}");
    });
    eventually("all of them wait", || scene.status()["hold"]["waiting"] == 100);
    scene.process.signal("TERM");
    for mut client in clients {
        let answer = client.answer();
        assert_eq!((answer.status, answer.header("connection")), (503, Some("close")));
        assert!(answer.header("retry-after").is_some());
    }
    assert!(scene.process.wait().success());
    assert_eq!(scene.old.connections(), 0);
}

#[test]
fn a_drained_colour_is_not_empty_while_it_answers_requests_from_before_the_switch() {
    let gate = Gate::default();
    let slow = || {
        let gate = gate.clone();
        Backend::answering(move |request| {
            if request.target == "/slow" {
                gate.pass();
            }
            crate::support::backend::ok(&[], b"slow")
        })
    };
    let (blue, green) = (slow(), slow());
    let process = Process::start(&format!(
        "state_dir: state\nworkers: 1\nrollout: {{ strategy: blue_green, blue: {}, green: {}, active: blue }}\n",
        blue.url(),
        green.url()
    ));
    let order = |verb: &str, body: Value| {
        let path = format!("/api/v1/rollouts/default/{verb}");
        Client::connect(process.admin).order("POST", &path, &body).json()["rollout"].clone()
    };
    order("switch", json!({}));
    let mut client = process.client();
    client.send("GET /slow HTTP/1.1\r\nhost: service\r\n\r\n");
    eventually("green has it", || green.requests().iter().any(|request| request.target == "/slow"));
    order("switch", json!({}));
    let drained = order("drain", json!({"side": "old"}));
    assert_eq!((&drained["sides"]["old"]["color"], &drained["drain"]["done"]), (&json!("green"), &json!(false)));
    gate.open();
    assert_eq!(client.answer().text(), "slow");
    eventually("it is empty", || admin(&process, "/api/v1/rollouts/default").json()["drain"]["done"] == true);
}

// -- a start in a bad hour

#[test]
fn a_start_on_a_disk_that_takes_nothing_serves_by_what_it_remembers() {
    let mut scene = Scene::at(100);
    scene.done("POST", "rollback", json!({"reason": "it double-books"}));
    scene.process.child.kill().unwrap();
    scene.process.wait();
    // As root nothing is unwritable but a mount that is; where mounting is not allowed, a folder in the way has to do.
    let state = scene.state();
    let mount = |options: &[&str]| Command::new("mount").args(options).arg(&state).status().is_ok_and(|s| s.success());
    let bound = mount(&["--bind", state.to_str().unwrap()]);
    let is_mounted = bound && mount(&["-o", "remount,ro,bind"]);
    if !is_mounted {
        fs::create_dir_all(state.join(".state.json.tmp/x")).unwrap();
    }
    scene.starts_again();
    assert_eq!(scene.side_of(1), "old", "the latch is remembered");
    let resumed = scene.done("POST", "resume", json!({}));
    assert_eq!((scene.side_of(1).as_str(), &resumed["durable"]), ("new", &json!(false)));
    if is_mounted {
        assert!(mount(&["-o", "remount,rw,bind"]));
    } else {
        fs::remove_dir_all(state.join(".state.json.tmp")).unwrap();
    }
    eventually("it is durable after all", || {
        admin(&scene.process, "/api/v1/status").json()["state"]["durable"] == true
    });
    scene.process.child.kill().unwrap();
    scene.process.wait();
    if bound {
        assert!(Command::new("umount").arg(&state).status().unwrap().success());
    }
}
