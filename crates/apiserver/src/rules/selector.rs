//! Label selectors inside objects, and the selector a workload has for its pods.
//!
//! Source: apimachinery/pkg/apis/meta/v1/validation.

use api_types::{
    k8s::meta::{LabelSelector, LabelSelectorRequirement},
    names,
};

use super::{
    meta,
    path::{Errors, Path, items},
};

pub fn label_selector(selector: Option<&LabelSelector>, path: &Path, errors: &mut Errors) {
    let Some(selector) = selector else { return };
    meta::labels(selector.match_labels.as_ref(), &path.field("matchLabels"), errors);
    for (i, requirement) in items(&selector.match_expressions).iter().enumerate() {
        self::requirement(requirement, &path.field("matchExpressions").index(i), errors);
    }
}

pub fn is_empty(selector: &LabelSelector) -> bool {
    selector.match_labels.as_ref().is_none_or(|labels| labels.is_empty())
        && items(&selector.match_expressions).is_empty()
}

fn requirement(requirement: &LabelSelectorRequirement, path: &Path, errors: &mut Errors) {
    let values = items(&requirement.values);
    match requirement.operator.as_str() {
        "In" | "NotIn" => {
            if values.is_empty() {
                errors.required(&path.field("values"), "must be specified when `operator` is 'In' or 'NotIn'");
            }
        }
        "Exists" | "DoesNotExist" => {
            if !values.is_empty() {
                let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.forbidden(&path.field("values"), detail);
            }
        }
        operator => errors.invalid(&path.field("operator"), operator, "not a valid selector operator"),
    }
    errors.invalid_all(&path.field("key"), requirement.key.as_str(), names::label_key(&requirement.key));
    for (i, value) in values.iter().enumerate() {
        errors.invalid_all(&path.field("values").index(i), value.as_str(), names::label_value(value));
    }
}
