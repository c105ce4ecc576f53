//! What the server does beside requests: compaction of the store's history by the clock, notes of which
//! old tokens are still in use, and its own end.

use std::sync::Arc;

use api_types::{Key, jiff::Timestamp, resources};
use serde_json::json;
use tokio::{sync::mpsc, time::sleep};

use crate::{authn::legacy_token::LAST_USED, server::Server};

/// Begins to drain some time after the server was told to end: until then load balancers may learn from
/// readyz that it is leaving, and nobody is refused.
pub async fn drain(server: Arc<Server>) {
    server.terminating.cancelled().await;
    sleep(server.flags.shutdown_delay_duration).await;
    server.shutdown.cancel();
}

/// Lets the store forget what is older than one interval. Several servers do no harm to each other.
pub async fn compact(server: Arc<Server>) {
    let every = server.flags.etcd.etcd_compaction_interval;
    if every.is_zero() {
        return;
    }
    let mut before = 0;
    loop {
        tokio::select! {
            () = sleep(every) => {}
            () = server.shutdown.cancelled() => return,
        }
        let now = server.cache.revision();
        if before > 0
            && let Err(error) = server.store.compact(before).await
        {
            tracing::info!(%error, revision = before, "the store's history was not compacted");
        }
        before = now;
    }
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
