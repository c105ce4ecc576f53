//! What the scheduler watches, and what it reads of it beside pods and nodes: claims and
//! their volumes, the workloads that a pod belongs to, disruption budgets.

use std::sync::Arc;

use api_types::{
    Key, Object,
    k8s::{
        apps::{ReplicaSet, StatefulSet},
        core::{Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, Service},
        meta::LabelSelector,
        policy::PodDisruptionBudget,
        storage::StorageClass,
    },
    labels::Selector,
};
use client::{Cache, Client};
use tokio_util::sync::CancellationToken;

use crate::{
    affinity::NodeTerms,
    facts::PodFacts,
    mailbox::{Mailbox, Note},
    plugins::{Surroundings, volume_binding::Claim},
    preempt::Budget,
    queue::Hint,
};

const BY_NAMESPACE: &str = "namespace";

pub struct Caches {
    pub pods: Cache<Pod>,
    pub nodes: Cache<Node>,
    pub namespaces: Cache<Namespace>,
    workloads: Workloads,
    volumes: Volumes,
    budgets: Cache<PodDisruptionBudget>,
}

struct Workloads {
    services: Cache<Service>,
    replica_sets: Cache<ReplicaSet>,
    stateful_sets: Cache<StatefulSet>,
}

struct Volumes {
    claims: Cache<PersistentVolumeClaim>,
    volumes: Cache<PersistentVolume>,
    classes: Cache<StorageClass>,
}

impl Caches {
    /// Returns when all lists are complete.
    pub async fn start(client: &Client, mailbox: &Arc<Mailbox>, stop: &CancellationToken) -> Self {
        let caches = Self {
            pods: Cache::<Pod>::builder(client.clone())
                // Finished pods take nothing, and there can be many.
                .fields("status.phase!=Succeeded,status.phase!=Failed")
                .on_change({
                    let mailbox = Arc::clone(mailbox);
                    move |change| {
                        let pod = change.object();
                        mailbox.put(Note::Pod { key: pod.key(), uid: pod.uid().to_owned() });
                    }
                })
                .start(stop.clone()),
            nodes: noting(client, mailbox, stop, |node: &Node| Note::Node { name: node.name().to_owned() }),
            namespaces: noting(client, mailbox, stop, |it: &Namespace| Note::Namespace { name: it.name().to_owned() }),
            workloads: Workloads {
                services: Cache::<Service>::builder(client.clone())
                    .index(BY_NAMESPACE, |service: &Service| vec![service.namespace().to_owned()])
                    .start(stop.clone()),
                replica_sets: Cache::<ReplicaSet>::builder(client.clone()).start(stop.clone()),
                stateful_sets: Cache::<StatefulSet>::builder(client.clone()).start(stop.clone()),
            },
            volumes: Volumes {
                claims: noting(client, mailbox, stop, |_| Note::Hint(Hint::Volumes)),
                volumes: noting(client, mailbox, stop, |_| Note::Hint(Hint::Volumes)),
                classes: noting(client, mailbox, stop, |_| Note::Hint(Hint::Volumes)),
            },
            budgets: Cache::<PodDisruptionBudget>::builder(client.clone()).start(stop.clone()),
        };
        caches.synced().await;
        caches
    }

    async fn synced(&self) {
        self.pods.synced().await;
        self.nodes.synced().await;
        self.namespaces.synced().await;
        self.workloads.services.synced().await;
        self.workloads.replica_sets.synced().await;
        self.workloads.stateful_sets.synced().await;
        self.volumes.claims.synced().await;
        self.volumes.volumes.synced().await;
        self.volumes.classes.synced().await;
        self.budgets.synced().await;
    }

    /// What the decision on `pod` needs to know beside pods and nodes.
    pub fn surroundings(&self, pod: &PodFacts) -> Surroundings {
        let siblings = if pod.place.spread.is_empty() { self.siblings(pod) } else { Selector::nothing() };
        let claims = pod.needs.claims.iter().map(|name| self.claim(&Key::new(pod.namespace(), name))).collect();
        Surroundings { siblings, claims }
    }

    /// Selects the pods of all Services that select `pod`, and of its owner.
    fn siblings(&self, pod: &PodFacts) -> Selector {
        let mut all = LabelSelector::default();
        for service in self.workloads.services.by_index(BY_NAMESPACE, pod.namespace()) {
            let Some(selector) = service.spec.as_ref().and_then(|spec| spec.selector.clone()) else { continue };
            if !selector.is_empty() && Selector::from(&selector).matches(&pod.labels) {
                all.match_labels.get_or_insert_default().extend(selector);
            }
        }
        if let Some(selector) = self.owner_selector(pod) {
            all.match_labels.get_or_insert_default().extend(selector.match_labels.unwrap_or_default());
            all.match_expressions.get_or_insert_default().extend(selector.match_expressions.unwrap_or_default());
        }
        if all == LabelSelector::default() { Selector::nothing() } else { Selector::from(&all) }
    }

    fn owner_selector(&self, pod: &PodFacts) -> Option<LabelSelector> {
        let owner = pod.id.owner.as_ref()?;
        let key = Key::new(pod.namespace(), &owner.name);
        match owner.kind.as_str() {
            "ReplicaSet" => Some(self.workloads.replica_sets.get(&key)?.spec.as_ref()?.selector.clone()),
            "StatefulSet" => Some(self.workloads.stateful_sets.get(&key)?.spec.as_ref()?.selector.clone()),
            _ => None,
        }
    }

    fn claim(&self, key: &Key) -> Claim {
        let Some(claim) = self.volumes.claims.get(key) else { return Claim::Missing { name: key.name.clone() } };
        let spec = claim.spec.clone().unwrap_or_default();
        let is_bound = claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
        if let (true, Some(volume)) = (is_bound, &spec.volume_name) {
            let Some(volume) = self.volumes.volumes.get(&Key::cluster(volume)) else { return Claim::Lost };
            let affinity = volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref());
            return Claim::Bound(affinity.and_then(|it| it.required.as_ref()).map(NodeTerms::read));
        }
        let class = spec.storage_class_name.filter(|name| !name.is_empty());
        let class = class.and_then(|name| self.volumes.classes.get(&Key::cluster(name)));
        match class.and_then(|class| class.volume_binding_mode.clone()).as_deref() {
            Some("WaitForFirstConsumer") => Claim::WaitsForConsumer,
            _ => Claim::Unbound,
        }
    }

    pub fn budgets(&self) -> Vec<Budget> {
        let budget = |budget: &Arc<PodDisruptionBudget>| Budget {
            namespace: budget.namespace().to_owned(),
            selector: Selector::from(budget.spec.as_ref().and_then(|spec| spec.selector.as_ref())),
            allowed: budget.status.as_ref().and_then(|status| status.disruptions_allowed).unwrap_or_default().into(),
        };
        self.budgets.list().iter().map(budget).collect()
    }
}

/// A cache that puts a note of every change into the mailbox.
fn noting<K: Object>(
    client: &Client,
    mailbox: &Arc<Mailbox>,
    stop: &CancellationToken,
    note: impl Fn(&K) -> Note + Send + Sync + 'static,
) -> Cache<K> {
    let mailbox = Arc::clone(mailbox);
    Cache::<K>::builder(client.clone()).on_change(move |change| mailbox.put(note(change.object()))).start(stop.clone())
}
