//! What to write so that an object is as wanted, and no more: what an administrator added stays.
//!
//! Source: component-helpers/auth/rbac/reconciliation and apiserver/pkg/util/flowcontrol/ensurer.

use serde_json::{Map, Value, json};

use super::objects::{FLOW_AUTOUPDATE, Insist, MANDATORY_FLOW, RBAC_AUTOUPDATE, Wanted};
use crate::authz::rule::{Rule, missing};

#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    Keep,
    Create(Value),
    Update(Value),
    /// The role of a binding cannot change in place.
    Recreate(Value),
}

pub fn step(wanted: &Wanted, existing: Option<&Value>) -> Step {
    let Some(existing) = existing else { return Step::Create(wanted.object.clone()) };
    let mut object = existing.clone();
    match wanted.insist {
        Insist::Existence => return Step::Keep,
        Insist::Role | Insist::Binding if is_off(existing, RBAC_AUTOUPDATE) => return Step::Keep,
        Insist::Role => extend_role(&mut object, &wanted.object),
        Insist::Binding if existing["roleRef"] != wanted.object["roleRef"] => {
            return Step::Recreate(wanted.object.clone());
        }
        Insist::Binding => extend_binding(&mut object, &wanted.object),
        Insist::Spec if is_somebodys(existing) => return Step::Keep,
        Insist::Spec => overlay(&mut object["spec"], &flow_spec(wanted, existing)),
        Insist::Fields(fields) => {
            for field in fields {
                overlay(&mut object[*field], &wanted.object[*field]);
            }
        }
    }
    if object == *existing { Step::Keep } else { Step::Update(object) }
}

fn is_off(object: &Value, annotation: &str) -> bool {
    object["metadata"]["annotations"][annotation] == "false"
}

/// Whoever changed the spec of a schema or level keeps it, unless the server cannot be without the object.
fn is_somebodys(existing: &Value) -> bool {
    let metadata = &existing["metadata"];
    if MANDATORY_FLOW.iter().any(|name| metadata["name"] == *name) {
        return false;
    }
    match metadata["annotations"][FLOW_AUTOUPDATE].as_str() {
        Some(annotation) => annotation == "false",
        None => metadata["generation"].as_i64().is_some_and(|generation| generation > 1),
    }
}

/// How much of the server the exempt level lends is the administrator's to say.
fn flow_spec(wanted: &Wanted, existing: &Value) -> Value {
    let mut spec = wanted.object["spec"].clone();
    if existing["spec"]["exempt"].is_object()
        && let Some(fields) = spec.as_object_mut()
    {
        fields.remove("exempt");
    }
    spec
}

fn extend_role(object: &mut Value, wanted: &Value) {
    extend_metadata(object, wanted);
    let selectors =
        |role: &Value| role["aggregationRule"]["clusterRoleSelectors"].as_array().cloned().unwrap_or_default();
    let wanted_selectors = selectors(wanted);
    if !wanted_selectors.is_empty() {
        // The rules of an aggregated role are the aggregation's, not ours.
        let mut union = selectors(object);
        union.extend(wanted_selectors.into_iter().filter(|selector| !selectors(object).contains(selector)));
        object["aggregationRule"] = json!({"clusterRoleSelectors": union});
        return;
    }
    let held = Rule::list(&object["rules"]);
    let lacking: Vec<Value> = wanted["rules"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|rule| !missing(&held, &Rule::list(&json!([rule]))).is_empty())
        .cloned()
        .collect();
    append(object, "rules", lacking);
}

fn extend_binding(object: &mut Value, wanted: &Value) {
    extend_metadata(object, wanted);
    let present = object["subjects"].as_array().cloned().unwrap_or_default();
    let lacking = wanted["subjects"].as_array().into_iter().flatten().filter(|subject| !present.contains(subject));
    append(object, "subjects", lacking.cloned().collect());
}

fn append(object: &mut Value, field: &str, items: Vec<Value>) {
    if items.is_empty() {
        return;
    }
    match object[field].as_array_mut() {
        Some(list) => list.extend(items),
        None => object[field] = Value::Array(items),
    }
}

/// Adds labels and annotations that are not there; those that are keep their values.
fn extend_metadata(object: &mut Value, wanted: &Value) {
    for field in ["labels", "annotations"] {
        let Some(wanted) = wanted["metadata"][field].as_object() else { continue };
        let target = &mut object["metadata"][field];
        if !target.is_object() {
            *target = Value::Object(Map::new());
        }
        for (key, value) in wanted {
            if target.get(key).is_none() {
                target[key] = value.clone();
            }
        }
    }
}

/// Sets what `wanted` says; fields that it does not mention (defaults) stay. Lists are replaced
/// unless each item already holds what its counterpart says.
fn overlay(target: &mut Value, wanted: &Value) {
    match (target, wanted) {
        (Value::Object(target), Value::Object(wanted)) => {
            for (key, value) in wanted {
                overlay(target.entry(key.as_str()).or_insert(Value::Null), value);
            }
        }
        (Value::Array(target), Value::Array(wanted)) if target.len() == wanted.len() => {
            for (target, wanted) in target.iter_mut().zip(wanted) {
                overlay(target, wanted);
            }
        }
        (target, wanted) => *target = wanted.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api_types::{Object, k8s::rbac};

    fn wanted(insist: Insist, object: Value) -> Wanted {
        Wanted { resource: rbac::ClusterRole::RESOURCE, object, insist, condition: None }
    }
    fn rule(verbs: &[&str]) -> Value {
        json!({"apiGroups": [""], "resources": ["pods"], "verbs": verbs})
    }

    #[test]
    fn absent_is_created_and_equal_is_kept() {
        let role = json!({"metadata": {"labels": {"a": "b"}}, "rules": [rule(&["get"])], "spec": {"a": 1}});
        for insist in [Insist::Existence, Insist::Role, Insist::Binding, Insist::Spec, Insist::Fields(&["rules"])] {
            assert_eq!(step(&wanted(insist, role.clone()), None), Step::Create(role.clone()));
            assert_eq!(step(&wanted(insist, role.clone()), Some(&role)), Step::Keep, "{insist:?}");
        }
    }

    #[test]
    fn roles_gain_what_they_lack() {
        let want = wanted(
            Insist::Role,
            json!({"metadata": {"labels": {"a": "b"}}, "rules": [rule(&["get"]), rule(&["list"])]}),
        );
        let existing = json!({"metadata": {"labels": {"c": "d"}}, "rules": [rule(&["get", "delete"])]});
        let expected =
            json!({"metadata": {"labels": {"a": "b", "c": "d"}}, "rules": [rule(&["get", "delete"]), rule(&["list"])]});
        assert_eq!(step(&want, Some(&existing)), Step::Update(expected));
        let wider = json!({"metadata": {"labels": {"a": "b"}}, "rules": [rule(&["*"])]});
        assert_eq!(step(&want, Some(&wider)), Step::Keep);
        let left_alone = json!({"metadata": {"annotations": {RBAC_AUTOUPDATE: "false"}}, "rules": null});
        assert_eq!(step(&want, Some(&left_alone)), Step::Keep);
    }

    #[test]
    fn aggregated_rules_belong_to_the_aggregation() {
        let selector = json!({"matchLabels": {"a": "true"}});
        let want =
            wanted(Insist::Role, json!({"aggregationRule": {"clusterRoleSelectors": [selector]}, "rules": null}));
        let filled = json!({"aggregationRule": {"clusterRoleSelectors": [selector]}, "rules": [rule(&["get"])]});
        assert_eq!(step(&want, Some(&filled)), Step::Keep);
    }

    #[test]
    fn bindings() {
        let binding = |role: &str, names: &[&str]| {
            let subjects: Vec<Value> = names.iter().map(|name| json!({"kind": "User", "name": name})).collect();
            json!({"roleRef": {"name": role}, "subjects": subjects})
        };
        let want = wanted(Insist::Binding, binding("r", &["a"]));
        assert_eq!(step(&want, Some(&binding("r", &["b"]))), Step::Update(binding("r", &["b", "a"])));
        assert_eq!(step(&want, Some(&binding("r", &["b", "a"]))), Step::Keep);
        assert_eq!(step(&want, Some(&binding("other", &["a"]))), Step::Recreate(binding("r", &["a"])));
    }

    #[test]
    fn specs_are_ours_but_defaults_stay() {
        let want = wanted(Insist::Spec, json!({"spec": {"shares": 5, "rules": [{"a": 1}]}}));
        let defaulted = json!({"spec": {"shares": 5, "rules": [{"a": 1, "default": true}], "more": 1}});
        assert_eq!(step(&want, Some(&defaulted)), Step::Keep);
        let changed = json!({"spec": {"shares": 7, "rules": []}});
        assert_eq!(step(&want, Some(&changed)), Step::Update(json!({"spec": {"shares": 5, "rules": [{"a": 1}]}})));
        let off = json!({"metadata": {"annotations": {FLOW_AUTOUPDATE: "false"}}, "spec": {"shares": 7}});
        assert_eq!(step(&want, Some(&off)), Step::Keep);
    }
}
