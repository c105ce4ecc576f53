//! Cluster DNS as pods use it.

use tests::cluster;

use crate::tour::{in_shell, start_shell};

const HEADLESS: &str = "
apiVersion: v1
kind: Service
metadata: {name: peers}
spec: {clusterIP: None, selector: {app: peer}, ports: [{name: http, port: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: one, labels: {app: peer}}
spec: {hostname: one, subdomain: peers, containers: [{name: box, image: 'coxswain/testbox:1'}]}
---
apiVersion: v1
kind: Service
metadata: {name: elsewhere}
spec: {type: ExternalName, externalName: one.peers.default.svc.cluster.local}
";

#[test]
fn services_headless_pods_and_external_names_resolve() {
    let cluster = cluster!(1);
    cluster.kubectl_with(&["apply", "-f", "-"], HEADLESS);
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/one", "--timeout=120s"]);
    start_shell(&cluster);
    let address = cluster.kubectl(&["get", "pod", "one", "-o", "jsonpath={.status.podIP}"]);
    for name in [
        "one.peers.default.svc.cluster.local",
        "peers.default.svc.cluster.local",
        "elsewhere.default.svc.cluster.local",
    ] {
        let answer = in_shell(&cluster, &format!("nslookup {name}"));
        assert!(answer.contains(&address), "{name}: {answer}");
    }
    let kubernetes = in_shell(&cluster, "nslookup kubernetes.default.svc.cluster.local");
    let expected = cluster.kubectl(&["get", "service", "kubernetes", "-o", "jsonpath={.spec.clusterIP}"]);
    assert!(kubernetes.contains(&expected), "{kubernetes}");
    let absent = cluster.kubectl_output(&["exec", "shell", "--", "nslookup", "absent.default.svc.cluster.local"]);
    assert!(String::from_utf8_lossy(&absent.stdout).contains("NXDOMAIN"), "{absent:?}");
}
