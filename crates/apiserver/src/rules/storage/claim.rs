//! PersistentVolumeClaims.
//!
//! Source: pkg/registry/core/persistentvolumeclaim/strategy.go.

use serde_json::{Value, json};

use crate::rules::{
    PLAIN, Rules,
    edit::{canonical_amounts, child, copy, fill_text, is_present, set},
};

pub const RULES: Rules = Rules {
    default,
    prepare_create: |claim| set(claim, "status", json!({ "phase": "Pending" })),
    prepare_update: |new, old| {
        copy(new, old, "status");
        let old_source = old.pointer("/spec/dataSource");
        normalize_sources(child(new, "spec"), old_source.is_some());
    },
    returns_deleted: true,
    ..PLAIN
};

pub fn default(claim: &mut Value) {
    default_spec(child(claim, "spec"));
    let status = child(claim, "status");
    fill_text(status, "phase", "Pending");
    canonical_amounts(status, "capacity");
    canonical_amounts(status, "allocatedResources");
}

/// Also the spec of an ephemeral volume's template.
pub fn default_spec(spec: &mut Value) {
    fill_text(spec, "volumeMode", "Filesystem");
    let resources = child(spec, "resources");
    canonical_amounts(resources, "requests");
    canonical_amounts(resources, "limits");
    normalize_sources(spec, false);
}

/// `dataSource` and `dataSourceRef` say the same, unless the latter names another namespace.
fn normalize_sources(spec: &mut Value, keep: bool) {
    let names_namespace = spec.pointer("/dataSourceRef/namespace").and_then(Value::as_str).is_some_and(|n| !n.is_empty());
    match (is_present(spec, "dataSource"), is_present(spec, "dataSourceRef")) {
        (true, false) => {
            let source = spec["dataSource"].clone();
            set(spec, "dataSourceRef", source);
        }
        (false, true) if !names_namespace && !keep => {
            let source = spec["dataSourceRef"].clone();
            set(spec, "dataSource", source);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fills_what_is_not_said() {
        let mut claim = json!({"spec": {"resources": {"requests": {"storage": "0.5Gi"}}}});
        default(&mut claim);
        assert_eq!(
            claim,
            json!({"spec": {"resources": {"requests": {"storage": "512Mi"}}, "volumeMode": "Filesystem"},
                "status": {"phase": "Pending"}})
        );
    }
}
