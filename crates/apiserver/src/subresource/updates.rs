//! Subresources that write their parent object, each only the part that is theirs.

use api_types::FieldError;
use serde_json::{Value, json};

use crate::{
    rules,
    verbs::{create::now, hook::UpdateRules},
};

pub const FINALIZE: UpdateRules =
    UpdateRules { prepare: rules::namespace::prepare_finalize, validate: |_, _| Vec::new() };
pub const EPHEMERAL_CONTAINERS: UpdateRules =
    UpdateRules { prepare: rules::pod::prepare_ephemeral_containers, validate: ephemeral_containers_only_grow };
pub const RESIZE: UpdateRules = UpdateRules { prepare: rules::pod::prepare_resize, validate: may_be_resized };
pub const APPROVAL: UpdateRules = UpdateRules { prepare: take_conditions, validate: conditions_only_grow };

/// Source: `ValidatePodEphemeralContainersUpdate` in kubernetes/pkg/apis/core/validation.
fn ephemeral_containers_only_grow(new: &Value, old: &Value) -> Vec<FieldError> {
    let field = "spec.ephemeralContainers";
    let (new, old) = (items(&new["spec"]["ephemeralContainers"]), items(&old["spec"]["ephemeralContainers"]));
    let mut errors = Vec::new();
    for before in old {
        let name = before["name"].as_str().unwrap_or_default();
        match new.iter().find(|container| container["name"] == before["name"]) {
            None => {
                let why = format!("existing ephemeral containers {name:?} may not be removed\n");
                errors.push(FieldError::forbidden(field, why));
            }
            Some(now) if now != before => {
                let why = format!("existing ephemeral containers {name:?} may not be changed\n");
                errors.push(FieldError::forbidden(field, why));
            }
            Some(_) => {}
        }
    }
    for (at, container) in new.iter().enumerate() {
        for required in ["name", "image"] {
            if container[required].as_str().unwrap_or_default().is_empty() {
                errors.push(FieldError::required(format!("{field}[{at}].{required}"), ""));
            }
        }
        if new[..at].iter().any(|other| other["name"] == container["name"]) {
            errors.push(FieldError::duplicate(format!("{field}[{at}].name"), &container["name"]));
        }
    }
    errors
}

/// Source: `ValidatePodResize` in kubernetes/pkg/apis/core/validation.
fn may_be_resized(new: &Value, old: &Value) -> Vec<FieldError> {
    let phase = old["status"]["phase"].as_str().unwrap_or_default();
    let mut errors = Vec::new();
    if matches!(phase, "Succeeded" | "Failed") {
        errors.push(FieldError::forbidden("", "resize is not supported for pods that are finished"));
    }
    if old["status"]["qosClass"].is_string() && rules::pod::qos_class(new) != old["status"]["qosClass"] {
        errors.push(FieldError::invalid(
            "spec",
            rules::pod::qos_class(new),
            "Pod QOS Class may not change as a result of resizing",
        ));
    }
    errors
}

/// Approval writes conditions and nothing else. The time is the one thing that these rules read
/// from outside: the server, not the approver, says when.
///
/// Source: `csrApprovalStrategy` in kubernetes/pkg/registry/certificates/certificates.
fn take_conditions(new: &mut Value, old: &Value) {
    let mut conditions = new["status"]["conditions"].take();
    let at = now();
    for condition in conditions.as_array_mut().into_iter().flatten() {
        if condition["lastUpdateTime"].is_null() {
            condition["lastUpdateTime"] = json!(at);
        }
        if condition["lastTransitionTime"].is_null() {
            condition["lastTransitionTime"] = json!(at);
        }
    }
    *new = old.clone();
    if conditions.is_array() {
        new["status"]["conditions"] = conditions;
    }
}

/// Source: `ValidateCertificateSigningRequestApprovalUpdate` in kubernetes/pkg/apis/certificates/validation.
fn conditions_only_grow(new: &Value, old: &Value) -> Vec<FieldError> {
    let field = "status.conditions";
    let of_type = |object: &Value, wanted: &str| -> Vec<Value> {
        items(&object["status"]["conditions"]).iter().filter(|condition| condition["type"] == wanted).cloned().collect()
    };
    let mut errors = Vec::new();
    for kind in ["Approved", "Denied", "Failed"] {
        let (after, before) = (of_type(new, kind), of_type(old, kind));
        if after.len() < before.len() {
            errors.push(FieldError::forbidden(field, format!("updates may not remove a condition of type {kind:?}")));
        } else if kind == "Failed" && after.len() > before.len() {
            errors.push(FieldError::forbidden(field, format!("updates may not add a condition of type {kind:?}")));
        } else if !before.is_empty() && after[..before.len()] != before[..] {
            errors.push(FieldError::forbidden(field, format!("updates may not modify a condition of type {kind:?}")));
        }
        if kind != "Failed" && after.iter().any(|condition| condition["status"] != "True") {
            errors.push(FieldError::not_supported(format!("{field}.status"), &after[0]["status"], &["True"]));
        }
    }
    if !of_type(new, "Approved").is_empty() && !of_type(new, "Denied").is_empty() {
        errors.push(FieldError::invalid(field, "Denied", "Approved and Denied conditions are mutually exclusive"));
    }
    errors
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn csr(conditions: &[(&str, &str)]) -> Value {
        let conditions: Vec<Value> = conditions
            .iter()
            .map(|(kind, message)| json!({"type": kind, "status": "True", "message": message}))
            .collect();
        json!({"spec": {"request": "a"}, "status": {"conditions": conditions}})
    }

    #[test]
    fn approvals_are_appended() {
        for (old, new, refusals) in [
            (csr(&[]), csr(&[("Approved", "")]), 0),
            (csr(&[("Approved", "")]), csr(&[("Approved", "")]), 0),
            (csr(&[("Approved", "")]), csr(&[]), 1),
            (csr(&[("Approved", "")]), csr(&[("Approved", "other")]), 1),
            (csr(&[("Approved", "")]), csr(&[("Approved", ""), ("Denied", "")]), 1),
            (csr(&[]), csr(&[("Failed", "")]), 1),
        ] {
            assert_eq!(conditions_only_grow(&new, &old).len(), refusals, "{old} to {new}");
        }
    }

    #[test]
    fn approval_changes_conditions_alone() {
        let old = csr(&[]);
        let mut new = csr(&[("Approved", "")]);
        new["spec"]["request"] = json!("b");
        new["status"]["certificate"] = json!("c");
        take_conditions(&mut new, &old);
        assert_eq!(new["spec"], old["spec"]);
        assert!(new["status"]["certificate"].is_null() && new["status"]["conditions"][0]["lastUpdateTime"].is_string());
    }

    #[test]
    fn ephemeral_containers() {
        let pod = |containers: Value| json!({"spec": {"ephemeralContainers": containers}});
        let one = json!([{"name": "a", "image": "x"}]);
        let two = json!([{"name": "a", "image": "x"}, {"name": "b", "image": "y"}]);
        for (old, new, refusals) in [
            (json!([]), one.clone(), 0),
            (one.clone(), two.clone(), 0),
            (two, one.clone(), 1),
            (one.clone(), json!([{"name": "a", "image": "z"}]), 1),
            (json!([]), json!([{"name": "a"}]), 1),
            (json!([]), json!([{"name": "a", "image": "x"}, {"name": "a", "image": "x"}]), 1),
        ] {
            assert_eq!(
                ephemeral_containers_only_grow(&pod(new.clone()), &pod(old.clone())).len(),
                refusals,
                "{old} to {new}"
            );
        }
    }
}
