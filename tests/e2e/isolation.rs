//! Who may reach what: etcd's connections, and what a node's certificate opens.

use std::{collections::BTreeSet, process::Command};

use serde_json::json;
use tests::{Component, cluster};

/// Issue 2, "Shown by" 4; invariant "only the apiserver opens etcd".
#[test]
fn only_the_apiserver_is_connected_to_the_store() {
    let cluster = cluster!(1);
    let store = cluster.pid(Component::Etcd).expect("etcd runs");
    let port = arguments_of(store)
        .into_iter()
        .find_map(|argument| argument.strip_prefix("--listen-client-urls=https://127.0.0.1:").map(str::to_owned));
    let port = port.expect("the client port");
    let filter = format!("( dport = :{port} )");
    let output = Command::new("ss").args(["-Htnp", "state", "established", &filter]).output().expect("ss runs");
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    let owners: BTreeSet<u32> =
        table.split("pid=").skip(1).filter_map(|rest| rest.split(',').next()?.parse().ok()).collect();
    let apiserver = cluster.pid(Component::Apiserver).expect("the apiserver runs");
    let others: Vec<&u32> = owners.iter().filter(|pid| **pid != store).collect(); // it has a gateway to itself
    assert_eq!(others, [&apiserver], "{table}");
}

fn arguments_of(pid: u32) -> Vec<String> {
    let raw = std::fs::read(format!("/proc/{pid}/cmdline")).expect("the process runs");
    raw.split(|byte| *byte == 0).map(|argument| String::from_utf8_lossy(argument).into_owned()).collect()
}

/// Issue 2, "Shown by" 4; semantics line 63.
#[test]
fn a_nodes_certificate_opens_only_what_its_pods_need() {
    let cluster = cluster!(2);
    let nodes = cluster.kubectl(&["get", "nodes", "-o", "jsonpath={.items[*].metadata.name}"]);
    let (first, second) = nodes.split_once(' ').expect("two nodes");
    let secret =
        |name: &str| json!({"apiVersion":"v1","kind":"Secret","metadata":{"name":name},"stringData":{"k":"v"}});
    cluster.post("/api/v1/namespaces/default/secrets", &secret("mine")).expect(201);
    cluster.post("/api/v1/namespaces/default/secrets", &secret("others")).expect(201);
    let pod = json!({"apiVersion":"v1","kind":"Pod","metadata":{"name":"reader"},"spec":{
        "nodeName": first, "volumes":[{"name":"s","secret":{"secretName":"mine"}}],
        "containers":[{"name":"box","image":"coxswain/testbox:1","volumeMounts":[{"name":"s","mountPath":"/s"}]}]}});
    cluster.post("/api/v1/namespaces/default/pods", &pod).expect(201);
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/reader", "--timeout=120s"]);

    let code = |user: &str, path: &str| cluster.http(user, "GET", path, &[], b"").code;
    assert_eq!(code(first, "/api/v1/namespaces/default/secrets/mine"), 200);
    assert_eq!(code(first, "/api/v1/namespaces/default/secrets/others"), 403);
    assert_eq!(code(second, "/api/v1/namespaces/default/secrets/mine"), 403);
    assert_eq!(code(first, "/api/v1/secrets"), 403);

    let label = json!({"metadata":{"labels":{"touched":"yes"}}}).to_string();
    let merge = ["Content-Type: application/merge-patch+json"];
    let touch = |user: &str, node: &str| {
        cluster.http(user, "PATCH", &format!("/api/v1/nodes/{node}"), &merge, label.as_bytes()).code
    };
    assert_eq!(touch(first, second), 403, "another Node");
    assert_eq!(touch(first, first), 200, "its own Node");
    let delete = cluster.http(second, "DELETE", "/api/v1/namespaces/default/pods/reader", &[], b"");
    assert_eq!(delete.code, 403, "a pod of another node");
}
