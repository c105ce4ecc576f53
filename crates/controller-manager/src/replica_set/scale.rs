//! How many pods to make or lose, and which. Shared by all controllers that keep a number of
//! equal pods.

use std::{collections::HashMap, sync::Arc};

use api_types::{
    Object,
    jiff::Timestamp,
    k8s::core::{Pod, PodTemplateSpec},
};
use client::EventKind;

use crate::{
    action::{Action, Outcome},
    owners::controller_reference,
    plan::Reason,
    pods,
};

/// Creations or deletions in one turn.
pub const BURST_MAX: usize = 500;

/// Numbers and the time that the choice depends on.
pub struct Sizes {
    pub wanted: usize,
    pub now: Timestamp,
}

pub struct Scaled {
    pub actions: Vec<Action>,
    pub reason: Reason,
}

/// Brings the number of `live` pods of `owner` to what is wanted, at most [`BURST_MAX`] a turn.
///
/// Source: `manageReplicas` in kubernetes/pkg/controller/replicaset.
pub fn scale<K: Object>(
    owner: &K,
    template: &PodTemplateSpec,
    live: &[Arc<Pod>],
    related: &[Arc<Pod>],
    sizes: &Sizes,
) -> Scaled {
    let (have, wanted) = (live.len(), sizes.wanted);
    let reason = |code, message: String| Reason { code, message };
    if have < wanted {
        let missing = (wanted - have).min(BURST_MAX);
        let model = pods::from_template(owner.namespace(), owner.name(), template, controller_reference(owner));
        let actions = vec![create(owner, &model); missing];
        return Scaled {
            actions,
            reason: reason("TooFewReplicas", format!("{have} of {wanted} pods, creating {missing}")),
        };
    }
    if have == wanted {
        return Scaled { actions: vec![], reason: reason("ReplicasAsWanted", format!("{have} of {wanted} pods")) };
    }
    let excess = (have - wanted).min(BURST_MAX);
    let actions = victims(live, related, excess, sizes.now).into_iter().map(|pod| delete(owner, &pod)).collect();
    Scaled { actions, reason: reason("TooManyReplicas", format!("{have} of {wanted} pods, deleting {excess}")) }
}

fn create<K: Object>(owner: &K, model: &Pod) -> Action {
    Action::create(model, "too few replicas")
        .tell(Outcome::Done, owner, EventKind::Normal, "SuccessfulCreate", "Created pod: {name}")
        .tell(Outcome::Refused, owner, EventKind::Warning, "FailedCreate", "Error creating: {error}")
}

fn delete<K: Object>(owner: &K, pod: &Pod) -> Action {
    Action::delete(pod, "too many replicas")
        .tell(Outcome::Done, owner, EventKind::Normal, "SuccessfulDelete", "Deleted pod: {name}")
        .tell(Outcome::Refused, owner, EventKind::Warning, "FailedDelete", "Error deleting: {error}")
}

/// The `count` pods that are the cheapest to lose; those that share a node with many of `related` first.
fn victims(live: &[Arc<Pod>], related: &[Arc<Pod>], count: usize, now: Timestamp) -> Vec<Arc<Pod>> {
    let mut on_node: HashMap<&str, usize> = HashMap::new();
    for pod in related.iter().filter(|pod| pods::is_active(pod)) {
        *on_node.entry(pods::node_name(pod)).or_default() += 1;
    }
    let rank = |pod: &Pod| on_node.get(pods::node_name(pod)).copied().unwrap_or_default();
    let mut ranked: Vec<(Arc<Pod>, usize)> = live.iter().map(|pod| (Arc::clone(pod), rank(pod))).collect();
    ranked.sort_by(|(a, rank_a), (b, rank_b)| pods::cheaper((a, *rank_a), (b, *rank_b), now));
    ranked.into_iter().take(count).map(|(pod, _)| pod).collect()
}
