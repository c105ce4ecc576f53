//! A store that times another one: how long each operation took, by resource.

use std::{sync::Arc, time::Instant};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc;
use tracing::Instrument;

use super::{Batch, Guard, Page, Past, Range, Record, Store, StoreError};
use crate::{kinds::Kinds, metrics::Metrics};

pub struct Timed {
    store: Arc<dyn Store>,
    kinds: Arc<Kinds>,
    metrics: Metrics,
}

impl Timed {
    pub fn new(store: Arc<dyn Store>, kinds: Arc<Kinds>, metrics: Metrics) -> Self {
        Self { store, kinds, metrics }
    }

    async fn timed<T>(
        &self,
        operation: &'static str,
        key: &str,
        work: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        let begun = Instant::now();
        let result = work.instrument(tracing::debug_span!("store", operation, key)).await;
        let table = self.kinds.table();
        let kind = table.of_key(key);
        let is_error = matches!(result, Err(StoreError::Unavailable(_) | StoreError::Failed(_)));
        self.metrics.stored(operation, kind.map(|kind| &kind.resource), is_error, begun.elapsed());
        result
    }
}

#[async_trait]
impl Store for Timed {
    async fn get(&self, key: &str) -> Result<Option<Record>, StoreError> {
        self.timed("get", key, self.store.get(key)).await
    }
    async fn range(&self, range: Range<'_>) -> Result<Page, StoreError> {
        let prefix = range.prefix;
        self.timed("list", prefix, self.store.range(range)).await
    }
    async fn put(&self, key: &str, value: Bytes, expected: u64, ttl_s: Option<i64>) -> Result<u64, StoreError> {
        let operation = if expected == 0 { "create" } else { "update" };
        self.timed(operation, key, self.store.put(key, value, expected, ttl_s)).await
    }
    async fn guard(&self, name: &str) -> Result<u64, StoreError> {
        self.timed("guard", "", self.store.guard(name)).await
    }
    async fn put_guarded(
        &self,
        key: &str,
        value: Bytes,
        expected: u64,
        ttl_s: Option<i64>,
        guard: Guard<'_>,
    ) -> Result<u64, StoreError> {
        let operation = if expected == 0 { "create" } else { "update" };
        self.timed(operation, key, self.store.put_guarded(key, value, expected, ttl_s, guard)).await
    }
    async fn delete(&self, key: &str, expected: u64) -> Result<u64, StoreError> {
        self.timed("delete", key, self.store.delete(key, expected)).await
    }
    async fn revision(&self) -> Result<u64, StoreError> {
        self.timed("getCurrentResourceVersion", "", self.store.revision()).await
    }
    async fn watch(&self, revision: u64) -> Result<mpsc::Receiver<Result<Batch, StoreError>>, StoreError> {
        self.store.watch(revision).await
    }
    async fn history(&self, after: u64, upto: u64) -> Result<Vec<Past>, StoreError> {
        self.timed("history", "", self.store.history(after, upto)).await
    }
    async fn compact(&self, revision: u64) -> Result<(), StoreError> {
        self.timed("compact", "", self.store.compact(revision)).await
    }
    fn is_stale(&self, key: &str) -> bool {
        self.store.is_stale(key)
    }
}
