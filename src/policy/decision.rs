//! Which side answers a request, and why.
//!
//! The road is a fixed list of gates; the first one that answers wins. [`decide`] walks it until there is an answer,
//! [`road`] walks all of it for `tidegate explain`.

use std::collections::HashSet;
use std::sync::Arc;

use super::bucket::{Bucket, Hash, Percent};

/// One of the two versions of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The version that is known to work.
    Old,
    /// The version that is being rolled out.
    New,
}

impl Side {
    /// Both sides, OLD first: the order of every table and array that is indexed by [`Side::index`].
    pub const ALL: [Self; 2] = [Self::Old, Self::New];

    /// The name in headers, metrics and config: `old` or `new`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Old => "old",
            Self::New => "new",
        }
    }

    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Old => Self::New,
            Self::New => Self::Old,
        }
    }

    /// Its place in [`Side::ALL`].
    #[must_use]
    pub fn index(self) -> usize {
        self as usize
    }
}

/// Why a request went where it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The rollout is rolled back: everybody is on OLD.
    Rollback,
    /// The other side is being emptied.
    Drain,
    /// A tester who is allowed to asked for a side.
    Force,
    /// A rule names this key.
    Rule,
    /// The key's bucket against the effective percent.
    Bucket,
    /// There was no key; `on_missing` decided.
    MissingKey,
    /// The side that was decided on has no endpoint that is fit, and the other one stands in for it: see [`fall_back`].
    Fallback,
}

impl Reason {
    /// All reasons, in the order of the road; the one that is no gate of it comes last.
    pub const ALL: [Self; 7] =
        [Self::Rollback, Self::Drain, Self::Force, Self::Rule, Self::Bucket, Self::MissingKey, Self::Fallback];

    /// The name in headers, metrics and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rollback => "rollback",
            Self::Drain => "drain",
            Self::Force => "force",
            Self::Rule => "rule",
            Self::Bucket => "bucket",
            Self::MissingKey => "missing_key",
            Self::Fallback => "fallback",
        }
    }

    /// Its place in [`Reason::ALL`].
    #[must_use]
    pub fn index(self) -> usize {
        self as usize
    }
}

/// A side, and the reason for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The side that answers.
    pub side: Side,
    /// The gate that said so.
    pub reason: Reason,
}

/// What happens to a request without a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum OnMissing {
    /// OLD answers it.
    #[default]
    Old,
    /// NEW answers it.
    New,
    /// A fresh random bucket for each request: the share is right, but nothing is sticky.
    Random,
    /// The bucket of an anonymous id, kept in a cookie that is set when it is missing.
    Cookie,
}

impl OnMissing {
    /// The name in the config.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Old => "old",
            Self::New => "new",
            Self::Random => "random",
            Self::Cookie => "cookie",
        }
    }
}

/// Keys that always go to one side, whatever the percent.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The keys, trimmed, as they arrive.
    pub keys: HashSet<Box<[u8]>>,
    /// Where they go.
    pub side: Side,
}

/// How one rollout splits its requests: what is in force, not what anybody asked for.
#[derive(Clone, Debug, Default)]
pub struct Split {
    /// Everybody is on OLD until this is lifted.
    pub rollback: bool,
    /// The side that gets no new work.
    pub drained: Option<Side>,
    /// The effective share of buckets on NEW.
    pub percent: Percent,
    /// How a key becomes a bucket.
    pub hash: Hash,
    /// Exceptions, first match wins. Shared, since each change makes a split anew.
    pub rules: Arc<[Rule]>,
    /// What happens to requests without a key.
    pub on_missing: OnMissing,
}

/// What the decision wants to know of a request.
pub trait Subject {
    /// The side that a tester asked for, if this tester is allowed to.
    fn forced(&self) -> Option<Side>;
    /// What makes the request sticky: trimmed and not empty.
    fn key(&self) -> Option<&[u8]>;
    /// The key's salted 64-bit digest.
    fn digest(&self, key: &[u8]) -> u64;
    /// The bucket that stands in for a missing key, under [`OnMissing::Random`] and [`OnMissing::Cookie`].
    fn stand_in(&self) -> Bucket;
}

type Gate<S> = fn(&Split, &S) -> Option<Side>;

/// The road: every gate with the reason it gives, in order. The last one always answers.
fn gates<S: Subject>() -> [(Reason, Gate<S>); 6] {
    [
        (Reason::Rollback, rollback),
        (Reason::Drain, drain),
        (Reason::Force, force),
        (Reason::Rule, rule),
        (Reason::Bucket, bucket),
        (Reason::MissingKey, missing_key),
    ]
}

/// The side that answers `subject`, and why. Allocates nothing.
#[must_use]
pub fn decide<S: Subject>(split: &Split, subject: &S) -> Decision {
    gates()
        .into_iter()
        .find_map(|(reason, gate)| gate(split, subject).map(|side| Decision { side, reason }))
        .expect("the last gate answers every request")
}

/// What each gate would say, in order, also behind the one that decided.
#[must_use]
pub fn road<S: Subject>(split: &Split, subject: &S) -> [(Reason, Option<Side>); 6] {
    gates().map(|(reason, gate)| (reason, gate(split, subject)))
}

/// What happens to requests whose side has no endpoint that is fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Fallback {
    /// They are turned away.
    #[default]
    None,
    /// The other side answers them, if [it may](fall_back).
    OtherSide,
}

/// The decision in place of `decision`, whose side has no endpoint that is fit; `None` if the other side may not stand in for it.
///
/// A tester is to see the side that was asked for, and what nobody may be sent to gets nobody in this way either: not NEW while
/// it is rolled back, while it is drained or while its share is nothing, and nobody whom a rule keeps on OLD.
#[must_use]
pub fn fall_back(split: &Split, decision: Decision) -> Option<Decision> {
    let side = decision.side.other();
    let may_leave = match decision.reason {
        Reason::Rollback | Reason::Drain | Reason::Force | Reason::Fallback => false,
        Reason::Rule => side == Side::Old,
        Reason::Bucket | Reason::MissingKey => true,
    };
    let takes_in = split.drained != Some(side)
        && match side {
            Side::Old => true,
            Side::New => !split.rollback && split.percent > Percent::ZERO,
        };
    (may_leave && takes_in).then_some(Decision { side, reason: Reason::Fallback })
}

/// The user's bucket: the key's, or the one that stands in for it. `None` if nothing tells this user from others.
#[must_use]
pub fn bucket_of<S: Subject>(split: &Split, subject: &S) -> Option<Bucket> {
    match (subject.key(), split.on_missing) {
        (Some(key), _) => Some(Bucket::of_key(key, split.hash, || subject.digest(key))),
        (None, OnMissing::Random | OnMissing::Cookie) => Some(subject.stand_in()),
        (None, OnMissing::Old | OnMissing::New) => None,
    }
}

fn rollback<S: Subject>(split: &Split, _: &S) -> Option<Side> {
    split.rollback.then_some(Side::Old)
}

fn drain<S: Subject>(split: &Split, _: &S) -> Option<Side> {
    split.drained.map(Side::other)
}

fn force<S: Subject>(_: &Split, subject: &S) -> Option<Side> {
    subject.forced()
}

fn rule<S: Subject>(split: &Split, subject: &S) -> Option<Side> {
    if split.rules.is_empty() {
        return None;
    }
    let key = subject.key()?;
    split.rules.iter().find(|rule| rule.keys.contains(key)).map(|rule| rule.side)
}

fn bucket<S: Subject>(split: &Split, subject: &S) -> Option<Side> {
    let key = subject.key()?;
    Some(line(split, Bucket::of_key(key, split.hash, || subject.digest(key))))
}

fn missing_key<S: Subject>(split: &Split, subject: &S) -> Option<Side> {
    Some(match split.on_missing {
        OnMissing::Old => Side::Old,
        OnMissing::New => Side::New,
        OnMissing::Random | OnMissing::Cookie => line(split, subject.stand_in()),
    })
}

fn line(split: &Split, bucket: Bucket) -> Side {
    if split.percent.covers(bucket) { Side::New } else { Side::Old }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug, Default)]
    struct Request {
        forced: Option<Side>,
        key: Option<Vec<u8>>,
        stand_in: u64,
    }

    impl Subject for Request {
        fn forced(&self) -> Option<Side> {
            self.forced
        }
        fn key(&self) -> Option<&[u8]> {
            self.key.as_deref()
        }
        fn digest(&self, key: &[u8]) -> u64 {
            key.iter().fold(0, |sum, b| sum * 31 + u64::from(*b))
        }
        fn stand_in(&self) -> Bucket {
            Bucket::of_digest(self.stand_in)
        }
    }

    fn user(id: &str) -> Request {
        Request { key: Some(id.into()), ..Request::default() }
    }

    fn split(percent: u16) -> Split {
        Split { percent: Percent::from_hundredths(percent * 100).unwrap(), ..Split::default() }
    }

    fn vip(keys: &[&str], side: Side) -> Rule {
        Rule { keys: keys.iter().map(|key| Box::from(key.as_bytes())).collect(), side }
    }

    fn told(split: &Split, request: &Request) -> (Side, Reason) {
        let Decision { side, reason } = decide(split, request);
        (side, reason)
    }

    #[test]
    fn the_bucket_decides_when_nothing_else_does() {
        assert_eq!(told(&split(5), &user("1004")), (Side::New, Reason::Bucket));
        assert_eq!(told(&split(5), &user("1005")), (Side::Old, Reason::Bucket));
    }

    #[test]
    fn a_rule_beats_the_bucket_and_the_first_rule_wins() {
        let split = Split { rules: [vip(&["7"], Side::New), vip(&["7", "8"], Side::Old)].into(), ..split(0) };
        assert_eq!(told(&split, &user("7")), (Side::New, Reason::Rule));
        assert_eq!(told(&split, &user("8")), (Side::Old, Reason::Rule));
        assert_eq!(told(&split, &user("9")), (Side::Old, Reason::Bucket));
    }

    #[test]
    fn a_tester_beats_the_rules() {
        let split = Split { rules: [vip(&["7"], Side::Old)].into(), ..split(0) };
        let tester = Request { forced: Some(Side::New), ..user("7") };
        assert_eq!(told(&split, &tester), (Side::New, Reason::Force));
    }

    #[test]
    fn a_missing_key_follows_on_missing() {
        for (on_missing, stand_in, side) in [
            (OnMissing::Old, 0, Side::Old),
            (OnMissing::New, u64::MAX, Side::New),
            (OnMissing::Random, 0, Side::New),
            (OnMissing::Cookie, u64::MAX, Side::Old),
        ] {
            let split = Split { on_missing, ..split(50) };
            let request = Request { stand_in, ..Request::default() };
            assert_eq!(told(&split, &request), (side, Reason::MissingKey), "{on_missing:?}");
        }
    }

    #[test]
    fn a_drained_side_gets_nobody_and_a_rollback_beats_it() {
        let draining = Split { drained: Some(Side::Old), ..split(0) };
        assert_eq!(told(&draining, &user("1")), (Side::New, Reason::Drain));
        let rolled_back = Split { rollback: true, ..draining };
        assert_eq!(told(&rolled_back, &user("1")), (Side::Old, Reason::Rollback));
    }

    #[test]
    fn who_may_be_answered_by_the_other_side() {
        let drained = |side| Split { drained: Some(side), ..split(50) };
        let rolled_back = Split { rollback: true, ..split(50) };
        for (split, side, reason, falls_back) in [
            (split(50), Side::New, Reason::Bucket, true),
            (split(50), Side::Old, Reason::Bucket, true),
            (split(50), Side::Old, Reason::MissingKey, true),
            (split(50), Side::New, Reason::Rule, true),
            (split(50), Side::Old, Reason::Rule, false),
            (split(50), Side::New, Reason::Force, false),
            (split(50), Side::Old, Reason::Force, false),
            (split(0), Side::Old, Reason::Bucket, false),
            (split(0), Side::New, Reason::Rule, true),
            (split(100), Side::New, Reason::Bucket, true),
            (rolled_back, Side::Old, Reason::Rollback, false),
            (drained(Side::New), Side::Old, Reason::Drain, false),
            (drained(Side::Old), Side::New, Reason::Drain, false),
            (drained(Side::Old), Side::New, Reason::Force, false),
        ] {
            let decided = Decision { side, reason };
            let expected = falls_back.then_some(Decision { side: side.other(), reason: Reason::Fallback });
            assert_eq!(fall_back(&split, decided), expected, "{decided:?}");
        }
    }

    proptest! {
        #[test]
        fn nobody_falls_back_to_where_nobody_may_be(
            drained in proptest::option::of(any::<bool>()),
            rollback in any::<bool>(),
            percent in 0u16..=100,
            reason in 0..Reason::ALL.len(),
            on_new in any::<bool>(),
        ) {
            let side = |is_new| if is_new { Side::New } else { Side::Old };
            let split = Split { rollback, drained: drained.map(side), ..split(percent) };
            let decided = Decision { side: side(on_new), reason: Reason::ALL[reason] };
            if let Some(Decision { side, reason }) = fall_back(&split, decided) {
                prop_assert_eq!(reason, Reason::Fallback);
                prop_assert_eq!(side, decided.side.other());
                prop_assert!(split.drained != Some(side));
                prop_assert!(side == Side::Old || (!rollback && percent > 0));
            }
        }

        #[test]
        fn a_rolled_back_rollout_sends_nobody_to_new(
            key in proptest::option::of("[0-9a-z]{1,12}"),
            forced in any::<bool>(),
            stand_in in any::<u64>(),
            percent in 0u16..=100,
        ) {
            let split = Split { rollback: true, on_missing: OnMissing::New, rules: [vip(&["1"], Side::New)].into(), ..split(percent) };
            let request = Request { forced: forced.then_some(Side::New), key: key.map(String::into_bytes), stand_in };
            prop_assert_eq!(told(&split, &request), (Side::Old, Reason::Rollback));
        }

        #[test]
        fn the_road_and_the_decision_agree(id in any::<u32>(), percent in 0u16..=100, rolled_back in any::<bool>()) {
            let split = Split { rollback: rolled_back, ..split(percent) };
            let request = user(&id.to_string());
            let first = road(&split, &request).into_iter().find_map(|(reason, side)| side.map(|side| (side, reason)));
            prop_assert_eq!(first, Some(told(&split, &request)));
        }
    }
}
