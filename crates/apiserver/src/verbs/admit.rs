//! Where a write passes admission: before it is validated, to be changed, and after, to
//! be refused.

use std::time::Duration;

use api_types::{ApiError, Key, names};
use bytes::Bytes;
use serde_json::Value;
use tokio::{sync::OwnedMutexGuard, time};

use super::{
    Ask,
    read::{cache_refusal, store_refusal},
};
pub use crate::admission::Operation;
use crate::{
    admission::{self, Attributes},
    audit,
    store::{Guard, StoreError},
};

/// How long a pod waits for its new namespace's account, which a controller makes.
const ACCOUNT_WAIT: Duration = Duration::from_secs(1);

/// How often a write is counted again because another apiserver let one in.
pub(super) const COUNTS_MAX: u32 = 50;

/// A write's turn to be counted against its namespace's quotas.
pub(super) struct Turn {
    /// Among the writes of this apiserver.
    _lock: OwnedMutexGuard<()>,
    /// Among those of all.
    guard: String,
    revision: u64,
}

/// After [`COUNTS_MAX`].
pub(super) fn outrun(key: &Key) -> ApiError {
    ApiError::internal(format!("{key}: other apiservers' writes were counted first {COUNTS_MAX} times"))
}

impl Ask {
    #[tracing::instrument(level = "debug", name = "admission", skip_all, fields(stage = "mutate"))]
    pub(super) async fn mutate(
        &self,
        operation: Operation,
        key: &Key,
        object: &mut Value,
        old: Option<&Value>,
        _dry_run: bool,
    ) -> Result<Vec<String>, ApiError> {
        let suffix = names::generated("", rand::random());
        let attributes = self.attributes(operation, key, old, &suffix);
        let cache = &*self.server.cache;
        if admission::mutate(&attributes, object, cache).is_ok() {
            return Ok(Vec::new());
        }
        // What is refused for something that is missing may be there by now. Filling in twice is filling in once.
        self.catch_up().await?;
        let mut outcome = admission::mutate(&attributes, object, cache);
        let deadline = time::Instant::now() + ACCOUNT_WAIT;
        while outcome.as_ref().is_err_and(|error| error.message().ends_with(admission::MISSING_DEFAULT_ACCOUNT)) {
            let change = cache.wait_for(cache.revision() + 1);
            if !matches!(time::timeout_at(deadline, change).await, Ok(Ok(()))) {
                break;
            }
            outcome = admission::mutate(&attributes, object, cache);
        }
        outcome.map(|()| Vec::new())
    }

    #[tracing::instrument(level = "debug", name = "admission", skip_all, fields(stage = "validate"))]
    pub(super) async fn validate(
        &self,
        operation: Operation,
        key: &Key,
        object: Option<&Value>,
        old: Option<&Value>,
        _dry_run: bool,
    ) -> Result<Vec<String>, ApiError> {
        let attributes = self.attributes(operation, key, old, "");
        let cache = &*self.server.cache;
        audit::note(|notes| {
            for (key, value) in object.into_iter().flat_map(|object| admission::annotations(&attributes, object, cache))
            {
                notes.annotate(key, value);
            }
        });
        admission::validate(&attributes, object, cache)?;
        Ok(object.and_then(|object| admission::warning(&attributes, object, cache)).into_iter().collect())
    }

    /// What a write must hold while it is counted against quotas, from before it is validated until it is stored
    /// and visible: nothing, where there is no quota. What other apiservers have let in before is counted, what
    /// they let in meanwhile makes [`store`](Self::store) fail.
    pub(super) async fn quota_turn(&self, operation: Operation, key: &Key) -> Result<Option<Turn>, ApiError> {
        let attributes = self.attributes(operation, key, None, "");
        let Some(namespace) = admission::charged_namespace(&attributes, &*self.server.cache) else { return Ok(None) };
        let lock = self.server.quotas.lock(namespace).await;
        let guard = format!("quota/{namespace}");
        let revision = self.server.store.guard(&guard).await.map_err(|error| store_refusal(&error))?;
        self.server.cache.wait_for(revision).await.map_err(cache_refusal)?;
        Ok(Some(Turn { _lock: lock, guard, revision }))
    }

    /// Writes what was counted, if nothing was counted since.
    pub(super) async fn store(
        &self,
        key: &str,
        value: Bytes,
        expected: u64,
        turn: Option<&Turn>,
    ) -> Result<u64, StoreError> {
        let (store, ttl_s) = (&self.server.store, self.kind.storage.ttl_s);
        let Some(turn) = turn else { return store.put(key, value, expected, ttl_s).await };
        let guard = Guard { name: &turn.guard, revision: turn.revision };
        store.put_guarded(key, value, expected, ttl_s, guard).await
    }

    fn attributes<'a>(
        &'a self,
        operation: Operation,
        key: &'a Key,
        old: Option<&'a Value>,
        suffix: &'a str,
    ) -> Attributes<'a> {
        let (user, resource, subresource) = (&self.user, &self.kind.resource, self.subresource.as_str());
        let access = &self.server.flags.access;
        let (enabled, disabled) = (&access.enable_admission_plugins, &access.disable_admission_plugins);
        Attributes { user, resource, subresource, operation, key, old, suffix, enabled, disabled }
    }
}
