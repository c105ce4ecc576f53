//! Whether Jobs and CronJobs make sense, and what of a Job may change.
//!
//! Source: pkg/apis/batch/validation/validation.go.

use std::collections::BTreeMap;

use api_types::{
    k8s::{
        batch::{CronJob, Job, JobSpec, PodFailurePolicyRule, SuccessPolicyRule},
        core::PodTemplateSpec,
        meta::LabelSelector,
    },
    labels::Selector,
    names,
};

use super::schedule;
use crate::rules::{
    path::{Errors, Path, items, text},
    pod::spec as pod_spec,
    selector,
};

const SPEC: Path = Path::root("spec");
/// The controller appends a time to a CronJob's name, and the whole is a Job's name.
pub const CRON_JOB_NAME_MAX: usize = 52;
const PARALLELISM_MAX_INDEXED: i32 = 100_000;
const FAILURE_RULES_MAX: usize = 20;
const EXIT_CODES_MAX: usize = 255;
const CONTROLLER_UID: &str = "batch.kubernetes.io/controller-uid";
const JOB_NAME: &str = "batch.kubernetes.io/job-name";

pub fn job(job: &Job, errors: &mut Errors) {
    let none = JobSpec::default();
    let spec = job.spec.as_ref().unwrap_or(&none);
    if spec.manual_selector != Some(true) {
        generated_selector(job, spec, errors);
    }
    match &spec.selector {
        None => errors.required(&SPEC.field("selector"), ""),
        Some(selector) => selector::label_selector(Some(selector), &SPEC.field("selector"), errors),
    }
    matches_template(spec, errors);
    job_spec(spec, &SPEC, errors);
}

/// A client cannot claim pods by writing the labels that the server writes.
fn generated_selector(job: &Job, spec: &JobSpec, errors: &mut Errors) {
    let uid = text(&job.metadata.uid);
    let labels = spec.template.metadata.as_ref().and_then(|meta| meta.labels.as_ref());
    let expected = BTreeMap::from([(CONTROLLER_UID, uid), (JOB_NAME, text(&job.metadata.name))]);
    let path = SPEC.field("template.metadata.labels");
    for (key, value) in expected {
        match labels.and_then(|labels| labels.get(key)) {
            None => errors.required(&path.key(key), &format!("must be '{value}'")),
            Some(given) if given != value => errors.invalid(&path, labels, format!("must be '{value}'")),
            Some(_) => {}
        }
    }
    let wanted = BTreeMap::from([(CONTROLLER_UID.to_owned(), uid.to_owned())]);
    let selector = spec.selector.clone().unwrap_or_default();
    if selector.match_labels.as_ref() != Some(&wanted) || !items(&selector.match_expressions).is_empty() {
        errors.invalid(&SPEC.field("selector"), &spec.selector, "`selector` not auto-generated");
    }
}

fn matches_template(spec: &JobSpec, errors: &mut Errors) {
    let none = LabelSelector::default();
    let labels = spec.template.metadata.as_ref().and_then(|meta| meta.labels.clone()).unwrap_or_default();
    if !Selector::from(spec.selector.as_ref().unwrap_or(&none)).matches(&labels) {
        let path = SPEC.field("template.metadata.labels");
        errors.invalid(&path, labels, "`selector` does not match template `labels`");
    }
}

fn job_spec(spec: &JobSpec, path: &Path, errors: &mut Errors) {
    for (field, value) in [
        ("parallelism", spec.parallelism.map(i64::from)),
        ("completions", spec.completions.map(i64::from)),
        ("activeDeadlineSeconds", spec.active_deadline_seconds),
        ("backoffLimit", spec.backoff_limit.map(i64::from)),
        ("ttlSecondsAfterFinished", spec.ttl_seconds_after_finished.map(i64::from)),
        ("backoffLimitPerIndex", spec.backoff_limit_per_index.map(i64::from)),
        ("maxFailedIndexes", spec.max_failed_indexes.map(i64::from)),
    ] {
        if let Some(value) = value {
            errors.non_negative(&path.field(field), value);
        }
    }
    indexes(spec, path, errors);
    if let Some(controller) = &spec.managed_by {
        errors.invalid_all(&path.field("managedBy"), controller.as_str(), names::qualified_name(controller));
        if controller.len() > names::LABEL_MAX {
            errors.too_long(&path.field("managedBy"), names::LABEL_MAX);
        }
    }
    if let Some(policy) = &spec.success_policy {
        success_policy(&policy.rules, spec, &path.field("successPolicy.rules"), errors);
    }
    if let Some(policy) = &spec.pod_failure_policy {
        failure_policy(&policy.rules, spec, &path.field("podFailurePolicy"), errors);
    }
    if let Some(policy) = &spec.pod_replacement_policy {
        let supported: &[&str] = match spec.pod_failure_policy {
            Some(_) => &["Failed"],
            None => &["Failed", "TerminatingOrFailed"],
        };
        errors.one_of(&path.field("podReplacementPolicy"), policy, supported);
    }
    pod_spec::template(&spec.template, &path.field("template"), errors);
    restart_policy(spec, path, errors);
}

fn restart_policy(spec: &JobSpec, path: &Path, errors: &mut Errors) {
    let path = path.field("template.spec.restartPolicy");
    let policy = spec.template.spec.as_ref().map(|spec| text(&spec.restart_policy)).unwrap_or_default();
    match policy {
        "" | "Always" => errors.required(&path, "valid values: \"OnFailure\", \"Never\""),
        "OnFailure" if spec.pod_failure_policy.is_some() => {
            errors.invalid(&path, policy, "only \"Never\" is supported when podFailurePolicy is specified");
        }
        "OnFailure" | "Never" => {}
        policy => errors.not_supported(&path, policy, &["OnFailure", "Never"]),
    }
}

fn indexes(spec: &JobSpec, path: &Path, errors: &mut Errors) {
    let is_indexed = text(&spec.completion_mode) == "Indexed";
    if let Some(mode) = &spec.completion_mode {
        errors.one_of(&path.field("completionMode"), mode, &["Indexed", "NonIndexed"]);
    }
    if is_indexed {
        if spec.completions.is_none() {
            let detail = "when completion mode is Indexed";
            errors.required(&path.field("completions"), detail);
        }
        if let Some(parallelism) = spec.parallelism.filter(|parallelism| *parallelism > PARALLELISM_MAX_INDEXED) {
            let detail =
                format!("must be less than or equal to {PARALLELISM_MAX_INDEXED} when completion mode is Indexed");
            errors.invalid(&path.field("parallelism"), parallelism, detail);
        }
        return;
    }
    if spec.backoff_limit_per_index.is_some() {
        let detail = "requires indexed completion mode";
        errors.invalid(&path.field("backoffLimitPerIndex"), spec.backoff_limit_per_index, detail);
    }
    if spec.success_policy.is_some() {
        errors.invalid(&path.field("successPolicy"), &spec.success_policy, "requires indexed completion mode");
    }
    if spec.max_failed_indexes.is_some() && spec.backoff_limit_per_index.is_none() {
        errors.required(&path.field("backoffLimitPerIndex"), "when maxFailedIndexes is specified");
    }
}

/// Which indexes, or how many, make a Job a success.
fn success_policy(rules: &[SuccessPolicyRule], spec: &JobSpec, path: &Path, errors: &mut Errors) {
    if rules.is_empty() {
        errors.required(path, "at least one rules must be specified when the successPolicy is specified");
    }
    if rules.len() > FAILURE_RULES_MAX {
        errors.too_many(path, rules.len(), FAILURE_RULES_MAX);
    }
    for (i, rule) in rules.iter().enumerate() {
        let path = path.index(i);
        if rule.succeeded_count.is_none() && rule.succeeded_indexes.is_none() {
            errors.required(&path, "at least one of succeededCount or succeededIndexes must be specified");
        }
        if let Some(count) = rule.succeeded_count {
            errors.non_negative(&path.field("succeededCount"), count);
            if let Some(all) = spec.completions.filter(|all| count > *all) {
                let detail = format!("must be less than or equal to {all} (the number of specified completions)");
                errors.invalid(&path.field("succeededCount"), count, detail);
            }
        }
    }
}

fn failure_policy(rules: &[PodFailurePolicyRule], spec: &JobSpec, path: &Path, errors: &mut Errors) {
    let path = path.field("rules");
    if rules.len() > FAILURE_RULES_MAX {
        errors.too_many(&path, rules.len(), FAILURE_RULES_MAX);
    }
    for (i, rule) in rules.iter().enumerate() {
        let path = path.index(i);
        match rule.action.as_str() {
            "" => {
                errors.required(&path.field("action"), "valid values: [\"Count\" \"FailIndex\" \"FailJob\" \"Ignore\"]")
            }
            "FailIndex" if spec.backoff_limit_per_index.is_none() => {
                errors.invalid(&path.field("action"), "FailIndex", "requires the backoffLimitPerIndex to be set");
            }
            action => errors.one_of(&path.field("action"), action, &["Count", "FailIndex", "FailJob", "Ignore"]),
        }
        match (&rule.on_exit_codes, items(&rule.on_pod_conditions)) {
            (Some(_), [_, ..]) => {
                errors.invalid(&path, rule, "specifying both OnExitCodes and OnPodConditions is not supported");
            }
            (None, []) => errors.invalid(&path, rule, "specifying one of OnExitCodes and OnPodConditions is required"),
            (Some(_), []) | (None, [_, ..]) => {}
        }
        for (j, pattern) in items(&rule.on_pod_conditions).iter().enumerate() {
            let path = path.field("onPodConditions");
            let path = path.index(j);
            let kind = pattern.type_.as_str();
            errors.invalid_all(&path.field("type"), kind, names::qualified_name(kind));
            errors.required_one_of(&path.field("status"), text(&pattern.status), &["False", "True", "Unknown"]);
        }
        let Some(codes) = &rule.on_exit_codes else { continue };
        let path = path.field("onExitCodes");
        errors.required_one_of(&path.field("operator"), &codes.operator, &["In", "NotIn"]);
        if codes.values.is_empty() {
            errors.invalid(&path.field("values"), &codes.values, "at least one value is required");
        } else if codes.values.len() > EXIT_CODES_MAX {
            errors.too_many(&path.field("values"), codes.values.len(), EXIT_CODES_MAX);
        }
        for (j, pair) in codes.values.windows(2).enumerate() {
            if pair[0] == pair[1] {
                errors.duplicate(&path.field("values").index(j + 1), pair[1]);
            } else if pair[0] > pair[1] {
                errors.invalid(&path.field("values"), &codes.values, "must be ordered");
            }
        }
        if codes.operator == "In" && codes.values.contains(&0) {
            errors.invalid(&path.field("values"), 0, "must not be 0 for the In operator");
        }
        let container = text(&codes.container_name);
        let known =
            spec.template.spec.iter().flat_map(|spec| spec.containers.iter().chain(items(&spec.init_containers)));
        if !container.is_empty() && !known.into_iter().any(|known| known.name == container) {
            errors.invalid(
                &path.field("containerName"),
                container,
                "must be one of the container or initContainer names in the pod template",
            );
        }
    }
}

pub fn job_update(new: &Job, old: &Job, errors: &mut Errors) {
    let none = JobSpec::default();
    let (after, before) = (new.spec.as_ref().unwrap_or(&none), old.spec.as_ref().unwrap_or(&none));
    job_spec(after, &SPEC, errors);
    let is_elastic = text(&after.completion_mode) == "Indexed" && after.completions == after.parallelism;
    if !is_elastic || after.completions.is_none() {
        errors.immutable(&SPEC.field("completions"), &after.completions, &before.completions);
    }
    errors.immutable(&SPEC.field("selector"), &after.selector, &before.selector);
    let started = old.status.as_ref().is_some_and(|status| status.start_time.is_some());
    let mut template = before.template.clone();
    if before.suspend == Some(true) && !started {
        take_scheduling(&mut template, &after.template);
    }
    errors.immutable(&SPEC.field("template"), &after.template, &template);
    errors.immutable(&SPEC.field("completionMode"), &after.completion_mode, &before.completion_mode);
    errors.immutable(&SPEC.field("podFailurePolicy"), &after.pod_failure_policy, &before.pod_failure_policy);
    errors.immutable(
        &SPEC.field("backoffLimitPerIndex"),
        &after.backoff_limit_per_index,
        &before.backoff_limit_per_index,
    );
    errors.immutable(&SPEC.field("managedBy"), &after.managed_by, &before.managed_by);
    errors.immutable(&SPEC.field("successPolicy"), &after.success_policy, &before.success_policy);
}

/// A suspended Job that never started may still be told where to run, and with what.
fn take_scheduling(template: &mut PodTemplateSpec, new: &PodTemplateSpec) {
    let (old_meta, new_meta) = (template.metadata.get_or_insert_default(), new.metadata.clone().unwrap_or_default());
    old_meta.annotations = new_meta.annotations;
    old_meta.labels = new_meta.labels;
    let (Some(spec), Some(new)) = (&mut template.spec, &new.spec) else { return };
    spec.node_selector.clone_from(&new.node_selector);
    spec.tolerations.clone_from(&new.tolerations);
    spec.scheduling_gates.clone_from(&new.scheduling_gates);
    match (&mut spec.affinity, &new.affinity) {
        (Some(affinity), new) => {
            affinity.node_affinity = new.as_ref().and_then(|affinity| affinity.node_affinity.clone());
            if new.is_none() && *affinity == Default::default() {
                spec.affinity = None;
            }
        }
        (None, Some(new)) if new.pod_affinity.is_none() && new.pod_anti_affinity.is_none() => {
            spec.affinity = Some(new.clone());
        }
        (None, _) => {}
    }
    for (container, new) in spec.containers.iter_mut().zip(&new.containers) {
        container.resources.clone_from(&new.resources);
    }
}

pub fn cron_job(cron_job: &CronJob, errors: &mut Errors) {
    if text(&cron_job.metadata.name).len() > CRON_JOB_NAME_MAX {
        let detail = format!("must be no more than {CRON_JOB_NAME_MAX} characters");
        errors.invalid(&Path::root("metadata.name"), text(&cron_job.metadata.name), detail);
    }
    let spec = &cron_job.spec;
    let path = SPEC.field("schedule");
    match spec.schedule.as_str() {
        "" => errors.required(&path, ""),
        schedule => {
            if schedule.contains("TZ") {
                let detail = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
                errors.invalid(&path, schedule, detail);
            } else if let Err(why) = schedule::check(schedule) {
                errors.invalid(&path, schedule, why);
            }
        }
    }
    if let Some(deadline_s) = spec.starting_deadline_seconds {
        errors.non_negative(&SPEC.field("startingDeadlineSeconds"), deadline_s);
    }
    if let Some(zone) = &spec.time_zone {
        time_zone(zone, &SPEC.field("timeZone"), errors);
    }
    match text(&spec.concurrency_policy) {
        "" => errors.required(&SPEC.field("concurrencyPolicy"), ""),
        policy => errors.one_of(&SPEC.field("concurrencyPolicy"), policy, &["Allow", "Forbid", "Replace"]),
    }
    let template = SPEC.field("jobTemplate.spec");
    if let Some(job) = &spec.job_template.spec {
        job_spec(job, &template, errors);
        if job.manual_selector == Some(true) {
            errors.not_supported(&template.field("manualSelector"), true, &["nil", "false"]);
        }
    }
    for (field, limit) in [
        ("successfulJobsHistoryLimit", spec.successful_jobs_history_limit),
        ("failedJobsHistoryLimit", spec.failed_jobs_history_limit),
    ] {
        if let Some(limit) = limit {
            errors.non_negative(&SPEC.field(field), limit);
        }
    }
}

fn time_zone(zone: &str, path: &Path, errors: &mut Errors) {
    if zone.is_empty() {
        return errors.invalid(path, zone, "timeZone must be nil or non-empty string");
    }
    if zone.eq_ignore_ascii_case("Local") {
        return errors.invalid(
            path,
            zone,
            "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones",
        );
    }
    let is_plain = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'_'))
    };
    if !zone.split('/').all(is_plain) {
        errors.invalid(path, zone, format!("unknown time zone {zone}"));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::rules::{
        texts,
        workload::{cron_job, job},
    };

    fn made(change: impl Fn(&mut Value)) -> Value {
        let mut object = json!({"metadata": {"name": "j", "uid": "u"}, "spec": {"template": {"spec": {
            "restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}});
        change(&mut object);
        (job::RULES.default)(&mut object);
        (job::RULES.prepare_create)(&mut object);
        object
    }

    #[test]
    fn jobs() {
        for (change, errors) in [
            ((|_| {}) as fn(&mut Value), &[][..]),
            (
                |job| job["spec"]["template"]["spec"]["restartPolicy"] = json!("Always"),
                &["spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\""],
            ),
            (
                |job| job["spec"]["completionMode"] = json!("Odd"),
                &["spec.completionMode: Unsupported value: \"Odd\": supported values: \"Indexed\", \"NonIndexed\""],
            ),
            (
                |job| job["spec"]["parallelism"] = json!(-1),
                &["spec.parallelism: Invalid value: -1: must be greater than or equal to 0"],
            ),
        ] {
            assert_eq!(texts((job::RULES.validate)(&made(change))), errors);
        }
    }

    #[test]
    fn suspended_jobs_may_move() {
        let update = |old: &Value, change: fn(&mut Value)| {
            let mut new = old.clone();
            change(&mut new);
            texts((job::RULES.validate_update)(&new, old))
        };
        let moved: fn(&mut Value) = |job| job["spec"]["template"]["spec"]["nodeSelector"] = json!({"a": "b"});
        let suspended = made(|job| job["spec"]["suspend"] = json!(true));
        assert_eq!(update(&suspended, moved), [""; 0]);
        assert!(update(&made(|_| {}), moved)[0].starts_with("spec.template: Invalid value: "));
        assert_eq!(
            update(&suspended, |job| job["spec"]["completions"] = json!(2)),
            ["spec.completions: Invalid value: 2: field is immutable"]
        );
    }

    #[test]
    fn cron_jobs() {
        let refused = |schedule: &str| {
            let mut object = json!({"metadata": {"name": "c"}, "spec": {"schedule": schedule, "jobTemplate": {"spec": {
                "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}}}});
            (cron_job::RULES.default)(&mut object);
            texts((cron_job::RULES.validate)(&object))
        };
        assert_eq!(refused("*/5 * * * *"), [""; 0]);
        assert_eq!(
            refused("* * *"),
            ["spec.schedule: Invalid value: \"* * *\": expected exactly 5 fields, found 3: [* * *]"]
        );
    }
}
