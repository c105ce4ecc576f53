//! What may speak against a node, and what speaks for it: one module per plugin, each with
//! pure functions under upstream's name for it. The order and the weights stand here.
//!
//! Source: scheduler/apis/config/v1/default_plugins.go.

use std::borrow::Cow;

use api_types::labels::Selector;

use crate::{
    affinity::Namespaces,
    facts::{NodeFacts, PodFacts},
    snapshot::Snapshot,
};

pub mod image_locality;
pub mod inter_pod_affinity;
pub mod node_affinity;
pub mod node_name;
pub mod node_ports;
pub mod node_resources;
pub mod node_unschedulable;
pub mod scheduling_gates;
pub mod taint_toleration;
pub mod topology_spread;
pub mod volume_binding;

/// The best score of a node by one plugin, before its weight.
pub const SCORE_MAX: i64 = 100;

/// Why a pod does not go on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    pub plugin: &'static str,
    /// In upstream's words, each counted over the nodes for the pod's condition.
    pub reasons: Vec<Cow<'static, str>>,
    pub remedy: Remedy,
}

/// Whether it could help to remove other pods from the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Upstream's code `Unschedulable`.
    Preemption,
    /// Upstream's code `UnschedulableAndUnresolvable`.
    None,
}

impl Rejection {
    pub fn resolvable(plugin: &'static str, reason: impl Into<Cow<'static, str>>) -> Self {
        Self { plugin, reasons: vec![reason.into()], remedy: Remedy::Preemption }
    }
    pub fn unresolvable(plugin: &'static str, reason: impl Into<Cow<'static, str>>) -> Self {
        Self { plugin, reasons: vec![reason.into()], remedy: Remedy::None }
    }
}

/// What a decision is about.
#[derive(Clone, Copy)]
pub struct Scene<'a> {
    pub pod: &'a PodFacts,
    pub snapshot: &'a Snapshot,
    pub surroundings: &'a Surroundings,
}

impl Scene<'_> {
    pub fn namespaces(&self) -> &Namespaces {
        &self.snapshot.namespaces
    }
}

/// What else is known of the pod's surroundings.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// Selects the pods of the Services and of the owner of this pod; nothing if there are none.
    pub siblings: Selector,
    pub claims: Vec<volume_binding::Claim>,
}

impl Default for Surroundings {
    fn default() -> Self {
        Self { siblings: Selector::nothing(), claims: Vec::new() }
    }
}

/// What is worked out once per pod, before nodes are looked at.
#[derive(Clone, Debug)]
pub struct Prepared {
    pub spread: topology_spread::Counts,
    pub inter_pod: inter_pod_affinity::Counts,
}

impl Prepared {
    /// `Err`: no node will do, whatever it looks like.
    pub fn new(scene: Scene<'_>) -> Result<Self, Rejection> {
        volume_binding::pre_filter(&scene.surroundings.claims)?;
        Ok(Self { spread: topology_spread::Counts::new(scene), inter_pod: inter_pod_affinity::Counts::new(scene) })
    }

    /// The counts as they are without `existing` on `node`.
    pub fn without(&mut self, scene: Scene<'_>, existing: &PodFacts, node: &NodeFacts) {
        self.spread.count(scene.pod, existing, node, -1);
        self.inter_pod.count(scene, existing, node, -1);
    }

    /// The counts as they are with `existing` on `node`.
    pub fn with(&mut self, scene: Scene<'_>, existing: &PodFacts, node: &NodeFacts) {
        self.spread.count(scene.pod, existing, node, 1);
        self.inter_pod.count(scene, existing, node, 1);
    }
}

/// The first reason against `node`, in upstream's order of plugins.
pub fn filter(scene: Scene<'_>, node: &NodeFacts, prepared: &Prepared) -> Result<(), Rejection> {
    let pod = scene.pod;
    node_unschedulable::filter(pod, node)?;
    node_name::filter(pod, node)?;
    taint_toleration::filter(pod, node)?;
    node_affinity::filter(pod, node)?;
    node_ports::filter(pod, node)?;
    node_resources::filter(pod, node)?;
    volume_binding::filter(&scene.surroundings.claims, node)?;
    topology_spread::filter(pod, node, &prepared.spread)?;
    inter_pod_affinity::filter(scene, node, &prepared.inter_pod)
}

/// Weighted sums of what speaks for each of `nodes`, in their order.
pub fn scores(scene: Scene<'_>, nodes: &[&NodeFacts]) -> Vec<i64> {
    let mut sums = vec![0; nodes.len()];
    let weighted = [
        (3, taint_toleration::scores(scene.pod, nodes)),
        (2, node_affinity::scores(scene.pod, nodes)),
        (1, node_resources::least_allocated(scene.pod, nodes)),
        (1, node_resources::balanced(scene.pod, nodes)),
        (2, topology_spread::scores(scene, nodes)),
        (2, inter_pod_affinity::scores(scene, nodes)),
        (1, image_locality::scores(scene, nodes)),
    ];
    for (weight, scores) in weighted {
        for (sum, score) in sums.iter_mut().zip(scores) {
            *sum += weight * score;
        }
    }
    sums
}

/// Stretches raw scores so that the largest becomes [`SCORE_MAX`]; `Less` is better the other way round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    More,
    Less,
}

fn normalise(mut scores: Vec<i64>, better: Better) -> Vec<i64> {
    let max = scores.iter().copied().max().unwrap_or_default();
    for score in &mut scores {
        let stretched = if max == 0 { 0 } else { *score * SCORE_MAX / max };
        *score = match better {
            Better::More => stretched,
            Better::Less => SCORE_MAX - stretched,
        };
    }
    scores
}
