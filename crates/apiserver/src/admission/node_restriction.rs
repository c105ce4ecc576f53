//! A kubelet writes only what is its own: its Node, its Lease, its CSINode, the status of
//! pods on it, and mirrors of its static pods.
//!
//! Source: plugin/pkg/admission/noderestriction.

use std::collections::BTreeSet;

use api_types::ApiError;
use serde_json::Value;

use super::{Attributes, Operation};
use crate::{
    authz::node,
    reader::Reader,
    rules::edit::{is_present, list, map, text, text_at},
};

const MIRROR: &str = "kubernetes.io/config.mirror";
const LEASE_NAMESPACE: &str = "kube-node-lease";
/// Labels of Kubernetes' own domains that a kubelet may set on its node.
const KUBELET_LABELS: [&str; 13] = [
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "kubernetes.io/arch",
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "node.kubernetes.io/instance-type",
    "node.kubernetes.io/windows-build",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "node.kubernetes.io/exclude-from-external-load-balancers",
];
const KUBELET_LABEL_DOMAINS: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];

pub(super) fn validate(attributes: &Attributes, object: Option<&Value>, _: &dyn Reader) -> Result<(), ApiError> {
    let Some(node) = node::name_of(attributes.user) else { return Ok(()) };
    if node.is_empty() {
        return Err(attributes.forbidden(format!("could not determine node from user {:?}", attributes.user.name)));
    }
    let (new, old) = (object.unwrap_or(&Value::Null), attributes.old.unwrap_or(&Value::Null));
    let decision = match (attributes.resource.group.as_ref(), attributes.resource.plural.as_ref()) {
        ("", "pods") => pod(node, attributes, new, old),
        ("", "nodes") => own_node(node, attributes, new, old),
        ("coordination.k8s.io", "leases") => lease(node, attributes),
        ("storage.k8s.io", "csinodes") if attributes.key.name != node => {
            Err("can only access CSINode with the same name as the requesting node".to_owned())
        }
        ("resource.k8s.io", "resourceslices") => {
            let owner = if attributes.operation == Operation::Delete { old } else { new };
            let is_own = text_at(owner, "/spec/nodeName") == node;
            is_own
                .then_some(())
                .ok_or_else(|| "can only create ResourceSlice with the same NodeName as the requesting node".to_owned())
        }
        ("", "persistentvolumeclaims") if attributes.subresource != "status" => {
            Err(format!("may only update PVC status, not {:?}", attributes.operation))
        }
        _ => Ok(()),
    };
    decision.map_err(|why| attributes.forbidden(why))
}

fn pod(node: &str, attributes: &Attributes, new: &Value, old: &Value) -> Result<(), String> {
    let runs_here = |pod: &Value| text_at(pod, "/spec/nodeName") == node;
    match (attributes.operation, attributes.subresource) {
        (Operation::Create, "") => mirror(node, new),
        (Operation::Delete, "") if runs_here(old) => Ok(()),
        (Operation::Delete, "") => Err(format!("node {node:?} can only delete pods with spec.nodeName set to itself")),
        (Operation::Update, "status") if !runs_here(old) => {
            Err(format!("node {node:?} can only update pod status for pods with spec.nodeName set to itself"))
        }
        (Operation::Update, "status") if new["metadata"]["labels"] != old["metadata"]["labels"] => {
            Err(format!("node {node:?} cannot update labels through pod status"))
        }
        (Operation::Update, "status") => Ok(()),
        (Operation::Create, "eviction") => Ok(()),
        (operation, "") => {
            Err(format!("unexpected operation {operation:?}, node {node:?} can only create and delete mirror pods"))
        }
        (_, subresource) => {
            Err(format!("unexpected pod subresource {subresource:?}, only 'status' and 'eviction' are allowed"))
        }
    }
}

/// What a kubelet creates shows a file on its node, so that it refers to nothing in the cluster.
fn mirror(node: &str, pod: &Value) -> Result<(), String> {
    if pod["metadata"]["annotations"].get(MIRROR).is_none() {
        return Err(format!("pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"));
    }
    if text_at(pod, "/spec/nodeName") != node {
        return Err(format!("node {node:?} can only create pods with spec.nodeName set to itself"));
    }
    let owners = list(&pod["metadata"], "ownerReferences");
    let [owner] = owners else {
        let count = owners.len();
        return Err(format!(
            "node {node:?} can only create pods with a single owner reference set to itself, found {count}"
        ));
    };
    let is_own = text(owner, "apiVersion") == "v1" && text(owner, "kind") == "Node" && text(owner, "name") == node;
    if !is_own || owner.get("controller").and_then(Value::as_bool) != Some(true) {
        return Err(format!(
            "node {node:?} can only create pods with a single controller owner reference set to itself"
        ));
    }
    if owner.get("blockOwnerDeletion").and_then(Value::as_bool) == Some(true) {
        return Err(format!("node {node:?} must not set blockOwnerDeletion on an owner reference"));
    }
    if !text_at(pod, "/spec/serviceAccountName").is_empty() {
        return Err(format!("node {node:?} can not create pods that reference a service account"));
    }
    for (source, what) in
        [("secret", "secrets"), ("configMap", "configmaps"), ("persistentVolumeClaim", "persistentvolumeclaims")]
    {
        if list(&pod["spec"], "volumes").iter().any(|volume| is_present(volume, source)) {
            return Err(format!("node {node:?} can not create pods that reference {what}"));
        }
    }
    if !list(&pod["spec"], "resourceClaims").is_empty() {
        return Err(format!("node {node:?} can not create pods that reference resourceclaims"));
    }
    Ok(())
}

fn own_node(node: &str, attributes: &Attributes, new: &Value, old: &Value) -> Result<(), String> {
    let name = &attributes.key.name;
    if name != node {
        return Err(format!("node {node:?} is not allowed to modify node {name:?}"));
    }
    match attributes.operation {
        Operation::Create => {
            let forbidden = forbidden(map(&new["metadata"], "labels").map(|(key, _)| key.as_str()));
            if !forbidden.is_empty() {
                return Err(format!("node {node:?} is not allowed to set the following labels: {forbidden}"));
            }
        }
        Operation::Update => {
            if attributes.subresource.is_empty() && new["spec"]["taints"] != old["spec"]["taints"] {
                return Err(format!("node {node:?} is not allowed to modify taints"));
            }
            if new["metadata"]["ownerReferences"] != old["metadata"]["ownerReferences"] {
                return Err(format!("node {node:?} is not allowed to modify ownerReferences"));
            }
            let forbidden = forbidden(changed_labels(new, old));
            if !forbidden.is_empty() {
                return Err(format!("is not allowed to modify labels: {forbidden}"));
            }
        }
        Operation::Delete => {}
    }
    Ok(())
}

fn changed_labels<'a>(new: &'a Value, old: &'a Value) -> impl Iterator<Item = &'a str> {
    let (new, old) = (&new["metadata"]["labels"], &old["metadata"]["labels"]);
    let keys: BTreeSet<&String> =
        [new, old].into_iter().filter_map(Value::as_object).flat_map(|labels| labels.keys()).collect();
    keys.into_iter().filter(move |key| new.get(*key) != old.get(*key)).map(String::as_str)
}

/// The labels that are not a kubelet's to set, sorted.
fn forbidden<'a>(labels: impl Iterator<Item = &'a str>) -> String {
    let forbidden: BTreeSet<&str> = labels.filter(|label| is_forbidden(label)).collect();
    forbidden.into_iter().collect::<Vec<_>>().join(", ")
}

fn is_forbidden(label: &str) -> bool {
    let Some((domain, _)) = label.split_once('/') else { return false };
    let is_in = |parent: &str| domain == parent || domain.ends_with(&format!(".{parent}"));
    if is_in("node-restriction.kubernetes.io") {
        return true;
    }
    let is_kubelets = KUBELET_LABELS.contains(&label) || KUBELET_LABEL_DOMAINS.iter().any(|domain| is_in(domain));
    (is_in("kubernetes.io") || is_in("k8s.io")) && !is_kubelets
}

fn lease(node: &str, attributes: &Attributes) -> Result<(), String> {
    if attributes.key.namespace != LEASE_NAMESPACE {
        return Err(format!("can only access leases in the {LEASE_NAMESPACE:?} system namespace"));
    }
    if attributes.key.name != node {
        return Err("can only access node lease with the same name as the requesting node".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use api_types::{Key, Resource, resources};
    use serde_json::json;

    use super::{super::fixture::Objects, *};
    use crate::authn::User;

    fn check(
        operation: Operation,
        resource: &Resource,
        subresource: &str,
        key: &Key,
        old: Value,
        new: Value,
    ) -> String {
        let user = User::new("system:node:n1", &["system:nodes"]);
        let attributes = Attributes {
            user: &user,
            resource,
            subresource,
            operation,
            key,
            old: Some(&old),
            suffix: "abcde",
            enabled: &[],
            disabled: &[],
        };
        validate(&attributes, Some(&new), &Objects::default()).err().map(|e| e.message().to_owned()).unwrap_or_default()
    }

    #[test]
    fn its_node_and_lease_only() {
        for (resource, key, refusal) in [
            (&resources::NODE, Key::cluster("n1"), ""),
            (
                &resources::NODE,
                Key::cluster("n2"),
                "nodes \"n2\" is forbidden: node \"n1\" is not allowed to modify node \"n2\"",
            ),
            (&resources::LEASE, Key::new("kube-node-lease", "n1"), ""),
            (
                &resources::LEASE,
                Key::new("kube-node-lease", "n2"),
                "leases.coordination.k8s.io \"n2\" is forbidden: can only access node lease with the same name as the requesting node",
            ),
        ] {
            assert_eq!(check(Operation::Update, resource, "", &key, json!({}), json!({})), refusal);
        }
    }

    #[test]
    fn its_pods_only() {
        let key = Key::new("n", "p");
        let pod = |node: &str| json!({"spec": {"nodeName": node}});
        assert_eq!(check(Operation::Update, &resources::POD, "status", &key, pod("n1"), pod("n1")), "");
        assert!(
            check(Operation::Update, &resources::POD, "status", &key, pod("n2"), pod("n2"))
                .contains("can only update pod status")
        );
        assert!(
            check(Operation::Create, &resources::POD, "", &key, Value::Null, pod("n1"))
                .contains("can only create mirror pods")
        );
        let mirror = json!({"metadata": {"annotations": {MIRROR: "h"}, "ownerReferences": [
            {"apiVersion": "v1", "kind": "Node", "name": "n1", "controller": true}]}, "spec": {"nodeName": "n1"}});
        assert_eq!(check(Operation::Create, &resources::POD, "", &key, Value::Null, mirror), "");
    }

    #[test]
    fn some_labels_are_not_its_own() {
        for (label, is_refused) in [
            ("a", false),
            ("example.com/a", false),
            ("kubernetes.io/hostname", false),
            ("kubelet.kubernetes.io/x", false),
            ("node-role.kubernetes.io/control-plane", true),
            ("x.node-restriction.kubernetes.io/y", true),
            ("k8s.io/x", true),
        ] {
            assert_eq!(is_forbidden(label), is_refused, "{label}");
        }
    }
}
