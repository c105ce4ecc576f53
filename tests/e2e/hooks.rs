//! Lifecycle hooks of containers.

use tests::cluster;

/// Ignores the stop signal, so that the kill shows how long the kubelet waits for it.
const POD: &str = r#"{"spec":{"terminationGracePeriodSeconds":1,"containers":[{"name":"hooked",
    "image":"busybox:1.35","command":["sleep","1000"],"lifecycle":{"postStart":{"exec":{"command":["false"]}}}}]}}"#;

#[test]
fn a_failed_post_start_hook_ends_the_container_in_its_pods_grace() {
    let cluster = cluster!(1);
    cluster.kubectl(&["run", "hooked", "--image=busybox:1.35", &format!("--overrides={POD}")]);
    let reason = "--for=jsonpath={.status.containerStatuses[0].state.waiting.reason}=PostStartHookError";
    // Less than the 30 s that a pod is given which names no grace.
    cluster.kubectl(&["wait", reason, "--timeout=20s", "pod/hooked"]);
}
