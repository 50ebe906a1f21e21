//! One rollout in full.

use super::next;
use super::page::{Item, Page, Room};
use crate::admin::status::{
    BackendStatus, BlueGreenStatus, Deed, DrainStatus, EndpointStatus, GuardVerdict, HoldStatus, LatchStatus, Latency,
    MaintenanceStatus, QueryStatus, RolloutStatus, SideStatus, StepsStatus,
};
use crate::cli::guard::doubt;
use crate::cli::output::fitted;
use crate::cli::words::{ago, counted, grouped, seconds_until, share, spell, time};

/// Writes `rollout` in full.
pub(super) fn in_full(page: &mut Page<'_>, rollout: &RolloutStatus) {
    let name = page.paint.bold(&rollout.name);
    let state =
        if rollout.rollback.active { page.paint.alarm("  ROLLED BACK: everybody is on old") } else { String::new() };
    page.line(format!("{name}{state}"));
    layers(page, rollout);
    page.gap();
    let before = page.lines.len();
    latches(page, rollout);
    if let Some(item) = guarded(page, rollout) {
        page.item(&item);
    }
    silent_queries(rollout).iter().for_each(|item| page.item(item));
    let items = [drift(page, rollout), ramp(rollout), deadline(page, rollout), colors(rollout)];
    items.into_iter().flatten().for_each(|item| page.item(&item));
    let scope = rollout.name.as_str();
    standings(page, scope, rollout.maintenance.as_ref(), rollout.hold.as_ref());
    if let Some(drain) = &rollout.drain {
        let item = drained(page, rollout, drain);
        page.item(&item);
    }
    if page.lines.len() > before {
        page.gap();
    }
    sides(page, rollout);
}

fn layers(page: &mut Page<'_>, rollout: &RolloutStatus) {
    let percent = &rollout.percent;
    let heads = format!("  {:>10}{:>12}{:>12}{:>12}", "configured", "override", "effective", "observed");
    page.line(page.paint.dim(heads));
    let effective = format!("{:>12}", share(Some(percent.effective)));
    let effective = if rollout.rollback.active { page.paint.alarm(effective) } else { page.paint.bold(effective) };
    let observed = &percent.observed;
    page.line(format!(
        "  {:>10}{:>12}{effective}{:>12}  of {} requests in {:.0} s",
        share(Some(percent.configured)),
        share(percent.overridden),
        share(observed.new),
        observed.requests,
        observed.over_seconds,
    ));
}

// -- what holds it where it is

fn latches(page: &mut Page<'_>, rollout: &RolloutStatus) {
    let latches = &rollout.rollback.latches;
    let shown = match page.room {
        Room::Enough => 4,
        Room::Little => 2,
        Room::Least => 1,
    };
    for latch in latches.iter().take(shown) {
        let item = latched(page, latch);
        page.item(&item);
    }
    if latches.len() > shown {
        let facts = format!("and {} more; all: tidegate status {} -o json", latches.len() - shown, rollout.name);
        page.item(&Item { facts, ..Item::default() });
    }
}

fn latched(page: &Page<'_>, latch: &LatchStatus) -> Item {
    Item {
        label: "rollback",
        facts: latch.id.clone(),
        more: vec![format!("by {}", latch.by), ago(&latch.at, page.now)],
        why: latch.reason.clone(),
        end: Some(("lift", latch.undo.clone())),
    }
}

/// What the guard thinks of NEW. When there is hardly any room, the rollback says all that matters.
fn guarded(page: &Page<'_>, rollout: &RolloutStatus) -> Option<Item> {
    let guard = &rollout.guard;
    if page.room == Room::Least && rollout.rollback.active {
        return None;
    }
    let when = guard.since.as_deref().map(|since| ago(since, page.now)).unwrap_or_default();
    let look = Some(("numbers", format!("tidegate guard {}", rollout.name)));
    let why = guard.reason.clone().unwrap_or_default();
    let item = |facts: String| Item { label: "guard", facts, ..Item::default() };
    Some(match (guard.verdict, guard.action.as_deref()) {
        (GuardVerdict::Off, _) => item("off (guard.enabled in the config)".to_owned()),
        (GuardVerdict::Healthy, _) => Item { more: doubts(rollout), ..item(healthy(rollout)) },
        (GuardVerdict::Tripped, _) if rollout.rollback.active => Item { end: look, ..item("tripped".to_owned()) },
        (GuardVerdict::Tripped, _) => Item { end: look, why, ..item(format!("TRIPPED {when}, back a step")) },
        (GuardVerdict::WouldHaveTripped, Some("hold_step")) if guard.undo.is_none() => {
            Item { end: look, why, ..item(format!("HELD the step {when}, it went on")) }
        }
        (GuardVerdict::WouldHaveTripped, Some("hold_step")) => {
            Item { end: look, why, ..item(format!("HOLDS the step since {when}").replace(" ago", "")) }
        }
        (GuardVerdict::WouldHaveTripped, _) => {
            Item { end: look, why, ..item(format!("WOULD HAVE ROLLED BACK {when}")) }
        }
    })
}

fn healthy(rollout: &RolloutStatus) -> String {
    let Some(failures) = &rollout.guard.failures else { return "armed".to_owned() };
    let (new, tolerated) = (&failures.counted.new, failures.tolerated);
    match (new.share, rollout.percent.effective) {
        (None, percent) if percent <= 0.0 => "armed; nobody is on new".to_owned(),
        (None, _) => format!("healthy: nothing speaks against new, tolerated {tolerated} %"),
        (Some(share), _) => {
            let (bad, of) = (grouped(new.bad), grouped(new.requests));
            match doubt(failures) {
                Some(_) => format!("NOT TRIPPED: new {bad} of {of} failed ({share} %)"),
                None => format!("healthy: new {bad} of {of} failed ({share} %), tolerated {tolerated} %"),
            }
        }
    }
}

/// What keeps the guard from tripping although NEW fails.
fn doubts(rollout: &RolloutStatus) -> Vec<String> {
    rollout.guard.failures.as_ref().and_then(doubt).into_iter().collect()
}

/// Queries of the guard that are asked and bring nothing.
fn silent_queries(rollout: &RolloutStatus) -> Vec<Item> {
    let brings_nothing =
        |query: &&QueryStatus| query.asked && query.last.as_deref().is_some_and(|said| said.starts_with("no data"));
    let item = |query: &QueryStatus| Item {
        label: "query",
        facts: query.name.clone(),
        why: query.last.clone().unwrap_or_default(),
        ..Item::default()
    };
    rollout.guard.queries.iter().filter(brings_nothing).map(item).collect()
}

/// What somebody put over the file, in words. A rollback and a drain tell of themselves.
fn drift(page: &Page<'_>, rollout: &RolloutStatus) -> Option<Item> {
    let percent = &rollout.percent;
    let label = "drift";
    if let Some(colors) = rollout.blue_green.as_ref().filter(|colors| colors.active != colors.configured) {
        let facts = format!("the file says {}, {} was switched to", colors.configured, colors.active);
        return Some(Item { label, facts, ..Item::default() });
    }
    let overridden = percent.overridden?;
    let says = if rollout.steps.is_some() { "the ramp is at" } else { "the file says" };
    let (who, when, why) = match &rollout.overridden_by {
        Some(Deed { at, by, reason }) => (by.as_str(), ago(at, page.now), reason.clone()),
        None => ("somebody", String::new(), String::new()),
    };
    let facts = format!("{says} {} %, {who} set {overridden} %", percent.configured);
    let end = Some(("undo", format!("tidegate set {} --clear", rollout.name)));
    Some(Item { label, facts, more: vec![when], why, end })
}

/// The ramp as one line: where it stands, what it waits for, and what makes it go on.
fn ramp(rollout: &RolloutStatus) -> Option<Item> {
    let steps = rollout.steps.as_ref()?;
    let paused = if steps.paused { ", PAUSED" } else { "" };
    let at = format!("step {}/{} at {} %{paused}", steps.step, steps.of, steps.percent);
    Some(match (standstill(rollout), steps.next) {
        (Some(why), Some(_)) => Item { label: "ramp", facts: format!("{at}, stands still {why}"), ..Item::default() },
        (_, None) => Item { label: "ramp", facts: format!("{at}, the last one"), ..Item::default() },
        (None, Some(next)) => climbing(&at, steps, next, &rollout.name),
    })
}

/// Why a ramp does not move although nobody paused it.
fn standstill(rollout: &RolloutStatus) -> Option<&'static str> {
    match rollout {
        _ if rollout.rollback.active => Some("while it is rolled back"),
        _ if rollout.percent.overridden.is_some() => Some("while a percent is set by hand"),
        _ if rollout.drain.is_some() => Some("during the drain"),
        _ if rollout.maintenance.is_some() => Some("during maintenance"),
        _ => None,
    }
}

fn climbing(at: &str, steps: &StepsStatus, next: f64, name: &str) -> Item {
    let then = format!("then {next} %");
    let go_on = Some(("go on", format!("tidegate step continue {name}")));
    let promote = Some(("go on", format!("tidegate promote {name}")));
    let Some(hold) = steps.hold_seconds else {
        let facts = format!("{at}; {next} % waits for somebody to promote it");
        return Item { label: "ramp", facts, end: if steps.paused { go_on } else { promote }, ..Item::default() };
    };
    let is_seen = steps.requests >= steps.min_requests && steps.judged >= steps.min_judged;
    let is_over = steps.held_seconds >= hold && is_seen;
    let held = format!("held {} of {}", spell(steps.held_seconds.min(hold)), spell(hold));
    let requests = seen(steps);
    let (facts, more, end) = match (steps.paused, steps.frozen) {
        (true, _) => (format!("{at}: {held}{requests}"), vec![], go_on),
        (false, true) if is_over => {
            let force = Some(("now", format!("tidegate promote {name} --force")));
            (format!("{at}, held; {next} % waits for the schedule to allow it"), vec![], force)
        }
        (false, true) => (format!("{at}, frozen: {held}{requests}"), vec![then], None),
        (false, false) => (format!("{at}: {held}{requests}"), vec![then], None),
    };
    Item { label: "ramp", facts, more, end, ..Item::default() }
}

/// The requests that a step waits for: its own, or those that the guard has to judge by, whichever is further off.
fn seen(steps: &StepsStatus) -> String {
    let missing = |seen: u64, least: u64| least.saturating_sub(seen);
    let told = |seen: u64, least: u64, what: &str| format!(", {} of {least} {what}", seen.min(least));
    match (steps.min_requests, steps.min_judged) {
        (0, 0) => String::new(),
        (least, judged) if missing(steps.judged, judged) > missing(steps.requests, least) || least == 0 => {
            told(steps.judged, judged, "judged")
        }
        (least, _) => told(steps.requests, least, "requests"),
    }
}

fn deadline(page: &Page<'_>, rollout: &RolloutStatus) -> Option<Item> {
    let at = rollout.deadline.as_deref()?;
    let is_full = rollout.percent.effective >= 100.0;
    let (facts, more) = match seconds_until(at, page.now) {
        Some(left) if left > 0.0 && is_full => (format!("{at}, in {}", spell(left)), "at 100 % now: met"),
        Some(left) if left > 0.0 => (format!("{at}, in {}", spell(left)), "not at 100 %: rolled back"),
        Some(passed) => (format!("{at}, {} ago", spell(-passed)), ""),
        None => (at.to_owned(), ""),
    };
    Some(Item { label: "deadline", facts, more: vec![more.to_owned()], ..Item::default() })
}

fn colors(rollout: &RolloutStatus) -> Option<Item> {
    let BlueGreenStatus { active, old, .. } = rollout.blue_green.as_ref()?;
    let idle = if active == "blue" { "green" } else { "blue" };
    let name = &rollout.name;
    let (facts, end) = match (rollout.rollback.active, active == old) {
        (true, true) => (format!("active {active}, {idle} idle"), None),
        (true, false) => (format!("{old} serves until the rollback is lifted, then {active}"), None),
        (false, true) => (format!("active {active}, {idle} idle"), Some(("switch", format!("tidegate switch {name}")))),
        (false, false) => {
            (format!("active {active}, {idle} idle"), Some(("back", format!("tidegate switch {name} --back"))))
        }
    };
    Some(Item { label: "colours", facts, end, ..Item::default() })
}

// -- who is turned away, who waits, what is emptied

/// Maintenance and hold of `scope`, as it stands on the command line.
pub(super) fn standings(
    page: &mut Page<'_>,
    scope: &str,
    maintenance: Option<&MaintenanceStatus>,
    hold: Option<&HoldStatus>,
) {
    let of = match scope.strip_prefix("--") {
        Some("all") => "everything, ".to_owned(),
        Some(route) => format!("{route}, "),
        None => String::new(),
    };
    if let Some(MaintenanceStatus { read_only, deed, .. }) = maintenance {
        let only = if *read_only { "read-only, " } else { "" };
        let facts = format!("{of}{only}since {}", since(&deed.at, page));
        let end = Some(("end", format!("tidegate maintenance {scope} off")));
        page.item(&Item {
            label: "maintenance",
            facts,
            more: vec![format!("by {}", deed.by)],
            why: deed.reason.clone(),
            end,
        });
    }
    if let Some(HoldStatus { waiting, deed, .. }) = hold {
        let waiting = counted(*waiting, "request");
        let item = match deed {
            None => Item { label: "hold", facts: format!("{of}over: the last {waiting} go on"), ..Item::default() },
            Some(deed) => Item {
                label: "hold",
                facts: format!("{of}{waiting} waiting"),
                more: vec![format!("since {}", since(&deed.at, page)), format!("by {}", deed.by)],
                why: deed.reason.clone(),
                end: Some(("end", format!("tidegate hold {scope} off"))),
            },
        };
        page.item(&item);
    }
}

fn since(at: &str, page: &Page<'_>) -> String {
    seconds_until(at, page.now).map_or_else(|| at.to_owned(), |seconds| spell(-seconds))
}

fn drained(page: &Page<'_>, rollout: &RolloutStatus, drain: &DrainStatus) -> Item {
    let (facts, mut more) = progress(drain);
    more.push(format!("by {}", drain.deed.by));
    more.push(ago(&drain.deed.at, page.now));
    let end = Some(("end", format!("tidegate drain {} off", rollout.name)));
    Item { label: "drain", facts, more, why: drain.deed.reason.clone(), end }
}

/// How far a drain has got: `old, 12 running`, and `oldest 34 s`, `about 20 s left`.
pub(in crate::cli) fn progress(drain: &DrainStatus) -> (String, Vec<String>) {
    let side = &drain.side;
    if drain.done {
        return (format!("{side} is empty"), Vec::new());
    }
    let oldest = drain.oldest_seconds.map(|oldest| format!("oldest {}", spell(oldest)));
    let cut = drain.cut_in_seconds.map(|left| format!("cut off in {}", spell(left)));
    let estimated = drain.estimated_seconds.filter(|_| cut.is_none());
    let estimated = estimated.map(|left| format!("about {} left", spell(left.max(1.0))));
    (format!("{side}, {} running", drain.inflight), [oldest, cut, estimated].into_iter().flatten().collect())
}

// -- the sides

fn sides(page: &mut Page<'_>, rollout: &RolloutStatus) {
    let heads = format!(
        "  {:<5} {:<13}{:>9}{:>9}{:>9}{:>8}{:>8}{:>8}{:>8}",
        "side", "backend", "inflight", "failed", "req/s", "TP50", "TP90", "TP99", "TP99.9"
    );
    page.line(page.paint.dim(heads));
    for (name, side) in [("old", &rollout.sides.old), ("new", &rollout.sides.new)] {
        page.line(side_line(name, side));
    }
    for (name, side) in [("old", &rollout.sides.old), ("new", &rollout.sides.new)] {
        nowhere(page, name, &side.nowhere, side.endpoints);
        if side.healthy < side.endpoints && page.room > Room::Least {
            let told = format!("only {} of {} endpoints of {name} are well", side.healthy, side.endpoints);
            let unseen = if side.checked { "" } else { "; not checked (no health in the config)" };
            page.line(format!("  {}{unseen}", page.paint.alarm(told)));
            unfit(page, &side.endpoint_list);
        }
        failing(page, name, &side.endpoint_list);
        if side.pending > 0 && page.room == Room::Enough {
            let SideStatus { pending, connections, max_connections, .. } = side;
            let waiting = counted(*pending as u64, "request");
            let told = format!("{waiting} for {name} waiting: {connections} of {max_connections} connections are open");
            page.line(format!("  {}", page.paint.alarm(told)));
        }
    }
}

/// Names that lead nowhere; worse if nothing else is left.
fn nowhere(page: &mut Page<'_>, of: &str, names: &[String], endpoints: usize) {
    if endpoints == 0 {
        let why = names.first().map_or("its name has no address", String::as_str);
        let told = fitted(&format!("{of} has no endpoint: {why}"), page.width - 2);
        page.line(format!("  {}", page.paint.alarm(told)));
    } else if page.room > Room::Least {
        for name in names.iter().take(3) {
            let told = fitted(&format!("{of} lacks an address: {name}"), page.width - 2);
            page.line(format!("  {}", page.paint.alarm(told)));
        }
    }
}

/// The backends that no rollout has: all of them where nothing else is to be told, else those with trouble.
pub(super) fn backends(page: &mut Page<'_>, backends: &[BackendStatus], all: bool) {
    let is_troubled = |backend: &BackendStatus| {
        let fails = backend.endpoint_list.iter().any(|endpoint| endpoint.trouble.is_some());
        backend.endpoints == 0 || backend.healthy < backend.endpoints || !backend.nowhere.is_empty() || fails
    };
    for backend in backends.iter().filter(|backend| all || is_troubled(backend)) {
        let BackendStatus { name, healthy, endpoints, .. } = backend;
        if backend.endpoints > 0 {
            let told = format!("{healthy} of {} of {name} get requests", counted(*endpoints as u64, "endpoint"));
            let told = fitted(&told, page.width - 2);
            page.line(format!("  {}", if healthy < endpoints { page.paint.alarm(told) } else { told }));
        }
        nowhere(page, name, &backend.nowhere, *endpoints);
        unfit(page, &backend.endpoint_list);
        failing(page, name, &backend.endpoint_list);
    }
}

/// The first few endpoints that get no requests, and why.
fn unfit(page: &mut Page<'_>, endpoints: &[EndpointStatus]) {
    const SHOWN: usize = 3;
    if page.room < Room::Enough {
        return;
    }
    for endpoint in endpoints.iter().filter(|endpoint| !endpoint.healthy).take(SHOWN) {
        let why = endpoint.why.as_deref().unwrap_or_default();
        page.line(fitted(&format!("    {} {why}", endpoint.endpoint), page.width));
    }
}

/// The first few endpoints that get requests and fail them, and why.
fn failing(page: &mut Page<'_>, name: &str, endpoints: &[EndpointStatus]) {
    let shown = if page.room == Room::Enough { 3 } else { 1 };
    let failing = endpoints.iter().filter(|endpoint| endpoint.healthy && endpoint.trouble.is_some());
    for endpoint in failing.take(shown) {
        let why = endpoint.trouble.as_deref().unwrap_or_default();
        let told = fitted(&format!("{name}: {}: {why}", endpoint.endpoint), page.width - 2);
        page.line(format!("  {}", page.paint.alarm(told)));
    }
}

fn side_line(name: &str, side: &SideStatus) -> String {
    let times: String = percentiles(side.latency_ms).iter().map(|time| format!("{time:>8}")).collect();
    let backend = side.color.as_ref().map(|color| format!("{color}: {}", side.backend));
    format!(
        "  {name:<5} {:<13}{:>9}{:>9}{:>9.1}{times}",
        fitted(&backend.unwrap_or_else(|| side.backend.clone()), 13),
        side.inflight,
        share(side.failure_share),
        side.requests_per_second,
    )
}

fn percentiles(latency: Option<Latency>) -> [String; 4] {
    match latency {
        None => std::array::from_fn(|_| "-".to_owned()),
        Some(Latency { p50, p90, p99, p999 }) => [p50, p90, p99, p999].map(time),
    }
}

/// The line at the end: the most likely command.
pub(super) fn next(page: &mut Page<'_>, next: Option<next::Next>) {
    if let Some(next::Next { command, why }) = next {
        let command = page.command(&command);
        let fits = "next: ".len() + command.chars().count() + why.len() + "  ()".len() <= page.width;
        let why = if why.is_empty() || !fits { String::new() } else { format!("  ({why})") };
        page.gap();
        page.line(format!("next: {}{why}", page.paint.bold(command)));
    }
}
