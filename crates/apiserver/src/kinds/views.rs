//! The resources that are two views of one store: core/v1 and events.k8s.io/v1 Events,
//! autoscaling/v2 and autoscaling/v1 HorizontalPodAutoscalers. Pure functions over JSON.

use api_types::{Resource, resources};
use serde_json::{Map, Value, json};

use super::View;

/// The row whose version `resource` is stored in, and how to convert if that is another one.
pub(super) fn stored_as<'a>(resource: &'a Resource, all: &'a [Resource]) -> (&'a Resource, Option<View>) {
    for (served, stored, view) in [
        (&resources::EVENTS_EVENT, &resources::EVENT, EVENTS),
        (&resources::HORIZONTAL_POD_AUTOSCALER_V1, &resources::HORIZONTAL_POD_AUTOSCALER, AUTOSCALING_V1),
    ] {
        if resource == served
            && let Some(stored) = all.iter().find(|row| *row == stored)
        {
            return (stored, Some(view));
        }
    }
    (resource, None)
}

const EVENTS: View = View {
    from_stored: |event| {
        rename(event, EVENT_FIELDS.iter().map(|(core, events)| (*core, *events)));
        // The core version writes these out even when they are empty.
        for field in ["reportingController", "reportingInstance"] {
            if event[field] == "" {
                event.as_object_mut().map(|event| event.remove(field));
            }
        }
        set_type(event, "events.k8s.io/v1", "Event");
    },
    to_stored: |event| {
        rename(event, EVENT_FIELDS.iter().map(|(core, events)| (*events, *core)));
        set_type(event, "v1", "Event");
    },
    stored_field: |field| {
        for (core, events) in EVENT_FIELDS {
            if let Some(rest) = field.strip_prefix(events)
                && (rest.is_empty() || rest.starts_with('.'))
            {
                return format!("{core}{rest}");
            }
        }
        field.to_owned()
    },
};

/// Source: pkg/apis/events/v1/conversion.go.
const EVENT_FIELDS: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

fn rename<'a>(object: &mut Value, fields: impl Iterator<Item = (&'a str, &'a str)>) {
    let Some(object) = object.as_object_mut() else { return };
    for (from, to) in fields {
        if let Some(value) = object.remove(from) {
            object.insert(to.to_owned(), value);
        }
    }
}

fn set_type(object: &mut Value, api_version: &str, kind: &str) {
    if let Some(object) = object.as_object_mut() {
        object.insert("apiVersion".to_owned(), api_version.into());
        object.insert("kind".to_owned(), kind.into());
    }
}

const AUTOSCALING_V1: View =
    View { from_stored: autoscaler_to_v1, to_stored: autoscaler_to_v2, stored_field: str::to_owned };

/// What v1 has no field for travels in these annotations.
///
/// Source: pkg/apis/autoscaling/annotations.go; the values are kept in v2's form.
const ASIDE: &[(&str, &str, &str)] = &[
    ("spec", "metrics", "autoscaling.alpha.kubernetes.io/metrics"),
    ("spec", "behavior", "autoscaling.alpha.kubernetes.io/behavior"),
    ("status", "currentMetrics", "autoscaling.alpha.kubernetes.io/current-metrics"),
    ("status", "conditions", "autoscaling.alpha.kubernetes.io/conditions"),
];

/// What a metric of a pod's CPU holds for its mean utilisation: `target` in a spec, `current` in a status.
fn cpu_utilization(metric: &Value, side: &str) -> Option<i64> {
    let resource = metric.get("resource")?;
    (resource.get("name")? == "cpu").then(|| resource.get(side)?.get("averageUtilization")?.as_i64()).flatten()
}

fn autoscaler_to_v1(autoscaler: &mut Value) {
    for (part, list, side, field) in [
        ("spec", "metrics", "target", "targetCPUUtilizationPercentage"),
        ("status", "currentMetrics", "current", "currentCPUUtilizationPercentage"),
    ] {
        let Some(part) = autoscaler.get_mut(part).and_then(Value::as_object_mut) else { continue };
        let Some(metrics) = part.get_mut(list).and_then(Value::as_array_mut) else { continue };
        if let Some(at) = metrics.iter().position(|metric| cpu_utilization(metric, side).is_some()) {
            let percentage = cpu_utilization(&metrics.remove(at), side);
            if metrics.is_empty() {
                part.remove(list);
            }
            part.insert(field.to_owned(), percentage.into());
        }
    }
    for (part, field, annotation) in ASIDE {
        let aside = autoscaler.get_mut(*part).and_then(Value::as_object_mut).and_then(|part| part.remove(*field));
        let aside = aside.filter(|aside| !aside.is_null());
        if let Some(annotations) = aside.as_ref().and_then(|_| annotations(autoscaler)) {
            annotations.insert((*annotation).to_owned(), aside.unwrap_or_default().to_string().into());
        }
    }
    // v1 shows this even when it is zero.
    if let Some(status) = autoscaler.get_mut("status").and_then(Value::as_object_mut) {
        status.entry("currentReplicas").or_insert(0.into());
    }
    set_type(autoscaler, "autoscaling/v1", "HorizontalPodAutoscaler");
}

fn autoscaler_to_v2(autoscaler: &mut Value) {
    for (part, field, annotation) in ASIDE {
        let text = annotations(autoscaler).and_then(|annotations| annotations.remove(*annotation));
        let Some(value) = text.as_ref().and_then(Value::as_str).and_then(|text| serde_json::from_str(text).ok()) else {
            continue;
        };
        let value: Value = value;
        if let Some(object) = autoscaler.as_object_mut()
            && let Some(part) = object.entry(*part).or_insert_with(|| json!({})).as_object_mut()
        {
            part.insert((*field).to_owned(), value);
        }
    }
    if annotations(autoscaler).is_some_and(|annotations| annotations.is_empty()) {
        autoscaler["metadata"].as_object_mut().map(|metadata| metadata.remove("annotations"));
    }
    for (part, list, side, field) in [
        ("spec", "metrics", "target", "targetCPUUtilizationPercentage"),
        ("status", "currentMetrics", "current", "currentCPUUtilizationPercentage"),
    ] {
        let Some(part) = autoscaler.get_mut(part).and_then(Value::as_object_mut) else { continue };
        let Some(percentage) = part.remove(field) else { continue };
        let mut value = json!({ "averageUtilization": percentage });
        if side == "target" {
            value["type"] = "Utilization".into();
        }
        let metric = json!({ "type": "Resource", "resource": { "name": "cpu", side: value } });
        if let Some(metrics) = part.entry(list).or_insert_with(|| json!([])).as_array_mut() {
            metrics.insert(0, metric);
        }
    }
    set_type(autoscaler, "autoscaling/v2", "HorizontalPodAutoscaler");
}

fn annotations(object: &mut Value) -> Option<&mut Map<String, Value>> {
    object.get_mut("metadata")?.as_object_mut()?.entry("annotations").or_insert_with(|| json!({})).as_object_mut()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_seen_twice() {
        let stored = json!({"apiVersion":"v1","kind":"Event","metadata":{"name":"e"},"involvedObject":{"kind":"Pod"},
            "message":"m","count":3,"type":"Normal"});
        let mut event = stored.clone();
        (EVENTS.from_stored)(&mut event);
        assert_eq!(
            event,
            json!({"apiVersion":"events.k8s.io/v1","kind":"Event","metadata":{"name":"e"},"regarding":{"kind":"Pod"},
                "note":"m","deprecatedCount":3,"type":"Normal"})
        );
        (EVENTS.to_stored)(&mut event);
        assert_eq!(event, stored);
        assert_eq!((EVENTS.stored_field)("regarding.name"), "involvedObject.name");
        assert_eq!((EVENTS.stored_field)("reason"), "reason");
    }

    #[test]
    fn an_autoscaler_survives_the_way_through_v1() {
        let stored = json!({"apiVersion":"autoscaling/v2","kind":"HorizontalPodAutoscaler","metadata":{"name":"h"},
            "spec":{"maxReplicas":3,"behavior":{"scaleUp":{}},"metrics":[
                {"type":"Resource","resource":{"name":"cpu","target":{"type":"Utilization","averageUtilization":50}}},
                {"type":"Pods","pods":{}}]}});
        let mut autoscaler = stored.clone();
        autoscaler_to_v1(&mut autoscaler);
        assert_eq!(autoscaler["spec"], json!({"maxReplicas":3,"targetCPUUtilizationPercentage":50}));
        autoscaler_to_v2(&mut autoscaler);
        assert_eq!(autoscaler, stored);
    }
}
