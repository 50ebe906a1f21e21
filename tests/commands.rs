//! The verbs of the command line against the real binary: what they do, say and exit with.

use crate::support::process::Process;
use crate::support::proxy::split;
use crate::support::{Backend, eventually};

/// A process with one rollout, `default`, at 0 %, and a memory.
struct Rig {
    tidegate: Process,
    backends: [Backend; 2],
}

impl Rig {
    fn start() -> Self {
        let (old, new) = (Backend::named("old"), Backend::named("new"));
        let config = format!("workers: 1\nstate_dir: state\n{}", split(&old, &new, "0", ""));
        Self { tidegate: Process::start(&config), backends: [old, new] }
    }

    fn side_of(&self, user: u32) -> String {
        self.tidegate.client().get_as(user).header("x-backend").unwrap().to_owned()
    }
}

#[test]
fn a_percent_is_set_rolled_back_resumed_and_on_record() {
    let rig = Rig::start();
    assert!(
        rig.tidegate
            .done(&["set", "default", "--percent", "100", "--reason", "INC-7"])
            .starts_with("default: 0 % -> 100 % on new")
    );
    eventually("it is in force", || rig.side_of(7) == "new");
    let told = rig.tidegate.done(&["rollback"]);
    assert!(told.ends_with("to lift it: tidegate resume default\n"), "{told}");
    eventually("it is rolled back", || rig.side_of(7) == "old");

    let (code, _, refusal) = rig.tidegate.run(&["set", "default", "--percent", "50"]);
    assert!(code == 1 && refusal.contains("tidegate resume default"), "{refusal}");
    let status = rig.tidegate.done(&["status"]);
    assert!(status.contains("ROLLED BACK") && status.contains("next: tidegate resume default"), "{status}");

    rig.tidegate.done(&["resume", "--reason", "mended"]);
    eventually("it is back", || rig.side_of(7) == "new");
    rig.tidegate.done(&["set", "default", "--clear"]);
    let audit = rig.tidegate.done(&["audit", "-n", "4"]);
    for what in ["set\n", "rollback\n", "resume\n", "unset\n", "INC-7", "mended"] {
        assert!(audit.contains(what), "{what:?} in {audit}");
    }
}

#[test]
fn a_record_that_was_changed_is_found_out() {
    let rig = Rig::start();
    rig.tidegate.done(&["set", "default", "--percent", "5", "--reason", "INC-7"]);
    assert!(rig.tidegate.done(&["audit", "--verify"]).contains("chain intact"));
    let log = rig.tidegate.dir.path().join("state/audit.jsonl");
    let offline = ["audit", "--verify", "--file", "state/audit.jsonl"];
    assert!(rig.tidegate.done(&offline).contains("chain intact"));
    let written = std::fs::read_to_string(&log).unwrap();
    std::fs::write(&log, written.replace("INC-7", "INC-8")).unwrap();
    let (code, _, stderr) = rig.tidegate.run(&offline);
    assert!(code == 1 && stderr.contains("it was changed"), "{stderr}");
}

#[test]
fn a_side_without_requests_is_empty_at_once() {
    let rig = Rig::start();
    let told = rig.tidegate.done(&["drain", "default", "new", "--wait", "--deadline", "5s"]);
    assert!(told.contains("default: new is empty"), "{told}");
    let told = rig.tidegate.done(&["drain", "default", "off"]);
    assert!(told.contains("next: tidegate status default"), "{told}");
}

#[test]
fn wrong_usage_is_2_and_a_refusal_is_1() {
    let rig = Rig::start();
    for (words, code, says) in [
        (&["set", "default"][..], 2, "--percent"),
        (&["set", "default", "--percent", "101"], 2, "0 to 100"),
        (&["drain", "default", "off", "--wait"], 2, "go with"),
        (&["maintenance", "default", "off", "--read-only"], 2, "go with"),
        (&["set", "defualt", "--percent", "5"], 1, "Did you mean `default`?"),
        (&["switch", "default"], 1, "not a blue/green rollout"),
        (&["set", "default", "--percent", "5", "--admin", "http://127.0.0.1:1"], 1, "cannot reach tidegate"),
        (&["rollback", "default", "--admin", "http://127.0.0.1:1"], 1, "touch STATE_DIR/ROLLBACK"),
    ] {
        let (ended, _, stderr) = rig.tidegate.run(words);
        assert!(ended == code && stderr.contains(says), "{words:?} ends with {ended}: {stderr}");
    }
}

#[test]
fn the_record_says_which_keys_of_the_file_changed() {
    let rig = Rig::start();
    let [old, new] = &rig.backends;
    let config = format!("workers: 1\nstate_dir: state\n{}", split(new, old, "0", ""));
    rig.tidegate.edit(&config);
    eventually("it is on record", || {
        rig.tidegate.done(&["audit"]).contains("the config file changed: rollout.new, rollout.old")
    });
}

#[test]
fn a_rollback_that_a_file_asks_for_too_is_lifted_there_first() {
    let rig = Rig::start();
    std::fs::write(rig.tidegate.dir.path().join("state/ROLLBACK"), "").unwrap();
    eventually("the file comes first", || {
        let told = rig.tidegate.done(&["rollback"]);
        told.contains("to lift it: rm ") && told.ends_with("/state/ROLLBACK, then tidegate resume default\n")
    });
}
