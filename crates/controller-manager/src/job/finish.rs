//! Whether a Job goes on, and what it reports: numbers and conditions.

use std::{sync::Arc, time::Duration};

use api_types::{
    jiff::Timestamp,
    k8s::{
        batch::{Job, JobCondition, JobSpec},
        core::Pod,
        meta::Time,
    },
};
use client::EventKind;

use super::{Indexes, Tally, Work, is_indexed};
use crate::{
    action::{Action, Outcome},
    plan::{since, time},
    pods,
};

#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    Going {
        /// Until then a deadline may be reached.
        look_again_after: Option<Duration>,
    },
    Succeeded {
        reason: String,
        message: String,
    },
    Failed {
        reason: String,
        message: String,
    },
}

/// Complete or failed, for good.
pub fn is_finished(job: &Job) -> bool {
    finished(job).is_some()
}

/// The condition that says so.
pub fn finished(job: &Job) -> Option<&JobCondition> {
    is(job, "Complete").or_else(|| is(job, "Failed"))
}

fn is<'a>(job: &'a Job, kind: &str) -> Option<&'a JobCondition> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == kind && condition.status == "True")
}

pub fn verdict(job: &Job, spec: &JobSpec, tally: &Tally, work: &Work, pods: &[Arc<Pod>], now: Timestamp) -> Verdict {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    if let Some(target) = is(job, "FailureTarget") {
        return Verdict::Failed { reason: text(&target.reason), message: text(&target.message) };
    }
    if let Some(target) = is(job, "SuccessCriteriaMet") {
        return Verdict::Succeeded { reason: text(&target.reason), message: text(&target.message) };
    }
    let failed = |reason: &str, message: &str| Verdict::Failed { reason: reason.into(), message: message.into() };
    if let Some(why) = &tally.fails_job {
        return failed("PodFailurePolicy", why);
    }
    let limit = spec.backoff_limit.unwrap_or(6);
    if tally.failed > limit || restarts_exceed(spec, pods, limit) {
        return failed("BackoffLimitExceeded", "Job has reached the specified backoff limit");
    }
    let left = deadline_left(job, spec, now);
    if left == Some(Duration::ZERO) {
        return failed("DeadlineExceeded", "Job was active longer than specified deadline");
    }
    if is_indexed(spec)
        && let Some(verdict) = by_indexes(spec, tally)
    {
        return verdict;
    }
    let is_complete = match spec.completions {
        None => tally.succeeded > 0 && work.active.is_empty(),
        Some(wanted) => tally.succeeded >= wanted,
    };
    if is_complete && spec.suspend != Some(true) {
        let message = "Reached expected number of succeeded pods".to_owned();
        return Verdict::Succeeded { reason: "CompletionsReached".to_owned(), message };
    }
    Verdict::Going { look_again_after: left }
}

fn by_indexes(spec: &JobSpec, tally: &Tally) -> Option<Verdict> {
    let failed = |reason: &str, message: &str| Verdict::Failed { reason: reason.into(), message: message.into() };
    let (failures, wanted) = (tally.failed_indexes.len(), spec.completions.unwrap_or_default());
    let max = spec.max_failed_indexes.and_then(|max| usize::try_from(max).ok());
    if max.is_some_and(|max| failures > max) {
        return Some(failed(
            "MaxFailedIndexesExceeded",
            "Job has exceeded the specified maximal number of failed indexes",
        ));
    }
    let ended = tally.completed.len() + failures;
    if failures > 0 && i32::try_from(ended).unwrap_or(i32::MAX) >= wanted {
        return Some(failed("FailedIndexes", "Job has failed indexes"));
    }
    for rule in spec.success_policy.iter().flat_map(|policy| &policy.rules) {
        let end = u32::try_from(wanted).unwrap_or_default();
        let listed = rule.succeeded_indexes.as_ref().map(|text| Indexes::parse(text, end));
        let counts =
            |index: &u32| tally.completed.contains(*index) && listed.as_ref().is_none_or(|it| it.contains(*index));
        let reached = (0..end).filter(counts).count();
        let needed = rule.succeeded_count.and_then(|count| usize::try_from(count).ok());
        if reached >= needed.or(listed.as_ref().map(Indexes::len)).unwrap_or(usize::MAX) {
            let message = "Matched rules at index 0".to_owned();
            return Some(Verdict::Succeeded { reason: "SuccessPolicy".to_owned(), message });
        }
    }
    None
}

/// Containers that are restarted in place count where the pod itself does not fail.
fn restarts_exceed(spec: &JobSpec, pods: &[Arc<Pod>], limit: i32) -> bool {
    if spec.template.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()) != Some("OnFailure") {
        return false;
    }
    let running = pods.iter().filter(|pod| matches!(pods::phase(pod), "Running" | "Pending"));
    let statuses = running
        .filter_map(|pod| pod.status.as_ref())
        .flat_map(|status| status.container_statuses.iter().chain(&status.init_container_statuses).flatten());
    let restarts: i32 = statuses.map(|container| container.restart_count).sum();
    if limit == 0 { restarts > 0 } else { restarts >= limit }
}

fn deadline_left(job: &Job, spec: &JobSpec, now: Timestamp) -> Option<Duration> {
    let deadline = Duration::from_secs(u64::try_from(spec.active_deadline_seconds?).unwrap_or_default());
    if spec.suspend == Some(true) {
        return None;
    }
    let started: Option<&Time> = job.status.as_ref().and_then(|status| status.start_time.as_ref());
    Some(deadline.saturating_sub(started.map_or(Duration::ZERO, |started| since(started, now))))
}

/// Completes `tally.status`.
pub fn report(job: &Job, spec: &JobSpec, tally: &mut Tally, verdict: &Verdict, work: &Work, now: Timestamp) {
    let number = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    let is_over = work.active.is_empty() && work.terminating == 0 && tally.is_settled();
    let status = &mut tally.status;
    status.active = (!work.active.is_empty()).then(|| number(work.active.len()));
    status.ready = Some(number(work.ready));
    status.terminating = Some(number(work.terminating));
    let conditions = status.conditions.get_or_insert_default();
    let mut put =
        |kind: &str, state: &str, reason: &str, message: &str| set(conditions, kind, state, reason, message, now);
    match verdict {
        Verdict::Going { .. } => {
            let was = job.status.iter().flat_map(|status| status.conditions.iter().flatten());
            let was = was.filter(|condition| condition.type_ == "Suspended").map(|it| it.status.as_str()).next();
            match (spec.suspend == Some(true), was) {
                (true, Some("True")) => {}
                (true, _) => {
                    put("Suspended", "True", "JobSuspended", "Job suspended");
                    status.start_time = None;
                }
                (false, Some("True")) => {
                    put("Suspended", "False", "JobResumed", "Job resumed");
                    status.start_time = Some(time(now));
                }
                (false, _) => {}
            }
        }
        Verdict::Succeeded { reason, message } => {
            put("SuccessCriteriaMet", "True", reason, message);
            if is_over {
                put("Complete", "True", reason, message);
                status.completion_time = Some(time(now));
            }
        }
        Verdict::Failed { reason, message } => {
            put("FailureTarget", "True", reason, message);
            if is_over {
                put("Failed", "True", reason, message);
            }
        }
    }
    if status.conditions.as_ref().is_some_and(Vec::is_empty) {
        status.conditions = None;
    }
}

fn set(all: &mut Vec<JobCondition>, kind: &str, status: &str, reason: &str, message: &str, now: Timestamp) {
    let new = JobCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_probe_time: Some(time(now)),
        last_transition_time: Some(time(now)),
    };
    match all.iter_mut().find(|condition| condition.type_ == kind) {
        Some(old) if old.status == status => {}
        Some(old) => *old = new,
        None => all.push(new),
    }
}

/// The events that go with conditions that are new in `next`.
pub fn tell(mut action: Action, job: &Job, next: &Job) -> Action {
    let news = |kind: &str| is(next, kind).filter(|_| is(job, kind).is_none());
    if news("Complete").is_some() {
        action = action.tell(Outcome::Done, job, EventKind::Normal, "Completed", "Job completed");
    }
    if let Some(failed) = news("Failed") {
        let reason = match failed.reason.as_deref() {
            Some("DeadlineExceeded") => "DeadlineExceeded",
            Some("PodFailurePolicy") => "PodFailurePolicy",
            Some("MaxFailedIndexesExceeded") => "MaxFailedIndexesExceeded",
            Some("FailedIndexes") => "FailedIndexes",
            _ => "BackoffLimitExceeded",
        };
        let message = failed.message.clone().unwrap_or_default();
        action = action.tell(Outcome::Done, job, EventKind::Warning, reason, message);
    }
    if news("Suspended").is_some() {
        action = action.tell(Outcome::Done, job, EventKind::Normal, "Suspended", "Job suspended");
    }
    if is(job, "Suspended").is_some() && is(next, "Suspended").is_none() {
        action = action.tell(Outcome::Done, job, EventKind::Normal, "Resumed", "Job resumed");
    }
    action
}
