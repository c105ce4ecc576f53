//! Services: defaults, and what create and update wipe. Addresses and node ports are given
//! by the allocators.
//!
//! Source: pkg/apis/core/v1/defaults.go, pkg/registry/core/service/strategy.go.

use api_types::names;
use serde_json::{Value, json};

use super::{
    PLAIN, Rules, check, check_change,
    edit::{child, copy, each, fill, fill_text, is_present, list, remove, set, text, text_at},
    status, warnings,
};

mod validate;

const CLIENT_IP_TIMEOUT_S: i64 = 10800;

pub const RULES: Rules = Rules {
    default,
    prepare_create,
    prepare_update,
    validate: |service| check(service, validate::create),
    validate_update: |new, old| check_change(new, old, validate::update),
    validate_status_update: status::service,
    warnings: warnings::service,
    create_on_update: true,
    name: names::dns1035_label,
    selectable: |service| {
        vec![
            ("spec.clusterIP", text_at(service, "/spec/clusterIP").to_owned()),
            ("spec.type", text_at(service, "/spec/type").to_owned()),
        ]
    },
    selectable_names: &["spec.clusterIP", "spec.type"],
    returns_deleted: true,
    ..PLAIN
};

fn default(service: &mut Value) {
    child(child(service, "status"), "loadBalancer");
    let spec = child(service, "spec");
    fill_text(spec, "sessionAffinity", "None");
    if text(spec, "sessionAffinity") == "None" {
        remove(spec, "sessionAffinityConfig");
    } else if text(spec, "sessionAffinity") == "ClientIP" {
        fill(child(child(spec, "sessionAffinityConfig"), "clientIP"), "timeoutSeconds", CLIENT_IP_TIMEOUT_S);
    }
    fill_text(spec, "type", "ClusterIP");
    for port in each(spec, "ports") {
        fill_text(port, "protocol", "TCP");
        let same = port.get("port").cloned().unwrap_or_default();
        let target = port.get("targetPort").filter(|target| !matches!(target, Value::Null)).cloned();
        if target.is_none_or(|target| target == json!(0) || target == json!("")) && !same.is_null() {
            set(port, "targetPort", same);
        }
    }
    let kind = text(spec, "type").to_owned();
    if kind != "ExternalName" {
        fill_text(spec, "internalTrafficPolicy", "Cluster");
    }
    if is_external(&kind, spec) {
        fill_text(spec, "externalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        fill(spec, "allocateLoadBalancerNodePorts", true);
    }
    if kind == "LoadBalancer" {
        each(child(child(service, "status"), "loadBalancer"), "ingress").for_each(default_ingress);
    }
}

/// Traffic can come from outside the cluster.
fn is_external(kind: &str, spec: &Value) -> bool {
    matches!(kind, "NodePort" | "LoadBalancer") || (kind == "ClusterIP" && !list(spec, "externalIPs").is_empty())
}

fn default_ingress(ingress: &mut Value) {
    if !text(ingress, "ip").is_empty() {
        fill_text(ingress, "ipMode", "VIP");
    }
}

fn prepare_create(service: &mut Value) {
    set(service, "status", json!({ "loadBalancer": {} }));
    let spec = child(service, "spec");
    let ip = text(spec, "clusterIP").to_owned();
    if !ip.is_empty() && list(spec, "clusterIPs").is_empty() {
        set(spec, "clusterIPs", vec![ip]);
    }
}

fn prepare_update(new: &mut Value, old: &Value) {
    copy(new, old, "status");
    let old_spec = old.get("spec").cloned().unwrap_or_default();
    let spec = child(new, "spec");
    keep_addresses(spec, &old_spec);
    follow_first_address(spec, &old_spec);
    drop_fields_of_other_types(spec, &old_spec);
}

/// A client that only knows `clusterIP` changes `clusterIPs` with it.
///
/// Source: `normalizeClusterIPs` in pkg/registry/core/service/storage.
fn follow_first_address(spec: &mut Value, old: &Value) {
    if spec.get("clusterIPs") != old.get("clusterIPs") || text(spec, "clusterIP") == text(old, "clusterIP") {
        return;
    }
    match text(spec, "clusterIP").to_owned() {
        ip if ip.is_empty() => {
            remove(spec, "clusterIPs");
        }
        ip => set(spec, "clusterIPs", vec![ip]),
    }
}

/// A client that sends a Service without what the server allocated does not mean to give it up.
///
/// Source: `patchAllocatedValues` in pkg/registry/core/service/storage.
fn keep_addresses(spec: &mut Value, old: &Value) {
    let needs_address = |kind: &str| matches!(kind, "ClusterIP" | "NodePort" | "LoadBalancer");
    if needs_address(text(old, "type")) && needs_address(text(spec, "type")) {
        if text(spec, "clusterIP").is_empty() {
            copy(spec, old, "clusterIP");
        }
        if list(spec, "clusterIPs").is_empty() && text(spec, "clusterIP") == text(old, "clusterIP") {
            copy(spec, old, "clusterIPs");
        }
        for field in ["ipFamilies", "ipFamilyPolicy"] {
            if !is_present(spec, field) {
                copy(spec, old, field);
            }
        }
    }
    let needs_ports = |kind: &str| matches!(kind, "NodePort" | "LoadBalancer");
    if needs_ports(text(old, "type")) && needs_ports(text(spec, "type")) {
        keep_node_ports(spec, old);
    }
    let needs_check =
        |spec: &Value| text(spec, "type") == "LoadBalancer" && text(spec, "externalTrafficPolicy") == "Local";
    if needs_check(old) && needs_check(spec) && number(spec, "healthCheckNodePort") == 0 {
        copy(spec, old, "healthCheckNodePort");
    }
}

fn number(object: &Value, field: &str) -> i64 {
    object.get(field).and_then(Value::as_i64).unwrap_or(0)
}

/// Ports keep their node port by port and protocol, unless another port asks for it now.
fn keep_node_ports(spec: &mut Value, old: &Value) {
    let asked: Vec<i64> = list(spec, "ports").iter().map(|port| number(port, "nodePort")).collect();
    let same =
        |a: &Value, b: &Value| number(a, "port") == number(b, "port") && text(a, "protocol") == text(b, "protocol");
    for port in each(spec, "ports").filter(|port| number(port, "nodePort") == 0) {
        let Some(before) = list(old, "ports").iter().find(|before| same(before, port)) else { continue };
        let node_port = number(before, "nodePort");
        if node_port != 0 && !asked.contains(&node_port) {
            set(port, "nodePort", node_port);
        }
    }
}

/// When the type changes, unchanged fields that only the old type knows go away, so that a change of
/// type is one line for a user.
///
/// Source: `dropTypeDependentFields` in pkg/registry/core/service/strategy.go.
fn drop_fields_of_other_types(spec: &mut Value, old: &Value) {
    let kind = text(spec, "type").to_owned();
    let needs_address = kind != "ExternalName";
    let needs_ports = matches!(kind.as_str(), "NodePort" | "LoadBalancer");
    let same = |spec: &Value, field: &str| spec.get(field) == old.get(field);
    if !needs_address && text(old, "type") != "ExternalName" {
        for group in [&["clusterIP", "clusterIPs"][..], &["ipFamilies", "ipFamilyPolicy"]] {
            if group.iter().all(|field| same(spec, field)) {
                group.iter().for_each(|field| {
                    remove(spec, field);
                });
            }
        }
        if same(spec, "internalTrafficPolicy") {
            remove(spec, "internalTrafficPolicy");
        }
    }
    if !needs_ports && matches!(text(old, "type"), "NodePort" | "LoadBalancer") && same_node_ports(spec, old) {
        each(spec, "ports").for_each(|port| {
            remove(port, "nodePort");
        });
    }
    let local_balancer =
        |spec: &Value| text(spec, "type") == "LoadBalancer" && text(spec, "externalTrafficPolicy") == "Local";
    if local_balancer(old) && !local_balancer(spec) && same(spec, "healthCheckNodePort") {
        remove(spec, "healthCheckNodePort");
    }
    if kind != "LoadBalancer" && text(old, "type") == "LoadBalancer" {
        for field in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
            if same(spec, field) {
                remove(spec, field);
            }
        }
    }
    if !is_external(&kind, spec) && is_external(text(old, "type"), old) && same(spec, "externalTrafficPolicy") {
        remove(spec, "externalTrafficPolicy");
    }
}

fn same_node_ports(spec: &Value, old: &Value) -> bool {
    let ports =
        |spec: &Value| -> Vec<i64> { list(spec, "ports").iter().map(|port| number(port, "nodePort")).collect() };
    ports(spec) == ports(old)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fills_by_type() {
        for (spec, expected) in [
            (
                json!({"ports": [{"port": 80}]}),
                json!({"ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}], "sessionAffinity": "None",
                    "type": "ClusterIP", "internalTrafficPolicy": "Cluster"}),
            ),
            (
                json!({"type": "ExternalName", "externalName": "a.b"}),
                json!({"type": "ExternalName", "externalName": "a.b", "sessionAffinity": "None"}),
            ),
            (
                json!({"type": "LoadBalancer", "sessionAffinity": "ClientIP"}),
                json!({"type": "LoadBalancer", "sessionAffinity": "ClientIP", "internalTrafficPolicy": "Cluster",
                    "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10800}},
                    "externalTrafficPolicy": "Cluster", "allocateLoadBalancerNodePorts": true}),
            ),
        ] {
            let mut service = json!({ "spec": spec });
            default(&mut service);
            assert_eq!(service["spec"], expected);
        }
    }

    #[test]
    fn an_update_keeps_what_was_allocated() {
        let old = json!({"spec": {"type": "NodePort", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"],
            "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30000}]}});
        let mut new = json!({"spec": {"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP"}]}});
        prepare_update(&mut new, &old);
        assert_eq!(new["spec"], old["spec"]);
    }

    #[test]
    fn a_change_of_type_clears_the_old_types_fields() {
        let old = json!({"spec": {"type": "NodePort", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"],
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack", "internalTrafficPolicy": "Cluster",
            "externalTrafficPolicy": "Cluster", "ports": [{"port": 80, "nodePort": 30000}]}});
        let mut new = old.clone();
        new["spec"]["type"] = json!("ClusterIP");
        prepare_update(&mut new, &old);
        assert_eq!(new["spec"].get("externalTrafficPolicy"), None);
        assert_eq!(new["spec"]["ports"], json!([{"port": 80}]));
        let mut new = old.clone();
        new["spec"]["type"] = json!("ExternalName");
        prepare_update(&mut new, &old);
        assert_eq!(new["spec"], json!({"type": "ExternalName", "ports": [{"port": 80}]}));
    }
}
