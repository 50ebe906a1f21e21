//! How a rollout is written that moves: steps, colours, windows, rollbacks that say three things.

use std::time::{Duration, SystemTime};

use super::{MINIMAL, complaints, minimal, yaml};
use crate::config::{Config, Destination, Rollout};
use crate::policy::bucket::Percent;
use crate::policy::ramp::{Step, StepHold};
use crate::policy::rollout::{Color, Strategy};

/// The smallest config with `lines` in place of the percent of its rollout.
fn rollout(lines: &str) -> Rollout {
    yaml(&minimal("percent: 5", lines)).unwrap().rollouts["default"].clone()
}

fn percent(percent: f64) -> Percent {
    Percent::from_f64(percent).unwrap()
}

#[test]
fn a_rollout_without_a_percent_is_at_zero() {
    let rollout = rollout("strategy: percent");
    assert_eq!(rollout.strategy, Strategy::Percent(Percent::ZERO));
    assert!(rollout.acknowledge.is_empty() && rollout.schedule.deadline.is_none() && rollout.rollback.is_none());
}

#[test]
fn steps_stand_in_place_of_a_percent() {
    let steps = "{percent: 0.5%, hold: 10m, min_requests: 500}, {percent: 5}, {percent: 100, hold: 0s}";
    let hold = |seconds| StepHold::For(Duration::from_secs(seconds));
    let expected = vec![
        Step { percent: percent(0.5), hold: hold(600), min_requests: 500 },
        Step { percent: percent(5.0), hold: StepHold::Manual, min_requests: 0 },
        Step { percent: Percent::FULL, hold: hold(0), min_requests: 0 },
    ];
    let rollout = rollout(&format!("steps: [{steps}]"));
    assert_eq!(rollout.strategy, Strategy::Steps(expected));
    assert_eq!(rollout.configured(), percent(0.5));
}

const SHOP: &str = "\
listen: 127.0.0.1:8080
backends: {v2: {endpoints: [http://127.0.0.1:9001]}}
rollouts:
  shop:
    strategy: blue_green
    blue: v2
    green: http://127.0.0.1:9002
    active: green
";

#[test]
fn colours_need_no_key() {
    let config = yaml(SHOP).unwrap();
    let shop = &config.rollouts["shop"];
    assert_eq!(shop.strategy, Strategy::BlueGreen { active: Color::Green });
    assert_eq!((shop.old.as_str(), shop.new.as_str()), ("v2", "shop-green"));
    assert_eq!(config.backends["shop-green"].endpoints[0].to_string(), "http://127.0.0.1:9002");
    assert!(shop.key.is_empty());
    let keyed = yaml(&(SHOP.to_owned() + "    key: client_ip\n    on_missing: cookie\n")).unwrap();
    assert_eq!(keyed.rollouts["shop"].key.len(), 1);
}

#[test]
fn a_rollback_says_yes_no_or_nothing() {
    let said = |line: &str| yaml(&format!("{MINIMAL}{line}\n")).unwrap().rollback;
    assert_eq!([said("rollback: true"), said("rollback: false"), said("")], [Some(true), Some(false), None]);
    let own = |line: &str| rollout(line).rollback;
    assert_eq!([own("rollback: true"), own("rollback: false"), own("salt: a")], [Some(true), Some(false), None]);
}

#[test]
fn a_word_for_a_flag_is_told_which_one_it_means() {
    for (word, meant) in [("yes", "true"), ("On", "true"), ("1", "true"), ("'true'", "true"), ("off", "false")] {
        let error = yaml(&format!("{MINIMAL}rollback: {word}\n")).unwrap_err();
        assert_eq!(error.faults()[0].help, Some(format!("write `{meant}`")), "{word}");
    }
}

#[test]
fn a_schedule_is_read_with_its_zones() {
    let schedule = rollout(
        "schedule: {allow: ['Mon-Thu 09:00-16:00 Asia/Shanghai'], freeze: [Sat-Sun UTC], deadline: 2026-11-21T23:00:00Z}",
    )
    .schedule;
    assert_eq!(schedule.allow[0].days, [true, true, true, true, false, false, false]);
    assert_eq!((schedule.allow[0].from, schedule.allow[0].to), (540, 960));
    assert_eq!((schedule.freeze[0].zone.as_str(), schedule.freeze[0].to), ("UTC", 1440));
    assert_eq!(schedule.deadline, Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_302_000)));
}

#[test]
fn the_plan_is_what_the_file_says() {
    let rollout = rollout("percent: 7\n  rollback: false\n  acknowledge: [default-1, default-2]");
    let plan = rollout.plan(Some(true));
    assert_eq!((plan.rollback_all, plan.rollback), (Some(true), Some(false)));
    assert_eq!(plan.acknowledge, ["default-1", "default-2"]);
    assert_eq!((plan.strategy, plan.schedule), (rollout.strategy.clone(), rollout.schedule.clone()));
    assert_eq!(self::rollout("acknowledge: default-1").acknowledge, ["default-1"]);
}

#[test]
fn routes_may_have_names() {
    let text = "routes: [{name: pay, match: {path: /pay}, rollout: default}, {rollout: default}]";
    let Config { routes, .. } = yaml(&format!("{MINIMAL}{text}\n")).unwrap();
    assert_eq!((routes[0].name.as_deref(), routes[1].name.as_deref()), (Some("pay"), None));
    assert_eq!(routes[1].to, Destination::Rollout("default".into()));
}

#[test]
fn every_mistake_in_a_move_has_its_sentence() {
    let many: Vec<String> = (1..=101).map(|at| format!("{{percent: {}}}", f64::from(at) / 4.0)).collect();
    let many = format!("steps: [{}]", many.join(", "));
    for (line, complaint) in [
        (
            "percent: 5\n  steps: [{percent: 5}]",
            "rollout.steps: `percent` and `steps` are given together; only one of them may be",
        ),
        ("steps: []", "rollout.steps: a ramp needs at least one step"),
        (many.as_str(), "rollout.steps: this ramp has too many steps"),
        ("steps: [{hold: 1s}]", "rollout.steps[0]: `percent` is missing"),
        ("steps: [{percent: 0}]", "rollout.steps[0].percent: a step is above 0"),
        ("steps: [{percent: 5}, {percent: 5}]", "rollout.steps[1].percent: each step is above the one before"),
        ("steps: [{percent: 5}, {percent: 4}]", "rollout.steps[1].percent: each step is above the one before"),
        ("steps: [{percent: 5, hold: 10}]", "rollout.steps[0].hold: a duration needs a unit"),
        ("steps: [{percent: 5, hold: manuel}]", "rollout.steps[0].hold: this is not a duration"),
        ("steps: [{percent: 5, min_requests: -1}]", "rollout.steps[0].min_requests: this is below 0"),
        ("strategy: blue-green", "rollout.strategy: this is not one of the allowed words"),
        ("blue: a", "rollout.blue: `blue` has no meaning without `strategy: blue_green`"),
        ("active: blue", "rollout.active: `active` has no meaning without `strategy: blue_green`"),
        ("acknowledge: ''", "rollout.acknowledge: this is not the id of a rollback"),
        ("acknowledge: [a-1, b 2]", "rollout.acknowledge[1]: this is not the id of a rollback"),
        ("schedule: {allow: Mon UTC}", "rollout.schedule.allow: this is not a list"),
        ("schedule: {allow: ['a b c d']}", "rollout.schedule.allow[0]: this is not a window of the week"),
        ("schedule: {allow: [Mon 09:00-16:00]}", "rollout.schedule.allow[0]: this window names no time zone"),
        ("schedule: {allow: [Mun UTC]}", "rollout.schedule.allow[0]: this window's days cannot be read"),
        ("schedule: {freeze: [9:00-16:00 UTC]}", "rollout.schedule.freeze[0]: this window's times cannot be read"),
        ("schedule: {freeze: [09:00-09:00 UTC]}", "rollout.schedule.freeze[0]: this window ends where it begins"),
        ("schedule: {freeze: [Mon CST]}", "rollout.schedule.freeze[0]: there is no time zone of this name"),
        ("schedule: {deadline: tomorrow}", "rollout.schedule.deadline: this is not a date and a time with its offset"),
        ("schedule: {deadline: 2026-11-22 07:00}", "rollout.schedule.deadline: this deadline names no time zone"),
    ] {
        assert_eq!(complaints(&minimal("percent: 5", line)), [complaint], "{line}");
    }
}

#[test]
fn every_mistake_with_colours_has_its_sentence() {
    let strange = |key: &str| format!("rollouts.shop.{key}: `{key}` has no meaning with `strategy: blue_green`");
    for (replaced, by, complaint) in [
        ("    active: green\n", "", "rollouts.shop: `active` is missing".to_owned()),
        ("    blue: v2\n", "", "rollouts.shop: `blue` is missing".to_owned()),
        ("active: green", "active: red", "rollouts.shop.active: this is not one of the allowed words".to_owned()),
        ("blue: v2", "blue: v3", "rollouts.shop.blue: there is no backend of this name".to_owned()),
        ("active: green", "active: green\n    percent: 5", strange("percent")),
        ("active: green", "active: green\n    steps: []", strange("steps")),
        ("active: green", "active: green\n    old: v2", strange("old")),
        (
            "active: green",
            "active: green\n    schedule: {deadline: 2026-11-21T23:00:00Z}",
            "rollouts.shop.schedule.deadline: `deadline` has no meaning with `strategy: blue_green`".to_owned(),
        ),
    ] {
        assert_eq!(complaints(&SHOP.replace(replaced, by)), [complaint], "{by}");
    }
}

#[test]
fn a_time_zone_that_does_not_exist() {
    for (written, meant) in
        [("Asia/Shanghia", "Asia/Shanghai"), ("shanghai", "Asia/Shanghai"), ("europe/berlín", "Europe/Berlin")]
    {
        let error = yaml(&minimal("percent: 5", &format!("schedule: {{allow: [Mon {written}]}}"))).unwrap_err();
        assert_eq!(error.faults()[0].help, Some(format!("did you mean `{meant}`?")), "{written}");
    }
    let expected = "\
error: there is no time zone of this name
 --> tidegate.yaml:6:22 (rollout.schedule.allow[0])
  |
6 |   schedule: {allow: [Mon CST]}
  |                      ^^^
  = found: \"Mon CST\"
  = allowed: a name of the IANA database, such as Asia/Shanghai, or UTC
";
    let told = yaml(&minimal("percent: 5", "schedule: {allow: [Mon CST]}")).unwrap_err().to_string();
    assert_eq!(told, expected);
}

#[test]
fn a_step_that_does_not_rise() {
    let expected = "\
error: each step is above the one before
 --> tidegate.yaml:6:36 (rollout.steps[1].percent)
  |
6 |   steps: [{percent: 20}, {percent: 5}]
  |                                    ^
  = found: 5
  = allowed: above 20 %
";
    let told = yaml(&minimal("percent: 5", "steps: [{percent: 20}, {percent: 5}]")).unwrap_err().to_string();
    assert_eq!(told, expected);
}
