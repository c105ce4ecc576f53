//! The three patch languages.

use serde_json::{Value, json};
use tests::{Cluster, control_plane};

const PODS: &str = "/api/v1/namespaces/default/deployments";

fn deployment(cluster: &Cluster) -> String {
    let collection = PODS.replace("/api/v1", "/apis/apps/v1");
    let object = json!({"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"d","labels":{"a":"1"}},"spec":{
        "selector":{"matchLabels":{"a":"b"}},
        "template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[
            {"name":"one","image":"i:1","env":[{"name":"X","value":"1"},{"name":"Y","value":"2"}]},{"name":"two","image":"i:1"}]}}}});
    cluster.post(&collection, &object).expect(201);
    format!("{collection}/d")
}

fn containers(object: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let containers = object["spec"]["template"]["spec"]["containers"].as_array().expect("containers");
    containers.iter().map(|it| (text(&it["name"]), text(&it["image"]))).collect()
}

/// Semantics lines 44, 45 and 46.
#[test]
fn strategic_merge_and_json_patches() {
    let cluster = control_plane!();
    let path = deployment(&cluster);
    let template = |containers: Value| json!({"spec":{"template":{"spec":{"containers":containers}}}});

    let strategic = cluster
        .patch(&path, "strategic-merge-patch+json", &template(json!([{"name":"two","image":"i:2"}])))
        .expect(200);
    assert_eq!(containers(&strategic), [("one".into(), "i:1".into()), ("two".into(), "i:2".into())]);
    let deleted = cluster
        .patch(
            &path,
            "strategic-merge-patch+json",
            &template(json!([{"name":"one","env":[{"name":"X","$patch":"delete"}]}])),
        )
        .expect(200);
    assert_eq!(deleted["spec"]["template"]["spec"]["containers"][0]["env"], json!([{"name":"Y","value":"2"}]));

    let merged =
        cluster.patch(&path, "merge-patch+json", &template(json!([{"name":"only","image":"i:3"}]))).expect(200);
    assert_eq!(containers(&merged), [("only".into(), "i:3".into())], "a merge patch replaces lists");
    let nulled = cluster.patch(&path, "merge-patch+json", &json!({"metadata":{"labels":{"a":null}}})).expect(200);
    assert!(nulled["metadata"]["labels"]["a"].is_null());

    let ops =
        json!([{"op":"test","path":"/spec/replicas","value":1},{"op":"replace","path":"/spec/replicas","value":4}]);
    assert_eq!(cluster.patch(&path, "json-patch+json", &ops).expect(200)["spec"]["replicas"], 4);
    let failing = cluster.patch(&path, "json-patch+json", &ops);
    assert_eq!(failing.refusal().0, 422, "{}", failing.text());
    assert_eq!(cluster.patch(&path, "json-patch+json", &json!({"not":"a list"})).code, 400);
    assert_eq!(cluster.patch(&path, "json", &json!({})).code, 415);
    let stale = json!({"metadata":{"resourceVersion":"1"},"spec":{"replicas":9}});
    assert_eq!(cluster.patch(&path, "merge-patch+json", &stale).refusal().1, "Conflict");
}
