//! HorizontalPodAutoscalers (autoscaling/v2; v1 is a view of it) and PodDisruptionBudgets.
//!
//! Source: pkg/apis/autoscaling/{v2/defaults.go,validation/validation.go}, pkg/apis/policy/validation/validation.go.

use api_types::{
    k8s::{
        autoscaling,
        autoscaling_v2::{HPAScalingRules, HorizontalPodAutoscaler, MetricSpec, MetricTarget},
        policy::{PodDisruptionBudget, PodDisruptionBudgetSpec},
    },
    names,
};
use serde_json::{Value, json};

use super::{
    PLAIN, Rules, amounts, check,
    edit::{child, copy, field, fill, fill_text, is_present, list, set},
    path::{Errors, Path, items},
    selector::label_selector,
    status,
    workload::{
        self,
        validate::{count_or_percent, not_over_all},
    },
};

const SPEC: Path = Path::root("spec");
const CPU_UTILIZATION_PERCENT: i64 = 80;
const STABILIZATION_MAX_S: i32 = 3600;
const PERIOD_MAX_S: i32 = 1800;

pub const AUTOSCALER: Rules = Rules {
    default,
    prepare_create: |autoscaler| set(autoscaler, "status", empty_status()),
    prepare_update: |new, old| copy(new, old, "status"),
    validate: |autoscaler| check(autoscaler, validate),
    validate_update: |autoscaler, _| check(autoscaler, validate),
    validate_status_update: status::counters,
    ..PLAIN
};

/// The older view of the same objects knows CPU only; what it cannot say is kept in annotations.
pub const AUTOSCALER_V1: Rules = Rules {
    default: |autoscaler| {
        let status = child(autoscaler, "status");
        fill(status, "currentReplicas", 0);
        fill(status, "desiredReplicas", 0);
        let spec = child(autoscaler, "spec");
        fill(spec, "minReplicas", 1);
        let annotations = autoscaler.pointer("/metadata/annotations");
        if annotations.and_then(|annotations| annotations.get(METRICS_ANNOTATION)).is_none() {
            fill(child(autoscaler, "spec"), "targetCPUUtilizationPercentage", CPU_UTILIZATION_PERCENT);
        }
    },
    prepare_create: |autoscaler| set(autoscaler, "status", json!({ "currentReplicas": 0, "desiredReplicas": 0 })),
    prepare_update: |new, old| copy(new, old, "status"),
    validate: |autoscaler| check(autoscaler, validate_v1),
    validate_update: |autoscaler, _| check(autoscaler, validate_v1),
    validate_status_update: status::counters,
    ..PLAIN
};

const METRICS_ANNOTATION: &str = "autoscaling.alpha.kubernetes.io/metrics";

fn validate_v1(autoscaler: &autoscaling::HorizontalPodAutoscaler, errors: &mut Errors) {
    let spec = &autoscaler.spec;
    bounds(spec.min_replicas.unwrap_or(1), spec.max_replicas, errors);
    reference(&spec.scale_target_ref.kind, &spec.scale_target_ref.name, &SPEC.field("scaleTargetRef"), errors);
}

/// The list of current metrics shows even when there is none.
fn empty_status() -> Value {
    json!({ "currentMetrics": null, "desiredReplicas": 0 })
}

fn default(autoscaler: &mut Value) {
    let status = child(autoscaler, "status");
    fill(status, "desiredReplicas", 0);
    if let Some(status) = status.as_object_mut() {
        status.entry("currentMetrics").or_insert(Value::Null);
    }
    let spec = child(autoscaler, "spec");
    fill(spec, "minReplicas", 1);
    if list(spec, "metrics").is_empty() {
        let target = json!({ "type": "Utilization", "averageUtilization": CPU_UTILIZATION_PERCENT });
        set(spec, "metrics", json!([{ "type": "Resource", "resource": { "name": "cpu", "target": target } }]));
    }
    let Some(behavior) = field(spec, "behavior") else { return };
    let fast = |kind: &str, value: i64| json!({ "type": kind, "value": value, "periodSeconds": 15 });
    for (direction, select, policies) in [
        ("scaleUp", "Max", json!([fast("Pods", 4), fast("Percent", 100)])),
        ("scaleDown", "Max", json!([fast("Percent", 100)])),
    ] {
        // Each direction that has no rules of its own gets the usual ones.
        let rules = child(behavior, direction);
        if direction == "scaleUp" {
            fill(rules, "stabilizationWindowSeconds", 0);
        }
        fill_text(rules, "selectPolicy", select);
        if !is_present(rules, "policies") {
            set(rules, "policies", policies);
        }
    }
}

fn validate(autoscaler: &HorizontalPodAutoscaler, errors: &mut Errors) {
    let spec = &autoscaler.spec;
    bounds(spec.min_replicas.unwrap_or(1), spec.max_replicas, errors);
    reference(&spec.scale_target_ref.kind, &spec.scale_target_ref.name, &SPEC.field("scaleTargetRef"), errors);
    for (i, metric) in items(&spec.metrics).iter().enumerate() {
        validate_metric(metric, &SPEC.field("metrics").index(i), errors);
    }
    if let Some(behavior) = &spec.behavior {
        for (field, rules) in [("scaleUp", &behavior.scale_up), ("scaleDown", &behavior.scale_down)] {
            if let Some(rules) = rules {
                scaling(rules, &SPEC.field("behavior").field(field), errors);
            }
        }
    }
}

fn bounds(min: i32, max: i32, errors: &mut Errors) {
    if min < 1 {
        errors.invalid(&SPEC.field("minReplicas"), min, "must be greater than or equal to 1");
    }
    if max < 1 {
        errors.invalid(&SPEC.field("maxReplicas"), max, "must be greater than 0");
    }
    if max < min {
        errors.invalid(&SPEC.field("maxReplicas"), max, "must be greater than or equal to `minReplicas`");
    }
}

fn reference(kind: &str, name: &str, path: &Path, errors: &mut Errors) {
    for (field, value) in [("kind", kind), ("name", name)] {
        match value {
            "" => errors.required(&path.field(field), ""),
            value => errors.invalid_all(&path.field(field), value, names::path_segment(value)),
        }
    }
}

fn validate_metric(metric: &MetricSpec, path: &Path, errors: &mut Errors) {
    let kinds = ["ContainerResource", "External", "Object", "Pods", "Resource"];
    match metric.type_.as_str() {
        "" => return errors.required(&path.field("type"), "must specify a metric source type"),
        kind => errors.one_of(&path.field("type"), kind, &kinds),
    }
    let sources = [
        ("Object", "object", metric.object.as_ref().map(|source| (&source.metric.name, &source.target))),
        ("Pods", "pods", metric.pods.as_ref().map(|source| (&source.metric.name, &source.target))),
        ("External", "external", metric.external.as_ref().map(|source| (&source.metric.name, &source.target))),
        ("Resource", "resource", metric.resource.as_ref().map(|source| (&source.name, &source.target))),
        (
            "ContainerResource",
            "containerResource",
            metric.container_resource.as_ref().map(|source| (&source.name, &source.target)),
        ),
    ];
    for (kind, field, source) in sources {
        let path = path.field(field);
        match source {
            None if kind == metric.type_ => {
                errors.required(&path, "must populate information for the given metric source");
            }
            Some(_) if kind != metric.type_ => {
                errors.forbidden(&path, "must populate the given metric source only");
            }
            None => {}
            Some((name, target)) => {
                if name.is_empty() {
                    let field = if kind.contains("Resource") { "name" } else { "metric.name" };
                    errors.required(&path.field(field), "must specify a metric name");
                }
                validate_target(target, &path.field("target"), errors);
            }
        }
    }
}

fn validate_target(target: &MetricTarget, path: &Path, errors: &mut Errors) {
    match target.type_.as_str() {
        "" => errors.required(&path.field("type"), "must specify a metric target type"),
        kind if !["Utilization", "Value", "AverageValue"].contains(&kind) => {
            errors.invalid(&path.field("type"), kind, "must be either Utilization, Value, or AverageValue");
        }
        _ => {}
    }
    for (field, amount) in [("value", &target.value), ("averageValue", &target.average_value)] {
        let is_positive = |amount| !amounts::parse(amount).is_zero() && !amounts::parse(amount).is_negative();
        if let Some(amount) = amount.as_ref().filter(|amount| !is_positive(amount)) {
            errors.invalid(&path.field(field), amount, "must be positive");
        }
    }
    if let Some(utilization) = target.average_utilization.filter(|utilization| *utilization < 1) {
        errors.invalid(&path.field("averageUtilization"), utilization, "must be greater than 0");
    }
}

fn scaling(rules: &HPAScalingRules, path: &Path, errors: &mut Errors) {
    if let Some(window_s) = rules.stabilization_window_seconds {
        let path = path.field("stabilizationWindowSeconds");
        errors.non_negative(&path, window_s);
        if window_s > STABILIZATION_MAX_S {
            errors.invalid(&path, window_s, format!("must be less than or equal to {STABILIZATION_MAX_S}"));
        }
    }
    if let Some(select) = &rules.select_policy {
        errors.one_of(&path.field("selectPolicy"), select, &["Disabled", "Max", "Min"]);
    }
    let policies_path = path.field("policies");
    if items(&rules.policies).is_empty() {
        errors.required(&policies_path, "must specify at least one Policy");
    }
    for (i, policy) in items(&rules.policies).iter().enumerate() {
        let path = policies_path.index(i);
        errors.one_of(&path.field("type"), &policy.type_, &["Percent", "Pods"]);
        if policy.value <= 0 {
            errors.invalid(&path.field("value"), policy.value, "must be greater than zero");
        }
        if policy.period_seconds <= 0 {
            errors.invalid(&path.field("periodSeconds"), policy.period_seconds, "must be greater than zero");
        }
        if policy.period_seconds > PERIOD_MAX_S {
            let detail = format!("must be less than or equal to {PERIOD_MAX_S}");
            errors.invalid(&path.field("periodSeconds"), policy.period_seconds, detail);
        }
    }
}

pub const DISRUPTION_BUDGET: Rules = Rules {
    default: |budget| {
        let status = child(budget, "status");
        for counter in ["currentHealthy", "desiredHealthy", "disruptionsAllowed", "expectedPods"] {
            fill(status, counter, 0);
        }
    },
    prepare_create: |budget| {
        workload::prepare_create(budget);
        (DISRUPTION_BUDGET.default)(budget);
    },
    prepare_update: workload::prepare_update,
    validate: |budget| check(budget, validate_budget),
    validate_update: |budget, _| check(budget, validate_budget),
    validate_status_update: status::budget,
    unconditional_update: false,
    ..PLAIN
};

fn validate_budget(budget: &PodDisruptionBudget, errors: &mut Errors) {
    let none = PodDisruptionBudgetSpec::default();
    let spec = budget.spec.as_ref().unwrap_or(&none);
    if spec.min_available.is_some() && spec.max_unavailable.is_some() {
        errors.invalid(&SPEC, spec, "minAvailable and maxUnavailable cannot be both set");
    }
    for (field, bound) in [("minAvailable", &spec.min_available), ("maxUnavailable", &spec.max_unavailable)] {
        count_or_percent(bound.as_ref(), &SPEC.field(field), errors);
        not_over_all(bound.as_ref(), &SPEC.field(field), errors);
    }
    label_selector(spec.selector.as_ref(), &SPEC.field("selector"), errors);
    if let Some(policy) = &spec.unhealthy_pod_eviction_policy {
        errors.one_of(&SPEC.field("unhealthyPodEvictionPolicy"), policy, &["AlwaysAllow", "IfHealthyBudget"]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::texts;

    #[test]
    fn autoscalers() {
        let mut autoscaler = json!({"spec": {"maxReplicas": 5, "scaleTargetRef": {"kind": "Deployment", "name": "d"}}});
        default(&mut autoscaler);
        assert_eq!(autoscaler["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 80);
        assert_eq!(texts((AUTOSCALER.validate)(&autoscaler)), [""; 0]);
        autoscaler["spec"]["minReplicas"] = json!(6);
        autoscaler["spec"]["metrics"][0]["type"] = json!("Pods");
        assert_eq!(
            texts((AUTOSCALER.validate)(&autoscaler)),
            [
                "spec.maxReplicas: Invalid value: 5: must be greater than or equal to `minReplicas`",
                "spec.metrics[0].pods: Required value: must populate information for the given metric source",
                "spec.metrics[0].resource: Forbidden: must populate the given metric source only",
            ]
        );
    }

    #[test]
    fn budgets() {
        let budget = json!({"spec": {"minAvailable": "110%", "maxUnavailable": -1}});
        let errors = texts((DISRUPTION_BUDGET.validate)(&budget));
        assert!(errors[0].ends_with("minAvailable and maxUnavailable cannot be both set"));
        assert_eq!(
            errors[1..],
            [
                "spec.minAvailable: Invalid value: \"110%\": must not be greater than 100%",
                "spec.maxUnavailable: Invalid value: -1: must be greater than or equal to 0",
            ]
        );
    }
}
