//! Back to OLD, through each door that needs nothing but a file.

use std::fs;
use std::sync::Mutex;
use std::time::Duration;

use crate::support::backend::ok;
use crate::support::proxy::{PREAMBLE, split};
use crate::support::{Backend, Client, Tidegate, eventually};

fn is_on_new(client: &mut Client, user: u32) -> bool {
    client.get_as(user).header("x-backend") == Some("new")
}

/// Two rollouts, `cards` below `/cards` and `ledger` elsewhere, both wholly on NEW, and a state directory.
struct Scene {
    old: Backend,
    new: Backend,
    tidegate: Tidegate,
    client: Client,
}

impl Scene {
    fn new() -> Self {
        let (old, new) = (Backend::named("old"), Backend::named("new"));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tidegate.yaml");
        fs::write(&path, Self::config(&old, &new, dir.path(), "")).unwrap();
        let tidegate = Tidegate::start_at(dir, path).unwrap();
        let mut client = tidegate.client();
        assert_eq!(sides(&mut client), ["new", "new"]);
        Self { old, new, tidegate, client }
    }

    fn config(old: &Backend, new: &Backend, dir: &std::path::Path, top: &str) -> String {
        let rollout = format!("{{ old: {}, new: {}, key: header:x-user-id, percent: 100 }}", old.url(), new.url());
        format!(
            "{PREAMBLE}state_dir: {}\n{top}rollouts:\n  cards: {rollout}\n  ledger: {rollout}\n\
             routes:\n  - {{ match: {{ path: /cards }}, rollout: cards }}\n  - {{ match: {{}}, rollout: ledger }}\n",
            dir.join("state").display()
        )
    }

    fn flag(&self) -> std::path::PathBuf {
        self.tidegate.dir.path().join("state/ROLLBACK")
    }

    /// Waits until cards and ledger are on these sides, as a client sees it that has been connected all the time.
    #[track_caller]
    fn eventually_on(&mut self, cards: &str, ledger: &str) {
        let client = &mut self.client;
        eventually(&format!("cards on {cards}, ledger on {ledger}"), || sides(client) == [cards, ledger]);
    }
}

/// Where cards and ledger are.
fn sides(client: &mut Client) -> [String; 2] {
    ["/cards", "/pay"].map(|path| {
        let answer = client.get(path, &[("x-user-id", "7")]);
        assert_eq!(answer.status, 200);
        answer.header("x-backend").unwrap().to_owned()
    })
}

#[test]
fn a_rollout_rolled_back_in_the_config_goes_to_old() {
    let (old, new) = (Backend::named("old"), Backend::named("new"));
    let tidegate = Tidegate::splitting(&old, &new, 100);
    let mut client = tidegate.client();
    assert!(is_on_new(&mut client, 1));
    tidegate.edit(&split(&old, &new, "100", "  rollback: true\n"));
    eventually("everybody is on old", || !is_on_new(&mut client, 1));
    client.get_as(1);
    assert_eq!(old.requests().last().unwrap().header("x-tidegate-reason"), Some("rollback"));
    tidegate.edit(&split(&old, &new, "100", "  rollback: false\n"));
    eventually("the rollback is lifted", || is_on_new(&mut client, 1));
}

#[test]
fn a_rollback_of_the_whole_file_covers_every_rollout() {
    let mut scene = Scene::new();
    let text = Scene::config(&scene.old, &scene.new, scene.tidegate.dir.path(), "rollback: true\n");
    fs::write(scene.tidegate.config_path(), text).unwrap();
    scene.eventually_on("old", "old");
    assert_eq!(scene.tidegate.metric("tidegate_rollback_active{rollout=\"cards\"}"), 1.0);
    assert_eq!(scene.tidegate.metric("tidegate_rollback_active{rollout=\"ledger\"}"), 1.0);
}

#[test]
fn touching_the_flag_file_rolls_everything_back_and_removing_it_lifts_that() {
    let mut scene = Scene::new();
    fs::write(scene.flag(), "").unwrap();
    scene.eventually_on("old", "old");
    fs::remove_file(scene.flag()).unwrap();
    scene.eventually_on("new", "new");
}

#[test]
fn a_name_in_the_flag_file_rolls_back_that_rollout_alone() {
    let mut scene = Scene::new();
    fs::write(scene.flag(), "ledger\n").unwrap();
    scene.eventually_on("new", "old");
    fs::write(scene.flag(), "cards\n").unwrap();
    scene.eventually_on("old", "new");
}

#[test]
fn a_name_in_the_flag_file_that_nobody_knows_rolls_everything_back() {
    let mut scene = Scene::new();
    fs::write(scene.flag(), "legder\n").unwrap();
    scene.eventually_on("old", "old");
}

#[test]
fn a_flag_file_that_is_there_at_the_start_counts_from_the_first_request() {
    let (old, new) = (Backend::named("old"), Backend::named("new"));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tidegate.yaml");
    fs::write(&path, Scene::config(&old, &new, dir.path(), "")).unwrap();
    fs::create_dir(dir.path().join("state")).unwrap();
    fs::write(dir.path().join("state/ROLLBACK"), "").unwrap();
    let tidegate = Tidegate::start_at(dir, path).unwrap();
    assert_eq!(sides(&mut tidegate.client()), ["old", "old"]);
    assert_eq!(new.connections(), 0);
}

#[test]
fn the_flag_file_works_while_the_config_is_broken() {
    let mut scene = Scene::new();
    fs::write(scene.tidegate.config_path(), "garbage: [").unwrap();
    fs::write(scene.flag(), "").unwrap();
    scene.eventually_on("old", "old");
    fs::remove_file(scene.tidegate.config_path()).unwrap();
    fs::remove_file(scene.flag()).unwrap();
    scene.eventually_on("new", "new");
}

#[test]
fn the_flag_file_works_after_its_folder_was_deleted_and_made_again() {
    let mut scene = Scene::new();
    let folder = scene.flag().parent().unwrap().to_owned();
    let away = folder.with_file_name("away");
    fs::rename(&folder, &away).unwrap(); // nothing is written there any more while it is deleted
    fs::remove_dir_all(&away).unwrap();
    fs::create_dir(&folder).unwrap();
    fs::write(scene.flag(), "").unwrap();
    scene.eventually_on("old", "old");
}

#[test]
fn the_flag_outlives_reloads_of_the_config() {
    let mut scene = Scene::new();
    fs::write(scene.flag(), "").unwrap();
    scene.eventually_on("old", "old");
    let text = Scene::config(&scene.old, &scene.new, scene.tidegate.dir.path(), "limits: { max_connections: 77 }\n");
    let before = scene.tidegate.metric("tidegate_config_reloads_total");
    fs::write(scene.tidegate.config_path(), text).unwrap();
    eventually("the config is taken", || scene.tidegate.metric("tidegate_config_reloads_total") > before);
    assert_eq!(sides(&mut scene.client), ["old", "old"]);
}

#[test]
fn a_rollback_does_not_wait_for_a_file_that_looks_cut_short() {
    let (old, new) = (Backend::named("old"), Backend::named("new"));
    let tidegate = Tidegate::splitting(&old, &new, 100);
    let mut client = tidegate.client();
    // No newline at the end and never the same for long: a text of this kind has to stand for a while, unless it rolls back.
    let mut n = 0;
    eventually("everybody is on old", || {
        n += 1;
        tidegate.edit(split(&old, &new, "60", &format!("  rollback: true # {n}")).trim_end());
        std::thread::sleep(Duration::from_millis(60)); // longer than a burst of events, shorter than a probation
        !is_on_new(&mut client, 1)
    });
}

#[test]
fn a_request_that_runs_on_new_finishes_there() {
    let (go, may_go) = std::sync::mpsc::channel::<()>();
    let may_go = Mutex::new(may_go);
    let new = Backend::answering(move |_| {
        let _dropped_if_the_story_fails = may_go.lock().unwrap().recv();
        ok(&[("x-backend", "new")], b"done")
    });
    let old = Backend::named("old");
    let tidegate = Tidegate::splitting(&old, &new, 100);
    let mut running = tidegate.client();
    running.send("GET / HTTP/1.1\r\nhost: service\r\nx-user-id: 1\r\n\r\n");
    eventually("the request is running", || new.requests().len() == 1);
    tidegate.edit(&split(&old, &new, "100", "  rollback: true\n"));
    // Asked by force of `on_missing`: a request without a key never waits for NEW.
    let mut client = tidegate.client();
    eventually("the rollback is in force", || {
        client.get("/", &[]);
        old.requests().last().is_some_and(|request| request.header("x-tidegate-reason") == Some("rollback"))
    });
    assert_eq!(client.get_as(1).header("x-backend"), Some("old"));
    go.send(()).unwrap();
    let answer = running.answer();
    assert_eq!((answer.header("x-backend"), answer.text().as_str()), (Some("new"), "done"));
    assert_eq!(running.get_as(1).header("x-backend"), Some("old"));
}

#[test]
fn nothing_is_sent_to_new_after_a_client_has_seen_the_rollback() {
    let (old, new) = (Backend::named("old"), Backend::named("new"));
    let tidegate = Tidegate::splitting(&old, &new, 100);
    let mut clients: Vec<Client> = (0..8).map(|_| tidegate.client()).collect();
    assert!(clients.iter_mut().all(|client| is_on_new(client, 1)));
    tidegate.edit(&split(&old, &new, "100", "  rollback: true\n"));
    let mut first = tidegate.client();
    eventually("one client is on old", || !is_on_new(&mut first, 1));
    let sent_before = new.requests().len();
    for client in &mut clients {
        assert!(!is_on_new(client, 1));
    }
    assert_eq!(new.requests().len(), sent_before);
}

#[test]
fn a_state_dir_that_disappears_does_not_lift_its_rollback() {
    let (old, new) = (Backend::named("old"), Backend::named("new"));
    let state = tempfile::tempdir().unwrap();
    let folder = state.path().join("state");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("ROLLBACK"), "").unwrap();
    let tidegate = Tidegate::start(&format!("state_dir: {}\n{}", folder.display(), split(&old, &new, "100", "")));
    let mut client = tidegate.client();
    assert_eq!(client.get_as(1).header("x-backend"), Some("old"));
    fs::rename(&folder, state.path().join("away")).unwrap();
    tidegate.edit(&format!("state_dir: {}\n{}", folder.display(), split(&old, &new, "99", "")));
    eventually("the folder was looked for", || tidegate.metric("tidegate_config_reloads_total") > 1.0);
    assert_eq!(client.get_as(1).header("x-backend"), Some("old"));
    // An empty folder in its place, as a mount point is, has not been asked to lift anything.
    fs::create_dir(&folder).unwrap();
    let reloads = tidegate.metric("tidegate_config_reloads_total");
    tidegate.edit(&format!("state_dir: {}\n{}", folder.display(), split(&old, &new, "98", "")));
    eventually("the folder was looked at", || tidegate.metric("tidegate_config_reloads_total") > reloads);
    assert_eq!(client.get_as(1).header("x-backend"), Some("old"));
    // The mount is back, and somebody removes the file.
    fs::rename(&folder, state.path().join("unmounted")).unwrap(); // something may just be written there
    fs::rename(state.path().join("away"), &folder).unwrap();
    fs::remove_file(folder.join("ROLLBACK")).unwrap();
    eventually("it is lifted", || client.get_as(1).header("x-backend") == Some("new"));
}
