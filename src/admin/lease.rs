//! How long a connection may last: a minute, unless it streams; not at all once it has been cut.

use tokio::sync::watch;

/// How long a connection may last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tenure {
    /// A minute.
    Ordinary,
    /// For as long as the process and the client like.
    Streaming,
    /// No longer.
    Cut,
}

/// How long one connection may last: whoever answers on it may change that.
#[derive(Debug)]
pub(super) struct Lease(watch::Sender<Tenure>);

impl Default for Lease {
    fn default() -> Self {
        Self(watch::Sender::new(Tenure::Ordinary))
    }
}

impl Lease {
    /// From here on the connection streams.
    pub(super) fn stream(&self) {
        self.0.send_replace(Tenure::Streaming);
    }

    /// The client does not read: the connection ends at once, whatever is still under way.
    pub(super) fn cut(&self) {
        self.0.send_replace(Tenure::Cut);
    }

    pub(super) fn is_streaming(&self) -> bool {
        *self.0.borrow() == Tenure::Streaming
    }

    /// Comes back when it was cut.
    pub(super) async fn until_cut(&self) {
        let mut seen = self.0.subscribe();
        let _the_sender_is_self = seen.wait_for(|tenure| *tenure == Tenure::Cut).await;
    }
}
