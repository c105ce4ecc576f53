//! Where the Service `kubernetes` leads: to every apiserver that lives. Each keeps a lease under
//! its address in the store, and all write the same list of the leases that stand.
//!
//! Source: `leaseEndpointReconciler` in kubernetes/pkg/controlplane/reconcilers/lease.go.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use api_types::Key;
use bytes::Bytes;
use serde_json::json;
use tokio::{
    sync::Notify,
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use super::{ensure, objects};
use crate::{
    reader::Changes,
    server::Server,
    store::{Range, Store, StoreError},
};

const PREFIX: &str = "masterleases/";
/// Upstream's interval and lease.
const INTERVAL: Duration = Duration::from_secs(10);
const LEASE_S: i64 = 15;
/// Between looks at the others' leases: one that has run out is noticed within this.
const LOOK: Duration = Duration::from_secs(2);
/// A server that stops does not wait for a store that does not answer.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(2);
/// Servers that disagree must not answer each other at the speed of the network.
const PAUSE: Duration = Duration::from_secs(1);

/// Takes the lease and writes the endpoints once.
pub async fn start(server: &Arc<Server>, own: SocketAddr) {
    if let Err(why) = renew(&*server.store, own.ip()).await {
        tracing::warn!(%why, "this server's lease was not written");
    }
    reconcile(server, own).await;
}

/// Renews the lease, and writes the endpoints again whenever a server came or went, or somebody changed them.
pub async fn keep(server: &Arc<Server>, own: SocketAddr) {
    let changed = Arc::new(Notify::new());
    for wanted in objects::kubernetes_endpoints(own, &[own.ip()]) {
        let changed = changed.clone();
        let key = Key::new("default", "kubernetes");
        server.cache.subscribe(
            wanted.resource,
            Box::new(move |touched, _| {
                if *touched == key {
                    changed.notify_one();
                }
            }),
        );
    }
    let mut turns = interval(INTERVAL);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut known = Vec::new();
    loop {
        tokio::select! {
            _ = turns.tick() => {
                if let Err(why) = renew(&*server.store, own.ip()).await {
                    tracing::warn!(%why, "this server's lease was not renewed");
                }
            }
            () = changed.notified() => sleep(PAUSE).await,
            _ = looks.tick() => match live(&*server.store).await {
                Ok(live) if live != known => known = live,
                Ok(_) | Err(_) => continue,
            }
        }
        reconcile(server, own).await;
    }
}

/// Says goodbye: the others' clients need not find out by waiting. The last server leaves the list as it is.
pub async fn leave(server: &Arc<Server>, own: SocketAddr) {
    let store = &*server.store;
    let key = format!("{PREFIX}{}", own.ip());
    let left = async {
        if let Some(record) = store.get(&key).await? {
            store.delete(&key, record.revision).await?;
        }
        Ok::<_, StoreError>(())
    };
    let farewell = async {
        match left.await {
            Ok(()) => reconcile(server, own).await,
            Err(why) => tracing::info!(%why, "this server's lease was not given back; it runs out"),
        }
    };
    if timeout(FAREWELL_TIMEOUT, farewell).await.is_err() {
        tracing::info!("the store is too slow for a farewell");
    }
}

async fn renew(store: &dyn Store, own: IpAddr) -> Result<(), StoreError> {
    let key = format!("{PREFIX}{own}");
    let value = json!({
        "kind": "Endpoints",
        "apiVersion": "v1",
        "metadata": {"name": "kubernetes", "namespace": "default"},
        "subsets": [{"addresses": [{"ip": own}]}],
    });
    let expected = store.get(&key).await?.map_or(0, |record| record.revision);
    store.put(&key, Bytes::from(value.to_string()), expected, Some(LEASE_S)).await?;
    Ok(())
}

async fn reconcile(server: &Arc<Server>, own: SocketAddr) {
    let live = match live(&*server.store).await {
        Ok(live) => live,
        Err(why) => return tracing::warn!(%why, "the apiservers' leases cannot be read"),
    };
    let of_family: Vec<IpAddr> = live.into_iter().filter(|ip| ip.is_ipv4() == own.is_ipv4()).collect();
    if of_family.is_empty() {
        return;
    }
    for wanted in objects::kubernetes_endpoints(own, &of_family) {
        if let Err(why) = ensure(server, &wanted).await {
            tracing::warn!(kind = %wanted.resource.kind, %why, "the apiservers' endpoints were not written");
        }
    }
}

/// In order, so that every server writes the same.
async fn live(store: &dyn Store) -> Result<Vec<IpAddr>, StoreError> {
    let page = store.range(Range { prefix: PREFIX, ..Range::default() }).await?;
    let mut addresses: Vec<IpAddr> =
        page.records.iter().filter_map(|record| record.key.strip_prefix(PREFIX)?.parse().ok()).collect();
    addresses.sort();
    Ok(addresses)
}
