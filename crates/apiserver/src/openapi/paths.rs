//! The paths of a group and version: for each row its collection, its items and its
//! subresources, with what can be done there.

use api_types::{Resource, Subresource, Verb, schema};
use serde_json::{Map, Value, json};

use super::{
    operations::{Action, Operation},
    schemas::Components,
};
use crate::kinds::Kind;

/// All paths of the rows of one document.
pub fn of(kinds: &[&Kind], components: &mut Components) -> Map<String, Value> {
    let mut paths = Map::new();
    for kind in kinds {
        add_kind(&kind.resource, components, &mut paths);
    }
    paths
}

fn add_kind(resource: &Resource, components: &mut Components, paths: &mut Map<String, Value>) {
    let body = components.refer_to_kind(resource);
    let collection = collection(resource);
    let on_collection: &[(Verb, Action)] =
        &[(Verb::List, Action::List), (Verb::Create, Action::Post), (Verb::DeleteCollection, Action::DeleteCollection)];
    let on_item: &[(Verb, Action)] = &[
        (Verb::Get, Action::Get),
        (Verb::Update, Action::Put),
        (Verb::Patch, Action::Patch),
        (Verb::Delete, Action::Delete),
    ];
    let subject = Subject { resource, kind: (&resource.group, &resource.version, &resource.kind), sub: "" };
    add(paths, components, &collection, &subject, on_collection, &body, resource);
    add(paths, components, &format!("{collection}/{{name}}"), &subject, on_item, &body, resource);
    if resource.is_namespaced() && resource.verbs.contains(Verb::List) {
        let everywhere = resource.path("");
        let list = [(Verb::List, Action::List)];
        let subject = Subject { sub: "ForAllNamespaces", ..subject };
        add(paths, components, &everywhere, &subject, &list, &body, resource);
    }
    for sub in resource.subresources.iter() {
        add_subresource(resource, sub, &format!("{collection}/{{name}}/{}", sub.name), components, paths);
    }
}

/// What the operations of a path are about.
#[derive(Clone, Copy)]
struct Subject<'a> {
    resource: &'a Resource,
    /// Group, version and kind of the body.
    kind: (&'a str, &'a str, &'a str),
    /// Tells the operations of a path from others of the same kind.
    sub: &'a str,
}

fn add(
    paths: &mut Map<String, Value>,
    components: &mut Components,
    path: &str,
    subject: &Subject,
    actions: &[(Verb, Action)],
    body: &Value,
    resource: &Resource,
) {
    let mut entry = Map::new();
    for (_, action) in actions.iter().filter(|(verb, _)| resource.verbs.contains(*verb)) {
        let operation = operation(*action, path, subject, body.clone());
        entry.insert(action.method().to_owned(), operation.write(components));
    }
    if !entry.is_empty() {
        paths.insert(path.to_owned(), Value::Object(entry));
    }
}

fn operation<'a>(action: Action, path: &'a str, subject: &Subject<'a>, body: Value) -> Operation<'a> {
    let namespaced = if path.contains("{namespace}") { "Namespaced" } else { "" };
    let group = subject.resource.group.split('.').next().unwrap_or_default();
    let group = if group.is_empty() { "core" } else { group };
    let id = format!(
        "{}{}{}{namespaced}{}{}",
        action.id(),
        capital(group),
        capital(&subject.resource.version),
        subject.resource.kind,
        capital(subject.sub)
    );
    Operation { action, path, id, kind: subject.kind, list: list_name(subject.resource), body }
}

/// The definition of the kind's list, if it has one.
fn list_name(resource: &Resource) -> Option<String> {
    let of = schema::of(&resource.group, &resource.version, &resource.list_kind())?;
    Some(of.name.to_string())
}

fn add_subresource(
    resource: &Resource,
    sub: &Subresource,
    path: &str,
    components: &mut Components,
    paths: &mut Map<String, Value>,
) {
    let group = if sub.version.is_empty() { &resource.group } else { &sub.group };
    let version = if sub.version.is_empty() { &resource.version } else { &sub.version };
    let subject = Subject { resource, kind: (group, version, &sub.kind), sub: &sub.name };
    let body = schema::of(group, version, &sub.kind).map(|of| components.refer(&of.name));
    // Streams and proxies have no body that could be described.
    let connects = body.is_none();
    let body = body.unwrap_or_else(|| json!({"type": "string"}));
    let mut entry = Map::new();
    for verb in sub.verbs.iter() {
        let action = match (verb, connects) {
            (Verb::Create, false) => Action::Post,
            (Verb::Update, false) => Action::Put,
            (Verb::Patch, false) => Action::Patch,
            (Verb::Get, false) => Action::Get,
            (Verb::Delete, false) => Action::Delete,
            (Verb::Create, true) => Action::ConnectPost,
            (Verb::Update, true) => Action::ConnectPut,
            (Verb::Patch, true) => Action::ConnectPatch,
            (Verb::Get, true) => Action::ConnectGet,
            (Verb::Delete, true) => Action::ConnectDelete,
            (Verb::List | Verb::Watch | Verb::DeleteCollection, _) => continue,
        };
        entry.insert(action.method().to_owned(), operation(action, path, &subject, body.clone()).write(components));
    }
    if !entry.is_empty() {
        paths.insert(path.to_owned(), Value::Object(entry));
    }
}

fn collection(resource: &Resource) -> String {
    if resource.is_namespaced() { resource.path("{namespace}") } else { resource.path("") }
}

pub fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_ascii_uppercase().to_string() + chars.as_str()).unwrap_or_default()
}
