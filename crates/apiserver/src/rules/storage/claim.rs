//! PersistentVolumeClaims.
//!
//! Source: pkg/registry/core/persistentvolumeclaim/strategy.go.

use api_types::{
    k8s::core::{PersistentVolumeClaim, PersistentVolumeClaimSpec},
    names,
};
use serde_json::{Value, json};

use crate::rules::{
    PLAIN, Rules, amounts, check, check_change,
    edit::{canonical_amounts, child, copy, fill_text, is_present, set},
    path::{Errors, Path, items, text},
    selector::label_selector,
    status, warnings,
};

pub const RULES: Rules = Rules {
    default,
    prepare_create: |claim| set(claim, "status", json!({ "phase": "Pending" })),
    prepare_update: |new, old| {
        copy(new, old, "status");
        let old_source = old.pointer("/spec/dataSource");
        normalize_sources(child(new, "spec"), old_source.is_some());
    },
    validate: |claim| {
        check(claim, |claim: &PersistentVolumeClaim, errors| {
            let none = PersistentVolumeClaimSpec::default();
            validate_spec(claim.spec.as_ref().unwrap_or(&none), &SPEC, errors);
        })
    },
    validate_update: |new, old| check_change(new, old, validate_update),
    validate_status_update: status::claim,
    warnings: warnings::claim,
    returns_deleted: true,
    ..PLAIN
};

const SPEC: Path = Path::root("spec");

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

/// Also the spec of an ephemeral volume's template.
///
/// Source: `ValidatePersistentVolumeClaimSpec` in pkg/apis/core/validation/validation.go.
pub fn validate_spec(spec: &PersistentVolumeClaimSpec, path: &Path, errors: &mut Errors) {
    access_modes(items(&spec.access_modes), &path.field("accessModes"), errors);
    label_selector(spec.selector.as_ref(), &path.field("selector"), errors);
    let requests = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    let storage_path = path.field("resources");
    match requests.and_then(|requests| requests.get("storage")) {
        None => errors.required(&storage_path.key("storage"), ""),
        Some(storage) => {
            let quantity = amounts::parse(storage);
            if quantity.is_zero() || quantity.is_negative() {
                errors.invalid(&storage_path.key("storage"), quantity.to_string(), "must be greater than zero");
            }
        }
    }
    for (field, name) in [
        ("storageClassName", &spec.storage_class_name),
        ("volumeAttributesClassName", &spec.volume_attributes_class_name),
    ] {
        if !text(name).is_empty() {
            errors.invalid_all(&path.field(field), text(name), names::dns1123_subdomain(text(name)));
        }
    }
    if let Some(mode) = &spec.volume_mode {
        errors.one_of(&path.field("volumeMode"), mode, &VOLUME_MODES);
    }
    data_source(spec, path, errors);
}

/// A claim may be bound, and grow once it is; the rest stays.
fn validate_update(new: &PersistentVolumeClaim, old: &PersistentVolumeClaim, errors: &mut Errors) {
    let none = PersistentVolumeClaimSpec::default();
    let (after, before) = (new.spec.as_ref().unwrap_or(&none), old.spec.as_ref().unwrap_or(&none));
    validate_spec(after, &SPEC, errors);
    let is_bound = old.status.as_ref().is_some_and(|status| text(&status.phase) == "Bound");
    let mut munged = after.clone();
    if text(&before.volume_name).is_empty() {
        munged.volume_name.clone_from(&before.volume_name);
    }
    let storage = |spec: &PersistentVolumeClaimSpec| {
        spec.resources.as_ref()?.requests.as_ref()?.get("storage").map(amounts::parse)
    };
    if is_bound {
        munged.resources.clone_from(&before.resources);
        // A growth that failed may be taken back, down to what is there.
        let capacity = old.status.as_ref().and_then(|status| status.capacity.as_ref()?.get("storage"));
        let floor = capacity.map(amounts::parse).or(storage(before));
        if storage(after) < floor {
            errors.forbidden(&SPEC.field("resources.requests.storage"), "field can not be less than status.capacity");
        }
        munged.volume_attributes_class_name.clone_from(&before.volume_attributes_class_name);
    }
    if text(&before.storage_class_name).is_empty() && before.storage_class_name.is_none() {
        // A claim that was made before there was a default class gets it later.
        munged.storage_class_name = None;
    }
    if munged != *before {
        errors.forbidden(
            &SPEC,
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims",
        );
    }
}

pub const VOLUME_MODES: [&str; 2] = ["Block", "Filesystem"];
const ACCESS_MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

/// Also of a PersistentVolume.
pub fn access_modes(modes: &[String], path: &Path, errors: &mut Errors) {
    if modes.is_empty() {
        errors.required(path, "at least 1 access mode is required");
    }
    for mode in modes {
        errors.one_of(path, mode, &ACCESS_MODES);
    }
    if modes.len() > 1 && modes.iter().any(|mode| mode == "ReadWriteOncePod") {
        errors.forbidden(path, "may not use ReadWriteOncePod with other access modes");
    }
}

fn data_source(spec: &PersistentVolumeClaimSpec, path: &Path, errors: &mut Errors) {
    if let Some(source) = &spec.data_source {
        let path = path.field("dataSource");
        for (field, value) in [("name", &source.name), ("kind", &source.kind)] {
            if value.is_empty() {
                errors.required(&path.field(field), "");
            }
        }
        if text(&source.api_group).is_empty() && source.kind != "PersistentVolumeClaim" {
            errors.invalid(
                &path,
                &source.kind,
                "must be 'PersistentVolumeClaim' when referencing the default apiGroup",
            );
        }
    }
    let Some(reference) = &spec.data_source_ref else { return };
    let reference_path = path.field("dataSourceRef");
    for (field, value) in [("name", &reference.name), ("kind", &reference.kind)] {
        if value.is_empty() {
            errors.required(&reference_path.field(field), "");
        }
    }
    if let Some(source) = &spec.data_source
        && (source.name != reference.name || source.kind != reference.kind || source.api_group != reference.api_group)
    {
        errors.invalid(path, &reference.name, "must match dataSourceRef");
    }
}

/// `dataSource` and `dataSourceRef` say the same, unless the latter names another namespace.
fn normalize_sources(spec: &mut Value, keep: bool) {
    let names_namespace =
        spec.pointer("/dataSourceRef/namespace").and_then(Value::as_str).is_some_and(|n| !n.is_empty());
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

    #[test]
    fn bound_claims_grow() {
        let claim = |size: &str, phase: &str| {
            let mut claim = json!({"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}},
                "status": {"phase": phase, "capacity": {"storage": "2Gi"}}});
            default(&mut claim);
            claim
        };
        let refused = |new: &str, old: &str, phase: &str| {
            crate::rules::texts((RULES.validate_update)(&claim(new, phase), &claim(old, phase)))
        };
        assert_eq!(refused("5Gi", "3Gi", "Bound"), [""; 0]);
        assert_eq!(refused("2Gi", "3Gi", "Bound"), [""; 0]);
        assert_eq!(
            refused("1Gi", "3Gi", "Bound"),
            ["spec.resources.requests.storage: Forbidden: field can not be less than status.capacity"]
        );
        assert_eq!(
            refused("5Gi", "3Gi", "Pending"),
            [
                "spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims"
            ]
        );
    }
}
