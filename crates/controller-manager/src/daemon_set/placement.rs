//! Which nodes a DaemonSet's pods fit, and how a pod is bound to its node before it is scheduled.
//!
//! Source: `nodeShouldRunDaemonPod` in kubernetes/pkg/controller/daemon/daemon_controller.go.

use std::collections::BTreeMap;

use api_types::{
    Object,
    k8s::core::{
        Affinity, Node, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec,
        PodTemplateSpec, Taint, Toleration,
    },
    labels::{Operator, Requirement},
};

use crate::{pods, taint_eviction::tolerates};

const NAME_FIELD: &str = "metadata.name";

/// How a node and a template go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    Runs,
    /// No pod is made, but one that is there may stay: a taint came that keeps new pods away.
    Stays,
    Never,
}

pub fn fit(template: &PodTemplateSpec, node: &Node) -> Fit {
    let none = PodSpec::default();
    let spec = template.spec.as_ref().unwrap_or(&none);
    let named = spec.node_name.as_deref().unwrap_or_default();
    if (!named.is_empty() && named != node.name()) || !is_selected(spec, node) {
        return Fit::Never;
    }
    let tolerations = [spec.tolerations.clone().unwrap_or_default(), tolerations(spec)].concat();
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let unbearable = |effect: &str| {
        let bears = |taint: &Taint| tolerations.iter().any(|toleration| tolerates(toleration, taint));
        taints.iter().any(|taint| taint.effect == effect && !bears(taint))
    };
    match (unbearable("NoExecute"), unbearable("NoSchedule")) {
        (true, _) => Fit::Never,
        (false, true) => Fit::Stays,
        (false, false) => Fit::Runs,
    }
}

fn is_selected(spec: &PodSpec, node: &Node) -> bool {
    let by_labels = spec.node_selector.iter().flatten().all(|(key, value)| node.label(key) == Some(value));
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|it| it.required_during_scheduling_ignored_during_execution.as_ref());
    by_labels && required.is_none_or(|selector| selector.node_selector_terms.iter().any(|term| is_met(term, node)))
}

/// All of a term has to hold; an empty one never does.
fn is_met(term: &NodeSelectorTerm, node: &Node) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let names: BTreeMap<String, String> = [(NAME_FIELD.to_owned(), node.name().to_owned())].into();
    (!expressions.is_empty() || !fields.is_empty())
        && expressions.iter().all(|it| requirement(it).is_some_and(|it| it.matches(&node.metadata.labels)))
        && fields.iter().all(|it| requirement(it).is_some_and(|it| it.matches(&names)))
}

fn requirement(from: &NodeSelectorRequirement) -> Option<Requirement> {
    let operator = match from.operator.as_str() {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        "Gt" => Operator::GreaterThan,
        "Lt" => Operator::LessThan,
        _ => return None,
    };
    Some(Requirement { key: from.key.clone(), operator, values: from.values.clone().unwrap_or_default() })
}

/// What daemons bear beside what they say: a node in trouble is no reason to leave it.
fn tolerations(spec: &PodSpec) -> Vec<Toleration> {
    let bear = |name: &str, effect: &str| Toleration {
        key: Some(format!("node.kubernetes.io/{name}")),
        operator: Some("Exists".to_owned()),
        effect: Some(effect.to_owned()),
        ..Toleration::default()
    };
    let mut all = vec![
        bear("not-ready", "NoExecute"),
        bear("unreachable", "NoExecute"),
        bear("disk-pressure", "NoSchedule"),
        bear("memory-pressure", "NoSchedule"),
        bear("pid-pressure", "NoSchedule"),
        bear("unschedulable", "NoSchedule"),
    ];
    if spec.host_network == Some(true) {
        all.push(bear("network-unavailable", "NoSchedule"));
    }
    all
}

/// Leaves the binding to the scheduler, but no choice.
pub fn bind_to(pod: &mut Pod, node: &str) {
    let Some(spec) = &mut pod.spec else { return };
    let added = tolerations(spec);
    let own = spec.tolerations.get_or_insert_default();
    own.extend(added.into_iter().filter(|new| !own.contains(new)).collect::<Vec<_>>());
    let only = NodeSelectorRequirement {
        key: NAME_FIELD.to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![node.to_owned()]),
    };
    let affinity: &mut Affinity = spec.affinity.get_or_insert_default();
    let affinity: &mut NodeAffinity = affinity.node_affinity.get_or_insert_default();
    let term = NodeSelectorTerm { match_fields: Some(vec![only]), match_expressions: None };
    let selector = NodeSelector { node_selector_terms: vec![term] };
    // The terms that were there have been judged already.
    affinity.required_during_scheduling_ignored_during_execution = Some(selector);
}

/// The node that a pod is on, or is meant for.
pub fn node_of(pod: &Pod) -> &str {
    let bound = pods::node_name(pod);
    if !bound.is_empty() {
        return bound;
    }
    let meant = || {
        let affinity = pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
        let terms = &affinity.required_during_scheduling_ignored_during_execution.as_ref()?.node_selector_terms;
        let fields = terms.iter().flat_map(|term| term.match_fields.iter().flatten());
        let mut named = fields.filter(|field| field.key == NAME_FIELD && field.operator == "In");
        named.next()?.values.as_ref()?.first().map(String::as_str)
    };
    meant().unwrap_or_default()
}
