//! kill -9 at any moment leaves before or after, never between.

use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use serde_json::json;
use tidegate::control::journal::{audit, log_path};

use crate::support::process::Process;
use crate::support::{Backend, Client};

/// How often it is killed.
const KILLS: usize = 100;

/// An order, and what has to be in force after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Set(u16),
    Rollback,
    Resume,
    Maintenance(bool),
    Hold(bool),
    Drain(Option<&'static str>),
    /// Blue and green of another rollout change places, or change back.
    Switch {
        back: bool,
    },
}

/// What is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
struct InForce {
    percent: Option<u16>,
    rolled_back: bool,
    in_maintenance: bool,
    held: bool,
    drained: Option<&'static str>,
    /// Whether green serves, and whether green is where a rollback leads.
    green_serves: bool,
    green_is_old: bool,
}

impl Act {
    fn any(dice: &mut fastrand::Rng) -> Self {
        match dice.u8(0..11) {
            0 | 1 => Self::Set(dice.u16(0..=100)),
            2 => Self::Rollback,
            3 | 4 => Self::Resume,
            5 => Self::Maintenance(dice.bool()),
            6 | 7 => Self::Hold(dice.bool()),
            8 | 9 => Self::Switch { back: dice.bool() },
            _ => Self::Drain([None, Some("old"), Some("new")][dice.usize(0..3)]),
        }
    }

    fn request(self) -> String {
        let (method, verb, body) = match self {
            Self::Set(percent) => ("PUT", "percent", json!({ "percent": percent, "reason": "dice" })),
            Self::Rollback => ("POST", "rollback", json!({})),
            Self::Resume => ("POST", "resume", json!({})),
            Self::Maintenance(on) => ("POST", "maintenance", json!({ "on": on })),
            Self::Hold(on) => ("POST", "hold", json!({ "on": on })),
            Self::Drain(side) => ("POST", "drain", json!({ "side": side })),
            Self::Switch { back } => ("POST", "switch", json!({ "back": back })),
        };
        let rollout = if matches!(self, Self::Switch { .. }) { "shop" } else { "ledger" };
        let body = body.to_string();
        format!(
            "{method} /api/v1/rollouts/{rollout}/{verb} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
             content-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        )
    }
}

impl InForce {
    /// Whether `act` contradicts it.
    fn refuses(self, act: Act) -> bool {
        match act {
            Act::Set(0) => self.drained == Some("old"),
            Act::Set(percent) => {
                self.rolled_back || self.drained == Some("new") || (self.drained == Some("old") && percent < 100)
            }
            Act::Drain(Some("old")) => self.rolled_back || self.drained == Some("new"),
            Act::Drain(Some(_)) => self.drained == Some("old"),
            Act::Switch { back } => back && self.green_serves == self.green_is_old,
            Act::Rollback | Act::Resume | Act::Maintenance(_) | Act::Hold(_) | Act::Drain(None) => false,
        }
    }

    /// After `act`; the same if that is refused.
    fn after(self, act: Act) -> Self {
        match act {
            _ if self.refuses(act) => self,
            Act::Set(percent) => Self { percent: Some(percent), ..self },
            Act::Rollback => Self { rolled_back: true, drained: self.drained.filter(|side| *side != "old"), ..self },
            Act::Resume => Self { rolled_back: false, ..self },
            Act::Maintenance(on) => Self { in_maintenance: on, ..self },
            Act::Hold(on) => Self { held: on, ..self },
            Act::Drain(side) => Self { drained: side, ..self },
            Act::Switch { back: true } => Self { green_serves: self.green_is_old, ..self },
            Act::Switch { back: false } => {
                Self { green_serves: !self.green_serves, green_is_old: self.green_serves, ..self }
            }
        }
    }

    fn shown(process: &Process) -> Self {
        let answer = Client::connect(process.admin)
            .send("GET /api/v1/status HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
            .answer()
            .json();
        let [status, shop] = [&answer["rollouts"][0], &answer["rollouts"][1]];
        Self {
            percent: status["percent"]["override"].as_f64().map(|percent| percent as u16),
            rolled_back: status["rollback"]["active"].as_bool().unwrap(),
            in_maintenance: !status["maintenance"].is_null(),
            held: status["hold"]["releasing"] == false,
            drained: ["old", "new"].into_iter().find(|side| status["drain"]["side"] == *side),
            green_serves: shop["blue_green"]["active"] == "green",
            green_is_old: shop["blue_green"]["old"] == "green",
        }
    }
}

/// Traffic that does not stop, and how often it met NEW although it was told that NEW had been taken away.
struct Traffic {
    rolled_back: Arc<AtomicBool>,
    strays: Arc<AtomicUsize>,
    answered: Arc<AtomicUsize>,
    over: Arc<AtomicBool>,
}

impl Traffic {
    fn start(address: std::net::SocketAddr) -> Self {
        let traffic = Self {
            rolled_back: Arc::default(),
            strays: Arc::default(),
            answered: Arc::default(),
            over: Arc::default(),
        };
        for user in 0..2_u32 {
            let [rolled_back, over] = [&traffic.rolled_back, &traffic.over].map(Arc::clone);
            let [strays, answered] = [&traffic.strays, &traffic.answered].map(Arc::clone);
            thread::spawn(move || {
                let mut user = user;
                while !over.load(SeqCst) {
                    user = (user + 2) % 100;
                    let before = rolled_back.load(SeqCst);
                    let Some(side) = ask_as(address, user) else { continue };
                    answered.fetch_add(1, SeqCst);
                    if before && rolled_back.load(SeqCst) && side == "new" {
                        strays.fetch_add(1, SeqCst);
                    }
                }
            });
        }
        traffic
    }
}

/// The side that answers, if the process is there and does not turn the user away.
fn ask_as(address: std::net::SocketAddr, user: u32) -> Option<String> {
    let stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    let mut client = Client::over(stream);
    client.send(format!("GET / HTTP/1.1\r\nhost: service\r\nx-user-id: {user}\r\nconnection: close\r\n\r\n"));
    client.try_answer(false)?.header("x-backend").map(str::to_owned)
}

#[test]
fn a_hundred_kills_at_random_moments_leave_a_state_that_was_asked_for() {
    let (old, new) = (Backend::named("old"), Backend::named("new"));
    let mut process = Process::start(&format!(
        "state_dir: state\nworkers: 1\nhold: {{ max_wait: 100ms, release_rate: 10000 }}\n\
         rollouts:\n  ledger: {{ old: {old}, new: {new}, key: header:x-user-id, percent: 50 }}\n  \
         shop: {{ strategy: blue_green, blue: {old}, green: {new}, active: blue }}\n\
         routes: [{{ match: {{ path: /shop }}, rollout: shop }}, {{ match: {{}}, rollout: ledger }}]\n",
        old = old.url(),
        new = new.url()
    ));
    let traffic = Traffic::start(process.address);
    let seed = fastrand::u64(..);
    let mut dice = fastrand::Rng::with_seed(seed);
    let mut known = InForce::default();
    for kill in 0..KILLS {
        for _ in 0..dice.usize(0..4) {
            let act = Act::any(&mut dice);
            traffic.rolled_back.store(false, SeqCst);
            let answer = Client::connect(process.admin).send(act.request()).answer();
            assert!(matches!(answer.status, 200 | 409), "{act:?}: {}", answer.text());
            assert_eq!(answer.status == 409, known.refuses(act), "{act:?} on {known:?}: {}", answer.text());
            known = known.after(act);
            assert_eq!(InForce::shown(&process), known, "after {act:?} (seed {seed})");
            traffic.rolled_back.store(known.rolled_back, SeqCst);
        }
        let last = Act::any(&mut dice);
        traffic.rolled_back.store(known.rolled_back && last != Act::Resume, SeqCst);
        Client::connect(process.admin).send(last.request());
        thread::sleep(Duration::from_micros(dice.u64(0..3000))); // the random moment
        process.child.kill().unwrap();
        process.wait();
        process.restart();
        let found = InForce::shown(&process);
        assert!(
            [known, known.after(last)].contains(&found),
            "kill {kill}: {found:?} after {known:?} and {last:?} (seed {seed})"
        );
        known = found;
        let serving = Client::connect(process.address).get("/shop", &[]);
        let green = if known.green_serves { "new" } else { "old" };
        assert_eq!(serving.header("x-backend"), Some(green), "{known:?} (seed {seed})");
        if known.rolled_back && !known.held && !known.in_maintenance {
            for user in 0..100 {
                assert_ne!(ask_as(process.address, user).as_deref(), Some("new"), "user {user} (seed {seed})");
            }
        }
    }
    traffic.over.store(true, SeqCst);
    assert_eq!(traffic.strays.load(SeqCst), 0, "seed {seed}");
    assert!(traffic.answered.load(SeqCst) > KILLS, "there was traffic");
    audit::verify_file(&log_path(&process.dir.path().join("state"))).unwrap();
}
