//! Changes over the admin API: what is asked for is in force for the next request, and what is refused changes nothing.

use std::io::Write as _;
use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::support::backend::ok;
use crate::support::client::Answer;
use crate::support::proxy::split;
use crate::support::{Backend, Client, Gate, Tidegate, eventually};

/// A rollout between two backends, and somebody who changes it.
struct Scene {
    _backends: [Backend; 2],
    tidegate: Tidegate,
    client: Client,
}

impl Scene {
    /// At 0 %.
    fn new() -> Self {
        Self::with("0", "")
    }

    /// `top` stands above the rollout.
    fn with(percent: &str, top: &str) -> Self {
        let (old, new) = (Backend::named("old"), Backend::named("new"));
        let tidegate = Tidegate::start(&format!("{top}{}", split(&old, &new, percent, "")));
        let client = tidegate.client();
        Self { _backends: [old, new], tidegate, client }
    }

    fn side(&mut self) -> String {
        let answer = self.client.get_as(7);
        answer.header("x-backend").unwrap_or("nobody").to_owned()
    }

    fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        let address: SocketAddr = self.tidegate.admin.strip_prefix("http://").unwrap().parse().unwrap();
        let length = body.len();
        Client::connect(address)
            .send(format!(
                "{method} /api/v1/{path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n{headers}\
                 content-length: {length}\r\nconnection: close\r\n\r\n{body}"
            ))
            .answer()
    }

    fn change(&self, method: &str, path: &str, body: &Value) -> Answer {
        self.ask(method, path, "", &body.to_string())
    }

    fn set(&self, percent: f64) -> Answer {
        self.change("PUT", "rollouts/default/percent", &json!({"percent": percent, "reason": "INC-7"}))
    }

    fn rollout(&self) -> Value {
        json_of(&self.tidegate.admin("/api/v1/rollouts/default"))
    }

    /// What there is, but for clocks and counters.
    fn in_force(&self) -> Value {
        let rollout = self.rollout();
        json!([rollout["etag"], rollout["percent"]["override"], rollout["rollback"], self.last_change()])
    }

    fn last_change(&self) -> Value {
        json_of(&self.tidegate.admin("/api/v1/audit?limit=1"))["next"].clone()
    }
}

fn json_of(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body).unwrap_or_else(|error| panic!("{error} in {}", answer.text()))
}

#[test]
fn a_percent_is_in_force_for_the_next_request() {
    let mut scene = Scene::new();
    assert_eq!(scene.side(), "old");
    for (percent, side) in [(100.0, "new"), (0.0, "old"), (100.0, "new")] {
        let answer = scene.set(percent);
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(scene.side(), side, "at {percent} %");
    }
    let rollout = scene.rollout();
    assert_eq!((&rollout["percent"]["override"], &rollout["drift"]), (&json!(100.0), &json!(true)));
    assert_eq!(rollout["overridden_by"]["reason"], "INC-7");
    assert_eq!(rollout["overridden_by"]["by"], "loopback");
    assert_eq!(scene.change("DELETE", "rollouts/default/percent", &json!({})).status, 200);
    assert_eq!(scene.side(), "old");
    assert_eq!(scene.rollout()["overridden_by"], Value::Null);
}

#[test]
fn a_change_tells_what_it_changed_and_who_did_it() {
    let scene = Scene::new();
    let told = json_of(&scene.set(25.0));
    let [entry] = told["changes"].as_array().unwrap().as_slice() else { panic!("{told}") };
    assert_eq!(
        (&entry["what"], &entry["scope"], &entry["reason"]),
        (&json!("set"), &json!("default"), &json!("INC-7"))
    );
    assert_eq!(entry["who"], json!({"kind": "operator", "name": "loopback"}));
    assert_eq!((&entry["before"], &entry["after"]), (&json!("0 % on new"), &json!("25 % on new")));
    assert_eq!((&told["durable"], &told["rollout"]["percent"]["effective"]), (&json!(false), &json!(25.0)));
    assert!(told["warning"].as_str().unwrap().contains("no state_dir"), "{told}");
    assert_eq!(scene.last_change(), entry["seq"]);
}

#[test]
fn who_was_overtaken_changes_nothing() {
    let scene = Scene::new();
    let looked = scene.tidegate.admin("/api/v1/rollouts/default");
    let tag = looked.header("etag").unwrap().to_owned();
    let body = r#"{"percent": 50}"#;
    let first = scene.ask("PUT", "rollouts/default/percent", &format!("if-match: {tag}\r\n"), body);
    assert_eq!(first.status, 200, "{}", first.text());
    assert_ne!(first.header("etag"), Some(tag.as_str()));
    let before = scene.in_force();
    for stale in [&tag, "W/\"2-00000000\"", "\"no\", \"such\""] {
        let second = scene.ask("PUT", "rollouts/default/percent", &format!("if-match: {stale}\r\n"), body);
        assert_eq!(second.status, 412, "{stale}: {}", second.text());
        assert_eq!(json_of(&second)["current"].as_str(), first.header("etag"));
    }
    assert_eq!(scene.in_force(), before);
    let known = format!("if-match: \"x\", {}\r\n", first.header("etag").unwrap());
    assert_eq!(scene.ask("PUT", "rollouts/default/percent", &known, r#"{"percent": 60}"#).status, 200);
    assert_eq!(scene.ask("POST", "rollouts/default/rollback", "if-match: *\r\n", "{}").status, 200);
}

#[test]
fn a_rollback_wins_until_somebody_resumes() {
    let mut scene = Scene::with("100", "");
    assert_eq!(scene.side(), "new");
    let answer = scene.change("POST", "rollouts/default/rollback", &json!({"reason": "errors"}));
    assert_eq!(answer.status, 200);
    assert_eq!(scene.side(), "old");
    let latch = scene.rollout()["rollback"]["latches"][0].clone();
    assert_eq!((&latch["source"], &latch["reason"]), (&json!("operator"), &json!("errors")));
    let before = scene.in_force();
    let refused = scene.set(50.0);
    let problem = json_of(&refused);
    assert_eq!((refused.status, &problem["latch"]), (409, &latch["id"]));
    assert_eq!(problem["undo"], "tidegate resume default --reason TEXT");
    assert_eq!(scene.in_force(), before);
    assert_eq!(scene.change("POST", "resume", &json!({})).status, 200);
    assert_eq!(scene.side(), "new");
}

#[test]
fn what_a_file_asks_for_is_not_lifted_here() {
    let scene = Scene::with("100", "rollback: true\n");
    let refused = scene.change("POST", "rollouts/default/resume", &json!({}));
    assert_eq!(refused.status, 409);
    let undo = json_of(&refused)["undo"].as_str().unwrap().to_owned();
    assert!(undo.contains("rollback: false") && undo.contains("tidegate.yaml"), "{undo}");
}

#[test]
fn a_change_that_makes_no_sense_changes_nothing() {
    let scene = Scene::new();
    let before = scene.in_force();
    for (method, path, body, status, says) in [
        ("PUT", "rollouts/default/percent", r#"{"percent": 101}"#, 422, "0 to 100, at most two decimals"),
        ("PUT", "rollouts/default/percent", r#"{"percent": -0.5}"#, 422, "below 0"),
        ("PUT", "rollouts/default/percent", r#"{"percent": 0.001}"#, 422, "two decimals"),
        ("PUT", "rollouts/default/percent", r#"{"percent": 5, "forced": true}"#, 422, "`force`"),
        ("PUT", "rollouts/default/percent", r#"{"percent": 5"#, 400, "not JSON"),
        ("PUT", "rollouts/defualt/percent", r#"{"percent": 5}"#, 404, "Did you mean `default`?"),
        ("POST", "rollouts/default/promote", "{}", 409, "not a stepped rollout"),
        ("POST", "rollouts/default/switch", "{}", 409, "not a blue/green rollout"),
        ("POST", "rollouts/default/rollback", r#"{"percent": 5}"#, 422, "There is: reason"),
        ("POST", "routes/pay/hold", "{}", 404, "no route"),
        ("PATCH", "rollouts/default/percent", "{}", 405, "allow"),
    ] {
        let refused = scene.ask(method, path, "", body);
        assert_eq!(refused.status, status, "{method} {path} {body}: {}", refused.text());
        assert_eq!(refused.header("content-type"), Some("application/problem+json"));
        assert!(json_of(&refused)["detail"].as_str().unwrap().contains(says), "{says} in {}", refused.text());
    }
    assert_eq!(scene.in_force(), before);
}

#[test]
fn web_pages_change_nothing() {
    let scene = Scene::new();
    let before = scene.in_force();
    for stranger in
        ["origin: https://evil.example\r\n", "sec-fetch-site: cross-site\r\n", "sec-fetch-site: same-site\r\n"]
    {
        let refused = scene.ask("PUT", "rollouts/default/percent", stranger, r#"{"percent": 100}"#);
        assert_eq!(refused.status, 403, "{stranger}");
    }
    assert_eq!(scene.in_force(), before);
}

#[test]
fn with_tokens_a_change_needs_one_and_a_new_one_counts_after_a_reload() {
    let (old, new) = (Backend::named("old"), Backend::named("new"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens");
    std::fs::write(&file, "alice: alice-0123456789abcdef\n").unwrap();
    let config = format!(
        "listen: 127.0.0.1:0\nadmin: {{ address: 127.0.0.1:0, token_file: {} }}\nworkers: 1\n\
         shutdown: {{ readiness_delay: 0s, drain_timeout: 2s }}\n{}",
        file.display(),
        split(&old, &new, "0", "")
    );
    let tidegate = Tidegate::start_whole(&config);
    let client = tidegate.client();
    let scene = Scene { _backends: [old, new], tidegate, client };
    let set = |token: &str| {
        let header = if token.is_empty() { String::new() } else { format!("authorization: Bearer {token}\r\n") };
        scene.ask("PUT", "rollouts/default/percent", &header, r#"{"percent": 30}"#)
    };
    assert_eq!([set("").status, set("bob-0123456789abcdef").status], [401, 401]);
    assert_eq!(scene.rollout()["percent"]["override"], Value::Null);
    let done = json_of(&set("alice-0123456789abcdef"));
    assert_eq!(done["changes"][0]["who"]["name"], "alice");
    std::fs::write(&file, "bob: bob-0123456789abcdef\n").unwrap();
    let token = "authorization: Bearer alice-0123456789abcdef\r\n";
    let reloaded = scene.ask("POST", "reload", token, "{}");
    assert_eq!(reloaded.status, 200, "{}", reloaded.text());
    assert_eq!([set("alice-0123456789abcdef").status, set("bob-0123456789abcdef").status], [401, 200]);
}

#[test]
fn a_reload_is_told_how_it_went() {
    let scene = Scene::new();
    let (_, hash) = (scene.in_force(), json_of(&scene.tidegate.admin("/api/v1/status"))["config"]["hash"].clone());
    let same = json_of(&scene.change("POST", "reload", &json!({})));
    assert_eq!(same["hash"], hash);
    let [old, new] = &scene._backends;
    scene.tidegate.edit(&split(old, new, "250", ""));
    let refused = scene.change("POST", "reload", &json!({}));
    assert_eq!(refused.status, 422);
    assert!(json_of(&refused)["detail"].as_str().unwrap().contains("above 100"), "{}", refused.text());
    scene.tidegate.edit(&split(old, new, "40", ""));
    let taken = scene.change("POST", "reload", &json!({}));
    assert_eq!(taken.status, 200, "{}", taken.text());
    assert_eq!(scene.rollout()["percent"]["configured"], 40.0);
    let shown = json_of(&scene.tidegate.admin("/api/v1/config"));
    assert_eq!(shown["config"]["rollout"]["percent"], 40);
}

#[test]
fn a_state_that_was_lost_is_told() {
    let state = tempfile::tempdir().unwrap();
    std::fs::write(state.path().join("state.json"), "{ half a sta").unwrap();
    let mut scene = Scene::with("100", &format!("state_dir: {}\n", state.path().display()));
    let ready = scene.tidegate.admin("/readyz");
    assert_eq!(ready.status, 200);
    assert!(ready.text().starts_with("ready; ") && ready.text().contains("put aside as"), "{}", ready.text());
    let status = json_of(&scene.tidegate.admin("/api/v1/status"));
    assert_eq!(status["state"]["durable"], true);
    assert!(status["state"]["note"].as_str().unwrap().contains("put aside as"), "{status}");
    assert_eq!(scene.side(), "old");
    assert_eq!(scene.change("POST", "resume", &json!({"reason": "looked at it"})).status, 200);
    assert_eq!(scene.side(), "new");
}

#[test]
fn a_change_is_heard_by_those_who_listen() {
    let scene = Scene::new();
    let address: SocketAddr = scene.tidegate.admin.strip_prefix("http://").unwrap().parse().unwrap();
    let mut ear = Client::connect(address);
    ear.stream.write_all(b"GET /api/v1/events HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    let mut heard = String::new();
    let mut hears = |text: &str| {
        eventually(&format!("{text} is heard"), || {
            let mut piece = [0; 4096];
            let read = std::io::Read::read(&mut ear.stream, &mut piece).unwrap();
            heard.push_str(&String::from_utf8_lossy(&piece[..read]));
            heard.contains(text)
        });
    };
    hears("event: status\ndata: {");
    assert_eq!(scene.set(25.0).status, 200);
    hears("\"what\":\"set\",\"before\":\"0 % on new\",\"after\":\"25 % on new\"");
    hears("\"override\":25.0");
}

#[test]
fn maintenance_and_hold_show_in_status() {
    let mut scene = Scene::new();
    let body = json!({"message": "Back soon.", "retry_after": "30m", "reason": "move"});
    assert_eq!(scene.change("POST", "rollouts/default/maintenance", &body).status, 200);
    assert_eq!(scene.client.get_as(7).status, 503);
    let told = scene.rollout()["maintenance"].clone();
    assert_eq!((&told["message"], &told["retry_after"]), (&json!("Back soon."), &json!("30m")));
    assert_eq!((&told["by"], &told["reason"]), (&json!("loopback"), &json!("move")));
    assert_eq!(scene.change("POST", "rollouts/default/maintenance", &json!({"on": false})).status, 200);
    assert_eq!(scene.side(), "old");
    assert_eq!(scene.change("POST", "hold", &json!({"max_wait": "5s"})).status, 200);
    let status = json_of(&scene.tidegate.admin("/api/v1/status"));
    assert_eq!((&status["hold"]["max_wait_seconds"], &status["hold"]["releasing"]), (&json!(5.0), &json!(false)));
    assert_eq!(scene.change("POST", "hold", &json!({"on": false})).status, 200);
    eventually("the hold is over", || json_of(&scene.tidegate.admin("/api/v1/status"))["hold"].is_null());
    assert_eq!(scene.side(), "old");
}

#[test]
fn a_drain_shows_how_far_it_is() {
    let gate = Gate::default();
    let may_go = gate.clone();
    let slow = Backend::answering(move |_| {
        may_go.pass();
        ok(&[], b"slow")
    });
    let new = Backend::named("new");
    let tidegate = Tidegate::splitting(&slow, &new, 0);
    let client = tidegate.client();
    let mut scene = Scene { _backends: [slow, new], tidegate, client };
    scene.client.send("GET / HTTP/1.1\r\nhost: service\r\nx-user-id: 7\r\n\r\n");
    eventually("it runs", || scene.rollout()["sides"]["old"]["inflight"] == 1);
    let answer = scene.change("POST", "rollouts/default/drain", &json!({"side": "old", "reason": "empty it"}));
    let drain = json_of(&answer)["rollout"]["drain"].clone();
    assert_eq!((&drain["side"], &drain["inflight"], &drain["done"]), (&json!("old"), &json!(1), &json!(false)));
    gate.open();
    assert_eq!(scene.client.answer().status, 200);
    eventually("it is done", || scene.rollout()["drain"]["done"] == true);
    assert_eq!(scene.side(), "new");
    assert_eq!(scene.change("POST", "rollouts/default/drain", &json!({"side": null})).status, 200);
    assert_eq!(scene.rollout()["drain"], Value::Null);
}
