//! What of a status is wrong, for the kinds whose status is counters and addresses. The kinds name these functions in
//! their [`Rules::validate_status_update`](super::Rules).
//!
//! Source: the `Validate…StatusUpdate` functions in pkg/apis/{apps,autoscaling,batch,core,networking,policy}/validation.

use api_types::{FieldError, names};
use serde_json::Value;

use super::{
    address, amounts,
    edit::{list, map, text, text_at},
    facts::{CONDITIONS, Fact, Must, check},
    path::{Errors, Path},
};

const STATUS: Path = Path::root("status");
const NO_MORE: &str = "cannot be greater than status.replicas";
const RESIZE_STATUSES: [&str; 5] = [
    "ControllerResizeInfeasible",
    "ControllerResizeInProgress",
    "NodeResizeInfeasible",
    "NodeResizeInProgress",
    "NodeResizePending",
];

/// Counters of the kinds that make pods, all of them never negative.
const COUNTERS: &[Fact] = &[
    Fact("status.replicas", Must::NotBeNegative),
    Fact("status.fullyLabeledReplicas", Must::NotBeNegative),
    Fact("status.updatedReplicas", Must::NotBeNegative),
    Fact("status.currentReplicas", Must::NotBeNegative),
    Fact("status.desiredReplicas", Must::NotBeNegative),
    Fact("status.readyReplicas", Must::NotBeNegative),
    Fact("status.availableReplicas", Must::NotBeNegative),
    Fact("status.unavailableReplicas", Must::NotBeNegative),
    Fact("status.terminatingReplicas", Must::NotBeNegative),
    Fact("status.currentNumberScheduled", Must::NotBeNegative),
    Fact("status.numberMisscheduled", Must::NotBeNegative),
    Fact("status.desiredNumberScheduled", Must::NotBeNegative),
    Fact("status.numberReady", Must::NotBeNegative),
    Fact("status.updatedNumberScheduled", Must::NotBeNegative),
    Fact("status.numberAvailable", Must::NotBeNegative),
    Fact("status.numberUnavailable", Must::NotBeNegative),
    Fact("status.active", Must::NotBeNegative),
    Fact("status.succeeded", Must::NotBeNegative),
    Fact("status.failed", Must::NotBeNegative),
    Fact("status.ready", Must::NotBeNegative),
    Fact("status.terminating", Must::NotBeNegative),
    Fact("status.disruptionsAllowed", Must::NotBeNegative),
    Fact("status.currentHealthy", Must::NotBeNegative),
    Fact("status.desiredHealthy", Must::NotBeNegative),
    Fact("status.expectedPods", Must::NotBeNegative),
    Fact("status.observedGeneration", Must::NotBeNegative),
    Fact("status.collisionCount", Must::NotBeNegative),
];

fn number(object: &Value, field: &str) -> i64 {
    object["status"][field].as_i64().unwrap_or(0)
}

/// Only the counters: DaemonSets, autoscalers.
pub fn counters(new: &Value, _: &Value) -> Vec<FieldError> {
    check(new, COUNTERS)
}

pub fn budget(new: &Value, _: &Value) -> Vec<FieldError> {
    let mut errors = check(new, &[Fact("status", Must::Hold(CONDITIONS))]);
    errors.extend(check(new, COUNTERS));
    errors
}

/// Of the replicas that there are, so many are in some state.
pub fn replicas(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Errors(check(new, COUNTERS));
    for part in ["fullyLabeledReplicas", "updatedReplicas", "readyReplicas", "currentReplicas", "availableReplicas"] {
        if number(new, part) > number(new, "replicas") {
            errors.invalid(&STATUS.field(part), number(new, part), NO_MORE);
        }
    }
    if number(new, "availableReplicas") > number(new, "readyReplicas") {
        let whole = if text(new, "kind") == "StatefulSet" { "status.readyReplicas" } else { "readyReplicas" };
        let detail = format!("cannot be greater than {whole}");
        errors.invalid(&STATUS.field("availableReplicas"), number(new, "availableReplicas"), detail);
    }
    // A name made from a lower count might be in use already.
    let collisions = |object: &Value| object["status"]["collisionCount"].as_i64();
    if collisions(old).is_some_and(|before| collisions(new).is_none_or(|after| after < before)) {
        errors.invalid(&STATUS.field("collisionCount"), collisions(new).unwrap_or(0), "cannot be decremented");
    }
    errors.0
}

/// A Job ends once, with all its pods gone.
///
/// Source: `validateJobStatus` in pkg/apis/batch/validation and `getStatusValidationOptions` in pkg/registry/batch/job.
pub fn job(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Errors(check(new, COUNTERS));
    let is = |job: &Value, kind: &str| {
        let conditions = list(&job["status"], "conditions");
        conditions.iter().any(|condition| text(condition, "type") == kind && text(condition, "status") == "True")
    };
    let (complete, failed) = (is(new, "Complete"), is(new, "Failed"));
    let path = STATUS.field("conditions");
    let conditions = list(&new["status"], "conditions");
    for kind in ["Complete", "Failed", "SuccessCriteriaMet", "FailureTarget"] {
        if is(old, kind) && !is(new, kind) {
            errors.invalid(&path, conditions, format!("cannot disable {kind}=True condition"));
        }
    }
    for (one, other) in [
        ("Complete", "Failed"),
        ("SuccessCriteriaMet", "FailureTarget"),
        ("Complete", "FailureTarget"),
        ("Failed", "SuccessCriteriaMet"),
    ] {
        if is(new, one) && is(new, other) {
            let detail = format!("cannot set {one}=True and {other}=true conditions");
            errors.invalid(&path, conditions, detail);
        }
    }
    if complete || failed {
        for part in ["active", "terminating"].into_iter().filter(|part| number(new, part) > 0) {
            errors.invalid(&STATUS.field(part), number(new, part), format!("{part}>0 is invalid for finished job"));
        }
        if text_at(new, "/status/startTime").is_empty() {
            errors.required(&STATUS.field("startTime"), "startTime is required for finished job");
        }
        let uncounted = &new["status"]["uncountedTerminatedPods"];
        if !list(uncounted, "succeeded").is_empty() || !list(uncounted, "failed").is_empty() {
            let detail = "uncountedTerminatedPods needs to be empty for finished job";
            errors.invalid(&STATUS.field("uncountedTerminatedPods"), uncounted, detail);
        }
    }
    if number(new, "ready") > number(new, "active") {
        errors.invalid(&STATUS.field("ready"), number(new, "ready"), "cannot set more ready pods than active");
    }
    let (start, end) = (text_at(new, "/status/startTime"), text_at(new, "/status/completionTime"));
    let end_path = STATUS.field("completionTime");
    match (complete, end) {
        (true, "") => errors.required(&end_path, "completionTime is required for Complete jobs"),
        (false, end) if !end.is_empty() => {
            errors.invalid(&end_path, end, "cannot set completionTime when there is no Complete=True condition");
        }
        // Both are written alike, in UTC, so that their order is that of the texts.
        (true, end) if end < start => {
            errors.invalid(&end_path, end, "completionTime cannot be set before startTime");
        }
        _ => {}
    }
    let suspended = new.pointer("/spec/suspend") == Some(&Value::Bool(true));
    let was_started = text_at(old, "/status/startTime");
    if !was_started.is_empty() && was_started != start && !suspended {
        let detail = if start.is_empty() {
            "startTime cannot be removed for unsuspended job"
        } else {
            "startTime cannot be modified for unsuspended job"
        };
        errors.required(&STATUS.field("startTime"), detail);
    }
    errors.0
}

pub fn service(new: &Value, _: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let path = STATUS.field("loadBalancer.ingress");
    let ingress = list(&new["status"]["loadBalancer"], "ingress");
    if !ingress.is_empty() && text_at(new, "/spec/type") != "LoadBalancer" {
        errors.forbidden(&path, "may only be used when `spec.type` is \"LoadBalancer\"");
        return errors.0;
    }
    for (i, point) in ingress.iter().enumerate() {
        let path = path.index(i);
        let mode_path = path.field("ipMode");
        match (text(point, "ip"), point.get("ipMode").and_then(Value::as_str)) {
            ("", Some(_)) => errors.forbidden(&mode_path, "may not be specified when `ip` is not set"),
            ("", None) => {}
            (_, None) => errors.required(&mode_path, "must be specified when `ip` is set"),
            (_, Some(mode)) => errors.one_of(&mode_path, mode, &["Proxy", "VIP"]),
        }
        load_balancer(point, &path, &mut errors);
    }
    errors.0
}

pub fn ingress(new: &Value, _: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let path = STATUS.field("loadBalancer.ingress");
    for (i, point) in list(&new["status"]["loadBalancer"], "ingress").iter().enumerate() {
        load_balancer(point, &path.index(i), &mut errors);
    }
    errors.0
}

fn load_balancer(point: &Value, path: &Path, errors: &mut Errors) {
    let (ip, name) = (text(point, "ip"), text(point, "hostname"));
    if !ip.is_empty() {
        address::ip(ip, &path.field("ip"), errors);
    }
    if !name.is_empty() {
        errors.invalid_all(&path.field("hostname"), name, names::dns1123_subdomain(name));
        if name.parse::<std::net::IpAddr>().is_ok() {
            errors.invalid(&path.field("hostname"), name, "must be a DNS name, not an IP address");
        }
    }
}

pub fn claim(new: &Value, _: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    if list(&new["spec"], "accessModes").is_empty() {
        errors.required(&Path::root("Spec.accessModes"), "");
    }
    amounts_at(new, "capacity", &mut errors);
    amounts_at(new, "allocatedResources", &mut errors);
    let path = STATUS.field("allocatedResourceStatuses");
    for (name, status) in map(&new["status"], "allocatedResourceStatuses") {
        errors.one_of(&path.key(name), status.as_str().unwrap_or_default(), &RESIZE_STATUSES);
    }
    errors.0
}

pub fn quota(new: &Value, _: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    amounts_at(new, "hard", &mut errors);
    amounts_at(new, "used", &mut errors);
    errors.0
}

/// Capacity and addresses of a node; also part of what its other updates validate.
pub fn node(new: &Value, _: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    amounts_at(new, "capacity", &mut errors);
    amounts_at(new, "allocatable", &mut errors);
    let addresses = list(&new["status"], "addresses");
    for (i, address) in addresses.iter().enumerate().filter(|(i, address)| addresses[..*i].contains(address)) {
        errors.duplicate(&STATUS.field("addresses").index(i), address);
    }
    errors.0
}

fn amounts_at(object: &Value, field: &str, errors: &mut Errors) {
    let path = STATUS.field(field);
    for (name, amount) in map(&object["status"], field) {
        let amount = api_types::k8s::Quantity(amount.as_str().unwrap_or_default().to_owned());
        amounts::amount(name, &amount, &path.key(name), errors);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::rules::texts;

    fn check(validate: fn(&Value, &Value) -> Vec<FieldError>, new: Value, old: Value, expected: &[&str]) {
        assert_eq!(texts(validate(&new, &old)), expected, "{new}");
    }

    #[test]
    fn replicas_are_part_of_the_whole() {
        check(replicas, json!({"status": {"replicas": 2, "readyReplicas": 2, "availableReplicas": 1}}), json!({}), &[]);
        check(
            replicas,
            json!({"status": {"replicas": 1, "readyReplicas": -1, "updatedReplicas": 2, "availableReplicas": 1}}),
            json!({"status": {"collisionCount": 1}}),
            &[
                "status.readyReplicas: Invalid value: -1: must be greater than or equal to 0",
                "status.updatedReplicas: Invalid value: 2: cannot be greater than status.replicas",
                "status.availableReplicas: Invalid value: 1: cannot be greater than readyReplicas",
                "status.collisionCount: Invalid value: 0: cannot be decremented",
            ],
        );
    }

    #[test]
    fn a_job_ends_once() {
        let ended = |kind: &str, rest: Value| {
            let mut status =
                json!({"startTime": "2026-01-01T00:00:00Z", "conditions": [{"type": kind, "status": "True"}]});
            status.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
            json!({ "status": status })
        };
        let done = json!({"completionTime": "2026-01-01T00:00:01Z"});
        check(job, ended("Complete", done.clone()), json!({}), &[]);
        check(job, ended("Failed", json!({})), json!({}), &[]);
        check(
            job,
            ended("Complete", json!({"active": 1})),
            json!({}),
            &[
                "status.active: Invalid value: 1: active>0 is invalid for finished job",
                "status.completionTime: Required value: completionTime is required for Complete jobs",
            ],
        );
        check(
            job,
            json!({"status": {"startTime": "2026-01-01T00:00:00Z", "ready": 1}}),
            ended("Complete", done),
            &[
                "status.conditions: Invalid value: []: cannot disable Complete=True condition",
                "status.ready: Invalid value: 1: cannot set more ready pods than active",
            ],
        );
    }

    #[test]
    fn addresses_of_load_balancers() {
        let status = |kind: &str, point: Value| json!({"spec": {"type": kind}, "status": {"loadBalancer": {"ingress": [point]}}});
        check(service, status("LoadBalancer", json!({"ip": "1.2.3.4", "ipMode": "VIP"})), json!({}), &[]);
        check(
            service,
            status("ClusterIP", json!({"ip": "1.2.3.4"})),
            json!({}),
            &["status.loadBalancer.ingress: Forbidden: may only be used when `spec.type` is \"LoadBalancer\""],
        );
        check(
            ingress,
            status("", json!({"ip": "x", "hostname": "1.2.3.4"})),
            json!({}),
            &[
                "status.loadBalancer.ingress[0].ip: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
                "status.loadBalancer.ingress[0].hostname: Invalid value: \"1.2.3.4\": must be a DNS name, not an IP address",
            ],
        );
    }

    #[test]
    fn amounts_are_not_negative() {
        check(
            node,
            json!({"status": {"capacity": {"cpu": "-1", "pods": "1500m"}, "addresses": [{"type": "InternalIP", "address": "a"}, {"type": "InternalIP", "address": "a"}]}}),
            json!({}),
            &[
                "status.capacity[cpu]: Invalid value: \"-1\": must be greater than or equal to 0",
                "status.capacity[pods]: Invalid value: \"1500m\": must be an integer",
                "status.addresses[1]: Duplicate value: {\"address\":\"a\",\"type\":\"InternalIP\"}",
            ],
        );
        check(
            claim,
            json!({"spec": {"accessModes": ["a"]}, "status": {"capacity": {"storage": "-1Gi"}, "allocatedResourceStatuses": {"storage": "x"}}}),
            json!({}),
            &[
                "status.capacity[storage]: Invalid value: \"-1Gi\": must be greater than or equal to 0",
                "status.allocatedResourceStatuses[storage]: Unsupported value: \"x\": supported values: \"ControllerResizeInfeasible\", \"ControllerResizeInProgress\", \"NodeResizeInfeasible\", \"NodeResizeInProgress\", \"NodeResizePending\"",
            ],
        );
    }
}
