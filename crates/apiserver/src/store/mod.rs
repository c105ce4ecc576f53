//! The store: keys, bytes and revisions. Everything above speaks of objects, everything
//! below of etcd, which only [`etcd`] names, or of a file of this process ([`embedded`]).

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc;

pub mod embedded;
pub mod etcd;
pub mod timed;

/// A stored value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Without the store's prefix and its slash: `pods/default/a`.
    pub key: String,
    pub value: Bytes,
    /// Of the last write of this key.
    pub revision: u64,
}

/// Part of a range, in key order.
#[derive(Clone, Debug)]
pub struct Page {
    pub records: Vec<Record>,
    /// Of the whole store, at which the page was read.
    pub revision: u64,
    /// Records of the range that follow this page.
    pub remaining: u64,
}

/// What a range read is to return.
#[derive(Clone, Debug, Default)]
pub struct Range<'a> {
    /// Only keys that start with this.
    pub prefix: &'a str,
    /// Only keys from here on; empty: from the prefix on.
    pub start: &'a str,
    /// 0: no limit.
    pub limit: u64,
    /// 0: the latest, read with consensus.
    pub revision: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub key: String,
    pub revision: u64,
    /// `None`: deleted.
    pub value: Option<Bytes>,
    /// The key did not exist before.
    pub is_create: bool,
}

/// A change with the state before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Past {
    pub change: Change,
    pub previous: Option<Record>,
}

/// Changes in revision order. All changes of one revision are in one batch.
#[derive(Clone, Debug)]
pub struct Batch {
    pub changes: Vec<Change>,
    /// Everything up to here has been sent.
    pub revision: u64,
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// Another writer was first: the key exists (`expected` 0), is gone (`found` 0) or newer.
    #[error("{key} is at revision {found}, not {expected}")]
    Conflict { key: String, expected: u64, found: u64 },
    /// The revision was compacted away.
    #[error("revision is older than the oldest kept one, {oldest}")]
    Compacted { oldest: u64 },
    #[error("revision is in the future")]
    FutureRevision,
    /// Another guarded write was first; the caller looks again at what it decided from.
    #[error("another write under the guard {guard} was first")]
    Outrun { guard: String },
    #[error("{0}")]
    TooLarge(String),
    /// The write may or may not have happened, and reading back did not tell.
    #[error("the store did not answer: {0}")]
    Unavailable(String),
    #[error("the store failed: {0}")]
    Failed(String),
}

/// Writes under one guard happen one after the other, whichever apiserver asks for them: each names the last one
/// that it took into account, and happens only if there is no later one.
#[derive(Clone, Copy, Debug)]
pub struct Guard<'a> {
    pub name: &'a str,
    pub revision: u64,
}

/// Where objects live. Every write is a compare-and-swap; an unknown outcome is resolved by reading before it is
/// reported.
#[async_trait]
pub trait Store: Send + Sync {
    /// The latest value, read with consensus.
    async fn get(&self, key: &str) -> Result<Option<Record>, StoreError>;
    async fn range(&self, range: Range<'_>) -> Result<Page, StoreError>;
    /// Writes `value` if the key is at `expected` (0: does not exist). `ttl_s`: vanishes by itself about then.
    async fn put(&self, key: &str, value: Bytes, expected: u64, ttl_s: Option<i64>) -> Result<u64, StoreError>;
    /// The revision of the last write under a guard; 0 if there was none.
    async fn guard(&self, name: &str) -> Result<u64, StoreError>;
    /// As [`put`](Self::put), under a guard.
    async fn put_guarded(
        &self,
        key: &str,
        value: Bytes,
        expected: u64,
        ttl_s: Option<i64>,
        guard: Guard<'_>,
    ) -> Result<u64, StoreError>;
    /// Deletes the key if it is at `expected`. Returns the revision of the deletion.
    async fn delete(&self, key: &str, expected: u64) -> Result<u64, StoreError>;
    /// The current revision, with consensus: nothing acknowledged before this call is newer.
    async fn revision(&self) -> Result<u64, StoreError>;
    /// Changes of the whole store from `revision` on, until the receiver is dropped. Survives lost connections; ends
    /// with an error that is not worth retrying (compacted, refused).
    async fn watch(&self, revision: u64) -> Result<mpsc::Receiver<Result<Batch, StoreError>>, StoreError>;
    /// The changes after revision `after` up to `upto`, which is one that the store has reached.
    async fn history(&self, after: u64, upto: u64) -> Result<Vec<Past>, StoreError>;
    /// Forgets the history before `revision`.
    async fn compact(&self, revision: u64) -> Result<(), StoreError>;
    /// The value is right, but is to be written anew at the next chance (its key was rotated out).
    fn is_stale(&self, _key: &str) -> bool {
        false
    }
}
