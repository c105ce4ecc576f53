//! What a pod or pod template means where it says nothing.
//!
//! Source: pkg/apis/core/v1/defaults.go.

use serde_json::{Value, json};

use crate::rules::edit::{canonical_amount, canonical_amounts, child, each, field, fill, fill_text, pair, set, text};

const GRACE_PERIOD_S: i64 = 30;
const FILE_MODE: i64 = 0o644;
const TOKEN_EXPIRATION_S: i64 = 3600;

/// A pod: its spec, and what is not defaulted in templates.
pub fn default_pod(pod: &mut Value) {
    if let Some(status) = field(pod, "status") {
        pair(status, "podIP", "podIPs", |ip| json!({ "ip": ip }));
        pair(status, "hostIP", "hostIPs", |ip| json!({ "ip": ip }));
    }
    let Some(spec) = field(pod, "spec") else { return };
    default_spec(spec);
    fill(spec, "enableServiceLinks", true);
    let host_network = spec.get("hostNetwork").and_then(Value::as_bool).unwrap_or(false);
    requests_from_limits(spec, "resources");
    for list in ["containers", "initContainers"] {
        for container in each(spec, list) {
            requests_from_limits(container, "resources");
            if host_network {
                each(container, "ports").for_each(expose_on_host);
            }
        }
    }
}

/// The pod template of a workload's spec.
pub fn default_template(spec: &mut Value) {
    if let Some(template) = field(spec, "template") {
        child(template, "metadata");
        default_spec(child(template, "spec"));
    }
}

fn default_spec(spec: &mut Value) {
    fill_text(spec, "dnsPolicy", "ClusterFirst");
    fill_text(spec, "restartPolicy", "Always");
    fill_text(spec, "schedulerName", "default-scheduler");
    fill(spec, "securityContext", json!({}));
    fill(spec, "terminationGracePeriodSeconds", GRACE_PERIOD_S);
    service_account(spec);
    canonical_amounts(spec, "overhead");
    if let Some(resources) = field(spec, "resources") {
        canonical_resources(resources);
    }
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        each(spec, list).for_each(default_container);
    }
    each(spec, "volumes").for_each(default_volume);
}

/// `serviceAccount` is the older name of `serviceAccountName`; both show the same.
fn service_account(spec: &mut Value) {
    let name =
        [text(spec, "serviceAccountName"), text(spec, "serviceAccount")].into_iter().find(|name| !name.is_empty());
    if let Some(name) = name.map(str::to_owned) {
        set(spec, "serviceAccount", name.clone());
        set(spec, "serviceAccountName", name);
    }
}

fn default_container(container: &mut Value) {
    let policy = pull_policy(text(container, "image"));
    fill_text(container, "imagePullPolicy", policy);
    fill_text(container, "terminationMessagePath", "/dev/termination-log");
    fill_text(container, "terminationMessagePolicy", "File");
    canonical_resources(child(container, "resources"));
    for port in each(container, "ports") {
        fill_text(port, "protocol", "TCP");
    }
    for variable in each(container, "env") {
        if let Some(source) = field(variable, "valueFrom") {
            default_field_ref(source);
            canonical_divisor(source);
            if let Some(file) = field(source, "fileKeyRef") {
                fill(file, "optional", false);
            }
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = field(container, probe) {
            default_probe(probe);
        }
    }
    for hook in ["postStart", "preStop"] {
        if let Some(handler) = field(container, "lifecycle").and_then(|lifecycle| field(lifecycle, hook)) {
            default_http(handler);
        }
    }
    for policy in each(container, "resizePolicy") {
        fill_text(policy, "restartPolicy", "NotRequired");
    }
}

/// `Always` for an image named without a tag or as `latest`, unless a digest pins it.
fn pull_policy(image: &str) -> &'static str {
    let name = image.rsplit('/').next().unwrap_or_default();
    let (name, digest) = name.split_once('@').map_or((name, None), |(name, digest)| (name, Some(digest)));
    match name.split_once(':').map(|(_, tag)| tag) {
        Some("latest") => "Always",
        None if digest.is_none() && !image.is_empty() => "Always",
        _ => "IfNotPresent",
    }
}

fn canonical_resources(resources: &mut Value) {
    canonical_amounts(resources, "limits");
    canonical_amounts(resources, "requests");
}

/// A limit without a request requests as much.
fn requests_from_limits(object: &mut Value, resources: &str) {
    let Some(resources) = field(object, resources) else { return };
    let Some(limits) = resources.get("limits").and_then(Value::as_object).filter(|limits| !limits.is_empty()).cloned()
    else {
        return;
    };
    let requests = child(resources, "requests");
    for (name, amount) in limits {
        fill(requests, &name, amount);
    }
}

fn expose_on_host(port: &mut Value) {
    if port.get("hostPort").and_then(Value::as_i64).unwrap_or(0) == 0 {
        let container_port = port.get("containerPort").cloned().unwrap_or_default();
        set(port, "hostPort", container_port);
    }
}

fn default_probe(probe: &mut Value) {
    for (field, default) in
        [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
    {
        if probe.get(field).and_then(Value::as_i64).unwrap_or(0) == 0 {
            set(probe, field, default);
        }
    }
    default_http(probe);
    if let Some(grpc) = field(probe, "grpc") {
        fill(grpc, "service", "");
    }
}

fn default_http(handler: &mut Value) {
    if let Some(http) = field(handler, "httpGet") {
        fill_text(http, "path", "/");
        fill_text(http, "scheme", "HTTP");
    }
}

fn default_field_ref(source: &mut Value) {
    if let Some(reference) = field(source, "fieldRef") {
        fill_text(reference, "apiVersion", "v1");
    }
}

/// An absent divisor shows as zero, which stands for one.
fn canonical_divisor(source: &mut Value) {
    if let Some(reference) = field(source, "resourceFieldRef") {
        fill(reference, "divisor", "0");
        if let Some(divisor) = field(reference, "divisor") {
            canonical_amount(divisor);
        }
    }
}

fn default_volume(volume: &mut Value) {
    let has_source = volume
        .as_object()
        .is_some_and(|fields| fields.iter().any(|(name, source)| name != "name" && !source.is_null()));
    if !has_source {
        set(volume, "emptyDir", json!({}));
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = field(volume, source) {
            fill(source, "defaultMode", FILE_MODE);
        }
    }
    if let Some(empty) = field(volume, "emptyDir")
        && let Some(limit) = field(empty, "sizeLimit")
    {
        canonical_amount(limit);
    }
    if let Some(downward) = field(volume, "downwardAPI") {
        each(downward, "items").for_each(default_downward_item);
    }
    for source in volume.get_mut("projected").into_iter().flat_map(|projected| each(projected, "sources")) {
        if let Some(token) = field(source, "serviceAccountToken") {
            fill(token, "expirationSeconds", TOKEN_EXPIRATION_S);
        }
        if let Some(downward) = field(source, "downwardAPI") {
            each(downward, "items").for_each(default_downward_item);
        }
    }
    if let Some(path) = field(volume, "hostPath") {
        fill(path, "type", "");
    }
    if let Some(image) = field(volume, "image") {
        let policy = pull_policy(text(image, "reference"));
        fill_text(image, "pullPolicy", policy);
    }
    if let Some(template) = field(volume, "ephemeral").and_then(|ephemeral| field(ephemeral, "volumeClaimTemplate")) {
        child(template, "metadata");
        crate::rules::storage::claim::default_spec(child(template, "spec"));
    }
    default_network_disk(volume);
}

fn default_downward_item(item: &mut Value) {
    default_field_ref(item);
    canonical_divisor(item);
}

/// Disks that a pod's volume and a PersistentVolume name alike.
pub fn default_network_disk(volume: &mut Value) {
    for (source, defaults) in [
        ("iscsi", json!({"iscsiInterface": "default"})),
        ("rbd", json!({"pool": "rbd", "user": "admin", "keyring": "/etc/ceph/keyring"})),
        ("azureDisk", json!({"cachingMode": "ReadWrite", "kind": "Shared", "fsType": "ext4", "readOnly": false})),
        ("scaleIO", json!({"storageMode": "ThinProvisioned", "fsType": "xfs"})),
    ] {
        if let Some(disk) = field(volume, source) {
            for (name, default) in defaults.as_object().into_iter().flatten() {
                fill(disk, name, default.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(spec: Value) -> Value {
        let mut pod = json!({ "spec": spec });
        default_pod(&mut pod);
        pod["spec"].take()
    }

    #[test]
    fn images_are_pulled_by_tag() {
        for (image, policy) in [
            ("busybox", "Always"),
            ("busybox:latest", "Always"),
            ("busybox:1.36", "IfNotPresent"),
            ("localhost:5000/a", "Always"),
            ("localhost:5000/a:v1", "IfNotPresent"),
            ("a@sha256:00", "IfNotPresent"),
            ("a:latest@sha256:00", "Always"),
        ] {
            assert_eq!(pull_policy(image), policy, "{image}");
        }
    }

    #[test]
    fn a_bare_pod_is_filled() {
        assert_eq!(
            pod(json!({"containers": [{"name": "c", "image": "a:1"}], "serviceAccount": "x"})),
            json!({
                "containers": [{"name": "c", "image": "a:1", "imagePullPolicy": "IfNotPresent", "resources": {},
                    "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}],
                "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "schedulerName": "default-scheduler",
                "securityContext": {}, "terminationGracePeriodSeconds": 30, "enableServiceLinks": true,
                "serviceAccount": "x", "serviceAccountName": "x"
            })
        );
    }

    #[test]
    fn limits_become_requests_and_amounts_canonical() {
        let spec = pod(json!({"containers": [
            {"name": "c", "resources": {"limits": {"cpu": "1000m", "memory": "0.5Gi"}, "requests": {"cpu": 0.1}}}]}));
        assert_eq!(
            spec["containers"][0]["resources"],
            json!({"limits": {"cpu": "1", "memory": "512Mi"}, "requests": {"cpu": "100m", "memory": "512Mi"}})
        );
    }

    #[test]
    fn host_network_takes_host_ports() {
        let spec = pod(json!({"hostNetwork": true, "containers": [{"name": "c", "ports": [{"containerPort": 80}]}]}));
        assert_eq!(spec["containers"][0]["ports"], json!([{"containerPort": 80, "hostPort": 80, "protocol": "TCP"}]));
    }

    #[test]
    fn one_address_is_the_first_of_many() {
        for (status, expected) in [
            (json!({"podIP": "1.2.3.4"}), json!({"podIP": "1.2.3.4", "podIPs": [{"ip": "1.2.3.4"}]})),
            (json!({"podIPs": [{"ip": "1.2.3.4"}]}), json!({"podIP": "1.2.3.4", "podIPs": [{"ip": "1.2.3.4"}]})),
            (json!({"phase": "Pending"}), json!({"phase": "Pending"})),
        ] {
            let mut pod = json!({ "status": status });
            default_pod(&mut pod);
            assert_eq!(pod["status"], expected);
        }
    }

    #[test]
    fn volumes_and_probes_are_filled() {
        let spec = pod(json!({
            "containers": [{"name": "c", "livenessProbe": {"httpGet": {"port": 80}}, "readinessProbe": {"grpc": {"port": 1}}}],
            "volumes": [{"name": "a"}, {"name": "b", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]
        }));
        assert_eq!(
            spec["volumes"],
            json!([{"name": "a", "emptyDir": {}}, {"name": "b", "projected": {"defaultMode": 420,
                "sources": [{"serviceAccountToken": {"path": "t", "expirationSeconds": 3600}}]}}])
        );
        assert_eq!(
            spec["containers"][0]["livenessProbe"],
            json!({"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"}, "timeoutSeconds": 1, "periodSeconds": 10,
                "successThreshold": 1, "failureThreshold": 3})
        );
        assert_eq!(spec["containers"][0]["readinessProbe"]["grpc"], json!({"port": 1, "service": ""}));
    }
}
