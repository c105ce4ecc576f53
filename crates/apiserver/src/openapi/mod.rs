//! The API described for machines: an index and one OpenAPI v3 document per group and
//! version, and one v2 document of everything. All are derived from the rows, the field
//! tables and the structs' documentation, when they are first asked for.
//!
//! kubectl reads v3: `explain`, and whether the server validates fields. v2 is kept for older clients.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha512};

use self::schemas::{Components, Style};
use crate::kinds::Kind;

mod gnostic;
mod operations;
mod paths;
mod schemas;

/// `/openapi/v3`: which documents there are, each with a hash so that clients may keep it forever.
pub fn index(rows: &[Arc<Kind>], server_version: &str) -> Value {
    let mut paths = Map::new();
    let keys = group_versions(rows).into_keys().chain(small(rows).into_iter().map(|small| small.key));
    for key in keys.collect::<BTreeSet<_>>() {
        let hash = hash(rows, &key, server_version).expect("the key is from the rows");
        paths.insert(key.clone(), json!({"serverRelativeURL": format!("/openapi/v3/{key}?hash={hash}")}));
    }
    json!({"paths": paths})
}

/// The hash of a document by its key (`api/v1`, `apis/apps/v1`), without making the document. It changes with
/// the rows and with the server.
pub fn hash(rows: &[Arc<Kind>], key: &str, server_version: &str) -> Option<String> {
    let versions = group_versions(rows);
    let mut hash = Sha512::new();
    hash.update(server_version);
    match versions.get(key) {
        Some(kinds) => kinds.iter().for_each(|kind| hash.update(format!("{:?}", kind.resource))),
        None => hash.update(small(rows).into_iter().find(|small| small.key == key)?.key),
    }
    Some(hash.finalize().iter().map(|byte| format!("{byte:02X}")).collect())
}

/// `/openapi/v3/<key>`, or `None` if there is no such document.
pub fn document(rows: &[Arc<Kind>], key: &str, server_version: &str) -> Option<Value> {
    let versions = group_versions(rows);
    let mut components = Components::new(Style::V3);
    let paths = match versions.get(key) {
        Some(kinds) => paths::of(kinds, &mut components),
        None => small(rows).into_iter().find(|small| small.key == key)?.paths(&mut components),
    };
    let security = json!({"BearerToken": {"type": "apiKey", "in": "header", "name": "authorization",
        "description": "Bearer token authentication"}});
    Some(json!({
        "openapi": "3.0.0",
        "info": info(server_version),
        "paths": paths,
        "components": {"schemas": components.finish(), "securitySchemes": security},
    }))
}

/// `/openapi/v2`.
pub fn v2(rows: &[Arc<Kind>], server_version: &str) -> Value {
    let mut components = Components::new(Style::V2);
    let mut paths = Map::new();
    for kinds in group_versions(rows).values() {
        paths.extend(paths::of(kinds, &mut components));
    }
    let security = json!({"BearerToken": {"type": "apiKey", "in": "header", "name": "authorization",
        "description": "Bearer token authentication"}});
    json!({
        "swagger": "2.0",
        "info": info(server_version),
        "paths": paths,
        "definitions": components.finish(),
        "securityDefinitions": security,
        "security": [{"BearerToken": []}],
    })
}

/// `/openapi/v2` in protobuf.
pub fn v2_protobuf(rows: &[Arc<Kind>], server_version: &str) -> Vec<u8> {
    gnostic::encode(&v2(rows, server_version))
}

fn info(server_version: &str) -> Value {
    json!({"title": "Kubernetes", "version": server_version})
}

/// A document of one path that is read and belongs to no group and version.
struct Small {
    key: String,
    id: String,
    /// The definition of what is answered; empty: a text.
    answer: &'static str,
}

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// Source: golden index of upstream; each is a web service of its own there.
fn small(rows: &[Arc<Kind>]) -> Vec<Small> {
    let small = |key: &str, id: String, answer| Small { key: key.to_owned(), id, answer };
    let mut all = vec![
        small("api", "getCoreAPIVersions".to_owned(), "APIVersions"),
        small("apis", "getAPIVersions".to_owned(), "APIGroupList"),
        small("version", "getCodeVersion".to_owned(), ""),
        small(".well-known/openid-configuration", "getServiceAccountIssuerOpenIDConfiguration".to_owned(), ""),
        small("openid/v1/jwks", "getServiceAccountIssuerOpenIDKeyset".to_owned(), ""),
    ];
    let groups: BTreeSet<&str> = rows.iter().map(|kind| kind.resource.group.as_ref()).collect();
    for group in groups.into_iter().filter(|group| !group.is_empty()) {
        let id = format!("get{}APIGroup", paths::capital(group.split('.').next().unwrap_or(group)));
        all.push(small(&format!("apis/{group}"), id, "APIGroup"));
    }
    all
}

impl Small {
    fn paths(&self, components: &mut Components) -> Map<String, Value> {
        let schema = match self.answer {
            "" => json!({"type": "string"}),
            answer => components.refer(&format!("{META}.{answer}")),
        };
        let get = json!({"operationId": self.id, "responses": {
            "200": {"description": "OK", "content": {"application/json": {"schema": schema}}},
            "401": {"description": "Unauthorized"}}});
        Map::from_iter([(format!("/{}/", self.key), json!({ "get": get }))])
    }
}

/// The rows by the key of their document.
fn group_versions(rows: &[Arc<Kind>]) -> BTreeMap<String, Vec<&Kind>> {
    let mut versions: BTreeMap<String, Vec<&Kind>> = BTreeMap::new();
    for kind in rows {
        let root = if kind.resource.group.is_empty() { "api" } else { "apis" };
        versions.entry(format!("{root}/{}", kind.resource.api_version())).or_default().push(kind);
    }
    versions
}

#[cfg(test)]
mod tests {
    use api_types::resources::BUILT_IN;

    use super::*;
    use crate::kinds::Table;

    const VERSION: &str = "v1.36.2";

    fn table() -> Table {
        Table::new(BUILT_IN.iter().cloned())
    }

    fn document(key: &str) -> Value {
        super::document(table().rows(), key, VERSION).expect("a served version")
    }

    /// Calls `check` with every reference in a document.
    fn references(value: &Value, check: &mut dyn FnMut(&str)) {
        match value {
            Value::Object(fields) => {
                if let Some(Value::String(reference)) = fields.get("$ref") {
                    check(reference);
                }
                fields.values().for_each(|value| references(value, check));
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, check)),
            _ => {}
        }
    }

    #[test]
    fn every_document_is_in_the_index() {
        let shared = std::env::var("COXSWAIN_SHARED");
        let shared = shared.unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared").to_owned());
        let Ok(recorded) = std::fs::read_to_string(format!("{shared}/golden/openapi-v3-index.json")) else {
            eprintln!("skipped: no recorded index in {shared}");
            return;
        };
        let recorded: Map<String, Value> = serde_json::from_str(&recorded).unwrap();
        let expected: Vec<&String> = recorded.keys().collect();
        let index = index(table().rows(), VERSION);
        assert_eq!(index["paths"].as_object().unwrap().keys().collect::<Vec<_>>(), expected);
        let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap();
        assert!(url.starts_with("/openapi/v3/apis/apps/v1?hash="), "{url}");
    }

    #[test]
    fn references_lead_somewhere() {
        let index = index(table().rows(), VERSION);
        for key in index["paths"].as_object().unwrap().keys() {
            let document = document(key);
            references(&document, &mut |reference| {
                let name = reference.strip_prefix("#/components/schemas/").expect("a v3 reference");
                assert!(document["components"]["schemas"].get(name).is_some(), "{key}: {name}");
            });
        }
        let v2 = v2(table().rows(), VERSION);
        references(&v2, &mut |reference| {
            let name = reference.strip_prefix("#/definitions/").expect("a v2 reference");
            assert!(v2["definitions"].get(name).is_some(), "{name}");
        });
    }

    #[test]
    fn kubectl_finds_that_fields_are_validated() {
        let patch =
            &document("apis/apps/v1")["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
        let gvk = json!({"group": "apps", "version": "v1", "kind": "Deployment"});
        assert_eq!(patch["x-kubernetes-group-version-kind"], gvk);
        assert_eq!(patch["x-kubernetes-action"], "patch");
        let parameters = patch["parameters"].as_array().unwrap();
        assert!(parameters.iter().any(|p| p["name"] == "fieldValidation" && p["in"] == "query"));
        assert!(patch["requestBody"]["content"].get("application/strategic-merge-patch+json").is_some());
    }

    #[test]
    fn schemas_carry_what_clients_merge_by() {
        let core = document("api/v1");
        let schemas = &core["components"]["schemas"];
        let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
        assert_eq!(containers["x-kubernetes-list-type"], "map");
        assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
        assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
        assert_eq!(containers["x-kubernetes-patch-strategy"], "merge");
        assert!(containers["description"].as_str().unwrap().starts_with("List of containers"));
        let pod = &schemas["io.k8s.api.core.v1.Pod"];
        assert_eq!(pod["x-kubernetes-group-version-kind"], json!([{"group": "", "version": "v1", "kind": "Pod"}]));
        assert_eq!(pod["properties"]["spec"]["allOf"][0]["$ref"], "#/components/schemas/io.k8s.api.core.v1.PodSpec");
        assert_eq!(schemas["io.k8s.api.core.v1.PodSpec"]["required"], json!(["containers"]));
    }

    #[test]
    fn the_hash_follows_the_rows() {
        let table = table();
        let hash = |key| super::hash(table.rows(), key, VERSION);
        assert_eq!(hash("api/v1"), hash("api/v1"));
        assert_ne!(hash("api/v1"), hash("apis/apps/v1"));
        assert_eq!(hash("apis/nope/v1"), None);
    }
}
