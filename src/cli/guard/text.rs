//! What a guard knows, for people.

use jiff::Timestamp;

use super::doubt::doubt;
use crate::admin::status::{
    Evidence, GuardReport, GuardStatus, GuardVerdict, LatencySense, QueryStatus, Sense, SideCount,
};
use crate::cli::output::Paint;
use crate::cli::words::{ago, counted, grouped, share, time};

/// Columns of the smallest terminal.
const WIDTH: usize = 80;
/// Columns of a label and the space behind it.
const LABEL: usize = 12;
/// Cells of a bar.
const BAR: usize = 10;
/// Odds from here on are told by their order of magnitude.
const HUGE: f64 = 1e9;

/// Writes `report` as it looks at `now`. `again` stands behind each command for it to reach the same instance.
pub(super) fn render(report: &GuardReport, again: &str, now: Timestamp, paint: Paint) -> String {
    let guard = &report.guard;
    let mut lines = vec![head(report, now, paint)];
    if let Some(reason) = &guard.reason {
        lines.extend(wrapped("because", reason));
    }
    if guard.verdict == GuardVerdict::Healthy
        && let Some(doubt) = guard.failures.as_ref().and_then(doubt)
    {
        lines.extend(wrapped("not tripped", &doubt));
    }
    // What a restart has forgotten is not told as zeros.
    let is_known = guard.verdict != GuardVerdict::Tripped || guard.cause.is_some();
    if is_known && guard.failures.is_some() {
        lines.push(String::new());
        senses(&mut lines, guard);
    } else if !is_known {
        lines.push(format!("{:<LABEL$}gone with the restart that came after", "numbers"));
    }
    lines.extend([String::new(), next(report, again, paint)]);
    lines.iter().map(|line| format!("{}\n", line.trim_end())).collect()
}

fn head(report: &GuardReport, now: Timestamp, paint: Paint) -> String {
    let GuardReport { rollout, percent, guard } = report;
    let action = guard.action.as_deref().unwrap_or("none");
    let since = guard.since.as_deref().map(|since| format!(" {}", ago(since, now))).unwrap_or_default();
    let is_back_on_old = guard.undo.as_ref().is_some_and(|undo| undo.contains("resume"));
    let name = paint.bold(rollout);
    match (guard.verdict, action) {
        (GuardVerdict::Off, _) => format!("{name}: guard off (guard.enabled in the config)"),
        (GuardVerdict::Healthy, _) if *percent <= 0.0 => {
            format!("{name}: guard armed, action {action}; nobody is on new, so there is nothing to see")
        }
        (GuardVerdict::Healthy, _) => match guard.failures.as_ref().and_then(doubt) {
            Some(_) => format!("{name}: guard armed, action {action}; new fails more than is tolerated"),
            None => format!("{name}: guard armed, action {action}; new looks healthy"),
        },
        (GuardVerdict::Tripped, _) => {
            let done = if is_back_on_old { "everybody is on old" } else { "back a step, where the ramp waits" };
            format!("{name}: {}{since}: {done}", paint.alarm("guard TRIPPED"))
        }
        (GuardVerdict::WouldHaveTripped, "hold_step") => {
            let ramp = if guard.undo.is_some() { "the ramp waits" } else { "the ramp went on since" };
            format!("{name}: {}{since}: {ramp}, users stay on new", paint.alarm("guard HELD THE STEP"))
        }
        (GuardVerdict::WouldHaveTripped, _) => {
            let what = paint.alarm("guard WOULD HAVE ROLLED BACK");
            format!("{name}: {what}{since}: action {action}, users stay on new")
        }
    }
}

/// `text` behind a label, in as many lines as it needs.
fn wrapped(label: &str, text: &str) -> Vec<String> {
    let mut lines = vec![format!("{label:<LABEL$}")];
    for word in text.split_whitespace() {
        let last = lines.last_mut().expect("there is always one");
        if last.chars().count() > LABEL && last.chars().count() + word.chars().count() > WIDTH {
            lines.push(format!("{:LABEL$}{word} ", ""));
        } else {
            *last += &format!("{word} ");
        }
    }
    lines
}

// -- the senses

fn senses(lines: &mut Vec<String>, guard: &GuardStatus) {
    let is_settled = guard.verdict != GuardVerdict::Healthy;
    if let Some(failures) = &guard.failures {
        lines.push(format!("{:<LABEL$}{}", "failures", both_sides(failures)));
        sense(lines, failures, "failure", is_settled);
    }
    match &guard.latency {
        None => lines.push(format!("{:<LABEL$}off (guard.latency in the config)", "latency")),
        Some(LatencySense { slow_above_ms: None, .. }) => {
            lines.push(format!("{:<LABEL$}too few requests on old in the last minute to say what is slow", "latency"));
        }
        Some(LatencySense { slow_above_ms: Some(bound), sense: slow }) => {
            lines.push(format!("{:<LABEL$}above {}: {}", "latency", time(*bound), both_sides(slow)));
            sense(lines, slow, "slow request", is_settled);
        }
    }
    if let Some(hurt) = guard.users_hurt {
        let limit =
            guard.max_users_hurt.map_or("no limit".to_owned(), |most| format!("too many at {}", grouped_usize(most)));
        lines.push(format!("{:<LABEL$}{}, {limit}", "users hurt", grouped_usize(hurt)));
    }
    guard.queries.iter().for_each(|asked| lines.extend(query(asked)));
}

/// `query       ledger-mismatches: 0.8, bad 2 of 3 times in a row (bad if > 0.5)`
fn query(asked: &QueryStatus) -> Vec<String> {
    let QueryStatus { name, bad_if, bad_in_a_row, failures, .. } = asked;
    let said = match &asked.last {
        _ if !asked.asked => "not asked while nobody is on new",
        Some(said) => said,
        None => "not answered yet",
    };
    wrapped("query", &format!("{name}: {said}; bad {bad_in_a_row} of {failures} times in a row (bad if {bad_if})"))
}

/// `new 3 of 5 210 (0.06 %), old 20 of 52 100 (0.04 %)`
fn both_sides(sense: &Sense) -> String {
    let told = |name: &str, side: &SideCount| match side.requests {
        0 => format!("{name} none"),
        _ => format!("{name} {} of {} ({})", grouped(side.bad), grouped(side.requests), share(side.share)),
    };
    format!("{}, {}", told("new", &sense.counted.new), told("old", &sense.counted.old))
}

fn sense(lines: &mut Vec<String>, sense: &Sense, what: &str, is_settled: bool) {
    let mut line = |label: &str, text: String| lines.push(format!("  {label:<26} {text}"));
    line(&format!("more than tolerated ({} %)", sense.tolerated), evidence(&sense.worse_than_tolerated));
    let worse_than_old = sense.worse_than_old.as_ref();
    let no_old = || "not asked: old has no requests to compare with".to_owned();
    line("more than old meanwhile", worse_than_old.map_or_else(no_old, evidence));
    let (users, needed) = (sense.users, sense.users_needed);
    let users_bar = bar(float(users) / float(needed.max(1)));
    line("from different users", format!("{users_bar}  {users}, enough {needed}"));
    if !is_settled {
        line("would trip it now", in_a_row(sense, what));
    }
}

fn in_a_row(sense: &Sense, what: &str) -> String {
    let users = if sense.users_needed > 1 { format!(", from {} users", sense.users_needed) } else { String::new() };
    match sense.in_a_row {
        None => "nothing that is in sight".to_owned(),
        Some(1) => format!("1 {what} more"),
        Some(count) => format!("{} in a row{users}", counted(count.into(), what)),
    }
}

fn evidence(evidence: &Evidence) -> String {
    format!("{}  odds {}, enough {}", bar(evidence.share), odds(evidence.odds), odds(evidence.enough))
}

fn odds(odds: f64) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to HUGE")]
    match odds {
        ..10.0 => format!("{odds}"),
        ..HUGE => grouped(odds as u64),
        _ => format!("10^{:.0}", odds.log10().floor()),
    }
}

/// It is full only when it is enough.
fn bar(share: f64) -> String {
    let is_in = |cell: &usize| share * float(BAR) >= float(*cell) - 1e-9;
    let cells = (1..=BAR).filter(is_in).count();
    format!("[{}{}]", "#".repeat(cells), ".".repeat(BAR - cells))
}

#[expect(clippy::cast_precision_loss, reason = "users and cells are far below 2^52")]
fn float(count: usize) -> f64 {
    count as f64
}

fn grouped_usize(count: usize) -> String {
    grouped(u64::try_from(count).unwrap_or(u64::MAX))
}

// -- what comes next

fn next(report: &GuardReport, again: &str, paint: Paint) -> String {
    let name = &report.rollout;
    let guard = &report.guard;
    let (command, why) = match (&guard.undo, guard.verdict) {
        (Some(undo), _) => (undo.trim_end_matches(" --reason TEXT").to_owned(), "  (once new is mended)"),
        (None, GuardVerdict::WouldHaveTripped) => {
            let is_held = guard.action.as_deref() == Some("hold_step");
            let why = if is_held { "  (new is not well yet)" } else { "  (what it would have done)" };
            (format!("tidegate rollback {name}"), why)
        }
        (None, _) => (format!("tidegate status {name}"), ""),
    };
    format!("next: {}{why}", paint.bold(format!("{command}{again}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::status::Sides;

    const NOW: &str = "2026-11-21T04:05:06Z";

    fn side(bad: u64, requests: u64, share: Option<f64>) -> SideCount {
        SideCount { requests, bad, share }
    }

    fn failures() -> Sense {
        Sense {
            tolerated: 1.0,
            counted: Sides { old: side(20, 52_100, Some(0.04)), new: side(3, 5_210, Some(0.06)) },
            worse_than_tolerated: Evidence { odds: 12.0, enough: 1e8, share: 0.135 },
            worse_than_old: Some(Evidence { odds: 2.0, enough: 1e4, share: 0.075 }),
            users: 2,
            users_needed: 3,
            in_a_row: Some(6),
        }
    }

    fn report() -> GuardReport {
        let guard = GuardStatus {
            armed: true,
            verdict: GuardVerdict::Healthy,
            action: Some("rollback".into()),
            cause: None,
            reason: None,
            since: None,
            undo: None,
            failures: Some(failures()),
            latency: None,
            users_hurt: Some(2),
            max_users_hurt: None,
            queries: Vec::new(),
        };
        GuardReport { rollout: "ledger".into(), percent: 25.0, guard }
    }

    fn settled(verdict: GuardVerdict, action: &str, undo: Option<&str>) -> GuardReport {
        let mut report = report();
        let guard = &mut report.guard;
        guard.verdict = verdict;
        guard.action = Some(action.into());
        guard.cause = Some("failures".into());
        guard.since = Some("2026-11-21T04:02:00Z".into());
        guard.undo = undo.map(str::to_owned);
        let reason = "new failed 5 of 5 requests (100 %) from 5 different users, old 0 of 45 (0 %); 1 % is tolerated";
        guard.reason = Some(reason.into());
        let full = |odds: f64, enough: f64| Evidence { odds, enough, share: 1.0 };
        guard.failures = Some(Sense {
            counted: Sides { old: side(0, 45, Some(0.0)), new: side(5, 5, Some(100.0)) },
            worse_than_tolerated: full(3e9, 1e8),
            worse_than_old: Some(full(25_119.0, 1e4)),
            users: 5,
            in_a_row: Some(0),
            ..failures()
        });
        report
    }

    #[track_caller]
    fn assert_shows(report: &GuardReport, golden: &str) {
        let shown = render(report, "", NOW.parse().unwrap(), Paint::NONE);
        assert!(shown.lines().all(|line| line.chars().count() <= WIDTH), "wider than 80\n{shown}");
        assert_eq!(shown, golden.trim_start_matches('\n'), "\n{shown}");
    }

    #[test]
    fn what_a_prometheus_says() {
        let asked = |asked, last: Option<&str>| QueryStatus {
            name: "ledger-mismatches".into(),
            bad_if: "> 0.5".into(),
            asked,
            last: last.map(str::to_owned),
            at: None,
            bad_in_a_row: 2,
            failures: 3,
        };
        for (query, said) in [
            (asked(true, Some("0.8")), "0.8"),
            (asked(true, None), "not answered yet"),
            (asked(false, Some("0.8")), "not asked while nobody is on new"),
            (asked(true, Some("no data: no connection to http://127.0.0.1:9090")), "no data: no connection to"),
        ] {
            let mut report = report();
            report.guard.queries = vec![query];
            let shown = render(&report, "", NOW.parse().unwrap(), Paint::NONE);
            assert!(shown.contains(&format!("query       ledger-mismatches: {said}")), "{shown}");
            assert!(shown.contains("2 of 3"), "{shown}");
            assert!(shown.lines().all(|line| line.chars().count() <= WIDTH), "wider than 80\n{shown}");
        }
    }

    #[test]
    fn a_new_that_is_well() {
        assert_shows(
            &report(),
            "
ledger: guard armed, action rollback; new looks healthy

failures    new 3 of 5 210 (0.06 %), old 20 of 52 100 (0.04 %)
  more than tolerated (1 %)  [#.........]  odds 12, enough 100 000 000
  more than old meanwhile    [..........]  odds 2, enough 10 000
  from different users       [######....]  2, enough 3
  would trip it now          6 failures in a row, from 3 users
latency     off (guard.latency in the config)
users hurt  2, no limit

next: tidegate status ledger
",
        );
    }

    #[test]
    fn a_new_that_fails_is_not_called_healthy() {
        let mut report = report();
        let failures = report.guard.failures.as_mut().unwrap();
        failures.counted = Sides { old: side(5, 5, Some(100.0)), new: side(12, 12, Some(100.0)) };
        failures.worse_than_tolerated.share = 1.0;
        failures.worse_than_old.as_mut().unwrap().share = 0.0;
        let shown = render(&report, "", NOW.parse().unwrap(), Paint::NONE);
        let head = "ledger: guard armed, action rollback; new fails more than is tolerated\nnot tripped old failed 5 of 5 (100 %)\n";
        assert!(shown.starts_with(head), "{shown}");
    }

    #[test]
    fn a_trip_keeps_the_numbers_that_led_to_it() {
        assert_shows(
            &settled(GuardVerdict::Tripped, "rollback", Some("tidegate resume ledger --reason TEXT")),
            "
ledger: guard TRIPPED 3 min ago: everybody is on old
because     new failed 5 of 5 requests (100 %) from 5 different users, old 0 of
            45 (0 %); 1 % is tolerated

failures    new 5 of 5 (100 %), old 0 of 45 (0 %)
  more than tolerated (1 %)  [##########]  odds 10^9, enough 100 000 000
  more than old meanwhile    [##########]  odds 25 119, enough 10 000
  from different users       [##########]  5, enough 3
latency     off (guard.latency in the config)
users hurt  2, no limit

next: tidegate resume ledger  (once new is mended)
",
        );
    }

    #[test]
    fn after_a_restart_the_reason_is_what_is_left() {
        let mut report = settled(GuardVerdict::Tripped, "rollback", Some("tidegate resume ledger --reason TEXT"));
        report.guard.cause = None;
        let shown = render(&report, "", NOW.parse().unwrap(), Paint::NONE);
        assert!(!shown.contains("failures  ") && shown.contains("because     new failed 5 of 5"), "{shown}");
        assert!(shown.contains("\nnumbers     gone with the restart that came after\n"), "{shown}");
    }

    #[test]
    fn latency_and_a_limit_on_users_have_their_lines() {
        let mut report = report();
        let slow = Sense { worse_than_old: None, users_needed: 1, in_a_row: None, ..failures() };
        report.guard.latency = Some(LatencySense { slow_above_ms: Some(800.0), sense: slow });
        report.guard.max_users_hurt = Some(1_200);
        let shown = render(&report, "", NOW.parse().unwrap(), Paint::NONE);
        for line in [
            "latency     above 800 ms: new 3 of 5 210 (0.06 %), old 20 of 52 100 (0.04 %)",
            "  more than old meanwhile    not asked: old has no requests to compare with",
            "  from different users       [##########]  2, enough 1",
            "  would trip it now          nothing that is in sight",
            "users hurt  2, too many at 1 200",
        ] {
            assert!(shown.lines().any(|shown| shown == line), "{line}\nin\n{shown}");
        }
        if let Some(latency) = &mut report.guard.latency {
            latency.slow_above_ms = None;
        }
        let shown = render(&report, "", NOW.parse().unwrap(), Paint::NONE);
        assert!(shown.contains("latency     too few requests on old"), "{shown}");
    }

    #[test]
    fn every_verdict_has_its_head_and_its_next_command() {
        let mut nobody = report();
        nobody.percent = 0.0;
        let mut off = report();
        off.guard = GuardStatus { armed: false, verdict: GuardVerdict::Off, action: None, failures: None, ..off.guard };
        let back = "tidegate step continue ledger --reason TEXT";
        for (report, head, next) in [
            (
                nobody,
                "ledger: guard armed, action rollback; nobody is on new, so there is nothing to see",
                "next: tidegate status ledger --admin unix:/a",
            ),
            (off, "ledger: guard off (guard.enabled in the config)", "next: tidegate status ledger --admin unix:/a"),
            (
                settled(GuardVerdict::Tripped, "step_back", Some(back)),
                "ledger: guard TRIPPED 3 min ago: back a step, where the ramp waits",
                "next: tidegate step continue ledger --admin unix:/a  (once new is mended)",
            ),
            (
                settled(GuardVerdict::WouldHaveTripped, "hold_step", Some(back)),
                "ledger: guard HELD THE STEP 3 min ago: the ramp waits, users stay on new",
                "next: tidegate step continue ledger --admin unix:/a  (once new is mended)",
            ),
            (
                settled(GuardVerdict::WouldHaveTripped, "hold_step", None),
                "ledger: guard HELD THE STEP 3 min ago: the ramp went on since, users stay on new",
                "next: tidegate rollback ledger --admin unix:/a  (new is not well yet)",
            ),
            (
                settled(GuardVerdict::WouldHaveTripped, "notify", None),
                "ledger: guard WOULD HAVE ROLLED BACK 3 min ago: action notify, users stay on new",
                "next: tidegate rollback ledger --admin unix:/a  (what it would have done)",
            ),
        ] {
            let shown = render(&report, " --admin unix:/a", NOW.parse().unwrap(), Paint::NONE);
            let lines: Vec<&str> = shown.lines().collect();
            assert_eq!((lines[0], *lines.last().unwrap()), (head, next));
        }
    }
}
