//! The live table of kinds: built-in rows, later also rows from CRDs, swapped whole.
//! A row adds to the API's [`Resource`] what only the server knows: where its objects
//! are stored, in which version, and how a second view converts to it.

use std::{collections::HashMap, sync::Arc};

use api_types::{Resource, resources::BUILT_IN};
use arc_swap::ArcSwap;
use serde_json::Value;

mod views;

/// A resource as served, tied to its storage.
#[derive(Debug)]
pub struct Kind {
    pub resource: Resource,
    pub storage: Arc<Storage>,
    /// `None`: served as stored.
    pub view: Option<View>,
}

/// Where the objects of a resource lie, whatever the version they are asked in.
#[derive(Debug, PartialEq, Eq)]
pub struct Storage {
    /// The key's part between the store's prefix and the namespace or name: `pods`, `services/specs`.
    pub prefix: String,
    pub api_version: String,
    pub kind: String,
    pub namespaced: bool,
    /// Objects vanish by themselves after this long; `None`: they stay.
    pub ttl_s: Option<i64>,
    /// The row that is stored as it is served: its rules know the selectable fields.
    pub resource: Resource,
}

/// A second way to see stored objects: events.k8s.io over core events, autoscaling/v1 over v2.
#[derive(Clone, Copy, Debug)]
pub struct View {
    /// Turns a stored object into what this row serves.
    pub from_stored: fn(&mut Value),
    /// The way back; nothing is lost that `from_stored` showed or kept aside.
    pub to_stored: fn(&mut Value),
    /// The stored name of a selectable field.
    pub stored_field: fn(&str) -> String,
}

/// An immutable table; see [`Kinds`] for the one in use.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<Arc<Kind>>,
    /// By the plural name, which few groups share.
    by_name: HashMap<String, Vec<Arc<Kind>>>,
    by_prefix: HashMap<String, Arc<Kind>>,
}

impl Table {
    pub fn new(resources: impl IntoIterator<Item = Resource>) -> Self {
        let resources: Vec<Resource> = resources.into_iter().collect();
        let mut table = Self::default();
        for resource in &resources {
            let (stored_as, view) = views::stored_as(resource, &resources);
            let storage = match table.by_prefix.get(&prefix(stored_as)) {
                Some(kind) => kind.storage.clone(),
                None => Arc::new(storage(stored_as)),
            };
            let kind = Arc::new(Kind { resource: resource.clone(), storage, view });
            if view.is_none() {
                table.by_prefix.insert(kind.storage.prefix.clone(), kind.clone());
            }
            table.by_name.entry(resource.plural.to_string()).or_default().push(kind.clone());
            table.rows.push(kind);
        }
        table
    }

    pub fn rows(&self) -> &[Arc<Kind>] {
        &self.rows
    }
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Kind>> {
        let named = self.by_name.get(plural)?;
        named.iter().find(|kind| kind.resource.group == group && kind.resource.version == version)
    }
    /// The row whose objects lie under `prefix`, in the version in which they are stored.
    pub fn stored_under(&self, prefix: &str) -> Option<&Arc<Kind>> {
        self.by_prefix.get(prefix)
    }
    /// The row whose object lies under `key`. Prefixes have one or two segments.
    pub fn of_key(&self, key: &str) -> Option<&Arc<Kind>> {
        let mut slashes = key.match_indices('/').map(|(at, _)| at);
        [slashes.next(), slashes.next()].into_iter().flatten().find_map(|end| self.stored_under(&key[..end]))
    }
    pub fn has_group_version(&self, group: &str, version: &str) -> bool {
        self.rows.iter().any(|kind| kind.resource.group == group && kind.resource.version == version)
    }
}

/// The table in use, behind an atomic pointer.
pub struct Kinds(ArcSwap<Table>);

impl Kinds {
    pub fn built_in() -> Self {
        Self(ArcSwap::from_pointee(Table::new(BUILT_IN.iter().cloned())))
    }
    pub fn table(&self) -> Arc<Table> {
        self.0.load_full()
    }
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Kind>> {
        self.0.load().find(group, version, plural).cloned()
    }
    /// The row of a resource that is known to be served.
    pub fn of(&self, resource: &Resource) -> Option<Arc<Kind>> {
        self.find(&resource.group, &resource.version, &resource.plural)
    }
    /// Takes effect for requests that start from now on.
    pub fn replace(&self, table: Table) {
        self.0.store(Arc::new(table));
    }
}

/// Events live for an hour, as with upstream's `--event-ttl`.
const EVENT_TTL_S: i64 = 3600;

fn storage(resource: &Resource) -> Storage {
    Storage {
        prefix: prefix(resource),
        api_version: resource.api_version(),
        kind: resource.kind.to_string(),
        namespaced: resource.is_namespaced(),
        ttl_s: (resource.group.is_empty() && resource.plural == "events").then_some(EVENT_TTL_S),
        resource: resource.clone(),
    }
}

/// Upstream's key layout: the plural name alone for the groups that are in kubernetes/kubernetes itself, with a
/// few that are older than their names.
///
/// Source: `specialDefaultResourcePrefixes` in pkg/kubeapiserver/default_storage_factory_builder.go.
fn prefix(resource: &Resource) -> String {
    match (resource.group.as_ref(), resource.plural.as_ref()) {
        ("", "replicationcontrollers") => "controllers".to_owned(),
        ("", "endpoints") => "services/endpoints".to_owned(),
        ("", "services") => "services/specs".to_owned(),
        ("", "nodes") => "minions".to_owned(),
        ("networking.k8s.io", "ingresses") => "ingress".to_owned(),
        (group @ ("apiregistration.k8s.io" | "apiextensions.k8s.io"), plural) => format!("{group}/{plural}"),
        (group, plural) if is_in_tree(group) => plural.to_owned(),
        (group, plural) => format!("{group}/{plural}"),
    }
}

fn is_in_tree(group: &str) -> bool {
    BUILT_IN.iter().any(|resource| resource.group == group)
}

#[cfg(test)]
mod tests {
    use api_types::resources;

    use super::*;

    #[test]
    fn keys_lie_where_upstream_puts_them() {
        for (resource, expected) in [
            (&resources::POD, "pods"),
            (&resources::SERVICE, "services/specs"),
            (&resources::ENDPOINTS, "services/endpoints"),
            (&resources::NODE, "minions"),
            (&resources::REPLICATION_CONTROLLER, "controllers"),
            (&resources::DEPLOYMENT, "deployments"),
            (&resources::LEASE, "leases"),
            (&resources::INGRESS, "ingress"),
            (&resources::CLUSTER_ROLE, "clusterroles"),
            (&resources::API_SERVICE, "apiregistration.k8s.io/apiservices"),
            (&resources::CUSTOM_RESOURCE_DEFINITION, "apiextensions.k8s.io/customresourcedefinitions"),
        ] {
            assert_eq!(prefix(resource), expected);
        }
    }

    #[test]
    fn two_views_share_one_storage() {
        let table = Table::new(BUILT_IN.iter().cloned());
        for (a, b) in [
            (&resources::EVENT, &resources::EVENTS_EVENT),
            (&resources::HORIZONTAL_POD_AUTOSCALER, &resources::HORIZONTAL_POD_AUTOSCALER_V1),
        ] {
            let [a, b] = [a, b].map(|r| table.find(&r.group, &r.version, &r.plural).expect("a built-in row"));
            assert!(Arc::ptr_eq(&a.storage, &b.storage));
            assert!(a.view.is_none() && b.view.is_some());
        }
    }
}
