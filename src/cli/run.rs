//! `tidegate run`: the proxy, in the foreground.

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::RunArgs;
use super::admin_client::named;
use super::check::same_on_both_sides;
use crate::admin::status::ListenerStatus;
use crate::app::{App, Signal};
use crate::{descriptors, telemetry};

/// How long the end of the process waits for its threads.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Runs until TERM or INT.
///
/// # Errors
/// When it cannot start: nothing is bound then.
pub(super) fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    let _written_at_the_end = telemetry::start("info");
    descriptors::raise_limit();
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(async {
        // Before anybody can see that it is up: a HUP that nobody listens for ends a process.
        let signals = listen_to_signals()?;
        // What status and logs tell to type has to work wherever it is typed.
        let app = App::bind(&std::path::absolute(&args.config)?)?;
        for listener in &app.listeners() {
            tracing::info!("clients on {}", ListenerStatus::of(listener, &listener.address));
        }
        same_on_both_sides(app.config()).iter().for_each(|warning| tracing::warn!("{warning}"));
        let admin = app.admin_address();
        tracing::info!("admin on {admin}; try `tidegate status{}`", named(&admin));
        app.run(signals).await?;
        anyhow::Ok(ExitCode::SUCCESS)
    });
    // Workers may be saying their last words; a file system that hangs is not waited for.
    runtime.shutdown_timeout(LAST_WORDS);
    ended
}

/// HUP reloads, TERM and INT leave.
pub(super) fn listen_to_signals() -> io::Result<mpsc::Receiver<Signal>> {
    let (told, signals) = mpsc::channel(8);
    for (kind, means) in [
        (SignalKind::hangup(), Signal::Reload),
        (SignalKind::terminate(), Signal::Leave),
        (SignalKind::interrupt(), Signal::Leave),
    ] {
        let mut arrivals = signal(kind)?;
        let told = told.clone();
        tokio::spawn(async move {
            while arrivals.recv().await.is_some() {
                if told.send(means).await.is_err() {
                    return;
                }
            }
        });
    }
    Ok(signals)
}
