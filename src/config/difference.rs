//! Which keys of a file are not what they were.

use std::collections::BTreeSet;

use serde_json::Value;

/// Keys that are named; of more their number is told.
const NAMED: usize = 8;

/// The keys by which `after` differs from `before`, by their paths, in words; `None` if there are none.
#[must_use]
pub fn changed_keys(before: &Value, after: &Value) -> Option<String> {
    let mut paths = Vec::new();
    compare(String::new(), Some(before), Some(after), &mut paths);
    let more = paths.len().saturating_sub(NAMED);
    let named = paths.get(..NAMED).unwrap_or(&paths).join(", ");
    match (paths.len(), more) {
        (0, _) => None,
        (_, 0) => Some(named),
        (_, more) => Some(format!("{named} and {more} more")),
    }
}

fn compare(path: String, before: Option<&Value>, after: Option<&Value>, found: &mut Vec<String>) {
    match (before, after) {
        (Some(Value::Object(before)), Some(Value::Object(after))) => {
            for key in before.keys().chain(after.keys()).collect::<BTreeSet<_>>() {
                let below = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                compare(below, before.get(key), after.get(key), found);
            }
        }
        (Some(Value::Array(before)), Some(Value::Array(after))) if before.len() == after.len() => {
            for (at, (before, after)) in before.iter().zip(after).enumerate() {
                compare(format!("{path}[{at}]"), Some(before), Some(after), found);
            }
        }
        (before, after) if before != after => found.push(path),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_differs_is_named_by_its_path() {
        let before = json!({"rollout": {"key": "header:a", "new": "x", "percent": 5}, "routes": [{"a": 1}, {"a": 2}]});
        for (after, told) in [
            (before.clone(), None),
            (
                json!({"rollout": {"key": "header:b", "new": "y", "percent": 5}, "routes": [{"a": 1}, {"a": 2}]}),
                Some("rollout.key, rollout.new"),
            ),
            (
                json!({"rollout": {"key": "header:a", "new": "x"}, "routes": [{"a": 1}, {"a": 3}], "workers": 2}),
                Some("rollout.percent, routes[1].a, workers"),
            ),
            (json!({"rollout": before["rollout"], "routes": []}), Some("routes")),
        ] {
            assert_eq!(changed_keys(&before, &after).as_deref(), told);
        }
        let many: Value = (0..10).map(|at| (format!("k{at}"), json!(at))).collect::<serde_json::Map<_, _>>().into();
        assert!(changed_keys(&json!({}), &many).unwrap().ends_with("k7 and 2 more"));
    }
}
