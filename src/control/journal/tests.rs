use std::fs;
use std::process::Command;
use std::sync::Barrier;

use proptest::prelude::*;

use super::audit::{Who, verify, verify_file};
use super::*;

type Words = Journal<String>;

fn draft(reason: &str) -> Draft {
    Draft {
        at: SystemTime::now(),
        who: Who { kind: "operator".to_owned(), name: "ada".to_owned() },
        scope: "cards".to_owned(),
        what: "act".to_owned(),
        before: String::new(),
        after: String::new(),
        reason: reason.to_owned(),
        forced: false,
    }
}

/// A folder in memory if there is such a place: the tests sync thousands of times, and a busy disk is not what they are
/// about.
pub(super) fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn wait<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}

/// Commits `state` with `count` entries and waits for the outcome.
fn commit(journal: &Words, state: &str, count: usize) -> Durability {
    let drafts = (0..count).map(|n| draft(&n.to_string())).collect();
    wait(journal.commit(state.to_owned(), drafts).outcome())
}

fn becomes_durable(journal: &Words) {
    let mut outcomes = journal.outcomes();
    let durable = outcomes.wait_for(|now| *now == Durability::Durable);
    let in_time = async { tokio::time::timeout(Duration::from_secs(20), durable).await.is_ok() };
    assert!(wait(in_time), "not durable by itself");
}

fn logged(dir: &Path) -> Vec<Entry> {
    let text = fs::read_to_string(log::path(dir)).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What a new process finds; its log has to be whole, and to end where its chain does.
fn reopen(dir: &Path) -> (Words, Found<String>) {
    let (journal, found) = Words::open(dir).unwrap();
    let head = if log::path(dir).exists() { verify_file(&log::path(dir)).unwrap() } else { Head::default() };
    assert_eq!(head, journal.head());
    (journal, found)
}

#[test]
fn what_was_committed_is_found_again() {
    let dir = folder();
    let (journal, found) = reopen(dir.path());
    assert_eq!(found, Found::Nothing);
    assert_eq!(commit(&journal, "a", 2), Durability::Durable);
    assert_eq!(commit(&journal, "b", 0), Durability::Durable);
    let committed = journal.commit("c".to_owned(), vec![draft("why")]);
    assert_eq!(committed.entries[0].seq, 3, "known before any disk has heard of it");
    drop(journal); // writes what waits

    let (journal, found) = reopen(dir.path());
    assert_eq!(found, Found::State("c".to_owned()));
    assert_eq!(journal.head().seq, 3);
    assert_eq!(journal.entries(2, 10).unwrap(), [Entry::clone(&committed.entries[0])]);
    assert_eq!(journal.durability(), Durability::Durable);
}

#[test]
fn without_a_directory_the_last_entries_are_kept() {
    let journal = Words::in_memory();
    assert_eq!(commit(&journal, "a", 3), Durability::NoStateDir);
    assert_eq!(commit(&journal, "b", 2_000), Durability::NoStateDir);
    assert_eq!(journal.durability(), Durability::NoStateDir);
    let kept = journal.entries(0, 5_000).unwrap();
    assert_eq!((kept.len(), kept[0].seq, journal.head().seq), (1_000, 1_004, 2_003));
}

#[test]
fn a_second_journal_is_refused() {
    let dir = folder();
    let first = reopen(dir.path());
    let error = Words::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("is in use by process"), "{error}");
    drop(first);
    reopen(dir.path());
}

#[test]
fn a_state_that_is_gone_is_no_first_start() {
    let dir = folder();
    let (journal, _) = reopen(dir.path());
    commit(&journal, "rolled back", 2);
    drop(journal);
    fs::remove_file(dir.path().join(state_file::NAME)).unwrap();
    let (journal, found) = reopen(dir.path());
    assert!(matches!(&found, Found::Unreadable { why } if why.contains("ends with entry 2")), "{found:?}");
    assert_eq!(journal.head().seq, 2, "the chain goes on");
}

#[test]
fn what_is_not_a_plain_file_is_refused() {
    for name in [state_file::NAME, log::NAME, lock::NAME] {
        let dir = folder();
        fs::create_dir(dir.path().join(name)).unwrap();
        let error = Words::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("{name} is not a plain file\nhelp: ")), "{error}");
        fs::remove_dir(dir.path().join(name)).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", dir.path().join(name)).unwrap();
        assert!(matches!(Words::open(dir.path()), Err(OpenError::NotAFile { .. })));
    }
}

#[test]
fn a_kill_at_any_point_between_the_two_files_leaves_each_entry_once() {
    let dir = folder();
    let (state_path, log_path) = (dir.path().join(state_file::NAME), log::path(dir.path()));
    let (journal, _) = reopen(dir.path());
    commit(&journal, "before", 2);
    let (old_state, old_log) = (fs::read(&state_path).unwrap(), fs::read(&log_path).unwrap());
    commit(&journal, "after", 3);
    drop(journal);
    let (new_state, new_log) = (fs::read(&state_path).unwrap(), fs::read(&log_path).unwrap());

    for length in old_log.len()..=new_log.len() {
        fs::write(&state_path, &new_state).unwrap();
        fs::write(&log_path, &new_log[..length]).unwrap();
        let (_journal, found) = reopen(dir.path());
        assert_eq!(found, Found::State("after".to_owned()));
        assert_eq!(fs::read(&log_path).unwrap(), new_log, "the log cut at {length}");
    }
    fs::write(&state_path, &old_state).unwrap();
    fs::write(&log_path, &old_log).unwrap();
    let (journal, found) = reopen(dir.path());
    assert_eq!(found, Found::State("before".to_owned()));
    commit(&journal, "again", 1);
    assert_eq!(verify_file(&log_path).unwrap().seq, 3);
}

#[test]
fn a_torn_last_line_is_cut_off() {
    for torn in [&b"{\"seq\":"[..], b"no json\n", &[0; 5_000]] {
        let dir = folder();
        commit(&reopen(dir.path()).0, "a", 2);
        let whole = fs::read(log::path(dir.path())).unwrap();
        fs::write(log::path(dir.path()), [&whole, torn].concat()).unwrap();
        let (_journal, _) = reopen(dir.path());
        assert_eq!(fs::read(log::path(dir.path())).unwrap(), whole);
    }
}

#[test]
fn a_log_that_others_changed_is_gone_on_with_and_shows_it() {
    let dir = folder();
    let log_path = log::path(dir.path());
    let (journal, _) = reopen(dir.path());
    commit(&journal, "a", 3);
    fs::remove_file(&log_path).unwrap(); // while it runs
    commit(&journal, "b", 1);
    drop(journal);
    assert_eq!(logged(dir.path()).iter().map(|entry| entry.seq).collect::<Vec<_>>(), [4]);

    fs::write(&log_path, "").unwrap(); // while it does not
    let (journal, found) = Words::open(dir.path()).unwrap();
    assert_eq!(found, Found::State("b".to_owned()));
    commit(&journal, "c", 1);
    let entries = logged(dir.path());
    assert_eq!(entries.iter().map(|entry| entry.seq).collect::<Vec<_>>(), [4, 5], "the state file still had 4");
    assert_eq!(verify(&entries).unwrap_err().seq, 1);
    assert_eq!(audit::verify_after(Head::before(&entries[0]), &entries), Ok(journal.head()));
}

#[test]
fn after_a_corrupt_state_the_chain_goes_on_from_the_log() {
    let dir = folder();
    commit(&reopen(dir.path()).0, "a", 3);
    fs::write(dir.path().join(state_file::NAME), "").unwrap();
    let (journal, found) = reopen(dir.path());
    let aside = dir.path().join("state.json.corrupt");
    assert_eq!(found, Found::Corrupt { aside, why: "it is empty".to_owned() });
    commit(&journal, "b", 1);
    assert_eq!(verify_file(&log::path(dir.path())).unwrap().seq, 4);
}

#[test]
fn a_write_that_fails_is_told_and_made_good_by_itself() {
    let dir = folder();
    let state_path = dir.path().join(state_file::NAME);
    let (journal, _) = reopen(dir.path());
    commit(&journal, "a", 1);
    let (state, log) = (fs::read(&state_path).unwrap(), fs::read(log::path(dir.path())).unwrap());
    let obstacle = dir.path().join(".state.json.tmp");
    fs::create_dir(&obstacle).unwrap();

    let Durability::NotDurable { why, since } = commit(&journal, "b", 2) else { panic!("written through a folder") };
    assert!(why.starts_with(&format!("state_dir {}: state.json: ", dir.path().display())), "{why}");
    let Durability::NotDurable { since: later, .. } = commit(&journal, "c", 1) else { panic!("still in the way") };
    assert_eq!(since, later);
    assert_eq!((fs::read(&state_path).unwrap(), fs::read(log::path(dir.path())).unwrap()), (state, log));
    assert_eq!(journal.entries(0, 10).unwrap().len(), 4, "what waits for the disk can be read");

    fs::remove_dir(&obstacle).unwrap();
    becomes_durable(&journal);
    drop(journal);
    let (journal, found) = reopen(dir.path());
    assert_eq!((found, journal.head().seq), (Found::State("c".to_owned()), 4));
}

#[test]
fn a_log_that_cannot_be_appended_to_catches_up() {
    let dir = folder();
    let (journal, _) = reopen(dir.path());
    commit(&journal, "a", 1);
    let (log_path, moved) = (log::path(dir.path()), dir.path().join("moved"));
    fs::rename(&log_path, &moved).unwrap();
    fs::create_dir(&log_path).unwrap();
    let Durability::NotDurable { why, .. } = commit(&journal, "b", 2) else { panic!("appended to a folder") };
    assert!(why.contains(": audit.jsonl: "), "{why}");
    fs::remove_dir(&log_path).unwrap();
    fs::rename(&moved, &log_path).unwrap();
    becomes_durable(&journal);
    assert_eq!(verify_file(&log_path).unwrap(), journal.head());
}

/// A small file system of its own at `dir`, if this user may mount one.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    fn mount(dir: &'a Path) -> Option<Self> {
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k", "none"]).arg(dir).output();
        mounted.is_ok_and(|output| output.status.success()).then_some(Self(dir))
    }

    /// Lays the same files over it, read-only. (It cannot be made so itself: the lock is open for writing.)
    fn cover(&self) {
        assert!(Command::new("mount").args(["-o", "bind,ro"]).args([self.0; 2]).status().unwrap().success());
    }

    fn uncover(&self) {
        assert!(Command::new("umount").arg(self.0).status().unwrap().success());
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["--lazy", "--recursive"]).arg(self.0).status();
    }
}

/// Makes writes fail by `fail`, and succeed again by `heal`: what is told in between starts with `told`.
fn survives(dir: &Path, fail: impl FnOnce(), told: &str, heal: impl FnOnce()) {
    let (journal, _) = reopen(dir);
    commit(&journal, "a", 1);
    let state = fs::read(dir.join(state_file::NAME)).unwrap();
    fail();
    let Durability::NotDurable { why, .. } = commit(&journal, &"b".repeat(5_000), 20) else { panic!("written") };
    assert!(why.contains(told), "{why}");
    assert_eq!(fs::read(dir.join(state_file::NAME)).unwrap(), state, "the old file stays whole");
    heal();
    becomes_durable(&journal);
    drop(journal);
    assert_eq!(reopen(dir).1, Found::State("b".repeat(5_000)));
}

#[test]
fn a_full_or_read_only_disk_is_survived() {
    let dir = folder();
    if let Some(disk) = SmallDisk::mount(dir.path()) {
        let filler = dir.path().join("filler");
        let fill = || assert!(fs::write(&filler, vec![0; 100_000]).is_err());
        survives(dir.path(), fill, "No space left on device", || fs::remove_file(&filler).unwrap());
        survives(dir.path(), || disk.cover(), "Read-only file system", || disk.uncover());
    } else {
        let obstacle = dir.path().join(".state.json.tmp");
        survives(dir.path(), || fs::create_dir(&obstacle).unwrap(), "", || fs::remove_dir(&obstacle).unwrap());
    }
}

#[test]
fn many_at_once_make_one_chain() {
    let dir = folder();
    let (journal, _) = reopen(dir.path());
    let (together, journal_) = (Barrier::new(4), &journal);
    thread::scope(|scope| {
        for name in ["a", "b", "c", "d"] {
            let together = &together;
            scope.spawn(move || {
                together.wait();
                let commits: Vec<Commit> =
                    (0..100).map(|n| journal_.commit(name.to_owned(), vec![draft(&n.to_string())])).collect();
                for commit in commits {
                    assert_eq!(wait(commit.outcome()), Durability::Durable);
                }
            });
        }
    });
    assert_eq!(verify_file(&log::path(dir.path())).unwrap(), journal.head());
    assert_eq!(journal.head().seq, 400);
}

#[test]
fn old_entries_are_read_from_the_file() {
    let dir = folder();
    let (journal, _) = reopen(dir.path());
    commit(&journal, "a", 2_500);
    commit(&journal, "b", 1);
    drop(journal);
    let (journal, _) = reopen(dir.path());
    let seqs = |after, limit| journal.entries(after, limit).unwrap().iter().map(|e| e.seq).collect::<Vec<_>>();
    assert_eq!(seqs(0, 3), [1, 2, 3]);
    assert_eq!(seqs(1_499, 4), [1_500, 1_501, 1_502, 1_503], "from both");
    assert_eq!(seqs(2_499, 10), [2_500, 2_501]);
    assert!(seqs(u64::MAX, 10).is_empty());
    assert_eq!(seqs(0, 9_999), (1..=2_501).collect::<Vec<_>>());
}

#[derive(Clone, Debug)]
enum Act {
    Commit(usize),
    /// The process is killed; the log has these thousandths of what the last commit appended.
    Kill(usize),
    /// The disk refuses for one commit.
    Fail(usize),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        (0_usize..4).prop_map(Act::Commit),
        (0_usize..=1_000).prop_map(Act::Kill),
        (0_usize..4).prop_map(Act::Fail),
    ];
    prop::collection::vec(act, 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_last_state_is_found_and_each_entry_is_there_once(acts in acts()) {
        let dir = folder();
        let log_path = log::path(dir.path());
        let mut journal = reopen(dir.path()).0;
        let (mut last, mut entries, mut log_before) = (Found::Nothing, 0, Vec::new());
        for (n, act) in acts.into_iter().enumerate() {
            let state = n.to_string();
            match act {
                Act::Commit(count) => {
                    log_before = fs::read(&log_path).unwrap_or_default();
                    commit(&journal, &state, count);
                    entries += count as u64;
                    last = Found::State(state);
                }
                Act::Fail(count) => {
                    let obstacle = dir.path().join(".state.json.tmp");
                    fs::create_dir(&obstacle).unwrap();
                    prop_assert!(commit(&journal, &state, count) != Durability::Durable);
                    fs::remove_dir(&obstacle).unwrap();
                    commit(&journal, &state, 0); // as the next retry would
                    log_before = fs::read(&log_path).unwrap_or_default();
                    entries += count as u64;
                    last = Found::State(state);
                }
                Act::Kill(thousandths) => {
                    drop(journal);
                    let log = fs::read(&log_path).unwrap_or_default();
                    let appended = log.len() - log_before.len();
                    let left = log_before.len() + appended * thousandths / 1_000;
                    if !log.is_empty() {
                        fs::write(&log_path, &log[..left]).unwrap();
                    }
                    let found;
                    (journal, found) = reopen(dir.path());
                    prop_assert_eq!(&found, &last);
                }
            }
            prop_assert_eq!(journal.head().seq, entries);
        }
        drop(journal);
        prop_assert_eq!(reopen(dir.path()).1, last);
        prop_assert_eq!(logged(dir.path()).len() as u64, entries);
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_many_commits_on_a_disk_that_hangs_waits_no_longer_than_for_one() {
    let began = Instant::now();
    let commit = || {
        let (answer, outcome) = oneshot::channel();
        (answer, Commit { entries: vec![], at: SystemTime::now(), until: began + PATIENCE, outcome })
    };
    let (_never_answered, commits): (Vec<_>, Vec<_>) = (0..5).map(|_| commit()).unzip();
    for commit in commits {
        assert!(matches!(commit.outcome().await, Durability::NotDurable { .. }));
    }
    assert_eq!(began.elapsed(), PATIENCE);
}
