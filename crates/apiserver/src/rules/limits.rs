//! ResourceQuotas and LimitRanges: what a namespace may use.
//!
//! Source: pkg/apis/core/validation/validation.go.

use std::collections::BTreeSet;

use api_types::{
    Quantity,
    k8s::core::{LimitRange, LimitRangeItem, ResourceQuota, ResourceQuotaSpec, ScopedResourceSelectorRequirement},
    names,
};
use serde_json::{Value, json};

use super::{
    PLAIN, Rules,
    amounts::{self, Amounts},
    check, check_change,
    edit::{canonical_amounts, child, copy, each, field, fill, set, text},
    path::{Errors, IMMUTABLE, Path, items},
    status,
};

const SPEC: Path = Path::root("spec");
/// In the order in which upstream lists them.
const SCOPES: [&str; 7] = [
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
    "VolumeAttributesClass",
];

pub const RESOURCE_QUOTA: Rules = Rules {
    default: |quota| {
        canonical_amounts(child(quota, "spec"), "hard");
        let status = child(quota, "status");
        canonical_amounts(status, "hard");
        canonical_amounts(status, "used");
    },
    prepare_create: |quota| set(quota, "status", json!({})),
    prepare_update: |new, old| copy(new, old, "status"),
    validate: |quota| check(quota, validate_quota),
    validate_update: |new, old| check_change(new, old, validate_quota_update),
    validate_status_update: status::quota,
    returns_deleted: true,
    ..PLAIN
};

pub const LIMIT_RANGE: Rules = Rules {
    default: default_limit_range,
    validate: |range| check(range, validate_limit_range),
    validate_update: |range, _| check(range, validate_limit_range),
    create_on_update: true,
    ..PLAIN
};

/// For containers, max gives default, default gives defaultRequest, and min is the last resort for the request.
///
/// Source: `SetDefaults_LimitRangeItem` in pkg/apis/core/v1/defaults.go.
fn default_limit_range(range: &mut Value) {
    let Some(spec) = field(range, "spec") else { return };
    for item in each(spec, "limits") {
        for amounts in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
            canonical_amounts(item, amounts);
        }
        if text(item, "type") != "Container" {
            continue;
        }
        for (from, to) in [("max", "default"), ("default", "defaultRequest"), ("min", "defaultRequest")] {
            let Some(Value::Object(amounts)) = item.get(from).cloned() else { continue };
            let filled = child(item, to);
            for (name, amount) in amounts {
                fill(filled, &name, amount);
            }
        }
    }
}

fn validate_quota(quota: &ResourceQuota, errors: &mut Errors) {
    let none = ResourceQuotaSpec::default();
    let spec = quota.spec.as_ref().unwrap_or(&none);
    let path = SPEC.field("hard");
    for (name, amount) in amounts::each(&spec.hard) {
        quota_name(name, &path.key(name), errors);
        amounts::amount(name, amount, &path.key(name), errors);
    }
    scopes(items(&spec.scopes), errors);
    let expressions =
        spec.scope_selector.as_ref().map(|selector| items(&selector.match_expressions)).unwrap_or_default();
    for (i, expression) in expressions.iter().enumerate() {
        scope_expression(expression, &SPEC.field("scopeSelector.matchExpressions").index(i), errors);
    }
}

/// Counts of any kind, amounts by class, or a well-known name.
fn quota_name(name: &str, path: &Path, errors: &mut Errors) {
    let messages = names::qualified_name(name);
    let is_known = name.contains('/') || amounts::is_standard(name);
    if messages.is_empty() && !is_known {
        errors.invalid(path, name, "must be a standard resource for quota");
    }
    errors.invalid_all(path, name, messages);
}

fn scopes(scopes: &[String], errors: &mut Errors) {
    let path = SPEC.field("scopes");
    let set: BTreeSet<&str> = scopes.iter().map(String::as_str).collect();
    for scope in &set {
        if !SCOPES.contains(scope) {
            errors.invalid(&path, scopes, "unsupported scope");
        }
    }
    for [a, b] in [["BestEffort", "NotBestEffort"], ["Terminating", "NotTerminating"]] {
        if set.contains(a) && set.contains(b) {
            errors.invalid(&path, scopes, "conflicting scopes");
        }
    }
}

fn scope_expression(expression: &ScopedResourceSelectorRequirement, path: &Path, errors: &mut Errors) {
    let (scope, values) = (expression.scope_name.as_str(), items(&expression.values));
    if !SCOPES.contains(&scope) {
        errors.invalid(&path.field("scopeName"), scope, "unsupported scope");
    }
    let is_flag = !matches!(scope, "PriorityClass" | "VolumeAttributesClass");
    if is_flag && expression.operator != "Exists" {
        let detail = "must be 'Exist' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, \
                      ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or \
                      ResourceQuotaScopeCrossNamespacePodAffinity";
        errors.invalid(&path.field("operator"), &expression.operator, detail);
    }
    match expression.operator.as_str() {
        "In" | "NotIn" if values.is_empty() => errors.required(
            &path.field("values"),
            "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
        ),
        "Exists" | "DoesNotExist" if !values.is_empty() => errors.invalid(
            &path.field("values"),
            values,
            "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector",
        ),
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        operator => errors.invalid(&path.field("operator"), operator, "not a valid selector operator"),
    }
}

fn validate_quota_update(new: &ResourceQuota, old: &ResourceQuota, errors: &mut Errors) {
    validate_quota(new, errors);
    let scopes = |quota: &ResourceQuota| -> BTreeSet<String> {
        quota.spec.iter().flat_map(|spec| items(&spec.scopes)).cloned().collect()
    };
    if scopes(new) != scopes(old) {
        errors.invalid(&SPEC.field("scopes"), scopes(new), IMMUTABLE);
    }
}

fn validate_limit_range(range: &LimitRange, errors: &mut Errors) {
    let limits = range.spec.as_ref().map(|spec| spec.limits.as_slice()).unwrap_or_default();
    let mut seen = BTreeSet::new();
    for (i, item) in limits.iter().enumerate() {
        let path = SPEC.field("limits");
        let path = path.index(i);
        let kind = item.type_.as_str();
        let is_standard = matches!(kind, "Container" | "Pod" | "PersistentVolumeClaim");
        if !is_standard && (!kind.contains('/') || !names::qualified_name(kind).is_empty()) {
            errors.invalid(&path.field("type"), kind, "must be a standard limit type or fully qualified");
        }
        if !seen.insert(kind) {
            errors.duplicate(&path.field("type"), kind);
        }
        limit_item(item, &path, errors);
    }
}

fn limit_item(item: &LimitRangeItem, path: &Path, errors: &mut Errors) {
    let lists: [(&str, &Option<Amounts>); 5] = [
        ("min", &item.min),
        ("max", &item.max),
        ("default", &item.default),
        ("defaultRequest", &item.default_request),
        ("maxLimitRequestRatio", &item.max_limit_request_ratio),
    ];
    let mut resources = BTreeSet::new();
    for (field, list) in lists {
        let path = path.field(field);
        for (name, amount) in amounts::each(list) {
            amounts::resource_name(name, &path.key(name), errors);
            amounts::amount(name, amount, &path.key(name), errors);
            resources.insert(name);
        }
    }
    if item.type_ == "Pod" {
        for (field, list) in [("default", &item.default), ("defaultRequest", &item.default_request)] {
            if amounts::each(list).next().is_some() {
                errors.forbidden(&path.field(field), "may not be specified when `type` is 'Pod'");
            }
        }
    }
    if item.type_ == "PersistentVolumeClaim" {
        let has = |list: &Option<Amounts>| amounts::each(list).any(|(name, _)| name == "storage");
        if !has(&item.min) && !has(&item.max) {
            errors.required(path, "either minimum or maximum storage value is required, but neither was provided");
        }
    }
    for name in resources {
        orders(item, name, path, errors);
    }
}

/// min <= defaultRequest <= default <= max.
fn orders(item: &LimitRangeItem, name: &str, path: &Path, errors: &mut Errors) {
    let of = |list: &Option<Amounts>| list.as_ref().and_then(|list| list.get(name)).map(amounts::parse);
    let mut bounded = |(small_field, small): (&str, Option<Quantity>),
                       (large_field, large): (&str, Option<Quantity>),
                       shown: &str| {
        if let (Some(small), Some(large)) = (small, large)
            && small > large
        {
            let detail = format!("{small_field} value {small} is greater than {large_field} value {large}");
            errors.invalid(&path.field(shown).key(name), small.to_string(), detail);
        }
    };
    let (min, max) = (("min", of(&item.min)), ("max", of(&item.max)));
    let (limit, request) = (("default", of(&item.default)), ("default request", of(&item.default_request)));
    bounded(min, max, "min");
    bounded(min, request, "defaultRequest");
    bounded(request, max, "defaultRequest");
    bounded(request, limit, "defaultRequest");
    bounded(min, limit, "default");
    bounded(limit, max, "default");
    if let Some(ratio) = of(&item.max_limit_request_ratio)
        && ratio < Quantity::from_units(1, Default::default())
    {
        let detail = format!("ratio {ratio} is less than 1");
        errors.invalid(&path.field("maxLimitRequestRatio").key(name), ratio.to_string(), detail);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::texts;

    #[test]
    fn quotas() {
        let quota = |spec: Value| texts((RESOURCE_QUOTA.validate)(&json!({ "spec": spec })));
        assert_eq!(
            quota(json!({"hard": {"cpu": "1", "count/deployments.apps": "2", "requests.storage": "1Gi"}})),
            [""; 0]
        );
        assert_eq!(
            quota(json!({"hard": {"pods": "1500m", "odd": "1"}, "scopes": ["BestEffort", "NotBestEffort"]})),
            [
                "spec.hard[odd]: Invalid value: \"odd\": must be a standard resource for quota",
                "spec.hard[pods]: Invalid value: \"1500m\": must be an integer",
                "spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\"]: conflicting scopes",
            ]
        );
    }

    #[test]
    fn limit_ranges() {
        let mut range =
            json!({"spec": {"limits": [{"type": "Container", "max": {"cpu": "1"}, "min": {"cpu": "100m"}}]}});
        default_limit_range(&mut range);
        assert_eq!(range["spec"]["limits"][0]["default"], json!({"cpu": "1"}));
        assert_eq!(range["spec"]["limits"][0]["defaultRequest"], json!({"cpu": "1"}));
        assert_eq!(texts((LIMIT_RANGE.validate)(&range)), [""; 0]);
        range["spec"]["limits"][0]["min"]["cpu"] = json!("2");
        assert_eq!(
            texts((LIMIT_RANGE.validate)(&range))[0],
            "spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1"
        );
    }
}
