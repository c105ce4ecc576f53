//! What priority and fairness measures, under upstream's names. A flow's own meters are looked up when the
//! configuration changes, not when a request comes.

use std::sync::atomic::AtomicU64;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
};

use super::{
    queues::Refusal,
    shares::{Bounds, Demand, Grant},
};

const DURATION_BUCKETS_S: [f64; 13] = [0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0];
const SEATS_BUCKETS: [f64; 8] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 100.0];
const LENGTH_BUCKETS: [f64; 8] = [0.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LevelLabels {
    priority_level: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FlowLabels {
    priority_level: String,
    flow_schema: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RejectLabels {
    priority_level: String,
    flow_schema: String,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WaitLabels {
    priority_level: String,
    flow_schema: String,
    execute: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ExecutionLabels {
    priority_level: String,
    flow_schema: String,
    r#type: &'static str,
}

type Float = Gauge<f64, AtomicU64>;
type Durations<L> = Family<L, Histogram, fn() -> Histogram>;

/// Clones share the numbers.
#[derive(Clone)]
pub struct Metrics {
    rejected: Family<RejectLabels, Counter>,
    dispatched: Family<FlowLabels, Counter>,
    waiting_requests: Family<FlowLabels, Gauge>,
    waiting_seats: Family<FlowLabels, Gauge>,
    executing_requests: Family<FlowLabels, Gauge>,
    executing_seats: Family<FlowLabels, Gauge>,
    wait: Durations<WaitLabels>,
    execution: Durations<ExecutionLabels>,
    estimated: Durations<FlowLabels>,
    queue_length: Durations<FlowLabels>,
    nominal: Family<LevelLabels, Gauge>,
    lower: Family<LevelLabels, Gauge>,
    upper: Family<LevelLabels, Gauge>,
    current: Family<LevelLabels, Gauge>,
    high_watermark: Family<LevelLabels, Gauge>,
    average: Family<LevelLabels, Float>,
    deviation: Family<LevelLabels, Float>,
    smoothed: Family<LevelLabels, Float>,
    target: Family<LevelLabels, Float>,
    progress: Family<LevelLabels, Float>,
    fair: Float,
}

impl Metrics {
    pub fn new(registry: &daemon::metrics::Registry) -> Self {
        let metrics = Self {
            rejected: Family::default(),
            dispatched: Family::default(),
            waiting_requests: Family::default(),
            waiting_seats: Family::default(),
            executing_requests: Family::default(),
            executing_seats: Family::default(),
            wait: Family::new_with_constructor(|| Histogram::new(DURATION_BUCKETS_S)),
            execution: Family::new_with_constructor(|| Histogram::new(DURATION_BUCKETS_S)),
            estimated: Family::new_with_constructor(|| Histogram::new(SEATS_BUCKETS)),
            queue_length: Family::new_with_constructor(|| Histogram::new(LENGTH_BUCKETS)),
            nominal: Family::default(),
            lower: Family::default(),
            upper: Family::default(),
            current: Family::default(),
            high_watermark: Family::default(),
            average: Family::default(),
            deviation: Family::default(),
            smoothed: Family::default(),
            target: Family::default(),
            progress: Family::default(),
            fair: Float::default(),
        };
        registry.with(|families| metrics.register(families));
        metrics
    }

    fn register(&self, families: &mut prometheus_client::registry::Registry) {
        let families = families.sub_registry_with_prefix("apiserver_flowcontrol");
        families.register("rejected_requests", "Requests refused", self.rejected.clone());
        families.register("dispatched_requests", "Requests that have begun", self.dispatched.clone());
        families.register("current_inqueue_requests", "Requests that wait", self.waiting_requests.clone());
        families.register("current_inqueue_seats", "Seats that requests wait for", self.waiting_seats.clone());
        families.register("current_executing_requests", "Requests that run", self.executing_requests.clone());
        families.register("current_executing_seats", "Seats that are taken", self.executing_seats.clone());
        families.register("request_wait_duration_seconds", "Time in a queue", self.wait.clone());
        families.register("request_execution_seconds", "Time on a seat", self.execution.clone());
        families.register("work_estimated_seats", "Seats that requests are taken to need", self.estimated.clone());
        families.register(
            "request_queue_length_after_enqueue",
            "Length of its queue as each request finds it",
            self.queue_length.clone(),
        );
        families.register("nominal_limit_seats", "Seats by a level's share", self.nominal.clone());
        families.register("lower_limit_seats", "Seats that a level never lends", self.lower.clone());
        families.register("upper_limit_seats", "Seats that a level never exceeds", self.upper.clone());
        families.register("current_limit_seats", "Seats that a level has now", self.current.clone());
        families.register(
            "demand_seats_high_watermark",
            "Most seats asked for in the last period",
            self.high_watermark.clone(),
        );
        families.register("demand_seats_average", "Seats asked for in the last period", self.average.clone());
        families.register("demand_seats_stdev", "Deviation of the seats asked for", self.deviation.clone());
        families.register("demand_seats_smoothed", "Seats asked for, smoothed over periods", self.smoothed.clone());
        families.register("target_seats", "Seats that a level wishes", self.target.clone());
        families.register("current_r", "Virtual time of a level in seat-seconds", self.progress.clone());
        families.register("seat_fair_frac", "Fraction of its wish that a level gets", self.fair.clone());
    }

    pub fn flow(&self, priority_level: &str, flow_schema: &str) -> Meters {
        let labels = FlowLabels { priority_level: priority_level.to_owned(), flow_schema: flow_schema.to_owned() };
        let FlowLabels { priority_level, flow_schema } = labels.clone();
        let of = |execute: &'static str| WaitLabels {
            priority_level: priority_level.clone(),
            flow_schema: flow_schema.clone(),
            execute,
        };
        let typed = |r#type: &'static str| ExecutionLabels {
            priority_level: priority_level.clone(),
            flow_schema: flow_schema.clone(),
            r#type,
        };
        Meters {
            dispatched: self.dispatched.get_or_create_owned(&labels),
            waiting_requests: self.waiting_requests.get_or_create_owned(&labels),
            waiting_seats: self.waiting_seats.get_or_create_owned(&labels),
            executing_requests: self.executing_requests.get_or_create_owned(&labels),
            executing_seats: self.executing_seats.get_or_create_owned(&labels),
            waited_and_ran: self.wait.get_or_create_owned(&of("true")),
            waited_in_vain: self.wait.get_or_create_owned(&of("false")),
            execution: self.execution.get_or_create_owned(&typed("regular")),
            watch_execution: self.execution.get_or_create_owned(&typed("watch")),
            estimated: self.estimated.get_or_create_owned(&labels),
            queue_length: self.queue_length.get_or_create_owned(&labels),
            rejected: self.rejected.clone(),
            labels,
        }
    }

    pub fn adjusted(&self, level: &str, bounds: &Bounds, demand: &Demand, grant: &Grant, progress: f64) {
        let labels = LevelLabels { priority_level: level.to_owned() };
        for (family, seats) in [
            (&self.nominal, bounds.nominal),
            (&self.lower, bounds.lower),
            (&self.upper, bounds.upper),
            (&self.current, grant.seats),
            (&self.high_watermark, demand.high_watermark),
        ] {
            family.get_or_create(&labels).set(i64::from(seats));
        }
        for (family, seats) in [
            (&self.average, demand.average),
            (&self.deviation, demand.deviation),
            (&self.smoothed, demand.smoothed),
            (&self.target, grant.target),
            (&self.progress, progress),
        ] {
            family.get_or_create(&labels).set(seats);
        }
    }

    pub fn fair_fraction(&self, fraction: f64) {
        self.fair.set(fraction);
    }
}

/// The meters of one schema's requests.
#[derive(Clone)]
pub struct Meters {
    labels: FlowLabels,
    pub dispatched: Counter,
    pub waiting_requests: Gauge,
    pub waiting_seats: Gauge,
    pub executing_requests: Gauge,
    pub executing_seats: Gauge,
    pub waited_and_ran: Histogram,
    pub waited_in_vain: Histogram,
    pub execution: Histogram,
    pub watch_execution: Histogram,
    pub estimated: Histogram,
    pub queue_length: Histogram,
    rejected: Family<RejectLabels, Counter>,
}

impl Meters {
    pub fn refused(&self, refusal: Refusal) {
        let FlowLabels { priority_level, flow_schema } = self.labels.clone();
        let labels = RejectLabels { priority_level, flow_schema, reason: refusal.reason() };
        self.rejected.get_or_create(&labels).inc();
    }
}
