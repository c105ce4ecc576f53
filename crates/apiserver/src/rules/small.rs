//! Kinds whose rules are a few lines each.

use api_types::{
    k8s::{coordination::Lease, node::RuntimeClass, scheduling::PriorityClass},
    names,
};
use serde_json::json;

use super::{
    PLAIN, Rules, check, check_change,
    edit::{canonical_amounts, child, copy, field, fill, fill_text, first_generation, next_generation, set},
    networking::count_specs,
    path::{Errors, Path, text},
};

const SPEC: Path = Path::root("spec");
/// Above this, priorities are the system's.
const USER_PRIORITY_MAX: i32 = 1_000_000_000;
const SYSTEM_PREFIX: &str = "system-";
const SYSTEM_CLASSES: [(&str, i32); 2] =
    [("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];

/// Source: pkg/apis/coordination/validation/validation.go.
pub const LEASE: Rules = Rules {
    default: |lease| {
        child(lease, "spec");
    },
    validate: |lease| check(lease, validate_lease),
    validate_update: |lease, _| check(lease, validate_lease),
    create_on_update: true,
    unconditional_update: false,
    ..PLAIN
};

fn validate_lease(lease: &Lease, errors: &mut Errors) {
    let Some(spec) = &lease.spec else { return };
    if let Some(duration_s) = spec.lease_duration_seconds.filter(|duration_s| *duration_s <= 0) {
        errors.invalid(&SPEC.field("leaseDurationSeconds"), duration_s, "must be greater than 0");
    }
    if let Some(transitions) = spec.lease_transitions.filter(|transitions| *transitions < 0) {
        let detail = "must be greater than or equal to 0";
        errors.invalid(&SPEC.field("leaseTransitions"), transitions, detail);
    }
    if spec.holder_identity.as_ref().is_some_and(String::is_empty) && spec.strategy.is_some() {
        errors.invalid(&SPEC.field("holderIdentity"), "", "must not be empty");
    }
}

/// Source: pkg/apis/scheduling/validation/validation.go.
pub const PRIORITY_CLASS: Rules = Rules {
    default: |class| fill_text(class, "preemptionPolicy", "PreemptLowerPriority"),
    prepare_create: first_generation,
    validate: |class| check(class, validate_priority),
    validate_update: |new, old| {
        check_change(new, old, |new: &PriorityClass, old, errors| {
            let value = |class: &PriorityClass| class.value.unwrap_or(0);
            if value(new) != value(old) {
                errors.forbidden(&Path::root("value"), "may not be changed in an update.");
            }
            errors.immutable(&Path::root("preemptionPolicy"), &new.preemption_policy, &old.preemption_policy);
        })
    },
    ..PLAIN
};

fn validate_priority(class: &PriorityClass, errors: &mut Errors) {
    let (name, value) = (text(&class.metadata.name), class.value.unwrap_or(0));
    if name.starts_with(SYSTEM_PREFIX) {
        if !SYSTEM_CLASSES.contains(&(name, value)) {
            let detail = format!(
                "priority class names with '{SYSTEM_PREFIX}' prefix are reserved for system use only. error: {}",
                if SYSTEM_CLASSES.iter().any(|(known, _)| *known == name) {
                    format!("value of {name} PriorityClass must be the system's")
                } else {
                    format!("{name} is not a known system priority class")
                }
            );
            errors.forbidden(&Path::root("metadata.name"), detail);
        }
    } else if value > USER_PRIORITY_MAX {
        let detail = format!("maximum allowed value of a user defined priority is {USER_PRIORITY_MAX}");
        errors.forbidden(&Path::root("value"), detail);
    }
    if let Some(policy) = &class.preemption_policy {
        errors.required_one_of(&Path::root("preemptionPolicy"), policy, &["PreemptLowerPriority", "Never"]);
    }
}

/// Source: pkg/apis/node/validation/validation.go.
pub const RUNTIME_CLASS: Rules = Rules {
    default: |class| {
        if let Some(overhead) = field(class, "overhead") {
            canonical_amounts(overhead, "podFixed");
        }
    },
    validate: |class| {
        check(class, |class: &RuntimeClass, errors| {
            errors.invalid_all(&Path::root("handler"), class.handler.as_str(), names::dns1123_label(&class.handler));
        })
    },
    validate_update: |new, old| {
        check_change(new, old, |new: &RuntimeClass, old, errors| {
            errors.immutable(&Path::root("handler"), &new.handler, &old.handler);
        })
    },
    unconditional_update: false,
    ..PLAIN
};

/// A revision's data is what a rollback restores.
///
/// Source: `ValidateControllerRevisionUpdate` in pkg/apis/apps/validation.
pub const CONTROLLER_REVISION: Rules = Rules {
    validate: |revision| {
        let mut errors = Errors::default();
        if revision.get("data").is_none_or(serde_json::Value::is_null) {
            errors.required(&Path::root("data"), "data is mandatory");
        }
        let number = revision.get("revision").and_then(serde_json::Value::as_i64).unwrap_or(0);
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

/// Custom resource definitions: names that follow from others, and a status that shows its parts.
///
/// Source: apiextensions-apiserver/pkg/apis/apiextensions/v1/defaults.go.
pub const CUSTOM_RESOURCE_DEFINITION: Rules = Rules {
    default: |definition| {
        let spec = child(definition, "spec");
        fill_text(child(spec, "conversion"), "strategy", "None");
        let names = child(spec, "names");
        let kind = super::edit::text(names, "kind").to_owned();
        if !kind.is_empty() {
            fill_text(names, "singular", &kind.to_lowercase());
            fill_text(names, "listKind", &format!("{kind}List"));
        }
    },
    prepare_create: |definition| {
        first_generation(definition);
        let stored: Vec<String> = super::edit::list(&definition["spec"], "versions")
            .iter()
            .filter(|version| version.get("storage").and_then(serde_json::Value::as_bool) == Some(true))
            .map(|version| super::edit::text(version, "name").to_owned())
            .collect();
        let accepted = json!({ "plural": "", "kind": "" });
        set(definition, "status", json!({ "conditions": null, "acceptedNames": accepted, "storedVersions": stored }));
    },
    prepare_update: |new, old| {
        copy(new, old, "status");
        count_specs(new, old);
    },
    unconditional_update: false,
    ..PLAIN
};

/// Source: kube-aggregator/pkg/apis/apiregistration/v1/defaults.go.
pub const API_SERVICE: Rules = Rules {
    // The core group's is "v1.".
    name: names::path_segment,
    default: |service| {
        if let Some(reference) = field(child(service, "spec"), "service") {
            fill(reference, "port", 443);
        }
        child(service, "status");
    },
    prepare_create: |service| set(service, "status", json!({})),
    prepare_update: |new, old| copy(new, old, "status"),
    unconditional_update: false,
    ..PLAIN
};

/// Source: pkg/registry/resource/resourceclaim/strategy.go.
pub const RESOURCE_CLAIM: Rules = Rules {
    default: |claim| {
        child(claim, "status");
        default_claim_spec(child(claim, "spec"));
    },
    prepare_create: |claim| set(claim, "status", json!({})),
    prepare_update: |new, old| copy(new, old, "status"),
    validate_update: |new, old| {
        let mut errors = Errors::default();
        errors.immutable(&SPEC, &new.get("spec"), &old.get("spec"));
        errors.0
    },
    ..PLAIN
};

pub const RESOURCE_CLAIM_TEMPLATE: Rules = Rules {
    default: |template| default_claim_spec(child(child(template, "spec"), "spec")),
    validate_update: RESOURCE_CLAIM.validate_update,
    ..PLAIN
};

/// A request that says no count asks for exactly one device.
fn default_claim_spec(spec: &mut serde_json::Value) {
    let Some(devices) = field(spec, "devices") else { return };
    for request in super::edit::each(devices, "requests") {
        if let Some(exactly) = field(request, "exactly") {
            default_device_request(exactly);
        }
        super::edit::each(request, "firstAvailable").for_each(default_device_request);
    }
}

fn default_device_request(request: &mut serde_json::Value) {
    fill_text(request, "allocationMode", "ExactCount");
    if super::edit::text(request, "allocationMode") == "ExactCount" {
        fill(request, "count", 1);
    }
}

/// Kinds that count the generations of their spec and have no status.
pub const COUNTED: Rules = Rules {
    prepare_create: first_generation,
    prepare_update: |new, old| {
        let changed = new.get("spec") != old.get("spec");
        next_generation(new, old, changed);
    },
    ..PLAIN
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::texts;

    #[test]
    fn priorities_of_users_are_below_the_systems() {
        for (name, value, error) in [
            ("hi", 1000, ""),
            ("hi", 2_000_000_000, "value: Forbidden: maximum allowed value of a user defined priority is 1000000000"),
            ("system-node-critical", 2_000_001_000, ""),
            (
                "system-mine",
                1,
                "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: system-mine is not a known system priority class",
            ),
        ] {
            let class = json!({"metadata": {"name": name}, "value": value, "preemptionPolicy": "Never"});
            assert_eq!(texts((PRIORITY_CLASS.validate)(&class)).first().map_or("", String::as_str), error);
        }
    }

    #[test]
    fn leases_last() {
        let lease = json!({"spec": {"leaseDurationSeconds": 0}});
        assert_eq!(
            texts((LEASE.validate)(&lease)),
            ["spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0"]
        );
    }

    #[test]
    fn definitions_are_named() {
        let mut definition = json!({"spec": {"names": {"kind": "Foo", "plural": "foos"}, "versions": [{"name": "v1", "storage": true}]}});
        (CUSTOM_RESOURCE_DEFINITION.default)(&mut definition);
        (CUSTOM_RESOURCE_DEFINITION.prepare_create)(&mut definition);
        assert_eq!(definition["spec"]["names"]["listKind"], "FooList");
        assert_eq!(definition["status"]["storedVersions"], json!(["v1"]));
    }
}
