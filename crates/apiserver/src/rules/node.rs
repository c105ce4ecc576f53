//! Nodes: defaults, and what of them may change.
//!
//! Source: pkg/registry/core/node/strategy.go.

use std::collections::BTreeSet;

use api_types::{
    k8s::core::{Node, Taint},
    names,
};
use serde_json::Value;

use super::{
    PLAIN, Rules, address, check, check_change,
    edit::{canonical_amounts, child, copy, fill, is_present, pair, set},
    path::{Errors, Path, items, text},
    status, warnings,
};

const SPEC: Path = Path::root("spec");
/// One for each family.
const POD_CIDRS_MAX: usize = 2;
const TAINT_EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

pub const RULES: Rules = Rules {
    default,
    prepare_update: |new, old| copy(new, old, "status"),
    validate: |node| check(node, validate),
    validate_update: |new, old| check_change(new, old, validate_update),
    validate_status_update: status::node,
    warnings: warnings::node,
    selectable: |node| vec![("spec.unschedulable", is_unschedulable(node).to_string())],
    selectable_names: &["spec.unschedulable"],
    ..PLAIN
};

/// Facts that show even before a kubelet reported them.
const NODE_INFO: [&str; 10] = [
    "machineID",
    "systemUUID",
    "bootID",
    "kernelVersion",
    "osImage",
    "containerRuntimeVersion",
    "kubeletVersion",
    "kubeProxyVersion",
    "operatingSystem",
    "architecture",
];

fn default(node: &mut Value) {
    pair(child(node, "spec"), "podCIDR", "podCIDRs", |range| range.into());
    let status = child(node, "status");
    canonical_amounts(status, "capacity");
    canonical_amounts(status, "allocatable");
    if !is_present(status, "allocatable")
        && let Some(capacity) = status.get("capacity").cloned()
    {
        set(status, "allocatable", capacity);
    }
    fill(child(child(status, "daemonEndpoints"), "kubeletEndpoint"), "Port", 0);
    let info = child(status, "nodeInfo");
    NODE_INFO.iter().for_each(|fact| fill(info, fact, ""));
}

fn validate(node: &Node, errors: &mut Errors) {
    let Some(spec) = &node.spec else { return };
    taints(items(&spec.taints), &SPEC.field("taints"), errors);
    let cidrs = items(&spec.pod_cidrs);
    for (i, range) in cidrs.iter().enumerate() {
        address::cidr(range, &SPEC.field("podCIDRs").index(i), errors);
    }
    if cidrs.len() > POD_CIDRS_MAX {
        errors.invalid(&SPEC.field("podCIDRs"), cidrs, "may specify no more than one CIDR for each IP family");
    }
}

/// A key and effect at most once.
fn taints(taints: &[Taint], path: &Path, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for (i, taint) in taints.iter().enumerate() {
        let path = path.index(i);
        errors.invalid_all(&path.field("key"), taint.key.as_str(), names::label_key(&taint.key));
        let value = text(&taint.value);
        let messages = names::label_value(value);
        if !messages.is_empty() {
            errors.invalid(&path.field("value"), value, messages.join(";"));
        }
        errors.required_one_of(&path.field("effect"), &taint.effect, &TAINT_EFFECTS);
        if !seen.insert((&taint.key, &taint.effect)) {
            errors.duplicate(&path, taint);
        }
    }
}

/// What was given to a node once stays its own.
fn validate_update(new: &Node, old: &Node, errors: &mut Errors) {
    validate(new, errors);
    let (Some(after), Some(before)) = (&new.spec, &old.spec) else { return };
    if !items(&before.pod_cidrs).is_empty() && after.pod_cidrs != before.pod_cidrs {
        errors.forbidden(&SPEC.field("podCIDRs"), "node updates may not change podCIDR except from \"\" to valid");
    }
    if !text(&before.provider_id).is_empty() && after.provider_id != before.provider_id {
        errors.forbidden(&SPEC.field("providerID"), "node updates may not change providerID except from \"\" to valid");
    }
}

fn is_unschedulable(node: &Value) -> bool {
    node.pointer("/spec/unschedulable").and_then(Value::as_bool).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn taints_are_told_apart() {
        let node = json!({"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}, {"key": "a", "effect": "NoSchedule"}, {"key": "b", "effect": "X"}]}});
        assert_eq!(
            crate::rules::texts((RULES.validate)(&node)),
            [
                "spec.taints[1]: Duplicate value: {\"effect\":\"NoSchedule\",\"key\":\"a\"}",
                "spec.taints[2].effect: Unsupported value: \"X\": supported values: \"NoSchedule\", \"PreferNoSchedule\", \"NoExecute\"",
            ]
        );
    }

    #[test]
    fn what_is_there_is_allocatable() {
        let mut node = json!({"metadata": {"name": "n"}, "status": {"capacity": {"cpu": "2000m"}}});
        default(&mut node);
        assert_eq!(node["status"]["allocatable"], json!({"cpu": "2"}));
        assert_eq!(node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"], 0);
    }
}
