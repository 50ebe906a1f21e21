//! What a query says about NEW: a condition over what it gives, and a verdict when that was bad often enough in a row.

use std::fmt;
use std::str::FromStr;

use super::rollout::{Cause, Verdict};

/// How a value stands to a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Above,
    AtLeast,
    Below,
    AtMost,
    Equal,
    Unequal,
}

impl Comparison {
    /// All of them as they are written; what begins like another one comes first.
    const WRITTEN: [(&str, Self); 6] = [
        (">=", Self::AtLeast),
        (">", Self::Above),
        ("<=", Self::AtMost),
        ("<", Self::Below),
        ("==", Self::Equal),
        ("!=", Self::Unequal),
    ];
}

/// When a value is bad: `> 0.5`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Condition {
    comparison: Comparison,
    /// A finite number.
    bound: f64,
}

/// It is not a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidCondition;

impl fmt::Display for InvalidCondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not one of > >= < <= == != and a number")
    }
}

impl std::error::Error for InvalidCondition {}

impl FromStr for Condition {
    type Err = InvalidCondition;

    fn from_str(text: &str) -> Result<Self, InvalidCondition> {
        let text = text.trim();
        let (comparison, rest) = Comparison::WRITTEN
            .iter()
            .find_map(|(written, comparison)| Some((*comparison, text.strip_prefix(written)?)))
            .ok_or(InvalidCondition)?;
        let bound: f64 = rest.trim().parse().map_err(|_| InvalidCondition)?;
        bound.is_finite().then_some(Self { comparison, bound }).ok_or(InvalidCondition)
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_ours = |(_, comparison): &&(&str, Comparison)| *comparison == self.comparison;
        let written = Comparison::WRITTEN.iter().find(is_ours).map_or("", |(written, _)| written);
        write!(f, "{written} {}", Shown(self.bound))
    }
}

impl Condition {
    /// Whether `value` is bad. What is not a number never is.
    #[must_use]
    pub fn holds(&self, value: f64) -> bool {
        match self.comparison {
            Comparison::Above => value > self.bound,
            Comparison::AtLeast => value >= self.bound,
            Comparison::Below => value < self.bound,
            Comparison::AtMost => value <= self.bound,
            Comparison::Equal => value == self.bound,
            Comparison::Unequal => !value.is_nan() && value != self.bound,
        }
    }

    /// What `samples` say: bad if one of them is, good if none of them is, and nothing if none is a number.
    #[must_use]
    pub fn judge(&self, samples: &[f64]) -> Answer {
        let numbers: Vec<f64> = samples.iter().copied().filter(|sample| !sample.is_nan()).collect();
        match self.worst(&numbers) {
            Some(worst) if self.holds(worst) => Answer::Bad(worst),
            Some(worst) => Answer::Good(worst),
            None if samples.is_empty() => Answer::NoData("the query gives no sample".to_owned()),
            None => Answer::NoData("the query gives nothing but NaN".to_owned()),
        }
    }

    /// The sample that tells: if any is bad, this one is.
    fn worst(&self, numbers: &[f64]) -> Option<f64> {
        let numbers = numbers.iter().copied();
        match self.comparison {
            Comparison::Above | Comparison::AtLeast => numbers.reduce(f64::max),
            Comparison::Below | Comparison::AtMost => numbers.reduce(f64::min),
            Comparison::Equal | Comparison::Unequal => {
                let bad = numbers.clone().find(|number| self.holds(*number));
                bad.or_else(|| numbers.into_iter().next())
            }
        }
    }
}

/// A number as people read it: whole, and with an exponent only where it would be endless without.
struct Shown(f64);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let written = format!("{:?}", self.0);
        f.write_str(written.strip_suffix(".0").unwrap_or(&written))
    }
}

/// What a query gave.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// No sample is bad; the one that came nearest to it.
    Good(f64),
    /// A sample is bad; the worst.
    Bad(f64),
    /// Nothing to judge by, and why. That is neither good nor bad.
    NoData(String),
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Good(value) | Self::Bad(value) => Shown(*value).fmt(f),
            Self::NoData(why) => write!(f, "no data: {why}"),
        }
    }
}

/// The answers of one query since it began to be asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    name: String,
    bad_if: Condition,
    failures: usize,
    bad_in_a_row: usize,
    last: Option<Answer>,
    found: Option<Verdict>,
}

impl Run {
    /// The query `name`, which says that NEW is bad when `bad_if` held `failures` times in a row; that is at least 1.
    #[must_use]
    pub fn new(name: &str, bad_if: Condition, failures: usize) -> Self {
        Self { name: name.to_owned(), bad_if, failures, bad_in_a_row: 0, last: None, found: None }
    }

    /// Takes the next answer. A verdict is given once, until a good answer has come; no data neither adds to what was bad in a
    /// row nor ends it.
    pub fn observe(&mut self, answer: Answer) -> Option<Verdict> {
        let before = self.bad_in_a_row;
        match &answer {
            Answer::Good(_) => (self.bad_in_a_row, self.found) = (0, None),
            Answer::Bad(_) => self.bad_in_a_row = before.saturating_add(1),
            Answer::NoData(_) => {}
        }
        let is_enough = before < self.failures && self.bad_in_a_row >= self.failures;
        let verdict = is_enough.then(|| self.verdict(&answer));
        self.last = Some(answer);
        self.found = verdict.clone().or_else(|| self.found.take());
        verdict
    }

    fn verdict(&self, answer: &Answer) -> Verdict {
        let Self { name, bad_if, failures, .. } = self;
        let times = if *failures > 1 { format!(" {failures} times in a row") } else { String::new() };
        Verdict { cause: Cause::Query, reason: format!("query {name} gave {answer} (bad if {bad_if}){times}") }
    }

    /// What it is called.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// When a value is bad.
    #[must_use]
    pub fn bad_if(&self) -> Condition {
        self.bad_if
    }

    /// How often in a row is too often.
    #[must_use]
    pub fn failures(&self) -> usize {
        self.failures
    }

    /// How often in a row it was bad by now, times without data aside.
    #[must_use]
    pub fn bad_in_a_row(&self) -> usize {
        self.bad_in_a_row
    }

    /// The latest answer; `None` before the first.
    #[must_use]
    pub fn last(&self) -> Option<&Answer> {
        self.last.as_ref()
    }

    /// Why there is no data now; `None` if there is, and before the first answer.
    #[must_use]
    pub fn no_data(&self) -> Option<&str> {
        match &self.last {
            Some(Answer::NoData(why)) => Some(why),
            _ => None,
        }
    }

    /// What was found and still stands.
    #[must_use]
    pub fn found(&self) -> Option<&Verdict> {
        self.found.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Just, any, prop_assert_eq, prop_oneof, proptest};
    use proptest::strategy::Strategy;

    use super::*;

    const NAN: f64 = f64::NAN;
    const INFINITY: f64 = f64::INFINITY;

    fn condition(written: &str) -> Condition {
        written.parse().unwrap()
    }

    #[test]
    fn a_condition_is_a_comparison_and_a_number() {
        for (written, shown) in [
            ("> 0.5", "> 0.5"),
            (">0.5", "> 0.5"),
            (" >=  3 ", ">= 3"),
            ("< -1", "< -1"),
            ("<=1e3", "<= 1000"),
            ("== 0", "== 0"),
            ("!= 1e300", "!= 1e300"),
        ] {
            assert_eq!(condition(written).to_string(), shown, "{written}");
        }
        for written in ["", "0.5", ">", "= 1", "> a", "> NaN", "< inf", "> 1e999", "> 1 2", "=> 1", "<> 1", "> 50%"] {
            assert_eq!(written.parse::<Condition>(), Err(InvalidCondition), "{written}");
        }
    }

    #[test]
    fn the_worst_sample_tells() {
        let no_sample = || Answer::NoData("the query gives no sample".into());
        let only_nan = || Answer::NoData("the query gives nothing but NaN".into());
        for (written, samples, answer) in [
            ("> 0.5", &[0.1, 0.8, 0.7][..], Answer::Bad(0.8)),
            ("> 0.5", &[0.5, 0.1], Answer::Good(0.5)),
            (">= 0.5", &[0.5, 0.1], Answer::Bad(0.5)),
            ("< 10", &[12.0, 9.0, 3.0], Answer::Bad(3.0)),
            ("< 10", &[10.0, 12.0], Answer::Good(10.0)),
            ("<= 10", &[10.0, 12.0], Answer::Bad(10.0)),
            ("== 0", &[1.0, 0.0], Answer::Bad(0.0)),
            ("== 0", &[1.0, 2.0], Answer::Good(1.0)),
            ("!= 1", &[1.0, 2.0], Answer::Bad(2.0)),
            ("!= 1", &[1.0, 1.0], Answer::Good(1.0)),
            ("> 0.5", &[NAN, 0.8], Answer::Bad(0.8)),
            ("> 0.5", &[0.2, NAN], Answer::Good(0.2)),
            ("!= 1", &[NAN, 1.0], Answer::Good(1.0)),
            ("> 0.5", &[INFINITY], Answer::Bad(INFINITY)),
            ("< 0.5", &[INFINITY], Answer::Good(INFINITY)),
            ("> 0.5", &[], no_sample()),
            ("!= 0", &[], no_sample()),
            ("> 0.5", &[NAN, NAN], only_nan()),
            ("!= 0", &[NAN], only_nan()),
        ] {
            assert_eq!(condition(written).judge(samples), answer, "{written} of {samples:?}");
        }
    }

    fn run(failures: usize) -> Run {
        Run::new("ledger-mismatches", condition("> 0.5"), failures)
    }

    fn no_data() -> Answer {
        Answer::NoData("nobody answers".into())
    }

    #[test]
    fn a_verdict_has_the_numbers() {
        let verdict = |reason: &str| Some(Verdict { cause: Cause::Query, reason: reason.into() });
        let mut thrice = run(3);
        assert_eq!([Answer::Bad(0.7), Answer::Bad(0.9)].map(|answer| thrice.observe(answer)), [None, None]);
        let found = thrice.observe(Answer::Bad(0.8));
        assert_eq!(found, verdict("query ledger-mismatches gave 0.8 (bad if > 0.5) 3 times in a row"));
        assert_eq!(thrice.found(), found.as_ref());
        let found = run(1).observe(Answer::Bad(7.0));
        assert_eq!(found, verdict("query ledger-mismatches gave 7 (bad if > 0.5)"));
    }

    #[test]
    fn no_data_keeps_what_was_bad_in_a_row_and_adds_nothing() {
        let mut run = run(2);
        let given = [Answer::Bad(1.0), no_data(), no_data(), no_data()].map(|answer| run.observe(answer));
        assert_eq!(given, [None, None, None, None]);
        assert_eq!((run.bad_in_a_row(), run.no_data()), (1, Some("nobody answers")));
        assert!(run.observe(Answer::Bad(1.0)).is_some());
        assert!(run.observe(no_data()).is_none() && run.found().is_some(), "what was found still stands");
        assert!(run.observe(Answer::Good(0.0)).is_none() && run.found().is_none());
    }

    fn answers() -> impl Strategy<Value = Vec<Answer>> {
        let answer = prop_oneof![Just(Answer::Good(0.0)), Just(Answer::Bad(1.0)), Just(no_data())];
        proptest::collection::vec(answer, 0..40)
    }

    proptest! {
        /// Without the times that had no data: a verdict comes at each bad answer that is the nth one since a good one.
        #[test]
        fn a_verdict_is_given_once_for_each_time_that_it_is_bad(answers in answers(), failures in 1usize..5) {
            let mut run = run(failures);
            let mut bad = 0;
            for answer in answers {
                bad = match answer {
                    Answer::Good(_) => 0,
                    Answer::Bad(_) => bad + 1,
                    Answer::NoData(_) => bad,
                };
                let is_due = bad == failures && matches!(answer, Answer::Bad(_));
                prop_assert_eq!(run.observe(answer.clone()).is_some(), is_due);
                prop_assert_eq!((run.bad_in_a_row(), run.found().is_some()), (bad, bad >= failures));
                prop_assert_eq!(run.last(), Some(&answer));
            }
        }

        #[test]
        fn one_bad_sample_is_enough_and_what_is_no_number_counts_for_nothing(
            at in 0usize..6,
            bound in -2i8..3,
            samples in proptest::collection::vec(prop_oneof![(-3i8..4).prop_map(f64::from), Just(NAN), any::<f64>()], 0..6),
        ) {
            let condition = condition(&format!("{} {bound}", Comparison::WRITTEN[at].0));
            let numbers = samples.iter().filter(|sample| !sample.is_nan()).count();
            match condition.judge(&samples) {
                Answer::NoData(_) => prop_assert_eq!(numbers, 0),
                Answer::Bad(worst) => prop_assert_eq!((condition.holds(worst), samples.contains(&worst)), (true, true)),
                Answer::Good(_) => {
                    let is_bad = samples.iter().any(|sample| condition.holds(*sample));
                    prop_assert_eq!((is_bad, numbers > 0), (false, true));
                }
            }
        }
    }
}
