//! Objects of one kind as the server has them, kept current by list-watch, with indexes.
//! It tells of every change with the state before, also of deletions that a gap in the
//! watch hid.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use api_types::{
    Key, Object, Resource,
    k8s::meta::{ObjectMeta, OwnerReference},
};
use parking_lot::RwLock;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio_util::sync::CancellationToken;

use crate::{
    error::Error,
    feed::{Feed, Question},
    http::{Client, JSON},
    store::Store,
    watch::{self, Event, Outcome, State},
};

const PARTIAL: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,\
                       application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";

/// What a cache holds: a typed object, or the metadata of one of any kind.
pub trait Cached: DeserializeOwned + Send + Sync + 'static {
    fn metadata(&self) -> &ObjectMeta;
    fn metadata_mut(&mut self) -> &mut ObjectMeta;
    fn cache_key(&self) -> Key {
        let meta = self.metadata();
        Key::new(meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
    }
    fn version(&self) -> &str {
        self.metadata().resource_version.as_deref().unwrap_or_default()
    }
}

impl<K: Object> Cached for K {
    fn metadata(&self) -> &ObjectMeta {
        self.meta()
    }
    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        self.meta_mut()
    }
}

/// An object of any kind, of which only the metadata is known.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PartialObject {
    pub metadata: ObjectMeta,
}

impl PartialObject {
    pub fn key(&self) -> Key {
        self.cache_key()
    }
    pub fn uid(&self) -> &str {
        self.metadata.uid.as_deref().unwrap_or_default()
    }
    pub fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }
    pub fn namespace(&self) -> &str {
        self.metadata.namespace.as_deref().unwrap_or_default()
    }
    pub fn owners(&self) -> &[OwnerReference] {
        self.metadata.owner_references.as_deref().unwrap_or_default()
    }
    pub fn is_terminating(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }
}

impl Cached for PartialObject {
    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// What happened to an object.
#[derive(Clone, Debug)]
pub enum Change<K> {
    Added(Arc<K>),
    Updated {
        old: Arc<K>,
        new: Arc<K>,
    },
    /// The last state known; after a gap in the watch it may not be the very last there was.
    Deleted(Arc<K>),
}

impl<K> Change<K> {
    /// The newest state.
    pub fn object(&self) -> &Arc<K> {
        match self {
            Change::Added(object) | Change::Updated { new: object, .. } | Change::Deleted(object) => object,
        }
    }
    /// The state before, where there was one.
    pub fn old(&self) -> Option<&Arc<K>> {
        match self {
            Change::Added(_) => None,
            Change::Updated { old, .. } | Change::Deleted(old) => Some(old),
        }
    }
}

/// A view of a collection. Clones share it; it follows the server until its shutdown token is cancelled.
pub struct Cache<K> {
    shared: Arc<Shared<K>>,
}

impl<K> Clone for Cache<K> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

type OnChange<K> = Box<dyn Fn(&Change<K>) + Send + Sync>;

struct Shared<K> {
    store: RwLock<Store<K>>,
    on_change: Vec<OnChange<K>>,
    /// Of the newest event; 0 before the first list is complete.
    revision: AtomicU64,
    /// The same, for those who wait.
    reached: tokio::sync::watch::Sender<u64>,
}

/// What is to be cached, and how.
pub struct Builder<K> {
    client: Client,
    question: Question,
    store: Store<K>,
    on_change: Vec<OnChange<K>>,
}

impl<K: Object> Cache<K> {
    pub fn builder(client: Client) -> Builder<K> {
        Builder::new(client, K::RESOURCE.clone(), JSON)
    }
}

impl Cache<PartialObject> {
    /// The metadata of the objects of any kind.
    pub fn dynamic(client: Client, resource: Resource) -> Builder<PartialObject> {
        Builder::new(client, resource, PARTIAL)
    }
}

impl<K: Cached> Builder<K> {
    fn new(client: Client, resource: Resource, accept: &'static str) -> Self {
        let question = Question { resource, accept, ..Question::default() };
        Self { client, question, store: Store::default(), on_change: Vec::new() }
    }
    /// Empty: all namespaces.
    pub fn namespace(mut self, namespace: &str) -> Self {
        namespace.clone_into(&mut self.question.namespace);
        self
    }
    /// A field selector, such as `spec.nodeName=n1`.
    pub fn fields(mut self, selector: &str) -> Self {
        selector.clone_into(&mut self.question.fields);
        self
    }
    /// A label selector.
    pub fn labels(mut self, selector: &str) -> Self {
        selector.clone_into(&mut self.question.labels);
        self
    }
    /// Makes [`Cache::by_index`] answer for `name`; `values` says under which values an object stands.
    pub fn index(mut self, name: &'static str, values: impl Fn(&K) -> Vec<String> + Send + Sync + 'static) -> Self {
        self.store.add_index(name, values);
        self
    }
    /// Called for every change in the server's order, after the cache shows it. Must be quick: it holds up the watch.
    pub fn on_change(mut self, call: impl Fn(&Change<K>) + Send + Sync + 'static) -> Self {
        self.on_change.push(Box::new(call));
        self
    }
    /// Begins to follow the server, until `shutdown`.
    pub fn start(self, shutdown: CancellationToken) -> Cache<K> {
        let shared = Arc::new(Shared {
            store: RwLock::new(self.store),
            on_change: self.on_change,
            revision: AtomicU64::new(0),
            reached: tokio::sync::watch::Sender::new(0),
        });
        let follow = follow(Feed::new(self.client, self.question), Arc::clone(&shared));
        tokio::spawn(async move { shutdown.run_until_cancelled(follow).await });
        Cache { shared }
    }
}

impl<K: Cached> Cache<K> {
    pub fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.shared.store.read().get(key)
    }
    /// All objects, by namespace and name.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.shared.store.read().list()
    }
    /// The objects that stand under `value` in the index `name`, by namespace and name.
    ///
    /// # Panics
    /// If the builder was given no such index: a mistake of the programmer.
    pub fn by_index(&self, name: &str, value: &str) -> Vec<Arc<K>> {
        self.shared.store.read().by_index(name, value)
    }
    pub fn len(&self) -> usize {
        self.shared.store.read().len()
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The first list is complete.
    pub fn is_synced(&self) -> bool {
        self.revision() > 0
    }
    /// Returns when the first list is complete.
    pub async fn synced(&self) {
        self.wait_for(1).await;
    }
    /// Revision of the newest thing seen.
    pub fn revision(&self) -> u64 {
        self.shared.revision.load(Ordering::Acquire)
    }
    /// Whether the cache shows everything up to `resource_version`: a reconcile that wrote
    /// an object at that revision may then read the cache again.
    pub fn has_seen(&self, resource_version: &str) -> bool {
        revision(resource_version).is_some_and(|wanted| self.revision() >= wanted)
    }
    /// Returns when [`Cache::has_seen`] is true.
    pub async fn seen(&self, resource_version: &str) {
        self.wait_for(revision(resource_version).unwrap_or_default()).await;
    }
    async fn wait_for(&self, wanted: u64) {
        let mut reached = self.shared.reached.subscribe();
        // The sender lives in `shared`, which we hold.
        let _ = reached.wait_for(|revision| *revision >= wanted).await;
    }
}

/// Revisions of all our servers are numbers that grow.
fn revision(resource_version: &str) -> Option<u64> {
    resource_version.parse().ok()
}

/// Asks, steps, applies, forever.
async fn follow<K: Cached>(mut feed: Feed, shared: Arc<Shared<K>>) {
    let mut state = State::start();
    loop {
        let outcome = feed.ask(&state).await.unwrap_or_else(|error| classify(&feed, &state, &error));
        let (event, next) = state.step(outcome);
        state = next;
        if let Event::Failed { failures } = event {
            tokio::time::sleep(watch::pause(failures, rand::random())).await;
        } else {
            shared.take(event);
        }
    }
}

fn classify<K>(feed: &Feed, state: &State, error: &Error) -> Outcome<K> {
    let (State::List { failures, .. } | State::Watch { failures, .. }) = state;
    let resource = feed.resource();
    let why = crate::controller::chain(error);
    match failures {
        0 | 1 => tracing::debug!(resource, why, "list-watch interrupted"),
        2 => tracing::warn!(resource, why, "list-watch interrupted, trying on"),
        _ => tracing::debug!(resource, why, "list-watch still interrupted"),
    }
    match error {
        Error::Api(refusal) if refusal.is_expired() => Outcome::Expired,
        Error::Api(refusal) if refusal.code() == 429 || refusal.code() >= 500 => Outcome::Unreachable,
        Error::Transport { .. } | Error::Config(_) => Outcome::Unreachable,
        Error::Api(_) | Error::Decode { .. } => Outcome::Refused,
    }
}

impl<K: Cached> Shared<K> {
    /// Makes the store show `event`, then tells of what that changed.
    fn take(&self, event: Event<K>) {
        let (changes, reached) = {
            let mut store = self.store.write();
            match event {
                Event::Listed { items, first, last } => {
                    if first {
                        store.begin_list();
                    }
                    let mut changes: Vec<Change<K>> = items.into_iter().filter_map(|item| store.put(item)).collect();
                    if last.is_some() {
                        changes.extend(store.end_list());
                    }
                    (changes, last)
                }
                Event::Applied { object, resource_version } => {
                    (store.put(object).into_iter().collect(), Some(resource_version))
                }
                Event::Removed { object, resource_version } => {
                    (store.remove(object).into_iter().collect(), Some(resource_version))
                }
                Event::Reached { resource_version } => (Vec::new(), Some(resource_version)),
                Event::Nothing | Event::Failed { .. } => return,
            }
        };
        // First the revision: who is told of a change may ask at once whether it is seen.
        if let Some(reached) = reached.as_deref().and_then(revision) {
            self.revision.store(reached, Ordering::Release);
            self.reached.send_replace(reached);
        }
        for change in &changes {
            self.on_change.iter().for_each(|call| call(change));
        }
    }
}

/// How long a watch is asked to last, in seconds; spread so that those of a daemon do not all end at once.
pub(crate) fn watch_seconds(jitter: f64) -> u64 {
    const SHORTEST: Duration = Duration::from_secs(300);
    SHORTEST.mul_f64(1.0 + jitter).as_secs()
}

#[cfg(test)]
mod tests {
    use api_types::k8s::core::ConfigMap;

    use super::*;

    fn object(name: &str, version: &str) -> ConfigMap {
        let meta = ObjectMeta {
            name: Some(name.to_owned()),
            resource_version: Some(version.to_owned()),
            ..ObjectMeta::default()
        };
        ConfigMap { metadata: meta, ..ConfigMap::default() }
    }

    /// A cache that is fed by hand, and what it told.
    fn fed() -> (Cache<ConfigMap>, Arc<RwLock<Vec<String>>>) {
        let told: Arc<RwLock<Vec<String>>> = Arc::default();
        let sink = Arc::clone(&told);
        let on_change: OnChange<ConfigMap> = Box::new(move |change| {
            let old = change.old().map(|old| old.resource_version().to_owned()).unwrap_or_default();
            let sign = match change {
                Change::Added(_) => "+",
                Change::Updated { .. } => "~",
                Change::Deleted(_) => "-",
            };
            sink.write().push(format!("{sign}{} {old}>{}", change.object().name(), change.object().resource_version()));
        });
        let shared = Shared {
            store: RwLock::new(Store::default()),
            on_change: vec![on_change],
            revision: AtomicU64::new(0),
            reached: tokio::sync::watch::Sender::new(0),
        };
        (Cache { shared: Arc::new(shared) }, told)
    }

    fn listed(items: &[(&str, &str)], first: bool, last: Option<&str>) -> Event<ConfigMap> {
        let items = items.iter().map(|(name, version)| object(name, version)).collect();
        Event::Listed { items, first, last: last.map(str::to_owned) }
    }

    #[test]
    fn a_relist_tells_only_what_changed_and_finds_the_deleted() {
        let (cache, told) = fed();
        cache.shared.take(listed(&[("a", "1"), ("b", "2")], true, None));
        assert!(!cache.is_synced(), "a page is not the list");
        cache.shared.take(listed(&[("c", "3")], false, Some("3")));
        assert!(cache.is_synced());
        told.write().clear();
        cache.shared.take(listed(&[("a", "1")], true, None));
        cache.shared.take(listed(&[("c", "7"), ("d", "8")], false, Some("9")));
        assert_eq!(*told.read(), ["~c 3>7", "+d >8", "-b 2>2"]);
        assert_eq!(cache.revision(), 9);
        assert_eq!(cache.len(), 3);
    }

    #[test]
    fn a_deletion_shows_the_servers_last_state() {
        let (cache, told) = fed();
        cache.shared.take(listed(&[("a", "1")], true, Some("1")));
        let gone = Event::Removed { object: object("a", "5"), resource_version: "5".to_owned() };
        cache.shared.take(gone.clone());
        cache.shared.take(gone);
        assert_eq!(*told.read(), ["+a >1", "-a 5>5"], "told once");
        assert!(cache.has_seen("5") && !cache.has_seen("6"));
    }

    #[tokio::test]
    async fn who_waits_for_a_revision_is_woken() {
        let (cache, _) = fed();
        let waiting = tokio::spawn({
            let cache = cache.clone();
            async move { cache.seen("4").await }
        });
        cache.shared.take(listed(&[], true, Some("2")));
        cache.synced().await;
        cache.shared.take(Event::Reached { resource_version: "4".to_owned() });
        waiting.await.unwrap();
    }
}
