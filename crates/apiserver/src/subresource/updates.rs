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
    UpdateRules { prepare: rules::pod::prepare_ephemeral_containers, validate: rules::pod::update::validate_ephemeral };
pub const RESIZE: UpdateRules =
    UpdateRules { prepare: rules::pod::prepare_resize, validate: rules::pod::update::validate_resize };
pub const APPROVAL: UpdateRules = UpdateRules { prepare: take_conditions, validate: conditions_only_grow };

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
}
