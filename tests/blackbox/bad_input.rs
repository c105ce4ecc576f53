//! Bad input is refused with upstream's Status, nothing is stored, nothing dies (issue 2, "Shown by" 6).

use serde_json::json;
use tests::{Cluster, Component, control_plane};

const PODS: &str = "/api/v1/namespaces/default/pods";
const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// The revision of the store: unchanged if nothing was written to this collection.
fn names(cluster: &Cluster, collection: &str) -> Vec<String> {
    let list = cluster.get(collection).expect(200);
    let items = list["items"].as_array().expect("a list").iter();
    items.map(|item| item["metadata"]["name"].as_str().unwrap_or_default().to_owned()).collect()
}

/// What is sent (words, path, content type, body), and what must come back (code, reason).
type Refused = (&'static str, &'static str, &'static str, &'static [u8], u16, &'static str);

#[test]
fn bad_bodies_are_refused_and_nothing_is_stored() {
    let cluster = control_plane!();
    let before = (names(&cluster, PODS), names(&cluster, CONFIG_MAPS), cluster.pid(Component::Apiserver));
    let post = |path: &str, content: &str, body: &[u8]| {
        cluster.http("admin", "POST", path, &[&format!("Content-Type: {content}")], body)
    };
    let json = "application/json";
    let refused: &[Refused] = &[
        ("broken JSON", CONFIG_MAPS, json, b"{\"kind\":", 400, "BadRequest"),
        ("not an object", CONFIG_MAPS, json, b"[]", 400, "BadRequest"),
        ("empty body", CONFIG_MAPS, json, b"", 400, "BadRequest"),
        ("broken YAML", CONFIG_MAPS, "application/yaml", b"a: [", 400, "BadRequest"),
        (
            "wrong type",
            PODS,
            json,
            br#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"x"},"spec":{"containers":"none"}}"#,
            400,
            "BadRequest",
        ),
        (
            "wrong kind",
            CONFIG_MAPS,
            json,
            br#"{"apiVersion":"v1","kind":"Secret","metadata":{"name":"x"}}"#,
            400,
            "BadRequest",
        ),
        ("missing name", CONFIG_MAPS, json, br#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{}}"#, 422, "Invalid"),
        (
            "bad name",
            CONFIG_MAPS,
            json,
            br#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"Not/Valid"}}"#,
            422,
            "Invalid",
        ),
        (
            "namespace that is not the URL's",
            CONFIG_MAPS,
            json,
            br#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x","namespace":"kube-system"}}"#,
            400,
            "BadRequest",
        ),
        ("unknown content type", CONFIG_MAPS, "text/plain", b"x", 415, "UnsupportedMediaType"),
        (
            "no such namespace",
            "/api/v1/namespaces/absent/configmaps",
            json,
            br#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"}}"#,
            404,
            "NotFound",
        ),
    ];
    for (what, path, content, body, code, reason) in refused {
        let (found, why, message) = post(path, content, body).refusal();
        assert_eq!((found, why.as_str()), (*code, *reason), "{what}: {message}");
        assert!(!message.is_empty(), "{what}");
    }
    let after = (names(&cluster, PODS), names(&cluster, CONFIG_MAPS), cluster.pid(Component::Apiserver));
    assert_eq!(before, after, "nothing was stored, nothing died");
}

/// Semantics line 42.
#[test]
fn four_mebibytes_are_too_many() {
    let cluster = control_plane!();
    let object =
        json!({"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"big"},"data":{"x":"y".repeat(4 << 20)}});
    let (code, reason, message) = cluster.post(CONFIG_MAPS, &object).refusal();
    assert_eq!((code, reason.as_str()), (413, "RequestEntityTooLarge"));
    assert_eq!(message, "Request entity too large: limit is 3145728");
    let two =
        json!({"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"two"},"data":{"x":"y".repeat(900 << 10)}});
    cluster.post(CONFIG_MAPS, &two).expect(201);
}

/// Semantics line 32: every error at once, each with its field.
#[test]
fn all_errors_come_at_once() {
    let cluster = control_plane!();
    let pod = json!({"apiVersion":"v1","kind":"Pod","metadata":{"name":"bad"},"spec":{
        "restartPolicy":"Sometimes",
        "containers":[{"name":"A","image":""},{"name":"b","image":"x","ports":[{"containerPort":70000}]}]}});
    let reply = cluster.post(PODS, &pod);
    let status = reply.expect(422);
    assert_eq!(status["reason"], "Invalid");
    assert!(status["message"].as_str().unwrap_or_default().starts_with("Pod \"bad\" is invalid: ["), "{status}");
    let causes = status["details"]["causes"].as_array().expect("causes");
    for (reason, field) in [
        ("FieldValueInvalid", "spec.containers[0].name"),
        ("FieldValueRequired", "spec.containers[0].image"),
        ("FieldValueInvalid", "spec.containers[1].ports[0].containerPort"),
        ("FieldValueNotSupported", "spec.restartPolicy"),
    ] {
        let named = |cause: &&serde_json::Value| cause["field"] == field && cause["reason"] == reason;
        assert!(causes.iter().any(|cause| named(&cause)), "no {reason} at {field} in {status}");
    }
}

/// Semantics line 30: dropped with a warning by default, an error when asked for, silence when asked for.
#[test]
fn unknown_and_duplicate_fields() {
    let cluster = control_plane!();
    let send = |name: &str, query: &str| {
        let body = format!(
            r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"{name}"}},"spec":{{"bogus":1,"containers":[{{"name":"a","image":"i","imagee":"x"}}],"nodeSelector":{{"a":"b"}},"nodeSelector":{{"a":"c"}}}}}}"#
        );
        cluster.http("admin", "POST", &format!("{PODS}{query}"), &["Content-Type: application/json"], body.as_bytes())
    };
    let strict = send("strict", "?fieldValidation=Strict");
    let (code, reason, message) = strict.refusal();
    assert_eq!((code, reason.as_str()), (400, "BadRequest"));
    for part in [
        "strict decoding error",
        "unknown field \"spec.bogus\"",
        "unknown field \"spec.containers[0].imagee\"",
        "duplicate field \"spec.nodeSelector\"",
    ] {
        assert!(message.contains(part), "no {part} in {message}");
    }
    let warned = send("warned", "");
    let stored = warned.expect(201);
    assert!(stored["spec"]["bogus"].is_null());
    let warnings: Vec<&str> =
        warned.headers.iter().filter(|(name, _)| name == "warning").map(|(_, text)| text.as_str()).collect();
    assert!(warnings.contains(&"299 - \"unknown field \\\"spec.bogus\\\"\""), "{warnings:?}");
    let ignored = send("ignored", "?fieldValidation=Ignore");
    ignored.expect(201);
    assert!(ignored.header("warning").is_none());
}

/// Hostile bodies: refused quickly, and the server goes on (attack table, row 9).
#[test]
fn bombs_are_refused() {
    let cluster = control_plane!();
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let body = format!(r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"d"}},"data":{deep}}}"#);
    let reply = cluster.http("admin", "POST", CONFIG_MAPS, &["Content-Type: application/json"], body.as_bytes());
    assert_eq!(reply.code, 400, "{}", reply.text());
    let mut laughs = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
    for level in 1..12 {
        let one = format!("*a{}", level - 1);
        laughs += &format!("a{level}: &a{level} [{}]\n", [one.as_str(); 10].join(","));
    }
    let reply = cluster.http("admin", "POST", CONFIG_MAPS, &["Content-Type: application/yaml"], laughs.as_bytes());
    assert_eq!(reply.code, 400, "{}", reply.text());
    cluster.get("/readyz").code.eq(&200).then_some(()).expect("the server goes on");
}
