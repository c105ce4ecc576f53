//! ConfigMaps, Secrets and ServiceAccounts.
//!
//! Source: pkg/registry/core/{configmap,secret,serviceaccount}.

use api_types::{
    FieldError,
    k8s::core::{ConfigMap, Secret},
    names,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::Value;

use super::{
    PLAIN, Rules, check,
    edit::{child, fill_text, remove, set, text},
    path::{Errors, Path, text as some_text},
    warnings,
};

/// Most that the values of one ConfigMap or Secret may hold.
const DATA_MAX_BYTES: usize = 1024 * 1024;
/// How upstream writes a path without a field.
const WHOLE: Path = Path::root("[]");
const IMMUTABLE_SET: &str = "field is immutable when `immutable` is set";
const SERVICE_ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";

pub const CONFIG_MAP: Rules =
    Rules { validate: |map| check(map, validate_config_map), validate_update: validate_config_map_update, ..PLAIN };
/// No rules but the answer to a delete, and a warning.
pub const SERVICE_ACCOUNT: Rules = Rules { warnings: warnings::service_account, returns_deleted: true, ..PLAIN };
pub const SECRET: Rules = Rules {
    default: default_secret,
    prepare_update: |new, old| {
        if text(new, "type").is_empty() {
            set(new, "type", text(old, "type"));
        }
    },
    validate: |secret| check(secret, validate_secret),
    validate_update: validate_secret_update,
    selectable: |secret| vec![("type", text(secret, "type").to_owned())],
    selectable_names: &["type"],
    ..PLAIN
};

/// `stringData` is written only: its texts go into `data`.
fn default_secret(secret: &mut Value) {
    fill_text(secret, "type", "Opaque");
    let Some(Value::Object(texts)) = remove(secret, "stringData") else { return };
    for (key, value) in texts {
        let encoded = STANDARD.encode(value.as_str().unwrap_or_default());
        set(child(secret, "data"), &key, encoded);
    }
}

fn validate_config_map(map: &ConfigMap, errors: &mut Errors) {
    let (data, binary) = (Path::root("data"), Path::root("binaryData"));
    let mut size = 0;
    for (key, value) in map.data.iter().flatten() {
        errors.invalid_all(&data.key(key), key.as_str(), names::config_map_key(key));
        if map.binary_data.iter().flatten().any(|(other, _)| other == key) {
            errors.invalid(&data.key(key), key, "duplicate of key present in binaryData");
        }
        size += value.len();
    }
    for (key, value) in map.binary_data.iter().flatten() {
        errors.invalid_all(&binary.key(key), key.as_str(), names::config_map_key(key));
        size += value.0.len();
    }
    if size > DATA_MAX_BYTES {
        errors.too_long(&WHOLE, DATA_MAX_BYTES);
    }
}

fn validate_config_map_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = validate_frozen(new, old, &["data", "binaryData"]);
    errors.extend(check(new, validate_config_map));
    errors
}

fn validate_frozen(new: &Value, old: &Value, fields: &[&str]) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let immutable = |object: &Value| object.get("immutable").and_then(Value::as_bool).unwrap_or(false);
    if immutable(old) {
        if !immutable(new) {
            errors.forbidden(&Path::root("immutable"), IMMUTABLE_SET);
        }
        for field in fields {
            if content(new, field) != content(old, field) {
                errors.forbidden(&Path::root(field), IMMUTABLE_SET);
            }
        }
    }
    errors.0
}

/// An empty map is as good as none.
fn content<'a>(object: &'a Value, field: &str) -> Option<&'a Value> {
    object.get(field).filter(|value| value.as_object().is_some_and(|map| !map.is_empty()))
}

fn validate_secret(secret: &Secret, errors: &mut Errors) {
    let data = Path::root("data");
    let mut size = 0;
    for (key, value) in secret.data.iter().flatten() {
        errors.invalid_all(&data.key(key), key.as_str(), names::config_map_key(key));
        size += value.0.len();
    }
    if size > DATA_MAX_BYTES {
        errors.too_long(&data, DATA_MAX_BYTES);
    }
    validate_secret_type(secret, errors);
}

/// Types that Kubernetes knows need certain keys.
fn validate_secret_type(secret: &Secret, errors: &mut Errors) {
    let data = Path::root("data");
    let has = |key: &str| secret.data.iter().flatten().any(|(name, _)| name == key);
    let value = |key: &str| secret.data.as_ref().and_then(|data| data.get(key)).map(|bytes| bytes.0.as_slice());
    match some_text(&secret.type_) {
        "kubernetes.io/service-account-token" => {
            let annotation = secret.metadata.annotations.as_ref().and_then(|all| all.get(SERVICE_ACCOUNT_NAME));
            if annotation.is_none_or(String::is_empty) {
                errors.required(&Path::root("metadata.annotations").key(SERVICE_ACCOUNT_NAME), "");
            }
        }
        "kubernetes.io/dockercfg" => validate_json(value(".dockercfg"), &data.key(".dockercfg"), errors),
        "kubernetes.io/dockerconfigjson" => {
            validate_json(value(".dockerconfigjson"), &data.key(".dockerconfigjson"), errors);
        }
        "kubernetes.io/basic-auth" if !has("username") && !has("password") => {
            errors.required(&data.key("username"), "");
            errors.required(&data.key("password"), "");
        }
        "kubernetes.io/ssh-auth" if value("ssh-privatekey").is_none_or(<[u8]>::is_empty) => {
            errors.required(&data.key("ssh-privatekey"), "");
        }
        "kubernetes.io/tls" => {
            for key in ["tls.crt", "tls.key"].into_iter().filter(|key| !has(key)) {
                errors.required(&data.key(key), "");
            }
        }
        _ => {}
    }
}

fn validate_json(value: Option<&[u8]>, path: &Path, errors: &mut Errors) {
    match value {
        None => errors.required(path, ""),
        Some(bytes) => {
            if let Err(error) = serde_json::from_slice::<serde_json::Map<String, Value>>(bytes) {
                errors.invalid(path, "<secret contents redacted>", error.to_string());
            }
        }
    }
}

fn validate_secret_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    if text(new, "type") != text(old, "type") {
        errors.invalid(&Path::root("type"), text(new, "type"), super::path::IMMUTABLE);
    }
    errors.0.extend(validate_frozen(new, old, &["data"]));
    errors.0.extend(check(new, validate_secret));
    errors.0
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::rules::texts;

    #[test]
    fn string_data_goes_into_data() {
        let mut secret = json!({"data": {"a": "eA=="}, "stringData": {"k": "v"}});
        default_secret(&mut secret);
        assert_eq!(secret, json!({"type": "Opaque", "data": {"a": "eA==", "k": "dg=="}}));
    }

    #[test]
    fn too_much_data_is_an_error_of_the_whole_object() {
        let map = json!({"data": {"a": "x".repeat(DATA_MAX_BYTES + 1)}});
        assert_eq!(texts(check(&map, validate_config_map)), ["[]: Too long: may not be more than 1048576 bytes"]);
    }

    #[test]
    fn frozen_maps_do_not_change() {
        let old = json!({"immutable": true, "data": {"a": "1"}});
        let new = json!({"immutable": true, "data": {"a": "2"}});
        assert_eq!(
            texts(validate_config_map_update(&new, &old)),
            ["data: Forbidden: field is immutable when `immutable` is set"]
        );
        assert_eq!(texts(validate_config_map_update(&old, &old)), [""; 0]);
    }

    #[test]
    fn secrets_hold_what_their_type_needs() {
        for (secret, errors) in [
            (json!({"type": "Opaque"}), &[][..]),
            (json!({"type": "kubernetes.io/tls"}), &["data[tls.crt]: Required value", "data[tls.key]: Required value"]),
            (json!({"type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": "e30="}}), &[]),
            (
                json!({"data": {"a b": ""}}),
                &[
                    "data[a b]: Invalid value: \"a b\": a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
                ],
            ),
        ] {
            assert_eq!(texts(check(&secret, validate_secret)), errors);
        }
    }
}
