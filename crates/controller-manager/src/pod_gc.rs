//! pod-garbage-collector: removes pods that no kubelet will ever remove.
//!
//! Source: kubernetes/pkg/controller/podgc.

use std::{cmp::Reverse, sync::Arc, time::Duration};

use api_types::{
    Key, Object,
    jiff::Timestamp,
    k8s::core::{Node, Pod},
    resources,
};
use client::Change;
use serde_json::json;

use crate::{
    action::{Action, Guard},
    caches::BY_NODE,
    plan::{Plan, Turn, World, time},
    pods,
    reconcile::Controller,
};

/// A node that was deleted may be registered again, with its pods still running.
const QUARANTINE: Duration = Duration::from_secs(40);

pub static CONTROLLER: Controller = Controller {
    name: "pod-garbage-collector-controller",
    resource: &resources::POD,
    account: "pod-garbage-collector",
    component: "pod-garbage-collector",
    workers: 4,
    watch: |to, queue| {
        let wake = queue.clone();
        to.pods.push(Box::new(move |_, change| {
            let pod = change.object();
            if matches!(change, Change::Deleted(_)) {
                return;
            }
            wake.add(pod.key());
            if pods::is_finished(pod) {
                wake.add(Key::default());
            }
        }));
        let wake = queue.clone();
        to.nodes.push(Box::new(move |caches, change| {
            if let Change::Deleted(node) = change {
                for pod in caches.pods.by_index(BY_NODE, node.name()) {
                    wake.add(pod.key());
                }
            }
        }));
    },
    // The empty key stands for all pods together.
    watch_everything: None,
    decide: |world, turn| match turn.key.name.as_str() {
        "" => too_many(&world.caches.pods.list(), world.settings.terminated_pods_max),
        _ => view(world, turn).map_or_else(Plan::default, |view| plan(&view)),
    },
};

struct View {
    pod: Arc<Pod>,
    /// For how long its node has not been there; `None`: it is there, or the pod is not bound.
    node_gone_for: Option<Duration>,
    now: Timestamp,
}

fn view(world: &World<'_>, turn: &Turn<'_>) -> Option<View> {
    let pod = world.caches.pods.get(turn.key).filter(|pod| !turn.deleting.contains(pod.uid()))?;
    let node = pods::node_name(&pod);
    let is_gone = !node.is_empty() && world.caches.nodes.get(&Key::cluster(node)).is_none();
    let since = world.caches.heard.gone_since(node);
    let node_gone_for = is_gone.then(|| Duration::try_from(turn.now.duration_since(since)).unwrap_or_default());
    Some(View { pod, node_gone_for, now: turn.now })
}

fn plan(view: &View) -> Plan {
    let pod = &*view.pod;
    if let Some(gone_for) = view.node_gone_for {
        if let Some(left) = QUARANTINE.checked_sub(gone_for).filter(|left| !left.is_zero()) {
            let mut plan = Plan::nothing("NodeGone", "its node does not exist, and might come back");
            plan.look_again(left);
            return plan;
        }
        return Plan { actions: orphaned(pod, view.now), ..Plan::default() };
    }
    if pod.is_terminating() && pods::node_name(pod).is_empty() {
        return Plan { actions: vec![Action::delete_now(pod, "is bound to no node")], ..Plan::default() };
    }
    Plan::default()
}

fn orphaned(pod: &Pod, now: Timestamp) -> Vec<Action> {
    let condition = json!({
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "DeletionByPodGC",
        "message": "PodGC: node no longer exists",
        "lastTransitionTime": time(now),
    });
    let mut patch = json!({ "status": { "conditions": [condition] } });
    if !pods::is_finished(pod) {
        patch["status"]["phase"] = "Failed".into();
    }
    let why = "its node does not exist";
    // Its node may have come back while we could not see it.
    let absent = Guard::Unchanged { resource: Node::RESOURCE, key: Key::cluster(pods::node_name(pod)), version: None };
    vec![Action::patch_status(pod, patch, why).only_if(absent.clone()), Action::delete_now(pod, why).only_if(absent)]
}

/// Deletes the oldest of the finished pods beyond `max`.
fn too_many(all: &[Arc<Pod>], max: usize) -> Plan {
    let mut finished: Vec<&Arc<Pod>> =
        all.iter().filter(|pod| pods::is_finished(pod) && !pod.is_terminating()).collect();
    finished.sort_by_key(|pod| Reverse(pod.metadata.creation_timestamp.clone()));
    let excess = finished.into_iter().skip(max);
    let why = format!("more than {max} pods have ended");
    Plan { actions: excess.map(|pod| Action::delete_now(&**pod, &why)).collect(), ..Plan::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::words;

    fn check(word: &str, node_gone_s: Option<u64>, expected: usize) {
        let node_gone_for = node_gone_s.map(Duration::from_secs);
        let view = View { pod: Arc::new(words::pod(word)), node_gone_for, now: words::now() };
        assert_eq!(plan(&view).actions.len(), expected, "{word}");
    }

    #[test]
    fn what_no_kubelet_will_remove_is_removed() {
        check("a", None, 0);
        check("a:t", None, 0);
        check("a:tn", None, 1);
        check("a", Some(10), 0);
        check("a", Some(41), 2);
    }

    #[test]
    fn the_oldest_finished_pods_go() {
        let pods: Vec<Arc<Pod>> =
            ["a:s", "b:s", "c:f", "d"].into_iter().map(|word| Arc::new(words::pod(word))).collect();
        assert_eq!(too_many(&pods, 2).actions.len(), 1);
        assert_eq!(too_many(&pods, 3).actions.len(), 0);
    }
}
