//! The server's own metrics, under upstream's names. Labels are the table's words and the
//! protocol's, never a client's: nobody can make up a new series.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use api_types::{Resource, resources::Text};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
};
use tokio::time::Instant;

use crate::{
    kinds::{Kind, Kinds},
    paths,
    request::{Request, Target},
    server::Server,
};

/// Upstream's buckets for requests, in seconds.
const REQUEST_BUCKETS_S: [f64; 22] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0,
    45.0,
];
/// Upstream's buckets for the store, in seconds.
const STORE_BUCKETS_S: [f64; 16] =
    [0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0];
/// Upstream's buckets for answers.
const SIZE_BUCKETS_BYTES: [f64; 7] = [1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];

/// What was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Asked {
    verb: &'static str,
    group: Text,
    version: Text,
    resource: Text,
    subresource: Text,
    scope: &'static str,
    component: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DurationLabels {
    #[prometheus(flatten)]
    asked: Asked,
    dry_run: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    #[prometheus(flatten)]
    asked: Asked,
    dry_run: &'static str,
    code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    request_kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResourceLabels {
    group: Text,
    resource: Text,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct IndexLabels {
    group: Text,
    resource: Text,
    /// Empty: the order of keys, the only one that lists use.
    index: &'static str,
}

/// `pods`, `deployments.apps`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NameLabels {
    resource: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VersionLabels {
    group: Text,
    version: Text,
    resource: Text,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StoreLabels {
    operation: &'static str,
    group: Text,
    resource: Text,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BuildLabels {
    major: &'static str,
    minor: &'static str,
    git_version: &'static str,
    platform: String,
    compiler: &'static str,
}

type Durations<L> = Family<L, Histogram, fn() -> Histogram>;

/// Clones share the numbers.
#[derive(Clone)]
pub struct Metrics {
    registry: daemon::metrics::Registry,
    requests: Family<RequestLabels, Counter>,
    durations: Durations<DurationLabels>,
    /// The same for service level objectives: without what is none of this server's time.
    objectives: Durations<Asked>,
    sizes: Durations<Asked>,
    in_flight: Family<KindLabels, Gauge>,
    long_running: Family<Asked, Gauge>,
    watch_events: Family<VersionLabels, Counter>,
    objects: Family<ResourceLabels, Gauge>,
    objects_by_name: Family<NameLabels, Gauge>,
    cache_revisions: Family<ResourceLabels, Gauge>,
    cache_events: Family<ResourceLabels, Counter>,
    lists: Family<IndexLabels, Counter>,
    listed_from: Family<IndexLabels, Counter>,
    listed: Family<ResourceLabels, Counter>,
    store_durations: Durations<StoreLabels>,
    store_requests: Family<StoreLabels, Counter>,
    store_errors: Family<StoreLabels, Counter>,
    tls_errors: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        let requests: fn() -> Histogram = || Histogram::new(REQUEST_BUCKETS_S);
        let metrics = Self {
            registry: daemon::metrics::Registry::default(),
            requests: Family::default(),
            durations: Family::new_with_constructor(requests),
            objectives: Family::new_with_constructor(requests),
            sizes: Family::new_with_constructor(|| Histogram::new(SIZE_BUCKETS_BYTES)),
            in_flight: Family::default(),
            long_running: Family::default(),
            watch_events: Family::default(),
            objects: Family::default(),
            objects_by_name: Family::default(),
            cache_revisions: Family::default(),
            cache_events: Family::default(),
            lists: Family::default(),
            listed_from: Family::default(),
            listed: Family::default(),
            store_durations: Family::new_with_constructor(|| Histogram::new(STORE_BUCKETS_S)),
            store_requests: Family::default(),
            store_errors: Family::default(),
            tls_errors: Counter::default(),
        };
        metrics.register();
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

/// What is measured when an answer has been sent: dropped, it is written down.
#[derive(Debug)]
pub struct Ending {
    started: Instant,
    durations_s: [Option<Histogram>; 2],
    size_bytes: Option<Histogram>,
    sent_bytes: usize,
    _under_way: Option<UnderWay>,
}

impl Ending {
    /// So much more was sent.
    pub fn add(&mut self, bytes: usize) {
        self.sent_bytes += bytes;
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        let took_s = self.started.elapsed().as_secs_f64();
        self.durations_s.iter().flatten().for_each(|histogram| histogram.observe(took_s));
        self.size_bytes.iter().for_each(|histogram| histogram.observe(self.sent_bytes as f64));
    }
}

impl Metrics {
    fn register(&self) {
        let r = &self.registry;
        r.register("apiserver_request", "Requests by verb, resource and code", self.requests.clone());
        r.register("apiserver_request_duration_seconds", "Time to answer", self.durations.clone());
        let help = "Time to answer, for service level objectives";
        r.register("apiserver_request_sli_duration_seconds", help, self.objectives.clone());
        r.register("apiserver_response_sizes", "Sizes of answers in bytes", self.sizes.clone());
        let help = "Requests under way that are neither watches nor streams";
        r.register("apiserver_current_inflight_requests", help, self.in_flight.clone());
        r.register("apiserver_longrunning_requests", "Watches and streams under way", self.long_running.clone());
        r.register("apiserver_watch_events", "Events sent to watchers", self.watch_events.clone());
        r.register("apiserver_resource_objects", "Stored objects by resource", self.objects.clone());
        r.register("apiserver_storage_objects", "Stored objects by resource", self.objects_by_name.clone());
        let help = "Revision up to which the watch cache has followed the store";
        r.register("apiserver_watch_cache_resource_version", help, self.cache_revisions.clone());
        let help = "Events that the watch cache received from the store";
        r.register("apiserver_watch_cache_events_received", help, self.cache_events.clone());
        r.register("apiserver_cache_list", "Lists served from the watch cache", self.lists.clone());
        let help = "Objects looked at for lists from the watch cache";
        r.register("apiserver_cache_list_fetched_objects", help, self.listed_from.clone());
        let help = "Objects returned in lists from the watch cache";
        r.register("apiserver_cache_list_returned_objects", help, self.listed.clone());
        r.register("etcd_request_duration_seconds", "Time of the store", self.store_durations.clone());
        r.register("etcd_requests", "Requests to the store", self.store_requests.clone());
        r.register("etcd_request_errors", "Requests that the store did not answer", self.store_errors.clone());
        r.register("apiserver_tls_handshake_errors", "Failed TLS handshakes", self.tls_errors.clone());
        let build = Family::<BuildLabels, Gauge>::default();
        let platform = paths::platform();
        let (major, minor, git_version) = (paths::MAJOR, paths::MINOR, paths::GIT_VERSION);
        build.get_or_create(&BuildLabels { major, minor, git_version, platform, compiler: "rustc" }).set(1);
        r.register("kubernetes_build_info", "What this server was built from", build);
    }

    /// Counts a request whose answer is about to be sent.
    pub fn answered(&self, request: &Request, kinds: &Kinds, code: u16, started: Instant) -> Ending {
        let asked = asked(request, kinds);
        let is_long_running = request.is_long_running();
        let dry_run = if request.query.text("dryRun") == "All" { "All" } else { "" };
        let durations = DurationLabels { asked: asked.clone(), dry_run };
        let labels = RequestLabels { asked: asked.clone(), dry_run, code };
        self.requests.get_or_create(&labels).inc();
        let sizes = || self.sizes.get_or_create_owned(&asked);
        Ending {
            started,
            durations_s: match is_long_running {
                true => [None, None],
                false => [
                    Some(self.durations.get_or_create_owned(&durations)),
                    Some(self.objectives.get_or_create_owned(&asked)),
                ],
            },
            size_bytes: matches!(asked.verb, "GET" | "LIST").then(sizes),
            sent_bytes: 0,
            _under_way: is_long_running.then(|| UnderWay::begin(self.long_running.get_or_create_owned(&asked))),
        }
    }

    pub fn in_flight(&self, is_reading: bool) -> UnderWay {
        let request_kind = if is_reading { "readOnly" } else { "mutating" };
        UnderWay::begin(self.in_flight.get_or_create_owned(&KindLabels { request_kind }))
    }

    /// The counter of the events of a resource that watchers are sent.
    pub fn watched(&self, resource: &Resource) -> Counter {
        let Resource { group, version, plural, .. } = resource.clone();
        self.watch_events.get_or_create_owned(&VersionLabels { group, version, resource: plural })
    }

    /// A list from the watch cache: how many objects were looked at, and how many were returned.
    pub fn listed(&self, kind: &Kind, fetched: usize, returned: usize) {
        let labels = resource_labels(&kind.resource);
        self.listed.get_or_create(&labels).inc_by(returned as u64);
        let ResourceLabels { group, resource } = labels;
        let labels = IndexLabels { group, resource, index: "" };
        self.lists.get_or_create(&labels).inc();
        self.listed_from.get_or_create(&labels).inc_by(fetched as u64);
    }

    pub fn stored(&self, operation: &'static str, resource: Option<&Resource>, is_error: bool, took: Duration) {
        let labels = resource.map(resource_labels);
        let (group, resource) = labels.map(|labels| (labels.group, labels.resource)).unwrap_or_default();
        let labels = StoreLabels { operation, group, resource };
        self.store_durations.get_or_create(&labels).observe(took.as_secs_f64());
        self.store_requests.get_or_create(&labels).inc();
        if is_error {
            self.store_errors.get_or_create(&labels).inc();
        }
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
        for kind in server.kinds.table().rows().iter().filter(|kind| kind.view.is_none()) {
            let (snapshot, revision) = server.cache.snapshot(&kind.storage);
            let count = i64::try_from(snapshot.len()).unwrap_or(i64::MAX);
            let labels = resource_labels(&kind.resource);
            self.objects.get_or_create(&labels).set(count);
            self.cache_revisions.get_or_create(&labels).set(i64::try_from(revision).unwrap_or(i64::MAX));
            let received = server.cache.shelf(&kind.storage).received();
            self.cache_events.get_or_create(&labels).inner().store(received, Ordering::Relaxed);
            let resource = match labels.group.as_ref() {
                "" => labels.resource.to_string(),
                group => format!("{}.{group}", labels.resource),
            };
            self.objects_by_name.get_or_create(&NameLabels { resource }).set(count);
        }
        self.registry.text()
    }
}

fn resource_labels(resource: &Resource) -> ResourceLabels {
    ResourceLabels { group: resource.group.clone(), resource: resource.plural.clone() }
}

/// Paths are not told apart, nor are resources and subresources that nobody serves: a client can make up
/// as many as it likes, and needs no credentials for that.
fn asked(request: &Request, kinds: &Kinds) -> Asked {
    let component = "apiserver";
    let Some(target) = &request.target else { return Asked { verb: verb(request), component, ..Asked::default() } };
    let scope = match (target.key.name.is_empty(), target.key.namespace.is_empty()) {
        (false, _) => "resource",
        (true, false) => "namespace",
        (true, true) => "cluster",
    };
    let Some(kind) = kinds.find(&target.group, &target.version, &target.resource) else {
        return Asked { verb: verb(request), scope, component, ..Asked::default() };
    };
    let Resource { group, version, plural, .. } = &kind.resource;
    let subresource = kind.resource.subresource(&target.subresource).map(|sub| sub.name.clone()).unwrap_or_default();
    let (group, version, resource) = (group.clone(), version.clone(), plural.clone());
    Asked { verb: verb(request), group, version, resource, subresource, scope, component }
}

/// Upstream labels by HTTP's words; lists, watches and streams apart.
fn verb(request: &Request) -> &'static str {
    const STREAMS: [&str; 4] = ["attach", "exec", "portforward", "proxy"];
    let is_stream = |target: &Target| STREAMS.contains(&target.subresource.as_str());
    match request.verb {
        _ if request.target.as_ref().is_some_and(is_stream) => "CONNECT",
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

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;
    use crate::request;

    /// CVE-2020-8552, attack table row 11: whatever a client makes up, the number of series stays.
    #[test]
    fn clients_make_up_no_series() {
        let (metrics, kinds) = (Metrics::default(), Kinds::built_in());
        let ask = |method: &str, uri: &str| {
            let method = Method::from_bytes(method.as_bytes()).expect("a method");
            let request = request::read(&method, &uri.parse().expect("a URI"));
            drop(metrics.answered(&request, &kinds, 401, Instant::now()));
        };
        let lines = || metrics.registry.text().lines().count();
        let mut before = 0;
        for round in 0..100 {
            for uri in [
                format!("/x{round}"),
                format!("/apis/g{round}/v1/things"),
                format!("/api/v{round}/namespaces/n/pods"),
                format!("/api/v1/r{round}"),
                format!("/api/v1/namespaces/n/pods/p{round}"),
                format!("/api/v1/namespaces/n{round}/pods/p/s{round}"),
                format!("/api/v1/namespaces/n/pods?dryRun=d{round}"),
            ] {
                ask("GET", &uri);
                ask(&format!("M{round}"), &uri);
            }
            if round == 0 {
                before = lines();
            }
        }
        assert_eq!(lines(), before);
    }

    #[test]
    fn an_answer_is_measured_when_it_has_been_sent() {
        let (metrics, kinds) = (Metrics::default(), Kinds::built_in());
        let request = request::read(&Method::GET, &"/api/v1/namespaces/n/pods".parse().expect("a URI"));
        let mut ending = metrics.answered(&request, &kinds, 200, Instant::now());
        ending.add(1_500);
        let before = metrics.registry.text();
        assert!(!before.contains("apiserver_response_sizes_sum") || before.contains("} 0.0"), "{before}");
        drop(ending);
        let text = metrics.registry.text();
        let labels = r#"verb="LIST",group="",version="v1",resource="pods",subresource="",scope="namespace",component="apiserver""#;
        assert!(text.contains(&format!("apiserver_response_sizes_sum{{{labels}}} 1500.0")), "{text}");
        assert!(text.contains(&format!("apiserver_request_total{{{labels},dry_run=\"\",code=\"200\"}} 1")), "{text}");
    }
}
