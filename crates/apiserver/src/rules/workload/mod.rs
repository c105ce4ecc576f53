//! Kinds that make pods from a template: Deployments, ReplicaSets, ReplicationControllers,
//! DaemonSets, StatefulSets and PodTemplates; Jobs and CronJobs beside them.
//!
//! Source: pkg/apis/apps/v1/defaults.go and the strategies in pkg/registry/apps.

use serde_json::{Value, json};

use super::{
    PLAIN, Propagation, Rules, check, check_change,
    edit::{child, copy, each, fill, fill_text, first_generation, next_generation, set, text},
    path::{Errors, Path},
    pod::{default::default_template, warnings},
    status,
};

pub mod cron_job;
pub mod job;
mod schedule;
pub mod validate;
mod validate_batch;

const REVISION_HISTORY_LIMIT: i64 = 10;
const PROGRESS_DEADLINE_S: i64 = 600;
const MAX_SHIFT: &str = "25%";

/// A kind with a template, a status of its own and a generation.
const WORKLOAD: Rules = Rules {
    prepare_create,
    prepare_update,
    validate_status_update: status::replicas,
    warnings: |object, old| warnings::of_template(object, old, "spec.template"),
    ..PLAIN
};

pub const DEPLOYMENT: Rules = Rules {
    default: default_deployment,
    prepare_update: prepare_deployment_update,
    prepare_status_update: prepare_deployment_status,
    validate: |deployment| check(deployment, validate::deployment),
    validate_update: |new, old| check_change(new, old, validate::deployment_update),
    ..WORKLOAD
};
pub const REPLICA_SET: Rules = Rules {
    default: default_replica_set,
    validate: |set| check(set, validate::replica_set),
    validate_update: |new, old| check_change(new, old, validate::replica_set_update),
    selectable: selectable_replicas,
    selectable_names: &["status.replicas"],
    ..WORKLOAD
};
pub const REPLICATION_CONTROLLER: Rules = Rules {
    default: default_replication_controller,
    validate: |controller| check(controller, validate::replication_controller),
    validate_update: |controller, _| check(controller, validate::replication_controller),
    selectable: selectable_replicas,
    selectable_names: &["status.replicas"],
    default_propagation: Propagation::Orphan,
    ..WORKLOAD
};
pub const DAEMON_SET: Rules = Rules {
    default: default_daemon_set,
    validate: |set| check(set, validate::daemon_set),
    validate_update: |new, old| check_change(new, old, validate::daemon_set_update),
    prepare_create: prepare_daemon_set_create,
    prepare_update: prepare_daemon_set_update,
    validate_status_update: status::counters,
    ..WORKLOAD
};
pub const STATEFUL_SET: Rules = Rules {
    default: default_stateful_set,
    validate: |set| check(set, validate::stateful_set),
    validate_update: |new, old| check_change(new, old, validate::stateful_set_update),
    ..WORKLOAD
};
pub const POD_TEMPLATE: Rules = Rules {
    default: default_template,
    validate: |template| check(template, validate::pod_template),
    validate_update: |template, _| check(template, validate::pod_template),
    warnings: |object, old| warnings::of_template(object, old, "template"),
    prepare_create: first_generation,
    prepare_update: |new, old| {
        let changed = new.get("template") != old.get("template");
        next_generation(new, old, changed);
    },
    returns_deleted: true,
    ..PLAIN
};

/// A revision's data is what a rollback restores.
///
/// Source: `ValidateControllerRevisionUpdate` in pkg/apis/apps/validation.
pub const CONTROLLER_REVISION: Rules = Rules {
    validate: |revision| {
        let mut errors = Errors::default();
        if revision.get("data").is_none_or(Value::is_null) {
            errors.required(&Path::root("data"), "data is mandatory");
        }
        let number = revision.get("revision").and_then(Value::as_i64).unwrap_or(0);
        errors.non_negative(&Path::root("revision"), number);
        errors.0
    },
    validate_update: |new, old| {
        let mut errors = Errors::default();
        errors.immutable(&Path::root("data"), &new.get("data"), &old.get("data"));
        errors.0
    },
    ..PLAIN
};

/// The status is the server's; a new object's generation is 1.
pub fn prepare_create(object: &mut Value) {
    first_generation(object);
    set(object, "status", empty_status(text(object, "kind")));
}

/// Keeps the status; a changed spec is a new generation.
pub fn prepare_update(new: &mut Value, old: &Value) {
    copy(new, old, "status");
    let changed = new.get("spec") != old.get("spec");
    next_generation(new, old, changed);
}

/// Counters that show even when they are zero.
fn empty_status(kind: &str) -> Value {
    match kind {
        "ReplicaSet" | "ReplicationController" => json!({"replicas": 0}),
        "StatefulSet" => json!({"replicas": 0, "availableReplicas": 0}),
        "DaemonSet" => json!({"currentNumberScheduled": 0, "numberMisscheduled": 0, "desiredNumberScheduled": 0,
            "numberReady": 0}),
        _ => json!({}),
    }
}

fn default_status(object: &mut Value) {
    let empty = empty_status(text(object, "kind"));
    let status = child(object, "status");
    for (name, zero) in empty.as_object().into_iter().flatten() {
        fill(status, name, zero.clone());
    }
}

fn default_deployment(deployment: &mut Value) {
    default_status(deployment);
    let spec = child(deployment, "spec");
    default_template(spec);
    fill(spec, "replicas", 1);
    fill(spec, "revisionHistoryLimit", REVISION_HISTORY_LIMIT);
    fill(spec, "progressDeadlineSeconds", PROGRESS_DEADLINE_S);
    let strategy = child(spec, "strategy");
    fill_text(strategy, "type", "RollingUpdate");
    if text(strategy, "type") == "RollingUpdate" {
        let rolling = child(strategy, "rollingUpdate");
        fill(rolling, "maxUnavailable", MAX_SHIFT);
        fill(rolling, "maxSurge", MAX_SHIFT);
    }
}

/// Annotations count, too: they are copied to the ReplicaSets.
fn prepare_deployment_update(new: &mut Value, old: &Value) {
    copy(new, old, "status");
    let annotations =
        |object: &Value| object.pointer("/metadata/annotations").filter(|annotations| !is_empty(annotations)).cloned();
    let changed = new.get("spec") != old.get("spec") || annotations(new) != annotations(old);
    next_generation(new, old, changed);
}

/// Labels of a Deployment cannot be changed through its status, unlike those of its kin.
fn prepare_deployment_status(new: &mut Value, old: &Value) {
    (PLAIN.prepare_status_update)(new, old);
    if let Some(meta) = old.get("metadata") {
        copy(child(new, "metadata"), meta, "labels");
    }
}

fn default_replica_set(set: &mut Value) {
    default_status(set);
    let spec = child(set, "spec");
    default_template(spec);
    fill(spec, "replicas", 1);
}

/// Selector and labels default to the template's labels.
fn default_replication_controller(controller: &mut Value) {
    default_status(controller);
    let spec = child(controller, "spec");
    default_template(spec);
    fill(spec, "replicas", 1);
    let labels = spec.pointer("/template/metadata/labels").filter(|labels| !is_empty(labels)).cloned();
    let Some(labels) = labels else { return };
    if spec.get("selector").is_none_or(is_empty) {
        set(spec, "selector", labels.clone());
    }
    let meta = child(controller, "metadata");
    if meta.get("labels").is_none_or(is_empty) {
        set(meta, "labels", labels);
    }
}

fn is_empty(value: &Value) -> bool {
    value.as_object().is_none_or(serde_json::Map::is_empty)
}

fn default_daemon_set(daemon_set: &mut Value) {
    default_status(daemon_set);
    fill_text(child(child(daemon_set, "metadata"), "annotations"), TEMPLATE_GENERATION, "0");
    let spec = child(daemon_set, "spec");
    default_template(spec);
    fill(spec, "revisionHistoryLimit", REVISION_HISTORY_LIMIT);
    let strategy = child(spec, "updateStrategy");
    fill_text(strategy, "type", "RollingUpdate");
    if text(strategy, "type") == "RollingUpdate" {
        let rolling = child(strategy, "rollingUpdate");
        fill(rolling, "maxUnavailable", 1);
        fill(rolling, "maxSurge", 0);
    }
}

const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

/// Old clients read how often the template changed from an annotation.
fn prepare_daemon_set_create(daemon_set: &mut Value) {
    prepare_create(daemon_set);
    let annotations = child(child(daemon_set, "metadata"), "annotations");
    let generation = text(annotations, TEMPLATE_GENERATION).parse::<i64>().map_or(1, |generation| generation.max(1));
    set(annotations, TEMPLATE_GENERATION, generation.to_string());
}

fn prepare_daemon_set_update(new: &mut Value, old: &Value) {
    let generation = old
        .get("metadata")
        .and_then(|meta| meta.get("annotations"))
        .map(|annotations| text(annotations, TEMPLATE_GENERATION));
    let mut generation: i64 = generation.and_then(|text| text.parse().ok()).unwrap_or(0);
    if new.pointer("/spec/template") != old.pointer("/spec/template") {
        generation += 1;
    }
    if generation > 0 {
        set(child(child(new, "metadata"), "annotations"), TEMPLATE_GENERATION, generation.to_string());
    }
    prepare_update(new, old);
}

fn default_stateful_set(stateful_set: &mut Value) {
    default_status(stateful_set);
    let spec = child(stateful_set, "spec");
    default_template(spec);
    fill(spec, "replicas", 1);
    fill(spec, "revisionHistoryLimit", REVISION_HISTORY_LIMIT);
    fill_text(spec, "podManagementPolicy", "OrderedReady");
    let strategy = child(spec, "updateStrategy");
    fill_text(strategy, "type", "RollingUpdate");
    if text(strategy, "type") == "RollingUpdate" {
        fill(child(strategy, "rollingUpdate"), "partition", 0);
    }
    let retention = child(spec, "persistentVolumeClaimRetentionPolicy");
    fill_text(retention, "whenDeleted", "Retain");
    fill_text(retention, "whenScaled", "Retain");
    for claim in each(spec, "volumeClaimTemplates") {
        fill_text(claim, "apiVersion", "v1");
        fill_text(claim, "kind", "PersistentVolumeClaim");
        super::storage::claim::default(claim);
    }
}

fn selectable_replicas(object: &Value) -> Vec<(&'static str, String)> {
    let replicas = object.pointer("/status/replicas").and_then(Value::as_i64).unwrap_or(0);
    vec![("status.replicas", replicas.to_string())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_spec_is_a_new_generation() {
        let old = json!({"kind": "Deployment", "metadata": {"generation": 2}, "spec": {"replicas": 1}, "status": {"replicas": 1}});
        let mut new = json!({"kind": "Deployment", "metadata": {"generation": 9}, "spec": {"replicas": 1}, "status": {"replicas": 7}});
        prepare_update(&mut new, &old);
        assert_eq!(new, old);
        new["spec"]["replicas"] = json!(2);
        prepare_update(&mut new, &old);
        assert_eq!(new["metadata"]["generation"], 3);
    }

    #[test]
    fn annotations_of_a_deployment_count() {
        let old = json!({"metadata": {"generation": 1}, "spec": {}});
        let mut new = json!({"metadata": {"generation": 1, "annotations": {"a": "b"}}, "spec": {}});
        prepare_deployment_update(&mut new, &old);
        assert_eq!(new["metadata"]["generation"], 2);
    }

    #[test]
    fn a_controller_selects_its_templates_labels() {
        let mut controller = json!({"kind": "ReplicationController", "metadata": {}, "spec": {"template": {"metadata": {"labels": {"a": "b"}}}}});
        default_replication_controller(&mut controller);
        assert_eq!(controller["spec"]["selector"], json!({"a": "b"}));
        assert_eq!(controller["metadata"]["labels"], json!({"a": "b"}));
    }

    #[test]
    fn a_daemon_set_counts_its_templates() {
        let mut old = json!({"kind": "DaemonSet", "metadata": {}, "spec": {"template": {"a": 1}}});
        prepare_daemon_set_create(&mut old);
        assert_eq!(old["metadata"]["annotations"][TEMPLATE_GENERATION], "1");
        let mut new = old.clone();
        new["spec"]["template"]["a"] = json!(2);
        prepare_daemon_set_update(&mut new, &old);
        assert_eq!(new["metadata"]["annotations"][TEMPLATE_GENERATION], "2");
    }
}
