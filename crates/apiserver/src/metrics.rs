//! The server's own metrics, under upstream's names.

use std::time::Duration;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
};

use crate::{request::Request, server::Server};

/// Upstream's buckets for requests, in seconds.
const DURATION_BUCKETS_S: [f64; 22] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0,
    45.0,
];

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    verb: &'static str,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: &'static str,
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
}

pub struct Metrics {
    registry: daemon::metrics::Registry,
    requests: Family<RequestLabels, Counter>,
    durations: Family<DurationLabels, Histogram, fn() -> Histogram>,
}

impl Default for Metrics {
    fn default() -> Self {
        let registry = daemon::metrics::Registry::default();
        let requests = Family::<RequestLabels, Counter>::default();
        let durations: Family<DurationLabels, Histogram, fn() -> Histogram> =
            Family::new_with_constructor(|| Histogram::new(DURATION_BUCKETS_S));
        registry.register("apiserver_request", "Requests by verb, resource and code", requests.clone());
        registry.register("apiserver_request_duration_seconds", "Time to answer", durations.clone());
        Self { registry, requests, durations }
    }
}

impl Metrics {
    /// Counts a request. Paths are not told apart: they are the client's to make up.
    pub fn answered(&self, request: &Request, code: u16, took: Duration) {
        let target = request.target.clone().unwrap_or_default();
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
        };
        if verb != "WATCH" {
            self.durations.get_or_create(&labels).observe(took.as_secs_f64());
        }
        let DurationLabels { verb, group, version, resource, subresource, scope } = labels;
        let labels = RequestLabels { verb, group, version, resource, subresource, scope, code };
        self.requests.get_or_create(&labels).inc();
    }

    pub fn text(&self, _server: &Server) -> String {
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
