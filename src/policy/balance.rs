//! Which endpoint of a backend gets a request, and which one gets it next if that takes no connection.
//!
//! Endpoints take turns; with [`Balance::LeastRequests`] the one whose turn it is steps back for another one, drawn at random,
//! that has less to do (the power of two choices: Mitzenmacher, *The Power of Two Choices in Randomized Load Balancing*, 2001).
//! While nobody is busy that is exactly in turn, and a slow endpoint gets fewer requests without anybody measuring it.

use std::time::Duration;

/// How requests are spread over the endpoints of a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// To the less busy one of two.
    #[default]
    LeastRequests,
    /// In turn.
    RoundRobin,
}

/// How much of its share an endpoint gets, in thousandths: 100 to 1000.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Weight(u16);

impl Weight {
    /// All of it.
    pub const FULL: Self = Self(1000);
    /// A tenth: where a slow start begins.
    pub const LEAST: Self = Self(100);

    /// The weight of an endpoint that has served for `served`, where a slow start takes `slow_start`: a straight line.
    #[must_use]
    pub fn after(served: Duration, slow_start: Duration) -> Self {
        if served >= slow_start {
            return Self::FULL;
        }
        let range = u128::from(Self::FULL.0 - Self::LEAST.0);
        let gained = range * served.as_nanos() / slow_start.as_nanos();
        Self(Self::LEAST.0 + u16::try_from(gained).expect("a part of the range"))
    }

    /// In thousandths.
    #[must_use]
    pub fn thousandths(self) -> u16 {
        self.0
    }

    /// Whether an endpoint of this weight takes its turn. `chance` is evenly spread over all numbers.
    fn takes_turn(self, chance: u32) -> bool {
        u64::from(chance) * u64::from(Self::FULL.0) < (u64::from(self.0) << 32)
    }
}

/// An endpoint that may be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Requests that run on it.
    pub running: u32,
    /// How much of its share it gets.
    pub weight: Weight,
}

impl Candidate {
    /// Whether it has less to do than `other`, each by its weight.
    fn is_idler_than(self, other: Self) -> bool {
        u64::from(self.running) * u64::from(other.weight.0) < u64::from(other.running) * u64::from(self.weight.0)
    }
}

/// Chooses one of `count` endpoints by its place; `None` if there is no candidate. `candidate` gives `None` for those that are
/// not to be chosen: unfit, or tried before. `turn` goes up by one with each request, `chance` is evenly spread over all numbers.
///
/// Asking again without the one that was chosen gives the order in which the others are tried.
#[must_use]
pub fn choose(
    balance: Balance,
    count: usize,
    turn: usize,
    chance: u64,
    candidate: impl Fn(usize) -> Option<Candidate>,
) -> Option<usize> {
    let all = || (0..count).filter_map(|at| Some((at, candidate(at)?)));
    let among = all().count();
    // Turns are counted over those that can be chosen, or the one behind an unfit endpoint would get the turns of both.
    let place = turn.checked_rem(among)?;
    let (at, first) = all().nth(place)?;
    if among == 1 {
        return Some(at);
    }
    let (takes_turn, drawn) = halves(chance);
    let drawn = drawn as usize % (among - 1);
    let (other_at, other) = all().nth(if drawn < place { drawn } else { drawn + 1 })?;
    let steps_back = match balance {
        _ if !first.weight.takes_turn(takes_turn) => true,
        Balance::LeastRequests => other.is_idler_than(first),
        Balance::RoundRobin => false,
    };
    Some(if steps_back { other_at } else { at })
}

fn halves(chance: u64) -> (u32, u32) {
    let low = u32::try_from(chance & u64::from(u32::MAX)).expect("the upper half is masked");
    (low, u32::try_from(chance >> 32).expect("the lower half is gone"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const IDLE: Candidate = Candidate { running: 0, weight: Weight::FULL };

    /// Numbers that look evenly spread (Steele, Lea and Flood's splitmix64).
    fn chance(n: usize) -> u64 {
        let mut z = (n as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// How many of `requests`, one after the other, each of these gets.
    fn shares(balance: Balance, candidates: &[Option<Candidate>], requests: usize) -> Vec<usize> {
        let mut shares = vec![0; candidates.len()];
        for turn in 0..requests {
            let chosen = choose(balance, candidates.len(), turn, chance(turn), |at| candidates[at]).unwrap();
            shares[chosen] += 1;
        }
        shares
    }

    #[test]
    fn who_is_idle_takes_turns() {
        for balance in [Balance::LeastRequests, Balance::RoundRobin] {
            assert_eq!(shares(balance, &[Some(IDLE); 4], 4000), [1000; 4]);
            let one_is_unfit = [Some(IDLE), None, Some(IDLE), Some(IDLE)];
            assert_eq!(shares(balance, &one_is_unfit, 3000), [1000, 0, 1000, 1000], "nobody gets the turns of another");
        }
    }

    #[test]
    fn the_busier_of_two_steps_back() {
        let busy = Candidate { running: 1, ..IDLE };
        assert_eq!(shares(Balance::LeastRequests, &[Some(IDLE), Some(busy)], 1000), [1000, 0]);
        assert_eq!(shares(Balance::RoundRobin, &[Some(IDLE), Some(busy)], 1000), [500, 500]);
    }

    #[test]
    fn without_candidates_there_is_no_choice() {
        for count in [0, 1, 3] {
            assert_eq!(choose(Balance::LeastRequests, count, 7, 7, |_| None), None);
        }
    }

    #[test]
    fn a_slow_start_goes_from_a_tenth_to_all_in_a_straight_line() {
        let second = Duration::from_secs(1);
        for (served, expected) in [(0.0, 100), (0.5, 550), (0.9, 910), (1.0, 1000), (100.0, 1000)] {
            assert_eq!(Weight::after(Duration::from_secs_f64(served), second).thousandths(), expected, "{served}");
        }
        assert_eq!(Weight::after(Duration::ZERO, Duration::ZERO), Weight::FULL);
    }

    #[test]
    fn who_starts_slowly_gets_its_part_of_the_turns() {
        for (weight, least, most) in [(100, 220, 280), (550, 1320, 1430), (1000, 2500, 2500)] {
            let starting = Candidate { weight: Weight(weight), ..IDLE };
            for balance in [Balance::LeastRequests, Balance::RoundRobin] {
                let shares = shares(balance, &[Some(IDLE), Some(starting), Some(IDLE), Some(IDLE)], 10_000);
                assert!((least..=most).contains(&shares[1]), "{weight}: {shares:?}");
            }
        }
    }

    /// Requests that take long: each choice adds one that stays.
    #[test]
    fn who_starts_slowly_is_busy_by_its_weight() {
        let mut running = [0u32; 3];
        let weights = [Weight::FULL, Weight(100), Weight::FULL];
        for turn in 0..2100 {
            let candidate = |at: usize| Some(Candidate { running: running[at], weight: weights[at] });
            let chosen = choose(Balance::LeastRequests, 3, turn, chance(turn), candidate).unwrap();
            running[chosen] += 1;
        }
        assert!((80..=140).contains(&running[1]), "{running:?}");
    }

    proptest! {
        #[test]
        fn whoever_is_not_to_be_chosen_is_not(
            candidates in proptest::collection::vec(proptest::option::of((0u32..100, 100u16..=1000)), 0..12),
            turn in any::<usize>(),
            chance in any::<u64>(),
            round_robin in any::<bool>(),
        ) {
            let balance = if round_robin { Balance::RoundRobin } else { Balance::LeastRequests };
            let candidate = |at: usize| {
                candidates[at].map(|(running, weight)| Candidate { running, weight: Weight(weight) })
            };
            let chosen = choose(balance, candidates.len(), turn, chance, candidate);
            prop_assert_eq!(chosen.is_some(), candidates.iter().any(Option::is_some));
            prop_assert!(chosen.is_none_or(|at| candidates[at].is_some()));
        }

        #[test]
        fn asking_again_tries_everybody_once(
            count in 1usize..10,
            turn in any::<usize>(),
            chances in proptest::collection::vec(any::<u64>(), 10),
        ) {
            let mut tried = Vec::new();
            for chance in &chances[..count] {
                let untried = |at: usize| (!tried.contains(&at)).then_some(IDLE);
                tried.push(choose(Balance::LeastRequests, count, turn, *chance, untried).unwrap());
            }
            prop_assert_eq!(choose(Balance::LeastRequests, count, turn, 0, |at| (!tried.contains(&at)).then_some(IDLE)), None);
            tried.sort_unstable();
            prop_assert_eq!(tried, (0..count).collect::<Vec<_>>());
        }

        #[test]
        fn requests_that_stay_are_spread_evenly(count in 2usize..9, start in any::<u32>()) {
            let mut running = vec![0u32; count];
            for n in 0..count * 50 {
                let candidate = |at: usize| Some(Candidate { running: running[at], weight: Weight::FULL });
                let turn = start as usize + n;
                let chosen = choose(Balance::LeastRequests, count, turn, chance(turn), candidate).unwrap();
                running[chosen] += 1;
            }
            prop_assert!(running.iter().all(|running| (47..=53).contains(running)), "{:?}", running);
        }
    }
}
