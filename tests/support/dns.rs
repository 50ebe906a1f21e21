//! A name server that says what a story wants, over UDP and TCP.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::{Arc, Mutex};
use std::thread;

/// What is said about a name.
#[derive(Clone, Debug)]
pub enum Say {
    /// These addresses, and for how many seconds.
    Addresses(Vec<IpAddr>, u32),
    /// The same behind an alias.
    Alias(&'static str, Vec<IpAddr>, u32),
    /// A UDP answer that is cut short, and these addresses over TCP.
    OnlyOverTcp(Vec<IpAddr>),
    NoSuchName,
    ServerFailure,
    Nothing,
    Silence,
    /// Bytes that are no message, and an answer to another question.
    Garbage,
}

/// A running name server.
pub struct NameServer {
    pub address: SocketAddr,
    names: Arc<Mutex<BTreeMap<String, Say>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

const A: u16 = 1;
const CNAME: u16 = 5;
const AAAA: u16 = 28;

impl NameServer {
    /// One that knows `name`, and nothing else.
    pub fn saying(name: &str, say: Say) -> Self {
        let (udp, tcp) = std::iter::repeat_with(one_port_for_both).flatten().next().unwrap();
        let address = udp.local_addr().unwrap();
        let names = Arc::new(Mutex::new(BTreeMap::from([(name.to_owned(), say)])));
        let this = Self { address, names, asked: Arc::default() };
        let (names, asked) = (Arc::clone(&this.names), Arc::clone(&this.asked));
        thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok((n, from)) = udp.recv_from(&mut buffer) {
                let name = name_in(&buffer[..n]);
                asked.lock().unwrap().push(name.clone());
                let say = names.lock().unwrap().get(&name).cloned().unwrap_or(Say::NoSuchName);
                for answer in answers(&buffer[..n], &say, false) {
                    let _whoever_asked_may_be_gone = udp.send_to(&answer, from);
                }
            }
        });
        let names = Arc::clone(&this.names);
        thread::spawn(move || {
            for mut stream in tcp.incoming().map_while(Result::ok) {
                let mut length = [0; 2];
                if stream.read_exact(&mut length).is_err() {
                    continue;
                }
                let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
                if stream.read_exact(&mut question).is_err() {
                    continue;
                }
                let say = names.lock().unwrap().get(&name_in(&question)).cloned().unwrap_or(Say::NoSuchName);
                for answer in answers(&question, &say, true) {
                    let length = u16::try_from(answer.len()).unwrap().to_be_bytes();
                    let _whoever_asked_may_be_gone = stream.write_all(&[&length[..], &answer].concat());
                }
            }
        });
        this
    }

    /// Says something else about `name` from now on.
    pub fn say(&self, name: &str, say: Say) {
        self.names.lock().unwrap().insert(name.to_owned(), say);
    }

    /// How often `name` was asked for, over UDP.
    pub fn asked_for(&self, name: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|asked| *asked == name).count()
    }
}

/// `None` if somebody else has the port over TCP.
fn one_port_for_both() -> Option<(UdpSocket, TcpListener)> {
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let tcp = TcpListener::bind(udp.local_addr().unwrap()).ok()?;
    Some((udp, tcp))
}

/// The name in a question, in lower case.
fn name_in(question: &[u8]) -> String {
    let mut labels = Vec::new();
    let mut at = 12;
    while let Some(length @ 1..=63) = question.get(at).map(|length| usize::from(*length)) {
        labels.push(String::from_utf8_lossy(&question[at + 1..at + 1 + length]).to_ascii_lowercase());
        at += 1 + length;
    }
    labels.join(".")
}

fn answers(question: &[u8], say: &Say, is_tcp: bool) -> Vec<Vec<u8>> {
    let say_nothing: &[IpAddr] = &[];
    match say {
        Say::Addresses(addresses, ttl) => vec![answer(question, 0, None, addresses, *ttl)],
        Say::Alias(alias, addresses, ttl) => vec![answer(question, 0, Some(alias), addresses, *ttl)],
        Say::OnlyOverTcp(addresses) if is_tcp => vec![answer(question, 0, None, addresses, 60)],
        Say::OnlyOverTcp(_) => vec![answer(question, 0x0200, None, say_nothing, 0)],
        Say::NoSuchName => vec![answer(question, 3, None, say_nothing, 0)],
        Say::ServerFailure => vec![answer(question, 2, None, say_nothing, 0)],
        Say::Nothing => vec![answer(question, 0, None, say_nothing, 0)],
        Say::Silence => Vec::new(),
        Say::Garbage => {
            let mut other = answer(question, 0, None, &["192.0.2.99".parse().unwrap()], 60);
            other[0] ^= 0xff; // the number of another question
            vec![b"nonsense".to_vec(), other]
        }
    }
}

fn answer(question: &[u8], flags: u16, alias: Option<&str>, addresses: &[IpAddr], ttl: u32) -> Vec<u8> {
    let asked_end = question[12..].iter().position(|byte| *byte == 0).unwrap() + 12 + 1;
    let asked_type = u16::from_be_bytes([question[asked_end], question[asked_end + 1]]);
    let fits = |ip: &&IpAddr| (asked_type == A && ip.is_ipv4()) || (asked_type == AAAA && ip.is_ipv6());
    let fitting: Vec<&IpAddr> = addresses.iter().filter(fits).collect();
    let mut records = Vec::new();
    let mut count = fitting.len();
    // The name in the question, which stands behind the header.
    let mut owner = vec![0xc0, 12];
    if let Some(alias) = alias {
        let target: Vec<u8> =
            alias.split('.').flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat()).chain([0]).collect();
        records.extend(record(&owner, CNAME, ttl, &target));
        owner = target;
        count += 1;
    }
    for ip in fitting {
        let octets = match ip {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        records.extend(record(&owner, asked_type, ttl, &octets));
    }
    let header =
        [&question[..2], &(0x8180 | flags).to_be_bytes(), &1u16.to_be_bytes(), &(count as u16).to_be_bytes(), &[0; 4]];
    [&header.concat(), &question[12..asked_end + 4], &records].concat()
}

fn record(owner: &[u8], rtype: u16, ttl: u32, data: &[u8]) -> Vec<u8> {
    let length = data.len() as u16;
    [owner, &rtype.to_be_bytes(), &1u16.to_be_bytes(), &ttl.to_be_bytes(), &length.to_be_bytes(), data].concat()
}
