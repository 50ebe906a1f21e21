//! What the guard may never do, and what it has to.

use fastrand::Rng;
use proptest::prelude::*;

use super::relative::Bet;
use super::share::Bounds;
use super::*;
use crate::policy::bucket::BUCKETS;

fn limits() -> Limits {
    Limits { tolerance: 0.01, one_false_trip_in: 1e8, min_distinct: 3 }
}

fn bucket(number: u16) -> Bucket {
    Bucket::from_number(number).unwrap()
}

fn counted(requests: u64, bad: u64) -> Counted {
    Counted { requests, bad }
}

/// What is seen in a millisecond: `old` and `new` as requests and bad ones, the bad ones of NEW from these buckets.
fn look(test: &mut Test, old: (u64, u64), new: (u64, u64), numbers: &[u16]) {
    let buckets: Vec<Bucket> = numbers.iter().copied().map(bucket).collect();
    let (old, new) = (counted(old.0, old.1), counted(new.0, new.1));
    test.look(&Batch { old, new, buckets: &buckets, elapsed: Duration::from_millis(1) });
}

fn fails(test: &mut Test, number: u16) {
    look(test, (0, 0), (1, 1), &[number]);
}

/// A service behind the guard: 1 000 requests a second to random users.
struct Story {
    test: Test,
    rng: Rng,
    /// NEW's share of the requests.
    share: f64,
}

impl Story {
    fn with(share: f64) -> Self {
        let mut test = Test::new(&limits());
        test.expect_old();
        Self { test, rng: Rng::with_seed(7), share }
    }

    /// One request after the other, with these shares bad; whether it was settled at any time.
    fn sees(&mut self, requests: usize, old: f64, new: f64) -> bool {
        (0..requests).fold(false, |settled, _| {
            let (on_new, dice) = (self.rng.f64() < self.share, self.rng.f64());
            let number = self.rng.u16(..BUCKETS);
            match on_new {
                true => look(&mut self.test, (0, 0), (1, u64::from(dice < new)), &[number]),
                false => look(&mut self.test, (1, u64::from(dice < old)), (0, 0), &[]),
            }
            settled || self.test.is_settled()
        })
    }
}

const SHARES: [f64; 5] = [0.01, 0.05, 0.5, 0.9, 0.99];

#[test]
fn a_new_that_always_fails_is_settled_after_five() {
    let mut test = Test::new(&limits());
    for number in 0..5 {
        assert!(!test.is_settled(), "after {number}");
        assert_eq!(test.account().failures_to_settle, Some(5 - u32::from(number)));
        fails(&mut test, number);
    }
    assert!(test.is_settled());
    assert_eq!(test.account().failures_to_settle, Some(0));
    assert_eq!(test.account().relative, None, "OLD has no traffic");
}

#[test]
fn a_new_that_is_worse_than_old_is_found_at_every_share() {
    for (share, bad, within) in
        [(0.01, 1.0, 1_000), (0.05, 0.5, 1_000), (0.5, 0.2, 400), (0.9, 0.2, 4_000), (0.99, 1.0, 2_000)]
    {
        let mut story = Story::with(share);
        assert!(!story.sees(20_000, 0.002, 0.002), "healthy, {share}");
        assert!(story.sees(within, 0.002, bad), "{bad} bad, {share}");
    }
}

#[test]
fn both_sides_healthy_or_equally_bad_settle_nothing() {
    for share in SHARES {
        for bad in [0.0, 0.001, 0.009, 0.05, 0.3, 1.0] {
            let mut story = Story::with(share);
            assert!(!story.sees(5_000, 0.001, 0.001), "healthy, {share}");
            assert!(!story.sees(30_000, bad, bad), "{bad} bad, {share}");
            assert!(!story.sees(5_000, 0.001, 0.001), "healthy again, {share}");
        }
    }
}

#[test]
fn a_new_that_is_better_than_a_bad_old_settles_nothing() {
    for share in SHARES {
        assert!(!Story::with(share).sees(30_000, 0.5, 0.3), "{share}");
    }
}

#[test]
fn an_outage_of_both_asks_for_more_than_a_healthy_old() {
    let mut story = Story::with(0.5);
    story.sees(5_000, 0.001, 0.001);
    assert_eq!(story.test.account().relative_needed, 4.0);
    story.sees(1_000, 0.3, 0.3);
    assert_eq!(story.test.account().relative_needed, 8.0);
    assert!(story.test.account().absolute >= 8.0, "far above the tolerance");
}

#[test]
fn one_client_that_hammers_on_a_broken_call_settles_nothing() {
    for (min_distinct, base) in [(2, 0.0), (3, 0.0), (3, 0.009), (10, 0.009)] {
        let mut test = Test::new(&Limits { min_distinct, ..limits() });
        let mut rng = Rng::with_seed(7);
        for round in 0..20_000 {
            fails(&mut test, 77);
            let bad = u64::from(rng.f64() < base);
            look(&mut test, (0, 0), (1, bad), &[rng.u16(100..BUCKETS)]);
            assert!(!test.is_settled(), "{min_distinct}, {base}, round {round}");
        }
    }
}

#[test]
fn enough_buckets_have_to_be_hurt() {
    for (min_distinct, users, settled) in
        [(1, 1, true), (2, 1, false), (2, 2, true), (3, 2, false), (3, 3, true), (10, 9, false), (10, 10, true)]
    {
        let mut test = Test::new(&Limits { min_distinct, ..limits() });
        (0..200).for_each(|at| fails(&mut test, at % users));
        assert_eq!(test.is_settled(), settled, "{users} of {min_distinct}");
        assert_eq!(test.account().distinct, usize::from(users));
    }
    let mut test = Test::new(&Limits { min_distinct: usize::MAX, ..limits() });
    (0..64).for_each(|number| fails(&mut test, number));
    assert!(test.is_settled(), "more than 64 are not told apart");
}

#[test]
fn a_bad_request_of_an_unknown_user_counts_for_nothing() {
    let mut test = Test::new(&limits());
    look(&mut test, (0, 0), (1_000, 1_000), &[]);
    look(&mut test, (0, 0), (7, 0), &[1, 2, 3]);
    let account = test.account();
    assert_eq!((account.absolute, account.distinct), (0.0, 0));
}

#[test]
fn many_buckets_share_the_places_there_are() {
    let mut spread = Spread::new(3);
    for round in 0..200 {
        assert!((0..100).all(|number| spread.admits(bucket(number))), "round {round}: all are hurt alike");
    }
    let hammered = (0..100_000).filter(|_| spread.admits(bucket(5_000))).count();
    assert!(hammered <= 2, "{hammered}");
}

#[test]
fn after_a_switch_of_a_healthy_new_to_everybody_old_is_not_waited_for() {
    let mut story = Story::with(0.05);
    story.sees(20_000, 0.001, 0.001);
    story.test.split_changed();
    (0..7).for_each(|number| fails(&mut story.test, number));
    assert!(story.test.is_settled());
}

#[test]
fn a_change_of_the_split_in_an_outage_of_both_settles_nothing() {
    for (before, after) in [(0.05, 0.25), (0.25, 0.9), (0.9, 0.01)] {
        let mut story = Story::with(before);
        story.sees(5_000, 0.001, 0.001);
        story.sees(5_000, 0.5, 0.5);
        story.test.split_changed();
        story.share = after;
        assert!(!story.sees(20_000, 0.5, 0.5), "{before} to {after}");
    }
}

#[test]
fn an_old_that_has_a_share_is_waited_for_a_little_after_a_start() {
    let mut test = Test::new(&limits());
    test.expect_old();
    (0..9).for_each(|number| fails(&mut test, number));
    assert!(!test.is_settled(), "it may be an outage of both");
    test.look(&Batch { elapsed: Duration::from_secs(4), ..Batch::default() });
    assert!(test.is_settled(), "nothing was heard of it");
}

#[test]
fn an_old_that_has_fallen_silent_is_not_waited_for_for_ever() {
    let mut story = Story::with(0.5);
    story.sees(1_000, 0.0, 0.0);
    assert!(story.test.account().relative.is_some());
    story.test.look(&Batch { elapsed: Duration::from_secs(300), ..Batch::default() });
    assert_eq!(story.test.account().relative, None);
    look(&mut story.test, (1, 0), (0, 0), &[]);
    assert!(story.test.account().relative.is_some(), "it is heard of again");
}

#[test]
fn a_run_ends_where_the_evidence_is_gone() {
    let mut test = Test::new(&limits());
    look(&mut test, (9, 1), (2, 2), &[1, 2]);
    let account = test.account();
    assert_eq!((account.new, account.old, account.distinct), (counted(2, 2), counted(9, 1), 2));
    look(&mut test, (0, 0), (1_000, 0), &[]);
    let account = test.account();
    assert_eq!((account.new, account.old, account.distinct), (counted(0, 0), counted(0, 0), 0));
    assert_eq!(account.absolute, 0.0);
}

#[test]
fn a_new_that_got_well_is_believed_again() {
    let mut test = Test::new(&limits());
    (0..BUCKETS).for_each(|number| fails(&mut test, number));
    assert!(test.is_settled());
    look(&mut test, (0, 0), (3_000, 0), &[]);
    assert!(!test.is_settled());
}

#[test]
fn requests_to_see_falls_with_the_share_and_says_never_near_the_tolerance() {
    for (share, requests) in [(1.0, 5), (0.5, 13), (0.05, 516), (0.02, 5_205), (0.01, u64::MAX), (0.0, u64::MAX)] {
        assert_eq!(requests_to_see(&limits(), share), requests, "{share}");
    }
}

#[test]
fn hurt_buckets_count_once() {
    let mut hurt = Hurt::default();
    for number in [0, 63, 64, 9_999, 64, 0] {
        hurt.add(bucket(number));
    }
    assert_eq!(hurt.count(), 4);
    (0..BUCKETS).for_each(|number| hurt.add(bucket(number)));
    assert_eq!(hurt.count(), usize::from(BUCKETS));
}

/// One request, by side and outcome, with π known exactly or between bounds.
fn one(new: bool, bad: bool, share: Bounds) -> Seen {
    let counted = counted(1, u64::from(bad));
    let (new, old) = if new { (counted, Counted::default()) } else { (Counted::default(), counted) };
    Seen { new, old, share }
}

/// The expectation of a bet's value after as many requests as there are pairs of shares bad (on OLD, on NEW).
fn expected(bet: Bet, pi: f64, bounds: Bounds, shares: &[(f64, f64)]) -> f64 {
    let Some(((old, new), later)) = shares.split_first() else { return 1.0 };
    let outcomes = [(true, true), (true, false), (false, true), (false, false)];
    outcomes
        .iter()
        .map(|(on_new, bad)| {
            let (side, share) = if *on_new { (pi, new) } else { (1.0 - pi, old) };
            let chance = side * if *bad { *share } else { 1.0 - share };
            chance * bet.gain(&one(*on_new, *bad, bounds)).exp() * expected(bet, pi, bounds, later)
        })
        .sum()
}

/// The expectation of the absolute evidence after `requests` at exactly the tolerance.
fn expected_absolute(test: &Absolute, requests: u32) -> f64 {
    if requests == 0 {
        return test.evidence().exp();
    }
    let after = |bad: u64| {
        let mut test = test.clone();
        test.look(counted(1, bad));
        expected_absolute(&test, requests - 1)
    };
    limits().tolerance * after(1) + (1.0 - limits().tolerance) * after(0)
}

#[test]
fn the_absolute_evidence_at_the_tolerance_is_at_most_the_number_of_requests() {
    let test = Absolute::new(&limits());
    for requests in 1..=12 {
        let expected = expected_absolute(&test, requests);
        assert!(expected <= f64::from(requests) + 1e-9, "{expected} after {requests}");
    }
}

fn small() -> impl Strategy<Value = f64> {
    prop_oneof![Just(0.0), Just(1.0), 0.0..1.0]
}

prop_compose! {
    fn any_limits()(tolerance in 1e-4..0.499, decades in 2.0..15.0, min_distinct in 1usize..80) -> Limits {
        Limits { tolerance, one_false_trip_in: 10f64.powf(decades), min_distinct }
    }
}

prop_compose! {
    fn any_counted()(requests in prop_oneof![0u64..5, 0u64..10_000, Just(u64::MAX)], part in 0.0..=1.0) -> Counted {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part of a count; `as` saturates")]
        let bad = ((float(requests) * part) as u64).min(requests);
        Counted { requests, bad }
    }
}

/// Old, new, buckets and milliseconds.
type Piece = (Counted, Counted, Vec<u16>, u64);

fn any_piece() -> impl Strategy<Value = Piece> {
    let elapsed = prop_oneof![Just(0), 1..2_000u64, Just(u64::MAX / 1_000_000)];
    (any_counted(), any_counted(), prop::collection::vec(0..BUCKETS, 0..20), elapsed)
}

proptest! {
    #[test]
    fn a_bet_wins_nothing_if_both_sides_are_alike(
        pi in small(), old in 1e-4..0.65, excess in 1e-4..0.998, shares in prop::collection::vec(small(), 1..5)
    ) {
        let exact = Bounds { low: pi, high: pi };
        let alike: Vec<_> = shares.iter().map(|share| (*share, *share)).collect();
        let expected = expected(Bet::against(old, excess), pi, exact, &alike);
        prop_assert!((expected - 1.0).abs() < 1e-9, "{}", expected);
    }

    #[test]
    fn a_bet_loses_if_new_is_better_or_the_share_is_between_bounds(
        pi in small(), below in 0.0..=1.0, above in 0.0..=1.0, old in 1e-4..0.65, excess in 1e-4..0.998,
        shares in prop::collection::vec((small(), 0.0..=1.0), 1..5),
    ) {
        let bounds = Bounds { low: pi * below, high: pi + (1.0 - pi) * above };
        let better: Vec<_> = shares.iter().map(|(share, part)| (*share, share * part)).collect();
        let expected = expected(Bet::against(old, excess), pi, bounds, &better);
        prop_assert!(expected <= 1.0 + 1e-9, "{}", expected);
    }

    /// Holds for the absolute part if everybody is admitted and no bet is at its upper limit: more ends
    /// of batches are more places to start again. (What is known of π and of OLD differs with the
    /// cuts, so it does not hold for the relative part.)
    #[test]
    fn cutting_a_batch_never_weakens_the_absolute_evidence(
        pieces in prop::collection::vec((0u64..50, 0u64..3), 1..30), cuts in prop::collection::vec(any::<bool>(), 30)
    ) {
        let limits = Limits { min_distinct: 1, one_false_trip_in: 1e200, ..limits() };
        let (mut fine, mut coarse) = (Test::new(&limits), Test::new(&limits));
        let mut held = (0, 0);
        for ((good, bad), cut) in pieces.into_iter().zip(cuts) {
            look(&mut fine, (0, 0), (good + bad, bad), &vec![1; usize::try_from(bad).unwrap()]);
            held = (held.0 + good + bad, held.1 + bad);
            if cut {
                look(&mut coarse, (0, 0), held, &vec![1; usize::try_from(held.1).unwrap()]);
                held = (0, 0);
                prop_assert!(fine.absolute.evidence() >= coarse.absolute.evidence() - 1e-9);
            }
        }
    }

    #[test]
    fn whatever_happens_the_account_is_made_of_numbers(
        limits in any_limits(), pieces in prop::collection::vec((any_piece(), any::<bool>()), 1..20)
    ) {
        let mut test = Test::new(&limits);
        for ((old, new, numbers, millis), changed) in pieces {
            let buckets: Vec<Bucket> = numbers.into_iter().map(bucket).collect();
            test.look(&Batch { old, new, buckets: &buckets, elapsed: Duration::from_millis(millis) });
            if changed {
                test.split_changed();
            }
            let evidence = [test.absolute.evidence(), test.relative.evidence(), test.relative_needed()];
            prop_assert!(evidence.iter().all(|log| log.is_finite()), "{:?}", evidence);
        }
        let account = test.account();
        prop_assert!(account.absolute >= 0.0 && account.absolute.is_finite());
        prop_assert!(account.relative.is_none_or(|log| log >= 0.0 && log.is_finite()));
        prop_assert!(account.relative_needed <= account.absolute_needed.max(4.0) + 1e-9);
    }

    #[test]
    fn so_many_failures_settle_it_and_one_fewer_does_not(
        limits in any_limits(), old_per_new in 0u64..30, seconds in 1u64..40, numbers in prop::collection::vec(0..99u16, 0..9)
    ) {
        let mut test = Test::new(&limits);
        for _ in 0..seconds {
            let new = counted(10, 0);
            test.look(&Batch { new, old: counted(10 * old_per_new, 0), buckets: &[], elapsed: Duration::from_secs(1) });
        }
        numbers.iter().for_each(|number| look(&mut test, (old_per_new, 0), (1, 1), &[*number]));
        let Some(failures) = test.account().failures_to_settle else { return Ok(()) };
        for number in 0..failures {
            prop_assert!(!test.is_settled(), "after {} of {}", number, failures);
            let fresh = bucket(u16::try_from(100 + number).unwrap());
            let (old, new) = (counted(old_per_new, 0), counted(1, 1));
            test.look(&Batch { old, new, buckets: &[fresh], elapsed: Duration::ZERO });
        }
        prop_assert!(test.is_settled(), "after {}", failures);
    }

    #[test]
    fn requests_to_see_is_monotone(limits in any_limits(), low in 0.0..=1.0, high in 0.0..=1.0) {
        let (low, high) = if low < high { (low, high) } else { (high, low) };
        prop_assert!(requests_to_see(&limits, low) >= requests_to_see(&limits, high));
        prop_assert!(requests_to_see(&limits, 2.0 * limits.tolerance) < u64::MAX);
    }
}
