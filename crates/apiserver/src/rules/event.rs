//! Events: every field shows, and each can be selected by what it is about.
//!
//! Source: pkg/registry/core/event/strategy.go, pkg/apis/core/validation/events.go.

use api_types::{
    k8s::{core::Event, events},
    names,
};
use serde_json::Value;

use super::{
    PLAIN, Rules, check,
    edit::{child, fill, text, text_at},
    path::{Errors, Path, text as some_text},
};

const ACTION_MAX: usize = 128;
const REASON_MAX: usize = 128;
const NOTE_MAX: usize = 1024;

pub const RULES: Rules = Rules {
    default,
    selectable,
    selectable_names: &[
        "involvedObject.kind",
        "involvedObject.namespace",
        "involvedObject.name",
        "involvedObject.uid",
        "involvedObject.apiVersion",
        "involvedObject.resourceVersion",
        "involvedObject.fieldPath",
        "reason",
        "reportingComponent",
        "source",
        "type",
    ],
    validate: |event| check(event, validate),
    create_on_update: true,
    ..PLAIN
};

/// The same objects under the names of events.k8s.io.
pub const NEWER: Rules = Rules {
    default: |event| {
        child(event, "regarding");
        child(event, "deprecatedSource");
        show(event, ["deprecatedFirstTimestamp", "deprecatedLastTimestamp", "eventTime"]);
    },
    validate: |event| check(event, validate_newer),
    create_on_update: true,
    ..PLAIN
};

fn show(event: &mut Value, times: [&str; 3]) {
    for time in times {
        if let Some(event) = event.as_object_mut() {
            event.entry(time).or_insert(Value::Null);
        }
    }
}

/// Fields that upstream always sends, if only as `null` or empty.
fn default(event: &mut Value) {
    child(event, "involvedObject");
    child(event, "source");
    show(event, ["firstTimestamp", "lastTimestamp", "eventTime"]);
    for field in ["reportingComponent", "reportingInstance"] {
        fill(event, field, "");
    }
}

/// An event lies in the namespace of what it is about, or in the default one. Events in the newer way, which
/// bear `eventTime`, must be complete.
fn validate(event: &Event, errors: &mut Errors) {
    let about = some_text(&event.involved_object.namespace);
    same_namespace(some_text(&event.metadata.namespace), about, "involvedObject.namespace", errors);
    if event.event_time.is_some() {
        let parts =
            [&event.reporting_component, &event.reporting_instance, &event.action, &event.reason, &event.message];
        complete(parts.map(some_text), errors);
    }
}

fn validate_newer(event: &events::Event, errors: &mut Errors) {
    let about = event.regarding.as_ref().map(|object| some_text(&object.namespace)).unwrap_or_default();
    same_namespace(some_text(&event.metadata.namespace), about, "regarding.namespace", errors);
    if event.event_time.is_none() {
        return errors.required(&Path::root("eventTime"), "");
    }
    let parts = [&event.reporting_controller, &event.reporting_instance, &event.action, &event.reason, &event.note];
    complete(parts.map(some_text), errors);
}

fn same_namespace(namespace: &str, about: &str, field: &str, errors: &mut Errors) {
    let path = Path::root(field);
    if about.is_empty() {
        if !matches!(namespace, "" | "default" | "kube-system") {
            errors.invalid(&path, about, "does not match event.namespace");
        }
    } else if about != namespace {
        errors.invalid(&path, about, "does not match event.namespace");
    }
}

fn complete([component, instance, action, reason, note]: [&str; 5], errors: &mut Errors) {
    match component {
        "" => errors.required(&Path::root("reportingController"), ""),
        component => {
            errors.invalid_all(&Path::root("reportingController"), component, names::qualified_name(component))
        }
    }
    for (field, value, max) in
        [("reportingInstance", instance, ACTION_MAX), ("action", action, ACTION_MAX), ("reason", reason, REASON_MAX)]
    {
        match value.len() {
            0 => errors.required(&Path::root(field), ""),
            long if long > max => errors.invalid(&Path::root(field), "", format!("can have at most {max} characters")),
            _ => {}
        }
    }
    if note.len() > NOTE_MAX {
        errors.invalid(&Path::root("message"), "", format!("can have at most {NOTE_MAX} characters"));
    }
}

fn selectable(event: &Value) -> Vec<(&'static str, String)> {
    let source = match text_at(event, "/source/component") {
        "" => text(event, "reportingComponent"),
        component => component,
    };
    [
        ("involvedObject.kind", text_at(event, "/involvedObject/kind")),
        ("involvedObject.namespace", text_at(event, "/involvedObject/namespace")),
        ("involvedObject.name", text_at(event, "/involvedObject/name")),
        ("involvedObject.uid", text_at(event, "/involvedObject/uid")),
        ("involvedObject.apiVersion", text_at(event, "/involvedObject/apiVersion")),
        ("involvedObject.resourceVersion", text_at(event, "/involvedObject/resourceVersion")),
        ("involvedObject.fieldPath", text_at(event, "/involvedObject/fieldPath")),
        ("reason", text(event, "reason")),
        ("reportingComponent", text(event, "reportingComponent")),
        ("source", source),
        ("type", text(event, "type")),
    ]
    .into_iter()
    .map(|(name, value)| (name, value.to_owned()))
    .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_field_shows() {
        let mut event = json!({"reason": "R"});
        default(&mut event);
        assert_eq!(
            event,
            json!({"reason": "R", "involvedObject": {}, "source": {}, "firstTimestamp": null, "lastTimestamp": null,
                "eventTime": null, "reportingComponent": "", "reportingInstance": ""})
        );
    }
}
