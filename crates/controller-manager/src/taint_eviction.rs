//! taint-eviction: pods leave a node whose NoExecute taints they do not tolerate, or no longer.
//!
//! Source: kubernetes/pkg/controller/tainteviction.

use std::{collections::HashSet, sync::Arc, time::Duration};

use api_types::{
    Key, Object,
    jiff::{SignedDuration, Timestamp},
    k8s::core::{Node, Pod, Taint, Toleration},
    resources,
};
use client::EventKind;
use serde_json::json;

use crate::{
    action::{Action, Outcome},
    caches::BY_NODE,
    node_lifecycle::NO_EXECUTE,
    plan::{Plan, Turn, World, time, until},
    pods,
    reconcile::Controller,
};

pub static CONTROLLER: Controller = Controller {
    name: "taint-eviction-controller",
    resource: &resources::NODE,
    account: "node-controller",
    component: "taint-eviction-controller",
    workers: 8,
    watch: |to, queue| {
        let wake = queue.clone();
        to.nodes.push(Box::new(move |_, change| {
            if change.old().is_none_or(|old| taints(old) != taints(change.object())) {
                wake.add(change.object().key());
            }
        }));
        let wake = queue.clone();
        to.pods.push(Box::new(move |caches, change| {
            let node = Key::cluster(pods::node_name(change.object()));
            if caches.nodes.get(&node).is_some_and(|node| !taints(&node).is_empty()) {
                wake.add(node);
            }
        }));
    },
    watch_everything: None,
    decide: |world, turn| view(world, turn).map_or_else(Plan::default, |view| plan(&view)),
};

struct View<'a> {
    node: Arc<Node>,
    pods: Vec<Arc<Pod>>,
    deleting: &'a HashSet<String>,
    now: Timestamp,
}

fn view<'a>(world: &World<'_>, turn: &Turn<'a>) -> Option<View<'a>> {
    let node = world.caches.nodes.get(turn.key)?;
    let pods = world.caches.pods.by_index(BY_NODE, node.name());
    Some(View { node, pods, deleting: turn.deleting, now: turn.now })
}

/// Those with effect NoExecute.
fn taints(node: &Node) -> Vec<&Taint> {
    let all = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    all.into_iter().flatten().filter(|taint| taint.effect == NO_EXECUTE).collect()
}

fn plan(view: &View<'_>) -> Plan {
    let taints = taints(&view.node);
    if taints.is_empty() {
        return Plan::default();
    }
    let mut plan = Plan::default();
    let pods = view.pods.iter().filter(|pod| !pod.is_terminating() && !view.deleting.contains(pod.uid()));
    for pod in pods.filter(|pod| !pods::is_finished(pod)) {
        match end(pod, &taints, view.now) {
            End::Never => {}
            End::At(at) if at > view.now => plan.look_again(until(at, view.now).max(Duration::from_millis(1))),
            End::At(_) => plan.actions.extend(evict(pod, view.now)),
        }
    }
    plan
}

#[derive(Debug, PartialEq, Eq)]
enum End {
    Never,
    At(Timestamp),
}

/// The shortest toleration counts; of one that is endless, none does.
fn end(pod: &Pod, taints: &[&Taint], now: Timestamp) -> End {
    let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
    let mut end = End::Never;
    for taint in taints {
        let Some(toleration) = tolerations.iter().find(|it| tolerates(it, taint)) else { return End::At(now) };
        let Some(seconds) = toleration.toleration_seconds else { continue };
        let added = taint.time_added.as_ref().map_or(now, |time| time.0);
        let at = added.saturating_add(SignedDuration::from_secs(seconds.max(0))).unwrap_or(Timestamp::MAX);
        end = match end {
            End::At(earlier) if earlier <= at => End::At(earlier),
            End::At(_) | End::Never => End::At(at),
        };
    }
    end
}

/// Whether `toleration` is meant for `taint`.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let empty_or = |own: &Option<String>, other: &str| own.as_deref().unwrap_or_default() == other;
    let any = |own: &Option<String>| own.as_deref().unwrap_or_default().is_empty();
    (any(&toleration.effect) || empty_or(&toleration.effect, &taint.effect))
        && (any(&toleration.key) || empty_or(&toleration.key, &taint.key))
        && match toleration.operator.as_deref().unwrap_or("Equal") {
            "Exists" => true,
            _ => empty_or(&toleration.value, taint.value.as_deref().unwrap_or_default()),
        }
}

/// Says why before it deletes: the pod's own status is what people look at.
fn evict(pod: &Pod, now: Timestamp) -> [Action; 2] {
    let condition = json!({
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "DeletionByTaintManager",
        "message": "Taint manager: deleting due to NoExecute taint",
        "lastTransitionTime": time(now),
    });
    let patch = json!({ "status": { "conditions": [condition] } });
    let message = format!("Marking for deletion Pod {}", pod.key());
    [
        Action::patch_status(pod, patch, "does not tolerate a taint of its node"),
        Action::delete(pod, "does not tolerate a taint of its node").tell(
            Outcome::Done,
            pod,
            EventKind::Normal,
            "TaintManagerEviction",
            message,
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::words::{ago, now, pod};

    /// Tolerations: `key[/effect][=seconds]`; `*` is any key. Taints were added 100 s ago. `in N`, `now` or `never`.
    fn check(tolerations: &str, expected: &str) {
        let mut pod = pod("a");
        let toleration = |word: &str| {
            let (name, seconds) = word.split_once('=').unwrap_or((word, ""));
            Toleration {
                key: (name != "*").then(|| name.to_owned()),
                operator: Some("Exists".into()),
                toleration_seconds: seconds.parse().ok(),
                ..Toleration::default()
            }
        };
        pod.spec.as_mut().unwrap().tolerations = Some(tolerations.split_whitespace().map(toleration).collect());
        let taint =
            |key: &str| Taint { key: key.into(), effect: NO_EXECUTE.into(), time_added: Some(ago(100)), value: None };
        let (a, b) = (taint("a"), taint("b"));
        let word = match end(&pod, &[&a, &b], now()) {
            End::Never => "never".to_owned(),
            End::At(at) if at <= now() => "now".to_owned(),
            End::At(at) => format!("in {}", until(at, now()).as_secs()),
        };
        assert_eq!(word, expected);
    }

    #[test]
    fn the_shortest_toleration_counts() {
        check("", "now");
        check("a", "now");
        check("a b", "never");
        check("*", "never");
        check("a=300 b", "in 200");
        check("a=300 b=150", "in 50");
        check("a=50 b", "now");
    }
}
