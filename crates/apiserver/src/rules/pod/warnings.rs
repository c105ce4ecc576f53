//! What a pod or template may say, but probably does not mean.
//!
//! Source: pkg/api/pod/warnings.go.

use std::collections::{BTreeMap, BTreeSet};

use api_types::k8s::core::{Container, PodSpec};
use serde::Deserialize;
use serde_json::Value;

use crate::rules::{
    amounts,
    path::{Path, items, text},
};

const RENAMED_LABELS: [(&str, &str, &str); 6] = [
    ("beta.kubernetes.io/arch", "v1.14", "kubernetes.io/arch"),
    ("beta.kubernetes.io/os", "v1.14", "kubernetes.io/os"),
    ("failure-domain.beta.kubernetes.io/region", "v1.17", "topology.kubernetes.io/region"),
    ("failure-domain.beta.kubernetes.io/zone", "v1.17", "topology.kubernetes.io/zone"),
    ("beta.kubernetes.io/instance-type", "v1.17", "node.kubernetes.io/instance-type"),
    ("kubernetes.io/role", "v1.14", "node-role.kubernetes.io/<role>"),
];

/// `at` is where the spec stands in its object.
pub fn of_spec(spec: &Value, at: &str) -> Vec<String> {
    let Ok(spec) = PodSpec::deserialize(spec) else { return Vec::new() };
    let path = Path::root(at);
    let mut warnings = Vec::new();
    for key in spec.node_selector.iter().flatten().map(|(key, _)| key) {
        if let Some((_, since, name)) = RENAMED_LABELS.iter().find(|(old, _, _)| old == key) {
            let field = path.field("nodeSelector");
            warnings.push(format!("{}: deprecated since {since}; use {name:?} instead", field.key(key)));
        }
    }
    for (i, secret) in items(&spec.image_pull_secrets).iter().enumerate() {
        if secret.name.is_empty() {
            let field = path.field("imagePullSecrets");
            warnings.push(format!("{}: invalid empty name \"\"", field.index(i).field("name")));
        }
    }
    if spec.termination_grace_period_seconds.is_some_and(|grace_s| grace_s < 0) {
        let field = path.field("terminationGracePeriodSeconds");
        warnings.push(format!("{field}: must be >= 0; negative values are invalid and will be treated as 1"));
    }
    volumes(&spec, &path, &mut warnings);
    for (field, containers) in
        [("initContainers", items(&spec.init_containers)), ("containers", spec.containers.as_slice())]
    {
        for (i, container) in containers.iter().enumerate() {
            of_container(container, &path.field(field).index(i), &mut warnings);
        }
    }
    warnings
}

fn volumes(spec: &PodSpec, path: &Path, warnings: &mut Vec<String>) {
    let field = path.field("volumes");
    for (i, volume) in items(&spec.volumes).iter().enumerate() {
        let at = field.index(i);
        for (source, is_used, what) in [
            ("gitRepo", volume.git_repo.is_some(), "deprecated in v1.11, and disabled by default in v1.33+"),
            ("glusterfs", volume.glusterfs.is_some(), "deprecated in v1.25, non-functional in v1.26+"),
            ("cephfs", volume.cephfs.is_some(), "deprecated in v1.28, non-functional in v1.31+"),
            ("rbd", volume.rbd.is_some(), "deprecated in v1.28, non-functional in v1.31+"),
        ] {
            if is_used {
                warnings.push(format!("{}: {what}", at.field(source)));
            }
        }
    }
}

fn of_container(container: &Container, path: &Path, warnings: &mut Vec<String>) {
    let mut names = BTreeSet::new();
    for (i, variable) in items(&container.env).iter().enumerate() {
        if !names.insert(&variable.name) {
            let field = path.field("env");
            let name = &variable.name;
            warnings.push(format!(
                "{}: hides previous definition of {name:?}, which may be dropped when using apply",
                field.index(i)
            ));
        }
    }
    let mut ports = BTreeMap::new();
    let field = path.field("ports");
    for (i, port) in items(&container.ports).iter().enumerate() {
        let what = (port.container_port, text(&port.protocol), port.host_port.unwrap_or(0), text(&port.host_ip));
        if let Some(first) = ports.get(&what) {
            warnings.push(format!("{}: duplicate port definition with {}", field.index(i), field.index(*first)));
        } else {
            ports.insert(what, i);
        }
    }
    let Some(resources) = &container.resources else { return };
    for (list, given) in [("limits", &resources.limits), ("requests", &resources.requests)] {
        for (name, amount) in amounts::each(given) {
            let quantity = amounts::parse(amount);
            if matches!(name, "memory" | "ephemeral-storage") && !quantity.is_integer() {
                let field = path.field("resources").to_string();
                let quantity = quantity.to_string();
                warnings.push(format!(
                    "{field}.{list}[{name}]: fractional byte value {quantity:?} is invalid, must be an integer"
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn warns() {
        let spec = json!({"nodeSelector": {"beta.kubernetes.io/os": "linux"}, "terminationGracePeriodSeconds": -1,
            "containers": [{"name": "c", "env": [{"name": "A"}, {"name": "A"}], "ports": [{"containerPort": 1}, {"containerPort": 1}],
                "resources": {"limits": {"memory": "100m"}}}]});
        assert_eq!(
            of_spec(&spec, "spec"),
            [
                "spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead",
                "spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1",
                "spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped when using apply",
                "spec.containers[0].ports[1]: duplicate port definition with spec.containers[0].ports[0]",
                "spec.containers[0].resources.limits[memory]: fractional byte value \"100m\" is invalid, must be an integer",
            ]
        );
    }
}
