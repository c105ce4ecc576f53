//! Whether a pod's spec makes sense, in a pod or in a template.
//!
//! Source: `ValidatePodSpec` in pkg/apis/core/validation/validation.go.

use std::collections::BTreeSet;

use api_types::{
    k8s::{
        core::{HostAlias, PodDNSConfig, PodSpec, PodTemplateSpec, Toleration, TopologySpreadConstraint},
        meta::ObjectMeta,
    },
    names,
};

use super::{affinity, container, os, security, volume};
use crate::rules::{
    address, amounts, meta,
    path::{Errors, Path, items, text},
    selector::label_selector,
};

/// What a spec belongs to.
#[derive(Clone, Copy, PartialEq)]
pub enum Within<'a> {
    Pod(&'a ObjectMeta),
    Template,
}

/// As long as Linux lets a host name be.
const HOSTNAME_MAX: usize = 64;
const DNS_NAMESERVERS_MAX: usize = 3;
const DNS_SEARCHES_MAX: usize = 32;
const DNS_SEARCH_LIST_MAX: usize = 2048;
/// Besides huge pages.
const POD_RESOURCES: [&str; 2] = ["cpu", "memory"];
pub const RESTART_POLICIES: [&str; 3] = ["Always", "OnFailure", "Never"];
const DNS_POLICIES: [&str; 4] = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
const TAINT_EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

pub fn template(template: &PodTemplateSpec, path: &Path, errors: &mut Errors) {
    meta::labels_and_annotations(template.metadata.as_ref(), path, errors);
    let spec_path = path.field("spec");
    match &template.spec {
        Some(spec) => {
            self::spec(spec, Within::Template, &spec_path, errors);
            if !items(&spec.ephemeral_containers).is_empty() {
                errors.forbidden(
                    &spec_path.field("ephemeralContainers"),
                    "ephemeral containers not allowed in pod template",
                );
            }
        }
        None => errors.required(&spec_path.field("containers"), ""),
    }
}

pub fn spec(spec: &PodSpec, within: Within, path: &Path, errors: &mut Errors) {
    if spec.termination_grace_period_seconds.is_none() {
        errors.required(&path.field("terminationGracePeriodSeconds"), "");
    }
    let volumes = volume::volumes(items(&spec.volumes), within, &path.field("volumes"), errors);
    claims(spec, &path.field("resourceClaims"), errors);
    container::all(spec, &volumes, path, errors);
    pod_resources(spec, &path.field("resources"), errors);
    host_ports(spec, within, path, errors);
    errors.required_one_of(&path.field("restartPolicy"), text(&spec.restart_policy), &RESTART_POLICIES);
    errors.required_one_of(&path.field("dnsPolicy"), text(&spec.dns_policy), &DNS_POLICIES);
    meta::labels(spec.node_selector.as_ref(), &path.field("nodeSelector"), errors);
    security::pod(spec, path, errors);
    affinity::affinity(spec.affinity.as_ref(), &path.field("affinity"), errors);
    dns_config(spec.dns_config.as_ref(), text(&spec.dns_policy), &path.field("dnsConfig"), errors);
    gates(spec, path, errors);
    spread(items(&spec.topology_spread_constraints), &path.field("topologySpreadConstraints"), errors);
    host_users(spec, path, errors);
    references(spec, path, errors);
    if let Some(deadline) = spec.active_deadline_seconds {
        let messages = names::in_range(deadline, 1, i64::from(i32::MAX));
        errors.invalid_all(&path.field("activeDeadlineSeconds"), deadline, messages);
    }
    for (field, name) in [("hostname", &spec.hostname), ("subdomain", &spec.subdomain)] {
        if !text(name).is_empty() {
            errors.invalid_all(&path.field(field), text(name), names::dns1123_label(text(name)));
        }
    }
    tolerations(items(&spec.tolerations), &path.field("tolerations"), errors);
    host_aliases(items(&spec.host_aliases), &path.field("hostAliases"), errors);
    if let Some(policy) = &spec.preemption_policy {
        errors.required_one_of(&path.field("preemptionPolicy"), policy, &["PreemptLowerPriority", "Never"]);
    }
    let overhead = path.field("overhead");
    amounts::requirements(&spec.overhead, &None, &overhead, errors);
    if let Some(os) = &spec.os {
        errors.required_one_of(&path.field("os.name"), &os.name, &["linux", "windows"]);
    }
    os::validate(spec, path, errors);
    hostname_override(spec, path, errors);
}

/// A host name that is the pod's alone makes no sense where it has the node's, or a domain of its own.
fn hostname_override(spec: &PodSpec, path: &Path, errors: &mut Errors) {
    let Some(name) = &spec.hostname_override else { return };
    let own = path.field("hostnameOverride");
    errors.invalid_all(&own, name.as_str(), names::dns1123_subdomain(name));
    if name.len() > HOSTNAME_MAX {
        errors.too_long(&own, HOSTNAME_MAX);
    }
    if spec.host_network == Some(true) {
        errors.forbidden(&own, "may not be set when `hostNetwork` is true");
    }
    if spec.set_hostname_as_fqdn == Some(true) {
        errors.forbidden(&own, "may not be set when `setHostnameAsFQDN` is true");
    }
}

/// Names of other objects.
fn references(spec: &PodSpec, path: &Path, errors: &mut Errors) {
    for (field, name) in [
        ("serviceAccountName", &spec.service_account_name),
        ("nodeName", &spec.node_name),
        ("priorityClassName", &spec.priority_class_name),
        ("runtimeClassName", &spec.runtime_class_name),
    ] {
        if !text(name).is_empty() {
            errors.invalid_all(&path.field(field), text(name), names::dns1123_subdomain(text(name)));
        }
    }
}

fn claims(spec: &PodSpec, path: &Path, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for (i, claim) in items(&spec.resource_claims).iter().enumerate() {
        let path = path.index(i);
        if claim.name.is_empty() {
            errors.required(&path.field("name"), "");
        } else if !seen.insert(&claim.name) {
            errors.duplicate(&path.field("name"), &claim.name);
        } else {
            errors.invalid_all(&path.field("name"), claim.name.as_str(), names::dns1123_label(&claim.name));
        }
        match (&claim.resource_claim_name, &claim.resource_claim_template_name) {
            (Some(_), Some(_)) => errors.invalid(
                &path,
                claim,
                "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified",
            ),
            (None, None) => {
                errors.invalid(&path, claim, "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`");
            }
            (Some(name), None) => {
                errors.invalid_all(&path.field("resourceClaimName"), name.as_str(), names::dns1123_subdomain(name));
            }
            (None, Some(name)) => errors.invalid_all(
                &path.field("resourceClaimTemplateName"),
                name.as_str(),
                names::dns1123_subdomain(name),
            ),
        }
    }
}

/// Resources of the whole pod hold those of its containers.
fn pod_resources(spec: &PodSpec, path: &Path, errors: &mut Errors) {
    let Some(resources) = &spec.resources else { return };
    if resources.claims.is_some() {
        errors.forbidden(&path.field("claims"), "claims cannot be set for Resources at pod-level");
    }
    amounts::requirements(&resources.limits, &resources.requests, path, errors);
    for (field, list) in [("limits", &resources.limits), ("requests", &resources.requests)] {
        for (name, _) in amounts::each(list).filter(|(name, _)| !POD_RESOURCES.contains(name)) {
            if !amounts::is_huge_pages(name) {
                errors.not_supported(&path.field(field).key(name), name, &["cpu", "hugepages-", "memory"]);
            }
        }
    }
    for (name, total) in amounts::each(&resources.requests) {
        let requests =
            spec.containers.iter().filter_map(|container| container.resources.as_ref()?.requests.as_ref()?.get(name));
        let sum = requests.map(amounts::parse).fold(api_types::Quantity::ZERO, |sum, request| sum + request);
        if sum > amounts::parse(total) {
            let detail = format!("must be greater than or equal to aggregate container requests of {sum}");
            errors.invalid(&path.field("requests").key(name), amounts::parse(total).to_string(), detail);
        }
    }
    for (i, container) in spec.containers.iter().enumerate() {
        let Some(own) = &container.resources else { continue };
        for (name, limit) in amounts::each(&own.limits) {
            let Some(total) = resources.limits.as_ref().and_then(|limits| limits.get(name)) else { continue };
            if amounts::parse(limit) > amounts::parse(total) {
                let detail = format!("must be less than or equal to pod limits of {}", amounts::parse(total));
                let path = path.field("containers");
                let path = path.index(i);
                errors.invalid(&path.key(name).field("limits"), amounts::parse(limit).to_string(), detail);
            }
        }
    }
}

/// In the host's network a container's port is the host's port; templates may leave that to the pod.
fn host_ports(spec: &PodSpec, within: Within, path: &Path, errors: &mut Errors) {
    if spec.host_network != Some(true) {
        return;
    }
    let path = path.field("containers");
    for (i, container) in spec.containers.iter().enumerate() {
        let path = path.index(i);
        for (j, port) in items(&container.ports).iter().enumerate() {
            let host_port = port.host_port.unwrap_or(0);
            if host_port != port.container_port && (host_port != 0 || within != Within::Template) {
                let detail = "must match `containerPort` when `hostNetwork` is true";
                errors.invalid(&path.field("ports").index(j).field("hostPort"), host_port, detail);
            }
        }
    }
}

fn dns_config(config: Option<&PodDNSConfig>, policy: &str, path: &Path, errors: &mut Errors) {
    if policy == "None" {
        let Some(config) = config else {
            return errors.required(path, "must provide `dnsConfig` when `dnsPolicy` is None");
        };
        if items(&config.nameservers).is_empty() {
            let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            return errors.required(&path.field("nameservers"), detail);
        }
    }
    let Some(config) = config else { return };
    let nameservers = items(&config.nameservers);
    if nameservers.len() > DNS_NAMESERVERS_MAX {
        let detail = format!("must not have more than {DNS_NAMESERVERS_MAX} nameservers");
        errors.invalid(&path.field("nameservers"), nameservers, detail);
    }
    for (i, nameserver) in nameservers.iter().enumerate() {
        address::ip(nameserver, &path.field("nameservers").index(i), errors);
    }
    let searches = items(&config.searches);
    let searches_path = path.field("searches");
    if searches.len() > DNS_SEARCHES_MAX {
        errors.invalid(&searches_path, searches, format!("must not have more than {DNS_SEARCHES_MAX} search paths"));
    }
    if searches.join(" ").len() > DNS_SEARCH_LIST_MAX {
        let detail =
            format!("must not have more than {DNS_SEARCH_LIST_MAX} characters (including spaces) in the search list");
        errors.invalid(&searches_path, searches, detail);
    }
    for (i, search) in searches.iter().enumerate().filter(|(_, search)| *search != ".") {
        let search = search.strip_suffix('.').unwrap_or(search);
        // Resolvers take an underscore where a host name has none.
        let messages = names::dns1123_subdomain(&search.replace('_', "a"));
        errors.invalid_all(&searches_path.index(i), search, messages);
    }
    for (i, option) in items(&config.options).iter().enumerate() {
        if text(&option.name).is_empty() {
            errors.required(&path.field("options").index(i), "must not be empty");
        }
    }
}

fn gates(spec: &PodSpec, path: &Path, errors: &mut Errors) {
    let readiness = path.field("readinessGates");
    for (i, gate) in items(&spec.readiness_gates).iter().enumerate() {
        let messages = names::qualified_name(&gate.condition_type);
        errors.invalid_all(&readiness.index(i).field("conditionType"), gate.condition_type.as_str(), messages);
    }
    let scheduling = path.field("schedulingGates");
    let mut seen = BTreeSet::new();
    for (i, gate) in items(&spec.scheduling_gates).iter().enumerate() {
        errors.invalid_all(&scheduling.index(i), gate.name.as_str(), names::qualified_name(&gate.name));
        if !seen.insert(&gate.name) {
            errors.duplicate(&scheduling.index(i), &gate.name);
        }
    }
}

fn spread(constraints: &[TopologySpreadConstraint], path: &Path, errors: &mut Errors) {
    for (i, constraint) in constraints.iter().enumerate() {
        let path = path.index(i);
        let when = constraint.when_unsatisfiable.as_str();
        if constraint.max_skew <= 0 {
            errors.invalid(&path.field("maxSkew"), constraint.max_skew, "must be greater than zero");
        }
        affinity::topology_key(&constraint.topology_key, &path.field("topologyKey"), errors);
        errors.one_of(&path.field("whenUnsatisfiable"), when, &["DoNotSchedule", "ScheduleAnyway"]);
        let same = |other: &TopologySpreadConstraint| {
            other.topology_key == constraint.topology_key && other.when_unsatisfiable == when
        };
        if constraints[i + 1..].iter().any(same) {
            let pair = format!("{{{}, {when}}}", constraint.topology_key);
            errors.duplicate(&path.field("{topologyKey, whenUnsatisfiable}"), pair);
        }
        if let Some(domains) = constraint.min_domains {
            if domains <= 0 {
                errors.invalid(&path.field("minDomains"), domains, "must be greater than zero");
            }
            if when != "DoNotSchedule" {
                let detail = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {when}");
                errors.invalid(&path.field("minDomains"), domains, detail);
            }
        }
        for (field, policy) in [
            ("nodeAffinityPolicy", &constraint.node_affinity_policy),
            ("nodeTaintsPolicy", &constraint.node_taints_policy),
        ] {
            if let Some(policy) = policy {
                errors.one_of(&path.field(field), policy, &["Honor", "Ignore"]);
            }
        }
        affinity::match_label_keys(
            items(&constraint.match_label_keys),
            constraint.label_selector.as_ref(),
            &path.field("matchLabelKeys"),
            errors,
        );
        label_selector(constraint.label_selector.as_ref(), &path.field("labelSelector"), errors);
    }
}

fn host_users(spec: &PodSpec, path: &Path, errors: &mut Errors) {
    if spec.host_users != Some(false) {
        return;
    }
    for (field, flag) in [("hostNetwork", spec.host_network), ("HostPID", spec.host_pid), ("HostIPC", spec.host_ipc)] {
        if flag == Some(true) {
            errors.forbidden(&path.field(field), "when `pod.Spec.HostUsers` is false");
        }
    }
}

pub fn tolerations(tolerations: &[Toleration], path: &Path, errors: &mut Errors) {
    for (i, toleration) in tolerations.iter().enumerate() {
        let path = path.index(i);
        let (key, value) = (text(&toleration.key), text(&toleration.value));
        let (operator, effect) = (text(&toleration.operator), text(&toleration.effect));
        if !key.is_empty() {
            errors.invalid_all(&path.field("key"), key, names::label_key(key));
        } else if operator != "Exists" {
            let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.invalid(&path.field("operator"), operator, detail);
        }
        if toleration.toleration_seconds.is_some() && effect != "NoExecute" {
            errors.invalid(&path.field("effect"), effect, "effect must be 'NoExecute' when `tolerationSeconds` is set");
        }
        match operator {
            "Equal" | "" => {
                let messages = names::label_value(value);
                if !messages.is_empty() {
                    errors.invalid(&path.field("operator"), value, messages.join(";"));
                }
            }
            "Exists" => {
                if !value.is_empty() {
                    errors.invalid(&path.field("operator"), value, "value must be empty when `operator` is 'Exists'");
                }
            }
            operator => errors.not_supported(&path.field("operator"), operator, &["Equal", "Exists"]),
        }
        if !effect.is_empty() {
            errors.one_of(&path.field("effect"), effect, &TAINT_EFFECTS);
        }
    }
}

fn host_aliases(aliases: &[HostAlias], path: &Path, errors: &mut Errors) {
    for (i, alias) in aliases.iter().enumerate() {
        let path = path.index(i);
        address::ip(&alias.ip, &path.field("ip"), errors);
        for (j, name) in items(&alias.hostnames).iter().enumerate() {
            let messages = names::dns1123_subdomain(name);
            errors.invalid_all(&path.field("hostnames").index(j), name.as_str(), messages);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::rules::texts;

    /// Validates a pod whose spec is a legal one with `changes` on top.
    fn check(changes: Value, expected: &[&str]) {
        let mut pod = json!({"spec": {"containers": [{"name": "c", "image": "a"}]}});
        for (field, value) in changes.as_object().unwrap() {
            pod["spec"][field] = value.clone();
        }
        super::super::default::default_pod(&mut pod);
        let spec: PodSpec = serde_json::from_value(pod["spec"].take()).unwrap();
        let mut errors = Errors::default();
        super::spec(&spec, Within::Pod(&ObjectMeta::default()), &Path::root("spec"), &mut errors);
        assert_eq!(texts(errors.0), expected, "{changes}");
    }

    #[test]
    fn plain_specs_pass() {
        check(json!({}), &[]);
        check(
            json!({"tolerations": [{"operator": "Exists"}], "hostAliases": [{"ip": "10.0.0.1", "hostnames": ["a.b"]}]}),
            &[],
        );
        check(json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"], "searches": ["_a.b."]}}), &[]);
    }

    #[test]
    fn each_field_is_checked() {
        check(json!({"containers": []}), &["spec.containers: Required value"]);
        check(
            json!({"restartPolicy": "Sometimes"}),
            &[
                "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\"",
            ],
        );
        check(
            json!({"activeDeadlineSeconds": 0}),
            &["spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive"],
        );
        check(
            json!({"tolerations": [{"key": "a", "operator": "Exists", "value": "b", "tolerationSeconds": 3}]}),
            &[
                "spec.tolerations[0].effect: Invalid value: \"\": effect must be 'NoExecute' when `tolerationSeconds` is set",
                "spec.tolerations[0].operator: Invalid value: \"b\": value must be empty when `operator` is 'Exists'",
            ],
        );
        check(
            json!({"topologySpreadConstraints": [{"maxSkew": 0, "topologyKey": "", "whenUnsatisfiable": "X"}]}),
            &[
                "spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero",
                "spec.topologySpreadConstraints[0].topologyKey: Required value: can not be empty",
                "spec.topologySpreadConstraints[0].whenUnsatisfiable: Unsupported value: \"X\": supported values: \"DoNotSchedule\", \"ScheduleAnyway\"",
            ],
        );
        check(
            json!({"schedulingGates": [{"name": "a"}, {"name": "a"}]}),
            &["spec.schedulingGates[1]: Duplicate value: \"a\""],
        );
        check(
            json!({"hostUsers": false, "hostNetwork": true}),
            &["spec.hostNetwork: Forbidden: when `pod.Spec.HostUsers` is false"],
        );
        check(
            json!({"dnsPolicy": "None"}),
            &["spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None"],
        );
    }
}
