//! Turns the name of a priority class into the number and the policy that the scheduler reads.
//!
//! Source: plugin/pkg/admission/priority.

use std::sync::Arc;

use api_types::{ApiError, Key, resources};
use serde_json::Value;

use super::{Attributes, Operation};
use crate::{
    reader::Reader,
    rules::edit::{child, fill_text, set, text},
};

pub(super) fn fill(attributes: &Attributes, pod: &mut Value, reader: &dyn Reader) -> Result<(), ApiError> {
    if attributes.updates(&resources::POD) {
        keep(attributes, pod);
    }
    if !attributes.creates(&resources::POD) {
        return Ok(());
    }
    let spec = child(pod, "spec");
    let class = match text(spec, "priorityClassName") {
        "" => default_class(reader),
        name => match reader.get(&resources::PRIORITY_CLASS, &Key::cluster(name)) {
            None => return Err(attributes.forbidden(format!("no PriorityClass with name {name} was found"))),
            class => class,
        },
    };
    let (name, priority, policy) = match &class {
        None => (String::new(), 0, "PreemptLowerPriority"),
        Some(class) => {
            let policy = Some(text(class, "preemptionPolicy")).filter(|policy| !policy.is_empty());
            (text(&class["metadata"], "name").to_owned(), value_of(class), policy.unwrap_or("PreemptLowerPriority"))
        }
    };
    let given = spec.get("priority").and_then(Value::as_i64);
    if let Some(given) = given.filter(|given| *given != priority) {
        return Err(attributes.forbidden(format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller \
             computed {priority} from the given PriorityClass name"
        )));
    }
    let given = text(spec, "preemptionPolicy");
    if !given.is_empty() && given != policy {
        return Err(attributes.forbidden(format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission \
             controller computed {policy} from the given PriorityClass name"
        )));
    }
    if !name.is_empty() {
        set(spec, "priorityClassName", name);
    }
    set(spec, "priority", priority);
    fill_text(spec, "preemptionPolicy", policy);
    Ok(())
}

/// A client that writes a whole pod does not mean to take away what was computed.
fn keep(attributes: &Attributes, pod: &mut Value) {
    let Some(old) = attributes.old.and_then(|old| old.get("spec")) else { return };
    let spec = child(pod, "spec");
    for field in ["priority", "preemptionPolicy"] {
        if spec.get(field).is_none_or(Value::is_null)
            && let Some(value) = old.get(field)
        {
            set(spec, field, value.clone());
        }
    }
}

fn value_of(class: &Value) -> i64 {
    class.get("value").and_then(Value::as_i64).unwrap_or(0)
}

fn is_default(class: &Value) -> bool {
    class.get("globalDefault").and_then(Value::as_bool).unwrap_or(false)
}

/// Of several defaults, which only a race can make, the lowest.
fn default_class(reader: &dyn Reader) -> Option<Arc<Value>> {
    let classes = reader.list(&resources::PRIORITY_CLASS, "");
    classes.into_iter().filter(|class| is_default(class)).min_by_key(|class| value_of(class))
}

pub(super) fn validate(attributes: &Attributes, class: Option<&Value>, reader: &dyn Reader) -> Result<(), ApiError> {
    let writes = matches!(attributes.operation, Operation::Create | Operation::Update);
    if *attributes.resource != resources::PRIORITY_CLASS || !writes || !class.is_some_and(is_default) {
        return Ok(());
    }
    let name = |class: &Value| text(&class["metadata"], "name").to_owned();
    let other = default_class(reader).map(|other| name(&other)).filter(|other| *other != attributes.key.name);
    match other {
        None => Ok(()),
        Some(other) => Err(attributes
            .forbidden(format!("PriorityClass {other} is already marked as default. Only one default can exist"))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{
        super::fixture::{Objects, filled, refusal},
        *,
    };

    fn classes() -> Objects {
        Objects::default()
            .with(
                resources::PRIORITY_CLASS,
                json!({"metadata": {"name": "hi"}, "value": 1000, "preemptionPolicy": "Never"}),
            )
            .with(resources::PRIORITY_CLASS, json!({"metadata": {"name": "usual"}, "value": 5, "globalDefault": true}))
    }

    #[test]
    fn names_become_numbers() {
        for (objects, spec, expected) in [
            (Objects::default(), json!({}), Ok((0, "PreemptLowerPriority"))),
            (classes(), json!({}), Ok((5, "PreemptLowerPriority"))),
            (classes(), json!({"priorityClassName": "hi"}), Ok((1000, "Never"))),
            (
                classes(),
                json!({"priorityClassName": "no"}),
                Err("pods \"x\" is forbidden: no PriorityClass with name no was found"),
            ),
            (
                classes(),
                json!({"priorityClassName": "hi", "priority": 3}),
                Err(
                    "pods \"x\" is forbidden: the integer value of priority (3) must not be provided in pod spec; priority admission controller computed 1000 from the given PriorityClass name",
                ),
            ),
        ] {
            let found = filled(fill, &resources::POD, json!({ "spec": spec }), &objects);
            let found = found.as_ref().map(|pod| (value_at(pod, "priority"), text(&pod["spec"], "preemptionPolicy")));
            assert_eq!(found.map_err(String::as_str), expected);
        }
    }

    fn value_at(pod: &Value, field: &str) -> i64 {
        pod["spec"][field].as_i64().unwrap()
    }

    #[test]
    fn one_default_at_most() {
        let class = json!({"metadata": {"name": "x"}, "globalDefault": true});
        assert!(
            refusal(validate, &resources::PRIORITY_CLASS, &class, &classes()).contains("already marked as default")
        );
        assert_eq!(refusal(validate, &resources::PRIORITY_CLASS, &class, &Objects::default()), "");
    }
}
