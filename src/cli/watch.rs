//! Looking again and again, until Ctrl-C.

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use super::output::{Format, print};

/// How often `--watch` looks.
const PERIOD: Duration = Duration::from_secs(1);

/// Shows what there is to see: once, or `again` and again until Ctrl-C.
pub(super) async fn show(
    again: bool,
    format: Format,
    look: impl AsyncFn() -> anyhow::Result<String>,
) -> anyhow::Result<()> {
    if again { watch(format, look).await } else { Ok(print(&look().await?)?) }
}

/// Shows what there is to see once a second. An instance that cannot be reached may come back, so that is no reason to stop.
async fn watch(format: Format, look: impl AsyncFn() -> anyhow::Result<String>) -> anyhow::Result<()> {
    let in_place = io::stdout().is_terminal() && format == Format::Text;
    let looking = async {
        let mut ticks = tokio::time::interval(PERIOD);
        loop {
            ticks.tick().await;
            let seen = look().await.unwrap_or_else(|error| format!("{error:#}\n"));
            print(&if in_place { redrawn(&seen) } else { seen })?;
        }
    };
    tokio::select! {
        ended = looking => ended,
        interrupted = tokio::signal::ctrl_c() => Ok(interrupted?),
    }
}

/// `text` written over what stood there before: line by line, so that nothing flickers.
fn redrawn(text: &str) -> String {
    format!("\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redrawn_screen_keeps_nothing_of_the_last() {
        assert_eq!(redrawn("a\nb\n"), "\x1b[Ha\x1b[K\nb\x1b[K\n\x1b[J");
    }
}
