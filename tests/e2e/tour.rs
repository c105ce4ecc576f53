//! A user's first minutes with stock kubectl: deploy, expose, scale, roll, look, delete.

use std::{collections::BTreeSet, io::BufRead, io::BufReader};

use tests::{Cluster, cluster, eventually};

pub const IMAGE: &str = "coxswain/testbox:1";

/// A pod that sleeps, with a shell and busybox's applets to ask the cluster from.
pub fn start_shell(cluster: &Cluster) {
    cluster.kubectl(&["run", "shell", "--image=busybox:1.35", "--restart=Never", "--", "sleep", "3600"]);
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/shell", "--timeout=120s"]);
}

/// What a command in the shell pod prints, once it succeeds.
pub fn in_shell(cluster: &Cluster, command: &str) -> String {
    eventually(command, || {
        let output = cluster.kubectl_output(&["exec", "shell", "--", "sh", "-c", command]);
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    })
}

/// The names that the Service `web` answers with, until three different ones have been seen.
fn answers(cluster: &Cluster, address: &str) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    eventually("answers of three pods", || {
        let some = in_shell(cluster, &format!("for i in 1 2 3 4 5 6 7 8; do timeout 5 wget -qO- {address}; done"));
        seen.extend(some.lines().map(str::to_owned));
        (seen.len() == 3).then_some(())
    });
    seen
}

/// Issue 2, "Shown by" 1.
#[test]
fn stock_kubectl_deploys_an_application_and_its_service_answers() {
    let cluster = cluster!(1);
    let nodes = cluster.kubectl(&["get", "nodes"]);
    assert!(nodes.lines().nth(1).is_some_and(|row| row.contains(" Ready ")), "{nodes}");

    cluster.kubectl(&["create", "deployment", "web", &format!("--image={IMAGE}"), "--replicas=3"]);
    let rollout = cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=120s"]);
    assert!(rollout.contains("successfully rolled out"), "{rollout}");
    cluster.kubectl(&["expose", "deployment", "web", "--port=80", "--target-port=8080"]);
    start_shell(&cluster);
    let address = cluster.kubectl(&["get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"]);
    let by_address = answers(&cluster, &address);
    let by_name = answers(&cluster, "web.default.svc.cluster.local");
    assert_eq!(by_address, by_name, "the ClusterIP and the DNS name reach the same pods");
    assert_eq!(in_shell(&cluster, "wget -qO- web").lines().count(), 1, "the short name resolves by search");

    describes(&cluster);
    scales(&cluster);
    rolls(&cluster);
    explains_and_shows_wide(&cluster);
    deletes(&cluster);
}

fn describes(cluster: &Cluster) {
    let pods = cluster.kubectl(&["get", "pods", "-l", "app=web", "-o", "name"]);
    let pod = pods.lines().next().expect("a pod of web");
    let description = cluster.kubectl(&["describe", pod]);
    for event in ["Scheduled", "Pulled", "Created", "Started"] {
        assert!(description.contains(event), "no event {event} in\n{description}");
    }
}

fn scales(cluster: &Cluster) {
    cluster.kubectl(&["scale", "deployment/web", "--replicas=5"]);
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=120s"]);
    let ready = cluster.kubectl(&["get", "deployment", "web", "-o", "jsonpath={.status.readyReplicas}"]);
    assert_eq!(ready, "5");
    cluster.kubectl(&["scale", "deployment/web", "--replicas=3"]);
    eventually("two pods are gone", || {
        let pods = cluster.kubectl(&["get", "pods", "-l", "app=web", "-o", "name"]);
        (pods.lines().count() == 3).then_some(())
    });
}

/// A rolling update never has fewer ready pods than allowed (25 % of 3, rounded down: 0).
fn rolls(cluster: &Cluster) {
    let watch = ["get", "deployment", "web", "-w", "-o", "jsonpath={.status.availableReplicas}{\"\\n\"}"];
    let mut watcher = cluster.kubectl_spawn(&watch);
    let mut lines = BufReader::new(watcher.stdout.take().expect("piped")).lines();
    assert_eq!(lines.next().expect("the state before").expect("text"), "3");

    cluster.kubectl(&["set", "image", "deployment/web", "testbox=coxswain/testbox:2"]);
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=120s"]);
    let _ = watcher.kill();
    let _ = watcher.wait();
    let fewest = lines.map_while(Result::ok).filter_map(|line| line.parse::<u32>().ok()).min();
    assert!(fewest.is_none_or(|fewest| fewest >= 3), "only {fewest:?} were available during the roll");

    let history = cluster.kubectl(&["rollout", "history", "deployment/web"]);
    assert!(history.lines().count() >= 4, "{history}");
}

fn explains_and_shows_wide(cluster: &Cluster) {
    let explanation = cluster.kubectl(&["explain", "pod.spec"]);
    for word in ["containers", "-required-", "nodeName", "FIELDS"] {
        assert!(explanation.contains(word), "no {word} in\n{explanation}");
    }
    let wide = cluster.kubectl(&["get", "pods", "-o", "wide"]);
    let columns: Vec<&str> = wide.lines().next().unwrap_or_default().split_whitespace().collect();
    let expected =
        ["NAME", "READY", "STATUS", "RESTARTS", "AGE", "IP", "NODE", "NOMINATED", "NODE", "READINESS", "GATES"];
    assert_eq!(columns, expected);
    let mut watcher = cluster.kubectl_spawn(&["get", "pods", "-o", "wide", "-w"]);
    let mut lines = BufReader::new(watcher.stdout.take().expect("piped")).lines();
    assert!(lines.next().expect("a header").expect("text").starts_with("NAME"));
    let _ = watcher.kill();
    let _ = watcher.wait();
}

fn deletes(cluster: &Cluster) {
    cluster.kubectl(&["delete", "deployment", "web", "--timeout=60s"]);
    cluster.kubectl(&["delete", "service", "web"]);
    eventually("the pods are gone within their grace", || {
        let pods = cluster.kubectl(&["get", "pods", "-l", "app=web", "-o", "name"]);
        pods.is_empty().then_some(())
    });
}

const TWO_DOCUMENTS: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {colour: blue}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: two}
spec:
  replicas: 1
  selector: {matchLabels: {app: two}}
  template:
    metadata: {labels: {app: two}}
    spec:
      containers:
      - name: box
        image: coxswain/testbox:1
        envFrom: [{configMapRef: {name: settings}}]
";

/// Issue 2, "Shown by" 1: apply of a multi-document file twice says `unchanged`.
#[test]
fn apply_twice_changes_nothing() {
    let cluster = cluster!(1);
    let first = cluster.kubectl_with(&["apply", "-f", "-"], TWO_DOCUMENTS);
    assert!(first.contains("configmap/settings created") && first.contains("deployment.apps/two created"), "{first}");
    cluster.kubectl(&["rollout", "status", "deployment/two", "--timeout=120s"]);
    let second = cluster.kubectl_with(&["apply", "-f", "-"], TWO_DOCUMENTS);
    assert!(second.lines().count() == 2 && second.lines().all(|line| line.ends_with(" unchanged")), "{second}");
    let environment = cluster.kubectl(&["get", "--raw", &proxy_path(&cluster, "two", "env")]);
    assert!(environment.contains("colour=blue"), "{environment}");
}

/// A path through the apiserver's pod proxy to the first pod labelled `app`.
fn proxy_path(cluster: &Cluster, app: &str, path: &str) -> String {
    let selector = format!("app={app}");
    let name = cluster.kubectl(&["get", "pods", "-l", &selector, "-o", "jsonpath={.items[0].metadata.name}"]);
    format!("/api/v1/namespaces/default/pods/{name}:8080/proxy/{path}")
}
