//! Whether kinds that make pods from a template make sense, and what of them never changes.
//!
//! Source: pkg/apis/apps/validation/validation.go, pkg/apis/core/validation/validation.go.

use api_types::{
    k8s::{
        IntOrString,
        apps::{DaemonSet, Deployment, ReplicaSet, StatefulSet},
        core::{PodTemplate, PodTemplateSpec, ReplicationController},
        meta::LabelSelector,
    },
    labels::Selector,
    names,
};

use crate::rules::{
    meta,
    path::{Errors, Path, text},
    pod::spec,
    selector,
};

const SPEC: Path = Path::root("spec");

/// The selector is there, says something, and matches the template's labels; the pods are restarted always.
fn selector_and_template(selector: &LabelSelector, template: &PodTemplateSpec, kind: &str, errors: &mut Errors) {
    validate_selector(selector, kind, errors);
    selects_template(selector, template, errors);
    spec::template(template, &SPEC.field("template"), errors);
    always_restarts(template, errors);
}

fn validate_selector(selector: &LabelSelector, kind: &str, errors: &mut Errors) {
    let path = SPEC.field("selector");
    selector::label_selector(Some(selector), &path, errors);
    if selector::is_empty(selector) {
        errors.invalid(&path, selector, format!("empty selector is invalid for {kind}"));
    }
}

fn selects_template(selector: &LabelSelector, template: &PodTemplateSpec, errors: &mut Errors) {
    let labels = template.metadata.as_ref().and_then(|meta| meta.labels.as_ref());
    let none = Default::default();
    if !selector::is_empty(selector) && !Selector::from(selector).matches(labels.unwrap_or(&none)) {
        let path = SPEC.field("template.metadata.labels");
        errors.invalid(&path, labels.unwrap_or(&none), "`selector` does not match template `labels`");
    }
}

fn always_restarts(template: &PodTemplateSpec, errors: &mut Errors) {
    let Some(spec) = &template.spec else { return };
    let policy = text(&spec.restart_policy);
    if policy != "Always" && spec::RESTART_POLICIES.contains(&policy) {
        errors.not_supported(&SPEC.field("template.spec.restartPolicy"), policy, &["Always"]);
    }
    if spec.active_deadline_seconds.is_some() {
        let path = SPEC.field("template.spec.activeDeadlineSeconds");
        errors.forbidden(&path, "activeDeadlineSeconds in ReplicaSet is not Supported");
    }
}

pub fn deployment(deployment: &Deployment, errors: &mut Errors) {
    let Some(spec) = &deployment.spec else { return errors.required(&SPEC, "") };
    errors.non_negative(&SPEC.field("replicas"), spec.replicas.unwrap_or(0));
    selector_and_template(&spec.selector, &spec.template, "deployment", errors);
    let strategy_path = SPEC.field("strategy");
    if let Some(strategy) = &spec.strategy {
        match text(&strategy.type_) {
            "Recreate" => {
                if strategy.rolling_update.is_some() {
                    let detail = "may not be specified when strategy `type` is 'Recreate'";
                    errors.forbidden(&strategy_path.field("rollingUpdate"), detail);
                }
            }
            "RollingUpdate" => match &strategy.rolling_update {
                None => {
                    errors.required(&strategy_path.field("rollingUpdate"), "this should be defaulted and never be nil");
                }
                Some(rolling) => {
                    let path = strategy_path.field("rollingUpdate");
                    rolling_update(rolling.max_unavailable.as_ref(), rolling.max_surge.as_ref(), &path, errors);
                }
            },
            kind => errors.not_supported(&strategy_path.field("type"), kind, &["Recreate", "RollingUpdate"]),
        }
    }
    let ready_s = spec.min_ready_seconds.unwrap_or(0);
    errors.non_negative(&SPEC.field("minReadySeconds"), ready_s);
    if let Some(limit) = spec.revision_history_limit {
        errors.non_negative(&SPEC.field("revisionHistoryLimit"), limit);
    }
    if let Some(deadline_s) = spec.progress_deadline_seconds {
        errors.non_negative(&SPEC.field("progressDeadlineSeconds"), deadline_s);
        if deadline_s <= ready_s {
            errors.invalid(&SPEC.field("progressDeadlineSeconds"), deadline_s, "must be greater than minReadySeconds");
        }
    }
}

pub fn deployment_update(new: &Deployment, old: &Deployment, errors: &mut Errors) {
    if let (Some(new), Some(old)) = (&new.spec, &old.spec) {
        errors.immutable(&SPEC.field("selector"), &new.selector, &old.selector);
    }
    deployment(new, errors);
}

/// Upstream forbids only that both are zero.
fn rolling_update(unavailable: Option<&IntOrString>, surge: Option<&IntOrString>, path: &Path, errors: &mut Errors) {
    count_or_percent(unavailable, &path.field("maxUnavailable"), errors);
    count_or_percent(surge, &path.field("maxSurge"), errors);
    if is_zero(unavailable) && is_zero(surge) {
        errors.invalid(&path.field("maxUnavailable"), unavailable, "may not be 0 when `maxSurge` is 0");
    }
    not_over_all(unavailable, &path.field("maxUnavailable"), errors);
}

fn is_zero(value: Option<&IntOrString>) -> bool {
    match value {
        None => true,
        Some(IntOrString::Int(number)) => *number == 0,
        Some(IntOrString::String(text)) => text.strip_suffix('%').is_some_and(|percent| percent.parse() == Ok(0)),
    }
}

/// Also the bounds of a PodDisruptionBudget.
pub fn count_or_percent(value: Option<&IntOrString>, path: &Path, errors: &mut Errors) {
    match value {
        None => {}
        Some(IntOrString::Int(number)) => errors.non_negative(path, *number),
        Some(IntOrString::String(text)) => errors.invalid_all(path, text.as_str(), names::percent(text)),
    }
}

pub fn not_over_all(value: Option<&IntOrString>, path: &Path, errors: &mut Errors) {
    let Some(IntOrString::String(text)) = value else { return };
    if text.strip_suffix('%').and_then(|percent| percent.parse().ok()).is_some_and(|percent: i64| percent > 100) {
        errors.invalid(path, text, "must not be greater than 100%");
    }
}

pub fn replica_set(set: &ReplicaSet, errors: &mut Errors) {
    let Some(spec) = &set.spec else { return errors.required(&SPEC, "") };
    errors.non_negative(&SPEC.field("replicas"), spec.replicas.unwrap_or(0));
    errors.non_negative(&SPEC.field("minReadySeconds"), spec.min_ready_seconds.unwrap_or(0));
    let none = PodTemplateSpec::default();
    if spec.template.is_none() {
        errors.required(&SPEC.field("template"), "");
    }
    selector_and_template(&spec.selector, spec.template.as_ref().unwrap_or(&none), "deployment", errors);
}

pub fn replica_set_update(new: &ReplicaSet, old: &ReplicaSet, errors: &mut Errors) {
    if let (Some(new), Some(old)) = (&new.spec, &old.spec) {
        errors.immutable(&SPEC.field("selector"), &new.selector, &old.selector);
    }
    replica_set(new, errors);
}

pub fn replication_controller(controller: &ReplicationController, errors: &mut Errors) {
    let Some(spec) = &controller.spec else { return errors.required(&SPEC, "") };
    errors.non_negative(&SPEC.field("minReadySeconds"), spec.min_ready_seconds.unwrap_or(0));
    meta::labels(spec.selector.as_ref(), &SPEC.field("selector"), errors);
    let labels = spec.selector.clone().unwrap_or_default();
    if labels.is_empty() {
        errors.required(&SPEC.field("selector"), "");
    }
    errors.non_negative(&SPEC.field("replicas"), spec.replicas.unwrap_or(0));
    match &spec.template {
        None => errors.required(&SPEC.field("template"), ""),
        Some(template) => {
            selects_template(&LabelSelector { match_labels: Some(labels), match_expressions: None }, template, errors);
            spec::template(template, &SPEC.field("template"), errors);
            always_restarts(template, errors);
        }
    }
}

pub fn daemon_set(set: &DaemonSet, errors: &mut Errors) {
    let Some(spec) = &set.spec else { return errors.required(&SPEC, "") };
    selector_and_template(&spec.selector, &spec.template, "daemonset", errors);
    errors.non_negative(&SPEC.field("minReadySeconds"), spec.min_ready_seconds.unwrap_or(0));
    if let Some(limit) = spec.revision_history_limit {
        errors.non_negative(&SPEC.field("revisionHistoryLimit"), limit);
    }
    let path = SPEC.field("updateStrategy");
    let Some(strategy) = &spec.update_strategy else { return };
    match (text(&strategy.type_), &strategy.rolling_update) {
        ("OnDelete", _) => {}
        ("RollingUpdate", None) => errors.required(&path.field("rollingUpdate"), ""),
        ("RollingUpdate", Some(rolling)) => {
            let path = path.field("rollingUpdate");
            let (unavailable, surge) = (rolling.max_unavailable.as_ref(), rolling.max_surge.as_ref());
            count_or_percent(unavailable, &path.field("maxUnavailable"), errors);
            count_or_percent(surge, &path.field("maxSurge"), errors);
            not_over_all(unavailable, &path.field("maxUnavailable"), errors);
            not_over_all(surge, &path.field("maxSurge"), errors);
            match (is_zero(unavailable), is_zero(surge)) {
                (true, true) => {
                    errors.required(&path.field("maxUnavailable"), "cannot be 0 when maxSurge is 0");
                }
                (false, false) => {
                    errors.invalid(&path.field("maxSurge"), surge, "may not be set when maxUnavailable is non-zero");
                }
                (true, false) | (false, true) => {}
            }
        }
        (kind, _) => errors.not_supported(&path.field("type"), kind, &["RollingUpdate", "OnDelete"]),
    }
}

pub fn daemon_set_update(new: &DaemonSet, old: &DaemonSet, errors: &mut Errors) {
    if let (Some(new), Some(old)) = (&new.spec, &old.spec) {
        errors.immutable(&SPEC.field("selector"), &new.selector, &old.selector);
    }
    daemon_set(new, errors);
}

pub fn stateful_set(set: &StatefulSet, errors: &mut Errors) {
    let Some(spec) = &set.spec else { return errors.required(&SPEC, "") };
    match text(&spec.pod_management_policy) {
        "" => errors.required(&SPEC.field("podManagementPolicy"), ""),
        "OrderedReady" | "Parallel" => {}
        policy => {
            let detail = "must be 'OrderedReady' or 'Parallel'";
            errors.invalid(&SPEC.field("podManagementPolicy"), policy, detail);
        }
    }
    stateful_strategy(set, errors);
    if let Some(retention) = &spec.persistent_volume_claim_retention_policy {
        let path = SPEC.field("persistentVolumeClaimRetentionPolicy");
        for (field, policy) in [("whenDeleted", &retention.when_deleted), ("whenScaled", &retention.when_scaled)] {
            errors.one_of(&path.field(field), text(policy), &["Retain", "Delete"]);
        }
    }
    errors.non_negative(&SPEC.field("replicas"), spec.replicas.unwrap_or(0));
    errors.non_negative(&SPEC.field("minReadySeconds"), spec.min_ready_seconds.unwrap_or(0));
    if let Some(ordinals) = &spec.ordinals {
        errors.non_negative(&SPEC.field("ordinals.start"), ordinals.start.unwrap_or(0));
    }
    if let Some(limit) = spec.revision_history_limit {
        errors.non_negative(&SPEC.field("revisionHistoryLimit"), limit);
    }
    validate_selector(&spec.selector, "statefulset", errors);
    selects_template(&spec.selector, &spec.template, errors);
    // The rest of the template is judged when pods are made of it, with the claims' volumes in place.
    meta::labels_and_annotations(spec.template.metadata.as_ref(), &SPEC.field("template"), errors);
    always_restarts(&spec.template, errors);
    if let Some(service) = spec.service_name.as_ref().filter(|name| !name.is_empty()) {
        errors.invalid_all(&SPEC.field("serviceName"), service.as_str(), names::dns1123_subdomain(service));
    }
}

fn stateful_strategy(set: &StatefulSet, errors: &mut Errors) {
    let path = SPEC.field("updateStrategy");
    let Some(strategy) = set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref()) else { return };
    match (text(&strategy.type_), &strategy.rolling_update) {
        ("", _) => errors.required(&path, ""),
        ("OnDelete", Some(rolling)) => {
            let detail = "only allowed for updateStrategy 'RollingUpdate'";
            errors.invalid(&path.field("rollingUpdate"), rolling, detail);
        }
        ("OnDelete", None) | ("RollingUpdate", None) => {}
        ("RollingUpdate", Some(rolling)) => {
            errors.non_negative(&path.field("rollingUpdate.partition"), rolling.partition.unwrap_or(0));
            let unavailable = rolling.max_unavailable.as_ref();
            count_or_percent(unavailable, &path.field("rollingUpdate.maxUnavailable"), errors);
            if unavailable.is_some() && is_zero(unavailable) {
                errors.invalid(&path.field("rollingUpdate.maxUnavailable"), unavailable, "cannot be 0");
            }
            not_over_all(unavailable, &path.field("rollingUpdate.maxUnavailable"), errors);
        }
        (kind, _) => {
            let detail = "must be 'RollingUpdate' or 'OnDelete'";
            errors.invalid(&path, serde_json::json!({ "type": kind }), detail);
        }
    }
}

pub fn stateful_set_update(new: &StatefulSet, old: &StatefulSet, errors: &mut Errors) {
    stateful_set(new, errors);
    let (Some(new), Some(old)) = (&new.spec, &old.spec) else { return };
    let mut munged = new.clone();
    munged.replicas = old.replicas;
    munged.template.clone_from(&old.template);
    munged.update_strategy.clone_from(&old.update_strategy);
    munged.min_ready_seconds = old.min_ready_seconds;
    munged.ordinals.clone_from(&old.ordinals);
    munged.revision_history_limit = old.revision_history_limit;
    munged.persistent_volume_claim_retention_policy.clone_from(&old.persistent_volume_claim_retention_policy);
    if munged != *old {
        errors.forbidden(
            &SPEC,
            "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', \
             'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
        );
    }
}

pub fn pod_template(template: &PodTemplate, errors: &mut Errors) {
    let none = PodTemplateSpec::default();
    spec::template(template.template.as_ref().unwrap_or(&none), &Path::root("template"), errors);
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::rules::{self, texts, workload};

    fn made(kind: &str, rules: &rules::Rules, change: impl Fn(&mut Value)) -> Value {
        let mut object = json!({"kind": kind, "metadata": {"name": "x"}, "spec": {"selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
        change(&mut object);
        (rules.default)(&mut object);
        object
    }

    fn deployment(change: impl Fn(&mut Value)) -> Value {
        made("Deployment", &workload::DEPLOYMENT, change)
    }

    fn refused(object: &Value, expected: &[&str]) {
        assert_eq!(texts((workload::DEPLOYMENT.validate)(object)), expected);
    }

    #[test]
    fn deployments() {
        refused(&deployment(|_| {}), &[]);
        refused(
            &deployment(|d| d["spec"]["selector"] = json!({"matchLabels": {"a": "c"}})),
            &[
                "spec.template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not match template `labels`",
            ],
        );
        refused(
            &deployment(|d| d["spec"]["selector"] = json!({})),
            &["spec.selector: Invalid value: {}: empty selector is invalid for deployment"],
        );
        refused(
            &deployment(|d| d["spec"]["template"]["spec"]["restartPolicy"] = json!("Never")),
            &["spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\""],
        );
        refused(
            &deployment(|d| d["spec"]["strategy"] = json!({"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}})),
            &["spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0"],
        );
        refused(
            &deployment(|d| d["spec"]["replicas"] = json!(-1)),
            &["spec.replicas: Invalid value: -1: must be greater than or equal to 0"],
        );
    }

    #[test]
    fn selectors_stay() {
        let new = deployment(|d| {
            d["spec"]["selector"] = json!({"matchLabels": {"a": "e"}});
            d["spec"]["template"]["metadata"]["labels"] = json!({"a": "e"});
        });
        assert_eq!(
            texts((workload::DEPLOYMENT.validate_update)(&new, &deployment(|_| {}))),
            ["spec.selector: Invalid value: {\"matchLabels\":{\"a\":\"e\"}}: field is immutable"]
        );
    }

    #[test]
    fn stateful_sets_keep_their_names() {
        let set = |service: &str| {
            made("StatefulSet", &workload::STATEFUL_SET, |set| set["spec"]["serviceName"] = json!(service))
        };
        assert_eq!(texts((workload::STATEFUL_SET.validate)(&set("s"))), [""; 0]);
        let errors = texts((workload::STATEFUL_SET.validate_update)(&set("t"), &set("s")));
        assert!(
            errors.len() == 1 && errors[0].starts_with("spec: Forbidden: updates to statefulset spec"),
            "{errors:?}"
        );
    }

    #[test]
    fn daemon_sets_surge_or_drain() {
        let set = |rolling: Value| {
            let set = made("DaemonSet", &workload::DAEMON_SET, |set| {
                set["spec"]["updateStrategy"] = json!({ "rollingUpdate": rolling });
            });
            texts((workload::DAEMON_SET.validate)(&set))
        };
        assert_eq!(set(json!({"maxUnavailable": 0, "maxSurge": 1})), [""; 0]);
        assert_eq!(
            set(json!({"maxUnavailable": 1, "maxSurge": 1})),
            [
                "spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: 1: may not be set when maxUnavailable is non-zero"
            ]
        );
    }
}
