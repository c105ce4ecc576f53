//! The loop: takes the Services that changed, works out what they want now, and carries
//! the difference to the kernel in one transaction.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use api_types::{
    Key, Object,
    jiff::Timestamp,
    k8s::{core::Service, discovery::EndpointSlice},
};
use client::{Cache, Client, controller::chain};
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    apply, conntrack,
    conntrack::Stale,
    flags::Settings,
    health::{NodePorts, Progress},
    layout::{Layout, Table, Touched},
    metrics::Metrics,
    render,
    ruleset::{self, Wanted},
};

const SERVICE_LABEL: &str = "kubernetes.io/service-name";
const BY_SERVICE: &str = "service";
/// Pause after a failed transaction, doubling up to the second.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// Runs until `stop`. The table stays: connections go on without us.
pub async fn run(client: Client, settings: Settings, progress: Progress, metrics: Metrics, stop: CancellationToken) {
    let changed = Arc::new(Changed::default());
    let services = Cache::<Service>::builder(client.clone())
        .on_change({
            let changed = Arc::clone(&changed);
            move |change| changed.add(change.object().key())
        })
        .start(stop.clone());
    let slices = Cache::<EndpointSlice>::builder(client)
        // Headless Services need no proxy.
        .labels("!service.kubernetes.io/headless")
        .index(BY_SERVICE, |slice: &EndpointSlice| service_of(slice).map(|key| key.to_string()).into_iter().collect())
        .on_change({
            let changed = Arc::clone(&changed);
            move |change| {
                let named = change.old().map(|old| service_of(old)).into_iter().chain([service_of(change.object())]);
                named.flatten().for_each(|key| changed.add(key));
            }
        })
        .start(stop.clone());
    let synced = async {
        services.synced().await;
        slices.synced().await;
    };
    if stop.run_until_cancelled(synced).await.is_none() {
        return;
    }
    let tables = settings.layouts.iter().map(|layout| Side::new(layout.clone())).collect();
    let ports = NodePorts::new(settings.bind_address, stop.clone());
    let proxy = Proxy { node: settings.node, services, slices, sides: tables, ports, progress, metrics };
    proxy.work(&changed, stop).await;
}

fn service_of(slice: &EndpointSlice) -> Option<Key> {
    slice.label(SERVICE_LABEL).map(|name| Key::new(slice.namespace(), name))
}

/// Services to look at, each once.
#[derive(Default)]
struct Changed {
    keys: Mutex<BTreeSet<Key>>,
    news: Notify,
}

impl Changed {
    fn add(&self, key: Key) {
        self.keys.lock().insert(key);
        self.news.notify_one();
    }
    fn take(&self) -> BTreeSet<Key> {
        std::mem::take(&mut *self.keys.lock())
    }
}

struct Proxy {
    node: String,
    services: Cache<Service>,
    slices: Cache<EndpointSlice>,
    sides: Vec<Side>,
    ports: NodePorts,
    progress: Progress,
    metrics: Metrics,
}

/// One address family.
struct Side {
    layout: Layout,
    table: Table,
    wanted: HashMap<Key, Wanted>,
    touched: Touched,
    stale: Vec<Stale>,
    /// What the kernel has is not known: replace all of it.
    unknown: bool,
}

impl Side {
    fn new(layout: Layout) -> Self {
        let table = Table::default();
        Self { layout, table, wanted: HashMap::new(), touched: Touched::new(), stale: Vec::new(), unknown: true }
    }

    fn take_in(&mut self, key: &Key, wanted: Wanted) {
        let known = self.wanted.remove(key).unwrap_or_default();
        if known != wanted {
            self.table.set(key, self.layout.part(&wanted), &mut self.touched);
            self.stale.extend(conntrack::stale(&known, &wanted, self.layout.family));
        }
        if wanted != Wanted::default() {
            self.wanted.insert(key.clone(), wanted);
        }
    }

    fn text(&self) -> String {
        if self.unknown {
            render::whole(&self.layout, &self.table)
        } else {
            render::difference(&self.layout, &self.table, &self.touched)
        }
    }
}

impl Proxy {
    async fn work(mut self, changed: &Changed, stop: CancellationToken) {
        let mut pause = Duration::ZERO;
        while !stop.is_cancelled() {
            let keys = changed.take();
            let begun = Instant::now();
            for key in &keys {
                self.take_in(key).await;
            }
            if self.has_work() {
                self.progress.waits(Timestamp::now());
                match self.carry_out().await {
                    Ok(()) => {
                        pause = Duration::ZERO;
                        self.metrics.synced(begun.elapsed());
                        self.progress.done(Timestamp::now());
                    }
                    Err(error) => {
                        pause = (pause * 2).clamp(RETRY_MIN, RETRY_MAX);
                        self.metrics.failed();
                        tracing::error!(why = chain(&error), again_in_s = pause.as_secs(), "rules not loaded");
                        self.sides.iter_mut().for_each(|side| side.unknown = true);
                    }
                }
            }
            let retry = async {
                match pause {
                    Duration::ZERO => std::future::pending().await,
                    pause => tokio::time::sleep(pause).await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = changed.news.notified() => {}
                () = retry => {}
            }
        }
    }

    async fn take_in(&mut self, key: &Key) {
        let service = self.services.get(key);
        let slices = self.slices.by_index(BY_SERVICE, &key.to_string());
        let mut health = None;
        for side in &mut self.sides {
            let wanted = match &service {
                Some(service) => ruleset::wanted(service, &slices, &self.node, side.layout.family),
                None => Wanted::default(),
            };
            health = health.or(wanted.health);
            side.take_in(key, wanted);
        }
        self.ports.set(key, health).await;
    }

    fn has_work(&self) -> bool {
        self.sides.iter().any(|side| side.unknown || !side.touched.is_empty())
    }

    /// One transaction for both families.
    async fn carry_out(&mut self) -> Result<(), apply::ApplyError> {
        let text: String = self.sides.iter().map(Side::text).collect();
        apply::apply(&text).await?;
        let services: usize = self.sides.iter().map(|side| side.wanted.len()).sum();
        tracing::debug!(bytes = text.len(), services, "rules loaded");
        for side in &mut self.sides {
            side.unknown = false;
            side.touched.clear();
            conntrack::forget(&std::mem::take(&mut side.stale)).await;
        }
        Ok(())
    }
}
