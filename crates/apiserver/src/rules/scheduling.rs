//! Classes that pods name for their scheduling: priorities and runtimes.

use api_types::{
    k8s::{node::RuntimeClass, scheduling::PriorityClass},
    names,
};

use super::{
    PLAIN, Rules, amounts, check, check_change,
    edit::{canonical_amounts, field, fill_text, first_generation},
    facts::frozen,
    meta,
    path::{Errors, Path, items, text},
    pod::spec::tolerations,
};

/// Above this, priorities are the system's.
const USER_PRIORITY_MAX: i32 = 1_000_000_000;
const SYSTEM_PREFIX: &str = "system-";
const SYSTEM_CLASSES: [(&str, i32); 2] =
    [("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];

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
    validate: |class| check(class, validate_runtime),
    validate_update: |new, old| {
        let mut errors = check(new, validate_runtime);
        errors.extend(frozen(new, old, &["handler"]));
        errors
    },
    create_on_update: true,
    unconditional_update: false,
    ..PLAIN
};

/// What pods of the class use besides their own, and where they can run.
fn validate_runtime(class: &RuntimeClass, errors: &mut Errors) {
    errors.invalid_all(&Path::root("handler"), class.handler.as_str(), names::dns1123_label(&class.handler));
    if let Some(overhead) = &class.overhead {
        amounts::requirements(&overhead.pod_fixed, &None, &Path::root("overhead.podFixed"), errors);
    }
    let Some(scheduling) = &class.scheduling else { return };
    let path = Path::root("scheduling");
    meta::labels(scheduling.node_selector.as_ref(), &path.field("nodeSelector"), errors);
    let given = items(&scheduling.tolerations);
    tolerations(given, &path.field("tolerations"), errors);
    for (i, toleration) in given.iter().enumerate().filter(|(i, toleration)| given[..*i].contains(toleration)) {
        errors.duplicate(&path.field("tolerations").index(i), toleration);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

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
}
