//! The small languages of placement, parsed: node selector terms, and terms that select
//! other pods by label and namespace within a topology.
//!
//! Source: component-helpers/scheduling/corev1/nodeaffinity, scheduler/framework (AffinityTerm).

use std::collections::HashMap;

use api_types::{
    k8s::core::{self, NodeSelectorRequirement},
    labels::Selector,
};

use crate::facts::{Labels, NodeFacts, PodFacts};

/// Labels of every namespace, by its name.
pub type Namespaces = HashMap<String, Labels>;

/// Node selector terms, any of which suffices.
#[derive(Clone, Debug, Default)]
pub struct NodeTerms(Vec<NodeTerm>);

/// Requirements on a node, all of which must hold. A term without any matches no node.
#[derive(Clone, Debug, Default)]
struct NodeTerm {
    labels: Vec<NodeSelectorRequirement>,
    fields: Vec<NodeSelectorRequirement>,
}

#[derive(Clone, Debug)]
pub struct WeightedNodeTerm {
    pub weight: i64,
    term: NodeTerm,
}

impl NodeTerms {
    pub fn read(selector: &core::NodeSelector) -> Self {
        Self(selector.node_selector_terms.iter().map(NodeTerm::read).collect())
    }
    pub fn matches(&self, node: &NodeFacts) -> bool {
        self.0.iter().any(|term| term.matches(node))
    }
}

impl WeightedNodeTerm {
    pub fn read(preferred: &core::PreferredSchedulingTerm) -> Self {
        Self { weight: preferred.weight.into(), term: NodeTerm::read(&preferred.preference) }
    }
    pub fn matches(&self, node: &NodeFacts) -> bool {
        self.term.matches(node)
    }
}

impl NodeTerm {
    fn read(term: &core::NodeSelectorTerm) -> Self {
        Self {
            labels: term.match_expressions.clone().unwrap_or_default(),
            fields: term.match_fields.clone().unwrap_or_default(),
        }
    }
    fn matches(&self, node: &NodeFacts) -> bool {
        if self.labels.is_empty() && self.fields.is_empty() {
            return false;
        }
        let field = |key: &str| (key == "metadata.name").then_some(node.name.as_str());
        self.labels.iter().all(|requirement| holds(requirement, node.label(&requirement.key)))
            && self.fields.iter().all(|requirement| holds(requirement, field(&requirement.key)))
    }
}

fn holds(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = value.is_some_and(|value| values.iter().any(|one| one == value));
    let compared = || {
        let number = value?.parse::<i64>().ok()?;
        let bound = values.first()?.parse::<i64>().ok()?;
        Some(number.cmp(&bound))
    };
    match requirement.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compared() == Some(std::cmp::Ordering::Greater),
        "Lt" => compared() == Some(std::cmp::Ordering::Less),
        _ => false,
    }
}

/// Selects pods, and says in which topology they count.
#[derive(Clone, Debug)]
pub struct PodTerm {
    pub topology_key: String,
    selector: Selector,
    namespaces: Vec<String>,
    /// Namespaces selected by their labels; nothing when absent.
    namespace_selector: Selector,
}

#[derive(Clone, Debug)]
pub struct WeightedPodTerm {
    pub weight: i64,
    pub term: PodTerm,
}

impl PodTerm {
    /// Without namespaces and namespace selector, the pod's own namespace is meant.
    pub fn read(term: &core::PodAffinityTerm, namespace: &str) -> Self {
        let mut namespaces = term.namespaces.clone().unwrap_or_default();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.push(namespace.to_owned());
        }
        // matchLabelKeys and mismatchLabelKeys are merged into the selector by the apiserver.
        Self {
            topology_key: term.topology_key.clone(),
            selector: Selector::from(term.label_selector.as_ref()),
            namespaces,
            namespace_selector: Selector::from(term.namespace_selector.as_ref()),
        }
    }

    pub fn matches(&self, pod: &PodFacts, namespaces: &Namespaces) -> bool {
        let selected = || {
            namespaces
                .get(pod.namespace())
                .map_or_else(|| self.namespace_selector.is_empty(), |labels| self.namespace_selector.matches(labels))
        };
        (self.namespaces.iter().any(|name| name == pod.namespace()) || selected()) && self.selector.matches(&pod.labels)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn node_requirements() {
        let check = |operator: &str, values: &[&str], value: Option<&str>, expected: bool| {
            let requirement = NodeSelectorRequirement {
                key: "k".into(),
                operator: operator.into(),
                values: Some(values.iter().map(|value| (*value).to_owned()).collect()),
            };
            assert_eq!(holds(&requirement, value), expected, "{operator} {values:?} {value:?}");
        };
        check("In", &["a", "b"], Some("a"), true);
        check("In", &["a"], None, false);
        check("NotIn", &["a"], None, true);
        check("NotIn", &["a"], Some("a"), false);
        check("Exists", &[], Some(""), true);
        check("DoesNotExist", &[], Some(""), false);
        check("Gt", &["5"], Some("6"), true);
        check("Gt", &["5"], Some("five"), false);
        check("Lt", &["5"], Some("6"), false);
        check("Nonsense", &["5"], Some("5"), false);
    }

    #[test]
    fn an_empty_term_matches_no_node_and_fields_name_the_node() {
        let node = NodeFacts { name: "n1".into(), ..NodeFacts::default() };
        let terms = |value: serde_json::Value| NodeTerms::read(&serde_json::from_value(value).unwrap());
        assert!(!terms(json!({"nodeSelectorTerms": [{}]})).matches(&node));
        let by_name = |name: &str| {
            terms(
                json!({"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]}]}),
            )
        };
        assert!(by_name("n1").matches(&node));
        assert!(!by_name("n2").matches(&node));
    }

    #[test]
    fn pod_terms_select_namespaces() {
        let pod = |namespace: &str| PodFacts {
            id: crate::facts::Id { key: api_types::Key::new(namespace, "p"), ..Default::default() },
            labels: [("app".to_owned(), "web".to_owned())].into(),
            ..PodFacts::default()
        };
        let namespaces: Namespaces = [("b".to_owned(), [("team".to_owned(), "x".to_owned())].into())].into();
        let check = |term: serde_json::Value, namespace: &str, expected: bool| {
            let mut term = term;
            term["labelSelector"] = json!({"matchLabels": {"app": "web"}});
            term["topologyKey"] = json!("k");
            let parsed = PodTerm::read(&serde_json::from_value(term.clone()).unwrap(), "a");
            assert_eq!(parsed.matches(&pod(namespace), &namespaces), expected, "{term} {namespace}");
        };
        check(json!({}), "a", true);
        check(json!({}), "b", false);
        check(json!({"namespaces": ["b"]}), "b", true);
        check(json!({"namespaces": ["b"]}), "a", false);
        check(json!({"namespaceSelector": {}}), "b", true);
        check(json!({"namespaceSelector": {"matchLabels": {"team": "x"}}}), "b", true);
        check(json!({"namespaceSelector": {"matchLabels": {"team": "y"}}}), "b", false);
    }
}
