//! What the checks of an endpoint say: a few bad ones in a row take it out, a few good ones in a row bring it back.

/// How many checks in a row it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Bad ones before it is out; at least 1.
    pub unhealthy_after: u32,
    /// Good ones before it is back; at least 1.
    pub healthy_after: u32,
}

/// What the checks of an endpoint have said so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// Nothing yet. It serves: it may well be fit, and nothing speaks against it.
    #[default]
    Unknown,
    /// It serves.
    Well {
        /// Checks since the last good one, all of them bad.
        bad: u32,
    },
    /// It does not.
    Unwell {
        /// Checks since the last bad one, all of them good.
        good: u32,
    },
}

impl Health {
    /// Whether it serves.
    #[must_use]
    pub fn is_fit(self) -> bool {
        !matches!(self, Self::Unwell { .. })
    }

    /// After one more check. The first one of all settles it by itself: what has never answered well has no credit.
    #[must_use]
    pub fn after(self, is_good: bool, thresholds: Thresholds) -> Self {
        match (self, is_good) {
            (Self::Unknown | Self::Well { .. }, true) => Self::Well { bad: 0 },
            (Self::Unknown, false) => Self::Unwell { good: 0 },
            (Self::Well { bad }, false) if bad + 1 < thresholds.unhealthy_after => Self::Well { bad: bad + 1 },
            (Self::Well { .. } | Self::Unwell { .. }, false) => Self::Unwell { good: 0 },
            (Self::Unwell { good }, true) if good + 1 < thresholds.healthy_after => Self::Unwell { good: good + 1 },
            (Self::Unwell { .. }, true) => Self::Well { bad: 0 },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `+` for each moment in which it serves after these checks, `-` for the others.
    fn told(checks: &str, unhealthy_after: u32, healthy_after: u32) -> String {
        let thresholds = Thresholds { unhealthy_after, healthy_after };
        let mut health = Health::default();
        let after = |check: char| {
            health = health.after(check == '+', thresholds);
            if health.is_fit() { '+' } else { '-' }
        };
        checks.chars().map(after).collect()
    }

    #[test]
    fn so_many_in_a_row_and_no_fewer() {
        for (checks, unhealthy_after, healthy_after, expected) in [
            ("+---++", 3, 2, "+++--+"),
            ("+--+--+---", 3, 2, "+++++++++-"),
            ("+---+-++", 3, 2, "+++----+"),
            ("+-+-", 1, 1, "+-+-"),
            ("-++", 3, 2, "--+"), // the first one settles it
            ("-+", 3, 1, "-+"),
        ] {
            assert_eq!(told(checks, unhealthy_after, healthy_after), expected, "{checks}");
        }
        assert!(Health::default().is_fit());
    }

    proptest! {
        #[test]
        fn it_changes_only_by_so_many_in_a_row(
            checks in proptest::collection::vec(any::<bool>(), 1..60),
            unhealthy_after in 1u32..5,
            healthy_after in 1u32..5,
        ) {
            let thresholds = Thresholds { unhealthy_after, healthy_after };
            let (mut health, mut row) = (Health::Well { bad: 0 }, 0u32);
            let mut last = None;
            for check in checks {
                row = if last == Some(check) { row + 1 } else { 1 };
                last = Some(check);
                let before = health;
                health = health.after(check, thresholds);
                if before.is_fit() != health.is_fit() {
                    prop_assert_eq!(check, health.is_fit());
                    let needed = if check { healthy_after } else { unhealthy_after };
                    prop_assert!(row >= needed);
                }
            }
        }
    }
}
