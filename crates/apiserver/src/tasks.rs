//! What the server does beside requests: compaction of the store's history by the clock, notes of which
//! old tokens are still in use, and its own end.

use std::sync::Arc;

use api_types::{Key, jiff::Timestamp, resources};
use bytes::Bytes;
use serde_json::json;
use tokio::{sync::mpsc, time::sleep};

use crate::{
    authn::legacy_token::LAST_USED,
    server::Server,
    store::{Store, StoreError},
};

/// Begins to drain some time after the server was told to end: until then load balancers may learn from
/// readyz that it is leaving, and nobody is refused.
pub async fn drain(server: Arc<Server>) {
    server.terminating.cancelled().await;
    sleep(server.flags.shutdown_delay_duration).await;
    server.shutdown.cancel();
}

/// Says up to which revision history was forgotten last; upstream's name.
const COMPACTED: &str = "compact_rev_key";

/// Lets the store forget what is older than one interval. Of several servers one does it each time: who replaces
/// the note of the last time.
///
/// Source: apiserver/pkg/storage/etcd3/compact.go.
pub async fn compact(server: Arc<Server>) {
    let every = server.flags.etcd.etcd_compaction_interval;
    if every.is_zero() {
        return;
    }
    let (mut before, mut note) = (0, 0);
    loop {
        tokio::select! {
            () = sleep(every) => {}
            () = server.shutdown.cancelled() => return,
        }
        let now = server.cache.revision();
        match compact_in_turn(&*server.store, before, note).await {
            Ok(found) => note = found,
            Err(error) => tracing::info!(%error, revision = before, "the store's history was not compacted"),
        }
        before = now;
    }
}

/// Compacts if nobody has since the note of revision `note`. Returns the revision of the last note.
async fn compact_in_turn(store: &dyn Store, upto: u64, note: u64) -> Result<u64, StoreError> {
    let found = store.get(COMPACTED).await?.map_or(0, |record| record.revision);
    if found != note {
        return Ok(found);
    }
    let noted = match store.put(COMPACTED, Bytes::from(upto.to_string()), note, None).await {
        Err(StoreError::Conflict { found, .. }) => return Ok(found),
        noted => noted?,
    };
    if upto > 0 {
        store.compact(upto).await?;
    }
    Ok(noted)
}

/// Writes on the Secrets of tokens that never expire the day of their last use, so that unused ones can be found.
pub async fn note_used_tokens(server: Arc<Server>, mut used: mpsc::Receiver<Key>) {
    loop {
        let secret = tokio::select! {
            secret = used.recv() => secret,
            () = server.shutdown.cancelled() => return,
        };
        let Some(key) = secret else { return };
        let day = Timestamp::now().strftime("%Y-%m-%d").to_string();
        let written = server.update_own(&resources::SECRET, key.clone(), |secret| {
            secret["metadata"]["labels"][LAST_USED] = json!(day);
            Ok(())
        });
        if let Err(why) = written.await {
            tracing::debug!(secret = %key, %why, "the use of a token was not noted");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::embedded::Embedded;

    /// Two servers wake at the same intervals: history is compacted once each time.
    #[tokio::test]
    async fn one_of_two_compacts() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Embedded::open(folder.path()).await.expect("opens");
        for key in ["a", "b", "c"] {
            store.put(key, Bytes::new(), 0, None).await.expect("written");
        }
        let first = compact_in_turn(&store, 0, 0).await.expect("noted");
        assert_eq!(compact_in_turn(&store, 0, 0).await.expect("read"), first, "the second only learns of it");
        let second = compact_in_turn(&store, 3, first).await.expect("compacted");
        assert_eq!(compact_in_turn(&store, 4, first).await.expect("read"), second);
        assert!(store.history(2, 3).await.is_err(), "compacted to 3");
        assert!(store.history(3, 4).await.is_ok(), "not to 4");
    }
}
