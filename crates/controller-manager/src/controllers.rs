//! The table of controllers, and the start of those that are wanted.

use std::sync::Arc;

use api_types::Key;
use client::{Client, Config, ConfigError, Queue};
use daemon::diagnosis::Ledger;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    caches::{Caches, Subscriptions},
    cron_job, daemon_set, deployment, disruption, endpoint_slice, endpoints,
    everything::{Everything, Item, Listener},
    flags::Flags,
    garbage::{self, Collector},
    identity::Identity,
    job,
    journal::Journal,
    namespace, node_ipam, node_lifecycle, pod_gc, quota,
    reconcile::{self, Controller, Means},
    replica_set, replication_controller, request_cleaner, role_aggregation, root_ca, service_account,
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
    &request_cleaner::CONTROLLER,
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
    let mut listeners: Vec<Listener> = Vec::new();
    let mut rows: Vec<(&'static Controller, Queue<Key>)> = Vec::new();
    for controller in ALL.iter().filter(|controller| start.flags.wants(controller.name)) {
        let queue = Queue::new(controller.name);
        (controller.watch)(&mut subscriptions, &queue);
        if let Some(watch) = controller.watch_everything {
            listeners.push(watch(&queue));
        }
        rows.push((controller, queue));
    }
    let garbage = start.flags.wants(garbage::NAME).then(|| Queue::new(garbage::NAME));
    listeners.extend(garbage.as_ref().map(|queue| Box::new(garbage::watch(queue)) as Listener));
    let namespaces = start.flags.wants(namespace::NAME).then(|| Queue::new(namespace::NAME));
    if let Some(queue) = &namespaces {
        namespace::watch(&mut subscriptions, queue);
        listeners.push(Box::new(namespace::watch_contents(queue)));
    }
    let mut crew = Crew::new(start, subscriptions, listeners, shutdown);
    for (controller, queue) in rows {
        crew.add(controller, queue)?;
    }
    if let Some(queue) = garbage {
        crew.add_collector(queue)?;
    }
    if let Some(queue) = namespaces {
        crew.add_namespaces(queue)?;
    }
    crew.work().await;
    Ok(())
}

/// Those that run, and what they share.
struct Crew {
    start: Start,
    caches: Arc<Caches>,
    everything: Arc<Everything>,
    journal: Arc<Journal>,
    settings: Arc<Settings>,
    running: JoinSet<()>,
    shutdown: CancellationToken,
}

impl Crew {
    fn new(start: Start, subscriptions: Subscriptions, listeners: Vec<Listener>, shutdown: CancellationToken) -> Self {
        let journal = Arc::new(Journal::new(start.ledger.clone()));
        let caches = Caches::start(&start.client, subscriptions, &journal, &shutdown);
        let everything = Everything::new(start.client.clone(), listeners);
        let settings = Arc::new(start.settings.clone());
        Self { start, caches, everything, journal, settings, running: JoinSet::new(), shutdown }
    }

    fn add(&mut self, controller: &'static Controller, queue: Queue<Key>) -> Result<(), ConfigError> {
        let (identity, client) = identify(&self.start, controller.account)?;
        let ready = self.ready(controller.watch_everything.map(|_| Arc::clone(&self.everything)));
        let means = Means {
            client,
            reader: self.start.client.clone(),
            caches: Arc::clone(&self.caches),
            everything: Arc::clone(&self.everything),
            settings: Arc::clone(&self.settings),
            journal: Arc::clone(&self.journal),
        };
        let work = reconcile::run(controller, queue, means, self.shutdown.clone());
        self.running.spawn(run_as(identity, ready, work, self.shutdown.clone()));
        Ok(())
    }

    fn add_collector(&mut self, queue: Queue<Item>) -> Result<(), ConfigError> {
        let (identity, client) = identify(&self.start, garbage::ACCOUNT)?;
        let ready = self.ready(Some(Arc::clone(&self.everything)));
        let (everything, journal) = (Arc::clone(&self.everything), Arc::clone(&self.journal));
        let work = garbage::run(Collector { client, everything, queue, journal }, self.shutdown.clone());
        self.running.spawn(run_as(identity, ready, work, self.shutdown.clone()));
        Ok(())
    }

    fn add_namespaces(&mut self, queue: Queue<Key>) -> Result<(), ConfigError> {
        let (identity, client) = identify(&self.start, namespace::ACCOUNT)?;
        let ready = self.ready(Some(Arc::clone(&self.everything)));
        let (everything, journal) = (Arc::clone(&self.everything), Arc::clone(&self.journal));
        let namespaces = self.caches.namespaces.clone();
        let means = namespace::Means { client, namespaces, everything, queue, journal };
        self.running.spawn(run_as(
            identity,
            ready,
            namespace::run(means, self.shutdown.clone()),
            self.shutdown.clone(),
        ));
        Ok(())
    }

    /// A decision on half a list would take what is not there yet for gone.
    fn ready(&self, everything: Option<Arc<Everything>>) -> impl Future<Output = ()> + Send + 'static {
        let caches = Arc::clone(&self.caches);
        async move {
            caches.synced().await;
            if let Some(everything) = everything {
                everything.synced().await;
            }
        }
    }

    /// Returns when all have ended.
    async fn work(mut self) {
        let follow = self.everything.follow(self.shutdown.clone());
        let shutdown = self.shutdown.clone();
        self.running.spawn(async move { _ = shutdown.run_until_cancelled(follow).await });
        // Turns catch their panics, so a failed join has nothing to tell.
        while self.running.join_next().await.is_some() {}
    }
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
