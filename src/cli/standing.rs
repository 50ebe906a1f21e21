//! What `maintenance` and `hold` have in common: a scope, and on or off.

use clap::{Args, ValueEnum};

use super::Usage;
use super::admin_client::Client;
use super::scope::Scope;

/// To what it applies, and whether it begins or ends.
#[derive(Clone, Debug, Args)]
pub(super) struct StandingArgs {
    /// The rollout; not needed if there is only one
    #[arg(value_name = "NAME", conflicts_with_all = ["all", "route"])]
    pub rollout: Option<String>,
    /// Begin or end
    #[arg(value_name = "on|off", value_enum, required = true, hide_possible_values = true)]
    state: OnOff,
    /// Everything that this process serves
    #[arg(long, conflicts_with = "route")]
    pub all: bool,
    /// The route of this name in the config
    #[arg(long, value_name = "NAME")]
    pub route: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum OnOff {
    On,
    Off,
}

impl StandingArgs {
    /// Whether it begins.
    pub(super) fn is_on(&self) -> bool {
        self.state == OnOff::On
    }

    /// To what it applies.
    pub(super) async fn scope(&self, verb: &str, client: &Client) -> anyhow::Result<Scope> {
        let state = if self.is_on() { "on" } else { "off" };
        match (&self.route, self.all) {
            (Some(route), _) => Ok(Scope::Route(route.clone())),
            (None, true) => Ok(Scope::Everything),
            (None, false) => Scope::rollout_or_only(self.rollout.as_deref(), verb, client).await.map_err(|error| {
                match error.downcast::<Usage>() {
                    // `tidegate hold ledger` would be half a command.
                    Ok(_) => {
                        Usage(format!("which rollout? tidegate {verb} NAME {state}, or --all, or --route NAME")).into()
                    }
                    Err(error) => error,
                }
            }),
        }
    }

    /// The command that ends it again, or looks at what is left.
    pub(super) fn next(&self, verb: &str, scope: &Scope) -> (&'static str, String) {
        match self.is_on() {
            true => ("to end it", format!("tidegate {verb} {} off", scope.argument())),
            false => ("next", scope.status()),
        }
    }
}
