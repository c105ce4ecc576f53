//! Three nodes, two of them network namespaces: pods on different nodes reach each other.

use tests::{cluster, eventually};

use crate::tour::{IMAGE, in_shell, start_shell};

#[test]
fn pods_on_three_nodes_reach_each_other_and_the_service() {
    let cluster = cluster!(3);
    let nodes = cluster.kubectl(&["get", "nodes", "--no-headers"]);
    assert_eq!(nodes.lines().filter(|row| row.contains(" Ready ")).count(), 3, "{nodes}");
    cluster.kubectl(&["create", "deployment", "web", &format!("--image={IMAGE}"), "--replicas=6"]);
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=120s"]);
    let hosts = cluster.kubectl(&["get", "pods", "-l", "app=web", "-o", "jsonpath={.items[*].spec.nodeName}"]);
    let hosts: std::collections::BTreeSet<&str> = hosts.split(' ').collect();
    assert_eq!(hosts.len(), 3, "pods spread over the nodes: {hosts:?}");

    start_shell(&cluster);
    let addresses = cluster.kubectl(&["get", "pods", "-l", "app=web", "-o", "jsonpath={.items[*].status.podIP}"]);
    for address in addresses.split(' ') {
        assert!(!in_shell(&cluster, &format!("timeout 5 wget -qO- {address}:8080")).is_empty());
    }
    cluster.kubectl(&["expose", "deployment", "web", "--port=80", "--target-port=8080", "--type=NodePort"]);
    let mut seen = std::collections::BTreeSet::new();
    eventually("all six answer through the Service", || {
        seen.extend(
            in_shell(&cluster, "for i in 1 2 3 4 5 6 7 8 9; do timeout 5 wget -qO- web; done")
                .lines()
                .map(str::to_owned),
        );
        (seen.len() == 6).then_some(())
    });
    let port = cluster.kubectl(&["get", "service", "web", "-o", "jsonpath={.spec.ports[0].nodePort}"]);
    let path = "jsonpath={.items[*].status.addresses[?(@.type==\"InternalIP\")].address}";
    for node in cluster.kubectl(&["get", "nodes", "-o", path]).split(' ') {
        assert!(!in_shell(&cluster, &format!("timeout 5 wget -qO- {node}:{port}")).is_empty(), "NodePort on {node}");
    }
}
