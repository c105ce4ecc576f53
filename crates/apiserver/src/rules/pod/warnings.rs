//! What a pod or template may say, but probably does not mean.
//!
//! Source: pkg/api/pod/warnings.go.

use std::collections::{BTreeMap, BTreeSet};

use api_types::{
    k8s::{
        self,
        core::{Container, PodSpec},
    },
    names,
};
use serde::Deserialize;
use serde_json::Value;

use crate::rules::{
    amounts,
    edit::{map, text_at},
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

/// Annotations that fields have taken the place of.
const OLD_ANNOTATIONS: [(&str, &str); 4] = [
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        "non-functional in v1.16+; use the \"priorityClassName\" field instead",
    ),
    ("security.alpha.kubernetes.io/sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
    ("security.alpha.kubernetes.io/unsafe-sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
    ("seccomp.security.alpha.kubernetes.io/pod", "non-functional in v1.27+; use the \"seccompProfile\" field instead"),
];
const OLD_PROFILES: [(&str, &str); 2] = [
    (
        "container.seccomp.security.alpha.kubernetes.io/",
        "non-functional in v1.27+; use the \"seccompProfile\" field instead",
    ),
    (
        "container.apparmor.security.beta.kubernetes.io/",
        "deprecated since v1.30; use the \"appArmorProfile\" field instead",
    ),
];
const MATCHES_NOTHING: &str = "a null labelSelector results in matching no pod";

/// A pod that is created, or changed from `old`.
pub fn of_pod(pod: &Value, old: Option<&Value>) -> Vec<String> {
    let mut warnings = Vec::new();
    if old.is_none() {
        warnings.extend(of_name(pod, "the Pod's hostname"));
    }
    if pod.pointer("/metadata/deletionTimestamp").is_none() {
        warnings.extend(of_annotations(&pod["metadata"], "metadata.annotations"));
        warnings.extend(of_spec(&pod["spec"], "spec"));
    }
    warnings
}

/// The template at this place of an object, of which pods are named. What did not change is not warned of again.
pub fn of_template(object: &Value, old: Option<&Value>, template: &str) -> Vec<String> {
    let mut warnings = Vec::new();
    if old.is_none() && NAMES_PODS.contains(&text_at(object, "/kind")) {
        warnings.extend(of_name(object, "Pod names and hostnames"));
    }
    let pointer = format!("/{}", template.replace('.', "/"));
    let at = |object: &Value| object.pointer(&pointer).cloned();
    if old.is_none_or(|old| at(old) != at(object)) {
        let template_value = at(object).unwrap_or_default();
        warnings.extend(of_annotations(&template_value["metadata"], &format!("{template}.metadata.annotations")));
        warnings.extend(of_spec(&template_value["spec"], &format!("{template}.spec")));
    }
    warnings
}

const NAMES_PODS: [&str; 5] = ["CronJob", "Deployment", "Job", "ReplicaSet", "ReplicationController"];

fn of_name(object: &Value, what: &str) -> Option<String> {
    let wrong = names::dns1123_label(text_at(object, "/metadata/name"));
    let words = format!(
        "metadata.name: this is used in {what}, which can result in surprising behavior; a DNS label is recommended: [{}]",
        wrong.join(" ")
    );
    (!wrong.is_empty()).then_some(words)
}

fn of_annotations(metadata: &Value, at: &str) -> Vec<String> {
    let path = Path::root(at);
    let annotations = map(metadata, "annotations").map(|(key, _)| key);
    let old = annotations.filter_map(|key| {
        let whole = OLD_ANNOTATIONS.iter().find(|(old, _)| old == key);
        let (_, what) = whole.or_else(|| OLD_PROFILES.iter().find(|(prefix, _)| key.starts_with(prefix)))?;
        Some(format!("{}: {what}", path.key(key)))
    });
    old.collect()
}

/// `at` is where the spec stands in its object.
fn of_spec(spec: &Value, at: &str) -> Vec<String> {
    let Ok(spec) = PodSpec::deserialize(spec) else { return Vec::new() };
    let path = Path::root(at);
    let mut warnings = Vec::new();
    for key in spec.node_selector.iter().flatten().map(|(key, _)| key) {
        let field = path.field("nodeSelector");
        warnings.extend(renamed(key, &field.key(key)));
    }
    placement(&spec, &path, &mut warnings);
    let secrets = items(&spec.image_pull_secrets);
    for (i, secret) in secrets.iter().enumerate() {
        let field = path.field("imagePullSecrets");
        let name_path = field.index(i);
        let name_path = name_path.field("name");
        if secret.name.is_empty() {
            warnings.push(format!("{name_path}: invalid empty name \"\""));
        } else if secrets[..i].contains(secret) {
            let first = secrets.iter().position(|other| other == secret).unwrap_or_default();
            warnings.push(format!("{name_path}: duplicate name {:?} (first at index {first})", secret.name));
        }
    }
    for (name, amount) in amounts::each(&spec.overhead) {
        warnings.extend(fraction(name, amount, &path.field("overhead").key(name)));
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

/// Also of selectors elsewhere: storage classes, volumes.
pub fn renamed(label: &str, path: &Path) -> Option<String> {
    let (_, since, name) = RENAMED_LABELS.iter().find(|(old, _, _)| *old == label)?;
    Some(format!("{path}: deprecated since {since}; use {name:?} instead"))
}

/// Terms that name a label by its former name, or select nothing.
fn placement(spec: &PodSpec, path: &Path, warnings: &mut Vec<String>) {
    let affinity = spec.affinity.clone().unwrap_or_default();
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    let node = affinity.node_affinity.and_then(|node| node.required_during_scheduling_ignored_during_execution);
    for (i, term) in node.iter().flat_map(|selector| &selector.node_selector_terms).enumerate() {
        for (j, requirement) in items(&term.match_expressions).iter().enumerate() {
            let field = path.field("affinity.nodeAffinity").field(required).to_string();
            let field =
                Path::root(&field).field("nodeSelectorTerms").index(i).field("matchExpressions").index(j).to_string();
            warnings.extend(renamed(&requirement.key, &Path::root(&field).field("key")));
        }
    }
    let pods = affinity.pod_affinity.and_then(|pods| pods.required_during_scheduling_ignored_during_execution);
    let apart = affinity.pod_anti_affinity.and_then(|pods| pods.required_during_scheduling_ignored_during_execution);
    for (kind, terms) in [("podAffinity", pods), ("podAntiAffinity", apart)] {
        for (i, term) in items(&terms).iter().enumerate() {
            let field = format!("{path}.affinity.{kind}.{required}[{i}]");
            if term.label_selector.is_none() {
                warnings.push(format!("{field}.labelSelector: {MATCHES_NOTHING}"));
            }
            warnings.extend(renamed(&term.topology_key, &Path::root(&field).field("topologyKey")));
        }
    }
    for (i, constraint) in items(&spec.topology_spread_constraints).iter().enumerate() {
        let field = format!("{path}.topologySpreadConstraints[{i}]");
        warnings.extend(renamed(&constraint.topology_key, &Path::root(&field).field("topologyKey")));
        if constraint.label_selector.is_none() {
            warnings.push(format!("{field}.labelSelector: {MATCHES_NOTHING}"));
        }
    }
}

fn fraction(name: &str, amount: &k8s::Quantity, path: &Path) -> Option<String> {
    let quantity = amounts::parse(amount);
    let is_whole = !matches!(name, "memory" | "ephemeral-storage" | "storage") || quantity.is_integer();
    let quantity = quantity.to_string();
    (!is_whole).then(|| format!("{path}: fractional byte value {quantity:?} is invalid, must be an integer"))
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
            (
                "photonPersistentDisk",
                volume.photon_persistent_disk.is_some(),
                "deprecated in v1.11, non-functional in v1.16+",
            ),
            ("scaleIO", volume.scale_io.is_some(), "deprecated in v1.16, non-functional in v1.22+"),
            ("flocker", volume.flocker.is_some(), "deprecated in v1.22, non-functional in v1.25+"),
            ("quobyte", volume.quobyte.is_some(), "deprecated in v1.22, non-functional in v1.25+"),
            ("storageos", volume.storageos.is_some(), "deprecated in v1.22, non-functional in v1.25+"),
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
            warnings.extend(fraction(name, amount, &path.field("resources").field(list).key(name)));
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

    #[test]
    fn names_and_annotations() {
        let pod = json!({"metadata": {"name": "a.b", "annotations": {"container.apparmor.security.beta.kubernetes.io/c": "x"}}, "spec": {
            "containers": [], "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule"}]}});
        assert_eq!(
            of_pod(&pod, None),
            [
                "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: [must not contain dots]",
                "metadata.annotations[container.apparmor.security.beta.kubernetes.io/c]: deprecated since v1.30; use the \"appArmorProfile\" field instead",
                "spec.topologySpreadConstraints[0].labelSelector: a null labelSelector results in matching no pod",
            ]
        );
        let job = json!({"kind": "Job", "metadata": {"name": "a"}, "spec": {"template": {"spec": {"containers": [], "terminationGracePeriodSeconds": -1}}}});
        assert_eq!(of_template(&job, None, "spec.template").len(), 1);
        assert_eq!(of_template(&job, Some(&job), "spec.template").len(), 0, "nothing changed");
    }
}
