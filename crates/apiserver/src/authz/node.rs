//! What a kubelet may do: read what its own pods use, and write its own Node, Lease, CSINode and
//! the status of its pods. Admission (NodeRestriction) looks at the objects themselves.
//!
//! Source: kubernetes/plugin/pkg/auth/authorizer/node/node_authorizer.go.

use api_types::Key;

use super::{
    Attributes, Decision,
    graph::{Graph, Target},
    rule::Rule,
};
use crate::authn::User;

const NODES: &str = "system:nodes";
const NODE_PREFIX: &str = "system:node:";
const LEASE_NAMESPACE: &str = "kube-node-lease";

/// The node behind a user; empty if it is one of the nodes, but which cannot be told. `None`: no node.
pub fn name_of(user: &User) -> Option<&str> {
    user.is_in(NODES).then(|| user.name.strip_prefix(NODE_PREFIX).unwrap_or_default())
}

pub fn authorize(user: &User, asked: &Attributes<'_>, graph: &Graph, uniform: &[Rule]) -> Decision {
    match decide(user, asked, graph, uniform) {
        Ok(()) => Decision::Allow { reason: String::new() },
        Err(reason) => Decision::NoOpinion { reason },
    }
}

/// `Err` holds the reason that ends the denial.
fn decide(user: &User, asked: &Attributes<'_>, graph: &Graph, uniform: &[Rule]) -> Result<(), String> {
    let Some(node) = name_of(user) else { return Err(String::new()) };
    if node.is_empty() {
        return Err(format!("unknown node for user {:?}", user.name));
    }
    let key = Key::new(asked.namespace, asked.name);
    let related = |is_related: bool| {
        let none = || format!("no relationship found between node '{node}' and this object");
        if is_related { Ok(()) } else { Err(none()) }
    };
    if asked.resource_request {
        match (asked.group, asked.resource) {
            ("", "secrets") => return read(asked).and_then(|()| related(graph.is_used_on(Target::Secret, &key, node))),
            ("", "configmaps") => {
                return read(asked).and_then(|()| related(graph.is_used_on(Target::ConfigMap, &key, node)));
            }
            ("", "persistentvolumeclaims") => {
                let scope = if asked.subresource == "status" { update_status(asked) } else { get(asked) };
                return scope.and_then(|()| related(graph.is_used_on(Target::PersistentVolumeClaim, &key, node)));
            }
            ("", "persistentvolumes") => {
                return get(asked).and_then(|()| related(graph.volume_is_used_on(asked.name, node)));
            }
            ("resource.k8s.io", "resourceclaims") => {
                return get(asked).and_then(|()| related(graph.is_used_on(Target::ResourceClaim, &key, node)));
            }
            ("storage.k8s.io", "volumeattachments") => {
                return get(asked).and_then(|()| related(graph.attachment_is_to(asked.name, node)));
            }
            ("", "serviceaccounts") => {
                let used = graph.is_used_on(Target::ServiceAccount, &key, node);
                return service_account(asked).and_then(|()| related(used));
            }
            ("coordination.k8s.io", "leases") => return lease(asked, node),
            ("storage.k8s.io", "csinodes") => return csi_node(asked, node),
            ("resource.k8s.io", "resourceslices") => return slice(asked, node, graph),
            ("", "nodes") => return node_object(asked, node),
            ("", "pods") => return pod(asked, node, graph),
            _ => {}
        }
    }
    if uniform.iter().any(|rule| rule.allows(asked)) { Ok(()) } else { Err(String::new()) }
}

fn refuse(reason: &str) -> Result<(), String> {
    Err(reason.to_owned())
}

fn named(asked: &Attributes<'_>) -> Result<(), String> {
    if asked.name.is_empty() { refuse("No Object name found") } else { Ok(()) }
}

fn get(asked: &Attributes<'_>) -> Result<(), String> {
    match (asked.verb, asked.subresource) {
        ("get", "") => named(asked),
        ("get", _) => refuse("cannot get subresource"),
        _ => refuse("can only get individual resources of this type"),
    }
}

fn read(asked: &Attributes<'_>) -> Result<(), String> {
    match (asked.verb, asked.subresource, asked.namespace) {
        ("get" | "list" | "watch", "", "") => refuse("can only read namespaced object of this type"),
        ("get" | "list" | "watch", "", _) => named(asked),
        ("get" | "list" | "watch", ..) => refuse("cannot read subresource"),
        _ => refuse("can only read resources of this type"),
    }
}

fn update_status(asked: &Attributes<'_>) -> Result<(), String> {
    match asked.verb {
        "update" | "patch" => named(asked),
        _ => refuse("can only get/update/patch this type"),
    }
}

/// A token for a pod's account, or the account itself (image credential plugins want its annotations).
fn service_account(asked: &Attributes<'_>) -> Result<(), String> {
    match (asked.verb, asked.subresource) {
        ("create", "token") if !asked.name.is_empty() => Ok(()),
        ("get", "") => named(asked),
        ("create", sub) if sub != "token" => refuse("can only create token subresource of serviceaccount"),
        _ => refuse("can only create tokens for individual service accounts"),
    }
}

/// On create the name is not known here; admission checks it.
fn lease(asked: &Attributes<'_>, node: &str) -> Result<(), String> {
    match asked.verb {
        "get" | "create" | "update" | "patch" | "delete" if asked.namespace != LEASE_NAMESPACE => {
            refuse("can only access leases in the \"kube-node-lease\" system namespace")
        }
        "create" => Ok(()),
        "get" | "update" | "patch" | "delete" if asked.name == node => Ok(()),
        "get" | "update" | "patch" | "delete" => {
            refuse("can only access node lease with the same name as the requesting node")
        }
        _ => refuse("can only get, create, update, patch, or delete a node lease"),
    }
}

fn csi_node(asked: &Attributes<'_>, node: &str) -> Result<(), String> {
    match (asked.verb, asked.subresource) {
        ("get" | "create" | "update" | "patch" | "delete", sub) if !sub.is_empty() => {
            refuse("cannot authorize CSINode subresources")
        }
        ("create", _) => Ok(()),
        ("get" | "update" | "patch" | "delete", _) if asked.name == node => Ok(()),
        ("get" | "update" | "patch" | "delete", _) => {
            refuse("can only access CSINode with the same name as the requesting node")
        }
        _ => refuse("can only get, create, update, patch, or delete a CSINode"),
    }
}

fn slice(asked: &Attributes<'_>, node: &str, graph: &Graph) -> Result<(), String> {
    if !asked.subresource.is_empty() {
        return refuse("cannot authorize ResourceSlice subresources");
    }
    match asked.verb {
        "create" => Ok(()),
        "get" | "update" | "patch" | "delete" => {
            named(asked)?;
            let none = format!("no relationship found between node '{node}' and this object");
            if graph.slice_is_of(asked.name, node) { Ok(()) } else { Err(none) }
        }
        "watch" | "list" | "deletecollection" if asked.selects("spec.nodeName", node) => Ok(()),
        "watch" | "list" | "deletecollection" => {
            refuse("can only list/watch/deletecollection resourceslices with spec.nodeName field selector")
        }
        _ => refuse(
            "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, deletecollection",
        ),
    }
}

fn node_object(asked: &Attributes<'_>, node: &str) -> Result<(), String> {
    match (asked.subresource, asked.verb) {
        ("", "create" | "update" | "patch") | ("status", "update" | "patch") => Ok(()),
        ("", "get" | "list" | "watch") if asked.name == node => Ok(()),
        ("", "get" | "list" | "watch") if asked.name.is_empty() => {
            Err(format!("node '{node}' cannot read all nodes, only its own Node object"))
        }
        ("", "get" | "list" | "watch") => {
            Err(format!("node '{node}' cannot read '{}', only its own Node object", asked.name))
        }
        _ => Err(String::new()),
    }
}

fn pod(asked: &Attributes<'_>, node: &str, graph: &Graph) -> Result<(), String> {
    let key = Key::new(asked.namespace, asked.name);
    let none = || format!("no relationship found between node '{node}' and this object");
    let bound_here = || if graph.pod_is_on(&key, node) { Ok(()) } else { Err(none()) };
    match (asked.subresource, asked.verb) {
        ("", "get") => get(asked).and_then(|()| bound_here()),
        ("", "list" | "watch") if asked.selects("spec.nodeName", node) => Ok(()),
        ("", "list" | "watch") if !asked.name.is_empty() => bound_here(),
        ("", "list" | "watch") => refuse("can only list/watch pods with spec.nodeName field selector"),
        // Mirror pods; admission keeps them to this node.
        ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => Ok(()),
        _ => Err(String::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn graph() -> Graph {
        let mut graph = Graph::default();
        for (name, node) in [("mine", "n1"), ("theirs", "n2")] {
            let object = json!({"metadata": {}, "spec": {
                "nodeName": node,
                "serviceAccountName": format!("{name}-sa"),
                "volumes": [
                    {"secret": {"secretName": format!("{name}-secret")}},
                    {"configMap": {"name": format!("{name}-config")}},
                    {"persistentVolumeClaim": {"claimName": format!("{name}-claim")}},
                ],
            }});
            graph.pod_changed(&Key::new("ns", name), Some(&object));
            let volume = json!({"spec": {"claimRef": {"namespace": "ns", "name": format!("{name}-claim")}}});
            graph.volume_changed(&Key::cluster(format!("{name}-pv")), Some(&volume));
            graph.attachment_changed(&Key::cluster(format!("{name}-va")), Some(&json!({"spec": {"nodeName": node}})));
        }
        graph
    }

    /// `verb resource[/sub][.group] [namespace/]name [selector]`; `-` for no name.
    fn check(request: &str, expected: Result<(), &str>) {
        let words: Vec<&str> = request.split(' ').collect();
        let (resource, group) = words[1].split_once('.').unwrap_or((words[1], ""));
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let (namespace, name) = words[2].split_once('/').unwrap_or(("", words[2]));
        let asked = Attributes {
            verb: words[0],
            group,
            resource,
            subresource,
            namespace,
            name: if name == "-" { "" } else { name },
            field_selector: words.get(3).copied().unwrap_or_default(),
            resource_request: true,
            ..Attributes::default()
        };
        let uniform = [Rule {
            verbs: vec!["list".into(), "watch".into()],
            api_groups: vec![String::new()],
            resources: vec!["services".into()],
            ..Rule::default()
        }];
        let kubelet = User::new("system:node:n1", &["system:nodes", "system:authenticated"]);
        let got = decide(&kubelet, &asked, &graph(), &uniform);
        assert_eq!(got.err().as_deref(), expected.err(), "{request}");
    }

    const STRANGE: Result<(), &str> = Err("no relationship found between node 'n1' and this object");

    #[test]
    fn what_its_pods_use() {
        check("get secrets ns/mine-secret", Ok(()));
        check("watch secrets ns/mine-secret", Ok(()));
        check("get secrets ns/theirs-secret", STRANGE);
        check("get secrets other/mine-secret", STRANGE);
        check("list secrets ns/-", Err("No Object name found"));
        check("list secrets -", Err("can only read namespaced object of this type"));
        check("update secrets ns/mine-secret", Err("can only read resources of this type"));
        check("get configmaps ns/mine-config", Ok(()));
        check("get configmaps ns/theirs-config", STRANGE);
        check("get persistentvolumeclaims ns/mine-claim", Ok(()));
        check("patch persistentvolumeclaims/status ns/mine-claim", Ok(()));
        check("get persistentvolumeclaims ns/theirs-claim", STRANGE);
        check("get persistentvolumes mine-pv", Ok(()));
        check("get persistentvolumes theirs-pv", STRANGE);
        check("list persistentvolumes -", Err("can only get individual resources of this type"));
        check("get volumeattachments.storage.k8s.io mine-va", Ok(()));
        check("get volumeattachments.storage.k8s.io theirs-va", STRANGE);
        check("create serviceaccounts/token ns/mine-sa", Ok(()));
        check("create serviceaccounts/token ns/theirs-sa", STRANGE);
        check("create serviceaccounts ns/mine-sa", Err("can only create token subresource of serviceaccount"));
        check("get serviceaccounts ns/mine-sa", Ok(()));
    }

    #[test]
    fn its_own_objects() {
        check("get nodes n1", Ok(()));
        check("get nodes n2", Err("node 'n1' cannot read 'n2', only its own Node object"));
        check("list nodes -", Err("node 'n1' cannot read all nodes, only its own Node object"));
        check("patch nodes/status n1", Ok(()));
        check("delete nodes n1", Err(""));
        check("update leases.coordination.k8s.io kube-node-lease/n1", Ok(()));
        check(
            "update leases.coordination.k8s.io kube-node-lease/n2",
            Err("can only access node lease with the same name as the requesting node"),
        );
        check(
            "get leases.coordination.k8s.io kube-system/n1",
            Err("can only access leases in the \"kube-node-lease\" system namespace"),
        );
        check("get csinodes.storage.k8s.io n1", Ok(()));
        check(
            "get csinodes.storage.k8s.io n2",
            Err("can only access CSINode with the same name as the requesting node"),
        );
    }

    #[test]
    fn pods() {
        check("list pods - spec.nodeName=n1", Ok(()));
        check("watch pods - spec.nodeName=n1", Ok(()));
        check("list pods - spec.nodeName=n2", Err("can only list/watch pods with spec.nodeName field selector"));
        check("list pods -", Err("can only list/watch pods with spec.nodeName field selector"));
        check("get pods ns/mine", Ok(()));
        check("get pods ns/theirs", STRANGE);
        check("patch pods/status ns/mine", Ok(()));
        check("create pods/eviction ns/mine", Ok(()));
        check("create pods/exec ns/mine", Err(""));
        check("update pods ns/mine", Err(""));
    }

    #[test]
    fn everything_else_is_uniform() {
        check("list services -", Ok(()));
        check("get services ns/a", Err(""));
        check("list clusterroles.rbac.authorization.k8s.io -", Err(""));
    }

    #[test]
    fn who_is_a_node() {
        for (name, groups, node) in [
            ("system:node:n1", vec!["system:nodes"], Some("n1")),
            ("system:node:n1", vec![], None),
            ("n1", vec!["system:nodes"], Some("")),
        ] {
            assert_eq!(name_of(&User::new(name, &groups)), node);
        }
        let nameless = User::new("n1", &["system:nodes"]);
        let asked = Attributes::default();
        assert_eq!(decide(&nameless, &asked, &Graph::default(), &[]), Err("unknown node for user \"n1\"".to_owned()));
    }
}
