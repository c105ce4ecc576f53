//! The table of controllers, and the start of those that are wanted.

use std::sync::Arc;

use client::{Client, Config, ConfigError, Queue};
use daemon::diagnosis::Ledger;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    caches::{Caches, Subscriptions},
    deployment, endpoint_slice, endpoints,
    flags::Flags,
    identity::Identity,
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
    let Start { flags, settings, config, client, ledger } = start;
    let mut subscriptions = Subscriptions::default();
    let rows: Vec<(&'static Controller, Queue<_>)> = ALL
        .iter()
        .filter(|controller| flags.wants(controller.name))
        .map(|controller| (*controller, Queue::new(controller.name)))
        .collect();
    for (controller, queue) in &rows {
        (controller.watch)(&mut subscriptions, queue);
    }
    let caches = Caches::start(&client, subscriptions, &shutdown);
    let settings = Arc::new(settings);
    let mut running = JoinSet::new();
    for (controller, queue) in rows {
        let (identity, own) = match flags.use_service_account_credentials {
            true => {
                let (identity, own) = Identity::new(client.clone(), &config, controller.account)?;
                (Some(identity), own)
            }
            false => (None, client.clone()),
        };
        let (caches, settings, ledger) = (Arc::clone(&caches), Arc::clone(&settings), ledger.clone());
        let means = Means { client: own, caches, settings, ledger };
        running.spawn(run_as(identity, controller, queue, means, shutdown.clone()));
    }
    // Turns catch their panics, so a failed join has nothing to tell.
    while running.join_next().await.is_some() {}
    Ok(())
}

async fn run_as(
    identity: Option<Identity>,
    controller: &'static Controller,
    queue: Queue<api_types::Key>,
    means: Means,
    shutdown: CancellationToken,
) {
    let ready = async {
        // A decision on half a list would take what is not there yet for gone.
        means.caches.synced().await;
        if let Some(identity) = &identity {
            identity.renew().await;
        }
    };
    if shutdown.run_until_cancelled(ready).await.is_none() {
        return;
    }
    let work = reconcile::run(controller, queue, means, shutdown);
    match identity {
        Some(identity) => tokio::select! {
            () = work => {}
            () = identity.keep() => {}
        },
        None => work.await,
    }
}
