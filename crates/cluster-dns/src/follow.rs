//! Keeps the zone up to date: what changes in the cluster is worked into the next snapshot.

use std::{collections::BTreeSet, sync::Arc};

use api_types::{
    Key, Object,
    k8s::{
        core::{Namespace, Service},
        discovery::EndpointSlice,
    },
};
use client::{Cache, Client};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    serve::Current,
    zone::{Entry, Zone},
};

const SERVICE_LABEL: &str = "kubernetes.io/service-name";
const BY_SERVICE: &str = "service";

/// What to look at again, each thing once.
#[derive(Default)]
struct Changed {
    things: Mutex<Things>,
    news: Notify,
}

#[derive(Default)]
struct Things {
    services: BTreeSet<Key>,
    namespaces: BTreeSet<String>,
}

impl Changed {
    fn service(&self, key: Key) {
        self.things.lock().services.insert(key);
        self.news.notify_one();
    }
    fn namespace(&self, name: &str) {
        self.things.lock().namespaces.insert(name.to_owned());
        self.news.notify_one();
    }
    fn take(&self) -> Things {
        std::mem::take(&mut *self.things.lock())
    }
}

fn service_of(slice: &EndpointSlice) -> Option<Key> {
    slice.label(SERVICE_LABEL).map(|name| Key::new(slice.namespace(), name))
}

/// Publishes snapshot after snapshot, until `stop`.
pub async fn follow(client: Client, mut zone: Zone, current: Current, stop: CancellationToken) {
    let changed = Arc::new(Changed::default());
    let services = Cache::<Service>::builder(client.clone())
        .on_change({
            let changed = Arc::clone(&changed);
            move |change| changed.service(change.object().key())
        })
        .start(stop.clone());
    let slices = Cache::<EndpointSlice>::builder(client.clone())
        .index(BY_SERVICE, |slice: &EndpointSlice| service_of(slice).map(|key| key.to_string()).into_iter().collect())
        .on_change({
            let changed = Arc::clone(&changed);
            move |change| {
                let named = change.old().map(|old| service_of(old)).into_iter().chain([service_of(change.object())]);
                named.flatten().for_each(|key| changed.service(key));
            }
        })
        .start(stop.clone());
    let namespaces = Cache::<Namespace>::builder(client)
        .on_change({
            let changed = Arc::clone(&changed);
            move |change| changed.namespace(change.object().name())
        })
        .start(stop.clone());
    let synced = async {
        services.synced().await;
        slices.synced().await;
        namespaces.synced().await;
    };
    if stop.run_until_cancelled(synced).await.is_none() {
        return;
    }
    tracing::info!(services = services.len(), namespaces = namespaces.len(), "zone complete");
    while !stop.is_cancelled() {
        let Things { services: keys, namespaces: names } = changed.take();
        for name in names {
            match namespaces.get(&Key::cluster(&name)) {
                Some(_) => zone.add_namespace(&name),
                None => zone.remove_namespace(&name),
            }
        }
        for key in keys {
            let service = services.get(&key);
            let entry =
                service.and_then(|service| Entry::read(&service, &slices.by_index(BY_SERVICE, &key.to_string())));
            zone.set_service(&key, entry);
        }
        current.publish(zone.clone());
        tokio::select! {
            () = stop.cancelled() => {}
            () = changed.news.notified() => {}
        }
    }
}
