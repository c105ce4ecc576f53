//! node-lifecycle: a node that falls silent is Unknown, and what is known of a node stands in its
//! taints.
//!
//! Source: kubernetes/pkg/controller/nodelifecycle.

mod taints;

use std::{sync::Arc, time::Duration};

use api_types::{
    Key, Object,
    jiff::Timestamp,
    k8s::core::{Node, NodeCondition, Pod},
    resources,
};
use client::{Change, EventKind};
use serde_json::json;

use crate::{
    action::{Action, Guard, Outcome},
    caches::BY_NODE,
    plan::{Plan, Turn, World, time},
    pods,
    reconcile::Controller,
};

pub use taints::{NO_EXECUTE, taints};

/// The namespace in which nodes renew their leases.
const LEASES: &str = "kube-node-lease";
/// Conditions that only the kubelet knows.
const KUBELETS: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

pub static CONTROLLER: Controller = Controller {
    name: "node-lifecycle-controller",
    resource: &resources::NODE,
    account: "node-controller",
    component: "node-controller",
    workers: 8,
    watch: |to, queue| {
        to.node_leases.push(Box::new(|caches, change| {
            if !matches!(change, Change::Deleted(_)) {
                caches.heard.sign_of_life(change.object().name(), Timestamp::now());
            }
        }));
        let wake = queue.clone();
        to.nodes.push(Box::new(move |caches, change| {
            let node = change.object();
            if let Change::Deleted(_) = change {
                caches.heard.gone(node.name(), Timestamp::now());
                return;
            }
            if change.old().is_none_or(|old| heartbeats(old) != heartbeats(node)) {
                caches.heard.sign_of_life(node.name(), Timestamp::now());
            }
            wake.add(node.key());
            // Whether pods are evicted from one node depends on whether all nodes are silent.
            if change.old().is_none_or(|old| ready(old) != ready(node)) {
                caches.nodes.list().iter().for_each(|node| wake.add(node.key()));
            }
        }));
    },
    watch_everything: None,
    decide: |world, turn| view(world, turn).map_or_else(Plan::default, |view| plan(&view)),
};

struct View {
    node: Arc<Node>,
    pods: Vec<Arc<Pod>>,
    /// No node is ready: then it is we who are cut off, and nobody is evicted.
    all_silent: bool,
    heard: Timestamp,
    lease_version: Option<String>,
    grace: Duration,
    now: Timestamp,
}

fn view(world: &World<'_>, turn: &Turn<'_>) -> Option<View> {
    let node = world.caches.nodes.get(turn.key)?;
    let lease = world.caches.node_leases.get(&Key::new(LEASES, node.name()));
    Some(View {
        pods: world.caches.pods.by_index(BY_NODE, node.name()),
        all_silent: world.caches.nodes.list().iter().all(|node| ready(node) != "True"),
        heard: world.caches.heard.last(node.name()),
        lease_version: lease.map(|lease| lease.resource_version().to_owned()),
        grace: world.settings.node_monitor_grace_period,
        now: turn.now,
        node,
    })
}

fn conditions(node: &Node) -> &[NodeCondition] {
    node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default()
}

fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a NodeCondition> {
    conditions(node).iter().find(|condition| condition.type_ == kind)
}

/// The status of the condition Ready; a node that never said is Unknown.
pub fn ready(node: &Node) -> &str {
    condition(node, "Ready").map_or("Unknown", |ready| ready.status.as_str())
}

fn heartbeats(node: &Node) -> Vec<Option<Timestamp>> {
    conditions(node).iter().map(|condition| condition.last_heartbeat_time.as_ref().map(|time| time.0)).collect()
}

fn plan(view: &View) -> Plan {
    let silent_for = Duration::try_from(view.now.duration_since(view.heard)).unwrap_or_default();
    let Some(left) = view.grace.checked_sub(silent_for).filter(|left| !left.is_zero()) else {
        if let Some(node) = unknown(view) {
            let mut plan = Plan::nothing("NodeSilent", format!("no sign of life for {} s", silent_for.as_secs()));
            // The taints follow when this shows in the cache.
            // The lease may have been renewed while we could not see it.
            let guard = Guard::Unchanged {
                resource: &resources::LEASE,
                key: Key::new(LEASES, node.name()),
                version: view.lease_version.clone(),
            };
            plan.act(Action::update_status(&node, "no sign of life from its kubelet").only_if(guard));
            plan.look_again(view.grace);
            return plan;
        }
        return by_condition(view);
    };
    let mut plan = by_condition(view);
    plan.look_again(left);
    plan
}

/// The node with its kubelet's conditions Unknown, if they are not yet.
fn unknown(view: &View) -> Option<Node> {
    let mut node = (*view.node).clone();
    let made = node.metadata.creation_timestamp.clone();
    let conditions = node.status.get_or_insert_default().conditions.get_or_insert_default();
    for kind in KUBELETS {
        match conditions.iter_mut().find(|condition| condition.type_ == kind) {
            Some(condition) if condition.status == "Unknown" => {}
            Some(condition) => {
                condition.status = "Unknown".to_owned();
                condition.reason = Some("NodeStatusUnknown".to_owned());
                condition.message = Some("Kubelet stopped posting node status.".to_owned());
                condition.last_transition_time = Some(time(view.now));
            }
            None => conditions.push(NodeCondition {
                type_: kind.to_owned(),
                status: "Unknown".to_owned(),
                reason: Some("NodeStatusNeverUpdated".to_owned()),
                message: Some("Kubelet never posted node status.".to_owned()),
                last_heartbeat_time: made.clone(),
                last_transition_time: Some(time(view.now)),
            }),
        }
    }
    (node.status != view.node.status).then_some(node)
}

/// Brings the taints to what the conditions say. With the first taint for a node that is not ready,
/// its pods are marked not ready, so that no Service leads to them.
fn by_condition(view: &View) -> Plan {
    let node = &*view.node;
    let old = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let new = taints(node, &old, view.all_silent, view.now);
    if new == old {
        return Plan::nothing("TaintsCurrent", format!("Ready is {}, and the taints say so", ready(node)));
    }
    let mut plan = Plan::default();
    let patch = json!({ "spec": { "taints": new } });
    let mut taint = Action::merge(node, patch, format!("Ready is {}", ready(node)));
    let is_new = |taint: &api_types::k8s::core::Taint| taints::is_of_readiness(taint) && !old.contains(taint);
    if new.iter().any(is_new) {
        plan.actions.extend(view.pods.iter().filter(|pod| pods::is_ready(pod)).map(|pod| not_ready(pod, view.now)));
        let message = format!("Node {} status is now: NodeNotReady", node.name());
        taint = taint.tell(Outcome::Done, node, EventKind::Normal, "NodeNotReady", message);
    }
    plan.act(taint);
    plan
}

fn not_ready(pod: &Pod, now: Timestamp) -> Action {
    let ready = json!({ "type": "Ready", "status": "False", "lastTransitionTime": time(now) });
    let patch = json!({ "status": { "conditions": [ready] } });
    Action::patch_status(pod, patch, "its node is not ready").tell(
        Outcome::Done,
        pod,
        EventKind::Warning,
        "NodeNotReady",
        "Node is not ready",
    )
}

#[cfg(test)]
mod tests {
    use api_types::k8s::{
        core::{NodeSpec, NodeStatus},
        meta::ObjectMeta,
    };
    use client::Patch;

    use super::*;
    use crate::{action::Write, pods::words};

    fn node(ready: &str, unschedulable: bool) -> Node {
        let condition = |kind: &str, status: &str| NodeCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            ..NodeCondition::default()
        };
        let mut conditions: Vec<_> = KUBELETS[1..].iter().map(|kind| condition(kind, "False")).collect();
        conditions.push(condition("Ready", ready));
        if ready == "Unknown" {
            conditions.iter_mut().for_each(|condition| condition.status = "Unknown".to_owned());
        }
        Node {
            metadata: ObjectMeta { name: Some("n1".into()), ..ObjectMeta::default() },
            spec: Some(NodeSpec { unschedulable: unschedulable.then_some(true), ..NodeSpec::default() }),
            status: Some(NodeStatus { conditions: Some(conditions), ..NodeStatus::default() }),
        }
    }

    /// Gives `status` for a status update, `~pod` for a pod that is marked, and the taints.
    fn check(node: Node, heard_s: i64, all_silent: bool, expected: &str) {
        let view = View {
            node: Arc::new(node),
            pods: vec![Arc::new(words::pod("a")), Arc::new(words::pod("b:u"))],
            all_silent,
            heard: words::ago(heard_s).0,
            lease_version: None,
            grace: Duration::from_secs(50),
            now: words::now(),
        };
        let done = plan(&view).actions.into_iter().map(|action| match action.write {
            Write::Update { .. } => "status".to_owned(),
            Write::Patch { patch: Patch::Merge(patch), .. } => {
                let taints = patch["spec"]["taints"].as_array().unwrap().iter();
                let word = |taint: &serde_json::Value| {
                    let key = taint["key"].as_str().unwrap().trim_start_matches("node.kubernetes.io/").to_owned();
                    format!("{key}:{}", taint["effect"].as_str().unwrap())
                };
                format!("[{}]", taints.map(word).collect::<Vec<_>>().join(" "))
            }
            Write::Patch { .. } => format!("~{}", action.key.name),
            other => panic!("{other:?}"),
        });
        assert_eq!(done.collect::<Vec<_>>().join(" "), expected);
    }

    #[test]
    fn silence_makes_unknown() {
        check(node("True", false), 51, false, "status");
        check(node("True", false), 49, false, "");
    }
    #[test]
    fn what_is_not_ready_is_tainted_and_its_pods_are_marked() {
        check(node("Unknown", false), 60, false, "~a [unreachable:NoSchedule unreachable:NoExecute]");
        check(node("False", false), 1, false, "~a [not-ready:NoSchedule not-ready:NoExecute]");
    }
    #[test]
    fn nobody_is_evicted_when_all_nodes_are_silent() {
        check(node("Unknown", false), 60, true, "~a [unreachable:NoSchedule]");
    }
    #[test]
    fn cordoned_nodes_are_tainted() {
        check(node("True", true), 1, false, "[unschedulable:NoSchedule]");
    }
}
