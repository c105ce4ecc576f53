//! Taints keep pods away that do not tolerate them, or are only wished to.

use super::{Better, Rejection, normalise};
use crate::facts::{NodeFacts, PodFacts, tolerates};

pub const NAME: &str = "TaintToleration";

/// Taints are not named to the pod's owner, as upstream since v1.35: they belong to the cluster's administrator.
pub fn filter(pod: &PodFacts, node: &NodeFacts) -> Result<(), Rejection> {
    let blocking = node.taints.iter().filter(|taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute"));
    for taint in blocking {
        if !tolerates(&pod.place.tolerations, taint) {
            return Err(Rejection::unresolvable(NAME, "node(s) had untolerated taint(s)"));
        }
    }
    Ok(())
}

/// Fewer untolerated `PreferNoSchedule` taints are better.
pub fn scores(pod: &PodFacts, nodes: &[&NodeFacts]) -> Vec<i64> {
    let untolerated = |node: &&NodeFacts| {
        let soft = node.taints.iter().filter(|taint| taint.effect == "PreferNoSchedule");
        soft.filter(|taint| !tolerates(&pod.place.tolerations, taint)).count() as i64
    };
    normalise(nodes.iter().map(untolerated).collect(), Better::Less)
}
