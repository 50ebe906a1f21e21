//! The decision allocates nothing, whichever gate answers.

use std::net::IpAddr;
use std::path::Path;
use std::time::SystemTime;

use http::{HeaderMap, HeaderValue, Method, Uri};
use tidegate::config;
use tidegate::metrics::Registry;
use tidegate::policy::decision::decide;
use tidegate::proxy::route;
use tidegate::proxy::subject::{Head, RolloutSubject};
use tidegate::snapshot::{Overlay, Snapshot};

const CONFIG: &str = "
listen: 127.0.0.1:8080
backends: { a: { endpoints: ['http://127.0.0.1:1'] }, b: { endpoints: ['http://127.0.0.1:2'] } }
rollouts:
  ledger: { old: a, new: b, percent: 50, key: ['header:x-user-id', 'cookie:uid', 'query:user'],
            rules: [{ keys: [vip], side: new }] }
routes:
  - { match: { host: pay.example, path: /pay }, rollout: ledger }
  - { match: {}, backend: a }
";

#[test]
fn finding_a_route_and_a_side_allocates_nothing() {
    let config = config::parse(CONFIG.as_bytes(), Path::new("tidegate.yaml"), &|_| None).unwrap();
    let snapshot = Snapshot::build(&config, 1, SystemTime::now(), &Registry::new(1), &Overlay::default());
    let (method, uri) = (Method::GET, Uri::from_static("/pay/7?user=9"));
    for user in ["7", "vip", "3f2504e0-4f89-11d3-9a0c-0305e82c3301", ""] {
        let mut headers = HeaderMap::new();
        headers.insert("host", HeaderValue::from_static("pay.example"));
        headers.insert("x-user-id", HeaderValue::from_str(user).unwrap());
        let head = Head { method: &method, uri: &uri, headers: &headers, client: Some(IpAddr::from([127, 0, 0, 1])) };
        let measured = allocation_counter::measure(|| {
            assert!(matches!(route::find(&snapshot.routes, head), Ok(Some((0, _)))));
            let rollout = &snapshot.rollouts[0];
            std::hint::black_box(decide(&rollout.split, &RolloutSubject::new(&head, rollout).unwrap()));
        });
        assert_eq!(measured.count_total, 0, "user {user:?}");
    }
}
