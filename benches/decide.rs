//! The pure decision: what a request pays for being split. `cargo bench --bench decide`.

use std::collections::HashSet;
use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use tidegate::policy::bucket::{Bucket, Hash, Percent};
use tidegate::policy::decision::{Rule, Side, Split, Subject, decide};
use tidegate::policy::route::{Host, Match, Routes, Target};
use xxhash_rust::xxh3::xxh3_64;

struct User(&'static [u8]);

impl Subject for User {
    fn forced(&self) -> Option<Side> {
        None
    }
    fn key(&self) -> Option<&[u8]> {
        Some(self.0)
    }
    fn digest(&self, key: &[u8]) -> u64 {
        xxh3_64(key)
    }
    fn stand_in(&self) -> Bucket {
        Bucket::of_digest(0)
    }
}

struct Request(&'static str);

impl Target for Request {
    fn host(&self) -> &str {
        self.0
    }
    fn path(&self) -> &str {
        "/pay/7"
    }
    fn method(&self) -> &str {
        "GET"
    }
    fn header(&self, _: &str) -> Option<&[u8]> {
        None
    }
}

fn split(hash: Hash, rules: Vec<Rule>) -> Split {
    Split { percent: Percent::from_f64(5.0).expect("a percent"), hash, rules: rules.into(), ..Split::default() }
}

fn list_of(entries: usize) -> Vec<Rule> {
    let keys: HashSet<Box<[u8]>> = (0..entries).map(|n| format!("vip-{n}").into_bytes().into_boxed_slice()).collect();
    vec![Rule { keys, side: Side::New }]
}

fn decisions(c: &mut Criterion) {
    let mut group = c.benchmark_group("decide");
    let mut bench = |name: &str, split: Split, user: User| {
        group.bench_function(name, |b| b.iter(|| decide(black_box(&split), black_box(&user))));
    };
    bench("decimal key by modulo", split(Hash::Modulo, vec![]), User(b"1234567890"));
    bench("uuid by xxh3", split(Hash::Modulo, vec![]), User(b"3f2504e0-4f89-11d3-9a0c-0305e82c3301"));
    bench("rolled back", Split { rollback: true, ..split(Hash::Modulo, vec![]) }, User(b"1234567890"));
    bench("10 000 list entries, in the list", split(Hash::Modulo, list_of(10_000)), User(b"vip-5000"));
    bench("10 000 list entries, not in the list", split(Hash::Modulo, list_of(10_000)), User(b"1234567890"));
    group.finish();
}

fn routes(c: &mut Criterion) {
    let mut group = c.benchmark_group("route");
    let path = |prefix: &str| Match { path: Some(prefix.to_owned()), ..Match::default() };
    let host = |n: usize| Match { host: Some(Host::Exact(format!("tenant-{n}.example"))), ..Match::default() };
    let everything = Routes::new(vec![(Match::default(), 0)]);
    let hosts = Routes::new((0..1000).map(|n| (host(n), n)).chain([(Match::default(), 1000)]).collect());
    let paths =
        Routes::new((0..1000).map(|n| (path(&format!("/api/{n}/")), n)).chain([(path("/pay"), 1000)]).collect());
    let mut bench = |name: &str, routes: &Routes<usize>, request: Request| {
        group.bench_function(name, |b| b.iter(|| routes.find(black_box(&request)).map(|(at, _)| at)));
    };
    bench("one route", &everything, Request("tenant-999.example"));
    bench("1 000 hosts, the last one", &hosts, Request("tenant-999.example"));
    bench("1 000 hosts, none of them", &hosts, Request("nobody.example"));
    bench("1 000 paths, the last one", &paths, Request("tenant-1.example"));
    group.finish();
}

criterion_group!(benches, decisions, routes);
criterion_main!(benches);
