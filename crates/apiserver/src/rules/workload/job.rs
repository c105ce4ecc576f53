//! Jobs: defaults, the selector that the server makes, and what of a Job may change.
//!
//! Source: pkg/apis/batch/v1/defaults.go, pkg/registry/batch/job/strategy.go.

use serde_json::{Value, json};

use crate::rules::{
    PLAIN, Rules, check, check_change,
    edit::{child, copy, each, fill, fill_text, first_generation, is_present, next_generation, set, text_at},
    pod::{default::default_template, warnings},
    status,
    workload::validate_batch,
};

const BACKOFF_LIMIT: i64 = 6;
/// With a limit for each index, the limit for the whole is out of the way.
const NO_BACKOFF_LIMIT: i64 = i32::MAX as i64;
const CONTROLLER_UID: &str = "batch.kubernetes.io/controller-uid";
const JOB_NAME: &str = "batch.kubernetes.io/job-name";
/// The same labels before they had a domain; pods bear both.
const OLD_CONTROLLER_UID: &str = "controller-uid";
const OLD_JOB_NAME: &str = "job-name";

pub const RULES: Rules = Rules {
    default,
    prepare_create,
    prepare_update,
    warnings: |job, old| warnings::of_template(job, old, "spec.template"),
    validate: |job| check(job, validate_batch::job),
    validate_update: |new, old| check_change(new, old, validate_batch::job_update),
    validate_status_update: status::job,
    selectable: |job| vec![("status.successful", count(job, "/status/succeeded"))],
    selectable_names: &["status.successful"],
    ..PLAIN
};

fn count(job: &Value, pointer: &str) -> String {
    job.pointer(pointer).and_then(Value::as_i64).unwrap_or(0).to_string()
}

fn default(job: &mut Value) {
    child(job, "status");
    default_spec(child(job, "spec"));
    let meta_labels = job.pointer("/metadata/labels").and_then(Value::as_object).is_none_or(serde_json::Map::is_empty);
    if meta_labels && let Some(labels) = job.pointer("/spec/template/metadata/labels").cloned() {
        set(child(job, "metadata"), "labels", labels);
    }
}

/// Also the template of a CronJob.
pub fn default_spec(spec: &mut Value) {
    default_template(spec);
    if !is_present(spec, "completions") && !is_present(spec, "parallelism") {
        fill(spec, "completions", 1);
    }
    fill(spec, "parallelism", 1);
    let limit = if is_present(spec, "backoffLimitPerIndex") { NO_BACKOFF_LIMIT } else { BACKOFF_LIMIT };
    fill(spec, "backoffLimit", limit);
    fill_text(spec, "completionMode", "NonIndexed");
    fill(spec, "suspend", false);
    fill(spec, "manualSelector", false);
    let replacement = if is_present(spec, "podFailurePolicy") { "Failed" } else { "TerminatingOrFailed" };
    fill_text(spec, "podReplacementPolicy", replacement);
    for rule in spec.get_mut("podFailurePolicy").into_iter().flat_map(|policy| each(policy, "rules")) {
        for pattern in each(rule, "onPodConditions") {
            fill_text(pattern, "status", "True");
        }
    }
}

fn prepare_create(job: &mut Value) {
    if job.pointer("/spec/manualSelector").and_then(Value::as_bool) != Some(true) {
        make_selector(job);
    }
    first_generation(job);
    set(job, "status", json!({}));
}

/// Labels the pods with the Job's uid, and selects them by it.
fn make_selector(job: &mut Value) {
    let (uid, name) = (text_at(job, "/metadata/uid").to_owned(), text_at(job, "/metadata/name").to_owned());
    let labels = [(CONTROLLER_UID, &uid), (OLD_CONTROLLER_UID, &uid), (JOB_NAME, &name), (OLD_JOB_NAME, &name)];
    let spec = child(job, "spec");
    let template = child(child(child(spec, "template"), "metadata"), "labels");
    for (key, value) in labels {
        fill_text(template, key, value);
    }
    let selector = child(child(spec, "selector"), "matchLabels");
    fill_text(selector, CONTROLLER_UID, &uid);
    // Labels of the Job were defaulted from the template before it was labelled.
    let meta_labels = child(child(job, "metadata"), "labels");
    let is_bare = meta_labels.as_object().is_some_and(serde_json::Map::is_empty);
    if is_bare {
        for (key, value) in labels {
            set(meta_labels, key, value.as_str());
        }
    }
}

fn prepare_update(new: &mut Value, old: &Value) {
    copy(new, old, "status");
    let changed = new.get("spec") != old.get("spec");
    next_generation(new, old, changed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_selects_by_uid() {
        let mut job = json!({"metadata": {"name": "j", "uid": "u"}, "spec": {"template": {"spec": {}}}});
        default(&mut job);
        prepare_create(&mut job);
        assert_eq!(job["spec"]["selector"], json!({"matchLabels": {CONTROLLER_UID: "u"}}));
        let labels = json!({CONTROLLER_UID: "u", OLD_CONTROLLER_UID: "u", JOB_NAME: "j", OLD_JOB_NAME: "j"});
        assert_eq!(job["spec"]["template"]["metadata"]["labels"], labels);
        assert_eq!(job["metadata"]["labels"], labels);
        assert_eq!(job["spec"]["completions"], 1);
        assert_eq!(job["spec"]["backoffLimit"], 6);
    }

    #[test]
    fn parallel_jobs_have_no_default_completions() {
        let mut spec = json!({"parallelism": 3, "backoffLimitPerIndex": 1});
        default_spec(&mut spec);
        assert_eq!(spec.get("completions"), None);
        assert_eq!(spec["backoffLimit"], i32::MAX);
    }
}
