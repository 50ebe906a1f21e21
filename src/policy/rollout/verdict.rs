//! What the guard has found, and what is to be done about it.

/// What is done when the guard finds that NEW hurts users.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Action {
    /// Everybody to OLD until somebody resumes.
    #[default]
    Rollback,
    /// Back to the step before, where the ramp then waits.
    StepBack,
    /// The ramp waits where it stands.
    HoldStep,
    /// Nothing: it is only told.
    Notify,
}

impl Action {
    /// The name in the config.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rollback => "rollback",
            Self::StepBack => "step_back",
            Self::HoldStep => "hold_step",
            Self::Notify => "notify",
        }
    }
}

/// What the config says of the guard, as far as it changes the rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guard {
    /// What is done.
    pub action: Action,
    /// Requests on NEW that the guard has to have seen in a step before the next one.
    pub evidence: u64,
}

/// By which of its senses the guard has found something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    /// Too many requests fail.
    Failures,
    /// Too many requests are slow.
    Latency,
    /// Too many users were hurt.
    UsersHurt,
    /// A query says so.
    Query,
}

impl Cause {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Failures, Self::Latency, Self::UsersHurt, Self::Query];

    /// The label's value.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failures => "failures",
            Self::Latency => "latency",
            Self::UsersHurt => "users_hurt",
            Self::Query => "query",
        }
    }
}

/// What the guard has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// By which of its senses.
    pub cause: Cause,
    /// With the numbers, in words.
    pub reason: String,
}
