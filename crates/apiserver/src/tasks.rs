//! What the server does by the clock: compaction of the store's history, and its own end.

use std::sync::Arc;

use tokio::time::sleep;

use crate::server::Server;

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
