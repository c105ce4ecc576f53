//! Environment variables, and the pod's own fields that variables and volumes can show.
//!
//! Source: pkg/apis/core/validation/validation.go, pkg/apis/core/pods/helpers.go.

use api_types::{
    Quantity,
    k8s::{
        self,
        core::{EnvFromSource, EnvVar, EnvVarSource, ObjectFieldSelector, ResourceFieldSelector},
    },
    names,
};

use super::volume::local_path;
use crate::rules::path::{Errors, Path, text};

const ENV_FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
/// Fields that exist, though not every one can be shown everywhere.
const KNOWN_FIELDS: [&str; 15] = [
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.host",
    "spec.restartPolicy",
    "spec.serviceAccountName",
    "spec.schedulerName",
    "status.phase",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
/// In the order in which upstream lists them.
const RESOURCE_FIELDS: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];
const BYTE_DIVISORS: [&str; 13] = ["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];

pub fn variables(variables: &[EnvVar], path: &Path, errors: &mut Errors) {
    for (i, variable) in variables.iter().enumerate() {
        let path = path.index(i);
        match variable.name.as_str() {
            "" => errors.required(&path.field("name"), ""),
            name => errors.invalid_all(&path.field("name"), name, names::env_var_name(name)),
        }
        if let Some(source) = &variable.value_from {
            value_from(source, text(&variable.value), &path.field("valueFrom"), errors);
        }
    }
}

fn value_from(source: &EnvVarSource, value: &str, path: &Path, errors: &mut Errors) {
    let mut count = 0;
    if let Some(field) = &source.field_ref {
        count += 1;
        object_field(field, &ENV_FIELDS, &path.field("fieldRef"), errors);
    }
    if let Some(resource) = &source.resource_field_ref {
        count += 1;
        resource_field(resource, Place::Env, &path.field("resourceFieldRef"), errors);
    }
    if let Some(key) = &source.config_map_key_ref {
        count += 1;
        key_reference(&key.name, &key.key, &path.field("configMapKeyRef"), errors);
    }
    if let Some(key) = &source.secret_key_ref {
        count += 1;
        key_reference(&key.name, &key.key, &path.field("secretKeyRef"), errors);
    }
    if let Some(file) = &source.file_key_ref {
        count += 1;
        let path = path.field("fileKeyRef");
        for (field, value) in [("key", &file.key), ("volumeName", &file.volume_name), ("path", &file.path)] {
            if value.is_empty() {
                errors.required(&path.field(field), "");
            }
        }
        local_path(&file.path, &path.field("path"), errors);
    }
    if count == 0 {
        let detail = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`";
        errors.invalid(path, "", detail);
    } else if !value.is_empty() {
        errors.invalid(path, "", "may not be specified when `value` is not empty");
    } else if count > 1 {
        errors.invalid(path, "", "may not have more than one field specified at a time");
    }
}

fn key_reference(name: &str, key: &str, path: &Path, errors: &mut Errors) {
    errors.invalid_all(&path.field("name"), name, names::dns1123_subdomain(name));
    match key {
        "" => errors.required(&path.field("key"), ""),
        key => errors.invalid_all(&path.field("key"), key, names::config_map_key(key)),
    }
}

pub fn object_field(field: &ObjectFieldSelector, allowed: &[&str], path: &Path, errors: &mut Errors) {
    if text(&field.api_version).is_empty() {
        return errors.required(&path.field("apiVersion"), "");
    }
    let value = field.field_path.as_str();
    if value.is_empty() {
        return errors.required(&path.field("fieldPath"), "");
    }
    let subscripted = value.strip_suffix("']").and_then(|value| value.split_once("['"));
    match subscripted {
        Some(("metadata.annotations", key)) => {
            errors.invalid_all(path, key, names::qualified_name(&key.to_lowercase()))
        }
        Some(("metadata.labels", key)) => errors.invalid_all(path, key, names::qualified_name(key)),
        Some(_) => {
            let detail = format!("error converting fieldPath: field label does not support subscript: {value}");
            errors.invalid(&path.field("fieldPath"), value, detail);
        }
        None if !KNOWN_FIELDS.contains(&value) => {
            let detail = format!("error converting fieldPath: field label not supported: {value}");
            errors.invalid(&path.field("fieldPath"), value, detail);
        }
        None => {
            let stored = if value == "spec.host" { "spec.nodeName" } else { value };
            errors.one_of(&path.field("fieldPath"), stored, allowed);
        }
    }
}

/// Where a container's resource is shown: a volume must say of which container.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Env,
    Volume,
}

pub fn resource_field(field: &ResourceFieldSelector, place: Place, path: &Path, errors: &mut Errors) {
    let resource = field.resource.as_str();
    let is_huge_pages = ["limits.hugepages-", "requests.hugepages-"].iter().any(|prefix| resource.starts_with(prefix));
    if place == Place::Volume && text(&field.container_name).is_empty() {
        errors.required(&path.field("containerName"), "");
    } else if resource.is_empty() {
        errors.required(&path.field("resource"), "");
    } else if !RESOURCE_FIELDS.contains(&resource) && !is_huge_pages {
        errors.not_supported(&path.field("resource"), resource, &RESOURCE_FIELDS);
    }
    divisor(resource, field.divisor.as_ref(), path, errors);
}

fn divisor(resource: &str, divisor: Option<&k8s::Quantity>, path: &Path, errors: &mut Errors) {
    let Some(divisor) = divisor.and_then(|divisor| Quantity::parse(&divisor.0).ok()).filter(|d| !d.is_zero()) else {
        return;
    };
    let (what, allowed): (&str, &[&str]) = match resource.split_once('.').map(|(_, name)| name) {
        Some("cpu") => ("cpu", &["1m", "1"]),
        Some("memory") => ("memory", &BYTE_DIVISORS),
        Some("ephemeral-storage") => ("local ephemeral storage", &BYTE_DIVISORS),
        Some(name) if name.starts_with("hugepages-") => ("hugepages", &BYTE_DIVISORS),
        Some(_) | None => return,
    };
    if !allowed.contains(&divisor.to_string().as_str()) {
        let list = if what == "cpu" { "1m and 1".to_owned() } else { allowed.join(", ") };
        let detail = format!("only divisor's values {list} are supported with the {what} resource");
        errors.invalid(&path.field("divisor"), resource, detail);
    }
}

pub fn sources(sources: &[EnvFromSource], path: &Path, errors: &mut Errors) {
    for (i, source) in sources.iter().enumerate() {
        let item = path.index(i);
        let prefix = text(&source.prefix);
        if !prefix.is_empty() {
            errors.invalid_all(&item.field("prefix"), prefix, names::env_var_name(prefix));
        }
        let named = [
            ("configMapRef", source.config_map_ref.as_ref().map(|source| &source.name)),
            ("secretRef", source.secret_ref.as_ref().map(|source| &source.name)),
        ];
        for (field, name) in named.into_iter().filter_map(|(field, name)| Some((field, name?))) {
            let name_path = item.field(field);
            match name.as_str() {
                "" => errors.required(&name_path.field("name"), ""),
                name => errors.invalid_all(&name_path.field("name"), name, names::dns1123_subdomain(name)),
            }
        }
        match named.iter().filter(|(_, name)| name.is_some()).count() {
            0 => errors.invalid(path, "", "must specify one of: `configMapRef` or `secretRef`"),
            1 => {}
            _ => errors.invalid(path, "", "may not have more than one field specified at a time"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::rules::texts;

    fn check(variable: Value, expected: &[&str]) {
        let mut errors = Errors::default();
        variables(&[serde_json::from_value(variable).unwrap()], &Path::root("env"), &mut errors);
        assert_eq!(texts(errors.0), expected);
    }

    #[test]
    fn variables_have_one_source() {
        check(json!({"name": "A", "value": "x"}), &[]);
        check(json!({"name": "A", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"}}}), &[]);
        check(
            json!({"name": "A", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.labels['a/b']"}}}),
            &[],
        );
        check(
            json!({"name": "A=", "value": "x", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}}),
            &[
                "env[0].name: Invalid value: \"A=\": a valid environment variable name must consist only of printable ASCII characters other than '='",
                "env[0].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty",
            ],
        );
        check(
            json!({"name": "A", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.phase"}}}),
            &[
                "env[0].valueFrom.fieldRef.fieldPath: Unsupported value: \"status.phase\": supported values: \"metadata.name\", \"metadata.namespace\", \"metadata.uid\", \"spec.nodeName\", \"spec.serviceAccountName\", \"status.hostIP\", \"status.hostIPs\", \"status.podIP\", \"status.podIPs\"",
            ],
        );
        check(
            json!({"name": "A", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "2"}}}),
            &[
                "env[0].valueFrom.resourceFieldRef.divisor: Invalid value: \"limits.cpu\": only divisor's values 1m and 1 are supported with the cpu resource",
            ],
        );
    }
}
