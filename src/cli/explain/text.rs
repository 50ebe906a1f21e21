//! An explanation for people.

use std::fmt::Write as _;

use super::road::{Explanation, GateStep, RolloutSteps};
use crate::cli::output::Paint;

/// Writes `explanation`.
pub(super) fn render(explanation: &Explanation, paint: Paint) -> String {
    let mut out = String::new();
    let Explanation { request, host, client, .. } = explanation;
    let _ = writeln!(out, "{request}, host {host}, from {client}\n");
    if let Some(route) = &explanation.route {
        let _ = writeln!(out, "  route    routes[{}] ({}) leads to {}", route.index, route.wanted, route.to);
    }
    if let Some(rollout) = &explanation.rollout {
        key_and_bucket(&mut out, rollout);
        out.push('\n');
        let heads = format!("  {:<13}{:<6}because", "gate", "says");
        let _ = writeln!(out, "{}", paint.dim(heads));
        rollout.gates.iter().for_each(|gate| one_gate(&mut out, gate, paint));
        out.push('\n');
    }
    answer(&mut out, explanation, paint);
    out
}

fn key_and_bucket(out: &mut String, rollout: &RolloutSteps) {
    let _ = match &rollout.key {
        Some(key) => writeln!(out, "  key      {}, from {}", key.value, key.source),
        None => writeln!(out, "  key      none"),
    };
    if let Some(bucket) = &rollout.bucket {
        let _ = writeln!(out, "  bucket   {} of 0..10000; {}", bucket.number, bucket.how);
    }
    let _ = writeln!(out, "  percent  {} %: buckets below {:.0} are on new", rollout.percent, rollout.percent * 100.0);
}

fn one_gate(out: &mut String, gate: &GateStep, paint: Paint) {
    let line = format!("  {:<13}{:<6}{}", gate.gate, gate.says.unwrap_or("-"), gate.because);
    let _ = match gate.decides {
        true => writeln!(out, "{}", paint.bold(format!("{line}  <- decides"))),
        false => writeln!(out, "{line}"),
    };
}

fn answer(out: &mut String, explanation: &Explanation, paint: Paint) {
    if let Some(backend) = &explanation.backend {
        let why = explanation.rollout.as_ref().map(|rollout| format!("{}, by {}: ", rollout.side, rollout.reason));
        let why = why.unwrap_or_default();
        let endpoints = backend.endpoints.join(", ");
        let told = paint.good(format!("{why}backend {} ({endpoints})", backend.name));
        let _ = writeln!(out, "  answer   {told}");
    }
    for note in &explanation.notes {
        let _ = writeln!(out, "  note     {note}");
    }
}

#[cfg(test)]
mod tests {
    use super::super::road::{BackendStep, BucketStep, KeyStep, RouteStep};
    use super::*;

    fn gate(gate: &'static str, says: Option<&'static str>, because: &str) -> GateStep {
        GateStep { gate, says, because: because.into(), decides: gate == "bucket" }
    }

    #[test]
    fn the_road_reads_from_top_to_bottom() {
        let explanation = Explanation {
            request: "GET /pay".into(),
            host: "pay.example.com".into(),
            client: "127.0.0.1".into(),
            route: Some(RouteStep { index: 0, wanted: "path /pay".into(), to: "rollout ledger".into() }),
            rollout: Some(RolloutSteps {
                name: "ledger".into(),
                percent: 12.34,
                key: Some(KeyStep { value: "1007".into(), source: "header x-user-id".into() }),
                bucket: Some(BucketStep { number: 710, how: "modulo".into() }),
                gates: vec![
                    gate("rollback", None, "not rolled back"),
                    gate("bucket", Some("new"), "710 is below 1234 (12.34 %)"),
                    gate("missing_key", None, "there is a key"),
                ],
                side: "new",
                reason: "bucket",
            }),
            backend: Some(BackendStep { name: "v3".into(), endpoints: vec!["http://127.0.0.1:9002".into()] }),
            notes: vec!["a file /s/ROLLBACK would roll back, too; there is none now".into()],
        };
        let shown = render(&explanation, Paint::NONE);
        let golden = "
GET /pay, host pay.example.com, from 127.0.0.1

  route    routes[0] (path /pay) leads to rollout ledger
  key      1007, from header x-user-id
  bucket   710 of 0..10000; modulo
  percent  12.34 %: buckets below 1234 are on new

  gate         says  because
  rollback     -     not rolled back
  bucket       new   710 is below 1234 (12.34 %)  <- decides
  missing_key  -     there is a key

  answer   new, by bucket: backend v3 (http://127.0.0.1:9002)
  note     a file /s/ROLLBACK would roll back, too; there is none now
";
        assert_eq!(shown, golden.trim_start_matches('\n'), "\n{shown}");
    }
}
