//! A status for people, in 80 columns: one rollout in full, or several in a table.

use std::fmt::Write as _;

use jiff::Timestamp;

use crate::admin::status::{LatchStatus, Latency, Phase, RolloutStatus, SideStatus, Status};
use crate::cli::output::{Paint, fitted, indented};

/// Writes `status`, which was told by `from`, as it looks at `now`.
pub(super) fn render(status: &Status, from: &str, now: Timestamp, paint: Paint) -> String {
    let mut out = String::new();
    instance(&mut out, status, from, now, paint);
    match status.rollouts.as_slice() {
        [] => out.push_str("\nno rollouts: every route leads straight to a backend\n"),
        [one] => in_full(&mut out, one, now, paint),
        several => table(&mut out, several, paint),
    }
    out
}

// -- the process

fn instance(out: &mut String, status: &Status, from: &str, now: Timestamp, paint: Paint) {
    let ready = if status.ready { paint.good("ready") } else { paint.alarm("not ready") };
    let up = spell(status.uptime_seconds);
    let connections = status.client_connections;
    let _ = writeln!(out, "tidegate {} at {from}: {ready}", status.version);
    if status.phase != Phase::Running {
        let _ = writeln!(out, "         {}", status.phase.explanation());
    }
    let _ = writeln!(out, "up       {up}, {connections} client connections");
    let config = &status.config;
    let read = ago(&config.loaded_at, now);
    let _ = writeln!(out, "config   {}", config.path);
    let _ = writeln!(out, "         revision {}, hash {}, read {read}", config.revision, config.hash);
    reload(out, status, paint);
}

fn reload(out: &mut String, status: &Status, paint: Paint) {
    let reload = &status.reload;
    if !reload.successful {
        let revision = status.config.revision;
        let _ = writeln!(out, "reload   {}: revision {revision} stays in force", paint.alarm("FAILED"));
        if let Some(error) = &reload.error {
            let _ = write!(out, "\n{}\n", indented(error, 2));
        }
        let _ = writeln!(out, "  next: correct the file; tidegate check -c {}", status.config.path);
    }
    if !reload.needs_restart.is_empty() {
        let _ = writeln!(out, "restart  needed for what changed in: {}", reload.needs_restart.join(", "));
    }
}

// -- one rollout

fn in_full(out: &mut String, rollout: &RolloutStatus, now: Timestamp, paint: Paint) {
    let _ = write!(out, "\n{}", paint.bold(&rollout.name));
    if rollout.rollback.active {
        let _ = write!(out, "  {}", paint.alarm("ROLLED BACK: everybody is on old"));
    }
    out.push('\n');
    layers(out, rollout, paint);
    for latch in &rollout.rollback.latches {
        latched(out, latch, now);
    }
    sides(out, rollout, paint);
}

fn layers(out: &mut String, rollout: &RolloutStatus, paint: Paint) {
    let percent = &rollout.percent;
    let heads = format!("  {:>10}{:>12}{:>12}{:>12}", "configured", "override", "effective", "observed");
    let _ = writeln!(out, "{}", paint.dim(heads));
    let effective = format!("{:>12}", share(Some(percent.effective)));
    let effective = if rollout.rollback.active { paint.alarm(effective) } else { paint.bold(effective) };
    let observed = &percent.observed;
    let _ = writeln!(
        out,
        "  {:>10}{:>12}{effective}{:>12}  of {} requests in {:.0} s",
        share(Some(percent.configured)),
        share(percent.overridden),
        share(observed.new),
        observed.requests,
        observed.over_seconds,
    );
}

fn latched(out: &mut String, latch: &LatchStatus, now: Timestamp) {
    let since = ago(&latch.at, now);
    let _ = writeln!(out, "\n  {}", latch.reason);
    let _ = writeln!(out, "    since {} ({since}), by {}", latch.at, latch.by);
    let _ = writeln!(out, "    to lift it: {}", latch.undo);
}

fn sides(out: &mut String, rollout: &RolloutStatus, paint: Paint) {
    let heads = format!(
        "  {:<5} {:<13}{:>9}{:>9}{:>9}{:>8}{:>8}{:>8}{:>8}",
        "side", "backend", "inflight", "healthy", "req/s", "TP50", "TP90", "TP99", "TP99.9"
    );
    let _ = writeln!(out, "\n{}", paint.dim(heads));
    for (name, side) in [("old", &rollout.sides.old), ("new", &rollout.sides.new)] {
        let _ = writeln!(out, "{}", side_line(name, side));
    }
}

fn side_line(name: &str, side: &SideStatus) -> String {
    let times: String = percentiles(side.latency_ms).iter().map(|time| format!("{time:>8}")).collect();
    format!(
        "  {name:<5} {:<13}{:>9}{:>9}{:>9.1}{times}",
        fitted(&side.backend, 13),
        side.inflight,
        format!("{}/{}", side.healthy, side.endpoints),
        side.requests_per_second,
    )
}

fn percentiles(latency: Option<Latency>) -> [String; 4] {
    match latency {
        None => std::array::from_fn(|_| "-".to_owned()),
        Some(Latency { p50, p90, p99, p999 }) => [p50, p90, p99, p999].map(time),
    }
}

// -- several rollouts

fn table(out: &mut String, rollouts: &[RolloutStatus], paint: Paint) {
    let heads = format!(
        "{:<17}{:>11}{:>10}{:>11}{:>10}{:>10}{:>10}",
        "rollout", "configured", "override", "effective", "observed", "old req/s", "new req/s"
    );
    let _ = writeln!(out, "\n{}", paint.dim(heads));
    for rollout in rollouts {
        let _ = writeln!(out, "{}", table_line(rollout, paint));
    }
    out.push('\n');
    for rollout in rollouts.iter().filter(|rollout| rollout.rollback.active) {
        let why: Vec<&str> = rollout.rollback.latches.iter().map(|latch| latch.reason.as_str()).collect();
        let _ = writeln!(out, "{} is {}: {}", rollout.name, paint.alarm("ROLLED BACK"), why.join("; "));
    }
    let _ = writeln!(out, "{}", paint.dim("tidegate status NAME shows one in full"));
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

// -- numbers for people

fn share(percent: Option<f64>) -> String {
    percent.map_or_else(|| "-".to_owned(), |percent| format!("{percent} %"))
}

/// A latency in three digits or so.
fn time(millis: f64) -> String {
    match millis {
        ..1.0 => format!("{:.0} us", millis * 1e3),
        ..10.0 => format!("{millis:.1} ms"),
        ..1e3 => format!("{millis:.0} ms"),
        ..1e4 => format!("{:.1} s", millis / 1e3),
        _ => format!("{:.0} s", millis / 1e3),
    }
}

/// How long ago a time in RFC 3339 was.
fn ago(at: &str, now: Timestamp) -> String {
    match at.parse::<Timestamp>() {
        Ok(at) => format!("{} ago", spell(now.duration_since(at).as_secs_f64())),
        Err(_) => at.to_owned(),
    }
}

/// A duration in its two largest units.
fn spell(seconds: f64) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a float saturates to 0 or u64::MAX")]
    let seconds = seconds as u64;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{minutes} min"),
        3600..86_400 => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::status::{ConfigStatus, Observed, PercentStatus, ReloadStatus, RollbackStatus, Sides};

    const NOW: &str = "2026-11-21T04:05:06Z";

    fn side(backend: &str, per_second: f64, latency_ms: Option<Latency>) -> SideStatus {
        SideStatus {
            backend: backend.into(),
            inflight: 3,
            healthy: 2,
            endpoints: 2,
            requests: 9306,
            requests_per_second: per_second,
            latency_ms,
        }
    }

    fn rollout(name: &str) -> RolloutStatus {
        let latency = Latency { p50: 0.416, p90: 3.4, p99: 98.3, p999: 1310.7 };
        RolloutStatus {
            name: name.into(),
            percent: PercentStatus {
                configured: 25.0,
                overridden: None,
                effective: 25.0,
                observed: Observed { new: Some(24.87), requests: 12_408, over_seconds: 60.0 },
            },
            rollback: RollbackStatus { active: false, latches: vec![] },
            sides: Sides {
                old: side("ledger-v2", 155.1, Some(latency)),
                new: side("ledger-v3-with-a-tail", 0.0, None),
            },
        }
    }

    fn rolled_back(name: &str) -> RolloutStatus {
        let mut rollout = rollout(name);
        rollout.percent.effective = 0.0;
        rollout.rollback.active = true;
        rollout.rollback.latches.push(LatchStatus {
            id: format!("{name}-flag-file"),
            source: "flag_file".into(),
            at: "2026-11-21T04:02:00Z".into(),
            by: "flag_file".into(),
            reason: "the file ROLLBACK in state_dir".into(),
            undo: "rm /var/lib/tidegate/ROLLBACK".into(),
        });
        rollout
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
            state_dir: None,
            client_connections: 42,
            rollouts,
        }
    }

    #[track_caller]
    fn assert_shows(status: &Status, golden: &str) {
        let shown = render(status, "http://127.0.0.1:9901", NOW.parse().unwrap(), Paint::NONE);
        assert_eq!(shown, golden.trim_start_matches('\n'), "\n{shown}");
        assert!(shown.lines().all(|line| line.chars().count() <= 80), "wider than 80\n{shown}");
        assert!(shown.lines().count() <= 24, "higher than 24\n{shown}");
    }

    #[test]
    fn a_rollout_that_runs() {
        assert_shows(
            &status(vec![rollout("ledger")]),
            "
tidegate 0.1.0 at http://127.0.0.1:9901: ready
up       3 h 12 min, 42 client connections
config   /etc/tidegate.yaml
         revision 3, hash 1c0ffee01c0ffee0, read 13 min ago

ledger
  configured    override   effective    observed
        25 %           -        25 %     24.87 %  of 12408 requests in 60 s

  side  backend       inflight  healthy    req/s    TP50    TP90    TP99  TP99.9
  old   ledger-v2            3      2/2    155.1  416 us  3.4 ms   98 ms   1.3 s
  new   ledger-v3-wi…        3      2/2      0.0       -       -       -       -
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
config   /etc/tidegate.yaml
         revision 3, hash 1c0ffee01c0ffee0, read 13 min ago

ledger  ROLLED BACK: everybody is on old
  configured    override   effective    observed
        25 %           -         0 %     24.87 %  of 12408 requests in 60 s

  the file ROLLBACK in state_dir
    since 2026-11-21T04:02:00Z (3 min ago), by flag_file
    to lift it: rm /var/lib/tidegate/ROLLBACK

  side  backend       inflight  healthy    req/s    TP50    TP90    TP99  TP99.9
  old   ledger-v2            3      2/2    155.1  416 us  3.4 ms   98 ms   1.3 s
  new   ledger-v3-wi…        3      2/2      0.0       -       -       -       -
",
        );
    }

    #[test]
    fn a_failed_reload_is_told_in_full() {
        let mut status = status(vec![]);
        status.phase = Phase::Draining;
        status.ready = false;
        status.reload.successful = false;
        status.reload.error = Some("error: percent is above 100\n --> /etc/tidegate.yaml:7:12\n".into());
        status.reload.needs_restart = vec!["workers".into(), "listen".into()];
        assert_shows(
            &status,
            "
tidegate 0.1.0 at http://127.0.0.1:9901: not ready
         Draining: running requests end, new connections are not accepted.
up       3 h 12 min, 42 client connections
config   /etc/tidegate.yaml
         revision 3, hash 1c0ffee01c0ffee0, read 13 min ago
reload   FAILED: revision 3 stays in force

  error: percent is above 100
   --> /etc/tidegate.yaml:7:12

  next: correct the file; tidegate check -c /etc/tidegate.yaml
restart  needed for what changed in: workers, listen

no rollouts: every route leads straight to a backend
",
        );
    }

    #[test]
    fn several_rollouts_fit_a_table() {
        assert_shows(
            &status(vec![rollout("a-rollout-with-a-long-name"), rolled_back("ledger")]),
            "
tidegate 0.1.0 at http://127.0.0.1:9901: ready
up       3 h 12 min, 42 client connections
config   /etc/tidegate.yaml
         revision 3, hash 1c0ffee01c0ffee0, read 13 min ago

rollout           configured  override  effective  observed old req/s new req/s
a-rollout-with-…        25 %         -       25 %   24.87 %     155.1       0.0
ledger                  25 %         -        0 %   24.87 %     155.1       0.0

ledger is ROLLED BACK: the file ROLLBACK in state_dir
tidegate status NAME shows one in full
",
        );
    }

    #[test]
    fn times_are_told_in_few_digits() {
        for (millis, told) in [
            (0.064, "64 us"),
            (0.9999, "1000 us"),
            (1.25, "1.2 ms"),
            (99.6, "100 ms"),
            (1500.0, "1.5 s"),
            (134_217.7, "134 s"),
        ] {
            assert_eq!(time(millis), told);
        }
        for (seconds, told) in [(0.4, "0 s"), (59.9, "59 s"), (3599.0, "59 min"), (90_000.0, "1 d 1 h"), (-5.0, "0 s")]
        {
            assert_eq!(spell(seconds), told);
        }
    }
}
