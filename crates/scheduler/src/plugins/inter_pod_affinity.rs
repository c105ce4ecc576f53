//! Pods that want to be near other pods, or away from them; what pods already placed
//! forbid or wish counts as well.
//!
//! Source: scheduler/framework/plugins/interpodaffinity.

use std::collections::HashMap;

use super::{Rejection, SCORE_MAX, Scene};
use crate::{
    affinity::PodTerm,
    facts::{NodeFacts, PodFacts},
};

pub const NAME: &str = "InterPodAffinity";
/// What a required affinity of a pod already placed counts as a wish to have the new pod near.
const REQUIRED_WEIGHT: i64 = 1;

/// Pods, or weights, by topology key and value.
type Pairs = HashMap<String, HashMap<String, i64>>;

/// How many pods in each topology domain speak for or against the new pod.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Placed pods whose required anti-affinity selects the new pod.
    forbid: Pairs,
    /// Placed pods that all required affinity terms select.
    near: Pairs,
    /// Placed pods that a required anti-affinity term selects.
    away: Pairs,
}

impl Counts {
    pub fn new(scene: Scene<'_>) -> Self {
        let mut counts = Self::default();
        let wishes = &scene.pod.place.affinity;
        let all = !wishes.required.is_empty() || !wishes.required_anti.is_empty();
        for node in scene.snapshot.nodes() {
            // Without terms of its own, only placed pods with terms matter.
            let pods = if all { &node.load.pods } else { &node.load.affine };
            for existing in pods {
                counts.count(scene, existing, node, 1);
            }
        }
        counts
    }

    /// Counts `existing` on `node` once more (or less).
    pub fn count(&mut self, scene: Scene<'_>, existing: &PodFacts, node: &NodeFacts, delta: i64) {
        let namespaces = scene.namespaces();
        for term in &existing.place.affinity.required_anti {
            if term.matches(scene.pod, namespaces) {
                add(&mut self.forbid, term, node, delta);
            }
        }
        let wishes = &scene.pod.place.affinity;
        if !wishes.required.is_empty() && wishes.required.iter().all(|term| term.matches(existing, namespaces)) {
            for term in &wishes.required {
                add(&mut self.near, term, node, delta);
            }
        }
        for term in wishes.required_anti.iter().filter(|term| term.matches(existing, namespaces)) {
            add(&mut self.away, term, node, delta);
        }
    }
}

fn add(pairs: &mut Pairs, term: &PodTerm, node: &NodeFacts, delta: i64) {
    let Some(value) = node.label(&term.topology_key) else { return };
    let values = pairs.entry(term.topology_key.clone()).or_default();
    let count = values.entry(value.to_owned()).or_default();
    *count += delta;
    if *count == 0 {
        values.remove(value);
        if values.is_empty() {
            pairs.remove(&term.topology_key);
        }
    }
}

/// Whether a pod counts in the domain of `node` under `key`.
fn has(pairs: &Pairs, key: &str, node: &NodeFacts) -> bool {
    pairs.get(key).is_some_and(|values| node.label(key).is_some_and(|value| values.contains_key(value)))
}

pub fn filter(scene: Scene<'_>, node: &NodeFacts, counts: &Counts) -> Result<(), Rejection> {
    let wishes = &scene.pod.place.affinity;
    if !near_enough(scene, node, counts) {
        return Err(Rejection::unresolvable(NAME, "node(s) didn't match pod affinity rules"));
    }
    if wishes.required_anti.iter().any(|term| has(&counts.away, &term.topology_key, node)) {
        return Err(Rejection::resolvable(NAME, "node(s) didn't match pod anti-affinity rules"));
    }
    if counts.forbid.keys().any(|key| has(&counts.forbid, key, node)) {
        return Err(Rejection::resolvable(NAME, "node(s) didn't satisfy existing pods anti-affinity rules"));
    }
    Ok(())
}

/// A pod that its own terms select may be the first of its kind: it then goes anywhere with the labels.
fn near_enough(scene: Scene<'_>, node: &NodeFacts, counts: &Counts) -> bool {
    let terms = &scene.pod.place.affinity.required;
    if terms.iter().any(|term| node.label(&term.topology_key).is_none()) {
        return false;
    }
    terms.iter().all(|term| has(&counts.near, &term.topology_key, node))
        || counts.near.is_empty() && terms.iter().all(|term| term.matches(scene.pod, scene.namespaces()))
}

/// Sums the weights of wishes, of the new pod and of the pods placed, per topology domain.
pub fn scores(scene: Scene<'_>, nodes: &[&NodeFacts]) -> Vec<i64> {
    let wishes = &scene.pod.place.affinity;
    let all = !wishes.preferred.is_empty() || !wishes.preferred_anti.is_empty();
    let mut weights = Pairs::new();
    for node in scene.snapshot.nodes() {
        let pods = if all { &node.load.pods } else { &node.load.affine };
        for existing in pods {
            weigh(scene, existing, node, &mut weights);
        }
    }
    if weights.is_empty() {
        return vec![0; nodes.len()];
    }
    let sum =
        |node: &&NodeFacts| -> i64 { weights.iter().filter_map(|(key, values)| values.get(node.label(key)?)).sum() };
    let raw: Vec<i64> = nodes.iter().map(sum).collect();
    let (least, most) = (raw.iter().copied().min().unwrap_or_default(), raw.iter().copied().max().unwrap_or_default());
    raw.into_iter().map(|score| if most == least { 0 } else { SCORE_MAX * (score - least) / (most - least) }).collect()
}

fn weigh(scene: Scene<'_>, existing: &PodFacts, node: &NodeFacts, weights: &mut Pairs) {
    let namespaces = scene.namespaces();
    let wishes = &scene.pod.place.affinity;
    let theirs = &existing.place.affinity;
    for (terms, sign) in [(&wishes.preferred, 1), (&wishes.preferred_anti, -1)] {
        for weighted in terms.iter().filter(|weighted| weighted.term.matches(existing, namespaces)) {
            add(weights, &weighted.term, node, sign * weighted.weight);
        }
    }
    for (terms, sign) in [(&theirs.preferred, 1), (&theirs.preferred_anti, -1)] {
        for weighted in terms.iter().filter(|weighted| weighted.term.matches(scene.pod, namespaces)) {
            add(weights, &weighted.term, node, sign * weighted.weight);
        }
    }
    for term in theirs.required.iter().filter(|term| term.matches(scene.pod, namespaces)) {
        add(weights, term, node, REQUIRED_WEIGHT);
    }
}
