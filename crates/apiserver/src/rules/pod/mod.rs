//! Pods: what create and update make of them, how they are deleted and selected.
//!
//! Source: pkg/registry/core/pod/strategy.go.

use std::collections::BTreeMap;

use api_types::{Quantity, k8s::core};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    PLAIN, Rules, check, check_change,
    edit::{child, copy, first_generation, list, next_generation, remove, set, text, text_at},
};

pub mod affinity;
pub mod container;
pub mod default;
pub mod env;
#[cfg(test)]
mod everywhere;
pub mod mount;
mod os;
pub mod probe;
pub mod security;
pub mod spec;
pub mod update;
pub mod volume;
pub mod warnings;

pub const RULES: Rules = Rules {
    default: default::default_pod,
    prepare_create,
    prepare_update,
    prepare_status_update,
    validate: |pod| check(pod, update::validate_create),
    validate_update: |new, old| check_change(new, old, update::validate_update),
    validate_status_update: |new, old| check_change(new, old, update::validate_status),
    warnings: warnings::of_pod,
    selectable,
    selectable_names: SELECTABLE,
    indexed: "spec.nodeName",
    graceful,
    returns_deleted: true,
    ..PLAIN
};

const SELECTABLE: &[&str] = &[
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "spec.hostNetwork",
    "status.phase",
    "status.podIP",
    "status.podIPs",
    "status.nominatedNodeName",
];

fn prepare_create(pod: &mut Value) {
    first_generation(pod);
    let mut status = json!({ "phase": "Pending", "qosClass": qos_class(pod) });
    if !list(&pod["spec"], "schedulingGates").is_empty() {
        status["conditions"] = json!([{
            "type": "PodScheduled",
            "status": "False",
            "lastProbeTime": null,
            "lastTransitionTime": pod.pointer("/metadata/creationTimestamp"),
            "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates",
        }]);
    }
    set(pod, "status", status);
}

fn prepare_update(pod: &mut Value, old: &Value) {
    copy(pod, old, "status");
    let changed = pod.get("spec") != old.get("spec");
    next_generation(pod, old, changed);
}

/// Owners cannot be changed through the status; the quality of service never changes.
fn prepare_status_update(pod: &mut Value, old: &Value) {
    (PLAIN.prepare_status_update)(pod, old);
    if let Some(meta) = old.get("metadata") {
        copy(child(pod, "metadata"), meta, "ownerReferences");
    }
    let class = match text_at(old, "/status/qosClass") {
        "" => qos_class(old),
        class => class.to_owned(),
    };
    if text_at(pod, "/status/qosClass").is_empty() {
        set(child(pod, "status"), "qosClass", class);
    }
}

/// The grace to give: at once for a pod that no node runs.
fn graceful(pod: &Value, requested_s: Option<i64>) -> Option<i64> {
    let grace_s = requested_s.or_else(|| pod.pointer("/spec/terminationGracePeriodSeconds")?.as_i64()).unwrap_or(0);
    let runs_nowhere = text_at(pod, "/spec/nodeName").is_empty();
    let has_ended = matches!(text_at(pod, "/status/phase"), "Failed" | "Succeeded");
    Some(match grace_s {
        _ if runs_nowhere || has_ended => 0,
        negative if negative < 0 => 1,
        grace_s => grace_s,
    })
}

fn selectable(pod: &Value) -> Vec<(&'static str, String)> {
    let mut fields: Vec<(&'static str, String)> = [
        ("spec.nodeName", "/spec/nodeName"),
        ("spec.restartPolicy", "/spec/restartPolicy"),
        ("spec.schedulerName", "/spec/schedulerName"),
        ("spec.serviceAccountName", "/spec/serviceAccountName"),
        ("status.phase", "/status/phase"),
        ("status.podIP", "/status/podIP"),
        ("status.nominatedNodeName", "/status/nominatedNodeName"),
    ]
    .into_iter()
    .map(|(name, pointer)| (name, text_at(pod, pointer).to_owned()))
    .collect();
    let host_network = pod.pointer("/spec/hostNetwork").and_then(Value::as_bool).unwrap_or(false);
    fields.push(("spec.hostNetwork", host_network.to_string()));
    let ips: Vec<&str> = pod
        .get("status")
        .map(|status| list(status, "podIPs"))
        .unwrap_or_default()
        .iter()
        .map(|ip| text(ip, "ip"))
        .collect();
    fields.push(("status.podIPs", ips.join(",")));
    fields
}

/// Guaranteed, Burstable or BestEffort, by the containers' CPU and memory.
///
/// Source: `ComputePodQOS` in pkg/apis/core/v1/helper/qos.
pub fn qos_class(pod: &Value) -> String {
    let spec = pod.get("spec").and_then(|spec| core::PodSpec::deserialize(spec).ok()).unwrap_or_default();
    let mut all: Vec<&core::ResourceRequirements> = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
        .filter_map(|c| c.resources.as_ref())
        .collect();
    let mut guaranteed = all.len() == spec.containers.len() + spec.init_containers.iter().flatten().count();
    let pod_level = spec.resources.as_ref().filter(|r| r.limits.is_some() || r.requests.is_some());
    if let Some(resources) = pod_level {
        all = vec![resources];
        guaranteed = true;
    }
    let mut any = false;
    for resources in all {
        let (requests, limits) = (computed(&resources.requests), computed(&resources.limits));
        any |= !requests.is_empty() || !limits.is_empty();
        guaranteed &= limits.len() == COMPUTED.len() && requests == limits;
    }
    let class = match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    };
    class.to_owned()
}

const COMPUTED: [&str; 2] = ["cpu", "memory"];

fn computed(amounts: &Option<BTreeMap<String, api_types::k8s::Quantity>>) -> BTreeMap<&str, Quantity> {
    let amount = |name: &'static str| {
        let quantity = Quantity::parse(&amounts.as_ref()?.get(name)?.0).ok()?;
        (!quantity.is_zero()).then_some((name, quantity))
    };
    COMPUTED.into_iter().filter_map(amount).collect()
}

/// What /ephemeralcontainers may write: the list of ephemeral containers, nothing else.
pub fn prepare_ephemeral_containers(pod: &mut Value, old: &Value) {
    let containers = pod.get_mut("spec").and_then(|spec| remove(spec, "ephemeralContainers"));
    keep_all_but_spec(pod, old);
    let spec = child(pod, "spec");
    match containers {
        Some(containers) => set(spec, "ephemeralContainers", containers),
        None => {
            remove(spec, "ephemeralContainers");
        }
    }
    let changed = pod.get("spec") != old.get("spec");
    next_generation(pod, old, changed);
}

/// What /resize may write: the resources and resize policies of containers, and the pod's own resources.
pub fn prepare_resize(pod: &mut Value, old: &Value) {
    let wanted = pod.get("spec").cloned().unwrap_or_default();
    keep_all_but_spec(pod, old);
    let spec = child(pod, "spec");
    copy(spec, &wanted, "resources");
    for containers in ["containers", "initContainers"] {
        for container in super::edit::each(spec, containers) {
            let name = text(container, "name").to_owned();
            if let Some(source) = list(&wanted, containers).iter().find(|other| text(other, "name") == name) {
                copy(container, source, "resources");
                copy(container, source, "resizePolicy");
            }
        }
    }
    let changed = pod.get("spec") != old.get("spec");
    next_generation(pod, old, changed);
}

/// Metadata, too, is kept, but for the version that the update is based on and the field managers.
fn keep_all_but_spec(pod: &mut Value, old: &Value) {
    let meta = pod.get("metadata").cloned().unwrap_or_default();
    *pod = old.clone();
    let kept = child(pod, "metadata");
    for field in ["resourceVersion", "managedFields"] {
        copy(kept, &meta, field);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grace_depends_on_node_and_phase() {
        for (pod, requested, expected) in [
            (json!({"spec": {"terminationGracePeriodSeconds": 30}}), None, 0),
            (json!({"spec": {"nodeName": "n", "terminationGracePeriodSeconds": 30}}), None, 30),
            (json!({"spec": {"nodeName": "n", "terminationGracePeriodSeconds": 30}}), Some(5), 5),
            (json!({"spec": {"nodeName": "n"}}), Some(-3), 1),
            (json!({"spec": {"nodeName": "n"}, "status": {"phase": "Failed"}}), Some(9), 0),
        ] {
            assert_eq!(graceful(&pod, requested), Some(expected), "{pod}");
        }
    }

    #[test]
    fn quality_of_service_follows_resources() {
        let amounts = |cpu: &str| json!({"cpu": cpu, "memory": "1Mi"});
        for (resources, class) in [
            (json!([{}]), "BestEffort"),
            (json!([{"limits": amounts("1"), "requests": amounts("1")}]), "Guaranteed"),
            (json!([{"limits": amounts("1"), "requests": amounts("500m")}]), "Burstable"),
            (json!([{"limits": amounts("1"), "requests": amounts("1")}, {}]), "Burstable"),
            (json!([{"requests": {"cpu": "1"}}]), "Burstable"),
            (json!([{"requests": {"example.com/gpu": "1"}}]), "BestEffort"),
        ] {
            let containers: Vec<Value> =
                resources.as_array().unwrap().iter().map(|r| json!({"name": "c", "resources": r})).collect();
            assert_eq!(qos_class(&json!({"spec": {"containers": containers}})), class, "{resources}");
        }
    }

    #[test]
    fn a_gated_pod_says_so() {
        let mut pod =
            json!({"spec": {"containers": [], "schedulingGates": [{"name": "g"}]}, "status": {"phase": "Running"}});
        prepare_create(&mut pod);
        assert_eq!(pod["status"]["phase"], "Pending");
        assert_eq!(pod["status"]["conditions"][0]["reason"], "SchedulingGated");
        assert_eq!(pod["metadata"]["generation"], 1);
    }
}
