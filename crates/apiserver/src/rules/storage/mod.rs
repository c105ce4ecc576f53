//! Volumes and what provides them: claims, volumes, classes, CSI drivers.
//!
//! Source: pkg/apis/storage/v1/defaults.go, pkg/apis/storage/validation/validation.go.

use std::collections::BTreeSet;

use api_types::{
    k8s::storage::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment, VolumeAttributesClass},
    names,
};
use serde_json::Value;

use super::{
    PLAIN, Rules, check, check_change,
    edit::{child, copy, field, fill, fill_text, list, set},
    path::{Errors, Path, items, text},
    pod::volume::csi_driver,
};

pub mod claim;
pub mod volume;

const SPEC: Path = Path::root("spec");
const PARAMETERS_MAX: usize = 512;
const PARAMETERS_MAX_BYTES: usize = 256 * 1024;
const NODE_ID_MAX: usize = 192;

pub const STORAGE_CLASS: Rules = Rules {
    default: |class| {
        fill_text(class, "reclaimPolicy", "Delete");
        fill_text(class, "volumeBindingMode", "Immediate");
    },
    validate: |class| check(class, storage_class),
    validate_update: |new, old| check_change(new, old, storage_class_update),
    returns_deleted: true,
    ..PLAIN
};

pub const VOLUME_ATTRIBUTES_CLASS: Rules = Rules {
    validate: |class| {
        check(class, |class: &VolumeAttributesClass, errors| {
            provisioner(&class.driver_name, &Path::root("driverName"), errors);
        })
    },
    validate_update: |new, old| {
        check_change(new, old, |new: &VolumeAttributesClass, old, errors| {
            errors.immutable(&Path::root("driverName"), &new.driver_name, &old.driver_name);
            errors.immutable(&Path::root("parameters"), &new.parameters, &old.parameters);
        })
    },
    ..PLAIN
};

pub const CSI_DRIVER: Rules = Rules {
    default: default_driver,
    validate: |driver| check(driver, driver_rules),
    validate_update: |new, old| check_change(new, old, driver_update),
    unconditional_update: false,
    returns_deleted: true,
    ..PLAIN
};

pub const CSI_NODE: Rules = Rules {
    validate: |node| check(node, csi_node),
    validate_update: |node, _| check(node, csi_node),
    unconditional_update: false,
    returns_deleted: true,
    ..PLAIN
};

pub const CSI_STORAGE_CAPACITY: Rules = Rules {
    validate: |capacity| {
        check(capacity, |capacity: &CSIStorageCapacity, errors| {
            let class = capacity.storage_class_name.as_str();
            errors.invalid_all(&Path::root("storageClassName"), class, names::dns1123_subdomain(class));
        })
    },
    validate_update: |new, old| {
        check_change(new, old, |new: &CSIStorageCapacity, old, errors| {
            errors.immutable(&Path::root("nodeTopology"), &new.node_topology, &old.node_topology);
            errors.immutable(&Path::root("storageClassName"), &new.storage_class_name, &old.storage_class_name);
        })
    },
    ..PLAIN
};

pub const VOLUME_ATTACHMENT: Rules = Rules {
    default: |attachment| fill(child(attachment, "status"), "attached", false),
    prepare_create: |attachment| set(attachment, "status", serde_json::json!({ "attached": false })),
    prepare_update: |new, old| copy(new, old, "status"),
    validate: |attachment| {
        check(attachment, |attachment: &VolumeAttachment, errors| {
            csi_driver(&attachment.spec.attacher, &SPEC.field("attacher"), errors);
            if attachment.spec.node_name.is_empty() {
                errors.required(&SPEC.field("nodeName"), "");
            }
            let source = &attachment.spec.source;
            match (&source.inline_volume_spec, &source.persistent_volume_name) {
                (None, None) => {
                    let detail = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
                    errors.required(&SPEC.field("source"), detail);
                }
                (Some(_), Some(_)) => {
                    let detail = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
                    errors.forbidden(&SPEC.field("source"), detail);
                }
                (Some(_), None) | (None, Some(_)) => {}
            }
        })
    },
    validate_update: |new, old| {
        check_change(new, old, |new: &VolumeAttachment, old, errors| {
            errors.immutable(&SPEC, &new.spec, &old.spec);
        })
    },
    unconditional_update: false,
    returns_deleted: true,
    ..PLAIN
};

fn default_driver(driver: &mut Value) {
    let spec = child(driver, "spec");
    for (name, default) in [
        ("attachRequired", true),
        ("podInfoOnMount", false),
        ("storageCapacity", false),
        ("requiresRepublish", false),
        ("seLinuxMount", false),
    ] {
        fill(spec, name, default);
    }
    fill_text(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
    if list(spec, "volumeLifecycleModes").is_empty() {
        set(spec, "volumeLifecycleModes", vec!["Persistent"]);
    }
}

/// `iscsi` and its like have the same defaults wherever they stand.
fn default_source(spec: &mut Value) {
    if let Some(path) = field(spec, "hostPath") {
        fill(path, "type", "");
    }
    super::pod::default::default_network_disk(spec);
}

fn storage_class(class: &StorageClass, errors: &mut Errors) {
    provisioner(&class.provisioner, &Path::root("provisioner"), errors);
    let parameters = class.parameters.iter().flatten();
    let (count, size) =
        parameters.clone().fold((0, 0), |(count, size), (key, value)| (count + 1, size + key.len() + value.len()));
    let path = Path::root("parameters");
    if count > PARAMETERS_MAX {
        errors.too_long(&path, PARAMETERS_MAX);
    }
    if parameters.clone().any(|(key, _)| key.is_empty()) {
        errors.invalid(&path, "", "field can not be empty.");
    }
    if size > PARAMETERS_MAX_BYTES {
        errors.too_long(&path, PARAMETERS_MAX_BYTES);
    }
    let policy = text(&class.reclaim_policy);
    if !policy.is_empty() {
        errors.one_of(&Path::root("reclaimPolicy"), policy, &["Delete", "Retain"]);
    }
    let modes = ["Immediate", "WaitForFirstConsumer"];
    errors.required_one_of(&Path::root("volumeBindingMode"), text(&class.volume_binding_mode), &modes);
}

fn provisioner(name: &str, path: &Path, errors: &mut Errors) {
    match name {
        "" => errors.required(path, ""),
        name => errors.invalid_all(path, name, names::qualified_name(&name.to_lowercase())),
    }
}

fn storage_class_update(new: &StorageClass, old: &StorageClass, errors: &mut Errors) {
    storage_class(new, errors);
    if new.parameters != old.parameters {
        errors.forbidden(&Path::root("parameters"), "updates to parameters are forbidden.");
    }
    if new.provisioner != old.provisioner {
        errors.forbidden(&Path::root("provisioner"), "updates to provisioner are forbidden.");
    }
    errors.immutable(&Path::root("reclaimPolicy"), &new.reclaim_policy, &old.reclaim_policy);
    errors.immutable(&Path::root("volumeBindingMode"), &new.volume_binding_mode, &old.volume_binding_mode);
}

fn driver_rules(driver: &CSIDriver, errors: &mut Errors) {
    csi_driver(text(&driver.metadata.name), &Path::root("metadata.name"), errors);
    if let Some(policy) = &driver.spec.fs_group_policy {
        errors.one_of(&SPEC.field("fsGroupPolicy"), policy, &["File", "None", "ReadWriteOnceWithFSType"]);
    }
    for mode in items(&driver.spec.volume_lifecycle_modes) {
        errors.one_of(&SPEC.field("volumeLifecycleModes"), mode, &["Ephemeral", "Persistent"]);
    }
}

fn driver_update(new: &CSIDriver, old: &CSIDriver, errors: &mut Errors) {
    driver_rules(new, errors);
    errors.immutable(&SPEC.field("attachRequired"), &new.spec.attach_required, &old.spec.attach_required);
    errors.immutable(
        &SPEC.field("volumeLifecycleModes"),
        &new.spec.volume_lifecycle_modes,
        &old.spec.volume_lifecycle_modes,
    );
}

fn csi_node(node: &CSINode, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for (i, driver) in node.spec.drivers.iter().enumerate() {
        let path = SPEC.field("drivers");
        let path = path.index(i);
        csi_driver(&driver.name, &path.field("name"), errors);
        match driver.node_id.len() {
            0 => errors.required(&path.field("nodeID"), ""),
            long if long > NODE_ID_MAX => {
                errors.invalid(
                    &path.field("nodeID"),
                    &driver.node_id,
                    format!("must be {NODE_ID_MAX} characters or less"),
                );
            }
            _ => {}
        }
        for key in items(&driver.topology_keys) {
            errors.invalid_all(&path.field("topologyKeys"), key.as_str(), names::qualified_name(key));
        }
        if !seen.insert(&driver.name) {
            errors.duplicate(&path.field("name"), &driver.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::rules::texts;

    #[test]
    fn classes() {
        let mut class = json!({"metadata": {"name": "c"}, "provisioner": "x.y/z"});
        (STORAGE_CLASS.default)(&mut class);
        assert_eq!(class["reclaimPolicy"], "Delete");
        assert_eq!(texts((STORAGE_CLASS.validate)(&class)), [""; 0]);
        let mut new = class.clone();
        new["provisioner"] = json!("a/b");
        assert_eq!(
            texts((STORAGE_CLASS.validate_update)(&new, &class)),
            ["provisioner: Forbidden: updates to provisioner are forbidden."]
        );
    }
}
