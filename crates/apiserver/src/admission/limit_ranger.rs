//! LimitRanges of a namespace: defaults for containers that say nothing, and bounds for
//! what containers, pods and claims ask for.
//!
//! Source: plugin/pkg/admission/limitranger.

use std::{collections::BTreeMap, sync::Arc};

use api_types::{
    ApiError, Quantity, k8s,
    k8s::core::{Container, LimitRangeItem, Pod},
    resources,
};
use serde::Deserialize;
use serde_json::Value;

use super::Attributes;
use crate::{
    reader::Reader,
    rules::{
        amounts::{self, Amounts},
        edit::{child, each, fill as fill_field, list, set, text},
        path::items,
        pod::container::is_sidecar,
    },
};

const ANNOTATION: &str = "kubernetes.io/limit-ranger";

/// Names the resource, as every message does.
type Bounds = BTreeMap<String, Quantity>;

pub(super) fn fill(attributes: &Attributes, pod: &mut Value, reader: &dyn Reader) -> Result<(), ApiError> {
    if !attributes.creates(&resources::POD) {
        return Ok(());
    }
    let mut filled = Vec::new();
    for range in reader.list(&resources::LIMIT_RANGE, &attributes.key.namespace) {
        for item in list(&range["spec"], "limits").iter().filter(|item| text(item, "type") == "Container") {
            let spec = child(pod, "spec");
            each(spec, "containers").for_each(|container| fill_container(container, item, "container", &mut filled));
            each(spec, "initContainers")
                .for_each(|container| fill_container(container, item, "init container", &mut filled));
        }
    }
    if !filled.is_empty() {
        let note = format!("LimitRanger plugin set: {}", filled.join("; "));
        set(child(child(pod, "metadata"), "annotations"), ANNOTATION, note);
    }
    Ok(())
}

fn fill_container(container: &mut Value, item: &Value, sort: &str, notes: &mut Vec<String>) {
    let name = text(container, "name").to_owned();
    for (defaults, field, word) in [("defaultRequest", "requests", "request"), ("default", "limits", "limit")] {
        let Some(defaults) = item.get(defaults).and_then(Value::as_object).filter(|all| !all.is_empty()) else {
            continue;
        };
        let amounts = child(child(container, "resources"), field);
        let absent: Vec<&str> =
            defaults.keys().map(String::as_str).filter(|name| amounts.get(*name).is_none()).collect();
        for name in &absent {
            fill_field(amounts, name, defaults[*name].clone());
        }
        if !absent.is_empty() {
            notes.push(format!("{} {word} for {sort} {name}", absent.join(", ")));
        }
    }
}

pub(super) fn validate(attributes: &Attributes, object: Option<&Value>, reader: &dyn Reader) -> Result<(), ApiError> {
    let Some(object) = object else { return Ok(()) };
    let is_claim = attributes.creates(&resources::PERSISTENT_VOLUME_CLAIM)
        || attributes.updates(&resources::PERSISTENT_VOLUME_CLAIM);
    if !attributes.creates(&resources::POD) && !is_claim {
        return Ok(());
    }
    let mut refusals = Vec::new();
    for item in limit_items(&reader.list(&resources::LIMIT_RANGE, &attributes.key.namespace)) {
        match item.type_.as_str() {
            "PersistentVolumeClaim" if is_claim => refusals.extend(claim_refusals(object, &item)),
            "Container" | "Pod" if !is_claim => {
                let pod = Pod::deserialize(object).unwrap_or_default();
                refusals.extend(pod_refusals(&pod, &item));
            }
            _ => {}
        }
    }
    refusals.dedup();
    match refusals.as_slice() {
        [] => Ok(()),
        [one] => Err(attributes.forbidden(one)),
        many => Err(attributes.forbidden(format!("[{}]", many.join(", ")))),
    }
}

fn limit_items(ranges: &[Arc<Value>]) -> Vec<LimitRangeItem> {
    let items = ranges.iter().flat_map(|range| list(&range["spec"], "limits"));
    items.filter_map(|item| LimitRangeItem::deserialize(item).ok()).collect()
}

fn claim_refusals(claim: &Value, item: &LimitRangeItem) -> Vec<String> {
    let request = claim.pointer("/spec/resources/requests/storage").and_then(Value::as_str).unwrap_or_default();
    let request = Quantity::parse(request).unwrap_or_default();
    let bound = |amounts: &Option<Amounts>| amounts.as_ref()?.get("storage").map(amounts::parse);
    let mut refusals = Vec::new();
    let subject = "storage usage per PersistentVolumeClaim is";
    if let Some(min) = bound(&item.min).filter(|min| request < *min) {
        refusals.push(format!("minimum {subject} {min}, but request is {request}"));
    }
    if let Some(max) = bound(&item.max).filter(|max| request > *max) {
        refusals.push(format!("maximum {subject} {max}, but request is {request}"));
    }
    refusals
}

fn pod_refusals(pod: &Pod, item: &LimitRangeItem) -> Vec<String> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let init = items(&spec.init_containers);
    let of = |container: &Container| {
        let resources = container.resources.clone().unwrap_or_default();
        (parsed(&resources.requests), parsed(&resources.limits))
    };
    if item.type_ == "Container" {
        let containers = spec.containers.iter().chain(init);
        return containers
            .flat_map(|container| {
                let (requests, limits) = of(container);
                refusals(item, &requests, &limits)
            })
            .collect();
    }
    let sum = |which: fn((Bounds, Bounds)) -> Bounds| {
        let mut total = Bounds::new();
        for container in spec.containers.iter().chain(init.iter().filter(|container| is_sidecar(container))) {
            for (name, amount) in which(of(container)) {
                let entry = total.entry(name).or_insert(Quantity::ZERO);
                *entry += amount;
            }
        }
        for container in init.iter().filter(|container| !is_sidecar(container)) {
            for (name, amount) in which(of(container)) {
                let entry = total.entry(name).or_insert(Quantity::ZERO);
                *entry = (*entry).max(amount);
            }
        }
        total
    };
    let (mut requests, mut limits) = (sum(|(requests, _)| requests), sum(|(_, limits)| limits));
    if let Some(whole) = &spec.resources {
        requests.extend(parsed(&whole.requests));
        limits.extend(parsed(&whole.limits));
    }
    refusals(item, &requests, &limits)
}

fn parsed(amounts: &Option<BTreeMap<String, k8s::Quantity>>) -> Bounds {
    amounts::each(amounts).map(|(name, amount)| (name.to_owned(), amounts::parse(amount))).collect()
}

fn refusals(item: &LimitRangeItem, requests: &Bounds, limits: &Bounds) -> Vec<String> {
    let kind = &item.type_;
    let mut refusals = Vec::new();
    for (name, bound) in parsed(&item.min) {
        let subject = format!("minimum {name} usage per {kind} is {bound}");
        match (requests.get(&name), limits.get(&name)) {
            (None, _) => refusals.push(format!("{subject}.  No request is specified")),
            (Some(request), _) if *request < bound => refusals.push(format!("{subject}, but request is {request}")),
            (Some(_), Some(limit)) if *limit < bound => refusals.push(format!("{subject}, but limit is {limit}")),
            (Some(_), _) => {}
        }
    }
    for (name, bound) in parsed(&item.max) {
        let subject = format!("maximum {name} usage per {kind} is {bound}");
        match (requests.get(&name), limits.get(&name)) {
            (_, None) => refusals.push(format!("{subject}.  No limit is specified")),
            (_, Some(limit)) if *limit > bound => refusals.push(format!("{subject}, but limit is {limit}")),
            (Some(request), Some(_)) if *request > bound => {
                refusals.push(format!("{subject}, but request is {request}"))
            }
            (_, Some(_)) => {}
        }
    }
    for (name, bound) in parsed(&item.max_limit_request_ratio) {
        let subject = format!("{name} max limit to request ratio per {kind} is {bound}");
        let given = |amounts: &Bounds| amounts.get(&name).copied().filter(|amount| !amount.is_zero());
        match (given(requests), given(limits)) {
            (None, _) => refusals.push(format!("{subject}, but no request is specified or request is 0")),
            (Some(_), None) => refusals.push(format!("{subject}, but no limit is specified or limit is 0")),
            (Some(request), Some(limit)) => {
                let ratio = limit.as_f64() / request.as_f64();
                if ratio > bound.as_f64() {
                    refusals.push(format!("{subject}, but provided ratio is {ratio:.6}"));
                }
            }
        }
    }
    refusals
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{
        super::fixture::{Objects, filled, refusal},
        *,
    };

    fn range(item: Value) -> Objects {
        let range = json!({"metadata": {"name": "r", "namespace": "n"}, "spec": {"limits": [item]}});
        Objects::default().with(resources::LIMIT_RANGE, range)
    }

    #[test]
    fn defaults_fill_in() {
        let objects = range(
            json!({"type": "Container", "default": {"cpu": "1", "memory": "1Gi"}, "defaultRequest": {"cpu": "100m"}}),
        );
        let pod = json!({"spec": {"containers": [{"name": "c", "resources": {"limits": {"memory": "2Gi"}}}]}});
        let pod = filled(fill, &resources::POD, pod, &objects).unwrap();
        assert_eq!(
            pod["spec"]["containers"][0]["resources"],
            json!({"limits": {"cpu": "1", "memory": "2Gi"}, "requests": {"cpu": "100m"}})
        );
        assert_eq!(
            pod["metadata"]["annotations"][ANNOTATION],
            "LimitRanger plugin set: cpu request for container c; cpu limit for container c"
        );
    }

    #[test]
    fn bounds_hold() {
        let pod = |cpu: &str| json!({"spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": cpu}, "requests": {"cpu": cpu}}}, {"name": "d", "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "1"}}}]}});
        for (item, cpu, expected) in [
            (json!({"type": "Container", "max": {"cpu": "1"}}), "1", ""),
            (
                json!({"type": "Container", "max": {"cpu": "1"}}),
                "2",
                "pods \"x\" is forbidden: maximum cpu usage per Container is 1, but limit is 2",
            ),
            (
                json!({"type": "Container", "min": {"cpu": "1"}}),
                "500m",
                "pods \"x\" is forbidden: minimum cpu usage per Container is 1, but request is 500m",
            ),
            (
                json!({"type": "Pod", "max": {"cpu": "2"}}),
                "2",
                "pods \"x\" is forbidden: maximum cpu usage per Pod is 2, but limit is 3",
            ),
        ] {
            assert_eq!(refusal(validate, &resources::POD, &pod(cpu), &range(item)), expected);
        }
        let claim = json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}});
        let item = json!({"type": "PersistentVolumeClaim", "max": {"storage": "1Gi"}});
        assert_eq!(
            refusal(validate, &resources::PERSISTENT_VOLUME_CLAIM, &claim, &range(item)),
            "persistentvolumeclaims \"x\" is forbidden: maximum storage usage per PersistentVolumeClaim is 1Gi, but request is 2Gi"
        );
    }
}
