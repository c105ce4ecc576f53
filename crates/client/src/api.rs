//! The verbs, typed: every kind of the table by the same few calls.

use api_types::{
    Key, Object, Resource,
    k8s::meta::{DeleteOptions, ListMeta},
};
use bytes::Bytes;
use http::Method;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, value::RawValue};

use crate::{
    error::Error,
    http::{Call, Client, JSON},
};

/// What part of a collection is asked for. Empty fields ask for everything, most recent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListParams {
    pub label_selector: String,
    pub field_selector: String,
    /// Objects per page; 0: no pages.
    pub limit: u32,
    /// From the page before.
    pub continue_token: String,
    pub resource_version: String,
}

/// One page of a collection.
#[derive(Clone, Debug)]
pub struct Page<K> {
    pub items: Vec<K>,
    /// Where a watch goes on.
    pub resource_version: String,
    /// Empty on the last page.
    pub continue_token: String,
}

/// A change to an object, in one of the three forms that need no field manager.
#[derive(Clone, Debug, PartialEq)]
pub enum Patch {
    /// RFC 6902.
    Json(Value),
    /// RFC 7396.
    Merge(Value),
    /// Kubernetes' own, which merges lists by key; built-in kinds only.
    Strategic(Value),
}

impl Client {
    pub async fn get<K: Object>(&self, key: &Key) -> Result<K, Error> {
        self.json(Method::GET, &path(K::RESOURCE, key, ""), JSON, Bytes::new()).await
    }

    /// `namespace` empty: all namespaces.
    pub async fn list<K: Object>(&self, namespace: &str, params: &ListParams) -> Result<Page<K>, Error> {
        let path = format!("{}{}", K::RESOURCE.path(namespace), params.query());
        let body = self.request(Method::GET, &path, JSON, Bytes::new()).await?;
        let list = RawList::read(&body, &path)?;
        let decode = |item: &&RawValue| {
            serde_json::from_str(item.get())
                .map_err(|error| Error::Decode { what: path.clone(), why: error.to_string() })
        };
        Ok(Page {
            items: list.items().iter().map(decode).collect::<Result<_, _>>()?,
            resource_version: list.metadata.resource_version.unwrap_or_default(),
            continue_token: list.metadata.continue_.unwrap_or_default(),
        })
    }

    /// Gives the object as stored. The namespace is that of its metadata.
    pub async fn create<K: Object>(&self, object: &K) -> Result<K, Error> {
        self.json(Method::POST, &K::RESOURCE.path(object.namespace()), JSON, encode(object)?).await
    }

    /// Refused with a conflict if `object` carries a resourceVersion that is not the newest.
    pub async fn update<K: Object>(&self, object: &K) -> Result<K, Error> {
        self.json(Method::PUT, &path(K::RESOURCE, &object.key(), ""), JSON, encode(object)?).await
    }

    pub async fn update_status<K: Object>(&self, object: &K) -> Result<K, Error> {
        self.json(Method::PUT, &path(K::RESOURCE, &object.key(), "status"), JSON, encode(object)?).await
    }

    pub async fn patch<K: Object>(&self, key: &Key, patch: &Patch) -> Result<K, Error> {
        self.json(Method::PATCH, &path(K::RESOURCE, key, ""), patch.content_type(), patch.body()).await
    }

    pub async fn patch_status<K: Object>(&self, key: &Key, patch: &Patch) -> Result<K, Error> {
        self.json(Method::PATCH, &path(K::RESOURCE, key, "status"), patch.content_type(), patch.body()).await
    }

    /// Succeeds when the server has taken note: the object may linger for grace or finalizers.
    pub async fn delete<K: Object>(&self, key: &Key, options: &DeleteOptions) -> Result<(), Error> {
        let _object_or_status: Value =
            self.json(Method::DELETE, &path(K::RESOURCE, key, ""), JSON, encode(options)?).await?;
        Ok(())
    }

    /// Deletes everything that matches. `namespace` empty: all namespaces.
    pub async fn delete_collection<K: Object>(
        &self,
        namespace: &str,
        params: &ListParams,
        options: &DeleteOptions,
    ) -> Result<(), Error> {
        let path = format!("{}{}", K::RESOURCE.path(namespace), params.query());
        let _list_or_status: Value = self.json(Method::DELETE, &path, JSON, encode(options)?).await?;
        Ok(())
    }

    /// Binding, eviction, token.
    pub async fn post_subresource<K: Object, B: Serialize, R: DeserializeOwned>(
        &self,
        key: &Key,
        subresource: &str,
        body: &B,
    ) -> Result<R, Error> {
        self.json(Method::POST, &path(K::RESOURCE, key, subresource), JSON, encode(body)?).await
    }

    async fn json<R: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Bytes,
    ) -> Result<R, Error> {
        let what = format!("{method} {path}");
        let answer = self.call(Call { method, path, content_type, accept: JSON, body }).await?;
        serde_json::from_slice(&answer).map_err(|error| Error::Decode { what, why: error.to_string() })
    }
}

/// The path of one object, or of a subresource of it.
pub fn path(resource: &Resource, key: &Key, subresource: &str) -> String {
    let mut path = format!("{}/", resource.path(&key.namespace));
    escape(&key.name, &mut path);
    if !subresource.is_empty() {
        path.push('/');
        path.push_str(subresource);
    }
    path
}

impl ListParams {
    /// `?a=b&c=d`, or nothing.
    pub(crate) fn query(&self) -> String {
        let limit = if self.limit == 0 { String::new() } else { self.limit.to_string() };
        query(&[
            ("labelSelector", &self.label_selector),
            ("fieldSelector", &self.field_selector),
            ("limit", &limit),
            ("continue", &self.continue_token),
            ("resourceVersion", &self.resource_version),
        ])
    }
}

/// A query string of those pairs whose value is not empty.
pub(crate) fn query(pairs: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (name, value) in pairs.iter().filter(|(_, value)| !value.is_empty()) {
        text.push(if text.is_empty() { '?' } else { '&' });
        text.push_str(name);
        text.push('=');
        escape(value, &mut text);
    }
    text
}

/// Percent-encodes all but RFC 3986's unreserved characters and `:`, which names of RBAC hold.
fn escape(text: &str, to: &mut String) {
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' => to.push(char::from(byte)),
            _ => to.push_str(&format!("%{byte:02X}")),
        }
    }
}

impl Patch {
    fn content_type(&self) -> &'static str {
        match self {
            Patch::Json(_) => "application/json-patch+json",
            Patch::Merge(_) => "application/merge-patch+json",
            Patch::Strategic(_) => "application/strategic-merge-patch+json",
        }
    }
    fn body(&self) -> Bytes {
        let (Patch::Json(value) | Patch::Merge(value) | Patch::Strategic(value)) = self;
        Bytes::from(value.to_string())
    }
}

fn encode(body: &impl Serialize) -> Result<Bytes, Error> {
    serde_json::to_vec(body)
        .map(Bytes::from)
        .map_err(|error| Error::Decode { what: "the request itself".to_owned(), why: error.to_string() })
}

/// A list whose items are not decoded yet, so that one bad item need not spoil the rest.
#[derive(Deserialize)]
pub(crate) struct RawList<'a> {
    #[serde(default)]
    pub metadata: ListMeta,
    #[serde(borrow, default)]
    items: Option<Vec<&'a RawValue>>,
}

impl<'a> RawList<'a> {
    pub(crate) fn read(body: &'a [u8], what: &str) -> Result<Self, Error> {
        serde_json::from_slice(body).map_err(|error| Error::Decode { what: what.to_owned(), why: error.to_string() })
    }
    pub(crate) fn items(&self) -> &[&'a RawValue] {
        self.items.as_deref().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use api_types::resources;

    use super::*;

    #[test]
    fn paths() {
        let check = |resource: &Resource, key: Key, sub: &str, expected: &str| {
            assert_eq!(path(resource, &key, sub), expected);
        };
        check(&resources::POD, Key::new("ns", "p"), "binding", "/api/v1/namespaces/ns/pods/p/binding");
        check(&resources::NODE, Key::cluster("n1"), "status", "/api/v1/nodes/n1/status");
        let roles = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
        check(&resources::CLUSTER_ROLE, Key::cluster("system:node"), "", &format!("{roles}/system:node"));
        check(&resources::CLUSTER_ROLE, Key::cluster("a b/c"), "", &format!("{roles}/a%20b%2Fc"));
    }

    #[test]
    fn queries_hold_what_is_set() {
        assert_eq!(ListParams::default().query(), "");
        let params = ListParams { label_selector: "a in (b,c)".into(), limit: 500, ..ListParams::default() };
        assert_eq!(params.query(), "?labelSelector=a%20in%20%28b%2Cc%29&limit=500");
    }

    #[test]
    fn a_list_without_items_is_empty() {
        for body in [r#"{"metadata":{"resourceVersion":"7"},"items":null}"#, r#"{"metadata":{"resourceVersion":"7"}}"#]
        {
            let list = RawList::read(body.as_bytes(), "").unwrap();
            assert!(list.items().is_empty());
            assert_eq!(list.metadata.resource_version.as_deref(), Some("7"));
        }
    }
}
