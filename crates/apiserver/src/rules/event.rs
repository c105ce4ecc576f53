//! Events: every field shows, and each can be selected by what it is about.
//!
//! Source: pkg/registry/core/event/strategy.go, pkg/apis/core/validation/events.go.

use serde_json::Value;

use super::{
    PLAIN, Rules,
    edit::{child, fill, text, text_at},
};

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
    create_on_update: true,
    ..PLAIN
};

/// Fields that upstream always sends, if only as `null` or empty.
fn default(event: &mut Value) {
    child(event, "involvedObject");
    child(event, "source");
    for time in ["firstTimestamp", "lastTimestamp", "eventTime"] {
        if let Some(event) = event.as_object_mut() {
            event.entry(time).or_insert(Value::Null);
        }
    }
    for field in ["reportingComponent", "reportingInstance"] {
        fill(event, field, "");
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
