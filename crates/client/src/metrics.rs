//! What clients, queues and elections count, under upstream's names. A daemon exposes
//! them by passing its registry to [`register`].

use std::sync::LazyLock;

use http::{Method, StatusCode};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    code: String,
    method: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct NameLabel {
    pub name: String,
}

/// Bounds as upstream's workqueue metrics: 10 ns to 10 s.
const SECONDS: [f64; 10] = [1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0];

type Seconds = Family<NameLabel, Histogram, fn() -> Histogram>;

struct Metrics {
    requests: Family<RequestLabels, Counter>,
    adds: Family<NameLabel, Counter>,
    retries: Family<NameLabel, Counter>,
    panics: Counter,
    depth: Family<NameLabel, Gauge>,
    waited: Seconds,
    worked: Seconds,
    leading: Family<NameLabel, Gauge>,
    events_dropped: Counter,
}

static METRICS: LazyLock<Metrics> = LazyLock::new(|| {
    let seconds = || Histogram::new(SECONDS);
    Metrics {
        requests: Family::default(),
        adds: Family::default(),
        retries: Family::default(),
        panics: Counter::default(),
        depth: Family::default(),
        waited: Family::new_with_constructor(seconds),
        worked: Family::new_with_constructor(seconds),
        leading: Family::default(),
        events_dropped: Counter::default(),
    }
});

/// Makes the metrics of this crate part of a daemon's.
pub fn register(registry: &mut Registry) {
    let m = &*METRICS;
    registry.register("rest_client_requests", "Requests by code and method", m.requests.clone());
    registry.register("workqueue_adds", "Keys added to a work queue", m.adds.clone());
    registry.register("workqueue_retries", "Keys queued again after a failure", m.retries.clone());
    registry.register("workqueue_depth", "Keys that wait in a work queue", m.depth.clone());
    registry.register("workqueue_queue_duration_seconds", "Time that a key waits", m.waited.clone());
    registry.register("workqueue_work_duration_seconds", "Time that a key takes", m.worked.clone());
    registry.register("controller_panics", "Reconciles that panicked", m.panics.clone());
    registry.register("leader_election_master_status", "1 while this process leads", m.leading.clone());
    registry.register("events_discarded", "Events dropped as the buffer was full", m.events_dropped.clone());
}

pub(crate) fn answered(method: &Method, code: StatusCode) {
    let labels = RequestLabels { code: code.as_str().to_owned(), method: method.to_string() };
    METRICS.requests.get_or_create(&labels).inc();
}
pub(crate) fn failed(method: &Method) {
    let labels = RequestLabels { code: "<error>".to_owned(), method: method.to_string() };
    METRICS.requests.get_or_create(&labels).inc();
}
pub(crate) fn event_dropped() {
    METRICS.events_dropped.inc();
}
pub(crate) fn panicked() {
    METRICS.panics.inc();
}
pub(crate) fn leading(name: &str, leads: bool) {
    METRICS.leading.get_or_create(&NameLabel { name: name.to_owned() }).set(i64::from(leads));
}

/// The metrics of one named queue.
#[derive(Clone)]
pub(crate) struct QueueMetrics {
    pub adds: Counter,
    pub retries: Counter,
    pub depth: Gauge,
    pub waited: Histogram,
    pub worked: Histogram,
}

pub(crate) fn queue(name: &str) -> QueueMetrics {
    let label = NameLabel { name: name.to_owned() };
    let m = &*METRICS;
    QueueMetrics {
        adds: m.adds.get_or_create(&label).clone(),
        retries: m.retries.get_or_create(&label).clone(),
        depth: m.depth.get_or_create(&label).clone(),
        waited: m.waited.get_or_create(&label).clone(),
        worked: m.worked.get_or_create(&label).clone(),
    }
}
