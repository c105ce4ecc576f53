//! Containers of all three sorts: regular, init (with sidecars) and ephemeral.
//!
//! Source: `validateContainers` and its kin in pkg/apis/core/validation/validation.go.

use std::collections::{BTreeMap, BTreeSet};

use api_types::{
    k8s::core::{Container, ContainerPort, ContainerResizePolicy, EphemeralContainer, PodSpec, Volume},
    names,
};
use serde::Deserialize;
use serde_json::Value;

use super::{env, mount, probe, security, spec::RESTART_POLICIES};
use crate::rules::{
    address::{self, PROTOCOLS},
    amounts,
    path::{Errors, Path, items, text},
};

/// The valid volumes of a pod, by name.
pub type Volumes<'a> = BTreeMap<&'a str, &'a Volume>;

const RESTART_RULES_MAX: usize = 20;
const PULL_POLICIES: [&str; 3] = ["Always", "IfNotPresent", "Never"];
/// What a debugging container has no use for.
const NOT_EPHEMERAL: [&str; 9] = [
    "ports",
    "lifecycle",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "resources",
    "resizePolicy",
    "restartPolicy",
    "restartPolicyRules",
];

pub fn all(spec: &PodSpec, volumes: &Volumes, path: &Path, errors: &mut Errors) {
    regular(spec, volumes, &path.field("containers"), errors);
    init(spec, volumes, &path.field("initContainers"), errors);
    ephemeral(spec, items(&spec.ephemeral_containers), volumes, &path.field("ephemeralContainers"), errors);
}

fn regular(spec: &PodSpec, volumes: &Volumes, path: &Path, errors: &mut Errors) {
    if spec.containers.is_empty() {
        return errors.required(path, "");
    }
    let mut seen = BTreeSet::new();
    for (i, container) in spec.containers.iter().enumerate() {
        let path = path.index(i);
        common(container, spec, volumes, &path, errors);
        // An empty name is an error already.
        if !container.name.is_empty() && !seen.insert(&container.name) {
            errors.duplicate(&path.field("name"), &container.name);
        }
        probe::all(container, spec.termination_grace_period_seconds, &path, errors);
        restart_policy(container, &RESTART_POLICIES, &path, errors);
    }
    host_port_conflicts(spec.containers.iter().enumerate(), path, errors);
}

fn init(spec: &PodSpec, volumes: &Volumes, path: &Path, errors: &mut Errors) {
    let mut seen: BTreeSet<&String> = spec.containers.iter().map(|container| &container.name).collect();
    for (i, container) in items(&spec.init_containers).iter().enumerate() {
        let path = path.index(i);
        common(container, spec, volumes, &path, errors);
        restart_policy(container, &RESTART_POLICIES, &path, errors);
        if !container.name.is_empty() && !seen.insert(&container.name) {
            errors.duplicate(&path.field("name"), &container.name);
        }
        if is_sidecar(container) {
            probe::all(container, spec.termination_grace_period_seconds, &path, errors);
        } else {
            for (field, is_set) in [
                ("lifecycle", container.lifecycle.is_some()),
                ("livenessProbe", container.liveness_probe.is_some()),
                ("readinessProbe", container.readiness_probe.is_some()),
                ("startupProbe", container.startup_probe.is_some()),
            ] {
                if is_set {
                    let detail = "may not be set for init containers without restartPolicy=Always";
                    errors.forbidden(&path.field(field), detail);
                }
            }
        }
    }
    // Init containers run one by one, so that only a container's own ports can collide.
    for one in items(&spec.init_containers).iter().enumerate() {
        host_port_conflicts([one].into_iter(), path, errors);
    }
}

/// An init container that runs beside the regular ones.
pub fn is_sidecar(container: &Container) -> bool {
    text(&container.restart_policy) == "Always"
}

/// Also what /ephemeralcontainers validates.
pub fn ephemeral(
    spec: &PodSpec,
    containers: &[EphemeralContainer],
    volumes: &Volumes,
    path: &Path,
    errors: &mut Errors,
) {
    let others: BTreeSet<&str> =
        spec.containers.iter().chain(items(&spec.init_containers)).map(|container| container.name.as_str()).collect();
    let mut seen = others.clone();
    for (i, ephemeral) in containers.iter().enumerate() {
        let path = path.index(i);
        let fields = serde_json::to_value(ephemeral).unwrap_or_default();
        let container = Container::deserialize(&fields).unwrap_or_default();
        common(&container, spec, volumes, &path, errors);
        image_has_no_spaces(&container, &path, errors);
        if !seen.insert(&ephemeral.name) {
            errors.duplicate(&path.field("name"), &ephemeral.name);
        }
        let target = text(&ephemeral.target_container_name);
        if !target.is_empty() && !others.contains(target) {
            errors.not_found(&path.field("targetContainerName"), target);
        }
        for field in NOT_EPHEMERAL {
            if fields.get(field).is_some_and(is_set) {
                errors.forbidden(&path.field(field), "cannot be set for an Ephemeral Container");
            }
        }
        for (j, mount) in items(&ephemeral.volume_mounts).iter().enumerate() {
            for (field, value) in [("subPath", &mount.sub_path), ("subPathExpr", &mount.sub_path_expr)] {
                if !text(value).is_empty() {
                    let detail = "cannot be set for an Ephemeral Container";
                    errors.forbidden(&path.field("volumeMounts").index(j).field(field), detail);
                }
            }
        }
    }
}

fn is_set(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
    }
}

fn common(container: &Container, spec: &PodSpec, volumes: &Volumes, path: &Path, errors: &mut Errors) {
    match container.name.as_str() {
        "" => errors.required(&path.field("name"), ""),
        name => errors.invalid_all(&path.field("name"), name, names::dns1123_label(name)),
    }
    if text(&container.image).is_empty() {
        errors.required(&path.field("image"), "");
    }
    let policies = ["File", "FallbackToLogsOnError"];
    let policy = text(&container.termination_message_policy);
    errors.required_one_of(&path.field("terminationMessagePolicy"), policy, &policies);
    ports(items(&container.ports), &path.field("ports"), errors);
    env::variables(items(&container.env), &path.field("env"), errors);
    env::sources(items(&container.env_from), &path.field("envFrom"), errors);
    mount::mounts(container, volumes, &path.field("volumeMounts"), errors);
    mount::devices(container, volumes, &path.field("volumeDevices"), errors);
    errors.required_one_of(&path.field("imagePullPolicy"), text(&container.image_pull_policy), &PULL_POLICIES);
    resources(container, spec, &path.field("resources"), errors);
    resize_policies(items(&container.resize_policy), spec, &path.field("resizePolicy"), errors);
    security::container(container.security_context.as_ref(), spec, &path.field("securityContext"), errors);
}

fn ports(ports: &[ContainerPort], path: &Path, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for (i, port) in ports.iter().enumerate() {
        let path = path.index(i);
        let name = text(&port.name);
        if !name.is_empty() {
            let messages = names::port_name(name);
            if messages.is_empty() && !seen.insert(name) {
                errors.duplicate(&path.field("name"), name);
            }
            errors.invalid_all(&path.field("name"), name, messages);
        }
        match port.container_port {
            0 => errors.required(&path.field("containerPort"), ""),
            number => address::port_number(number, &path.field("containerPort"), errors),
        }
        if let Some(host_port) = port.host_port.filter(|port| *port != 0) {
            address::port_number(host_port, &path.field("hostPort"), errors);
        }
        errors.required_one_of(&path.field("protocol"), text(&port.protocol), &PROTOCOLS);
    }
}

fn host_port_conflicts<'a>(containers: impl Iterator<Item = (usize, &'a Container)>, path: &Path, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for (i, container) in containers {
        for (j, port) in items(&container.ports).iter().enumerate() {
            let Some(host_port) = port.host_port.filter(|port| *port != 0) else { continue };
            let what = format!("{}/{}/{host_port}", text(&port.protocol), text(&port.host_ip));
            if seen.contains(&what) {
                errors.duplicate(&path.index(i).field("ports").index(j).field("hostPort"), &what);
            }
            seen.insert(what);
        }
    }
}

fn resources(container: &Container, spec: &PodSpec, path: &Path, errors: &mut Errors) {
    let Some(resources) = &container.resources else { return };
    amounts::requirements(&resources.limits, &resources.requests, path, errors);
    let mut seen = BTreeSet::new();
    for (i, claim) in items(&resources.claims).iter().enumerate() {
        let path = path.field("claims");
        let path = path.index(i);
        let request = text(&claim.request);
        if claim.name.is_empty() {
            errors.required(&path.field("name"), "");
        } else if !seen.insert((claim.name.as_str(), request)) {
            match request {
                "" => errors.duplicate(&path, &claim.name),
                request => errors.duplicate(&path, format!("{}/{request}", claim.name)),
            }
        } else if !items(&spec.resource_claims).iter().any(|known| known.name == claim.name) {
            let known: Vec<&str> = items(&spec.resource_claims).iter().map(|claim| claim.name.as_str()).collect();
            match known.is_empty() {
                true => errors.not_found(&path.field("name"), &claim.name),
                false => errors.not_supported(&path.field("name"), &claim.name, &known),
            }
        }
    }
}

fn resize_policies(policies: &[ContainerResizePolicy], spec: &PodSpec, path: &Path, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for (i, policy) in policies.iter().enumerate() {
        if !seen.insert(&policy.resource_name) {
            errors.duplicate(&path.index(i), &policy.resource_name);
        }
        errors.required_one_of(path, &policy.resource_name, &["cpu", "memory"]);
        errors.required_one_of(path, &policy.restart_policy, &["NotRequired", "RestartContainer"]);
        if text(&spec.restart_policy) == "Never" && policy.restart_policy != "NotRequired" {
            let detail = "must be 'NotRequired' when `restartPolicy` is 'Never'";
            errors.invalid(path, &policy.restart_policy, detail);
        }
    }
}

/// A container's own policy, and the exit codes after which it restarts nevertheless.
fn restart_policy(container: &Container, policies: &[&str], path: &Path, errors: &mut Errors) {
    if let Some(policy) = &container.restart_policy {
        errors.one_of(&path.field("restartPolicy"), policy, policies);
    }
    let rules = items(&container.restart_policy_rules);
    let rules_path = path.field("restartPolicyRules");
    if !rules.is_empty() && container.restart_policy.is_none() {
        errors.required(&path.field("restartPolicy"), "must specify restartPolicy when restart rules are used");
    }
    if rules.len() > RESTART_RULES_MAX {
        errors.too_long(&rules_path, RESTART_RULES_MAX);
    }
    for (i, rule) in rules.iter().enumerate() {
        let path = rules_path.index(i);
        errors.required_one_of(&path.field("action"), &rule.action, &["Restart", "RestartAllContainers"]);
        match &rule.exit_codes {
            None => errors.required(&path.field("exitCodes"), "must be specified"),
            Some(codes) => {
                errors.required_one_of(&path.field("exitCodes.operator"), &codes.operator, &["In", "NotIn"]);
                if items(&codes.values).is_empty() {
                    errors.required(&path.field("exitCodes.values"), "");
                }
            }
        }
    }
}

/// Templates may carry such names; pods may not.
pub fn image_has_no_spaces(container: &Container, path: &Path, errors: &mut Errors) {
    let image = text(&container.image);
    if image.trim() != image {
        errors.invalid(&path.field("image"), image, "must not have leading or trailing whitespace");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::rules::texts;

    fn check(spec: Value, expected: &[&str]) {
        let mut pod = json!({ "spec": spec });
        super::super::default::default_pod(&mut pod);
        let spec: PodSpec = serde_json::from_value(pod["spec"].clone()).unwrap();
        let mut errors = Errors::default();
        all(&spec, &Volumes::new(), &Path::root("s"), &mut errors);
        assert_eq!(texts(errors.0), expected, "{pod}");
    }

    #[test]
    fn names_images_and_ports() {
        check(
            json!({"containers": [{"name": ""}, {"name": "b", "image": "i", "ports": [{}]}]}),
            &[
                "s.containers[0].name: Required value",
                "s.containers[0].image: Required value",
                "s.containers[1].ports[0].containerPort: Required value",
            ],
        );
        check(
            json!({"containers": [{"name": "a", "image": "i"}, {"name": "a", "image": "i"}]}),
            &["s.containers[1].name: Duplicate value: \"a\""],
        );
        check(
            json!({"containers": [{"name": "a", "image": "i",
                "ports": [{"containerPort": 1, "hostPort": 5}, {"containerPort": 2, "hostPort": 5}]}]}),
            &["s.containers[0].ports[1].hostPort: Duplicate value: \"TCP//5\""],
        );
    }

    #[test]
    fn init_containers_have_no_probes_unless_they_stay() {
        let container = |policy: Value| {
            json!({"containers": [{"name": "a", "image": "i"}], "initContainers": [{"name": "b", "image": "i",
                "restartPolicy": policy, "readinessProbe": {"tcpSocket": {"port": 1}}}]})
        };
        check(container(json!("Always")), &[]);
        check(
            container(Value::Null),
            &[
                "s.initContainers[0].readinessProbe: Forbidden: may not be set for init containers without restartPolicy=Always",
            ],
        );
    }

    #[test]
    fn ephemeral_containers_serve_nothing() {
        check(
            json!({"containers": [{"name": "a", "image": "i"}], "ephemeralContainers": [
                {"name": "d", "image": "i", "targetContainerName": "x", "ports": [{"containerPort": 1}]}]}),
            &[
                "s.ephemeralContainers[0].targetContainerName: Not found: \"x\"",
                "s.ephemeralContainers[0].ports: Forbidden: cannot be set for an Ephemeral Container",
            ],
        );
    }
}
