//! The embedded store alone: its file, its lock, its memory of what has to vanish.

use std::{os::unix::fs::PermissionsExt, path::Path, sync::Arc};

use apiserver::store::{
    Range, Store,
    embedded::{Embedded, OpenError},
};
use tempfile::TempDir;
use tokio::sync::Mutex;

use super::{put, suite::Fixture, value};

pub struct Folder {
    folder: TempDir,
    store: Mutex<Option<Arc<Embedded>>>,
}

impl Folder {
    pub async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path()).await;
        Self { folder, store: Mutex::new(Some(Arc::new(store))) }
    }
}

impl Fixture for Folder {
    async fn store(&self) -> Arc<dyn Store> {
        self.store.lock().await.clone().expect("open")
    }
    async fn restart(&mut self) {
        let mut store = self.store.lock().await;
        *store = None;
        *store = Some(Arc::new(open(self.folder.path()).await));
    }
}

/// Once the one before has let go of the file: its tasks end by themselves.
async fn open(folder: &Path) -> Embedded {
    loop {
        match Embedded::open(folder).await {
            Err(OpenError::InUse(_)) => tokio::task::yield_now().await,
            opened => return opened.unwrap(),
        }
    }
}

#[tokio::test]
async fn the_file_is_for_one_process_and_its_owner() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let _store = Embedded::open(&data).await.unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&data), mode(&data.join("store.redb"))), (0o700, 0o600));
    let second = Embedded::open(&data).await.err().expect("refused").to_string();
    assert!(second.contains("used by another process") && second.contains(data.to_str().unwrap()), "{second}");
}

/// A long history is forgotten in steps between which others write; what lives stays.
#[tokio::test]
async fn compaction_takes_many_steps_and_keeps_what_lives() {
    let mut folder = Folder::new().await;
    let store = folder.store().await;
    let old = put(&*store, "pods/n/old", "lives", 0).await;
    let mut revision = put(&*store, "pods/n/busy", "0", 0).await;
    for turn in 1..2_500 {
        revision = put(&*store, "pods/n/busy", &turn.to_string(), revision).await;
    }
    let deleted = store.delete("pods/n/busy", revision).await.unwrap();
    store.compact(deleted).await.unwrap();
    let after = put(&*store, "pods/n/after", "x", 0).await;
    drop(store);
    folder.restart().await;
    let store = folder.store().await;
    let page = store.range(Range { prefix: "pods/", ..Range::default() }).await.unwrap();
    let found: Vec<_> = page.records.iter().map(|record| (record.key.as_str(), record.revision)).collect();
    assert_eq!(found, [("pods/n/after", after), ("pods/n/old", old)]);
    assert_eq!(store.history(deleted, after).await.unwrap().len(), 1);
    let at = store.range(Range { prefix: "pods/", revision: deleted, ..Range::default() }).await.unwrap();
    assert_eq!(at.records.len(), 1, "the state at the compacted revision is still to be had");
}

#[tokio::test]
async fn what_has_to_vanish_is_remembered_across_a_restart() {
    let mut folder = Folder::new().await;
    let store = folder.store().await;
    let mut watch = store.watch(2).await.unwrap();
    store.put("leases/a", value("x"), 0, Some(1)).await.unwrap();
    super::until(&mut watch, 2).await;
    drop((store, watch));
    folder.restart().await;
    let store = folder.store().await;
    let mut watch = store.watch(3).await.unwrap();
    let deleted = super::until(&mut watch, 3).await;
    assert_eq!((deleted[0].key.as_str(), deleted[0].value.as_ref()), ("leases/a", None));
}
