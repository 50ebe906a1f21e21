//! The shield as it is written.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Percent, Size};

/// Lets OLD answer requests that NEW failed, if they may be sent again.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Shield {
    /// Whether it does.
    pub(in crate::config) enabled: bool,
    /// The largest request body that is kept for OLD while NEW has it; at most `16MiB`. `0` keeps none.
    pub(in crate::config) max_body: Size,
    /// How many may be sent again, as a share of all requests of the rollout; above 0. 100 a worker are free.
    pub(in crate::config) budget: Percent,
}

impl Default for Shield {
    fn default() -> Self {
        Self { enabled: true, max_body: Size::new("64KiB"), budget: Percent::new("20%") }
    }
}
