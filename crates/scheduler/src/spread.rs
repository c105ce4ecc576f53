//! Topology spread constraints, parsed: how evenly pods of a kind are to be spread over
//! the values of a node label.
//!
//! Source: scheduler/framework/plugins/podtopologyspread/common.go.

use api_types::{
    k8s::{
        core::TopologySpreadConstraint,
        meta::{LabelSelector, LabelSelectorRequirement},
    },
    labels::Selector,
};

use crate::{
    facts::{Labels, NodeFacts, PodFacts, tolerates},
    plugins::node_affinity,
};

pub const HOSTNAME_LABEL: &str = "kubernetes.io/hostname";
pub const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

#[derive(Clone, Debug)]
pub struct Constraint {
    pub topology_key: String,
    pub max_skew: i64,
    pub min_domains: usize,
    /// `DoNotSchedule`; otherwise a wish.
    pub hard: bool,
    pub selector: Selector,
    /// Which nodes count: those that the pod's node affinity matches, those whose taints it tolerates.
    pub honours: Honours,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Honours {
    pub affinity: bool,
    pub taints: bool,
}

impl Constraint {
    /// `labels` are the pod's own: `matchLabelKeys` takes values from them.
    pub fn read(constraint: &TopologySpreadConstraint, labels: &Labels) -> Self {
        let mut selector = constraint.label_selector.clone();
        let keys = constraint.match_label_keys.iter().flatten();
        let more = keys.filter_map(|key| {
            let values = Some(vec![labels.get(key)?.clone()]);
            Some(LabelSelectorRequirement { key: key.clone(), operator: "In".to_owned(), values })
        });
        let more: Vec<_> = more.collect();
        if !more.is_empty() {
            let selector = selector.get_or_insert_with(LabelSelector::default);
            selector.match_expressions.get_or_insert_default().extend(more);
        }
        Self {
            topology_key: constraint.topology_key.clone(),
            max_skew: constraint.max_skew.into(),
            min_domains: usize::try_from(constraint.min_domains.unwrap_or(1)).unwrap_or(1),
            hard: constraint.when_unsatisfiable == "DoNotSchedule",
            selector: Selector::from(selector.as_ref()),
            honours: Honours {
                affinity: constraint.node_affinity_policy.as_deref() != Some("Ignore"),
                taints: constraint.node_taints_policy.as_deref() == Some("Honor"),
            },
        }
    }

    /// Whether pods on `node` count when `pod` is spread.
    pub fn includes(&self, pod: &PodFacts, node: &NodeFacts) -> bool {
        let blocking = || node.taints.iter().filter(|taint| taint.effect != "PreferNoSchedule");
        (!self.honours.affinity || node_affinity::matches(pod, node))
            && (!self.honours.taints || blocking().all(|taint| tolerates(&pod.place.tolerations, taint)))
    }
}

/// What a pod without constraints of its own is spread by: over nodes first, then over zones.
pub fn defaults(selector: &Selector) -> Vec<Constraint> {
    let soft = |topology_key: &str, max_skew| Constraint {
        topology_key: topology_key.to_owned(),
        max_skew,
        min_domains: 1,
        hard: false,
        selector: selector.clone(),
        honours: Honours { affinity: true, taints: false },
    };
    vec![soft(HOSTNAME_LABEL, 3), soft(ZONE_LABEL, 5)]
}

/// How many live pods of `namespace` on `node` the selector matches.
pub fn count(node: &NodeFacts, selector: &Selector, namespace: &str) -> i64 {
    if selector.is_empty() {
        // As upstream: an empty selector would count all pods, which nobody means.
        return 0;
    }
    let counts =
        |pod: &PodFacts| !pod.status.terminating && pod.namespace() == namespace && selector.matches(&pod.labels);
    node.load.pods.iter().filter(|pod| counts(pod)).count() as i64
}
