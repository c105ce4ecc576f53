//! Everything that is stored, in memory and current: one watch over the whole store feeds
//! a shelf per resource in revision order. Lists and gets take no lock; a consistent one
//! costs a cheap read of the store's revision, shared by all who wait for it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use api_types::{Key, Resource};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::{
    kinds::{Kind, Kinds, Storage},
    reader::{Changes, OnChange, Reader},
    rules,
    store::{Batch, Range, Record, Store, StoreError},
};

pub mod item;
mod shelf;
pub mod window;

pub use item::Item;
pub use shelf::{Mark, Shelf, Snapshot, label_mark};

/// Revisions of the store's history that are read back for watches from before the cache was loaded.
const HISTORY_MAX: u64 = 10_000;
/// Keys read at once when the cache is loaded.
const LOAD_PAGE: u64 = 2_000;
/// How long a read waits for the cache to reach a revision; upstream's figure.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(3);
/// Between tries to load, doubling from the first to the second.
const RELOAD_PAUSE_MIN: Duration = Duration::from_millis(50);
const RELOAD_PAUSE_MAX: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The cache has not reached the revision in time.
    #[error("Too large resource version: {wanted}, current: {current}")]
    Behind { wanted: u64, current: u64 },
}

/// See the module's text.
pub struct Cache {
    store: Arc<dyn Store>,
    kinds: Arc<Kinds>,
    shelves: Arc<Shelves>,
    applied: Applied,
    probe: Probe,
    loaded: AtomicBool,
    /// Held while the history is read back, so that it is done once.
    history: tokio::sync::Mutex<()>,
}

impl Cache {
    pub fn new(store: Arc<dyn Store>, kinds: Arc<Kinds>) -> Self {
        let table = kinds.table();
        let shelves = table.rows().iter().map(|kind| {
            let rules = rules::rules(&kind.storage.resource);
            (kind.storage.prefix.clone(), Arc::new(Shelf::new(rules.selectable, rules.indexed)))
        });
        let shelves = shelves.collect();
        Self {
            store,
            kinds,
            shelves: Arc::new(Shelves(shelves)),
            applied: Applied::default(),
            probe: Probe::default(),
            loaded: false.into(),
            history: Default::default(),
        }
    }

    /// Follows the store until `shutdown`.
    pub async fn run(&self, shutdown: CancellationToken) {
        let mut pause = RELOAD_PAUSE_MIN;
        loop {
            let followed = tokio::select! {
                () = shutdown.cancelled() => return,
                revision = self.load() => match revision {
                    Ok(revision) => {
                        pause = RELOAD_PAUSE_MIN;
                        self.follow(revision, &shutdown).await
                    }
                    Err(error) => Err(error),
                },
            };
            if let Err(error) = followed {
                tracing::warn!(%error, "the watch cache cannot follow the store and starts again");
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RELOAD_PAUSE_MAX);
        }
    }

    /// Applies changes after `revision` until the store has forgotten them, which is an error, or `shutdown`.
    async fn follow(&self, revision: u64, shutdown: &CancellationToken) -> Result<(), StoreError> {
        let mut batches = self.store.watch(revision + 1).await?;
        while let Some(Some(batch)) = shutdown.run_until_cancelled(batches.recv()).await {
            self.apply(batch?);
        }
        Ok(())
    }

    async fn load(&self) -> Result<u64, StoreError> {
        let (mut start, mut revision) = (String::new(), 0);
        let mut pages = Vec::new();
        loop {
            let range = Range { prefix: "", start: &start, limit: LOAD_PAGE, revision };
            let page = self.store.range(range).await?;
            revision = page.revision;
            let next = page.records.last().filter(|_| page.remaining > 0).map(|last| format!("{}\0", last.key));
            // Read while the next one is fetched, on every core.
            let shelves = self.shelves.clone();
            pages.push(tokio::task::spawn_blocking(move || shelves.read(page.records)));
            let Some(next) = next else { break };
            start = next;
        }
        let mut items: HashMap<usize, Vec<Arc<Item>>> = HashMap::new();
        for page in pages {
            for (shelf, item) in page.await.map_err(|error| StoreError::Failed(error.to_string()))? {
                items.entry(shelf).or_default().push(item);
            }
        }
        for shelf in self.shelves.0.values() {
            shelf.load(items.remove(&identity(shelf)).unwrap_or_default(), revision);
        }
        self.applied.advance(revision);
        self.loaded.store(true, Ordering::Release);
        Ok(revision)
    }

    fn apply(&self, batch: Batch) {
        for change in batch.changes {
            if let Some((shelf, rest)) = self.shelves.locate(&change.key) {
                shelf.apply(rest, change.revision, change.value);
            }
        }
        self.applied.advance(batch.revision);
    }

    /// It has everything from the store at least once.
    pub fn is_loaded(&self) -> bool {
        self.loaded.load(Ordering::Acquire)
    }

    /// The last revision whose changes are all here.
    pub fn revision(&self) -> u64 {
        self.applied.revision()
    }

    pub fn shelf(&self, storage: &Storage) -> &Arc<Shelf> {
        self.shelves.0.get(&storage.prefix).expect("every row of the table has a shelf")
    }

    /// The objects, and the revision that they are the state of.
    pub fn snapshot(&self, storage: &Storage) -> (Arc<Snapshot>, u64) {
        // In this order: whatever was applied by now is in the snapshot that is loaded next.
        let applied = self.revision();
        let snapshot = self.shelf(storage).snapshot();
        let revision = applied.max(snapshot.revision);
        (snapshot, revision)
    }

    /// Waits until the cache shows everything that was acknowledged before this call.
    pub async fn catch_up(&self) -> Result<(), CacheError> {
        let revision = self.probe.revision(&*self.store).await?;
        self.wait_for(revision).await
    }

    /// Waits until the cache shows the state at `revision`.
    pub async fn wait_for(&self, revision: u64) -> Result<(), CacheError> {
        let reached = self.applied.reached(revision);
        match tokio::time::timeout(CATCH_UP_TIMEOUT, reached).await {
            Ok(()) => Ok(()),
            Err(_) => Err(CacheError::Behind { wanted: revision, current: self.revision() }),
        }
    }

    /// Makes the windows begin after `revision`, out of the store's history. After a restart of this server that
    /// lets every watch go on where it was. Does nothing if the history is too long or gone.
    pub async fn reach_back(&self, storage: &Storage, revision: u64) {
        let _only_one = self.history.lock().await;
        let Some(floor) = self.shelf(storage).may_extend() else { return };
        if revision >= floor || floor - revision > HISTORY_MAX {
            return;
        }
        let past = match self.store.history(revision, floor).await {
            Ok(past) => past,
            Err(error) => return tracing::info!(%error, revision, "the history is not to be had"),
        };
        let mut by_shelf: HashMap<usize, Vec<_>> = HashMap::new();
        for past in &past {
            if let Some((shelf, rest)) = self.shelves.locate(&past.change.key) {
                by_shelf.entry(identity(shelf)).or_default().push((rest, past));
            }
        }
        for shelf in self.shelves.0.values() {
            shelf.extend(revision, by_shelf.remove(&identity(shelf)).unwrap_or_default());
        }
    }

    fn served(&self, resource: &Resource) -> Option<(Arc<Kind>, Arc<Snapshot>)> {
        let kind = self.kinds.of(resource)?;
        let snapshot = self.shelf(&kind.storage).snapshot();
        Some((kind, snapshot))
    }
}

/// By the prefixes of their keys.
struct Shelves(HashMap<String, Arc<Shelf>>);

impl Shelves {
    /// The shelf that a key belongs to, and the key's rest. Prefixes have one or two segments.
    fn locate<'k>(&self, key: &'k str) -> Option<(&Arc<Shelf>, &'k str)> {
        let (first, rest) = key.split_once('/')?;
        if let Some(shelf) = self.0.get(first) {
            return Some((shelf, rest));
        }
        let at = first.len() + 1 + rest.find('/')?;
        Some((self.0.get(&key[..at])?, &key[at + 1..]))
    }

    /// Items with the identities of their shelves.
    fn read(&self, records: Vec<Record>) -> Vec<(usize, Arc<Item>)> {
        let items = records.into_iter().filter_map(|record| {
            let (shelf, rest) = self.locate(&record.key)?;
            Some((identity(shelf), Arc::new(shelf.item(rest, record.revision, record.value))))
        });
        items.collect()
    }
}

fn identity(shelf: &Arc<Shelf>) -> usize {
    Arc::as_ptr(shelf).addr()
}

fn shown(kind: &Kind, item: &Item) -> Arc<Value> {
    match kind.view {
        None => item.value(),
        Some(view) => {
            let mut value = item.decode();
            (view.from_stored)(&mut value);
            Arc::new(value)
        }
    }
}

impl Reader for Cache {
    fn get(&self, resource: &Resource, key: &Key) -> Option<Arc<Value>> {
        let (kind, snapshot) = self.served(resource)?;
        snapshot.get(key).map(|item| shown(&kind, item))
    }

    fn list(&self, resource: &Resource, namespace: &str) -> Vec<Arc<Value>> {
        let Some((kind, snapshot)) = self.served(resource) else { return Vec::new() };
        snapshot.range(namespace, "", &[]).map(|item| shown(&kind, item)).collect()
    }
}

impl Changes for Cache {
    fn subscribe(&self, resource: &Resource, on_change: OnChange) {
        if let Some(kind) = self.kinds.of(resource) {
            self.shelf(&kind.storage).subscribe(on_change);
        }
    }
}

/// How far the cache has come, and who waits for more.
#[derive(Default)]
struct Applied {
    revision: AtomicU64,
    waiting: Mutex<BTreeMap<u64, Vec<oneshot::Sender<()>>>>,
}

impl Applied {
    fn revision(&self) -> u64 {
        self.revision.load(Ordering::Acquire)
    }

    fn advance(&self, revision: u64) {
        let mut waiting = self.waiting.lock();
        self.revision.fetch_max(revision, Ordering::AcqRel);
        let still = waiting.split_off(&(revision + 1));
        for waiter in std::mem::replace(&mut *waiting, still).into_values().flatten() {
            // An Err is a waiter that gave up.
            let _ = waiter.send(());
        }
    }

    async fn reached(&self, revision: u64) {
        let receiver = {
            let mut waiting = self.waiting.lock();
            if self.revision() >= revision {
                return;
            }
            let (sender, receiver) = oneshot::channel();
            waiting.entry(revision).or_default().push(sender);
            receiver
        };
        if receiver.await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Asks the store for its revision, once for all who came before the question was sent.
#[derive(Default)]
struct Probe {
    arrivals: AtomicU64,
    last: tokio::sync::Mutex<LastProbe>,
}

#[derive(Default)]
struct LastProbe {
    /// Arrivals before this one are answered by `result`.
    covers: u64,
    result: Option<Result<u64, String>>,
}

impl Probe {
    async fn revision(&self, store: &dyn Store) -> Result<u64, StoreError> {
        let arrival = self.arrivals.fetch_add(1, Ordering::AcqRel);
        let mut last = self.last.lock().await;
        if arrival < last.covers
            && let Some(result) = &last.result
        {
            return result.clone().map_err(StoreError::Unavailable);
        }
        last.covers = self.arrivals.load(Ordering::Acquire);
        last.result = None;
        let result = store.revision().await;
        last.result = Some(result.as_ref().map_err(ToString::to_string).copied());
        result
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn waiters_wake_when_their_revision_is_reached() {
        let applied = Applied::default();
        applied.advance(3);
        assert!(applied.reached(3).now_or_never().is_some());
        let mut four = Box::pin(applied.reached(4));
        let mut nine = Box::pin(applied.reached(9));
        assert!((&mut four).now_or_never().is_none() && (&mut nine).now_or_never().is_none());
        applied.advance(5);
        assert!((&mut four).now_or_never().is_some() && (&mut nine).now_or_never().is_none());
        applied.advance(9);
        nine.await;
    }
}
