//! What the server says of itself, to stock kubectl and raw.

use serde_json::json;
use tests::control_plane;

/// Semantics line 56.
#[test]
fn discovery_names_every_resource_with_its_words() {
    let cluster = control_plane!();
    let core = cluster.get("/api/v1").expect(200);
    let pods =
        core["resources"].as_array().expect("resources").iter().find(|it| it["name"] == "pods").expect("pods").clone();
    assert_eq!(pods["shortNames"], json!(["po"]));
    assert_eq!(pods["categories"], json!(["all"]));
    let accept = "Accept: application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let reply = cluster.http("admin", "GET", "/apis", &[accept], b"");
    assert_eq!(reply.expect(200)["kind"], "APIGroupDiscoveryList");
    let tag = reply.header("etag").expect("an ETag").to_owned();
    let again = cluster.http("admin", "GET", "/apis", &[accept, &format!("If-None-Match: {tag}")], b"");
    assert_eq!(again.code, 304);
    let resources = cluster.kubectl(&["api-resources", "--no-headers"]);
    for word in ["pods", "deployments", "endpointslices", "leases", "customresourcedefinitions"] {
        assert!(resources.lines().any(|line| line.starts_with(word)), "no {word} in\n{resources}");
    }
    assert!(cluster.kubectl(&["version"]).contains("Server Version: v1.36"));
}

#[test]
fn kubectl_explains_from_our_openapi() {
    let cluster = control_plane!();
    let explained = cluster.kubectl(&["explain", "deployment.spec.template.spec.containers.livenessProbe"]);
    for word in ["KIND:       Deployment", "httpGet", "periodSeconds"] {
        assert!(explained.contains(word), "no {word} in\n{explained}");
    }
}

/// The kinds of upstream's stable groups are all there.
#[test]
fn every_built_in_resource_can_be_listed() {
    let cluster = control_plane!();
    let words = cluster.kubectl(&["api-resources", "--verbs=list", "-o", "name"]);
    let resources: Vec<&str> = words.lines().collect();
    assert!(resources.len() >= 58, "{}", resources.len());
    cluster.kubectl(&["get", &resources.join(","), "--all-namespaces", "--ignore-not-found"]);
}
