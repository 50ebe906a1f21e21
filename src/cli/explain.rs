//! `tidegate explain`: which side answers a request, and why, step by step.
//!
//! It walks the road with the proxy's own functions over a snapshot of its own, so what it says is what would happen.

mod road;
mod text;

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use http::header::HOST;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};

use super::check;
use super::output::{Format, Paint, print, print_json};
use super::written;
use crate::policy::bucket::Percent;

/// Arguments of `tidegate explain`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Example: tidegate explain -c tidegate.yaml -H 'x-user-id: 1007' --percent 20")]
pub struct ExplainArgs {
    /// The config: YAML, TOML or JSON by its extension
    #[arg(short, long, value_name = "FILE")]
    pub config: PathBuf,
    /// A header of the request; may be given several times
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = header)]
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The request's method
    #[arg(long, default_value = "GET")]
    pub method: Method,
    /// The request's path, with its query
    #[arg(long, value_name = "PATH", default_value = "/", value_parser = target)]
    pub path: Uri,
    /// What if the percent were this?
    #[arg(long, value_name = "PERCENT", value_parser = written::percent, allow_negative_numbers = true)]
    pub percent: Option<Percent>,
    /// The address the request comes from
    #[arg(long, value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    pub client: IpAddr,
    /// How it is written
    #[arg(short, long, value_enum, default_value_t)]
    pub(super) output: Format,
}

/// A request to be explained.
#[derive(Clone, Debug)]
struct Request {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    peer: IpAddr,
}

/// Explains, and exits 0 if the request would reach a backend.
pub(super) fn run(args: &ExplainArgs) -> anyhow::Result<ExitCode> {
    let config =
        check::load(&args.config).map_err(|error| anyhow!("{} is refused\n\n{error}", args.config.display()))?;
    let explanation = road::explain(config, &request(args), args.percent);
    match args.output {
        Format::Json => print_json(&explanation)?,
        Format::Text => print(&text::render(&explanation, Paint::detect()))?,
    }
    Ok(if explanation.backend.is_some() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn request(args: &ExplainArgs) -> Request {
    let mut headers = HeaderMap::new();
    for (name, value) in &args.headers {
        headers.append(name, value.clone());
    }
    headers.entry(HOST).or_insert(HeaderValue::from_static("localhost"));
    Request { method: args.method.clone(), uri: args.path.clone(), headers, peer: args.client.to_canonical() }
}

fn header(written: &str) -> anyhow::Result<(HeaderName, HeaderValue)> {
    let (name, value) = written.split_once(':').context("expected NAME: VALUE")?;
    let name = name.trim().parse().with_context(|| format!("`{name}` is no header name"))?;
    let value = HeaderValue::from_str(value.trim()).context("the value holds control characters")?;
    Ok((name, value))
}

fn target(written: &str) -> anyhow::Result<Uri> {
    if !written.starts_with('/') {
        bail!("a path starts with /");
    }
    Ok(written.parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_written_as_for_curl() {
        let (name, value) = header("X-User-Id:  1007 ").unwrap();
        assert_eq!((name.as_str(), value.to_str().unwrap()), ("x-user-id", "1007"));
        for wrong in ["x-user-id", "a b: c", ": c", "a: b\nc: d"] {
            assert!(header(wrong).is_err(), "{wrong:?}");
        }
    }
}
