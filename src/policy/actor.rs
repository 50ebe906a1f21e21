//! Who did something: people, files, clocks and tidegate itself.

/// Who did something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// Through which door.
    pub source: Source,
    /// A person's or token's name, or what stands for one.
    pub name: String,
}

/// Through which door something was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// Somebody, over the admin API.
    Operator,
    /// The config file.
    Config,
    /// The file `ROLLBACK` in the state directory.
    FlagFile,
    /// The guard.
    Guard,
    /// The ramp or its deadline.
    Schedule,
    /// tidegate itself.
    Process,
}

impl Source {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Operator, Self::Config, Self::FlagFile, Self::Guard, Self::Schedule, Self::Process];

    /// The name in status, audit and the state file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Config => "config",
            Self::FlagFile => "flag_file",
            Self::Guard => "guard",
            Self::Schedule => "schedule",
            Self::Process => "process",
        }
    }
}

impl Actor {
    /// Somebody or something, by name.
    #[must_use]
    pub fn new(source: Source, name: impl Into<String>) -> Self {
        Self { source, name: name.into() }
    }
}
