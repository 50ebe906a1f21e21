//! A client's connection from its first byte to its last: what it speaks, and who serves it.

use std::net::SocketAddr;
use std::rc::Rc;
use std::task::Poll;

use super::exchange::{Client, Origin};
use super::handshake;
use super::http1;
use super::socket::{Socket, Wire};
use super::watch::Watch;
use super::worker::Place;

/// Serves whoever is at the other end of `socket` until either side has enough.
pub(super) async fn serve(socket: Socket, peer: SocketAddr, listener: usize, watch: Rc<Watch>, place: Place) {
    if socket.set_nodelay().is_err() {
        return; // the client has already gone
    }
    std::future::poll_fn(|cx| {
        watch.belongs_to(cx.waker());
        Poll::Ready(())
    })
    .await;
    let (mut wire, mut origin) = (Wire::new(socket), Origin::of(peer));
    if let Some(tls) = place.worker.tls(listener) {
        // In a box: what a future may hold at some time it takes up at all times.
        let secured = Box::pin(handshake::secure(wire, listener, tls, &watch, &place.worker)).await;
        let Some(secured) = secured else { return };
        wire = secured.wire;
        origin = origin.over_tls(secured.certificate);
    }
    let client = Rc::new(Client::new(Rc::clone(&place.worker), watch, Rc::new(origin)));
    http1::serve(wire, &client).await;
}
