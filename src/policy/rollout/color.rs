//! Blue and green: two colours that take turns at being OLD and NEW.
//!
//! OLD is the colour that served before the last switch, since that is where a rollback leads. A switch makes the colour
//! that serves OLD and the other one NEW, at 100 %; switching back goes to OLD.

use crate::policy::bucket::Percent;

/// One of the two backends of a blue/green rollout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Color {
    /// The one that stands in `blue`.
    #[default]
    Blue,
    /// The one that stands in `green`.
    Green,
}

impl Color {
    /// The name in the config.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Blue => "blue",
            Self::Green => "green",
        }
    }

    /// The colour of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        [Self::Blue, Self::Green].into_iter().find(|color| color.as_str() == name)
    }

    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Blue => Self::Green,
            Self::Green => Self::Blue,
        }
    }
}

/// Which colour is which side. Means nothing for other strategies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Colors {
    /// The colour that is OLD: where a rollback leads.
    pub old: Color,
    /// The colour that serves while nothing is rolled back.
    pub active: Color,
    /// What the config last asked for: when that changes, the file is the later explicit act.
    pub configured: Color,
}

impl Colors {
    /// Only `active` has ever served.
    #[must_use]
    pub fn begin(active: Color) -> Self {
        Self { old: active, active, configured: active }
    }

    /// `serving` served until now; from here on it is OLD, and `target` serves.
    #[must_use]
    pub fn switched(self, serving: Color, target: Color) -> Self {
        Self { old: serving, active: target, ..self }
    }

    /// The share on NEW.
    #[must_use]
    pub fn percent(self) -> Percent {
        self.percent_of(self.active)
    }

    /// The share on NEW if `color` served.
    #[must_use]
    pub fn percent_of(self, color: Color) -> Percent {
        if color == self.old { Percent::ZERO } else { Percent::FULL }
    }
}
