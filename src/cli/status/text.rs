//! A status for people, as large as their terminal: one rollout in full, or several in a table.

mod next;
mod page;
mod rollout;

#[cfg(test)]
mod tests;

use jiff::Timestamp;

use self::page::{Item, Page, Room};
pub(in crate::cli) use self::rollout::progress;
use crate::admin::status::{GuardVerdict, ListenerStatus, Phase, RolloutStatus, Status};
use crate::cli::output::{Paint, Screen, fitted, indented};
use crate::cli::words::{ago, counted, share, spell};

/// Writes `status`, which was told by `from`, as it looks at `now`, on a `screen`. `again` stands behind each command for it to
/// reach the same instance.
pub(super) fn render(
    status: &Status,
    from: &str,
    again: &str,
    now: Timestamp,
    (screen, paint): (Screen, Paint),
) -> String {
    let written = |room| {
        let mut page = Page { lines: Vec::new(), room, width: screen.width, now, paint, again };
        whole(&mut page, status, from);
        page.lines
    };
    let mut lines = written(Room::Enough);
    for room in [Room::Little, Room::Least] {
        if lines.len() > screen.height && status.rollouts.len() <= 1 {
            lines = written(room);
        }
    }
    lines.iter().map(|line| format!("{}\n", line.trim_end())).collect()
}

fn whole(page: &mut Page<'_>, status: &Status, from: &str) {
    process(page, status, from);
    page.gap();
    let next = match status.rollouts.as_slice() {
        [] => {
            page.line("no rollouts: every route leads straight to a backend");
            rollout::backends(page, &status.backends, true);
            None
        }
        [one] => {
            rollout::in_full(page, one);
            rollout::backends(page, &status.backends, false);
            next::of_rollout(one)
        }
        several => {
            table(page, several);
            rollout::backends(page, &status.backends, false);
            next::of_several(several)
        }
    };
    rollout::next(page, next::of_process(status).or(next));
}

// -- the process

fn process(page: &mut Page<'_>, status: &Status, from: &str) {
    let paint = page.paint;
    let ready = if status.ready { paint.good("ready") } else { paint.alarm("not ready") };
    page.line(format!("tidegate {} at {from}: {ready}", status.version));
    if status.phase != Phase::Running && page.room > Room::Least {
        page.line(format!("         {}", status.phase.explanation()));
    }
    if page.room == Room::Enough {
        let connections = counted(status.client_connections, "client connection");
        page.line(format!("up       {}, {connections}", spell(status.uptime_seconds)));
        page.line(format!("listen   {}", as_many_as_fit(&status.listeners, page.width - 9)));
    }
    let config = &status.config;
    let revision = format!(", revision {}, read {}", config.revision, ago(&config.loaded_at, page.now));
    page.line(format!("config   {}{revision}", end_of(&config.path, page.width - 9 - revision.chars().count())));
    state(page, status);
    reload(page, status);
    tls(page, status);
    webhooks(page, status);
    rollout::standings(page, "--all", status.maintenance.as_ref(), status.hold.as_ref());
    routes(page, status);
}

/// What has to be known before anything else is believed: that a restart would forget it, or that one did.
fn state(page: &mut Page<'_>, status: &Status) {
    if let Some(note) = &status.state.note {
        page.alarm(&format!("state    PUT ASIDE: {note}"));
    }
    if status.state.durable {
        return;
    }
    match (&status.state_dir, &status.state.why) {
        (None, _) => page.line("state    in memory: without state_dir a restart forgets what was done by hand"),
        (Some(_), why) => {
            let why = why.as_deref().unwrap_or("it could not be written");
            let why = why.rsplit_once("a restart: ").map_or(why, |(_, why)| why);
            // What the system says stands at the end of it, and is what has to be mended.
            let told = "state    NOT DURABLE, a restart would forget it: ";
            let why = match page.room == Room::Least && why.chars().count() > page.width - told.len() {
                true => why.rsplit_once(": ").map_or(why, |(_, why)| why),
                false => why,
            };
            page.alarm(&format!("{told}{why}"));
        }
    }
}

fn reload(page: &mut Page<'_>, status: &Status) {
    let reload = &status.reload;
    if !reload.successful {
        let failed = page.paint.alarm("FAILED");
        let error = reload.error.as_deref().unwrap_or_default();
        let told = format!("{failed}: revision {} stays in force", status.config.revision);
        match page.room {
            Room::Enough => {
                page.line(format!("reload   {told}"));
                page.gap();
                indented(error, 2).lines().for_each(|line| page.line(line));
            }
            Room::Little => {
                page.line(format!("reload   {told}"));
                indented(&first_of(error), 2).lines().for_each(|line| page.line(fitted(line, page.width)));
            }
            Room::Least => {
                let message = error.lines().next().unwrap_or_default();
                let message = message.strip_prefix("error: ").unwrap_or(message);
                let taken = format!("reload   FAILED: revision {} stays in force: ", status.config.revision).len();
                page.line(format!("reload   {told}: {}", fitted(message, page.width - taken)));
            }
        }
    }
    if !reload.needs_restart.is_empty() && page.room > Room::Least {
        let told = format!("restart  needed for what changed in: {}", reload.needs_restart.join(", "));
        page.line(fitted(&told, page.width));
    }
}

/// The first of the errors of a config, and how many there are besides.
fn first_of(errors: &str) -> String {
    let (first, others) = errors.split_once("\n\n").unwrap_or((errors, ""));
    let more = others.lines().filter(|line| line.starts_with("error: ")).count();
    match more {
        0 => first.to_owned(),
        more => format!("{first}\n... and {more} more"),
    }
}

/// Certificates that somebody should see to, and files that somebody should mend.
fn tls(page: &mut Page<'_>, status: &Status) {
    for certificate in status.tls.certificates.iter().filter(|certificate| certificate.expires_soon) {
        let told = match certificate.days_left {
            ..0 => format!("tls      EXPIRED: {}", end_of(&certificate.file, page.width - 18)),
            days => {
                let when = format!("tls      expires in {}: ", counted(days.unsigned_abs(), "day"));
                let file = end_of(&certificate.file, page.width - when.len());
                format!("{when}{file}")
            }
        };
        page.line(page.paint.alarm(told));
    }
    for trouble in &status.tls.troubles {
        let (file, message) = (&trouble.file, &trouble.message);
        page.alarm(&match page.room {
            Room::Enough => format!("tls      {file}: what was read before stays in use: {message}"),
            Room::Little => format!("tls      {}: {message}", end_of(file, page.width / 2)),
            Room::Least => format!("tls      {}: {message}", end_of(file, page.width / 3)),
        });
    }
}

/// Those who are to be told and take nothing.
fn webhooks(page: &mut Page<'_>, status: &Status) {
    if page.room == Room::Least {
        return;
    }
    for webhook in status.webhooks.iter().filter(|webhook| webhook.failing) {
        let why = webhook.last_error.as_deref().unwrap_or("it takes nothing");
        let told = format!("webhook  {} fails, {} waiting: {why}", webhook.name, counted(webhook.queued, "message"));
        page.alarm(&told);
    }
}

fn routes(page: &mut Page<'_>, status: &Status) {
    let closed = status.routes.iter().filter(|route| route.maintenance.is_some() || route.hold.is_some());
    if page.room == Room::Enough {
        for route in closed {
            let scope = format!("--route {}", route.name);
            rollout::standings(page, &scope, route.maintenance.as_ref(), route.hold.as_ref());
        }
        return;
    }
    let names: Vec<&str> = closed.map(|route| route.name.as_str()).collect();
    if !names.is_empty() {
        let facts = format!("in maintenance or on hold: {}", names.join(", "));
        page.item(&Item { label: "routes", facts, ..Item::default() });
    }
}

/// The first of `listeners` in at most `width` characters, and how many there are besides.
fn as_many_as_fit(listeners: &[ListenerStatus], width: usize) -> String {
    let all: Vec<String> = listeners.iter().map(ToString::to_string).collect();
    let told = |shown: usize| match all.len() - shown {
        0 => all.join(", "),
        hidden => format!("{} and {hidden} more", all[..shown].join(", ")),
    };
    let fits = |shown: &usize| told(*shown).chars().count() <= width;
    (1..=all.len()).rev().find(fits).map_or_else(|| fitted(&told(1.min(all.len())), width), told)
}

/// `text` in at most `width` characters, of which the last matter most.
fn end_of(text: &str, width: usize) -> String {
    let length = text.chars().count();
    if length <= width {
        return text.to_owned();
    }
    std::iter::once('…').chain(text.chars().skip(length + 1 - width)).collect()
}

// -- several rollouts

fn table(page: &mut Page<'_>, rollouts: &[RolloutStatus]) {
    let heads = format!(
        "{:<17}{:>11}{:>10}{:>11}{:>10}{:>10}{:>10}",
        "rollout", "configured", "override", "effective", "observed", "old req/s", "new req/s"
    );
    page.line(page.paint.dim(heads));
    rollouts.iter().for_each(|rollout| page.line(table_line(rollout, page.paint)));
    let remarks = rollouts.iter().filter_map(|rollout| Some((rollout, in_a_few_words(rollout)?)));
    for (at, (rollout, told)) in remarks.enumerate() {
        if at == 0 {
            page.gap();
        }
        let name = format!("{:<17}", fitted(&rollout.name, 16));
        let told = fitted(&told, page.width - 17);
        page.line(if rollout.rollback.active { format!("{name}{}", page.paint.alarm(told)) } else { name + &told });
    }
}

fn table_line(rollout: &RolloutStatus, paint: Paint) -> String {
    let percent = &rollout.percent;
    let effective = format!("{:>11}", share(Some(percent.effective)));
    format!(
        "{:<17}{:>11}{:>10}{}{:>10}{:>10.1}{:>10.1}",
        fitted(&rollout.name, 16),
        share(Some(percent.configured)),
        share(percent.overridden),
        if rollout.rollback.active { paint.alarm(effective) } else { effective },
        share(percent.observed.new),
        rollout.sides.old.requests_per_second,
        rollout.sides.new.requests_per_second,
    )
}

/// What is not as usual about a rollout.
fn in_a_few_words(rollout: &RolloutStatus) -> Option<String> {
    let mut told = Vec::new();
    if rollout.rollback.active {
        let why: Vec<&str> = rollout.rollback.latches.iter().map(|latch| latch.reason.as_str()).collect();
        told.push(format!("ROLLED BACK: {}", why.join("; ")));
    }
    if rollout.guard.verdict == GuardVerdict::WouldHaveTripped {
        told.push(format!("the guard finds: {}", rollout.guard.reason.as_deref().unwrap_or("trouble")));
    }
    if rollout.maintenance.is_some() {
        told.push("in maintenance".to_owned());
    }
    if let Some(hold) = &rollout.hold {
        told.push(format!("{} waiting", counted(hold.waiting, "request")));
    }
    if let Some(drain) = &rollout.drain {
        told.push(format!("draining {}", progress(drain).0));
    }
    if let (Some(by), Some(percent)) = (&rollout.overridden_by, rollout.percent.overridden) {
        told.push(format!("{} set {percent} %", by.by));
    }
    if let Some(steps) = &rollout.steps {
        let paused = if steps.paused { ", paused" } else { "" };
        told.push(format!("step {}/{}{paused}", steps.step, steps.of));
    }
    if let Some(colors) = &rollout.blue_green {
        told.push(format!("active {}", colors.active));
    }
    (!told.is_empty()).then(|| told.join("; "))
}
