//! Spreads pods of a kind evenly over the values of a node label: hard constraints forbid
//! nodes, soft ones (and the defaults, for pods without any) prefer others.
//!
//! Source: scheduler/framework/plugins/podtopologyspread.

use std::collections::HashMap;

use super::{Rejection, SCORE_MAX, Scene};
use crate::{
    facts::{NodeFacts, PodFacts},
    spread::{self, Constraint, HOSTNAME_LABEL},
};

pub const NAME: &str = "PodTopologySpread";

/// Matching pods per topology value, for each hard constraint.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    domains: Vec<Domains>,
}

#[derive(Clone, Debug)]
struct Domains {
    constraint: Constraint,
    /// Whether the pod itself counts.
    matches_self: bool,
    pods: HashMap<String, i64>,
    /// The least over all domains; 0 while there are fewer than asked for.
    least: i64,
}

impl Counts {
    pub fn new(scene: Scene<'_>) -> Self {
        let pod = scene.pod;
        let hard = pod.place.spread.iter().filter(|constraint| constraint.hard);
        let mut domains: Vec<Domains> = hard
            .map(|constraint| Domains {
                matches_self: constraint.selector.matches(&pod.labels),
                constraint: constraint.clone(),
                pods: HashMap::new(),
                least: 0,
            })
            .collect();
        if domains.is_empty() {
            return Self::default();
        }
        for node in scene.snapshot.nodes() {
            if domains.iter().any(|one| node.label(&one.constraint.topology_key).is_none()) {
                continue;
            }
            for one in domains.iter_mut().filter(|one| one.constraint.includes(pod, node)) {
                let Some(value) = node.label(&one.constraint.topology_key) else { continue };
                let count = spread::count(node, &one.constraint.selector, pod.namespace());
                *one.pods.entry(value.to_owned()).or_default() += count;
            }
        }
        domains.iter_mut().for_each(Domains::find_least);
        Self { domains }
    }

    /// Counts `existing` on `node` once more (or less).
    pub fn count(&mut self, pod: &PodFacts, existing: &PodFacts, node: &NodeFacts, delta: i64) {
        if existing.namespace() != pod.namespace() {
            return;
        }
        for one in &mut self.domains {
            let Some(value) = node.label(&one.constraint.topology_key) else { return };
            let counts = one.constraint.selector.matches(&existing.labels) && one.constraint.includes(pod, node);
            if let (true, Some(pods)) = (counts, one.pods.get_mut(value)) {
                *pods += delta;
                one.find_least();
            }
        }
    }
}

impl Domains {
    fn find_least(&mut self) {
        let enough = self.pods.len() >= self.constraint.min_domains;
        self.least = if enough { self.pods.values().copied().min().unwrap_or_default() } else { 0 };
    }
}

pub fn filter(_pod: &PodFacts, node: &NodeFacts, counts: &Counts) -> Result<(), Rejection> {
    for one in &counts.domains {
        let Some(value) = node.label(&one.constraint.topology_key) else {
            let reason = "node(s) didn't match pod topology spread constraints (missing required label)";
            return Err(Rejection::unresolvable(NAME, reason));
        };
        let there = one.pods.get(value).copied().unwrap_or_default() + i64::from(one.matches_self);
        if there - one.least > one.constraint.max_skew {
            return Err(Rejection::resolvable(NAME, "node(s) didn't match pod topology spread constraints"));
        }
    }
    Ok(())
}

/// Nodes in domains with fewer matching pods score higher.
pub fn scores(scene: Scene<'_>, nodes: &[&NodeFacts]) -> Vec<i64> {
    let pod = scene.pod;
    let own = !pod.place.spread.is_empty();
    let constraints = if own {
        pod.place.spread.iter().filter(|constraint| !constraint.hard).cloned().collect()
    } else if scene.surroundings.siblings == api_types::labels::Selector::nothing() {
        Vec::new()
    } else {
        spread::defaults(&scene.surroundings.siblings)
    };
    if constraints.is_empty() {
        return vec![0; nodes.len()];
    }
    // The defaults also spread over nodes that bear no zone.
    let all_labels = |node: &NodeFacts| constraints.iter().all(|one| node.label(&one.topology_key).is_some());
    let scored: Vec<&&NodeFacts> = nodes.iter().filter(|node| !own || all_labels(node)).collect();
    let mut raw = vec![0.0; scored.len()];
    for constraint in &constraints {
        add_scores(scene, constraint, &scored, &mut raw);
    }
    let raw: Vec<i64> = raw.into_iter().map(|score| f64::round(score) as i64).collect();
    let (least, most) = (raw.iter().copied().min().unwrap_or_default(), raw.iter().copied().max().unwrap_or_default());
    let mut inverted =
        raw.into_iter().map(|score| if most == 0 { SCORE_MAX } else { SCORE_MAX * (most + least - score) / most });
    let score = |node: &&NodeFacts| if !own || all_labels(node) { inverted.next().unwrap_or_default() } else { 0 };
    nodes.iter().map(score).collect()
}

/// Adds what `constraint` counts for each of `scored`. Large topologies weigh more, as each of their domains holds less.
fn add_scores(scene: Scene<'_>, constraint: &Constraint, scored: &[&&NodeFacts], raw: &mut [f64]) {
    let weight = |domains: usize| ((domains + 2) as f64).ln();
    let value = |count: i64, weight: f64| count as f64 * weight + (constraint.max_skew - 1) as f64;
    let count = |node: &NodeFacts| spread::count(node, &constraint.selector, scene.pod.namespace());
    if constraint.topology_key == HOSTNAME_LABEL {
        let weight = weight(scored.len());
        for (score, node) in raw.iter_mut().zip(scored) {
            if node.label(HOSTNAME_LABEL).is_some() {
                *score += value(count(node), weight);
            }
        }
        return;
    }
    let domain = |node: &NodeFacts| node.label(&constraint.topology_key).unwrap_or_default().to_owned();
    let mut domains: HashMap<String, i64> = scored.iter().map(|node| (domain(node), 0)).collect();
    for node in scene.snapshot.nodes().iter().filter(|node| constraint.includes(scene.pod, node)) {
        if let Some(pods) = domains.get_mut(node.label(&constraint.topology_key).unwrap_or_default()) {
            *pods += count(node);
        }
    }
    let weight = weight(domains.len());
    for (score, node) in raw.iter_mut().zip(scored) {
        if let Some(label) = node.label(&constraint.topology_key) {
            *score += value(domains[label], weight);
        }
    }
}
