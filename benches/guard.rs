//! How many requests of NEW the guard needs to see that it is bad, and how often it is wrong: simulated.
//!
//! `cargo bench --bench guard` prints the tables quickly, `cargo bench --bench guard -- --full` with enough runs to quote
//! them (`needed` or `trips` for one half of them); `--seed N` for other dice. Traffic is 1 000 requests/s to random users. The guard looks as it does in the proxy:
//! at every failure of NEW and once a second.

#![expect(
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    reason = "a table is what it is for, of small numbers"
)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fastrand::Rng;
use tidegate::policy::bucket::{BUCKETS, Bucket};
use tidegate::policy::guard::{Batch, Counted, Limits, Test};

const RATE: u64 = 1000;
const LIMITS: Limits = Limits { tolerance: 0.01, one_false_trip_in: 1e8, min_distinct: 3 };
const RELATIVE: f64 = 1e4;

/// How much is simulated.
#[derive(Clone, Copy)]
struct Effort {
    runs: usize,
    healthy: u64,
    seed: u64,
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let has = |name: &str| args.iter().any(|arg| arg == name);
    let after = |name: &str| args.iter().position(|arg| arg == name).and_then(|at| args.get(at + 1)?.parse().ok());
    let seed = after("--seed").unwrap_or(7);
    let effort = match (has("--full"), has("--bench")) {
        (true, _) => Effort { runs: 500, healthy: 100_000_000, seed },
        (false, true) => Effort { runs: 200, healthy: 3_000_000, seed },
        (false, false) => Effort { runs: 2, healthy: 10_000, seed }, // `cargo test --benches`: that it runs
    };
    if !has("trips") {
        absolute_alone(effort);
        whole_guard(effort);
        other_traffic(effort);
        drifts(effort);
    }
    if !has("needed") {
        false_trips(effort);
    }
}

/// What a simulated service does in a second.
#[derive(Clone, Copy)]
struct Weather {
    /// The shares of bad requests.
    new: f64,
    old: f64,
}

/// Simulated traffic, and the guard that watches it.
struct Traffic {
    rng: Rng,
    test: Test,
    /// NEW's share of the requests.
    share: f64,
    /// Requests of one user on NEW, all of which fail, as a part of all requests.
    hammer: f64,
    /// The part of NEW's requests that is one user's.
    heavy: f64,
    /// Since the last look, before it began.
    pending: (Counted, Counted, u64),
    /// Requests left in this second.
    left: u64,
    second: u64,
    /// What came on NEW, the hammering user aside.
    seen: u64,
    rate: u64,
}

impl Traffic {
    fn new(share: f64, seed: u64) -> Self {
        let test = test(share);
        let rng = Rng::with_seed(seed);
        Self {
            rng,
            test,
            share,
            hammer: 0.0,
            heavy: 0.0,
            pending: Default::default(),
            left: RATE,
            second: 0,
            seen: 0,
            rate: RATE,
        }
    }

    /// Up to the next failure on NEW or the end of the second, and a look.
    fn goes_on(&mut self, weather: Weather) {
        let fails = self.share * weather.new;
        let gap = geometric(&mut self.rng, fails + self.hammer);
        let ends_bad = gap < self.left;
        let before = gap.min(self.left);
        let on_old = binomial(&mut self.rng, before, (1.0 - self.share) / (1.0 - fails));
        let mut old = Counted { requests: on_old, bad: binomial(&mut self.rng, on_old, weather.old) };
        let mut new = Counted { requests: before - on_old, bad: 0 };
        self.seen += new.requests;
        let (old_before, new_before, time_before) = std::mem::take(&mut self.pending);
        old.requests += old_before.requests;
        old.bad += old_before.bad;
        new.requests += new_before.requests;
        let elapsed = self.time(before + time_before);
        // As the controller does it: what came before the failure is a batch of its own.
        self.test.look(&Batch { old, new, buckets: &[], elapsed });
        if ends_bad {
            let hammers = self.rng.f64() * (fails + self.hammer) >= fails;
            let whose = if hammers { bucket(0) } else { self.user() };
            self.seen += u64::from(!hammers);
            let new = Counted { requests: 1, bad: 1 };
            self.test.look(&Batch { old: Counted::default(), new, buckets: &[whose], elapsed: Duration::ZERO });
        }
        self.left -= before + u64::from(ends_bad);
        if self.left == 0 {
            (self.left, self.second) = (self.rate, self.second + 1);
        }
    }

    fn user(&mut self) -> Bucket {
        if self.rng.f64() < self.heavy { bucket(1) } else { bucket(self.rng.u16(2..BUCKETS)) }
    }

    fn time(&self, requests: u64) -> Duration {
        Duration::from_secs_f64(float(requests + 1) / float(self.rate))
    }

    /// A healthy minute, and up to a second more at which nobody has looked yet.
    fn warms_up(&mut self, base: f64) {
        let weather = Weather { new: base, old: base };
        while self.second < 60 {
            self.goes_on(weather);
        }
        let quiet = geometric(&mut self.rng, self.share * base).min(self.rng.u64(0..self.rate));
        let on_old = binomial(&mut self.rng, quiet, 1.0 - self.share);
        let old = Counted { requests: on_old, bad: binomial(&mut self.rng, on_old, base) };
        self.pending = (old, Counted { requests: quiet - on_old, bad: 0 }, quiet);
        self.left -= quiet;
    }

    /// Requests on NEW until it is settled from now on; `None` if more than `most`.
    fn settles_within(&mut self, weather: Weather, most: u64) -> Option<u64> {
        self.seen = 0;
        while !self.test.is_settled() {
            self.goes_on(weather);
            if self.seen > most {
                return None;
            }
        }
        Some(self.seen)
    }
}

/// A test at the start, as the controller makes it.
fn test(share: f64) -> Test {
    let mut test = Test::new(&LIMITS);
    if share < 1.0 {
        test.expect_old();
    }
    test
}

/// Requests needed: the mean and the 95th percentile, or that some runs went on for ever.
struct Needed {
    mean: f64,
    p95: u64,
    endless: usize,
}

fn needed(effort: Effort, traffic: impl Fn(u64) -> Traffic, base: f64, weather: Weather) -> Needed {
    let mut found = vec![];
    for run in 0..effort.runs {
        let mut traffic = traffic(effort.seed.wrapping_mul(1_000_003) + run as u64);
        traffic.warms_up(base);
        found.extend(traffic.settles_within(weather, 1_000_000));
    }
    found.sort_unstable();
    let mean = float(found.iter().sum()) / found.len().max(1) as f64;
    let p95 = found.get(found.len() * 95 / 100).copied().unwrap_or(0);
    Needed { mean, p95, endless: effort.runs - found.len() }
}

impl Needed {
    fn cell(&self, bound: f64) -> String {
        match self.endless {
            0 => format!("{:.0} ({}) {:.2}x", self.mean, self.p95, self.mean / bound),
            some => format!("{:.0} ({}), {some} not within 1e6", self.mean, self.p95),
        }
    }
}

fn absolute_alone(effort: Effort) {
    println!("\nAbsolute part alone (OLD silent): mean requests of NEW until settled (p95), beside the oracle's\n");
    println!("| bad on NEW | oracle | from the first request on | after a healthy minute |");
    println!("| ---: | ---: | ---: | ---: |");
    let rows = in_parallel(&[1.0, 0.5, 0.2, 0.1, 0.05, 0.02], |bad| {
        let weather = Weather { new: *bad, old: 0.0 };
        let bound = oracle(*bad);
        let fresh = needed_fresh(effort, weather).cell(bound);
        let later = needed(effort, |seed| Traffic::new(1.0, seed), 0.001, weather).cell(bound);
        format!("| {} | {bound:.1} | {fresh} | {later} |", percent(*bad))
    });
    rows.iter().for_each(|row| println!("{row}"));
}

/// NEW has been bad from its first request.
fn needed_fresh(effort: Effort, weather: Weather) -> Needed {
    let mut found: Vec<u64> = (0..effort.runs)
        .filter_map(|run| Traffic::new(1.0, effort.seed + run as u64).settles_within(weather, 1_000_000))
        .collect();
    found.sort_unstable();
    let mean = float(found.iter().sum()) / found.len().max(1) as f64;
    Needed { mean, p95: found.get(found.len() * 95 / 100).copied().unwrap_or(0), endless: effort.runs - found.len() }
}

const SHARES: [f64; 4] = [0.01, 0.05, 0.5, 0.99];

fn whole_guard(effort: Effort) {
    println!("\nWhole guard: mean requests of NEW until settled (p95), ratio to the larger of the two bounds\n");
    println!("| bad on NEW | bad on OLD | oracle | NEW has 1 % of requests | 5 % | 50 % | 99 % |");
    println!("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    let bads = [1.0, 0.5, 0.2, 0.05, 0.02];
    let settings: Vec<_> = bads.iter().flat_map(|bad| [0.001, 0.005, 0.01].map(|base| (*bad, base))).collect();
    let rows = in_parallel(&settings, |(bad, base)| {
        let cells = SHARES.map(|share| {
            let bound = oracle(*bad).max(information(share, *bad, *base));
            let binds = if bound > oracle(*bad) { format!(" [{bound:.0}]") } else { String::new() };
            let weather = Weather { new: *bad, old: *base };
            needed(effort, |seed| Traffic::new(share, seed), *base, weather).cell(bound) + &binds
        });
        format!("| {} | {} | {:.1} | {} |", percent(*bad), percent(*base), oracle(*bad), cells.join(" | "))
    });
    rows.iter().for_each(|row| println!("{row}"));
}

fn other_traffic(effort: Effort) {
    println!("\nOther traffic, NEW 5 % of it and OLD at 0.1 %: mean requests of NEW until settled (p95)\n");
    println!("| bad on NEW | 20 requests/s | half of NEW's requests are one user's |");
    println!("| ---: | ---: | ---: |");
    let rows = in_parallel(&[1.0, 0.5, 0.2, 0.05], |bad| {
        let weather = Weather { new: *bad, old: 0.001 };
        let at = |traffic: &dyn Fn(u64) -> Traffic| needed(effort, traffic, 0.001, weather).cell(oracle(*bad));
        let slow = at(&|seed| Traffic { rate: 20, left: 20, ..Traffic::new(0.05, seed) });
        let heavy = at(&|seed| Traffic { heavy: 0.5, ..Traffic::new(0.05, seed) });
        format!("| {} | {slow} | {heavy} |", percent(*bad))
    });
    rows.iter().for_each(|row| println!("{row}"));
}

/// A healthy or at least equal NEW: what it does, second by second.
struct Innocent {
    name: String,
    weather: fn(u64, f64) -> Weather,
    base: f64,
    share: f64,
    hammer: f64,
    /// How much of the effort: in an outage each request of NEW is a look.
    part: f64,
}

fn innocents() -> Vec<Innocent> {
    let mut all = vec![];
    let mut add = |name: &str, weather: fn(u64, f64) -> Weather, base: f64, shares: &[f64], hammer: f64| {
        let name = name.to_owned();
        let part = if base >= 0.3 { 0.2 } else { 1.0 };
        let setting = |share: &f64| Innocent { name: name.clone(), weather, base, share: *share, hammer, part };
        all.extend(shares.iter().map(setting));
    };
    let (every, all_shares) = (SHARES, [0.01, 0.05, 0.5, 0.99, 1.0]);
    for base in [0.001, 0.005, 0.0099] {
        add("healthy", |_, base| Weather { new: base, old: base }, base, &all_shares, 0.0);
    }
    for base in [0.001, 0.0099] {
        add("one client hammers on NEW", |_, base| Weather { new: base, old: base }, base, &all_shares, 0.005);
    }
    for base in [0.3, 1.0] {
        add("outage of both, every other minute", outage, base, &every, 0.0);
    }
    add("both drift 0.1 to 2 % and back, 10 min", |at, _| both(triangle(at, 600)), 0.02, &every, 0.0);
    add("both at 2 %", |_, base| both(base), 0.02, &every, 0.0);
    all
}

fn both(bad: f64) -> Weather {
    Weather { new: bad, old: bad }
}

/// Both sides are bad every other minute.
fn outage(second: u64, bad: f64) -> Weather {
    both(if (second / 60).is_multiple_of(2) { 0.001 } else { bad })
}

/// From 0.1 % to 2 % and back over `period` seconds.
fn triangle(second: u64, period: u64) -> f64 {
    let at = float(second % period) / float(period);
    0.001 + 0.019 * (1.0 - (2.0 * at - 1.0).abs())
}

fn false_trips(effort: Effort) {
    println!("\nFalse trips where NEW is not worse than OLD\n");
    println!("| setting | bad | NEW's share | requests on NEW | false trips |");
    println!("| --- | ---: | ---: | ---: | ---: |");
    let rows = in_parallel(&innocents(), |innocent| {
        let mut traffic = Traffic::new(innocent.share, effort.seed);
        traffic.hammer = innocent.hammer * innocent.share;
        let mut trips = 0;
        while float(traffic.seen) < float(effort.healthy) * innocent.part {
            traffic.goes_on((innocent.weather)(traffic.second, innocent.base));
            if traffic.test.is_settled() {
                trips += 1;
                traffic.test = test(innocent.share);
            }
        }
        let (name, base, share) = (&innocent.name, percent(innocent.base), percent(innocent.share));
        format!("| {name} | {base} | {share} | {:.0e} | {trips} |", float(traffic.seen))
    });
    rows.iter().for_each(|row| println!("{row}"));
}

fn drifts(effort: Effort) {
    println!("\nNEW alone drifts from 0.1 % to 2 % and stays there, OLD at 0.1 %: when it is settled\n");
    println!("| over | NEW's share | requests on NEW, mean (p95) | bad on NEW by then |");
    println!("| ---: | ---: | ---: | ---: |");
    let settings: Vec<_> =
        [60, 600, 3600].iter().flat_map(|over| [0.05, 0.5, 1.0].map(|share| (*over, share))).collect();
    let rows = in_parallel(&settings, |(over, share)| {
        let (mut seen, mut bad) = (vec![], 0.0);
        let runs = effort.runs.div_ceil(10);
        for run in 0..runs {
            let mut traffic = Traffic::new(*share, effort.seed + run as u64);
            let now = |second: u64| 0.001 + 0.019 * (float(second) / float(*over)).min(1.0);
            while !traffic.test.is_settled() {
                traffic.goes_on(Weather { new: now(traffic.second), old: 0.001 });
            }
            seen.push(traffic.seen);
            bad += now(traffic.second) / runs as f64;
        }
        seen.sort_unstable();
        let mean = float(seen.iter().sum()) / runs as f64;
        format!("| {over} s | {} | {mean:.0} ({}) | {} |", percent(*share), seen[runs * 95 / 100], percent(bad))
    });
    rows.iter().for_each(|row| println!("{row}"));
}

/// Requests that a test needs on average which knows the share in advance (Lorden 1971).
fn oracle(bad: f64) -> f64 {
    LIMITS.one_false_trip_in.ln() / divergence(bad, LIMITS.tolerance)
}

/// Requests of NEW until the comparison with OLD can be settled by a test which knows all shares: what is needed by the
/// least information in a request.
fn information(share: f64, new: f64, old: f64) -> f64 {
    let both = share * new + (1.0 - share) * old;
    RELATIVE.ln() / (divergence(new, both) + (1.0 - share) / share * divergence(old, both))
}

/// Kullback and Leibler's, of one share from another.
fn divergence(p: f64, q: f64) -> f64 {
    let term = |p: f64, q: f64| if p > 0.0 { p * (p / q).ln() } else { 0.0 };
    term(p, q) + term(1.0 - p, 1.0 - q)
}

/// How many times something fails to happen before it does.
fn geometric(rng: &mut Rng, share: f64) -> u64 {
    if share >= 1.0 {
        return 0;
    }
    let gap = (1.0 - rng.f64()).ln() / (-share).ln_1p();
    if gap < 1e15 { gap as u64 } else { u64::MAX / 2 }
}

/// How often it happens in `count` times: from one to the next.
fn binomial(rng: &mut Rng, count: u64, share: f64) -> u64 {
    if share > 0.5 {
        return count - binomial(rng, count, 1.0 - share);
    }
    let (mut at, mut happened) = (geometric(rng, share), 0);
    while at < count {
        happened += 1;
        at += 1 + geometric(rng, share);
    }
    happened
}

fn bucket(number: u16) -> Bucket {
    Bucket::from_number(number).expect("there are 10 000")
}

fn percent(share: f64) -> String {
    format!("{} %", (share * 10_000.0).round() / 100.0)
}

fn float(count: u64) -> f64 {
    count as f64
}

/// On both cores, in order.
fn in_parallel<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let worker = || {
        let mut done = vec![];
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(at) else { return done };
            done.push((at, work(item)));
        }
    };
    let mut done: Vec<(usize, R)> = std::thread::scope(|scope| {
        let threads = [scope.spawn(worker), scope.spawn(worker)];
        threads.into_iter().flat_map(|thread| thread.join().expect("it does not panic")).collect()
    });
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}
