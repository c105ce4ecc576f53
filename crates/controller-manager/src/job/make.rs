//! Which pods to make or withdraw, and when failures allow the next.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use api_types::{
    jiff::Timestamp,
    k8s::{
        batch::{Job, JobSpec},
        core::{EnvVar, EnvVarSource, ObjectFieldSelector, Pod},
    },
};
use client::EventKind;

use api_types::Object;

use super::{FINALIZER, Tally, Work, index_of, is_indexed, withdraw};
use crate::{
    action::{Action, Outcome},
    owners::controller_reference,
    plan::Plan,
    pods,
};

pub const INDEX: &str = "batch.kubernetes.io/job-completion-index";
pub const INDEX_FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
const INDEX_VARIABLE: &str = "JOB_COMPLETION_INDEX";
/// Pods made in one turn.
const BURST_MAX: usize = 500;
/// Pause after the first failure; doubles with each further one.
const BACKOFF_MIN: Duration = Duration::from_secs(10);
const BACKOFF_MAX: Duration = Duration::from_secs(600);

/// Brings the active pods to what parallelism and completions ask for.
pub fn scale(now: Timestamp, job: &Job, spec: &JobSpec, tally: &Tally, work: &Work, plan: &mut Plan) {
    let active = work.active.len();
    let wanted = wanted(spec, tally, active);
    if active > wanted {
        let mut pods: Vec<&Arc<Pod>> = work.active.iter().collect();
        pods.sort_by(|a, b| pods::cheaper((a, 0), (b, 0), now));
        plan.because("TooManyPods", format!("{active} pods are active, {wanted} are wanted"));
        let excess = pods.into_iter().take((active - wanted).min(BURST_MAX));
        plan.actions.extend(excess.flat_map(|pod| withdraw(job, pod, "more pods are active than wanted")));
        return;
    }
    // Where a replacement must wait for the end of what it replaces, the terminating count as active.
    let waits = spec.pod_replacement_policy.as_deref() == Some("Failed") || spec.pod_failure_policy.is_some();
    let missing = (wanted - active).saturating_sub(if waits { work.terminating } else { 0 }).min(BURST_MAX);
    if missing == 0 {
        plan.because("PodsAsWanted", format!("{active} pods are active"));
        return;
    }
    if let Some(pause) = pause(tally, now) {
        plan.because(
            "BackingOff",
            format!("{} pods failed, the next is made in {} s", tally.failures.len(), pause.as_secs()),
        );
        plan.look_again(pause);
        return;
    }
    plan.because("TooFewPods", format!("{active} pods are active, {wanted} are wanted"));
    if is_indexed(spec) {
        let free = free_indexes(spec, tally, work).into_iter().take(missing);
        plan.actions.extend(free.map(|index| create(job, &indexed(job, spec, index, tally))));
    } else {
        plan.actions.extend(vec![create(job, &model(job, spec, job.name())); missing]);
    }
}

fn wanted(spec: &JobSpec, tally: &Tally, active: usize) -> usize {
    let parallelism = usize::try_from(spec.parallelism.unwrap_or(1)).unwrap_or_default();
    match spec.completions {
        // A work queue: after the first success the others finish, and nobody new begins.
        None if tally.succeeded > 0 => active.min(parallelism),
        None => parallelism,
        Some(completions) => {
            let ended = i32::try_from(tally.failed_indexes.len()).unwrap_or(i32::MAX) + tally.succeeded;
            usize::try_from(completions - ended).unwrap_or_default().min(parallelism)
        }
    }
}

/// How long the next pod still has to wait.
fn pause(tally: &Tally, now: Timestamp) -> Option<Duration> {
    let last = tally.failures.last()?;
    let doublings = u32::try_from(tally.failures.len() - 1).unwrap_or(u32::MAX).min(16);
    let pause = (BACKOFF_MIN * 2u32.pow(doublings)).min(BACKOFF_MAX);
    let gone = Duration::try_from(now.duration_since(*last)).unwrap_or_default();
    pause.checked_sub(gone).filter(|left| !left.is_zero())
}

fn free_indexes(spec: &JobSpec, tally: &Tally, work: &Work) -> BTreeSet<u32> {
    let taken: BTreeSet<u32> = work.active.iter().filter_map(|pod| index_of(pod)).collect();
    let all = 0..spec.completions.and_then(|number| u32::try_from(number).ok()).unwrap_or_default();
    let is_free = |index: &u32| {
        !taken.contains(index) && !tally.completed.contains(*index) && !tally.failed_indexes.contains(*index)
    };
    all.filter(is_free).collect()
}

fn model(job: &Job, spec: &JobSpec, base: &str) -> Pod {
    let mut pod = pods::from_template(job.namespace(), base, &spec.template, controller_reference(job));
    pod.metadata.finalizers.get_or_insert_default().push(FINALIZER.to_owned());
    pod
}

fn indexed(job: &Job, spec: &JobSpec, index: u32, tally: &Tally) -> Pod {
    let mut pod = model(job, spec, &format!("{}-{index}", job.name()));
    let text = index.to_string();
    pod.metadata.labels.get_or_insert_default().insert(INDEX.to_owned(), text.clone());
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(INDEX.to_owned(), text);
    if spec.backoff_limit_per_index.is_some() {
        let failures = tally.failures_of_index.get(&index).copied().unwrap_or_default();
        annotations.insert(INDEX_FAILURES.to_owned(), failures.to_string());
    }
    let Some(spec) = &mut pod.spec else { return pod };
    spec.hostname = Some(format!("{}-{index}", job.name()));
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        let env = container.env.get_or_insert_default();
        if env.iter().all(|variable| variable.name != INDEX_VARIABLE) {
            env.push(index_variable());
        }
    }
    pod
}

fn index_variable() -> EnvVar {
    let field =
        ObjectFieldSelector { field_path: format!("metadata.labels['{INDEX}']"), ..ObjectFieldSelector::default() };
    EnvVar {
        name: INDEX_VARIABLE.to_owned(),
        value_from: Some(EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() }),
        ..EnvVar::default()
    }
}

/// How often the index had failed before this pod.
pub fn failures_of_index(pod: &Pod) -> i32 {
    pod.annotation(INDEX_FAILURES).and_then(|text| text.parse().ok()).unwrap_or_default()
}

fn create(job: &Job, pod: &Pod) -> Action {
    Action::create(pod, "too few pods are active")
        .tell(Outcome::Done, job, EventKind::Normal, "SuccessfulCreate", "Created pod: {name}")
        .tell(Outcome::Refused, job, EventKind::Warning, "FailedCreate", "Error creating: {error}")
}
