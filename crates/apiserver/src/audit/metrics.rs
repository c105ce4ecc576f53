//! What audit counts, under upstream's names.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
};

use super::policy::Level;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PluginLabels {
    plugin: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LevelLabels {
    level: &'static str,
}

/// Clones share the numbers.
#[derive(Clone, Default)]
pub struct Metrics {
    events: Counter,
    errors: Family<PluginLabels, Counter>,
    levels: Family<LevelLabels, Counter>,
    rejected: Counter,
}

impl Metrics {
    pub fn register(&self, registry: &daemon::metrics::Registry) {
        registry.register("apiserver_audit_event", "Audit events sent to the backends", self.events.clone());
        registry.register("apiserver_audit_error", "Audit events that were lost, by backend", self.errors.clone());
        registry.register("apiserver_audit_level", "Requests by the policy's level", self.levels.clone());
        registry.register(
            "apiserver_audit_requests_rejected",
            "Requests refused because their audit event could not be stored",
            self.rejected.clone(),
        );
    }

    pub fn sent(&self) {
        self.events.inc();
    }

    pub fn lost(&self, plugin: &'static str, count: u64) {
        self.errors.get_or_create(&PluginLabels { plugin }).inc_by(count);
    }

    pub fn decided(&self, level: Level) {
        self.levels.get_or_create(&LevelLabels { level: level.name() }).inc();
    }

    pub fn rejected(&self) {
        self.rejected.inc();
    }

    #[cfg(test)]
    pub fn lost_by(&self, plugin: &'static str) -> u64 {
        self.errors.get_or_create(&PluginLabels { plugin }).get()
    }
}
