//! The status of a listener, and how it is told in a line.

use std::fmt;

use super::ListenerStatus;
use crate::config::{ListenAddress, Listener};

impl ListenerStatus {
    /// The status of `listener`, which is bound to `address`.
    #[must_use]
    pub fn of(listener: &Listener, address: &ListenAddress) -> Self {
        let tls = listener.tls.is_some();
        let url = address.url_with(if tls { "https" } else { "http" });
        Self { url, tls, proxy_protocol: listener.proxy_protocol }
    }
}

/// Its URL, and what that does not say: `https://127.0.0.1:8443 (PROXY)`, `unix:/path (TLS)`.
impl fmt::Display for ListenerStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_silent_of_tls = self.tls && !self.url.starts_with("https:");
        match (is_silent_of_tls, self.proxy_protocol) {
            (false, false) => f.write_str(&self.url),
            (true, false) => write!(f, "{} (TLS)", self.url),
            (false, true) => write!(f, "{} (PROXY)", self.url),
            (true, true) => write!(f, "{} (PROXY, TLS)", self.url),
        }
    }
}
