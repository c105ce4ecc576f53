//! A store that encrypts what it gives to another one, and decrypts what it gets.

use std::{collections::HashMap, path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use daemon::reload::Reloading;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::{Encryption, EncryptionError, Writer};
use crate::{
    kinds::Kinds,
    store::{Batch, Change, Guard, Page, Past, Range, Record, Store, StoreError},
};

/// Batches that wait for the watch cache.
const WATCH_BUFFER: usize = 16;
/// While a KMS plugin does not answer, what it has to open is tried again.
const RETRY: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub struct Encrypted {
    store: Arc<dyn Store>,
    means: Arc<Means>,
}

struct Means {
    kinds: Arc<Kinds>,
    encryption: Reloading<Encryption>,
    /// Before each key, as upstream binds values to it: `/registry/`.
    root: String,
    /// Who wrote what, of the resources that are configured: what is of an old key is written anew even if it does
    /// not change.
    writers: Mutex<HashMap<String, Writer>>,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("it cannot be read")]
    Read(#[from] std::io::Error),
    #[error("{0}")]
    Content(String),
    #[error("its changes cannot be watched")]
    Watch(#[from] notify::Error),
}

impl Encrypted {
    /// `file`: the EncryptionConfiguration, read again when it changes. `prefix`: the store's, `/registry`.
    pub fn new(store: Arc<dyn Store>, kinds: Arc<Kinds>, file: &Path, prefix: &str) -> Result<Self, ConfigError> {
        let runtime = tokio::runtime::Handle::current();
        let read = file.to_owned();
        let encryption = Reloading::watch(&[file.to_owned()], move || {
            // The watcher of files has a thread of its own; connections live in the runtime.
            let _inside = runtime.enter();
            Encryption::parse(&std::fs::read_to_string(&read)?).map_err(ConfigError::Content)
        })?;
        let root = format!("/{}/", prefix.trim_matches('/'));
        Ok(Self { store, means: Arc::new(Means { kinds, encryption, root, writers: Mutex::default() }) })
    }
}

impl Means {
    /// The configuration's entry for a key.
    fn entry<'a>(&self, encryption: &'a Encryption, key: &str) -> Option<&'a super::Entry> {
        let table = self.kinds.table();
        let kind = table.of_key(key)?;
        encryption.of(&kind.resource)
    }

    fn path(&self, key: &str) -> String {
        format!("{}{key}", self.root)
    }

    async fn seal(&self, key: &str, value: Bytes) -> Result<Bytes, StoreError> {
        let encryption = self.encryption.current();
        let Some(entry) = self.entry(&encryption, key) else { return Ok(value) };
        let sealed = entry.seal(&self.path(key), &value).await;
        sealed.map(Bytes::from).map_err(|error| StoreError::Failed(format!("{key}: {error}")))
    }

    /// What cannot be decrypted stays as it is: then it is no object, and whoever reads it is told so.
    async fn open(&self, key: &str, value: Bytes) -> Result<Bytes, EncryptionError> {
        let encryption = self.encryption.current();
        let Some(entry) = self.entry(&encryption, key) else { return Ok(value) };
        match entry.open(&self.path(key), &value).await {
            Ok((plain, writer)) => {
                self.writers.lock().insert(key.to_owned(), writer);
                Ok(plain.into())
            }
            Err(error) if error.is_passing() => Err(error),
            Err(error) => {
                tracing::error!(key, %error, "a stored value cannot be read");
                Ok(value)
            }
        }
    }

    async fn record(&self, record: Record) -> Result<Record, StoreError> {
        let opened = self.open(&record.key, record.value).await;
        let value = opened.map_err(|error| StoreError::Unavailable(format!("{}: {error}", record.key)))?;
        Ok(Record { value, ..record })
    }

    async fn change(&self, change: Change) -> Result<Change, EncryptionError> {
        let Some(value) = change.value else {
            self.writers.lock().remove(&change.key);
            return Ok(change);
        };
        Ok(Change { value: Some(self.open(&change.key, value).await?), ..change })
    }

    /// Waits for whoever has to open a value, and until then lets nothing pass: events stay in order.
    async fn change_in_time(&self, change: Change) -> Change {
        loop {
            match self.change(change.clone()).await {
                Ok(change) => return change,
                Err(error) => tracing::warn!(key = change.key, %error, "waiting until it can be decrypted"),
            }
            tokio::time::sleep(RETRY).await;
        }
    }
}

#[async_trait]
impl Store for Encrypted {
    async fn get(&self, key: &str) -> Result<Option<Record>, StoreError> {
        match self.store.get(key).await? {
            Some(record) => Ok(Some(self.means.record(record).await?)),
            None => Ok(None),
        }
    }

    async fn range(&self, range: Range<'_>) -> Result<Page, StoreError> {
        let mut page = self.store.range(range).await?;
        let mut records = Vec::with_capacity(page.records.len());
        for record in page.records {
            records.push(self.means.record(record).await?);
        }
        page.records = records;
        Ok(page)
    }

    async fn put(&self, key: &str, value: Bytes, expected: u64, ttl_s: Option<i64>) -> Result<u64, StoreError> {
        let sealed = self.means.seal(key, value).await?;
        self.store.put(key, sealed, expected, ttl_s).await
    }

    async fn guard(&self, name: &str) -> Result<u64, StoreError> {
        self.store.guard(name).await
    }

    async fn put_guarded(
        &self,
        key: &str,
        value: Bytes,
        expected: u64,
        ttl_s: Option<i64>,
        guard: Guard<'_>,
    ) -> Result<u64, StoreError> {
        let sealed = self.means.seal(key, value).await?;
        self.store.put_guarded(key, sealed, expected, ttl_s, guard).await
    }

    async fn delete(&self, key: &str, expected: u64) -> Result<u64, StoreError> {
        self.store.delete(key, expected).await
    }

    async fn revision(&self) -> Result<u64, StoreError> {
        self.store.revision().await
    }

    async fn watch(&self, revision: u64) -> Result<mpsc::Receiver<Result<Batch, StoreError>>, StoreError> {
        let mut sealed = self.store.watch(revision).await?;
        let (sender, receiver) = mpsc::channel(WATCH_BUFFER);
        let means = self.means.clone();
        // Ends with its receiver, or with the watch below.
        tokio::spawn(async move {
            while let Some(batch) = sealed.recv().await {
                let opened = match batch {
                    Err(error) => Err(error),
                    Ok(batch) => {
                        let mut changes = Vec::with_capacity(batch.changes.len());
                        for change in batch.changes {
                            tokio::select! {
                                change = means.change_in_time(change) => changes.push(change),
                                () = sender.closed() => return,
                            }
                        }
                        Ok(Batch { changes, revision: batch.revision })
                    }
                };
                if sender.send(opened).await.is_err() {
                    return;
                }
            }
        });
        Ok(receiver)
    }

    async fn history(&self, after: u64, upto: u64) -> Result<Vec<Past>, StoreError> {
        let mut opened = Vec::new();
        for past in self.store.history(after, upto).await? {
            let change = self.means.change(past.change).await;
            let change = change.map_err(|error| StoreError::Unavailable(error.to_string()))?;
            let previous = match past.previous {
                Some(record) => Some(self.means.record(record).await?),
                None => None,
            };
            opened.push(Past { change, previous });
        }
        Ok(opened)
    }

    async fn compact(&self, revision: u64) -> Result<(), StoreError> {
        self.store.compact(revision).await
    }

    fn is_stale(&self, key: &str) -> bool {
        let encryption = self.means.encryption.current();
        let Some(entry) = self.means.entry(&encryption, key) else { return false };
        self.means.writers.lock().get(key).is_some_and(|writer| *writer != entry.writer())
    }
}
