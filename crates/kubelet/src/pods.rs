//! The pods of this node and their workers: who hears of what, and what happens to that which belongs to nobody.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use api_types::{Key, Object, jiff::Timestamp, k8s::core::Pod};
use client::Change;
use daemon::diagnosis::ObjectRef;
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    host::Host,
    pod::{
        act,
        worker::{self, Mailbox},
    },
    runtime::PodIdentity,
    static_pods,
    volume::{PodDir, prepare},
};

/// A safety net under the runtime's events.
const RELIST_PERIOD: Duration = Duration::from_secs(60);
/// Pause before the runtime's events are asked for again.
const EVENTS_RETRY: Duration = Duration::from_secs(1);

/// All pods that this kubelet runs or is getting rid of.
pub struct Pods {
    mailboxes: Mutex<HashMap<String, Arc<Mailbox>>>,
    workers: TaskTracker,
    shutdown: CancellationToken,
}

impl Pods {
    pub fn new(shutdown: CancellationToken) -> Self {
        Self { mailboxes: Mutex::default(), workers: TaskTracker::new(), shutdown }
    }

    /// What the API tells. Mirrors of static pods are not run: their files are.
    pub fn heard(self: &Arc<Self>, host: &Arc<Host>, change: &Change<Pod>) {
        if static_pods::is_mirror(change.object()) {
            return;
        }
        let event = match change {
            Change::Added(pod) => {
                self.put(host, pod.clone());
                "Added"
            }
            Change::Updated { new, .. } => {
                self.put(host, new.clone());
                "Modified"
            }
            Change::Deleted(pod) => {
                self.put_gone(pod.uid());
                "Deleted"
            }
        };
        let pod = change.object();
        host.ledger.saw(ObjectRef::of(pod.as_ref()), event, pod.resource_version(), Timestamp::now());
    }

    pub fn put(self: &Arc<Self>, host: &Arc<Host>, pod: Arc<Pod>) {
        let identity = crate::pod::container::identity(&pod);
        self.mailbox(host, identity).put(pod);
    }

    pub fn put_gone(&self, uid: &str) {
        if let Some(mailbox) = self.mailboxes.lock().get(uid) {
            mailbox.put_gone();
        }
    }

    /// Something happened to a container of the pod.
    pub fn wake(&self, uid: &str) {
        if let Some(mailbox) = self.mailboxes.lock().get(uid) {
            mailbox.wake();
        }
    }

    /// The pod's object in the API is a new one.
    pub fn wake_untold(&self, uid: &str) {
        if let Some(mailbox) = self.mailboxes.lock().get(uid) {
            mailbox.put_untold();
        }
    }

    /// An object that the pod refers to has changed.
    pub fn wake_objects_changed(&self, uid: &str) {
        if let Some(mailbox) = self.mailboxes.lock().get(uid) {
            mailbox.put_objects_changed();
        }
    }

    /// The pods that are known to the API or by a file.
    pub fn list(&self) -> Vec<Arc<Pod>> {
        self.mailboxes.lock().values().filter_map(|mailbox| mailbox.pod()).collect()
    }

    pub fn find(&self, key: &Key) -> Option<Arc<Pod>> {
        self.list().into_iter().find(|pod| pod.key() == *key)
    }

    /// Ends when all workers have, which leave their containers as they are.
    pub async fn wait(&self) {
        self.workers.close();
        self.workers.wait().await;
    }

    /// The pod's mailbox; with a worker behind it.
    fn mailbox(self: &Arc<Self>, host: &Arc<Host>, identity: PodIdentity) -> Arc<Mailbox> {
        let mut mailboxes = self.mailboxes.lock();
        let uid = identity.uid.clone();
        let mailbox = mailboxes.entry(uid.clone()).or_insert_with(|| {
            let mailbox = Arc::new(Mailbox::new(identity));
            let (pods, host, own) = (self.clone(), host.clone(), mailbox.clone());
            self.workers.spawn(async move {
                loop {
                    worker::run(host.clone(), own.clone(), pods.shutdown.clone()).await;
                    let mut mailboxes = pods.mailboxes.lock();
                    // A static pod may have come back under its old uid.
                    let is_wanted = own.pod().is_some_and(|pod| !pod.is_terminating());
                    if pods.shutdown.is_cancelled() || !is_wanted {
                        mailboxes.remove(&uid);
                        break;
                    }
                }
            });
            mailbox
        });
        mailbox.clone()
    }

    fn wake_all(&self) {
        self.mailboxes.lock().values().for_each(|mailbox| mailbox.wake());
    }

    fn uids(&self) -> BTreeSet<String> {
        self.mailboxes.lock().keys().cloned().collect()
    }
}

/// Wakes workers at the runtime's events, for ever. Whenever the events were interrupted, everybody looks again.
pub async fn follow_runtime(host: Arc<Host>, pods: Arc<Pods>, shutdown: CancellationToken) {
    let follow = async {
        loop {
            match host.runtime.changes().await {
                Ok(mut changes) => {
                    pods.wake_all();
                    while let Some(change) = changes.next().await {
                        pods.wake(&change.pod_uid);
                    }
                    tracing::warn!("the container runtime's events ended; asking again");
                }
                Err(error) => tracing::warn!(%error, "the container runtime tells no events; asking again"),
            }
            sleep(EVENTS_RETRY).await;
        }
    };
    tokio::select! {
        () = follow => {}
        () = shutdown.cancelled() => {}
    }
}

/// Once a minute, and at the start: what belongs to no pod is removed, and everybody looks again.
/// To be started when the API's pods are known.
pub async fn tidy(host: Arc<Host>, pods: Arc<Pods>, shutdown: CancellationToken) {
    let mut ticks = interval(RELIST_PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shutdown.cancelled() => return,
        }
        let containers = match host.runtime.list(None).await {
            Ok(containers) => containers,
            Err(error) => {
                tracing::warn!(%error, "cannot list containers");
                continue;
            }
        };
        let known = pods.uids();
        for container in containers.iter().filter(|container| !known.contains(&container.pod.uid)) {
            tracing::info!(
                pod = container.pod.name,
                uid = container.pod.uid,
                "removing a pod that the API does not know"
            );
            pods.mailbox(&host, container.pod.clone()).put_gone();
        }
        let live: BTreeSet<String> = containers.into_iter().map(|container| container.id).collect();
        for id in host.network.leftovers(&live) {
            tracing::info!(sandbox = id, "disconnecting a sandbox that is gone");
            if let Err(error) = act::remove_sandbox(&host, &id).await {
                tracing::warn!(sandbox = id, error, "cannot disconnect a sandbox that is gone");
            }
        }
        remove_orphaned_dirs(&host, &pods.uids());
        pods.wake_all();
    }
}

fn remove_orphaned_dirs(host: &Host, known: &BTreeSet<String>) {
    let entries = std::fs::read_dir(host.settings.root.join("pods")).into_iter().flatten().flatten();
    for uid in entries.filter_map(|entry| entry.file_name().into_string().ok()).filter(|uid| !known.contains(uid)) {
        if let Err(error) = prepare::remove(&PodDir::new(&host.settings.root, &uid)) {
            tracing::warn!(uid, %error, "cannot remove the files of a pod that is gone");
        }
    }
}
