//! Volumes of a pod: one source each, and each source complete.
//!
//! Source: `ValidateVolumes` in pkg/apis/core/validation/validation.go.

use std::collections::BTreeSet;

use api_types::{
    k8s::core::{
        DownwardAPIVolumeFile, HostPathVolumeSource, KeyToPath, NFSVolumeSource, ProjectedVolumeSource, Volume,
        VolumeProjection,
    },
    names,
};
use serde_json::Value;

use super::{
    container::Volumes,
    env::{self, Place},
    spec::Within,
};
use crate::rules::{
    amounts,
    path::{Errors, Path, items, text},
    selector::label_selector,
    storage::claim,
};

const FILE_MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";
const FILE_MODE_MAX: i32 = 0o777;
const TOKEN_MIN_S: i64 = 10 * 60;
const TOKEN_MAX_S: i64 = 1 << 32;
const VOLUME_FIELDS: [&str; 5] =
    ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
const HOST_PATH_TYPES: [&str; 8] =
    ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];

/// What a source cannot be without, for those where nothing else is checked.
const REQUIRED: &[(&str, &[&str])] = &[
    ("awsElasticBlockStore", &["volumeID"]),
    ("azureDisk", &["diskName", "diskURI"]),
    ("azureFile", &["secretName", "shareName"]),
    ("cephfs", &["monitors"]),
    ("cinder", &["volumeID"]),
    ("flexVolume", &["driver"]),
    ("gcePersistentDisk", &["pdName"]),
    ("gitRepo", &["repository"]),
    ("glusterfs", &["endpoints", "path"]),
    ("iscsi", &["targetPortal", "iqn"]),
    ("persistentVolumeClaim", &["claimName"]),
    ("photonPersistentDisk", &["pdID"]),
    ("portworxVolume", &["volumeID"]),
    ("quobyte", &["registry", "volume"]),
    ("rbd", &["monitors", "image"]),
    ("scaleIO", &["gateway", "system", "volumeName"]),
    ("vsphereVolume", &["volumePath"]),
];

/// Returns the volumes that are right, for mounts to refer to.
pub fn volumes<'a>(volumes: &'a [Volume], within: Within, path: &Path, errors: &mut Errors) -> Volumes<'a> {
    let mut valid = Volumes::new();
    for (i, volume) in volumes.iter().enumerate() {
        let path = path.index(i);
        let mut found = Errors::default();
        source(volume, within, &path, &mut found);
        match volume.name.as_str() {
            "" => found.required(&path.field("name"), ""),
            name => found.invalid_all(&path.field("name"), name, names::dns1123_label(name)),
        }
        if valid.contains_key(volume.name.as_str()) {
            found.duplicate(&path.field("name"), &volume.name);
        }
        if found.0.is_empty() {
            valid.insert(volume.name.as_str(), volume);
        }
        errors.0.extend(found.0);
    }
    valid
}

fn source(volume: &Volume, within: Within, path: &Path, errors: &mut Errors) {
    let fields = serde_json::to_value(volume).unwrap_or_default();
    let mut sources = fields.as_object().into_iter().flatten().filter(|(name, _)| *name != "name");
    let Some((name, fields)) = sources.next() else {
        return errors.required(path, "must specify a volume type");
    };
    required_fields(name, fields, &path.field(name), errors);
    typed_source(volume, name, path, errors);
    if let (Some(ephemeral), Within::Pod(meta)) = (&volume.ephemeral, within)
        && let Some(pod) = meta.name.as_ref().filter(|_| ephemeral.volume_claim_template.is_some())
    {
        let claim = format!("{pod}-{}", volume.name);
        for message in names::dns1123_subdomain(&claim) {
            errors.invalid(&path.field("name"), &volume.name, format!("PVC name {claim:?}: {message}"));
        }
    }
    for (name, _) in sources {
        errors.forbidden(&path.field(name), "may not specify more than 1 volume type");
    }
}

fn required_fields(source: &str, fields: &Value, path: &Path, errors: &mut Errors) {
    let required = REQUIRED.iter().find(|(name, _)| *name == source).map_or(&[][..], |(_, fields)| fields);
    for field in required {
        let is_empty = match fields.get(*field) {
            None | Some(Value::Null) => true,
            Some(Value::String(text)) => text.is_empty(),
            Some(Value::Array(items)) => items.is_empty(),
            Some(Value::Bool(_) | Value::Number(_) | Value::Object(_)) => false,
        };
        if is_empty {
            errors.required(&path.field(field), "");
        }
    }
}

/// Checks the first source only: the others are refused anyway.
fn typed_source(volume: &Volume, name: &str, path: &Path, errors: &mut Errors) {
    let path = path.field(name);
    match name {
        "hostPath" => volume.host_path.iter().for_each(|source| host_path(source, &path, errors)),
        "nfs" => volume.nfs.iter().for_each(|source| nfs(source, &path, errors)),
        "emptyDir" => {
            let limit = volume.empty_dir.as_ref().and_then(|dir| dir.size_limit.as_ref());
            if limit.is_some_and(|limit| amounts::parse(limit).is_negative()) {
                errors.forbidden(&path.field("sizeLimit"), "SizeLimit field must be a valid resource quantity");
            }
        }
        "secret" => {
            if let Some(source) = &volume.secret {
                if text(&source.secret_name).is_empty() {
                    errors.required(&path.field("secretName"), "");
                }
                mode(source.default_mode, &path.field("defaultMode"), errors);
                keys(items(&source.items), &path.field("items"), errors);
            }
        }
        "configMap" => {
            if let Some(source) = &volume.config_map {
                if source.name.is_empty() {
                    errors.required(&path.field("name"), "");
                }
                mode(source.default_mode, &path.field("defaultMode"), errors);
                keys(items(&source.items), &path.field("items"), errors);
            }
        }
        "downwardAPI" => {
            if let Some(source) = &volume.downward_api {
                mode(source.default_mode, &path.field("defaultMode"), errors);
                items(&source.items).iter().for_each(|file| downward_file(file, &path, errors));
            }
        }
        "projected" => volume.projected.iter().for_each(|source| projected(source, &path, errors)),
        "gitRepo" => {
            if let Some(source) = &volume.git_repo {
                descending_path(text(&source.directory), &path.field("directory"), errors);
            }
        }
        "csi" => {
            if let Some(source) = &volume.csi {
                csi_driver(&source.driver, &path.field("driver"), errors);
                if source.node_publish_secret_ref.as_ref().is_some_and(|secret| secret.name.is_empty()) {
                    errors.required(&path.field("nodePublishSecretRef.name"), "");
                }
            }
        }
        "ephemeral" => {
            let path = path.field("volumeClaimTemplate");
            match volume.ephemeral.as_ref().and_then(|source| source.volume_claim_template.as_ref()) {
                None => errors.required(&path, ""),
                Some(template) => claim::validate_spec(&template.spec, &path.field("spec"), errors),
            }
        }
        "image" => {
            if let Some(source) = &volume.image {
                if text(&source.reference).is_empty() {
                    errors.required(&path.field("reference"), "");
                }
                let policies = ["Always", "IfNotPresent", "Never"];
                errors.required_one_of(&path.field("pullPolicy"), text(&source.pull_policy), &policies);
            }
        }
        _ => {}
    }
}

/// Also of a PersistentVolume.
pub fn host_path(source: &HostPathVolumeSource, path: &Path, errors: &mut Errors) {
    if source.path.is_empty() {
        return errors.required(&path.field("path"), "");
    }
    if has_backsteps(&source.path) {
        errors.invalid(&path.field("path"), &source.path, "must not contain '..'");
    }
    errors.one_of(&path.field("type"), text(&source.type_), &HOST_PATH_TYPES);
}

/// Also of a PersistentVolume.
pub fn nfs(source: &NFSVolumeSource, path: &Path, errors: &mut Errors) {
    if source.server.is_empty() {
        errors.required(&path.field("server"), "");
    }
    if source.path.is_empty() {
        errors.required(&path.field("path"), "");
    }
    if !source.path.starts_with('/') {
        errors.invalid(&path.field("path"), &source.path, "must be an absolute path");
    }
}

/// Also the name of a CSIDriver.
pub fn csi_driver(driver: &str, path: &Path, errors: &mut Errors) {
    match driver {
        "" => errors.required(path, ""),
        long if long.len() > names::LABEL_MAX => errors.too_long(path, names::LABEL_MAX),
        driver => errors.invalid_all(path, driver, names::dns1123_subdomain(&driver.to_lowercase())),
    }
}

fn mode(mode: Option<i32>, path: &Path, errors: &mut Errors) {
    if let Some(mode) = mode.filter(|mode| !(0..=FILE_MODE_MAX).contains(mode)) {
        errors.invalid(path, mode, FILE_MODE);
    }
}

fn keys(keys: &[KeyToPath], path: &Path, errors: &mut Errors) {
    for (i, key) in keys.iter().enumerate() {
        let path = path.index(i);
        if key.key.is_empty() {
            errors.required(&path.field("key"), "");
        }
        if key.path.is_empty() {
            errors.required(&path.field("path"), "");
        }
        local_path(&key.path, &path.field("path"), errors);
        mode(key.mode, &path.field("mode"), errors);
    }
}

fn downward_file(file: &DownwardAPIVolumeFile, path: &Path, errors: &mut Errors) {
    if file.path.is_empty() {
        errors.required(&path.field("path"), "");
    }
    local_path(&file.path, &path.field("path"), errors);
    match (&file.field_ref, &file.resource_field_ref) {
        (Some(field), resource) => {
            env::object_field(field, &VOLUME_FIELDS, &path.field("fieldRef"), errors);
            if resource.is_some() {
                errors.invalid(path, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously");
            }
        }
        (None, Some(resource)) => {
            env::resource_field(resource, Place::Volume, &path.field("resourceFieldRef"), errors);
        }
        (None, None) => errors.required(path, "one of fieldRef and resourceFieldRef is required"),
    }
    mode(file.mode, &path.field("mode"), errors);
}

fn projected(source: &ProjectedVolumeSource, path: &Path, errors: &mut Errors) {
    mode(source.default_mode, &path.field("defaultMode"), errors);
    let mut paths = BTreeSet::new();
    for (i, projection) in items(&source.sources).iter().enumerate() {
        let source_path = path.field("sources");
        let source_path = source_path.index(i);
        projection_source(projection, &source_path, path, errors);
        for (file, shown) in files(projection) {
            if !file.is_empty() && !paths.insert(file) {
                errors.invalid(path, shown, "conflicting duplicate paths");
            }
        }
        let fields = serde_json::to_value(projection).unwrap_or_default();
        if fields.as_object().is_some_and(|sources| sources.len() > 1) {
            errors.forbidden(&source_path, "may not specify more than 1 volume type per source");
        }
    }
}

/// Paths that a projection writes, and what an error shows for each.
fn files(projection: &VolumeProjection) -> Vec<(&str, &str)> {
    let mut files = Vec::new();
    if let Some(secret) = &projection.secret {
        files.extend(items(&secret.items).iter().map(|key| (key.path.as_str(), secret.name.as_str())));
    }
    if let Some(map) = &projection.config_map {
        files.extend(items(&map.items).iter().map(|key| (key.path.as_str(), map.name.as_str())));
    }
    if let Some(downward) = &projection.downward_api {
        files.extend(items(&downward.items).iter().map(|file| (file.path.as_str(), file.path.as_str())));
    }
    if let Some(bundle) = &projection.cluster_trust_bundle {
        files.push((bundle.path.as_str(), bundle.path.as_str()));
    }
    files
}

fn projection_source(projection: &VolumeProjection, path: &Path, volume: &Path, errors: &mut Errors) {
    let named = [
        ("secret", projection.secret.as_ref().map(|source| (&source.name, &source.items))),
        ("configMap", projection.config_map.as_ref().map(|source| (&source.name, &source.items))),
    ];
    for (field, (name, files)) in named.into_iter().filter_map(|(field, source)| Some((field, source?))) {
        let path = path.field(field);
        if name.is_empty() {
            errors.required(&path.field("name"), "");
        }
        keys(items(files), &path.field("items"), errors);
    }
    if let Some(downward) = &projection.downward_api {
        let path = path.field("downwardAPI");
        items(&downward.items).iter().for_each(|file| downward_file(file, &path, errors));
    }
    if let Some(token) = &projection.service_account_token {
        let expiration_path = path.field("serviceAccountToken.expirationSeconds");
        let expiration_s = token.expiration_seconds.unwrap_or(0);
        if expiration_s < TOKEN_MIN_S {
            errors.invalid(&expiration_path, expiration_s, "may not specify a duration less than 10 minutes");
        }
        if expiration_s > TOKEN_MAX_S {
            errors.invalid(&expiration_path, expiration_s, "may not specify a duration larger than 2^32 seconds");
        }
        match token.path.as_str() {
            "" => errors.required(&volume.field("path"), ""),
            path => local_path(path, &volume.field("path"), errors),
        }
    }
    if let Some(bundle) = &projection.cluster_trust_bundle {
        let path = path.field("clusterTrustBundle");
        match (&bundle.name, &bundle.signer_name) {
            (Some(_), Some(_)) => errors.invalid(&path, bundle, "only one of name and signerName may be used"),
            (Some(name), None) if name.is_empty() => {
                errors.required(&path.field("name"), "must be a valid object name")
            }
            (None, Some(signer)) if signer.is_empty() => {
                errors.required(&path.field("signerName"), "must be a valid signer name");
            }
            (Some(_), None) | (None, Some(_)) => {
                label_selector(bundle.label_selector.as_ref(), &path.field("labelSelector"), errors);
            }
            (None, None) => errors.required(&path, "either name or signerName must be specified"),
        }
        if bundle.path.is_empty() {
            errors.required(&path.field("path"), "");
        }
        local_path(&bundle.path, &path.field("path"), errors);
    }
}

pub fn has_backsteps(path: &str) -> bool {
    path.split('/').any(|part| part == "..")
}

/// A relative path that does not climb out.
pub fn descending_path(value: &str, path: &Path, errors: &mut Errors) {
    if value.starts_with('/') {
        errors.invalid(path, value, "must be a relative path");
    }
    if has_backsteps(value) {
        errors.invalid(path, value, "must not contain '..'");
    }
}

/// A descending path that leaves the names alone under which a volume keeps its versions.
pub fn local_path(value: &str, path: &Path, errors: &mut Errors) {
    descending_path(value, path, errors);
    if value.starts_with("..") && !value.starts_with("../") && value != ".." {
        errors.invalid(path, value, "must not start with '..'");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::rules::texts;

    fn check(volume: Value, expected: &[&str]) {
        let volume: Volume = serde_json::from_value(volume).unwrap();
        let mut errors = Errors::default();
        volumes(&[volume], Within::Template, &Path::root("v"), &mut errors);
        assert_eq!(texts(errors.0), expected);
    }

    #[test]
    fn sources_are_complete() {
        check(json!({"name": "a", "emptyDir": {}}), &[]);
        check(json!({"name": "a", "configMap": {"name": ""}}), &["v[0].configMap.name: Required value"]);
        check(
            json!({"name": "a", "secret": {"secretName": "s", "defaultMode": 512, "items": [{"key": "k", "path": "/p"}]}}),
            &[
                "v[0].secret.defaultMode: Invalid value: 512: must be a number between 0 and 0777 (octal), both inclusive",
                "v[0].secret.items[0].path: Invalid value: \"/p\": must be a relative path",
            ],
        );
        check(
            json!({"name": "a", "emptyDir": {}, "hostPath": {"path": "/"}}),
            &["v[0].hostPath: Forbidden: may not specify more than 1 volume type"],
        );
        check(
            json!({"name": "a", "persistentVolumeClaim": {}}),
            &["v[0].persistentVolumeClaim.claimName: Required value"],
        );
        check(
            json!({"name": "A", "hostPath": {"path": "/a/../b", "type": "x"}}),
            &[
                "v[0].hostPath.path: Invalid value: \"/a/../b\": must not contain '..'",
                "v[0].hostPath.type: Unsupported value: \"x\": supported values: \"\", \"BlockDevice\", \"CharDevice\", \"Directory\", \"DirectoryOrCreate\", \"File\", \"FileOrCreate\", \"Socket\"",
                "v[0].name: Invalid value: \"A\": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
            ],
        );
    }

    #[test]
    fn projections_do_not_collide() {
        check(
            json!({"name": "a", "projected": {"sources": [
                {"configMap": {"name": "m", "items": [{"key": "k", "path": "p"}]}},
                {"secret": {"name": "s", "items": [{"key": "k", "path": "p"}]}},
                {"serviceAccountToken": {"path": "t", "expirationSeconds": 60}}]}}),
            &[
                "v[0].projected: Invalid value: \"s\": conflicting duplicate paths",
                "v[0].projected.sources[2].serviceAccountToken.expirationSeconds: Invalid value: 60: may not specify a duration less than 10 minutes",
            ],
        );
    }
}
