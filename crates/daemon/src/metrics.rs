//! A daemon's metrics: its own, those of the client crate, and the process's.

use std::{
    fmt::Write,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use parking_lot::RwLock;
pub use prometheus_client;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
    registry::{Metric, Registry as Families},
};

/// Content type of [`Registry::text`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics of a daemon. Clones share them.
#[derive(Clone)]
pub struct Registry {
    families: Arc<RwLock<Families>>,
}

impl Default for Registry {
    fn default() -> Self {
        let mut families = Families::default();
        client::metrics::register(&mut families);
        families.register_collector(Box::new(Process { started: SystemTime::now() }));
        Self { families: Arc::new(RwLock::new(families)) }
    }
}

impl Registry {
    /// `name` is upstream's where upstream has the metric, for a counter without `_total`.
    pub fn register(&self, name: &str, help: &str, metric: impl Metric) {
        self.families.write().register(name, help, metric);
    }

    /// For what registers several at once.
    pub fn with(&self, register: impl FnOnce(&mut Families)) {
        register(&mut self.families.write());
    }

    /// The exposition text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        if text::encode(&mut text, &self.families.read()).is_err() {
            // Only a metric's own encoder can fail, as a String takes everything.
            let _ = writeln!(text, "# a metric could not be encoded");
        }
        text
    }
}

/// What the kernel knows of this process.
#[derive(Debug)]
struct Process {
    /// When the metrics were made, first thing in `main`.
    started: SystemTime,
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let mut gauge = |name: &str, help: &str, value: f64| {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)
        };
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let status = stat_fields(&stat);
        gauge("process_resident_memory_bytes", "Resident memory size in bytes", status.resident_bytes)?;
        gauge("process_virtual_memory_bytes", "Virtual memory size in bytes", status.virtual_bytes)?;
        let descriptors = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        gauge("process_open_fds", "Number of open file descriptors", descriptors as f64)?;
        let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
        gauge("process_max_fds", "Maximum number of open file descriptors", limit(&limits, "Max open files"))?;
        let help = "Maximum amount of virtual memory in bytes, -1 without a limit";
        gauge("process_virtual_memory_max_bytes", help, limit(&limits, "Max address space"))?;
        let started_s = self.started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        gauge("process_start_time_seconds", "Start time of the process since the Unix epoch in seconds", started_s)?;
        let cpu = ConstCounter::new(status.cpu_s);
        let help = "Total user and system CPU time spent in seconds";
        cpu.encode(encoder.encode_descriptor("process_cpu_seconds", help, None, cpu.metric_type())?)
    }
}

/// The soft limit of a name in `/proc/<pid>/limits`; -1 without one.
fn limit(text: &str, name: &str) -> f64 {
    let soft = text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next());
    soft.and_then(|soft| soft.parse().ok()).unwrap_or(-1.0)
}

#[derive(Debug, Default, PartialEq)]
struct Stat {
    cpu_s: f64,
    virtual_bytes: f64,
    resident_bytes: f64,
}

/// Reads `/proc/<pid>/stat` (proc(5)): fields 14, 15 in ticks of 10 ms, 23 in bytes, 24 in pages of 4 KiB.
fn stat_fields(text: &str) -> Stat {
    const TICKS_PER_S: f64 = 100.0;
    const PAGE_BYTES: f64 = 4096.0;
    // The second field is a name in brackets that may hold blanks and brackets.
    let Some((_, rest)) = text.rsplit_once(')') else { return Stat::default() };
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3).and_then(|text| text.parse::<f64>().ok()).unwrap_or_default();
    Stat {
        cpu_s: (field(14) + field(15)) / TICKS_PER_S,
        virtual_bytes: field(23),
        resident_bytes: field(24) * PAGE_BYTES,
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;

    use super::*;

    #[test]
    fn counters_of_the_daemon_and_the_process_are_shown() {
        let registry = Registry::default();
        let counter = Counter::<u64>::default();
        registry.register("things", "Things done", counter.clone());
        counter.inc();
        let text = registry.text();
        assert!(text.contains("things_total 1"), "{text}");
        assert!(text.contains("process_resident_memory_bytes "), "{text}");
        assert!(text.contains("process_cpu_seconds_total "), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
    }

    #[test]
    fn limits() {
        let text = "Limit Soft Limit Hard Limit Units\nMax address space unlimited unlimited bytes\n\
            Max open files            1024                 20000                files\n";
        assert_eq!(limit(text, "Max open files"), 1024.0);
        assert_eq!(limit(text, "Max address space"), -1.0);
    }

    #[test]
    fn a_name_with_brackets_does_not_confuse() {
        let text = "7 (a) b) S 1 7 7 0 -1 4 0 0 0 0 150 50 0 0 20 0 9 0 100 8192 3 18446744073709551615";
        assert_eq!(stat_fields(text), Stat { cpu_s: 2.0, virtual_bytes: 8192.0, resident_bytes: 12288.0 });
        assert_eq!(stat_fields(""), Stat::default());
    }
}
