//! What is no plain object: bindings, evictions, tokens, reviews, and the ways through to the
//! kubelet. A table says which hook stands behind which name.

mod binding;
mod connect;
mod eviction;
mod kubelet;
mod proxy;
mod reviews;
mod token;
mod translate;
pub mod tunnel;
mod updates;

use std::sync::Arc;

use api_types::{ApiError, Key, Object, Resource};
use http::HeaderMap;
use serde_json::{Value, json};

pub use reviews::user_fields;

use crate::{
    authn::User,
    reader::Reader,
    rules::{self, Rules},
    server::Server,
    verbs::{
        Ask,
        hook::{Call, Hook},
    },
};

/// The hook of a subresource, or of a resource that is never stored (`subresource` is empty).
pub fn hook(resource: &Resource, subresource: &str) -> Option<Hook> {
    Some(match (resource.group.as_ref(), resource.plural.as_ref(), subresource) {
        ("", "pods", "binding") | ("", "bindings", "") => Hook::Post(binding::bind),
        ("", "pods", "eviction") => Hook::Post(eviction::evict),
        ("", "pods", "ephemeralcontainers") => Hook::Update(updates::EPHEMERAL_CONTAINERS),
        ("", "pods", "resize") => Hook::Update(updates::RESIZE),
        ("", "pods", "log") => Hook::Connect(connect::log),
        ("", "pods", "exec") => Hook::Connect(connect::exec),
        ("", "pods", "attach") => Hook::Connect(connect::attach),
        ("", "pods", "portforward") => Hook::Connect(connect::port_forward),
        ("", "pods" | "services" | "nodes", "proxy") => Hook::Connect(proxy::proxy),
        ("", "serviceaccounts", "token") => Hook::Post(token::request),
        ("", "namespaces", "finalize") => Hook::Update(updates::FINALIZE),
        ("certificates.k8s.io", "certificatesigningrequests", "approval") => Hook::Update(updates::APPROVAL),
        ("authentication.k8s.io", "tokenreviews", "") => Hook::Post(reviews::token),
        ("authentication.k8s.io", "selfsubjectreviews", "") => Hook::Post(reviews::own_identity),
        ("authorization.k8s.io", "subjectaccessreviews", "") => Hook::Post(reviews::access),
        ("authorization.k8s.io", "localsubjectaccessreviews", "") => Hook::Post(reviews::local_access),
        ("authorization.k8s.io", "selfsubjectaccessreviews", "") => Hook::Post(reviews::own_access),
        ("authorization.k8s.io", "selfsubjectrulesreviews", "") => Hook::Post(reviews::own_rules),
        _ => return None,
    })
}

/// The object that a call names.
fn key(call: &Call) -> Key {
    call.request.target.as_ref().map(|target| target.key.clone()).unwrap_or_default()
}

/// The object as it is now, or 404. What the cache lacks is looked for once more after it has caught up.
async fn current<K: Object>(server: &Server, key: &Key) -> Result<Arc<Value>, ApiError> {
    if let Some(object) = server.cache.get(K::RESOURCE, key) {
        return Ok(object);
    }
    server.cache.catch_up().await.map_err(|why| ApiError::unavailable(why.to_string()))?;
    server.cache.get(K::RESOURCE, key).ok_or_else(|| ApiError::not_found(K::RESOURCE, &key.name))
}

/// A write by this hook to an object, through the generic verbs.
fn write<K: Object>(server: &Arc<Server>, user: &User, key: Key, subresource: &str) -> Ask {
    let kind = server.kinds.of(K::RESOURCE).expect("a built-in kind is always served");
    Ask {
        server: server.clone(),
        rules: rules::rules(&kind.resource),
        kind,
        user: user.clone(),
        key,
        subresource: subresource.to_owned(),
        query: Default::default(),
        headers: HeaderMap::new(),
        manager: None,
    }
}

/// Rules of a write that this server makes itself: it changes what clients may not.
fn trusted(rules: Rules) -> Rules {
    Rules { prepare_update: |_, _| {}, validate_update: |_, _| Vec::new(), ..rules }
}

/// The answer to a create that stores nothing of its own.
fn success() -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201})
}
