//! Each daemon is killed in turn while a Deployment rolls.

use tests::{Cluster, Component, cluster, eventually};

const IMAGE: &str = "coxswain/testbox:1";
const DAEMONS: [Component; 6] = [
    Component::Apiserver,
    Component::ControllerManager,
    Component::Scheduler,
    Component::Kubelet,
    Component::Proxy,
    Component::Etcd,
];

/// Issue 2, "Shown by" 3.
#[test]
fn a_rollout_finishes_whoever_is_killed() {
    let cluster = cluster!(1);
    cluster.kubectl(&["run", "bystander", &format!("--image={IMAGE}")]);
    cluster.kubectl(&["create", "deployment", "web", &format!("--image={IMAGE}"), "--replicas=3"]);
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/bystander", "--timeout=120s"]);
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=120s"]);
    let bystander = container(&cluster);
    for (round, daemon) in DAEMONS.into_iter().enumerate() {
        let name = format!("acknowledged-{round}");
        cluster.kubectl(&["create", "configmap", &name, "--from-literal=round=1"]);
        let value = format!("ROUND={round}");
        cluster.kubectl(&["set", "env", "deployment/web", &value]);
        cluster.kill(daemon);
        cluster.up();
        finished(&cluster, &value);
        cluster.kubectl(&["get", "configmap", &name]);
        assert_eq!(container(&cluster), bystander, "after the death of {}", daemon.name());
    }
    for round in 0..DAEMONS.len() {
        cluster.kubectl(&["get", "configmap", &format!("acknowledged-{round}")]);
    }
}

/// The rollout to `value` is complete, and none but its three pods are left.
fn finished(cluster: &Cluster, value: &str) {
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=120s"]);
    let path =
        "jsonpath={range .items[*]}{.spec.containers[0].env[0].name}={.spec.containers[0].env[0].value}{\"\\n\"}{end}";
    eventually("only the new pods are left", || {
        let pods = cluster.kubectl(&["get", "pods", "-l", "app=web", "-o", path]);
        (pods.lines().count() == 3 && pods.lines().all(|line| line == value)).then_some(())
    });
}

/// What must not change in a pod that nobody asked to change.
fn container(cluster: &Cluster) -> String {
    let path = "jsonpath={.metadata.uid} {.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}";
    cluster.kubectl(&["get", "pod", "bystander", "-o", path])
}
