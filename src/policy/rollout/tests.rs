//! What a rollout may never do, whatever happens to it in whatever order.

use std::time::{Duration, SystemTime};

use proptest::prelude::{Just, ProptestConfig, any, prop_assert, prop_assert_eq, prop_assert_ne, prop_oneof, proptest};
use proptest::strategy::Strategy as Generate;

use super::*;
use crate::policy::actor::Source;
use crate::policy::bucket::Bucket;
use crate::policy::decision::{Split, Subject, decide};
use crate::policy::latch::Door;
use crate::policy::ramp::StepHold;

const NAME: &str = "ledger";

fn percent(whole: u16) -> Percent {
    Percent::from_hundredths(whole * 100).unwrap()
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn alice() -> Actor {
    Actor::new(Source::Operator, "alice")
}

fn plan(strategy: Strategy) -> Plan {
    let schedule = Schedule::default();
    Plan { strategy, rollback_all: None, rollback: None, acknowledge: vec![], schedule, guard: None }
}

fn guarded(action: Action, plan: Plan) -> Plan {
    Plan { guard: Some(Guard { action, evidence: 0 }), ..plan }
}

fn verdict() -> Event {
    Event::Judged(Verdict { cause: Cause::Failures, reason: "new failed 5 of 5 requests".into() })
}

fn at_percent(whole: u16) -> Plan {
    plan(Strategy::Percent(percent(whole)))
}

fn ramp(percents: &[u16]) -> Plan {
    let hold = StepHold::For(Duration::from_secs(10));
    plan(Strategy::Steps(percents.iter().map(|p| Step { percent: percent(*p), hold, min_requests: 3 }).collect()))
}

fn blue_green(active: Color) -> Plan {
    plan(Strategy::BlueGreen { active })
}

/// A rollout and all that happens to it, told as a story.
struct Story {
    plan: Plan,
    state: State,
    frozen: bool,
    second: u64,
    changes: Vec<Change>,
}

impl Story {
    fn of(plan: Plan) -> Self {
        let mut story = Self { plan, state: State::default(), frozen: false, second: 0, changes: vec![] };
        story.happens(Event::Configured).unwrap();
        story
    }

    fn happens(&mut self, event: Event) -> Result<(), Refusal> {
        let moment = Moment { now: at(self.second), frozen: self.frozen };
        let next = step(NAME, &self.plan, &self.state, event, moment)?;
        self.state = next.state;
        self.changes.extend(next.changes);
        Ok(())
    }

    fn asks(&mut self, command: Command) -> Result<(), Refusal> {
        self.happens(Event::Asked { command, by: alice(), reason: "why".into() })
    }

    fn configures(&mut self, plan: Plan) {
        self.plan = plan;
        self.happens(Event::Configured).unwrap();
    }

    /// `seconds` pass, with `requests` on NEW in each.
    fn waits(&mut self, seconds: u64, requests: u64) {
        for _ in 0..seconds {
            self.second += 1;
            self.happens(Event::Tick {
                elapsed: Duration::from_secs(1),
                requests,
                judged: requests,
                healthy: true,
                steady: true,
            })
            .unwrap();
        }
    }

    fn effective(&self) -> u16 {
        self.state.effective(&self.plan).hundredths() / 100
    }

    fn set(&mut self, whole: u16) -> Result<(), Refusal> {
        self.asks(Command::Set { percent: percent(whole), force: false })
    }
}

fn switch(back: bool) -> Command {
    Command::Switch { back, gate: Gate::Passed }
}

const RESUME: Command = Command::Resume { percent: None };
const PROMOTE: Command = Command::Promote { full: false, force: false };

// -- the later explicit act

#[test]
fn what_the_file_changes_replaces_what_was_set_and_what_it_leaves_alone_does_not() {
    let mut story = Story::of(at_percent(5));
    story.set(25).unwrap();
    story.configures(Plan { acknowledge: vec!["x".into()], ..at_percent(5) });
    assert_eq!(story.effective(), 25, "the percent was left alone");
    story.configures(at_percent(10));
    assert_eq!((story.effective(), story.state.overridden.as_ref()), (10, None));
}

#[test]
fn the_record_says_what_the_file_said_before() {
    let mut story = Story::of(at_percent(5));
    story.configures(at_percent(10));
    story.set(25).unwrap();
    story.configures(at_percent(20));
    story.asks(Command::Rollback).unwrap();
    story.configures(at_percent(50));
    story.asks(RESUME).unwrap();
    story.configures(ramp(&[1, 30, 60]));
    story.asks(PROMOTE).unwrap();
    story.configures(ramp(&[40, 70]));
    story.configures(blue_green(Color::Blue));
    story.asks(switch(false)).unwrap();
    story.configures(blue_green(Color::Green));
    story.configures(at_percent(5));
    let told: Vec<(&str, &str)> = story
        .changes
        .iter()
        .filter(|change| change.what == "config")
        .map(|change| (change.before.as_str(), change.after.as_str()))
        .collect();
    let expected = [
        ("not known", "5 % on new"),
        ("5 % on new", "10 % on new"),
        ("25 % on new", "20 % on new"),
        ("rolled back by ledger-1, else 20 % on new", "rolled back by ledger-1, else 50 % on new"),
        ("50 % on new", "30 % on new"),
        ("60 % on new", "40 % on new"),
        ("40 % on new", "0 % on new"),
        ("100 % on new", "100 % on new"),
        ("100 % on new", "5 % on new"),
    ];
    assert_eq!(told, expected);
}

#[test]
fn unsetting_goes_back_to_the_file() {
    let mut story = Story::of(at_percent(5));
    story.set(25).unwrap();
    story.asks(Command::Unset).unwrap();
    assert_eq!(story.effective(), 5);
    let verbs: Vec<&str> = story.changes.iter().map(|change| change.what).collect();
    assert_eq!(verbs, ["config", "set", "unset"]);
}

// -- latches

#[test]
fn a_pipeline_that_applies_its_file_again_lifts_nothing() {
    let mut story = Story::of(at_percent(50));
    story.asks(Command::Rollback).unwrap();
    story.configures(at_percent(50));
    story.configures(at_percent(60));
    assert_eq!(story.effective(), 0);
    story.asks(RESUME).unwrap();
    assert_eq!(story.effective(), 60);
}

#[test]
fn a_files_own_rollback_is_lifted_by_the_opposite_and_not_by_silence() {
    let mut story = Story::of(at_percent(50));
    let with = |rollback| Plan { rollback, ..at_percent(50) };
    story.configures(with(Some(true)));
    assert_eq!(story.effective(), 0);
    story.configures(with(None));
    assert_eq!(story.effective(), 0, "a line that has vanished asks for nothing");
    story.configures(with(Some(false)));
    assert_eq!(story.effective(), 50);
}

#[test]
fn nobody_resumes_what_a_file_still_asks_for() {
    let mut story = Story::of(Plan { rollback: Some(true), ..at_percent(50) });
    story.asks(Command::Rollback).unwrap();
    let refused = story.asks(RESUME).unwrap_err();
    assert!(refused.explained(NAME).contains("write `rollback: false` for ledger in the config"), "{refused}");
    assert_eq!(story.state.latches.len(), 2, "neither latch was lifted");
    story.configures(Plan { rollback: None, ..at_percent(50) });
    story.asks(RESUME).unwrap();
    assert_eq!(story.effective(), 50);
}

#[test]
fn what_a_file_asks_for_is_refused_with_what_lifts_it_there() {
    let mut story = Story::of(at_percent(50));
    story.happens(Event::Flagged(true)).unwrap();
    let refused = story.asks(Command::Set { percent: percent(5), force: false }).unwrap_err().explained(NAME);
    assert!(refused.contains("remove the file ROLLBACK") && !refused.contains("tidegate resume"), "{refused}");
}

#[test]
fn coming_back_at_a_percent_is_refused_where_it_would_not_come_true() {
    let resume = |to| Command::Resume { percent: Some(percent(to)) };
    let mut story = Story::of(at_percent(50));
    let refused = story.asks(resume(1)).unwrap_err().explained(NAME);
    assert!(refused.contains("tidegate set ledger --percent N"), "{refused}");
    story.asks(resume(50)).unwrap(); // it is so already
    story.asks(Command::Rollback).unwrap();
    story.frozen = true;
    let refused = story.asks(resume(60)).unwrap_err().explained(NAME);
    assert!(refused.contains("schedule") && story.effective() == 0, "{refused}");
    story.asks(resume(1)).unwrap();
    assert_eq!(story.effective(), 1);
}

#[test]
fn the_flag_file_latches_while_it_is_there() {
    let mut story = Story::of(at_percent(50));
    story.happens(Event::Flagged(true)).unwrap();
    assert!(matches!(story.asks(RESUME), Err(Refusal::StillAsked(_))));
    story.happens(Event::Flagged(false)).unwrap();
    assert_eq!(story.effective(), 50);
}

#[test]
fn an_id_in_the_file_lifts_its_latch_once() {
    let mut story = Story::of(at_percent(50));
    story.asks(Command::Rollback).unwrap();
    let acknowledging = Plan { acknowledge: vec!["ledger-1".into()], ..at_percent(50) };
    story.configures(acknowledging.clone());
    assert_eq!(story.effective(), 50);
    story.asks(Command::Rollback).unwrap();
    assert_eq!(story.state.latches[0].id, "ledger-2");
    story.configures(acknowledging);
    assert_eq!(story.effective(), 0);
}

#[test]
fn an_old_acknowledgement_lifts_nothing_in_a_process_that_has_forgotten() {
    let mut story = Story::of(Plan { acknowledge: vec!["ledger-1".into()], ..at_percent(50) });
    story.asks(Command::Rollback).unwrap();
    assert_eq!(story.state.latches[0].id, "ledger-1");
    story.configures(Plan { acknowledge: vec!["ledger-1".into()], ..at_percent(60) });
    assert_eq!(story.effective(), 0);
}

#[test]
fn a_lost_state_means_old_until_somebody_resumes() {
    let mut story = Story::of(at_percent(50));
    story.happens(Event::StateLost("a bit has flipped".into())).unwrap();
    assert_eq!((story.effective(), story.state.latches[0].door), (0, Door::State));
    story.asks(Command::Resume { percent: Some(percent(1)) }).unwrap();
    assert_eq!(story.effective(), 1);
}

#[test]
fn what_contradicts_a_latch_is_refused_by_name() {
    let mut story = Story::of(ramp(&[1, 5]));
    story.asks(Command::Rollback).unwrap();
    let before = story.state.clone();
    for command in [
        Command::Set { percent: percent(5), force: true },
        PROMOTE,
        Command::Promote { full: true, force: true },
        Command::Drain { side: Some(Side::Old), cut_in: None },
    ] {
        let refused = story.asks(command.clone()).unwrap_err();
        let words = refused.explained(NAME);
        assert!(words.contains("ledger-1") && words.contains("tidegate resume ledger"), "{command:?}: {words}");
    }
    assert_eq!(story.state, before);
}

// -- the ramp

#[test]
fn a_ramp_goes_up_when_it_has_been_held_and_has_seen_enough() {
    let mut story = Story::of(ramp(&[1, 5, 20]));
    assert_eq!(story.effective(), 1);
    story.waits(100, 0);
    assert_eq!(story.effective(), 1, "nobody was on new");
    story.waits(3, 1);
    assert_eq!(story.effective(), 5);
    story.waits(9, 9);
    assert_eq!(story.effective(), 5);
    story.waits(1, 0);
    assert_eq!(story.effective(), 20);
    story.waits(1000, 10);
    assert_eq!(story.effective(), 20, "the last step stays");
}

#[test]
fn a_ramp_waits_while_it_is_frozen_paused_overridden_or_rolled_back() {
    type Act = fn(&mut Story);
    let acts: [(Act, Act); 4] = [
        (|s| s.frozen = true, |s| s.frozen = false),
        (|s| s.asks(Command::Pause).unwrap(), |s| s.asks(Command::Continue).unwrap()),
        (|s| s.set(2).unwrap(), |s| s.asks(Command::Unset).unwrap()),
        (|s| s.asks(Command::Rollback).unwrap(), |s| s.asks(RESUME).unwrap()),
    ];
    for (stop, go) in acts {
        let mut story = Story::of(ramp(&[1, 5]));
        stop(&mut story);
        story.waits(1000, 10);
        assert!(story.effective() <= 2);
        go(&mut story);
        story.waits(10, 10);
        assert_eq!(story.effective(), 5);
    }
}

#[test]
fn promoting_goes_one_step_or_all_the_way() {
    let mut story = Story::of(ramp(&[1, 5, 20]));
    story.asks(PROMOTE).unwrap();
    assert_eq!(story.effective(), 5);
    story.asks(Command::Promote { full: true, force: false }).unwrap();
    assert_eq!(story.effective(), 100);
    assert!(matches!(story.asks(PROMOTE), Err(Refusal::Nowhere(_))));
    let mut plain = Story::of(at_percent(5));
    assert!(matches!(plain.asks(PROMOTE), Err(Refusal::WrongStrategy { .. })));
    plain.asks(Command::Promote { full: true, force: false }).unwrap();
    assert_eq!(plain.effective(), 100);
}

#[test]
fn a_frozen_rollout_is_raised_only_by_force_and_lowered_by_anybody() {
    let mut story = Story::of(at_percent(50));
    story.frozen = true;
    assert_eq!(story.set(60), Err(Refusal::Frozen));
    story.set(40).unwrap();
    story.asks(Command::Set { percent: percent(60), force: true }).unwrap();
    assert!(story.changes.last().unwrap().forced);
    assert_eq!(story.effective(), 60);
    let drain = Command::Drain { side: Some(Side::Old), cut_in: None };
    assert_eq!(story.asks(drain.clone()), Err(Refusal::Frozen), "emptying old is raising new");
    story.asks(Command::Promote { full: true, force: true }).unwrap();
    story.asks(drain).unwrap();
}

#[test]
fn a_deadline_rolls_back_what_is_not_done_and_acts_once() {
    let schedule = Schedule { deadline: Some(at(5)), ..Schedule::default() };
    let mut story = Story::of(Plan { schedule: schedule.clone(), ..at_percent(50) });
    story.waits(4, 0);
    assert_eq!(story.effective(), 50);
    story.waits(1, 0);
    assert_eq!((story.effective(), story.state.latches[0].door), (0, Door::Deadline));
    story.asks(RESUME).unwrap();
    story.waits(100, 0);
    assert_eq!(story.effective(), 50);
    let mut done = Story::of(Plan { schedule, ..at_percent(100) });
    done.waits(10, 0);
    assert_eq!(done.effective(), 100);
}

#[test]
fn a_deadline_is_not_acted_on_while_the_clock_jumps() {
    let schedule = Schedule { deadline: Some(at(5)), ..Schedule::default() };
    let mut story = Story::of(Plan { schedule, ..at_percent(50) });
    story.second = 1_000_000;
    let tick = |steady| Event::Tick { elapsed: Duration::from_secs(1), requests: 0, judged: 0, healthy: true, steady };
    story.happens(tick(false)).unwrap();
    assert_eq!(story.effective(), 50);
    story.happens(tick(true)).unwrap();
    assert_eq!(story.effective(), 0);
}

// -- blue and green

#[test]
fn a_switch_makes_what_served_the_way_back() {
    let mut story = Story::of(blue_green(Color::Blue));
    let roles = |story: &Story| (story.state.colors.old, story.effective());
    assert_eq!(roles(&story), (Color::Blue, 0));
    assert!(matches!(story.asks(switch(true)), Err(Refusal::Nowhere(_))));
    story.asks(switch(false)).unwrap();
    assert_eq!(roles(&story), (Color::Blue, 100), "green serves; a rollback leads to blue");
    story.asks(switch(true)).unwrap();
    assert_eq!(roles(&story), (Color::Blue, 0));
    story.asks(switch(false)).unwrap();
    story.asks(switch(false)).unwrap();
    assert_eq!(roles(&story), (Color::Green, 100), "blue serves the next version; a rollback leads to green");
}

#[test]
fn a_switch_in_the_file_counts_when_it_is_new_and_never_frees_a_rolled_back_colour() {
    let mut story = Story::of(blue_green(Color::Blue));
    story.asks(switch(false)).unwrap();
    story.configures(blue_green(Color::Blue));
    assert_eq!(story.state.colors.active, Color::Green, "the file has not changed its mind");
    story.asks(Command::Rollback).unwrap();
    story.configures(blue_green(Color::Green));
    assert_eq!((story.state.colors.old, story.effective()), (Color::Blue, 0), "still on blue");
}

#[test]
fn a_gate_that_fails_is_told_and_force_is_recorded() {
    let mut story = Story::of(blue_green(Color::Blue));
    let failed = Gate::Failed("http://127.0.0.1:9 refuses".into());
    let refused = story.asks(Command::Switch { back: false, gate: failed }).unwrap_err();
    assert!(refused.explained(NAME).contains("127.0.0.1:9 refuses"));
    story.asks(Command::Switch { back: false, gate: Gate::Forced }).unwrap();
    assert!(story.changes.last().unwrap().forced);
}

// -- drain

#[test]
fn a_drained_side_gets_nothing_until_the_drain_ends_or_an_emergency_needs_it() {
    let mut story = Story::of(at_percent(50));
    let drain = |side| Command::Drain { side, cut_in: None };
    story.asks(drain(Some(Side::New))).unwrap();
    assert_eq!(story.effective(), 0);
    assert_eq!(story.set(60), Err(Refusal::Drained(Side::New)));
    assert_eq!(story.asks(drain(Some(Side::Old))), Err(Refusal::Drained(Side::New)), "both would be nobody");
    story.asks(drain(None)).unwrap();
    story.asks(drain(Some(Side::Old))).unwrap();
    assert_eq!(story.effective(), 100);
    story.asks(Command::Rollback).unwrap();
    assert_eq!((story.effective(), story.state.drained()), (0, None));
}

#[test]
fn a_drain_cuts_off_when_its_time_is_up() {
    let mut story = Story::of(at_percent(50));
    story.asks(Command::Drain { side: Some(Side::New), cut_in: Some(Duration::from_secs(3)) }).unwrap();
    story.waits(2, 0);
    assert!(!story.state.drain.as_ref().unwrap().cuts());
    story.waits(1, 0);
    assert!(story.state.drain.as_ref().unwrap().cuts());
    assert_eq!(story.changes.last().unwrap().after, "new is drained, what still runs is cut off");
}

// -- whatever happens

fn commands() -> impl Generate<Value = Command> {
    let percents = (0u16..=100).prop_map(percent);
    let gates = prop_oneof![Just(Gate::Passed), Just(Gate::Forced), Just(Gate::Failed("x".into()))];
    let sides = prop_oneof![Just(None), Just(Some(Side::Old)), Just(Some(Side::New))];
    prop_oneof![
        (percents.clone(), any::<bool>()).prop_map(|(percent, force)| Command::Set { percent, force }),
        Just(Command::Unset),
        Just(Command::Rollback),
        proptest::option::of(percents).prop_map(|percent| Command::Resume { percent }),
        (any::<bool>(), any::<bool>()).prop_map(|(full, force)| Command::Promote { full, force }),
        Just(Command::Pause),
        Just(Command::Continue),
        (any::<bool>(), gates).prop_map(|(back, gate)| Command::Switch { back, gate }),
        (sides, proptest::option::of(0u64..5))
            .prop_map(|(side, cut)| Command::Drain { side, cut_in: cut.map(Duration::from_secs) }),
    ]
}

fn plans() -> impl Generate<Value = Plan> {
    let color = prop_oneof![Just(Color::Blue), Just(Color::Green)];
    let strategies = prop_oneof![
        (0u16..=100).prop_map(|p| Strategy::Percent(percent(p))),
        Just(ramp(&[1, 5, 20]).strategy),
        Just(ramp(&[5, 100]).strategy),
        color.prop_map(|active| Strategy::BlueGreen { active }),
    ];
    let written = || prop_oneof![Just(None), Just(Some(false)), Just(Some(true))];
    let ids = proptest::collection::vec((1u32..6).prop_map(|n| format!("{NAME}-{n}")), 0..3);
    let deadline = proptest::option::of((0u64..40).prop_map(at));
    let actions = [Action::Rollback, Action::StepBack, Action::HoldStep, Action::Notify];
    let guard = proptest::option::of((proptest::sample::select(actions.to_vec()), 0u64..20));
    (strategies, written(), written(), ids, deadline, guard).prop_map(
        |(strategy, rollback_all, rollback, acknowledge, deadline, guard)| {
            let schedule = Schedule { deadline, ..Schedule::default() };
            let guard = guard.map(|(action, evidence)| Guard { action, evidence });
            Plan { strategy, rollback_all, rollback, acknowledge, schedule, guard }
        },
    )
}

#[derive(Clone, Debug)]
enum Happening {
    Configured(Plan),
    Event(Event),
    Frozen(bool),
}

fn happenings() -> impl Generate<Value = Happening> {
    prop_oneof![
        3 => commands().prop_map(|command| Happening::Event(Event::Asked { command, by: alice(), reason: String::new() })),
        1 => plans().prop_map(Happening::Configured),
        1 => any::<bool>().prop_map(|covered| Happening::Event(Event::Flagged(covered))),
        1 => Just(Happening::Event(verdict())),
        1 => (0u64..9, 0u64..9, any::<bool>()).prop_map(|(elapsed, requests, steady)| {
            Happening::Event(Event::Tick { elapsed: Duration::from_secs(elapsed), requests, judged: requests, healthy: true, steady })
        }),
        1 => any::<bool>().prop_map(Happening::Frozen),
    ]
}

/// A user, by a bucket, who may be a tester.
struct User(u64, Option<Side>);

impl Subject for User {
    fn forced(&self) -> Option<Side> {
        self.1
    }
    fn key(&self) -> Option<&[u8]> {
        Some(b"somebody")
    }
    fn digest(&self, _: &[u8]) -> u64 {
        self.0
    }
    fn stand_in(&self) -> Bucket {
        Bucket::of_digest(self.0)
    }
}

fn split(state: &State, plan: &Plan) -> Split {
    Split {
        rollback: state.is_rolled_back(),
        drained: state.drained(),
        percent: state.wanted(plan),
        ..Split::default()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn no_order_of_events_breaks_the_rules(first in plans(), happenings in proptest::collection::vec(happenings(), 1..30), digest: u64) {
        let mut story = Story::of(first);
        for happening in happenings {
            let (before, plan) = (story.state.clone(), story.plan.clone());
            story.second += 1;
            let event = match happening {
                Happening::Configured(plan) => {
                    story.plan = plan;
                    Event::Configured
                }
                Happening::Event(event) => event,
                Happening::Frozen(frozen) => {
                    story.frozen = frozen;
                    continue;
                }
            };
            let result = story.happens(event.clone());
            let (state, now) = (&story.state, &story.plan);
            // Nothing is half-applied.
            if result.is_err() {
                prop_assert_eq!(state, &before);
            }
            // A latched rollout sends no bucket to NEW, and no tester either.
            if state.is_rolled_back() {
                for forced in [None, Some(Side::New)] {
                    prop_assert_eq!(decide(&split(state, now), &User(digest, forced)).side, Side::Old);
                }
            }
            // What is shown is what is in force.
            let shown = state.effective(now);
            let on_new = decide(&split(state, now), &User(digest, None)).side == Side::New;
            prop_assert_eq!(on_new, shown.covers(Bucket::of_digest(digest)));
            // A reload lifts only what it asks to lift.
            if event == Event::Configured {
                for latch in &before.latches {
                    let own = match latch.door {
                        Door::Config => now.rollback_all == Some(false),
                        Door::ConfigRollout => now.rollback == Some(false),
                        _ => false,
                    };
                    let named = now.acknowledge.contains(&latch.id) && !before.acknowledged.contains(&latch.id);
                    prop_assert!(own || named || state.latches.contains(latch), "{latch:?} was lifted by {now:?} after {plan:?}");
                }
            }
            // Time alone lifts no latch and, while it is frozen, raises nobody.
            if let Event::Tick { .. } = event {
                prop_assert!(before.latches.iter().all(|latch| state.latches.contains(latch)));
                prop_assert!(!story.frozen || shown <= before.effective(now));
            }
            // A verdict raises nobody, and unless it is only to be told or held, somebody leaves NEW if anybody is there.
            if let (Event::Judged(_), Some(guard)) = (&event, now.guard) {
                let was = before.effective(now);
                let acts = matches!(guard.action, Action::Rollback | Action::StepBack);
                let follows = if acts { shown < was || was == Percent::ZERO } else { shown == was };
                prop_assert!(follows, "{was} -> {shown} by {guard:?}");
            }
            // The side that is being emptied gets nobody.
            if let (Some(side), false) = (state.drained(), state.is_rolled_back()) {
                prop_assert_ne!(decide(&split(state, now), &User(digest, Some(side))).side, side);
            }
        }
    }
}

// -- the guard

#[test]
fn a_verdict_does_what_the_config_says() {
    for (action, effective, latched, paused, what) in [
        (Action::Rollback, 0, true, false, "rollback"),
        (Action::StepBack, 1, false, true, "step_back"),
        (Action::HoldStep, 5, false, true, "pause"),
        (Action::Notify, 5, false, false, "guard"),
    ] {
        let mut story = Story::of(guarded(action, ramp(&[1, 5, 20])));
        story.asks(PROMOTE).unwrap();
        story.happens(verdict()).unwrap();
        assert_eq!((story.effective(), story.state.is_rolled_back()), (effective, latched), "{action:?}");
        assert_eq!(story.state.position.paused, paused, "{action:?}");
        let told = story.changes.last().unwrap();
        assert_eq!((told.what, told.by.source), (what, Source::Guard), "{action:?}");
        assert_eq!(told.reason, "new failed 5 of 5 requests");
    }
}

#[test]
fn below_the_first_step_there_is_only_a_rollback() {
    let mut story = Story::of(guarded(Action::StepBack, ramp(&[1, 5])));
    story.happens(verdict()).unwrap();
    assert!(story.state.is_rolled_back());
}

#[test]
fn a_step_back_would_take_nobody_away_while_old_is_emptied_so_it_is_a_rollback() {
    let mut story = Story::of(guarded(Action::StepBack, ramp(&[1, 5])));
    story.asks(PROMOTE).unwrap();
    story.asks(Command::Drain { side: Some(Side::Old), cut_in: None }).unwrap();
    story.happens(verdict()).unwrap();
    assert_eq!((story.effective(), story.state.is_rolled_back()), (0, true));
}

#[test]
fn at_the_deadline_everybody_on_new_is_not_enough() {
    let deadline = Schedule { deadline: Some(at(60)), ..Schedule::default() };
    for (healthy, latched) in [(true, false), (false, true)] {
        let mut story = Story::of(Plan { schedule: deadline.clone(), ..at_percent(100) });
        story.second = 60;
        let elapsed = Duration::from_secs(1);
        story.happens(Event::Tick { elapsed, requests: 1, judged: 1, healthy, steady: true }).unwrap();
        assert_eq!(story.state.is_rolled_back(), latched, "healthy: {healthy}");
    }
}

// -- what a fresh look found

#[test]
fn a_file_that_names_the_colour_that_serves_does_not_send_people_to_the_one_that_is_being_emptied() {
    let mut story = Story::of(blue_green(Color::Blue));
    story.configures(blue_green(Color::Green));
    story.asks(Command::Drain { side: Some(Side::New), cut_in: None }).unwrap();
    assert_eq!((story.effective(), story.state.colors.old), (0, Color::Blue), "blue serves");
    story.configures(blue_green(Color::Blue));
    assert_eq!((story.effective(), story.state.colors.old), (0, Color::Blue), "and goes on");
}

#[test]
fn a_drain_of_a_colour_follows_it_when_the_file_makes_the_colours_change_places() {
    let mut story = Story::of(blue_green(Color::Blue));
    story.configures(blue_green(Color::Green));
    story.asks(Command::Drain { side: Some(Side::Old), cut_in: None }).unwrap();
    assert_eq!((story.effective(), story.state.colors.old), (100, Color::Blue), "green serves");
    story.configures(blue_green(Color::Blue));
    let serving = if story.effective() == 0 { story.state.colors.old } else { story.state.colors.old.other() };
    assert_eq!(serving, Color::Green, "blue is still being emptied");
}

#[test]
fn what_was_set_or_switched_under_another_strategy_does_not_come_back() {
    let mut story = Story::of(at_percent(0));
    story.set(50).unwrap();
    story.configures(blue_green(Color::Blue));
    assert_eq!(story.effective(), 0);
    story.configures(at_percent(0));
    assert_eq!(story.effective(), 0, "the file has said something else since");

    let mut story = Story::of(blue_green(Color::Blue));
    story.asks(switch(false)).unwrap();
    assert_eq!(story.effective(), 100);
    story.configures(at_percent(0));
    story.configures(blue_green(Color::Blue));
    assert_eq!(story.effective(), 0, "the file has said something else since");
}

#[test]
fn a_step_that_is_come_back_to_over_another_strategy_begins_anew() {
    let mut story = Story::of(ramp(&[1, 5, 20]));
    story.asks(PROMOTE).unwrap();
    story.asks(Command::Pause).unwrap();
    story.asks(Command::Continue).unwrap();
    story.waits(9, 1);
    story.configures(at_percent(5));
    story.waits(100, 1);
    story.configures(ramp(&[1, 5, 20]));
    story.waits(3, 1);
    assert_eq!(story.effective(), 5, "it has been held for 3 s");
}

#[test]
fn a_pause_of_the_process_cuts_nobody_off() {
    let mut story = Story::of(at_percent(50));
    story.asks(Command::Drain { side: Some(Side::New), cut_in: Some(Duration::from_secs(60)) }).unwrap();
    story
        .happens(Event::Tick { elapsed: Duration::from_secs(600), requests: 0, judged: 0, healthy: true, steady: true })
        .unwrap();
    assert!(!story.state.drain.as_ref().unwrap().cuts());
}

#[test]
fn neither_a_resume_nor_an_unset_raises_while_it_may_not_be_raised() {
    let mut story = Story::of(at_percent(50));
    story.set(5).unwrap();
    story.frozen = true;
    assert_eq!(story.asks(Command::Unset), Err(Refusal::Frozen));
    story.asks(Command::Rollback).unwrap();
    assert_eq!(story.asks(Command::Resume { percent: Some(percent(80)) }), Err(Refusal::Frozen));
}
