//! garbage-collector: what is owned goes when its last owner has gone.
//!
//! The graph of owners is not a structure of its own: it is the caches, asked by uid. A wrong "gone"
//! would be final, so an owner that no cache shows is looked up past all caches before anything is
//! deleted for its sake.
//!
//! Source: kubernetes/pkg/controller/garbagecollector.

mod plan;

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
};

use api_types::{Key, Resource, k8s::meta::OwnerReference};
use bytes::Bytes;
use client::{Change, Client, Error, PartialObject, Queue, Recorder, api};
use http::Method;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::{
    everything::{Everything, Item, Known},
    execute::Executor,
    journal::Journal,
    reconcile::reasons,
};
use plan::{Dependent, OwnerState, View, is_orphaning, is_waiting};

pub const NAME: &str = "garbage-collector-controller";
pub const ACCOUNT: &str = "generic-garbage-collector";
const WORKERS: usize = 20;
/// Owners known to be gone; uids are never used again.
const ABSENT_MAX: usize = 500;

/// Wakes what a change may have made garbage, or may have unblocked.
pub fn watch(queue: &Queue<Item>) -> impl Fn(&Everything, &Known, &Change<PartialObject>) + Send + Sync + 'static {
    let queue = queue.clone();
    move |everything, known, change| {
        let add_all = |items: Vec<Known>| {
            items.iter().for_each(|known| queue.add(Item::new(&known.resource, &known.object)));
        };
        let object = &*known.object;
        match change {
            Change::Deleted(_) => {
                add_all(everything.dependents(object.uid()));
                add_all(waiting_owners(everything, object, object.owners()));
                return;
            }
            Change::Updated { old, .. } => {
                let kept = object.owners();
                let dropped: Vec<OwnerReference> =
                    old.owners().iter().filter(|owner| !kept.contains(owner)).cloned().collect();
                add_all(waiting_owners(everything, object, &dropped));
            }
            Change::Added(_) => {}
        }
        let started = |waits: fn(&PartialObject) -> bool| waits(object) && !change.old().is_some_and(|old| waits(old));
        if started(is_waiting) {
            add_all(everything.dependents(object.uid()));
        }
        if !object.owners().is_empty() || is_waiting(object) || is_orphaning(object) {
            queue.add(Item::new(&known.resource, object));
        }
    }
}

/// Those of `owners` that wait for their dependents to go.
fn waiting_owners(everything: &Everything, child: &PartialObject, owners: &[OwnerReference]) -> Vec<Known> {
    let known = owners.iter().filter_map(|owner| {
        let resource = everything.kind_of(owner)?;
        let object = everything.object(&resource, &owner_key(&resource, child, owner))?;
        (object.uid() == owner.uid && is_waiting(&object)).then_some(Known { resource, object })
    });
    known.collect()
}

/// Owners are in the namespace of what they own, or in none.
fn owner_key(resource: &Resource, child: &PartialObject, owner: &OwnerReference) -> Key {
    let namespace = if resource.is_namespaced() { child.namespace() } else { "" };
    Key::new(namespace, &owner.name)
}

/// What the collector runs with.
pub struct Collector {
    pub client: Client,
    pub everything: Arc<Everything>,
    pub queue: Queue<Item>,
    pub journal: Arc<Journal>,
}

/// Runs until `shutdown`.
pub async fn run(collector: Collector, shutdown: CancellationToken) {
    let recorder = Recorder::new(collector.client.clone(), NAME, "");
    let executor = Executor::new(collector.client.clone(), collector.client.clone(), recorder);
    let queue = collector.queue.clone();
    let turns = Arc::new(Turns { collector, executor, absent: Mutex::default() });
    client::controller::run(NAME, queue, WORKERS, shutdown, move |item: Item| {
        let turns = Arc::clone(&turns);
        async move { turns.turn(&item).await }
    })
    .await;
}

struct Turns {
    collector: Collector,
    executor: Executor,
    absent: Mutex<Absent>,
}

#[derive(Default)]
struct Absent {
    uids: HashSet<String>,
    order: VecDeque<String>,
}

impl Turns {
    async fn turn(&self, item: &Item) -> Result<(), Error> {
        let everything = &self.collector.everything;
        let Some(known) = everything.get(item) else { return Ok(()) };
        let mut owners = Vec::new();
        for owner in known.object.owners() {
            owners.push((owner.clone(), self.owner_state(&known, owner).await?));
        }
        let dependents = everything.dependents(known.object.uid());
        let dependents = dependents.into_iter().map(|dependent| Dependent::new(&known, dependent)).collect();
        let plan = plan::plan(&View { known: known.clone(), owners, dependents });
        // Most objects simply have their owners, and there are too many of them to say so.
        let words = if plan.actions.is_empty() { Vec::new() } else { reasons(NAME, &plan) };
        self.collector.journal.explain(NAME, &known.resource, &item.key, words);
        let report = self.executor.execute(&plan.actions).await;
        report.failure.map_or(Ok(()), |(_, error)| Err(error))
    }

    async fn owner_state(&self, known: &Known, owner: &OwnerReference) -> Result<OwnerState, Error> {
        let Some(resource) = self.collector.everything.kind_of(owner) else { return Ok(OwnerState::Unknown) };
        if resource.is_namespaced() && known.object.namespace().is_empty() {
            return Ok(OwnerState::Unknown);
        }
        let key = owner_key(&resource, &known.object, owner);
        let cached = self.collector.everything.object(&resource, &key);
        if let Some(object) = cached.filter(|object| object.uid() == owner.uid) {
            return Ok(OwnerState::of(&object));
        }
        if self.absent.lock().uids.contains(&owner.uid) {
            return Ok(OwnerState::Absent);
        }
        let found = self.live(&resource, &key).await?.filter(|object| object.uid() == owner.uid);
        if found.is_none() {
            self.absent.lock().insert(&owner.uid);
        }
        Ok(found.map_or(OwnerState::Absent, |object| OwnerState::of(&object)))
    }

    /// Past all caches.
    async fn live(&self, resource: &Resource, key: &Key) -> Result<Option<PartialObject>, Error> {
        let path = api::path(resource, key, "");
        match self.collector.client.request(Method::GET, &path, "application/json", Bytes::new()).await {
            Ok(body) => serde_json::from_slice(&body)
                .map(Some)
                .map_err(|error| Error::Decode { what: path, why: error.to_string() }),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Absent {
    fn insert(&mut self, uid: &str) {
        if self.uids.insert(uid.to_owned()) {
            self.order.push_back(uid.to_owned());
        }
        if self.order.len() > ABSENT_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.uids.remove(&oldest);
        }
    }
}
