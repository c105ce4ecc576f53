//! What the scheduler counts, under upstream's names.

use std::time::Duration;

use daemon::metrics::{
    Registry,
    prometheus_client::metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
};

use crate::queue::Queue;

type Labels = Vec<(&'static str, String)>;

/// From 1 ms, doubling, as upstream.
const SECONDS: [f64; 15] =
    [0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384];

#[derive(Clone)]
pub struct Metrics {
    attempts: Family<Labels, Counter>,
    pending: Family<Labels, Gauge>,
    algorithm: Histogram,
    victims: Histogram,
}

impl Metrics {
    pub fn register(registry: &Registry) -> Self {
        let metrics = Self {
            attempts: Family::default(),
            pending: Family::default(),
            algorithm: Histogram::new(SECONDS),
            victims: Histogram::new([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0]),
        };
        registry.register("scheduler_schedule_attempts", "Attempts by result", metrics.attempts.clone());
        registry.register("scheduler_pending_pods", "Pods that wait, by queue", metrics.pending.clone());
        let seconds = "scheduler_scheduling_algorithm_duration_seconds";
        registry.register(seconds, "Time to decide", metrics.algorithm.clone());
        registry.register("scheduler_preemption_victims", "Pods removed per preemption", metrics.victims.clone());
        metrics
    }

    /// `result` is `scheduled`, `unschedulable` or `error`.
    pub fn attempted(&self, profile: &str, result: &str) {
        let labels = vec![("profile", profile.to_owned()), ("result", result.to_owned())];
        self.attempts.get_or_create(&labels).inc();
    }

    pub fn decided(&self, took: Duration) {
        self.algorithm.observe(took.as_secs_f64());
    }

    pub fn preempted(&self, victims: usize) {
        self.victims.observe(victims as f64);
    }

    pub fn pending(&self, queue: &Queue) {
        for (name, length) in queue.lengths() {
            self.pending.get_or_create(&vec![("queue", name.to_owned())]).set(length as i64);
        }
    }
}
