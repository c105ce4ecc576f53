//! The Pod Security Standards: what a namespace's labels allow its pods, enforced or warned of.
//!
//! Source: pod-security-admission/policy, plugin/pkg/admission/security/podsecurity.

use api_types::{
    ApiError, Key,
    k8s::core::{Container, PodSpec},
    resources,
};
use serde::Deserialize;
use serde_json::Value;

use super::{Attributes, Operation};
use crate::{
    reader::Reader,
    rules::{edit::text, path::items},
};

const LABEL: &str = "pod-security.kubernetes.io/";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
enum Level {
    Privileged,
    Baseline,
    Restricted,
}

impl Level {
    const fn name(self) -> &'static str {
        match self {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        }
    }
}

/// What one label of a namespace says; a level that nobody knows is the strictest.
fn policy(namespace: &Value, mode: &str) -> (Level, String) {
    let labels = &namespace["metadata"]["labels"];
    let level = match text(labels, &format!("{LABEL}{mode}")) {
        "" | "privileged" => Level::Privileged,
        "baseline" => Level::Baseline,
        _ => Level::Restricted,
    };
    let version = match text(labels, &format!("{LABEL}{mode}-version")) {
        "" => "latest",
        version => version,
    };
    (level, version.to_owned())
}

/// The spec of a pod that is made or changed, or of the template that pods will be made from.
fn spec_of<'a>(attributes: &Attributes, object: &'a Value) -> Option<&'a Value> {
    if attributes.operation == Operation::Delete || !matches!(attributes.subresource, "" | "ephemeralcontainers") {
        return None;
    }
    match (attributes.resource.group.as_ref(), attributes.resource.plural.as_ref()) {
        ("", "pods") => object.get("spec"),
        ("", "podtemplates") => object.pointer("/template/spec"),
        ("", "replicationcontrollers") | ("apps", _) | ("batch", "jobs") => object.pointer("/spec/template/spec"),
        ("batch", "cronjobs") => object.pointer("/spec/jobTemplate/spec/template/spec"),
        _ => None,
    }
}

/// Only pods are refused; templates are warned of.
pub(super) fn validate(attributes: &Attributes, object: Option<&Value>, reader: &dyn Reader) -> Result<(), ApiError> {
    let Some(object) = object.filter(|_| *attributes.resource == resources::POD) else { return Ok(()) };
    match violation(attributes, object, reader, "enforce") {
        None => Ok(()),
        Some(why) => Err(attributes.forbidden(format!("violates {why}"))),
    }
}

/// What the client is to be told of a write that is let through.
pub fn warning(attributes: &Attributes, object: &Value, reader: &dyn Reader) -> Option<String> {
    violation(attributes, object, reader, "warn").map(|why| format!("would violate {why}"))
}

/// What audit is to tell of a pod that is made or changed.
pub fn annotations(attributes: &Attributes, object: &Value, reader: &dyn Reader) -> Vec<(&'static str, String)> {
    let namespace = || reader.get(&resources::NAMESPACE, &Key::cluster(&attributes.key.namespace));
    let is_pod = *attributes.resource == resources::POD && spec_of(attributes, object).is_some();
    let enforced = is_pod.then(namespace).flatten().map(|namespace| {
        let (level, version) = policy(&namespace, "enforce");
        ("pod-security.kubernetes.io/enforce-policy", format!("{}:{version}", level.name()))
    });
    let audited = violation(attributes, object, reader, "audit")
        .map(|why| ("pod-security.kubernetes.io/audit-violations", format!("would violate {why}")));
    enforced.into_iter().chain(audited).collect()
}

fn violation(attributes: &Attributes, object: &Value, reader: &dyn Reader, mode: &str) -> Option<String> {
    let spec = spec_of(attributes, object)?;
    // What was let in before may go on, as long as its spec stays.
    if attributes.old.is_some_and(|old| spec_of(attributes, old) == Some(spec)) {
        return None;
    }
    let namespace = reader.get(&resources::NAMESPACE, &Key::cluster(&attributes.key.namespace))?;
    let (level, version) = policy(&namespace, mode);
    if level == Level::Privileged {
        return None;
    }
    let found = violations(&PodSpec::deserialize(spec).ok()?, level);
    (!found.is_empty())
        .then(|| format!("PodSecurity {:?}: {}", format!("{}:{version}", level.name()), found.join(", ")))
}

/// What the level forbids of this spec: `reason (where)`, in upstream's order: the baseline's checks, then the
/// stricter ones, some of which stand in for those of the baseline.
fn violations(spec: &PodSpec, level: Level) -> Vec<String> {
    let is_restricted = level == Level::Restricted;
    let baseline = [
        added_capabilities(spec).filter(|_| !is_restricted),
        host_namespaces(spec),
        host_path_volumes(spec).filter(|_| !is_restricted),
        host_ports(spec),
        privileged(spec),
        proc_mount(spec),
        unsafe_seccomp(spec).filter(|_| !is_restricted),
        sysctls(spec),
    ];
    let mut found: Vec<String> = baseline.into_iter().flatten().collect();
    if is_restricted {
        let stricter = [
            escalation(spec),
            all_capabilities(spec),
            volume_types(spec),
            run_as_non_root(spec),
            run_as_user(spec),
            no_seccomp(spec),
        ];
        found.extend(stricter.into_iter().flatten());
    }
    found
}

fn containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    items(&spec.init_containers).iter().chain(&spec.containers)
}

/// The names of the containers for which `is_bad` holds, as a message shows them.
fn those(spec: &PodSpec, is_bad: impl Fn(&Container) -> bool) -> Option<String> {
    let names: Vec<String> = containers(spec)
        .filter(|container| is_bad(container))
        .map(|container| format!("{:?}", container.name))
        .collect();
    match names.as_slice() {
        [] => None,
        [one] => Some(format!("container {one}")),
        many => Some(format!("containers {}", many.join(", "))),
    }
}

fn escalation(spec: &PodSpec) -> Option<String> {
    let allows = |container: &Container| {
        container.security_context.as_ref().and_then(|context| context.allow_privilege_escalation) != Some(false)
    };
    let bad = those(spec, allows)?;
    Some(format!("allowPrivilegeEscalation != false ({bad} must set securityContext.allowPrivilegeEscalation=false)"))
}

fn capabilities(container: &Container) -> (&[String], &[String]) {
    let capabilities = container.security_context.as_ref().and_then(|context| context.capabilities.as_ref());
    capabilities.map(|all| (items(&all.add), items(&all.drop))).unwrap_or_default()
}

fn all_capabilities(spec: &PodSpec) -> Option<String> {
    let keeps = those(spec, |container| !capabilities(container).1.iter().any(|dropped| dropped == "ALL"));
    let adds = |container: &Container| capabilities(container).0.iter().any(|added| added != "NET_BIND_SERVICE");
    let adds_what = those(spec, adds);
    let mut parts = Vec::new();
    if let Some(keeps) = keeps {
        parts.push(format!("{keeps} must set securityContext.capabilities.drop=[\"ALL\"]"));
    }
    if let Some(bad) = adds_what {
        let added: Vec<String> = containers(spec)
            .flat_map(|container| capabilities(container).0)
            .filter(|added| *added != "NET_BIND_SERVICE")
            .map(|added| format!("{added:?}"))
            .collect();
        parts.push(format!("{bad} must not include {} in securityContext.capabilities.add", added.join(", ")));
    }
    (!parts.is_empty()).then(|| format!("unrestricted capabilities ({})", parts.join("; ")))
}

/// What a container engine gives by default may be asked for.
const BASELINE_CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

fn added_capabilities(spec: &PodSpec) -> Option<String> {
    let is_more = |added: &&String| !BASELINE_CAPABILITIES.contains(&added.as_str());
    let bad = those(spec, |container| capabilities(container).0.iter().any(|added| is_more(&added)))?;
    let mut added: Vec<String> = containers(spec)
        .flat_map(|container| capabilities(container).0)
        .filter(is_more)
        .map(|added| format!("{added:?}"))
        .collect();
    added.sort();
    added.dedup();
    let list = added.join(", ");
    Some(format!("non-default capabilities ({bad} must not include {list} in securityContext.capabilities.add)"))
}

fn host_namespaces(spec: &PodSpec) -> Option<String> {
    let flags = [("hostNetwork", spec.host_network), ("hostPID", spec.host_pid), ("hostIPC", spec.host_ipc)];
    let set: Vec<String> =
        flags.iter().filter(|(_, flag)| *flag == Some(true)).map(|(name, _)| format!("{name}=true")).collect();
    (!set.is_empty()).then(|| format!("host namespaces ({})", set.join(", ")))
}

fn host_ports(spec: &PodSpec) -> Option<String> {
    let ports = |container: &Container| -> Vec<String> {
        items(&container.ports)
            .iter()
            .filter_map(|port| port.host_port.filter(|port| *port != 0))
            .map(|port| port.to_string())
            .collect()
    };
    let bad = those(spec, |container| !ports(container).is_empty())?;
    let all: Vec<String> = containers(spec).flat_map(ports).collect();
    let word = if all.len() == 1 { "hostPort" } else { "hostPorts" };
    let verb = if bad.starts_with("containers") { "use" } else { "uses" };
    Some(format!("hostPort ({bad} {verb} {word} {})", all.join(", ")))
}

fn host_path_volumes(spec: &PodSpec) -> Option<String> {
    let names: Vec<String> = items(&spec.volumes)
        .iter()
        .filter(|volume| volume.host_path.is_some())
        .map(|volume| format!("{:?}", volume.name))
        .collect();
    match names.as_slice() {
        [] => None,
        [one] => Some(format!("hostPath volumes (volume {one})")),
        many => Some(format!("hostPath volumes (volumes {})", many.join(", "))),
    }
}

fn privileged(spec: &PodSpec) -> Option<String> {
    let is_privileged = |container: &Container| {
        container.security_context.as_ref().and_then(|context| context.privileged) == Some(true)
    };
    let bad = those(spec, is_privileged)?;
    Some(format!("privileged ({bad} must not set securityContext.privileged=true)"))
}

fn proc_mount(spec: &PodSpec) -> Option<String> {
    let mount =
        |container: &Container| container.security_context.as_ref().and_then(|context| context.proc_mount.clone());
    let bad = those(spec, |container| mount(container).is_some_and(|mount| mount != "Default"))?;
    let kinds: Vec<String> = containers(spec)
        .filter_map(mount)
        .filter(|mount| mount != "Default")
        .map(|mount| format!("{mount:?}"))
        .collect();
    Some(format!("procMount ({bad} must not set securityContext.procMount to {})", kinds.join(", ")))
}

const RESTRICTED_VOLUMES: [&str; 8] =
    ["configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim", "projected"];

fn volume_types(spec: &PodSpec) -> Option<String> {
    let mut names = Vec::new();
    let mut kinds = Vec::new();
    for volume in items(&spec.volumes) {
        let fields = serde_json::to_value(volume).unwrap_or_default();
        let all = fields.as_object().into_iter().flatten().map(|(name, _)| name.as_str());
        let bad = all.filter(|name| *name != "name" && *name != "secret" && !RESTRICTED_VOLUMES.contains(name));
        for kind in bad.map(str::to_owned) {
            names.push(format!("{:?}", volume.name));
            kinds.push(format!("{kind:?}"));
        }
    }
    kinds.sort();
    kinds.dedup();
    let (volumes, verb) = match names.len() {
        0 => return None,
        1 => ("volume", "uses"),
        _ => ("volumes", "use"),
    };
    let types = if kinds.len() == 1 { "volume type" } else { "volume types" };
    Some(format!(
        "restricted volume types ({volumes} {} {verb} restricted {types} {})",
        names.join(", "),
        kinds.join(", ")
    ))
}

fn run_as_non_root(spec: &PodSpec) -> Option<String> {
    let of_pod = spec.security_context.as_ref().and_then(|context| context.run_as_non_root);
    let of = |container: &Container| container.security_context.as_ref().and_then(|context| context.run_as_non_root);
    if of_pod == Some(false) {
        return Some("runAsNonRoot != true (pod must not set securityContext.runAsNonRoot=false)".to_owned());
    }
    if let Some(bad) = those(spec, |container| of(container) == Some(false)) {
        return Some(format!("runAsNonRoot != true ({bad} must not set securityContext.runAsNonRoot=false)"));
    }
    let bad = those(spec, |container| of(container).or(of_pod) != Some(true))?;
    Some(format!("runAsNonRoot != true (pod or {bad} must set securityContext.runAsNonRoot=true)"))
}

fn run_as_user(spec: &PodSpec) -> Option<String> {
    let is_root = |user: Option<i64>| user == Some(0);
    let of_pod = is_root(spec.security_context.as_ref().and_then(|context| context.run_as_user));
    let of =
        |container: &Container| is_root(container.security_context.as_ref().and_then(|context| context.run_as_user));
    let bad = match (of_pod, those(spec, of)) {
        (false, None) => return None,
        (true, None) => "pod".to_owned(),
        (false, Some(bad)) => bad,
        (true, Some(bad)) => format!("pod and {bad}"),
    };
    Some(format!("runAsUser=0 ({bad} must not set runAsUser=0)"))
}

fn seccomp_of_pod(spec: &PodSpec) -> Option<&str> {
    let profile = spec.security_context.as_ref().and_then(|context| context.seccomp_profile.as_ref());
    profile.map(|profile| profile.type_.as_str())
}

fn seccomp_of(container: &Container) -> Option<&str> {
    let profile = container.security_context.as_ref().and_then(|context| context.seccomp_profile.as_ref());
    profile.map(|profile| profile.type_.as_str())
}

fn confines(profile: &str) -> bool {
    matches!(profile, "RuntimeDefault" | "Localhost")
}

/// The baseline forbids only to turn it off.
fn unsafe_seccomp(spec: &PodSpec) -> Option<String> {
    let of_pod = seccomp_of_pod(spec).filter(|profile| !confines(profile));
    let bad = those(spec, |container| seccomp_of(container).is_some_and(|profile| !confines(profile)));
    let who = match (of_pod, bad) {
        (None, None) => return None,
        (Some(_), None) => "pod".to_owned(),
        (None, Some(bad)) => bad,
        (Some(_), Some(bad)) => format!("pod and {bad}"),
    };
    let of_containers = containers(spec).filter_map(seccomp_of).filter(|profile| !confines(profile));
    let mut kinds: Vec<String> =
        of_pod.into_iter().chain(of_containers).map(|profile| format!("{profile:?}")).collect();
    kinds.sort();
    kinds.dedup();
    Some(format!("seccompProfile ({who} must not set securityContext.seccompProfile.type to {})", kinds.join(", ")))
}

fn no_seccomp(spec: &PodSpec) -> Option<String> {
    let is_free = |container: &Container| !seccomp_of(container).or(seccomp_of_pod(spec)).is_some_and(confines);
    let bad = those(spec, is_free)?;
    Some(format!(
        "seccompProfile (pod or {bad} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
    ))
}

const SAFE_SYSCTLS: [&str; 10] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_syncookies",
];

fn sysctls(spec: &PodSpec) -> Option<String> {
    let all = spec.security_context.as_ref().map(|context| items(&context.sysctls)).unwrap_or_default();
    let bad: Vec<&str> =
        all.iter().map(|sysctl| sysctl.name.as_str()).filter(|name| !SAFE_SYSCTLS.contains(name)).collect();
    (!bad.is_empty()).then(|| format!("forbidden sysctls ({})", bad.join(", ")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{
        super::fixture::{Objects, refusal},
        *,
    };

    fn check(level: &str, spec: Value) -> String {
        let namespace = json!({"metadata": {"name": "n", "labels": {"pod-security.kubernetes.io/enforce": level}}});
        let objects = Objects::default().with(resources::NAMESPACE, namespace);
        refusal(validate, &resources::POD, &json!({ "spec": spec }), &objects)
    }

    #[test]
    fn levels() {
        let plain = json!({"containers": [{"name": "c"}]});
        assert_eq!(check("privileged", json!({"hostNetwork": true, "containers": []})), "");
        assert_eq!(check("baseline", plain.clone()), "");
        assert_eq!(
            check("restricted", plain),
            "pods \"x\" is forbidden: violates PodSecurity \"restricted:latest\": allowPrivilegeEscalation != false \
             (container \"c\" must set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities \
             (container \"c\" must set securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true (pod or \
             container \"c\" must set securityContext.runAsNonRoot=true), seccompProfile (pod or container \"c\" must set \
             securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
        );
        assert_eq!(
            check(
                "baseline",
                json!({"hostNetwork": true, "containers": [{"name": "c", "securityContext": {"privileged": true}}],
                "volumes": [{"name": "v", "hostPath": {"path": "/"}}]})
            ),
            "pods \"x\" is forbidden: violates PodSecurity \"baseline:latest\": host namespaces (hostNetwork=true), \
             hostPath volumes (volume \"v\"), privileged (container \"c\" must not set securityContext.privileged=true)"
        );
        let fine = json!({"securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "c", "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}]});
        assert_eq!(check("restricted", fine), "");
    }
}
