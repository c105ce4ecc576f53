//! What this server serves, told to clients: the lists behind `/api` and `/apis`, one
//! document per group and version, and the aggregated form that has all of it at once.
//! All are derived from the rows of the table of kinds.
//!
//! Source: apiserver/pkg/endpoints/discovery, and apidiscovery.k8s.io/v2.

use std::sync::Arc;

use api_types::{Resource, Scope, Subresource, Verbs};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256, Sha512};

use crate::kinds::Kind;

mod answer;
mod version;

pub use answer::answer;

/// What a client names in Accept for the aggregated form, and what the reply's Content-Type is.
pub const AGGREGATED_MEDIA_TYPE: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
/// Bytes of the hash that tells clients which version of a resource is stored.
const STORAGE_HASH_BYTES: usize = 8;

/// The two trees of the API: the core group lies under `/api`, all others under `/apis`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Root {
    Core,
    Groups,
}

impl Root {
    fn has(self, group: &str) -> bool {
        (self == Root::Core) == group.is_empty()
    }
}

/// `/api`. `address` is where clients reach this server, `host:port`.
pub fn core_versions(rows: &[Arc<Kind>], address: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": versions(rows, ""),
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    })
}

/// `/apis`.
pub fn group_list(rows: &[Arc<Kind>]) -> Value {
    let groups: Vec<Value> = groups(rows, Root::Groups).into_iter().map(|name| api_group(rows, name)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/<group>`; `None` for a group that is not served.
pub fn group(rows: &[Arc<Kind>], name: &str) -> Option<Value> {
    if name.is_empty() || versions(rows, name).is_empty() {
        return None;
    }
    let mut group = api_group(rows, name);
    group["kind"] = "APIGroup".into();
    group["apiVersion"] = "v1".into();
    Some(group)
}

/// `/api/v1` and `/apis/<group>/<version>`; `None` for a version that is not served.
pub fn resource_list(rows: &[Arc<Kind>], group: &str, version: &str) -> Option<Value> {
    let mut resources: Vec<Value> = Vec::new();
    for kind in served(rows, group, version) {
        resources.push(api_resource(kind));
        resources.extend(kind.resource.subresources.iter().map(|sub| api_subresource(&kind.resource, sub)));
    }
    if resources.is_empty() {
        return None;
    }
    resources.sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
    let mut list =
        json!({"kind": "APIResourceList", "groupVersion": group_version(group, version), "resources": resources});
    if !group.is_empty() {
        list["apiVersion"] = "v1".into();
    }
    Some(list)
}

/// `/api` or `/apis` in the aggregated form.
pub fn aggregated(rows: &[Arc<Kind>], root: Root) -> Value {
    let items: Vec<Value> = groups(rows, root)
        .into_iter()
        .map(|group| {
            let versions = versions(rows, group).into_iter().map(|version| {
                let mut resources: Vec<&Kind> = served(rows, group, version).collect();
                resources.sort_by(|a, b| a.resource.plural.cmp(&b.resource.plural));
                let resources: Vec<Value> = resources.into_iter().map(|kind| described(&kind.resource)).collect();
                json!({"version": version, "resources": resources, "freshness": "Current"})
            });
            let metadata = if group.is_empty() { json!({}) } else { json!({"name": group}) };
            json!({"metadata": metadata, "versions": versions.collect::<Vec<_>>()})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

/// The validator of a document: clients that have it already are answered 304.
pub fn etag(document: &[u8]) -> String {
    let hash: String = Sha512::digest(document).iter().map(|byte| format!("{byte:02X}")).collect();
    format!("\"{hash}\"")
}

fn served<'a>(rows: &'a [Arc<Kind>], group: &'a str, version: &'a str) -> impl Iterator<Item = &'a Kind> {
    rows.iter().map(Arc::as_ref).filter(move |kind| kind.resource.group == group && kind.resource.version == version)
}

/// Groups in the order of the rows: built-in ones by upstream's priority, then those of CRDs.
fn groups(rows: &[Arc<Kind>], root: Root) -> Vec<&str> {
    let mut groups: Vec<&str> = Vec::new();
    for group in rows.iter().map(|kind| kind.resource.group.as_ref()).filter(|group| root.has(group)) {
        if !groups.contains(&group) {
            groups.push(group);
        }
    }
    groups
}

/// A group's versions, the preferred one first.
fn versions<'a>(rows: &'a [Arc<Kind>], group: &str) -> Vec<&'a str> {
    let of_group = rows.iter().filter(|kind| kind.resource.group == group);
    let mut versions: Vec<&str> = of_group.map(|kind| kind.resource.version.as_ref()).collect();
    versions.sort_by(|a, b| version::compare(b, a));
    versions.dedup();
    versions
}

fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

fn api_group(rows: &[Arc<Kind>], name: &str) -> Value {
    let versions = versions(rows, name).into_iter();
    let versions: Vec<Value> =
        versions.map(|version| json!({"groupVersion": group_version(name, version), "version": version})).collect();
    json!({"name": name, "versions": versions, "preferredVersion": versions[0]})
}

fn verb_names(verbs: Verbs) -> Vec<&'static str> {
    verbs.iter().map(|verb| verb.name()).collect()
}

fn api_resource(kind: &Kind) -> Value {
    let resource = &kind.resource;
    let mut entry = json!({
        "name": resource.plural,
        "singularName": resource.singular,
        "namespaced": resource.is_namespaced(),
        "kind": resource.kind,
        "verbs": verb_names(resource.verbs),
    });
    add_names(&mut entry, resource);
    if resource.verbs.contains(api_types::Verb::Update) {
        let stored = format!("{}/{}", kind.storage.api_version, kind.storage.kind);
        // The core group's name is empty, and the slash behind it is hashed, too.
        let stored = if kind.storage.api_version.contains('/') { stored } else { format!("/{stored}") };
        let hash = &Sha256::digest(stored.as_bytes())[..STORAGE_HASH_BYTES];
        entry["storageVersionHash"] = BASE64_STANDARD.encode(hash).into();
    }
    entry
}

fn add_names(entry: &mut Value, resource: &Resource) {
    if !resource.short_names.is_empty() {
        entry["shortNames"] = json!(resource.short_names);
    }
    if !resource.categories.is_empty() {
        entry["categories"] = json!(resource.categories);
    }
}

fn api_subresource(resource: &Resource, sub: &Subresource) -> Value {
    let mut entry = json!({
        "name": format!("{}/{}", resource.plural, sub.name),
        "singularName": "",
        "namespaced": resource.is_namespaced(),
        "kind": sub.kind,
        "verbs": verb_names(sub.verbs),
    });
    if !sub.version.is_empty() {
        entry["group"] = json!(sub.group);
        entry["version"] = json!(sub.version);
    }
    entry
}

/// A resource in the aggregated form. An empty group and version mean those that it is listed under.
fn described(resource: &Resource) -> Value {
    let response_kind =
        |group: &str, version: &str, kind: &str| json!({"group": group, "version": version, "kind": kind});
    let scope = match resource.scope {
        Scope::Namespaced => "Namespaced",
        Scope::Cluster => "Cluster",
    };
    let mut entry = json!({
        "resource": resource.plural,
        "responseKind": response_kind("", "", &resource.kind),
        "scope": scope,
        "singularResource": resource.singular,
        "verbs": verb_names(resource.verbs),
    });
    add_names(&mut entry, resource);
    let mut subresources: Vec<&Subresource> = resource.subresources.iter().collect();
    subresources.sort_by(|a, b| a.name.cmp(&b.name));
    let subresources: Vec<Map<String, Value>> = subresources
        .into_iter()
        .map(|sub| {
            Map::from_iter([
                ("subresource".to_owned(), json!(sub.name)),
                ("responseKind".to_owned(), response_kind(&sub.group, &sub.version, &sub.kind)),
                ("verbs".to_owned(), json!(verb_names(sub.verbs))),
            ])
        })
        .collect();
    if !subresources.is_empty() {
        entry["subresources"] = json!(subresources);
    }
    entry
}

#[cfg(test)]
mod tests {
    use api_types::resources::BUILT_IN;

    use super::*;
    use crate::kinds::Table;

    fn table() -> Table {
        Table::new(BUILT_IN.iter().cloned())
    }

    #[test]
    fn equals_what_a_real_server_says() {
        let shared = std::env::var("COXSWAIN_SHARED");
        let shared = shared.unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared").to_owned());
        let Ok(recorded) = std::fs::read_to_string(format!("{shared}/golden/discovery-aggregated.json")) else {
            eprintln!("skipped: no recorded discovery in {shared}");
            return;
        };
        let recorded: Value = serde_json::from_str(&recorded).unwrap();
        assert_eq!(aggregated(table().rows(), Root::Core), recorded["api"]);
        assert_eq!(aggregated(table().rows(), Root::Groups), recorded["apis"]);
    }

    #[test]
    fn lists_groups_and_versions() {
        let table = table();
        let groups = group_list(table.rows());
        assert_eq!(groups["groups"][1]["name"], "apps");
        let autoscaling = group(table.rows(), "autoscaling").unwrap();
        assert_eq!(autoscaling["preferredVersion"], json!({"groupVersion": "autoscaling/v2", "version": "v2"}));
        assert_eq!(autoscaling["versions"].as_array().unwrap().len(), 2);
        assert_eq!(group(table.rows(), "nope"), None);
        assert_eq!(group(table.rows(), ""), None);
        assert_eq!(core_versions(table.rows(), "10.0.0.1:6443")["versions"], json!(["v1"]));
    }

    #[test]
    fn lists_resources() {
        let table = table();
        let core = resource_list(table.rows(), "", "v1").unwrap();
        assert_eq!(core.get("apiVersion"), None);
        let find = |name: &str| {
            core["resources"].as_array().unwrap().iter().find(|entry| entry["name"] == name).unwrap().clone()
        };
        assert_eq!(
            find("pods"),
            json!({"name": "pods", "singularName": "pod", "namespaced": true, "kind": "Pod", "shortNames": ["po"],
                "categories": ["all"], "storageVersionHash": "xPOwRZ+Yhw8=",
                "verbs": ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]})
        );
        assert_eq!(
            find("pods/eviction"),
            json!({"name": "pods/eviction", "singularName": "", "namespaced": true, "group": "policy",
                "version": "v1", "kind": "Eviction", "verbs": ["create"]})
        );
        assert_eq!(find("bindings").get("storageVersionHash"), None);
        assert_eq!(resource_list(table.rows(), "apps", "v1").unwrap()["apiVersion"], "v1");
        assert_eq!(resource_list(table.rows(), "apps", "v2"), None);
    }

    #[test]
    fn the_tag_is_stable() {
        assert_eq!(etag(b"a"), etag(b"a"));
        assert_ne!(etag(b"a"), etag(b"b"));
        assert_eq!(etag(b"").len(), 130);
    }
}
