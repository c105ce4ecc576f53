//! Pods: one word for what all their containers are doing.

use api_types::jiff::Timestamp;
use serde_json::Value;

use super::{
    AGE,
    About::{Field, Words},
    NAME, Spec, text,
    view::View,
    wide,
};

pub const COLUMNS: &[Spec] = &[
    NAME,
    text("Ready", Words("How many of the pod's containers are ready.")),
    text("Status", Words("What the pod's containers are doing.")),
    text("Restarts", Words("How often the pod's containers have been restarted, and when the last one was.")),
    AGE,
    wide("IP", Field("core.v1.PodStatus", "podIP")),
    wide("Node", Field("core.v1.PodSpec", "nodeName")),
    wide("Nominated Node", Field("core.v1.PodStatus", "nominatedNodeName")),
    wide("Readiness Gates", Field("core.v1.PodSpec", "readinessGates")),
];

pub fn cells(pod: &View) -> Vec<Value> {
    let summary = summary(pod);
    let restarts = match summary.last_restart {
        Some(time) if summary.restarts != 0 => format!("{} ({} ago)", summary.restarts, pod.ago(time)),
        _ => summary.restarts.to_string(),
    };
    let node = pod.text_or("/spec/nodeName", "<none>");
    vec![
        pod.name(),
        format!("{}/{}", summary.ready, summary.total).into(),
        summary.reason.into(),
        restarts.into(),
        pod.age(),
        pod.text_or("/status/podIPs/0/ip", "<none>").into(),
        node.into(),
        pod.text_or("/status/nominatedNodeName", "<none>").into(),
        readiness_gates(pod).into(),
    ]
}

struct Summary {
    ready: usize,
    total: usize,
    reason: String,
    restarts: i64,
    last_restart: Option<Timestamp>,
}

/// A container's restarts, added up.
#[derive(Clone, Copy, Default)]
struct Restarts {
    count: i64,
    last: Option<Timestamp>,
}

impl Restarts {
    fn add(&mut self, container: &View) {
        self.count += container.int("/restartCount");
        self.last = self.last.max(container.time("/lastState/terminated/finishedAt"));
    }
}

/// Init containers that run beside the others.
fn is_sidecar(pod: &View, name: &str) -> bool {
    pod.items("/spec/initContainers")
        .any(|container| container.text("/name") == name && container.text("/restartPolicy") == "Always")
}

fn summary(pod: &View) -> Summary {
    let sidecars = pod.items("/spec/initContainers").filter(|c| c.text("/restartPolicy") == "Always").count();
    let total = pod.list("/spec/containers").len() + sidecars;
    let mut reason = pod.text_or("/status/reason", pod.text("/status/phase")).to_owned();
    let gated = |c: &View| c.text("/type") == "PodScheduled" && c.text("/reason") == "SchedulingGated";
    if pod.items("/status/conditions").any(|condition| gated(&condition)) {
        reason = "SchedulingGated".to_owned();
    }
    let mut initialising = Initialising::default();
    initialising.walk(pod);
    let mut ready = initialising.ready;
    let mut restarts = initialising.restarts;
    if let Some(stuck) = &initialising.stuck {
        reason.clone_from(stuck);
    }
    if initialising.stuck.is_none() || pod.condition("Initialized") == "True" {
        restarts = initialising.sidecar_restarts;
        let running = running(pod, reason, &mut ready, &mut restarts);
        reason = running;
    }
    let phase = pod.text("/status/phase");
    if pod.is_terminating() && pod.text("/status/reason") == "NodeLost" {
        reason = "Unknown".to_owned();
    } else if pod.is_terminating() && !matches!(phase, "Succeeded" | "Failed") {
        reason = "Terminating".to_owned();
    }
    Summary { ready, total, reason, restarts: restarts.count, last_restart: restarts.last }
}

/// The init containers, up to the first one that holds the others up.
#[derive(Default)]
struct Initialising {
    ready: usize,
    restarts: Restarts,
    sidecar_restarts: Restarts,
    stuck: Option<String>,
}

impl Initialising {
    fn walk(&mut self, pod: &View) {
        let total = pod.list("/spec/initContainers").len();
        for (i, container) in pod.items("/status/initContainerStatuses").enumerate() {
            let sidecar = is_sidecar(pod, container.text("/name"));
            self.restarts.add(&container);
            if sidecar {
                self.sidecar_restarts.add(&container);
            }
            let terminated = container.has("/state/terminated");
            if terminated && container.int("/state/terminated/exitCode") == 0 {
                continue;
            }
            if sidecar && container.flag("/started") {
                self.ready += usize::from(container.flag("/ready"));
                continue;
            }
            let waiting = container.text("/state/waiting/reason");
            self.stuck = Some(if terminated {
                format!("Init:{}", end(&container))
            } else if !waiting.is_empty() && waiting != "PodInitializing" {
                format!("Init:{waiting}")
            } else {
                format!("Init:{i}/{total}")
            });
            return;
        }
    }
}

/// Why a container has ended: the given reason, or its signal or exit code.
fn end(container: &View) -> String {
    match (container.text("/state/terminated/reason"), container.int("/state/terminated/signal")) {
        ("", 0) => format!("ExitCode:{}", container.int("/state/terminated/exitCode")),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

/// What the main containers make of `reason`; the first one in the list has the last word.
fn running(pod: &View, mut reason: String, ready: &mut usize, restarts: &mut Restarts) -> String {
    let mut any_running = false;
    let mut failure = String::new();
    for container in pod.items("/status/containerStatuses").rev() {
        restarts.add(&container);
        let waiting = container.text("/state/waiting/reason");
        if !waiting.is_empty() {
            reason = waiting.to_owned();
        } else if container.has("/state/terminated") {
            reason = end(&container);
            if container.int("/state/terminated/exitCode") != 0 {
                failure.clone_from(&reason);
            }
        } else if container.flag("/ready") && container.has("/state/running") {
            any_running = true;
            *ready += 1;
        }
    }
    if reason != "Completed" {
        return reason;
    }
    match (any_running, pod.condition("Ready") == "True", failure.is_empty()) {
        (true, true, _) => "Running".to_owned(),
        (_, _, false) => failure,
        (true, false, true) => "NotReady".to_owned(),
        (false, _, true) => reason,
    }
}

fn readiness_gates(pod: &View) -> String {
    let gates = pod.items("/spec/readinessGates");
    match gates.len() {
        0 => "<none>".to_owned(),
        total => {
            let open = gates.filter(|gate| pod.condition(gate.text("/conditionType")) == "True").count();
            format!("{open}/{total}")
        }
    }
}
