//! Whether a Service makes sense, and what of it never changes.
//!
//! Source: `ValidateService` in pkg/apis/core/validation/validation.go.

use std::{collections::BTreeSet, net::IpAddr};

use api_types::{
    k8s::{
        IntOrString,
        core::{Service, ServicePort, ServiceSpec},
    },
    names,
};

use crate::rules::{
    address::{self, PROTOCOLS},
    meta,
    path::{Errors, IMMUTABLE, Path, items, text},
};

const SPEC: Path = Path::root("spec");
const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const TRAFFIC_POLICIES: [&str; 2] = ["Cluster", "Local"];
const DISTRIBUTIONS: [&str; 3] = ["PreferClose", "PreferSameNode", "PreferSameZone"];
const FAMILIES: [&str; 2] = ["IPv4", "IPv6"];
const FAMILY_POLICIES: [&str; 3] = ["PreferDualStack", "RequireDualStack", "SingleStack"];
const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
/// A day.
const CLIENT_IP_TIMEOUT_MAX_S: i32 = 86400;
const NONE: &str = "None";

pub fn create(service: &Service, errors: &mut Errors) {
    let none = ServiceSpec::default();
    let spec = service.spec.as_ref().unwrap_or(&none);
    let kind = text(&spec.type_);
    if items(&spec.ports).is_empty() && !is_headless(spec) && kind != "ExternalName" {
        errors.required(&SPEC.field("ports"), "");
    }
    by_type(spec, kind, errors);
    ports(items(&spec.ports), errors);
    meta::labels(spec.selector.as_ref(), &SPEC.field("selector"), errors);
    affinity(spec, errors);
    addresses(spec, kind, errors);
    for (i, ip) in items(&spec.external_ips).iter().enumerate() {
        let path = SPEC.field("externalIPs");
        let path = path.index(i);
        if address::ip(ip, &path, errors).is_some() {
            address::non_special(ip, &path, errors);
        }
    }
    errors.required_one_of(&SPEC.field("type"), kind, &TYPES);
    port_conflicts(items(&spec.ports), kind, errors);
    source_ranges(service, spec, kind, errors);
    if spec.allocate_load_balancer_node_ports.is_some() && kind != "LoadBalancer" {
        let path = SPEC.field("allocateLoadBalancerNodePorts");
        errors.forbidden(&path, "may only be used when `type` is 'LoadBalancer'");
    }
    if let Some(class) = &spec.load_balancer_class {
        let path = SPEC.field("loadBalancerClass");
        if kind != "LoadBalancer" {
            errors.forbidden(&path, "may only be used when `type` is 'LoadBalancer'");
        }
        errors.invalid_all(&path, class.as_str(), names::qualified_name(class));
    }
    traffic(spec, kind, errors);
}

fn is_headless(spec: &ServiceSpec) -> bool {
    text(&spec.cluster_ip) == NONE || items(&spec.cluster_ips).first().is_some_and(|ip| ip == NONE)
}

fn by_type(spec: &ServiceSpec, kind: &str, errors: &mut Errors) {
    match kind {
        "LoadBalancer" | "NodePort" if is_headless(spec) => {
            let detail = format!("may not be set to 'None' for {kind} services");
            errors.invalid(&SPEC.field("clusterIPs").index(0), NONE, detail);
        }
        "ExternalName" => {
            for (field, is_set) in [
                ("clusterIPs", !items(&spec.cluster_ips).is_empty() || !text(&spec.cluster_ip).is_empty()),
                ("ipFamilies", !items(&spec.ip_families).is_empty()),
                ("ipFamilyPolicy", spec.ip_family_policy.is_some()),
            ] {
                if is_set {
                    errors.forbidden(&SPEC.field(field), "may not be set for ExternalName services");
                }
            }
            let name = text(&spec.external_name);
            match name.strip_suffix('.').unwrap_or(name) {
                "" => errors.required(&SPEC.field("externalName"), ""),
                name => errors.invalid_all(&SPEC.field("externalName"), name, names::dns1123_subdomain(name)),
            }
        }
        _ => {}
    }
}

fn ports(ports: &[ServicePort], errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for (i, port) in ports.iter().enumerate() {
        let path = SPEC.field("ports");
        let path = path.index(i);
        match text(&port.name) {
            "" if ports.len() > 1 => errors.required(&path.field("name"), ""),
            "" => {}
            name => {
                errors.invalid_all(&path.field("name"), name, names::dns1123_label(name));
                if !seen.insert(name) {
                    errors.duplicate(&path.field("name"), name);
                }
            }
        }
        address::port_number(port.port, &path.field("port"), errors);
        errors.required_one_of(&path.field("protocol"), text(&port.protocol), &PROTOCOLS);
        let same = IntOrString::Int(port.port);
        address::port_number_or_name(port.target_port.as_ref().unwrap_or(&same), &path.field("targetPort"), errors);
        if let Some(protocol) = &port.app_protocol {
            errors.invalid_all(&path.field("appProtocol"), protocol.as_str(), names::qualified_name(protocol));
        }
    }
}

fn affinity(spec: &ServiceSpec, errors: &mut Errors) {
    let kind = text(&spec.session_affinity);
    errors.required_one_of(&SPEC.field("sessionAffinity"), kind, &["ClientIP", NONE]);
    let path = SPEC.field("sessionAffinityConfig");
    match (kind, &spec.session_affinity_config) {
        ("ClientIP", config) => {
            let client_ip = config.as_ref().and_then(|config| config.client_ip.as_ref());
            match client_ip.and_then(|client_ip| client_ip.timeout_seconds) {
                None => errors.required(&path, "when session affinity type is ClientIP"),
                Some(timeout_s) if !(1..=CLIENT_IP_TIMEOUT_MAX_S).contains(&timeout_s) => {
                    let detail = format!("must be greater than 0 and less than {CLIENT_IP_TIMEOUT_MAX_S}");
                    errors.invalid(&path.field("clientIP.timeoutSeconds"), timeout_s, detail);
                }
                Some(_) => {}
            }
        }
        (NONE, Some(_)) => errors.forbidden(&path, "must not be set when session affinity is None"),
        _ => {}
    }
}

/// What a client may ask for; whether it can be had, the allocator decides.
fn addresses(spec: &ServiceSpec, kind: &str, errors: &mut Errors) {
    if kind == "ExternalName" {
        return;
    }
    for (i, family) in items(&spec.ip_families).iter().enumerate() {
        errors.one_of(&SPEC.field("ipFamilies").index(i), family, &FAMILIES);
        if items(&spec.ip_families)[..i].contains(family) {
            errors.duplicate(&SPEC.field("ipFamilies").index(i), family);
        }
    }
    if let Some(policy) = &spec.ip_family_policy {
        errors.one_of(&SPEC.field("ipFamilyPolicy"), policy, &FAMILY_POLICIES);
    }
    let ips = items(&spec.cluster_ips);
    let path = SPEC.field("clusterIPs");
    if let (Some(first), Some(ip)) = (ips.first(), &spec.cluster_ip)
        && first != ip
    {
        errors.invalid(&path, ips, "first value must match `clusterIP`");
    }
    if ips.len() > 2 {
        errors.invalid(&path, ips, "may only hold up to 2 values");
    }
    for (i, ip) in ips.iter().enumerate() {
        if i > 0 && ip == NONE {
            errors.invalid(&path.index(i), ip, "must be empty when 'None' is used");
        }
        if ip == NONE || ip.is_empty() {
            continue;
        }
        if ip.parse::<IpAddr>().is_err() {
            address::ip(ip, &path.index(i), errors);
        }
    }
}

fn port_conflicts(ports: &[ServicePort], kind: &str, errors: &mut Errors) {
    let (mut node_ports, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    let path = SPEC.field("ports");
    for (i, port) in ports.iter().enumerate() {
        let Some(node_port) = port.node_port.filter(|port| *port != 0) else { continue };
        if kind == "ClusterIP" {
            errors.forbidden(&path.index(i).field("nodePort"), "may not be used when `type` is 'ClusterIP'");
        }
        if !node_ports.insert((text(&port.protocol), node_port)) {
            errors.duplicate(&path.index(i).field("nodePort"), node_port);
        }
    }
    for (i, port) in ports.iter().enumerate() {
        if !numbers.insert((text(&port.protocol), port.port)) {
            let key = ServicePort { protocol: port.protocol.clone(), port: port.port, ..Default::default() };
            errors.duplicate(&path.index(i), key);
        }
    }
}

fn source_ranges(service: &Service, spec: &ServiceSpec, kind: &str, errors: &mut Errors) {
    let ranges = items(&spec.load_balancer_source_ranges);
    let annotations = service.metadata.annotations.as_ref();
    if !ranges.is_empty() {
        let path = SPEC.field("LoadBalancerSourceRanges");
        if kind != "LoadBalancer" {
            errors.forbidden(&path, "may only be used when `type` is 'LoadBalancer'");
        }
        for (i, range) in ranges.iter().enumerate() {
            address::cidr(range.trim(), &path.index(i), errors);
        }
    } else if let Some(ranges) = annotations.and_then(|annotations| annotations.get(SOURCE_RANGES)) {
        let path = Path::root("metadata.annotations");
        let path = path.key(SOURCE_RANGES);
        if kind != "LoadBalancer" {
            errors.forbidden(&path, "may only be used when `type` is 'LoadBalancer'");
        }
        for range in ranges.split(',').map(str::trim).filter(|range| !range.is_empty()) {
            address::cidr(range, &path, errors);
        }
    }
}

fn traffic(spec: &ServiceSpec, kind: &str, errors: &mut Errors) {
    let path = SPEC.field("externalTrafficPolicy");
    let is_external =
        matches!(kind, "NodePort" | "LoadBalancer") || (kind == "ClusterIP" && !items(&spec.external_ips).is_empty());
    match text(&spec.external_traffic_policy) {
        "" if is_external => errors.required(&path, ""),
        "" => {}
        policy if is_external => errors.one_of(&path, policy, &TRAFFIC_POLICIES),
        policy => errors.invalid(&path, policy, "may only be set for externally-accessible services"),
    }
    let check_port = spec.health_check_node_port.unwrap_or(0);
    let path = SPEC.field("healthCheckNodePort");
    if kind != "LoadBalancer" || text(&spec.external_traffic_policy) != "Local" {
        if check_port != 0 {
            let detail = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
            errors.invalid(&path, check_port, detail);
        }
    } else if check_port != 0 {
        address::port_number(check_port, &path, errors);
    }
    if let Some(policy) = &spec.internal_traffic_policy {
        errors.one_of(&SPEC.field("internalTrafficPolicy"), policy, &TRAFFIC_POLICIES);
    }
    if let Some(distribution) = &spec.traffic_distribution {
        errors.one_of(&SPEC.field("trafficDistribution"), distribution, &DISTRIBUTIONS);
    }
}

pub fn update(new: &Service, old: &Service, errors: &mut Errors) {
    let none = ServiceSpec::default();
    let (after, before) = (new.spec.as_ref().unwrap_or(&none), old.spec.as_ref().unwrap_or(&none));
    let is_external_name = |spec: &ServiceSpec| text(&spec.type_) == "ExternalName";
    if !is_external_name(after) && !is_external_name(before) {
        primary(items(&after.cluster_ips), items(&before.cluster_ips), "clusterIPs", errors);
        primary(items(&after.ip_families), items(&before.ip_families), "ipFamilies", errors);
    }
    let is_balancer = |spec: &ServiceSpec| text(&spec.type_) == "LoadBalancer";
    if is_balancer(after) && is_balancer(before) {
        if after.load_balancer_class != before.load_balancer_class {
            let detail = "may not change once set";
            errors.invalid(&SPEC.field("loadBalancerClass"), &after.load_balancer_class, detail);
        }
        let needs_check = |spec: &ServiceSpec| text(&spec.external_traffic_policy) == "Local";
        if needs_check(after) && needs_check(before) && after.health_check_node_port != before.health_check_node_port {
            errors.forbidden(&SPEC.field("healthCheckNodePort"), IMMUTABLE);
        }
    }
    create(new, errors);
}

/// A second address or family may come and go; those that stay do not change.
fn primary(new: &[String], old: &[String], field: &str, errors: &mut Errors) {
    for i in 0..new.len().min(old.len()) {
        if new[i] != old[i] {
            errors.invalid(&SPEC.field(field).index(i), new, "may not change once set");
        }
    }
    if new.is_empty() && !old.is_empty() {
        errors.invalid(&SPEC.field(field).index(0), new, "primary value can not be unset");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::rules::{self, texts};

    fn check(spec: Value, expected: &[&str]) {
        let mut service = json!({ "spec": spec });
        super::super::default(&mut service);
        assert_eq!(texts(rules::check(&service, create)), expected, "{service}");
    }

    #[test]
    fn services() {
        check(json!({"ports": [{"port": 80}], "selector": {"a": "b"}}), &[]);
        check(json!({"clusterIP": "None"}), &[]);
        check(json!({}), &["spec.ports: Required value"]);
        check(json!({"type": "ExternalName", "externalName": "a.example"}), &[]);
        check(json!({"type": "ExternalName"}), &["spec.externalName: Required value"]);
        check(
            json!({"ports": [{"port": 80}, {"port": 81, "name": "b", "protocol": "X"}]}),
            &[
                "spec.ports[0].name: Required value",
                "spec.ports[1].protocol: Unsupported value: \"X\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
            ],
        );
        check(
            json!({"ports": [{"port": 0, "nodePort": 30000, "targetPort": "x"}]}),
            &[
                "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
                "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
            ],
        );
        check(
            json!({"type": "Odd", "ports": [{"port": 80}]}),
            &[
                "spec.type: Unsupported value: \"Odd\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\"",
            ],
        );
        check(
            json!({"ports": [{"port": 80}], "externalIPs": ["127.0.0.1"]}),
            &[
                "spec.externalIPs[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
            ],
        );
    }

    #[test]
    fn the_address_stays() {
        let service = |ip: &str| json!({"spec": {"type": "ClusterIP", "sessionAffinity": "None", "clusterIP": ip, "clusterIPs": [ip], "ports": [{"port": 80, "protocol": "TCP"}]}});
        assert_eq!(
            texts(rules::check_change(&service("10.0.0.2"), &service("10.0.0.1"), update)),
            ["spec.clusterIPs[0]: Invalid value: [\"10.0.0.2\"]: may not change once set"]
        );
    }
}
