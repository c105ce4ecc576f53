//! Where containers see volumes.
//!
//! Source: `ValidateVolumeMounts` in pkg/apis/core/validation/validation.go.

use std::collections::BTreeSet;

use api_types::k8s::core::{Container, VolumeMount};

use super::{
    container::Volumes,
    volume::{descending_path, has_backsteps},
};
use crate::rules::path::{Errors, Path, items, text};

const PROPAGATIONS: [&str; 3] = ["Bidirectional", "HostToContainer", "None"];

pub fn mounts(container: &Container, volumes: &Volumes, path: &Path, errors: &mut Errors) {
    let devices = items(&container.volume_devices);
    let mut seen = BTreeSet::new();
    for (i, mount) in items(&container.volume_mounts).iter().enumerate() {
        let item = path.index(i);
        if mount.name.is_empty() {
            errors.required(&item.field("name"), "");
        }
        if !volumes.contains_key(mount.name.as_str()) {
            errors.not_found(&item.field("name"), &mount.name);
        }
        if mount.mount_path.is_empty() {
            errors.required(&item.field("mountPath"), "");
        }
        if !seen.insert(&mount.mount_path) {
            errors.invalid(&item.field("mountPath"), &mount.mount_path, "must be unique");
        }
        if devices.iter().any(|device| device.name == mount.name) {
            errors.invalid(&item.field("name"), &mount.name, "must not already exist in volumeDevices");
        }
        if devices.iter().any(|device| device.device_path == mount.mount_path) {
            let detail = "must not already exist as a path in volumeDevices";
            errors.invalid(&item.field("mountPath"), &mount.mount_path, detail);
        }
        // Upstream names these three by the list, without the index.
        sub_paths(mount, &item, path, errors);
        propagation(mount, container, &path.field("mountPropagation"), errors);
        recursive_read_only(mount, &path.field("recursiveReadOnly"), errors);
    }
}

fn sub_paths(mount: &VolumeMount, item: &Path, list: &Path, errors: &mut Errors) {
    let (sub_path, expression) = (text(&mount.sub_path), text(&mount.sub_path_expr));
    if !sub_path.is_empty() {
        descending_path(sub_path, &list.field("subPath"), errors);
    }
    if !expression.is_empty() {
        if !sub_path.is_empty() {
            let detail = "subPathExpr and subPath are mutually exclusive";
            errors.invalid(&item.field("subPathExpr"), expression, detail);
        }
        descending_path(expression, &list.field("subPathExpr"), errors);
    }
}

fn propagation(mount: &VolumeMount, container: &Container, path: &Path, errors: &mut Errors) {
    let Some(propagation) = &mount.mount_propagation else { return };
    errors.one_of(path, propagation, &PROPAGATIONS);
    let is_privileged = container.security_context.as_ref().is_some_and(|context| context.privileged == Some(true));
    if propagation == "Bidirectional" && !is_privileged {
        errors.forbidden(path, "Bidirectional mount propagation is available only to privileged containers");
    }
}

fn recursive_read_only(mount: &VolumeMount, path: &Path, errors: &mut Errors) {
    let Some(mode) = &mount.recursive_read_only else { return };
    match mode.as_str() {
        "Disabled" => {}
        "Enabled" | "IfPossible" => {
            if mount.read_only != Some(true) {
                errors.forbidden(path, "may only be specified when readOnly is true");
            }
            if !matches!(text(&mount.mount_propagation), "" | "None") {
                errors.forbidden(path, "may only be specified when mountPropagation is None or not specified");
            }
        }
        mode => errors.not_supported(path, mode, &["Disabled", "Enabled", "IfPossible"]),
    }
}

pub fn devices(container: &Container, volumes: &Volumes, path: &Path, errors: &mut Errors) {
    let mounts = items(&container.volume_mounts);
    let (mut names, mut paths) = (BTreeSet::new(), BTreeSet::new());
    for (i, device) in items(&container.volume_devices).iter().enumerate() {
        let path = path.index(i);
        let (name_path, device_path) = (path.field("name"), path.field("devicePath"));
        if device.name.is_empty() {
            errors.required(&name_path, "");
        } else if !names.insert(&device.name) {
            errors.invalid(&name_path, &device.name, "must be unique");
        }
        match volumes.get(device.name.as_str()) {
            None => errors.not_found(&name_path, &device.name),
            Some(volume) if volume.persistent_volume_claim.is_none() && volume.ephemeral.is_none() => {
                let detail = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                errors.invalid(&name_path, &device.name, detail);
            }
            Some(_) => {}
        }
        if device.device_path.is_empty() {
            errors.required(&device_path, "");
        } else if has_backsteps(&device.device_path) {
            errors.invalid(&device_path, &device.device_path, "can not contain backsteps ('..')");
        } else if !paths.insert(&device.device_path) {
            errors.invalid(&device_path, &device.device_path, "must be unique");
        }
        if mounts.iter().any(|mount| mount.name == device.name) {
            errors.invalid(&name_path, &device.name, "must not already exist in volumeMounts");
        }
        if mounts.iter().any(|mount| mount.mount_path == device.device_path) {
            errors.invalid(&device_path, &device.device_path, "must not already exist as a path in volumeMounts");
        }
    }
}

#[cfg(test)]
mod tests {
    use api_types::k8s::core::Volume;
    use serde_json::{Value, json};

    use super::*;
    use crate::rules::texts;

    fn check(container: Value, expected: &[&str]) {
        let container: Container = serde_json::from_value(container).unwrap();
        let volume: Volume = serde_json::from_value(json!({"name": "v", "emptyDir": {}})).unwrap();
        let mut errors = Errors::default();
        mounts(&container, &Volumes::from([("v", &volume)]), &Path::root("m"), &mut errors);
        assert_eq!(texts(errors.0), expected);
    }

    #[test]
    fn mounts_name_volumes() {
        check(json!({"volumeMounts": [{"name": "v", "mountPath": "/a", "subPath": "b/c"}]}), &[]);
        check(
            json!({"volumeMounts": [{"name": "x", "mountPath": "/a"}, {"name": "v", "mountPath": "/a"}]}),
            &["m[0].name: Not found: \"x\"", "m[1].mountPath: Invalid value: \"/a\": must be unique"],
        );
        check(
            json!({"volumeMounts": [{"name": "v", "mountPath": "/a", "subPath": "../b", "mountPropagation": "Bidirectional"}]}),
            &[
                "m.subPath: Invalid value: \"../b\": must not contain '..'",
                "m.mountPropagation: Forbidden: Bidirectional mount propagation is available only to privileged containers",
            ],
        );
    }
}
