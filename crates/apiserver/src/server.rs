//! What every request and every background task of the apiserver shares, and the server's
//! own reads and writes: the same verbs as a client's, as user `system:apiserver`.

use std::sync::Arc;

use api_types::{
    ApiError, Key, Resource,
    k8s::meta::DeleteOptions,
    options::{GetOptions, Query, WriteOptions},
};
use daemon::reload::Reloading;
use http::HeaderMap;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::{
    admission::Locks,
    allocate::Allocator,
    audit::Audit,
    authn::{Authenticator, User, token::Issuer},
    authz::Authorizer,
    fairness::Fairness,
    flags::Flags,
    health::Health,
    kinds::Kinds,
    metrics::Metrics,
    rules,
    store::Store,
    subresource::tunnel::Dialer,
    verbs::{Ask, Changed},
    watch_cache::Cache,
};

/// As whom the server's own writes are recorded in managedFields.
const OWN_MANAGER: &str = "kube-apiserver";

/// Tied together once in `assemble`, then shared.
pub struct Server {
    pub flags: Flags,
    pub kinds: Arc<Kinds>,
    pub store: Arc<dyn Store>,
    pub cache: Arc<Cache>,
    pub authenticator: Authenticator,
    pub authorizer: Authorizer,
    /// `None`: requests are only counted.
    pub fairness: Option<Arc<Fairness>>,
    /// `None`: nothing is audited.
    pub audit: Option<Arc<Audit>>,
    /// Signs ServiceAccount tokens; `None` without a signing key.
    pub issuer: Option<Reloading<Issuer>>,
    pub allocator: Arc<Allocator>,
    /// Turns of writes that count against quotas, by namespace.
    pub quotas: Locks,
    /// To kubelets, pods and services.
    pub dialer: Dialer,
    pub health: Health,
    pub metrics: Metrics,
    /// Cancelled when the server is told to end: readyz fails, everything else goes on for a while.
    pub terminating: CancellationToken,
    /// Cancelled when the server begins to drain.
    pub shutdown: CancellationToken,
    /// Cancelled when the last request has been answered: until then the cache has to follow.
    pub drained: CancellationToken,
}

impl Server {
    /// The server's own request for an object or, with an empty name, a collection.
    pub fn own(self: &Arc<Self>, resource: &Resource, key: Key) -> Result<Ask, ApiError> {
        let kind = self.kinds.of(resource).ok_or_else(ApiError::unknown_resource)?;
        Ok(Ask {
            server: self.clone(),
            rules: rules::rules(&kind.resource),
            kind,
            user: User::apiserver(),
            key,
            subresource: String::new(),
            query: Query::default(),
            headers: HeaderMap::new(),
            manager: Some(OWN_MANAGER.to_owned()),
        })
    }

    /// The object as nobody has a newer one.
    pub async fn read_own(self: &Arc<Self>, resource: &Resource, key: Key) -> Result<Arc<Value>, ApiError> {
        Ok(self.own(resource, key)?.read(&GetOptions::default()).await?.value())
    }

    /// Creates `object`; its namespace says where.
    pub async fn create_own(self: &Arc<Self>, resource: &Resource, object: Value) -> Result<Arc<Value>, ApiError> {
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
        let ask = self.own(resource, Key::new(namespace, ""))?;
        Ok(ask.create_object(object, &WriteOptions::default()).await?.item.value())
    }

    /// Changes an object by a pure function, again if somebody else was in between.
    pub async fn update_own(
        self: &Arc<Self>,
        resource: &Resource,
        key: Key,
        change: impl Fn(&mut Value) -> Result<(), ApiError> + Send + Sync,
    ) -> Result<Arc<Value>, ApiError> {
        let ask = self.own(resource, key)?;
        let change = |old: &Value| {
            let mut object = old.clone();
            change(&mut object)?;
            Ok(Changed::new(object))
        };
        Ok(ask.update(&change, &WriteOptions::default()).await?.item.value())
    }

    pub async fn delete_own(
        self: &Arc<Self>,
        resource: &Resource,
        key: Key,
        options: &DeleteOptions,
    ) -> Result<(), ApiError> {
        self.own(resource, key)?.delete_object(options).await.map(|_| ())
    }
}
