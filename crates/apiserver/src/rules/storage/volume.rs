//! PersistentVolumes.
//!
//! Source: pkg/registry/core/persistentvolume/strategy.go.

use serde_json::{Value, json};

use crate::rules::{
    PLAIN, Rules,
    edit::{canonical_amounts, child, copy, fill_text, set, text_at},
};

pub const RULES: Rules = Rules {
    default,
    prepare_create: |volume| set(volume, "status", json!({ "phase": "Pending" })),
    prepare_update: |new, old| copy(new, old, "status"),
    selectable: |volume| vec![("name", text_at(volume, "/metadata/name").to_owned())],
    selectable_names: &["name"],
    returns_deleted: true,
    ..PLAIN
};

fn default(volume: &mut Value) {
    fill_text(child(volume, "status"), "phase", "Pending");
    let spec = child(volume, "spec");
    fill_text(spec, "persistentVolumeReclaimPolicy", "Retain");
    fill_text(spec, "volumeMode", "Filesystem");
    canonical_amounts(spec, "capacity");
    super::default_source(spec);
}
