//! A line between two who speak TCP, which can be made bad: slow, late, broken off at a byte, silent, noisy. What goes wrong
//! does so at the byte that the story names, each time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::time::sleep;

/// One of the two directions of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From whoever connected to whoever listens.
    There,
    /// From whoever listens to whoever connected.
    Back,
}

/// What happens at a byte.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Both are told that the connection is broken.
    Reset,
    /// The receiver is told that nothing more comes, in good order. What the sender still says is lost.
    Finish,
    /// Nothing more comes this way, and nothing is taken from the sender. The other way goes on.
    Stall,
    /// Nothing more comes either way, not even the news that somebody has gone: the systems at both ends send what they have
    /// and ask whether anybody is there, and hear nothing.
    Vanish,
    /// The receiver gets these bytes as well, once a connection.
    Noise(Vec<u8>),
}

/// A listener that passes on what it gets, as faithfully as the story wants. It ends, with all its connections, when it is
/// dropped.
pub struct Line {
    /// Where to connect instead of the address behind it.
    pub address: SocketAddr,
    plan: watch::Sender<Plan>,
    counts: Arc<Counts>,
    _until_dropped: oneshot::Sender<()>,
}

#[derive(Clone, Debug, Default)]
struct Plan {
    ways: [Manner; 2],
}

/// How one way is treated.
#[derive(Clone, Debug, Default)]
struct Manner {
    delay: Duration,
    bytes_a_second: Option<u64>,
    /// After how many bytes of a connection.
    fault: Option<(u64, Fault)>,
}

#[derive(Default)]
struct Counts {
    connections: AtomicUsize,
    open: AtomicUsize,
    passed: [AtomicU64; 2],
}

impl Line {
    /// A line to `address` that is as good as none, for now.
    pub fn to(address: SocketAddr) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let here = listener.local_addr().unwrap();
        let (plan, planned) = watch::channel(Plan::default());
        let (until_dropped, dropped) = oneshot::channel::<()>();
        let counts = Arc::new(Counts::default());
        let counting = Arc::clone(&counts);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                tokio::select! {
                    _ = dropped => {}
                    () = listen(TcpListener::from_std(listener).unwrap(), address, planned, counting) => {}
                }
            });
        });
        Self { address: here, plan, counts, _until_dropped: until_dropped }
    }

    /// As an endpoint of a config.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Each piece is passed on so much later.
    pub fn delay(&self, way: Way, delay: Duration) -> &Self {
        self.treat(way, |manner| manner.delay = delay)
    }

    /// At most so many bytes pass in a second, evenly.
    pub fn rate(&self, way: Way, bytes_a_second: u64) -> &Self {
        self.treat(way, |manner| manner.bytes_a_second = Some(bytes_a_second))
    }

    /// On each connection, those that are open too, exactly `byte` bytes pass this way, then this happens.
    pub fn at(&self, way: Way, byte: u64, fault: Fault) -> &Self {
        self.treat(way, |manner| manner.fault = Some((byte, fault)))
    }

    /// From now on it is as good as none again. What has happened to a connection stays.
    pub fn mend(&self) {
        self.plan.send_replace(Plan::default());
    }

    fn treat(&self, way: Way, change: impl FnOnce(&mut Manner)) -> &Self {
        self.plan.send_modify(|plan| change(&mut plan.ways[way as usize]));
        self
    }

    /// Connections so far.
    pub fn connections(&self) -> usize {
        self.counts.connections.load(SeqCst)
    }

    /// Connections that have not ended.
    pub fn open_connections(&self) -> usize {
        self.counts.open.load(SeqCst)
    }

    /// Bytes that were passed on this way, over all connections.
    pub fn passed(&self, way: Way) -> u64 {
        self.counts.passed[way as usize].load(SeqCst)
    }
}

async fn listen(listener: TcpListener, there: SocketAddr, plan: watch::Receiver<Plan>, counts: Arc<Counts>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        counts.connections.fetch_add(1, SeqCst);
        counts.open.fetch_add(1, SeqCst);
        let (plan, counts) = (plan.clone(), Arc::clone(&counts));
        tokio::spawn(async move {
            join(stream, there, plan, &counts).await;
            counts.open.fetch_sub(1, SeqCst);
        });
    }
}

/// How a connection ends, unless both have said all they had to say.
enum End {
    Reset,
    Vanished,
}

async fn join(here: TcpStream, there: SocketAddr, plan: watch::Receiver<Plan>, counts: &Counts) {
    let Ok(there) = TcpStream::connect(there).await else { return reset(&here) };
    for stream in [&here, &there] {
        stream.set_nodelay(true).unwrap();
    }
    let ends = [&here, &there].map(|stream| (stream.local_addr().unwrap(), stream.peer_addr().unwrap()));
    let (from_here, to_here) = here.into_split();
    let (from_there, to_there) = there.into_split();
    let mut going = Pipe { way: Way::There, from: from_here, to: to_there, plan: plan.clone(), counts, passed: 0 };
    let mut coming = Pipe { way: Way::Back, from: from_there, to: to_here, plan, counts, passed: 0 };
    match tokio::try_join!(going.run(), coming.run()) {
        Ok(_) => {}
        Err(End::Reset) => [going.to, coming.to].into_iter().for_each(|to| {
            reset(to.as_ref());
            to.forget(); // or it would first end in good order
        }),
        Err(End::Vanished) => {
            eventually_confirmed(&ends).await;
            for to in [&going.to, &coming.to] {
                vanish(to.as_ref());
            }
            std::future::pending::<()>().await; // holding both, until the line ends
        }
    }
}

/// From now on its system takes no packet in, be it a question or the end, and confirms none.
fn vanish(stream: &TcpStream) {
    const RETURN: u16 = 0x06; // so many bytes of each packet
    socket2::SockRef::from(stream).attach_filter(&[socket2::SockFilter::new(RETURN, 0, 0, 0)]).unwrap();
}

/// Waits until all that was sent over these connections (ours, theirs) is confirmed: what is not would be sent again and again
/// by somebody who is not there.
async fn eventually_confirmed(ends: &[(SocketAddr, SocketAddr)]) {
    let as_listed = |address: &SocketAddr| match address {
        SocketAddr::V4(address) => {
            format!("{:08X}:{:04X}", u32::from_le_bytes(address.ip().octets()), address.port())
        }
        SocketAddr::V6(_) => panic!("lines are of IPv4"),
    };
    let lines: Vec<String> = ends.iter().map(|(ours, theirs)| [as_listed(ours), as_listed(theirs)].join(" ")).collect();
    loop {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        // After the addresses come the state and how much waits to be confirmed.
        let waits = |line: &&str| line.split(' ').nth(4).is_some_and(|queue| !queue.starts_with("00000000:"));
        let mut ours = table.lines().filter(|line| lines.iter().any(|ends| line.contains(ends.as_str())));
        if !ours.any(|line| waits(&line.trim_start())) {
            return;
        }
        sleep(Duration::from_millis(5)).await;
    }
}

/// From now on closing it is breaking it.
fn reset(stream: &TcpStream) {
    let _it_may_be_broken = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// One way of one connection.
struct Pipe<'a> {
    way: Way,
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    plan: watch::Receiver<Plan>,
    counts: &'a Counts,
    passed: u64,
}

impl Pipe<'_> {
    async fn run(&mut self) -> Result<(), End> {
        let mut buffer = vec![0; 65_536];
        let mut was_noisy = false;
        loop {
            let manner = self.plan.borrow_and_update().ways[self.way as usize].clone();
            let until_fault = manner.fault.as_ref().map(|(byte, _)| byte.saturating_sub(self.passed));
            match manner.fault {
                Some((_, Fault::Noise(bytes))) if until_fault == Some(0) && !was_noisy => {
                    was_noisy = true;
                    self.pass(&bytes).await?;
                    continue;
                }
                Some((_, fault)) if until_fault == Some(0) && !was_noisy => return self.suffer(fault).await,
                _ => {}
            }
            let most = [until_fault.filter(|_| !was_noisy), manner.bytes_a_second.map(|rate| rate.div_ceil(50))];
            let most = most.into_iter().flatten().fold(buffer.len() as u64, u64::min) as usize;
            let read = tokio::select! {
                biased; // what was said of the line before a byte was sent holds for that byte
                _ = self.plan.changed() => continue,
                read = self.from.read(&mut buffer[..most]) => read.map_err(|_| End::Reset)?,
            };
            sleep(manner.delay).await;
            if read == 0 {
                let _it_may_have_gone = self.to.shutdown().await;
                return Ok(());
            }
            self.pass(&buffer[..read]).await?;
            self.passed += read as u64;
            if let Some(rate) = manner.bytes_a_second {
                sleep(Duration::from_secs_f64(read as f64 / rate as f64)).await;
            }
        }
    }

    async fn pass(&mut self, bytes: &[u8]) -> Result<(), End> {
        self.to.write_all(bytes).await.map_err(|_| End::Reset)?;
        self.counts.passed[self.way as usize].fetch_add(bytes.len() as u64, SeqCst);
        Ok(())
    }

    async fn suffer(&mut self, fault: Fault) -> Result<(), End> {
        match fault {
            Fault::Reset => Err(End::Reset),
            Fault::Vanish => Err(End::Vanished),
            Fault::Stall => std::future::pending().await,
            Fault::Finish => {
                let _it_may_have_gone = self.to.shutdown().await;
                let mut lost = vec![0; 65_536];
                while self.from.read(&mut lost).await.is_ok_and(|n| n > 0) {}
                Ok(())
            }
            Fault::Noise(_) => unreachable!("noise passes"),
        }
    }
}
