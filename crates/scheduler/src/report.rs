//! Says of a pod why it waits: the PodScheduled condition in its status, in the words that
//! the decision gave.

use api_types::{
    jiff::Timestamp,
    k8s::core::{ObjectReference, Pod},
};
use serde_json::{Value, json};

use crate::facts::PodFacts;

/// What to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// `Unschedulable`, `SchedulingGated` or `SchedulerError`.
    pub reason: &'static str,
    pub message: String,
    /// The node that the pod waits for; empty takes back what was said before.
    pub nominated_node: Option<String>,
}

/// The status patch that says it; `None` if the pod says so already.
pub fn patch(pod: &Pod, finding: &Finding, now: Timestamp) -> Option<Value> {
    let status = pod.status.clone().unwrap_or_default();
    let conditions = status.conditions.unwrap_or_default();
    let old = conditions.iter().find(|condition| condition.type_ == "PodScheduled");
    let says_so = old.is_some_and(|old| {
        (old.status.as_str(), old.reason.as_deref(), old.message.as_deref())
            == ("False", Some(finding.reason), Some(&finding.message))
    });
    let nominated = status.nominated_node_name.unwrap_or_default();
    let nomination = finding.nominated_node.as_ref().filter(|node| **node != nominated);
    if says_so && nomination.is_none() {
        return None;
    }
    let since = old.filter(|old| old.status == "False").and_then(|old| old.last_transition_time.as_ref());
    let mut patch = json!({"status": {"conditions": [{
        "type": "PodScheduled",
        "status": "False",
        "reason": finding.reason,
        "message": finding.message,
        "lastProbeTime": null,
        "lastTransitionTime": second(since.map_or(now, |time| time.0)),
        "observedGeneration": pod.metadata.generation,
    }]}});
    if let Some(node) = nomination {
        patch["status"]["nominatedNodeName"] = if node.is_empty() { Value::Null } else { json!(node) };
    }
    Some(patch)
}

/// Times of conditions are whole seconds.
pub fn second(time: Timestamp) -> String {
    Timestamp::from_second(time.as_second()).unwrap_or(time).to_string()
}

/// Names the pod in an event.
pub fn reference(pod: &PodFacts) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        namespace: Some(pod.id.key.namespace.clone()),
        name: Some(pod.id.key.name.clone()),
        uid: Some(pod.id.uid.clone()),
        resource_version: Some(pod.id.resource_version.clone()),
        field_path: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(message: &str, nominated_node: Option<&str>) -> Finding {
        Finding {
            reason: "Unschedulable",
            message: message.to_owned(),
            nominated_node: nominated_node.map(str::to_owned),
        }
    }

    fn patched(status: Value, finding: &Finding) -> Option<Value> {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "status": status})).unwrap();
        patch(&pod, finding, Timestamp::from_second(100).unwrap()).map(|patch| patch["status"].clone())
    }

    #[test]
    fn the_same_is_not_said_twice() {
        let condition = json!([{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "m",
            "lastTransitionTime": "1970-01-01T00:00:07Z"}]);
        let said = || json!({"conditions": condition.clone(), "nominatedNodeName": "n"});
        assert_eq!(patched(said(), &finding("m", None)), None);
        assert_eq!(patched(said(), &finding("m", Some("n"))), None);
        let taken_back = patched(said(), &finding("m", Some(""))).unwrap();
        assert_eq!(taken_back["nominatedNodeName"], Value::Null);
        let changed = patched(said(), &finding("other", None)).unwrap();
        assert_eq!(changed["conditions"][0]["lastTransitionTime"], "1970-01-01T00:00:07Z");
    }

    #[test]
    fn the_first_time_is_now() {
        let first = patched(json!({}), &finding("m", Some("n"))).unwrap();
        assert_eq!(first["conditions"][0]["lastTransitionTime"], "1970-01-01T00:01:40Z");
        assert_eq!(first["nominatedNodeName"], "n");
    }
}
