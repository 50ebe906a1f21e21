//! Whether a request is served now, turned away, or made to wait.
//!
//! Up to three standings apply to a request: that of everything, of its route and of its rollout. Whoever is to be turned
//! away by any of them is not made to wait at another first.

/// What is known of whoever asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Visitor {
    /// The method changes nothing: GET, HEAD or OPTIONS (RFC 9110 §9.2.1).
    pub is_safe: bool,
    /// A balancer asks whether this process is well.
    pub asks_for_health: bool,
    /// Somebody who may look behind the curtain.
    pub is_tester: bool,
}

/// One standing, as far as it matters at the door.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Door {
    /// The public is turned away; `Some(true)` lets safe methods pass.
    pub maintenance: Option<bool>,
    /// Requests wait.
    pub hold: bool,
}

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It goes on.
    Served,
    /// It is told that all is well: the balancer must not take away a process that is closed on purpose.
    Healthy,
    /// It is turned away by the door at this place.
    TurnedAway(usize),
    /// It waits at the door at this place.
    Waits(usize),
}

/// What happens to `visitor` at `doors`, which stand in the order in which they are passed.
///
/// Testers pass a maintenance, since that is what they came for. They do not pass a hold: it protects a migration from every
/// write, whoever makes it.
#[must_use]
pub fn admit(visitor: Visitor, doors: &[Door]) -> Admission {
    let turns_away = |door: &Door| turns_away(*door, visitor);
    let closed = match (doors.iter().position(turns_away), doors.iter().position(|door| door.hold)) {
        (Some(at), _) => Admission::TurnedAway(at),
        (None, Some(at)) => Admission::Waits(at),
        (None, None) => return Admission::Served,
    };
    if visitor.asks_for_health { Admission::Healthy } else { closed }
}

fn turns_away(door: Door, visitor: Visitor) -> bool {
    match door.maintenance {
        None => false,
        Some(read_only) => !(visitor.is_tester || read_only && visitor.is_safe),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: Door = Door { maintenance: None, hold: false };
    const SHUT: Door = Door { maintenance: Some(false), hold: false };
    const READ_ONLY: Door = Door { maintenance: Some(true), hold: false };
    const HELD: Door = Door { maintenance: None, hold: true };
    const READ_ONLY_AND_HELD: Door = Door { maintenance: Some(true), hold: true };

    const WRITER: Visitor = Visitor { is_safe: false, asks_for_health: false, is_tester: false };
    const READER: Visitor = Visitor { is_safe: true, ..WRITER };
    const BALANCER: Visitor = Visitor { asks_for_health: true, ..READER };
    const TESTER: Visitor = Visitor { is_tester: true, ..WRITER };

    #[test]
    fn who_is_served_turned_away_or_waits() {
        use Admission::{Healthy, Served, TurnedAway, Waits};
        for (doors, writer, reader, balancer, tester) in [
            (&[OPEN, OPEN, OPEN][..], Served, Served, Served, Served),
            (&[], Served, Served, Served, Served),
            (&[SHUT, OPEN, OPEN], TurnedAway(0), TurnedAway(0), Healthy, Served),
            (&[OPEN, SHUT, OPEN], TurnedAway(1), TurnedAway(1), Healthy, Served),
            (&[OPEN, OPEN, SHUT], TurnedAway(2), TurnedAway(2), Healthy, Served),
            (&[OPEN, READ_ONLY, OPEN], TurnedAway(1), Served, Served, Served),
            (&[READ_ONLY, SHUT, OPEN], TurnedAway(0), TurnedAway(1), Healthy, Served),
            (&[OPEN, OPEN, HELD], Waits(2), Waits(2), Healthy, Waits(2)),
            (&[HELD, OPEN, HELD], Waits(0), Waits(0), Healthy, Waits(0)),
            (&[HELD, OPEN, SHUT], TurnedAway(2), TurnedAway(2), Healthy, Waits(0)),
            (&[OPEN, READ_ONLY, HELD], TurnedAway(1), Waits(2), Healthy, Waits(2)),
            (&[OPEN, OPEN, READ_ONLY_AND_HELD], TurnedAway(2), Waits(2), Healthy, Waits(2)),
        ] {
            for (who, visitor, expected) in [
                ("a writer", WRITER, writer),
                ("a reader", READER, reader),
                ("a balancer", BALANCER, balancer),
                ("a tester", TESTER, tester),
            ] {
                assert_eq!(admit(visitor, doors), expected, "{who} at {doors:?}");
            }
        }
    }
}
