//! Which rollout or backend a request belongs to: the first route that matches.

use std::collections::HashMap;

/// What a request must look like. Parts that are not given match everything.
#[derive(Clone, Debug, Default)]
pub struct Match {
    /// The host, without its port.
    pub host: Option<Host>,
    /// The path's beginning, in whole segments: `/pay` covers `/pay` and `/pay/7`, not `/payments`; `/pay/` only what
    /// lies below it.
    pub path: Option<String>,
    /// Methods, upper case; empty matches all.
    pub methods: Vec<String>,
    /// Headers (lower-case name) that must be there, with this value if one is given.
    pub headers: Vec<(String, Option<String>)>,
}

/// A host or all hosts below a domain, in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// `pay.example.com`
    Exact(String),
    /// `*.example.com`, kept as `.example.com`: any number of labels below it, not the domain itself.
    Below(String),
}

impl Host {
    fn covers(&self, host: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == host,
            Self::Below(suffix) => host.len() > suffix.len() && host.ends_with(suffix.as_str()),
        }
    }
}

/// What routing wants to know of a request.
pub trait Target {
    /// The host in lower case, without its port.
    fn host(&self) -> &str;
    /// The path, without the query.
    fn path(&self) -> &str;
    /// The method, upper case.
    fn method(&self) -> &str;
    /// A header's first value, by lower-case name.
    fn header(&self, name: &str) -> Option<&[u8]>;
}

impl Match {
    fn covers<T: Target>(&self, target: &T) -> bool {
        self.host.as_ref().is_none_or(|host| host.covers(target.host()))
            && self.path.as_ref().is_none_or(|prefix| path_covers(prefix, target.path()))
            && (self.methods.is_empty() || self.methods.iter().any(|method| method == target.method()))
            && self.headers.iter().all(|(name, value)| {
                let found = target.header(name);
                found.is_some_and(|found| value.as_ref().is_none_or(|value| value.as_bytes() == found))
            })
    }
}

fn path_covers(prefix: &str, path: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || prefix.ends_with('/') || rest.starts_with('/'))
}

/// Routes in order, with an index by exact host so that a thousand tenants cost as little as one.
#[derive(Clone, Debug)]
pub struct Routes<T> {
    routes: Vec<(Match, T)>,
    by_host: HashMap<String, Vec<usize>>,
    any_host: Vec<usize>,
    reads_hosts: bool,
    reads_paths: bool,
}

impl<T> Routes<T> {
    /// Routes in the order in which they are tried.
    #[must_use]
    pub fn new(routes: Vec<(Match, T)>) -> Self {
        let mut by_host: HashMap<String, Vec<usize>> = HashMap::new();
        let mut any_host = Vec::new();
        for (at, (wanted, _)) in routes.iter().enumerate() {
            match &wanted.host {
                Some(Host::Exact(host)) => by_host.entry(host.clone()).or_default().push(at),
                Some(Host::Below(_)) | None => any_host.push(at),
            }
        }
        let reads_hosts = routes.iter().any(|(wanted, _)| wanted.host.is_some());
        let reads_paths = routes.iter().any(|(wanted, _)| wanted.path.is_some());
        Self { routes, by_host, any_host, reads_hosts, reads_paths }
    }

    /// Whether any route looks at the host.
    #[must_use]
    pub fn reads_hosts(&self) -> bool {
        self.reads_hosts
    }

    /// Whether any route looks at the path: only then can two spellings of one path be judged differently.
    #[must_use]
    pub fn reads_paths(&self) -> bool {
        self.reads_paths
    }

    /// The first route that covers `target`, by its place in the order, and what it leads to.
    #[must_use]
    pub fn find<R: Target>(&self, target: &R) -> Option<(usize, &T)> {
        let exact = match self.by_host.is_empty() {
            true => &[],
            false => self.by_host.get(target.host()).map_or(&[][..], Vec::as_slice),
        };
        in_order(exact, &self.any_host).find(|at| self.routes[*at].0.covers(target)).map(|at| (at, &self.routes[at].1))
    }

    /// What the routes lead to, in order.
    pub fn destinations(&self) -> impl Iterator<Item = &T> {
        self.routes.iter().map(|(_, destination)| destination)
    }
}

/// Merges two ascending lists.
fn in_order<'a>(mut a: &'a [usize], mut b: &'a [usize]) -> impl Iterator<Item = usize> + 'a {
    std::iter::from_fn(move || {
        let from_a = match (a.first(), b.first()) {
            (Some(x), Some(y)) => x < y,
            (x, _) => x.is_some(),
        };
        let (next, rest) = if from_a { a } else { b }.split_first()?;
        *(if from_a { &mut a } else { &mut b }) = rest;
        Some(*next)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct Request<'a> {
        host: &'a str,
        path: &'a str,
        method: &'a str,
        tenant: Option<&'a str>,
    }

    impl Target for Request<'_> {
        fn host(&self) -> &str {
            self.host
        }
        fn path(&self) -> &str {
            self.path
        }
        fn method(&self) -> &str {
            self.method
        }
        fn header(&self, name: &str) -> Option<&[u8]> {
            (name == "x-tenant").then_some(self.tenant?.as_bytes())
        }
    }

    const ANY: Request<'_> = Request { host: "a.example", path: "/", method: "GET", tenant: None };

    fn host(text: &str) -> Match {
        let host = text.strip_prefix('*').map_or_else(|| Host::Exact(text.into()), |rest| Host::Below(rest.into()));
        Match { host: Some(host), ..Match::default() }
    }

    #[test]
    fn paths_match_in_whole_segments() {
        for (prefix, path, covered) in [
            ("/", "/anything", true),
            ("/pay", "/pay", true),
            ("/pay", "/pay/7", true),
            ("/pay", "/payments", false),
            ("/pay/", "/pay/7", true),
            ("/pay/", "/pay", false),
        ] {
            assert_eq!(path_covers(prefix, path), covered, "{prefix} over {path}");
        }
    }

    #[test]
    fn hosts_match_exactly_or_below_a_domain() {
        let routes = Routes::new(vec![(host("*.example.com"), "below"), (host("pay.example.com"), "exact")]);
        let at = |host| routes.find(&Request { host, ..ANY }).map(|(_, name)| *name);
        assert_eq!(at("pay.example.com"), Some("below"), "the earlier route wins");
        assert_eq!(at("example.com"), None);
        assert_eq!(at("evilexample.com"), None);
    }

    #[test]
    fn methods_and_headers_narrow_a_route() {
        let writes = Match {
            methods: vec!["POST".into()],
            headers: vec![("x-tenant".into(), Some("acme".into()))],
            ..Match::default()
        };
        let routes = Routes::new(vec![(writes, 1), (Match::default(), 2)]);
        let at = |method, tenant| *routes.find(&Request { method, tenant, ..ANY }).unwrap().1;
        assert_eq!(at("POST", Some("acme")), 1);
        assert_eq!(at("POST", Some("other")), 2);
        assert_eq!(at("POST", None), 2);
        assert_eq!(at("GET", Some("acme")), 2);
    }

    proptest! {
        #[test]
        fn the_index_finds_what_a_plain_walk_finds(hosts in proptest::collection::vec(0u8..5, 0..20), asked in 0u8..5) {
            let table: Vec<(Match, usize)> = hosts
                .iter()
                .enumerate()
                .map(|(at, h)| (if *h == 0 { Match::default() } else { host(&format!("h{h}")) }, at))
                .collect();
            let target = format!("h{asked}");
            let request = Request { host: &target, ..ANY };
            let walked = table.iter().position(|(wanted, _)| wanted.covers(&request));
            prop_assert_eq!(Routes::new(table).find(&request).map(|(at, _)| at), walked);
        }
    }
}
