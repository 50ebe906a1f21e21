//! The command line: a file a verb.
//!
//! Exit codes: 0 done, 1 failed or refused, 2 wrong usage. What was asked for goes to standard output, everything else to
//! standard error.

mod admin_client;
mod answer;
mod audit;
mod change;
mod check;
mod demo;
mod drain;
mod explain;
mod guard;
mod healthcheck;
mod hold;
mod maintenance;
mod output;
mod promote;
mod reload;
mod resume;
mod rollback;
mod run;
mod schema;
mod scope;
mod set;
mod standing;
mod status;
mod step;
mod switch;
mod watch;
mod words;
mod written;

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

pub use audit::AuditArgs;
pub use check::CheckArgs;
pub use drain::DrainArgs;
pub use explain::ExplainArgs;
pub use guard::GuardArgs;
pub use healthcheck::HealthcheckArgs;
pub use hold::HoldArgs;
pub use maintenance::MaintenanceArgs;
pub use promote::PromoteArgs;
pub use reload::ReloadArgs;
pub use resume::ResumeArgs;
pub use rollback::RollbackArgs;
pub use set::SetArgs;
pub use status::StatusArgs;
pub use step::StepArgs;
pub use switch::SwitchArgs;

/// What stands above the verbs in `tidegate --help`, broken by hand to fit 80 columns.
const LONG_ABOUT: &str = "\
tidegate is a reverse proxy that decides, request by request, whether the OLD or
the NEW version of a service answers. It keeps every user on one side, changes
the split without a restart, and goes back to OLD in one move.

Start with `tidegate demo`.";

/// The exit code of a command that nobody can mean.
const WRONG_USAGE: u8 = 2;

/// The whole command line.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version, about = "A reverse proxy that moves users from OLD to NEW, and back in one move")]
#[command(long_about = LONG_ABOUT)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the proxy in the foreground
    Run(RunArgs),
    /// Tell whether a config is right, and if not, what is wrong where
    Check(CheckArgs),
    /// Tell which side answers a request, and why, step by step
    Explain(ExplainArgs),
    /// Print the JSON Schema of the config
    Schema,
    /// Show what is in force and what the traffic does
    Status(StatusArgs),
    /// Show what the guard knows of NEW, and what would trip it
    Guard(GuardArgs),
    /// Put a percent over the configured one, or take it away again
    Set(SetArgs),
    /// Take everybody back to OLD, until somebody resumes
    Rollback(RollbackArgs),
    /// Lift a rollback
    Resume(ResumeArgs),
    /// Go on to the ramp's next step, or to 100 %
    Promote(PromoteArgs),
    /// Pause a ramp, or let it go on
    Step(StepArgs),
    /// Let the other colour of a blue/green rollout serve
    Switch(SwitchArgs),
    /// Turn the public away politely, or serve it again
    Maintenance(MaintenanceArgs),
    /// Make requests wait, or let them go on
    Hold(HoldArgs),
    /// Empty a side, and wait until it is
    Drain(DrainArgs),
    /// Tell who did what, when and why; check that the record is whole
    Audit(AuditArgs),
    /// Read the config again, now
    Reload(ReloadArgs),
    /// Exit 0 if the process is ready for traffic, 1 if not
    Healthcheck(HealthcheckArgs),
    /// Try it: two toy backends, users and the proxy in one process
    Demo(DemoArgs),
}

/// Arguments of `tidegate run`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "HUP reads the config again. TERM and INT let running requests end; a second one does\nnot wait for them."
)]
pub struct RunArgs {
    /// The config: YAML, TOML or JSON by its extension
    #[arg(short, long, value_name = "FILE")]
    pub config: PathBuf,
}

/// Arguments of `tidegate demo`.
#[derive(Clone, Debug, Args)]
pub struct DemoArgs {
    /// Where its config is kept, to be edited while it runs
    #[arg(long, value_name = "FOLDER")]
    pub dir: Option<PathBuf>,
    /// Where the demo's proxy listens
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
}

/// Does what the command line says.
#[must_use]
pub fn main() -> ExitCode {
    let done = match Cli::parse().verb {
        Verb::Run(args) => run::run(&args),
        Verb::Check(args) => check::run(&args),
        Verb::Explain(args) => explain::run(&args),
        Verb::Schema => schema::run(),
        Verb::Status(args) => status::run(&args),
        Verb::Guard(args) => guard::run(&args),
        Verb::Set(args) => set::run(&args),
        Verb::Rollback(args) => rollback::run(&args),
        Verb::Resume(args) => resume::run(&args),
        Verb::Promote(args) => promote::run(&args),
        Verb::Step(args) => step::run(&args),
        Verb::Switch(args) => switch::run(&args),
        Verb::Maintenance(args) => maintenance::run(&args),
        Verb::Hold(args) => hold::run(&args),
        Verb::Drain(args) => drain::run(&args),
        Verb::Audit(args) => audit::run(&args),
        Verb::Reload(args) => reload::run(&args),
        Verb::Healthcheck(args) => healthcheck::run(&args),
        Verb::Demo(args) => demo::run(&args),
    };
    done.unwrap_or_else(|error| failed(&error))
}

/// The command line was understood and cannot be meant like this.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Usage(String);

/// Tells what went wrong. A reader that has seen enough (`| head`) is nothing wrong.
fn failed(error: &anyhow::Error) -> ExitCode {
    if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
        return ExitCode::SUCCESS;
    }
    // If nobody can be told, the exit code still says it.
    let _ = writeln!(io::stderr(), "tidegate: {error:#}");
    if error.is::<Usage>() { ExitCode::from(WRONG_USAGE) } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
