//! Resource lists: which names are legal where, and what amounts of them.
//!
//! Source: pkg/apis/core/helper/helpers.go, pkg/apis/core/validation/validation.go.

use std::collections::BTreeMap;

use api_types::{Quantity, k8s, names};

use super::path::{Errors, NOT_NEGATIVE, Path};

pub type Amounts = BTreeMap<String, k8s::Quantity>;

const HUGE_PAGES: &str = "hugepages-";
const CONTAINER_RESOURCES: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];
/// Besides those of containers and huge pages, the names that need no domain.
const STANDARD_RESOURCES: [&str; 17] = [
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "storage",
    "requests.storage",
    "services.nodeports",
    "services.loadbalancers",
];
/// Counted in whole objects.
const INTEGER_RESOURCES: [&str; 9] = [
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];

/// The amount, or zero for one that no decoder lets through.
pub fn parse(amount: &k8s::Quantity) -> Quantity {
    Quantity::parse(&amount.0).unwrap_or_default()
}

pub fn is_huge_pages(name: &str) -> bool {
    name.starts_with(HUGE_PAGES)
}

/// Kubernetes' own: no domain, or one of kubernetes.io.
fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

pub fn is_extended(name: &str) -> bool {
    !is_native(name) && !name.starts_with("requests.") && names::qualified_name(&format!("requests.{name}")).is_empty()
}

pub fn is_overcommit_allowed(name: &str) -> bool {
    is_native(name) && !is_huge_pages(name)
}

pub fn is_standard(name: &str) -> bool {
    CONTAINER_RESOURCES.contains(&name)
        || STANDARD_RESOURCES.contains(&name)
        || is_huge_pages(name)
        || name.strip_prefix("requests.").is_some_and(is_huge_pages)
}

/// A name that is either well known or has a domain.
pub fn resource_name(name: &str, path: &Path, errors: &mut Errors) {
    let messages = names::qualified_name(name);
    if messages.is_empty() && !name.contains('/') && !is_standard(name) {
        errors.invalid(path, name, "must be a standard resource type or fully qualified");
    }
    errors.invalid_all(path, name, messages);
}

fn container_resource_name(name: &str, path: &Path, errors: &mut Errors) {
    resource_name(name, path, errors);
    if !name.contains('/') {
        if !CONTAINER_RESOURCES.contains(&name) && !is_huge_pages(name) {
            errors.invalid(path, name, "must be a standard resource for containers");
        }
    } else if !is_native(name) && !is_extended(name) {
        errors.invalid(path, name, "doesn't follow extended resource name standard");
    }
}

/// Never negative, and whole where a resource is counted.
pub fn amount(name: &str, amount: &k8s::Quantity, path: &Path, errors: &mut Errors) {
    let quantity = parse(amount);
    if quantity.is_negative() {
        errors.invalid(path, quantity.to_string(), NOT_NEGATIVE);
    }
    if (INTEGER_RESOURCES.contains(&name) || is_extended(name)) && quantity.milli() % 1000 != 0 {
        errors.invalid(path, quantity.to_string(), "must be an integer");
    }
}

pub fn each(amounts: &Option<Amounts>) -> impl Iterator<Item = (&str, &k8s::Quantity)> {
    amounts.iter().flatten().map(|(name, amount)| (name.as_str(), amount))
}

/// The resources of a container, or of a whole pod.
pub fn requirements(limits: &Option<Amounts>, requests: &Option<Amounts>, path: &Path, errors: &mut Errors) {
    let (limits_path, requests_path) = (path.field("limits"), path.field("requests"));
    for (name, limit) in each(limits) {
        container_resource_name(name, &limits_path.key(name), errors);
        amount(name, limit, &limits_path.key(name), errors);
        huge_pages(name, limit, &limits_path.key(name), errors);
    }
    for (name, request) in each(requests) {
        container_resource_name(name, &requests_path.key(name), errors);
        amount(name, request, &requests_path.key(name), errors);
        huge_pages(name, request, &requests_path.key(name), errors);
        let request = parse(request);
        match limits.as_ref().and_then(|limits| limits.get(name)).map(parse) {
            Some(limit) if request != limit && !is_overcommit_allowed(name) => {
                let detail = format!("must be equal to {name} limit of {limit}");
                errors.invalid(&requests_path, request.to_string(), detail);
            }
            Some(limit) if request > limit => {
                let detail = format!("must be less than or equal to {name} limit of {limit}");
                errors.invalid(&requests_path, request.to_string(), detail);
            }
            None if !is_overcommit_allowed(name) => {
                errors.required(&limits_path, "Limit must be set for non overcommitable resources");
            }
            Some(_) | None => {}
        }
    }
    let all = || each(limits).chain(each(requests)).map(|(name, _)| name);
    if all().any(is_huge_pages) && !all().any(|name| name == "cpu" || name == "memory") {
        errors.forbidden(path, "HugePages require cpu or memory");
    }
}

fn huge_pages(name: &str, amount: &k8s::Quantity, path: &Path, errors: &mut Errors) {
    let Some(size) = name.strip_prefix(HUGE_PAGES).and_then(|size| Quantity::parse(size).ok()) else { return };
    let quantity = parse(amount);
    if size.value() <= 0 || quantity.value() % size.value() != 0 {
        errors.invalid(path, quantity.to_string(), format!("{quantity} is not positive integer multiple of {name}"));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::rules::texts;

    #[test]
    fn requests_stay_below_limits() {
        for (resources, expected) in [
            (json!({"limits": {"cpu": "1"}, "requests": {"cpu": "500m"}}), &[][..]),
            (
                json!({"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}),
                &["r.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1"],
            ),
            (
                json!({"requests": {"a.b/gpu": "1"}}),
                &["r.limits: Required value: Limit must be set for non overcommitable resources"],
            ),
            (
                json!({"limits": {"a.b/gpu": "1500m"}}),
                &["r.limits[a.b/gpu]: Invalid value: \"1500m\": must be an integer"],
            ),
            (
                json!({"limits": {"cpu": "-1"}}),
                &["r.limits[cpu]: Invalid value: \"-1\": must be greater than or equal to 0"],
            ),
            (
                json!({"limits": {"pods": "1"}}),
                &["r.limits[pods]: Invalid value: \"pods\": must be a standard resource for containers"],
            ),
            (json!({"limits": {"hugepages-2Mi": "4Mi"}}), &["r: Forbidden: HugePages require cpu or memory"]),
        ] {
            let list = |field: &str| serde_json::from_value(resources[field].clone()).unwrap();
            let mut errors = Errors::default();
            requirements(&list("limits"), &list("requests"), &Path::root("r"), &mut errors);
            assert_eq!(texts(errors.0), expected, "{resources}");
        }
    }
}
