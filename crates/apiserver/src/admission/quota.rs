//! ResourceQuotas: what a namespace uses is counted afresh for each write that adds to it,
//! under a lock of the namespace, so that no two writes are admitted into the same room.
//!
//! Source: apiserver/pkg/admission/plugin/resourcequota, pkg/quota/v1/evaluator/core.

use std::collections::BTreeMap;

use api_types::{ApiError, Key, Quantity, Resource, k8s::core::Pod, resources};
use serde::Deserialize;
use serde_json::Value;

use super::{Attributes, Operation};
use crate::{
    reader::Reader,
    rules::{
        amounts::{self, is_extended, is_huge_pages},
        edit::{list, map, text, text_at},
        path::items,
        pod::{container::is_sidecar, qos_class},
    },
};

type Usage = BTreeMap<String, Quantity>;

/// The namespace whose quotas a write counts against, if it has any: the write holds that namespace's lock
/// from before [`super::validate`] until it is stored and visible to the next one's reader.
pub fn charged_namespace<'a>(attributes: &Attributes<'a>, reader: &dyn Reader) -> Option<&'a str> {
    let adds = matches!(attributes.operation, Operation::Create | Operation::Update);
    let namespace = attributes.key.namespace.as_str();
    let has_quota = || !reader.list(&resources::RESOURCE_QUOTA, namespace).is_empty();
    (adds && !namespace.is_empty() && attributes.subresource.is_empty() && has_quota()).then_some(namespace)
}

pub(super) fn validate(attributes: &Attributes, object: Option<&Value>, reader: &dyn Reader) -> Result<(), ApiError> {
    let Some(object) = object.filter(|_| charged_namespace(attributes, reader).is_some()) else { return Ok(()) };
    let resource = attributes.resource;
    let added = usage(resource, object);
    let before = attributes.old.map(|old| usage(resource, old)).unwrap_or_default();
    let delta = |name: &String| {
        let was = before.get(name).copied().unwrap_or(Quantity::ZERO);
        added.get(name).map(|amount| *amount - was).filter(|delta| !delta.is_zero() && !delta.is_negative())
    };
    let mut missing = Vec::new();
    for quota in reader.list(&resources::RESOURCE_QUOTA, &attributes.key.namespace) {
        if !selects(&quota, resource, object) {
            continue;
        }
        let name = text_at(&quota, "/metadata/name");
        // As upstream has it, a quota binds from when its controller has taken note of it.
        let hard: Usage = map(&quota["status"], "hard").filter_map(|(name, amount)| parsed(name, amount)).collect();
        if resource == &resources::POD && attributes.operation == Operation::Create {
            missing
                .extend(unspecified(object, &hard).map(|names| format!("failed quota: {name}: must specify {names}")));
        }
        let asked: Usage = hard.keys().filter_map(|name| Some((name.clone(), delta(name)?))).collect();
        if asked.is_empty() {
            continue;
        }
        let used = used(reader, attributes.key, &quota, attributes.old.map(|_| attributes.key.name.as_str()), resource);
        let before_of = |name: &String| before.get(name).copied().unwrap_or(Quantity::ZERO);
        let held = |name: &String| used.get(name).copied().unwrap_or(Quantity::ZERO) + before_of(name);
        let exceeded: Vec<&String> = asked.keys().filter(|name| held(name) + asked[*name] > hard[*name]).collect();
        if !exceeded.is_empty() {
            let show = |of: &dyn Fn(&String) -> Quantity| {
                exceeded.iter().map(|name| format!("{name}={}", of(name))).collect::<Vec<_>>().join(",")
            };
            return Err(attributes.forbidden(format!(
                "exceeded quota: {name}, requested: {}, used: {}, limited: {}",
                show(&|name| asked[name]),
                show(&held),
                show(&|name| hard[name])
            )));
        }
    }
    if missing.is_empty() { Ok(()) } else { Err(attributes.forbidden(missing.join("; "))) }
}

fn parsed(name: &str, amount: &Value) -> Option<(String, Quantity)> {
    Some((name.to_owned(), Quantity::parse(amount.as_str()?).ok()?))
}

/// CPU and memory that a quota bounds must be said by every container.
fn unspecified(pod: &Value, hard: &Usage) -> Option<String> {
    let pod = Pod::deserialize(pod).ok()?.spec?;
    let mut names = BTreeMap::new();
    for bound in hard.keys() {
        let (is_limit, name) = match bound.split_once('.') {
            Some(("limits", name)) => (true, name),
            Some(("requests", name)) => (false, name),
            _ => (false, bound.as_str()),
        };
        if !matches!(name, "cpu" | "memory") {
            continue;
        }
        let says = |resources: Option<&api_types::k8s::core::ResourceRequirements>| {
            let amounts = resources.and_then(|all| if is_limit { all.limits.as_ref() } else { all.requests.as_ref() });
            amounts.is_some_and(|amounts| amounts.contains_key(name))
        };
        if says(pod.resources.as_ref()) {
            continue;
        }
        let silent: Vec<&str> = pod
            .containers
            .iter()
            .chain(items(&pod.init_containers))
            .filter(|container| !says(container.resources.as_ref()))
            .map(|container| container.name.as_str())
            .collect();
        if !silent.is_empty() {
            names.insert(bound, silent.join(","));
        }
    }
    let list: Vec<String> = names.iter().map(|(bound, containers)| format!("{bound} for: {containers}")).collect();
    (!list.is_empty()).then(|| list.join("; "))
}

/// What all objects of the written kind use, but for the one named `besides`, which is being written. A kind's
/// names in quotas are its own, so that no other kind has to be counted.
fn used(reader: &dyn Reader, key: &Key, quota: &Value, besides: Option<&str>, resource: &Resource) -> Usage {
    let mut total = Usage::new();
    for object in reader.list(resource, &key.namespace) {
        let is_written = besides == Some(text_at(&object, "/metadata/name"));
        if !is_written && selects(quota, resource, &object) {
            add(&mut total, usage(resource, &object));
        }
    }
    total
}

/// What one object uses, by the names that quotas know.
pub(super) fn usage(resource: &Resource, object: &Value) -> Usage {
    let mut usage = Usage::new();
    let one = Quantity::from_units(1, Default::default());
    let group = if resource.group.is_empty() { String::new() } else { format!(".{}", resource.group) };
    usage.insert(format!("count/{}{group}", resource.plural), one);
    match (resource.group.as_ref(), resource.plural.as_ref()) {
        ("", "pods") => pod_usage(object, &mut usage),
        ("", "services") => service_usage(object, &mut usage),
        ("", "persistentvolumeclaims") => claim_usage(object, &mut usage),
        ("", plural @ ("replicationcontrollers" | "resourcequotas" | "secrets" | "configmaps")) => {
            usage.insert(plural.to_owned(), one);
        }
        _ => {}
    }
    usage
}

fn service_usage(service: &Value, usage: &mut Usage) {
    let units = |count: usize| Quantity::from_units(count as i64, Default::default());
    let kind = text_at(service, "/spec/type");
    usage.insert("services".to_owned(), units(1));
    let ports = list(&service["spec"], "ports");
    let allocates = service.pointer("/spec/allocateLoadBalancerNodePorts").and_then(Value::as_bool).unwrap_or(true);
    let node_ports = match kind {
        "NodePort" => ports.len(),
        "LoadBalancer" if allocates => ports.len(),
        "LoadBalancer" => {
            ports.iter().filter(|port| port.get("nodePort").and_then(Value::as_i64).unwrap_or(0) != 0).count()
        }
        _ => 0,
    };
    usage.insert("services.nodeports".to_owned(), units(node_ports));
    usage.insert("services.loadbalancers".to_owned(), units(usize::from(kind == "LoadBalancer")));
}

fn claim_usage(claim: &Value, usage: &mut Usage) {
    let one = Quantity::from_units(1, Default::default());
    let storage = Quantity::parse(text_at(claim, "/spec/resources/requests/storage")).unwrap_or_default();
    usage.insert("persistentvolumeclaims".to_owned(), one);
    usage.insert("requests.storage".to_owned(), storage);
    let class = text_at(claim, "/spec/storageClassName");
    if !class.is_empty() {
        let prefix = format!("{class}.storageclass.storage.k8s.io");
        usage.insert(format!("{prefix}/persistentvolumeclaims"), one);
        usage.insert(format!("{prefix}/requests.storage"), storage);
    }
}

/// A pod that has ended uses nothing but its place among all objects.
fn pod_usage(pod: &Value, usage: &mut Usage) {
    if matches!(text_at(pod, "/status/phase"), "Failed" | "Succeeded") {
        return;
    }
    usage.insert("pods".to_owned(), Quantity::from_units(1, Default::default()));
    let Some(spec) = Pod::deserialize(pod).ok().and_then(|pod| pod.spec) else { return };
    for (is_limit, prefix) in [(false, "requests"), (true, "limits")] {
        for (name, amount) in total(&spec, is_limit) {
            if !is_limit && (matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") || is_huge_pages(&name)) {
                usage.insert(name.clone(), amount);
            }
            if !is_limit || !is_extended(&name) {
                usage.insert(format!("{prefix}.{name}"), amount);
            }
        }
    }
}

/// Regular containers and sidecars together, or the largest init container; overhead on top.
fn total(spec: &api_types::k8s::core::PodSpec, is_limit: bool) -> Usage {
    let of = |resources: Option<&api_types::k8s::core::ResourceRequirements>| -> Usage {
        let amounts = resources.and_then(|all| if is_limit { all.limits.clone() } else { all.requests.clone() });
        amounts::each(&amounts).map(|(name, amount)| (name.to_owned(), amounts::parse(amount))).collect()
    };
    let mut sum = Usage::new();
    for container in &spec.containers {
        add(&mut sum, of(container.resources.as_ref()));
    }
    let (mut sidecars, mut largest) = (Usage::new(), Usage::new());
    for container in items(&spec.init_containers) {
        let mut here = of(container.resources.as_ref());
        if is_sidecar(container) {
            add(&mut sum, here.clone());
            add(&mut sidecars, here);
            here = sidecars.clone();
        } else {
            add(&mut here, sidecars.clone());
        }
        for (name, amount) in here {
            let entry = largest.entry(name).or_insert(Quantity::ZERO);
            *entry = (*entry).max(amount);
        }
    }
    for (name, amount) in largest {
        let entry = sum.entry(name).or_insert(Quantity::ZERO);
        *entry = (*entry).max(amount);
    }
    sum.extend(of(spec.resources.as_ref()));
    let overhead: Usage =
        amounts::each(&spec.overhead).map(|(name, amount)| (name.to_owned(), amounts::parse(amount))).collect();
    if !is_limit {
        add(&mut sum, overhead);
    } else {
        add(
            &mut sum,
            overhead.into_iter().filter(|(name, _)| of(spec.resources.as_ref()).contains_key(name)).collect(),
        );
    }
    sum
}

fn add(sum: &mut Usage, amounts: Usage) {
    for (name, amount) in amounts {
        let entry = sum.entry(name).or_insert(Quantity::ZERO);
        *entry += amount;
    }
}

/// Whether the quota's scopes take the object in. Scopes tell pods apart, and claims by their class.
fn selects(quota: &Value, resource: &Resource, object: &Value) -> bool {
    let scopes =
        list(&quota["spec"], "scopes").iter().filter_map(Value::as_str).map(|scope| (scope, "Exists", &[][..]));
    let expressions =
        quota.pointer("/spec/scopeSelector").map(|selector| list(selector, "matchExpressions")).unwrap_or_default();
    let expressions = expressions
        .iter()
        .map(|expression| (text(expression, "scopeName"), text(expression, "operator"), list(expression, "values")));
    let mut all = scopes.chain(expressions).peekable();
    if all.peek().is_none() {
        return true;
    }
    let is_pod = *resource == resources::POD;
    let is_claim = *resource == resources::PERSISTENT_VOLUME_CLAIM;
    all.all(|(scope, operator, values)| match scope {
        "VolumeAttributesClass" if is_claim => {
            named(text_at(object, "/spec/volumeAttributesClassName"), operator, values)
        }
        _ if !is_pod => false,
        "Terminating" => object.pointer("/spec/activeDeadlineSeconds").is_some_and(|deadline| !deadline.is_null()),
        "NotTerminating" => object.pointer("/spec/activeDeadlineSeconds").is_none_or(Value::is_null),
        "BestEffort" => qos_class(object) == "BestEffort",
        "NotBestEffort" => qos_class(object) != "BestEffort",
        "PriorityClass" => named(text_at(object, "/spec/priorityClassName"), operator, values),
        "CrossNamespacePodAffinity" => crosses_namespaces(object),
        _ => false,
    })
}

fn named(name: &str, operator: &str, values: &[Value]) -> bool {
    let is_listed = || values.iter().any(|value| value == name);
    match operator {
        "In" => is_listed(),
        "NotIn" => !is_listed(),
        "DoesNotExist" => name.is_empty(),
        _ => !name.is_empty(),
    }
}

fn crosses_namespaces(pod: &Value) -> bool {
    let terms = ["podAffinity", "podAntiAffinity"].into_iter().flat_map(|field| {
        let affinity = &pod["spec"]["affinity"][field];
        let required = list(affinity, "requiredDuringSchedulingIgnoredDuringExecution").iter();
        let preferred = list(affinity, "preferredDuringSchedulingIgnoredDuringExecution").iter();
        required.chain(preferred.map(|term| &term["podAffinityTerm"])).collect::<Vec<_>>()
    });
    terms.into_iter().any(|term| !list(term, "namespaces").is_empty() || term.get("namespaceSelector").is_some())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{
        super::fixture::{Objects, refusal},
        *,
    };

    fn quota(spec: Value) -> Objects {
        let status = json!({ "hard": spec["hard"] });
        let quota = json!({"metadata": {"name": "q", "namespace": "n"}, "spec": spec, "status": status});
        Objects::default().with(resources::RESOURCE_QUOTA, quota)
    }

    fn pod(name: &str, cpu: &str) -> Value {
        json!({"metadata": {"name": name, "namespace": "n"}, "spec": {"containers": [
            {"name": "c", "resources": {"requests": {"cpu": cpu}}}]}, "status": {"phase": "Pending"}})
    }

    #[test]
    fn no_more_than_the_quota() {
        for (hard, existing, expected) in [
            (json!({"pods": "2"}), 1, ""),
            (
                json!({"pods": "2"}),
                2,
                "pods \"x\" is forbidden: exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2",
            ),
            (json!({"requests.cpu": "1"}), 1, ""),
            (
                json!({"cpu": "1"}),
                2,
                "pods \"x\" is forbidden: exceeded quota: q, requested: cpu=500m, used: cpu=1, limited: cpu=1",
            ),
            (json!({"count/deployments.apps": "0"}), 9, ""),
            (json!({"memory": "1Gi"}), 0, "pods \"x\" is forbidden: failed quota: q: must specify memory for: c"),
        ] {
            let mut objects = quota(json!({ "hard": hard }));
            for i in 0..existing {
                objects = objects.with(resources::POD, pod(&format!("p{i}"), "500m"));
            }
            assert_eq!(refusal(validate, &resources::POD, &pod("x", "500m"), &objects), expected);
        }
    }

    #[test]
    fn scopes_take_in_some_pods() {
        let full = |scope: &str| quota(json!({"hard": {"pods": "0"}, "scopes": [scope]}));
        let refused = |scope: &str| !refusal(validate, &resources::POD, &pod("x", "1"), &full(scope)).is_empty();
        assert!(refused("NotBestEffort") && refused("NotTerminating"));
        assert!(!refused("BestEffort") && !refused("Terminating"));
    }

    #[test]
    fn services_use_ports() {
        let service = json!({"spec": {"type": "LoadBalancer", "ports": [{"port": 1}, {"port": 2}]}});
        let usage = usage(&resources::SERVICE, &service);
        assert_eq!(usage["services.nodeports"].to_string(), "2");
        assert_eq!(usage["services.loadbalancers"].to_string(), "1");
    }
}
