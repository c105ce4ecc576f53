//! Why a pod is pending: in its condition, in an event, and by `cox why`.

use tests::{cluster, eventually};

const HUGE: &str =
    r#"{"spec":{"containers":[{"name":"huge","image":"coxswain/testbox:1","resources":{"requests":{"cpu":"1000"}}}]}}"#;
const MESSAGE: &str = "0/1 nodes are available: 1 Insufficient cpu.";

/// Issue 2, "Shown by" 5.
#[test]
fn a_pod_that_fits_nowhere_says_why() {
    let cluster = cluster!(1);
    cluster.kubectl(&["run", "huge", "--image=coxswain/testbox:1", &format!("--overrides={HUGE}")]);
    let path = r#"jsonpath={.status.conditions[?(@.type=="PodScheduled")].message}"#;
    let message = eventually("the condition", || {
        let message = cluster.kubectl(&["get", "pod", "huge", "-o", path]);
        (!message.is_empty()).then_some(message)
    });
    assert!(message.starts_with(MESSAGE), "{message}");
    eventually("the event", || {
        let events = cluster.kubectl(&["get", "events", "--field-selector", "reason=FailedScheduling"]);
        events.contains(MESSAGE).then_some(())
    });
    let why = cluster.cox(&["why", "pod/huge"]);
    let said = String::from_utf8_lossy(&why.stdout).into_owned();
    assert!(
        why.status.success() && said.contains("Insufficient cpu"),
        "{said}{}",
        String::from_utf8_lossy(&why.stderr)
    );
}

/// The kubelet's reasons reach `cox why` too.
#[test]
fn a_pod_that_does_not_start_says_why() {
    let cluster = cluster!(1);
    cluster.kubectl(&["run", "absent", "--image=no.such.registry.invalid/image:1", "--image-pull-policy=Never"]);
    eventually("the waiting reason", || {
        let path = "jsonpath={.status.containerStatuses[0].state.waiting.reason}";
        (cluster.kubectl(&["get", "pod", "absent", "-o", path]) == "ErrImageNeverPull").then_some(())
    });
    let said = eventually("cox why knows", || {
        let why = cluster.cox(&["why", "pod/absent"]);
        let said = String::from_utf8_lossy(&why.stdout).into_owned();
        said.contains("no.such.registry.invalid/image:1").then_some(said)
    });
    assert!(said.contains("kubelet"), "{said}");
}
