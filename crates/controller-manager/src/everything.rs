//! The metadata of every object of every kind, CRDs included: what garbage collection and the end
//! of a namespace need. Caches come and go with the kinds.

use std::{sync::Arc, time::Duration};

use api_types::{Key, Resource, Verb, k8s::meta::OwnerReference};
use client::{Cache, Change, Client, PartialObject};
use parking_lot::RwLock;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::discovery::discover;

/// Index by the uid of every owner.
const BY_OWNER: &str = "owner";
const BY_NAMESPACE: &str = "namespace";
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Nobody owns Events and they own nobody; there are many, and they end by themselves.
const SKIPPED: &[(&str, &str)] = &[("", "events"), ("events.k8s.io", "events")];
/// Kinds that make kinds.
const SOURCES: &[(&str, &str)] =
    &[("apiextensions.k8s.io", "customresourcedefinitions"), ("apiregistration.k8s.io", "apiservices")];

/// An object of any kind, as a queue's key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Item {
    pub group: String,
    pub plural: String,
    pub key: Key,
    pub uid: String,
}

impl Item {
    pub fn new(resource: &Resource, object: &PartialObject) -> Self {
        Self {
            group: resource.group.to_string(),
            plural: resource.plural.to_string(),
            key: object.key(),
            uid: object.uid().to_owned(),
        }
    }
}

/// An object with its kind.
#[derive(Clone)]
pub struct Known {
    pub resource: Arc<Resource>,
    pub object: Arc<PartialObject>,
}

/// Told of every change of every kind.
pub type Listener = Box<dyn Fn(&Everything, &Known, &Change<PartialObject>) + Send + Sync>;

/// All kinds that can be listed, watched and deleted.
pub struct Everything {
    client: Client,
    kinds: RwLock<Vec<Kind>>,
    /// All that the server names, whether or not it can be watched.
    rows: RwLock<Vec<Arc<Resource>>>,
    listeners: Vec<Listener>,
    /// Kinds may have changed.
    stale: Notify,
    discovered: watch::Sender<u64>,
}

#[derive(Clone)]
struct Kind {
    resource: Arc<Resource>,
    cache: Cache<PartialObject>,
    stop: CancellationToken,
}

impl Everything {
    pub fn new(client: Client, listeners: Vec<Listener>) -> Arc<Self> {
        Arc::new(Self {
            client,
            kinds: RwLock::default(),
            rows: RwLock::default(),
            listeners,
            stale: Notify::new(),
            discovered: watch::Sender::new(0),
        })
    }

    /// Keeps the caches in step with the kinds, until `shutdown`.
    pub async fn follow(self: Arc<Self>, shutdown: CancellationToken) {
        let mut pause = RETRY_MIN;
        loop {
            match discover(&self.client).await {
                Ok(rows) => {
                    pause = RETRY_MIN;
                    self.adopt(rows, &shutdown);
                    self.discovered.send_modify(|times| *times += 1);
                    self.stale.notified().await;
                }
                Err(error) => {
                    tracing::debug!(why = %error, "kinds cannot be discovered yet");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY_MAX);
                }
            }
        }
    }

    fn adopt(self: &Arc<Self>, rows: Vec<Resource>, shutdown: &CancellationToken) {
        let rows: Vec<Arc<Resource>> = rows.into_iter().map(Arc::new).collect();
        let wanted = |row: &&Arc<Resource>| {
            let can = [Verb::List, Verb::Watch, Verb::Delete].iter().all(|verb| row.verbs.contains(*verb));
            can && !SKIPPED.contains(&(&*row.group, &*row.plural))
        };
        let watched: Vec<Arc<Resource>> = rows.iter().filter(wanted).cloned().collect();
        let mut kinds = self.kinds.write();
        kinds.retain(|kind| {
            let stays = watched.contains(&kind.resource);
            if !stays {
                kind.stop.cancel();
            }
            stays
        });
        for resource in watched {
            if kinds.iter().all(|kind| kind.resource != resource) {
                let stop = shutdown.child_token();
                let cache = self.cache(&resource, stop.clone());
                kinds.push(Kind { resource, cache, stop });
            }
        }
        drop(kinds);
        *self.rows.write() = rows;
    }

    fn cache(self: &Arc<Self>, resource: &Arc<Resource>, stop: CancellationToken) -> Cache<PartialObject> {
        let (everything, kind) = (Arc::clone(self), Arc::clone(resource));
        Cache::dynamic(self.client.clone(), (**resource).clone())
            .index(BY_OWNER, |object| object.owners().iter().map(|owner| owner.uid.clone()).collect())
            .index(BY_NAMESPACE, |object| vec![object.namespace().to_owned()])
            .on_change(move |change| {
                if SOURCES.contains(&(&*kind.group, &*kind.plural)) {
                    everything.stale.notify_one();
                }
                let known = Known { resource: Arc::clone(&kind), object: Arc::clone(change.object()) };
                everything.listeners.iter().for_each(|listener| listener(&everything, &known, change));
            })
            .start(stop)
    }

    /// Returns when kinds are known and each of them has been listed.
    pub async fn synced(&self) {
        let mut discovered = self.discovered.subscribe();
        // The sender lives in `self`.
        let _ = discovered.wait_for(|times| *times > 0).await;
        for kind in self.snapshot() {
            // A kind that went while we waited will never be.
            kind.stop.run_until_cancelled(kind.cache.synced()).await;
        }
    }

    fn snapshot(&self) -> Vec<Kind> {
        self.kinds.read().clone()
    }

    pub fn get(&self, item: &Item) -> Option<Known> {
        let kinds = self.kinds.read();
        let kind =
            kinds.iter().find(|kind| kind.resource.group == item.group && kind.resource.plural == item.plural)?;
        let object = kind.cache.get(&item.key).filter(|object| object.uid() == item.uid)?;
        Some(Known { resource: Arc::clone(&kind.resource), object })
    }

    /// The kind that a reference names, in whichever version the server prefers.
    pub fn kind_of(&self, reference: &OwnerReference) -> Option<Arc<Resource>> {
        let group = reference.api_version.rsplit_once('/').map_or("", |(group, _)| group);
        let rows = self.rows.read();
        rows.iter().find(|row| row.group == group && row.kind == reference.kind).cloned()
    }

    /// The object of `resource`, if its kind is watched.
    pub fn object(&self, resource: &Resource, key: &Key) -> Option<Arc<PartialObject>> {
        let kinds = self.kinds.read();
        kinds.iter().find(|kind| *kind.resource == *resource)?.cache.get(key)
    }

    pub fn dependents(&self, uid: &str) -> Vec<Known> {
        self.collect(|cache| cache.by_index(BY_OWNER, uid))
    }

    pub fn in_namespace(&self, namespace: &str) -> Vec<Known> {
        self.collect(|cache| cache.by_index(BY_NAMESPACE, namespace))
    }

    fn collect(&self, of: impl Fn(&Cache<PartialObject>) -> Vec<Arc<PartialObject>>) -> Vec<Known> {
        let kinds = self.kinds.read();
        let of_kind = |kind: &Kind| {
            let resource = Arc::clone(&kind.resource);
            of(&kind.cache).into_iter().map(move |object| Known { resource: Arc::clone(&resource), object })
        };
        kinds.iter().flat_map(of_kind).collect()
    }

    /// All kinds that the server names, also those that cannot be watched.
    pub fn rows(&self) -> Vec<Arc<Resource>> {
        self.rows.read().clone()
    }
}
