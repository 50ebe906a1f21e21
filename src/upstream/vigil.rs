//! Whether a peer that speaks HTTP/2 is still there, on either side.
//!
//! One that is in use and silent is asked by a ping (RFC 9113 §6.7), and given up if it stays silent. Whatever comes from it is a
//! sign of life, not only the answer to the ping; and so is that it takes what had to wait, since behind all that a slow reader
//! has still to read a ping arrives late.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// How long a peer may leave a ping unanswered, and be silent, before requests go elsewhere that have not begun.
const DOUBT_AFTER: Duration = Duration::from_secs(2);
/// How long before it is given up, with all that runs on the connection: as long as a reader may take to take something.
const GIVE_UP_AFTER: Duration = Duration::from_secs(30);
/// Bytes of a PING frame, and of the answer to it.
const PONG: u64 = 17;

/// How long silence is put up with before anybody asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// After the peer has said something; and once more, if a request has begun since it was asked.
    first: Duration,
    /// While it says nothing but that it is there.
    again: Duration,
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// Nothing: nobody needs to know whether the peer is there.
    Nothing,
    /// Requests run.
    Running,
    /// Requests run, and one has begun since this was last said.
    More,
}

impl Patience {
    /// With a client: it is found out within a minute that it has vanished.
    pub const WITH_CLIENT: Self = Self { first: Duration::from_secs(20), again: Duration::from_secs(20) };
    /// With a backend. It is asked soon, because the next request would go the same way. It is hardly asked again, because
    /// servers of gRPC end a connection on which they are asked a few times within 5 min while they have nothing to say
    /// (`too_many_pings`, gRFC A8). What has vanished meanwhile the system finds out, see [`super::mind_silence`].
    pub const WITH_BACKEND: Self = Self { first: Duration::from_secs(5), again: Duration::from_secs(330) };
}

/// What is known of a peer at a moment.
#[derive(Clone, Copy, Debug)]
struct Silence {
    /// How long it has given no sign of life.
    lasts: Duration,
    /// How long ago it was asked, if it has not answered that.
    asked: Option<Duration>,
    /// How often it was asked since it has said something else than that it is there.
    asks: u32,
    demand: Demand,
}

/// What follows from that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Wait,
    Ask,
    Doubt,
    GiveUp,
}

impl Silence {
    fn step(self, patience: Patience) -> Step {
        let patience = match (self.asks, self.demand) {
            (0, _) | (1, Demand::More) => patience.first,
            _ => patience.again,
        };
        match self.asked.map(|asked| asked.min(self.lasts)) {
            Some(unanswered) if unanswered >= GIVE_UP_AFTER => Step::GiveUp,
            Some(unanswered) if unanswered >= DOUBT_AFTER => Step::Doubt,
            None if self.demand != Demand::Nothing && self.lasts >= patience => Step::Ask,
            Some(_) | None => Step::Wait,
        }
    }
}

/// Whether a peer is there, as far as anybody knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Nothing speaks against it.
    Likely,
    /// It does not answer.
    Doubtful,
    /// It has not answered for so long that nobody waits any more.
    Gone,
}

/// The watch over one connection. It does something only when somebody [looks](Self::look).
pub struct Vigil {
    pings: PingPong,
    signs: Rc<Signs>,
    patience: Patience,
    /// Bytes that had come when it was last looked.
    came: u64,
    heard_at: Instant,
    asked_at: Option<Instant>,
    asks: u32,
    /// A request has begun since it was asked.
    is_wanted_anew: bool,
}

impl Vigil {
    /// Over the connection that sends these `pings`; `signs` are those of its socket. It begins at `now`.
    #[must_use]
    pub fn new(pings: PingPong, signs: Rc<Signs>, patience: Patience, now: Instant) -> Self {
        Self { pings, signs, patience, came: 0, heard_at: now, asked_at: None, asks: 0, is_wanted_anew: false }
    }

    /// Whether the peer is still there at `now`. If there is a `demand`, it may be asked for that. To look once a
    /// second is often enough. The task of `cx`, which drives the connection, is woken when an answer comes.
    pub fn look(&mut self, cx: &mut Context<'_>, now: Instant, demand: Demand) -> Presence {
        self.listen(now);
        if self.asked_at.is_some() && self.pings.poll_pong(cx).is_ready() {
            self.asked_at = None;
        }
        match self.silence(now, demand).step(self.patience) {
            Step::Wait => Presence::Likely,
            Step::Ask => {
                (self.asked_at, self.asks, self.is_wanted_anew) = (Some(now), self.asks + 1, false);
                let _the_connection_says_if_it_has_ended = self.pings.send_ping(Ping::opaque());
                Presence::Likely
            }
            Step::Doubt => Presence::Doubtful,
            Step::GiveUp => Presence::Gone,
        }
    }

    fn silence(&mut self, now: Instant, demand: Demand) -> Silence {
        self.is_wanted_anew |= demand == Demand::More;
        Silence {
            lasts: now.saturating_duration_since(self.heard_at),
            asked: self.asked_at.map(|asked_at| now.saturating_duration_since(asked_at)),
            asks: self.asks,
            demand: if demand == Demand::Running && self.is_wanted_anew { Demand::More } else { demand },
        }
    }

    /// Takes in what the socket has seen since.
    fn listen(&mut self, now: Instant) {
        let came = self.signs.came.get();
        let more = came - std::mem::replace(&mut self.came, came);
        if more > 0 || self.signs.took.take() {
            self.heard_at = now;
        }
        let is_pong = more == PONG && self.asked_at.is_some();
        if more > 0 && !is_pong {
            (self.asks, self.is_wanted_anew) = (0, false);
        }
    }
}

/// What a socket has seen of its peer.
#[derive(Debug, Default)]
pub struct Signs {
    /// Bytes that came from it.
    came: Cell<u64>,
    /// What is written has to wait until it takes something; and what TLS has written already.
    waits_to_write: Cell<bool>,
    waits_to_flush: Cell<bool>,
    /// It has taken something that had to wait.
    took: Cell<bool>,
}

impl Signs {
    fn tried<T>(&self, waits: &Cell<bool>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if waits.replace(polled.is_pending()) && matches!(polled, Poll::Ready(Ok(_))) {
            self.took.set(true);
        }
        polled
    }
}

/// A socket that keeps track of what its peer does.
#[derive(Debug)]
pub struct Heard<S> {
    socket: S,
    signs: Rc<Signs>,
}

impl<S> Heard<S> {
    /// All that is read and written goes through `socket`.
    #[must_use]
    pub fn new(socket: S) -> Self {
        Self { socket, signs: Rc::default() }
    }

    /// What it has seen and will see.
    #[must_use]
    pub fn signs(&self) -> Rc<Signs> {
        Rc::clone(&self.signs)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Heard<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.socket).poll_read(cx, buf);
        self.signs.came.set(self.signs.came.get() + (buf.filled().len() - before) as u64);
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Heard<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(cx, buf);
        self.signs.tried(&self.signs.waits_to_write, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(cx, bufs);
        self.signs.tried(&self.signs.waits_to_write, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.socket).poll_flush(cx);
        self.signs.tried(&self.signs.waits_to_flush, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future as _;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    /// After how many seconds of silence what is done, if that is looked at every second; while `matters` says so of a second.
    fn told(patience: Patience, until: u64, matters: impl Fn(u64) -> bool) -> Vec<(u64, Step)> {
        let (mut asked_at, mut told) = (None, Vec::new());
        for now in 0..until {
            let asked = asked_at.map(|at| Duration::from_secs(now - at));
            let demand = if matters(now) { Demand::Running } else { Demand::Nothing };
            let silence = Silence { lasts: Duration::from_secs(now), asked, asks: 0, demand };
            let step = silence.step(patience);
            if told.last().map_or(Step::Wait, |(_, last)| *last) != step {
                told.push((now, step));
            }
            match step {
                Step::Ask => asked_at = Some(now),
                Step::GiveUp => return told,
                Step::Wait | Step::Doubt => {}
            }
        }
        told
    }

    #[test]
    fn whoever_says_nothing_is_asked_then_doubted_then_given_up_within_a_minute() {
        use Step::{Ask, Doubt, GiveUp, Wait};
        for (patience, expected) in [
            (Patience::WITH_CLIENT, [(20, Ask), (21, Wait), (22, Doubt), (50, GiveUp)]),
            (Patience::WITH_BACKEND, [(5, Ask), (6, Wait), (7, Doubt), (35, GiveUp)]),
        ] {
            assert_eq!(told(patience, 100, |_| true), expected);
        }
    }

    #[test]
    fn nobody_is_asked_who_owes_nothing_and_the_first_request_after_a_rest_asks_at_once() {
        use Step::{Ask, Doubt, GiveUp, Wait};
        assert_eq!(told(Patience::WITH_BACKEND, 10_000, |_| false), []);
        let after_a_rest = told(Patience::WITH_BACKEND, 10_000, |now| now >= 1_000);
        assert_eq!(after_a_rest, [(1_000, Ask), (1_001, Wait), (1_002, Doubt), (1_030, GiveUp)]);
        let and_gone_again = told(Patience::WITH_BACKEND, 10_000, |now| now == 1_000);
        assert_eq!(and_gone_again, after_a_rest, "a question that was asked wants an answer");
    }

    #[test]
    fn what_has_been_heard_since_counts_as_much_as_an_answer() {
        let at = |lasts, asked| {
            let (lasts, asked) = (Duration::from_secs(lasts), Some(Duration::from_secs(asked)));
            Silence { lasts, asked, asks: 1, demand: Demand::Running }.step(Patience::WITH_CLIENT)
        };
        assert_eq!([at(0, 100), at(1, 100)], [Step::Wait; 2]);
        assert_eq!([at(2, 100), at(29, 100), at(100, 29)], [Step::Doubt; 3]);
        assert_eq!([at(30, 100), at(100, 30)], [Step::GiveUp; 2]);
    }

    #[test]
    fn who_is_known_to_be_there_is_asked_as_rarely_as_servers_of_grpc_want() {
        let asks = |patience, asks, demand, secs| {
            let lasts = Duration::from_secs(secs);
            Silence { lasts, asked: None, asks, demand }.step(patience) == Step::Ask
        };
        for (patience, times, demand, first) in [
            (Patience::WITH_CLIENT, 0, Demand::Running, 20),
            (Patience::WITH_CLIENT, 9, Demand::Running, 20),
            (Patience::WITH_BACKEND, 0, Demand::Running, 5),
            (Patience::WITH_BACKEND, 0, Demand::More, 5),
            (Patience::WITH_BACKEND, 1, Demand::Running, 330),
            (Patience::WITH_BACKEND, 1, Demand::More, 5),
            (Patience::WITH_BACKEND, 2, Demand::More, 330),
        ] {
            let asks = |secs| asks(patience, times, demand, secs);
            assert!(asks(first) && !asks(first - 1), "{patience:?} {times} {demand:?}");
        }
    }

    /// A vigil over one end of a pipe, whose other end speaks HTTP/2 by hand, and what drives it.
    struct Scene {
        connection: h2::server::Connection<Heard<tokio::io::DuplexStream>, bytes::Bytes>,
        vigil: Vigil,
        demand: Demand,
        peer: tokio::io::DuplexStream,
    }

    impl Scene {
        async fn begin() -> Self {
            let (here, mut peer) = duplex(4096);
            let socket = Heard::new(here);
            let signs = socket.signs();
            peer.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
            let mut connection = h2::server::handshake(socket).await.unwrap();
            let pings = connection.ping_pong().unwrap();
            let vigil = Vigil::new(pings, signs, Patience::WITH_BACKEND, Instant::now());
            Self { connection, vigil, demand: Demand::Running, peer }
        }

        /// Looks so many seconds later.
        async fn look_in(&mut self, seconds: u64) -> Presence {
            tokio::time::advance(Duration::from_secs(seconds)).await;
            std::future::poll_fn(|cx| {
                let _nobody_asks = self.connection.poll_accept(cx);
                let presence = self.vigil.look(cx, Instant::now(), self.demand);
                let _what_it_asks_goes_out = self.connection.poll_accept(cx);
                Poll::Ready(presence)
            })
            .await
        }

        /// The payloads of the pings that have reached the peer.
        async fn pings(&mut self) -> Vec<[u8; 8]> {
            let mut came = vec![0; 4096];
            let length =
                tokio::time::timeout(Duration::ZERO, self.peer.read(&mut came)).await.map_or(0, Result::unwrap);
            let (mut pings, mut rest) = (Vec::new(), &came[..length]);
            while let [0, 0, length, kind, flags, _, _, _, _, after @ ..] = rest {
                let (payload, next) = after.split_at(usize::from(*length));
                if (*kind, *flags) == (6, 0) {
                    pings.push(payload.try_into().unwrap());
                }
                rest = next;
            }
            pings
        }

        async fn answer(&mut self, ping: [u8; 8]) {
            self.peer.write_all(&[&[0, 0, 8, 6, 1, 0, 0, 0, 0][..], &ping].concat()).await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_answers_is_left_alone_for_a_while_and_who_says_more_is_asked_anew() {
        let mut scene = Scene::begin().await;
        assert_eq!((scene.look_in(4).await, scene.pings().await.len()), (Presence::Likely, 0));
        assert_eq!(scene.look_in(5).await, Presence::Likely);
        let pings = scene.pings().await;
        assert_eq!(pings.len(), 1);
        assert_eq!(scene.look_in(2).await, Presence::Doubtful);
        scene.answer(pings[0]).await;
        assert_eq!(scene.look_in(100).await, Presence::Likely);
        assert_eq!((scene.look_in(200).await, scene.pings().await.len()), (Presence::Likely, 0));
        scene.demand = Demand::More; // a request has begun: once more, it is worth it
        assert_eq!(scene.look_in(1).await, Presence::Likely);
        let pings = scene.pings().await;
        scene.answer(pings[0]).await;
        assert_eq!(scene.look_in(1).await, Presence::Likely);
        assert_eq!((scene.look_in(300).await, scene.pings().await.len()), (Presence::Likely, 0));
        scene.peer.write_all(&[0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0, 0, 1]).await.unwrap(); // more room for us
        assert_eq!((scene.look_in(1).await, scene.pings().await.len()), (Presence::Likely, 0));
        assert_eq!((scene.look_in(5).await, scene.pings().await.len()), (Presence::Likely, 1));
        assert_eq!(scene.look_in(29).await, Presence::Doubtful);
        assert_eq!(scene.look_in(1).await, Presence::Gone);
    }

    #[tokio::test]
    async fn to_take_what_had_to_wait_is_a_sign_of_life_and_to_have_room_is_none() {
        let (here, mut peer) = duplex(10);
        let mut socket = Heard::new(here);
        let signs = socket.signs();
        let is_sign = || (signs.took.take(), signs.came.get());
        socket.write_all(&[0; 10]).await.unwrap();
        assert_eq!(is_sign(), (false, 0));
        let mut write = Box::pin(socket.write_all(&[0; 5]));
        let is_done = std::future::poll_fn(|cx| Poll::Ready(write.as_mut().poll(cx).is_ready())).await;
        assert!(!is_done);
        assert_eq!(is_sign(), (false, 0));
        peer.read_exact(&mut [0; 10]).await.unwrap();
        write.await.unwrap();
        assert_eq!(is_sign(), (true, 0));
        peer.write_all(&[0; 3]).await.unwrap();
        socket.read_exact(&mut [0; 3]).await.unwrap();
        assert_eq!(is_sign(), (false, 3));
    }
}
