//! What the server serves, from its aggregated discovery document: words of the command
//! line become rows of the same table that the server itself is built on.

use std::borrow::Cow;

use api_types::{
    Resource, Scope, Verb, Verbs,
    resources::{Subresource, Text},
};
use serde::Deserialize;

/// `APIGroupDiscoveryList` of apidiscovery.k8s.io/v2, as far as a client needs it.
#[derive(Deserialize)]
pub struct Document {
    items: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    metadata: Metadata,
    #[serde(default)]
    versions: Vec<Version>,
}

#[derive(Deserialize)]
struct Metadata {
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
struct Version {
    version: String,
    #[serde(default)]
    resources: Vec<Served>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Served {
    resource: String,
    response_kind: Option<Kind>,
    scope: String,
    #[serde(default)]
    singular_resource: String,
    #[serde(default)]
    short_names: Vec<String>,
    #[serde(default)]
    categories: Vec<String>,
    #[serde(default)]
    verbs: Vec<String>,
    #[serde(default)]
    subresources: Vec<ServedSubresource>,
}

#[derive(Deserialize)]
struct Kind {
    kind: String,
}

#[derive(Deserialize)]
struct ServedSubresource {
    subresource: String,
}

/// Every served resource, the preferred version of each group first.
#[derive(Debug, Default)]
pub struct Catalog(Vec<Resource>);

impl Catalog {
    /// From the documents of `/api` and `/apis`, in this order.
    pub fn new(documents: impl IntoIterator<Item = Document>) -> Self {
        let mut rows = Vec::new();
        for group in documents.into_iter().flat_map(|document| document.items) {
            for version in group.versions {
                let of_version = |served| row(&group.metadata.name, &version.version, served);
                rows.extend(version.resources.into_iter().map(of_version));
            }
        }
        Self(rows)
    }

    /// A resource by plural, singular, short name or kind, each with or without `.group`.
    pub fn find(&self, word: &str) -> Option<&Resource> {
        let word = word.to_ascii_lowercase();
        let (name, group) = match word.split_once('.') {
            Some((name, group)) => (name, Some(group)),
            None => (word.as_str(), None),
        };
        let named = |row: &&Resource| {
            row.plural == name
                || row.singular == name
                || row.kind.eq_ignore_ascii_case(name)
                || row.short_names.iter().any(|short| short == name)
        };
        self.0.iter().find(|row| named(row) && group.is_none_or(|group| row.group == group))
    }

    /// The members of a category such as `all`, that can be listed.
    pub fn category(&self, word: &str) -> Vec<&Resource> {
        let member = |row: &&Resource| row.verbs.contains(Verb::List) && row.categories.iter().any(|it| it == word);
        self.0.iter().filter(member).collect()
    }

    /// The resource of an object by its apiVersion and kind.
    pub fn of(&self, api_version: &str, kind: &str) -> Option<&Resource> {
        self.0.iter().find(|row| row.kind == kind && row.api_version() == api_version)
    }
}

fn row(group: &str, version: &str, served: Served) -> Resource {
    let texts = |words: Vec<String>| -> Cow<'static, [Text]> { words.into_iter().map(Cow::Owned).collect() };
    let verbs: Vec<Verb> =
        Verb::EVERY.into_iter().filter(|verb| served.verbs.iter().any(|name| name == verb.name())).collect();
    let subresource = |sub: ServedSubresource| Subresource {
        name: sub.subresource.into(),
        group: Cow::Borrowed(""),
        version: Cow::Borrowed(""),
        kind: Cow::Borrowed(""),
        verbs: Verbs::of(&[]),
    };
    Resource {
        group: group.to_owned().into(),
        version: version.to_owned().into(),
        kind: served.response_kind.map(|kind| kind.kind).unwrap_or_default().into(),
        plural: served.resource.into(),
        singular: served.singular_resource.into(),
        short_names: texts(served.short_names),
        categories: texts(served.categories),
        scope: if served.scope == "Namespaced" { Scope::Namespaced } else { Scope::Cluster },
        verbs: Verbs::of(&verbs),
        subresources: served.subresources.into_iter().map(subresource).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = r#"{"items":[
        {"metadata":{},"versions":[{"version":"v1","resources":[
            {"resource":"events","responseKind":{"kind":"Event"},"scope":"Namespaced","shortNames":["ev"],"verbs":["list"]},
            {"resource":"pods","responseKind":{"kind":"Pod"},"scope":"Namespaced","singularResource":"pod",
             "shortNames":["po"],"categories":["all"],"verbs":["get","list"],"subresources":[{"subresource":"log"}]}]}]},
        {"metadata":{"name":"events.k8s.io"},"versions":[{"version":"v1","resources":[
            {"resource":"events","responseKind":{"kind":"Event"},"scope":"Namespaced","verbs":["list"]}]}]}]}"#;

    #[test]
    fn words_find_their_resource() {
        let catalog = Catalog::new([serde_json::from_str(DOCUMENT).expect("a document")]);
        for (word, found) in [
            ("po", Some("pods")),
            ("Pod", Some("pods")),
            ("pods", Some("pods")),
            ("ev", Some("events")),
            ("events.events.k8s.io", Some("events.events.k8s.io")),
            ("nonsense", None),
        ] {
            assert_eq!(catalog.find(word).map(Resource::group_resource).as_deref(), found, "{word}");
        }
        assert_eq!(catalog.category("all").len(), 1);
        assert!(catalog.of("v1", "Pod").is_some_and(|row| row.subresource("log").is_some()));
    }
}
