//! PersistentVolumes.
//!
//! Source: pkg/registry/core/persistentvolume/strategy.go.

use api_types::{
    k8s::core::{PersistentVolume, PersistentVolumeSpec},
    names,
};
use serde_json::{Value, json};

use super::claim;
use crate::rules::{
    PLAIN, Rules, amounts, check, check_change,
    edit::{canonical_amounts, child, copy, fill_text, remove, set, text_at},
    path::{Errors, Path, items, text},
    pod::{
        affinity::node_selector,
        volume::{csi_driver, host_path, nfs},
    },
    warnings,
};

pub const RULES: Rules = Rules {
    default,
    prepare_create: |volume| set(volume, "status", json!({ "phase": "Pending" })),
    prepare_update: |new, old| copy(new, old, "status"),
    selectable: |volume| vec![("name", text_at(volume, "/metadata/name").to_owned())],
    selectable_names: &["name"],
    validate: |volume| check(volume, validate),
    validate_update: |new, old| check_change(new, old, validate_update),
    warnings: warnings::volume,
    returns_deleted: true,
    ..PLAIN
};

const SPEC: Path = Path::root("spec");
const RECLAIM_POLICIES: [&str; 3] = ["Delete", "Recycle", "Retain"];
/// Fields of the spec that are not where the volume lies.
const NOT_SOURCES: [&str; 10] = [
    "accessModes",
    "capacity",
    "claimRef",
    "mountOptions",
    "nodeAffinity",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "volumeMode",
    "volumeAttributesClassName",
    "status",
];

/// Source: `ValidatePersistentVolume` in pkg/apis/core/validation/validation.go.
fn validate(volume: &PersistentVolume, errors: &mut Errors) {
    let none = PersistentVolumeSpec::default();
    let spec = volume.spec.as_ref().unwrap_or(&none);
    claim::access_modes(items(&spec.access_modes), &SPEC.field("accessModes"), errors);
    let capacity_path = SPEC.field("capacity");
    let capacity = spec.capacity.clone().unwrap_or_default();
    if capacity.is_empty() {
        errors.required(&capacity_path, "");
    }
    if capacity.len() != 1 || !capacity.contains_key("storage") {
        errors.not_supported(&capacity_path, capacity.keys().collect::<Vec<_>>(), &["storage"]);
    }
    for (name, amount) in &capacity {
        let quantity = amounts::parse(amount);
        if quantity.is_zero() || quantity.is_negative() {
            errors.invalid(&capacity_path.key(name), quantity.to_string(), "must be greater than zero");
        }
    }
    if let Some(policy) = spec.persistent_volume_reclaim_policy.as_ref().filter(|policy| !policy.is_empty()) {
        errors.one_of(&SPEC.field("persistentVolumeReclaimPolicy"), policy, &RECLAIM_POLICIES);
    }
    if let Some(affinity) = &spec.node_affinity {
        match &affinity.required {
            None => errors.required(&SPEC.field("nodeAffinity.required"), "must specify required node constraints"),
            Some(selector) => node_selector(selector, &SPEC.field("nodeAffinity.required"), errors),
        }
    }
    source(spec, errors);
    if text(&spec.persistent_volume_reclaim_policy) == "Recycle"
        && spec.host_path.as_ref().is_some_and(|host| host.path.trim_end_matches('/').is_empty())
    {
        let detail = "may not be 'recycle' for a hostPath mount of '/'";
        errors.forbidden(&SPEC.field("persistentVolumeReclaimPolicy"), detail);
    }
    let class = text(&spec.storage_class_name);
    if !class.is_empty() {
        errors.invalid_all(&SPEC.field("storageClassName"), class, names::dns1123_subdomain(class));
    }
    if let Some(mode) = &spec.volume_mode {
        errors.one_of(&SPEC.field("volumeMode"), mode, &claim::VOLUME_MODES);
    }
}

fn source(spec: &PersistentVolumeSpec, errors: &mut Errors) {
    let fields = serde_json::to_value(spec).unwrap_or_default();
    let all = fields.as_object().into_iter().flatten().map(|(name, _)| name.as_str());
    let mut sources = all.filter(|name| !NOT_SOURCES.contains(name));
    let Some(first) = sources.next() else {
        return errors.required(&SPEC, "must specify a volume type");
    };
    for name in sources {
        errors.forbidden(&SPEC.field(name), "may not specify more than 1 volume type");
    }
    let path = SPEC.field(first);
    match first {
        "hostPath" => spec.host_path.iter().for_each(|source| host_path(source, &path, errors)),
        "nfs" => spec.nfs.iter().for_each(|source| nfs(source, &path, errors)),
        "local" => {
            if spec.local.as_ref().is_some_and(|local| local.path.is_empty()) {
                errors.required(&path.field("path"), "");
            }
            if spec.node_affinity.is_none() {
                errors.required(&SPEC.field("nodeAffinity"), "Local volume requires node affinity");
            }
        }
        "csi" => {
            if let Some(source) = &spec.csi {
                csi_driver(&source.driver, &path.field("driver"), errors);
                if source.volume_handle.is_empty() {
                    errors.required(&path.field("volumeHandle"), "");
                }
            }
        }
        _ => {}
    }
}

/// Where a volume lies never changes.
fn validate_update(new: &PersistentVolume, old: &PersistentVolume, errors: &mut Errors) {
    validate(new, errors);
    let (Some(after), Some(before)) = (&new.spec, &old.spec) else { return };
    let sources = |spec: &PersistentVolumeSpec| {
        let mut fields = serde_json::to_value(spec).unwrap_or_default();
        NOT_SOURCES.iter().for_each(|name| {
            remove(&mut fields, name);
        });
        fields
    };
    if sources(after) != sources(before) {
        errors.forbidden(
            &SPEC.field("persistentvolumesource"),
            "spec.persistentvolumesource is immutable after creation",
        );
    }
    errors.immutable(&SPEC.field("volumeMode"), &after.volume_mode, &before.volume_mode);
    if before.node_affinity.is_some() {
        errors.immutable(&SPEC.field("nodeAffinity"), &after.node_affinity, &before.node_affinity);
    }
}

fn default(volume: &mut Value) {
    fill_text(child(volume, "status"), "phase", "Pending");
    let spec = child(volume, "spec");
    fill_text(spec, "persistentVolumeReclaimPolicy", "Retain");
    fill_text(spec, "volumeMode", "Filesystem");
    canonical_amounts(spec, "capacity");
    super::default_source(spec);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::texts;

    #[test]
    fn volumes() {
        for (spec, errors) in [
            (
                json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/a"}}),
                &[][..],
            ),
            (
                json!({"capacity": {"storage": "1Gi"}, "hostPath": {"path": "/a"}, "nfs": {"server": "s", "path": "/"}}),
                &[
                    "spec.accessModes: Required value: at least 1 access mode is required",
                    "spec.nfs: Forbidden: may not specify more than 1 volume type",
                ],
            ),
            (
                json!({"accessModes": ["Any"], "capacity": {"storage": "1Gi"}}),
                &[
                    "spec.accessModes: Unsupported value: \"Any\": supported values: \"ReadOnlyMany\", \"ReadWriteMany\", \"ReadWriteOnce\", \"ReadWriteOncePod\"",
                    "spec: Required value: must specify a volume type",
                ],
            ),
        ] {
            let mut volume = json!({ "spec": spec });
            default(&mut volume);
            assert_eq!(texts((RULES.validate)(&volume)), errors);
        }
    }

    #[test]
    fn a_volume_stays_where_it_is() {
        let volume = |path: &str| json!({"spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "hostPath": {"path": path, "type": ""}}});
        assert_eq!(
            texts((RULES.validate_update)(&volume("/b"), &volume("/a"))),
            ["spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation"]
        );
    }
}
