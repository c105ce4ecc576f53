//! Data and volumes.

use serde_json::Value;

use super::{
    AGE,
    About::{Field, Words},
    NAME, Spec, boolean, integer, text,
    view::View,
    wide,
};

/// Where the class of a volume stood before it was a field; it still wins.
const CLASS_ANNOTATION: &str = "/metadata/annotations/volume.beta.kubernetes.io~1storage-class";
const DEFAULT_CLASS_ANNOTATIONS: [&str; 2] = [
    "/metadata/annotations/storageclass.kubernetes.io~1is-default-class",
    "/metadata/annotations/storageclass.beta.kubernetes.io~1is-default-class",
];

pub const CONFIG_MAP: &[Spec] = &[NAME, text("Data", Field("core.v1.ConfigMap", "data")), AGE];

pub fn config_map(map: &View) -> Vec<Value> {
    vec![map.name(), (map.count("/data") + map.count("/binaryData")).into(), map.age()]
}

pub const SECRET: &[Spec] =
    &[NAME, text("Type", Field("core.v1.Secret", "type")), text("Data", Field("core.v1.Secret", "data")), AGE];

pub fn secret(secret: &View) -> Vec<Value> {
    vec![secret.name(), secret.text("/type").into(), secret.count("/data").into(), secret.age()]
}

pub const VOLUME: &[Spec] = &[
    NAME,
    text("Capacity", Field("core.v1.PersistentVolumeSpec", "capacity")),
    text("Access Modes", Field("core.v1.PersistentVolumeSpec", "accessModes")),
    text("Reclaim Policy", Field("core.v1.PersistentVolumeSpec", "persistentVolumeReclaimPolicy")),
    text("Status", Field("core.v1.PersistentVolumeStatus", "phase")),
    text("Claim", Field("core.v1.PersistentVolumeSpec", "claimRef")),
    text("StorageClass", Words("The class that the volume is of.")),
    text("VolumeAttributesClass", Words("The class of the volume's attributes.")),
    text("Reason", Field("core.v1.PersistentVolumeStatus", "reason")),
    AGE,
    wide("VolumeMode", Field("core.v1.PersistentVolumeSpec", "volumeMode")),
];

pub fn volume(volume: &View) -> Vec<Value> {
    let claim = match volume.has("/spec/claimRef") {
        true => format!("{}/{}", volume.text("/spec/claimRef/namespace"), volume.text("/spec/claimRef/name")),
        false => String::new(),
    };
    vec![
        volume.name(),
        volume.text_or("/spec/capacity/storage", "0").into(),
        access_modes(volume, "/spec/accessModes").into(),
        volume.text("/spec/persistentVolumeReclaimPolicy").into(),
        phase(volume).into(),
        claim.into(),
        class_name(volume).into(),
        volume.text_or("/spec/volumeAttributesClassName", "<unset>").into(),
        volume.text("/status/reason").into(),
        volume.age(),
        volume.text_or("/spec/volumeMode", "<unset>").into(),
    ]
}

pub const CLAIM: &[Spec] = &[
    NAME,
    text("Status", Field("core.v1.PersistentVolumeClaimStatus", "phase")),
    text("Volume", Field("core.v1.PersistentVolumeClaimSpec", "volumeName")),
    text("Capacity", Field("core.v1.PersistentVolumeClaimStatus", "capacity")),
    text("Access Modes", Field("core.v1.PersistentVolumeClaimStatus", "accessModes")),
    text("StorageClass", Field("core.v1.PersistentVolumeClaimSpec", "storageClassName")),
    text("VolumeAttributesClass", Field("core.v1.PersistentVolumeClaimSpec", "volumeAttributesClassName")),
    AGE,
    wide("VolumeMode", Field("core.v1.PersistentVolumeClaimSpec", "volumeMode")),
];

pub fn claim(claim: &View) -> Vec<Value> {
    let bound = !claim.text("/spec/volumeName").is_empty();
    let capacity = if bound { claim.text_or("/status/capacity/storage", "0") } else { "" };
    let modes = if bound { access_modes(claim, "/status/accessModes") } else { String::new() };
    vec![
        claim.name(),
        phase(claim).into(),
        claim.text("/spec/volumeName").into(),
        capacity.into(),
        modes.into(),
        class_name(claim).into(),
        claim.text_or("/spec/volumeAttributesClassName", "<unset>").into(),
        claim.age(),
        claim.text_or("/spec/volumeMode", "<unset>").into(),
    ]
}

fn phase<'a>(view: &View<'a>) -> &'a str {
    if view.is_terminating() { "Terminating" } else { view.text("/status/phase") }
}

fn class_name<'a>(view: &View<'a>) -> &'a str {
    view.get(CLASS_ANNOTATION).and_then(Value::as_str).unwrap_or_else(|| view.text("/spec/storageClassName"))
}

/// The modes' short forms, in a fixed order.
fn access_modes(view: &View, pointer: &str) -> String {
    let given = view.texts(pointer);
    let short =
        [("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")];
    let modes: Vec<&str> = short.into_iter().filter(|(mode, _)| given.contains(mode)).map(|(_, short)| short).collect();
    modes.join(",")
}

pub const CLASS: &[Spec] = &[
    NAME,
    text("Provisioner", Field("storage.v1.StorageClass", "provisioner")),
    text("ReclaimPolicy", Field("storage.v1.StorageClass", "reclaimPolicy")),
    text("VolumeBindingMode", Field("storage.v1.StorageClass", "volumeBindingMode")),
    text("AllowVolumeExpansion", Field("storage.v1.StorageClass", "allowVolumeExpansion")),
    AGE,
];

pub fn class(class: &View) -> Vec<Value> {
    let is_default = DEFAULT_CLASS_ANNOTATIONS.iter().any(|annotation| class.text(annotation) == "true");
    let name = match is_default {
        true => format!("{} (default)", class.text("/metadata/name")).into(),
        false => class.name(),
    };
    vec![
        name,
        class.text("/provisioner").into(),
        class.text_or("/reclaimPolicy", "Delete").into(),
        class.text_or("/volumeBindingMode", "Immediate").into(),
        class.flag("/allowVolumeExpansion").into(),
        class.age(),
    ]
}

pub const CSI_NODE: &[Spec] =
    &[NAME, integer("Drivers", Words("How many CSI drivers are registered on the node.")), AGE];

pub fn csi_node(node: &View) -> Vec<Value> {
    vec![node.name(), node.count("/spec/drivers").into(), node.age()]
}

pub const CSI_DRIVER: &[Spec] = &[
    NAME,
    boolean("AttachRequired", Field("storage.v1.CSIDriverSpec", "attachRequired")),
    boolean("PodInfoOnMount", Field("storage.v1.CSIDriverSpec", "podInfoOnMount")),
    boolean("StorageCapacity", Field("storage.v1.CSIDriverSpec", "storageCapacity")),
    text("TokenRequests", Field("storage.v1.CSIDriverSpec", "tokenRequests")),
    boolean("RequiresRepublish", Field("storage.v1.CSIDriverSpec", "requiresRepublish")),
    text("Modes", Field("storage.v1.CSIDriverSpec", "volumeLifecycleModes")),
    AGE,
];

pub fn csi_driver(driver: &View) -> Vec<Value> {
    let attach = driver.get("/spec/attachRequired").and_then(Value::as_bool).unwrap_or(true);
    let tokens = match driver.has("/spec/tokenRequests") {
        true => driver.items("/spec/tokenRequests").map(|token| token.text("/audience")).collect::<Vec<_>>().join(","),
        false => "<unset>".to_owned(),
    };
    let modes = driver.texts("/spec/volumeLifecycleModes").join(",");
    let modes = if modes.is_empty() { "<none>".to_owned() } else { modes };
    vec![
        driver.name(),
        attach.into(),
        driver.flag("/spec/podInfoOnMount").into(),
        driver.flag("/spec/storageCapacity").into(),
        tokens.into(),
        driver.flag("/spec/requiresRepublish").into(),
        modes.into(),
        driver.age(),
    ]
}

pub const ATTACHMENT: &[Spec] = &[
    NAME,
    Spec { format: "name", ..text("Attacher", Field("storage.v1.VolumeAttachmentSpec", "attacher")) },
    text("PV", Field("storage.v1.VolumeAttachmentSource", "persistentVolumeName")),
    text("Node", Field("storage.v1.VolumeAttachmentSpec", "nodeName")),
    boolean("Attached", Field("storage.v1.VolumeAttachmentStatus", "attached")),
    AGE,
];

pub fn attachment(attachment: &View) -> Vec<Value> {
    vec![
        attachment.name(),
        attachment.text("/spec/attacher").into(),
        attachment.text("/spec/source/persistentVolumeName").into(),
        attachment.text("/spec/nodeName").into(),
        attachment.flag("/status/attached").into(),
        attachment.age(),
    ]
}

pub const ATTRIBUTES_CLASS: &[Spec] =
    &[NAME, text("DriverName", Field("storage.v1.VolumeAttributesClass", "driverName")), AGE];

pub fn attributes_class(class: &View) -> Vec<Value> {
    vec![class.name(), class.text("/driverName").into(), class.age()]
}
