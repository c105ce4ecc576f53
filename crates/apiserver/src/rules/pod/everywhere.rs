//! A rule of containers holds in each of a pod's three lists: whatever is refused in a regular container is refused
//! in an init container and in an ephemeral one (attack table, row 18).

use serde_json::{Value, json};

use super::{RULES, container, spec::Within, update, volume};
use crate::rules::{
    check,
    path::{Errors, Path},
};

const LISTS: [&str; 3] = ["containers", "initContainers", "ephemeralContainers"];

/// A field of a container, what is wrong with it, and the field that the refusal names.
const WRONG: &[(&str, &str, &str)] = &[
    ("name", r#""A""#, "name"),
    ("name", r#""""#, "name"),
    ("image", r#""""#, "image"),
    ("image", r#"" i""#, "image"),
    ("terminationMessagePolicy", r#""X""#, "terminationMessagePolicy"),
    ("imagePullPolicy", r#""X""#, "imagePullPolicy"),
    ("env", r#"[{"name":""}]"#, "env[0].name"),
    ("env", r#"[{"name":"A=B"}]"#, "env[0].name"),
    ("env", r#"[{"name":"A","valueFrom":{}}]"#, "env[0].valueFrom"),
    ("env", r#"[{"name":"A","value":"v","valueFrom":{"fieldRef":{"fieldPath":"metadata.name"}}}]"#, "env[0].valueFrom"),
    ("env", r#"[{"name":"A","valueFrom":{"fieldRef":{"fieldPath":"spec.x"}}}]"#, "env[0].valueFrom.fieldRef.fieldPath"),
    ("env", r#"[{"name":"A","valueFrom":{"secretKeyRef":{"name":"s"}}}]"#, "env[0].valueFrom.secretKeyRef.key"),
    (
        "env",
        r#"[{"name":"A","valueFrom":{"resourceFieldRef":{"resource":"x"}}}]"#,
        "env[0].valueFrom.resourceFieldRef.resource",
    ),
    ("envFrom", "[{}]", "envFrom"),
    ("envFrom", r#"[{"configMapRef":{"name":""}}]"#, "envFrom[0].configMapRef.name"),
    ("volumeMounts", r#"[{"name":"absent","mountPath":"/a"}]"#, "volumeMounts[0].name"),
    ("volumeMounts", r#"[{"name":"v"}]"#, "volumeMounts[0].mountPath"),
    ("volumeMounts", r#"[{"name":"v","mountPath":"/a"},{"name":"v","mountPath":"/a"}]"#, "volumeMounts[1].mountPath"),
    (
        "volumeMounts",
        r#"[{"name":"v","mountPath":"/a","mountPropagation":"Bidirectional"}]"#,
        "volumeMounts.mountPropagation",
    ),
    (
        "volumeMounts",
        r#"[{"name":"v","mountPath":"/a","recursiveReadOnly":"Enabled"}]"#,
        "volumeMounts.recursiveReadOnly",
    ),
    ("volumeMounts", r#"[{"name":"v","mountPath":"/a","subPath":"../a"}]"#, "volumeMounts.subPath"),
    ("volumeDevices", r#"[{"name":"absent","devicePath":"/a"}]"#, "volumeDevices[0].name"),
    ("volumeDevices", r#"[{"name":"v","devicePath":"/a"}]"#, "volumeDevices[0].name"),
    ("resources", r#"{"limits":{"cpu":"-1"}}"#, "resources.limits[cpu]"),
    ("resources", r#"{"requests":{"cpu":"2"},"limits":{"cpu":"1"}}"#, "resources.requests"),
    ("resources", r#"{"limits":{"nonsense":"1"}}"#, "resources.limits[nonsense]"),
    ("resources", r#"{"claims":[{"name":"absent"}]}"#, "resources.claims[0].name"),
    ("ports", r#"[{"containerPort":0}]"#, "ports[0].containerPort"),
    ("ports", r#"[{"containerPort":70000}]"#, "ports[0].containerPort"),
    ("ports", r#"[{"containerPort":1,"protocol":"X"}]"#, "ports[0].protocol"),
    ("resizePolicy", r#"[{"resourceName":"x","restartPolicy":"NotRequired"}]"#, "resizePolicy"),
    ("securityContext", r#"{"runAsUser":-1}"#, "securityContext.runAsUser"),
    ("securityContext", r#"{"runAsGroup":-1}"#, "securityContext.runAsGroup"),
    ("securityContext", r#"{"procMount":"X"}"#, "securityContext.procMount"),
    ("securityContext", r#"{"procMount":"Unmasked"}"#, "securityContext.procMount"),
    ("securityContext", r#"{"privileged":true,"allowPrivilegeEscalation":false}"#, "securityContext"),
    (
        "securityContext",
        r#"{"allowPrivilegeEscalation":false,"capabilities":{"add":["CAP_SYS_ADMIN"]}}"#,
        "securityContext",
    ),
    ("securityContext", r#"{"seccompProfile":{"type":"X"}}"#, "securityContext.seccompProfile.type"),
    (
        "securityContext",
        r#"{"seccompProfile":{"type":"Localhost"}}"#,
        "securityContext.seccompProfile.localhostProfile",
    ),
    (
        "securityContext",
        r#"{"seccompProfile":{"type":"Localhost","localhostProfile":"/a"}}"#,
        "securityContext.seccompProfile.localhostProfile",
    ),
    ("securityContext", r#"{"appArmorProfile":{"type":"X"}}"#, "securityContext.appArmorProfile.type"),
    (
        "securityContext",
        r#"{"appArmorProfile":{"type":"Localhost"}}"#,
        "securityContext.appArmorProfile.localhostProfile",
    ),
    ("securityContext", r#"{"windowsOptions":{"runAsUserName":""}}"#, "securityContext.windowsOptions.runAsUserName"),
    ("securityContext", r#"{"windowsOptions":{"hostProcess":true}}"#, "hostNetwork"),
];

fn pod(list: &str, container: &Value) -> Value {
    let mut pod =
        json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"volumes": [{"name": "v", "emptyDir": {}}]}});
    if list != "containers" {
        pod["spec"]["containers"] = json!([{"name": "main", "image": "i"}]);
    }
    pod["spec"][list] = json!([container]);
    (RULES.default)(&mut pod);
    pod
}

fn fields(pod: &Value) -> Vec<String> {
    check(pod, update::validate_create).into_iter().map(|error| error.field).collect()
}

#[test]
fn what_is_wrong_is_found_in_each_list() {
    for list in LISTS {
        let fine = json!({"name": "c", "image": "i", "volumeMounts": [{"name": "v", "mountPath": "/v"}]});
        let prefix = format!("spec.{list}[0]");
        let found = fields(&pod(list, &fine));
        assert!(!found.iter().any(|field| field.starts_with(&prefix)), "{list}: {found:?}");
        for (field, value, at) in WRONG {
            let mut wrong = fine.clone();
            wrong[*field] = serde_json::from_str(value).expect("JSON");
            let found = fields(&pod(list, &wrong));
            let named = if *at == "hostNetwork" { "spec.hostNetwork".to_owned() } else { format!("{prefix}.{at}") };
            assert!(found.contains(&named), "{list}: {field} {value}: no {named} in {found:?}");
        }
    }
}

/// The subresource that adds ephemeral containers finds the same.
#[test]
fn what_is_wrong_is_found_by_the_subresource() {
    for (field, value, at) in WRONG.iter().filter(|(_, _, at)| *at != "hostNetwork" && !at.contains("windowsOptions")) {
        let mut wrong = json!({"name": "c", "image": "i"});
        wrong[*field] = serde_json::from_str(value).expect("JSON");
        let pod = pod("ephemeralContainers", &wrong);
        let spec = serde_json::from_value(pod["spec"].clone()).expect("a spec");
        let mut errors = Errors::default();
        let list: Vec<_> = serde_json::from_value(pod["spec"]["ephemeralContainers"].clone()).expect("containers");
        let volumes: Vec<_> = serde_json::from_value(pod["spec"]["volumes"].clone()).expect("volumes");
        let volumes = volume::volumes(&volumes, Within::Template, &Path::root("v"), &mut errors);
        container::ephemeral(&spec, &list, &volumes, &Path::root("e"), &mut errors);
        let found: Vec<String> = errors.0.into_iter().map(|error| error.field).collect();
        assert!(found.contains(&format!("e[0].{at}")), "{field} {value}: no {at} in {found:?}");
    }
}
