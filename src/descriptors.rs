//! File descriptors: how many this process may have, and who gets them when there are few.
//!
//! Clients can open as many connections as they like, and each request may want one to a backend. Whoever operates tidegate has
//! to reach it all the same, so neither of them gets the last ones.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering::Relaxed};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors for the admin side, files, name servers, health checks and webhooks, where there are enough.
const SPARE: usize = 128;
/// What the process has open before anybody connects, where the system does not tell.
const OF_ITS_OWN: usize = 32;
/// What the runtime of a worker takes.
const A_WORKER: usize = 4;

/// From which number on a descriptor is neither for clients nor for their requests. The system gives the lowest number that is
/// free (POSIX), so a number tells how many were open at least. It is the process's, as the limit is.
static KEPT_FROM: AtomicI32 = AtomicI32::new(RawFd::MAX);

/// Raises the limit on open descriptors as far as the process may. What shells and supervisors give is made for programs that
/// call `select`.
pub fn raise_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        // Not every system lets it be as high as it says; then it stays what it was, and the start tells if that is too low.
        let _it_may_not_be = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
}

/// Whether `descriptor` is one of those that neither clients nor their requests get.
pub fn is_spare(descriptor: &impl AsRawFd) -> bool {
    descriptor.as_raw_fd() >= KEPT_FROM.load(Relaxed)
}

/// How many descriptors there are, and how many of them the process has for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Supply {
    /// How many may be open at once; `None` is no limit.
    pub limit: Option<usize>,
    /// How many are open before anybody connects.
    pub taken: usize,
}

impl Supply {
    /// What there is now, before `workers` are started; the last ones are kept from clients from now on.
    #[must_use]
    pub fn shared_out(workers: usize) -> Self {
        let open = std::fs::read_dir("/proc/self/fd").map_or(OF_ITS_OWN, Iterator::count);
        let limit = getrlimit(Resource::Nofile).current.and_then(|limit| usize::try_from(limit).ok());
        let supply = Self { limit, taken: open + A_WORKER * workers };
        let kept_from = supply.limit.and_then(|limit| RawFd::try_from(limit - supply.spare().min(limit)).ok());
        KEPT_FROM.store(kept_from.unwrap_or(RawFd::MAX), Relaxed);
        supply
    }

    /// How many clients may be connected if there may be `to_backends` connections to backends: all that is left, but half of it
    /// is the backends' if they want it. A client without a backend is of no use.
    #[must_use]
    pub fn clients(self, to_backends: usize) -> usize {
        let Some(limit) = self.limit else { return usize::MAX };
        let left = limit.saturating_sub(self.taken + self.spare());
        left - to_backends.min(left / 2)
    }

    /// The limit that is needed for `clients`, if this one is too low.
    #[must_use]
    pub fn wanted(self, clients: usize, to_backends: usize) -> Option<usize> {
        let needed = self.taken + SPARE + clients + to_backends.min(clients);
        self.limit.is_some_and(|limit| limit < needed).then_some(needed)
    }

    fn spare(self) -> usize {
        self.limit.map_or(SPARE, |limit| (limit.saturating_sub(self.taken) / 4).min(SPARE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_get_what_is_left_and_at_least_as_much_as_backends() {
        for (limit, taken, to_backends, clients) in [
            (Some(200), 40, 2048, 60),   // a quarter is spare, of the rest half is for backends
            (Some(1024), 40, 2048, 428), // no more than 128 are spare
            (Some(20_000), 40, 2048, 17_784),
            (Some(1024), 40, 0, 856),
            (Some(40), 40, 2048, 0),
            (Some(3), 40, 2048, 0),
            (None, 40, 2048, usize::MAX),
        ] {
            assert_eq!(Supply { limit, taken }.clients(to_backends), clients, "{limit:?} {to_backends}");
        }
    }

    #[test]
    fn a_limit_that_is_as_high_as_wanted_has_room_for_all() {
        for (clients, to_backends) in [(10_000, 2048), (10_000, 100_000), (1, 1), (500, 0)] {
            let wanted = Supply { limit: Some(0), taken: 40 }.wanted(clients, to_backends).unwrap();
            let enough = Supply { limit: Some(wanted), taken: 40 };
            assert_eq!((enough.wanted(clients, to_backends), enough.clients(to_backends) >= clients), (None, true));
            assert_eq!(Supply { limit: Some(wanted - 1), taken: 40 }.wanted(clients, to_backends), Some(wanted));
        }
        assert_eq!(Supply { limit: None, taken: 40 }.wanted(1_000_000, 1024), None);
    }
}
