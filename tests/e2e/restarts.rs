//! A kubelet that is killed and restarted does not touch its containers.

use tests::{Component, cluster, eventually};

use crate::tour::IMAGE;

const STATE: &str = "jsonpath={range .items[*].status.containerStatuses[*]}{.containerID} {.restartCount} {.state.running.startedAt}{\"\\n\"}{end}";

/// Semantics of R17: container ids, start times and restart counts are unchanged.
#[test]
fn a_restarted_kubelet_restarts_no_container() {
    let cluster = cluster!(1);
    cluster.kubectl(&["create", "deployment", "web", &format!("--image={IMAGE}"), "--replicas=4"]);
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=120s"]);
    let before = cluster.kubectl(&["get", "pods", "-l", "app=web", "-o", STATE]);
    assert_eq!(before.lines().count(), 4, "{before}");
    for round in 0..3 {
        let renewed = lease(&cluster);
        cluster.kill(Component::Kubelet);
        cluster.up();
        eventually("the kubelet is back and renews its lease", || (lease(&cluster) != renewed).then_some(()));
        // A pod made after the restart runs: the kubelet has looked at all its pods again.
        let probe = format!("probe-{round}");
        cluster.kubectl(&["run", &probe, &format!("--image={IMAGE}")]);
        cluster.kubectl(&["wait", "--for=condition=Ready", &format!("pod/{probe}"), "--timeout=120s"]);
        assert_eq!(cluster.kubectl(&["get", "pods", "-l", "app=web", "-o", STATE]), before);
    }
}

fn lease(cluster: &tests::Cluster) -> String {
    cluster.kubectl(&["get", "lease", "-n", "kube-node-lease", "-o", "jsonpath={.items[0].spec.renewTime}"])
}
