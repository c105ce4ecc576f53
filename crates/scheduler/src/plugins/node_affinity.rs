//! Node selector and node affinity: what a node must be like, and should be like.

use super::{Better, Rejection, normalise};
use crate::facts::{NodeFacts, PodFacts};

pub const NAME: &str = "NodeAffinity";

/// Whether the node has what the pod requires of it.
pub fn matches(pod: &PodFacts, node: &NodeFacts) -> bool {
    pod.place.node_selector.iter().all(|(key, value)| node.label(key) == Some(value))
        && pod.place.required_nodes.as_ref().is_none_or(|terms| terms.matches(node))
}

pub fn filter(pod: &PodFacts, node: &NodeFacts) -> Result<(), Rejection> {
    if matches(pod, node) {
        return Ok(());
    }
    Err(Rejection::unresolvable(NAME, "node(s) didn't match Pod's node affinity/selector"))
}

pub fn scores(pod: &PodFacts, nodes: &[&NodeFacts]) -> Vec<i64> {
    let preferred = &pod.place.preferred_nodes;
    let weight =
        |node: &&NodeFacts| preferred.iter().filter(|term| term.matches(node)).map(|term| term.weight).sum::<i64>();
    normalise(nodes.iter().map(weight).collect(), Better::More)
}
