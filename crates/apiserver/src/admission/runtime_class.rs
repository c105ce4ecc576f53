//! A pod's runtime class adds its overhead, and the nodes where it can run.
//!
//! Source: plugin/pkg/admission/runtimeclass.

use std::sync::Arc;

use api_types::{ApiError, Key, resources};
use serde_json::Value;

use super::Attributes;
use crate::{
    reader::Reader,
    rules::edit::{child, is_present, list, map, set, text, text_at},
};

fn class_of(attributes: &Attributes, pod: &Value, reader: &dyn Reader) -> Result<Option<Arc<Value>>, ApiError> {
    let name = text_at(pod, "/spec/runtimeClassName");
    if name.is_empty() {
        return Ok(None);
    }
    match reader.get(&resources::RUNTIME_CLASS, &Key::cluster(name)) {
        None => Err(attributes.forbidden(format!("pod rejected: RuntimeClass {name:?} not found"))),
        class => Ok(class),
    }
}

pub(super) fn fill(attributes: &Attributes, pod: &mut Value, reader: &dyn Reader) -> Result<(), ApiError> {
    if !attributes.creates(&resources::POD) {
        return Ok(());
    }
    let Some(class) = class_of(attributes, pod, reader)? else { return Ok(()) };
    let spec = child(pod, "spec");
    if let Some(overhead) = class.pointer("/overhead/podFixed") {
        if is_present(spec, "overhead") && spec["overhead"] != *overhead {
            return Err(
                attributes.forbidden("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")
            );
        }
        set(spec, "overhead", overhead.clone());
    }
    let Some(scheduling) = class.get("scheduling") else { return Ok(()) };
    for (key, value) in map(scheduling, "nodeSelector") {
        let selector = child(spec, "nodeSelector");
        if is_present(selector, key) && selector[key] != *value {
            let asked = text(selector, key);
            let wanted = value.as_str().unwrap_or_default();
            return Err(attributes.forbidden(format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {wanted}, pod.spec.nodeSelector[{key}] = {asked}"
            )));
        }
        set(selector, key, value.clone());
    }
    let mut tolerations = list(spec, "tolerations").to_vec();
    for toleration in list(scheduling, "tolerations") {
        if !tolerations.contains(toleration) {
            tolerations.push(toleration.clone());
        }
    }
    if !tolerations.is_empty() {
        set(spec, "tolerations", tolerations);
    }
    Ok(())
}

pub(super) fn validate(attributes: &Attributes, pod: Option<&Value>, reader: &dyn Reader) -> Result<(), ApiError> {
    let Some(pod) = pod.filter(|_| attributes.creates(&resources::POD)) else { return Ok(()) };
    let overhead = &pod["spec"]["overhead"];
    if overhead.as_object().is_none_or(serde_json::Map::is_empty) {
        return Ok(());
    }
    let class = class_of(attributes, pod, reader)?;
    if class.is_none_or(|class| class.pointer("/overhead/podFixed").is_none()) {
        let why = "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead";
        return Err(attributes.forbidden(why));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{
        super::fixture::{Objects, filled, refusal},
        *,
    };

    #[test]
    fn a_class_adds_what_it_costs_and_where_it_runs() {
        let class = json!({"metadata": {"name": "r"}, "overhead": {"podFixed": {"cpu": "1"}},
            "scheduling": {"nodeSelector": {"a": "b"}, "tolerations": [{"key": "k"}]}});
        let objects = Objects::default().with(resources::RUNTIME_CLASS, class);
        let pod = filled(fill, &resources::POD, json!({"spec": {"runtimeClassName": "r"}}), &objects).unwrap();
        assert_eq!(
            pod["spec"],
            json!({"runtimeClassName": "r", "overhead": {"cpu": "1"}, "nodeSelector": {"a": "b"}, "tolerations": [{"key": "k"}]})
        );
        let unknown = filled(fill, &resources::POD, json!({"spec": {"runtimeClassName": "s"}}), &objects);
        assert_eq!(unknown.unwrap_err(), "pods \"x\" is forbidden: pod rejected: RuntimeClass \"s\" not found");
        let free = json!({"spec": {"overhead": {"cpu": "1"}}});
        assert!(refusal(validate, &resources::POD, &free, &objects).contains("without corresponding RuntimeClass"));
    }
}
