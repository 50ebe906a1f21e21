//! What is asked of a Prometheus.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Checker;
use crate::config::document::Place;
use crate::config::error::Complaint;
use crate::config::value::{self, Checked};
use crate::config::{Query, Url, raw};
use crate::policy::query::{Condition, InvalidCondition};

/// Each is a task of its own.
const MOST: usize = 64;
const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);
const NAMES: &str = "a name such as ledger-mismatches";
const URLS: &str = "an http or https URL such as http://127.0.0.1:9090";
const QUERIES: &str = "PromQL, such as sum(rate(ledger_mismatch_total[1m]))";
const CONDITIONS: &str = "one of > >= < <= == != and a number, in quotes: \"> 0.5\"";

impl Checker<'_> {
    /// Those that can be asked.
    pub(super) fn queries(&mut self, place: &Place, written: &[raw::Query]) -> Vec<Query> {
        if written.len() > MOST {
            self.faults.add(place.clone(), Complaint::new(format!("these are more than {MOST} queries")));
            return Vec::new();
        }
        let mut names = BTreeSet::new();
        let mut checked = Vec::new();
        for (at, raw) in written.iter().enumerate() {
            let place = place.item(at);
            if raw.name.as_ref().is_some_and(|name| !names.insert(name)) {
                let complaint = Complaint::new("another query of this rollout has the same name");
                self.faults.add(place.key("name"), complaint.help("give each a name of its own"));
            }
            checked.extend(self.query(&place, raw));
        }
        checked
    }

    fn query(&mut self, place: &Place, raw: &raw::Query) -> Option<Query> {
        let name = self.required(place, "name", raw.name.as_ref(), NAMES);
        let name = name.and_then(|name| self.faults.take(&place.key("name"), value::name(name)).map(|()| name.clone()));
        let url = self.required(place, "prometheus", raw.prometheus.as_ref(), URLS);
        let url = url.and_then(|url| self.faults.take(&place.key("prometheus"), api(url)));
        let promql = self.required(place, "query", raw.query.as_ref(), QUERIES);
        let promql = promql.and_then(|promql| self.faults.take(&place.key("query"), in_promql(promql)));
        let bad_if = self.required(place, "bad_if", raw.bad_if.as_ref(), CONDITIONS);
        let bad_if = bad_if.and_then(|bad_if| self.faults.take(&place.key("bad_if"), condition(bad_if)));
        let interval = self.faults.take(&place.key("interval"), interval(&raw.interval));
        let failures = self.faults.take(&place.key("failures"), value::count(&raw.failures.0, 1..=1000));
        let timeout = self.faults.take(&place.key("timeout"), value::timeout(&raw.timeout));
        Some(Query {
            name: name?,
            url: url?,
            promql: promql?,
            bad_if: bad_if?,
            interval: interval?,
            failures: failures?,
            timeout: timeout?,
        })
    }
}

/// Where the Prometheus at `base` is asked.
fn api(base: &str) -> Checked<Url> {
    if base.contains(['?', '#']) {
        return Err(Complaint::new("this URL holds more than a path").allowed(URLS));
    }
    value::url(base, URLS)?;
    value::url(&format!("{}/api/v1/query", base.trim_end_matches('/')), URLS)
}

/// Whether it can be understood only Prometheus knows.
fn in_promql(text: &str) -> Checked<String> {
    match text.trim() {
        "" => Err(Complaint::new("this query is empty").allowed(QUERIES)),
        text => Ok(text.to_owned()),
    }
}

fn condition(text: &str) -> Checked<Condition> {
    text.parse().map_err(|_: InvalidCondition| Complaint::new("this is not a condition").allowed(CONDITIONS))
}

fn interval(written: &raw::Duration) -> Checked<Duration> {
    match value::timeout(written)? {
        interval if interval < SHORTEST_INTERVAL => {
            Err(Complaint::new("this is below 1s").allowed("at least 1s, such as 30s"))
        }
        interval => Ok(interval),
    }
}
