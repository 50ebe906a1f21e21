//! A client's connection from its first byte to its last: what it speaks, and who serves it.

use std::net::SocketAddr;
use std::rc::Rc;
use std::task::Poll;

use super::exchange::{Client, Origin};
use super::http1;
use super::socket::{Socket, Wire};
use super::watch::Watch;
use super::worker::Place;

/// Serves whoever is at the other end of `socket` until either side has enough.
pub(super) async fn serve(socket: Socket, peer: SocketAddr, watch: Rc<Watch>, place: Place) {
    if socket.set_nodelay().is_err() {
        return; // the client has already gone
    }
    std::future::poll_fn(|cx| {
        watch.belongs_to(cx.waker());
        Poll::Ready(())
    })
    .await;
    let client = Rc::new(Client::new(Rc::clone(&place.worker), watch, Rc::new(Origin::of(peer))));
    http1::serve(Wire::new(socket), &client).await;
}
