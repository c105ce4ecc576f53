//! Where a pod may run: affinity to nodes and to other pods.
//!
//! Source: pkg/apis/core/validation/validation.go.

use api_types::{
    k8s::{
        core::{
            Affinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodAffinityTerm, WeightedPodAffinityTerm,
        },
        meta::LabelSelector,
    },
    names,
};

use crate::rules::{
    path::{Errors, Path, items},
    selector::label_selector,
};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
const WEIGHT_MAX: i32 = 100;

pub fn affinity(affinity: Option<&Affinity>, path: &Path, errors: &mut Errors) {
    let Some(affinity) = affinity else { return };
    if let Some(node) = &affinity.node_affinity {
        let path = path.field("nodeAffinity");
        if let Some(selector) = &node.required_during_scheduling_ignored_during_execution {
            node_selector(selector, &path.field(REQUIRED), errors);
        }
        for (i, term) in items(&node.preferred_during_scheduling_ignored_during_execution).iter().enumerate() {
            let path = path.field(PREFERRED);
            let path = path.index(i);
            weight(term.weight, &path, errors);
            // A value that no label can have just never matches.
            node_selector_term(&term.preference, Values::Any, &path.field("preference"), errors);
        }
    }
    if let Some(pods) = &affinity.pod_affinity {
        pod_terms(
            items(&pods.required_during_scheduling_ignored_during_execution),
            items(&pods.preferred_during_scheduling_ignored_during_execution),
            &path.field("podAffinity"),
            errors,
        );
    }
    if let Some(pods) = &affinity.pod_anti_affinity {
        pod_terms(
            items(&pods.required_during_scheduling_ignored_during_execution),
            items(&pods.preferred_during_scheduling_ignored_during_execution),
            &path.field("podAntiAffinity"),
            errors,
        );
    }
}

fn weight(weight: i32, path: &Path, errors: &mut Errors) {
    if !(1..=WEIGHT_MAX).contains(&weight) {
        errors.invalid(&path.field("weight"), weight, "must be in the range 1-100");
    }
}

/// Whether the values of a requirement must be legal label values.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Values {
    Legal,
    Any,
}

/// Also the node affinity of a PersistentVolume.
pub fn node_selector(selector: &NodeSelector, path: &Path, errors: &mut Errors) {
    let path = path.field("nodeSelectorTerms");
    if selector.node_selector_terms.is_empty() {
        errors.required(&path, "must have at least one node selector term");
    }
    for (i, term) in selector.node_selector_terms.iter().enumerate() {
        node_selector_term(term, Values::Legal, &path.index(i), errors);
    }
}

fn node_selector_term(term: &NodeSelectorTerm, values: Values, path: &Path, errors: &mut Errors) {
    for (i, requirement) in items(&term.match_expressions).iter().enumerate() {
        node_requirement(requirement, values, &path.field("matchExpressions").index(i), errors);
    }
    for (i, requirement) in items(&term.match_fields).iter().enumerate() {
        node_field(requirement, &path.field("matchFields").index(i), errors);
    }
}

fn node_requirement(requirement: &NodeSelectorRequirement, legal: Values, path: &Path, errors: &mut Errors) {
    let values = items(&requirement.values);
    let values_path = path.field("values");
    match requirement.operator.as_str() {
        "In" | "NotIn" => {
            if values.is_empty() {
                errors.required(&values_path, "must be specified when `operator` is 'In' or 'NotIn'");
            }
        }
        "Exists" | "DoesNotExist" => {
            if !values.is_empty() {
                let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.forbidden(&values_path, detail);
            }
        }
        "Gt" | "Lt" => {
            if values.len() != 1 {
                errors.required(&values_path, "must be specified single value when `operator` is 'Lt' or 'Gt'");
            }
        }
        operator => errors.invalid(&path.field("operator"), operator, "not a valid selector operator"),
    }
    errors.invalid_all(&path.field("key"), requirement.key.as_str(), names::label_key(&requirement.key));
    if legal == Values::Legal {
        for (i, value) in values.iter().enumerate() {
            errors.invalid_all(&values_path.index(i), value.as_str(), names::label_value(value));
        }
    }
}

fn node_field(requirement: &NodeSelectorRequirement, path: &Path, errors: &mut Errors) {
    let values = items(&requirement.values);
    match requirement.operator.as_str() {
        "In" | "NotIn" => {
            if values.len() != 1 {
                let detail = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
                errors.required(&path.field("values"), detail);
            }
        }
        operator => errors.invalid(&path.field("operator"), operator, "not a valid selector operator"),
    }
    if requirement.key != "metadata.name" {
        errors.invalid(&path.field("key"), &requirement.key, "not a valid field selector key");
        return;
    }
    for (i, value) in values.iter().enumerate() {
        errors.invalid_all(&path.field("values").index(i), value.as_str(), names::dns1123_subdomain(value));
    }
}

fn pod_terms(required: &[PodAffinityTerm], preferred: &[WeightedPodAffinityTerm], path: &Path, errors: &mut Errors) {
    for (i, term) in required.iter().enumerate() {
        pod_term(term, &path.field(REQUIRED).index(i), errors);
    }
    for (i, term) in preferred.iter().enumerate() {
        let path = path.field(PREFERRED);
        let path = path.index(i);
        weight(term.weight, &path, errors);
        pod_term(&term.pod_affinity_term, &path.field("podAffinityTerm"), errors);
    }
}

fn pod_term(term: &PodAffinityTerm, path: &Path, errors: &mut Errors) {
    label_selector(term.label_selector.as_ref(), &path.field("labelSelector"), errors);
    label_selector(term.namespace_selector.as_ref(), &path.field("namespaceSelector"), errors);
    for namespace in items(&term.namespaces) {
        errors.invalid_all(&path.field("namespace"), namespace.as_str(), names::dns1123_label(namespace));
    }
    let selector = term.label_selector.as_ref();
    match_label_keys(items(&term.match_label_keys), selector, &path.field("matchLabelKeys"), errors);
    match_label_keys(items(&term.mismatch_label_keys), selector, &path.field("mismatchLabelKeys"), errors);
    topology_key(&term.topology_key, &path.field("topologyKey"), errors);
}

pub fn topology_key(key: &str, path: &Path, errors: &mut Errors) {
    match key {
        "" => errors.required(path, "can not be empty"),
        key => errors.invalid_all(path, key, names::label_key(key)),
    }
}

/// Keys whose values are taken from the pod itself; they make no sense without a selector.
pub fn match_label_keys(keys: &[String], selector: Option<&LabelSelector>, path: &Path, errors: &mut Errors) {
    if keys.is_empty() {
        return;
    }
    if selector.is_none() {
        errors.forbidden(path, "must not be specified when labelSelector is not set");
    }
    for (i, key) in keys.iter().enumerate() {
        errors.invalid_all(&path.index(i), key.as_str(), names::label_key(key));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::rules::texts;

    fn check(affinity: Value, expected: &[&str]) {
        let mut errors = Errors::default();
        let parsed: Affinity = serde_json::from_value(affinity).unwrap();
        super::affinity(Some(&parsed), &Path::root("a"), &mut errors);
        assert_eq!(texts(errors.0), expected);
    }

    #[test]
    fn node_affinity() {
        check(
            json!({"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "In"}]}]}}}),
            &[
                "a.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
            ],
        );
        check(
            json!({"nodeAffinity": {PREFERRED: [{"weight": 0, "preference": {}}]}}),
            &[
                "a.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight: Invalid value: 0: must be in the range 1-100",
            ],
        );
    }

    #[test]
    fn pod_affinity() {
        check(
            json!({"podAntiAffinity": {REQUIRED: [{"topologyKey": ""}]}}),
            &[
                "a.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey: Required value: can not be empty",
            ],
        );
    }
}
