//! Namespaces: active with the server's finalizer, and emptied before they go.
//!
//! Source: pkg/registry/core/namespace/strategy.go.

use api_types::{FieldError, k8s::core::Namespace, names};
use serde_json::{Value, json};

use super::{
    PLAIN, Rules, check_change,
    edit::{child, copy, fill_text, list, remove, set, text, text_at},
    meta::finalizer_name,
    path::{Errors, Path},
};

/// Kept until the namespace controller has deleted everything in the namespace.
pub const FINALIZER: &str = "kubernetes";
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

pub const RULES: Rules = Rules {
    default,
    prepare_create,
    prepare_update,
    name: names::dns1123_label,
    validate,
    validate_update: |new, _| validate(new),
    validate_status_update: |new, old| check_change(new, old, validate_status),
    selectable: |namespace| {
        vec![
            ("name", text_at(namespace, "/metadata/name").to_owned()),
            ("status.phase", text_at(namespace, "/status/phase").to_owned()),
        ]
    },
    selectable_names: &["name", "status.phase"],
    is_held: |namespace| namespace.get("spec").is_some_and(|spec| !list(spec, "finalizers").is_empty()),
    mark_deleted: terminate,
    ..PLAIN
};

fn validate(namespace: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    for finalizer in namespace.get("spec").map(|spec| list(spec, "finalizers")).unwrap_or_default() {
        let finalizer = finalizer.as_str().unwrap_or_default();
        finalizer_name(finalizer, &Path::root("spec.finalizers"), &mut errors);
    }
    errors.0
}

/// Source: `ValidateNamespaceStatusUpdate` in pkg/apis/core/validation.
fn validate_status(new: &Namespace, _: &Namespace, errors: &mut Errors) {
    let phase = new.status.as_ref().and_then(|status| status.phase.as_deref());
    let path = Path::root("status.phase");
    match (new.metadata.deletion_timestamp.is_some(), phase) {
        (true, Some("Terminating")) | (false, Some("Active")) => {}
        (true, phase) => errors.invalid(&path, phase, "may only be 'Terminating' if `deletionTimestamp` is not empty"),
        (false, phase) => errors.invalid(&path, phase, "may only be 'Active' if `deletionTimestamp` is empty"),
    }
}

fn default(namespace: &mut Value) {
    fill_text(child(namespace, "status"), "phase", "Active");
    child(namespace, "spec");
    let name = text_at(namespace, "/metadata/name").to_owned();
    if !name.is_empty() {
        set(child(child(namespace, "metadata"), "labels"), NAME_LABEL, name);
    }
}

fn prepare_create(namespace: &mut Value) {
    set(namespace, "status", json!({ "phase": "Active" }));
    let spec = child(namespace, "spec");
    if !list(spec, "finalizers").iter().any(|finalizer| finalizer == FINALIZER) {
        let mut finalizers = list(spec, "finalizers").to_vec();
        finalizers.push(FINALIZER.into());
        set(spec, "finalizers", finalizers);
    }
    default(namespace);
}

/// Finalizers change only through /finalize.
fn prepare_update(new: &mut Value, old: &Value) {
    copy(new, old, "status");
    copy(new, old, "spec");
}

/// What /finalize may write: the finalizers of the spec.
pub fn prepare_finalize(new: &mut Value, old: &Value) {
    copy(new, old, "status");
}

/// What a delete makes of a namespace that still holds finalizers.
fn terminate(namespace: &mut Value) {
    let status = child(namespace, "status");
    if text(status, "phase") != "Terminating" {
        set(status, "phase", "Terminating");
    }
    remove(child(namespace, "metadata"), "deletionGracePeriodSeconds");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_namespace_is_active_and_held() {
        let mut namespace = json!({"metadata": {"name": "n"}, "status": {"phase": "Terminating"}});
        prepare_create(&mut namespace);
        assert_eq!(
            namespace,
            json!({"metadata": {"name": "n", "labels": {"kubernetes.io/metadata.name": "n"}},
                "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}})
        );
    }
}
