//! The counters as Prometheus reads them.
//!
//! The names and labels are a promise to dashboards. A label holds what tidegate or its config chose, never what a client
//! sent, so the number of series is bounded by the config.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::TextEncoder;
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};

use super::backend::BackendState;
use super::endpoint::EndpointState;
use super::process::Process;
use super::tls::{Cause as TlsCause, TlsMeters};
use super::{Class, ConnectionMeters, Delivery, Distribution, Failure, Registry, RolloutMeters, Series, Why};
use crate::capacity::Slots;
use crate::policy::bucket::Percent;
use crate::policy::decision::{Reason, Side};
use crate::policy::grpc::Status;
use crate::policy::rollout::Cause;

/// The `content-type` of what [`render`] writes.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The edges of the duration histogram: powers of two of a microsecond, from 64 us to 16.8 s. The shards count in finer
/// buckets with an edge at each of these, so the counts are exact.
const OCTAVES: std::ops::RangeInclusive<usize> = 6..=24;

/// All that is told in one scrape.
#[derive(Debug)]
pub struct Scrape<'a> {
    /// What happened.
    pub registry: &'a Registry,
    /// The rollouts in force.
    pub rollouts: Vec<RolloutGauges<'a>>,
    /// The guards of the rollouts in force.
    pub guards: Vec<GuardGauges<'a>>,
    /// What the files of TLS hold.
    pub tls: TlsGauges,
    /// How the config was read.
    pub config: ConfigGauges<'a>,
    /// What is remembered over a restart.
    pub state: StateGauges,
    /// What the process uses; `None` where that cannot be known.
    pub process: Option<Process>,
    /// tidegate's version.
    pub version: &'a str,
}

/// A rollout as it is in force.
#[derive(Clone, Copy, Debug)]
pub struct RolloutGauges<'a> {
    /// Its name.
    pub name: &'a str,
    /// What the config says.
    pub configured: Percent,
    /// What is in force.
    pub effective: Percent,
    /// Whether a latch holds it on OLD.
    pub rolled_back: bool,
}

/// What a guard knows.
#[derive(Clone, Debug)]
pub struct GuardGauges<'a> {
    /// The rollout's name.
    pub rollout: &'a str,
    /// How far the evidence has come on its way to a verdict, 0 to 1, by sense and part.
    pub evidence: Vec<(&'static str, &'static str, f64)>,
}

/// How the config was read.
#[derive(Clone, Copy, Debug)]
pub struct ConfigGauges<'a> {
    /// Which config is in force.
    pub hash: &'a str,
    /// Attempts to read it.
    pub reloads: u64,
    /// Whether the last attempt succeeded.
    pub successful: bool,
    /// When an attempt last succeeded.
    pub succeeded_at: SystemTime,
}

/// What the files of TLS hold.
#[derive(Clone, Debug, Default)]
pub struct TlsGauges {
    /// Whether all of them are as they should be; `None`: there are none.
    pub successful: Option<bool>,
    /// The certificates that are in use: their files, until when they are valid, and for how many days that is.
    pub certificates: Vec<(String, SystemTime, i64)>,
}

/// What is remembered over a restart.
#[derive(Clone, Copy, Debug)]
pub struct StateGauges {
    /// Whether what is in force would outlive a restart.
    pub durable: bool,
    /// Whether a rollout is on OLD because what was remembered could not be believed.
    pub lost: bool,
}

/// Writes `scrape` in the text format 0.0.4.
#[must_use]
pub fn render(scrape: &Scrape<'_>) -> String {
    let mut families = Families::default();
    let series = Labelled::all(scrape.registry);
    requests(&mut families, scrape, &series);
    traffic(&mut families, &series);
    shields(&mut families, scrape.registry);
    backends(&mut families, scrape.registry);
    rollouts(&mut families, &scrape.rollouts);
    guards(&mut families, scrape);
    clients(&mut families, scrape.registry);
    tls(&mut families, scrape.registry, &scrape.tls);
    config(&mut families, scrape.config);
    state(&mut families, scrape.state);
    webhooks(&mut families, scrape.registry);
    process(&mut families, scrape);
    TextEncoder::new().encode_to_string(&families.0).expect("every family has a name and a metric")
}

/// A series with its labels, which are empty for requests that no rollout decides.
struct Labelled {
    rollout: String,
    side: &'static str,
    of: Meters,
}

enum Meters {
    Unsplit(Arc<Series>),
    Split(Arc<RolloutMeters>, Side),
    TurnedAway(Arc<RolloutMeters>),
}

impl Labelled {
    /// Every series that ever was: counters do not vanish with a reload.
    fn all(registry: &Registry) -> Vec<Self> {
        let unsplit = Self { rollout: String::new(), side: "", of: Meters::Unsplit(registry.unsplit()) };
        std::iter::once(unsplit).chain(registry.rollouts().iter().flat_map(Self::of_rollout)).collect()
    }

    /// The sides, and whom neither of them saw: the latter only once there is anybody.
    fn of_rollout((name, meters): &(String, Arc<RolloutMeters>)) -> impl Iterator<Item = Self> {
        let labelled = |side, of| Self { rollout: name.clone(), side, of };
        let [old, new] = Side::ALL.map(|side| labelled(side.as_str(), Meters::Split(Arc::clone(meters), side)));
        let is_needed = meters.turned_away().total() > 0;
        let turned_away = is_needed.then(|| labelled("", Meters::TurnedAway(Arc::clone(meters))));
        [old, new].into_iter().chain(turned_away)
    }

    fn series(&self) -> &Series {
        match &self.of {
            Meters::Unsplit(series) => series,
            Meters::Split(meters, side) => meters.side(*side),
            Meters::TurnedAway(meters) => meters.turned_away(),
        }
    }

    fn labels(&self) -> [(&'static str, &str); 2] {
        [("rollout", &self.rollout), ("side", self.side)]
    }
}

fn requests(families: &mut Families, scrape: &Scrape<'_>, all: &[Labelled]) {
    let mut metrics = Vec::new();
    for labelled in all {
        let live = scrape.rollouts.iter().any(|rollout| rollout.name == labelled.rollout);
        for (why, class) in Why::ALL.into_iter().flat_map(|why| Class::ALL.map(|class| (why, class))) {
            let count = labelled.series().requests(why, class);
            // The series that a dashboard always needs is there before its first request.
            let always =
                live && !labelled.side.is_empty() && why == Why::Decided(Reason::Bucket) && class == Class::Success;
            if count > 0 || always {
                let [rollout, side] = labelled.labels();
                metrics
                    .push(counter(&[rollout, side, ("reason", why.as_str()), ("code_class", class.as_str())], count));
            }
        }
    }
    families.add(
        "tidegate_requests_total",
        "Requests that ended, by the side that answered, the reason it was chosen for, and how they ended. \
         rollout and side are empty for requests that no rollout decides, side also for those that were turned away.",
        MetricType::COUNTER,
        metrics,
    );
}

fn traffic(families: &mut Families, all: &[Labelled]) {
    let inflight = |labelled: &Labelled| gauge(&labelled.labels(), exact(labelled.series().inflight()));
    families.add(
        "tidegate_request_duration_seconds",
        "How long requests took, from the request head to the last byte of the answer.",
        MetricType::HISTOGRAM,
        all.iter().map(|labelled| histogram(&labelled.labels(), &labelled.series().durations())).collect(),
    );
    families.add(
        "tidegate_inflight_requests",
        "Requests that are running.",
        MetricType::GAUGE,
        all.iter().map(inflight).collect(),
    );
    families.add(
        "tidegate_upstream_failures_total",
        "What went wrong between tidegate and a backend. cause=\"stale\" is a kept connection that the backend closed as \
         it was used again: harmless.",
        MetricType::COUNTER,
        all.iter().flat_map(failures).collect(),
    );
    families.add(
        "tidegate_grpc_responses_total",
        "Calls of gRPC that ended, by the status that their client was told, or takes the answer for. OTHER is a status \
         that gRPC does not know.",
        MetricType::COUNTER,
        all.iter().flat_map(calls).collect(),
    );
}

fn calls(labelled: &Labelled) -> Vec<Metric> {
    let [rollout, side] = labelled.labels();
    let count = |status| (status, labelled.series().calls(status));
    let metric = |(status, count): (Status, u64)| counter(&[rollout, side, ("grpc_status", status.as_str())], count);
    Status::ALL.into_iter().map(count).filter(|(_, count)| *count > 0).map(metric).collect()
}

fn failures(labelled: &Labelled) -> Vec<Metric> {
    let [rollout, side] = labelled.labels();
    let count = |failure| (failure, labelled.series().failures(failure));
    let metric = |(failure, count): (Failure, u64)| counter(&[rollout, side, ("cause", failure.as_str())], count);
    Failure::ALL.into_iter().map(count).filter(|(_, count)| *count > 0).map(metric).collect()
}

fn shields(families: &mut Families, registry: &Registry) {
    let shielded = |(name, meters): &(String, Arc<RolloutMeters>)| counter(&[("rollout", name)], meters.shielded());
    families.add(
        "tidegate_shielded_requests_total",
        "Requests that the new side failed and the old side answered in its place.",
        MetricType::COUNTER,
        registry.rollouts().iter().map(shielded).collect(),
    );
}

/// A backend that ever was, by its name, and its endpoints, if it is in force.
struct KnownBackend {
    name: String,
    state: Arc<BackendState>,
    endpoints: Vec<(String, Arc<EndpointState>)>,
    is_in_force: bool,
}

fn backends(families: &mut Families, registry: &Registry) {
    let known = |(name, state): (String, Arc<BackendState>)| {
        let endpoints = state.endpoints();
        // The registry knows it, so do we; whoever else does has it in a config.
        let is_in_force = Arc::strong_count(&state) > 2;
        KnownBackend { name, state, endpoints, is_in_force }
    };
    let all: Vec<KnownBackend> = registry.backends().into_iter().map(known).collect();
    endpoints(families, &all);
    addresses(families, &all);
    connections(families, &all);
    retries(families, &all);
}

fn endpoints(families: &mut Families, all: &[KnownBackend]) {
    let of_each = |metric: fn(&[(&str, &str)], &EndpointState) -> Metric| -> Vec<Metric> {
        let known =
            all.iter().flat_map(|backend| backend.endpoints.iter().map(move |endpoint| (&backend.name, endpoint)));
        known.map(|(name, (address, state))| metric(&[("backend", name), ("endpoint", address)], state)).collect()
    };
    families.add(
        "tidegate_endpoint_healthy",
        "1 while the endpoint gets requests; 0 while its health checks or failed requests speak against it.",
        MetricType::GAUGE,
        of_each(|labels, state| gauge(labels, flag(state.is_fit()))),
    );
    families.add(
        "tidegate_endpoint_inflight_requests",
        "Requests that run on the endpoint.",
        MetricType::GAUGE,
        of_each(|labels, state| gauge(labels, exact(state.running()))),
    );
    families.add(
        "tidegate_endpoint_ejections_total",
        "How often the endpoint was taken out because it failed requests one after the other.",
        MetricType::COUNTER,
        of_each(|labels, state| counter(labels, state.ejections())),
    );
}

/// How many there are, so that none is a number, too.
fn addresses(families: &mut Families, all: &[KnownBackend]) {
    let of_each = |count: fn(&KnownBackend) -> usize| -> Vec<Metric> {
        let in_force = all.iter().filter(|backend| backend.is_in_force);
        in_force.map(|backend| gauge(&[("backend", &backend.name)], exact(count(backend) as u64))).collect()
    };
    families.add(
        "tidegate_backend_endpoints",
        "Endpoints of the backend: one for each address of each name; 0 while no name has any.",
        MetricType::GAUGE,
        of_each(|backend| backend.endpoints.len()),
    );
    families.add(
        "tidegate_backend_healthy_endpoints",
        "Endpoints of the backend that get requests. While there are none its requests are turned away.",
        MetricType::GAUGE,
        of_each(|backend| backend.endpoints.iter().filter(|(_, state)| state.is_fit()).count()),
    );
}

fn connections(families: &mut Families, all: &[KnownBackend]) {
    let of_each = |count: fn(&Slots) -> usize| -> Vec<Metric> {
        let in_force = all.iter().filter(|backend| backend.is_in_force);
        let metric =
            |backend: &KnownBackend| gauge(&[("backend", &backend.name)], exact(count(&backend.state.slots) as u64));
        in_force.map(metric).collect()
    };
    families.add(
        "tidegate_backend_connections",
        "Connections to the backend's endpoints that are open.",
        MetricType::GAUGE,
        of_each(Slots::open),
    );
    families.add(
        "tidegate_backend_max_connections",
        "How many may be open: limits.max_connections of the backend.",
        MetricType::GAUGE,
        of_each(Slots::max_connections),
    );
    families.add(
        "tidegate_backend_pending_requests",
        "Requests that wait for a connection to the backend.",
        MetricType::GAUGE,
        of_each(Slots::waiting),
    );
}

fn retries(families: &mut Families, all: &[KnownBackend]) {
    let of_one = |KnownBackend { name, state, .. }: &KnownBackend| -> Vec<Metric> {
        let counts = Failure::ALL.map(|failure| (failure, state.retries(failure))).into_iter();
        let metric =
            |(failure, count): (Failure, u64)| counter(&[("backend", name), ("cause", failure.as_str())], count);
        counts.filter(|(_, count)| *count > 0).map(metric).collect()
    };
    families.add(
        "tidegate_retries_total",
        "Requests that were sent once more, by what had come in between.",
        MetricType::COUNTER,
        all.iter().flat_map(of_one).collect(),
    );
}

fn rollouts(families: &mut Families, live: &[RolloutGauges<'_>]) {
    let percents = live.iter().flat_map(|rollout| {
        let of = |kind, percent: Percent| gauge(&[("rollout", rollout.name), ("kind", kind)], percent.as_f64());
        [of("configured", rollout.configured), of("effective", rollout.effective)]
    });
    families.add(
        "tidegate_rollout_percent",
        "Share of the keys that the new side serves, 0 to 100: what the config says, and what is in force.",
        MetricType::GAUGE,
        percents.collect(),
    );
    families.add(
        "tidegate_rollback_active",
        "1 while the rollout is rolled back, so that everybody is on the old side.",
        MetricType::GAUGE,
        live.iter().map(|rollout| gauge(&[("rollout", rollout.name)], flag(rollout.rolled_back))).collect(),
    );
}

fn guards(families: &mut Families, scrape: &Scrape<'_>) {
    let mut trips = Vec::new();
    for (name, meters) in scrape.registry.rollouts().iter() {
        let is_watched = scrape.guards.iter().any(|guard| guard.rollout == name);
        for cause in Cause::ALL {
            let count = meters.trips(cause);
            // An alert on the first one needs the zero before it.
            if count > 0 || is_watched {
                trips.push(counter(&[("rollout", name), ("cause", cause.as_str())], count));
            }
        }
    }
    families.add(
        "tidegate_guard_trips_total",
        "Verdicts of a rollout's guard that NEW hurts users, whatever was done about them.",
        MetricType::COUNTER,
        trips,
    );
    let evidence = scrape.guards.iter().flat_map(|guard| {
        let labelled =
            |(sense, part, share)| gauge(&[("rollout", guard.rollout), ("sense", sense), ("part", part)], share);
        guard.evidence.iter().copied().map(labelled)
    });
    families.add(
        "tidegate_guard_evidence",
        "How far the evidence against the new side has come on its way to a verdict, in orders of magnitude: 0 to 1. \
         A verdict needs all parts of a sense at 1.",
        MetricType::GAUGE,
        evidence.collect(),
    );
}

fn clients(families: &mut Families, registry: &Registry) {
    let open = registry.connections.iter().map(ConnectionMeters::open);
    families.add(
        "tidegate_client_connections",
        "Connections from clients that are open, by the worker that serves them.",
        MetricType::GAUGE,
        open.enumerate().map(|(worker, open)| gauge(&[("worker", &worker.to_string())], exact(open))).collect(),
    );
    for (name, help, count) in [
        (
            "tidegate_accept_errors_total",
            "Connections that could not be accepted, for want of file descriptors or memory.",
            registry.accept_errors.load(Relaxed),
        ),
        (
            "tidegate_connections_refused_total",
            "Connections that were turned away with 503 because of limits.max_connections.",
            registry.connections_refused.load(Relaxed),
        ),
        (
            "tidegate_proxy_protocol_errors_total",
            "Connections that were closed because they did not begin with the PROXY header that was expected of them.",
            registry.proxy_protocol_errors.load(Relaxed),
        ),
        (
            "tidegate_dns_failures_total",
            "Lookups of the names of backends that gave no address; the last good ones stay in use.",
            registry.dns_failures.load(Relaxed),
        ),
        (
            "tidegate_access_log_dropped_total",
            "Access log lines that are not in it because the disk or the terminal was too slow, or full.",
            registry.log_dropped(),
        ),
    ] {
        families.counter(name, help, count);
    }
}

fn tls(families: &mut Families, registry: &Registry, gauges: &TlsGauges) {
    let Some(successful) = gauges.successful else { return };
    let sum = |count: &dyn Fn(&TlsMeters) -> u64| registry.tls.iter().map(count).sum::<u64>();
    let done = |resumed: bool| {
        let label = if resumed { "true" } else { "false" };
        counter(&[("resumed", label)], sum(&|meters: &TlsMeters| meters.count(resumed)))
    };
    families.add(
        "tidegate_tls_handshakes_total",
        "TLS handshakes with clients that came to their end, those apart that went on with a session of before.",
        MetricType::COUNTER,
        [false, true].map(done).to_vec(),
    );
    let failed =
        |cause: TlsCause| counter(&[("cause", cause.as_str())], sum(&|meters: &TlsMeters| meters.failures(cause)));
    families.add(
        "tidegate_tls_handshake_failures_total",
        "TLS handshakes with clients that did not, by their cause.",
        MetricType::COUNTER,
        TlsCause::ALL.map(failed).to_vec(),
    );
    families.gauge(
        "tidegate_tls_reload_successful",
        "1 if the files of TLS are as they should be; 0 while one is not, and what was read before is in use.",
        flag(successful),
    );
    let certificates = || gauges.certificates.iter();
    families.add(
        "tidegate_tls_certificate_expiry_timestamp_seconds",
        "Until when a certificate that is in use is valid.",
        MetricType::GAUGE,
        certificates().map(|(file, until, _)| gauge(&[("certificate", file)], since_epoch(*until))).collect(),
    );
    families.add(
        "tidegate_tls_certificate_days_left",
        "Whole days until then; below zero once it has expired.",
        MetricType::GAUGE,
        certificates().map(|(file, _, days)| gauge(&[("certificate", file)], signed(*days))).collect(),
    );
}

fn since_epoch(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

fn signed(number: i64) -> f64 {
    let size = exact(number.unsigned_abs());
    if number < 0 { -size } else { size }
}

fn state(families: &mut Families, state: StateGauges) {
    families.gauge(
        "tidegate_state_durable",
        "1 if what is in force would outlive a restart; 0 while the state directory cannot be written, or without one.",
        flag(state.durable),
    );
    families.gauge(
        "tidegate_state_lost",
        "1 while a rollout is on old because the state file could not be believed.",
        flag(state.lost),
    );
}

/// Every webhook that ever was: counters do not vanish with a reload.
fn webhooks(families: &mut Families, registry: &Registry) {
    let all = registry.webhooks();
    let deliveries = all.iter().flat_map(|(name, meters)| {
        let labels = |result: Delivery| [("webhook", name.as_str()), ("result", result.as_str())];
        Delivery::ALL.map(|result| counter(&labels(result), meters.deliveries(result)))
    });
    families.add(
        "tidegate_webhook_deliveries_total",
        "Messages to a webhook, by what became of them: delivered, failed (given up) or dropped (no room, or the webhook was \
         taken out of the config).",
        MetricType::COUNTER,
        deliveries.collect(),
    );
    families.add(
        "tidegate_webhook_queued",
        "Messages to a webhook that wait or are on their way.",
        MetricType::GAUGE,
        all.iter().map(|(name, meters)| gauge(&[("webhook", name)], exact(meters.queued()))).collect(),
    );
}

fn config(families: &mut Families, config: ConfigGauges<'_>) {
    families.counter(
        "tidegate_config_reloads_total",
        "Attempts to read the config, the one at the start included.",
        config.reloads,
    );
    families.gauge(
        "tidegate_config_last_reload_successful",
        "1 if the last attempt to read the config succeeded; 0 while an older config is in force than the file holds.",
        flag(config.successful),
    );
    families.gauge(
        "tidegate_config_last_reload_success_timestamp_seconds",
        "When the config was last read with success.",
        since_epoch(config.succeeded_at),
    );
    families.add(
        "tidegate_config_info",
        "Which config is in force: a hash of its bytes.",
        MetricType::GAUGE,
        vec![gauge(&[("hash", config.hash)], 1.0)],
    );
}

fn process(families: &mut Families, scrape: &Scrape<'_>) {
    families.add(
        "tidegate_build_info",
        "Which tidegate this is.",
        MetricType::GAUGE,
        vec![gauge(&[("version", scrape.version)], 1.0)],
    );
    let Some(process) = scrape.process else { return };
    families.add(
        "process_cpu_seconds_total",
        "User and system time in seconds.",
        MetricType::COUNTER,
        vec![counted(&[], process.cpu_seconds)],
    );
    families.gauge("process_resident_memory_bytes", "Memory held in bytes.", exact(process.resident_bytes));
    families.gauge("process_open_fds", "Open file descriptors.", exact(process.open_fds));
    if let Some(max_fds) = process.max_fds {
        families.gauge("process_max_fds", "How many file descriptors may be open.", exact(max_fds));
    }
    families.gauge("process_start_time_seconds", "When the process started.", process.start_time_seconds);
    families.gauge("process_threads", "Threads.", exact(process.threads));
}

// -- the crate's own shapes

#[derive(Default)]
struct Families(Vec<MetricFamily>);

impl Families {
    /// A family without metrics is left out: the text format has no way to write one.
    fn add(&mut self, name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) {
        if metrics.is_empty() {
            return;
        }
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        family.set_metric(metrics);
        self.0.push(family);
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.add(name, help, MetricType::GAUGE, vec![gauge(&[], value)]);
    }

    fn counter(&mut self, name: &str, help: &str, count: u64) {
        self.add(name, help, MetricType::COUNTER, vec![counter(&[], count)]);
    }
}

fn labelled(labels: &[(&str, &str)]) -> Metric {
    let pair = |(name, value): &(&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    };
    Metric::from_label(labels.iter().map(pair).collect())
}

fn gauge(labels: &[(&str, &str)], value: f64) -> Metric {
    let mut gauge = Gauge::default();
    gauge.set_value(value);
    let mut metric = labelled(labels);
    metric.set_gauge(gauge);
    metric
}

fn counter(labels: &[(&str, &str)], count: u64) -> Metric {
    counted(labels, exact(count))
}

fn counted(labels: &[(&str, &str)], value: f64) -> Metric {
    let mut counter = Counter::default();
    counter.set_value(value);
    let mut metric = labelled(labels);
    metric.set_counter(counter);
    metric
}

fn histogram(labels: &[(&str, &str)], durations: &Distribution) -> Metric {
    let bucket = |octave: usize| {
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(exact(1 << octave) / 1e6);
        bucket.set_cumulative_count(durations.count_below_octave(octave));
        bucket
    };
    let mut histogram = Histogram::default();
    histogram.set_sample_count(durations.count());
    histogram.set_sample_sum(durations.sum_seconds());
    histogram.set_bucket(OCTAVES.map(bucket).collect());
    let mut metric = labelled(labels);
    metric.set_histogram(histogram);
    metric
}

fn flag(is_set: bool) -> f64 {
    f64::from(u8::from(is_set))
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus counts in f64, exact up to 2^53")]
fn exact(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::BackendLimits;
    use crate::metrics::endpoint::Against;
    use std::time::Duration;

    fn scrape(registry: &Registry) -> Scrape<'_> {
        Scrape {
            registry,
            rollouts: vec![RolloutGauges {
                name: "ledger",
                configured: Percent::from_f64(12.5).unwrap(),
                effective: Percent::ZERO,
                rolled_back: true,
            }],
            guards: vec![GuardGauges { rollout: "ledger", evidence: vec![("failures", "tolerated", 0.25)] }],
            config: ConfigGauges {
                hash: "00c0ffee00c0ffee",
                reloads: 3,
                successful: false,
                succeeded_at: UNIX_EPOCH + Duration::from_millis(1_500),
            },
            tls: TlsGauges::default(),
            state: StateGauges { durable: true, lost: false },
            process: None,
            version: "0.1.0",
        }
    }

    fn told(registry: &Registry) -> Vec<String> {
        render(&scrape(registry)).lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    }

    #[track_caller]
    fn assert_told(registry: &Registry, line: &str) {
        let told = told(registry);
        assert!(told.iter().any(|told| told == line), "{line}\nis not in\n{}", told.join("\n"));
    }

    #[test]
    fn a_live_rollout_has_zeros_before_its_first_request() {
        let registry = Registry::new(1);
        let _ = registry.rollout("ledger");
        for side in ["old", "new"] {
            let labels = format!("rollout=\"ledger\",side=\"{side}\"");
            assert_told(
                &registry,
                &format!("tidegate_requests_total{{{labels},reason=\"bucket\",code_class=\"2xx\"}} 0"),
            );
            assert_told(&registry, &format!("tidegate_inflight_requests{{{labels}}} 0"));
            assert_told(&registry, &format!("tidegate_request_duration_seconds_count{{{labels}}} 0"));
        }
        let requests = told(&registry).iter().filter(|line| line.starts_with("tidegate_requests_total")).count();
        assert_eq!(requests, 2, "nothing else that is zero");
    }

    #[test]
    fn requests_are_told_by_side_reason_and_class() {
        let registry = Registry::new(2);
        let meters = registry.rollout("ledger");
        let shard = meters.side(Side::New).shard(1);
        shard.begin();
        shard.end(Why::Decided(Reason::Force), Class::ServerError, Duration::from_micros(100));
        shard.begin();
        shard.fail(Failure::ConnectTimeout);
        let labels = "rollout=\"ledger\",side=\"new\"";
        assert_told(&registry, &format!("tidegate_requests_total{{{labels},reason=\"force\",code_class=\"5xx\"}} 1"));
        assert_told(&registry, &format!("tidegate_inflight_requests{{{labels}}} 1"));
        assert_told(&registry, &format!("tidegate_upstream_failures_total{{{labels},cause=\"connect_timeout\"}} 1"));
        assert_told(&registry, &format!("tidegate_request_duration_seconds_bucket{{{labels},le=\"0.000064\"}} 0"));
        assert_told(&registry, &format!("tidegate_request_duration_seconds_bucket{{{labels},le=\"0.000128\"}} 1"));
        assert_told(&registry, &format!("tidegate_request_duration_seconds_bucket{{{labels},le=\"16.777216\"}} 1"));
        assert_told(&registry, &format!("tidegate_request_duration_seconds_bucket{{{labels},le=\"+Inf\"}} 1"));
        assert_told(&registry, &format!("tidegate_request_duration_seconds_sum{{{labels}}} 0.0001"));
    }

    #[test]
    fn requests_without_a_rollout_have_empty_labels() {
        let registry = Registry::new(1);
        let unsplit = registry.unsplit();
        unsplit.shard(0).begin();
        unsplit.shard(0).end(Why::Unrouted, Class::ClientError, Duration::from_micros(10));
        let labels = "rollout=\"\",side=\"\",reason=\"unrouted\",code_class=\"4xx\"";
        assert_told(&registry, &format!("tidegate_requests_total{{{labels}}} 1"));
    }

    #[test]
    fn who_was_turned_away_has_a_rollout_and_no_side() {
        let registry = Registry::new(1);
        let meters = registry.rollout("ledger");
        assert!(
            !told(&registry).iter().any(|line| line.contains("rollout=\"ledger\",side=\"\"")),
            "not before the first"
        );
        for (why, reason) in [(Why::Maintenance, "maintenance"), (Why::Hold, "hold")] {
            meters.turned_away().shard(0).begin();
            meters.turned_away().shard(0).end(why, Class::ServerError, Duration::from_micros(10));
            let labels = format!("rollout=\"ledger\",side=\"\",reason=\"{reason}\",code_class=\"5xx\"");
            assert_told(&registry, &format!("tidegate_requests_total{{{labels}}} 1"));
        }
        let zeros = told(&registry).iter().filter(|line| line.contains("side=\"\",reason=\"bucket\"")).count();
        assert_eq!(zeros, 0);
    }

    #[test]
    fn trips_are_there_before_the_first_one_for_whoever_is_watched() {
        let registry = Registry::new(1);
        registry.rollout("ledger").trip(Cause::Latency);
        registry.rollout("gone").trip(Cause::Failures);
        let _ = registry.rollout("unguarded");
        let trips: Vec<String> =
            told(&registry).into_iter().filter(|line| line.starts_with("tidegate_guard_trips_total")).collect();
        let line = |rollout, cause, count| {
            format!("tidegate_guard_trips_total{{rollout=\"{rollout}\",cause=\"{cause}\"}} {count}")
        };
        let expected = [
            line("gone", "failures", 1),
            line("ledger", "failures", 0),
            line("ledger", "latency", 1),
            line("ledger", "users_hurt", 0),
            line("ledger", "query", 0),
        ];
        assert_eq!(trips, expected);
        assert_told(
            &registry,
            "tidegate_guard_evidence{rollout=\"ledger\",sense=\"failures\",part=\"tolerated\"} 0.25",
        );
    }

    #[test]
    fn a_backend_tells_of_its_endpoints_and_connections() {
        let registry = Registry::new(2);
        let backend = registry.backend("ledger-v2");
        backend.slots.limit(&BackendLimits { max_connections: 8, max_pending: 0, max_wait: Duration::ZERO });
        let _connection = backend.slots.take();
        let endpoint = backend.endpoint("10.0.0.1:80");
        endpoint.set(Against::Ejected, true);
        endpoint.count(1, true);
        backend.retried(Failure::Stale);
        let labels = "{backend=\"ledger-v2\",endpoint=\"10.0.0.1:80\"}";
        for line in [
            format!("tidegate_endpoint_healthy{labels} 0"),
            format!("tidegate_endpoint_inflight_requests{labels} 1"),
            format!("tidegate_endpoint_ejections_total{labels} 1"),
            "tidegate_backend_endpoints{backend=\"ledger-v2\"} 1".to_owned(),
            "tidegate_backend_healthy_endpoints{backend=\"ledger-v2\"} 0".to_owned(),
            "tidegate_backend_connections{backend=\"ledger-v2\"} 1".to_owned(),
            "tidegate_backend_max_connections{backend=\"ledger-v2\"} 8".to_owned(),
            "tidegate_backend_pending_requests{backend=\"ledger-v2\"} 0".to_owned(),
            "tidegate_retries_total{backend=\"ledger-v2\",cause=\"stale\"} 1".to_owned(),
        ] {
            assert_told(&registry, &line);
        }
        drop(endpoint);
        assert_told(&registry, "tidegate_backend_endpoints{backend=\"ledger-v2\"} 0");
        let told = told(&registry);
        assert!(!told.iter().any(|line| line.starts_with("tidegate_endpoint")), "nobody knows it any more: {told:?}");
    }

    #[test]
    fn shielded_requests_are_counted_over_all_workers() {
        let registry = Registry::new(2);
        let meters = registry.rollout("ledger");
        assert_told(&registry, "tidegate_shielded_requests_total{rollout=\"ledger\"} 0");
        [0, 1, 1].iter().for_each(|worker| meters.shield(*worker).shielded());
        assert_told(&registry, "tidegate_shielded_requests_total{rollout=\"ledger\"} 3");
    }

    #[test]
    fn gauges_tell_what_is_in_force() {
        let registry = Registry::new(1);
        for line in [
            "tidegate_rollout_percent{rollout=\"ledger\",kind=\"configured\"} 12.5",
            "tidegate_rollout_percent{rollout=\"ledger\",kind=\"effective\"} 0",
            "tidegate_rollback_active{rollout=\"ledger\"} 1",
            "tidegate_state_durable 1",
            "tidegate_state_lost 0",
            "tidegate_config_reloads_total 3",
            "tidegate_config_last_reload_successful 0",
            "tidegate_config_last_reload_success_timestamp_seconds 1.5",
            "tidegate_config_info{hash=\"00c0ffee00c0ffee\"} 1",
            "tidegate_build_info{version=\"0.1.0\"} 1",
            "tidegate_client_connections{worker=\"0\"} 0",
            "tidegate_accept_errors_total 0",
            "tidegate_access_log_dropped_total 0",
        ] {
            assert_told(&registry, line);
        }
    }

    #[test]
    fn counters_of_a_rollout_that_is_gone_stay() {
        let registry = Registry::new(1);
        let shard_of_gone = registry.rollout("gone");
        shard_of_gone.side(Side::Old).shard(0).begin();
        assert_told(&registry, "tidegate_inflight_requests{rollout=\"gone\",side=\"old\"} 1");
        assert!(!told(&registry).iter().any(|line| line.starts_with("tidegate_rollout_percent{rollout=\"gone\"")));
    }

    #[test]
    fn a_webhook_tells_what_became_of_its_messages() {
        let registry = Registry::new(1);
        let meters = registry.webhook("chat");
        meters.count(Delivery::Failed, 2);
        meters.set_queued(3);
        for (result, count) in [("delivered", 0), ("failed", 2), ("dropped", 0)] {
            let labels = format!("webhook=\"chat\",result=\"{result}\"");
            assert_told(&registry, &format!("tidegate_webhook_deliveries_total{{{labels}}} {count}"));
        }
        assert_told(&registry, "tidegate_webhook_queued{webhook=\"chat\"} 3");
    }

    #[test]
    fn every_family_has_help() {
        let registry = Registry::new(1);
        let _ = registry.webhook("chat");
        let _ = registry.rollout("ledger");
        let process = Process {
            cpu_seconds: 1.25,
            resident_bytes: 4096,
            open_fds: 9,
            max_fds: Some(1024),
            start_time_seconds: 17.0,
            threads: 3,
        };
        let text = render(&Scrape { process: Some(process), ..scrape(&registry) });
        let families = text.lines().filter(|line| line.starts_with("# TYPE")).count();
        assert_eq!(families, text.lines().filter(|line| line.starts_with("# HELP")).count());
        for line in ["process_cpu_seconds_total 1.25", "process_max_fds 1024", "process_threads 3"] {
            assert!(text.lines().any(|told| told == line), "{line} in\n{text}");
        }
    }
}
