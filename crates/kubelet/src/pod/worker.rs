//! One pod's worker: observes, asks [`steps`] what to do, starts what may be done now and tells the API what changed.
//! It never blocks on what it started, so that a deletion, a probe or a change is answered at once.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use api_types::{
    Key, Object,
    jiff::{SignedDuration, Timestamp},
    k8s::core::{Container, Pod},
};
use client::EventKind;
use daemon::diagnosis::{ObjectRef, Reason};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, mpsc},
    task::{AbortHandle, Id, JoinError, JoinSet},
};
use tokio_util::sync::CancellationToken;

use super::{
    act::{self, Place, Refusal, Scene},
    backoff::{self, Backoff},
    desired::{self, Desired, Lifecycle, container_of, target_of},
    look,
    observed::{Doing, Failure, Memory, Observed, Sandbox, Volumes, Work},
    report::{self, Told},
    status,
    steps::{self, ERR_IMAGE_PULL, Plan, Step},
};
use crate::{
    host::Host,
    probe::{
        Kind, Report,
        watch::{Probing, Subject},
    },
    runtime::PodIdentity,
};

/// Reports of probes that wait for the worker.
const REPORTS_MAX: usize = 16;
/// After anything but a pull failed, this long until the next try.
const RETRY_AFTER: SignedDuration = SignedDuration::from_secs(10);
/// When the runtime does not answer.
const RETRY_SOON: SignedDuration = SignedDuration::from_secs(1);
/// Sandboxes are tried again sooner, as nothing else can go on without them.
const SANDBOX_RETRY_AFTER: SignedDuration = SignedDuration::from_secs(5);
/// Volumes are tried again after this long, and twice as long after each failure.
const VOLUMES_RETRY_MIN: SignedDuration = SignedDuration::from_millis(500);
const VOLUMES_RETRY_MAX: SignedDuration = SignedDuration::from_secs(122);

/// Where a worker hears of changes. It keeps only the newest state, so nothing queues up.
pub struct Mailbox {
    identity: PodIdentity,
    state: Mutex<MailState>,
    woken: Notify,
}

#[derive(Default)]
struct MailState {
    pod: Option<Arc<Pod>>,
    /// The API, or the file, does not have the pod any more.
    gone: bool,
    /// An object that the pod refers to has changed.
    objects_changed: bool,
    /// The API has a new object for the pod, which knows nothing yet.
    untold: bool,
}

impl Mailbox {
    pub fn new(identity: PodIdentity) -> Self {
        Self { identity, state: Mutex::default(), woken: Notify::new() }
    }
    pub fn identity(&self) -> &PodIdentity {
        &self.identity
    }
    pub fn put(&self, pod: Arc<Pod>) {
        let mut state = self.state.lock();
        (state.pod, state.gone) = (Some(pod), false);
        self.woken.notify_one();
    }
    pub fn put_gone(&self) {
        self.state.lock().gone = true;
        self.woken.notify_one();
    }
    pub fn put_objects_changed(&self) {
        self.state.lock().objects_changed = true;
        self.woken.notify_one();
    }
    pub fn put_untold(&self) {
        self.state.lock().untold = true;
        self.woken.notify_one();
    }
    /// Something happened to one of the pod's containers.
    pub fn wake(&self) {
        self.woken.notify_one();
    }
    /// The pod as it is known, unless it is gone.
    pub fn pod(&self) -> Option<Arc<Pod>> {
        let state = self.state.lock();
        state.pod.clone().filter(|_| !state.gone)
    }
}

/// How a piece of work ended.
enum Ended {
    Volumes(Result<Option<Timestamp>, Refusal>),
    Sandbox(Result<(), Refusal>),
    Started { name: String, result: Result<(), Refusal> },
    Told(Told),
    Forgotten,
    Other,
}

struct Worker {
    host: Arc<Host>,
    mailbox: Arc<Mailbox>,
    /// When the kubelet first saw the pod; its startTime until the API has one.
    seen_at: Timestamp,
    volumes: Volumes,
    volumes_delay: SignedDuration,
    renew_at: Option<Timestamp>,
    sandbox_failure: Option<Failure>,
    memory: BTreeMap<String, Memory>,
    doing: BTreeMap<Work, (Doing, AbortHandle)>,
    work_of: HashMap<Id, Work>,
    tasks: JoinSet<Ended>,
    probing: HashMap<String, Probing>,
    reports: mpsc::Sender<Report>,
    messages: BTreeMap<String, String>,
    teller: report::Teller,
    shown: BTreeMap<String, String>,
    /// The pod's failure as a whole has been told.
    failed: bool,
    forgotten: bool,
}

/// Works until nothing of the pod is left here, or until `shutdown`, which leaves everything as it is.
pub async fn run(host: Arc<Host>, mailbox: Arc<Mailbox>, shutdown: CancellationToken) {
    let (reports, mut reported) = mpsc::channel(REPORTS_MAX);
    let mut worker = Worker {
        host,
        mailbox: mailbox.clone(),
        seen_at: Timestamp::now(),
        volumes: Volumes::default(),
        volumes_delay: VOLUMES_RETRY_MIN,
        renew_at: None,
        sandbox_failure: None,
        memory: BTreeMap::new(),
        doing: BTreeMap::new(),
        work_of: HashMap::new(),
        tasks: JoinSet::new(),
        probing: HashMap::new(),
        reports,
        messages: BTreeMap::new(),
        teller: report::Teller::default(),
        shown: BTreeMap::new(),
        failed: false,
        forgotten: false,
    };
    while !worker.forgotten {
        let wake_at = worker.turn().await;
        let pause =
            wake_at.map(|at| std::time::Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default());
        let alarm = async {
            match pause {
                Some(pause) => tokio::time::sleep(pause).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = mailbox.woken.notified() => {}
            Some(ended) = worker.tasks.join_next_with_id() => worker.ended(ended),
            Some(report) = reported.recv() => worker.heard(report),
            () = alarm => {}
            () = shutdown.cancelled() => return,
        }
    }
}

impl Worker {
    /// One decision. Answers when to decide again without an event.
    async fn turn(&mut self) -> Option<Timestamp> {
        let now = Timestamp::now();
        let (pod, desired) = self.desired();
        if std::mem::take(&mut self.mailbox.state.lock().objects_changed) {
            self.objects_changed();
        }
        if std::mem::take(&mut self.mailbox.state.lock().untold) {
            self.teller.begin_anew();
        }
        if self.renew_at.is_some_and(|at| at <= now) && self.volumes == Volumes::Ready {
            self.volumes = Volumes::Stale;
        }
        let mut observed = match look::look(&self.host, &self.mailbox.identity, &pod).await {
            Ok(observed) => observed,
            Err(error) => {
                tracing::warn!(pod = %pod.key(), %error, "cannot see the pod's containers");
                return now.checked_add(RETRY_SOON).ok();
            }
        };
        self.remember(&mut observed);
        look::read_messages(self.host.runtime.as_ref(), &pod, &observed, &mut self.messages).await;
        self.probe(&pod, &desired, &observed);
        let mut plan = steps::steps(&desired, &observed, now);
        if desired.lifecycle != Lifecycle::Gone {
            observed.reported = self.tell(&pod, &desired, &observed, &plan, now);
            plan = steps::steps(&desired, &observed, now);
        }
        self.explain(&pod, &desired, &observed, &plan);
        let sandbox = observed.sandbox.clone();
        for step in std::mem::take(&mut plan.steps) {
            self.begin(&pod, &desired, &observed, &sandbox, step, now);
        }
        [plan.wake_at, self.renew_at, self.teller.retry_at()].into_iter().flatten().filter(|at| *at > now).min()
    }

    /// The newest state of the pod; for an orphan just its name.
    fn desired(&self) -> (Arc<Pod>, Desired) {
        let (pod, gone) = {
            let state = self.mailbox.state.lock();
            (state.pod.clone(), state.gone)
        };
        let Some(pod) = pod else { return orphan(&self.mailbox.identity) };
        let pod = self.teller.newest(pod);
        let start =
            pod.status.as_ref().and_then(|status| status.start_time.as_ref()).map_or(self.seen_at, |time| time.0);
        let mut desired = desired::desired(&pod, start);
        if gone {
            desired.lifecycle = Lifecycle::Gone;
        }
        (pod, desired)
    }

    /// Volumes are written anew, and what failed for want of an object is tried again.
    fn objects_changed(&mut self) {
        match self.volumes {
            Volumes::Ready | Volumes::Stale => self.volumes = Volumes::Stale,
            Volumes::Failed(_) | Volumes::Unprepared => self.volumes = Volumes::Unprepared,
        }
        for memory in self.memory.values_mut() {
            if memory.failure.as_ref().is_some_and(|failure| failure.reason == "CreateContainerConfigError") {
                memory.failure = None;
            }
        }
    }

    fn remember(&self, observed: &mut Observed) {
        observed.volumes = self.volumes.clone();
        observed.sandbox_failure = self.sandbox_failure.clone();
        observed.memory = self.memory.clone();
        observed.doing = self.doing.iter().map(|(work, (doing, _))| (work.clone(), *doing)).collect();
    }

    /// Begins to probe what runs and ends to probe what does not.
    fn probe(&mut self, pod: &Arc<Pod>, desired: &Desired, observed: &Observed) {
        let mut running = vec![];
        for wish in &desired.containers {
            let Some(found) = observed.newest(&wish.name).filter(|found| found.is_running()) else { continue };
            running.push(found.id.clone());
            let starting = observed.doing.get(&Work::Container(wish.name.clone())) == Some(&Doing::Start);
            let memory = self.memory.entry(wish.name.clone()).or_default();
            if memory.probes.container_id != found.id {
                memory.probes = observed.probes(&wish.name, &found.id);
            }
            let crate::runtime::State::Running { started_at } = found.state else { continue };
            if starting || self.probing.contains_key(&found.id) {
                continue;
            }
            let Some(container) = container_of(pod, &wish.name) else { continue };
            let Sandbox::Ready { ips, .. } = &observed.sandbox else { continue };
            let started = !wish.startup_probe || status::was_started(pod, found);
            if started {
                memory.probes.started = Some(true);
            }
            let subject = Subject {
                host: self.host.clone(),
                pod: pod.clone(),
                container,
                container_id: found.id.clone(),
                ip: ips.first().map(ToString::to_string).unwrap_or_default(),
                started_at,
            };
            self.probing.insert(found.id.clone(), Probing::begin(&subject, started, &self.reports));
        }
        self.probing.retain(|id, _| running.contains(id));
    }

    fn heard(&mut self, report: Report) {
        let memory = self.memory.entry(report.container).or_default();
        if memory.probes.container_id != report.container_id {
            return;
        }
        match (report.kind, report.good) {
            (Kind::Readiness, good) => memory.probes.ready = Some(good),
            (Kind::Startup, true) => {
                memory.probes.started = Some(true);
                if let Some(probing) = self.probing.get(&report.container_id) {
                    probing.mark_started();
                }
            }
            (Kind::Liveness, true) => {}
            (kind @ (Kind::Startup | Kind::Liveness), false) => {
                memory.probes.condemned_by = Some(kind.word());
                memory.probes.grace_s = report.grace_s;
            }
        }
    }

    /// Begins to tell the API if it does not know; answers whether it knows.
    fn tell(&mut self, pod: &Arc<Pod>, desired: &Desired, observed: &Observed, plan: &Plan, now: Timestamp) -> bool {
        let status = status::status(&status::Facts {
            pod,
            desired,
            observed,
            plan,
            node_ips: &self.host.settings.node_ips,
            messages: &self.messages,
            now,
        });
        if self.teller.is_known(pod, &status) {
            return true;
        }
        if !self.doing.contains_key(&Work::Status) && self.teller.may_try(now) {
            let (client, pod) = (self.host.api.clone(), pod.clone());
            self.spawn(
                Work::Status,
                Doing::Other,
                async move { Ended::Told(report::write(&client, pod, status).await) },
            );
        }
        false
    }

    /// Reasons for whoever asks, and events for what newly backs off.
    fn explain(&mut self, pod: &Arc<Pod>, desired: &Desired, observed: &Observed, plan: &Plan) {
        let shown: BTreeMap<String, String> =
            plan.waiting.iter().map(|(name, waiting)| (name.clone(), waiting.reason.clone())).collect();
        for (name, reason) in &shown {
            if self.shown.get(name) == Some(reason) {
                continue;
            }
            let image =
                desired.containers.iter().find(|wish| wish.name == *name).map_or("", |wish| wish.image.as_str());
            match reason.as_str() {
                "CrashLoopBackOff" => {
                    let message = format!("Back-off restarting failed container {name} in pod {}", desired.label);
                    self.host.event(pod, name, EventKind::Warning, "BackOff", message);
                }
                "ImagePullBackOff" => {
                    self.host.event(
                        pod,
                        name,
                        EventKind::Normal,
                        "BackOff",
                        format!("Back-off pulling image \"{image}\""),
                    );
                    self.host.event(pod, name, EventKind::Warning, "Failed", "Error: ImagePullBackOff");
                }
                _ => {}
            }
        }
        self.shown = shown;
        if let Some(failure) = plan.failure.as_ref().filter(|_| !std::mem::replace(&mut self.failed, true)) {
            self.host.event(pod, "", EventKind::Normal, &failure.reason, failure.message.clone());
        }
        let reasons = report::reasons(pod, desired, observed, plan);
        let reasons = reasons.into_iter().map(|(code, message)| Reason::new(code, message)).collect();
        self.host.ledger.explain(self.object(), reasons);
    }

    // long: one arm per step, each a line or two
    fn begin(
        &mut self,
        pod: &Arc<Pod>,
        desired: &Desired,
        observed: &Observed,
        sandbox: &Sandbox,
        step: Step,
        now: Timestamp,
    ) {
        tracing::debug!(pod = %pod.key(), ?step, "step");
        let ips = match sandbox {
            Sandbox::Ready { ips, .. } => ips.clone(),
            Sandbox::Absent | Sandbox::Broken { .. } => vec![],
        };
        let scene = Scene { host: self.host.clone(), pod: pod.clone(), ips };
        match step {
            Step::PrepareVolumes => {
                self.spawn(Work::Volumes, Doing::Other, async move { Ended::Volumes(scene.prepare_volumes().await) })
            }
            Step::CreateSandbox { attempt } => self
                .spawn(Work::Sandbox, Doing::Start, async move { Ended::Sandbox(scene.create_sandbox(attempt).await) }),
            Step::RemoveSandbox { id } => self.spawn(Work::Sandbox, Doing::Other, async move {
                let removed = act::remove_sandbox(&scene.host, &id).await;
                Ended::Sandbox(removed.map_err(|message| Refusal { reason: "FailedKillPod".to_owned(), message }))
            }),
            Step::Start { name, attempt } => {
                let Sandbox::Ready { id: sandbox_id, .. } = sandbox.clone() else { return };
                let Some(container) = container_of(pod, &name) else { return };
                let hash = desired.containers.iter().find(|wish| wish.name == name).map(|wish| wish.hash.clone());
                let target = target_of(pod, &name).and_then(|target| observed.newest(target));
                let place = Place {
                    sandbox_id,
                    attempt,
                    hash: hash.unwrap_or_default(),
                    target_id: target.filter(|target| target.is_running()).map(|target| target.id.clone()),
                };
                self.count_restart(&name, observed, now);
                self.spawn(Work::Container(name.clone()), Doing::Start, async move {
                    let result = scene.start(&container, &place).await;
                    Ended::Started { name, result }
                });
            }
            Step::Kill { name, id, grace_s, message } => {
                let container = container_of(pod, &name)
                    .unwrap_or_else(|| Container { name: name.clone(), ..Container::default() });
                self.cancel(&Work::Container(name.clone()));
                self.spawn(Work::Container(name), Doing::Kill { grace_s }, async move {
                    if let Err(refusal) = scene.kill(&container, &id, grace_s, &message).await {
                        tracing::warn!(pod = %scene.pod.key(), container = container.name, error = refusal.message, "cannot stop the container");
                        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                    }
                    Ended::Other
                });
            }
            Step::CancelStart { name } => self.cancel(&Work::Container(name)),
            Step::Remove { id } => self.spawn(Work::Removal(id.clone()), Doing::Other, async move {
                if let Err(error) = scene.host.runtime.remove(&id).await {
                    tracing::warn!(pod = %scene.pod.key(), %error, "cannot remove a dead container");
                    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                }
                Ended::Other
            }),
            Step::Forget => self.spawn(Work::Forget, Doing::Other, async move {
                scene.forget().await;
                Ended::Forgotten
            }),
        }
    }

    fn count_restart(&mut self, name: &str, observed: &Observed, now: Timestamp) {
        if let Some(exit) = observed.exit(name) {
            let memory = self.memory.entry(name.to_owned()).or_default();
            memory.restarts = Some(Backoff::next(memory.restarts.as_ref(), exit.finished_at, now));
        }
    }

    fn spawn(&mut self, work: Work, doing: Doing, task: impl Future<Output = Ended> + Send + 'static) {
        let handle = self.tasks.spawn(task);
        self.work_of.insert(handle.id(), work.clone());
        self.doing.insert(work, (doing, handle));
    }

    /// Gives up what is under way; its slot is free at once, and what it left is seen at the next look.
    fn cancel(&mut self, work: &Work) {
        if let Some((_, handle)) = self.doing.remove(work) {
            handle.abort();
        }
    }

    fn ended(&mut self, ended: Result<(Id, Ended), JoinError>) {
        let (id, ended) = match ended {
            Ok((id, ended)) => (id, ended),
            Err(error) => {
                if error.is_panic() {
                    tracing::error!(pod = %self.mailbox.identity.name, %error, "a step of the pod panicked");
                }
                (error.id(), Ended::Other)
            }
        };
        if let Some(work) = self.work_of.remove(&id)
            && self.doing.get(&work).is_some_and(|(_, handle)| handle.id() == id)
        {
            self.doing.remove(&work);
        }
        let now = Timestamp::now();
        match ended {
            Ended::Volumes(Ok(renew_at)) => (self.volumes, self.renew_at) = (Volumes::Ready, renew_at),
            Ended::Volumes(Err(refusal)) => self.volumes_failed(refusal, now),
            Ended::Sandbox(result) => {
                self.sandbox_failure = result.err().map(|refusal| failure(refusal, now, SANDBOX_RETRY_AFTER))
            }
            Ended::Started { name, result } => {
                if result.is_ok() {
                    self.host.ledger.saw(self.object(), "ContainerStarted", "", now);
                }
                self.started(&name, result, now);
            }
            Ended::Told(told) => {
                if let Told::Written { pod, .. } = &told {
                    self.host.ledger.saw(self.object(), "StatusReported", pod.resource_version(), now);
                }
                self.teller.told(told, now);
            }
            Ended::Forgotten => {
                self.host.ledger.explain(self.object(), vec![]);
                self.forgotten = true;
            }
            Ended::Other => {}
        }
    }

    /// The pod, as the ledger names it.
    fn object(&self) -> ObjectRef {
        let PodIdentity { namespace, name, .. } = self.mailbox.identity();
        ObjectRef::new(Pod::RESOURCE, &Key::new(namespace.as_str(), name.as_str()))
    }

    fn volumes_failed(&mut self, refusal: Refusal, now: Timestamp) {
        match self.volumes {
            // Containers go on with the old content.
            Volumes::Ready | Volumes::Stale => {
                self.volumes = Volumes::Ready;
                self.renew_at = now.checked_add(RETRY_AFTER).ok();
            }
            Volumes::Unprepared | Volumes::Failed(_) => {
                self.volumes = Volumes::Failed(failure(refusal, now, self.volumes_delay));
                self.volumes_delay = (self.volumes_delay * 2).min(VOLUMES_RETRY_MAX);
            }
        }
    }

    fn started(&mut self, name: &str, result: Result<(), Refusal>, now: Timestamp) {
        let memory = self.memory.entry(name.to_owned()).or_default();
        let Err(refusal) = result else {
            (memory.failure, memory.pulls) = (None, None);
            return;
        };
        let delay = if refusal.reason == ERR_IMAGE_PULL {
            let entry = Backoff::next(memory.pulls.as_ref(), now, now);
            memory.pulls = Some(entry);
            entry.delay
        } else {
            backoff::INITIAL.min(RETRY_AFTER)
        };
        memory.failure = Some(failure(refusal, now, delay));
    }
}

fn failure(refusal: Refusal, at: Timestamp, delay: SignedDuration) -> Failure {
    let retry_at = at.checked_add(delay).unwrap_or(Timestamp::MAX);
    Failure { reason: refusal.reason, message: refusal.message, at, retry_at }
}

/// A pod of which only containers are left.
fn orphan(identity: &PodIdentity) -> (Arc<Pod>, Desired) {
    let mut pod = Pod::default();
    pod.metadata.name = Some(identity.name.clone());
    pod.metadata.namespace = Some(identity.namespace.clone());
    pod.metadata.uid = Some(identity.uid.clone());
    let mut desired = desired::desired(&pod, Timestamp::UNIX_EPOCH);
    desired.lifecycle = Lifecycle::Gone;
    (Arc::new(pod), desired)
}
