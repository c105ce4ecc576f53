//! What every store promises, as one suite that runs over a real etcd and over the embedded
//! store, and what concerns one of them alone. Tests of etcd are skipped, and say so, where
//! there is none.

use std::time::Duration;

use apiserver::store::{Change, Store, StoreError};
use bytes::Bytes;
use tokio::{sync::mpsc, time::timeout};

mod embedded;
mod etcd;
mod members;
mod proxy;
mod suite;
mod unanswered;

const PATIENCE: Duration = Duration::from_secs(30);

fn value(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

async fn put(store: &dyn Store, key: &str, text: &str, expected: u64) -> u64 {
    store.put(key, value(text), expected, None).await.expect("stored")
}

type Changes = mpsc::Receiver<Result<apiserver::store::Batch, StoreError>>;

/// Changes until one has the revision `upto`.
async fn until(watch: &mut Changes, upto: u64) -> Vec<Change> {
    let mut seen: Vec<Change> = Vec::new();
    while seen.last().is_none_or(|last| last.revision < upto) {
        let batch = timeout(PATIENCE, watch.recv()).await.expect("in time").expect("goes on").expect("no refusal");
        seen.extend(batch.changes);
    }
    seen
}
