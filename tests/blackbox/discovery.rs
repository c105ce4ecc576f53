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

/// Nested fields, all of them, with their descriptions: from v3 as JSON, and from v2 as the protobuf that client-go asks for.
#[test]
fn kubectl_explains_everything_by_both_versions_of_openapi() {
    let cluster = control_plane!();
    let whole = cluster.kubectl(&["explain", "--recursive", "pod.spec"]);
    for word in ["containers\t<[]Container> -required-", "fieldPath\t<string> -required-", "nodeSelectorTerms"] {
        assert!(whole.contains(word), "no {word} in\n{whole}");
    }
    let field = cluster.kubectl(&["explain", "cronjob.spec.jobTemplate.spec.backoffLimit"]);
    assert!(field.contains("Specifies the number of retries"), "{field}");
    let older = cluster.kubectl(&["explain", "--output=plaintext-openapiv2", "pod.spec.containers"]);
    for word in ["livenessProbe", "<Object>", "Image pull policy"] {
        assert!(older.contains(word), "no {word} in\n{older}");
    }
}

/// The documents that belong to no group and version are in the index of v3 and can be read.
#[test]
fn small_documents_of_openapi_are_there() {
    let cluster = control_plane!();
    let index = cluster.get("/openapi/v3").expect(200);
    for key in ["api", "apis", "apis/apps", "version", "openid/v1/jwks", ".well-known/openid-configuration"] {
        let url = index["paths"][key]["serverRelativeURL"].as_str().unwrap_or_else(|| panic!("no {key}"));
        let document = cluster.get(url).expect(200);
        assert!(document["paths"][format!("/{key}/")]["get"].is_object(), "{key}");
    }
    let protobuf = "Accept: application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
    let reply = cluster.http("admin", "GET", "/openapi/v2", &[protobuf], b"");
    let content_type = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
    assert_eq!((reply.code, reply.header("content-type")), (200, Some(content_type)));
    assert!(reply.body.starts_with(b"\x0a\x032.0"), "swagger: 2.0");
    let tag = format!("If-None-Match: {}", reply.header("etag").expect("a tag"));
    assert_eq!(cluster.http("admin", "GET", "/openapi/v2", &[protobuf, &tag], b"").code, 304);
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
