//! The table of controllers, and the start of those that are wanted.

use client::{Client, Queue};
use daemon::diagnosis::Ledger;
use std::sync::Arc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    caches::{Caches, Subscriptions},
    deployment, endpoint_slice, endpoints,
    reconcile::{self, Controller, Means},
    replica_set, root_ca, service_account,
    settings::Settings,
};

/// Every controller that is a row.
pub static ALL: &[&Controller] = &[
    &service_account::CONTROLLER,
    &root_ca::CONTROLLER,
    &replica_set::CONTROLLER,
    &deployment::CONTROLLER,
    &endpoints::CONTROLLER,
    &endpoint_slice::CONTROLLER,
];

/// Runs what `wanted` says until `shutdown`; returns when all have ended.
pub async fn run(
    client: Client,
    settings: Settings,
    ledger: Ledger,
    shutdown: CancellationToken,
    wanted: impl Fn(&str) -> bool,
) {
    let mut subscriptions = Subscriptions::default();
    let rows: Vec<(&'static Controller, Queue<_>)> = ALL
        .iter()
        .filter(|controller| wanted(controller.name))
        .map(|controller| (*controller, Queue::new(controller.name)))
        .collect();
    for (controller, queue) in &rows {
        (controller.watch)(&mut subscriptions, queue);
    }
    let caches = Caches::start(&client, subscriptions, &shutdown);
    // A decision on half a list would take what is not there yet for gone.
    if shutdown.run_until_cancelled(caches.synced()).await.is_none() {
        return;
    }
    tracing::info!("caches complete");
    let means = Means { client, caches, settings: Arc::new(settings), ledger };
    let mut running = JoinSet::new();
    for (controller, queue) in rows {
        running.spawn(reconcile::run(controller, queue, means.clone(), shutdown.clone()));
    }
    // Turns catch their panics, so a failed join has nothing to tell.
    while running.join_next().await.is_some() {}
}
