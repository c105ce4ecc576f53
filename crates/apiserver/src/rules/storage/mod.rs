//! Volumes and what provides them: claims, volumes, classes, CSI drivers.

use serde_json::Value;

use super::{
    PLAIN, Rules,
    edit::{child, copy, field, fill, fill_text, list, set},
};

pub mod claim;
pub mod volume;

pub const STORAGE_CLASS: Rules = Rules {
    default: |class| {
        fill_text(class, "reclaimPolicy", "Delete");
        fill_text(class, "volumeBindingMode", "Immediate");
    },
    returns_deleted: true,
    ..PLAIN
};

pub const CSI_DRIVER: Rules = Rules { default: default_driver, returns_deleted: true, ..PLAIN };

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

pub const VOLUME_ATTACHMENT: Rules = Rules {
    prepare_create: |attachment| set(attachment, "status", serde_json::json!({ "attached": false })),
    prepare_update: |new, old| copy(new, old, "status"),
    returns_deleted: true,
    ..PLAIN
};

/// `iscsi` and its like have the same defaults wherever they stand.
fn default_source(spec: &mut Value) {
    if let Some(path) = field(spec, "hostPath") {
        fill(path, "type", "");
    }
    super::pod::default::default_network_disk(spec);
}
