//! The objects that stand in every cluster, as data: what is wanted, and how much of it an
//! administrator may have changed.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use api_types::{
    Object, Resource,
    k8s::{apiregistration, core, discovery, flowcontrol, networking, rbac, scheduling},
};
use ipnet::IpNet;
use serde_json::{Value, json};

use crate::authz::rule::Rule;

/// Upstream's default roles and bindings, without the label and annotation that all of them bear.
const RBAC: &str = include_str!("rbac.json");
/// Upstream's default priority levels and flow schemas.
pub const FLOW: &str = include_str!("flow.json");

const RBAC_GROUP: &str = "rbac.authorization.k8s.io";
pub const RBAC_AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
/// Schemas and levels that every server has, whatever the store says.
pub const MANDATORY_FLOW: [&str; 2] = ["exempt", "catch-all"];
pub const FLOW_AUTOUPDATE: &str = "apf.kubernetes.io/autoupdate-spec";
/// Port of the `kubernetes` Service, whatever the apiserver's own.
const SERVICE_PORT: u16 = 443;

/// How much of an existing object the server insists on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Insist {
    /// That it exists.
    Existence,
    /// That it grants at least this; more may be added, and `autoupdate: false` leaves it alone.
    Role,
    /// That it binds at least these subjects to this role.
    Binding,
    /// That its spec is this, unless `autoupdate-spec: false`.
    Spec,
    /// That these top-level fields are as here.
    Fields(&'static [&'static str]),
}

/// An object that the server wants to see.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub resource: &'static Resource,
    pub object: Value,
    pub insist: Insist,
    /// Written to the status, with the time, while the object has no condition.
    pub condition: Option<Value>,
}

impl Wanted {
    fn new(resource: &'static Resource, object: Value, insist: Insist) -> Self {
        Self { resource, object, insist, condition: None }
    }
    fn with_condition(self, kind: &str, status: &str, reason: &str, message: &str) -> Self {
        let condition = json!({"type": kind, "status": status, "reason": reason, "message": message});
        Self { condition: Some(condition), ..self }
    }
}

/// What of the objects depends on the flags.
#[derive(Clone, Debug)]
pub struct Settings {
    pub secure_port: u16,
    /// One range, or one of each family; the first gives the `kubernetes` Service its address.
    pub service_ranges: Vec<IpNet>,
    /// How clients are known here, published to extension apiservers: authorities (PEM) and headers.
    pub authentication: BTreeMap<String, String>,
    /// Today, as `2026-01-31`.
    pub day: String,
}

/// Namespaces first: the others live in them.
pub fn namespaces() -> Vec<Wanted> {
    let namespace = |name: &&str| {
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        Wanted::new(core::Namespace::RESOURCE, object, Insist::Existence)
    };
    ["default", "kube-system", "kube-public", "kube-node-lease"].iter().map(namespace).collect()
}

/// Everything but the namespaces; in no order that matters.
pub fn objects(settings: &Settings) -> Vec<Wanted> {
    let mut wanted = roles_and_bindings();
    wanted.extend(flow());
    wanted.extend(priority_classes());
    wanted.extend(api_services());
    wanted.push(kubernetes_service(settings));
    wanted.push(service_cidr(settings));
    wanted.push(extension_authentication(settings));
    wanted.push(legacy_token_tracking(settings));
    wanted
}

/// What the node authoriser grants every node.
pub fn node_rules() -> Vec<Rule> {
    let roles = entries(RBAC);
    let role = roles.iter().find(|role| role["kind"] == "ClusterRole" && role["name"] == "system:node");
    Rule::list(&role.expect("the data has system:node")["rules"])
}

fn entries(data: &str) -> Vec<Value> {
    serde_json::from_str(data).expect("the data is part of this program")
}

fn roles_and_bindings() -> Vec<Wanted> {
    entries(RBAC).into_iter().map(rbac_object).collect()
}

fn rbac_object(mut entry: Value) -> Wanted {
    let mut take = |field: &str| entry.as_object_mut().and_then(|fields| fields.remove(field));
    let (kind, namespace) = (take("kind").unwrap_or_default(), take("namespace"));
    let mut metadata = json!({
        "name": take("name"),
        "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
        "annotations": {RBAC_AUTOUPDATE: "true"},
    });
    if let Some(namespace) = namespace {
        metadata["namespace"] = namespace;
    }
    for (key, value) in take("labels").as_ref().and_then(Value::as_object).into_iter().flatten() {
        metadata["labels"][key] = value.clone();
    }
    let (resource, insist): (&'static Resource, Insist) = match kind.as_str() {
        Some("ClusterRole") => (rbac::ClusterRole::RESOURCE, Insist::Role),
        Some("Role") => (rbac::Role::RESOURCE, Insist::Role),
        Some("ClusterRoleBinding") => (rbac::ClusterRoleBinding::RESOURCE, Insist::Binding),
        _ => (rbac::RoleBinding::RESOURCE, Insist::Binding),
    };
    let mut object = json!({"apiVersion": resource.api_version(), "kind": kind, "metadata": metadata});
    for (field, value) in entry.as_object().into_iter().flatten() {
        object[field] = value.clone();
    }
    if insist == Insist::Role && object.get("rules").is_none() {
        object["rules"] = Value::Null;
    }
    if insist == Insist::Binding {
        object["roleRef"]["apiGroup"] = json!(RBAC_GROUP);
        for subject in object.get_mut("subjects").and_then(Value::as_array_mut).into_iter().flatten() {
            if subject["kind"] != "ServiceAccount" {
                subject["apiGroup"] = json!(RBAC_GROUP);
            }
        }
    }
    Wanted::new(resource, object, insist)
}

/// Upstream's default priority levels and flow schemas.
pub fn flow_objects() -> Vec<Value> {
    let object = |entry: Value| {
        json!({
            "apiVersion": flowcontrol::FlowSchema::RESOURCE.api_version(),
            "kind": entry["kind"],
            "metadata": {"name": entry["name"], "annotations": {FLOW_AUTOUPDATE: "true"}},
            "spec": entry["spec"],
        })
    };
    entries(FLOW).into_iter().map(object).collect()
}

/// The same, as the server wants to see them.
pub fn flow() -> Vec<Wanted> {
    let wanted = |object: Value| {
        let resource: &'static Resource = if object["kind"] == "FlowSchema" {
            flowcontrol::FlowSchema::RESOURCE
        } else {
            flowcontrol::PriorityLevelConfiguration::RESOURCE
        };
        let level = object["spec"]["priorityLevelConfiguration"]["name"].as_str().map(str::to_owned);
        let wanted = Wanted::new(resource, object, Insist::Spec);
        match level {
            Some(level) => {
                let message = format!(
                    "This FlowSchema references the PriorityLevelConfiguration object named {level:?} and it exists"
                );
                wanted.with_condition("Dangling", "False", "Found", &message)
            }
            None => wanted,
        }
    };
    flow_objects().into_iter().map(wanted).collect()
}

fn priority_classes() -> Vec<Wanted> {
    let class = |name: &str, value: i64, description: &str| {
        let object = json!({
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {"name": name},
            "value": value,
            "description": description,
        });
        Wanted::new(scheduling::PriorityClass::RESOURCE, object, Insist::Existence)
    };
    vec![
        class(
            "system-node-critical",
            2_000_001_000,
            "Used for system critical pods that must not be moved from their current node.",
        ),
        class(
            "system-cluster-critical",
            2_000_000_000,
            "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
        ),
    ]
}

/// Group, version, and the priorities of both: clients prefer what is higher.
const API_SERVICES: [(&str, &str, i32, i32); 21] = [
    ("", "v1", 18000, 1),
    ("admissionregistration.k8s.io", "v1", 16700, 15),
    ("apiextensions.k8s.io", "v1", 16700, 15),
    ("apps", "v1", 17800, 15),
    ("authentication.k8s.io", "v1", 17700, 15),
    ("authorization.k8s.io", "v1", 17600, 15),
    ("autoscaling", "v1", 17500, 15),
    ("autoscaling", "v2", 17500, 30),
    ("batch", "v1", 17400, 15),
    ("certificates.k8s.io", "v1", 17300, 15),
    ("coordination.k8s.io", "v1", 16500, 15),
    ("discovery.k8s.io", "v1", 16200, 15),
    ("events.k8s.io", "v1", 17750, 15),
    ("flowcontrol.apiserver.k8s.io", "v1", 16100, 21),
    ("networking.k8s.io", "v1", 17200, 15),
    ("node.k8s.io", "v1", 16300, 15),
    ("policy", "v1", 17100, 15),
    ("rbac.authorization.k8s.io", "v1", 17000, 15),
    ("resource.k8s.io", "v1", 16200, 21),
    ("scheduling.k8s.io", "v1", 16600, 15),
    ("storage.k8s.io", "v1", 16800, 15),
];

/// The groups that this server itself serves.
fn api_services() -> Vec<Wanted> {
    let service = |(group, version, group_priority, version_priority): &(&str, &str, i32, i32)| {
        let mut object = json!({
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": {
                "name": format!("{version}.{group}"),
                "labels": {"kube-aggregator.kubernetes.io/automanaged": "onstart"},
            },
            "spec": {"version": version, "groupPriorityMinimum": group_priority, "versionPriority": version_priority},
        });
        if !group.is_empty() {
            object["spec"]["group"] = json!(group);
        }
        let message = "Local APIServices are always available";
        Wanted::new(apiregistration::APIService::RESOURCE, object, Insist::Existence).with_condition(
            "Available",
            "True",
            "Local",
            message,
        )
    };
    API_SERVICES.iter().map(service).collect()
}

/// The Service `kubernetes`; see [`kubernetes_endpoints`] for where it leads.
pub fn kubernetes_service(settings: &Settings) -> Wanted {
    let service_ip = settings.service_ranges.first().and_then(|range| range.hosts().next());
    let mut service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"component": "apiserver", "provider": "kubernetes"},
        },
        "spec": {
            "ports": [{"name": "https", "port": SERVICE_PORT, "protocol": "TCP", "targetPort": settings.secure_port}],
            "sessionAffinity": "None",
            "type": "ClusterIP",
        },
    });
    if let Some(ip) = service_ip {
        service["spec"]["clusterIP"] = json!(ip);
        service["spec"]["clusterIPs"] = json!([ip]);
    }
    Wanted::new(core::Service::RESOURCE, service, Insist::Existence)
}

/// Endpoints and EndpointSlice of the apiservers at `addresses`, all of one family and on `own`'s port.
pub fn kubernetes_endpoints(own: SocketAddr, addresses: &[IpAddr]) -> [Wanted; 2] {
    let port = json!({"name": "https", "port": own.port(), "protocol": "TCP"});
    let ips: Vec<Value> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
    let endpoints = json!({
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
        },
        "subsets": [{"addresses": ips, "ports": [port]}],
    });
    let each: Vec<Value> =
        addresses.iter().map(|ip| json!({"addresses": [ip], "conditions": {"ready": true}})).collect();
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": "kubernetes"},
        },
        "addressType": if own.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": each,
        "ports": [port],
    });
    [
        Wanted::new(core::Endpoints::RESOURCE, endpoints, Insist::Fields(&["subsets"])),
        Wanted::new(discovery::EndpointSlice::RESOURCE, slice, Insist::Fields(&["endpoints", "ports"])),
    ]
}

fn service_cidr(settings: &Settings) -> Wanted {
    let object = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "ServiceCIDR",
        "metadata": {"name": "kubernetes"},
        "spec": {"cidrs": settings.service_ranges.iter().map(ToString::to_string).collect::<Vec<_>>()},
    });
    Wanted::new(networking::ServiceCIDR::RESOURCE, object, Insist::Existence).with_condition(
        "Ready",
        "True",
        "",
        "Kubernetes default Service CIDR is ready",
    )
}

fn extension_authentication(settings: &Settings) -> Wanted {
    let object = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "extension-apiserver-authentication", "namespace": "kube-system"},
        "data": settings.authentication,
    });
    Wanted::new(core::ConfigMap::RESOURCE, object, Insist::Fields(&["data"]))
}

/// Since when uses of tokens that never expire have been noted: what is unused for long is measured from there.
fn legacy_token_tracking(settings: &Settings) -> Wanted {
    let object = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "kube-apiserver-legacy-service-account-token-tracking", "namespace": "kube-system"},
        "data": {"since": settings.day},
    });
    Wanted::new(core::ConfigMap::RESOURCE, object, Insist::Existence)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            secure_port: 6443,
            service_ranges: vec!["10.96.0.0/16".parse().expect("a range")],
            authentication: BTreeMap::from([("client-ca-file".to_owned(), "PEM".to_owned())]),
            day: "2026-01-31".to_owned(),
        }
    }

    #[test]
    fn every_object_has_its_head() {
        let own: SocketAddr = "192.0.2.2:6443".parse().expect("an address");
        let endpoints = kubernetes_endpoints(own, &[own.ip()]);
        let all: Vec<Wanted> = namespaces().into_iter().chain(objects(&settings())).chain(endpoints).collect();
        for wanted in &all {
            assert_eq!(wanted.object["apiVersion"], wanted.resource.api_version());
            assert_eq!(wanted.object["kind"], wanted.resource.kind.as_ref());
            assert!(wanted.object["metadata"]["name"].is_string(), "{}", wanted.object);
            assert_eq!(wanted.object["metadata"]["namespace"].is_string(), wanted.resource.is_namespaced());
        }
        let count = |kind: &str| all.iter().filter(|wanted| wanted.resource.kind == kind).count();
        assert_eq!([count("ClusterRole"), count("ClusterRoleBinding"), count("FlowSchema")], [70, 51, 11]);
    }

    /// Every group that is served has an APIService.
    #[test]
    fn api_services_cover_the_table() {
        for resource in api_types::resources::BUILT_IN {
            let row = API_SERVICES.iter().find(|row| row.0 == resource.group && row.1 == resource.version);
            assert!(row.is_some() || resource.group == "apiregistration.k8s.io", "{}", resource.api_version());
        }
    }

    #[test]
    fn the_kubernetes_service_has_the_first_address() {
        let all = objects(&settings());
        let service = all.iter().find(|wanted| wanted.resource.kind == "Service").expect("a Service");
        assert_eq!(service.object["spec"]["clusterIP"], "10.96.0.1");
        assert!(node_rules().len() > 20);
    }
}
