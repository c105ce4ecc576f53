//! CronJobs: defaults and generations.
//!
//! Source: pkg/apis/batch/v1/defaults.go, pkg/registry/batch/cronjob/strategy.go.

use serde_json::Value;

use crate::rules::{
    PLAIN, Rules, check,
    edit::{child, field, fill, fill_text},
    pod::{default::default_template, warnings},
    workload::{prepare_create, prepare_update, validate_batch},
};

const SUCCESSFUL_HISTORY_LIMIT: i64 = 3;
const FAILED_HISTORY_LIMIT: i64 = 1;

pub const RULES: Rules = Rules {
    default,
    prepare_create,
    prepare_update,
    warnings: |cron_job, old| warnings::of_template(cron_job, old, "spec.jobTemplate.spec.template"),
    validate: |cron_job| check(cron_job, validate_batch::cron_job),
    validate_update: |cron_job, _| check(cron_job, validate_batch::cron_job),
    ..PLAIN
};

fn default(cron_job: &mut Value) {
    child(cron_job, "status");
    let spec = child(cron_job, "spec");
    fill_text(spec, "concurrencyPolicy", "Allow");
    fill(spec, "suspend", false);
    fill(spec, "successfulJobsHistoryLimit", SUCCESSFUL_HISTORY_LIMIT);
    fill(spec, "failedJobsHistoryLimit", FAILED_HISTORY_LIMIT);
    if let Some(template) = field(spec, "jobTemplate") {
        child(template, "metadata");
        // What makes no sense before the Job exists is defaulted when it does.
        default_template(child(template, "spec"));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fills_what_is_not_said() {
        let mut cron_job =
            json!({"spec": {"schedule": "* * * * *", "jobTemplate": {"spec": {"template": {"spec": {}}}}}});
        default(&mut cron_job);
        assert_eq!(cron_job["spec"]["concurrencyPolicy"], "Allow");
        assert_eq!(cron_job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["restartPolicy"], "Always");
        assert_eq!(cron_job["spec"]["jobTemplate"]["spec"].get("backoffLimit"), None);
    }
}
