//! What of a pod may change after its creation, through each way of writing it.
//!
//! Source: `ValidatePodUpdate` and its kin in pkg/apis/core/validation/validation.go.

use api_types::{
    FieldError, Quantity,
    k8s::core::{Container, ContainerStatus, NodeAffinity, Pod, PodSchedulingGate, PodSpec, Toleration},
    names,
};
use serde_json::Value;

use super::{
    container, qos_class,
    spec::{self, Within},
    volume,
};
use crate::rules::{
    address, amounts, check_change,
    edit::text_at,
    path::{Errors, Path, items, text},
};

const SPEC: Path = Path::root("spec");
const STATUS: Path = Path::root("status");
/// Marks the API's copy of a pod that a kubelet runs from a file.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// What an update may touch, as the refusal lists it.
const UPDATABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,\
     `spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be \
     set to 1 if it was previously negative)";

pub fn validate_create(pod: &Pod, errors: &mut Errors) {
    let spec = pod_spec(pod);
    validate_spec(pod, errors);
    if !items(&spec.ephemeral_containers).is_empty() {
        errors.forbidden(&SPEC.field("ephemeralContainers"), "cannot be set on create");
    }
    let mirrored = pod.metadata.annotations.as_ref().and_then(|annotations| annotations.get(MIRROR));
    if let Some(mirrored) = mirrored.filter(|_| text(&spec.node_name).is_empty()) {
        let detail = "must set spec.nodeName if mirror pod annotation is set";
        errors.invalid(&Path::root("metadata.annotations").key(MIRROR), mirrored, detail);
    }
    if !text(&spec.node_name).is_empty() && !items(&spec.scheduling_gates).is_empty() {
        errors.forbidden(&SPEC.field("nodeName"), "cannot be set until all schedulingGates have been cleared");
    }
}

fn pod_spec(pod: &Pod) -> PodSpec {
    pod.spec.clone().unwrap_or_default()
}

fn validate_spec(pod: &Pod, errors: &mut Errors) {
    let spec = pod_spec(pod);
    spec::spec(&spec, Within::Pod(&pod.metadata), &SPEC, errors);
    if text(&spec.service_account_name).is_empty() {
        for (i, volume) in items(&spec.volumes).iter().enumerate() {
            let sources = volume.projected.as_ref().map(|projected| items(&projected.sources)).unwrap_or_default();
            for (j, _) in sources.iter().enumerate().filter(|(_, source)| source.service_account_token.is_some()) {
                let path = SPEC.field("volumes");
                let path = path.index(i);
                let path = path.field("projected.sources");
                let detail = "must not be specified when serviceAccountName is not set";
                errors.forbidden(&path.index(j).field("serviceAccountToken"), detail);
            }
        }
    }
    for (field, containers) in
        [("containers", spec.containers.as_slice()), ("initContainers", items(&spec.init_containers))]
    {
        for (i, one) in containers.iter().enumerate() {
            container::image_has_no_spaces(one, &SPEC.field(field).index(i), errors);
        }
    }
}

pub fn validate_update(new: &Pod, old: &Pod, errors: &mut Errors) {
    let mirrored =
        |pod: &Pod| pod.metadata.annotations.as_ref().and_then(|annotations| annotations.get(MIRROR).cloned());
    if mirrored(new) != mirrored(old) {
        let detail = "may not add, remove or update mirror pod annotation";
        errors.forbidden(&Path::root("metadata.annotations").key(MIRROR), detail);
    }
    validate_spec(new, errors);
    let (new, old) = (pod_spec(new), pod_spec(old));
    for (field, new, old) in [
        ("containers", new.containers.as_slice(), old.containers.as_slice()),
        ("initContainers", items(&new.init_containers), items(&old.init_containers)),
    ] {
        if new.len() != old.len() {
            return errors.forbidden(&SPEC.field(field), "pod updates may not add or remove containers");
        }
    }
    deadline(&new, &old, errors);
    only_added_tolerations(items(&new.tolerations), items(&old.tolerations), errors);
    only_removed_gates(items(&new.scheduling_gates), items(&old.scheduling_gates), errors);
    let mut munged = new.clone();
    restore_updatable(&mut munged, &old);
    if !items(&old.scheduling_gates).is_empty() {
        restore_of_gated(&mut munged, &old, errors);
    }
    if munged != old {
        errors.forbidden(&SPEC, format!("pod updates may not change fields other than {UPDATABLE}"));
    }
}

fn deadline(new: &PodSpec, old: &PodSpec, errors: &mut Errors) {
    let path = SPEC.field("activeDeadlineSeconds");
    match (new.active_deadline_seconds, old.active_deadline_seconds) {
        (Some(new), Some(old)) if new > old => {
            errors.invalid(&path, new, "must be less than or equal to previous value");
        }
        (None, Some(_)) => errors.invalid(&path, (), "must not update from a positive integer to nil value"),
        (Some(_) | None, _) => {}
    }
}

fn only_added_tolerations(new: &[Toleration], old: &[Toleration], errors: &mut Errors) {
    let kept = |old: &Toleration| {
        new.iter().any(|new| *new == Toleration { toleration_seconds: new.toleration_seconds, ..old.clone() })
    };
    if !old.iter().all(kept) {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        errors.forbidden(&SPEC.field("tolerations"), detail);
    }
}

fn only_removed_gates(new: &[PodSchedulingGate], old: &[PodSchedulingGate], errors: &mut Errors) {
    for (i, gate) in new.iter().enumerate().filter(|(_, gate)| !old.contains(gate)) {
        let detail = format!("only deletion is allowed, but found new scheduling gate '{}'", gate.name);
        errors.forbidden(&SPEC.field("schedulingGates").index(i).field("name"), detail);
    }
}

/// Takes back all that an update may change, so that what is left must be equal.
fn restore_updatable(spec: &mut PodSpec, old: &PodSpec) {
    restore_images(&mut spec.containers, &old.containers);
    if let (Some(new), Some(old)) = (&mut spec.init_containers, &old.init_containers) {
        restore_images(new, old);
    }
    spec.active_deadline_seconds = old.active_deadline_seconds;
    spec.scheduling_gates.clone_from(&old.scheduling_gates);
    spec.tolerations.clone_from(&old.tolerations);
    if old.termination_grace_period_seconds.is_some_and(|old_s| old_s < 0)
        && spec.termination_grace_period_seconds == Some(1)
    {
        spec.termination_grace_period_seconds = old.termination_grace_period_seconds;
    }
}

fn restore_images(new: &mut [Container], old: &[Container]) {
    for (new, old) in new.iter_mut().zip(old) {
        new.image.clone_from(&old.image);
    }
}

/// While a pod waits at a gate, it may be confined to fewer nodes.
fn restore_of_gated(spec: &mut PodSpec, old: &PodSpec, errors: &mut Errors) {
    let loses = old
        .node_selector
        .iter()
        .flatten()
        .any(|(key, value)| spec.node_selector.as_ref().and_then(|selector| selector.get(key)) != Some(value));
    if loses {
        let detail = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
        errors.invalid(&SPEC.field("nodeSelector"), &spec.node_selector, detail);
    }
    spec.node_selector.clone_from(&old.node_selector);
    let node_affinity = |spec: &PodSpec| spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.clone());
    let (new_affinity, old_affinity) = (node_affinity(spec), node_affinity(old));
    if new_affinity != old_affinity {
        narrowed(new_affinity.as_ref(), old_affinity.as_ref(), errors);
        let mut affinity = spec.affinity.take().unwrap_or_default();
        affinity.node_affinity = old_affinity;
        spec.affinity = (old.affinity.is_some() || affinity != Default::default()).then_some(affinity);
    }
}

/// Terms of required node affinity may be added to, not taken from.
fn narrowed(new: Option<&NodeAffinity>, old: Option<&NodeAffinity>, errors: &mut Errors) {
    let path = SPEC.field("affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms");
    let required = |affinity: Option<&NodeAffinity>| {
        affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.clone())
    };
    let Some(old) = required(old) else { return };
    let new = required(new).unwrap_or_default();
    if new.node_selector_terms.len() != old.node_selector_terms.len() {
        let detail = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        return errors.invalid(&path, &new.node_selector_terms, detail);
    }
    for (i, (new, old)) in new.node_selector_terms.iter().zip(&old.node_selector_terms).enumerate() {
        let keeps = items(&new.match_expressions).starts_with(items(&old.match_expressions))
            && items(&new.match_fields).starts_with(items(&old.match_fields));
        if !keeps {
            errors.invalid(&path.index(i), new, "only additions are allowed (no mutations or deletions)");
        }
    }
}

pub fn validate_status(new: &Pod, old: &Pod, errors: &mut Errors) {
    let (old_spec, none) = (pod_spec(old), Default::default());
    let (new, old) = (new.status.as_ref().unwrap_or(&none), old.status.as_ref().unwrap_or(&none));
    let nominated = text(&new.nominated_node_name);
    if !nominated.is_empty() && nominated != text(&old.nominated_node_name) {
        errors.invalid_all(&STATUS.field("nominatedNodeName"), nominated, names::dns1123_subdomain(nominated));
    }
    if old.qos_class.is_some() {
        errors.immutable(&STATUS.field("qosClass"), &new.qos_class, &old.qos_class);
    }
    let is_sidecar =
        |name: &str| items(&old_spec.init_containers).iter().any(|c| c.name == name && container::is_sidecar(c));
    let policy = text(&old_spec.restart_policy);
    let path = STATUS.field("containerStatuses");
    stays_ended(items(&new.container_statuses), items(&old.container_statuses), policy, &|_| false, &path, errors);
    let path = STATUS.field("initContainerStatuses");
    let (news, olds) = (items(&new.init_container_statuses), items(&old.init_container_statuses));
    stays_ended(news, olds, policy, &is_sidecar, &path, errors);
    for (i, address) in items(&new.pod_ips).iter().enumerate() {
        address::ip(&address.ip, &STATUS.field("podIPs").index(i), errors);
    }
    for (i, address) in items(&new.host_ips).iter().enumerate() {
        address::ip(&address.ip, &STATUS.field("hostIPs").index(i), errors);
    }
}

/// A container that has ended for good cannot be reported as running again.
fn stays_ended(
    new: &[ContainerStatus],
    old: &[ContainerStatus],
    policy: &str,
    may_restart: &dyn Fn(&str) -> bool,
    path: &Path,
    errors: &mut Errors,
) {
    if policy == "Always" {
        return;
    }
    let ended = |status: &ContainerStatus| {
        status.state.as_ref().and_then(|state| state.terminated.as_ref()).map(|t| t.exit_code)
    };
    for (i, old) in old.iter().enumerate() {
        let Some(exit_code) = ended(old) else { continue };
        if may_restart(&old.name) || (exit_code != 0 && policy == "OnFailure") {
            continue;
        }
        if new.iter().any(|new| new.name == old.name && ended(new).is_none()) {
            errors.forbidden(&path.index(i).field("state"), "may not be transitioned to non-terminated state");
        }
    }
}

/// Ephemeral containers can be added, never changed or removed.
pub fn validate_ephemeral(new: &Value, old: &Value) -> Vec<FieldError> {
    check_change(new, old, |new: &Pod, old: &Pod, errors| {
        let (new, old) = (pod_spec(new), pod_spec(old));
        let path = SPEC.field("ephemeralContainers");
        let mut ignored = Errors::default();
        let volumes = volume::volumes(items(&new.volumes), Within::Template, &SPEC.field("volumes"), &mut ignored);
        let (new_list, old_list) = (items(&new.ephemeral_containers), items(&old.ephemeral_containers));
        container::ephemeral(&new, new_list, &volumes, &path, errors);
        for old in old_list {
            match new_list.iter().position(|new| new.name == old.name) {
                None => {
                    errors
                        .forbidden(&path, format!("existing ephemeral containers {:?} may not be removed\n", old.name));
                }
                Some(i) if new_list[i] != *old => {
                    let detail = format!("existing ephemeral containers {:?} may not be changed\n", old.name);
                    errors.forbidden(&path.index(i), detail);
                }
                Some(_) => {}
            }
        }
    })
}

/// A resize changes CPU and memory, and keeps the pod's class of service.
pub fn validate_resize(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = check_change(new, old, |new: &Pod, old: &Pod, errors| {
        validate_spec(new, errors);
        let (new, old) = (pod_spec(new), pod_spec(old));
        for (i, (new, old)) in new.containers.iter().zip(&old.containers).enumerate() {
            only_cpu_and_memory(new, old, &SPEC.field("containers").index(i), errors);
        }
        for (i, (new, old)) in items(&new.init_containers).iter().zip(items(&old.init_containers)).enumerate() {
            if !container::is_sidecar(new) && new.resources != old.resources {
                let detail = "resources for non-sidecar init containers are immutable";
                errors.invalid(&SPEC.field("initContainers").index(i).field("resources"), &new.resources, detail);
            }
            only_cpu_and_memory(new, old, &SPEC.field("initContainers").index(i), errors);
        }
    });
    if matches!(text_at(old, "/status/phase"), "Succeeded" | "Failed") {
        errors.push(FieldError::forbidden("", "resize is not supported for pods that are finished"));
    }
    if qos_class(new) != qos_class(old) {
        let path = SPEC.to_string();
        errors.push(FieldError::invalid(path, qos_class(new), "Pod QOS Class may not change as a result of resizing"));
    }
    errors
}

fn only_cpu_and_memory(new: &Container, old: &Container, path: &Path, errors: &mut Errors) {
    let others = |container: &Container| -> Vec<(bool, String, Quantity)> {
        let Some(resources) = &container.resources else { return Vec::new() };
        let both = [(true, &resources.limits), (false, &resources.requests)];
        let of = |(is_limit, list)| {
            amounts::each(list).map(move |(name, amount)| (is_limit, name.to_owned(), amounts::parse(amount)))
        };
        both.into_iter().flat_map(of).filter(|(_, name, _)| name != "cpu" && name != "memory").collect()
    };
    if others(new) != others(old) {
        errors.forbidden(&path.field("resources"), "only cpu and memory resources are mutable");
    }
    let of = |container: &Container, is_limit: bool| {
        let resources = container.resources.clone().unwrap_or_default();
        if is_limit { resources.limits } else { resources.requests }.unwrap_or_default()
    };
    for (field, is_limit) in [("limits", true), ("requests", false)] {
        let after = of(new, is_limit);
        if of(old, is_limit).keys().any(|name| matches!(name.as_str(), "cpu" | "memory") && !after.contains_key(name)) {
            errors.forbidden(&path.field("resources").field(field), format!("resource {field} cannot be removed"));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::rules::texts;

    fn pod(change: impl Fn(&mut Value)) -> Value {
        let mut pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "a:1"}]}});
        change(&mut pod);
        super::super::default::default_pod(&mut pod);
        pod
    }

    fn check(old: &Value, new: &Value, expected: &[&str]) {
        assert_eq!(texts(check_change(new, old, validate_update)), expected);
    }

    #[test]
    fn images_may_change_and_commands_may_not() {
        let old = pod(|_| {});
        check(&old, &pod(|pod| pod["spec"]["containers"][0]["image"] = json!("b:2")), &[]);
        let refused = format!("spec: Forbidden: pod updates may not change fields other than {UPDATABLE}");
        check(&old, &pod(|pod| pod["spec"]["containers"][0]["command"] = json!(["x"])), &[&refused]);
        check(
            &old,
            &pod(|pod| pod["spec"]["containers"].as_array_mut().unwrap().push(json!({"name": "d", "image": "d"}))),
            &["spec.containers: Forbidden: pod updates may not add or remove containers"],
        );
    }

    #[test]
    fn gates_go_and_do_not_come() {
        let gated = pod(|pod| pod["spec"]["schedulingGates"] = json!([{"name": "g"}]));
        check(&gated, &pod(|_| {}), &[]);
        check(
            &pod(|_| {}),
            &gated,
            &["spec.schedulingGates[0].name: Forbidden: only deletion is allowed, but found new scheduling gate 'g'"],
        );
        let confined = pod(|pod| {
            pod["spec"]["schedulingGates"] = json!([{"name": "g"}]);
            pod["spec"]["nodeSelector"] = json!({"a": "b"});
        });
        check(&gated, &confined, &[]);
    }

    #[test]
    fn ephemeral_containers_only_grow() {
        let debug = |containers: Value| pod(|pod| pod["spec"]["ephemeralContainers"] = containers.clone());
        let one = json!([{"name": "a", "image": "x"}]);
        let two = json!([{"name": "a", "image": "x"}, {"name": "b", "image": "y"}]);
        for (old, new, refusals) in [
            (json!([]), one.clone(), 0),
            (one.clone(), two.clone(), 0),
            (two, one.clone(), 1),
            (one, json!([{"name": "a", "image": "z"}]), 1),
            (json!([]), json!([{"name": "a"}]), 1),
        ] {
            assert_eq!(validate_ephemeral(&debug(new.clone()), &debug(old.clone())).len(), refusals, "{old} to {new}");
        }
    }

    #[test]
    fn a_resize_keeps_the_class_of_service() {
        let sized = |resources: Value| pod(|pod| pod["spec"]["containers"][0]["resources"] = resources.clone());
        let small = sized(json!({"requests": {"cpu": "1"}}));
        assert_eq!(texts(validate_resize(&sized(json!({"requests": {"cpu": "2"}})), &small)), [""; 0]);
        assert_eq!(
            texts(validate_resize(&sized(json!({})), &small)),
            [
                "spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed",
                "spec: Invalid value: \"BestEffort\": Pod QOS Class may not change as a result of resizing",
            ]
        );
    }

    #[test]
    fn tolerations_are_only_added() {
        let old = pod(|pod| pod["spec"]["tolerations"] = json!([{"key": "a", "operator": "Exists"}]));
        check(
            &old,
            &pod(|pod| pod["spec"]["tolerations"] = json!([{"key": "b", "operator": "Exists"}])),
            &["spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds"],
        );
    }

    #[test]
    fn what_has_ended_stays_so() {
        let status = |state: Value| json!({"spec": {"restartPolicy": "Never"}, "status": {"containerStatuses": [{"name": "c", "state": state}]}});
        let ended = status(json!({"terminated": {"exitCode": 1}}));
        let running = status(json!({"running": {}}));
        assert_eq!(
            texts(check_change(&running, &ended, validate_status)),
            ["status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state"]
        );
        assert_eq!(texts(check_change(&ended, &running, validate_status)), [""; 0]);
    }
}
