//! Our own command line against our own cluster.

use std::{fs, process::Output};

use tests::{Cluster, cluster};

const TWO: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {colour: blue}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: two}
spec:
  selector: {matchLabels: {app: two}}
  template:
    metadata: {labels: {app: two}}
    spec: {containers: [{name: box, image: 'coxswain/testbox:1'}]}
";

#[track_caller]
fn said(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[test]
fn cox_applies_looks_scales_and_deletes() {
    let cluster = cluster!(1);
    let file = cluster.dir().join("two.yaml");
    let file = file.to_str().expect("a path of text");
    fs::write(file, TWO).expect("the manifest is written");
    let apply = || said(&cluster.cox(&["apply", "-f", file]));
    assert_eq!(apply(), "configmap/settings created\ndeployment.apps/two created\n");
    assert_eq!(apply(), "configmap/settings unchanged\ndeployment.apps/two unchanged\n");
    fs::write(file, TWO.replace("blue", "red")).expect("the manifest is written");
    assert_eq!(apply(), "configmap/settings configured\ndeployment.apps/two unchanged\n");
    said(&cluster.cox(&["rollout", "status", "deployment/two"]));
    said(&cluster.cox(&["scale", "deployment/two", "--replicas=2"]));
    said(&cluster.cox(&["wait", "deployment/two", "--for=condition=Available", "--timeout-s=120"]));
    said(&cluster.cox(&["rollout", "status", "deployment/two"]));

    let table = said(&cluster.cox(&["get", "deployments"]));
    let row: Vec<&str> = table.lines().nth(1).expect("a row").split_whitespace().collect();
    assert_eq!(row[..4], ["two", "2/2", "2", "2"], "{table}");
    assert!(said(&cluster.cox(&["logs", "deployment/two"])).contains("listens on 8080"));
    let described = said(&cluster.cox(&["describe", "deployment/two"]));
    assert!(described.contains("ScalingReplicaSet"), "{described}");
    runs_commands(&cluster);
    said(&cluster.cox(&["delete", "-f", file]));
    assert!(!cluster.cox(&["get", "deployment/two"]).status.success());
}

fn runs_commands(cluster: &Cluster) {
    let shell = ["create", "deployment", "shell", "--image=busybox:1.35"];
    said(&cluster.cox(&shell));
    let command = r#"[{"op":"add","path":"/spec/template/spec/containers/0/command","value":["sleep","3600"]}]"#;
    cluster.kubectl(&["patch", "deployment", "shell", "--type=json", "-p", command]);
    said(&cluster.cox(&["rollout", "status", "deployment/shell"]));
    let output = cluster.cox(&["exec", "deployment/shell", "--", "sh", "-c", "echo out; exit 3"]);
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(3), b"out\n".as_slice()));
}
