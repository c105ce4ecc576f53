//! Jobs as lines of data: settings and pods in, what is done out.

use api_types::k8s::{
    batch::{JobStatus, PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyRule},
    core::{ContainerState, ContainerStateTerminated, ContainerStatus},
    meta::{LabelSelector, ObjectMeta},
};

use super::*;
use crate::{
    action::Write,
    owners::controller_reference,
    pods::words::{self, ago},
};

fn job(spec: JobSpec, status: JobStatus) -> Job {
    let labels = [("app".to_owned(), "work".to_owned())];
    let selector = LabelSelector { match_labels: Some(labels.into()), ..LabelSelector::default() };
    Job {
        metadata: ObjectMeta {
            name: Some("work".into()),
            namespace: Some("ns".into()),
            uid: Some("j".into()),
            ..ObjectMeta::default()
        },
        spec: Some(JobSpec { selector: Some(selector), ..spec }),
        status: Some(status),
    }
}

fn sized(completions: Option<i32>, parallelism: i32) -> JobSpec {
    JobSpec { completions, parallelism: Some(parallelism), ..JobSpec::default() }
}

fn indexed(completions: i32) -> JobSpec {
    JobSpec { completion_mode: Some("Indexed".into()), ..sized(Some(completions), completions) }
}

/// Pods: see [`words::pod`]; `x` has lost its finalizer; a name that ends in a digit bears it as its index.
fn pods(job: &Job, text: &str) -> Vec<Arc<Pod>> {
    let pods = text.split_whitespace().map(|word| {
        let mut pod = words::pod(word);
        pod.metadata.owner_references = Some(vec![controller_reference(job)]);
        pod.metadata.labels = Some([("app".to_owned(), "work".to_owned())].into());
        pod.metadata.creation_timestamp = Some(ago(1000));
        if !word.split_once(':').is_some_and(|(_, flags)| flags.contains('x')) {
            pod.metadata.finalizers = Some(vec![FINALIZER.to_owned()]);
        }
        let index: String = pod.name().chars().filter(char::is_ascii_digit).collect();
        pod.metadata.annotations = Some([(make::INDEX.to_owned(), index)].into());
        Arc::new(pod)
    });
    pods.collect()
}

fn planned(job: Job, text: &str) -> Plan {
    let none = HashSet::new();
    let candidates = pods(&job, text);
    plan(&View { job: Arc::new(job), candidates, deleting: &none, now: words::now() })
}

/// `+` a creation (with its index), `-name` a deletion, `~name` a finalizer taken, `=` a status with what is in it.
fn check(job: Job, text: &str, expected: &str) {
    let plan = planned(job, text);
    let done = plan.actions.iter().map(|action| match &action.write {
        Write::Create(object) => {
            format!("+{}", object["metadata"]["annotations"][make::INDEX].as_str().unwrap_or_default())
        }
        Write::Delete(_) => format!("-{}", action.key.name),
        Write::Update { object, .. } => {
            let status = &object["status"];
            let uncounted = &status["uncountedTerminatedPods"];
            let number = |value: &serde_json::Value| value.as_array().map_or(0, Vec::len);
            let conditions = status["conditions"].as_array().into_iter().flatten();
            let conditions: Vec<&str> = conditions.map(|condition| condition["type"].as_str().unwrap()).collect();
            format!(
                "=s{}+{}f{}+{}{}{}",
                status["succeeded"].as_i64().unwrap_or_default(),
                number(&uncounted["succeeded"]),
                status["failed"].as_i64().unwrap_or_default(),
                number(&uncounted["failed"]),
                if conditions.is_empty() { "" } else { ":" },
                conditions.join(",")
            )
        }
        Write::Patch { .. } | Write::DeleteAll(_) | Write::Certify { .. } => format!("~{}", action.key.name),
    });
    assert_eq!(done.collect::<Vec<_>>().join(" "), expected);
}

fn started() -> JobStatus {
    JobStatus { start_time: Some(ago(100)), ..JobStatus::default() }
}

#[test]
fn as_many_as_parallelism_allows() {
    check(job(sized(Some(5), 2), JobStatus::default()), "", "=s0+0f0+0 + +");
    check(job(sized(Some(5), 2), started()), "a", "=s0+0f0+0 +");
    check(job(sized(Some(5), 2), started()), "a b c", "=s0+0f0+0 ~a -a");
}

#[test]
fn an_ended_pod_is_written_down_before_its_finalizer_goes() {
    check(job(sized(Some(2), 2), started()), "a:s b", "=s0+1f0+0 ~a");
}

#[test]
fn what_has_lost_its_finalizer_becomes_a_number() {
    let mut status = started();
    status.uncounted_terminated_pods =
        Some(api_types::k8s::batch::UncountedTerminatedPods { succeeded: Some(vec!["a".into()]), failed: None });
    check(job(sized(Some(2), 2), status), "a:sx b", "=s1+0f0+0");
}

#[test]
fn completion_waits_until_all_is_counted() {
    check(job(sized(Some(1), 1), started()), "a:s", "=s0+1f0+0:SuccessCriteriaMet ~a");
    let status = JobStatus { succeeded: Some(1), ..started() };
    check(job(sized(Some(1), 1), status), "a:sx", "=s1+0f0+0:SuccessCriteriaMet,Complete");
}

#[test]
fn a_work_queue_ends_with_the_last_worker() {
    check(job(sized(None, 2), started()), "a:s b", "=s0+1f0+0 ~a");
    let status = JobStatus { succeeded: Some(2), ..started() };
    check(job(sized(None, 2), status), "a:sx b:sx", "=s2+0f0+0:SuccessCriteriaMet,Complete");
}

#[test]
fn too_many_failures_end_the_job() {
    let spec = JobSpec { backoff_limit: Some(0), ..sized(Some(2), 2) };
    check(job(spec, started()), "a:f b", "=s0+0f0+1:FailureTarget ~a -b");
}

#[test]
fn failures_delay_the_next_pod() {
    let mut text = planned(job(sized(Some(1), 1), started()), "a:fx");
    assert_eq!(text.actions.pop().map(|action| matches!(action.write, Write::Create(_))), Some(true));
    let mut fresh = words::pod("a:f");
    fresh.metadata.creation_timestamp = Some(ago(4));
    let work = job(sized(Some(1), 1), started());
    fresh.metadata.owner_references = Some(vec![controller_reference(&work)]);
    fresh.metadata.labels = Some([("app".to_owned(), "work".to_owned())].into());
    let none = HashSet::new();
    let view = View { job: Arc::new(work), candidates: vec![Arc::new(fresh)], deleting: &none, now: words::now() };
    assert_eq!(plan(&view).look_again_after.unwrap().as_secs(), 6);
}

#[test]
fn a_deadline_ends_the_job() {
    let spec = JobSpec { active_deadline_seconds: Some(60), ..sized(Some(1), 1) };
    check(job(spec.clone(), started()), "a", "=s0+0f0+0:FailureTarget -a");
    let spec = JobSpec { active_deadline_seconds: Some(160), ..spec };
    assert_eq!(planned(job(spec, started()), "a").look_again_after.unwrap().as_secs(), 60);
}

#[test]
fn suspended_pods_are_not_failures() {
    let spec = JobSpec { suspend: Some(true), ..sized(Some(2), 2) };
    check(job(spec, started()), "a", "=s0+0f0+0:Suspended ~a -a");
}

#[test]
fn every_index_gets_one_pod() {
    check(job(indexed(3), started()), "p1", "=s0+0f0+0 +0 +2");
    check(job(indexed(3), started()), "p0:s p1 p2:f", "=s1+0f0+1 ~p0 ~p2 +2");
}

#[test]
fn an_index_remembers_failures_that_were_counted_long_since() {
    let spec = JobSpec { backoff_limit_per_index: Some(1), ..indexed(2) };
    let failures = |pods: &str| {
        let plan = planned(job(spec.clone(), started()), pods);
        let Write::Create(pod) = &plan.actions.last().unwrap().write else { panic!("no pod is made") };
        let annotations = &pod["metadata"]["annotations"];
        (annotations[make::INDEX].as_str().unwrap().to_owned(), annotations[make::INDEX_FAILURES].as_str() == Some("1"))
    };
    assert_eq!(failures("p0"), ("1".to_owned(), false));
    assert_eq!(failures("p0 p1:f"), ("1".to_owned(), true));
    assert_eq!(failures("p0 p1:fx"), ("1".to_owned(), true));
}

#[test]
fn a_failure_policy_can_end_or_excuse() {
    let rule = |action: &str| PodFailurePolicyRule {
        action: action.to_owned(),
        on_exit_codes: Some(PodFailurePolicyOnExitCodesRequirement {
            operator: "In".into(),
            values: vec![42],
            container_name: None,
        }),
        on_pod_conditions: None,
    };
    let mut pod = words::pod("a:f");
    let terminated = ContainerStateTerminated { exit_code: 42, ..ContainerStateTerminated::default() };
    pod.status.as_mut().unwrap().container_statuses = Some(vec![ContainerStatus {
        name: "main".into(),
        state: Some(ContainerState { terminated: Some(terminated), ..ContainerState::default() }),
        ..ContainerStatus::default()
    }]);
    let meaning = |action: &str| {
        let policy = Some(PodFailurePolicy { rules: vec![rule(action)] });
        policy::meaning(&JobSpec { pod_failure_policy: policy, ..JobSpec::default() }, &pod)
    };
    assert_eq!(meaning("Ignore"), policy::Meaning::Ignored);
    let why = "Container main for pod ns/a failed with exit code 42 matching FailJob rule at index 0";
    assert_eq!(meaning("FailJob"), policy::Meaning::FailsJob(why.to_owned()));
}
