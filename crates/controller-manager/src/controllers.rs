//! The table of controllers, and the start of those that are wanted.

use std::sync::Arc;

use client::{Client, Config, ConfigError, Queue};
use daemon::diagnosis::Ledger;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    caches::{Caches, Subscriptions},
    cron_job, daemon_set, deployment, disruption, endpoint_slice, endpoints,
    everything::{Everything, Listener},
    flags::Flags,
    garbage::{self, Collector},
    identity::Identity,
    job,
    journal::Journal,
    namespace, node_ipam, node_lifecycle, pod_gc, quota,
    reconcile::{self, Controller, Means},
    replica_set, replication_controller, role_aggregation, root_ca, service_account,
    settings::Settings,
    signing, stateful_set, storage_protection, taint_eviction, ttl_after_finished,
};

/// Every controller that is a row. Two are not, as they work on objects of all kinds: the garbage
/// collector and the namespace controller.
pub static ALL: &[&Controller] = &[
    &service_account::CONTROLLER,
    &root_ca::CONTROLLER,
    &replica_set::CONTROLLER,
    &deployment::CONTROLLER,
    &endpoints::CONTROLLER,
    &endpoint_slice::CONTROLLER,
    &endpoint_slice::MIRRORING,
    &node_ipam::CONTROLLER,
    &node_lifecycle::CONTROLLER,
    &taint_eviction::CONTROLLER,
    &pod_gc::CONTROLLER,
    &job::CONTROLLER,
    &cron_job::CONTROLLER,
    &daemon_set::CONTROLLER,
    &stateful_set::CONTROLLER,
    &ttl_after_finished::CONTROLLER,
    &replication_controller::CONTROLLER,
    &disruption::CONTROLLER,
    &role_aggregation::CONTROLLER,
    &quota::CONTROLLER,
    &signing::SIGNING,
    &signing::APPROVING,
    &storage_protection::CLAIMS,
    &storage_protection::VOLUMES,
    &storage_protection::ATTRIBUTE_CLASSES,
];

/// What it takes to run them.
pub struct Start {
    pub flags: Flags,
    pub settings: Settings,
    pub config: Config,
    /// Of the daemon itself: reads everything.
    pub client: Client,
    pub ledger: Ledger,
}

/// Runs the controllers that `--controllers` wants until `shutdown`; returns when all have ended.
pub async fn run(start: Start, shutdown: CancellationToken) -> Result<(), ConfigError> {
    let mut subscriptions = Subscriptions::default();
    let rows: Vec<(&'static Controller, Queue<_>)> = ALL
        .iter()
        .filter(|controller| start.flags.wants(controller.name))
        .map(|controller| (*controller, Queue::new(controller.name)))
        .collect();
    for (controller, queue) in &rows {
        (controller.watch)(&mut subscriptions, queue);
    }
    let quotas = rows.iter().find(|(controller, _)| controller.name == quota::CONTROLLER.name);
    let (garbage, namespaces) = (Queue::new(garbage::NAME), Queue::new(namespace::NAME));
    namespace::watch(&mut subscriptions, &namespaces);
    let mut listeners: Vec<Listener> =
        vec![Box::new(garbage::watch(&garbage)), Box::new(namespace::watch_contents(&namespaces))];
    listeners.extend(quotas.map(|(_, queue)| Box::new(quota::watch_contents(queue)) as Listener));

    let journal = Arc::new(Journal::new(start.ledger.clone()));
    let caches = Caches::start(&start.client, subscriptions, &journal, &shutdown);
    let everything = Everything::new(start.client.clone(), listeners);
    let settings = Arc::new(start.settings.clone());
    let mut running = JoinSet::new();
    let ready = async |caches: Arc<Caches>, everything: Option<Arc<Everything>>| {
        // A decision on half a list would take what is not there yet for gone.
        caches.synced().await;
        if let Some(everything) = everything {
            everything.synced().await;
        }
    };
    for (controller, queue) in rows {
        let (identity, client) = identify(&start, controller.account)?;
        let counts_all = controller.name == quota::CONTROLLER.name;
        let ready = ready(Arc::clone(&caches), counts_all.then(|| Arc::clone(&everything)));
        let means = Means {
            client,
            caches: Arc::clone(&caches),
            everything: Arc::clone(&everything),
            settings: Arc::clone(&settings),
            journal: Arc::clone(&journal),
        };
        let work = reconcile::run(controller, queue, means, shutdown.clone());
        running.spawn(run_as(identity, ready, work, shutdown.clone()));
    }
    if start.flags.wants(garbage::NAME) {
        let (identity, client) = identify(&start, garbage::ACCOUNT)?;
        let ready = ready(Arc::clone(&caches), Some(Arc::clone(&everything)));
        let (everything, journal) = (Arc::clone(&everything), Arc::clone(&journal));
        let work = garbage::run(Collector { client, everything, queue: garbage, journal }, shutdown.clone());
        running.spawn(run_as(identity, ready, work, shutdown.clone()));
    }
    if start.flags.wants(namespace::NAME) {
        let (identity, client) = identify(&start, namespace::ACCOUNT)?;
        let ready = ready(Arc::clone(&caches), Some(Arc::clone(&everything)));
        let (everything, journal) = (Arc::clone(&everything), Arc::clone(&journal));
        let cache = caches.namespaces.clone();
        let means = namespace::Means { client, namespaces: cache, everything, queue: namespaces, journal };
        running.spawn(run_as(identity, ready, namespace::run(means, shutdown.clone()), shutdown.clone()));
    }
    let follow = everything.follow(shutdown.clone());
    running.spawn(async move { _ = shutdown.run_until_cancelled(follow).await });
    // Turns catch their panics, so a failed join has nothing to tell.
    while running.join_next().await.is_some() {}
    Ok(())
}

/// The client that a controller acts with, and the identity to keep up if it is one of its own.
fn identify(start: &Start, account: &'static str) -> Result<(Option<Identity>, Client), ConfigError> {
    if !start.flags.use_service_account_credentials {
        return Ok((None, start.client.clone()));
    }
    let (identity, client) = Identity::new(start.client.clone(), &start.config, account)?;
    Ok((Some(identity), client))
}

async fn run_as(
    identity: Option<Identity>,
    ready: impl Future<Output = ()>,
    work: impl Future<Output = ()>,
    shutdown: CancellationToken,
) {
    let ready = async {
        ready.await;
        if let Some(identity) = &identity {
            identity.renew().await;
        }
    };
    if shutdown.run_until_cancelled(ready).await.is_none() {
        return;
    }
    match identity {
        Some(identity) => tokio::select! {
            () = work => {}
            () = identity.keep() => {}
        },
        None => work.await,
    }
}
