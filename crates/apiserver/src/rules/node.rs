//! Nodes: defaults, and what of them may change.
//!
//! Source: pkg/registry/core/node/strategy.go.

use serde_json::Value;

use super::{
    PLAIN, Rules,
    edit::{canonical_amounts, child, copy, fill, is_present, set},
};

pub const RULES: Rules = Rules {
    default,
    prepare_update: |new, old| copy(new, old, "status"),
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
    child(node, "spec");
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

fn is_unschedulable(node: &Value) -> bool {
    node.pointer("/spec/unschedulable").and_then(Value::as_bool).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_there_is_allocatable() {
        let mut node = json!({"metadata": {"name": "n"}, "status": {"capacity": {"cpu": "2000m"}}});
        default(&mut node);
        assert_eq!(node["status"]["allocatable"], json!({"cpu": "2"}));
        assert_eq!(node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"], 0);
    }
}
