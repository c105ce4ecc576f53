//! Which kinds the server has now, built in or not, as rows of the table's type.

use std::borrow::Cow;

use api_types::{
    Resource, Scope, Verb, Verbs,
    k8s::meta::{APIGroupList, APIResource, APIResourceList},
};
use bytes::Bytes;
use client::{Client, Error};
use futures::future::try_join_all;
use http::Method;
use serde::de::DeserializeOwned;

/// The kinds of every group, each in the version that the server prefers.
pub async fn discover(client: &Client) -> Result<Vec<Resource>, Error> {
    let groups: APIGroupList = get(client, "/apis").await?;
    let preferred = groups.groups.into_iter().filter_map(|group| {
        let version = group.preferred_version.or_else(|| group.versions.into_iter().next())?;
        Some((format!("/apis/{}", version.group_version), group.name, version.version))
    });
    let core = ("/api/v1".to_owned(), String::new(), "v1".to_owned());
    let lists = std::iter::once(core).chain(preferred).map(|(path, group, version)| async move {
        let list: APIResourceList = match get(client, &path).await {
            // A group whose own server is away must not hide all others.
            Err(Error::Api(refusal)) if refusal.code() == 503 || refusal.is_not_found() => return Ok(Vec::new()),
            list => list?,
        };
        Ok::<_, Error>(list.resources.iter().filter_map(|entry| row(&group, &version, entry)).collect::<Vec<_>>())
    });
    Ok(try_join_all(lists).await?.into_iter().flatten().collect())
}

async fn get<R: DeserializeOwned>(client: &Client, path: &str) -> Result<R, Error> {
    let body = client.request(Method::GET, path, "application/json", Bytes::new()).await?;
    serde_json::from_slice(&body).map_err(|error| Error::Decode { what: path.to_owned(), why: error.to_string() })
}

/// `None` for a subresource.
fn row(group: &str, version: &str, entry: &APIResource) -> Option<Resource> {
    if entry.name.contains('/') {
        return None;
    }
    let verbs: Vec<Verb> =
        Verb::EVERY.into_iter().filter(|verb| entry.verbs.iter().any(|name| name == verb.name())).collect();
    Some(Resource {
        group: Cow::Owned(entry.group.clone().filter(|own| !own.is_empty()).unwrap_or_else(|| group.to_owned())),
        version: Cow::Owned(entry.version.clone().filter(|own| !own.is_empty()).unwrap_or_else(|| version.to_owned())),
        kind: Cow::Owned(entry.kind.clone()),
        plural: Cow::Owned(entry.name.clone()),
        singular: Cow::Owned(entry.singular_name.clone()),
        short_names: Cow::Borrowed(&[]),
        categories: Cow::Borrowed(&[]),
        scope: if entry.namespaced { Scope::Namespaced } else { Scope::Cluster },
        verbs: Verbs::of(&verbs),
        subresources: Cow::Borrowed(&[]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subresources_are_no_kinds() {
        let entry = |name: &str| APIResource {
            name: name.to_owned(),
            namespaced: true,
            verbs: vec!["get".to_owned(), "watch".to_owned()],
            ..APIResource::default()
        };
        assert!(row("apps", "v1", &entry("deployments/status")).is_none());
        let row = row("apps", "v1", &entry("deployments")).unwrap();
        assert!(row.is_namespaced() && row.verbs.contains(Verb::Watch) && !row.verbs.contains(Verb::Delete));
        assert_eq!(row.path("ns"), "/apis/apps/v1/namespaces/ns/deployments");
    }
}
