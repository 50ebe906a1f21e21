//! A client's connection from its first byte to its last: whose it is, what it speaks, and who serves it.

use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use super::exchange::{Client, Origin};
use super::peer::{Peer, introduced};
use super::socket::{Socket, Wire};
use super::watch::Watch;
use super::worker::Place;
use super::{handshake, http1, http2};

/// Somebody at the door.
#[derive(Debug)]
pub(super) struct Guest {
    pub(super) socket: Socket,
    pub(super) peer: Peer,
    /// An index into the snapshot's listeners.
    pub(super) listener: usize,
}

/// Serves `guest` until either side has enough.
pub(super) async fn serve(mut guest: Guest, watch: Rc<Watch>, place: Place) {
    if guest.socket.set_nodelay().is_err() {
        return; // the client has already gone
    }
    std::future::poll_fn(|cx| {
        watch.belongs_to(cx.waker());
        Poll::Ready(())
    })
    .await;
    let snapshot = Arc::clone(&place.worker.view().snapshot);
    if snapshot.listeners[guest.listener].proxy_protocol && !Box::pin(is_welcome(&mut guest, &watch, &place)).await {
        return;
    }
    let Guest { socket, peer, listener } = guest;
    let (mut wire, mut origin, mut is_http2) = (Wire::new(socket), Origin::of(peer), false);
    if snapshot.tls[listener].is_some() {
        drop(snapshot);
        // In a box: what a future may hold at some time it takes up at all times.
        let secured = Box::pin(handshake::secure(wire, listener, &watch, &place.worker)).await;
        let Some(secured) = secured else { return };
        wire = secured.wire;
        is_http2 = secured.is_http2;
        origin = origin.over_tls(secured.certificate);
    }
    let client = Rc::new(Client::new(Rc::clone(&place.worker), watch, Rc::new(origin)));
    let wire = if is_http2 { Some(wire) } else { http1::serve(wire, &client).await };
    if let Some(wire) = wire {
        Box::pin(http2::serve(wire, &client)).await; // in a box: most connections never need the room
    }
}

/// Lets the proxy in front say who it is. False if it does not.
async fn is_welcome(guest: &mut Guest, watch: &Watch, place: &Place) -> bool {
    let view = place.worker.view();
    match introduced(guest.peer, &mut guest.socket, &view.snapshot.trusted_proxies, watch).await {
        Ok(peer) => {
            guest.peer = peer;
            true
        }
        Err(error) => {
            let listener = &view.snapshot.listeners[guest.listener].address;
            let peer = guest.peer.ip().map_or_else(|| "unknown".to_owned(), |ip| ip.to_string());
            if place.worker.count_not_introduced() {
                // More often the config forgets a balancer than somebody attacks.
                tracing::warn!(%listener, peer, "a connection was closed at its PROXY header: {error}");
            } else {
                tracing::debug!(%listener, peer, "connection closed: {error}");
            }
            false
        }
    }
}
