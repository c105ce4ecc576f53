//! What the proxy counts, under upstream's names.

use std::time::Duration;

use daemon::metrics::{
    Registry,
    prometheus_client::metrics::{counter::Counter, gauge::Gauge, histogram::Histogram},
};

/// From 1 ms, doubling, as upstream.
const SECONDS: [f64; 15] =
    [0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384];

#[derive(Clone)]
pub struct Metrics {
    took: Histogram,
    failures: Counter,
    last_s: Gauge,
}

impl Metrics {
    pub fn register(registry: &Registry) -> Self {
        let metrics = Self { took: Histogram::new(SECONDS), failures: Counter::default(), last_s: Gauge::default() };
        registry.register("kubeproxy_sync_proxy_rules_duration_seconds", "Time to load rules", metrics.took.clone());
        let failures = "kubeproxy_sync_proxy_rules_nftables_sync_failures";
        registry.register(failures, "Transactions that failed", metrics.failures.clone());
        let last = "kubeproxy_sync_proxy_rules_last_timestamp_seconds";
        registry.register(last, "When rules were last loaded", metrics.last_s.clone());
        metrics
    }
    pub fn synced(&self, took: Duration) {
        self.took.observe(took.as_secs_f64());
        self.last_s.set(api_types::jiff::Timestamp::now().as_second());
    }
    pub fn failed(&self) {
        self.failures.inc();
    }
}
