//! What the controllers see of the cluster: one shared cache per kind, with the indexes that
//! views are made from, and who is told of changes.

use std::sync::{Arc, OnceLock};

use api_types::{
    Key, Object, Resource,
    jiff::Timestamp,
    k8s::{
        apps, batch, certificates, coordination,
        core::{self, Pod},
        discovery::EndpointSlice,
        meta::ObjectMeta,
        policy, rbac, storage,
    },
    resources,
};
use client::{Cache, Change, Client};
use tokio_util::sync::CancellationToken;

use crate::{heard::Heard, journal::Journal, owners::controller_of};

/// Told of a change after the caches show it.
pub type Subscriber<K> = Box<dyn Fn(&Caches, &Change<K>) + Send + Sync>;

/// Index of namespaced objects by their namespace.
pub const BY_NAMESPACE: &str = "namespace";
/// Index by the uid of the controller that owns an object.
pub const BY_OWNER: &str = "owner";
/// Index by namespace of the objects that no controller owns.
pub const ORPHANS: &str = "orphans";
/// Index of pods by the node they are bound to; empty: not bound.
pub const BY_NODE: &str = "node";
/// Index of slices by `namespace/name` of their service.
pub const BY_SERVICE: &str = "service";

/// The label of a slice that names its service.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

macro_rules! caches {
    ($($field:ident: $kind:ty { $($set:tt)* })*) => {
        /// One cache per kind.
        pub struct Caches {
            /// When nodes gave a sign of life, by our own clock.
            pub heard: Heard,
            $(pub $field: Cache<$kind>,)*
        }

        /// Who wants to be told of what, collected before the caches start.
        #[derive(Default)]
        pub struct Subscriptions { $(pub $field: Vec<Subscriber<$kind>>,)* }

        impl Caches {
            /// Begins to follow the server, until `shutdown`.
            pub fn start(
                client: &Client,
                subscriptions: Subscriptions,
                journal: &Arc<Journal>,
                shutdown: &CancellationToken,
            ) -> Arc<Self> {
                let known: Arc<OnceLock<Arc<Caches>>> = Arc::default();
                let heard = Heard::new(Timestamp::now());
                let caches = Arc::new(Caches { heard, $($field: {
                    let mut builder = Cache::<$kind>::builder(client.clone())$($set)*;
                    if <$kind>::RESOURCE != &resources::LEASE {
                        // Leases change all the time and would push out what people ask for.
                        let journal = Arc::clone(journal);
                        builder = builder.on_change(move |change| journal.saw(change));
                    }
                    for tell in subscriptions.$field {
                        let known = Arc::clone(&known);
                        // Waits at most for the lines below, in case a change comes before they are done.
                        builder = builder.on_change(move |change| tell(known.wait(), change));
                    }
                    builder.start(shutdown.clone())
                },)* });
                // Nobody else sets it, and the caches live as long as the process: the circle is meant.
                let _ = known.set(Arc::clone(&caches));
                caches
            }
            /// Returns when every first list is complete.
            pub async fn synced(&self) {
                $(self.$field.synced().await;)*
            }
            /// Returns when the cache of `resource`, if there is one, shows everything up to `resource_version`.
            pub async fn seen(&self, resource: &Resource, resource_version: &str) {
                $(if resource == <$kind>::RESOURCE {
                    return self.$field.seen(resource_version).await;
                })*
            }
            /// Whether the caches show this very object, and not on its way out.
            pub fn shows_alive(&self, resource: &Resource, key: &Key, uid: &str) -> bool {
                $(if resource == <$kind>::RESOURCE {
                    return self.$field.get(key).is_some_and(|it| it.uid() == uid && !it.is_terminating());
                })*
                false
            }
        }
    };
}

caches! {
    namespaces: core::Namespace {}
    nodes: core::Node {}
    node_leases: coordination::Lease { .namespace("kube-node-lease") }
    pods: Pod {
        .index(BY_NAMESPACE, |pod| vec![pod.namespace().to_owned()])
        .index(BY_OWNER, |pod| owner(&pod.metadata))
        .index(ORPHANS, |pod| orphan(&pod.metadata))
        .index(BY_NODE, |pod| vec![node_name(pod).to_owned()])
    }
    services: core::Service { .index(BY_NAMESPACE, |service| vec![service.namespace().to_owned()]) }
    endpoints: core::Endpoints {}
    slices: EndpointSlice { .index(BY_SERVICE, slice_service) }
    service_accounts: core::ServiceAccount {}
    root_ca_maps: core::ConfigMap { .fields("metadata.name=kube-root-ca.crt") }
    deployments: apps::Deployment { .index(BY_NAMESPACE, |it| vec![it.namespace().to_owned()]) }
    replica_sets: apps::ReplicaSet {
        .index(BY_NAMESPACE, |it| vec![it.namespace().to_owned()])
        .index(BY_OWNER, |it| owner(&it.metadata))
        .index(ORPHANS, |it| orphan(&it.metadata))
    }
    replication_controllers: core::ReplicationController {
        .index(BY_NAMESPACE, |it| vec![it.namespace().to_owned()])
    }
    daemon_sets: apps::DaemonSet { .index(BY_NAMESPACE, |it| vec![it.namespace().to_owned()]) }
    stateful_sets: apps::StatefulSet { .index(BY_NAMESPACE, |it| vec![it.namespace().to_owned()]) }
    revisions: apps::ControllerRevision {
        .index(BY_OWNER, |it| owner(&it.metadata))
        .index(ORPHANS, |it| orphan(&it.metadata))
    }
    jobs: batch::Job {
        .index(BY_NAMESPACE, |it| vec![it.namespace().to_owned()])
        .index(BY_OWNER, |it| owner(&it.metadata))
    }
    cron_jobs: batch::CronJob {}
    volume_claims: core::PersistentVolumeClaim { .index(BY_NAMESPACE, |it| vec![it.namespace().to_owned()]) }
    volumes: core::PersistentVolume {}
    attribute_classes: storage::VolumeAttributesClass {}
    quotas: core::ResourceQuota { .index(BY_NAMESPACE, |it| vec![it.namespace().to_owned()]) }
    budgets: policy::PodDisruptionBudget { .index(BY_NAMESPACE, |it| vec![it.namespace().to_owned()]) }
    cluster_roles: rbac::ClusterRole {}
    signing_requests: certificates::CertificateSigningRequest {}
}

fn owner(meta: &ObjectMeta) -> Vec<String> {
    controller_of(meta).map(|owner| owner.uid.clone()).into_iter().collect()
}

fn orphan(meta: &ObjectMeta) -> Vec<String> {
    match controller_of(meta) {
        Some(_) => Vec::new(),
        None => meta.namespace.clone().into_iter().collect(),
    }
}

fn node_name(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()
}

fn slice_service(slice: &EndpointSlice) -> Vec<String> {
    let service = slice.label(SERVICE_NAME_LABEL);
    service.map(|name| format!("{}/{name}", slice.namespace())).into_iter().collect()
}
