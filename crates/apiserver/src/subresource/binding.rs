//! Binding a pod to a node: once, and only while it may still be scheduled.
//!
//! Source: `BindingREST` and `setPodNodeAndMetadata` in kubernetes/pkg/registry/core/pod/storage/storage.go.

use api_types::{ApiError, FieldError, Key, k8s::core, options::WriteOptions};
use futures::future::BoxFuture;
use serde_json::{Value, json};

use super::{key, success, trusted, write};
use crate::{
    admission,
    verbs::{
        Changed,
        create::now,
        hook::{Answer, Call},
    },
};

/// POST of a Binding to `pods/{name}/binding`, or to `bindings` with the pod's name in it.
pub fn bind(call: Call, mut binding: Value) -> BoxFuture<'static, Result<Answer, ApiError>> {
    Box::pin(async move {
        let options = WriteOptions::for_create(&call.request.query)?;
        let named = key(&call);
        let name = binding["metadata"]["name"].as_str().unwrap_or_default();
        if !named.name.is_empty() && !name.is_empty() && named.name != name {
            return Err(ApiError::bad_request("name in URL does not match name in Binding object"));
        }
        let pod = Key::new(named.namespace, if named.name.is_empty() { name } else { &named.name });
        let errors = errors(&binding);
        if !errors.is_empty() {
            return Err(ApiError::invalid("", "Binding", &pod.name, &errors));
        }
        let node = binding["target"]["name"].as_str().unwrap_or_default().to_owned();
        admission::copy_topology_labels(&node, &mut binding, &*call.server.cache);
        let at = now();
        let change = |old: &Value| {
            let object = bound(old, &binding, &at).map_err(|why| conflict(&pod.name, &why))?;
            Ok(Changed::new(object))
        };
        let mut ask = write::<core::Pod>(&call.server, &call.user, pod.clone(), "binding");
        ask.rules = trusted(ask.rules);
        ask.update(&change, &options).await?;
        Ok(Answer::created(success()))
    })
}

fn conflict(name: &str, why: &str) -> ApiError {
    let message = format!("Operation cannot be fulfilled on pods/binding \"{name}\": {why}");
    ApiError::new(409, "Conflict", message).with_object("", "pods/binding", name)
}

fn errors(binding: &Value) -> Vec<FieldError> {
    let target = &binding["target"];
    let mut errors = Vec::new();
    let kind = target["kind"].as_str().unwrap_or_default();
    if !kind.is_empty() && kind != "Node" {
        errors.push(FieldError::not_supported("target.kind", kind, &["Node", "<empty>"]));
    }
    if target["name"].as_str().unwrap_or_default().is_empty() {
        errors.push(FieldError::required("target.name", ""));
    }
    errors
}

/// The pod as bound; `Err` says why it cannot be.
fn bound(pod: &Value, binding: &Value, now: &str) -> Result<Value, String> {
    let (meta, wanted) = (&pod["metadata"], &binding["metadata"]);
    let name = meta["name"].as_str().unwrap_or_default();
    for (field, word) in [("uid", "UID"), ("resourceVersion", "ResourceVersion")] {
        if let Some(wanted) = wanted[field].as_str().filter(|text| !text.is_empty())
            && meta[field] != wanted
        {
            let found = meta[field].as_str().unwrap_or_default();
            return Err(format!(
                "Precondition failed: {word} in precondition: {wanted}, {word} in object meta: {found}"
            ));
        }
    }
    if meta["deletionTimestamp"].is_string() {
        return Err(format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    if let Some(node) = pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty()) {
        return Err(format!("pod {name} is already assigned to node {node:?}"));
    }
    if pod["spec"]["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty()) {
        return Err(format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    let mut bound = pod.clone();
    bound["spec"]["nodeName"] = binding["target"]["name"].clone();
    for (key, value) in wanted["annotations"].as_object().into_iter().flatten() {
        bound["metadata"]["annotations"][key] = value.clone();
    }
    // Labels of the node's topology; those that the pod has are its own.
    for (key, value) in wanted["labels"].as_object().into_iter().flatten() {
        if bound["metadata"]["labels"].get(key).is_none() {
            bound["metadata"]["labels"][key] = value.clone();
        }
    }
    if let Some(status) = bound["status"].as_object_mut() {
        status.remove("nominatedNodeName");
    }
    set_scheduled(&mut bound, now);
    Ok(bound)
}

fn set_scheduled(pod: &mut Value, now: &str) {
    let condition = json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now});
    let conditions = &mut pod["status"]["conditions"];
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    let conditions = conditions.as_array_mut().expect("made a list above");
    match conditions.iter_mut().find(|condition| condition["type"] == "PodScheduled") {
        Some(old) if old["status"] == "True" => {
            let since = old["lastTransitionTime"].clone();
            *old = condition;
            old["lastTransitionTime"] = since;
        }
        Some(old) => *old = condition,
        None => conditions.push(condition),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binding() -> Value {
        json!({"metadata": {"name": "p", "annotations": {"a": "b"}, "labels": {"zone": "z"}}, "target": {"kind": "Node", "name": "n1"}})
    }

    #[test]
    fn a_pod_is_bound_once() {
        let pod = json!({
            "metadata": {"name": "p", "uid": "u", "labels": {"zone": "own"}}, "spec": {},
            "status": {"nominatedNodeName": "n2", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]},
        });
        let bound_pod = bound(&pod, &binding(), "now").expect("binds");
        assert_eq!(bound_pod["spec"]["nodeName"], "n1");
        assert_eq!(bound_pod["metadata"]["annotations"], json!({"a": "b"}));
        assert_eq!(bound_pod["metadata"]["labels"], json!({"zone": "own"}));
        assert_eq!(
            bound_pod["status"],
            json!({"conditions": [{"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": "now"}]})
        );
        let again = bound(&bound_pod, &binding(), "later").expect_err("bound");
        assert_eq!(again, "pod p is already assigned to node \"n1\"");
        assert_eq!(
            conflict("p", &again).message(),
            "Operation cannot be fulfilled on pods/binding \"p\": pod p is already assigned to node \"n1\""
        );
    }

    #[test]
    fn who_cannot_be_bound() {
        let mut other = binding();
        other["metadata"]["uid"] = json!("v");
        for (pod, binding, expected) in [
            (
                json!({"metadata": {"name": "p", "deletionTimestamp": "t"}}),
                binding(),
                "pod p is being deleted, cannot be assigned to a host",
            ),
            (
                json!({"metadata": {"name": "p"}, "spec": {"schedulingGates": [{"name": "g"}]}}),
                binding(),
                "pod p has non-empty .spec.schedulingGates",
            ),
            (
                json!({"metadata": {"name": "p", "uid": "u"}}),
                other,
                "Precondition failed: UID in precondition: v, UID in object meta: u",
            ),
        ] {
            assert_eq!(bound(&pod, &binding, "now").expect_err("refused"), expected);
        }
    }

    #[test]
    fn a_binding_names_a_node() {
        let fields = |binding: Value| errors(&binding).into_iter().map(|error| error.field).collect::<Vec<_>>();
        assert!(fields(binding()).is_empty());
        assert_eq!(fields(json!({"target": {"kind": "Pod"}})), ["target.kind", "target.name"]);
        assert!(fields(json!({"target": {"name": "n"}})).is_empty());
    }
}
