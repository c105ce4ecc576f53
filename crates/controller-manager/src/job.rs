//! job: runs pods until enough of them have succeeded or too many have failed. Every pod that ends
//! is counted exactly once, as a finalizer keeps it until the count is stored.
//!
//! Source: kubernetes/pkg/controller/job.

mod finish;
mod indexes;
mod make;
mod policy;
mod tally;

use std::{collections::HashSet, sync::Arc};

use api_types::{
    Object,
    jiff::Timestamp,
    k8s::{
        batch::{Job, JobSpec},
        core::Pod,
    },
    labels::Selector,
    resources,
};
use client::{Change, EventKind};
use serde_json::json;

use crate::{
    action::{Action, Outcome},
    caches::{BY_NAMESPACE, BY_OWNER, ORPHANS},
    owners::{claim, controller_key, controller_of},
    plan::{Plan, Turn, World},
    pods,
    reconcile::Controller,
};
use finish::Verdict;
use indexes::Indexes;
use tally::Tally;

pub use finish::finished;
use finish::is_finished;

/// Keeps a pod until it is counted.
pub const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
const CONTROLLER_NAME: &str = "kubernetes.io/job-controller";

pub static CONTROLLER: Controller = Controller {
    name: "job-controller",
    resource: &resources::JOB,
    account: "job-controller",
    component: "job-controller",
    workers: 5,
    watch: |to, queue| {
        let wake = queue.clone();
        to.jobs.push(Box::new(move |_, change| wake.add(change.object().key())));
        let wake = queue.clone();
        to.pods.push(Box::new(move |caches, change| {
            for pod in [change.old(), Some(change.object())].into_iter().flatten() {
                if let Some(key) = controller_key::<Job>(&pod.metadata) {
                    wake.add(key);
                }
            }
            let pod = change.object();
            if !matches!(change, Change::Deleted(_)) && controller_of(&pod.metadata).is_none() {
                let jobs = caches.jobs.by_index(BY_NAMESPACE, pod.namespace());
                let matching = jobs.iter().filter(|job| selector(job).matches(&pod.metadata.labels));
                matching.for_each(|job| wake.add(job.key()));
            }
        }));
    },
    watch_everything: None,
    decide: |world, turn| decide(world, turn),
};

struct View<'a> {
    job: Arc<Job>,
    /// Controlled by the job, or orphans in its namespace.
    candidates: Vec<Arc<Pod>>,
    deleting: &'a HashSet<String>,
    now: Timestamp,
}

fn decide(world: &World<'_>, turn: &Turn<'_>) -> Plan {
    let caches = world.caches;
    let Some(job) = caches.jobs.get(turn.key) else {
        let pods = caches.pods.by_index(BY_NAMESPACE, &turn.key.namespace);
        let left = pods.iter().filter(|pod| controller_key::<Job>(&pod.metadata).as_ref() == Some(turn.key));
        return let_go(left, "its Job is gone");
    };
    let mut candidates = caches.pods.by_index(BY_OWNER, job.uid());
    candidates.extend(caches.pods.by_index(ORPHANS, job.namespace()));
    plan(&View { job, candidates, deleting: turn.deleting, now: turn.now })
}

fn selector(job: &Job) -> Selector {
    let selector = job.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    selector.map_or_else(Selector::nothing, Selector::from)
}

fn spec(job: &Job) -> JobSpec {
    job.spec.clone().unwrap_or_default()
}

fn is_indexed(spec: &JobSpec) -> bool {
    spec.completion_mode.as_deref() == Some("Indexed")
}

fn is_tracked(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER)
}

/// Takes the finalizer from pods that need not be counted.
fn let_go<'a>(pods: impl IntoIterator<Item = &'a Arc<Pod>>, why: &str) -> Plan {
    let tracked = pods.into_iter().filter(|pod| is_tracked(pod));
    Plan { actions: tracked.map(|pod| untrack(pod, why)).collect(), ..Plan::default() }
}

fn untrack(pod: &Pod, why: &str) -> Action {
    Action::patch(pod, json!({ "metadata": { "$deleteFromPrimitiveList/finalizers": [FINALIZER] } }), why)
}

fn plan(view: &View<'_>) -> Plan {
    let job = &*view.job;
    let spec = spec(job);
    if spec.managed_by.as_deref().is_some_and(|name| name != CONTROLLER_NAME) {
        return Plan::nothing("ManagedByOther", "spec.managedBy names another controller");
    }
    let claim = claim(job, &selector(job), view.candidates.iter().cloned());
    if is_finished(job) {
        let mut plan = let_go(&claim.own, "its Job has finished");
        plan.because("JobFinished", "the Job is complete or failed");
        return plan;
    }
    if job.is_terminating() {
        let mut plan = let_go(&claim.own, "its Job is being deleted");
        plan.because("Terminating", "the Job is being deleted");
        return plan;
    }
    let mut plan = Plan { actions: claim.actions, ..Plan::default() };
    let pods: Vec<Arc<Pod>> = claim.own.into_iter().filter(|pod| !view.deleting.contains(pod.uid())).collect();
    let mut tally = tally::tally(job, &spec, &pods, view.now);
    let work = Work::new(&pods);
    let verdict = finish::verdict(job, &spec, &tally, &work, &pods, view.now);
    finish::report(job, &spec, &mut tally, &verdict, &work, view.now);

    if tally.status != job.status.clone().unwrap_or_default() {
        let next = Job { status: Some(tally.status.clone()), ..job.clone() };
        let action = Action::update_status(&next, "pods have begun or ended");
        plan.act(finish::tell(action, job, &next));
    }
    plan.actions.extend(tally.counted.iter().map(|pod| untrack(pod, "it is counted")));
    advance(view, &spec, &tally, &work, &verdict, &mut plan);
    plan
}

/// Pods by what they still do.
pub struct Work {
    pub active: Vec<Arc<Pod>>,
    pub ready: usize,
    /// Told to go, but not gone.
    pub terminating: usize,
}

impl Work {
    fn new(pods: &[Arc<Pod>]) -> Self {
        let active: Vec<Arc<Pod>> = pods.iter().filter(|pod| pods::is_active(pod)).cloned().collect();
        let ready = active.iter().filter(|pod| pods::is_ready(pod)).count();
        let terminating = pods.iter().filter(|pod| pod.is_terminating() && !pods::is_finished(pod)).count();
        Self { active, ready, terminating }
    }
}

/// Makes and deletes pods.
fn advance(view: &View<'_>, spec: &JobSpec, tally: &Tally, work: &Work, verdict: &Verdict, plan: &mut Plan) {
    let job = &*view.job;
    match verdict {
        Verdict::Failed { message, .. } => {
            plan.because("JobFailing", message);
            plan.actions.extend(work.active.iter().map(|pod| delete(job, pod, "its Job has failed")));
        }
        Verdict::Succeeded { message, .. } => {
            plan.because("JobSucceeding", message);
            plan.actions.extend(work.active.iter().map(|pod| delete(job, pod, "its Job has succeeded")));
        }
        Verdict::Going { .. } if spec.suspend == Some(true) => {
            plan.because("JobSuspended", "spec.suspend is true");
            plan.actions.extend(work.active.iter().flat_map(|pod| withdraw(job, pod, "its Job is suspended")));
        }
        Verdict::Going { look_again_after } => {
            if let Some(after) = look_again_after {
                plan.look_again(*after);
            }
            make::scale(view.now, job, spec, tally, work, plan);
        }
    }
}

fn delete(job: &Job, pod: &Pod, why: &str) -> Action {
    Action::delete(pod, why)
        .tell(Outcome::Done, job, EventKind::Normal, "SuccessfulDelete", "Deleted pod: {name}")
        .tell(Outcome::Refused, job, EventKind::Warning, "FailedDelete", "Error deleting: {error}")
}

/// Deletes a pod that has done nothing wrong, so that it is not counted as failed.
fn withdraw(job: &Job, pod: &Pod, why: &str) -> Vec<Action> {
    let untrack = is_tracked(pod).then(|| untrack(pod, why));
    untrack.into_iter().chain([delete(job, pod, why)]).collect()
}

/// The index that an indexed Job gave a pod.
fn index_of(pod: &Pod) -> Option<u32> {
    pod.annotation(make::INDEX)?.parse().ok()
}

#[cfg(test)]
mod tests;
