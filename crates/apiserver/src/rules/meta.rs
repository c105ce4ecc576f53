//! Validates the metadata of every kind: names, labels, annotations, owners, finalizers,
//! and what of them may never change.
//!
//! Source: `ValidateObjectMeta` and its update in apimachinery/pkg/api/validation/objectmeta.go.

use std::collections::{BTreeMap, BTreeSet};

use api_types::{
    FieldError, Resource,
    k8s::meta::{ObjectMeta, OwnerReference},
    names,
};
use serde::Deserialize;
use serde_json::Value;

use super::path::{Errors, Path, items, text};

/// What a kind's names may look like: upstream's messages, empty if all is well.
pub type NameRule = fn(&str) -> Vec<String>;

const METADATA: Path = Path::root("metadata");
const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";
/// Finalizers of built-in controllers that bear no domain.
const STANDARD_FINALIZERS: [&str; 3] = ["kubernetes", ORPHAN, FOREGROUND];
const FIELD_MANAGER_MAX: usize = 128;
const SUBRESOURCE_MAX: usize = 256;

/// Checks a new object's metadata, after a name has been made from `generateName`.
pub fn validate_create(resource: &Resource, object: &Value, name_rule: NameRule) -> Vec<FieldError> {
    let meta = metadata(object);
    let mut errors = Errors::default();
    let generate_name = text(&meta.generate_name);
    if !generate_name.is_empty() {
        let messages = name_rule(&with_a_last_letter(generate_name));
        errors.invalid_all(&METADATA.field("generateName"), generate_name, messages);
    }
    match text(&meta.name) {
        "" => errors.required(&METADATA.field("name"), "name or generateName is required"),
        name => errors.invalid_all(&METADATA.field("name"), name, name_rule(name)),
    }
    let path = METADATA.field("namespace");
    match (resource.is_namespaced(), text(&meta.namespace)) {
        (true, "") => errors.required(&path, ""),
        (true, namespace) => errors.invalid_all(&path, namespace, names::dns1123_label(namespace)),
        (false, "") => {}
        (false, _) => errors.forbidden(&path, "not allowed on this type"),
    }
    errors.non_negative(&METADATA.field("generation"), meta.generation.unwrap_or(0));
    validate_common(&meta, &mut errors);
    errors.0
}

/// Checks the metadata of an update; `new` bears the resource version that it is based on.
pub fn validate_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let (new, old) = (metadata(new), metadata(old));
    let mut errors = Errors::default();
    if old.deletion_timestamp.is_some() {
        no_new_finalizers(&new, &old, &mut errors);
    }
    if text(&new.resource_version).is_empty() {
        errors.invalid(&METADATA.field("resourceVersion"), "", "must be specified for an update");
    }
    if new.generation.unwrap_or(0) < old.generation.unwrap_or(0) {
        errors.invalid(&METADATA.field("generation"), new.generation.unwrap_or(0), "must not be decremented");
    }
    errors.immutable(&METADATA.field("name"), &new.name, &old.name);
    errors.immutable(&METADATA.field("namespace"), &new.namespace, &old.namespace);
    errors.immutable(&METADATA.field("uid"), &new.uid, &old.uid);
    errors.immutable(&METADATA.field("creationTimestamp"), &new.creation_timestamp, &old.creation_timestamp);
    errors.immutable(&METADATA.field("deletionTimestamp"), &new.deletion_timestamp, &old.deletion_timestamp);
    errors.immutable(
        &METADATA.field("deletionGracePeriodSeconds"),
        &new.deletion_grace_period_seconds,
        &old.deletion_grace_period_seconds,
    );
    validate_common(&new, &mut errors);
    errors.0
}

/// Metadata of a template or claim template: no name is asked for.
pub fn labels_and_annotations(meta: Option<&ObjectMeta>, path: &Path, errors: &mut Errors) {
    let Some(meta) = meta else { return };
    labels(meta.labels.as_ref(), &path.field("labels"), errors);
    annotations(meta.annotations.as_ref(), &path.field("annotations"), errors);
}

/// Source: `ValidateLabels` in apimachinery/pkg/apis/meta/v1/validation.
pub fn labels(labels: Option<&BTreeMap<String, String>>, path: &Path, errors: &mut Errors) {
    for (key, value) in labels.into_iter().flatten() {
        errors.invalid_all(path, key.as_str(), names::label_key(key));
        errors.invalid_all(path, value.as_str(), names::label_value(value));
    }
}

fn metadata(object: &Value) -> ObjectMeta {
    object.get("metadata").and_then(|meta| ObjectMeta::deserialize(meta).ok()).unwrap_or_default()
}

/// What follows a prefix makes a legal end, so that a dash at the prefix's end is no error.
fn with_a_last_letter(prefix: &str) -> String {
    match prefix.strip_suffix('-') {
        Some(stem) if !stem.is_empty() => format!("{stem}a"),
        _ => prefix.to_owned(),
    }
}

fn validate_common(meta: &ObjectMeta, errors: &mut Errors) {
    labels(meta.labels.as_ref(), &METADATA.field("labels"), errors);
    annotations(meta.annotations.as_ref(), &METADATA.field("annotations"), errors);
    owners(items(&meta.owner_references), errors);
    finalizers(items(&meta.finalizers), errors);
}

/// Keys are qualified names whose case does not matter.
pub fn annotations(annotations: Option<&BTreeMap<String, String>>, path: &Path, errors: &mut Errors) {
    let mut size = 0;
    for (key, value) in annotations.into_iter().flatten() {
        errors.invalid_all(path, key.as_str(), names::qualified_name(&key.to_lowercase()));
        size += key.len() + value.len();
    }
    if size > names::ANNOTATIONS_MAX_BYTES {
        errors.too_long(path, names::ANNOTATIONS_MAX_BYTES);
    }
}

fn owners(owners: &[OwnerReference], errors: &mut Errors) {
    let path = METADATA.field("ownerReferences");
    let mut controller: Option<String> = None;
    for owner in owners {
        let version = owner.api_version.rsplit('/').next().unwrap_or_default();
        if version.is_empty() {
            errors.invalid(&path.field("apiVersion"), &owner.api_version, "version must not be empty");
        }
        for (field, value) in [("kind", &owner.kind), ("name", &owner.name), ("uid", &owner.uid)] {
            if value.is_empty() {
                errors.invalid(&path.field(field), value, "must not be empty");
            }
        }
        if owner.api_version == "v1" && owner.kind == "Event" {
            errors.invalid(&path, owner, "/v1, Kind=Event is disallowed from being an owner");
        }
        if owner.controller == Some(true) {
            let name = format!("{}/{}", owner.kind, owner.name);
            match &controller {
                Some(first) => errors.invalid(
                    &path,
                    owners,
                    format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} \
                         and {name}"
                    ),
                ),
                None => controller = Some(name),
            }
        }
    }
}

fn finalizers(finalizers: &[String], errors: &mut Errors) {
    let path = METADATA.field("finalizers");
    for (i, finalizer) in finalizers.iter().enumerate() {
        finalizer_name(finalizer, &path.index(i), errors);
    }
    let has = |name: &str| finalizers.iter().any(|finalizer| finalizer == name);
    if has(ORPHAN) && has(FOREGROUND) {
        errors.invalid(&path, finalizers, format!("finalizer {ORPHAN} and {FOREGROUND} cannot be both set"));
    }
}

/// A qualified name; without a domain it must be one that Kubernetes itself uses.
pub fn finalizer_name(finalizer: &str, path: &Path, errors: &mut Errors) {
    let messages = names::qualified_name(finalizer);
    if messages.is_empty() && !finalizer.contains('/') && !STANDARD_FINALIZERS.contains(&finalizer) {
        errors.invalid(path, finalizer, "name is neither a standard finalizer name nor is it fully qualified");
    }
    errors.invalid_all(path, finalizer, messages);
}

fn no_new_finalizers(new: &ObjectMeta, old: &ObjectMeta, errors: &mut Errors) {
    let old: BTreeSet<&String> = items(&old.finalizers).iter().collect();
    let extra: BTreeSet<&String> = items(&new.finalizers).iter().filter(|finalizer| !old.contains(finalizer)).collect();
    if !extra.is_empty() {
        let quoted: Vec<String> = extra.iter().map(|finalizer| format!("{finalizer:?}")).collect();
        let words = "no new finalizers can be added if the object is being deleted, found new finalizers";
        let detail = format!("{words} []string{{{}}}", quoted.join(", "));
        errors.forbidden(&METADATA.field("finalizers"), detail);
    }
}

/// Checks managedFields, which are kept apart from the object until it is stored. Operation and type of the
/// fields are right where they could be read.
pub fn validate_managed_fields(entries: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    for (i, entry) in entries.as_array().into_iter().flatten().enumerate() {
        for (field, max) in [("manager", FIELD_MANAGER_MAX), ("subresource", SUBRESOURCE_MAX)] {
            if entry[field].as_str().is_some_and(|text| text.len() > max) {
                errors.too_long(&METADATA.field("managedFields").index(i).field(field), max);
            }
        }
    }
    errors.0
}

#[cfg(test)]
mod tests {
    use api_types::resources;
    use serde_json::json;

    use super::*;

    fn texts(errors: Vec<FieldError>) -> Vec<String> {
        errors.iter().map(|error| format!("{}: {}", error.field, error.message())).collect()
    }

    #[test]
    fn creates() {
        for (meta, errors) in [
            (json!({"name": "a", "namespace": "n"}), &[][..]),
            (json!({"name": "web-x", "generateName": "web-", "namespace": "n"}), &[]),
            (json!({"namespace": "n"}), &["metadata.name: Required value: name or generateName is required"]),
            (json!({"name": "a"}), &["metadata.namespace: Required value"]),
            (json!({"name": "a", "namespace": "n", "finalizers": ["kubernetes", "a.b/c"]}), &[]),
            (
                json!({"name": "a", "namespace": "n", "finalizers": ["nope"]}),
                &[
                    "metadata.finalizers[0]: Invalid value: \"nope\": name is neither a standard finalizer name nor is it fully qualified",
                ],
            ),
            (
                json!({"name": "a", "namespace": "n", "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p"}]}),
                &["metadata.ownerReferences.uid: Invalid value: \"\": must not be empty"],
            ),
        ] {
            let found = validate_create(&resources::POD, &json!({"metadata": meta}), names::dns1123_subdomain);
            assert_eq!(texts(found), errors, "{meta}");
        }
    }

    #[test]
    fn updates() {
        let old = json!({"metadata": {"name": "a", "uid": "1", "resourceVersion": "1", "finalizers": ["x/y"],
            "deletionTimestamp": "2026-01-01T00:00:00Z"}});
        let mut new = old.clone();
        assert_eq!(texts(validate_update(&new, &old)), [""; 0]);
        new["metadata"]["finalizers"] = json!(["x/y", "x/z"]);
        new["metadata"]["uid"] = json!("2");
        assert_eq!(
            texts(validate_update(&new, &old)),
            [
                "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{\"x/z\"}",
                "metadata.uid: Invalid value: \"2\": field is immutable"
            ]
        );
    }
}
