//! Clients, servers and suites of other makes find nothing to complain of.

use std::time::Duration;

use crate::support::backend::ok;
use crate::support::foreign::{self, Server};
use crate::support::{Backend, Tidegate};

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn python_and_curl_are_served() {
    let backend = Backend::answering(|request| ok(&[], &request.body));
    let tidegate = Tidegate::before(&backend);
    let url = format!("http://{}", tidegate.address);
    assert_eq!(foreign::done(foreign::python("http_client.py", &[&url]), LIMIT).trim(), "HTTP/1.1");
    let mut curl = foreign::system("curl");
    curl.args(["--silent", "--show-error", "--fail", "--data", "by curl", &url, &url]);
    assert_eq!(foreign::done(curl, LIMIT), "by curlby curl");
}

/// Without this, a case that fails behind tidegate would say nothing of tidegate.
#[test]
fn the_autobahn_cases_find_nothing_wrong_with_the_server_behind() {
    let server = Server::start("websocket_echo.py", &[]);
    let reports = tempfile::tempdir().unwrap();
    let mut suite = foreign::packaged("kosoku");
    suite.args(["-i", "1.*", "-i", "5.*", "-i", "7.*", "-o"]).arg(reports.path()).arg(server.address.to_string());
    let said = foreign::done(suite, LIMIT);
    assert!(said.contains("cases passed"), "{said}");
}
