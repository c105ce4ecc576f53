//! The one loop that owns snapshot and queue: takes in what changed, decides on one pod
//! after another, and sets bindings and reports on their way without waiting for them.

use std::{collections::BTreeSet, sync::Arc};

use api_types::{Key, Object, jiff::Timestamp, k8s::core::Pod, resources};
use client::{Client, EventKind, Patch, Recorder, controller::chain};
use daemon::diagnosis::{Ledger, ObjectRef, Reason};
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    bind::{self, Bound, Eviction},
    caches::Caches,
    cycle::{self, Diagnosis, Outcome, Search},
    facts::{NodeFacts, PodFacts},
    flags::Settings,
    mailbox::{Mailbox, Note},
    metrics::Metrics,
    plugins::{Scene, scheduling_gates},
    preempt::{self, Plan},
    queue::{Hint, Queue},
    report::{self, Finding},
    snapshot::Snapshot,
};

/// Bindings on their way at a time; decisions wait for the first to end when there are more.
const BINDINGS_MAX: usize = 512;
/// Reports and evictions on their way at a time.
const REPORTS_MAX: usize = 512;

/// Runs until `stop`; whoever calls it must be the only scheduler.
pub async fn run(client: Client, settings: Settings, ledger: Ledger, metrics: Metrics, stop: CancellationToken) {
    let mailbox = Arc::new(Mailbox::default());
    let Some(caches) = stop.run_until_cancelled(Caches::start(&client, &mailbox, &stop)).await else { return };
    tracing::info!(nodes = caches.nodes.len(), pods = caches.pods.len(), "watching");
    let scheduler = Scheduler {
        doers: Doers { client: client.clone(), recorders: Recorders::new(&client, &settings), ledger, metrics },
        caches,
        settings,
        snapshot: Snapshot::default(),
        queue: Queue::default(),
        start: 0,
        bindings: JoinSet::new(),
        reports: JoinSet::new(),
    };
    scheduler.work(&mailbox, stop).await;
}

struct Scheduler {
    doers: Doers,
    caches: Caches,
    settings: Settings,
    snapshot: Snapshot,
    queue: Queue,
    /// Where the next search among the nodes begins.
    start: usize,
    bindings: JoinSet<Bound>,
    reports: JoinSet<()>,
}

struct Doers {
    client: Client,
    recorders: Recorders,
    ledger: Ledger,
    metrics: Metrics,
}

/// An event names the profile that speaks, as upstream's do.
struct Recorders(Vec<(String, Recorder)>);

impl Recorders {
    fn new(client: &Client, settings: &Settings) -> Self {
        let recorder = |profile: &String| (profile.clone(), Recorder::new(client.clone(), profile, ""));
        Self(settings.profiles.iter().map(recorder).collect())
    }
    fn of(&self, pod: &PodFacts) -> Option<&Recorder> {
        self.0.iter().find(|(profile, _)| *profile == pod.id.scheduler).map(|(_, recorder)| recorder)
    }
}

impl Scheduler {
    async fn work(mut self, mailbox: &Mailbox, stop: CancellationToken) {
        while !stop.is_cancelled() {
            self.take_in(mailbox.take());
            while let Some(ended) = self.bindings.try_join_next() {
                self.settle(ended.ok());
            }
            while self.reports.try_join_next().is_some() {}
            self.queue.promote(Instant::now());
            let busy = self.bindings.len() >= BINDINGS_MAX || self.reports.len() >= REPORTS_MAX;
            if let Some(pod) = if busy { None } else { self.queue.pop() } {
                self.attempt(pod);
                // Lets bindings go out between decisions.
                tokio::task::yield_now().await;
                continue;
            }
            self.doers.metrics.pending(&self.queue);
            let deadline = self.queue.deadline();
            let due = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = mailbox.news() => {}
                Some(ended) = self.bindings.join_next(), if !self.bindings.is_empty() => self.settle(ended.ok()),
                Some(_) = self.reports.join_next(), if !self.reports.is_empty() => {}
                () = due => {}
            }
        }
        // What is on its way arrives or times out; the next leader sees the result.
        while self.bindings.join_next().await.is_some() {}
    }

    /// Brings snapshot and queue up to date with the caches.
    fn take_in(&mut self, notes: Vec<Note>) {
        let mut hints = BTreeSet::new();
        for note in notes {
            match note {
                Note::Pod { key, uid } => self.take_in_pod(&key, &uid, &mut hints),
                Note::Node { name } => self.take_in_node(&name, &mut hints),
                Note::Namespace { name } => {
                    match self.caches.namespaces.get(&Key::cluster(&name)) {
                        Some(namespace) => {
                            let labels = namespace.meta().labels.clone().unwrap_or_default();
                            self.snapshot.namespaces.insert(name, labels);
                        }
                        None => {
                            self.snapshot.namespaces.remove(&name);
                        }
                    }
                    hints.insert(Hint::Namespaces);
                }
                Note::Hint(hint) => {
                    hints.insert(hint);
                }
            }
        }
        for hint in hints {
            self.queue.hint(hint, Instant::now());
        }
    }

    fn take_in_pod(&mut self, key: &Key, uid: &str, hints: &mut BTreeSet<Hint>) {
        let pod = self.caches.pods.get(key).filter(|pod| pod.uid() == uid);
        let facts = pod.map(|pod| Arc::new(PodFacts::read(&pod))).filter(|facts| !facts.status.finished);
        let Some(facts) = facts else {
            if self.queue.get(key).is_some_and(|waiting| waiting.id.uid == uid) {
                self.queue.remove(key);
            }
            let had_waited = self.snapshot.withdraw(uid);
            if self.snapshot.remove_pod(uid) || had_waited {
                hints.insert(Hint::PodGone);
            }
            self.doers.ledger.explain(ObjectRef::new(&resources::POD, key), Vec::new());
            return;
        };
        if !facts.place.node.is_empty() {
            self.queue.remove(key);
            self.snapshot.withdraw(uid);
            match self.snapshot.place(Arc::clone(&facts)) {
                Some(before) if before.needs.resources != facts.needs.resources => {
                    hints.insert(Hint::PodGone);
                }
                Some(before) if before.labels == facts.labels => {}
                Some(_) | None => {
                    hints.insert(Hint::PodPlaced);
                }
            }
            return;
        }
        if facts.status.terminating || !self.settings.profiles.contains(&facts.id.scheduler) {
            self.queue.remove(key);
            return;
        }
        let is_new = self.queue.get(key).is_none_or(|known| known.id.uid != uid);
        if is_new {
            self.saw(&facts, "Added");
        }
        if !facts.status.nominated_node.is_empty() {
            self.snapshot.nominate(Arc::clone(&facts), &facts.status.nominated_node);
        }
        if scheduling_gates::is_gated(&facts) && is_new {
            self.say(&facts, scheduling_gates::REASON, scheduling_gates::MESSAGE.to_owned(), None);
        }
        self.queue.set(facts, Instant::now());
    }

    fn take_in_node(&mut self, name: &str, hints: &mut BTreeSet<Hint>) {
        let Some(node) = self.caches.nodes.get(&Key::cluster(name)) else {
            self.snapshot.remove_node(name);
            hints.insert(Hint::NodeGone);
            return;
        };
        let news = self.snapshot.set_node(NodeFacts::read(&node));
        let found = [
            (news.added, Hint::NodeAdded),
            (news.allocatable, Hint::NodeAllocatable),
            (news.labels, Hint::NodeLabels),
            (news.taints, Hint::NodeTaints),
        ];
        hints.extend(found.iter().filter(|(is, _)| *is).map(|(_, hint)| *hint));
    }

    /// Decides on one pod, and sets on its way what follows.
    fn attempt(&mut self, pod: Arc<PodFacts>) {
        let begun = Instant::now();
        let surroundings = self.caches.surroundings(&pod);
        let scene = Scene { pod: &pod, snapshot: &self.snapshot, surroundings: &surroundings };
        let search = Search { start: self.start, percentage: self.settings.percentage, seed: rand::random() };
        let outcome = cycle::schedule(scene, search);
        self.doers.metrics.decided(begun.elapsed());
        match outcome {
            Outcome::Placed { node, filtered } => {
                self.start = self.start.wrapping_add(filtered);
                self.snapshot.withdraw(&pod.id.uid);
                self.snapshot.assume(Arc::clone(&pod), &node);
                self.bindings.spawn(bind::bind(self.doers.client.clone(), pod, node));
            }
            Outcome::NoNodes => {
                let message = "no nodes available to schedule pods".to_owned();
                self.cannot(&pod, Vec::new(), message, None);
            }
            Outcome::Unschedulable(diagnosis) => {
                let plan = preempt::plan(scene, &diagnosis, &self.caches.budgets(), search.seed as usize);
                self.make_room(&pod, &diagnosis, plan);
            }
        }
    }

    fn make_room(&mut self, pod: &Arc<PodFacts>, diagnosis: &Diagnosis, plan: Plan) {
        match plan {
            Plan::Nothing(why) => {
                let message = preempt::message(&diagnosis.text(), &why);
                // While victims of an earlier attempt leave, the nomination stands.
                let is_waiting = why.contains("terminating pod");
                if !is_waiting {
                    self.snapshot.withdraw(&pod.id.uid);
                }
                self.cannot(pod, diagnosis.plugins(), message, (!is_waiting).then(String::new));
            }
            Plan::Evict { node, victims } => {
                self.doers.metrics.preempted(victims.len());
                self.snapshot.nominate(Arc::clone(pod), &node);
                self.cannot(pod, diagnosis.plugins(), diagnosis.text(), Some(node.clone()));
                let Some(recorder) = self.doers.recorders.of(pod).cloned() else { return };
                let eviction = Eviction { preemptor: Arc::clone(pod), victims, node };
                self.reports.spawn(bind::evict(self.doers.client.clone(), recorder, eviction));
            }
        }
    }

    /// The pod fits nowhere: it waits, and everybody is told why.
    fn cannot(
        &mut self,
        pod: &Arc<PodFacts>,
        plugins: Vec<&'static str>,
        message: String,
        nominated_node: Option<String>,
    ) {
        self.doers.metrics.attempted(&pod.id.scheduler, "unschedulable");
        self.queue.unschedulable(&pod.id.key, plugins, Instant::now());
        self.warn(pod, &message);
        self.say(pod, "Unschedulable", message, nominated_node);
    }

    fn warn(&self, pod: &PodFacts, message: &str) {
        if let Some(recorder) = self.doers.recorders.of(pod) {
            recorder.event(&report::reference(pod), EventKind::Warning, "FailedScheduling", message);
        }
    }

    /// Writes the condition, if it says something new, and the ledger.
    fn say(&mut self, pod: &PodFacts, reason: &'static str, message: String, nominated_node: Option<String>) {
        let about = ObjectRef::new(&resources::POD, &pod.id.key);
        self.doers.ledger.explain(about, vec![Reason::new(reason, message.clone())]);
        let finding = Finding { reason, message, nominated_node };
        let shown = self.caches.pods.get(&pod.id.key).filter(|shown| shown.uid() == pod.id.uid);
        let Some(patch) = shown.and_then(|shown| report::patch(&shown, &finding, Timestamp::now())) else { return };
        let (client, key) = (self.doers.client.clone(), pod.id.key.clone());
        self.reports.spawn(async move {
            match client.patch_status::<Pod>(&key, &Patch::Strategic(patch)).await {
                Err(error) if !error.is_not_found() => {
                    tracing::warn!(pod = %key, why = chain(&error), "condition not written");
                }
                Ok(_) | Err(_) => {}
            }
        });
    }

    /// Takes note of how a binding ended. `None`: its task panicked, which forgets nothing but is counted there.
    fn settle(&mut self, ended: Option<Bound>) {
        let Some(Bound { pod, node, result }) = ended else { return };
        let key = &pod.id.key;
        match result {
            Ok(()) => {
                tracing::info!(pod = %key, node, "bound");
                self.doers.metrics.attempted(&pod.id.scheduler, "scheduled");
                self.saw(&pod, "Bound");
                self.doers.ledger.explain(ObjectRef::new(&resources::POD, key), Vec::new());
                if let Some(recorder) = self.doers.recorders.of(&pod) {
                    let message = format!("Successfully assigned {key} to {node}");
                    recorder.event(&report::reference(&pod), EventKind::Normal, "Scheduled", message);
                }
            }
            Err(error) => {
                let why = chain(&error);
                tracing::warn!(pod = %key, node, why, "binding failed");
                self.doers.metrics.attempted(&pod.id.scheduler, "error");
                self.snapshot.forget(&pod.id.uid);
                self.queue.hint(Hint::PodGone, Instant::now());
                self.queue.failed(key, Instant::now());
                if !error.is_not_found() {
                    let message = format!("running Bind plugin \"DefaultBinder\": {why}");
                    self.warn(&pod, &message);
                    self.say(&pod, "SchedulerError", message, None);
                }
            }
        }
    }

    fn saw(&self, pod: &PodFacts, event: &'static str) {
        let about = ObjectRef::new(&resources::POD, &pod.id.key);
        self.doers.ledger.saw(about, event, &pod.id.resource_version, Timestamp::now());
    }
}
