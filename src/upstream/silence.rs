//! Peers that vanish: no end comes from them, nor anything else.

use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// How long nothing has to come before the system asks whether the peer is still there.
const ASK_AFTER: Duration = Duration::from_secs(15);
/// How long it waits before it asks again.
const ASK_EVERY: Duration = Duration::from_secs(5);
/// How often it asks in vain where [`CONFIRM_WITHIN`] is not known; where it is, that says for how long.
const ASK_TIMES: u32 = 3;
/// How long a peer may leave unconfirmed what it was sent, and take nothing of what waits for it; and how long it may leave
/// unanswered that it was asked. Whoever has something under way is not asked.
const CONFIRM_WITHIN: Duration = Duration::from_secs(40);

/// Has the system look whether the peer is still there while a connection carries nothing, or nothing is confirmed: one that
/// has vanished is found out within 45 s, and the connection breaks (RFC 1122 §4.2.3.6, RFC 5482). Somebody who is there, but
/// takes nothing for 40 s, is taken for one that is not.
pub fn mind_silence(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    let asking = TcpKeepalive::new().with_time(ASK_AFTER).with_interval(ASK_EVERY).with_retries(ASK_TIMES);
    let _one_that_has_ended_already_needs_none = socket.set_tcp_keepalive(&asking);
    #[cfg(target_os = "linux")]
    let _one_that_has_ended_already_needs_none = socket.set_tcp_user_timeout(Some(CONFIRM_WITHIN));
}
