//! Checks that are made only if `--enable-admission-plugins` names them.
//!
//! Source: plugin/pkg/admission/{alwayspullimages,extendedresourcetoleration,antiaffinity,podnodeselector,
//! namespace/exists}, apiserver's network/denyserviceexternalips.

use api_types::{ApiError, Key, resources};
use serde_json::{Value, json};

use super::{Attributes, Operation};
use crate::{
    reader::Reader,
    rules::edit::{child, each, list, map, set, text},
};

const CONTAINER_LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];
const HOSTNAME: &str = "kubernetes.io/hostname";
const NODE_SELECTOR: &str = "scheduler.alpha.kubernetes.io/node-selector";

fn writes_pod(attributes: &Attributes) -> bool {
    let is_pod = attributes.resource.plural == "pods" && attributes.resource.group.is_empty();
    is_pod && matches!(attributes.subresource, "" | "ephemeralcontainers") && attributes.operation != Operation::Delete
}

/// AlwaysPullImages: who may not pull an image may not use it because somebody else has.
pub(super) fn always_pull(attributes: &Attributes, pod: &mut Value, _: &dyn Reader) -> Result<(), ApiError> {
    if writes_pod(attributes) {
        for name in CONTAINER_LISTS {
            each(child(pod, "spec"), name).for_each(|container| set(container, "imagePullPolicy", "Always"));
        }
        each(child(pod, "spec"), "volumes").filter(|volume| volume["image"].is_object()).for_each(|volume| {
            set(child(volume, "image"), "pullPolicy", "Always");
        });
    }
    Ok(())
}

/// DenyServiceExternalIPs: no new ones (CVE-2020-8554).
pub(super) fn deny_external_ips(
    attributes: &Attributes,
    service: Option<&Value>,
    _: &dyn Reader,
) -> Result<(), ApiError> {
    let Some(service) =
        service.filter(|_| attributes.creates(&resources::SERVICE) || attributes.updates(&resources::SERVICE))
    else {
        return Ok(());
    };
    let known = attributes.old.map(|old| list(&old["spec"], "externalIPs")).unwrap_or_default();
    match list(&service["spec"], "externalIPs").iter().all(|address| known.contains(address)) {
        true => Ok(()),
        false => Err(attributes.forbidden("Use of external IPs is denied by admission control")),
    }
}

/// ExtendedResourceToleration: who asks for a device tolerates the taint that keeps others off its node.
pub(super) fn tolerate_devices(attributes: &Attributes, pod: &mut Value, _: &dyn Reader) -> Result<(), ApiError> {
    if !attributes.creates(&resources::POD) {
        return Ok(());
    }
    let mut devices: Vec<String> = Vec::new();
    for name in ["initContainers", "containers"] {
        for container in list(&pod["spec"], name) {
            devices.extend(
                map(&container["resources"], "requests").map(|(name, _)| name.clone()).filter(|name| is_extended(name)),
            );
        }
    }
    devices.sort_unstable();
    devices.dedup();
    let spec = child(pod, "spec");
    let mut tolerations = list(spec, "tolerations").to_vec();
    for device in devices {
        if !tolerations.iter().any(|known| text(known, "key") == device) {
            tolerations.push(json!({"key": device, "operator": "Exists", "effect": "NoSchedule"}));
        }
    }
    if !tolerations.is_empty() {
        set(spec, "tolerations", tolerations);
    }
    Ok(())
}

fn is_extended(name: &str) -> bool {
    name.contains('/') && !name.contains("kubernetes.io/") && !name.starts_with("requests.")
}

/// LimitPodHardAntiAffinityTopology: nobody keeps others out of more than one node.
pub(super) fn limit_anti_affinity(
    attributes: &Attributes,
    pod: Option<&Value>,
    _: &dyn Reader,
) -> Result<(), ApiError> {
    let Some(pod) = pod.filter(|_| attributes.creates(&resources::POD)) else { return Ok(()) };
    let affinity = &pod["spec"]["affinity"]["podAntiAffinity"];
    let mut keys = list(affinity, "requiredDuringSchedulingIgnoredDuringExecution").iter();
    match keys.find(|term| text(term, "topologyKey") != HOSTNAME) {
        None => Ok(()),
        Some(term) => Err(attributes.forbidden(format!(
            "affinity.PodAntiAffinity.RequiredDuringScheduling has TopologyKey {} but only key {HOSTNAME} is allowed",
            text(term, "topologyKey")
        ))),
    }
}

/// PodNodeSelector: a namespace's annotation says on which nodes its pods may run.
pub(super) fn select_nodes(attributes: &Attributes, pod: &mut Value, reader: &dyn Reader) -> Result<(), ApiError> {
    if !attributes.creates(&resources::POD) {
        return Ok(());
    }
    let Some(namespace) = reader.get(&resources::NAMESPACE, &Key::cluster(&attributes.key.namespace)) else {
        return Ok(());
    };
    let wanted = text(&namespace["metadata"]["annotations"], NODE_SELECTOR);
    let pairs = wanted.split(',').filter_map(|pair| pair.trim().split_once('='));
    let wanted: Vec<(&str, &str)> = pairs.map(|(key, value)| (key.trim(), value.trim())).collect();
    let of_pod = &pod["spec"]["nodeSelector"];
    if wanted.iter().any(|(key, value)| of_pod.get(*key).is_some_and(|own| own != value)) {
        return Err(attributes.forbidden("pod node label selector conflicts with its namespace node label selector"));
    }
    if !wanted.is_empty() {
        let selector = child(child(pod, "spec"), "nodeSelector");
        wanted.iter().for_each(|(key, value)| set(selector, key, *value));
    }
    Ok(())
}

/// NamespaceExists: for updates and deletes too, which NamespaceLifecycle lets pass.
pub(super) fn namespace_exists(
    attributes: &Attributes,
    _: Option<&Value>,
    reader: &dyn Reader,
) -> Result<(), ApiError> {
    let name = &attributes.key.namespace;
    let is_asked = attributes.resource.is_namespaced() && attributes.operation != Operation::Delete;
    match !is_asked || reader.get(&resources::NAMESPACE, &Key::cluster(name)).is_some() {
        true => Ok(()),
        false => Err(ApiError::not_found(&resources::NAMESPACE, name)),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::fixture::{Objects, attributes, filled, refusal},
        *,
    };
    use crate::{authn::User, rules::edit::text_at};

    #[test]
    fn images_are_always_pulled() {
        let one = json!([{"name": "a", "imagePullPolicy": "Never"}]);
        let pod = json!({"spec": {"containers": one, "initContainers": one, "ephemeralContainers": one}});
        let pod = filled(always_pull, &resources::POD, pod, &Objects::default()).unwrap();
        for name in CONTAINER_LISTS {
            assert_eq!(text_at(&pod, &format!("/spec/{name}/0/imagePullPolicy")), "Always");
        }
    }

    /// Attack table, row 7.
    #[test]
    fn external_addresses_are_denied_unless_they_were_there() {
        let service = json!({"spec": {"externalIPs": ["192.0.2.1"]}});
        let check = |object: &Value| refusal(deny_external_ips, &resources::SERVICE, object, &Objects::default());
        let expected = "services \"x\" is forbidden: Use of external IPs is denied by admission control";
        assert_eq!(check(&service), expected);
        assert_eq!(check(&json!({"spec": {}})), "");
        let (user, key, resource) = (User::default(), Key::new("n", "x"), resources::SERVICE);
        let update = attributes(&user, &resource, Operation::Update, &key, Some(&service));
        assert!(deny_external_ips(&update, Some(&service), &Objects::default()).is_ok());
    }

    #[test]
    fn devices_are_tolerated() {
        let container = json!({"resources": {"requests": {"cpu": "1", "example.com/gpu": "1"}}});
        let pod = json!({"spec": {"containers": [container]}});
        let pod = filled(tolerate_devices, &resources::POD, pod, &Objects::default()).unwrap();
        let expected = json!([{"key": "example.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]);
        assert_eq!(pod["spec"]["tolerations"], expected);
    }

    #[test]
    fn anti_affinity_is_limited_to_nodes() {
        let check = |key: &str| {
            let terms = json!([{"topologyKey": key}]);
            let affinity = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}});
            refusal(limit_anti_affinity, &resources::POD, &json!({"spec": {"affinity": affinity}}), &Objects::default())
        };
        assert_eq!(check(HOSTNAME), "");
        assert!(check("zone").ends_with("has TopologyKey zone but only key kubernetes.io/hostname is allowed"));
    }

    #[test]
    fn a_namespace_selects_nodes() {
        let annotations = json!({NODE_SELECTOR: "pool=a, disk=ssd"});
        let namespace = json!({"metadata": {"name": "n", "annotations": annotations}});
        let objects = Objects::default().with(resources::NAMESPACE, namespace);
        let check = |selector: Value| {
            filled(select_nodes, &resources::POD, json!({"spec": {"nodeSelector": selector}}), &objects)
                .map(|pod| pod["spec"]["nodeSelector"].clone())
        };
        let expected = json!({"pool": "a", "disk": "ssd", "own": "x"});
        assert_eq!(check(json!({"own": "x"})).unwrap(), expected);
        assert!(check(json!({"pool": "b"})).unwrap_err().contains("conflicts with its namespace"));
        assert!(refusal(namespace_exists, &resources::POD, &json!({}), &Objects::default()).contains("not found"));
    }
}
