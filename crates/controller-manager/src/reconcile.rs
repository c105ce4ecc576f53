//! One turn of any controller: wait until the caches show what was written before, decide, do,
//! remember. All controllers pass through here.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use api_types::{Key, Resource, jiff::Timestamp};
use client::{Client, Error, Queue, Recorder};
use daemon::diagnosis::Reason;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::{
    action::Write,
    caches::{Caches, Subscriptions},
    everything::{Everything, Listener},
    execute::{Executor, Report, Trace, Written},
    journal::Journal,
    plan::{Failure, Plan, Turn, World},
    settings::Settings,
};

/// A controller: whose keys it works on, what wakes it, and how it decides.
pub struct Controller {
    /// Upstream's name, as `--controllers` takes it.
    pub name: &'static str,
    /// Whose keys are in the queue.
    pub resource: &'static Resource,
    /// The ServiceAccount in kube-system that it acts as.
    pub account: &'static str,
    /// As the source of its events.
    pub component: &'static str,
    pub workers: usize,
    /// Says which changes put which keys into the queue.
    pub watch: fn(&mut Subscriptions, &Queue<Key>),
    /// The same for changes to objects of any kind; who has it waits until all kinds are listed.
    pub watch_everything: Option<fn(&Queue<Key>) -> Listener>,
    /// View and plan: pure but for reading the caches.
    pub decide: fn(&World<'_>, &Turn<'_>) -> Plan,
}

/// What every controller runs with.
#[derive(Clone)]
pub struct Means {
    /// Acts as the controller's own account.
    pub client: Client,
    /// Of the daemon itself: reads everything.
    pub reader: Client,
    pub caches: Arc<Caches>,
    pub everything: Arc<Everything>,
    pub settings: Arc<Settings>,
    pub journal: Arc<Journal>,
}

/// Runs `controller` until `shutdown`.
pub async fn run(controller: &'static Controller, queue: Queue<Key>, means: Means, shutdown: CancellationToken) {
    let recorder = Recorder::new(means.client.clone(), controller.component, "");
    let reconciler = Arc::new(Reconciler {
        controller,
        queue: queue.clone(),
        executor: Executor::new(means.client.clone(), means.reader.clone(), recorder)
            .with_signers(means.settings.signers.clone()),
        means,
        memory: Mutex::default(),
    });
    client::controller::run(controller.name, queue, controller.workers, shutdown, move |key: Key| {
        let reconciler = Arc::clone(&reconciler);
        async move { reconciler.turn(key).await }
    })
    .await;
}

struct Reconciler {
    controller: &'static Controller,
    queue: Queue<Key>,
    executor: Executor,
    means: Means,
    /// Of the keys whose writes are not known to be seen, or whose last turn failed.
    memory: Mutex<HashMap<Key, Remembered>>,
}

/// What a key's next turn has to know of the last ones.
#[derive(Default)]
struct Remembered {
    written: Vec<Written>,
    failure: Option<Failure>,
}

impl Reconciler {
    async fn turn(&self, key: Key) -> Result<(), Error> {
        let remembered = self.memory.lock().remove(&key).unwrap_or_default();
        let unseen = self.wait_for(remembered.written).await;
        let plan = {
            let deleting: HashSet<String> = unseen.iter().filter_map(uid).collect();
            let Means { caches, everything, settings, .. } = &self.means;
            let world = World { caches, everything, settings };
            let failure = remembered.failure.as_ref();
            (self.controller.decide)(&world, &Turn { key: &key, now: Timestamp::now(), failure, deleting: &deleting })
        };
        let Controller { name, resource, .. } = *self.controller;
        self.means.journal.explain(name, resource, &key, reasons(name, &plan));
        let report = self.executor.execute(&plan.actions).await;
        if let Some(after) = plan.look_again_after {
            self.queue.add_after(key.clone(), after);
        }
        self.remember(key, unseen, report)
    }

    /// Returns when all writes but deletions show in the caches, with the deletions that do not show yet.
    async fn wait_for(&self, written: Vec<Written>) -> Vec<Written> {
        let caches = &self.means.caches;
        let mut unseen = Vec::new();
        for write in written {
            match &write.trace {
                Trace::Version(version) => caches.seen(&write.resource, version).await,
                Trace::Gone { uid } if caches.shows_alive(&write.resource, &write.key, uid) => unseen.push(write),
                Trace::Gone { .. } => {}
            }
        }
        unseen
    }

    fn remember(&self, key: Key, unseen: Vec<Written>, report: Report) -> Result<(), Error> {
        let written: Vec<Written> = unseen.into_iter().chain(report.written).collect();
        let (failure, error) = report.failure.unzip();
        if !written.is_empty() || failure.is_some() {
            self.memory.lock().insert(key, Remembered { written, failure });
        }
        error.map_or(Ok(()), Err)
    }
}

fn uid(write: &Written) -> Option<String> {
    match &write.trace {
        Trace::Gone { uid } => Some(uid.clone()),
        Trace::Version(_) => None,
    }
}

/// The plan's own words, then what it does.
pub fn reasons(controller: &str, plan: &Plan) -> Vec<Reason> {
    let decided = plan.reasons.iter().map(|reason| Reason::new(reason.code, &reason.message));
    let acts = plan.actions.iter().map(|action| {
        let what = match &action.write {
            Write::Create(_) => "creates",
            Write::Update { .. } | Write::Patch { .. } | Write::Certify { .. } => "updates",
            Write::Delete(_) | Write::DeleteAll(_) => "deletes",
        };
        let message = format!("{controller} {what} {} {}: {}", action.resource.singular, action.key, action.why);
        Reason::new("Acting", message)
    });
    decided.chain(acts).collect()
}
