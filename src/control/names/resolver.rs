//! Looks one name up: in the hosts file, then at the name servers, one after the other until one knows.
//!
//! Not by the system's own resolver: that tells nothing of how long an answer counts, and holds up a thread for as long as it
//! likes.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::str::FromStr as _;
use std::time::Duration;

use domain::base::iana::{Class, Rcode};
use domain::base::{Message, MessageBuilder, Name, Rtype};
use domain::rdata::{A, Aaaa};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::hosts;
use crate::config::{Dns, Family};
use crate::policy::naming::{Answer, Trouble};

const HOSTS: &str = "/etc/hosts";
const RESOLV_CONF: &str = "/etc/resolv.conf";
const PORT: u16 = 53;
/// An answer over UDP; what is larger is told to be truncated, and asked for over TCP.
const LARGEST: usize = 4096;

/// Who is asked, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Resolver {
    servers: Vec<SocketAddr>,
    /// What may stand behind a short name.
    search: Vec<String>,
    /// From so many dots on a name is first taken as it is.
    ndots: usize,
    dns: Dns,
}

impl Resolver {
    /// One that asks whom `dns` says, or whom the system says. Reads a file.
    pub(super) fn new(dns: &Dns) -> Self {
        if !dns.servers.is_empty() {
            return Self { servers: dns.servers.clone(), search: Vec::new(), ndots: 0, dns: dns.clone() };
        }
        let system = std::fs::read(RESOLV_CONF).unwrap_or_default();
        let (system, _lines_that_mean_nothing_to_us) = resolv_conf::Config::parse_with_errors(&system);
        let servers = system.nameservers.iter().map(|server| SocketAddr::new(server.into(), PORT)).collect();
        let search = system.get_last_search_or_domain().cloned().collect();
        Self { servers, search, ndots: usize::try_from(system.ndots).unwrap_or(1), dns: dns.clone() }
    }

    /// The addresses of `host`, or why there are none, within the time that the config gives.
    pub(super) async fn look_up(&self, host: &str) -> Answer {
        if let Some(addresses) = hosts::look_up(Path::new(HOSTS), host).await {
            return Answer::Addresses(self.of_one_family(addresses), self.dns.pace.min_ttl);
        }
        timeout(self.dns.timeout, self.ask(host)).await.unwrap_or(Answer::Failed(Trouble::TimedOut))
    }

    /// The preferred family's if there are any: the two are two ways to the same places, not twice as many.
    fn of_one_family(&self, addresses: Vec<IpAddr>) -> Vec<IpAddr> {
        let is_preferred = |ip: &IpAddr| ip.is_ipv4() == (self.dns.prefer == Family::V4);
        let (preferred, others): (Vec<_>, Vec<_>) = addresses.into_iter().partition(is_preferred);
        if preferred.is_empty() { others } else { preferred }
    }

    /// Asks for the name, as it is and with what may stand behind it.
    async fn ask(&self, host: &str) -> Answer {
        let mut answer = Answer::Failed(Trouble::NoServer);
        for name in self.candidates(host) {
            answer = self.ask_for_either(&name).await;
            let is_elsewhere = matches!(answer, Answer::Failed(Trouble::NoSuchName | Trouble::Empty));
            if !is_elsewhere {
                break;
            }
        }
        answer
    }

    fn candidates(&self, host: &str) -> Vec<String> {
        let mut names: Vec<String> = self.search.iter().map(|suffix| format!("{host}.{suffix}")).collect();
        let is_whole = host.matches('.').count() >= self.ndots;
        names.insert(if is_whole { 0 } else { names.len() }, host.to_owned());
        names
    }

    async fn ask_for_either(&self, name: &str) -> Answer {
        let types = match self.dns.prefer {
            Family::V4 => [Rtype::A, Rtype::AAAA],
            Family::V6 => [Rtype::AAAA, Rtype::A],
        };
        let Ok(name) = Name::<Vec<u8>>::from_str(name) else { return Answer::Failed(Trouble::NoSuchName) };
        match self.ask_all(&name, types[0]).await {
            Answer::Failed(Trouble::Empty) => self.ask_all(&name, types[1]).await,
            answer => answer,
        }
    }

    /// Asks one server after the other. Each but the last has an equal part of the time, so that one that is silent leaves some.
    async fn ask_all(&self, name: &Name<Vec<u8>>, rtype: Rtype) -> Answer {
        let mut trouble = Trouble::NoServer;
        let patience = self.dns.timeout / (2 * u32::try_from(self.servers.len()).unwrap_or(u32::MAX).max(1));
        for server in &self.servers {
            match timeout(patience, ask_one(*server, name, rtype)).await {
                Ok(Ok(answer @ (Answer::Addresses(..) | Answer::Failed(Trouble::NoSuchName | Trouble::Empty)))) => {
                    return answer;
                }
                Ok(Ok(Answer::Failed(failed))) => trouble = failed,
                Ok(Err(_)) => trouble = Trouble::Unreachable(*server),
                Err(_) => trouble = Trouble::TimedOut,
            }
        }
        Answer::Failed(trouble)
    }
}

async fn ask_one(server: SocketAddr, name: &Name<Vec<u8>>, rtype: Rtype) -> io::Result<Answer> {
    let question = question(name, rtype)?;
    let answer = over_udp(server, &question).await?;
    let answer = if answer.header().tc() { over_tcp(server, &question).await? } else { answer };
    Ok(read(&answer))
}

fn question(name: &Name<Vec<u8>>, rtype: Rtype) -> io::Result<Message<Vec<u8>>> {
    let mut message = MessageBuilder::new_vec();
    message.header_mut().set_random_id();
    message.header_mut().set_rd(true);
    let mut questions = message.question();
    questions.push((name, rtype, Class::IN)).map_err(io::Error::other)?;
    Ok(questions.into_message())
}

/// Whatever else arrives at our port is passed over: anybody can send there.
async fn over_udp(server: SocketAddr, question: &Message<Vec<u8>>) -> io::Result<Message<Vec<u8>>> {
    let any = if server.is_ipv4() { IpAddr::from(Ipv4Addr::UNSPECIFIED) } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(question.as_slice()).await?;
    let mut buffer = vec![0; LARGEST];
    loop {
        let n = socket.recv(&mut buffer).await?;
        if let Ok(answer) = Message::from_octets(buffer[..n].to_vec())
            && answer.is_answer(question)
        {
            return Ok(answer);
        }
    }
}

async fn over_tcp(server: SocketAddr, question: &Message<Vec<u8>>) -> io::Result<Message<Vec<u8>>> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(question.as_slice().len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), question.as_slice()].concat()).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    let answer = Message::from_octets(answer).map_err(io::Error::other)?;
    answer.is_answer(question).then_some(answer).ok_or_else(|| io::Error::other("an answer to another question"))
}

/// What an answer says of the name in its question, behind its aliases.
fn read(answer: &Message<Vec<u8>>) -> Answer {
    match answer.header().rcode() {
        Rcode::NXDOMAIN => Answer::Failed(Trouble::NoSuchName),
        Rcode::NOERROR => addresses(answer).unwrap_or(Answer::Failed(Trouble::ServerFailed)),
        _ => Answer::Failed(Trouble::ServerFailed),
    }
}

/// `None` if it cannot be read.
fn addresses(answer: &Message<Vec<u8>>) -> Option<Answer> {
    let name = answer.canonical_name()?;
    let mut ttl = Duration::MAX;
    let mut addresses = Vec::new();
    for record in answer.answer().ok()? {
        let record = record.ok()?;
        let address = match record.rtype() {
            Rtype::A => record.to_record::<A>().ok()?.map(|record| IpAddr::from(record.data().addr())),
            Rtype::AAAA => record.to_record::<Aaaa>().ok()?.map(|record| IpAddr::from(record.data().addr())),
            Rtype::CNAME => None,
            _ => continue,
        };
        ttl = ttl.min(record.ttl().into_duration());
        addresses.extend(address.filter(|_| record.owner() == name));
    }
    Some(match addresses.is_empty() {
        true => Answer::Failed(Trouble::Empty),
        false => Answer::Addresses(addresses, ttl),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::naming::Pace;
    use proptest::prelude::*;

    fn resolver(search: &[&str], ndots: usize) -> Resolver {
        let pace = Pace { min_ttl: Duration::from_secs(5), max_ttl: Duration::from_secs(300) };
        let dns = Dns { servers: Vec::new(), pace, timeout: Duration::from_secs(2), prefer: Family::V4 };
        Resolver { servers: Vec::new(), search: search.iter().map(|suffix| (*suffix).to_owned()).collect(), ndots, dns }
    }

    #[test]
    fn short_names_are_looked_for_where_the_system_says() {
        let kubernetes = resolver(&["ns.svc.cluster.local", "cluster.local"], 5);
        assert_eq!(kubernetes.candidates("ledger"), ["ledger.ns.svc.cluster.local", "ledger.cluster.local", "ledger"]);
        assert_eq!(resolver(&["example.com"], 1).candidates("a.b"), ["a.b", "a.b.example.com"]);
        assert_eq!(resolver(&[], 1).candidates("a"), ["a"]);
    }

    #[test]
    fn one_family_of_two_is_used() {
        let [four, six]: [IpAddr; 2] = ["192.0.2.1", "2001:db8::1"].map(|ip| ip.parse().unwrap());
        assert_eq!(resolver(&[], 1).of_one_family(vec![six, four]), [four]);
        assert_eq!(resolver(&[], 1).of_one_family(vec![six]), [six]);
    }

    proptest! {
        #[test]
        fn noise_never_panics(noise in proptest::collection::vec(any::<u8>(), 12..600)) {
            if let Ok(message) = Message::from_octets(noise) {
                let _whatever_it_says = read(&message);
            }
        }
    }
}
