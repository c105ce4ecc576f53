//! Counts pods that have ended, each once: first its uid is written down in the status, then its
//! finalizer is taken, and when that shows, the uid becomes a number.
//!
//! Source: `trackJobStatusAndRemoveFinalizers` in kubernetes/pkg/controller/job/job_controller.go.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use api_types::{
    Object,
    jiff::Timestamp,
    k8s::{
        batch::{Job, JobSpec, JobStatus, UncountedTerminatedPods},
        core::Pod,
    },
};

use super::{
    Indexes, index_of, is_indexed, is_tracked,
    make::failures_of_index,
    policy::{Meaning, meaning},
};
use crate::{plan::time, pods};

/// Uids in the status at a time.
const UNCOUNTED_MAX: usize = 500;

pub struct Tally {
    pub status: JobStatus,
    /// Written down in the status, so that their finalizers may go.
    pub counted: Vec<Arc<Pod>>,
    pub completed: Indexes,
    pub failed_indexes: Indexes,
    /// How often each index has failed, by the pods that are still there, counted long since or not.
    pub failures_of_index: HashMap<u32, i32>,
    /// All, also those that are only written down yet.
    pub succeeded: i32,
    pub failed: i32,
    /// A pod failed in a way that fails the Job.
    pub fails_job: Option<String>,
    /// When pods failed that no success came after, latest last.
    pub failures: Vec<Timestamp>,
}

impl Tally {
    /// Nothing is left that has ended and is not a number yet.
    pub fn is_settled(&self) -> bool {
        let uncounted = self.status.uncounted_terminated_pods.clone().unwrap_or_default();
        uncounted.succeeded.is_none_or(|all| all.is_empty())
            && uncounted.failed.is_none_or(|all| all.is_empty())
            && self.counted.is_empty()
    }
}

pub fn tally(job: &Job, spec: &JobSpec, pods: &[Arc<Pod>], now: Timestamp) -> Tally {
    let mut status = job.status.clone().unwrap_or_default();
    let end = spec.completions.and_then(|number| u32::try_from(number).ok()).unwrap_or(u32::MAX);
    let indexes = |text: &Option<String>| Indexes::parse(text.as_deref().unwrap_or_default(), end);
    let mut tally = Tally {
        completed: indexes(&status.completed_indexes),
        failed_indexes: indexes(&status.failed_indexes),
        failures_of_index: failures_by_index(spec, pods),
        counted: Vec::new(),
        succeeded: 0,
        failed: 0,
        fails_job: None,
        failures: failures(pods, now),
        status: JobStatus::default(),
    };
    let tracked: HashSet<&str> = pods.iter().filter(|pod| is_tracked(pod)).map(|pod| pod.uid()).collect();
    let mut uncounted = settle(&mut status, &tracked);
    let known: HashSet<String> = uncounted.succeeded.iter().chain(&uncounted.failed).flatten().cloned().collect();
    for pod in pods.iter().filter(|pod| tracked.contains(pod.uid())) {
        if known.contains(pod.uid()) {
            tally.counted.push(Arc::clone(pod));
        } else if tally.counted.len() < UNCOUNTED_MAX {
            tally.count(spec, pod, end, &mut uncounted);
        }
    }
    let number = |uids: &Option<Vec<String>>| i32::try_from(uids.as_ref().map_or(0, Vec::len)).unwrap_or(i32::MAX);
    tally.succeeded = match is_indexed(spec) {
        true => i32::try_from(tally.completed.len()).unwrap_or(i32::MAX),
        false => status.succeeded.unwrap_or_default() + number(&uncounted.succeeded),
    };
    tally.failed = status.failed.unwrap_or_default() + number(&uncounted.failed);
    if is_indexed(spec) {
        status.succeeded = (tally.succeeded > 0).then_some(tally.succeeded);
        status.completed_indexes = (!tally.completed.is_empty()).then(|| tally.completed.to_string());
        if spec.backoff_limit_per_index.is_some() {
            status.failed_indexes = Some(tally.failed_indexes.to_string());
        }
    }
    status.uncounted_terminated_pods = Some(uncounted);
    if status.start_time.is_none() && spec.suspend != Some(true) {
        status.start_time = Some(time(now));
    }
    tally.status = status;
    tally
}

/// Uids whose pods have lost their finalizer become numbers; the others are given back.
fn settle(status: &mut JobStatus, tracked: &HashSet<&str>) -> UncountedTerminatedPods {
    let uncounted = status.uncounted_terminated_pods.take().unwrap_or_default();
    let split = |uids: Option<Vec<String>>, number: &mut Option<i32>| {
        let (open, settled): (Vec<_>, Vec<_>) =
            uids.unwrap_or_default().into_iter().partition(|uid| tracked.contains(uid.as_str()));
        let more = i32::try_from(settled.len()).unwrap_or(i32::MAX);
        if more > 0 {
            *number = Some(number.unwrap_or_default() + more);
        }
        (!open.is_empty()).then_some(open)
    };
    UncountedTerminatedPods {
        succeeded: split(uncounted.succeeded, &mut status.succeeded),
        failed: split(uncounted.failed, &mut status.failed),
    }
}

impl Tally {
    fn count(&mut self, spec: &JobSpec, pod: &Arc<Pod>, end: u32, uncounted: &mut UncountedTerminatedPods) {
        let index = index_of(pod).filter(|index| *index < end);
        if pods::phase(pod) == "Succeeded" {
            match index {
                // The index is enough not to count it twice.
                Some(index) if is_indexed(spec) => self.completed.add(index),
                _ if is_indexed(spec) => {}
                _ => uncounted.succeeded.get_or_insert_default().push(pod.uid().to_owned()),
            }
            self.counted.push(Arc::clone(pod));
        } else if has_failed(spec, pod) {
            let meaning = meaning(spec, pod);
            let fails_index = spec.backoff_limit_per_index.is_some_and(|limit| failures_of_index(pod) >= limit);
            if let Some(index) = index.filter(|_| meaning == Meaning::FailsIndex || fails_index) {
                self.failed_indexes.add(index);
            }
            if meaning != Meaning::Ignored {
                uncounted.failed.get_or_insert_default().push(pod.uid().to_owned());
            }
            if let Meaning::FailsJob(why) = meaning {
                self.fails_job.get_or_insert(why);
            }
            self.counted.push(Arc::clone(pod));
        }
    }
}

/// A pod that is told to go counts as failed at once, unless the Job wants to see how it ends.
fn has_failed(spec: &JobSpec, pod: &Pod) -> bool {
    let only_ended = spec.pod_failure_policy.is_some() || spec.pod_replacement_policy.as_deref() == Some("Failed");
    pods::phase(pod) == "Failed" || (!only_ended && pod.is_terminating() && pods::phase(pod) != "Succeeded")
}

fn failures(pods: &[Arc<Pod>], now: Timestamp) -> Vec<Timestamp> {
    let ended = |phase: &'static str| {
        pods.iter().filter(move |pod| pods::phase(pod) == phase).map(move |pod| end_time(pod, now))
    };
    let last_success = ended("Succeeded").max();
    let mut failures: Vec<Timestamp> =
        ended("Failed").filter(|at| last_success.is_none_or(|last| *at > last)).collect();
    failures.sort();
    failures
}

fn failures_by_index(spec: &JobSpec, pods: &[Arc<Pod>]) -> HashMap<u32, i32> {
    let mut failures = HashMap::new();
    for pod in pods.iter().filter(|pod| has_failed(spec, pod)) {
        let Some(index) = index_of(pod) else { continue };
        let own = i32::from(meaning(spec, pod) != Meaning::Ignored);
        let most = failures.entry(index).or_default();
        *most = failures_of_index(pod).saturating_add(own).max(*most);
    }
    failures
}

fn end_time(pod: &Pod, now: Timestamp) -> Timestamp {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    let ends = statuses.into_iter().flatten().filter_map(|container| {
        let terminated = container.state.as_ref()?.terminated.as_ref()?;
        terminated.finished_at.as_ref().map(|time| time.0)
    });
    let fallback = || pod.metadata.deletion_timestamp.as_ref().or(pod.metadata.creation_timestamp.as_ref());
    ends.max().or_else(|| fallback().map(|time| time.0)).unwrap_or(now)
}
