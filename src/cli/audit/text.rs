//! Audit entries for people: a line for who, when and what, and one for the difference and the reason.

use std::fmt::Write as _;

use crate::cli::answer::{Change, Who};
use crate::cli::output::{Paint, fitted, harmless};
use crate::cli::scope::Scope;
use crate::control::journal::audit::{Broken, Head};

/// The heads of the columns.
pub(super) fn head(paint: Paint) -> String {
    let heads = format!("{:>5}  {:<20}  {:<18} {:<18} what", "seq", "time", "who", "of what");
    format!("{}\n", paint.dim(heads))
}

/// One entry. Nothing of the difference and the reason is cut: this is the record.
pub(super) fn entry(change: &Change, paint: Paint) -> String {
    let forced = if change.forced { format!("  {}", paint.alarm("FORCED")) } else { String::new() };
    let mut out = String::new();
    let _ = writeln!(
        out,
        "{:>5}  {:<20}  {:<18} {:<18} {}{forced}",
        change.seq,
        to_the_second(&change.at),
        fitted(&name(&change.who), 18),
        fitted(&Scope::of_entry(&change.scope).in_words(), 18),
        paint.bold(harmless(&change.what)),
    );
    let _ = writeln!(out, "       {}", change.difference());
    if !change.reason.is_empty() {
        let _ = writeln!(out, "       {}", harmless(&change.reason).replace('\n', "\n       "));
    }
    out
}

/// People by their names; all others by what they are.
fn name(who: &Who) -> String {
    let (kind, name) = (harmless(&who.kind), harmless(&who.name));
    match kind.as_str() {
        "operator" => name,
        "flag_file" => "file ROLLBACK".to_owned(),
        _ if kind == name => kind,
        "process" => name,
        _ => format!("{kind} ({name})"),
    }
}

/// A time in RFC 3339 without its fraction.
fn to_the_second(at: &str) -> String {
    match at.split_once('.') {
        Some((seconds, rest)) => {
            let zone = rest.trim_start_matches(|c: char| c.is_ascii_digit());
            harmless(&format!("{seconds}{zone}"))
        }
        None => harmless(at),
    }
}

/// What to say of a chain that ends with `head`.
pub(super) fn intact(head: &Head, offline: bool) -> String {
    let mut out = format!("{} entries, chain intact, head {}\n", head.seq, head.hash);
    if offline {
        out += "entries missing at the end show only against a running tidegate: tidegate audit --verify\n";
    }
    out
}

/// What to say of a chain that is broken.
pub(super) fn broken(broken: &Broken) -> String {
    let whole = match broken.seq.saturating_sub(1) {
        0 => "Nothing before it is here".to_owned(),
        1 => "Entry 1 is intact".to_owned(),
        whole => format!("Entries 1 to {whole} are intact"),
    };
    format!("the audit log is not what was written: entry {}: {}. {whole}", broken.seq, broken.why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change() -> Change {
        Change {
            seq: 17,
            at: "2026-11-21T04:02:06.123Z".into(),
            who: Who { kind: "operator".into(), name: "alice".into() },
            scope: "ledger".into(),
            what: "set".into(),
            before: "5 % on new".into(),
            after: "25 % on new".into(),
            reason: "INC-7:\nlooks fine\x1b[2J".into(),
            forced: true,
        }
    }

    #[test]
    fn an_entry_is_told_in_whole() {
        let golden = "
  seq  time                  who                of what            what
   17  2026-11-21T04:02:06Z  alice              ledger             set  FORCED
       5 % -> 25 % on new
       INC-7:
       looks fine\u{fffd}[2J
";
        let shown = head(Paint::NONE) + &entry(&change(), Paint::NONE);
        assert_eq!(shown, golden.trim_start_matches('\n'), "\n{shown}");
    }

    #[test]
    fn whoever_is_no_person_is_told_by_kind() {
        for (kind, name_of, told) in [
            ("operator", "alice", "alice"),
            ("config", "config", "config"),
            ("guard", "guard", "guard"),
            ("flag_file", "ROLLBACK", "file ROLLBACK"),
            ("schedule", "deadline", "schedule (deadline)"),
            ("process", "tidegate", "tidegate"),
        ] {
            assert_eq!(name(&Who { kind: kind.into(), name: name_of.into() }), told);
        }
        assert_eq!(to_the_second("2026-11-21T04:02:06+01:00"), "2026-11-21T04:02:06+01:00");
    }

    #[test]
    fn a_broken_chain_says_where_and_how_far_it_holds() {
        let told = broken(&Broken { seq: 7, why: "it was changed".into() });
        assert_eq!(told, "the audit log is not what was written: entry 7: it was changed. Entries 1 to 6 are intact");
    }
}
