//! What status looks like, and that it fits.

use super::*;
use crate::admin::status::{
    BackendStatus, BlueGreenStatus, ConfigStatus, Deed, DrainStatus, EndpointStatus, Evidence, GuardStatus, HoldStatus,
    LatchStatus, Latency, ListenerStatus, MaintenanceStatus, Observed, PercentStatus, QueryStatus, ReloadStatus,
    RollbackStatus, RouteStatus, Sense, SideCount, SideStatus, Sides, StateStatus, StepsStatus, StrategyName,
    TlsStatus, TroubleStatus, WebhookStatus,
};

const NOW: &str = "2026-11-21T04:05:06Z";
const FAILED: &str =
    "new failed 50 of 50 requests (100 %) from 50 different users, old 0 of 450 (0 %); 1 % is tolerated";
const LONG: &str = "the new ledger books the same payment twice when two of its nodes restart at once, see INC-7";

fn side(backend: &str, per_second: f64, latency_ms: Option<Latency>) -> SideStatus {
    SideStatus {
        backend: backend.into(),
        color: None,
        inflight: 3,
        healthy: 2,
        endpoints: 2,
        checked: true,
        endpoint_list: vec![],
        nowhere: vec![],
        connections: 7,
        max_connections: 1024,
        pending: 0,
        requests: 9306,
        requests_per_second: per_second,
        failures: 19,
        failure_share: latency_ms.map(|_| 0.2),
        latency_ms,
    }
}

/// A side of which one endpoint is out, and for which requests wait.
fn with_trouble() -> SideStatus {
    let endpoint = |endpoint: &str, why: Option<&str>| EndpointStatus {
        endpoint: endpoint.into(),
        healthy: why.is_none(),
        why: why.map(str::to_owned),
        since: NOW.into(),
        last_check: None,
        inflight: 3,
        ejections: 0,
        trouble: None,
        failing_since: None,
    };
    let failed = "3 checks in a row failed: it did not answer GET /healthz within 1 s";
    SideStatus {
        healthy: 1,
        endpoint_list: vec![endpoint("10.0.0.1:8080", Some(failed)), endpoint("10.0.0.2:8080", None)],
        connections: 1024,
        pending: 17,
        ..side("ledger-v3-with-a-tail", 0.0, None)
    }
}

#[test]
fn a_side_with_trouble_says_what_it_is() {
    let mut rollout = rollout("ledger");
    rollout.sides.new = with_trouble();
    let shown = shown(&status(vec![rollout]));
    let told = "  only 1 of 2 endpoints of new are well
    10.0.0.1:8080 3 checks in a row failed: it did not answer GET /healthz with…
  17 requests for new waiting: 1024 of 1024 connections are open
";
    assert!(shown.contains(told), "{shown}");
}

#[test]
fn a_new_that_fails_is_not_called_healthy() {
    let mut rollout = rollout("ledger");
    let failures = rollout.guard.failures.as_mut().unwrap();
    failures.counted.new = SideCount { requests: 5, bad: 5, share: Some(100.0) };
    let shown = shown(&status(vec![rollout]));
    let told = "\n  guard       NOT TRIPPED: new 5 of 5 failed (100 %), not yet enough evidence\n";
    assert!(shown.contains(told), "{shown}");
}

#[test]
fn a_webhook_and_a_query_that_bring_nothing_are_told() {
    let webhook = WebhookStatus {
        name: "pager".into(),
        url: "https://pager.example".into(),
        events: vec![],
        failing: true,
        queued: 2,
        delivered: 0,
        failed: 0,
        dropped: 0,
        last_success_at: None,
        last_error_at: Some(NOW.into()),
        last_error: Some("it answers with 500".into()),
    };
    let mut rollout = rollout("ledger");
    rollout.guard.queries = vec![QueryStatus {
        name: "mismatches".into(),
        bad_if: "> 0.5".into(),
        asked: true,
        last: Some("no data: no connection to http://127.0.0.1:9090".into()),
        at: None,
        bad_in_a_row: 0,
        failures: 3,
    }];
    let shown = shown(&Status { webhooks: vec![webhook], ..status(vec![rollout]) });
    assert!(shown.contains("\nwebhook  pager fails, 2 messages waiting: it answers with 500\n"), "{shown}");
    assert!(shown.contains("\n  query       mismatches: no data: no connection to http://127.0.0.1:9090\n"), "{shown}");
}

#[test]
fn an_endpoint_that_fails_requests_says_why() {
    let mut rollout = rollout("ledger");
    let mut side = with_trouble();
    side.healthy = 2;
    side.endpoint_list[1].trouble = Some("cannot connect: Connection refused (os error 111)".into());
    rollout.sides.new = side;
    let shown = shown(&status(vec![rollout]));
    let told = "\n  new: 10.0.0.2:8080: cannot connect: Connection refused (os error 111)\n";
    assert!(shown.contains(told), "{shown}");
}

#[test]
fn a_side_without_endpoints_is_told_with_the_reason_and_nobody_is_sent_there() {
    let mut rollout = rollout("ledger");
    let lost = "nope.test: there is no such name".to_owned();
    rollout.sides.old = SideStatus { healthy: 0, endpoints: 0, nowhere: vec![lost], ..rollout.sides.old };
    let shown = shown(&status(vec![rollout]));
    assert!(shown.contains("\n  old has no endpoint: nope.test: there is no such name\n"), "{shown}");
    assert!(!shown.contains("next: tidegate rollback"), "{shown}");
}

#[test]
fn backends_that_no_rollout_has_are_told() {
    let SideStatus { endpoint_list, .. } = with_trouble();
    let backend = BackendStatus {
        name: "api".into(),
        healthy: 1,
        endpoints: 2,
        checked: true,
        endpoint_list,
        nowhere: vec![],
        connections: 0,
        max_connections: 1024,
        pending: 0,
    };
    let nowhere = BackendStatus { name: "lost".into(), endpoints: 0, endpoint_list: vec![], ..backend.clone() };
    let shown = shown(&Status { backends: vec![backend, nowhere], ..status(vec![]) });
    let told = "no rollouts: every route leads straight to a backend
  1 of 2 endpoints of api get requests
    10.0.0.1:8080 3 checks in a row failed: it did not answer GET /healthz with…
  lost has no endpoint: its name has no address
";
    assert!(shown.contains(told), "{shown}");
}

#[test]
fn endpoints_that_nobody_looks_at_are_said_to_be_so() {
    let mut rollout = rollout("ledger");
    rollout.sides.new = SideStatus { checked: false, ..with_trouble() };
    let told = "  only 1 of 2 endpoints of new are well; not checked (no health in the config)\n";
    assert!(shown(&status(vec![rollout])).contains(told));
}

fn rollout(name: &str) -> RolloutStatus {
    let latency = Latency { p50: 0.416, p90: 3.4, p99: 98.3, p999: 1310.7 };
    RolloutStatus {
        name: name.into(),
        strategy: StrategyName::Percent,
        version: 7,
        etag: "\"7-1c0ffee0\"".into(),
        percent: PercentStatus {
            configured: 25.0,
            overridden: None,
            effective: 25.0,
            observed: Observed { new: Some(24.87), requests: 12_408, over_seconds: 60.0 },
        },
        overridden_by: None,
        drift: false,
        rollback: RollbackStatus { active: false, latches: vec![] },
        steps: None,
        blue_green: None,
        deadline: None,
        maintenance: None,
        hold: None,
        drain: None,
        guard: guard(GuardVerdict::Healthy, "rollback"),
        sides: Sides { old: side("ledger-v2", 155.1, Some(latency)), new: side("ledger-v3-with-a-tail", 0.0, None) },
    }
}

/// What a guard knows of a NEW that is well, with this verdict all the same.
fn guard(verdict: GuardVerdict, action: &str) -> GuardStatus {
    let found = !matches!(verdict, GuardVerdict::Healthy | GuardVerdict::Off);
    let is_held = matches!(action, "step_back" | "hold_step");
    GuardStatus {
        armed: verdict != GuardVerdict::Off,
        verdict,
        action: Some(action.into()),
        cause: found.then(|| "failures".into()),
        reason: found.then(|| FAILED.into()),
        since: found.then(|| "2026-11-21T04:02:00Z".into()),
        undo: (found && is_held).then(|| "tidegate step continue ledger --reason TEXT".into()),
        failures: Some(Sense {
            tolerated: 1.0,
            counted: Sides {
                old: SideCount { requests: 52_100, bad: 20, share: Some(0.04) },
                new: SideCount { requests: 5_210, bad: 3, share: Some(0.06) },
            },
            worse_than_tolerated: Evidence { odds: 12.0, enough: 1e8, share: 0.135 },
            worse_than_old: None,
            users: 2,
            users_needed: 3,
            in_a_row: Some(6),
        }),
        latency: None,
        users_hurt: Some(2),
        max_users_hurt: None,
        queries: Vec::new(),
    }
}

fn deed(reason: &str) -> Deed {
    Deed { at: "2026-11-21T04:02:00Z".into(), by: "alice".into(), reason: reason.into() }
}

fn latch(id: &str, by: &str, reason: &str, undo: &str) -> LatchStatus {
    let source = if by == "guard" { "guard" } else { "operator" }.into();
    let (id, by, reason, undo) = (id.into(), by.into(), reason.into(), undo.into());
    LatchStatus { id, source, at: "2026-11-21T04:02:00Z".into(), by, reason, undo }
}

fn rolled_back(name: &str) -> RolloutStatus {
    let mut rollout = rollout(name);
    rollout.percent.effective = 0.0;
    rollout.rollback.active = true;
    let undo = "rm /var/lib/tidegate/ROLLBACK";
    rollout.rollback.latches.push(latch(&format!("{name}-4"), "ROLLBACK", "the file ROLLBACK in state_dir", undo));
    rollout
}

fn set_by_hand(name: &str, reason: &str) -> RolloutStatus {
    let mut rollout = rollout(name);
    rollout.percent.configured = 50.0;
    rollout.percent.overridden = Some(25.0);
    rollout.overridden_by = Some(deed(reason));
    rollout.drift = true;
    rollout
}

fn steps() -> StepsStatus {
    StepsStatus {
        step: 2,
        of: 4,
        percent: 5.0,
        held_seconds: 480.0,
        hold_seconds: Some(600.0),
        requests: 320,
        min_requests: 500,
        judged: 320,
        min_judged: 0,
        paused: false,
        frozen: false,
        next: Some(20.0),
        waits_for: None,
        deadline: None,
    }
}

fn on_a_ramp(steps: StepsStatus) -> RolloutStatus {
    let mut rollout = rollout("ledger");
    rollout.strategy = StrategyName::Steps;
    rollout.percent.configured = 5.0;
    rollout.percent.effective = 5.0;
    rollout.steps = Some(steps);
    rollout
}

fn blue_green(active: &str) -> RolloutStatus {
    let mut rollout = rollout("ledger");
    rollout.strategy = StrategyName::BlueGreen;
    let (old, configured) = ("blue".into(), "blue".into());
    rollout.blue_green = Some(BlueGreenStatus { active: active.into(), old, configured });
    rollout.sides.old.color = Some("blue".into());
    rollout.sides.new.color = Some("green".into());
    rollout
}

fn maintenance(reason: &str) -> Option<MaintenanceStatus> {
    Some(MaintenanceStatus { message: None, read_only: true, retry_after: None, deed: deed(reason) })
}

fn hold(reason: &str) -> Option<HoldStatus> {
    Some(HoldStatus { max_wait_seconds: 5.0, waiting: 14, releasing: false, deed: Some(deed(reason)) })
}

fn drain(reason: &str) -> Option<DrainStatus> {
    Some(DrainStatus {
        side: "old".into(),
        inflight: 12,
        oldest_seconds: Some(34.2),
        estimated_seconds: Some(20.0),
        cut_in_seconds: Some(41.0),
        done: false,
        deed: deed(reason),
    })
}

fn listener(url: &str, tls: bool, proxy_protocol: bool) -> ListenerStatus {
    ListenerStatus { url: url.into(), tls, proxy_protocol }
}

#[test]
fn listeners_are_told_as_far_as_they_fit() {
    let plain = listener("http://127.0.0.1:8080", false, false);
    let secret = listener("https://[2001:db8::7]:8443", true, true);
    let file = listener("unix:/run/tidegate/traffic.sock", true, false);
    let long = listener(&format!("unix:/run/{}/traffic.sock", "tidegate".repeat(9)), true, true);
    for (listeners, line) in [
        (vec![plain.clone()], "listen   http://127.0.0.1:8080".to_owned()),
        (
            vec![plain.clone(), secret.clone()],
            "listen   http://127.0.0.1:8080, https://[2001:db8::7]:8443 (PROXY)".to_owned(),
        ),
        (vec![file.clone()], "listen   unix:/run/tidegate/traffic.sock (TLS)".to_owned()),
        (
            vec![plain.clone(), file, secret, plain],
            "listen   http://127.0.0.1:8080, unix:/run/tidegate/traffic.sock (TLS) and 2 more".to_owned(),
        ),
        (vec![long], format!("listen   unix:/run/{}…", "tidegate".repeat(9).split_at(60).0)),
    ] {
        let status = Status { listeners, ..status(vec![rollout("ledger")]) };
        let shown = shown(&status);
        assert!(shown.lines().any(|found| found == line), "{line}\n{shown}");
    }
}

fn status(rollouts: Vec<RolloutStatus>) -> Status {
    Status {
        version: "0.1.0".into(),
        started_at: "2026-11-21T00:53:06Z".into(),
        uptime_seconds: 11_520.4,
        ready: true,
        phase: Phase::Running,
        config: ConfigStatus {
            path: "/etc/tidegate.yaml".into(),
            hash: "1c0ffee01c0ffee0".into(),
            revision: 3,
            loaded_at: "2026-11-21T03:52:06Z".into(),
        },
        reload: ReloadStatus {
            attempts: 3,
            successful: true,
            succeeded_at: "2026-11-21T03:52:06Z".into(),
            error: None,
            needs_restart: vec![],
        },
        state_dir: Some("/var/lib/tidegate".into()),
        listeners: vec![listener("http://127.0.0.1:8080", false, false)],
        client_connections: 42,
        state: StateStatus { durable: true, why: None, note: None },
        tls: TlsStatus::default(),
        webhooks: Vec::new(),
        maintenance: None,
        hold: None,
        routes: vec![],
        backends: vec![],
        rollouts,
    }
}

fn on(screen: Screen, status: &Status) -> String {
    render(status, "http://127.0.0.1:9901", "", NOW.parse().unwrap(), (screen, Paint::NONE))
}

#[track_caller]
fn shown(status: &Status) -> String {
    let shown = on(Screen::SMALLEST, status);
    assert!(shown.lines().all(|line| line.chars().count() <= 80), "wider than 80\n{shown}");
    assert!(shown.lines().count() <= 23, "higher than 24 with the prompt\n{shown}");
    shown
}

#[track_caller]
fn assert_shows(status: &Status, golden: &str) {
    let shown = shown(status);
    assert_eq!(shown, golden.trim_start_matches('\n'), "\n{shown}");
}

fn busy() -> Status {
    let mut rollout = rollout("ledger");
    rollout.maintenance = maintenance("INC-7");
    rollout.hold = hold("");
    rollout.drain = drain("INC-7");
    status(vec![rollout])
}

fn several() -> Status {
    let mut drained = rollout("a-rollout-with-a-long-name");
    drained.drain = drain("");
    let mut climbs = on_a_ramp(steps());
    climbs.name = "search".into();
    status(vec![drained, set_by_hand("cards", "INC-7"), rolled_back("ledger"), rollout("mail"), climbs])
}

fn refused_config() -> Status {
    let mut status = status(vec![]);
    status.phase = Phase::Draining;
    status.ready = false;
    status.state_dir = None;
    status.state.durable = false;
    status.reload.successful = false;
    status.reload.error = Some("error: percent is above 100\n --> /etc/tidegate.yaml:7:12\n".into());
    status.reload.needs_restart = vec!["workers".into(), "listen".into()];
    status
}

/// The line of the ramp, and the next command.
fn ramp(steps: StepsStatus) -> [String; 2] {
    let shown = shown(&status(vec![on_a_ramp(steps)]));
    let lines: Vec<&str> = shown.lines().collect();
    let ramp = lines.iter().find_map(|line| line.strip_prefix("  ramp        ")).unwrap();
    [ramp.to_owned(), (*lines.last().unwrap()).to_owned()]
}

#[test]
fn a_ramp_that_stands_says_what_makes_it_go_on() {
    let rollback = "next: tidegate rollback ledger  (if it goes wrong: everybody back on old)";
    for (steps, line, next) in [
        (
            StepsStatus { paused: true, ..steps() },
            "step 2/4 at 5 %, PAUSED: held 8 min of 10 min, 320 of 500 requests",
            "next: tidegate step continue ledger",
        ),
        (
            StepsStatus { frozen: true, ..steps() },
            "step 2/4 at 5 %, frozen: held 8 min of 10 min, 320 of 500 requests",
            rollback,
        ),
        (
            StepsStatus { frozen: true, held_seconds: 700.0, requests: 900, ..steps() },
            "step 2/4 at 5 %, held; 20 % waits for the schedule to allow it",
            rollback,
        ),
        (
            StepsStatus { hold_seconds: None, ..steps() },
            "step 2/4 at 5 %; 20 % waits for somebody to promote it",
            "next: tidegate promote ledger",
        ),
        (StepsStatus { next: None, step: 4, percent: 100.0, ..steps() }, "step 4/4 at 100 %, the last one", rollback),
    ] {
        assert_eq!(ramp(steps), [line, next]);
    }
}

#[test]
fn every_combination_fits() {
    for bits in 0..1_u32 << 12 {
        let has = |bit: u32| bits & 1 << bit != 0;
        let whole = everything();
        let mut status = if has(0) { whole.clone() } else { status(vec![]) };
        status.rollouts = whole.rollouts;
        let rollout = &mut status.rollouts[0];
        if !has(1) {
            rollout.rollback = RollbackStatus { active: false, latches: vec![] };
        }
        if !has(2) {
            rollout.steps = None;
        }
        if has(3) && !has(2) {
            rollout.blue_green = blue_green("green").blue_green;
        }
        if !has(4) {
            rollout.maintenance = None;
        }
        if !has(5) {
            rollout.hold = None;
        }
        if !has(6) {
            rollout.drain = None;
        }
        if !has(7) {
            rollout.percent.overridden = None;
            rollout.overridden_by = None;
        }
        if !has(8) {
            rollout.deadline = None;
        }
        if has(9) {
            rollout.rollback.latches.truncate(2);
        }
        rollout.guard = match (has(10), has(11)) {
            (false, false) => guard(GuardVerdict::Healthy, "rollback"),
            (false, true) => guard(GuardVerdict::Tripped, "step_back"),
            (true, false) => guard(GuardVerdict::WouldHaveTripped, "hold_step"),
            (true, true) => guard(GuardVerdict::WouldHaveTripped, "notify"),
        };
        shown(&status);
    }
}

/// The line of the guard, and the next command.
fn guarded(rollout: RolloutStatus) -> [String; 2] {
    let shown = shown(&status(vec![rollout]));
    let lines: Vec<&str> = shown.lines().collect();
    let guard = lines.iter().find_map(|line| line.strip_prefix("  guard       ")).unwrap();
    [guard.to_owned(), (*lines.last().unwrap()).to_owned()]
}

#[test]
fn a_guard_says_what_it_thinks_and_what_to_do_about_it() {
    let rollback = "next: tidegate rollback ledger  (if it goes wrong: everybody back on old)";
    let with = |guard: GuardStatus| RolloutStatus { guard, ..rollout("ledger") };
    let mut idle = with(guard(GuardVerdict::Healthy, "rollback"));
    if let Some(failures) = &mut idle.guard.failures {
        failures.counted.new = SideCount { requests: 0, bad: 0, share: None };
    }
    let mut nobody = idle.clone();
    nobody.percent.effective = 0.0;
    let mut tripped = with(guard(GuardVerdict::Tripped, "rollback"));
    tripped.rollback.active = true;
    tripped.rollback.latches = vec![latch("ledger-1", "guard", FAILED, "tidegate resume ledger --reason TEXT")];
    let first = "next: tidegate set ledger --percent 1  (the first users on new)";
    for (rollout, line, next) in [
        (
            with(guard(GuardVerdict::Healthy, "rollback")),
            "healthy: new 3 of 5 210 failed (0.06 %), tolerated 1 %",
            rollback,
        ),
        (idle, "healthy: nothing speaks against new, tolerated 1 %", rollback),
        (nobody, "armed; nobody is on new", first),
        (with(guard(GuardVerdict::Off, "rollback")), "off (guard.enabled in the config)", rollback),
        (tripped, "tripped; numbers: tidegate guard ledger", "next: tidegate resume ledger  (once new is mended)"),
        (
            with(guard(GuardVerdict::Tripped, "step_back")),
            "TRIPPED 3 min ago, back a step: new failed 50 of 50 requests (100…",
            "next: tidegate guard ledger  (why the ramp waits)",
        ),
        (
            with(guard(GuardVerdict::WouldHaveTripped, "hold_step")),
            "HOLDS the step since 3 min: new failed 50 of 50 requests (100 %) …",
            "next: tidegate guard ledger  (why the ramp waits)",
        ),
        (
            with(GuardStatus { undo: None, ..guard(GuardVerdict::WouldHaveTripped, "hold_step") }),
            "HELD the step 3 min ago, it went on: new failed 50 of 50 requests…",
            "next: tidegate rollback ledger  (new is not well yet)",
        ),
        (
            with(guard(GuardVerdict::WouldHaveTripped, "notify")),
            "WOULD HAVE ROLLED BACK 3 min ago: new failed 50 of 50 requests (1…",
            "next: tidegate rollback ledger  (the guard would have)",
        ),
    ] {
        assert_eq!(guarded(rollout), [line, next]);
    }
}

#[test]
fn a_step_waits_for_what_is_further_off() {
    for (requests, min_requests, judged, min_judged, told) in [
        (320, 500, 320, 400, "320 of 500 requests"),
        (320, 500, 320, 812, "320 of 812 judged"),
        (320, 0, 320, 812, "320 of 812 judged"),
        (900, 500, 900, 812, "500 of 500 requests"),
        (320, 500, 320, 0, "320 of 500 requests"),
    ] {
        let [line, _] = ramp(StepsStatus { requests, min_requests, judged, min_judged, ..steps() });
        assert_eq!(line, format!("step 2/4 at 5 %: held 8 min of 10 min, {told}"));
    }
}

#[test]
fn commands_reach_the_instance_that_was_asked() {
    let again = " --admin unix:/run/tidegate.sock";
    let shown =
        render(&busy(), "unix:/run/tidegate.sock", again, NOW.parse().unwrap(), (Screen::SMALLEST, Paint::NONE));
    let commands: Vec<&str> = shown.lines().filter(|line| line.contains(": tidegate ")).collect();
    assert!(commands.len() > 2 && commands.iter().all(|line| line.ends_with(again)), "{commands:?}");
}

#[test]
fn a_rollout_that_runs() {
    assert_shows(
        &status(vec![rollout("ledger")]),
        "
tidegate 0.1.0 at http://127.0.0.1:9901: ready
up       3 h 12 min, 42 client connections
listen   http://127.0.0.1:8080
config   /etc/tidegate.yaml, revision 3, read 13 min ago

ledger
  configured    override   effective    observed
        25 %           -        25 %     24.87 %  of 12408 requests in 60 s

  guard       healthy: new 3 of 5 210 failed (0.06 %), tolerated 1 %

  side  backend       inflight   failed    req/s    TP50    TP90    TP99  TP99.9
  old   ledger-v2            3    0.2 %    155.1  416 us  3.4 ms   98 ms   1.3 s
  new   ledger-v3-wi…        3        -      0.0       -       -       -       -

next: tidegate rollback ledger  (if it goes wrong: everybody back on old)
",
    );
}

#[test]
fn a_rollback_tells_why_and_how_to_lift_it() {
    assert_shows(
        &status(vec![rolled_back("ledger")]),
        "
tidegate 0.1.0 at http://127.0.0.1:9901: ready
up       3 h 12 min, 42 client connections
listen   http://127.0.0.1:8080
config   /etc/tidegate.yaml, revision 3, read 13 min ago

ledger  ROLLED BACK: everybody is on old
  configured    override   effective    observed
        25 %           -         0 %     24.87 %  of 12408 requests in 60 s

  rollback    ledger-4, by ROLLBACK, 3 min ago: the file ROLLBACK in state_dir
              lift: rm /var/lib/tidegate/ROLLBACK
  guard       healthy: new 3 of 5 210 failed (0.06 %), tolerated 1 %

  side  backend       inflight   failed    req/s    TP50    TP90    TP99  TP99.9
  old   ledger-v2            3    0.2 %    155.1  416 us  3.4 ms   98 ms   1.3 s
  new   ledger-v3-wi…        3        -      0.0       -       -       -       -

next: rm /var/lib/tidegate/ROLLBACK  (lifts the rollback)
",
    );
}

#[test]
fn drift_is_told_in_words() {
    assert_shows(
        &status(vec![set_by_hand("ledger", LONG)]),
        "
tidegate 0.1.0 at http://127.0.0.1:9901: ready
up       3 h 12 min, 42 client connections
listen   http://127.0.0.1:8080
config   /etc/tidegate.yaml, revision 3, read 13 min ago

ledger
  configured    override   effective    observed
        50 %        25 %        25 %     24.87 %  of 12408 requests in 60 s

  guard       healthy: new 3 of 5 210 failed (0.06 %), tolerated 1 %
  drift       the file says 50 %, alice set 25 %, 3 min ago: the new ledger boo…
              undo: tidegate set ledger --clear

  side  backend       inflight   failed    req/s    TP50    TP90    TP99  TP99.9
  old   ledger-v2            3    0.2 %    155.1  416 us  3.4 ms   98 ms   1.3 s
  new   ledger-v3-wi…        3        -      0.0       -       -       -       -

next: tidegate rollback ledger  (if it goes wrong: everybody back on old)
",
    );
}

#[test]
fn a_ramp_tells_what_it_waits_for() {
    assert_shows(
        &status(vec![on_a_ramp(steps())]),
        "
tidegate 0.1.0 at http://127.0.0.1:9901: ready
up       3 h 12 min, 42 client connections
listen   http://127.0.0.1:8080
config   /etc/tidegate.yaml, revision 3, read 13 min ago

ledger
  configured    override   effective    observed
         5 %           -         5 %     24.87 %  of 12408 requests in 60 s

  guard       healthy: new 3 of 5 210 failed (0.06 %), tolerated 1 %
  ramp        step 2/4 at 5 %: held 8 min of 10 min, 320 of 500 requests

  side  backend       inflight   failed    req/s    TP50    TP90    TP99  TP99.9
  old   ledger-v2            3    0.2 %    155.1  416 us  3.4 ms   98 ms   1.3 s
  new   ledger-v3-wi…        3        -      0.0       -       -       -       -

next: tidegate rollback ledger  (if it goes wrong: everybody back on old)
",
    );
}

#[test]
fn blue_and_green_say_which_one_serves() {
    assert_shows(
        &status(vec![blue_green("green")]),
        "
tidegate 0.1.0 at http://127.0.0.1:9901: ready
up       3 h 12 min, 42 client connections
listen   http://127.0.0.1:8080
config   /etc/tidegate.yaml, revision 3, read 13 min ago

ledger
  configured    override   effective    observed
        25 %           -        25 %     24.87 %  of 12408 requests in 60 s

  guard       healthy: new 3 of 5 210 failed (0.06 %), tolerated 1 %
  drift       the file says blue, green was switched to
  colours     active green, blue idle; back: tidegate switch ledger --back

  side  backend       inflight   failed    req/s    TP50    TP90    TP99  TP99.9
  old   blue: ledger…        3    0.2 %    155.1  416 us  3.4 ms   98 ms   1.3 s
  new   green: ledge…        3        -      0.0       -       -       -       -

next: tidegate switch ledger --back  (if it goes wrong)
",
    );
}

#[test]
fn all_at_once_still_fits() {
    assert_shows(
        &everything(),
        "
tidegate 0.1.0 at http://127.0.0.1:9901: not ready
config   /etc/a-long-way-down/a-long-way-down/.yaml, revision 3, read 13 min ago
state    PUT ASIDE: the new ledger books the same payment twice when two of its…
state    NOT DURABLE, a restart would forget it: No space left on device
reload   FAILED: revision 3 stays in force: percent is above 100
  maintenance everything, read-only, since…; end: tidegate maintenance --all off
  hold        everything, 14 requests waiting; end: tidegate hold --all off
  routes      in maintenance or on hold: pay, reports, search
ledger  ROLLED BACK: everybody is on old
  configured    override   effective    observed
         5 %     12.34 %         5 %     24.87 %  of 12408 requests in 60 s
  rollback    ledger-4, by alice, 3 min ago; lift: tidegate resume ledger
              and 2 more; all: tidegate status ledger -o json
  drift       the ramp is at 5 %, alice set …; undo: tidegate set ledger --clear
  ramp        step 2/4 at 5 %, PAUSED, stands still while it is rolled back
  deadline    2026-11-21T07:00:00Z, in 2 h 54 min, not at 100 %: rolled back
  maintenance read-only, since 3 min; end: tidegate maintenance ledger off
  hold        14 requests waiting, since 3 min; end: tidegate hold ledger off
  drain       old, 12 running, oldest 34 s; end: tidegate drain ledger off
  side  backend       inflight   failed    req/s    TP50    TP90    TP99  TP99.9
  old   ledger-v2            3    0.2 %    155.1  416 us  3.4 ms   98 ms   1.3 s
  new   ledger-v3-wi…        3        -      0.0       -       -       -       -
next: tidegate check -c /etc/a-long-way-down/a-long-way-down/.yaml
",
    );
}

#[test]
fn what_somebody_began_says_how_it_ends() {
    assert_shows(
        &busy(),
        "
tidegate 0.1.0 at http://127.0.0.1:9901: ready
up       3 h 12 min, 42 client connections
listen   http://127.0.0.1:8080
config   /etc/tidegate.yaml, revision 3, read 13 min ago

ledger
  configured    override   effective    observed
        25 %           -        25 %     24.87 %  of 12408 requests in 60 s

  guard       healthy: new 3 of 5 210 failed (0.06 %), tolerated 1 %
  maintenance read-only, since 3 min, by alice: INC-7
              end: tidegate maintenance ledger off
  hold        14 requests waiting, since 3 min, by alice
              end: tidegate hold ledger off
  drain       old, 12 running, oldest 34 s, cut off in 41 s, by alice, 3 min ago
              end: tidegate drain ledger off

  side  backend       inflight   failed    req/s    TP50    TP90    TP99  TP99.9
  old   ledger-v2            3    0.2 %    155.1  416 us  3.4 ms   98 ms   1.3 s
  new   ledger-v3-wi…        3        -      0.0       -       -       -       -

next: tidegate drain ledger old --wait
",
    );
}

#[test]
fn several_rollouts_fit_a_table() {
    assert_shows(
        &several(),
        "
tidegate 0.1.0 at http://127.0.0.1:9901: ready
up       3 h 12 min, 42 client connections
listen   http://127.0.0.1:8080
config   /etc/tidegate.yaml, revision 3, read 13 min ago

rollout           configured  override  effective  observed old req/s new req/s
a-rollout-with-…        25 %         -       25 %   24.87 %     155.1       0.0
cards                   50 %      25 %       25 %   24.87 %     155.1       0.0
ledger                  25 %         -        0 %   24.87 %     155.1       0.0
mail                    25 %         -       25 %   24.87 %     155.1       0.0
search                   5 %         -        5 %   24.87 %     155.1       0.0

a-rollout-with-… draining old, 12 running
cards            alice set 25 %
ledger           ROLLED BACK: the file ROLLBACK in state_dir
search           step 2/4

next: tidegate status ledger  (shows one in full)
",
    );
}

#[test]
fn a_failed_reload_is_told_in_full() {
    assert_shows(
        &refused_config(),
        "
tidegate 0.1.0 at http://127.0.0.1:9901: not ready
         Draining: running requests end, new connections are not accepted.
up       3 h 12 min, 42 client connections
listen   http://127.0.0.1:8080
config   /etc/tidegate.yaml, revision 3, read 13 min ago
state    in memory: without state_dir a restart forgets what was done by hand
reload   FAILED: revision 3 stays in force

  error: percent is above 100
   --> /etc/tidegate.yaml:7:12
restart  needed for what changed in: workers, listen

no rollouts: every route leads straight to a backend

next: tidegate check -c /etc/tidegate.yaml  (then correct the file)
",
    );
}

const TWO_ERRORS: &str = "error: unknown key `percnt`
 --> /etc/tidegate.yaml:7:3
  |
7 |   percnt: 5
  |   ^^^^^^
  = allowed: old, new, percent, steps, strategy, blue, green, active, key, hash, salt
  = help: did you mean `percent`?

error: unknown kind of key `hedr`
 --> /etc/tidegate.yaml:6:8
  |
6 |   key: hedr:x-user-id
  |        ^^^^^^^^^^^^^^
  = allowed: header:NAME, cookie:NAME, query:NAME, path:N, jwt:CLAIM, client_ip
";

#[test]
fn of_two_errors_the_first_is_told_where_there_is_no_room_for_both() {
    let mut status = status(vec![rollout("ledger")]);
    status.reload.successful = false;
    status.reload.error = Some(TWO_ERRORS.into());
    let small = shown(&status);
    let told = "reload   FAILED: revision 3 stays in force
  error: unknown key `percnt`
   --> /etc/tidegate.yaml:7:3
    |
  7 |   percnt: 5
    |   ^^^^^^
    = allowed: old, new, percent, steps, strategy, blue, green, active, key, ha…
    = help: did you mean `percent`?
  ... and 1 more
";
    assert!(small.contains(told) && small.contains("next: tidegate check"), "{small}");
    let large = on(Screen { width: 100, height: 50 }, &status);
    assert!(large.contains("error: unknown kind of key") && large.contains("\n\nledger"), "{large}");
}

#[test]
fn what_is_wrong_with_a_file_of_tls_is_told_to_its_end() {
    let mut status = status(vec![rollout("ledger")]);
    let file = "/etc/tidegate/certificates/of/the/ledger/tls.key";
    status.tls.troubles =
        vec![TroubleStatus { file: file.into(), message: "the key does not belong to the certificate".into() }];
    let told = "tls      /etc/tidegate/certificates/of/the/ledger/tls.key: what was read before
         stays in use: the key does not belong to the certificate
";
    assert!(shown(&status).contains(told), "{}", shown(&status));
}

#[test]
fn a_program_gets_all_of_it() {
    let told = on(Screen::ENDLESS, &everything());
    for whole in [LONG, "10.0.0.1:8080 3 checks in a row failed: it did not answer GET /healthz within 1 s"] {
        assert!(told.contains(whole), "{whole} is missing in\n{told}");
    }
    assert!(told.lines().any(|line| line.ends_with(LONG)), "{told}");
}

/// All that can be at once.
fn everything() -> Status {
    let mut rollout = on_a_ramp(StepsStatus { paused: true, ..steps() });
    rollout.rollback.active = true;
    rollout.percent.overridden = Some(12.34);
    rollout.overridden_by = Some(deed(LONG));
    rollout.rollback.latches = vec![
        latch("ledger-4", "alice", LONG, "tidegate resume ledger --reason TEXT"),
        latch("ledger-5", "ROLLBACK", "the file ROLLBACK in state_dir", "rm /var/lib/tidegate/ROLLBACK"),
        latch(
            "ledger-6",
            "config",
            "rollback: true at the top",
            "set `rollback: false` at the top of /etc/tidegate.yaml",
        ),
    ];
    rollout.deadline = Some("2026-11-21T07:00:00Z".into());
    rollout.maintenance = maintenance(LONG);
    rollout.hold = hold(LONG);
    rollout.drain = drain(LONG);
    rollout.sides.new = with_trouble();
    let mut status = status(vec![rollout]);
    status.ready = false;
    status.phase = Phase::Leaving;
    status.config.path = format!("/etc/{}.yaml", "a-long-way-down/".repeat(2));
    status.reload.successful = false;
    status.reload.error = Some("error: percent is above 100\n --> /etc/tidegate.yaml:7:12\n  |\n7 | x\n  | ^\n".into());
    status.reload.needs_restart = vec!["workers".into(), "listen".into(), "state_dir".into()];
    status.state = StateStatus { durable: false, why: Some("No space left on device".into()), note: Some(LONG.into()) };
    status.maintenance = maintenance(LONG);
    status.hold = hold(LONG);
    let route = |name: &str| RouteStatus { name: name.into(), maintenance: maintenance(LONG), hold: None };
    status.routes = vec![route("pay"), route("reports"), route("search")];
    status
}
