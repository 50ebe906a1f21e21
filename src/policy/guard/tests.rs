//! What the guard may never do, and what it has to.

use super::*;

fn limits() -> Limits {
    Limits { tolerance: 0.01, one_false_trip_in: 1e8, min_distinct: 3 }
}

fn fails(test: &mut Test, number: u16) {
    let new = Counted { requests: 1, bad: 1 };
    let buckets = [Bucket::from_number(number).unwrap()];
    test.look(&Batch { new, buckets: &buckets, elapsed: Duration::from_millis(1), ..Batch::default() });
}

#[test]
fn a_new_that_always_fails_is_settled_after_five() {
    let mut test = Test::new(&limits());
    for number in 0..5 {
        assert!(!test.is_settled(), "after {number}");
        assert_eq!(test.account().failures_to_settle, Some(5 - u32::from(number)));
        fails(&mut test, number);
    }
    assert!(test.is_settled());
}
