//! Every pod runs as a ServiceAccount and, unless it declines, finds that account's token
//! in its containers.
//!
//! Source: plugin/pkg/admission/serviceaccount.

use api_types::{ApiError, Key, resources};
use serde_json::{Value, json};

use super::Attributes;
use crate::{
    reader::Reader,
    rules::edit::{child, each, list, set, text, text_at},
};

/// In a refusal that a moment's patience may mend: the account of a new namespace is made by a controller.
pub const MISSING_DEFAULT_ACCOUNT: &str = "serviceaccount \"default\" not found";
const DEFAULT: &str = "default";
const MIRROR: &str = "kubernetes.io/config.mirror";
const VOLUME_PREFIX: &str = "kube-api-access-";
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// An hour and a few seconds: clients that ask for exactly an hour can be told from this default.
const TOKEN_EXPIRATION_S: i64 = 3607;
const FILE_MODE: i64 = 0o644;

fn is_mirror(pod: &Value) -> bool {
    pod["metadata"]["annotations"].get(MIRROR).is_some()
}

pub(super) fn fill(attributes: &Attributes, pod: &mut Value, reader: &dyn Reader) -> Result<(), ApiError> {
    // The apiserver never gives a static pod's mirror a token: its kubelet could not use it.
    if !attributes.creates(&resources::POD) || is_mirror(pod) {
        return Ok(());
    }
    let spec = child(pod, "spec");
    if text(spec, "serviceAccountName").is_empty() {
        set(spec, "serviceAccountName", DEFAULT);
        set(spec, "serviceAccount", DEFAULT);
    }
    let name = text(spec, "serviceAccountName").to_owned();
    let namespace = &attributes.key.namespace;
    let Some(account) = reader.get(&resources::SERVICE_ACCOUNT, &Key::new(namespace, &name)) else {
        let why = format!("error looking up service account {namespace}/{name}: serviceaccount \"{name}\" not found");
        return Err(attributes.forbidden(why));
    };
    let says = |object: &Value| object.get("automountServiceAccountToken").and_then(Value::as_bool);
    if says(spec).or_else(|| says(&account)).unwrap_or(true) {
        mount_token(spec, attributes.suffix);
    }
    let secrets = list(&account, "imagePullSecrets");
    if list(spec, "imagePullSecrets").is_empty() && !secrets.is_empty() {
        let secrets: Vec<Value> = secrets.iter().map(|secret| json!({ "name": secret["name"] })).collect();
        set(spec, "imagePullSecrets", secrets);
    }
    Ok(())
}

fn mount_token(spec: &mut Value, suffix: &str) {
    let given =
        list(spec, "volumes").iter().map(|volume| text(volume, "name")).find(|name| name.starts_with(VOLUME_PREFIX));
    let has_volume = given.is_some();
    let name = given.map_or_else(|| format!("{VOLUME_PREFIX}{suffix}"), str::to_owned);
    let mut is_needed = false;
    for containers in ["initContainers", "containers"] {
        for container in each(spec, containers) {
            if list(container, "volumeMounts").iter().any(|mount| text(mount, "mountPath") == MOUNT_PATH) {
                continue;
            }
            push(container, "volumeMounts", json!({ "name": name, "readOnly": true, "mountPath": MOUNT_PATH }));
            is_needed = true;
        }
    }
    if is_needed && !has_volume {
        push(spec, "volumes", token_volume(&name));
    }
}

fn push(object: &mut Value, field: &str, item: Value) {
    match object.get_mut(field).and_then(Value::as_array_mut) {
        Some(items) => items.push(item),
        None => set(object, field, vec![item]),
    }
}

/// The token, the cluster's CA, and the namespace.
fn token_volume(name: &str) -> Value {
    json!({
        "name": name,
        "projected": {
            "defaultMode": FILE_MODE,
            "sources": [
                { "serviceAccountToken": { "expirationSeconds": TOKEN_EXPIRATION_S, "path": "token" } },
                { "configMap": { "name": "kube-root-ca.crt", "items": [{ "key": "ca.crt", "path": "ca.crt" }] } },
                { "downwardAPI": { "items": [{
                    "path": "namespace",
                    "fieldRef": { "apiVersion": "v1", "fieldPath": "metadata.namespace" },
                }] } },
            ],
        },
    })
}

/// A mirror pod shows a file of its node: it can hold nothing of the cluster's.
pub(super) fn validate(attributes: &Attributes, pod: Option<&Value>, _: &dyn Reader) -> Result<(), ApiError> {
    let Some(pod) = pod.filter(|pod| attributes.creates(&resources::POD) && is_mirror(pod)) else { return Ok(()) };
    if !text_at(pod, "/spec/serviceAccountName").is_empty() {
        return Err(attributes.forbidden("a mirror pod may not reference service accounts"));
    }
    for volume in list(&pod["spec"], "volumes") {
        if volume.get("secret").is_some() {
            return Err(attributes.forbidden("a mirror pod may not reference secrets"));
        }
        let sources = volume.get("projected").map(|projected| list(projected, "sources")).unwrap_or_default();
        if sources.iter().any(|source| source.get("serviceAccountToken").is_some()) {
            return Err(attributes.forbidden("a mirror pod may not use ServiceAccountToken volume projections"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{
        super::fixture::{Objects, filled, refusal},
        *,
    };

    fn objects(account: Value) -> Objects {
        Objects::default().with(resources::SERVICE_ACCOUNT, account)
    }

    #[test]
    fn pods_find_a_token() {
        let account = json!({"metadata": {"name": "default", "namespace": "n"}, "imagePullSecrets": [{"name": "s"}]});
        let pod = json!({"spec": {"containers": [{"name": "c"}, {"name": "d", "volumeMounts": [{"name": "own", "mountPath": MOUNT_PATH}]}]}});
        let pod = filled(fill, &resources::POD, pod, &objects(account)).unwrap();
        assert_eq!(pod["spec"]["serviceAccountName"], "default");
        assert_eq!(
            pod["spec"]["containers"][0]["volumeMounts"],
            json!([{"name": "kube-api-access-abcde", "readOnly": true, "mountPath": MOUNT_PATH}])
        );
        assert_eq!(pod["spec"]["containers"][1]["volumeMounts"].as_array().unwrap().len(), 1);
        assert_eq!(pod["spec"]["volumes"][0]["name"], "kube-api-access-abcde");
        assert_eq!(pod["spec"]["imagePullSecrets"], json!([{"name": "s"}]));
    }

    #[test]
    fn an_account_may_decline() {
        let account = json!({"metadata": {"name": "default", "namespace": "n"}, "automountServiceAccountToken": false});
        let pod =
            filled(fill, &resources::POD, json!({"spec": {"containers": [{"name": "c"}]}}), &objects(account)).unwrap();
        assert_eq!(pod["spec"].get("volumes"), None);
    }

    #[test]
    fn an_account_must_exist() {
        let refused = filled(fill, &resources::POD, json!({"spec": {"serviceAccountName": "x"}}), &Objects::default());
        assert_eq!(
            refused.unwrap_err(),
            "pods \"x\" is forbidden: error looking up service account n/x: serviceaccount \"x\" not found"
        );
        let mirror = json!({"metadata": {"annotations": {MIRROR: "h"}}, "spec": {"serviceAccountName": "x"}});
        assert_eq!(
            refusal(validate, &resources::POD, &mirror, &Objects::default()),
            "pods \"x\" is forbidden: a mirror pod may not reference service accounts"
        );
    }
}
