//! `/stats/summary`: what the kernel counts for this node and its containers.
//!
//! Source for the shape: kubelet/pkg/apis/stats/v1alpha1/types.go.

use std::{collections::BTreeMap, fs, path::Path};

use api_types::jiff::Timestamp;
use serde_json::{Value, json};

use crate::runtime::{Container, PodIdentity, State};

const CGROUPS: &str = "/sys/fs/cgroup";

/// Reads the counters and says them in upstream's shape.
pub fn summary(node: &str, containers: &[Container]) -> Value {
    let now = Timestamp::now();
    let mut pods: BTreeMap<&PodIdentity, Vec<Value>> = BTreeMap::new();
    for container in containers.iter().filter(|container| container.is_running() && !container.name().is_empty()) {
        pods.entry(&container.pod).or_default().push(container_stats(container, now));
    }
    let pods: Vec<Value> = pods.into_iter().map(|(pod, containers)| pod_stats(pod, containers, now)).collect();
    let memory = meminfo(&fs::read_to_string("/proc/meminfo").unwrap_or_default());
    let cpu_ns = cpu_ns(&fs::read_to_string("/proc/stat").unwrap_or_default());
    json!({
        "node": {
            "nodeName": node,
            "cpu": { "time": time(now), "usageCoreNanoSeconds": cpu_ns },
            "memory": {
                "time": time(now),
                "availableBytes": memory.available,
                "usageBytes": memory.total.saturating_sub(memory.free),
                "workingSetBytes": memory.total.saturating_sub(memory.available),
            },
        },
        "pods": pods,
    })
}

/// In whole seconds, as metav1.Time is written.
fn time(at: Timestamp) -> String {
    format!("{at:.0}")
}

fn pod_stats(pod: &PodIdentity, containers: Vec<Value>, now: Timestamp) -> Value {
    let sum = |pointer: &str| containers.iter().filter_map(|one| one.pointer(pointer)?.as_u64()).sum::<u64>();
    json!({
        "podRef": { "name": pod.name, "namespace": pod.namespace, "uid": pod.uid },
        "cpu": { "time": time(now), "usageCoreNanoSeconds": sum("/cpu/usageCoreNanoSeconds") },
        "memory": {
            "time": time(now),
            "usageBytes": sum("/memory/usageBytes"),
            "workingSetBytes": sum("/memory/workingSetBytes"),
        },
        "containers": containers,
    })
}

fn container_stats(container: &Container, now: Timestamp) -> Value {
    let usage = usage(container.pid);
    let started = match &container.state {
        State::Running { started_at } => Some(time(*started_at)),
        State::Created | State::Exited(_) => None,
    };
    json!({
        "name": container.name(),
        "startTime": started,
        "cpu": { "time": time(now), "usageCoreNanoSeconds": usage.cpu_ns },
        "memory": {
            "time": time(now),
            "usageBytes": usage.memory_bytes,
            "workingSetBytes": usage.memory_bytes.saturating_sub(usage.inactive_bytes),
        },
    })
}

#[derive(Debug, Default, PartialEq)]
struct Usage {
    cpu_ns: u64,
    memory_bytes: u64,
    /// Of the page cache, what the kernel may drop at once.
    inactive_bytes: u64,
}

/// Zeros where the process has gone meanwhile.
fn usage(pid: u32) -> Usage {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let read = |path: String| fs::read_to_string(Path::new(CGROUPS).join(path)).unwrap_or_default();
    if let Some(path) = group(&groups, "") {
        let path = path.trim_start_matches('/');
        return Usage {
            cpu_ns: counter(&read(format!("{path}/cpu.stat")), "usage_usec").saturating_mul(1000),
            memory_bytes: number(&read(format!("{path}/memory.current"))),
            inactive_bytes: counter(&read(format!("{path}/memory.stat")), "inactive_file"),
        };
    }
    let of = |controller: &str, file: &str| match group(&groups, controller) {
        Some(path) => read(format!("{controller}{path}/{file}")),
        None => String::new(),
    };
    Usage {
        cpu_ns: number(&of("cpuacct", "cpuacct.usage")),
        memory_bytes: number(&of("memory", "memory.usage_in_bytes")),
        inactive_bytes: counter(&of("memory", "memory.stat"), "total_inactive_file"),
    }
}

/// A process's path in the hierarchy of `controller`; the unified one has no name.
fn group<'a>(groups: &'a str, controller: &str) -> Option<&'a str> {
    groups.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        // On hybrid machines the unified hierarchy is there but counts nothing.
        let unified = controllers.is_empty() && groups.lines().count() == 1;
        let found = if controller.is_empty() { unified } else { controllers.split(',').any(|one| one == controller) };
        found.then_some(path)
    })
}

fn counter(text: &str, name: &str) -> u64 {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.map_or(0, number)
}

fn number(text: &str) -> u64 {
    text.trim().parse().unwrap_or_default()
}

#[derive(Debug, Default, PartialEq)]
struct Memory {
    total: u64,
    free: u64,
    available: u64,
}

fn meminfo(text: &str) -> Memory {
    let bytes = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|rest| rest.split_whitespace().next()).map_or(0, number) * 1024
    };
    Memory { total: bytes("MemTotal"), free: bytes("MemFree"), available: bytes("MemAvailable") }
}

/// Time that all cores were busy: the first line of `/proc/stat` without idle and iowait, in ticks of 10 ms.
fn cpu_ns(text: &str) -> u64 {
    const TICK_NS: u64 = 10_000_000;
    const IDLE: usize = 3;
    const IOWAIT: usize = 4;
    // Guests are counted in user time already.
    const FIELDS: usize = 8;
    let fields = text.lines().next().and_then(|line| line.strip_prefix("cpu ")).unwrap_or_default();
    let fields = fields.split_whitespace().take(FIELDS).map(number).enumerate();
    fields.filter(|(at, _)| *at != IDLE && *at != IOWAIT).map(|(_, ticks)| ticks * TICK_NS).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_of_both_versions() {
        assert_eq!(group("0::/docker/abc\n", ""), Some("/docker/abc"));
        let old = "12:cpu,cpuacct:/docker/abc\n9:memory:/docker/def\n0::/\n";
        assert_eq!(group(old, ""), None);
        assert_eq!(group(old, "cpuacct"), Some("/docker/abc"));
        assert_eq!(group(old, "memory"), Some("/docker/def"));
        assert_eq!(group("nonsense", "memory"), None);
    }

    #[test]
    fn counters_are_found_by_name() {
        let text = "usage_usec 12\nuser_usec 7\nuser 9\n";
        assert_eq!((counter(text, "usage_usec"), counter(text, "user"), counter(text, "x")), (12, 9, 0));
        let memory = meminfo("MemTotal:       100 kB\nMemFree:  40 kB\nMemAvailable:   60 kB\n");
        assert_eq!(memory, Memory { total: 102_400, free: 40_960, available: 61_440 });
        assert_eq!(cpu_ns("cpu  1 2 3 100 50 4 5 6 9 9\ncpu0 1\n"), 21 * 10_000_000);
    }
}
