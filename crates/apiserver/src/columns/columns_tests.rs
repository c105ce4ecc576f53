use api_types::resources::{self, BUILT_IN};
use serde_json::json;

use super::*;

const NOW: &str = "2026-01-01T01:00:00Z";

fn cells(resource: &Resource, mut object: Value) -> Vec<Value> {
    if object.pointer("/metadata/creationTimestamp").is_none() {
        object["metadata"]["creationTimestamp"] = "2026-01-01T00:55:00Z".into();
    }
    row(resource, &object, NOW.parse().unwrap()).cells
}

fn shared(file: &str) -> Option<String> {
    let shared = std::env::var("COXSWAIN_SHARED");
    let shared = shared.unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared").to_owned());
    let text = std::fs::read_to_string(format!("{shared}/golden/{file}")).ok();
    if text.is_none() {
        eprintln!("skipped: no {file} in {shared}");
    }
    text
}

#[test]
fn columns_are_those_of_a_real_server() {
    let Some(recorded) = shared("table-columns.json") else { return };
    let recorded: serde_json::Map<String, Value> = serde_json::from_str(&recorded).unwrap();
    for resource in BUILT_IN {
        let Some(expected) = recorded.get(&format!("{}/{}", resource.api_version(), resource.plural)) else { continue };
        let columns: Vec<Value> = columns(resource)
            .iter()
            .map(|c| json!({"name": c.name, "type": c.type_, "format": c.format, "priority": c.priority}))
            .collect();
        assert_eq!(json!(columns), *expected, "{}", resource.plural);
    }
}

#[test]
fn every_row_has_a_cell_for_each_column_and_every_column_a_description() {
    for resource in BUILT_IN {
        let columns = columns(resource);
        let row = cells(resource, json!({"metadata": {"name": "a"}}));
        assert_eq!(row.len(), columns.len(), "{}", resource.plural);
        for column in columns {
            assert!(!column.description.is_empty(), "{} {}", resource.plural, column.name);
        }
    }
}

/// The cells that a real server made of objects that it also gave out whole.
#[test]
fn cells_are_those_of_a_real_server() {
    let Some(recorded) = shared("exchanges.jsonl") else { return };
    let mut objects: std::collections::HashMap<String, Value> = Default::default();
    let mut compared = 0;
    for line in recorded.lines() {
        let exchange: Value = serde_json::from_str(line).unwrap();
        let body = &exchange["response"]["body"];
        let uid = |object: &Value| object["metadata"]["uid"].as_str().map(str::to_owned);
        if body["kind"] != "Table" {
            if let Some(uid) = uid(body) {
                objects.insert(uid, body.clone());
            }
            continue;
        }
        for row in body["rows"].as_array().unwrap() {
            let Some(object) = uid(&row["object"]).and_then(|uid| objects.get(&uid)) else { continue };
            let kind = object["kind"].as_str().unwrap();
            let resource = BUILT_IN.iter().find(|resource| resource.kind == kind).unwrap();
            let made = super::row(resource, object, "2026-11-24T00:00:00Z".parse().unwrap()).cells;
            for ((column, made), expected) in columns(resource).iter().zip(&made).zip(row["cells"].as_array().unwrap())
            {
                if column.name != "Age" {
                    assert_eq!(made, expected, "{kind} {} of {}", column.name, object["metadata"]["name"]);
                    compared += 1;
                }
            }
        }
    }
    assert!(compared > 10, "only {compared} cells could be compared");
}

fn container(state: Value) -> Value {
    json!({"name": "c", "ready": state.get("running").is_some(), "restartCount": 0, "state": state})
}

fn pod(status: Value) -> Value {
    json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c"}], "initContainers": [{"name": "i"}, {"name": "j"}]},
        "status": status})
}

/// READY, STATUS and RESTARTS of a pod.
fn check(pod: Value, expected: [&str; 3]) {
    let cells = cells(&resources::POD, pod.clone());
    assert_eq!(cells[1..4], expected.map(Value::from), "{pod}");
}

#[test]
fn pods_that_run_wait_or_have_ended() {
    let status = |state: Value| json!({"phase": "Running", "containerStatuses": [container(state)]});
    for (state, expected) in [
        (json!({"running": {}}), ["1/1", "Running", "0"]),
        (json!({"waiting": {"reason": "ContainerCreating"}}), ["0/1", "ContainerCreating", "0"]),
        (json!({"waiting": {"reason": "CrashLoopBackOff"}}), ["0/1", "CrashLoopBackOff", "0"]),
        (json!({"terminated": {"exitCode": 0, "reason": "Completed"}}), ["0/1", "Completed", "0"]),
        (json!({"terminated": {"exitCode": 1, "reason": "Error"}}), ["0/1", "Error", "0"]),
        (json!({"terminated": {"exitCode": 137}}), ["0/1", "ExitCode:137", "0"]),
        (json!({"terminated": {"exitCode": 0, "signal": 9}}), ["0/1", "Signal:9", "0"]),
    ] {
        check(pod(status(state)), expected);
    }
    check(pod(json!({"phase": "Pending"})), ["0/1", "Pending", "0"]);
    check(pod(json!({"phase": "Failed", "reason": "Evicted"})), ["0/1", "Evicted", "0"]);
    let gated = json!([{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]);
    check(pod(json!({"phase": "Pending", "conditions": gated})), ["0/1", "SchedulingGated", "0"]);
}

#[test]
fn pods_that_are_initialising() {
    let status = |states: &[Value]| json!({"phase": "Pending", "initContainerStatuses": states.iter().map(|state| container(state.clone())).collect::<Vec<_>>()});
    let done = json!({"terminated": {"exitCode": 0, "reason": "Completed"}});
    for (states, expected) in [
        (vec![json!({"running": {}}), json!({"waiting": {"reason": "PodInitializing"}})], "Init:0/2"),
        (vec![done.clone(), json!({"running": {}})], "Init:1/2"),
        (vec![json!({"waiting": {"reason": "CrashLoopBackOff"}})], "Init:CrashLoopBackOff"),
        (vec![json!({"terminated": {"exitCode": 3}})], "Init:ExitCode:3"),
        (vec![json!({"terminated": {"exitCode": 3, "reason": "Error"}})], "Init:Error"),
    ] {
        check(pod(status(&states)), ["0/1", expected, "0"]);
    }
}

#[test]
fn sidecars_count_among_the_containers() {
    let mut sidecar = container(json!({"running": {}}));
    sidecar["started"] = true.into();
    sidecar["name"] = "s".into();
    let pod = json!({"metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c"}], "initContainers": [{"name": "s", "restartPolicy": "Always"}]},
        "status": {"phase": "Running", "initContainerStatuses": [sidecar],
            "containerStatuses": [container(json!({"running": {}}))]}});
    check(pod, ["2/2", "Running", "0"]);
}

#[test]
fn pods_that_restart_or_are_deleted() {
    let mut restarted = container(json!({"running": {}}));
    restarted["restartCount"] = 3.into();
    restarted["lastState"] = json!({"terminated": {"exitCode": 1, "finishedAt": "2026-01-01T00:58:00Z"}});
    let running = pod(json!({"phase": "Running", "containerStatuses": [restarted]}));
    check(running.clone(), ["1/1", "Running", "3 (2m ago)"]);
    let mut deleted = running;
    deleted["metadata"]["deletionTimestamp"] = NOW.into();
    check(deleted.clone(), ["1/1", "Terminating", "3 (2m ago)"]);
    deleted["status"]["reason"] = "NodeLost".into();
    check(deleted, ["1/1", "Unknown", "3 (2m ago)"]);
}

#[test]
fn ended_pods_are_marked() {
    let row = row(&resources::POD, &pod(json!({"phase": "Succeeded"})), NOW.parse().unwrap());
    assert_eq!((row.conditions[0].type_.as_str(), row.conditions[0].reason.as_str()), ("Completed", "Succeeded"));
}

#[test]
fn other_kinds() {
    let node = json!({"metadata": {"name": "n", "labels": {"node-role.kubernetes.io/control-plane": ""}},
        "spec": {"unschedulable": true}, "status": {"conditions": [{"type": "Ready", "status": "False"}],
        "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}], "nodeInfo": {"kubeletVersion": "v1.36.2"}}});
    let endpoints = json!({"metadata": {"name": "e"}, "subsets": [{"ports": [{"port": 80}],
        "addresses": [{"ip": "1"}, {"ip": "2"}, {"ip": "3"}, {"ip": "fd::1"}]}]});
    let service = json!({"metadata": {"name": "s"}, "spec": {"type": "LoadBalancer", "clusterIPs": ["10.96.0.9"],
        "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}], "selector": {"a": "b"}},
        "status": {"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}]}}});
    let job = json!({"metadata": {"name": "j"}, "spec": {"completions": 3}, "status": {"succeeded": 1,
        "startTime": "2026-01-01T00:59:00Z"}});
    let autoscaler = json!({"metadata": {"name": "h"}, "spec": {"scaleTargetRef": {"kind": "Deployment", "name": "d"},
        "minReplicas": 1, "maxReplicas": 5, "metrics": [{"type": "Resource", "resource": {"name": "cpu",
        "target": {"type": "Utilization", "averageUtilization": 80}}}]},
        "status": {"currentReplicas": 2, "currentMetrics": [{"type": "Resource", "resource": {"name": "cpu",
        "current": {"averageUtilization": 12}}}]}});
    let claim = json!({"metadata": {"name": "c"}, "spec": {"volumeName": "v", "storageClassName": "fast"},
        "status": {"phase": "Bound", "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteMany", "ReadWriteOnce"]}});
    let event = json!({"metadata": {"name": "e.1"}, "involvedObject": {"kind": "Pod", "name": "p"}, "reason": "Killing",
        "type": "Normal", "message": "bye\n", "count": 2, "source": {"component": "kubelet", "host": "n1"},
        "firstTimestamp": "2026-01-01T00:50:00Z", "lastTimestamp": "2026-01-01T00:59:30Z"});
    let binding = json!({"metadata": {"name": "b"}, "roleRef": {"kind": "Role", "name": "r"}, "subjects": [
        {"kind": "User", "name": "u"}, {"kind": "ServiceAccount", "name": "s", "namespace": "ns"}]});
    for (resource, object, expected) in [
        (
            &resources::NODE,
            node,
            json!([
                "n",
                "NotReady,SchedulingDisabled",
                "control-plane",
                "5m",
                "v1.36.2",
                "10.0.0.1",
                "<none>",
                "<unknown>",
                "<unknown>",
                "<unknown>"
            ]),
        ),
        (&resources::ENDPOINTS, endpoints, json!(["e", "1:80,2:80,3:80 + 1 more...", "5m"])),
        (
            &resources::SERVICE,
            service,
            json!(["s", "LoadBalancer", "10.96.0.9", "1.2.3.4", "80:30080/TCP", "5m", "a=b"]),
        ),
        (&resources::JOB, job, json!(["j", "Running", "1/3", "60s", "5m", "", "", "<none>"])),
        (
            &resources::HORIZONTAL_POD_AUTOSCALER,
            autoscaler,
            json!(["h", "Deployment/d", "cpu: 12%/80%", "1", 5, 2, "5m"]),
        ),
        (
            &resources::PERSISTENT_VOLUME_CLAIM,
            claim,
            json!(["c", "Bound", "v", "1Gi", "RWO,RWX", "fast", "<unset>", "5m", "<unset>"]),
        ),
        (
            &resources::EVENT,
            event,
            json!(["30s", "Normal", "Killing", "pod/p", "", "kubelet, n1", "bye", "10m", 2, "e.1"]),
        ),
        (&resources::ROLE_BINDING, binding, json!(["b", "Role/r", "5m", "u", "", "ns/s"])),
        (&resources::ROLE, json!({"metadata": {"name": "r"}}), json!(["r", "2026-01-01T00:55:00Z"])),
    ] {
        assert_eq!(json!(cells(resource, object)), expected);
    }
}
