//! The node's status from facts of the machine: pure.
//!
//! Source: pkg/kubelet/nodestatus/setters.go.

use std::{collections::BTreeMap, net::IpAddr};

use api_types::{
    jiff::{SignedDuration, Timestamp},
    k8s::{
        self,
        core::{
            ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeStatus,
            NodeSystemInfo, Taint,
        },
        meta::{ObjectMeta, Time},
    },
    quantity::{Family, Quantity},
};

use super::machine::{self, Facts, Usage};
use crate::{pod::resources::ResourceList, runtime::Image};

/// The version of Kubernetes whose behaviour this kubelet has.
pub const KUBELET_VERSION: &str = "v1.36.2";
/// Upstream's nodeStatusMaxImages.
const IMAGES_MAX: usize = 50;
/// Upstream's hard eviction thresholds.
const MEMORY_AVAILABLE_MIN_BYTES: i64 = 100 * 1024 * 1024;
const DISK_AVAILABLE_MIN_PERCENT: i64 = 10;
const INODES_FREE_MIN_PERCENT: i64 = 5;
const PIDS_FREE_MIN_PERCENT: i64 = 10;
/// An unchanged status is told again after this long.
pub const REPORT_PERIOD: SignedDuration = SignedDuration::from_mins(5);

/// What the node is made of, as far as it does not change.
#[derive(Clone, Debug)]
pub struct Identity {
    pub name: String,
    pub ips: Vec<IpAddr>,
    pub port: u16,
    pub max_pods: u32,
    pub labels: BTreeMap<String, String>,
    pub taints: Vec<Taint>,
    pub facts: Facts,
    pub runtime_version: String,
}

/// What changes.
#[derive(Clone, Debug, Default)]
pub struct Vitals {
    pub usage: Usage,
    pub images: Vec<Image>,
    /// Why the node cannot run pods; empty if it can.
    pub unready: Vec<String>,
}

/// The object with which the node registers itself.
pub fn node(identity: &Identity) -> Node {
    let arch = machine::architecture();
    let mut labels = identity.labels.clone();
    let own = [
        ("kubernetes.io/hostname", identity.name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", arch),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", arch),
    ];
    labels.extend(own.map(|(key, value)| (key.to_owned(), value.to_owned())));
    let spec = k8s::core::NodeSpec {
        taints: (!identity.taints.is_empty()).then(|| identity.taints.clone()),
        ..k8s::core::NodeSpec::default()
    };
    Node {
        metadata: ObjectMeta { name: Some(identity.name.clone()), labels: Some(labels), ..ObjectMeta::default() },
        spec: Some(spec),
        status: None,
    }
}

pub fn capacity(identity: &Identity, usage: &Usage) -> ResourceList {
    let kib = |bytes: i64| format!("{}Ki", bytes / 1024);
    list(&[
        ("cpu", identity.facts.cpus.to_string()),
        ("memory", kib(identity.facts.memory_bytes)),
        ("ephemeral-storage", kib(usage.disk_bytes)),
        ("pods", identity.max_pods.to_string()),
    ])
}

/// What is left for pods when the eviction thresholds are kept free.
pub fn allocatable(identity: &Identity, usage: &Usage) -> ResourceList {
    let bytes = |count: i64| Quantity::from_units(count, Family::Decimal).to_string();
    let memory = (identity.facts.memory_bytes - MEMORY_AVAILABLE_MIN_BYTES).max(0);
    list(&[
        ("cpu", identity.facts.cpus.to_string()),
        ("memory", format!("{}Ki", memory / 1024)),
        ("ephemeral-storage", bytes(usage.disk_bytes / 100 * (100 - DISK_AVAILABLE_MIN_PERCENT))),
        ("pods", identity.max_pods.to_string()),
    ])
}

fn list(entries: &[(&str, String)]) -> ResourceList {
    entries.iter().map(|(name, amount)| ((*name).to_owned(), k8s::Quantity(amount.clone()))).collect()
}

/// The whole status. Others' conditions and lists are kept.
pub fn status(old: &NodeStatus, identity: &Identity, vitals: &Vitals, now: Timestamp) -> NodeStatus {
    let Identity { facts, .. } = identity;
    let mut addresses: Vec<NodeAddress> =
        identity.ips.iter().map(|ip| address("InternalIP", &ip.to_string())).collect();
    addresses.push(address("Hostname", &identity.name));
    let port = DaemonEndpoint { port: i32::from(identity.port) };
    NodeStatus {
        addresses: Some(addresses),
        capacity: Some(capacity(identity, &vitals.usage)),
        allocatable: Some(allocatable(identity, &vitals.usage)),
        conditions: Some(conditions(old, vitals, now)),
        daemon_endpoints: Some(NodeDaemonEndpoints { kubelet_endpoint: Some(port) }),
        images: Some(images(&vitals.images)),
        node_info: Some(NodeSystemInfo {
            architecture: machine::architecture().to_owned(),
            boot_id: facts.boot_id.clone(),
            container_runtime_version: identity.runtime_version.clone(),
            kernel_version: facts.kernel.clone(),
            kube_proxy_version: String::new(),
            kubelet_version: KUBELET_VERSION.to_owned(),
            machine_id: facts.machine_id.clone(),
            operating_system: "linux".to_owned(),
            os_image: facts.os_image.clone(),
            system_uuid: facts.system_uuid.clone(),
            swap: None,
        }),
        ..old.clone()
    }
}

fn address(kind: &str, text: &str) -> NodeAddress {
    NodeAddress { type_: kind.to_owned(), address: text.to_owned() }
}

fn images(images: &[Image]) -> Vec<ContainerImage> {
    let mut images: Vec<&Image> = images.iter().filter(|image| !image.names.is_empty()).collect();
    images.sort_by(|a, b| b.size_bytes.cmp(&a.size_bytes).then_with(|| a.names.cmp(&b.names)));
    images.truncate(IMAGES_MAX);
    images
        .into_iter()
        .map(|image| ContainerImage { names: Some(image.names.clone()), size_bytes: Some(image.size_bytes) })
        .collect()
}

/// Type, whether it holds, reason, message.
type Verdict = (&'static str, bool, &'static str, String);

fn verdicts(vitals: &Vitals) -> [Verdict; 4] {
    let Usage { memory_available_bytes, disk_bytes, disk_available_bytes, inodes, inodes_free, pids_max, pids } =
        vitals.usage;
    let memory = memory_available_bytes < MEMORY_AVAILABLE_MIN_BYTES;
    let disk = disk_available_bytes < disk_bytes / 100 * DISK_AVAILABLE_MIN_PERCENT
        || inodes_free < inodes / 100 * INODES_FREE_MIN_PERCENT;
    let pid = pids_max - pids < pids_max / 100 * PIDS_FREE_MIN_PERCENT;
    let pressure = |kind, holds: bool, bad: (&'static str, &str), good: (&'static str, &str)| {
        let (reason, message) = if holds { bad } else { good };
        (kind, holds, reason, message.to_owned())
    };
    let ready = match vitals.unready.as_slice() {
        [] => ("Ready", true, "KubeletReady", "kubelet is posting ready status".to_owned()),
        reasons => {
            ("Ready", false, "KubeletNotReady", format!("[{}]", reasons.join(", ")).trim_matches(['[', ']']).to_owned())
        }
    };
    [
        pressure(
            "MemoryPressure",
            memory,
            ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
            ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ),
        pressure(
            "DiskPressure",
            disk,
            ("KubeletHasDiskPressure", "kubelet has disk pressure"),
            ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ),
        pressure(
            "PIDPressure",
            pid,
            ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
            ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ),
        ready,
    ]
}

fn conditions(old: &NodeStatus, vitals: &Vitals, now: Timestamp) -> Vec<NodeCondition> {
    let mut conditions = old.conditions.clone().unwrap_or_default();
    for (kind, holds, reason, message) in verdicts(vitals) {
        let status = if holds { "True" } else { "False" };
        let known = conditions.iter().position(|condition| condition.type_ == kind);
        let since = known
            .map(|index| &conditions[index])
            .filter(|condition| condition.status == status)
            .and_then(|condition| condition.last_transition_time.clone());
        let condition = NodeCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_heartbeat_time: Some(Time(now)),
            last_transition_time: since.or(Some(Time(now))),
        };
        match known {
            Some(index) => conditions[index] = condition,
            None => conditions.push(condition),
        }
    }
    conditions
}

pub fn is_ready(status: &NodeStatus) -> bool {
    status.conditions.iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Whether the API should hear: something but heartbeats changed, or it has not heard for long.
pub fn is_due(old: &NodeStatus, new: &NodeStatus, told_at: Option<Timestamp>, now: Timestamp) -> bool {
    let bare = |status: &NodeStatus| {
        let mut status = status.clone();
        for condition in status.conditions.iter_mut().flatten() {
            condition.last_heartbeat_time = None;
            // The API keeps whole seconds.
            condition.last_transition_time = condition
                .last_transition_time
                .as_ref()
                .and_then(|time| Timestamp::from_second(time.0.as_second()).ok())
                .map(Time);
        }
        status
    };
    bare(old) != bare(new) || told_at.is_none_or(|at| now.duration_since(at) >= REPORT_PERIOD)
}

/// `key=value:Effect`, as in `--register-with-taints`.
pub fn parse_taint(text: &str) -> Result<Taint, String> {
    let wrong = || format!("{text:?} is not a taint such as key=value:NoSchedule");
    let (rest, effect) = text.rsplit_once(':').ok_or_else(wrong)?;
    if !["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect) {
        return Err(wrong());
    }
    let (key, value) = rest.split_once('=').unwrap_or((rest, ""));
    if key.is_empty() {
        return Err(wrong());
    }
    Ok(Taint {
        key: key.to_owned(),
        value: (!value.is_empty()).then(|| value.to_owned()),
        effect: effect.to_owned(),
        time_added: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: i64) -> Timestamp {
        Timestamp::from_second(1000 + s).unwrap()
    }
    fn identity() -> Identity {
        Identity {
            name: "n1".to_owned(),
            ips: vec!["192.0.2.1".parse().unwrap()],
            port: 10250,
            max_pods: 110,
            labels: BTreeMap::new(),
            taints: vec![],
            facts: Facts { cpus: 2, memory_bytes: 1 << 30, ..Facts::default() },
            runtime_version: "docker://1".to_owned(),
        }
    }
    fn good() -> Usage {
        Usage {
            memory_available_bytes: 1 << 29,
            disk_bytes: 1000,
            disk_available_bytes: 500,
            inodes: 1000,
            inodes_free: 900,
            pids_max: 1000,
            pids: 10,
        }
    }
    fn vitals(usage: Usage, unready: &[&str]) -> Vitals {
        Vitals { usage, images: vec![], unready: unready.iter().map(|text| (*text).to_owned()).collect() }
    }
    fn check(usage: Usage, unready: &[&str], expected: &str) {
        let status = status(&NodeStatus::default(), &identity(), &vitals(usage, unready), at(0));
        let reasons: Vec<String> =
            status.conditions.unwrap().into_iter().map(|condition| condition.reason.unwrap()).collect();
        assert_eq!(reasons.join(" "), expected);
    }

    #[test]
    fn conditions_say_what_runs_out() {
        let fine = "KubeletHasSufficientMemory KubeletHasNoDiskPressure KubeletHasSufficientPID";
        check(good(), &[], &format!("{fine} KubeletReady"));
        check(good(), &["x"], &format!("{fine} KubeletNotReady"));
        let bad = Usage { memory_available_bytes: 1, disk_available_bytes: 50, pids: 950, ..good() };
        check(bad, &[], "KubeletHasInsufficientMemory KubeletHasDiskPressure KubeletHasInsufficientPID KubeletReady");
        check(
            Usage { inodes_free: 10, ..good() },
            &[],
            "KubeletHasSufficientMemory KubeletHasDiskPressure KubeletHasSufficientPID KubeletReady",
        );
    }

    #[test]
    fn a_heartbeat_alone_is_no_news() {
        let first = status(&NodeStatus::default(), &identity(), &vitals(good(), &[]), at(0));
        let second = status(&first, &identity(), &vitals(good(), &[]), at(10));
        assert!(!is_due(&first, &second, Some(at(0)), at(10)));
        assert!(is_due(&first, &second, Some(at(0)), at(300)));
        assert!(is_due(&first, &second, None, at(10)));
        let third = status(&first, &identity(), &vitals(good(), &["x"]), at(10));
        assert!(is_due(&first, &third, Some(at(0)), at(10)) && !is_ready(&third) && is_ready(&first));
        let ready = |status: &NodeStatus| status.conditions.clone().unwrap().pop().unwrap();
        assert_eq!(ready(&second).last_transition_time, Some(Time(at(0))));
        assert_eq!(ready(&third).last_transition_time, Some(Time(at(10))));
    }

    #[test]
    fn capacity_and_allocatable() {
        let usage = Usage { disk_bytes: 1_000_000, ..good() };
        let amount = |list: &ResourceList, name: &str| list[name].0.clone();
        assert_eq!(amount(&capacity(&identity(), &usage), "memory"), "1048576Ki");
        assert_eq!(amount(&allocatable(&identity(), &usage), "memory"), "946176Ki");
        assert_eq!(amount(&allocatable(&identity(), &usage), "ephemeral-storage"), "900k");
    }

    #[test]
    fn taints() {
        let taint = parse_taint("a/b=c:NoSchedule").unwrap();
        assert_eq!(
            (taint.key.as_str(), taint.value.as_deref(), taint.effect.as_str()),
            ("a/b", Some("c"), "NoSchedule")
        );
        assert_eq!(parse_taint("a:NoExecute").unwrap().value, None);
        for wrong in ["", "a", "a:Never", ":NoSchedule"] {
            assert!(parse_taint(wrong).is_err(), "{wrong}");
        }
    }
}
