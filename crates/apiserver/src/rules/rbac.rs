//! Roles and bindings: who may do what is written down completely, and what a binding
//! refers to never changes.
//!
//! Source: pkg/apis/rbac/validation/validation.go.

use api_types::{
    FieldError,
    k8s::rbac::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject},
    names,
};
use serde_json::Value;

use super::{
    PLAIN, Rules, check,
    edit::{each, field, fill_text, text},
    path::{Errors, Path, items, text as some_text},
    selector::label_selector,
};

const GROUP: &str = "rbac.authorization.k8s.io";

pub const ROLE: Rules = Rules {
    name: names::path_segment,
    create_on_update: true,
    validate: |role| check(role, |role: &Role, errors| rules(items(&role.rules), true, errors)),
    validate_update: |role, _| check(role, |role: &Role, errors| rules(items(&role.rules), true, errors)),
    ..PLAIN
};
pub const CLUSTER_ROLE: Rules = Rules {
    name: names::path_segment,
    create_on_update: true,
    validate: |role| check(role, validate_cluster_role),
    validate_update: |role, _| check(role, validate_cluster_role),
    ..PLAIN
};
pub const ROLE_BINDING: Rules = Rules {
    name: names::path_segment,
    create_on_update: true,
    default: default_binding,
    validate: |binding| check(binding, validate_role_binding),
    validate_update: |new, old| with_frozen_reference(new, old, check(new, validate_role_binding)),
    ..PLAIN
};
pub const CLUSTER_ROLE_BINDING: Rules = Rules {
    name: names::path_segment,
    create_on_update: true,
    default: default_binding,
    validate: |binding| check(binding, validate_cluster_role_binding),
    validate_update: |new, old| with_frozen_reference(new, old, check(new, validate_cluster_role_binding)),
    ..PLAIN
};

fn default_binding(binding: &mut Value) {
    if let Some(reference) = field(binding, "roleRef") {
        fill_text(reference, "apiGroup", GROUP);
    }
    for subject in each(binding, "subjects") {
        match text(subject, "kind") {
            "User" | "Group" => fill_text(subject, "apiGroup", GROUP),
            _ => {}
        }
    }
}

fn with_frozen_reference(new: &Value, old: &Value, rest: Vec<FieldError>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    if new.get("roleRef") != old.get("roleRef") {
        errors.invalid(&Path::root("roleRef"), &new["roleRef"], "cannot change roleRef");
    }
    errors.0.extend(rest);
    errors.0
}

fn validate_cluster_role(role: &ClusterRole, errors: &mut Errors) {
    rules(items(&role.rules), false, errors);
    let Some(aggregation) = &role.aggregation_rule else { return };
    let path = Path::root("aggregationRule.clusterRoleSelectors");
    if items(&aggregation.cluster_role_selectors).is_empty() {
        errors.required(&path, "at least one clusterRoleSelector required if aggregationRule is non-nil");
    }
    for (i, selector) in items(&aggregation.cluster_role_selectors).iter().enumerate() {
        label_selector(Some(selector), &path.index(i), errors);
    }
}

fn rules(rules: &[PolicyRule], is_namespaced: bool, errors: &mut Errors) {
    for (i, rule) in rules.iter().enumerate() {
        validate_rule(rule, is_namespaced, &Path::root("rules").index(i), errors);
    }
}

fn validate_rule(rule: &PolicyRule, is_namespaced: bool, path: &Path, errors: &mut Errors) {
    if rule.verbs.is_empty() {
        errors.required(&path.field("verbs"), "verbs must contain at least one value");
    }
    let urls = items(&rule.non_resource_urls);
    if !urls.is_empty() {
        let path = path.field("nonResourceURLs");
        if is_namespaced {
            errors.invalid(&path, urls, "namespaced rules cannot apply to non-resource URLs");
        }
        if !items(&rule.api_groups).is_empty()
            || !items(&rule.resources).is_empty()
            || !items(&rule.resource_names).is_empty()
        {
            errors.invalid(&path, urls, "rules cannot apply to both regular resources and non-resource URLs");
        }
        return;
    }
    if items(&rule.api_groups).is_empty() {
        errors.required(&path.field("apiGroups"), "resource rules must supply at least one api group");
    }
    if items(&rule.resources).is_empty() {
        errors.required(&path.field("resources"), "resource rules must supply at least one resource");
    }
}

fn validate_role_binding(binding: &RoleBinding, errors: &mut Errors) {
    role_reference(&binding.role_ref, &["Role", "ClusterRole"], errors);
    subjects(items(&binding.subjects), errors);
}

fn validate_cluster_role_binding(binding: &ClusterRoleBinding, errors: &mut Errors) {
    role_reference(&binding.role_ref, &["ClusterRole"], errors);
    subjects(items(&binding.subjects), errors);
}

fn role_reference(reference: &RoleRef, kinds: &[&str], errors: &mut Errors) {
    let path = Path::root("roleRef");
    let group = some_text(&reference.api_group);
    errors.one_of(&path.field("apiGroup"), group, &[GROUP]);
    errors.one_of(&path.field("kind"), &reference.kind, kinds);
    match reference.name.as_str() {
        "" => errors.required(&path.field("name"), ""),
        name => errors.invalid_all(&path.field("name"), name, names::path_segment(name)),
    }
}

fn subjects(subjects: &[Subject], errors: &mut Errors) {
    for (i, subject) in subjects.iter().enumerate() {
        validate_subject(subject, &Path::root("subjects").index(i), errors);
    }
}

fn validate_subject(subject: &Subject, path: &Path, errors: &mut Errors) {
    if subject.name.is_empty() {
        errors.required(&path.field("name"), "");
    }
    let group = some_text(&subject.api_group);
    match subject.kind.as_str() {
        "ServiceAccount" => {
            if !subject.name.is_empty() {
                errors.invalid_all(&path.field("name"), subject.name.as_str(), names::dns1123_subdomain(&subject.name));
            }
            if !group.is_empty() {
                errors.not_supported(&path.field("apiGroup"), group, &[""]);
            }
            if some_text(&subject.namespace).is_empty() {
                errors.required(&path.field("namespace"), "");
            }
        }
        "User" | "Group" => {
            if group != GROUP {
                errors.not_supported(&path.field("apiGroup"), group, &[GROUP]);
            }
        }
        kind => errors.not_supported(&path.field("kind"), kind, &["ServiceAccount", "User", "Group"]),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::rules::texts;

    #[test]
    fn rules_say_verbs_and_resources() {
        let role = json!({"rules": [{"apiGroups": [""]}]});
        assert_eq!(
            texts((ROLE.validate)(&role)),
            [
                "rules[0].verbs: Required value: verbs must contain at least one value",
                "rules[0].resources: Required value: resource rules must supply at least one resource"
            ]
        );
    }

    #[test]
    fn what_is_bound_stays() {
        let old = json!({"roleRef": {"kind": "Role", "name": "r", "apiGroup": GROUP}, "subjects": [{"kind": "User", "name": "u"}]});
        let mut new = old.clone();
        new["roleRef"]["name"] = json!("s");
        default_binding(&mut new);
        let errors = texts((ROLE_BINDING.validate_update)(&new, &old));
        assert_eq!(errors.len(), 1);
        assert!(errors[0].starts_with("roleRef: Invalid value: ") && errors[0].ends_with(": cannot change roleRef"));
    }
}
