//! The config file changes while traffic runs: what is good takes effect, what is bad changes nothing, nobody is lost.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use tidegate::app::Signal;

use crate::support::backend::ok;
use crate::support::proxy::{PREAMBLE, split};
use crate::support::{Backend, Client, Tidegate, eventually};

/// OLD, NEW, and a tidegate between them.
struct Scene {
    old: Backend,
    new: Backend,
    tidegate: Tidegate,
}

impl Scene {
    fn at(percent: u32) -> Self {
        let (old, new) = (Backend::named("old"), Backend::named("new"));
        let tidegate = Tidegate::splitting(&old, &new, percent);
        Self { old, new, tidegate }
    }

    /// The whole text of a config with this percent.
    fn text(&self, percent: u32) -> String {
        format!("{PREAMBLE}{}", split(&self.old, &self.new, &percent.to_string(), ""))
    }

    fn write(&self, text: impl AsRef<[u8]>) {
        fs::write(self.tidegate.config_path(), text).unwrap();
    }

    fn rename_over(&self, percent: u32) {
        self.tidegate.edit(&split(&self.old, &self.new, &percent.to_string(), ""));
    }

    /// Waits until `percent` is in force, not more and not less.
    #[track_caller]
    fn eventually_at(&self, percent: u32) {
        eventually_at(&self.tidegate, percent);
    }

    /// Waits until tidegate says that it did not take the file.
    #[track_caller]
    fn eventually_refused(&self) {
        eventually("the file is refused", || !self.says_successful());
    }

    fn says_successful(&self) -> bool {
        self.tidegate.metric("tidegate_config_last_reload_successful") == 1.0
    }
}

fn is_at(client: &mut Client, percent: u32) -> bool {
    let on_new = |client: &mut Client, user: u32| client.get_as(user).header("x-backend") == Some("new");
    (percent == 0 || on_new(client, percent - 1)) && (percent == 100 || !on_new(client, percent))
}

#[track_caller]
fn eventually_at(tidegate: &Tidegate, percent: u32) {
    let mut client = tidegate.client();
    eventually(&format!("{percent} % in force"), || is_at(&mut client, percent));
}

// -- ways in which a file changes

#[test]
fn a_file_renamed_over_the_old_one_takes_effect() {
    let scene = Scene::at(5);
    scene.rename_over(20);
    scene.eventually_at(20);
}

#[test]
fn a_file_written_in_place_takes_effect() {
    let scene = Scene::at(5);
    scene.write(scene.text(20));
    scene.eventually_at(20);
    scene.write(scene.text(1));
    scene.eventually_at(1);
}

#[test]
fn fifty_config_map_swaps_take_effect_one_after_the_other() {
    let (old, new) = (Backend::named("old"), Backend::named("new"));
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().to_owned();
    let publish = |version: u32| {
        let folder = root.join(format!("..v{version}"));
        fs::create_dir(&folder).unwrap();
        let text = format!("{PREAMBLE}{}", split(&old, &new, &(version % 100).to_string(), ""));
        fs::write(folder.join("tidegate.yaml"), text).unwrap();
        symlink(folder.file_name().unwrap(), root.join("..data_tmp")).unwrap();
        fs::rename(root.join("..data_tmp"), root.join("..data")).unwrap();
        if version > 1 {
            fs::remove_dir_all(root.join(format!("..v{}", version - 1))).unwrap();
        }
    };
    publish(1);
    symlink("..data/tidegate.yaml", root.join("tidegate.yaml")).unwrap();
    let tidegate = Tidegate::start_at(dir, root.join("tidegate.yaml")).unwrap();
    let begun = Instant::now();
    for version in 2..=51 {
        publish(version);
        eventually_at(&tidegate, version);
    }
    // By the poll alone it would take more than a minute.
    assert!(begun.elapsed() < Duration::from_secs(40), "{:?}", begun.elapsed());
}

#[test]
fn a_deleted_file_changes_nothing_until_it_is_back() {
    let scene = Scene::at(5);
    fs::remove_file(scene.tidegate.config_path()).unwrap();
    scene.eventually_refused();
    scene.eventually_at(5);
    scene.write(scene.text(20));
    scene.eventually_at(20);
    assert!(scene.says_successful());
}

#[test]
fn a_deleted_folder_changes_nothing_and_is_watched_again_once_it_is_back() {
    let (old, new) = (Backend::named("old"), Backend::named("new"));
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("conf");
    let publish = |percent: u32| {
        fs::create_dir_all(&folder).unwrap();
        let text = format!("{PREAMBLE}{}", split(&old, &new, &percent.to_string(), ""));
        fs::write(folder.join("new"), text).unwrap();
        fs::rename(folder.join("new"), folder.join("tidegate.yaml")).unwrap();
    };
    publish(5);
    let tidegate = Tidegate::start_at(dir, folder.join("tidegate.yaml")).unwrap();
    fs::remove_dir_all(&folder).unwrap();
    eventually("the file is missed", || tidegate.metric("tidegate_config_last_reload_successful") == 0.0);
    eventually_at(&tidegate, 5);
    publish(20);
    eventually_at(&tidegate, 20);
    let begun = Instant::now();
    for percent in 21..=40 {
        publish(percent);
        eventually_at(&tidegate, percent);
    }
    assert!(begun.elapsed() < Duration::from_secs(20), "only the poll saw it: {:?}", begun.elapsed());
}

#[test]
fn a_reload_on_request_reads_the_files_that_the_config_names() {
    let (old, new) = (Backend::named("old"), Backend::named("new"));
    let dir = tempfile::tempdir().unwrap();
    let keys = dir.path().join("keys");
    fs::write(&keys, "70\n").unwrap();
    let rules = format!("  rules:\n    - {{ keys_file: {}, side: new }}\n", keys.display());
    let tidegate = Tidegate::start(&split(&old, &new, "0", &rules));
    let mut client = tidegate.client();
    let mut is_on_new = move |user: u32| client.get_as(user).header("x-backend") == Some("new");
    assert!(is_on_new(70) && !is_on_new(80));
    fs::write(&keys, "80\n").unwrap();
    tidegate.signal(Signal::Reload);
    eventually("the list is read again", || is_on_new(80) && !is_on_new(70));
}

// -- files that are not good

/// Asks as `user` over and over until it is dropped, and remembers which backends answered.
struct Observer<'scope> {
    answers: &'scope Mutex<Vec<String>>,
    stop: &'scope AtomicBool,
}

impl Observer<'_> {
    fn observe(&self, tidegate: &Tidegate, users: &[u32]) {
        let mut client = tidegate.client();
        while !self.stop.load(SeqCst) {
            for user in users {
                let answer = client.get_as(*user);
                let told = format!("{user} {} {}", answer.status, answer.header("x-backend").unwrap_or("nobody"));
                let mut answers = self.answers.lock().unwrap();
                if !answers.contains(&told) {
                    answers.push(told);
                }
            }
        }
    }
}

/// What `users` were answered by while `act` ran, each different answer once.
fn observed(tidegate: &Tidegate, users: &[u32], act: impl FnOnce()) -> Vec<String> {
    let (answers, stop) = (Mutex::default(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| Observer { answers: &answers, stop: &stop }.observe(tidegate, users));
        act();
        stop.store(true, SeqCst);
    });
    let mut answers = answers.into_inner().unwrap();
    answers.sort();
    answers
}

#[test]
fn a_half_written_file_moves_nobody_wherever_it_is_cut() {
    let scene = Scene::at(50);
    let text = scene.text(50);
    let in_the_percent = text.find("percent: 5").unwrap() + "percent: 5".len();
    let offsets = (0..text.len()).step_by(11).chain(in_the_percent - 3..text.len());
    let answers = observed(&scene.tidegate, &[4, 20, 49, 50, 99], || {
        for offset in offsets {
            scene.write(&text[..offset]);
            std::thread::sleep(Duration::from_millis(60)); // longer than a burst of events, shorter than a probation
            scene.write(&text);
        }
    });
    assert_eq!(answers, ["20 200 new", "4 200 new", "49 200 new", "50 200 old", "99 200 old"]);
}

#[test]
fn a_percent_cut_to_its_first_digit_is_not_taken_for_a_percent() {
    let scene = Scene::at(50);
    for (from, to) in [(50, 50), (50, 80), (80, 83), (83, 50)] {
        let text = scene.text(to);
        let stays_on_new = from.min(to) - 1;
        let answers = observed(&scene.tidegate, &[stays_on_new], || {
            scene.write(&text[..text.len() - 2]);
            std::thread::sleep(Duration::from_millis(500)); // a slow writer, far slower than a burst of events
            scene.write(&text);
            scene.eventually_at(to);
        });
        assert_eq!(answers, [format!("{stays_on_new} 200 new")], "{from} -> {to}");
    }
}

#[test]
fn a_file_that_stays_short_counts_in_the_end() {
    let scene = Scene::at(50);
    let text = scene.text(50);
    scene.write(text.trim_end().strip_suffix('0').unwrap());
    scene.eventually_at(5);
}

/// Puts `bad` in place, waits until it is refused for the reason `why`, and looks whether anything else changed.
#[track_caller]
fn changes_nothing(why: &str, bad: impl FnOnce(&Path)) {
    let scene = Scene::at(5);
    bad(&scene.tidegate.config_path());
    eventually(&format!("refused for: {why}"), || {
        let status: serde_json::Value = serde_json::from_slice(&scene.tidegate.admin("/api/v1/status").body).unwrap();
        let reload = &status["reload"];
        reload["successful"] == false && reload["error"].as_str().is_some_and(|error| error.contains(why))
    });
    assert!(!scene.says_successful());
    scene.eventually_at(5);
    assert_eq!(scene.tidegate.metric("tidegate_rollout_percent{rollout=\"default\",kind=\"effective\"}"), 5.0);
    put_back(&scene);
}

/// A good file is taken after a bad one, whatever the bad one was.
#[track_caller]
fn put_back(scene: &Scene) {
    let path = scene.tidegate.config_path();
    if path.is_dir() {
        fs::remove_dir(&path).unwrap();
    }
    scene.rename_over(7);
    scene.eventually_at(7);
    eventually("the good file is told as good", || scene.says_successful());
}

#[test]
fn an_empty_file_changes_nothing() {
    changes_nothing("listen", |path| fs::write(path, "").unwrap());
}

#[test]
fn garbage_changes_nothing() {
    changes_nothing("", |path| fs::write(path, (0..=255).cycle().take(5000).collect::<Vec<u8>>()).unwrap());
}

#[test]
fn a_percent_beyond_a_hundred_changes_nothing_and_is_named() {
    changes_nothing("rollout.percent", |path| {
        let text = fs::read_to_string(path).unwrap();
        fs::write(path, text.replace("percent: 5", "percent: 500")).unwrap();
    });
}

#[test]
fn a_key_that_nobody_knows_changes_nothing_and_is_named() {
    changes_nothing("percnet", |path| {
        let text = fs::read_to_string(path).unwrap();
        fs::write(path, text.replace("percent: 5", "percnet: 50")).unwrap();
    });
}

#[test]
fn fifty_megabytes_change_nothing() {
    changes_nothing("larger than 1024 KiB", |path| fs::write(path, vec![b'#'; 50_000_000]).unwrap());
}

#[test]
fn an_alias_bomb_changes_nothing() {
    changes_nothing("", |path| {
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let aliases = format!("*a{}, ", level - 1).repeat(10);
            bomb.push_str(&format!("a{level}: &a{level} [{}]\n", aliases.trim_end_matches(", ")));
        }
        fs::write(path, bomb).unwrap();
    });
}

#[test]
fn a_folder_in_place_of_the_file_changes_nothing() {
    changes_nothing("folder", |path| {
        fs::remove_file(path).unwrap();
        fs::create_dir(path).unwrap();
    });
}

#[test]
fn a_pipe_in_place_of_the_file_changes_nothing_and_blocks_nothing() {
    changes_nothing("not a regular file", |path| {
        fs::remove_file(path).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
    });
}

#[test]
fn a_bad_file_is_counted_once_however_often_it_is_looked_at() {
    let scene = Scene::at(5);
    let attempts = || scene.tidegate.metric("tidegate_config_reloads_total");
    let before = attempts();
    scene.write("garbage: [");
    scene.eventually_refused();
    for n in 0..20 {
        fs::write(scene.tidegate.dir.path().join("neighbour"), n.to_string()).unwrap(); // the folder is looked at again
        std::thread::sleep(Duration::from_millis(30)); // longer than a burst of events
    }
    assert_eq!(attempts(), before + 1.0);
}

// -- under load

#[test]
fn a_thousand_reloads_a_second_are_coalesced_and_the_last_wins() {
    let scene = Scene::at(5);
    let before = scene.tidegate.metric("tidegate_config_reloads_total");
    let begun = Instant::now();
    let mut written = 0;
    while begun.elapsed() < Duration::from_secs(1) {
        scene.rename_over(written % 50);
        written += 1;
        std::thread::sleep(Duration::from_micros(700)); // a thousand a second
    }
    scene.rename_over(60);
    scene.eventually_at(60);
    let taken = scene.tidegate.metric("tidegate_config_reloads_total") - before;
    assert!(taken < f64::from(written) / 5.0 && taken < 60.0, "{taken} of {written} were taken");
}

#[test]
fn every_request_sees_exactly_one_config() {
    const PERCENTS: usize = 101;
    let echo = |name: &'static str| {
        Backend::answering(move |request| {
            ok(&[("x-backend", name), ("x-told", request.header("x-tidegate-side").unwrap())], b"")
        })
    };
    let (old, new) = (echo("old"), echo("new"));
    let scene = Scene { tidegate: Tidegate::splitting(&old, &new, 0), old, new };
    // Up and down, by steps of all sizes, never the same twice in a row.
    let percents: Vec<u32> = (0..PERCENTS).map(|n| u32::try_from(n * n * 37 % 101).unwrap()).collect();
    // 2n: the nth is in force; 2n + 1: the next one is on its way.
    let stage = AtomicUsize::new(0);
    let served = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (percents, stage, served, scene) = (&percents, &stage, &served, &scene);
            scope.spawn(move || {
                let mut client = scene.tidegate.client();
                for user in (thread * 25..).map(|n: u32| n.wrapping_mul(7) % 100) {
                    let before = stage.load(SeqCst);
                    if before == 2 * (PERCENTS - 1) {
                        return;
                    }
                    let answer = client.get_as(user);
                    let possible = &percents[before / 2..=stage.load(SeqCst).div_ceil(2)];
                    let side = answer.header("x-backend").unwrap_or("nobody");
                    assert_eq!(answer.status, 200);
                    assert_eq!(answer.header("x-told"), Some(side));
                    assert!(
                        possible.iter().any(|percent| side == if user < *percent { "new" } else { "old" }),
                        "user {user} was on {side} at one of {possible:?} %"
                    );
                    served.fetch_add(1, SeqCst);
                }
            });
        }
        for (n, percent) in percents.iter().enumerate().skip(1) {
            stage.store(2 * n - 1, SeqCst);
            scene.rename_over(*percent);
            scene.eventually_at(*percent);
            stage.store(2 * n, SeqCst);
        }
    });
    assert!(served.into_inner() > 4 * PERCENTS, "the reloads came too fast to say anything");
}

// -- backends that change, and the connections to them

#[test]
fn connections_to_an_unchanged_backend_are_kept_over_reloads() {
    let (old, new) = (Backend::named("old"), Backend::named("new"));
    let text = |percent: u32| {
        let old = format!("{{ endpoints: [\"{}\"], timeouts: {{ idle: 60s }} }}", old.url());
        let new = format!("{{ endpoints: [\"{}\"], timeouts: {{ idle: 60s }} }}", new.url());
        format!(
            "workers: 1\nbackends:\n  a: {old}\n  b: {new}\n\
             rollout: {{ old: a, new: b, key: header:x-user-id, percent: {percent} }}\n"
        )
    };
    let preamble = PREAMBLE.replace("workers: 2\n", "");
    let tidegate = Tidegate::start_whole(&format!("{preamble}{}", text(50)));
    let mut client = tidegate.client();
    client.get_as(10);
    client.get_as(90);
    for percent in 51..=70 {
        fs::write(tidegate.config_path(), format!("{preamble}{}", text(percent))).unwrap();
        eventually("the percent is in force", || is_at(&mut client, percent));
    }
    assert_eq!((old.connections(), new.connections()), (1, 1));
}

#[test]
fn connections_to_a_backend_that_is_gone_from_the_config_are_closed() {
    let (scene, newer) = (Scene::at(50), Backend::named("newer"));
    let mut client = scene.tidegate.client();
    client.get_as(10);
    assert_eq!(scene.new.open_connections(), 1);
    scene.tidegate.edit(&split(&scene.old, &newer, "50", ""));
    eventually("the other backend serves", || client.get_as(10).header("x-backend") == Some("newer"));
    eventually("the old connections are closed", || scene.new.open_connections() == 0);
}

#[test]
fn a_long_answer_does_not_keep_the_idle_connections_of_a_backend_that_is_gone() {
    let (ends, is_over) = std::sync::mpsc::channel::<()>();
    let is_over = Mutex::new(is_over);
    let slow = Backend::scripted(move |connection| {
        connection.read_request();
        connection.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\na");
        let _dropped_if_the_story_fails = is_over.lock().unwrap().recv();
        connection.write(b"b");
    });
    let (gone, newer) = (Backend::named("gone"), Backend::named("newer"));
    let config = |new: &Backend| {
        let idle = "timeouts: { idle: 60s }";
        let [a, b] = [slow.url(), new.url()].map(|url| format!("{{ endpoints: [\"{url}\"], {idle} }}"));
        format!("backends:\n  a: {a}\n  b: {b}\nrollout: {{ old: a, new: b, key: header:x-user-id, percent: 50 }}\n")
    };
    let tidegate = Tidegate::start(&config(&gone));
    let (mut long, mut client) = (tidegate.client(), tidegate.client());
    long.send("GET / HTTP/1.1\r\nhost: service\r\nx-user-id: 90\r\n\r\n");
    eventually("the long answer has begun", || slow.connections() == 1);
    // A connection to the backend that will go, made by each worker.
    let mut others: Vec<Client> = (0..4).map(|_| tidegate.client()).collect();
    others.iter_mut().for_each(|other| drop(other.get_as(10)));
    tidegate.edit(&config(&newer));
    eventually("the other backend serves", || client.get_as(10).header("x-backend") == Some("newer"));
    eventually("the old connections are closed", || gone.open_connections() == 0);
    ends.send(()).unwrap();
    assert_eq!(long.answer().text(), "ab");
}

#[test]
fn a_running_request_finishes_on_the_backend_where_it_began() {
    let (go, may_go) = std::sync::mpsc::channel::<()>();
    let may_go = Mutex::new(may_go);
    let slow = Backend::answering(move |request| {
        if request.target == "/slow" {
            let _dropped_if_the_story_fails = may_go.lock().unwrap().recv();
        }
        ok(&[("x-backend", "slow")], b"done")
    });
    let (old, newer) = (Backend::named("old"), Backend::named("newer"));
    let tidegate = Tidegate::splitting(&old, &slow, 50);
    let mut running = tidegate.client();
    running.send("GET /slow HTTP/1.1\r\nhost: service\r\nx-user-id: 10\r\n\r\n");
    eventually("the request is running", || slow.requests().len() == 1);
    tidegate.edit(&split(&old, &newer, "50", ""));
    let mut client = tidegate.client();
    eventually("the other backend serves", || client.get_as(10).header("x-backend") == Some("newer"));
    go.send(()).unwrap();
    let answer = running.answer();
    assert_eq!((answer.status, answer.header("x-backend"), answer.text().as_str()), (200, Some("slow"), "done"));
    eventually("the backend that is gone has no connection left", || slow.open_connections() == 0);
}
