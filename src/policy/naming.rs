//! What an answer about a name changes, and when the name is asked for again.
//!
//! A name that once had addresses keeps the last ones through every failure: that a name server is away says nothing about
//! the service.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Addresses of one name that are used; more would be a mistake or an attack.
pub const MOST: usize = 128;
/// How soon a name is asked for again after the first failure in a row; then twice as late each time.
const FIRST_RETRY: Duration = Duration::from_millis(500);
/// The latest that a name is asked for again after a failure.
const LAST_RETRY: Duration = Duration::from_secs(30);

/// What was said about a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It has these addresses, for this long.
    Addresses(Vec<IpAddr>, Duration),
    /// Nothing that could be used.
    Failed(Trouble),
}

/// Why nothing could be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// There is no such name (NXDOMAIN).
    NoSuchName,
    /// The name has no address.
    Empty,
    /// The server could not or would not tell (SERVFAIL, REFUSED and the like), or what it said made no sense.
    ServerFailed,
    /// Nothing could be asked there, since nobody listens or no way leads there.
    Unreachable(SocketAddr),
    /// No server answered in time.
    TimedOut,
    /// There is no server to ask.
    NoServer,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unreachable(server) => return write!(f, "the name server {server} cannot be reached"),
            Self::NoSuchName => "there is no such name",
            Self::Empty => "the name has no address",
            Self::ServerFailed => "the name server could not tell",
            Self::TimedOut => "no name server answered in time",
            Self::NoServer => "there is no name server to ask",
        })
    }
}

/// How often a name may be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Addresses are used for at least this long, whatever the answer says.
    pub min_ttl: Duration,
    /// Addresses are used for at most this long.
    pub max_ttl: Duration,
}

/// What is known of a name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Name {
    addresses: Vec<IpAddr>,
    trouble: Option<Trouble>,
    failures: u32,
    is_asked: bool,
}

/// What an answer has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// The addresses are others than before.
    pub is_elsewhere: bool,
    /// What is wrong with the name is something else than before, or nothing any more.
    pub is_news: bool,
    /// When to ask again.
    pub again_in: Duration,
}

impl Name {
    /// The last good addresses, in order; none if there never were any.
    #[must_use]
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// What was wrong with the last answer.
    #[must_use]
    pub fn trouble(&self) -> Option<Trouble> {
        self.trouble
    }

    /// Whether there was an answer, good or bad.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        self.is_asked
    }

    /// Takes an answer. `chance`, from 0 to 1, spreads those who ask at the same time.
    pub fn hear(&mut self, answer: Answer, pace: Pace, chance: f64) -> Heard {
        self.is_asked = true;
        let (before, trouble) = (self.addresses.clone(), self.trouble);
        let again_in = match usable(answer) {
            Answer::Addresses(addresses, ttl) => {
                self.addresses = addresses;
                self.trouble = None;
                self.failures = 0;
                ttl.clamp(pace.min_ttl, pace.max_ttl)
            }
            Answer::Failed(trouble) => {
                self.trouble = Some(trouble);
                self.failures = self.failures.saturating_add(1);
                retry_after(self.failures)
            }
        };
        Heard {
            is_elsewhere: self.addresses != before,
            is_news: self.trouble != trouble,
            again_in: again_in.mul_f64(1.0 + 0.1 * chance.clamp(0.0, 1.0)),
        }
    }
}

fn retry_after(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    (FIRST_RETRY * (1 << doublings)).min(LAST_RETRY)
}

/// The addresses in order, each once, without those that no service has: a connection to `0.0.0.0` would be one to ourselves.
fn usable(answer: Answer) -> Answer {
    let Answer::Addresses(mut addresses, ttl) = answer else { return answer };
    addresses.retain(|address| !address.is_unspecified() && !address.is_multicast());
    addresses.sort_unstable();
    addresses.dedup();
    addresses.truncate(MOST);
    match addresses.is_empty() {
        true => Answer::Failed(Trouble::Empty),
        false => Answer::Addresses(addresses, ttl),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PACE: Pace = Pace { min_ttl: Duration::from_secs(5), max_ttl: Duration::from_secs(300) };

    fn ips(last: &[u8]) -> Vec<IpAddr> {
        last.iter().map(|last| IpAddr::from([192, 0, 2, *last])).collect()
    }

    fn found(last: &[u8], ttl: u64) -> Answer {
        Answer::Addresses(ips(last), Duration::from_secs(ttl))
    }

    #[test]
    fn addresses_are_used_for_as_long_as_they_say_within_bounds() {
        for (ttl, seconds) in [(0, 5), (4, 5), (5, 5), (60, 60), (300, 300), (301, 300), (u64::from(u32::MAX), 300)] {
            let heard = Name::default().hear(found(&[1], ttl), PACE, 0.0);
            assert_eq!(heard.again_in, Duration::from_secs(seconds), "ttl {ttl}");
        }
        assert_eq!(Name::default().hear(found(&[1], 60), PACE, 1.0).again_in, Duration::from_secs(66));
    }

    #[test]
    fn the_last_good_addresses_stay_through_every_failure() {
        let mut name = Name::default();
        assert!(name.hear(found(&[2, 1], 60), PACE, 0.0).is_elsewhere);
        for trouble in
            [Trouble::NoSuchName, Trouble::Empty, Trouble::ServerFailed, Trouble::TimedOut, Trouble::NoServer]
        {
            let heard = name.hear(Answer::Failed(trouble), PACE, 0.0);
            assert!(!heard.is_elsewhere && heard.is_news, "{trouble}");
            assert!(!name.hear(Answer::Failed(trouble), PACE, 0.0).is_news, "it is told once");
            assert_eq!((name.addresses(), name.trouble()), (&ips(&[1, 2])[..], Some(trouble)));
        }
        let heard = name.hear(found(&[1, 2], 60), PACE, 0.0);
        assert!(!heard.is_elsewhere && heard.is_news, "all is well again, and nothing has changed");
        assert!(name.hear(found(&[1, 3], 60), PACE, 0.0).is_elsewhere);
    }

    #[test]
    fn who_fails_is_asked_later_each_time() {
        let mut name = Name::default();
        let mut waits = (0..10).map(|_| name.hear(Answer::Failed(Trouble::TimedOut), PACE, 0.0).again_in.as_millis());
        assert_eq!(waits.by_ref().take(8).collect::<Vec<_>>(), [500, 1000, 2000, 4000, 8000, 16000, 30000, 30000]);
        name.hear(found(&[1], 60), PACE, 0.0);
        assert_eq!(name.hear(Answer::Failed(Trouble::TimedOut), PACE, 0.0).again_in, FIRST_RETRY);
    }

    #[test]
    fn the_order_of_an_answer_and_what_it_says_twice_mean_nothing() {
        let mut name = Name::default();
        name.hear(found(&[1, 2, 3], 60), PACE, 0.0);
        assert!(!name.hear(found(&[3, 1, 2, 1], 60), PACE, 0.0).is_elsewhere);
    }

    #[test]
    fn addresses_that_nobody_has_are_none() {
        let nobodys: Vec<IpAddr> = ["0.0.0.0", "::", "224.0.0.1"].map(|ip| ip.parse().unwrap()).into();
        let mut name = Name::default();
        name.hear(Answer::Addresses(nobodys, Duration::ZERO), PACE, 0.0);
        assert_eq!((name.addresses(), name.trouble()), (&[][..], Some(Trouble::Empty)));
    }

    proptest! {
        #[test]
        fn addresses_are_never_lost_and_nobody_is_asked_without_end(
            answers in proptest::collection::vec((any::<Option<(Vec<u8>, u32)>>(), 0.0..1.0), 1..40),
        ) {
            let mut name = Name::default();
            for (answer, chance) in answers {
                let had = !name.addresses().is_empty();
                let answer = match answer {
                    Some((last, ttl)) => found(&last, u64::from(ttl)),
                    None => Answer::Failed(Trouble::ServerFailed),
                };
                let heard = name.hear(answer, PACE, chance);
                prop_assert!(!had || !name.addresses().is_empty());
                prop_assert!(name.addresses().len() <= MOST);
                prop_assert!(heard.again_in >= FIRST_RETRY && heard.again_in <= PACE.max_ttl.mul_f64(1.1));
                prop_assert!(name.is_asked());
            }
        }
    }
}
