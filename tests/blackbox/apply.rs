//! Server-side apply and the owners of fields, as kubectl, the Python client and a client
//! that speaks HTTP use them.

use std::process::Command;

use serde_json::{Value, json};
use tests::{Cluster, Reply, control_plane};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

/// A manager applies `config`; `query` is what else the URL says.
fn apply(cluster: &Cluster, path: &str, query: &str, config: &Value) -> Reply {
    let headers = ["Content-Type: application/apply-patch+yaml"];
    cluster.http("admin", "PATCH", &format!("{path}?fieldManager={query}"), &headers, config.to_string().as_bytes())
}

fn map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": data})
}

fn deployment(replicas: u8, container: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {
        "replicas": replicas, "selector": {"matchLabels": {"app": "a"}},
        "template": {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [container]}}}})
}

/// manager/operation[/subresource], for each owner.
fn owners(object: &Value) -> Vec<String> {
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let text = |entry: &Value, name: &str| entry[name].as_str().unwrap_or_default().to_owned();
    let name = |entry: &Value| {
        let name = format!("{}/{}", text(entry, "manager"), text(entry, "operation"));
        if entry["subresource"].is_string() { format!("{name}/{}", text(entry, "subresource")) } else { name }
    };
    entries.iter().map(name).collect()
}

fn fields_of<'a>(object: &'a Value, manager: &str) -> &'a Value {
    let entries = object["metadata"]["managedFields"].as_array().expect("owners");
    &entries.iter().find(|entry| entry["manager"] == manager).expect("an owner of that name")["fieldsV1"]
}

/// Semantics lines 47 to 49: `kubectl apply --server-side`, its conflict and `--force-conflicts`.
#[test]
fn kubectl_applies_on_the_servers_side() {
    let cluster = control_plane!();
    let yaml = |a: &str, b: &str| {
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: m, namespace: default}}\ndata: {{a: \"{a}\"{b}}}\n")
    };
    let server_side = ["apply", "--server-side", "-f", "-"];
    assert_eq!(cluster.kubectl_with(&server_side, &yaml("1", ", b: \"1\"")), "configmap/m serverside-applied\n");
    cluster.kubectl(&["patch", "configmap", "m", "-p", r#"{"data":{"a":"2"}}"#, "--field-manager=somebody"]);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("m.yaml");
    std::fs::write(&file, yaml("3", "")).expect("written");
    let file = file.to_str().expect("a path in UTF-8");
    let refused = cluster.kubectl_output(&["apply", "--server-side", "-f", file]);
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success());
    assert!(why.contains("Apply failed with 1 conflict: conflict with \"somebody\" using v1: .data.a"), "{why}");
    cluster.kubectl(&["apply", "--server-side", "--force-conflicts", "-f", file]);
    let object = cluster.get(&format!("{MAPS}/m")).expect(200);
    assert_eq!(object["data"], json!({"a": "3"}), "what is applied no more is gone");
    assert_eq!(owners(&object), ["kubectl/Apply"]);
    let version = object["metadata"]["resourceVersion"].clone();
    cluster.kubectl(&["apply", "--server-side", "-f", file]);
    let again = cluster.get(&format!("{MAPS}/m")).expect(200);
    assert_eq!(again["metadata"]["resourceVersion"], version, "to apply the same again writes nothing");
    assert_eq!(again["metadata"]["managedFields"], object["metadata"]["managedFields"]);
}

/// An object of client-side apply goes over to server-side apply without a conflict, and back.
#[test]
fn kubectl_changes_from_client_side_to_server_side() {
    let cluster = control_plane!();
    let yaml = |data: &str| {
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: m, namespace: default}}\ndata: {{{data}}}\n")
    };
    cluster.kubectl_with(&["apply", "-f", "-"], &yaml("a: \"1\", b: \"1\""));
    cluster.kubectl_with(&["apply", "--server-side", "-f", "-"], &yaml("a: \"2\""));
    let object = cluster.get(&format!("{MAPS}/m")).expect(200);
    assert_eq!(object["data"], json!({"a": "2"}), "client-side apply had set b, so it goes");
    assert!(owners(&object).contains(&"kubectl/Apply".to_owned()), "{:?}", owners(&object));
    cluster.kubectl_with(&["apply", "-f", "-"], &yaml("c: \"1\""));
    assert_eq!(cluster.get(&format!("{MAPS}/m")).expect(200)["data"], json!({"c": "1"}));
}

/// Semantics lines 47 to 50, by raw requests as Helm and controller-runtime send them.
#[test]
fn owners_are_upstreams() {
    let cluster = control_plane!();
    let path = format!("{DEPLOYMENTS}/d");
    let one = json!({"name": "c", "image": "i:1", "ports": [{"containerPort": 80}]});
    let created = apply(&cluster, &path, "helm", &deployment(2, one.clone())).expect(201);
    assert_eq!(created["spec"]["strategy"]["type"], "RollingUpdate", "defaults are filled in and nobody's");
    assert_eq!(
        fields_of(&created, "helm")["f:spec"]["f:template"]["f:spec"]["f:containers"],
        json!({"k:{\"name\":\"c\"}": {".": {}, "f:image": {}, "f:name": {},
            "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}}}})
    );

    // A second owner of the same values, and the scale as an owner of its own.
    let also = apply(&cluster, &path, "gitops&force=true", &deployment(2, json!({"name": "c"}))).expect(200);
    assert_eq!(owners(&also), ["gitops/Apply", "helm/Apply"]);
    let scale = json!({"spec": {"replicas": 5}});
    cluster.patch(&format!("{path}/scale?fieldManager=hpa"), "merge-patch+json", &scale).expect(200);
    let scaled = cluster.get(&path).expect(200);
    assert_eq!(owners(&scaled), ["gitops/Apply", "helm/Apply", "hpa/Update/scale"]);
    assert_eq!(fields_of(&scaled, "hpa"), &json!({"f:spec": {"f:replicas": {}}}));
    assert!(fields_of(&scaled, "helm")["f:spec"]["f:replicas"].is_null());
    let (code, reason, message) = apply(&cluster, &path, "helm", &deployment(2, one.clone())).refusal();
    assert_eq!((code, reason.as_str()), (409, "Conflict"));
    assert_eq!(
        message,
        "Apply failed with 1 conflict: conflict with \"hpa\" with subresource \"scale\" using apps/v1: .spec.replicas"
    );

    // The status is owned through its endpoint and nowhere else.
    let status = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"replicas": 9}, "status": {"replicas": 3}});
    let written = apply(&cluster, &format!("{path}/status"), "controller", &status).expect(200);
    assert_eq!((&written["status"]["replicas"], &written["spec"]["replicas"]), (&json!(3), &json!(5)));
    assert_eq!(fields_of(&written, "controller"), &json!({"f:status": {"f:replicas": {}}}));
    assert!(owners(&written).contains(&"controller/Apply/status".to_owned()), "{:?}", owners(&written));
    assert_eq!(apply(&cluster, &format!("{DEPLOYMENTS}/none/status"), "controller", &status).code, 404);

    // Who scales by apply takes the replicas over.
    let scale =
        json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "d"}, "spec": {"replicas": 1}});
    let scale_path = format!("{path}/scale");
    assert_eq!(apply(&cluster, &scale_path, "me", &scale).refusal().0, 409);
    assert_eq!(apply(&cluster, &scale_path, "me&force=true", &scale).expect(200)["spec"]["replicas"], 1);
    let taken = cluster.get(&path).expect(200);
    assert_eq!(fields_of(&taken, "me"), &json!({"f:spec": {"f:replicas": {}}}));
    assert!(!owners(&taken).iter().any(|owner| owner.starts_with("hpa")), "{:?}", owners(&taken));
}

/// Semantics line 50: what is recorded of other writers, and how that is edited and reset.
#[test]
fn writers_are_recorded_and_owners_can_be_reset() {
    let cluster = control_plane!();
    let path = format!("{MAPS}/m");
    let created = cluster.post(&format!("{MAPS}?fieldManager=maker"), &map(json!({"a": "1"}))).expect(201);
    assert_eq!(owners(&created), ["maker/Update"]);
    assert!(created["metadata"]["managedFields"][0]["time"].is_string());
    let by_agent = cluster.patch(&path, "merge-patch+json", &json!({"data": {"b": "1"}})).expect(200);
    assert_eq!(fields_of(&by_agent, "coxswain-tests"), &json!({"f:data": {"f:b": {}}}));

    // Bound, evicted and marked for deletion: that is the server's work and nobody's fields.
    for number in 0..12 {
        let patch = json!({"data": {format!("k{number}"): "v"}});
        cluster.patch(&format!("{path}?fieldManager=w{number}"), "merge-patch+json", &patch).expect(200);
    }
    let many = cluster.get(&path).expect(200);
    assert_eq!(owners(&many).len(), 10);
    assert!(owners(&many).contains(&"ancient-changes/Update".to_owned()));

    let forged = json!({"metadata": {"managedFields": [{"manager": "x", "operation": "Steal", "apiVersion": "v1"}]}});
    let unmoved = cluster.patch(&path, "merge-patch+json", &forged).expect(200);
    assert_eq!(unmoved["metadata"]["managedFields"], many["metadata"]["managedFields"]);
    let long = json!({"metadata": {"managedFields": [{"manager": "x".repeat(129), "operation": "Update",
        "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": {"f:data": {"f:a": {}}}}]}});
    let (code, _, message) = cluster.patch(&path, "merge-patch+json", &long).refusal();
    assert!(code == 422 && message.contains("metadata.managedFields[0].manager: Too long"), "{message}");

    let reset = cluster.patch(&path, "merge-patch+json", &json!({"metadata": {"managedFields": [{}]}})).expect(200);
    assert!(reset["metadata"]["managedFields"].is_null());
    let mut replaced = cluster.put(&path, &map(json!({"a": "2"}))).expect(200);
    assert!(replaced["metadata"]["managedFields"].is_null(), "nobody is recorded until the first apply");
    let applied = apply(&cluster, &path, "me", &map(json!({"b": "1"}))).expect(200);
    assert_eq!(owners(&applied), ["me/Apply", "before-first-apply/Update"]);
    replaced["metadata"]["managedFields"] = json!([]);
    replaced["metadata"]["resourceVersion"] = Value::Null;
    assert!(cluster.put(&path, &replaced).expect(200)["metadata"]["managedFields"].is_null());
}

/// What an apply is refused for, in upstream's words.
#[test]
fn bad_applies_are_refused() {
    let cluster = control_plane!();
    let path = format!("{MAPS}/m");
    let refused = |query: &str, config: &Value| apply(&cluster, &path, query, config).refusal();
    let with = |pointer: &str, value: Value| {
        let mut config = map(json!({"a": "1"}));
        let (parent, name) = pointer.rsplit_once('/').expect("a pointer");
        config.pointer_mut(parent).expect("there")[name] = value;
        config
    };
    for (query, config, code, message) in [
        (
            "",
            map(json!({})),
            422,
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
        ),
        ("me", with("/kind", json!("Secret")), 400, "invalid object type: /v1, Kind=Secret"),
        ("me", with("/metadata/managedFields", json!([])), 400, "metadata.managedFields must be nil"),
        (
            "me",
            with("/metadata/name", json!("x")),
            400,
            "the name of the object (x) does not match the name on the URL (m)",
        ),
        (
            "me",
            with("/metadata/uid", json!("u")),
            409,
            "Operation cannot be fulfilled on configmaps \"m\": uid mismatch: the provided object specified uid u, and no existing object was found",
        ),
        (
            "me",
            with("/spec", json!(1)),
            500,
            "failed to create typed patch object (/m; /v1, Kind=ConfigMap): .spec: field not declared in schema",
        ),
        (
            "me",
            with("/data/a", json!(1)),
            500,
            "failed to create typed patch object (/m; /v1, Kind=ConfigMap): .data.a: expected string, got 1",
        ),
    ] {
        let found = refused(query, &config);
        assert_eq!((found.0, found.2.as_str()), (code, message));
    }
    let headers = ["Content-Type: application/apply-patch+yaml"];
    let by = |user: &str, body: &str, query: &str| {
        cluster.http(user, "PATCH", &format!("{path}?fieldManager=me{query}"), &headers, body.as_bytes())
    };
    let (code, _, message) = by("admin", "a: [", "").refusal();
    assert!(code == 400 && message.starts_with("error decoding YAML: "), "{message}");
    let twice = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"m"},"data":{"a":"1","a":"2"}}"#;
    assert_eq!(by("admin", twice, "&fieldValidation=Strict").code, 400);
    let dry = apply(&cluster, &path, "me&dryRun=All", &map(json!({"a": "1"}))).expect(201);
    assert_eq!(owners(&dry), ["me/Apply"]);
    assert_eq!(cluster.get(&path).code, 404, "a dry run stores nothing");
    let mut stale = map(json!({"a": "2"}));
    apply(&cluster, &path, "me", &map(json!({"a": "1"}))).expect(201);
    stale["metadata"]["resourceVersion"] = json!("1");
    assert_eq!(apply(&cluster, &path, "me", &stale).refusal().1, "Conflict");
}

/// To create by apply takes the right to create, besides the one to patch.
#[test]
fn an_apply_that_creates_needs_the_right_to_create() {
    let cluster = control_plane!();
    cluster.kubectl(&["create", "role", "patcher", "--verb=patch,get", "--resource=configmaps"]);
    cluster.kubectl(&["create", "rolebinding", "patcher", "--role=patcher", "--user=robot"]);
    let as_robot = |name: &str| {
        let mut config = map(json!({"a": "1"}));
        config["metadata"]["name"] = json!(name);
        let headers = ["Content-Type: application/apply-patch+yaml", "Impersonate-User: robot"];
        let path = format!("{MAPS}/{name}?fieldManager=robot");
        cluster.http("admin", "PATCH", &path, &headers, config.to_string().as_bytes())
    };
    assert_eq!(as_robot("m").refusal().0, 403);
    apply(&cluster, &format!("{MAPS}/m"), "admin", &map(json!({"a": "1"}))).expect(201);
    as_robot("m").expect(200);
}

/// The Python client's server-side apply.
#[test]
fn the_python_client_applies() {
    let cluster = control_plane!();
    let Some(python) = std::env::var_os("COXSWAIN_PYTHON") else {
        eprintln!("skipped: no Python client; run `cargo xtask test`");
        return;
    };
    let script = r#"
from kubernetes import config, dynamic
from kubernetes.client import api_client
client = dynamic.DynamicClient(api_client.ApiClient(configuration=config.load_kube_config()))
maps = client.resources.get(api_version="v1", kind="ConfigMap")
body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"a": "1"}}
made = maps.server_side_apply(body=body, namespace="default", field_manager="python")
print(made.data.a, [(entry.manager, entry.operation) for entry in made.metadata.managedFields])
"#;
    let output = Command::new(python)
        .args(["-c", script])
        .env("KUBECONFIG", cluster.kubeconfig("admin"))
        .output()
        .expect("python runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(said, "1 [('python', 'Apply')]\n");
}
