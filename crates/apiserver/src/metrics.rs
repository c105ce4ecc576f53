//! The server's own metrics, under upstream's names.

use std::{sync::Arc, time::Duration};

use api_types::Resource;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
};

use crate::{kinds::Kinds, request::Request, server::Server};

/// Upstream's buckets for requests, in seconds.
const REQUEST_BUCKETS_S: [f64; 22] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0,
    45.0,
];
/// Upstream's buckets for the store, in seconds.
const STORE_BUCKETS_S: [f64; 16] =
    [0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0];

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    verb: &'static str,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: &'static str,
    component: &'static str,
    dry_run: String,
    code: u16,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DurationLabels {
    verb: &'static str,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: &'static str,
    component: &'static str,
    dry_run: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    request_kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResourceLabels {
    group: String,
    resource: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VersionLabels {
    group: String,
    version: String,
    resource: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StoreLabels {
    operation: &'static str,
    group: String,
    resource: String,
}

type Durations<L> = Family<L, Histogram, fn() -> Histogram>;

/// Clones share the numbers.
#[derive(Clone)]
pub struct Metrics {
    registry: daemon::metrics::Registry,
    requests: Family<RequestLabels, Counter>,
    durations: Durations<DurationLabels>,
    in_flight: Family<KindLabels, Gauge>,
    long_running: Family<VersionLabels, Gauge>,
    watch_events: Family<VersionLabels, Counter>,
    objects: Family<ResourceLabels, Gauge>,
    store_durations: Durations<StoreLabels>,
    store_requests: Family<StoreLabels, Counter>,
    tls_errors: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            registry: daemon::metrics::Registry::default(),
            requests: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(REQUEST_BUCKETS_S)),
            in_flight: Family::default(),
            long_running: Family::default(),
            watch_events: Family::default(),
            objects: Family::default(),
            store_durations: Family::new_with_constructor(|| Histogram::new(STORE_BUCKETS_S)),
            store_requests: Family::default(),
            tls_errors: Counter::default(),
        };
        let registry = &metrics.registry;
        registry.register("apiserver_request", "Requests by verb, resource and code", metrics.requests.clone());
        registry.register("apiserver_request_duration_seconds", "Time to answer", metrics.durations.clone());
        registry.register(
            "apiserver_current_inflight_requests",
            "Requests under way that are neither watches nor streams",
            metrics.in_flight.clone(),
        );
        registry.register("apiserver_longrunning_requests", "Watches under way", metrics.long_running.clone());
        registry.register("apiserver_watch_events", "Events sent to watchers", metrics.watch_events.clone());
        registry.register("apiserver_resource_objects", "Stored objects by resource", metrics.objects.clone());
        registry.register("etcd_request_duration_seconds", "Time of the store", metrics.store_durations.clone());
        registry.register("etcd_requests", "Requests to the store", metrics.store_requests.clone());
        registry.register("apiserver_tls_handshake_errors", "Failed TLS handshakes", metrics.tls_errors.clone());
        metrics
    }
}

/// Counted as under way until it is dropped.
#[derive(Debug)]
pub struct UnderWay(Gauge);

impl UnderWay {
    fn begin(gauge: Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    /// Counts a request. Paths are not told apart: they are the client's to make up.
    /// Nor are resources that nobody serves.
    pub fn answered(&self, request: &Request, kinds: &Kinds, code: u16, took: Duration) {
        let target = request.target.clone();
        let target = target.filter(|target| kinds.find(&target.group, &target.version, &target.resource).is_some());
        let target = target.unwrap_or_default();
        let verb = verb(request.verb);
        let scope = match (&request.target, target.key.name.is_empty(), target.key.namespace.is_empty()) {
            (None, _, _) => "",
            (_, false, _) => "resource",
            (_, true, false) => "namespace",
            (_, true, true) => "cluster",
        };
        let labels = DurationLabels {
            verb,
            group: target.group,
            version: target.version,
            resource: target.resource,
            subresource: target.subresource,
            scope,
            component: "apiserver",
            dry_run: request.query.text("dryRun").to_owned(),
        };
        if verb != "WATCH" {
            self.durations.get_or_create(&labels).observe(took.as_secs_f64());
        }
        let DurationLabels { verb, group, version, resource, subresource, scope, component, dry_run } = labels;
        let labels = RequestLabels { verb, group, version, resource, subresource, scope, component, dry_run, code };
        self.requests.get_or_create(&labels).inc();
    }

    pub fn in_flight(&self, is_reading: bool) -> UnderWay {
        let request_kind = if is_reading { "readOnly" } else { "mutating" };
        UnderWay::begin(self.in_flight.get_or_create_owned(&KindLabels { request_kind }))
    }

    /// A watch, and the counter of the events that it sends.
    pub fn watch(&self, resource: &Resource) -> (UnderWay, Counter) {
        let labels = VersionLabels {
            group: resource.group.to_string(),
            version: resource.version.to_string(),
            resource: resource.plural.to_string(),
        };
        let under_way = UnderWay::begin(self.long_running.get_or_create_owned(&labels));
        (under_way, self.watch_events.get_or_create_owned(&labels))
    }

    pub fn stored(&self, operation: &'static str, group: &str, resource: &str, took: Duration) {
        let labels = StoreLabels { operation, group: group.to_owned(), resource: resource.to_owned() };
        self.store_durations.get_or_create(&labels).observe(took.as_secs_f64());
        self.store_requests.get_or_create(&labels).inc();
    }

    pub fn handshake_failed(&self) {
        self.tls_errors.inc();
    }

    /// For parts that count by themselves.
    pub fn registry(&self) -> &daemon::metrics::Registry {
        &self.registry
    }

    /// The exposition text.
    pub fn text(&self, server: &Arc<Server>) -> String {
        for kind in server.kinds.table().rows() {
            if kind.view.is_none() {
                let (snapshot, _) = server.cache.snapshot(&kind.storage);
                let (group, resource) = (kind.resource.group.to_string(), kind.resource.plural.to_string());
                let count = i64::try_from(snapshot.len()).unwrap_or(i64::MAX);
                self.objects.get_or_create(&ResourceLabels { group, resource }).set(count);
            }
        }
        self.registry.text()
    }
}

/// Upstream labels by HTTP's words, and lists apart.
fn verb(verb: &str) -> &'static str {
    match verb {
        "get" | "head" => "GET",
        "list" => "LIST",
        "watch" => "WATCH",
        "create" | "post" => "POST",
        "update" | "put" => "PUT",
        "patch" => "PATCH",
        "delete" => "DELETE",
        "deletecollection" => "DELETECOLLECTION",
        _ => "other",
    }
}
