//! Volumes and what provides them: claims, volumes, classes, CSI drivers.
//!
//! Source: pkg/apis/storage/v1/defaults.go, pkg/apis/storage/validation/validation.go.

use std::collections::{BTreeMap, BTreeSet};

use api_types::{
    k8s::storage::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment, VolumeAttributesClass},
    names,
};
use serde_json::Value;

use super::{
    PLAIN, Rules, amounts, check, check_change,
    edit::{child, copy, field, fill, fill_text, list, next_generation, set},
    facts::frozen,
    path::{Errors, IMMUTABLE, NOT_NEGATIVE, Path, items, text},
    pod::volume::csi_driver,
    selector::label_selector,
    warnings,
};

pub mod claim;
pub mod volume;

const SPEC: Path = Path::root("spec");
const PARAMETERS_MAX: usize = 512;
const PARAMETERS_MAX_BYTES: usize = 256 * 1024;
const NODE_ID_MAX: usize = 192;
const TOKEN_MIN_S: i64 = 10 * 60;
const UPDATE_PERIOD_MIN_S: i64 = 10;

pub const STORAGE_CLASS: Rules = Rules {
    default: |class| {
        fill_text(class, "reclaimPolicy", "Delete");
        fill_text(class, "volumeBindingMode", "Immediate");
    },
    validate: |class| check(class, storage_class),
    validate_update: |new, old| check_change(new, old, storage_class_update),
    warnings: warnings::storage_class,
    returns_deleted: true,
    ..PLAIN
};

pub const VOLUME_ATTRIBUTES_CLASS: Rules = Rules {
    validate: |class| {
        check(class, |class: &VolumeAttributesClass, errors| {
            provisioner(&class.driver_name, &Path::root("driverName"), errors);
            if class.parameters.as_ref().is_none_or(|parameters| parameters.is_empty()) {
                errors.required(&Path::root("parameters"), "must contain at least one key/value pair");
            }
            parameters(class.parameters.as_ref(), errors);
        })
    },
    validate_update: |new, old| frozen(new, old, &["driverName", "parameters"]),
    ..PLAIN
};

pub const CSI_DRIVER: Rules = Rules {
    default: default_driver,
    prepare_update: |new, old| {
        // What a kubelet does for a driver has changed.
        let mutable = |driver: &Value| {
            ["tokenRequests", "requiresRepublish", "seLinuxMount", "podInfoOnMount", "fsGroupPolicy", "storageCapacity"]
                .map(|field| driver["spec"].get(field).cloned())
        };
        let changed = mutable(new) != mutable(old);
        next_generation(new, old, changed);
    },
    validate: |driver| check(driver, driver_rules),
    validate_update: |new, old| check_change(new, old, driver_update),
    unconditional_update: false,
    returns_deleted: true,
    ..PLAIN
};

pub const CSI_NODE: Rules = Rules {
    validate: |node| check(node, csi_node),
    validate_update: |new, old| check_change(new, old, csi_node_update),
    unconditional_update: false,
    returns_deleted: true,
    ..PLAIN
};

pub const CSI_STORAGE_CAPACITY: Rules = Rules {
    validate: |capacity| {
        check(capacity, |capacity: &CSIStorageCapacity, errors| {
            let class = capacity.storage_class_name.as_str();
            errors.invalid_all(&Path::root("storageClassName"), class, names::dns1123_subdomain(class));
            label_selector(capacity.node_topology.as_ref(), &Path::root("nodeTopology"), errors);
            for (field, amount) in
                [("capacity", &capacity.capacity), ("maximumVolumeSize", &capacity.maximum_volume_size)]
            {
                if let Some(amount) = amount.as_ref().map(amounts::parse).filter(|amount| amount.is_negative()) {
                    errors.invalid(&Path::root(field), amount.to_string(), NOT_NEGATIVE);
                }
            }
        })
    },
    validate_update: |new, old| frozen(new, old, &["nodeTopology", "storageClassName"]),
    unconditional_update: false,
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
                (None, Some(name)) if name.is_empty() => {
                    errors.required(
                        &SPEC.field("source.persistentVolumeName"),
                        "must specify non empty persistentVolumeName",
                    );
                }
                (Some(_), None) | (None, Some(_)) => {}
            }
        })
    },
    validate_update: |new, old| frozen(new, old, &["spec"]),
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
    parameters(class.parameters.as_ref(), errors);
    let terms = Path::root("allowedTopologies");
    for (i, term) in items(&class.allowed_topologies).iter().enumerate() {
        let path = terms.index(i);
        let path = path.field("matchLabelExpressions");
        for (j, requirement) in items(&term.match_label_expressions).iter().enumerate() {
            let path = path.index(j);
            if requirement.values.is_empty() {
                errors.required(&path.field("values"), "");
            }
            for (k, value) in
                requirement.values.iter().enumerate().filter(|(k, v)| requirement.values[..*k].contains(v))
            {
                errors.duplicate(&path.field("values").index(k), value);
            }
            errors.invalid_all(&path.field("key"), requirement.key.as_str(), names::label_key(&requirement.key));
        }
    }
    let policy = text(&class.reclaim_policy);
    if !policy.is_empty() {
        errors.one_of(&Path::root("reclaimPolicy"), policy, &["Delete", "Retain"]);
    }
    let modes = ["Immediate", "WaitForFirstConsumer"];
    errors.required_one_of(&Path::root("volumeBindingMode"), text(&class.volume_binding_mode), &modes);
}

fn parameters(parameters: Option<&BTreeMap<String, String>>, errors: &mut Errors) {
    let parameters = parameters.into_iter().flatten();
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
    if let Some(period_s) = driver.spec.node_allocatable_update_period_seconds.filter(|s| *s < UPDATE_PERIOD_MIN_S) {
        let detail = format!("must be greater than or equal to {UPDATE_PERIOD_MIN_S} seconds");
        errors.invalid(&SPEC.field("nodeAllocatableUpdatePeriodSeconds"), period_s, detail);
    }
    let requests = items(&driver.spec.token_requests);
    for (i, request) in requests.iter().enumerate() {
        let path = SPEC.field("tokenRequests");
        let path = path.index(i);
        if requests[..i].iter().any(|before| before.audience == request.audience) {
            errors.duplicate(&path.field("audience"), &request.audience);
        }
        if let Some(expiration_s) = request.expiration_seconds.filter(|s| *s < TOKEN_MIN_S) {
            let detail = "may not specify a duration less than 10 minutes";
            errors.invalid(&path.field("expirationSeconds"), expiration_s, detail);
        }
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

/// A driver comes and goes as a whole.
fn csi_node_update(new: &CSINode, old: &CSINode, errors: &mut Errors) {
    csi_node(new, errors);
    for before in &old.spec.drivers {
        let changed = new.spec.drivers.iter().find(|driver| driver.name == before.name && *driver != before);
        if let Some(driver) = changed {
            // How many volumes fit is counted anew.
            let mut counted = driver.clone();
            counted.allocatable.clone_from(&before.allocatable);
            if counted != *before {
                errors.invalid(&Path::root("CSINodeDriver"), driver, IMMUTABLE);
            }
        }
    }
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
        if let Some(count) = driver.allocatable.as_ref().and_then(|allocatable| allocatable.count) {
            errors.non_negative(&path.field("allocatable.count"), count);
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
